"""solve_batch: equal to a plain dynamic program on concave tables, feasible with a valid gap on all others."""

import numpy as np
import pytest

import twins
from cero_alloc._solvers.tables import solve_batch
from helpers import kernels

ROUNDING = 1e-10  # of the largest sum in play

# ---------------------------------------------------------------- tables


def concave(gains):
    return -np.sort(-gains, axis=1)


def whole_numbers(rng, rows, width):
    return concave(rng.integers(-1, 8, (rows, width)).astype(float))


def floats(rng, rows, width):
    gains = concave(rng.exponential(size=(rows, width)) * 10 ** rng.uniform(-2, 2, (rows, 1)))
    return gains[rng.integers(0, rows, rows)]  # rows repeat


def utilities(rng, rows, width):
    q = rng.choice([0.0, 0.25, 0.1, 0.17], rows)
    z, w = rng.integers(0, 5, rows).astype(float), rng.choice([1.0, 2.0, 7.5], rows)
    gains = np.empty((rows, width))
    share, lam = float(rng.uniform(1, 9)), float(10 ** rng.uniform(-1, 1))
    kernels.score_gains(q, z, w, share, (int(rng.integers(4)), int(rng.integers(2)), lam), gains)
    return gains


def groups(rng, rows, width, g=1):
    a, b = rng.choice([0.5, 1.0, 3.0, 9.0], (2, rows))
    gains = np.empty((rows, width))
    kernels.group_gains((a, b, np.ones(rows)), g, gains)
    return gains


def anything(rng, rows, width):
    gains = rng.normal(0.5, 1, (rows, width))
    return np.round(gains * 3) if rng.random() < 0.5 else gains


def late_jumps(rng, rows, width):
    gains = rng.uniform(0, 0.01, (rows, width))
    gains[:, -1] = rng.integers(1, 4, rows) * width
    return gains


def blocks(rng, rows, width):
    """Worth coming in alternating blocks of nothing and much."""
    period = int(rng.integers(2, 5))
    gains = np.where(np.arange(width) % (2 * period) < period, 0.0, 1.0) * rng.integers(1, 5, (rows, 1))
    return gains + rng.choice([0.0, 1e-9], (rows, width))


CONCAVE = [whole_numbers, floats, utilities, groups]
N_MIN = pytest.mark.parametrize("min_units", [0, 2, 4])

# ---------------------------------------------------------------- the plain dynamic program


def best_value(gains, min_units, low, high, floor):
    """Largest score net of the floor price over totals in the window, or at the total below it that comes nearest."""
    rows, width = gains.shape
    most = rows * width
    best = twins.batch_dp(gains, min_units, most)
    totals = np.arange(most + 1)
    inside = np.isfinite(best) & (totals >= low) & (totals <= high)
    if not inside.any():
        inside = np.isfinite(best) & (totals == totals[np.isfinite(best) & (totals <= min(low, high))].max())
    return float((best - floor * totals)[inside].max()), totals[inside]


def check(gains, min_units, low, high, floor, tie, exact=False):
    """Solve; assert that the counts are allowed, the total is in reach and the gap valid. Return the true gap."""
    before = gains.copy()
    solution = solve_batch(gains, min_units=min_units, low=low, high=high, floor=floor, tie=tie)
    assert (gains == before).all()
    units = solution.units
    assert units.dtype == np.int64
    assert ((units == 0) | ((units >= max(min_units, 1)) & (units <= gains.shape[1]))).all()
    best, totals = best_value(gains, min_units, low, high, floor)
    assert units.sum() in totals
    value = sum(gains[r, : units[r]].sum() for r in range(units.size)) - floor * units.sum()
    scale = ROUNDING * (np.abs(gains).sum() + abs(floor) * totals.max() + 1e-300)
    assert value <= best + scale
    assert best - value <= solution.gap + scale
    assert solution.gap >= 0
    if exact:
        assert best - value <= scale, (gains.tolist(), min_units, low, high, floor)
    return best - value, scale, solution


def draw(rng, make, min_units, rows=9, width=9):
    gains = make(rng, int(rng.integers(1, rows)), int(rng.integers(max(min_units, 1), max(min_units + 1, width))))
    return gains, rng.permutation(gains.shape[0])


