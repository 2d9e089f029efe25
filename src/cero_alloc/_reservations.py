"""Reservations: which round's rollouts are still to be reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._checks import IntArray
from ._state import State, check_array, require

Outstanding = npt.NDArray[np.integer[Any]]  # rollouts per prompt, of all rounds together
_NONE = np.empty(0, dtype=np.int64)


class Deal(NamedTuple):
    """Rollouts that a round lent."""

    round: int  # rounds count from 1
    rows: IntArray  # each once
    rollouts: IntArray


class Reservations:
    """Deals by round, oldest first.

    Feedback that does not name its round settles a prompt's oldest rollouts first, so that what is outstanding of a prompt
    belongs to its newest deals. Deals are therefore only noted, and split by round when somebody asks: a trainer whose
    feedback is in before the next round pays nothing. A deal takes 16 bytes per prompt until it is settled.
    """

    def __init__(self) -> None:
        self._deals: list[Deal] = []
        self._entries, self._room = 0, 1024  # noted entries, and how many may be before settled ones are swept out

    def note(self, round_: int, rows: IntArray, rollouts: IntArray, outstanding: Outstanding) -> None:
        """Note a deal; ``outstanding`` as it is after it."""
        self._deals.append(Deal(round_, rows, rollouts))
        self._entries += rows.size
        if self._entries > self._room:
            self.split(outstanding)
            self._room = 2 * self._entries + 1024

    def clear(self) -> None:
        """Forget all deals: nothing is outstanding."""
        self._keep([])

    def split(self, outstanding: Outstanding) -> list[Deal]:
        """Return what is outstanding by round, oldest first, and keep no more than that."""
        if self._deals:
            rows = np.unique(np.concatenate([deal.rows for deal in self._deals]))
            left = outstanding[rows].astype(np.int64)
            kept = []
            for deal in reversed(self._deals):
                at = np.searchsorted(rows, deal.rows)
                owed = np.minimum(deal.rollouts, left[at])
                left[at] -= owed
                kept.append(_some(deal, owed))
            self._keep(kept[::-1])
        return self._deals

    def of_round(self, round_: int, rows: IntArray, outstanding: Outstanding) -> IntArray:
        """Return what is outstanding of these rows from one round."""
        owed = np.zeros(rows.size, dtype=np.int64)
        for deal in self.split(outstanding):
            if deal.round == round_:
                at, mine = _places(rows, deal.rows)
                owed[at] += deal.rollouts[mine]
        return owed

    def take(self, round_: int, rows: IntArray, rollouts: IntArray, outstanding: Outstanding) -> None:
        """Take rollouts of these rows, no more than are outstanding, off the reservations of one round."""
        left, kept = rollouts.copy(), []
        for deal in self.split(outstanding):
            rest = deal.rollouts
            if deal.round == round_:
                at, mine = _places(rows, deal.rows)
                part, rest = np.minimum(rest[mine], left[at]), rest.copy()
                rest[mine] -= part
                left[at] -= part
            kept.append(_some(deal, rest))
        self._keep(kept)

    def drop_before(self, round_: int, outstanding: Outstanding) -> list[Deal]:
        """Forget what is outstanding from rounds before this one; return it."""
        deals = self.split(outstanding)
        self._keep([deal for deal in deals if deal.round >= round_])
        return [deal for deal in deals if deal.round < round_]

    def state_dict(self, outstanding: Outstanding) -> State:
        """Return what is outstanding in three columns, by round and row."""
        deals: dict[int, list[Deal]] = {}
        for deal in self.split(outstanding):
            deals.setdefault(deal.round, []).append(deal)
        whole = [_summed(waves) for waves in deals.values()]
        rounds = [np.full(deal.rows.size, deal.round, dtype=np.int64) for deal in whole]
        return {
            "round": np.concatenate([_NONE, *rounds]),
            "row": np.concatenate([_NONE, *(deal.rows for deal in whole)]),
            "rollouts": np.concatenate([_NONE, *(deal.rollouts for deal in whole)]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state_dict`` returned, checked by :func:`check_reservations`."""
        rounds = state["round"]
        first = np.flatnonzero(np.diff(rounds, prepend=-1))
        columns = (np.split(state[name], first[1:]) for name in ("row", "rollouts"))
        self._keep(
            [Deal(int(number), *part) for number, *part in zip(rounds[first], *columns, strict=True)]
            if first.size
            else []
        )

    def _keep(self, deals: list[Deal]) -> None:
        self._deals = [deal for deal in deals if deal.rows.size]
        self._entries = sum(deal.rows.size for deal in self._deals)


def check_reservations(state: object, label: str, outstanding: Outstanding, rounds: int) -> None:
    """Raise unless a state adds up to what is outstanding after so many rounds."""
    columns = ("round", "row", "rollouts")
    if not isinstance(state, Mapping) or set(state) != set(columns):
        raise ValueError(f"{label} must hold {', '.join(columns)}. Pass what state_dict returned.")
    for name in columns:
        check_array(f"{label}[{name!r}]", np.empty(np.size(state["round"]), dtype=np.int64), state[name])
    round_, row, rollouts = (state[name] for name in columns)
    require(f"{label}['round']", f"be between 1 and {rounds}", (round_ >= 1) & (round_ <= rounds))
    require(f"{label}['row']", "be rows of the pool", (row >= 0) & (row < outstanding.size))
    later = (round_[1:] > round_[:-1]) | ((round_[1:] == round_[:-1]) & (row[1:] > row[:-1]))
    require(f"{label}['row']", "rise, round after round", later)
    require(f"{label}['rollouts']", "be positive", rollouts > 0)
    total = np.zeros(outstanding.size, dtype=np.int64)
    np.add.at(total, row, rollouts)
    require(f"{label}['rollouts']", "add up to what is outstanding", bool((total == outstanding).all()))


def _some(deal: Deal, rollouts: IntArray) -> Deal:
    """Return a deal of these rollouts, where there are any."""
    if rollouts.size and rollouts.min() > 0:
        return Deal(deal.round, deal.rows, rollouts)
    some = rollouts > 0
    return Deal(deal.round, deal.rows[some], rollouts[some])


def _summed(waves: list[Deal]) -> Deal:
    """Return the deals of one round as one, in rising rows."""
    rows, where = np.unique(np.concatenate([deal.rows for deal in waves]), return_inverse=True)
    rollouts = np.zeros(rows.size, dtype=np.int64)
    np.add.at(rollouts, where, np.concatenate([deal.rollouts for deal in waves]))
    return Deal(waves[0].round, rows, rollouts)


def _places(rows: IntArray, others: IntArray) -> tuple[IntArray, IntArray]:
    """Return where rows stand in both, each once in either."""
    _, at, mine = np.intersect1d(rows, others, assume_unique=True, return_indices=True)
    return at, mine
