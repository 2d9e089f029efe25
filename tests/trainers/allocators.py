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
        self.inner, self.rounds, self.told, self.scored = allocator, [], [], []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def allocate(self, ids, budget, *, exact):
        counts = self.inner.allocate(ids, budget, exact=exact)
        self.rounds.append((None if ids is None else list(ids), counts.tolist()))
        return counts

    def observe(self, ids, rewards, **more):
        advantages = self.inner.observe(ids, rewards, **more)
        told = {}
        for key, reward in zip(ids, rewards, strict=True):
            if not np.isnan(reward):
                wins, tries = told.get(key, (0.0, 0))
                told[key] = (wins + reward, tries + 1)
        self.told.append(told)
        self.scored.append(
            (more.get("round"), self.inner.round, list(zip(ids, rewards, advantages.tolist(), strict=True)))
        )
        return advantages

    @property
    def dealt(self):
        """Return each round's counts by id, zeros left out."""
        names = self.inner.bank.prompt_ids
        return [{key: n for key, n in zip(ids or names, counts, strict=True) if n} for ids, counts in self.rounds]
