"""DUET: the rule at a price, spread against cost, and budgets in tokens."""

import math

import numpy as np
import pytest

import twins
from cero_alloc import BetaPosteriorBank
from cero_alloc.baselines import DUET
from helpers.one_round import (
    GROUPS,
    RUN,
    bank_of,
    evidence,
    one_round,
)


def spread_of(successes, rollouts):
    a, b = 1 + successes, 1 + rollouts - successes
    return np.sqrt(a * b / ((a + b) * (a + b + 1)))


def prices_around(spread, cost, total, max_units):
    """The adjacent prices at which the published counts cost at least, and at most, the total."""
    low, high = 1e-30, 1e30
    while low < math.sqrt(low * high) < high:
        price = math.sqrt(low * high)
        counts = twins.duet(spread, cost, price, max_units)
        low, high = (price, high) if np.dot(counts, cost) > total else (low, price)
    return low, high


@GROUPS
def test_duet_of_unit_costs_is_the_rule_at_a_price_up_to_ties(g):
    ties = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        size, max_units = int(rng.integers(1, 12)), int(rng.integers(1, 33))
        successes, rollouts = evidence(rng, size, 1, 4 if rng.random() < 0.5 else 500)
        total = int(rng.integers(size, size * max_units + 1))
        counts = one_round(DUET, bank_of(successes, rollouts), total * g, g, max_units * g, rollouts_per_visit=g)
        spread = spread_of(successes, rollouts).tolist()
        low, high = prices_around(spread, [1.0] * size, total, max_units)
        least, most = (
            twins.duet(spread, [1.0] * size, high, max_units),
            twins.duet(spread, [1.0] * size, low, max_units),
        )
        units = counts // g
        assert sum(least) <= total
        assert all(a <= n <= max(b, a) for a, n, b in zip(least, units, most, strict=True)), seed
        ties += sum(least) != total
    assert ties > 20


def duet_round(seed):
    rng = np.random.default_rng(seed)
    size, max_units = int(rng.integers(2, 12)), int(rng.integers(1, 33))
    successes, rollouts = evidence(rng, size, 1, 200)
    costs = rng.integers(50, 2000, size).astype(float)
    if seed % 3 == 0:
        costs = costs / 7 + 1  # no whole tokens
    total = float(rng.integers(int(costs.sum()) + 1, int(costs.sum() * max_units) + 1 + max_units))
    return successes, rollouts, costs, min(total, float(costs.sum() * max_units)), max_units


def test_duet_fills_a_token_budget():
    exact = 0
    for seed in range(400):
        successes, rollouts, costs, total, max_units = duet_round(seed)
        policy = DUET(
            bank_of(successes, rollouts), costs=costs, total_budget=total, n_rounds=1, max_rollouts=max_units,
            rollouts_per_visit=1,
        )  # fmt: skip
        counts = policy.allocate()
        spent = float(counts @ costs)
        assert spent <= total * (1 + 1e-12)
        assert policy.remaining_budget == pytest.approx(total - spent, abs=1e-6)
        assert counts.max() <= max_units
        taking = (counts > 0) & (counts < max_units)
        if taking.any():
            assert total - spent < costs[taking].min() + 1 + 1e-6  # a fraction of a token is not dealt
        if (counts == 0).any():
            continue
        # Near the rule at its price: the counts at the price that underspends, and a few of the next units.
        low, high = prices_around(spread_of(successes, rollouts).tolist(), costs.tolist(), total, max_units)
        del low
        least = np.array(twins.duet(spread_of(successes, rollouts).tolist(), costs.tolist(), high, max_units))
        assert (counts >= least).all(), seed
        assert (counts - least) @ costs <= costs.max() + 1e-6
        exact += 1
    assert exact > 100


def test_duet_weighs_spread_against_cost():
    # n = s / sqrt(lambda L): a quarter of the cost, twice the count; twice the spread, twice the count.
    policy = DUET(BetaPosteriorBank(2), costs=[100, 400], total_budget=4800, n_rounds=1, max_rollouts=32)
    assert policy.allocate().tolist() == [16, 8]
    bank = BetaPosteriorBank(2, prior=([5e8, 1e9 * (0.5 - math.sqrt(0.1875))], [5e8, 1e9 * (0.5 + math.sqrt(0.1875))]))
    policy = DUET(bank, costs=[100, 100], total_budget=2400, n_rounds=1, max_rollouts=32, rollouts_per_visit=1)
    assert policy.allocate().tolist() == [16, 8]


