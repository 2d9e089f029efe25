"""VIP's Gaussian process: the closed form, predictions for new prompts, and the width of its kernel."""

import math

import numpy as np
import pytest

import twins
from cero_alloc import BetaPosteriorBank
from cero_alloc.baselines import VIP
from helpers.one_round import (
    RUN,
    values,
    vip_worth,
)


def features_of(rng, size):
    """Features whose pairs are odd in number, so that their median distance is one of them."""
    assert size * (size - 1) // 2 % 2
    return rng.normal(size=(size, int(rng.integers(1, 6))))


def test_the_process_is_the_closed_form_and_carries_its_mean():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        size = int(rng.choice([2, 3, 6, 7, 10, 11, 14]))
        features = features_of(rng, size)
        policy = VIP(
            BetaPosteriorBank(size), embeddings=features, total_budget=500, n_rounds=9, max_rollouts=100, seed=seed
        )
        rounds = []
        assert policy.predict().tolist() == [0.5] * size
        for _ in range(4):
            rows = rng.permutation(size)[: rng.integers(1, size + 1)]
            rollouts = rng.integers(1, 20, rows.size)
            successes = rng.integers(0, rollouts + 1)
            rounds.append((rows, successes.tolist(), rollouts.tolist()))
            part = rng.integers(0, np.minimum(successes, rollouts - 1) + 1)
            before = policy.predict()
            policy.update(rows, part, part + (rollouts - successes) // 2)  # feedback may come in parts
            policy.update(rows[::-1], (successes - part)[::-1], (rollouts - part - (rollouts - successes) // 2)[::-1])
            assert (policy.predict() == before).all()  # as of the last closed round
            policy.allocate()
            logit = np.log(policy.predict()) - np.log1p(-policy.predict())
            np.testing.assert_allclose(logit, twins.gaussian_process(features, rounds, 1e-4), rtol=1e-6, atol=1e-6)


def test_neighbours_learn_and_the_unseen_get_a_prediction():
    features = [[0.0, 0.0], [0.1, 0.0], [0.0, 5.0], [0.1, 5.0], [90.0, 0.0]]
    policy = VIP(BetaPosteriorBank(5), embeddings=features, total_budget=100, n_rounds=4, max_rollouts=16)
    policy.update([0, 2], [1, 15], [16, 16])
    policy.allocate()
    p = policy.predict()
    assert p[0] == pytest.approx(1 / 16, abs=1e-3)  # an interpolation
    assert p[2] == pytest.approx(15 / 16, abs=1e-3)
    assert p[1] < 0.2  # never sampled
    assert p[3] > 0.8
    assert p[4] == pytest.approx(0.5, abs=1e-6)  # far from all
    policy.allocate()
    assert policy.predict().tolist() == p.tolist()  # a round without rewards teaches nothing


def test_predictions_steer_the_counts():
    features = [[0.0], [0.1], [50.0], [50.1]]
    bank = BetaPosteriorBank(4)
    policy = VIP(bank, embeddings=features, total_budget=160, n_rounds=1, max_rollouts=64, rollouts_per_visit=2)
    policy.update([0], [16], [16])
    policy.update([2], [8], [16])
    counts = policy.allocate()
    p = policy.predict()
    assert p[1] > 0.9  # the rule uses its process, not the bank, which has no evidence on prompt 1
    worth = vip_worth(p, "rloo")
    expected = twins.vip_published((4 * p * (1 - p)).tolist(), 160, 2, 64, "rloo")
    assert values(worth, counts) >= values(worth, expected) - 1e-12
    assert counts[1] < counts[3] / 2


def test_all_or_nothing_is_clipped_by_half_a_rollout():
    policy = VIP(BetaPosteriorBank(1), embeddings=[[3.0]], total_budget=100, n_rounds=2, max_rollouts=50)
    policy.update(None, [8], [8])
    policy.allocate()
    logit = math.log(7.5 / 0.5) / (1 + 1e-4)
    assert policy.predict()[0] == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_prompts_with_equal_features_share_their_prediction(seed):
    rng = np.random.default_rng(seed)
    size, width = int(rng.integers(2, 100)), int(rng.integers(1, 800))
    features = np.tile(rng.normal(size=width), (size, 1))
    policy = VIP(BetaPosteriorBank(size), embeddings=features, total_budget=100 * size, n_rounds=5, max_rollouts=100)
    rows = rng.permutation(size)[: (size + 1) // 2]
    policy.update(rows, rng.integers(0, 9, rows.size), np.full(rows.size, 8))
    policy.allocate()
    p = policy.predict()
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p, p[0], rtol=1e-9)


@pytest.mark.parametrize("offset", [1e3, 1e6, 1e8])
def test_the_process_depends_on_distances_only(offset):
    rng = np.random.default_rng(0)
    features = np.round(rng.normal(size=(30, 4)), 3)
    rows, successes = np.arange(20), rng.integers(0, 9, 20)
    seen = []
    for shift in (0.0, offset):
        policy = VIP(BetaPosteriorBank(30), embeddings=features + shift, total_budget=600, n_rounds=2, max_rollouts=100)
        policy.update(rows, successes, np.full(20, 8))
        policy.allocate()
        seen.append(policy.predict())
    np.testing.assert_allclose(seen[1], seen[0], atol=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_process_is_independent_of_the_unit_of_features(scale):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(11, 2))
    seen = []
    for unit in (1.0, scale):
        policy = VIP(BetaPosteriorBank(11), embeddings=features * unit, total_budget=100, n_rounds=1, max_rollouts=100)
        policy.update([0, 1], [1, 7], [8, 8])
        policy.allocate()
        seen.append(policy.predict())
    np.testing.assert_allclose(seen[1], seen[0], rtol=1e-6)


def test_the_width_of_a_large_pool_is_taken_over_an_even_sample():
    rng = np.random.default_rng(0)
    features = np.sort(rng.normal(size=2500))[:, None]  # sorted: the first 1,000 alone would be a small corner
    policy = VIP(BetaPosteriorBank(2500), embeddings=features, total_budget=10_000, n_rounds=1, max_rollouts=8)
    gaps = np.abs(features - features.T)[np.triu_indices(2500, 1)]
    assert policy._process._width == pytest.approx(float(np.median(gaps)) / unit_of(features), rel=0.02)


def unit_of(features):
    """What the process measures features in: their largest distance from the mean, of any one of them."""
    scaled = features / np.abs(features).max()
    return np.abs(features).max() * np.abs(scaled - scaled.mean(axis=0)).max()


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 4), (7, 2), (300, 3)])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-6, 0.0), (1e200, 0.0), (1.0, 1e6), (1e300, 1e300)])
def test_features_are_centred_and_scaled_and_the_width_is_their_median_distance(shape, scale, shift):
    size = shape[0]
    rng = np.random.default_rng(size)
    features = rng.normal(size=shape) * scale + shift
    process = VIP(BetaPosteriorBank(size), embeddings=features, **{**RUN, "total_budget": 8})._process
    held = process._features
    assert np.isfinite(held).all()
    np.testing.assert_allclose(held.mean(axis=0), 0.0, atol=1e-12)
    if size == 1:
        assert held.tolist() == [[0.0] * shape[1]]
        assert process._width == 1.0
        return
    assert 0.5 <= np.abs(held).max() <= 2.0
    gaps = np.sqrt(((held[:, None] - held[None]) ** 2).sum(axis=2))[np.triu_indices(size, 1)]
    assert process._width == pytest.approx(float(np.median(gaps[gaps > 0])), rel=1e-12)
    unit = unit_of(features)
    if 1e-100 < scale < 1e100:  # else the squares of the distances leave the floats
        raw = np.sqrt(((features[:, None] - features[None]) ** 2).sum(axis=2))[np.triu_indices(size, 1)]
        assert process._width * unit == pytest.approx(float(np.median(raw)), rel=1e-9)


