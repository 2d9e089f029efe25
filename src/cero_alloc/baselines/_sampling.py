"""Rules that draw prompts at random by a score of their success rates: MaPP, LILO and CurES."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from cero_alloc._allocators import gains_kernels
from cero_alloc._checks import FloatArray, IntArray, real
from cero_alloc._evidence.bank import BetaPosteriorBank

from ._base import Baseline, VisitRun
from ._selectors import FadingEvidence


class MaPP(FadingEvidence):
    r"""MaPP-PS: draw prompts in proportion to the probability that their group has both outcomes.

    Prompts are drawn without replacement, in proportion to

    .. math:: E\left[1 - p^G - (1 - p)^G\right], \qquad p \sim \text{Beta}(a, b)

    with G the rollouts of a group. A visited prompt's evidence decays before its rewards are added,
    :math:`a \leftarrow \lambda a + (1 - \lambda) a_0 + S`.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and prior; the rule keeps its own evidence, which ages with visits only.
    forgetting : float, in (0, 1]
        Share :math:`\lambda` of the evidence that survives a visit, 0.5 as published.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, seed as in :class:`Baseline`;
        rollouts_per_visit: the size G of a group.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for a forgetting out of range.

    Notes
    -----
    Deviations. Only the selection of prompts is used, not the advantages (MaPP-AD). If a round's total is not a multiple of
    the group size, the visited prompts share it evenly. The score is the group signal of
    :class:`~cero_alloc.ResolvingAllocator` at G rollouts.

    References
    ----------
    arXiv 2609.34990, MaPP, prompt selection.

    Examples
    --------
    >>> policy = MaPP(BetaPosteriorBank(3), total_budget=32, n_rounds=2, max_rollouts=8)
    >>> counts = policy.allocate()
    >>> policy.update(None, successes=counts // 2, rollouts=counts)
    >>> sorted(policy.allocate().tolist())
    [0, 8, 8]
    """

    title = "MaPP-PS"

    def __init__(self, bank: BetaPosteriorBank, *, forgetting: float = 0.5, **run: Unpack[VisitRun]) -> None:
        super().__init__(bank, forgetting=forgetting, **run)

    def _scores(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Return the probability of a mixed group at rates from Beta(a, b)."""
        gains = np.empty((a.size, self._block))
        gains_kernels.group_gains((a, b, np.ones(a.size)), self.horizon.unit_size, gains)
        scores: FloatArray = gains.sum(axis=1)
        return scores

    def _keys(self, a: FloatArray, b: FloatArray) -> FloatArray:
        return _drawn(_log(self._scores(a, b)), self._rng)


class Learnability(Baseline):
    """LILO: draw prompts in proportion to their learnability, p (1 - p).

    Prompts are drawn without replacement.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt; its value, the posterior mean of p (1 - p), is the learnability.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`.

    Notes
    -----
    Deviations. In the publication p is estimated by fresh rollouts of candidates; here all prompts on offer are drawn from,
    and the bank's value costs no rollouts. If a round's total is not a multiple of the group size, the visited prompts share
    it evenly.

    References
    ----------
    arXiv 2502.12272, LILO (NeurIPS 2025).

    Examples
    --------
    >>> bank = BetaPosteriorBank(3)
    >>> bank.update(None, successes=[10**9, 20, 20], rollouts=[10**9, 40, 40])
    >>> Learnability(bank, total_budget=16, n_rounds=1, max_rollouts=8).allocate().tolist()
    [0, 8, 8]
    """

    title = "LILO"
    kind = "selects"
    least_rollouts = 2

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        return self._to_first(_drawn(_log(self.bank.evidence.values(rows)), self._rng), rows, total)


class CurES(Baseline):
    r"""CurES: draw prompts by a softmax of the standard deviation of their rewards.

    Prompts are drawn without replacement, in proportion to :math:`e^{\sqrt{p (1 - p)} / T}`.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt; its posterior mean is p.
    temperature : float, > 0
        T; 1 draws nearly uniformly, a small T takes the prompts nearest to one half.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for a temperature out of range.

    Notes
    -----
    Deviations. The publication also varies the rollouts per prompt, by gradient norms that are unknown here; the visited
    prompts have equal groups. Its program divides by 100 times the number of successes plus 1 instead of a constant
    temperature. Its posterior starts from Beta(1, 1) and one pilot over all prompts; here it is the bank's.

    References
    ----------
    arXiv 2510.01037, CurES, with the temperature 1 of its program's scripts.

    Examples
    --------
    >>> bank = BetaPosteriorBank(3)
    >>> bank.update(None, successes=[40, 20, 20], rollouts=[40, 40, 40])
    >>> policy = CurES(bank, temperature=0.001, total_budget=16, n_rounds=1, max_rollouts=8)
    >>> policy.allocate().tolist()
    [0, 8, 8]
    """

    kind = "selects"
    least_rollouts = 2

    def __init__(self, bank: BetaPosteriorBank, *, temperature: float = 1.0, **run: Unpack[VisitRun]) -> None:
        remedy = "1.0 is the published value."
        self._temperature = real("temperature", temperature, low=0.0, high=np.inf, open_low=True, remedy=remedy)
        super().__init__(bank, **run)
        self._remember(temperature=temperature)

    def _logits(self, rows: IntArray) -> FloatArray:
        p = self.bank.evidence.means(rows)
        deviation: FloatArray = np.sqrt(p * (1.0 - p))
        return deviation / max(self._temperature, 1e-300)  # never inf, where all prompts would tie

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        return self._to_first(_drawn(self._logits(rows), self._rng), rows, total)


def _log(weights: FloatArray) -> FloatArray:
    """Return the logarithm of weights, finite for a weight of 0, which is then drawn last."""
    logarithm: FloatArray = np.log(np.maximum(weights, 1e-300))
    return logarithm


def _drawn(logits: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return keys whose k largest are a sample without replacement in proportion to exp(logits): the Gumbel trick."""
    return logits + rng.gumbel(size=logits.size)
