"""ResolvingAllocator: optimal in every visit order, exact in every total; the group signal and the certificate."""

import copy
import itertools

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank, OfflineOracle, ResolvingAllocator, SaturatingUtility
from cero_alloc._solvers.remaining import Remaining
from helpers.jit import either
from helpers.resolving import (
    KINDS,
    batches,
    feasible_units,
    known,
    learnt_bank,
    random_offer,
    random_run,
    round_cap,
)

ORDERS = ["shuffled", "best first", "worst first", "in a row", "random sizes"]


def rates_of(values):
    """Success rates with these variances."""
    return 0.5 - np.sqrt(np.maximum(0.0, 0.25 - np.asarray(values)))


# ---------------------------------------------------------------- known values: zero regret


def known_instance(seed):
    rng = np.random.default_rng(seed)
    m, visits, max_units, g = (int(rng.integers(1, high)) for high in (13, 7, 7, 4))
    values = rng.random(m) * 0.25
    if rng.random() < 0.5:
        values = rng.choice([0.0, 0.25, 0.1, *rng.random(3) * 0.25], m)
    shape, scaling = KINDS[seed % len(KINDS)]
    utility = SaturatingUtility(shape, scaling=scaling, saturation=float(rng.choice([0.1, 0.3, 1.0, 3.0, 10.0])))
    return rng, known(rates_of(values)), m, visits, max_units, g, utility, float(rng.choice([1.0, 2.0, 5.0]))


def relative_regret(allocator, values, visits, integer=True):
    """How much the run fell short of the oracle, in units, as a share of the optimum."""
    h, utility = allocator.horizon, allocator.utility
    exposure = allocator.exposure // h.unit_size
    assert (exposure <= visits * h.max_units).all()
    assert exposure.sum() <= h.budget_units
    achieved = utility.value(values, exposure / h.equal_share_units).sum()
    upper = np.broadcast_to(visits, values.size) * h.max_units
    result = OfflineOracle(utility).solve(
        values, h.budget_units, equal_share=h.equal_share_units, upper=upper, integer=integer
    )
    return (result.optimum - achieved) / max(result.optimum, 1e-300)


@pytest.mark.parametrize("told", ["rounds", "visits", "both"])
def test_known_values_full_pool_is_optimal_at_the_default_pace(told):
    for seed in range(either(240, 40)):
        rng, bank, m, rounds, max_units, g, utility, front_load = known_instance(seed)
        values = bank.value()
        horizon = {"n_rounds": rounds} if told == "rounds" else {"visits": rounds}
        if told == "both":
            horizon = {"n_rounds": rounds, "visits": np.full(m, rounds)}
        allocator = ResolvingAllocator(
            bank, total_budget=g * int(rng.integers(1, m * rounds * max_units + 1)), unit_size=g, max_rollouts=g * max_units,
            utility=utility, front_load=front_load, seed=seed, **horizon,
        )  # fmt: skip
        for _ in range(rounds):
            allocator.allocate()
        assert relative_regret(allocator, values, rounds) <= 1e-12, seed


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cap", ["loose cap", "infinite band"])
def test_known_values_are_optimal_in_every_visit_order(order, cap):
    for seed in range(either(120, 20)):
        rng, bank, m, most, max_units, g, utility, front_load = known_instance(1000 + seed)
        values = bank.value()
        visits = rng.integers(1, most + 1, m)
        allocator = ResolvingAllocator(
            bank, total_budget=g * int(rng.integers(1, visits.sum() * max_units + 1)), visits=visits, unit_size=g,
            max_rollouts=g * max_units, utility=utility, front_load=front_load, seed=seed,
            band=np.inf if cap == "infinite band" else 0.25,
        )  # fmt: skip
        for batch in batches(order, visits, values, rng):
            allocator.allocate(batch, budget=len(batch) * g * max_units if cap == "loose cap" else None)
        assert relative_regret(allocator, values, visits) <= 1e-12, seed


