"""Allocator: the template of a round, and the account."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, Self, SupportsIndex

import numpy as np

from cero_alloc._budget.balance import Balance
from cero_alloc._budget.horizon import Horizon
from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._checks import IntArray, integer, warn
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.history import History
from cero_alloc._evidence.kernels import REWARDED
from cero_alloc._evidence.loading import empty_bank
from cero_alloc._evidence.prior import PriorFit
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._saving.saved import locked
from cero_alloc._saving.shown import short
from cero_alloc._saving.state import Field, State, is_of

from .audit import AFTER, Audit, audit
from .feedback import TakesFeedback
from .labels import Labels
from .metrics import run_metrics
from .run_history import RunHistory
from .watch import Watch

_OFFER_REMEDY = "Offer each prompt once, such as list(dict.fromkeys(ids))."
PRIOR_FIT = Field(
    when_set={},
    must=f"hold {', '.join(PriorFit.__slots__)}",
    holds=lambda fit, _: set(fit) == set(PriorFit.__slots__),
    build=PriorFit,
)


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


class Allocator(TakesFeedback):
    """A run over a bank's prompts under one account. A subclass decides in ``_request`` and ``_propose`` what a round deals.

    Feedback may come late, split, out of order, repeatedly under one ``delivery_id``, or never. At all times

        spent + reserved + left = total    (:attr:`balance`)

    Every method that changes or combines something holds :attr:`lock`, so that threads may share an allocator.
    """

    _BUILD: ClassVar[dict[str, Any]] = {"utility": SaturatingUtility}
    FIELDS: ClassVar[dict[str, Field]] = {
        "bank": Field(),
        "ledger": Field(),
        "_deliveries": Field(),
        "_past": Field(older=lambda _: RunHistory().state_dict()),
        "_told": Field(
            must="hold texts", holds=lambda told, _: all(isinstance(cause, str) for cause in told), older=lambda _: ()
        ),
    }
    utility: SaturatingUtility
    prior_fit: PriorFit | None = None  # of the last refit
    _fit_every: int | None = None  # rounds between refits of the bank's prior
    _labels: Labels | None = None
    _retirement: object | None = None

    def __init__(
        self, bank: BetaPosteriorBank, ledger: RolloutLedger, utility: SaturatingUtility, least_units: int = 1
    ) -> None:
        super().__init__(bank, ledger)
        self.utility = utility
        rounds = ledger.n_rounds if ledger.all_offers is None else ledger.n_rounds // len(bank)  # mean visits
        if ledger.total_units < rounds * least_units:
            least = least_units * self.horizon.unit_size
            unit = "one rollout" if least == 1 else f"{least} rollouts"
            warn(
                f"total_budget = {ledger.total} pays for less than {unit} in each of {rounds} rounds, the least that a round "
                f"can deal, so that some deal nothing. It counts all {ledger.costs.word} of the run, not those of a round or of a prompt: "
                "raise it, or lower n_rounds or the least count (unit_size, min_rollouts or rollouts_per_visit)."
            )

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "prompts", str(len(self.bank))
        ledger = self.ledger
        yield "round", f"{ledger.round} of {ledger.n_rounds}" if ledger.all_offers is None else str(ledger.round)
        yield "dealt", f"{short(ledger.dealt)} of {short(ledger.total)} {ledger.costs.word}"
        for name in ("order", "visits", "rollouts_per_visit"):
            if self._given.get(name) is not None:
                yield name, short(self._given[name])

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

        Warns
        -----
        AllocationWarning
            Once for a call after the end of the horizon with the budget of a round or more left, once for one after the end
            of the budget with a tenth of the rounds left, or half of them where no ``budget`` is given, and once for a
            ``budget`` that is smaller than a visit.

        Examples
        --------
        >>> from cero_alloc import FenchelDualAllocator
        >>> allocator = FenchelDualAllocator(BetaPosteriorBank(4), total_budget=8, n_rounds=4, max_rollouts=2)
        >>> int(allocator.allocate(budget=3, exact=True).sum())
        3
        """
        with self.bank.lock:  # without the decorator of the rarer methods, which costs a call
            if self.bank.evidence.size != len(self.ledger.accounts):
                self._grow()
            offer = self._offer(prompt_ids)
            request = self._request(offer, budget, exact)
            if self._fit_every is not None:
                self.bank.evidence.notice_jump()
            if self._retirement is not None:  # the request is feasible: nothing is refused any more
                offer, request = self._rested(offer, request, budget, exact)
            self._close()
            if self._watch is not None:
                self._round_over()
            if self.ledger.finished:
                self._notice_end(budget)
                return np.zeros(offer.named, dtype=np.int64)
            if self._fit_every is not None and self.ledger.round and self.ledger.round % self._fit_every == 0:
                self.prior_fit = self._refit()
            places, units = self._propose(offer, request)
            self.bank.evidence.tick()
            rollouts = self.ledger.open_round(offer.rows, offer.size, places, units)
            self._note(offer.rows, offer.size, places, units)
            if not units.size and budget is not None:
                self._notice_small(budget)
            return offer.in_named_order(rollouts)

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

    @locked
    def audit(self, after: SupportsIndex = AFTER) -> Audit:
        """Return the prompts and labels that never earned anything: too hard, or a fault of the grader.

        Allocation starves such prompts, which hides the fault. Look at their answers before they are dropped. The counts are
        for life, however fast evidence fades, and count every reported rollout with a reward, also late ones and those that
        the bank was given directly. A reward counts as earned if it exceeds the lowest of the reward range.

        Parameters
        ----------
        after : int, from 1 to 65,534
            Reported rollouts from which on a prompt, or all prompts of a label together, are named.

        Returns
        -------
        Audit
            Ids and labels with their rollouts, the most first; retired prompts, too.

        Raises
        ------
        TypeError, ValueError
            For a number that is not an integer or out of range.

        Notes
        -----
        A state that was saved by a version without these counts begins them anew, at 0, for all prompts without a success in
        the evidence left; where beliefs move, for all prompts.

        Examples
        --------
        >>> from cero_alloc.baselines import Uniform
        >>> allocator = Uniform(BetaPosteriorBank(["a", "b"]), total_budget=256, n_rounds=2, max_rollouts=64)
        >>> counts = allocator.allocate()
        >>> allocator.update(None, successes=[0, 7], rollouts=counts)
        >>> allocator.audit()
        Audit(after=64, prompts={'a': 64}, labels={})
        """
        self._grow()
        least = integer("after", after, least=1, most=REWARDED - 1, remedy="Count rollouts.")
        return audit(self.bank, self._labels, least)

    @locked
    def report(self, path: str | os.PathLike[str] | None, *, every: SupportsIndex | None = None) -> None:
        """Write a web page that shows how the run goes: one file, without scripts, that needs no network.

        It shows, first, what was spent and whether the rollouts taught anything; then, over the rounds, the shares of rollouts
        in groups that were all wrong, mixed and all right beside those to expect of uniform; the budget; the estimated success
        rates at the beginning and now; where the rollouts went; and the prompts that were dealt the most, never, or that were
        never right. Where most rollouts are reported alone, without a group, expected reward variance takes the place of
        mixed groups. The file is replaced as a whole: a browser never finds half a page.

        Uniform is what the same rollouts would have given in as many groups of the same mean size, of prompts drawn evenly
        from those on offer, in expectation by the beliefs when they were dealt. A round looks at the beliefs of at most 64
        prompts on offer, every k-th, from another one on in each round. Its shares of all wrong, mixed and all right are
        corrected by how often these came among the groups dealt, over how often the same beliefs expected them. A group is
        what one report says of a prompt. After 512 rounds neighbours are merged, again and again: memory is bounded.

        Parameters
        ----------
        path : path or None
            The file; its folder must exist. None ends what an earlier call with ``every`` began.
        every : int, at least 1, or None
            Write now, and again after every so many rounds: when the next round is dealt, or when all rollouts of the last
            round are reported. None writes once, and leaves an earlier ``every`` as it is.

        Raises
        ------
        OSError
            For a folder that does not exist, or a file that cannot be written.
        TypeError, ValueError
            For anything but a path, and for ``every`` that is not an integer or less than 1; nothing changes after any error.

        Warns
        -----
        AllocationWarning
            By a later round where the file can no longer be written: the page stays as it was, and the run goes on.

        Notes
        -----
        The record of the rounds is part of ``state_dict``; path and ``every`` are not, nor part of copies and pickles. After a
        resume call this again. Writing takes a few passes over the pool.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from cero_alloc import training_allocator
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "run.html"
        >>> allocator = training_allocator(["a", "b", "c"], total_budget=96, n_rounds=4)
        >>> allocator.report(file, every=2)
        >>> for _ in range(4):
        ...     counts = allocator.allocate()
        ...     allocator.update(None, successes=counts // 2, rollouts=counts)
        >>> "Rollouts by outcome of their group" in file.read_text()
        True
        """
        if path is None:
            self._watch = None
            return
        watch = Watch(path, every)
        self._grow()
        watch.write(self._page())
        if watch.every is not None:
            watch.written = self.ledger.round - (self.ledger.reserved > 0)
            self._watch = watch

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
        ``projected_leftover``      rollouts (or tokens) that stay unspent if rounds go on as they did on average
        ``outstanding_rollouts``    rollouts dealt, neither reported, refunded, expired nor written off
        ``unreserved_rollouts``     rollouts reported beyond those outstanding: older logs, or expired before
        ``repeated_deliveries``     deliveries that had come before, and changed nothing
        ``pacing_gap``              rollouts (or tokens) dealt ahead of the uniform schedule
        ``allocating_rounds``       rounds that dealt anything
        ``mixed_group_rate``        share of reported groups with both successes and failures; NaN before the first
        ``never_right``             prompts that never earned anything in 64 rollouts or more: :meth:`audit`
        ``never_right_1``           row in the pool of the one with the most rollouts, ``bank.prompt_ids[row]``; -1: none
        ``never_right_2``           row of the next
        ``never_right_3``           row of the one after that
        ``drift``, ``trend``        how beliefs move, as given or as fitted
        ``prior_alpha``             first parameter of the prior, as given or as fitted; their mean where every
                                    prompt has its own
        ``prior_beta``              likewise the second
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

    def _request(self, offer: Offer, budget: Any, exact: bool) -> Any:
        """Return what the round may spend, for :meth:`_propose`; raise on an infeasible request before anything changes."""
        raise NotImplementedError

    def _close(self) -> None:
        """Close the previous round with the evidence as it stands."""

    def _propose(self, offer: Offer, request: Any) -> tuple[IntArray, IntArray]:
        """Return positions among the prompts on offer, and the units that each of them gets."""
        raise NotImplementedError

    def _rested(self, offer: Offer, request: Any, budget: Any, exact: bool) -> tuple[Offer, Any]:
        """Decide who rests in this round; return the rest of the offer, and what the round may spend on it."""
        raise NotImplementedError

    def _prices(self) -> tuple[float, float] | None:
        """Return the price of the run and that of the last round; None where the allocator has no price."""
        raise NotImplementedError

    # ------------------------------------------------------------ what allocators share

    def _page(self) -> str:
        from .run_page import run_page  # imported on first use, to keep the import of the package short

        metrics = run_metrics(self.bank, self.ledger, self.utility, None, certificate=False)
        name, fit = type(self).__name__, (self._fit_every, self.prior_fit)
        return run_page(name, self.bank, self.ledger, self._past, metrics, fit)

    def _note(self, rows: IntArray | None, size: int, places: IntArray, units: IntArray) -> None:
        """Note for the report what the open round has dealt so far."""
        ledger = self.ledger
        rollouts = units * ledger.horizon.unit_size
        self._past.deal(ledger.round, self.bank.evidence, rows, size, places, rollouts, ledger.funds)

    def _note_waves(self, rows: IntArray, units: IntArray) -> None:
        """Note the same, all waves of the round together; ``units`` are over the rows on offer."""
        places = np.flatnonzero(units > 0)
        self._note(rows, rows.size, places, units[places])

    def _notice_end(self, budget: float | None) -> None:
        """Warn once where the horizon ended with the budget of a round or more left, or the budget long before the horizon."""
        ledger = self.ledger
        left = ledger.remaining_budget
        if budget == 0:
            return
        if ledger.rounds_left > 0:
            share = 2 if budget is None else 10  # without a budget Algorithm 1 may end early, as its prices have it
            if ledger.all_offers is None and ledger.rounds_left >= max(2.0, ledger.n_rounds / share):
                self._tell(
                    "spent",
                    f"allocate deals nothing any more: {ledger.why_finished}. Raise it, or call extend_budget(rollouts=...).",
                )
            return
        if left * ledger.n_rounds < ledger.total:
            return
        pace, remedy = (
            ("rounds", "n_rounds, the calls of allocate, or call extend_budget(rounds=...)")
            if ledger.all_offers is None
            else ("visits", "visits, how often each prompt is offered, or call extend_budget(visits=...)")
        )
        self._tell(
            "end",
            f"allocate deals nothing any more: the {pace} of the run are used up after {ledger.round} rounds, with {left:g} "
            f"of {ledger.total:g} {ledger.costs.word} left. Raise {remedy}.",
        )

    def _notice_small(self, budget: float) -> None:
        """Warn once where a round deals nothing because its budget is smaller than a visit."""
        ledger, least = self.ledger, self._least_visit()
        if 0 < budget < least <= ledger.remaining_budget and ledger.costs.word == "rollouts":
            self._tell(
                "small",
                f"budget = {budget} is less than the {least} rollouts of the smallest visit: the round deals nothing. Raise "
                "it, or lower min_rollouts, rollouts_per_visit or unit_size.",
            )

    def _least_visit(self) -> int:
        """Return the fewest rollouts of a prompt that gets any."""
        return self.horizon.unit_size

    def _fits(self, fit_every: int | None) -> None:
        """Refit the bank's belief in every so many rounds; None never does."""
        self._fit_every = fit_every
        evidence = self.bank.evidence
        if fit_every is not None and evidence.forgetting == 1.0 and evidence.history is None:
            evidence.history = History()

    def _refit(self) -> PriorFit:
        """Refit the bank's belief."""
        return self.bank.evidence.refit(self.horizon.n_rounds)

    def _offer(self, prompt_ids: Iterable[Hashable] | None) -> Offer:
        """Return the offer that ids name."""
        rows = None if prompt_ids is None else self.bank.index.unique_rows(prompt_ids, _OFFER_REMEDY)
        evidence = self.bank.evidence
        named, retired = evidence.size if rows is None else rows.size, evidence.retired
        if retired is not None and evidence.resting is not None and self._retirement is not None:
            retired = retired & (evidence.resting == 0)  # who rests is decided once the offer is checked
        if retired is None:
            return Offer(rows, named, None, named)
        places = np.flatnonzero(~(retired if rows is None else retired[rows]))
        if places.size == named:
            return Offer(rows, named, None, named)
        return Offer(places if rows is None else rows[places], places.size, places, named)

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
