"""The rest of a run: one price, checked against the oracle (which shares no code with it) and by its own conditions."""

import math

import numpy as np
import pytest

import twins
from cero_alloc import OfflineOracle, SaturatingUtility
from cero_alloc._solvers.remaining import Remaining, clear
from helpers import kernels

SHAPES = pytest.mark.parametrize("shape", list(twins.SHAPES))
CURVED = pytest.mark.parametrize("shape", ["exponential", "hyperbolic", "log"])
SCALINGS = pytest.mark.parametrize("scaling", list(twins.SCALINGS))


def draw(rng, shape, scaling, *, costly=False, size=None, most=12):
    """A problem with both ends of the value range, repeats, empty rooms, and a budget that may be slack."""
    size = int(rng.integers(1, most)) if size is None else size
    q = rng.choice([0.0, 0.25, *rng.uniform(0, 0.25, 3)], size)
    q = np.where(rng.random(size) < 0.6, q, rng.uniform(0, 0.25, size))
    z = (rng.integers(0, 9, size) * (rng.random(size) < 0.7)).astype(float)
    room = rng.integers(0, 15, size).astype(float)
    cost = rng.uniform(0.2, 900, size) if costly else np.ones(1)
    budget = float(rng.uniform(0, 1.1) * (cost * room).sum()) if costly else float(rng.integers(0, room.sum() + 3))
    utility = SaturatingUtility(shape, saturation=float(10 ** rng.uniform(-1.5, 1.5)), scaling=scaling)
    return Remaining(q, z, room, cost, budget, float(rng.uniform(0.5, 8)), utility)


def rebuilt(rest, **change):
    fields = {name: getattr(rest, name) for name in ("q", "z", "room", "cost", "budget", "share", "utility")}
    return Remaining(**fields | change)


def demand_at(rest, price):
    """What every prompt takes at a price, in units; of the kernel, because at a jump the last bit decides."""
    more = np.empty(rest.q.size)
    rest.demand(price, more)
    return more


def at_price(rest, clearing):
    """The continuous solution that a clearing stands for."""
    low, high = (demand_at(rest, max(price, 5e-324)) for price in (clearing.low, clearing.high))
    return high + clearing.part * (low - high)


def worth(rest, units):
    return math.fsum(rest.utility.value(rest.q, (rest.z + units) / rest.share))


def oracle(rest, *, integer=False):
    """The same problem for the oracle: exposures so far are lower bounds, tokens are exposure."""
    cost = 1.0 if integer else rest.cost
    before = cost * rest.z
    return OfflineOracle(rest.utility).solve(
        rest.q,
        rest.budget + before.sum(),
        equal_share=np.broadcast_to(cost * rest.share, rest.q.size),
        lower=before,
        upper=before + cost * rest.room,
        integer=integer,
    )


def binds(rest):
    """Whether the demand at price 0 exceeds the budget."""
    return float((rest.cost * demand_at(rest, 1e-280)).sum()) > rest.budget * (1 + 1e-12)


# ---------------------------------------------------------------- continuous


@SHAPES
@SCALINGS
@pytest.mark.parametrize("costly", [False, True])
def test_the_continuous_optimum_is_the_oracles(shape, scaling, costly):
    rng = np.random.default_rng(1)
    for _ in range(60):
        rest = draw(rng, shape, scaling, costly=costly)
        clearing = rest.clear(float(10 ** rng.uniform(-3, 1)))
        units = at_price(rest, clearing)
        assert (units >= 0).all()
        assert (units <= rest.room * (1 + 1e-15)).all()
        assert (rest.cost * units).sum() <= rest.budget * (1 + 1e-12)
        expected = oracle(rest)
        assert worth(rest, units) == pytest.approx(expected.optimum, rel=1e-12, abs=1e-300)
        assert clearing.low > 0 or expected.price == 0


@SHAPES
@SCALINGS
@pytest.mark.parametrize("costly", [False, True])
def test_demand_at_the_price_meets_the_budget(shape, scaling, costly):
    rng = np.random.default_rng(2)
    binding = 0
    for _ in range(60):
        rest = draw(rng, shape, scaling, costly=costly)
        if not binds(rest) or rest.budget == 0:
            continue
        binding += 1
        clearing = rest.clear(0.1)
        assert 0 <= clearing.part <= 1
        assert clearing.low <= clearing.high <= clearing.low * (1 + 1e-15)
        over, under = (float((rest.cost * demand_at(rest, price)).sum()) for price in clearing[:2])
        assert over >= rest.budget * (1 - 1e-12)
        assert under <= rest.budget * (1 + 1e-12)
        assert (rest.cost * at_price(rest, clearing)).sum() == pytest.approx(rest.budget, rel=1e-12)
    assert binding > 10


