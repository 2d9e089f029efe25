"""Advantages: against their twins, orders of the rollouts, special cases and limits, MaPP against quadrature."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import roots_jacobi

from cero_alloc import BetaPosteriorBank
from cero_alloc._evidence.advantages import SCALE_FLOOR, Known, leave_one_out_advantages, mapp_advantages
from twins import advantages as twins

HOWS = list(itertools.product(["posterior", "group", "batch"], ["none", "posterior", "group"]))
parameters = st.floats(-6, 8).map(lambda x: 10.0**x)
binary = st.sampled_from([0.0, 1.0])
# Whole thousandths, so that no group is at the edge of being all alike.
fractional = st.one_of(binary, st.sampled_from([0.1, 0.5, 0.7]), st.integers(0, 1000).map(lambda x: x / 1000))


@st.composite
def calls(draw, rewards, fewest=0):
    """Rollouts of a few prompts, some of them with one rollout or none, in any order."""
    size = draw(st.integers(1, 4))
    rollouts = draw(st.lists(st.tuples(st.integers(0, size - 1), rewards), min_size=fewest, max_size=12))
    a, b = (np.array(draw(st.lists(parameters, min_size=size, max_size=size))) for _ in range(2))
    lacking = np.array(draw(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=size, max_size=size)))
    group = np.array([g for g, _ in rollouts], dtype=np.int64)
    return group, np.array([r for _, r in rollouts]), Known(a, b, lacking * (a / (a + b)) * b)


def one_prompt(a, b, deficit=0.0):
    return Known(np.array([a]), np.array([b]), np.array([deficit]))


def of_one_prompt(rewards, known, **how):
    return leave_one_out_advantages(np.zeros(len(rewards), dtype=np.int64), np.array(rewards), known, **how)


# ---------------------------------------------------------------- a baseline and a scale


@given(calls(fractional), st.sampled_from(HOWS))
def test_leave_one_out_matches_its_twin(call, how):
    advantages = leave_one_out_advantages(*call, baseline=how[0], scale=how[1])
    assert advantages.dtype == np.float64
    assert advantages.shape == call[0].shape
    assert advantages.tolist() == pytest.approx(twins.leave_one_out_advantages(*call, *how), rel=1e-10, abs=1e-12)


@given(calls(fractional), st.sampled_from(HOWS), st.randoms(use_true_random=False))
def test_the_order_of_the_rollouts_matters_by_rounding_only(call, how, random):
    group, rewards, known = call
    order = random.sample(range(group.size), group.size)
    advantages = leave_one_out_advantages(*call, baseline=how[0], scale=how[1])
    permuted = leave_one_out_advantages(group[order], rewards[order], known, baseline=how[0], scale=how[1])
    assert permuted.tolist() == pytest.approx(advantages[order].tolist(), rel=1e-10, abs=1e-12)


@given(calls(binary), st.sampled_from(HOWS), st.randoms(use_true_random=False))
def test_0_1_rewards_give_the_same_bits_in_any_order(call, how, random):
    group, rewards, known = call
    order = random.sample(range(group.size), group.size)
    advantages = leave_one_out_advantages(*call, baseline=how[0], scale=how[1])
    permuted = leave_one_out_advantages(group[order], rewards[order], known, baseline=how[0], scale=how[1])
    assert permuted.tolist() == advantages[order].tolist()
    for g, r in set(zip(group.tolist(), rewards.tolist(), strict=True)):  # equal rollouts, equal advantages
        assert len(set(advantages[(group == g) & (rewards == r)].tolist())) == 1


@pytest.mark.parametrize("how", HOWS)
def test_large_groups_of_0_1_rewards_give_the_same_bits_in_any_order(how):
    rng = np.random.default_rng(0)
    known = Known(rng.uniform(0.1, 9, 5), rng.uniform(0.1, 9, 5), rng.uniform(0, 0.01, 5))
    group, rewards = rng.integers(0, 5, 999), rng.integers(0, 2, 999) * 1.0
    advantages = leave_one_out_advantages(group, rewards, known, baseline=how[0], scale=how[1])
    for _ in range(10):
        order = rng.permutation(999)
        permuted = leave_one_out_advantages(group[order], rewards[order], known, baseline=how[0], scale=how[1])
        assert permuted.tolist() == advantages[order].tolist()


@given(calls(fractional, fewest=1), st.sampled_from(HOWS))
def test_inputs_stay_as_they_are(call, how):
    before = [array.copy() for array in (call[0], call[1], *call[2])]
    leave_one_out_advantages(*call, baseline=how[0], scale=how[1])
    assert all((x == y).all() for x, y in zip(before, (call[0], call[1], *call[2]), strict=True))


@pytest.mark.parametrize("how", HOWS)
def test_calls_without_rollouts(how):
    nothing = np.empty(0, dtype=np.int64), np.empty(0)
    for size in (0, 3):
        known = Known(np.ones(size), np.ones(size), np.zeros(size))
        assert leave_one_out_advantages(*nothing, known, baseline=how[0], scale=how[1]).shape == (0,)
        assert mapp_advantages(*nothing, known, group_size=4).shape == (0,)


def test_a_group_of_one():
    known = one_prompt(3.0, 1.0)
    assert of_one_prompt([1.0], known, baseline="posterior", scale="none").tolist() == [0.25]
    assert of_one_prompt([0.0], known, baseline="posterior", scale="none").tolist() == [-0.75]
    value = 3.0 / (4.0 * 5.0)
    scaled = of_one_prompt([1.0], known, baseline="posterior", scale="posterior")
    assert scaled.tolist() == pytest.approx([0.25 / value**0.5], rel=1e-15)
    assert of_one_prompt([1.0], known, baseline="posterior", scale="group").tolist() == [0.25]
    assert of_one_prompt([1.0], known, baseline="group", scale="group").tolist() == [0.0]
    assert of_one_prompt([1.0], known, baseline="batch", scale="none").tolist() == [0.0]


@given(st.lists(binary, min_size=1, max_size=9), st.floats(0.1, 50), st.floats(0.1, 50))
def test_baseline_and_scale_are_mean_and_value_of_a_bank_that_saw_the_others(rewards, a, b):
    advantages = of_one_prompt(rewards, one_prompt(a, b), baseline="posterior", scale="posterior")
    for j, advantage in enumerate(advantages):
        bank, others = BetaPosteriorBank(1, prior=(a, b)), rewards[:j] + rewards[j + 1 :]
        bank.update(None, [sum(others)], [len(others)])
        scale = max(SCALE_FLOOR, float(bank.value()[0]) ** 0.5)
        assert advantage == pytest.approx((rewards[j] - float(bank.mean()[0])) / scale, rel=1e-12)


@given(st.lists(fractional, min_size=2, max_size=9))
def test_the_posterior_baseline_lies_between_the_others_mean_and_the_prior_mean(rewards):
    n, mean = len(rewards), np.mean(rewards)
    weak = of_one_prompt(rewards, one_prompt(1e-12, 3e-12), baseline="posterior", scale="none")
    assert weak.tolist() == pytest.approx((n / (n - 1) * (np.array(rewards) - mean)).tolist(), abs=1e-10)
    strong = of_one_prompt(rewards, one_prompt(1e12, 3e12), baseline="posterior", scale="none")
    assert strong.tolist() == pytest.approx((np.array(rewards) - 0.25).tolist(), abs=1e-10)


@given(st.lists(fractional, min_size=2, max_size=9))
def test_group_baseline_and_scale_are_those_of_grpo(rewards):
    advantages = of_one_prompt(rewards, one_prompt(1.0, 1.0), baseline="group", scale="group")
    if len(set(rewards)) > 1:
        expected = (np.array(rewards) - np.mean(rewards)) / np.std(rewards, ddof=1)
        assert advantages.tolist() == pytest.approx(expected.tolist(), rel=1e-10, abs=1e-12)
    else:
        assert np.abs(advantages).max() < 1e-15


@pytest.mark.parametrize(
    "rewards",
    [
        [0.0] * 5, [1.0] * 5, [0.1] * 7, [0.3, float(np.float32(0.3)), 0.3], [1e-200, 2e-200], [5e-324, 0.0],
        [0.7 * (1 + 1e-7), 0.7, 0.7],
    ],
)  # fmt: skip
def test_a_group_without_deviation_is_not_divided(rewards):
    plain = of_one_prompt(rewards, one_prompt(2.0, 1.0), baseline="posterior", scale="none")
    assert of_one_prompt(rewards, one_prompt(2.0, 1.0), baseline="posterior", scale="group").tolist() == plain.tolist()


@pytest.mark.parametrize("rewards", [[0.7 * (1 + 1e-5), 0.7], [1e-5, 2e-5, 1e-5]])
def test_a_small_deviation_is_one(rewards):
    divided = of_one_prompt(rewards, one_prompt(2.0, 1.0), baseline="group", scale="group")
    assert np.std(divided, ddof=1) == pytest.approx(1.0, rel=1e-9)


def test_all_right_differs_from_always_right():
    # A group that is all right says something of a prompt that was not expected to be, and little of one that always is.
    known = Known(np.array([1.0, 40.0]), np.array([3.0, 0.5]), np.zeros(2))
    group, rewards = np.repeat([0, 1], 8), np.ones(16)
    advantages = leave_one_out_advantages(group, rewards, known, baseline="posterior", scale="none")
    assert advantages.tolist() == pytest.approx([3 / 11] * 8 + [0.5 / 47.5] * 8, rel=1e-14)
    assert not leave_one_out_advantages(group, rewards, known, baseline="group", scale="none").any()


@given(calls(fractional), st.sampled_from(["posterior", "group", "batch"]))
def test_the_floor_bounds_the_advantages(call, baseline):
    advantages = leave_one_out_advantages(*call, baseline=baseline, scale="posterior")
    assert (np.abs(advantages) <= 1 / SCALE_FLOOR).all()


def test_the_floor_is_the_deviation_of_a_success_rate_of_one_percent():
    assert abs((0.01 * 0.99) ** 0.5 - SCALE_FLOOR) < 0.001
    known = one_prompt(1.0, 1e6)
    assert of_one_prompt([1.0], known, baseline="posterior", scale="posterior")[0] == pytest.approx(10.0, rel=1e-5)


def test_rewards_that_never_vary_have_no_variance():
    # Eight earlier rewards of 0.5 under a weak prior: as 0/1 rewards the prompt would look worth the most.
    seen = one_prompt(4.001, 4.001, deficit=8 * 0.25)
    coin = one_prompt(4.001, 4.001)
    none = one_prompt(4.001, 4.001, deficit=2.0005 * (1 + 1e-15))  # negative by rounding
    for known, variance in ((coin, 4.001**2 / (8.002 * 9.002)), (seen, 0.01), (none, 0.01)):
        scaled = of_one_prompt([1.0], known, baseline="posterior", scale="posterior")
        assert scaled.tolist() == pytest.approx([0.5 / variance**0.5], rel=1e-12)


# ---------------------------------------------------------------- MaPP


@settings(max_examples=60)
@given(calls(binary, fewest=1), st.integers(2, 16))
def test_mapp_matches_its_twin(call, group_size):
    advantages = mapp_advantages(*call, group_size=group_size)
    assert advantages.dtype == np.float64
    assert advantages.tolist() == pytest.approx(twins.mapp_advantages(*call, group_size), rel=1e-12, abs=0)


@pytest.mark.parametrize("group_size", [2, 3, 8, 32, 128])
def test_mapp_keeps_its_accuracy_for_large_and_small_parameters(group_size):
    extremes = [1e-6, 0.3, 1.0, 1e3, 1e8]
    pairs = np.array([(a, b) for a in extremes for b in extremes if group_size < 32 or {a, b} <= {1e-6, 1e8}])
    known = Known(pairs[:, 0].copy(), pairs[:, 1].copy(), np.zeros(len(pairs)))
    for reward in (0.0, 1.0):
        call = np.arange(len(pairs)), np.full(len(pairs), reward), known
        advantages = mapp_advantages(*call, group_size=group_size)
        assert advantages.tolist() == pytest.approx(twins.mapp_advantages(*call, group_size), rel=1e-12, abs=0)


def grpos_advantage(p, group_size, reward):
    """GRPO's normalised advantage of a rollout, averaged over the others of its group, whose success rate is p."""
    mean = 0.0
    for others in range(group_size):
        rewards = np.array([reward] + [1.0] * others + [0.0] * (group_size - 1 - others))
        chance = math.comb(group_size - 1, others) * p**others * (1.0 - p) ** (group_size - 1 - others)
        mean = mean + chance * ((reward - rewards.mean()) / rewards.std() if rewards.std() > 0.0 else 0.0)
    return mean


