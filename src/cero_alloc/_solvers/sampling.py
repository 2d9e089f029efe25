"""Systematic sampling of a round's counts: multiples of a quantum, with a plan's expectations and an exact total."""

from __future__ import annotations

from math import ceil, floor

import numpy as np

from cero_alloc._checks import FloatArray, IntArray


def round_total(target: float, low: float, high: float, quantum: int, max_units: int) -> int:
    """Return the total nearest ``target`` in a window, in whole quanta where one fits, that counts can add up to.

    Where no sum of counts in {0} u [quantum, max_units] lies in the window, the largest below it.
    """
    first, last = ceil(low / quantum), floor(high / quantum)
    if first <= last:
        return quantum * min(max(round(target / quantum), first), last)
    total = int(min(max(round(target), low), high))
    few = -(-total // max_units)  # prompts needed
    return total if few * quantum <= total else (few - 1) * max_units


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
    order = rng.permutation(rate.size)
    units = np.empty(rate.size, dtype=np.int64)
    units[order] = quantum * systematic(expected[order], quanta, rng)
    rest = total - quanta * quantum
    if rest:
        order = order[np.argsort(-expected[order], kind="stable")]
        _top_up(units, rest, order, quantum, max_units)
    return units


def expected_counts(rate: FloatArray, total: float, most: float, least: float) -> FloatArray:
    r"""Return :math:`e_i = \min(\text{most}, \max(\text{least}, s\,r_i))` with the scale s at which they sum to ``total``.

    Bounds are fixed one side at a time, first the side that is violated more, and stay fixed (Bitran and Hax, 1981). Prompts
    of rate 0 share evenly the total that the others cannot take.
    """
    size, least = rate.size, min(least, total / rate.size)
    wanted = np.flatnonzero(rate > 0.0)
    others = size - wanted.size
    if most * wanted.size + least * others <= total:
        expected = np.full(size, (total - most * wanted.size) / others if others else most)
        expected[wanted] = most
        return expected
    expected = np.full(size, least)
    free, part, rest = wanted, rate[wanted] / rate.max(), total - least * others
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


def systematic(expected: FloatArray, total: int, rng: np.random.Generator) -> IntArray:
    """Round expectations that sum to ``total`` down or up, without bias and keeping the sum: one uniform number.

    Every prompt gets the whole part. The fractions are laid end to end in integer ticks, whose sums do not round. Points one
    unit apart, shifted by the uniform number, add a unit to each prompt whose fraction contains a point.
    """
    sure = np.floor(expected)
    unit = 2 ** (62 - int(expected.size).bit_length())  # ticks: their sum fits 63 bits
    ends = np.cumsum(((expected - sure) * unit).astype(np.int64))
    # Rounding leaves the last end a few ticks off a whole unit: draw only shifts that keep the total.
    off = (total - int(sure.sum())) * unit - int(ends[-1])
    teeth = (ends + rng.integers(max(0, off), min(unit, unit + off))) // unit
    teeth[1:] -= teeth[:-1].copy()
    counts: IntArray = sure.astype(np.int64) + teeth
    return counts


def _top_up(units: IntArray, rest: int, order: IntArray, quantum: int, max_units: int) -> None:
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