@CURVED
@SCALINGS
def test_the_price_is_everybodys_marginal_per_cost(shape, scaling):
    rng = np.random.default_rng(3)
    for _ in range(40):
        rest = draw(rng, shape, scaling, costly=True)
        price = rest.clear(1.0).low
        units = demand_at(rest, price)
        slope = rest.utility.marginal(rest.q, (rest.z + units) / rest.share) / (rest.share * rest.cost)
        assert (slope[units > 0] >= price * (1 - 1e-9)).all()
        assert (slope[units < rest.room * (1 - 1e-12)] <= price * (1 + 1e-9)).all()


@SHAPES
@SCALINGS
def test_the_price_does_not_depend_on_the_guess(shape, scaling):
    rng = np.random.default_rng(4)
    for trial in range(10):
        rest = draw(rng, shape, scaling, costly=bool(trial % 2))
        if rest.budget == 0:
            continue  # every price above the top slope clears
        usual = rest.clear(0.1)
        for guess in [1e-300, 1e-12, 1.0, 1e12, 1e300, 0.0, -1.0, 5e-324, math.inf, math.nan, usual.low, usual.high]:
            other = rest.clear(guess)
            assert other.low == pytest.approx(usual.low, rel=1e-9, abs=0)
            assert worth(rest, at_price(rest, other)) == pytest.approx(
                worth(rest, at_price(rest, usual)), rel=1e-12, abs=0
            )


@pytest.mark.parametrize("lam", [1e-9, 1e9])
@SHAPES
@SCALINGS
def test_extreme_saturation(shape, scaling, lam):
    rng = np.random.default_rng(5)
    for _ in range(10):
        rest = draw(rng, shape, scaling)
        rest = rebuilt(rest, utility=SaturatingUtility(shape, saturation=lam, scaling=scaling))
        units = at_price(rest, rest.clear(1.0))
        assert (rest.cost * units).sum() <= rest.budget * (1 + 1e-12)
        assert worth(rest, units) == pytest.approx(oracle(rest).optimum, rel=1e-11, abs=1e-300)


def test_a_jump_is_bracketed_and_shared():
    # Each of the three demands 4 more units below the price 1/2 and none above it; the budget pays for 5 of 12.
    utility = SaturatingUtility("capped-linear", scaling="height")
    rest = Remaining(np.full(3, 0.125), np.zeros(3), np.full(3, 9.0), np.ones(1), 5.0, 4.0, utility)
    clearing = rest.clear(3.0)
    assert clearing.low < 0.125 <= clearing.high  # slope 4 q / R
    assert clearing.high <= clearing.low * (1 + 1e-15)
    assert clearing.part == pytest.approx(5 / 12, rel=1e-15)


@SHAPES
def test_a_budget_that_covers_all_room_is_free(shape):
    rest = Remaining(
        np.array([0.25, 0.1]), np.zeros(2), np.array([3.0, 2.0]), np.ones(1), 5.0, 9.0, SaturatingUtility(shape)
    )
    assert rest.clear(0.3) == (0.0, 0.0, 1.0)
    costly = rebuilt(rest, cost=np.array([2.0, 7.0]), budget=20.0)
    assert costly.clear(0.3) == (0.0, 0.0, 1.0)
    assert rebuilt(costly, budget=19.0).clear(0.3).low > 0


def more_than_the_demand():
    utility = SaturatingUtility("capped-linear")
    return Remaining(np.array([0.25, 0.1, 0.0]), np.zeros(3), np.full(3, 50.0), np.ones(1), 20.0, 2.0, utility)


def test_units_without_a_gain_are_not_bought():
    satiated = more_than_the_demand()
    for guess in (1e-300, 0.1, 1e300):
        assert satiated.clear(guess) == (0.0, 0.0, 1.0)
    worthless = rebuilt(satiated, q=np.zeros(3), utility=SaturatingUtility())
    assert worthless.clear(0.1) == (0.0, 0.0, 1.0)


def test_an_empty_budget_prices_all_prompts_out():
    rest = Remaining(np.array([0.25, 0.1]), np.zeros(2), np.full(2, 9.0), np.ones(1), 0.0, 2.0, SaturatingUtility())
    assert demand_at(rest, rest.clear(0.01).low).sum() == 0


