"""Runs whose groups are foretold: measured ones, and simulated ones of which the truth is known."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Groups:
    """Successes of every visit of every prompt.

    Attributes
    ----------
    name : str
        What the run is.
    successes, trials : numpy.ndarray of int64, shape (n_prompts, n_visits)
        Of each visit, in order.
    """

    name: str
    successes: np.ndarray
    trials: np.ndarray


def read(file: Path) -> Groups:
    """Read counts per prompt and visit; the visits that every prompt has are kept."""
    found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    with file.open(newline="") as handle:
        for row in csv.DictReader(handle):
            found[row["prompt_id"]].append((int(row["epoch"]), int(row["successes"]), int(row["trials"])))
    visits = min(map(len, found.values()))
    columns = np.array([sorted(rows)[:visits] for rows in found.values()])
    return Groups(f"{file.stem}: {len(found)} prompts, their first {visits} visits", columns[:, :, 1], columns[:, :, 2])


def moving(n_prompts: int, n_visits: int, seed: int) -> Groups:
    """Return a run whose rates begin at Beta(0.4, 0.6) and move: by a common trend, and each by a walk of its own."""
    rng = np.random.default_rng(seed)
    rates = np.clip(rng.beta(0.4, 0.6, n_prompts), 1e-6, 1 - 1e-6)
    steps = rng.normal(1.0 / n_visits, 0.03, n_visits) + rng.normal(0.0, 0.15, (n_prompts, n_visits))
    logits = np.log(rates / (1 - rates))[:, None] + np.cumsum(steps, axis=1)
    trials = np.full((n_prompts, n_visits), 8)
    name = f"simulated: {n_prompts} prompts, {n_visits} visits of 8 rollouts"
    return Groups(name, rng.binomial(trials, 1 / (1 + np.exp(-logits))), trials)


def static(n_prompts: int, n_visits: int, seed: int) -> Groups:
    """Return a run whose rates are drawn once from Beta(0.5, 0.6)."""
    rng = np.random.default_rng(seed)
    trials = np.full((n_prompts, n_visits), 8)
    rates = rng.beta(0.5, 0.6, n_prompts)
    return Groups(f"static: {n_prompts} prompts", rng.binomial(trials, rates[:, None]), trials)
