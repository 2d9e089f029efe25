"""Tables, page and picture of speed.py."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from studies.common.pictures import without_screen
from studies.common.tables import table

Curves = dict[str, dict[int, np.ndarray]]  # method -> prompts -> seconds, one per repeat
FLOOR = "one np.log pass"
PEERS_TITLE = (
    "9. One decision by every method: n prompts, 8 n rollouts; median time, and its multiple of FenchelDualAllocator's"
)
REPEATS = 7  # of a figure; fewer are named beside it
HEADER = ("median", "least", "largest", "unit", "target", "verdict", "beside")
MARKS = "<!-- speed.py: begin -->", "<!-- speed.py: end -->"


@dataclass(frozen=True)
class Row:
    """One figure: a value per repeat, and its target.

    A figure meets its target when its median does, at most ``target``, less than it where ``strict``, or at least where
    ``rising``.
    """

    label: str
    values: Sequence[float] | np.ndarray
    unit: str
    target: float | None = None
    strict: bool = False
    rising: bool = False
    beside: str = ""  # the same in another unit, or why there is no value
    seconds: Sequence[float] | np.ndarray = field(default=(), compare=False)  # where the value is a ratio of times

    @property
    def verdict(self) -> str:
        """Word for the target: met, missed, open where it was not measured, empty without a target."""
        if self.target is None:
            return ""
        if not len(self.values):
            return "open"
        median = float(np.median(self.values))
        if self.rising:
            return "met" if median >= self.target else "missed"
        return "met" if median < self.target or (median == self.target and not self.strict) else "missed"

    def cells(self) -> list[str]:
        """Return the row as text."""
        values = np.asarray(self.values, dtype=np.float64)
        spread = [number(f(values)) for f in (np.median, np.min, np.max)] if values.size else ["-"] * 3
        sign = ">=" if self.rising else "<" if self.strict else "<="
        aim = "" if self.target is None else f"{sign} {number(self.target)}"
        time = duration(float(np.median(self.seconds))) if len(self.seconds) and self.unit not in ("us", "s") else ""
        counted = self.unit == "bytes"  # a repeat would say the same
        few = f"repeats: {values.size}" if 0 < values.size < REPEATS and not counted else ""
        beside = ", ".join(filter(None, (time, self.beside, few)))
        return [self.label, *spread, self.unit, aim, self.verdict, beside]


def ratio(
    label: str, seconds: np.ndarray, base: np.ndarray, unit: str = "log passes", target: float | None = None
) -> Row:
    """Return the row of one time by another, repeat by repeat.

    Beside it stands the least time by the least, which a busy machine disturbs less than the median of the ratios.
    """
    least = f"least by least {number(float(seconds.min() / base.min()))}"
    return Row(label, seconds / base, unit, target, beside=least, seconds=seconds)


def left_out(label: str, option: str) -> Row:
    """Return the row of a figure that an option left out, or that needs one."""
    return Row(label, (), "", beside="left out by --quick" if option == "quick" else f"only with --{option}")


def number(x: float) -> str:
    """Write a number with three significant digits, and no exponent where it is large."""
    if x == 0.0 or not math.isfinite(x):
        return f"{x:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(x))))
    return f"{x:,.{digits}f}" if abs(x) >= 1e-4 else f"{x:.1e}"


def duration(seconds: float) -> str:
    """Write a time in a handy unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds * 1e6)} us"


# ---------------------------------------------------------------- tables


def print_section(title: str, rows: list[Row]) -> None:
    """Print one section."""
    table(title, ["figure", *HEADER], [row.cells() for row in rows])


def print_verdicts(sections: dict[str, list[Row]]) -> None:
    """Print how many targets were met, and which were not."""
    aimed = [(title, row) for title, rows in sections.items() for row in rows if row.verdict]
    met = sum(row.verdict == "met" for _, row in aimed)
    measured = [(title, row) for title, row in aimed if row.verdict != "open"]
    print(f"\n{met} of {len(measured)} targets met.")
    for title, row in measured:
        if row.verdict == "missed":
            label, median, *_, unit, target, _, _ = row.cells()
            print(f"missed: {title.split('.')[0]}. {label.strip()}: {median} {unit}, target {target}")


