"""BetaPosteriorBank: what is known of each prompt's success rate, and what a rollout of it is therefore worth."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from threading import RLock
from typing import Any, ClassVar, NamedTuple, Self, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, TieArray, counts, error_text, integer, real, successes
from cero_alloc._saving.saved import OwnLock, Saved, locked
from cero_alloc._saving.state import REMEDY, Field, State, difference, is_of

from . import kernels
from .calibration import Calibration, CalibrationRecord
from .ids import PromptIndex
from .prior import ForgettingChoice, PriorFit, choose_forgetting, fit_prior, forgetting_grid, group_rows, prior_arrays

BLOCK = 1024  # prompts that a pass over the pool takes at a time: what it writes for them stays in the cache

_NO_ROWS = np.empty(0, dtype=np.int64)
_MERGE_REMEDY = "Merge banks that were built alike."
_RECENT = 4096  # rounds whose forgetting is looked up
_LAST_TICK = 2**31 - 1
_FEEDBACK_FAULTS = {
    1: ("rollouts", "be at least 0", "Report what was generated, refund what was not."),
    2: ("successes", "be finite and at least 0", "Leave rollouts without a reward out of both counts."),
    3: (
        "successes",
        "not exceed rollouts",
        "Rewards must lie in [0, 1]; rescale them, or check which column is which.",
    ),
}


class _Gathered(NamedTuple):
    """What one bank tells another."""

    names: list[Hashable]
    a0: FloatArray
    b0: FloatArray
    evidence: npt.NDArray[np.floating[Any]]
    tick: TieArray
    now: int
    rho: float
    retired: npt.NDArray[np.bool_]
    record: CalibrationRecord


class BetaPosteriorBank(OwnLock, Saved):
    r"""Beta evidence per prompt, with forgetting, and the value it implies.

    Each prompt starts at Beta(:math:`a_0, b_0`). A round (:meth:`tick`) lets the evidence fade and feedback
    (:meth:`update`) adds to it:

    .. math::

        a \leftarrow a_0 + \rho (a - a_0) + S, \qquad b \leftarrow b_0 + \rho (b - b_0) + F.

    The value is the expected reward variance,

    .. math:: \hat q = E[p (1 - p)] = \frac{a b}{(a + b)(a + b + 1)}.

    Fading is lazy: a prompt that is not touched costs nothing, however many rounds go by.

    Parameters
    ----------
    prompts : int or sequence of hashable
        Number of prompts M, which are then called 0 .. M-1, or their unique ids.
    prior : tuple of two floats or of two array_like, shape (n_prompts,)
        :math:`(a_0, b_0)` in pseudo-rollouts, shared or per prompt.
    forgetting : float, in (0, 1]
        Share :math:`\rho` of the evidence that survives a round; 1 never forgets.
    dtype : {"float64", "float32"}
        How evidence is stored; all arithmetic is in float64. In float32 a prompt takes 12 bytes here instead of 20. Whole
        successes and failures are exact up to :math:`2^{24}` without forgetting. Else each update rounds by a share of at
        most :math:`2^{-24}`; rounding fades with the evidence, so that with forgetting it stays below
        :math:`2^{-24} / (1 - \rho)` of the most evidence that the prompt had.

    Raises
    ------
    ValueError
        For no prompts, repeated ids, a prior that is not positive and finite, forgetting outside (0, 1], or another
        dtype.
    TypeError
        For ids that are not hashable or a bare string.

    References
    ----------
    arXiv 2610.09679, the Beta-Bernoulli proxy. Claims 2 and 3 of the theory page say what :math:`\hat q` estimates and
    how well.

    Examples
    --------
    >>> bank = BetaPosteriorBank(["easy", "hard"])
    >>> bank.update(["easy", "hard"], successes=[8, 3], rollouts=[8, 8])
    >>> bank.mean().round(3).tolist()
    [0.9, 0.4]
    >>> bank.value(["hard"]).round(4).tolist()
    [0.2182]
    """

    FIELDS: ClassVar[dict[str, Field]] = {
        "_evidence": Field("prompts", must="be finite and at least 0", holds=lambda counts, _: counts >= 0.0),
        "_tick": Field(
            "prompts", must="be between 0 and {now}", holds=lambda tick, state: (tick >= 0) & (tick <= state["now"])
        ),
        "_now": Field(must=f"be between 0 and {_LAST_TICK}", holds=lambda now, _: 0 <= now <= _LAST_TICK),
        "_rho": Field(must="be in (0, 1]", holds=lambda rho, _: 0.0 < rho <= 1.0),
        "_record": Field(),
        "_retired": Field("prompts", when_set=np.empty(0, dtype=bool)),
        "_first": Field(),
        "prompt_ids": Field(own=True),
        "prior": Field(own=True),
    }

    def __init__(
        self,
        prompts: SupportsIndex | Sequence[Hashable],
        *,
        prior: tuple[npt.ArrayLike, npt.ArrayLike] = (1.0, 1.0),
        forgetting: float = 1.0,
        dtype: npt.DTypeLike = np.float64,
    ) -> None:
        try:
            storage = np.dtype(dtype)
        except TypeError:
            storage = None
        if storage not in (np.float64, np.float32):
            raise ValueError(
                error_text("dtype", "be float64 or float32", dtype, "float64 is exact, float32 is smaller.")
            )
        self._lock = RLock()
        self._index = PromptIndex(prompts)
        size = self._first = len(self._index)  # prompts it began with
        self._retired: npt.NDArray[np.bool_] | None = None  # which prompts are; None: none of them
        self._a0, self._b0 = prior_arrays(prior, size)
        self._rho = real("forgetting", forgetting, low=0.0, high=1.0, open_low=True, remedy="1.0 never forgets.")
        # Successes and failures as of the prompt's tick, side by side: a round wants both.
        self._evidence = np.zeros((size, 2), dtype=storage)
        self._tick = np.zeros(size, dtype=np.int32)
        self._now = 0
        self._fade, self._fade_rho = np.empty(0), 1.0  # powers of the forgetting, and of which
        self._record = CalibrationRecord()
        # Rows that changed since somebody last asked; None: all of them, or nobody asks.
        self._log: list[IntArray] | None = None
        self._logged = 0  # entries of the log

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self._index

    def __repr__(self) -> str:
        shared = self._a0.size == 1
        prior = f"({self._a0[0]:g}, {self._b0[0]:g})" if shared else "per prompt"
        return f"BetaPosteriorBank({len(self)} prompts, prior={prior}, forgetting={self._rho:g})"

    @property
    def prompt_ids(self) -> Sequence[Hashable]:
        """The ids in row order; a range when they are 0 .. M-1."""
        return self._index.ids

    @property
    def forgetting(self) -> float:
        """Share of the evidence that survives a round."""
        return self._rho

    @property
    @locked
    def alpha(self) -> FloatArray:
        """First Beta parameter per prompt, in pseudo-rollouts, aged to now; shape (n_prompts,)."""
        return self._posterior(None)[0]

    @property
    @locked
    def beta(self) -> FloatArray:
        """Second Beta parameter per prompt, in pseudo-rollouts, aged to now; shape (n_prompts,)."""
        return self._posterior(None)[1]

    @locked
    def update(self, prompt_ids: Iterable[Hashable] | None, successes: npt.ArrayLike, rollouts: npt.ArrayLike) -> None:
        """Add observed rewards to the evidence; calls commute and add up, in any split and order within a round.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts that were observed, each at most once per call; None names the whole pool in row order.
        successes : array_like of float, shape (n_ids,)
            Sum of the rewards of each prompt, in [0, rollouts]. Rewards between 0 and 1 count as fractional successes.
        rollouts : array_like of int, shape (n_ids,)
            Rewarded rollouts of each prompt.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError
            For a repeated id, a wrong length, counts that are not integers or negative, or successes that are NaN,
            negative or more than the rollouts. The evidence is unchanged after any error.
        TypeError
            For ids that are no collection, or successes or rollouts in a set, which has no order.

        Examples
        --------
        >>> bank = BetaPosteriorBank(3)
        >>> bank.update([0, 2], successes=[4, 1.5], rollouts=[4, 4])
        >>> bank.alpha.tolist(), bank.beta.tolist()
        ([5.0, 1.0, 2.5], [1.0, 1.0, 3.5])
        """
        self._observe(prompt_ids, successes, rollouts)

    @locked
    def tick(self, rounds: SupportsIndex = 1) -> None:
        """Let ``rounds`` rounds go by: all evidence fades by ``forgetting`` per round.

        Parameters
        ----------
        rounds : int, at least 0
            Rounds that have passed.

        Raises
        ------
        TypeError, ValueError
            For a number of rounds that is not an integer or negative.

        Examples
        --------
        >>> bank = BetaPosteriorBank(1, forgetting=0.5)
        >>> bank.update([0], successes=[4], rollouts=[8])
        >>> bank.tick(2)
        >>> bank.alpha.tolist()
        [2.0]
        """
        elapsed = integer("rounds", rounds, least=0, remedy="Time only moves forward.")
        if self._now + elapsed > _LAST_TICK:
            condition = f"leave the clock, now {self._now}, at {_LAST_TICK} or before"
            raise ValueError(error_text("rounds", condition, elapsed, "Count rounds, not rollouts."))
        self._now += elapsed

    @locked
    def value(self, ids: Iterable[Hashable] | None = None) -> FloatArray:
        r"""Return the posterior expected reward variance :math:`\hat q = E[p(1-p)]`, in [0, 1/4].

        Parameters
        ----------
        ids : iterable of hashable, or None
            Prompts; None for the whole pool in row order.

        Returns
        -------
        numpy.ndarray of float64, shape (n_ids,)
            Expected variance of one reward of each prompt.

        Raises
        ------
        KeyError
            For an unknown id.
        TypeError
            For ids that are no collection.

        Examples
        --------
        >>> BetaPosteriorBank(2).value().round(4).tolist()
        [0.1667, 0.1667]
        """
        return self._values(None if ids is None else self._index.rows(ids))

    @locked
    def mean(self, ids: Iterable[Hashable] | None = None) -> FloatArray:
        """Return the posterior mean success rate, a / (a + b).

        Parameters
        ----------
        ids : iterable of hashable, or None
            Prompts; None for the whole pool in row order.

        Returns
        -------
        numpy.ndarray of float64, shape (n_ids,)
            Success rates, in (0, 1).

        Raises
        ------
        KeyError
            For an unknown id.
        TypeError
            For ids that are no collection.

        Examples
        --------
        >>> BetaPosteriorBank(1, prior=(1.0, 3.0)).mean().tolist()
        [0.25]
        """
        return self._means(None if ids is None else self._index.rows(ids))

    @locked
    def interval(self, level: float, ids: Iterable[Hashable] | None = None) -> tuple[FloatArray, FloatArray]:
        """Return equal-tailed credible bounds of the success rate.

        Parameters
        ----------
        level : float, in (0, 1]
            Posterior probability between the bounds, such as 0.95.
        ids : iterable of hashable, or None
            Prompts; None for the whole pool in row order.

        Returns
        -------
        lower, upper : numpy.ndarray of float64, shape (n_ids,)
            Success rates, in [0, 1].

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError
            For a level outside (0, 1].
        TypeError
            For a level that is not a number, or ids that are no collection.

        Examples
        --------
        >>> lower, upper = BetaPosteriorBank(1).interval(0.9)
        >>> round(float(lower[0]), 3), round(float(upper[0]), 3)
        (0.05, 0.95)
        """
        from scipy.special import betaincinv  # loaded on first use: keeps the import of the package short

        level = real("level", level, low=0.0, high=1.0, open_low=True, remedy="Take 0.95 for a 95% interval.")
        alpha, beta = self._posterior(None if ids is None else self._index.rows(ids))
        tail = 0.5 * (1.0 - level)
        lower, upper = betaincinv(alpha, beta, tail), betaincinv(alpha, beta, 1.0 - tail)
        point = alpha / (alpha + beta)  # where the inverse finds no quantile the posterior is as good as this
        lower, upper = (np.where(np.isnan(side), point, side) for side in (lower, upper))
        return np.minimum(lower, upper), upper

    @locked
    def add_prompts(self, ids: Iterable[Hashable], *, prior: tuple[npt.ArrayLike, npt.ArrayLike] | None = None) -> None:
        """Append new prompts without evidence.

        Parameters
        ----------
        ids : iterable of hashable
            Ids that the bank does not have yet.
        prior : tuple of two floats or of two array_like, shape (n_new,), or None
            Prior of the new prompts; None for the shared prior of the bank.

        Raises
        ------
        ValueError
            For an id that is known or repeated, or a missing prior where the bank holds one per prompt.
        TypeError
            For ids that are not hashable or a bare string.

        Examples
        --------
        >>> bank = BetaPosteriorBank(["a"])
        >>> bank.add_prompts(["b", "c"])
        >>> len(bank), "c" in bank
        (3, True)
        """
        fresh = self._index.fresh(ids)
        size, extra = len(self), len(fresh)
        per_prompt = self._a0.size > 1 or prior is not None
        if prior is None:
            if self._a0.size > 1 and extra:
                raise ValueError(
                    "prior must be given for new prompts, because this bank holds one prior per prompt. Pass prior=(a, b)."
                )
            prior = (self._a0[:1], self._b0[:1])
        a_new, b_new = prior_arrays(prior, extra)
        if per_prompt:
            self._a0 = np.concatenate([np.broadcast_to(self._a0, size), np.broadcast_to(a_new, extra)])
            self._b0 = np.concatenate([np.broadcast_to(self._b0, size), np.broadcast_to(b_new, extra)])
        self._index.append(fresh)
        self._evidence = np.concatenate([self._evidence, np.zeros((extra, 2), self._evidence.dtype)])
        self._tick = np.concatenate([self._tick, np.full(extra, self._now, dtype=np.int32)])
        if self._retired is not None:
            self._retired = np.concatenate([self._retired, np.zeros(extra, dtype=bool)])
        self._log = None

    @property
    @locked
    def retired(self) -> npt.NDArray[np.bool_]:
        """Which prompts are retired; shape (n_prompts,)."""
        return np.zeros(len(self), dtype=bool) if self._retired is None else self._retired.copy()

    @property
    def _n_active(self) -> int:
        """Prompts that are not retired."""
        return len(self) if self._retired is None else len(self) - int(np.count_nonzero(self._retired))

    @locked
    def retire(self, ids: Iterable[Hashable]) -> None:
        """Take prompts off every offer until they are revived: allocators deal them nothing, and plan without them.

        Evidence stays, fades as it does, and can still be added to.

        Parameters
        ----------
        ids : iterable of hashable
            Prompts, each once; those that are retired already stay so.

        Raises
        ------
        KeyError, TypeError, ValueError
            For unknown or repeated ids; nothing changes.

        Examples
        --------
        >>> from cero_alloc.baselines import Uniform
        >>> bank = BetaPosteriorBank(["solved", "open"])
        >>> allocator = Uniform(bank, total_budget=8, n_rounds=2, max_rollouts=4)
        >>> bank.retire(["solved"])
        >>> allocator.allocate().tolist()
        [0, 4]
        """
        rows = self._index.named_rows(require_ids(ids))
        self._mark(rows, retired=True)

    @locked
    def revive(self, ids: Iterable[Hashable], *, keep: float = 1.0) -> None:
        """Offer retired prompts again.

        A prompt that was solved when it was retired may have been forgotten since, and evidence of long ago would keep
        it from being tried: ``keep`` says how much of that to believe.

        Parameters
        ----------
        ids : iterable of hashable
            Prompts, each once; those that are not retired only lose evidence.
        keep : float, in [0, 1]
            Share of the evidence that stays; 0 goes back to the prior.

        Raises
        ------
        KeyError, TypeError, ValueError
            For unknown or repeated ids, or a share out of range; nothing changes.

        Examples
        --------
        >>> bank = BetaPosteriorBank(["a", "b"])
        >>> bank.update(["a"], successes=[8], rollouts=[8])
        >>> bank.retire(["a"])
        >>> bank.revive(["a"], keep=0.25)
        >>> bank.alpha.tolist(), bank.retired.tolist()
        ([3.0, 1.0], [False, False])
        """
        rows = self._index.named_rows(require_ids(ids))
        share = real("keep", keep, low=0.0, high=1.0, remedy="1.0 keeps all evidence, 0.0 none.")
        self._mark(rows, retired=False)
        if share < 1.0:
            self._evidence[rows] *= share
            self._note(rows)

    def _mark(self, rows: IntArray, *, retired: bool) -> None:
        """Set whether prompts are retired: in a new array, by which allocators see that something has changed."""
        marks = np.zeros(len(self), dtype=bool) if self._retired is None else self._retired.copy()
        marks[rows] = retired
        self._retired = marks if marks.any() else None

    def merge(self, other: BetaPosteriorBank) -> None:
        r"""Add the evidence that another bank gathered, such as that of a worker which began empty.

        .. math::

            t = \max(t_1, t_2), \qquad S = \rho^{t - t_1} S_1 + \rho^{t - t_2} S_2, \qquad \text{likewise } F

        per prompt, with :math:`t` the round of its latest evidence; both clocks must count the same rounds, and the later
        one holds from here on. Prompts that only the other bank has join at the end. Evidence that both banks got from the
        same rollouts counts twice: give every worker an empty bank, and merge each once.

        Merging commutes and associates but for the order of rows: exactly where nothing is forgotten and successes are
        whole, else to rounding. A prompt is retired where either bank says so. The calibration record adds up, too. An
        allocator's account is not touched.

        Parameters
        ----------
        other : BetaPosteriorBank
            With the same forgetting and dtype, and the same prior for the prompts that both have. It stays as it is.

        Raises
        ------
        TypeError
            For anything but a bank.
        ValueError
            For itself, or another forgetting, dtype or prior; nothing changes.

        Examples
        --------
        >>> one, two = BetaPosteriorBank(["a", "b"]), BetaPosteriorBank(["b", "c"])
        >>> one.update(["a", "b"], successes=[1, 2], rollouts=[4, 4])
        >>> two.update(["b", "c"], successes=[3, 4], rollouts=[4, 4])
        >>> one.merge(two)
        >>> one.prompt_ids, one.alpha.tolist()
        (('a', 'b', 'c'), [2.0, 6.0, 5.0])
        """
        if not isinstance(other, BetaPosteriorBank):
            raise TypeError(error_text("other", "be a BetaPosteriorBank", other, _MERGE_REMEDY))
        if other is self:
            raise ValueError(
                error_text("other", "be another bank", other, "Merged with itself, all would count twice.")
            )
        with other.lock:  # let go before this bank's is taken: two banks may be merging each other
            theirs = other._gathered()
        with self.lock:
            self._add_gathered(theirs)

    def _gathered(self) -> _Gathered:
        """Return copies of what another bank merges."""
        size, record = len(self), CalibrationRecord()
        record.merge(self._record)
        a0, b0 = (np.array(np.broadcast_to(side, size)) for side in (self._a0, self._b0))
        return _Gathered(
            list(self.prompt_ids),
            a0,
            b0,
            self._evidence.copy(),
            self._tick.copy(),
            self._now,
            self._rho,
            self.retired,
            record,
        )

    def _add_gathered(self, other: _Gathered) -> None:
        """Add another bank's evidence, once it is known to fit."""
        if other.rho != self._rho:
            raise ValueError(error_text("other.forgetting", f"be {self._rho!r}", other.rho, _MERGE_REMEDY))
        if other.evidence.dtype != self._evidence.dtype:
            raise ValueError(
                error_text("other's dtype", f"be {self._evidence.dtype}", other.evidence.dtype, _MERGE_REMEDY)
            )
        known = np.fromiter((name in self._index for name in other.names), dtype=bool, count=len(other.names))
        shared = self._index.rows([name for name, ours in zip(other.names, known, strict=True) if ours])
        for ours, theirs in zip(self._prior(shared), (other.a0[known], other.b0[known]), strict=True):
            wanted = np.broadcast_to(ours, shared.size)
            for i in np.flatnonzero(wanted != theirs)[:1].tolist():
                condition = f"be {wanted[i].item()!r} for prompt {self._index.name(int(shared[i]))!r}"
                raise ValueError(error_text("other's prior", condition, theirs[i].item(), _MERGE_REMEDY))
        new = np.flatnonzero(~known)
        prior = (other.a0[new], other.b0[new])
        alike = self._a0.size == 1 and all(
            (theirs == ours).all() for ours, theirs in zip((self._a0, self._b0), prior, strict=True)
        )
        if new.size:
            self.add_prompts([other.names[i] for i in new], prior=None if alike else prior)
        rows = self._index.rows(other.names)
        self._tick[rows[new]] = other.tick[new]  # as of its evidence, not of its arrival
        latest = np.maximum(self._tick[rows], other.tick)
        ours, theirs = (self._rho ** (latest - tick).astype(np.float64) for tick in (self._tick[rows], other.tick))
        self._evidence[rows] = self._evidence[rows] * ours[:, None] + other.evidence * theirs[:, None]
        self._tick[rows] = latest
        self._now = max(self._now, other.now)
        self._record.merge(other.record)
        if other.retired.any():
            self._mark(rows[other.retired], retired=True)
        self._log = None

    @overload
    def fit_prior(self, groups: None = None) -> PriorFit: ...
    @overload
    def fit_prior(self, groups: Iterable[Hashable]) -> dict[Hashable, PriorFit]: ...
    @locked  # type: ignore[misc]
    def fit_prior(self, groups: Iterable[Hashable] | None = None) -> PriorFit | dict[Hashable, PriorFit]:
        r"""Replace the prior by the one under which the pool's evidence is most likely (empirical Bayes).

        .. math::

            \max_{a_0, b_0} \sum_i \log B(a_0 + S_i, b_0 + F_i) - \log B(a_0, b_0)

        with the evidence :math:`(S_i, F_i)` of every prompt, aged to now. The evidence itself stays as it is; the
        values change at once. The uniform prior overrates prompts that are nearly always right or wrong, and pools are
        full of those; a fitted one does not. The prior stays where the data do not determine one: :class:`PriorFit`
        lists the reasons.

        Parameters
        ----------
        groups : iterable of hashable, length n_prompts, or None
            A label per prompt in row order, for one prior per label, such as the data source; None fits one prior
            to the whole pool. As soon as one group is fitted the bank holds a prior per prompt, and
            :meth:`add_prompts` then needs one for new prompts.

        Returns
        -------
        PriorFit, or dict of label to PriorFit
            What was fitted, or why nothing was.

        Raises
        ------
        TypeError
            For groups that are no sequence of hashable labels.
        ValueError
            For a number of labels that is not the number of prompts.

        Notes
        -----
        Fading shrinks the evidence but not the luck in it. Where no prompt really drifts, a fit to faded evidence
        therefore comes out too strong: by 6% for a forgetting of 0.98 and feedback up to 20 rounds old, by a quarter
        for 0.9 and 10 rounds.

        References
        ----------
        Griffiths, Maximum likelihood estimation for the beta-binomial distribution, Biometrics 29 (1973).

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> bank = BetaPosteriorBank(2000)
        >>> bank.update(None, successes=rng.binomial(8, rng.beta(0.5, 1.5, 2000)), rollouts=np.full(2000, 8))
        >>> fit = bank.fit_prior()
        >>> fit.status, round(fit.alpha, 1), round(fit.beta, 1)
        ('fitted', 0.5, 1.6)
        """
        chosen = None if groups is None else group_rows(groups, len(self))
        succ, fail = self._aged_evidence()
        if chosen is None:
            fit = fit_prior(succ, fail, self._a0, self._b0)
            if fit.fitted:
                self._a0, self._b0 = np.array([fit.alpha]), np.array([fit.beta])
                self._log = None
            return fit
        a0, b0 = (np.array(np.broadcast_to(side, len(self))) for side in (self._a0, self._b0))
        fits = {label: fit_prior(succ[rows], fail[rows], a0[rows], b0[rows]) for label, rows in chosen.items()}
        for label, fit in fits.items():
            if fit.fitted:
                a0[chosen[label]], b0[chosen[label]] = fit.alpha, fit.beta
        if any(fit.fitted for fit in fits.values()):
            self._a0, self._b0 = a0, b0
            self._log = None
        return fits

    @locked
    def select_forgetting(
        self,
        history: Iterable[tuple[Iterable[Hashable] | None, npt.ArrayLike, npt.ArrayLike]],
        grid: npt.ArrayLike = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.5),
    ) -> ForgettingChoice:
        """Set the forgetting to the one that would have predicted a history best.

        For every candidate the history is replayed into an empty bank with the present prior, one tick per round, and
        every entry is scored, before it is added, by the log-probability of its rewards. The best score wins; of scores
        within 2 nats of it, the largest candidate does. The evidence that the bank holds is aged to now at the old
        rate, and fades at the new one from here on.

        Parameters
        ----------
        history : iterable of tuples (prompt_ids, successes, rollouts), each of shape (n_ids,)
            One tuple per round, with what :meth:`update` takes; the bank need not hold this evidence.
        grid : array_like of float, shape (n_grid,), in (0, 1]
            Candidates: shares of the evidence that survive a round.

        Returns
        -------
        ForgettingChoice
            The choice and all scores. Where no prompt was in two rounds nothing tells candidates apart, and the present
            value stays.

        Raises
        ------
        KeyError, TypeError, ValueError
            For rounds that are not triples or that :meth:`update` would refuse; the message names the round.
        ValueError
            For candidates outside (0, 1], or none.

        References
        ----------
        Dawid, Present position and potential developments: the prequential approach, J. R. Statist. Soc. A 147 (1984).

        Examples
        --------
        >>> bank = BetaPosteriorBank(["a", "b"])
        >>> before, after = (["a", "b"], [0, 8], [8, 8]), (["a", "b"], [8, 0], [8, 8])
        >>> choice = bank.select_forgetting([before] * 10 + [after] * 10)
        >>> choice.status, bank.forgetting
        ('selected', 0.5)
        """
        candidates = forgetting_grid(grid)
        rounds = self._replay(history)
        choice = choose_forgetting(rounds, candidates, self._a0, self._b0, len(self), self._rho)
        if choice.forgetting != self._rho:
            # Ageing is lazy: rounds that have gone by must be charged at the rate that held then.
            self._evidence[:, 0], self._evidence[:, 1] = self._aged_evidence()
            self._tick[:] = self._now
            self._rho = choice.forgetting
            self._log = None
        return choice

    @locked
    def calibration(self) -> Calibration:
        """Compare the values that were predicted with the reward variances that were then observed.

        Returns
        -------
        Calibration
            Ten bins, the bias with its standard error, and a warning; over all groups of two rollouts or more that the
            bank was ever given, under whatever prior held then.

        Examples
        --------
        >>> bank = BetaPosteriorBank(1000)
        >>> bank.update(None, successes=np.arange(1000) % 2 * 4, rollouts=np.full(1000, 4))
        >>> calibration = bank.calibration()
        >>> round(calibration.bias, 4), calibration.warning
        (0.1667, 1.0)
        """
        return self._record.report()

    @classmethod
    def _from_state(cls, state: State, label: str, **live: Any) -> Self:
        if not is_of(state, cls.__name__):
            return super()._from_state(state, label)  # which says so
        bank = cls._blank(state, label)
        bank.load_state_dict(state)
        return bank

    @classmethod
    def _blank(cls, state: Mapping[str, Any], label: str, size: int | None = None) -> Self:
        """Return an empty bank of the kind that a state comes from, over its first ``size`` prompts."""
        ids, evidence = state.get("prompt_ids"), state.get("evidence")
        if not isinstance(ids, (int, list)) or isinstance(ids, bool) or not isinstance(evidence, np.ndarray):
            raise ValueError(f"{label} must hold the ids and the evidence of a {cls.__name__}. Pass what save wrote.")
        if size is not None:
            ids = min(size, ids) if isinstance(ids, int) else ids[:size]
        return cls(ids, dtype=evidence.dtype)

    def _snapshot(self) -> State:
        ids = self._index.ids
        return {
            **super()._snapshot(),
            "prompt_ids": len(ids) if isinstance(ids, range) else list(ids),
            "prior": (self._a0.copy(), self._b0.copy()),
        }

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        if is_of(state, type(self).__name__) and "prompt_ids" in state:
            self._check_ids(state["prompt_ids"], state.get("first"), label)
        super()._check_state(state, label, size)
        try:
            prior_arrays(state["prior"], int(size or 0))  # one for all, or one per prompt after a fit by groups
        except (TypeError, ValueError) as error:
            raise ValueError(f"{label}['prior']: {error}") from None

    def _check_ids(self, ids: Any, first: Any, label: str) -> None:
        """Raise unless these are the prompts of this bank, or those it began with and others that joined."""
        theirs = range(ids) if isinstance(ids, (int, np.integer)) and not isinstance(ids, bool) else ids
        ours = self.prompt_ids
        joined = isinstance(theirs, (list, tuple, range)) and type(first) is int and first <= len(ours) < len(theirs)
        theirs = theirs[: len(ours)] if joined else theirs
        if isinstance(ours, range) and isinstance(theirs, range) and ours == theirs:  # of millions, perhaps
            return
        found = difference(ours, theirs)
        if found is not None:
            raise ValueError(f"{label}['prompt_ids'] must equal that of this {type(self).__name__}, {found}. {REMEDY}")

    def _restore(self, state: Mapping[str, Any]) -> None:
        ids = state["prompt_ids"]
        joined = range(len(self), ids) if isinstance(ids, int) else ids[len(self) :]
        if len(joined):
            self._index.append(list(joined))
        super()._restore(state)
        self._a0, self._b0 = prior_arrays(state["prior"], len(self))
        self._log = None

    # ------------------------------------------------------------ rows, for the allocators

    def _observe(
        self, prompt_ids: Iterable[Hashable] | None, s: npt.ArrayLike, n: npt.ArrayLike
    ) -> tuple[IntArray, IntArray]:
        """Check feedback, add it to the evidence, and return rows and rollouts for the ledger to settle."""
        rows, rewarded, rollouts = self._feedback(prompt_ids, s, n)
        self._add(rows, rewarded, rollouts)
        return rows, rollouts

    def _add(self, rows: IntArray, rewarded: FloatArray, rollouts: IntArray) -> None:
        """Add checked feedback to the evidence."""
        self._record.add(self._values(rows), rewarded, rollouts)  # what was predicted before this was seen
        kernels.observe(rows, rewarded, rollouts, self._evidence, self._tick, *self._clock)
        self._note(rows)

    def _note(self, rows: IntArray | None) -> None:
        """Log rows that changed, None for all; a log that outgrows the pool says all."""
        if self._log is None:
            return
        if rows is not None:
            self._log.append(rows)
            self._logged += rows.size
        if rows is None or self._logged > len(self):
            self._log = None

    def _changes(self, log: list[IntArray] | None) -> tuple[list[IntArray], IntArray | None]:
        """Return a new log, and the rows that changed since ``log`` was returned, ascending; None for all."""
        rows = None if log is None or log is not self._log else np.unique(np.concatenate([_NO_ROWS, *log]))
        self._log, self._logged = [], 0
        return self._log, rows

    def _feedback(
        self, prompt_ids: Iterable[Hashable] | None, s: npt.ArrayLike, n: npt.ArrayLike
    ) -> tuple[IntArray, FloatArray, IntArray]:
        """Check feedback and return rows, successes and rollouts."""
        rows = self._index.named_rows(prompt_ids)
        rewarded, rollouts = checked_feedback(s, n, rows.size)
        return rows, rewarded, rollouts

    def _replay(self, history: Iterable[Any]) -> list[tuple[IntArray, FloatArray, IntArray]]:
        """Check a history and return rows, successes and rollouts of each round."""
        remedy = "Give (prompt_ids, successes, rollouts) per round, as update takes them."
        if isinstance(history, (str, bytes)) or not isinstance(history, Iterable):
            raise TypeError(error_text("history", "be a sequence of rounds", history, remedy))
        rounds = []
        for k, entry in enumerate(history):
            if not isinstance(entry, (tuple, list)) or len(entry) != 3:
                raise ValueError(error_text("history", "hold three items per round", entry, remedy, k))
            try:
                rounds.append(self._feedback(*entry))
            except (KeyError, TypeError, ValueError) as error:
                raise type(error)(f"history[{k}]: {error.args[0]}") from None
        return rounds

    def _prior(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return a0 and b0 of these rows, or of all of them in one entry."""
        shared = self._a0.size == 1
        return (self._a0, self._b0) if shared else (self._a0[rows], self._b0[rows])

    def _aged_evidence(self, rows: IntArray | slice = slice(None)) -> tuple[FloatArray, FloatArray]:
        """Return successes and failures per prompt, aged to now."""
        surviving = self._rho ** (self._now - self._tick[rows]).astype(np.float64)
        return self._evidence[rows, 0] * surviving, self._evidence[rows, 1] * surviving

    @property
    def _clock(self) -> tuple[int, float, FloatArray]:
        """The time, the forgetting, and the table of its powers."""
        if self._fade_rho != self._rho:
            self._fade, self._fade_rho = np.empty(_RECENT), self._rho
            kernels.powers(self._rho, self._fade)
        return self._now, self._rho, self._fade

    def _arguments(self) -> tuple[Any, ...]:
        """Return the arguments of a kernel that reads the evidence of the pool."""
        return (self._a0, self._b0, int(self._a0.size > 1), self._evidence, self._tick, *self._clock)

    def _values(self, rows: IntArray | None) -> FloatArray:
        out = np.empty(len(self) if rows is None else rows.size)
        kernels.values(rows is None, _NO_ROWS if rows is None else rows, *self._arguments(), np.empty(BLOCK), out)
        return out

    def _means(self, rows: IntArray | None) -> FloatArray:
        alpha, beta = self._posterior(rows)
        return alpha / (alpha + beta)

    def _posterior(self, rows: IntArray | None) -> tuple[FloatArray, FloatArray]:
        alpha = np.empty(len(self) if rows is None else rows.size)
        beta = np.empty_like(alpha)
        kernels.posterior(rows is None, _NO_ROWS if rows is None else rows, *self._arguments(), alpha, beta)
        return alpha, beta

    def _spread(self, rows: IntArray | None) -> FloatArray:
        """Return the posterior standard deviation of p (1 - p), whose mean is the value.

        The variance E[p^2 (1-p)^2] - qhat^2, with E[p^2 (1-p)^2] = a (a+1) b (b+1) / (s (s+1) (s+2) (s+3)) and s = a +
        b, is qhat times a sum of two terms that are never negative:

            qhat [ (1/2) / ((s+1) (s+3)) + r^2 s (s + 3/2) / ((s+1) (s+2) (s+3)) ],    r = (a - b) / s.
        """
        alpha, beta = self._posterior(rows)
        s = alpha + beta
        lean = (alpha - beta) / s
        even = 0.5 / (s + 1.0) / (s + 3.0)  # divided one by one: the product would overflow for huge s
        skew = lean * lean * (s / (s + 1.0)) * ((s + 1.5) / (s + 2.0)) / (s + 3.0)
        spread: FloatArray = np.sqrt(self._values(rows) * (even + skew))
        return spread


def require_ids(ids: Iterable[Hashable]) -> Iterable[Hashable]:
    """Refuse None, which would name the whole pool."""
    if ids is None:
        raise TypeError(error_text("ids", "be a collection of ids", ids, "Pass bank.prompt_ids for all of them."))
    return ids


def checked_feedback(s: npt.ArrayLike, n: npt.ArrayLike, size: int) -> tuple[FloatArray, IntArray]:
    """Return successes and rollouts of ``size`` prompts, checked against each other."""
    rollouts, rewarded = counts("rollouts", n, size), successes("successes", s, size)
    index, kind = kernels.first_bad_feedback(rewarded, rollouts)
    if kind:
        name, condition, remedy = _FEEDBACK_FAULTS[kind]
        bad: Any = rollouts[index] if kind == 1 else rewarded[index]
        if kind == 3:
            condition += f"[{index}] = {rollouts[index]}"
        raise ValueError(error_text(name, condition, bad.item(), remedy, index))
    return rewarded, rollouts
