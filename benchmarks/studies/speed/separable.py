"""Time the exact allocation of one batch under Knapsack RL's values: threshold, greedy heap, dynamic programs.

All methods take the same table of gains, for random rates and 2 to 128 rollouts per prompt; the plain Python methods take it
as lists, which are built before the clock starts. Prints the median, least and largest of the repeats,
the ratios to the threshold and whether all reach the same value. The plain dynamic program, whose loops are the
published ones, is timed once.
"""

from __future__ import annotations

import argparse
import heapq
import math
import statistics
import time
from collections.abc import Callable

import numpy as np

from cero_alloc._numba import KERNELS
from cero_alloc.baselines._separable import best_counts

LEAST, MOST = 2, 128  # rollouts per prompt, as published
HEAP_TARGET, PROGRAM_TARGET = 20.0, 1000.0


def gains_of(n_prompts: int, seed: int) -> np.ndarray:
    """Return what rollout n + 1 adds to V(n, p) = (1 - p^n - (1-p)^n) p (1-p)^2."""
    p = np.random.default_rng(seed).uniform(0.01, 0.99, n_prompts)[:, None]
    n = np.arange(MOST)
    return (p**n * (1 - p) + (1 - p) ** n * p) * p * (1 - p) ** 2


def by_heap(gains: list[list[float]], budget: int) -> list[int]:
    """Give unit after unit to the largest next gain."""
    counts = [LEAST] * len(gains)
    heap = [(-row[LEAST], i) for i, row in enumerate(gains)]
    heapq.heapify(heap)
    for _ in range(budget - LEAST * len(gains)):
        _, i = heap[0]
        counts[i] += 1
        if counts[i] < MOST:
            heapq.heapreplace(heap, (-gains[i][counts[i]], i))
        else:
            heapq.heappop(heap)
    return counts


def by_program(gains: list[list[float]], budget: int) -> list[int]:
    """Dynamic program over prompts and rollouts beyond the least, in plain loops."""
    budget -= LEAST * len(gains)
    best, choices = [0.0] + [-math.inf] * budget, []
    for row in gains:
        worth = [0.0]
        for gain in row[LEAST:]:
            worth.append(worth[-1] + gain)
        grown, choice = [-math.inf] * (budget + 1), [0] * (budget + 1)
        for spent in range(budget + 1):
            for k in range(min(len(worth), spent + 1)):
                value = best[spent - k] + worth[k]
                if value > grown[spent]:
                    grown[spent], choice[spent] = value, k
        best = grown
        choices.append(choice)
    return backtrack(choices, budget)


def by_vector_program(gains: np.ndarray, budget: int) -> list[int]:
    """Compute the same, all budgets at once in numpy."""
    budget -= LEAST * len(gains)
    best, choices = np.full(budget + 1, -np.inf), []
    best[0] = 0.0
    for worth in np.cumsum(gains[:, LEAST:], axis=1):
        grown, choice = best.copy(), np.zeros(budget + 1, dtype=np.int64)
        for k in range(1, min(worth.size, budget) + 1):
            value = best[:-k] + worth[k - 1]
            better = value > grown[k:]
            np.copyto(grown[k:], value, where=better)
            choice[k:][better] = k
        best = grown
        choices.append(choice)
    return backtrack(choices, budget)


def backtrack(choices: list, budget: int) -> list[int]:
    """Read the counts off the choices of every prompt at every budget."""
    counts = []
    for choice in reversed(choices):
        k = int(choice[budget])
        counts.append(LEAST + k)
        budget -= k
    return counts[::-1]


def seconds(call: Callable[[], object], repeats: int, prepare: Callable[[], object] = lambda: None) -> list[float]:
    """Return the time of each repeat; ``prepare`` is not counted."""
    times = []
    for _ in range(repeats):
        prepare()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def show(label: str, times: list[float], *base: float) -> None:
    """Print one row: seconds, and the ratio of the median to each base."""
    ratios = "".join(f"  {statistics.median(times) / b:>9,.1f}x" for b in base)
    spread = f"{1e3 * statistics.median(times):>10.3f} {1e3 * min(times):>10.3f} {1e3 * max(times):>10.3f}"
    print(f"{label:<44} {spread}{ratios}")


def verdict(ratio: float, target: float) -> str:
    """Word a ratio against its target."""
    return f"{ratio:,.1f}x, target {target:,.0f}x: {'met' if ratio >= target else 'MISSED'}"


def race(n_prompts: int, budget: int, methods: dict[str, tuple[Callable, int]], repeats: int, seed: int) -> dict:
    """Time every method on one instance, print the table, and return the ratio of each to the threshold."""
    gains = gains_of(n_prompts, seed)
    table = gains.tolist()
    lower, upper, tie = np.full(n_prompts, LEAST), np.full(n_prompts, MOST), np.arange(n_prompts)
    counts = best_counts(gains, lower, upper, budget, tie)
    falling = np.where(np.arange(MOST) < LEAST, np.inf, gains)
    slopes, cost = np.minimum.accumulate(falling, axis=1), np.ones(1)
    units, upto, trial = lower.copy(), upper.copy(), np.empty((2, n_prompts), dtype=np.int64)

    def prepare() -> None:
        units[:], upto[:] = lower, upper

    print(f"\n{n_prompts} prompts, {budget:,} rollouts")
    print(f"{'milliseconds':<44} {'median':>10} {'least':>10} {'largest':>10}  {'/ whole':>10}  {'/ kernel':>10}")
    many = 10 * repeats
    whole = seconds(lambda: best_counts(gains, lower, upper, budget, tie), many)
    alone = seconds(lambda: KERNELS["clear_slopes"](slopes, cost, float(budget), units, upto, trial), many, prepare)
    base = statistics.median(whole), statistics.median(alone)
    if not (units == counts).all():
        raise SystemExit("the kernel alone ends elsewhere")
    show("threshold, best_counts", whole)
    show("threshold, the kernel alone", alone)
    value = math.fsum(gain for row, n in zip(table, counts, strict=True) for gain in row[:n])
    ratios = {}
    for label, (method, times) in methods.items():
        given, theirs = gains if method is by_vector_program else table, []
        spent = seconds(lambda g=given, r=method, t=theirs: t.append(r(g, budget)), times)
        show(f"{label}, {times} times", spent, *base)
        ratios[method] = statistics.median(spent) / base[0]
        worth = math.fsum(gain for row, n in zip(table, theirs[-1], strict=True) for gain in row[:n])
        same = sum(theirs[-1]) == counts.sum() == budget and math.isclose(worth, value, rel_tol=1e-12)
        print(f"    value {worth:.12g} against {value:.12g}: {'equal' if same else 'NOT EQUAL'}")
        if not same:
            raise SystemExit("the allocations differ in value")
    return ratios


def main() -> None:
    """Run both instances and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="repeats of each method (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the rates (default %(default)s)")
    args = parser.parse_args()
    greedy = race(512, 8192, {"greedy on a heap": (by_heap, args.repeats)}, args.repeats, args.seed)
    programs = {
        "dynamic program, plain loops": (by_program, 1),
        "dynamic program, numpy": (by_vector_program, args.repeats),
    }
    exact = race(256, 2048, programs, args.repeats, args.seed)
    print(f"\nheap / best_counts            {verdict(greedy[by_heap], HEAP_TARGET)}")
    print(f"plain program / best_counts   {verdict(exact[by_program], PROGRAM_TARGET)}")
    print(f"numpy program / best_counts   {exact[by_vector_program]:,.1f}x")
