"""A journal of changed rows: readers ask what changed since the version they last saw."""

from __future__ import annotations

from collections import deque

import numpy as np

from cero_alloc._checks import IntArray


class Journal:
    """Rows in the order in which they changed, with a version that counts the changes.

    Memory is bounded: once more entries than ``size`` are noted, the oldest are forgotten.

    Parameters
    ----------
    size : int
        Rows of the pool.
    """

    def __init__(self, size: int) -> None:
        self.version = 0  # changes so far
        self._size = size
        self._notes: deque[IntArray] = deque()  # of the latest changes, oldest first
        self._entries = 0  # rows in them

    def note(self, rows: IntArray | None) -> None:
        """Note a change of these rows; None stands for all rows. The array must not be written to afterwards."""
        self.version += 1
        if rows is None:
            self._notes.clear()
            self._entries = 0
            return
        self._notes.append(rows)
        self._entries += rows.size
        while self._entries > self._size:
            self._entries -= self._notes.popleft().size

    def since(self, version: int) -> IntArray | None:
        """Return the rows that changed after ``version``, in ascending order, or None where they are not all known."""
        changes = self.version - version
        if changes > len(self._notes):
            return None
        latest = [self._notes[i] for i in range(len(self._notes) - changes, len(self._notes))]
        return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *latest]))