def test_the_width_is_the_median_over_distinct_features():
    features = [[0.0], [0.0], [0.0], [3.0], [3.0], [9.0]]  # distances: 0 four times, 3 six, 6 twice, 9 three times
    process = VIP(BetaPosteriorBank(6), embeddings=features, **{**RUN, "total_budget": 8})._process
    assert process._width * unit_of(np.array(features)) == pytest.approx(3.0, rel=1e-12)
    same = VIP(BetaPosteriorBank(3), embeddings=np.full((3, 2), 7.0), **{**RUN, "total_budget": 8})._process
    assert same._width == 1.0


def test_the_width_decides_how_far_a_success_carries():
    """Features 0, 1, 3: distances 1, 2, 3, so h = 2, and exp(-d^2 / 2 h^2) of the one logit reaches the others."""
    policy = VIP(BetaPosteriorBank(3), embeddings=[[0.0], [1.0], [3.0]], total_budget=30, n_rounds=2, max_rollouts=8)
    policy.update([0], [7], [8])
    policy.allocate()
    p = policy.predict()
    logit = math.log(7) / (1 + 1e-4)
    expected = [logit * math.exp(-(d**2) / 8) for d in (0, 1, 3)]
    np.testing.assert_allclose(np.log(p) - np.log1p(-p), expected, rtol=1e-9)


def test_a_state_with_a_process_only_fits_a_rule_with_one():
    run = {"total_budget": 100, "n_rounds": 2, "max_rollouts": 50}
    plain = VIP(BetaPosteriorBank(2), **run)
    featured = VIP(BetaPosteriorBank(2), embeddings=[[1.0], [2.0]], **run)
    for one, other in [(plain, featured), (featured, plain)]:
        with pytest.raises((TypeError, ValueError), match="state"):
            one.load_state_dict(other.state_dict())
