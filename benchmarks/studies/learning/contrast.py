"""What the study of single rollouts asks: rollouts and gains against GRPO, and who gets the credit, single rollouts or choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cero_alloc.plotting import COLORS, DASHES, policy_styles
from studies.common.pictures import without_screen
from studies.common.tables import mean_and_half, table, write_csv
from studies.learning.policies import CHOSEN, GROUPS, UNCHOSEN
from studies.learning.report import ratio_text
from studies.learning.statistics import RESAMPLES, Chosen, at_rate, final, rollouts_ratio, trained
from studies.learning.study import Cell, Record, Study

Games = dict[str, list[Record]]  # records of a cell by scheme, each in order of seeds

GRPO = "uniform"
LABELS = {
    GRPO: "8 rollouts, uniform (GRPO)",
    GROUPS: "8 rollouts, chosen",
    UNCHOSEN: "1 rollout, posterior, uniform",
    CHOSEN: "1 rollout, posterior, chosen",
}
# Who chooses has the policy's colour; dashes tell single rollouts from groups.
_BY, _DASHES = ("uniform", "re-solving", "uniform", "re-solving"), (0, 1, 2, 0)
_WORDS = {"modular": "remainders", "running": "running sums", "quarter": "from 0.25", "hard": "from 0.05"}
ROLLOUTS, GAIN = 0.5, 1.5  # goals: rollouts to GRPO's final success, and gain, both in multiples of GRPO's


def report_contrast(study: Study, records: Sequence[Record], chosen: Chosen, folder: Path) -> None:
    """Print and write the contrast with GRPO, the two-by-two, the goals, and a picture of each."""
    by_cell = at_rate(study, records, chosen, study.kinds[0])
    rows = [row for cell, games in by_cell.items() for row in contrast(cell, games)]
    print_contrast(rows)
    squares = {cell: two_by_two(games) for cell, games in by_cell.items() if GROUPS in games and UNCHOSEN in games}
    print_two_by_two(squares)
    print_goals([row for row in rows if row["scheme"] == CHOSEN])
    write_csv(folder / "contrast.csv", rows, in_order=True)
    draw_curves({cell: games for cell, games in by_cell.items() if CHOSEN in games}, folder / "single_curves.png")
    draw_two_by_two(squares, folder / "single_credit.png")


def contrast(cell: Cell, games: Games) -> list[dict[str, Any]]:
    """Return a row per scheme: final success, difference to GRPO's, and both ratios with their 95% intervals."""
    base = games[GRPO]
    rows = []
    for name, runs in games.items():
        if name == GRPO:
            continue
        if [run["seed"] for run in runs] != [run["seed"] for run in base]:
            raise ValueError(f"{' / '.join(cell)}: {name} and GRPO must have the same seeds. Run the study to its end.")
        ratio, low, high = rollouts_ratio(runs, base)
        gain, gain_low, gain_high = gains_ratio(runs, base)
        ahead = [final(a) - final(b) for a, b in zip(runs, base, strict=True)]
        more, half = mean_and_half(ahead)
        learnt, learnt_half = mean_and_half([trained(a) - trained(b) for a, b in zip(runs, base, strict=True)])
        rows.append(
            {
                "cell": " / ".join(cell), "scheme": name, "seeds": len(runs), "learning_rate": runs[0]["learning_rate"],
                "start": float(np.mean([run["held_out"][0] for run in base])),
                "grpo": float(np.mean([final(run) for run in base])), "final": float(np.mean([final(run) for run in runs])),
                "above": sum(difference > 0.0 for difference in ahead),
                "more": more, "more_half": half, "learnt": learnt, "learnt_half": learnt_half, "ratio": ratio,
                "ratio_low": low, "ratio_high": high, "gain": gain, "gain_low": gain_low, "gain_high": gain_high,
            }
        )  # fmt: skip
    return rows


