"""Claims 25 to 28 of docs/theory.md: advantages with the posterior as baseline, by enumeration of all outcomes."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import roots_jacobi

from cero_alloc._evidence.advantages import SCALE_FLOOR, Known, leave_one_out_advantages, mapp_advantages

rates = st.floats(0.02, 0.98)
parameters = st.floats(0.05, 30)
sizes = st.integers(1, 6)
whole = st.integers(1, 6)  # parameters for exact arithmetic
# Three rewards, the probabilities of a softmax policy over them, and what is known of the prompt.
levels = st.tuples(st.just(0.0), st.floats(0.1, 0.9), st.just(1.0)).map(np.array)
policies = st.tuples(*3 * [st.floats(0.05, 1)]).map(lambda weights: np.array(weights) / sum(weights))
masses = st.tuples(*3 * [st.floats(0.2, 5)]).map(np.array)

tight = {"rel": 1e-12, "abs": 1e-12}


def outcomes(n_levels, n):
    """Every sequence of n rollouts, by the index of the reward: shape (n_levels**n, n)."""
    return np.array(list(itertools.product(range(n_levels), repeat=n)))


def known_of(mass, reward):
    """What is known of a prompt with this mass at each reward: Beta's parameters and the deficit."""
    return float(mass @ reward), float(mass @ (1 - reward)), float(mass @ (reward - reward**2))


def advantages_of(rewards, a, b, deficit=0.0, *, baseline="posterior", scale="none"):
    """Advantages of groups, each row of ``rewards`` a group of its own, all with the same knowledge."""
    n_groups, n = rewards.shape
    known = Known(np.full(n_groups, a), np.full(n_groups, b), np.full(n_groups, deficit))
    group, how = np.repeat(np.arange(n_groups), n), {"baseline": baseline, "scale": scale}
    return leave_one_out_advantages(group, rewards.ravel(), known, **how).reshape(rewards.shape)


def estimate(rewards, advantages, policy, index):
    """Expectation of advantage times score, by rollout and logit: shape (n, n_levels). The score is 1{r = r_l} - pi_l."""
    chance = policy[index].prod(axis=1)
    scores = np.eye(policy.size)[index] - policy
    return np.einsum("o,oj,ojl->jl", chance, advantages, scores)


def gradient(policy, reward):
    """Derivatives of the expected reward by the logits."""
    return policy * (reward - policy @ reward)


# ---------------------------------------------------------------- Claim 25


@given(rates, parameters, parameters, sizes)
def test_claim_25_the_posterior_baseline_has_no_bias(p, a, b, n):
    index = outcomes(2, n)
    rewards, chance = index * 1.0, np.array([1 - p, p])[index].prod(axis=1)
    plain, scaled = (advantages_of(rewards, a, b, scale=scale) for scale in ("none", "posterior"))
    assert chance @ (plain * (rewards - p)) == pytest.approx([p * (1 - p)] * n, **tight)
    factor = chance @ (scaled / plain)  # the mean of 1 / scale
    assert chance @ (scaled * (rewards - p)) == pytest.approx(factor * p * (1 - p), **tight)


@given(levels, policies, masses, st.integers(1, 4))
def test_claim_25_with_three_rewards(reward, policy, mass, n):
    index, known = outcomes(3, n), known_of(mass, reward)
    rewards, target = reward[index], gradient(policy, reward)
    for estimated in estimate(rewards, advantages_of(rewards, *known), policy, index):
        assert estimated == pytest.approx(target, **tight)
    a, b, deficit = known
    s = a + b + n - 1
    for j, estimated in enumerate(estimate(rewards, advantages_of(rewards, *known, scale="posterior"), policy, index)):
        others = np.delete(rewards, j, axis=1)
        m, lacking = (a + others.sum(axis=1)) / s, deficit + (others - others**2).sum(axis=1)
        scale = np.maximum(SCALE_FLOOR, np.sqrt(np.maximum(0.0, (m - lacking / s - m**2) * s / (s + 1))))
        assert estimated == pytest.approx(policy[index].prod(axis=1) @ (1 / scale) * target, **tight)


@given(levels, st.tuples(policies, policies), masses)
def test_claim_25_the_mean_of_the_rest_of_the_call_has_no_bias_either(reward, pair, mass):
    index = outcomes(3, 3)  # two rollouts of one prompt, one of another
    group, rewards = np.array([0, 0, 1]), reward[index]
    a, b, deficit = known_of(mass, reward)
    known = Known(np.full(2, a), np.full(2, b), np.full(2, deficit))
    by_rollout = np.array([pair[g] for g in group])
    chance = by_rollout[np.arange(3), index].prod(axis=1)
    advantages = np.array(
        [leave_one_out_advantages(group, row, known, baseline="batch", scale="none") for row in rewards]
    )
    estimated = np.einsum("o,oj,ojl->jl", chance, advantages, np.eye(3)[index] - by_rollout)
    for j, policy in enumerate(by_rollout):
        assert estimated[j] == pytest.approx(gradient(policy, reward), **tight)