def windows(rng, gains):
    """An exact total, a cap with a floor price, a window with one, all at random."""
    most = gains.size
    floor = float(rng.choice([0.0, rng.choice(gains.ravel()), rng.uniform(0, 1.2 * abs(gains).max())]))
    total, low, high = int(rng.integers(0, most + 1)), *np.sort(rng.integers(0, most + 2, 2)).tolist()
    return [(total, total, 0.0), (0, high, max(floor, 0.0)), (low, high, max(floor, 0.0))]


# ---------------------------------------------------------------- concave tables


@N_MIN
@pytest.mark.parametrize("make", CONCAVE)
def test_concave_tables_are_solved_exactly(make, min_units):
    rng = np.random.default_rng(min_units)
    for _ in range(120):  # x 3 windows x 4 tables x 3 least counts: 4,320 instances
        gains, tie = draw(rng, make, min_units)
        for low, high, floor in windows(rng, gains):
            check(gains, min_units, float(low), float(high), floor, tie, exact=make is not groups or min_units >= 2)


@pytest.mark.parametrize("make", CONCAVE)
def test_without_a_least_count_there_is_no_gap(make):
    rng = np.random.default_rng(7)
    for _ in range(60):
        gains, tie = draw(rng, make, 0)
        if make is groups:
            gains = gains[:, 1:] if gains.shape[1] > 1 else gains  # concave but for the first rollout
        for low, high, floor in windows(rng, gains):
            assert check(gains, 0, float(low), float(high), floor, tie, exact=True)[2].gap == 0.0


@pytest.mark.parametrize("g", [2, 4])
def test_groups_in_units_are_solved_exactly(g):
    rng = np.random.default_rng(g)
    for _ in range(60):
        rows, width = int(rng.integers(1, 9)), int(rng.integers(1, 7))
        gains, tie = groups(rng, rows, width, g), rng.permutation(rows)
        for low, high, floor in windows(rng, gains):
            check(gains, 0, float(low), float(high), floor, tie, exact=True)


def test_a_large_concave_batch_is_solved_exactly():
    rng = np.random.default_rng(0)
    for min_units in (0, 2, 4):
        for make in CONCAVE:
            gains, tie = make(rng, 200, 12), rng.permutation(200)
            for total in rng.integers(0, gains.size, 4):
                exact = make is not groups or min_units >= 2
                check(gains, min_units, float(total), float(total), 0.0, tie, exact=exact)


# ---------------------------------------------------------------- any table


@N_MIN
@pytest.mark.parametrize("make", [anything, late_jumps, blocks])
def test_any_table_gets_allowed_counts_and_a_valid_gap(make, min_units):
    rng = np.random.default_rng(min_units)
    for _ in range(120):
        gains, tie = draw(rng, make, min_units, width=14)
        for low, high, floor in windows(rng, gains):
            check(gains, min_units, float(low), float(high), floor, tie)


