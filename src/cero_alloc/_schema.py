"""The layout of states: which one is written, and how older ones are brought up to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ._checks import error_text
from ._state import State

SCHEMA = 2


def upgrade(state: Mapping[str, Any], label: str, like: Callable[[], State]) -> State:
    """Return a state in the present layout; states without a number are of layout 1.

    ``like`` gives a state of the object that is to take it: what an older layout left to the constructor's arguments.

    Raises
    ------
    ValueError
        For a number that this version does not know.
    """
    schema = state.get("schema", 1)
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        condition = f"be a number from 1 to {SCHEMA}"
        raise ValueError(error_text(f"{label}['schema']", condition, schema, "A newer cero-alloc wrote it: upgrade."))
    upgraded = {name: entry for name, entry in state.items() if name != "schema"}
    if schema == SCHEMA:
        return upgraded
    try:
        return _from_1(upgraded, like())
    except (TypeError, ValueError, LookupError, AttributeError):  # it is not what it says, whatever it is
        raise ValueError(
            f"{label} must be of layout {schema}, which it is not. Pass what state_dict returned."
        ) from None


def _from_1(state: State, like: State) -> State:
    """Layout 1 knew no reservations by round, no deliveries, and neither growth nor another plan under way."""
    for name, part in state.items():
        if isinstance(part, Mapping) and isinstance(like.get(name), dict) and "class" in part:
            state[name] = _from_1(dict(part), like[name])
    ids = state.get("prompt_ids")
    if isinstance(ids, (range, tuple, np.ndarray)):
        state["prompt_ids"] = len(ids) if isinstance(ids, range) else list(ids)
    if state.get("class") == "RolloutLedger" and isinstance(state.get("accounts"), np.ndarray):
        outstanding = state["accounts"][:, 1]
        rows = np.flatnonzero(outstanding)
        # Nobody noted the rounds of what is outstanding: taken for the last one's, nothing expires early.
        rounds = np.full(rows.size, max(1, int(state["round"])), dtype=np.int64)
        state["reservations"] = {"round": rounds, "row": rows, "rollouts": outstanding[rows].astype(np.int64)}
        state["least_offer"] = float(state["least_offer"])
    if isinstance(state.get("round"), Mapping):  # of a rule that deals in waves
        state["round"] = {**state["round"], "named": len(state["round"].get("rows", ()))}
    return {name: state.get(name, like.get(name)) for name in {**like, **state} if name != "schema"}
