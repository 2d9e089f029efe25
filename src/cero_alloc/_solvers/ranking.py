"""The k largest keys of a pool, and a round of Algorithm 1 that deals to them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cero_alloc._checks import FloatArray, IntArray, TieArray

from . import ranking_kernels, threads

NO_TOPS = np.empty(0)


class Deal(NamedTuple):
    """What a round proposes and what the budget covers of it: ``max_units`` per place, the remainder for the last one."""

    places: IntArray  # positions among the candidates
    proposed: int  # units
    paid: IntArray  # positions
    dealt: int  # units
    cleared: float  # slope of the last prompt dealt where the round's total binds, else the price


def deal_round(
    key: FloatArray,
    tie: TieArray,
    price: float,
    *,
    max_units: int,
    left: int,
    cap: int,
    most: int,
    due: int,
    exact: bool,
    tops: FloatArray = NO_TOPS,
) -> Deal:
    """Rank the candidates and deal.

    Parameters
    ----------
    key, tie : numpy.ndarray, shape (n_candidates,)
        Slopes and tie ranks; at least the ``cap`` units' worth of prompts that rank first.
    price : float
        Normalised price.
    max_units : int
        Most units of one prompt.
    left : int
        Units of the run's budget that are left.
    cap, most : int
        Units that this round may propose, and that all prompts on offer could take.
    due : int
        Units to deal at least, past the price if need be (catch-up); 0 for none.
    exact : bool
        Deal ``cap`` units, whatever the signs of the margins.
    tops : numpy.ndarray of float64, shape (n_blocks,)
        Largest key of each of the first blocks of ``ranking_kernels.BLOCK``, so that few blocks are read; may be empty.
    """
    threshold = -1.0 if exact else price  # slopes are never negative, so that every prompt is above -1
    places = leaders(key, tie, threshold, -(-cap // max_units), tops)
    proposed = min(cap, places.size * max_units)
    paid, dealt = places, min(proposed, left)
    if due > dealt:  # further down the same ranking; the dual step still uses the proposal
        paid = leaders(key, tie, -1.0, -(-due // max_units), tops)
        dealt = min(due, paid.size * max_units)
    elif dealt < proposed:
        paid = _first(key, tie, places.copy(), -(-dealt // max_units))
    bound = exact or dealt != proposed or dealt == cap < most
    return Deal(places, proposed, paid, dealt, float(key[paid[-1]]) if bound and dealt else price)


def leaders(key: FloatArray, tie: TieArray, threshold: float, k: int, tops: FloatArray = NO_TOPS) -> IntArray:
    """Return the positions of the k largest keys above a threshold, ties by tie rank; the k-th comes last.

    ``tops`` are those of :func:`deal_round`.
    """
    if 0 < k <= tops.size:  # at least k keys reach the k-th largest of the tops, which is little below the k-th key
        threshold = max(threshold, float(np.nextafter(np.partition(tops, tops.size - k)[tops.size - k], -np.inf)))

    def some(start: int, stop: int) -> IntArray:
        order = np.empty(min(stop - start, 2 * k), dtype=np.int64)
        blocks = tops[start // ranking_kernels.BLOCK : stop // ranking_kernels.BLOCK]
        found = ranking_kernels.rank(key[start:stop], tie[start:stop], threshold, k, order, blocks)
        return order[:found] + start

    if key.size < threads.ALONE:
        return some(0, key.size)
    return _first(key, tie, np.concatenate(threads.in_stretches(some, key.size, ranking_kernels.BLOCK)), k)


def _first(key: FloatArray, tie: TieArray, places: IntArray, k: int) -> IntArray:
    """Return the first k of these places in rank, the k-th at the end; permutes them."""
    k = min(k, places.size)
    if k:
        ranking_kernels.select(key, tie, places, places.size, k)
    return places[:k]


def counts_of(places: IntArray, total: int, max_units: int) -> IntArray:
    """Return the units of each place: ``max_units``, and the remainder of the total for the last."""
    units = np.empty(places.size, dtype=np.int64)
    units.fill(max_units)  # np.full costs several times as much where few are dealt
    if units.size:
        units[-1] = total - (units.size - 1) * max_units
    return units
