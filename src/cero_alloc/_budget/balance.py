"""Balance: where the budget of a run is."""

from __future__ import annotations

from typing import NamedTuple


class Balance(NamedTuple):
    """Where the budget is: at all times spent + reserved + left = total, in rollouts, or in tokens where they are counted.

    Attributes
    ----------
    total : float
        The budget of the run as it stands, an int where rollouts are counted.
    spent : float
        Rollouts or tokens reported, written off, or begun and given up.
    reserved : float
        Rollouts or tokens dealt, and neither reported, refunded, expired nor written off.
    left : float
        Rollouts or tokens not dealt.

    Examples
    --------
    >>> total, spent, reserved, left = Balance(64, 24, 16, 24)
    >>> spent + reserved + left == total
    True
    """

    total: float
    spent: float
    reserved: float
    left: float