def test_a_large_pool_clears_in_a_few_passes():
    rng = np.random.default_rng(6)
    n = 100_000
    rest = Remaining(
        rng.uniform(0, 0.25, n),
        rng.integers(0, 9, n).astype(float),
        np.full(n, 20.0),
        np.ones(1),
        6e5,
        9.0,
        SaturatingUtility(),
    )
    clearing = rest.clear(0.05)
    assert rest.demand(clearing.low, np.empty(n))[0] == pytest.approx(6e5, rel=1e-12)


def test_the_units_at_the_price_are_those_that_the_search_left():
    rng = np.random.default_rng(8)
    for trial in range(40):
        rest = draw(rng, ("exponential", "capped-linear")[trial % 2], "height", most=40)
        more = np.empty(rest.q.size)
        clearing, rows = rest.clear(0.1, more), rng.permutation(rest.q.size)[:5]
        expected = at_price(rest, clearing)
        assert rest.planned(clearing, more.copy())[rows] == pytest.approx(expected[rows], rel=1e-12, abs=1e-12)
        assert rest.planned(clearing, more) == pytest.approx(expected, rel=1e-12, abs=1e-12)


# ---------------------------------------------------------------- any falling demand


@pytest.mark.parametrize("guess", [1e-300, 1e-3, 1.0, 1e300, math.nan])
def test_clear_finds_a_step_of_any_falling_demand(guess):
    prices, sizes = np.array([7e-40, 0.003, 0.2, 5e60]), np.array([4.0, 1.0, 5.0, 2.0])
    demand = lambda price: (float(sizes[prices >= price].sum()), 0.0)  # noqa: E731
    for budget, at, share in [(1.0, 3, 0.5), (6.0, 2, 0.8), (7.5, 1, 0.5), (11.0, 0, 0.75)]:
        clearing = clear(demand, budget, 12.0, guess)
        assert clearing.low <= prices[at] <= clearing.high
        assert clearing.high - clearing.low <= 4e-16 * clearing.high
        assert clearing.part == pytest.approx(share, rel=1e-15)
    between = clear(demand, 7.0, 12.0, guess)
    assert between.low == between.high
    assert demand(between.low)[0] == 7.0
    assert clear(demand, 12.0, 12.0, guess) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("guess", [1e-300, 1e-3, 1.0, 1e300])
def test_a_wrong_pull_only_costs_passes(guess):
    for pull in (0.0, 1e-12, 1e12, -1.0):
        clearing = clear(lambda price, pull=pull: (10.0 / (1.0 + price), pull), 3.0, 10.0, guess)
        assert clearing.low == pytest.approx(7 / 3, rel=1e-12)


# ---------------------------------------------------------------- whole units


@SHAPES
@SCALINGS
def test_the_integer_plan_is_the_oracles(shape, scaling):
    rng = np.random.default_rng(7)
    for _ in range(60):  # x 8 utilities
        rest = draw(rng, shape, scaling)
        plan, price = rest.units(float(10 ** rng.uniform(-4, 1)), rng.permutation(rest.q.size))
        expected = oracle(rest, integer=True)
        assert plan.dtype == np.int64
        assert (plan >= 0).all()
        assert (plan <= rest.room).all()
        assert plan.sum() <= rest.budget
        assert worth(rest, plan) == pytest.approx(expected.optimum, rel=1e-12, abs=1e-300)
        if expected.status == "optimal":
            assert plan.sum() == rest.budget
        if price > 0:
            assert_price_is_the_last_gain(rest, plan, price)
        else:
            assert (gains_at(rest, plan)[plan < rest.room] == 0).all()


def assert_price_is_the_last_gain(rest, plan, price):
    """The price is the least gain of a unit that is taken, and none left gains more."""
    taken, left = plan > 0, plan < rest.room
    if taken.any():
        assert price == gains_at(rest, np.maximum(plan - 1, 0))[taken].min()
    assert (gains_at(rest, plan)[left] <= price).all()


def gains_at(rest, units):
    out = np.empty(rest.q.size)
    kernels.next_gains(rest.q, rest.z, units, rest.share, rest.utility.codes, out)
    return out


@pytest.mark.parametrize("guess", [0.0, 1e-300, 1e-9, 1.0, 1e9, 1e300, math.inf])
@SHAPES
@SCALINGS
def test_the_integer_plan_does_not_depend_on_the_guess(shape, scaling, guess):
    rng = np.random.default_rng(8)
    for _ in range(5):
        rest = draw(rng, shape, scaling)
        tie = rng.permutation(rest.q.size)
        usual, other = rest.units(0.05, tie), rest.units(guess, tie)
        assert usual[0].tolist() == other[0].tolist()
        if usual[0].any():
            assert other[1] == usual[1]


