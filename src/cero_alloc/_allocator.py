"""FenchelDualAllocator: Algorithm 1, one dual slope per prompt and one price."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, ClassVar, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _kernels
from ._checks import FloatArray, IntArray, counts, flag, generator, instance, integer, real
from ._diagnostics import run_metrics
from ._dual import SlopeStep, counts_of, next_price, play_round, step_sizes
from ._index import tie_ranks
from ._ledger import Horizon, RolloutLedger, visits_per_prompt
from ._posterior import BetaPosteriorBank
from ._prior import PriorFit
from ._state import State, Stateful, check_array
from ._utility import SaturatingUtility


class FenchelDualAllocator(Stateful):
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
        Calls of :meth:`allocate` over the run, K.
    group_size : int
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

    State takes 44 bytes per prompt with its bank, 8 more where ``visits`` differ; a round over the whole pool allocates no
    array of its size but the counts it returns. From a quarter of a million prompts on its passes run in threads, as many
    as there are cores up to 4, or as ``CERO_ALLOC_THREADS`` in the environment says; results are the same to the last bit.

    A call opens a round only while rounds and budget are left. Later calls close what is open and change nothing else:
    nothing ages, and a refund lets the next call deal again.

    References
    ----------
    arXiv 2610.09679, Algorithm 1. Theorem 1 of the theory page bounds its regret per prompt by a multiple of
    :math:`1 / \sqrt K`.

    Examples
    --------
    >>> bank = BetaPosteriorBank(["easy", "middle", "hard"])
    >>> allocator = FenchelDualAllocator(bank, total_budget=64, n_rounds=8, group_size=4, max_rollouts=8, seed=1)
    >>> counts = allocator.allocate(["easy", "hard"], budget=16)
    >>> counts.tolist()
    [8, 8]
    >>> allocator.update(["easy", "hard"], successes=[8, 1], rollouts=counts)
    >>> allocator.remaining_budget
    48
    """

    _OPTIONAL: ClassVar[tuple[str, ...]] = ("_open",)
    _STATE: ClassVar[tuple[str, ...]] = ("bank", "ledger", "_rng", "_theta", "_tie", "_nu", "_batch_price", "_open")

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
            group_size=group_size,
            max_rollouts=max_rollouts,
            round_capacity=round_capacity,
            offered=offered,
        )
        slope_step, self._price_step = step_sizes(step_size, rounds, batch=visits is not None)
        self._step = SlopeStep(bank, self.ledger.horizon, utility, slope_step)
        self._nu = real(
            "initial_price", initial_price, low=0.0, high=1.0, remedy="The price is a share of the largest slope."
        )
        self._batch_form = visits is not None
        self._catch_up = flag("catch_up", catch_up)
        self._fit_every = None if fit_every is None else integer("fit_every", fit_every, least=1, remedy="Or None.")
        self.prior_fit: PriorFit | None = None  # of the last refit
        self.bank = bank
        self.utility = utility
        self._rng = generator(seed)
        self._theta = np.minimum(1.0, 4.0 * bank._values(None))
        self._tie = tie_ranks(self._rng, len(bank))
        self._batch_price = self._nu  # slope of the last prompt dealt where the round's total binds, else the price
        # The open round: rows on offer (None: all), their number, positions that got a proposal, and its units.
        self._open: tuple[IntArray | None, int, IntArray, int] | None = None

    @property
    def horizon(self) -> Horizon:
        """The constants of the run."""
        return self.ledger.horizon

    @property
    def slopes(self) -> FloatArray:
        """Normalised slope per prompt, in [0, 1], as of the last closed round; shape (n_prompts,)."""
        self._grow()
        return self._theta.copy()

    @property
    def price(self) -> float:
        """Normalised price, in [0, 1], as of the last closed round."""
        return self._nu

    @property
    def exposure(self) -> IntArray:
        """Rollouts dealt to each prompt and not refunded; shape (n_prompts,)."""
        self._grow()
        return self.ledger.rollouts

    @property
    def remaining_budget(self) -> int:
        """Rollouts not dealt yet."""
        return int(self.ledger.remaining_budget)

    @property
    def round(self) -> int:
        """Rounds opened so far."""
        return self.ledger.round

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
            Rollouts per prompt in the order of ``prompt_ids``, multiples of ``group_size`` between 0 and
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
        rows = self.bank._index.unique_rows(prompt_ids)
        size = len(self.bank) if rows is None else rows.size
        cap = self.ledger.round_units(size, budget, exact)
        return self._deal(rows, size, cap, exact)

    def update(self, prompt_ids: Iterable[Hashable] | None, successes: npt.ArrayLike, rollouts: npt.ArrayLike) -> None:
        """Add observed rewards; order-free, additive, at any time.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts that were observed, each once per call; None names the whole pool in row order.
        successes : array_like of float, shape (n_ids,)
            Sum of the rewards of each prompt, in [0, rollouts].
        rollouts : array_like of int, shape (n_ids,)
            Rewarded rollouts of each prompt; more or fewer than were dealt is fine.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError
            As :meth:`BetaPosteriorBank.update`; nothing changes after any error.

        Examples
        --------
        >>> allocator = FenchelDualAllocator(BetaPosteriorBank(2), total_budget=8, n_rounds=2, max_rollouts=4)
        >>> counts = allocator.allocate()
        >>> allocator.update([1], successes=[0.5], rollouts=[1])
        >>> allocator.update([1, 0], successes=[2.5, 1], rollouts=[3, 4])
        >>> allocator.bank.mean().tolist()
        [0.3333333333333333, 0.6666666666666666]
        """
        self._grow()
        self.ledger.settle(*self.bank._observe(prompt_ids, successes, rollouts))

    def refund(self, prompt_ids: Iterable[Hashable] | None, rollouts: npt.ArrayLike) -> None:
        """Hand back rollouts that were dealt but never generated.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts, each once; None names the whole pool in row order.
        rollouts : array_like of int, shape (n_ids,)
            Rollouts to return to the budget: whole groups, at most what is dealt and neither reported nor refunded.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError
            For a repeated id or more than is outstanding; nothing changes after any error.

        Examples
        --------
        >>> allocator = FenchelDualAllocator(BetaPosteriorBank(2), total_budget=8, n_rounds=4, max_rollouts=4)
        >>> int(allocator.allocate(budget=4, exact=True).sum())
        4
        >>> dealt = allocator.exposure
        >>> allocator.refund([0, 1], dealt)
        >>> allocator.remaining_budget
        8
        """
        self._grow()
        rows = self.bank._index.named_rows(prompt_ids)
        self.ledger.refund(rows, counts("rollouts", rollouts, rows.size), self.bank._index.name)

    def metrics(self, *, certificate: bool = True) -> dict[str, float]:
        """Return the run's state as a flat dict of floats, ready for a logger.

        =========================== ==========================================================================
        ``round``                   rounds opened
        ``price``                   price of the run, in [0, 1]: a share of the steepest slope
        ``batch_price``             price that cleared the last round: the same, unless its total was bound
        ``starved``                 sign of their difference: 1 where the round got less than the run's price
                                    would give it, -1 where it was over-funded, 0 else
        ``remaining_budget``        rollouts (or tokens) not dealt
        ``spent_budget``            rollouts dealt and not refunded
        ``projected_leftover``      rollouts that stay unspent if rounds go on as they did on average
        ``outstanding_rollouts``    rollouts dealt, neither reported nor refunded
        ``pacing_gap``              rollouts spent ahead of the uniform schedule
        ``allocating_rounds``       rounds that dealt anything
        ``effective_group_rate``    share of reported groups with both successes and failures; NaN before any
        ``calibration_...``         :meth:`Calibration.metrics`: predicted against observed reward variance
        ``certificate_achieved``    utility of the rollouts dealt so far, per prompt, as values stand now
        ``certificate_optimum``     the oracle's best use of the same rollouts, under the same offers and caps
        ``certificate_gap``         duality gap of that optimum
        ``certificate_regret``      optimum + gap - achieved: the regret per prompt is no larger
        =========================== ==========================================================================

        Parameters
        ----------
        certificate : bool
            Whether to solve for the regret certificate, about ten passes over the pool.

        References
        ----------
        Claim 15 of the theory page: what the certificate certifies.

        Examples
        --------
        >>> allocator = FenchelDualAllocator(BetaPosteriorBank(2), total_budget=8, n_rounds=2, max_rollouts=4)
        >>> allocator.metrics()["remaining_budget"]
        8.0
        """
        self._grow()
        return run_metrics(
            self.bank,
            self.ledger,
            self.utility,
            price=self._nu,
            batch_price=self._batch_price,
            certificate=certificate,
        )

    def _deal(self, rows: IntArray | None, size: int, cap: int, exact: bool) -> IntArray:
        """Close the open round, then propose ``cap`` units at most, or exactly, and debit what the budget covers."""
        self._close()
        if self.ledger.finished:
            return np.zeros(size, dtype=np.int64)
        self._refit()
        key, tie = self._theta, self._tie
        if rows is not None:
            key, tie = np.empty(size), np.empty(size, dtype=np.int32)
            _kernels.look_up(rows, self._theta, self._tie, key, tie)
        due = 0
        if self._catch_up and not exact:
            due = min(cap, self.ledger.units_left - self._reserve(rows, size))
        played = play_round(key, tie, self._nu, self.ledger, cap, size * self.horizon.n_max, due, exact=exact)
        self._open = (rows, size, played.places, played.proposed)
        self._batch_price = played.cleared
        self.bank.tick()
        return self.ledger.open_round(rows, size, played.paid, counts_of(played.paid, played.dealt, self.horizon.n_max))

    def state_dict(self) -> State:
        """Return bank, ledger, duals and random state as a plain dict of copies; load it with ``load_state_dict``."""
        self._grow()
        return super().state_dict()

    def _when_set(self, name: str) -> Any:
        return ()  # a tuple: the open round

    def _check_state(self, state: Any, label: str) -> None:
        self._grow()
        super()._check_state(state, label)
        opened = state["open"]
        if opened is None:
            return
        odd = f"{label}['open'] must be a round over prompts of the bank. Pass what state_dict returned."
        if len(opened) != 4 or not all(isinstance(number, int) for number in opened[1::2]):
            raise ValueError(odd)
        rows, size, places, proposed = opened
        check_array(f"{label}['open'][2]", np.empty(np.size(places), dtype=np.int64), places)
        if rows is not None:
            check_array(f"{label}['open'][0]", np.empty(size, dtype=np.int64), rows)
        # A round over the whole pool may have been dealt before some of it joined.
        within = [places, np.array([size - 1])] if rows is None else [rows]
        if any(some.size and not 0 <= some.min() <= some.max() < len(self.bank) for some in within):
            raise ValueError(odd)
        n_max = self.horizon.n_max
        if places.size and not (
            0 <= places.min() <= places.max() < size and 0 < proposed - (places.size - 1) * n_max <= n_max
        ):
            raise ValueError(odd)

    def _reserve(self, rows: IntArray | None, size: int) -> int:
        """Return the most units that the rounds after this one can spend."""
        ledger = self.ledger
        later = ledger.rounds_left - 1
        if not self._batch_form:
            return later * ledger.reach(size)
        left = np.broadcast_to(self._visits, len(self.bank)) - ledger.offers
        left[slice(None) if rows is None else rows] -= 1
        return min(int(np.maximum(left, 0).sum()) * self.horizon.n_max, later * ledger.reach(len(self.bank)))

    def _refit(self) -> None:
        """Refit the prior when its round has come."""
        if self._fit_every is not None and self.ledger.round and self.ledger.round % self._fit_every == 0:
            self.prior_fit = self.bank.fit_prior()

    def _close(self) -> None:
        """Take the dual step of the open round with the posterior as it stands."""
        if self._open is None:
            return
        rows, size, places, proposed = self._open
        units = counts_of(places, proposed, self.horizon.n_max)
        if rows is None:  # prompts that joined after the round was dealt were not offered in it
            self._step.pool(self._theta[:size], places, units, self._visits)
        else:
            proposal = np.zeros(size, dtype=np.int64)
            proposal[places] = units
            theta = self._theta[rows]
            self._step.rows(theta, rows, proposal, self._visits)
            self._theta[rows] = theta
        self._nu = next_price(self._nu, proposed, self.horizon, self._price_step)
        self._open = None

    def _grow(self) -> None:
        """Make room for prompts that joined the bank."""
        old, new = self._theta.size, len(self.bank)
        if new == old:
            return
        rows = np.arange(old, new)
        self._theta = np.concatenate([self._theta, np.minimum(1.0, 4.0 * self.bank._values(rows))])
        self._tie = np.concatenate([self._tie, tie_ranks(self._rng, new - old, old)])
        if self._visits.size > 1:
            self._visits = np.concatenate([self._visits, np.full(new - old, self._visits.min())])
        self.ledger.grow(new)
