"""Figures of a page: inline SVG for marks, HTML for labels, so that text keeps its size on a phone.

Coordinates are percentages of the width, and of the height in columns over time: a figure needs no fixed size and no script.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .markup import folded, percent, safe

Row = dict[str, Any]

KINDS = {  # in the order of the stack: what teaches nothing lies at both ends
    "all_wrong": ("wrong", "all wrong"),
    "mixed": ("mixed", "mixed"),
    "between": ("between", "equal, in between"),
    "all_right": ("right", "all right"),
}


def shown_kinds(rows: list[Row]) -> list[str]:
    """Return the kinds to show: equal rewards between wrong and right only where there are any."""
    return [kind for kind in KINDS if kind != "between" or any(row.get(kind) for row in rows)]


def stacked_columns(rows: list[Row], told: Iterable[str], ends: tuple[str, str], label: str) -> str:
    """Return stacked columns of one width over time, with the scale in HTML; ``told`` names each, ``ends`` the first and last."""
    width = 100.0 / len(rows)
    bars = []
    for i, (row, name) in enumerate(zip(rows, told, strict=True)):
        rects = "".join(
            f'<rect class="{css}" x="{i * width:.2f}%" y="{100.0 * (1.0 - start - share):.2f}%" width="{width:.2f}%" '
            f'height="{100.0 * share:.2f}%"/>'
            for css, start, share in _stack(row)
        )
        bars.append(f"<g><title>{safe(f'{name}: {told_kinds(row)}')}</title>{rects}</g>\n")
    lines = "".join(f'<line class="over" x1="0" x2="100%" y1="{y}%" y2="{y}%"/>' for y in (25, 50, 75))
    picture = f'<svg role="img" aria-label="{safe(label)}">{"".join(bars)}{lines}</svg>'
    return scaled(picture, ("100%", "50%", "0%"), ends)


def scaled(picture: str, scale: Iterable[str], ends: Iterable[str]) -> str:
    """Return a picture with a scale beside it, from the top down, and labels below it."""
    beside, below = ("".join(f"<span>{safe(text)}</span>" for text in texts) for texts in (scale, ends))
    return f'<div class="steps"><div class="scale">{beside}</div>\n{picture}\n<div class="ends">{below}</div></div>\n'


def lines_over(
    lines: Iterable[tuple[str, list[tuple[float, float]]]], scale: tuple[str, str, str], ends: Iterable[str], label: str
) -> str:
    """Return lines over time by class and points, in shares of the width and, from below, of the height."""
    drawn = "".join(
        f'<polyline class="{css}" points="{" ".join(f"{100.0 * x:.2f},{100.0 * (1.0 - y):.2f}" for x, y in points)}"/>'
        for css, points in lines
    )
    grid = "".join(f'<line class="grid" x1="0" x2="100" y1="{y}" y2="{y}"/>' for y in (0, 50))
    frame = f'role="img" aria-label="{safe(label)}" viewBox="0 0 100 100" preserveAspectRatio="none"'
    return scaled(f"<svg {frame}>{grid}{drawn}</svg>", scale, ends).replace('"steps"', '"steps lines"', 1)


def lines_key(names: Iterable[tuple[str, str]]) -> str:
    """Return the key of lines by class and name."""
    spans = (
        f'<span><svg aria-hidden="true"><line class="{css}" x1="0" x2="14" y1="7" y2="7"/></svg>{safe(name)}</span>'
        for css, name in names
    )
    return f'<div class="key">{"".join(spans)}</div>\n'


def panels(parts: Iterable[tuple[str, str]]) -> str:
    """Return pictures with titles side by side; one below the other on a phone."""
    return f'<div class="panels">{"".join(f"<div><h3>{safe(title)}</h3>{part}</div>" for title, part in parts)}</div>\n'


def columns(shares: Iterable[float], told: Iterable[str], top: float, ends: Iterable[str], label: str) -> str:
    """Return plain columns of one width, up to a share of ``top``."""
    shares = list(shares)
    width = 100.0 / len(shares)
    bars = "".join(
        f'<g><title>{safe(name)}</title><rect class="plain" x="{i * width:.2f}%" y="{100.0 * (1.0 - share / top):.2f}%" '
        f'width="{width:.2f}%" height="{100.0 * share / top:.2f}%"/></g>\n'
        for i, (share, name) in enumerate(zip(shares, told, strict=True))
    )
    picture = f'<svg role="img" aria-label="{safe(label)}">{bars}</svg>'
    return scaled(picture, (percent(top, 0), percent(top / 2.0, 0), "0%"), ends).replace('"steps"', '"steps lines"', 1)


def _stack(row: Row) -> Iterable[tuple[str, float, float]]:
    """Yield class, start and share of the parts of one stacked bar."""
    start = 0.0
    for kind, (css, _) in KINDS.items():
        share = row.get(kind) or 0.0
        if share:
            yield css, start, share
        start += share


def told_kinds(row: Row) -> str:
    """Return a row's shares in words."""
    return ", ".join(f"{percent(row[kind], 0)} {name}" for kind, (_, name) in KINDS.items() if row.get(kind))


