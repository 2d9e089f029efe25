"""Safeguards of an allocator: labels with their own priors and floors, and the retirement of solved prompts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, ClassVar, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import error_text, integer, real
from cero_alloc._evidence.prior import PriorFit, group_rows
from cero_alloc._saving.saved import locked
from cero_alloc._saving.state import Field

from .base import Allocator, Offer
from .floors import Floors
from .labels import Labels, checked_floors
from .retirement import Retirement
from .strategies import Plan


class Safeguards(Allocator):
    """An allocator with labels, floors and retirement, all of which are off unless they are asked for."""

    FIELDS: ClassVar[dict[str, Field]] = {
        **Allocator.FIELDS,
        "_labels": Field(when_set=Labels([None], 1), older=lambda _: None),
    }
    _LATER: ClassVar[dict[str, Any]] = {
        "groups": None,
        "floors": None,
        "retire_at": None,
        "retire_after": 16,
        "review": None,
    }
    _plan: Plan
    _retirement: Retirement | None = None

    @locked
    def add_prompts(
        self,
        ids: Iterable[Hashable],
        *,
        groups: Iterable[Hashable] | None = None,
        prior: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    ) -> None:
        """Append new prompts to the bank, with their labels.

        Prompts that join by ``bank.add_prompts`` get the label None, which has no floor.

        Parameters
        ----------
        ids : iterable of hashable
            Ids that are not in the bank.
        groups : iterable of hashable, length n_new, or None
            Label of each, known or new; None only where the allocator has no labels.
        prior : tuple of two floats or of two array_like, shape (n_new,), or None
            Prior of the new prompts, in pseudo-rollouts; None for that of their labels, or of all prompts.

        Raises
        ------
        ValueError, TypeError
            As :meth:`BetaPosteriorBank.add_prompts`, for labels that are not one per prompt, and for a new label without
            a prior where the bank holds one per prompt; nothing changes.

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank, ResolvingAllocator
        >>> run = {"total_budget": 16, "n_rounds": 2, "max_rollouts": 8}
        >>> allocator = ResolvingAllocator(BetaPosteriorBank(["a", "b"]), **run, groups=["math", "code"])
        >>> allocator.add_prompts(["c"], groups=["code"])
        >>> allocator.allocate().tolist()
        [3, 3, 3]
        """
        self._grow()
        fresh, evidence = self.bank.index.fresh(ids), self.bank.evidence
        if (groups is None) != (self._labels is None):
            given, remedy = (
                ("be None", "Leave them out.") if self._labels is None else ("be given", "Pass groups=[...].")
            )
            condition = f"{given} where the allocator has {'no ' if self._labels is None else ''}labels"
            raise ValueError(error_text("groups", condition, groups, remedy))
        labels: list[Hashable] = [None] * len(fresh)
        if fresh and groups is not None and self._labels is not None:
            known, named = self._labels.rows(), group_rows(groups, len(fresh))
            for label, places in named.items():
                for place in places.tolist():
                    labels[place] = label
            if prior is None and evidence.a0.size > 1 and named.keys() <= known.keys():
                rows = [known[label][0] for label in labels]
                prior = evidence.a0[rows], evidence.b0[rows]
        self.bank.add_prompts(fresh, prior=prior)
        if self._labels is not None:
            self._labels.join(labels)
        self._grow()

    def _guard(
        self,
        groups: Iterable[Hashable] | None,
        floors: Any,
        retire_at: float | None,
        retire_after: SupportsIndex,
        review: Any,
        n_rounds: int | None,
    ) -> None:
        """Check and take the arguments of labels, floors and retirement."""
        bank, ledger = self.bank, self.ledger
        if groups is not None:
            self._labels = Labels(groups, len(bank))
        if floors is not None:
            if self._labels is None:
                remedy = "Pass groups=, one label per prompt."
                raise ValueError(error_text("floors", "be None without groups", floors, remedy))
            if not ledger.costs.in_units:
                remedy = "Leave out one of the two: a floor is a share of the rollouts, and the rounds are in tokens."
                raise ValueError(error_text("floors", "be None with costs that differ", floors, remedy))
            shares = checked_floors(floors, self._labels)
            self._plan.floors = Floors(self._labels, shares, ledger, max(1, self._plan.min_units))
            floors = tuple(shares.items())
        after = integer("retire_after", retire_after, least=1, remedy="Count rollouts of evidence.")
        if review is not None:
            review = integer("review", review, least=1, remedy="Count rounds, or None.")
        if retire_at is not None:
            remedy = "Give a posterior mean, such as 0.9."
            retire_at = real("retire_at", retire_at, low=0.0, high=1.0, open_low=True, remedy=remedy)
            if review is None and n_rounds is None:
                remedy = "Count the rounds after which a prompt comes back."
                raise ValueError(error_text("review", "be given where n_rounds is not", review, remedy))
            rounds = max(1, (n_rounds or 0) // 10) if review is None else review
            self._retirement = Retirement(bank, ledger, retire_at, after, rounds)
        elif review is not None:
            raise ValueError(error_text("review", "be None without retire_at", review, "Pass retire_at=0.9."))
        labels = None if self._labels is None else self._labels.of_prompts()
        self._remember(groups=labels, floors=floors, retire_at=retire_at, retire_after=after, review=review)

    def _refit(self) -> PriorFit:
        evidence = self.bank.evidence
        if self._labels is None or (evidence.history is not None and evidence.forgetting == 1.0):
            return super()._refit()
        fits = list(evidence.fit_groups(self._labels.rows()).values())
        gain, prompts = sum(fit.log_likelihood_gain for fit in fits), sum(fit.n_prompts for fit in fits)
        status = min((fit.status for fit in fits), key=("fitted", "no spread", "too few prompts").index)
        alike = all((side == side[0]).all() for side in (evidence.a0, evidence.b0))
        alpha, beta = (float(evidence.a0[0]), float(evidence.b0[0])) if alike else (np.nan, np.nan)
        return PriorFit(alpha, beta, prompts, status, gain)

    def _rested(self, offer: Offer, request: Any, budget: Any, exact: bool) -> tuple[Offer, Any]:
        if self._retirement is None or self.ledger.finished:
            return offer, request
        plan, evidence = self._plan, self.bank.evidence
        self._retirement.begin(offer, request[0] if exact else 0.0, plan.left, plan.tie)
        if evidence.resting is None:
            return offer, request
        rests = evidence.resting[offer.selector] > 0
        kept = np.flatnonzero(~rests)
        if kept.size == offer.size:
            return offer, request
        rows = np.arange(offer.size) if offer.rows is None else offer.rows
        if plan.left is not None:
            plan.left[rows[rests]] -= 1.0  # an offer goes by
        places = kept if offer.places is None else offer.places[kept]
        offer = Offer(rows[kept], kept.size, places, offer.named)
        return offer, self._request(offer, budget, exact)

    def _join(self, old: int, new: int) -> None:
        if self._labels is not None:  # prompts that joined by the bank's own method have none
            self._labels.join([None] * (new - self._labels.codes.size))
