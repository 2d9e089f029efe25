"""Tables, files and pictures of regret_sim.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cero_alloc import SaturatingUtility
from cero_alloc.simulation import RegretCurve, SimulationResult
from studies.common.pictures import without_screen
from studies.common.tables import SHAPES, grouped, mean, spread, table

RATE_POOL = 64  # prompts of the rate and drift parts
ROUNDING = 1e-12  # regret above the bound by less is rounding

# Figures that arXiv 2610.09679 reports for this run; its pool is half of DAPO-Math-17K under a model that learns.
PUBLISHED = {
    "prompts at 0.84 R": 0.575,
    "prompts at 1.12 R": 0.278,
    "prompts at 1.40 R": 0.147,
    "uniform: prompts at 0.84 R": 0.410,
    "uniform: prompts at 1.12 R": 0.581,
    "surplus peak (rollouts)": 1920,
    "surplus at the end (rollouts)": 0,
    "allocating rounds": "486-488",
    "effective-group rate": 0.573,
    "random-matched: effective-group rate": 0.527,
    "lift of predicted mean in [0.4, 0.6)": 1.72,
    "lift of predicted mean in [0, 0.2)": 0.65,
    "lift of predicted mean in [0.8, 1]": 0.65,
    "predicted variance": 0.154,
    "observed variance": 0.119,
}


# ---------------------------------------------------------------- tables


def fitted_slopes(rows: list[dict[str, Any]]) -> list[float]:
    """Return each seed's least-squares slope of log regret on log rounds; horizons without regret cannot enter."""
    columns = ([[row[name] for row in own] for name in ("rounds", "regret")] for own in grouped(rows, "seed").values())
    slopes = (RegretCurve(rounds, [regret]).slope for rounds, regret in columns)
    return [slope for slope in slopes if not np.isnan(slope)]


