"""The paper's controls: uniform, fixed pacing, greedy ranking, preset schedules and random prompts."""

from __future__ import annotations

from typing import Any, ClassVar, SupportsIndex, Unpack

import numpy as np
import numpy.typing as npt

from cero_alloc._allocators.base import Allocator, Offer
from cero_alloc._allocators.fenchel_dual import FenchelDualAllocator
from cero_alloc._budget import kernels
from cero_alloc._checks import FloatArray, IntArray, error_text, generator, instance, integers, multiple, plain_array
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._saving.state import Field
from cero_alloc._solvers.ranking import counts_of

from . import _kernels
from ._base import COUNTS, Baseline, Run, refuse_growth


class Uniform(Baseline):
    """Deal evenly regardless of the rewards: the least exposed prompts first, as in epochs over shuffled data.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the evidence is updated but not used.
    rollouts_per_visit : int or None
        Rollouts of a visited prompt, GRPO's group size; a round visits total / ``rollouts_per_visit`` prompts.
        None spreads a round over as many prompts as possible.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, seed as in :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`.

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

    def _visit_units(self, rollouts_per_visit: SupportsIndex | None) -> int:
        return 1 if rollouts_per_visit is None else super()._visit_units(rollouts_per_visit)

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        return self._to_first(-self.ledger.exposure_units[rows].astype(np.float64), rows, total)


class FixedPacing(FenchelDualAllocator):
    """Algorithm 1 without its price: the same slopes, but every round spends the total of the uniform schedule.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt.
    visits : int, array_like of int with shape (n_prompts,), or None
        Number of rounds in which each prompt is offered; None means every round.
    utility : SaturatingUtility
        Value of exposure.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, seed as in :class:`Baseline`.

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

    title = ""
    kind = "paces"
    least_rollouts = 1
    takes_visits = False

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        visits: npt.ArrayLike | None = None,
        utility: SaturatingUtility = SaturatingUtility(),  # noqa: B008 (immutable)
        **run: Unpack[Run],
    ) -> None:
        super().__init__(bank, visits=visits, utility=utility, initial_price=0.0, **run)
        fixed = ("step_size", "initial_price", "catch_up", "fit_every")
        self._given = {name: given for name, given in self._given.items() if name not in fixed}

    def _request(self, offer: Offer, budget: Any, exact: bool) -> tuple[int, bool]:
        """Return the uniform schedule's total, to be dealt exactly."""
        return self.ledger.paced_units(offer.size, budget, exact), True

    def _join(self, old: int, new: int) -> None:
        refuse_growth(old, new)

    def _step_price(self, proposed: int) -> None:
        """Hold the price at 0."""

    def _prices(self) -> None:  # type: ignore[override]
        return None


