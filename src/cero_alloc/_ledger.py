"""The allocation problem's constants, and the running account of its rollout budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import SupportsIndex

import numpy as np

from ._checks import IntArray, error_text, integer, multiple


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
            put(self, name, integer(name, getattr(self, name), least=1, remedy="Count from 1."))
        for name in ("total_budget", "max_rollouts", "round_capacity"):
            put(self, name, multiple(name, getattr(self, name), self.group_size, least=self.group_size))
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


class RolloutLedger:
    """Who has been given how many rollouts, what has been reported back, and what is left of the budget.

    Shared by the allocators; counts in units of ``group_size`` inside, in rollouts at its properties.

    Parameters
    ----------
    horizon : Horizon
        The constants of the run.
    capped : bool
        Whether the capacity caps every round; else only ``max_rollouts`` per offered prompt does.
    """

    def __init__(self, horizon: Horizon, *, capped: bool = True) -> None:
        self.horizon = horizon
        self._capped = capped
        self.round = 0  # rounds opened so far
        self.units_left = horizon.budget
        self.exposure = np.zeros(horizon.n_prompts, dtype=np.int64)  # units dealt and not refunded
        self.outstanding = np.zeros(horizon.n_prompts, dtype=np.int64)  # rollouts dealt, neither reported nor refunded
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
    ) -> RolloutLedger:
        """Open an account from an allocator's arguments.

        ``offered`` is the mean number of prompts offered per round, the whole pool unless given. Without a
        ``round_capacity`` the caps of the offered prompts add up to one; a larger capacity than that is cut to it.
        """
        g = integer("group_size", group_size, least=1, remedy="Count from 1.")
        most = multiple("max_rollouts", max_rollouts, g, least=g)
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
        return cls(horizon, capped=round_capacity is not None)

    @property
    def remaining_budget(self) -> int:
        """Rollouts not dealt yet."""
        return self.units_left * self.horizon.group_size

    @property
    def spent(self) -> int:
        """Rollouts dealt and not refunded."""
        return self.horizon.total_budget - self.remaining_budget

    @property
    def finished(self) -> bool:
        """Whether no round can be opened any more, the horizon being over or the budget gone."""
        return self.round >= self.horizon.n_rounds or self.units_left == 0

    @property
    def pacing_gap(self) -> float:
        """Rollouts spent ahead of the uniform schedule."""
        return self.spent - self.round * self.horizon.total_budget / self.horizon.n_rounds

    def grow(self, n_prompts: int) -> None:
        """Open accounts for prompts that joined the pool."""
        extra = n_prompts - self.exposure.size
        if extra > 0:
            self.exposure = np.concatenate([self.exposure, np.zeros(extra, dtype=np.int64)])
            self.outstanding = np.concatenate([self.outstanding, np.zeros(extra, dtype=np.int64)])

    def round_units(self, n_offered: int, budget: SupportsIndex | None, exact: bool) -> int:
        """Return the units that a round may propose, or must spend when ``exact``; raise on an infeasible request."""
        h = self.horizon
        cap = n_offered * h.n_max
        if self._capped:
            cap = min(cap, h.capacity)
        if not exact:
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
        rollouts = units * self.horizon.group_size
        if rows is None:
            self.exposure += units
            self.outstanding += rollouts
        else:
            self.exposure[rows] += units
            self.outstanding[rows] += rollouts
        total = int(units.sum())
        self.units_left -= total
        self.round += 1
        self.allocating_rounds += total > 0
        return rollouts

    def settle(self, rows: IntArray, rollouts: IntArray) -> None:
        """Note reported rollouts; reports beyond what was dealt (older logs, say) are evidence but no debt."""
        open_now = self.outstanding[rows]
        self.outstanding[rows] = open_now - np.minimum(open_now, rollouts)

    def refund(self, rows: IntArray, rollouts: IntArray, name_of: Callable[[int], object]) -> None:
        """Take back rollouts that were never generated; ``name_of`` names a row in messages."""
        g = self.horizon.group_size
        open_now = self.outstanding[rows]
        bad = np.flatnonzero((rollouts < 0) | (rollouts > open_now) | (rollouts % g != 0))
        if bad.size:
            i = int(bad[0])
            name = name_of(int(rows[i]))
            condition = f"be a multiple of {g} between 0 and the {open_now[i]} outstanding of prompt {name!r}"
            remedy = "Refund only what allocate dealt and update has not reported; a group that was begun stays spent."
            raise ValueError(error_text("rollouts", condition, int(rollouts[i]), remedy, i))
        self.outstanding[rows] = open_now - rollouts
        self.exposure[rows] -= rollouts // g
        self.units_left += int(rollouts.sum()) // g
