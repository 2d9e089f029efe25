"""Numbers, tables, style and frame of a web page. Every text from outside passes through :func:`safe`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

NONE = "\N{EN DASH}"  # a figure that is missing
_BOLD = '<tr class="bold">'
_LONG = 20  # letters of a row's head that may wrap on a phone, but not at every word

# The colours of outcomes differ in lightness or hue for every kind of colour vision, and from the background by at least 3:1.
STYLE = """
:root { color-scheme: light dark; --page: #fff; --soft: #f4f5f7; --line: #d9dde2; --text: #1c2025; --quiet: #59626c;
  --wrong: #d55e00; --mixed: #0072b2; --right: #7d8590; --between: #b8579a; --alert: #9a5b00; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171b; --soft: #1e2227; --line: #363c44; --text: #e6e9ec; --quiet: #a2abb5;
    --wrong: #e8772e; --mixed: #56b4e9; --right: #8a939d; --between: #d98fc0; --alert: #e5b567; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1rem 3rem; max-width: 860px; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0 0 .75rem; font-size: 1rem; font-weight: 500; color: var(--quiet); }
h2 { margin: 0 0 .25rem; font-size: 1.15rem; line-height: 1.3; }
h3 { margin: 1.25rem 0 .25rem; font-size: 1rem; }
p { margin: 0 0 .75rem; max-width: 46rem; }
.verdict { margin: 0 0 1rem; font-size: 1.6rem; line-height: 1.3; font-weight: 600; letter-spacing: -.01em; }
.facts, .note, footer, figcaption + .key { color: var(--quiet); font-size: .875rem; }
.warnings { margin: 1.5rem 0 0; padding: .75rem 1rem; border: 1px solid var(--alert); border-radius: 6px; }
.warnings h2 { font-size: 1rem; color: var(--alert); }
ul { margin: 0; padding-left: 1.1rem; }
figure, .call { margin: 2.5rem 0 0; padding: 1.5rem 0 0; border-top: 1px solid var(--line); }
figcaption { margin: 0 0 .75rem; max-width: 46rem; }
.key { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin-bottom: .75rem; }
.key span { display: inline-flex; align-items: center; gap: .4rem; }
.key svg { flex: none; width: 14px; height: 14px; }
svg { display: block; width: 100%; }
.wrong { fill: var(--wrong); } .mixed { fill: var(--mixed); } .right { fill: var(--right); } .between { fill: var(--between); }
.plain { fill: var(--quiet); }
.grid { stroke: var(--line); } .over { stroke: var(--page); stroke-opacity: .55; }
.reference { stroke: var(--quiet); stroke-dasharray: 3 3; }
.interval { stroke: var(--mixed); stroke-width: 2; } .dot { fill: var(--mixed); }
.marked .interval, line.marked { stroke: var(--text); stroke-width: 2; } .marked .dot, .dot.marked { fill: var(--text); }
.hollow .dot, .dot.hollow { fill: var(--page); stroke: var(--text); stroke-width: 2; }
.steps { display: grid; grid-template-columns: 2.75rem 1fr; font-size: .8125rem; color: var(--quiet); }
.steps svg { height: 220px; } .steps rect { stroke: var(--page); stroke-width: 1.5; }
.ends { display: flex; justify-content: space-between; }
.panels { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem 1.5rem; } .panels h3 { margin: 0 0 .6rem; }
.line { fill: none; stroke: var(--mixed); stroke-width: 2; vector-effect: non-scaling-stroke; }
.line.reference { stroke: var(--quiet); stroke-dasharray: 4 3; } .grid, .mark { vector-effect: non-scaling-stroke; }
.mark { stroke: var(--text); stroke-width: 2; } .lines > svg { border-bottom: 1px solid var(--line); }
.steps .scale { display: flex; flex-direction: column; justify-content: space-between; margin: -.6rem 0; }
.steps .ends { grid-column: 2; padding-top: .25rem; }
.row { display: grid; align-items: center; gap: 0 .75rem; font-size: .875rem; line-height: 1.35; }
.dots .row { grid-template: "name size plot value" / 14.5rem 3rem 1fr 7rem; }
.bars .row { grid-template: "name plot value" / 10.5rem 1fr 6rem; padding: .2rem 0; }
.row .name { grid-area: name; } .row .size { grid-area: size; text-align: right; } .row .plot { grid-area: plot; }
.row .value { grid-area: value; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.dots .plot { align-self: stretch; position: relative; min-height: 26px; }
.dots .plot > svg { position: absolute; inset: 0; height: 100%; overflow: visible; } .bars .plot > svg { height: 18px; }
.marked .name, .marked .value b, .bold .name, .bold .value b, tr.bold > * { font-weight: 700; } .value b { font-weight: 400; }
.head, .row small, .size { color: var(--quiet); font-size: .8125rem; }
.head { align-items: end; } .head .value { white-space: normal; }
.dots .head .plot { align-self: end; min-height: 18px; fill: var(--quiet); }
.dots + .note { margin-top: .75rem; }
details { margin-top: .75rem; }
summary { cursor: pointer; color: var(--quiet); font-size: .875rem; }
.more { margin-top: 2.5rem; border-top: 1px solid var(--line); }
.more > details { margin: 0; padding: .75rem 0; border-bottom: 1px solid var(--line); }
.more > details > summary { color: var(--text); font-size: 1rem; font-weight: 600; }
.more > details[open] > summary { margin-bottom: .5rem; }
.scroll { overflow-x: auto; margin: .5rem 0 .75rem; overflow-wrap: normal; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--mixed); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .8125rem; line-height: 1.35; font-variant-numeric: tabular-nums; }
caption { padding: .25rem 0; text-align: left; color: var(--quiet); }
caption span { position: sticky; left: 0; display: inline-block; max-width: min(46rem, 100vw - 2rem); }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; } thead th { white-space: normal; min-width: 4.5rem; }
th:first-child, .words th, .words td { text-align: left; } .words td { white-space: normal; vertical-align: top; }
tbody th { position: sticky; left: 0; background: var(--page); font-weight: 400; vertical-align: top; }
pre { margin: .5rem 0 0; padding: .75rem 1rem; overflow-x: auto; background: var(--soft); border-radius: 6px; }
pre, code { font: .8125rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: normal; }
footer { margin-top: 2.5rem; } footer p { margin: 0 0 .35rem; }
@media (max-width: 720px) {
  .panels { grid-template-columns: 1fr; }
  body { padding-top: 1.25rem; }
  .verdict { font-size: 1.3rem; }
  .steps svg { height: 180px; }
  tbody th { white-space: normal; } th.long { min-width: 7rem; }
  .dots .row { grid-template: "name size value" auto "plot plot plot" auto / 1fr auto auto; margin-bottom: .3rem; }
  .bars .row { grid-template: "name value" auto "plot plot" auto / 1fr auto; }
  .dots .plot { min-height: 18px; } .dots .name { font-size: .8125rem; }
}
@media print { details::details-content { content-visibility: visible; display: block; } * { print-color-adjust: exact; } }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def warning_box(warnings: Sequence[str]) -> str:
    """Return a box of warnings; empty without any."""
    if not warnings:
        return ""
    items = "".join(f"<li>{safe(text[:1].upper() + text[1:])}</li>\n" for text in warnings)
    return f'<section class="warnings">\n<h2>Warnings</h2>\n<ul>\n{items}</ul>\n</section>\n'


