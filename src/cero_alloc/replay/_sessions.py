"""Logs that an allocator wrote: their headers, their sums of rewards, and the sessions of a run that was resumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cero_alloc._allocators.run_log import MARK
from cero_alloc._checks import FloatArray, IntArray

from ._lines import json_object
from ._log import changes
from ._scale import ROUNDING

MOST_TRIALS = 10**8  # of one line; NumPy's hypergeometric draws need populations below 10**9
_BLUR = 1e-14  # variance of a group's rewards, up to which it could be the rounding of their sums


def header_of(text: str) -> dict[str, Any] | None:
    """Return the header in a line of a log, None if it is none."""
    if not text.startswith(MARK):
        return None
    try:
        header = json_object(text)
    except ValueError:
        return None
    kinds = {"allocator": str, "prompts": int, "round": int}
    return header if all(type(header.get(name)) is kind for name, kind in kinds.items()) else None


def parts_of(wins: FloatArray, trials: FloatArray, squares: FloatArray) -> list[tuple[FloatArray, IntArray]]:
    """Return rewards and rollouts that have these sums and sums of squares, in parts of one reward per line.

    Of all rewards in [0, 1] with a sum, those with the most squares are 1 or 0, but for one of them. Shrunk towards their
    mean they keep the sum, and reach every sum of squares down to that of equal rewards. NaN stands for rewards 0 and 1.
    """
    coins = np.isnan(squares)
    fits = (trials >= 1.0) & (trials <= MOST_TRIALS) & (trials == np.floor(trials)) & (wins >= 0.0) & (wins <= trials)
    if not (fits & (coins | ((squares >= 0.0) & (squares <= wins * (1.0 + ROUNDING))))).all():
        raise ValueError("successes, trials and squares are not those of rewards")
    whole, mean = np.floor(wins), wins / trials
    rest = wins - whole
    variance, most = (np.maximum(part / trials - mean * mean, 0.0) for part in (squares, whole + rest * rest))
    alike = variance <= np.maximum((ROUNDING * mean) ** 2, _BLUR)
    spread = np.sqrt(np.divide(variance, most, out=np.ones_like(mean), where=variance < most * (1.0 - ROUNDING)))
    spread = np.where(coins, 1.0, np.where(alike, 0.0, spread))
    numbers = whole, rest > 0.0, trials - whole - (rest > 0.0)
    return [
        (spread * reward + (1.0 - spread) * mean, number.astype(np.int64))
        for reward, number in zip((1.0, rest, 0.0), numbers, strict=True)
    ]


def of_last_session(
    prompt: IntArray, step: FloatArray, attempt: IntArray, sessions: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Return which rows belong to the run as it went on; rows are sorted by step, prompt and attempt.

    A session deals anew what an earlier one had dealt after the round in which it was resumed, and perhaps that round.
    """
    last = np.full(len(sessions) + 1, np.inf)
    for session in np.unique(attempt[attempt > 0]).tolist():  # those that got to a line
        last[:session] = np.minimum(last[:session], sessions[session - 1])
    group = changes(prompt, step)
    latest = np.repeat(np.maximum.reduceat(attempt, group), np.diff(np.append(group, step.size)))
    kept: npt.NDArray[np.bool_] = (attempt == latest) & (step <= last[attempt])
    return kept
