"""Every kernel against its slow twin, at ordinary and extreme arguments."""

import inspect
import re
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc._numba import KERNELS
from helpers import kernels
from twins import naive

SHAPES = pytest.mark.parametrize("shape", range(4), ids=list(naive.SHAPES))
SCALINGS = pytest.mark.parametrize("scaling", range(2), ids=list(naive.SCALINGS))
ORDINARY = [0.05, 1.0, 8.0]
LAMS = pytest.mark.parametrize("lam", [1e-12, *ORDINARY, 1e12])

quick = settings(max_examples=150)


def values_of(rng, size):
    """Values in [0, 1/4] with both ends and repeats."""
    q = rng.choice([0.0, 0.25, 0.1, *rng.uniform(0, 0.25, 3)], size)
    return np.where(rng.random(size) < 0.5, q, rng.uniform(0, 0.25, size))


def pool(rng, size, *, whole=False):
    """Values and bounds of a pool, and equal shares: one for all, or one per prompt."""
    lower = rng.integers(0, 3, size).astype(float) * (rng.random(size) < 0.3)
    upper = lower + rng.integers(0, 9, size)
    if not whole:
        lower, upper = lower * 0.7, upper * 0.9
    share = rng.uniform(0.5, 4, size if rng.random() < 0.5 else 1)
    return values_of(rng, size), lower, upper, np.array(np.broadcast_to(share, size))


def generators(count):
    return [np.random.default_rng(seed) for seed in range(count)]


def test_every_kernel_has_a_twin():
    assert len(KERNELS) > 25
    missing = [name for name in KERNELS if not inspect.isfunction(getattr(naive, name, None))]
    assert missing == []
    text = Path(__file__).read_text()
    assert [name for name in KERNELS if not re.search(rf"kernels\.{name}\(|\"{name}\"", text)] == []


# ---------------------------------------------------------------- utility


@SHAPES
@SCALINGS
@LAMS
@pytest.mark.parametrize("q", [0.0, 1e-9, 0.1, 0.25])
def test_scalar_utility_matches_its_twin(shape, scaling, lam, q):
    height, rate = kernels.scale_of(scaling, lam, q)
    assert (height, rate) == pytest.approx(naive.scale_of(scaling, lam, q), rel=1e-15)
    for x in [0.0, 1e-6, 0.5, 1.0, 3.0, 1e3]:
        args = (shape, height, rate, x)
        assert kernels.u(*args) == pytest.approx(naive.u(*args), rel=1e-12, abs=2e-16 * height)
        assert kernels.du(*args) == pytest.approx(naive.du(*args), rel=1e-12, abs=0)


@SHAPES
@SCALINGS
@LAMS
@pytest.mark.parametrize("q", [0.0, 1e-9, 0.1, 0.25])
@pytest.mark.parametrize("upper", [0.0, 0.5, 20.0])
def test_scalar_demand_and_conjugate_match_their_twins(shape, scaling, lam, q, upper):
    height, rate = kernels.scale_of(scaling, lam, q)
    for share in [0.0, 1e-9, 0.1, 0.5, 0.9, 1.0, 2.0]:
        args = (shape, height, rate, share * height * rate, upper)
        assert kernels.demand(*args) == pytest.approx(naive.demand(*args), rel=1e-12)
        assert kernels.conj(*args) == pytest.approx(naive.conj(*args), rel=1e-12, abs=1e-15 * height)


@SHAPES
@SCALINGS
@LAMS
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_demand_pull_is_the_slope_of_demand_by_log_price(shape, scaling, lam, share):
    height, rate = kernels.scale_of(scaling, lam, 0.2)
    args = (shape, height, rate, share * height * rate)
    assert kernels.demand_pull(*args) == pytest.approx(naive.demand_pull(*args), rel=1e-7, abs=1e-300)


@SHAPES
@SCALINGS
@LAMS
@pytest.mark.parametrize("q", [0.0, 0.1, 0.25])
def test_unit_gain_matches_its_twin(shape, scaling, lam, q):
    height, rate = kernels.scale_of(scaling, lam, q)
    for n in range(12):
        slack = 2e-16 * height if shape == kernels.CAPPED_LINEAR else 5e-324
        assert kernels.unit_gain(shape, height, rate, float(n)) == pytest.approx(
            naive.unit_gain(shape, height, rate, n), rel=1e-14 * (1 + min(rate * n, 800)), abs=slack
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
        twin = getattr(naive, name)((shape, scaling, lam), *map(np.ndarray.tolist, arguments))
        np.testing.assert_allclose(out, twin, rtol=1e-12, atol=2e-15)


# ---------------------------------------------------------------- no cancellation, against 100 digits


@SHAPES
@pytest.mark.parametrize("rate", [1e-12, 3e-7, 0.01, 1.0])
def test_small_utility_keeps_all_its_digits(shape, rate):
    for x in [1e-9, 1e-3, 0.7]:
        exact = float(naive.phi(shape, Decimal(rate) * Decimal(x)))
        assert kernels.u(shape, 1.0, rate, x) == pytest.approx(exact, rel=1e-15, abs=0)


@SHAPES
@pytest.mark.parametrize("rate", [1e-14, 1e-8, 1e-3, 0.5])
def test_small_unit_gain_keeps_all_its_digits(shape, rate):
    for n in [0, 1, 7, 100]:
        if shape == kernels.CAPPED_LINEAR and rate * (n + 1) > 1:
            continue
        exact = naive.unit_gain(shape, 1.0, rate, n)
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


# ---------------------------------------------------------------- posterior


@pytest.mark.parametrize("rho", [1.0, 0.98, 0.5, 1e-300])
def test_survival_matches_its_twin_looked_up_or_not(rho):
    fade = np.empty(20)
    kernels.powers(rho, fade)
    np.testing.assert_allclose(fade, naive.powers(rho, 20), rtol=1e-13, atol=1e-320)
    for elapsed in [0, 1, 2, 19, 20, 21, 300]:
        expected = naive.survival(elapsed, rho)
        assert kernels.survival(elapsed, rho, fade) == pytest.approx(expected, rel=1e-12, abs=1e-320)
        assert kernels.survival(elapsed, rho, fade) == kernels.survival(elapsed, rho, fade[:0])


@quick
@given(a=st.floats(1e-6, 1e6), b=st.floats(1e-6, 1e6))
def test_expected_variance_matches_its_twin(a, b):
    assert kernels.expected_variance(a, b) == pytest.approx(naive.expected_variance(a, b), rel=1e-14, abs=0)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(1e-300, 1e-300, 5e-301), (1e300, 1e300, 0.25), (1e300, 1e-300, 0.0), (1e-300, 1.0, 5e-301)],
)
def test_expected_variance_survives_extreme_parameters(a, b, expected):
    assert kernels.expected_variance(a, b) == pytest.approx(expected, rel=1e-14, abs=0)


