"""The kernels of the simulation against their twins, at ordinary and extreme arguments."""

import numpy as np
import pytest

import twins
from helpers import kernels
from helpers.kernel_cases import (
    BELIEFS,
    GRADED,
    LAMS,
    ORDINARY,
    SCALINGS,
    SHAPES,
    evidence_of,
    generators,
    values_of,
)


@SHAPES
@SCALINGS
@pytest.mark.parametrize("lam", [1e-6, *ORDINARY, 1e6])
def test_path_dual_matches_a_recursion(shape, scaling, lam):
    for rng in generators(3):
        n_prompts, n_rounds, max_units = (int(rng.integers(1, most)) for most in (4, 6, 4))
        q_path = values_of(rng, n_prompts * n_rounds).reshape(n_prompts, n_rounds)
        share = float(rng.uniform(0.5, 4))
        price = float(rng.uniform(0.01, 1)) * min(1.0, lam) / share
        worth, spent, line = np.empty((3, n_rounds * max_units + max_units + 1))
        model = (max_units, share, (shape, scaling, lam))
        total, bought = kernels.path_dual(price, q_path, *model, worth, spent, line)
        twin_total, twin_bought = twins.path_dual(price, q_path.tolist(), *model)
        assert total == pytest.approx(twin_total, rel=1e-9, abs=1e-14)
        assert bought == twin_bought


@SHAPES
@SCALINGS
@LAMS
def test_unit_gains_match_their_twin(shape, scaling, lam):
    for q in (0.0, 1e-30, 0.03, 0.25):
        height, rate = twins.scale_of(scaling, lam, q)
        for size in (1, 2, 3, 100):
            gains = np.full(size + 1, np.nan)
            kernels.unit_gains(shape, height, rate / 7, size, gains)
            twin = twins.unit_gains(shape, height, rate / 7, size)
            # An exponent of 700 carries 700 roundings of the rate; below 1e-300 digits are lost in any case.
            slack = 1e-300 if shape != 3 else 2e-15 * height
            np.testing.assert_allclose(gains[:size], twin, rtol=1e-14 * (1 + min(rate * size, 800)), atol=slack)
            assert np.isnan(gains[size])


@SHAPES
@SCALINGS
def test_path_dual_on_long_paths(shape, scaling):
    """Long enough that geometric gains, skipped exposures and single-unit chances could go wrong; steep prices, too."""
    for rng, price in zip(generators(6), (0.0, 1e-9, 0.1, 0.5, 2.0, 5.0), strict=True):
        n_rounds, max_units, share = 24, int(rng.integers(1, 5)), float(rng.uniform(5, 30))
        q_path = np.sort(rng.uniform(0, 0.25, (2, n_rounds)), axis=1)[:, :: int(rng.choice([-1, 1]))].copy()
        scratch = np.empty((3, n_rounds * max_units + max_units + 1))
        model = (max_units, share, (shape, scaling, 1.5))
        total, bought = kernels.path_dual(price / share, q_path, *model, *scratch)
        twin_total, twin_bought = twins.path_dual(price / share, q_path.tolist(), *model)
        assert total == pytest.approx(twin_total, rel=1e-13, abs=1e-15)
        assert price == 0.0 or bought == twin_bought  # free units are worth taking or not, as rounding has it


def test_bin_of_matches_its_twin():
    for mean in (0.0, 5e-324, 0.2, np.nextafter(0.2, 0), 0.4, 0.6, 0.8, np.nextafter(1.0, 0), 1.0):
        assert kernels.bin_of(mean, 5) == twins.bin_of(mean, 5)


@BELIEFS
@GRADED
@pytest.mark.parametrize("stride", [0, 1])
def test_forecast_matches_its_twin_round_after_round(belief, graded, stride):
    """Whatever happens to the evidence in between: some of it, none of it, all of it."""
    for rng in generators(10):
        size = int(rng.integers(1, 12))
        evidence = evidence_of(rng, size, stride, belief=belief, graded=graded)
        a0, b0, _, counts, tick, now, rho, fade, drift, odds, anchors, deficits = evidence
        alpha, beta = np.full((2, size), np.nan)
        mean, value = np.zeros((2, size))
        bins = np.array([size, 0, 0, 0, 0])
        for turn in range(5):
            if turn == 2:
                counts[rng.integers(size), 0] += 3.0
            elif turn == 3:
                now, rho, odds = now + 1, rho if belief != "rest" else 0.5, 1.5 * odds
                kernels.powers(rho, fade)
                tick[:] = tick if rho == 1.0 or belief == "rest" else now
            elif turn == 4:
                counts[counts < 0.0] *= 0.1
                a0 *= 0.1
            q = rng.uniform(0, 0.25, size)
            evidence = (a0, b0, stride, counts, tick, now, rho, fade, drift, odds, anchors, deficits)
            error = kernels.forecast(evidence, q, alpha, beta, mean, value, bins)
            twin = twins.forecast(evidence, q, 5)
            np.testing.assert_allclose(mean, twin[0], rtol=1e-13)
            np.testing.assert_allclose(value, twin[1], rtol=1e-13, atol=1e-15 * graded)
            assert bins.tolist() == twin[2]
            assert error == pytest.approx(twin[3], rel=1e-12)


@pytest.mark.parametrize("slots", [1, 2, 3, 7, 64])
def test_list_schedule_matches_slot_by_slot(slots):
    for rng in generators(5):
        lengths = rng.lognormal(3, 1, int(rng.integers(0, 200))).astype(np.int64)
        ends = np.zeros(slots, dtype=np.int64)
        assert kernels.list_schedule(lengths, ends) == twins.list_schedule(lengths.tolist(), slots)
        assert all(ends[(place - 1) // 2] <= ends[place] for place in range(1, slots))
        assert ends.sum() == lengths.sum()
