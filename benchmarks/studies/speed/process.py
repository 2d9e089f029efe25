"""The cost of a fresh process: its start and its memory."""

from __future__ import annotations

import os
import statistics
import tempfile
import tracemalloc
from typing import Any

import numpy as np

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator
from studies.speed.clock import Scope, fresh
from studies.speed.report import Row, left_out

START = """
import json, sys, time
{setup}
t0 = time.perf_counter()
import numba
t1 = time.perf_counter()
import cero_alloc as c
t2 = time.perf_counter()
from cero_alloc._numba import KERNELS
compiled = sum(len(f.signatures) for f in KERNELS.values() if hasattr(f, "signatures"))
t3 = time.perf_counter()
allocator = c.FenchelDualAllocator(c.BetaPosteriorBank(10_000), total_budget=10**6, n_rounds=100, max_rollouts=8)
counts = allocator.allocate()
t4 = time.perf_counter()
allocator.update(None, counts, counts)
allocator.allocate()
t5 = time.perf_counter()
print(json.dumps([t1 - t0, t2 - t0, compiled, t4 - t3, t5 - t4]))
"""
# README's lines, in processor time, which other users of the machine disturb less.
LINES = """
import json, time
clock = time.process_time
t0 = clock()
import cero_alloc
t1 = clock()
import numpy as np
from cero_alloc import training_allocator
rng = np.random.default_rng(0)
rate = rng.beta(0.5, 0.5, size=2_000)
allocator = training_allocator(2_000, total_budget=80 * 128, n_rounds=80)
first = 0.0
for step in range(80):
    counts = allocator.allocate(budget=128, exact=True)
    first = first or clock() - t1
    prompts = allocator.bank.prompts_of(counts)
    rewards = rng.random(128) < rate[prompts]
    advantages = allocator.observe(prompts, rewards)
t2 = clock()
allocator.metrics()
t3 = clock()
print(json.dumps([t1 - t0, first, t2 - t1, t3 - t2]))
"""
NUMBA = "import json, time; t = time.process_time(); import numba; print(json.dumps(time.process_time() - t))"
# A read-only installation without a home, for any user: numba finds no place for its cache.
NO_PLACE = "import numba.core.caching as caching\ncaching.CacheImpl._locator_classes = []"


def start(scope: Scope) -> list[Row]:
    """Section 6: import and first round, kernels cached, compiled, and compiled where no cache can be written."""
    code = START.format(setup="")
    fresh(code)  # fills the cache
    warm = list(zip(*(fresh(code) for _ in range(scope.repeats)), strict=True))
    rows = [
        Row("import cero_alloc, numba included", warm[1], "s", 0.5, beside=f"numba alone {statistics.median(warm[0]):.2f} s"),
        Row("kernels compiled or loaded by the import", warm[2], "kernels", 0.0),
        Row("first construct + allocate, cache warm", warm[3], "s", 0.15),
        Row("first update + next allocate, cache warm", warm[4], "s"),
    ]  # fmt: skip
    if scope.quick:
        return [*rows, left_out("cache cold", "quick"), left_out("no place for a cache", "quick")]
    rows += lines(scope.repeats)
    if scope.against:
        rows += lines(scope.repeats, scope.against)
    cold = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(fresh(code, NUMBA_CACHE_DIR=folder))
    rows.append(Row("first construct + allocate, cache cold", [c[3] for c in cold], "s", 3.0))
    rows.append(Row("first update + next allocate, cache cold", [c[4] for c in cold], "s"))
    bare = fresh(START.format(setup=NO_PLACE), NUMBA_CACHE_DIR="")
    beside = "works" if bare[2] == 0 else "works, but compiled at import"
    rows.append(Row("the same where no cache can be kept", [bare[3]], "s", beside=beside))
    return rows


