"""Baselines in tokens: pace, caps, and DUET with one cost for all prompts."""

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank
from cero_alloc.baselines import (
    DUET,
)
from helpers.peers import World, feasible, seeds


@settings(max_examples=60)
@seeds
def test_tokens_stay_within_pace_and_caps_and_waste_little(seed):
    """What a round leaves of its limit is less than one more rollout of any prompt on offer that may still have one."""
    world = World("DUET, costs", seed)
    if np.ptp(world.tokens) == 0.0 and world.m == 1:
        return
    total, rng = world.kwargs["total_budget"], np.random.default_rng(seed)
    world.capacity = None if rng.random() < 0.3 else total / world.rounds * float(rng.uniform(1.0 + 1e-9, 1.5))
    world.kwargs["round_capacity"] = world.capacity  # binds once caps have kept earlier rounds short
    caps = [
        None if rng.random() < 0.5 else float(rng.random() * 2.0 * total / world.rounds) for _ in range(world.rounds)
    ]
    world.offers = [(None, cap) for cap in caps]
    spent, k, cost = 0.0, 0, world.tokens * world.g
    for method, (_, cap, *_), by_row in world.play(world.new()):
        if method != "allocate":
            continue
        k += 1
        pace = (total - spent) / (world.rounds - k + 1)
        limit = min(pace, inf if cap is None else cap, inf if world.capacity is None else world.capacity)
        used = float(world.tokens @ by_row)
        assert used <= limit + 1e-6
        open_ones = by_row < world.max_rollouts
        if open_ones.any():
            assert limit - used < cost[open_ones].min() + 1e-6
        spent += used
    assert k == world.rounds


@seeds
def test_tokens_on_batches_stay_within_the_caps_of_each(seed):
    world = World("DUET, costs", seed)
    spent, k = 0.0, -1
    for method, (rows, *_), by_row in world.play(world.new()):
        if method != "allocate":
            continue
        k += 1
        cap, counts = world.offers[k][1], np.maximum(by_row, 0)
        used = float(world.tokens @ counts)
        spent += used
        offered = np.arange(world.m) if rows is None else np.array(rows, dtype=np.int64)
        assert not np.delete(counts, offered).any()
        assert used <= min(inf if cap is None else cap, inf if world.capacity is None else world.capacity) + 1e-6
        assert spent <= world.kwargs["total_budget"] + 1e-6


def token_run(**change):
    run = {"total_budget": 1000, "n_rounds": 10, "max_rollouts": 64, "costs": [1.0, 2.0]} | change
    return DUET(BetaPosteriorBank(2), **run)


def test_a_round_of_tokens_keeps_to_its_caps():
    policy = token_run(round_capacity=120)
    policy.allocate(budget=150)
    assert policy.ledger.dealt <= 120


def test_a_cap_in_tokens_does_not_lift_the_pace():
    policy = token_run()
    policy.allocate(budget=150)
    assert policy.ledger.dealt <= 100  # as everywhere: the schedule's 100, unless the cap is less


@pytest.mark.parametrize("capacity", [45.0, 60.0, 1000.0])
def test_a_round_capacity_in_tokens_caps_every_round(capacity):
    policy = token_run(round_capacity=max(capacity, 100.0), total_budget=400)
    policy.allocate()
    assert policy.ledger.dealt == 40  # the pace is less
    tight = token_run(round_capacity=capacity, total_budget=min(400, 10 * capacity))
    for k in range(1, 11):
        tight.allocate()
        assert tight.ledger.dealt <= k * min(40, capacity)
    assert tight.ledger.dealt > 10 * min(40, capacity) - 2


@pytest.mark.parametrize("costs", [None, 3.0, [1.0, 2.0]])
def test_nothing_on_offer_is_a_round_of_nothing(costs):
    policy = token_run(costs=costs, total_budget=300)
    for offer in ([], (), iter(())):
        counts = policy.allocate(offer)
        assert counts.dtype == np.int64
        assert counts.shape == (0,)
    assert policy.ledger.round == 3
    assert policy.remaining_budget == 300
    assert policy.allocate().any()


def test_a_dear_prompt_does_not_keep_the_others_waiting():
    """It costs more than a round has; the cheap ones beside it could fill the round's 40 tokens twice over."""
    policy = DUET(BetaPosteriorBank(12), costs=[1.0] * 11 + [97.0], total_budget=400, n_rounds=10, max_rollouts=8)
    for k in range(1, 11):
        counts = policy.allocate()
        assert counts[:11].sum() == 40
        assert counts[11] == 0
        assert policy.ledger.dealt == 40 * k


