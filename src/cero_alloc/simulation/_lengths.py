"""Lengths of answers, and how long a step of generation takes that produces them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import (
    FloatArray,
    IntArray,
    counts,
    error_text,
    generator,
    integer,
    integers,
    plain_array,
    real,
    reals,
)

from . import _kernels


@dataclass(frozen=True, slots=True)
class LengthModel:
    r"""Lognormal lengths of answers: hard prompts have longer ones, prompts differ, and so do answers to one prompt.

    A prompt with success rate p has answers of mean length

    .. math:: m_i = m \, (p_i + r (1 - p_i)) \, e^{\beta \varepsilon_i - \beta^2 / 2}, \qquad \varepsilon_i \sim N(0, 1),

    so that wrong answers are r times as long as right ones; the answers scatter around it with
    :math:`e^{\omega \eta - \omega^2 / 2}`, :math:`\eta \sim N(0, 1)`, and generation stops at ``most`` tokens.

    Parameters
    ----------
    mean : float, greater than 0
        Mean tokens of an answer to a prompt that is always solved, m.
    hard_ratio : float, greater than 0
        How many times as many tokens a prompt takes that is never solved, r; 1 where difficulty does not matter.
    between : float, at least 0
        Standard deviation of the log of tokens between prompts of one success rate, :math:`\beta`.
    within : float, at least 0
        Standard deviation of the log of tokens between answers to one prompt, :math:`\omega`.
    most : int, at least 1
        Limit of an answer, in tokens.

    Raises
    ------
    ValueError, TypeError
        For a parameter that is no number, or out of its range.

    References
    ----------
    Seer (arXiv 2511.14617): answers to one prompt have similar lengths, and the longest ones hold a step up. RollPacker
    (arXiv 2509.21009): the tail of the lengths. The defaults are no fit to either: replace them by those of your own log.

    Examples
    --------
    >>> model = LengthModel(mean=1000, hard_ratio=3, between=0, within=0)
    >>> means = model.prompt_means([0.0, 0.5, 1.0])
    >>> means.tolist()
    [3000.0, 2000.0, 1000.0]
    >>> model.sample(means, [2, 0, 1]).tolist()
    [3000, 3000, 1000]
    """

    mean: float = 2000.0
    hard_ratio: float = 3.0
    between: float = 0.5
    within: float = 0.5
    most: int = 16_384

    def __post_init__(self) -> None:
        for name, value in (("mean", self.mean), ("hard_ratio", self.hard_ratio)):
            real(name, value, low=0.0, high=math.inf, open_low=True, remedy="Give mean tokens, and their ratio.")
        for name, value in (("between", self.between), ("within", self.within)):
            real(name, value, low=0.0, high=math.inf, remedy="Give a standard deviation of the log of tokens.")
        integer("most", self.most, least=1, remedy="Give the limit of an answer in tokens.")

    def prompt_means(self, rates: npt.ArrayLike, seed: int | np.random.Generator = 0) -> FloatArray:
        """Return the mean length of the answers to each prompt, before the limit.

        Parameters
        ----------
        rates : array_like of float, shape (n_prompts,)
            Success rates, in [0, 1].
        seed : int or numpy.random.Generator
            Draws the differences between prompts of one success rate.

        Returns
        -------
        numpy.ndarray of float64, shape (n_prompts,)
            Mean tokens.

        Raises
        ------
        ValueError, TypeError
            For rates that are not numbers in [0, 1], or an invalid seed.

        Examples
        --------
        >>> LengthModel(between=0).prompt_means([1.0, 0.75]).tolist()
        [2000.0, 3000.0]
        """
        p = np.atleast_1d(reals("rates", rates, low=0.0, high=1.0, remedy="Rates are success probabilities."))
        return self.mean * (p + self.hard_ratio * (1.0 - p)) * _scatter(self.between, p.size, seed)

    def sample(self, means: npt.ArrayLike, rollouts: npt.ArrayLike, seed: int | np.random.Generator = 0) -> IntArray:
        """Return the length of every answer of a step, prompt by prompt.

        Parameters
        ----------
        means : array_like of float, shape (n_prompts,)
            Mean tokens of each prompt, as :meth:`prompt_means` returns them.
        rollouts : array_like of int, shape (n_prompts,)
            Rollouts of each prompt.
        seed : int or numpy.random.Generator
            Draws the differences between answers to one prompt.

        Returns
        -------
        numpy.ndarray of int64, shape (n_rollouts,)
            Tokens, at least 1 and at most ``most``.

        Raises
        ------
        ValueError, TypeError
            For means that are not positive numbers, rollouts that are not integers of at least 0 for each of them, or an
            invalid seed.

        Examples
        --------
        >>> LengthModel(within=0, most=2500).sample([2000, 3000], [1, 2]).tolist()
        [2000, 2500, 2500]
        """
        remedy = "Take them from prompt_means."
        expected = np.atleast_1d(reals("means", means, low=0.0, high=math.inf, open_low=True, remedy=remedy))
        dealt = counts("rollouts", rollouts, expected.size)
        for i in np.flatnonzero(dealt < 0)[:1].tolist():
            raise ValueError(error_text("rollouts", "be at least 0", int(dealt[i]), "Count the rollouts.", i))
        drawn = np.repeat(expected, dealt) * _scatter(self.within, int(dealt.sum()), seed)
        return np.clip(np.rint(drawn), 1, self.most).astype(np.int64)


def step_time(
    lengths: npt.ArrayLike,
    slots: SupportsIndex,
    *,
    workers: SupportsIndex = 1,
    batching: Literal["continuous", "static"] = "continuous",
) -> int:
    """Return how long a step of generation takes, in the time of one token.

    A slot makes one token at a time, however many others are busy. What a prompt's own tokens cost, a prefix that answers
    share, and slots that get faster as others fall idle are left out.

    Parameters
    ----------
    lengths : array_like of int, shape (n_rollouts,)
        Tokens of each answer, in the order in which they are begun.
    slots : int, at least 1
        Rollouts that a worker generates at a time.
    workers : int, at least 1
        Workers among which the rollouts are split, in order and in nearly equal numbers, before the step begins, as trainers
        split a batch over data-parallel ranks; the step waits for the last. 1 for one queue that all slots share.
    batching : {"continuous", "static"}
        "continuous": a slot takes the next rollout as soon as it is free. "static": a worker begins ``slots`` rollouts
        together, and the next ones when the longest of these is done.

    Returns
    -------
    int
        Tokens that a slot makes meanwhile; 0 for no rollouts.

    Raises
    ------
    ValueError, TypeError
        For lengths that are not integers of at least 0, slots or workers below 1, or an unknown batching.

    References
    ----------
    R. L. Graham (1966), "Bounds for certain multiprocessing anomalies": in any order, continuous batching takes at most
    lengths.sum() / slots + (1 - 1 / slots) * lengths.max(), and none takes less than the larger of the two terms'
    lengths.sum() / slots and lengths.max().

    Examples
    --------
    >>> step_time([5, 1, 1, 4], slots=2), step_time([5, 1, 1, 4], slots=2, batching="static")
    (6, 9)
    >>> step_time([5, 1, 1, 4], slots=1, workers=2)
    6
    """
    remedy = "Give the tokens of each answer."
    tokens = integers("lengths", plain_array("lengths", lengths, remedy), remedy)
    if tokens.ndim != 1:
        raise ValueError(error_text("lengths", "have shape (n_rollouts,)", tokens.shape, remedy))
    for i in np.flatnonzero(tokens < 0)[:1].tolist():
        raise ValueError(error_text("lengths", "be at least 0", int(tokens[i]), remedy, i))
    size = integer("slots", slots, least=1, remedy="Count the rollouts that a worker generates at a time.")
    n_workers = integer("workers", workers, least=1, remedy="Count the workers.")
    if batching not in ("continuous", "static"):
        raise ValueError(error_text("batching", "be 'continuous' or 'static'", batching, "Correct the spelling."))
    shares = [share for share in np.array_split(tokens, min(n_workers, max(1, tokens.size))) if share.size]
    if batching == "static":
        return max(
            (int(np.maximum.reduceat(share, np.arange(0, share.size, size)).sum()) for share in shares), default=0
        )
    return max(
        (int(_kernels.list_schedule(share, np.zeros(min(size, share.size), dtype=np.int64))) for share in shares),
        default=0,
    )


def _scatter(deviation: float, size: int, seed: int | np.random.Generator) -> FloatArray:
    """Return lognormal factors of mean 1."""
    drawn: FloatArray = np.exp(deviation * generator(seed).standard_normal(size) - 0.5 * deviation * deviation)
    return drawn
