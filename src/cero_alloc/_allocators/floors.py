"""Floors: the least share of a round's rollouts for the prompts of a label, whatever the strategy."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._checks import IntArray
from cero_alloc._solvers.units import Visit

from .labels import Labels

Solve = Callable[[IntArray, int], Visit]  # the best counts of the prompts at some places, with exactly this total


class Floors:
    """Lift labels below their floor to exactly their floor, at the expense of the other prompts on offer.

    The round's total stays. With concave scores of single units the counts are the best ones under the floors: a label that
    is below its floor is so at any higher price as well, so that it gets its floor and no more. Floors are rounded up to
    whole units while the total allows; where it does not, those are rounded up first that are furthest behind over the run.

    Parameters
    ----------
    labels : Labels
        Label of each prompt.
    shares : mapping of label to float
        Least share of each; 0 for labels that are left out.
    ledger : RolloutLedger
        What each prompt was dealt.
    quantum : int
        Least count of a prompt other than 0, in units.
    """

    def __init__(self, labels: Labels, shares: Mapping[Hashable, float], ledger: RolloutLedger, quantum: int) -> None:
        self.labels, self.shares, self.ledger = labels, shares, ledger
        self.quantum, self.most = quantum, ledger.horizon.max_units

    def lift(self, rows: IntArray | slice | None, visit: Visit, solve: Solve) -> Visit:
        """Return a visit of these rows under the floors; ``visit`` is the best one without them."""
        codes = self.labels.codes[slice(None) if rows is None else rows]
        names = len(self.labels.names)
        sizes, left = np.bincount(codes, minlength=names), int(visit.units.sum())
        below, least = self._least(left, sizes)
        units, price = visit.units, visit.price
        free = np.ones(units.size, dtype=bool)
        while True:
            dealt = np.bincount(codes, weights=units, minlength=names)
            short = [code for code in below if dealt[code] < least[code]]
            if not short:
                return Visit(units, price)
            units, below = units.copy(), [code for code in below if code not in short]
            for code in short:
                places = np.flatnonzero(codes == code)
                free[places] = False
                n = self._nearest(int(least[code]), places.size, left, int(np.count_nonzero(free)))
                units[places] = solve(places, n).units if n else 0
                left -= n
            rest = np.flatnonzero(free)
            if left:
                units[rest], price = solve(rest, left)
            else:
                units[rest] = 0

    def _least(self, total: int, sizes: IntArray) -> tuple[list[int], IntArray]:
        """Return the labels on offer that have a floor, the furthest behind first, and the least units of each label."""
        shares = np.array([self.shares.get(name, 0.0) for name in self.labels.names])
        dealt = np.bincount(self.labels.codes, weights=self.ledger.exposure_units, minlength=shares.size)
        behind = shares * (dealt.sum() + total) - dealt
        exact = np.where(sizes > 0, shares * total, 0.0)
        least = np.floor(exact + 1e-9).astype(np.int64)
        order = [code for code in np.argsort(-behind, kind="stable").tolist() if exact[code] > 0.0]
        up = [code for code in order if exact[code] > least[code] + 1e-9]
        least[up[: total - int(least.sum())]] += 1
        return order, np.minimum(least, sizes * self.most)

    def _nearest(self, least: int, size: int, left: int, others: int) -> int:
        """Return the smallest total from ``least`` on that ``size`` prompts can take while ``others`` can take the rest.

        The largest below it where there is none.
        """
        n = np.arange(min(size * self.most, left) + 1)
        n = n[self._can_take(n, size) & self._can_take(left - n, others)]
        return int(n[min(int(np.searchsorted(n, least)), n.size - 1)])

    def _can_take(self, totals: IntArray, size: int) -> npt.NDArray[Any]:
        """Tell which totals so many counts in {0} u [quantum, most] can add up to."""
        few = -(-totals // self.most)
        return (few <= size) & (few * self.quantum <= totals)
