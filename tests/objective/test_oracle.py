"""OfflineOracle: against a convex solver, dynamic programming and its own certificate."""

import dataclasses
import functools
import math

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import twins
from cero_alloc import OfflineOracle, SaturatingUtility
from cero_alloc.simulation import Pool
from helpers import kernels

SHAPES = pytest.mark.parametrize("shape", list(twins.SHAPES))
SCALINGS = pytest.mark.parametrize("scaling", list(twins.SCALINGS))


def oracle(shape="exponential", scaling="rate", lam=1.0):
    return OfflineOracle(SaturatingUtility(shape, saturation=lam, scaling=scaling))


def draw(rng, size, *, whole=False):
    """A problem with both ends of the value range, repeats, lower bounds, empty boxes, and one share or many."""
    q = rng.choice([0.0, 0.25, *rng.uniform(0, 0.25, 3)], size)
    q = np.where(rng.random(size) < 0.5, q, rng.uniform(0, 0.25, size))
    lower = rng.integers(0, 3, size) * (rng.random(size) < 0.3)
    upper = lower + rng.integers(0, 9, size)
    budget = lower.sum() + rng.integers(0, 4 * size + 1)
    share = float(rng.uniform(0.5, 6)) if rng.random() < 0.5 else rng.uniform(0.5, 6, size)
    if whole:
        return q, int(budget), {"lower": lower, "upper": upper, "equal_share": share}
    stretch = rng.uniform(0.5, 1.5)
    bounds = {"lower": lower * stretch, "upper": upper * stretch, "equal_share": share}
    return q, float(np.maximum(budget * stretch, bounds["lower"].sum())), bounds


def assert_feasible(result, budget, bounds):
    z = result.allocation
    assert math.fsum(z) <= budget * (1 + 1e-14)
    assert np.all(z >= np.asarray(bounds.get("lower", 0)))
    assert np.all(z <= np.asarray(bounds["upper"]) * (1 + 1e-15))


def assert_certified(result):
    assert 0 <= result.gap <= 1e-12 * result.optimum
    assert result.price >= 0
    assert result.status in ("optimal", "slack")
    assert (result.price == 0) == (result.status == "slack")


# ---------------------------------------------------------------- certificate


@SHAPES
@SCALINGS
@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("lam", [0.05, 1.0, 20.0])
def test_the_gap_closes(shape, scaling, integer, lam):
    rng = np.random.default_rng(int(100 * lam))
    for size in (1, 2, 3, 5, 8, 13, 40, 200, 1000):
        q, budget, bounds = draw(rng, size, whole=integer)
        result = oracle(shape, scaling, lam).solve(q, budget, **bounds, integer=integer)
        assert_certified(result)
        assert_feasible(result, budget, bounds)
        x = result.allocation / bounds["equal_share"]
        expected = math.fsum(SaturatingUtility(shape, saturation=lam, scaling=scaling).value(q, x))
        assert result.optimum == pytest.approx(expected, rel=1e-13, abs=1e-300)
        if result.status == "optimal":
            assert math.fsum(result.allocation) == pytest.approx(budget, rel=1e-13)


@SHAPES
@SCALINGS
def test_the_gap_bounds_every_other_allocation(shape, scaling):
    rng = np.random.default_rng(3)
    for _ in range(10):
        q, budget, bounds = draw(rng, 6)
        utility = SaturatingUtility(shape, scaling=scaling)
        result = OfflineOracle(utility).solve(q, budget, **bounds)
        room = (bounds["upper"] - bounds["lower"]) * rng.random((200, 6))
        scale = np.minimum(1, (budget - bounds["lower"].sum()) / np.maximum(room.sum(axis=1), 1e-300))
        others = bounds["lower"] + room * scale[:, None]
        reached = utility.value(q, others / bounds["equal_share"]).sum(axis=1)
        assert reached.max() <= (result.optimum + result.gap) * (1 + 1e-13)


