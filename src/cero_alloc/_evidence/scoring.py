"""Scoring: advantages of rollouts from what is known of their prompts and from the other rollouts of the call."""

from __future__ import annotations

from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from cero_alloc._checks import FloatArray, error_text, integer

from . import kernels
from .advantages import Known, leave_one_out_advantages, mapp_advantages
from .evidence import Evidence
from .rewards import Rewards, Rollouts

_CHOICES = {
    "baseline": ("posterior", "group", "batch"),
    "scale": ("posterior", "none", "group"),
    "method": ("leave-one-out", "mapp"),
}


class Scoring(NamedTuple):
    """How rewards become advantages; :meth:`BetaPosteriorBank.advantages` documents the choices."""

    baseline: Any = "posterior"
    scale: Any = "posterior"
    method: Any = "leave-one-out"
    group_size: SupportsIndex = 8

    def checked(self) -> Scoring:
        """Return the choices after their check."""
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                words = ", ".join(map(repr, allowed))
                raise ValueError(error_text(name, f"be one of {words}", value, "Correct the spelling."))
        if self.method == "mapp" and (self.baseline, self.scale) != ("posterior", "posterior"):
            raise ValueError(
                f"baseline and scale must be left out with method = 'mapp', which replaces both, got {self.baseline!r} and "
                f"{self.scale!r}. Leave them out."
            )
        size = integer("group_size", self.group_size, least=2, remedy="Give the group size of the trainer.")
        return self._replace(group_size=size)

    def advantages(self, evidence: Evidence, rewards: Rewards, batch: Rollouts, *, counted: bool = False) -> FloatArray:
        """Return one advantage per rollout, 0 for those without a reward.

        ``counted`` says that the evidence holds these rollouts already; they are then taken out of it first.
        """
        rows, won, n, lacks = batch.feedback
        a, b = evidence.posterior(rows)
        deficits = evidence.lacking(rows)
        if counted:
            a0, b0 = evidence.prior(rows)
            a, b = np.maximum(a - won, kernels.LEAST * a0), np.maximum(b - (n - won), kernels.LEAST * b0)
            deficits = np.maximum(deficits - lacks, 0.0)
        known, out = Known(a, b, deficits), np.zeros(batch.scored.size)
        if self.method == "mapp":
            found = mapp_advantages(batch.group, batch.rewards, known, group_size=int(self.group_size))
        else:
            found = leave_one_out_advantages(
                batch.group, batch.rewards, known, baseline=self.baseline, scale=self.scale
            )
            if self.scale == "none":
                found = found * rewards.width
        out[batch.scored] = found
        return out

    def require_coins(self, batch: Rollouts, rewards: Rewards) -> None:
        """Refuse rewards other than the two ends of the range for a method that needs them."""
        if self.method != "mapp":
            return
        odd = np.flatnonzero((batch.rewards != 0.0) & (batch.rewards != 1.0))
        if odd.size:
            at = int(np.flatnonzero(batch.scored)[odd[0]])
            remedy = "Leave method out: the leave-one-out advantage takes any reward."
            raise ValueError(
                error_text(
                    "rewards",
                    "be the ends of the reward range with method = 'mapp'",
                    rewards.low + rewards.width * batch.rewards[odd[0]].item(),
                    remedy,
                    at,
                )
            )
