"""BetaPosteriorBank: the posterior success rate of each prompt, and what a rollout of it is therefore worth."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from copy import deepcopy
from threading import RLock
from typing import Any, ClassVar, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, error_text, integer, real
from cero_alloc._saving.saved import locked
from cero_alloc._saving.state import REMEDY, Field, State, is_of

from .advantages import Baseline, Method, Scale
from .evidence import LAST_TICK, Evidence
from .fits import Fits
from .ids import PromptIndex
from .loading import empty_bank, evidence_of
from .merging import MERGE_REMEDY, merge
from .prior import prior_arrays
from .rewards import Rewards
from .scoring import Scoring


class BetaPosteriorBank(Fits):
    r"""The posterior Beta distribution of each prompt's success rate, and the value that follows from it.

    Each prompt starts at Beta(:math:`a_0, b_0`). In each round (:meth:`tick`) the evidence fades, and feedback
    (:meth:`update`) adds to it:

    .. math::

        a \leftarrow a_0 + \rho (a - a_0) + S, \qquad b \leftarrow b_0 + \rho (b - b_0) + F.

    The value is the expected reward variance,

    .. math:: \hat q = E[p (1 - p)] = \frac{a b}{(a + b)(a + b + 1)}.

    That is the belief of the paper: it forgets what it knows together with how well it knows it. A belief that moves as
    a policy in training does keeps the mean. With s = a + b, per round,

    .. math::

        \frac1s \leftarrow \frac1s + \delta, \qquad \frac ab \leftarrow \frac ab \, e^{d},

    where s never falls below :math:`a_0 + b_0` and d, the common shift of the log-odds of all prompts seen before, is
    estimated from the reports of the round with the prior :math:`N(0, \tau^2)`.

    All of it is lazy: a prompt without feedback costs nothing, however many rounds go by.

    Parameters
    ----------
    prompts : int or sequence of hashable
        Unique ids of the prompts, or their number M for the ids 0 .. M-1.
    prior : tuple of two floats or of two array_like, shape (n_prompts,)
        :math:`(a_0, b_0)` in pseudo-rollouts, shared or per prompt.
    forgetting : float, in (0, 1]
        Share :math:`\rho` of the evidence that survives a round; 1 never forgets. Together with ``drift`` or ``trend`` every
        round costs a pass over the pool.
    drift : float, at least 0
        :math:`\delta`: what 1 / (a + b) grows by per round, while the mean stays. With a rollout per prompt and round,
        0.01 forgets about half of 100 rollouts in a round.
    trend : float, at least 0
        :math:`\tau`: standard deviation per round of the common shift of the log-odds. Reports of a round move the beliefs
        on all other prompts, too.
    reward_range : tuple of two floats
        Smallest and largest reward. Rewards are mapped to [0, 1]; :meth:`mean`, :meth:`interval` and :meth:`value` map back.
    dtype : {"float64", "float32"}
        How evidence is stored; all arithmetic is in float64. A prompt takes 12 bytes in float32 and 20 in float64, 8 more
        with a trend, 2 more once there were rewards, and 8 more once there were some between the ends of the range. Whole
        successes and failures are exact up to :math:`2^{24}` without forgetting. With forgetting each update has a
        relative rounding error of at most :math:`2^{-24}`. The errors fade with the evidence and add up to less than
        :math:`2^{-24} / (1 - \rho)` of the largest evidence that the prompt had.

    Raises
    ------
    ValueError
        For no prompts, repeated ids, a prior that is not positive and finite, forgetting outside (0, 1], a negative drift
        or trend, a reward range that does not ascend, or another dtype.
    TypeError
        For ids that are not hashable, or a string in place of a list of ids.

    Notes
    -----
    The attributes ``index`` (ids and their rows), ``evidence`` (by row, without checks and locks) and ``rewards`` (checks of
    feedback) are for allocators.

    References
    ----------
    arXiv 2610.09679, the Beta-Bernoulli proxy. Claims 2 and 3 of the theory page state what :math:`\hat q` estimates and
    how accurately; Claims 22 to 24 are about beliefs that move and about rewards other than 0 and 1.

    Examples
    --------
    >>> bank = BetaPosteriorBank(["easy", "hard"])
    >>> bank.update(["easy", "hard"], successes=[8, 3], rollouts=[8, 8])
    >>> bank.mean().round(3).tolist()
    [0.9, 0.4]
    >>> bank.value(["hard"]).round(4).tolist()
    [0.2182]

    A belief that moves keeps its mean, and follows the others' reports:

    >>> bank = BetaPosteriorBank(["seen", "visited", "new"], drift=0.01, trend=0.1)
    >>> bank.update(["seen", "visited"], successes=[8, 8], rollouts=[16, 16])
    >>> bank.tick()
    >>> bank.update(["visited"], successes=[14], rollouts=[16])
    >>> bank.mean().round(3).tolist()
    [0.508, 0.696, 0.5]
    """

    # The evidence writes, checks and restores its own entries, side by side with those of the bank.
    FIELDS: ClassVar[dict[str, Field]] = {
        "_first": Field(),
        "reward_range": Field(own=True),
        "prompt_ids": Field(own=True),
        **{name: Field(own=True, older=field.older) for name, field in Evidence.FIELDS.items()},
    }

    def __init__(
        self,
        prompts: SupportsIndex | Sequence[Hashable],
        *,
        prior: tuple[npt.ArrayLike, npt.ArrayLike] = (1.0, 1.0),
        forgetting: float = 1.0,
        drift: float = 0.0,
        trend: float = 0.0,
        reward_range: tuple[float, float] = (0.0, 1.0),
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
        self.rewards = Rewards(reward_range)
        self.index = PromptIndex(prompts)
        size = self._first = len(self.index)  # prompts at construction
        self.evidence = Evidence(
            size,
            prior=prior_arrays(prior, size),
            forgetting=real(
                "forgetting", forgetting, low=0.0, high=1.0, open_low=True, remedy="1.0 keeps all evidence."
            ),
            dtype=storage,
            drift=real("drift", drift, low=0.0, high=np.inf, remedy="0 keeps all certainty."),
            trend=real("trend", trend, low=0.0, high=np.inf, remedy="0 shifts nothing."),
        )

    @locked
    def update(
        self,
        prompt_ids: Iterable[Hashable] | None,
        successes: npt.ArrayLike,
        rollouts: npt.ArrayLike,
        *,
        squares: npt.ArrayLike | None = None,
    ) -> None:
        """Add observed rewards to the evidence; within a round, neither the order of the calls nor their split matters.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts that were observed, each at most once per call; None for the whole pool in row order.
        successes : array_like of float, shape (n_ids,)
            Sum of the rewards of each prompt, in [0, rollouts], or between the ends of the reward range times the rollouts.
        rollouts : array_like of int, shape (n_ids,)
            Rewarded rollouts of each prompt.
        squares : array_like of float, shape (n_ids,), or None
            Sum of the squared rewards of each prompt. None: all rewards are at the ends of the range; others are taken for
            coins of the same mean, so that values are an upper bound.

        Warns
        -----
        AllocationWarning
            Once per bank, for sums that rewards at the ends of the range cannot have, without ``squares``; and once where
            the sums of 20 mixed groups or more are all such as rewards of -1 and 1 have, with a range from 0 to 1.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError
            For a repeated id, a wrong length, rollouts that are negative or not integers, successes that are NaN or out of
            range, or squares that no rewards with this sum have. The evidence is unchanged after any error.
        TypeError
            For ids that are not a collection, or successes or rollouts in a set, which has no order.

        Examples
        --------
        >>> bank = BetaPosteriorBank(3)
        >>> bank.update([0, 2], successes=[4, 1.5], rollouts=[4, 4], squares=[4, 1.25])
        >>> bank.alpha.tolist(), bank.beta.tolist()
        ([5.0, 1.0, 2.5], [1.0, 1.0, 3.5])
        """
        feedback = self.rewards.feedback(self.index, prompt_ids, successes, rollouts, squares)
        self.rewards.notice_signs(feedback)
        self.evidence.observe(*feedback)

    @locked
    def observe(
        self,
        prompt_ids: Iterable[Hashable],
        rewards: npt.ArrayLike,
        *,
        baseline: Baseline = "posterior",
        scale: Scale = "posterior",
        method: Method = "leave-one-out",
        group_size: SupportsIndex = 8,
    ) -> FloatArray:
        """Return the advantage of every rollout, then learn from the rewards: :meth:`advantages`, then :meth:`update`.

        Parameters
        ----------
        prompt_ids : iterable of hashable, length n_rollouts
            Prompt of each rollout, in any order, repeated as often as it has rollouts.
        rewards : array_like of float, shape (n_rollouts,)
            Reward of each, within the reward range; NaN or None where it could not be scored.
        baseline : {"posterior", "group", "batch"}
            What is subtracted, as in :meth:`advantages`.
        scale : {"posterior", "none", "group"}
            What the difference is divided by, as in :meth:`advantages`.
        method : {"leave-one-out", "mapp"}
            As in :meth:`advantages`.
        group_size : int, at least 2
            Size of the groups that "mapp" averages over, in rollouts.

        Returns
        -------
        numpy.ndarray of float64, shape (n_rollouts,)
            Advantages in the order of the rollouts; 0 where there is no reward.

        Raises
        ------
        KeyError, TypeError, ValueError
            As :meth:`advantages`; nothing changes.

        Examples
        --------
        >>> bank = BetaPosteriorBank(["a", "b"])
        >>> bank.observe(["b", "a", "b"], [1.0, 0.0, None], scale="none").tolist()
        [0.5, -0.5, 0.0]
        >>> bank.mean().round(3).tolist()
        [0.333, 0.667]
        """
        scoring = Scoring(baseline, scale, method, group_size).checked()
        batch = self.rewards.rollouts(self.index, prompt_ids, rewards)
        scoring.require_coins(batch, self.rewards)
        advantages = scoring.advantages(self.evidence, self.rewards, batch)
        self.evidence.observe(*batch.feedback)
        return advantages

    @locked
    def tick(self, rounds: SupportsIndex = 1) -> None:
        """Advance the clock: evidence fades by ``forgetting`` and ``drift``, and the reports of the round have been seen.

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

    @locked
    def retire(self, ids: Iterable[Hashable]) -> None:
        """Exclude prompts from all allocations until they are revived; allocators plan without them.

        Their evidence stays, goes on fading, and can still be added to.

        Parameters
        ----------
        ids : iterable of hashable
            Prompts, each once; a prompt that is already retired stays retired, also where an allocator had retired it only
            for a time.

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
        successes, otherwise up to rounding. A prompt is retired if it is in either bank, unless the other bank's allocator
        retired it only for a time. The calibration records add up. Accounts of allocators do not change.

        Parameters
        ----------
        other : BetaPosteriorBank
            With the same forgetting, reward range and dtype, and the same prior for the prompts that both have; neither has
            a drift or a trend. It does not change.

        Raises
        ------
        TypeError, ValueError
            For anything but a bank, for the bank itself, for another forgetting, reward range, dtype or prior, or where
            beliefs move, because what they know then is no sum of evidence; nothing changes.

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
        if other.reward_range != self.reward_range:
            condition = f"be {self.reward_range}"
            raise ValueError(error_text("other.reward_range", condition, other.reward_range, MERGE_REMEDY))
        with other.lock:  # released before this bank's lock is taken: two banks may be merging each other
            names, evidence = list(other.prompt_ids), deepcopy(other.evidence)
        with self.lock:
            merge(self.index, self.evidence, names, evidence)

    @classmethod
    def _from_state(cls, state: State, label: str, **live: Any) -> Self:
        if not is_of(state, cls.__name__):
            return super()._from_state(state, label)  # which says so
        bank = empty_bank(cls, state, label)
        bank.load_state_dict(state)
        return bank

    # ------------------------------------------------------------ state

    def _snapshot(self) -> State:
        ids = self.index.ids
        names = len(ids) if isinstance(ids, range) else list(ids)
        own = {"prompt_ids": names, "reward_range": self.reward_range}
        return {**self.evidence.state_dict(), **super()._snapshot(), **own}

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        if is_of(state, type(self).__name__) and "prompt_ids" in state:
            found, kind = self.index.difference(state["prompt_ids"], state.get("first")), type(self).__name__
            if found is not None:
                raise ValueError(f"{label}['prompt_ids'] must equal that of this {kind}, {found}. {REMEDY}")
        super()._check_state(state, label, size)
        try:
            Rewards(state["reward_range"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{label}['reward_range']: {error}") from None
        self.evidence._check_state(evidence_of(state), label, size)

    def _restore(self, state: Mapping[str, Any]) -> None:
        ids = state["prompt_ids"]
        joined = range(len(self), ids) if isinstance(ids, int) else ids[len(self) :]
        if len(joined):
            self.index.append(list(joined))
        super()._restore(state)
        self.rewards = Rewards(state["reward_range"])
        self.evidence._restore(evidence_of(state))