@pytest.mark.parametrize("shape", ["exponential", "hyperbolic", "log"])
@SCALINGS
def test_the_price_is_everybodys_marginal(shape, scaling):
    rng = np.random.default_rng(4)
    for _ in range(20):
        q, budget, bounds = draw(rng, 9)
        utility = SaturatingUtility(shape, scaling=scaling)
        result = OfflineOracle(utility).solve(q, budget + 0.3, **bounds)
        slope = utility.marginal(q, result.allocation / bounds["equal_share"]) / bounds["equal_share"]
        above, below = result.allocation > bounds["lower"], result.allocation < bounds["upper"] * (1 - 1e-15)
        # The gap is of second order in the price: 1e-15 of the one is 3e-8 of the other.
        assert np.all(slope[above] >= result.price * (1 - 1e-7))
        assert np.all(slope[below] <= result.price * (1 + 1e-7))


@SHAPES
@SCALINGS
def test_a_search_cut_short_reports_it_and_keeps_a_valid_gap(shape, scaling, monkeypatch):
    problem = ([0.25, 0.2, 0.13, 0.02], 5)
    bounds = {"equal_share": 2, "lower": [0, 0, 1, 0], "upper": 4}
    exact = oracle(shape, scaling).solve(*problem, **bounds)
    monkeypatch.setattr("cero_alloc._objective.oracle._MAX_PASSES", 1)
    rough = oracle(shape, scaling).solve(*problem, **bounds)
    assert (exact.status, rough.status) == ("optimal", "inexact")
    assert_feasible(rough, 5, bounds)
    assert rough.optimum <= exact.optimum * (1 + 1e-14)
    assert rough.optimum + rough.gap >= exact.optimum * (1 - 1e-14)


# ---------------------------------------------------------------- against a convex solver


def convex_solution(q, budget, bounds, shape, scaling, lam):
    """The same problem in cvxpy: allocation and optimum."""
    height, rate = twins.scale_of(twins.SCALINGS[scaling], lam, np.asarray(q))
    z = cp.Variable(len(q))
    s = cp.multiply(np.broadcast_to(rate, len(q)) / bounds["equal_share"], z)
    phi = {
        "exponential": lambda: 1 - cp.exp(-s),
        "hyperbolic": lambda: 1 - cp.inv_pos(1 + s),
        "log": lambda: cp.log1p(s),
        "capped-linear": lambda: cp.minimum(s, 1),
    }[shape]()
    total = cp.sum(cp.multiply(np.broadcast_to(height, len(q)), phi))
    problem = cp.Problem(cp.Maximize(total), [cp.sum(z) <= budget, z >= bounds["lower"], z <= bounds["upper"]])
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    assert problem.status in ("optimal", "optimal_inaccurate")
    return z.value, problem.value


@SHAPES
@SCALINGS
@pytest.mark.parametrize("seed", range(7))
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate:UserWarning")
def test_the_continuous_optimum_matches_a_convex_solver(shape, scaling, seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 13))
    q, _, bounds = draw(rng, size)
    bounds["upper"] = bounds["upper"] + 0.5
    lam = float(10 ** rng.uniform(-1, 1))
    room = bounds["upper"] - bounds["lower"]
    budget = float(bounds["lower"].sum() + rng.uniform(0.1, 0.8) * room.sum())
    result = oracle(shape, scaling, lam).solve(q, budget, **bounds)
    z, optimum = convex_solution(q, budget, bounds, shape, scaling, lam)
    assert result.optimum == pytest.approx(optimum, rel=1e-8)
    curved = (shape != "capped-linear") & (q > 0) & (result.price > 0)
    np.testing.assert_allclose(result.allocation[curved], z[curved], atol=2e-5 * budget)


# ---------------------------------------------------------------- against the search by bisection


@st.composite
def instances(draw, *, whole=False):
    """Utility, values, budget and bounds: ties, worthless prompts, pinned ones, slack budgets, any unit, any saturation."""
    size = draw(st.integers(1, 6))
    each = lambda entry: np.array(draw(st.lists(entry, min_size=size, max_size=size)))  # noqa: E731
    q = each(st.sampled_from([0.0, 1e-12, 0.1, 0.2, 0.25]) | st.floats(1e-12, 0.25))
    lower = each(st.sampled_from([0.0, 0.0, 1.0, 2.0]))
    upper = lower + each(st.integers(0, 7))
    budget = float(lower.sum() + draw(st.integers(0, int(upper.sum()) + 1)))
    share = 10.0 ** (each(st.floats(-2, 2)) if draw(st.booleans()) else draw(st.floats(-2, 2)))
    unit = 1.0 if whole else 10.0 ** draw(st.sampled_from([-150, -3, 0, 0, 0.1, 5, 150]))
    lam = 10.0 ** draw(st.sampled_from([-12, -6, -1, 0, 0, 1, 6, 12]) | st.floats(-2, 2))
    utility = SaturatingUtility(
        draw(st.sampled_from(list(twins.SHAPES))), saturation=lam, scaling=draw(st.sampled_from(list(twins.SCALINGS)))
    )
    bounds = {"equal_share": share * unit, "lower": lower * unit, "upper": upper * unit}
    return utility, q, budget * unit, bounds, np.broadcast_to(share, size) * unit


