"""A pass over a large pool in stretches on several threads: kernels release the interpreter lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

Result = TypeVar("Result")

ALONE = 2**18  # prompts: below this, starting a thread costs more than it saves, and callers make one pass
_MOST = 4  # more threads do not help, because memory bandwidth limits a pass


def in_stretches(work: Callable[[int, int], Result], size: int, grain: int = 1) -> list[Result]:
    """Call ``work(start, stop)`` for stretches that cover ``range(size)`` and return the results in order.

    A stretch begins at a multiple of ``grain``, and may be empty.

    Threads live for one call, so that a forked process inherits none. Their number is ``CERO_ALLOC_THREADS`` from the
    environment, else that of the cores, at most 4.
    """
    n = thread_count()
    if n == 1:
        return [work(0, size)]
    from concurrent.futures import ThreadPoolExecutor  # imported here to keep the package's import short

    bounds = [*(size * i // n // grain * grain for i in range(n)), size]
    with ThreadPoolExecutor(n - 1) as threads:
        others = [threads.submit(work, start, stop) for start, stop in pairwise(bounds[1:])]
        first = work(0, bounds[1])
        return [first, *(other.result() for other in others)]


def thread_count() -> int:
    """Return how many threads a pass may use."""
    setting = os.environ.get("CERO_ALLOC_THREADS", "")
    if setting.isdecimal() and int(setting) > 0:
        return int(setting)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST, cores)
