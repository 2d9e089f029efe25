"""CoBA-RL and HORA against brute force, Neyman and GVM against the formula."""

import math

import numpy as np
import pytest
from scipy.stats import beta as beta_distribution

import twins
from cero_alloc import BetaPosteriorBank
from cero_alloc.baselines import GVM, HORA, CoBARL, Neyman
from helpers.one_round import (
    BRUTE,
    GROUPS,
    bank_of,
    best_by_brute_force,
    evidence,
    instance,
    one_round,
    total_of,
    values,
)

# ---------------------------------------------------------------- CoBA-RL


def coba_worth(p, tau, alpha):
    taste = beta_distribution.pdf(p, alpha, 11 - alpha)
    return [
        lambda n, x=x, w=w: w * (1 - math.exp(-n * x * (1 - x) / tau))
        for x, w in zip(p.tolist(), taste.tolist(), strict=True)
    ]


def coba_alpha(failures):
    f = sum(failures) / len(failures)
    return min(10.0, max(1.0, 1 + 9 * (f if f > 0.5 else 1 / (1 + math.exp(-10 * (f - 0.5))))))


@GROUPS
def test_cobarl_reaches_brute_force(g):
    adaptive = 0
    for seed in BRUTE:
        rng, size, most = instance(seed, g)
        successes, rollouts = evidence(rng, size, 1, 300 if rng.random() < 0.3 else 30)
        tau = None if rng.random() < 0.5 else float(rng.uniform(0.5, 12))
        total = total_of(rng, size, 2, most, g)
        bank = bank_of(successes, rollouts)
        policy = CoBARL(
            bank, tau=tau, total_budget=total, n_rounds=2, unit_size=g, max_rollouts=most, seed=seed,
            rollouts_per_visit=2,
        )  # fmt: skip
        alpha = 9.0
        if rng.random() < 0.7:  # feedback of a round before
            n = rng.integers(1, 9, size)
            s = rng.integers(0, n + 1)
            policy.update(None, s, n)
            successes, rollouts = successes + s, rollouts + n
            alpha = coba_alpha([1 - np.mean(s / n)])
        counts = policy.allocate(budget=total, exact=True)
        assert policy.alpha == pytest.approx(alpha, rel=1e-12)
        assert counts.sum() == total
        assert counts.min() >= 2
        assert counts.max() <= most
        p = np.clip((1 + successes) / (2 + rollouts), 0.01, 0.99)
        adaptive += tau is None
        scale = 3 + 9 * min(1.0, 6 * np.mean((p - p.mean()) ** 2)) if tau is None else tau
        worth = coba_worth(p, scale, alpha)
        best = best_by_brute_force(worth, total, 2, g, most)
        assert values(worth, counts) == pytest.approx(best, rel=1e-12, abs=0), seed
    assert adaptive > 80


def test_alpha_by_hand():
    policy = CoBARL(BetaPosteriorBank(4), total_budget=400, n_rounds=10, max_rollouts=10, window=2)
    assert policy.alpha == 9.0
    policy.update([0, 1], [1, 0], [4, 4])  # failure rates 3/4 and 1, whatever the counts
    assert policy.alpha == 9.0  # the round is still open
    policy.allocate()
    assert policy.alpha == pytest.approx(1 + 9 * 0.875)
    policy.update([0, 2], [1, 8], [2, 8])  # 1/2 and 0
    policy.allocate()
    assert policy.alpha == pytest.approx(1 + 9 * (0.875 + 0.25) / 2)  # 0.5625, above 1/2
    policy.allocate()  # no rewards came in: no round to count
    assert policy.alpha == pytest.approx(1 + 9 * 0.5625)
    policy.update([3], [9], [10])
    policy.allocate()  # the first round leaves the window of 2: F = (1/4 + 1/10) / 2
    assert policy.alpha == pytest.approx(1 + 9 / (1 + math.exp(-10 * (0.175 - 0.5))))
    policy.update([3], [4], [4])
    policy.update([3], [0], [16])  # two parts of one round: 16 of 20 failed
    policy.allocate()
    assert policy.alpha == pytest.approx(1 + 9 / (1 + math.exp(-10 * (0.45 - 0.5))))


