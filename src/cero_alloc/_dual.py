"""One round of Algorithm 1: what is dealt, and where the price goes; the same for a whole pool and for merged shards."""

from __future__ import annotations

from math import sqrt

import numpy as np

from . import _kernels
from ._checks import FloatArray, IntArray, error_text, real
from ._ledger import Horizon, RolloutLedger


def play_round(
    key: FloatArray, tie: IntArray, price: float, ledger: RolloutLedger, cap: int, most: int, due: int, *, exact: bool
) -> tuple[IntArray, IntArray, float]:
    """Rank the candidates and deal.

    Parameters
    ----------
    key, tie : numpy.ndarray, shape (n_candidates,)
        Slopes and tie ranks; at least the ``cap`` units' worth of prompts that rank first.
    price : float
        Normalised price.
    ledger : RolloutLedger
        Knows the budget left.
    cap, most : int
        Units that this round may propose, and that all prompts on offer could take.
    due : int
        Units to deal at least, past the price if need be (catch-up); 0 for none.
    exact : bool
        Deal ``cap`` units, whatever the signs of the margins.

    Returns
    -------
    proposal, units : numpy.ndarray of int64, shape (n_candidates,)
        The virtual proposal, and what the budget covers of it.
    cleared : float
        Slope of the last prompt dealt where the round's total binds, else the price.
    """
    units, proposal, order = np.empty_like(tie), np.empty_like(tie), np.empty_like(tie)
    n_max, left = ledger.horizon.n_max, ledger.units_left
    threshold = -1.0 if exact else price  # slopes are never negative: below 0 everybody is in
    proposed, dealt = _kernels.propose(key, tie, threshold, n_max, cap, left, order, proposal, units)
    if due > dealt:  # the same ranking, further down; the dual step still sees the proposal
        dealt = _kernels.propose(key, tie, -1.0, n_max, due, due, order, np.empty_like(units), units)[1]
    bound = exact or dealt != proposed or dealt == cap < most
    return proposal, units, float(key[order[(dealt - 1) // n_max]]) if bound and dealt else price


def next_price(price: float, proposed: int, horizon: Horizon, step: float) -> float:
    """Return the price after a round that proposed so many units."""
    surplus = horizon.units_per_round - float(proposed)
    return min(1.0, max(0.0, price - step * surplus / horizon.price_scale))


def step_sizes(step_size: float | tuple[float, float] | None, n_rounds: int, *, batch: bool) -> tuple[float, float]:
    """Return the steps of slopes (0: one over the root of the visits) and price."""
    if step_size is None:
        return 0.0, 1.0 / sqrt(n_rounds)
    remedy = "Give (step of the slopes, step of the price), or None for the steps of the theorem."
    if isinstance(step_size, (tuple, list)):
        if len(step_size) != 2:
            raise ValueError(error_text("step_size", "be a pair", step_size, remedy))
        slope, price = step_size
    elif batch:
        raise ValueError(error_text("step_size", "be a pair when visits are given", step_size, remedy))
    else:
        slope = price = step_size
    checked = [real("step_size", step, low=0.0, high=np.inf, open_low=True, remedy=remedy) for step in (slope, price)]
    return checked[0], checked[1]
