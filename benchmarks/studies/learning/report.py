"""Tables, files and pictures of learning.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cero_alloc.plotting import plot_comparison, policy_styles
from studies.common.pictures import label_ends, without_screen
from studies.common.tables import table, write_csv
from studies.learning.statistics import Chosen, at_rate, differences, final, pooled, summarise, trained
from studies.learning.study import Cell, Record, Study

FEATURES = "50"  # of the log-linear pools in the picture; others hardly differ
SHOWN = ("uniform", "FenchelDual", "Resolving 0.3", "training", "MoPPS", "DAPO", "clairvoyant")
LONG = 12  # with more cells than this, the tables of each cell are only in summary.csv


def report(study: Study, records: Sequence[Record], chosen: Chosen, folder: Path) -> None:
    """Print and write everything."""
    rows: list[dict[str, Any]] = []
    for kind in study.kinds:
        by_cell = at_rate(study, records, chosen, kind)
        for cell, games in by_cell.items():
            found = summarise(games)
            rows += [{"rate": kind, "cell": " / ".join(cell), **row} for row in found]
            if len(by_cell) <= LONG:
                print_cell(f"{' / '.join(cell)}; {kind} learning rate; {found[0]['seeds']} pairs", found)
        print_ratios(rows, kind)
        print_pooled(by_cell, kind)
        draw(by_cell, kind, folder)
    write_csv(folder / "summary.csv", rows)
    write_csv(folder / "runs.csv", [_line(record) for record in records])
    if chosen:
        names = sorted({name for name, _ in chosen})
        groups = sorted({group for _, group in chosen})
        lines = [[name, *(f"{chosen[name, g]:g}" if (name, g) in chosen else "-" for g in groups)] for name in names]
        table("learning rates chosen on the tuning seeds", ["policy", *(" / ".join(g) for g in groups)], lines)


def print_cell(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print one cell, the best at the end first."""
    lines = [
        [
            row["policy"], f"{row['learning_rate']:g}", f"{row['final']:.4f} +- {row['final_half']:.4f}",
            f"{row['gain']:+.4f} +- {row['gain_half']:.4f}", f"{row['area']:+.4f} +- {row['area_half']:.4f}",
            ratio_text(row), f"{100 * row['mixed']:.0f}", f"{100 * row['top']:.0f}", f"{100 * row['unseen']:.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    heads = ["policy", "rate", "held out", "vs uniform", "area vs uniform", "rollouts", "mixed %", "top %", "unseen %"]
    table(f"{title}, started at {rows[0]['start']:.3f}", heads, lines)


def ratio_text(row: dict[str, Any]) -> str:
    """Return the rollouts to uniform's final success and their interval, in multiples of uniform's."""
    return f"{_times(row['ratio'])} [{_times(row['ratio_low'])}, {_times(row['ratio_high'])}]"


def _times(value: float) -> str:
    return "none" if np.isnan(value) else "never" if np.isinf(value) else f"{value:.2f}"


def by_pool(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Return the cells of each pool: of each start, over the tasks, or of each log-linear pool by how it is learnt."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        key = cell[1] if len(cell) == 2 else " / ".join((cell[0], *cell[2:]))
        found.setdefault(key, []).append(cell)
    return found


def print_ratios(rows: Sequence[dict[str, Any]], kind: str) -> None:
    """Print every policy's rollouts to uniform's final success, cell by cell, with geometric mean and worst."""
    own = [row for row in rows if row["rate"] == kind]
    cells = list(dict.fromkeys(row["cell"] for row in own))
    lines = []
    for name in dict.fromkeys(row["policy"] for row in own):
        found = {row["cell"]: row["ratio"] for row in own if row["policy"] == name}
        values = np.array([found.get(cell, np.nan) for cell in cells])
        known = values[~np.isnan(values)]
        mean = float(np.exp(np.log(known).mean())) if known.size else np.nan
        lines.append((mean, [name, *map(_times, values), _times(mean), _times(known.max() if known.size else np.nan)]))
    if lines:
        title = f"ROLLOUTS TO UNIFORM'S FINAL SUCCESS; {kind} learning rate"
        heads = ["policy", *(cell.replace(" / ", "/") for cell in cells), "mean", "worst"]
        table(title, heads, [line for _, line in sorted(lines, key=lambda entry: entry[0])])


def print_pooled(by_cell: dict[Cell, dict[str, list[Record]]], kind: str) -> None:
    """Print the paired differences of final success over all cells of a pool."""
    for pool, cells in by_pool(list(by_cell)).items():
        found, learnt = pooled(by_cell, cells), pooled(by_cell, cells, trained)
        lines = [
            [name, f"{mean:+.4f} +- {half:.4f}", f"{wins}/{pairs}", "{:+.4f} +- {:.4f}".format(*learnt[name][:2])]
            for name, (mean, half, wins, pairs) in sorted(found.items(), key=lambda entry: -entry[1][0])
            if name != "uniform"
        ]
        heads = ["policy", "held out vs uniform", "above", "trained on vs uniform"]
        table(f"POOLED {pool}; {kind} learning rate; {len(cells)} cells", heads, lines)


def draw(by_cell: dict[Cell, dict[str, list[Record]]], kind: str, folder: Path) -> None:
    """Draw the curves of every cell, and the differences at the end per pool."""
    without_screen()
    if not by_cell:
        return
    cells = list(by_cell)
    for how in dict.fromkeys(cell[2:] for cell in cells):
        name = "_".join(("curves", kind, *how))
        own = [cell for cell in cells if cell[2:] == how]
        shown = [cell for cell in own if len(cell) == 2 or cell[1] == FEATURES] or own
        draw_curves({cell: by_cell[cell] for cell in shown}, folder / f"{name}.png")

    scores: dict[str, dict[str, Any]] = {}
    for pool, members in by_pool(cells).items():
        for name, gains in differences(by_cell, members, final).items():
            if name != "uniform":
                scores.setdefault(name, {})[pool] = 100.0 * np.array(gains)
    draw_gains(scores, folder / f"gains_{kind}.png")


def draw_gains(scores: dict[str, dict[str, Any]], file: Path) -> None:
    """Draw the differences of final success to uniform's, in points: per contender and pool, with 95% intervals."""
    plt = without_screen()
    figure, ax = plt.subplots(figsize=(6.0, 6.4), layout="constrained")
    ax.axvline(0.0, color="0.0", linewidth=1.2)
    plot_comparison(scores, ax, label="held-out success at the end, against uniform (points)")
    figure.savefig(file, dpi=130)
    plt.close(figure)


def draw_curves(by_cell: dict[Cell, dict[str, list[Record]]], file: Path) -> None:
    """Draw the curves of these cells: a row per task, or log-linear pools two in a row."""
    from matplotlib import pyplot as plt

    cells = list(by_cell)
    columns = min(3 if len(cells[0]) == 2 else 2, len(cells))
    lines = -(-len(cells) // columns)
    size = (3.7 * columns, 2.6 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    figure.get_layout_engine().set(rect=(0.0, 0.0, 0.85, 1.0), wspace=0.33)  # the names are on the right of the axes
    for ax, cell in zip(axes.flat, cells, strict=False):
        curves(ax, by_cell[cell])
        start = np.mean([run["held_out"][0] for run in by_cell[cell]["uniform"]])
        name = f"{cell[0]}, {cell[1]}" if len(cell) == 2 else cell[0]
        ax.set_title(f"{name}: {start:.0%} at the start", fontsize="medium", loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes.flat[len(cells) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("held-out success")
    for place in range(max(0, len(cells) - columns), len(cells)):
        axes.flat[place].set_xlabel("rollouts (thousands)")
    figure.canvas.draw()
    figure.set_layout_engine("none")
    for ax in axes.flat[: len(cells)]:
        label_ends(ax, 8.0, bold="training_allocator")
    figure.savefig(file, dpi=130)
    plt.close(figure)


def curves(ax: Any, games: dict[str, list[Record]]) -> None:
    """Draw mean held-out success over rollouts; the band is one standard error of uniform's."""
    for name, style in policy_styles(name for name in SHOWN if name in games).items():
        runs = games[name]
        x = np.mean([run["rollouts"] for run in runs], axis=0) / 1000.0
        y = np.array([run["held_out"] for run in runs])
        ax.plot(x, y.mean(0), **style)
        if name == "uniform":
            half = y.std(0, ddof=1) / np.sqrt(len(y))
            ax.fill_between(x, y.mean(0) - half, y.mean(0) + half, color=style["color"], alpha=0.15, linewidth=0)


def _line(record: Record) -> dict[str, Any]:
    """Return a record without its curve."""
    short = {name: value for name, value in record.items() if name not in ("rollouts", "held_out", "bands", "cell")}
    return {
        "cell": " / ".join(record["cell"]),
        **short,
        "start": record["held_out"][0],
        "final": final(record),
    }
