"""What one round may spend: caps, exact totals and an even pace, in rollouts or in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text, flag, multiple, real, reals

from .horizon import whole_units
from .ledger import RolloutLedger

MOST_UNITS = 2**20  # of one prompt in one round: a visit may hold a table of them
_CHEAPEST, _DEAREST = 1e-150, 1e150  # tokens per rollout: sums of them, and utility per token, stay finite

Window = tuple[float, float]  # least and most that a round may spend: units, or tokens where prompts differ in cost


@dataclass(slots=True)
class Pacing:
    """The rules for a round's total.

    Attributes
    ----------
    ledger : RolloutLedger
        The run's account.
    min_units : int
        Least count of a prompt other than 0, in units.
    band : float
        Share by which a round may leave the even pace; inf lets it be.
    capacity : float
        Most tokens of one round where prompts differ in cost; else unused.
    by_rounds : bool
        Whether the number of rounds sets the pace, else the visits do.
    """

    ledger: RolloutLedger
    min_units: int
    band: float
    capacity: float
    by_rounds: bool

    def window(
        self, rows: IntArray | None, size: int, left: FloatArray | None, budget: float | None, exact: bool
    ) -> Window:
        """Return the least and the most that a round over ``rows`` may spend; raise on an infeasible request.

        ``left`` holds the offers to come per prompt, this one included, or without costs their sum; None where they are
        not known.
        """
        exact = flag("exact", exact)
        if self.ledger.unit_costs is not None:
            low, high = self._tokens(rows, size, budget, exact)
        else:
            low, high = self._units(size, budget, exact)
        if budget is not None:
            return low, high
        if size == 0 or high <= 0.0:  # nobody on offer, or nothing left
            return 0.0, 0.0
        rate, later = self.pace(rows, size, left)
        low = max((1.0 - self.band) * rate, self.ledger.left - later, 0.0)
        top = max((1.0 + self.band) * rate, low)
        if self.ledger.unit_costs is None:
            low, top = float(ceil(low - 1e-9)), top if top == np.inf else float(floor(top + 1e-9))
            if low > top:  # the band is less than a unit wide
                low = top = float(round(rate))
        high = min(high, top)
        return min(low, high), high

    def _units(self, size: int, budget: Any, exact: bool) -> Window:
        ledger = self.ledger
        step, g = ledger.tokens_per_unit, ledger.horizon.unit_size
        if step is not None and budget is not None:
            tokens = real("budget", budget, low=0.0, high=np.inf, remedy="Count tokens.")
            most = 0 if ledger.finished else min(ledger.reach(size), ledger.units_left)
            units = whole_units(tokens, step)
            if exact and (units * step != tokens or units > most):
                condition = f"be a multiple of {step:g} tokens up to {most * step:g} with exact=True"
                raise ValueError(error_text("budget", condition, tokens, "Pass it as a cap, without exact=True."))
            budget = units * g
        cap = ledger.round_units(size, budget, exact)
        most = min(ledger.reach(size), ledger.units_left)
        if not exact:
            return 0.0, float(min(cap, most))
        max_units = ledger.horizon.max_units
        require_reachable(
            cap, most, self.min_units, max_units, *((g, "rollouts") if step is None else (step, "tokens"))
        )
        return float(cap), float(cap)

    def _tokens(self, rows: IntArray | None, size: int, budget: float | None, exact: bool) -> Window:
        if exact:
            what = "be given" if budget is None else "be a cap where the costs differ, not a total"
            raise ValueError(
                error_text("budget", f"{what} with exact=True", budget, "Pass it as a cap, without exact.")
            )
        reach = self.ledger.horizon.max_units * self.ledger.offer_of(rows, size)
        cap = min(self.capacity, self.ledger.left, reach)
        if budget is not None:
            cap = min(cap, real("budget", budget, low=0.0, high=np.inf, remedy="Give this round's cap in tokens."))
        return 0.0, cap

    def pace(self, rows: IntArray | None, size: int, left: FloatArray | None) -> Window:
        """Return what an even pace spends on this round, and the most that later rounds can spend.

        Rounds to come are taken to be as large as those so far; without a number of rounds, visits to come count.
        """
        ledger, max_units = self.ledger, self.ledger.horizon.max_units
        offered = ledger.offer_of(rows, size)
        if self.by_rounds:
            rounds = max(0, ledger.rounds_left - 1)
            mean = (ledger.offered + offered) / (ledger.round + 1)
            others = rounds * mean
            most = ledger.reach(ledger.exposure.size) if ledger.unit_costs is None else self.capacity
            # The last round may be as small as the smallest so far: what it cannot hold must be spent before.
            last = min(ledger.least_offer, offered)
            later = min(max_units * ((rounds - 1) * mean + last), rounds * most) if rounds else 0.0
        else:
            assert left is not None
            others = float((left if ledger.unit_costs is None else ledger.unit_costs * left).sum()) - offered
            later = max_units * others
        weight = offered + others
        return (ledger.left * offered / weight if weight > 0.0 else 0.0), later


def require_reachable(units: int, most: int, min_units: int, max_units: int, step: float, unit: str) -> None:
    """Refuse an exact total that no counts in {0} u [min_units, max_units] add up to; a unit costs ``step``."""
    few = -(-units // max_units)  # prompts that it takes
    if few * min_units <= units:
        return
    nearest = [total for total in ((few - 1) * max_units, few * min_units) if total <= most]
    condition = f"be a sum of counts from {min_units * step:g} to {max_units * step:g} {unit} with exact=True"
    remedy = f"Nearest such totals: {', '.join(f'{total * step:g}' for total in nearest)}."
    raise ValueError(error_text("budget", condition, type(step)(units * step), remedy))


def open_ledger(
    n_prompts: int,
    *,
    total_budget: Any,
    n_rounds: int | None,
    visits: FloatArray | None,
    unit_size: int,
    max_rollouts: SupportsIndex,
    round_capacity: Any,
    unit_costs: FloatArray | None,
) -> RolloutLedger:
    """Open the account of a run whose horizon is told by rounds, by visits (one per prompt) or by both."""
    g = unit_size
    most = multiple("max_rollouts", max_rollouts, g, least=g, most=g * MOST_UNITS)
    offers = np.full(n_prompts, float(n_rounds or 0)) if visits is None else visits
    total, tokens = total_budget, None
    if unit_costs is not None:
        remedy = "Count tokens over the run."
        tokens = real("total_budget", total_budget, low=0.0, high=np.inf, open_low=True, remedy=remedy)
        _require_spendable(tokens, most // g * float((unit_costs * offers).sum()), "tokens", "visits at max_rollouts")
        if round_capacity is not None and n_rounds is not None:
            _require_spendable(tokens, n_rounds * round_capacity, "tokens", "rounds at round_capacity")
        # The horizon counts rollouts of the mean cost: its equal share is the exposure that the tokens buy everybody.
        mean = float(unit_costs.mean())
        total = whole_units(tokens, mean) * g
        if unit_costs.size > 1:
            total, round_capacity = min(max(g, total), int(offers.sum()) * most), None
        else:  # whole units of one cost: from here on the run counts rollouts
            _require_unit("total_budget", tokens, mean)
            if round_capacity is not None:
                _require_unit("round_capacity", round_capacity, mean)
                round_capacity = whole_units(round_capacity, mean) * g
                total = total if n_rounds is None else min(total, n_rounds * round_capacity)
    elif n_rounds is None:
        _require_spendable(
            multiple("total_budget", total, g, least=g), int(offers.sum()) * most, "rollouts", "visits at max_rollouts"
        )
    ledger = RolloutLedger.plan(
        n_prompts,
        total_budget=total,
        n_rounds=int(offers.sum()) if n_rounds is None else n_rounds,  # a round offers somebody
        unit_size=g,
        max_rollouts=most,
        round_capacity=round_capacity,
        offered=None if visits is None or n_rounds is None else float(offers.sum()) / n_rounds,
        tokens=tokens,
        unit_costs=unit_costs,
    )
    if n_rounds is None:  # the visits are the clock
        ledger.all_offers = float((offers if ledger.unit_costs is None else ledger.unit_costs * offers).sum())
    return ledger


def token_costs(costs: npt.ArrayLike, n_prompts: int) -> FloatArray:
    """Return tokens per rollout, one entry or one per prompt, of which all rollouts of a run add up to a float."""
    remedy = "Give the expected tokens of a rollout, one number or one per prompt."
    array = np.atleast_1d(reals("costs", costs, low=0.0, high=np.inf, open_low=True, remedy=remedy))
    for i in np.flatnonzero(~((array >= _CHEAPEST) & (array <= _DEAREST)))[:1].tolist():
        condition = f"be between {_CHEAPEST:g} and {_DEAREST:g}"
        raise ValueError(error_text("costs", condition, float(array.ravel()[i]), remedy, i))
    if array.shape not in ((1,), (n_prompts,)):
        raise ValueError(error_text("costs", f"be a number or have shape ({n_prompts},)", array.shape, remedy))
    return array


def _require_spendable(total: float, most: float, unit: str, what: str) -> None:
    if total > most:
        remedy = "Lower the budget, or raise visits, rounds or caps."
        raise ValueError(error_text("total_budget", f"be at most the {most:g} {unit} of all {what}", total, remedy))


def _require_unit(name: str, tokens: float, cost: float) -> None:
    if tokens < cost:
        raise ValueError(error_text(name, f"pay for a group of {cost:g} tokens", tokens, "Raise it, or check costs."))
