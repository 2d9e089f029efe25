"""Prompts that never earned anything: how many rollouts of each were reported, over the whole life of a bank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import IntArray

from .kernels import REWARDED

Counts = npt.NDArray[np.uint16]


def merged(ours: Counts | None, theirs: Counts | None, rows: IntArray, size: int) -> Counts | None:
    """Return the counts of two banks together; ``rows`` are ours of their prompts, in a pool of ``size``."""
    if theirs is None:
        return ours
    total = np.zeros(size, dtype=np.int64) if ours is None else ours.astype(np.int64)
    earned = (total[rows] == REWARDED) | (theirs == REWARDED)
    total[rows] = np.where(earned, REWARDED, np.minimum(total[rows] + theirs, REWARDED - 1))
    return total.astype(np.uint16)


def of_older_state(state: Mapping[str, Any]) -> Counts | None:
    """Return the counts for a state from before there were any: they begin anew, for prompts without successes in evidence.

    Where beliefs moved, evidence does not tell who earned anything, and the counts of all prompts begin anew.
    """
    outcomes = state.get("outcomes")
    if not isinstance(outcomes, np.ndarray) or outcomes.ndim != 2 or outcomes.shape[1:] != (2,):
        return None  # which the check of that entry refuses
    earned = (outcomes[:, 0] > 0.0) & (not state.get("moved"))
    return np.where(earned, REWARDED, 0).astype(np.uint16) if outcomes.any() else None
