"""The figures of the report as a web page: inline SVG for marks, HTML for labels, so that text keeps its size on a phone.

Coordinates are percentages of the width, and of the height in bars over steps: a figure needs no fixed size and no script.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

from ._markup import folded, missing, number, percent, safe, table, with_interval
from ._results import UNIFORM

Row = dict[str, Any]

LOGGED = "as logged"
_RULE = "training_allocator"
_KINDS = {  # in the order of the stack: what teaches nothing lies at both ends
    "all_wrong": ("wrong", "all wrong"),
    "mixed": ("mixed", "mixed"),
    "between": ("between", "equal, in between"),
    "all_right": ("right", "all right"),
}


def steps_figure(bins: list[Row]) -> str:
    """Return the figure of the rollouts by outcome of their group over steps; empty without bins."""
    if not bins:
        return ""
    total = sum(row["rollouts"] for row in bins)
    mean = {kind: sum(row["rollouts"] * row.get(kind, 0.0) for row in bins) / total for kind in _KINDS}
    dead = percent(1.0 - mean["mixed"], 0)
    caption = f"Groups with equal rewards, which teach nothing, took {dead} of the rollouts"
    if len(bins) > 1:
        ends = (f"{percent(1.0 - row['mixed'], 0)} in {_steps(row)}" for row in (bins[0], bins[-1]))
        picture, caption = _over_steps(bins, caption), f"{caption}: {' and '.join(ends)}."
    else:
        caption += f": {percent(mean['all_wrong'], 0)} were in groups that were all wrong, {percent(mean['all_right'], 0)} all right."
        picture = f'<div class="bars">{_bar_row("the only step", mean, f"{dead} dead")}</div>\n'
    shown = _shown(bins)
    numbers = table(
        "Rollouts, and their shares by outcome of their group",
        ["Steps", "Rollouts", *(_KINDS[kind][1] for kind in shown)],
        (
            [_steps(row).split(" ", 1)[1], number(row["rollouts"]), *(percent(row.get(kind)) for kind in shown)]
            for row in bins
        ),
    )
    return _figure("Rollouts by outcome of their group", caption, _kinds_key(shown) + picture, numbers)


def _shown(rows: list[Row]) -> list[str]:
    """Return the kinds to show: equal rewards between wrong and right only where there are any."""
    return [kind for kind in _KINDS if kind != "between" or any(row.get(kind) for row in rows)]


def _steps(row: Row) -> str:
    first, last = number(row["first_step"]), number(row["last_step"])
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _over_steps(bins: list[Row], label: str) -> str:
    """Return stacked bars over the bins, with the scale in HTML."""
    width = 100.0 / len(bins)
    bars = []
    for i, row in enumerate(bins):
        told = f"{_steps(row)}: {_told(row)}"
        rects = "".join(
            f'<rect class="{css}" x="{i * width:.2f}%" y="{100.0 * (1.0 - start - share):.2f}%" width="{width:.2f}%" '
            f'height="{100.0 * share:.2f}%"/>'
            for css, start, share in _stack(row)
        )
        bars.append(f"<g><title>{safe(told)}</title>{rects}</g>\n")
    lines = "".join(f'<line class="over" x1="0" x2="100%" y1="{y}%" y2="{y}%"/>' for y in (25, 50, 75))
    return (
        '<div class="steps"><div class="scale"><span>100%</span><span>50%</span><span>0%</span></div>\n'
        f'<svg role="img" aria-label="{safe(label)}">{"".join(bars)}{lines}</svg>\n'
        f'<div class="ends"><span>step {number(bins[0]["first_step"])}</span><span>step {number(bins[-1]["last_step"])}</span>'
        "</div></div>\n"
    )


def _stack(row: Row) -> Iterable[tuple[str, float, float]]:
    """Yield class, start and share of the parts of one stacked bar."""
    start = 0.0
    for kind, (css, _) in _KINDS.items():
        share = row.get(kind) or 0.0
        if share:
            yield css, start, share
        start += share


def _told(row: Row) -> str:
    return ", ".join(f"{percent(row[kind], 0)} {name}" for kind, (_, name) in _KINDS.items() if row.get(kind))


def _kinds_key(shown: Iterable[str]) -> str:
    spans = (
        f'<span><svg aria-hidden="true"><rect class="{css}" width="14" height="14"/></svg>{name}</span>'
        for css, name in map(_KINDS.__getitem__, shown)
    )
    return f'<div class="key">{"".join(spans)}</div>\n'


def _bar_row(name: str, row: Row, value: str, marked: bool = False) -> str:
    """Return a named horizontal bar, stacked as the bars over steps."""
    rects = "".join(
        f'<rect class="{css}" x="{100.0 * start:.2f}%" width="{100.0 * share:.2f}%" height="100%"/>'
        for css, start, share in _stack(row)
    )
    return _named_row(
        name, f'<svg role="img" aria-label="{safe(_told(row))}">{rects}</svg>', value, "marked" if marked else ""
    )


def share_bars(rows: Iterable[tuple[str, float, str]]) -> str:
    """Return one bar per name, share and text."""
    bars = (
        _named_row(
            name,
            f'<svg role="img" aria-label="{percent(share)}"><rect class="plain" width="{100.0 * share:.2f}%" height="100%"/></svg>',
            value,
        )
        for name, share, value in rows
    )
    return f'<div class="bars">{"".join(bars)}</div>\n'


def _named_row(name: str, picture: str, value: str, kind: str = "", size: str = "") -> str:
    beside = f'<span class="size">{size}</span>' if size else ""
    return (
        f'<div class="row {kind}"><span class="name">{safe(name)}</span>{beside}<span class="plot">{picture}</span>'
        f'<span class="value">{value}</span></div>\n'
    )


# ---------------------------------------------------------------- policies


def policies_figure(rows: list[Row], budget: float | None) -> str:
    """Return the figure of the rollouts in mixed groups by policy; ``budget`` is their share of the log's, None for all."""
    rows = sorted(rows, key=lambda row: -1.0 if missing(row["mixed_share"]) else row["mixed_share"], reverse=True)
    if not rows:
        return ""
    known = {row["name"]: row["mixed_share"] for row in rows if not missing(row["mixed_share"])}
    ranked = [name for name in known if name != LOGGED]
    named = list(dict.fromkeys(name for name in (*ranked[:1], _RULE, UNIFORM) if name in known))
    amount = "the logged number of rollouts" if budget is None else f"{budget:.0%} of the rollouts"
    told = [f"{percent(known[name], 0)} with {name}" for name in named]
    if told:
        told[0] = f"at most {percent(known[named[0]], 0)} of them would have been in mixed groups ({named[0]})"
    caption = f"With {amount}, {_listed(told) or 'no policy had a figure'}."
    axis = _Axis.of(rows)
    lines = "".join(f'<line class="grid" x1="{axis(x)}" x2="{axis(x)}" y1="0" y2="100%"/>' for x in axis.ticks)
    if UNIFORM in known:
        at = axis(known[UNIFORM])
        lines += f'<line class="reference" x1="{at}" x2="{at}" y1="0" y2="100%"/>'
    picture = "".join(_dot_row(row, axis, lines) for row in rows)
    head = _named_row("Policy", axis.labels(), "share [95% interval]", "head", "mean group")
    numbers = table(
        f"Policies with {amount}; 95% intervals in brackets",
        ["Policy", "Rollouts", "Mean group", "Rollouts in mixed groups", "Kept of the log's mixed groups"],
        (
            [
                row["name"],
                number(row["dealt"]),
                number(row["mean_group"], 1),
                with_interval(row, "mixed_share", share=True),
                with_interval(row, "kept", share=True),
            ]
            for row in rows
        ),
    )
    note = (
        '<p class="note">Larger groups are mixed more often; smaller groups keep more mixed groups, each of fewer rollouts. '
        "Compare policies with similar mean groups.</p>\n"
    )
    key = (
        '<div class="key"><span><svg aria-hidden="true"><circle class="dot" cx="7" cy="7" r="5"/></svg>policy</span>'
        '<span><svg aria-hidden="true"><circle class="dot marked" cx="7" cy="7" r="5"/></svg>Uniform (dashed line)</span>'
        '<span><svg aria-hidden="true"><circle class="dot hollow" cx="7" cy="7" r="5"/></svg>as logged, all rollouts</span></div>\n'
    )
    title = "Rollouts in mixed groups by policy" + ("" if budget is None else f", with {budget:.0%} of the rollouts")
    return _figure(title, caption, f'{key}<div class="dots">{head}{picture}</div>\n{note}', numbers)


