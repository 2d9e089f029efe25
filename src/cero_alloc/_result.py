"""What a simulated run did and what it was worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._checks import FloatArray, IntArray
from ._horizon import Horizon
from ._utility import SaturatingUtility

MEAN_BINS = np.linspace(0.0, 1.0, 6)  # edges of the predicted-mean bins of the lift


@dataclass(frozen=True, slots=True, eq=False)
class SimulationResult:
    """What a simulated run did and what it was worth.

    A *group* is the rollouts of one prompt in one round. Utilities are sums over the pool; ``regret``, ``bound`` and
    ``proxy_error`` are per prompt. Entries that the policy does not reveal are NaN. The bound is the theorem's for
    Algorithm 1; other policies may exceed it.
    """

    horizon: Horizon
    group_round: IntArray  # round of each group, shape (n_groups,)
    group_prompt: IntArray  # row of each group's prompt
    group_rollouts: IntArray  # rollouts
    group_successes: IntArray  # rollouts rewarded
    group_mean: FloatArray  # posterior mean success rate when the group was dealt
    group_value: FloatArray  # posterior expected variance when the group was dealt
    mean_counts: IntArray  # prompts per predicted-mean bin and round, shape (n_rounds, 5)
    achieved: float  # utility of the executed counts at the true rates
    optimum: float  # utility of the clairvoyant optimum, an upper bound of it on moving rates
    bound: float  # theorem's bound on regret, utility per prompt
    proxy_error: FloatArray  # mean |qhat after the round - q|, shape (n_rounds,)
    variation: float  # V_K, sum over rounds of the largest move of a value
    exposure: IntArray  # rollouts per prompt, shape (n_prompts,)
    pacing_gap: FloatArray  # rollouts spent ahead of the uniform schedule after each round, shape (n_rounds,)
    price: FloatArray  # normalised price after each round, shape (n_rounds,)
    posterior_mean: FloatArray  # mean success rate that the bank expects after the run, shape (n_prompts,)
    utility: SaturatingUtility  # that achieved utility and optimum are of

    @property
    def regret(self) -> float:
        """Optimum minus achieved utility, per prompt."""
        return (self.optimum - self.achieved) / self.horizon.n_prompts

    @property
    def counts(self) -> IntArray:
        """Rollouts per round and prompt, dense; shape (n_rounds, n_prompts)."""
        table = np.zeros((self.horizon.n_rounds, self.horizon.n_prompts), dtype=np.int64)
        table[self.group_round, self.group_prompt] = self.group_rollouts
        return table

    @property
    def allocating_rounds(self) -> int:
        """Rounds that dealt anything."""
        return int(np.unique(self.group_round).size)

    @property
    def effective_group_rate(self) -> float:
        """Share of the groups with both successes and failures, the only ones that teach."""
        if self.group_rollouts.size == 0:
            return float("nan")
        return float(np.mean((self.group_successes > 0) & (self.group_successes < self.group_rollouts)))

    @property
    def top_tenth(self) -> float:
        """Share of the rollouts on the tenth of the prompts that got most; NaN without rollouts."""
        return top_tenth(self.exposure)

    def lift(self) -> FloatArray:
        """Return how much likelier than chance each predicted-mean bin was dealt a group; shape (5,), NaN if empty.

        The bins are [0, .2), [.2, .4), ..., [.8, 1]; the random choice is the pool as it stood in each allocating
        round.
        """
        if np.isnan(self.group_mean).any():
            return np.full(5, np.nan)
        dealt = np.bincount(_mean_bin(self.group_mean), minlength=5) / max(1, self.group_mean.size)
        per_round = np.bincount(self.group_round, minlength=self.horizon.n_rounds)
        pool = per_round @ (self.mean_counts / self.horizon.n_prompts) / max(1, self.group_mean.size)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pool > 0, dealt / pool, np.nan)

    def observed_variance(self) -> FloatArray:
        """Return the unbiased reward variance within each group; NaN for groups of one."""
        n, s = self.group_rollouts.astype(np.float64), self.group_successes
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(n > 1, s * (n - s) / (n * (n - 1.0)), np.nan)


def _mean_bin(mean: FloatArray) -> IntArray:
    """Return the predicted-mean bin of each entry, 0 .. 4."""
    return np.minimum((mean * 5.0).astype(np.int64), 4)


def top_tenth(rollouts: npt.ArrayLike) -> float:
    """Return the share of the rollouts on the tenth of the prompts that got most, rounded up; NaN without rollouts."""
    most_first = np.sort(np.asarray(rollouts))[::-1]
    total = most_first.sum()
    return float(most_first[: -(-most_first.size // 10)].sum() / total) if total else float("nan")
