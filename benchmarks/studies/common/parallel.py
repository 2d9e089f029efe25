"""Run the parts of a benchmark in several processes, with a progress bar."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from tqdm import tqdm


def execute(parts: dict[str, list[Callable[[], Any]]], jobs: int) -> dict[str, list[Any]]:
    """Run all parts and return their results in order; lists of results are joined."""
    calls = [call for part in parts.values() for call in part]
    if jobs == 1:
        found = [call() for call in tqdm(calls, unit="run")]
    else:
        # The processes share the cores: more threads of linear algebra in each would only wait for one another.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
            found = list(tqdm(workers.map(_call, calls, chunksize=4), total=len(calls), unit="run"))
    done = iter(found)
    results: dict[str, list[Any]] = {}
    for part, group in parts.items():
        entries = [next(done) for _ in group]
        results[part] = [row for e in entries for row in e] if entries and isinstance(entries[0], list) else entries
    return results


def _call(call: Callable[[], Any]) -> Any:
    return call()
