"""The kernels of the utility, and what all kernels share against their twins, at ordinary and extreme arguments."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from helpers import kernels
from helpers.kernel_cases import LAMS, ORDINARY, SCALINGS, SHAPES, quick, values_of


@SHAPES
@SCALINGS
@LAMS
@pytest.mark.parametrize("q", [0.0, 1e-9, 0.1, 0.25])
def test_scalar_utility_matches_its_twin(shape, scaling, lam, q):
    height, rate = kernels.scale_of(scaling, lam, q)
    assert (height, rate) == pytest.approx(twins.scale_of(scaling, lam, q), rel=1e-15)
    for x in [0.0, 1e-6, 0.5, 1.0, 3.0, 1e3]:
        args = (shape, height, rate, x)
        assert kernels.u(*args) == pytest.approx(twins.u(*args), rel=1e-12, abs=2e-16 * height)
        assert kernels.du(*args) == pytest.approx(twins.du(*args), rel=1e-12, abs=0)


@SHAPES
@SCALINGS
@LAMS
@pytest.mark.parametrize("q", [0.0, 1e-9, 0.1, 0.25])
@pytest.mark.parametrize("upper", [0.0, 0.5, 20.0])
def test_scalar_demand_and_conjugate_match_their_twins(shape, scaling, lam, q, upper):
    height, rate = kernels.scale_of(scaling, lam, q)
    for share in [0.0, 1e-9, 0.1, 0.5, 0.9, 1.0, 2.0]:
        args = (shape, height, rate, share * height * rate, upper)
        assert kernels.demand(*args) == pytest.approx(twins.demand(*args), rel=1e-12)
        assert kernels.conj(*args) == pytest.approx(twins.conj(*args), rel=1e-12, abs=1e-15 * height)


@SHAPES
@SCALINGS
@LAMS
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_demand_pull_is_the_slope_of_demand_by_log_price(shape, scaling, lam, share):
    height, rate = kernels.scale_of(scaling, lam, 0.2)
    args = (shape, height, rate, share * height * rate)
    assert kernels.demand_pull(*args) == pytest.approx(twins.demand_pull(*args), rel=1e-7, abs=1e-300)


@SHAPES
@SCALINGS
@LAMS
@pytest.mark.parametrize("q", [0.0, 0.1, 0.25])
def test_unit_gain_matches_its_twin(shape, scaling, lam, q):
    height, rate = kernels.scale_of(scaling, lam, q)
    for n in range(12):
        slack = 2e-16 * height if shape == kernels.CAPPED_LINEAR else 5e-324
        assert kernels.unit_gain(shape, height, rate, float(n)) == pytest.approx(
            twins.unit_gain(shape, height, rate, n), rel=1e-14 * (1 + min(rate * n, 800)), abs=slack
        )


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", [1e-12, *ORDINARY, 1e6])
def test_elementwise_loops_match_their_twins(shape, scaling, lam):
    rng = np.random.default_rng(0)
    q, x, upper = values_of(rng, 40), rng.exponential(2, 40), rng.exponential(3, 40)
    slope = lam * rng.choice([0.0, 0.1, 0.5, 1.0, 2.0], 40)
    out = np.empty(40)
    for name, arguments in {
        "utility_loop": (q, x),
        "marginal_loop": (q, x),
        "demand_loop": (q, slope, upper),
        "conjugate_loop": (q, slope, upper),
    }.items():
        getattr(kernels, name)((shape, scaling, lam), *arguments, out)
        twin = getattr(twins, name)((shape, scaling, lam), *map(np.ndarray.tolist, arguments))
        np.testing.assert_allclose(out, twin, rtol=1e-12, atol=2e-15)


@SHAPES
@pytest.mark.parametrize("rate", [1e-12, 3e-7, 0.01, 1.0])
def test_small_utility_keeps_all_its_digits(shape, rate):
    for x in [1e-9, 1e-3, 0.7]:
        exact = float(twins.phi(shape, Decimal(rate) * Decimal(x)))
        assert kernels.u(shape, 1.0, rate, x) == pytest.approx(exact, rel=1e-15, abs=0)


@SHAPES
@pytest.mark.parametrize("rate", [1e-14, 1e-8, 1e-3, 0.5])
def test_small_unit_gain_keeps_all_its_digits(shape, rate):
    for n in [0, 1, 7, 100]:
        if shape == kernels.CAPPED_LINEAR and rate * (n + 1) > 1:
            continue
        exact = twins.unit_gain(shape, 1.0, rate, n)
        assert kernels.unit_gain(shape, 1.0, rate, float(n)) == pytest.approx(exact, rel=2e-15 * (1 + rate * n), abs=0)


@pytest.mark.parametrize("shape", [kernels.EXPONENTIAL, kernels.HYPERBOLIC, kernels.LOG])
@pytest.mark.parametrize("distance", [2.0**-52, 2.0**-40, 1e-9, 1e-3, 0.4])
@pytest.mark.parametrize(("height", "rate"), [(1.0, 0.3), (1.0, 1e-12), (0.5, 7.0), (1.0, 1e12)])
def test_demand_just_below_the_top_slope_keeps_all_its_digits(shape, distance, height, rate):
    top = height * rate  # exact: the height is a power of two
    slope = top * (1 - distance)
    with localcontext() as context:
        context.prec = 100
        ratio = Decimal(top) / Decimal(slope)
        exact = float([ratio.ln(), ratio.sqrt() - 1, ratio - 1][shape] / Decimal(rate))
    assert kernels.demand(shape, height, rate, slope, 1e300) == pytest.approx(exact, rel=1e-15, abs=0)


@quick
@given(st.lists(st.floats(-1e6, 1e6), max_size=30))
def test_compensated_addition(terms):
    total = lost = twin = rest = 0.0
    for term in terms:
        total, lost = kernels.add(total, lost, term)
        twin, rest = twins.add(twin, rest, term)
    assert total == pytest.approx(twin, rel=1e-15, abs=1e-15 * sum(map(abs, terms)))


def test_one_entry_for_all_or_one_each():
    for array in (np.array([3.0]), np.array([1.0, 2.0])):
        assert [kernels.entry(array, i) for i in range(2)] == [twins.entry(array, i) for i in range(2)]


@quick
@given(state=st.integers(0, 2**64 - 1), n=st.integers(1, 2**40))
def test_draw_matches_its_twin(state, n):
    fresh, below = kernels.draw(np.uint64(state), n)
    assert (int(fresh), below) == twins.draw(state, n)
