"""The rollouts of one training run: its policy, its offers, its account, and the weight of each rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from studies.learning.policies import ALL, Plan

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Run:
    """One training run: its cell (task or pool, and start), policy, learning rate and seed."""

    cell: tuple[str, ...]
    policy: str
    learning_rate: float
    seed: int


class Dealing:
    """A policy between the sampler and the optimiser.

    Parameters
    ----------
    run : Run
        Names the policy and the seed.
    n_prompts, n_rounds, rollouts : int
        Of the pool; of the run; per round.
    schedule : array_like of int, shape (n_rounds, n_prompts), or None
        Counts to match, for random-matched.
    """

    def __init__(self, run: Run, n_prompts: int, n_rounds: int, rollouts: int, schedule: Any = None) -> None:
        self.contender, self.seed = ALL[run.policy], run.seed
        plan = Plan(n_prompts, n_rounds, rollouts, run.seed)
        self.policy = self.contender.build(plan) if schedule is None else self.contender.build(plan, schedule)
        self._limits: dict[str, Any] = {"budget": rollouts, "exact": True} if self.contender.exact else {}
        self._batches = plan.batches if self.contender.mode == "re-deal" else None
        self.spent = 0
        self.exposure = np.zeros(n_prompts, dtype=np.int64)
        self.counts: list[IntArray] = []  # rollouts per prompt, of each round
        self.mixed: list[float] = []
        self._rows = np.arange(n_prompts)

    @property
    def clairvoyant(self) -> bool:
        """Whether the policy takes the true rates."""
        return hasattr(self.policy, "observe_rates")

    def tell(self, rates: FloatArray) -> None:
        """Pass the true rates, shape (n_prompts,), to a policy that takes them."""
        if self.clairvoyant:
            self.policy.observe_rates(rates)

    def open(self, k: int) -> tuple[IntArray, IntArray]:
        """Return the prompts that get rollouts first in round ``k``, and how many."""
        if self._batches is None:
            return self._chosen(self.policy.allocate(**self._limits))
        self._rows = self._batches[k]
        return self._chosen(self.policy.allocate(self._rows, **self._limits))

    def close(self, rows: IntArray, n: IntArray, right: Bools) -> tuple[IntArray, IntArray]:
        """Report a wave, ``right`` per rollout; return the next, empty where the round is over."""
        if not rows.size:
            return rows, n
        self.spent += int(n.sum())
        if self.contender.advantages is not None:
            baseline, scale = self.contender.advantages
            self.scored = self.policy.observe(np.repeat(rows, n), right.astype(float), baseline=baseline, scale=scale)
            return rows[:0], n[:0]
        won = np.bincount(np.repeat(np.arange(rows.size), n), right, minlength=rows.size)
        self.policy.update(rows, won, n)
        if not hasattr(self.policy, "continue_round"):
            return rows[:0], n[:0]
        seen, answered = np.zeros(self.exposure.size), np.zeros(self.exposure.size, dtype=np.int64)
        seen[rows], answered[rows] = won, n
        return self._chosen(self.policy.continue_round(answered[self._rows], seen[self._rows]))

    def _chosen(self, counts: IntArray) -> tuple[IntArray, IntArray]:
        places = np.flatnonzero(counts)
        return self._rows[places], counts[places]

    def weights(self, rows: IntArray, right: Bools) -> FloatArray:
        """Close the round; return each rollout's weight in the objective, given its prompt and whether it was right."""
        size = self.exposure.size
        n, s = np.bincount(rows, minlength=size), np.bincount(rows, right, minlength=size)
        self.exposure += n
        self.counts.append(n)
        self.mixed.append(float(n[(s > 0) & (s < n)].sum() / max(1, rows.size)))
        self.last = rows, right
        if self.contender.advantages is not None:
            return self.scored / rows.size if rows.size else np.zeros(0)
        return self.objective(rows, right, self.contender.weighting)

    def objective(self, rows: IntArray, right: Bools, weighting: str) -> FloatArray:
        """Return the weights by which a sum of log-likelihoods has GRPO's gradient.

        A rollout's advantage over its group, divided by the group's deviation, times the weight of its prompt: "rollout"
        leaves every rollout the same, as the trainers do; "prompt" gives every prompt the same; "importance" divides this
        by all rollouts of the prompt so far, so that every prompt has the same weight over the run.
        """
        size = self.exposure.size
        n, s = np.bincount(rows, minlength=size), np.bincount(rows, right, minlength=size)
        mixed = (s > 0) & (s < n)
        if not mixed.any():
            return np.zeros(rows.size)
        total = int(n[mixed].sum()) if self.contender.mixed_only else rows.size
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = s / n
            deviation = np.sqrt(mean * (1.0 - mean) * n / (n - 1.0)) + 1e-4
        share = np.ones(size)
        if weighting != "rollout":
            share = 1.0 / np.maximum(n, 1)
            if weighting == "importance":
                share /= np.maximum(self.exposure, 1)
            share *= rows.size / (share * n).sum()
        return np.where(mixed[rows], (right - mean[rows]) / deviation[rows], 0.0) * share[rows] / total

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later rounds depend on; to be called between rounds."""
        return {
            "policy": self.policy.state_dict(),
            "spent": self.spent,
            "exposure": self.exposure.copy(),
            "counts": list(self.counts),
            "mixed": list(self.mixed),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, in a dealing of the same run and sizes."""
        self.policy.load_state_dict(state["policy"])
        self.spent, self.exposure = state["spent"], state["exposure"].copy()
        self.counts, self.mixed = list(state["counts"]), list(state["mixed"])

    def figures(self) -> dict[str, Any]:
        """Return what the record says of the rollouts."""
        return {
            "spent": self.spent,
            "mixed": round(float(np.mean(self.mixed)), 4),  # share of the rollouts in mixed groups
            **concentration(self.exposure),
        }


def dead(rates: FloatArray, group: int = 8) -> float:
    """Return the expected share of groups whose rollouts are all right or all wrong; success rates (n_prompts,)."""
    return float(np.mean(rates**group + (1.0 - rates) ** group))


def concentration(exposure: IntArray) -> dict[str, float]:
    """Return the share of the prompts that got nothing, and of the rollouts that the most dealt tenth got."""
    tenth = max(1, exposure.size // 10)
    return {
        "unseen": round(float(np.mean(exposure == 0)), 4),
        "top": round(float(np.sort(exposure)[-tenth:].sum() / max(1, exposure.sum())), 4),
    }
