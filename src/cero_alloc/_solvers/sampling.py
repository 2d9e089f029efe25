"""Systematic sampling of a round's counts: multiples of a quantum, with a plan's expectations and an exact total."""

from __future__ import annotations

import sys
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray

from . import sampling_kernels

_ALIKE = 1e-10  # distance to the middle between two totals that counts as none
MANY = 2**14  # prompts: from here on loops that vectorise, and draws in bulk, are worth their start


def round_total(target: float, low: float, high: float, quantum: int, max_units: int) -> int:
    """Return the total nearest ``target`` in a window, in whole quanta where one fits, that counts can add up to; of two the even.

    Where no sum of counts in {0} u [quantum, max_units] lies in the window, the largest below it.
    """
    first, last = ceil(low / quantum), floor(high / quantum)
    if first <= last:
        return quantum * min(max(_nearest(target / quantum), first), last)
    total = int(min(max(_nearest(target), low), high))
    few = -(-total // max_units)  # prompts needed
    return total if few * quantum <= total else (few - 1) * max_units


def _nearest(x: float) -> int:
    """Return the nearest whole number, of two the even one: also where rounding has moved x off the middle between them.

    A plan is known to 13 digits. Its last bits, which differ between machines, must not decide a round.
    """
    middle = 0.5 * round(2.0 * x)
    return round(middle if abs(x - middle) <= _ALIKE * max(1.0, x) else x)


def deal_evenly(
    rate: FloatArray, total: int, *, quantum: int, max_units: int, least: float, rng: np.random.Generator
) -> IntArray:
    """Draw the counts of a round: in expectation proportional to ``rate``, in sum exactly ``total``.

    Parameters
    ----------
    rate : numpy.ndarray of float64, shape (n,)
        Units that the plan gives each prompt, up to a common factor.
    total : int
        Units, a sum of counts in {0} u [quantum, max_units].
    quantum, max_units : int
        Least count other than 0, and largest count.
    least : float
        Least expectation in quanta, lower where the total does not pay for it.
    rng : numpy.random.Generator
        Draws the order of the prompts and where the first quantum falls.

    Returns
    -------
    numpy.ndarray of int64, shape (n,)
        Units. In quanta, each count is its expectation rounded down or up. The rest of a total that is not a multiple of
        the quantum goes in single units to prompts with a count above 0, the largest expectation first.
    """
    if total == 0:
        return np.zeros(rate.size, dtype=np.int64)
    most = max_units // quantum
    quanta = min(total // quantum, rate.size * most)
    expected = expected_counts(rate, quanta, float(most), least)
    order = permutation(rng, rate.size)
    units = systematic(expected, quanta, rng, order)
    units *= quantum
    rest = total - quanta * quantum
    if rest:
        order = order[np.argsort(-expected[order], kind="stable")]
        _top_up(units, rest, order, quantum, max_units)
    return units


def permutation(rng: np.random.Generator, size: int) -> npt.NDArray[np.int32]:
    """Return ``rng.permutation(size)``, and leave the generator as that does.

    NumPy asks its generator for one number at a time, and takes several times as long. From PCG64 they are drawn in bulk,
    two from each of its 64 bits, the lower half first; it keeps a half that is left over.
    """
    order, bits = np.arange(size, dtype=np.int32), rng.bit_generator
    if size < MANY or type(bits) is not np.random.PCG64 or sys.byteorder != "little":
        rng.shuffle(order)
        return order
    state = bits.state
    draws, last, used = np.array([state["uinteger"]] * state["has_uint32"], dtype=np.uint32), size - 1, 0
    while last > 0:
        last, used = sampling_kernels.swap_down(order, draws, last)
        if last > 0:  # it takes at least that many more
            draws = bits.random_raw(max(1, last // 2)).view(np.uint32)
    bits.state = {**bits.state, "has_uint32": int(used < draws.size), "uinteger": int(draws[-1])}
    return order


def expected_counts(rate: FloatArray, total: float, most: float, least: float) -> FloatArray:
    r"""Return :math:`e_i = \min(\text{most}, \max(\text{least}, s\,r_i))` with the scale s at which they sum to ``total``.

    Bounds are fixed one side at a time, first the side that is violated more, and stay fixed (Bitran and Hax, 1981). Prompts
    of rate 0 share evenly the total that the others cannot take.
    """
    size, least = rate.size, min(least, total / rate.size)
    others = size - np.count_nonzero(rate > 0.0)
    if most * (size - others) + least * others <= total:
        expected = np.full(size, (total - most * (size - others)) / others if others else most)
        expected[rate > 0.0] = most
        return expected
    rest, expected = total - least * others, rate / (rate.max() or 1.0)
    part = expected[rate > 0.0] if others else expected
    scale = rest / float(part.sum() or 1.0)
    if least == 0.0 and scale <= most:  # the largest part is 1: no bound is violated
        expected *= scale
        return expected
    part, free = expected[rate > 0.0], np.flatnonzero(rate)
    expected.fill(least)
    while free.size:
        share = part * (rest / part.sum())
        low, high = share < least, share > most
        short, over = float((least - share[low]).sum()), float((share[high] - most).sum())
        fixed = low if short > over else high
        if short == over:
            expected[free] = np.clip(share, least, most)
            break
        bound = least if short > over else most
        expected[free[fixed]] = bound
        rest -= bound * np.count_nonzero(fixed)
        free, part = free[~fixed], part[~fixed]
    return expected


def systematic(
    expected: FloatArray, total: int, rng: np.random.Generator, order: npt.NDArray[np.int32] | None = None
) -> IntArray:
    """Round expectations that sum to ``total`` down or up, without bias and keeping the sum: one uniform number.

    Every prompt gets the whole part. The fractions are laid end to end in ``order``, or as they stand, in integer ticks,
    whose sums do not round. Points one unit apart, shifted by the uniform number, add a unit to each prompt whose fraction
    contains a point.
    """
    order = np.arange(expected.size, dtype=np.int32) if order is None else order
    bits = 62 - int(expected.size).bit_length()
    unit = 2**bits  # ticks: their sum fits 63 bits
    counts, ticks = (np.empty(expected.size, dtype=np.int64) for _ in range(2))
    sure, fractions = sampling_kernels.split(expected, float(unit), counts, ticks)
    # Rounding leaves the last end a few ticks off a whole unit: draw only shifts that keep the total.
    off = (total - int(sure)) * unit - int(fractions)
    shift = int(rng.integers(max(0, off), min(unit, unit + off)))
    sampling_kernels.add_points(order, ticks, shift, bits, counts)
    return counts


def _top_up(units: IntArray, rest: int, order: npt.NDArray[np.int32], quantum: int, max_units: int) -> None:
    """Add single units to prompts with a count above 0, repeatedly in this order; visit one more where they lack room."""
    visited = order[units[order] > 0]
    few = -(-(int(units.sum()) + rest) // max_units)
    if visited.size < few:  # by one at most: a prompt holds max_units // quantum quanta
        units[order[np.argmax(units[order])]] -= quantum
        units[order[units[order] == 0][0]] += quantum
        visited = order[units[order] > 0]
    while rest:
        roomy = visited[units[visited] < max_units][:rest]
        units[roomy] += 1
        rest -= roomy.size