def kinds_key(shown: Iterable[str]) -> str:
    """Return the key of the colours."""
    spans = (
        f'<span><svg aria-hidden="true"><rect class="{css}" width="14" height="14"/></svg>{name}</span>'
        for css, name in map(KINDS.__getitem__, shown)
    )
    return f'<div class="key">{"".join(spans)}</div>\n'


def bar_row(name: str, row: Row, value: str, marked: bool = False) -> str:
    """Return a named horizontal bar, stacked as the bars over steps."""
    rects = "".join(
        f'<rect class="{css}" x="{100.0 * start:.2f}%" width="{100.0 * share:.2f}%" height="100%"/>'
        for css, start, share in _stack(row)
    )
    return named_row(
        name, f'<svg role="img" aria-label="{safe(told_kinds(row))}">{rects}</svg>', value, "marked" if marked else ""
    )


def share_bars(rows: Iterable[tuple[str, float, str]], marks: Sequence[float] | None = None) -> str:
    """Return one bar per name, share and text, with a mark at another share if there are any; all then to the largest."""
    rows = list(rows)
    ticks: list[float | None] = list(marks) if marks is not None else [None] * len(rows)
    top = 1.0 if marks is None else max(share or 0.0 for share in (*ticks, *(row[1] for row in rows)))
    bars = (
        named_row(
            name,
            f'<svg role="img" aria-label="{percent(share)}"><rect class="plain" width="{100.0 * share / top:.2f}%" height="100%"/>'
            f"{'' if tick is None else _mark(tick / top)}</svg>",
            value,
        )
        for (name, share, value), tick in zip(rows, ticks, strict=True)
    )
    return f'<div class="bars">{"".join(bars)}</div>\n'


def _mark(share: float) -> str:
    return f'<line class="mark" x1="{100.0 * share:.2f}%" x2="{100.0 * share:.2f}%" y1="0" y2="100%"/>'


def named_row(name: str, picture: str, value: str, kind: str = "", size: str = "") -> str:
    """Return a name, a picture and a value in one line."""
    beside = f'<span class="size">{size}</span>' if size else ""
    return (
        f'<div class="row {kind}"><span class="name">{safe(name)}</span>{beside}<span class="plot">{picture}</span>'
        f'<span class="value">{value}</span></div>\n'
    )


def listed(parts: list[str]) -> str:
    """Return a list in words."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


def figure(title: str, caption: str, picture: str, numbers: str) -> str:
    """Return a figure with its title, what it says, and its numbers, folded."""
    return (
        f"<figure>\n<h2>{safe(title)}</h2>\n<figcaption>{safe(caption)}</figcaption>\n{picture}"
        f"{folded('The numbers', numbers)}</figure>\n"
    )