def lines(repeats: int, source: str = "") -> list[Row]:
    """README's lines and the first metrics after them, of this tree or of the one in the folder ``source``.

    BLAS runs on one thread: its threads spin while the prior is fitted, on every core, which is not the start's cost.
    """
    place = {"PYTHONPATH": source} if source else {}
    alone, cold, warm, spinning = [], [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            one = {"NUMBA_CACHE_DIR": folder, **place}
            alone.append(fresh(NUMBA, OPENBLAS_NUM_THREADS="1", **one))
            cold.append(fresh(LINES, OPENBLAS_NUM_THREADS="1", **one))
            warm.append(fresh(LINES, OPENBLAS_NUM_THREADS="1", **one))
            spinning.append(fresh(LINES, **one))
    beside = f"processor time{', of the tree ' + source if source else ''}"
    extra = [whole[0] - least for whole, least in zip(warm, alone, strict=True)]
    return [
        Row("README's lines beyond import, cache cold", [run[2] for run in cold], "s", 2.0, beside=beside),
        Row("first metrics() after them, cache cold", [run[3] for run in cold], "s", 0.3, beside=beside),
        Row("their first allocate(), cache warm", [run[1] for run in warm], "s", 0.15, beside=beside),
        Row("import cero_alloc less import numba", extra, "s", 0.1, beside=f"numba {statistics.median(alone):.2f} s"),
        Row("README's lines, cache warm", [run[2] for run in warm], "s", beside=beside),
        Row("README's lines, cache warm, BLAS on all cores", [run[2] for run in spinning], "s", beside=beside),
    ]


# ---------------------------------------------------------------- memory


def memory(scope: Scope) -> list[Row]:
    """Section 5: bytes per prompt with integer ids, and the accuracy of float32."""
    n = 1_000_000 if scope.quick else 10_000_000
    found = fresh(f"import json; from studies.speed.process import weigh; print(json.dumps(weigh({n})))")
    state = found["arrays"]
    cross = f"tracemalloc {found['traced']:.1f}, resident {found['resident']:.1f}"
    rows = [Row(f"bank and allocator, {n:,} prompts", [sum(state.values())], "bytes", 48.0, beside=cross)]
    rows += [Row(f"  {name}", [size], "bytes") for name, size in sorted(state.items(), key=lambda e: -e[1])]
    rows.append(Row("peak of a round / the state at rest", found["peaks"], "x", 2.0))
    try:
        BetaPosteriorBank(1, dtype=np.float32)
    except TypeError:
        rows.append(Row("float32", (), "", beside="this version has no BetaPosteriorBank(dtype=)"))
    else:
        single = fresh(
            f"import json; from studies.speed.process import weigh; print(json.dumps(weigh({n}, 'float32')))"
        )
        rows.append(Row("the same with dtype=float32", [sum(single["arrays"].values())], "bytes"))
        value, equal = accuracy(10_000 if scope.quick else 100_000, 50)
        rows.append(Row("  largest relative difference of a value, 50 rounds", [value], "x"))
        rows.append(Row("  prompts and rounds with the same count", [100.0 * equal], "%"))
    return [*rows, left_out("pool of 10,000,000", "quick")] if scope.quick else rows


def weigh(n_prompts: int, dtype: str = "float64") -> dict[str, Any]:
    """Return bytes per prompt, by array, traced and resident, and the peaks of rounds; for a process of its own."""
    options = {} if dtype == "float64" else {"dtype": np.dtype(dtype)}
    for size in (1_000, n_prompts):  # the first run loads kernels
        before = resident()
        tracemalloc.start()
        capacity = min(8 * size, 8192)  # 1,024 prompts a round
        allocator = FenchelDualAllocator(
            BetaPosteriorBank(size, **options), total_budget=100 * capacity, n_rounds=100, unit_size=4, max_rollouts=8,
            round_capacity=capacity,
        )  # fmt: skip
        peaks = []
        for _ in range(4):
            tracemalloc.reset_peak()
            counts = allocator.allocate()
            told = np.flatnonzero(counts)
            dealt = counts[told]
            allocator.update(told, told % 4.0, dealt)
            peaks.append(tracemalloc.get_traced_memory()[1])
            del counts
        traced = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        weight = (resident() - before) / size
    arrays = {name: size / n_prompts for name, size in arrays_of(allocator).items() if size >= 0.5 * n_prompts}
    peaks = [peak / traced for peak in peaks[1:]]
    return {"arrays": arrays, "traced": traced / n_prompts, "resident": weight, "peaks": peaks}


def resident() -> float:
    """Return the bytes of this process in memory; NaN where the system does not report it."""
    try:
        with open("/proc/self/statm") as handle:
            return float(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return float("nan")


def arrays_of(owner: Any) -> dict[str, int]:
    """Return the bytes of every array that this package's objects hold below ``owner``, each array once, by its name."""
    found: dict[str, int] = {}
    seen: set[int] = set()

    def walk(item: Any, name: str) -> None:
        if id(item) in seen:
            return
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            if isinstance(item.base, np.ndarray):
                walk(item.base, name)
            else:
                found[name] = item.nbytes
        elif isinstance(item, dict):
            for key, part in item.items():
                walk(part, f"{name}[{key!r}]")
        elif isinstance(item, (list, tuple)):
            for place, part in enumerate(item):
                walk(part, f"{name}[{place}]")
        elif type(item).__module__.split(".")[0] == "cero_alloc":
            slots = [slot for kind in type(item).__mro__ for slot in getattr(kind, "__slots__", ())]
            for key in [*getattr(item, "__dict__", {}), *slots]:
                walk(getattr(item, key, None), f"{name}.{key}".lstrip("."))

    walk(owner, "")
    return found


def accuracy(n_prompts: int, rounds: int) -> tuple[float, float]:
    """Return the largest relative difference of a value and the share of equal counts, float32 against float64.

    Both banks get the same evidence, so that differences do not accumulate.
    """
    rates = np.random.default_rng(6).random(n_prompts)
    allocators = [
        FenchelDualAllocator(
            BetaPosteriorBank(n_prompts, dtype=dtype), total_budget=n_prompts * rounds, n_rounds=rounds, max_rollouts=4
        )
        for dtype in (np.float64, np.float32)
    ]
    equal = 0
    for _ in range(rounds):
        double, single = (allocator.allocate() for allocator in allocators)
        equal += int((double == single).sum())
        for allocator in allocators:
            allocator.update(None, rates * double, double)
    double, single = (allocator.bank.value().astype(np.float64) for allocator in allocators)
    return float(np.max(np.abs(single / double - 1.0))), equal / (rounds * n_prompts)
