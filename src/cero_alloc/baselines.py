"""The controls that the paper compares with, behind the same two methods as the allocators.

Each class has ``allocate(prompt_ids=None, budget=None, *, exact=False)`` and ``update(prompt_ids, successes,
rollouts)`` with the meaning they have in :class:`~cero_alloc.FenchelDualAllocator`; counts are rollouts. Unless told
otherwise a control keeps to the uniform schedule: after k of K rounds it has dealt floor(B k / K) units, as far as the
caps allow.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _kernels
from ._allocator import FenchelDualAllocator
from ._checks import FloatArray, IntArray, error_text, multiple
from ._ledger import Horizon, RolloutLedger
from ._posterior import BetaPosteriorBank
from ._utility import SaturatingUtility

__all__ = ["FixedPacing", "Greedy", "Preset", "RandomMatched", "Uniform"]


class Uniform:
    """Deal evenly, whatever the rewards say: the least exposed prompts first, as epochs over shuffled data do.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the evidence is kept but not used.
    total_budget, n_rounds, group_size, max_rollouts, round_capacity
        As in :class:`~cero_alloc.FenchelDualAllocator`.
    rollouts_per_visit : int or None
        Rollouts that a visited prompt gets, GRPO's group size: a round then visits as few prompts as its total allows.
        None spreads a round over as many prompts as possible.
    seed : int
        Draws the permutation that breaks ties.

    Raises
    ------
    ValueError, TypeError
        As in :class:`~cero_alloc.FenchelDualAllocator`, also for ``rollouts_per_visit`` above ``max_rollouts``.

    References
    ----------
    arXiv 2402.03300 (GRPO): a fixed group per prompt.

    Examples
    --------
    >>> policy = Uniform(BetaPosteriorBank(4), total_budget=16, n_rounds=2, max_rollouts=8, rollouts_per_visit=4)
    >>> first, second = policy.allocate(), policy.allocate()
    >>> sorted(first.tolist()), (first + second).tolist()
    ([0, 0, 4, 4], [4, 4, 4, 4])
    """

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        total_budget: SupportsIndex,
        n_rounds: SupportsIndex,
        group_size: SupportsIndex = 1,
        max_rollouts: SupportsIndex,
        round_capacity: SupportsIndex | None = None,
        rollouts_per_visit: SupportsIndex | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        self.bank = bank
        self.ledger = RolloutLedger.plan(
            len(bank),
            total_budget=total_budget,
            n_rounds=n_rounds,
            group_size=group_size,
            max_rollouts=max_rollouts,
            round_capacity=round_capacity,
        )
        h = self.ledger.horizon
        block = (
            h.group_size
            if rollouts_per_visit is None
            else multiple("rollouts_per_visit", rollouts_per_visit, h.group_size, least=h.group_size)
        )
        if block > h.max_rollouts:
            raise ValueError(
                error_text("rollouts_per_visit", f"be at most max_rollouts = {h.max_rollouts}", block, "Lower it.")
            )
        self._block = block // h.group_size
        self._tie = np.random.default_rng(seed).permutation(len(bank))

    @property
    def horizon(self) -> Horizon:
        """The constants of the run."""
        return self.ledger.horizon

    def allocate(
        self, prompt_ids: Iterable[Hashable] | None = None, budget: SupportsIndex | None = None, *, exact: bool = False
    ) -> IntArray:
        """Deal this round; see the module's docstring."""
        rows, size = _offer(self.bank, self.ledger, prompt_ids)
        total = self.ledger.paced_units(size, budget, exact)
        if self.ledger.finished:
            return np.zeros(size, dtype=np.int64)
        units = np.zeros(size, dtype=np.int64)
        visited = min(size, -(-total // self._block))
        if visited:
            exposure = self.ledger.exposure if rows is None else self.ledger.exposure[rows]
            tie = self._tie if rows is None else self._tie[rows]
            order = np.empty_like(units)
            _kernels.rank(-exposure.astype(np.float64), tie, -np.inf, visited, order)
            units[order[:visited]] = total // visited
            units[order[: total % visited]] += 1
        self.bank.tick()
        return self.ledger.debit(rows, units)

    def update(self, prompt_ids: Iterable[Hashable] | None, successes: npt.ArrayLike, rollouts: npt.ArrayLike) -> None:
        """Add observed rewards; see the module's docstring."""
        self.ledger.settle(*self.bank._observe(prompt_ids, successes, rollouts))


class FixedPacing:
    """Algorithm 1 with its price switched off: the same slopes, exactly the uniform schedule's total in every round.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt.
    total_budget, n_rounds, group_size, max_rollouts, round_capacity, visits, utility, seed
        As in :class:`~cero_alloc.FenchelDualAllocator`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`~cero_alloc.FenchelDualAllocator`.

    References
    ----------
    arXiv 2610.09679, ablation "fixed pacing": the price held at 0, B / K units each round.

    Examples
    --------
    >>> policy = FixedPacing(BetaPosteriorBank(4), total_budget=16, n_rounds=4, max_rollouts=2)
    >>> [int(policy.allocate().sum()) for _ in range(4)]
    [4, 4, 4, 4]
    """

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        total_budget: SupportsIndex,
        n_rounds: SupportsIndex,
        group_size: SupportsIndex = 1,
        max_rollouts: SupportsIndex,
        round_capacity: SupportsIndex | None = None,
        visits: npt.ArrayLike | None = None,
        utility: SaturatingUtility = SaturatingUtility(),  # noqa: B008 (immutable)
        seed: int | np.random.Generator = 0,
    ) -> None:
        self._inner = FenchelDualAllocator(
            bank,
            total_budget=total_budget,
            n_rounds=n_rounds,
            group_size=group_size,
            max_rollouts=max_rollouts,
            round_capacity=round_capacity,
            visits=visits,
            utility=utility,
            initial_price=0.0,
            seed=seed,
        )
        self.bank, self.ledger, self.utility = bank, self._inner.ledger, utility

    @property
    def horizon(self) -> Horizon:
        """The constants of the run."""
        return self.ledger.horizon

    def allocate(
        self, prompt_ids: Iterable[Hashable] | None = None, budget: SupportsIndex | None = None, *, exact: bool = False
    ) -> IntArray:
        """Deal this round; see the module's docstring."""
        rows, size = _offer(self.bank, self.ledger, prompt_ids)
        return self._inner._deal(rows, size, self.ledger.paced_units(size, budget, exact), True)

    def update(self, prompt_ids: Iterable[Hashable] | None, successes: npt.ArrayLike, rollouts: npt.ArrayLike) -> None:
        """Add observed rewards; see the module's docstring."""
        self._inner.update(prompt_ids, successes, rollouts)


class Greedy:
    r"""Deal ``max_rollouts`` to the prompts with the largest next gain, at the uniform schedule's pace.

    .. math:: \text{rank by } U(\hat q_i, z_i + N_{\max}) - U(\hat q_i, z_i)

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt.
    total_budget, n_rounds, group_size, max_rollouts, round_capacity, utility
        As in :class:`~cero_alloc.FenchelDualAllocator`.
    seed : int
        Draws the permutation that breaks ties.

    Raises
    ------
    ValueError, TypeError
        As in :class:`~cero_alloc.FenchelDualAllocator`.

    References
    ----------
    arXiv 2610.09679, ablation "greedy".

    Examples
    --------
    >>> policy = Greedy(BetaPosteriorBank(2, prior=([1.0, 9.0], [1.0, 1.0])), total_budget=8, n_rounds=4, max_rollouts=2)
    >>> policy.allocate().tolist()
    [2, 0]
    """

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        total_budget: SupportsIndex,
        n_rounds: SupportsIndex,
        group_size: SupportsIndex = 1,
        max_rollouts: SupportsIndex,
        round_capacity: SupportsIndex | None = None,
        utility: SaturatingUtility = SaturatingUtility(),  # noqa: B008 (immutable)
        seed: int | np.random.Generator = 0,
    ) -> None:
        self.bank, self.utility = bank, utility
        self.ledger = RolloutLedger.plan(
            len(bank),
            total_budget=total_budget,
            n_rounds=n_rounds,
            group_size=group_size,
            max_rollouts=max_rollouts,
            round_capacity=round_capacity,
        )
        self._tie = np.random.default_rng(seed).permutation(len(bank))

    @property
    def horizon(self) -> Horizon:
        """The constants of the run."""
        return self.ledger.horizon

    def allocate(
        self, prompt_ids: Iterable[Hashable] | None = None, budget: SupportsIndex | None = None, *, exact: bool = False
    ) -> IntArray:
        """Deal this round; see the module's docstring."""
        rows, size = _offer(self.bank, self.ledger, prompt_ids)
        total = self.ledger.paced_units(size, budget, exact)
        units = np.zeros(size, dtype=np.int64)
        if self.ledger.finished:
            return units
        h = self.horizon
        x = (self.ledger.exposure if rows is None else self.ledger.exposure[rows]) / h.equal_share
        q = self.bank._values(rows)
        gain: FloatArray = self.utility.value(q, x + h.n_max / h.equal_share) - self.utility.value(q, x)
        tie = self._tie if rows is None else self._tie[rows]
        _kernels.propose(gain, tie, -np.inf, h.n_max, total, total, np.empty_like(units), np.empty_like(units), units)
        self.bank.tick()
        return self.ledger.debit(rows, units)

    def update(self, prompt_ids: Iterable[Hashable] | None, successes: npt.ArrayLike, rollouts: npt.ArrayLike) -> None:
        """Add observed rewards; see the module's docstring."""
        self.ledger.settle(*self.bank._observe(prompt_ids, successes, rollouts))