def print_rate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Print part 1 and return its summary."""
    body, slopes = [], {}
    groups = grouped(rows, "shape", "rates")
    for shape, rates in sorted(groups, key=lambda key: (SHAPES.index(key[0]), key[1])):
        group = groups[shape, rates]
        fit = fitted_slopes(group)
        slopes[f"{shape}, {rates}"] = fit
        horizons = sorted(grouped(group, "rounds").items())
        for (rounds,), runs in reversed(horizons[::-2]):  # every other K up to the last; all are in the CSV
            last = rounds == max(row["rounds"] for row in group)
            body.append(
                [f"{shape}, {rates}", str(rounds)]
                + [spread((row[key] for row in runs), 5) for key in ("regret", "bound")]
                + [
                    f"{mean(runs, 'uniform_regret'):.4f}",
                    f"{max(row['ratio'] for row in runs):.3f}",
                    spread(fit, 3) if last and fit else "",
                ]
            )
    title = f"1. RATE: {RATE_POOL} prompts, N_max 2, C = M N_max, B = K M; regret per prompt, mean +- sd over seeds"
    table(title, ["utility, rates", "K", "regret", "bound", "uniform", "worst ratio", "slope in K"], body)
    cells = sorted(
        grouped(rows, "shape", "rates", "rounds").items(), key=lambda cell: (SHAPES.index(cell[0][0]), cell[0])
    )
    behind = [", ".join(map(str, key)) for key, runs in cells if mean(runs, "regret") >= mean(runs, "uniform_regret")]
    print("Not better than uniform on average: " + ("; ".join(behind) if behind else "nowhere."))
    return {"slopes": slopes, "not_better_than_uniform": behind}


def print_paper(runs: dict[str, list[SimulationResult]], source: str) -> dict[str, Any]:
    """Print part 2 and return its summary."""
    ours, uniform, matched = runs["Algorithm 1"], runs["uniform"], runs["random-matched"]

    def level(result: SimulationResult, share: float) -> float:
        return float(
            np.mean(np.abs(result.exposure * result.horizon.n_prompts / result.horizon.total_budget - share) < 0.005)
        )

    measured = {
        **{f"prompts at {x:.2f} R": [level(r, x) for r in ours] for x in (0.84, 1.12, 1.40)},
        **{f"uniform: prompts at {x:.2f} R": [level(r, x) for r in uniform] for x in (0.84, 1.12)},
        "surplus peak (rollouts)": [float(r.pacing_gap.max()) for r in ours],
        "surplus at the end (rollouts)": [float(r.pacing_gap[-1]) for r in ours],
        "allocating rounds": [float(r.allocating_rounds) for r in ours],
        "effective-group rate": [r.mixed_group_rate for r in ours],
        "random-matched: effective-group rate": [r.mixed_group_rate for r in matched],
        "lift of predicted mean in [0.4, 0.6)": [float(r.lift()[2]) for r in ours],
        "lift of predicted mean in [0, 0.2)": [float(r.lift()[0]) for r in ours],
        "lift of predicted mean in [0.8, 1]": [float(r.lift()[4]) for r in ours],
        "predicted variance": [float(r.group_value.mean()) for r in ours],
        "observed variance": [float(np.nanmean(r.observed_variance())) for r in ours],
    }
    body = [[name, str(PUBLISHED[name]), spread(values, 3)] for name, values in measured.items()]
    table(
        f"2a. PAPER: 8958 prompts, 500 rounds, 256,000 rollouts; pool: {source}",
        ["figure", "published", "measured"],
        body,
    )
    body = [
        [
            name,
            spread(r.achieved / r.optimum for r in results),
            spread(r.mixed_group_rate for r in results),
            spread(float(np.nanmean(r.observed_variance())) for r in results),
            spread((float(r.pacing_gap.max()) for r in results), 0),
            spread((float(r.allocating_rounds) for r in results), 0),
        ]
        for name, results in runs.items()
    ]
    header = ["policy", "share of optimum", "mixed groups", "observed variance", "surplus peak", "rounds"]
    table("2b. PAPER: Algorithm 1 and its controls at equal rollouts", header, body)
    share = {name: np.mean([r.achieved / r.optimum for r in results]) for name, results in runs.items()}
    ahead = [name for name in runs if share[name] > share["Algorithm 1"]]
    print("Ahead of Algorithm 1 in share of the optimum: " + (", ".join(ahead) if ahead else "no policy") + ".")
    bound = ours[0].bound
    vacuous = " It is at its cap and therefore vacuous." if bound >= SaturatingUtility().ceiling else ""
    print(f"Theorem 1 bounds the regret of this run by {bound:.2f} per prompt.{vacuous}")
    return {"measured": measured, "bound": bound}


def print_drift(rows: list[dict[str, Any]]) -> None:
    """Print part 3."""
    body = [
        [path, str(rounds)]
        + [spread((row[key] for row in runs), 4) for key in ("variation", "regret", "bound")]
        + [f"{max(row['ratio'] for row in runs):.3f}"]
        for (path, rounds), runs in sorted(grouped(rows, "path", "rounds").items())
    ]
    title = "3. DRIFT: regret per prompt against an upper bound of the same-path optimum; a bound of 1 is the cap of Theorem 2 and vacuous"
    table(title, ["path", "K", "V_K", "regret", "bound", "worst ratio"], body)


# ---------------------------------------------------------------- files


def paper_rows(runs: dict[str, list[SimulationResult]], seeds: list[int]) -> list[dict[str, Any]]:
    """Return one row per policy and seed."""
    return [
        {
            "policy": name,
            "seed": seed,
            "optimum": r.optimum / r.horizon.n_prompts,
            "regret": r.regret,
            "bound": r.bound,
            "mixed_group_rate": r.mixed_group_rate,
            "predicted_variance": float(r.group_value.mean()),
            "observed_variance": float(np.nanmean(r.observed_variance())),
            "surplus_peak": float(r.pacing_gap.max()),
            "surplus_end": float(r.pacing_gap[-1]),
            "allocating_rounds": r.allocating_rounds,
        }
        for name, results in runs.items()
        for seed, r in zip(seeds, results, strict=True)
    ]


def draw(out: Path, done: dict[str, list[Any]], runs: dict[str, list[SimulationResult]]) -> None:
    """Draw every picture whose runs are finished."""
    pyplot = without_screen()

    from cero_alloc import plotting

    def panels(rows: list[dict[str, Any]], panel: str, line: str, file: str) -> None:
        found = sorted({str(row[panel]) for row in rows})
        names = [name for name in SHAPES if name in found] or found
        across = 2 if len(names) == 4 else len(names)
        down = -(-len(names) // across)
        size = (3.6 * across, 2.7 * down + 0.5)
        figure, grid = pyplot.subplots(
            down, across, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
        )
        axes = grid.ravel()
        for ax, name in zip(axes, names, strict=True):
            chosen = [row for row in rows if row[panel] == name]
            horizons = sorted({row["rounds"] for row in chosen})
            curves = {}
            for (key,), group in sorted(
                grouped(chosen, line).items()
            ):  # runs end in any order, and a curve keeps its colour
                complete = [own for own in grouped(group, "seed").values() if len(own) == len(horizons)]
                if complete:
                    columns = ([[row[c] for row in own] for own in complete] for c in ("regret", "bound"))
                    curves[key] = RegretCurve(horizons, *columns)
            if curves:
                plotting.plot_regret(curves, ax)
                ax.get_legend().remove()
            ax.set_title(name, fontsize="medium")
            ax.label_outer()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
        save(figure, file)

    def save(figure: Any, file: str) -> None:
        figure.savefig(out / file, dpi=160)
        pyplot.close(figure)

    if done["rate"]:
        panels([{**row, "rates": f"{row['rates']} rates"} for row in done["rate"]], "shape", "rates", "regret.png")
    if done["drift"]:
        panels(done["drift"], "path", "shape", "drift.png")
    if runs:
        pictures = {
            "exposure": (plotting.plot_exposure, ["Algorithm 1", "greedy", "uniform"]),
            "pacing": (plotting.plot_pacing, ["Algorithm 1", "fixed pacing", "greedy"]),
            "lift": (plotting.plot_lift, ["Algorithm 1", "greedy", "uniform"]),
            "calibration": (plotting.plot_calibration, ["Algorithm 1", "greedy", "uniform"]),
            "mixed_groups": (plotting.plot_mixed_groups, list(runs)),
        }
        for name, (plot, policies) in pictures.items():
            figure, ax = pyplot.subplots(figsize=(4.6, 3.4), layout="constrained")
            plot({policy: runs[policy] for policy in policies}, ax)
            save(figure, f"paper_{name}.png")
