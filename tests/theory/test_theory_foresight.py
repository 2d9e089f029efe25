"""Claims 29 to 31: what a later visit counts, jumps, and rounds in two waves."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, ResolvingAllocator, SaturatingUtility
from cero_alloc._evidence.fitting import share_kept
from cero_alloc.simulation import epoch_batches, known_bank, simulate, static_pool
from helpers.theorems import ALL_UTILITIES

reals = st.floats(1e-6, 1e3)


@given(reals, st.integers(1, 200), st.floats(0.5, 100.0), st.floats(0.0, 2.0), st.floats(0.0, 2.0))
def test_claim_29_the_closed_form_exceeds_the_sum_by_a_sixteenth_of_a_visit_at_most(s, visits, spacing, drift, trend):
    bank = BetaPosteriorBank(1, prior=(1e-3, 1e-3), drift=drift, trend=trend)
    bank.update(None, successes=[s / 2], rollouts=[math.ceil(s)])
    evidence = bank.evidence
    a, b = (float(side[0]) for side in evidence.posterior(None))
    strength, mean = a + b, a / (a + b)
    found = float(evidence.foreseen(None, np.array([float(visits)]), np.array([spacing]))[0])
    steps = np.arange(1, visits)
    exact = (1.0 / (1.0 + steps * spacing * strength * (drift + mean * (1.0 - mean) * trend**2))).sum()
    floor = min(1.0, 2e-3 / strength) * (visits - 1)  # no visit counts less than the prior
    assert max(exact, floor) * (1 - 1e-9) - 1e-9 <= found <= max(exact + 1 / 16, floor) * (1 + 1e-9)


SMOOTH = [utility for utility in ALL_UTILITIES if utility[0] != "capped-linear"]  # whose slope jumps


@pytest.mark.parametrize(("shape", "scaling"), SMOOTH)
def test_claim_29_nothing_foreseen_is_the_greedy(shape, scaling):
    utility = SaturatingUtility(shape, scaling=scaling)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        prior = rng.uniform(0.5, 3.0, 24), rng.uniform(0.5, 3.0, 24)
        found = []
        for drift, front_load in ((10.0, 1.0), (0.0, 1e300)):
            bank = BetaPosteriorBank(24, prior=(1e-2, 1e-2), drift=drift)
            bank.update(None, successes=prior[0], rollouts=np.ceil(prior[0] + prior[1]).astype(int))
            policy = ResolvingAllocator(
                bank, total_budget=24 * 32, visits=8, max_rollouts=32, utility=utility, front_load=front_load, seed=seed
            )
            found.append(policy.allocate(range(0, 24, 2), budget=96, exact=True))
        assert abs(found[0] - found[1]).max() <= 1  # the prior, a hundredth of a rollout, is foreseen for ever
        assert found[0].sum() == found[1].sum() == 96


def test_claim_29_at_rest_all_visits_count():
    bank = BetaPosteriorBank(3)
    bank.update(None, successes=[1, 2, 3], rollouts=[4, 4, 4])
    visits = np.array([1.0, 5.0, 9.0])
    assert (bank.evidence.foreseen(None, visits, np.full(3, 2.0)) == visits - 1.0).all()


def test_claim_30_without_a_jump_one_is_seen_in_few_rounds():
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(1000):
        m = int(rng.integers(1, 40))
        a0, b0 = np.full(m, rng.uniform(0.2, 2.0)), np.full(m, rng.uniform(0.2, 2.0))
        p, before, now = rng.beta(a0, b0), rng.integers(0, 60, m), rng.integers(1, 12, m)
        won = rng.binomial(before, p)
        report = rng.binomial(now, p).astype(float)
        seen += share_kept((a0 + won, b0 + before - won), (a0, b0), report, now) < 1.0
    assert seen <= 1000 * math.exp(-6) + 4 * math.sqrt(1000 * math.exp(-6))


def test_claim_30_a_jump_of_all_rates_is_seen():
    rng = np.random.default_rng(1)
    for _ in range(50):
        a0, b0 = np.full(40, 0.5), np.full(40, 0.7)
        won = rng.binomial(40, rng.beta(a0, b0)).astype(float)
        report = rng.binomial(8, rng.beta(a0, b0)).astype(float)
        assert share_kept((a0 + won, b0 + 40 - won), (a0, b0), report, np.full(40, 8)) < 0.5


def test_claim_31_known_values_keep_theorem_3_in_two_waves():
    for seed, (shape, scaling), whole in itertools.product(range(6), ALL_UTILITIES, (True, False)):
        rng = np.random.default_rng([seed, whole])
        m, k, max_units = int(rng.integers(2, 20)), int(rng.integers(1, 9)), int(rng.integers(5, 12))
        pool = static_pool(m, 0.5, 0.5, seed=rng)
        batches = None if whole else epoch_batches(m, max(1, m // 2), k, seed=seed)
        rounds = k if whole else len(batches)
        budget = int(rng.integers(1, m * k * max_units + 1))
        policy = ResolvingAllocator(
            known_bank(pool),
            total_budget=budget,
            max_rollouts=max_units,
            utility=SaturatingUtility(shape, scaling=scaling),
            band=np.inf,
            waves=2,
            seed=seed,
            n_rounds=rounds,
            visits=None if whole else k,
        )
        result = simulate(policy, pool, rounds, feedback=False, batches=batches)
        assert result.regret * m <= 1e-12 * result.optimum
