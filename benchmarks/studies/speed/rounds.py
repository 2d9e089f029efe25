"""Rounds of the two allocators: over the whole pool, over a batch, and on one thread or as many as there are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cero_alloc import (
    AllocationWarning,
    BetaPosteriorBank,
    FenchelDualAllocator,
    ResolvingAllocator,
    SaturatingUtility,
    training_allocator,
)
from cero_alloc._solvers import remaining as _remaining
from cero_alloc._solvers import units_kernels
from studies.speed.clock import Clocked, Scope, in_turn, log_pass, sort_pass, whole, with_studies
from studies.speed.report import Row, left_out, ratio

warnings.simplefilter("ignore", AllocationWarning)  # of the fractions, see Run

GROUP, MOST = 4, 8  # rollouts of a unit, and most of a prompt in a round
DEALT = 1024  # prompts of a round
ROLLOUTS = 512  # of a call of observe
POOL_ROUNDS, BATCH_ROUNDS = 20_000, 40_000  # more rounds than any run here plays
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)


class Run:
    """An allocator in the middle of a run, whose rounds are timed; drawing ids and rewards is not.

    Rewards are fractions, so that values are all different and no ranking is decided by ties, unless ``evidence`` is
    False: then no prompt has evidence, and all but a few tie.
    """

    def __init__(self, allocator: Any, *, evidence: bool = True, seed: int = 0) -> None:
        self.allocator = allocator
        size = len(allocator.bank)
        self.rates = np.random.default_rng(seed).random(min(size, 1_000_000))

    def full(self, *, dense: bool = False) -> float:
        """Return the seconds of a round over the pool: ``allocate``, and ``update`` with the prompts that were dealt, or with all."""
        start = time.perf_counter()
        counts = self.allocator.allocate()
        spent = time.perf_counter() - start
        told = np.flatnonzero(counts)
        if not told.size:
            raise SystemExit("a round dealt nothing, so that its time means nothing")
        if dense:
            return spent + self._report(None, np.arange(counts.size), counts)
        return spent + self._report(told, told, counts[told])

    def batch(self, ids: Any, rows: np.ndarray) -> float:
        """Return the seconds of a round over a batch."""
        start = time.perf_counter()
        counts = self.allocator.allocate(ids)
        spent = time.perf_counter() - start
        if not counts.any():
            raise SystemExit("a round dealt nothing, so that its time means nothing")
        return spent + self._report(ids, rows, counts)

    def batches(self, offers: Iterator[tuple[Any, np.ndarray]]) -> Clocked:
        """Return a call that plays the next batch."""
        return lambda: self.batch(*next(offers))

    def _report(self, ids: Any, rows: np.ndarray, counts: np.ndarray) -> float:
        successes = self.rates[rows % self.rates.size] * counts
        start = time.perf_counter()
        self.allocator.update(ids, successes, counts)
        return time.perf_counter() - start


def floor_pass(run: Run) -> Clocked:
    """Return what no round over the pool can do without, by NumPy: its state read and written once, and a logarithm per prompt."""
    allocator = run.allocator
    evidence, size = allocator.bank.evidence, len(allocator.bank)
    held = [allocator.slopes, allocator._tie, allocator.ledger.accounts, evidence.outcomes, evidence.ticks]
    state = [(part.copy(), part.copy()) for part in held]
    x, out = np.random.default_rng(0).uniform(0.01, 1.0, size), np.empty(size)

    def once() -> None:
        for source, target in state:
            np.copyto(target, source)
        np.log(x, out=out)

    return whole(once)


def on_one_thread(call: Clocked) -> Clocked:
    """Return the call as it is where threads are off."""

    def alone() -> float:
        before = os.environ.get("CERO_ALLOC_THREADS")
        os.environ["CERO_ALLOC_THREADS"] = "1"
        try:
            return call()
        finally:
            del os.environ["CERO_ALLOC_THREADS"]
            if before is not None:
                os.environ["CERO_ALLOC_THREADS"] = before

    return alone


def bank_of(prompts: Any, *, evidence: bool = True, **options: Any) -> BetaPosteriorBank:
    """Return a bank, with 8 rollouts of every prompt where ``evidence``."""
    bank = BetaPosteriorBank(prompts, **options)
    if evidence:
        size = len(bank)
        bank.update(None, MOST * np.random.default_rng(1).random(size), np.full(size, MOST))
    return bank


def pool_run(n_prompts: int, kind: type = FenchelDualAllocator, *, utility: str = "exponential", **bank: Any) -> Run:
    """Return a run that deals 8 rollouts to 1,024 prompts of the pool in each round (Resolving: 8 or 4 to more)."""
    per_round = MOST * min(DEALT, n_prompts // 4)
    plan = {"total_budget": POOL_ROUNDS * per_round, "n_rounds": POOL_ROUNDS, "round_capacity": per_round}
    allocator = kind(
        bank_of(n_prompts, **bank), unit_size=GROUP, max_rollouts=MOST, utility=SaturatingUtility(utility), **plan
    )
    return Run(allocator)


def batch_run(prompts: Any, kind: type = FenchelDualAllocator, visits: int | None = None, **bank: Any) -> Run:
    """Return a run in the batch form: 1,024 prompts are offered in each round, with a budget of 8 rollouts each."""
    held = bank_of(prompts, **bank)
    visits = visits or max(1, BATCH_ROUNDS * DEALT // len(held))
    rounds = max(1, visits * len(held) // DEALT)
    plan = {"total_budget": visits * len(held) * MOST, "n_rounds": rounds, "visits": visits}
    return Run(kind(held, unit_size=GROUP, max_rollouts=2 * MOST, **plan))


def training_run(n_prompts: int, rollouts_per_visit: int, *, fractions: bool = False, batches: bool = False) -> Run:
    """Return a run of the recommended allocator, with 1,024 visits of the pool in each round, or 256 of a batch of 1,024.

    Rewards so far are 0 and 1, so that many prompts have equal evidence, unless ``fractions``: then all values differ.
    """
    budget = POOL_ROUNDS * rollouts_per_visit * min(DEALT, n_prompts // 4) // (4 if batches else 1)
    allocator = training_allocator(
        n_prompts, total_budget=budget, n_rounds=POOL_ROUNDS, rollouts_per_visit=rollouts_per_visit
    )
    rng = np.random.default_rng(1)
    rates = rng.random(n_prompts)
    told = MOST * rates if fractions else rng.binomial(MOST, rates)
    allocator.bank.update(None, told, np.full(n_prompts, MOST))
    return Run(allocator)


def state_pass(run: Run) -> Clocked:
    """Return the least that a round over the pool can cost in NumPy: every array of its state read once, one log per prompt."""
    bank, ledger = run.allocator.bank, run.allocator.ledger
    state = [part for part in (bank.evidence.outcomes, bank.evidence.ticks, ledger.exposure_units) if part is not None]
    x, out = np.random.default_rng(0).uniform(0.01, 1.0, len(bank)), np.empty(len(bank))

    def once() -> None:
        for part in state:
            part.sum()
        np.log(x, out=out)

    return whole(once)


def offers(
    n_prompts: int, form: Callable[[np.ndarray], Any] = lambda rows: rows, seed: int = 2
) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield batches of distinct random ids, in the form that a trainer has them, each with its rows."""
    rng = np.random.default_rng(seed)
    while True:
        rows = rng.choice(n_prompts, min(DEALT, n_prompts), replace=False)
        yield form(rows), rows