class Preset:
    """Play a schedule that was fixed before the run.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the evidence is kept but not used.
    schedule : array_like of int, shape (n_rounds, n_prompts)
        Rollouts per round and prompt.
    group_size : int
        Rollouts per unit.

    Raises
    ------
    ValueError
        For a schedule of the wrong shape, with negative entries, entries that are not whole groups, or nothing in it.
    TypeError
        For a schedule that is not of integers.

    References
    ----------
    arXiv 2610.09679, ablation "preset".

    Examples
    --------
    >>> policy = Preset(BetaPosteriorBank(2), [[2, 0], [1, 1]])
    >>> policy.allocate().tolist(), policy.allocate().tolist(), policy.allocate().tolist()
    ([2, 0], [1, 1], [0, 0])
    """

    def __init__(self, bank: BetaPosteriorBank, schedule: npt.ArrayLike, *, group_size: SupportsIndex = 1) -> None:
        self.bank = bank
        plan = np.asarray(schedule)
        remedy = "Give the rollouts of every round and prompt."
        if plan.ndim != 2 or plan.shape[1] != len(bank) or plan.shape[0] < 1:
            raise ValueError(error_text("schedule", f"have shape (n_rounds, {len(bank)})", plan.shape, remedy))
        if plan.dtype.kind not in "iu":
            raise TypeError(error_text("schedule", "be integers", plan.dtype, remedy))
        g = multiple("group_size", group_size, 1, least=1)
        bad = np.flatnonzero((plan < 0).ravel() | (plan % g != 0).ravel())
        if bad.size:
            first = int(bad[0])
            raise ValueError(
                error_text("schedule", f"be non-negative multiples of {g}", int(plan.ravel()[first]), remedy, first)
            )
        if not plan.any():
            raise ValueError(error_text("schedule", "deal something", 0, remedy))
        self._units = plan.astype(np.int64) // g
        self.ledger = RolloutLedger(
            Horizon(
                n_prompts=len(bank),
                n_rounds=plan.shape[0],
                total_budget=int(plan.sum()),
                group_size=g,
                max_rollouts=int(plan.max()),
                round_capacity=int(plan.sum(axis=1).max()),
            )
        )

    @property
    def horizon(self) -> Horizon:
        """The constants of the run."""
        return self.ledger.horizon

    def allocate(
        self, prompt_ids: Iterable[Hashable] | None = None, budget: SupportsIndex | None = None, *, exact: bool = False
    ) -> IntArray:
        """Deal the schedule's next round to the offered prompts; a cap trims the last ones.

        Raises
        ------
        ValueError
            For an exact total other than the scheduled one.
        """
        rows, size = _offer(self.bank, self.ledger, prompt_ids)
        cap = self.ledger.round_units(size, budget, exact)
        if self.ledger.finished:
            return np.zeros(size, dtype=np.int64)
        planned = self._units[self.ledger.round] if rows is None else self._units[self.ledger.round][rows]
        if exact and cap != planned.sum():
            scheduled = int(planned.sum()) * self.horizon.group_size
            raise ValueError(
                error_text(
                    "budget", f"equal the scheduled {scheduled}", cap * self.horizon.group_size, "Drop exact=True."
                )
            )
        before = np.cumsum(planned) - planned
        units = np.clip(min(cap, self.ledger.units_left) - before, 0, planned)
        self.bank.tick()
        return self.ledger.debit(rows, units)

    def update(self, prompt_ids: Iterable[Hashable] | None, successes: npt.ArrayLike, rollouts: npt.ArrayLike) -> None:
        """Add observed rewards; see the module's docstring."""
        self.ledger.settle(*self.bank._observe(prompt_ids, successes, rollouts))


