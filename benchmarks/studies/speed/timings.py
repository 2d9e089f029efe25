"""Representative timings of one source tree, made in a process of its own for speed_against.py.

Only public names are imported, and arguments that were renamed are found by their signature, so that the same file times
old and new trees. Commands come on standard input: ``build NAME`` prepares a timing and answers with the seconds of one
warm call; ``time N`` makes N calls and answers with the mean seconds of one.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, OfflineOracle, ResolvingAllocator, SaturatingUtility
from cero_alloc.baselines import PEERS

Timed = Callable[[], float]  # makes one call and returns its seconds

ROUNDS = 100_000  # more than any timing plays
UNIT = next(n for n in ("unit_size", "group_size") if n in inspect.signature(FenchelDualAllocator).parameters)


def clocked(call: Callable[[], object]) -> Timed:
    """Return a call that is timed as a whole."""

    def timed() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return timed


def bank_of(n_prompts: int) -> BetaPosteriorBank:
    """Return a bank with 8 rollouts of every prompt."""
    bank = BetaPosteriorBank(n_prompts)
    bank.update(None, 8 * np.random.default_rng(1).random(n_prompts), np.full(n_prompts, 8))
    return bank


def rounds_of(policy: Any, offers: Iterator[np.ndarray | None]) -> Timed:
    """Return rounds of a policy: the decisions and the feedback are timed, the rewards are not."""
    rates = np.random.default_rng(0).random(len(policy.bank))

    def timed() -> float:
        rows = next(offers)
        start = time.perf_counter()
        counts = policy.allocate(rows)
        spent = time.perf_counter() - start
        if not counts.any():
            raise SystemExit("a round dealt nothing, so that its time means nothing")
        p = rates if rows is None else rates[rows]
        while counts.any():
            successes = np.rint(p * counts)
            start = time.perf_counter()
            if hasattr(policy, "continue_round"):
                counts = policy.continue_round(counts, successes)
            else:
                policy.update(rows, successes, counts)
                counts = counts[:0]
            spent += time.perf_counter() - start
        return spent

    return timed


def whole_pool() -> Iterator[None]:
    """Offer the whole pool in every round."""
    while True:
        yield None


def batches(n_prompts: int, size: int) -> Iterator[np.ndarray]:
    """Offer distinct random rows in every round."""
    rng = np.random.default_rng(2)
    while True:
        yield rng.choice(n_prompts, size, replace=False)


def algorithm_1(n_prompts: int) -> Timed:
    """Return rounds of Algorithm 1 over the whole pool, 8 rollouts for 1,024 prompts or a quarter of the pool."""
    each = 8 * min(1024, n_prompts // 4)
    run = {"total_budget": ROUNDS * each, "n_rounds": ROUNDS, "max_rollouts": 8, "round_capacity": each, UNIT: 4}
    return rounds_of(FenchelDualAllocator(bank_of(n_prompts), **run), whole_pool())


def resolving(n_prompts: int = 10_000, batch: int = 0, **settings: Any) -> Timed:
    """Return rounds of the re-solving allocator over batches, or over the whole pool with 8,192 rollouts each."""
    if batch:
        visits = 2_000
        run: dict[str, Any] = {"total_budget": 8 * visits * n_prompts, "visits": visits, "max_rollouts": 16}
        return rounds_of(ResolvingAllocator(bank_of(n_prompts), **{**run, **settings}), batches(n_prompts, batch))
    run = {"total_budget": 8192 * ROUNDS, "n_rounds": ROUNDS, "max_rollouts": 8}
    return rounds_of(ResolvingAllocator(bank_of(n_prompts), **{**run, **settings}), whole_pool())


def bank_update(n_prompts: int, size: int | None) -> Timed:
    """Return the feedback of 8 rollouts for some random prompts, or for all of them."""
    bank = bank_of(n_prompts)
    rows = None if size is None else next(batches(n_prompts, size))
    n = np.full(n_prompts if size is None else size, 8)
    successes = np.rint(8 * np.random.default_rng(3).random(n.size))
    return clocked(lambda: bank.update(rows, successes, n))


def metrics(certificate: bool) -> Timed:
    """Return the metrics of Algorithm 1 over 10,000 prompts."""
    run = {"total_budget": 8 * 10_000 * 100, "n_rounds": 100, "max_rollouts": 8}
    allocator = FenchelDualAllocator(bank_of(10_000), **run)
    counts = allocator.allocate()
    allocator.update(None, counts // 2, counts)
    return clocked(lambda: allocator.metrics(certificate=certificate))


def oracle() -> Timed:
    """Return the optimum of 100,000 prompts with caps."""
    q = np.random.default_rng(4).uniform(0.0, 0.25, 100_000)
    solve = OfflineOracle(SaturatingUtility()).solve
    return clocked(lambda: solve(q, 8.0 * q.size, equal_share=8.0, upper=32.0))


def peer(rule: Any) -> Timed:
    """Return rounds of a published rule over 256 prompts, the waves of a round included."""
    run = {"total_budget": 8 * 256 * ROUNDS, "n_rounds": ROUNDS, "max_rollouts": 32}
    return rounds_of(rule(bank_of(256), **run), whole_pool())


def replayed() -> Timed:
    """Return the reading and the replay of a log of 100 prompts, 20 steps of 25 groups of 8."""
    try:
        from cero_alloc.replay import read_log, replay
    except ModuleNotFoundError:  # older trees have both in another public module
        from cero_alloc.simulation import read_log, replay

    rng = np.random.default_rng(5)
    lines = ["prompt_id,step,trials,successes"]
    for step in range(20):
        lines += [f"p{i},{step},8,{rng.integers(0, 9)}" for i in rng.permutation(100)[:25]]
    file = Path(tempfile.mkdtemp()) / "log.csv"
    file.write_text("\n".join(lines) + "\n")
    return clocked(lambda: replay(read_log(file), n_boot=50))


TIMINGS: dict[str, Callable[[], Timed]] = {
    "Algorithm 1, round, 64 prompts": lambda: algorithm_1(64),
    "Algorithm 1, round, 10,000 prompts": lambda: algorithm_1(10_000),
    "Algorithm 1, round, 1,000,000 prompts": lambda: algorithm_1(1_000_000),
    "re-solving, round, 10,000 prompts, single rollouts": resolving,
    "re-solving, round, 10,000 prompts, groups of 8": lambda: resolving(min_rollouts=8),
    "re-solving, round, 10,000 prompts, groups of 8, spread": lambda: resolving(min_rollouts=8, order="spread"),
    "re-solving, batch of 256, units of 4": lambda: resolving(batch=256, **{UNIT: 4}),
    "re-solving, batch of 256, groups from 2": lambda: resolving(batch=256, min_rollouts=2),
    "re-solving, batch of 256, groups of 8": lambda: resolving(batch=256, min_rollouts=8, max_rollouts=8),
    "bank.update, 256 of 100,000 prompts": lambda: bank_update(100_000, 256),
    "bank.update, all 100,000 prompts": lambda: bank_update(100_000, None),
    "metrics(), 10,000 prompts": lambda: metrics(True),
    "metrics(certificate=False), 10,000 prompts": lambda: metrics(False),
    "OfflineOracle.solve, 100,000 prompts": oracle,
    **{f"{rule.__name__}, round, 256 prompts": lambda rule=rule: peer(rule) for rule in PEERS},
    "read_log and replay, 500 lines": replayed,
}


def serve() -> None:
    """Answer the commands of standard input."""
    timed: Timed = clocked(lambda: None)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "build":
            timed = TIMINGS[argument]()
            timed()  # loads or compiles the kernels; a second call may still compile some
            timed()
            print(timed(), flush=True)
        else:
            print(sum(timed() for _ in range(int(argument))) / int(argument), flush=True)


if __name__ == "__main__":
    serve()
