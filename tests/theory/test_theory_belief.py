"""Claims 22 to 24 of docs/theory.md: beliefs that move, and rewards that are no coins."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaln, gammaln

from cero_alloc import BetaPosteriorBank

seeds = st.integers(0, 2**32 - 1)


def one_round(a, b, strength, drift, shift):
    """Return the belief after one round: certainty first, then the odds."""
    s, m = a + b, a / (a + b)
    u = 1 / s if s <= strength else min(1 / s + drift, 1 / strength)
    odds = m / (1 - m) * math.exp(shift)
    return odds / (1 + odds) / u, 1 / (1 + odds) / u


@given(seeds)
def test_claim_22_one_step_over_many_rounds_is_exact(seed):
    rng = np.random.default_rng(seed)
    a0, b0 = rng.uniform(0.2, 2.0, 2)
    drift, trend, rounds = rng.uniform(0, 0.05), rng.uniform(0.05, 0.5), int(rng.integers(1, 12))
    bank = BetaPosteriorBank(3, prior=(a0, b0), drift=drift, trend=trend)
    bank.update([0, 1], rng.binomial(20, [0.3, 0.6]), [20, 20])
    a, b = bank.alpha[0], bank.beta[0]
    for _ in range(rounds):  # prompt 1 is reported, prompt 0 is not, and prompt 2 never was
        bank.tick()
        before = bank.mean([0])[0]
        bank.update([1], [rng.binomial(8, 0.8)], [8])
        after = bank.mean([0])[0]
        a, b = one_round(a, b, a0 + b0, drift, math.log(after / (1 - after)) - math.log(before / (1 - before)))
        assert bank.alpha[0] == pytest.approx(a, rel=1e-9)
        assert bank.beta[0] == pytest.approx(b, rel=1e-9)
    assert (bank.alpha[2], bank.beta[2]) == (a0, b0)


def test_claim_22_certainty_ends_at_the_prior():
    bank = BetaPosteriorBank(1, prior=(1, 3), drift=0.01)
    bank.update([0], [30], [40])
    mean, found = bank.mean()[0], []
    for _ in range(30):
        bank.tick()
        found.append(bank.alpha[0] + bank.beta[0])
        assert bank.mean()[0] == pytest.approx(mean, rel=1e-12)
    np.testing.assert_allclose(found, [max(4.0, 1 / (1 / 44 + 0.01 * (k + 1))) for k in range(30)], rtol=1e-12)
    assert found[-1] == pytest.approx(4.0)


def moments(a, b, n):
    """Return mean and variance of the successes among n rollouts under Beta(a, b), by summation."""
    k = np.arange(n + 1.0)
    chance = np.exp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + betaln(a + k, b + n - k) - betaln(a, b))
    mean = chance @ k
    return mean, chance @ (k - mean) ** 2


@given(st.floats(0.1, 50), st.floats(0.1, 50), st.integers(1, 30))
def test_claim_23_the_variance_of_a_group_under_a_belief(a, b, n):
    s, m = a + b, a / (a + b)
    mean, variance = moments(a, b, n)
    assert mean == pytest.approx(n * m, rel=1e-9)
    assert variance == pytest.approx(n * m * (1 - m) * (s + n) / (s + 1), rel=1e-8)


@given(seeds)
def test_claim_23_the_shift_is_the_mode_of_its_gaussian_posterior(seed):
    rng = np.random.default_rng(seed)
    size, trend = int(rng.integers(2, 8)), rng.uniform(0.05, 1.0)
    bank = BetaPosteriorBank(size, trend=trend)
    n = rng.integers(1, 20, size)
    bank.update(None, rng.binomial(n, rng.random(size)), n)
    a, b = bank.alpha[1:], bank.beta[1:]  # prompt 0 is only watched
    bank.tick()
    before, n = bank.mean([0])[0], rng.integers(1, 9, size - 1)
    won = rng.binomial(n, rng.random(size - 1))
    bank.update(range(1, size), won, n)
    after = bank.mean([0])[0]
    d = math.log(after / (1 - after)) - math.log(before / (1 - before))

    def slope(x):
        """Derivative of the log density at x."""
        total = -x / trend**2
        for alpha, beta, s, count in zip(a, b, won, n, strict=True):
            mean, variance = moments(alpha, beta, count)
            h = mean * (1 - mean / count)
            total += h * (s - mean - h * x) / variance
        return total

    assert slope(d) == pytest.approx(0.0, abs=1e-6)
    assert slope(d - 0.01) > 0 > slope(d + 0.01)


@given(seeds)
def test_claim_23_neither_order_nor_split_matters(seed):
    rng = np.random.default_rng(seed)
    whole, parts = (BetaPosteriorBank(6, prior=(0.5, 1.5), drift=0.01, trend=0.2) for _ in range(2))
    for _ in range(4):
        n = rng.integers(0, 9, 6)
        won = rng.binomial(n, rng.random(6))
        whole.update(None, won, n)
        pieces = [(i, r < won[i]) for i in range(6) for r in range(n[i])]
        for k in rng.permutation(len(pieces)):
            i, right = pieces[k]
            parts.update([i], [int(right)], [1])
            if rng.random() < 0.3:
                parts.value()
        whole.tick()
        parts.tick()
    np.testing.assert_array_equal(whole.alpha, parts.alpha)
    np.testing.assert_array_equal(whole.beta, parts.beta)


@given(seeds)
def test_claim_24_the_value_is_the_expected_group_variance(seed):
    """Against the predictive distribution of a pair, which Polya's urn gives: E (r - r')**2 / 2."""
    rng = np.random.default_rng(seed)
    a0, b0 = rng.uniform(0.2, 3.0, 2)
    rewards = rng.choice([0.0, 0.1, 0.5, rng.random(), 1.0], int(rng.integers(1, 12)))
    bank = BetaPosteriorBank(1, prior=(a0, b0))
    bank.update([0], [rewards.sum()], [rewards.size], squares=[(rewards**2).sum()])
    atoms = np.concatenate([[0.0, 1.0], rewards])
    mass = np.concatenate([[b0, a0], np.ones(rewards.size)])
    s = mass.sum()
    expected = 0.0
    for r, w in zip(atoms, mass, strict=True):
        for other, v in zip(atoms, mass, strict=True):  # the second reward repeats the first with chance 1 / (s + 1)
            expected += w / s * v / (s + 1) * (r - other) ** 2 / 2
    assert bank.value()[0] == pytest.approx(expected, rel=1e-9)


@given(seeds)
def test_claim_24_coins_are_the_special_case(seed):
    rng = np.random.default_rng(seed)
    plain, told = (BetaPosteriorBank(5) for _ in range(2))
    n = rng.integers(0, 9, 5)
    won = rng.binomial(n, rng.random(5))
    plain.update(None, won, n)
    told.update(None, won, n, squares=won)
    assert plain.value().tolist() == told.value().tolist()
    n[0] = 4
    plain.update([0], [2.0], [4])
    told.update([0], [2.0], [4], squares=[1.0])
    assert told.value()[0] < plain.value()[0]


def test_claim_24_three_kinds_of_prompts():
    rng = np.random.default_rng(0)
    n = 20_000
    rewards = np.stack([np.full(n, 0.5), rng.integers(0, 2, n), rng.random(n)])
    bank = BetaPosteriorBank(["half", "coin", "uniform"])
    bank.update(None, rewards.sum(axis=1), np.full(3, n), squares=(rewards**2).sum(axis=1))
    np.testing.assert_allclose(bank.value(), [0.0, 0.25, 1 / 12], atol=0.001)
