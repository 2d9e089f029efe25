"""ShardedAllocator: Algorithm 1 with one price over a pool in shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from threading import RLock
from typing import Any, ClassVar, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc import checkpoint
from cero_alloc._allocators.fenchel_dual import next_price, step_sizes
from cero_alloc._allocators.metrics import ledger_metrics
from cero_alloc._budget.horizon import Horizon
from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._budget.reservations import require_refundable
from cero_alloc._checks import IntArray, counts, error_text, flag, real
from cero_alloc._evidence.ids import PromptIndex
from cero_alloc._evidence.rewards import Rewards
from cero_alloc._saving.saved import OwnLock, Saved, locked
from cero_alloc._saving.shown import short
from cero_alloc._saving.state import Field
from cero_alloc._solvers.ranking import counts_of, deal_round

Gather = Callable[[Sequence[Any], str, Sequence[tuple[Any, ...]]], list[Any]]


def in_process(shards: Sequence[Any], method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call a method of every shard with its own arguments and return the results in the order of the shards.

    Parameters
    ----------
    shards : sequence
        Shards, or other objects with the method.
    method : str
        Name of a method of :class:`PoolShard`.
    arguments : sequence of tuple, one per shard
        Positional arguments.

    Returns
    -------
    list
        Return value of each shard.

    Raises
    ------
    ValueError
        If the numbers of tuples and shards differ.

    Examples
    --------
    >>> in_process(["ab", "cb"], "count", [("a",), ("b",)])
    [1, 1]
    """
    return [getattr(shard, method)(*words) for shard, words in zip(shards, arguments, strict=True)]


