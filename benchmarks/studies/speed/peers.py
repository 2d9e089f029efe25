"""The decision of one round by every method: n prompts, 8 n rollouts, given success rates.

Plain references for published implementations: Knapsack RL's dynamic program, in the loops that are published and in NumPy
(separable_speed.py), a greedy heap for CoBA-RL's value, SLSQP and a convex solver for VIP's variance, and a sort. The
rules of ``cero_alloc.baselines`` decide the same by a threshold.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from cero_alloc import FenchelDualAllocator, ResolvingAllocator
from cero_alloc.baselines import VIP, CoBARL, KnapsackRL
from studies.speed.clock import Clocked, Scope, in_turn, log_pass, warm, whole
from studies.speed.report import FLOOR
from studies.speed.rounds import bank_of
from studies.speed.separable import by_program, by_vector_program, gains_of

PER_PROMPT, LEAST, MOST = 8, 2, 32  # rollouts of a visited prompt: mean, least, most
ROUNDS = 100_000  # more rounds than any run here plays
TAU = 3.0  # rollouts that saturate a prompt, times p (1 - p), in CoBA-RL's value
SLOW, LIMIT = 0.2, 4.0  # seconds: a call above the first is timed once, a call expected above the second is left out
SIZES = (64, 256, 1_024, 10_000, 100_000, 1_000_000, 10_000_000)


def by_heap(p: np.ndarray, budget: int) -> list[int]:
    """Give unit after unit to the largest next gain of 1 - exp(-n p (1 - p) / tau), equal weights."""
    decay = np.exp(-p * (1.0 - p) / TAU)
    gains, factors = ((1.0 - decay) * decay**LEAST).tolist(), decay.tolist()
    counts = [LEAST] * p.size
    heap = [(-gain, i) for i, gain in enumerate(gains)]
    heapq.heapify(heap)
    for _ in range(budget - LEAST * p.size):
        gain, i = heap[0]
        counts[i] += 1
        if counts[i] < MOST:
            heapq.heapreplace(heap, (gain * factors[i], i))
        else:
            heapq.heappop(heap)
    return counts


def by_sort(p: np.ndarray, budget: int) -> np.ndarray:
    """Give the most to the prompts nearest to one half, by a full sort."""
    counts = np.zeros(p.size, dtype=np.int64)
    counts[np.argsort(-p * (1.0 - p))[: budget // MOST]] = MOST
    return counts


def by_slsqp(p: np.ndarray, budget: int) -> np.ndarray:
    """Minimise the summed variance 4 p (1 - p) / (n - 1) of VIP over real counts by SLSQP."""
    from scipy.optimize import minimize

    a = 4.0 * p * (1.0 - p)
    total = {"type": "eq", "fun": lambda n: n.sum() - budget, "jac": np.ones_like}
    found = minimize(
        lambda n: float((a / (n - 1.0)).sum()), np.full(p.size, budget / p.size), jac=lambda n: -a / (n - 1.0) ** 2,
        bounds=[(LEAST, MOST)] * p.size, constraints=[total], method="SLSQP",
    )  # fmt: skip
    counts: np.ndarray = found.x
    return counts


def convex_problem(p: np.ndarray, budget: int) -> Any:
    """Build the same problem in cvxpy; only solving it is timed."""
    import cvxpy as cp

    n = cp.Variable(p.size)
    variance = cp.sum(cp.multiply(4.0 * p * (1.0 - p), cp.inv_pos(n - 1.0)))
    return cp.Problem(cp.Minimize(variance), [cp.sum(n) == budget, n >= LEAST, n <= MOST])


def allocating(kind: Callable[..., Any], n: int, **options: Any) -> Clocked:
    """Return the clocked ``allocate`` of an allocator that has seen 8 rollouts of every prompt; updates do not count."""
    budget = PER_PROMPT * n
    allocator = kind(
        bank_of(n), total_budget=ROUNDS * budget, n_rounds=ROUNDS, max_rollouts=MOST, round_capacity=budget, **options
    )
    counts = np.zeros(n, dtype=np.int64)
    rates = np.random.default_rng(4).random(n)

    def call() -> None:
        counts[:] = allocator.allocate()

    timed = whole(call)

    def clocked() -> float:
        seconds = timed()
        if not counts.any():
            raise SystemExit("a round dealt nothing, so that its time means nothing")
        allocator.update(None, rates * counts, counts)
        return seconds

    return clocked


def rates_of(n: int) -> np.ndarray:
    """Return success rates, equal for all methods."""
    return np.random.default_rng(3).uniform(0.01, 0.99, n)


def _plain(solve: Callable[[np.ndarray, int], object], n: int) -> Clocked:
    p = rates_of(n)
    return whole(lambda: solve(p, PER_PROMPT * n))


def _convex(n: int) -> Clocked:
    problem = convex_problem(rates_of(n), PER_PROMPT * n)
    return whole(lambda: problem.solve(solver="CLARABEL"))


def _program(solve: Callable[[Any, int], list[int]], n: int) -> Clocked:
    gains = gains_of(n, seed=3)
    if solve is by_program:
        gains = gains.tolist()
    return whole(lambda: solve(gains, PER_PROMPT * n))


# Name -> the power of n that its time grows with, and how to build the call.
CONTENDERS: dict[str, tuple[float, Callable[[int], Clocked]]] = {
    "FenchelDualAllocator": (1, partial(allocating, FenchelDualAllocator)),
    "ResolvingAllocator": (1, partial(allocating, ResolvingAllocator)),
    FLOOR: (1, log_pass),
    "NumPy argsort, top k": (1, partial(_plain, by_sort)),
    "Knapsack RL, threshold (baselines)": (1, partial(allocating, KnapsackRL, rollouts_per_visit=PER_PROMPT)),
    "VIP, threshold (baselines)": (1, partial(allocating, VIP, rollouts_per_visit=PER_PROMPT)),
    "CoBA-RL, threshold (baselines)": (1, partial(allocating, CoBARL, rollouts_per_visit=PER_PROMPT)),
    "CoBA-RL, greedy heap": (1, partial(_plain, by_heap)),
    "VIP, cvxpy + Clarabel": (1, _convex),
    "VIP, SLSQP": (3, partial(_plain, by_slsqp)),
    "Knapsack RL, dynamic program, NumPy": (2, partial(_program, by_vector_program)),
    "Knapsack RL, dynamic program, loops": (2, partial(_program, by_program)),
}


def race(scope: Scope, sizes: tuple[int, ...] = SIZES, limit: float = LIMIT) -> dict[str, dict[int, np.ndarray]]:
    """Section 9: return the seconds of a decision, name -> prompts -> one per repeat."""
    found: dict[str, dict[int, np.ndarray]] = {name: {} for name in CONTENDERS}
    expected = dict.fromkeys(CONTENDERS, 0.0)
    if scope.quick:
        sizes, limit = tuple(n for n in sizes if n in (64, 1_024, 10_000)), 0.5
    for n, before in zip(sizes, (sizes[0], *sizes), strict=False):
        together: dict[str, Clocked] = {}
        for name, (power, build) in CONTENDERS.items():
            expected[name] *= (n / before) ** power
            if expected[name] <= limit:
                call = build(n)
                expected[name] = warm(call) if n == sizes[0] else call()
                if expected[name] > SLOW:
                    found[name][n] = np.array([expected[name]])
                else:
                    together[name] = call
        for name, times in in_turn(together, scope.repeats).items():
            found[name][n] = times
            expected[name] = float(np.median(times))
    return found