def gains_ratio(runs: Sequence[Record], base: Sequence[Record]) -> tuple[float, float, float]:
    """Return the mean gain from start to end in multiples of GRPO's, with a 95% interval by seeds resampled in pairs.

    NaN where GRPO gained nothing, or did so in too many of the draws.
    """
    ours, theirs = (np.array([final(run) - run["held_out"][0] for run in group]) for group in (runs, base))
    draws = np.random.default_rng(0).integers(0, len(ours), (RESAMPLES, len(ours)))
    above, below = ours[draws].mean(1), theirs[draws].mean(1)
    if theirs.mean() <= 0.0 or np.mean(below <= 0.0) > 0.025:
        return (float("nan"),) * 3
    low, high = np.quantile(above[below > 0.0] / below[below > 0.0], [0.025, 0.975])
    return float(ours.mean() / theirs.mean()), float(low), float(high)


def two_by_two(games: Games) -> dict[str, list[float]]:
    """Return per seed what each factor adds to held-out success at the end, and what both add beyond their sum.

    "choice, groups" is chosen less uniform prompts in groups of 8, "choice, single" the same for single rollouts,
    "single, uniform" and "single, chosen" single rollouts less groups, and "interaction" the second less the first.
    """
    ends = {name: np.array([final(run) for run in games[name]]) for name in LABELS}
    in_groups, alone = ends[GROUPS] - ends[GRPO], ends[CHOSEN] - ends[UNCHOSEN]
    return {
        "choice, groups": in_groups.tolist(),
        "choice, single": alone.tolist(),
        "single, uniform": (ends[UNCHOSEN] - ends[GRPO]).tolist(),
        "single, chosen": (ends[CHOSEN] - ends[GROUPS]).tolist(),
        "interaction": (alone - in_groups).tolist(),
    }


def print_contrast(rows: Iterable[dict[str, Any]]) -> None:
    """Print the contrast, cell by cell."""
    lines = [
        [
            row["cell"], row["scheme"], f"{row['learning_rate']:g}", f"{row['start']:.3f}", f"{row['grpo']:.3f}",
            f"{row['final']:.3f}", f"{row['more']:+.4f} +- {row['more_half']:.4f}", f"{row['above']}/{row['seeds']}",
            _gain_text(row), ratio_text(row),
            f"{row['learnt']:+.3f} +- {row['learnt_half']:.3f}",
        ]
        for row in rows
    ]  # fmt: skip
    ratios = "gain / GRPO's", "rollouts / GRPO's", "pool vs GRPO"
    heads = ["cell", "scheme", "rate", "start", "GRPO", "final", "vs GRPO", "above", *ratios]
    table("AGAINST GRPO, held out, each at its own learning rate", heads, lines)


def _gain_text(row: dict[str, Any]) -> str:
    values = [row[name] for name in ("gain", "gain_low", "gain_high")]
    return "none" if np.isnan(values[0]) else "{:.2f} [{:.2f}, {:.2f}]".format(*values)


def print_two_by_two(squares: dict[Cell, dict[str, list[float]]]) -> None:
    """Print what single rollouts and choice add, apart and together, in points of held-out success."""
    heads = ["cell", *next(iter(squares.values()), {})]
    lines = [[" / ".join(cell), *map(_points, square.values())] for cell, square in squares.items()]
    if len(squares) > 1:
        lines.append(["mean of the cells", *(_points(_over_cells(squares, name)) for name in heads[1:])])
    table("TWO BY TWO: points of held-out success that each factor adds at the end", heads, lines)


def _over_cells(squares: dict[Cell, dict[str, list[float]]], name: str) -> list[float]:
    """Return a factor's mean over the cells, seed by seed."""
    return np.mean([square[name] for square in squares.values()], axis=0).tolist()  # type: ignore[no-any-return]


def _points(differences: list[float]) -> str:
    mean, half = mean_and_half(differences)
    return f"{100 * mean:+.1f} +- {100 * half:.1f}"


