"""The whole-unit plan of a pool that changes by a batch per visit, without a pass over the pool."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log, sqrt

import numpy as np

from cero_alloc._checks import FloatArray, IntArray

from .units import LEAST, NO_UNITS, Bracket, Units, entries, first

_WIDTHS = (1e-6, 1e-3, 0.5)  # half the width of the bracket in log(price): least, first and most
_REBUILD = 3  # listed units that cost as much as one prompt of a pass


class RunningPlan:
    """A bracket around the price, the number of units above and below it, and a list of the units within.

    The numbers are integers and the listed units are compared by their gains, so that the plan equals that of
    :meth:`Units.take` to the last bit, whatever the history. A price that leaves the bracket costs a pass over the pool. A
    wide bracket is left rarely and lists many units: the width doubles where a pass cost more than the lists since the last
    pass, and halves where it cost less, which stays within a small factor of the best width under any steady drift.

    Parameters
    ----------
    pool : Units
        All prompts. The plan keeps the arrays and writes to them.
    """

    def __init__(self, pool: Units) -> None:
        self.pool = pool
        self.passes = 0  # over the pool
        self._width, self._listed, self._price = _WIDTHS[1], 0, 0.0
        self._bracket: Bracket | None = None
        self._rows = self._n = np.empty(0, dtype=np.int64)  # the units within the bracket
        self._gains = np.empty(0)
        self._place = np.full(pool.q.size, -1)  # of a prompt within a batch

    def change(self, rows: IntArray, q: FloatArray, z: FloatArray, upper: IntArray) -> None:
        """Set the new values, exposures and bounds of some prompts, each once."""
        pool, around = self.pool, self._bracket
        old = None if around is None else pool[rows].between(around.lo, around.hi)
        pool.q[rows], pool.z[rows], pool.upper[rows] = q, z, upper
        if around is None or old is None:
            return
        batch = replace(pool, q=q, z=z, upper=upper, tie=pool.tie[rows], ahead=z)
        new = batch.between(around.lo, around.hi)
        over, under = around.over + new.over - old.over, around.under + new.under - old.under
        self._bracket = around._replace(over=over, under=under)
        self._place[rows] = 0
        kept = self._place[self._rows] < 0
        self._place[rows] = -1
        fresh, n = entries(new.near, new.high[new.near], new.low)
        self._gains = np.concatenate([self._gains[kept], batch.gains(fresh, n)])
        self._rows = np.concatenate([self._rows[kept], rows[fresh]])
        self._n = np.concatenate([self._n[kept], n])

    def solve(self, k: int, rows: IntArray, guess: float) -> tuple[IntArray, float] | None:
        """Return the units of ``rows`` among the ``k`` first of the pool, and the gain of the last one.

        None where too many units are near the price to be listed.
        """
        found = self._select(k, rows)
        if found is None:
            centre = self._drifted(k)
            self._adapt()
            if centre is not None:
                self._build(centre)
                found = self._select(k, rows)
            if found is None:
                self.passes += 1
                taken = self.pool.take(k, self._price or guess)
                self._build(taken.price)
                found = self._select(k, rows)
        return found

    def _select(self, k: int, rows: IntArray) -> tuple[IntArray, float] | None:
        bracket = self._bracket
        if bracket is None or not bracket.under < k < bracket.over:
            return None
        self._listed += self._rows.size
        pool, listed, n = self.pool, self._rows, self._n
        chosen, last = first(
            k - bracket.under, -self._gains, lambda at: n[at] + pool.ahead[listed[at]], lambda at: pool.tie[listed[at]]
        )
        price = float(self._gains[last])
        if not bracket.lo < price < bracket.hi:
            return None
        self._price = price
        units = pool[rows].between(bracket.lo, bracket.hi).high
        self._place[rows] = np.arange(rows.size)
        for part in (*chosen, np.array([last])):
            place = self._place[listed[part]]
            units += np.bincount(place[place >= 0], minlength=rows.size)
        self._place[rows] = -1
        return units, price

    def _drifted(self, k: int) -> float | None:
        """Extrapolate the price by the slope of the demand within the bracket that it left."""
        bracket = self._bracket
        if bracket is None or bracket.over <= bracket.under:
            return None
        step = (
            (0.5 * (bracket.over + bracket.under) - k) / (bracket.over - bracket.under) * log(bracket.hi / bracket.lo)
        )
        return sqrt(bracket.lo) * sqrt(bracket.hi) * exp(min(max(step, -0.5), 0.5))

    def _adapt(self) -> None:
        if self._bracket is not None:
            rare = self._listed > _REBUILD * self.pool.q.size
            self._width = min(max(self._width * (0.5 if rare else 2.0), _WIDTHS[0]), _WIDTHS[2])
        self._listed = 0

    def _build(self, centre: float) -> None:
        """Pass over the pool: draw the bracket around a price."""
        self._bracket = None
        if centre < 2.0 * LEAST:
            return
        self.passes += 1
        bracket = self.pool.between(centre * exp(-self._width), centre * exp(self._width))
        if bracket.over - bracket.under > 4 * self.pool.q.size:
            return
        self._bracket = bracket._replace(high=NO_UNITS, near=NO_UNITS, low=NO_UNITS)  # the list replaces them
        self._rows, self._n = entries(bracket.near, bracket.high[bracket.near], bracket.low)
        self._gains = self.pool.gains(self._rows, self._n)
