"""The pools that all policies play: drawn, drifting, trained, and read from files of success counts."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cero_alloc.simulation import Pool, TrainedPool, drifting_pool, load_counts, static_pool

M, EPOCHS = 512, 8  # prompts of drawn pools, epochs
LONG = 10  # a file with more epochs, and not the same number of every prompt, is a log of a run
VISITS, WIDTH, RUN_EPOCHS = 44, 5, 16  # of a run: visits that count, of a moving mean; epochs that are played


class Game(NamedTuple):
    """A pool to play: how it is built from a seed, and for how many epochs."""

    label: str
    make: Callable[..., Pool]
    epochs: int
    order: int | None = None  # seed of the batches, the same for all seeds; None where each seed has its own


def trained_pool(seed: int) -> TrainedPool:
    """Return a pool from Beta(0.5, 0.6) that improves where it is trained."""
    return TrainedPool(static_pool(M, 0.5, 0.6, seed=seed).rates)


POOLS: dict[str, Callable[..., Pool]] = {
    "Beta(0.5, 0.6)": partial(static_pool, M, 0.5, 0.6),
    "Beta(0.3, 0.3)": partial(static_pool, M, 0.3, 0.3),
    "Beta(1, 1)": partial(static_pool, M, 1.0, 1.0),
    "Beta(0.5, 0.6), drifting": partial(drifting_pool, M, 0.5, 0.6, drift=2.0),
    "Beta(0.5, 0.6), trained": trained_pool,
}


def games(files: list[Path]) -> list[Game]:
    """Return the drawn pools and those of the files."""
    drawn = [Game(label, make, EPOCHS) for label, make in POOLS.items()]
    return drawn + [counted_game(file) for file in files]


def counted_game(file: Path) -> Game:
    """Return the pool of a file of counts; its seed only draws the rewards."""
    visits = _visits(file)
    lengths = {len(own) for own in visits.values()}
    if len(lengths) > 1 and max(lengths) > LONG:
        pool = run_pool(visits)
        return Game(file.stem, partial(_same, pool), RUN_EPOCHS, order=0)
    return Game(file.stem, partial(_same, load_counts(file)), EPOCHS, order=0)


def run_pool(visits: dict[str, list[float]]) -> Pool:
    """Return the pool of a training run: rates that move along the moving mean of each prompt's visits.

    A visit has few rollouts, so that its success rate is mostly noise. The mean is over ``WIDTH`` visits, the first and
    last repeated at the edges. Prompts with fewer than ``VISITS`` visits are left out, and later visits.
    """
    whole = {name: own[:VISITS] for name, own in visits.items() if len(own) >= VISITS}
    edge = WIDTH // 2
    padded = np.pad(np.array(list(whole.values())).T, ((edge, edge), (0, 0)), mode="edge")
    rates = np.mean([padded[i : i + VISITS] for i in range(WIDTH)], axis=0)
    return Pool(rates, list(whole), "linear")


def _visits(file: Path) -> dict[str, list[float]]:
    """Return the success rates of every prompt in the order of its epochs; nothing for columns of other names."""
    found: dict[str, dict[int, float]] = {}
    with file.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        if not {"prompt_id", "epoch", "trials", "successes"} <= set(reader.fieldnames or ()):
            return {"": []}  # load_counts knows other names, and says what is missing
        for row in reader:
            found.setdefault(row["prompt_id"], {})[int(row["epoch"])] = int(row["successes"]) / int(row["trials"])
    return {name: [own[epoch] for epoch in sorted(own)] for name, own in found.items()}


def _same(pool: Pool, seed: int) -> Pool:
    return pool
