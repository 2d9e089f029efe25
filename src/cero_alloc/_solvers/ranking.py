"""The prompts with the largest slopes, and what a round deals to them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cero_alloc._checks import FloatArray, IntArray, TieArray

from . import ranking_kernels
from .threads import in_stretches


class Round(NamedTuple):
    """What a round proposes, and what the budget covers: ``max_units`` for every place, the rest for the last one."""

    places: IntArray  # positions among the prompts on offer
    proposed: int  # units
    paid: IntArray  # positions
    dealt: int  # units
    cleared: float  # slope of the last prompt dealt where the total of the round binds, else the price


def deal_round(
    key: FloatArray,
    tie: TieArray,
    price: float,
    *,
    max_units: int,
    left: int,
    cap: int,
    most: int,
    due: int = 0,
    exact: bool = False,
) -> Round:
    """Rank the prompts on offer and deal to the first ones.

    Parameters
    ----------
    key, tie : numpy.ndarray, shape (n_candidates,)
        Slopes and tie ranks of the prompts; at least of those to which ``cap`` units are proposed.
    price : float
        Normalised price: prompts whose slope exceeds it are dealt to.
    max_units : int
        Units per prompt.
    left : int
        Units left in the budget.
    cap, most : int
        Units that this round may propose, and units that all prompts on offer could take.
    due : int
        Units to deal at least, to prompts below the price if need be (catch-up); 0 for none.
    exact : bool
        Deal ``cap`` units, whatever the price.
    """
    threshold = -1.0 if exact else price  # slopes are never negative: below 0 every prompt is in
    places = leaders(key, tie, threshold, -(-cap // max_units))
    proposed = min(cap, places.size * max_units)
    paid, dealt = places, min(proposed, left)
    if due > dealt:  # the same ranking, further down; the dual step still sees the proposal
        paid = leaders(key, tie, -1.0, -(-due // max_units))
        dealt = min(due, paid.size * max_units)
    elif dealt < proposed:
        paid = _front(key, tie, places.copy(), -(-dealt // max_units))
    bound = exact or dealt != proposed or dealt == cap < most
    return Round(places, proposed, paid, dealt, float(key[paid[-1]]) if bound and dealt else price)


def leaders(key: FloatArray, tie: TieArray, threshold: float, k: int) -> IntArray:
    """Return the positions of the k largest keys above a threshold, equal keys by tie rank, the k-th last."""

    def some(start: int, stop: int) -> IntArray:
        order = np.empty(min(stop - start, 2 * k), dtype=np.int64)
        found = ranking_kernels.rank(key[start:stop], tie[start:stop], threshold, k, order)
        return order[:found] + start

    parts = in_stretches(some, key.size)
    if len(parts) == 1:
        return parts[0]
    return _front(key, tie, np.concatenate(parts), k)


def _front(key: FloatArray, tie: TieArray, places: IntArray, k: int) -> IntArray:
    """Return the first k of these places in rank, the k-th last; permutes them."""
    k = min(k, places.size)
    if k:
        ranking_kernels.select(key, tie, places, places.size, k)
    return places[:k]


def counts_of(places: IntArray, total: int, max_units: int) -> IntArray:
    """Return the units of each place: ``max_units``, and the rest of the total for the last."""
    units = np.empty(places.size, dtype=np.int64)
    units.fill(max_units)  # np.full costs several times as much where few are dealt
    if units.size:
        units[-1] = total - (units.size - 1) * max_units
    return units
