"""The remaining plan of a run, and the ways to deal a visit from it: whole units, tables, spread, streaming."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, sqrt
from typing import Any, ClassVar, Protocol

import numpy as np

from cero_alloc._budget.ledger import Pacing, RolloutLedger
from cero_alloc._checks import FloatArray, IntArray, TieArray
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.ids import tie_ranks
from cero_alloc._evidence.journal import distinct
from cero_alloc._objective import kernels
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._saving.state import Field, Stateful
from cero_alloc._solvers import threads
from cero_alloc._solvers.remaining import Clearing, Remaining, clear
from cero_alloc._solvers.running import RunningPlan
from cero_alloc._solvers.sampling import deal_evenly, round_total
from cero_alloc._solvers.tables import BatchSolution, solve_batch
from cero_alloc._solvers.units import NO_UNITS, Units, Visit, solve_visit

from . import gains_kernels
from .floors import Floors, Solve

_ONE = np.ones(1)
_SIGNAL_WIDTH = 1e-9  # group-signal prices this near count as one: demand jumps at each of them, so they are bracketed
_STREAM_STEP = 0.5  # of the multiplicative price


class Strategy(Protocol):
    """A way to deal a visit."""

    def deal(self, rows: IntArray | None, low: float, high: float) -> Visit:
        """Return the units of these rows (None: the whole pool), their total within a window."""


class Plan(Stateful):
    """The rest of a run: visits to come, exposure so far, values, and the price that clears the budget left.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt.
    ledger : RolloutLedger
        Exposure so far and the budget left.
    utility : SaturatingUtility
        What exposure is worth.
    visits : numpy.ndarray of float64, shape (n_prompts,), or None
        Offers to come per prompt; None: not known.
    min_units : int
        Least count other than 0.
    front_load : float
        1 spreads what a prompt is to get evenly over its visits, more brings it forward.
    exploration : float
        Posterior standard deviations of p(1-p) that are added to a value.
    rng : numpy.random.Generator
        Draws the ranks that break ties.
    """

    FIELDS: ClassVar[dict[str, Field]] = {
        "tie": Field("prompts"),
        "left": Field("prompts"),
        "price": Field(must="be finite and at least 0", holds=lambda price, _: 0.0 <= price < np.inf),
    }

    def __init__(
        self,
        bank: BetaPosteriorBank,
        ledger: RolloutLedger,
        utility: SaturatingUtility,
        *,
        visits: FloatArray | None,
        min_units: int,
        front_load: float,
        exploration: float,
        rng: np.random.Generator,
    ) -> None:
        self.bank, self.ledger, self.utility = bank, ledger, utility
        self.codes, self.share = utility.codes, ledger.horizon.equal_share_units
        self.max_units, self.min_units = ledger.horizon.max_units, min_units
        self.front_load, self.exploration = front_load, exploration
        self.left: FloatArray | None = visits
        self.offered = 1  # prompts on offer in this round
        self.most = self.max_units  # largest count of this deal: the second wave of a round has less room
        self.floors: Floors | None = None
        self.price = 0.0  # last clearing price, utility per unit or token; 0: none yet
        self.tie: TieArray = tie_ranks(rng, len(bank))
        self.forget()

    def forget(self) -> None:
        """Plan afresh at the next visit: visits, prompts or budget have changed."""
        self.running: RunningPlan | None = None
        self._to_come: float | None = None  # sum of the visits left; None: not added up yet
        self._retirements = self.bank.evidence.retirements

    def lifted(self, rows: IntArray | slice | None, visit: Visit, solve: Solve) -> Visit:
        """Return a visit of these rows with the labels below their floor lifted to it."""
        return visit if self.floors is None else self.floors.lift(rows, visit, solve)

    def check_retirements(self) -> None:
        """Plan afresh where prompts were retired or revived since the last visit."""
        if self._retirements != self.bank.evidence.retirements:
            self.forget()

    def grow(self, n_prompts: int, rng: np.random.Generator) -> None:
        """Make room for prompts that joined the bank; they have as many visits to come as the prompt with the fewest."""
        extra = n_prompts - self.tie.size
        self.tie = np.concatenate([self.tie, tie_ranks(rng, extra, self.tie.size)])
        if self.left is not None:
            visits = max(1.0, self.left.min())
            self.left = np.concatenate([self.left, np.full(extra, visits)])
            if self.ledger.all_offers is not None:
                self.ledger.all_offers += extra * visits * self.ledger.costs.mean
        self.forget()

    def visited(self, offered: IntArray | slice) -> None:
        """Count a visit of the prompts on offer."""
        if self.left is None:
            return
        if self._to_come is not None:
            self._to_come -= np.count_nonzero(self.left[offered] > 0.0)
        self.left[offered] -= 1.0

    def values(self, rows: IntArray | None) -> FloatArray:
        """Return the values, with their bonus for uncertainty."""
        evidence = self.bank.evidence
        alone = rows is not None or evidence.size < threads.ALONE
        q = evidence.values(rows) if alone else self._pool_values()
        if self.exploration > 0.0:
            belief = evidence.posterior(rows)
            bonus = self.exploration * evidence.standard_deviations(rows, (*belief, q))
            if not evidence.at_rest:  # what is learnt now is worth something as long as it holds
                left = self.visits_left(None)
                left = left if rows is None or left.size == 1 else left[rows]
                bonus *= self._foreseen(rows, left, belief) / np.maximum(1.0, left - 1.0)
            q = np.minimum(q + bonus, 0.25)
        return q

    def _pool_values(self) -> FloatArray:
        """Return the values of all prompts of a large pool, without the bonus."""
        evidence = self.bank.evidence
        evidence.stretch(0, 0)  # takes up the reports of the round before there are threads
        q = np.empty(evidence.size)

        def work(start: int, stop: int) -> None:
            evidence.write_values(None, evidence.stretch(start, stop), q[start:stop])

        threads.in_stretches(work, q.size)
        return q

    def exposure(self) -> FloatArray:
        """Return the units dealt to each prompt so far; a copy."""
        return self.ledger.exposure_units.astype(np.float64)

    def visits_left(self, rows: IntArray | None) -> FloatArray:
        """Return the offers to come, this one of ``rows`` included: per prompt, or one entry for all."""
        retired = self.bank.evidence.retired
        if self.left is None:
            begun = self.taken > 0.0  # a second wave's round is open already
            rounds = float(max(1, self.ledger.rounds_left + begun))
            if rows is not None:  # a part of the pool, as large in every round to come
                rounds = max(1.0, rounds * rows.size / max(1, self.bank.evidence.n_active))
            rounds -= self.taken
            return np.array([rounds]) if retired is None else np.where(retired, 0.0, rounds)
        left = self.offers_left(slice(None))
        offered = slice(None) if rows is None else rows
        left[offered] = self.at_least_this(left[offered])
        return left

    @property
    def taken(self) -> float:
        """Share of this visit's room that a first wave has taken."""
        return 1.0 - self.most / self.max_units

    def room(self, left: FloatArray) -> FloatArray:
        """Return the most units that so many visits can take."""
        units = left * self.max_units
        return np.rint(units) if self.taken else units

    def at_least_this(self, left: FloatArray) -> FloatArray:
        """Return the visits left of prompts on offer, this one included even if they are offered more often than planned."""
        found: FloatArray = np.maximum(left, 1.0) - self.taken
        return found

    def offers_left(self, rows: IntArray | slice) -> FloatArray:
        """Return the planned visits left of these rows; a retired prompt has none."""
        assert self.left is not None
        left = np.maximum(self.left[rows], 0.0)
        if self.bank.evidence.retired is not None:
            left[self.bank.evidence.retired[rows]] = 0.0
        return left

    def offers_to_come(self, rows: IntArray | slice) -> float:
        """Return the sum of the visits left, this one of ``rows`` included, without a pass over the pool."""
        assert self.left is not None
        if self._to_come is None:
            self._to_come = float(self.offers_left(slice(None)).sum())
        return self._to_come + np.count_nonzero(self.left[rows] <= 0.0)  # offered more often than planned

    def spread_over(self, left: FloatArray, rows: IntArray | None) -> FloatArray:
        """Return the visits over which the rollouts of these rows are spread: as many as are foreseen and can be paid for.

        A prompt that is always on offer is not always visited. If its rollouts were spread over visits for which the
        budget has no group, all prompts would get nearly equal counts, whatever they are worth. Of a later visit counts
        what the belief can foresee of it (Claim 29): where rates move, that is little, and a plan that trusted today's
        values for visits far away would keep its budget from the prompts of today.
        """
        evidence, visits = self.bank.evidence, 1.0 + (np.maximum(left, 1.0) - 1.0) / self.front_load
        if self.min_units > 1:
            retired = evidence.retired
            active = None if retired is None else np.flatnonzero(~retired)
            pool = max(1.0, self.ledger.costs.of_offer(active, evidence.n_active))
            visits = np.minimum(visits, max(1.0, self.ledger.funds / (self.min_units * pool)))
        return visits if evidence.at_rest else 1.0 + self._foreseen(rows, visits)

    def _foreseen(
        self, rows: IntArray | None, visits: FloatArray, belief: tuple[FloatArray, FloatArray] | None = None
    ) -> FloatArray:
        """Return how many of the later of these visits the belief foresees; ``belief`` holds its parameters, where known."""
        visits = np.maximum(visits, 1.0)  # retired prompts, and those without visits left, have none
        rounds = max(1, self.ledger.rounds_left) if self.left is None else self.offers_to_come(slice(0)) / self.offered
        return self.bank.evidence.foreseen(rows, visits, np.maximum(1.0, rounds / visits), belief)

    def remaining(self, q: FloatArray, z: FloatArray, left: FloatArray, cost: FloatArray = _ONE) -> Remaining:
        """Return the remaining problem over the pool."""
        return Remaining(q, z, self.room(left), cost, self.ledger.funds, self.share, self.utility)

    def guess(self, q: FloatArray, cost: FloatArray = _ONE) -> float:
        """Return the last price, or at first the marginal utility at an equal share."""
        if self.price:
            return self.price
        shape, scaling, lam = self.codes
        height, rate = kernels.scale_of(scaling, lam, float(q.mean()))
        return float(kernels.du(shape, height, rate, 1.0)) / self.share / float(cost.mean())

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self.forget()