class ShardedAllocator(OwnLock, Saved):
    r"""Algorithm 1 with one price over a pool in shards.

    Each round asks every shard for its :math:`\lceil C / N_{\max} \rceil` prompts with the largest slopes, merges them, and
    deals like :class:`~cero_alloc.FenchelDualAllocator`. The prompts that rank first in the pool also rank first in their
    shards, so counts, slopes and prices are bitwise equal to those of an undivided pool.

    Parameters
    ----------
    shards : sequence of PoolShard, or of handles to them
        The shards of the pool, in the order of their rows.
    horizon : Horizon
        Constants of the run, equal to those of the shards.
    gather : callable
        ``gather(shards, method, arguments)`` calls a method of every shard and returns the results in order. Use
        :func:`in_process` for shards in this process, and a remote call such as ``ray.get`` otherwise. Calls to a shard
        must arrive in order.
    step_size : float, pair of floats, or None
        Step sizes of the normalised slopes and price, as in :class:`~cero_alloc.FenchelDualAllocator`. Only the step of the
        price is used here; the shards use that of the slopes.
    initial_price : float, in [0, 1]
        First normalised price.
    catch_up : bool
        Whether to spend more in a round if the remaining rounds could not spend the remaining budget, as in
        :class:`~cero_alloc.FenchelDualAllocator`.

    Raises
    ------
    ValueError
        For shards that do not cover the pool or were built for another run, and for numbers out of range.
    TypeError
        For a price that is not a number, or a catch_up that is not a bool.

    Notes
    -----
    Prompts are identified by their row in the pool, and every prompt is on offer in every round. ``state_dict`` holds the
    price and the ledger. Each shard has a state of its own, which must be saved at the same time.

    References
    ----------
    arXiv 2610.09679, Algorithm 1; Claim 17 of the theory page.

    Examples
    --------
    >>> from cero_alloc import BetaPosteriorBank, Horizon
    >>> from cero_alloc.sharding import PoolShard
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

    _BUILD: ClassVar[dict[str, Any]] = {"horizon": Horizon}
    FIELDS: ClassVar[dict[str, Field]] = {
        "horizon": Field(fixed=True),
        "ledger": Field(),
        "_price": Field(),
        "_batch_price": Field(),
        "_proposed": Field(when_set=0),
    }

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
        self.lock = RLock()
        self.shards, self._gather = tuple(shards), gather
        if not self.shards:
            raise ValueError(error_text("shards", "be at least one", shards, "Cut the pool into shards first."))
        extents = self._call("extent")
        self._bounds = np.cumsum([0] + [size for _, size, _ in extents])
        for i, (start, _, run) in enumerate(extents):
            if start != self._bounds[i]:
                condition = f"begin at row {self._bounds[i]}, where the shard before ends"
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
        self._index, self._rewards = PromptIndex(horizon.n_prompts), Rewards((0.0, 1.0))
        self.ledger = RolloutLedger(horizon, n_accounts=1)
        self._proposed: int | None = None  # units proposed in the open round
        self._remember(horizon=horizon, step_size=step_size, initial_price=initial_price, catch_up=catch_up)

    def _facts(self) -> Iterator[tuple[str, str]]:
        ledger = self.ledger
        yield "prompts", str(self.horizon.n_prompts)
        yield "shards", str(len(self.shards))
        yield "round", f"{ledger.round} of {ledger.n_rounds}"
        yield "dealt", f"{short(ledger.dealt)} of {short(ledger.total)} rollouts"

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
        """Close the previous round and deal the next one over the whole pool.

        Parameters
        ----------
        budget : int or None
            Cap of this round in rollouts, in addition to ``round_capacity``; rounded down to whole units.
        exact : bool
            Whether to spend exactly ``budget``.

        Returns
        -------
        rows : numpy.ndarray of int64, shape (n_dealt,)
            Rows of the prompts that get rollouts, ascending.
        rollouts : numpy.ndarray of int64, shape (n_dealt,)
            Rollouts of each, multiples of ``unit_size`` up to ``max_rollouts``.

        Raises
        ------
        ValueError
            For a negative budget, or an infeasible exact total; the message gives the feasible range.
        TypeError
            For a budget that is not an integer.

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank, Horizon
        >>> from cero_alloc.sharding import PoolShard
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
            self._price = next_price(
                self._price, self._proposed, self.ledger.even_pace, h.capacity_units, self._price_step
            )
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
        deal = deal_round(
            slopes,
            ties,
            self._price,
            max_units=h.max_units,
            left=self.ledger.units_left,
            cap=cap,
            most=h.n_prompts * h.max_units,
            due=due,
            exact=exact,
        )
        self._proposed, self._batch_price = deal.proposed, deal.cleared
        proposal, units = np.zeros_like(rows), np.zeros_like(rows)
        proposal[deal.places] = counts_of(deal.places, deal.proposed, h.max_units)
        units[deal.paid] = counts_of(deal.paid, deal.dealt, h.max_units)
        dealt = np.flatnonzero((proposal > 0) | (units > 0))
        dealt = dealt[np.argsort(rows[dealt])]
        rows, proposal, units = rows[dealt], proposal[dealt], units[dealt]
        self._call("deal", self._parts(rows, rows, proposal, units))
        self.ledger.debit(None, np.array([deal.dealt]))
        paid = units > 0
        return rows[paid], units[paid] * h.unit_size

    @locked
    def update(
        self,
        rows: Iterable[Hashable],
        successes: npt.ArrayLike,
        rollouts: npt.ArrayLike,
        *,
        squares: npt.ArrayLike | None = None,
    ) -> None:
        """Add observed rewards. Calls are additive, in any order and at any time.

        Parameters
        ----------
        rows : array_like of int, shape (n_rows,)
            Rows of the observed prompts, each once per call.
        successes : array_like of float, shape (n_rows,)
            Sum of the rewards of each prompt, in [0, rollouts].
        rollouts : array_like of int, shape (n_rows,)
            Rewarded rollouts of each prompt.
        squares : array_like of float, shape (n_rows,), or None
            Sum of the squared rewards of each prompt, where they are not all 0 or 1.

        Raises
        ------
        KeyError
            For a row outside the pool.
        ValueError
            As :meth:`~cero_alloc.BetaPosteriorBank.update`; no shard has changed.
        TypeError
            For rows that are not a collection.

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank, Horizon
        >>> from cero_alloc.sharding import PoolShard
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shards = [PoolShard(BetaPosteriorBank(2), horizon, start) for start in (0, 2)]
        >>> allocator = ShardedAllocator(shards, horizon)
        >>> rows, rollouts = allocator.allocate()
        >>> allocator.update(rows, successes=rollouts / 2, rollouts=rollouts)
        >>> allocator.metrics()["outstanding_rollouts"]
        0.0
        """
        feedback = self._rewards.feedback(self._index, rows, successes, rollouts, squares)
        self._rewards.notice_signs(feedback)
        places, rewarded, observed, lacks = feedback
        columns = (rewarded, observed, lacks) if lacks.size else (rewarded, observed)
        settled = self._call("update", self._parts(places, places, *columns))
        self.ledger.settle(np.zeros(1, dtype=np.int64), np.array([sum(settled)]))

    @locked
    def refund(self, rows: Iterable[Hashable], rollouts: npt.ArrayLike) -> None:
        """Return rollouts to the budget that were dealt but never generated.

        Parameters
        ----------
        rows : array_like of int, shape (n_rows,)
            Rows of the prompts, each once.
        rollouts : array_like of int, shape (n_rows,)
            Multiples of ``unit_size``, at most the prompt's outstanding rollouts.

        Raises
        ------
        KeyError
            For a row outside the pool.
        ValueError
            For a repeated row, or more rollouts than are outstanding; no shard has changed.
        TypeError
            For rows that are not a collection.

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank, Horizon
        >>> from cero_alloc.sharding import PoolShard
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
        """Return the metrics of the ledger and the price as a flat dict of floats.

        Mixed groups, calibration and certificate are left out, because they need a pass over every shard.

        Returns
        -------
        dict of str to float
            Keys and units of :meth:`~cero_alloc.FenchelDualAllocator.metrics`: rollouts, rounds and normalised prices.

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank, Horizon
        >>> from cero_alloc.sharding import PoolShard
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shards = [PoolShard(BetaPosteriorBank(2), horizon, start) for start in (0, 2)]
        >>> allocator = ShardedAllocator(shards, horizon)
        >>> allocator.metrics()["remaining_budget"]
        8.0
        """
        return ledger_metrics(self.ledger, (self._price, self._batch_price))

    def report(self, path: object, *, every: object = None) -> None:
        """Refuse to write the page of a run, because no process holds the beliefs of all shards.

        Parameters
        ----------
        path : path
            As in :meth:`FenchelDualAllocator.report <cero_alloc.FenchelDualAllocator.report>`.
        every : int or None
            Likewise.

        Raises
        ------
        NotImplementedError
            Always.

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank, Horizon
        >>> from cero_alloc.sharding import PoolShard
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shards = [PoolShard(BetaPosteriorBank(2), horizon, start) for start in (0, 2)]
        >>> ShardedAllocator(shards, horizon).report("run.html")
        Traceback (most recent call last):
        NotImplementedError: a sharded run has no report, because no process holds the beliefs of all shards. Log metrics().
        """
        why = "because no process holds the beliefs of all shards"
        raise NotImplementedError(f"a sharded run has no report, {why}. Log metrics().")

    @classmethod
    def load(  # type: ignore[override]
        cls, path: str | os.PathLike[str], shards: Sequence[Any], *, gather: Gather = in_process
    ) -> Self:
        """Load an allocator written by ``save``, over shards that were saved at the same time.

        Parameters
        ----------
        path : path
            The file.
        shards : sequence of PoolShard, or of handles to them
            In the order of their rows; :meth:`PoolShard.load` loads a shard.
        gather : callable
            As in the constructor.

        Returns
        -------
        ShardedAllocator
            The allocator in its saved state.

        Raises
        ------
        OSError, ValueError, TypeError
            As :meth:`~cero_alloc.FenchelDualAllocator.load`, and for shards that do not cover the pool.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from cero_alloc import BetaPosteriorBank, Horizon
        >>> from cero_alloc.sharding import PoolShard
        >>> horizon = Horizon(n_prompts=4, n_rounds=2, total_budget=8, max_rollouts=2, round_capacity=4)
        >>> shards = [PoolShard(BetaPosteriorBank(2), horizon, start) for start in (0, 2)]
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "allocator.npz"
        >>> ShardedAllocator(shards, horizon).save(file)
        >>> ShardedAllocator.load(file, shards).remaining_budget
        8
        """
        state = checkpoint.read(path)
        return cls._from_state(state, f"the state in {os.fspath(path)!r}", shards=shards, gather=gather)

    def _call(self, method: str, arguments: Sequence[tuple[Any, ...]] | None = None) -> list[Any]:
        return self._gather(self.shards, method, [()] * len(self.shards) if arguments is None else arguments)

    def _members(self, rows: IntArray) -> list[npt.NDArray[np.bool_]]:
        """Return for each shard which of the rows belong to it."""
        owner = np.searchsorted(self._bounds, rows, side="right") - 1
        return [owner == i for i in range(len(self.shards))]

    def _parts(self, rows: IntArray, *columns: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], ...]]:
        """Return each shard's part of the columns."""
        return [tuple(column[members] for column in columns) for members in self._members(rows)]