def peers_table(curves: Curves, base: str = "FenchelDualAllocator") -> tuple[list[str], list[list[str]]]:
    """Return header and rows: the median time of every method at every size, and its multiple of ``base``'s."""
    sizes = sorted({n for times in curves.values() for n in times})
    median = {name: {n: float(np.median(t)) for n, t in times.items()} for name, times in curves.items()}
    rows = [
        [name, *(f"{duration(t[n])} ({number(t[n] / median[base][n])})" if n in t else "-" for n in sizes)]
        for name, t in median.items()
    ]
    return ["method", *(f"{n:,}" for n in sizes)], rows


def markdown(sections: dict[str, list[Row]], curves: Curves, preface: str) -> str:
    """Return all tables as Markdown."""
    tables = {title: (["figure", *HEADER], [row.cells() for row in rows]) for title, rows in sections.items()}
    if curves:
        tables[PEERS_TITLE] = peers_table(curves)
    parts = [preface]
    for title, (header, rows) in sorted(tables.items(), key=lambda entry: int(entry[0].split(".")[0])):
        lines = [header, ["---"] * len(header), *rows]
        parts.append(f"### {title}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    return "\n\n".join(parts)


def write_page(page: Path, text: str) -> None:
    """Put the tables between the two marks of a page."""
    begin, end = MARKS
    old = page.read_text()
    if old.count(begin) != 1 or old.count(end) != 1:
        raise SystemExit(f"{page} must have one line {begin} and one {end}")
    new = re.sub(f"{re.escape(begin)}.*{re.escape(end)}", lambda _: f"{begin}\n\n{text}\n\n{end}", old, flags=re.DOTALL)
    page.write_text(new)


def write_json(file: Path, sections: dict[str, list[Row]], curves: Curves, machine: str) -> None:
    """Write every value of every repeat."""
    peers = {name: {n: [float(t) for t in times[n]] for n in times} for name, times in curves.items()}
    rows = [
        {"section": title, "figure": row.label.strip(), "unit": row.unit, "values": [float(x) for x in row.values],
         "seconds": [float(x) for x in row.seconds], "target": row.target, "verdict": row.verdict, "beside": row.beside}
        for title, section in sections.items() for row in section
    ]  # fmt: skip
    file.write_text(json.dumps({"machine": machine, "rows": rows, "peers": peers}, indent=1) + "\n")


# ---------------------------------------------------------------- picture


def draw(file: Path, curves: Curves) -> None:
    """Draw the time of a round against the number of prompts."""
    pyplot = without_screen()

    from cero_alloc.plotting import DASHES, MARKERS, policy_styles

    figure, ax = pyplot.subplots(figsize=(7.0, 4.4), layout="constrained")

    def per_prompt(curve: tuple[str, dict[int, list[float]]]) -> float:
        size, times = max(curve[1].items())
        return float(np.median(times)) / size

    plain = 0  # solvers beside the package's own: a rule keeps its colour, and each has dashes and a marker
    for name, points in sorted(curves.items(), key=per_prompt, reverse=True):
        rule, _, how = name.partition(", ")
        style = policy_styles([rule])[rule] | {"label": name, "marker": ".", "linewidth": 1.1}
        if name.endswith("Allocator"):
            style |= {"label": policy_styles([name])[name]["label"], "marker": "o", "markersize": 5, "linewidth": 2.6}
        elif name == FLOOR:
            style |= {"color": "0.45", "linestyle": (0, (1, 2)), "marker": "none"}
        elif rule.startswith("NumPy"):
            style |= {"color": "0.45", "linestyle": "-"}
        elif how.startswith("threshold"):
            style |= {"linestyle": "-"}
        else:
            plain += 1
            style |= {"linestyle": DASHES[plain % len(DASHES)], "marker": MARKERS[plain], "markersize": 4}
        ax.plot(list(points), [float(np.median(times)) for times in points.values()], **style)
    ax.set(xscale="log", yscale="log", xlabel="prompts", ylabel="time to divide 8 rollouts per prompt (s)")
    ax.grid(which="major", color="0.92", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    small = {"fontsize": "small", "title_fontsize": "small"}
    figure.legend(
        title="slow to fast at the largest pool", loc="outside right center", frameon=False, handlelength=3.0, **small
    )
    figure.savefig(file, dpi=160)
    pyplot.close(figure)
