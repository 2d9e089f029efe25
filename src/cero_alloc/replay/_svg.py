"""The figures of the report as a web page."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

from cero_alloc._pages.charts import (
    KINDS,
    Row,
    bar_row,
    figure,
    kinds_key,
    listed,
    named_row,
    shown_kinds,
    stacked_columns,
)
from cero_alloc._pages.markup import missing, number, percent, safe, table, with_interval

from ._results import UNIFORM
from ._verdict import RULE

LOGGED = "as logged"


def steps_figure(bins: list[Row]) -> str:
    """Return the figure of the rollouts by outcome of their group over steps; empty without bins."""
    if not bins:
        return ""
    total = sum(row["rollouts"] for row in bins)
    mean = {kind: sum(row["rollouts"] * row.get(kind, 0.0) for row in bins) / total for kind in KINDS}
    dead = percent(1.0 - mean["mixed"], 0)
    caption = f"Groups with equal rewards, which teach nothing, took {dead} of the rollouts"
    if len(bins) > 1:
        ends = (f"{percent(1.0 - row['mixed'], 0)} in {_steps(row)}" for row in (bins[0], bins[-1]))
        labels = f"step {number(bins[0]['first_step'])}", f"step {number(bins[-1]['last_step'])}"
        picture = stacked_columns(bins, map(_steps, bins), labels, caption)
        caption = f"{caption}: {' and '.join(ends)}."
    else:
        caption += f": {percent(mean['all_wrong'], 0)} were in groups that were all wrong, {percent(mean['all_right'], 0)} all right."
        picture = f'<div class="bars">{bar_row("the only step", mean, f"{dead} dead")}</div>\n'
    shown = shown_kinds(bins)
    numbers = table(
        "Rollouts, and their shares by outcome of their group",
        ["Steps", "Rollouts", *(KINDS[kind][1] for kind in shown)],
        (
            [_steps(row).split(" ", 1)[1], number(row["rollouts"]), *(percent(row.get(kind)) for kind in shown)]
            for row in bins
        ),
    )
    return figure("Rollouts by outcome of their group", caption, kinds_key(shown) + picture, numbers)


def _steps(row: Row) -> str:
    first, last = number(row["first_step"]), number(row["last_step"])
    return f"step {first}" if first == last else f"steps {first} to {last}"


# ---------------------------------------------------------------- policies


def policies_figure(rows: list[Row], budget: float | None) -> str:
    """Return the figure of the rollouts in mixed groups by policy; ``budget`` is their share of the log's, None for all."""
    rows = sorted(rows, key=lambda row: -1.0 if missing(row["mixed_share"]) else row["mixed_share"], reverse=True)
    if not rows:
        return ""
    known = {row["name"]: row["mixed_share"] for row in rows if not missing(row["mixed_share"])}
    ranked = [name for name in known if name != LOGGED]
    named = list(dict.fromkeys(name for name in (*ranked[:1], RULE, UNIFORM) if name in known))
    amount = "the logged number of rollouts" if budget is None else f"{budget:.0%} of the rollouts"
    told = [f"{percent(known[name], 0)} with {name}" for name in named]
    if told:
        told[0] = f"at most {percent(known[named[0]], 0)} of them would have been in mixed groups ({named[0]})"
    caption = f"With {amount}, {listed(told) or 'no policy had a figure'}."
    for row in rows:
        if budget is not None and row["name"] == RULE and not missing(row["kept"]):
            kept = with_interval(row, "kept", digits=0, share=True)
            share = percent(row["mixed_share"], 0)
            caption += f" The {share} of {RULE}'s rollouts hold {kept} of all mixed groups of the log: the share kept."
    axis = _Axis.of(rows)
    lines = "".join(f'<line class="grid" x1="{axis(x)}" x2="{axis(x)}" y1="0" y2="100%"/>' for x in axis.ticks)
    if UNIFORM in known:
        at = axis(known[UNIFORM])
        lines += f'<line class="reference" x1="{at}" x2="{at}" y1="0" y2="100%"/>'
    picture = "".join(_dot_row(row, axis, lines) for row in rows)
    head = named_row("Policy", axis.labels(), "share [95% interval]", "head", "mean group")
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
        bold=RULE,
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
    return figure(title, caption, f'{key}<div class="dots">{head}{picture}</div>\n{note}', numbers)


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
    kind = {UNIFORM: "marked", LOGGED: "marked hollow", RULE: "bold"}.get(name, "")
    marks = ""
    if not missing(low) and not missing(high):
        marks += f'<line class="interval" x1="{axis(low)}" x2="{axis(high)}" y1="50%" y2="50%"/>'
    if not missing(share):
        marks += f'<circle class="dot" cx="{axis(share)}" cy="50%" r="4.5"/>'
    picture = f'<svg role="img" aria-label="{safe(f"{name}: {text}")}">{lines}{marks}</svg>'
    return named_row(name, picture, f"<b>{value}</b> <small>{ends}</small>", kind, number(row["mean_group"], 1))


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
    caption = f"By beliefs fitted to the log, {listed(told)} are expected to be dead."
    picture = "".join(
        bar_row(
            f"groups of {number(row['size'])}{', logged' if row['logged'] else ''}",
            row,
            f"<b>{percent(1.0 - row['mixed'], 0)}</b> dead",
            row["logged"],
        )
        for row in rows
    )
    shown = shown_kinds(rows)
    numbers = table(
        "Expected shares of groups by size",
        ["Rollouts of a group", *(KINDS[kind][1] for kind in shown), "dead"],
        (
            [
                f"{number(row['size'])}{' (logged)' if row['logged'] else ''}",
                *(percent(row.get(kind)) for kind in shown),
                percent(1.0 - row["mixed"]),
            ]
            for row in rows
        ),
    )
    return figure(
        "Dead groups at other group sizes", caption, f'{kinds_key(shown)}<div class="bars">{picture}</div>\n', numbers
    )