@settings(max_examples=100)
@given(instances())
def test_the_continuous_optimum_is_that_of_the_bisection(instance):
    utility, q, budget, bounds, share = instance
    result = OfflineOracle(utility).solve(q, budget, **bounds)
    assert_certified(result)
    assert_feasible(result, budget, bounds)
    problem = (q, bounds["lower"], bounds["upper"], share), utility.codes
    top = 4.01 * utility.saturation * float((q / share).max())
    with np.errstate(over="ignore"):  # of a ratio of prices: more than any upper bound
        lo, hi = twins.clear_price(budget, *problem, top)
        _, mixed = twins.blend(lo, hi, budget, *problem)
    reached = math.fsum(utility.value(q, mixed / share))
    assert result.optimum == pytest.approx(reached, rel=1e-12, abs=1e-300)


@settings(max_examples=400)
@given(instances(whole=True))
def test_whole_units_are_those_of_the_sorted_list(instance):
    utility, q, budget, bounds, share = instance
    result = OfflineOracle(utility).solve(q, budget, **bounds, integer=True)
    assert_certified(result)
    # The gains are the kernel's, for equal gains decide ties; the selection is the twin's.
    offers = []
    for i in range(q.size):
        height, rate = kernels.scale_of(utility.codes[1], utility.saturation, q[i])
        gain = functools.partial(kernels.unit_gain, utility.codes[0], height, rate / share[i])
        offers += [(-gain(float(n)), i) for n in range(int(bounds["lower"][i]), int(bounds["upper"][i]))]
    bought = sorted(offer for offer in offers if offer[0])[: int(budget - bounds["lower"].sum())]
    counts = bounds["lower"] + np.bincount([i for _, i in bought], minlength=q.size)
    assert result.allocation.tolist() == counts.tolist()
    if result.status == "optimal" and bought:
        assert result.price == -bought[-1][0]


# ---------------------------------------------------------------- values of any bounded reward


@SHAPES
@SCALINGS
def test_the_variance_of_any_bounded_reward_is_a_value(shape, scaling):
    """Of rewards in [0, 1], not of 0 and 1 alone: nothing but the variance counts, and it is never out of range."""
    rng = np.random.default_rng(15)
    ends = Pool.of_levels([0, 1], [[0.5, 0.5]]).values()
    steps = Pool.of_levels(np.linspace(0, 1, 101), np.full((1, 101), 1 / 101)).values()
    many = Pool.of_levels([0, 0.2, 0.5, 1], rng.dirichlet(np.full(4, 0.3), 6)).values()
    q = np.concatenate([ends, steps, many, [0.0, 1 / 12]])  # 1/12: uniform in [0, 1]
    assert q[0] == 0.25
    assert q[1] == pytest.approx(1 / 12, rel=0.03)
    assert q.max() <= 0.25
    bounds = {"equal_share": 3.0, "upper": 8}
    result = oracle(shape, scaling).solve(q, 30, **bounds)
    assert_certified(result)
    assert_feasible(result, 30, bounds)
    p = (1 + np.sqrt(1 - 4 * q)) / 2  # of a coin with the same variance
    coins = oracle(shape, scaling).solve(np.minimum(p * (1 - p), 0.25), 30, **bounds)
    assert result.optimum == pytest.approx(coins.optimum, rel=1e-12)
    whole = oracle(shape, scaling).solve(q, 30, **bounds, integer=True)
    utility = SaturatingUtility(shape, scaling=scaling)
    best = np.array([0.0] + [-np.inf] * 30)  # by dynamic programming over the prompts
    for value in q:
        worth = utility.value(value, np.arange(9) / 3.0)
        best = np.array([max(best[b - n] + worth[n] for n in range(min(b, 8) + 1)) for b in range(31)])
    assert whole.optimum == pytest.approx(best.max(), rel=1e-12)


