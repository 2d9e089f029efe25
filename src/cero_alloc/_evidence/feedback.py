"""Checks of feedback: what update takes, as rows, successes and rollouts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, counts, error_text, successes

from . import kernels
from .ids import PromptIndex

Feedback = tuple[IntArray, FloatArray, IntArray]  # rows, successes, rollouts

_HISTORY_REMEDY = "Give (prompt_ids, successes, rollouts) per round, as update takes them."
_FAULTS = {
    1: ("rollouts", "be at least 0", "Report what was generated, refund what was not."),
    2: ("successes", "be finite and at least 0", "Leave rollouts without a reward out of both counts."),
    3: (
        "successes",
        "not exceed rollouts",
        "Rewards must lie in [0, 1]; rescale them, or check which column is which.",
    ),
}


def checked_feedback(
    index: PromptIndex, prompt_ids: Iterable[Hashable] | None, s: npt.ArrayLike, n: npt.ArrayLike
) -> Feedback:
    """Return rows, successes (float64) and rollouts (int64) of an update, after all checks.

    Parameters
    ----------
    index : PromptIndex
        The ids that may be named.
    prompt_ids : iterable of hashable, or None
        Prompts, each at most once; None for the whole pool in row order.
    s, n : array_like, shape (n_ids,)
        Sum of the rewards and number of rewarded rollouts of each prompt.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :meth:`~cero_alloc.BetaPosteriorBank.update`.
    """
    rows = index.named_rows(prompt_ids)
    rollouts, rewarded = counts("rollouts", n, rows.size), successes("successes", s, rows.size)
    position, kind = kernels.first_bad_feedback(rewarded, rollouts)
    if kind:
        name, condition, remedy = _FAULTS[kind]
        bad: Any = rollouts[position] if kind == 1 else rewarded[position]
        if kind == 3:
            condition += f"[{position}] = {rollouts[position]}"
        raise ValueError(error_text(name, condition, bad.item(), remedy, position))
    return rows, rewarded, rollouts


def checked_history(index: PromptIndex, history: Iterable[Any]) -> list[Feedback]:
    """Return the checked feedback of each round; an error names the round."""
    if isinstance(history, (str, bytes)) or not isinstance(history, Iterable):
        raise TypeError(error_text("history", "be a sequence of rounds", history, _HISTORY_REMEDY))
    rounds = []
    for k, entry in enumerate(history):
        if not isinstance(entry, (tuple, list)) or len(entry) != 3:
            raise ValueError(error_text("history", "hold three items per round", entry, _HISTORY_REMEDY, k))
        try:
            rounds.append(checked_feedback(index, *entry))
        except (KeyError, TypeError, ValueError) as error:
            raise type(error)(f"history[{k}]: {error.args[0]}") from None
    return rounds
