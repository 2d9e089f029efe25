"""Advantages: by how much each rollout's reward exceeds a baseline, with the posterior of its prompt as baseline.

Pure functions of arrays, one entry per rollout of a call. Rewards are mapped to [0, 1]. ``group[j]`` is the index of
rollout j's prompt among the prompts visited, whose evidence from before these rollouts is :class:`Known`. "The others" of
a rollout are the other rollouts of its prompt in the call. Claims 25 to 28 of the theory page have the proofs.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal, NamedTuple

import numpy as np

from cero_alloc._checks import FloatArray, IntArray

from .kernels import ALIKE

Baseline = Literal["posterior", "group", "batch"]
Scale = Literal["none", "posterior", "group"]
Method = Literal["leave-one-out", "mapp"]

# Least divisor, in rewards, unless the group's own mean is subtracted: the deviation of 0/1 rewards at a success rate of 1%.
SCALE_FLOOR = 0.1


class Known(NamedTuple):
    """What is known of each prompt visited before its rollouts, rewards mapped to [0, 1].

    Attributes
    ----------
    a, b : numpy.ndarray of float64, shape (n_groups,)
        Beta parameters, positive, in pseudo-rollouts: sums of r and of 1 - r, prior included.
    deficit : numpy.ndarray of float64, shape (n_groups,)
        Sum of r - r**2, in pseudo-rollouts: what the squared rewards lack to the rewards; 0 for 0/1 rewards.

    References
    ----------
    Claim 28 of the theory page: with s = a + b the mean reward is m = a / s, the second moment v = m - deficit / s, and
    the expected variance of the rewards of a group (v - m**2) s / (s + 1).

    Examples
    --------
    >>> Known(a=np.array([1.5]), b=np.array([1.5]), deficit=np.array([0.25])).a  # a uniform prior, and one reward of 0.5
    array([1.5])
    """

    a: FloatArray
    b: FloatArray
    deficit: FloatArray


def leave_one_out_advantages(
    group: IntArray, rewards: FloatArray, known: Known, *, baseline: Baseline, scale: Scale
) -> FloatArray:
    r"""Return each rollout's reward less a baseline, divided by a scale.

    With the posterior baseline

    .. math:: A_j = \frac{r_j - m_{-j}}{d_j}, \qquad m_{-j} = \frac{a + S - r_j}{a + b + n - 1},

    n and S the number and the sum of the rewards of rollout j's prompt in the call. Neither :math:`m_{-j}` nor the scale
    "posterior" depends on rollout j. So the policy gradient has no bias, with groups of one as well; that scale multiplies
    the gradient of each prompt by a positive number.

    Parameters
    ----------
    group : numpy.ndarray of int64, shape (n_rollouts,)
        Index of each rollout's prompt in ``known``, in any order. A prompt of ``known`` may have no rollout.
    rewards : numpy.ndarray of float64, shape (n_rollouts,)
        Rewards in [0, 1].
    known : Known
        What is known of each prompt before these rollouts; its size is the number of groups.
    baseline : {"posterior", "group", "batch"}
        "posterior": :math:`m_{-j}`. "group": the mean reward of the whole group, rollout j included, as in GRPO. "batch":
        the mean of all other rewards of the call; the only rollout of a call gets 0.
    scale : {"none", "posterior", "group"}
        "none": 1. "posterior": the root of the expected variance of the prompt's rewards given all but rollout j, at least
        ``SCALE_FLOOR``. "group": the standard deviation of the group's rewards, with n - 1 as divisor (TRL's), at least
        ``SCALE_FLOOR`` unless the group's mean is the baseline, and 1 where it is at most 1e-6 of their mean, or n = 1.

    Returns
    -------
    numpy.ndarray of float64, shape (n_rollouts,)
        Advantages, in rewards, or in deviations of rewards where there is a scale. Another order of the rollouts changes
        them by no more than rounding, and not at all where all rewards are 0 or 1.

    References
    ----------
    Claims 25, 26 and 28 of the theory page. Leave-one-out baselines: Kool, van Hoof and Welling, Buy 4 REINFORCE samples,
    get a baseline for free! (2019); RLOO, arXiv 2402.14740. A Beta tracker as baseline of single rollouts: arXiv 2509.13232.
    The group's mean and deviation: GRPO, arXiv 2402.03300.

    Examples
    --------
    Three rollouts of a prompt under a uniform prior, and one of a prompt whose posterior is Beta(8, 2):

    >>> known = Known(a=np.array([1.0, 8.0]), b=np.array([1.0, 2.0]), deficit=np.zeros(2))
    >>> group, rewards = np.array([0, 0, 0, 1]), np.array([1.0, 0.0, 0.0, 1.0])
    >>> leave_one_out_advantages(group, rewards, known, baseline="posterior", scale="none").round(3).tolist()
    [0.75, -0.5, -0.5, 0.2]
    >>> leave_one_out_advantages(group, rewards, known, baseline="group", scale="none").round(3).tolist()
    [0.667, -0.333, -0.333, 0.0]
    """
    a, b = _beta_of_others(group, rewards, known)
    if baseline == "posterior":
        centre = a / (a + b)
    elif baseline == "group":
        centre = _group_means(group, rewards, known.a.size)[group]
    else:
        centre = (rewards.sum() - rewards) / (rewards.size - 1) if rewards.size > 1 else rewards
    advantages: FloatArray = rewards - centre
    if scale == "posterior":
        deficit = known.deficit[group] + _sum_of_others(group, rewards * (1.0 - rewards), known.a.size)
        advantages /= np.maximum(np.sqrt(_expected_variance(a, b, deficit)), SCALE_FLOOR)
    elif scale == "group":
        deviations = _group_deviations(group, rewards, known.a.size)
        advantages /= (deviations if baseline == "group" else np.maximum(deviations, SCALE_FLOOR))[group]
    return advantages


def mapp_advantages(group: IntArray, rewards: FloatArray, known: Known, *, group_size: int) -> FloatArray:
    r"""Return the expectation of GRPO's normalised advantage over the leave-one-out posterior (MaPP-AD), for 0/1 rewards.

    With a' = a + S - r_j and b' = b + F - (1 - r_j), S and F the successes and failures of rollout j's prompt in the call,
    :math:`w_k(x, y)` the Beta-binomial probability of k - 1 out of G - 1, and G = ``group_size``,

    .. math::

        A_j = \sum_{k=1}^{G-1} w_k(a', b') \sqrt{(G - k) / k} \ \text{ for } r_j = 1, \qquad
        A_j = - \sum_{k=1}^{G-1} w_k(b', a') \sqrt{(G - k) / k} \ \text{ for } r_j = 0.

    Parameters
    ----------
    group : numpy.ndarray of int64, shape (n_rollouts,)
        Index of each rollout's prompt in ``known``, in any order. A prompt of ``known`` may have no rollout.
    rewards : numpy.ndarray of float64, shape (n_rollouts,)
        Rewards, each 0 or 1.
    known : Known
        What is known of each prompt before these rollouts; the deficits, 0 for 0/1 rewards, are not read.
    group_size : int
        Rollouts G of the group whose normalisation is averaged, at least 2. The call may have more or fewer per prompt.

    Returns
    -------
    numpy.ndarray of float64, shape (n_rollouts,)
        Advantages, in standard deviations of a group's rewards (with G as divisor, as GRPO defines it): positive for
        successes, negative for failures, at most the root of G - 1 in size.

    Notes
    -----
    The weights follow from their ratios, :math:`w_{k+1} / w_k = (G - k)(x + k - 1) / (k (y + G - 1 - k))`. The loop keeps
    the mean over the terms so far and the weight of the last of them, both relative to the total so far. Every step is a
    mean of positive numbers with positive weights: nothing cancels, nothing overflows, and a weight that underflows stands
    beside a total of 1. Differences of log-gamma functions would lose as many digits as a and b have.

    References
    ----------
    MaPP, arXiv 2609.34990, equations 9 to 14; Claim 27 of the theory page.

    Examples
    --------
    >>> known = Known(a=np.array([1.0]), b=np.array([1.0]), deficit=np.zeros(1))
    >>> group, rewards = np.zeros(3, dtype=np.int64), np.array([1.0, 0.0, 0.0])
    >>> mapp_advantages(group, rewards, known, group_size=4).round(3).tolist()
    [1.253, -0.82, -0.82]
    """
    a, b = _beta_of_others(group, rewards, known)
    right = rewards > 0.5
    same, opposite = np.where(right, a, b), np.where(right, b, a)  # x and y of the weights
    mean, last = np.full(a.shape, sqrt(group_size - 1)), np.ones(a.shape)  # of the term k = 1 alone
    for k in range(1, group_size):  # add the term k + 1
        up = last * ((group_size - k) * (same + (k - 1)))
        down = k * (opposite + (group_size - 1 - k))
        total = up + down
        mean = (down * mean + up * sqrt((group_size - k - 1) / (k + 1))) / total
        last = up / total
    return np.where(right, mean, -mean)


# ---------------------------------------------------------------- a prompt without one of its rollouts


def _beta_of_others(group: IntArray, rewards: FloatArray, known: Known) -> tuple[FloatArray, FloatArray]:
    """Return the Beta parameters of each rollout's prompt, given all but that rollout."""
    size = known.a.size
    a: FloatArray = known.a[group] + _sum_of_others(group, rewards, size)
    b: FloatArray = known.b[group] + _sum_of_others(group, 1.0 - rewards, size)
    return a, b


