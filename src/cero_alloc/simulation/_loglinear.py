"""A minimal model of a policy that learns: logistic success rates over features, and GRPO's gradient of its groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, SupportsIndex, get_args

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import (
    FloatArray,
    IntArray,
    counts,
    error_text,
    flag,
    generator,
    integer,
    pool_rows,
    real,
    reals,
)
from cero_alloc._checks import successes as checked_successes
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._saving.shown import Shown

Weighting = Literal["rollout", "prompt", "importance"]

_LARGEST = 1e50  # of a feature, offset or weight, so that sums of products of two of them stay finite


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LogLinearPool(Shown):
    r"""Prompts whose success rates share the weights of a policy that learns.

    The policy has weights :math:`w`, which start at 0, and solves prompt i with probability

    .. math:: p_i(w) = \sigma(x_i \cdot w + b_i), \qquad \sigma(s) = 1 / (1 + e^{-s}) .

    A gradient step on prompt j changes the logit of prompt i in proportion to :math:`x_i \cdot x_j`, the transfer between
    the two prompts.

    Parameters
    ----------
    features : array_like of float, shape (n_prompts, n_features)
        :math:`x_i` of the training prompts.
    offsets : array_like of float, shape (n_prompts,)
        :math:`b_i` of the training prompts: their logits before training.
    held_features, held_offsets : array_like of float, shapes (n_held, n_features) and (n_held,)
        :math:`x_i` and :math:`b_i` of the held-out prompts, which get no rollouts and are used for evaluation.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not match, an empty table, and entries that are not finite or exceed 1e50 in magnitude.

    References
    ----------
    The section "A policy that learns" of the theory page.

    Examples
    --------
    >>> pool = LogLinearPool([[1.0, 0.0], [0.0, 1.0]], [0.0, 2.0], [[1.0, 1.0]], [0.0])
    >>> pool.rates([0.0, -2.0]).tolist()
    [0.5, 0.5]
    >>> pool.gradient([0.0, -2.0]).tolist()
    [0.125, 0.125]
    """

    _SHOWN: ClassVar[tuple[str, ...]] = ("n_prompts", "n_features", "held_offsets")

    features: FloatArray
    offsets: FloatArray
    held_features: FloatArray
    held_offsets: FloatArray

    def __post_init__(self) -> None:
        n_features = None
        for table, column in (("features", "offsets"), ("held_features", "held_offsets")):
            x, b = _finite(table, getattr(self, table)), _finite(column, getattr(self, column))
            if x.ndim != 2 or x.size == 0 or x.shape[1] != (n_features or x.shape[1]):
                condition = f"have shape (n_prompts, {n_features or 'n_features'})"
                raise ValueError(error_text(table, condition, x.shape, "Give one row per prompt."))
            if b.shape != (len(x),):
                raise ValueError(
                    error_text(column, f"have shape ({len(x)},)", b.shape, f"Give one per row of {table}.")
                )
            n_features = x.shape[1]
            object.__setattr__(self, table, x)
            object.__setattr__(self, column, b)

    @property
    def n_prompts(self) -> int:
        """Training prompts."""
        return int(self.features.shape[0])

    @property
    def n_features(self) -> int:
        """Features of a prompt, and weights of the policy."""
        return int(self.features.shape[1])

    def bank(
        self, *, prior: tuple[npt.ArrayLike, npt.ArrayLike] = (1.0, 1.0), forgetting: float = 1.0
    ) -> BetaPosteriorBank:
        """Return a bank over the training prompts without evidence.

        Parameters
        ----------
        prior : pair of floats, or of two array_like with shape (n_prompts,)
            Beta parameters, in pseudo-rollouts, as in :class:`~cero_alloc.BetaPosteriorBank`.
        forgetting : float, in (0, 1]
            Share of the evidence that survives a round.

        Returns
        -------
        BetaPosteriorBank
            With the ids 0 .. n_prompts - 1.

        Raises
        ------
        ValueError, TypeError
            As :class:`~cero_alloc.BetaPosteriorBank`.

        Examples
        --------
        >>> LogLinearPool([[1.0], [2.0]], [0.0, 0.0], [[1.0]], [0.0]).bank(forgetting=0.9).mean().tolist()
        [0.5, 0.5]
        """
        return BetaPosteriorBank(self.n_prompts, prior=prior, forgetting=forgetting)

    def rates(self, weights: npt.ArrayLike) -> FloatArray:
        """Return the success rates of the training prompts.

        Parameters
        ----------
        weights : array_like of float, shape (n_features,)
            Log-odds per unit of each feature; all 0 is the policy before training.

        Returns
        -------
        numpy.ndarray of float64, shape (n_prompts,)
            Success rates, in (0, 1).

        Raises
        ------
        ValueError, TypeError
            For weights that are not finite numbers of this shape.

        Examples
        --------
        >>> pool = LogLinearPool([[1.0, 0.0], [0.0, 1.0]], [0.0, 2.0], [[1.0, 1.0]], [2.0])
        >>> pool.rates([0.0, -2.0]).tolist()
        [0.5, 0.5]
        """
        return success_rates(self.features, self.offsets, self._weights(weights))

    def mean_success(self, weights: npt.ArrayLike) -> float:
        """Return the mean success rate of the training prompts.

        Parameters
        ----------
        weights : array_like of float, shape (n_features,)
            Log-odds per unit of each feature; all 0 is the policy before training.

        Returns
        -------
        float
            Mean success rate, in (0, 1).

        Raises
        ------
        ValueError, TypeError
            For weights that are not finite numbers of this shape.

        Examples
        --------
        >>> pool = LogLinearPool([[1.0, 0.0], [0.0, 1.0]], [0.0, 2.0], [[1.0, 1.0]], [2.0])
        >>> pool.mean_success([0.0, -2.0])
        0.5
        """
        return float(self.rates(weights).mean())

    def held_out(self, weights: npt.ArrayLike) -> float:
        """Return the mean success rate of the held-out prompts.

        Parameters
        ----------
        weights : array_like of float, shape (n_features,)
            Log-odds per unit of each feature; all 0 is the policy before training.

        Returns
        -------
        float
            Mean success rate, in (0, 1).

        Raises
        ------
        ValueError, TypeError
            For weights that are not finite numbers of this shape.

        Examples
        --------
        >>> pool = LogLinearPool([[1.0, 0.0], [0.0, 1.0]], [0.0, 2.0], [[1.0, 1.0]], [2.0])
        >>> pool.held_out([0.0, -2.0])
        0.5
        """
        return float(success_rates(self.held_features, self.held_offsets, self._weights(weights)).mean())

    def gradient(self, weights: npt.ArrayLike, *, held_out: bool = False) -> FloatArray:
        r"""Return the exact gradient of the mean success rate.

        .. math:: \nabla \frac1M \sum_i p_i = \frac1M \sum_i p_i (1 - p_i) \, x_i

        Parameters
        ----------
        weights : array_like of float, shape (n_features,)
            Log-odds per unit of each feature, at which the gradient is taken.
        held_out : bool
            Whether to average over the held-out prompts instead of the training prompts.

        Returns
        -------
        numpy.ndarray of float64, shape (n_features,)
            Mean success rate per unit of weight.

        Raises
        ------
        ValueError, TypeError
            For weights that are not finite numbers of this shape, and a held_out that is not a bool.

        Examples
        --------
        >>> pool = LogLinearPool([[1.0, 0.0], [0.0, 1.0]], [0.0, 2.0], [[1.0, 1.0]], [2.0])
        >>> pool.gradient([0.0, -2.0]).tolist(), pool.gradient([0.0, -2.0], held_out=True).tolist()
        ([0.125, 0.125], [0.25, 0.25])
        """
        w = self._weights(weights)
        held = flag("held_out", held_out)
        x, b = (self.held_features, self.held_offsets) if held else (self.features, self.offsets)
        p = success_rates(x, b, w)
        return (p * (1.0 - p)) @ x / len(x)

    def group_gradient(
        self,
        rows: npt.ArrayLike,
        rollouts: npt.ArrayLike,
        successes: npt.ArrayLike,
        *,
        normalise: bool = False,
        weighting: Weighting = "rollout",
        exposure: npt.ArrayLike | None = None,
    ) -> FloatArray:
        r"""Return GRPO's gradient of sampled groups, for gradient ascent.

        A group is the n rollouts of one prompt, S of them successful. A rollout with reward :math:`r \in \{0, 1\}` has the
        score :math:`\nabla \log \pi = (r - p) x` and the advantage :math:`A = r - S/n`. The advantages of a group sum to 0,
        so the p in the scores cancels:

        .. math:: \sum A \, \nabla \log \pi = x \sum A r = x \, S (n - S) / n .

        With ``normalise`` the advantages are divided by the group's standard deviation :math:`\sqrt{S(n-S)}/n`, which gives
        :math:`x \sqrt{S(n-S)}`. Dead groups add 0 in both cases.

        Parameters
        ----------
        rows : array_like of int, shape (n_groups,)
            Training prompt of each group.
        rollouts, successes : array_like of int, shape (n_groups,)
            n and S of each group, with n at least 1.
        normalise : bool
            Whether advantages are divided by the group's standard deviation.
        weighting : {"rollout", "prompt", "importance"}
            "rollout": the sum over all rollouts divided by their number, as in most trainers; a prompt's weight is
            proportional to its rollouts. "prompt": the mean over groups of each group's mean; all prompts weigh the same.
            "importance": that mean with weights proportional to 1 / exposure, normalised to average 1, which offsets the
            influence of frequent visits.
        exposure : array_like of int, shape (n_groups,), or None
            Rollouts of each group's prompt so far, including these. Required for "importance" and ignored otherwise.

        Returns
        -------
        numpy.ndarray of float64, shape (n_features,)
            Objective per unit of weight; 0 without groups.

        Raises
        ------
        ValueError, TypeError
            For rows outside the pool, columns of different lengths, a group without rollouts, successes that are not whole
            numbers from 0 to the rollouts, an unknown weighting, and an exposure that is missing or below the rollouts.

        Notes
        -----
        By Claim 19, if the counts do not depend on the rewards of the same round (as they do for rules that deal in waves),
        the expectation is the gradient of

        ============  =========================================
        weighting     objective
        ============  =========================================
        "rollout"     :math:`\sum (n_i - 1) p_i / \sum n_i`
        "prompt"      :math:`\text{mean} \, (1 - 1/n_i) p_i`
        "importance"  :math:`\text{mean} \, w_i (1 - 1/n_i) p_i`
        ============  =========================================

        over the visited prompts, with the weights held fixed. With ``normalise``, :math:`(1 - 1/n_i) p_i` is replaced by
        :math:`2 \arcsin \sqrt{p_i}`, up to a factor between :math:`1 - 1/(2 n p (1-p))` and :math:`\sqrt{1 - 1/n}`. This
        transform stabilises the variance of a rate, and its slope is largest near 0 and 1.

        References
        ----------
        arXiv 2402.03300, GRPO. Claim 19 of the theory page.

        Examples
        --------
        >>> pool = LogLinearPool([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0], [[1.0, 1.0]], [0.0])
        >>> pool.group_gradient([0, 1], [4, 12], [2, 6]).tolist()
        [0.0625, 0.1875]
        >>> pool.group_gradient([0, 1], [4, 12], [2, 6], weighting="prompt").tolist()
        [0.125, 0.125]
        """
        chosen = pool_rows("rows", rows, self.n_prompts)
        n = counts("rollouts", rollouts, chosen.size)
        _require_each("rollouts", n, n >= 1, "be at least 1", "Leave out prompts without rollouts.")
        s = checked_successes("successes", successes, chosen.size)
        condition = "be whole numbers between 0 and the rollouts"
        _require_each("successes", s, (s >= 0) & (s <= n) & (s == np.floor(s)), condition, "Rewards are 0 or 1.")
        weighting = known_weighting(weighting)
        z = None
        if weighting == "importance":
            if exposure is None:
                raise ValueError(
                    error_text("exposure", "be given with 'importance'", None, "Pass rollouts so far, these included.")
                )
            z = counts("exposure", exposure, chosen.size)
            _require_each("exposure", z, z >= n, "be at least the rollouts", "Count these rollouts in.")
        return self.features[chosen].T @ group_coefficients(n, s, flag("normalise", normalise), weighting, z)

    def _weights(self, weights: npt.ArrayLike) -> FloatArray:
        """Return weights as an array, checked."""
        w = _finite("weights", weights)
        if w.shape != (self.n_features,):
            raise ValueError(
                error_text("weights", f"have shape ({self.n_features},)", w.shape, "Give one per feature.")
            )
        return w


def loglinear_pool(
    n_prompts: SupportsIndex = 1000,
    n_features: SupportsIndex = 50,
    *,
    mean: float = 0.0,
    spread: float = 2.0,
    shared: float = 0.2,
    n_held_out: SupportsIndex = 1000,
    seed: int | np.random.Generator = 0,
) -> LogLinearPool:
    r"""Return a pool with random features and difficulties; held-out prompts have the same distribution.

    .. math:: x_i = \sqrt{s} \, u + \sqrt{1 - s} \, z_i, \qquad b_i \sim N(\text{mean}, \text{spread}^2)

    with :math:`s` = ``shared``, a common direction :math:`u = (1, \dots, 1) / \sqrt F`, and :math:`z_i` uniform on the unit
    sphere. The transfer :math:`x_i \cdot x_j` between two prompts is s on average, with fluctuations of order
    :math:`1/\sqrt F`. ``shared`` is therefore the mean transfer between all prompts, and the ratio of ``n_features`` to
    ``n_prompts`` controls the rest: with few features, prompts help or hinder each other along the same directions; with
    more features than prompts, each prompt is learnt almost independently. Because the :math:`z_i` have mean 0, held-out
    prompts improve through the common direction only, up to noise; the other directions memorise training prompts.

    Parameters
    ----------
    n_prompts, n_features : int, at least 1
        Training prompts, and weights of the policy.
    mean : float
        Mean of :math:`b_i`: the mean log-odds of a success before training.
    spread : float, at least 0
        Standard deviation of :math:`b_i`, in log-odds.
    shared : float, in [0, 1]
        Mean transfer between two prompts.
    n_held_out : int, at least 1
        Held-out prompts.
    seed : int or numpy.random.Generator
        Draws the pool.

    Returns
    -------
    LogLinearPool
        The pool before training; the weights are not part of it.

    Raises
    ------
    ValueError, TypeError
        For sizes that are not integers of at least 1, and parameters out of range.

    References
    ----------
    The section "A policy that learns" of the theory page.

    Examples
    --------
    >>> pool = loglinear_pool(200, 400, shared=0.5, seed=1)
    >>> transfer = pool.features @ pool.features.T
    >>> round(float(transfer.mean()), 1)
    0.5
    """
    prompts, size, held = (
        integer(name, value, least=1, remedy="Count from 1.")
        for name, value in (("n_prompts", n_prompts), ("n_features", n_features), ("n_held_out", n_held_out))
    )
    mean = real("mean", mean, low=-_LARGEST, high=_LARGEST, remedy="Give a logit.")
    spread = real("spread", spread, low=0.0, high=1e48, remedy="Give a standard deviation of logits.")
    shared = real("shared", shared, low=0.0, high=1.0, remedy="Give a share.")
    rng = generator(seed)

    def drawn(m: int) -> tuple[FloatArray, FloatArray]:
        offsets = rng.normal(mean, spread, m)
        z = rng.normal(size=(m, size))
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        return np.sqrt(shared / size) + np.sqrt(1.0 - shared) * z, offsets

    features, offsets = drawn(prompts)
    return LogLinearPool(features, offsets, *drawn(held))


def success_rates(features: FloatArray, offsets: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the logistic success rates of prompts; shape (n_prompts,)."""
    from scipy.special import expit  # loaded on first use: keeps the import of the package short

    rates: FloatArray = expit(features @ weights + offsets)
    return rates


