"""One round of a baseline on random evidence, and the best counts by brute force."""

import math
from itertools import product

import numpy as np
import pytest

import twins
from cero_alloc import BetaPosteriorBank

RUN = {"total_budget": 24, "n_rounds": 1, "max_rollouts": 8}


def bank_of(successes, rollouts, **kwargs):
    bank = BetaPosteriorBank(len(successes), **kwargs)
    bank.update(None, successes=successes, rollouts=rollouts)
    return bank


def evidence(rng, size, least=8, most=41, *, mixed=False):
    rollouts = rng.integers(least, most, size)
    low = 1 if mixed else 0
    return rng.integers(low, rollouts + 1 - low), rollouts


def total_of(rng, size, least, most, g):
    return int(rng.integers(size * least // g, size * most // g + 1)) * g


def one_round(rule, bank, total, g, most, **kwargs):
    """Counts of a run of one round that visits the whole pool."""
    kwargs.setdefault("rollouts_per_visit", -(-rule.least_rollouts // g) * g)
    policy = rule(bank, total_budget=total, n_rounds=1, unit_size=g, max_rollouts=most, **kwargs)
    counts = policy.allocate(budget=total, exact=True)
    assert counts.sum() == total
    assert (counts % g == 0).all()
    assert counts.max() <= most
    return counts


def best_by_brute_force(worth, total, least, g, most):
    """Largest sum of worth(i, n) over counts of whole groups in [least, most] that add up to the total."""
    size = len(worth)
    choices = [n for n in range(0, most + 1, g) if n >= least]
    grid = np.array(list(product(range(len(choices)), repeat=size)))
    sums = np.array(choices)[grid].sum(axis=1)
    table = np.array([[w(n) for n in choices] for w in worth])
    return table[np.arange(size), grid[sums == total]].sum(axis=1).max()


def values(worth, counts):
    return math.fsum(w(int(n)) for w, n in zip(worth, counts, strict=True))


def instance(seed, g):
    """A generator and the size, least count and cap of a small instance."""
    rng = np.random.default_rng(seed)
    size, most = int(rng.integers(1, 5)), int(rng.integers(2, 5)) * 2
    return rng, size, most


BRUTE = range(250)
GROUPS = pytest.mark.parametrize("g", [1, 2])


def vip_worth(p, estimator):
    return [lambda n, a=4 * x * (1 - x): -twins.vip_variance(a, n, estimator) for x in p]
