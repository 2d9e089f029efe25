"""Rules that deal in proportion to a weight: GVM, Neyman and DUET."""

from __future__ import annotations

from typing import Any, SupportsIndex, Unpack

import numpy as np
import numpy.typing as npt

from cero_alloc._budget.costs import token_costs
from cero_alloc._budget.ledger import Pacing, RolloutLedger
from cero_alloc._budget.opening import open_ledger
from cero_alloc._checks import FloatArray, IntArray, integer, real
from cero_alloc._evidence.bank import BetaPosteriorBank

from ._base import Baseline, VisitRun, size_of
from ._separable import best_counts, proportional


class GVM(Baseline):
    r"""GVM: the counts that minimise the variance of rejection sampling's gradient, if all gradients have equal norm.

    .. math:: n \propto \frac{1}{\sqrt{p + 10^{-3} / p}}

    Hard prompts get the most rollouts, and prompts near p = 0 get none.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt; its posterior mean is p.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`.

    Notes
    -----
    Deviations. In the publication p and the gradient norms are estimated by a pilot of the current policy every few steps;
    here p is the posterior mean and all norms are 1. Rounding is by largest remainder, as published. Counts are capped at
    ``max_rollouts`` and may be 0 or 1.

    References
    ----------
    arXiv 2505.02391, GVM-RAFT, with alpha = 0.001 and beta = 2.

    Examples
    --------
    >>> bank = BetaPosteriorBank(2)
    >>> bank.update(None, successes=[8, 32], rollouts=[38, 38])
    >>> GVM(bank, total_budget=16, n_rounds=1, max_rollouts=16).allocate().tolist()
    [10, 6]
    """

    least_rollouts = 0

    def _share(self, rows: IntArray, total: int) -> IntArray:
        p = np.maximum(self.bank.evidence.means(rows), 1e-300)
        return proportional(1.0 / np.sqrt(p + 1e-3 / p), *self._bounds(rows.size, total), total, self._tie[rows])


class Neyman(Baseline):
    r"""Neyman's allocation: counts in proportion to the rewards' standard deviation, :math:`n \propto \sqrt{\hat q}`.

    It minimises the variance of a stratified mean. Visited prompts get at least 2 rollouts.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt; its value is :math:`\hat q`, the posterior mean of p (1 - p).
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for max_rollouts below 2.

    References
    ----------
    Neyman, On the two different aspects of the representative method, J. R. Statist. Soc. 97 (1934).

    Examples
    --------
    >>> bank = BetaPosteriorBank(2)
    >>> bank.update(None, successes=[20, 39], rollouts=[40, 40])
    >>> Neyman(bank, total_budget=16, n_rounds=1, max_rollouts=16).allocate().tolist()
    [11, 5]
    """

    least_rollouts = 2

    def _share(self, rows: IntArray, total: int) -> IntArray:
        return proportional(
            np.sqrt(self.bank.evidence.values(rows)), *self._bounds(rows.size, total), total, self._tie[rows]
        )


