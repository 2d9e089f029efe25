"""Cost models: what units cost, and how an account's amounts relate to the budget that the user gave.

A ledger keeps its account in one amount, the user's budget is in another:

======================== ==================== ========================
model                    account              budget
======================== ==================== ========================
:class:`RolloutCosts`    whole units          rollouts
:class:`UniformCosts`    whole units          tokens, alike for all
:class:`PromptCosts`     tokens               tokens, by prompt
======================== ==================== ========================

The model is chosen once, when the ledger is opened; its callers do not depend on which one it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import MOST_COUNT, FloatArray, IntArray, error_text, multiple, real, reals
from cero_alloc._saving.state import Field, Stateful

from .horizon import whole_units

_ONE = np.ones(1)
_CHEAPEST, _DEAREST = 1e-150, 1e150  # tokens per rollout: sums of them, and utility per token, stay finite

Window = tuple[float, float]  # smallest and largest amount that a round may spend


class RolloutCosts(Stateful):
    """Costs of a budget in rollouts: the account counts units of ``unit_size`` rollouts each.

    Parameters
    ----------
    unit_size : int
        Rollouts per unit.

    Attributes
    ----------
    word : str
        What the budget counts, for messages.
    in_units : bool
        Whether the account counts whole units; otherwise it is in tokens.
    unit_costs : numpy.ndarray of float64, shape (n_prompts,), or None
        Tokens per unit of each prompt; None where the account counts whole units.
    rates : numpy.ndarray of float64, shape (1,) or (n_prompts,)
        Amount per unit: ``unit_costs``, or 1.
    least, mean : float
        Smallest and mean rate.
    tolerance : float
        Relative error of sums of amounts; whole units add up exactly.
    """

    word: ClassVar[str] = "rollouts"
    in_units: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.0
    unit_costs: FloatArray | None = None
    rates: FloatArray = _ONE
    least: float = 1.0
    mean: float = 1.0

    def __init__(self, unit_size: int) -> None:
        self.unit_size = unit_size
        self.unit_budget: float = unit_size  # budget per unit of the account

    # ------------------------------------------------------------ amounts of the account

    def of_units(self, rows: IntArray | None, units: npt.NDArray[np.integer[Any]], total: int | None = None) -> float:
        """Return what units of these prompts (None: of all) cost; ``total`` is their sum where the caller has it."""
        return int(units.sum(dtype=np.int64)) if total is None else total

    def of_offer(self, rows: IntArray | None, size: int) -> float:
        """Return what one unit for each of the ``size`` prompts on offer costs."""
        return size

    def of_visits(self, visits: FloatArray) -> float:
        """Return what one unit costs at each visit: one entry per prompt, or their sum where the account counts units."""
        return float((self.rates * visits).sum())

    def of_rows(self, rows: IntArray | None) -> FloatArray | None:
        """Return the cost of a unit of each of these prompts; None where the account counts units."""
        return None

    def amount(self, budget: float, units: int) -> float:
        """Return a budget as an amount of the account, given the whole units that it pays for."""
        return units

    def whole(self, amount: float) -> float:
        """Return the nearest amount that can be dealt."""
        return float(round(amount))

    def window(self, low: float, high: float, pace: float) -> Window:
        """Return the amounts within [low, high] that can be dealt; the nearest to ``pace`` where there is none."""
        low, high = float(ceil(low - 1e-9)), high if high == np.inf else float(floor(high + 1e-9))
        if low > high:  # the band is narrower than a unit
            low = high = float(round(pace))
        return low, high

    # ------------------------------------------------------------ the user's budget

    def units_of(self, budget: float) -> int:
        """Return the whole units that a budget pays for, at the mean cost where costs differ."""
        return int(budget) // self.unit_size

    def budget_of(self, amount: float) -> float:
        """Return an amount of the account in rollouts or tokens; an int where both are counted in whole numbers."""
        return amount * self.unit_budget

    def remaining(self, total: float, total_units: int, funds: float) -> float:
        """Return the budget not dealt: an int of rollouts, or tokens, of which a rest may pay for no unit."""
        return total - (total_units - int(funds)) * self.unit_budget

    def reserved(self, outstanding: npt.NDArray[np.integer[Any]], total: int) -> float:
        """Return what outstanding rollouts cost, ``total`` in all: an int of rollouts, or tokens."""
        return total

    def round_budget(self, budget: Any, most: int, *, exact: bool) -> Any:
        """Return a round's budget in rollouts, which :meth:`RolloutLedger.round_units` checks.

        Raises
        ------
        ValueError
            For tokens that no count up to ``most`` units adds up to, if they are ``exact``.
        """
        return budget

    def checked_extension(self, more: Any, total: float, remaining: float) -> float:
        """Return rollouts or tokens to add to a budget of ``total``; raise where more is taken away than remains."""
        most = MOST_COUNT - int(total)
        return multiple("rollouts", more, self.unit_size, least=-int(remaining), most=most)

    # ------------------------------------------------------------ the pool and its state

    def grow(self, extra: int) -> None:
        """Add prompts, which cost what the others do on average."""

    def restored(self, state: Mapping[str, Any]) -> RolloutCosts:
        """Return the model of a checked state."""
        return self


class UniformCosts(RolloutCosts):
    """Costs of a budget in tokens where every rollout costs the same: the account counts units, their cost is the user's.

    Parameters
    ----------
    unit_size : int
        Rollouts per unit.
    unit_cost : float
        Tokens per unit.
    """

    word: ClassVar[str] = "tokens"

    def __init__(self, unit_size: int, unit_cost: float) -> None:
        super().__init__(unit_size)
        self.unit_budget = unit_cost

    def units_of(self, budget: float) -> int:
        """Return the whole units that tokens pay for, at the mean cost where costs differ."""
        return whole_units(budget, self.unit_budget)

    def reserved(self, outstanding: npt.NDArray[np.integer[Any]], total: int) -> float:
        """Return the tokens that outstanding rollouts cost."""
        return total * self.unit_budget / self.unit_size

    def round_budget(self, budget: Any, most: int, *, exact: bool) -> Any:
        """Return a round's tokens as rollouts of whole units."""
        if budget is None:
            return None
        tokens = real("budget", budget, low=0.0, high=np.inf, remedy="Count tokens.")
        step = self.unit_budget
        units = whole_units(tokens, step)
        if exact and (units * step != tokens or units > most):
            condition = f"be a multiple of {step:g} tokens up to {most * step:g} with exact=True"
            raise ValueError(error_text("budget", condition, tokens, "Pass it as a cap, without exact=True."))
        return units * self.unit_size

    def checked_extension(self, more: Any, total: float, remaining: float) -> float:
        """Return tokens to add to a budget; raise where more is taken away than remains."""
        remedy = "Count tokens; no more can be taken away than is left."
        return real("rollouts", more, low=-remaining, high=np.inf, remedy=remedy)


