"""Compare the speed of two source trees of the package: this one, and that of ``--against``.

    python benchmarks/speed_against.py --against ../other/src

Each tree is imported by a process of its own. The processes are timed in turn, so that a slow spell of the machine slows
both: every repeat makes the same calls in either tree, and the order of the trees changes from repeat to repeat. Prints the
median time of each tree, the median over the repeats of the ratio new / old, its range, and the ratio of the least times,
which other processes disturb least. Takes less than five minutes on two cores that are free.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import cero_alloc
from studies.common.tables import table
from studies.speed.clock import with_studies
from studies.speed.report import duration
from studies.speed.timings import TIMINGS

FRESH = """
import json, time
t0 = time.perf_counter()
import cero_alloc as c
t1 = time.perf_counter()
allocator = c.FenchelDualAllocator(c.BetaPosteriorBank(10_000), total_budget=10**6, n_rounds=100, max_rollouts=8)
counts = allocator.allocate()
t2 = time.perf_counter()
allocator.update(None, counts, counts)
allocator.allocate()
t3 = time.perf_counter()
allocator = c.ResolvingAllocator(c.BetaPosteriorBank(10_000), total_budget=10**6, n_rounds=100, max_rollouts=8)
counts = allocator.allocate()
allocator.update(None, counts, counts)
t4 = time.perf_counter()
print(json.dumps([t1 - t0, t2 - t1, t3 - t2, t4 - t3]))
"""
STARTS = ("import cero_alloc", "first allocate", "first update, next allocate", "first round of re-solving")
LEAST = 0.05  # seconds that one repeat lasts; shorter calls are repeated within it
SLOWER = 1.05  # ratio of the medians and of the least times from which on a timing is reported as slower


class Tree:
    """A process that imports one source tree and makes its timings."""

    def __init__(self, source: Path) -> None:
        self.environment = with_studies({}, str(source))
        command = [sys.executable, "-m", "studies.speed.timings"]
        self._process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, command: str) -> float:
        """Send a command and return the seconds that it is answered with."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{command!r} failed in {self.environment['PYTHONPATH']}")
        return float(answer)

    def start(self) -> list[float]:
        """Return the seconds of the import and of the first calls in a fresh process."""
        command = [sys.executable, "-c", FRESH]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        found: list[float] = json.loads(done.stdout)
        return found

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def in_turn(trees: list[Tree], repeats: int, measure: Callable[[Tree], list[float]]) -> np.ndarray:
    """Return the seconds of each tree, shape (n_trees, repeats, n_figures)."""
    found: list[list[list[float]]] = [[] for _ in trees]
    for repeat in range(repeats):
        for place in range(len(trees))[:: -1 if repeat % 2 else 1]:
            found[place].append(measure(trees[place]))
    return np.array(found)


def compare(trees: list[Tree], repeats: int, only: str) -> dict[str, np.ndarray]:
    """Return the seconds of both trees per timing, shape (2, repeats)."""
    found: dict[str, np.ndarray] = {}
    if any(only in name for name in STARTS):
        in_turn(trees, 1, Tree.start)  # fills the caches
        starts = in_turn(trees, repeats, Tree.start)
        found |= {name: starts[:, :, i] for i, name in enumerate(STARTS) if only in name}
    for name in TIMINGS:
        if only in name:
            once = max(tree.ask(f"build {name}") for tree in trees)
            calls = max(1, math.ceil(LEAST / max(once, 1e-7)))
            found[name] = in_turn(trees, repeats, lambda tree, n=calls: [tree.ask(f"time {n}")])[:, :, 0]
            print(f"{name}: {np.median(found[name][1] / found[name][0]):.2f}", file=sys.stderr, flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    """Time both trees and print the ratios; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own = Path(cero_alloc.__file__).parents[1]
    parser.add_argument("--against", type=Path, required=True, metavar="SRC", help="the folder that holds cero_alloc")
    parser.add_argument("--source", type=Path, default=own, metavar="SRC", help="the new tree (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="repeats of each timing (default %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the timings whose name contains this text")
    options = parser.parse_args(argv)
    for source in (options.against, options.source):
        if not (source / "cero_alloc" / "__init__.py").is_file():
            parser.error(f"{source} must be a folder that holds cero_alloc")
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    started = time.perf_counter()
    trees = [Tree(options.against.resolve()), Tree(options.source.resolve())]
    try:
        found = compare(trees, options.repeats, options.only)
    finally:
        for tree in trees:
            tree.close()
    rows, slower = [], []
    for name, (old, new) in found.items():
        ratios = new / old
        median, least = float(np.median(ratios)), float(new.min() / old.min())
        spread = f"{ratios.min():.2f} to {ratios.max():.2f}"
        times = [duration(float(np.median(seconds))) for seconds in (old, new)]
        rows.append([name, *times, f"{median:.2f}", spread, f"{least:.2f}"])
        slower += [name] if min(median, least) > SLOWER else []
    title = f"new: {options.source}, old: {options.against}; medians of {options.repeats} repeats in turn"
    table(title, ["timing", "old", "new", "new / old", "range", "least / least"], rows)
    print(f"\nSlower by more than {100 * (SLOWER - 1):.0f}%: " + ("; ".join(slower) if slower else "no timing") + ".")
    print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)
    return 0
