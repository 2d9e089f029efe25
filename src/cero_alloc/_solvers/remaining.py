"""What the rest of a run would buy: one price over all prompts, continuous or in whole units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, sqrt

import numpy as np

from cero_alloc._checks import FloatArray, IntArray, TieArray
from cero_alloc._objective import kernels
from cero_alloc._objective.utility import SaturatingUtility

from . import ranking_kernels, tables_kernels, units_kernels
from .price import FREE, LEAST, MOST, Clearing, clear
from .units import Units

__all__ = ["Clearing", "Remaining"]

_FIRST = 4096  # prompts
_ROUNDING = 1e-12  # of exposure: no demand
_TOLD_APART = 1e-250  # price from which on logarithms tell gains apart


@dataclass(frozen=True, slots=True)
class Remaining:
    r"""The remaining problem of a run: all prompts, all visits to come.

    .. math:: \max_y \sum_i U(q_i, (z_i + y_i) / R) \quad \text{s.t.} \quad 0 \le y_i \le w_i N_{\max},
        \; \sum_i c_i y_i \le B_{\text{left}}

    Attributes
    ----------
    q : numpy.ndarray of float64, shape (n_prompts,)
        Values.
    z : numpy.ndarray of float64, shape (n_prompts,)
        Exposure so far, in units.
    room : numpy.ndarray of float64, shape (n_prompts,), or (1,) for whole units
        Units that the remaining visits can take, :math:`w_i N_{\max}`.
    cost : numpy.ndarray of float64, shape (1,) or (n_prompts,)
        Cost per unit.
    budget : float
        Budget left, in cost.
    share : float
        Equal share R in units.
    utility : SaturatingUtility
        What exposure is worth.
    """

    q: FloatArray
    z: FloatArray
    room: FloatArray
    cost: FloatArray
    budget: float
    share: float
    utility: SaturatingUtility

    def clear(self, guess: float) -> Clearing:
        """Return where demand meets the budget, price 0 where the budget covers everything; search from ``guess``."""
        stride = int(self.cost.size > 1)

        def demand(price: float) -> tuple[float, float]:
            total, pull = units_kernels.remaining_demand(
                price, self.q, self.z, self.room, self.cost, stride, self.share, *self.utility.codes
            )
            return total, pull

        most = float((self.cost * self.room).sum())
        if self.utility.shape == "capped-linear" and most > self.budget:
            if demand(FREE)[0] <= self.budget:
                return Clearing(0.0, 0.0, 1.0)
            jump = self._jump()
            for width in (2.0**-52, 2.0**-51):  # rounding moves a step by a bit or two
                lo, hi = jump * (1.0 - width), jump * (1.0 + width)
                over, under = demand(lo)[0], demand(hi)[0]
                if over > self.budget >= under:
                    return Clearing(lo, hi, (self.budget - under) / (over - under))
        return clear(demand, self.budget, most, guess)

    def planned(self, clearing: Clearing, rows: IntArray | slice) -> FloatArray:
        """Return the units that these prompts would buy in the rest of the run, continuous, where demand meets the budget."""
        q, z, room = self.q[rows], self.z[rows], self.room[rows]

        def bought(price: float) -> FloatArray:
            upper = (z + room) / self.share
            return np.clip(self.share * self.utility.demand(q, price * self.share, upper) - z, 0.0, room)

        y = bought(clearing.low)
        if clearing.high > clearing.low:
            y = (1.0 - clearing.share) * bought(clearing.high) + clearing.share * y
        y[y < _ROUNDING * (1.0 + z)] = 0.0
        return y

    def _jump(self) -> float:
        """Return the price, but for rounding, at which the capped lines' demand jumps over the budget.

        A line is bought up to its kink or not at all, so that demand is a staircase: its steps are put in order.
        """
        _, scaling, lam = self.utility.codes
        rate = 4.0 * lam * self.q if scaling == kernels.RATE else np.full(self.q.size, lam)
        with np.errstate(divide="ignore", over="ignore"):
            step = self.cost * np.clip(self.share / rate - self.z, 0.0, self.room)
        steepest = 4.0 * lam * self.q / (self.cost * self.share)
        order = np.argsort(-steepest)
        place = int(np.searchsorted(np.cumsum(step[order]), self.budget, side="right"))
        return float(steepest[order[min(place, order.size - 1)]])

    def units(self, price: float, tie: TieArray) -> tuple[IntArray, float]:
        """Return the best whole units per prompt, costs being equal, and the gain of the last one; from near ``price``.

        Ties go where exposure is least, then by rank.
        """
        budget = int(self.budget)
        size = self.q.size
        if float(self.room.sum()) * (size / self.room.size) <= budget:
            return np.array(np.broadcast_to(self.room.astype(np.int64), size)), 0.0
        if budget:
            upper = np.minimum(self.room, budget).astype(np.int64)
            pool = Units(self.q, self.z, tie, upper, self.share, self.utility, ahead=self.z)
            taken = pool.take(budget, price)
            if taken is not None and taken.price >= _TOLD_APART and self._gains_more(taken.units, upper):
                return taken.units, taken.price
        rest = replace(self, room=np.array(np.broadcast_to(self.room, size)))
        return rest._bisected(budget, price, tie)

    def _bisected(self, budget: int, price: float, tie: TieArray) -> tuple[IntArray, float]:
        """Return the same by bisection: where logarithms do not tell gains apart, or too many are the same."""
        high = np.empty(self.q.size, dtype=np.int64)
        total = self._units_at(LEAST, high)
        if total <= budget:
            return high, 0.0
        low = high.copy()
        lo, hi, over, under = self._bracket(min(max(price, LEAST), MOST), budget, low, high)
        while over > budget > under and int((low - high).max()) > 1:
            middle = sqrt(lo) * sqrt(hi)
            if not lo < middle < hi:
                break
            trial = np.empty_like(high)
            total = self._units_at(middle, trial)
            if total >= budget:
                lo, low, over = middle, trial, total
            else:
                hi, high, under = middle, trial, total
        if over == budget:
            rows = np.flatnonzero(low)
            gain = np.empty(rows.size)
            units_kernels.next_gains(self.q[rows], self.z[rows], low[rows] - 1, self.share, *self.utility.codes, gain)
            return low, float(gain.min()) if rows.size else lo
        return self._break_tie(low, high, budget - under, hi, tie)

    def _gains_more(self, units: IntArray, upper: IntArray) -> bool:
        """Tell whether any unit on top of these gains anything."""
        for chunk in (slice(_FIRST), slice(None)):  # the first prompts nearly always have one
            rows = np.flatnonzero(units[chunk] < upper[chunk])
            gain = np.empty(rows.size)
            units_kernels.next_gains(self.q[rows], self.z[rows], units[rows], self.share, *self.utility.codes, gain)
            if (gain > 0.0).any():
                return True
        return False

    def _units_at(self, price: float, out: IntArray) -> int:
        return int(
            units_kernels.remaining_units(price, self.q, self.z, self.room, self.share, *self.utility.codes, out)
        )

    def _bracket(self, price: float, budget: int, low: IntArray, high: IntArray) -> tuple[float, float, int, int]:
        """Write the units at two prices around the budget; return the prices and the sums of the units."""
        total = self._units_at(price, low)
        lo = hi = price
        over = under = total
        high[:] = low
        step = 1e-4
        while over < budget and lo > LEAST:
            hi, under = lo, over
            high[:] = low
            lo = max(LEAST, lo * exp(-step))
            over = self._units_at(lo, low)
            step = min(8.0 * step, 600.0)
        while under > budget and hi < MOST:
            lo, over = hi, under
            low[:] = high
            hi = min(MOST, hi * exp(step))
            under = self._units_at(hi, high)
            step = min(8.0 * step, 600.0)
        if under == budget:
            low[:] = high
            lo, over = hi, under
        return lo, hi, over, under

    def _break_tie(
        self, low: IntArray, high: IntArray, missing: int, price: float, tie: TieArray
    ) -> tuple[IntArray, float]:
        """Add ``missing`` of the units between two neighbouring solutions to the lesser one, the largest gains first."""
        rows = np.flatnonzero(low > high)
        gain = np.empty(rows.size)
        z, units = self.z[rows], high[rows]
        units_kernels.next_gains(self.q[rows], z, units, self.share, *self.utility.codes, gain)
        if int((low - high).max()) == 1:
            order = np.empty_like(units)
            # Equal gains go where exposure is least.
            rank = np.lexsort((tie[rows], z + units))
            place = np.empty(rank.size, dtype=np.int32)
            place[rank] = np.arange(rank.size)
            k = ranking_kernels.rank(gain, place, -np.inf, missing, order)
            high[rows[order[:k]]] += 1
            return high, float(gain[order[k - 1]]) if k else price
        tables_kernels.level(z.astype(np.int64), units, low[rows], np.ones(1), 0, np.argsort(tie[rows]), float(missing))
        high[rows] = units
        return high, float(gain.min())
