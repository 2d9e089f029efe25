"""PoolShard: consecutive prompts of a pool, with their evidence, slopes and account."""

from __future__ import annotations

from collections.abc import Iterator
from threading import RLock
from typing import Any, ClassVar, Self, SupportsIndex

import numpy as np

from cero_alloc._allocators.fenchel_dual import SlopeStep, step_sizes
from cero_alloc._budget.horizon import Horizon
from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._checks import FloatArray, IntArray, TieArray, error_text, generator, instance, integer
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.ids import tie_ranks
from cero_alloc._evidence.loading import empty_bank
from cero_alloc._evidence.rewards import NO_LACKS
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._saving.saved import Saved, locked
from cero_alloc._saving.state import Field, State, is_of
from cero_alloc._solvers.ranking import leaders

_NO_START = np.zeros(1)  # visits count from the beginning of the run


class PoolShard(Saved):
    """Consecutive prompts of a pool with their evidence, slopes, tie ranks and ledger.

    :class:`ShardedAllocator` calls the methods of a shard. Shards are independent of each other, so each may live in its
    own process or on its own machine.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence of the shard's prompts, in order. Prompts cannot be added later.
    horizon : Horizon
        Constants of the run, over the whole pool.
    start : int
        Row of the shard's first prompt in the pool.
    utility : SaturatingUtility
        Value of exposure, the same for all shards.
    step_size : float, pair of floats, or None
        Step sizes of the normalised slopes and price, as in :class:`~cero_alloc.FenchelDualAllocator`; the same for all
        shards.
    seed : int or SeedSequence
        Seed of the tie ranks of the whole pool; the same for all shards.

    Raises
    ------
    ValueError
        For a start that leaves the shard outside the pool, or a step that is not positive.
    TypeError
        For a start that is not an integer, or a bank, horizon or utility of another class.

    Notes
    -----
    A shard holds 46 bytes per prompt. Drawing the tie ranks temporarily takes 4 bytes per prompt of the *pool*.

    References
    ----------
    arXiv 2610.09679, Algorithm 1; Claim 17 of the theory page: the merge is exact.

    Examples
    --------
    >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
    >>> shard = PoolShard(BetaPosteriorBank(2), horizon, 2)
    >>> slopes, ties, rows = shard.candidates(0.0, 1)
    >>> slopes.round(3).tolist(), rows.tolist()
    ([0.667], [2])
    """

    _BUILD: ClassVar[dict[str, Any]] = {"utility": SaturatingUtility, "horizon": Horizon}
    FIELDS: ClassVar[dict[str, Field]] = {
        "horizon": Field(fixed=True),
        "start": Field(fixed=True),
        "bank": Field(),
        "ledger": Field(),
        "_slopes": Field(),
        "_tie": Field(),
        "_open": Field(
            when_set=(),
            must="hold rows of the shard and their proposals",
            holds=lambda opened, state: _is_proposal(opened, state["slopes"].size),
        ),
    }

    def __init__(
        self,
        bank: BetaPosteriorBank,
        horizon: Horizon,
        start: SupportsIndex,
        *,
        utility: SaturatingUtility = SaturatingUtility(),  # noqa: B008 (immutable)
        step_size: float | tuple[float, float] | None = None,
        seed: int | np.random.SeedSequence = 0,
    ) -> None:
        instance("bank", bank, BetaPosteriorBank, "Build one over the prompts of the shard.")
        instance("horizon", horizon, Horizon, "Build one Horizon(...) for all shards.")
        instance("utility", utility, SaturatingUtility, "Pass SaturatingUtility(...).")
        if bank.trend > 0.0 or bank.reward_range != (0.0, 1.0):
            raise ValueError(
                f"bank must have no trend and rewards in [0, 1] in a shard, got trend = {bank.trend:g} and reward_range = "
                f"{bank.reward_range}. A common shift needs the reports of all shards; map rewards before update."
            )
        self.start = integer("start", start, least=0, remedy="Count the prompts of the shards before this one.")
        if self.start + len(bank) > horizon.n_prompts:
            condition = f"leave room for {len(bank)} prompts in a pool of {horizon.n_prompts}"
            raise ValueError(error_text("start", condition, self.start, "Shards follow one another from row 0 on."))
        self._step = SlopeStep(bank, horizon, utility, step_sizes(step_size, horizon.n_rounds, batch=False)[0])
        self.bank, self.horizon = bank, horizon
        self.ledger = RolloutLedger(horizon, n_accounts=len(bank))
        self._slopes = np.minimum(1.0, 4.0 * bank.evidence.values(None))
        ties = tie_ranks(generator(seed), horizon.n_prompts)
        self._tie = ties[self.start : self.start + len(bank)].copy()  # frees the ranks of the other shards
        self._open: tuple[IntArray, IntArray] | None = None  # places and virtual proposal of the open round
        self._visits = np.array([float(horizon.n_rounds)])
        self._remember(horizon=horizon, start=start, utility=utility, step_size=step_size)

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "start", str(self.start)
        yield "prompts", str(len(self.bank))
        yield "of", str(self.horizon.n_prompts)
        yield "round", f"{self.ledger.round} of {self.ledger.n_rounds}"

    @property
    def lock(self) -> RLock:
        """The lock of the shard's bank, which every method holds."""
        return self.bank.lock

    @property
    @locked
    def slopes(self) -> FloatArray:
        """Normalised slope per prompt, in [0, 1], as of the last closed round; shape (n_shard,)."""
        return self._slopes.copy()

    @property
    @locked
    def exposure(self) -> IntArray:
        """Rollouts dealt to each prompt and not refunded; shape (n_shard,)."""
        return self.ledger.exposure

    def extent(self) -> tuple[int, int, Horizon]:
        """Return the shard's first row, its number of prompts, and the constants of its run.

        Returns
        -------
        start : int
            Row of its first prompt in the pool.
        size : int
            Prompts of the shard.
        horizon : Horizon
            Constants of the run, over the whole pool.

        Examples
        --------
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> PoolShard(BetaPosteriorBank(3), horizon, 1).extent()[:2]
        (1, 3)
        """
        return self.start, len(self.bank), self.horizon

    @locked
    def candidates(self, threshold: float, k: int) -> tuple[FloatArray, TieArray, IntArray]:
        """Close the open round and return the highest-ranked prompts with slopes above ``threshold``.

        Parameters
        ----------
        threshold : float
            Normalised price; a negative threshold admits every prompt.
        k : int
            Largest number of prompts to return.

        Returns
        -------
        slopes : numpy.ndarray of float64, shape (n_candidates,)
            Normalised slopes, in [0, 1].
        ties : numpy.ndarray of int32, shape (n_candidates,)
            Ranks that break ties, distinct over the pool.
        rows : numpy.ndarray of int64, shape (n_candidates,)
            Rows in the pool.

        Raises
        ------
        ValueError
            For a bank with retired prompts.

        Examples
        --------
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shard = PoolShard(BetaPosteriorBank(2), horizon, 2)
        >>> slopes, ties, rows = shard.candidates(threshold=0.5, k=1)
        >>> rows.tolist()
        [2]
        """
        if self.bank.evidence.retired is not None:
            condition = "have no retired prompts in a shard"
            raise ValueError(error_text("bank", condition, self.bank, "Revive them: a shard deals its whole pool."))
        self.close()
        places = leaders(self._slopes, self._tie, threshold, k)
        return self._slopes[places], self._tie[places], places + self.start

    @locked
    def deal(self, rows: IntArray, proposal: IntArray, units: IntArray) -> None:
        """Open the next round with the counts decided for the pool, and age the evidence by one round.

        Parameters
        ----------
        rows : numpy.ndarray of int64, shape (n_dealt,)
            Rows in the pool of prompts of this shard.
        proposal, units : numpy.ndarray of int64, shape (n_dealt,)
            Units proposed, and units dealt within the budget; a unit is ``unit_size`` rollouts.

        Examples
        --------
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shard = PoolShard(BetaPosteriorBank(2), horizon, 2)
        >>> shard.deal(np.array([3]), np.array([2]), np.array([2]))
        >>> shard.exposure.tolist()
        [0, 2]
        """
        places = rows - self.start
        self._open = (places, proposal)
        self.bank.tick()
        self.ledger.round += 1
        self.ledger.top_up(places, units)

    @locked
    def close(self) -> None:
        """Take the dual step of the open round, if any, with the current posterior.

        Examples
        --------
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shard = PoolShard(BetaPosteriorBank(2), horizon, 2)
        >>> shard.deal(np.array([3]), np.array([2]), np.array([2]))
        >>> shard.close()
        >>> bool(shard.slopes[1] < shard.slopes[0])
        True
        """
        if self._open is None:
            return
        self._step.pool(self._slopes, *self._open, _NO_START, self._visits)
        self._open = None

    @locked
    def update(self, rows: IntArray, successes: FloatArray, rollouts: IntArray, lacks: FloatArray = NO_LACKS) -> int:
        """Add checked feedback to the evidence.

        Parameters
        ----------
        rows : numpy.ndarray of int64, shape (n_rows,)
            Rows in the pool of prompts of this shard, each once.
        successes : numpy.ndarray of float64, shape (n_rows,)
            Sum of the rewards of each prompt.
        rollouts : numpy.ndarray of int64, shape (n_rows,)
            Rewarded rollouts of each prompt.
        lacks : numpy.ndarray of float64, shape (n_rows,) or (0,)
            Sums of r - r**2; empty where all rewards are 0 or 1.

        Returns
        -------
        int
            Outstanding rollouts settled by this feedback.

        Examples
        --------
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shard = PoolShard(BetaPosteriorBank(2), horizon, 2)
        >>> shard.deal(np.array([3]), np.array([2]), np.array([2]))
        >>> shard.update(np.array([3]), np.array([1.0]), np.array([2]))
        2
        """
        places = rows - self.start
        self.bank.evidence.observe(places, successes, rollouts, lacks)
        return self.ledger.settle(places, rollouts)

    @locked
    def outstanding(self, rows: IntArray) -> IntArray:
        """Return the outstanding rollouts of prompts: dealt, and neither reported nor refunded.

        Parameters
        ----------
        rows : numpy.ndarray of int64, shape (n_rows,)
            Rows in the pool of prompts of this shard.

        Returns
        -------
        numpy.ndarray of int64, shape (n_rows,)
            Outstanding rollouts of each.

        Examples
        --------
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shard = PoolShard(BetaPosteriorBank(2), horizon, 2)
        >>> shard.deal(np.array([3]), np.array([2]), np.array([2]))
        >>> shard.outstanding(np.array([2, 3])).tolist()
        [0, 2]
        """
        return self.ledger.outstanding[rows - self.start].astype(np.int64)

    @locked
    def refund(self, rows: IntArray, rollouts: IntArray) -> None:
        """Return rollouts to the budget that were dealt but never generated.

        Parameters
        ----------
        rows : numpy.ndarray of int64, shape (n_rows,)
            Rows in the pool of prompts of this shard, each once.
        rollouts : numpy.ndarray of int64, shape (n_rows,)
            Rollouts of each prompt: multiples of ``unit_size``, at most its outstanding rollouts.

        Raises
        ------
        ValueError
            For more rollouts than are outstanding; nothing has changed.

        Examples
        --------
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shard = PoolShard(BetaPosteriorBank(2), horizon, 2)
        >>> shard.deal(np.array([3]), np.array([2]), np.array([2]))
        >>> shard.refund(np.array([3]), np.array([2]))
        >>> shard.exposure.tolist()
        [0, 0]
        """
        self.ledger.refund(rows - self.start, rollouts, lambda place: place + self.start)

    @classmethod
    def _from_state(cls, state: State, label: str, **live: Any) -> Self:
        if is_of(state, cls.__name__) and isinstance(state.get("bank"), dict):
            live["bank"] = empty_bank(BetaPosteriorBank, state["bank"], label)
        return super()._from_state(state, label, **live)


def _is_proposal(opened: tuple[Any, ...], n_prompts: int) -> bool:
    """Tell whether the entry of an open round in a state is one over rows of a shard of so many prompts."""
    if len(opened) != 2 or not all(isinstance(part, np.ndarray) and part.dtype == np.int64 for part in opened):
        return False
    places, proposal = opened
    within = not places.size or 0 <= places.min() <= places.max() < n_prompts
    return places.ndim == 1 and proposal.shape == places.shape and bool(within)
