"""The prior: its checks, and its fit to the evidence of a pool (empirical Bayes)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Set
from dataclasses import dataclass
from math import exp, fsum, log
from typing import Literal

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text, reals, require_ordered
from cero_alloc._saving.shown import Shown

_PRIOR_REMEDY = "A Beta prior needs two positive parameters; (1, 1) is uniform."
_GROUPS_REMEDY = "List one label per prompt, in row order."

# Of pools with prompts of four rollouts, the fitted strength is wrong by a factor of 2 in 40% with 10 prompts and in 25%
# with 20. From 20 prompts on, values under a fitted prior were at most 5% less accurate than under the uniform prior
# where the uniform prior was the truth.
_FEWEST_PROMPTS = 20
# One rollout per prompt determines the mean of the prior but not its strength: E[S] = a / (a + b) for any a + b. Two
# rollouts determine both. Sums of fractional rewards may differ from 2 by rounding.
_PAIR = 2.0 - 1e-9

# The box of the search. A maximum at one of its sides means "no spread":
# strength above 1e3: the likelihood is flat up to infinity when the prompts differ no more than by sampling error. At the
#     rollouts that a prompt gets, 1e3 is practically a point mass, under which no run could distinguish prompts again.
# strength below 1e-2: every prompt was all right or all wrong, and the likelihood rises as the strength falls to 0. In the
#     limit one rollout would determine a prompt's rate, 0 or 1, for good; a pool without a mixed prompt is no evidence
#     against rates in between.
# mean at 0 or 1: only failures, or only successes. The likelihood rises towards that mean at any strength.
_STRENGTHS = (1e-2, 1e3)
_LOG_ODDS = (-log(1e6), log(1e6))
_MANY = 1_000  # prompts with different evidence from which on the search begins with a sample of them
_AT_SIDE = 1e-3  # distance from a side, in log units, below which a maximum counts as being there

_HALF_LOG_2PI = 0.5 * log(2.0 * np.pi)


@dataclass(frozen=True, slots=True, repr=False)
class PriorFit(Shown):
    """A prior fitted to a pool or a group of it, or the reason why the old one stays.

    Attributes
    ----------
    alpha : float
        First parameter of the prior after the fit, in pseudo-rollouts; NaN where a prior per prompt was kept.
    beta : float
        Second parameter of that prior, in pseudo-rollouts; NaN likewise.
    n_prompts : int
        Prompts whose evidence, aged to now, is at least two rollouts.
    status : {"fitted", "too few prompts", "no spread"}
        Whether the prior was replaced. "too few prompts": fewer than 20 with two rollouts. "no spread": the likelihood
        is largest at a limit (all prompts have the same rate, or every prompt is all right or all wrong), so the data do
        not determine a prior.
    log_likelihood_gain : float
        Log-likelihood of the evidence under the new prior less that under the old one, in nats; 0 when the old prior was
        kept. It is negative where the old prior, one per prompt, fitted better than any shared one.

    References
    ----------
    Claim 16 of the theory page: prompts with two rollouts determine the prior, single rollouts do not.

    Examples
    --------
    >>> fit = PriorFit(alpha=0.5, beta=1.5, n_prompts=400, status="fitted", log_likelihood_gain=31.0)
    >>> fit.fitted
    True
    """

    alpha: float
    beta: float
    n_prompts: int
    status: Literal["fitted", "too few prompts", "no spread"]
    log_likelihood_gain: float

    @property
    def fitted(self) -> bool:
        """Whether the prior was replaced."""
        return self.status == "fitted"


def prior_arrays(prior: tuple[npt.ArrayLike, npt.ArrayLike], size: int) -> tuple[FloatArray, FloatArray]:
    """Return a0 and b0 with one entry each, or one per prompt."""
    require_ordered("prior", prior)
    try:
        a, b = prior
    except (TypeError, ValueError):
        raise ValueError(error_text("prior", "be a pair (a, b)", prior, _PRIOR_REMEDY)) from None
    checked = [
        reals(f"prior[{i}]", side, low=0.0, high=np.inf, open_low=True, remedy=_PRIOR_REMEDY)
        for i, side in enumerate((a, b))
    ]
    for i, side in enumerate(checked):
        if side.shape not in ((), (1,), (size,)):
            raise ValueError(
                error_text(f"prior[{i}]", f"be a number or have shape ({size},)", side.shape, "Give one per prompt.")
            )
    wide = size if any(side.shape == (size,) and size > 1 for side in checked) else 1
    a0, b0 = (np.array(np.broadcast_to(side, wide)) for side in checked)
    if (a0 > np.finfo(np.float64).max - b0).any():
        raise ValueError(error_text("prior", "have a finite sum", (a, b), _PRIOR_REMEDY))
    return a0, b0


def require_moderate(a0: FloatArray, b0: FloatArray) -> None:
    """Raise for a prior whose products with shifted odds might overflow, where beliefs move."""
    for i, side in enumerate((a0, b0)):
        bad = np.flatnonzero((side < 1e-30) | (side > 1e30))
        if bad.size:
            value = float(side[bad[0]])
            raise ValueError(
                error_text(f"prior[{i}]", "be between 1e-30 and 1e30 with drift or trend", value, _PRIOR_REMEDY)
            )


# ---------------------------------------------------------------- likelihood


def log_evidence(a: npt.ArrayLike, b: npt.ArrayLike, s: npt.ArrayLike, f: npt.ArrayLike) -> FloatArray:
    r"""Return log B(a + s, b + f) - log B(a, b), the log-probability of s successes and f failures in a given order.

    The difference of two ``betaln`` cancels for large a and b, because each grows like a log a. Stirling's formula
    :math:`\log\Gamma(x) = (x - 1/2) \log x - x + \log\sqrt{2 \pi} + \delta(x)` is exact with its remainder
    :math:`\delta`. With c = a + b, n = s + f and the posterior mean m it leaves only terms of the size of the result:

    .. math::

        s \log m + f \log(1 - m) + a \log\frac{m}{a / c} + b \log\frac{1 - m}{b / c}
        - \tfrac12 \log\frac{(1 + s / a)(1 + f / b)}{1 + n / c}
        + \bigl[\delta\bigr]_a^{a + s} + \bigl[\delta\bigr]_b^{b + f} - \bigl[\delta\bigr]_c^{c + n}.

    Parameters
    ----------
    a, b : array_like of float
        Beta parameters, in pseudo-rollouts. While their ratio and their reciprocals are finite, the error is a few 1e-16
        times the larger of 1 and the result.
    s, f : array_like of float
        Successes and failures, at least 0, whole or not; broadcast with ``a`` and ``b``.

    Returns
    -------
    numpy.ndarray of float64
        Nats, at most 0.

    References
    ----------
    The Beta-binomial (Polya) distribution without its binomial coefficient, which does not depend on a and b.

    Examples
    --------
    >>> np.exp(log_evidence(1.0, 1.0, [0, 1, 2], [2, 1, 0])).round(4).tolist()
    [0.3333, 0.1667, 0.3333]
    >>> log_evidence(1e15, 1e15, 4, 4).round(6).tolist()
    -5.545177
    """
    a, b, s, f = (np.asarray(x, dtype=np.float64) for x in (a, b, s, f))
    c, n = a + b, s + f
    grown_a, grown_b, grown_c = _log_grown(a, s), _log_grown(b, f), _log_grown(c, n)
    shift = s * (b / (c + n)) - f * (a / (c + n))  # posterior mean less prior mean, times c
    with np.errstate(over="ignore"):  # for tiny parameters, whose ratios are not used
        by_a, by_b = shift / a, -shift / b
    result: FloatArray = (
        -s * _log_grown(a + s, b + f)
        - f * _log_grown(b + f, a + s)
        + a * _log1p_or(by_a, grown_a - grown_c)
        + b * _log1p_or(by_b, grown_b - grown_c)
        - 0.5 * (grown_a + grown_b - grown_c)
        + (_stirling_rest(a + s) - _stirling_rest(a))
        + (_stirling_rest(b + f) - _stirling_rest(b))
        - (_stirling_rest(c + n) - _stirling_rest(c))
    )
    return result


def _log_grown(x: FloatArray, by: FloatArray) -> FloatArray:
    """Return log((x + by) / x), also for tiny x."""
    with np.errstate(over="ignore"):
        ratio = by / x
    return np.where(ratio < np.inf, np.log1p(ratio), np.log(x + by) - np.log(x))


def _log1p_or(x: FloatArray, far: FloatArray) -> FloatArray:
    """Return log(1 + x), computed from x where it is small; elsewhere ``far``, because 1 + x might have cancelled."""
    return np.where(np.abs(x) < 0.5, np.log1p(np.clip(x, -0.5, 0.5)), far)


def _stirling_rest(x: FloatArray) -> FloatArray:
    """Return log Gamma(x) - [(x - 1/2) log x - x + log(2 pi)/2]; from x = 10 on by six terms of its series, which suffice."""
    from scipy.special import gammaln  # imported on first use, to keep the import of the package short

    small, large = np.minimum(x, 10.0), np.maximum(x, 10.0)
    direct = np.where(small < 1e-300, -np.log(small), gammaln(small)) - (
        (small - 0.5) * np.log(small) - small + _HALF_LOG_2PI
    )
    y = 1.0 / large / large
    series = 1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y * (1 / 1188 - y * (691 / 360360)))))
    return np.where(x < 10.0, direct, series / large)


# ---------------------------------------------------------------- the prior


def group_rows(groups: object, size: int) -> dict[Hashable, IntArray]:
    """Return the rows of each label, the labels in order of appearance."""
    unordered = isinstance(groups, (str, bytes, Mapping, Set))
    if unordered or not isinstance(groups, Iterable) or getattr(groups, "ndim", 1) == 0:
        raise TypeError(error_text("groups", "be a sequence of labels", groups, _GROUPS_REMEDY))
    labels = groups.tolist() if isinstance(groups, np.ndarray) else list(groups)
    if len(labels) != size:
        raise ValueError(error_text("len(groups)", f"be {size}", len(labels), _GROUPS_REMEDY))
    codes: dict[Hashable, int] = {}
    code_of = np.empty(size, dtype=np.int64)
    for i, label in enumerate(labels):
        try:
            code_of[i] = codes.setdefault(label, len(codes))
        except TypeError:
            raise TypeError(error_text("groups", "be hashable", label, "Use strings, integers or tuples.", i)) from None
    order = np.argsort(code_of, kind="stable")
    borders = np.cumsum(np.bincount(code_of, minlength=len(codes)))[:-1]
    return dict(zip(codes, np.split(order, borders), strict=True))


def fit_prior(succ: FloatArray, fail: FloatArray, a0: FloatArray, b0: FloatArray) -> PriorFit:
    """Fit one prior to the evidence of some prompts whose prior is (a0, b0), of one entry or one per prompt."""
    n_prompts = int(np.count_nonzero(succ + fail >= _PAIR))
    known = succ + fail > 0.0
    pairs, weight = np.unique((succ + 1j * fail)[known], return_counts=True)  # equal evidence is evaluated once
    s, f = pairs.real, pairs.imag
    best = None
    status: Literal["too few prompts", "no spread"] = "too few prompts"
    if n_prompts >= _FEWEST_PROMPTS:
        status = "no spread"
        if s.any() and f.any():
            best = _maximise(s, f, weight.astype(np.float64))
    if best is None:
        return PriorFit(_common(a0), _common(b0), n_prompts, status, 0.0)
    a, b = best
    gains = log_evidence(a, b, succ, fail) - log_evidence(a0, b0, succ, fail)
    return PriorFit(a, b, n_prompts, "fitted", fsum(gains))  # the exact sum does not depend on the order of prompts


def fit_groups(
    groups: Mapping[Hashable, IntArray], succ: FloatArray, fail: FloatArray, a0: FloatArray, b0: FloatArray
) -> tuple[dict[Hashable, PriorFit], tuple[FloatArray, FloatArray] | None]:
    """Fit a prior to each group of rows; return the fits, and the new prior per prompt or None if no group was fitted."""
    a, b = (np.array(np.broadcast_to(side, succ.size)) for side in (a0, b0))
    fits = {label: fit_prior(succ[rows], fail[rows], a[rows], b[rows]) for label, rows in groups.items()}
    for label, fit in fits.items():
        if fit.fitted:
            a[groups[label]], b[groups[label]] = fit.alpha, fit.beta
    return fits, (a, b) if any(fit.fitted for fit in fits.values()) else None


def _common(values: FloatArray) -> float:
    """Return the common value of all entries, or NaN."""
    return float(values[0]) if (values == values[0]).all() else float("nan")


def _maximise(s: FloatArray, f: FloatArray, weight: FloatArray) -> tuple[float, float] | None:
    """Return the (a, b) that maximises the weighted likelihood, or None where the maximum lies at a side of the box.

    The coordinates are the log-odds of the mean and the log of the strength a + b. They are nearly uncorrelated and
    unconstrained, and swapping successes and failures changes only the sign of the first.
    """
    weight = weight / weight.sum()
    box = np.array([_LOG_ODDS, (log(_STRENGTHS[0]), log(_STRENGTHS[1]))])
    data, some = (s, f, weight), slice(None, None, -(-s.size // _MANY))
    sample = s[some], f[some], weight[some]
    # The likelihood may have two local maxima, often one at a moderate strength and one at the strong side. The search
    # therefore starts from the best point of each third of the strengths; the three best of all points can miss the
    # global maximum.
    pooled, typical = (weight * s).sum() / (weight * (s + f)).sum(), (weight * ((s + 0.5) / (s + f + 1.0))).sum()
    odds = [float(np.clip(log(mean) - log(1.0 - mean), *_LOG_ODDS)) for mean in (pooled, typical)]
    starts = [
        min(
            (np.array([mean, strength]) for strength in third for mean in odds), key=lambda point: _loss(point, *sample)
        )
        for third in np.split(np.linspace(box[1, 0], box[1, 1], 12), 3)
    ]
    ends = [_descend(start, box, sample) for start in starts]
    if s.size > _MANY:  # a sample leads near the maxima, all evidence to them
        ends = [_descend(end, box, data) for end in _apart(ends)]
    point = min(ends, key=lambda end: _loss(end, *data))
    if (np.abs(point[:, None] - box) < _AT_SIDE).any():
        return None
    return _parameters(point)


def _apart(points: list[FloatArray]) -> list[FloatArray]:
    """Return the points without those that are close to an earlier one."""
    return [point for i, point in enumerate(points) if all(np.abs(point - other).max() > 0.1 for other in points[:i])]


def _descend(point: FloatArray, box: FloatArray, data: tuple[FloatArray, FloatArray, FloatArray]) -> FloatArray:
    """Return the minimum of the loss near a point of the box, by Newton steps that stay in it.

    Two variables need no library: scipy's L-BFGS-B takes as many evaluations and wakes the threads of the linear algebra,
    which then wait in loops on the processors of a trainer.
    """
    low, high = box.T
    loss = _loss(point, *data)
    for _ in range(200):
        gradient, hessian = _slopes(point, *data)
        free = ~((point <= low) & (gradient > 0.0) | (point >= high) & (gradient < 0.0))
        gradient = np.where(free, gradient, 0.0)
        hessian = np.where(np.outer(free, free), hessian, np.diag(~free))
        curvature, axes = np.linalg.eigh(hessian)
        # Downhill also where the loss curves downwards, and at most 2 log units along an axis.
        step = axes @ np.clip(-(axes.T @ gradient) / np.maximum(np.abs(curvature), 1e-12), -2.0, 2.0)
        ahead: FloatArray = np.clip(point + step, low, high)
        if -(gradient @ step) < 1e-14:  # of a loss of about 1: the last step, whose gain rounding would hide
            return ahead
        there = _loss(ahead, *data)
        while there >= loss and np.abs(step).max() > 1e-9:
            step *= 0.25
            ahead = np.clip(point + step, low, high)
            there = _loss(ahead, *data)
        if there >= loss:
            break
        point, loss = ahead, there
    return point


def _parameters(point: FloatArray) -> tuple[float, float]:
    """Return (a, b) from the log-odds of the mean and the log of the strength."""
    odds, strength = exp(point[0]), exp(point[1])
    return strength * (odds / (1.0 + odds)), strength / (1.0 + odds)


def _loss(point: FloatArray, s: FloatArray, f: FloatArray, weight: FloatArray) -> float:
    """Return minus the mean log-likelihood of a prompt."""
    return -float((weight * log_evidence(*_parameters(point), s, f)).sum())


def _slopes(point: FloatArray, s: FloatArray, f: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return gradient and Hessian of the loss."""
    from scipy.special import digamma

    a, b = _parameters(point)
    c, n = a + b, s + f

    def grown(x: float, by: FloatArray) -> tuple[float, float]:
        """Return the mean growth of digamma and of its derivative from x to x + by."""
        return (weight * (digamma(x + by) - digamma(x))).sum(), (weight * (_trigamma(x + by) - _trigamma(x))).sum()

    (d_a, d_aa), (d_b, d_bb), (d_c, d_cc) = grown(a, s), grown(b, f), grown(c, n)
    d_a, d_b, d_aa, d_ab, d_bb = d_a - d_c, d_b - d_c, d_aa - d_cc, -d_cc, d_bb - d_cc
    # d(a, b) / d(log-odds) = (h, -h) with h = a b / (a + b), d(a, b) / d(log strength) = (a, b)
    h = a * (b / c)
    along_odds, along_strength = h * (d_a - d_b), a * d_a + b * d_b
    mixed = h * (a * (d_aa - d_ab) + b * (d_ab - d_bb)) + along_odds
    hessian = [
        [h * h * (d_aa - 2.0 * d_ab + d_bb) + (b - a) / c * along_odds, mixed],
        [mixed, a * a * d_aa + 2.0 * a * b * d_ab + b * b * d_bb + along_strength],
    ]
    return -np.array([along_odds, along_strength]), -np.array(hessian)


def _trigamma(x: FloatArray | float) -> FloatArray | float:
    """Return the derivative of digamma to nine digits, ten times as fast as scipy's zeta(2, x): it only steers the steps."""
    y = x + 6.0
    series = 1.0 / y + 0.5 / y**2 + (1 / 6 - (1 / 30 - 1 / 42 / y**2) / y**2) / y**3
    return series + sum(1.0 / (x + k) ** 2 for k in range(6))
