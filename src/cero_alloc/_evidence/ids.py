"""PromptIndex: prompt ids and their rows."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, SupportsIndex, TypeVar

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import (
    IntArray,
    TieArray,
    error_text,
    integer,
    integers,
    no_array,
    plain_array,
    require_ordered,
    require_unmasked,
    warn,
)
from cero_alloc._saving.shown import short
from cero_alloc._saving.state import difference

from . import kernels

T = TypeVar("T")
_NO_ROWS = np.empty(0, dtype=np.int64)
_BOOLS = (bool, np.bool_)
_BOOLS_SET = frozenset(_BOOLS)
_SAVED = frozenset((str, int, float, tuple, type(None)))  # types of ids that a saved state holds
_LARGEST = np.iinfo(np.int64).max
SUM = "Sum the entries of a prompt first."  # of feedback
_MOST = 2**31 - 1  # prompts: the ranks that break ties are int32


class PromptIndex:
    """Unique prompt ids in row order. The ids 0 .. M-1 are held as a range, without a table.

    Parameters
    ----------
    prompts : int or sequence of hashable
        Number of prompts, or their ids.
    """

    def __init__(self, prompts: SupportsIndex | Sequence[Hashable]) -> None:
        self._table: dict[Hashable, int] | None = None  # None: an id is its own row
        self._last: tuple[list[Hashable], IntArray] = ([], _NO_ROWS)  # the ids of the latest look-up, and their rows
        self._ids: list[Hashable] | range
        if hasattr(prompts, "__index__") and getattr(prompts, "ndim", 0) == 0:
            remedy = "Give the number of prompts, or their ids."
            self._ids = range(integer("prompts", prompts, least=1, remedy=remedy, most=_MOST))
        else:
            self._ids = _id_list("prompts", prompts)
            self._table = _table_of("prompts", self._ids)
            if not self._ids:
                raise ValueError(
                    error_text("prompts", "name at least one prompt", [], "Pass the ids of the training set.")
                )

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, prompt_id: object) -> bool:
        if self._table is None:
            return _is_int(prompt_id) and prompt_id in self._ids
        try:
            return prompt_id in self._table and not isinstance(prompt_id, _BOOLS)
        except TypeError:  # not hashable, so not an id
            return False

    @property
    def ids(self) -> Sequence[Hashable]:
        """The ids in row order."""
        return self._ids if isinstance(self._ids, range) else tuple(self._ids)

    def name(self, row: int) -> Hashable:
        """Return the id of a row."""
        return self._ids[row]

    def fresh(self, ids: Iterable[Hashable]) -> list[Hashable]:
        """Return ids as a list, after checking that they are new and unique."""
        names = _id_list("ids", ids)
        _table_of("ids", names)
        known = self if self._table is not None or all(map(_is_int, names)) else _table_of("ids", self._ids)
        for position, name in enumerate(names):
            if name in known:
                raise ValueError(error_text("ids", "be new to the bank", name, "Leave it out.", position))
        return names

    def append(self, names: list[Hashable]) -> None:
        """Append ids that :meth:`fresh` has checked."""
        size = len(self)
        if isinstance(self._ids, range) and names == list(range(size, size + len(names))) and all(map(_is_int, names)):
            self._ids = range(size + len(names))
            return
        if self._table is None:
            self._table = {name: row for row, name in enumerate(self._ids)}
        self._table.update((name, size + row) for row, name in enumerate(names))
        self._ids = [*self._ids, *names]

    def difference(self, ids: Any, first: Any) -> str | None:
        """Describe how these ids, or 0 .. ids-1, differ from those of this index; None where they do not.

        Ids that follow the first ``first`` may have joined later: they are no difference.
        """
        number = isinstance(ids, (int, np.integer)) and not isinstance(ids, bool) and ids <= _MOST
        theirs = range(ids) if number else ids
        joined = isinstance(theirs, (list, tuple, range)) and type(first) is int and first <= len(self) < len(theirs)
        theirs = theirs[: len(self)] if joined else theirs
        if isinstance(self._ids, range) and isinstance(theirs, range) and self._ids == theirs:  # perhaps millions
            return None
        return difference(list(self._ids), theirs)

    def rows(self, ids: object) -> IntArray:
        """Return the rows of ``ids``; the array must not be written to."""
        rows = self._find(ids)
        if self._table is None and rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise self._unknown_ids(self._outside(rows))
        return rows

    def _find(self, ids: Any) -> IntArray:
        """Return the rows of ``ids``; where ids are rows, the caller checks that they are below the size."""
        _require_list("prompt_ids", "be a collection of ids", ids)
        if self._table is None:
            return self._integer_rows(ids)
        names = _listed(ids)
        if (0 in self._table or 1 in self._table) and not _BOOLS_SET.isdisjoint(map(type, names)):
            raise self._unknown_ids([name for name in names if name not in self])
        try:
            if names == self._last[0]:  # feedback mostly names the latest deal, and comparing is faster than looking up
                return self._last[1]
            rows = np.fromiter(map(self._table.__getitem__, names), dtype=np.int64, count=len(names))
        except (KeyError, TypeError, ValueError):  # a ValueError from comparing arrays
            unknown = [name for name in names if name not in self]
            raise self._unknown_ids(unknown) from None
        self._last = names, rows
        return rows

    def _outside(self, rows: IntArray) -> list[int]:
        return [int(row) for row in rows if not 0 <= row < len(self)]

    def _unknown_ids(self, names: Sequence[object]) -> KeyError:
        """Return the error for ids that the bank does not have."""
        shown = ", ".join(repr(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
        remedy, first = "Check the spelling; a new prompt needs add_prompts.", self.name(0)
        kinds = {type(name.item() if isinstance(name, np.generic) else name) for name in names}
        ours = {int} if isinstance(self._ids, range) else set(map(type, self._ids))
        if len(kinds) == 1 and not kinds & ours:  # "7" for 7, or the other way around
            remedy = f"The bank holds {type(first).__name__} ids like {first!r}, got {kinds.pop().__name__}."
        return KeyError(f"prompt_ids must be in the bank, unknown: {shown} ({len(names)} in all). {remedy}")

    def _integer_rows(self, ids: Iterable[Hashable]) -> IntArray:
        names: Any = ids if hasattr(ids, "__array__") or isinstance(ids, (list, tuple, range)) else list(ids)
        try:
            array = np.asarray(names)
        except ValueError:  # ragged: some of the ids are sequences
            array = np.empty(len(names), dtype=object)
        except (TypeError, RuntimeError) as error:
            raise no_array("prompt_ids", ids, error) from None
        if array.size == 0:
            return _NO_ROWS
        if array.dtype.kind not in "iu" or array.ndim != 1:
            unknown = [name for name in names if name not in self]
            if unknown:
                raise self._unknown_ids(unknown)
            array = np.array([operator.index(name) for name in names])
        elif isinstance(names, (list, tuple)):  # NumPy reads True as 1
            bits = np.flatnonzero((array == 0) | (array == 1)).tolist()
            odd = [names[i] for i in bits if isinstance(names[i], _BOOLS)]
            if odd:
                raise self._unknown_ids(odd)
        if array.dtype == np.uint64 and array.max() > _LARGEST:  # would wrap around to another row
            raise self._unknown_ids([int(name) for name in array if name > _LARGEST])
        return np.array(array, dtype=np.int64)  # a copy, because an open round keeps it

    def unique_rows(self, prompt_ids: Iterable[Hashable] | None, remedy: str = SUM) -> IntArray | None:
        """Return the rows of ids that may not repeat; None, the whole pool, stays None."""
        if prompt_ids is None:
            return None
        rows = self._find(prompt_ids)
        slots = _NO_ROWS
        if not kernels.strictly_increasing(rows):
            slots = np.full(1 << (rows.size * 3 // 2).bit_length(), -1, dtype=np.int64)
        position, kind = kernels.first_bad_row(rows, len(self), slots)
        if kind == 1:
            raise self._unknown_ids(self._outside(rows))
        if kind == 2:
            name = self.name(int(rows[position]))
            raise ValueError(error_text("prompt_ids", "not repeat an id", name, remedy, position))
        return rows

    def listed_rows(self, ids: Iterable[Hashable]) -> IntArray:
        """Return the rows of ids that may not repeat, and refuse None, which would name the whole pool."""
        if ids is None:
            raise TypeError(error_text("ids", "be a collection of ids", ids, "Pass bank.prompt_ids for all of them."))
        return self.named_rows(ids, "Name each prompt once.")

    def named_rows(self, prompt_ids: Iterable[Hashable] | None, remedy: str = SUM) -> IntArray:
        """Return the rows of ids that may not repeat, all of them for None."""
        rows = self.unique_rows(prompt_ids, remedy)
        return np.arange(len(self)) if rows is None else rows


def repeat(batch: Sequence[T], counts: npt.ArrayLike) -> list[T]:
    """Return the entries of a batch, each as often as it has rollouts.

    Parameters
    ----------
    batch : sequence, length n_offered
        Prompt ids, or the prompts themselves, such as a loader's rows.
    counts : array_like of int, shape (n_offered,)
        Rollouts of each, as ``allocate`` returned them for this batch.

    Returns
    -------
    list, length counts.sum()
        Entries; those of one prompt stand together.

    Raises
    ------
    ValueError, TypeError
        For another number of counts than of entries, or counts that are negative or not integers.

    Examples
    --------
    >>> repeat([{"id": 7}, {"id": 9}], [1, 2])
    [{'id': 7}, {'id': 9}, {'id': 9}]
    """
    times = integers(
        "counts", plain_array("counts", counts, "Pass what allocate returned."), "Pass what allocate returned."
    )
    if times.shape != (len(batch),):
        condition = f"have one entry per entry of the batch, shape ({len(batch)},)"
        raise ValueError(error_text("counts", condition, times.shape, "Pass what allocate returned for this batch."))
    if times.size and times.min() < 0:
        at = int(np.argmin(times))
        raise ValueError(error_text("counts", "be at least 0", int(times[at]), "Pass what allocate returned.", at))
    return [entry for entry, n in zip(batch, times.tolist(), strict=True) for _ in range(n)]


def tie_ranks(rng: np.random.Generator, size: int, after: int = 0) -> TieArray:
    """Draw a random order of prompts, which breaks ties between equal keys; its ranks begin at ``after``."""
    return rng.permutation(np.arange(after, after + size, dtype=np.int32))


def _require_list(name: str, condition: str, ids: object) -> None:
    """Refuse what is not a list of ids: a single id, a set, a table."""
    if type(ids) in (list, tuple, range) or (type(ids) is np.ndarray and ids.ndim == 1):
        return
    if isinstance(ids, (str, bytes, bytearray)) or not isinstance(ids, Iterable) or getattr(ids, "ndim", 1) == 0:
        raise TypeError(error_text(name, condition, ids, "Wrap a single id in a list."))
    if getattr(ids, "ndim", 1) != 1:
        raise TypeError(error_text(f"{name}.ndim", "be 1", ids.ndim, "Pass one column."))  # type: ignore[attr-defined]
    require_ordered(name, ids)
    require_unmasked(name, ids)


def _is_int(name: object) -> bool:
    return hasattr(name, "__index__") and not isinstance(name, _BOOLS)


def _listed(ids: Any) -> list[Hashable]:
    """Return ids as a list of Python's own types: an entry of a tensor equals its number but has another hash."""
    return list(ids.tolist()) if hasattr(ids, "tolist") else list(ids)


