"""Retirement: solved prompts rest for a time, as long as the others can take the budget."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._checks import FloatArray, IntArray, TieArray
from cero_alloc._evidence.bank import BetaPosteriorBank

from .base import Offer


class Retirement:
    """The rule by which an allocator retires solved prompts, and lets them come back for a review.

    It has no state of its own: the bank's evidence holds the round in which each prompt comes back.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt.
    ledger : RolloutLedger
        The run's account.
    at : float
        Posterior mean, as a share of the reward range, from which on a prompt is solved.
    after : int
        Least evidence, in rollouts.
    review : int
        Rounds until a prompt comes back.
    """

    def __init__(self, bank: BetaPosteriorBank, ledger: RolloutLedger, at: float, after: int, review: int) -> None:
        self.bank, self.ledger = bank, ledger
        self.at, self.after, self.review = at, after, review

    def begin(self, offer: Offer, least: float, left: FloatArray | None, tie: TieArray) -> None:
        """Decide at the start of a round who rests in it.

        Parameters
        ----------
        offer : Offer
            The prompts on offer, with those that rest.
        least : float
            Amount that the round must be able to spend on them: its exact total, or 0.
        left : numpy.ndarray of float64, shape (n_prompts,), or None
            Offers to come of each prompt; None where they are not known.
        tie : numpy.ndarray of int32, shape (n_prompts,)
            Rank of prompts with equal means.
        """
        evidence, now = self.bank.evidence, self.ledger.round + 1
        before = np.zeros(evidence.size, dtype=np.int64) if evidence.resting is None else evidence.resting
        due = before.copy()
        self._review(np.flatnonzero((due > 0) & (due <= now)), due)
        alpha, beta = evidence.posterior(None)
        mean, known = alpha / (alpha + beta), alpha + beta - (evidence.a0 + evidence.b0)
        out = np.zeros(evidence.size, dtype=bool)
        if evidence.retired is not None:
            out = evidence.retired & (before == 0)  # those of the user
        solved = (mean >= self.at) & (known >= self.after - 1e-9)
        rows = np.flatnonzero(~out & (solved | (due > 0)))
        rows = rows[np.lexsort((tie[rows], mean[rows]))]  # the least sure ones first: they are the first to stay
        rows = self._spared(rows, out, offer, least, left)
        due[rows] = np.where(due[rows] > 0, due[rows], now + self.review)
        resting = np.zeros_like(before)
        resting[rows] = due[rows]
        if not np.array_equal(resting, before):
            evidence.rest(resting)

    def _review(self, rows: IntArray, due: IntArray) -> None:
        """Let prompts come back, with so little evidence that half of what retires a prompt must be new."""
        if not rows.size:
            return
        due[rows] = 0
        evidence = self.bank.evidence
        alpha, beta = evidence.posterior(rows)
        a0, b0 = evidence.prior(rows)
        known = np.maximum(alpha + beta - (a0 + b0), 1e-9)
        evidence.keep_share(rows, np.minimum(1.0, 0.5 * self.after / known))

    def _spared(
        self, rows: IntArray, out: npt.NDArray[np.bool_], offer: Offer, least: float, left: FloatArray | None
    ) -> IntArray:
        """Return the rows without the first few that the budget left, or this round, cannot be spent without."""
        ledger = self.ledger
        per_visit = ledger.horizon.max_units * np.broadcast_to(ledger.costs.rates, out.size)
        if left is None:
            visits = np.full(out.size, ledger.rounds_left * self._share(offer, out))
        else:
            visits = np.maximum(left, 0.0)
            visits[offer.selector] = np.maximum(visits[offer.selector], 1.0)
        room = per_visit * visits
        stays = ~out
        stays[rows] = False
        rows = rows[_needed(room[rows], ledger.funds - float(room[stays].sum())) :]
        stays = ~out
        stays[rows] = False
        offered = np.zeros(out.size, dtype=bool)
        offered[offer.selector] = True
        here = np.flatnonzero(offered[rows])
        lacks = least - float(per_visit[stays & offered].sum())
        return np.delete(rows, here[: _needed(per_visit[rows[here]], lacks)])

    def _share(self, offer: Offer, out: npt.NDArray[np.bool_]) -> float:
        """Return the share of the pool that a round to come is expected to offer: the mean so far, or all of it."""
        ledger, size = self.ledger, int(np.count_nonzero(~out))
        if offer.size == size:
            return 1.0
        pool = ledger.costs.of_offer(np.flatnonzero(~out), size)
        mean = (ledger.offered + ledger.costs.of_offer(offer.rows, offer.size)) / (ledger.round + 1)
        return min(1.0, mean / pool)


def _needed(room: FloatArray, amount: float) -> int:
    """Return how many of the first entries it takes to reach an amount; all where they do not reach it."""
    if amount <= 0.0:
        return 0
    return min(room.size, int(np.searchsorted(np.cumsum(room), amount * (1.0 - 1e-12))) + 1)
