"""Tables and pictures of resolving_sim.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cero_alloc.simulation import SimulationResult
from studies.common.pictures import without_screen
from studies.common.tables import Row, grouped, spread, table

SATURATIONS = (0.1, 0.3, 1.0, 3.0, 10.0)
BATCHES_ONLY = ("Resolving, streaming", "Resolving, group signal", "Resolving, group, clairvoyant")
# In tables, not in the picture.
DRAWN_APART = ("fixed pacing", "FenchelDual, catch_up", "Resolving, fitted, exploring", *BATCHES_ONLY)


def print_known(rows: list[Row], settings: list[Row]) -> None:
    """Print part 1."""
    lines = [
        [order, kind, str(len(group)), f"{max(r['regret'] for r in group):.1e}"]
        for (order, kind), group in grouped(rows, "order", "kind").items()
    ]
    table(
        "1a. KNOWN VALUES: worst regret, share of the optimum (Theorem 3: 0)",
        ["order of the visits", "counts", "instances", "worst"],
        lines,
    )
    lines = [[name, spread([r["regret"] for r in group], 3)] for (name,), group in grouped(settings, "setting").items()]
    table("1b. KNOWN VALUES: what a setting costs, % of the optimum (height, 8 epochs)", ["setting", "regret"], lines)


def print_envelope(rows: list[Row]) -> None:
    """Print part 2."""
    lines = [
        [
            f"{kind}, min_units {min_units}",
            str(len(group)),
            str(sum(r["loss"] == 0.0 for r in group)),
            f"{100 * max(r['loss'] for r in group):.3f}",
            "yes" if all(r["held"] for r in group) else "NO",
        ]
        for (kind, min_units), group in grouped(rows, "tables", "min_units").items()
    ]
    header = ["tables", "instances", "equal to the program", "worst loss (%)", "within its own gap"]
    table("2. BATCH SOLVER against dynamic programming, exact totals", header, lines)


def print_learnt(rows: list[Row]) -> None:
    """Print part 3: per scaling, regret, its ratio to that of uniform, and mixed groups."""
    for (scaling,), chosen in grouped(rows, "scaling").items():
        epochs = sorted({r["epochs"] for r in chosen})
        lines = []
        for (name,), group in grouped(chosen, "policy").items():
            cells = [[r["regret"] for r in group if r["epochs"] == e] for e in epochs]
            unspent = np.mean([r["unspent"] for r in group if r["epochs"] == epochs[-1]])
            lines.append([name, *(spread(cell, 2) for cell in cells), f"{unspent:.2f}"])
        header = ["policy", *(f"E = {e}" for e in epochs), f"unspent, E = {epochs[-1]}"]
        seeds = len({r["seed"] for r in chosen})
        table(f"3. LEARNT VALUES, {scaling} scaling: regret, % of the optimum, {seeds} seeds", header, lines)
        mean = {
            (name, e): float(np.mean([r["regret"] for r in group]))
            for (name, e), group in grouped(chosen, "policy", "epochs").items()
        }
        names = list(dict.fromkeys(name for name, _ in mean))
        others = [name for name in names if not name.startswith("Resolving")]
        best = {e: min(others, key=lambda name: mean[name, e]) for e in epochs}
        ratios = []
        for name in names:
            if name not in others:
                cells = []
                for e in epochs:
                    mine, theirs = mean[name, e], mean[best[e], e]
                    verdict = "=" if abs(mine - theirs) < 1e-9 else "<" if mine < theirs else ">"
                    cells.append(f"{mine / mean['uniform', e]:.2f} ({verdict} {best[e]})")
                ratios.append([name, *cells])
        table("   share of uniform's regret (against the best policy of the others)", header[:-1], ratios)
        lines = [
            [name, *(spread([r["mixed"] for r in group if r["epochs"] == e], 1) for e in epochs)]
            for (name,), group in grouped(chosen, "policy").items()
        ]
        table("   mixed groups per 1,000 rollouts", header[:-1], lines)


def print_tokens(rows: list[Row]) -> None:
    """Print part 4b."""
    lines = [
        [name, spread([r["regret"] for r in group], 2), spread([r["unspent"] for r in group], 2)]
        for (name,), group in grouped(rows, "policy").items()
    ]
    title = "4b. TOKENS: one token budget, lengths 800 exp(0.8 N(0, 1)), 4 epochs, height: % of the optimum"
    table(title, ["policy", "regret", "unspent tokens (%)"], lines)


def print_orders(rows: list[Row]) -> None:
    """Print part 4c."""
    digits = {"known": 4, "learnt": 1, "early": 0, "never": 0, "first": 3, "last": 3, "shared": 1}
    lines = [
        [f"{quantum}, {order}", *(spread([r[key] for r in group], n) for key, n in digits.items())]
        for (quantum, order), group in grouped(rows, "quantum", "order").items()
    ]
    title = (
        "4c. ORDERS: 16 groups a round from the pool, height, % of the optimum; when prompts are dealt, values known"
    )
    header = [
        "least count, order",
        "regret, known",
        "regret, learnt",
        "prompts in the first eighth",
        "never",
        "mean value, first quarter",
        "last quarter",
        "shared with the round before (%)",
    ]
    table(title, header, lines)


def print_pools(rows: list[Row]) -> None:
    """Print part 4."""
    names = list(dict.fromkeys(r["policy"] for r in rows))
    lines = []
    for (pool, mode), group in grouped(rows, "pool", "mode").items():
        cells = [[r["regret"] for r in group if r["policy"] == name] for name in names]
        lines.append([f"{pool}; {mode}", *(spread(cell, 1) if cell else "" for cell in cells)])
    table("4a. POOLS: regret, % of the optimum (height scaling)", ["pool", *names], lines)


def print_saturation(rows: list[Row]) -> None:
    """Print part 5."""
    lines = [
        [
            f"{scaling}, {saturation:g}",
            *(spread([r[key] for r in group], 1) for key in ("top", "reached", "least", "mixed")),
        ]
        for (scaling, saturation), group in grouped(rows, "scaling", "saturation").items()
    ]
    header = [
        "scaling, saturation",
        "rollouts on the top tenth (%)",
        "effective number of prompts (% of pool)",
        "under half a share (%)",
        "mixed groups (%)",
    ]
    table("5. SATURATION and concentration: Resolving, 8 epochs, learnt values", header, lines)


def print_priors(rows: list[Row]) -> None:
    """Print part 6."""
    lines = []
    for (name,), group in grouped(rows, "file").items():
        column = {
            (prior, key): np.mean([r[key] for r in group if r["prior"] == prior])
            for prior in ("flat", "fitted")
            for key in ("bias", "error")
        }
        fitted = np.mean([r["status"] == "fitted" for r in group if r["prior"] == "fitted"])
        saved = 100.0 * (1.0 - column["fitted", "error"] / column["flat", "error"])
        lines.append(
            [
                name,
                *(f"{column[prior, 'bias']:+.4f}" for prior in ("flat", "fitted")),
                *(f"{column[prior, 'error']:.4f}" for prior in ("flat", "fitted")),
                f"{saved:.0f}",
                f"{100 * fitted:.0f}",
            ]
        )
    header = [
        "file (first stage)",
        "bias, flat",
        "bias, fitted",
        "error, flat",
        "error, fitted",
        "saved (%)",
        "fits (%)",
    ]
    table("6. PRIORS on measured counts: 4 samples per prompt, 20 draws", header, lines)


def print_promises(rows: list[Row]) -> list[str]:
    """Print part 7; return what was broken."""
    of = {kind: group for (kind,), group in grouped(rows, "kind").items()}
    calls, hit = (sum(r[key] for r in of["exact"]) for key in ("calls", "hit"))
    caps, broken = (sum(r[key] for r in of["tokens"]) for key in ("calls", "broken"))
    worst = max(r["unspent"] for r in of["paced"])
    lines = [
        ["exact totals hit", f"{hit} of {calls} calls"],
        ["token caps exceeded", f"{broken} of {caps} calls"],
        ["unspent when paced, worst of all runs", f"{worst:.3f}% in {len(of['paced'])} runs"],
    ]
    table("7. PROMISES over generated calls", ["promise", "measured"], lines)
    checks = {"exact totals": hit == calls, "token caps": broken == 0, "unspent": worst <= 0.1}
    return [name for name, kept in checks.items() if not kept]


def draw(out: Path, learnt: list[Row], saturation: list[tuple[Row, SimulationResult]]) -> None:
    """Draw regret against epochs, and allocation and concentration against saturation."""
    pyplot = without_screen()

    from cero_alloc import plotting

    figure, axes = pyplot.subplots(1, 2, figsize=(7.6, 3.6), sharey=True, layout="constrained")
    for ax, (scaling,) in zip(axes, grouped(learnt, "scaling"), strict=False):
        chosen = [r for r in learnt if r["scaling"] == scaling and r["policy"] not in DRAWN_APART]
        epochs = sorted({r["epochs"] for r in chosen})
        curves = {
            name: [[r["regret"] for r in runs] for runs in grouped(group, "seed").values()]
            for (name,), group in grouped(chosen, "policy").items()
        }
        plotting.plot_epochs(epochs, curves, ax)
        ax.set_title(f"{scaling} scaling", fontsize="medium")
        ax.get_legend().remove()
        ax.label_outer()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    figure.savefig(out / "epochs.png", dpi=160)
    figure, axes = pyplot.subplots(1, 2, figsize=(7.6, 3.4), layout="constrained")
    runs = {scaling: [run for row, run in saturation if row["scaling"] == scaling] for scaling in ("height", "rate")}
    levels = {f"{level:g}": [run for run in runs["height"] if run.utility.saturation == level] for level in SATURATIONS}
    plotting.plot_allocation(levels, axes[0])
    axes[0].get_legend().set_title("saturation")
    plotting.plot_frontier(runs, axes[1])
    figure.savefig(out / "saturation.png", dpi=160)
    pyplot.close("all")
