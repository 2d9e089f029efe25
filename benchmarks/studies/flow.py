"""Trace one call of an allocator: the files of the package that it enters, and how often it changes between them.

    python benchmarks/flow.py
    python benchmarks/flow.py --calls

A change of file is a Python call from a file of the package into another one; a return is none, and neither is a call of a
kernel. A call that passes through another library (numpy, contextlib) starts in the last file of the package before it.
Allocators have played two rounds when they are traced, so that nothing is counted that is done only once.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import cero_alloc
from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator, training_allocator
from studies.common.tables import table

PACKAGE = str(Path(cero_alloc.__file__).parent)
N_PROMPTS, BATCH = 64, 16
RUN = {"total_budget": 6400, "max_rollouts": 8}


@dataclass(frozen=True, slots=True)
class Flow:
    """What a traced call passes through: its files in the order of entry, and its changes with their numbers."""

    files: tuple[str, ...]
    steps: Counter[tuple[str, str]]

    @property
    def changes(self) -> int:
        """Number of changes between files."""
        return self.steps.total()


def trace(call: Callable[[], object]) -> Flow:
    """Make a call and return the files of the package that it passes through."""
    files: dict[str, None] = {}
    steps: Counter[tuple[str, str]] = Counter()

    def watch(frame: FrameType, event: str, _: object) -> None:
        into = _file_of(frame) if event == "call" else None
        if into is None:
            return
        files[into] = None
        outer = frame.f_back
        while outer is not None and _file_of(outer) is None:
            outer = outer.f_back
        came_from = None if outer is None else _file_of(outer)
        if came_from not in (None, into):
            steps[str(came_from), into] += 1

    previous = sys.getprofile()
    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(previous)
    return Flow(tuple(files), steps)


def _file_of(frame: FrameType) -> str | None:
    """Return the file of a frame within the package, None outside of it, in kernels, and where these are compiled."""
    name = frame.f_code.co_filename
    if not name.startswith(PACKAGE) or "kernels" in Path(name).name or Path(name).name == "_numba.py":
        return None
    return name[len(PACKAGE) + 1 :]


def algorithm_1() -> Any:
    """Return Algorithm 1 for the whole pool."""
    return FenchelDualAllocator(BetaPosteriorBank(N_PROMPTS), n_rounds=100, **RUN)


def algorithm_1_batch() -> Any:
    """Return Algorithm 1 for batches."""
    return FenchelDualAllocator(BetaPosteriorBank(N_PROMPTS), n_rounds=100, visits=25, **RUN)


def resolving_pool() -> Any:
    """Return a re-solving allocator for the whole pool, in single rollouts."""
    return ResolvingAllocator(BetaPosteriorBank(N_PROMPTS), n_rounds=100, **RUN)


def resolving_batch() -> Any:
    """Return a re-solving allocator for batches with visits given, groups of 2 or more rollouts up."""
    return ResolvingAllocator(BetaPosteriorBank(N_PROMPTS), visits=25, min_rollouts=2, **RUN)


def resolving_training() -> Any:
    """Return what ``training_allocator`` sets: groups of 8 over the whole pool, in the spread order."""
    return training_allocator(N_PROMPTS, total_budget=6400, n_rounds=100, rollouts_per_visit=8)


# Name -> allocator and the rows on offer, None for the whole pool.
FORMS: dict[str, tuple[Callable[[], Any], range | None]] = {
    "Algorithm 1, whole pool": (algorithm_1, None),
    "Algorithm 1, batch": (algorithm_1_batch, range(BATCH)),
    "re-solving, whole pool, single rollouts": (resolving_pool, None),
    "re-solving, batch, visits given, groups of 2 or more": (resolving_batch, range(BATCH)),
    "re-solving, whole pool, spread, groups of 8": (resolving_training, None),
}


def flows(form: str) -> dict[str, Flow]:
    """Return the traced ``allocate`` and ``update`` of one form's third round."""
    build, offer = FORMS[form]
    allocator, found = build(), {}
    for _ in range(3):
        counts: list[Any] = []
        found["allocate"] = trace(lambda counts=counts: counts.append(allocator.allocate(offer)))
        dealt = counts[0]
        found["update"] = trace(lambda dealt=dealt: allocator.update(offer, dealt // 2, dealt))
    return found


def main(argv: list[str] | None = None) -> int:
    """Trace every form and print its figures; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", action="store_true", help="also print which file calls which, and how often")
    options = parser.parse_args(argv)
    traced = {(form, method): flow for form in FORMS for method, flow in flows(form).items()}
    rows = [[f"{form}: {method}", str(len(f.files)), str(f.changes)] for (form, method), f in traced.items()]
    table("Files that a call enters, and its changes between them", ["call", "files", "changes"], rows)
    for (form, method), flow in traced.items():
        print(f"\n{form}: {method}\n  {', '.join(flow.files)}")
        if options.calls:
            print("\n".join(f"  {n:3d}  {here} -> {there}" for (here, there), n in flow.steps.most_common()))
    return 0
