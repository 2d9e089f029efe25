"""One call per round: observe against advantages, update and write_off; deliveries, errors, and the ids to generate from."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator, repeat, training_allocator
from cero_alloc.baselines import DAPO
from helpers.runs import EVERY, FORMS, IDS, RUN
from helpers.trees import leaves

NAN = math.nan
BANKS = {
    "at rest": {},
    "forgetting": {"forgetting": 0.9},
    "moving": {"drift": 0.02, "trend": 0.2},
    "ranged": {"reward_range": (-1.0, 1.0), "dtype": "float32"},
}
WAYS = [
    {},
    *({"baseline": baseline, "scale": scale} for baseline in ("group", "batch") for scale in ("none", "posterior", "group")),
    {"scale": "none"},
]  # fmt: skip
every_form = pytest.mark.parametrize("form", FORMS)


def build(form, **bank):
    name, change = FORMS[form]
    arguments = {key: value for key, value in (RUN | change).items() if value is not None}
    return EVERY[name](BetaPosteriorBank(IDS, prior=(0.6, 0.8), **(arguments.pop("bank", {}) | bank)), **arguments)


def rewarded(bank, ids, rng, *, coins=False, lost=0.15):
    """A reward per rollout in sixteenths of the range, whose sums are exact; some could not be scored."""
    low, high = bank.reward_range
    share = rng.integers(0, 2, len(ids)) if coins else rng.choice([0, 1, 0.5, 0.25, 0.0625], len(ids))
    return np.where(rng.random(len(ids)) < lost, NAN, low + (high - low) * share)


def sums(bank, ids, rewards):
    """What update and write_off take: ids, sums, rollouts and sums of squares, and rollouts without a reward."""
    named = [name for name in IDS if name in ids]
    of = [rewards[[name == other for other in ids]] for name in named]
    found = [r[~np.isnan(r)] for r in of]
    total, n = [r.sum() for r in found], [r.size for r in found]
    return (named, total, n), [(r**2).sum() for r in found], np.array([r.size for r in of]) - n


# ---------------------------------------------------------------- observe in three calls


@every_form
@pytest.mark.parametrize("kind", BANKS)
def test_observe_is_advantages_then_update_then_write_off(form, kind):
    one, three = build(form, **BANKS[kind]), build(form, **BANKS[kind])
    for turn in range(9):
        rng = np.random.default_rng((1, turn))
        offer = None if turn % 2 or "spread" in form else [IDS[i] for i in rng.permutation(6)[:4]]
        counts = one.allocate(offer)
        assert counts.tolist() == three.allocate(offer).tolist()
        ids = repeat(IDS if offer is None else offer, counts) + ["p0"] * (turn % 3)  # now and then more than was dealt
        ids = [ids[i] for i in rng.permutation(len(ids))]
        rewards = rewarded(one.bank, ids, rng, coins=turn < 4)
        which, how = {"round": three.round if turn % 2 else None}, WAYS[turn % len(WAYS)]
        if turn < 4 and turn % 2:
            how = {"method": "mapp", "group_size": 4}
        advantages = one.observe(ids, rewards, **which, **how)
        assert advantages.tolist() == three.bank.advantages(ids, rewards, **how).tolist()
        assert (advantages[np.isnan(rewards)] == 0).all()
        told, squares, lost = sums(three.bank, ids, rewards)
        three.update(*told, squares=squares, **which)
        owed = three.outstanding[[IDS.index(name) for name in told[0]]]
        if not turn % 2:  # of the round only its own rollouts are written off
            three.write_off(told[0], np.minimum(lost, owed))
        else:
            three.write_off(
                told[0], np.minimum(lost, three.ledger.owed(three.bank.index.rows(told[0]), three.round)), **which
            )
        if hasattr(one, "continue_round") and counts.any():
            more = [run.continue_round(counts, counts // 2).tolist() for run in (one, three)]
            assert more[0] == more[1]
        assert leaves(one.state_dict()) == leaves(three.state_dict())
    assert one.balance.total == sum(one.balance[1:])
    assert one.bank.calibration().n_groups > 9


@settings(max_examples=60)
@given(
    entries=st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from([0.0, 1.0, None, NAN])), max_size=14),
    random=st.randoms(use_true_random=False),
    way=st.sampled_from([*WAYS, {"method": "mapp"}]),
    kind=st.sampled_from(["at rest", "forgetting", "moving"]),
)
def test_rollouts_may_come_in_any_order(entries, random, way, kind):
    mixed = random.sample(range(len(entries)), len(entries))
    runs, found = [], []
    for order in (range(len(entries)), mixed):
        run = build("FenchelDualAllocator", **BANKS[kind])
        run.bank.update(["p1", "p2"], [3, 1], [4, 5])
        run.allocate()
        ids, rewards = [entries[i][0] for i in order], [entries[i][1] for i in order]
        found.append(run.observe(ids, rewards, **way))
        runs.append(run)
    assert found[1].tolist() == found[0][mixed].tolist()
    assert leaves(runs[0].state_dict()) == leaves(runs[1].state_dict())
    bank = BetaPosteriorBank(IDS, prior=(0.6, 0.8), **BANKS[kind])
    bank.update(["p1", "p2"], [3, 1], [4, 5])
    bank.tick()
    assert bank.observe([name for name, _ in entries], [r for _, r in entries], **way).tolist() == found[0].tolist()
    assert bank.alpha.tolist() == runs[0].bank.alpha.tolist()


@pytest.mark.parametrize(
    "rewards",
    [[1, None, 0], [1.0, NAN, 0.0], (1, NAN, 0), np.array([1, NAN, 0], dtype="float32"), iter([1, None, 0])],
    ids=["None", "NaN", "tuple", "float32", "iterator"],
)
def test_nan_and_none_are_rollouts_without_a_reward(rewards):
    run = training_allocator(["a", "b"], total_budget=12, n_rounds=3, rollouts_per_visit=2)
    run.allocate()
    assert run.observe(["a", "b", "b"], rewards, scale="none").tolist() == [0.5, 0.0, -0.5]
    assert run.bank.alpha.tolist() == [2.0, 1.0]
    assert run.bank.beta.tolist() == [1.0, 2.0]
    assert run.outstanding.tolist() == [1, 0]  # one of "b" was written off
    assert run.balance == (12, 3, 1, 8)


def test_nothing_to_observe():
    run = training_allocator(["a", "b"], total_budget=12, n_rounds=3)
    before = leaves(run.state_dict())
    assert run.observe([], []).shape == run.bank.observe([], []).shape == (0,)
    assert run.observe(["a"], [None]).tolist() == [0.0]  # nothing of it was outstanding
    assert leaves(run.state_dict()) == before


def test_prompts_that_join_late_are_observed():
    run = build("ResolvingAllocator, visits", trend=0.2)
    run.allocate()
    run.bank.add_prompts(["new"])
    run.bank.retire(["p3"])
    assert run.observe(["new", "p3", "new"], [1.0, 0.0, NAN]).shape == (3,)
    assert run.metrics(certificate=False)["unreserved_rollouts"] == 1 + (run.exposure[IDS.index("p3")] == 0)
    assert run.bank.alpha[-1] == 1.6


# ---------------------------------------------------------------- deliveries


@every_form
@pytest.mark.parametrize("kind", ["at rest", "ranged"])
def test_a_delivery_that_comes_again_changes_nothing(form, kind):
    run = build(form, **BANKS[kind])
    for turn in range(6):
        rng = np.random.default_rng((2, turn))
        ids = repeat(IDS, run.allocate())
        rewards, how = rewarded(run.bank, ids, rng, coins=kind == "ranged"), WAYS[turn]
        first = run.observe(ids, rewards, delivery_id=f"batch {turn}", round=run.round, **how)
        before = leaves(run.state_dict())
        for again in range(2):
            order = rng.permutation(len(ids))
            same = run.observe([ids[i] for i in order], rewards[order], delivery_id=f"batch {turn}", **how)
            shifted = run.bank.trend > 0  # by the delivery itself, which stays known
            within = (
                {"rtol": 0.1, "atol": 0.02} if shifted else {"rtol": 1e-5 if kind == "ranged" else 1e-10, "atol": 1e-9}
            )
            np.testing.assert_allclose(same, first[order], **within)
            after = leaves(run.state_dict())
            assert after.pop("/deliveries/repeated") == turn * 2 + again + 1
            assert after == {leaf: part for leaf, part in before.items() if leaf != "/deliveries/repeated"}
    with pytest.raises(ValueError, match=r"delivery_id must name one delivery, got delivery_id = 'batch 0'"):
        run.observe(["p0"], [run.bank.reward_range[0]], delivery_id="batch 0")


def test_a_delivery_that_comes_again_later_is_taken_out_of_what_is_known_by_then():
    run, ids, rewards = build("FenchelDualAllocator"), ["p0", "p1", "p1"], [1.0, 0.5, 0.0]
    run.allocate()
    run.observe(ids, rewards, delivery_id=1)
    run.observe(["p1", "p0"], [0.25, 0.0], delivery_id=2)
    without = BetaPosteriorBank(IDS, prior=(0.6, 0.8))
    without.observe(["p1", "p0"], [0.25, 0.0])
    for way in WAYS:
        found = run.observe(ids, rewards, delivery_id=1, **way)
        np.testing.assert_allclose(found, without.advantages(ids, rewards, **way), rtol=1e-12)
    moving = build("FenchelDualAllocator", drift=0.5, trend=0.5)
    for turn in range(5):
        moving.allocate()
        moving.observe(ids, rewards, delivery_id=turn)
    for turn in range(5):  # what is left of an old delivery may be less than the delivery
        assert np.isfinite(moving.observe(ids * 3, rewards * 3, delivery_id=9 + turn)).all()
        assert np.isfinite(moving.observe(ids * 3, rewards * 3, delivery_id=9)).all()


# ---------------------------------------------------------------- errors

RULES = {"fenchel": FenchelDualAllocator, "resolving": ResolvingAllocator, "waves": DAPO, "bank": None}
REFUSED = [
    ({"prompt_ids": ["p0", "x"]}, KeyError, r"prompt_ids must be in the bank, unknown: 'x' \(1 in all\)"),
    ({"prompt_ids": None}, TypeError, r"prompt_ids must be a collection of ids, got prompt_ids = None\. Name the prompt of"),
    ({"prompt_ids": "p0"}, TypeError, r"prompt_ids must be a collection of ids, got prompt_ids = 'p0'"),
    ({"prompt_ids": {"p0", "p1"}}, TypeError, r"prompt_ids must be in an order"),
    ({"prompt_ids": ["p0"]}, ValueError, r"rewards must have one entry per rollout, got rewards\.shape = \(2,\) for 1 prompt ids"),
    ({"rewards": 1.0}, ValueError, r"rewards must have one entry per rollout, got rewards\.shape = \(\)"),
    ({"rewards": [[1.0, 0.0]]}, ValueError, r"rewards must have one entry per rollout"),
    ({"rewards": {1.0, 0.0}}, TypeError, r"rewards must be in an order"),
    ({"rewards": ["1", "0"]}, ValueError, r"rewards must be numbers, got an array of <U1"),
    ({"rewards": [1.0, "0", None]}, ValueError, r"rewards must"),
    ({"rewards": np.ma.masked_array([1.0, 0.0], [False, True])}, ValueError, r"rewards must have no masked entries"),
    ({"rewards": [1.0, math.inf]}, ValueError, r"rewards must be between 0 and 1, got rewards\[1\] = inf\."),
    ({"rewards": [None, 1.5]}, ValueError, r"1\.5\. Pass reward_range=\(low, high\), such as \(0, 1\.5\), to the bank, or to training_all"),
    ({"rewards": [-0.1, NAN]}, ValueError, r"rewards must be between 0 and 1, got rewards\[0\] = -0\.1"),
    ({"baseline": "posteriors"}, ValueError, r"baseline must be one of 'posterior', 'group', 'batch', got baseline = 'posteriors'"),
    ({"scale": None}, ValueError, r"scale must be one of 'posterior', 'none', 'group', got scale = None"),
    ({"scale": ["none"]}, ValueError, r"scale must be one of"),
    ({"method": "mappo"}, ValueError, r"method must be one of 'leave-one-out', 'mapp', got method = 'mappo'"),
    ({"method": "mapp", "rewards": [1.0, 0.5]}, ValueError, r"ends of the reward range with method = 'mapp', got rewards\[1\] = 0\.5"),
    ({"method": "mapp", "rewards": [None, 0.5]}, ValueError, r"got rewards\[1\] = 0\.5\. Leave method out"),
    ({"method": "mapp", "baseline": "group"}, ValueError, r"baseline and scale must be left out with method = 'mapp'"),
    ({"method": "mapp", "scale": "none"}, ValueError, r"which replaces both, got 'posterior' and 'none'"),
    ({"group_size": 1}, ValueError, r"group_size must be at least 2, got group_size = 1"),
    ({"group_size": 2.5}, TypeError, r"group_size must be an integer"),
    ({"round": 0}, ValueError, r"round must be at least 1, got round = 0"),
    ({"round": 3}, ValueError, r"round must be one of the 2 rounds so far, got round = 3"),
    ({"round": 1.5}, TypeError, r"round must be an integer"),
    ({"delivery_id": 0.5}, TypeError, r"delivery_id must be an integer or a string, got delivery_id = 0\.5"),
    ({"delivery_id": True}, TypeError, r"delivery_id must be an integer or a string"),
    ({"delivery_id": "taken"}, ValueError, r"delivery_id must name one delivery, got delivery_id = 'taken'"),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("wrong", "error", "message"), REFUSED)
def test_every_error_comes_before_any_change(rule, wrong, error, message):
    bank = BetaPosteriorBank(IDS, trend=0.1)
    run = bank if RULES[rule] is None else RULES[rule](bank, **RUN)
    if run is bank:
        if {"round", "delivery_id"} & set(wrong):
            return
    else:
        run.allocate(), run.allocate()
        run.observe(["p2"], [1.0], delivery_id="taken")
    bank.observe(["p0", "p1"], [0.5, 1.0])
    before = leaves(run.state_dict())
    with pytest.raises(error, match=message):
        run.observe(**({"prompt_ids": ["p0", "p1"], "rewards": [1.0, 0.0]} | wrong))
    assert leaves(run.state_dict()) == before
    if run is bank:
        with pytest.raises(error, match=message):
            bank.advantages(**({"prompt_ids": ["p0", "p1"], "rewards": [1.0, 0.0]} | wrong))


def test_messages_are_in_the_units_of_the_rewards():
    run = build("ResolvingAllocator", reward_range=(-1, 3))
    with pytest.raises(
        ValueError, match=r"rewards must be between -1 and 3, got rewards\[0\] = 3\.5\. Pass reward_range"
    ):
        run.observe(["p0"], [3.5])
    with pytest.raises(
        ValueError, match=r"ends of the reward range with method = 'mapp', got rewards\[1\] = 0\.0\. Leave"
    ):
        run.observe(["p0", "p1"], [-1, 0], method="mapp")
    assert np.isfinite(run.observe(["p0", "p1"], [-1, 3], method="mapp")).all()


# ---------------------------------------------------------------- the ids to generate from


def test_the_ids_to_generate_from():
    bank = BetaPosteriorBank([("a", 1), "b", 7])
    assert bank.prompts_of([2, 0, 1]) == repeat(bank.prompt_ids, np.array([2, 0, 1])) == [("a", 1), ("a", 1), 7]
    assert BetaPosteriorBank(3).prompts_of(np.array([1, 0, 2], dtype=np.uint8)) == [0, 2, 2]
    assert repeat([{"id": 7}, {"id": 9}], iter([1, 2])) == [{"id": 7}, {"id": 9}, {"id": 9}]
    assert repeat([], []) == repeat(["a"], [0]) == []
    assert repeat("ab", [1, 2]) == ["a", "b", "b"]


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ([1, 2], ValueError, r"counts must have one entry per entry of the batch, shape \(3,\), got counts = \(2,\)"),
        ([[1, 2, 3]], ValueError, r"shape \(3,\), got counts = \(1, 3\)\. Pass what allocate returned for this batch"),
        (3, ValueError, r"shape \(3,\), got counts = \(\)"),
        ([1, -1, -2], ValueError, r"counts must be at least 0, got counts\[2\] = -2"),
        ([1.0, 2.5, 3.0], ValueError, r"counts must be integers, got counts\[1\] = 2\.5"),
        ([1, NAN, 3], ValueError, r"counts must be integers, got counts\[1\] = nan"),
        ([True, False, True], ValueError, r"counts must be integers, got counts\[0\] = True"),
        (["1", "2", "3"], ValueError, r"counts must be integers"),
        ({1, 2, 3}, TypeError, r"counts must be in an order"),
        (None, ValueError, r"counts must be integers, got counts = None"),
    ],
)
def test_counts_that_do_not_fit(counts, error, message):
    for call in (BetaPosteriorBank(3).prompts_of, lambda counts: repeat(["a", "b", "c"], counts)):
        with pytest.raises(error, match=message):
            call(counts)


@pytest.mark.parametrize(
    "settings_", [{}, {"order": "best"}, {"fit_every": 2}, {"exploration": 0.5, "order": "best"}], ids=str
)
@pytest.mark.parametrize("offered", ["pool", "batches"])
def test_a_run_of_single_rollouts(settings_, offered):
    """Every prompt has one rollout per visit: no group, and yet an advantage."""
    size, rounds, per_round = 40, 30, 12
    more = {} if offered == "pool" else {"visits": 15}
    run = training_allocator(
        size, total_budget=rounds * per_round, n_rounds=rounds, rollouts_per_visit=1, **more, **settings_
    )
    rates, rng, told = np.random.default_rng(3).beta(0.5, 0.5, size), np.random.default_rng(4), []
    batches = itertools.cycle([range(0, 20), range(20, 40)])
    for _ in range(rounds):
        if offered == "pool":
            ids = run.bank.prompts_of(run.allocate(budget=per_round, exact=True))
        else:
            batch = list(next(batches))
            ids = repeat(batch, run.allocate(batch, budget=per_round))
        assert len(set(ids)) == len(ids)
        rewards = np.where(rng.random(len(ids)) < 0.1, NAN, rng.random(len(ids)) < rates[ids])
        mean, value = run.bank.mean(ids), run.bank.value(ids)
        advantages = run.observe(ids, rewards)
        scored = ~np.isnan(rewards)
        expected = (rewards - mean) / np.maximum(np.sqrt(value), 0.1)
        np.testing.assert_allclose(advantages, np.where(scored, expected, 0), rtol=1e-12)
        told.append(np.count_nonzero(scored))
        total, spent, reserved, left = run.balance
        assert (total, reserved) == (rounds * per_round, 0)
        assert spent + left == total
    assert spent > 0.9 * total
    assert run.metrics()["unreserved_rollouts"] == 0
    assert run.bank.calibration().n_groups == 0
    assert run.exposure.sum() == spent >= sum(told) > 0.8 * spent
