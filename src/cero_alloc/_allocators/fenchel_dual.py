"""FenchelDualAllocator: Algorithm 1, one dual slope per prompt and one price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._budget.horizon import Horizon, visits_per_prompt
from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._checks import FloatArray, IntArray, error_text, flag, generator, instance, integer, real
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.ids import tie_ranks
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._saving.saved import locked
from cero_alloc._saving.state import Field
from cero_alloc._solvers import ranking_kernels, threads
from cero_alloc._solvers.ranking import NO_TOPS, counts_of, deal_round

from . import slopes_kernels
from .base import PRIOR_FIT, Allocator, Offer

_STEP = 512  # prompts per block of a pass: with more, slopes and scratch leave the fastest cache
_PRICE = Field(must="be within [0, 1]", holds=lambda price, _: 0.0 <= price <= 1.0)


class OpenRound(NamedTuple):
    """A round that was dealt and is not closed."""

    rows: IntArray | None  # on offer; None: the whole pool
    size: int  # prompts on offer
    places: IntArray  # positions that got a proposal
    proposed: int  # units of the proposal


class FenchelDualAllocator(Allocator):
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
        round deals on down its ranking, past the price. No budget is stranded while later rounds offer as many prompts as
        expected; without it, up to a few percent of the budget is. Not applied to exact rounds.
    fit_every : int or None
        Rounds between refits of the bank's prior to the pool, :meth:`BetaPosteriorBank.fit_prior`; None never refits.
    seed : int, numpy.random.Generator or SeedSequence
        Draws the permutation that breaks ties.

    Raises
    ------
    ValueError
        For sizes out of range, rollouts that are not whole units, or a budget that cannot be spent.
    TypeError
        For sizes that are not integers.

    Notes
    -----
    Prompts may join the bank during a run; the equal share R, the caps and the guarantee remain those of the pool at
    construction.

    State takes 46 bytes per prompt with its bank, 16 more where ``visits`` differ, and 16 per prompt of a round in flight.
    A round over the whole pool allocates no array of its size but the counts it returns. From a quarter of a million
    prompts on, its passes run in threads, one per core up to 4, or as many as the environment variable
    ``CERO_ALLOC_THREADS`` sets; results are the same to the last bit.

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

    FIELDS: ClassVar[dict[str, Field]] = {
        **Allocator.FIELDS,
        "_rng": Field(),
        "_slopes": Field("prompts", must="be within [0, 1]", holds=lambda slopes, _: (slopes >= 0.0) & (slopes <= 1.0)),
        "_tie": Field("prompts"),
        "_price": _PRICE,
        "_batch_price": _PRICE,
        "_price_step": Field(must="be positive and finite", holds=lambda step, _: 0.0 < step < np.inf),
        "_start": Field("shared", must="be at least 0", holds=lambda start, _: start >= 0.0),
        "_offers_before": Field("shared"),
        "_visits": Field("shared", must="be at least 1", holds=lambda visits, _: visits >= 1.0),
        "prior_fit": PRIOR_FIT,
        "_open": Field(
            when_set={},
            must="be a round over prompts of the bank",
            holds=lambda opened, state: _is_round(opened, state["slopes"].size, state["ledger"]["horizon"]),
            build=OpenRound,
        ),
    }

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
        ledger = RolloutLedger.plan(
            len(bank),
            total_budget=total_budget,
            n_rounds=rounds,
            unit_size=unit_size,
            max_rollouts=max_rollouts,
            round_capacity=round_capacity,
            mean_offer=offered,
        )
        super().__init__(bank, ledger, utility)
        self._max_units = self.horizon.max_units
        slope_step, self._price_step = step_sizes(step_size, rounds, batch=visits is not None)
        self._step = SlopeStep(bank, self.ledger.horizon, utility, slope_step)
        self._price = real(
            "initial_price", initial_price, low=0.0, high=1.0, remedy="The price is a share of the largest slope."
        )
        self._batch_form, self._own_step = visits is not None, step_size is not None
        # Exposure and offers when the plan last changed, from which the visits count; one entry while it has not changed.
        self._start, self._offers_before = np.zeros(1), np.zeros(1, dtype=np.int64)
        self._catch_up = flag("catch_up", catch_up)
        refits = None if fit_every is None else integer("fit_every", fit_every, least=1, remedy="Or None.")
        self._rng = generator(seed)
        self._slopes = np.minimum(1.0, 4.0 * bank.evidence.values(None))
        self._tie = tie_ranks(self._rng, len(bank))
        self._batch_price = self._price  # slope of the last prompt dealt where the round's total binds, else the price
        self._open: OpenRound | None = None
        self._tops = NO_TOPS  # the largest slopes of blocks of the pool, between the close of a round and the next deal
        self._remember(
            total_budget=total_budget,
            n_rounds=n_rounds,
            unit_size=unit_size,
            max_rollouts=max_rollouts,
            round_capacity=round_capacity,
            visits=visits,
            utility=utility,
            step_size=step_size,
            initial_price=initial_price,
            catch_up=catch_up,
            fit_every=fit_every,
        )
        self._fits(refits)  # last: it changes the bank, which an error must not

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
    def extend_budget(
        self, rollouts: SupportsIndex = 0, *, rounds: SupportsIndex = 0, visits: npt.ArrayLike | None = None
    ) -> None:
        """Change the plan of the rest of the run: more budget, or less, more rounds.

        What is left is from now on spent as a run of its own: the open round is closed, price and slopes stay where they
        are, and their steps, the pace and the demand are those of the budget, the rounds and the exposures that are left.

        Parameters
        ----------
        rollouts : int
            Rollouts to add, whole units; negative to take away what is not dealt.
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
        to_come = self._visits_to_come(visits, left)
        self._close()
        if to_come is not None:
            self._visits, self._offers_before = to_come, self.ledger.offers
        else:
            self._visits = np.array([float(max(1, left))])
        self._start = self.ledger.exposure_units.astype(np.float64)
        if not self._own_step:
            self._price_step = 1.0 / sqrt(max(1, left))
        self.ledger.extend(more, added)

    def _visits_to_come(self, visits: npt.ArrayLike | None, rounds: int) -> FloatArray | None:
        """Return how often each prompt is offered in the rounds left, by ``visits`` or by the earlier plan; None for always."""
        if not self._batch_form:
            if visits is not None:
                remedy = "Leave them out: all prompts are on offer in every round."
                raise ValueError(error_text("visits", "be None where the constructor had none", visits, remedy))
            return None
        if visits is None:
            return np.maximum(1.0, self._visits - (self.ledger.offers - self._offers_before))
        return np.array(np.broadcast_to(visits_per_prompt(visits, len(self.bank), max(1, rounds)), len(self.bank)))

    def _request(self, offer: Offer, budget: Any, exact: bool) -> tuple[int, bool]:
        """Return the most units that the round may propose, and whether it must deal exactly those."""
        return self.ledger.round_units(offer.size, budget, exact), exact

    def _propose(self, offer: Offer, request: tuple[int, bool]) -> tuple[IntArray, IntArray]:
        """Rank by margin and deal; keep the proposal for the dual step."""
        rows, size, (cap, exact) = offer.rows, offer.size, request
        key, tie, max_units, left = self._slopes, self._tie, self._max_units, self.ledger.units_left
        tops, self._tops = self._tops, NO_TOPS
        if rows is not None:
            key, tie, tops = np.empty(size), np.empty(size, dtype=np.int32), NO_TOPS
            ranking_kernels.look_up(rows, self._slopes, self._tie, key, tie)
        due = min(cap, left - self._reserve(rows, size)) if self._catch_up and not exact else 0
        most = size * max_units
        deal = deal_round(
            key, tie, self._price, max_units=max_units, left=left, cap=cap, most=most, due=due, exact=exact, tops=tops
        )
        self._open = OpenRound(rows, size, deal.places, deal.proposed)
        self._batch_price = deal.cleared
        return deal.paid, counts_of(deal.paid, deal.dealt, max_units)

    def _reserve(self, rows: IntArray | None, size: int) -> int:
        """Return the most units that the rounds after this one can spend."""
        ledger = self.ledger
        later = ledger.rounds_left - 1
        if not self._batch_form:
            return later * ledger.reach(size)
        left = self._visits - (ledger.offers - self._offers_before)
        if self.bank.evidence.retired is not None:
            left[self.bank.evidence.retired] = 0.0
        left[slice(None) if rows is None else rows] -= 1
        return min(int(np.maximum(left, 0).sum()) * self._max_units, later * ledger.reach(len(self.bank)))

    def _close(self) -> None:
        """Take the dual step of the open round with the posterior as it stands."""
        self._tops = NO_TOPS
        if self._open is None:
            return
        rows, size, places, proposed = self._open
        units = counts_of(places, proposed, self._max_units)
        if rows is None:  # prompts that joined after the round was dealt were not offered in it
            self._tops = self._step.pool(self._slopes[:size], places, units, self._start, self._visits)
        else:
            proposal = np.zeros(size, dtype=np.int64)
            proposal[places] = units
            theta = self._slopes[rows]
            self._step.rows(theta, rows, proposal, self._start, self._visits)
            self._slopes[rows] = theta
        self._step_price(proposed)
        self._open = None

    def _step_price(self, proposed: int) -> None:
        """Move the price after a round that proposed so many units."""
        pace, capacity = self.ledger.even_pace, self.horizon.capacity_units
        self._price = next_price(self._price, proposed, pace, capacity, self._price_step)

    def _join(self, old: int, new: int) -> None:
        rows = np.arange(old, new)
        self._slopes = np.concatenate([self._slopes, np.minimum(1.0, 4.0 * self.bank.evidence.values(rows))])
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