class PromptCosts(UniformCosts):
    """Costs of a budget in tokens where prompts differ: the account is in tokens, too.

    Parameters
    ----------
    unit_size : int
        Rollouts per unit.
    unit_costs : numpy.ndarray of float64, shape (n_prompts,)
        Tokens per unit of each prompt.
    """

    FIELDS: ClassVar[dict[str, Field]] = {"unit_costs": Field("prompts")}
    in_units: ClassVar[bool] = False
    tolerance: ClassVar[float] = 1e-6
    unit_costs: FloatArray

    def __init__(self, unit_size: int, unit_costs: FloatArray) -> None:
        super().__init__(unit_size, 1.0)
        self._set(unit_costs)

    def of_units(self, rows: IntArray | None, units: npt.NDArray[np.integer[Any]], total: int | None = None) -> float:
        """Return the tokens that units of these prompts (None: of all) cost."""
        return float(((self.unit_costs if rows is None else self.unit_costs[rows]) * units).sum())

    def of_offer(self, rows: IntArray | None, size: int) -> float:
        """Return the tokens of one unit for each prompt on offer."""
        return float((self.unit_costs if rows is None else self.unit_costs[rows]).sum())

    def of_rows(self, rows: IntArray | None) -> FloatArray | None:
        """Return the tokens per unit of each of these prompts."""
        return self.unit_costs if rows is None else self.unit_costs[rows]

    def amount(self, budget: float, units: int) -> float:
        """Return the budget: the account is in tokens, too."""
        return budget

    def whole(self, amount: float) -> float:
        """Return the amount: any number of tokens can be spent."""
        return amount

    def window(self, low: float, high: float, pace: float) -> Window:
        """Return the window unchanged: any number of tokens can be spent."""
        return low, high

    def units_of(self, budget: float) -> int:
        """Return the whole units that tokens pay for, at the mean cost where costs differ."""
        return whole_units(budget, self.mean)

    def remaining(self, total: float, total_units: int, funds: float) -> float:
        """Return the tokens not dealt."""
        return funds

    def reserved(self, outstanding: npt.NDArray[np.integer[Any]], total: int) -> float:
        """Return the tokens that outstanding rollouts cost."""
        return float((self.unit_costs * outstanding).sum()) / self.unit_size if total else 0.0

    def grow(self, extra: int) -> None:
        """Add prompts at the mean cost."""
        self._set(np.concatenate([self.unit_costs, np.full(extra, self.mean)]))

    def restored(self, state: Mapping[str, Any]) -> RolloutCosts:
        """Return the model of a checked state, which may hold more prompts."""
        return PromptCosts(self.unit_size, state["unit_costs"])

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self._set(self.unit_costs)

    def _set(self, unit_costs: FloatArray) -> None:
        self.unit_costs = self.rates = unit_costs
        self.least, self.mean = float(unit_costs.min()), float(unit_costs.mean())


def cost_model(unit_size: int, unit_costs: FloatArray | None) -> RolloutCosts:
    """Return the model for tokens per unit: one entry for all prompts, one per prompt, or None to count rollouts."""
    if unit_costs is None:
        return RolloutCosts(unit_size)
    if unit_costs.size == 1:
        return UniformCosts(unit_size, float(unit_costs[0]))
    return PromptCosts(unit_size, unit_costs)


def token_costs(costs: npt.ArrayLike, n_prompts: int) -> FloatArray:
    """Return tokens per rollout, one entry or one per prompt; the bounds keep every sum over a run finite."""
    remedy = "Give the expected tokens of a rollout, one number or one per prompt."
    array = np.atleast_1d(reals("costs", costs, low=0.0, high=np.inf, open_low=True, remedy=remedy))
    for i in np.flatnonzero(~((array >= _CHEAPEST) & (array <= _DEAREST)))[:1].tolist():
        condition = f"be between {_CHEAPEST:g} and {_DEAREST:g}"
        raise ValueError(error_text("costs", condition, float(array.ravel()[i]), remedy, i))
    if array.shape not in ((1,), (n_prompts,)):
        raise ValueError(error_text("costs", f"be a number or have shape ({n_prompts},)", array.shape, remedy))
    return array