def print_goals(rows: Sequence[dict[str, Any]]) -> None:
    """Print which of the goals are met: chosen single rollouts against GRPO."""
    lines = []
    for start in ("hard", "quarter"):
        here = [row for row in rows if row["cell"].endswith(start) and "large" not in row["cell"]]
        fast = sum(row["ratio"] <= ROLLOUTS and row["ratio_high"] < 1.0 and row["gain"] > 0.0 for row in here)
        far = sum(row["gain"] >= GAIN for row in here)
        lines.append([f"{start}: rollouts <= {ROLLOUTS}, interval below 1", f"{fast} of {len(here)} tasks"])
        lines.append([f"{start}: gain >= {GAIN} times GRPO's", f"{far} of {len(here)} tasks"])
    solved = [row for row in rows if row["cell"].endswith("nearly solved")]
    lost = sum(row["more"] + row["more_half"] < 0.0 for row in solved)
    lines.append(["nearly solved: significantly below GRPO", f"{lost} of {len(solved)} tasks"])
    table(f"GOALS: {CHOSEN}", ["goal", "reached"], lines)


def draw_curves(by_cell: dict[Cell, Games], file: Path) -> None:
    """Draw held-out success over rollouts: a column per task, a row per start."""
    if not by_cell:
        return
    plt = without_screen()
    cells = [cell for cell in by_cell if "," not in cell[0]]
    tasks, starts = (list(dict.fromkeys(cell[i] for cell in cells)) for i in (0, 1))
    size = (2.3 * len(tasks) + 0.4, 1.9 * len(starts) + 0.5)
    figure, axes = plt.subplots(len(starts), len(tasks), figsize=size, layout="constrained", squeeze=False, sharex=True)
    for ax, (task, start) in zip(axes.flat, ((task, start) for start in starts for task in tasks), strict=True):
        if (task, start) not in by_cell:
            ax.set_axis_off()
            continue
        curves(ax, by_cell[task, start])
        ax.set_title(f"{_WORDS.get(task, task)}, {_WORDS.get(start, start)}", fontsize="small", loc="left")
    for ax in axes[:, 0]:
        ax.set_ylabel("held-out success", fontsize="small")
    for ax in axes[-1]:
        ax.set_xlabel("rollouts (thousands)", fontsize="small")
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes.flat), key=lambda found: len(found[1]))
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def curves(ax: Any, games: Games) -> None:
    """Draw the mean over seeds with its standard error, ours strongest."""
    for (name, label), by, dash in zip(LABELS.items(), _BY, _DASHES, strict=True):
        if name not in games:
            continue
        x = np.mean([run["rollouts"] for run in games[name]], axis=0) / 1000.0
        y = np.array([run["held_out"] for run in games[name]])
        half: npt.NDArray[np.float64] = y.std(0, ddof=1) / np.sqrt(len(y))
        style = policy_styles([by])[by] | {"label": label, "linestyle": DASHES[dash]}
        color = style["color"]
        ax.plot(x, y.mean(0), **style | {"linewidth": 2.4 if name == CHOSEN else 1.3})
        ax.fill_between(x, y.mean(0) - half, y.mean(0) + half, color=color, alpha=0.15, linewidth=0)
    ax.tick_params(labelsize="small")


def draw_two_by_two(squares: dict[Cell, dict[str, list[float]]], file: Path) -> None:
    """Draw what each factor adds, per task, with 95% intervals."""
    if not squares:
        return
    plt = without_screen()
    names = {
        "single, uniform": "single rollouts alone",
        "choice, groups": "choice alone, in groups of 8",
        "choice, single": "choice, with single rollouts",
    }
    figure, ax = plt.subplots(figsize=(7.2, 2.8), layout="constrained")
    ax.axvline(0.0, color="0.3", linewidth=0.8)
    places = np.arange(len(squares), dtype=float)[::-1]
    for i, (name, label) in enumerate(names.items()):
        found = [mean_and_half([100 * value for value in square[name]]) for square in squares.values()]
        mean, half = np.array(found).T
        at = places + 0.22 * (1 - i)
        ax.errorbar(
            mean, at, xerr=half, fmt="os^"[i], color=COLORS[i], label=label, capsize=2, markersize=4, linewidth=1.2
        )
    ax.set_yticks(places, [cell[0] for cell in squares])
    ax.set_xlabel("held-out success at the end, points gained (95% interval)", fontsize="small")
    ax.tick_params(labelsize="small")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    figure.savefig(file, dpi=130)
    plt.close(figure)
