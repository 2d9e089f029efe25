"""The kernels of the fit of drift, trend and prior against their twins, at ordinary and extreme arguments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaln

import twins
from helpers import kernels
from helpers.kernel_cases import generators, quick

NO_JUMPS = (np.empty(0, dtype=np.int64), np.empty(0))
PARAMETER = st.one_of(st.floats(1e-8, 1e-3), st.floats(1e-3, 1e6))


@quick
@given(a=PARAMETER, b=PARAMETER, rollouts=st.integers(0, 200), share=st.floats(0, 1), whole=st.booleans())
def test_log_chance_matches_its_twin(a, b, rollouts, share, whole):
    won = float(round(share * rollouts)) if whole else share * rollouts
    expected = twins.log_chance(a, b, won, rollouts)
    # Without whole successes it is a difference of log-gamma functions, which are up to 1.3e7 here.
    within = 1e-12 if won == int(won) else 1e-12 + 1e-14 * (a + b) * np.log(2 + a + b)
    assert kernels.log_chance(a, b, won, rollouts) == pytest.approx(expected, rel=1e-13, abs=within)


@pytest.mark.parametrize(
    ("a", "b", "won", "rollouts"), [(1.0, 1.0, 3.0, 8), (0.4, 0.5, 2.5, 4), (1e-8, 1e-2, 64.0, 64)]
)
def test_the_twin_of_log_chance_is_a_ratio_of_beta_functions(a, b, won, rollouts):
    expected = betaln(a + won, b + rollouts - won) - betaln(a, b)
    assert twins.log_chance(a, b, won, rollouts) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("rollouts", [1000, 2000, 10**6])
def test_log_chance_does_not_underflow(rollouts):
    """The chance itself is below 1e-300."""
    expected = twins.log_chance(2.0, 1.0, rollouts // 2, rollouts)
    assert expected < -690
    assert kernels.log_chance(2.0, 1.0, float(rollouts // 2), rollouts) == pytest.approx(expected, rel=1e-13)


def rounds_of(rng, n_prompts, n_rounds, *, whole=True):
    """Reports by round, some prompts in many rounds, some in none, with gaps between the rounds."""
    ticks = np.cumsum(rng.integers(1, 4, n_rounds))
    parts = [np.sort(rng.permutation(n_prompts)[: rng.integers(1, n_prompts + 1)]) for _ in range(n_rounds)]
    rows = np.concatenate(parts)
    starts = np.cumsum([0, *(part.size for part in parts)])
    rollouts = rng.integers(1, 12, rows.size)
    won = rollouts * rng.choice([0.0, 0.3, 1.0, rng.random()], rows.size)
    return starts, ticks, rows, np.round(won) if whole else won, rollouts


def jumps_of(rng, ticks):
    """Up to four jumps, before, in and between the rounds, and after them; two may come at once."""
    times = np.sort(rng.integers(0, ticks[-1] + 3, rng.integers(0, 5)))
    return times, rng.uniform(0.001, 0.999, times.size)


@pytest.mark.parametrize("whole", [True, False], ids=["0 or 1", "graded"])
@pytest.mark.parametrize("drift", [0.0, 1e-9, 0.01, 10.0])
@pytest.mark.parametrize("trend", [0.0, 1e-6, 0.1, 2.0])
def test_prequential_matches_a_pool_that_moves_in_every_round(whole, drift, trend):
    for rng in generators(4):
        n_prompts, n_rounds = int(rng.integers(1, 7)), int(rng.integers(1, 12))
        rounds, prior = rounds_of(rng, n_prompts, n_rounds, whole=whole), tuple(rng.uniform(0.05, 3, 2).tolist())
        for jumps in (NO_JUMPS, jumps_of(rng, rounds[1])):
            found = kernels.prequential(rounds, prior, (drift, trend), jumps, np.empty((4, n_prompts)))
            lists = [[part.tolist() for part in parts] for parts in (rounds, jumps)]
            expected = twins.prequential(lists[0], prior, (drift, trend), lists[1])
            assert found == pytest.approx(expected, rel=1e-11)


def test_prequential_after_a_jump_is_that_of_what_was_kept():
    """Of one prompt, by hand: a report, a jump to a half of it, and another report."""
    rounds = np.array([0, 1, 2]), np.array([3, 8]), np.array([0, 0]), np.array([4.0, 1.0]), np.array([6, 2])
    jumps = np.array([8]), np.array([0.5])
    found = kernels.prequential(rounds, (0.4, 0.7), (0.0, 0.0), jumps, np.empty((4, 1)))
    first = betaln(4.4, 2.7) - betaln(0.4, 0.7)
    assert found == pytest.approx(first + betaln(3.4, 2.7) - betaln(2.4, 1.7), rel=1e-13)


@quick
@given(
    st.tuples(st.floats(1e-3, 1e4), st.floats(1e-3, 1e4), st.integers(0, 5), st.floats(1e-3, 1e3)),
    st.floats(1e-3, 1e3),
    st.sampled_from([0.0, 1e-9, 1e-3, 0.5, 10.0]),
    st.integers(0, 12),
    st.floats(1e-4, 1e2),
)
def test_moved_matches_its_twin(belief, odds, drift, rounds, most):
    now = belief[2] + rounds
    found = kernels.moved(np.array(belief), odds, drift, now, most)
    assert found == pytest.approx(twins.moved(belief, odds, drift, now, most), rel=1e-12)
    a, b = belief[:2]
    assert found[0] / found[1] == pytest.approx(a / b * odds / belief[3], rel=1e-12)
    assert sum(found) <= (a + b) * (1 + 1e-12)


@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.01, 0.0])
@pytest.mark.parametrize("whole", [True, False], ids=["0 or 1", "graded"])
def test_kept_chance_matches_its_twin_and_scipy(share, whole):
    for rng in generators(6):
        size = int(rng.integers(1, 9))
        prior = tuple(rng.uniform(0.05, 3, (2, size)))
        before = tuple(side * rng.choice([0.1, 1.0, 40.0], size) for side in prior)  # below the prior, too
        rollouts = rng.integers(1, 30, size)
        won = rng.binomial(rollouts, 0.4).astype(float) if whole else rollouts * rng.random(size)
        found = kernels.kept_chance(share, before, prior, won, rollouts)
        assert found == pytest.approx(twins.kept_chance(share, before, prior, won, rollouts), rel=1e-12)
        a, b = ((1 - share) * start + share * now for now, start in zip(before, prior, strict=True))
        assert found == pytest.approx((betaln(a + won, b + rollouts - won) - betaln(a, b)).sum(), rel=1e-9)
    assert kernels.kept_chance(share, (np.empty(0),) * 2, (np.empty(0),) * 2, np.empty(0), np.empty(0, int)) == 0.0


def test_prequential_without_motion_is_the_chance_of_all_reports_at_once():
    """Every prompt's rewards are exchangeable then."""
    for rng in generators(10):
        starts, ticks, rows, won, rollouts = rounds_of(rng, 5, 9)
        total = kernels.prequential(
            (starts, ticks, rows, won, rollouts), (0.4, 0.7), (0.0, 0.0), NO_JUMPS, np.empty((4, 5))
        )
        s, n = np.bincount(rows, won, 5), np.bincount(rows, rollouts, 5)
        assert total == pytest.approx(sum(betaln(0.4 + s, 0.7 + n - s) - betaln(0.4, 0.7)), rel=1e-12)


def test_prequential_at_the_ends_of_the_odds():
    """Twenty rounds of a shift by e^20 or nearly so would leave the range of floating-point numbers."""
    for won in (0.0, 1000.0):
        starts, ticks = np.arange(0, 82, 2), np.arange(40)
        rows, rollouts = np.tile([0, 1], 40), np.full(80, 1000)
        rounds = (starts, ticks, rows, np.full(80, won), rollouts)
        found = kernels.prequential(rounds, (1e3, 1e3), (10.0, 2.0), NO_JUMPS, np.empty((4, 2)))
        assert np.isfinite(found)
        assert found < 0.0


def test_prequential_of_nothing():
    none, ints = np.empty(0), np.empty(0, dtype=np.int64)
    rounds = (np.zeros(1, dtype=np.int64), ints, ints, none, ints)
    assert kernels.prequential(rounds, (1.0, 1.0), (0.1, 0.1), NO_JUMPS, np.empty((4, 0))) == 0.0
