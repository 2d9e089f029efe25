"""ResolvingAllocator: the rest of the run is solved again at every visit, exactly, for one price."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from math import ceil
from typing import Any, ClassVar, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._budget.costs import Window, token_costs
from cero_alloc._budget.horizon import MOST, visits_per_prompt
from cero_alloc._budget.ledger import Pacing
from cero_alloc._budget.opening import open_ledger
from cero_alloc._checks import FloatArray, IntArray, error_text, generator, instance, integer, multiple, real
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._saving.saved import locked
from cero_alloc._saving.state import Field

from .base import PRIOR_FIT, Offer
from .safety import Safeguards
from .strategies import ExposureTables, GroupTables, Plan, Spread, Strategy, Streaming, WholeUnits
from .waves import OPEN_ROUND, OpenWaves, require_open

Signal = Literal["variance", "group"]
Order = Literal["best", "spread"]

_EXPLORATION = 0.4  # posterior standard deviations, where a fitted prior does not overrate what is not known
_PROBE = 4  # rollouts of a first wave: with fewer a mixed prompt often looks dead, with more there is less to decide


class ResolvingAllocator(Safeguards):
    r"""Allocate rollouts at the price that clears the rest of the run, solved again at every call.

    With the values as the bank has them now, exposures :math:`z_i` so far and :math:`w_i` visits to come, the price
    :math:`\lambda` of

    .. math::

        \max_y \sum_i U_i(z_i + y_i) \quad \text{s.t.} \quad 0 \le y_i \le w_i N_{\max}, \; \sum_i y_i \le B_{\text{left}}

    decides this visit: the prompts on offer get the counts in :math:`\{0\} \cup [n_{\min}, N_{\max}]` that maximise

    .. math::

        \sum_j f_j(n_j) - \lambda n_j, \qquad f_j(n) = U_j(z_j + v_j n) / v_j, \quad v_j = 1 + (w_j - 1) / \kappa .

    There is no step size. With known values and visits the total is the offline optimum, in whatever order the visits
    come; with learnt values what remains is the cost of learning.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt. The allocator ticks it once per round, so a bank serves one allocator.
    total_budget : int, or float with ``costs``
        Rollouts over the run, or tokens.
    n_rounds : int or None
        Rounds of the run, K: calls of :meth:`allocate`, which then set the pace; None where ``visits`` alone set the
        horizon.
    visits : int, array_like of int with shape (n_prompts,), or None
        How often each prompt is offered over the run. Round down when unsure: counting too many strands budget. None:
        not known. A round that offers the whole pool then counts as one of ``n_rounds`` such rounds; a round that
        offers less is priced by a multiplicative update, as streaming needs it. Prompts added later take the smallest
        number left.
    unit_size : int
        Rollouts per unit; every count is a multiple of it.
    min_rollouts : int
        Least count other than 0, in rollouts; GRPO needs 2. Above one unit, a prompt's rollouts are spread over no more
        visits than the budget has such groups for.
    max_rollouts : int
        Largest count of one prompt in one round, in rollouts.
    round_capacity : int, or float with ``costs``, or None
        Largest total of one round, in the unit of the budget; None means ``max_rollouts`` for every offered prompt.
    utility : SaturatingUtility
        What exposure is worth.
    signal : {"variance", "group"}
        What is maximised: the utility of exposure, or the expected number of groups with both successes and failures,
        :math:`S(n) = 1 - E[p^n] - E[(1-p)^n]` per visit, which ``utility`` and ``front_load`` have no part in. For rewards
        between 0 and 1 it is multiplied by their variance as a share of that of 0/1 rewards with the same mean.
    costs : float, array_like of float with shape (n_prompts,), or None
        Expected tokens per rollout. Budgets are then in tokens, and caps. Prompts added later take the mean cost.
    front_load : float, at least 1
        :math:`\kappa`: 1 spreads what a prompt is to get over its remaining visits, more brings it forward.
    band : float, at least 0
        Without a ``budget``, a round's total stays within 1 - band and 1 + band of an even pace; inf sets no limit.
    order : {"best", "spread"}
        Which of the optimal plans is followed. "best" deals the most valuable rollouts first, so that with many rounds
        to come the same prompts may be chosen repeatedly; "spread" deals every prompt an even part of its plan, by
        systematic sampling: random counts, 0 or multiples of ``min_rollouts``, whose expectation is the plan.
    coverage : int or None
        With "spread": every prompt is expected to get ``min_rollouts`` at least once in this many of its offers, however
        little the plan gives it, as far as a round's total pays for that. None: no such floor.
    exploration : float, at least 0, or None
        Posterior standard deviations of p(1-p) that are added to the value of a prompt, as far as the belief foresees its
        later visits. With "height" scaling that shifts rollouts to uncertain prompts; with "rate" scaling a larger value
        also saturates sooner. None takes 0.4 where the belief is refitted and the order is "best", else 0: the flat
        prior overrates what it does not know, a fitted one would never look at some prompts again.
    fit_every : int or None
        Rounds between refits of the bank's prior, drift and trend to what was reported, :meth:`BetaPosteriorBank.fit_drift`, or,
        where it forgets, of the prior alone. Reports that contradict all that was known together, as when a run takes up
        another model, then lower the weight of older evidence. None never refits.
    waves : {1, 2}
        2 deals every round in two waves: :meth:`allocate` deals the plan with at most 4 rollouts per prompt, and
        :meth:`continue_round` the rest after their rewards. Better values for the price of latency: the trainer
        generates and scores twice in a row. A round whose least counts cannot make up the rest is dealt at once. Rounds
        cannot overlap: the next :meth:`allocate` ends an open round without its second wave.
    groups : iterable of hashable, length n_prompts, or None
        A label per prompt in row order, such as its data source. With ``fit_every`` each label then gets a prior of its own,
        if the bank forgets. Where it does not, drift and trend are fitted together with one prior, which all labels share.
        Prompts added later: :meth:`add_prompts`.
    floors : mapping of label to float, or None
        Least share of every round's rollouts for a label's prompts on offer, as far as they can take it; in all at most 1.
        Labels below their floor are dealt exactly their floor, the others share the rest. The round's total stays. Shares
        are rounded up to whole units; where a round is too small for all of them, those go first that are furthest behind.
    retire_at : float, in (0, 1], or None
        Posterior mean, as a share of the reward range, from which on a prompt rests, such as 0.9; None retires nobody. As many
        prompts stay as can take the budget left at ``max_rollouts`` per offer, and of those on offer as many as the round's
        exact total needs; the lowest means stay. What the user retires, no allocator brings back.
    retire_after : int
        Rollouts of evidence, as they have faded, that a prompt needs before it rests.
    review : int or None
        Rounds until a prompt that rests comes back, because about a fifth of solved prompts come back unsolved; None takes
        a tenth of ``n_rounds``. Its evidence is then cut to half of ``retire_after``, so that the rest must be new.
    seed : int, numpy.random.Generator or SeedSequence
        Draws the permutation that breaks ties, and with "spread" the counts of every round.

    Raises
    ------
    ValueError
        For sizes out of range, rollouts that are not whole units, neither rounds nor visits, or a budget that cannot
        be spent; for "spread" with costs that differ or the group signal, a coverage without "spread" or beyond the
        budget, floors without groups or with costs that differ, and a review that nothing sets.
    TypeError
        For sizes that are not integers, and groups that are not labels in an order.

    Notes
    -----
    Where ``visits`` are given and single units of equal cost are dealt, an offer of some prompts is planned from what
    changed since the last call, with only occasional passes over the pool; counts and prices equal those of a new plan
    to the last bit. Every other call passes over the pool: with ``costs``, with ``min_rollouts`` above one unit,
    with ``signal="group"``, with ``order="spread"``, where the bank forgets, and where the whole pool is on offer.

    With "spread" a prompt's count is its expectation rounded down or up to multiples of ``min_rollouts``. The total is
    that of the plan, or the requested one; the remainder goes to prompts with a count above 0. No price
    clears such a round: its ``batch_price`` is the run's. Where a part of the pool is offered and
    ``visits`` are not given, every round to come is expected to offer as large a part. A coverage
    c holds in expectation and draw by draw: whatever came before, a prompt on offer is skipped with probability
    at most 1 - 1/c, and j times in a row with at most (1 - 1/c)^j.

    References
    ----------
    Theorem 3 and Claims 11 to 14, 20, 21 and 29 to 31 of the theory page.

    Examples
    --------
    >>> bank = BetaPosteriorBank(["easy", "middle", "hard"])
    >>> allocator = ResolvingAllocator(bank, total_budget=48, visits=2, min_rollouts=2, max_rollouts=16)
    >>> counts = allocator.allocate()
    >>> counts.tolist()
    [8, 8, 8]
    >>> allocator.update(None, successes=[8, 4, 0], rollouts=counts)
    >>> allocator.allocate().tolist()
    [5, 14, 5]

    Pairs for half of the prompts in every round: "best" repeats the better ones until they are worth less, "spread" mixes.

    >>> bank = BetaPosteriorBank(6)
    >>> bank.update(None, successes=[5, 5, 5, 1, 1, 1], rollouts=[10] * 6)
    >>> run = {"total_budget": 72, "n_rounds": 12, "min_rollouts": 2, "max_rollouts": 8}
    >>> best, even = (ResolvingAllocator(bank, **run, order=order) for order in ("best", "spread"))
    >>> [best.allocate().tolist() for _ in range(3)]
    [[2, 2, 2, 0, 0, 0], [2, 2, 2, 0, 0, 0], [2, 2, 2, 0, 0, 0]]
    >>> [even.allocate().tolist() for _ in range(3)]
    [[2, 2, 0, 0, 2, 0], [2, 0, 0, 2, 2, 0], [2, 2, 2, 0, 0, 0]]
    """

    FIELDS: ClassVar[dict[str, Field]] = {
        **Safeguards.FIELDS,
        "_rng": Field(),
        "_plan": Field(),
        "_batch_price": Field(must="be a number", holds=lambda price, _: not np.isnan(price)),
        "prior_fit": PRIOR_FIT,
        "_round": OPEN_ROUND,
    }

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        total_budget: float,
        n_rounds: SupportsIndex | None = None,
        visits: npt.ArrayLike | None = None,
        unit_size: SupportsIndex = 1,
        min_rollouts: SupportsIndex = 0,
        max_rollouts: SupportsIndex,
        round_capacity: float | None = None,
        utility: SaturatingUtility = SaturatingUtility(),  # noqa: B008 (immutable)
        signal: Signal = "variance",
        costs: npt.ArrayLike | None = None,
        front_load: float = 1.0,
        band: float = 0.25,
        order: Order = "best",
        coverage: SupportsIndex | None = None,
        exploration: float | None = None,
        fit_every: SupportsIndex | None = None,
        waves: SupportsIndex = 1,
        groups: Iterable[Hashable] | None = None,
        floors: Mapping[Any, float] | None = None,
        retire_at: float | None = None,
        retire_after: SupportsIndex = 16,
        review: SupportsIndex | None = None,
        seed: int | np.random.Generator | np.random.SeedSequence = 0,
    ) -> None:
        rounds = (
            None if n_rounds is None else integer("n_rounds", n_rounds, least=1, most=MOST, remedy="Count the calls.")
        )
        if rounds is None and visits is None:
            raise ValueError(
                "visits or n_rounds must be given, got neither. Pass visits, how often each prompt is offered over the run "
                "(the epochs of a loader), or n_rounds, the calls of allocate."
            )
        size = len(instance("bank", bank, BetaPosteriorBank, "Build one over the prompts."))
        instance("utility", utility, SaturatingUtility, "Pass SaturatingUtility(...).")
        g = integer("unit_size", unit_size, least=1, remedy="Count from 1.")
        planned = None if visits is None else np.array(np.broadcast_to(visits_per_prompt(visits, size, rounds), size))
        tokens = np.inf
        if costs is not None and round_capacity is not None:
            tokens = real("round_capacity", round_capacity, low=0.0, high=np.inf, remedy="Count tokens.")
        ledger = open_ledger(
            size,
            total_budget=total_budget,
            n_rounds=rounds,
            visits=planned,
            unit_size=g,
            max_rollouts=max_rollouts,
            round_capacity=round_capacity,
            unit_costs=None if costs is None else g * token_costs(costs, size),
        )
        min_units = multiple("min_rollouts", min_rollouts, g, least=0) // g
        if min_units > ledger.horizon.max_units:
            condition = f"be at most max_rollouts = {ledger.horizon.max_rollouts}"
            raise ValueError(error_text("min_rollouts", condition, min_units * g, "Lower it."))
        super().__init__(bank, ledger, utility, max(1, min_units))
        if np.ndim(band) or band != np.inf:
            band = real("band", band, low=0.0, high=np.inf, remedy="Take 0.25, or inf.")
        self._pacing = Pacing(self.ledger, min_units, band, tokens, by_rounds=rounds is not None)
        if np.ndim(signal) or signal not in ("variance", "group"):
            raise ValueError(error_text("signal", "be 'variance' or 'group'", signal, "Correct the spelling."))
        if np.ndim(order) or order not in ("best", "spread"):
            raise ValueError(error_text("order", "be 'best' or 'spread'", order, "Correct the spelling."))
        group, costly = signal == "group", not self.ledger.costs.in_units
        for what, given in (("costs that differ", costly), ("signal = 'group'", group)):
            if order == "spread" and given:
                raise ValueError(error_text("order", f"be 'best' with {what}", order, "Leave out one of the two."))
        least = 0.0 if coverage is None else 1.0 / self._checked_coverage(coverage, order, min_units, planned)
        front_load = real("front_load", front_load, low=1.0, high=np.inf, remedy="1 spreads, 2 front-loads.")
        if exploration is None:
            exploration = _EXPLORATION if fit_every is not None and order == "best" else 0.0
        bonus = real("exploration", exploration, low=0.0, high=np.inf, remedy="Count posterior standard deviations.")
        refits = None if fit_every is None else integer("fit_every", fit_every, least=1, remedy="Or None.")
        self._rng = generator(seed)
        self._plan = Plan(
            bank,
            self.ledger,
            utility,
            visits=planned,
            min_units=min_units,
            front_load=front_load,
            exploration=bonus,
            rng=self._rng,
        )
        tables = GroupTables(self._plan) if group else ExposureTables(self._plan)
        self._strategy: Strategy = tables
        if order == "spread":
            self._strategy = Spread(self._plan, least, self._rng)
        elif not group and min_units <= 1 and not costly:
            self._strategy = WholeUnits(self._plan)
        # A part of the pool whose visits are not known is priced as a stream; "spread" expects as large a part in every round.
        self._streaming = None if order == "spread" else Streaming(tables, self._pacing)
        self._probe = self._probes(integer("waves", waves, least=1, most=2, remedy="Take 1 or 2."), order, signal)
        self._round: OpenWaves | None = None
        self._group = group
        self._batch_price = 0.0
        self._remember(
            total_budget=total_budget,
            n_rounds=n_rounds,
            visits=visits,
            unit_size=unit_size,
            min_rollouts=min_rollouts,
            max_rollouts=max_rollouts,
            round_capacity=round_capacity,
            utility=utility,
            signal=signal,
            costs=costs,
            front_load=front_load,
            band=band,
            order=order,
            coverage=coverage,
            exploration=exploration,
            fit_every=fit_every,
            waves=waves,
        )
        if self._probe and floors is not None:
            remedy = "Floors hold for the total of a round, which two waves only know at its end."
            raise ValueError(error_text("floors", "be None with waves = 2", floors, remedy))
        self._guard(groups, floors, retire_at, retire_after, review, rounds)
        self._fits(refits)  # last: it changes the bank, which an error must not

    @property
    def min_rollouts(self) -> int:
        """Fewest rollouts of a prompt that gets any."""
        return max(1, self._pacing.min_units) * self.horizon.unit_size

    @property
    def price(self) -> float:
        """Price of the run as of the last round, as a share of the steepest possible slope; see :meth:`metrics`."""
        return self._plan.price * self._price_unit

    @locked
    def extend_budget(
        self, rollouts: float = 0, *, rounds: SupportsIndex = 0, visits: npt.ArrayLike | None = None
    ) -> None:
        """Change the plan of the rest of the run: more budget, or less, more rounds, other visits.

        The next call solves the rest of the changed run. The equal share, on which utilities are scaled, stays that of the run
        as it was planned.

        Parameters
        ----------
        rollouts : int, or float with ``costs``
            Rollouts or tokens to add; negative to take away what is not dealt.
        rounds : int, at least 0
            Rounds to add, where rounds set the pace.
        visits : int, array_like of int with shape (n_prompts,), or None
            How often each prompt is offered from now on; None for what is left of the visits so far.

        Raises
        ------
        ValueError
            For a budget that is dealt already or that what is left of the run cannot spend, for visits where the
            constructor had none or out of range, and for rounds where visits alone set the horizon; nothing changes after
            any error.
        TypeError
            For numbers that are not integers.

        References
        ----------
        Theorem 3 of the theory page holds from any exposure and for any budget left.

        Examples
        --------
        >>> allocator = ResolvingAllocator(BetaPosteriorBank(2), total_budget=8, visits=1, max_rollouts=8)
        >>> counts = allocator.allocate()
        >>> allocator.extend_budget(8, visits=2)
        >>> allocator.allocate().tolist(), allocator.allocate().tolist()
        ([2, 2], [2, 2])
        """
        self._grow()
        ledger = self.ledger
        more, added = ledger.checked_extension(rollouts, rounds)
        by_rounds = self._pacing.by_rounds
        if added and not by_rounds:
            remedy = "Give visits: they set the horizon here."
            raise ValueError(error_text("rounds", "be 0 without n_rounds", added, remedy))
        left, to_come = self._plan.left, 0.0
        if visits is not None and left is None:
            remedy = "Leave them out: rounds set the horizon here."
            raise ValueError(error_text("visits", "be None where the constructor had none", visits, remedy))
        if left is not None:
            size, rounds_left = len(self.bank), ledger.rounds_left + added if by_rounds else None
            left = np.maximum(left, 0.0)
            if visits is not None:
                left = np.array(np.broadcast_to(visits_per_prompt(visits, size, rounds_left), size))
                if self._round is not None and self._round.wave == 1:  # its visit counts when it ends
                    left[self._round.rows] += 1.0
            to_come = ledger.costs.of_visits(left)
            if not by_rounds:
                added = ledger.round + int(left.sum()) - ledger.n_rounds
        ledger.require_spendable(more, self._most(left, to_come, ledger.rounds_left + added))
        self._plan.left = left
        ledger.extend(more, added, to_come)
        self._plan.forget()

    def _checked_coverage(
        self, coverage: SupportsIndex, order: Order, min_units: int, visits: FloatArray | None
    ) -> int:
        """Return the coverage, refused without "spread" or where the budget does not pay for it."""
        if order != "spread":
            remedy = "Pass order='spread', which deals by expectation."
            raise ValueError(error_text("coverage", "be None with order = 'best'", coverage, remedy))
        offers = integer("coverage", coverage, least=1, remedy="Count the offers within which a prompt is dealt some.")
        h, quantum = self.horizon, max(1, min_units)
        all_offers = float(h.n_prompts * h.n_rounds) if visits is None else float(visits.sum())
        if all_offers * quantum > offers * h.budget_units:
            condition = f"be at least {ceil(all_offers * quantum / h.budget_units)}"
            remedy = (
                f"{quantum * h.unit_size} rollouts in every {offers} of {all_offers:g} offers are more than the run's "
                f"{h.total_budget}: raise it, or the budget."
            )
            raise ValueError(error_text("coverage", condition, offers, remedy))
        return offers

    def _request(self, offer: Offer, budget: float | None, exact: bool) -> Window:
        """Return the least and the most that the round may spend."""
        plan, left = self._plan, None
        plan.check_retirements()
        if plan.left is not None:
            in_units = self.ledger.costs.in_units
            left = np.array([plan.offers_to_come(offer.selector)]) if in_units else plan.visits_left(offer.rows)
        return self._pacing.window(offer.rows, offer.size, left, budget, exact)

    def _propose(self, offer: Offer, request: Window) -> tuple[IntArray, IntArray]:
        """Deal the visit at the price of the rest of the run."""
        units = self._dealt(offer.rows, offer.size, request)
        if self._probe:
            units = self._open(offer, units, request)
        if self._round is None:
            self._plan.visited(offer.selector)
        places = np.flatnonzero(units > 0)
        return places, units[places]

    def _dealt(self, rows: IntArray | None, size: int, window: Window, *, taken: int = 0) -> IntArray:
        """Return the units of the prompts on offer within a window, below the cap by those ``taken`` in the first wave."""
        plan, streaming = self._plan, self._streaming
        strategy = self._strategy if streaming is None or self._knows(size) else streaming
        plan.offered, plan.most = max(1, size), plan.max_units - taken
        try:
            units, self._batch_price = strategy.deal(rows, *window)
        finally:  # an interrupted second wave must not shorten the visits of later rounds
            plan.most = plan.max_units
        return units

    def _probes(self, waves: int, order: Order, signal: Signal) -> int:
        """Return the most units of a prompt in the first wave; 0 where a round has one wave."""
        if waves == 1:
            return 0
        if order == "spread":
            remedy = "Its counts do not depend on the rewards of a round."
            raise ValueError(error_text("order", "be 'best' with waves = 2", order, remedy))
        if signal == "group":
            raise ValueError(error_text("signal", "be 'variance' with waves = 2", signal, "It values whole groups."))
        h = self.horizon
        probe = max(1, self._pacing.min_units, -(-_PROBE // h.unit_size))
        if probe + self._pacing.min_units > h.max_units or probe == h.max_units:
            condition = f"be more than the {probe * h.unit_size} rollouts of a first wave"
            raise ValueError(error_text("max_rollouts", condition, h.max_rollouts, "Raise it, or take waves = 1."))
        return probe

    def _open(self, offer: Offer, planned: IntArray, request: Window) -> IntArray:
        """Return the first wave of a planned round, and remember what the round may still deal after it."""
        units = np.minimum(planned, self._probe)
        if not units.any():
            return units
        rows = np.arange(offer.size) if offer.rows is None else offer.rows
        ascending = np.argsort(rows)
        order = ascending if offer.places is None else offer.places[ascending]
        spent = self.ledger.costs.of_units(rows, units, int(units.sum()))
        low, high = (max(0.0, end - spent) for end in request)
        fewest = -(-low // (self.horizon.max_units - self._probe))  # prompts for what the second wave must deal
        no_total = self.ledger.costs.in_units and fewest * self._pacing.min_units > high
        if no_total:  # no counts of the second wave add up to it: deal all at once
            units, low, high = planned, 0.0, 0.0
        self._round = OpenWaves.start(rows[ascending], order, offer.named, 0)
        self._round.least, self._round.most = low, high
        self._round.last, self._round.wave = units[ascending], 1
        return units

    def _close(self) -> None:
        """Let go of a round whose second wave was not asked for."""
        if self._round is not None and self._round.wave == 1:
            self._plan.visited(self._round.rows)
        self._round = None

    @locked
    def continue_round(self, counts: npt.ArrayLike, successes: npt.ArrayLike) -> IntArray:
        """Deal the second wave of the open round, after the rewards of the first.

        Parameters
        ----------
        counts : array_like of int, shape (n_offered,)
            Rewarded rollouts of the first wave, at most the rollouts dealt, in the order of the round's ids.
        successes : array_like of float, shape (n_offered,)
            Sum of their rewards. The bank learns from :meth:`update` or :meth:`observe`, which come first.

        Returns
        -------
        numpy.ndarray of int64, shape (n_offered,)
            Rollouts per prompt of the second wave, on top of the first. All zeros end the round.

        Raises
        ------
        ValueError
            With ``waves=2`` and no open round, or for counts that do not fit the first wave; nothing has changed.
        TypeError
            For counts or successes in a set, which has no order.

        References
        ----------
        Claim 31 of the theory page.

        Examples
        --------
        >>> bank = BetaPosteriorBank(["easy", "middle", "hard"])
        >>> allocator = ResolvingAllocator(
        ...     bank, total_budget=48, n_rounds=2, min_rollouts=2, max_rollouts=16, waves=2
        ... )
        >>> first = allocator.allocate(budget=24, exact=True)
        >>> allocator.update(None, successes=[4, 2, 0], rollouts=first)
        >>> first.tolist(), allocator.continue_round(first, successes=[4, 2, 0]).tolist()
        ([4, 4, 4], [2, 7, 3])
        """
        if not self._probe:
            return np.zeros(np.size(counts), dtype=np.int64)
        self._grow()
        opened = require_open(self._round)
        opened.reported(self.bank.rewards, counts, successes, self.horizon.unit_size)
        units = np.zeros_like(opened.last)
        if opened.wave == 1:
            evidence, ledger = self.bank.evidence, self.ledger
            evidence.notice_jump()
            self._plan.check_retirements()
            on = slice(None) if evidence.retired is None else ~evidence.retired[opened.rows]  # retired since it began
            rows = opened.rows[on]
            reach = (self.horizon.max_units - self._probe) * ledger.costs.of_offer(rows, rows.size)
            low, high = (min(end, ledger.funds, reach) for end in (opened.least, opened.most))
            if high > 0.0:
                whole = rows.size == evidence.size
                units[on] = self._dealt(None if whole else rows, rows.size, (low, high), taken=self._probe)
            self._plan.visited(opened.rows)
            ledger.top_up(opened.rows, units)
            self._note_waves(opened.rows, opened.last + units)
            opened.last, opened.wave = units, 2
        if not units.any():
            self._round = None
        answer = np.zeros(opened.named, dtype=np.int64)
        answer[opened.order] = units * self.horizon.unit_size
        return answer

    def _least_visit(self) -> int:
        return self.min_rollouts

    def _knows(self, n_offered: int) -> bool:
        """Tell whether the visits to come are known: they were given, or the whole pool is on offer in every round."""
        return self._plan.left is not None or n_offered == self.bank.evidence.n_active

    def _most(self, left: FloatArray | None, to_come: float, rounds: int) -> float:
        """Return the largest budget that so many rounds, and offers to come at one unit each, can spend."""
        ledger, h = self.ledger, self.horizon
        most = h.max_units * (rounds * ledger.costs.of_offer(None, len(self.bank)) if left is None else to_come)
        if not ledger.costs.in_units:
            return min(most, rounds * self._pacing.capacity)
        if self._pacing.by_rounds:
            most = min(most, rounds * h.capacity_units)
        return ledger.costs.budget_of(most)

    def _prices(self) -> tuple[float, float]:
        return self.price, self._batch_price * self._price_unit

    @property
    def _price_unit(self) -> float:
        """Factor from a price of the solvers to the published one."""
        mean_cost = self.ledger.costs.mean
        if self._group:
            return mean_cost / self.horizon.unit_size
        return mean_cost * self.horizon.equal_share_units / self.utility.saturation

    def _join(self, old: int, new: int) -> None:
        super()._join(old, new)
        self._plan.grow(new, self._rng)
        self.ledger.grow(new)
