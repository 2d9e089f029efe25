"""Draw the first picture of the README: rollouts per prompt by success rate, and regret by epochs.

1,000 prompts with success rates from Beta(0.6, 0.6), unknown to the policies, are offered in batches of 50 with 8 rollouts per
visit on average. The runs are those of part 3 of ``resolving_sim.py``, and the table here repeats their figures.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cero_alloc import OfflineOracle, SaturatingUtility
from cero_alloc.simulation import Pool
from studies.common.parallel import execute
from studies.common.pictures import label_ends, without_screen
from studies.common.tables import spread, table
from studies.resolving import sizes
from studies.resolving.learnt import learnt_results

NAMES = {"uniform": "uniform", "FenchelDual": "Algorithm 1", "Resolving, flat": "re-solving"}
SHOWN = 8  # epochs of the left panel
BINS = 20  # of the success rate


class Run(NamedTuple):
    """One policy's run on one pool."""

    policy: str
    epochs: int
    regret: float  # % of the optimum
    rates: np.ndarray  # success rate per prompt
    rollouts: np.ndarray  # dealt to each prompt


def runs(seed: int, epochs: int) -> list[Run]:
    """Return every policy's regret and rollouts on one pool."""
    return [
        Run(NAMES[name], epochs, 100.0 * run.regret * sizes.M / run.optimum, pool.rates[0], run.exposure)
        for name, pool, run in learnt_results(seed, "height", epochs, NAMES)
    ]


def optimum(rates: np.ndarray) -> np.ndarray:
    """Return the rollouts per prompt that are best for known rates, in the epochs of the left panel."""
    oracle = OfflineOracle(SaturatingUtility(scaling="height"))
    share = sizes.PER_VISIT * SHOWN
    return oracle.solve(Pool(rates).values(), share * sizes.M, equal_share=share, upper=SHOWN * sizes.MOST).allocation


def draw(done: list[Run], path: Path) -> None:
    """Draw the mean rollouts per prompt by success rate, and regret by epochs."""
    pyplot = without_screen()

    from cero_alloc.plotting import plot_epochs, policy_styles

    size = 9.0  # points: 11 pixels where a phone shows the picture 390 pixels wide
    with pyplot.rc_context({"font.size": size, "axes.labelsize": size, "axes.titlesize": size + 1.0}):
        figure, (above, below) = pyplot.subplots(2, 1, figsize=(4.2, 5.0), layout="constrained")
        shown = {name: [run for run in done if (run.policy, run.epochs) == (name, SHOWN)] for name in NAMES.values()}
        edges = np.linspace(0.0, 1.0, BINS + 1)
        middles = (edges[1:] + edges[:-1]) / 2.0

        def curve(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
            rates, rollouts = (np.concatenate(side) for side in zip(*pairs, strict=True))
            place = np.minimum((rates * BINS).astype(np.int64), BINS - 1)
            return np.bincount(place, rollouts, BINS) / np.bincount(place, minlength=BINS)

        best = curve([(run.rates, optimum(run.rates)) for run in shown["uniform"]])  # all policies have the same pools
        above.plot(middles, best, color="0.7", linewidth=5.0, label="optimum")
        for name, style in policy_styles(shown).items():
            above.plot(middles, curve([(run.rates, run.rollouts) for run in shown[name]]), **style)
        above.set(xlabel="success rate of the prompt", ylabel="rollouts per prompt", xlim=(0, 1), ylim=(0, None))
        above.set_title(f"Where the rollouts go ({SHOWN} epochs)", loc="left")
        plot_epochs(sizes.EPOCHS, {name: regrets(done, name) for name in NAMES.values()}, below)
        below.get_legend().remove()
        below.set_title("How far from the optimum", loc="left")
        for ax in (above, below):
            ax.spines[["top", "right"]].set_visible(False)
        figure.get_layout_engine().set(rect=(0.0, 0.0, 0.83, 1.0))  # the names are on the right
        figure.canvas.draw()
        figure.set_layout_engine("none")
        for ax in (above, below):
            label_ends(ax, size, bold="re-solving")
        figure.savefig(path, dpi=150)
    pyplot.close(figure)


def regrets(done: list[Run], name: str) -> np.ndarray:
    """Return one policy's regret in percent; shape (n_seeds, n_epochs)."""
    return np.array(
        [[run.regret for run in done if (run.policy, run.epochs) == (name, epochs)] for epochs in sizes.EPOCHS]
    ).T


def main(argv: list[str] | None = None) -> None:
    """Run, print the table, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="seeds (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("overview.png"), help="the picture (default %(default)s)")
    options = parser.parse_args(argv)
    seeds = range(sizes.FIRST_SEED, sizes.FIRST_SEED + options.seeds)
    tasks = [partial(runs, seed, epochs) for epochs in reversed(sizes.EPOCHS) for seed in seeds]
    done = execute({"runs": tasks}, options.jobs)["runs"]
    rows = [[name, *(spread(column, 1) for column in regrets(done, name).T)] for name in NAMES.values()]
    table("Regret, % of the optimum", ["policy", *(f"E = {epochs}" for epochs in sizes.EPOCHS)], rows)
    draw(done, options.out)
