"""Calibration: what is recorded, when, and what is made of it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank
from cero_alloc._evidence.calibration import FADE, TOP, Calibration, CalibrationRecord
from helpers import kernels

quick = settings(max_examples=120)

KEYS = {
    "calibration_bias",
    "calibration_running_bias",
    "calibration_error",
    "calibration_warning",
    "mixed_group_rate",
}


def record_of(*calls):
    record = CalibrationRecord()
    for value, successes, rollouts, *lacks in calls:
        columns = np.array(value, float), np.array(successes, float), np.array(rollouts, np.int64)
        kernels.calibrate(*columns, np.array(*lacks or [[]], float), TOP, FADE, record.bins, record.tally)
    return record


def steady(difference, size):
    """Arguments of a call whose predictions exceed what is observed, 0, by ``difference``."""
    return [difference] * size, [0] * size, [4] * size


def noisy(difference, size):
    """The same on average, with 0 and 1/4 observed in turns: the standard error is 1/8 over the root of ``size``."""
    return [0.125 + difference] * size, [0, 1] * (size // 2), [4] * size


# ---------------------------------------------------------------- against a loop

entries = st.lists(
    st.lists(st.tuples(st.floats(0, 0.25), st.floats(0, 1), st.integers(0, 9)), max_size=6), min_size=1, max_size=6
)


@quick
@given(entries)
def test_sums_match_a_loop(calls):
    record = record_of(*[list(zip(*call, strict=True)) or ([], [], []) for call in with_successes(calls)])
    report = record.report()
    seen = [(v, s, n, s * (n - s) / (n * (n - 1))) for call in with_successes(calls) for v, s, n in call if n >= 2]
    assert report.n_groups == len(seen) == report.groups.sum()
    assert report.mixed_groups == sum(0 < s < n for _, s, n, _ in seen)
    for k in range(10):
        inside = [(v, o) for v, _, _, o in seen if min(int(v * 40), 9) == k]
        assert report.groups[k] == len(inside)
        expected = np.mean(inside, axis=0) if inside else [np.nan, np.nan]
        np.testing.assert_allclose([report.predicted[k], report.observed[k]], expected, rtol=1e-10, atol=1e-15)
    if not seen:
        assert math.isnan(report.bias)
        assert math.isnan(report.running_bias)
        assert math.isnan(report.error)
        return
    difference = np.array([v - o for v, _, _, o in seen])
    assert report.bias == pytest.approx(difference.mean(), abs=1e-12)
    weight = np.exp(-np.arange(len(seen))[::-1] / 1000)
    assert report.running_bias == pytest.approx(np.average(difference, weights=weight), abs=1e-12)
    gaps = np.abs(report.predicted - report.observed) * report.groups
    assert report.error == pytest.approx(np.nansum(gaps) / len(seen), abs=1e-12)
    if len(seen) > 1:
        assert report.standard_error == pytest.approx(difference.std(ddof=1) / math.sqrt(len(seen)), abs=1e-8)
        assert report.running_standard_error == pytest.approx(report.standard_error, rel=0.05, abs=1e-8)
    else:
        assert math.isnan(report.standard_error)


def with_successes(calls):
    return [[(v, share * n, n) for v, share, n in call] for call in calls]


@quick
@given(entries)
def test_one_call_or_many(calls):
    calls = with_successes(calls)
    joined = [entry for call in calls for entry in call]
    whole = record_of(list(zip(*joined, strict=True)) or ([], [], []))
    split = record_of(*[list(zip(*call, strict=True)) or ([], [], []) for call in calls])
    np.testing.assert_allclose(split.bins, whole.bins, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(split.tally, whole.tally, rtol=1e-12, atol=1e-15)


def test_nothing_seen():
    report = CalibrationRecord().report()
    assert isinstance(report, Calibration)
    np.testing.assert_allclose(report.edges, np.arange(11) / 40)
    assert report.groups.dtype == np.int64
    assert report.groups.tolist() == [0] * 10
    assert np.isnan([*report.predicted, *report.observed, report.bias, report.standard_error]).all()
    assert np.isnan([report.running_bias, report.running_standard_error, report.error]).all()
    assert math.isnan(report.mixed_group_rate)
    assert (report.n_groups, report.mixed_groups, report.warning) == (0, 0, 0.0)


def test_metrics_are_floats():
    for report in (CalibrationRecord().report(), record_of(([0.2], [1], [4])).report()):
        metrics = report.metrics()
        assert set(metrics) == KEYS
        assert all(type(entry) is float for entry in metrics.values())
    assert metrics["calibration_bias"] == metrics["calibration_running_bias"] == pytest.approx(0.2 - 0.25)
    assert metrics["calibration_error"] == pytest.approx(0.05)
    assert metrics["mixed_group_rate"] == 1.0
    assert metrics["calibration_warning"] == 0.0


def test_single_rollouts_are_no_groups():
    record = record_of(([0.1, 0.2, 0.25], [1, 1, 0], [1, 2, 0]))
    assert record.report().n_groups == 1
    assert record.report().groups.tolist() == [0] * 8 + [1, 0]
    assert record.report().observed[8] == 0.5


def test_the_highest_value_has_a_bin():
    assert record_of(([0.25, 0.0], [1, 1], [2, 2])).report().groups.tolist() == [1] + [0] * 8 + [1]


def test_fractional_rewards_stand_for_coins_of_the_same_mean():
    assert record_of(([0.2], [1.5], [3])).report().observed[8] == pytest.approx(1.5 * 1.5 / 6)


def test_of_graded_rewards_the_variance_of_the_group_is_observed():
    """As numpy has it, through sums and through rewards, in any range."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 9, 200)
    groups = [rng.choice([0.0, 0.3, 0.5, 1.0], n) for n in sizes]
    expected = np.array([group.var(ddof=1) for group in groups])
    for low, width in ((0.0, 1.0), (-1.0, 2.0)):
        summed, seen = (BetaPosteriorBank(200, reward_range=(low, low + width)) for _ in range(2))
        rewards = [low + width * group for group in groups]
        sums = [group.sum() for group in rewards], sizes
        summed.update(None, *sums, squares=[(group**2).sum() for group in rewards])
        seen.observe(np.repeat(np.arange(200), sizes), np.concatenate(rewards))
        for bank in (summed, seen):
            report = bank.calibration()
            assert report.n_groups == 200
            assert report.mixed_groups == np.count_nonzero(expected > 1e-9)
            assert np.nansum(report.observed * report.groups) == pytest.approx(expected.sum(), rel=1e-12)


