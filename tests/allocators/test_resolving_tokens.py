"""ResolvingAllocator with costs: budgets and caps in tokens."""

import math

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank, ResolvingAllocator, SaturatingUtility
from helpers.jit import either
from helpers.resolving import KINDS, even_batches, feasible_units, known, learnt_bank, random_offer


def token_run(rng, fractional):
    """A random allocator with costs, its costs per rollout, and the most that a round may spend."""
    m, rounds, max_units = int(rng.integers(1, 10)), int(rng.integers(1, 7)), int(rng.integers(1, 10))
    g, scalar = int(rng.choice([1, 1, 2, 4])), rng.random() < 0.3
    size = 1 if scalar else m
    costs = rng.lognormal(3, 0.8, size) if fractional else rng.integers(1, 200, size).astype(float)
    kwargs = {"n_rounds": rounds} if rng.random() < 0.5 else {"visits": rng.integers(1, rounds + 1, m)}
    offers = kwargs.get("visits", np.full(m, rounds))
    most = float((costs * offers).sum()) * max_units * g
    total = float(rng.uniform(0.3, 0.99)) * most
    total = max(total if fractional else math.floor(total), g * float(costs.max()))
    if rng.random() < 0.3 and "n_rounds" in kwargs:
        kwargs["round_capacity"] = max(total / rounds * float(rng.uniform(1.0, 2.0)), g * float(costs.max()))
    shape, scaling = KINDS[int(rng.integers(len(KINDS)))]
    allocator = ResolvingAllocator(
        learnt_bank(rng, m), total_budget=total, costs=float(costs[0]) if scalar else costs, unit_size=g,
        min_rollouts=g * min(max_units, int(rng.choice([0, 1, 2]))), max_rollouts=g * max_units,
        utility=SaturatingUtility(shape, scaling=scaling), signal=str(rng.choice(["variance", "group"])),
        band=float(rng.choice([0.1, 0.25, 1.0])), seed=int(rng.integers(2**31)), **kwargs,
    )  # fmt: skip
    return allocator, np.broadcast_to(costs, m), total, kwargs.get("round_capacity", np.inf), m


@pytest.mark.parametrize("fractional", [False, True])
def test_token_caps_are_never_exceeded(fractional):
    calls, leeway, runs = 0, 1 + 1e-9 * fractional, either(700, 100)
    for seed in range(runs):
        rng = np.random.default_rng([seed, fractional])
        allocator, costs, total, capacity, m = token_run(rng, fractional)
        h, min_units, spent = allocator.horizon, allocator._pacing.min_units, 0.0
        for _ in range(min(8, h.n_rounds)):
            offered = random_offer(rng, m)
            mine = costs if offered is None else costs[offered]
            budget = None if rng.random() < 0.5 else float(rng.random() * mine.sum() * h.max_rollouts)
            if rng.random() < 0.05:
                budget = 0
            counts = allocator.allocate(offered, budget)
            calls += 1
            tokens = float((mine * counts).sum())
            assert tokens <= min(np.inf if budget is None else budget, capacity) * leeway, seed
            units = counts // h.unit_size
            assert (counts % h.unit_size == 0).all()
            assert ((units == 0) | ((units >= max(1, min_units)) & (units <= h.max_units))).all(), seed
            spent += tokens
            assert spent <= total * leeway, seed
            assert allocator.remaining_budget == pytest.approx(
                total - spent, rel=1e-9 * fractional, abs=1e-9 * total * fractional
            )
            assert allocator.remaining_budget >= -1e-9 * total * fractional
            allocator.update(offered, rng.random(mine.size) * counts, counts)
    assert calls >= 2000 * runs // 700


