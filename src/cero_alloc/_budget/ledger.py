"""The running account of a budget: who was dealt how much, what was reported, what is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, ClassVar, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import MOST_COUNT, FloatArray, IntArray, error_text, flag, integer, multiple, real
from cero_alloc._saving.state import Field, State, Stateful, check_array, require

from . import kernels
from .horizon import MOST, Horizon, whole_units
from .reservations import Reservations, check_reservations

_EXPOSURE, _OUTSTANDING, _OFFERS = 0, 1, 2  # columns of the accounts
_AMOUNT = Field(must="be finite and at least 0", holds=lambda amount, _: 0 <= amount < np.inf)


class Balance(NamedTuple):
    """Where the budget is: at all times spent + reserved + left = total, in rollouts, or in tokens where they are counted.

    Attributes
    ----------
    total : float
        The budget of the run as it stands, an int where rollouts are counted.
    spent : float
        Rollouts or tokens reported, written off, or begun and given up.
    reserved : float
        Rollouts or tokens dealt, and neither reported, refunded, expired nor written off.
    left : float
        Rollouts or tokens not dealt.

    Examples
    --------
    >>> total, spent, reserved, left = Balance(64, 24, 16, 24)
    >>> spent + reserved + left == total
    True
    """

    total: float
    spent: float
    reserved: float
    left: float


class RolloutLedger(Stateful):
    """Who has been given how many rollouts, what has been reported back, and what is left of the budget.

    Shared by the allocators; counts in units of ``unit_size`` inside, in rollouts at its properties. The budget is in
    rollouts too, or in tokens where rollouts have a token cost.

    Parameters
    ----------
    horizon : Horizon
        The constants of the run.
    capped : bool
        Whether the capacity caps every round; else only ``max_rollouts`` per offered prompt does.
    tokens : float or None
        Budget in tokens; None counts rollouts.
    unit_costs : numpy.ndarray of float64, shape (1,) or (n_prompts,), or None
        Tokens per unit. One for all prompts leaves the account in units, and only says what they cost.
    n_accounts : int or None
        Prompts that have an account each; None for all of the horizon's. A shard keeps those of its own prompts, and the
        run that shards share keeps one for all of them together.
    """

    FIELDS: ClassVar[dict[str, Field]] = {
        "horizon": Field(fixed=True),
        "round": Field(must="be a round of the run", holds=lambda now, state: 0 <= now <= state["n_rounds"]),
        "n_rounds": Field(),
        "units": Field(),
        "left": _AMOUNT,
        "total": _AMOUNT,
        "unit_costs": Field("prompts"),
        "offered": _AMOUNT,
        "least_offer": Field(),
        "all_offers": Field(when_set=0.0),
        "allocating_rounds": Field(),
        "unreserved": Field(),
        "_everyone": Field(),
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
        tokens: float | None = None,
        unit_costs: FloatArray | None = None,
        n_accounts: int | None = None,
    ) -> None:
        self.horizon = horizon
        one_cost = unit_costs is not None and unit_costs.size == 1
        self.unit_costs = None if one_cost else unit_costs  # tokens per unit, where prompts differ
        self.tokens_per_unit = float(unit_costs[0]) if unit_costs is not None and one_cost else None
        self._capped = capped
        self.round = 0  # rounds opened so far
        self.n_rounds = horizon.n_rounds  # rounds of the run, as it stands
        self.total: float = horizon.total_budget if tokens is None else tokens  # rollouts or tokens, as it stands
        self.units = (
            horizon.budget_units
        )  # units of the run, as it stands; where prompts differ in cost, at their mean cost
        self.left: float = horizon.budget_units  # units, or tokens where prompts differ in cost
        if self.unit_costs is not None:
            self.left = self.total
        # Since when the plan is what it is: the even pace spreads what was left then over the rounds that were left.
        self._since_round, self._since_dealt, self._since_offered = 0, 0.0, 0.0
        self.offered = 0.0  # what one unit for each prompt offered so far would have cost, in all
        self.least_offer = float("inf")  # the same for the smallest round
        self.all_offers: float | None = None  # the same for the whole run, where visits are its clock
        self._everyone = 0  # rounds that offered the whole pool
        # Per prompt, side by side because a round touches all of them: units dealt and not refunded; rollouts dealt,
        # neither reported nor refunded; offers beyond those to everyone. In 32 bits where no run can overflow them.
        size = horizon.n_prompts if n_accounts is None else n_accounts
        self._most = horizon.max_rollouts if size > 1 or horizon.n_prompts == 1 else horizon.round_capacity
        self.accounts = np.zeros((size, 3), dtype=self._width(horizon.total_budget, horizon.n_rounds))
        self.allocating_rounds = 0  # rounds that dealt anything
        self.reserved = 0  # rollouts outstanding, of all prompts
        self.unreserved = 0  # rollouts that were reported beyond those outstanding
        self.reservations = Reservations()

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
        offered: float | None = None,
        tokens: float | None = None,
        unit_costs: FloatArray | None = None,
    ) -> RolloutLedger:
        """Open an account from an allocator's arguments.

        ``offered`` is the mean number of prompts offered per round, the whole pool unless given. Without a
        ``round_capacity`` the caps of the offered prompts add up to one; a larger capacity than that is cut to it.
        """
        g = integer("unit_size", unit_size, least=1, remedy="Count from 1.")
        most = multiple("max_rollouts", max_rollouts, g, least=g, most=MOST)
        reach = max(1, ceil((n_prompts if offered is None else offered) * (most // g))) * g
        capacity = reach if round_capacity is None else multiple("round_capacity", round_capacity, g, least=g)
        horizon = Horizon(
            n_prompts=n_prompts,
            n_rounds=integer("n_rounds", n_rounds, least=1, remedy="Count the calls of allocate over the run."),
            total_budget=multiple("total_budget", total_budget, g, least=g),
            unit_size=g,
            max_rollouts=most,
            round_capacity=min(reach, capacity),
        )
        return cls(horizon, capped=round_capacity is not None, tokens=tokens, unit_costs=unit_costs)

    @property
    def exposure(self) -> npt.NDArray[np.integer[Any]]:
        """Units dealt to each prompt and not refunded; a view, shape (n_accounts,)."""
        return self.accounts[:, _EXPOSURE]

    @property
    def outstanding(self) -> npt.NDArray[np.integer[Any]]:
        """Rollouts dealt to each prompt that are neither reported nor refunded; a view, shape (n_accounts,)."""
        return self.accounts[:, _OUTSTANDING]

    @property
    def rollouts(self) -> IntArray:
        """Rollouts dealt to each prompt and not refunded; a copy, shape (n_accounts,)."""
        return self.exposure.astype(np.int64) * self.horizon.unit_size

    @property
    def units_left(self) -> int:
        """Units not dealt yet, of a budget in rollouts."""
        return int(self.left)

    @property
    def remaining_budget(self) -> float:
        """Rollouts not dealt yet, an int, or tokens."""
        if self.unit_costs is not None:
            return self.left
        if self.tokens_per_unit is not None:
            return self.total - self.units_dealt * self.tokens_per_unit
        return self.units_left * self.horizon.unit_size

    @property
    def units_dealt(self) -> int:
        """Units dealt and not refunded, of a budget in rollouts."""
        return self.units - self.units_left

    @property
    def even_pace(self) -> float:
        """Budget per round, in units or tokens, since the plan last changed."""
        total = self.units if self.unit_costs is None else self.total
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
        g = self.horizon.unit_size
        if self.unit_costs is not None:
            return float((self.unit_costs * self.outstanding).sum()) / g if self.reserved else 0.0
        return self.reserved if self.tokens_per_unit is None else self.reserved * self.tokens_per_unit / g

    @property
    def rounds_left(self) -> int:
        """Rounds that can still be opened."""
        return self.n_rounds - self.round

    @property
    def finished(self) -> bool:
        """Whether no round can be opened any more, the horizon being over or the budget gone."""
        least = 1.0 if self.unit_costs is None else float(self.unit_costs.min())
        return self.rounds_left <= 0 or self.left < least

    @property
    def progress(self) -> float:
        """Share of the run that is over since the plan last changed, by rounds, or by visits where no rounds are told."""
        if self.all_offers is None:
            return (self.round - self._since_round) / max(1, self.n_rounds - self._since_round)
        to_come = self.all_offers - self._since_offered
        return min(1.0, (self.offered - self._since_offered) / to_come) if to_come > 0.0 else 1.0

    @property
    def _dealt_before(self) -> float:
        """Rollouts or tokens that had been dealt when the plan last changed."""
        if self.unit_costs is not None:
            return self._since_dealt
        return self._since_dealt * (self.horizon.unit_size if self.tokens_per_unit is None else self.tokens_per_unit)

    @property
    def pacing_gap(self) -> float:
        """Rollouts or tokens dealt ahead of an even pace."""
        return self.dealt - self._dealt_before - self.progress * (self.total - self._dealt_before)

    @property
    def projected_leftover(self) -> float:
        """Rollouts or tokens that stay unspent if the run goes on at its mean pace so far."""
        progress = self.progress
        if progress == 0.0:
            return 0.0
        return max(0.0, self.remaining_budget - (self.dealt - self._dealt_before) * (1.0 - progress) / progress)

    @property
    def offers(self) -> IntArray:
        """How often each prompt was offered so far; shape (n_accounts,)."""
        return self.accounts[:, _OFFERS].astype(np.int64) + self._everyone

    def units_of(self, budget: float) -> int:
        """Return the whole units that a budget in rollouts, or in tokens at the mean cost, pays for."""
        if self.unit_costs is not None:
            return whole_units(budget, float(self.unit_costs.mean()))
        if self.tokens_per_unit is not None:
            return whole_units(budget, self.tokens_per_unit)
        return int(budget) // self.horizon.unit_size

    def cost_of(self, rows: IntArray | None, units: IntArray) -> float:
        """Return what units of these prompts cost, in units or tokens."""
        if self.unit_costs is None:
            return int(units.sum())
        return float(((self.unit_costs if rows is None else self.unit_costs[rows]) * units).sum())

    def offer_of(self, rows: IntArray | None, size: int) -> float:
        """Return what one unit for each prompt on offer costs, in units or tokens."""
        return size if self.unit_costs is None else self.cost_of(rows, np.ones(size, dtype=np.int64))

    def grow(self, n_prompts: int) -> None:
        """Open accounts for prompts that joined the pool; they cost as the others do on average."""
        extra = n_prompts - len(self.accounts)
        fresh = np.zeros((extra, 3), dtype=self.accounts.dtype)
        fresh[:, _OFFERS] = -self._everyone  # they were not there when the others were offered
        self.accounts = np.concatenate([self.accounts, fresh])
        if self.unit_costs is not None:
            self.unit_costs = np.concatenate([self.unit_costs, np.full(extra, self.unit_costs.mean())])

    def checked_extension(self, rollouts: Any, rounds: SupportsIndex) -> tuple[float, int]:
        """Return budget and rounds to add; raise where more would be taken away than is left."""
        added = integer("rounds", rounds, least=0, remedy="Count the rounds to add.", most=MOST - self.n_rounds)
        least = -self.remaining_budget
        if self.unit_costs is None and self.tokens_per_unit is None:
            most = MOST_COUNT - int(self.total)
            return multiple("rollouts", rollouts, self.horizon.unit_size, least=int(least), most=most), added
        remedy = "Count tokens; no more can be taken away than is left."
        return real("rollouts", rollouts, low=least, high=np.inf, remedy=remedy), added

    def require_spendable(self, rollouts: float, most: float) -> None:
        """Refuse to add what the rest of the run, which can hold so much, could not spend."""
        if rollouts > 0 and self.remaining_budget + rollouts > most:
            condition = f"leave no more than the {most:g} that the rest of the run can spend"
            raise ValueError(error_text("rollouts", condition, rollouts, "Add rounds or visits, too, or less budget."))

    def extend(self, rollouts: float, rounds: int, visits: float = 0.0) -> None:
        """Change the plan of the rest: more budget, or less, more rounds, and so many offers left at one unit each."""
        dealt = self.dealt if self.unit_costs is not None else self.units_dealt
        self.total += rollouts
        self.n_rounds += rounds
        self.units = self.units_of(self.total)
        self.left = self.total - dealt if self.unit_costs is not None else self.units - int(dealt)
        if self.all_offers is not None:
            self.all_offers = self.offered + visits
        self._since_round, self._since_dealt, self._since_offered = self.round, float(dealt), self.offered
        width = self._width(self.units * self.horizon.unit_size, self.n_rounds)
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
        if not flag("exact", exact):
            if budget is None:
                return cap
            return min(
                cap, integer("budget", budget, least=0, remedy="Give this round's cap in rollouts.") // h.unit_size
            )
        if budget is None:
            raise ValueError(
                "budget must be given with exact=True, got budget = None. Name the total to spend, in rollouts."
            )
        total = multiple("budget", budget, h.unit_size, least=0)
        most = 0 if self.finished else min(cap, self.units_left) * h.unit_size
        if total > most:
            why = "the horizon is over or the budget gone" if self.finished else f"{n_offered} prompts are offered"
            remedy = f"Feasible totals: 0 to {most} rollouts in steps of {h.unit_size}, because {why}."
            raise ValueError(error_text("budget", f"be at most {most} with exact=True", total, remedy))
        return total // h.unit_size

    def paced_units(self, n_offered: int, budget: SupportsIndex | None, exact: bool) -> int:
        """Return the units of a round that keeps to the uniform schedule B / K within ``budget``, or exactly that."""
        cap = self.round_units(n_offered, budget, exact)
        if exact:
            return cap
        before = int(self._since_dealt)
        turn, turns = self.round + 1 - self._since_round, max(1, self.n_rounds - self._since_round)
        due = (self.units - before) * turn // turns - (self.units_dealt - before)
        return max(0, min(cap, due, self.units_left))

    def debit(self, rows: IntArray | None, units: IntArray) -> IntArray:
        """Open the next round with these counts and return them in rollouts; rows None means the whole pool."""
        places = np.flatnonzero(units)
        return self.open_round(rows, units.size, places, units[places])

    def open_round(self, rows: IntArray | None, size: int, places: IntArray, units: IntArray) -> IntArray:
        """Open the next round: ``units`` for the prompts at ``places`` of the ``size`` on offer; return all rollouts.

        What is not dealt costs nothing: zeros are pages that the system hands out when they are written to.
        """
        rollouts = np.zeros(size, dtype=np.int64)
        rollouts[places] = units * self.horizon.unit_size
        self.round += 1
        total = self.top_up(places if rows is None else rows[places], units)
        self.allocating_rounds += total > 0
        offered = self.offer_of(rows, size)
        self.offered += offered
        self.least_offer = min(self.least_offer, float(offered))
        if rows is None:
            self._everyone += 1
        else:
            kernels.count_offers(rows, self.accounts)
        return rollouts

    def top_up(self, rows: IntArray, units: IntArray) -> float:
        """Deal these counts within the open round; return what they cost."""
        g = self.horizon.unit_size
        total: float = kernels.lend(rows, units, g, self.accounts)
        if total:
            self.reserved += int(total) * g
            self.reservations.note(self.round, rows, units * g, self.outstanding)
        if self.unit_costs is not None:
            total = self.cost_of(rows, units)
        self.left -= total
        return total

    def settle(self, rows: IntArray, rollouts: IntArray, round_: int | None = None) -> int:
        """Note reported rollouts of a round, or of the oldest; return how many were outstanding.

        Reports beyond what was dealt (older logs, or rollouts that had expired) are evidence but no debt.
        """
        reported = int(rollouts.sum())
        settled = int(kernels.settle(rows, self._take(round_, rows, rollouts), self.accounts))
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
        kernels.lend(rows, -(rollouts // g), g, self.accounts)
        self.left += self.cost_of(rows, rollouts // g)
        self._release(int(rollouts.sum()))

    def write_off(
        self, rows: IntArray, rollouts: IntArray, name_of: Callable[[int], object], round_: int | None = None
    ) -> None:
        """Count rollouts of a round, or of any, as spent that will never be reported."""
        require_refundable(rollouts, self.owed(rows, round_), 1, lambda i: name_of(int(rows[i])))
        self._take(round_, rows, rollouts)
        self._release(int(kernels.settle(rows, rollouts, self.accounts)))

    def expire(self, older_than: int) -> tuple[IntArray, IntArray]:
        """Take back what is outstanding from more than so many rounds ago; return rows and rollouts, a row per deal.

        A group of which a part was reported stays spent.
        """
        g, old = self.horizon.unit_size, self.reservations.drop_before(self.round - older_than, self.outstanding)
        if not old:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        rows, rollouts = (np.concatenate(column) for column in list(zip(*old, strict=True))[1:])
        units = rollouts // g
        kernels.lend(rows, -units, g, self.accounts)
        kernels.settle(rows, rollouts - units * g, self.accounts)
        self.left += self.cost_of(rows, units)
        self._release(int(rollouts.sum()))
        return rows, units * g

    def owed(self, rows: IntArray, round_: int | None) -> IntArray:
        """Return the rollouts outstanding of these rows, from one round or all."""
        if round_ is not None:
            return self.reservations.of_round(round_, rows, self.outstanding)
        return self.outstanding[rows].astype(np.int64)

    def _take(self, round_: int | None, rows: IntArray, rollouts: IntArray) -> IntArray:
        """Take rollouts off the reservations of a round, or of none in particular; return those that may be settled."""
        if round_ is None:
            self.reservations.blur()
            return rollouts
        return self.reservations.take(round_, rows, rollouts, self.outstanding)

    def _release(self, rollouts: int) -> None:
        self.reserved -= rollouts
        if not self.reserved:
            self.reservations.clear()

    def _width(self, total: int, n_rounds: int) -> type[np.integer[Any]]:
        """Return the narrowest type that no account of such a run can overflow."""
        most = n_rounds * self._most
        return np.int32 if (most if self.unit_costs is not None else min(total, most)) < 2**31 else np.int64

    def _snapshot(self) -> State:
        reservations = self.reservations.state_dict(self.outstanding)
        return {**super()._snapshot(), "accounts": self.accounts.copy(), "reservations": reservations}

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        super()._check_state(state, label, size)
        accounts, g = state["accounts"], self.horizon.unit_size
        like = np.empty((len(self.accounts), 3), dtype=self._width(state["units"] * g, state["n_rounds"]))
        check_array(f"{label}['accounts']", like, accounts, size)
        counts = accounts[:, :_OFFERS]
        require(f"{label}['accounts']", "be counts of at least 0", counts, counts >= 0)
        dealt, total, units, costs = accounts[:, _EXPOSURE], state["total"], state["units"], state["unit_costs"]
        left = state["left"]
        if costs is None:
            exact = left == units - int(dealt.sum(dtype=np.int64))
            require(f"{label}['left']", "be what is not dealt", left, exact)
            paid = units == self.units_of(total) or total == self.total
            require(f"{label}['total']", f"pay for {units} units", total, paid)
        else:
            gap = total - float((costs * dealt).sum()) - left
            require(f"{label}['left']", "be what is not dealt", left, abs(gap) <= 1e-6 * total)
        rounds = max(1, state["round"])
        check_reservations(state["reservations"], f"{label}['reservations']", accounts[:, _OUTSTANDING], rounds)

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self.accounts = state["accounts"].copy()
        self.reserved = int(self.outstanding.sum(dtype=np.int64))
        self.reservations.load_state_dict(state["reservations"])


def require_refundable(
    rollouts: IntArray, outstanding: npt.NDArray[np.integer[Any]], unit_size: int, name_of: Callable[[int], object]
) -> None:
    """Refuse a refund that is not of whole groups, or more than is outstanding; ``name_of`` names an entry's prompt."""
    bad = np.flatnonzero((rollouts < 0) | (rollouts > outstanding) | (rollouts % unit_size != 0))
    if bad.size:
        i = int(bad[0])
        condition = (
            f"be a multiple of {unit_size} between 0 and the {outstanding[i]} outstanding of prompt {name_of(i)!r}"
        )
        remedy = "Refund only what allocate dealt and update has not reported; a group that was begun stays spent."
        raise ValueError(error_text("rollouts", condition, int(rollouts[i]), remedy, i))