# ---------------------------------------------------------------- token budgets: shares per prompt


def token_problem(rng, size):
    """Values, tokens per unit, a token budget that binds, caps in units, and the equal share in units."""
    q = rng.choice([0.0, 0.25, *rng.uniform(0, 0.25, 4)], size)
    q[0] = 0.2
    cost, caps = np.exp(rng.uniform(0, 6, size)), rng.integers(1, 9, size)
    return q, cost, float(rng.uniform(0.1, 0.8) * (cost * caps).sum()), caps, float(rng.uniform(0.5, 6))


def solve_tokens(q, cost, tokens, caps, share, shape, scaling, lam=1.0):
    return oracle(shape, scaling, lam).solve(q, tokens, equal_share=cost * share, upper=cost * caps)


@SHAPES
@SCALINGS
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate:UserWarning")
def test_a_token_budget_matches_a_convex_solver(shape, scaling, seed):
    rng = np.random.default_rng(seed)
    q, cost, tokens, caps, share = token_problem(rng, int(rng.integers(2, 10)))
    result = solve_tokens(q, cost, tokens, caps, share, shape, scaling)
    assert_certified(result)
    z = cp.Variable(q.size)
    height, rate = twins.scale_of(twins.SCALINGS[scaling], 1.0, q)
    s = cp.multiply(np.broadcast_to(rate, q.size) / share, z)
    phi = {
        "exponential": lambda: 1 - cp.exp(-s),
        "hyperbolic": lambda: 1 - cp.inv_pos(1 + s),
        "log": lambda: cp.log1p(s),
        "capped-linear": lambda: cp.minimum(s, 1),
    }[shape]()
    total = cp.sum(cp.multiply(np.broadcast_to(height, q.size), phi))
    scaled = cost / cost.max()
    problem = cp.Problem(cp.Maximize(total), [scaled @ z <= tokens / cost.max(), z >= 0, z <= caps])
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    assert result.optimum == pytest.approx(problem.value, rel=1e-7)


@SHAPES
@SCALINGS
def test_no_other_way_to_spend_the_tokens_is_worth_more(shape, scaling):
    rng = np.random.default_rng(14)
    utility = SaturatingUtility(shape, scaling=scaling)
    for _ in range(10):
        q, cost, tokens, caps, share = token_problem(rng, 5)
        result = solve_tokens(q, cost, tokens, caps, share, shape, scaling)
        units = result.allocation / cost
        assert result.optimum == pytest.approx(math.fsum(utility.value(q, units / share)), rel=1e-12)
        others = rng.random((500, 5)) * caps
        others *= np.minimum(1, tokens / (others @ cost))[:, None]
        assert utility.value(q, others / share).sum(axis=1).max() <= (result.optimum + result.gap) * (1 + 1e-13)


@SCALINGS
def test_whole_numbers_of_tokens_match_dynamic_programming(scaling):
    rng = np.random.default_rng(15)
    for shape in twins.SHAPES:
        for _ in range(10):
            size = int(rng.integers(1, 5))
            q, cost = rng.uniform(0, 0.25, size), rng.integers(1, 5, size).astype(float)
            upper, budget = (cost * rng.integers(0, 5, size)).astype(int), int(rng.integers(0, 30))
            result = oracle(shape, scaling).solve(q, budget, equal_share=2.5 * cost, upper=upper, integer=True)
            model = (twins.SHAPES[shape], twins.SCALINGS[scaling], 1.0)
            best = twins.integer_dp(q, budget, [0] * size, upper, 2.5 * cost, *model)
            assert result.optimum == pytest.approx(best, rel=1e-12, abs=1e-15)
            assert_certified(result)


@pytest.mark.parametrize("integer", [False, True])
@SHAPES
@SCALINGS
def test_equal_shares_for_all_are_one_share(shape, scaling, integer):
    arguments = {"upper": 9, "integer": integer}
    one = oracle(shape, scaling).solve([0.25, 0.1, 0.2], 11, equal_share=2.5, **arguments)
    each = oracle(shape, scaling).solve([0.25, 0.1, 0.2], 11, equal_share=[2.5] * 3, **arguments)
    assert one.allocation.tolist() == each.allocation.tolist()
    assert (one.price, one.optimum, one.gap) == (each.price, each.optimum, each.gap)


