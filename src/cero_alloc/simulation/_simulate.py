"""simulate: run a policy on a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._budget.horizon import Horizon
from cero_alloc._checks import FloatArray, IntArray, error_text, generator, instance, integer
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._objective.oracle import OfflineOracle
from cero_alloc._objective.utility import SaturatingUtility

from . import _kernels
from ._bounds import path_optimum_bound, regret_bound
from ._pool import Pool
from ._result import SimulationResult
from ._rounds import (
    Policy,
    bernoulli,
    categorical,
    check_counts,
    check_policy,
    checked_draw,
    offered_rows,
    play_round,
)
from ._trained import TrainedPool


def simulate(
    policy: Policy,
    pool: Pool,
    n_rounds: SupportsIndex,
    seed: int | np.random.Generator = 0,
    *,
    batches: Sequence[IntArray] | None = None,
    horizon: Horizon | None = None,
    utility: SaturatingUtility | None = None,
    feedback: bool = True,
    optimum: float | None = None,
) -> SimulationResult:
    """Run a policy on a pool: allocate, draw, update, once per round.

    Rewards are 0 or 1, or those of a pool of levels (:meth:`Pool.of_levels`). The policy is then also told the sums of the
    squared rewards, if its ``update`` takes ``squares``; the true values are the variances of the rewards in either case.

    Parameters
    ----------
    policy : Policy
        An object with ``allocate`` and ``update``; its bank must hold the pool's prompts in the pool's order.
    pool : Pool
        True success rates, or chances of reward levels. A :class:`TrainedPool` must be fresh; the run trains it, and its
        optimum is NaN.
    n_rounds : int, at least 1
        Rounds to run.
    seed : int or numpy.random.Generator
        Draws the rewards.
    batches : sequence of array_like of int, each of shape (n_offered,), or None
        Rows on offer in each round, as from :func:`epoch_batches`; None offers the whole pool in every round. With batches
        no theorem bounds the regret, so ``bound`` is NaN, and on moving rates the optimum ignores the batches.
    horizon : Horizon or None
        Constants for optimum and bound; None takes ``policy.horizon``.
    utility : SaturatingUtility or None
        Value of exposure; None takes ``policy.utility`` if the policy has one, and the default utility if not.
    feedback : bool
        Whether the policy receives the rewards.
    optimum : float or None
        Utility of this pool's optimum, or an upper bound on it; None computes it.

    Returns
    -------
    SimulationResult
        Counts, rewards and prices of every round, and their utility.

    Raises
    ------
    ValueError
        For a policy without a horizon if none is given, sizes or batches that do not match, counts that are not
        integers or exceed the horizon's caps, or a pool that is trained already.
    TypeError
        For a policy without ``allocate`` and ``update``, a pool, horizon or utility of another class, a number of rounds
        that is not an integer, or an invalid seed.

    References
    ----------
    Theorems 1 and 2 and Claims 6 to 9 of the theory page: the bound and the optimum.

    Examples
    --------
    >>> from cero_alloc import FenchelDualAllocator
    >>> from cero_alloc.simulation import static_pool
    >>> pool = static_pool(16, seed=3)
    >>> policy = FenchelDualAllocator(pool.bank(), total_budget=16 * 64, n_rounds=64, max_rollouts=2)
    >>> result = simulate(policy, pool, 64)
    >>> 0.0 <= result.regret <= result.bound
    True
    """
    check_policy(policy)
    instance("pool", pool, Pool, "Draw one with static_pool(...).")
    for name, given, kind in (("horizon", horizon, Horizon), ("utility", utility, SaturatingUtility)):
        if given is not None:
            instance(name, given, kind, f"Pass {kind.__name__}(...), or None for the policy's own.")
    rounds = integer("n_rounds", n_rounds, least=1, remedy="Count the rounds to run.")
    h: Horizon | None = horizon if horizon is not None else getattr(policy, "horizon", None)
    if h is None:
        raise ValueError("horizon must be given for a policy without one. Pass horizon=Horizon(...).")
    if (h.n_prompts, h.n_rounds) != (pool.n_prompts, rounds):
        condition = f"fit {pool.n_prompts} prompts and {rounds} rounds"
        raise ValueError(
            error_text("horizon", condition, (h.n_prompts, h.n_rounds), "Build the policy for this pool and n_rounds.")
        )
    trained = pool if isinstance(pool, TrainedPool) else None
    if trained is not None and trained.rounds:
        raise ValueError(error_text("pool", "be untrained", trained.rounds, "Pass pool.fresh() to every run."))
    worth: SaturatingUtility = utility or getattr(policy, "utility", None) or SaturatingUtility()
    rng = generator(seed)
    bank: BetaPosteriorBank | None = getattr(policy, "bank", None)
    run = _Recorder(h, bank)
    ids = None if pool.prompt_ids is None else np.fromiter(pool.prompt_ids, dtype=object, count=pool.n_prompts)
    offers = None if batches is None else offered_rows(batches, pool.n_prompts, rounds)
    static, whole = pool.static, np.arange(pool.n_prompts)
    z, left = np.zeros(pool.n_prompts, dtype=np.int64), h.budget_units  # exposure and budget in units
    of_levels = None if pool.levels is None or pool.chances is None else (pool.levels, pool.chances)
    achieved, variation = 0.0, 0.0

    p, q = pool.at(0, rounds), pool.values(0, rounds)
    for k in range(rounds):
        if not static and k:
            p = pool.at(k, rounds)
            q, before = pool.values(k, rounds), q
            variation += float(np.abs(q - before).max())
        rows = whole if offers is None else offers[k]
        names = None if ids is None and offers is None else rows if ids is None else ids[rows]
        rewards = bernoulli(rng, rows, p) if of_levels is None else categorical(rng, rows, *of_levels)
        draw = checked_draw(rewards, left * h.unit_size, unit_size=h.unit_size, most=h.max_rollouts)

        counts, won, _, squares = play_round(policy, names, draw, feedback=feedback)
        dealt = (counts != 0).nonzero()[0]  # NumPy finds bools several times faster than integers
        chosen, n = rows[dealt], counts[dealt]
        s = won[dealt].astype(np.int64) if of_levels is None else won[dealt]
        total = check_counts(n, h.unit_size, h.max_rollouts, left * h.unit_size)
        units = n // h.unit_size
        if not static:
            x, more = z[chosen] / h.equal_share_units, units / h.equal_share_units
            achieved += float((worth.value(q[chosen], x + more) - worth.value(q[chosen], x)).sum())
        if trained is not None:
            trained.train(chosen, s, n)
        z[chosen] += units
        left -= total // h.unit_size
        run.record(k, (chosen, n, s, squares[dealt]), total, q, float(getattr(policy, "price", np.nan)))
    if static:
        achieved = float(worth.value(q, z / h.equal_share_units).sum())
    if optimum is None and static:
        visits = rounds if offers is None else np.bincount(np.concatenate(offers), minlength=pool.n_prompts)
        oracle = OfflineOracle(worth)
        optimum = oracle.solve(
            q, h.budget_units, equal_share=h.equal_share_units, upper=visits * h.max_units, integer=True
        ).optimum
    elif optimum is None and trained is not None:
        optimum = np.nan  # the path of the rates depends on the policy
    elif optimum is None:
        path = np.stack([pool.values(k, rounds) for k in range(rounds)], axis=1)
        optimum, _ = path_optimum_bound(path, h, worth)
    result = run.result(achieved, optimum, variation, z * h.unit_size, worth)
    error = float(result.proxy_error.mean())
    unbounded = offers is not None or trained is not None or np.isnan(error)
    bound = np.nan if unbounded else regret_bound(h, worth, proxy_error=error, variation=variation)
    return replace(result, bound=bound)


Groups = tuple[IntArray, IntArray, npt.NDArray[Any], FloatArray]  # rows, rollouts, sums of rewards and of their squares


class _Recorder:
    """Collects the groups of a run, with the bank's predictions for them before each round."""

    def __init__(self, horizon: Horizon, bank: BetaPosteriorBank | None) -> None:
        rounds, size = horizon.n_rounds, horizon.n_prompts
        self.horizon = horizon
        self.bank = bank
        self.groups: list[Groups] = []
        self.predicted: list[tuple[FloatArray, FloatArray]] = []
        self.mean_counts = np.zeros((rounds, 5), dtype=np.int64)
        self.proxy_error = np.full(rounds, np.nan)
        self.price = np.full(rounds, np.nan)
        self.dealt = np.zeros(rounds, dtype=np.int64)
        # The bank's predictions for the next round. NaN parameters count as changed; the means of 0 are in the first bin.
        self.alpha, self.beta = np.full((2, size), np.nan)
        self.mean, self.value = np.zeros((2, size))
        self.bins = np.array([size, 0, 0, 0, 0])
        if bank is not None:
            if len(bank) != size:
                condition = f"hold the pool's {size} prompts"
                raise ValueError(error_text("bank", condition, len(bank), "Build it with pool.bank()."))
            self._forecast(bank, np.zeros(size))

    def record(self, k: int, groups: Groups, total: int, q: FloatArray, price: float) -> None:
        """Record the groups of round k, and the bank's distance from the true values ``q`` after it."""
        chosen = groups[0]
        self.groups.append(groups)
        self.price[k] = price
        self.dealt[k] = total
        if self.bank is not None:
            self.predicted.append((self.mean[chosen], self.value[chosen]))
            self.mean_counts[k] = self.bins
            self.proxy_error[k] = self._forecast(self.bank, q) / q.size

    def _forecast(self, bank: BetaPosteriorBank, q: FloatArray) -> float:
        """Update the predictions from the bank and return the sum of their distances from the values ``q``.

        The whole pool is read although a round changes few prompts, because a policy may change its bank in other ways.
        """
        known = (self.alpha, self.beta, self.mean, self.value, self.bins)
        return float(_kernels.forecast(bank.evidence.arrays, q, *known))

    def result(
        self, achieved: float, optimum: float, variation: float, exposure: IntArray, utility: SaturatingUtility
    ) -> SimulationResult:
        """Return the result of the run without the bound, which the caller adds."""
        prompt, rollouts, successes, squares = (np.concatenate(column) for column in zip(*self.groups, strict=True))
        unknown = np.full(prompt.size, np.nan)
        mean, value = (
            (np.concatenate(c) for c in zip(*self.predicted, strict=True)) if self.predicted else (unknown, unknown)
        )
        h = self.horizon
        schedule = np.arange(1, h.n_rounds + 1) * (h.total_budget / h.n_rounds)
        return SimulationResult(
            horizon=h,
            group_round=np.repeat(np.arange(h.n_rounds), [chosen.size for chosen, *_ in self.groups]),
            group_prompt=prompt,
            group_rollouts=rollouts,
            group_successes=successes,
            group_squares=squares,
            group_mean=mean,
            group_value=value,
            mean_counts=self.mean_counts,
            achieved=achieved,
            optimum=optimum,
            bound=np.nan,
            proxy_error=self.proxy_error,
            variation=variation,
            exposure=exposure,
            pacing_gap=np.cumsum(self.dealt) - schedule,
            price=self.price,
            posterior_mean=self.mean if self.bank is not None else np.full(h.n_prompts, np.nan),
            utility=utility,
        )
