"""Figures of a batch for a trainer's log."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from cero_alloc._allocators.run_history import alike_chances
from cero_alloc._checks import FloatArray

_MOST = 1024  # prompts that the figure of uniform groups looks at


def group_figures(prompts: Sequence[Hashable], rewards: FloatArray, advantages: FloatArray) -> dict[str, float]:
    """Return what a batch's groups were; rollouts without a reward count in no figure but the counts.

    Parameters
    ----------
    prompts : sequence of hashable, shape (n_rollouts,)
        Prompt of each rollout.
    rewards : numpy.ndarray of float64, shape (n_rollouts,)
        Reward of each, in [0, 1]; NaN where nothing could score it.
    advantages : numpy.ndarray of float64, shape (n_rollouts,)
        Advantage of each over its prompt's posterior mean.

    Returns
    -------
    dict of str to float
        ``prompt_reward``, the mean reward with equal weight per prompt, which does not move with the counts;
        ``mixed_rollouts`` and ``dead_share``, the shares of rollouts in groups whose rewards differ and do not;
        ``prompts_dealt``; ``mean_group``, ``least_group`` and ``largest_group``, in rollouts; ``squared_advantage``.

    Examples
    --------
    >>> figures = group_figures(["a", "a", "b", "b", "b"], np.array([1.0, 0.0, 1.0, 1.0, 1.0]), np.zeros(5))
    >>> figures["prompt_reward"], figures["mixed_rollouts"], figures["largest_group"]
    (0.75, 0.4, 3.0)
    """
    codes = {prompt: code for code, prompt in enumerate(dict.fromkeys(prompts))}
    group = np.fromiter(map(codes.__getitem__, prompts), np.int64, len(prompts))
    sizes = np.bincount(group, minlength=len(codes))
    scored = ~np.isnan(rewards)
    group, values = group[scored], rewards[scored]
    trials = np.bincount(group, minlength=len(codes))
    low, high = np.full(len(codes), np.inf), np.full(len(codes), -np.inf)
    np.minimum.at(low, group, values)
    np.maximum.at(high, group, values)
    some = trials > 0
    means = np.bincount(group, values, len(codes))[some] / trials[some]
    mixed = float(trials[high > low].sum() / trials.sum()) if some.any() else np.nan
    return {
        "prompt_reward": float(means.mean()) if some.any() else np.nan,
        "mixed_rollouts": mixed,
        "dead_share": 1.0 - mixed,
        "prompts_dealt": float(len(codes)),
        "mean_group": float(sizes.mean()) if sizes.size else np.nan,
        "least_group": float(sizes.min()) if sizes.size else np.nan,
        "largest_group": float(sizes.max()) if sizes.size else np.nan,
        "squared_advantage": float(np.mean(np.square(advantages[scored]))) if some.any() else np.nan,
    }


def uniform_dead_share(bank: Any, prompts: Sequence[Hashable] | None, size: int) -> float:
    r"""Return the share of dead groups to expect from groups of ``size`` of every prompt on offer, by the bank's beliefs.

    :math:`\frac{B(a + n, b) + B(a, b + n)}{B(a, b)}` averaged over the prompts: the beta-binomial probability of no or n
    successes. Of many prompts every k-th is looked at.

    Examples
    --------
    >>> from cero_alloc import BetaPosteriorBank
    >>> round(uniform_dead_share(BetaPosteriorBank(10), None, 4), 6)  # 2 of the 5 numbers of successes
    0.4
    """
    rows = np.arange(len(bank)) if prompts is None else np.unique(bank.index.rows(prompts))
    rows = rows[:: -(-rows.size // _MOST) or 1]
    if not rows.size:
        return np.nan
    a, b = bank.evidence.posterior(rows)
    wrong, right = alike_chances(a, b, size)
    return float((wrong + right).mean())