@N_MIN
@pytest.mark.parametrize("make", [anything, late_jumps, blocks])
@pytest.mark.parametrize("rows", [70, 200])
def test_large_adversarial_tables_keep_a_valid_gap(make, min_units, rows):
    # More rows than the repair looks at, and jumps longer than its reach.
    rng = np.random.default_rng(rows + min_units)
    for width in (5, 16):
        gains, tie = make(rng, rows, width), rng.permutation(rows)
        most = rows * width
        for low, high, floor in [
            (total := int(rng.integers(0, most)), total, 0.0),
            (1, 1, 0.0),
            (most - 1, most - 1, 0.0),
            (0, int(rng.integers(0, most)), 0.4),
            (most // 3, most // 2, 0.9),
        ]:
            check(gains, min_units, float(low), float(high), floor, tie)


@N_MIN
def test_totals_that_no_counts_add_up_to(min_units):
    gains = np.tile([4.0, 3.0, 2.0, 1.0, 0.5], (3, 1))
    for low in range(17):
        for high in range(low, 18):
            for floor in (0.0, 3.5, 9.0):
                check(gains, min_units, float(low), float(high), floor, np.arange(3), exact=True)


def test_the_total_below_an_unreachable_one_is_spent_well():
    # Four or five of one row make 4 or 5, of two rows 8: nothing adds up to 6 or 7, and 5 in one row is what is left.
    gains = np.array([[5.0, 4, 2, -1, -1], [7, 4, 2, 2, -1], [6, 4, 4, 2, -1], [5, 4, 4, 2, 2]])
    solution = check(gains, 4, 6.0, 7.0, 2.9, np.arange(4), exact=True)[2]
    assert solution.units.tolist() == [0, 0, 0, 5]
    assert check(gains, 4, 7.0, 7.0, 0.0, np.arange(4), exact=True)[2].units.tolist() == [0, 0, 0, 5]


def test_a_window_of_one_total_beyond_everything():
    solution = solve_batch(np.ones((2, 3)), min_units=0, low=9, high=9, floor=0.0, tie=np.arange(2))
    assert solution.units.tolist() == [3, 3]


# ---------------------------------------------------------------- prices


@pytest.mark.parametrize("make", CONCAVE[:3])
def test_the_price_separates_what_is_bought(make):
    rng = np.random.default_rng(3)
    for _ in range(100):
        gains, tie = draw(rng, make, 0)
        cap = int(rng.integers(1, gains.size + 1))
        solution = solve_batch(gains, min_units=0, low=0.0, high=float(cap), floor=0.01, tie=tie)
        bought = np.arange(gains.shape[1]) < solution.units[:, None]
        assert (gains[bought] >= solution.price).all()
        assert (gains[~bought] <= solution.price).all()
        assert solution.wanted == (gains >= 0.01).sum()
        assert (solution.price == 0.01) == (solution.wanted <= cap)


def test_nothing_is_bought_at_price_zero_that_gains_nothing():
    gains = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert solve_batch(gains, min_units=0, low=0, high=6, floor=0.0, tie=np.arange(2)).units.tolist() == [1, 0]


# ---------------------------------------------------------------- ties


def test_ties_are_evened_out_then_go_by_rank():
    gains = np.ones((4, 5))
    tie = np.array([2, 0, 3, 1])
    units = solve_batch(gains, min_units=0, low=10, high=10, floor=0.0, tie=tie).units
    assert units.tolist() == [2, 3, 2, 3]


@N_MIN
@pytest.mark.parametrize("costly", [False, True])
@pytest.mark.parametrize("make", [*CONCAVE, anything, blocks])
def test_the_order_of_the_rows_does_not_matter(make, min_units, costly):
    rng = np.random.default_rng(17)
    for _ in range(40):
        gains, tie = draw(rng, make, min_units)
        rows = tie.size
        cost = rng.choice([1.0, 2.0, 5.0], rows) if costly else None
        perm = rng.permutation(rows)
        for low, high, floor in windows(rng, gains):
            arguments = {"min_units": min_units, "low": float(low), "high": float(high), "floor": floor}
            one = solve_batch(gains, tie=tie, cost=cost, **arguments)
            moved = None if cost is None else cost[perm]
            other = solve_batch(gains[perm].copy(), tie=tie[perm], cost=moved, **arguments)
            assert one.units[perm].tolist() == other.units.tolist()
            assert one.price == other.price


# ---------------------------------------------------------------- costs


def costly_best(gains, cost, min_units, cap, floor):
    """Largest score net of the floor over counts whose whole cost is at most ``cap``, by dynamic programming."""
    best = np.zeros(cap + 1)
    for row, c in zip(gains, cost, strict=True):
        worth = np.concatenate([[0.0], np.cumsum(row - floor * c)])
        grown = np.full(cap + 1, -np.inf)
        for n in twins.allowed_counts(min_units, row.size):
            step = int(c) * n
            if step <= cap:
                grown[step:] = np.maximum(grown[step:], best[: cap + 1 - step] + worth[n])
        best = grown
    return best.max()


@N_MIN
@pytest.mark.parametrize("make", [*CONCAVE, anything, blocks])
def test_a_cap_in_cost_holds_and_is_used(make, min_units):
    rng = np.random.default_rng(min_units)
    for _ in range(80):
        gains, tie = draw(rng, make, min_units)
        rows, width = gains.shape
        cost = rng.integers(1, 9, rows).astype(float)
        cap, floor = int(rng.integers(0, cost.sum() * width + 1)), float(rng.choice([0.0, 0.1, 0.6]))
        solution = solve_batch(gains, min_units=min_units, low=0.0, high=float(cap), floor=floor, tie=tie, cost=cost)
        units = solution.units
        assert ((units == 0) | ((units >= max(min_units, 1)) & (units <= width))).all()
        left = cap - float(cost @ units)
        assert left >= 0
        value = sum(gains[r, : units[r]].sum() for r in range(rows)) - floor * float(cost @ units)
        best = costly_best(gains, cost, min_units, cap, floor)
        scale = ROUNDING * (np.abs(gains).sum() + floor * cap)
        assert value <= best + scale
        assert best - value <= solution.gap + scale
        if min_units == 0 and make in (whole_numbers, floats, utilities):
            more = np.flatnonzero((units < width) & (cost <= left))
            assert (gains[more, units[more]] / cost[more] <= max(floor, 5e-324)).all()


def test_a_cost_that_all_share_is_exact_too():
    rng = np.random.default_rng(5)
    for _ in range(100):
        gains, tie = draw(rng, floats, 0)
        total = int(rng.integers(0, gains.size + 1))
        plain = solve_batch(gains, min_units=0, low=0.0, high=float(total), floor=0.0, tie=tie)
        for cost in (np.array([3.0]), np.full(tie.size, 3.0)):
            scaled = solve_batch(gains, min_units=0, low=0.0, high=3.0 * total, floor=0.0, tie=tie, cost=cost)
            assert scaled.units.tolist() == plain.units.tolist()
            assert scaled.price == pytest.approx(plain.price / 3, rel=1e-14)


def test_a_knapsack_filled_with_trifles_claims_no_optimum():
    # Greedy takes 3 tokens of 10 and fills the cap with trifles; two of 8 would be better.
    gains, cost = np.array([[10.0], [8.0], [8.0], [0.1]]), np.array([6.0, 5.0, 5.0, 4.0])
    solution = solve_batch(gains, min_units=0, low=0.0, high=10.0, floor=0.0, tie=np.arange(4), cost=cost)
    assert solution.units.tolist() == [1, 0, 0, 1]
    assert solution.gap >= 16.0 - 10.1


def test_fractional_costs_never_exceed_the_cap():
    rng = np.random.default_rng(9)
    for _ in range(200):
        gains, tie = draw(rng, floats, 0)
        cost = rng.uniform(0.1, 700, tie.size)
        cap = float(rng.uniform(0, (cost * gains.shape[1]).sum()))
        units = solve_batch(gains, min_units=0, low=0.0, high=cap, floor=0.0, tie=tie, cost=cost).units
        assert float((cost * units).sum()) <= cap * (1 + 1e-13)


@pytest.mark.parametrize("width", [0.0, 3.0, 20.0])
def test_a_least_cost_is_met_where_the_window_has_room(width):
    rng = np.random.default_rng(2)
    for _ in range(100):
        gains, tie = draw(rng, floats, 0)
        cost = rng.integers(1, 9, tie.size).astype(float)
        low = float(rng.integers(0, cost.sum() * gains.shape[1] + 9))
        units = solve_batch(gains, min_units=0, low=low, high=low + width, floor=1e9, tie=tie, cost=cost).units
        spent, more = cost @ units, cost[units < gains.shape[1]]
        assert spent <= low + width
        assert spent >= low or (more > low + width - spent).all()  # nothing that fits would get it there
        assert spent < low + 8.0 or width < 8.0  # no further than one unit beyond what was asked


def test_equal_gains_whose_mean_rounds_down_end_the_search():
    gains = np.repeat([[0.12857020276919962], [0.49927786244011496]], 8, axis=1)
    tie = np.arange(2, dtype=np.int32)
    for total in range(3, 17):
        solution = solve_batch(gains, min_units=3, low=total, high=total, floor=0.0, tie=tie)
        expected = (0, total) if total <= 8 else (total - 8, 8) if total >= 11 else (3, total - 3)
        assert tuple(solution.units) == expected