def test_the_cheaper_of_two_equal_prompts_gets_more():
    result = oracle("capped-linear").solve([0.25, 0.25], 30, equal_share=[10, 40], upper=[10, 40])
    assert result.allocation.tolist() == pytest.approx([10, 20], rel=1e-14)
    assert (result.optimum, result.price) == pytest.approx((1.5, 1 / 40), rel=1e-14)


# ---------------------------------------------------------------- whole units


@SHAPES
@SCALINGS
def test_the_integer_optimum_matches_dynamic_programming(shape, scaling):
    rng = np.random.default_rng(11)
    for _ in range(30):
        q, budget, bounds = draw(rng, int(rng.integers(1, 6)), whole=True)
        lam = float(10 ** rng.uniform(-1.5, 1.5))
        result = oracle(shape, scaling, lam).solve(q, budget, **bounds, integer=True)
        model = (twins.SHAPES[shape], twins.SCALINGS[scaling], lam)
        best = twins.integer_dp(q, budget, bounds["lower"], bounds["upper"], bounds["equal_share"], *model)
        assert result.optimum == pytest.approx(best, rel=1e-12)
        assert result.allocation.dtype == np.int64
        assert_feasible(result, budget, bounds)
        assert_certified(result)


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", [1e-12, 1e12])
def test_the_integer_optimum_at_extreme_saturation(shape, scaling, lam):
    rng = np.random.default_rng(12)
    for _ in range(5):
        q, budget, bounds = draw(rng, int(rng.integers(1, 6)), whole=True)
        bounds["equal_share"] = 4.0
        result = oracle(shape, scaling, lam).solve(q, budget, **bounds, integer=True)
        # The recursion of twins.integer_dp over accurate utilities: its 1 - exp(-s) has no digits left at 1e-12.
        utility = SaturatingUtility(shape, saturation=lam, scaling=scaling)
        best = np.full(budget + 1, -np.inf)
        best[0] = 0.0
        for qi, low, high in zip(q, bounds["lower"], bounds["upper"], strict=True):
            grown = np.full(budget + 1, -np.inf)
            for n in range(low, min(high, budget) + 1):
                grown[n:] = np.maximum(grown[n:], best[: budget + 1 - n] + utility.value(qi, n / 4.0))
            best = grown
        assert result.optimum == pytest.approx(best.max(), rel=1e-12)
        assert_feasible(result, budget, bounds)


@SHAPES
@SCALINGS
def test_ties_go_to_the_lowest_index(shape, scaling):
    q = [0.2, 0.1, 0.2, 0.2, 0.1]
    for budget in range(1, 12):
        solve = oracle(shape, scaling).solve
        z = solve(q, budget, equal_share=50, upper=4, integer=True).allocation
        codes = (twins.SHAPES[shape], twins.SCALINGS[scaling], 1.0)
        _, counts = twins.clear_units(budget, (q, [0] * 5, [4] * 5, [50.0] * 5), codes, 1.0)
        assert z.tolist() == counts
        assert z[0] >= z[2] >= z[3]
        assert z[1] >= z[4]


def test_whole_units_are_worth_no_more_than_fractions():
    rng = np.random.default_rng(13)
    for shape in twins.SHAPES:
        q, budget, bounds = draw(rng, 8, whole=True)
        whole = oracle(shape).solve(q, budget, **bounds, integer=True)
        assert whole.optimum <= oracle(shape).solve(q, budget, **bounds).optimum * (1 + 1e-13)


# ---------------------------------------------------------------- edges


@pytest.mark.parametrize("integer", [False, True])
@SHAPES
def test_a_budget_that_covers_all_upper_bounds_is_slack(shape, integer):
    result = oracle(shape).solve([0.25, 0.1], 9, equal_share=30, upper=4, integer=integer)
    assert (result.status, result.price, result.gap) == ("slack", 0.0, 0.0)
    assert result.allocation.tolist() == [4, 4]


@pytest.mark.parametrize("integer", [False, True])
def test_units_without_a_gain_are_not_bought(integer):
    result = oracle("capped-linear").solve([0.25, 0.1, 0.0], 20, equal_share=2, upper=100, integer=integer)
    assert result.status == "slack"
    assert result.allocation.tolist() == [2, 5, 0]
    assert result.optimum == 2.0


