"""The kernels of the unit gains of a visit against their twins, at ordinary and extreme arguments."""

import numpy as np
import pytest

import twins
from helpers import kernels
from helpers.kernel_cases import ORDINARY, SCALINGS, SHAPES, costs_of, generators, remaining_pool


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", [1e-9, *ORDINARY, 1e3])
def test_score_gains_match_their_twin(shape, scaling, lam):
    for rng in generators(3):
        q, z, _, share = remaining_pool(rng, 5)
        w = rng.choice([1.0, 1.5, 4.0, 300.0], 5)
        gains = np.empty((5, 6))
        kernels.score_gains(q, z, w, share, (shape, scaling, lam), gains)
        expected = twins.score_gains(q.tolist(), z.tolist(), w.tolist(), share, (shape, scaling, lam), 6)
        np.testing.assert_allclose(gains, expected, rtol=1e-12, atol=2e-15 if shape == 3 else 1e-300)
        assert (np.diff(gains, axis=1) <= 0).all() or shape == kernels.CAPPED_LINEAR


def test_group_unit_matches_the_moments():
    for rng in generators(40):
        (a, b), g = np.exp(rng.uniform(-5, 8, 2)).tolist(), int(rng.integers(1, 5))
        fails, wins = b / (a + b), a / (a + b)
        for n in range(0, 5 * g, g):
            gain, fails, wins = kernels.group_unit(a, b, g, n, fails, wins)
            assert (gain, fails, wins) == pytest.approx(twins.group_unit(a, b, g, n), rel=1e-13, abs=0)


@pytest.mark.parametrize("g", [1, 2, 4])
@pytest.mark.parametrize("parameters", ["ordinary", "tiny", "huge", "lopsided"])
def test_group_gains_match_exact_fractions(g, parameters):
    rng = np.random.default_rng(g)
    low, high = {"ordinary": (0.3, 9), "tiny": (1e-6, 1e-3), "huge": (1e5, 1e7), "lopsided": (1e-3, 1e5)}[parameters]
    a, b = np.exp(rng.uniform(np.log(low), np.log(high), (2, 6)))
    a[0] = b[0]
    factor, gains = rng.choice([0.0, 1.0, 1.7], 6), np.empty((6, 8))
    kernels.group_gains((a, b, factor), g, gains)
    np.testing.assert_allclose(gains, twins.group_gains((a, b, factor), g, 8), rtol=1e-13, atol=0)
    if g == 1:
        assert (gains[:, 0] == 0).all()
        assert (np.diff(gains[:, 1:], axis=1) <= 0).all()


@pytest.mark.parametrize("g", [1, 2, 3])
@pytest.mark.parametrize("min_units", [0, 1, 2, 4])
def test_remaining_groups_match_a_search(g, min_units):
    for rng in generators(5):
        a, b = rng.uniform(0.3, 9, (2, 6))
        factor, visits = rng.choice([0.0, 1.0, 1.7], 6), rng.integers(-1, 5, 6).astype(float)
        cost = costs_of(rng, 6)
        for price in [0.0, 1e-3, 0.05, 0.11, 0.4, 1e300]:
            args = (price / cost[0], (a, b, factor), visits, cost, g, min_units, 6)
            assert kernels.remaining_groups(*args) == twins.remaining_groups(*args)
