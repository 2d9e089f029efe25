"""Waves: the base class of rules that deal a round in waves, each after the rewards of the wave before."""

from __future__ import annotations

from typing import Any, ClassVar, SupportsIndex, Unpack

import numpy as np
import numpy.typing as npt

from cero_alloc._allocators.base import Offer
from cero_alloc._allocators.waves import OPEN_ROUND, OpenWaves, require_open
from cero_alloc._checks import IntArray, error_text, flag, integer
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._saving.saved import locked
from cero_alloc._saving.state import Field

from ._base import Baseline, VisitRun


class Waves(Baseline):
    """A rule that deals a round in waves; a subclass decides the next wave in ``_wave``.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`.

    Examples
    --------
    >>> from cero_alloc.baselines import DAPO
    >>> policy = DAPO(BetaPosteriorBank(4), total_budget=32, n_rounds=1, max_rollouts=8)
    >>> isinstance(policy, Waves)
    True
    >>> wave = policy.allocate()
    >>> while wave.any():
    ...     print(int(wave.sum()))
    ...     wave = policy.continue_round(wave, successes=wave // 2)
    16
    """

    kind = "waves"
    FIELDS: ClassVar[dict[str, Field]] = {
        **Baseline.FIELDS,
        "_round": OPEN_ROUND,
    }

    def __init__(self, bank: BetaPosteriorBank, **run: Unpack[VisitRun]) -> None:
        self._round: OpenWaves | None = None
        super().__init__(bank, **run)

    @locked
    def continue_round(self, counts: npt.ArrayLike, successes: npt.ArrayLike) -> IntArray:
        """Deal the next wave of the open round.

        Parameters
        ----------
        counts : array_like of int, shape (n_offered,)
            Rewarded rollouts of the last wave, at most the rollouts dealt, in the order of the round's ids.
        successes : array_like of float, shape (n_offered,)
            Sum of their rewards. Report them to :meth:`Baseline.update` as well, from which the bank learns.

        Returns
        -------
        numpy.ndarray of int64, shape (n_offered,)
            Rollouts per prompt of the next wave. All zeros end the round.

        Raises
        ------
        ValueError
            Without an open round, or for counts that do not fit it; nothing has changed.
        TypeError
            For counts or successes in a set, which has no order.

        Examples
        --------
        >>> from cero_alloc.baselines import SpeedRL
        >>> policy = SpeedRL(BetaPosteriorBank(2), total_budget=48, n_rounds=1, max_rollouts=24)
        >>> wave = policy.allocate()
        >>> policy.continue_round(wave, successes=[1, 4]).tolist()
        [20, 0]
        """
        opened = require_open(self._round)
        n, won = opened.reported(self.bank.rewards, counts, successes, self.horizon.unit_size)
        opened.seen += n
        opened.won += won
        units = self._granted(opened)
        self._visits[opened.rows] += (units > 0) & (opened.dealt == units)
        self.ledger.top_up(opened.rows, units)
        self._note_waves(opened.rows, opened.dealt)
        if not units.any():
            self._round = None
        answer = np.zeros(opened.named, dtype=np.int64)
        answer[opened.order] = units * self.horizon.unit_size
        return answer

    def _request(self, offer: Offer, budget: Any, exact: bool) -> Any:
        """Refuse exact totals: rewards decide how much the waves take. What a round leaves goes to later rounds."""
        if flag("exact", exact):
            name = type(self).__name__
            raise ValueError(error_text("exact", f"be False for {name}", exact, "Pass the total as a cap instead."))
        return super()._request(offer, budget, exact)

    def _close(self) -> None:
        self._round = None

    def _propose(self, offer: Offer, request: Any) -> tuple[IntArray, IntArray]:
        """Deal the first wave; :meth:`continue_round` deals the others."""
        places, units = super()._propose(offer, request)
        if not places.size:
            self._round = None
        return places, units

    def _wave(self, opened: OpenWaves) -> tuple[IntArray, IntArray]:
        """Return positions in order of priority, and their units; positions that the total cannot pay get none."""
        raise NotImplementedError

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        self._round = OpenWaves.start(rows, self._order, self._named, total)
        return self._granted(self._round)

    def _granted(self, opened: OpenWaves) -> IntArray:
        """Return the next wave, within the round's total and the caps."""
        wanted, units = self._wave(opened)
        units = np.minimum(units, self.horizon.max_units - opened.dealt[wanted])
        if self.bank.evidence.retired is not None:  # retired since the round began
            units[self.bank.evidence.retired[opened.rows[wanted]]] = 0
        paid = np.cumsum(units) <= min(opened.left, self.ledger.units_left)  # the budget may have been reduced
        granted = np.zeros_like(opened.dealt)
        granted[wanted[paid]] = units[paid]
        opened.dealt += granted
        opened.last = granted
        opened.left -= int(granted.sum())
        opened.wave += 1
        return granted

    def _start(self, opened: OpenWaves, k: int) -> IntArray:
        """Return the positions of the next ``k`` prompts of the epoch without rollouts in this round."""
        fresh = opened.fresh
        return fresh[self._next(opened.rows[fresh], max(0, min(k, fresh.size)))]

    def _require_capacity(self, units: int, what: str) -> None:
        """Raise for a round capacity with which no round could begin."""
        h = self.horizon
        if units > h.capacity_units:
            condition = f"hold {what}, {units * h.unit_size} rollouts"
            raise ValueError(error_text("round_capacity", condition, h.round_capacity, "Raise it."))

    def _units(self, name: str, rollouts: SupportsIndex, least: int) -> int:
        """Return a rule's parameter in rollouts as whole units, rounded up."""
        n = integer(name, rollouts, least=least, remedy="Count rollouts.")
        return -(-n // self.horizon.unit_size)
