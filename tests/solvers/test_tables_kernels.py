"""The kernels of one visit's counts against their twins, at ordinary and extreme arguments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import twins
from helpers import kernels
from helpers.kernel_cases import costs_of, generators, quick


def table(rng, rows, width):
    """Unit gains that tie often: small integers, some rows concave, or floats over many magnitudes."""
    kind = rng.integers(3)
    if kind == 2:
        gains = rng.normal(size=(rows, width)) * 10 ** rng.uniform(-6, 6, (rows, 1))
    else:
        gains = rng.integers(-3 if kind else 0, 7, (rows, width)).astype(float)
    concave = rng.random(rows) < 0.5
    gains[concave] = -np.sort(-gains[concave], axis=1)
    return gains


def envelope(gains, min_units):
    slopes = np.empty_like(gains)
    width = gains.shape[1]
    kernels.majorise(gains, min_units, np.empty(width, dtype=np.int64), np.empty(width), slopes)
    return slopes


@pytest.mark.parametrize("min_units", [0, 1, 2, 4])
def test_majorise_matches_all_chords(min_units):
    for rng in generators(40):
        gains = table(rng, int(rng.integers(1, 5)), max(min_units, int(rng.integers(1, 9))))
        slopes = envelope(gains, min_units)
        scale = np.abs(gains).max(axis=1, keepdims=True) + 1e-300
        np.testing.assert_allclose(
            slopes / scale, np.array(twins.majorise(gains, min_units)) / scale, rtol=0, atol=1e-14
        )
        assert (np.diff(slopes, axis=1) <= 0).all()
        if min_units <= 1:  # a concave row is its own envelope, to the last bit
            falling = (np.diff(gains, axis=1) <= 0).all(axis=1)
            assert (slopes[falling] == gains[falling]).all()


@pytest.mark.parametrize("min_units", [3, 5, 6, 7])
def test_rounding_makes_no_block_steeper_than_the_one_before(min_units):
    """The mean of three equal gains can be less than each: the next unit must not seem to gain more."""
    gains = np.repeat(np.random.default_rng(min_units).random((400, 1)), 12, axis=1)
    assert (np.diff(envelope(gains, min_units), axis=1) <= 0).all()


def test_majorise_of_extreme_rows():
    gains = np.array([[1e300, -1e300, 1.0, 0.0], [0.0, 0.0, 0.0, 1e-300], [5e-324, 0.0, 0.0, 0.0], [-1.0, -1, -1, 9]])
    assert envelope(gains, 0).tolist()[1:] == [[2.5e-301] * 4, [5e-324, 0.0, 0.0, 0.0], [1.5] * 4]
    assert envelope(gains, 0)[0, 0] == 1e300


def test_dearer_and_take_above_match_their_twins():
    for rng in generators(60):
        rows, width = (int(rng.integers(1, most)) for most in (6, 8))
        slopes = -np.sort(-table(rng, rows, width), axis=1)
        cost = costs_of(rng, rows)
        units = np.empty(rows, dtype=np.int64)
        for price in [*rng.choice((slopes / np.reshape(cost, (-1, 1))).ravel(), 4), 0.3, np.inf, -np.inf]:
            total = kernels.take_above(slopes, cost, price, units)
            assert (total, units.tolist()) == twins.take_above(slopes, cost, price)
            for equal in (True, False):
                low, high = sorted(rng.integers(0, width + 1, 2).tolist())
                args = (slopes, int(rng.integers(rows)), low, high, cost[0], price, equal)
                assert kernels.dearer(*args) == twins.dearer(*args)


def test_clear_slopes_matches_a_walk_down_the_prices():
    for rng in generators(150):
        rows, width = (int(rng.integers(1, most)) for most in (8, 7))
        slopes = -np.sort(-table(rng, rows, width), axis=1)
        cost = costs_of(rng, rows)
        most = float(width * (cost.sum() if cost.size > 1 else cost[0] * rows))
        for target in [0.0, 0.25, *np.floor(rng.uniform(0, most, 4)), most, 2 * most]:
            sure, upto = np.zeros(rows, dtype=np.int64), np.full(rows, width)
            expected = twins.clear_slopes(slopes.tolist(), cost.tolist(), target, sure.tolist(), upto.tolist())
            price, spent = kernels.clear_slopes(slopes, cost, target, sure, upto, np.empty((2, rows), dtype=np.int64))
            assert (price, spent, sure.tolist(), upto.tolist()) == expected


def test_level_matches_raising_the_lowest():
    for rng in generators(300):
        rows = int(rng.integers(1, 7))
        start, units = rng.integers(0, 6, (2, rows))
        upto = units + rng.integers(0, 6, rows) * (rng.random(rows) < 0.8)
        cost = np.ones(1) if rng.random() < 0.6 else costs_of(rng, rows)
        order, left = rng.permutation(rows), float(rng.integers(0, 25))
        expected = twins.level(start.tolist(), units.tolist(), upto, cost, order, left)
        rest = kernels.level(start, units, upto, cost, order, left)
        assert (rest, units.tolist()) == expected


def test_level_leaves_those_ahead_alone():
    # The last unit is for one of the two that are behind, however early the third stands in the order.
    units = np.zeros(3, dtype=np.int64)
    order = np.array([2, 1, 0])
    assert kernels.level(np.array([0, 0, 5]), units, np.full(3, 3), np.ones(1), order, 1.0) == 0.0
    assert units.tolist() == [0, 1, 0]


# Ties, zeros, denormals and infinities.
GAINS = st.sampled_from([0.0, 5e-324, 1e-300, 0.5, np.nextafter(0.5, 1), 1.0, 1e300, np.inf])


@st.composite
def falling_slopes(draw):
    """Slopes that fall within random bounds, and are anything outside of them; a total, and the bounds."""
    rows, width = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    some = GAINS if draw(st.booleans()) else st.floats(0.0, np.inf)
    table = np.array(draw(st.lists(st.lists(some, min_size=width, max_size=width), min_size=rows, max_size=rows)))
    bounds = draw(
        st.lists(st.lists(st.integers(0, width), min_size=2, max_size=2).map(sorted), min_size=rows, max_size=rows)
    )
    for row, (low, high) in zip(table, bounds, strict=True):
        row[low:high] = -np.sort(-row[low:high])
    units, upto = np.array(bounds, dtype=np.int64).T.copy()
    total = draw(st.integers(-1, rows * width + 2))
    return table, total, units, upto


@quick
@given(data=st.data(), rows=st.integers(1, 4), max_units=st.integers(1, 6))
def test_fall_matches_its_twin(data, rows, max_units):
    entries = st.lists(
        st.sampled_from([-1.0, -0.0, 0.0, 0.3, 0.3 + 1e-16, 0.7, np.inf]), min_size=max_units, max_size=max_units
    )
    gains = np.array(data.draw(st.lists(entries, min_size=rows, max_size=rows)))
    lower = np.array(data.draw(st.lists(st.integers(0, max_units), min_size=rows, max_size=rows)), dtype=np.int64)
    out, expected = np.full_like(gains, np.nan), np.full_like(gains, np.nan)
    kernels.fall(gains, lower, out)
    twins.fall(gains, lower, expected)
    assert out.tolist() == expected.tolist()


def cleared(slopes, total, units, upto):
    """What the units leave of a total, each unit costing 1."""
    return total - int(
        kernels.clear_slopes(slopes, np.ones(1), float(total), units, upto, np.empty((2, units.size), dtype=np.int64))[
            1
        ]
    )


@settings(quick, max_examples=600)
@given(case=falling_slopes())
def test_clear_slopes_within_bounds_matches_a_walk_down_the_prices(case):
    slopes, total, units, upto = case
    lower, upper = units.copy(), upto.copy()
    price, spent, *expected = twins.clear_slopes(slopes.tolist(), [1.0], total, units.tolist(), upto.tolist())
    left = cleared(slopes, total, units, upto)
    assert [units.tolist(), upto.tolist()] == expected
    assert left == total - spent
    assert (lower <= units).all()
    assert (units <= upto).all()
    assert (upto <= upper).all()
    assert total < lower.sum() or left == total - units.sum() >= 0
    between = {float(s) for r in range(units.size) for s in slopes[r, units[r] : upto[r]]}
    assert between <= {price}  # the marginal units are all at one price
    taken = [slopes[r, n - 1] for r, n in enumerate(units) if n > lower[r]]
    assert all(s > price for s in taken for price in between)


def test_clear_slopes_of_one_row_one_unit_and_no_room():
    one = np.array([[7.0]])
    for total, low, high, expected in [
        (0, 0, 1, (0, 0, 1)),
        (1, 0, 1, (0, 1, 1)),
        (3, 0, 1, (2, 1, 1)),
        (0, 1, 1, (-1, 1, 1)),
    ]:
        units, upto = np.array([low]), np.array([high])
        left = cleared(one, total, units, upto)
        assert (left, int(units[0]), int(upto[0])) == expected
    row = np.array([[9.0, 4.0, 4.0, 4.0, 1.0, 0.0, 0.0]])
    for total, sure, upto_then in [
        (0, 0, 1),
        (1, 1, 4),
        (2, 1, 4),
        (4, 4, 5),
        (5, 5, 7),
        (6, 5, 7),
        (7, 7, 7),
        (8, 7, 7),
    ]:
        units, upto = np.array([0]), np.array([7])
        left = cleared(row, total, units, upto)
        assert (int(units[0]), int(upto[0]), left) == (sure, upto_then, total - sure)
    infinite = np.full((3, 2), np.inf)
    units, upto = np.zeros(3, dtype=np.int64), np.full(3, 2)
    assert cleared(infinite, 4, units, upto) == 4
    assert (units.tolist(), upto.tolist()) == ([0, 0, 0], [2, 2, 2])


@pytest.mark.parametrize("min_units", [0, 1, 2, 4])
def test_fill_ties_matches_its_twin(min_units):
    for rng in generators(120):
        rows, width = int(rng.integers(1, 7)), max(min_units, int(rng.integers(1, 8)))
        gains = table(rng, rows, width)
        slopes = envelope(gains, min_units)
        cost = costs_of(rng, rows)
        units, upto = np.zeros(rows, dtype=np.int64), np.full(rows, width)
        target = float(rng.integers(0, 30))
        _, spent = kernels.clear_slopes(slopes, cost, target, units, upto, np.empty((2, rows), dtype=np.int64))
        start, order = np.zeros(rows, dtype=np.int64), rng.permutation(rows)
        args = (gains, slopes, min_units, cost, start, order, target - spent)
        expected = twins.fill_ties(*args, units.tolist(), upto.tolist())
        rest = kernels.fill_ties(*args, units, upto)
        assert (rest, units.tolist()) == expected
        assert rest >= 0
        assert ((units == 0) | (units >= min_units)).all()


def allowed_units(rng, rows, min_units, width):
    return np.array(rng.choice(twins.allowed_counts(min_units, width), rows), dtype=np.int64)


@pytest.mark.parametrize("min_units", [0, 1, 2, 4])
def test_complete_matches_its_twin(min_units):
    found = 0
    for rng in generators(150):
        rows, width = int(rng.integers(1, 7)), max(min_units, int(rng.integers(1, 8)))
        gains, units = table(rng, rows, width), allowed_units(rng, rows, min_units, width)
        slopes, tie = envelope(gains, min_units), rng.permutation(rows)
        total = int(rng.integers(0, rows * width + 2))
        expected = twins.complete(gains, slopes, tie, min_units, total, units.tolist())
        assert kernels.complete(gains, slopes, tie, min_units, total, units) == (expected is not None)
        if expected is not None:
            assert units.tolist() == expected
            found += 1
    assert found > 40


@pytest.mark.parametrize("min_units", [0, 1, 2, 4])
def test_losses_match_their_twins(min_units):
    for rng in generators(60):
        rows, width = int(rng.integers(1, 7)), max(min_units, int(rng.integers(1, 8)))
        gains, units = table(rng, rows, width), allowed_units(rng, rows, min_units, width)
        price, out = float(rng.normal(1, 2)), np.empty(rows)
        scale = 1e-13 * (np.abs(gains).max() + abs(price)) * width
        for r in range(rows):
            for after in twins.allowed_counts(min_units, width):
                expected = twins.change_loss(gains.tolist(), r, price, int(units[r]), after)
                found = kernels.change_loss(gains, r, price, units[r], after)
                assert found == pytest.approx(expected, abs=scale)
        kernels.least_losses(gains, price, min_units, units, out)
        assert out == pytest.approx(twins.least_losses(gains.tolist(), price, min_units, units.tolist()), abs=scale)


@pytest.mark.parametrize("min_units", [0, 1, 2, 4])
def test_repair_matches_trying_everything(min_units):
    found = 0
    for rng in generators(120):
        rows, width = int(rng.integers(1, 7)), max(min_units, int(rng.integers(1, 6)))
        gains, units = table(rng, rows, width), allowed_units(rng, rows, min_units, width)
        core = rng.permutation(rows)[: int(rng.integers(0, 5))]
        price, slack = float(rng.normal(1, 2)), float(rng.choice([0.0, 1.5]))
        left = int(rng.integers(-4, 8))
        lowest, highest = left - int(rng.integers(0, 4)), left + int(rng.integers(0, 3))
        bound = float(rng.choice([np.inf, np.abs(gains).max() * 2]))
        args = (gains, core, price, slack, min_units, (lowest, left, highest), bound)
        before, reach = units.copy(), 4 * width
        best, choice = np.empty((2, 2 * reach + 1)), np.empty((core.size, 2 * reach + 1), dtype=np.int64)
        expected = twins.repair(gains.tolist(), *args[1:], before.tolist())
        loss = kernels.repair(*args, units, best, choice)
        scale = 1e-12 * (np.abs(gains).max() + abs(price)) * width
        assert loss == pytest.approx(expected, abs=scale)
        if expected == np.inf:
            assert (units == before).all()
            continue
        found += 1
        shift = int((units - before).sum())
        changes = [kernels.change_loss(gains, r, price, before[r], units[r]) for r in range(rows)]
        assert lowest <= shift <= highest
        assert sum(changes) + slack * (left - shift) == pytest.approx(loss, abs=scale)
        assert max(changes) < bound
        assert set(np.flatnonzero(units != before)) <= set(core)
        assert ((units == 0) | (units >= min_units)).all()
    assert found > 40


def test_repair_keeps_within_its_scratch():
    # A change by 3 needs both rows; scratch for changes up to 2 cannot hold it, scratch for 3 can.
    gains, core = np.array([[1.0, 1.0], [1.0, 1.0]]), np.arange(2)
    for reach, expected in ((2, np.inf), (3, 0.0)):
        units = np.zeros(2, dtype=np.int64)
        best, choice = np.empty((2, 2 * reach + 1)), np.empty((2, 2 * reach + 1), dtype=np.int64)
        assert kernels.repair(gains, core, 1.0, 0.0, 0, (3, 3, 3), np.inf, units, best, choice) == expected


@pytest.mark.parametrize("min_units", [0, 1, 2, 4])
def test_fill_costly_matches_its_twin(min_units):
    for rng in generators(120):
        rows, width = int(rng.integers(1, 7)), max(min_units, int(rng.integers(1, 8)))
        gains, units = table(rng, rows, width), allowed_units(rng, rows, min_units, width)
        slopes, tie = envelope(gains, min_units), rng.permutation(rows)
        cost = costs_of(rng, rows)
        floor_price, left = float(rng.choice([-np.inf, 0.0, 0.7])), float(rng.integers(0, 60))
        need = left * float(rng.choice([0.0, 0.5, 1.0, 2.0]))
        args = (gains, slopes, min_units, cost, tie, floor_price, need, left)
        expected = twins.fill_costly(*args, units.tolist())
        rest = kernels.fill_costly(*args, units)
        assert (rest, units.tolist()) == expected
