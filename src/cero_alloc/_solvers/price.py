"""The price at which a falling demand meets a budget."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf, sqrt
from typing import NamedTuple

_TOLERANCE = 1e-13  # of the budget
_MAX_PASSES = 400  # evaluations of the demand, each a pass over the pool; 2 to 6 are usual
LEAST, _MOST = 5e-324, 1e300  # prices
FREE = 1e-290  # what is not wanted at this price is worth nothing


class Clearing(NamedTuple):
    """Where demand meets a budget: at two neighbouring prices where demand jumps over the budget, else at one."""

    low: float  # demand is at least the budget
    high: float  # demand is at most the budget
    share: float  # part of the jump between the two that the budget pays for


def clear(
    demand: Callable[[float], tuple[float, float]], budget: float, most: float, guess: float, width: float = 4e-16
) -> Clearing:
    """Find the price at which a falling demand meets the budget, by Newton's method in log(price) with bisection as a guard.

    Parameters
    ----------
    demand : callable
        Returns what is taken at a price, and its pull: minus the derivative by log(price), 0 where demand jumps.
    budget : float
        What the demand is to be.
    most : float
        Demand at price 0.
    guess : float
        First price that is tried; any number will do.
    width : float
        Relative width to which a jump of the demand is bracketed, by chords and bisection in turn.
    """
    if most <= budget:
        return Clearing(0.0, 0.0, 1.0)
    lo, hi, over, under = 0.0, inf, most, 0.0
    price = guess if LEAST < guess < _MOST else 1.0
    stride = 2.0
    for trial in range(_MAX_PASSES):
        total, pull = demand(price)
        if abs(total - budget) <= _TOLERANCE * budget:
            return Clearing(price, price, 1.0)
        if total > budget:
            lo, over = price, total
        else:
            hi, under = price, total
        if lo == 0.0 and hi < FREE:
            return Clearing(0.0, 0.0, 1.0)  # no prompt wants the rest
        if lo > 0.0 and hi < inf and hi - lo <= width * hi:
            break
        fresh = 0.0
        if pull > 0.0 and trial % 8 < 7:
            fresh = price * exp(min(max((total - budget) / pull, -100.0), 100.0))
        elif trial % 2 and lo > 0.0 and hi < inf:
            fresh = lo * (hi / lo) ** ((over - budget) / (over - under))
        if not lo < fresh < hi:
            if lo > 0.0 and hi < inf:
                fresh = sqrt(lo) * sqrt(hi)
            else:
                fresh = price * stride if lo > 0.0 else price / stride
                stride = min(stride * stride, 1e30)
        price = fresh
    return Clearing(lo, hi, (budget - under) / (over - under))