def _id_list(name: str, ids: object) -> list[Hashable]:
    """Return ids as a list of hashables."""
    _require_list(name, "be a sequence of ids", ids)
    names = _listed(ids)
    for position, entry in enumerate(names):
        if isinstance(entry, _BOOLS):
            raise TypeError(
                error_text(name, "not be booleans, which equal 0 and 1", entry, "Name the prompts.", position)
            )
        if isinstance(entry, float) and entry != entry:
            raise ValueError(error_text(name, "not be NaN, which equals no id", entry, "Drop it.", position))
        try:
            hash(entry)
        except TypeError:
            raise TypeError(
                error_text(name, "be hashable", entry, "Use strings, integers or tuples.", position)
            ) from None
    if not _SAVED.issuperset(map(type, names)):
        found = ((at, entry) for at, entry in enumerate(names) if type(entry) not in _SAVED)
        position, odd = next(((at, entry) for at, entry in found if not isinstance(entry, np.generic)), (0, None))
        if odd is not None:
            warn(
                f"{name}[{position}] = {short(odd)} is of type {type(odd).__name__}, which no saved state can hold: save "
                "will fail. Use strings, integers or tuples."
            )
    return names


def _table_of(label: str, names: Sequence[Hashable]) -> dict[Hashable, int]:
    """Return id -> row, refusing repeats."""
    table = {name: row for row, name in enumerate(names)}
    if len(table) < len(names):
        seen: set[Hashable] = set()
        for position, name in enumerate(names):
            if name in seen:
                raise ValueError(error_text(label, "not repeat an id", name, "Give every prompt its own id.", position))
            seen.add(name)
    return table