def test_scalar_costs_spend_exact_tokens():
    for seed in range(either(300, 50)):
        rng = np.random.default_rng(seed)
        m, max_units, g = int(rng.integers(1, 9)), int(rng.integers(2, 9)), int(rng.choice([1, 2]))
        cost = float(rng.choice([0.25, 3.0, 7.5, 120.0]))
        allocator = ResolvingAllocator(
            learnt_bank(rng, m), total_budget=cost * g * m * max_units * 2, costs=cost, visits=3, unit_size=g,
            min_rollouts=2 * g, max_rollouts=max_units * g,
        )  # fmt: skip
        for _ in range(3):
            cap = min(m * max_units, int(allocator.remaining_budget / (cost * g)))
            total = cost * g * int(rng.choice(feasible_units(m, 2, max_units, cap)))
            before = allocator.remaining_budget
            if not allocator.ledger.finished:
                assert cost * allocator.allocate(budget=total, exact=True).sum() == total
                assert allocator.remaining_budget == before - total


def in_units_and_tokens(seed, cost, told, min_rollouts, signal):
    """The same run without costs and with one cost for all: counts and final state of both."""
    rng = np.random.default_rng([seed, len(told)])
    m, epochs, max_units, g = int(rng.integers(2, 16)), int(rng.integers(2, 6)), int(rng.integers(2, 17)), 1 + seed % 2
    rates, size, runs = rng.beta(0.6, 0.6, m), -(-m // 2), []
    offers = [None] * epochs if told.startswith("full") else even_batches(rng, m, size, epochs)
    if told == "streaming":
        offers = [rng.permutation(m)[:size] for _ in range(2 * epochs)]
    most = max_units * sum(m if offer is None else offer.size for offer in offers)
    total = g * int(rng.integers(max(1, most // 8), 9 * most // 10 + 1))
    band, capacity = float(rng.choice([0.0, 0.1, 0.25, 1.0, np.inf])), g * (3 * total // (2 * g * len(offers)) + 1)
    horizon = {} if told.endswith("visits") else {"n_rounds": len(offers)}
    if told.endswith(("visits", "both")):
        horizon["visits"] = epochs
    budgets = [
        int(rng.integers(0, m * max_units * g)) if seed % 4 == 1 and rng.random() < 0.4 else None for _ in offers
    ]
    for unit, costs in ((1, None), (cost, cost)):
        rewards = np.random.default_rng(seed)
        allocator = ResolvingAllocator(
            BetaPosteriorBank(m), total_budget=total * unit, costs=costs, unit_size=g, band=band, signal=signal,
            min_rollouts=g * min_rollouts, max_rollouts=g * max_units, seed=seed,
            round_capacity=capacity * unit if seed % 3 == 0 else None, **horizon,
        )  # fmt: skip
        dealt = []
        for k, (offer, budget) in enumerate(zip(offers, budgets, strict=True)):
            exact = seed % 4 == 3 and k % 3 == 1 and min_rollouts == 0 and not allocator.ledger.finished
            if exact:
                room = round(allocator.remaining_budget / (g * unit))
                budget = g * min(7, max_units, room, capacity // g if seed % 3 == 0 else room)
            counts = allocator.allocate(offer, None if budget is None else budget * unit, exact=exact)
            p = rates if offer is None else rates[offer]
            allocator.update(offer, rewards.binomial(counts, p), counts)
            dealt.append(counts.tolist())
        metrics = allocator.metrics()
        state = [metrics[key] for key in ("price", "batch_price", "starved")]
        tokens = [metrics[key] / unit for key in ("remaining_budget", "pacing_gap")]
        runs.append((dealt, state, tokens, allocator.horizon.total_budget))
    return runs


@pytest.mark.parametrize("told", ["full, rounds", "full, visits", "batches, visits", "batches, both", "streaming"])
@pytest.mark.parametrize("min_rollouts", [0, 2])
@pytest.mark.parametrize("signal", ["variance", "group"])
def test_one_cost_for_all_changes_only_the_unit(told, min_rollouts, signal):
    for seed in range(24):
        cost = [0.25, 3.0, 8.0, 120.0][seed % 4]
        plain, costly = in_units_and_tokens(seed, cost, told, min_rollouts, signal)
        assert costly[0] == plain[0], seed
        assert costly[1] == pytest.approx(plain[1], rel=1e-12), seed
        assert costly[2] == pytest.approx(plain[2], rel=1e-12, abs=1e-9), seed
        assert costly[3] == plain[3], seed


@pytest.mark.parametrize("told", ["full, rounds", "full, visits", "batches, visits", "streaming"])
@pytest.mark.parametrize("cost", [0.1, 0.7, 1 / 3])
def test_one_cost_that_no_float_is_strands_no_rollout(told, cost):
    for seed in (0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22):
        plain, costly = in_units_and_tokens(seed, cost, told, 0, "variance")
        assert costly[3] == plain[3], seed  # the rollouts that the tokens buy
        assert costly[2][0] == pytest.approx(plain[2][0], abs=1e-6), seed


@pytest.mark.parametrize("signal", ["variance", "group"])
def test_equal_costs_are_worth_as_much_as_none(signal):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        rates, worth, prices = rng.beta(0.6, 0.6, 30), [], []
        for costs in (None, 5.0, np.full(30, 5.0)):
            allocator = ResolvingAllocator(
                known(rates), total_budget=30 * 40 * (1 if costs is None else 5.0), costs=costs, visits=5,
                max_rollouts=32, signal=signal,
            )  # fmt: skip
            dealt = np.array([allocator.allocate() for _ in range(5)])
            prices.append(allocator.price)
            assert allocator.remaining_budget == 0
            if signal == "variance":
                worth.append(allocator.utility.value(allocator.bank.value(), dealt.sum(0) / 40).sum())
            else:
                worth.append((1 - rates**dealt - (1 - rates) ** dealt).sum())
        assert worth[1:] == pytest.approx([worth[0]] * 2, rel=1e-3)
        assert prices[0] > 0
        assert prices[1:] == pytest.approx([prices[0]] * 2, rel=0.1)


@pytest.mark.parametrize(("shape", "scaling"), KINDS)
@pytest.mark.parametrize("horizon", [{"n_rounds": 8}, {"visits": 8}])
def test_a_dearer_prompt_gets_less(shape, scaling, horizon):
    costs = np.where(np.arange(20) < 10, 100.0, 200.0)
    allocator = ResolvingAllocator(
        known(np.full(20, 0.3)), total_budget=float(costs.sum()) * 8 * 8, costs=costs, max_rollouts=64,
        utility=SaturatingUtility(shape, scaling=scaling, saturation=0.5), **horizon,
    )  # fmt: skip
    for _ in range(8):
        allocator.allocate()
    assert allocator.exposure[10:].mean() < allocator.exposure[:10].mean()
    assert allocator.exposure[10:].sum() < allocator.exposure[:10].sum()


def test_a_prompt_of_the_group_signal_that_costs_more_gets_less():
    costs = np.where(np.arange(20) < 10, 100.0, 200.0)
    allocator = ResolvingAllocator(
        known(np.full(20, 0.3)), total_budget=float(costs.sum()) * 8, costs=costs, visits=1, max_rollouts=64,
        signal="group",
    )  # fmt: skip
    counts = allocator.allocate()
    assert counts[10:].max() < counts[:10].min()


@pytest.mark.parametrize("horizon", ["rounds", "visits", "streaming"])
@pytest.mark.parametrize("min_rollouts", [0, 2])
def test_paced_tokens_leave_less_than_the_dearest_block(horizon, min_rollouts):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        m, rounds = 40, 10
        costs, rates = rng.integers(20, 400, m).astype(float), rng.beta(0.6, 0.6, m)
        total = float(math.floor(costs.sum() * rounds * 4))
        told = {"visits": rounds} if horizon == "visits" else {"n_rounds": rounds * (2 if horizon != "rounds" else 1)}
        allocator = ResolvingAllocator(
            BetaPosteriorBank(m), total_budget=total, costs=costs, min_rollouts=min_rollouts, max_rollouts=16, **told
        )
        for _ in range(rounds):
            perm = rng.permutation(m)
            for offer in [None] if horizon == "rounds" else [perm[:20], perm[20:]]:
                counts = allocator.allocate(offer)
                p = rates if offer is None else rates[offer]
                allocator.update(offer, rng.binomial(counts, p), counts)
        assert allocator.remaining_budget < costs.max() * max(1, min_rollouts), seed
