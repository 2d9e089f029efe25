"""Measure what a fresh process pays: the import, and its first ``allocate`` with a warm kernel cache.

Prints the median, least and largest of several processes, beside ``import numba`` alone, which is most of the import.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

PROBE = """
import time
t0 = time.perf_counter()
import numba
t1 = time.perf_counter()
import cero_alloc as c
t2 = time.perf_counter()
allocator = c.FenchelDualAllocator(c.BetaPosteriorBank(10_000), total_budget=10**6, n_rounds=100, max_rollouts=8)
counts = allocator.allocate()
t3 = time.perf_counter()
allocator.update(None, counts, counts)
allocator.allocate()
t4 = time.perf_counter()
print(t1 - t0, t2 - t0, t3 - t2, t4 - t3)
"""
LABELS = [
    "import numba",
    "import cero_alloc (numba included)",
    "first construct + allocate",
    "first update + next allocate",
]


def main() -> None:
    """Run the probes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="processes (default %(default)s)")
    repeats = parser.parse_args().repeats
    probe = [sys.executable, "-c", PROBE]
    subprocess.run(probe, check=True, capture_output=True)  # fills the kernel cache
    runs = [subprocess.run(probe, check=True, capture_output=True, text=True).stdout.split() for _ in range(repeats)]
    print(f"{'seconds, fresh process, warm cache':<36}  median   least  largest")
    for label, column in zip(LABELS, zip(*runs, strict=True), strict=True):
        times = [float(t) for t in column]
        print(f"{label:<36}  {statistics.median(times):6.3f}  {min(times):6.3f}  {max(times):7.3f}")


if __name__ == "__main__":
    main()
