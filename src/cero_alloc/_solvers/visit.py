"""One visit of prompts with concave scores, in single units: without a table, only gains near the price are computed."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import NamedTuple

from cero_alloc._checks import IntArray

from .units import NO_UNITS, SAMPLE, Units, sample_rows

_TINY = 5e-324  # at price 0 a unit must still gain something


class Visit(NamedTuple):
    """Counts of one visit in units, and the price that cleared it."""

    units: IntArray
    price: float


def solve_visit(
    score: Units, least: IntArray, most: IntArray, *, low: float, high: float, floor: float, much: float
) -> Visit | None:
    """Maximise concave scores net of a floor price over counts whose total lies in a window.

    Solves what :func:`solve_batch` solves, for single units of equal cost, with the units below ``least`` before all others
    and those beyond ``most`` after them.

    Parameters
    ----------
    score : Units
        Scores of the rows, from 0 to the most units of a visit.
    least, most : numpy.ndarray of int64, shape (1,) or (n_rows,)
        Counts that leave the optimal plan within reach.
    low, high : float
        Window of the total.
    floor : float
        Price below which nothing is taken, unless ``low`` asks for it.
    much : float
        More than any gain: added below ``least`` and subtracted beyond ``most``.
    """
    free = replace(score, lower=least, upper=most)
    sure, wanted = score.sum_of(least), score.sum_of(most)
    first, last = (min(int(total), score.total) for total in (low, high))
    floor = max(floor, _TINY)
    if sure > last:
        target: int | None = last
    elif wanted < first:
        target = first
    else:  # a sample guesses which end binds
        target = _binding(free, floor, first, last)
    if target is not None:
        units, next_gain, last_gain = _spend(score, free, sure, wanted, much, target, floor)
        if (target == last and next_gain >= floor) or (target == first and last_gain < floor):
            return Visit(units, next_gain)
    units = free.worth(floor)
    total = int(units.sum())
    if low <= total <= high:
        return Visit(units, floor if floor > _TINY else 0.0)
    return Visit(*_spend(score, free, sure, wanted, much, last if total > high else first, floor)[:2])


def _binding(free: Units, floor: float, low: int, high: int) -> int | None:
    """Return the end of the window that most likely binds, None for neither."""
    size = free.q.size
    if size <= 2 * SAMPLE:
        return None
    units = free[sample_rows(size)].worth(floor)
    scale = size / SAMPLE
    expected, doubt = scale * float(units.sum()), scale * sqrt(SAMPLE) * float(units.std())
    if expected - doubt > high:
        return high
    return low if expected + doubt < low else None


def _spend(
    score: Units, free: Units, sure: int, wanted: int, much: float, total: int, guess: float
) -> tuple[IntArray, float, float]:
    """Return the counts of a total, the gain of the next unit, and that of the last one where it was looked at."""
    if total < sure:
        part, k = replace(free, lower=NO_UNITS, upper=free.lower, shift=much), total
    elif total < wanted:
        part, k = free, total - sure
    else:
        part, k = replace(score, lower=free.upper, shift=-much), total - wanted
    if k < part.total:
        taken = part.take(k + 1, guess, spare=1)
        taken.units[taken.last] -= 1
    else:  # all units are dealt: there is no next one, and the price is the least gain
        parts = (part, free, replace(free, lower=NO_UNITS, upper=free.lower, shift=much))
        part = next(part for part in parts if part.total)
        taken = part.take(part.total, guess)
    return taken.units, taken.price, taken.before
