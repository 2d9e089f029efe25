"""The fit of drift, trend and prior to past reports, by the likelihood of what came next."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Literal

import numpy as np

from cero_alloc._checks import FloatArray, IntArray
from cero_alloc._saving.shown import Shown

from .fitting_kernels import kept_chance, prequential
from .history import Rounds
from .prior import PriorFit, fit_prior

_STRENGTHS, _LOG_ODDS = (1e-2, 1e3), (-log(1e6), log(1e6))  # of the prior, as in its fit
_DRIFTS, _TRENDS = (1e-9, 10.0), (1e-6, 2.0)
# What a policy in training does over a run, as far as anyone can say before it: its log-odds move by one, and what
# was seen at the beginning counts as ten rollouts at the end. The search begins there and, as from a log-normal prior, pays
# for going elsewhere, so that reports that say nothing of motion leave it there.
_RUN_DRIFT, _RUN_TREND, _SPREAD = 0.1, 1.0, 2.0
# Once prompts were seen twice, motion must explain the reports better than rest by what a likelihood-ratio test at 95%
# requires of a further parameter, 1.92 nats.
_WORTH = 2.0
# A jump must explain a round's reports this much better than none, in nats, on average over the shares below. Without a
# jump that happens in at most exp(-6) = 0.25% of the rounds (Claim 30).
_WORTH_OF_JUMP = 6.0
_KEPT = (0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03, 0.02, 0.01)  # shares of the evidence that a jump may leave


def usual_motion(n_rounds: int) -> tuple[float, float]:
    """Return the drift and the trend of a run of so many rounds of which nothing is known yet."""
    return _RUN_DRIFT / n_rounds, _RUN_TREND / sqrt(n_rounds)


@dataclass(frozen=True, slots=True, repr=False)
class BeliefFit(Shown):
    """Drift, trend and prior that would have predicted past reports best, or the reason why the old ones stay.

    Attributes
    ----------
    alpha : float
        First parameter of the prior, in pseudo-rollouts.
    beta : float
        Second parameter of the prior, in pseudo-rollouts.
    drift : float
        What 1 / (alpha + beta) of a prompt grows by per round.
    trend : float
        Standard deviation of the common shift of the log-odds per round.
    n_prompts : int
        Prompts with at least two rollouts.
    n_predictions : int
        Reports of prompts that had been reported in an earlier round; only these tell motion from rest.
    status : {"fitted", "too few prompts", "no spread"}
        Whether the belief was replaced; the reasons are those of :class:`PriorFit`.
    log_likelihood_gain : float
        Log-probability of the reports, each given the earlier ones, less that under the best prior without drift and trend,
        in nats; 0 where beliefs rest.

    References
    ----------
    Dawid, Present position and potential developments: the prequential approach, J. R. Statist. Soc. A 147 (1984).

    Examples
    --------
    >>> fit = BeliefFit(0.4, 0.5, 0.003, 0.1, n_prompts=80, n_predictions=400, status="fitted", log_likelihood_gain=31.0)
    >>> fit.drift
    0.003
    """

    alpha: float
    beta: float
    drift: float
    trend: float
    n_prompts: int
    n_predictions: int
    status: Literal["fitted", "too few prompts", "no spread"]
    log_likelihood_gain: float


def fit_belief(rounds: Rounds, a0: FloatArray, b0: FloatArray, usual: tuple[float, float]) -> BeliefFit:
    """Fit a prior, a drift and a trend to reports; ``usual`` are drift and trend before anything is known of them."""
    won, n = np.zeros((2, rounds.n_prompts))
    np.add.at(won, rounds.rows, rounds.won)
    np.add.at(n, rounds.rows, rounds.rollouts)
    rest: PriorFit = fit_prior(won, n - won, a0, b0)
    counts = rest.n_prompts, rounds.n_repeats
    if not rest.fitted:
        return BeliefFit(rest.alpha, rest.beta, *usual, *counts, rest.status, 0.0)
    if not rounds.n_repeats:
        return BeliefFit(rest.alpha, rest.beta, *usual, *counts, "fitted", 0.0)
    score = _Score(rounds, usual)
    at_rest = score.at_rest(rest.alpha, rest.beta)
    found, point = _maximise(score, [log(rest.alpha + rest.beta), log(rest.alpha / rest.beta), 0.0, 0.0])
    if found <= at_rest + _WORTH:
        return BeliefFit(rest.alpha, rest.beta, 0.0, 0.0, *counts, "fitted", 0.0)
    return BeliefFit(*score.belief(*point), *counts, "fitted", score.of_reports(point) - at_rest)


def share_kept(
    before: tuple[FloatArray, FloatArray], prior: tuple[FloatArray, FloatArray], won: FloatArray, rollouts: IntArray
) -> float:
    r"""Return the share of the evidence that a round's reports leave standing: 1 unless they contradict it together.

    .. math:: \max_{\rho} \sum_i \log P(S_i \mid a_0 + \rho (a_i - a_0), b_0 + \rho (b_i - b_0), n_i)

    over prompts with ``before`` their parameters without the reports.
    """
    scores = [kept_chance(1.0, before, prior, won, rollouts)]
    for share in (0.9, *_KEPT):
        scores.append(kept_chance(share, before, prior, won, rollouts))
        if share == 0.9 and scores[1] <= scores[0]:  # the reports agree with what was known
            return 1.0
    gains = np.array(scores[2:]) - scores[0]
    best = int(np.argmax(gains))
    worth = gains[best] + log(float(np.exp(gains - gains[best]).mean()))
    return _KEPT[best] if worth > _WORTH_OF_JUMP else 1.0


class _Score:
    """Log-probability of the reports, less what a point pays for its distance from the usual motion.

    A point is the log strength and the log-odds of the prior, and by how many spreads drift and trend are above usual.
    """

    def __init__(self, rounds: Rounds, usual: tuple[float, float]) -> None:
        self._rounds, self._jumps, self._usual = tuple(rounds[:5]), rounds.jumps, usual
        self._beliefs = np.empty((4, rounds.n_prompts))

    def __call__(self, point: FloatArray) -> float:
        return self.of_reports(point) - 0.5 * float(point[2] ** 2 + point[3] ** 2)

    def of_reports(self, point: FloatArray) -> float:
        """Return the log-probability alone."""
        a, b, drift, trend = self.belief(*point)
        return float(prequential(self._rounds, (a, b), (drift, trend), self._jumps, self._beliefs))

    def at_rest(self, a: float, b: float) -> float:
        """Return the log-probability under a prior without drift and trend."""
        return float(prequential(self._rounds, (a, b), (0.0, 0.0), self._jumps, self._beliefs))

    def belief(self, strength: float, odds: float, drift: float, trend: float) -> tuple[float, float, float, float]:
        """Return the prior, drift and trend of a point, moved into the box."""
        s, m = exp(_within(strength, *map(log, _STRENGTHS))), 1.0 / (1.0 + exp(-_within(odds, *_LOG_ODDS)))
        rates = (
            usual * exp(_SPREAD * _within(x, -50.0, 50.0)) for usual, x in zip(self._usual, (drift, trend), strict=True)
        )
        delta, tau = (_within(rate, *box) for rate, box in zip(rates, (_DRIFTS, _TRENDS), strict=True))
        return s * m, s * (1.0 - m), delta, tau


def _within(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def _maximise(score: _Score, start: list[float]) -> tuple[float, FloatArray]:
    """Return the largest score near a point, and where it is."""
    from scipy.optimize import minimize  # imported on first use, to keep the import of the package short

    simplex = np.array(start) + np.vstack([np.zeros(4), 0.5 * np.eye(4)])
    options = {"initial_simplex": simplex, "xatol": 0.02, "fatol": 0.02, "maxfev": 200}
    found = minimize(lambda point: -score(point), start, method="Nelder-Mead", options=options)
    return -float(found.fun), found.x
