"""SimulationResult: the groups, rewards and prices of a simulated run, and its utility."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cero_alloc._budget.horizon import Horizon
from cero_alloc._checks import FloatArray, IntArray
from cero_alloc._evidence.kernels import ALIKE, BLUR
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._saving.shown import Shown

MEAN_BINS = np.linspace(0.0, 1.0, 6)  # edges of the bins of the predicted mean success rate


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SimulationResult(Shown):
    """The groups, rewards and prices of a simulated run, and its utility.

    A *group* is all rollouts of one prompt in one round. Utilities are sums over the pool; ``regret``, ``bound`` and
    ``proxy_error`` are per prompt. Entries are NaN if the policy has no bank or no price. The theorem behind the bound is
    about Algorithm 1; other policies may exceed it.

    Attributes
    ----------
    horizon : Horizon
        Constants of the run, used for optimum and bound.
    group_round : numpy.ndarray of int64, shape (n_groups,)
        Round of each group, counted from 0.
    group_prompt : numpy.ndarray of int64, shape (n_groups,)
        Row of each group's prompt.
    group_rollouts : numpy.ndarray of int64, shape (n_groups,)
        Rollouts of each group.
    group_successes : numpy.ndarray of int64 or float64, shape (n_groups,)
        Successful rollouts of each group; for a pool of levels the sum of its rewards.
    group_squares : numpy.ndarray of float64, shape (n_groups,)
        Sum of the squared rewards of each group; the successes once more where rewards are 0 or 1.
    group_mean : numpy.ndarray of float64, shape (n_groups,)
        Posterior mean success rate of the prompt when the group was dealt.
    group_value : numpy.ndarray of float64, shape (n_groups,)
        Posterior expected reward variance of the prompt when the group was dealt, in [0, 1/4].
    mean_counts : numpy.ndarray of int64, shape (n_rounds, 5)
        Prompts per round and bin of the predicted mean.
    achieved : float
        Utility of the dealt rollouts at the true success rates.
    optimum : float
        Utility of the clairvoyant optimum; an upper bound on it if the rates move.
    bound : float
        The theorem's bound on the regret, in utility per prompt.
    proxy_error : numpy.ndarray of float64, shape (n_rounds,)
        Mean over the prompts of abs(value in the bank after the round - true value).
    variation : float
        V_K, the sum over rounds of the largest change of any prompt's true value.
    exposure : numpy.ndarray of int64, shape (n_prompts,)
        Rollouts per prompt over the run.
    pacing_gap : numpy.ndarray of float64, shape (n_rounds,)
        Rollouts spent ahead of the uniform schedule after each round.
    price : numpy.ndarray of float64, shape (n_rounds,)
        Normalised price after each round, in [0, 1].
    posterior_mean : numpy.ndarray of float64, shape (n_prompts,)
        Posterior mean success rate of each prompt after the run.
    utility : SaturatingUtility
        The utility of which ``achieved`` and ``optimum`` are sums.

    References
    ----------
    Theorems 1 and 2 of the theory page: regret, bound, proxy error and variation. arXiv 2610.09679: lift, mixed groups
    (there "effective") and pacing.

    Examples
    --------
    >>> from cero_alloc.baselines import Uniform
    >>> from cero_alloc.simulation import simulate, static_pool
    >>> pool = static_pool(4, seed=0)
    >>> result = simulate(Uniform(pool.bank(), total_budget=32, n_rounds=4, max_rollouts=2), pool, 4)
    >>> result.exposure.tolist(), result.pacing_gap.tolist()
    ([8, 8, 8, 8], [0.0, 0.0, 0.0, 0.0])
    """

    _SHOWN: ClassVar[tuple[str, ...]] = (
        "horizon.n_prompts",
        "horizon.n_rounds",
        "group_rollouts",
        "achieved",
        "optimum",
        "regret",
    )

    horizon: Horizon
    group_round: IntArray
    group_prompt: IntArray
    group_rollouts: IntArray
    group_successes: npt.NDArray[Any]
    group_squares: FloatArray
    group_mean: FloatArray
    group_value: FloatArray
    mean_counts: IntArray
    achieved: float
    optimum: float
    bound: float
    proxy_error: FloatArray
    variation: float
    exposure: IntArray
    pacing_gap: FloatArray
    price: FloatArray
    posterior_mean: FloatArray
    utility: SaturatingUtility

    @property
    def regret(self) -> float:
        """Optimum minus achieved utility, per prompt of the pool."""
        return (self.optimum - self.achieved) / self.horizon.n_prompts

    @property
    def counts(self) -> IntArray:
        """Rollouts per round and prompt as a dense array; shape (n_rounds, n_prompts)."""
        table = np.zeros((self.horizon.n_rounds, self.horizon.n_prompts), dtype=np.int64)
        table[self.group_round, self.group_prompt] = self.group_rollouts
        return table

    @property
    def allocating_rounds(self) -> int:
        """Number of rounds in which rollouts were dealt."""
        return int(np.unique(self.group_round).size)

    @property
    def mixed(self) -> npt.NDArray[np.bool_]:
        """Whether the rewards of each group differ, up to rounding; shape (n_groups,). Other groups have no GRPO gradient."""
        n, s = self.group_rollouts, self.group_successes
        alike = np.maximum((ALIKE * s / n) ** 2, BLUR)
        apart = self.observed_variance() > alike  # a group of one has no variance: NaN is not larger
        mixed: npt.NDArray[np.bool_] = (s > 0) & (s < n) & apart
        return mixed

    @property
    def mixed_group_rate(self) -> float:
        """Share of the groups that are mixed; NaN without groups."""
        return float(self.mixed.mean()) if self.group_rollouts.size else float("nan")

    @property
    def top_tenth(self) -> float:
        """Share of the rollouts dealt to the tenth of the prompts with the most rollouts; NaN without rollouts."""
        return top_tenth(self.exposure)

    def lift(self) -> FloatArray:
        """Return the selection lift by predicted mean success rate: how much more often than by chance a bin was dealt.

        The bins are [0, 0.2), [0.2, 0.4), ..., [0.8, 1]. Chance is a uniform choice from the pool in each round that dealt
        rollouts.

        Returns
        -------
        numpy.ndarray of float64, shape (5,)
            Share of the groups divided by share of the pool, per bin; NaN for a bin without prompts, and in every bin for
            a policy without a bank.

        References
        ----------
        arXiv 2610.09679, the selection lift.

        Examples
        --------
        >>> from cero_alloc.baselines import Uniform
        >>> from cero_alloc.simulation import simulate, static_pool
        >>> pool = static_pool(4, seed=0)
        >>> result = simulate(Uniform(pool.bank(), total_budget=8, n_rounds=1, max_rollouts=2), pool, 1)
        >>> result.lift().tolist()
        [nan, nan, 1.0, nan, nan]
        """
        if np.isnan(self.group_mean).any():
            return np.full(5, np.nan)
        dealt = np.bincount(_mean_bin(self.group_mean), minlength=5) / max(1, self.group_mean.size)
        per_round = np.bincount(self.group_round, minlength=self.horizon.n_rounds)
        pool = per_round @ (self.mean_counts / self.horizon.n_prompts) / max(1, self.group_mean.size)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pool > 0, dealt / pool, np.nan)

    def observed_variance(self) -> FloatArray:
        """Return the unbiased reward variance within each group: S (n - S) / (n (n - 1)) where rewards are 0 or 1.

        With Q the sum of the squared rewards it is (Q - S^2 / n) / (n - 1), which is the same where Q = S.

        Returns
        -------
        numpy.ndarray of float64, shape (n_groups,)
            Variance of the rewards of each group, in [0, 0.5]; NaN for groups of one rollout.

        References
        ----------
        arXiv 2610.09679 compares its mean with the predicted value.

        Examples
        --------
        >>> from cero_alloc.baselines import Uniform
        >>> from cero_alloc.simulation import simulate, static_pool
        >>> pool = static_pool(4, seed=0)
        >>> result = simulate(Uniform(pool.bank(), total_budget=8, n_rounds=1, max_rollouts=2), pool, 1)
        >>> result.group_successes.tolist(), result.observed_variance().tolist()
        ([1, 2, 2, 2], [0.5, 0.0, 0.0, 0.0])
        """
        n, s = self.group_rollouts.astype(np.float64), self.group_successes
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = s * (n - s) / (n * (n - 1.0)) - (s - self.group_squares) / (n - 1.0)
            return np.where(n > 1, np.maximum(variance, 0.0), np.nan)


def _mean_bin(mean: FloatArray) -> IntArray:
    """Return the bin of each predicted mean, 0 .. 4."""
    return np.minimum((mean * 5.0).astype(np.int64), 4)


def top_tenth(rollouts: npt.ArrayLike) -> float:
    """Return the share of the rollouts dealt to the tenth of the prompts (rounded up) with the most; NaN without any."""
    most_first = np.sort(np.asarray(rollouts))[::-1]
    total = most_first.sum()
    return float(most_first[: -(-most_first.size // 10)].sum() / total) if total else float("nan")