@SHAPES
@SCALINGS
def test_the_rounded_price_of_the_continuous_problem_is_a_good_guess(shape, scaling):
    rng = np.random.default_rng(9)
    for _ in range(20):
        rest = draw(rng, shape, scaling, size=40)
        plan, _ = rest.units(rest.clear(0.1).high, rng.permutation(40))
        assert worth(rest, plan) == pytest.approx(oracle(rest, integer=True).optimum, rel=1e-12, abs=1e-300)


def test_whole_units_of_a_large_pool():
    rng = np.random.default_rng(10)
    n = 20_000
    q = rng.choice(rng.uniform(0, 0.25, 50), n)  # ties everywhere
    rest = Remaining(
        q, rng.integers(0, 4, n).astype(float), np.full(n, 20.0), np.ones(1), 123_457.0, 7.0, SaturatingUtility()
    )
    plan, _ = rest.units(rest.clear(0.05).high, rng.permutation(n))
    assert plan.sum() == 123_457
    assert worth(rest, plan) == pytest.approx(oracle(rest, integer=True).optimum, rel=1e-12)


@pytest.mark.parametrize("budget", [12.0, 13.0, 40.0])
def test_a_budget_that_covers_all_room_is_dealt_in_full(budget):
    rest = Remaining(
        np.array([0.25, 0.0]), np.zeros(2), np.array([5.0, 7.0]), np.ones(1), budget, 2.0, SaturatingUtility()
    )
    plan, price = rest.units(0.1, np.arange(2))
    assert (plan.tolist(), price) == ([5, 7], 0.0)


def test_units_that_gain_nothing_are_not_bought():
    rest = more_than_the_demand()
    plan, price = rest.units(0.1, np.arange(3))
    assert (plan.tolist(), price) == ([2, 5, 0], 0.0)


# ---------------------------------------------------------------- ties


@SHAPES
@SCALINGS
def test_equal_prompts_share_evenly_then_by_rank(shape, scaling):
    tie = np.array([3, 0, 4, 1, 2])
    utility = SaturatingUtility(shape, scaling=scaling)
    for budget in range(1, 21):
        rest = Remaining(np.full(5, 0.2), np.zeros(5), np.full(5, 4.0), np.ones(1), float(budget), 50.0, utility)
        plan, _ = rest.units(0.01, tie)
        each, extra = divmod(budget, 5)
        assert plan.tolist() == [each + (rank < extra) for rank in tie]


@pytest.mark.parametrize("budget", range(1, 24))
def test_ties_go_where_exposure_is_least(budget):
    # On the straight part of the capped line every unit gains the same, whatever the exposure so far.
    utility, z, tie = SaturatingUtility("capped-linear"), [0.0, 3.0, 1.0, 0.0, 9.0], [3, 1, 4, 2, 0]
    rest = Remaining(np.full(5, 0.2), np.array(z), np.full(5, 6.0), np.ones(1), float(budget), 100.0, utility)
    plan, _ = rest.units(1.0, np.array(tie))
    expected = [0] * 5
    for _ in range(budget):
        able = [i for i in range(5) if expected[i] < 6]
        expected[min(able, key=lambda i: (z[i] + expected[i], tie[i]))] += 1
    assert plan.tolist() == expected


def test_one_unit_of_ties_goes_where_exposure_is_least():
    # The last unit before the kink is a tie of one unit each, at different exposures.
    utility = SaturatingUtility("capped-linear", scaling="height")
    rest = Remaining(np.full(3, 0.2), np.array([9.0, 8.0, 9.0]), np.full(3, 1.0), np.ones(1), 2.0, 10.0, utility)
    plan, _ = rest.units(1.0, np.array([1, 2, 0]))
    assert plan.tolist() == [0, 1, 1]


@SHAPES
@SCALINGS
def test_the_order_of_the_prompts_does_not_matter(shape, scaling):
    rng = np.random.default_rng(12)
    for _ in range(20):
        rest = draw(rng, shape, scaling)
        size = rest.q.size
        tie, perm = rng.permutation(size), rng.permutation(size)
        moved = rebuilt(rest, q=rest.q[perm], z=rest.z[perm], room=rest.room[perm])
        assert rest.units(0.1, tie)[0][perm].tolist() == moved.units(0.1, tie[perm])[0].tolist()
