"""A bank from a state: an empty one to load the state into, and the part of the state that is its evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from cero_alloc._saving.state import State

from .evidence import Evidence

Bank = TypeVar("Bank")


def evidence_of(state: Mapping[str, Any]) -> State:
    """Return the part of a bank's state that is its evidence's."""
    return {"class": Evidence.__name__, **{key: state[key] for key in Evidence.FIELDS if key in state}}


def empty_bank(build: Callable[..., Bank], state: Mapping[str, Any], label: str, size: int | None = None) -> Bank:
    """Return a bank without evidence, over the first ``size`` prompts of a bank's state, for that state to be loaded into.

    Raises
    ------
    ValueError
        For a state without ids or outcomes.
    """
    ids, outcomes = state.get("prompt_ids"), state.get("outcomes")
    if not isinstance(ids, (int, list)) or isinstance(ids, bool) or not isinstance(outcomes, np.ndarray):
        raise ValueError(f"{label} must hold the ids and the evidence of a bank. Pass what save wrote.")
    if size is not None:
        ids = min(size, ids) if isinstance(ids, int) else ids[:size]
    return build(ids, dtype=outcomes.dtype)
