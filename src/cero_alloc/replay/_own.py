"""Judging a log of one's own allocator: what uniform would have got from the same rollouts over the same pool."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, log
from typing import NamedTuple, SupportsIndex

import numpy as np

from cero_alloc._checks import FloatArray, error_text, instance, integer
from cero_alloc._evidence.prior import fit_prior, log_evidence
from cero_alloc._saving.shown import Shown

from ._log import RolloutLog
from ._results import interval_of, resampled

Interval = tuple[float, float]

_UNKNOWN = (np.nan, np.nan)
_GROUPED = 0.5  # share of the rollouts in groups of two or more, from which on groups are what the run is about
_ALIKE = 1e3  # strength of the prior, in pseudo-rollouts, where prompts hardly differ
_ROUNDING = 1e-9
_STEP = 1e-3  # of differences by log-odds and log strength of the prior


@dataclass(frozen=True, slots=True, repr=False)
class AgainstUniform(Shown):
    """What an allocator got from its rollouts, and what uniform would have got.

    Intervals are 95% bootstrap percentile intervals over prompts. Figures that the log cannot tell are NaN.

    Attributes
    ----------
    dealt_by : str
        Class of the allocator.
    pool : int
        Prompts of its pool.
    n_prompts : int
        Prompts that got a rollout.
    n_rollouts : int
        Rollouts with a reward.
    prior : tuple of two floats
        Beta prior fitted to the log, in pseudo-rollouts.
    variance : float
        Expected variance of a reward, per rollout as dealt.
    variance_interval : tuple of two floats
        Its interval.
    uniform_variance : float
        The same with all prompts of the pool weighed alike, as variance per rollout.
    uniform_variance_interval : tuple of two floats
        Its interval.
    ratio : float
        The allocator's variance by uniform's.
    ratio_interval : tuple of two floats
        Its interval, paired by prompt.
    group : float
        Mean size of groups of two or more, in rollouts.
    mixed : float
        Share of the rollouts of such groups that are in mixed ones. NaN where most rollouts are single, and where rewards are
        not 0 or 1.
    mixed_interval : tuple of two floats
        Its interval.
    uniform_mixed : float
        Expected share of the rollouts in mixed groups, if all groups had the mean size and all prompts as many of them.
    uniform_mixed_interval : tuple of two floats
        Its interval.

    References
    ----------
    See :func:`against_uniform`.

    Examples
    --------
    >>> figures = {"variance": 0.2, "uniform_variance": 0.1, "group": 8.0, "mixed": 0.81, "uniform_mixed": 0.55}
    >>> intervals = {"mixed_interval": (0.79, 0.83), "uniform_mixed_interval": (0.52, 0.58)}
    >>> variances = {"variance_interval": (0.19, 0.21), "uniform_variance_interval": (0.09, 0.11)}
    >>> variances |= {"ratio": 2.0, "ratio_interval": (1.8, 2.2)}
    >>> run = {"dealt_by": "ResolvingAllocator", "pool": 900, "n_prompts": 800, "n_rollouts": 9000, "prior": (0.5, 0.5)}
    >>> found = AgainstUniform(**run, **figures, **intervals, **variances)
    >>> found.gain, found.text.split("; ")[0]
    ('more', 'Your allocator put 81% of its rollouts [79, 83] in mixed groups')
    """

    dealt_by: str
    pool: int
    n_prompts: int
    n_rollouts: int
    prior: Interval
    variance: float
    variance_interval: Interval
    uniform_variance: float
    uniform_variance_interval: Interval
    ratio: float
    ratio_interval: Interval
    group: float
    mixed: float
    mixed_interval: Interval
    uniform_mixed: float
    uniform_mixed_interval: Interval

    @property
    def gain(self) -> str:
        """Comparison by the intervals: "more", "less", "none seen", or "unknown".

        Mixed groups differ where the two intervals do not overlap: one share is observed, the other one expected. Variances,
        where there are no groups, are estimated alike, and differ where the interval of their ratio leaves out 1.
        """
        if isnan(self.ratio):
            return "unknown"
        low, high, between = *self.ratio_interval, (1.0, 1.0)
        if not isnan(self.mixed):
            (low, high), between = self.mixed_interval, self.uniform_mixed_interval
        return "more" if low > between[1] + _ROUNDING else "less" if high < between[0] - _ROUNDING else "none seen"

    @property
    def text(self) -> str:
        """The comparison in a sentence, with the figures."""
        if self.gain == "unknown":
            return "Too small to say what uniform would have had: it takes 20 prompts with two rollouts, and rewards that differ."
        where = "over uniform" if isnan(self.mixed) else "in mixed groups"
        lead = {"more": "", "less": "Worse than uniform: ", "none seen": f"No gain {where} can be seen: "}[self.gain]
        your = "your" if lead else "Your"
        if isnan(self.mixed):
            times = f"{self.ratio:.2f} times uniform's [{self.ratio_interval[0]:.2f}, {self.ratio_interval[1]:.2f}]"
            figures = f"{self.variance:.3f} against {self.uniform_variance:.3f}"
            return (
                f"{lead}{your} allocator's rollouts had a reward variance of {times}, {figures} with the same rollouts."
            )
        ours = f"put {100 * self.mixed:.0f}% of its rollouts {_percents(self.mixed_interval)} in mixed groups"
        theirs = f"{100 * self.uniform_mixed:.0f}% {_percents(self.uniform_mixed_interval)}"
        text = f"{lead}{your} allocator {ours}; uniform would have had {theirs} with the same rollouts."
        if self.gain == "none seen" and self.ratio_interval[0] > 1.0:  # paired by prompt, so that it tells more
            text += f" The variance of a reward was {self.ratio:.2f} times uniform's."
        return text


def against_uniform(log: RolloutLog, *, n_boot: SupportsIndex = 1000, seed: int = 0) -> AgainstUniform:
    r"""Estimate from an allocator's own log what uniform would have got from the same rollouts over the same pool.

    An allocator deals more to some prompts, so that averages over its rollouts are not those of the pool. Each prompt's
    rollouts are therefore weighed by the inverse of their number. With the posterior Beta(a, b) of each prompt's rate, under
    the prior that fits the log best, the reward variance is :math:`v = a b / ((a + b)(a + b + 1))`, and the chance of a mixed
    group of m is :math:`1 - E[p^m] - E[(1 - p)^m]`. Uniform gets their mean over the pool, where prompts without a rollout
    have that of the prior; the allocator gets the mean of v over its rollouts, and the mixed groups that it logged. The
    choice of the prompts does not bias the posteriors, because it depended on earlier outcomes only.

    Intervals resample the prompts that were dealt, move the prior with them to first order, and draw the true rates of the
    pool about their posterior means.

    Parameters
    ----------
    log : RolloutLog
        A log written by ``allocator.log_to``.
    n_boot : int, at least 2
        Bootstrap resamplings of the prompts.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    AgainstUniform
        Both figures for the allocator and for uniform. Uniform's are NaN if fewer than 20 prompts have two rollouts, or if
        all rewards are equal.

    Raises
    ------
    ValueError
        For a log of other origin, or fewer than two resamplings.
    TypeError
        For anything but a log, or a number that is not an integer.

    Notes
    -----
    Rates are those over the run. Where a policy learns while it is trained, the variance at a prompt's mean rate is at least
    the mean of its variances, so that uniform's figures are too high rather than too low. So are its mixed groups, by some
    points of a percentage, in a pool that no Beta distribution resembles, such as one of impossible prompts and coin flips.

    References
    ----------
    Rubin, Inference and missing data, Biometrika 63 (1976): a choice by what was seen can be ignored. Efron, Bootstrap
    methods: another look at the jackknife, Ann. Statist. 7 (1979).

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from cero_alloc import BetaPosteriorBank, ResolvingAllocator
    >>> from cero_alloc.replay import read_log
    >>> from cero_alloc.simulation import simulate, static_pool
    >>> pool, file = static_pool(400, 0.3, 0.3, seed=1), pathlib.Path(tempfile.mkdtemp()) / "run.jsonl"
    >>> run = {"total_budget": 25_600, "n_rounds": 20, "min_rollouts": 8, "max_rollouts": 8}
    >>> allocator = ResolvingAllocator(pool.bank(), **run)
    >>> allocator.log_to(file)
    >>> _ = simulate(allocator, pool, 20)
    >>> found = against_uniform(read_log(file), n_boot=200)
    >>> found.gain, found.mixed > 1.1 * found.uniform_mixed
    ('more', True)
    """
    instance("log", log, RolloutLog, "Read one with read_log(...).")
    replicates = integer("n_boot", n_boot, least=2, remedy="Take 1000.")
    reading = log.reading
    if not reading.dealt_by:
        raise ValueError(error_text("log", "be written by an allocator", reading.format, "Call log_to(path) in a run."))
    size, several = log.n_prompts, log.trials > 1
    lacking = np.maximum(log.successes - log.squares, 0.0)  # sums of r - r^2
    n, won, lacks, grouped, mixed = (
        np.bincount(log.group_prompt, part, size).astype(np.float64)
        for part in (log.trials, log.successes, lacking, log.trials * several, log.trials * ~log.dead)
    )
    group = float(log.trials[several].mean()) if several.any() else np.nan
    by_groups = grouped.sum() >= _GROUPED * log.n_rollouts and not log.fractional

    model = _fitted(n, won, lacks, group if by_groups else 2.0)
    table = np.column_stack([
        np.ones(size), n, grouped, mixed, model.score, model.variance, n[:, None] * model.variance, model.mixed,
    ])  # fmt: skip
    pool, rng = max(reading.pool, size), np.random.default_rng([seed, 3])
    seen = size / pool

    def figures(sums: FloatArray, noise: FloatArray) -> FloatArray:
        """Return the variance, uniform's, the mixed share, uniform's, and the ratio of variances, of sums of the table."""
        prompts, rollouts, in_groups, in_mixed = sums[:, :4].T
        moved = np.column_stack([np.ones(len(sums)), sums[:, 4:6] @ model.step])
        variance, dealt, chance = ((moved * sums[:, k : k + 3]).sum(axis=1) for k in (6, 9, 12))
        fresh = moved @ model.fresh
        found = np.stack([
            dealt / rollouts,
            seen * variance / prompts + (1.0 - seen) * fresh[:, 0],
            in_mixed / np.where(in_groups > 0.0, in_groups, np.nan),
            seen * chance / prompts + (1.0 - seen) * fresh[:, 1],
        ]) + noise  # fmt: skip
        found = np.clip(found, 0.0, np.array([[0.25], [0.25], [1.0], [1.0]]))
        return np.vstack([found, found[0] / np.maximum(found[1], np.finfo(float).tiny)])

    values = figures(table.sum(axis=0)[None], np.zeros((4, 1)))[:, 0].tolist()
    draws = resampled(table, replicates, rng)
    noise = _noise(n, model.unsure, pool, rng.standard_normal((3, replicates)))
    intervals = [interval_of(part) for part in figures(draws, noise)]
    if not by_groups:
        values[2:4], intervals[2:4] = [np.nan] * 2, [_UNKNOWN] * 2
    return AgainstUniform(
        dealt_by=reading.dealt_by,
        pool=pool,
        n_prompts=size,
        n_rollouts=log.n_rollouts,
        prior=model.prior,
        variance=values[0],
        variance_interval=intervals[0],
        uniform_variance=values[1],
        uniform_variance_interval=intervals[1],
        ratio=values[4],
        ratio_interval=intervals[4],
        group=group,
        mixed=values[2],
        mixed_interval=intervals[2],
        uniform_mixed=values[3],
        uniform_mixed_interval=intervals[3],
    )


class _Model(NamedTuple):
    """What the fitted prior says of each prompt, with the derivatives by its two coordinates.

    Attributes
    ----------
    prior : tuple of two floats
        Its parameters.
    score : numpy.ndarray, shape (n_prompts, 2)
        Derivatives of each prompt's log-likelihood.
    step : numpy.ndarray, shape (2, 2)
        How far the fit moves with a sum of scores, to first order.
    variance, mixed : numpy.ndarray, shape (n_prompts, 3)
        Expected variance and chance of a mixed group, each with its derivatives.
    fresh : numpy.ndarray, shape (3, 2)
        The same of a prompt without evidence.
    unsure : numpy.ndarray, shape (2, n_prompts + 1)
        Posterior variances of the true variance and of the true chance, last those of a prompt without evidence.
    """

    prior: Interval
    score: FloatArray
    step: FloatArray
    variance: FloatArray
    mixed: FloatArray
    fresh: FloatArray
    unsure: FloatArray


def _noise(n: FloatArray, unsure: FloatArray, pool: int, normal: FloatArray) -> FloatArray:
    """Return draws of what the true means deviate from the expected ones by, in the order of the figures.

    Posterior means of prompts with little evidence are nearly equal, so that resampling them shows a part of the error only.
    """
    often = np.append(np.ones(n.size), pool - n.size) / pool
    weight = np.append(n / n.sum(), 0.0)
    of_pool, of_chance = np.sqrt(unsure @ (often / pool))
    of_dealt, common = np.sqrt(unsure[0] @ weight**2), unsure[0] @ (weight / pool)
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = np.clip(np.nan_to_num(common / (of_pool * of_dealt)), 0.0, 1.0)
    dealt = of_dealt * (alike * normal[0] + np.sqrt(1.0 - alike**2) * normal[1])
    return np.stack([dealt, of_pool * normal[0], np.zeros(normal.shape[1]), of_chance * normal[2]])


def _fitted(n: FloatArray, won: FloatArray, lacks: FloatArray, group: float) -> _Model:
    """Fit the prior to sums per prompt; all figures are NaN where they do not determine one."""
    ones = np.ones(n.size)
    fit = fit_prior(won, n - won, ones, ones)
    alpha, beta = fit.alpha, fit.beta
    mean = float(won.sum() / n.sum())
    if fit.status == "too few prompts" or not 0.0 < mean < 1.0:
        alpha = beta = np.nan
    elif not fit.fitted:  # prompts that hardly differ, or that are all right or all wrong: no mixed group to gain
        alpha, beta = _ALIKE * mean, _ALIKE * (1.0 - mean)
    sums, place = np.unique(np.stack([won, n - won, lacks]), axis=1, return_inverse=True)
    s, f, d = np.column_stack([sums, np.zeros(3)])  # the last column is a prompt without evidence
    often = np.bincount(place.ravel(), minlength=s.size)
    lack = float((lacks / n).mean())  # per rollout: rewards between 0 and 1 vary by that much less than coins

    def quantities(odds: float, strength: float) -> FloatArray:
        """Return log-likelihood, expected variance and chance of a mixed group."""
        total, share = np.exp(strength), 1.0 / (1.0 + np.exp(-odds))
        a, b = total * share, total * (1.0 - share)
        likelihood, a, b = log_evidence(a, b, s, f), a + s, b + f
        coins = a * b / ((a + b) * (a + b + 1.0))
        variance = np.maximum(coins - (d + total * lack) / (s + f + total), 0.0)
        mixed = 1.0 - np.exp(log_evidence(a, b, group, 0.0)) - np.exp(log_evidence(a, b, 0.0, group))
        return np.stack([likelihood, variance, mixed])

    def at(*moves: float) -> FloatArray:
        return quantities(*(start + _STEP * move for start, move in zip(point, moves, strict=True)))

    point = (log(alpha / beta), log(alpha + beta))
    here, by_odds, by_strength = at(0, 0), (at(1, 0) - at(-1, 0)) / 2.0, (at(0, 1) - at(0, -1)) / 2.0
    slopes = np.stack([by_odds, by_strength]) / _STEP
    step = np.zeros((2, 2))
    if fit.fitted:
        curves = [
            at(1, 0) - 2.0 * here + at(-1, 0),
            (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4.0,
            at(0, 1) - 2.0 * here + at(0, -1),
        ]
        bend = [float(often @ curve[0]) / _STEP**2 for curve in curves]
        step = -np.asarray(np.linalg.inv([bend[:2], bend[1:]]), dtype=np.float64)
    a, b = alpha + s, beta + f
    powers = [np.exp(log_evidence(a, b, *sums)) for sums in ((2, 2), (2 * group, 0), (0, 2 * group), (group, group))]
    second = powers[0], powers[1] + powers[2] + 2.0 * powers[3]
    first = a * b / ((a + b) * (a + b + 1.0)), 1.0 - here[2]
    unsure = np.maximum(np.stack(second) - np.stack(first) ** 2, 0.0)
    told = np.moveaxis(np.concatenate([here[None], slopes]), 0, -1)  # quantity, sum, and value or derivative
    where = place.ravel()
    return _Model(
        prior=(alpha, beta),
        score=told[0][where, 1:],
        step=step,
        variance=told[1][where],
        mixed=told[2][where],
        fresh=told[1:, -1].T,
        unsure=unsure[:, np.append(where, s.size - 1)],
    )


def _percents(interval: Interval) -> str:
    return f"[{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]"
