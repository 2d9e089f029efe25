"""The kernels of the evidence against their twins, at ordinary and extreme arguments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from helpers import kernels
from helpers.kernel_cases import BELIEFS, GRADED, evidence_of, generators, quick


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


FADED = st.one_of(st.just(0.0), st.floats(1e-12, 10))
PARAMETER = st.one_of(st.floats(1e-8, 1e-3), st.floats(1e-3, 1e9))


@quick
@given(s=PARAMETER, faded=FADED)
def test_growth_matches_its_twin(s, faded):
    for most in (0.5 / s, 1.0 / s, 3.0 / s, 1e300):
        assert kernels.growth(s, faded, most) == pytest.approx(twins.growth(s, faded, most), rel=1e-14, abs=0)


@quick
@given(
    a=PARAMETER, b=PARAMETER, faded=FADED, prior=PARAMETER,
    odds=st.sampled_from([1e-100, 1e-9, 0.3, 1.0, 7.0, 1e100]), anchor=st.sampled_from([0.0, 1e-100, 0.1, 1.0, 1e9, 1e100]),
)  # fmt: skip
def test_values_of_beliefs_that_move_match_their_twins(a, b, faded, prior, odds, anchor):
    drifted = twins.drifted_value(a, b, faded, 1 / prior)
    assert kernels.drifted_value(a, b, faded, 1 / prior) == pytest.approx(drifted, rel=1e-14, abs=0)
    moved = twins.moved_value(a, b, faded, 1 / prior, odds, anchor)
    assert kernels.moved_value(a, b, faded, 1 / prior, odds, anchor) == pytest.approx(moved, rel=1e-14, abs=0)
    assert twins.moved_value(a, b, faded, 1 / prior, anchor, anchor) == drifted


@BELIEFS
@GRADED
@pytest.mark.parametrize("stride", [0, 1])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_prompt_matches_its_twin(belief, graded, stride, dtype):
    for rng in generators(15):
        evidence = evidence_of(rng, 12, stride, dtype, belief=belief, graded=graded)
        odds, anchors = evidence[9:11]
        assert kernels.moves(evidence) == twins.moves(evidence) == (belief != "rest")
        for i in range(12):
            np.testing.assert_allclose(kernels.parameters(i, evidence), twins.parameters(i, evidence), rtol=1e-13)
            assert kernels.shift_since(i, odds, anchors) == twins.shift_since(i, odds, anchors)
            if graded:
                assert kernels.spread(i, evidence) == pytest.approx(twins.spread(i, evidence), rel=1e-13, abs=1e-14)
        if graded:
            rows, spreads = rng.permutation(12)[:5], np.empty(5)
            kernels.spreads(rows, evidence, spreads)
            np.testing.assert_allclose(spreads, twins.spreads(rows, evidence), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("belief", ["drift", "trend", "drift and trend"])
@pytest.mark.parametrize("odds", [1e-100, 1e-9, 1.0, 1e9, 1e100])
def test_a_prompt_matches_its_twin_after_very_long_and_at_the_ends_of_the_odds(belief, odds):
    for rng in generators(5):
        *row, now, _, fade, drift, _, anchors, deficits = evidence_of(rng, 6, 1, belief=belief, graded=True)
        anchors = anchors * rng.choice([1e-90, 1.0, 1e90], anchors.size)
        evidence = (*row, now + int(rng.choice([0, 100, 5000])), 1.0, fade, drift, odds, anchors, deficits)
        value = np.empty(6)
        kernels.values(True, np.empty(0, dtype=np.int64), evidence, np.empty(4), value)
        np.testing.assert_allclose(value, twins.values(True, None, evidence), rtol=1e-11, atol=1e-15)
        for i in range(6):
            np.testing.assert_allclose(kernels.parameters(i, evidence), twins.parameters(i, evidence), rtol=1e-11)


def test_rewards_that_are_all_alike_have_no_spread():
    """More deficit than its two outcomes allow can only be rounding."""
    a0, b0, _, outcomes, *rest, deficits = evidence_of(np.random.default_rng(0), 3, 0, graded=True)
    won, lost = a0 + outcomes[:, 0], b0 + outcomes[:, 1]
    deficits[:] = won * lost / (won + lost) * [1.0, 1.0 + 1e-9, 0.999]
    evidence = (a0, b0, 0, outcomes, np.full(3, 9, dtype=np.int32), *rest[1:], deficits)
    assert [kernels.spread(i, evidence) for i in range(3)] == pytest.approx([0.0, 0.0, 0.001], abs=1e-12)
    assert kernels.spread(1, evidence) == twins.spread(1, evidence) == 0.0


@BELIEFS
@GRADED
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("stride", [0, 1])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_posterior_and_values_match_their_twins(belief, graded, full, stride, dtype):
    for rng in generators(15):
        evidence = evidence_of(rng, 12, stride, dtype, belief=belief, graded=graded)
        rows = np.empty(0, dtype=np.int64) if full else rng.permutation(12)[:5]
        alpha, beta, value = np.empty((3, 12 if full else 5))
        kernels.posterior(full, rows, evidence, alpha, beta)
        kernels.values(full, rows, evidence, np.empty(int(rng.integers(1, 20))), value)
        np.testing.assert_allclose([alpha, beta], twins.posterior(full, rows, evidence), rtol=1e-13)
        np.testing.assert_allclose(value, twins.values(full, rows, evidence), rtol=1e-13, atol=1e-15 * graded)
        if belief != "rest":
            kernels.moved_values(full, rows, evidence, value)
            np.testing.assert_allclose(value, twins.moved_values(full, rows, evidence), rtol=1e-13)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("stride", [0, 1])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_settled_beliefs_match_their_twins_and_the_kernels_for_all_beliefs(full, stride, dtype):
    for rng in generators(15):
        evidence = evidence_of(rng, 12, stride, dtype, belief="rest", graded=False)
        rows = np.empty(0, dtype=np.int64) if full else rng.permutation(12)[:5]
        size = 12 if full else 5
        first, spare = int(rng.integers(0, size)), np.empty(int(rng.integers(1, 20)))
        value, general = np.empty((2, size))
        alpha, beta = np.empty((2, size - first))
        kernels.settled_posterior(full, first, rows, evidence, alpha, beta)
        np.testing.assert_allclose(
            [alpha, beta], twins.settled_posterior(full, first, rows, evidence, size), rtol=1e-13
        )
        kernels.settled_values(full, rows, evidence, spare, value)
        np.testing.assert_allclose(value, twins.settled_values(full, rows, evidence), rtol=1e-13)
        kernels.values(full, rows, evidence, np.empty(4), general)
        assert value.tolist() == general.tolist()


@pytest.mark.parametrize("stride", [0, 1])
@pytest.mark.parametrize(("dtype", "within"), [(np.float64, 1e-13), (np.float32, 1e-7)])
def test_settled_observe_matches_its_twin_and_the_kernel_for_all_beliefs(stride, dtype, within):
    for rng in generators(15):
        evidence = evidence_of(rng, 12, stride, dtype, belief="rest", graded=False)
        general = tuple(part.copy() if isinstance(part, np.ndarray) else part for part in evidence)
        rows, rollouts = rng.permutation(12)[:6], rng.integers(0, 9, 6)
        successes = rollouts * rng.random(6)
        expected = twins.settled_observe(rows, successes, rollouts, evidence)
        kernels.settled_observe(rows, successes, rollouts, evidence)
        np.testing.assert_allclose(evidence[3], expected[0], rtol=within)
        assert evidence[4].tolist() == expected[1]
        kernels.observe(rows, successes, rollouts, np.empty(0), general)
        for part, other in ((evidence[3], general[3]), (evidence[4], general[4])):
            assert part.tolist() == other.tolist()


@BELIEFS
@GRADED
@pytest.mark.parametrize("stride", [0, 1])
def test_stretch_matches_its_twin(belief, graded, stride):
    for rng in generators(5):
        evidence = evidence_of(rng, 12, stride, belief=belief, graded=graded)
        start, stop = sorted(rng.integers(0, 13, 2).tolist())
        for part, twin in zip(
            kernels.stretch(evidence, start, stop), twins.stretch(evidence, start, stop), strict=True
        ):
            np.testing.assert_array_equal(part, twin)


@GRADED
def test_calibrate_matches_its_twin(graded):
    for rng in generators(60):
        size, fade = int(rng.integers(0, 30)), float(rng.uniform(0.5, 1.0))
        bins, tally = rng.random((4, 5)), rng.random(5)
        for _ in range(2):
            rollouts = rng.integers(0, 9, size)
            successes = np.floor(rollouts * rng.random(size) * 1.3).clip(0, rollouts)
            value = rng.choice([0.0, 0.25, 0.05, *rng.uniform(0, 0.25, 5)], size)
            lacks = np.empty(0)
            if graded:
                most = successes * (rollouts - successes) / np.maximum(rollouts, 1)
                lacks = most * rng.choice([0.0, 0.3, 0.99, 1.0, 1.0 + 1e-15], size)
            args = (value, successes, rollouts, lacks, 0.25, fade)
            expected = twins.calibrate(*args, bins.tolist(), tally.tolist())
            kernels.calibrate(*args, bins, tally)
            np.testing.assert_allclose(bins, expected[0], rtol=1e-12)
            np.testing.assert_allclose(tally, expected[1], rtol=1e-12)


def test_groups_of_equal_rewards_are_not_mixed_however_small_the_rewards():
    for rng in generators(40):
        sizes, rewards = rng.integers(2, 65, 50), 10.0 ** rng.uniform(-12, 0, 50)
        for apart in (0.0, 0.1):
            groups = [reward * (1 - apart * np.arange(n) / n) for n, reward in zip(sizes, rewards, strict=True)]
            won, lacks = np.array([[group.sum(), (group * (1 - group)).sum()] for group in groups]).T
            bins, tally = np.zeros((4, 5)), np.zeros(5)
            args = (np.zeros(50), won, sizes, lacks, 0.25, 1.0)
            kernels.calibrate(*args, bins, tally)
            assert tally[0] == twins.calibrate(*args, bins.tolist(), [0.0] * 5)[1][0]
            assert (tally[0] == 0) == (apart == 0.0)
            assert tally[0] == np.count_nonzero([group.var(ddof=1) > 1e-14 for group in groups]) * (apart > 0.0)


@BELIEFS
@GRADED
@pytest.mark.parametrize("stride", [0, 1])
@pytest.mark.parametrize(("dtype", "within"), [(np.float64, 1e-13), (np.float32, 1e-7)])
def test_observe_matches_its_twin(belief, graded, stride, dtype, within):
    for rng in generators(15):
        evidence = evidence_of(rng, 12, stride, dtype, belief=belief, graded=graded)
        rows = rng.permutation(12)[:6]
        rollouts = rng.integers(0, 9, 6)
        successes = rollouts * rng.random(6)
        lacks = rng.random(6) * (successes > 0) if graded and rng.random() < 0.7 else np.empty(0)
        expected = twins.observe(rows, successes, rollouts, lacks, evidence)
        kernels.observe(rows, successes, rollouts, lacks, evidence)
        atol = 0.0 if belief == "rest" else within  # what exceeds a prior is a difference then
        np.testing.assert_allclose(evidence[3], expected[0], rtol=within, atol=atol)
        assert evidence[4].tolist() == expected[1]
        assert evidence[10].tolist() == expected[2]
        np.testing.assert_allclose(evidence[11], expected[3], rtol=1e-12, atol=1e-14)


@GRADED
@pytest.mark.parametrize("stride", [0, 1])
@pytest.mark.parametrize(("drift", "trend"), [(0.02, 0.0), (0.0, 0.5), (0.02, 0.5)])
def test_rows_touched_now_and_then_are_as_if_all_had_moved_in_every_round(graded, stride, drift, trend):
    """The kernels against a pool whose beliefs are all brought up in every round, each by a shift of its own."""
    size, none = 7, np.empty(0, dtype=np.int64)
    for rng in generators(5):
        a0, b0 = rng.uniform(0.5, 2, (2, size if stride else 1))
        prior = [(float(a), float(b)) for a, b in zip(*(np.broadcast_to(side, size) for side in (a0, b0)), strict=True)]
        beliefs = {}
        anchors, deficits = np.zeros(size if trend else 0), np.zeros(size if graded else 0)
        row, odds = (a0, b0, stride, np.zeros((size, 2)), np.zeros(size, dtype=np.int32)), 1.0
        for now in range(1, 15):
            shift = float(np.exp(trend * rng.normal()))
            odds *= shift
            for i, belief in beliefs.items():
                beliefs[i] = twins.shifted(*twins.faded(*belief, drift, sum(prior[i])), shift)
            evidence = (*row, now, 1.0, np.empty(0), drift, odds, anchors, deficits)
            rows, n = rng.permutation(size)[: rng.integers(0, 4)], 8
            won = n * rng.random(rows.size)
            lacks = won * (n - won) / n * rng.random(rows.size) if graded else np.empty(0)
            kernels.observe(rows, won, np.full(rows.size, n), lacks, evidence)
            for k, i in enumerate(rows.tolist()):
                a, b, deficit = beliefs.get(i, (*prior[i], 0.0))
                beliefs[i] = a + won[k], b + n - won[k], deficit + (lacks[k] if graded else 0.0)
            alpha, beta, value = np.empty((3, size))
            kernels.posterior(True, none, evidence, alpha, beta)
            kernels.values(True, none, evidence, np.empty(4), value)
            wanted = [beliefs.get(i, (*prior[i], 0.0)) for i in range(size)]
            np.testing.assert_allclose(np.stack([alpha, beta], axis=1), [pair[:2] for pair in wanted], rtol=1e-12)
            spread = [1 - deficit * (a + b) / (a * b) for a, b, deficit in wanted]
            np.testing.assert_allclose(value, twins.expected_variance(alpha, beta) * spread, rtol=1e-11)


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


def test_count_unrewarded_matches_its_twin():
    for rng in generators(60):
        counts = rng.choice([0, 3, 65_500, 65_534, 65_535], 12).astype(np.uint16)
        rows = rng.permutation(12)[: rng.integers(0, 13)]
        rollouts = rng.integers(0, 60, rows.size)
        won = rollouts * rng.choice([0.0, 0.0, 1e-9, 1.0], rows.size)
        expected = twins.count_unrewarded(rows, won, rollouts, counts)
        kernels.count_unrewarded(rows, won, rollouts, counts)
        assert counts.tolist() == expected
