"""What every baseline guarantees: counts within the caps, totals on schedule, new arrays, nothing after the horizon."""

from math import inf

import numpy as np
import pytest
from hypothesis import settings

from cero_alloc import BetaPosteriorBank
from cero_alloc.baselines import (
    BOTS,
    CONTROLS,
    DAPO,
    DUET,
    GRESO,
    GVM,
    HORA,
    NGU,
    PEERS,
    SARA,
    VIGOR,
    VIP,
    CoBARL,
    CurES,
    Greedy,
    KnapsackRL,
    Learnability,
    MaPP,
    MoPPS,
    Neyman,
    PilotCommit,
    Preset,
    ReinforceAda,
    SpeedRL,
)
from helpers.peers import EXAMPLES, RULES, WAVES, World, every_rule, feasible, seeds, snapshot

PACED = [name for name, rule in RULES.items() if not issubclass(rule.cls, (*WAVES, Preset)) and name != "DUET, costs"]


# ------------------------------------------------------------------ counts and totals


@every_rule
@settings(max_examples=2 * EXAMPLES)
@seeds
def test_counts_keep_to_the_caps(name, seed):
    world = World(name, seed)
    policy, spent = world.new(), 0.0
    cost = np.ones(world.m) if world.tokens is None else world.tokens
    budget = world.plan.sum() if issubclass(world.rule.cls, Preset) else world.kwargs["total_budget"]
    played, k = np.zeros(world.m, dtype=np.int64), -1

    def check_round():
        assert (played <= world.max_rollouts).all()
        cap = world.offers[k][1]
        most = min(inf if cap is None else cap, inf if world.capacity is None else world.capacity)
        if not issubclass(world.rule.cls, Preset):
            assert float(cost @ played) <= most + 1e-6

    log = world.play(policy)
    for method, _, by_row in log:
        if by_row is None:
            continue
        if method == "allocate":
            check_round() if k >= 0 else None
            played[:], k = 0, k + 1
        counts = np.maximum(by_row, 0)
        offered = world.offers[k][0]
        assert (by_row >= 0).sum() == (world.m if offered is None else offered.size)
        assert (counts % world.g == 0).all()
        first = (played == 0) & (counts > 0)
        assert (counts[first] >= min(world.least, world.max_rollouts)).all()
        played += counts
        spent += float(cost @ counts)
        assert spent <= budget + 1e-6
        if k >= world.rounds:
            assert not counts.any()
    check_round()
    assert policy.ledger.dealt == pytest.approx(spent, abs=1e-6)
    assert policy.remaining_budget == pytest.approx(budget - spent, abs=1e-6)


@pytest.mark.parametrize("name", [name for name in RULES if name != "FixedPacing"])
@seeds
@settings(max_examples=EXAMPLES)
def test_answers_are_new_arrays_of_int64(name, seed):
    world = World(name, seed)
    policy = world.new()
    counts = policy.allocate()
    assert counts.dtype == np.int64
    assert counts.shape == (world.m,)
    before = snapshot(policy)
    counts[:] = 77
    assert snapshot(policy) == before


