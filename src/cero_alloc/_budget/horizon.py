"""The constants of a run: prompts, rounds, rollouts and caps, and how often each prompt is offered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import MOST_COUNT, FloatArray, error_text, integer, integers, multiple, plain_array

MOST = 2**62  # of any sum of counts
MOST_UNITS = 2**20  # of one prompt in one round, where a table may hold an entry for each
_LAST_VISIT = 2**31 - 1  # rounds that the clock of a bank can count


def _derived() -> Any:
    """Return a field that follows from the arguments: computed once, and no part of repr, comparison or state."""
    return field(init=False, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Horizon:
    """The constants of one run: prompts, rounds, rollouts and caps.

    Parameters
    ----------
    n_prompts : int
        Prompts in the pool, M.
    n_rounds : int
        Rounds of the run, K: calls of ``allocate``.
    total_budget : int
        Rollouts over the run, B g.
    unit_size : int
        Rollouts per unit, g; every count is a multiple of it.
    max_rollouts : int
        Largest count of one prompt in one round, N_max g.
    round_capacity : int
        Largest total of one round, C g.

    Raises
    ------
    ValueError
        For sizes below 1, rollouts that are not whole units, or a budget that the caps cannot spend.
    TypeError
        For sizes that are not integers.

    Notes
    -----
    Constants that follow from these are computed once, in units: ``budget_units``, B; ``max_units``, N_max, and
    ``capacity_units``, C, the caps; ``units_per_round``, B / K; ``equal_share_units``, R = B / M;
    ``price_scale_units``, max(B / K, C - B / K), the largest possible gap between the budget and the use of a round.

    References
    ----------
    arXiv 2610.09679, the horizon problem; the section "The problem" of the theory page.

    Examples
    --------
    >>> horizon = Horizon(n_prompts=8958, n_rounds=500, total_budget=256_000, unit_size=4, max_rollouts=8, round_capacity=528)
    >>> round(horizon.equal_share_units, 3), horizon.units_per_round
    (7.144, 128.0)
    """

    n_prompts: int
    n_rounds: int
    total_budget: int
    unit_size: int = 1
    max_rollouts: int
    round_capacity: int
    budget_units: int = _derived()
    max_units: int = _derived()
    capacity_units: int = _derived()
    units_per_round: float = _derived()
    equal_share_units: float = _derived()
    price_scale_units: float = _derived()

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("n_prompts", "n_rounds", "unit_size"):
            put(self, name, integer(name, getattr(self, name), least=1, most=MOST, remedy="Count from 1."))
        for name in ("total_budget", "max_rollouts", "round_capacity"):
            put(self, name, multiple(name, getattr(self, name), self.unit_size, least=self.unit_size))
        for name, most in (("max_rollouts", MOST // self.n_prompts), ("total_budget", MOST_COUNT)):
            if getattr(self, name) > most:
                remedy = f"Sums over {self.n_prompts} prompts and over rounds must be whole in 64 bits."
                raise ValueError(error_text(name, f"be at most {most}", getattr(self, name), remedy))
        if self.total_budget > self.n_rounds * self.round_capacity:
            condition = f"be spendable in {self.n_rounds} rounds of at most {self.round_capacity} rollouts"
            remedy = "Lower the budget, or raise n_rounds, max_rollouts or round_capacity."
            raise ValueError(error_text("total_budget", condition, self.total_budget, remedy))
        g, per_round = self.unit_size, self.total_budget // self.unit_size / self.n_rounds
        put(self, "budget_units", self.total_budget // g)
        put(self, "max_units", self.max_rollouts // g)
        put(self, "capacity_units", self.round_capacity // g)
        put(self, "units_per_round", per_round)
        put(self, "equal_share_units", self.budget_units / self.n_prompts)
        put(self, "price_scale_units", max(per_round, self.capacity_units - per_round))


def visits_per_prompt(visits: npt.ArrayLike | None, n_prompts: int, n_rounds: int | None) -> FloatArray:
    """Return visits as float64, one entry for all prompts or one per prompt."""
    if visits is None:
        return np.array([float(min(n_rounds or 0, MOST))])
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


def whole_units(total: float, step: float) -> int:
    """Return how many whole units of cost ``step`` a total pays for: the largest n with n * step <= total in float64."""
    if total == np.inf:
        return 2**62
    units = int(total // step)
    return units + 1 if (units + 1) * step <= total else units
