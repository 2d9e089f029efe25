"""The recommended settings: what they are, that they hold at any size, and that each can be changed."""

import re

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
    allocator = training_allocator(200, total_budget=40 * 160, n_rounds=40, rollouts_per_visit=8)
    counts = play(allocator, 40, 160, rates)
    assert set(np.unique(counts)) == {0, 8}
    assert (counts.sum(axis=1) == 160).all()
    assert allocator.remaining_budget == 0


def test_a_visit_has_one_rollout_unless_the_pool_is_too_small_for_it():
    allocator = training_allocator(200, total_budget=40 * 160, n_rounds=40)
    assert (allocator.min_rollouts, allocator.horizon.max_rollouts) == (1, 1)
    counts = play(allocator, 40, 160, np.random.default_rng(1).random(200))
    assert counts.max() == 1
    assert (counts.sum(axis=1) == 160).all()
    small = training_allocator(["a", "b", "c"], total_budget=70, n_rounds=10)
    assert (small.min_rollouts, small.horizon.max_rollouts) == (1, 3)  # 7 rollouts a round for 3 prompts
    assert sum(int(small.allocate().sum()) for _ in range(10)) == 70


def test_a_round_slightly_above_the_pool_is_still_dealt_one_by_one():
    allocator = training_allocator(100, total_budget=127 * 20, n_rounds=20)
    counts = allocator.allocate(budget=127, exact=True)
    assert np.bincount(counts).tolist() == [0, 73, 27]
    assert allocator.utility.saturation == 2.0
    few = training_allocator(10, total_budget=80, n_rounds=20, visits=2)  # 20 offers for 80 rollouts
    assert few.horizon.max_rollouts == 4
    costly = training_allocator(3, total_budget=300.0, n_rounds=10, costs=[5.0, 9.0, 20.0], order="best")
    assert costly.horizon.max_rollouts == 1


@pytest.mark.parametrize("total", [640, np.int64(640), np.int32(640), np.array(640)])
def test_any_integer_counts_the_budget(total):
    assert training_allocator(10, total_budget=total, n_rounds=20).horizon.max_rollouts == 4


@pytest.mark.parametrize("total", [np.nan, np.inf, 640.0, "640", True, None, [640]])
def test_what_is_no_budget_is_refused_in_words(total):
    with pytest.raises((TypeError, ValueError), match="total_budget must be an integer"):
        training_allocator(10, total_budget=total, n_rounds=20)


def test_a_budget_beyond_all_bounds_is_refused_in_words():
    with pytest.raises(ValueError, match=r"total_budget must be at most 9007199254740992"):
        training_allocator(10, total_budget=10**400, n_rounds=20)


def test_a_batch_that_cannot_take_the_round_says_why():
    allocator = training_allocator(1000, total_budget=512 * 20, n_rounds=20)
    with pytest.raises(ValueError, match=r"64 prompts are offered, each with at most 1 rollout"):
        allocator.allocate(range(64), budget=512, exact=True)


def test_a_pool_that_grows_keeps_single_rollouts():
    allocator = training_allocator(4, total_budget=640, n_rounds=20)
    assert allocator.horizon.max_rollouts == 8
    allocator.bank.add_prompts(range(4, 1004))
    assert allocator.allocate(budget=32, exact=True).max() == 1


def test_a_batch_needs_neither_visits_nor_a_budget():
    ids = [f"q{i}" for i in range(20)]
    allocator = training_allocator(ids, total_budget=320, n_rounds=10)
    assert allocator.allocate(ids[:8]).tolist() == [2] * 8  # the cap of a visit: 320 rollouts over 200 offers


