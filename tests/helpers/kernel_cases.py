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
quick = settings(max_examples=150)


def values_of(rng, size):
    """Values in [0, 1/4] with both ends and repeats."""
    q = rng.choice([0.0, 0.25, 0.1, *rng.uniform(0, 0.25, 3)], size)
    return np.where(rng.random(size) < 0.5, q, rng.uniform(0, 0.25, size))


def generators(count):
    return [np.random.default_rng(seed) for seed in range(count)]


def evidence_of(rng, size, stride, dtype=np.float64):
    """The argument ``evidence``: prior, outcomes, ticks, clock, and the table of powers."""
    a0, b0 = rng.uniform(0.1, 5, (2, size if stride else 1))
    outcomes = rng.exponential(5, (size, 2)).astype(dtype)
    rho, fade = float(rng.choice([1.0, 0.97, 0.3])), np.empty(4)
    kernels.powers(rho, fade)
    return a0, b0, stride, outcomes, rng.integers(0, 9, size).astype(np.int32), 9, rho, fade


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