@given(levels, policies, st.integers(1, 4))
def test_claim_25_the_mean_of_the_whole_group_keeps_the_share_n_minus_1_of_n(reward, policy, n):
    index = outcomes(3, n)
    advantages = advantages_of(reward[index], 1.0, 1.0, baseline="group")
    for estimated in estimate(reward[index], advantages, policy, index):
        assert estimated == pytest.approx((n - 1) / n * gradient(policy, reward), **tight)


@given(levels, policies)
def test_claim_25_pairs_scaled_by_their_deviation_forget_the_sizes_of_the_rewards(reward, policy):
    index = outcomes(3, 2)
    advantages = advantages_of(reward[index], 1.0, 1.0, baseline="group", scale="group")
    below = np.array([policy[:level].sum() for level in range(3)])
    expected = policy * (below - (1 - below - policy)) / math.sqrt(2)
    for estimated in estimate(reward[index], advantages, policy, index):
        assert estimated == pytest.approx(expected, **tight)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("baseline", ["group", "posterior"])
def test_claim_25_the_groups_deviation_turns_the_gradient(baseline, n):
    """It favours a response that is worse than the average of 0.145."""
    reward, policy, index = np.array([0.0, 0.1, 1.0]), np.array([0.45, 0.45, 0.1]), outcomes(3, n)
    advantages = advantages_of(reward[index], 1.0, 1.0, baseline=baseline, scale="group")
    estimated = estimate(reward[index], advantages, policy, index)[0]
    assert gradient(policy, reward)[1] < -0.02
    assert estimated[1] > (0.06 if baseline == "group" else 0.02)  # there the divisor is at least 0.1


# ---------------------------------------------------------------- Claim 26


def expected_square(p, a, b, n, **how):
    """E[A_j^2] of a group of n rollouts with success rate p, the same for every j."""
    index = outcomes(2, n)
    squares = np.array([1 - p, p])[index].prod(axis=1) @ advantages_of(index * 1.0, a, b, **how) ** 2
    assert squares == pytest.approx([squares[0]] * n, rel=1e-12)
    return squares[0]


def baseline_error(p, a, b, n):
    """E[(m_{-j} - p)^2] by Claim 26."""
    s = a + b
    return (p * (1 - p) * (n - 1) + (s * (a / s - p)) ** 2) / (s + n - 1) ** 2


@given(rates, parameters, parameters, sizes)
def test_claim_26_square_of_the_advantage(p, a, b, n):
    assert expected_square(p, a, b, n) == pytest.approx(p * (1 - p) + baseline_error(p, a, b, n), rel=1e-12)


@settings(max_examples=50)
@given(parameters, parameters, sizes)
def test_claim_26_prior_and_rollouts_count_alike(a, b, n):
    x, weight = roots_jacobi(n + 2, b - 1, a - 1)  # exact for polynomials of degree 2 n + 3
    p, weight = (1 + x) / 2, weight / weight.sum()
    value = weight @ (p * (1 - p))
    mean_square = weight @ [expected_square(rate, a, b, n) for rate in p]
    assert mean_square == pytest.approx(value * (1 + 1 / (a + b + n - 1)), rel=1e-11)
    if n > 1:  # the mean of the others alone: n / (n - 1) times the group's advantage
        of_group = weight @ [expected_square(rate, a, b, n, baseline="group") for rate in p]
        assert (n / (n - 1)) ** 2 * of_group == pytest.approx(value * (1 + 1 / (n - 1)), rel=1e-11)


@given(st.floats(0, 1), parameters, parameters, st.integers(2, 6))
def test_claim_26_where_a_wrong_prior_is_worse_than_none(p, a, b, n):
    s = a + b
    off, bound = (a / s - p) ** 2, p * (1 - p) * (1 / (n - 1) + 2 / s)
    assume(abs(off - bound) > 1e-6)
    posterior = expected_square(p, a, b, n)
    group = (n / (n - 1)) ** 2 * expected_square(p, a, b, n, baseline="group")
    assert (posterior > group) == (off > bound)


def test_claim_26_a_good_and_a_bad_guess():
    # Eight pseudo-rollouts at a mean of 0.5, four rollouts: the error of the baseline against that of the others' mean.
    assert baseline_error(0.5, 4, 4, 4) / (0.25 / 3) == pytest.approx(9 / 121, rel=1e-12)
    assert baseline_error(0.02, 4, 4, 4) / (0.02 * 0.98 / 3) == pytest.approx(18.7, abs=0.1)


# ---------------------------------------------------------------- Claim 27


def grpos_advantage(p, group_size, reward):
    """GRPO's normalised advantage of a rollout, averaged over the others of its group, whose success rate is p."""
    mean = 0.0
    for others in range(group_size):
        rewards = np.array([reward] + [1.0] * others + [0.0] * (group_size - 1 - others))
        if rewards.std() > 0:
            mean += stats.binom.pmf(others, group_size - 1, p) * (reward - rewards.mean()) / rewards.std()
    return mean


