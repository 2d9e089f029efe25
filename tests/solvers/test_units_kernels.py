"""The kernels of whole units and the remaining problem against their twins, at ordinary and extreme arguments."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from helpers import kernels
from helpers.kernel_cases import ORDINARY, SCALINGS, SHAPES, costs_of, generators, remaining_pool


def remaining_demand(price, problem, share, codes, stretch=64, lanes=4):
    """Each prompt's units, their cost and the pull, by the kernel."""
    size = problem[0].size
    more, sums = np.empty(size), np.empty((-(-size // stretch), 3))
    kernels.remaining_demand(price, problem, share, codes, stretch, more, sums, np.empty((7, lanes)))
    cost, errors, pull = sums.sum(axis=0).tolist()
    return more.tolist(), cost + errors, pull


@given(st.floats(-1e150, 1e150), st.floats(-1e150, 1e150))
def test_a_sum_and_its_error_are_exact(x, y):
    assert kernels.two_sum(x, y) == twins.two_sum(x, y)


def test_the_sum_over_a_pool_is_rounded_once():
    """900 equal prompts, whose demand is the budget: an error in the last place would find a price above 0."""
    problem = (np.full(900, 0.2), np.zeros(900), np.full(1, 100.0), np.ones(1))
    more, sums = np.empty(900), np.empty((1, 3))
    codes = (kernels.CAPPED_LINEAR, kernels.HEIGHT, 1.0)
    kernels.remaining_demand(1e-290, problem, 5336 / 900, codes, 1024, more, sums, np.empty((7, 256)))
    assert math.fsum(sums[0, :2]) == math.fsum(more)


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", [1e-6, *ORDINARY, 1e4])
def test_remaining_demand_matches_a_bisection(shape, scaling, lam):
    for rng in generators(4):
        q, z, room, share = remaining_pool(rng, 9, whole=False)
        room = room[: 1 if rng.random() < 0.3 else 9]
        cost = costs_of(rng, 9)
        for level in [1e-200, 0.01, 0.13, 0.4, 0.9, 2.0]:
            price = level * lam / share / cost[0]
            problem = (price, (q, z, room, cost), share, (shape, scaling, lam))
            units, *expected = twins.remaining_demand(*problem)
            more, *sums = remaining_demand(*problem)
            assert more == pytest.approx(units, rel=1e-6, abs=1e-9)
            assert sums == pytest.approx(expected, rel=1e-6, abs=1e-9)
            for stretch, lanes in (
                (9, 9),
                (4, 2),
                (3, 1),
                (1, 16),
            ):  # how the sums are taken changes their last bits at most
                again, *others = remaining_demand(*problem, stretch, lanes)
                assert again == more
                assert others == pytest.approx(sums, rel=1e-14, abs=1e-300)


@pytest.mark.parametrize("level", [5e-324, 1e-300, 1e300])
def test_remaining_demand_at_extreme_prices(level):
    q, z, room, share = remaining_pool(np.random.default_rng(0), 9)
    q[0] = 0.2
    for shape in range(3):
        _, total, pull = remaining_demand(level, (q, z, room, np.ones(1)), share, (shape, kernels.RATE, 1.0))
        assert total == (room[q > 0].sum() if level < 1 else 0.0)
        assert pull == 0.0


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", ORDINARY)
def test_units_worth_match_a_scan(shape, scaling, lam):
    for rng in generators(6):
        q = float(rng.choice([0.0, 0.25, 0.07]))
        height, rate = kernels.scale_of(scaling, lam, q)
        rate /= rng.uniform(0.5, 8)
        start, upper = float(rng.choice([0.0, 1.0, 7.0, 2.5])), int(rng.integers(0, 25))
        w, shift = float(rng.choice([1.0, 2.5])), float(rng.choice([0.0, 0.0, 3.0, -3.0]))
        gains = [kernels.unit_gain(shape, height, rate, start + n) / w + shift for n in range(upper)]
        prices = [5e-324, 1e300, *(shift + rng.uniform(0, 1.1 * height * rate + 1e-9, 4) / w)]
        prices += [gain * (1 + d) for gain in gains[::3] for d in (1e-13, -1e-13) if shift or gain > 1e-290]
        for price in prices:
            args = (shape, height, rate, start, w, shift, float(price), upper)
            assert kernels.units_worth(*args) == twins.units_worth(*args)
        for gain in gains:  # at exactly a gain: all that gain as much, to the last bit
            if shift or gain > 0:
                worth = kernels.units_worth(shape, height, rate, start, w, shift, gain, upper)
                assert worth == sum(g >= gain for g in gains)


@SHAPES
@SCALINGS
@pytest.mark.parametrize("start", [0.0, 1e6])
def test_units_worth_of_a_huge_box(shape, scaling, start):
    height, rate = kernels.scale_of(scaling, 1.0, 0.2)
    for price in [1e-12, 1e-4, 0.3]:
        n = kernels.units_worth(shape, height, rate / 50.0, start, 1.0, 0.0, price, 2**40)
        gain = lambda k: kernels.unit_gain(shape, height, rate / 50.0, start + k)  # noqa: E731
        assert n == 0 or gain(n - 1) >= price
        assert n == 2**40 or gain(n) < price


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", ORDINARY)
def test_count_worth_and_next_gains_match_their_twins(shape, scaling, lam):
    for rng in generators(3):
        q, z, room, share = remaining_pool(rng, 7)
        model = (share, (shape, scaling, lam))
        out, gains = np.empty(7, dtype=np.int64), np.empty(7)
        lower, w = (
            rng.integers(0, 3, 7 if rng.random() < 0.5 else 1),
            rng.choice([1.0, 2.5], 7 if rng.random() < 0.5 else 1),
        )
        units = (q, z, w, lower, lower + room.astype(np.int64))
        for price in rng.uniform(0.001, 1.1, 3) * lam / share:
            for shift in (0.0, 2.0 * lam / share):
                total = kernels.count_worth(price + shift, shift, units, *model, out)
                assert (total, out.tolist()) == twins.count_worth(price + shift, shift, units, *model)
        assert kernels.count_worth(-np.inf, 1.0, units, *model, out) == (lower + room).sum()
        assert kernels.count_worth(np.inf, 1.0, units, *model, out) == (lower + 0 * room).sum()
        units = rng.integers(0, 6, 7)
        kernels.next_gains(q, z, units, *model, gains)
        expected = twins.next_gains(q.tolist(), z.tolist(), units.tolist(), *model)
        np.testing.assert_allclose(gains, expected, rtol=1e-12, atol=2e-16 * max(lam, 1.0))


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", ORDINARY)
def test_unit_starts_and_counts_match_their_twins(shape, scaling, lam):
    for rng in generators(2):
        size, share = 6, float(rng.uniform(0.5, 8))
        scales = [kernels.scale_of(scaling, lam, q) for q in rng.choice([0.0, 0.25, *rng.uniform(0, 0.25, 3)], size)]
        w = rng.choice([1.0, 3.5, 40.0], size)
        block = np.array([[h for h, _ in scales], [r / share for _, r in scales], 1.0 / w, 0.0 * w, 0.0 * w])
        block[1] *= w
        lo, hi = np.sort(rng.uniform(0.001, 1.1, 2)) * lam / share
        kernels.unit_starts(shape, size, lo, hi, block)
        for height, rate, per_visit, at_lo, at_hi in block.T:
            for price, start in ((lo, at_lo), (hi, at_hi)):
                expected = twins.unit_starts(shape, height, rate, 1.0 / per_visit, price)
                if expected <= 0.0:
                    assert start <= 1e-9
                else:
                    assert start == pytest.approx(expected, rel=2e-10, abs=2e-10)
        starts, z, high = block[3:].copy(), rng.integers(0, 5, size).astype(float), np.empty(size, dtype=np.int64)
        lower = rng.integers(0, 3, size)
        upper = lower + rng.integers(0, 20, size)
        kernels.count_units(0, size, z, lower, upper, high, block)
        for i in range(size):
            at_lo, at_hi = starts[:, i]
            args = (block[1, i], w[i], z[i], int(lower[i]), int(upper[i]))
            assert int(block[3, i]) == twins.count_units(at_lo + 1e-9 * (1 + abs(at_lo)), *args)
            assert high[i] == twins.count_units(at_hi - 1e-9 * (1 + abs(at_hi)), *args)


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", [*ORDINARY, 1e3])
def test_bracket_units_bound_what_their_twin_counts(shape, scaling, lam):
    for rng in generators(2):
        size, share = 300, float(rng.uniform(0.5, 8))  # more than a block
        q = rng.choice([0.0, 0.25, *rng.uniform(0, 0.25, 30)], size)
        z, w = rng.integers(0, 6, size).astype(float), rng.choice([1.0, 2.5, 30.0], size)
        lower = rng.integers(0, 3, size)
        upper = lower + rng.integers(0, 12, size)
        units, model = (q, z, w, lower, upper), (share, (shape, scaling, lam))
        gains = np.empty(size)
        kernels.entry_gains(np.arange(size), lower, units, *model, np.empty((4, 7)), gains)
        some = np.append(rng.permutation(size)[:5], size - 1)  # the twin works in 400 digits
        columns = [part[some].tolist() for part in units]
        twin = twins.entry_gains(range(6), columns[3], columns, *model)
        np.testing.assert_allclose(gains[some], twin, rtol=1e-12, atol=2e-16 * max(lam, 1.0))
        usual = float(rng.choice(gains[gains > 0]))  # exactly a gain: rounding must not decide
        for lo, hi in ((usual, usual), (0.5 * usual, 1.5 * usual), (0.0, usual), (usual, np.inf)):
            high, near, low = (np.empty(size, dtype=np.int64) for _ in range(3))
            over, under, found = kernels.bracket_units(lo, hi, units, *model, high, near, low, np.empty((5, 256)))
            wide = high.copy()
            wide[near[:found]] = low[:found]
            assert (over, under) == (wide.sum(), high.sum())
            assert (wide[near[:found]] > high[near[:found]]).all()
            wide, narrow = wide[some], high[some]
            outside = np.array([n for n, _ in twins.bracket_units(lo * (1 - 1e-13), columns, *model)])
            inside = np.array([n for _, n in twins.bracket_units(hi * (1 + 1e-13), columns, *model)])
            assert (wide >= outside).all()
            assert (narrow <= inside).all()
            if usual > 1e-12 * lam:  # and tight
                assert (wide <= [n for n, _ in twins.bracket_units(lo * (1 - 1e-4), columns, *model)]).all()
                assert (narrow >= [n for _, n in twins.bracket_units(hi * (1 + 1e-4), columns, *model)]).all()