def evidence_of(rng, size, stride, dtype=np.float64):
    """The argument ``evidence``: prior, outcomes, ticks, clock, and the table of powers."""
    a0, b0 = rng.uniform(0.1, 5, (2, size if stride else 1))
    outcomes = rng.exponential(5, (size, 2)).astype(dtype)
    rho, fade = float(rng.choice([1.0, 0.97, 0.3])), np.empty(4)
    kernels.powers(rho, fade)
    return a0, b0, stride, outcomes, rng.integers(0, 9, size).astype(np.int32), 9, rho, fade


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("stride", [0, 1])
def test_posterior_and_values_match_their_twins(full, stride):
    for rng in generators(20):
        evidence = evidence_of(rng, 12, stride)
        rows = np.empty(0, dtype=np.int64) if full else rng.permutation(12)[:5]
        alpha, beta, value = np.empty((3, 12 if full else 5))
        kernels.posterior(full, rows, evidence, alpha, beta)
        kernels.values(full, rows, evidence, np.empty(int(rng.integers(1, 20))), value)
        np.testing.assert_allclose([alpha, beta], naive.posterior(full, rows, evidence), rtol=1e-13)
        np.testing.assert_allclose(value, naive.values(full, rows, evidence), rtol=1e-13)


@pytest.mark.parametrize("stride", [0, 1])
def test_stretch_matches_its_twin(stride):
    for rng in generators(5):
        evidence, (start, stop) = evidence_of(rng, 12, stride), sorted(rng.integers(0, 13, 2).tolist())
        for part, twin in zip(
            kernels.stretch(evidence, start, stop), naive.stretch(evidence, start, stop), strict=True
        ):
            np.testing.assert_array_equal(part, twin)


def test_calibrate_matches_its_twin():
    for rng in generators(60):
        size, fade = int(rng.integers(0, 30)), float(rng.uniform(0.5, 1.0))
        bins, tally = rng.random((4, 5)), rng.random(5)
        for _ in range(2):
            rollouts = rng.integers(0, 9, size)
            successes = np.floor(rollouts * rng.random(size) * 1.3).clip(0, rollouts)
            value = rng.choice([0.0, 0.25, 0.05, *rng.uniform(0, 0.25, 5)], size)
            args = (value, successes, rollouts, 0.25, fade)
            expected = naive.calibrate(*args, bins.tolist(), tally.tolist())
            kernels.calibrate(*args, bins, tally)
            np.testing.assert_allclose(bins, expected[0], rtol=1e-12)
            np.testing.assert_allclose(tally, expected[1], rtol=1e-12)


@pytest.mark.parametrize(("dtype", "within"), [(np.float64, 1e-13), (np.float32, 1e-7)])
def test_observe_matches_its_twin(dtype, within):
    for rng in generators(10):
        evidence = evidence_of(rng, 12, 0, dtype)
        rows = rng.permutation(12)[:6]
        rollouts = rng.integers(0, 9, 6)
        successes = rollouts * rng.random(6)
        expected = naive.observe(rows, successes, rollouts, evidence)
        kernels.observe(rows, successes, rollouts, evidence)
        np.testing.assert_allclose(evidence[3], expected[0], rtol=within)
        assert evidence[4].tolist() == expected[1]


@quick
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, 2.5, 4.0, -1.0, np.nan, np.inf, -np.inf]), st.integers(-1, 4)), max_size=6
    )
)
def test_first_bad_feedback_matches_its_twin(feedback):
    successes = np.array([s for s, _ in feedback], dtype=np.float64)
    rollouts = np.array([n for _, n in feedback], dtype=np.int64)
    assert kernels.first_bad_feedback(successes, rollouts) == naive.first_bad_feedback(successes, rollouts)


@quick
@given(st.lists(st.integers(0, 8), max_size=6))
def test_strictly_increasing_matches_its_twin(rows):
    for given_rows in (rows, sorted(rows), sorted(set(rows))):
        answer = kernels.strictly_increasing(np.array(given_rows, dtype=np.int64))
        assert answer == naive.strictly_increasing(given_rows)


@quick
@given(rows=st.lists(st.integers(-1, 12), max_size=12), n_prompts=st.integers(1, 12))
def test_first_bad_row_matches_its_twin(rows, n_prompts):
    array, slots = np.array(rows, dtype=np.int64), np.full(32, -1, dtype=np.int64)
    assert kernels.first_bad_row(array, n_prompts, slots) == naive.first_bad_row(rows, n_prompts)
    if rows == sorted(set(rows)):
        assert kernels.first_bad_row(array, n_prompts, slots[:0]) == naive.first_bad_row(rows, n_prompts)


