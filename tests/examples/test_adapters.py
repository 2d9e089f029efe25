"""What the trainers' adapters share: versions, groups, feedback, state on disk, one allocator between two steps."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import common
from adapters.dealer import Dealer, require_exact_batches
from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator


def allocator(kind=FenchelDualAllocator, **changes):
    run = {"total_budget": 64, "n_rounds": 4, "unit_size": 2, "max_rollouts": 8, "round_capacity": 16} | changes
    return kind(BetaPosteriorBank(["a", "b", "c"]), **run)


def test_docstring_examples():
    assert doctest.testmod(common) == (0, 3)


@pytest.mark.parametrize(
    ("found", "known"),
    [
        ("1.8.0", True), ("1.7.9", False), ("1.16.0", True), ("1.16.4", True), ("1.17.0", False), ("1.16.0.dev0", True),
        ("1.16.0+cpu", True), ("2.0", False), ("1.9rc1", False), ("1.9.0rc1", True),
    ],
)  # fmt: skip
def test_versions_outside_the_tested_range_are_refused(monkeypatch, found, known):
    monkeypatch.setattr(common, "version", lambda _: found)
    monkeypatch.delenv(common.UNTESTED, raising=False)
    if known:
        common.require_version("trl", "1.8.0", "1.16.0")
        return
    with pytest.raises(
        RuntimeError, match=r"trl must be between 1\.8\.0 and 1\.16\.0, .*, got .*\. Install 'trl>=1\.8\.0,<=1\.16\.0'"
    ):
        common.require_version("trl", "1.8.0", "1.16.0")
    monkeypatch.setenv(common.UNTESTED, "1")
    common.require_version("trl", "1.8.0", "1.16.0")


@given(st.lists(st.sampled_from("abcdef"), max_size=30))
def test_stacks_hold_every_place_once_with_its_group(keys):
    stacks = common.groups_by_size(keys)
    assert sorted(int(place) for stack in stacks for place in stack.ravel()) == list(range(len(keys)))
    assert len({stack.shape[1] for stack in stacks}) == len(stacks)
    for stack in stacks:
        for members in stack:
            assert {keys[place] for place in members} == {keys[members[0]]}
            assert len(members) == keys.count(keys[members[0]])
            assert (np.diff(members) > 0).all()


def test_rewards_outside_the_unit_interval_need_a_rule():
    with pytest.raises(ValueError, match=r"rewards must lie in \[0, 1\], got rewards\[1\] = -1\.0\. Pass success="):
        common.feedback(["a", "a"], [1.0, -1.0])
    assert common.feedback(["a", "a"], [2.0, -1.0], lambda reward: float(reward > 0)) == (["a"], [1.0], [2])
    assert common.feedback(["a", "b"], [math.nan, math.nan]) == ([], [], [])
    assert all(math.isnan(figure) for figure in common.prompt_metrics([], []).values())


def test_groups_of_one_are_refused():
    with pytest.raises(ValueError, match=r"unit_size or min_rollouts must be at least 2, got 1: a group of one"):
        common.require_groups(allocator(unit_size=1))
    common.require_groups(allocator(ResolvingAllocator, unit_size=1, min_rollouts=2))
    common.require_groups(allocator())


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
    assert dealer.metrics()["outstanding_rollouts"] == 1.0
    assert dealer.metrics()["zero_variance_share"] == 0.5
    with pytest.raises(ValueError, match="rollouts must carry the prompt they were asked for, got 'x'"):
        dealer.learn(["x"], [0.0])
    with pytest.raises(ValueError, match="Feasible totals"):
        dealer.deal(["a"], 12)