@pytest.mark.parametrize("integer", [False, True])
@SHAPES
@SCALINGS
def test_budget_zero(shape, scaling, integer):
    result = oracle(shape, scaling).solve([0.25, 0.1], 0, equal_share=2, upper=4, integer=integer)
    assert result.allocation.tolist() == [0, 0]
    assert (result.optimum, result.gap) == (0.0, 0.0)


@pytest.mark.parametrize("integer", [False, True])
@SHAPES
@SCALINGS
def test_a_budget_that_the_lower_bounds_use_up(shape, scaling, integer):
    result = oracle(shape, scaling).solve([0.25, 0.1], 3, equal_share=2, lower=[1, 2], upper=4, integer=integer)
    assert result.allocation.tolist() == [1, 2]
    assert_certified(result)


@pytest.mark.parametrize("integer", [False, True])
@SHAPES
@SCALINGS
def test_one_prompt_takes_the_budget(shape, scaling, integer):
    result = oracle(shape, scaling).solve([0.2], 3, equal_share=4, upper=5, integer=integer)
    assert result.allocation.tolist() == pytest.approx([3], rel=1e-14)
    assert_certified(result)


@pytest.mark.parametrize("integer", [False, True])
@SHAPES
@SCALINGS
def test_values_of_zero(shape, scaling, integer):
    result = oracle(shape, scaling).solve(np.zeros(3), 5, equal_share=2, lower=[0, 1, 0], upper=4, integer=integer)
    assert result.allocation.tolist() == [0, 1, 0]
    assert (result.optimum, result.gap, result.status) == (0.0, 0.0, "slack")


@SHAPES
@SCALINGS
def test_equal_values_share_equally(shape, scaling):
    result = oracle(shape, scaling).solve(np.full(4, 0.25), 6, equal_share=2, upper=4)
    assert_certified(result)
    assert_feasible(result, 6, {"upper": 4})
    if shape != "capped-linear":
        assert result.allocation.tolist() == pytest.approx([1.5] * 4, rel=1e-9)


@pytest.mark.parametrize("integer", [False, True])
@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", [1e-12, 1e12])
def test_extreme_saturation(shape, scaling, integer, lam):
    rng = np.random.default_rng(21)
    for _ in range(5):
        q, budget, bounds = draw(rng, 9, whole=integer)
        result = oracle(shape, scaling, lam).solve(q, budget, **bounds, integer=integer)
        assert_certified(result)
        assert_feasible(result, budget, bounds)


@SHAPES
@SCALINGS
@pytest.mark.parametrize("unit", [1e-150, 1.0, 1e5])
@pytest.mark.parametrize(("lam", "q"), [(1e-11, 1e-300), (1e-5, 1e-300), (1e-12, 0.25), (1e-300, 0.2), (1e-3, 2e-313)])
def test_utilities_too_flat_for_floats_still_share_the_budget(shape, scaling, unit, lam, q):
    bounds = {
        "equal_share": 1.7 * unit,
        "lower": np.array([0.0, 1, 0, 2]) * unit,
        "upper": np.array([8.0, 3, 7, 2]) * unit,
    }
    for budget in (3.5 * unit, 9 * unit, 19 * unit):
        result = oracle(shape, scaling, lam).solve([q] * 4, budget, **bounds)
        assert_feasible(result, budget, bounds)
        assert result.allocation.sum() == pytest.approx(budget, rel=1e-14)
        assert result.gap <= 1e-12 * result.optimum + 1e-307


@pytest.mark.parametrize("integer", [False, True])
@SHAPES
@SCALINGS
@pytest.mark.parametrize("upper", [1e6, 1e12, 5e18, 1e30, 1e200, 1e308])
def test_a_huge_upper_bound_is_no_bound(shape, scaling, integer, upper):
    solve = oracle(shape, scaling).solve
    q = [0.25, 0.1, 0.2, 0.0]
    result = solve(q, 6, equal_share=2.5, upper=upper, integer=integer)
    usual = solve(q, 6, equal_share=2.5, upper=6, integer=integer)
    assert_certified(result)
    assert math.fsum(result.allocation) <= 6 * (1 + 1e-14)
    assert result.optimum == pytest.approx(usual.optimum, rel=1e-12)


