"""Tables, files and pictures of peers.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cero_alloc.plotting import policy_styles
from studies.common.pictures import readable, without_screen
from studies.common.tables import Row, grouped, mean_and_half, table, write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Column, its heading, and digits.
COLUMNS = (
    ("optimum", "optimum (%)", 1),
    ("useful", "useful (%)", 1),
    ("signal", "signal", 1),
    ("coverage", "coverage (%)", 1),
    ("time", "time", 1),
    ("success", "success (%)", 1),
    ("vs_uniform", "vs uniform", 1),
    ("mixed", "mixed", 1),
    ("unsolved", "unsolved (%)", 1),
    ("solved", "solved (%)", 1),
    ("error", "error", 1),
    ("unseen", "unseen (%)", 1),
    ("unspent", "unspent (%)", 1),
)
YARDSTICKS = ("optimum", "useful", "signal")  # each ranks the policies
RECOMMENDED = "Resolving, fitted"
FAMILIES = ("Resolving", "FenchelDual", "training_allocator", "uniform")  # how names in colour begin: ours, and uniform
# How names left out of the pictures end.
ASIDE = ("from 2 up", "forgetting 0.9", "group signal", "preset", "random-matched")
OTHERS = "0.65"  # colour of what others published
SHOWN = 12  # policies in the picture of the mean ranks, beside uniform
# Column, its heading, whether the axis is logarithmic, and whether less is better.
QUESTIONS = {
    "captured": ("optimum", "share of the clairvoyant optimum (%)", False, False),
    "mixed": ("mixed", "groups with both outcomes per 1,000 rollouts", False, False),
    "dead": ("dead", "rollouts on unsolved or solved prompts (%)", False, True),
    "time": ("time", "time of a round's decisions (multiples of uniform's)", True, True),
}


def summarise(rows: list[Row]) -> list[Row]:
    """Return one row per pool, offer and policy, with its rank by every yardstick, best first.

    Where no optimum is known, ``rank`` is that of the final success rate.
    """
    summary: list[Row] = []
    for (offer, pool), games in grouped(rows, "offer", "pool").items():
        entries = []
        for (policy,), runs in grouped(games, "policy").items():
            entry: Row = {"offer": offer, "pool": pool, "rank": 0, "policy": policy, "seeds": len(runs)}
            for column, _, _ in COLUMNS:
                entry[column], entry[f"{column}_half"] = mean_and_half([run[column] for run in runs])
            entries.append(entry)
        first = "success" if np.isnan(entries[0]["optimum"]) else "optimum"
        for column, name in (("useful", "rank_useful"), ("signal", "rank_signal"), (first, "rank")):
            entries.sort(key=lambda entry: -entry[column])
            for place, entry in enumerate(entries, 1):
                entry[name] = place
        summary += entries
    return summary


def standings(summary: list[Row]) -> list[Row]:
    """Return one row per offer and policy: mean ranks and means over the pools, best first by the share of the optimum.

    A pool without a known optimum has no part in the rank and the mean of that share.
    """
    found: list[Row] = []
    for (offer,), entries in grouped(summary, "offer").items():
        lines = []
        for (policy,), own in grouped(entries, "policy").items():
            shares = [entry for entry in own if not np.isnan(entry["optimum"])]
            line: Row = {"offer": offer, "policy": policy, "rank_optimum": _mean(shares, "rank")}
            line |= {f"rank_{name}": _mean(own, f"rank_{name}") for name in YARDSTICKS[1:]}
            line["optimum"] = _mean(shares, "optimum")
            lines.append(line | {name: _mean(own, name) for name in ("useful", "signal", "coverage", "time")})
        found += sorted(lines, key=lambda line: line["rank_optimum"])
    return found


def _mean(entries: list[Row], column: str) -> float:
    return float(np.mean([entry[column] for entry in entries])) if entries else float("nan")


def print_tables(rows: list[Row]) -> None:
    """Print one ranked table per pool and offer, and the policies that are level with the best; then the mean ranks."""
    summary = summarise(rows)
    for (offer, pool), entries in _by_game(summary).items():
        lines = [
            [f"{e['rank']:2d} {e['policy']}", *(_cell(e, name, digits) for name, _, digits in COLUMNS)] for e in entries
        ]
        title = f"{pool}, offer: {offer}; {entries[0]['seeds']} seeds, mean +- half of the 95% interval"
        table(title, ["policy", *(heading for _, heading, _ in COLUMNS)], lines)
        print(
            "level with the first (paired 95% interval): " + (", ".join(_level(rows, entries)) or "no policy"),
            flush=True,
        )
    for (offer,), own in grouped(summary, "offer").items():
        for title, header, lines in _overview(offer, own):
            table(title, header, lines)


def _overview(offer: str, entries: list[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the tables of an offer: mean ranks and means by every yardstick, and the share of the optimum on every pool."""
    pools = list(dict.fromkeys(entry["pool"] for entry in entries))
    ranks, shares = [], []
    for line in standings(entries):
        policy = line["policy"]
        figures = [f"{line[name]:.1f}" for name in ("optimum", "useful", "signal", "coverage", "time")]
        ranks.append([policy, *(f"{line[f'rank_{name}']:.1f}" for name in YARDSTICKS), *figures])
        own = {entry["pool"]: entry for entry in entries if entry["policy"] == policy}
        shares.append([policy, f"{line['rank_optimum']:.1f}", *(_share(own[pool]) for pool in pools)])
    header = ["policy", "rank", "rank, useful", "rank, signal", "optimum", "useful", "signal", "coverage", "time"]
    return [
        (f"RANKS, offer: {offer}; mean ranks and means over the pools", header, ranks),
        (
            f"OVERVIEW, offer: {offer}; share of the optimum (%), s: final success rate (%)",
            ["policy", "rank", *pools],
            shares,
        ),
    ]


