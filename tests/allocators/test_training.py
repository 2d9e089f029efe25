"""The recommended settings: what they are, that they hold at any size, and that each can be changed."""

import numpy as np
import pytest

from cero_alloc import ResolvingAllocator, SaturatingUtility, training_allocator


def play(allocator, rounds, total, rates, seed=0):
    rng, counts = np.random.default_rng(seed), []
    for _ in range(rounds):
        counts.append(allocator.allocate(budget=total, exact=True))
        allocator.update(None, rng.binomial(counts[-1], rates), counts[-1])
    return np.array(counts)


def test_a_run_deals_groups_of_one_size_and_spends_everything():
    rates = np.random.default_rng(1).random(200)
    allocator = training_allocator(200, total_budget=40 * 160, n_rounds=40)
    counts = play(allocator, 40, 160, rates)
    assert set(np.unique(counts)) == {0, 8}
    assert (counts.sum(axis=1) == 160).all()
    assert allocator.remaining_budget == 0


def test_prompts_that_teach_nothing_get_little_and_the_others_stay_in_play():
    rates = np.repeat([0.0, 0.5, 1.0], 60)
    counts = play(training_allocator(180, total_budget=60 * 144, n_rounds=60, seed=3), 60, 144, rates)
    late = counts[30:].reshape(30, 3, 60)
    assert late[:, 1].sum() > 2 * late[:, [0, 2]].sum()
    assert (late[:, 1].sum(axis=0) > 0).all()


def test_every_setting_can_be_changed():
    plan = {"total_budget": 640, "n_rounds": 10}
    allocator = training_allocator(["a", "b", *range(30)], **plan, rollouts_per_visit=4)
    assert (allocator.min_rollouts, allocator.horizon.max_rollouts) == (4, 4)
    assert allocator.utility == SaturatingUtility(saturation=1.0, scaling="height")
    changed = training_allocator(32, **plan, utility=SaturatingUtility(saturation=0.3), order="best", max_rollouts=16)
    assert changed.utility == SaturatingUtility(saturation=0.3)
    assert changed.horizon.max_rollouts == 16


@pytest.mark.parametrize("rounds", [1, 2, 3, 1000])
def test_memory_follows_the_length_of_the_run(rounds):
    allocator = training_allocator(50, total_budget=8 * rounds, n_rounds=rounds)
    assert 0.5 <= allocator.bank.forgetting < 1.0
    assert int(allocator.allocate().sum()) == 8
    if rounds == 1000:  # after the memory, 0.4 of the run, a rollout counts for one in e
        assert allocator.bank.forgetting**400 == pytest.approx(np.exp(-1.0), rel=2e-3)


def test_it_is_a_resolving_allocator_that_saves_and_loads(tmp_path):
    allocator = training_allocator(20, total_budget=1600, n_rounds=20)
    play(allocator, 7, 80, np.full(20, 0.4))
    allocator.save(tmp_path / "state.npz")
    again = ResolvingAllocator.load(tmp_path / "state.npz")
    assert np.array_equal(play(again, 13, 80, np.full(20, 0.4), 5), play(allocator, 13, 80, np.full(20, 0.4), 5))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_rounds": 0}, "n_rounds must"),
        ({"n_rounds": 10, "rollouts_per_visit": 0}, "max_rollouts must"),
        ({"n_rounds": 10, "costs": [1.0, 2.0, 3.0, 4.0]}, "order must be 'best' with"),
    ],
)
def test_errors_are_the_class_s(arguments, words):
    with pytest.raises(ValueError, match=words):
        training_allocator(4, total_budget=80, **arguments)
