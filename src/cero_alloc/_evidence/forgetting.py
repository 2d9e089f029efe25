"""Forgetting: the rate at which evidence fades, estimated from a history by prequential likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, error_text, reals
from cero_alloc._saving.shown import Shown

from .prior import log_evidence
from .rewards import Feedback

_GRID_REMEDY = "Offer shares of the evidence that survive a round, such as (1.0, 0.99, 0.9)."

# Forgetting has one parameter more than never forgetting, for which a likelihood-ratio test at 95% requires 1.92 nats.
# Below that the larger share wins: needless forgetting discards evidence in every round, whereas real drift goes on
# raising the score, so that a later call finds it.
_WORTH_FORGETTING = 2.0  # nats


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ForgettingChoice(Shown):
    """The forgetting that would have predicted a history best, and the scores of all candidates.

    Attributes
    ----------
    forgetting : float
        Share of the evidence that now survives a round.
    grid : numpy.ndarray of float64, shape (n_grid,)
        Candidates, as given: shares in (0, 1].
    log_likelihood : numpy.ndarray of float64, shape (n_grid,)
        Log-probability of the history under each candidate, each entry given the earlier ones, in nats.
    n_predictions : int
        Entries of prompts that had feedback in an earlier round; only these distinguish the candidates.
    status : {"selected", "no repeats"}
        "no repeats": no prompt had feedback in two rounds, and the old value stays.

    References
    ----------
    Dawid, Present position and potential developments: the prequential approach, J. R. Statist. Soc. A 147 (1984).

    Examples
    --------
    >>> choice = ForgettingChoice(0.9, np.array([1.0, 0.9]), np.array([-70.2, -61.5]), 40, "selected")
    >>> choice.forgetting
    0.9
    """

    forgetting: float
    grid: FloatArray
    log_likelihood: FloatArray
    n_predictions: int
    status: Literal["selected", "no repeats"]


def forgetting_grid(grid: npt.ArrayLike) -> FloatArray:
    """Return the candidates as float64, checked to be shares in (0, 1]."""
    array = reals("grid", grid, low=0.0, high=1.0, open_low=True, remedy=_GRID_REMEDY)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(error_text("grid", "have shape (n_grid,)", array.shape, _GRID_REMEDY))
    return array


def choose_forgetting(
    rounds: Sequence[Feedback], grid: FloatArray, a0: FloatArray, b0: FloatArray, size: int, current: float
) -> ForgettingChoice:
    """Replay rounds into an empty bank for every candidate, and score each entry before it is added.

    (a0, b0) has one entry or one per prompt; there are ``size`` prompts.
    """
    succ, fail = np.zeros((grid.size, size)), np.zeros((grid.size, size))  # one bank per candidate
    tick = np.zeros(size, dtype=np.int64)
    seen = np.zeros(size, dtype=np.bool_)
    score = np.zeros(grid.size)
    n_predictions = 0
    for now, (rows, successes, rollouts, _) in enumerate(rounds):
        fading = grid[:, None] ** (now - tick[rows])
        s, f = succ[:, rows] * fading, fail[:, rows] * fading
        a, b = (a0, b0) if a0.size == 1 else (a0[rows], b0[rows])
        score += log_evidence(a + s, b + f, successes, rollouts - successes).sum(axis=1)
        n_predictions += int(np.count_nonzero(seen[rows] & (rollouts > 0)))
        succ[:, rows], fail[:, rows] = s + successes, f + (rollouts - successes)
        tick[rows] = now
        seen[rows] |= rollouts > 0
    if n_predictions == 0:
        return ForgettingChoice(current, grid, score, 0, "no repeats")
    near = grid[score >= score.max() - _WORTH_FORGETTING]
    return ForgettingChoice(float(near.max()), grid, score, n_predictions, "selected")
