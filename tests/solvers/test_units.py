"""Whole units by a threshold: the same to the last bit as bisection, as a table of gains, and as a plan made afresh."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import twins
from cero_alloc import BetaPosteriorBank, ResolvingAllocator, SaturatingUtility
from cero_alloc._solvers import units as _units
from cero_alloc._solvers.remaining import Remaining
from cero_alloc._solvers.tables import solve_batch
from cero_alloc._solvers.units import Units, first, solve_visit
from helpers import kernels

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.sampled_from(list(twins.SHAPES))
SCALINGS = st.sampled_from(list(twins.SCALINGS))


def bound(gains, least, most, much):
    """Lift the units below ``least`` above all others, and sink those beyond ``most`` below them."""
    n = np.arange(gains.shape[1])
    gains += much * (n < least[:, None])
    gains -= much * (n >= most[:, None])


@pytest.fixture(params=[(1 << 14, 1 << 13), (8, 16), (0, 8)], ids=["usual", "small", "smallest"], autouse=True)
def sizes(request, monkeypatch):
    """Samples and lists so small that small pools take the ways of large ones."""
    few, sample = request.param
    monkeypatch.setattr(_units, "_FEW", few)
    monkeypatch.setattr(_units, "SAMPLE", sample)
    monkeypatch.setattr(_units, "_MANY", 8 * few)
    _units.sample_rows.cache_clear()
    yield sample
    _units.sample_rows.cache_clear()


def draw(rng, shape, scaling):
    """A pool with both ends of the value range and many ties, or few."""
    size = int(rng.integers(1, rng.choice([2, 12, 80, 400])))
    q = rng.choice([0.0, 0.25, *rng.uniform(0, 0.25, 3)], size)
    q = np.where(rng.random(size) < rng.random(), q, rng.uniform(0, 0.25, size))
    z = (rng.integers(0, 9, size) * (rng.random(size) < 0.7)).astype(float)
    utility = SaturatingUtility(shape, saturation=float(10 ** rng.uniform(-1.5, 1.5)), scaling=scaling)
    return q, z, float(rng.uniform(0.5, 8)), utility


@given(seed=SEEDS, shape=SHAPES, scaling=SCALINGS)
@settings(max_examples=150)
def test_a_threshold_finds_the_units_that_bisection_finds(seed, shape, scaling):
    rng = np.random.default_rng(seed)
    q, z, share, utility = draw(rng, shape, scaling)
    room, tie = rng.integers(0, 15, q.size).astype(float), rng.permutation(q.size)
    budget = int(rng.integers(0, room.sum() + 3))
    rest = Remaining(q, z, room, np.ones(1), float(budget), share, utility)
    plan, price = rest.units(float(10 ** rng.uniform(-4, 1)), tie)
    if 0 < budget < room.sum():
        upper = np.minimum(room, budget).astype(np.int64)
        pool = Units(q, z, tie, upper, share, utility, ahead=z)
        expected, positive = pool._bisected(budget, 0.05), np.empty(q.size, dtype=np.int64)
        if replace(pool, upper=room.astype(np.int64)).count(5e-324, positive) <= budget:
            assert (plan.tolist(), price) == (positive.tolist(), 0.0)
        else:
            assert (plan.tolist(), price) == (expected.units.tolist(), expected.price)


@given(seed=SEEDS, shape=SHAPES, scaling=SCALINGS)
@settings(max_examples=150)
def test_a_visit_without_a_table_is_that_with_one(seed, shape, scaling):
    rng = np.random.default_rng(seed)
    q, z, share, utility = draw(rng, shape, scaling)
    size, max_units = q.size, int(rng.integers(1, 7))
    left = rng.integers(1, 6, size if rng.random() < 0.7 else 1).astype(float)
    later = ((left - 1) * max_units).astype(np.int64)
    plan = np.minimum(rng.integers(0, rng.choice([2, 12]), size), later + max_units)
    least, most = np.maximum(plan - later, 0), np.minimum(plan, max_units)
    visits, much = 1 + (left - 1) / float(rng.choice([1, 2, 3])), 2 * utility.saturation / share
    gains = np.empty((size, max_units))
    kernels.score_gains(q, z, np.array(np.broadcast_to(visits, size)), share, utility.codes, gains)
    floor = float(rng.choice([0.0, 10 ** rng.uniform(-4, 0) * utility.saturation / share, rng.choice(gains.ravel())]))
    bound(gains, least, most, much)
    low = int(rng.integers(0, size * max_units + 1))
    high = int(rng.integers(low, size * max_units + 1))
    tie = rng.permutation(size)
    expected = solve_batch(gains, min_units=1, low=low, high=high, floor=floor, tie=tie)
    score = Units(q, z, tie, np.array([max_units]), share, utility, visits=visits)
    found = solve_visit(score, least, most, low=float(low), high=float(high), floor=floor, much=much)
    assert found.units.tolist() == expected.units.tolist()
    assert found.price == pytest.approx(expected.price, rel=1e-12, abs=0)


def test_what_all_gain_alike_is_leveled_not_listed():
    utility = SaturatingUtility("capped-linear", scaling="height")
    units = Units(np.full(9000, 0.2), np.zeros(9000), np.arange(9000), np.array([50]), 100.0, utility)
    for guess in (0.0, 0.01, 1e300):
        assert units.take(1000, guess).units.tolist() == [1] * 1000 + [0] * 8000  # of 450,000 units of one gain
        last = units.take(10_000, guess, 1)
        assert last.units.tolist() == [2] * 1000 + [1] * 8000
        assert (last.last, last.before) == (999, last.price)
    few = replace(units, upper=np.array([3])).take(10_000, 0.01)
    assert few.units.tolist() == [2] * 1000 + [1] * 8000


def test_first_orders_by_key_then_ties():
    rng = np.random.default_rng(0)
    for _ in range(50):
        key, tie, rank = rng.integers(0, 4, 30).astype(float), rng.integers(0, 3, 30), rng.permutation(30)
        order = np.lexsort((rank, tie, key))
        k = int(rng.integers(1, 31))
        before, last = first(k, key, lambda at: tie[at], lambda at: rank[at])  # noqa: B023
        assert sorted(np.concatenate(before)) == sorted(order[: k - 1])
        assert last == order[k - 1]


# ---------------------------------------------------------------- a pool of which a batch changes


def play(seed, shape, scaling, *, afresh, resume=None):
    """Counts and prices of a run in batches; ``afresh`` plans the whole pool at every visit."""
    rng = np.random.default_rng(seed)
    size = int(rng.choice([3, 40, 300]))
    visits, max_units = rng.integers(1, 6, size), int(rng.choice([1, 2, 8]))
    bank = BetaPosteriorBank(size)
    allocator = ResolvingAllocator(
        bank, total_budget=int(rng.integers(max(1, visits.sum() * max_units // 8), visits.sum() * max_units + 1)), visits=visits,
        max_rollouts=max_units, utility=SaturatingUtility(shape, scaling=scaling, saturation=float(np.exp(rng.uniform(-2, 2)))),
        seed=seed, exploration=float(rng.choice([0.0, 1.0])), front_load=float(rng.choice([1.0, 3.0])),
        fit_every=7 if rng.random() < 0.2 else None,
    )  # fmt: skip
    if afresh:
        allocator._strategy._running = lambda rows: None
    p, batch, done = rng.beta(0.6, 0.8, size), max(1, size // int(rng.choice([3, 20]))), []
    for k in range(25):
        rows = rng.permutation(size)[:batch] if rng.random() < 0.95 else None
        counts = allocator.allocate(rows)
        done.append((counts.tolist(), allocator.price))
        answered = counts - (rng.random(counts.size) < 0.1) * (counts > 0)
        allocator.update(rows, rng.binomial(answered, p if rows is None else p[rows]), answered)
        if rng.random() < 0.2:
            allocator.refund(rows, counts - answered)
        if k % 5 == 4 and rng.random() < 0.3:
            bank.update([0], successes=[1], rollouts=[2])
        if k == resume:
            allocator.load_state_dict(allocator.state_dict())
    return done, allocator


@given(seed=SEEDS, shape=SHAPES, scaling=SCALINGS)
@settings(max_examples=25)
def test_what_a_batch_changed_gives_the_plan_of_the_whole_pool(seed, shape, scaling):
    expected, _ = play(seed, shape, scaling, afresh=True)
    assert play(seed, shape, scaling, afresh=False)[0] == expected
    assert play(seed, shape, scaling, afresh=False, resume=9)[0] == expected


def test_a_batch_is_planned_without_passes_over_the_pool(sizes):
    if sizes < 1 << 13:
        pytest.skip("pools of this size are passed over where samples are tiny")
    rng = np.random.default_rng(1)
    size = 40_000
    p, bank = rng.beta(0.6, 0.8, size), BetaPosteriorBank(size)
    bank.update(None, rng.binomial(16, p), np.full(size, 16))
    allocator = ResolvingAllocator(bank, total_budget=7 * size, visits=4, max_rollouts=4)
    for _ in range(40):
        rows = np.sort(rng.permutation(size)[:64])
        counts = allocator.allocate(rows)
        allocator.update(rows, rng.binomial(counts, p[rows]), counts)
    assert allocator._plan.running.passes <= 8


def test_a_second_reader_of_a_bank_takes_no_change_from_the_first():
    bank = BetaPosteriorBank(50)
    pair = [ResolvingAllocator(bank, total_budget=200, visits=4, max_rollouts=4, seed=1) for _ in range(2)]
    for allocator in pair:
        allocator.allocate([0, 1])
    bank.update([3, 4], successes=[0, 9], rollouts=[9, 9])
    first_counts, second_counts = (allocator.allocate([3, 4, 5]) for allocator in pair)
    assert first_counts.tolist() == second_counts.tolist()
    assert pair[0].price == pair[1].price
