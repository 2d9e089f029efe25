"""What every baseline shares: the account, an even pace, visits in epochs, and an answer that ignores the ids' order."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, ClassVar, Literal, Required, SupportsIndex, TypedDict

import numpy as np

from cero_alloc._allocators.base import RolloutRun, spread
from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._budget.pacing import MOST_UNITS, require_reachable
from cero_alloc._checks import FloatArray, IntArray, error_text, generator, instance, multiple
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.ids import tie_ranks
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._saving.saved import locked
from cero_alloc._saving.state import Stateful, key_of, require
from cero_alloc._solvers import ranking_kernels

_VISIT = 8  # rollouts per visited prompt where nobody says otherwise: the group size of most published runs


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
    """The same, and how many rollouts a visit is meant to have."""

    rollouts_per_visit: SupportsIndex | None


class Baseline(RolloutRun):
    """A rule behind the package's methods; a subclass says in ``_share`` or ``_deal`` who gets how much.

    A round keeps to the uniform schedule, floor(B k / K) units after k of K rounds, unless ``budget`` caps it or
    ``exact`` names its total. Rules that deal with a batch, and not with a pool, first take in what their trainer's data
    loader would have brought: total / ``rollouts_per_visit`` of the prompts on offer, those visited least.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt. The allocator ticks it once per round, so a bank serves one allocator.
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
        nearest that these allow. Rules without visits refuse it.
    seed : int or numpy.random.Generator
        Draws the permutation that breaks ties, and what a rule draws.

    Raises
    ------
    ValueError
        For sizes out of range, rollouts that are not whole groups, or a budget that cannot be spent.
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
    takes_visits: ClassVar[bool] = True  # whether rollouts_per_visit means anything to the rule
    utility: SaturatingUtility = SaturatingUtility()  # judges the run; a few rules also use it
    _STATE: ClassVar[tuple[str, ...]] = ("bank", "ledger", "_rng", "_tie", "_visits")

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
        self.bank = bank
        self.ledger = self._open(
            total_budget=total_budget,
            n_rounds=n_rounds,
            unit_size=unit_size,
            max_rollouts=max_rollouts,
            round_capacity=round_capacity,
        )
        if self.horizon.max_units > MOST_UNITS:  # some rules hold a table of a prompt's units
            condition = f"be at most {MOST_UNITS} groups"
            raise ValueError(error_text("max_rollouts", condition, self.horizon.max_rollouts, "Lower it."))
        # Place of each row of the last offer among the ids that the caller named, and the number of those.
        self._order, self._named = np.arange(0), 0
        self._least = self._units_of(self.least_rollouts)
        self._block = self._visit_units(rollouts_per_visit)
        self._rng = generator(seed)
        self._tie = tie_ranks(self._rng, len(bank))
        self._visits = np.zeros(len(bank), dtype=np.int64)  # rounds that dealt to each prompt

    def _open(self, **plan: SupportsIndex | None) -> RolloutLedger:
        return RolloutLedger.plan(len(self.bank), **plan)  # type: ignore[arg-type]

    @locked
    def allocate(
        self, prompt_ids: Iterable[Hashable] | None = None, budget: SupportsIndex | None = None, *, exact: bool = False
    ) -> IntArray:
        """Deal one round.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts on offer, each once; None offers the whole pool in row order.
        budget : int or None
            Cap of this round in rollouts.
        exact : bool
            Spend exactly ``budget``, whatever the schedule says.

        Returns
        -------
        numpy.ndarray of int64, shape (n_offered,)
            Rollouts per prompt in the order of ``prompt_ids``.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError, TypeError
            For a repeated id, a bad budget, or an exact total that is not feasible; nothing changes then.

        Examples
        --------
        >>> from cero_alloc.baselines import Uniform
        >>> policy = Uniform(BetaPosteriorBank(4), total_budget=64, n_rounds=4, max_rollouts=8)
        >>> policy.allocate().tolist(), policy.allocate([3, 1], budget=6, exact=True).tolist()
        ([4, 4, 4, 4], [3, 3])
        """
        self._grow()
        rows, size, places, named = self._on_offer(prompt_ids)
        total = self._round_total(rows, size, budget, exact)
        if self.ledger.finished:
            return np.zeros(named, dtype=np.int64)
        # In row order, so that the answer cannot depend on the order of the ids.
        order = np.arange(size) if rows is None else np.argsort(rows)
        self._order, self._named = order if places is None else places[order], named
        units = np.empty(size, dtype=np.int64)
        units[order] = self._deal(order if rows is None else rows[order], total)
        self._visits[slice(None) if rows is None else rows] += units > 0
        self.bank.tick()
        return spread(self.ledger.debit(rows, units), places, named)

    @locked
    def extend_budget(self, rollouts: SupportsIndex = 0, *, rounds: SupportsIndex = 0) -> None:
        """Change the plan of the rest of the run: more budget, or less, more rounds; the pace is even from there on.

        Parameters
        ----------
        rollouts : int
            Rollouts to add, whole groups, or tokens; negative to take away what is not dealt.
        rounds : int, at least 0
            Rounds to add.

        Raises
        ------
        ValueError, TypeError
            For a budget that is dealt already or that the rounds left cannot spend, and for numbers that are not integers;
            nothing changes then.

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

    def metrics(self, *, certificate: bool = True) -> dict[str, float]:
        """Return the run's state as a flat dict of floats; see :meth:`~cero_alloc.FenchelDualAllocator.metrics`.

        There is no price. The certificate compares with the best use of the rollouts dealt so far under ``utility``.

        Parameters
        ----------
        certificate : bool
            Whether to solve for the regret certificate.

        Returns
        -------
        dict of str to float
            In the units named there.

        Examples
        --------
        >>> from cero_alloc.baselines import Uniform
        >>> policy = Uniform(BetaPosteriorBank(4), total_budget=32, n_rounds=2, max_rollouts=8)
        >>> counts = policy.allocate()
        >>> policy.metrics(certificate=False)["outstanding_rollouts"]
        16.0
        """
        metrics = super().metrics(certificate=certificate)
        return {name: value for name, value in metrics.items() if name not in ("price", "batch_price", "starved")}

    # ------------------------------------------------------------ what a rule says

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        """Return units per row that add up to ``total``; ``rows`` ascend and are all that is on offer."""
        units = np.zeros(rows.size, dtype=np.int64)
        visited = np.sort(self._next(rows, self._n_visits(rows.size, total)))
        if visited.size:
            units[visited] = self._share(rows[visited], total)
        return units

    def _share(self, rows: IntArray, total: int) -> IntArray:
        """Return units per visited row that add up to ``total``; ``rows`` ascend."""
        raise NotImplementedError

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        super()._check_state(state, label, size)
        require_counts(self, state, label)

    # ------------------------------------------------------------ what rules share

    @property
    def _most_per_round(self) -> float:
        """The largest total of a round, in the unit of the budget."""
        return self.horizon.round_capacity

    def _prices(self) -> tuple[float, float]:
        return float("nan"), float("nan")

    def _grow(self) -> None:
        """Refuse prompts that joined the bank: a rule keeps what it knows of each in arrays of its own."""
        if len(self.bank) != self.horizon.n_prompts:
            condition = f"keep its {self.horizon.n_prompts} prompts under a baseline"
            raise ValueError(error_text("bank", condition, len(self.bank), "Build a new one for the larger pool."))

    def _n_visits(self, size: int, total: int) -> int:
        """Return how many prompts a total visits: its share of visits, as far as the caps allow."""
        fewest, most = -(-total // self.horizon.max_units), total // max(1, self._least)
        return max(min(size, most, -(-total // self._block)), min(fewest, size))

    def _next(self, rows: IntArray, k: int) -> IntArray:
        """Return the positions of the next ``k`` prompts of the epoch: the least visited, shuffled."""
        return self._first(-self._visits[rows].astype(np.float64), rows, k)

    def _first(self, key: FloatArray, rows: IntArray, k: int) -> IntArray:
        """Return the positions of the ``k`` largest keys in falling order, equal ones by tie rank."""
        tie, order = self._tie[rows], np.empty(min(rows.size, 2 * k), dtype=np.int64)
        first = order[: ranking_kernels.rank(key, tie, -np.inf, k, order)]
        return first[np.lexsort((tie[first], -key[first]))]

    def _to_first(self, key: FloatArray, rows: IntArray, total: int) -> IntArray:
        """Return units that visit the largest keys and share the total evenly among them."""
        units = np.zeros(rows.size, dtype=np.int64)
        first = self._first(key, rows, self._n_visits(rows.size, total))
        if first.size:
            units[first] = total // first.size
            units[first[: total % first.size]] += 1
        return units

    def _bounds(self, size: int, total: int) -> tuple[IntArray, IntArray]:
        """Return the least and the most units of each of ``size`` visited prompts: no more than the others can leave."""
        most = max(self._least, min(self.horizon.max_units, total - self._least * (size - 1)))
        return np.full(size, self._least), np.full(size, most)

    def _units_of(self, rollouts: int) -> int:
        """Return the units that hold this many rollouts, within the cap of a prompt."""
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
        """Return the units of this round; raise for an exact total that no counts add up to."""
        total = self.ledger.paced_units(size, budget, exact)
        max_units, g = self.horizon.max_units, self.horizon.unit_size
        if exact:
            most = min(self.ledger.reach(size), self.ledger.units_left)
            require_reachable(total, most, self._least, max_units, g, "rollouts")
            return total
        few = -(-total // max_units)
        return total if few * self._least <= total else (few - 1) * max_units


def size_of(bank: BetaPosteriorBank) -> int:
    """Return the number of prompts of a bank, checked to be one."""
    return len(instance("bank", bank, BetaPosteriorBank, "Build one over the prompts."))


def require_counts(owner: Stateful, state: Mapping[str, Any], label: str) -> None:
    """Refuse negative numbers in the arrays of a state: all that rules keep of their own counts something."""
    for name in owner._STATE:
        entry = state[key_of(name)]
        if isinstance(entry, np.ndarray):
            require(f"{label}[{key_of(name)!r}]", "be at least 0", entry >= 0)


class RoundTally(Stateful):
    """Rewards of each prompt since the last call of :meth:`take`: those of one round, in whatever parts they came."""

    _STATE: ClassVar[tuple[str, ...]] = ("successes", "rollouts")

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        super()._check_state(state, label, size)
        require_counts(self, state, label)
        require(f"{label}['successes']", "not exceed the rollouts", state["successes"] <= state["rollouts"])

    def __init__(self, n_prompts: int) -> None:
        self.successes = np.zeros(n_prompts)
        self.rollouts = np.zeros(n_prompts, dtype=np.int64)

    def add(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        """Add rewards of distinct rows."""
        self.successes[rows] += successes
        self.rollouts[rows] += rollouts

    def take(self) -> tuple[IntArray, FloatArray, IntArray]:
        """Return rows with rollouts, their successes and rollouts; start anew."""
        rows = np.flatnonzero(self.rollouts)
        successes, rollouts = self.successes[rows], self.rollouts[rows]
        self.successes[rows], self.rollouts[rows] = 0.0, 0
        return rows, successes, rollouts
