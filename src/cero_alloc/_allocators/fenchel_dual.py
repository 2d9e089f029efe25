"""FenchelDualAllocator: Algorithm 1, one dual slope per prompt and one price."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from math import sqrt
from typing import Any, ClassVar, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._budget.horizon import visits_per_prompt
from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._checks import FloatArray, IntArray, error_text, flag, generator, instance, integer, real
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.ids import tie_ranks
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._saving.saved import locked
from cero_alloc._saving.state import check_array, require
from cero_alloc._solvers import ranking_kernels
from cero_alloc._solvers.ranking import counts_of, deal_round

from .base import RolloutRun, spread
from .dual import SlopeStep, next_price, step_sizes


class FenchelDualAllocator(RolloutRun):
    r"""Allocate rollouts by projected gradient on the Fenchel dual of the horizon problem (Algorithm 1).

    Each prompt holds a normalised slope :math:`\vartheta_i \in [0, 1]`, the run a normalised price
    :math:`\nu \in [0, 1]`. A round deals ``max_rollouts`` to the prompts with the largest positive margin
    :math:`\vartheta_i - \nu` while its capacity lasts, clipped at the remaining budget. It is closed with

    .. math::

        \vartheta_i &\leftarrow
            \Pi_{[0,1]}\bigl[\vartheta_i - \gamma\,(\tilde N_i - z^*_i(\vartheta_i) / K) / N_{\max}\bigr] \\
        \nu &\leftarrow
            \Pi_{[0,1]}\bigl[\nu - \gamma\,(B / K - \textstyle\sum_i \tilde N_i) / G_B\bigr]

    where :math:`\tilde N` is the proposal before clipping. :meth:`allocate` closes the previous round with the
    posterior as it stands, then proposes, debits and ages; :meth:`update` only adds evidence. Feedback may therefore
    come late, split, out of order or never.

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
    visits : int, array_like of int with shape (n_prompts,), or None
        How often each prompt is offered over the run (batch form); None means every round. Round down when unsure.
        Prompts added later take the smallest entry.
    utility : SaturatingUtility
        What exposure is worth.
    step_size : float, pair of floats, or None
        Step of slopes and price. None means :math:`1 / \sqrt{K}` for the price and :math:`1 / \sqrt{\text{visits}}` for
        a slope. One float is refused in the batch form, where sharing a step costs a factor of the square root of the
        number of prompts.
    initial_price : float, in [0, 1]
        First normalised price.
    catch_up : bool
        Reserve-aware catch-up: never let the budget outgrow what the rounds to come can spend. Where it would, the
        round deals on down its ranking, past the price. Nothing is stranded while later rounds offer what is expected
        of them; without it, up to a few percent are. Not applied to exact rounds.
    fit_every : int or None
        Rounds between refits of the bank's prior to the pool, :meth:`BetaPosteriorBank.fit_prior`; None never refits.
    seed : int, numpy.random.Generator or SeedSequence
        Draws the permutation that breaks ties.

    Raises
    ------
    ValueError
        For sizes out of range, rollouts that are not whole groups, or a budget that cannot be spent.
    TypeError
        For sizes that are not integers.

    Notes
    -----
    Prompts may join the bank during a run; the equal share R, the caps and the guarantee remain those of the pool at
    construction.

    State takes 44 bytes per prompt with its bank, 16 more where ``visits`` differ, and 16 per prompt of a round in flight.
    A round over the whole pool allocates no array of its size but the counts it returns. From a quarter of a million
    prompts on its passes run in threads, as many as there are cores up to 4, or as ``CERO_ALLOC_THREADS`` in the
    environment says; results are the same to the last bit.

    A call opens a round only while rounds and budget are left. Later calls close what is open and change nothing else:
    nothing ages, and a refund lets the next call deal again.

    References
    ----------
    arXiv 2610.09679, Algorithm 1. Theorem 1 of the theory page bounds its regret per prompt by a multiple of
    :math:`1 / \sqrt K`.

    Examples
    --------
    >>> bank = BetaPosteriorBank(["easy", "middle", "hard"])
    >>> allocator = FenchelDualAllocator(bank, total_budget=64, n_rounds=8, unit_size=4, max_rollouts=8, seed=1)
    >>> counts = allocator.allocate(["easy", "hard"], budget=16)
    >>> counts.tolist()
    [8, 8]
    >>> allocator.update(["easy", "hard"], successes=[8, 1], rollouts=counts)
    >>> allocator.remaining_budget
    48
    """

    _OPTIONAL: ClassVar[tuple[str, ...]] = ("_open", "prior_fit")
    _PER_PROMPT: ClassVar[tuple[str, ...]] = ("_slopes", "_tie")
    _SHARED: ClassVar[tuple[str, ...]] = ("_start", "_offers_before", "_visits")
    _STATE: ClassVar[tuple[str, ...]] = (
        "bank", "ledger", "_rng", "_slopes", "_tie", "_price", "_batch_price", "_price_step", "_start", "_offers_before",
        "_visits", "prior_fit", "_open",
    )  # fmt: skip

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        total_budget: SupportsIndex,
        n_rounds: SupportsIndex,
        unit_size: SupportsIndex = 1,
        max_rollouts: SupportsIndex,
        round_capacity: SupportsIndex | None = None,
        visits: npt.ArrayLike | None = None,
        utility: SaturatingUtility = SaturatingUtility(),  # noqa: B008 (immutable)
        step_size: float | tuple[float, float] | None = None,
        initial_price: float = 0.5,
        catch_up: bool = False,
        fit_every: SupportsIndex | None = None,
        seed: int | np.random.Generator | np.random.SeedSequence = 0,
    ) -> None:
        instance("bank", bank, BetaPosteriorBank, "Build one over the prompts.")
        instance("utility", utility, SaturatingUtility, "Pass SaturatingUtility(...).")
        rounds = integer("n_rounds", n_rounds, least=1, remedy="Count the calls of allocate over the run.")
        self._visits = visits_per_prompt(visits, len(bank), rounds)
        offered = None if visits is None else float(np.broadcast_to(self._visits, len(bank)).sum()) / rounds
        self.ledger = RolloutLedger.plan(
            len(bank),
            total_budget=total_budget,
            n_rounds=rounds,
            unit_size=unit_size,
            max_rollouts=max_rollouts,
            round_capacity=round_capacity,
            offered=offered,
        )
        slope_step, self._price_step = step_sizes(step_size, rounds, batch=visits is not None)
        self._step = SlopeStep(bank, self.ledger.horizon, utility, slope_step)
        self._price = real(
            "initial_price", initial_price, low=0.0, high=1.0, remedy="The price is a share of the largest slope."
        )
        self._batch_form, self._own_step = visits is not None, step_size is not None
        # Exposure and offers when the plan last changed: what the visits count from. One entry while it never has.
        self._start, self._offers_before = np.zeros(1), np.zeros(1, dtype=np.int64)
        self._catch_up = flag("catch_up", catch_up)
        self._fit_every = None if fit_every is None else integer("fit_every", fit_every, least=1, remedy="Or None.")
        self.bank = bank
        self.utility = utility
        self._rng = generator(seed)
        self._slopes = np.minimum(1.0, 4.0 * bank._values(None))
        self._tie = tie_ranks(self._rng, len(bank))
        self._batch_price = self._price  # slope of the last prompt dealt where the round's total binds, else the price
        # The open round: rows on offer (None: all), their number, positions that got a proposal, and its units.
        self._open: tuple[IntArray | None, int, IntArray, int] | None = None

    @property
    @locked
    def slopes(self) -> FloatArray:
        """Normalised slope per prompt, in [0, 1], as of the last closed round; shape (n_prompts,)."""
        self._grow()
        return self._slopes.copy()

    @property
    def price(self) -> float:
        """Normalised price, in [0, 1], as of the last closed round."""
        return self._price

    @locked
    def allocate(
        self, prompt_ids: Iterable[Hashable] | None = None, budget: SupportsIndex | None = None, *, exact: bool = False
    ) -> IntArray:
        """Close the previous round, then deal this one.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts on offer, each once; None offers the whole pool in row order.
        budget : int or None
            Cap of this round in rollouts, on top of ``round_capacity``; rounded down to whole groups.
        exact : bool
            Spend exactly ``budget``: the ranking then ignores the sign of the margins, and the caps still hold.

        Returns
        -------
        numpy.ndarray of int64, shape (n_offered,)
            Rollouts per prompt in the order of ``prompt_ids``, multiples of ``unit_size`` between 0 and
            ``max_rollouts``. All zeros once the horizon is over or the budget is gone.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError
            For a repeated id, a negative budget, or an exact total that is not feasible; the message names the feasible
            range.
        TypeError
            For a budget that is not an integer.

        Examples
        --------
        >>> bank = BetaPosteriorBank(4)
        >>> allocator = FenchelDualAllocator(bank, total_budget=8, n_rounds=4, max_rollouts=2)
        >>> int(allocator.allocate(budget=3, exact=True).sum())
        3
        """
        self._grow()
        rows, size, places, named = self._on_offer(prompt_ids)
        cap = self.ledger.round_units(size, budget, exact)
        return spread(self._deal(rows, size, cap, exact), places, named)

    @locked
    def extend_budget(
        self, rollouts: SupportsIndex = 0, *, rounds: SupportsIndex = 0, visits: npt.ArrayLike | None = None
    ) -> None:
        """Change the plan of the rest of the run: more budget, or less, more rounds.

        What is left is from now on spent as a run of its own: the open round is closed, price and slopes stay where they
        are, and their steps, the pace and the demand are those of the budget, the rounds and the exposures that are left.

        Parameters
        ----------
        rollouts : int
            Rollouts to add, whole groups; negative to take away what is not dealt.
        rounds : int, at least 0
            Rounds to add.
        visits : int, array_like of int with shape (n_prompts,), or None
            How often each prompt is offered from now on, in the batch form; None for what is left of the visits so far.

        Raises
        ------
        ValueError
            For a budget that is dealt already or that the rounds left cannot spend, and for visits without the batch form
            or out of range; nothing changes after any error.
        TypeError
            For numbers that are not integers.

        References
        ----------
        Claim 18 of the theory page: Theorem 1 holds for the rest of the run.

        Examples
        --------
        >>> allocator = FenchelDualAllocator(BetaPosteriorBank(2), total_budget=8, n_rounds=2, max_rollouts=4)
        >>> counts = allocator.allocate()
        >>> allocator.extend_budget(8, rounds=2)
        >>> allocator.balance.total, allocator.ledger.rounds_left
        (16, 3)
        """
        self._grow()
        more, added = self.ledger.checked_extension(rollouts, rounds)
        left = self.ledger.rounds_left + added
        self.ledger.require_spendable(more, left * self.horizon.round_capacity)
        told = self._visits_to_come(visits, left)
        self._close()
        if told is not None:
            self._visits, self._offers_before = told, self.ledger.offers
        else:
            self._visits = np.array([float(max(1, left))])
        self._start = self.ledger.exposure.astype(np.float64)
        if not self._own_step:
            self._price_step = 1.0 / sqrt(max(1, left))
        self.ledger.extend(more, added)

    def _visits_to_come(self, visits: npt.ArrayLike | None, rounds: int) -> FloatArray | None:
        """Return how often each prompt is to be offered in the rounds left, as told or as was told; None for always."""
        if not self._batch_form:
            if visits is not None:
                remedy = "Leave them out: all prompts are on offer in every round."
                raise ValueError(error_text("visits", "be None where the constructor had none", visits, remedy))
            return None
        if visits is None:
            return np.maximum(1.0, self._visits - (self.ledger.offers - self._offers_before))
        return np.array(np.broadcast_to(visits_per_prompt(visits, len(self.bank), max(1, rounds)), len(self.bank)))

    def _deal(self, rows: IntArray | None, size: int, cap: int, exact: bool) -> IntArray:
        """Close the open round, then propose ``cap`` units at most, or exactly, and debit what the budget covers."""
        self._close()
        if self.ledger.finished:
            return np.zeros(size, dtype=np.int64)
        self._refit()
        key, tie = self._slopes, self._tie
        if rows is not None:
            key, tie = np.empty(size), np.empty(size, dtype=np.int32)
            ranking_kernels.look_up(rows, self._slopes, self._tie, key, tie)
        due = 0
        if self._catch_up and not exact:
            due = min(cap, self.ledger.units_left - self._reserve(rows, size))
        max_units = self.horizon.max_units
        played = deal_round(
            key, tie, self._price, max_units=max_units, left=self.ledger.units_left, cap=cap, most=size * max_units,
            due=due, exact=exact,
        )  # fmt: skip
        self._open = (rows, size, played.places, played.proposed)
        self._batch_price = played.cleared
        self.bank.tick()
        return self.ledger.open_round(rows, size, played.paid, counts_of(played.paid, played.dealt, max_units))

    def _when_set(self, name: str) -> Any:
        return () if name == "_open" else super()._when_set(name)

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        super()._check_state(state, label, size)
        for name in ("slopes", "price", "batch_price"):
            require(
                f"{label}[{name!r}]",
                "be within [0, 1]",
                (np.asarray(state[name]) >= 0.0) & (np.asarray(state[name]) <= 1.0),
            )
        require(f"{label}['visits']", "be at least 1", state["visits"] >= 1.0)
        require(f"{label}['start']", "be at least 0", state["start"] >= 0.0)
        if state["open"] is not None:
            self._check_open(state["open"], f"{label}['open']", int(size or 0))

    def _check_open(self, opened: Any, label: str, n_prompts: int) -> None:
        odd = f"{label} must be a round over prompts of the bank. Pass what state_dict returned."
        if len(opened) != 4 or not all(isinstance(number, int) for number in opened[1::2]):
            raise ValueError(odd)
        rows, size, places, proposed = opened
        check_array(f"{label}[2]", np.empty(np.size(places), dtype=np.int64), places)
        if rows is not None:
            check_array(f"{label}[0]", np.empty(np.size(rows), dtype=np.int64), rows)
            if rows.size != size:
                raise ValueError(odd)
        # A round over the whole pool may have been dealt before some of it joined.
        within = [places, np.array([size - 1])] if rows is None else [rows]
        if any(some.size and not 0 <= some.min() <= some.max() < n_prompts for some in within):
            raise ValueError(odd)
        max_units = self.horizon.max_units
        if places.size and not (
            0 <= places.min() <= places.max() < size and 0 < proposed - (places.size - 1) * max_units <= max_units
        ):
            raise ValueError(odd)

    def _reserve(self, rows: IntArray | None, size: int) -> int:
        """Return the most units that the rounds after this one can spend."""
        ledger = self.ledger
        later = ledger.rounds_left - 1
        if not self._batch_form:
            return later * ledger.reach(size)
        left = self._visits - (ledger.offers - self._offers_before)
        if self.bank._retired is not None:
            left[self.bank._retired] = 0.0
        left[slice(None) if rows is None else rows] -= 1
        return min(int(np.maximum(left, 0).sum()) * self.horizon.max_units, later * ledger.reach(len(self.bank)))

    def _close(self) -> None:
        """Take the dual step of the open round with the posterior as it stands."""
        if self._open is None:
            return
        rows, size, places, proposed = self._open
        units = counts_of(places, proposed, self.horizon.max_units)
        if rows is None:  # prompts that joined after the round was dealt were not offered in it
            self._step.pool(self._slopes[:size], places, units, self._start, self._visits)
        else:
            proposal = np.zeros(size, dtype=np.int64)
            proposal[places] = units
            theta = self._slopes[rows]
            self._step.rows(theta, rows, proposal, self._start, self._visits)
            self._slopes[rows] = theta
        self._price = next_price(self._price, proposed, self.ledger, self._price_step)
        self._open = None

    def _grow(self) -> None:
        """Make room for prompts that joined the bank."""
        old, new = self._slopes.size, len(self.bank)
        if new == old:
            return
        rows = np.arange(old, new)
        self._slopes = np.concatenate([self._slopes, np.minimum(1.0, 4.0 * self.bank._values(rows))])
        self._tie = np.concatenate([self._tie, tie_ranks(self._rng, new - old, old)])
        if self._visits.size > 1:
            self._visits = np.concatenate([self._visits, np.full(new - old, self._visits.min())])
        self.ledger.grow(new)
        if self._start.size > 1 or self._start[0]:
            self._start = np.concatenate([self._start, np.zeros(new - old)])
        if self._offers_before.size > 1 or self._offers_before[0]:
            self._offers_before = np.concatenate([self._offers_before, self.ledger.offers[old:]])

    def _prices(self) -> tuple[float, float]:
        return self._price, self._batch_price