@dataclass(frozen=True, slots=True)
class _Axis:
    """The part of the shares that is drawn: whole tenths around all intervals."""

    low: int  # tenths
    high: int

    @classmethod
    def of(cls, rows: list[Row]) -> _Axis:
        names = ("mixed_share", "mixed_share_interval_low", "mixed_share_interval_high")
        shares = [row[name] for row in rows for name in names if not missing(row[name])] or [0.0, 1.0]
        low = min(9, floor(10.0 * min(shares)))
        return cls(low, max(low + 1, ceil(10.0 * max(shares))))

    @property
    def ticks(self) -> list[float]:
        """Tenths, or fifths where there are many."""
        return [tenth / 10.0 for tenth in range(self.low, self.high + 1) if self.high - self.low <= 4 or tenth % 2 == 0]

    def __call__(self, share: float) -> str:
        return f"{100.0 * (10.0 * share - self.low) / (self.high - self.low):.2f}%"

    def labels(self) -> str:
        """Return the ticks' labels; those at the ends stay inside."""
        ends = {self.low: "start", self.high: "end"}
        labels = (
            f'<text x="{self(x)}" y="13" text-anchor="{ends.get(round(10.0 * x), "middle")}">{percent(x, 0)}</text>'
            for x in self.ticks
        )
        return f'<svg aria-hidden="true">{"".join(labels)}</svg>'


