"""BetaPosteriorBank: the posterior success rate of each prompt, and what a rollout of it is therefore worth."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from copy import deepcopy
from threading import RLock
from typing import Any, ClassVar, Self, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text, integer, real
from cero_alloc._saving.saved import OwnLock, Saved, locked
from cero_alloc._saving.state import REMEDY, Field, State, is_of

from .calibration import Calibration
from .drift import ForgettingChoice, choose_forgetting, forgetting_grid
from .evidence import LAST_TICK, Evidence
from .feedback import checked_feedback, checked_history
from .ids import PromptIndex
from .loading import empty_bank, evidence_of
from .merging import MERGE_REMEDY, merge
from .prior import PriorFit, group_rows, prior_arrays


class BetaPosteriorBank(OwnLock, Saved):
    r"""The posterior Beta distribution of each prompt's success rate, and the value that follows from it.

    Each prompt starts at Beta(:math:`a_0, b_0`). In each round (:meth:`tick`) the evidence fades, and feedback
    (:meth:`update`) adds to it:

    .. math::

        a \leftarrow a_0 + \rho (a - a_0) + S, \qquad b \leftarrow b_0 + \rho (b - b_0) + F.

    The value is the expected reward variance,

    .. math:: \hat q = E[p (1 - p)] = \frac{a b}{(a + b)(a + b + 1)}.

    Fading is lazy: a prompt without feedback costs nothing, however many rounds go by.

    Parameters
    ----------
    prompts : int or sequence of hashable
        Unique ids of the prompts, or their number M for the ids 0 .. M-1.
    prior : tuple of two floats or of two array_like, shape (n_prompts,)
        :math:`(a_0, b_0)` in pseudo-rollouts, shared or per prompt.
    forgetting : float, in (0, 1]
        Share :math:`\rho` of the evidence that survives a round; 1 never forgets.
    dtype : {"float64", "float32"}
        How evidence is stored; all arithmetic is in float64. A prompt takes 12 bytes in float32 and 20 in float64. Whole
        successes and failures are exact up to :math:`2^{24}` without forgetting. With forgetting each update has a
        relative rounding error of at most :math:`2^{-24}`. The errors fade with the evidence and add up to less than
        :math:`2^{-24} / (1 - \rho)` of the largest evidence that the prompt had.

    Raises
    ------
    ValueError
        For no prompts, repeated ids, a prior that is not positive and finite, forgetting outside (0, 1], or another
        dtype.
    TypeError
        For ids that are not hashable, or a string in place of a list of ids.

    Notes
    -----
    The attributes ``index`` (ids and their rows) and ``evidence`` (by row, without checks and locks) are for allocators.

    References
    ----------
    arXiv 2610.09679, the Beta-Bernoulli proxy. Claims 2 and 3 of the theory page state what :math:`\hat q` estimates and
    how accurately.

    Examples
    --------
    >>> bank = BetaPosteriorBank(["easy", "hard"])
    >>> bank.update(["easy", "hard"], successes=[8, 3], rollouts=[8, 8])
    >>> bank.mean().round(3).tolist()
    [0.9, 0.4]
    >>> bank.value(["hard"]).round(4).tolist()
    [0.2182]
    """

    # The evidence writes, checks and restores its own entries, side by side with those of the bank.
    FIELDS: ClassVar[dict[str, Field]] = {
        "_first": Field(),
        "prompt_ids": Field(own=True),
        **{name: Field(own=True) for name in Evidence.FIELDS},
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
            remedy = "float64 is exact, float32 is smaller."
            raise ValueError(error_text("dtype", "be float64 or float32", dtype, remedy))
        self.lock = RLock()
        self.index = PromptIndex(prompts)
        size = self._first = len(self.index)  # prompts at construction
        self.evidence = Evidence(
            size,
            prior=prior_arrays(prior, size),
            forgetting=real(
                "forgetting", forgetting, low=0.0, high=1.0, open_low=True, remedy="1.0 keeps all evidence."
            ),
            dtype=storage,
        )

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self.index

    def __repr__(self) -> str:
        a0, b0 = self.evidence.a0, self.evidence.b0
        prior = f"({a0[0]:g}, {b0[0]:g})" if a0.size == 1 else "per prompt"
        return f"BetaPosteriorBank({len(self)} prompts, prior={prior}, forgetting={self.forgetting:g})"

    @property
    def prompt_ids(self) -> Sequence[Hashable]:
        """The ids in row order; a range when they are 0 .. M-1."""
        return self.index.ids

    @property
    def forgetting(self) -> float:
        """Share of the evidence that survives a round."""
        return self.evidence.forgetting

    @property
    @locked
    def alpha(self) -> FloatArray:
        """First Beta parameter per prompt, in pseudo-rollouts, aged to now; shape (n_prompts,)."""
        return self.evidence.posterior(None)[0]

    @property
    @locked
    def beta(self) -> FloatArray:
        """Second Beta parameter per prompt, in pseudo-rollouts, aged to now; shape (n_prompts,)."""
        return self.evidence.posterior(None)[1]

    @locked
    def update(self, prompt_ids: Iterable[Hashable] | None, successes: npt.ArrayLike, rollouts: npt.ArrayLike) -> None:
        """Add observed rewards to the evidence; within a round, neither the order of the calls nor their split matters.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts that were observed, each at most once per call; None for the whole pool in row order.
        successes : array_like of float, shape (n_ids,)
            Sum of the rewards of each prompt, in [0, rollouts]. Rewards between 0 and 1 count as fractional successes.
        rollouts : array_like of int, shape (n_ids,)
            Rewarded rollouts of each prompt.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError
            For a repeated id, a wrong length, rollouts that are negative or not integers, or successes that are NaN,
            negative or larger than the rollouts. The evidence is unchanged after any error.
        TypeError
            For ids that are not a collection, or successes or rollouts in a set, which has no order.

        Examples
        --------
        >>> bank = BetaPosteriorBank(3)
        >>> bank.update([0, 2], successes=[4, 1.5], rollouts=[4, 4])
        >>> bank.alpha.tolist(), bank.beta.tolist()
        ([5.0, 1.0, 2.5], [1.0, 1.0, 3.5])
        """
        self.evidence.observe(*checked_feedback(self.index, prompt_ids, successes, rollouts))

    @locked
    def tick(self, rounds: SupportsIndex = 1) -> None:
        """Advance the clock: all evidence fades by the factor ``forgetting`` per round.

        Parameters
        ----------
        rounds : int, at least 0
            Rounds that have passed.

        Raises
        ------
        TypeError, ValueError
            For a number of rounds that is negative or not an integer.

        Examples
        --------
        >>> bank = BetaPosteriorBank(1, forgetting=0.5)
        >>> bank.update([0], successes=[4], rollouts=[8])
        >>> bank.tick(2)
        >>> bank.alpha.tolist()
        [2.0]
        """
        elapsed = integer("rounds", rounds, least=0, remedy="Time only moves forward.")
        if self.evidence.now + elapsed > LAST_TICK:
            condition = f"leave the clock, now {self.evidence.now}, at {LAST_TICK} or before"
            raise ValueError(error_text("rounds", condition, elapsed, "Count rounds, not rollouts."))
        self.evidence.tick(elapsed)

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
        KeyError, TypeError
            For an unknown id, or ids that are not a collection.

        Examples
        --------
        >>> BetaPosteriorBank(2).value().round(4).tolist()
        [0.1667, 0.1667]
        """
        return self.evidence.values(self._rows(ids))

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
        KeyError, TypeError
            For an unknown id, or ids that are not a collection.

        Examples
        --------
        >>> BetaPosteriorBank(1, prior=(1.0, 3.0)).mean().tolist()
        [0.25]
        """
        return self.evidence.means(self._rows(ids))

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
        KeyError, TypeError, ValueError
            For an unknown id, ids that are not a collection, or a level that is not a number in (0, 1].

        Examples
        --------
        >>> lower, upper = BetaPosteriorBank(1).interval(0.9)
        >>> round(float(lower[0]), 3), round(float(upper[0]), 3)
        (0.05, 0.95)
        """
        level = real("level", level, low=0.0, high=1.0, open_low=True, remedy="Take 0.95 for a 95% interval.")
        return self.evidence.interval(self._rows(ids), level)

    @locked
    def add_prompts(self, ids: Iterable[Hashable], *, prior: tuple[npt.ArrayLike, npt.ArrayLike] | None = None) -> None:
        """Append new prompts, without evidence.

        Parameters
        ----------
        ids : iterable of hashable
            Ids that are not in the bank.
        prior : tuple of two floats or of two array_like, shape (n_new,), or None
            Prior of the new prompts; None for the prior that all prompts of the bank share.

        Raises
        ------
        ValueError, TypeError
            For an id that is known, repeated or not hashable, a string in place of a list of ids, or a missing prior
            where the bank holds one per prompt.

        Examples
        --------
        >>> bank = BetaPosteriorBank(["a"])
        >>> bank.add_prompts(["b", "c"])
        >>> len(bank), "c" in bank
        (3, True)
        """
        fresh = self.index.fresh(ids)
        if prior is None and fresh and self.evidence.a0.size > 1:
            raise ValueError(
                "prior must be given for new prompts, because this bank holds one prior per prompt. Pass prior=(a, b)."
            )
        self.evidence.grow(len(fresh), None if prior is None else prior_arrays(prior, len(fresh)))
        self.index.append(fresh)

    @property
    @locked
    def retired(self) -> npt.NDArray[np.bool_]:
        """Which prompts are retired; shape (n_prompts,)."""
        retired = self.evidence.retired
        return np.zeros(len(self), dtype=bool) if retired is None else retired.copy()

    @locked
    def retire(self, ids: Iterable[Hashable]) -> None:
        """Exclude prompts from all allocations until they are revived; allocators plan without them.

        Their evidence stays, goes on fading, and can still be added to.

        Parameters
        ----------
        ids : iterable of hashable
            Prompts, each once; a prompt that is already retired stays retired.

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
        self.evidence.mark_retired(self.index.listed_rows(ids), retired=True)

    @locked
    def revive(self, ids: Iterable[Hashable], *, keep: float = 1.0) -> None:
        """Let allocators deal to retired prompts again.

        The policy may have unlearned a prompt that was solved when it was retired, and the old evidence would keep
        allocators from trying it: ``keep`` discounts that evidence.

        Parameters
        ----------
        ids : iterable of hashable
            Prompts, each once; of a prompt that is not retired only the evidence is discounted.
        keep : float, in [0, 1]
            Share of the evidence that stays; 0 returns to the prior.

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
        rows = self.index.listed_rows(ids)
        share = real("keep", keep, low=0.0, high=1.0, remedy="1.0 keeps all evidence, 0.0 none.")
        self.evidence.mark_retired(rows, retired=False)
        if share < 1.0:
            self.evidence.keep_share(rows, share)

    def merge(self, other: BetaPosteriorBank) -> None:
        r"""Add the evidence of another bank, such as that of a worker that began with an empty one.

        .. math::

            t = \max(t_1, t_2), \qquad S = \rho^{t - t_1} S_1 + \rho^{t - t_2} S_2, \qquad \text{likewise } F

        for each prompt, where :math:`t_1, t_2` are the rounds of its latest evidence in the two banks. Both clocks must
        count the same rounds; the bank takes the later time. Prompts that only the other bank has are appended. Evidence
        from the same rollouts in both banks counts twice: give every worker an empty bank, and merge each once.

        Merging is commutative and associative but for the order of rows: exactly without forgetting and with whole
        successes, otherwise up to rounding. A prompt is retired if it is in either bank. The calibration records add up.
        Accounts of allocators do not change.

        Parameters
        ----------
        other : BetaPosteriorBank
            With the same forgetting and dtype, and the same prior for the prompts that both have. It does not change.

        Raises
        ------
        TypeError, ValueError
            For anything but a bank, for the bank itself, or for another forgetting, dtype or prior; nothing changes.

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
            raise TypeError(error_text("other", "be a BetaPosteriorBank", other, MERGE_REMEDY))
        if other is self:
            remedy = "Merged with itself, all would count twice."
            raise ValueError(error_text("other", "be another bank", other, remedy))
        with other.lock:  # released before this bank's lock is taken: two banks may be merging each other
            names, evidence = list(other.prompt_ids), deepcopy(other.evidence)
        with self.lock:
            merge(self.index, self.evidence, names, evidence)

    @overload
    def fit_prior(self, groups: None = None) -> PriorFit: ...
    @overload
    def fit_prior(self, groups: Iterable[Hashable]) -> dict[Hashable, PriorFit]: ...
    @locked  # type: ignore[misc]
    def fit_prior(self, groups: Iterable[Hashable] | None = None) -> PriorFit | dict[Hashable, PriorFit]:
        r"""Replace the prior by the one under which the pool's evidence is most likely (empirical Bayes).

        .. math::

            \max_{a_0, b_0} \sum_i \log B(a_0 + S_i, b_0 + F_i) - \log B(a_0, b_0)

        with the evidence :math:`(S_i, F_i)` of every prompt, aged to now. The evidence does not change; the values change
        at once. The uniform prior overrates prompts that are nearly always right or wrong, which are common; a fitted
        prior does not. The prior stays where the data do not determine one; :class:`PriorFit` lists the reasons.

        Parameters
        ----------
        groups : iterable of hashable, length n_prompts, or None
            A label per prompt in row order, such as its data source, to fit one prior per label; None fits one prior
            to the whole pool. Once a group is fitted the bank holds a prior per prompt, and :meth:`add_prompts` needs
            one for new prompts.

        Returns
        -------
        PriorFit, or dict of label to PriorFit
            The fitted parameters, or the reason why the prior stays.

        Raises
        ------
        TypeError, ValueError
            For groups that are not a sequence of hashable labels, one per prompt.

        Notes
        -----
        Fading shrinks the evidence but not its relative sampling error. Where no prompt drifts, a fit to faded evidence
        therefore overestimates the strength a + b: by 6% for a forgetting of 0.98 and feedback up to 20 rounds old, by
        25% for 0.9 and 10 rounds.

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
        if groups is None:
            return self.evidence.fit_prior()
        return self.evidence.fit_groups(group_rows(groups, len(self)))

    @locked
    def select_forgetting(
        self,
        history: Iterable[tuple[Iterable[Hashable] | None, npt.ArrayLike, npt.ArrayLike]],
        grid: npt.ArrayLike = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.5),
    ) -> ForgettingChoice:
        """Set the forgetting to the candidate that would have predicted a history best.

        For every candidate the history is replayed into an empty bank with the present prior, one tick per round. Every
        entry is scored, before it is added, by the log-probability of its rewards. The largest candidate within 2 nats
        of the best score is chosen. The bank's own evidence is aged to now at the old rate, and fades at the new one
        from then on.

        Parameters
        ----------
        history : iterable of tuples (prompt_ids, successes, rollouts), each of shape (n_ids,)
            One tuple per round, with the arguments of :meth:`update`; the bank need not hold this evidence.
        grid : array_like of float, shape (n_grid,), in (0, 1]
            Candidates: shares of the evidence that survive a round.

        Returns
        -------
        ForgettingChoice
            The choice and all scores. Without a prompt that was in two rounds all candidates score alike, and the
            present value stays.

        Raises
        ------
        KeyError, TypeError, ValueError
            For rounds that are not triples or that :meth:`update` would refuse (the message names the round), and for
            candidates outside (0, 1] or none.

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
        candidates, evidence = forgetting_grid(grid), self.evidence
        rounds = checked_history(self.index, history)
        choice = choose_forgetting(rounds, candidates, evidence.a0, evidence.b0, len(self), evidence.forgetting)
        if choice.forgetting != evidence.forgetting:
            evidence.set_forgetting(choice.forgetting)
        return choice

    @locked
    def calibration(self) -> Calibration:
        """Compare predicted values with the reward variances that were then observed.

        Returns
        -------
        Calibration
            Ten bins, the bias with its standard error, and a warning, over all groups of at least two rollouts that the
            bank was given, each predicted under the prior of its time.

        Examples
        --------
        >>> bank = BetaPosteriorBank(1000)
        >>> bank.update(None, successes=np.arange(1000) % 2 * 4, rollouts=np.full(1000, 4))
        >>> calibration = bank.calibration()
        >>> round(calibration.bias, 4), calibration.warning
        (0.1667, 1.0)
        """
        return self.evidence.record.report()

    @classmethod
    def _from_state(cls, state: State, label: str, **live: Any) -> Self:
        if not is_of(state, cls.__name__):
            return super()._from_state(state, label)  # which says so
        bank = empty_bank(cls, state, label)
        bank.load_state_dict(state)
        return bank

    def _rows(self, ids: Iterable[Hashable] | None) -> IntArray | None:
        """Return the rows of ids; None, the whole pool, stays None."""
        return None if ids is None else self.index.rows(ids)

    # ------------------------------------------------------------ state

    def _snapshot(self) -> State:
        ids = self.index.ids
        names = len(ids) if isinstance(ids, range) else list(ids)
        return {**self.evidence.state_dict(), **super()._snapshot(), "prompt_ids": names}

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        if is_of(state, type(self).__name__) and "prompt_ids" in state:
            found, kind = self.index.difference(state["prompt_ids"], state.get("first")), type(self).__name__
            if found is not None:
                raise ValueError(f"{label}['prompt_ids'] must equal that of this {kind}, {found}. {REMEDY}")
        super()._check_state(state, label, size)
        self.evidence._check_state(evidence_of(state), label, size)

    def _restore(self, state: Mapping[str, Any]) -> None:
        ids = state["prompt_ids"]
        joined = range(len(self), ids) if isinstance(ids, int) else ids[len(self) :]
        if len(joined):
            self.index.append(list(joined))
        super()._restore(state)
        self.evidence._restore(evidence_of(state))