def by_quadrature(a, b, group_size, reward):
    """Gauss-Jacobi, exact: the mean over the others is a polynomial in p of degree group_size - 1."""
    x, weight = roots_jacobi(group_size, b - 1.0, a - 1.0)
    return (weight * grpos_advantage((1.0 + x) / 2.0, group_size, reward)).sum() / weight.sum()


@settings(max_examples=60)
@given(st.floats(0.2, 40), st.floats(0.2, 40), st.integers(2, 16), st.lists(binary, min_size=1, max_size=6))
def test_mapp_is_the_mean_of_grpos_advantage_over_the_posterior(a, b, group_size, rewards):
    group = np.zeros(len(rewards), dtype=np.int64)
    advantages = mapp_advantages(group, np.array(rewards), one_prompt(a, b), group_size=group_size)
    for j, advantage in enumerate(advantages):
        others = rewards[:j] + rewards[j + 1 :]
        expected = by_quadrature(a + sum(others), b + len(others) - sum(others), group_size, rewards[j])
        assert advantage == pytest.approx(expected, rel=1e-12)


@given(calls(binary, fewest=1))
def test_mapp_of_pairs_is_the_posterior_baseline(call):
    advantages = leave_one_out_advantages(*call, baseline="posterior", scale="none")
    assert mapp_advantages(*call, group_size=2).tolist() == pytest.approx(advantages.tolist(), abs=1e-15)


