"""Measure how well a bank's beliefs foretell the next group of a prompt: ``python benchmarks/belief.py``, about a minute.

A run's groups are foretold one after the other, each before the bank is told of it, under several beliefs and on four
schedules. Scored are the groups of prompts that were seen before: mean log-likelihood in nats, squared error of the
probability that a group is mixed (Brier), and the bias of the value. "known" and "at its best" were chosen with the whole
run in view; "fitted online" begins as Beta(1, 1) at rest and knows at every moment only what came before.

Parts:

1. a run: simulated, or the counts of ``--rates FILE.csv`` (columns prompt_id, epoch, trials, successes; epochs are visits,
   and the visits that every prompt has are used);
2. static pools: what fitting costs where nothing moves, against the model with the true prior;
3. rewards between 0 and 1: values and allocations with and without sums of squares.

With ``--docs docs`` the picture of one prompt's belief along the run is written into ``images`` of that folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from cero_alloc import BetaPosteriorBank
from studies.belief.forecasts import SCHEDULES, beliefs, score
from studies.belief.picture import draw
from studies.belief.rewards import rewards_table
from studies.belief.runs import Groups, moving, read, static
from studies.common.tables import mean_and_half, table

FIRST_SEED = 1000  # of the static pools and of the simulated run


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=Path, metavar="FILE.csv", help="success counts of a measured run, in its place")
    parser.add_argument("--seeds", type=int, default=8, help="static pools (default %(default)s)")
    parser.add_argument("--docs", type=Path, help="write the picture into images of this folder")
    parser.add_argument("--quick", action="store_true", help="smaller runs, under 20 s")
    return parser.parse_args(argv)


def print_run(groups: Groups) -> None:
    """Print the scores of every belief on every schedule."""
    found = {name: [belief(schedule) for schedule in SCHEDULES] for name, belief in beliefs(groups).items()}
    for title, column in (
        ("mean log-likelihood of the next group [nats]", 0),
        ("Brier score of mixed", 1),
        ("bias of the value", 2),
    ):
        rows = [[name, *(f"{scores[column]:.4f}" for scores in row)] for name, row in found.items()]
        table(f"{groups.name}; {title}", ["belief", *SCHEDULES], rows)


def print_static(seeds: int, size: int, visits: int) -> None:
    """Print what fitting costs on static pools, against the model with the true prior."""
    losses: dict[str, list[list[float]]] = {"Beta(1, 1), no forgetting": [], "drift and trend, fitted online": []}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        groups = static(size, visits, seed)
        truth = [score(groups, name, BetaPosteriorBank(size, prior=(0.5, 0.6))).log_likelihood for name in SCHEDULES]
        for name, fitted in zip(losses, (False, True), strict=True):
            scores = [score(groups, each, BetaPosteriorBank(size), fitted=fitted).log_likelihood for each in SCHEDULES]
            losses[name].append((np.array(scores) - truth).tolist())
    rows = []
    for name, found in losses.items():
        columns = [mean_and_half(list(column)) for column in zip(*found, strict=True)]
        rows.append([name, *(f"{mean:.4f} +- {half:.4f}" for mean, half in columns)])
    title = f"static pools, {size} prompts of Beta(0.5, 0.6), {seeds} seeds; log-likelihood less that of the true model"
    table(title, ["belief", *SCHEDULES], rows)


def main(argv: list[str] | None = None) -> int:
    """Run the study and return the exit status."""
    options = parse(argv)
    size, visits = (120, 24) if options.quick else (600, 44)
    run = read(options.rates) if options.rates else moving(size, visits, FIRST_SEED)
    print_run(run)
    print_static(2 if options.quick else options.seeds, size, visits)
    print(f"\n{rewards_table(options.quick)}")
    if options.docs:
        draw(run, options.docs / "images" / "belief.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