def test_a_loader_s_batches_take_the_same_allocator():
    rng, rates = np.random.default_rng(0), np.repeat([0.0, 0.5, 1.0], 80)
    allocator = training_allocator(240, total_budget=120 * 30, n_rounds=120, seed=1)
    dealt = np.zeros(3)
    for k in range(120):
        batch = rng.permutation(240)[:60]
        counts = allocator.allocate(batch, budget=30, exact=True)
        prompts = np.repeat(batch, counts)
        advantages = allocator.observe(prompts, (rng.random(30) < rates[prompts]).astype(float))
        assert advantages.shape == (30,)
        dealt += np.bincount(prompts // 80, minlength=3) * (k >= 60)
    assert dealt[1] > 1.5 * dealt[[0, 2]].max()
    assert allocator.remaining_budget == 0


def test_prompts_that_teach_nothing_get_little_and_the_others_stay_in_play():
    rates = np.repeat([0.0, 0.5, 1.0], 60)
    counts = play(
        training_allocator(180, total_budget=60 * 144, n_rounds=60, seed=3, rollouts_per_visit=8), 60, 144, rates
    )
    late = counts[30:].reshape(30, 3, 60)
    assert late[:, 1].sum() > 2 * late[:, [0, 2]].sum()
    assert (late[:, 1].sum(axis=0) > 0).all()


def test_every_setting_can_be_changed():
    plan = {"total_budget": 640, "n_rounds": 10}
    allocator = training_allocator(["a", "b", *range(30)], **plan, rollouts_per_visit=4)
    assert (allocator.min_rollouts, allocator.horizon.max_rollouts) == (4, 4)
    assert allocator.utility == SaturatingUtility(saturation=1.0, scaling="height")
    single = training_allocator(32, total_budget=320, n_rounds=10)
    assert single.utility == SaturatingUtility(saturation=2.0, scaling="height")
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


@pytest.mark.parametrize("size", [None, 1, 8])
def test_it_is_a_resolving_allocator_that_saves_and_loads(size, tmp_path):
    allocator = training_allocator(120, total_budget=1600, n_rounds=20, rollouts_per_visit=size)
    play(allocator, 7, 80, np.full(120, 0.4))
    allocator.save(tmp_path / "state.npz")
    again = ResolvingAllocator.load(tmp_path / "state.npz")
    assert np.array_equal(play(again, 13, 80, np.full(120, 0.4), 5), play(allocator, 13, 80, np.full(120, 0.4), 5))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_rounds": 0}, "n_rounds must"),
        ({"n_rounds": 10, "rollouts_per_visit": 0}, "rollouts_per_visit must be at least 1"),
        ({"n_rounds": 10, "costs": [1.0, 2.0, 3.0, 4.0]}, "order must be 'best' with"),
    ],
)
def test_errors_are_the_class_s(arguments, words):
    with pytest.raises(ValueError, match=words):
        training_allocator(4, total_budget=80, **arguments)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("group_size", 8, "Did you mean rollouts_per_visit=8?"),
        ("num_generations", 8, "Did you mean rollouts_per_visit=8?"),
        ("n_samples", 4, "Did you mean rollouts_per_visit=4?"),
        ("rollouts", 2, "Did you mean rollouts_per_visit=2?"),
        ("reward_ranges", (-1, 1), "Did you mean reward_range=(-1, 1)?"),
        ("max_rollout", 4, "Did you mean max_rollouts=4?"),
        ("learning_rate", 0.1, "It takes those of ResolvingAllocator."),
        ("bank", None, "It builds its own, allocator.bank; to bring one, call ResolvingAllocator."),
    ],
)
def test_an_unknown_argument_names_the_nearest(name, value, remedy):
    text = f"training_allocator got an unexpected keyword argument {name!r}. {remedy}"
    with pytest.raises(TypeError, match=f"^{re.escape(text)}$"):
        training_allocator(4, total_budget=80, n_rounds=10, **{name: value})


def test_groups_of_one_size_are_dealt_in_multiples_of_it():
    allocator = training_allocator(4, total_budget=80, n_rounds=5, rollouts_per_visit=8)
    with pytest.raises(ValueError, match=r"^budget must be a multiple of 8 rollouts with .* such totals: 8, 16\.$"):
        allocator.allocate(budget=9, exact=True)
