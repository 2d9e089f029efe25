"""Any bounded reward: the range, squares and what they are worth, warnings, errors, ageing, merging, memory."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import AllocationWarning, BetaPosteriorBank, FenchelDualAllocator, Horizon
from cero_alloc.sharding import PoolShard
from helpers.trees import leaves

RANGES = [(-1.0, 1.0), (0.0, 10.0), (-3.0, 0.5), (0.0, 0.1), (0, 1)]
ranged = pytest.mark.parametrize("ends", RANGES, ids=str)
graded = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 0.1]), st.floats(0, 1))
groups = st.lists(st.lists(graded, min_size=1, max_size=9), min_size=1, max_size=4)


def sums(rewards):
    """The arguments of ``update`` for one list of rewards per prompt."""
    return {
        "successes": [math.fsum(r) for r in rewards],
        "rollouts": [len(r) for r in rewards],
        "squares": [math.fsum(x * x for x in r) for r in rewards],
    }


def told(bank, rewards):
    """Give a bank a list of rewards per prompt, with their squares."""
    bank.update(list(range(len(rewards))), **sums(rewards))
    return bank


def expected_variance(a0, b0, rewards):
    """Method.md, section 8: (v - m^2) s / (s + 1), the prior of two points included."""
    s = a0 + b0 + len(rewards)
    m = (a0 + math.fsum(rewards)) / s
    v = (a0 + math.fsum(r * r for r in rewards)) / s
    return (v - m * m) * s / (s + 1)


# ---------------------------------------------------------------- the range


@ranged
@pytest.mark.parametrize("how", ["coins", "graded"])
def test_a_range_gives_what_mapping_by_hand_gives(ends, how):
    low, high = ends
    rng = np.random.default_rng(0)
    unit = [rng.integers(0, 2, n) * 1.0 if how == "coins" else rng.random(n) for n in (1, 4, 9, 30)]
    raw = [np.where(r == 1, high, low + (high - low) * r).tolist() for r in unit]
    hand, bank = BetaPosteriorBank(4, prior=(0.6, 0.9)), BetaPosteriorBank(4, prior=(0.6, 0.9), reward_range=ends)
    told(hand, unit), told(bank, raw)
    ids, flat, mapped = np.repeat(np.arange(4), [1, 4, 9, 30]), np.concatenate(raw), np.concatenate(unit)
    order = rng.permutation(44)
    for scale, unit_of in (("none", high - low), ("posterior", 1.0), ("group", 1.0)):
        by_hand = hand.advantages(ids[order], mapped[order], scale=scale)
        np.testing.assert_allclose(bank.advantages(ids[order], flat[order], scale=scale), unit_of * by_hand, atol=1e-9)
    bank.observe(ids[order], flat[order]), hand.observe(ids[order], mapped[order])
    np.testing.assert_allclose([bank.alpha, bank.beta], [hand.alpha, hand.beta], rtol=1e-9)
    np.testing.assert_allclose(bank.mean(), low + (high - low) * hand.mean(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(bank.value(), (high - low) ** 2 * hand.value(), rtol=1e-8)
    bounds = [low + (high - low) * side for side in hand.interval(0.9)]
    np.testing.assert_allclose(bank.interval(0.9), bounds, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(bank.calibration().bias, hand.calibration().bias, rtol=1e-8)
    if how == "coins":
        assert leaves(bank.evidence.state_dict()) == leaves(hand.evidence.state_dict())


def test_a_range_shows():
    bank = BetaPosteriorBank(2, reward_range=(-1, 1))
    assert bank.reward_range == (-1.0, 1.0)
    assert "reward_range=(-1, 1)" in repr(bank)
    assert (BetaPosteriorBank(2).reward_range, "reward_range" in repr(BetaPosteriorBank(2))) == ((0.0, 1.0), False)
    other = BetaPosteriorBank(2)
    other.load_state_dict(bank.state_dict())
    assert other.reward_range == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("ends", "error", "message"),
    [
        ((1, 0), ValueError, r"reward_range must be finite and ascend from low to high, got reward_range = \(1, 0\)\."),
        ((1, 1), ValueError, r"must be finite and ascend"),
        ((0, math.inf), ValueError, r"must be finite and ascend"),
        ((math.nan, 1), ValueError, r"must be finite and ascend"),
        ((-1e200, 1e200), ValueError, r"must be finite and ascend"),  # the value is a variance
        (1, TypeError, r"reward_range must be a pair of numbers, got reward_range = 1\. Give the smallest and the largest"),
        ((0, 1, 2), TypeError, r"must be a pair of numbers"),
        ("01", TypeError, r"must be a pair of numbers"),
        (("0", "1"), TypeError, r"must be a pair of numbers"),
        ({0, 1}, TypeError, r"must be a pair of numbers"),
        ((False, True), TypeError, r"must be a pair of numbers"),
        (None, TypeError, r"must be a pair of numbers"),
    ],
)  # fmt: skip
def test_ranges_that_are_none(ends, error, message):
    with pytest.raises(error, match=message):
        BetaPosteriorBank(2, reward_range=ends)


# ---------------------------------------------------------------- what squares are worth


@settings(max_examples=150)
@given(rewards=groups, prior=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)), cut=st.integers(0, 9))
def test_the_value_is_that_of_a_dirichlet_process(rewards, prior, cut):
    expected = [expected_variance(*prior, r) for r in rewards]
    whole = told(BetaPosteriorBank(len(rewards), prior=prior), rewards)
    np.testing.assert_allclose(whole.value(), expected, rtol=1e-7, atol=1e-9)  # sums of squares lose digits
    ids = [i for i, r in enumerate(rewards) for _ in r]
    each, flat = BetaPosteriorBank(len(rewards), prior=prior), [x for r in rewards for x in r]
    each.observe(ids[:cut], flat[:cut])
    each.observe(ids[cut:], flat[cut:])
    np.testing.assert_allclose(each.value(), expected, rtol=1e-9, atol=1e-13)
    np.testing.assert_array_equal(each.value(range(len(rewards))), each.value())
    assert (each.value() >= 0).all()
    coins = BetaPosteriorBank(len(rewards), prior=prior)
    coins.update(None, sums(rewards)["successes"], sums(rewards)["rollouts"])
    assert (each.value() <= coins.value() * (1 + 1e-12)).all()  # without squares: an upper bound


@pytest.mark.parametrize(
    ("rewards", "limit"),
    [(np.full(10**5, 0.5), 0), (np.arange(10**5) % 2, 1 / 4), ((np.arange(10**5) + 0.5) / 10**5, 1 / 12)],
    ids=["always a half", "coin", "uniform"],
)
def test_limits_of_the_value(rewards, limit):
    bank, wide = BetaPosteriorBank(1), BetaPosteriorBank(1, reward_range=(-10, 10))
    bank.observe([0] * rewards.size, rewards)
    told(wide, [(20 * rewards - 10).tolist()])
    assert bank.value()[0] == pytest.approx(limit, abs=1e-5)
    assert wide.value()[0] == pytest.approx(400 * limit, abs=400e-5)


@ranged
@pytest.mark.parametrize("motion", [{}, {"forgetting": 0.9}, {"drift": 0.01, "trend": 0.1}], ids=str)
def test_coins_with_squares_leave_the_bits_of_coins_without(ends, motion):
    plain, squared, single = (BetaPosteriorBank(5, reward_range=ends, **motion) for _ in range(3))
    rng = np.random.default_rng(1)
    for _ in range(20):
        rewards = rng.choice(ends, (5, 6))
        total, n = rewards.sum(axis=1), np.full(5, 6)
        plain.update(None, total, n)
        squared.update(None, total, n, squares=(rewards**2).sum(axis=1))
        order = rng.permutation(30)
        single.observe(np.repeat(np.arange(5), 6)[order], rewards.ravel()[order])
        for bank in (plain, squared, single):
            bank.tick()
    for bank in (squared, single):
        assert bank.evidence.deficits is None  # no memory
        assert leaves(bank.state_dict()) == leaves(plain.state_dict())
    coins = BetaPosteriorBank(5, **motion)
    coins.update(None, [3] * 5, [6] * 5)
    assert coins.evidence.deficits is None


def test_squares_take_memory_from_the_first_reward_in_between_on():
    bank = told(BetaPosteriorBank(3), [[1.0, 0.0], [1.0]])
    assert bank.evidence.deficits is None
    told(bank, [[1.0], [0.5, 0.25]])
    assert bank.evidence.deficits.tolist() == [0.0, 0.4375, 0.0]
    bank.add_prompts([3])
    assert bank.evidence.deficits.tolist() == [0.0, 0.4375, 0.0, 0.0]


@settings(max_examples=150)
@given(rewards=groups, ends=st.sampled_from([*RANGES, (-100.0, 100.0), (99.0, 100.0)]))
def test_squares_of_rewards_are_never_refused(rewards, ends):
    raw = [[min(max(ends[0] + (ends[1] - ends[0]) * x, ends[0]), ends[1]) for x in r] for r in rewards]
    told(BetaPosteriorBank(len(raw), reward_range=ends), raw)


@pytest.mark.parametrize(
    ("ends", "total", "n", "squares"),
    [
        ((0, 1), 2.0, 4, 2.1),  # more than the sum
        ((0, 1), 2.0, 4, 0.9),  # less than of four halves
        ((0, 1), 0.5, 1, 0.5),  # a single half has 0.25
        ((0, 1), 1.5, 4, 1.5),  # one of them is not 0 or 1
        ((0, 1), 0.0, 0, 0.5),
        ((0, 1), 2.0, 4, -1.0),
        ((0, 1), 2.0, 4, math.nan),
        ((0, 1), 2.0, 4, math.inf),
        ((-1, 1), 0.0, 4, 4.5),
        ((-1, 1), 2.0, 4, 0.5),
        ((0, 10), 20.0, 4, 201.0),
    ],
)
def test_squares_that_no_rewards_have(ends, total, n, squares):
    bank = told(BetaPosteriorBank(2, reward_range=ends), [[ends[1]], [ends[0]]])
    before = leaves(bank.state_dict())
    message = rf"squares must be a sum of squared rewards whose sum is successes\[1\] = {total:g}, got squares\[1\] = "
    with pytest.raises(ValueError, match=message):
        bank.update([0, 1], [ends[1], total], [1, n], squares=[ends[1] ** 2, squares])
    assert leaves(bank.state_dict()) == before


# ---------------------------------------------------------------- warnings and errors


def heard(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert all(entry.filename == __file__ for entry in caught)  # the user's line
    return [entry.category for entry in caught]


@ranged
def test_a_bank_warns_once_of_rewards_in_between_without_squares(ends):
    low, high = ends
    bank, middle = BetaPosteriorBank(2, reward_range=ends), low + (high - low) / 3
    assert heard(lambda: bank.update([0], [sum([high] * 3 + [low] * 2)], [5])) == []
    assert heard(lambda: bank.update([0], [middle], [1], squares=[middle**2])) == []
    assert heard(lambda: bank.observe([0, 1, 0], [middle, low, high])) == []
    assert heard(lambda: bank.update([0], [middle], [1])) == [AllocationWarning]
    assert heard(lambda: bank.update([0, 1], [middle] * 2, [1, 1])) == []
    assert heard(lambda: BetaPosteriorBank(2, reward_range=ends).update([0], [middle], [1])) == [AllocationWarning]


def test_every_way_in_warns_with_the_users_line():
    run = {"total_budget": 8, "n_rounds": 2, "max_rollouts": 4}
    assert heard(lambda: FenchelDualAllocator(BetaPosteriorBank(2), **run).update([0], [0.5], [1])) == [
        AllocationWarning
    ]
    history = [([0], [0.5], [1])] * 3
    assert heard(lambda: BetaPosteriorBank(2).fit_drift(history)) == [AllocationWarning]
    assert heard(lambda: BetaPosteriorBank(2).select_forgetting(history)) == [AllocationWarning]


def signed_sums(n_groups, seed, n=8):
    """Sums of n rewards of -1 and 1 of groups that got at least as many of 1."""
    right = np.random.default_rng(seed).binomial(n, 0.8, n_groups)
    return np.maximum(2 * right - n, 0)


def test_sums_of_rewards_of_minus_one_and_one_are_noticed_once():
    ids, n = list(range(100)), np.full(100, 8)
    run = {"total_budget": 800, "n_rounds": 2, "max_rollouts": 8}
    for ways in (BetaPosteriorBank(100), FenchelDualAllocator(BetaPosteriorBank(100), **run)):
        with pytest.warns(AllocationWarning, match=r"rewards of -1 and 1 have.*reward_range=\(-1, 1\)") as caught:
            ways.update(ids, signed_sums(100, 0), n)
        assert [entry.filename for entry in caught] == [__file__]
        assert heard(lambda: ways.update(ids, signed_sums(100, 1), n)) == []  # noqa: B023


def test_they_are_noticed_over_many_calls():
    bank, sums = BetaPosteriorBank(["six of 1 and two of -1", "seven and one"]), [4, 6]
    calls = [heard(lambda: bank.update(bank.prompt_ids, sums, [8, 8])) for _ in range(12)]
    assert calls == [[]] * 9 + [[AllocationWarning]] + [[]] * 2


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("rate", [0.02, 0.2, 0.5, 0.8, 0.98])
def test_a_sum_with_the_parity_of_its_rollouts_has_a_chance_of_half_at_most(n, rate):
    chance = [math.comb(n, s) * rate**s * (1 - rate) ** (n - s) for s in range(n + 1)]
    clears = sum(chance[s] for s in range(n + 1) if (n - s) % 2)
    counts = sum(chance[s] for s in range(2, n) if (n - s) % 2 == 0)
    assert counts <= clears + 1e-15


@pytest.mark.parametrize(
    ("ends", "sums", "n", "squares"),
    [
        ((0, 1), [4] * 40, 8, None),  # half of every group
        ((0, 1), [0, 8] * 20, 8, None),  # no mixed group
        ((0, 1), [5, *[2, 6] * 20], 8, None),
        ((0, 1), [1] * 40, 3, None),
        ((0, 1), [2, 6] * 20, 8, [2, 6] * 20),
        ((-1, 1), [2, 6] * 20, 8, None),
    ],
)
def test_other_sums_are_not_taken_for_them(ends, sums, n, squares):
    bank = BetaPosteriorBank(len(sums), reward_range=ends)
    assert heard(lambda: bank.update(None, sums, [n] * len(sums), squares=squares)) == []


def test_the_warning_as_an_error_changes_nothing():
    bank = BetaPosteriorBank(2, trend=0.1)
    bank.update([1], [1], [1])
    before = leaves(bank.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error", AllocationWarning)
        for _ in range(2):
            with pytest.raises(
                AllocationWarning,
                match=r"are taken for coins of the same mean.*Pass squares=.*; successes are sums over the rollouts, not means\.$",
            ):
                bank.update([0], [0.5], [1])
    assert leaves(bank.state_dict()) == before


@pytest.mark.parametrize(
    ("ends", "ids", "more", "message"),
    [
        ((-1, 1), [0], ([2.5], [2]), r"successes must be a sum of rewards between -1 and 1 over rollouts\[0\] = 2, got .* = 2\.5"),
        ((-1, 1), [0], ([-2.5], [2]), r"successes must be a sum of rewards between -1 and 1 over rollouts\[0\] = 2, got .* = -2\.5"),
        ((-1, 1), [0], ([math.nan], [2]), r"successes must be a sum of rewards between -1 and 1 .* Correct reward_range"),
        ((5, 9), [0], ([0.0], [1]), r"successes must be a sum of rewards between 5 and 9 over rollouts\[0\] = 1"),
        ((-1, 1), [0], ([0.0], [-2]), r"rollouts must be at least 0, got rollouts\[0\] = -2"),
        ((0, 1), [0], ([2.5], [2]), r"successes must not exceed rollouts\[0\] = 2, got .*reward_range=\(low, high\)"),
        ((0, 1), [0, 1], ([1.0, 1.0], [2, 2], [1.0]), r"squares must have one entry per prompt id, got squares\.shape = \(1,\)"),
        ((0, 1), [0], ([1.0], [2], ["1"]), r"squares must be numbers"),
    ],
)  # fmt: skip
def test_errors_come_before_any_change(ends, ids, more, message):
    bank = told(BetaPosteriorBank(2, reward_range=ends, trend=0.2), [[ends[1], (ends[0] + ends[1]) / 2]])
    before = leaves(bank.state_dict())
    with pytest.raises(ValueError, match=message):
        bank.update(ids, *more[:2], **({"squares": more[2]} if more[2:] else {}))
    assert leaves(bank.state_dict()) == before


# ---------------------------------------------------------------- calibration


def test_calibration_compares_with_the_variance_of_the_rewards():
    bank = BetaPosteriorBank(5, prior=(0.7, 0.4))
    rewards = [[0.5] * 6, [0.1, 0.9, 0.5], [1.0, 0.0], [0.3], [0.7, 0.7 + 1e-12]]
    predicted = bank.value()
    calibration = told(bank, rewards).calibration()
    observed = [np.var(r, ddof=1) for r in rewards if len(r) > 1]
    assert (calibration.n_groups, calibration.mixed_groups) == (4, 2)  # all alike but for rounding is not mixed
    assert np.nansum(calibration.observed * calibration.groups) == pytest.approx(sum(observed), rel=1e-9)
    assert calibration.bias == pytest.approx(predicted[0] - np.mean(observed), rel=1e-9)
    again = BetaPosteriorBank(5, prior=(0.7, 0.4))
    again.observe([i for i, r in enumerate(rewards) for _ in r], [x for r in rewards for x in r])
    assert again.calibration().metrics() == pytest.approx(calibration.metrics(), rel=1e-9)


# ---------------------------------------------------------------- ageing, merging, states


@settings(max_examples=150)
@given(
    history=st.lists(st.one_of(st.integers(1, 3), groups), max_size=10),
    motion=st.sampled_from([{"forgetting": 0.8}, {"drift": 0.05}, {"drift": 0.05, "forgetting": 0.8}]),
    prior=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
)
def test_squares_age_with_their_sums(history, motion, prior):
    bank, rho, drift = BetaPosteriorBank(4, prior=prior, **motion), motion.get("forgetting", 1), motion.get("drift", 0)
    known = np.array([[*prior, 0.0]] * 4)  # sums of r, of 1 - r, and of r - r^2
    for event in history:
        if isinstance(event, int):
            bank.tick(event)
            for _ in range(event):
                known = [*prior, 0.0] + rho * (known - [*prior, 0.0])
                s = known[:, :2].sum(axis=1)
                known *= (np.maximum(np.minimum(s, sum(prior)), 1 / (1 / s + drift)) / s)[:, None]
        else:
            bank.observe([i for i, r in enumerate(event) for _ in r], [x for r in event for x in r])
            for i, r in enumerate(event):
                known[i] += math.fsum(r), math.fsum(1 - x for x in r), math.fsum(x - x * x for x in r)
    a, b, lacking = known.T
    np.testing.assert_allclose(bank.value(), (a * b / (a + b) - lacking) / (a + b + 1), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("motion", [{"drift": 1e9}, {"drift": 0.05}, {}], ids=str)
def test_many_rounds_at_once_are_as_many_single_rounds(motion):
    at_once, one_by_one = (told(BetaPosteriorBank(2, forgetting=0.5, **motion), [[0.5] * 4]) for _ in range(2))
    at_once.tick(12)
    for _ in range(12):
        one_by_one.tick()
    np.testing.assert_allclose(at_once.value(), one_by_one.value(), rtol=1e-12)
    assert at_once.value()[0] == pytest.approx(1 / 6, rel=1e-3)


def test_reports_on_others_leave_the_shape_of_the_rewards():
    bank = told(BetaPosteriorBank(2, trend=0.5, drift=0.02), [[0.5, 0.25, 1.0, 0.75], [0.0, 1.0]])
    a, b = bank.alpha[0], bank.beta[0]
    share = bank.value()[0] / (a * b / (a + b) / (a + b + 1))
    for k in range(30):
        bank.tick(k % 3)
        bank.observe([1] * 9, [1.0] * 8 + [0.5])
        m, s = bank.mean()[0], bank.alpha[0] + bank.beta[0]
        assert bank.value()[0] == pytest.approx(m * (1 - m) * s / (s + 1) * share, rel=1e-9)
    assert bank.mean()[0] > 0.63


@pytest.mark.parametrize("forgetting", [1.0, 0.9])
@pytest.mark.parametrize("who", ["both", "one", "other"])
def test_merged_banks_know_the_squares_of_both(forgetting, who):
    one, other, together = (BetaPosteriorBank(list(ids), forgetting=forgetting) for ids in ("abc", "cd", "abcd"))
    shares = {"one": 0.25 if who != "other" else 1.0, "other": 0.75 if who != "one" else 0.0}
    for bank in (one, together):
        bank.observe(list("aabbc"), [shares["one"], 1, 0, shares["one"], shares["one"]])
    for bank in (one, other, together):
        bank.tick(3)
    for bank in (other, together):
        bank.observe(list("ccd"), [shares["other"], 1, shares["other"]])
        bank.tick(2)
    one.merge(other)
    np.testing.assert_allclose(one.value(list("abcd")), together.value(list("abcd")), rtol=1e-12)
    np.testing.assert_allclose(one.evidence.lacking(np.arange(4)), together.evidence.lacking(np.arange(4)), rtol=1e-12)
    assert one.evidence.now == 5


@pytest.mark.parametrize("motion", [{"drift": 0.02}, {"trend": 0.3}, {"reward_range": (-1, 1)}], ids=str)
def test_other_beliefs_and_ranges_do_not_merge(motion):
    bank, other = told(BetaPosteriorBank(2, **motion), [[1.0, 0.5]]), told(BetaPosteriorBank(2), [[1.0, 0.5]])
    before = leaves(bank.state_dict()), leaves(other.state_dict())
    moving = "reward_range" not in motion
    for one, two, name in ((bank, other, "bank"), (other, bank, "other")):
        message = (
            f"^{name} must have neither drift nor trend in a merge" if moving else r"^other\.reward_range must be \("
        )
        with pytest.raises(ValueError, match=message):
            one.merge(two)
    assert (leaves(bank.state_dict()), leaves(other.state_dict())) == before


@pytest.mark.parametrize("wrong", [{"trend": 0.1}, {"reward_range": (-1, 1)}])
def test_shards_take_neither_a_trend_nor_other_rewards(wrong):
    horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
    with pytest.raises(ValueError, match=r"bank must have no trend and rewards in \[0, 1\] in a shard, got trend = "):
        PoolShard(BetaPosteriorBank(2, **wrong), horizon, 2)
    shard = PoolShard(BetaPosteriorBank(2, drift=0.1), horizon, 2)
    shard.update(np.array([3]), np.array([1.0]), np.array([2]), np.array([0.5]))
    assert shard.bank.value()[1] == pytest.approx(expected_variance(1, 1, [0.5, 0.5]), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_squares_are_saved(dtype, tmp_path):
    bank = BetaPosteriorBank(list("abc"), reward_range=(-2, 2), forgetting=0.9, dtype=dtype)
    bank.observe(list("aabc"), [0.5, -1.0, 2.0, 1.25])
    bank.tick()
    bank.save(tmp_path / "bank.npz")
    again = BetaPosteriorBank.load(tmp_path / "bank.npz")
    for each in (bank, again):
        each.observe(list("cab"), [2, 0.0, 1.0])
        each.revive(["a"], keep=0.5)
        each.tick()
    assert leaves(again.state_dict()) == leaves(bank.state_dict())
    assert again.value().tolist() == bank.value().tolist()
    assert again.reward_range == (-2.0, 2.0)
