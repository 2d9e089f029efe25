"""Rules that decide during a round which prompts deserve more rollouts: NGU and SARA."""

from __future__ import annotations

from typing import SupportsIndex, Unpack

import numpy as np

from cero_alloc._allocators.waves import OpenWaves
from cero_alloc._checks import FloatArray, IntArray, error_text, integer, real
from cero_alloc._evidence.bank import BetaPosteriorBank

from ._base import VisitRun
from ._waves import Waves

_ROUNDING = 1e-9  # probabilities this near a threshold count as equal to it: round thresholds are reached exactly


class NGU(Waves):
    r"""NGU: a prompt whose rollouts all failed comes back with a fixed probability.

    Every wave deals k rollouts to each active prompt. All right, the prompt is dropped; mixed, it is trained on; all wrong,
    it comes back with probability p, at most ``max_age`` times. An unsolved prompt takes

    .. math:: k (1 + p + \dots + p^{\text{max age}}) \le \frac{k}{1 - p}

    rollouts on average, and new prompts are started as far as the round's total covers this mean.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the evidence is updated but not used.
    return_probability : float, in [0, 1]
        Probability p that an unsolved prompt comes back.
    max_age : int
        Waves for which a prompt may come back, 4 as published.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, seed as in :class:`Baseline`;
        rollouts_per_visit: k, the rollouts of a prompt and wave.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for a probability or age out of range.

    Notes
    -----
    Deviations. The rule is implemented from its formula rather than the text of the paper; the default probability of 0.5 is
    this package's. In the publication a prompt comes back in a later training step and its age counts steps; here both are
    waves of one round. Prompts without reported rewards do not come back. ``max_rollouts`` may reduce the last wave.

    References
    ----------
    arXiv 2609.13443, NGU.

    Examples
    --------
    >>> policy = NGU(BetaPosteriorBank(2), return_probability=1.0, total_budget=80, n_rounds=1, max_rollouts=40)
    >>> first = policy.allocate()
    >>> policy.continue_round(first, successes=0 * first).tolist() == first.tolist()
    True
    """

    least_rollouts = 2

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        return_probability: float = 0.5,
        max_age: SupportsIndex = 4,
        **run: Unpack[VisitRun],
    ) -> None:
        remedy = "Give a probability, such as 0.5."
        self._back = real("return_probability", return_probability, low=0.0, high=1.0, remedy=remedy)
        age = integer("max_age", max_age, least=0, remedy="Count the waves after the first.")
        super().__init__(bank, **run)
        self._most = min((1 + age) * self._block, self.horizon.max_units)
        waves = -(-self._most // self._block)
        self._mean = self._block * sum(self._back**i for i in range(waves))  # units of an unsolved prompt
        self._require_capacity(self._block, "a wave of one prompt")
        self._remember(return_probability=return_probability, max_age=max_age)

    def _wave(self, opened: OpenWaves) -> tuple[IntArray, IntArray]:
        unsolved = (opened.last > 0) & (opened.seen > 0) & (opened.won == 0.0) & (opened.dealt < self._most)
        back = np.flatnonzero(unsolved)
        back = back[self._rng.random(back.size) < self._back]
        back = back[np.argsort(self._tie[opened.rows[back]])]
        start = self._start(opened, max(1, int(opened.left / self._mean)) - back.size)
        active = np.concatenate([back, start])
        return active, np.full(active.size, self._block)


class SARA(Waves):
    r"""SARA: probe a prompt, and commit to its whole group or abandon it by the posterior of its success rate.

    A prompt's first wave is a probe. With r rollouts left of its group, S successes and F failures so far, it will have
    both outcomes with probability

    .. math:: P = 1 - E\left[(1 - p)^r\right] \text{ if } S = 0, \quad 1 - E\left[p^r\right] \text{ if } F = 0, \quad
        1 \text{ otherwise}, \qquad p \sim \text{Beta}(a + S, b + F).

    From ``commit`` up the rest of the group is dealt, up to ``abandon`` the prompt gets no more, and in between it is probed
    again. What abandoned prompts leave goes to new prompts.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and prior; its evidence is updated but not used.
    probe_rollouts : int
        Rollouts of a probe, 4 as published.
    abandon, commit : float, in [0, 1]
        Largest P of an abandoned prompt, and smallest P of a committed one, which wins where both hold.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, seed as in :class:`Baseline`;
        rollouts_per_visit: the size of a whole group.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for a probe below 2 rollouts or thresholds out of range or order.

    Notes
    -----
    Deviations. The rule is implemented from a summary rather than the text of the paper: P as the statistic and the default
    thresholds 0.5 and 0.9 are this package's. The posterior is the bank's prior and the rewards of this round. Prompts
    without reported rewards are abandoned. Because only reward sums are known, a group of equal fractional rewards counts as
    mixed.

    References
    ----------
    arXiv 2607.26253, SARA.

    Examples
    --------
    >>> policy = SARA(BetaPosteriorBank(3), total_budget=24, n_rounds=1, max_rollouts=8)
    >>> first = policy.allocate()
    >>> first.tolist(), policy.continue_round(first, successes=[0, 1, 4]).tolist()
    ([4, 4, 4], [0, 4, 0])
    """

    least_rollouts = 2

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        probe_rollouts: SupportsIndex = 4,
        abandon: float = 0.5,
        commit: float = 0.9,
        **run: Unpack[VisitRun],
    ) -> None:
        remedy = "Give a probability."
        self._abandon = real("abandon", abandon, low=0.0, high=1.0, remedy=remedy)
        self._commit = real("commit", commit, low=0.0, high=1.0, remedy=remedy)
        if self._commit < self._abandon:
            raise ValueError(error_text("commit", f"be at least abandon = {abandon}", commit, "Raise it."))
        probe = integer("probe_rollouts", probe_rollouts, least=2, remedy="One rollout cannot show both outcomes.")
        super().__init__(bank, **run)
        self._probe = self._units("probe_rollouts", probe, 2)
        self._require_capacity(self._block, "a group")
        self._remember(probe_rollouts=probe_rollouts, abandon=abandon, commit=commit)

    def _mixed_chance(self, opened: OpenWaves, at: IntArray) -> FloatArray:
        """Return the probability that the groups at these positions, once whole, have both outcomes."""
        from scipy.special import gammaln  # imported on first use, to keep the import of the package short

        a, b = self.bank.evidence.prior(opened.rows[at])
        won, seen = opened.won[at], opened.seen[at]
        rest = (self._block - opened.dealt[at]) * self.horizon.unit_size
        other = np.where(won == 0.0, b + seen, a + won)  # pseudo-counts of the only outcome so far
        every = a + b + seen
        alike = gammaln(other + rest) - gammaln(other) - gammaln(every + rest) + gammaln(every)
        chance: FloatArray = np.where(opened.mixed[at], 1.0, -np.expm1(alike))
        return chance

    def _wave(self, opened: OpenWaves) -> tuple[IntArray, IntArray]:
        at = np.flatnonzero((opened.last > 0) & (opened.seen > 0) & (opened.dealt < self._block))
        at = at[np.argsort(self._tie[opened.rows[at]])]
        chance = self._mixed_chance(opened, at)
        commits = chance >= self._commit - _ROUNDING
        stays = commits | (chance > self._abandon + _ROUNDING)
        at, rest = at[stays], self._block - opened.dealt[at[stays]]
        units = np.where(commits[stays], rest, np.minimum(rest, self._probe))
        # A prompt is probed only if the round could still pay its whole group.
        start = self._start(opened, (opened.left - int(rest.sum())) // self._block)
        first = np.full(start.size, min(self._probe, self._block))
        return np.concatenate([at, start]), np.concatenate([units, first])
