"""The protocol of docs/learning.md: tune learning rates on their own seeds, then run everything; finished runs are kept.

Every finished run is a line of ``runs.jsonl``. A study that was stopped goes on where it was: what is in the file is not
run again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from studies.learning.dealing import Run
from studies.learning.pauses import PausedError
from studies.learning.policies import ALL

Record = dict[str, Any]
Cell = tuple[str, ...]

# What worker processes find in their environment, unless the caller's says otherwise.
WORKERS = {
    # A thread each: on two cores two processes whose BLAS has two threads take four times as long.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # glibc returns large arrays to the system at once and requests them again, which takes half of a small model's time.
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TOP_PAD_": "100000000",
}


@dataclass(frozen=True, slots=True)
class Study:
    """What is to be run.

    Attributes
    ----------
    cells : tuple of tuple of str
        Where policies are compared.
    policies : tuple of str
        Names of :data:`studies.learning.policies.ALL`, "uniform" among them.
    rates : dict of cell to tuple of float
        Learning rates to choose from, per group of cells; empty where only the common one is run.
    common : dict of cell to float
        Common learning rate, per group; where there is none, it is uniform's best of ``rates``.
    tuning_cells : tuple of tuple of str
        Cells that the choice is made on; a group's own where it has any among them.
    group : callable
        Cells with one choice of learning rate: takes a cell.
    seeds, tuning_seeds : tuple of int
        Fresh ones, and those for the choice; none in both.
    chunk : int
        Runs that one call of ``execute`` takes side by side.
    execute : callable
        Takes runs of one cell's first entry, and returns their records, or none where it was stopped. It runs in
        another process.
    widen : float
        Factor by which the learning rates of a policy and group go on beyond an end of ``rates`` as long as the best is
        there; 0 where the best may lie at an end.
    kinds : tuple of str
        Which learning rates are run: the "common" one of a cell, each policy's "own".
    only : dict of str to tuple of cell
        Policies that are run in these cells alone.
    borrowed : dict of str to str
        Policies that are not tuned, and the policy whose learning rate they take as their own.
    """

    cells: tuple[Cell, ...]
    policies: tuple[str, ...]
    rates: dict[Cell, tuple[float, ...]]
    common: dict[Cell, float]
    tuning_cells: tuple[Cell, ...]
    group: Callable[[Cell], Cell]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    chunk: int
    execute: Callable[[Sequence[Run]], list[Record]]
    widen: float = 0.0
    kinds: tuple[str, ...] = ("common", "own")
    only: dict[str, tuple[Cell, ...]] = field(default_factory=dict)
    borrowed: dict[str, str] = field(default_factory=dict)


def run_study(study: Study, folder: Path, jobs: int) -> tuple[list[Record], dict[tuple[str, Cell], float]]:
    """Run what is missing; return the records of the fresh seeds and the learning rates that were chosen."""
    if set(study.seeds) & set(study.tuning_seeds):
        raise ValueError("seeds must not be among tuning_seeds. Take others.")
    store = Store(folder / "runs.jsonl")
    tuned = [name for name in study.policies if not ALL[name].matches]
    chosen = tune(study, store, jobs, [name for name in tuned if name not in study.borrowed])
    for name, lender in study.borrowed.items():
        chosen |= {(name, group): rate for (owner, group), rate in chosen.items() if owner == lender}
    play(study, store, jobs, "comparing", runs_of(study, chosen, tuned))
    matched = [name for name in study.policies if ALL[name].matches]
    play(study, store, jobs, "matching", runs_of(study, chosen, matched))
    wanted = set(runs_of(study, chosen, study.policies))
    return [record for run, record in store.records.items() if run in wanted], chosen


def tune(study: Study, store: Store, jobs: int, names: Sequence[str]) -> dict[tuple[str, Cell], float]:
    """Return per policy and group the learning rate with the best mean held-out success at the end, on tuning seeds.

    Where ``study.widen`` is above 0, rates are added until no best one lies at an end of those that were tried.
    """
    tried = {
        (name, group): list(rates) for group, rates in study.rates.items() for name in names
        if any(study.group(cell) == group for cell in study.only.get(name, study.cells))
    }  # fmt: skip
    while True:
        runs = {key: [run for rate in rates for run in tuning_runs(study, *key, rate)] for key, rates in tried.items()}
        play(study, store, jobs, "tuning", (run for key in tried for run in runs[key]))
        chosen = {
            key: max(rates, key=lambda rate: mean_final(store, tuning_runs(study, *key, rate)))
            for key, rates in tried.items()
        }
        at_end = [key for key, rate in chosen.items() if study.widen and rate in (min(tried[key]), max(tried[key]))]
        if not at_end:
            return chosen
        for key in at_end:
            low, high = min(tried[key]), max(tried[key])
            further = high * study.widen if chosen[key] == high else low / study.widen
            tried[key].append(float(f"{further:.3g}"))


def tuning_runs(study: Study, name: str, group: Cell, rate: float) -> list[Run]:
    """Return the runs by which a policy's learning rate is judged in a group of cells."""
    cells = [cell for cell in study.tuning_cells if study.group(cell) == group]
    return [Run(cell, name, rate, seed) for cell in cells for seed in study.tuning_seeds]