def _share(entry: Row) -> str:
    return f"{entry['success']:.1f} s" if np.isnan(entry["optimum"]) else f"{entry['optimum']:.1f}"


def _markdown(header: list[str], lines: list[list[str]]) -> str:
    """Return a table for the page: the best of every column and our own setting in bold."""
    best = []
    for column in list(zip(*lines, strict=True))[1:]:
        values = [float(cell.removesuffix(" s")) for cell in column]
        best.append(min(values) if header[len(best) + 1].startswith(("rank", "time")) else max(values))
    out = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for policy, *cells in lines:
        name = f"**{policy}** (ours)" if policy == RECOMMENDED else policy
        bold = [f"**{c}**" if float(c.removesuffix(" s")) == top else c for c, top in zip(cells, best, strict=True)]
        out.append(f"| {name} | {' | '.join(bold)} |")
    return "\n".join(out)


def _cell(entry: Row, column: str, digits: int) -> str:
    if np.isnan(entry[column]):
        return "-"
    return f"{entry[column]:.{digits}f} +- {entry[column + '_half']:.{digits}f}"


def _level(rows: list[Row], entries: list[Row]) -> list[str]:
    """Return the policies that do not differ from the first one beyond noise."""
    first = entries[0]
    column = "success" if np.isnan(first["optimum"]) else "optimum"
    own = [row for row in rows if (row["offer"], row["pool"]) == (first["offer"], first["pool"])]
    found = {policy: np.array([run[column] for run in runs]) for (policy,), runs in grouped(own, "policy").items()}
    level = []
    for entry in entries[1:]:
        mean, half = mean_and_half(list(found[first["policy"]] - found[entry["policy"]]))
        if mean <= half:
            level.append(entry["policy"])
    return level


def _by_game(summary: list[Row]) -> dict[tuple[str, str], list[Row]]:
    games: dict[tuple[str, str], list[Row]] = {}
    for entry in summary:
        games.setdefault((entry["offer"], entry["pool"]), []).append(entry)
    return games


def write_tables(out: Path, rows: list[Row]) -> None:
    """Write every run, the summary, the mean ranks, and the tables of the page."""
    summary = summarise(rows)
    for name, lines in (("peers", rows), ("peers_summary", summary), ("peers_ranks", standings(summary))):
        known = [{key: "" if value != value else value for key, value in line.items()} for line in lines]  # NaN: empty
        write_csv(out / f"{name}.csv", known, in_order=True)
    pages = [
        f"{title}\n\n{_markdown(header, lines)}\n"
        for (offer,), own in grouped(summary, "offer").items()
        for title, header, lines in _overview(offer, own)
    ]
    (out / "peers_tables.md").write_text("\n".join(pages), encoding="utf-8")


