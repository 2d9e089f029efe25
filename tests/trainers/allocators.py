"""Allocators for the trainers' tests: one that deals by a script, one that is watched."""

import numpy as np

from cero_alloc.baselines import Uniform


class Scripted(Uniform):
    """Deals these counts, a row a round and in turn, to the prompts in the order of the offer."""

    def __init__(self, bank, rows, **plan):
        super().__init__(bank, **plan)
        self.rows = rows

    def _deal(self, places, total):
        counts = np.zeros(len(places), dtype=np.int64)
        row = self.rows[self.ledger.round % len(self.rows)]
        counts[: len(row)] = np.array(row) // self.horizon.unit_size
        return counts


class Recorder:
    """Notes every round's ids and counts and all that is reported, and otherwise is the allocator that it holds."""

    def __init__(self, allocator):
        self.inner, self.rounds, self.told = allocator, [], []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def allocate(self, ids, budget, *, exact):
        counts = self.inner.allocate(ids, budget, exact=exact)
        self.rounds.append((None if ids is None else list(ids), counts.tolist()))
        return counts

    def update(self, ids, successes, rollouts):
        self.inner.update(ids, successes, rollouts)
        self.told.append({key: (s, n) for key, s, n in zip(ids, successes, rollouts, strict=True)})

    @property
    def dealt(self):
        """Return each round's counts by id, zeros left out."""
        return [{key: n for key, n in zip(ids, counts, strict=True) if n} for ids, counts in self.rounds]
