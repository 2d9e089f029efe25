"""The allocation problem's constants, and the running account of its budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _kernels
from ._checks import MOST_COUNT, FloatArray, IntArray, error_text, flag, integer, integers, multiple, plain_array
from ._state import Stateful

_MOST = 2**62  # of any sum of counts
_LAST_VISIT = 2**31 - 1  # rounds that a bank's clock can count
_EXPOSURE, _OUTSTANDING, _OFFERS = 0, 1, 2  # columns of the accounts


@dataclass(frozen=True, kw_only=True, slots=True)
class Horizon:
    """The constants of one run: how many prompts, rounds and rollouts, and the caps.

    Parameters
    ----------
    n_prompts : int
        Prompts in the pool, M.
    n_rounds : int
        Calls of ``allocate`` over the run, K.
    total_budget : int
        Rollouts over the run, B g.
    group_size : int
        Rollouts per unit, g; every count is a multiple of it.
    max_rollouts : int
        Largest count of one prompt in one round, N_max g.
    round_capacity : int
        Largest total of one round, C g.

    Raises
    ------
    ValueError
        For sizes below 1, rollouts that are not whole groups, or a budget that the caps cannot spend.
    TypeError
        For sizes that are not integers.

    Examples
    --------
    >>> horizon = Horizon(n_prompts=8958, n_rounds=500, total_budget=256_000, group_size=4, max_rollouts=8, round_capacity=528)
    >>> round(horizon.equal_share, 3), horizon.units_per_round
    (7.144, 128.0)
    """

    n_prompts: int
    n_rounds: int
    total_budget: int  # rollouts
    group_size: int = 1  # rollouts per unit
    max_rollouts: int  # rollouts
    round_capacity: int  # rollouts

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("n_prompts", "n_rounds", "group_size"):
            put(self, name, integer(name, getattr(self, name), least=1, most=_MOST, remedy="Count from 1."))
        for name in ("total_budget", "max_rollouts", "round_capacity"):
            put(self, name, multiple(name, getattr(self, name), self.group_size, least=self.group_size))
        for name, most in (("max_rollouts", _MOST // self.n_prompts), ("total_budget", MOST_COUNT)):
            if getattr(self, name) > most:
                remedy = f"Sums over {self.n_prompts} prompts and over rounds must be whole in 64 bits."
                raise ValueError(error_text(name, f"be at most {most}", getattr(self, name), remedy))
        if self.total_budget > self.n_rounds * self.round_capacity:
            condition = f"be spendable in {self.n_rounds} rounds of at most {self.round_capacity} rollouts"
            remedy = "Lower the budget, or raise n_rounds, max_rollouts or round_capacity."
            raise ValueError(error_text("total_budget", condition, self.total_budget, remedy))

    @property
    def budget(self) -> int:
        """The budget in units, B."""
        return self.total_budget // self.group_size

    @property
    def n_max(self) -> int:
        """Most units of one prompt in one round, N_max."""
        return self.max_rollouts // self.group_size

    @property
    def capacity(self) -> int:
        """Most units of one round, C."""
        return self.round_capacity // self.group_size

    @property
    def units_per_round(self) -> float:
        """Budget per round in units, B / K."""
        return self.budget / self.n_rounds

    @property
    def equal_share(self) -> float:
        """Budget per prompt in units, R = B / M."""
        return self.budget / self.n_prompts

    @property
    def price_scale(self) -> float:
        """Largest possible gap between the budget and the use of a round in units, max(B / K, C - B / K)."""
        return max(self.units_per_round, self.capacity - self.units_per_round)


class RolloutLedger(Stateful):
    """Who has been given how many rollouts, what has been reported back, and what is left of the budget.

    Shared by the allocators; counts in units of ``group_size`` inside, in rollouts at its properties. The budget is in
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

    _FIXED: ClassVar[tuple[str, ...]] = ("horizon",)
    _OPTIONAL: ClassVar[tuple[str, ...]] = ("all_offers",)
    _STATE: ClassVar[tuple[str, ...]] = (
        "round", "left", "offered", "least_offer", "all_offers", "accounts", "allocating_rounds", "_everyone",
    )  # fmt: skip

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
        self._total = horizon.total_budget if tokens is None else tokens
        self.left: float = horizon.budget  # units, or tokens where prompts differ in cost
        if self.unit_costs is not None:
            self.left = self._total
        self.offered = 0.0  # what one unit for each prompt offered so far would have cost, in all
        self.least_offer = float("inf")  # the same for the smallest round
        self.all_offers: float | None = None  # the same for the whole run, where visits are its clock
        self._everyone = 0  # rounds that offered the whole pool
        # Per prompt, side by side because a round touches all of them: units dealt and not refunded; rollouts dealt,
        # neither reported nor refunded; offers beyond those to everyone. In 32 bits where no run can overflow them.
        size = horizon.n_prompts if n_accounts is None else n_accounts
        account = horizon.max_rollouts if size > 1 or horizon.n_prompts == 1 else horizon.round_capacity
        narrow = min(horizon.total_budget, horizon.n_rounds * account) < 2**31
        self.accounts = np.zeros((size, 3), dtype=np.int32 if narrow else np.int64)
        self.allocating_rounds = 0  # rounds that dealt anything

    @classmethod
    def plan(
        cls,
        n_prompts: int,
        *,
        total_budget: SupportsIndex,
        n_rounds: SupportsIndex,
        group_size: SupportsIndex,
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
        g = integer("group_size", group_size, least=1, remedy="Count from 1.")
        most = multiple("max_rollouts", max_rollouts, g, least=g, most=_MOST)
        reach = max(1, ceil((n_prompts if offered is None else offered) * (most // g))) * g
        capacity = reach if round_capacity is None else multiple("round_capacity", round_capacity, g, least=g)
        horizon = Horizon(
            n_prompts=n_prompts,
            n_rounds=integer("n_rounds", n_rounds, least=1, remedy="Count the calls of allocate over the run."),
            total_budget=multiple("total_budget", total_budget, g, least=g),
            group_size=g,
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
        return self.exposure.astype(np.int64) * self.horizon.group_size

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
            return self._total - (self.horizon.budget - self.units_left) * self.tokens_per_unit
        return self.units_left * self.horizon.group_size

    @property
    def even_pace(self) -> float:
        """Budget per round, in units or tokens."""
        return self.horizon.units_per_round if self.unit_costs is None else self._total / self.horizon.n_rounds

    @property
    def spent(self) -> float:
        """Rollouts or tokens dealt and not refunded."""
        return self._total - self.remaining_budget

    @property
    def rounds_left(self) -> int:
        """Rounds that can still be opened."""
        return self.horizon.n_rounds - self.round

    @property
    def finished(self) -> bool:
        """Whether no round can be opened any more, the horizon being over or the budget gone."""
        least = 1.0 if self.unit_costs is None else float(self.unit_costs.min())
        return self.rounds_left <= 0 or self.left < least

    @property
    def progress(self) -> float:
        """Share of the run that is over, by rounds, or by visits where there is no number of rounds."""
        if self.all_offers is None:
            return self.round / self.horizon.n_rounds
        return min(1.0, self.offered / self.all_offers)

    @property
    def pacing_gap(self) -> float:
        """Rollouts or tokens spent ahead of the uniform schedule."""
        return self.spent - self.progress * self._total

    @property
    def projected_leftover(self) -> float:
        """Rollouts or tokens that stay unspent if the run goes on at its mean pace so far."""
        if self.progress == 0.0:
            return 0.0
        return max(0.0, self.remaining_budget - self.spent * (1.0 - self.progress) / self.progress)

    @property
    def offers(self) -> IntArray:
        """How often each prompt was offered so far; shape (n_accounts,)."""
        return self.accounts[:, _OFFERS] + np.int64(self._everyone)

    def cost_of(self, rows: IntArray | None, units: IntArray) -> float:
        """Return what units of these prompts cost, in units or tokens."""
        if self.unit_costs is None:
            return int(units.sum())
        return float(((self.unit_costs if rows is None else self.unit_costs[rows]) * units).sum())

    def offer_of(self, rows: IntArray | None, size: int) -> float:
        """Return what one unit for each prompt on offer costs, in units or tokens."""
        return size if self.unit_costs is None else self.cost_of(rows, np.ones(size, dtype=np.int64))

    def grow(self, n_prompts: int) -> None:
        """Open accounts for prompts that joined the pool."""
        extra = n_prompts - len(self.accounts)
        if extra > 0:
            fresh = np.zeros((extra, 3), dtype=self.accounts.dtype)
            fresh[:, _OFFERS] = -self._everyone  # they were not there when the others were offered
            self.accounts = np.concatenate([self.accounts, fresh])

    def reach(self, n_offered: int) -> int:
        """Return the most units that a round with this offer can deal, whatever the budget."""
        h = self.horizon
        cap = n_offered * h.n_max
        return min(cap, h.capacity) if self._capped else cap

    def round_units(self, n_offered: int, budget: SupportsIndex | None, exact: bool) -> int:
        """Return the units that a round may propose, or must spend when ``exact``; raise on an infeasible request."""
        h = self.horizon
        cap = self.reach(n_offered)
        if not flag("exact", exact):
            if budget is None:
                return cap
            return min(
                cap, integer("budget", budget, least=0, remedy="Give this round's cap in rollouts.") // h.group_size
            )
        if budget is None:
            raise ValueError(
                "budget must be given with exact=True, got budget = None. Name the total to spend, in rollouts."
            )
        total = multiple("budget", budget, h.group_size, least=0)
        most = 0 if self.finished else min(cap, self.units_left) * h.group_size
        if total > most:
            why = "the horizon is over or the budget gone" if self.finished else f"{n_offered} prompts are offered"
            remedy = f"Feasible totals: 0 to {most} rollouts in steps of {h.group_size}, because {why}."
            raise ValueError(error_text("budget", f"be at most {most} with exact=True", total, remedy))
        return total // h.group_size

    def paced_units(self, n_offered: int, budget: SupportsIndex | None, exact: bool) -> int:
        """Return the units of a round that keeps to the uniform schedule B / K within ``budget``, or exactly that."""
        cap = self.round_units(n_offered, budget, exact)
        if exact:
            return cap
        h = self.horizon
        due = h.budget * (self.round + 1) // h.n_rounds - (h.budget - self.units_left)
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
        rollouts[places] = units * self.horizon.group_size
        total = self.top_up(places if rows is None else rows[places], units)
        self.note_round(rows, size, total)
        return rollouts

    def note_round(self, rows: IntArray | None, size: int, total: float) -> None:
        """Count a round that offered ``size`` prompts and dealt ``total``."""
        self.round += 1
        self.allocating_rounds += total > 0
        offered = self.offer_of(rows, size)
        self.offered += offered
        self.least_offer = min(self.least_offer, offered)
        if rows is None:
            self._everyone += 1
        else:
            _kernels.count_offers(rows, self.accounts)

    def top_up(self, rows: IntArray, units: IntArray) -> float:
        """Deal these counts within the open round; return what they cost."""
        total: float = _kernels.lend(rows, units, self.horizon.group_size, self.accounts)
        if self.unit_costs is not None:
            total = self.cost_of(rows, units)
        self.left -= total
        return total

    def settle(self, rows: IntArray, rollouts: IntArray) -> None:
        """Note reported rollouts; reports beyond what was dealt (older logs, say) are evidence but no debt."""
        _kernels.settle(rows, rollouts, self.accounts)

    def refund(self, rows: IntArray, rollouts: IntArray, name_of: Callable[[int], object]) -> None:
        """Take back rollouts that were never generated; ``name_of`` names a row in messages."""
        g = self.horizon.group_size
        require_refundable(rollouts, self.outstanding[rows], g, lambda i: name_of(int(rows[i])))
        _kernels.lend(rows, -(rollouts // g), g, self.accounts)
        self.left += self.cost_of(rows, rollouts // g)


def require_refundable(
    rollouts: IntArray, outstanding: npt.NDArray[np.integer[Any]], group_size: int, name_of: Callable[[int], object]
) -> None:
    """Refuse a refund that is not of whole groups, or more than is outstanding; ``name_of`` names an entry's prompt."""
    bad = np.flatnonzero((rollouts < 0) | (rollouts > outstanding) | (rollouts % group_size != 0))
    if bad.size:
        i = int(bad[0])
        condition = (
            f"be a multiple of {group_size} between 0 and the {outstanding[i]} outstanding of prompt {name_of(i)!r}"
        )
        remedy = "Refund only what allocate dealt and update has not reported; a group that was begun stays spent."
        raise ValueError(error_text("rollouts", condition, int(rollouts[i]), remedy, i))


def visits_per_prompt(visits: npt.ArrayLike | None, n_prompts: int, n_rounds: int | None) -> FloatArray:
    """Return visits as one float, or one per prompt."""
    if visits is None:
        return np.array([float(min(n_rounds or 0, _MOST))])
    remedy = "Give how often each prompt is offered over the run."
    array = plain_array("visits", visits, remedy)
    if array.dtype.kind not in "iuO":
        raise TypeError(error_text("visits", "be integers", visits, remedy))
    array = integers("visits", array, remedy)
    if array.shape not in ((), (n_prompts,)):
        raise ValueError(error_text("visits", f"be one integer or have shape ({n_prompts},)", array.shape, remedy))
    flat = np.atleast_1d(array)
    most = _LAST_VISIT if n_rounds is None else min(n_rounds, _LAST_VISIT)
    bad = np.flatnonzero((flat < 1) | (flat > most))
    if bad.size:
        index = int(bad[0])
        condition = f"be in [1, n_rounds = {n_rounds}]"
        if n_rounds is None:
            condition = "be at least 1" if flat[index] < 1 else f"be at most {most}"
        raise ValueError(error_text("visits", condition, int(flat[index]), remedy, index))
    return np.ascontiguousarray(flat, dtype=np.float64)
