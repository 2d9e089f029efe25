"""Algorithm 1 over a pool that is split, in one process or on many machines: the same counts as over the whole, exactly."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from threading import RLock
from typing import Any, ClassVar, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import checkpoint
from ._allocators.dual import SlopeStep, next_price, step_sizes
from ._allocators.metrics import ledger_metrics
from ._budget.horizon import Horizon
from ._budget.ledger import RolloutLedger, require_refundable
from ._checks import FloatArray, IntArray, TieArray, counts, error_text, flag, generator, instance, integer, real
from ._evidence.bank import BetaPosteriorBank, checked_feedback
from ._evidence.ids import PromptIndex, tie_ranks
from ._objective.utility import SaturatingUtility
from ._saving.saved import OwnLock, Saved, locked
from ._saving.state import State, check_array, is_of
from ._solvers.ranking import counts_of, deal_round, leaders

__all__ = ["PoolShard", "ShardedAllocator", "in_process"]

_NO_START = np.zeros(1)  # visits count from the beginning of the run

Gather = Callable[[Sequence[Any], str, Sequence[tuple[Any, ...]]], list[Any]]


def in_process(shards: Sequence[Any], method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call a method of every shard, each with its own arguments, and return the results in the order of the shards.

    Parameters
    ----------
    shards : sequence
        The shards, or what stands for them.
    method : str
        Name of a method of :class:`PoolShard`.
    arguments : sequence of tuple, one per shard
        Positional arguments.

    Returns
    -------
    list
        What each shard returned.

    Raises
    ------
    ValueError
        For more or fewer tuples than shards.

    Examples
    --------
    >>> in_process(["ab", "cb"], "count", [("a",), ("b",)])
    [1, 1]
    """
    return [getattr(shard, method)(*words) for shard, words in zip(shards, arguments, strict=True)]