@pytest.mark.parametrize(("failed", "alpha"), [(16, 10.0), (0, 1 + 9 / (1 + math.exp(5))), (8, 5.5), (9, 1 + 81 / 16)])
def test_alpha_at_the_ends_and_at_the_switch(failed, alpha):
    policy = CoBARL(BetaPosteriorBank(1), total_budget=40, n_rounds=2, max_rollouts=20)
    policy.update(None, [16 - failed], [16])
    policy.allocate()
    assert policy.alpha == pytest.approx(alpha, rel=1e-12)


def test_cobarl_turns_from_easy_to_hard():
    for failed, favourite in [(16, 1), (0, 0)]:  # all failed: easy prompts; all solved: hard ones
        bank = BetaPosteriorBank(3, prior=([200.0, 800.0, 500.0], [800.0, 200.0, 500.0]))
        policy = CoBARL(bank, total_budget=80, n_rounds=2, max_rollouts=40, rollouts_per_visit=2)
        policy.update([2], [16 - failed], [16])
        counts = policy.allocate([0, 1], budget=40, exact=True)
        assert counts.argmax() == favourite


# ---------------------------------------------------------------- HORA


def hora_worth(a, b):
    hit = lambda m, x, y: 1 - math.prod((y + j) / (x + y + j) for j in range(m))  # noqa: E731
    return [lambda m, x=x, y=y: hit(m, x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]


@GROUPS
@pytest.mark.parametrize("least", [0, 2])
def test_hora_reaches_brute_force(g, least):
    for seed in BRUTE:
        rng, size, most = instance(seed, g)
        successes, rollouts = evidence(rng, size, 1, 40)
        prior = tuple(rng.uniform(0.2, 4, 2))
        total = max(g, total_of(rng, size, least, most, g))
        block = max(g, least)
        if least == 0:  # all are visited when the total is more than one group for all but one of them
            total = max(total, size * g)
        counts = one_round(
            HORA,
            bank_of(successes, rollouts, prior=prior),
            total,
            g,
            most,
            min_rollouts=least,
            rollouts_per_visit=block,
        )
        assert counts.min() >= least
        worth = hora_worth(prior[0] + successes, prior[1] + rollouts - successes)
        best = best_by_brute_force(worth, total, least, g, most)
        assert values(worth, counts) == pytest.approx(best, rel=1e-12, abs=0), seed


# ---------------------------------------------------------------- Neyman and GVM


@GROUPS
@pytest.mark.parametrize("rule", [Neyman, GVM])
def test_proportions_match_the_formula(rule, g):
    for seed in range(300):
        rng = np.random.default_rng(seed)
        size, max_units = int(rng.integers(1, 9)), int(rng.integers(2, 12))
        successes, rollouts = evidence(rng, size, 1, 60)
        least = 2 // g if rule is Neyman else 0
        total = int(rng.integers(max(least, 1) * size, size * max_units + 1))
        bank = bank_of(successes, rollouts)
        policy = rule(
            bank, total_budget=total * g, n_rounds=1, unit_size=g, max_rollouts=max_units * g, seed=seed,
            rollouts_per_visit=max(least, 1) * g,
        )  # fmt: skip
        tie = policy._tie
        counts = policy.allocate(budget=total * g, exact=True)
        a, b = 1 + successes, 1 + rollouts - successes
        p, q = a / (a + b), a * b / ((a + b) * (a + b + 1))
        weights = np.sqrt(q) if rule is Neyman else 1 / np.sqrt(p + 0.001 / p)
        bounds = [least] * size, [max_units] * size
        assert (counts // g).tolist() == twins.proportional(weights.tolist(), *bounds, total, tie.tolist()), seed
