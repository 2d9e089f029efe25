"""The running account of a budget, and what it lets one round spend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text, flag, integer, multiple, real
from cero_alloc._evidence.journal import Journal
from cero_alloc._numba import when_it_pays
from cero_alloc._saving.state import Field, State, Stateful, check_array, require

from . import kernels
from .balance import Balance
from .costs import RolloutCosts, Window
from .horizon import MOST, Horizon
from .reservations import Reservations, check_reservations, require_refundable

_EXPOSURE, _OUTSTANDING, _OFFERS = 0, 1, 2  # columns of the accounts
_COUNT = Field(must="be a count", holds=lambda count, _: count >= 0)
_AMOUNT = Field(must="be finite and at least 0", holds=lambda amount, _: 0 <= amount < np.inf)


class RolloutLedger(Stateful):
    """What each prompt has been dealt, what has been reported back, and what is left of the budget.

    Every allocator has one. Budgets are in the user's terms: rollouts, or tokens where ``costs`` counts them. ``funds``,
    ``offered``, ``least_offer`` and ``all_offers`` are in the account's: whole units, or tokens where prompts differ in
    cost. ``costs`` converts between the two.

    Parameters
    ----------
    horizon : Horizon
        The constants of the run.
    capped : bool
        Whether the capacity caps every round; otherwise only ``max_rollouts`` per offered prompt does.
    costs : RolloutCosts or None
        What units cost; None counts rollouts.
    total : float or None
        Budget in tokens; None takes the horizon's rollouts.
    n_accounts : int or None
        Prompts that have an account each; None for all of the horizon's. A shard keeps the accounts of its own prompts,
        and the run that shards share keeps one for all of them together.

    Attributes
    ----------
    round, n_rounds : int
        Rounds opened so far, and rounds of the run as it stands.
    total : float
        Budget of the run as it stands: an int of rollouts, or tokens.
    total_units : int
        The same in units, at their mean cost where prompts differ.
    funds : float
        What is not dealt: whole units, or tokens where prompts differ in cost.
    accounts : numpy.ndarray of int32 or int64, shape (n_accounts, 3)
        Units dealt, rollouts outstanding, and offers beyond those of the whole pool.
    reserved, unreserved : int
        Rollouts outstanding of all prompts, and rollouts that were reported beyond those outstanding.
    allocating_rounds : int
        Rounds that dealt anything.
    offered, least_offer, all_offers : float
        What one unit for each prompt on offer costs: of all rounds so far, of the smallest, and of the whole run where
        visits are its clock (else None).
    journal : Journal
        Rows that were offered, or whose exposure changed.
    """

    FIELDS: ClassVar[dict[str, Field]] = {
        "horizon": Field(fixed=True),
        "round": Field(must="be a round of the run", holds=lambda now, state: 0 <= now <= state["n_rounds"]),
        "n_rounds": Field(must=f"be at most {MOST}", holds=lambda rounds, _: rounds <= MOST),
        "total_units": _COUNT,
        "funds": _AMOUNT,
        "total": _AMOUNT,
        "costs": Field(),
        "offered": _AMOUNT,
        "least_offer": Field(must="be at least 0", holds=lambda offer, _: offer >= 0),
        "all_offers": _AMOUNT._replace(when_set=0.0),
        "allocating_rounds": _COUNT,
        "unreserved": _COUNT,
        "_pool_rounds": _COUNT,
        "_since_round": Field(must="be a round so far", holds=lambda since, state: 0 <= since <= state["round"]),
        "_since_dealt": _AMOUNT,
        "_since_offered": _AMOUNT,
        "accounts": Field(own=True),
        "reservations": Field(own=True),
    }

    def __init__(
        self,
        horizon: Horizon,
        *,
        capped: bool = True,
        costs: RolloutCosts | None = None,
        total: float | None = None,
        n_accounts: int | None = None,
    ) -> None:
        self.horizon = horizon
        self.costs = RolloutCosts(horizon.unit_size) if costs is None else costs
        self._capped = capped
        self.round = 0
        self.n_rounds = horizon.n_rounds
        self.total: float = horizon.total_budget if total is None else total
        self.total_units = horizon.budget_units
        self.funds = self.costs.amount(self.total, self.total_units)
        # As of the last change of plan: the even pace spreads what was left then over the rounds left then.
        self._since_round, self._since_dealt, self._since_offered = 0, 0.0, 0.0
        self.offered = 0.0  # what one unit for each prompt offered so far would have cost, in all
        self.least_offer = float("inf")  # the same for the smallest round
        self.all_offers: float | None = None  # the same for the whole run, where visits are its clock
        self._pool_rounds = 0  # rounds that offered the whole pool
        # Per prompt, side by side because a round touches all of them: units dealt and not refunded; rollouts dealt,
        # neither reported nor refunded; offers beyond those of the whole pool. In 32 bits where no run can overflow them.
        size = horizon.n_prompts if n_accounts is None else n_accounts
        self._most = horizon.max_rollouts if size > 1 or horizon.n_prompts == 1 else horizon.round_capacity
        self.accounts = np.zeros((size, 3), dtype=self._width(horizon.total_budget, horizon.n_rounds))
        self.allocating_rounds = 0  # rounds that dealt anything
        self.reserved = 0  # rollouts outstanding, of all prompts
        self.unreserved = 0  # rollouts that were reported beyond those outstanding
        self.reservations = Reservations()
        self.journal = Journal(size)

    @classmethod
    def plan(
        cls,
        n_prompts: int,
        *,
        total_budget: SupportsIndex,
        n_rounds: SupportsIndex,
        unit_size: SupportsIndex,
        max_rollouts: SupportsIndex,
        round_capacity: SupportsIndex | None = None,
        mean_offer: float | None = None,
        costs: RolloutCosts | None = None,
        total: float | None = None,
    ) -> RolloutLedger:
        """Open an account from an allocator's arguments.

        ``mean_offer`` is the mean number of prompts offered per round; None means the whole pool. The capacity of a round
        is at most what that many prompts can take at ``max_rollouts``, which is also what None stands for.
        """
        g = integer("unit_size", unit_size, least=1, remedy="Count from 1.")
        most = multiple("max_rollouts", max_rollouts, g, least=g, most=MOST)
        reach = max(1, ceil((n_prompts if mean_offer is None else mean_offer) * (most // g))) * g
        capacity = reach if round_capacity is None else multiple("round_capacity", round_capacity, g, least=g)
        horizon = Horizon(
            n_prompts=n_prompts,
            n_rounds=integer("n_rounds", n_rounds, least=1, remedy="Count the calls of allocate over the run."),
            total_budget=multiple("total_budget", total_budget, g, least=g),
            unit_size=g,
            max_rollouts=most,
            round_capacity=min(reach, capacity),
        )
        return cls(horizon, capped=round_capacity is not None, costs=costs, total=total)

    @property
    def exposure_units(self) -> npt.NDArray[np.integer[Any]]:
        """Units dealt to each prompt and not refunded; a view, shape (n_accounts,)."""
        return self.accounts[:, _EXPOSURE]

    @property
    def outstanding(self) -> npt.NDArray[np.integer[Any]]:
        """Rollouts dealt to each prompt that are neither reported nor refunded; a view, shape (n_accounts,)."""
        return self.accounts[:, _OUTSTANDING]

    @property
    def exposure(self) -> IntArray:
        """Rollouts dealt to each prompt and not refunded; a copy, shape (n_accounts,)."""
        return self.exposure_units.astype(np.int64) * self.horizon.unit_size

    @property
    def units_left(self) -> int:
        """Units not dealt yet, where the account counts units."""
        return int(self.funds)

    @property
    def remaining_budget(self) -> float:
        """Rollouts not dealt yet, an int, or tokens."""
        return self.costs.remaining(self.total, self.total_units, self.funds)

    @property
    def units_dealt(self) -> int:
        """Units dealt and not refunded, where the account counts units."""
        return self.total_units - self.units_left

    @property
    def even_pace(self) -> float:
        """Amount per round since the plan last changed: units, or tokens where prompts differ in cost."""
        total = self.costs.amount(self.total, self.total_units)
        return (total - self._since_dealt) / max(1, self.n_rounds - self._since_round)

    @property
    def dealt(self) -> float:
        """Rollouts or tokens dealt and not refunded."""
        return self.total - self.remaining_budget

    @property
    def balance(self) -> Balance:
        """Where the budget is."""
        reserved, left = self.reserved_budget, self.remaining_budget
        return Balance(self.total, self.total - left - reserved, reserved, left)

    @property
    def reserved_budget(self) -> float:
        """Rollouts or tokens outstanding."""
        return self.costs.reserved(self.outstanding, self.reserved)

    @property
    def rounds_left(self) -> int:
        """Rounds that can still be opened."""
        return self.n_rounds - self.round

    @property
    def finished(self) -> bool:
        """Whether no round can be opened any more: the horizon is over, or the budget pays for no unit."""
        return self.rounds_left <= 0 or self.funds < self.costs.least

    @property
    def why_finished(self) -> str:
        """Why no round can be opened any more, for messages."""
        by_rounds = self.all_offers is None
        if self.rounds_left <= 0:
            return f"the {'rounds' if by_rounds else 'visits'} of the run are used up"
        now = f"{self.round} of {self.n_rounds}" if by_rounds else f"{self.round}"
        return f"the budget is spent after round {now}; total_budget counts all {self.costs.word} of the run"

    @property
    def progress(self) -> float:
        """Share of the run that is over since the plan last changed, by rounds, or by visits where no number of rounds is given."""
        if self.all_offers is None:
            return (self.round - self._since_round) / max(1, self.n_rounds - self._since_round)
        to_come = self.all_offers - self._since_offered
        return min(1.0, (self.offered - self._since_offered) / to_come) if to_come > 0.0 else 1.0

    @property
    def _dealt_before(self) -> float:
        """Rollouts or tokens that had been dealt when the plan last changed."""
        return self.costs.budget_of(self._since_dealt)

    @property
    def pacing_gap(self) -> float:
        """Rollouts or tokens dealt ahead of an even pace."""
        return self.dealt - self._dealt_before - self.progress * (self.total - self._dealt_before)

    @property
    def projected_leftover(self) -> float:
        """Rollouts or tokens that stay unspent if the run continues at its mean pace so far."""
        progress = self.progress
        if progress == 0.0:
            return 0.0
        return max(0.0, self.remaining_budget - (self.dealt - self._dealt_before) * (1.0 - progress) / progress)

    @property
    def offers(self) -> IntArray:
        """How often each prompt was offered so far; shape (n_accounts,)."""
        return self.accounts[:, _OFFERS].astype(np.int64) + self._pool_rounds

    def grow(self, n_prompts: int) -> None:
        """Open accounts for prompts that joined the pool; they cost what the others do on average."""
        extra = n_prompts - len(self.accounts)
        fresh = np.zeros((extra, 3), dtype=self.accounts.dtype)
        fresh[:, _OFFERS] = -self._pool_rounds  # they joined after these rounds
        self.accounts = np.concatenate([self.accounts, fresh])
        self.costs.grow(extra)
        self.journal.grow(n_prompts)

    def checked_extension(self, rollouts: Any, rounds: SupportsIndex) -> tuple[float, int]:
        """Return budget and rounds to add; raise where more would be taken away than is left."""
        added = integer("rounds", rounds, least=0, remedy="Count the rounds to add.", most=MOST - self.n_rounds)
        return self.costs.checked_extension(rollouts, self.total, self.remaining_budget), added

    def require_spendable(self, rollouts: float, most: float) -> None:
        """Refuse an extension after which the rest of the run, which can spend ``most``, could not spend its budget."""
        if rollouts > 0 and self.remaining_budget + rollouts > most:
            condition = f"leave no more than the {most:g} that the rest of the run can spend"
            raise ValueError(error_text("rollouts", condition, rollouts, "Add rounds or visits, too, or less budget."))

    def extend(self, rollouts: float, rounds: int, visits: float = 0.0) -> None:
        """Change the plan of the rest of the run; ``visits`` is what one unit at each visit to come costs."""
        dealt = self.costs.amount(self.total, self.total_units) - self.funds
        self.total += rollouts
        self.n_rounds += rounds
        self.total_units = self.costs.units_of(self.total)
        self.funds = self.costs.amount(self.total, self.total_units) - dealt
        if self.all_offers is not None:
            self.all_offers = self.offered + visits
        self._since_round, self._since_dealt, self._since_offered = self.round, float(dealt), self.offered
        width = self._width(self.total_units * self.horizon.unit_size, self.n_rounds)
        self.accounts = self.accounts.astype(width, copy=False)

    def reach(self, n_offered: int) -> int:
        """Return the most units that a round with this offer can deal, whatever the budget."""
        h = self.horizon
        cap = n_offered * h.max_units
        return min(cap, h.capacity_units) if self._capped else cap

    def round_units(self, n_offered: int, budget: SupportsIndex | None, exact: bool) -> int:
        """Return the units that a round may propose, or must spend when ``exact``; raise on an infeasible request."""
        h = self.horizon
        cap = self.reach(n_offered)
        if exact is False or not flag("exact", exact):
            if budget is None:
                return cap
            return min(
                cap, integer("budget", budget, least=0, remedy="Give this round's cap in rollouts.") // h.unit_size
            )
        if budget is None:
            raise ValueError(
                f"budget must be given with exact=True, got budget = None. Give the {self.costs.word} to spend."
            )
        total = multiple("budget", budget, h.unit_size, least=0)
        most = 0 if self.finished else min(cap, self.units_left) * h.unit_size
        if total > most:
            if self.finished:
                why = self.why_finished
            elif self.units_left < cap:
                why = f"no more are left of the {self.total_units * h.unit_size} of the run"
            else:
                each = f"{h.max_rollouts} rollout{'s' if h.max_rollouts > 1 else ''}"
                why = f"{n_offered} prompts are offered, each with at most {each}"
            remedy = f"Feasible totals: 0 to {most} rollouts in steps of {h.unit_size}, because {why}."
            raise ValueError(error_text("budget", f"be at most {most} with exact=True", total, remedy))
        return total // h.unit_size

    def paced_units(self, n_offered: int, budget: SupportsIndex | None, exact: bool) -> int:
        """Return the units of a round on the uniform schedule B / K, at most ``budget``, or ``budget`` when ``exact``."""
        cap = self.round_units(n_offered, budget, exact)
        if exact:
            return cap
        before = int(self._since_dealt)
        turn, turns = self.round + 1 - self._since_round, max(1, self.n_rounds - self._since_round)
        due = (self.total_units - before) * turn // turns - (self.units_dealt - before)
        return max(0, min(cap, due, self.units_left))

    def debit(self, rows: IntArray | None, units: IntArray) -> IntArray:
        """Open the next round with these units per prompt and return them in rollouts; rows None means the whole pool."""
        places = np.flatnonzero(units > 0)
        return self.open_round(rows, units.size, places, units[places])

    def open_round(self, rows: IntArray | None, size: int, places: IntArray, units: IntArray) -> IntArray:
        """Open the next round: ``units`` for the prompts at ``places`` of the ``size`` on offer; return all rollouts.

        Prompts without rollouts cost no memory traffic, because the system allocates zeroed pages on the first write.
        """
        rollouts = np.zeros(size, dtype=np.int64)
        rollouts[places] = units * self.horizon.unit_size
        self.round += 1
        cost = self._lend(places if rows is None else rows[places], units)
        self.allocating_rounds += cost > 0
        offered = self.costs.of_offer(rows, size)
        self.offered += offered
        self.least_offer = min(self.least_offer, float(offered))
        if rows is None:
            self._pool_rounds += 1
        else:
            when_it_pays(kernels.count_offers, rows.size)(rows, self.accounts)
        if self.journal.followed:
            self.journal.note(rows)
        return rollouts

    def top_up(self, rows: IntArray, units: IntArray) -> float:
        """Deal these counts within the open round; return what they cost."""
        if self.journal.followed:
            self.journal.note(rows)
        return self._lend(rows, units)

    def _lend(self, rows: IntArray, units: IntArray) -> float:
        """Put rollouts on the accounts of these rows; return what they cost."""
        g = self.horizon.unit_size
        total = int(when_it_pays(kernels.lend, rows.size)(rows, units, g, self.accounts))
        if total:
            self.reserved += total * g
            self.reservations.note(self.round, rows, units * g, self.outstanding)
        cost = self.costs.of_units(rows, units, total)
        self.funds -= cost
        return cost

    def settle(self, rows: IntArray, rollouts: IntArray, round_: int | None = None) -> int:
        """Note reported rollouts of a round, or of the oldest; return how many were outstanding.

        Reports beyond what was dealt (older logs, or rollouts that had expired) are evidence but do not change the account.
        """
        reported = int(rollouts.sum())
        settled = int(when_it_pays(kernels.settle, rows.size)(rows, self._take(round_, rows, rollouts), self.accounts))
        self.unreserved += reported - settled
        self._release(settled)
        return settled

    def refund(
        self, rows: IntArray, rollouts: IntArray, name_of: Callable[[int], object], round_: int | None = None
    ) -> None:
        """Take back rollouts of a round, or of any, that were never generated; ``name_of`` names a row in messages."""
        g = self.horizon.unit_size
        require_refundable(rollouts, self.owed(rows, round_), g, lambda i: name_of(int(rows[i])))
        self._take(round_, rows, rollouts)
        when_it_pays(kernels.lend, rows.size)(rows, -(rollouts // g), g, self.accounts)
        self.funds += self.costs.of_units(rows, rollouts // g)
        self._release(int(rollouts.sum()))
        self.journal.note(rows)

    def write_off(
        self, rows: IntArray, rollouts: IntArray, name_of: Callable[[int], object], round_: int | None = None
    ) -> None:
        """Count rollouts of a round, or of any, as spent that will never be reported."""
        require_refundable(rollouts, self.owed(rows, round_), 1, lambda i: name_of(int(rows[i])))
        self._take(round_, rows, rollouts)
        self._release(int(when_it_pays(kernels.settle, rows.size)(rows, rollouts, self.accounts)))

    def expire(self, older_than: int) -> tuple[IntArray, IntArray]:
        """Take back what is outstanding from more than ``older_than`` rounds ago; return rows and rollouts, one row per deal.

        Units of which a part was reported stay spent.
        """
        g, old = self.horizon.unit_size, self.reservations.drop_before(self.round - older_than, self.outstanding)
        if not old:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        rows, rollouts = (np.concatenate(column) for column in list(zip(*old, strict=True))[1:])
        units = rollouts // g
        when_it_pays(kernels.lend, rows.size)(rows, -units, g, self.accounts)
        when_it_pays(kernels.settle, rows.size)(rows, rollouts - units * g, self.accounts)
        self.funds += self.costs.of_units(rows, units)
        self._release(int(rollouts.sum()))
        self.journal.note(rows)
        return rows, units * g

    def owed(self, rows: IntArray, round_: int | None) -> IntArray:
        """Return the rollouts outstanding of these rows, from one round or all."""
        if round_ is not None:
            return self.reservations.of_round(round_, rows, self.outstanding)
        return self.outstanding[rows].astype(np.int64)

    def _take(self, round_: int | None, rows: IntArray, rollouts: IntArray) -> IntArray:
        """Take rollouts off the reservations of a round, or of none in particular; return those that may be settled."""
        if round_ is None:
            self.reservations.exact = False
            return rollouts
        return self.reservations.take(round_, rows, rollouts, self.outstanding)

    def _release(self, rollouts: int) -> None:
        """Take rollouts off the sum outstanding."""
        self.reserved -= rollouts
        if not self.reserved:
            self.reservations.clear()

    def _width(self, total: int, n_rounds: int) -> type[np.integer[Any]]:
        """Return the narrowest type that no account of such a run can overflow."""
        most = n_rounds * self._most
        if self.costs.in_units:  # not in tokens, where a cheap prompt may get more units than the total
            most = min(total, most)
        return np.int32 if most < 2**31 else np.int64

    def _snapshot(self) -> State:
        reservations = self.reservations.state_dict(self.outstanding)
        return {**super()._snapshot(), "accounts": self.accounts.copy(), "reservations": reservations}

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        super()._check_state(state, label, size)
        accounts, g = state["accounts"], self.horizon.unit_size
        like = np.empty((len(self.accounts), 3), dtype=self._width(state["total_units"] * g, state["n_rounds"]))
        check_array(f"{label}['accounts']", like, accounts, size)
        counts, funds = accounts[:, :_OFFERS], state["funds"]
        require(f"{label}['accounts']", "be counts of at least 0", counts, counts >= 0)
        costs, total, units = self.costs.restored(state["costs"]), state["total"], state["total_units"]
        gap = costs.amount(total, units) - costs.of_units(None, accounts[:, _EXPOSURE]) - funds
        require(f"{label}['funds']", "be what is not dealt", funds, abs(gap) <= costs.tolerance * total)
        if costs.in_units:
            paid = units == costs.units_of(total) or total == self.total
            require(f"{label}['total']", f"pay for {units} units", total, paid)
        rounds = max(1, state["round"])
        check_reservations(state["reservations"], f"{label}['reservations']", accounts[:, _OUTSTANDING], rounds)

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self.accounts = state["accounts"].copy()
        self.reserved = int(self.outstanding.sum(dtype=np.int64))
        self.reservations.load_state_dict(state["reservations"])
        self.journal.note(None)


@dataclass(slots=True)
class Pacing:
    """The rules for the total of a round.

    Attributes
    ----------
    ledger : RolloutLedger
        The run's account.
    min_units : int
        Smallest count of a prompt other than 0, in units.
    band : float
        Relative distance from the even pace within which a round stays; inf for no limit.
    capacity : float
        Most tokens of one round where prompts differ in cost; unused otherwise.
    by_rounds : bool
        Whether the number of rounds sets the pace; otherwise the visits do.
    """

    ledger: RolloutLedger
    min_units: int
    band: float
    capacity: float
    by_rounds: bool

    def window(
        self, rows: IntArray | None, size: int, left: FloatArray | None, budget: float | None, exact: bool
    ) -> Window:
        """Return the smallest and largest amount that a round over ``rows`` may spend; raise on an infeasible request.

        Amounts are those of the account: units, or tokens where prompts differ in cost. ``left`` holds the offers to come
        per prompt, this one included, or in an account of units their sum; None where they are not known.
        """
        exact = exact is not False and flag("exact", exact)
        costs = self.ledger.costs
        low, high = (self._units if costs.in_units else self._tokens)(rows, size, budget, exact)
        if budget is not None:
            return low, high
        if size == 0 or high <= 0.0:  # no prompt on offer, or nothing left
            return 0.0, 0.0
        rate, later = self.pace(rows, size, left)
        low = max((1.0 - self.band) * rate, self.ledger.funds - later, 0.0)
        low, top = costs.window(low, max((1.0 + self.band) * rate, low), rate)
        high = min(high, top)
        return min(low, high), high

    def _units(self, rows: IntArray | None, size: int, budget: Any, exact: bool) -> Window:
        ledger, costs = self.ledger, self.ledger.costs
        most = min(ledger.reach(size), ledger.units_left)
        budget = costs.round_budget(budget, 0 if ledger.finished else most, exact=exact)
        cap = ledger.round_units(size, budget, exact)
        if not exact:
            return 0.0, float(min(cap, most))
        require_reachable(cap, most, self.min_units, ledger.horizon.max_units, costs.unit_budget, costs.word)
        return float(cap), float(cap)

    def _tokens(self, rows: IntArray | None, size: int, budget: Any, exact: bool) -> Window:
        if exact:
            what = "be given" if budget is None else "be a cap where the costs differ, not a total"
            raise ValueError(
                error_text("budget", f"{what} with exact=True", budget, "Pass it as a cap, without exact.")
            )
        reach = self.ledger.horizon.max_units * self.ledger.costs.of_offer(rows, size)
        cap = min(self.capacity, self.ledger.funds, reach)
        if budget is not None:
            cap = min(cap, real("budget", budget, low=0.0, high=np.inf, remedy="Give this round's cap in tokens."))
        return 0.0, cap

    def pace(self, rows: IntArray | None, size: int, left: FloatArray | None) -> Window:
        """Return the amount that an even pace spends on this round, and the most that later rounds can spend.

        Later rounds are taken to be as large as those so far on average. Where visits set the pace, the visits to come
        count instead.
        """
        ledger, costs, max_units = self.ledger, self.ledger.costs, self.ledger.horizon.max_units
        offered = costs.of_offer(rows, size)
        if self.by_rounds:
            rounds = max(0, ledger.rounds_left - 1)
            mean = (ledger.offered + offered) / (ledger.round + 1)
            others = rounds * mean
            most = ledger.reach(len(ledger.accounts)) if costs.in_units else self.capacity
            # The last round may be as small as the smallest so far, so that what it cannot take is spent before.
            last = min(ledger.least_offer, offered)
            later = min(max_units * ((rounds - 1) * mean + last), rounds * most) if rounds else 0.0
        else:
            assert left is not None
            others = costs.of_visits(left) - offered
            later = max_units * others
        weight = offered + others
        return (ledger.funds * offered / weight if weight > 0.0 else 0.0), later


def require_reachable(units: int, most: int, min_units: int, max_units: int, step: float, word: str) -> None:
    """Refuse an exact total that no counts in {0} u [min_units, max_units] add up to; a unit costs ``step`` rollouts or tokens."""
    few = -(-units // max_units)  # least number of prompts for the total
    if few * min_units <= units:
        return
    nearest = [total for total in ((few - 1) * max_units, few * min_units) if total <= most]
    least, largest = f"{min_units * step:g}", f"{max_units * step:g}"
    what = f"a sum of counts from {least} to {largest}" if min_units < max_units else f"a multiple of {least}"
    condition = f"be {what} {word} with exact=True"
    remedy = f"Nearest such totals: {', '.join(f'{total * step:g}' for total in nearest)}."
    raise ValueError(error_text("budget", condition, units * step, remedy))
