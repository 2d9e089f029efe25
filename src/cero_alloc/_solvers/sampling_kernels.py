"""Kernels of systematic sampling."""

import numpy as np

from cero_alloc._numba import kernel


@kernel
def swap_down(order, draws, last):
    """Swap entries from ``last`` down to 1 with those that the draws name; return the entry to swap next, and the draws used.

    A draw's lowest bits name an entry, as many bits as ``last`` takes; one that names a later entry is passed over. Without a
    branch, because a third of the draws are passed over at random.
    """
    mask, used = np.int64(1), np.int64(0)
    while mask < last:
        mask = 2 * mask + 1
    while last > 0 and used < draws.size:
        mask >>= last <= mask >> 1
        named = np.int64(draws[used]) & mask
        good = named <= last
        named = named if good else last
        order[last], order[named] = order[named], order[last]
        last -= good
        used += 1
    return last, used


@kernel
def split(expected, unit, whole, ticks):
    """Write expectations as whole numbers and fractions in ticks, ``unit`` to a whole; return the sums of both."""
    total, fractions = np.int64(0), np.int64(0)
    for i in range(expected.size):
        whole[i] = np.int64(expected[i])
        ticks[i] = np.int64((expected[i] - whole[i]) * unit)
        total += whole[i]
        fractions += ticks[i]
    return total, fractions


@kernel
def add_points(order, ticks, shift, bits, counts):
    """Lay the fractions end to end in this order, and add to each prompt the points in its fraction.

    The points are 2**bits ticks apart, and the line begins ``shift`` ticks after one. One loop, because each entry of an order
    of a large pool is a cache miss.
    """
    end, passed = np.int64(shift), np.int64(0)
    for k in range(order.size):
        i = order[k]
        end += ticks[i]
        points = end >> bits
        if points > passed:
            counts[i] += points - passed
            passed = points
