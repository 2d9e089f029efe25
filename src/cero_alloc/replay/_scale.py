"""The range of a log's rewards, and rewards that are equal up to rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cero_alloc._checks import FloatArray

ROUNDING = 1e-6  # relative
_MOST_LEVELS = 16  # distinct rewards of a sum of few parts


@dataclass(frozen=True, slots=True)
class RewardScale:
    """The range of the rewards in a log, which is mapped to [0, 1].

    Attributes
    ----------
    kind : str
        What was found: "0/1", "-1/1", "0/10", a number of levels such as "3 levels", or "continuous".
    low : float
        Smallest reward of the range, in the unit of the log.
    high : float
        Largest reward of the range.
    sure : bool
        Whether the ends are told or follow from the rewards; if not, they are the extremes that were logged.

    Examples
    --------
    >>> RewardScale("0/10", 0.0, 10.0).kind
    '0/10'
    """

    kind: str = "0/1"
    low: float = 0.0
    high: float = 1.0
    sure: bool = True


def mapped(rewards: FloatArray, scale: RewardScale) -> FloatArray:
    """Map rewards to [0, 1]; what rounding put outside is moved to the nearer end."""
    low, high = scale.low / 2.0, scale.high / 2.0  # halves, because the width may exceed the largest float
    return np.clip((rewards / 2.0 - low) / (high - low), 0.0, 1.0)


def scale_of(rewards: FloatArray) -> RewardScale:
    """Return the scale of distinct snapped rewards; the usual ranges, or the extremes."""
    low, high = float(rewards.min()), float(rewards.max())
    whole = f"{rewards.size} levels" if rewards.size <= _MOST_LEVELS else "continuous"
    if low >= 0.0 and high <= 1.0:
        return RewardScale("0/1" if set(rewards.tolist()) <= {0.0, 1.0} else whole)
    if set(rewards.tolist()) <= {-1.0, 1.0}:
        return RewardScale("-1/1", -1.0, 1.0)
    if rewards.size == 1:  # a log of one reward: it is wrong or right by its sign
        return RewardScale("1 level", min(0.0, low), max(0.0, high), sure=False)
    if rewards.size == 2:
        return RewardScale(f"{low:g}/{high:g}", low, high)
    return RewardScale(whole, low, high, sure=rewards.size <= _MOST_LEVELS)


def snapped(rewards: FloatArray) -> FloatArray:
    """Move rewards that differ by rounding only to one value; whole numbers take their neighbours.

    Values are clustered over the log, so that a prompt's groups agree, too. A cluster as wide as several roundings is a
    continuum, whose members stay apart.
    """
    values, place = np.unique(rewards, return_inverse=True)
    # Sums that should be 0 leave something of the terms' rounding; the median, so that an outlier does not set the unit.
    sizes = np.sort(np.abs(values[values != 0.0]))
    tiny = ROUNDING * 1e-3 * float(sizes[(sizes.size - 1) // 2]) if sizes.size else 0.0
    gap = values[1:] / 2.0 - values[:-1] / 2.0 > 0.5 * (
        ROUNDING * np.maximum(np.abs(values[1:]), np.abs(values[:-1])) + tiny
    )
    first = np.concatenate([[0], np.flatnonzero(gap) + 1])
    last = np.append(first[1:], values.size) - 1
    middle = values[(first + last) // 2]
    whole = np.rint(middle)
    close = np.abs(middle - whole) <= ROUNDING * np.maximum(np.abs(whole), tiny) + tiny
    centre = np.where(close, whole, middle)
    narrow = (
        values[last] - values[first]
        <= 4.0 * ROUNDING * np.maximum(np.abs(values[last]), np.abs(values[first])) + 4 * tiny
    )
    cluster = np.repeat(np.arange(first.size), last - first + 1)
    moved = np.where(narrow[cluster], centre[cluster], values)
    result: FloatArray = moved[place.ravel()]
    return result