@quick
@given(rows=st.lists(st.integers(0, 2**62), max_size=7))
def test_enter_matches_its_twin(rows):
    slots, seen = np.full(8, -1, dtype=np.int64), set()
    for row in rows:
        assert kernels.enter(row, slots, np.uint64(7)) == naive.enter(row, seen)
    assert {slot for slot in slots.tolist() if slot != -1} == seen


# ---------------------------------------------------------------- accounts


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_accounts_match_their_twins(dtype):
    for rng in generators(10):
        accounts = rng.integers(0, 9, (6, 3)).astype(dtype)
        rows, g = rng.permutation(6)[:4], int(rng.integers(1, 5))
        units, rollouts = rng.integers(-3, 5, 4), rng.integers(0, 20, 4)
        for name, args in [("lend", (rows, units, g)), ("settle", (rows, rollouts)), ("count_offers", (rows,))]:
            expected, before = getattr(naive, name)(*args, accounts.tolist()), accounts[:, 1].sum()
            returned = getattr(kernels, name)(*args, accounts)
            assert accounts.tolist() == expected
            sums = {"lend": units.sum(), "settle": before - accounts[:, 1].sum(), "count_offers": None}
            assert returned == sums[name]


# ---------------------------------------------------------------- one round

keys = st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.5000000001, 1.0]), min_size=1, max_size=40)


def ranked_pool(key, seed):
    """Keys with many ties, and tie ranks that are all different."""
    return np.array(key), np.random.default_rng(seed).permutation(len(key)).astype(np.int32)


@quick
@given(key=keys, seed=st.integers(0, 99))
def test_ahead_matches_its_twin(key, seed):
    key, tie = ranked_pool(key, seed)
    for i in range(key.size):
        assert kernels.ahead(i, 0, key, tie) == naive.ahead(i, 0, key, tie)


def test_look_up_matches_its_twin():
    for rng in generators(5):
        theta, tie, rows = rng.random(9), rng.permutation(9).astype(np.int32), rng.permutation(9)[:4]
        slopes, ties = np.empty(4), np.empty(4, dtype=np.int32)
        kernels.look_up(rows, theta, tie, slopes, ties)
        assert (slopes.tolist(), ties.tolist()) == naive.look_up(rows, theta, tie)


@quick
@given(key=keys, seed=st.integers(0, 99), data=st.data())
def test_select_matches_a_full_sort(key, seed, data):
    key, tie = ranked_pool(key, seed)
    size = data.draw(st.integers(1, key.size))
    k = data.draw(st.integers(1, size))
    order = np.random.default_rng(seed).permutation(key.size)
    before = order.copy()
    expected = naive.select(key, tie, before, size, k)
    kernels.select(key, tie, order, size, k)
    assert sorted(order[:k]) == sorted(expected)
    assert order[k - 1] == expected[-1]
    assert sorted(order[:size]) == sorted(before[:size])
    assert list(order[size:]) == list(before[size:])


def arranged(arrangement, n):
    """A pool in an order that selection must not find hard."""
    up = np.arange(n) / n
    return {
        "equal": 0.0 * up,
        "ascending": up,
        "descending": up[::-1].copy(),
        "organ pipe": np.minimum(up, up[::-1]),
        "random": np.random.default_rng(2).random(n).round(3),
    }[arrangement]


ARRANGEMENTS = pytest.mark.parametrize("arrangement", ["equal", "ascending", "descending", "organ pipe", "random"])


