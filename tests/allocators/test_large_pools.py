"""Large pools: threads and memory."""

import tracemalloc

import numpy as np
import pytest

from cero_alloc import (
    BetaPosteriorBank,
    FenchelDualAllocator,
    ResolvingAllocator,
    training_allocator,
)
from cero_alloc._solvers import ranking_kernels
from cero_alloc._solvers import remaining as _remaining
from cero_alloc._solvers import threads as _threads
from helpers.jit import either
from studies.speed.process import arrays_of


def large(m, **options):
    """A run that deals to 64 prompts a round."""
    plan = {"total_budget": 512 * 100, "n_rounds": 100, "unit_size": 4, "max_rollouts": 8, "round_capacity": 512}
    return FenchelDualAllocator(BetaPosteriorBank(m, forgetting=0.9), seed=1, **plan, **options)


def play(allocator, rounds, seed=0):
    """Deal and report; return all counts."""
    rng, played = np.random.default_rng(seed), []
    for _ in range(rounds):
        counts = allocator.allocate()
        dealt = np.flatnonzero(counts)
        allocator.update(dealt, rng.binomial(counts[dealt], 0.4), counts[dealt])
        played.append(counts)
    return np.array(played)


@pytest.mark.parametrize("threads", ["1", "2", "3", "7"])
def test_threads_change_nothing(threads, monkeypatch):
    alone = large(5000)
    expected = play(alone, 12)
    monkeypatch.setattr(_threads, "ALONE", 100)
    monkeypatch.setenv("CERO_ALLOC_THREADS", threads)
    together = large(5000)
    assert (play(together, 12) == expected).all()
    assert (together.slopes == alone.slopes).all()
    assert together.price == alone.price


@pytest.mark.parametrize("form", [{}, {"rollouts_per_visit": 4}, {"order": "best"}, {"costs": 2.5}])
@pytest.mark.parametrize("threads", ["2", "3"])
def test_threads_change_nothing_of_a_plan(form, threads, monkeypatch):
    def run():
        options = {"total_budget": 4000, "n_rounds": 10, "max_rollouts": 4} | form
        allocator = (
            training_allocator(5003, **options)
            if "order" not in form and "costs" not in form
            else (ResolvingAllocator(BetaPosteriorBank(5003, forgetting=0.9), exploration=0.5, **options))
        )
        return play(allocator, 6), allocator.price

    monkeypatch.setattr(_remaining, "_STRETCH", 512)
    counts, price = run()
    monkeypatch.setattr(_threads, "ALONE", 100)
    monkeypatch.setenv("CERO_ALLOC_THREADS", threads)
    again, same = run()
    assert (again == counts).all()
    assert same == price > 0.0


def play_mixed(allocator):
    """Rounds over the pool and over batches, as prompts join and a state comes back; return counts and slopes."""
    rng, played = np.random.default_rng(4), []
    for turn in range(14):
        if turn in (3, 9):
            allocator.bank.add_prompts(range(len(allocator.bank), len(allocator.bank) + 700))
        rows = rng.permutation(len(allocator.bank))[:900] if turn in (5, 8) else np.arange(len(allocator.bank))
        counts = allocator.allocate(rows if rows.size == 900 else None)
        allocator.update(rows, rng.binomial(counts, 0.4), counts)
        if turn == 5:
            saved = allocator.state_dict()
        if turn == 7:
            allocator.load_state_dict(saved)
        played += [counts.tolist(), allocator.slopes.tolist()]
    return played


@pytest.mark.parametrize("options", [{}, {"catch_up": True}])
def test_blocks_that_are_not_read_change_nothing(options, monkeypatch):
    m = 80 * ranking_kernels.BLOCK + 3  # more blocks than the 64 prompts of a round
    found = play_mixed(large(m, **options))
    monkeypatch.setattr(ranking_kernels, "BLOCK", 10**9)  # a pool has no block, and all of it is read
    assert found == play_mixed(large(m, **options))


def test_the_number_of_threads(monkeypatch):
    monkeypatch.setenv("CERO_ALLOC_THREADS", "3")
    assert _threads.thread_count() == 3
    for nonsense in ("0", "-1", "many", ""):
        monkeypatch.setenv("CERO_ALLOC_THREADS", nonsense)
        assert 1 <= _threads.thread_count() <= 4
    monkeypatch.setattr(_threads, "ALONE", 1)
    monkeypatch.setenv("CERO_ALLOC_THREADS", "4")
    stretches = _threads.in_stretches(lambda start, stop: (start, stop), 10)
    assert stretches == [(0, 2), (2, 5), (5, 7), (7, 10)]
    assert _threads.in_stretches(lambda start, stop: (start, stop), 10, 4) == [(0, 0), (0, 4), (4, 4), (4, 10)]
    with pytest.raises(ZeroDivisionError):
        _threads.in_stretches(lambda start, stop: 1 // (start - 2), 10)


def test_a_steady_round_allocates_no_more_than_its_answer():
    m = either(200_000, 40_000)
    allocator = large(m)
    play(allocator, 2)
    tracemalloc.start()
    try:
        play(allocator, 1)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        counts = allocator.allocate()
        _, peak = tracemalloc.get_traced_memory()
        dealt = np.flatnonzero(counts)
        tracemalloc.reset_peak()
        between, _ = tracemalloc.get_traced_memory()
        allocator.update(dealt, counts[dealt] / 2, counts[dealt])
        _, after = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before - counts.nbytes < 0.05 * 8 * m
    assert after - between < 0.05 * 8 * m


@pytest.mark.parametrize(("dtype", "most"), [("float64", 48), ("float32", 40)])
@pytest.mark.parametrize("batches", [False, True])
def test_bytes_per_prompt(dtype, most, batches):
    m = either(200_000, 10_000)
    bank = BetaPosteriorBank(m, dtype=dtype)
    plan = {"total_budget": 51200, "n_rounds": 1000, "max_rollouts": 8, "round_capacity": 512}
    allocator = FenchelDualAllocator(bank, visits=5 if batches else None, **plan)
    ids = np.arange(1000) if batches else None
    for _ in range(3):
        counts = allocator.allocate(ids)
        allocator.update(ids, counts / 2, counts)
    assert sum(arrays_of(allocator).values()) / m <= most
