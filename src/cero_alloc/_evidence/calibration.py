"""Calibration: how well the predicted values agree with the reward variances that are then observed."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, nan, sqrt
from typing import ClassVar

import numpy as np

from cero_alloc._checks import FloatArray, IntArray
from cero_alloc._saving.shown import Shown
from cero_alloc._saving.state import Field, Stateful

_N_BINS = 10
TOP = 0.25  # the largest value, p (1 - p) at p = 1/2
FADE = exp(-1.0 / 1000.0)  # weight that the running bias keeps per group

_LIMIT = 0.01  # bias that changes the ranking of prompts: a tenth of the spread of p (1 - p) in real pools
_ERRORS = 3.0  # standard errors
_LEAST_GROUPS = 100  # with fewer groups the standard error itself is unreliable


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Calibration(Shown):
    """Predicted against observed within-group reward variance, over all groups that a bank was given.

    A group is one entry of an update with at least two rollouts. The prediction is the prompt's value just before the
    entry is added. The observation is the unbiased variance of the group's rewards: for rewards 0 and 1 it is
    S (n - S) / (n (n - 1)), whose expectation is p (1 - p). Rewards in between whose squares were not given are treated as
    0/1 rewards of the same mean. Their variance v is less than p (1 - p), and the expectation of the observation is larger
    than p (1 - p) by (p (1 - p) - v) / (n - 1). The negative bias that results is not an error of the bank.

    Attributes
    ----------
    edges : numpy.ndarray of float64, shape (11,)
        Borders of ten equal bins of the predicted value over [0, 1/4].
    groups : numpy.ndarray of int64, shape (10,)
        Groups in each bin.
    predicted : numpy.ndarray of float64, shape (10,)
        Mean predicted reward variance over each bin; NaN where it is empty.
    observed : numpy.ndarray of float64, shape (10,)
        Mean observed reward variance over each bin; NaN where it is empty.
    n_groups : int
        All groups.
    mixed_groups : int
        Groups whose rewards differ: those with a gradient in group-relative policy optimisation.
    bias : float
        Mean predicted less mean observed reward variance over all groups; NaN without any.
    standard_error : float
        Standard error of ``bias``; NaN below two groups. It treats the prediction errors as independent, which holds for
        a correct bank because each prediction is made before its group is seen.
    running_bias : float
        The bias with weights that fade by exp(-1/1000) per group, that is over about the last thousand groups.
    running_standard_error : float
        Standard error of ``running_bias``.
    error : float
        Mean of abs(predicted - observed) over the bins, weighted by their groups; NaN without any.
    warning : float
        1 when there are at least 100 groups and either bias exceeds 0.01 and three of its standard errors in absolute
        value, else 0. The bias over all groups is ignored where the running bias is smaller by more than three of its
        standard errors, because the cause has then gone.

    References
    ----------
    arXiv 2610.09679 reports the two means of its run. Claim 2 of the theory page: the value is the expected variance.

    Examples
    --------
    >>> from cero_alloc import BetaPosteriorBank
    >>> bank = BetaPosteriorBank(2)
    >>> bank.update(None, successes=[0, 1], rollouts=[4, 4])
    >>> calibration = bank.calibration()
    >>> round(calibration.bias, 4), calibration.mixed_group_rate
    (0.0417, 0.5)
    """

    _SHOWN: ClassVar[tuple[str, ...]] = ("n_groups", "mixed_groups", "bias", "standard_error", "warning")

    edges: FloatArray
    groups: IntArray
    predicted: FloatArray
    observed: FloatArray
    n_groups: int
    mixed_groups: int
    bias: float
    standard_error: float
    running_bias: float
    running_standard_error: float
    error: float
    warning: float

    @property
    def mixed_group_rate(self) -> float:
        """Share of the groups with 0 < S < n; NaN without any."""
        return self.mixed_groups / self.n_groups if self.n_groups else nan

    def metrics(self) -> dict[str, float]:
        """Return the summary as a flat dict of floats, ready for a logger.

        Returns
        -------
        dict of str to float
            ``calibration_bias``, ``calibration_running_bias`` and ``calibration_error`` in units of p (1 - p),
            ``calibration_warning``, and ``mixed_group_rate``, a share.

        Examples
        --------
        >>> sorted(CalibrationRecord().report().metrics())[:3]
        ['calibration_bias', 'calibration_error', 'calibration_running_bias']
        """
        return {
            "calibration_bias": self.bias,
            "calibration_running_bias": self.running_bias,
            "calibration_error": self.error,
            "calibration_warning": self.warning,
            "mixed_group_rate": self.mixed_group_rate,
        }


class CalibrationRecord(Stateful):
    """Sums over all groups so far, by bins of the predicted value, in two arrays of float64, filled by the kernel ``calibrate``.

    Rollouts are counted besides, those of groups of one, too.

    Examples
    --------
    >>> CalibrationRecord().report().n_groups
    0
    """

    __slots__ = ("bins", "rollouts", "tally")
    FIELDS: ClassVar[dict[str, Field]] = {
        "bins": Field(),
        "tally": Field(),
        "rollouts": Field(must="be a count", holds=lambda count, _: count >= 0, older=lambda _: 0),
    }

    def __init__(self) -> None:
        self.bins = np.zeros((4, _N_BINS))  # groups; sums of predicted, observed, and squared difference
        self.rollouts = 0
        self.tally = np.zeros(5)  # mixed groups; faded sums of 1, of 1 squared, of the difference, of its square

    def merge(self, other: CalibrationRecord) -> None:
        """Add the sums of another record; for the fading sums, as if both records had been filled in parallel."""
        self.rollouts += other.rollouts
        self.bins += other.bins
        self.tally += other.tally

    def report(self) -> Calibration:
        """Return the comparison that the sums allow."""
        groups, predicted, observed, squared = self.bins
        n = float(groups.sum())
        bias, own_error = _mean_and_error(n, n, float((predicted - observed).sum()), float(squared.sum()))
        running, running_error = _mean_and_error(*self.tally[1:].tolist())
        empty = groups == 0.0
        size = np.where(empty, np.nan, groups)
        gap = np.abs(predicted - observed).sum()  # the sums weight each bin by its groups
        return Calibration(
            edges=np.linspace(0.0, TOP, _N_BINS + 1),
            groups=groups.astype(np.int64),
            predicted=predicted / size,
            observed=observed / size,
            n_groups=int(n),
            mixed_groups=int(self.tally[0]),
            bias=bias,
            standard_error=own_error,
            running_bias=running,
            running_standard_error=running_error,
            error=float(gap) / n if n else nan,
            warning=float(n >= _LEAST_GROUPS and _biased(bias, own_error, running, running_error)),
        )


def _mean_and_error(weight: float, weight_squared: float, total: float, total_squared: float) -> tuple[float, float]:
    """Return the weighted mean of differences and its standard error, from weighted sums."""
    if weight == 0.0:
        return nan, nan
    mean = total / weight
    share = weight_squared / weight / weight  # one over the effective number of groups
    if share > 1.0 - 1e-12:
        return mean, nan
    variance = max(0.0, total_squared / weight - mean * mean) / (1.0 - share)
    return mean, sqrt(variance * share)


def _biased(bias: float, error: float, running: float, running_error: float) -> bool:
    """Tell whether one of the biases is too large to be chance and still present."""
    if abs(running) > max(_LIMIT, _ERRORS * running_error):
        return True
    if abs(bias) <= max(_LIMIT, _ERRORS * error):
        return False
    # The record keeps an old bias long after a fit has removed its cause; a warning that stayed on would be ignored.
    recovered = (bias - running) * (1.0 if bias > 0.0 else -1.0) > _ERRORS * running_error
    return not recovered
