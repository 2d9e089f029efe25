"""Exact counts under one total: by falling gains, in proportion to weights, and level by level."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import twins
from cero_alloc.baselines._separable import best_counts, proportional, share_ties

thorough = settings(max_examples=200)
GAIN = st.sampled_from([0.0, 0.25, 1.0, 1.0 + 2**-52, 3.0, 1e-300, 1e300])


@st.composite
def problems(draw, gain=GAIN, rows=6, width=7):
    """Gains that fall from the lower bound on, bounds, a total from below the least to above the most, tie ranks."""
    m, max_units = draw(st.integers(1, rows)), draw(st.integers(1, width))
    gains = np.array(draw(st.lists(st.lists(gain, min_size=max_units, max_size=max_units), min_size=m, max_size=m)))
    bounds = draw(
        st.lists(st.lists(st.integers(0, max_units), min_size=2, max_size=2).map(sorted), min_size=m, max_size=m)
    )
    lower, upper = np.array(bounds, dtype=np.int64).T.copy()
    for row, low in zip(gains, lower, strict=True):
        row[low:] = -np.sort(-row[low:])
    total = draw(st.integers(max(0, int(lower.sum()) - 2), int(upper.sum()) + 2))
    return gains, lower, upper, total, np.array(draw(st.permutations(range(m))))


def check_bounds(units, lower, upper, total):
    assert units.dtype == np.int64
    assert (lower <= units).all()
    assert (units <= upper).all()
    assert units.sum() == min(max(total, lower.sum()), upper.sum())


# ---------------------------------------------------------------- best counts


@thorough
@given(problem=problems(rows=4, width=5))
def test_best_counts_reach_brute_force(problem):
    gains, lower, upper, total, _ = problem
    units = best_counts(*problem)
    check_bounds(units, lower, upper, total)
    value = lambda n: math.fsum(g for row, k in zip(gains.tolist(), n, strict=True) for g in row[:k])  # noqa: E731
    every = product(*(range(low, high + 1) for low, high in zip(lower, upper, strict=True)))
    best = max(value(n) for n in every if sum(n) == units.sum())
    assert value(units.tolist()) == pytest.approx(best, rel=1e-12, abs=0)


@thorough
@given(problem=problems(gain=st.one_of(GAIN, st.just(math.inf), st.floats(0, math.inf)), rows=8, width=9))
def test_best_counts_take_the_largest_gains_and_share_the_ties_evenly(problem):
    gains, lower, upper, total, tie = problem
    units = best_counts(*problem)
    check_bounds(units, lower, upper, total)
    expected, upto = lower.tolist(), upper.tolist()
    _, spent, expected, upto = twins.clear_slopes(gains.tolist(), [1.0], total, expected, upto)
    left = max(0, total - spent)
    order = sorted(range(lower.size), key=lambda i: tie[i])
    assert units.tolist() == twins.level([0] * lower.size, expected, upto, [1], order, left)[1]


def test_best_counts_leave_their_arguments_alone():
    rng = np.random.default_rng(0)
    gains, lower, upper = -np.sort(-rng.random((5, 6)), axis=1), np.full(5, 1), np.full(5, 5)
    before = gains.copy()
    best_counts(gains, lower, upper, 12, np.arange(5))
    assert (gains == before).all()
    assert lower.tolist() == [1] * 5
    assert upper.tolist() == [5] * 5


def test_gains_that_rounding_makes_rise_by_a_bit():
    up = np.nextafter
    gains = np.array([[2.0, 1.0, up(1.0, 2), 1.0, up(1.0, 2), 0.5], [1.5, 1.0, 1.0, up(1.0, 2), 1.0, up(1.0, 2)]])
    lower, upper = np.zeros(2, dtype=np.int64), np.full(2, 6)
    for total in range(13):
        units = best_counts(gains, lower, upper, total, np.arange(2))
        assert units.sum() == total
        each = np.sort(np.concatenate([gains[0, : units[0]], gains[1, : units[1]]]))[::-1]
        np.testing.assert_allclose(each, np.sort(gains, axis=None)[::-1][:total], rtol=1e-15)


def test_negative_zeros_are_zeros():
    gains = np.array([[1.0, -0.0, 0.0], [1.0, 0.0, -0.0]])
    assert best_counts(gains, np.zeros(2, dtype=np.int64), np.full(2, 3), 4, np.arange(2)).tolist() == [2, 2]


def test_gains_of_a_row_without_room_do_not_matter():
    gains = np.array([[np.inf, np.inf, np.inf], [1e-300, 0.0, 0.0]])
    assert best_counts(gains, np.array([0, 0]), np.array([0, 3]), 2, np.arange(2)).tolist() == [0, 2]


@thorough
@given(problem=problems(gain=st.just(0.0)))
def test_gains_of_zero_deal_evenly(problem):
    _, lower, upper, total, tie = problem
    units = best_counts(*problem)
    order = np.argsort(tie)
    left = max(0, total - int(lower.sum()))
    assert units.tolist() == twins.level([0] * lower.size, lower.tolist(), upper, [1], order, left)[1]


def test_a_larger_total_never_takes_from_a_row_without_ties():
    rng = np.random.default_rng(1)
    for _ in range(50):
        m, max_units = rng.integers(1, 9, 2)
        gains = -np.sort(-rng.random((m, max_units)), axis=1)
        bounds = np.zeros(m, dtype=np.int64), np.full(m, max_units)
        path = np.array([best_counts(gains, *bounds, total, np.arange(m)) for total in range(m * max_units + 1)])
        assert (np.diff(path, axis=0).sum(axis=1) == 1).all()
        assert (np.diff(path, axis=0) >= 0).all()


def test_one_table_at_all_scales():
    # Bit patterns order all magnitudes: 600 powers of ten in one table.
    gains = np.logspace(300, -299, 600).reshape(2, 300)
    for total in [1, 299, 300, 301, 599]:
        units = best_counts(gains, np.zeros(2, dtype=np.int64), np.full(2, 300), total, np.arange(2))
        assert units.tolist() == [min(total, 300), max(0, total - 300)]


# ---------------------------------------------------------------- ties


@thorough
@given(seed=st.integers(0, 2**32 - 1))
def test_share_ties_raises_the_lowest_within_the_caps(seed):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 7))
    units = rng.integers(0, 5, m)
    upto = units + rng.integers(0, 5, m)
    tie, left = rng.permutation(1000)[:m], int(rng.integers(-2, 25))
    order = sorted(range(m), key=lambda i: tie[i])
    expected = twins.level([0] * m, units.tolist(), upto.tolist(), [1], order, max(0, left))[1]
    room = int((upto - units).sum())
    before = int(units.sum())
    assert share_ties(units, upto, left, tie) is None
    assert units.tolist() == expected
    assert units.sum() - before == min(max(0, left), room)


# ---------------------------------------------------------------- proportional


WEIGHT = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(1e-6, 1e6))


@st.composite
def weighted(draw):
    m, max_units = draw(st.integers(1, 8)), draw(st.integers(1, 20))
    bounds = draw(
        st.lists(st.lists(st.integers(0, max_units), min_size=2, max_size=2).map(sorted), min_size=m, max_size=m)
    )
    if draw(st.booleans()):
        bounds = [draw(st.sampled_from([[0, max_units], [1, max_units]]))] * m
    lower, upper = np.array(bounds, dtype=np.int64).T.copy()
    weights = np.array(draw(st.lists(WEIGHT, min_size=m, max_size=m)))
    total = draw(st.integers(max(0, int(lower.sum()) - 2), int(upper.sum()) + 2))
    return weights, lower, upper, total, np.array(draw(st.permutations(range(m))))


@settings(thorough, max_examples=500)
@given(problem=weighted())
def test_proportional_matches_bisection_and_largest_remainders(problem):
    units = proportional(*problem)
    check_bounds(units, *problem[1:4])
    assert units.tolist() == twins.proportional(*(np.asarray(part).tolist() for part in problem))


@thorough
@given(problem=weighted())
def test_proportional_counts_stay_within_one_of_the_shares(problem):
    weights, lower, upper, total, _ = problem
    if (weights == 0).any() or not lower.sum() <= total <= upper.sum():
        return
    low, high = 0.0, 1e9
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if np.clip(middle * weights, lower, upper).sum() >= total else (middle, high)
    assert (np.abs(proportional(*problem) - np.clip(high * weights, lower, upper)) < 1 + 1e-8).all()


@thorough
@given(problem=weighted(), low=st.integers(0, 2))
def test_proportional_is_monotone_in_the_weights(problem, low):
    weights, _, _, total, tie = problem
    m = weights.size
    units = proportional(weights, np.full(m, low), np.full(m, low + 9), total, tie)
    for i in range(m):
        for j in range(m):
            if weights[i] > weights[j] * (1 + 1e-6):
                assert units[i] >= units[j]
    assert all(abs(units[i] - units[j]) <= 1 for i in range(m) for j in range(m) if weights[i] == weights[j])


def test_proportional_without_weights_is_even():
    bounds = np.array([0, 2, 0]), np.array([8, 8, 1])
    assert proportional(np.zeros(3), *bounds, 8, np.array([0, 1, 2])).tolist() == [4, 3, 1]
    assert proportional(np.zeros(3), *bounds, 8, np.array([1, 0, 2])).tolist() == [3, 4, 1]


def test_weightless_rows_get_only_what_the_others_cannot_take():
    weights, lower, upper = np.array([0.0, 3.0, 1.0, 0.0]), np.array([1, 0, 0, 0]), np.full(4, 6)
    for total, expected in [(1, [1, 0, 0, 0]), (5, [1, 3, 1, 0]), (13, [1, 6, 6, 0]), (16, [2, 6, 6, 2])]:
        assert proportional(weights, lower, upper, total, np.arange(4)).tolist() == expected


@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1.0, 1e12, 1e150])
def test_proportional_is_independent_of_the_unit_of_weight(scale):
    rng = np.random.default_rng(2)
    for _ in range(50):
        m = int(rng.integers(1, 30))
        weights, tie, total = rng.exponential(1, m) ** 3, rng.permutation(m), int(rng.integers(0, 8 * m + 1))
        bounds = np.zeros(m, dtype=np.int64), np.full(m, 8)
        expected = proportional(weights, *bounds, total, tie)
        assert proportional(weights * scale, *bounds, total, tie).tolist() == expected.tolist()


def test_weights_of_all_magnitudes():
    weights = np.array([1e-150, 1e-10, 1.0, 1e10, 1e150])
    bounds = np.zeros(5, dtype=np.int64), np.full(5, 4)
    for total in range(21):
        full, rest = divmod(total, 4)
        expected = [4 if i < full else rest if i == full else 0 for i in range(5)][::-1]
        assert proportional(weights, *bounds, total, np.arange(5)).tolist() == expected