@pytest.mark.parametrize("integer", [False, True])
def test_a_huge_budget_is_slack(integer):
    result = oracle().solve([0.25, 0.1], 1e30, equal_share=2, upper=4, integer=integer)
    assert (result.status, result.allocation.tolist()) == ("slack", [4, 4])


def test_the_unit_is_the_callers():
    units = oracle("log").solve([0.25, 0.1, 0.05], 6, equal_share=2, upper=4)
    rollouts = oracle("log").solve([0.25, 0.1, 0.05], 48, equal_share=16, upper=32)
    np.testing.assert_allclose(rollouts.allocation, 8 * units.allocation, rtol=1e-10)
    assert rollouts.optimum == pytest.approx(units.optimum, rel=1e-12)
    assert rollouts.price == pytest.approx(units.price / 8, rel=1e-10)


def test_a_large_pool_closes_too():
    rng = np.random.default_rng(0)
    q = rng.uniform(0, 0.25, 100_000)
    result = oracle().solve(q, 6e5, equal_share=6.0, upper=20.0)
    assert_certified(result)
    assert math.fsum(result.allocation) == pytest.approx(6e5, rel=1e-12)


def test_arguments_are_left_alone():
    q, upper = np.array([0.25, 0.1]), np.array([4.0, 4.0])
    result = oracle().solve(q, 3, equal_share=2, upper=upper)
    result.allocation[:] = -1
    assert (q.tolist(), upper.tolist()) == ([0.25, 0.1], [4.0, 4.0])


def test_oracle_and_result_are_frozen():
    result = oracle().solve([0.25], 1, equal_share=2, upper=4)
    with pytest.raises(dataclasses.FrozenInstanceError, match="utility"):
        oracle().utility = SaturatingUtility()
    with pytest.raises(dataclasses.FrozenInstanceError, match="optimum"):
        result.optimum = 2.0


# ---------------------------------------------------------------- schedule


@pytest.mark.parametrize("n_rounds", [1, 2, 3, 7, 50])
def test_schedule_spreads_the_allocation(n_rounds):
    rng = np.random.default_rng(n_rounds)
    for _ in range(20):
        q, budget, bounds = draw(rng, int(rng.integers(1, 9)), whole=True)
        result = oracle().solve(q, budget, **bounds, integer=True)
        plan = result.schedule(n_rounds)
        assert plan.shape == (n_rounds, q.size)
        assert plan.dtype == np.int64
        assert plan.min() >= 0
        assert plan.sum(axis=0).tolist() == result.allocation.tolist()
        assert plan.sum(axis=1).max() <= math.ceil(result.allocation.sum() / n_rounds)
        assert np.all(plan.max(axis=0) <= np.ceil(result.allocation / n_rounds))


def test_schedule_of_nothing():
    plan = oracle().solve([0.25, 0.1], 0, equal_share=2, upper=4, integer=True).schedule(3)
    assert plan.tolist() == [[0, 0]] * 3


def test_schedule_needs_whole_units():
    with pytest.raises(ValueError, match=r"schedule must start from whole units, .* Solve with integer=True\."):
        oracle().solve([0.25], 1, equal_share=2, upper=4).schedule(3)


@pytest.mark.parametrize(
    ("n_rounds", "error", "message"),
    [
        (0, ValueError, r"n_rounds must be at least 1, got n_rounds = 0\. Give the number of rounds to fill\."),
        (2.0, TypeError, r"n_rounds must be an integer, got n_rounds = 2\.0\."),
        (True, TypeError, r"n_rounds must be an integer, got n_rounds = True\."),
    ],
)
def test_schedule_needs_a_number_of_rounds(n_rounds, error, message):
    result = oracle().solve([0.25], 1, equal_share=2, upper=4, integer=True)
    with pytest.raises(error, match=message):
        result.schedule(n_rounds)


# ---------------------------------------------------------------- messages

