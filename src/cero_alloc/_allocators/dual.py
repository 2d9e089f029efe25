"""The dual step of Algorithm 1, for a whole pool and for shards: where slopes and price go after a round."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from cero_alloc._budget.horizon import Horizon
from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._checks import FloatArray, IntArray, error_text, real
from cero_alloc._evidence.bank import BLOCK, BetaPosteriorBank
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._solvers.threads import in_stretches

from . import slopes_kernels


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
        h, z_stride, stride = self.horizon, int(start.size > 1), int(visits.size > 1)
        z, e = start[rows] if z_stride else start, visits[rows] if stride else visits
        q, share, codes = self.bank._values(rows), h.equal_share_units, self.utility.codes
        slopes_kernels.step_slopes(theta, q, proposal, z, z_stride, e, stride, h.max_units, share, self.size, *codes)

    def pool(
        self, theta: FloatArray, places: IntArray, proposal: IntArray, start: FloatArray, visits: FloatArray
    ) -> None:
        """Move the slopes of the pool's first prompts, as many as there are in ``theta``, in place."""
        a0, b0, a_stride, evidence, tick, now, rho, fade = self.bank._arguments()
        h, z_stride, stride, size = self.horizon, int(start.size > 1), int(visits.size > 1), places.size

        def step(first: int, stop: int) -> None:
            some, block = slice(first, stop), min(BLOCK, stop - first)
            a, b = (a0[some], b0[some]) if a_stride else (a0, b0)
            z, e = start[some] if z_stride else start, visits[some] if stride else visits
            rows, dealt = np.empty((2, size), dtype=np.int64)
            slopes_kernels.step_pool(
                theta[some], a, b, a_stride, evidence[some], tick[some], now, rho, fade, z, z_stride, e, stride,
                h.max_units, h.equal_share_units, self.size, self.utility.codes, first, places, proposal,
                np.empty((2, block)), np.zeros(block, dtype=np.int64), rows, dealt, np.empty((4, size)),
            )  # fmt: skip

        in_stretches(step, theta.size)


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