class WholeUnits:
    """Single units of equal cost, at their price, within counts that keep the optimal plan feasible (Theorem 3)."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._seen = -1, -1  # versions of the evidence and of the ledger that the running plan has taken up

    def deal(self, rows: IntArray | None, low: float, high: float) -> Visit:
        """Return the units of these rows."""
        plan, room = self.plan, self.plan.most
        found = None if rows is None or plan.left is None else self._running(rows)
        if found is not None:
            q, z, left, wanted, plan.price = found
        else:
            left, q, z = plan.visits_left(rows), plan.values(None), plan.exposure()
            wanted, plan.price = plan.remaining(q, z, left).units(plan.guess(q), plan.tie)
            if rows is not None:
                q, z, wanted = q[rows], z[rows], wanted[rows]
                left = left[rows] if left.size > 1 else left
        if wanted.size == 0:  # no prompt on offer
            return Visit(wanted, plan.price)
        most = np.minimum(wanted, room)
        least, later = NO_UNITS, plan.room(left) - room
        if float(later.min()) < int(wanted.max(initial=0)):
            least = np.minimum(np.maximum(wanted - later.astype(np.int64), 0), room)
        visits = plan.spread_over(left, rows)
        much = 2.0 * plan.utility.saturation / plan.share  # more than any gain
        tie = plan.tie if rows is None else plan.tie[rows]
        score = Units(q, z, tie, np.array([room]), plan.share, plan.utility, visits=visits)
        visit = solve_visit(score, least, most, low=low, high=high, floor=plan.price, much=much)

        def again(at: IntArray, total: int) -> Visit:
            bounds = (bound if bound.size == 1 else bound[at] for bound in (least, most))
            return solve_visit(score[at], *bounds, low=total, high=total, floor=plan.price, much=much)

        return plan.lifted(rows, visit, again)

    def _running(self, rows: IntArray) -> tuple[FloatArray, FloatArray, FloatArray, IntArray, float] | None:
        """Return value, exposure, visits left and plan of these rows, and the price, from what changed since the last call.

        None where a pass over the pool is due anyway: evidence fades, everything changed, or the price is 0.
        """
        plan = self.plan
        budget = plan.ledger.units_left
        assert plan.left is not None
        room = plan.offers_to_come(rows) * plan.max_units - rows.size * (plan.max_units - plan.most)
        if not plan.bank.evidence.at_rest or room <= budget:
            return None
        journals = plan.bank.evidence.journal, plan.ledger.journal
        changes = [journal.since(seen) for journal, seen in zip(journals, self._seen, strict=True)]
        self._seen = journals[0].version, journals[1].version
        if plan.running is None or any(rows is None for rows in changes):
            z = plan.exposure()
            upto = plan.room(plan.visits_left(rows))
            upper = np.minimum(upto, plan.ledger.total_units).astype(np.int64)
            pool = Units(plan.values(None), z, plan.tie, upper, plan.share, plan.utility, ahead=z)
            plan.running = RunningPlan(pool)
        else:
            changed = distinct(np.concatenate([*changes, rows]))
            left = plan.offers_left(changed)
            offered = np.searchsorted(changed, rows)
            left[offered] = plan.at_least_this(left[offered])
            upper = np.minimum(plan.room(left), plan.ledger.total_units).astype(np.int64)
            z = plan.ledger.exposure_units[changed].astype(np.float64)
            plan.running.change(changed, plan.values(changed), z, upper)
        found = plan.running.solve(budget, rows, plan.price)
        if found is None:
            return None
        pool = plan.running.pool
        return pool.q[rows], pool.z[rows], plan.at_least_this(plan.left[rows]), *found


class Spread:
    """An even part of the plan for every prompt on offer (Claim 20), in whatever order the prompts are named."""

    def __init__(self, plan: Plan, least: float, rng: np.random.Generator) -> None:
        self.plan, self.least, self.rng = plan, least, rng

    def deal(self, rows: IntArray | None, low: float, high: float) -> Visit:
        """Return the units of these rows."""
        plan, max_units = self.plan, self.plan.max_units
        if rows is not None and rows.size == 0:
            return Visit(np.zeros(0, dtype=np.int64), plan.price)
        q, left = plan.values(None), plan.visits_left(rows)
        rest, more = plan.remaining(q, plan.exposure(), left), np.empty(q.size)
        clearing = rest.clear(plan.guess(q), more)
        plan.price = clearing.low
        places = slice(None) if rows is None else np.argsort(rows)
        offered = slice(None) if rows is None else rows[places]
        planned, paid = rest.planned(clearing, more), 1.0
        if plan.price == 0.0:  # the plan may exceed the budget: at price 0 it includes units without a gain
            paid = min(1.0, rest.budget / max(1.0, float(planned.sum())))
        rate = planned[offered]
        rate /= 1.0 + ((left[offered] if left.size > 1 else left) - 1.0) / plan.front_load
        target, quantum = float(rate.sum()) * paid, max(1, plan.min_units)
        total = round_total(target, low, high, quantum, max_units)

        def drawn(at: IntArray | slice, total: int) -> Visit:
            part, least = rate[at], self.least
            units = deal_evenly(part, total, quantum=quantum, max_units=max_units, least=least, rng=self.rng)
            return Visit(units, plan.price)

        units = plan.lifted(offered, drawn(slice(None), total), drawn).units
        if rows is not None:
            units[places] = units.copy()
        return Visit(units, plan.price)


class Tables:
    """Counts in {0} u [min_units, max_units] from a table of unit gains, at the price that clears the remaining problem."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def deal(self, rows: IntArray | None, low: float, high: float) -> Visit:
        """Return the units of these rows; where demand jumps at the price, the visit takes its part of the jump."""
        clearing, gains = self._planned(rows)
        self.plan.price = clearing.low
        if clearing.high > clearing.low:
            strict = self.solve(rows, gains, 0.0, np.inf, clearing.high).wanted
            weak = self.solve(rows, gains, 0.0, np.inf, clearing.low).wanted
            part = strict + clearing.part * (weak - strict)
            if weak > strict and low < part < high:
                low = high = self.plan.ledger.costs.whole(part)
        solution = self.solve(rows, gains, low, high, clearing.low)
        return self.lifted(rows, gains, solution)

    def lifted(self, rows: IntArray | None, gains: FloatArray, solution: BatchSolution) -> Visit:
        """Return the visit of a solution, with the labels below their floor lifted to it."""

        def again(at: IntArray, total: int) -> Visit:
            found = self.solve(at if rows is None else rows[at], gains[at], total, total, 0.0)
            return Visit(found.units, found.price)

        return self.plan.lifted(rows, Visit(solution.units, solution.price), again)

    def solve(self, rows: IntArray | None, gains: FloatArray, low: float, high: float, floor: float) -> BatchSolution:
        """Return the best counts of a table within a window."""
        plan = self.plan
        tie, costs = plan.tie if rows is None else plan.tie[rows], plan.ledger.costs.of_rows(rows)
        if costs is not None:
            if (costs != np.floor(costs)).any():  # sums of fractions round
                high *= 1.0 - 1e-12
            low = min(low, high)
        return solve_batch(gains, min_units=plan.min_units, low=low, high=high, floor=floor, tie=tie, cost=costs)

    def once(self, rows: IntArray) -> FloatArray:
        """Return the unit gains of a visit as if it were the last."""
        raise NotImplementedError

    def _planned(self, rows: IntArray | None) -> tuple[Clearing, FloatArray]:
        """Return where the remaining problem clears, and the unit gains of this visit."""
        raise NotImplementedError