@ARRANGEMENTS
def test_select_on_a_large_regular_pool(arrangement):
    n = 20_000
    key = arranged(arrangement, n)
    tie, order = np.arange(n, dtype=np.int32), np.arange(n)
    for k in (1, n // 3, n):
        expected = naive.select(key, tie, range(n), n, k)
        kernels.select(key, tie, order, n, k)
        assert set(order[:k]) == set(expected)
        assert order[k - 1] == expected[-1]


@quick
@given(key=keys, seed=st.integers(0, 99), threshold=st.sampled_from([-1.0, 0.0, 0.3, 0.5, 1.0]), k=st.integers(0, 50))
def test_rank_matches_a_full_sort(key, seed, threshold, k):
    key, tie = ranked_pool(key, seed)
    expected = naive.rank(key, tie, threshold, k)
    for room in (key.size, min(key.size, 2 * k), min(key.size, k + 1)):
        order = np.empty(room, dtype=np.int64)
        found = kernels.rank(key, tie, threshold, k, order)
        assert sorted(order[:found]) == sorted(expected)
        assert list(order[:found][-1:]) == expected[-1:]


@ARRANGEMENTS
def test_rank_of_a_large_pool_in_little_room(arrangement):
    n = 20_000
    key = arranged(arrangement, n)
    tie = np.random.default_rng(3).permutation(n).astype(np.int32)
    for k in (1, 70, n // 3):
        order, expected = np.empty(2 * k, dtype=np.int64), naive.rank(key, tie, -1.0, k)
        assert kernels.rank(key, tie, -1.0, k, order) == k
        assert set(order[:k]) == set(expected)
        assert order[k - 1] == expected[-1]


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
            np.testing.assert_allclose(moved, naive.step_slopes(theta, *args), rtol=1e-12, atol=1e-14)
            assert np.all((moved >= 0) & (moved <= 1))


@quick
@given(bottom=st.floats(5e-324, 1e12), above=st.one_of(st.floats(0.0, 1e-3), st.floats(0.0, 1e300)))
def test_log_ratio_is_the_logarithm_to_its_last_places(bottom, above):
    top = min(bottom * (1.0 + above), 1e12)
    assert kernels.log_ratio(top, bottom) == pytest.approx(naive.log_ratio(top, bottom), rel=7e-16, abs=0)


def test_log_ratio_near_one_and_at_the_borders_of_its_parts():
    for bottom in [5e-324, 1e-310, 2.2250738585072014e-308, 1e-290, 0.75, 1.0, np.sqrt(2.0), 1.9999999999999998, 3e5]:
        for factor in [1.0, 1.0 + 2**-52, 1.0 + 2**-30, 1.41421356, 1.41421357, 2.0, 2.82842712, 2.82842713, 2.0**300]:
            top = bottom * factor
            assert kernels.log_ratio(top, bottom) == pytest.approx(naive.log_ratio(top, bottom), rel=7e-16, abs=0)


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
                assert kernels.step_slope(*args) == pytest.approx(naive.step_slope(*args), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("shape", range(4), ids=list(naive.SHAPES))
@pytest.mark.parametrize(("a_stride", "stride"), [(0, 0), (1, 1)])
@pytest.mark.parametrize("start_stride", [0, 1])
def test_step_pool_matches_its_twin_in_blocks_of_any_size(shape, a_stride, stride, start_stride):
    for rng in generators(4):
        evidence = evidence_of(rng, 30, a_stride)
        theta, visits = rng.random(30), rng.integers(1, 30, 30 if stride else 1).astype(float)
        start = rng.integers(0, 9, 30 if start_stride else 1).astype(float) * start_stride
        max_units = int(rng.integers(1, 5))
        plan, codes = (max_units, float(rng.uniform(0.1, 9)), 0.0), (shape, 0, 1.0)
        first, k = int(rng.integers(0, 20)), int(rng.integers(0, 30))
        dealt = (first, rng.permutation(60)[:k], rng.integers(0, max_units + 1, k))
        args = (evidence, (start, start_stride, visits, stride), plan, codes, *dealt)
        expected = naive.step_pool(theta, *args)
        for block in (1, 7, 30, 64):
            moved = theta.copy()
            rows, dealt = np.empty((2, k), dtype=np.int64)
            scratch = (np.empty((2, block)), np.zeros(block, dtype=np.int64), rows, dealt, np.empty((4, k)))
            kernels.step_pool(moved, *args, scratch)
            np.testing.assert_allclose(moved, expected, rtol=1e-12, atol=1e-14)


# ---------------------------------------------------------------- what the rest of the run wants


def remaining_pool(rng, size, *, whole=True):
    """Values, exposures so far, room and a share; with empty, full and untouched prompts."""
    z = rng.integers(0, 9, size) * (rng.random(size) < 0.7)
    room = rng.integers(0, 15, size).astype(float)
    if not whole:
        z, room = z * 0.7, room * 0.9
    return values_of(rng, size), z.astype(float), room, float(rng.uniform(0.5, 8))


def costs_of(rng, size):
    """Costs that are exact in float64, one for all or one per row."""
    return rng.choice([0.5, 1.0, 3.0, 17.0], size if rng.random() < 0.5 else 1)


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", [1e-6, *ORDINARY, 1e4])
def test_remaining_demand_matches_a_bisection(shape, scaling, lam):
    for rng in generators(4):
        q, z, room, share = remaining_pool(rng, 8, whole=False)
        cost = costs_of(rng, 8)
        for level in [1e-200, 0.01, 0.13, 0.4, 0.9, 2.0]:
            price = level * lam / share / cost[0]
            problem = (price, (q, z, room, cost), share, (shape, scaling, lam))
            expected = naive.remaining_demand(*problem)
            assert kernels.remaining_demand(*problem) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("level", [5e-324, 1e-300, 1e300])
def test_remaining_demand_at_extreme_prices(level):
    q, z, room, share = remaining_pool(np.random.default_rng(0), 9)
    q[0] = 0.2
    for shape in range(3):
        total, pull = kernels.remaining_demand(level, (q, z, room, np.ones(1)), share, (shape, kernels.RATE, 1.0))
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
            assert kernels.units_worth(*args) == naive.units_worth(*args)
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
                assert (total, out.tolist()) == naive.count_worth(price + shift, shift, units, *model)
        assert kernels.count_worth(-np.inf, 1.0, units, *model, out) == (lower + room).sum()
        assert kernels.count_worth(np.inf, 1.0, units, *model, out) == (lower + 0 * room).sum()
        units = rng.integers(0, 6, 7)
        kernels.next_gains(q, z, units, *model, gains)
        expected = naive.next_gains(q.tolist(), z.tolist(), units.tolist(), *model)
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
                expected = naive.unit_starts(shape, height, rate, 1.0 / per_visit, price)
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
            assert int(block[3, i]) == naive.count_units(at_lo + 1e-9 * (1 + abs(at_lo)), *args)
            assert high[i] == naive.count_units(at_hi - 1e-9 * (1 + abs(at_hi)), *args)


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
        twin = naive.entry_gains(range(6), columns[3], columns, *model)
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
            outside = np.array([n for n, _ in naive.bracket_units(lo * (1 - 1e-13), columns, *model)])
            inside = np.array([n for _, n in naive.bracket_units(hi * (1 + 1e-13), columns, *model)])
            assert (wide >= outside).all()
            assert (narrow <= inside).all()
            if usual > 1e-12 * lam:  # and tight
                assert (wide <= [n for n, _ in naive.bracket_units(lo * (1 - 1e-4), columns, *model)]).all()
                assert (narrow >= [n for _, n in naive.bracket_units(hi * (1 + 1e-4), columns, *model)]).all()


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", [1e-9, *ORDINARY, 1e3])
def test_score_gains_match_their_twin(shape, scaling, lam):
    for rng in generators(3):
        q, z, _, share = remaining_pool(rng, 5)
        w = rng.choice([1.0, 1.5, 4.0, 300.0], 5)
        gains = np.empty((5, 6))
        kernels.score_gains(q, z, w, share, (shape, scaling, lam), gains)
        expected = naive.score_gains(q.tolist(), z.tolist(), w.tolist(), share, (shape, scaling, lam), 6)
        np.testing.assert_allclose(gains, expected, rtol=1e-12, atol=2e-15 if shape == 3 else 1e-300)
        assert (np.diff(gains, axis=1) <= 0).all() or shape == kernels.CAPPED_LINEAR


def test_group_unit_matches_the_moments():
    for rng in generators(40):
        (a, b), g = np.exp(rng.uniform(-5, 8, 2)).tolist(), int(rng.integers(1, 5))
        fails, wins = b / (a + b), a / (a + b)
        for n in range(0, 5 * g, g):
            gain, fails, wins = kernels.group_unit(a, b, g, n, fails, wins)
            assert (gain, fails, wins) == pytest.approx(naive.group_unit(a, b, g, n), rel=1e-13, abs=0)


@pytest.mark.parametrize("g", [1, 2, 4])
@pytest.mark.parametrize("parameters", ["ordinary", "tiny", "huge", "lopsided"])
def test_group_gains_match_exact_fractions(g, parameters):
    rng = np.random.default_rng(g)
    low, high = {"ordinary": (0.3, 9), "tiny": (1e-6, 1e-3), "huge": (1e5, 1e7), "lopsided": (1e-3, 1e5)}[parameters]
    a, b = np.exp(rng.uniform(np.log(low), np.log(high), (2, 6)))
    a[0] = b[0]
    factor, gains = rng.choice([0.0, 1.0, 1.7], 6), np.empty((6, 8))
    kernels.group_gains((a, b, factor), g, gains)
    np.testing.assert_allclose(gains, naive.group_gains((a, b, factor), g, 8), rtol=1e-13, atol=0)
    if g == 1:
        assert (gains[:, 0] == 0).all()
        assert (np.diff(gains[:, 1:], axis=1) <= 0).all()


@pytest.mark.parametrize("g", [1, 2, 3])
@pytest.mark.parametrize("min_units", [0, 1, 2, 4])
def test_remaining_groups_match_a_search(g, min_units):
    for rng in generators(5):
        a, b = rng.uniform(0.3, 9, (2, 6))
        factor, visits = rng.choice([0.0, 1.0, 1.7], 6), rng.integers(-1, 5, 6).astype(float)
        cost = costs_of(rng, 6)
        for price in [0.0, 1e-3, 0.05, 0.11, 0.4, 1e300]:
            args = (price / cost[0], (a, b, factor), visits, cost, g, min_units, 6)
            assert kernels.remaining_groups(*args) == naive.remaining_groups(*args)


# ---------------------------------------------------------------- one visit's counts


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
            slopes / scale, np.array(naive.majorise(gains, min_units)) / scale, rtol=0, atol=1e-14
        )
        assert (np.diff(slopes, axis=1) <= 0).all()
        if min_units <= 1:  # a concave row is its own envelope, to the last bit
            falling = (np.diff(gains, axis=1) <= 0).all(axis=1)
            assert (slopes[falling] == gains[falling]).all()


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
            assert (total, units.tolist()) == naive.take_above(slopes, cost, price)
            for equal in (True, False):
                low, high = sorted(rng.integers(0, width + 1, 2).tolist())
                args = (slopes, int(rng.integers(rows)), low, high, cost[0], price, equal)
                assert kernels.dearer(*args) == naive.dearer(*args)


def test_clear_slopes_matches_a_walk_down_the_prices():
    for rng in generators(150):
        rows, width = (int(rng.integers(1, most)) for most in (8, 7))
        slopes = -np.sort(-table(rng, rows, width), axis=1)
        cost = costs_of(rng, rows)
        most = float(width * (cost.sum() if cost.size > 1 else cost[0] * rows))
        for target in [0.0, 0.25, *np.floor(rng.uniform(0, most, 4)), most, 2 * most]:
            sure, upto = np.zeros(rows, dtype=np.int64), np.full(rows, width)
            expected = naive.clear_slopes(slopes.tolist(), cost.tolist(), target, sure.tolist(), upto.tolist())
            price, spent = kernels.clear_slopes(slopes, cost, target, sure, upto)
            assert (price, spent, sure.tolist(), upto.tolist()) == expected


def test_level_matches_raising_the_lowest():
    for rng in generators(300):
        rows = int(rng.integers(1, 7))
        start, units = rng.integers(0, 6, (2, rows))
        upto = units + rng.integers(0, 6, rows) * (rng.random(rows) < 0.8)
        cost = np.ones(1) if rng.random() < 0.6 else costs_of(rng, rows)
        order, left = rng.permutation(rows), float(rng.integers(0, 25))
        expected = naive.level(start.tolist(), units.tolist(), upto, cost, order, left)
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
    naive.fall(gains, lower, expected)
    assert out.tolist() == expected.tolist()


def cleared(slopes, total, units, upto):
    """What the units leave of a total, each unit costing 1."""
    return total - int(kernels.clear_slopes(slopes, np.ones(1), float(total), units, upto)[1])


@settings(quick, max_examples=600)
@given(case=falling_slopes())
def test_clear_slopes_within_bounds_matches_a_walk_down_the_prices(case):
    slopes, total, units, upto = case
    lower, upper = units.copy(), upto.copy()
    price, spent, *expected = naive.clear_slopes(slopes.tolist(), [1.0], total, units.tolist(), upto.tolist())
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
        _, spent = kernels.clear_slopes(slopes, cost, target, units, upto)
        start, order = np.zeros(rows, dtype=np.int64), rng.permutation(rows)
        args = (gains, slopes, min_units, cost, start, order, target - spent)
        expected = naive.fill_ties(*args, units.tolist(), upto.tolist())
        rest = kernels.fill_ties(*args, units, upto)
        assert (rest, units.tolist()) == expected
        assert rest >= 0
        assert ((units == 0) | (units >= min_units)).all()


def allowed_units(rng, rows, min_units, width):
    return np.array(rng.choice(naive.allowed_counts(min_units, width), rows), dtype=np.int64)


@pytest.mark.parametrize("min_units", [0, 1, 2, 4])
def test_complete_matches_its_twin(min_units):
    found = 0
    for rng in generators(150):
        rows, width = int(rng.integers(1, 7)), max(min_units, int(rng.integers(1, 8)))
        gains, units = table(rng, rows, width), allowed_units(rng, rows, min_units, width)
        slopes, tie = envelope(gains, min_units), rng.permutation(rows)
        total = int(rng.integers(0, rows * width + 2))
        expected = naive.complete(gains, slopes, tie, min_units, total, units.tolist())
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
            for after in naive.allowed_counts(min_units, width):
                expected = naive.change_loss(gains.tolist(), r, price, int(units[r]), after)
                found = kernels.change_loss(gains, r, price, units[r], after)
                assert found == pytest.approx(expected, abs=scale)
        kernels.least_losses(gains, price, min_units, units, out)
        assert out == pytest.approx(naive.least_losses(gains.tolist(), price, min_units, units.tolist()), abs=scale)


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
        expected = naive.repair(gains.tolist(), *args[1:], before.tolist())
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
        expected = naive.fill_costly(*args, units.tolist())
        rest = kernels.fill_costly(*args, units)
        assert (rest, units.tolist()) == expected


# ---------------------------------------------------------------- offline oracle


@SHAPES
@SCALINGS
@LAMS
def test_demand_within_bounds_matches_its_twin(shape, scaling, lam):
    for rng in generators(4):
        prompts = list(zip(*pool(rng, 10), strict=True))
        codes = (shape, scaling, lam)
        for price in lam / prompts[0][3] * np.array([1e-9, 0.1, 0.4, 0.9, 2.0]):
            each = [kernels.bounded_demand(price, *prompt, codes) for prompt in prompts]
            twins = [naive.bounded_demand(price, *prompt, codes) for prompt in prompts]
            assert each == pytest.approx(twins, rel=1e-9, abs=1e-12)


@SHAPES
@quick
@given(reference=st.floats(1e-9, 1e3), ratio=st.floats(1e-6, 1e6))
def test_prices_have_an_abscissa_and_back(shape, reference, ratio):
    t = kernels.abscissa(shape, reference, reference * ratio)
    assert t == pytest.approx(naive.abscissa(shape, reference, reference * ratio), rel=1e-12, abs=1e-14)
    assert kernels.price_at(shape, reference, t) == pytest.approx(naive.price_at(shape, reference, t), rel=1e-12)
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
        twins = np.array(naive.demand_lines(reference, problem[0], problem[3], codes))
        np.testing.assert_allclose(shift, twins[:, 0], rtol=1e-9, atol=1e-9 / lam)
        np.testing.assert_allclose(slope, twins[:, 1], rtol=1e-9, atol=1e-9 / lam)
        for price in reference * np.array([0.1, 0.9, 1.0, 2.0]):
            t = kernels.abscissa(shape, reference, price)
            for i, prompt in enumerate(zip(*problem, strict=True)):
                z = kernels.on_line(shape, shift[i], slope[i], t)
                assert z == naive.on_line(shape, shift[i], slope[i], t)
                z = kernels.clip(z, *prompt[1:3])
                assert z == naive.clip(z, *prompt[1:3])
                expected = naive.bounded_demand(price, *prompt, codes)
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
            assert (total, by_log_price) == pytest.approx(naive.total_demand(price, *problem), rel=1e-6, abs=1e-9)
            if shape == kernels.CAPPED_LINEAR:
                steps = (t, lines(problem, reference))
                assert kernels.total_steps(*steps) == total == pytest.approx(naive.total_steps(*steps), rel=1e-15)


@SHAPES
def test_total_demand_is_summed_with_compensation(shape):
    n = 100_000
    lower, lines = np.full(n, 0.1), tuple(np.zeros((2, n)))
    total, _ = kernels.total_demand(1.0, (*lines, lower, lower), shape)
    assert total == pytest.approx(n * 0.1, rel=1e-15)
    assert kernels.total_demand(1.0, (*lines, lower[:1], lower[:1]), shape)[0] == total


@quick
@given(st.lists(st.floats(-1e6, 1e6), max_size=30))
def test_compensated_addition(terms):
    total = lost = twin = rest = 0.0
    for term in terms:
        total, lost = kernels.add(total, lost, term)
        twin, rest = naive.add(twin, rest, term)
    assert total == pytest.approx(twin, rel=1e-15, abs=1e-15 * sum(map(abs, terms)))


def test_one_entry_for_all_or_one_each():
    for array in (np.array([3.0]), np.array([1.0, 2.0])):
        assert [kernels.entry(array, i) for i in range(2)] == [naive.entry(array, i) for i in range(2)]


@quick
@given(state=st.integers(0, 2**64 - 1), n=st.integers(1, 2**40))
def test_draw_matches_its_twin(state, n):
    fresh, below = kernels.draw(np.uint64(state), n)
    assert (int(fresh), below) == naive.draw(state, n)


@SHAPES
@SCALINGS
@LAMS
def test_worth_is_utility_and_slope(shape, scaling, lam):
    height, rate = kernels.scale_of(scaling, lam, 0.2)
    for x in (0.0, 1e-9, 0.3, 1.24, 1.26, 7.0, 800.0):
        reached, slope = kernels.worth(shape, height, rate, x)
        assert reached == pytest.approx(kernels.u(shape, height, rate, x), rel=1e-15)
        assert slope == pytest.approx(kernels.du(shape, height, rate, x), rel=1e-15)
        assert (reached, slope) == pytest.approx(naive.worth(shape, height, rate, x), rel=1e-12, abs=1e-14)


def binding(rng, size, shape, scaling, lam):
    """A continuous problem, a budget strictly between the lower bounds and what is wanted for free, and a price too high."""
    q, lower, upper, share = pool(rng, size)
    q[0], lower[0], upper[0] = 0.2, 0.0, 6.0
    problem = (q, lower, upper, share), (shape, scaling, lam)
    least, most = lower.sum(), naive.total_demand(1e-300, *problem)[0]
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
        low, high = naive.clear_price(budget, *problem, top)
        assert closed
        assert low * (1 - 1e-9) <= price <= high * (1 + 1e-9)
        _, mixed = naive.blend(low, high, budget, *problem)
        np.testing.assert_allclose(out, mixed, rtol=1e-9, atol=1e-9)
        assert out.sum() == pytest.approx(budget, rel=1e-14)
        if shape != kernels.CAPPED_LINEAR:
            assert pull == pytest.approx(naive.total_demand(price, *problem)[1], rel=1e-5, abs=1e-9)


@SCALINGS
@LAMS
def test_steepest_is_the_largest_slope_at_0(scaling, lam):
    for rng in generators(4):
        q, _, _, share = pool(rng, 9)
        expected = naive.steepest(q, share, (0, scaling, lam))
        assert kernels.steepest(q, share, (0, scaling, lam)) == pytest.approx(expected, rel=1e-15, abs=0)
        assert kernels.steepest(q, share[:1], (0, scaling, lam)) == pytest.approx(
            4 * lam * q.max() / share[0], rel=1e-15
        )


def ends(problem, reference, top):
    """Lines, bounds, shape, and abscissas from where nobody wants more to where all do, with their demands."""
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
            low, high = naive.clear_curves(budget, tail, shape, least, min(most, 1e6))
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
        price = naive.clear_steps(budget - under, tail)
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
def test_clear_price_tells_when_it_runs_out_of_passes(shape):
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
        price, _ = naive.clear_price(budget, *problem, lam / problem[0][3].min())
        lo, hi = 0.9 * price, 1.1 * price + 1e-12
        out = np.empty(7)
        reference = 1.3 * hi
        ends = (kernels.abscissa(shape, reference, end) for end in (hi, lo))
        weight = kernels.blend(*ends, budget, lines(problem, reference), shape, out)
        twin_weight, mixed = naive.blend(lo, hi, budget, *problem)
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
    assert out.tolist() == pytest.approx([naive.bounded_demand(0.1, x, 0.0, 3.0, 1.0, problem[1]) for x in q])


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
        assert kernels.certify(*problem) == pytest.approx(naive.certify(*problem), rel=1e-11, abs=1e-12)


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
            twins = naive.count_wanted(price, *problem)
            for guess in (-np.inf, 0.0, float(rng.uniform(0, 9)), np.inf):
                assert [kernels.wanted_units(guess, price, *prompt, problem[1]) for prompt in prompts] == twins
            out = np.empty(6, dtype=np.int64)
            reference = lam / share[0]
            total = kernels.count_wanted(price, *problem, (reference, *lines(problem, reference)[:2]), out)
            assert (total, out.tolist()) == (sum(twins), twins)


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
    assert kernels.kth_largest(np.array(x), size, k) == naive.kth_largest(x, size, k)


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
        twin_price, counts = naive.clear_units(budget, *problem, top)
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
        twin_price, counts = naive.clear_units(budget, *problem, top)
        assert out.tolist() == counts
        assert price == pytest.approx(twin_price, rel=1e-9)


@SHAPES
@SCALINGS
def test_clear_units_gives_ties_to_the_lowest_index(shape, scaling):
    q = np.full(5, 0.2)
    problem = (q, np.zeros(5), np.full(5, 4.0), np.full(5, 100.0)), (shape, scaling, 1.0)
    for budget in range(21):
        _, out = clear_units(budget, problem, 1.0)
        assert out.tolist() == naive.clear_units(budget, *problem, 1.0)[1]


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", [1e-6, *ORDINARY, 1e6])
def test_path_dual_matches_a_recursion(shape, scaling, lam):
    for rng in generators(3):
        n_prompts, n_rounds, max_units = (int(rng.integers(1, most)) for most in (4, 6, 4))
        q_path = values_of(rng, n_prompts * n_rounds).reshape(n_prompts, n_rounds)
        share = float(rng.uniform(0.5, 4))
        price = float(rng.uniform(0.01, 1)) * min(1.0, lam) / share
        worth, spent, line = np.empty((3, n_rounds * max_units + max_units + 1))
        model = (max_units, share, (shape, scaling, lam))
        total, bought = kernels.path_dual(price, q_path, *model, worth, spent, line)
        twin_total, twin_bought = naive.path_dual(price, q_path.tolist(), *model)
        assert total == pytest.approx(twin_total, rel=1e-9, abs=1e-14)
        assert bought == twin_bought


@SHAPES
@SCALINGS
@LAMS
def test_unit_gains_match_their_twin(shape, scaling, lam):
    for q in (0.0, 1e-30, 0.03, 0.25):
        height, rate = naive.scale_of(scaling, lam, q)
        for size in (1, 2, 3, 100):
            gains = np.full(size + 1, np.nan)
            kernels.unit_gains(shape, height, rate / 7, size, gains)
            twin = naive.unit_gains(shape, height, rate / 7, size)
            # An exponent of 700 carries 700 roundings of the rate; below 1e-300 digits are lost in any case.
            slack = 1e-300 if shape != 3 else 2e-15 * height
            np.testing.assert_allclose(gains[:size], twin, rtol=1e-14 * (1 + min(rate * size, 800)), atol=slack)
            assert np.isnan(gains[size])


@SHAPES
@SCALINGS
def test_path_dual_on_long_paths(shape, scaling):
    """Long enough that geometric gains, skipped exposures and single-unit chances could go wrong; steep prices, too."""
    for rng, price in zip(generators(6), (0.0, 1e-9, 0.1, 0.5, 2.0, 5.0), strict=True):
        n_rounds, max_units, share = 24, int(rng.integers(1, 5)), float(rng.uniform(5, 30))
        q_path = np.sort(rng.uniform(0, 0.25, (2, n_rounds)), axis=1)[:, :: int(rng.choice([-1, 1]))].copy()
        scratch = np.empty((3, n_rounds * max_units + max_units + 1))
        model = (max_units, share, (shape, scaling, 1.5))
        total, bought = kernels.path_dual(price / share, q_path, *model, *scratch)
        twin_total, twin_bought = naive.path_dual(price / share, q_path.tolist(), *model)
        assert total == pytest.approx(twin_total, rel=1e-13, abs=1e-15)
        assert price == 0.0 or bought == twin_bought  # free units are worth taking or not, as rounding has it


def test_an_overspent_allocation_is_no_certificate():
    problem = (np.array([0.25, 0.1]), np.zeros(2), np.full(2, 5.0), np.ones(2)), (0, 0, 1.0)
    for integer in (False, True):
        assert kernels.certify(0.1, np.array([2.0, 2.0]), 3.0, *problem, integer)[1] == np.inf
        assert np.isfinite(kernels.certify(0.1, np.array([2.0, 1.0]), 3.0, *problem, integer)[1])


# ---------------------------------------------------------------- simulation


def test_bin_of_matches_its_twin():
    for mean in (0.0, 5e-324, 0.2, np.nextafter(0.2, 0), 0.4, 0.6, 0.8, np.nextafter(1.0, 0), 1.0):
        assert kernels.bin_of(mean, 5) == naive.bin_of(mean, 5)


@pytest.mark.parametrize("stride", [0, 1])
def test_forecast_matches_its_twin_round_after_round(stride):
    """Whatever happens to the evidence in between: some of it, none of it, all of it."""
    for rng in generators(10):
        size = int(rng.integers(1, 12))
        a0, b0, _, counts, tick, now, rho, fade = evidence_of(rng, size, stride)
        alpha, beta = np.full((2, size), np.nan)
        mean, value = np.zeros((2, size))
        bins = np.array([size, 0, 0, 0, 0])
        for turn in range(5):
            if turn == 2:
                counts[rng.integers(size), 0] += 3.0
            elif turn == 3:
                now, rho = now + 1, 0.5
                kernels.powers(rho, fade)
            elif turn == 4:
                a0 *= 0.1
            q = rng.uniform(0, 0.25, size)
            evidence = (a0, b0, stride, counts, tick, now, rho, fade)
            error = kernels.forecast(evidence, q, alpha, beta, mean, value, bins)
            twin = naive.forecast(evidence, q, 5)
            np.testing.assert_allclose(mean, twin[0], rtol=1e-13)
            np.testing.assert_allclose(value, twin[1], rtol=1e-13)
            assert bins.tolist() == twin[2]
            assert error == pytest.approx(twin[3], rel=1e-12)


def test_first_bad_count_matches_its_twin():
    for rng in generators(200):
        group, most = int(rng.integers(1, 4)), int(rng.integers(0, 13))
        n = group * rng.integers(0, most // group + 1, int(rng.integers(0, 6)))
        if n.size and rng.random() < 0.5:
            n[rng.integers(n.size)] = rng.choice([-group, -1, most + 1, 2**62])
        assert kernels.first_bad_count(n, group, most) == naive.first_bad_count(n.tolist(), group, most)


@SHAPES
@SCALINGS
def test_block_gains_match_their_twin(shape, scaling):
    for rng in generators(5):
        size = 9
        known = np.full((3, size), np.nan)
        q, z = values_of(rng, size), rng.integers(0, 50, size)
        for _ in range(4):
            rows = rng.permutation(size)[: rng.integers(1, size + 1)]
            changed = rng.integers(size, size=2)
            q[changed[0]], z[changed[1]] = rng.uniform(0, 0.25), rng.integers(0, 50)
            out, args = np.empty(rows.size), (11.5, 0.7, (shape, scaling, 1.3))
            kernels.block_gains(rows, q[rows], z[rows], *args, known, out)
            np.testing.assert_allclose(out, naive.block_gains(rows, q[rows], z[rows], *args), rtol=1e-12, atol=1e-15)
