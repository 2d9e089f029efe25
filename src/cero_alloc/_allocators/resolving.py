"""ResolvingAllocator: the rest of the run is solved again at every visit, exactly, for one price."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from math import ceil, exp, sqrt
from typing import Any, ClassVar, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._budget.horizon import visits_per_prompt
from cero_alloc._budget.pacing import Pacing, open_ledger, token_costs
from cero_alloc._checks import FloatArray, IntArray, error_text, generator, instance, integer, multiple, real
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.ids import tie_ranks
from cero_alloc._objective import kernels
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._saving.saved import locked
from cero_alloc._saving.state import require
from cero_alloc._solvers.remaining import Clearing, Remaining
from cero_alloc._solvers.running import RunningPlan
from cero_alloc._solvers.sampling import deal_evenly, round_total
from cero_alloc._solvers.tables import BatchSolution, solve_batch
from cero_alloc._solvers.units import NO_UNITS, Units
from cero_alloc._solvers.visit import solve_visit

from .base import RolloutRun, spread
from .gains import Scores

Signal = Literal["variance", "group"]
Order = Literal["best", "spread"]

_STREAM_STEP = 0.5  # of the multiplicative price
_ONE = np.ones(1)


class ResolvingAllocator(RolloutRun):
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
        Rounds of the run, K: calls of :meth:`allocate`, which then set the pace; None where ``visits`` alone tell the
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
        :math:`S(n) = 1 - E[p^n] - E[(1-p)^n]` per visit, which ``utility`` and ``front_load`` have no part in.
    costs : float, array_like of float with shape (n_prompts,), or None
        Expected tokens per rollout. Budgets are then in tokens, and caps. Prompts added later take the mean cost.
    front_load : float, at least 1
        :math:`\kappa`: 1 spreads what a prompt is to get over its remaining visits, more brings it forward.
    band : float, at least 0
        Without a ``budget``, a round's total stays within 1 - band and 1 + band of an even pace; inf lets it be.
    order : {"best", "spread"}
        Which of the optimal plans is followed. "best" deals what is worth most first, so that with many rounds to come
        the same prompts may come again and again; "spread" deals every prompt an even part of what it is to get, by
        systematic sampling: random counts of 0 and ``min_rollouts`` or its multiples, in expectation on plan.
    coverage : int or None
        With "spread": every prompt is expected to get ``min_rollouts`` at least once in so many of its offers, however
        little the plan gives it, as far as a round's total pays for that. None: no such floor.
    exploration : float, at least 0
        Posterior standard deviations of p(1-p) that are added to the value of a prompt. With "height" scaling that
        shifts rollouts to uncertain prompts; with "rate" scaling a larger value also saturates sooner.
    fit_every : int or None
        Rounds between refits of the bank's prior to the pool, :meth:`BetaPosteriorBank.fit_prior`; None never refits.
    seed : int, numpy.random.Generator or SeedSequence
        Draws the permutation that breaks ties, and with "spread" the counts of every round.

    Raises
    ------
    ValueError
        For sizes out of range, rollouts that are not whole groups, neither rounds nor visits, or a budget that cannot
        be spent; for "spread" with costs that differ or the group signal, and a coverage without "spread" or beyond the
        budget.
    TypeError
        For sizes that are not integers.

    Notes
    -----
    Where ``visits`` are told and single units of equal cost are dealt, an offer of some prompts is planned from what
    changed since the last call, and the pool is passed over only now and then; counts and prices are those of a plan made
    afresh, to the last bit. Every other call passes over the pool: with ``costs``, with ``min_rollouts`` above one unit,
    with ``signal="group"``, with ``order="spread"``, where the bank forgets, and where the whole pool is on offer.

    With "spread" a prompt's count is its expectation rounded down or up to multiples of ``min_rollouts``. The total is
    that of the plan, or the one asked for; what does not fill such a multiple goes to prompts that got some. No price
    clears such a round: its ``batch_price`` is the run's. Visits have to be told where a part of the pool is offered. A coverage
    c holds in expectation and draw by draw: whatever came before, a prompt on offer is passed over with probability
    1 - 1/c at most, and j times in a row with (1 - 1/c)^j.

    References
    ----------
    Theorem 3 and Claims 11 to 14, 20 and 21 of the theory page.

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

    Pairs for half of the prompts in every round: always the better ones until they are worth less, or a mixed batch.

    >>> bank = BetaPosteriorBank(6)
    >>> bank.update(None, successes=[5, 5, 5, 1, 1, 1], rollouts=[10] * 6)
    >>> run = {"total_budget": 72, "n_rounds": 12, "min_rollouts": 2, "max_rollouts": 8}
    >>> best, even = (ResolvingAllocator(bank, **run, order=order) for order in ("best", "spread"))
    >>> [best.allocate().tolist() for _ in range(3)]
    [[2, 2, 2, 0, 0, 0], [2, 2, 2, 0, 0, 0], [2, 2, 2, 0, 0, 0]]
    >>> [even.allocate().tolist() for _ in range(3)]
    [[2, 2, 0, 0, 2, 0], [2, 0, 0, 2, 2, 0], [2, 2, 2, 0, 0, 0]]
    """

    _OPTIONAL: ClassVar[tuple[str, ...]] = ("prior_fit",)
    _PER_PROMPT: ClassVar[tuple[str, ...]] = ("_tie", "_left")
    _STATE: ClassVar[tuple[str, ...]] = (
        "bank",
        "ledger",
        "_rng",
        "_tie",
        "_left",
        "_price",
        "_batch_price",
        "prior_fit",
    )

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
        exploration: float = 0.0,
        fit_every: SupportsIndex | None = None,
        seed: int | np.random.Generator | np.random.SeedSequence = 0,
    ) -> None:
        rounds = (
            None if n_rounds is None else integer("n_rounds", n_rounds, least=1, most=2**62, remedy="Count the calls.")
        )
        if rounds is None and visits is None:
            raise ValueError(
                "n_rounds must be given where visits are not, got n_rounds = None. Count the calls of allocate, or say "
                "how often each prompt is offered."
            )
        size = len(instance("bank", bank, BetaPosteriorBank, "Build one over the prompts."))
        instance("utility", utility, SaturatingUtility, "Pass SaturatingUtility(...).")
        g = integer("unit_size", unit_size, least=1, remedy="Count from 1.")
        planned = None if visits is None else np.array(np.broadcast_to(visits_per_prompt(visits, size, rounds), size))
        self._left: FloatArray | None = planned  # offers to come per prompt; None: not known
        tokens = np.inf
        if costs is not None and round_capacity is not None:
            tokens = real("round_capacity", round_capacity, low=0.0, high=np.inf, remedy="Count tokens.")
        self.ledger = open_ledger(
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
        if min_units > self.horizon.max_units:
            condition = f"be at most max_rollouts = {self.horizon.max_rollouts}"
            raise ValueError(error_text("min_rollouts", condition, min_units * g, "Lower it."))
        if np.ndim(band) or band != np.inf:
            band = real("band", band, low=0.0, high=np.inf, remedy="Take 0.25, or inf.")
        self._pacing = Pacing(self.ledger, min_units, band, tokens, by_rounds=rounds is not None)
        if np.ndim(signal) or signal not in ("variance", "group"):
            raise ValueError(error_text("signal", "be 'variance' or 'group'", signal, "Correct the spelling."))
        self._group = signal == "group"
        if np.ndim(order) or order not in ("best", "spread"):
            raise ValueError(error_text("order", "be 'best' or 'spread'", order, "Correct the spelling."))
        for what, given in (("costs that differ", self._costs is not None), ("signal = 'group'", self._group)):
            if order == "spread" and given:
                raise ValueError(error_text("order", f"be 'best' with {what}", order, "Leave out one of the two."))
        self._even = order == "spread"
        self._least = 0.0 if coverage is None else 1.0 / self._checked_coverage(coverage)
        self._front_load = real("front_load", front_load, low=1.0, high=np.inf, remedy="1 spreads, 2 front-loads.")
        bonus = real("exploration", exploration, low=0.0, high=np.inf, remedy="Count posterior standard deviations.")
        self._scores = Scores(bank, self.horizon, utility, bonus)
        self._fit_every = None if fit_every is None else integer("fit_every", fit_every, least=1, remedy="Or None.")
        self.bank = bank
        self.utility = utility
        self._rng = generator(seed)
        self._tie = tie_ranks(self._rng, size)
        self._forget_plan()
        self._seen = -1  # version of the journal at which the running plan last looked
        self._price = 0.0  # last clearing price, utility per unit or token; 0: none yet
        self._batch_price = 0.0

    @property
    def min_rollouts(self) -> int:
        """Fewest rollouts of a prompt that gets any."""
        return max(1, self._pacing.min_units) * self.horizon.unit_size

    @property
    def price(self) -> float:
        """Price of the run as of the last round, as a share of the steepest possible slope; see :meth:`metrics`."""
        return self._price * self._price_unit

    @locked
    def allocate(
        self, prompt_ids: Iterable[Hashable] | None = None, budget: float | None = None, *, exact: bool = False
    ) -> IntArray:
        """Solve the rest of the run for its price, and deal this round at it.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts on offer, each once; None offers the whole pool in row order.
        budget : int or None, or float with ``costs``
            Cap of this round, in rollouts or tokens; None keeps the round within the band around an even pace.
        exact : bool
            Spend exactly ``budget``. With ``costs`` only where all prompts cost the same.

        Returns
        -------
        numpy.ndarray of int64, shape (n_offered,)
            Rollouts per prompt in the order of ``prompt_ids``, multiples of ``unit_size`` in {0} u [min_rollouts,
            max_rollouts]. All zeros once the horizon is over or the budget is gone.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError
            For a repeated id, a negative budget, or an exact total that is not feasible; the message names what is.
            With "spread", for a part of the pool where visits are not told.
        TypeError
            For a budget that is not an integer, or with ``costs`` not a number.

        Examples
        --------
        >>> bank = BetaPosteriorBank(4)
        >>> allocator = ResolvingAllocator(bank, total_budget=32, visits=4, min_rollouts=2, max_rollouts=4)
        >>> int(allocator.allocate([0, 1, 2], budget=7, exact=True).sum())
        7
        """
        self._grow()
        rows, size, places, named = self._on_offer(prompt_ids)
        if self._retirements != self.bank.evidence.retirements:
            self._forget_plan()
        known = self._left is not None or size == self.bank.evidence.n_active
        left = None
        if self._left is not None:
            offered = slice(None) if rows is None else rows
            left = self._visits_left(rows) if self._costs is not None else np.array([self._offers_to_come(offered)])
        if self._even and not known and size:
            raise ValueError(
                f"prompt_ids must name the whole pool where visits are not told and order is 'spread', got {size} of "
                f"{self.bank.evidence.n_active} prompts. Pass visits=, how often each prompt is offered, or order='best'."
            )
        low, high = self._pacing.window(rows, size, left, budget, exact)
        if self.ledger.finished:
            return np.zeros(named, dtype=np.int64)
        self._refit()
        if self._even:
            solution = self._deal_evenly(rows, low, high)
        elif known:
            solution = self._resolve(rows, low, high)
        else:
            assert rows is not None
            solution = self._stream(rows, low, high)
        self._batch_price = solution.price
        if self._left is not None:
            if self._to_come is not None:
                self._to_come -= np.count_nonzero(self._left[offered] > 0.0)
            self._left[offered] -= 1.0
        self.bank.evidence.journal.note(rows)
        self.bank.evidence.tick()
        return spread(self.ledger.debit(rows, solution.units), places, named)

    @locked
    def extend_budget(
        self, rollouts: float = 0, *, rounds: SupportsIndex = 0, visits: npt.ArrayLike | None = None
    ) -> None:
        """Change the plan of the rest of the run: more budget, or less, more rounds, other visits.

        The next call solves the rest as it then is. The equal share, on which utilities are scaled, stays that of the run
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
            constructor had none or out of range, and for rounds where visits alone tell the horizon; nothing changes after
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
            remedy = "Give visits: they tell the horizon here."
            raise ValueError(error_text("rounds", "be 0 without n_rounds", added, remedy))
        left, to_come = self._left, 0.0
        if visits is not None and left is None:
            remedy = "Leave them out: rounds tell the horizon here."
            raise ValueError(error_text("visits", "be None where the constructor had none", visits, remedy))
        if left is not None:
            size, rounds_left = len(self.bank), ledger.rounds_left + added if by_rounds else None
            left = np.maximum(left, 0.0)
            if visits is not None:
                left = np.array(np.broadcast_to(visits_per_prompt(visits, size, rounds_left), size))
            to_come = float(((1.0 if self._costs is None else self._costs) * left).sum())
            if not by_rounds:
                added = ledger.round + int(left.sum()) - ledger.n_rounds
        ledger.require_spendable(more, self._most(left, to_come, ledger.rounds_left + added))
        self._left = left
        ledger.extend(more, added, to_come)
        self._forget_plan()

    def _checked_coverage(self, coverage: SupportsIndex) -> int:
        """Return the coverage, refused where nobody spreads or the budget does not pay for it."""
        if not self._even:
            remedy = "Pass order='spread', which deals by expectation."
            raise ValueError(error_text("coverage", "be None with order = 'best'", coverage, remedy))
        offers = integer("coverage", coverage, least=1, remedy="Count the offers within which a prompt is dealt some.")
        h, quantum = self.horizon, max(1, self._pacing.min_units)
        all_offers = float(h.n_prompts * h.n_rounds) if self._left is None else float(self._left.sum())
        if all_offers * quantum > offers * h.budget_units:
            condition = f"be at least {ceil(all_offers * quantum / h.budget_units)}"
            remedy = (
                f"{quantum * h.unit_size} rollouts in every {offers} of {all_offers:g} offers are more than the run's "
                f"{h.total_budget}: raise it, or the budget."
            )
            raise ValueError(error_text("coverage", condition, offers, remedy))
        return offers

    def _most(self, left: FloatArray | None, to_come: float, rounds: int) -> float:
        """Return the largest budget that so many rounds, and offers to come at one unit each, can spend."""
        ledger, h = self.ledger, self.horizon
        pool = float(len(self.bank)) if self._costs is None else float(self._costs.sum())
        most = h.max_units * (rounds * pool if left is None else to_come)
        if self._costs is not None:
            return min(most, rounds * self._pacing.capacity)
        if self._pacing.by_rounds:
            most = min(most, rounds * h.capacity_units)
        return most * (h.unit_size if ledger.tokens_per_unit is None else ledger.tokens_per_unit)

    def _prices(self) -> tuple[float, float]:
        return self.price, self._batch_price * self._price_unit

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        super()._check_state(state, label, size)
        require(f"{label}['price']", "be finite and at least 0", 0.0 <= state["price"] < np.inf)

    def _put(self, state: Mapping[str, Any]) -> None:
        super()._put(state)
        self._forget_plan()

    def _forget_plan(self) -> None:
        """Plan afresh: visits, prompts or budget are not those of the last plan."""
        self._to_come: float | None = None  # sum of the visits left; None: not added up yet
        self._running: RunningPlan | None = None
        self._retirements = self.bank.evidence.retirements

    def _visits_left(self, rows: IntArray | None) -> FloatArray:
        """Return the offers to come, this one included: per prompt, or one entry for all."""
        retired = self.bank.evidence.retired
        if self._left is None:
            rounds = float(max(1, self.ledger.rounds_left))
            return np.array([rounds]) if retired is None else np.where(retired, 0.0, rounds)
        left = self._offers_left(slice(None))
        offered = slice(None) if rows is None else rows
        left[offered] = np.maximum(left[offered], 1.0)  # offered more often than was told
        return left

    def _offers_to_come(self, rows: IntArray | slice) -> float:
        """Return the sum of the visits left, this one of ``rows`` included, without passing over the pool."""
        assert self._left is not None
        if self._to_come is None:
            self._to_come = float(self._offers_left(slice(None)).sum())
        return self._to_come + np.count_nonzero(self._left[rows] <= 0.0)  # offered more often than was told

    def _offers_left(self, rows: IntArray | slice) -> FloatArray:
        """Return the visits left of these rows as they were told; a retired prompt has none."""
        assert self._left is not None
        left = np.maximum(self._left[rows], 0.0)
        if self.bank.evidence.retired is not None:
            left[self.bank.evidence.retired[rows]] = 0.0
        return left

    def _resolve(self, rows: IntArray | None, low: float, high: float) -> BatchSolution:
        """Clear the remaining problem and deal at its price."""
        if not self._group and self._pacing.min_units <= 1 and self._costs is None:
            return self._deal_units(rows, low, high)
        left = self._visits_left(rows)
        max_units, scores = self.horizon.max_units, self._scores
        costs, funds = _ONE if self._costs is None else self._costs, self.ledger.left
        if self._group:
            left = np.array(np.broadcast_to(left, len(self.bank)))
            clearing = scores.clear_groups(left, costs, self._pacing.min_units, funds, self._price or 1e-3)
            return self._deal(rows, scores.of_group(rows), clearing, low, high)
        q, z = scores.values(None), self.ledger.exposure.astype(np.float64)
        room = np.array(np.broadcast_to(left * max_units, q.size))
        rest = Remaining(q, z, room, costs, funds, self.horizon.equal_share_units, self.utility)
        clearing = rest.clear(self._price or _first_price(q, rest))
        offered = slice(None) if rows is None else rows
        left = np.broadcast_to(left, q.size)[offered]
        gains = scores.of_exposure(q[offered], z[offered], self._planned_visits(left))
        return self._deal(rows, gains, clearing, low, high)

    def _deal_units(self, rows: IntArray | None, low: float, high: float) -> BatchSolution:
        """Deal whole units: at their price, by counts that leave the optimal plan within reach (Theorem 3)."""
        max_units, share = self.horizon.max_units, self.horizon.equal_share_units
        found = None if rows is None or self._left is None else self._plan_of(rows)
        if found is not None:
            assert rows is not None
            q, z, left, plan, self._price = found
        else:
            left, q, z = self._visits_left(rows), self._scores.values(None), self.ledger.exposure.astype(np.float64)
            rest = Remaining(q, z, left * max_units, _ONE, self.ledger.left, share, self.utility)
            plan, self._price = rest.units(self._price or _first_price(q, rest), self._tie)
            if rows is not None:
                q, z, plan = q[rows], z[rows], plan[rows]
                left = left[rows] if left.size > 1 else left
        if plan.size == 0:  # nobody on offer
            return BatchSolution(plan, self._price, 0.0, 0.0)
        tie = self._tie if rows is None else self._tie[rows]
        most = np.minimum(plan, max_units)
        least, later = NO_UNITS, (left - 1.0) * max_units
        if float(later.min()) < int(plan.max(initial=0)):
            least = np.maximum(plan - later.astype(np.int64), 0)
        visits = self._planned_visits(left)
        much = 2.0 * self.utility.saturation / share
        score = Units(q, z, tie, np.array([max_units]), share, self.utility, visits=visits)
        visit = solve_visit(score, least, most, low=low, high=high, floor=self._price, much=much)
        if visit is not None:
            return BatchSolution(visit.units, visit.price, np.nan, 0.0)
        gains = self._scores.of_exposure(q, z, np.array(np.broadcast_to(visits, q.size)))
        _bound(gains, np.broadcast_to(least, q.size), most, much)
        return self._solve(rows, gains, low, high, self._price)

    def _deal_evenly(self, rows: IntArray | None, low: float, high: float) -> BatchSolution:
        """Deal every prompt its even part of the plan (Claim 20), whatever the order in which the prompts are named."""
        size = len(self.bank) if rows is None else rows.size
        units = np.zeros(size, dtype=np.int64)
        if size == 0:
            return BatchSolution(units, self._price, 0.0, 0.0)
        max_units, q = self.horizon.max_units, self._scores.values(None)
        z, left = self.ledger.exposure.astype(np.float64), np.array(np.broadcast_to(self._visits_left(rows), q.size))
        rest = Remaining(q, z, left * max_units, _ONE, self.ledger.left, self.horizon.equal_share_units, self.utility)
        clearing = rest.clear(self._price or _first_price(q, rest))
        self._price = clearing.low
        places = slice(None) if rows is None else np.argsort(rows)
        offered = slice(None) if rows is None else rows[places]
        rate = rest.planned(clearing, offered) / (1.0 + (left[offered] - 1.0) / self._front_load)
        target, quantum = float(rate.sum()), max(1, self._pacing.min_units)
        if self._price == 0.0:  # the plan may be more than there is: what nobody wants costs nothing
            target *= min(1.0, rest.budget / max(1.0, float(rest.planned(clearing, slice(None)).sum())))
        total = round_total(target, low, high, quantum, max_units)
        units[places] = deal_evenly(rate, total, quantum=quantum, max_units=max_units, least=self._least, rng=self._rng)
        return BatchSolution(units, self._price, 0.0, 0.0)

    def _plan_of(self, rows: IntArray) -> tuple[FloatArray, FloatArray, FloatArray, IntArray, float] | None:
        """Return value, exposure, visits left and plan of these rows, and the price, by what changed since the last call.

        None where a pass over the pool is due anyway: evidence fades, everything changed, or the price is 0.
        """
        bank, horizon = self.bank, self.horizon
        budget = self.ledger.units_left
        assert self._left is not None
        if bank.forgetting < 1.0 or self._offers_to_come(rows) * horizon.max_units <= budget:
            return None
        changed, self._seen = bank.evidence.journal.since(self._seen), bank.evidence.journal.version
        if changed is None or self._running is None:
            q, z = self._scores.values(None), self.ledger.exposure.astype(np.float64)
            upper = np.minimum(self._visits_left(rows) * horizon.max_units, self.ledger.units).astype(np.int64)
            pool = Units(q, z, self._tie, upper, horizon.equal_share_units, self.utility, ahead=z)
            self._running = RunningPlan(pool)
        else:
            changed = np.union1d(changed, rows)
            left = self._offers_left(changed)
            offered = np.searchsorted(changed, rows)
            left[offered] = np.maximum(left[offered], 1.0)
            upper = np.minimum(left * horizon.max_units, self.ledger.units).astype(np.int64)
            q, z = self._scores.values(changed), self.ledger.exposure[changed].astype(np.float64)
            self._running.change(changed, q, z, upper)
        found = self._running.solve(budget, rows, self._price)
        if found is None:
            return None
        pool = self._running.pool
        return pool.q[rows], pool.z[rows], np.maximum(self._left[rows], 1.0), *found

    def _planned_visits(self, left: FloatArray) -> FloatArray:
        """Return the visits over which a prompt's rollouts are spread: no more than the budget has least groups for.

        A prompt that is always on offer is not always visited. Spread over visits that no group is left for, the rollouts
        of all prompts look alike, and the plan no longer sees which prompts are worth more.
        """
        visits: FloatArray = 1.0 + (left - 1.0) / self._front_load
        if self._pacing.min_units > 1:
            retired = self.bank.evidence.retired
            active = None if retired is None else np.flatnonzero(~retired)
            groups = self.ledger.left / (
                self._pacing.min_units * max(1.0, self.ledger.offer_of(active, self.bank.evidence.n_active))
            )
            visits = np.minimum(visits, max(1.0, groups))
        return visits

    def _deal(
        self, rows: IntArray | None, gains: FloatArray, clearing: Clearing, low: float, high: float
    ) -> BatchSolution:
        """Solve the visit at the clearing price; where demand jumps there, the visit takes its part of the jump."""
        self._price = clearing.low
        if clearing.high > clearing.low:
            strict = self._solve(rows, gains, 0.0, np.inf, clearing.high).wanted
            weak = self._solve(rows, gains, 0.0, np.inf, clearing.low).wanted
            part = strict + clearing.share * (weak - strict)
            if weak > strict and low < part < high:
                low = high = part if self._costs is not None else float(round(part))
        return self._solve(rows, gains, low, high, clearing.low)

    def _solve(self, rows: IntArray | None, gains: FloatArray, low: float, high: float, floor: float) -> BatchSolution:
        tie, costs = self._tie if rows is None else self._tie[rows], self._costs
        if costs is not None:
            costs = costs if rows is None else costs[rows]
            if (costs != np.floor(costs)).any():  # sums of fractions round
                high *= 1.0 - 1e-12
            low = min(low, high)
        return solve_batch(
            gains, min_units=self._pacing.min_units, low=low, high=high, floor=floor, tie=tie, cost=costs
        )

    def _stream(self, rows: IntArray, low: float, high: float) -> BatchSolution:
        """Deal at the multiplicative price; what the batch wants there, before any cap, moves it."""
        rate = self._pacing.pace(rows, rows.size, None)[0]
        if self._group:
            gains = self._scores.of_group(rows)
        else:
            z = self.ledger.exposure[rows].astype(np.float64)
            gains = self._scores.of_exposure(self._scores.values(rows), z, np.ones(rows.size))
        if self._price <= 0.0:  # the price that clears the first batch
            self._price = max(0.0, self._solve(rows, gains, 0.0, max(1.0, np.floor(rate)), 0.0).price)
        solution = self._solve(rows, gains, low, high, self._price)
        move = _STREAM_STEP * (rate - solution.wanted) / (self.ledger.even_pace * sqrt(self.ledger.round + 1))
        self._price *= exp(-min(max(move, -1.0), 1.0))
        return solution

    @property
    def _costs(self) -> FloatArray | None:
        """Tokens per unit and prompt; None where all units cost the same, so that the solvers count units."""
        return self.ledger.unit_costs

    @property
    def _price_unit(self) -> float:
        """What turns a price of the solvers into the one that users see."""
        mean_cost = 1.0 if self._costs is None else float(self._costs.mean())
        if self._group:
            return mean_cost / self.horizon.unit_size
        return mean_cost * self.horizon.equal_share_units / self.utility.saturation

    def _grow(self) -> None:
        """Make room for prompts that joined the bank."""
        old, new = self._tie.size, len(self.bank)
        if new == old:
            return
        self._tie = np.concatenate([self._tie, tie_ranks(self._rng, new - old, old)])
        if self._left is not None:
            visits, cost = max(1.0, self._left.min()), 1.0 if self._costs is None else float(self._costs.mean())
            self._left = np.concatenate([self._left, np.full(new - old, visits)])
            if self.ledger.all_offers is not None:
                self.ledger.all_offers += (new - old) * visits * cost
        self.ledger.grow(new)
        self._forget_plan()


def _bound(gains: FloatArray, least: IntArray, most: IntArray, much: float) -> None:
    """Lift the units below ``least`` over all others, and sink those beyond ``most`` below them."""
    n = np.arange(gains.shape[1])
    gains += much * (n < least[:, None])
    gains -= much * (n >= most[:, None])


def _first_price(q: FloatArray, rest: Remaining) -> float:
    """Return the marginal at an equal share, a first guess of the price."""
    shape, scaling, lam = rest.utility.codes
    height, rate = kernels.scale_of(scaling, lam, float(q.mean()))
    return float(kernels.du(shape, height, rate, 1.0)) / rest.share / float(rest.cost.mean())
