"""The controls: exact totals, caps, and each one's own rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, SaturatingUtility
from cero_alloc.baselines import FixedPacing, Greedy, Preset, RandomMatched, Uniform

PACED = [Uniform, FixedPacing, Greedy]


def random_run(seed):
    rng = np.random.default_rng(seed)
    m, k, g = int(rng.integers(1, 12)), int(rng.integers(1, 15)), int(rng.integers(1, 4))
    max_units = int(rng.integers(1, 5))
    cap = int(rng.integers(1, m * max_units + 1))
    kwargs = {
        "total_budget": int(rng.integers(1, k * cap + 1)) * g, "n_rounds": k, "unit_size": g,
        "max_rollouts": max_units * g, "round_capacity": cap * g, "seed": int(rng.integers(2**31)),
    }  # fmt: skip
    return rng, m, kwargs


@pytest.mark.parametrize("policy", PACED)
@given(seed=st.integers(0, 2**32 - 1))
def test_paced_controls_follow_the_uniform_schedule(policy, seed):
    rng, m, kwargs = random_run(seed)
    control = policy(BetaPosteriorBank(m), **kwargs)
    spent, g = 0, kwargs["unit_size"]
    for k in range(1, kwargs["n_rounds"] + 1):
        counts = control.allocate()
        assert (counts % g == 0).all()
        assert counts.max() <= kwargs["max_rollouts"]
        assert counts.sum() <= kwargs["round_capacity"]
        spent += int(counts.sum())
        assert spent == kwargs["total_budget"] // g * k // kwargs["n_rounds"] * g
        control.update(None, rng.random(m) * counts, counts)
    assert spent == kwargs["total_budget"]
    assert (control.allocate() == 0).all()
    assert control.ledger.outstanding.sum() == 0


@pytest.mark.parametrize("policy", PACED)
@given(seed=st.integers(0, 2**32 - 1))
def test_exact_totals_on_offered_prompts(policy, seed):
    rng, m, kwargs = random_run(seed)
    control = policy(BetaPosteriorBank(m), **kwargs)
    for _ in range(kwargs["n_rounds"]):
        offered = rng.permutation(m)[: rng.integers(0, m + 1)]
        left = control.ledger.remaining_budget
        most = (
            0 if control.ledger.finished else min(offered.size * kwargs["max_rollouts"], kwargs["round_capacity"], left)
        )
        total = int(rng.integers(0, most // kwargs["unit_size"] + 1)) * kwargs["unit_size"]
        counts = control.allocate(offered, total, exact=True)
        assert counts.shape == offered.shape
        assert counts.sum() == total
        assert control.allocate is not None
    with pytest.raises(ValueError, match="with exact=True"):
        control.allocate(budget=10**6 * kwargs["unit_size"], exact=True)


def test_uniform_is_even():
    control = Uniform(BetaPosteriorBank(10), total_budget=300, n_rounds=30, max_rollouts=4, seed=3)
    for _ in range(30):
        assert control.allocate().tolist() == [1] * 10
    blocks = Uniform(BetaPosteriorBank(10), total_budget=240, n_rounds=30, max_rollouts=8, rollouts_per_visit=4)
    for k in range(1, 31):
        counts = blocks.allocate()
        assert sorted(set(counts.tolist())) == [0, 4]
        exposure = blocks.ledger.exposure_units
        assert exposure.max() - exposure.min() <= 4, k  # epochs: no prompt is visited twice before all were once
    assert blocks.allocate([1, 2]).tolist() == [0, 0]
    with pytest.raises(
        ValueError, match=r"rollouts_per_visit must be at most max_rollouts = 8, got rollouts_per_visit = 9"
    ):
        Uniform(BetaPosteriorBank(10), total_budget=240, n_rounds=30, max_rollouts=8, rollouts_per_visit=9)


def test_uniform_spreads_a_batch():
    control = Uniform(BetaPosteriorBank(9), total_budget=90, n_rounds=10, max_rollouts=8)
    assert sorted(control.allocate([0, 4, 8], budget=16, exact=True).tolist()) == [5, 5, 6]


def test_fixed_pacing_is_algorithm_1_at_exact_totals():
    rng = np.random.default_rng(0)
    kwargs = {"total_budget": 120, "n_rounds": 20, "max_rollouts": 2, "round_capacity": 8, "seed": 5}
    control = FixedPacing(BetaPosteriorBank(8), **kwargs)
    twin = FenchelDualAllocator(BetaPosteriorBank(8), initial_price=0.0, **kwargs)
    for _ in range(20):
        counts = control.allocate()
        assert counts.tolist() == twin.allocate(budget=6, exact=True).tolist()
        wins = rng.binomial(counts, 0.3)
        control.update(None, wins, counts)
        twin.update(None, wins, counts)
    assert twin.price == 0.0
    assert control.horizon == twin.horizon


def test_greedy_takes_the_largest_next_gains():
    p = np.array([0.5, 0.1, 0.9, 0.3])
    utility = SaturatingUtility("hyperbolic", saturation=2.0)
    bank = BetaPosteriorBank(4, prior=(p * 1e9, (1 - p) * 1e9))
    control = Greedy(bank, total_budget=24, n_rounds=6, max_rollouts=2, utility=utility)
    exposure = np.zeros(4)
    for _ in range(6):
        share = 24 / 4
        gain = utility.value(bank.value(), (exposure + 2) / share) - utility.value(bank.value(), exposure / share)
        best = np.argsort(-gain, kind="stable")[:2]
        counts = control.allocate()
        assert set(np.flatnonzero(counts)) == set(best) or np.isclose(*np.sort(gain)[1:3])
        assert counts.sum() == 4
        exposure += counts


@pytest.mark.parametrize("seed", range(8))
def test_greedy_keeps_no_gain_that_has_changed(seed):
    """The gains it ranks by are those of this moment, whatever part is offered and whatever became of bank and state."""
    rng = np.random.default_rng(seed)
    run = {"total_budget": 400, "n_rounds": 20, "max_rollouts": 4, "seed": 1}
    old = Greedy(BetaPosteriorBank(12, forgetting=0.8), **run)
    for turn in range(20):
        if turn == 7:
            start = old.state_dict()
        elif turn == 12:
            old.load_state_dict(start)
        elif turn == 15:
            old.utility = SaturatingUtility("log")
        offer = None if turn % 3 else rng.permutation(12)[:7]
        new = Greedy(BetaPosteriorBank(12, forgetting=0.8), **run)  # has seen nothing
        new.utility = old.utility
        new.load_state_dict(old.state_dict())
        counts = old.allocate(offer)
        assert counts.tolist() == new.allocate(offer).tolist()
        old.update(offer, rng.binomial(counts, 0.3), counts)


def test_preset_plays_its_schedule():
    plan = np.array([[4, 0, 2], [0, 6, 2], [2, 2, 2]])
    control = Preset(BetaPosteriorBank(3), plan, unit_size=2)
    assert control.allocate().tolist() == [4, 0, 2]
    with pytest.raises(ValueError, match=r"budget must equal the scheduled 8, got budget = 6\. Drop exact=True"):
        control.allocate(budget=6, exact=True)
    assert control.allocate(budget=6).tolist() == [0, 6, 0]  # a cap trims the last ones
    assert control.allocate([2, 0], budget=4, exact=True).tolist() == [2, 2]
    assert control.allocate().tolist() == [0, 0, 0]


def test_random_matched_keeps_pacing_and_concentration():
    rng = np.random.default_rng(1)
    plan = rng.integers(0, 3, (12, 30)) * (rng.random(30) < 0.5)
    control = RandomMatched(BetaPosteriorBank(30), plan, seed=4)
    played = np.array([control.allocate() for _ in range(12)])
    assert (played.sum(axis=1) == plan.sum(axis=1)).all()
    assert sorted(played.sum(axis=0)) == sorted(plan.sum(axis=0))
    assert (played != plan).any()


BAD_SCHEDULES = [
    ([[1, 2]], 1, ValueError, r"schedule must have shape \(n_rounds, 3\), got schedule = \(1, 2\)"),
    ([1, 2, 3], 1, ValueError, "schedule must have shape"),
    ([[1.0, 2.0, 3.0]], 1, TypeError, "schedule must be integers, got schedule = dtype"),
    ([[1, 2, 3]], 2, ValueError, r"schedule must be non-negative multiples of 2, got schedule\[0\] = 1"),
    ([[0, -2, 2]], 2, ValueError, r"got schedule\[1\] = -2"),
    ([[0, 0, 0]], 1, ValueError, "schedule must deal something"),
]


@pytest.mark.parametrize(("plan", "group", "error", "match"), BAD_SCHEDULES)
def test_bad_schedules(plan, group, error, match):
    with pytest.raises(error, match=match):
        Preset(BetaPosteriorBank(3), plan, unit_size=group)


def test_controls_keep_their_pool():
    bank = BetaPosteriorBank(3)
    control = Uniform(bank, total_budget=9, n_rounds=3, max_rollouts=1)
    bank.add_prompts([3])
    with pytest.raises(ValueError, match="bank must keep its 3 prompts under a baseline, got bank = 4"):
        control.allocate()


@pytest.mark.parametrize("utility", ["exponential", [1, [2, 3]], None])
def test_greedy_refuses_what_is_no_utility(utility):
    with pytest.raises(TypeError, match=r"^utility must be a SaturatingUtility, got utility = .*\. Pass Saturating"):
        Greedy(BetaPosteriorBank(2), total_budget=8, n_rounds=2, max_rollouts=4, utility=utility)