def _dot_row(row: Row, axis: _Axis, lines: str) -> str:
    """Return one policy: its name, mean group, dot with interval, and the same in figures."""
    name, share = row["name"], row["mixed_share"]
    low, high = row["mixed_share_interval_low"], row["mixed_share_interval_high"]
    text = with_interval(row, "mixed_share", digits=0, share=True)
    value, _, ends = text.partition(" ")
    kind = {UNIFORM: "marked", LOGGED: "marked hollow"}.get(name, "")
    marks = ""
    if not missing(low) and not missing(high):
        marks += f'<line class="interval" x1="{axis(low)}" x2="{axis(high)}" y1="50%" y2="50%"/>'
    if not missing(share):
        marks += f'<circle class="dot" cx="{axis(share)}" cy="50%" r="4.5"/>'
    picture = f'<svg role="img" aria-label="{safe(f"{name}: {text}")}">{lines}{marks}</svg>'
    return _named_row(name, picture, f"<b>{value}</b> <small>{ends}</small>", kind, number(row["mean_group"], 1))


# ---------------------------------------------------------------- sizes


def sizes_figure(rows: list[Row]) -> str:
    """Return the figure of the expected dead groups at other group sizes; empty without rows."""
    if not rows:
        return ""
    rows = sorted(rows, key=lambda row: float(row["size"]))
    picked = {row["size"]: row for row in (rows[0], *(row for row in rows if row["logged"]), rows[-1])}
    told = [
        f"{percent(1.0 - row['mixed'], 0)} of {'the logged ' if row['logged'] else ''}groups of {number(row['size'])}"
        for row in sorted(picked.values(), key=lambda row: float(row["size"]))
    ]
    caption = f"By beliefs fitted to the log, {_listed(told)} are expected to be dead."
    picture = "".join(
        _bar_row(
            f"groups of {number(row['size'])}{', logged' if row['logged'] else ''}",
            row,
            f"<b>{percent(1.0 - row['mixed'], 0)}</b> dead",
            row["logged"],
        )
        for row in rows
    )
    shown = _shown(rows)
    numbers = table(
        "Expected shares of groups by size",
        ["Rollouts of a group", *(_KINDS[kind][1] for kind in shown), "dead"],
        (
            [
                f"{number(row['size'])}{' (logged)' if row['logged'] else ''}",
                *(percent(row.get(kind)) for kind in shown),
                percent(1.0 - row["mixed"]),
            ]
            for row in rows
        ),
    )
    return _figure(
        "Dead groups at other group sizes", caption, f'{_kinds_key(shown)}<div class="bars">{picture}</div>\n', numbers
    )


def _listed(parts: list[str]) -> str:
    """Return a list in words."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


def _figure(title: str, caption: str, picture: str, numbers: str) -> str:
    return (
        f"<figure>\n<h2>{safe(title)}</h2>\n<figcaption>{safe(caption)}</figcaption>\n{picture}"
        f"{folded('The numbers', numbers)}</figure>\n"
    )
