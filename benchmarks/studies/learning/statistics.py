"""What the learning tables hold: paired differences to uniform, and rollouts to uniform's final success."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cero_alloc.simulation._learning import first_reached, mean_height
from studies.common.tables import mean_and_half
from studies.learning.study import Cell, Record, Study, common_rate

FloatArray = npt.NDArray[np.float64]
Chosen = dict[tuple[str, Cell], float]

RESAMPLES = 2000  # of the seeds, for the interval of a ratio


def at_rate(study: Study, records: Iterable[Record], chosen: Chosen, kind: str) -> dict[Cell, dict[str, list[Record]]]:
    """Return the records at the common or at each policy's own learning rate, per cell and policy, in order of seeds."""
    found: dict[Cell, dict[str, list[Record]]] = {}
    for record in records:
        cell, name = tuple(record["cell"]), record["policy"]
        rate = common_rate(study, chosen, cell) if kind == "common" else chosen.get((name, study.group(cell)))
        if record["learning_rate"] == rate:
            found.setdefault(cell, {}).setdefault(name, []).append(record)
    for games in found.values():
        for runs in games.values():
            runs.sort(key=lambda record: record["seed"])
    return {cell: found[cell] for cell in study.cells if "uniform" in found.get(cell, {})}


def area(record: Record) -> float:
    """Return the mean height of a held-out curve over the rollouts spent."""
    return mean_height(np.asarray(record["rollouts"]), np.asarray(record["held_out"]))


def summarise(games: dict[str, list[Record]]) -> list[dict[str, Any]]:
    """Return one row per policy of a cell: means with half their 95% intervals, and differences to uniform's pairs."""
    base = games["uniform"]
    rows = []
    for name, runs in games.items():
        ends, areas = [final(run) for run in runs], [area(run) for run in runs]
        row: dict[str, Any] = {"policy": name, "learning_rate": runs[0]["learning_rate"], "seeds": len(runs)}
        row["start"] = float(np.mean([run["held_out"][0] for run in runs]))
        row["final"], row["final_half"] = mean_and_half(ends)
        row["gain"], row["gain_half"] = mean_and_half([a - final(b) for a, b in zip(ends, base, strict=True)])
        row["area"], row["area_half"] = mean_and_half([a - area(b) for a, b in zip(areas, base, strict=True)])
        pairs = zip(runs, base, strict=True)
        row["learnt"], row["learnt_half"] = mean_and_half([trained(a) - trained(b) for a, b in pairs])
        row["ratio"], row["ratio_low"], row["ratio_high"] = rollouts_ratio(runs, base)
        for column in ("trained", "mixed", "top", "unseen", "spent"):
            row[column] = float(np.mean([run[column] for run in runs]))
        rows.append(row)
    return sorted(rows, key=lambda row: -row["final"])


def rollouts_ratio(runs: Sequence[Record], base: Sequence[Record]) -> tuple[float, float, float]:
    """Return the rollouts to uniform's final success, in multiples of uniform's own, with a 95% bootstrap interval.

    Curves are averaged over the seeds first; the rollouts at which a mean first reaches the level, the
    mean of uniform at the end, are counted. Seeds are resampled in pairs. inf: not reached within the run.
    """
    x = np.asarray(base[0]["rollouts"], dtype=np.float64)
    for run in base:
        x = np.minimum(x, np.asarray(run["rollouts"], dtype=np.float64))
    ours, theirs = (
        np.array([np.interp(x, run["rollouts"], run["held_out"]) for run in group]) for group in (runs, base)
    )
    n = len(ours)
    draws = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    ratios = np.array([_ratio(x, ours[rows].mean(0), theirs[rows].mean(0)) for rows in draws])
    ratios = ratios[~np.isnan(ratios)]  # without draws in which uniform learnt nothing
    if ratios.size < RESAMPLES // 2:
        return (_ratio(x, ours.mean(0), theirs.mean(0)), float("nan"), float("nan"))
    low, high = np.quantile(ratios, [0.025, 0.975], method="nearest")
    return _ratio(x, ours.mean(0), theirs.mean(0)), float(low), float(high)


def _ratio(x: FloatArray, ours: FloatArray, theirs: FloatArray) -> float:
    level = float(theirs[-1])
    if level <= theirs[0]:  # uniform has learnt nothing: the ratio is undefined
        return float("nan")
    return first_reached(x, ours, level) / first_reached(x, theirs, level)


def final(record: Record) -> float:
    """Return held-out success at the end."""
    return float(record["held_out"][-1])


def trained(record: Record) -> float:
    """Return success at the end on the prompts that were trained on."""
    return float(record["trained"])


def differences(
    by_cell: dict[Cell, dict[str, list[Record]]], cells: Iterable[Cell], figure: Callable[[Record], float]
) -> dict[str, list[float]]:
    """Return per policy a figure's differences to uniform's pairs, over several cells."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        for name, runs in by_cell[cell].items():
            pairs = zip(runs, by_cell[cell]["uniform"], strict=True)
            found.setdefault(name, []).extend(figure(a) - figure(b) for a, b in pairs)
    return found


def pooled(
    by_cell: dict[Cell, dict[str, list[Record]]], cells: Iterable[Cell], figure: Callable[[Record], float] = final
) -> dict[str, tuple[float, float, int, int]]:
    """Return per policy the paired difference of a figure over several cells: mean, half interval, wins, pairs."""
    found = differences(by_cell, cells, figure)
    return {name: (*mean_and_half(d), int(np.sum(np.array(d) > 0.0)), len(d)) for name, d in found.items()}
