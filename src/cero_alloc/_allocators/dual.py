"""One round of Algorithm 1: what is dealt, and where slopes and price go; the same for a whole pool and for shards."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np

from cero_alloc._budget.horizon import Horizon
from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._checks import FloatArray, IntArray, TieArray, error_text, real
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.evidence import BLOCK
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._solvers import ranking_kernels
from cero_alloc._solvers.threads import in_stretches

from . import slopes_kernels


class Round(NamedTuple):
    """What a round proposes and what the budget covers of it: ``max_units`` units for each place, what is left for the last."""

    places: IntArray  # positions among those on offer
    proposed: int  # units
    paid: IntArray  # positions
    dealt: int  # units
    cleared: float  # slope of the last prompt dealt where the round's total binds, else the price


def play_round(
    key: FloatArray, tie: TieArray, price: float, ledger: RolloutLedger, cap: int, most: int, due: int, *, exact: bool
) -> Round:
    """Rank the candidates and deal.

    Parameters
    ----------
    key, tie : numpy.ndarray, shape (n_candidates,)
        Slopes and tie ranks; at least the ``cap`` units' worth of prompts that rank first.
    price : float
        Normalised price.
    ledger : RolloutLedger
        Knows the budget left.
    cap, most : int
        Units that this round may propose, and that all prompts on offer could take.
    due : int
        Units to deal at least, past the price if need be (catch-up); 0 for none.
    exact : bool
        Deal ``cap`` units, whatever the signs of the margins.
    """
    max_units, left = ledger.horizon.max_units, ledger.units_left
    threshold = -1.0 if exact else price  # slopes are never negative: below 0 everybody is in
    places = leaders(key, tie, threshold, -(-cap // max_units))
    proposed = min(cap, places.size * max_units)
    paid, dealt = places, min(proposed, left)
    if due > dealt:  # the same ranking, further down; the dual step still sees the proposal
        paid = leaders(key, tie, -1.0, -(-due // max_units))
        dealt = min(due, paid.size * max_units)
    elif dealt < proposed:
        paid = _first(key, tie, places.copy(), -(-dealt // max_units))
    bound = exact or dealt != proposed or dealt == cap < most
    return Round(places, proposed, paid, dealt, float(key[paid[-1]]) if bound and dealt else price)


def leaders(key: FloatArray, tie: TieArray, threshold: float, k: int) -> IntArray:
    """Return the positions of the k largest keys above a threshold, equal ones by tie rank, the k-th last."""

    def some(start: int, stop: int) -> IntArray:
        order = np.empty(min(stop - start, 2 * k), dtype=np.int64)
        found = ranking_kernels.rank(key[start:stop], tie[start:stop], threshold, k, order)
        return order[:found] + start

    parts = in_stretches(some, key.size)
    if len(parts) == 1:
        return parts[0]
    return _first(key, tie, np.concatenate(parts), k)


def _first(key: FloatArray, tie: TieArray, places: IntArray, k: int) -> IntArray:
    """Return the first k of these places in rank, the k-th last; permutes them."""
    k = min(k, places.size)
    if k:
        ranking_kernels.select(key, tie, places, places.size, k)
    return places[:k]


def counts_of(places: IntArray, total: int, max_units: int) -> IntArray:
    """Return the units of each place: ``max_units``, and what is left of the total for the last."""
    units = np.empty(places.size, dtype=np.int64)
    units.fill(max_units)  # np.full costs several times as much where few are dealt
    if units.size:
        units[-1] = total - (units.size - 1) * max_units
    return units


@dataclass(frozen=True, slots=True)
class SlopeStep:
    """The dual step of the slopes.

    Attributes
    ----------
    bank : BetaPosteriorBank
        Values as they stand.
    horizon : Horizon
        The constants of the run.
    utility : SaturatingUtility
        What exposure is worth.
    size : float
        Step; 0 means one over the root of the visits.
    """

    bank: BetaPosteriorBank
    horizon: Horizon
    utility: SaturatingUtility
    size: float

    def rows(
        self, theta: FloatArray, rows: IntArray, proposal: IntArray, start: FloatArray, visits: FloatArray
    ) -> None:
        """Move the slopes ``theta`` of some rows, to which so many units were proposed, in place.

        ``start``, the exposure from which the visits began, and ``visits`` have one entry, or one per prompt of the pool.
        """
        offers = _offers(rows, start, visits)
        slopes_kernels.step_slopes(
            theta, self.bank.evidence.values(rows), proposal, offers, self._plan, self.utility.codes
        )

    def pool(
        self, theta: FloatArray, places: IntArray, proposal: IntArray, start: FloatArray, visits: FloatArray
    ) -> None:
        """Move the slopes of the pool's first prompts, as many as there are in ``theta``, in place."""
        stretch, plan, codes = self.bank.evidence.stretch, self._plan, self.utility.codes

        def step(first: int, stop: int) -> None:
            some, block = slice(first, stop), min(BLOCK, stop - first)
            rows, dealt = np.empty((2, places.size), dtype=np.int64)
            scratch = np.empty((2, block)), np.zeros(block, np.int64), rows, dealt, np.empty((4, places.size))
            offers = _offers(some, start, visits)
            slopes_kernels.step_pool(
                theta[some], stretch(first, stop), offers, plan, codes, first, places, proposal, scratch
            )

        in_stretches(step, theta.size)

    @property
    def _plan(self) -> tuple[int, float, float]:
        """The argument ``plan`` of the kernels."""
        return self.horizon.max_units, self.horizon.equal_share_units, self.size


def _offers(rows: IntArray | slice, start: FloatArray, visits: FloatArray) -> tuple[FloatArray, int, FloatArray, int]:
    """Return the argument ``offers`` of the kernels for some rows."""
    start_stride, stride = int(start.size > 1), int(visits.size > 1)
    return start[rows] if start_stride else start, start_stride, visits[rows] if stride else visits, stride


def next_price(price: float, proposed: int, ledger: RolloutLedger, step: float) -> float:
    """Return the price after a round that proposed so many units."""
    pace = ledger.even_pace
    scale = max(pace, ledger.horizon.capacity_units - pace)  # largest possible gap to the pace
    return min(1.0, max(0.0, price - step * (pace - float(proposed)) / scale))


def step_sizes(step_size: float | tuple[float, float] | None, n_rounds: int, *, batch: bool) -> tuple[float, float]:
    """Return the steps of slopes (0: one over the root of the visits) and price."""
    if step_size is None:
        return 0.0, 1.0 / sqrt(n_rounds)
    remedy = "Give (step of the slopes, step of the price), or None for the steps of the theorem."
    if isinstance(step_size, (tuple, list, np.ndarray)):
        if len(step_size) != 2:
            raise ValueError(error_text("step_size", "be a pair", step_size, remedy))
        slope, price = step_size
    elif batch:
        raise ValueError(error_text("step_size", "be a pair when visits are given", step_size, remedy))
    else:
        slope = price = step_size
    checked = [real("step_size", step, low=0.0, high=np.inf, open_low=True, remedy=remedy) for step in (slope, price)]
    return checked[0], checked[1]