UNIT = "Count budget, equal_share, lower and upper in one unit, rollouts or groups"


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": []}, r"values must have shape \(n_prompts,\), got values = \(0,\)\. Pass one value per prompt\."),
        ({"values": 0.1}, r"values must have shape \(n_prompts,\), got values = \(\)\."),
        ({"values": [[0.1]]}, r"values must have shape \(n_prompts,\), got values = \(1, 1\)\."),
        (
            {"values": [0.1, 0.3]},
            r"values must be finite, at least 0 and at most 0\.25, got values\[1\] = 0\.3\. A value",
        ),
        ({"values": [0.1, math.nan]}, r"values must be finite, at least 0 and at most 0\.25, got values\[1\] = nan\."),
        ({"budget": -1}, rf"budget must be finite and at least 0, got budget = -1\.0\. {UNIT}"),
        ({"budget": math.inf}, r"budget must be finite and at least 0, got budget = inf\."),
        ({"budget": math.nan}, r"budget must be finite and at least 0, got budget = nan\."),
        ({"equal_share": 0}, rf"equal_share must be finite, greater than 0, got equal_share = 0\.0\. {UNIT}"),
        ({"equal_share": math.inf}, r"equal_share must be finite, greater than 0, got equal_share = inf\."),
        ({"equal_share": [2, 0]}, r"equal_share must be finite, greater than 0, got equal_share\[1\] = 0\.0\."),
        (
            {"equal_share": [2, 2, 2]},
            r"equal_share must be a number or have shape \(2,\), got equal_share = \(3,\)\. Give one share, or one per",
        ),
        ({"equal_share": [[2, 2]]}, r"equal_share must be a number or have shape \(2,\), got equal_share = \(1, 2\)\."),
        ({"upper": math.inf}, rf"upper must be finite, at least 0, got upper = inf\. {UNIT}"),
        ({"upper": [4, -1]}, r"upper must be finite, at least 0, got upper\[1\] = -1\.0\."),
        ({"lower": math.nan}, r"lower must be finite, at least 0, got lower = nan\."),
        ({"lower": [0, -1]}, r"lower must be finite, at least 0, got lower\[1\] = -1\.0\."),
        ({"upper": [4, 4, 4]}, r"upper must be a number or have shape \(2,\), got upper = \(3,\)\. Give one bound"),
        ({"lower": [[0, 0]]}, r"lower must be a number or have shape \(2,\), got lower = \(1, 2\)\."),
        ({"lower": [0, 5]}, r"lower must not exceed upper\[1\] = 4, got lower\[1\] = 5\.0\. Swap them\."),
        ({"lower": 4}, r"lower must sum to at most the budget 5, got lower = 8\.0\. Lower the bounds\."),
    ],
)
def test_arguments_out_of_range(change, message, integer):
    arguments = {"values": [0.1, 0.2], "budget": 5, "equal_share": 2, "upper": 4} | change
    with pytest.raises(ValueError, match=message):
        oracle().solve(**arguments, integer=integer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 4.5}, r"budget must be whole with integer=True, got budget = 4\.5\. Round it down\."),
        ({"upper": [4, 3.5]}, r"upper must be whole with integer=True, got upper\[1\] = 3\.5\. Round it down\."),
        ({"lower": [0.5, 0]}, r"lower must be whole with integer=True, got lower\[0\] = 0\.5\. Round it down\."),
    ],
)
def test_fractions_where_whole_units_are_asked(change, message):
    arguments = {"values": [0.1, 0.2], "budget": 5, "equal_share": 2, "upper": 4} | change
    oracle().solve(**arguments)
    with pytest.raises(ValueError, match=message):
        oracle().solve(**arguments, integer=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": "high"}, r"values must be numbers, got str\. A value"),
        ({"budget": "all"}, r"budget must be finite and at least 0, got budget = 'all'\. Count"),
        ({"budget": None}, r"budget must be finite and at least 0, got budget = None\."),
        ({"equal_share": "one"}, r"equal_share must be numbers, got str\. Count"),
        ({"equal_share": None}, r"equal_share must be numbers, got NoneType\. Count"),
        ({"upper": "none"}, r"upper must be numbers, got str\. Count"),
        ({"lower": {}}, r"lower must be numbers, got dict\. Count"),
    ],
)
def test_arguments_that_are_not_numbers(change, message):
    arguments = {"values": [0.1, 0.2], "budget": 5, "equal_share": 2, "upper": 4} | change
    with pytest.raises(TypeError, match=message):
        oracle().solve(**arguments)


def test_whole_units_beyond_float_precision_are_refused():
    with pytest.raises(ValueError, match=r"budget must be at most 2\*\*53 with integer=True, got budget = 1e\+17"):
        OfflineOracle().solve([0.25], 1e17, equal_share=1, upper=1e18, integer=True)
