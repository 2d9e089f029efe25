"""Reservations: the rollouts of each round that are still to be reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import IntArray, error_text
from cero_alloc._saving.state import State, check_array, require

Outstanding = npt.NDArray[np.integer[Any]]  # rollouts per prompt, of all rounds together
_NONE = np.empty(0, dtype=np.int64)


class Deal(NamedTuple):
    """Rollouts that a round dealt."""

    round: int  # rounds count from 1
    rows: IntArray  # each once
    rollouts: IntArray


class Reservations:
    """Deals by round, oldest first.

    Feedback that names its round settles the deals of that round. Other feedback settles the oldest rollouts of a prompt
    first, so that what is outstanding of a prompt belongs to its newest deals. That split is computed only on
    demand; where all feedback arrives before the next round, it never is. A deal takes 16 bytes per prompt until it
    is settled.

    Attributes
    ----------
    exact : bool
        Whether the deals are what is outstanding. The ledger sets it to False when feedback without a round arrives: the
        deals are then an upper bound.
    """

    def __init__(self) -> None:
        self._deals: dict[int, list[Deal]] = {}  # by round; a round that is dealt in waves has several
        self.exact = True
        self._entries, self._room = 0, 1024  # entries noted, and how many there may be before settled ones are removed

    def note(self, round_: int, rows: IntArray, rollouts: IntArray, outstanding: Outstanding) -> None:
        """Note a deal; ``outstanding`` as it is after it."""
        self._deals.setdefault(round_, []).append(Deal(round_, rows, rollouts))
        self._entries += rows.size
        if self._entries > self._room:
            self.split(outstanding)
            self._room = 2 * self._entries + 1024

    def clear(self) -> None:
        """Drop all deals: nothing is outstanding."""
        self._keep([])

    def split(self, outstanding: Outstanding) -> list[Deal]:
        """Return what is outstanding by round, oldest first, and keep no more than that."""
        deals = [deal for waves in self._deals.values() for deal in waves]
        if self.exact or not deals:
            return deals
        rows = np.unique(np.concatenate([deal.rows for deal in deals]))
        left = outstanding[rows].astype(np.int64)
        kept = []
        for deal in reversed(deals):
            at = np.searchsorted(rows, deal.rows)
            owed = np.minimum(deal.rollouts, left[at])
            left[at] -= owed
            kept.append(_some(deal, owed))
        return self._keep(kept[::-1])

    def of_round(self, round_: int, rows: IntArray, outstanding: Outstanding) -> IntArray:
        """Return what is outstanding of these rows from one round."""
        self.split(outstanding)
        owed = np.zeros(rows.size, dtype=np.int64)
        for deal in self._deals.get(round_, ()):
            at, mine = _places(rows, deal.rows)
            owed[at] += deal.rollouts[mine]
        return owed

    def take(self, round_: int, rows: IntArray, rollouts: IntArray, outstanding: Outstanding) -> IntArray:
        """Take rollouts of these rows off the reservations of one round, at most as many as there are; return how many."""
        self.split(outstanding)
        left, kept = rollouts.copy(), []
        for deal in self._deals.get(round_, ()):
            at, mine = _places(rows, deal.rows)
            rest = deal.rollouts.copy()
            part = np.minimum(rest[mine], left[at])
            rest[mine] -= part
            left[at] -= part
            kept.append(_some(deal, rest))
            self._entries -= deal.rows.size - kept[-1].rows.size
        kept = [deal for deal in kept if deal.rows.size]
        if kept:
            self._deals[round_] = kept
        else:
            self._deals.pop(round_, None)
        return rollouts - left

    def drop_before(self, round_: int, outstanding: Outstanding) -> list[Deal]:
        """Drop what is outstanding from rounds before this one; return it."""
        deals = self.split(outstanding)
        self._keep([deal for deal in deals if deal.round >= round_])
        return [deal for deal in deals if deal.round < round_ and deal.rollouts.any()]

    def state_dict(self, outstanding: Outstanding) -> State:
        """Return what is outstanding in three columns, by round and row."""
        self.split(outstanding)
        whole = [_summed(waves) for waves in self._deals.values()]
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
        parts = zip(*(np.split(state[name].copy(), first[1:]) for name in ("row", "rollouts")), strict=True)
        self._keep([Deal(int(number), *part) for number, part in zip(rounds[first], parts, strict=False)])

    def _keep(self, deals: list[Deal]) -> list[Deal]:
        """Hold only these deals, all of which are outstanding."""
        kept = [deal for deal in deals if deal.rows.size]
        self._deals, self.exact, self._entries = {}, True, 0
        for deal in kept:
            self._deals.setdefault(deal.round, []).append(deal)
            self._entries += deal.rows.size
        return kept


def check_reservations(state: object, label: str, outstanding: Outstanding, rounds: int) -> None:
    """Raise unless a state adds up to what is outstanding after this number of rounds."""
    columns = ("round", "row", "rollouts")
    if not isinstance(state, Mapping) or set(state) != set(columns):
        raise ValueError(f"{label} must hold {', '.join(columns)}. Pass what state_dict returned.")
    for name in columns:
        check_array(f"{label}[{name!r}]", np.empty(np.size(state["round"]), dtype=np.int64), state[name])
    round_, row, rollouts = (state[name] for name in columns)
    require(f"{label}['round']", f"be between 1 and {rounds}", round_, (round_ >= 1) & (round_ <= rounds))
    require(f"{label}['row']", "be rows of the pool", row, (row >= 0) & (row < outstanding.size))
    later = (round_[1:] > round_[:-1]) | ((round_[1:] == round_[:-1]) & (row[1:] > row[:-1]))
    require(f"{label}['row']", "rise, round after round", row[1:], later)
    require(f"{label}['rollouts']", "be positive", rollouts, rollouts > 0)
    total = np.zeros(outstanding.size, dtype=np.int64)
    np.add.at(total, row, rollouts)
    require(f"{label}['rollouts']", "add up to what is outstanding", rollouts, bool((total == outstanding).all()))


def require_refundable(
    rollouts: IntArray, outstanding: npt.NDArray[np.integer[Any]], unit_size: int, name_of: Callable[[int], object]
) -> None:
    """Refuse a refund of no whole units, or of more than is outstanding; ``name_of`` gives the id of an entry's prompt."""
    bad = np.flatnonzero((rollouts < 0) | (rollouts > outstanding) | (rollouts % unit_size != 0))
    if bad.size:
        i = int(bad[0])
        condition = (
            f"be a multiple of {unit_size} between 0 and the {outstanding[i]} outstanding of prompt {name_of(i)!r}"
        )
        remedy = "Refund only what allocate dealt and update has not reported; a unit of which a part was reported stays spent."
        raise ValueError(error_text("rollouts", condition, int(rollouts[i]), remedy, i))


def _some(deal: Deal, rollouts: IntArray) -> Deal:
    """Return a deal of these rollouts without the rows that have none."""
    if rollouts.size and rollouts.min() > 0:
        return Deal(deal.round, deal.rows, rollouts)
    some = rollouts > 0
    return Deal(deal.round, deal.rows[some], rollouts[some])


def _summed(waves: list[Deal]) -> Deal:
    """Return the deals of one round as one, in rising rows."""
    rows, where = np.unique(np.concatenate([deal.rows for deal in waves]), return_inverse=True)
    rollouts = np.zeros(rows.size, dtype=np.int64)
    np.add.at(rollouts, where, np.concatenate([deal.rollouts for deal in waves]))
    return _some(Deal(waves[0].round, rows, rollouts), rollouts)


def _places(rows: IntArray, others: IntArray) -> tuple[IntArray, IntArray]:
    """Return the positions of the common rows in both arrays, in which no row repeats."""
    _, at, mine = np.intersect1d(rows, others, assume_unique=True, return_indices=True)
    return at, mine
