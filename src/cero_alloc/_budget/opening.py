"""Opening the account of a run whose horizon is given by rounds, by visits or by both."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np

from cero_alloc._checks import FloatArray, error_text, multiple, real

from .costs import cost_model
from .horizon import MOST_UNITS, whole_units
from .ledger import RolloutLedger


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
    """Open the account of a run.

    Parameters
    ----------
    n_prompts : int
        Prompts in the pool.
    total_budget : int or float
        Rollouts over the run, or tokens.
    n_rounds : int or None
        Rounds of the run; None where the visits are the clock.
    visits : numpy.ndarray of float64, shape (n_prompts,), or None
        How often each prompt is offered; None for every round.
    unit_size : int
        Rollouts per unit.
    max_rollouts : int
        Largest count of one prompt in one round, in rollouts.
    round_capacity : int, float or None
        Largest total of one round, in the unit of the budget; None for no other cap than ``max_rollouts``.
    unit_costs : numpy.ndarray of float64, shape (1,) or (n_prompts,), or None
        Tokens per unit; None counts rollouts.

    Raises
    ------
    ValueError
        For sizes out of range, and a budget that cannot be spent or pays for no unit.
    TypeError
        For sizes that are not integers, and tokens that are not numbers.
    """
    g = unit_size
    most = multiple("max_rollouts", max_rollouts, g, least=g, most=g * MOST_UNITS)
    offers = np.full(n_prompts, float(n_rounds or 0)) if visits is None else visits
    costs, total, tokens = cost_model(g, unit_costs), total_budget, None
    if unit_costs is not None:
        remedy = "Count tokens over the run."
        tokens = real("total_budget", total_budget, low=0.0, high=np.inf, open_low=True, remedy=remedy)
        _require_spendable(tokens, most // g * float((unit_costs * offers).sum()), "tokens", "visits at max_rollouts")
        if round_capacity is not None and n_rounds is not None:
            _require_spendable(tokens, n_rounds * round_capacity, "tokens", "rounds at round_capacity")
        # The horizon counts rollouts of the mean cost: its equal share is the exposure that the tokens buy every prompt.
        mean = float(unit_costs.mean())
        total = whole_units(tokens, mean) * g
        if not costs.in_units:
            total, round_capacity = min(max(g, total), int(offers.sum()) * most), None
        else:
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
        n_rounds=int(offers.sum()) if n_rounds is None else n_rounds,  # every round offers a prompt
        unit_size=g,
        max_rollouts=most,
        round_capacity=round_capacity,
        mean_offer=None if visits is None or n_rounds is None else float(offers.sum()) / n_rounds,
        costs=costs,
        total=tokens,
    )
    if n_rounds is None:  # the visits are the clock
        ledger.all_offers = costs.of_visits(offers)
    return ledger


def _require_spendable(total: float, most: float, unit: str, what: str) -> None:
    if total > most:
        remedy = "Lower the budget, or raise visits, rounds or caps."
        raise ValueError(error_text("total_budget", f"be at most the {most:g} {unit} of all {what}", total, remedy))


def _require_unit(name: str, tokens: float, cost: float) -> None:
    if tokens < cost:
        raise ValueError(error_text(name, f"pay for a unit of {cost:g} tokens", tokens, "Raise it, or check costs."))
