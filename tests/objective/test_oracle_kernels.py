"""The kernels of the offline oracle against their twins, at ordinary and extreme arguments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from helpers import kernels
from helpers.kernel_cases import LAMS, ORDINARY, SCALINGS, SHAPES, generators, quick, values_of


def pool(rng, size, *, whole=False):
    """Values and bounds of a pool, and equal shares: one for all, or one per prompt."""
    lower = rng.integers(0, 3, size).astype(float) * (rng.random(size) < 0.3)
    upper = lower + rng.integers(0, 9, size)
    if not whole:
        lower, upper = lower * 0.7, upper * 0.9
    share = rng.uniform(0.5, 4, size if rng.random() < 0.5 else 1)
    return values_of(rng, size), lower, upper, np.array(np.broadcast_to(share, size))


@SHAPES
@SCALINGS
@LAMS
def test_demand_within_bounds_matches_its_twin(shape, scaling, lam):
    for rng in generators(4):
        prompts = list(zip(*pool(rng, 10), strict=True))
        codes = (shape, scaling, lam)
        for price in lam / prompts[0][3] * np.array([1e-9, 0.1, 0.4, 0.9, 2.0]):
            each = [kernels.bounded_demand(price, *prompt, codes) for prompt in prompts]
            theirs = [twins.bounded_demand(price, *prompt, codes) for prompt in prompts]
            assert each == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@SHAPES
@quick
@given(reference=st.floats(1e-9, 1e3), ratio=st.floats(1e-6, 1e6))
def test_prices_have_an_abscissa_and_back(shape, reference, ratio):
    t = kernels.abscissa(shape, reference, reference * ratio)
    assert t == pytest.approx(twins.abscissa(shape, reference, reference * ratio), rel=1e-12, abs=1e-14)
    assert kernels.price_at(shape, reference, t) == pytest.approx(twins.price_at(shape, reference, t), rel=1e-12)
    assert kernels.price_at(shape, reference, t) == pytest.approx(reference * ratio, rel=1e-12)


@SHAPES
def test_the_abscissa_of_the_least_price_is_a_number(shape):
    for reference in (1e-300, 1.0, 1e300):
        assert np.isfinite(kernels.abscissa(shape, reference, 5e-324))


def lines(problem, reference):
    """The demand lines of a problem, and its bounds."""
    (q, lower, upper, share), codes = problem
    shift, slope = np.empty((2, q.size))
    kernels.demand_lines(reference, q, share, codes, shift, slope)
    return shift, slope, lower, upper


@SHAPES
@SCALINGS
@LAMS
def test_demand_lines_pass_through_the_demands(shape, scaling, lam):
    for rng in generators(4):
        problem, codes = pool(rng, 10), (shape, scaling, lam)
        reference = 0.3 * lam / problem[3][0]
        shift, slope, _, _ = lines((problem, codes), reference)
        theirs = np.array(twins.demand_lines(reference, problem[0], problem[3], codes))
        np.testing.assert_allclose(shift, theirs[:, 0], rtol=1e-9, atol=1e-9 / lam)
        np.testing.assert_allclose(slope, theirs[:, 1], rtol=1e-9, atol=1e-9 / lam)
        for price in reference * np.array([0.1, 0.9, 1.0, 2.0]):
            t = kernels.abscissa(shape, reference, price)
            for i, prompt in enumerate(zip(*problem, strict=True)):
                z = kernels.on_line(shape, shift[i], slope[i], t)
                assert z == twins.on_line(shape, shift[i], slope[i], t)
                z = kernels.clip(z, *prompt[1:3])
                assert z == twins.clip(z, *prompt[1:3])
                expected = twins.bounded_demand(price, *prompt, codes)
                assert z == pytest.approx(expected, rel=1e-8, abs=1e-14 * max(1.0, 1.0 / lam) * prompt[3])


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", ORDINARY)
def test_total_demand_and_its_pull_match_their_twins(shape, scaling, lam):
    for rng in generators(4):
        problem = pool(rng, 50), (shape, scaling, lam)
        equal_share = problem[0][3]
        equal_share[:] = 2.0 ** np.round(np.log2(equal_share))  # or rounding decides who is within the bounds
        for share in [0.05, 0.11, 0.3, 0.6, 2.0]:
            price = share * lam / equal_share[0] * (1 + 1e-9)  # as it would on a kink
            reference = 0.7 * price
            t = kernels.abscissa(shape, reference, price)
            total, pull = kernels.total_demand(t, lines(problem, reference), shape)
            by_log_price = pull * {kernels.LOG: t, kernels.HYPERBOLIC: 0.5 * t}.get(shape, 1.0)
            assert (total, by_log_price) == pytest.approx(twins.total_demand(price, *problem), rel=1e-6, abs=1e-9)
            if shape == kernels.CAPPED_LINEAR:
                steps = (t, lines(problem, reference))
                assert kernels.total_steps(*steps) == total == pytest.approx(twins.total_steps(*steps), rel=1e-15)


@SHAPES
def test_total_demand_is_summed_with_compensation(shape):
    n = 100_000
    lower, lines = np.full(n, 0.1), tuple(np.zeros((2, n)))
    total, _ = kernels.total_demand(1.0, (*lines, lower, lower), shape)
    assert total == pytest.approx(n * 0.1, rel=1e-15)
    assert kernels.total_demand(1.0, (*lines, lower[:1], lower[:1]), shape)[0] == total


@SHAPES
@SCALINGS
@LAMS
def test_worth_is_utility_and_slope(shape, scaling, lam):
    height, rate = kernels.scale_of(scaling, lam, 0.2)
    for x in (0.0, 1e-9, 0.3, 1.24, 1.26, 7.0, 800.0):
        reached, slope = kernels.worth(shape, height, rate, x)
        assert reached == pytest.approx(kernels.u(shape, height, rate, x), rel=1e-15)
        assert slope == pytest.approx(kernels.du(shape, height, rate, x), rel=1e-15)
        assert (reached, slope) == pytest.approx(twins.worth(shape, height, rate, x), rel=1e-12, abs=1e-14)


def binding(rng, size, shape, scaling, lam):
    """A continuous problem, a budget strictly between the lower bounds and what is wanted for free, and a price too high."""
    q, lower, upper, share = pool(rng, size)
    q[0], lower[0], upper[0] = 0.2, 0.0, 6.0
    problem = (q, lower, upper, share), (shape, scaling, lam)
    least, most = lower.sum(), twins.total_demand(1e-300, *problem)[0]
    return problem, float(least + rng.uniform(0.1, 0.9) * (most - least)), 1.001 * lam / share.min()


def clear(problem, budget, *, top, guess=0.3, passes=500):
    """Price, pull, exactness and allocation of a problem."""
    shift, slope, out = np.empty((3, problem[0][0].size))
    price, pull, closed, _ = kernels.clear_price(budget, *problem, guess, top, 1e-15, passes, shift, slope, out)
    return price, pull, closed, out


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", ORDINARY)
def test_clear_price_finds_the_bisected_price(shape, scaling, lam):
    for rng in generators(6):
        problem, budget, top = binding(rng, 7, shape, scaling, lam)
        price, pull, closed, out = clear(problem, budget, top=top)
        low, high = twins.clear_price(budget, *problem, top)
        assert closed
        assert low * (1 - 1e-9) <= price <= high * (1 + 1e-9)
        _, mixed = twins.blend(low, high, budget, *problem)
        np.testing.assert_allclose(out, mixed, rtol=1e-9, atol=1e-9)
        assert out.sum() == pytest.approx(budget, rel=1e-14)
        if shape != kernels.CAPPED_LINEAR:
            assert pull == pytest.approx(twins.total_demand(price, *problem)[1], rel=1e-5, abs=1e-9)


@SCALINGS
@LAMS
def test_steepest_is_the_largest_slope_at_0(scaling, lam):
    for rng in generators(4):
        q, _, _, share = pool(rng, 9)
        expected = twins.steepest(q, share, (0, scaling, lam))
        assert kernels.steepest(q, share, (0, scaling, lam)) == pytest.approx(expected, rel=1e-15, abs=0)
        assert kernels.steepest(q, share[:1], (0, scaling, lam)) == pytest.approx(
            4 * lam * q.max() / share[0], rel=1e-15
        )


def ends(problem, reference, top):
    """Lines, bounds, shape, and abscissas from no demand to full demand, with their demands."""
    shape, tail = problem[1][0], lines(problem, reference)
    lo, hi = (kernels.abscissa(shape, reference, price) for price in (top, 5e-324))
    return tail, lo, hi, *(kernels.total_demand(t, tail, shape)[0] for t in (lo, hi))


@pytest.mark.parametrize("shape", [kernels.EXPONENTIAL, kernels.HYPERBOLIC, kernels.LOG])
@SCALINGS
@pytest.mark.parametrize("lam", ORDINARY)
def test_clear_curves_brackets_the_bisected_abscissa(shape, scaling, lam):
    for rng in generators(4):
        problem, budget, top = binding(rng, 7, shape, scaling, lam)
        tail, least, most, under, over = ends(problem, 0.3 * top, top)
        for guess in (0.0, 1.0, 1e-200, 1e300, np.inf, np.nan):
            search = (tail, shape, least, most, under, over, guess)
            lo, hi, _, passes, closed = kernels.clear_curves(budget, *search, 1e-15, 500)
            assert closed
            assert passes < 100
            below, above = (kernels.total_demand(t, tail, shape)[0] for t in (lo, hi))
            assert below * (1 - 1e-15) <= budget <= above * (1 + 1e-15)
            low, high = twins.clear_curves(budget, tail, shape, least, min(most, 1e6))
            assert lo <= high + 1e-9 * abs(high)
            assert hi >= low - 1e-9 * abs(low)
            _, _, _, passes, closed = kernels.clear_curves(budget, *search, 1e-15, 0)
            assert (passes, closed) == (0, False)


@SCALINGS
@pytest.mark.parametrize("lam", ORDINARY)
def test_clear_steps_goes_down_a_sorted_list(scaling, lam):
    shape = kernels.CAPPED_LINEAR
    for rng in generators(10):
        problem, budget, top = binding(rng, 30, shape, scaling, lam)
        tail, least, most, under, over = ends(problem, top, top)
        assert under <= budget <= over
        price = twins.clear_steps(budget - under, tail)
        for passes in range(12):
            shift, slope = tail[0].copy(), tail[1].copy()
            search = (budget - under, (shift, slope, *tail[2:]), least, most, passes)
            lo, hi, used, closed = kernels.clear_steps(*search)
            assert sorted(shift) == sorted(tail[0])
            below, above = (kernels.total_steps(t, tail) for t in (lo, hi))
            assert below * (1 - 1e-14) <= budget <= above * (1 + 1e-14)
            assert used <= passes
            if closed:
                assert -hi <= price <= -lo
                assert -lo == pytest.approx(price, rel=1e-14)
        assert closed


@SHAPES
@SCALINGS
@pytest.mark.parametrize("guess", [0.0, 5e-324, 1e-200, 1.0, 1e300, np.inf, np.nan])
def test_clear_price_does_not_depend_on_the_guess(shape, scaling, guess):
    problem, budget, top = binding(np.random.default_rng(5), 7, shape, scaling, 1.0)
    price, _, closed, _ = clear(problem, budget, top=top, guess=guess)
    usual, _, _, _ = clear(problem, budget, top=top)
    assert closed
    assert price == pytest.approx(usual, rel=1e-6)


@SHAPES
def test_clear_price_reports_when_it_runs_out_of_passes(shape):
    problem, budget, _ = binding(np.random.default_rng(5), 7, shape, kernels.RATE, 1.0)
    _, _, closed, out = clear(problem, budget, top=2.0, guess=1e-9, passes=1)
    assert not closed
    assert out.sum() == pytest.approx(budget, rel=1e-12)


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", ORDINARY)
def test_blend_spends_the_budget_like_its_twin(shape, scaling, lam):
    for rng in generators(4):
        problem, budget, _ = binding(rng, 7, shape, scaling, lam)
        price, _ = twins.clear_price(budget, *problem, lam / problem[0][3].min())
        lo, hi = 0.9 * price, 1.1 * price + 1e-12
        out = np.empty(7)
        reference = 1.3 * hi
        ends = (kernels.abscissa(shape, reference, end) for end in (hi, lo))
        weight = kernels.blend(*ends, budget, lines(problem, reference), shape, out)
        twin_weight, mixed = twins.blend(lo, hi, budget, *problem)
        assert weight == pytest.approx(twin_weight, abs=1e-9)
        np.testing.assert_allclose(out, mixed, rtol=1e-9, atol=1e-9)
        assert out.sum() == pytest.approx(budget, rel=1e-12)


@SHAPES
def test_blend_of_equal_prices_takes_all(shape):
    q, lower, upper = np.array([0.1, 0.2]), np.zeros(2), np.full(2, 3.0)
    problem = (q, lower, upper, np.ones(2)), (shape, kernels.RATE, 1.0)
    out = np.empty(2)
    t = kernels.abscissa(shape, 0.3, 0.1)
    kernels.blend(t, t, 100.0, lines(problem, 0.3), shape, out)
    assert out.tolist() == pytest.approx([twins.bounded_demand(0.1, x, 0.0, 3.0, 1.0, problem[1]) for x in q])


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", ORDINARY)
@pytest.mark.parametrize("integer", [False, True])
def test_certify_matches_the_definition(shape, scaling, lam, integer):
    for rng in generators(4):
        q, lower, upper, share = pool(rng, 8, whole=integer)
        z = lower + (upper - lower) * rng.random(8)
        if integer:
            z = np.floor(z)
        budget = float(np.ceil(z.sum()) + rng.integers(0, 3))
        price = float(rng.uniform(0.01, 1.2)) * lam / share[0]
        problem = (price, z, budget, (q, lower, upper, share), (shape, scaling, lam), integer)
        assert kernels.certify(*problem) == pytest.approx(twins.certify(*problem), rel=1e-11, abs=1e-12)


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", ORDINARY)
def test_wanted_units_match_a_scan(shape, scaling, lam):
    for rng in generators(3):
        problem = pool(rng, 6, whole=True), (shape, scaling, lam)
        q, _, _, share = problem[0]
        prompts = list(zip(*problem[0], strict=True))
        prices = list(lam / share[0] * rng.uniform(0.001, 1.2, 5))
        # The boundary itself: a price that is exactly the gain of some unit.
        height, rate = kernels.scale_of(scaling, lam, q[0])
        gains = [kernels.unit_gain(shape, height, rate / share[0], float(n)) for n in range(3) if q[0]]
        for price in prices + [gain * (1 + 1e-13) for gain in gains]:
            theirs = twins.count_wanted(price, *problem)
            for guess in (-np.inf, 0.0, float(rng.uniform(0, 9)), np.inf):
                assert [kernels.wanted_units(guess, price, *prompt, problem[1]) for prompt in prompts] == theirs
            out = np.empty(6, dtype=np.int64)
            reference = lam / share[0]
            total = kernels.count_wanted(price, *problem, (reference, *lines(problem, reference)[:2]), out)
            assert (total, out.tolist()) == (sum(theirs), theirs)


@SHAPES
@SCALINGS
def test_a_unit_is_wanted_at_exactly_its_gain(shape, scaling):
    height, rate = kernels.scale_of(scaling, 1.0, 0.2)
    for n in range(1, 6):
        price = kernels.unit_gain(shape, height, rate / 8.0, float(n - 1))
        wanted = kernels.wanted_units(float(n), price, 0.2, 0.0, 50.0, 8.0, (shape, scaling, 1.0))
        linear = shape == kernels.CAPPED_LINEAR  # equal gains up to the kink
        last_whole = int(8.0 / (0.8 if scaling == kernels.RATE else 1.0))
        assert wanted == (last_whole if linear else n)


@quick
@given(
    x=st.lists(st.sampled_from([0.0, 0.1, 0.1, 0.5, 3.0]) | st.floats(0, 1), min_size=1, max_size=40), data=st.data()
)
def test_kth_largest_is_that_of_a_sorted_list(x, data):
    size = data.draw(st.integers(1, len(x)))
    k = data.draw(st.integers(1, size))
    assert kernels.kth_largest(np.array(x), size, k) == twins.kth_largest(x, size, k)


def clear_units(budget, problem, top, *, guess=0.0, pull=0.0, room=None):
    """Price and units; by default without any help from the continuous problem, and room for one gain per prompt."""
    size = problem[0][0].size
    units, gains = np.empty((3, size), dtype=np.int64), np.empty(size if room is None else room)
    hints = (guess, top, pull, (top, *lines(problem, top)[:2]))
    price = kernels.clear_units(budget, *problem, *hints, gains, units)
    return price, units[0]


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", ORDINARY)
def test_clear_units_needs_neither_guess_nor_room(shape, scaling, lam):
    for rng in generators(3):
        problem = pool(rng, 7, whole=True), (shape, scaling, lam)
        budget = int(problem[0][1].sum() + rng.integers(0, 35))
        top = 1.01 * lam / problem[0][3].min()
        twin_price, counts = twins.clear_units(budget, *problem, top)
        for guess in (0.0, 1e-9 * top, 0.2 * top, 0.9 * top, top):
            for pull in (0.0, 1e-9, 1.0, 1e9):
                for room in (0, 1, 100):
                    price, out = clear_units(budget, problem, top, guess=guess, pull=pull, room=room)
                    assert out.tolist() == counts
                    assert price == pytest.approx(twin_price, rel=1e-9)


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", ORDINARY)
def test_clear_units_matches_a_sorted_list_of_gains(shape, scaling, lam):
    for rng in generators(6):
        size = int(rng.integers(1, 8))
        problem = pool(rng, size, whole=True), (shape, scaling, lam)
        budget = int(problem[0][1].sum() + rng.integers(0, 5 * size))
        top = 1.01 * lam / problem[0][3].min()
        price, out = clear_units(budget, problem, top)
        twin_price, counts = twins.clear_units(budget, *problem, top)
        assert out.tolist() == counts
        assert price == pytest.approx(twin_price, rel=1e-9)


@SHAPES
@SCALINGS
def test_clear_units_gives_ties_to_the_lowest_index(shape, scaling):
    q = np.full(5, 0.2)
    problem = (q, np.zeros(5), np.full(5, 4.0), np.full(5, 100.0)), (shape, scaling, 1.0)
    for budget in range(21):
        _, out = clear_units(budget, problem, 1.0)
        assert out.tolist() == twins.clear_units(budget, *problem, 1.0)[1]


def test_an_overspent_allocation_is_no_certificate():
    problem = (np.array([0.25, 0.1]), np.zeros(2), np.full(2, 5.0), np.ones(2)), (0, 0, 1.0)
    for integer in (False, True):
        assert kernels.certify(0.1, np.array([2.0, 2.0]), 3.0, *problem, integer)[1] == np.inf
        assert np.isfinite(kernels.certify(0.1, np.array([2.0, 1.0]), 3.0, *problem, integer)[1])
