"""ARCUS: a Kalman filter on the arcsine scale, and a target difficulty that is paced."""

from __future__ import annotations

from typing import ClassVar, Unpack

import numpy as np

from cero_alloc._checks import FloatArray, IntArray, real
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._saving.state import Field

from ._base import VisitRun, size_of
from ._beliefs import POSITIVE, RoundBelief

_SOLVED = np.pi / 2.0  # arcsin sqrt 1
_TARGETS = np.linspace(0.0, _SOLVED, 33)[1:-1]  # candidates, hardest first
_ANGLE = Field(must="be between 0 and pi / 2", holds=lambda angle, _: (angle >= 0.0) & (angle <= _SOLVED))


class ARCUS(RoundBelief):
    r"""ARCUS: sample prompts near a target difficulty, by a filter on :math:`\psi = \arcsin \sqrt p`.

    The belief is :math:`\psi \sim N(\mu, P)`, at first :math:`N(\pi/4, \pi^2/48)`. A visit with S successes in n rollouts
    observes :math:`\arcsin \sqrt{(S + 3/8) / (n + 3/4)}` with variance :math:`1 / (4n + 2)`, or 0 (all wrong) or
    :math:`\pi/2` (all right) with variance :math:`1 / (2n)`. After each round :math:`\mu \leftarrow \mu + v \sin 2\mu` and
    :math:`P \leftarrow P + Q`, for all prompts. With groups of G rollouts and a target t,

    .. math::
        \text{yield} &= 1 - \frac{e^{-G \mu^2 / a} + e^{-G (\pi/2 - \mu)^2 / a}}{\sqrt a}, \qquad a = 1 + 2 G P \\
        \text{score} &= \text{yield} \, \sqrt{\frac{s^2}{s^2 + P}} \, e^{-(\mu - t)^2 / (2 (s^2 + P))}, \qquad
        s = \min(\sin t, \cos t) / \sqrt 2

    and the prompts with the largest score / T plus Gumbel noise are visited. Before each round the target, at first
    :math:`\pi/4`, moves by 0.005 at most towards the hardest target at which the mean yield of the prompts with the largest
    scores is within 0.03 of the best.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids; the rule keeps its own belief.
    velocity : float, in [0, 0.5]
        v, the mean progress per round in radians at a success rate of one half.
    process_noise : float, at least 0
        Q, the variance in squared radians that a round adds.
    temperature : float, greater than 0
        T, of the sampling, in units of the score.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for numbers out of range.

    Notes
    -----
    Deviations. The defaults of ``velocity`` and ``process_noise`` are this package's. Targets are searched on a grid of 31,
    the multiples of :math:`\pi/64`, over the prompts on offer. If a round's total is not a multiple of the group size, the
    visited prompts share it evenly. The publication's gains have not been replicated.

    References
    ----------
    arXiv 2609.38018, ARCUS, with T = 0.3.

    Examples
    --------
    >>> policy = ARCUS(BetaPosteriorBank(3), total_budget=16, n_rounds=1, max_rollouts=8, temperature=0.01)
    >>> policy.update(None, successes=[20, 0, 40], rollouts=[40, 40, 40])
    >>> int(policy.allocate()[0])
    8
    """

    least_rollouts = 2
    FIELDS: ClassVar[dict[str, Field]] = {
        **RoundBelief.FIELDS,
        "_mean": _ANGLE,
        "_variance": POSITIVE,
        "_target": _ANGLE,
    }

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        velocity: float = 0.002,
        process_noise: float = 0.0004,
        temperature: float = 0.3,
        **run: Unpack[VisitRun],
    ) -> None:
        self._velocity = real("velocity", velocity, low=0.0, high=0.5, remedy="Give radians per round, such as 0.002.")
        remedy = "Give a variance per round, such as 0.0004."
        self._noise = real("process_noise", process_noise, low=0.0, high=np.inf, remedy=remedy)
        remedy = "The publication samples at 0.3."
        self._temperature = real("temperature", temperature, low=0.0, high=np.inf, open_low=True, remedy=remedy)
        self._mean = np.full(size_of(bank), np.pi / 4.0)
        self._variance = np.full(size_of(bank), np.pi**2 / 48.0)
        self._target = np.pi / 4.0
        super().__init__(bank, **run)
        self._remember(velocity=velocity, process_noise=process_noise, temperature=temperature)

    def _keys(self, rows: IntArray, total: int) -> FloatArray:
        mean, variance = self._mean[rows], self._variance[rows]
        group = self._block * self.horizon.unit_size
        spread = 1.0 + 2.0 * group * variance
        alike = np.exp(-group * mean**2 / spread) + np.exp(-group * (_SOLVED - mean) ** 2 / spread)
        informative = 1.0 - alike / np.sqrt(spread)
        k = self._n_visits(rows.size, total)
        if k:
            self._pace(_scores(_TARGETS[:, None], mean, variance, informative), informative, k)
        score = _scores(self._target, mean, variance, informative)
        keys: FloatArray = score / self._temperature + self._rng.gumbel(size=rows.size)
        return keys

    def _pace(self, scores: FloatArray, informative: FloatArray, k: int) -> None:
        """Move the target by one step; ``scores`` holds a row per candidate, of which the k largest would be visited."""
        first = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        gains = informative[first].mean(axis=1)
        hardest = _TARGETS[np.argmax(gains >= gains.max() - 0.03)]
        self._target += float(np.clip(hardest - self._target, -0.005, 0.005))

    def _end_round(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        wrong, right = successes == 0.0, successes == rollouts
        angle = np.arcsin(np.sqrt((successes + 0.375) / (rollouts + 0.75)))
        angle = np.where(wrong, 0.0, np.where(right, _SOLVED, angle))
        noise = 1.0 / np.where(wrong | right, 2.0 * rollouts, 4.0 * rollouts + 2.0)
        before = self._variance[rows]
        gain = before / (before + noise)
        self._mean[rows] += gain * (angle - self._mean[rows])
        self._variance[rows] = gain * noise
        # At both ends the motion stops, but for rounding.
        self._mean = np.clip(self._mean + self._velocity * np.sin(2.0 * self._mean), 0.0, _SOLVED)
        self._variance += self._noise


def _scores(target: FloatArray | float, mean: FloatArray, variance: FloatArray, informative: FloatArray) -> FloatArray:
    """Return the score of each prompt at a target, or at a column of targets."""
    width = np.minimum(np.sin(target), np.cos(target)) ** 2 / 2.0
    total = width + variance
    scores: FloatArray = informative * np.sqrt(width / total) * np.exp(-((mean - target) ** 2) / (2.0 * total))
    return scores