def draw(out: Path, rows: list[Row]) -> None:
    """Draw the mean ranks, and one picture per question and offer."""
    plt = without_screen()
    _draw_ranks(out / "ranks.png", standings(summarise(rows)))
    rows = [{**row, "dead": row["unsolved"] + row["solved"]} for row in rows]
    for (offer,), games in grouped(rows, "offer").items():
        for name, (column, label, log, less) in QUESTIONS.items():
            known = [row for row in games if not np.isnan(row[column])]
            means = {
                policy: np.array([np.mean([run[column] for run in runs]) for runs in grouped(own, "pool").values()])
                for (policy,), own in grouped(known, "policy").items()
                if not policy.endswith(ASIDE)
            }
            figure, ax = plt.subplots(figsize=(6.0, 0.9 + 0.185 * len(means)), layout="constrained")
            _draw_ranges(ax, means, log=log, less=less)
            ax.set_xlabel(label, fontsize=9)
            figure.savefig(out / f"{name}_{offer}.png", dpi=130)
            plt.close(figure)


def _colour(policy: str) -> str:
    """Return the colour of a policy: its own for those of this package and for uniform, grey for the others."""
    family = next((name for name in FAMILIES if policy.startswith(name)), "")
    colour: str = policy_styles([family])[family]["color"] if family else OTHERS
    return colour


def _draw_ranges(ax: Axes, means: dict[str, np.ndarray], *, log: bool, less: bool) -> None:
    """Draw the mean over the pools of each policy, best first, with a bar from its least to its largest pool."""
    names = sorted(means, key=lambda name: float(means[name].mean()), reverse=not less)
    for i, name in enumerate(names):
        values, colour = means[name], _colour(name)
        ax.plot([values.min(), values.max()], [i, i], color=colour, linewidth=5.0, alpha=0.3, solid_capstyle="butt")
        ax.plot(values.mean(), i, "o", color=colour, markersize=8.0 if name == RECOMMENDED else 5.5)
    if log:
        ax.set_xscale("log")
        ax.set_xticks([1, 2, 5, 10, 20])
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    _name_rows(ax, names)
    ax.axvline(means["uniform"].mean(), color=_colour("uniform"), linewidth=0.8, zorder=1)
    ax.set_title("dot: mean over the pools; bar: from the lowest to the highest pool", fontsize=9, loc="left")
    ax.grid(axis="x", color="0.92")
    ax.set_axisbelow(True)
    ax.set_ylim(len(names) - 0.4, -0.6)


def _name_rows(ax: Axes, names: list[str]) -> None:
    """Name the rows in their colours, the recommended policy in bold."""
    ax.set_yticks(range(len(names)), [style["label"] for style in policy_styles(names).values()], fontsize=9)
    for label, name in zip(ax.get_yticklabels(), names, strict=True):
        label.set_color(readable(_colour(name)))
        label.set_fontweight("bold" if name == RECOMMENDED else "normal")
    ax.tick_params(left=False, labelsize=9)
    ax.spines[:].set_visible(False)


def _draw_ranks(file: Path, lines: list[Row]) -> None:
    """Draw the mean rank of the best policies and of uniform as bars, a panel per offer."""
    plt = without_screen()
    figure, axes = plt.subplots(2, 1, figsize=(4.2, 6.6), layout="constrained")
    titles = {"pool": "all prompts on offer", "batch": "a data loader's batches"}
    for ax, (offer, title) in zip(axes, titles.items(), strict=True):
        own = [line for line in lines if line["offer"] == offer]
        shown = own[:SHOWN] + [line for line in own[SHOWN:] if line["policy"] == "uniform"]
        ranks = [line["rank_optimum"] for line in shown]
        bars = ax.barh(range(len(shown)), ranks, color=[_colour(line["policy"]) for line in shown], height=0.72)
        ax.bar_label(bars, [f"{rank:.1f}" for rank in ranks], padding=3, fontsize=9)
        _name_rows(ax, [line["policy"] for line in shown])
        ax.set_title(f"{title}, {len(own)} policies", fontsize=10, x=1.0, ha="right")
        ax.tick_params(bottom=False, labelbottom=False)
        ax.margins(x=0.12)
        ax.invert_yaxis()
    figure.supxlabel(
        "mean rank by the share of the optimum: shorter is\nbetter; in colour: this package, and uniform", fontsize=9
    )
    figure.savefig(file, dpi=150)
    plt.close(figure)
