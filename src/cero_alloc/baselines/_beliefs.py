"""Rules that select prompts by a belief of their own, which moves every round: DPS and KGPS."""

from __future__ import annotations

from typing import ClassVar, Unpack

import numpy as np

from cero_alloc._checks import FloatArray, IntArray, real
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._saving.state import Field

from ._base import Baseline, RoundTally, VisitRun, size_of

POSITIVE = Field(must="be greater than 0", holds=lambda values, _: values > 0.0)
_STATES = 3  # of a prompt: all rollouts wrong, mixed, all right


class RoundBelief(Baseline):
    """A selector that learns from whole rounds; a subclass gives ``_end_round`` and ``_keys``."""

    kind = "selects"
    FIELDS: ClassVar[dict[str, Field]] = {**Baseline.FIELDS, "_tally": Field()}

    def __init__(self, bank: BetaPosteriorBank, **run: Unpack[VisitRun]) -> None:
        self._tally = RoundTally(size_of(bank))
        super().__init__(bank, **run)

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        seen = self._tally.take()
        if self.ledger.round > 0 or seen[0].size:  # else nothing has happened yet
            self._end_round(*seen)
        return self._to_first(self._keys(rows, total), rows, total)

    def _learn(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        self._tally.add(rows, successes, rollouts)

    def _end_round(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        """Learn from all rewards since the last round; ``rows`` are the prompts that have some."""
        raise NotImplementedError

    def _keys(self, rows: IntArray, total: int) -> FloatArray:
        """Return a key per row on offer; the largest ones are visited."""
        raise NotImplementedError


class DPS(RoundBelief):
    r"""Dynamics-predictive sampling: visit the prompts that are most likely to give a mixed group.

    A prompt is in one of three states: all rollouts wrong, mixed, or all right. A visit shows the state, and the states of
    prompts without a visit are predicted,

    .. math:: \mu \leftarrow \Phi \mu, \qquad \Phi_{ji} = \alpha_{ji} / \sum_l \alpha_{li}

    with Dirichlet counts :math:`\alpha_{ji}` of the prompt's own transitions from state i to state j,

    .. math:: \alpha \leftarrow \lambda \alpha + (1 - \lambda) \alpha_0 + \xi, \qquad
        \xi_{ji} \propto \mathbb{1}[j \text{ observed}] \, \Phi_{ji} \mu_i

    where :math:`\xi` sums to 1 for visited prompts and is 0 for all others.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids; the rule keeps its own belief.
    forgetting : float, in [0, 1]
        Share :math:`\lambda` of the transition counts that survives a round; 1 keeps everything.
    transition_prior : float, at least 1e-6
        Prior count :math:`\alpha_0` of each of the nine transitions, in visits.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for a forgetting or a prior out of range.

    Notes
    -----
    Deviations. In the publication the candidates can be a random subset of the pool; here they are the prompts on offer.
    The scripts of its program set a forgetting of 0.5 or 0.7. If a round's total is not a multiple of the group size, the
    visited prompts share it evenly. Rewards that are reported together count as one visit.

    References
    ----------
    arXiv 2603.10887, DPS: uniform initial states, and 1 for every prior count.

    Examples
    --------
    >>> policy = DPS(BetaPosteriorBank(3), total_budget=16, n_rounds=1, max_rollouts=8)
    >>> policy.update(None, successes=[4, 0, 8], rollouts=[8, 8, 8])
    >>> int(policy.allocate()[0])
    8
    """

    least_rollouts = 2
    FIELDS: ClassVar[dict[str, Field]] = {
        **RoundBelief.FIELDS,
        "_transitions": POSITIVE,
        "_states": Field(must="be between 0 and 1", holds=lambda shares, _: (shares >= 0.0) & (shares <= 1.0)),
    }

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        forgetting: float = 0.9,
        transition_prior: float = 1.0,
        **run: Unpack[VisitRun],
    ) -> None:
        self._forgetting = real("forgetting", forgetting, low=0.0, high=1.0, remedy="1.0 keeps everything.")
        remedy = "The publication counts 1."
        self._prior = real("transition_prior", transition_prior, low=1e-6, high=np.inf, remedy=remedy)
        self._transitions = np.full((size_of(bank), _STATES, _STATES), self._prior)  # to, from
        self._states = np.full((size_of(bank), _STATES), 1.0 / _STATES)  # as of the end of the last round
        super().__init__(bank, **run)
        self._remember(forgetting=forgetting, transition_prior=transition_prior)

    def _moves(self) -> FloatArray:
        """Return the joint probabilities of the next state (axis 1) and the present one (axis 2)."""
        moves: FloatArray = self._transitions / self._transitions.sum(axis=1, keepdims=True) * self._states[:, None, :]
        return moves

    def _keys(self, rows: IntArray, total: int) -> FloatArray:
        mixed: FloatArray = self._moves()[rows, 1].sum(axis=1)
        return mixed

    def _end_round(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        moves = self._moves()
        state = np.where(successes == 0.0, 0, np.where(successes == rollouts, 2, 1))
        self._transitions = self._forgetting * self._transitions + (1.0 - self._forgetting) * self._prior
        came = moves[rows, state]
        self._transitions[rows, state] += came / came.sum(axis=1, keepdims=True)
        self._states = np.minimum(moves.sum(axis=2), 1.0)
        self._states[rows] = np.eye(_STATES)[state]


class KGPS(RoundBelief):
    r"""KGPS: a Kalman filter on every prompt's logit of the success rate, and the prompts of the largest expected value.

    The belief is :math:`\text{logit}\, p \sim N(m, P)`. A visit with S successes in n rollouts observes

    .. math:: y = \ln \frac{S + 1/2}{n - S + 1/2}, \qquad R = \frac{1}{S + 1/2} + \frac{1}{n - S + 1/2}

    with :math:`m \leftarrow m + K (y - m)`, :math:`P \leftarrow (1 - K) P`, :math:`K = P / (P + R)`. After each round
    :math:`P \leftarrow P + Q u` for all prompts, where u is the size of the round's update of the policy. The prompts with
    the largest

    .. math:: \mathbb{E}[p (1 - p)] \approx \kappa \, \sigma(\kappa m) \, \sigma(-\kappa m), \qquad
        \kappa = (1 + \pi P / 8)^{-1/2}

    are visited.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and prior: the belief starts at the mean and the variance of the logit under the prompt's Beta prior.
    process_noise : float, at least 0
        Q, the variance of the logit that a round adds if all its groups are mixed.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for a negative process noise.

    Notes
    -----
    Deviations. The size of an update is known to a trainer and not to an allocator: u is the share of the round's groups
    with different rewards, since all others have no gradient. The value is p (1 - p); its expectation is approximated by
    that of a probit model, which is exact for small and for large P at m = 0. The default of ``process_noise`` is this
    package's. If a round's total is not a multiple of the group size, the visited prompts share it evenly.

    References
    ----------
    arXiv 2607.27610, KGPS.

    Examples
    --------
    >>> policy = KGPS(BetaPosteriorBank(3), total_budget=16, n_rounds=1, max_rollouts=8)
    >>> policy.update(None, successes=[4, 0, 8], rollouts=[8, 8, 8])
    >>> int(policy.allocate()[0])
    8
    """

    least_rollouts = 2
    FIELDS: ClassVar[dict[str, Field]] = {**RoundBelief.FIELDS, "_mean": Field(), "_variance": POSITIVE}

    def __init__(self, bank: BetaPosteriorBank, *, process_noise: float = 0.01, **run: Unpack[VisitRun]) -> None:
        remedy = "Give a variance per round, such as 0.01."
        self._noise = real("process_noise", process_noise, low=0.0, high=np.inf, remedy=remedy)
        from scipy.special import digamma, polygamma  # loaded on first use: keeps the import of the package short

        size = size_of(bank)
        # One prior for all, or one each; beyond these bounds the moments of the logit overflow or vanish.
        a, b = (np.clip(np.broadcast_to(side, size), 1e-6, 1e12) for side in bank.evidence.prior(np.arange(size)))
        self._mean: FloatArray = digamma(a) - digamma(b)
        self._variance: FloatArray = polygamma(1, a) + polygamma(1, b)
        super().__init__(bank, **run)
        self._remember(process_noise=process_noise)

    def _keys(self, rows: IntArray, total: int) -> FloatArray:
        kappa = 1.0 / np.sqrt(1.0 + np.pi / 8.0 * self._variance[rows])
        odds = np.exp(-np.abs(kappa * self._mean[rows]))
        value: FloatArray = kappa * odds / (1.0 + odds) ** 2
        return value

    def _end_round(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        if rows.size == 0:  # no update
            return
        won, lost = successes + 0.5, rollouts - successes + 0.5
        before = self._variance[rows]
        noise = 1.0 / won + 1.0 / lost
        gain = before / (before + noise)
        self._mean[rows] += gain * (np.log(won) - np.log(lost) - self._mean[rows])
        self._variance[rows] = gain * noise
        mixed = (successes > 0.0) & (successes < rollouts)
        self._variance += self._noise * mixed.mean()