class ExposureTables(Tables):
    """Tables of the utility of exposure."""

    def gains(self, q: FloatArray, z: FloatArray, visits: FloatArray) -> FloatArray:
        """Return the unit gains of the score U(z + w n) / w, one row per prompt."""
        table = np.empty((q.size, self.plan.most))
        gains_kernels.score_gains(q, z, visits, self.plan.share, self.plan.codes, table)
        return table

    def once(self, rows: IntArray) -> FloatArray:
        """Return the unit gains of a visit as if it were the last."""
        z = self.plan.ledger.exposure_units[rows].astype(np.float64)
        return self.gains(self.plan.values(rows), z, np.ones(rows.size))

    def _planned(self, rows: IntArray | None) -> tuple[Clearing, FloatArray]:
        plan, costs = self.plan, self.plan.ledger.costs.rates
        q, z = plan.values(None), plan.exposure()
        left = np.array(np.broadcast_to(plan.visits_left(rows), q.size))
        clearing = plan.remaining(q, z, left, costs).clear(plan.guess(q, costs))
        offered = slice(None) if rows is None else rows
        return clearing, self.gains(q[offered], z[offered], plan.spread_over(left[offered], rows))


class GroupTables(Tables):
    """Tables of the group signal: the expected number of groups with both successes and failures."""

    def once(self, rows: IntArray | None) -> FloatArray:
        """Return the unit gains of a visit, which does not depend on other visits."""
        signal = self._signal(rows)
        table = np.empty((signal[0].size, self.plan.max_units))
        gains_kernels.group_gains(signal, self.plan.ledger.horizon.unit_size, table)
        return table

    def _planned(self, rows: IntArray | None) -> tuple[Clearing, FloatArray]:
        plan, signal = self.plan, self._signal(None)
        left = np.array(np.broadcast_to(plan.visits_left(rows), signal[0].size))
        costs, unit = plan.ledger.costs.rates, plan.ledger.horizon.unit_size

        def demand(price: float) -> tuple[float, float]:
            bounds = plan.min_units, plan.max_units
            return gains_kernels.remaining_groups(price, signal, left, costs, unit, *bounds), 0.0

        most = float((costs * left).sum()) * plan.max_units
        clearing = clear(demand, plan.ledger.funds, most, plan.price or 1e-3, width=_SIGNAL_WIDTH)
        return clearing, self.once(rows)

    def _signal(self, rows: IntArray | None) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return posterior parameters, and the factor of the signal: the value by that of 0/1 rewards with the same mean.

        The bonus for uncertainty raises it. Rewards between 0 and 1 lower it: two that differ little teach little.
        """
        evidence = self.plan.bank.evidence
        alpha, beta = evidence.posterior(rows)
        factor = np.ones(alpha.size)
        if self.plan.exploration > 0.0 or evidence.deficits is not None:
            s = alpha + beta
            coins = (alpha / s) * (beta / s) * (s / (s + 1.0))
            np.divide(self.plan.values(rows), coins, out=factor, where=coins > 0.0)
        return alpha, beta, factor


class Streaming:
    """A part of the pool whose visits are not known: at a multiplicative price that the demand of each batch moves."""

    def __init__(self, tables: Tables, pacing: Pacing) -> None:
        self.tables, self.pacing = tables, pacing

    def deal(self, rows: IntArray | None, low: float, high: float) -> Visit:
        """Return the units of these rows; their demand at the price, before any cap, moves the price, once in a round."""
        assert rows is not None
        plan, ledger = self.tables.plan, self.tables.plan.ledger
        rate = self.pacing.pace(rows, rows.size, None)[0]
        gains = self.tables.once(rows)
        if plan.price <= 0.0:  # the price that clears the first batch
            plan.price = max(0.0, self.tables.solve(rows, gains, 0.0, max(1.0, np.floor(rate)), 0.0).price)
        solution = self.tables.solve(rows, gains, low, high, plan.price)
        if plan.most == plan.max_units:  # the demand of a second wave is part of the round's
            move = _STREAM_STEP * (rate - solution.wanted) / (ledger.even_pace * sqrt(ledger.round + 1))
            plan.price *= exp(-min(max(move, -1.0), 1.0))
        return self.tables.lifted(rows, gains, solution)