@pytest.mark.parametrize("order", ORDERS)
def test_theorem_3_any_feasible_real_counts_reach_the_optimum(order):
    for seed in range(either(72, 24)):
        rng, bank, m, most, max_units, _, utility, _ = known_instance(2000 + seed)
        q, visits = bank.value(), rng.integers(1, most + 1, m)
        q[q < 1e-200] = 0.0
        total = float(rng.uniform(0.05, 1.0) * visits.sum() * max_units)
        share, z, w, left = total / m, np.zeros(m), visits.astype(float), total
        guess = 0.0
        for batch in batches(order, visits, q, rng):
            price = Remaining(q, z, w * max_units, np.ones(1), left, share, utility).clear(guess)
            low, high = (
                np.clip(utility.demand(q, p * share, (z + w * max_units) / share) * share - z, 0.0, w * max_units)
                for p in (price.low, price.high)
            )
            y = high + price.part * (low - high)
            assert y.sum() <= left * (1 + 1e-12)
            # the smallest, the largest or any count in between
            least, largest = np.maximum(0.0, y - (w - 1.0) * max_units)[batch], np.minimum(max_units, y)[batch]
            n = least + rng.choice([0.0, 1.0, rng.random()]) * (largest - least)
            z[batch] += n
            w[batch] -= 1.0
            left = max(0.0, left - n.sum())
            guess = price.high
        result = OfflineOracle(utility).solve(q, total, equal_share=share, upper=visits * max_units)
        regret = result.optimum - utility.value(q, np.minimum(z, visits * max_units) / share).sum()
        assert abs(regret) <= 1e-9 * result.optimum, seed


def test_a_least_count_of_2_costs_next_to_nothing():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        bank = known(rng.beta(0.6, 0.6, 60))
        values = bank.value()
        allocator = ResolvingAllocator(bank, total_budget=60 * 32, visits=4, min_rollouts=2, max_rollouts=32)
        for _ in range(4):
            counts = allocator.allocate()
            assert not (counts == 1).any()
        assert relative_regret(allocator, values, 4) <= 1e-3


def test_exact_totals_are_exact():
    calls, refused, runs = 0, 0, either(3000, 300)
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        allocator, m, min_units, rounds = random_run(rng)
        g, max_units = allocator.horizon.unit_size, allocator.horizon.max_units
        for _ in range(min(rounds, 12)):
            if allocator.ledger.finished:
                break
            offered = random_offer(rng, m)
            size = m if offered is None else offered.size
            before, exposure = allocator.remaining_budget, allocator.exposure
            totals = feasible_units(size, min_units, max_units, round_cap(allocator, size))
            total = int(rng.choice(totals))
            gaps = sorted(set(range(totals[-1] + 1)) - set(totals))
            if gaps:
                refused += 1
                with pytest.raises(ValueError, match=r"budget must be a (sum of counts from|multiple of)"):
                    allocator.allocate(offered, budget=g * int(rng.choice(gaps)), exact=True)
            counts = allocator.allocate(offered, budget=g * total, exact=True)
            calls += 1
            assert counts.dtype == np.int64
            assert counts.sum() == g * total, (seed, counts, total)
            assert (counts % g == 0).all()
            units = counts // g
            assert ((units == 0) | ((units >= min_units) & (units <= max_units) & (units >= 1))).all(), (seed, units)
            assert allocator.remaining_budget == before - g * total
            exposure[slice(None) if offered is None else offered] += counts
            assert (allocator.exposure == exposure).all()
            allocator.update(offered, rng.binomial(counts, rng.random(size)), counts)
    assert calls >= 10_000 * runs // 3000
    assert refused >= 500 * runs // 3000


# ---------------------------------------------------------------- the group signal


def expected_group(a, b, n):
    """Expected number of groups of n rollouts with both successes and failures."""
    if n == 0:
        return 0.0
    both = [1.0, 1.0]
    for k in range(n):
        both[0] *= (a + k) / (a + b + k)
        both[1] *= (b + k) / (a + b + k)
    return 1.0 - sum(both)