def safe(value: object) -> str:
    """Return text for HTML, also within a quoted attribute."""
    return escape(str(value))


def missing(value: Any) -> bool:
    """Return whether a figure is None or NaN."""
    return value is None or value != value


def number(value: float | None, digits: int | None = None, sign: str = "") -> str:
    """Return a number with thousands separators; without ``digits`` a whole number, or two decimals."""
    if value is None or missing(value):
        return NONE
    if digits is None:
        digits = 0 if float(value).is_integer() else 2
    return f"{value:{sign},.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in percent."""
    return NONE if share is None or missing(share) else f"{share:.{digits}%}"


def with_interval(row: dict[str, Any], key: str, *, digits: int = 1, sign: str = "", share: bool = False) -> str:
    """Return a figure of a row and its interval in brackets, as in ``76.1% [74.0, 78.2]``."""
    value: Any = row[key]
    prefix = "" if key == "rate" else f"{key}_"  # the interval of the rate has no name of its own
    low, high = (row[f"{prefix}interval_{end}"] for end in ("low", "high"))
    if missing(value):
        return NONE
    scale = 100.0 if share else 1.0
    ends = ", ".join(NONE if missing(end) else number(scale * end, digits, sign) for end in (low, high))
    return f"{percent(value, digits) if share else number(value, digits, sign)} [{ends}]"


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False, bold: str | None = None
) -> str:
    """Return a table that scrolls in a box of its own; the first cell of a row is its head, and all cells are escaped.

    ``words`` sets cells of text to the left; the row with the head ``bold`` is bold.
    """
    head = "".join(f'<th scope="col">{safe(name)}</th>' for name in heads)
    body = "".join(
        f"{_BOLD if first == bold else '<tr>'}{_row_head(first)}{''.join(f'<td>{safe(cell)}</td>' for cell in rest)}</tr>\n"
        for first, *rest in rows
    )
    kind = ' class="words"' if words else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{safe(caption)}"><table{kind}>'
        f"<caption><span>{safe(caption)}</span></caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def _row_head(text: str) -> str:
    kind = ' class="long"' if len(text) > _LONG else ""
    return f'<th scope="row"{kind}>{safe(text)}</th>'


def folded(summary: str, body: str) -> str:
    """Return a part that opens on a click; empty if its body is."""
    return f"<details><summary>{safe(summary)}</summary>\n{body}</details>\n" if body else ""


def paragraph(text: str, kind: str = "note") -> str:
    """Return a paragraph of plain text; empty if the text is."""
    return f'<p class="{kind}">{safe(text)}</p>\n' if text else ""
