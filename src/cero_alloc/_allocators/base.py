"""Allocator: the template of a round, the account, and feedback that may arrive late, split or repeatedly."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from threading import RLock
from typing import Any, ClassVar, Literal, NamedTuple, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._budget.balance import Balance
from cero_alloc._budget.deliveries import Deliveries, DeliveryId
from cero_alloc._budget.horizon import Horizon
from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._checks import FloatArray, IntArray, counts, error_text, integer
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.feedback import checked_feedback
from cero_alloc._evidence.loading import empty_bank
from cero_alloc._evidence.prior import PriorFit
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._saving.saved import Saved, locked
from cero_alloc._saving.state import Field, State, is_of

from .metrics import run_metrics

PRIOR_FIT = Field(
    when_set={},
    must=f"hold {', '.join(PriorFit.__slots__)}",
    holds=lambda fit, _: set(fit) == set(PriorFit.__slots__),
    build=PriorFit,
)
_ROUND_REMEDY = "Give the number that allocator.round had after the call of allocate, or None."


class Offer(NamedTuple):
    """The prompts on offer in a round; retired prompts are left out, even if they were named."""

    rows: IntArray | None  # None: the whole pool
    size: int  # prompts on offer
    places: IntArray | None  # positions of these rows among the named ids; None: 0, 1, 2, ...
    named: int  # ids that were named

    @property
    def selector(self) -> IntArray | slice:
        """Index of the rows on offer into an array over the pool."""
        return slice(None) if self.rows is None else self.rows

    def in_named_order(self, counts: IntArray) -> IntArray:
        """Return counts of the prompts on offer in the order of the ids that were named; retired prompts get 0."""
        if self.places is None:
            return counts
        named = np.zeros(self.named, dtype=np.int64)
        named[self.places] = counts
        return named


class Allocator(Saved):
    """A run over a bank's prompts under one account. A subclass decides in ``_request`` and ``_propose`` what a round deals.

    Feedback may come late, split, out of order, repeatedly under one ``delivery_id``, or never. At all times

        spent + reserved + left = total    (:attr:`balance`)

    Every method that changes or combines something holds :attr:`lock`, so that threads may share an allocator.
    """

    _BUILD: ClassVar[dict[str, Any]] = {"utility": SaturatingUtility}
    FIELDS: ClassVar[dict[str, Field]] = {"bank": Field(), "ledger": Field(), "_deliveries": Field()}
    utility: SaturatingUtility
    prior_fit: PriorFit | None = None  # of the last refit
    _fit_every: int | None = None  # rounds between refits of the bank's prior

    def __init__(self, bank: BetaPosteriorBank, ledger: RolloutLedger, utility: SaturatingUtility) -> None:
        self.bank, self.ledger, self.utility = bank, ledger, utility
        self._deliveries = Deliveries()

    @property
    def lock(self) -> RLock:
        """The bank's lock, which every method holds. Hold it to make several calls atomic."""
        return self.bank.lock

    def allocate(
        self, prompt_ids: Iterable[Hashable] | None = None, budget: float | None = None, *, exact: bool = False
    ) -> IntArray:
        """Close the previous round with the evidence as it stands, then deal this one.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts on offer, each once; None offers the whole pool in row order.
        budget : int or None, or float with ``costs``
            Cap of this round, in rollouts or tokens; rounded down to whole units. None leaves the total to the allocator.
        exact : bool
            Spend exactly ``budget``. With ``costs`` only where all prompts cost the same.

        Returns
        -------
        numpy.ndarray of int64, shape (n_offered,)
            Rollouts per prompt in the order of ``prompt_ids``, multiples of ``unit_size`` up to ``max_rollouts``. All zeros
            once the horizon is over or the budget is gone.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError
            For a repeated id, a negative budget, or an exact total that is not feasible; the message names what is.
        TypeError
            For a budget that is not an integer, or with ``costs`` not a number.

        Examples
        --------
        >>> from cero_alloc import FenchelDualAllocator
        >>> allocator = FenchelDualAllocator(BetaPosteriorBank(4), total_budget=8, n_rounds=4, max_rollouts=2)
        >>> int(allocator.allocate(budget=3, exact=True).sum())
        3
        """
        with self.bank.lock:  # without the decorator of the rarer methods, which costs a call
            self._grow()
            offer = self._offer(prompt_ids)
            request = self._request(offer, budget, exact)
            self._close()
            if self.ledger.finished:
                return np.zeros(offer.named, dtype=np.int64)
            if self._fit_every is not None and self.ledger.round and self.ledger.round % self._fit_every == 0:
                self.prior_fit = self.bank.fit_prior()
            places, units = self._propose(offer, request)
            self.bank.evidence.tick()
            return offer.in_named_order(self.ledger.open_round(offer.rows, offer.size, places, units))

    @property
    def horizon(self) -> Horizon:
        """The constants of the run as it was planned; with ``costs``, in rollouts of the mean cost."""
        return self.ledger.horizon

    @property
    def round(self) -> int:
        """Rounds opened so far, which is the number of the latest."""
        return self.ledger.round

    @property
    def remaining_budget(self) -> float:
        """Rollouts (or tokens) not dealt yet."""
        return self.ledger.remaining_budget

    @property
    @locked
    def balance(self) -> Balance:
        """Where the budget is, with spent + reserved + left = total; in rollouts, or tokens where they are counted.

        Examples
        --------
        >>> from cero_alloc import FenchelDualAllocator
        >>> allocator = FenchelDualAllocator(BetaPosteriorBank(2), total_budget=8, n_rounds=4, max_rollouts=4)
        >>> counts = allocator.allocate(budget=4, exact=True)
        >>> allocator.balance
        Balance(total=8, spent=0, reserved=4, left=4)
        """
        return self.ledger.balance

    @property
    @locked
    def exposure(self) -> IntArray:
        """Rollouts dealt to each prompt and not refunded; shape (n_prompts,)."""
        self._grow()
        return self.ledger.exposure

    @property
    @locked
    def outstanding(self) -> IntArray:
        """Rollouts dealt to each prompt and neither reported, refunded, expired nor written off; shape (n_prompts,)."""
        self._grow()
        return self.ledger.outstanding.astype(np.int64)

    @property
    @locked
    def reservations(self) -> dict[int, int]:
        """Rollouts outstanding by the round that dealt them, oldest first; rounds without any are left out.

        Feedback that does not name its round counts for a prompt's oldest rollouts.

        Examples
        --------
        >>> from cero_alloc.baselines import Uniform
        >>> allocator = Uniform(BetaPosteriorBank(2), total_budget=16, n_rounds=4, max_rollouts=4)
        >>> first, second = allocator.allocate(), allocator.allocate()
        >>> allocator.update(None, successes=[0, 0], rollouts=second, round=2)
        >>> allocator.reservations
        {1: 4}
        """
        owed: dict[int, int] = {}
        for deal in self.ledger.reservations.split(self.ledger.outstanding):
            owed[deal.round] = owed.get(deal.round, 0) + int(deal.rollouts.sum())
        return owed

    def update(
        self,
        prompt_ids: Iterable[Hashable] | None,
        successes: npt.ArrayLike,
        rollouts: npt.ArrayLike,
        *,
        round: SupportsIndex | None = None,
        delivery_id: DeliveryId = None,
    ) -> None:
        """Add observed rewards, at any time and in any order.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts that were observed, each once per call; None names the whole pool in row order.
        successes : array_like of float, shape (n_ids,)
            Sum of the rewards of each prompt, in [0, rollouts].
        rollouts : array_like of int, shape (n_ids,)
            Rewarded rollouts of each prompt; more or fewer than were dealt is fine.
        round : int or None
            Which round dealt them, as :attr:`round` stood after it; None counts them for each prompt's oldest.
        delivery_id : int, str or None
            Name of this report. A report that comes again under its name changes nothing.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError
            As :meth:`~cero_alloc.BetaPosteriorBank.update`, for a round that was not opened, and for a delivery_id that came with
            another content; nothing changes after any error.
        TypeError
            For ids that are no collection, a round that is not an integer, or a delivery_id that is neither an integer
            nor a string.

        Examples
        --------
        >>> from cero_alloc import FenchelDualAllocator
        >>> allocator = FenchelDualAllocator(BetaPosteriorBank(2), total_budget=8, n_rounds=2, max_rollouts=4)
        >>> counts = allocator.allocate()
        >>> allocator.update([1], successes=[0.5], rollouts=[1])
        >>> allocator.update([1, 0], successes=[2.5, 1], rollouts=[3, 4], delivery_id="worker 3, batch 7")
        >>> allocator.update([1, 0], successes=[2.5, 1], rollouts=[3, 4], delivery_id="worker 3, batch 7")
        >>> allocator.bank.mean().tolist()
        [0.3333333333333333, 0.6666666666666666]
        """
        with self.bank.lock:
            self._grow()
            rows, won, n = checked_feedback(self.bank.index, prompt_ids, successes, rollouts)
            number = self._round_number(round)
            receipt = None if delivery_id is None else self._deliveries.receive("update", delivery_id, rows, won, n)
            if receipt is not None and receipt.repeated:
                return
            self.bank.evidence.observe(rows, won, n)
            self.ledger.settle(rows, n, number)
            if receipt is not None:
                self._deliveries.keep(receipt)
            self._learn(rows, won, n)

    @locked
    def refund(
        self,
        prompt_ids: Iterable[Hashable] | None,
        rollouts: npt.ArrayLike,
        *,
        round: SupportsIndex | None = None,
        delivery_id: DeliveryId = None,
    ) -> None:
        """Hand back rollouts that were dealt but never generated; the visit itself stays counted.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts, each once; None names the whole pool in row order.
        rollouts : array_like of int, shape (n_ids,)
            Rollouts to return to the budget: whole units, at most what is outstanding, of the round if one is given.
        round : int or None
            Number of the round that dealt them; None takes each prompt's oldest rollouts.
        delivery_id : int, str or None
            Name of this report, as in :meth:`update`.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError, TypeError
            For a repeated id, more than is outstanding or parts of groups, and as :meth:`update`; nothing changes after
            any error.

        Examples
        --------
        >>> from cero_alloc import FenchelDualAllocator
        >>> allocator = FenchelDualAllocator(BetaPosteriorBank(2), total_budget=8, n_rounds=4, max_rollouts=4)
        >>> int(allocator.allocate(budget=4, exact=True).sum())
        4
        >>> allocator.refund(None, allocator.outstanding)
        >>> allocator.remaining_budget
        8
        """
        self._take_back("refund", prompt_ids, rollouts, round, delivery_id)

    @locked
    def write_off(
        self,
        prompt_ids: Iterable[Hashable] | None,
        rollouts: npt.ArrayLike,
        *,
        round: SupportsIndex | None = None,
        delivery_id: DeliveryId = None,
    ) -> None:
        """Count rollouts as spent that will never have a reward, such as those whose scoring failed.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts, each once; None names the whole pool in row order.
        rollouts : array_like of int, shape (n_ids,)
            Rollouts, at most what is outstanding, of the round if one is given.
        round : int or None
            Number of the round that dealt them; None takes each prompt's oldest rollouts.
        delivery_id : int, str or None
            Name of this report, as in :meth:`update`.

        Raises
        ------
        KeyError, ValueError, TypeError
            As :meth:`refund`, but for parts of groups, which are fine.

        Examples
        --------
        >>> from cero_alloc.baselines import Uniform
        >>> allocator = Uniform(BetaPosteriorBank(2), total_budget=16, n_rounds=4, max_rollouts=4)
        >>> counts = allocator.allocate()
        >>> allocator.write_off([0], [1])
        >>> allocator.balance
        Balance(total=16, spent=1, reserved=3, left=12)
        """
        self._take_back("write_off", prompt_ids, rollouts, round, delivery_id)

    @locked
    def expire(self, older_than: SupportsIndex | None) -> int:
        """Return to the budget the rollouts that are still outstanding from old rounds; they count as lost.

        The rest of a group of which a part was reported counts as spent. Rollouts that are reported later still are
        evidence, but the budget no longer covers them; ``metrics()["unreserved_rollouts"]`` counts them.

        Parameters
        ----------
        older_than : int, at least 0, or None
            Rounds opened since; 0 spares only the latest round, None spares no round.

        Returns
        -------
        int
            Rollouts returned to the budget.

        Raises
        ------
        TypeError, ValueError
            For a number that is not an integer or negative.

        Examples
        --------
        >>> from cero_alloc.baselines import Uniform
        >>> allocator = Uniform(BetaPosteriorBank(2), total_budget=16, n_rounds=4, max_rollouts=4)
        >>> lost, counts = allocator.allocate(), allocator.allocate()
        >>> allocator.expire(older_than=0), allocator.remaining_budget
        (4, 12)
        """
        age = -1
        if older_than is not None:
            age = integer("older_than", older_than, least=0, remedy="Count the rounds opened since.")
        self._grow()
        _, rollouts = self.ledger.expire(age)
        return int(rollouts.sum())

    @locked
    def metrics(self, *, certificate: bool = True) -> dict[str, float]:
        """Return the run's state as a flat dict of floats, ready for a logger.

        =========================== ==========================================================================
        ``round``                   rounds opened
        ``price``                   price of the run, in [0, 1]: a share of the steepest slope
        ``batch_price``             price that cleared the last round: the same, unless its total was bound
        ``starved``                 sign of their difference: 1 where the round got less than the run's price
                                    would give it, -1 where it was over-funded, 0 else
        ``remaining_budget``        rollouts (or tokens) not dealt
        ``reserved_budget``         rollouts (or tokens) dealt and outstanding
        ``spent_budget``            rollouts (or tokens) reported, or begun and given up
        ``projected_leftover``      rollouts that stay unspent if rounds go on as they did on average
        ``outstanding_rollouts``    rollouts dealt, neither reported, refunded, expired nor written off
        ``unreserved_rollouts``     rollouts reported beyond those outstanding: older logs, or expired before
        ``repeated_deliveries``     deliveries that had come before, and changed nothing
        ``pacing_gap``              rollouts dealt ahead of the uniform schedule
        ``allocating_rounds``       rounds that dealt anything
        ``mixed_group_rate``        share of reported groups with both successes and failures; NaN before the first
        ``calibration_...``         :meth:`Calibration.metrics`: predicted against observed reward variance
        ``certificate_achieved``    utility of the rollouts dealt so far, per prompt, as values stand now
        ``certificate_optimum``     the oracle's best use of the same rollouts, under the same offers and caps
        ``certificate_gap``         duality gap of that optimum
        ``certificate_regret``      optimum + gap - achieved: the regret per prompt is no larger
        =========================== ==========================================================================

        Rules that have no price leave out the first three after ``round``.

        Parameters
        ----------
        certificate : bool
            Whether to solve for the regret certificate, about ten passes over the pool.

        Returns
        -------
        dict of str to float
            The figures above, in the units named there.

        References
        ----------
        Claim 15 of the theory page: what the certificate certifies.

        Examples
        --------
        >>> from cero_alloc import FenchelDualAllocator
        >>> allocator = FenchelDualAllocator(BetaPosteriorBank(2), total_budget=8, n_rounds=2, max_rollouts=4)
        >>> allocator.metrics()["remaining_budget"]
        8.0
        """
        self._grow()
        metrics = run_metrics(self.bank, self.ledger, self.utility, self._prices(), certificate=certificate)
        return metrics | {"repeated_deliveries": float(self._deliveries.repeated)}

    # ------------------------------------------------------------ what a subclass defines

    def _learn(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        """Take feedback that the rule keeps beyond the bank's evidence."""

    def _join(self, old: int, new: int) -> None:
        """Make room for prompts that joined the bank, which had ``old`` of them and has ``new``."""
        raise NotImplementedError

    def _request(self, offer: Offer, budget: Any, exact: bool) -> Any:
        """Return what the round may spend, for :meth:`_propose`; raise on an infeasible request before anything changes."""
        raise NotImplementedError

    def _close(self) -> None:
        """Close the previous round with the evidence as it stands."""

    def _propose(self, offer: Offer, request: Any) -> tuple[IntArray, IntArray]:
        """Return positions among the prompts on offer, and the units that each of them gets."""
        raise NotImplementedError

    def _prices(self) -> tuple[float, float] | None:
        """Return the price of the run and that of the last round; None where the allocator has no price."""
        raise NotImplementedError

    # ------------------------------------------------------------ what allocators share

    def _grow(self) -> None:
        """Make room for prompts that joined the bank."""
        old, new = len(self.ledger.accounts), self.bank.evidence.size
        if new != old:
            self._join(old, new)

    def _offer(self, prompt_ids: Iterable[Hashable] | None) -> Offer:
        """Return the offer that ids name."""
        rows = None if prompt_ids is None else self.bank.index.unique_rows(prompt_ids)
        evidence = self.bank.evidence
        named, retired = evidence.size if rows is None else rows.size, evidence.retired
        if retired is None:
            return Offer(rows, named, None, named)
        places = np.flatnonzero(~(retired if rows is None else retired[rows]))
        if places.size == named:
            return Offer(rows, named, None, named)
        return Offer(places if rows is None else rows[places], places.size, places, named)

    def _round_number(self, number: SupportsIndex | None) -> int | None:
        """Return the checked number of an open round."""
        if number is None:
            return None
        found = integer("round", number, least=1, remedy=_ROUND_REMEDY)
        if found > self.ledger.round:
            condition = f"be one of the {self.ledger.round} rounds so far"
            raise ValueError(error_text("round", condition, found, _ROUND_REMEDY))
        return found

    def _take_back(
        self,
        method: Literal["refund", "write_off"],
        prompt_ids: Iterable[Hashable] | None,
        rollouts: npt.ArrayLike,
        round_: SupportsIndex | None,
        delivery_id: DeliveryId,
    ) -> None:
        """Pass rollouts without a reward to the ledger's method of this name."""
        self._grow()
        rows = self.bank.index.named_rows(prompt_ids)
        n, number = counts("rollouts", rollouts, rows.size), self._round_number(round_)
        receipt = None if delivery_id is None else self._deliveries.receive(method, delivery_id, rows, n)
        if receipt is not None and receipt.repeated:
            return
        getattr(self.ledger, method)(rows, n, self.bank.index.name, number)
        if receipt is not None:
            self._deliveries.keep(receipt)

    @classmethod
    def _from_state(cls, state: State, label: str, **live: Any) -> Self:
        if is_of(state, cls.__name__):
            bank, ledger = state.get("bank"), state.get("ledger")
            planned = ledger.get("horizon", {}).get("n_prompts") if isinstance(ledger, dict) else None
            if not isinstance(bank, dict) or type(planned) is not int:
                raise ValueError(f"{label} must hold a bank and a ledger with its horizon. Pass what save wrote.")
            live["bank"] = empty_bank(BetaPosteriorBank, bank, label, planned)
        return super()._from_state(state, label, **live)

    def _snapshot(self) -> State:
        self._grow()
        return super()._snapshot()

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        self._grow()
        super()._check_state(state, label, size)
