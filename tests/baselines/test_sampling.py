"""MaPP-PS, LILO and CurES, each against a slow obvious twin, and their published special cases."""

from itertools import permutations
from math import ceil, exp, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import beta, softmax

from cero_alloc import BetaPosteriorBank, ResolvingAllocator
from cero_alloc.baselines import CurES, Learnability, MaPP

EXAMPLES = 500
seeds = given(seed=st.integers(0, 2**32 - 1))


class Twin:
    """Dicts and loops over one prompt at a time; a subclass says in ``logit`` how likely a prompt is drawn."""

    def __init__(self, m, kwargs, prior):
        self.g, self.max_units = kwargs["unit_size"], kwargs["max_rollouts"] // kwargs["unit_size"]
        self.least = ceil(2 / self.g)
        visit = kwargs.get("rollouts_per_visit")
        self.block = max(self.least, min(self.max_units, 8 // self.g), 1) if visit is None else visit // self.g
        self.kwargs, self.rng = kwargs, np.random.default_rng(kwargs["seed"])
        self.tie = self.rng.permutation(m)
        self.a0, self.b0 = (np.broadcast_to(side, m).tolist() for side in prior)
        self.a, self.b = list(self.a0), list(self.b0)

    def deal(self, offered, total):
        """Return units by row: the largest sums of logit and Gumbel noise, equal shares, the larger ones to them."""
        key = {row: self.logit(row) + self.rng.gumbel() for row in sorted(offered)}
        k = max(min(len(offered), total // self.least, ceil(total / self.block)), ceil(total / self.max_units))
        first = sorted(key, key=lambda row: (-key[row], self.tie[row]))[:k]
        for row in first:
            self.visited(row)
        return {row: total // k + (place < total % k) for place, row in enumerate(first)}

    def visited(self, row):
        pass

    def learn(self, row, won, n):
        self.a[row] += won
        self.b[row] += n - won


class TwinMaPP(Twin):
    def logit(self, row):
        a, b, right, wrong = self.a[row], self.b[row], 1.0, 1.0
        for j in range(self.block * self.g):
            right *= (a + j) / (a + b + j)
            wrong *= (b + j) / (a + b + j)
        return log(1 - right - wrong)

    def visited(self, row):
        keep = self.kwargs.get("forgetting", 0.5)
        self.a[row] = keep * self.a[row] + (1 - keep) * self.a0[row]
        self.b[row] = keep * self.b[row] + (1 - keep) * self.b0[row]


class TwinLearnability(Twin):
    def logit(self, row):
        a, b = self.a[row], self.b[row]
        return log(a * b / (a + b) / (a + b + 1))


class TwinCurES(Twin):
    def logit(self, row):
        p = self.a[row] / (self.a[row] + self.b[row])
        return sqrt(p * (1 - p)) / self.kwargs.get("temperature", 1.0)


OWN = {
    MaPP: lambda rng: {"forgetting": float(rng.choice([1.0, 0.9, 0.5]))},
    Learnability: lambda rng: {},
    CurES: lambda rng: {"temperature": float(rng.choice([1.0, 0.1, 0.01]))},
}
RULES = tuple(OWN)


@pytest.mark.parametrize(("rule", "twin_of"), [(MaPP, TwinMaPP), (Learnability, TwinLearnability), (CurES, TwinCurES)])
@settings(max_examples=EXAMPLES)
@seeds
def test_twins(rule, twin_of, seed):
    rng = np.random.default_rng(seed)
    m, rounds, g = int(rng.integers(1, 13)), int(rng.integers(1, 9)), int(rng.integers(1, 4))
    max_units = ceil(2 / g) + int(rng.integers(0, 6))
    kwargs = {
        "total_budget": int(rng.integers(1, rounds * m * max_units + 1)) * g, "n_rounds": rounds, "unit_size": g,
        "max_rollouts": max_units * g, "seed": int(rng.integers(2**31)), **(OWN[rule](rng) if rng.random() < 0.7 else {}),
    }  # fmt: skip
    if rng.random() < 0.5:
        kwargs["rollouts_per_visit"] = int(rng.integers(ceil(2 / g), max_units + 1)) * g
    prior = (1.0, 1.0) if rng.random() < 0.5 else (rng.random(m) * 3 + 0.1, rng.random(m) * 3 + 0.1)
    policy, twin = rule(BetaPosteriorBank(m, prior=prior), **kwargs), twin_of(m, kwargs, prior)
    p = np.where(rng.random(m) < 0.5, rng.choice([0.0, 1.0], m), rng.random(m))
    while not policy.ledger.finished:
        rows = rng.permutation(m)[: rng.integers(0, m + 1)] if rng.random() < 0.5 else np.arange(m)
        cap = int(rng.integers(0, m * max_units * g)) if rng.random() < 0.2 else None
        counts = policy.allocate(rows, cap)
        expected = twin.deal(rows.tolist(), int(counts.sum()) // g) if counts.any() else spent_nothing(twin, rows)
        assert [n // g for n in counts.tolist()] == [expected.get(row, 0) for row in rows.tolist()]
        won = rng.binomial(2 * counts, p[rows]) / 2  # rewards of 0, 1/2 and 1
        policy.update(rows, won, counts)
        for row, right, n in zip(rows.tolist(), won.tolist(), counts.tolist(), strict=True):
            twin.learn(row, right, n)


def spent_nothing(twin, rows):
    twin.rng.gumbel(size=rows.size)
    return {}


# ------------------------------------------------------------------ scores


def seen_bank(rng, m):
    rollouts = rng.integers(0, 40, m)
    bank = BetaPosteriorBank(m, prior=(rng.random(m) * 3 + 0.1, rng.random(m) * 3 + 0.1))
    bank.update(None, rng.binomial(rollouts, rng.random(m)), rollouts)
    return bank


@seeds
def test_mapps_score_is_the_packages_group_signal(seed):
    """The unit gains of ``signal="group"`` sum to MaPP's eq. 15, and both to its closed form."""
    rng = np.random.default_rng(seed)
    m, g, units = 8, int(rng.integers(1, 4)), int(rng.integers(2, 7))
    run = {"total_budget": m * g * units, "n_rounds": 1, "unit_size": g, "max_rollouts": g * units}
    bank = seen_bank(rng, m)
    a, b = bank.evidence.posterior(None)
    ours = ResolvingAllocator(bank, signal="group", **run)._strategy.once(None).sum(axis=1)
    theirs = MaPP(BetaPosteriorBank(m), rollouts_per_visit=g * units, **run)._scores(a, b)
    n = g * units
    assert theirs == pytest.approx(ours, rel=1e-12)
    assert theirs == pytest.approx(1 - (beta(a + n, b) + beta(a, b + n)) / beta(a, b), rel=1e-9)


@seeds
def test_cures_softmax_is_scipys(seed):
    rng = np.random.default_rng(seed)
    bank, temperature = seen_bank(rng, 10), float(rng.choice([1.0, 0.1, 0.01]))
    policy = CurES(bank, temperature=temperature, total_budget=8, n_rounds=1, max_rollouts=8)
    rows = np.sort(rng.permutation(10)[:6])
    a, b = (side[rows] for side in bank.evidence.posterior(None))
    p = a / (a + b)
    probability = [exp(sqrt(x * (1 - x)) / temperature) for x in p]
    logits = policy._logits(rows)
    assert softmax(logits) == pytest.approx(np.array(probability) / sum(probability), rel=1e-9)
    assert softmax(logits) == pytest.approx(softmax(np.sqrt(p * (1 - p)) / temperature), rel=1e-9)


# ------------------------------------------------------------------ draws


@pytest.mark.parametrize("rule", RULES)
def test_prompts_are_drawn_without_replacement_in_proportion(rule):
    """Of 6,000 draws of 2 out of 4, each pair comes as often as drawing one after the other says."""
    won, n, k, draws = np.array([0, 1, 4, 20]), np.array([30, 30, 12, 40]), 2, 6_000
    bank = BetaPosteriorBank(4)
    bank.update(None, won, n)
    policy = rule(bank, total_budget=16 * draws, n_rounds=draws, max_rollouts=8)
    a, b = 1.0 + won, 1.0 + n - won
    p = a / (a + b)
    if rule is MaPP:
        policy = MaPP(BetaPosteriorBank(4, prior=(a, b)), total_budget=16 * draws, n_rounds=draws, max_rollouts=8)
        weight = 1 - (beta(a + 8, b) + beta(a, b + 8)) / beta(a, b)
    elif rule is Learnability:
        weight = p * (1 - p) * (a + b) / (a + b + 1)
    else:
        weight = np.exp(np.sqrt(p * (1 - p)))
    weight /= weight.sum()
    expected = {}
    for i, j in permutations(range(4), k):
        pair = frozenset((i, j))
        expected[pair] = expected.get(pair, 0.0) + weight[i] * weight[j] / (1 - weight[i])
    found = [frozenset(np.flatnonzero(policy.allocate()).tolist()) for _ in range(draws)]
    assert sum(expected.values()) == pytest.approx(1.0)
    for pair, share in expected.items():
        assert abs(found.count(pair) / draws - share) < 5 * sqrt(share * (1 - share) / draws)


def test_mapp_forgets_half_at_every_visit_towards_the_prior():
    policy = MaPP(BetaPosteriorBank(2), total_budget=48, n_rounds=3, max_rollouts=8)
    for left in (8.0, 12.0, 14.0):  # 8, 4 + 8, 2 + 4 + 8
        counts = policy.allocate()
        assert counts.tolist() == [8, 8]
        policy.update(None, counts, counts)
        assert policy.state_dict()["won"].tolist() == [left, left]
        assert not policy.state_dict()["lost"].any()


@pytest.mark.parametrize("rule", RULES)
def test_scores_at_the_ends_are_finite(rule):
    """Prompts that can only be all right or all wrong are drawn last, and still where the total needs them."""
    prior = (np.array([1e-300, 1e300, 1e300, 1.0]), np.array([1e300, 1e-300, 1e300, 1.0]))
    own = {"temperature": 5e-324} if rule is CurES else {}
    run = {"total_budget": 64, "n_rounds": 2, "max_rollouts": 8}
    policy = rule(BetaPosteriorBank(4, prior=prior), **run, **own)
    assert policy.allocate(budget=16).tolist() == [0, 0, 8, 8]
    assert policy.allocate(budget=32, exact=True).tolist() == [8, 8, 8, 8]


# ------------------------------------------------------------------ errors

BAD = [
    (MaPP, {"forgetting": 0.0}, ValueError, r"forgetting must be a number in \(0, 1\], got forgetting = 0\.0\. 1\.0 keeps"),
    (MaPP, {"forgetting": "half"}, TypeError, r"forgetting must be a number in \(0, 1\], got forgetting = 'half'"),
    (CurES, {"temperature": 0.0}, ValueError, r"temperature must be finite and greater than 0, got temperature = 0\.0\. 1\.0"),
    (CurES, {"temperature": np.inf}, ValueError, "temperature must be finite and greater than 0, got temperature = inf"),
    (CurES, {"temperature": None}, TypeError, "temperature must be finite and greater than 0, got temperature = None"),
    (Learnability, {"max_rollouts": 1}, ValueError, "max_rollouts must hold the 2 rollouts that Learnability gives at least"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "own", "error", "match"), BAD)
def test_bad_arguments(rule, own, error, match):
    with pytest.raises(error, match=match):
        rule(BetaPosteriorBank(3), **{"total_budget": 3, "n_rounds": 3, "max_rollouts": 8, **own})
