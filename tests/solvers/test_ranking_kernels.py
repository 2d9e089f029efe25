"""The kernels of the ranking of a pool against their twins, at ordinary and extreme arguments."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twins
from cero_alloc._solvers.ranking import NO_TOPS, leaders
from cero_alloc._solvers.ranking_kernels import BLOCK
from helpers import kernels
from helpers.kernel_cases import generators, quick

keys = st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.5000000001, 1.0]), min_size=1, max_size=40)


def ranked_pool(key, seed):
    """Keys with many ties, and tie ranks that are all different."""
    return np.array(key), np.random.default_rng(seed).permutation(len(key)).astype(np.int32)


@quick
@given(key=keys, seed=st.integers(0, 99))
def test_ahead_matches_its_twin(key, seed):
    key, tie = ranked_pool(key, seed)
    for i in range(key.size):
        assert kernels.ahead(i, 0, key, tie) == twins.ahead(i, 0, key, tie)


def test_look_up_matches_its_twin():
    for rng in generators(5):
        theta, tie, rows = rng.random(9), rng.permutation(9).astype(np.int32), rng.permutation(9)[:4]
        slopes, ties = np.empty(4), np.empty(4, dtype=np.int32)
        kernels.look_up(rows, theta, tie, slopes, ties)
        assert (slopes.tolist(), ties.tolist()) == twins.look_up(rows, theta, tie)


@quick
@given(key=keys, seed=st.integers(0, 99), data=st.data())
def test_select_matches_a_full_sort(key, seed, data):
    key, tie = ranked_pool(key, seed)
    size = data.draw(st.integers(1, key.size))
    k = data.draw(st.integers(1, size))
    order = np.random.default_rng(seed).permutation(key.size)
    before = order.copy()
    expected = twins.select(key, tie, before, size, k)
    kernels.select(key, tie, order, size, k)
    assert sorted(order[:k]) == sorted(expected)
    assert order[k - 1] == expected[-1]
    assert sorted(order[:size]) == sorted(before[:size])
    assert list(order[size:]) == list(before[size:])


def arranged(arrangement, n):
    """A pool in an order that selection must not find hard."""
    up = np.arange(n) / n
    return {
        "equal": 0.0 * up,
        "ascending": up,
        "descending": up[::-1].copy(),
        "organ pipe": np.minimum(up, up[::-1]),
        "random": np.random.default_rng(2).random(n).round(3),
    }[arrangement]


ARRANGEMENTS = pytest.mark.parametrize("arrangement", ["equal", "ascending", "descending", "organ pipe", "random"])


@ARRANGEMENTS
def test_select_on_a_large_regular_pool(arrangement):
    n = 20_000
    key = arranged(arrangement, n)
    tie, order = np.arange(n, dtype=np.int32), np.arange(n)
    for k in (1, n // 3, n):
        expected = twins.select(key, tie, range(n), n, k)
        kernels.select(key, tie, order, n, k)
        assert set(order[:k]) == set(expected)
        assert order[k - 1] == expected[-1]


@quick
@given(key=keys, seed=st.integers(0, 99), threshold=st.sampled_from([-1.0, 0.0, 0.3, 0.5, 1.0]), k=st.integers(0, 50))
def test_rank_matches_a_full_sort(key, seed, threshold, k):
    key, tie = ranked_pool(key, seed)
    expected = twins.rank(key, tie, threshold, k)
    for room in (key.size, min(key.size, 2 * k), min(key.size, k + 1)):
        order = np.empty(room, dtype=np.int64)
        found = kernels.rank(key, tie, threshold, k, order, NO_TOPS)
        assert sorted(order[:found]) == sorted(expected)
        assert list(order[:found][-1:]) == expected[-1:]


@ARRANGEMENTS
def test_rank_of_a_large_pool_in_little_room(arrangement):
    n = 20_000
    key = arranged(arrangement, n)
    tie = np.random.default_rng(3).permutation(n).astype(np.int32)
    for k in (1, 70, n // 3):
        order, expected = np.empty(2 * k, dtype=np.int64), twins.rank(key, tie, -1.0, k)
        for tops in (NO_TOPS, key[: n - n % BLOCK].reshape(-1, BLOCK).max(axis=1)):
            assert kernels.rank(key, tie, -1.0, k, order, tops) == k
            assert set(order[:k]) == set(expected)
            assert order[k - 1] == expected[-1]


@ARRANGEMENTS
@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.4, 0.998])
def test_leaders_of_a_large_pool(arrangement, threshold):
    n = 20_011  # the last block is not whole
    key = arranged(arrangement, n)
    tie = np.random.default_rng(4).permutation(n).astype(np.int32)
    for k, blocks in product((0, 1, 60, 78, n // 3), (0, 40, 78)):
        expected = twins.rank(key, tie, threshold, k)
        found = leaders(key, tie, threshold, k, key[: blocks * BLOCK].reshape(-1, BLOCK).max(axis=1))
        assert set(found) == set(expected)
        assert list(found[-1:]) == expected[-1:]