@pytest.mark.parametrize("reward", [0.0, 1.0])
@pytest.mark.parametrize(("a", "b", "group_size"), [(1.0, 1.0, 2), (1.4, 2.5, 8), (7.0, 3.0, 5), (2.0, 40.0, 8)])
def test_claim_27_mapp_is_the_posterior_mean_of_grpos_advantage(a, b, group_size, reward):
    others = [1.0, 0.0, 0.0]
    group, rewards = np.zeros(4, dtype=np.int64), np.array([*others, reward])
    known = Known(np.array([a]), np.array([b]), np.zeros(1))
    closed = mapp_advantages(group, rewards, known, group_size=group_size)[-1]
    a, b = a + sum(others), b + len(others) - sum(others)
    mean, _ = integrate.quad(
        lambda p: stats.beta.pdf(p, a, b) * grpos_advantage(p, group_size, reward), 0, 1, epsabs=0, epsrel=1e-13
    )
    assert closed == pytest.approx(mean, rel=1e-12)


@given(rates, parameters, parameters, sizes, st.integers(2, 9))
def test_claim_27_mapp_estimates_a_positive_multiple_of_the_gradient(p, a, b, n, group_size):
    index = outcomes(2, n)
    chance, known = np.array([1 - p, p])[index].prod(axis=1), Known(*np.full((3, len(index)), [[a], [b], [0.0]]))

    def advantage(first):
        rewards = index * 1.0
        rewards[:, 0] = first
        group = np.repeat(np.arange(len(index)), n)
        return mapp_advantages(group, rewards.ravel(), known, group_size=group_size).reshape(rewards.shape)[:, 0]

    right, wrong = advantage(1.0), advantage(0.0)
    estimated = chance @ (np.where(index[:, 0] == 1, right, wrong) * (index[:, 0] - p))
    assert estimated == pytest.approx(p * (1 - p) * (chance @ (right - wrong)), rel=1e-11)
    assert (right - wrong > 0).all()


# ---------------------------------------------------------------- Claim 28


@given(whole, whole)
def test_claim_28_exactly_for_0_1_rewards(a, b):
    a, b = Fraction(a), Fraction(b)
    s = a + b
    m, value, of_mean = a / s, a * b / (s * (s + 1)), a * (a + 1) / (s * (s + 1)) - (a / s) ** 2
    assert of_mean == value / s
    assert m * (1 - m) ** 2 + (1 - m) * m**2 == value + of_mean == (1 + 1 / s) * value


@given(st.lists(whole, min_size=1, max_size=5), st.data())
def test_claim_28_exactly_for_any_rewards(mass, data):
    """A Dirichlet process whose mean measure has finitely many rewards is a Dirichlet distribution."""
    rewards = data.draw(st.lists(st.fractions(0, 1, max_denominator=9), min_size=len(mass), max_size=len(mass)))
    s = sum(mass)
    m, v = (sum(x * Fraction(r) ** k for x, r in zip(mass, rewards, strict=True)) / s for k in (1, 2))
    pairs = itertools.product(range(len(mass)), repeat=2)
    # E[w_i w_k] of the weights w of a Dirichlet distribution
    square_of_mean = sum(
        Fraction(mass[i] * (mass[k] + (i == k)), s * (s + 1)) * rewards[i] * rewards[k] for i, k in pairs
    )
    value, of_mean = v - square_of_mean, square_of_mean - m**2
    assert value == (v - m**2) * s / (s + 1)
    assert of_mean == value / s
    predictive = sum(Fraction(x, s) * (r - m) ** 2 for x, r in zip(mass, rewards, strict=True))
    assert predictive == value + of_mean == (1 + Fraction(1, s)) * value


@given(levels, masses, st.integers(1, 5))
def test_claim_28_scaled_advantages_have_the_square_1_plus_1_of_s(reward, mass, n):
    """Over the rollouts that the posterior predicts: Polya's urn, each rollout with the mass of those before it."""
    index, known = outcomes(3, n), known_of(mass, reward)
    chance = np.ones(len(index))
    for j in range(n):
        seen = mass + np.eye(3)[index[:, :j]].sum(axis=1)
        chance *= seen[np.arange(len(index)), index[:, j]] / (mass.sum() + j)
    plain, scaled = (advantages_of(reward[index], *known, scale=scale) for scale in ("none", "posterior"))
    m, s = mass @ reward / mass.sum(), mass.sum()
    value = (mass @ reward**2 / s - m**2) * s / (s + 1)
    assert chance @ plain**2 == pytest.approx([value * (1 + 1 / (s + n - 1))] * n, rel=1e-11)
    if np.abs(plain - SCALE_FLOOR * scaled).min() > 1e-9:  # no scale at the floor
        assert chance @ scaled**2 == pytest.approx([1 + 1 / (s + n - 1)] * n, rel=1e-11)