class DUET(Baseline):
    r"""DUET: Neyman's allocation with costs, and a token budget.

    .. math:: n = \text{clip}\left(\text{round} \frac{s}{\sqrt{\lambda L}}, 1, n_{\max}\right), \qquad \sum n L = \text{budget}

    with s the standard deviation of the rewards and L the expected tokens of a rollout.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt; s is the root of its value.
    costs : array_like of float, shape (n_prompts,), or None
        Expected tokens of a rollout; ``total_budget`` and ``budget`` then count tokens, and a round's total is a cap
        that whole rollouts may not fill exactly. None counts rollouts, which fill it exactly.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for costs that are not positive.

    Notes
    -----
    Deviations. The published s is the standard deviation of advantage times log-probability, which is not available outside
    the trainer; here it is that of the reward. The published cap of 32 is ``max_rollouts``. Rounding at one price can miss
    the budget by a few rollouts; the rest goes to the prompts that would round up next. If costs differ, a round visits
    prompts until ``rollouts_per_visit`` each would spend its total, and skips prompts whose first rollout it cannot pay;
    the schedule is uniform in tokens of the prompts on offer.

    References
    ----------
    arXiv 2605.08441, DUET.

    Examples
    --------
    >>> policy = DUET(BetaPosteriorBank(2), costs=[100, 400], total_budget=4800, n_rounds=1, max_rollouts=32)
    >>> policy.allocate().tolist()
    [16, 8]
    """

    def __init__(self, bank: BetaPosteriorBank, *, costs: npt.ArrayLike | None = None, **run: Unpack[VisitRun]) -> None:
        self._costs = None if costs is None else token_costs(costs, size_of(bank))
        super().__init__(bank, **run)
        self._remember(costs=costs)

    def _open(self, n_prompts: int, **plan: Any) -> RolloutLedger:
        self._capacity = np.inf
        if self._costs is None:
            return super()._open(n_prompts, **plan)
        if plan["round_capacity"] is not None:
            remedy = "Count tokens."
            self._capacity = real("round_capacity", plan["round_capacity"], low=0.0, high=np.inf, remedy=remedy)
        g = integer("unit_size", plan.pop("unit_size"), least=1, remedy="Count from 1.")
        rounds = integer("n_rounds", plan.pop("n_rounds"), least=1, remedy="Count the calls of allocate over the run.")
        costs = self._costs * g
        return open_ledger(n_prompts, visits=None, unit_size=g, n_rounds=rounds, unit_costs=costs, **plan)

    @property
    def _most_per_round(self) -> float:
        costs, h = self.ledger.costs, self.horizon
        if costs.in_units:
            return costs.budget_of(h.capacity_units)
        return min(self._capacity, h.max_units * costs.of_offer(None, len(self.bank)))

    def _round_total(  # type: ignore[override]
        self, rows: IntArray | None, size: int, budget: SupportsIndex | None, exact: bool
    ) -> float:
        """Return the total of this round in units, or in tokens if the prompts differ in cost."""
        pacing = Pacing(self.ledger, 1, 0.0, self._capacity, by_rounds=True)
        if self.ledger.costs.in_units:  # the pace of all rules
            pace: float = super()._round_total(rows, size, None, False)
        else:
            pace = pacing.window(rows, size, None, None, False)[1]
        if budget is None and not exact:
            return pace
        cap = pacing.window(rows, size, None, budget, exact)[1]  # type: ignore[arg-type]
        return cap if exact else min(cap, pace)

    def _deal(self, rows: IntArray, total: float) -> IntArray:
        costs = self.ledger.costs.of_rows(rows)
        if costs is None:
            return super()._deal(rows, int(total))
        units = np.zeros(rows.size, dtype=np.int64)
        left, waiting = total, self._next(rows, rows.size)
        while (waiting := waiting[costs[waiting] <= left]).size:
            enough = 1 + int(np.searchsorted(np.cumsum(self._block * costs[waiting]), left))
            visited = np.sort(waiting[:enough][np.cumsum(costs[waiting[:enough]]) <= left])
            units[visited] = self._share_tokens(rows[visited], left, costs[visited])
            left -= float(costs[visited] @ units[visited])
            waiting = waiting[visited.size :]
        return units

    def _share(self, rows: IntArray, total: int) -> IntArray:
        lower, upper = self._bounds(rows.size, total)
        return best_counts(self._keys(rows, np.ones(rows.size), upper[0]), lower, upper, total, self._tie[rows])

    def _share_tokens(self, rows: IntArray, total: float, costs: FloatArray) -> IntArray:
        """Return units whose cost is within the total: in descending order of their keys, skipping units that do not fit."""
        units = np.ones(rows.size, dtype=np.int64)
        left = total - float(costs.sum())
        most = min(self.horizon.max_units, 1 + int(left / costs.min()))
        keys = self._keys(rows, costs, most)[:, 1:]
        for entry in np.lexsort((np.repeat(self._tie[rows], keys.shape[1]), -keys.ravel())):
            row = entry // keys.shape[1]
            if costs[row] <= left:  # once a unit does not fit, the later units of its row do not fit either
                units[row] += 1
                left -= costs[row]
        return units

    def _keys(self, rows: IntArray, costs: FloatArray, most: int) -> FloatArray:
        """Return for each n the sqrt(lambda) below which the rounded count exceeds n; larger keys are dealt first."""
        weight = np.sqrt(self.bank.evidence.values(rows) / costs)
        keys: FloatArray = weight[:, None] / (np.arange(most) + 0.5)
        return keys
