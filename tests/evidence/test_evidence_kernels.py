"""The kernels of the evidence against their twins, at ordinary and extreme arguments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from helpers import kernels
from helpers.kernel_cases import evidence_of, generators, quick


@pytest.mark.parametrize("rho", [1.0, 0.98, 0.5, 1e-300])
def test_survival_matches_its_twin_looked_up_or_not(rho):
    fade = np.empty(20)
    kernels.powers(rho, fade)
    np.testing.assert_allclose(fade, twins.powers(rho, 20), rtol=1e-13, atol=1e-320)
    for elapsed in [0, 1, 2, 19, 20, 21, 300]:
        expected = twins.survival(elapsed, rho)
        assert kernels.survival(elapsed, rho, fade) == pytest.approx(expected, rel=1e-12, abs=1e-320)
        assert kernels.survival(elapsed, rho, fade) == kernels.survival(elapsed, rho, fade[:0])


@quick
@given(a=st.floats(1e-6, 1e6), b=st.floats(1e-6, 1e6))
def test_expected_variance_matches_its_twin(a, b):
    assert kernels.expected_variance(a, b) == pytest.approx(twins.expected_variance(a, b), rel=1e-14, abs=0)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(1e-300, 1e-300, 5e-301), (1e300, 1e300, 0.25), (1e300, 1e-300, 0.0), (1e-300, 1.0, 5e-301)],
)
def test_expected_variance_survives_extreme_parameters(a, b, expected):
    assert kernels.expected_variance(a, b) == pytest.approx(expected, rel=1e-14, abs=0)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("stride", [0, 1])
def test_posterior_and_values_match_their_twins(full, stride):
    for rng in generators(20):
        evidence = evidence_of(rng, 12, stride)
        rows = np.empty(0, dtype=np.int64) if full else rng.permutation(12)[:5]
        alpha, beta, value = np.empty((3, 12 if full else 5))
        kernels.posterior(full, rows, evidence, alpha, beta)
        kernels.values(full, rows, evidence, np.empty(int(rng.integers(1, 20))), value)
        np.testing.assert_allclose([alpha, beta], twins.posterior(full, rows, evidence), rtol=1e-13)
        np.testing.assert_allclose(value, twins.values(full, rows, evidence), rtol=1e-13)


@pytest.mark.parametrize("stride", [0, 1])
def test_stretch_matches_its_twin(stride):
    for rng in generators(5):
        evidence, (start, stop) = evidence_of(rng, 12, stride), sorted(rng.integers(0, 13, 2).tolist())
        for part, twin in zip(
            kernels.stretch(evidence, start, stop), twins.stretch(evidence, start, stop), strict=True
        ):
            np.testing.assert_array_equal(part, twin)


def test_calibrate_matches_its_twin():
    for rng in generators(60):
        size, fade = int(rng.integers(0, 30)), float(rng.uniform(0.5, 1.0))
        bins, tally = rng.random((4, 5)), rng.random(5)
        for _ in range(2):
            rollouts = rng.integers(0, 9, size)
            successes = np.floor(rollouts * rng.random(size) * 1.3).clip(0, rollouts)
            value = rng.choice([0.0, 0.25, 0.05, *rng.uniform(0, 0.25, 5)], size)
            args = (value, successes, rollouts, 0.25, fade)
            expected = twins.calibrate(*args, bins.tolist(), tally.tolist())
            kernels.calibrate(*args, bins, tally)
            np.testing.assert_allclose(bins, expected[0], rtol=1e-12)
            np.testing.assert_allclose(tally, expected[1], rtol=1e-12)


@pytest.mark.parametrize(("dtype", "within"), [(np.float64, 1e-13), (np.float32, 1e-7)])
def test_observe_matches_its_twin(dtype, within):
    for rng in generators(10):
        evidence = evidence_of(rng, 12, 0, dtype)
        rows = rng.permutation(12)[:6]
        rollouts = rng.integers(0, 9, 6)
        successes = rollouts * rng.random(6)
        expected = twins.observe(rows, successes, rollouts, evidence)
        kernels.observe(rows, successes, rollouts, evidence)
        np.testing.assert_allclose(evidence[3], expected[0], rtol=within)
        assert evidence[4].tolist() == expected[1]


@quick
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, 2.5, 4.0, -1.0, np.nan, np.inf, -np.inf]), st.integers(-1, 4)), max_size=6
    )
)
def test_first_bad_feedback_matches_its_twin(feedback):
    successes = np.array([s for s, _ in feedback], dtype=np.float64)
    rollouts = np.array([n for _, n in feedback], dtype=np.int64)
    assert kernels.first_bad_feedback(successes, rollouts) == twins.first_bad_feedback(successes, rollouts)


@quick
@given(st.lists(st.integers(0, 8), max_size=6))
def test_strictly_increasing_matches_its_twin(rows):
    for given_rows in (rows, sorted(rows), sorted(set(rows))):
        answer = kernels.strictly_increasing(np.array(given_rows, dtype=np.int64))
        assert answer == twins.strictly_increasing(given_rows)


@quick
@given(rows=st.lists(st.integers(-1, 12), max_size=12), n_prompts=st.integers(1, 12))
def test_first_bad_row_matches_its_twin(rows, n_prompts):
    array, slots = np.array(rows, dtype=np.int64), np.full(32, -1, dtype=np.int64)
    assert kernels.first_bad_row(array, n_prompts, slots) == twins.first_bad_row(rows, n_prompts)
    if rows == sorted(set(rows)):
        assert kernels.first_bad_row(array, n_prompts, slots[:0]) == twins.first_bad_row(rows, n_prompts)


@quick
@given(rows=st.lists(st.integers(0, 2**62), max_size=7))
def test_enter_matches_its_twin(rows):
    slots, seen = np.full(8, -1, dtype=np.int64), set()
    for row in rows:
        assert kernels.enter(row, slots, np.uint64(7)) == twins.enter(row, seen)
    assert {slot for slot in slots.tolist() if slot != -1} == seen