def _sum_of_others(group: IntArray, values: FloatArray, size: int) -> FloatArray:
    """Return for each rollout the sum of ``values`` over the others; exactly 0 in a group of one."""
    sums: FloatArray = np.bincount(group, values, size)[group] - values
    return sums


def _expected_variance(a: FloatArray, b: FloatArray, deficit: FloatArray) -> FloatArray:
    """Return (v - m**2) s / (s + 1) with m = a / s and v = m - deficit / s, never below 0."""
    s = a + b
    variance: FloatArray = np.maximum(a / s * b - deficit, 0.0) / (s + 1.0)
    return variance


# ---------------------------------------------------------------- a group


def _group_means(group: IntArray, rewards: FloatArray, size: int) -> FloatArray:
    """Return the mean reward of each group, 0 for groups without rollouts."""
    means: FloatArray = np.bincount(group, rewards, size) / np.maximum(np.bincount(group, minlength=size), 1)
    return means


def _group_deviations(group: IntArray, rewards: FloatArray, size: int) -> FloatArray:
    """Return the standard deviation of each group's rewards with n - 1 as divisor, 1 where there is none."""
    means = _group_means(group, rewards, size)
    off = rewards - means[group]
    # Sums of equal terms do not depend on their order: apart, the two sides of 0/1 rewards give the same bits in any.
    squares = np.bincount(group, np.maximum(off, 0.0) ** 2, size) + np.bincount(group, np.minimum(off, 0.0) ** 2, size)
    deviations = np.sqrt(squares / np.maximum(np.bincount(group, minlength=size) - 1, 1))
    return np.where(deviations > ALIKE * means, deviations, 1.0)
