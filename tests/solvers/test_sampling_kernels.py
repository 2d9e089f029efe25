"""Kernels of systematic sampling against their twins, and permutations against NumPy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from cero_alloc._solvers import sampling
from helpers import kernels

seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_swap_down_is_a_shuffle_from_the_end(seed):
    rng = np.random.default_rng(seed)
    size, some = int(rng.integers(1, 40)), int(rng.integers(0, 50))
    order, draws = rng.permutation(size).astype(np.int32), rng.integers(0, 2**32, some, dtype=np.uint32)
    expected = twins.swap_down(order.tolist(), draws.tolist(), size - 1)
    last, used = kernels.swap_down(order, draws, size - 1)
    assert (order.tolist(), last, used) == expected


@given(seeds)
def test_split_takes_whole_numbers_and_ticks_apart(seed):
    rng = np.random.default_rng(seed)
    expected = rng.exponential(1.0, 20) * (rng.random(20) < 0.8) + rng.integers(0, 3, 20)
    bits = int(rng.integers(0, 57))
    whole, ticks = (np.empty(20, dtype=np.int64) for _ in range(2))
    sums = kernels.split(expected, 2.0**bits, whole, ticks)
    assert (whole.tolist(), ticks.tolist()) == twins.split(expected.tolist(), 2**bits)
    assert sums == (whole.sum(), ticks.sum())


@given(seeds)
def test_add_points_marks_every_tooth_of_a_comb(seed):
    rng = np.random.default_rng(seed)
    size, bits = int(rng.integers(1, 12)), int(rng.integers(0, 6))
    order, before = rng.permutation(size).astype(np.int32), rng.integers(0, 3, size)
    ticks, shift = rng.integers(0, 2**bits, size), int(rng.integers(0, 2**bits))
    counts = before.copy()
    kernels.add_points(order, ticks, shift, bits, counts)
    assert (counts - before).tolist() == twins.add_points(order.tolist(), ticks.tolist(), shift, bits)


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937])
@pytest.mark.parametrize("size", [2, 3, 64, 65, 1000])
def test_a_permutation_and_the_generator_after_it_are_numpys(size, bits, monkeypatch):
    monkeypatch.setattr(sampling, "MANY", 1)
    for seed in range(20):
        ours, theirs = (np.random.Generator(bits(seed)) for _ in range(2))
        for draws in range(4):  # a generator that keeps half of a number, and one that does not
            assert sampling.permutation(ours, size).tolist() == theirs.permutation(size).tolist()
            for rng in (ours, theirs):
                rng.integers(9, size=draws, dtype=np.int32)
            assert repr(ours.bit_generator.state) == repr(theirs.bit_generator.state)


def test_a_large_permutation_is_numpys():
    size = sampling.MANY + 12345
    ours, theirs = (np.random.default_rng(7) for _ in range(2))
    for _ in range(2):
        assert (sampling.permutation(ours, size) == theirs.permutation(size)).all()
        assert ours.random() == theirs.random()