class PoolShard(Saved):
    """Some consecutive prompts of a pool: their evidence, slopes, tie ranks and account.

    :class:`ShardedAllocator` calls its methods; a shard needs nothing of the others, so that each may live in a process
    or on a machine of its own.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence of the shard's prompts, in order. Prompts are not added later.
    horizon : Horizon
        The constants of the whole run, over the whole pool.
    start : int
        Row of the shard's first prompt in the pool.
    utility : SaturatingUtility
        What exposure is worth, the same for all shards.
    step_size : float, pair of floats, or None
        Step of the normalised slopes and price, as in :class:`~cero_alloc.FenchelDualAllocator`, the same for all shards.
    seed : int or SeedSequence
        Draws the permutation that breaks ties, of the whole pool; the same for all shards.

    Raises
    ------
    ValueError
        For a start that leaves the shard outside the pool, or a step that is not positive.
    TypeError
        For a start that is not an integer, or a bank, horizon or utility of another class.

    Notes
    -----
    A shard holds 44 bytes per prompt. Drawing the tie ranks takes 4 bytes per prompt of the *pool* for a moment.

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
    _FIXED: ClassVar[tuple[str, ...]] = ("horizon", "start")
    _OPTIONAL: ClassVar[tuple[str, ...]] = ("_open",)
    _STATE: ClassVar[tuple[str, ...]] = ("bank", "ledger", "_slopes", "_tie", "_open")

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
        self.start = integer("start", start, least=0, remedy="Count the prompts of the shards before this one.")
        if self.start + len(bank) > horizon.n_prompts:
            condition = f"leave room for {len(bank)} prompts in a pool of {horizon.n_prompts}"
            raise ValueError(error_text("start", condition, self.start, "Shards follow one another from row 0 on."))
        self._step = SlopeStep(bank, horizon, utility, step_sizes(step_size, horizon.n_rounds, batch=False)[0])
        self.bank, self.horizon = bank, horizon
        self.ledger = RolloutLedger(horizon, n_accounts=len(bank))
        self._slopes = np.minimum(1.0, 4.0 * bank._values(None))
        ties = tie_ranks(generator(seed), horizon.n_prompts)
        self._tie = ties[self.start : self.start + len(bank)].copy()  # the rest is let go
        self._open: tuple[IntArray, IntArray] | None = None  # places and virtual proposal of the open round
        self._visits = np.array([float(horizon.n_rounds)])

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
        return self.ledger.rollouts

    def extent(self) -> tuple[int, int, Horizon]:
        """Return the shard's first row, its number of prompts, and the run that it was built for.

        Returns
        -------
        start : int
            Row of its first prompt in the pool.
        size : int
            Prompts of the shard.
        horizon : Horizon
            The constants of the whole run.

        Examples
        --------
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> PoolShard(BetaPosteriorBank(3), horizon, 1).extent()[:2]
        (1, 3)
        """
        return self.start, len(self.bank), self.horizon

    @locked
    def candidates(self, threshold: float, k: int) -> tuple[FloatArray, TieArray, IntArray]:
        """Close the open round, then return those who rank first with a slope above ``threshold``.

        Parameters
        ----------
        threshold : float
            Normalised price; below 0 everybody is in.
        k : int
            Most prompts to return.

        Returns
        -------
        slopes : numpy.ndarray of float64, shape (n_candidates,)
            Normalised, in [0, 1].
        ties : numpy.ndarray of int32, shape (n_candidates,)
            Ranks that break ties, all different over the pool.
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
        if self.bank._retired is not None:
            condition = "have no retired prompts in a shard"
            raise ValueError(error_text("bank", condition, self.bank, "Revive them: a shard deals its whole pool."))
        self.close()
        places = leaders(self._slopes, self._tie, threshold, k)
        return self._slopes[places], self._tie[places], places + self.start

    @locked
    def deal(self, rows: IntArray, proposal: IntArray, units: IntArray) -> None:
        """Open the next round with the pool's decision, and let the evidence age.

        Parameters
        ----------
        rows : numpy.ndarray of int64, shape (n_dealt,)
            Rows in the pool, of this shard.
        proposal, units : numpy.ndarray of int64, shape (n_dealt,)
            Units of ``unit_size`` that were proposed, and that the budget covered.

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
        """Take the dual step of the open round, if there is one, with the posterior as it stands.

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
    def update(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> int:
        """Add checked feedback to the evidence.

        Parameters
        ----------
        rows : numpy.ndarray of int64, shape (n_rows,)
            Rows in the pool, of this shard, each once.
        successes : numpy.ndarray of float64, shape (n_rows,)
            Sum of the rewards of each prompt.
        rollouts : numpy.ndarray of int64, shape (n_rows,)
            Rewarded rollouts of each prompt.

        Returns
        -------
        int
            Outstanding rollouts that it settles.

        Examples
        --------
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shard = PoolShard(BetaPosteriorBank(2), horizon, 2)
        >>> shard.deal(np.array([3]), np.array([2]), np.array([2]))
        >>> shard.update(np.array([3]), np.array([1.0]), np.array([2]))
        2
        """
        places = rows - self.start
        self.bank._add(places, successes, rollouts)
        return self.ledger.settle(places, rollouts)

    @locked
    def outstanding(self, rows: IntArray) -> IntArray:
        """Return the rollouts of some prompts that were dealt and are neither reported nor refunded.

        Parameters
        ----------
        rows : numpy.ndarray of int64, shape (n_rows,)
            Rows in the pool, of this shard.

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
        """Take back rollouts that were dealt but never generated.

        Parameters
        ----------
        rows : numpy.ndarray of int64, shape (n_rows,)
            Rows in the pool, of this shard, each once.
        rollouts : numpy.ndarray of int64, shape (n_rows,)
            Rollouts of each: whole groups, at most what is outstanding.

        Raises
        ------
        ValueError
            For more than is outstanding; nothing changes.

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
            live["bank"] = BetaPosteriorBank._blank(state["bank"], label)
        return super()._from_state(state, label, **live)

    def _when_set(self, name: str) -> Any:
        return ()

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        super()._check_state(state, label, size)
        opened = state["open"]
        if opened is None:
            return
        places, proposal = opened if len(opened) == 2 else (np.empty(0), np.empty(0))
        like = np.empty(np.size(places), dtype=np.int64)
        check_array(f"{label}['open'][0]", like, places)
        check_array(f"{label}['open'][1]", like, proposal)
        if places.size and not 0 <= places.min() <= places.max() < len(self.bank):
            raise ValueError(f"{label}['open'][0] must hold rows of the shard. Pass what state_dict returned.")


class ShardedAllocator(OwnLock, Saved):
    r"""Algorithm 1 with one price over a pool in shards.

    A round asks every shard for its :math:`\lceil C / N_{\max} \rceil` prompts of largest slope, merges them, and deals as
    :class:`~cero_alloc.FenchelDualAllocator` does over the whole pool: those who rank first in the pool rank first in
    their shard, so the counts, slopes and prices are the same to the last bit.

    Parameters
    ----------
    shards : sequence of PoolShard, or of handles to them
        In the order of their rows; together they are the pool.
    horizon : Horizon
        The constants of the run, those of the shards.
    gather : callable
        ``gather(shards, method, arguments)`` calls a method of every shard and returns the results in order;
        :func:`in_process` for shards in this process, ``ray.get`` over actors elsewhere. Calls must arrive in order.
    step_size : float, pair of floats, or None
        Step of the normalised slopes and price, as in :class:`~cero_alloc.FenchelDualAllocator`; that of the slopes is
        the shards' own.
    initial_price : float, in [0, 1]
        First normalised price.
    catch_up : bool
        Never let the budget outgrow what the rounds to come can spend, as in :class:`~cero_alloc.FenchelDualAllocator`.

    Raises
    ------
    ValueError
        For shards that are not the pool, or were built for another run, and numbers out of range.
    TypeError
        For a price that is not a number, or a catch_up that is no bool.

    Notes
    -----
    Prompts are named by their row in the pool, and all of them are on offer in every round. ``state_dict`` holds the price
    and the account; each shard has a state of its own, to be saved in the same moment.

    References
    ----------
    arXiv 2610.09679, Algorithm 1; Claim 17 of the theory page.

    Examples
    --------
    >>> horizon = Horizon(n_prompts=6, n_rounds=4, total_budget=32, unit_size=2, max_rollouts=4, round_capacity=8)
    >>> shards = [PoolShard(BetaPosteriorBank(3), horizon, start) for start in (0, 3)]
    >>> allocator = ShardedAllocator(shards, horizon)
    >>> rows, rollouts = allocator.allocate()
    >>> rows.tolist(), rollouts.tolist()
    ([4, 5], [4, 4])
    >>> allocator.update(rows, successes=[3, 0], rollouts=rollouts)
    >>> allocator.remaining_budget
    24
    """

    _LIVE: ClassVar[tuple[str, ...]] = ("shards", "gather")
    _BUILD: ClassVar[dict[str, Any]] = {"horizon": Horizon}
    _FIXED: ClassVar[tuple[str, ...]] = ("horizon",)
    _OPTIONAL: ClassVar[tuple[str, ...]] = ("_proposed",)
    _STATE: ClassVar[tuple[str, ...]] = ("ledger", "_price", "_batch_price", "_proposed")

    def __init__(
        self,
        shards: Sequence[Any],
        horizon: Horizon,
        *,
        gather: Gather = in_process,
        step_size: float | tuple[float, float] | None = None,
        initial_price: float = 0.5,
        catch_up: bool = False,
    ) -> None:
        self.shards, self._gather = tuple(shards), gather
        if not self.shards:
            raise ValueError(error_text("shards", "be at least one", shards, "Cut the pool into shards first."))
        extents = self._call("extent")
        self._bounds = np.cumsum([0] + [size for _, size, _ in extents])
        for i, (start, _, run) in enumerate(extents):
            if start != self._bounds[i]:
                condition = f"begin at row {self._bounds[i]}, where the one before ends"
                raise ValueError(error_text("shards", condition, start, "Give them in the order of their rows.", i))
            if run != horizon:
                raise ValueError(error_text("shards", f"be of {horizon}", run, "Build all shards for one run.", i))
        if self._bounds[-1] != horizon.n_prompts:
            condition = f"hold the {horizon.n_prompts} prompts of the pool"
            raise ValueError(error_text("shards", condition, int(self._bounds[-1]), "Add the shards that are missing."))
        self._price_step = step_sizes(step_size, horizon.n_rounds, batch=False)[1]
        self._price = real(
            "initial_price", initial_price, low=0.0, high=1.0, remedy="The price is a share of the largest slope."
        )
        self._batch_price, self._catch_up = self._price, flag("catch_up", catch_up)
        self._index = PromptIndex(horizon.n_prompts)
        self.ledger = RolloutLedger(horizon, n_accounts=1)
        self._proposed: int | None = None  # units proposed in the open round

    @property
    def horizon(self) -> Horizon:
        """The constants of the run."""
        return self.ledger.horizon

    @property
    def price(self) -> float:
        """Normalised price, in [0, 1], as of the last closed round."""
        return self._price

    @property
    def remaining_budget(self) -> int:
        """Rollouts not dealt yet."""
        return int(self.ledger.remaining_budget)

    @property
    def round(self) -> int:
        """Rounds opened so far."""
        return self.ledger.round

    @locked
    def allocate(self, budget: SupportsIndex | None = None, *, exact: bool = False) -> tuple[IntArray, IntArray]:
        """Close the previous round, then deal this one over the whole pool.

        Parameters
        ----------
        budget : int or None
            Cap of this round in rollouts, on top of ``round_capacity``; rounded down to whole groups.
        exact : bool
            Spend exactly ``budget``.

        Returns
        -------
        rows : numpy.ndarray of int64, shape (n_dealt,)
            Rows of the prompts that get rollouts, ascending.
        rollouts : numpy.ndarray of int64, shape (n_dealt,)
            Their counts, multiples of ``unit_size`` up to ``max_rollouts``.

        Raises
        ------
        ValueError
            For a negative budget, or an exact total that is not feasible; the message names the feasible range.
        TypeError
            For a budget that is not an integer.

        Examples
        --------
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shards = [PoolShard(BetaPosteriorBank(2), horizon, start) for start in (0, 2)]
        >>> allocator = ShardedAllocator(shards, horizon)
        >>> rows, rollouts = allocator.allocate(budget=2, exact=True)
        >>> rows.size, int(rollouts.sum())
        (1, 2)
        """
        h = self.horizon
        cap = self.ledger.round_units(h.n_prompts, budget, exact)
        if self._proposed is not None:
            self._price = next_price(self._price, self._proposed, self.ledger, self._price_step)
            self._proposed = None
        if self.ledger.finished:
            self._call("close")
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        threshold = -1.0 if exact or self._catch_up else self._price
        found = self._call("candidates", [(threshold, -(-cap // h.max_units))] * len(self.shards))
        slopes, ties, rows = (np.concatenate(part) for part in zip(*found, strict=True))
        due = 0
        if self._catch_up and not exact:
            later = (self.ledger.rounds_left - 1) * self.ledger.reach(h.n_prompts)
            due = min(cap, self.ledger.units_left - later)
        played = deal_round(
            slopes, ties, self._price, max_units=h.max_units, left=self.ledger.units_left, cap=cap,
            most=h.n_prompts * h.max_units, due=due, exact=exact,
        )  # fmt: skip
        self._proposed, self._batch_price = played.proposed, played.cleared
        proposal, units = np.zeros_like(rows), np.zeros_like(rows)
        proposal[played.places] = counts_of(played.places, played.proposed, h.max_units)
        units[played.paid] = counts_of(played.paid, played.dealt, h.max_units)
        dealt = np.flatnonzero((proposal > 0) | (units > 0))
        dealt = dealt[np.argsort(rows[dealt])]
        rows, proposal, units = rows[dealt], proposal[dealt], units[dealt]
        self._call("deal", self._parts(rows, rows, proposal, units))
        self.ledger.debit(None, np.array([played.dealt]))
        paid = units > 0
        return rows[paid], units[paid] * h.unit_size

    @locked
    def update(self, rows: Iterable[Hashable], successes: npt.ArrayLike, rollouts: npt.ArrayLike) -> None:
        """Add observed rewards; order-free, additive, at any time.

        Parameters
        ----------
        rows : array_like of int, shape (n_rows,)
            Rows of the prompts that were observed, each once per call.
        successes : array_like of float, shape (n_rows,)
            Sum of the rewards of each prompt, in [0, rollouts].
        rollouts : array_like of int, shape (n_rows,)
            Rewarded rollouts of each prompt.

        Raises
        ------
        KeyError
            For a row outside the pool.
        ValueError
            As :meth:`~cero_alloc.BetaPosteriorBank.update`; no shard changes after any error.
        TypeError
            For rows that are no collection.

        Examples
        --------
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shards = [PoolShard(BetaPosteriorBank(2), horizon, start) for start in (0, 2)]
        >>> allocator = ShardedAllocator(shards, horizon)
        >>> rows, rollouts = allocator.allocate()
        >>> allocator.update(rows, successes=rollouts / 2, rollouts=rollouts)
        >>> allocator.metrics()["outstanding_rollouts"]
        0.0
        """
        places = self._index.named_rows(rows)
        rewarded, observed = checked_feedback(successes, rollouts, places.size)
        settled = self._call("update", self._parts(places, places, rewarded, observed))
        self.ledger.settle(np.zeros(1, dtype=np.int64), np.array([sum(settled)]))

    @locked
    def refund(self, rows: Iterable[Hashable], rollouts: npt.ArrayLike) -> None:
        """Hand back rollouts that were dealt but never generated.

        Parameters
        ----------
        rows : array_like of int, shape (n_rows,)
            Rows of the prompts, each once.
        rollouts : array_like of int, shape (n_rows,)
            Whole groups, at most what is dealt and neither reported nor refunded.

        Raises
        ------
        KeyError
            For a row outside the pool.
        ValueError
            For a repeated row or more than is outstanding; no shard changes after any error.
        TypeError
            For rows that are no collection.

        Examples
        --------
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shards = [PoolShard(BetaPosteriorBank(2), horizon, start) for start in (0, 2)]
        >>> allocator = ShardedAllocator(shards, horizon)
        >>> allocator.refund(*allocator.allocate())
        >>> allocator.remaining_budget
        8
        """
        places = self._index.named_rows(rows)
        returned = counts("rollouts", rollouts, places.size)
        parts = self._call("outstanding", self._parts(places, places))
        outstanding = np.empty(places.size, dtype=np.int64)
        for members, part in zip(self._members(places), parts, strict=True):
            outstanding[members] = part
        require_refundable(returned, outstanding, self.horizon.unit_size, lambda i: int(places[i]))
        self._call("refund", self._parts(places, places, returned))
        self.ledger.refund(np.zeros(1, dtype=np.int64), returned.sum(keepdims=True), lambda _: "pool")

    @locked
    def metrics(self) -> dict[str, float]:
        """Return the run's state as a flat dict of floats; keys of :meth:`~cero_alloc.FenchelDualAllocator.metrics`.

        Without the mixed groups, the calibration and the certificate, which take a pass over every shard.

        Returns
        -------
        dict of str to float
            In the units that :meth:`~cero_alloc.FenchelDualAllocator.metrics` names.

        Examples
        --------
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shards = [PoolShard(BetaPosteriorBank(2), horizon, start) for start in (0, 2)]
        >>> allocator = ShardedAllocator(shards, horizon)
        >>> allocator.metrics()["remaining_budget"]
        8.0
        """
        return ledger_metrics(self.ledger, price=self._price, batch_price=self._batch_price)

    @classmethod
    def load(  # type: ignore[override]
        cls, path: str | os.PathLike[str], shards: Sequence[Any], *, gather: Gather = in_process
    ) -> Self:
        """Build the allocator that ``save`` wrote to a file, over shards that were saved in the same moment.

        Parameters
        ----------
        path : path
            The file.
        shards : sequence of PoolShard, or of handles to them
            In the order of their rows; :meth:`PoolShard.load` reads a shard.
        gather : callable
            Calls a method of every shard, as the constructor takes it.

        Returns
        -------
        ShardedAllocator
            In the state that it was in.

        Raises
        ------
        OSError, ValueError, TypeError
            As :meth:`~cero_alloc.FenchelDualAllocator.load`, and for shards that are not the pool.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shards = [PoolShard(BetaPosteriorBank(2), horizon, start) for start in (0, 2)]
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "allocator.npz"
        >>> ShardedAllocator(shards, horizon).save(file)
        >>> ShardedAllocator.load(file, shards).remaining_budget
        8
        """
        state = checkpoint.read(path)
        return cls._from_state(state, f"the state in {os.fspath(path)!r}", shards=shards, gather=gather)

    def _when_set(self, name: str) -> Any:
        return 0

    def _call(self, method: str, arguments: Sequence[tuple[Any, ...]] | None = None) -> list[Any]:
        return self._gather(self.shards, method, [()] * len(self.shards) if arguments is None else arguments)

    def _members(self, rows: IntArray) -> list[npt.NDArray[np.bool_]]:
        """Tell for each shard which rows are its own."""
        owner = np.searchsorted(self._bounds, rows, side="right") - 1
        return [owner == i for i in range(len(self.shards))]

    def _parts(self, rows: IntArray, *columns: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], ...]]:
        """Return each shard's part of these columns."""
        return [tuple(column[members] for column in columns) for members in self._members(rows)]
