"""Kernels that find the k largest keys of a pool."""

import numpy as np

from cero_alloc._numba import kernel
from cero_alloc._objective.kernels import draw

BLOCK = 256  # keys of a block whose largest key tells whether it is read


@kernel
def look_up(rows, theta, tie, slopes, ties):
    """Write slopes and tie ranks of these rows, in one loop, because each read of a large pool is a cache miss."""
    for r in range(rows.size):
        slopes[r] = theta[rows[r]]
        ties[r] = tie[rows[r]]


@kernel
def ahead(i, j, key, tie):
    """Tell whether i ranks before j: larger key first, equal keys by tie rank (all different)."""
    return key[i] > key[j] or (key[i] == key[j] and tie[i] < tie[j])


@kernel
def select(key, tie, order, size, k):
    """Permute order[:size] so that order[:k] holds the k first in rank, the k-th last, by quickselect."""
    lo, hi, target = 0, size - 1, k - 1
    state = np.uint64(size)
    while lo < hi:
        state, pick = draw(state, hi - lo + 1)
        at = lo + pick
        pivot = order[at]
        order[at] = order[hi]
        border = lo
        for j in range(lo, hi):
            if ahead(order[j], pivot, key, tie):
                order[border], order[j] = order[j], order[border]
                border += 1
        order[hi] = order[border]
        order[border] = pivot
        if border == target:
            return
        if border < target:
            lo = border + 1
        else:
            hi = border - 1


@kernel
def rank(key, tie, threshold, k, order, tops):
    """Put the k first positions with key > threshold into order[:k], the k-th last; return how many there are.

    ``order`` is scratch of at least min(key.size, 2 k) entries. When it is full, all but the k first so far are dropped, and
    the k-th of them is the threshold for the rest: time is linear for any order of the keys, and most are compared once.

    ``tops`` holds the largest key of each of the first blocks of ``BLOCK``, or is empty: other blocks are always read.
    """
    size = np.int64(0)  # typed, or numba compiles a second select for the literal
    if k <= 0:
        return size
    bar, last = threshold, np.int64(-1)
    for start in range(0, key.size, 64):
        if start // BLOCK < tops.size and tops[start // BLOCK] < bar:
            continue
        stop = min(start + 64, key.size)
        found = 0
        for r in range(start, stop):  # vectorised, because nearly every key is below the threshold
            found += key[r] >= bar
        if found == 0:
            continue
        for r in range(start, stop):
            if key[r] > bar or (last >= 0 and key[r] == bar and ahead(r, last, key, tie)):
                if size == order.size:
                    select(key, tie, order, size, k)
                    size, last = k, order[k - 1]
                    bar = key[last]
                    if not ahead(r, last, key, tie):
                        continue
                order[size] = r
                size += 1
    k = min(k, size)
    if k > 0:
        select(key, tie, order, size, k)
    return k
