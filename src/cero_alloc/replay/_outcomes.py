"""The logged rewards that a replay draws from: in order of time, each at most once, shuffled within a group."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray
from cero_alloc.simulation._rounds import Drawn

from ._log import RolloutLog

_MOST_LISTED = 1 << 24  # rollouts: 16 bytes each


class Outcomes(Protocol):
    """The logged rewards, in the order in which a replay takes them."""

    def restart(self) -> None:
        """Put all outcomes back."""

    def open_groups(self, groups: slice) -> None:
        """Let the prompts of these groups, at most one of each prompt, take outcomes of these groups only."""

    def draw(self, rows: IntArray, n: IntArray) -> Drawn:
        """Take the next ``n`` outcomes of each row, or all that are left; return the reward sums and the numbers taken.

        Where rewards are fractional also the sums of their squares.
        """

    def mixed(self, rows: IntArray, successes: npt.NDArray[Any], answered: IntArray) -> npt.NDArray[np.bool_]:
        """Return whether the last ``answered`` outcomes taken from each row differ."""


class ListedOutcomes:
    """Outcomes listed in one order for all policies, so that all policies draw the same outcomes; a draw takes a slice."""

    def __init__(self, log: RolloutLog, seed: int) -> None:
        # Groups by prompt, then by time; a random fraction added to a rollout's place shuffles it within its group.
        place = np.empty(log.trials.size)
        order = np.argsort(log.group_prompt, kind="stable")
        place[order] = np.arange(log.trials.size)
        key = np.repeat(place[log.entry_group], log.entry_rollouts)
        key += np.random.default_rng([seed, 1]).random(key.size)
        reward = np.repeat(log.entry_reward, log.entry_rollouts)[np.argsort(key)]
        self._reward = reward if log.fractional else None
        self._sums = np.empty(0) if log.fractional else np.concatenate([[0.0], np.cumsum(reward)])
        ends = np.append(np.flatnonzero(np.diff(reward)) + 1, reward.size)  # of runs of equal outcomes
        self._run_end = np.repeat(ends, np.diff(np.concatenate([[0], ends])))
        per_prompt = np.bincount(log.group_prompt, log.trials, log.n_prompts).astype(np.int64)
        self._last = np.cumsum(per_prompt)
        self._start = self._last - per_prompt
        self._group_prompt, self._group_end = log.group_prompt, np.empty_like(log.trials)
        self._group_end[order] = np.cumsum(log.trials[order])
        self._group_start = self._group_end - log.trials
        self.restart()

    def restart(self) -> None:
        """See :class:`Outcomes`."""
        self._at, self._end = self._start.copy(), self._last.copy()

    def open_groups(self, groups: slice) -> None:
        """See :class:`Outcomes`."""
        rows = self._group_prompt[groups]
        self._at[rows], self._end[rows] = self._group_start[groups], self._group_end[groups]

    def draw(self, rows: IntArray, n: IntArray) -> Drawn:
        """See :class:`Outcomes`."""
        start = self._at[rows]
        taken = np.minimum(n, self._end[rows] - start)
        self._at[rows] = start + taken
        if self._reward is None:
            return self._sums[start + taken] - self._sums[start], taken  # of 0 and 1, and so exact
        # Differences of long sums of fractions have rounding errors: add the rewards that are taken.
        row = np.repeat(np.arange(rows.size), taken)
        reward = self._reward[np.arange(row.size) + (start + taken - np.cumsum(taken))[row]]
        won, squares = (np.bincount(row, each, rows.size).astype(np.float64) for each in (reward, reward**2))
        return won, taken, squares

    def mixed(self, rows: IntArray, successes: FloatArray, answered: IntArray) -> npt.NDArray[np.bool_]:
        """See :class:`Outcomes`."""
        first = self._at[rows] - np.maximum(answered, 1)  # a row from which nothing was taken is not mixed
        mixed: npt.NDArray[np.bool_] = self._run_end[first] < self._at[rows]
        return mixed


class CountedOutcomes:
    """Outcomes 0 and 1 too numerous to list: each group keeps two counts, and draws from it are hypergeometric."""

    def __init__(self, log: RolloutLog, seed: int) -> None:
        order = np.argsort(log.group_prompt, kind="stable")  # by prompt, then by time
        self._trials = log.trials[order]
        self._successes = log.successes[order].astype(np.int64)
        self._visits = log.visits
        self._group_prompt, self._place = log.group_prompt, np.empty_like(order)
        self._place[order] = np.arange(order.size)
        self._seed = seed
        self.restart()

    def restart(self) -> None:
        """See :class:`Outcomes`."""
        self._left, self._good = self._trials.copy(), self._successes.copy()
        self._end = np.cumsum(self._visits)
        self._at = self._end - self._visits  # the group that each prompt has reached
        self._rng = np.random.default_rng([self._seed, 1])

    def open_groups(self, groups: slice) -> None:
        """See :class:`Outcomes`."""
        rows = self._group_prompt[groups]
        self._at[rows] = self._place[groups]
        self._end[rows] = self._place[groups] + 1

    def draw(self, rows: IntArray, n: IntArray) -> tuple[IntArray, IntArray]:
        """See :class:`Outcomes`; a draw larger than the rest of its group continues in the prompt's next group."""
        won, missing = np.zeros_like(n), n.copy()
        some = np.flatnonzero((n > 0) & (self._at[rows] < self._end[rows]))
        while some.size:
            group = self._at[rows[some]]
            left, good = self._left[group], self._good[group]
            taken = np.minimum(missing[some], left)
            hits = self._rng.hypergeometric(good, left - good, taken)
            won[some] += hits
            missing[some] -= taken
            self._left[group], self._good[group] = left - taken, good - hits
            some = some[taken == left]
            self._at[rows[some]] += 1
            some = some[(missing[some] > 0) & (self._at[rows[some]] < self._end[rows[some]])]
        return won, n - missing

    def mixed(self, rows: IntArray, successes: IntArray, answered: IntArray) -> npt.NDArray[np.bool_]:
        """See :class:`Outcomes`."""
        return (successes > 0) & (successes < answered)


def logged_outcomes(log: RolloutLog, seed: int) -> Outcomes:
    """Return the outcomes of a log before any is taken."""
    listed = log.fractional or log.n_rollouts <= _MOST_LISTED
    return ListedOutcomes(log, seed) if listed else CountedOutcomes(log, seed)
