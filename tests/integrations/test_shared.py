"""What the trainers' adapters share: versions, groups, feedback, state on disk, one allocator between two steps."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator
from cero_alloc.integrations import _build, _figures, _groups, _versions
from cero_alloc.integrations._build import checked_ids, run_allocator
from cero_alloc.integrations._dealer import Dealer, require_exact_batches
from cero_alloc.integrations._figures import group_figures, uniform_dead_share


def allocator(kind=FenchelDualAllocator, **changes):
    run = {"total_budget": 64, "n_rounds": 4, "unit_size": 2, "max_rollouts": 8, "round_capacity": 16} | changes
    return kind(BetaPosteriorBank(["a", "b", "c"]), **run)


def test_docstring_examples():
    assert doctest.testmod(_groups) == (0, 1)
    assert doctest.testmod(_build) == (0, 2)
    assert doctest.testmod(_figures) == (0, 4)


@pytest.mark.parametrize(
    ("found", "known"),
    [
        ("1.8.0", True), ("1.7.9", False), ("1.16.0", True), ("1.16.4", True), ("1.17.0", False), ("1.16.0.dev0", True),
        ("1.16.0+cpu", True), ("2.0", False), ("1.9rc1", False), ("1.9.0rc1", True),
    ],
)  # fmt: skip
def test_versions_outside_the_tested_range_are_refused(monkeypatch, found, known):
    monkeypatch.setattr(_versions, "version", lambda _: found)
    monkeypatch.delenv(_versions.UNTESTED, raising=False)
    if known:
        _versions.require_version("trl", "1.8.0", "1.16.0")
        return
    with pytest.raises(
        RuntimeError, match=r"trl must be between 1\.8\.0 and 1\.16\.0, .*, got .*\. Install 'trl>=1\.8\.0,<=1\.16\.0'"
    ):
        _versions.require_version("trl", "1.8.0", "1.16.0")
    monkeypatch.setenv(_versions.UNTESTED, "1")
    _versions.require_version("trl", "1.8.0", "1.16.0")


@given(st.lists(st.sampled_from("abcdef"), max_size=30))
def test_stacks_hold_every_place_once_with_its_group(keys):
    stacks = _groups.groups_by_size(keys)
    assert sorted(int(place) for stack in stacks for place in stack.ravel()) == list(range(len(keys)))
    assert len({stack.shape[1] for stack in stacks}) == len(stacks)
    for stack in stacks:
        for members in stack:
            assert {keys[place] for place in members} == {keys[members[0]]}
            assert len(members) == keys.count(keys[members[0]])
            assert (np.diff(members) > 0).all()


def test_rewards_outside_the_range_need_a_rule():
    dealer = Dealer(allocator())
    counts = dealer.deal(None, 12)
    prompts = dealer.allocator.bank.prompts_of(counts)
    with pytest.raises(ValueError, match=r"rewards must lie in \[0, 1\], got rewards\[1\] = -1\.0\. Pass success="):
        dealer.learn(prompts, [1.0, -1.0] + [0.0] * 10)
    assert dealer.allocator.outstanding.sum() == 12
    dealer.success = lambda reward: float(reward > 0)
    dealer.learn(prompts, [2.0, -1.0] + [0.0] * 10)
    assert dealer.allocator.bank.alpha.sum() == 4.0


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([0.0, 0.5, 1.0, math.nan])), max_size=30),
)
def test_figures_are_those_of_a_loop(rollouts):
    prompts, rewards = [prompt for prompt, _ in rollouts], np.array([reward for _, reward in rollouts])
    advantages = np.arange(len(rollouts), dtype=float)
    found = group_figures(prompts, rewards, advantages)
    groups = {}
    for prompt, reward in rollouts:
        groups.setdefault(prompt, []).append(reward)
    scored = [[r for r in group if not math.isnan(r)] for group in groups.values()]
    scored = [group for group in scored if group]
    sizes = [len(group) for group in groups.values()]
    total = sum(map(len, scored))
    expected = {
        "prompt_reward": np.mean([np.mean(group) for group in scored]) if scored else math.nan,
        "mixed_rollouts": sum(len(g) for g in scored if len(set(g)) > 1) / total if total else math.nan,
        "dead_share": sum(len(g) for g in scored if len(set(g)) == 1) / total if total else math.nan,
        "prompts_dealt": len(groups),
        "mean_group": np.mean(sizes) if sizes else math.nan,
        "least_group": min(sizes, default=math.nan),
        "largest_group": max(sizes, default=math.nan),
        "squared_advantage": np.mean(advantages[~np.isnan(rewards)] ** 2) if total else math.nan,
    }
    assert found == pytest.approx(expected, nan_ok=True)


def test_uniform_groups_are_dead_with_the_chance_of_their_beliefs():
    bank = BetaPosteriorBank(["a", "b", "c"], prior=(0.5, 2.0))
    bank.update(["a"], [3.0], [4])
    chances = [
        float(betabinom.pmf([0, 6], 6, a, b).sum())
        for a, b in zip(bank.alpha.tolist(), bank.beta.tolist(), strict=True)
    ]
    assert uniform_dead_share(bank, None, 6) == pytest.approx(np.mean(chances))
    assert uniform_dead_share(bank, ["c", "a", "c"], 6) == pytest.approx((chances[0] + chances[2]) / 2)
    assert math.isnan(uniform_dead_share(bank, [], 6))


@pytest.mark.parametrize("advantages", ["group", "posterior"])
@pytest.mark.parametrize("mode", ["select", "redeal"])
def test_the_run_allocator_deals_every_batch_its_total(mode, advantages):
    run = {"n_rounds": 12, "slots": 32, "group_size": 4, "mode": mode, "advantages": advantages, "visits": 2}
    own = run_allocator(range(48), **run)
    rng, seen = np.random.default_rng(0), []
    for turn in range(12):
        offer = None if mode == "select" else [(8 * turn + i) % 48 for i in range(8)]
        counts = own.allocate(offer, 32, exact=True)
        assert counts.sum() == 32
        seen += counts[counts > 0].tolist()
        own.observe(
            own.bank.prompts_of(counts) if offer is None else np.repeat(offer, counts).tolist(), rng.random(32) < 0.5
        )
    assert own.remaining_budget == 0
    if mode == "select":
        assert set(seen) == {4 if advantages == "group" else 1}
    else:
        assert min(seen) >= (4 if advantages == "group" else 1)


def test_words_that_the_run_allocator_does_not_know():
    run = {"n_rounds": 4, "slots": 8, "group_size": 4}
    with pytest.raises(ValueError, match=r"mode must be one of \['select', 'redeal'\], got mode = 'both'"):
        run_allocator(3, **run, mode="both", advantages="group")
    with pytest.raises(
        ValueError, match=r"advantages must be one of \['group', 'posterior'\], got advantages = 'grpo'"
    ):
        run_allocator(3, **run, mode="select", advantages="grpo")


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([1, None], r"id\[1\] must hold a text or an integer in every row, got id\[1\] = None"),
        ([[1], 2], r"id\[0\] must hold a text or an integer in every row, got id\[0\] = \[1\]"),
        (
            ["a", "b", "a"],
            r"id must name one row each: rows 0 and 2 are the same prompt to the allocator, got id = 'a'",
        ),
    ],
)
def test_prompt_ids_are_checked(ids, text):
    with pytest.raises(ValueError, match=text):
        checked_ids(ids, "id")
    assert checked_ids(["b", 1], "id") == ["b", 1]


def test_groups_of_one_are_refused():
    with pytest.raises(ValueError, match=r"unit_size or min_rollouts must be at least 2, got 1: a group of one"):
        _groups.require_groups(allocator(unit_size=1))
    _groups.require_groups(allocator(ResolvingAllocator, unit_size=1, min_rollouts=2))
    _groups.require_groups(allocator())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"unit_size": 4, "max_rollouts": 8}, r"rollouts = 6 must be a multiple of unit_size = 4, at most max_rollouts = 8"),
        ({"max_rollouts": 4, "total_budget": 48}, r"rollouts = 6 must be a multiple of unit_size = 2, at most max_rollouts = 4"),
        ({"round_capacity": 16}, r"round_capacity = 16 must be at least the 18 rollouts of a batch\. Raise it"),
    ],
)  # fmt: skip
def test_allocators_that_cannot_deal_a_batch_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        require_exact_batches(allocator(**changes), 6, 3, "rollouts")
    require_exact_batches(allocator(round_capacity=18), 6, 3, "rollouts")


@pytest.mark.parametrize("offer", [["c", "a"], None])
def test_a_dealer_deals_the_total_and_learns_the_rewards(offer):
    dealer = Dealer(allocator(), lambda reward: reward / 2)
    counts = dealer.deal(offer, 12)
    assert sum(counts) == 12
    names = offer or ["a", "b", "c"]
    rollouts = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    dealer.learn(rollouts, [2.0, math.nan] + [0.0] * 10)
    assert dealer.allocator.bank.alpha.sum() == 4.0
    assert dealer.allocator.bank.beta.sum() == 13.0
    assert dealer.metrics()["outstanding_rollouts"] == 0.0  # what nothing could score is written off
    assert dealer.metrics()["spent_budget"] == 12.0
    assert 0.0 < dealer.metrics()["dead_share"] < 1.0
    with pytest.raises(ValueError, match="rollouts must carry the prompt they were asked for, got 'x'"):
        dealer.learn(["x"], [0.0])
    with pytest.raises(ValueError, match="Feasible totals"):
        dealer.deal(["a"], 12)
