"""History: past reports in bounded memory, from which drift, trend and prior are fitted."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any, NamedTuple

import numpy as np

from cero_alloc._checks import FloatArray, IntArray
from cero_alloc._saving.state import UNCHANGED, Stateful, check_array

from .rewards import Feedback

FEWEST = 64  # prompts to which a history is thinned out; below that no prior can be fitted
MOST = 2**15  # entries; a fit then takes some tenths of a second
_PARTS = 256  # open reports that are kept apart
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
    jumps: tuple[IntArray, FloatArray] = (np.empty(0, np.int64), np.empty(0))  # times, and the shares that were kept


class History(Stateful):
    """All reports of some prompts: of every prompt, until there are too many entries, then of half of them, and so on.

    Which prompts are kept follows from their rows alone, so that the whole history of each is there. Only where too few
    prompts would be left, older reports go instead.
    """

    def __init__(self) -> None:
        self._halvings = 0
        self._parts: list[tuple[IntArray, IntArray, FloatArray, IntArray]] = []
        self._entries = 0
        self._open: list[tuple[IntArray, FloatArray]] = []  # reports since the last call of take_open
        self._jumps: list[tuple[int, float]] = []

    def add(self, now: int, rows: IntArray, won: FloatArray, rollouts: IntArray, lacks: FloatArray) -> None:
        """Add a report."""
        sums = np.zeros((rows.size, 3))
        sums[:, 0], sums[:, 1] = won, rollouts
        if lacks.size:
            sums[:, 2] = lacks
        self._open.append((rows[rollouts > 0], sums[rollouts > 0]))
        if len(self._open) > _PARTS:
            self._open = [self._opened()]
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

    def take_open(self) -> tuple[IntArray, FloatArray]:
        """Return prompts reported since the last call, and their sums of successes, rollouts and deficits."""
        rows, sums = self._opened()
        self._open = []
        return rows, sums

    def _opened(self) -> tuple[IntArray, FloatArray]:
        if not self._open:
            return np.empty(0, dtype=np.int64), np.empty((0, 3))
        rows, places = np.unique(np.concatenate([part for part, _ in self._open]), return_inverse=True)
        sums = np.zeros((rows.size, 3))
        np.add.at(sums, places, np.concatenate([part for _, part in self._open]))
        return rows, sums

    @property
    def jumped(self) -> bool:
        """Whether a jump was noticed."""
        return bool(self._jumps)

    @property
    def lost(self) -> float:
        """Logarithm of what all jumps together left of evidence from before them, with the other sign."""
        return -sum(log(share) for _, share in self._jumps)

    def note_jump(self, now: int, share: float) -> None:
        """Remember that all evidence from before ``now`` kept this share."""
        self._jumps.append((now, share))

    def rounds(self) -> Rounds:
        """Return the reports by round."""
        self._merge()
        times, shares = (np.array([jump[k] for jump in self._jumps]) for k in (0, 1))
        return by_round(*self._parts[0])._replace(jumps=(times.astype(np.int64), shares.astype(np.float64)))

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
        rows, sums = self._opened()
        return {
            "halvings": self._halvings,
            **columns,
            "open_rows": rows,
            "open_sums": sums,
            "jumps": np.array(self._jumps).reshape(-1, 2),
        }

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        names = ("halvings", *_COLUMNS, "open_rows", "open_sums", "jumps")
        if not isinstance(state, Mapping) or set(state) != set(names):
            raise ValueError(f"{label} must hold {', '.join(names)}. {UNCHANGED}")
        if type(state["halvings"]) is not int or not 0 <= state["halvings"] < 63:
            raise ValueError(f"{label}['halvings'] must be a count, got {state['halvings']!r}. {UNCHANGED}")
        for name, kind in _COLUMNS.items():
            check_array(f"{label}[{name!r}]", np.empty(np.size(state["rows"]), dtype=kind), state[name])
        rows, won, rollouts = state["rows"], state["won"], state["rollouts"]
        if rows.size > MOST or (size is not None and rows.size and not 0 <= rows.min() <= rows.max() < size):
            raise ValueError(f"{label}['rows'] must be at most {MOST} rows of the bank. {UNCHANGED}")
        if (rollouts < 1).any() or (won < 0.0).any() or (won > rollouts).any():
            raise ValueError(f"{label} must hold rollouts of at least 1, and no more successes. {UNCHANGED}")
        opened, sums, jumps = state["open_rows"], state["open_sums"], state["jumps"]
        check_array(f"{label}['open_rows']", np.empty(np.size(opened), dtype=np.int64), opened)
        check_array(f"{label}['open_sums']", np.empty((opened.size, 3)), sums)
        if opened.size and (opened[0] < 0 or (size is not None and opened[-1] >= size) or (np.diff(opened) <= 0).any()):
            raise ValueError(f"{label}['open_rows'] must be rows in ascending order. {UNCHANGED}")
        if (sums < 0.0).any() or (sums[:, 0] > sums[:, 1]).any():
            raise ValueError(
                f"{label}['open_sums'] must be at least 0, with no more successes than rollouts. {UNCHANGED}"
            )
        if (sums[:, 1] != np.floor(sums[:, 1])).any() or (sums[:, 1] > 2.0**53).any():
            raise ValueError(f"{label}['open_sums'] must hold whole rollouts. {UNCHANGED}")
        check_array(f"{label}['jumps']", np.empty((np.size(jumps) // 2, 2)), jumps)
        if (
            not ((jumps[:, 0] >= 0.0) & (jumps[:, 0] <= 2.0**53)).all()
            or not ((jumps[:, 1] > 0.0) & (jumps[:, 1] < 1.0)).all()
        ):
            raise ValueError(f"{label}['jumps'] must be times and shares. {UNCHANGED}")

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._halvings = state["halvings"]
        self._parts = [(state["ticks"].copy(), state["rows"].copy(), state["won"].copy(), state["rollouts"].copy())]
        self._entries = state["rows"].size
        self._open = [(state["open_rows"].copy(), state["open_sums"].copy())] if state["open_rows"].size else []
        self._jumps = [(int(time), float(share)) for time, share in state["jumps"]]


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
