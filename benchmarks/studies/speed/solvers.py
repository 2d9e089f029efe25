"""The oracle, the simulator, and the calls between rounds."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from cero_alloc import BetaPosteriorBank, OfflineOracle, SaturatingUtility
from cero_alloc.simulation import Pool, static_pool
from studies.regret import runs as paper
from studies.speed.clock import MOST, SCRIPTS, Clocked, Scope, in_turn, log_pass, whole
from studies.speed.report import Row, left_out, ratio
from studies.speed.rounds import bank_of, pool_run

SHARE, UPPER = 4.0, 16.0  # budget per prompt, and most of one prompt
HEIGHT = SaturatingUtility(scaling="height")  # with "rate" scaling the convex solver fails at this size


def values_of(n: int) -> np.ndarray:
    """Return values of prompts whose rates are uniform."""
    p = np.random.default_rng(5).random(n)
    return p * (1.0 - p)


class ConvexPeer:
    """The continuous oracle problem in cvxpy, built once; scaled to equal shares, which the solver needs to converge."""

    def __init__(self, q: np.ndarray) -> None:
        import cvxpy as cp

        self.q = q
        self._x = cp.Variable(q.size)
        worth = cp.sum(cp.multiply(4.0 * q, 1.0 - cp.exp(-self._x)))
        self._problem = cp.Problem(
            cp.Maximize(worth), [cp.sum(self._x) <= q.size, self._x >= 0.0, self._x <= UPPER / SHARE]
        )
        self._problem.get_problem_data("CLARABEL")  # translated here, so that only solving is timed

    def solve(self) -> None:
        """Solve it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._problem.solve(solver="CLARABEL")

    def gap(self, ceiling: float) -> float:
        """Return how far below ``ceiling``, relative to it, the solution is once it is feasible."""
        x = np.clip(self._x.value, 0.0, UPPER / SHARE)
        x *= min(1.0, self.q.size / x.sum())
        return 1.0 - float(HEIGHT.value(self.q, x).sum()) / ceiling


def oracle(scope: Scope) -> list[Row]:
    """Section 4: the oracle, against a convex solver, at 10 million prompts, and in whole units."""

    def solving(n: int, *, integer: bool = False) -> Clocked:
        q = values_of(n)
        run = {"equal_share": SHARE, "upper": UPPER, "integer": integer}
        return whole(lambda: OfflineOracle(HEIGHT).solve(q, SHARE * n, **run))

    n = 10_000 if scope.quick else 100_000
    peer = ConvexPeer(values_of(n))
    calls = {"ours": solving(n), "log": log_pass(n)}
    theirs, ratios, times = [], [], in_turn(calls, scope.repeats)
    while len(theirs) < 3 and sum(theirs) < MOST:  # 10 s a solve
        theirs.append(whole(peer.solve)())
        ratios.append(theirs[-1] / np.median(in_turn(calls, 1)["ours"]))
    result = OfflineOracle(HEIGHT).solve(values_of(n), SHARE * n, equal_share=SHARE, upper=UPPER)
    ceiling = result.optimum + result.gap
    gaps = f"certified relative gaps {peer.gap(ceiling):.0e} and {result.gap / result.optimum:.0e}"
    rows = [
        Row(f"cvxpy + Clarabel / oracle, {n:,}", ratios, "x", 300.0, rising=True, beside=gaps, seconds=theirs),
        ratio(f"continuous, {n:,}", times["ours"], times["log"]),
    ]  # fmt: skip
    if scope.quick:
        return [*rows, left_out("continuous, 10,000,000", "quick"), left_out("whole units, 1,000,000", "quick")]
    for label, size, integer, target in (("continuous", 10**7, False, 5.0), ("whole units", 10**6, True, 2.0)):
        times = in_turn({"ours": solving(size, integer=integer), "log": log_pass(size)}, scope.repeats)
        beside = f"{np.median(times['ours'] / times['log']):.1f} log passes"
        rows.append(Row(f"{label}, {size:,}", times["ours"], "s", target, strict=True, beside=beside))
    return rows


# ---------------------------------------------------------------- simulation


@contextmanager
def watched() -> Iterator[list[tuple[str, float]]]:
    """Note the policy and the seconds of every run that regret_sim.py simulates within the context."""
    seen: list[tuple[str, float]] = []
    simulate = paper.simulate

    def timed(policy: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = simulate(policy, *args, **kwargs)
        blind = "" if kwargs.get("feedback", True) else ", no feedback (the plan of Preset)"
        seen.append((type(policy).__name__ + blind, time.perf_counter() - start))
        return result

    paper.simulate = timed
    try:
        yield seen
    finally:
        paper.simulate = simulate


def simulation(scope: Scope, n_prompts: int = paper.PAPER_POOL) -> list[Row]:
    """Section 8: the paper's run, policy by policy."""
    a = paper.calibrated_shape()
    pool = Pool(static_pool(n_prompts, a, a, seed=0).rates)
    log, repeats = log_pass(n_prompts * paper.PAPER["n_rounds"]), 1 if scope.quick else scope.repeats
    seconds: dict[str, list[float]] = {}
    passes: dict[str, list[float]] = {}
    for repeat in range(1 + repeats):
        with watched() as seen:
            paper.paper_run(pool, 0)
        yard = log()
        for name, spent in seen if repeat else ():  # the first loads kernels
            seconds.setdefault(name, []).append(spent)
            passes.setdefault(name, []).append(spent / yard)
    rows = [
        Row(name, times, "s", 0.4, beside=f"{np.median(passes[name]):.1f} log passes over rounds x prompts")
        for name, times in seconds.items()
    ]
    if not scope.regret_sim:
        return [*rows, left_out("regret_sim.py as a whole, target 45 s", "regret-sim")]
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(SCRIPTS / "regret_sim.py"), "--out", out]
        spent = whole(lambda: subprocess.run(command, check=True, capture_output=True))()
    return [*rows, Row("regret_sim.py as a whole", [spent], "s", 45.0)]


# ---------------------------------------------------------------- between rounds


def between(scope: Scope) -> list[Row]:
    """Section 10: calls that are not made in every round and cost more."""
    n = 100_000 if scope.quick else 1_000_000
    run = pool_run(n)
    run.full()
    few = n // 100  # fewer prompts for slow calls
    fitted, names = bank_of(few), [f"prompt-{i}" for i in range(few)]
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "metrics()": (n, run.allocator.metrics),
        "metrics(certificate=False)": (n, lambda: run.allocator.metrics(certificate=False)),
        "state_dict()": (n, run.allocator.state_dict),
        "fit_prior()": (few, fitted.fit_prior),
        "a new bank with string ids": (few, lambda: BetaPosteriorBank(names)),
    }
    logs = {f"log {size}": log_pass(size) for size in (n, few)}
    times = in_turn({**{name: whole(call) for name, (_, call) in calls.items()}, **logs}, scope.repeats)
    return [ratio(f"{name}, {size:,} prompts", times[name], times[f"log {size}"]) for name, (size, _) in calls.items()]