@dataclass(frozen=True, slots=True)
class SlopeStep:
    """The dual step of the slopes.

    Attributes
    ----------
    bank : BetaPosteriorBank
        Values as they stand.
    horizon : Horizon
        The constants of the run.
    utility : SaturatingUtility
        What exposure is worth.
    size : float
        Step; 0 means one over the root of the visits.
    """

    bank: BetaPosteriorBank
    horizon: Horizon
    utility: SaturatingUtility
    size: float

    def rows(
        self, theta: FloatArray, rows: IntArray, proposal: IntArray, start: FloatArray, visits: FloatArray
    ) -> None:
        """Move the slopes ``theta`` of some rows, to which so many units were proposed, in place.

        ``start``, the exposure from which the visits began, and ``visits`` have one entry, or one per prompt of the pool.
        """
        offers = _offers(rows, start, visits)
        slopes_kernels.step_slopes(
            theta, self.bank.evidence.values(rows), proposal, offers, self._plan, self.utility.codes
        )

    def pool(
        self, theta: FloatArray, places: IntArray, proposal: IntArray, start: FloatArray, visits: FloatArray
    ) -> FloatArray:
        """Move the slopes of the pool's first prompts, as many as there are in ``theta``, in place.

        Returns the largest slope of each whole block of ``ranking_kernels.BLOCK``.
        """
        evidence, plan, codes = self.bank.evidence, self._plan, self.utility.codes
        evidence.stretch(0, 0)  # takes up the reports of the round before there are threads
        length = ranking_kernels.BLOCK
        bits, tops = theta.view(np.int64), np.empty(theta.size // length, dtype=np.int64)

        def step(first: int, stop: int) -> None:
            some, block = slice(first, stop), max(1, min(_STEP, stop - first))
            scratch = (
                np.empty((2, block)),
                np.zeros(block, np.int64),
                *np.empty((2, places.size), dtype=np.int64),
                np.empty((4, places.size)),
            )
            dealt = first, places, proposal
            found, offers = tops[first // length : stop // length], _offers(some, start, visits)
            parts = bits[some], found, length
            slopes_kernels.step_pool(
                theta[some], evidence.stretch(first, stop), offers, plan, codes, *dealt, scratch, parts
            )

        if theta.size < threads.ALONE:
            step(0, theta.size)
        else:
            threads.in_stretches(step, theta.size, length)
        return tops.view(np.float64)

    @property
    def _plan(self) -> tuple[int, float, float]:
        """The argument ``plan`` of the kernels."""
        return self.horizon.max_units, self.horizon.equal_share_units, self.size


def _offers(rows: IntArray | slice, start: FloatArray, visits: FloatArray) -> tuple[FloatArray, int, FloatArray, int]:
    """Return the argument ``offers`` of the kernels for some rows."""
    start_stride, stride = int(start.size > 1), int(visits.size > 1)
    return start[rows] if start_stride else start, start_stride, visits[rows] if stride else visits, stride


def next_price(price: float, proposed: int, pace: float, capacity: int, step: float) -> float:
    """Return the price after a round that proposed so many units, of at most ``capacity``, where ``pace`` is the even pace."""
    scale = max(pace, capacity - pace)  # largest possible gap to the pace
    return min(1.0, max(0.0, price - step * (pace - float(proposed)) / scale))


def step_sizes(step_size: float | tuple[float, float] | None, n_rounds: int, *, batch: bool) -> tuple[float, float]:
    """Return the steps of slopes (0: one over the root of the visits) and price."""
    if step_size is None:
        return 0.0, 1.0 / sqrt(n_rounds)
    remedy = "Give (step of the slopes, step of the price), or None for the steps of the theorem."
    if isinstance(step_size, (tuple, list, np.ndarray)):
        if len(step_size) != 2:
            raise ValueError(error_text("step_size", "be a pair", step_size, remedy))
        slope, price = step_size
    elif batch:
        raise ValueError(error_text("step_size", "be a pair when visits are given", step_size, remedy))
    else:
        slope = price = step_size
    checked = [real("step_size", step, low=0.0, high=np.inf, open_low=True, remedy=remedy) for step in (slope, price)]
    return checked[0], checked[1]


def _is_round(opened: Mapping[str, Any], n_prompts: int, horizon: Mapping[str, int]) -> bool:
    """Tell whether the entry of an open round in a state is one over so many prompts."""
    if set(opened) != set(OpenRound._fields) or not all(isinstance(opened[name], int) for name in ("size", "proposed")):
        return False
    rows, size, places, proposed = OpenRound(**opened)
    columns: list[Any] = [places] if rows is None else [places, rows]
    for column in columns:
        if not isinstance(column, np.ndarray) or column.ndim != 1 or column.dtype != np.int64:
            return False
    if rows is not None and rows.size != size:
        return False
    # The pool may have grown since the round was dealt.
    offered = np.array([size - 1]) if rows is None else rows
    if offered.size and not 0 <= offered.min() <= offered.max() < n_prompts:
        return False
    max_units = horizon["max_rollouts"] // horizon["unit_size"]
    if places.size == 0:
        return bool(proposed == 0)
    last = proposed - (places.size - 1) * max_units  # units of the last place
    return bool(0 <= places.min() <= places.max() < size) and 0 < last <= max_units
