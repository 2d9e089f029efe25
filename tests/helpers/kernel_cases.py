"""Cases at which kernels are compared with their twins."""

import numpy as np
import pytest
from hypothesis import settings

import twins
from helpers import kernels

SHAPES = pytest.mark.parametrize("shape", range(4), ids=list(twins.SHAPES))
SCALINGS = pytest.mark.parametrize("scaling", range(2), ids=list(twins.SCALINGS))
ORDINARY = [0.05, 1.0, 8.0]
LAMS = pytest.mark.parametrize("lam", [1e-12, *ORDINARY, 1e12])
BELIEFS = pytest.mark.parametrize("belief", ["rest", "drift", "trend", "drift and trend"])
GRADED = pytest.mark.parametrize("graded", [False, True], ids=["0 or 1", "graded"])
quick = settings(max_examples=150)


def values_of(rng, size):
    """Values in [0, 1/4] with both ends and repeats."""
    q = rng.choice([0.0, 0.25, 0.1, *rng.uniform(0, 0.25, 3)], size)
    return np.where(rng.random(size) < 0.5, q, rng.uniform(0, 0.25, size))


def generators(count):
    return [np.random.default_rng(seed) for seed in range(count)]


def evidence_of(rng, size, stride, dtype=np.float64, *, belief="rest", graded=False):
    """The argument ``evidence``: prior, outcomes, ticks, clock, powers, how beliefs move, and the deficits where graded.

    Outcomes below the prior and prompts without a touch are among them. Where beliefs move and evidence is forgotten, all
    rows are up to date.
    """
    a0, b0 = rng.uniform(0.1, 5, (2, size if stride else 1))
    prior = np.stack([np.broadcast_to(side, size) for side in (a0, b0)], axis=1)
    excess = rng.exponential(5, (size, 2))
    if belief != "rest" or rng.random() < 0.3:
        below, least = rng.random((size, 2)) < 0.2, 0.9 if belief == "rest" else 1.0 - 1e-6
        excess[below] = -prior[below] * rng.choice([0.2, least], np.count_nonzero(below))
    outcomes, fade, now = excess.astype(dtype), np.empty(4), 9
    rho = float(rng.choice([1.0, 0.97, 0.3]))
    kernels.powers(rho, fade)
    ticks = rng.integers(0, now, size).astype(np.int32)
    if belief != "rest" and rho < 1.0:
        ticks[:] = now
    drift = float(rng.choice([1e-4, 0.02, 0.5])) if "drift" in belief else 0.0
    odds, anchors, deficits = float(np.exp(rng.normal())), np.empty(0), np.empty(0)
    if "trend" in belief:
        anchors = np.exp(rng.normal(0, 2, size)) * (rng.random(size) < 0.8)
    if graded:
        a, b = (prior + outcomes).T
        deficits = a * b / (a + b) * rng.choice([0.0, 0.5, 1.0, rng.random()], size)
    return a0, b0, stride, outcomes, ticks, now, rho, fade, drift, odds, anchors, deficits


def remaining_pool(rng, size, *, whole=True):
    """Values, exposures so far, room and a share; with empty, full and untouched prompts."""
    z = rng.integers(0, 9, size) * (rng.random(size) < 0.7)
    room = rng.integers(0, 15, size).astype(float)
    if not whole:
        z, room = z * 0.7, room * 0.9
    return values_of(rng, size), z.astype(float), room, float(rng.uniform(0.5, 8))


def costs_of(rng, size):
    """Costs that are exact in float64, one for all or one per row."""
    return rng.choice([0.5, 1.0, 3.0, 17.0], size if rng.random() < 0.5 else 1)
