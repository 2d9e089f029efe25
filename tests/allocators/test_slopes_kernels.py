"""The kernels of the dual step of the slopes against their twins, at ordinary and extreme arguments."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from helpers import kernels
from helpers.kernel_cases import LAMS, SCALINGS, SHAPES, evidence_of, generators, quick, values_of


@SHAPES
@SCALINGS
@LAMS
@pytest.mark.parametrize(("start_stride", "stride"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_step_slopes_matches_its_twin(shape, scaling, lam, start_stride, stride):
    for rng in generators(3):
        theta, q = rng.random(20), values_of(rng, 20)
        theta[:2] = 0.0, 1.0
        visits = rng.integers(1, 30, 20 if stride else 1)
        max_units, share = int(rng.integers(1, 5)), float(rng.uniform(0.1, 9))
        proposal, start = rng.integers(0, max_units + 1, 20), rng.integers(0, 40, 20) * (start_stride + rng.integers(2))
        for gamma in (0.0, 0.3):
            moved = theta.copy()
            offers = (start.astype(float), start_stride, visits, stride)
            args = (q, proposal, offers, (max_units, share, gamma), (shape, scaling, lam))
            kernels.step_slopes(moved, *args)
            np.testing.assert_allclose(moved, twins.step_slopes(theta, *args), rtol=1e-12, atol=1e-14)
            assert np.all((moved >= 0) & (moved <= 1))


@quick
@given(bottom=st.floats(5e-324, 1e12), above=st.one_of(st.floats(0.0, 1e-3), st.floats(0.0, 1e300)))
def test_log_ratio_is_the_logarithm_to_its_last_places(bottom, above):
    top = min(bottom * (1.0 + above), 1e12)
    assert kernels.log_ratio(top, bottom) == pytest.approx(twins.log_ratio(top, bottom), rel=7e-16, abs=0)


def test_log_ratio_near_one_and_at_the_borders_of_its_parts():
    for bottom in [5e-324, 1e-310, 2.2250738585072014e-308, 1e-290, 0.75, 1.0, np.sqrt(2.0), 1.9999999999999998, 3e5]:
        for factor in [1.0, 1.0 + 2**-52, 1.0 + 2**-30, 1.41421356, 1.41421357, 2.0, 2.82842712, 2.82842713, 2.0**300]:
            top = bottom * factor
            assert kernels.log_ratio(top, bottom) == pytest.approx(twins.log_ratio(top, bottom), rel=7e-16, abs=0)


@SCALINGS
@LAMS
def test_step_slope_matches_its_twin(scaling, lam):
    for rng in generators(20):
        upper, step, per_visit = float(rng.uniform(0.1, 1e3)), float(rng.random()), float(rng.uniform(0.1, 9))
        max_units = int(rng.integers(1, 5))
        for theta in [0.0, 5e-324, 1e-12, 1.0, float(rng.random())]:
            for q in [0.0, 5e-324, 1e-17, theta / 4, np.nextafter(theta, 2) / 4, 0.25, float(rng.uniform(0, 0.25))]:
                dealt = int(rng.integers(0, max_units + 1))
                args = (theta, min(q, 0.25), dealt, step, upper, per_visit, max_units, scaling, lam)
                assert kernels.step_slope(*args) == pytest.approx(twins.step_slope(*args), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("shape", range(4), ids=list(twins.SHAPES))
@pytest.mark.parametrize(("a_stride", "stride"), [(0, 0), (1, 1)])
@pytest.mark.parametrize("start_stride", [0, 1])
def test_step_pool_matches_its_twin_in_blocks_of_any_size(shape, a_stride, stride, start_stride):
    for rng, belief in product(generators(4), ["rest", "drift", "drift and trend"]):
        evidence = evidence_of(rng, 30, a_stride, belief=belief, graded=bool(rng.integers(2)))
        theta, visits = rng.random(30), rng.integers(1, 30, 30 if stride else 1).astype(float)
        start = rng.integers(0, 9, 30 if start_stride else 1).astype(float) * start_stride
        max_units = int(rng.integers(1, 5))
        plan, codes = (max_units, float(rng.uniform(0.1, 9)), 0.0), (shape, 0, 1.0)
        first, k = int(rng.integers(0, 20)), int(rng.integers(0, 30))
        dealt = (first, rng.permutation(60)[:k], rng.integers(0, max_units + 1, k))
        args = (evidence, (start, start_stride, visits, stride), plan, codes, *dealt)
        expected = twins.step_pool(theta, *args)
        for block, length in ((1, 4), (7, 8), (8, 4), (30, 31), (64, 30)):
            moved, tops = theta.copy(), np.empty(30 // length, dtype=np.int64)
            rows, dealt = np.empty((2, k), dtype=np.int64)
            scratch = (np.empty((2, block)), np.zeros(block, dtype=np.int64), rows, dealt, np.empty((4, k)))
            kernels.step_pool(moved, *args, scratch, (moved.view(np.int64), tops, length))
            np.testing.assert_allclose(moved, expected, rtol=1e-12, atol=1e-14)
            assert tops.view(np.float64).tolist() == [
                max(moved[at * length : (at + 1) * length]) for at in range(30 // length)
            ]


@pytest.mark.parametrize("slopes", [[0.0], [5e-324, 0.0], [1.0, 0.5, 1.0], [-0.0, 0.0], [0.3, 0.30000000000000004]])
def test_largest_matches_its_twin(slopes):
    bits = np.array(slopes).view(np.int64)
    assert np.int64(kernels.largest(bits)).view(np.float64) == twins.largest(slopes)
