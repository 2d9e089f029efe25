"""Lengths of answers, and the time of a step: the schedule against one slot after the other, bounds, and the model's moments."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from cero_alloc.simulation import LengthModel, step_time

STEPS = st.lists(st.integers(0, 30), max_size=40)
SLOTS = st.integers(1, 9)


def shares_of(lengths, workers):
    """Consecutive shares whose sizes differ by one at most, the larger ones first."""
    size, more = divmod(len(lengths), workers)
    shares, at = [], 0
    for worker in range(workers):
        end = at + size + (worker < more)
        shares.append(lengths[at:end])
        at = end
    return shares


@given(STEPS, SLOTS, SLOTS)
def test_continuous_batching_is_list_scheduling(lengths, slots, workers):
    expected = max(twins.list_schedule(share, slots) for share in shares_of(lengths, workers))
    assert step_time(lengths, slots, workers=workers) == expected


@given(STEPS, SLOTS, SLOTS)
def test_static_batches_wait_for_their_longest(lengths, slots, workers):
    expected = max(
        sum(max(share[at : at + slots]) for at in range(0, len(share), slots)) for share in shares_of(lengths, workers)
    )
    assert step_time(lengths, slots, workers=workers, batching="static") == expected


@given(STEPS, SLOTS)
def test_bounds_of_a_step(lengths, slots):
    total, longest, time = sum(lengths), max(lengths, default=0), step_time(lengths, slots)
    assert time >= longest
    assert slots * time >= total
    assert slots * time <= total + (slots - 1) * longest
    assert time <= step_time(lengths, slots, batching="static") <= total
    assert step_time(lengths, len(lengths) + 1) == longest
    assert step_time(lengths, 1) == total


@given(STEPS, SLOTS, st.integers(1, 5))
def test_time_is_in_the_unit_of_the_lengths(lengths, slots, unit):
    for batching in ("continuous", "static"):
        scaled = step_time([unit * length for length in lengths], slots, batching=batching)
        assert scaled == unit * step_time(lengths, slots, batching=batching)


def test_the_moments_of_the_model():
    """Means and deviations of the logs, of many prompts and many answers."""
    size, model = 100_000, LengthModel(mean=3e5, hard_ratio=2.5, between=0.4, within=0.7, most=2**40)
    for rate in (0.0, 0.3, 1.0):
        means = model.prompt_means(np.full(size, rate), seed=1)
        expected = 3e5 * (rate + 2.5 * (1 - rate))
        assert means.mean() == pytest.approx(expected, rel=5 * math.sqrt(math.expm1(0.16) / size))
        assert np.log(means).std() == pytest.approx(0.4, rel=5 / math.sqrt(2 * size))
    lengths = model.sample([1e6], [size], seed=2)
    assert lengths.mean() == pytest.approx(1e6, rel=5 * math.sqrt(math.expm1(0.49) / size))
    assert np.log(lengths).std() == pytest.approx(0.7, rel=5 / math.sqrt(2 * size))


def test_answers_come_prompt_by_prompt_within_the_limit():
    model = LengthModel(mean=10, between=0, within=3, most=50)
    lengths = model.sample([1e-9, 1e9, 1e-9], [2, 3, 1])
    assert lengths.tolist() == [1, 1, 50, 50, 50, 1]
    assert lengths.dtype == np.int64
    drawn = model.sample(np.full(5, 10.0), np.full(5, 2000))
    assert set(np.clip(drawn, 1, 50)) == set(drawn)
    assert drawn.min() == 1
    assert drawn.max() == 50
    assert model.sample([5.0], [0]).size == 0


def test_a_seed_repeats_and_a_generator_goes_on():
    model = LengthModel()
    rates = np.linspace(0, 1, 20)
    np.testing.assert_array_equal(model.prompt_means(rates, 3), model.prompt_means(rates, 3))
    rng = np.random.default_rng(3)
    first, second = (model.sample(np.full(20, 50.0), np.ones(20, dtype=int), rng) for _ in range(2))
    assert (first != second).any()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: LengthModel(mean=0), ValueError, "mean must be finite and greater than 0"),
        (lambda: LengthModel(hard_ratio=-1), ValueError, "hard_ratio must be finite and greater than 0"),
        (lambda: LengthModel(between=-0.1), ValueError, "between must be finite and at least 0"),
        (lambda: LengthModel(within=math.nan), ValueError, "within must be finite and at least 0"),
        (lambda: LengthModel(within="1"), TypeError, "within must be finite"),
        (lambda: LengthModel(most=0), ValueError, "most must be at least 1"),
        (lambda: LengthModel(most=1.5), TypeError, "most must be an integer"),
        (lambda: LengthModel().prompt_means([1.5]), ValueError, r"rates must be .*, got rates\[0\] = 1.5"),
        (lambda: LengthModel().sample([0.0], [1]), ValueError, "means must be finite, greater than 0"),
        (lambda: LengthModel().sample([1.0], [1, 2]), ValueError, "rollouts must have one entry"),
        (lambda: LengthModel().sample([1.0, 1.0], [1, -2]), ValueError, r"rollouts must be at least 0, got rollouts\[1\] = -2"),
        (lambda: step_time([1, 0.5], 2), ValueError, r"lengths must be integers, got lengths\[1\] = 0.5"),
        (lambda: step_time([1, -1], 2), ValueError, r"lengths must be at least 0, got lengths\[1\] = -1"),
        (lambda: step_time([[1]], 2), ValueError, r"lengths must have shape \(n_rollouts,\)"),
        (lambda: step_time([1], 0), ValueError, "slots must be at least 1"),
        (lambda: step_time([1], 1, workers=0), ValueError, "workers must be at least 1"),
        (lambda: step_time([1], 1, batching="dynamic"), ValueError, "batching must be 'continuous' or 'static'"),
    ],
)  # fmt: skip
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()
