"""The remaining problem of a run, continuous or in whole units: one price over all prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, fsum, inf, sqrt
from typing import NamedTuple

import numpy as np

from cero_alloc._checks import FloatArray, IntArray, TieArray
from cero_alloc._objective import kernels
from cero_alloc._objective.utility import SaturatingUtility

from . import threads, units_kernels
from .units import TINY, Units

_FIRST = 4096  # prompts
_LANES = 256  # of a sum: scratch that stays in the cache
_STRETCH = 1 << 16  # prompts whose demand is one sum, by one thread
_TOLERANCE = 1e-13  # of the budget
_MAX_PASSES = 400  # evaluations of the demand, each a pass over the pool; 2 to 6 are usual
_LARGEST = 1e300  # price
_FREE = 1e-290  # units without demand at this price are worth nothing


class Clearing(NamedTuple):
    """Where demand meets a budget: at two neighbouring prices where demand jumps over the budget, else at one."""

    low: float  # demand is at least the budget
    high: float  # demand is at most the budget
    part: float  # of the jump between the two that the budget pays for


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
    room : numpy.ndarray of float64, shape (1,) or (n_prompts,)
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

    def clear(self, guess: float, more: FloatArray | None = None) -> Clearing:
        """Return the price at which demand meets the budget, 0 where the budget covers all of it; search from ``guess``.

        ``more`` takes what each prompt still takes at that price, unless the price is 0 or demand jumps there.
        """
        more = np.empty(self.q.size) if more is None else more

        def demand(price: float) -> tuple[float, float]:
            return self.demand(price, more)

        most = float(np.broadcast_to(self.cost * self.room, self.q.size).sum())
        if self.utility.shape == "capped-linear" and most > self.budget:
            if demand(_FREE)[0] <= self.budget:
                return Clearing(0.0, 0.0, 1.0)
            jump = self._jump()
            for width in (2.0**-52, 2.0**-51):  # rounding moves a step by a bit or two
                lo, hi = jump * (1.0 - width), jump * (1.0 + width)
                over, under = demand(lo)[0], demand(hi)[0]
                if over > self.budget >= under:
                    return Clearing(lo, hi, (self.budget - under) / (over - under))
        return clear(demand, self.budget, most, guess)

    def demand(self, price: float, more: FloatArray) -> tuple[float, float]:
        """Write what each prompt still takes at a price; return its cost, and its pull, minus the derivative by log(price)."""
        size, codes = self.q.size, self.utility.codes
        sums = np.empty((-(-size // _STRETCH), 3))

        def work(start: int, stop: int) -> None:
            problem = tuple(a[start:stop] if a.size > 1 else a for a in (self.q, self.z, self.room, self.cost))
            results = more[start:stop], sums[start // _STRETCH : -(-stop // _STRETCH)]
            units_kernels.remaining_demand(
                price, problem, self.share, codes, _STRETCH, *results, np.empty((7, min(_LANES, size)))
            )

        if size < threads.ALONE:
            work(0, size)
        else:
            threads.in_stretches(work, size, _STRETCH)
        return fsum(sums[:, :2].ravel()), float(sums[:, 2].sum())

    def planned(self, clearing: Clearing, more: FloatArray | None = None) -> FloatArray:
        """Return the continuous units per prompt over the rest of the run; ``more`` is what :meth:`clear` left there."""
        if more is None or not clearing.low == clearing.high > 0.0:
            more = np.empty(self.q.size)
            self.demand(clearing.low, more)
        if clearing.high > clearing.low:
            under = np.empty(more.size)
            self.demand(clearing.high, under)
            more = (1.0 - clearing.part) * under + clearing.part * more
        return more

    def _jump(self) -> float:
        """Return the price at which the demand of capped lines jumps over the budget, up to rounding.

        A line is bought up to its kink or not at all, so that demand is a staircase; its steps are sorted by price.
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
        """Return the best whole units per prompt, costs being equal, and the gain of the last one.

        Ties go where exposure is least, then by rank. ``price`` is a guess at the gain. Where the budget covers every unit
        that gains anything, the price is 0 and the other units are not bought.
        """
        budget, size, codes = int(self.budget), self.q.size, self.utility.codes
        if float(self.room.sum()) * (size / self.room.size) <= budget:
            return np.array(np.broadcast_to(self.room.astype(np.int64), size)), 0.0
        upper = np.minimum(self.room, max(1, budget)).astype(np.int64)
        pool = Units(self.q, self.z, tie, upper, self.share, self.utility, ahead=self.z)
        taken = pool.take(max(1, budget), price)
        if not budget:
            return np.zeros(size, dtype=np.int64), taken.price
        if taken.price > 0.0:
            for chunk in (slice(_FIRST), slice(None)):  # nearly always one of the first prompts has a unit with a gain
                rows = np.flatnonzero(taken.units[chunk] < (self.room[chunk] if self.room.size > 1 else self.room))
                gain = np.empty(rows.size)
                units_kernels.next_gains(self.q[rows], self.z[rows], taken.units[rows], self.share, codes, gain)
                if (gain > 0.0).any():
                    return taken.units, taken.price
        pool.count(TINY, taken.units)
        return taken.units, 0.0


def clear(
    demand: Callable[[float], tuple[float, float]], budget: float, most: float, guess: float, width: float = 4e-16
) -> Clearing:
    """Find the price at which a falling demand meets the budget, by Newton's method in log(price) with bisection as a guard.

    Parameters
    ----------
    demand : callable
        Returns what is taken at a price, and its pull: minus the derivative by log(price), 0 where demand jumps.
    budget : float
        Target of the demand.
    most : float
        Demand at price 0.
    guess : float
        First price that is tried; it affects only the speed.
    width : float
        Relative width to which a jump of the demand is bracketed, by chords and bisection in turn.
    """
    if most <= budget:
        return Clearing(0.0, 0.0, 1.0)
    lo, hi, over, under = 0.0, inf, most, 0.0
    price = guess if TINY < guess < _LARGEST else 1.0
    stride = 2.0
    for trial in range(_MAX_PASSES):
        total, pull = demand(price)
        if abs(total - budget) <= _TOLERANCE * budget:
            return Clearing(price, price, 1.0)
        if total > budget:
            lo, over = price, total
        else:
            hi, under = price, total
        if lo == 0.0 and hi < _FREE:
            return Clearing(0.0, 0.0, 1.0)  # no demand for the rest
        if lo > 0.0 and hi < inf and hi - lo <= width * hi:
            break
        fresh = 0.0
        if pull > 0.0 and trial % 8 < 7:
            fresh = price * exp(min(max((total - budget) / pull, -100.0), 100.0))
        elif trial % 2 and lo > 0.0 and hi < inf:
            fresh = lo * (hi / lo) ** ((over - budget) / (over - under))
        if not lo < fresh < hi:
            if lo > 0.0 and hi < inf:
                fresh = sqrt(lo) * sqrt(hi)
            else:
                fresh = price * stride if lo > 0.0 else price / stride
                stride = min(stride * stride, 1e30)
        price = fresh
    return Clearing(lo, hi, (budget - under) / (over - under))
