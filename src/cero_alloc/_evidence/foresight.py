"""Foresight: how far a belief can see, and jumps of all rates, which it cannot."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray
from cero_alloc._saving.state import Stateful

from .fitting import share_kept
from .history import History

_LEAST = 1e-9  # of a parameter, where a report is taken out again


class Foresight(Stateful):
    """The part of :class:`Evidence` that says what will be known of later visits."""

    size: int
    now: int
    forgetting: float
    drift: float
    trend: float
    history: History | None
    outcomes: npt.NDArray[np.floating[Any]]
    deficits: FloatArray | None

    @property
    def moving(self) -> bool:
        """Whether beliefs move: whether there is a drift or a trend."""
        raise NotImplementedError

    @property
    def at_rest(self) -> bool:
        """Whether all that is known now holds to the end of the run."""
        raise NotImplementedError

    def posterior(self, rows: IntArray | None) -> tuple[FloatArray, FloatArray]:
        """Return the Beta parameters, in pseudo-rollouts, aged to now."""
        raise NotImplementedError

    def prior(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return a0 and b0 of these rows; one entry each where all prompts share a prior."""
        raise NotImplementedError

    def keep_share(self, rows: IntArray, share: float) -> None:
        """Multiply the evidence of these prompts by a share."""
        raise NotImplementedError

    def notice_jump(self) -> None:
        """Give all evidence less weight where the reports since the last call contradict it together.

        A trend moves all rates alike, and a drift each by little. Where a run takes up another model, or another stage of
        training, every rate may be another one: what was known then counts as much as predicts the reports best.
        """
        if self.history is None:
            return
        rows, sums = self.history.take_open()
        if not rows.size:
            return
        won, n, lacks = np.ascontiguousarray(sums.T)
        a, b = self.posterior(rows)
        before = np.maximum(a - won, _LEAST), np.maximum(b - (n - won), _LEAST)
        a0, b0 = (np.array(np.broadcast_to(side, rows.size)) for side in self.prior(rows))
        share = share_kept(before, (a0, b0), won, n.astype(np.int64))
        if share == 1.0:
            return
        self.keep_share(np.arange(self.size), share)
        self.outcomes[rows] += (1.0 - share) * np.stack([won, n - won], axis=1)  # the reports themselves count in full
        if self.deficits is not None:
            self.deficits[rows] += (1.0 - share) * lacks
        self.history.note_jump(self.now, share)

    @property
    def loss(self) -> float:
        """Rate at which strengths fall towards that of the prior, per round: by the forgetting, and by jumps so far."""
        jumps = 0.0 if self.history is None else self.history.lost / max(1, self.now)
        return jumps - log(self.forgetting)

    def foreseen(
        self,
        rows: IntArray | None,
        visits: FloatArray,
        spacing: FloatArray,
        posterior: tuple[FloatArray, FloatArray] | None = None,
    ) -> FloatArray:
        r"""Return how many of the later visits of these prompts the belief foresees, of ``visits`` in all, one now.

        A visit in t rounds counts s(t) / s, the share of today's strength that a forecast so far ahead has:

        .. math:: 1 / s(t) = (1 + \kappa t) / s + t (\delta + m (1 - m) \tau^2), \qquad s(t) \ge s_0 ,

        summed over visits that are ``spacing`` rounds apart, with drift, trend and :attr:`loss`. At rest that is all of them.
        ``posterior`` is what the method of this name returns for these prompts, where the caller has it.
        """
        later = np.maximum(visits, 1.0) - 1.0
        if self.at_rest:
            return later
        a, b = self.posterior(rows) if posterior is None else posterior
        s = a + b
        a0, b0 = self.prior(np.arange(self.size) if rows is None else rows)
        drift, trend = min(self.drift, 1e100), min(self.trend, 1e50)  # beyond that nothing is foreseen
        faded = np.maximum(spacing * (self.loss + s * (drift + (a / s) * (b / s) * trend**2)), 1e-300)
        some = np.log1p(faded * later / (1.0 + 0.5 * faded)) / faded
        found: FloatArray = np.clip(some, np.minimum(1.0, (a0 + b0) / s) * later, later)
        return found
