"""One visit's counts: maximise separable scores of whole counts in {0} u [min_units, max_units] under one total."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cero_alloc._checks import FloatArray, IntArray, TieArray

from . import ranking_kernels, tables_kernels
from .ranking import NO_TOPS
from .units import TINY

_CORE = 64  # rows that the repair may change
_ONE = np.ones(1)


@dataclass(frozen=True, slots=True)
class BatchSolution:
    """Counts of one visit, and the prices around them.

    Attributes
    ----------
    units : numpy.ndarray of int64, shape (n_rows,)
        Counts in units.
    price : float
        Clearing price: the floor where the window does not bind. Utility per unit, or per cost.
    wanted : float
        Cost of the best counts at the floor price, before the window.
    gap : float
        Upper bound on the gain of any other allowed counts; infinite where costs differ and the window binds.
    """

    units: IntArray
    price: float  # utility per cost
    wanted: float  # units, or cost
    gap: float  # utility


def solve_batch(
    gains: FloatArray,
    *,
    min_units: int,
    low: float,
    high: float,
    floor: float,
    tie: TieArray,
    cost: FloatArray | None = None,
) -> BatchSolution:
    r"""Maximise the scores net of a floor price over counts whose total cost lies in a window.

    .. math::

        \max_n \sum_j f_j(n_j) - \lambda \sum_j c_j n_j \quad \text{s.t.} \quad n_j \in \{0\} \cup [n_{\min}, n_{\max}],
        \; \text{low} \le \sum_j c_j n_j \le \text{high}

    A price on the concave envelopes of the scores determines all counts but one block. The rest of the total is filled
    greedily and then repaired by an exact dynamic program over the rows whose second best count loses least.

    Parameters
    ----------
    gains : numpy.ndarray of float64, shape (n_rows, max_units)
        Score of unit n + 1 on top of n.
    min_units : int
        Least count other than 0.
    low, high : float
        Window of the total. The total stays below where no whole counts reach ``low``, or with costs where none were found.
    floor : float
        Price :math:`\lambda` below which nothing is taken, unless ``low`` requires it.
    tie : numpy.ndarray of int32, shape (n_rows,)
        Rank of the rows where scores are equal.
    cost : numpy.ndarray of float64, shape (1,) or (n_rows,), or None
        Cost per unit; None costs 1, and then the total is exact.

    Returns
    -------
    BatchSolution

    References
    ----------
    Claims 12 and 13 of the theory page: optimality of the envelope, and its gap.

    Examples
    --------
    >>> gains = np.array([[5.0, 4.0, 1.0], [4.0, 3.0, 2.0]])
    >>> solution = solve_batch(gains, min_units=2, low=0, high=3, floor=0.0, tie=np.arange(2, dtype=np.int32))
    >>> solution.units.tolist(), solution.price, solution.gap
    ([3, 0], 3.5, 2.5)
    """
    rows, max_units = gains.shape
    units = np.empty(rows, dtype=np.int64)
    slopes = np.empty_like(gains)
    tables_kernels.majorise(gains, min_units, np.empty(max_units, dtype=np.int64), np.empty(max_units), slopes)
    per_unit = _ONE if cost is None else cost
    wanted = tables_kernels.take_above(slopes, per_unit, max(floor, TINY), units)
    if low <= wanted <= high:
        return BatchSolution(units, floor, wanted, 0.0)
    target = high if wanted > high else low
    if cost is None:
        target = float(_reachable(int(target), rows, min_units, max_units, int(low), int(high)))
    units[:] = 0
    upto, start, order = np.full_like(units, max_units), np.zeros_like(units), np.argsort(tie)
    price, spent = tables_kernels.clear_slopes(
        slopes, per_unit, target, units, upto, np.empty((2, rows), dtype=np.int64)
    )
    left = tables_kernels.fill_ties(gains, slopes, min_units, per_unit, start, order, target - spent, units, upto)
    if cost is not None:
        gap = np.inf if left > 0.0 else 0.0
        least, room = (max(floor, TINY), left) if wanted > high else (-np.inf, left + high - low)
        need = np.inf if wanted > high else left  # towards the low end, and no further
        tables_kernels.fill_costly(gains, slopes, min_units, cost, tie, least, need, room, units)
        return BatchSolution(units, float(price), wanted, gap)
    if left <= 0:
        return BatchSolution(units, float(price), wanted, 0.0)
    window = (int(min(low, target) - target + left), int(left), int(high - target + left))
    units, gap = _finish(gains, slopes, min_units, tie, price, price - floor, window, units)
    return BatchSolution(units, float(price), wanted, gap)


def _finish(
    gains: FloatArray,
    slopes: FloatArray,
    min_units: int,
    tie: TieArray,
    price: float,
    slack: float,
    window: tuple[int, int, int],
    units: IntArray,
) -> tuple[IntArray, float]:
    """Add the units that the envelope leaves open; ``window`` is their least, best and largest number.

    Returns units and their loss against the envelope, which no counts exceed: the loss bounds the gap.
    """
    _, left, _ = window
    plan = units.copy()
    if not tables_kernels.complete(gains, slopes, tie, min_units, int(units.sum()) + left, plan):
        plan[:] = units
    changed = np.flatnonzero(plan != units)
    bound = sum(tables_kernels.change_loss(gains, r, price, units[r], plan[r]) for r in changed)
    bound += slack * (left - int(plan.sum() - units.sum()))
    if bound <= 0.0:
        return plan, 0.0
    losses = np.empty(units.size)
    tables_kernels.least_losses(gains, price, min_units, units, losses)
    core = np.empty_like(units)
    size = ranking_kernels.rank(-losses, tie, -np.inf, min(_CORE, units.size), core, NO_TOPS)
    core = core[:size][np.argsort(tie[core[:size]])]  # independent of the order of the rows
    reach = 4 * gains.shape[1]
    best, choice = np.empty((2, 2 * reach + 1)), np.empty((size, 2 * reach + 1), dtype=np.int64)
    repaired = units.copy()
    found = tables_kernels.repair(gains, core, price, slack, min_units, window, bound, repaired, best, choice)
    return (repaired, max(0.0, found)) if found <= bound else (plan, bound)  # of equal losses the fewer rollouts


def _reachable(total: int, rows: int, min_units: int, max_units: int, low: int, high: int) -> int:
    """Return the total nearest to ``total``, within the window if possible, that whole counts can add up to."""
    few = -(-total // max_units)  # rows needed
    if few <= rows and few * min_units <= total:
        return total
    below = min(few - 1, rows) * max_units
    above = few * min_units
    return above if below < low and above <= high and few <= rows else below
