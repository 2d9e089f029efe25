"""Forecasts of the next group of a prompt by a bank, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import betaln, gammaln

from cero_alloc import BetaPosteriorBank
from cero_alloc._evidence.history import History

from .runs import Groups

SCHEDULES: dict[str, tuple[int, int]] = {  # every how many visits, and in how many parts the pool is looked at
    "every visit": (1, 1),
    "every 4th": (4, 1),
    "every 11th": (11, 1),
    "an eighth at a time": (1, 8),
}
RATES = (1.0, 0.99, 0.98, 0.97, 0.95, 0.92, 0.9, 0.85, 0.8, 0.7, 0.6)  # of forgetting, of which the best is taken


class Score(NamedTuple):
    """Means over all groups of prompts that were seen before.

    Attributes
    ----------
    log_likelihood : float
        Of the group's successes, in nats.
    brier : float
        Squared error of the probability that the group is mixed.
    bias : float
        Predicted less observed reward variance.
    """

    log_likelihood: float
    brier: float
    bias: float


def looks(groups: Groups, schedule: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yield visits and the rows that are looked at then."""
    stride, parts = SCHEDULES[schedule]
    rows = np.arange(len(groups.successes))
    for visit in range(0, groups.successes.shape[1], stride):
        yield visit, rows[rows % parts == visit % parts]


def score(groups: Groups, schedule: str, bank: BetaPosteriorBank, *, fitted: bool = False) -> Score:
    """Let a bank foretell each group before it is told of it; ``fitted`` refits its belief after every look."""
    evidence = bank.evidence
    if fitted:
        evidence.history = History()
    seen, before = np.zeros(len(bank), dtype=bool), 0
    scores: list[np.ndarray] = []
    for visit, rows in looks(groups, schedule):
        bank.tick(visit - before)
        before = visit
        s, n = groups.successes[rows, visit], groups.trials[rows, visit]
        a, b = evidence.posterior(rows)
        choices = gammaln(n + 1.0) - gammaln(s + 1.0) - gammaln(n - s + 1.0)
        likelihood = choices + betaln(a + s, b + n - s) - betaln(a, b)
        mixed = 1.0 - np.exp(betaln(a + n, b) - betaln(a, b)) - np.exp(betaln(a, b + n) - betaln(a, b))
        error = evidence.values(rows) - s * (n - s) / (n * (n - 1.0))
        columns = np.stack([likelihood, (mixed - ((s > 0) & (s < n))) ** 2, error])
        scores.append(columns[:, seen[rows]])
        seen[rows] = True
        bank.update(rows, s, n)
        if fitted:
            evidence.refit(groups.successes.shape[1])
    return Score(*np.concatenate(scores, axis=1).mean(axis=1).tolist())


def history(groups: Groups, schedule: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return a schedule as a history with one round per visit."""
    empty = np.empty(0, dtype=np.int64)
    rounds = [(empty, empty, empty)] * groups.successes.shape[1]
    for visit, rows in looks(groups, schedule):
        rounds[visit] = (rows, groups.successes[rows, visit], groups.trials[rows, visit])
    return rounds


def beliefs(groups: Groups) -> dict[str, Callable[[str], Score]]:
    """Return every belief by its name: what it scores on a schedule."""
    size = len(groups.successes)

    def flat(schedule: str) -> Score:
        return score(groups, schedule, BetaPosteriorBank(size))

    def forgetting(schedule: str, prior: tuple[float, float] = (1.0, 1.0)) -> Score:
        banks = (BetaPosteriorBank(size, prior=prior, forgetting=rho) for rho in RATES)
        return max(score(groups, schedule, bank) for bank in banks)

    def known_prior(schedule: str) -> tuple[float, float]:
        bank = BetaPosteriorBank(size)
        s, n = (sum(column) for column in zip(*_dense(groups, schedule), strict=True))
        bank.update(None, s, n)
        fit = bank.fit_prior()
        return fit.alpha, fit.beta

    def known(schedule: str, *, trend: bool) -> Score:
        fit = BetaPosteriorBank(size).fit_drift(history(groups, schedule))
        motion = {"drift": fit.drift, "trend": fit.trend if trend else 0.0}
        return score(groups, schedule, BetaPosteriorBank(size, prior=(fit.alpha, fit.beta), **motion))

    return {
        "Beta(1, 1), no forgetting": flat,
        "Beta(1, 1), forgetting at its best": forgetting,
        "fitted prior, forgetting at its best": lambda schedule: forgetting(schedule, known_prior(schedule)),
        "drift, known": lambda schedule: known(schedule, trend=False),
        "drift and trend, known": lambda schedule: known(schedule, trend=True),
        "drift and trend, fitted online": lambda schedule: score(
            groups, schedule, BetaPosteriorBank(size), fitted=True
        ),
    }


def _dense(groups: Groups, schedule: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield successes and trials of the whole pool at each look, 0 where a prompt was not looked at."""
    for visit, rows in looks(groups, schedule):
        s, n = np.zeros((2, len(groups.successes)), dtype=np.int64)
        s[rows], n[rows] = groups.successes[rows, visit], groups.trials[rows, visit]
        yield s, n
