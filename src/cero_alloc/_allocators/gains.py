"""What the counts of a visit are worth: the utility of exposure, or the signal of a group, as the bank has it now."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cero_alloc._budget.horizon import Horizon
from cero_alloc._checks import FloatArray, IntArray
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._solvers.price import Clearing, clear

from . import gains_kernels

_WIDTH = 1e-9  # prices of the group signal this near count as one: demand jumps at each, so they are only bracketed


@dataclass(frozen=True, slots=True)
class Scores:
    """Unit gains of the prompts on offer.

    Attributes
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt.
    horizon : Horizon
        The constants of the run.
    utility : SaturatingUtility
        What exposure is worth.
    exploration : float
        Posterior standard deviations of p(1-p) that are added to a value.
    """

    bank: BetaPosteriorBank
    horizon: Horizon
    utility: SaturatingUtility
    exploration: float

    def values(self, rows: IntArray | None) -> FloatArray:
        """Return the values, with their bonus for uncertainty."""
        q = self.bank._values(rows)
        if self.exploration > 0.0:
            q = np.minimum(q + self.exploration * self.bank._spread(rows), 0.25)
        return q

    def of_exposure(self, q: FloatArray, z: FloatArray, w: FloatArray) -> FloatArray:
        """Return the gains of U(z + w n) / w."""
        gains = np.empty((q.size, self.horizon.max_units))
        gains_kernels.score_gains(q, z, w, self.horizon.equal_share_units, self.utility.codes, gains)
        return gains

    def of_group(self, rows: IntArray | None) -> FloatArray:
        """Return the gains of the group signal."""
        signal = self._signal(rows)
        gains = np.empty((signal[0].size, self.horizon.max_units))
        gains_kernels.group_gains(signal, self.horizon.unit_size, gains)
        return gains

    def clear_groups(self, left: FloatArray, cost: FloatArray, min_units: int, budget: float, guess: float) -> Clearing:
        """Return where the group signal of all remaining visits meets the budget."""
        signal = self._signal(None)
        g, max_units = self.horizon.unit_size, self.horizon.max_units

        def demand(price: float) -> tuple[float, float]:
            return gains_kernels.remaining_groups(price, signal, left, cost, g, min_units, max_units), 0.0

        return clear(demand, budget, float((cost * left).sum()) * max_units, guess, width=_WIDTH)

    def _signal(self, rows: IntArray | None) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return posterior parameters and the factor that the bonus for uncertainty puts on the signal."""
        alpha, beta = self.bank._posterior(rows)
        factor = np.ones(alpha.size)
        if self.exploration > 0.0:
            q = self.bank._values(rows)
            np.divide(self.values(rows), q, out=factor, where=q > 0.0)
        return alpha, beta, factor
