"""Rewards: their range, and the checks of feedback, as sums per prompt or as one reward per rollout."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Set
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import (
    FloatArray,
    IntArray,
    counts,
    error_text,
    rewards_per_rollout,
    successes,
    warn,
)

from . import kernels
from .ids import PromptIndex

NO_LACKS = np.empty(0)
_ROUNDING = 1e-9  # of the rollouts: what sums of rewards may be off by
_HISTORY_REMEDY = "Give (prompt_ids, successes, rollouts) per round, as update takes them."
_RANGE_REMEDY = "Give the smallest and the largest reward, such as (0, 1) or (-1, 1)."
_TO = "to the bank, or to training_allocator"
_FAULTS = {
    1: ("rollouts", "be at least 0", "Report what was generated, refund what was not."),
    2: ("successes", "be finite and at least 0", "Leave rollouts without a reward out of both counts."),
    3: (
        "successes",
        "not exceed rollouts",
        f"Rewards must lie in [0, 1]; pass reward_range=(low, high) {_TO}, or check which column is which.",
    ),
}
_NEGATIVE = f"Rewards must lie in [0, 1]; pass their range, such as reward_range=(-1, 1), {_TO}."
_SIGNS = (
    "All of the first {groups} mixed groups have sums that rewards of -1 and 1 have, which for rewards of 0 and 1 has a chance "
    "below one in a million. Six rewards of 1 and two of -1 sum to 4, which counts as 4 of 8 here. Pass reward_range=(-1, 1) "
    "to the bank, or to training_allocator, if rewards are -1 and 1."
)
_SIGNED_GROUPS, _UNEVEN = 20, 5  # groups from which on sums are taken for those of -1 and 1; of them not one half
_FRACTIONAL = (
    "Rewards between the ends of the reward range are taken for coins of the same mean, so that the values are an upper "
    "bound. Pass squares=, the sums of the squared rewards, or call observe with one reward per rollout; successes are sums over "
    "the rollouts, not means."
)


class Feedback(NamedTuple):
    """Checked feedback, with rewards mapped to [0, 1].

    Attributes
    ----------
    rows : numpy.ndarray of int64, shape (n_ids,)
        Prompts.
    successes : numpy.ndarray of float64, shape (n_ids,)
        Sums of the rewards.
    rollouts : numpy.ndarray of int64, shape (n_ids,)
        Rewarded rollouts.
    lacks : numpy.ndarray of float64, shape (n_ids,) or (0,)
        Sums of r - r**2, 0 where all rewards are 0 or 1; empty where no squares were given.
    """

    rows: IntArray
    successes: FloatArray
    rollouts: IntArray
    lacks: FloatArray = NO_LACKS


class Rollouts(NamedTuple):
    """One reward per rollout, grouped by prompt, with rewards mapped to [0, 1].

    Attributes
    ----------
    feedback : Feedback
        The sums, one line per prompt, the rows ascending.
    unscored : numpy.ndarray of int64, shape (n_ids,)
        Rollouts of each of these prompts without a reward.
    scored : numpy.ndarray of bool, shape (n_rollouts,)
        Which rollouts have a reward.
    group : numpy.ndarray of int64, shape (n_scored,)
        Line of the prompt of each scored rollout.
    rewards : numpy.ndarray of float64, shape (n_scored,)
        Rewards of the scored rollouts.
    """

    feedback: Feedback
    unscored: IntArray
    scored: npt.NDArray[np.bool_]
    group: IntArray
    rewards: FloatArray


class Rewards:
    """The range of a bank's rewards, which it maps to [0, 1].

    Parameters
    ----------
    reward_range : tuple of two floats
        Smallest and largest reward.

    Attributes
    ----------
    low, high, width : float
        The range.
    """

    def __init__(self, reward_range: Any) -> None:
        try:
            if isinstance(reward_range, Set) or any(isinstance(end, (str, bytes, bool)) for end in reward_range):
                raise TypeError
            low, high = (float(end) for end in reward_range)
        except (TypeError, ValueError):
            raise TypeError(error_text("reward_range", "be a pair of numbers", reward_range, _RANGE_REMEDY)) from None
        if not (low < high and 0.0 < (high - low) * (high - low) < np.inf):
            condition = "be finite and ascend from low to high"
            raise ValueError(error_text("reward_range", condition, reward_range, _RANGE_REMEDY))
        self.low, self.high, self.width = low, high, high - low
        self._unit = (low, high) == (0.0, 1.0)
        self._warned = False
        self._signed: tuple[int, int] | None = (0, 0) if self._unit else None  # groups that rewards of -1 and 1 allow

    def feedback(
        self,
        index: PromptIndex,
        prompt_ids: Iterable[Hashable] | None,
        s: npt.ArrayLike,
        n: npt.ArrayLike,
        squares: npt.ArrayLike | None = None,
    ) -> Feedback:
        """Return the checked feedback of an update.

        Parameters
        ----------
        index : PromptIndex
            The ids that may be named.
        prompt_ids : iterable of hashable, or None
            Prompts, each at most once; None for the whole pool in row order.
        s, n : array_like, shape (n_ids,)
            Sum of the rewards and number of rewarded rollouts of each prompt.
        squares : array_like, shape (n_ids,), or None
            Sum of the squared rewards.

        Raises
        ------
        KeyError, TypeError, ValueError
            As :meth:`~cero_alloc.BetaPosteriorBank.update`.
        """
        rows = index.named_rows(prompt_ids)
        rollouts, rewarded = counts("rollouts", n, rows.size), successes("successes", s, rows.size)
        raw, rewarded = rewarded, self.mapped_sums(rewarded, rollouts)
        position, kind = kernels.first_bad_feedback(rewarded, rollouts)
        if kind:
            name, condition, remedy = _FAULTS[kind]
            bad: Any = rollouts[position] if kind == 1 else raw[position]
            if kind > 1 and not self._unit:
                condition = f"be a sum of rewards between {self.low:g} and {self.high:g} over rollouts[{position}]"
                condition, remedy = f"{condition} = {rollouts[position]}", "Correct reward_range of the bank."
            elif kind == 3:
                condition += f"[{position}] = {rollouts[position]}"
            elif kind == 2 and raw[position] < 0.0:
                remedy = _NEGATIVE
            raise ValueError(error_text(name, condition, bad.item(), remedy, position))
        if squares is not None:
            return Feedback(rows, rewarded, rollouts, self._lacks(squares, raw, rewarded, rollouts))
        if not self._warned and (rewarded != np.floor(rewarded)).any():
            warn(_FRACTIONAL)
            self._warned = True
        return Feedback(rows, rewarded, rollouts)

    def notice_signs(self, feedback: Feedback) -> None:
        """Warn once where the sums seem to be those of rewards of -1 and 1, taken for successes.

        Such sums differ from the rollouts by an even number. For rewards of 0 and 1, whatever the rate p, the chance of that
        is at most 1/2 for a sum S with 1 < S < n: for even n because (q - p)**n <= q**n + p**n, q = 1 - p, and for odd n
        because q**n <= (q - p)**n + n p q**(n - 1) + p**n. A single odd difference rules -1 and 1 out.
        """
        _, won, n, lacks = feedback
        if self._signed is None:
            return
        if lacks.size or ((n - won) % 2.0).any():
            self._signed = None
            return
        mixed = (won > 1.0) & (won < n)
        groups, uneven = self._signed
        groups, uneven = groups + int(mixed.sum()), uneven + int((mixed & (2.0 * won != n)).sum())
        self._signed = groups, uneven
        if groups >= _SIGNED_GROUPS and uneven >= _UNEVEN:
            self._signed = None
            warn(_SIGNS.format(groups=groups))

    def history(self, index: PromptIndex, history: Iterable[Any]) -> list[Feedback]:
        """Return the checked feedback of each round; an error names the round."""
        if isinstance(history, (str, bytes)) or not isinstance(history, Iterable):
            raise TypeError(error_text("history", "be a sequence of rounds", history, _HISTORY_REMEDY))
        rounds = []
        for k, entry in enumerate(history):
            if not isinstance(entry, (tuple, list)) or len(entry) not in (3, 4):
                raise ValueError(error_text("history", "hold three items per round", entry, _HISTORY_REMEDY, k))
            try:
                rounds.append(self.feedback(index, *entry))
            except (KeyError, TypeError, ValueError) as error:
                raise type(error)(f"history[{k}]: {error.args[0]}") from None
        return rounds

    def rollouts(self, index: PromptIndex, prompt_ids: Iterable[Hashable] | None, rewards: npt.ArrayLike) -> Rollouts:
        """Return checked rewards, one per rollout; NaN and None stand for rollouts that could not be scored.

        Raises
        ------
        KeyError
            For an unknown id.
        TypeError, ValueError
            For ids that are no collection, another number of rewards than of ids, and rewards that are infinite or out
            of range.
        """
        if prompt_ids is None:
            remedy = "Name the prompt of each rollout."
            raise TypeError(error_text("prompt_ids", "be a collection of ids", prompt_ids, remedy))
        named = index.rows(prompt_ids)
        values = rewards_per_rollout("rewards", rewards, named.size)
        scored = ~np.isnan(values)
        found = values[scored]
        outside = ~((found >= self.low) & (found <= self.high))
        if outside.any():
            at = int(np.flatnonzero(scored)[np.flatnonzero(outside)[0]])
            low, high = min(self.low, float(found.min())), max(self.high, float(found.max()))
            low = -high if low < 0.0 <= low + high else low  # rewards of -1 and 1, of which the batch may hold one
            such = f", such as ({low:g}, {high:g})," if np.isfinite([low, high]).all() else ""
            remedy = f"Pass reward_range=(low, high){such} {_TO}; NaN stands for a rollout that could not be scored."
            condition = f"be between {self.low:g} and {self.high:g}"
            raise ValueError(error_text("rewards", condition, float(values[at]), remedy, at))
        if not self._unit:
            found = (found - self.low) / self.width
        rows, line = np.unique(named, return_inverse=True)
        group = line[scored]
        n, lack, sums = np.bincount(group, minlength=rows.size), found * (1.0 - found), (group, found)
        if lack.any():  # sums of 0 and 1 are exact; others are taken in an order of their own, not that of the rollouts
            order = np.lexsort((found, group))
            sums, lack = (group[order], found[order]), lack[order]
        won, lacks = (np.asarray(np.bincount(sums[0], part, rows.size), dtype=np.float64) for part in (sums[1], lack))
        unscored = np.bincount(line[~scored], minlength=rows.size)
        return Rollouts(Feedback(rows, won, n, lacks), unscored, scored, group, found)

    def mapped_sums(self, sums: FloatArray, n: IntArray) -> FloatArray:
        """Map sums of rewards to sums over [0, 1]; what is off a whole number by no more than rounding is moved to it."""
        if self._unit:
            return sums
        mapped = (sums - self.low * n) / self.width
        slack = _ROUNDING * np.maximum(n, 1)
        inside = np.clip(np.rint(mapped), 0.0, np.maximum(n, 0).astype(np.float64))
        return np.where(np.abs(mapped - inside) <= slack, inside, mapped)

    def _lacks(self, squares: npt.ArrayLike, raw: FloatArray, won: FloatArray, n: IntArray) -> FloatArray:
        """Return the sums of r - r**2 that follow from sums of squares, after their check."""
        total = successes("squares", squares, n.size)
        mapped = (total - 2.0 * self.low * raw + self.low * self.low * n) / (self.width * self.width)
        lacks = won - mapped
        slack = _ROUNDING * np.maximum(n, 1)
        most = won * ((n - won) / np.maximum(n, 1))  # where all rewards are equal
        part = won - np.floor(won)
        least = part * (1.0 - part)  # where at most one reward is not 0 or 1
        bad = ~((lacks >= least - slack) & (lacks <= most + slack))
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            condition = f"be a sum of squared rewards whose sum is successes[{at}] = {raw[at]:g}"
            remedy = "Sum the square of every reward, in the unit of the rewards."
            if self._unit and total[at] > raw[at]:
                remedy += f" Larger than the sum, some lie outside [0, 1]: pass reward_range=(low, high) {_TO}."
            raise ValueError(error_text("squares", condition, float(total[at]), remedy, at))
        lacks[np.abs(lacks) <= slack] = 0.0
        return np.minimum(lacks, most)