def mean_final(store: Store, runs: Sequence[Run]) -> float:
    """Return the mean held-out success at the end of runs that are done."""
    return float(np.mean([store.records[run]["held_out"][-1] for run in runs]))


def common_rate(study: Study, chosen: dict[tuple[str, Cell], float], cell: Cell) -> float:
    """Return the learning rate that all policies share in a cell."""
    group = study.group(cell)
    return study.common[group] if group in study.common else chosen["uniform", group]


def runs_of(study: Study, chosen: dict[tuple[str, Cell], float], names: Iterable[str]) -> Iterator[Run]:
    """Yield every run of these policies on the fresh seeds: at the common learning rate and at their own, as the study has it."""
    for cell in study.cells:
        for name in names:
            if cell not in study.only.get(name, study.cells):
                continue
            common = {common_rate(study, chosen, cell)} if "common" in study.kinds else set()
            own = {chosen.get((name, study.group(cell)))} if "own" in study.kinds else set()
            rates = (common | own) - {None}
            for rate in sorted(rates):
                yield from (Run(cell, name, rate, seed) for seed in study.seeds)


def play(study: Study, store: Store, jobs: int, what: str, runs: Iterable[Run]) -> None:
    """Execute the runs that the store lacks, each chunk in one of ``jobs`` processes.

    Raises
    ------
    PausedError
        Where runs were stopped; those that are done are in the store.
    """
    missing = [run for run in dict.fromkeys(runs) if run not in store.records]
    chunks: list[list[Run]] = []
    for _, alike in groupby(sorted(missing, key=_side_by_side), key=_side_by_side):
        together = list(alike)
        chunks += [together[i : i + study.chunk] for i in range(0, len(together), study.chunk)]
    with tqdm(total=len(missing), desc=what, unit="run", disable=not missing) as bar:
        for records in finished([partial(study.execute, chunk) for chunk in chunks], jobs):
            store.add(records)
            bar.update(len(records))
    left = sum(run not in store.records for run in missing)
    if left:
        raise PausedError(f"{what}: {left} of {len(missing)} runs are left")


def _side_by_side(run: Run) -> tuple[str, bool]:
    """Return what runs have in common that may go side by side: the task, and whether rounds come in waves."""
    return run.cell[0], ALL[run.policy].mixed_only


def finished(calls: Sequence[Callable[[], Any]], jobs: int) -> Iterator[Any]:
    """Yield the results of calls as they come, from ``jobs`` processes."""
    if jobs == 1:
        yield from (call() for call in calls)
        return
    for name, value in WORKERS.items():
        os.environ.setdefault(name, value)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
        for done in as_completed([workers.submit(call) for call in calls]):
            yield done.result()


class Store:
    """Finished runs, kept in a file of one JSON object per line."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.records: dict[Run, Record] = {}
        if file.exists():
            text = file.read_text()
            whole = text[: text.rfind("\n") + 1]  # the last line may have been cut short
            os.truncate(file, len(whole.encode()))  # not rewritten: a crash here would lose the whole file
            for line in whole.splitlines():
                self._keep(json.loads(line))

    def add(self, records: Iterable[Record]) -> None:
        """Keep finished runs, and write them down."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a") as handle:
            for record in records:
                handle.write(json.dumps(record) + "\n")
                self._keep(record)

    def _keep(self, record: Record) -> None:
        run = Run(tuple(record["cell"]), record["policy"], record["learning_rate"], record["seed"])
        self.records[run] = record


def record_of(run: Run, found: Record) -> Record:
    """Return what is written down of a run."""
    return {"cell": run.cell, "policy": run.policy, "learning_rate": run.learning_rate, "seed": run.seed, **found}