# ---------------------------------------------------------------- the sections of the report


def full_pool(scope: Scope) -> list[Row]:
    """Section 1: rounds of Algorithm 1 over the whole pool."""
    rows = []
    sizes = SIZES[:2] if scope.quick else SIZES
    standard = 1_000_000
    for n in sizes:
        run = pool_run(n)
        calls: dict[str, Clocked] = {"round": run.full, "log": log_pass(n)}
        if n >= standard:
            calls |= {"alone": on_one_thread(run.full), "floor": floor_pass(run)}
        times = in_turn(calls, scope.repeats)
        target = 3.0 if n == standard else None
        label = f"round, {n:,} prompts"
        rows.append(ratio(label, times["round"], times["log"], target=target))
        if n >= standard:
            rows.append(
                ratio(f"  on one thread, beside its floor, {n:,}", times["alone"], times["floor"], "floors", 1.5)
            )
    if scope.quick:
        rows += [left_out(f"round, {n:,} prompts", "quick") for n in SIZES[2:]]
        standard = sizes[-1]
    run = pool_run(standard)
    extra = [100.0 * allocated(run) / (8 * standard) for _ in range(2 + scope.repeats)][2:]
    rows.append(
        Row(f"memory allocated beside the counts, {standard:,} prompts", extra, "% of 8 M bytes", 1.0, strict=True)
    )
    variants = {
        "every prompt reported, update(None, ...)": (pool_run(standard), True),
        "forgetting 0.98": (pool_run(standard, forgetting=0.98), False),
        "hyperbolic utility": (pool_run(standard, utility="hyperbolic"), False),
        "no evidence yet: all prompts tie": (pool_run(standard, evidence=False), False),
    }
    calls = {name: lambda r=run, d=dense: r.full(dense=d) for name, (run, dense) in variants.items()}
    times = in_turn({**calls, "log": log_pass(standard)}, scope.repeats)
    for name in variants:
        rows.append(ratio(f"  {name}, {standard:,}", times[name], times["log"]))
    return rows


