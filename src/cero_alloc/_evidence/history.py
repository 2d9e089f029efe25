"""History: past reports in bounded memory, from which drift, trend and prior are fitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cero_alloc._checks import FloatArray, IntArray
from cero_alloc._saving.state import UNCHANGED, Stateful, check_array

from .rewards import Feedback

FEWEST = 64  # prompts to which a history is thinned out; below that no prior can be fitted
MOST = 2**15  # entries; a fit then takes some tenths of a second
_MIX = np.uint64(0x9E3779B97F4A7C15)
_COLUMNS = {"ticks": np.int64, "rows": np.int64, "won": np.float64, "rollouts": np.int64}


class Rounds(NamedTuple):
    """Reports by round: one entry per prompt and round, the rounds in order, the prompts renumbered from 0."""

    starts: IntArray  # where each round begins, and the end
    ticks: IntArray  # time of each round
    rows: IntArray  # prompt of each entry
    won: FloatArray
    rollouts: IntArray
    n_prompts: int
    n_repeats: int  # entries of prompts that had one before


class History(Stateful):
    """All reports of some prompts: of every prompt, until there are too many entries, then of half of them, and so on.

    Which prompts are kept follows from their rows alone, so that the whole history of each is there. Only where too few
    prompts would be left, older reports go instead.
    """

    def __init__(self) -> None:
        self._halvings = 0
        self._parts: list[tuple[IntArray, IntArray, FloatArray, IntArray]] = []
        self._entries = 0

    def add(self, now: int, rows: IntArray, won: FloatArray, rollouts: IntArray) -> None:
        """Add a report."""
        kept = (rollouts > 0) & self._kept(rows)
        rows = rows[kept]
        if not rows.size:
            return
        self._parts.append((np.full(rows.size, now), rows, won[kept], rollouts[kept]))
        self._entries += rows.size
        while self._entries > MOST:
            self._merge()
            if self._entries > MOST:
                columns = self._parts[0]
                kept = self._kept(columns[1], self._halvings + 1)
                if np.unique(columns[1][kept]).size >= FEWEST:
                    self._halvings += 1
                else:  # too few prompts would be left: drop the older half of the reports instead
                    kept = np.arange(columns[0].size) >= columns[0].size // 2
                self._parts = [(columns[0][kept], columns[1][kept], columns[2][kept], columns[3][kept])]
                self._entries = int(np.count_nonzero(kept))

    def rounds(self) -> Rounds:
        """Return the reports by round."""
        self._merge()
        return by_round(*self._parts[0])

    def _kept(self, rows: IntArray, halvings: int | None = None) -> Any:
        """Tell which rows are kept: those whose hash begins with a zero bit per halving."""
        halvings = self._halvings if halvings is None else halvings
        if halvings == 0:
            return np.ones(rows.size, dtype=bool)
        return ((rows.astype(np.uint64) + np.uint64(1)) * _MIX) >> np.uint64(64 - halvings) == 0

    def _merge(self) -> None:
        """Merge all parts into one, and the reports of a prompt in a round into one entry."""
        empty = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)
        ticks, rows, won, rollouts = (np.concatenate(column) for column in zip(empty, *self._parts, strict=True))
        order = np.lexsort((rows, ticks))
        ticks, rows, won, rollouts = ticks[order], rows[order], won[order], rollouts[order]
        first = np.flatnonzero(np.append(True, (np.diff(ticks) != 0) | (np.diff(rows) != 0))[: rows.size])
        if first.size < rows.size:
            won, rollouts = np.add.reduceat(won, first), np.add.reduceat(rollouts, first)
            ticks, rows = ticks[first], rows[first]
        self._parts, self._entries = [(ticks, rows, won, rollouts)], rows.size

    # ------------------------------------------------------------ state

    def _snapshot(self) -> dict[str, Any]:
        self._merge()
        columns = {name: part.copy() for name, part in zip(_COLUMNS, self._parts[0], strict=True)}
        return {"halvings": self._halvings, **columns}

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        if not isinstance(state, Mapping) or set(state) != {"halvings", *_COLUMNS}:
            raise ValueError(f"{label} must hold halvings, {', '.join(_COLUMNS)}. {UNCHANGED}")
        if type(state["halvings"]) is not int or not 0 <= state["halvings"] < 63:
            raise ValueError(f"{label}['halvings'] must be a count, got {state['halvings']!r}. {UNCHANGED}")
        for name, kind in _COLUMNS.items():
            check_array(f"{label}[{name!r}]", np.empty(np.size(state["rows"]), dtype=kind), state[name])
        rows, won, rollouts = state["rows"], state["won"], state["rollouts"]
        if rows.size > MOST or (size is not None and rows.size and not 0 <= rows.min() <= rows.max() < size):
            raise ValueError(f"{label}['rows'] must be at most {MOST} rows of the bank. {UNCHANGED}")
        if (rollouts < 1).any() or (won < 0.0).any() or (won > rollouts).any():
            raise ValueError(f"{label} must hold rollouts of at least 1, and no more successes. {UNCHANGED}")

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._halvings = state["halvings"]
        self._parts = [(state["ticks"].copy(), state["rows"].copy(), state["won"].copy(), state["rollouts"].copy())]
        self._entries = state["rows"].size


def by_round(ticks: IntArray, rows: IntArray, won: FloatArray, rollouts: IntArray) -> Rounds:
    """Return entries, sorted by time and one per prompt and time, as rounds."""
    starts = np.flatnonzero(np.append(True, np.diff(ticks) != 0)[: ticks.size])
    names, dense = np.unique(rows, return_inverse=True)
    ends = np.append(starts, ticks.size)
    return Rounds(ends, ticks[starts], dense, won, rollouts, names.size, int(rows.size - names.size))


def rounds_of(history: list[Feedback]) -> Rounds:
    """Return checked feedback, one per round, as rounds."""
    sized = [(np.full(entry.rows.size, k), *entry[:3]) for k, entry in enumerate(history)]
    empty = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)
    ticks, rows, won, rollouts = (np.concatenate(column) for column in zip(empty, *sized, strict=True))
    order = np.lexsort((rows, ticks))
    order = order[rollouts[order] > 0]
    return by_round(ticks[order], rows[order], won[order], rollouts[order])
