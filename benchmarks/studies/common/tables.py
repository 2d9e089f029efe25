"""Rows of results: grouped, averaged, printed as tables and written as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]

SHAPES = ("exponential", "hyperbolic", "log", "capped-linear")  # of the utility, in the order of all tables
_SORTED_BY = ("path", "shape", "rates", "policy", "seed", "rounds")  # columns that order a CSV


def spread(values: Iterable[float], digits: int = 4) -> str:
    """Return mean and standard deviation as text."""
    data = np.asarray(list(values), dtype=np.float64)
    deviation = f" +- {data.std(ddof=1):.{digits}f}" if data.size > 1 else ""
    return f"{data.mean():.{digits}f}{deviation}"


def mean_and_half(values: list[float]) -> tuple[float, float]:
    """Return the mean and half of its 95% interval, by Student's t over the seeds."""
    from scipy.stats import t

    data = np.asarray(values)
    return float(data.mean()), float(t.ppf(0.975, data.size - 1) * data.std(ddof=1) / np.sqrt(data.size))


def mean(rows: list[Row], column: str) -> float:
    """Return the mean of a column."""
    return float(np.mean([row[column] for row in rows]))


def grouped(rows: list[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows by their values of ``keys``, each group sorted by seed and rounds."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.get("seed", 0), row.get("rounds", 0))):
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print an aligned table."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: list[str]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(cells))

    print(f"\n{title}\n{line(header)}\n{line(['-' * w for w in widths])}")
    print("\n".join(line(row) for row in rows), flush=True)


def write_csv(file: Path, rows: list[Row], *, in_order: bool = False) -> None:
    """Write rows sorted by their policy, seed and horizon, or ``in_order`` as they are."""
    keys = [key for key in _SORTED_BY if rows and key in rows[0] and not in_order]
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0] if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: tuple(row[key] for key in keys)))
