"""Beliefs that move, and advantages: what they cost beside a belief at rest."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from cero_alloc import BetaPosteriorBank
from studies.speed.clock import Clocked, Scope, in_turn, sort_pass
from studies.speed.report import Row, left_out, ratio
from studies.speed.rounds import pool_run

MOTIONS = {"rest": {}, "drift": {"drift": 1e-5}, "trend": {"drift": 1e-5, "trend": 0.01}}
ROLLOUTS, POOL = 512, 8192  # of a call of advantages, and prompts of its bank


def motion(scope: Scope) -> list[Row]:
    """Section 11: rounds of Algorithm 1 over the pool under a drift and a trend, and advantages of a round's rollouts."""
    n = 100_000 if scope.quick else 1_000_000
    runs = {name: pool_run(n, **rates) for name, rates in MOTIONS.items()}
    times = in_turn({name: run.full for name, run in runs.items()}, scope.repeats)
    sizes = {name: held(run.allocator.bank) for name, run in runs.items()}
    rows = [
        ratio(f"round with a drift / at rest, {n:,} prompts", times["drift"], times["rest"], "x", 1.05),
        ratio(f"round with drift and trend / at rest, {n:,} prompts", times["trend"], times["rest"], "x", 1.5),
        Row("bytes per prompt of a drift", [(sizes["drift"] - sizes["rest"]) / n], "bytes", 0.0),
        Row("bytes per prompt of drift and trend", [(sizes["trend"] - sizes["rest"]) / n], "bytes", 12.0),
    ]
    del runs
    calls: dict[str, Clocked] = {"sort": sort_pass(ROLLOUTS)}
    for groups in (64, ROLLOUTS):
        for method in ("advantages", "observe"):
            calls[f"{method}, {ROLLOUTS} rollouts of {groups} prompts"] = scoring(method, groups)
    times = in_turn(calls, scope.repeats, least=0.02)
    for name, seconds in times.items():
        if name != "sort":
            beside = f"{np.median(seconds / times['sort']):.1f} np.argsort of {ROLLOUTS}"
            target = 200.0 if name.startswith("advantages") else 300.0
            rows.append(Row(name, 1e6 * seconds, "us", target, beside=beside, seconds=seconds))
    return [*rows, left_out("pool of 1,000,000", "quick")] if scope.quick else rows


def held(bank: BetaPosteriorBank) -> int:
    """Return the bytes of the arrays with an entry per prompt."""
    parts = vars(bank.evidence).values()
    return sum(part.nbytes for part in parts if isinstance(part, np.ndarray) and len(part) == len(bank))


def scoring(method: str, groups: int) -> Clocked:
    """Return a call that scores the rollouts of some prompts with string ids, drift and trend."""
    bank = BetaPosteriorBank([f"prompt-{i}" for i in range(POOL)], drift=1e-4, trend=0.02)
    batches = drawn(groups)

    def call() -> float:
        ids, rewards = next(batches)
        bank.tick()
        start = time.perf_counter()
        getattr(bank, method)(ids, rewards)
        return time.perf_counter() - start

    return call


def drawn(groups: int) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield the ids of the rollouts of a round, and their rewards."""
    rng = np.random.default_rng(0)
    while True:
        rows = np.repeat(rng.choice(POOL, groups, replace=False), ROLLOUTS // groups)
        yield [f"prompt-{row}" for row in rows], rng.integers(0, 2, ROLLOUTS).astype(np.float64)