@given(calls(binary, fewest=1), st.integers(2, 40), st.randoms(use_true_random=False))
def test_mapp_is_the_same_in_any_order_and_changes_sign_with_the_rewards(call, group_size, random):
    group, rewards, known = call
    advantages = mapp_advantages(*call, group_size=group_size)
    order = random.sample(range(group.size), group.size)
    assert mapp_advantages(group[order], rewards[order], known, group_size=group_size).tolist() == (
        advantages[order].tolist()
    )
    mirrored = Known(known.b, known.a, known.deficit)
    assert mapp_advantages(group, 1.0 - rewards, mirrored, group_size=group_size).tolist() == (-advantages).tolist()
    assert (np.sign(advantages) == 2 * rewards - 1).all()
    assert (np.abs(advantages) <= (group_size - 1) ** 0.5 * (1 + 1e-14)).all()


@pytest.mark.parametrize(("p", "group_size"), [(0.01, 8), (0.3, 8), (0.5, 5), (0.97, 16)])
def test_mapp_of_a_known_rate_is_the_binomial_mean_of_grpos_advantage(p, group_size):
    known = one_prompt(1e13 * p, 1e13 * (1 - p))
    rewards = np.array([1.0, 0.0])
    advantages = mapp_advantages(np.zeros(2, dtype=np.int64), rewards, known, group_size=group_size)
    expected = [grpos_advantage(p, group_size, reward) for reward in rewards]
    assert advantages.tolist() == pytest.approx(expected, rel=1e-9)


def test_mapp_survives_underflow():
    # Both ends of the weights underflow in groups of 4000, and all but one with a parameter of 1e-300.
    known = Known(np.array([1e8, 1e-300, 1e-300, 1e300]), np.array([1e8, 1.0, 1e-300, 1e300]), np.zeros(4))
    advantages = mapp_advantages(np.arange(4), np.ones(4), known, group_size=4000)
    assert np.isfinite(advantages).all()
    assert advantages[0] == pytest.approx(advantages[3], rel=1e-4) == pytest.approx(1.0, rel=1e-3)
    assert advantages[1] == pytest.approx(3999**0.5, rel=1e-12)  # the only success
    assert advantages[2] == pytest.approx(3999**0.5 / 2, rel=1e-12)  # either all right or the only success
