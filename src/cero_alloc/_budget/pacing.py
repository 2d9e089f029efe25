"""What one round may spend: caps, exact totals and an even pace, in rollouts or in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cero_alloc._checks import FloatArray, IntArray, error_text, flag, real

from .costs import Window
from .ledger import RolloutLedger


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
        exact = flag("exact", exact)
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
            # The last round may be as small as the smallest so far; what it cannot take must be spent before.
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
    few = -(-units // max_units)  # prompts that the total takes at least
    if few * min_units <= units:
        return
    nearest = [total for total in ((few - 1) * max_units, few * min_units) if total <= most]
    condition = f"be a sum of counts from {min_units * step:g} to {max_units * step:g} {word} with exact=True"
    remedy = f"Nearest such totals: {', '.join(f'{total * step:g}' for total in nearest)}."
    raise ValueError(error_text("budget", condition, units * step, remedy))