class Greedy(Baseline):
    r"""Deal ``max_rollouts`` to the prompts with the largest next gains, on the uniform schedule.

    .. math:: \text{rank by } U(\hat q_i, z_i + N_{\max}) - U(\hat q_i, z_i)

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt.
    utility : SaturatingUtility
        Value of exposure.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, seed as in :class:`Baseline`.

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

    kind = "paces"
    takes_visits = False

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        utility: SaturatingUtility = SaturatingUtility(),  # noqa: B008 (immutable)
        **run: Unpack[Run],
    ) -> None:
        super().__init__(bank, **run)
        self.utility = instance("utility", utility, SaturatingUtility, "Pass SaturatingUtility(...).")
        self._remember(utility=utility)
        self._known: tuple[SaturatingUtility | None, FloatArray] = (None, np.empty(0))

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        h, worth = self.horizon, self.utility
        if self._known[0] is not worth:
            self._known = (worth, np.full((3, len(self.bank)), np.nan))  # values, exposures, and the gains there
        q, gain = self.bank.evidence.values(rows), np.empty(rows.size)
        z = self.ledger.exposure_units[rows].astype(np.int64)
        block = h.max_units / h.equal_share_units
        _kernels.block_gains(rows, q, z, h.equal_share_units, block, worth.codes, self._known[1], gain)
        first = self._first(gain, rows, -(-total // h.max_units))
        units = np.zeros_like(rows)
        units[first] = counts_of(first, min(total, first.size * h.max_units), h.max_units)
        return units


class Preset(Baseline):
    """Play a schedule that was fixed before the run.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the evidence is updated but not used.
    schedule : array_like of int, shape (n_rounds, n_prompts)
        Rollouts per round and prompt.
    unit_size : int
        Rollouts per unit.

    Raises
    ------
    ValueError
        For a schedule of the wrong shape, without rollouts, or with entries that are not multiples of ``unit_size``.
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

    kind = "paces"
    takes_visits = False
    FIELDS: ClassVar[dict[str, Field]] = {**Allocator.FIELDS, "_units": COUNTS}

    def __init__(self, bank: BetaPosteriorBank, schedule: npt.ArrayLike, *, unit_size: SupportsIndex = 1) -> None:
        self.bank = instance("bank", bank, BetaPosteriorBank, "Build one over the prompts.")
        remedy = "Give the rollouts of every round and prompt."
        plan = plain_array("schedule", schedule, remedy)
        if plan.ndim != 2 or plan.shape[1] != len(bank) or plan.shape[0] < 1:
            raise ValueError(error_text("schedule", f"have shape (n_rounds, {len(bank)})", plan.shape, remedy))
        if plan.dtype.kind not in "iu":
            raise TypeError(error_text("schedule", "be integers", plan.dtype, remedy))
        g = multiple("unit_size", unit_size, 1, least=1)
        self._units = np.ascontiguousarray(integers("schedule", plan, remedy))
        first, total = kernels.first_bad_count(self._units.ravel(), g, np.iinfo(np.int64).max)
        if first >= 0:
            raise ValueError(
                error_text("schedule", f"be non-negative multiples of {g}", int(plan.ravel()[first]), remedy, first)
            )
        if total == 0:
            raise ValueError(error_text("schedule", "deal something", 0, remedy))
        self._units //= g
        super().__init__(
            bank,
            total_budget=total,
            n_rounds=plan.shape[0],
            unit_size=g,
            max_rollouts=int(plan.max()),
            round_capacity=int(plan.sum(axis=1).max()),
        )
        self._given = {}  # the schedule determines what Baseline has recorded
        self._remember(schedule=schedule, unit_size=unit_size)

    def extend_budget(self, rollouts: SupportsIndex = 0, *, rounds: SupportsIndex = 0) -> None:
        """Raise, because the schedule is fixed.

        Parameters
        ----------
        rollouts : int
            Rollouts to add.
        rounds : int
            Rounds to add.

        Raises
        ------
        ValueError
            Always.

        Examples
        --------
        >>> Preset(BetaPosteriorBank(2), [[2, 0], [1, 1]]).extend_budget(2)
        Traceback (most recent call last):
        ...
        ValueError: extend_budget must not be called on a Preset, got rollouts = 2. Play a longer schedule.
        """
        raise ValueError(
            f"extend_budget must not be called on a {type(self).__name__}, got rollouts = {rollouts!r}. Play a longer schedule."
        )

    def _round_total(self, rows: IntArray | None, size: int, budget: SupportsIndex | None, exact: bool) -> int:
        cap = self.ledger.round_units(size, budget, exact)
        if self.ledger.finished:
            return 0
        planned = int(self._planned(slice(None) if rows is None else rows).sum())
        if exact and cap != planned:
            g = self.horizon.unit_size
            raise ValueError(error_text("budget", f"equal the scheduled {planned * g}", cap * g, "Drop exact=True."))
        return min(cap, planned, self.ledger.units_left)

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        planned = self._planned(rows)
        before = np.cumsum(planned) - planned
        units: IntArray = np.clip(total - before, 0, planned)  # a cap trims the last rows
        return units

    def _planned(self, rows: IntArray | slice) -> IntArray:
        units: IntArray = self._units[self.ledger.round][rows]
        return units


class RandomMatched(Preset):
    """Counts of another run on randomly permuted prompts: its pacing and concentration without its choice of prompts.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the evidence is updated but not used.
    schedule : array_like of int, shape (n_rounds, n_prompts)
        Rollouts per round and prompt of the run to match.
    unit_size : int
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
        unit_size: SupportsIndex = 1,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__(bank, schedule, unit_size=unit_size)
        self._units = self._units.take(generator(seed).permutation(len(bank)), axis=1)
