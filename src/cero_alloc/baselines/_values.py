"""Rules that maximise a sum of concave values over the prompts exactly: Knapsack RL, VIP, CoBA-RL and HORA."""

from __future__ import annotations

from typing import ClassVar, Literal, SupportsIndex, Unpack

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text, integer, real
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._saving.state import Field

from ._base import Baseline, RoundTally, Variants, VisitRun, size_of
from ._gaussian import GaussianProcess
from ._separable import best_counts, share_ties


class KnapsackRL(Baseline):
    r"""Knapsack RL: maximise the sum of the probabilities of mixed groups, weighted by the value of a gradient step.

    .. math:: V(n, p) = (1 - p^n - (1 - p)^n) \, p (1 - p)^2

    with :math:`\hat p` the success rate so far. Prompts with :math:`\hat p` 0 or 1 get 2 rollouts. Budget beyond
    :math:`\sum_i \ln 0.1 / \ln \max(\hat p_i, 1 - \hat p_i)`, at which each mixed group has a probability of 90%, is split
    evenly among prompts with :math:`\hat p = 0`. Prompts with fewer than 8 samples get the uniform count.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt, without its prior.
    min_samples : int
        Rollouts of a prompt from which :math:`\hat p` is used.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for max_rollouts below 2.

    Notes
    -----
    Deviations. The optimum is exact: V is concave from 2 rollouts on, so a threshold on its increments finds it. The
    published program values "no rollout beyond 2" at 0 instead of V(2, p) and must spend the whole budget, so that it can
    miss the optimum (four prompts with p = 0.75 and four with p = 0.25, 24 rollouts: it deals 3 to each, the optimum is 2,
    2, 2, 2, 4, 4, 4, 4). The published cap of 128 is ``max_rollouts``, and the window of 16 rewards is replaced by the
    bank's forgetting; the surplus obeys the cap too. The authors' program computes the surplus after the first 2 rollouts
    of every prompt, treats prompts without samples as :math:`\hat p = 0`, and gives a surplus that no such prompt can take
    to prompts with :math:`\hat p = 1`. Here it stays with mixed prompts; the rest goes to prompts with :math:`\hat p = 0`,
    then to those with too few samples, then to all others.

    References
    ----------
    arXiv 2509.25849, Knapsack RL.

    Examples
    --------
    >>> bank = BetaPosteriorBank(8)
    >>> bank.update(None, successes=[12] * 4 + [4] * 4, rollouts=[16] * 8)
    >>> KnapsackRL(bank, total_budget=24, n_rounds=1, max_rollouts=128, rollouts_per_visit=3).allocate().tolist()
    [2, 2, 2, 2, 4, 4, 4, 4]
    """

    title = "Knapsack RL"
    least_rollouts = 2

    def __init__(self, bank: BetaPosteriorBank, *, min_samples: SupportsIndex = 8, **run: Unpack[VisitRun]) -> None:
        self._min_samples = integer("min_samples", min_samples, least=1, remedy="The publication waits for 8.")
        super().__init__(bank, **run)
        self._remember(min_samples=min_samples)

    def _share(self, rows: IntArray, total: int) -> IntArray:
        h = self.horizon
        won, lost = self.bank.evidence.aged(rows)
        seen = won + lost
        p = np.divide(won, seen, out=np.zeros_like(won), where=seen > 0.0)
        cold = seen < self._min_samples
        unsolved, mixed = ~cold & (won == 0.0), ~cold & (won > 0.0) & (lost > 0.0)
        units = np.where(cold, max(self._least, min(h.max_units, total // rows.size)), self._least)
        rarer = np.minimum(p, 1.0 - p)[mixed]
        with np.errstate(divide="ignore", over="ignore"):
            sure = np.minimum(h.max_rollouts, np.log(0.1) / np.log1p(-rarer))
        need = int(np.maximum(self._least, sure.astype(np.int64) // h.unit_size).sum())
        self._fill(units, unsolved, total - int(units[~mixed].sum()) - need, rows)
        if mixed.any():
            own = total - int(units[~mixed].sum())
            lower, upper = self._bounds(int(mixed.sum()), own)
            gains = self._gains(p[mixed], upper[0])
            units[mixed] = best_counts(gains, lower, upper, own, self._tie[rows[mixed]])
        for group in (unsolved, cold, ~mixed):
            self._fill(units, group, total - int(units.sum()), rows)
        return units

    def _gains(self, p: FloatArray, most: int) -> FloatArray:
        g, m = self.horizon.unit_size, np.arange(most)
        right, wrong = (p**g)[:, None], ((1.0 - p) ** g)[:, None]
        grown = right**m * (1.0 - right) + wrong**m * (1.0 - wrong)
        gains: FloatArray = grown * (p * (1.0 - p) ** 2)[:, None]
        return gains

    def _fill(self, units: IntArray, group: npt.NDArray[np.bool_], extra: int, rows: IntArray) -> None:
        """Deal ``extra`` units in place, evenly to the prompts in ``group`` as far as their caps allow."""
        share = units[group]
        share_ties(share, np.full(share.size, self.horizon.max_units), extra, self._tie[rows[group]])
        units[group] = share


class VIP(Baseline):
    r"""VIP: minimise the sum of the variances of the prompts' gradient estimates.

    With :math:`a_i = 4 p_i (1 - p_i)`, the variance is :math:`a / (n - 1)` for RLOO, so that the optimal real counts are
    :math:`1 + \sqrt{a / \lambda}`, and :math:`a (n - 1) / n^2` for Dr. GRPO, where :math:`a (n - 2) / n^3 = \lambda`.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt; its posterior mean predicts p if no embeddings are given.
    estimator : {"rloo", "dr-grpo"}
        Gradient estimator whose variance is minimised.
    min_rollouts : int or None
        Smallest count of a visited prompt in rollouts, at least 2 for RLOO and 3 for Dr. GRPO, from which on the variance
        is convex; None takes these.
    embeddings : array_like of float, shape (n_prompts, n_features), or None
        Features of the prompts. p is then predicted by a Gaussian process over them (RBF kernel, median heuristic), which
        also predicts prompts that have not been sampled.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for an unknown estimator, a min_rollouts that is too small, or
        embeddings that are not one row of finite numbers per prompt.

    Notes
    -----
    Deviations. The integer counts are optimal: a threshold on the increments replaces the published bisection, floor and
    greedy completion, which occasionally miss the minimum slightly. Every visited prompt gets the smallest count; the
    authors' code drops some. As published, the process carries its mean over between rounds, starting at p = 0.5; observed
    rates :math:`\hat p` are clipped by half a rollout.

    References
    ----------
    arXiv 2602.01601, VIP.

    Examples
    --------
    >>> bank = BetaPosteriorBank(2)
    >>> bank.update(None, successes=[20, 39], rollouts=[40, 40])
    >>> VIP(bank, total_budget=16, n_rounds=1, max_rollouts=16).allocate().tolist()
    [11, 5]
    """

    variants: ClassVar[Variants] = {"RLOO": {}, "Dr. GRPO": {"estimator": "dr-grpo"}}
    FIELDS: ClassVar[dict[str, Field]] = {**Baseline.FIELDS, "_process": Field()}

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        estimator: Literal["rloo", "dr-grpo"] = "rloo",
        min_rollouts: SupportsIndex | None = None,
        embeddings: npt.ArrayLike | None = None,
        **run: Unpack[VisitRun],
    ) -> None:
        if estimator not in ("rloo", "dr-grpo"):
            raise ValueError(error_text("estimator", "be 'rloo' or 'dr-grpo'", estimator, "Correct the spelling."))
        convex = 2 if estimator == "rloo" else 3
        remedy = f"The variance of {estimator} is convex from {convex} rollouts on."
        self.least_rollouts = convex
        if min_rollouts is not None:
            self.least_rollouts = integer("min_rollouts", min_rollouts, least=convex, remedy=remedy)
        self._estimator = estimator
        self._process = None if embeddings is None else GaussianProcess(embeddings, size_of(bank))
        super().__init__(bank, **run)
        self._remember(estimator=estimator, min_rollouts=min_rollouts, embeddings=embeddings)

    def predict(self) -> FloatArray:
        """Return the predicted success rate of every prompt as of the last closed round.

        Returns
        -------
        numpy.ndarray of float64, shape (n_prompts,)
            Success rates, in (0, 1): posterior means, or with embeddings the predictions of the Gaussian process.

        Examples
        --------
        >>> bank = BetaPosteriorBank(2)
        >>> bank.update([0], successes=[2], rollouts=[2])
        >>> VIP(bank, total_budget=16, n_rounds=1, max_rollouts=16).predict().tolist()
        [0.75, 0.5]
        """
        return self.bank.evidence.means(None) if self._process is None else self._process.rates()

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        if self._process is not None:
            self._process.learn()
        return super()._deal(rows, total)

    def _share(self, rows: IntArray, total: int) -> IntArray:
        p = self.bank.evidence.means(rows) if self._process is None else self._process.rates()[rows]
        lower, upper = self._bounds(rows.size, total)
        return best_counts(self._gains(4.0 * p * (1.0 - p), upper[0]), lower, upper, total, self._tie[rows])

    def _gains(self, a: FloatArray, most: int) -> FloatArray:
        n = np.maximum(self.horizon.unit_size * np.arange(most + 1), self.least_rollouts).astype(np.float64)
        variance = 1.0 / (n - 1.0) if self._estimator == "rloo" else (n - 1.0) / n**2
        gains: FloatArray = a[:, None] * (variance[:-1] - variance[1:])
        return gains

    def _learn(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        if self._process is not None:
            self._process.tally.add(rows, successes, rollouts)


class CoBARL(Baseline):
    r"""CoBA-RL: a saturating value whose preference for easy or hard prompts depends on the failure rate.

    .. math::

        V(n, p) = (1 - e^{-n p (1 - p) / \tau}) \, \text{BetaPDF}(p; \alpha_t, 11 - \alpha_t), \qquad
        \alpha_t = \text{clip}(1 + 9 f_t, 1, 10)

    :math:`f_t` is the mean failure rate F of the last rounds' prompts, or sigmoid(10 (F - 0.5)) if F is at most 0.5. A high
    failure rate favours easy prompts, a low one hard prompts.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt; its posterior mean is p.
    tau : float or None
        Scale at which n p (1 - p) saturates, in rollouts. None takes 3 + 9 min(1, 6 Var p) over the visited prompts.
    window : int
        Number of rounds over which F is averaged.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for max_rollouts below 2, tau or window out of range.

    Notes
    -----
    Deviations. The paper gives no values for tau, the window and the range of alpha; those here are from the authors'
    program. That program also withholds a share of the budget from very hard and very easy prompts, which is not in the
    paper and not done here. The published bounds [2, 128] are 2 and ``max_rollouts``. p is the posterior mean, clipped to
    [0.01, 0.99]; the program uses the success rate over the window.

    References
    ----------
    arXiv 2602.03048, CoBA-RL.

    Examples
    --------
    >>> bank = BetaPosteriorBank(2)
    >>> bank.update(None, successes=[6, 36], rollouts=[40, 40])
    >>> CoBARL(bank, total_budget=16, n_rounds=1, max_rollouts=16).allocate().tolist()
    [2, 14]
    """

    title = "CoBA-RL"
    least_rollouts = 2
    FIELDS: ClassVar[dict[str, Field]] = {
        **Baseline.FIELDS,
        "_tally": Field(),
        "_failures": Field(
            must="be shares",
            holds=lambda shares, _: [isinstance(share, float) and 0.0 <= share <= 1.0 for share in shares],
        ),
    }

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        tau: float | None = None,
        window: SupportsIndex = 3,
        **run: Unpack[VisitRun],
    ) -> None:
        remedy = "Give rollouts, such as 3."
        self._tau = None if tau is None else real("tau", tau, low=0.0, high=np.inf, open_low=True, remedy=remedy)
        self._window = integer("window", window, least=1, remedy="Count rounds.")
        self._tally = RoundTally(size_of(bank))
        self._failures: list[float] = []  # of the last rounds, the newest last
        super().__init__(bank, **run)
        self._remember(tau=tau, window=window)

    @property
    def alpha(self) -> float:
        """First parameter of the Beta density of the preference, in [1, 10]; 9 before the first rewards."""
        if not self._failures:
            return 9.0
        failure = float(np.mean(self._failures))
        level = failure if failure > 0.5 else 1.0 / (1.0 + np.exp(-10.0 * (failure - 0.5)))
        return float(np.clip(1.0 + 9.0 * level, 1.0, 10.0))

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        _, successes, rollouts = self._tally.take()
        if rollouts.size:
            self._failures = [*self._failures, 1.0 - float(np.mean(successes / rollouts))][-self._window :]
        return super()._deal(rows, total)

    def _share(self, rows: IntArray, total: int) -> IntArray:
        p = np.clip(self.bank.evidence.means(rows), 0.01, 0.99)
        lower, upper = self._bounds(rows.size, total)
        return best_counts(self._gains(p, upper[0]), lower, upper, total, self._tie[rows])

    def _gains(self, p: FloatArray, most: int) -> FloatArray:
        tau = 3.0 + 9.0 * min(1.0, 6.0 * float(p.var())) if self._tau is None else self._tau
        n = self.horizon.unit_size * np.arange(most)
        rate = (p * (1.0 - p) / tau)[:, None]
        a = self.alpha
        log_taste = (a - 1.0) * np.log(p) + (10.0 - a) * np.log1p(
            -p
        )  # up to a constant that is the same for all prompts
        taste = np.exp(log_taste - log_taste.max())[:, None]
        gains: FloatArray = -taste * np.exp(-rate * n) * np.expm1(-rate * self.horizon.unit_size)
        return gains

    def _learn(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        self._tally.add(rows, successes, rollouts)


class HORA(Baseline):
    r"""HORA: maximise the expected number of prompts with at least one success.

    .. math:: \text{hit}(n) = 1 - \prod_{j < n} \frac{b + j}{a + b + j}

    under the posterior Beta(a, b).

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt.
    min_rollouts : int
        Smallest count of a visited prompt, in rollouts.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for max_rollouts below ``min_rollouts``.

    Notes
    -----
    Deviations. In the publication the posterior is computed from a uniform prior and pilot rollouts of the same step; here
    it is the bank's, which needs no pilot and uses earlier rounds. The publication has no cap; ``max_rollouts`` is one.

    References
    ----------
    arXiv 2605.07114, HORA.

    Examples
    --------
    >>> bank = BetaPosteriorBank(2)
    >>> bank.update(None, successes=[0, 4], rollouts=[4, 4])
    >>> HORA(bank, total_budget=16, n_rounds=1, max_rollouts=16).allocate().tolist()
    [13, 3]
    """

    least_rollouts = 2

    def __init__(self, bank: BetaPosteriorBank, *, min_rollouts: SupportsIndex = 2, **run: Unpack[VisitRun]) -> None:
        self.least_rollouts = integer("min_rollouts", min_rollouts, least=0, remedy="A group that teaches needs 2.")
        super().__init__(bank, **run)
        self._remember(min_rollouts=min_rollouts)

    def _share(self, rows: IntArray, total: int) -> IntArray:
        lower, upper = self._bounds(rows.size, total)
        return best_counts(
            self._gains(*self.bank.evidence.posterior(rows), upper[0]), lower, upper, total, self._tie[rows]
        )

    def _gains(self, a: FloatArray, b: FloatArray, most: int) -> FloatArray:
        g = self.horizon.unit_size
        n = np.arange(most * g, dtype=np.float64)
        a, b = a[:, None], b[:, None]
        missed = np.cumprod((b + n) / (a + b + n), axis=1)  # probability that the first n + 1 all fail
        before = np.concatenate([np.ones_like(a), missed[:, :-1]], axis=1)
        first: FloatArray = before * (a / (a + b + n))  # probability that rollout n + 1 is the first success
        units: FloatArray = first.reshape(a.size, most, g).sum(axis=2)
        return units
