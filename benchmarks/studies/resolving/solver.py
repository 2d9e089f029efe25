"""The batch solver against a dynamic program, on concave and on adversarial tables."""

from __future__ import annotations

import numpy as np

from cero_alloc._solvers.tables import solve_batch
from studies.common.tables import Row


def concave_table(rng: np.random.Generator) -> np.ndarray:
    """Return unit gains that never increase, of one of four kinds."""
    size, max_units = int(rng.integers(1, 11)), int(rng.integers(4, 11))
    kind = rng.integers(4)
    if kind == 0:
        return -np.sort(-rng.random((size, max_units)), axis=1)
    if kind == 1:  # ties
        return -np.sort(-rng.integers(0, 6, (size, max_units)).astype(np.float64), axis=1)
    rate = 4.0 * rng.uniform(0.0, 0.25, (size, 1)) * rng.choice([0.1, 0.5, 2.0])
    if kind == 2:
        return rate * np.exp(-rate * np.arange(max_units))
    return rate / (1.0 + rate * np.arange(max_units)) ** 2


def adversarial_table(rng: np.random.Generator, min_units: int) -> np.ndarray:
    """Return unit gains with late jumps, or in even blocks but for one row outside the repair's core."""
    size, max_units = int(rng.integers(2, 121)), int(rng.integers(max(min_units + 1, 2), 11))
    if rng.random() < 0.5:
        block = max(min_units, 2)
        gains = np.zeros((size, max_units))
        gains[:, block - 1] = 1.0 + 1e-3 * rng.random(size)
        odd = rng.integers(size)
        gains[odd] = 0.0
        gains[odd, block if min_units else 0] = (
            rng.uniform(1.0, 1.0 + 1.0 / block) if min_units else rng.uniform(0.0, 0.5)
        )
        return gains
    gains = rng.integers(0, 3, (size, max_units)).astype(np.float64) * rng.choice([0.0, 0.1, 1.0])
    jumps = rng.integers(1, max_units + 1, size)
    gains[np.arange(size), jumps - 1] += jumps * (1.0 + rng.choice([0.0, 1e-3, 0.3]) * rng.random(size))
    return gains


def best_totals(gains: np.ndarray, min_units: int) -> np.ndarray:
    """Return the best sum of scores for every total, by dynamic programming over the rows."""
    size, max_units = gains.shape
    scores = np.concatenate([np.zeros((size, 1)), np.cumsum(gains, axis=1)], axis=1)
    best = np.full(size * max_units + 1, -np.inf)
    best[0] = 0.0
    for row in scores:
        fresh = best.copy()
        for n in range(max(min_units, 1), max_units + 1):
            fresh[n:] = np.maximum(fresh[n:], best[: best.size - n] + row[n])
        best = fresh
    return best


def envelope_run(seed: int, kind: str) -> Row:
    """Solve one table for a reachable total, and by dynamic programming."""
    rng = np.random.default_rng([seed, 20])
    min_units = (0, 2, 4)[seed % 3]
    gains = concave_table(rng) if kind == "concave" else adversarial_table(rng, min_units)
    best = best_totals(gains, min_units)
    total = int(rng.choice(np.flatnonzero(np.isfinite(best))))
    found = solve_batch(gains, min_units=min_units, low=total, high=total, floor=0.0, tie=rng.permutation(len(gains)))
    reached = float(sum(row[:n].sum() for row, n in zip(gains, found.units, strict=True)))
    loss = float(best[total]) - reached
    return {
        "tables": kind,
        "min_units": min_units,
        "seed": seed,
        "loss": loss / max(float(best[total]), 1e-300) if loss > 1e-11 else 0.0,
        "held": loss <= found.gap + 1e-9 and int(found.units.sum()) == total,
    }