def test_a_prompt_passed_over_once_is_dealt_to_when_it_can_be_paid():
    """Rounds of 40 tokens never pay the 97; what caps left over does."""
    policy = DUET(BetaPosteriorBank(3), costs=[1.0, 1.0, 97.0], total_budget=400, n_rounds=10, max_rollouts=8)
    assert policy.allocate().tolist() == [8, 8, 0]
    for _ in range(8):
        policy.allocate(budget=0)
    assert policy.remaining_budget == 384
    assert policy.allocate().tolist() == [8, 8, 3]  # 3 x 97 + 16 of 384


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), cost=st.sampled_from([3.0, 250.0, 0.5, 1.0]))
def test_one_cost_for_all_is_a_run_in_rollouts(seed, cost):
    """The same counts round by round, batches, caps, capacity, exact totals and all; the account is in tokens."""
    world = World("DUET", seed)
    kwargs = world.kwargs | {"total_budget": world.kwargs["total_budget"] * cost}
    if world.capacity is not None:
        kwargs["round_capacity"] = world.capacity * cost
    plain, priced = (
        world.new(),
        DUET(BetaPosteriorBank(world.m, prior=world.prior, forgetting=world.forgetting), costs=cost, **kwargs),
    )
    assert priced.ledger.costs.unit_costs is None
    for k, (rows, cap) in enumerate(world.offers):
        size = world.m if rows is None else rows.size
        most = min(size * world.max_rollouts, plain.ledger.units_left * world.g, world.capacity or 10**9) // world.g
        exact = k % 3 == 2 and not plain.ledger.finished
        if exact:
            cap = int(world.rng.integers(0, most + 1)) * world.g
            while not feasible(cap // world.g, world, size):
                cap -= world.g
        counts = plain.allocate(rows, cap, exact=exact)
        theirs = priced.allocate(rows, None if cap is None else cap * cost, exact=exact)
        assert theirs.tolist() == counts.tolist()
        assert not exact or counts.sum() == cap
        assert priced.remaining_budget == plain.remaining_budget * cost
        assert priced.ledger.dealt == plain.ledger.dealt * cost
        named = np.arange(world.m) if rows is None else rows
        n, won = world.rewards(k, 0, named, counts)
        for policy in (plain, priced):
            policy.update(named, won, n)
        if k == 1:
            back = counts // world.g // 2 * world.g * (n == 0)
            for policy in (plain, priced):
                policy.refund(named, back)


def test_exact_totals_of_one_cost_are_in_tokens():
    policy = token_run(costs=3.0, unit_size=2, total_budget=960, max_rollouts=16)
    for total, why in [
        (7, "a multiple of 6 tokens up to 96"), (3, "a multiple of 6 tokens up to 96"), (102, "a multiple of 6 tokens up to 96"),
    ]:  # fmt: skip
        match = (
            rf"budget must be {why} with exact=True, got budget = {total}\.0\. Pass it as a cap, without exact=True\."
        )
        with pytest.raises(ValueError, match=match):
            policy.allocate(budget=total, exact=True)
    with pytest.raises(ValueError, match="budget must be given with exact=True, got budget = None"):
        policy.allocate(exact=True)
    assert policy.ledger.round == 0
    assert policy.allocate(budget=66, exact=True).sum() == 22
    assert policy.remaining_budget == 960 - 66
    assert policy.allocate(budget=65).sum() == 20  # a cap is rounded down to whole groups
    assert policy.allocate(budget=5).sum() == 0
    assert policy.remaining_budget == 960 - 66 - 60


def test_caps_of_one_cost_do_not_lift_the_pace():
    policy = token_run(costs=2.0, total_budget=200)
    assert policy.allocate(budget=200).sum() * 2 == 20
    assert policy.allocate(budget=8).sum() * 2 == 8
    assert policy.allocate().sum() * 2 == 32  # the schedule's 60 after three rounds
    capped = token_run(costs=2.0, total_budget=200, round_capacity=21)
    assert [int(capped.allocate(budget=100).sum()) for _ in range(10)] == [10] * 10


@pytest.mark.parametrize("costs", [3.0, [1.0, 2.0]])
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"n_rounds": 0}, ValueError, r"n_rounds must be at least 1, got n_rounds = 0\."),
        ({"n_rounds": 2.5}, TypeError, r"n_rounds must be an integer, got n_rounds = 2\.5"),
        ({"n_rounds": None}, TypeError, r"n_rounds must be an integer, got n_rounds = None"),
        ({"unit_size": 0}, ValueError, r"unit_size must be at least 1, got unit_size = 0\."),
        ({"unit_size": True}, TypeError, r"unit_size must be an integer, got unit_size = True"),
        ({"unit_size": 3}, ValueError, r"max_rollouts must be a multiple of unit_size = 3, got max_rollouts = 64"),
        ({"max_rollouts": 0}, ValueError, "max_rollouts must be at least 1"),
        ({"round_capacity": -5.0}, ValueError, r"round_capacity must be finite and at least 0, got round_capacity = -5\.0"),
        ({"round_capacity": "x"}, TypeError, r"round_capacity must be finite and at least 0, got round_capacity = 'x'"),
        ({"round_capacity": inf}, ValueError, r"round_capacity must be finite and at least 0, got round_capacity = inf"),
    ],
)  # fmt: skip
def test_token_runs_check_what_all_runs_check(costs, change, error, match):
    with pytest.raises(error, match=match):
        token_run(costs=costs, total_budget=100, **change)


def test_tokens_of_one_cost_must_pay_for_a_group():
    for change, name in [
        ({"total_budget": 5}, "total_budget"),
        ({"round_capacity": 5, "total_budget": 50}, "round_capacity"),
    ]:
        match = rf"{name} must pay for a unit of 6 tokens, got {name} = 5\.0?"
        with pytest.raises(ValueError, match=match):
            token_run(costs=3.0, unit_size=2, **change)


def test_totals_in_tokens_are_caps():
    policy = token_run()
    match = (
        r"budget must be a cap where the costs differ, not a total with exact=True, got budget = 10\. Pass it as a cap"
    )
    with pytest.raises(ValueError, match=match):
        policy.allocate(budget=10, exact=True)
    assert policy.ledger.round == 0


@pytest.mark.parametrize("size", [2.5, "2"])
def test_group_sizes_are_integers_with_and_without_costs(size):
    for costs in (None, [1.0, 2.0]):
        with pytest.raises(TypeError, match="unit_size must be an integer"):
            token_run(unit_size=size, costs=costs, total_budget=100)
