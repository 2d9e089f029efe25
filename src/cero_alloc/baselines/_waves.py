"""Waves: the base class of rules that deal a round in waves, each after the rewards of the wave before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, SupportsIndex, Unpack

import numpy as np
import numpy.typing as npt

from cero_alloc._allocators.base import Offer
from cero_alloc._checks import FloatArray, IntArray, counts, error_text, flag, integer, successes
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._saving.saved import locked
from cero_alloc._saving.state import ANYTHING, Field

from ._base import Baseline, VisitRun

_OPEN_FIRST = "Call allocate first; a round ends with the first wave of zeros."


@dataclass(slots=True)
class OpenWaves:
    """State of a round between two waves; arrays are over the prompts on offer, in ascending rows."""

    rows: IntArray
    order: IntArray  # place of each row in the caller's order
    named: int  # number of the caller's ids
    left: int  # units that the round may still deal
    wave: int  # waves dealt
    dealt: IntArray  # units of each prompt in this round
    last: IntArray  # units of each prompt in the last wave
    seen: IntArray  # rollouts reported
    won: FloatArray  # successes reported

    @classmethod
    def start(cls, rows: IntArray, order: IntArray, named: int, total: int) -> OpenWaves:
        """Open a round over ``rows``."""
        none = np.zeros(rows.size, dtype=np.int64)
        return cls(rows, order, named, total, 0, none, none.copy(), none.copy(), np.zeros(rows.size))

    @classmethod
    def fits(cls, state: Any, n_prompts: int) -> bool:
        """Whether a state is that of a round over rows of a pool of ``n_prompts``."""
        if not isinstance(state, Mapping) or set(state) != set(cls.__slots__):
            return False
        if not all(isinstance(state[name], (int, np.integer)) for name in ("named", "left", "wave")):
            return False
        none = np.zeros(np.size(state["rows"]), dtype=np.int64)
        like = cls.start(none, none, 0, 0)
        for name in ("rows", "order", "dealt", "last", "seen", "won"):
            part, model = state[name], getattr(like, name)
            if not isinstance(part, np.ndarray) or (part.shape, part.dtype) != (model.shape, model.dtype):
                return False
        rows: IntArray = state["rows"]
        order: IntArray = np.sort(state["order"])
        apart = bool((order[1:] > order[:-1]).all()) and bool((rows[1:] > rows[:-1]).all())
        return apart and all(
            0 <= some.min(initial=0) <= some.max(initial=0) < max(1, size)
            for some, size in ((rows, n_prompts), (order, state["named"]))
        )

    @property
    def fresh(self) -> IntArray:
        """Positions of the prompts without rollouts in this round."""
        return np.flatnonzero(self.dealt == 0)

    @property
    def mixed(self) -> npt.NDArray[np.bool_]:
        """Whether a prompt has both successes and failures in this round."""
        return (self.won > 0.0) & (self.won < self.seen)

    @property
    def rate(self) -> FloatArray:
        """Success rate in this round, 0 for prompts without reports."""
        return np.divide(self.won, self.seen, out=np.zeros(self.won.size), where=self.seen > 0)


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
        "_round": Field(
            when_set=ANYTHING,
            must="be None or an open round",
            holds=lambda opened, state: OpenWaves.fits(opened, state["visits"].size),
            build=OpenWaves,
        ),
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
        opened = self._round
        if opened is None:
            raise ValueError(f"continue_round must follow allocate within a round, got no open round. {_OPEN_FIRST}")
        n, won = self._reported(opened, counts, successes)
        opened.seen += n
        opened.won += won
        units = self._granted(opened)
        self._visits[opened.rows] += (units > 0) & (opened.dealt == units)
        self.ledger.top_up(opened.rows, units)
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

    def _reported(self, opened: OpenWaves, n: npt.ArrayLike, won: npt.ArrayLike) -> tuple[IntArray, FloatArray]:
        """Check the report of a wave and return it in order of ascending rows."""
        rollouts, sums = counts("counts", n, opened.named), successes("successes", won, opened.named)
        dealt = np.zeros(opened.named, dtype=np.int64)
        dealt[opened.order] = opened.last * self.horizon.unit_size
        remedy = "Report the last wave, in the order of the round's ids."
        for i in np.flatnonzero((rollouts < 0) | (rollouts > dealt))[:1].tolist():
            raise ValueError(
                error_text("counts", f"be between 0 and the {dealt[i]} dealt", int(rollouts[i]), remedy, i)
            )
        bank = self.bank.rewards
        rewards = bank.mapped_sums(sums, rollouts)
        for i in np.flatnonzero(~((rewards >= 0.0) & (rewards <= rollouts)))[:1].tolist():
            condition = f"be between 0 and counts[{i}] = {rollouts[i]}"
            if bank.low != 0.0 or bank.high != 1.0:
                condition = (
                    f"be a sum of rewards between {bank.low:g} and {bank.high:g} over counts[{i}] = {rollouts[i]}"
                )
            raise ValueError(error_text("successes", condition, float(sums[i]), remedy, i))
        return rollouts[opened.order], rewards[opened.order]

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
