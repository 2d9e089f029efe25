"""Knapsack RL against brute force and the published program."""

import math

import numpy as np
import pytest

import twins
from cero_alloc.baselines import KnapsackRL
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


def knapsack_worth(p):
    return [lambda n, x=x: twins.knapsack_value(n, x) for x in p]


@GROUPS
def test_knapsack_reaches_brute_force_on_mixed_prompts(g):
    for seed in BRUTE:
        rng, size, most = instance(seed, g)
        successes, rollouts = evidence(rng, size, mixed=True)
        total = total_of(rng, size, 2, most, g)
        counts = one_round(KnapsackRL, bank_of(successes, rollouts), total, g, most)
        assert counts.min() >= 2
        worth = knapsack_worth(successes / rollouts)
        best = best_by_brute_force(worth, total, 2, g, most)
        assert values(worth, counts) == pytest.approx(best, rel=1e-12, abs=0), seed


def test_knapsack_as_published_with_cold_unsolved_and_solved_prompts():
    surplus = capped = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        size, most = int(rng.integers(2, 7)), int(rng.integers(3, 13))
        rollouts = rng.choice([0, 3, 7, 8, 16, 33], size)
        successes = np.where(rng.random(size) < 0.5, rng.choice([0, 1], size) * rollouts, rng.integers(0, rollouts + 1))
        total = total_of(rng, size, 2, most, 1)
        counts = one_round(KnapsackRL, bank_of(successes, rollouts), total, 1, most)
        assert counts.min() >= 2
        p = np.divide(successes, rollouts, out=np.zeros(size), where=rollouts > 0)
        cold, warm = rollouts < 8, rollouts >= 8
        unsolved, solved, mixed = warm & (p == 0), warm & (p == 1), warm & (p > 0) & (p < 1)
        uniform = min(most, max(2, total // size))
        own = total - uniform * int(cold.sum()) - 2 * int(unsolved.sum() + solved.sum())
        need = sum(int(min(most, math.log(0.1) / math.log(max(x, 1 - x)))) for x in p[mixed])
        extra = min(max(0, own - need), int(unsolved.sum()) * (most - 2))
        spare = own - extra - most * int(mixed.sum())  # what neither of them may take
        if spare > 0:
            capped += 1
            assert (counts[mixed] == most).all()
            continue
        surplus += extra > 0
        assert (counts[cold] == uniform).all()
        assert (counts[solved] == 2).all()
        assert counts[unsolved].sum() == 2 * unsolved.sum() + extra
        if unsolved.any():
            assert np.ptp(counts[unsolved]) <= 1
        if mixed.any():
            worth = knapsack_worth(p[mixed])
            best = best_by_brute_force(worth, own - extra, 2, 1, most) if mixed.sum() < 5 else -math.inf
            assert values(worth, counts[mixed]) >= best * (1 - 1e-12)
    assert surplus > 50
    assert capped > 50


def test_knapsack_by_hand():
    # p = 0, 1, 1/2 and a prompt of 7 samples. A mixed group of p = 1/2 is 90% sure with 3.32 rollouts, that is 3: what
    # they and the uniform count of the fourth leave over 2 for the first two goes to p = 0.
    for total, expected in [(8, [2, 2, 2, 2]), (11, [4, 2, 3, 2]), (12, [4, 2, 3, 3]), (20, [10, 2, 3, 5])]:
        bank = bank_of([0, 16, 8, 3], [16, 16, 16, 7])
        assert one_round(KnapsackRL, bank, total, 1, 16).tolist() == expected


def test_knapsack_spends_the_surplus_in_the_documented_order():
    # p = 0, 1, 1/2 and no samples; caps of 6: p = 1/2 takes 3, then p = 0 its cap, then p = 1/2 its own, then the cold.
    for total, expected in [(18, [6, 2, 6, 4]), (20, [6, 2, 6, 6]), (21, [6, 3, 6, 6]), (24, [6, 6, 6, 6])]:
        bank = bank_of([0, 16, 8, 0], [16, 16, 16, 0])
        assert one_round(KnapsackRL, bank, total, 1, 6).tolist() == expected


def test_knapsack_waits_for_min_samples():
    bank = bank_of([1, 4], [5, 5])
    assert one_round(KnapsackRL, bank, 12, 1, 12).tolist() == [6, 6]
    hot = one_round(KnapsackRL, bank, 12, 1, 12, min_samples=5)
    assert hot[0] > hot[1]  # p (1-p)^2 is larger at 1/5 than at 4/5


def test_knapsack_with_evidence_faded_to_nearly_nothing():
    # One success long ago, under forgetting: p is so small that 1 - p is 1, and the prompt gets all that its cap allows.
    bank = bank_of([1e-17, 0.0], [16, 16])
    counts = one_round(KnapsackRL, bank, 16, 1, 12)
    assert counts.sum() == 16
    assert counts[0] == 12  # int(min(12, ln 0.1 / ln 1)) = 12 leaves only the 2 for the prompt at p = 0, and 2 more


def published_instance(seed):
    rng = np.random.default_rng(seed)
    size, most = int(rng.integers(2, 9)), int(rng.integers(4, 13))
    successes, rollouts = evidence(rng, size, mixed=True)
    return successes, rollouts, total_of(rng, size, 2, most, 1), most


def test_knapsack_is_never_below_the_published_program():
    strictly = feasible = 0
    for seed in range(1200):
        successes, rollouts, total, most = published_instance(seed)
        p = (successes / rollouts).tolist()
        worth = knapsack_worth(p)
        ours = values(worth, one_round(KnapsackRL, bank_of(successes, rollouts), total, 1, most))
        counts = twins.knapsack_published(p, total, 2, most)
        assert sum(counts) == total
        feasible += 1
        theirs = values(worth, counts)
        assert ours >= theirs * (1 - 1e-12), seed
        strictly += ours > theirs * (1 + 1e-9)
    assert feasible >= 1000
    assert strictly > 0
    print(f"strictly above the published program on {strictly} of {feasible}")


def test_the_published_program_is_exact_on_the_values_that_it_uses():
    # The twin is a sound dynamic program: with V(2, p) for "nothing extra" it reaches the optimum.
    for seed in range(200):
        successes, rollouts, total, most = published_instance(seed)
        p = (successes / rollouts).tolist()
        worth = knapsack_worth(p)
        table = [[w(2 + k) for k in range(most - 1)] for w in worth]
        exact = [2 + k for k in twins.knapsack_program(table, total - 2 * len(p))]
        assert sum(exact) == total
        ours = one_round(KnapsackRL, bank_of(successes, rollouts), total, 1, most)
        assert values(worth, ours) == pytest.approx(values(worth, exact), rel=1e-12)


def test_the_counter_example_to_the_published_program():
    p = [0.75] * 4 + [0.25] * 4
    worth = knapsack_worth(p)
    ours = one_round(KnapsackRL, bank_of([12] * 4 + [4] * 4, [16] * 8), 24, 1, 128)
    assert ours.tolist() == [2, 2, 2, 2, 4, 4, 4, 4]
    published = twins.knapsack_published(p, 24, 2, 128)
    assert published == [3] * 8  # a third rollout for every prompt, each credited with all of V(3, p)
    assert values(worth, ours) > values(worth, published) * 1.005
    best = best_by_brute_force(worth[2:6], 12, 2, 1, 6)  # the half of the pool, which mirrors it
    assert values(worth, ours) == pytest.approx(2 * best, rel=1e-12)