def test_group_signal_maximises_the_expected_mixed_groups():
    for seed in range(either(250, 50)):
        rng = np.random.default_rng(seed)
        m, max_units, g = int(rng.integers(1, 5)), int(rng.integers(1, 6)), int(rng.choice([1, 1, 1, 2, 3]))
        min_units = int(rng.integers(0, min(3, max_units) + 1))
        bank = learnt_bank(rng, m)
        if seed % 4 == 0:  # prompts that look alike
            bank = BetaPosteriorBank(m, prior=(0.7, 1.9))
        a, b = bank.alpha, bank.beta
        total = int(rng.choice(feasible_units(m, min_units, max_units, m * max_units)))
        allocator = ResolvingAllocator(
            bank, total_budget=g * m * max_units, visits=1, unit_size=g, min_rollouts=g * min_units, max_rollouts=g * max_units,
            signal="group", seed=seed,
        )  # fmt: skip
        counts = allocator.allocate(budget=g * total, exact=True)
        choices = [0, *range(max(1, min_units), max_units + 1)]
        worth = [[expected_group(a[i], b[i], g * n) for n in range(max_units + 1)] for i in range(m)]
        best = max(
            sum(worth[i][n] for i, n in enumerate(plan))
            for plan in itertools.product(choices, repeat=m)
            if sum(plan) == total
        )
        assert sum(worth[i][n] for i, n in enumerate(counts // g)) == pytest.approx(best, rel=1e-9, abs=1e-12), seed


def test_group_signal_never_deals_a_lone_rollout_below_a_cap():
    # Exact totals may have to, and a pace: where seven prompts are full, the last rollout has no gain.
    for seed in range(either(200, 40)):
        rng = np.random.default_rng(seed)
        m = int(rng.integers(2, 15))
        allocator = ResolvingAllocator(
            learnt_bank(rng, m), total_budget=m * 8 * 4, n_rounds=8, max_rollouts=8, signal="group", seed=seed
        )
        for _ in range(8):
            offered = rng.permutation(m)[: int(rng.integers(1, m + 1))]
            counts = allocator.allocate(offered, budget=int(rng.integers(1, 8 * m)))
            assert not (counts == 1).any(), (seed, counts)
            allocator.update(offered, rng.binomial(counts, 0.4), counts)


@pytest.mark.parametrize("rates", [[0.5] * 3, [0.0] * 3, [0.0, 0.5, 1.0]])
@pytest.mark.parametrize("horizon", [{"visits": 2}, {"n_rounds": 2}])
@pytest.mark.parametrize("costs", [None, 2.0, [2.0, 2.0, 2.0]])
def test_a_worthless_rollout_is_dealt_only_where_the_total_asks_for_it(rates, horizon, costs):
    unit = 1 if costs is None else 2
    allocator = ResolvingAllocator(
        known(rates), total_budget=3 * 2 * 8 * unit, max_rollouts=8, signal="group", costs=costs, **horizon
    )
    assert allocator.allocate(budget=unit).sum() == 0
    assert allocator.price == 0.0  # the budget covers everything: rollouts are free
    if np.ndim(costs) == 0:
        assert copy.deepcopy(allocator).allocate(budget=unit, exact=True).sum() == 1
    assert allocator.allocate().sum() == 24  # the pace


@pytest.mark.parametrize("signal", ["variance", "group"])
def test_exploration_shifts_rollouts_to_uncertain_prompts(signal):
    shares = []
    for exploration in (0.0, 1.0):
        bank = BetaPosteriorBank(20)
        bank.update(range(10), np.full(10, 45), np.full(10, 400))
        bank.update(range(10, 20), np.full(10, 0.225), np.full(10, 2))
        allocator = ResolvingAllocator(
            bank, total_budget=20 * 8 * 4, visits=4, max_rollouts=32, signal=signal, exploration=exploration,
            utility=SaturatingUtility(scaling="height"),
        )  # fmt: skip
        counts = allocator.allocate(budget=160, exact=True)
        shares.append(counts[10:].sum() / counts.sum())
    assert shares[0] < shares[1]


# ---------------------------------------------------------------- the certificate


def test_certificate_is_about_0_for_known_values_in_the_full_pool():
    for (shape, scaling), seed in itertools.product(KINDS, range(3)):
        rng = np.random.default_rng(seed)
        allocator = ResolvingAllocator(
            known(rng.beta(0.8, 0.8, 40)), total_budget=40 * 200, n_rounds=8, max_rollouts=64,
            utility=SaturatingUtility(shape, scaling=scaling),
        )  # fmt: skip
        for _ in range(8):
            allocator.allocate()
        metrics = allocator.metrics()
        assert metrics["certificate_regret"] >= 0
        assert metrics["certificate_regret"] <= 1e-3 * metrics["certificate_optimum"]


def test_certificate_in_tokens_equals_a_hand_made_one():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        m, g = 15, int(rng.choice([1, 2]))
        costs = rng.integers(1, 50, m).astype(float)
        shape, scaling = KINDS[seed % len(KINDS)]
        allocator = ResolvingAllocator(
            learnt_bank(rng, m), total_budget=float(costs.sum()) * 5 * 3 * g, costs=costs, visits=5, unit_size=g,
            max_rollouts=8 * g, utility=SaturatingUtility(shape, scaling=scaling),
        )  # fmt: skip
        offers = np.zeros(m)
        for _ in range(4):
            offer = random_offer(rng, m)
            counts = allocator.allocate(offer)
            offers[slice(None) if offer is None else offer] += 1
            allocator.update(offer, rng.random(counts.size) * counts, counts)
        metrics, q, z = allocator.metrics(), allocator.bank.value(), allocator.exposure
        share = allocator.horizon.equal_share_units * g  # rollouts
        result = OfflineOracle(allocator.utility).solve(
            q, float((costs * z).sum()), equal_share=costs * share, upper=costs * offers * 8 * g
        )
        achieved = allocator.utility.value(q, z / share).sum()
        assert metrics["certificate_achieved"] == pytest.approx(achieved / m, rel=1e-12)
        assert metrics["certificate_optimum"] == pytest.approx(result.optimum / m, rel=1e-9)
        assert metrics["certificate_regret"] == pytest.approx((result.optimum - achieved) / m, abs=1e-12)
        assert metrics["certificate_regret"] >= 0


def test_a_plan_counts_on_no_more_visits_than_it_has_groups_for():
    # 64 rounds offer every prompt, but the budget holds 8 groups of 8 for each: the plan is that of v = 8 visits, which
    # front_load = 9 makes of 64 by itself.
    rng = np.random.default_rng(0)
    bank = BetaPosteriorBank(40, prior=(rng.uniform(0.5, 9.0, 40), rng.uniform(0.5, 9.0, 40)))
    run = {"total_budget": 64 * 40, "n_rounds": 64, "max_rollouts": 32, "seed": 1}
    planned = ResolvingAllocator(bank, min_rollouts=8, **run)
    loaded = ResolvingAllocator(bank, min_rollouts=8, front_load=9.0, **run)
    assert planned.allocate().tolist() == loaded.allocate().tolist()
    # Single units are not groups: there is a visit for each.
    assert ResolvingAllocator(bank, **run)._plan.spread_over(np.array([64.0]), None).tolist() == [64.0]
    assert ResolvingAllocator(bank, min_rollouts=32, **run)._plan.spread_over(np.array([64.0, 1.0]), None).tolist() == [
        2.0,
        1.0,
    ]
    costly = ResolvingAllocator(bank, min_rollouts=8, costs=10.0, **{**run, "total_budget": 640 * 40})
    assert costly._plan.spread_over(np.array([64.0]), None).tolist() == [8.0]
    tokens = ResolvingAllocator(bank, min_rollouts=8, costs=np.full(40, 10.0), **{**run, "total_budget": 640 * 40})
    assert tokens._plan.spread_over(np.array([64.0]), None).tolist() == [8.0]