@pytest.mark.parametrize("name", PACED)
@seeds
@settings(max_examples=2 * EXAMPLES)
def test_totals_follow_the_uniform_schedule(name, seed):
    world = World(name, seed)
    policy, left = world.new(), world.kwargs["total_budget"] // world.g
    budget = left
    for k, (method, arguments, by_row) in enumerate(entry for entry in world.play(policy) if entry[0] == "allocate"):
        assert method == "allocate"
        size, cap = (by_row >= 0).sum(), arguments[1]
        due = 0
        if k < world.rounds:
            most = [size * world.max_rollouts // world.g, left, budget * (k + 1) // world.rounds - (budget - left)]
            most += [] if cap is None else [cap // world.g]
            most += [] if world.capacity is None else [world.capacity // world.g]
            due = max(0, min(most))
            while not feasible(due, world, size):
                due -= 1
        total = int(np.maximum(by_row, 0).sum()) // world.g
        assert total == due
        left -= total


@pytest.mark.parametrize("name", PACED)
@seeds
@settings(max_examples=2 * EXAMPLES)
def test_exact_totals_are_spent_or_refused_with_the_nearest(name, seed):
    world = World(name, seed)
    policy, g = world.new(), world.g
    for _ in range(world.rounds):
        rows = world.rng.permutation(world.m)[: world.rng.integers(0, world.m + 1)]
        most = min(rows.size * world.max_rollouts // g, policy.ledger.units_left)
        most = most if world.capacity is None else min(most, world.capacity // g)
        total, before = int(world.rng.integers(0, most + 1)), snapshot(policy)
        if feasible(total, world, rows.size):
            assert policy.allocate(rows, total * g, exact=True).sum() == total * g
            continue
        near = [t for t in range(most + 1) if feasible(t, world, rows.size)]
        below, above = max(t for t in near if t < total), [t for t in near if t > total][:1]
        match = rf"Nearest such totals: {', '.join(str(t * g) for t in [below, *above])}\.$"
        with pytest.raises(ValueError, match=match):
            policy.allocate(rows, total * g, exact=True)
        assert snapshot(policy) == before
        assert policy.allocate(rows, below * g, exact=True).sum() == below * g
    before = snapshot(policy)
    with pytest.raises(ValueError, match=r"budget must be at most \d+ with exact=True"):
        policy.allocate(budget=10**6 * g, exact=True)
    with pytest.raises(ValueError, match="budget must be given with exact=True"):
        policy.allocate(exact=True)
    if g > 1:
        with pytest.raises(ValueError, match=f"budget must be a multiple of unit_size = {g}"):
            policy.allocate(budget=g + 1, exact=True)
    assert snapshot(policy) == before


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if issubclass(rule.cls, WAVES)])
def test_waves_refuse_exact_totals(name):
    world = World(name, 0)
    policy = world.new()
    before = snapshot(policy)
    label = world.rule.cls.__name__
    with pytest.raises(
        ValueError, match=rf"^exact must be False for {label}, got exact = True\. Pass the total as a cap"
    ):
        policy.allocate(budget=world.g, exact=True)
    assert snapshot(policy) == before


# ------------------------------------------------------------------ the rest of the house's methods


@every_rule
def test_nothing_happens_after_the_horizon(name):
    world = World(name, 8)
    policy = world.new()
    world.play(policy)
    while not policy.ledger.finished:
        policy.allocate()
    if policy.ledger.rounds_left:
        return  # spent before its time
    if issubclass(world.rule.cls, WAVES):
        policy.allocate()  # closes what the last round left open
    before = snapshot(policy)
    for offer in ((), (None, 10**6), ([0],), ([],)):
        assert not policy.allocate(*offer).any()
    assert snapshot(policy) == before


@every_rule
@settings(max_examples=EXAMPLES)
@seeds
def test_refunds_return_to_the_budget(name, seed):
    world = World(name, seed)
    policy = world.new()
    counts = policy.allocate()
    while policy.remaining_budget and policy.ledger.rounds_left and not counts.any():
        counts = policy.allocate()
    left, exposure = policy.remaining_budget, policy.ledger.exposure_units.copy()
    back = world.rng.integers(0, counts // world.g + 1) * world.g
    policy.refund(None, back)
    cost = np.ones(world.m) if world.tokens is None else world.tokens
    assert policy.remaining_budget == pytest.approx(left + float(cost @ back))
    assert (policy.ledger.exposure_units == exposure - back // world.g).all()
    assert (policy.ledger.outstanding == counts - back).all()
    with pytest.raises(ValueError, match="rollouts must be a multiple of"):
        policy.refund([0], [int(counts[0] - back[0]) + world.g])


@pytest.mark.parametrize("name", PACED)
def test_refunded_rollouts_are_dealt_again(name):
    world = World(name, 11)
    world.kwargs |= {"total_budget": 4 * world.max_rollouts, "n_rounds": 8, "round_capacity": None}
    policy = world.new()
    for k in range(8):
        counts = policy.allocate()
        if k % 2 == 0:
            policy.refund(None, counts)
    # Whole blocks may stay; what comes back in round 7 of 8 can still be spent in round 8.
    assert policy.remaining_budget <= max(0, world.max_rollouts * (4 - world.m), world.least)


@every_rule
@settings(max_examples=5)
@seeds
def test_metrics_are_finite(name, seed):
    world = World(name, seed)
    policy = world.new()
    for certificate in (True, False):
        start = policy.metrics(certificate=certificate)
        odd = {key for key, value in start.items() if not np.isfinite(value)}
        assert odd <= {
            "calibration_bias", "calibration_running_bias", "calibration_error", "mixed_group_rate"
        }  # fmt: skip
        assert ("certificate_regret" in start) is certificate
        assert not {"price", "batch_price", "starved"} & set(start)
    world.play(policy)
    policy.update([0], [1], [2])
    metrics = policy.metrics()
    assert set(metrics) == set(policy.metrics(certificate=False)) | {key for key in start if "cert" in key} | {
        "certificate_achieved", "certificate_optimum", "certificate_gap", "certificate_regret"
    }  # fmt: skip
    assert all(type(value) is float and np.isfinite(value) for value in metrics.values()), metrics
    assert metrics["spent_budget"] + metrics["reserved_budget"] + metrics["remaining_budget"] == pytest.approx(
        policy.ledger.total
    )
    assert (
        -1e-9 <= metrics["certificate_achieved"] <= metrics["certificate_optimum"] + metrics["certificate_gap"] + 1e-9
    )


@pytest.mark.parametrize("rule", [*CONTROLS, *PEERS])
def test_shared_arguments_are_checked(rule):
    run = {"total_budget": 64, "n_rounds": 4, "max_rollouts": 32}
    for change, error, match in [
        ({"total_budget": 0}, ValueError, "total_budget must be at least 1"),
        ({"total_budget": 10**6}, ValueError, "total_budget must be spendable in 4 rounds"),
        ({"n_rounds": 0}, ValueError, "n_rounds must be at least 1"),
        ({"n_rounds": 2.5}, TypeError, "n_rounds must be an integer"),
        ({"unit_size": 3}, ValueError, "must be a multiple of unit_size = 3"),
        ({"max_rollouts": 0}, ValueError, "max_rollouts must be at least 1"),
        ({"round_capacity": 0}, ValueError, "round_capacity must be at least 1"),
    ]:
        with pytest.raises(error, match=match):
            rule(BetaPosteriorBank(3), **run | change)
    with pytest.raises(TypeError, match="total_budget"):
        rule(BetaPosteriorBank(3), n_rounds=2, max_rollouts=32)
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'max_rollouts'"):
        rule(BetaPosteriorBank(3), n_rounds=2, total_budget=32)
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'n_rounds'"):
        rule(BetaPosteriorBank(3), total_budget=32, max_rollouts=32)


@pytest.mark.parametrize(
    ("rule", "own"),
    [(KnapsackRL, {}), (VIP, {"estimator": "dr-grpo"}), (CoBARL, {}), (HORA, {}), (Neyman, {}), (MoPPS, {}), (GRESO, {}),
     (BOTS, {}), (DAPO, {}), (MaPP, {}), (Learnability, {}), (CurES, {}), (NGU, {}), (SARA, {})],
)  # fmt: skip
def test_max_rollouts_hold_the_least_count(rule, own):
    least = 3 if own else 2
    match = rf"max_rollouts must hold the {least} rollouts that {rule.__name__} gives at least, got max_rollouts = 1\."
    with pytest.raises(ValueError, match=match):
        rule(BetaPosteriorBank(3), total_budget=3, n_rounds=4, max_rollouts=1, **own)
    with pytest.raises(ValueError, match=rf"rollouts_per_visit must be at least {least}, got rollouts_per_visit = 1"):
        rule(BetaPosteriorBank(3), total_budget=3, n_rounds=4, max_rollouts=4, rollouts_per_visit=1, **own)
    rule(BetaPosteriorBank(3), total_budget=4, n_rounds=4, unit_size=4, max_rollouts=4, **own)


@pytest.mark.parametrize("rule", [Greedy, ReinforceAda, VIGOR, SpeedRL, PilotCommit])
def test_rules_without_a_visit_refuse_its_size(rule):
    with pytest.raises(TypeError, match=f"{rule.__name__} must not be given rollouts_per_visit, got 8. Leave it out"):
        rule(BetaPosteriorBank(3), total_budget=30, n_rounds=1, max_rollouts=40, rollouts_per_visit=8)


@pytest.mark.parametrize("rule", [KnapsackRL, VIP, CoBARL, HORA, Neyman, GVM, DUET])
def test_a_huge_cap_costs_nothing(rule):
    # No prompt can get more than the others' least leaves, so the cap must neither matter nor fill the memory.
    rng = np.random.default_rng(0)
    won = rng.integers(1, 16, 20)
    counts = []
    for most in (160, 10**6):
        bank = BetaPosteriorBank(20)
        bank.update(None, won, np.full(20, 16))
        counts.append(rule(bank, total_budget=160, n_rounds=1, max_rollouts=most, rollouts_per_visit=8).allocate())
    assert counts[0].tolist() == counts[1].tolist()
    assert counts[0].sum() == 160