@pytest.mark.parametrize("case", ["one cost", "equal costs", "costs"])
def test_duet_paces_tokens_over_many_rounds(case):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        size, rounds, max_units = int(rng.integers(2, 20)), int(rng.integers(2, 30)), int(rng.integers(2, 20))
        costs = rng.uniform(50, 800, size)
        given = {"one cost": 250.0, "equal costs": np.full(size, 250.0), "costs": costs}[case]
        price = np.broadcast_to(given, size)
        total = float(rng.uniform(0.05, 0.9) * rounds * max_units * price.sum()) + float(price.max())
        total = min(total, rounds * max_units * float(price.sum()))
        policy = DUET(BetaPosteriorBank(size), costs=given, total_budget=total, n_rounds=rounds, max_rollouts=max_units)
        spent = 0.0
        for k in range(1, rounds + 1):
            counts = policy.allocate()
            assert counts.max() <= max_units
            spent += float(counts @ price)
            assert spent <= total * k / rounds * (1 + 1e-12)
            assert policy.remaining_budget == pytest.approx(total - spent, abs=1e-6)
            policy.update(None, rng.random(size) * counts, counts)
        assert not policy.allocate().any()


def test_duet_of_one_prompt_with_a_cost():
    policy = DUET(BetaPosteriorBank(1), costs=[100], total_budget=4850, n_rounds=2, max_rollouts=32)
    assert policy.allocate().tolist() == [24]
    assert policy.allocate().tolist() == [24]
    assert policy.remaining_budget == 50
    exact = DUET(BetaPosteriorBank(1), costs=100, total_budget=4800, n_rounds=2, max_rollouts=32)
    assert exact.allocate(budget=3200, exact=True).tolist() == [32]


def test_duet_keeps_a_round_within_its_token_budget():
    rng = np.random.default_rng(0)
    costs = rng.uniform(50, 800, 30)
    policy = DUET(BetaPosteriorBank(30), costs=costs, total_budget=300_000, n_rounds=40, max_rollouts=16)
    for _ in range(40):
        offered = rng.permutation(30)[: rng.integers(1, 31)]
        budget = float(rng.uniform(0, 12_000))
        counts = policy.allocate(offered, budget=budget)
        assert counts @ costs[offered] <= budget * (1 + 1e-12)


# Reported faults of the rule, each smallest case.


def test_duet_passes_over_a_prompt_that_costs_more_than_a_round():
    for seed in range(4):
        policy = DUET(
            BetaPosteriorBank(3), costs=[1000, 10, 10], total_budget=5000, n_rounds=10, max_rollouts=16, seed=seed
        )
        dealt = [int(policy.allocate(budget=500).sum()) for _ in range(10)]
        assert min(dealt) > 0, seed


def test_duet_fills_a_round_whose_batch_is_at_its_caps():
    for seed in range(4):
        costs = np.array([100.0, 900.0])
        policy = DUET(BetaPosteriorBank(2), costs=costs, total_budget=1500, n_rounds=1, max_rollouts=4, seed=seed)
        counts = policy.allocate()
        open_costs = costs[counts < 4]
        assert policy.remaining_budget < open_costs.min(), (seed, counts.tolist())


def test_duet_keeps_to_the_round_capacity_in_tokens():
    policy = DUET(
        BetaPosteriorBank(2), costs=[100, 400], total_budget=4800, n_rounds=2, max_rollouts=32, round_capacity=2400
    )
    assert policy.allocate(budget=4800) @ [100, 400] <= 2400


@pytest.mark.parametrize("unit", [1e-4, 1e-2, 0.1, 1.0])
def test_duet_is_independent_of_the_unit_of_cost(unit):
    policy = DUET(
        BetaPosteriorBank(2), costs=[100 * unit, 400 * unit], total_budget=4850 * unit, n_rounds=1, max_rollouts=32
    )
    assert policy.allocate().tolist() == [16, 8]


def test_duet_checks_the_unit_size():
    for unit_size, error in [(2.5, TypeError), ("2", TypeError), (True, TypeError), (0, ValueError)]:
        with pytest.raises(error, match="unit_size must be"):
            DUET(BetaPosteriorBank(2), costs=[1, 2], **{**RUN, "unit_size": unit_size})


def test_duet_checks_rounds_and_capacity():
    for n_rounds, error in [(0, ValueError), (None, TypeError)]:
        with pytest.raises(error, match="n_rounds must be"):
            DUET(BetaPosteriorBank(2), costs=[1, 2], **{**RUN, "n_rounds": n_rounds})
    for capacity, error in [("x", TypeError), (math.nan, (TypeError, ValueError)), (-5, ValueError)]:
        with pytest.raises(error, match="round_capacity must be"):
            DUET(BetaPosteriorBank(2), costs=[1, 2], round_capacity=capacity, **RUN)