def allocated(run: Run) -> int:
    """Return the bytes at the peak of a round, beside those of the counts that it returns."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        counts = run.allocator.allocate()
        peak = tracemalloc.get_traced_memory()[1] - before - counts.nbytes
        told = np.flatnonzero(counts)
        dealt = counts[told]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        run.allocator.update(told, 0.5 * dealt, dealt)
        return max(peak, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()


def batch_rounds(scope: Scope) -> list[Row]:
    """Section 2: rounds of Algorithm 1 over a batch."""
    small, large = 10_000, 1_000_000 if scope.quick else 10_000_000
    runs = {n: batch_run(n) for n in (small, large)}
    fading = batch_run(large, forgetting=0.98)
    times = in_turn(
        {
            "small": runs[small].batches(offers(small)),
            "large": runs[large].batches(offers(large)),
            "list": runs[large].batches(offers(large, np.ndarray.tolist, seed=3)),
            "fading": fading.batches(offers(large)),
            "sort": sort_pass(DEALT),
        },
        scope.repeats,
        least=0.02,
    )
    del runs, fading

    def row(label: str, name: str, target: float, yard: str) -> Row:
        beside = f"{np.median(times[name] / times[yard]):.1f} {YARDS[yard]}"
        return Row(label, 1e6 * times[name], "us", target, beside=beside, seconds=times[name])

    rows = [
        ratio(f"time of {large:,} / time of {small:,} prompts", times["large"], times["small"], "x", 1.3),
        row(f"int ids, array, {small:,}", "small", 150.0, "sort"),
        row(f"int ids, array, {large:,}", "large", 150.0, "sort"),
        row(f"int ids, Python list, {large:,}", "list", 150.0, "sort"),
        row(f"forgetting 0.98, {large:,}", "fading", 150.0, "sort"),
    ]
    if scope.quick:
        return [*rows, left_out("string ids", "quick"), left_out("pool of 10,000,000", "quick")]
    n = scope.string_pool
    names = [f"prompt-{i:08d}" for i in range(n)]
    table = {name: row for row, name in enumerate(names)}
    named, looked = (offers(n, lambda rows: [names[row] for row in rows]) for _ in range(2))

    def look_up() -> float:
        batch, _ = next(looked)
        start = time.perf_counter()
        for name in batch:
            table[name]
        return time.perf_counter() - start

    run = batch_run(names)
    times |= in_turn({"names": run.batches(named), "look-up": look_up}, scope.repeats, least=0.02)
    rows.append(row(f"string ids, list, {n:,}", "names", 500.0, "look-up"))
    rows += string_ids(run, names, table, scope)
    if n < 10_000_000:
        rows.append(left_out("string ids, 10,000,000", "string-pool 10000000"))
    return rows


def string_ids(run: Run, names: list[str], table: dict[str, int], scope: Scope) -> list[Row]:
    """Return the rows of string ids: the look-up of a new batch with all checks, and ``observe`` of what a round dealt."""
    index, n = run.allocator.bank.index, len(names)
    batches = offers(n, lambda rows: [names[row] for row in rows], seed=5)
    rng = np.random.default_rng(6)

    def timed(look_up: Callable[[list[str]], object]) -> Clocked:
        def call() -> float:
            batch, _ = next(batches)
            start = time.perf_counter()
            look_up(batch)
            return time.perf_counter() - start

        return call

    def observed(prompts: int) -> Clocked:
        def call() -> float:
            rows = rng.choice(n, prompts, replace=False)
            run.allocator.allocate([names[row] for row in rows], ROLLOUTS)
            ids = [names[row] for row in rng.permutation(np.repeat(rows, ROLLOUTS // prompts))]
            rewards = rng.integers(0, 2, ROLLOUTS).astype(np.float64)
            start = time.perf_counter()
            run.allocator.observe(ids, rewards)
            return time.perf_counter() - start

        return call

    calls = {
        "rows": timed(index.unique_rows),
        "look-up": timed(lambda batch: list(map(table.__getitem__, batch))),
        "single": observed(ROLLOUTS),
        "groups": observed(ROLLOUTS // 8),
    }
    times = in_turn(calls, scope.repeats, least=0.02)
    label = f"rows of 1,024 new string ids, checked, {n:,} / a pass of dict look-ups"
    rows = [ratio(label, times["rows"], times["look-up"], "x", 2.0)]
    for name, form in (("single", "single"), ("groups", "in groups of 8")):
        label, seconds = f"observe, {ROLLOUTS} rollouts, {form}, string ids, {n:,}", times[name]
        beside = f"{np.median(seconds / times['look-up']):.2f} {YARDS['look-up']}"
        rows.append(Row(label, 1e6 * seconds, "us", 300.0, beside=beside, seconds=seconds))
    return rows


YARDS = {"sort": "np.argsort of 1,024", "look-up": "passes of 1,024 dict look-ups"}


def resolving(scope: Scope) -> list[Row]:
    """Section 3: rounds of the re-solving allocator."""
    n = 100_000 if scope.quick else 1_000_000
    run = pool_run(n, ResolvingAllocator)
    times = in_turn({"round": run.full, "log": log_pass(n)}, scope.repeats)
    passes = [solve_passes(run) for _ in range(scope.repeats)]
    rows = [
        Row(f"passes of a warm price solve, {n:,} prompts", passes, "passes", 5.0),
        ratio(f"round, {n:,} prompts", times["round"], times["log"], target=10.0),
    ]
    sizes = (n // 10, n)
    batched = {str(m): batch_run(m, ResolvingAllocator, visits=8) for m in sizes}
    calls: dict[str, Clocked] = {key: b.batches(offers(len(b.allocator.bank))) for key, b in batched.items()}
    times = in_turn({**calls, "full": run.full, "log": log_pass(n)}, scope.repeats)
    low, high = (times[str(m)] for m in sizes)
    rows += [
        ratio(f"batch of 1,024, visits told: {sizes[1]:,} / {sizes[0]:,} prompts", high, low, "x"),
        ratio(f"batch of 1,024 / round over all {n:,}", high, times["full"], "x"),
        ratio(f"batch of 1,024 of {n:,}", high, times["log"]),
    ]
    rows += training_rounds(scope, (n // 10, n))
    rows.append(Row(f"batch of 1,024 of {n:,}, visits told", 1e3 * high, "ms", 1.5))
    return [*rows, left_out("pool of 1,000,000", "quick")] if scope.quick else rows


def training_rounds(scope: Scope, sizes: tuple[int, int]) -> list[Row]:
    """Time rounds of the recommended allocator, whole pools and batches, by what NumPy takes to read its state."""
    rows = []
    for n in sizes:
        groups, single, graded = training_run(n, 8), training_run(n, 1), training_run(n, 8, fractions=True)
        offered = training_run(n, 8, batches=True)
        calls: dict[str, Clocked] = {
            "groups of 8": groups.full,
            "single rollouts": single.full,
            "groups of 8, all values different": graded.full,
            "batch of 1,024, groups of 8": offered.batches(offers(n)),
            "floor": state_pass(groups),
        }
        times = in_turn(calls, scope.repeats)
        for name in list(calls)[:-1]:
            target = 10.0 if n == sizes[1] else None
            rows.append(
                ratio(f"training_allocator, {name}, {n:,}", times[name], times["floor"], "state passes", target)
            )
        if n == sizes[0]:
            beside = f"{np.median(times['groups of 8'] / times['floor']):.1f} state passes"
            rows.append(Row(f"  groups of 8, {n:,}", 1e3 * times["groups of 8"], "ms", 4.0, beside=beside))
    return rows


def solve_passes(run: Run) -> int:
    """Return the passes over the pool that the price of the next round takes: calls of kernels with an array of all prompts."""
    size, calls = len(run.allocator.bank), 0
    kernels = {name: getattr(units_kernels, name) for name in ("remaining_demand", "count_worth", "bracket_units")}
    solves = {name: getattr(_remaining.Remaining, name) for name in ("clear", "units")}
    solving = False

    def watched(solve: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal solving
            solving = True
            try:
                return solve(*args)
            finally:
                solving = False

        return call

    def counted(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal calls
            arrays = [part for arg in args for part in (arg if isinstance(arg, tuple) else (arg,))]
            calls += solving and any(isinstance(part, np.ndarray) and part.size == size for part in arrays)
            return kernel(*args)

        return call

    try:
        for name, kernel in kernels.items():
            setattr(units_kernels, name, counted(kernel))
        for name, solve in solves.items():
            setattr(_remaining.Remaining, name, watched(solve))
        run.full()
    finally:
        for name, kernel in kernels.items():
            setattr(units_kernels, name, kernel)
        for name, solve in solves.items():
            setattr(_remaining.Remaining, name, solve)
    return calls


# ---------------------------------------------------------------- threads


def threads(scope: Scope) -> list[Row]:
    """Section 7: the same rounds in two processes, one of which may use one thread only."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = []
    for form, n in (("Algorithm 1", 1_000_000 if scope.quick else 10_000_000), ("re-solving", 1_000_000)):
        with Child(form, n) as several, Child(form, n, CERO_ALLOC_THREADS="1") as one:
            times = in_turn({"several": several.round, "one": one.round}, scope.repeats)
        label = f"{form}: round on {cores} cores / on one thread, {n:,} prompts"
        rows.append(ratio(label, times["several"], times["one"], "x", 0.65))
    return [*rows, left_out("pool of 10,000,000", "quick")] if scope.quick else rows


class Child:
    """A process that plays a round on request and answers with its seconds."""

    def __init__(self, form: str, n_prompts: int, **environment: str) -> None:
        command = [sys.executable, "-m", "studies.speed.rounds", form, str(n_prompts)]
        self._process = subprocess.Popen(
            command, env=with_studies(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def round(self) -> float:
        """Play one round."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def serve(form: str, n_prompts: int) -> None:
    """Play a round per line of standard input."""
    run = pool_run(n_prompts) if form == "Algorithm 1" else training_run(n_prompts, 8)
    for _ in sys.stdin:
        print(run.full(), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