@pytest.mark.parametrize("reward_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 100.0)])
def test_groups_of_equal_rewards_are_not_mixed(reward_range):
    low, high = reward_range
    rng = np.random.default_rng(0)
    sizes, rewards = rng.integers(2, 65, 500), low + (high - low) * 10.0 ** rng.uniform(-9, 0, 500)
    summed, seen = (BetaPosteriorBank(500, reward_range=reward_range) for _ in range(2))
    summed.update(None, sizes * rewards, sizes, squares=sizes * rewards**2)
    seen.observe(np.repeat(np.arange(500), sizes), np.repeat(rewards, sizes))
    for bank in (summed, seen):
        assert bank.calibration().n_groups == 500
        assert bank.calibration().mixed_groups == 0


def test_the_running_bias_fades():
    record = record_of(steady(0.2, 3000), steady(0.0, 3000))
    report = record.report()
    assert report.bias == pytest.approx(0.1)
    assert report.running_bias == pytest.approx(0.2 * (1 - math.exp(-3)) * math.exp(-3) / (1 - math.exp(-6)), rel=1e-9)


# ---------------------------------------------------------------- the warning


@pytest.mark.parametrize(
    ("call", "warning"),
    [
        (steady(0.02, 100), 1.0),
        (steady(0.02, 99), 0.0),  # too few groups
        (steady(0.0099, 5000), 0.0),  # too small to matter
        (steady(0.0101, 5000), 1.0),
        (noisy(0.04, 100), 1.0),  # 3.2 standard errors
        (noisy(0.035, 100), 0.0),  # 2.8 standard errors
        (noisy(-0.04, 100), 1.0),
        (noisy(0.0, 5000), 0.0),
    ],
)
def test_warning(call, warning):
    assert record_of(call).report().warning == warning


def test_warning_of_values_that_are_too_low():
    # One success of two is observed as 1/2, above any value.
    assert record_of(([0.2] * 200, [1] * 200, [2] * 200)).report().warning == 1.0


def test_a_recent_bias_warns_even_if_the_mean_is_fine():
    report = record_of(noisy(0.0, 10_000), steady(0.03, 600)).report()
    assert abs(report.bias) < 0.01
    assert report.warning == 1.0


def test_an_old_bias_no_longer_warns():
    old = steady(0.2, 4000)
    assert record_of(old).report().warning == 1.0
    report = record_of(old, noisy(0.0, 8000)).report()
    assert report.bias > 0.01 > 3 * report.standard_error
    assert report.warning == 0.0
    # ... in either direction
    low = ([0.1] * 4000, [1] * 4000, [2] * 4000)
    report = record_of(low, noisy(0.0, 8000)).report()
    assert report.bias < -0.01
    assert report.warning == 0.0


# ---------------------------------------------------------------- the bank


def test_predictions_are_made_before_the_evidence_is_added():
    bank = BetaPosteriorBank(2, prior=(1.0, 3.0), forgetting=0.5)
    bank.update([0], [4], [8])
    bank.tick()
    value = bank.value()
    bank.update([1, 0], [1, 1], [4, 4])
    report = bank.calibration()
    assert report.n_groups == 3
    first = 1 * 3 / (4 * 5)
    assert np.nansum(report.predicted * report.groups) == pytest.approx(first + value.sum())
    assert np.nansum(report.observed * report.groups) == pytest.approx(16 / 56 + 3 / 12 + 3 / 12)


@pytest.mark.parametrize(("a", "b"), [(0.5, 1.0), (1.0, 1.0), (3.0, 2.0)])
def test_a_true_prior_is_calibrated(a, b):
    biases, errors = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rates = rng.beta(a, b, 400)
        bank = BetaPosteriorBank(400, prior=(a, b))
        for _ in range(6):
            bank.tick()
            ids = rng.choice(400, 200, replace=False)
            bank.update(ids, rng.binomial(4, rates[ids]), np.full(200, 4))
        report = bank.calibration()
        biases.append(report.bias)
        errors.append(report.standard_error)
        assert report.n_groups == 1200
        assert report.warning == 0.0
    assert abs(np.mean(biases)) < 3 * np.mean(errors) / math.sqrt(20)
    assert np.std(biases) == pytest.approx(np.mean(errors), rel=0.4)  # the standard error means what it says


def test_a_wrong_prior_warns_until_it_is_fitted():
    rng = np.random.default_rng(0)
    rates = rng.beta(0.2, 0.4, 1000)
    bank = BetaPosteriorBank(1000)
    bank.update(None, rng.binomial(4, rates), np.full(1000, 4))
    report = bank.calibration()
    assert report.bias > 0.05
    assert report.warning == 1.0
    assert bank.fit_prior().fitted
    for _ in range(8):
        bank.update(None, rng.binomial(4, rates), np.full(1000, 4))
    report = bank.calibration()
    assert abs(report.running_bias) < 0.01
    assert report.warning == 0.0


def test_rejected_feedback_leaves_no_trace():
    bank = BetaPosteriorBank(["a", "b"])
    bank.update(["a"], [1], [4])
    for ids, successes, rollouts in (
        (["a", "b"], [1, 5], [4, 4]),
        (["a", "b"], [1, 1], [4, -4]),
        (["a", "a"], [1, 1], [4, 4]),
        (["a", "c"], [1, 1], [4, 4]),
        (["a", "b"], [1], [4, 4]),
        (["a", "b"], [1, 1], [4.0, 4.0]),
    ):
        with pytest.raises((KeyError, ValueError), match=r"prompt_ids|successes|rollouts"):
            bank.update(ids, successes, rollouts)
    assert bank.calibration().n_groups == 1
    assert bank.calibration().bias == pytest.approx(1 / 6 - 1 / 4)


def test_the_report_is_the_callers_own():
    bank = BetaPosteriorBank(2)
    bank.update(None, [1, 2], [4, 4])
    bank.calibration().predicted[:] = 9
    bank.calibration().groups[:] = 9
    assert bank.calibration().n_groups == bank.calibration().groups.sum() == 2
