"""FenchelDualAllocator with catch_up: the budget left over by earlier rounds is dealt along the same ranking."""

import numpy as np
import pytest

from cero_alloc import (
    BetaPosteriorBank,
    FenchelDualAllocator,
)
from cero_alloc._solvers.ranking import counts_of
from helpers.fenchel_dual import random_run


def proposal_of(allocator):
    _, size, places, proposed = allocator._open
    units = np.zeros(size, dtype=np.int64)
    units[places] = counts_of(places, proposed, allocator.horizon.max_units)
    return units * allocator.horizon.unit_size


def test_catch_up_is_off_by_default():
    for seed in range(60):
        instance = random_run(np.random.default_rng(seed), visits=bool(seed % 2))
        default, off = instance["make"](), instance["make"](False)
        for _ in range(instance["n_rounds"]):
            counts = default.allocate()
            assert counts.tolist() == off.allocate().tolist()
            if default._open is not None and counts.sum():
                assert (counts <= proposal_of(default)).all()
            wins = counts * instance["rates"]
            default.update(None, wins, counts)
            off.update(None, wins, counts)
        assert (default.price, default.slopes.tolist()) == (off.price, off.slopes.tolist())


def test_catch_up_spends_the_last_unit():
    stranded = 0
    for seed in range(320):
        rng = np.random.default_rng(seed)
        instance = random_run(rng)
        ours, plain = instance["make"](True), instance["make"](False)
        for _ in range(instance["n_rounds"]):
            left = ours.remaining_budget
            counts = ours.allocate()
            plain.update(None, np.zeros(counts.size), plain.allocate())
            assert counts.max() <= instance["max_rollouts"]
            assert counts.sum() <= ours.horizon.round_capacity
            if left and counts.sum() < left:
                assert (counts >= proposal_of(ours)).all()
            ours.update(None, rng.binomial(counts, instance["rates"]), counts)
        assert ours.remaining_budget == 0
        stranded += plain.remaining_budget > 0
    assert stranded > 100, "without catch-up most of these runs strand something"


def test_catch_up_leaves_the_dual_path_alone():
    caught = 0
    for seed in range(120):
        instance = random_run(np.random.default_rng(seed), known=True, visits=bool(seed % 2))
        ours, plain = instance["make"](True), instance["make"](False)
        offers = np.random.default_rng(seed)
        for _ in range(instance["n_rounds"]):
            offered = np.flatnonzero(offers.random(instance["M"]) < 0.7) if instance["batch"] else None
            counts, same = ours.allocate(offered), plain.allocate(offered)
            if ours.ledger.finished or plain.ledger.finished:
                break  # the one that is out of budget opens no more rounds
            assert (ours.slopes.tolist(), ours.price) == (plain.slopes.tolist(), plain.price)
            caught += counts.tolist() != same.tolist()
    assert caught > 50


def test_catch_up_with_visits_strands_nothing():
    for seed in range(120):
        rng = np.random.default_rng(seed)
        instance = random_run(rng, visits=True)
        allocator = instance["make"](True)
        # Every prompt is offered in as many different rounds as planned, at random.
        rounds = [rng.permutation(instance["n_rounds"])[:n] for n in instance["visits"]]
        for k in range(instance["n_rounds"]):
            offered = rng.permutation(np.array([i for i in range(instance["M"]) if k in rounds[i]], dtype=int))
            counts = allocator.allocate(offered)
            assert counts.max(initial=0) <= instance["max_rollouts"]
            allocator.update(offered, counts * instance["rates"][offered], counts)
        assert allocator.remaining_budget == 0, seed


def test_catch_up_keeps_to_a_rounds_own_cap_and_to_exact_totals():
    make = lambda: FenchelDualAllocator(  # noqa: E731
        BetaPosteriorBank(4), total_budget=40, n_rounds=10, max_rollouts=4, initial_price=1.0, catch_up=True
    )
    capped, exact = make(), make()
    for k in range(10):
        assert capped.allocate(budget=3).sum() <= 3
        total = min(k, exact.remaining_budget)
        assert exact.allocate(budget=total, exact=True).sum() == total
    assert capped.remaining_budget >= 10


def test_catch_up_does_not_touch_exact_rounds():
    for seed in range(60):
        instance = random_run(np.random.default_rng(seed))
        ours, plain = instance["make"](True), instance["make"](False)
        totals = np.random.default_rng(seed)
        for _ in range(instance["n_rounds"]):
            if ours.ledger.finished:
                break
            most = min(ours.horizon.capacity_units, ours.ledger.units_left)
            total = int(totals.integers(0, most + 1)) * instance["unit_size"]
            counts = ours.allocate(budget=total, exact=True)
            assert counts.tolist() == plain.allocate(budget=total, exact=True).tolist()
        assert (ours.slopes.tolist(), ours.price) == (plain.slopes.tolist(), plain.price)


def test_catch_up_deals_down_the_same_ranking():
    bank = BetaPosteriorBank(4, prior=([1e9, 2e9, 3e9, 5e9], [9e9, 8e9, 7e9, 5e9]))
    allocator = FenchelDualAllocator(
        bank, total_budget=24, n_rounds=2, max_rollouts=4, initial_price=1.0, catch_up=True, step_size=(1e-9, 1e-9)
    )
    assert allocator.allocate().tolist() == [0, 0, 4, 4]  # 16 is all that the last round can spend
    assert allocator.metrics()["batch_price"] == pytest.approx(4 * 0.21, rel=1e-6)
    assert allocator.metrics()["starved"] == -1.0
    assert allocator.allocate().tolist() == [4, 4, 4, 4]
