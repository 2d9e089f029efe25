"""Exact integer allocation of a total over rows with bounds: by decreasing unit gains, or in proportion to weights."""

from __future__ import annotations

import numpy as np

from cero_alloc._checks import FloatArray, IntArray, TieArray
from cero_alloc._solvers import tables_kernels

_ONE = np.ones(1)


def best_counts(gains: FloatArray, lower: IntArray, upper: IntArray, total: int, tie: TieArray) -> IntArray:
    r"""Maximise a sum of concave functions of integer counts with a given total.

    .. math:: \max_n \sum_i \sum_{m < n_i} \Delta_i(m) \quad \text{s.t.} \quad \sum_i n_i = T, \; l_i \le n_i \le u_i

    As :math:`\Delta_i` decreases from :math:`l_i` on, the optimal counts take the T largest gains. Quickselect finds the price that
    separates them exactly; units at the price itself are split evenly.

    Parameters
    ----------
    gains : numpy.ndarray of float64, shape (n_rows, max_units)
        Gain of unit m + 1 on top of m units, at least 0; decreasing along a row from ``lower`` on.
    lower, upper : numpy.ndarray of int64, shape (n_rows,)
        Bounds in units.
    total : int
        Units to deal. Below the sum of ``lower`` the result is ``lower``, above the sum of ``upper`` it is ``upper``.
    tie : numpy.ndarray of int32, shape (n_rows,)
        Ranks that order rows with equal gains.

    Returns
    -------
    numpy.ndarray of int64, shape (n_rows,)

    References
    ----------
    Fox, Discrete optimization via marginal analysis, Management Science 13 (1966).

    Examples
    --------
    >>> gains = np.array([[5.0, 4.0, 1.0], [4.5, 3.0, 2.0]])
    >>> best_counts(gains, np.array([0, 0]), np.array([3, 3]), 4, np.arange(2)).tolist()
    [2, 2]
    """
    falling = np.empty_like(gains)
    tables_kernels.fall(gains, lower, falling)
    units, upto = lower.copy(), upper.copy()
    _, spent = tables_kernels.clear_slopes(
        falling, _ONE, float(total), units, upto, np.empty((2, upto.size), dtype=np.int64)
    )
    share_ties(units, upto, total - int(spent), tie)
    return units


def share_ties(units: IntArray, upto: IntArray, left: int, tie: TieArray) -> None:
    """Add ``left`` units in place so that the counts are as level as ``upto`` allows; ties are ordered by ``tie``."""
    if left > 0:
        tables_kernels.level(np.zeros_like(units), units, upto, _ONE, np.argsort(tie), float(left))


def proportional(weights: FloatArray, lower: IntArray, upper: IntArray, total: int, tie: TieArray) -> IntArray:
    r"""Deal a total in proportion to weights within bounds, rounded by largest remainder.

    The shares are :math:`x_i = \min(u_i, \max(l_i, c w_i))` with the :math:`c` that spends the total. Units that the upper
    bounds leave over are split evenly among rows without weight.

    Parameters
    ----------
    weights : numpy.ndarray of float64, shape (n_rows,)
        Weights, at least 0.
    lower, upper, total, tie
        As in :func:`best_counts`.

    Returns
    -------
    numpy.ndarray of int64, shape (n_rows,)

    Examples
    --------
    >>> bounds = np.zeros(3, dtype=np.int64), np.full(3, 8)
    >>> proportional(np.array([1.0, 1.0, 2.0]), *bounds, 7, np.arange(3)).tolist()
    [2, 2, 3]
    """
    units = lower.copy()
    heavy = weights > 0.0
    if heavy.any():
        share = _shares(weights[heavy], lower[heavy], upper[heavy], total - int(lower[~heavy].sum()))
        units[heavy] = np.floor(share + 1e-9).astype(np.int64)
        part = np.zeros(units.size)
        part[heavy] = np.round(share - units[heavy], 9)  # equal remainders stay equal
        spare = max(0, total - int(units.sum()))
        order = np.lexsort((tie, -part))
        first = order[(units < upper)[order] & (part > 0.0)[order]][:spare]
        units[first] += 1
    share_ties(units, upper, total - int(units.sum()), tie)
    return units


def _shares(weights: FloatArray, lower: IntArray, upper: IntArray, total: int) -> FloatArray:
    """Return min(upper, max(lower, c w)) for the c that spends the total."""
    corners = np.unique(np.concatenate([lower / weights, upper / weights]))
    low, high = 0, corners.size - 1
    while low < high:  # the first corner at which the total is spent
        middle = (low + high) // 2
        if np.clip(corners[middle] * weights, lower, upper).sum() < total:
            low = middle + 1
        else:
            high = middle
    base = np.clip(corners[max(low - 1, 0)] * weights, lower, upper)
    top = np.clip(corners[low] * weights, lower, upper)
    rise = top.sum() - base.sum()
    part = min(1.0, max(0.0, (total - base.sum()) / rise)) if rise > 0.0 else 1.0
    mixed: FloatArray = base + part * (top - base)  # linear between corners
    return mixed
