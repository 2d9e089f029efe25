"""Held-out success by difficulty: a table per cell and a file of curves, for the studies that measure it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.common.tables import mean_and_half, table, write_csv
from studies.learning.statistics import Chosen, at_rate
from studies.learning.study import Record, Study


def report_bands(study: Study, records: Sequence[Record], chosen: Chosen, folder: Path) -> None:
    """Print held-out success at the end per band, paired with uniform's, and write the curves to ``bands.csv``.

    Nothing is done where the records have no "bands".
    """
    if not all("bands" in record for record in records):
        return
    for kind in study.kinds:
        for cell, games in at_rate(study, records, chosen, kind).items():
            bands = list(games["uniform"][0]["bands"])
            lines = [[name, *(_figure(runs, games["uniform"], band) for band in bands)] for name, runs in games.items()]
            starts = [np.mean([run["bands"][band][0] for run in games["uniform"]]) for band in bands]
            title = f"HELD OUT, BAND BY BAND, and against uniform; {' / '.join(cell)}; {kind} learning rate"
            table(title, ["policy", *bands], [["at the start", *(f"{start:.4f}" for start in starts)], *lines])
    lines = []
    for cell in study.cells:
        dead = [record["dead"] for record in records if tuple(record["cell"]) == cell]
        lines.append([" / ".join(cell), f"{100.0 * np.mean(dead):.0f}%"])
    table("GROUPS OF 8 THAT ARE ALL RIGHT OR ALL WRONG at the start, expected", ["cell", "share"], lines)
    write_csv(folder / "bands.csv", [row for record in records for row in _curves(record)])


def _figure(runs: Sequence[Record], base: Sequence[Record], band: str) -> str:
    ends, theirs = ([run["bands"][band][-1] for run in group] for group in (runs, base))
    text = f"{np.mean(ends):.4f}"
    if runs is base:
        return text
    mean, half = mean_and_half([a - b for a, b in zip(ends, theirs, strict=True)])
    return f"{text} ({mean:+.4f} +- {half:.4f})"


def _curves(record: Record) -> list[dict[str, Any]]:
    common = {name: record[name] for name in ("policy", "learning_rate", "seed")}
    common["cell"] = " / ".join(record["cell"])
    return [
        {**common, "rollouts": spent, "band": band, "held_out": value}
        for band, curve in record["bands"].items()
        for spent, value in zip(record["rollouts"], curve, strict=True)
    ]