def group_coefficients(
    n: IntArray, s: FloatArray, normalise: bool, weighting: Weighting, exposure: IntArray | None
) -> FloatArray:
    """Return the coefficient of each group's features in :meth:`LogLinearPool.group_gradient`; the counts are checked."""
    mixed = s * (n - s)
    total = np.sqrt(mixed) if normalise else mixed / n
    if weighting == "rollout":
        return total / max(1, int(n.sum()))
    weight = np.ones(n.size) if exposure is None or weighting == "prompt" else 1.0 / exposure
    return total / n * (weight / (weight.sum() or 1.0))


def known_weighting(weighting: Weighting) -> Weighting:
    """Return ``weighting``, or raise if it is unknown."""
    if weighting not in get_args(Weighting):
        condition = "be 'rollout', 'prompt' or 'importance'"
        raise ValueError(error_text("weighting", condition, weighting, "Correct the spelling."))
    return weighting


def _finite(name: str, values: npt.ArrayLike) -> FloatArray:
    """Return ``values`` as float64, bounded so that products cannot overflow."""
    return reals(name, values, low=-_LARGEST, high=_LARGEST, remedy="Rescale.")


def _require_each(
    name: str, values: npt.NDArray[np.generic], good: npt.NDArray[np.bool_], condition: str, remedy: str
) -> None:
    """Raise for the first entry that is not good."""
    for i in np.flatnonzero(~good)[:1].tolist():
        raise ValueError(error_text(name, condition, values[i].item(), remedy, i))
