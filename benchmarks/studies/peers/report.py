"""Tables, files and pictures of peers.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cero_alloc.plotting import plot_comparison
from studies.common.pictures import without_screen
from studies.common.tables import Row, grouped, mean_and_half, table, write_csv

# Column, its heading, and digits.
COLUMNS = (
    ("optimum", "optimum (%)", 1),
    ("vs_uniform", "vs uniform", 1),
    ("mixed", "mixed", 1),
    ("useful", "useful (%)", 1),
    ("unsolved", "unsolved (%)", 1),
    ("solved", "solved (%)", 1),
    ("error", "error", 1),
    ("unseen", "unseen (%)", 1),
    ("unspent", "unspent (%)", 1),
    ("time", "time", 1),
)
QUESTIONS = {
    "captured": ("optimum", "utility captured (% of the clairvoyant optimum)", False),
    "mixed": ("mixed", "groups with both outcomes per 1,000 rollouts", False),
    "dead": ("dead", "rollouts on unsolved or solved prompts (%)", False),
    "time": ("time", "time of a round's decisions (multiples of uniform's)", True),
}


def summarise(rows: list[Row]) -> list[Row]:
    """Return one row per pool, offer and policy, ranked by the share of the optimum."""
    summary: list[Row] = []
    for (offer, pool), games in grouped(rows, "offer", "pool").items():
        ranked = []
        for (policy,), runs in grouped(games, "policy").items():
            entry: Row = {"offer": offer, "pool": pool, "rank": 0, "policy": policy, "seeds": len(runs)}
            for column, _, _ in COLUMNS:
                entry[column], entry[f"{column}_half"] = mean_and_half([run[column] for run in runs])
            ranked.append(entry)
        ranked.sort(key=lambda entry: -entry["optimum"])
        summary += [{**entry, "rank": place} for place, entry in enumerate(ranked, 1)]
    return summary


def print_tables(rows: list[Row]) -> None:
    """Print one ranked table per pool and offer, and the policies that are level with the best."""
    for (offer, pool), entries in _by_game(summarise(rows)).items():
        lines = [
            [f"{e['rank']:2d} {e['policy']}", *(_cell(e, name, digits) for name, _, digits in COLUMNS)] for e in entries
        ]
        title = f"{pool}, offer: {offer}; {entries[0]['seeds']} seeds, mean +- half of the 95% interval"
        table(title, ["policy", *(heading for _, heading, _ in COLUMNS)], lines)
        print(
            "level with the first (paired 95% interval): " + (", ".join(_level(rows, entries)) or "no policy"),
            flush=True,
        )
    for (offer,), entries in grouped(summarise(rows), "offer").items():
        _print_overview(offer, entries)


def _print_overview(offer: str, entries: list[Row]) -> None:
    """Print the share of the optimum on every pool, policies ordered by their mean rank."""
    pools = list(dict.fromkeys(entry["pool"] for entry in entries))
    lines = []
    for (policy,), own in grouped(entries, "policy").items():
        share = {entry["pool"]: entry["optimum"] for entry in own}
        rank = float(np.mean([entry["rank"] for entry in own]))
        lines.append((rank, [policy, *(f"{share[pool]:.1f}" for pool in pools), f"{rank:.1f}"]))
    title = f"OVERVIEW, offer: {offer}; mean share of the clairvoyant optimum (%)"
    table(title, ["policy", *pools, "mean rank"], [line for _, line in sorted(lines, key=lambda entry: entry[0])])


def _cell(entry: Row, column: str, digits: int) -> str:
    return f"{entry[column]:.{digits}f} +- {entry[column + '_half']:.{digits}f}"


def _level(rows: list[Row], entries: list[Row]) -> list[str]:
    """Return the policies whose share of the optimum does not differ from the first one's beyond noise."""
    first = entries[0]
    found = {}
    for (policy,), runs in grouped(
        [r for r in rows if (r["offer"], r["pool"]) == (first["offer"], first["pool"])], "policy"
    ).items():
        found[policy] = np.array([run["optimum"] for run in runs])
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
    """Write every run, and the summary."""
    for name, lines in (("peers", rows), ("peers_summary", summarise(rows))):
        write_csv(out / f"{name}.csv", lines, in_order=True)


def draw(out: Path, rows: list[Row]) -> None:
    """Draw one picture per question and offer."""
    plt = without_screen()

    rows = [{**row, "dead": row["unsolved"] + row["solved"]} for row in rows]
    for (offer,), games in grouped(rows, "offer").items():
        for name, (column, label, log) in QUESTIONS.items():
            scores = {
                policy: {pool: [run[column] for run in runs] for (pool,), runs in grouped(own, "pool").items()}
                for (policy,), own in grouped(games, "policy").items()
            }
            figure, ax = plt.subplots(figsize=(7.0, 8.0), layout="constrained")
            plot_comparison(scores, ax, label=label, log=log)
            figure.savefig(out / f"{name}_{offer}.png", dpi=130)
            plt.close(figure)
