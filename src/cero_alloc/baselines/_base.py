"""The base class of all baselines: ledger, uniform schedule, visits in epochs, and counts independent of the ids' order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NoReturn, Required, SupportsIndex, TypedDict

import numpy as np

from cero_alloc._allocators.base import Allocator, Offer
from cero_alloc._budget.horizon import MOST_UNITS
from cero_alloc._budget.ledger import RolloutLedger, require_reachable
from cero_alloc._checks import FloatArray, IntArray, error_text, generator, instance, multiple
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.ids import tie_ranks
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._saving.saved import locked
from cero_alloc._saving.state import Field, Stateful
from cero_alloc._solvers import ranking_kernels
from cero_alloc._solvers.ranking import NO_TOPS

COUNTS = Field(must="be at least 0", holds=lambda counts, _: counts >= 0)  # an array of counts, or of weights
_VISIT = 8  # default rollouts per visited prompt: the group size of most published runs


Variants = Mapping[str, Mapping[str, Any]]


class Run(TypedDict, total=False):
    """Arguments that every allocator of this package takes."""

    total_budget: Required[SupportsIndex]
    n_rounds: Required[SupportsIndex]
    unit_size: SupportsIndex
    max_rollouts: Required[SupportsIndex]
    round_capacity: SupportsIndex | None
    seed: int | np.random.Generator


class VisitRun(Run, total=False):
    """The same arguments and the mean number of rollouts per visit."""

    rollouts_per_visit: SupportsIndex | None


class Baseline(Allocator):
    """A rule with the package's methods; a subclass decides the counts in ``_share`` or ``_deal``.

    Rounds follow the uniform schedule, floor(B k / K) units after k of K rounds, unless ``budget`` caps a round or
    ``exact`` sets its total. Rules for batches first choose a batch from the prompts on offer, as a data loader would:
    total / ``rollouts_per_visit`` prompts, the least visited first.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt. The allocator ticks the bank once per round, so a bank can serve only one allocator.
    total_budget : int
        Rollouts over the run.
    n_rounds : int
        Rounds of the run, K: calls of :meth:`allocate`.
    unit_size : int
        Rollouts per unit; every count is a multiple of it.
    max_rollouts : int
        Largest count of one prompt in one round, in rollouts.
    round_capacity : int or None
        Largest total of one round, in rollouts; None means ``max_rollouts`` for every offered prompt.
    rollouts_per_visit : int or None
        Mean rollouts of a visited prompt, a multiple of ``unit_size`` up to ``max_rollouts``; None takes 8, or the
        nearest feasible value. Rules without visits do not accept it.
    seed : int or numpy.random.Generator
        Draws the permutation that breaks ties, and the random choices of a rule.

    Raises
    ------
    ValueError
        For sizes out of range, rollouts that are not multiples of ``unit_size``, or a budget that cannot be spent.
    TypeError
        For anything but a bank, sizes that are not integers, or ``rollouts_per_visit`` for a rule without visits.

    Examples
    --------
    >>> class Even(Baseline):
    ...     def _share(self, rows, total):
    ...         return np.diff(np.arange(rows.size + 1) * total // rows.size)
    >>> policy = Even(BetaPosteriorBank(4), total_budget=48, n_rounds=3, max_rollouts=8)
    >>> sorted(policy.allocate().tolist()), sorted(policy.allocate(budget=10).tolist())
    ([0, 0, 8, 8], [0, 0, 5, 5])
    """

    title: ClassVar[str] = ""  # the published name; "" where it is the name of the class
    kind: ClassVar[Literal["counts", "selects", "waves", "paces"]] = "counts"  # what the rule decides
    variants: ClassVar[Variants] = {"": {}}  # settings that are compared: name -> own arguments
    least_rollouts: int = 1  # of a visited prompt, as published
    takes_visits: ClassVar[bool] = True  # whether the rule uses rollouts_per_visit
    utility: SaturatingUtility = SaturatingUtility()  # of the certificate; a few rules also decide by it
    FIELDS: ClassVar[dict[str, Field]] = {**Allocator.FIELDS, "_rng": Field(), "_tie": COUNTS, "_visits": COUNTS}

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        total_budget: SupportsIndex,
        n_rounds: SupportsIndex,
        unit_size: SupportsIndex = 1,
        max_rollouts: SupportsIndex,
        round_capacity: SupportsIndex | None = None,
        rollouts_per_visit: SupportsIndex | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        size_of(bank)
        if rollouts_per_visit is not None and not self.takes_visits:
            name = type(self).__name__
            raise TypeError(f"{name} must not be given rollouts_per_visit, got {rollouts_per_visit!r}. Leave it out.")
        ledger = self._open(
            len(bank),
            total_budget=total_budget,
            n_rounds=n_rounds,
            unit_size=unit_size,
            max_rollouts=max_rollouts,
            round_capacity=round_capacity,
        )
        super().__init__(bank, ledger, self.utility)
        if self.horizon.max_units > MOST_UNITS:  # some rules hold a table of a prompt's units
            condition = f"be at most {MOST_UNITS} units"
            raise ValueError(error_text("max_rollouts", condition, self.horizon.max_rollouts, "Lower it."))
        # Place of each row of the last offer among the caller's ids, and the number of these ids.
        self._order, self._named = np.arange(0), 0
        self._least = self._units_of(self.least_rollouts)
        self._block = self._visit_units(rollouts_per_visit)
        self._rng = generator(seed)
        self._tie = tie_ranks(self._rng, len(bank))
        self._visits = np.zeros(len(bank), dtype=np.int64)  # rounds that dealt to each prompt
        self._remember(
            total_budget=total_budget,
            n_rounds=n_rounds,
            unit_size=unit_size,
            max_rollouts=max_rollouts,
            round_capacity=round_capacity,
            rollouts_per_visit=rollouts_per_visit,
        )

    def _open(self, n_prompts: int, **plan: SupportsIndex | None) -> RolloutLedger:
        return RolloutLedger.plan(n_prompts, **plan)  # type: ignore[arg-type]

    @locked
    def extend_budget(self, rollouts: SupportsIndex = 0, *, rounds: SupportsIndex = 0) -> None:
        """Change the budget and the number of rounds of the rest of the run, which then follows a uniform schedule.

        Parameters
        ----------
        rollouts : int
            Rollouts to add, in multiples of ``unit_size``, or tokens; a negative number removes undealt budget.
        rounds : int, at least 0
            Rounds to add.

        Raises
        ------
        ValueError, TypeError
            For a budget that is already dealt or that the remaining rounds cannot spend, and for numbers that are not
            integers; nothing has changed.

        Examples
        --------
        >>> from cero_alloc.baselines import Uniform
        >>> policy = Uniform(BetaPosteriorBank(4), total_budget=32, n_rounds=2, max_rollouts=8)
        >>> policy.extend_budget(16, rounds=1)
        >>> [int(policy.allocate().sum()) for _ in range(3)]
        [16, 16, 16]
        """
        self._grow()
        more, added = self.ledger.checked_extension(rollouts, rounds)
        self.ledger.require_spendable(more, (self.ledger.rounds_left + added) * self._most_per_round)
        self.ledger.extend(more, added)

    # ------------------------------------------------------------ what a rule defines

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        """Return units per row that sum to ``total``; ``rows`` are all rows on offer, ascending."""
        units = np.zeros(rows.size, dtype=np.int64)
        visited = np.sort(self._next(rows, self._n_visits(rows.size, total)))
        if visited.size:
            units[visited] = self._share(rows[visited], total)
        return units

    def _share(self, rows: IntArray, total: int) -> IntArray:
        """Return units per visited row that sum to ``total``; ``rows`` ascend."""
        raise NotImplementedError

    # ------------------------------------------------------------ shared by the rules

    def _request(self, offer: Offer, budget: Any, exact: bool) -> Any:
        return self._round_total(offer.rows, offer.size, budget, exact)

    def _propose(self, offer: Offer, request: Any) -> tuple[IntArray, IntArray]:
        """Deal in row order, so that the answer cannot depend on the order of the ids."""
        order = np.arange(offer.size) if offer.rows is None else np.argsort(offer.rows)
        self._order, self._named = order if offer.places is None else offer.places[order], offer.named
        units = np.empty(offer.size, dtype=np.int64)
        units[order] = self._deal(order if offer.rows is None else offer.rows[order], request)
        self._visits[offer.selector] += units > 0
        places = np.flatnonzero(units)
        return places, units[places]

    def _least_visit(self) -> int:
        return max(1, self._least) * self.horizon.unit_size

    @property
    def _most_per_round(self) -> float:
        """Largest total of a round, in the unit of the budget."""
        return self.horizon.round_capacity

    def _prices(self) -> None:
        return None

    def _join(self, old: int, new: int) -> None:
        refuse_growth(old, new)

    def _n_visits(self, size: int, total: int) -> int:
        """Return the number of prompts to visit with a total: total / block, as far as the caps allow."""
        fewest, most = -(-total // self.horizon.max_units), total // max(1, self._least)
        return max(min(size, most, -(-total // self._block)), min(fewest, size))

    def _next(self, rows: IntArray, k: int) -> IntArray:
        """Return the positions of the next ``k`` prompts of the epoch: the least visited ones, in random order."""
        return self._first(-self._visits[rows].astype(np.float64), rows, k)

    def _first(self, key: FloatArray, rows: IntArray, k: int) -> IntArray:
        """Return the positions of the ``k`` largest keys in descending order; ties are broken by tie rank."""
        tie, order = self._tie[rows], np.empty(min(rows.size, 2 * k), dtype=np.int64)
        first = order[: ranking_kernels.rank(key, tie, -np.inf, k, order, NO_TOPS)]
        return first[np.lexsort((tie[first], -key[first]))]

    def _to_first(self, key: FloatArray, rows: IntArray, total: int) -> IntArray:
        """Return units that visit the prompts with the largest keys and split the total evenly among them."""
        units = np.zeros(rows.size, dtype=np.int64)
        first = self._first(key, rows, self._n_visits(rows.size, total))
        if first.size:
            units[first] = total // first.size
            units[first[: total % first.size]] += 1
        return units

    def _bounds(self, size: int, total: int) -> tuple[IntArray, IntArray]:
        """Return the lower and upper bounds in units of ``size`` visited prompts; each leaves the others their minimum."""
        most = max(self._least, min(self.horizon.max_units, total - self._least * (size - 1)))
        return np.full(size, self._least), np.full(size, most)

    def _units_of(self, rollouts: int) -> int:
        """Return the smallest number of units with this many rollouts, or raise if it exceeds the cap of a prompt."""
        h = self.horizon
        units = -(-rollouts // h.unit_size)
        if units > h.max_units:
            name = type(self).__name__
            condition = f"hold the {rollouts} rollouts that {name} gives at least"
            raise ValueError(error_text("max_rollouts", condition, h.max_rollouts, "Raise it."))
        return units

    def _visit_units(self, rollouts_per_visit: SupportsIndex | None) -> int:
        h = self.horizon
        if rollouts_per_visit is None:
            return max(self._least, min(h.max_units, _VISIT // h.unit_size), 1)
        block = multiple("rollouts_per_visit", rollouts_per_visit, h.unit_size, least=max(1, self._least) * h.unit_size)
        if block > h.max_rollouts:
            condition = f"be at most max_rollouts = {h.max_rollouts}"
            raise ValueError(error_text("rollouts_per_visit", condition, block, "Lower it."))
        return block // h.unit_size

    def _round_total(self, rows: IntArray | None, size: int, budget: SupportsIndex | None, exact: bool) -> int:
        """Return the units of this round, or raise for an exact total that no valid counts sum to."""
        total = self.ledger.paced_units(size, budget, exact)
        max_units, g = self.horizon.max_units, self.horizon.unit_size
        if exact:
            most = min(self.ledger.reach(size), self.ledger.units_left)
            require_reachable(total, most, self._least, max_units, g, "rollouts")
            return total
        few = -(-total // max_units)
        return total if few * self._least <= total else (few - 1) * max_units


def size_of(bank: BetaPosteriorBank) -> int:
    """Return the number of prompts of ``bank``, or raise if it is not a bank."""
    return len(instance("bank", bank, BetaPosteriorBank, "Build one over the prompts."))


def refuse_growth(old: int, new: int) -> NoReturn:
    """Refuse prompts that joined the bank: a rule keeps its state per prompt in arrays of a fixed size."""
    condition = f"keep its {old} prompts under a baseline"
    raise ValueError(error_text("bank", condition, new, "Build a new one for the larger pool."))


class RoundTally(Stateful):
    """Rewards of each prompt since the last call of :meth:`take`, summed over all updates of a round."""

    FIELDS: ClassVar[dict[str, Field]] = {
        "successes": Field(
            must="be between 0 and the rollouts", holds=lambda won, state: (won >= 0.0) & (won <= state["rollouts"])
        ),
        "rollouts": COUNTS,
    }

    def __init__(self, n_prompts: int) -> None:
        self.successes = np.zeros(n_prompts)
        self.rollouts = np.zeros(n_prompts, dtype=np.int64)

    def add(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        """Add the rewards of distinct rows."""
        self.successes[rows] += successes
        self.rollouts[rows] += rollouts

    def take(self) -> tuple[IntArray, FloatArray, IntArray]:
        """Return the rows with rollouts, with their successes and rollouts, and reset the tally."""
        rows = np.flatnonzero(self.rollouts)
        successes, rollouts = self.successes[rows], self.rollouts[rows]
        self.successes[rows], self.rollouts[rows] = 0.0, 0
        return rows, successes, rollouts