class RandomMatched(Preset):
    """Another run's counts on randomly permuted prompts: its pacing and concentration without its choice of prompts.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the evidence is kept but not used.
    schedule : array_like of int, shape (n_rounds, n_prompts)
        Rollouts per round and prompt of the run to match.
    group_size : int
        Rollouts per unit.
    seed : int
        Draws the permutation of the prompts, one for the whole run.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Preset`.

    References
    ----------
    arXiv 2610.09679, control "random-matched".

    Examples
    --------
    >>> policy = RandomMatched(BetaPosteriorBank(3), [[2, 0, 0], [0, 2, 0]], seed=0)
    >>> policy.allocate().tolist(), policy.allocate().tolist()
    ([0, 2, 0], [0, 0, 2])
    """

    def __init__(
        self,
        bank: BetaPosteriorBank,
        schedule: npt.ArrayLike,
        *,
        group_size: SupportsIndex = 1,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__(bank, schedule, group_size=group_size)
        self._units = np.ascontiguousarray(self._units[:, np.random.default_rng(seed).permutation(len(bank))])


def _offer(
    bank: BetaPosteriorBank, ledger: RolloutLedger, prompt_ids: Iterable[Hashable] | None
) -> tuple[IntArray | None, int]:
    """Return the rows on offer (None: the whole pool) and their number."""
    if len(bank) != ledger.horizon.n_prompts:
        raise ValueError(
            error_text(
                "bank",
                f"keep its {ledger.horizon.n_prompts} prompts under a control",
                len(bank),
                "Build a new control for the larger pool.",
            )
        )
    rows = bank._index.unique_rows(prompt_ids)
    return rows, len(bank) if rows is None else rows.size
