"""SaturatingUtility: shape, duality, coercion and messages."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

import twins
from cero_alloc import SaturatingUtility

quick = settings(max_examples=150)

EVERY = pytest.mark.parametrize(
    "utility",
    [
        SaturatingUtility(shape, saturation=lam, scaling=scaling)
        for shape in twins.SHAPES
        for scaling in twins.SCALINGS
        for lam in (0.1, 1.0, 7.0)
    ],
    ids=lambda u: f"{u.shape}-{u.scaling}-{u.saturation:g}",
)
Q = np.array([0.0, 1e-6, 0.03, 0.16, 0.25])

utilities = st.builds(
    SaturatingUtility,
    st.sampled_from(list(twins.SHAPES)),
    saturation=st.floats(1e-3, 1e3),
    scaling=st.sampled_from(list(twins.SCALINGS)),
)
qs = st.one_of(st.sampled_from([0.0, 0.25]), st.floats(1e-6, 0.25))
exposures = st.one_of(st.just(0.0), st.floats(1e-6, 1e3))


# ---------------------------------------------------------------- shape


@EVERY
def test_matches_the_twin(utility):
    codes = (twins.SHAPES[utility.shape], twins.SCALINGS[utility.scaling], utility.saturation)
    x = np.linspace(0, 6, 25)
    for q in Q:
        np.testing.assert_allclose(utility.value(q, x), twins.utility_loop(codes, [q] * 25, x), rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(utility.marginal(q, x), twins.marginal_loop(codes, [q] * 25, x), rtol=1e-12)


@quick
@given(utility=utilities, q=qs, a=exposures, b=exposures, w=st.floats(0, 1))
def test_concave_and_increasing(utility, q, a, b, w):
    left, right, between = utility.value(q, [a, b, w * a + (1 - w) * b])
    assert between >= (w * left + (1 - w) * right) * (1 - 1e-12)
    assert (left <= right) if a <= b else (left >= right)
    assert left >= 0


@quick
@given(utility=utilities, q=qs, a=exposures, b=exposures)
def test_the_slope_falls_and_stays_within_the_saturation(utility, q, a, b):
    first, second = utility.marginal(q, sorted([a, b]))
    assert 0 <= second <= first <= utility.saturation


@EVERY
def test_the_slope_at_zero(utility):
    np.testing.assert_allclose(utility.marginal(Q, 0.0), 4 * utility.saturation * Q, rtol=1e-15)
    assert np.all(utility.value(Q, 0.0) == 0)


@EVERY
def test_the_marginal_is_the_derivative(utility):
    x, h = np.linspace(0.05, 5, 40), 1e-6
    slope = (utility.value(0.2, x + h) - utility.value(0.2, x - h)) / (2 * h)
    kink = 1 / twins.scale_of(twins.SCALINGS[utility.scaling], utility.saturation, 0.2)[1]
    away = (utility.shape != "capped-linear") | (abs(x - kink) > 2 * h)
    np.testing.assert_allclose(utility.marginal(0.2, x)[away], slope[away], rtol=1e-6, atol=1e-8)


def test_the_kink_takes_the_slope_to_the_right():
    assert SaturatingUtility("capped-linear").marginal(0.25, [0.999, 1.0]).tolist() == [1.0, 0.0]


@EVERY
def test_the_ceiling_bounds_the_mean_utility_of_one_share_each(utility):
    shares = np.random.default_rng(0).dirichlet(np.full(5, 0.3), 200) * 5
    assert np.all(utility.value(Q, shares).mean(axis=1) <= utility.ceiling * (1 + 1e-12))
    if utility.shape == "log":
        assert utility.ceiling == utility.saturation
    else:
        assert utility.ceiling == min(1.0, utility.saturation)


@pytest.mark.parametrize("shape", twins.SHAPES)
@pytest.mark.parametrize("scaling", twins.SCALINGS)
@pytest.mark.parametrize("saturation", [1e-12, 1e12])
def test_extreme_saturation_stays_finite(shape, scaling, saturation):
    utility = SaturatingUtility(shape, saturation=saturation, scaling=scaling)
    x = np.array([0.0, 1e-12, 1.0, 1e12, 1e250])
    value, slope = utility.value(Q[:, None], x), utility.marginal(Q[:, None], x)
    taken = utility.demand(Q[:, None], saturation * np.array([0.0, 1e-9, 0.5, 1.0]), 1e12)
    assert np.isfinite(value).all()
    assert np.all(np.diff(value, axis=1) >= 0)
    assert np.all((slope >= 0) & (slope <= saturation))
    assert np.all((taken >= 0) & (taken <= 1e12))


@pytest.mark.parametrize("shape", ["exponential", "hyperbolic", "capped-linear"])
def test_a_bounded_shape_reaches_its_height_where_rate_times_exposure_overflows(shape):
    utility = SaturatingUtility(shape, saturation=1e12)
    assert utility.value(0.25, 1e300) == 1.0


# ---------------------------------------------------------------- duality


@EVERY
def test_demand_minimises_over_a_grid(utility):
    grid = np.linspace(0, 4, 4001)
    for q in Q:
        worth = utility.value(q, grid)
        for share in (0.0, 0.05, 0.3, 0.6, 0.95, 1.0, 1.5):
            slope = 4 * utility.saturation * q * share
            best = float(utility.conjugate(q, slope, 4.0))
            taken = float(utility.demand(q, slope, 4.0))
            assert 0 <= taken <= 4
            assert slope * taken - float(utility.value(q, taken)) == pytest.approx(best, rel=1e-12, abs=1e-15)
            assert best <= (slope * grid - worth).min() + 1e-14


@EVERY
def test_demand_agrees_with_scipy(utility):
    for share in (0.05, 0.3, 0.6, 0.95):
        slope = 4 * utility.saturation * 0.16 * share
        found = minimize_scalar(
            lambda x, s=slope: s * x - float(utility.value(0.16, x)), bounds=(0, 5), options={"xatol": 1e-10}
        )
        assert utility.conjugate(0.16, slope, 5.0) == pytest.approx(found.fun, rel=1e-6, abs=1e-7)
        assert utility.demand(0.16, slope, 5.0) == pytest.approx(found.x, abs=1e-4)


def test_demand_is_the_smallest_minimiser():
    utility = SaturatingUtility("capped-linear")
    assert utility.demand(0.25, [1.0, 0.5, 0.0], 3.0).tolist() == [0.0, 1.0, 1.0]
    assert utility.demand(0.0, 0.0, 3.0) == 0.0


@quick
@given(utility=utilities, q=qs, share=st.floats(0, 1.5), x=st.floats(0, 1), upper=exposures)
def test_fenchel_young(utility, q, share, x, upper):
    slope, x = share * 4 * utility.saturation * q, x * upper
    value, least = float(utility.value(q, x)), float(utility.conjugate(q, slope, upper))
    assert slope * x >= value + least - 1e-12 * (value + slope * x)
    taken = float(utility.demand(q, slope, upper))
    cost = slope * taken
    assert cost == pytest.approx(float(utility.value(q, taken)) + least, rel=1e-12, abs=1e-12 * (1 + cost))


@EVERY
def test_biconjugation_restores_the_utility(utility):
    upper = 3.0
    for q in Q:
        for x in np.linspace(0, upper, 13):
            slopes = np.append(np.linspace(0, utility.saturation, 101), utility.marginal(q, x))
            envelope = slopes * x - utility.conjugate(q, slopes, upper)
            assert envelope.min() == pytest.approx(float(utility.value(q, x)), rel=1e-12, abs=1e-14)


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("q", "x", "shape"),
    [
        (0.1, 1.0, ()),
        ([0.1, 0.2], 1.0, (2,)),
        (0.1, [1.0, 2.0, 3.0], (3,)),
        ([[0.1], [0.2]], [1.0, 2.0, 3.0], (2, 3)),
        ([], [], (0,)),
        ([], 1.0, (0,)),
        (np.float32(0.25), np.int64(1), ()),
        (np.full((3, 4), 0.1).T[::2], np.ones((2, 3)), (2, 3)),
    ],
)
def test_arguments_broadcast(q, x, shape):
    utility = SaturatingUtility("hyperbolic")
    for out in (
        utility.value(q, x),
        utility.marginal(q, x),
        utility.demand(q, x, 2.0),
        utility.conjugate(q, x, 2.0),
    ):
        assert out.shape == shape
        assert out.dtype == np.float64
    each = [float(utility.value(a, b)) for a, b in np.broadcast(q, x)]
    np.testing.assert_array_equal(utility.value(q, x), np.reshape(each, shape))


def test_all_three_arguments_of_demand_broadcast():
    out = SaturatingUtility().demand(np.full((2, 1, 1), 0.2), np.full((3, 1), 0.1), [1.0, 2.0])
    assert out.shape == (2, 3, 2)


def test_arguments_are_left_alone():
    q, x = np.array([0.1, 0.2]), np.array([1.0, 2.0])
    out = SaturatingUtility().value(q, x)
    out[:] = -1
    assert q.tolist() == [0.1, 0.2]
    assert x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("method", ["value", "marginal"])
def test_shapes_that_do_not_broadcast(method):
    with pytest.raises(ValueError, match="broadcast"):
        getattr(SaturatingUtility(), method)([0.1, 0.2], [1.0, 2.0, 3.0])


# ---------------------------------------------------------------- the object


def test_defaults():
    utility = SaturatingUtility()
    assert (utility.shape, utility.saturation, utility.scaling) == ("exponential", 1.0, "rate")


@pytest.mark.parametrize("name", ["shape", "saturation", "scaling"])
def test_is_immutable(name):
    with pytest.raises(dataclasses.FrozenInstanceError, match=name):
        setattr(SaturatingUtility(), name, 2.0)


def test_compares_and_hashes_by_value():
    assert SaturatingUtility("log", saturation=2) == SaturatingUtility("log", saturation=2.0)
    assert len({SaturatingUtility(), SaturatingUtility(saturation=1), SaturatingUtility("log")}) == 2


def test_saturation_and_scaling_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        SaturatingUtility("log", 1.0)


# ---------------------------------------------------------------- messages


def test_unknown_shape():
    message = (
        r"shape must be one of \['capped-linear', 'exponential', 'hyperbolic', 'log'\], got shape = 'linear'\. Correct"
    )
    with pytest.raises(ValueError, match=message):
        SaturatingUtility("linear")


def test_unknown_scaling():
    with pytest.raises(
        ValueError, match=r"scaling must be one of \['height', 'rate'\], got scaling = 'both'\. Correct"
    ):
        SaturatingUtility(scaling="both")


@pytest.mark.parametrize("saturation", [0.0, -1.0, math.nan, math.inf])
def test_saturation_out_of_range(saturation):
    message = rf"saturation must be finite and greater than 0, got saturation = {saturation!r}\. Take 1\.0"
    with pytest.raises(ValueError, match=message):
        SaturatingUtility(saturation=saturation)


@pytest.mark.parametrize("saturation", [None, "much", [1.0, 2.0]])
def test_saturation_that_is_not_a_number(saturation):
    with pytest.raises(TypeError, match="saturation must be finite and greater than 0, got saturation = "):
        SaturatingUtility(saturation=saturation)


METHODS = {"value": 1, "marginal": 1, "demand": 2, "conjugate": 2}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [-0.1, 0.26, math.nan, math.inf])
def test_value_out_of_range(method, bad):
    arguments = [1.0] * METHODS[method]
    condition = r"q must be finite, at least 0 and at most 0\.25"
    with pytest.raises(ValueError, match=rf"{condition}, got q\[1\] = {bad!r}\. A value is a Bernoulli variance"):
        getattr(SaturatingUtility(), method)([0.1, bad], *arguments)
    with pytest.raises(ValueError, match=rf"{condition}, got q = {bad!r}\. A value"):
        getattr(SaturatingUtility(), method)(bad, *arguments)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    ("method", "name", "remedy", "arguments"),
    [
        ("value", "x", "Exposure is counted in equal shares", lambda bad: (bad,)),
        ("marginal", "x", "Exposure is counted in equal shares", lambda bad: (bad,)),
        ("demand", "slope", "A slope is utility per equal share", lambda bad: (bad, 1.0)),
        ("conjugate", "slope", "A slope is utility per equal share", lambda bad: (bad, 1.0)),
        ("demand", "upper", "Exposure is counted in equal shares", lambda bad: (0.1, bad)),
        ("conjugate", "upper", "Exposure is counted in equal shares", lambda bad: (0.1, bad)),
    ],
)
def test_argument_out_of_range(method, name, remedy, arguments, bad):
    with pytest.raises(ValueError, match=rf"{name} must be finite, at least 0, got {name} = {bad!r}\. {remedy}"):
        getattr(SaturatingUtility(), method)(0.1, *arguments(bad))
    with pytest.raises(ValueError, match=rf"{name} must be finite, at least 0, got {name}\[2\] = {bad!r}\. {remedy}"):
        getattr(SaturatingUtility(), method)(0.1, *arguments([1.0, 0.0, bad]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda u: u.value("high", 1.0), r"q must be numbers, got str\. A value"),
        (lambda u: u.value(0.1, "much"), r"x must be numbers, got str\. Exposure"),
        (lambda u: u.marginal(0.1, object()), r"x must be numbers, got object\. Exposure"),
        (lambda u: u.demand(0.1, {}, 1.0), r"slope must be numbers, got dict\. A slope"),
        (lambda u: u.conjugate(0.1, 0.5, [[1.0], [1.0, 2.0]]), r"upper must be numbers, got list\. Exposure"),
    ],
)
def test_arguments_that_are_not_numbers(call, message):
    with pytest.raises(TypeError, match=message):
        call(SaturatingUtility())
