"""Training a log-linear policy on what an allocator deals: curves of success over rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, SupportsIndex

import numpy as np

from cero_alloc._checks import FloatArray, IntArray, error_text, flag, generator, instance, integer, real

from ._loglinear import LogLinearPool, Weighting, group_coefficients, known_weighting, success_rates
from ._rounds import Draw, Policy, check_counts, check_policy, offered_rows, play_round

Optimiser = Literal["sgd", "adam"]

_MOMENTUM, _MEMORY, _TINY = 0.9, 0.999, 1e-8  # Adam's, as published


@dataclass(frozen=True, slots=True, eq=False)
class LearningResult:
    """How well a policy did after each round of a simulated training run, and what it had cost by then.

    Attributes
    ----------
    rollouts : numpy.ndarray of int64, shape (n_rounds + 1,)
        Rollouts spent by the start and after each round.
    held_out : numpy.ndarray of float64, shape (n_rounds + 1,)
        Mean success rate on the held-out prompts then.
    trained : numpy.ndarray of float64, shape (n_rounds + 1,)
        Mean success rate on the training prompts then.
    signal : numpy.ndarray of float64, shape (n_rounds,)
        Share of a round's rollouts in groups with both outcomes; NaN for a round without rollouts.
    exposure : numpy.ndarray of int64, shape (n_prompts,)
        Rollouts per training prompt.
    weights : numpy.ndarray of float64, shape (n_features,)
        Weights of the policy at the end: log-odds per unit of a feature.

    References
    ----------
    The page "Does it learn faster?": the protocol that :meth:`area` and :meth:`rollouts_to` belong to.

    Examples
    --------
    >>> curve = np.array([0.2, 0.4, 0.6])
    >>> result = LearningResult(np.array([0, 10, 30]), curve, curve, np.ones(2), np.array([30]), np.zeros(1))
    >>> round(result.area(), 3), result.rollouts_to(0.5)
    (0.433, 20.0)
    """

    rollouts: IntArray
    held_out: FloatArray
    trained: FloatArray
    signal: FloatArray
    exposure: IntArray
    weights: FloatArray

    def rollouts_to(self, level: float) -> float:
        """Return the rollouts at which success on the held-out prompts first reaches ``level``.

        Parameters
        ----------
        level : float, in [0, 1]
            Mean success rate.

        Returns
        -------
        float
            Rollouts, between two rounds on a straight line; inf if the level is never reached.

        Raises
        ------
        ValueError, TypeError
            For a level that is no number in [0, 1].

        Examples
        --------
        >>> curve = np.array([0.2, 0.4, 0.6])
        >>> result = LearningResult(np.array([0, 10, 30]), curve, curve, np.ones(2), np.array([30]), np.zeros(1))
        >>> result.rollouts_to(0.5), result.rollouts_to(0.7)
        (20.0, inf)
        """
        level = real("level", level, low=0.0, high=1.0, remedy="Give a mean success rate.")
        return first_reached(self.rollouts, self.held_out, level)

    def area(self) -> float:
        """Return the mean height of the held-out curve over the rollouts spent; its start where none are.

        Returns
        -------
        float
            Mean success rate, in [0, 1].

        Examples
        --------
        >>> curve = np.array([0.2, 0.4, 0.6])
        >>> result = LearningResult(np.array([0, 10, 30]), curve, curve, np.ones(2), np.array([30]), np.zeros(1))
        >>> round(result.area(), 12)
        0.433333333333
        """
        return mean_height(self.rollouts, self.held_out)


def first_reached(rollouts: IntArray | FloatArray, success: FloatArray, level: float) -> float:
    """Return the rollouts at which a curve first reaches a level, on straight lines between its points; inf if never."""
    k = int(np.argmax(success >= level))
    if not success[k] >= level:
        return float("inf")
    if k == 0:
        return float(rollouts[0])
    (before, after), (start, end) = success[k - 1 : k + 1].tolist(), rollouts[k - 1 : k + 1].tolist()
    return float(start + (level - before) / (after - before) * (end - start))


def mean_height(rollouts: IntArray | FloatArray, success: FloatArray) -> float:
    """Return the mean height of a curve over the rollouts spent; its start where none are."""
    if rollouts[-1] == 0:
        return float(success[0])
    return float(((success[1:] + success[:-1]) / 2.0) @ np.diff(rollouts) / rollouts[-1])


def simulate_learning(
    policy: Policy,
    pool: LogLinearPool,
    n_rounds: SupportsIndex,
    rollouts_per_round: SupportsIndex,
    *,
    learning_rate: float,
    optimiser: Optimiser = "sgd",
    normalise: bool = False,
    weighting: Weighting = "rollout",
    exact: bool = True,
    batches: Sequence[IntArray] | None = None,
    mixed_only: bool = False,
    seed: int | np.random.Generator = 0,
) -> LearningResult:
    """Train a log-linear policy by GRPO on the groups that an allocator deals: allocate, draw, update, step.

    Allocators are compared by what is learnt from equally many rollouts, not by a utility that stands for it. The other
    side of it is that rates depend on what has been dealt before, on all prompts that share features.

    Parameters
    ----------
    policy : Policy
        The allocator: anything with ``allocate`` and ``update``, and ``continue_round`` if it deals in waves; all the
        rollouts of a prompt in a round are one group. Its ids are the rows of the pool, as :meth:`LogLinearPool.bank`
        has them. One with a method ``observe_rates(rates)`` is told the true success rates, shape (n_prompts,), before
        every round: a clairvoyant control.
    pool : LogLinearPool
        Prompts to train on and prompts to be judged by.
    n_rounds : int, at least 1
        Rounds, each of one step at most.
    rollouts_per_round : int, at least 1
        Rollouts of a round; over the run no more than ``n_rounds`` times as many may be spent.
    learning_rate : float, greater than 0
        Step of the weights per unit of gradient, or with "adam" about the step of each weight.
    optimiser : {"sgd", "adam"}
        Plain gradient ascent, or Adam with .9, .999 and 1e-8.
    normalise : bool
        Whether advantages are divided by the group's standard deviation, as in :meth:`LogLinearPool.group_gradient`.
    weighting : {"rollout", "prompt", "importance"}
        How groups are weighted, as there.
    exact : bool
        Whether every round must deal ``rollouts_per_round``: ``allocate(budget=rollouts_per_round, exact=True)``. False
        leaves the pace to the policy, ``allocate()``: for Algorithm 1, and for the rules that deal in waves, which take
        no exact total. Give Algorithm 1 a ``round_capacity`` then: without one it may spend the run in one round.
    batches : sequence of array_like of int, each of shape (n_offered,), or None
        Rows offered in each round, as :func:`epoch_batches` makes them; None offers the whole pool.
    mixed_only : bool
        Whether the mean is over the groups with both outcomes alone, as with DAPO's dynamic sampling. Other groups add 0
        to the gradient, so that this does not turn it but makes it longer.
    seed : int or numpy.random.Generator
        Draws the rewards.

    Returns
    -------
    LearningResult
        Success and cost, round by round.

    Raises
    ------
    ValueError, TypeError
        For a policy without the methods of one, arguments out of range, batches that do not match, and counts that are
        not integers of at least 0, are not one per prompt on offer, or exceed what the round (with ``exact``) or the run
        has left.

    Notes
    -----
    A round of which nothing enters the mean takes no step, and with Adam leaves the moments alone.

    References
    ----------
    arXiv 2402.03300, GRPO; arXiv 1412.6980, Adam; arXiv 2503.14476, DAPO, for ``mixed_only``. Claim 19 of the theory page
    says what the gradient estimates.

    Examples
    --------
    >>> from cero_alloc.baselines import Uniform
    >>> from cero_alloc.simulation import loglinear_pool
    >>> pool = loglinear_pool(100, 10, seed=1)
    >>> policy = Uniform(pool.bank(), total_budget=40 * 200, n_rounds=40, max_rollouts=8)
    >>> result = simulate_learning(policy, pool, 40, 200, learning_rate=20.0)
    >>> int(result.rollouts[-1]), bool(result.held_out[-1] > result.held_out[0] + 0.1)
    (8000, True)
    """
    check_policy(policy)
    instance("pool", pool, LogLinearPool, "Draw one with loglinear_pool(...).")
    rounds = integer("n_rounds", n_rounds, least=1, remedy="Count the rounds to run.")
    quota = integer("rollouts_per_round", rollouts_per_round, least=1, remedy="Count the rollouts of a round.")
    ascend = _optimiser(
        optimiser, real("learning_rate", learning_rate, low=0.0, high=1e50, open_low=True, remedy="Give a step.")
    )
    normalise, exact = flag("normalise", normalise), flag("exact", exact)
    mixed_only, weighting = flag("mixed_only", mixed_only), known_weighting(weighting)
    offers = None if batches is None else offered_rows(batches, pool.n_prompts, rounds)
    rng, everyone = generator(seed), np.arange(pool.n_prompts)
    observe = getattr(policy, "observe_rates", None)

    def rewards(rows: IntArray, p: FloatArray, left: int) -> Draw:
        def draw(positions: IntArray, n: IntArray) -> tuple[IntArray, IntArray]:
            nonlocal left
            left -= check_counts(n, 1, left, left)
            return rng.binomial(n, p[rows[positions]]), n

        return draw

    w, exposure = np.zeros(pool.n_features), np.zeros(pool.n_prompts, dtype=np.int64)
    spent, signal = np.zeros(rounds + 1, dtype=np.int64), np.full(rounds, np.nan)
    held_out, trained = np.empty((2, rounds + 1))

    def judged(k: int) -> FloatArray:
        p = success_rates(pool.features, pool.offsets, w)
        trained[k], held_out[k] = p.mean(), success_rates(pool.held_features, pool.held_offsets, w).mean()
        return p

    p = judged(0)
    for k in range(rounds):
        if observe is not None:
            observe(p.copy())
        rows = everyone if offers is None else offers[k]
        left = quota if exact else rounds * quota - int(spent[k])
        counts, won, _ = play_round(
            policy,
            None if offers is None else rows,
            rewards(rows, p, left),
            budget=quota if exact else None,
            exact=exact,
        )
        if counts.shape != rows.shape:
            condition = f"have one entry per prompt on offer, shape {rows.shape}"
            raise ValueError(error_text("counts", condition, counts.shape, "Correct allocate."))
        dealt = (counts != 0).nonzero()[0]
        chosen, n, s = rows[dealt], counts[dealt], won[dealt]
        np.add.at(exposure, chosen, n)
        total = int(n.sum())
        spent[k + 1] = spent[k] + total
        mixed = (s > 0) & (s < n)
        if total:
            signal[k] = n[mixed].sum() / total
        if mixed_only:
            chosen, n, s = chosen[mixed], n[mixed], s[mixed]
        if n.size:
            w = w + ascend(pool.features[chosen].T @ group_coefficients(n, s, normalise, weighting, exposure[chosen]))
        p = judged(k + 1)
    return LearningResult(spent, held_out, trained, signal, exposure, w)


def _optimiser(name: Optimiser, rate: float) -> Callable[[FloatArray], FloatArray]:
    """Return what turns a gradient into a step uphill."""
    if name == "sgd":
        return lambda gradient: rate * gradient
    if name != "adam":
        raise ValueError(error_text("optimiser", "be 'sgd' or 'adam'", name, "Correct the spelling."))
    steps, first, second = 0, np.zeros(()), np.zeros(())

    def adam(gradient: FloatArray) -> FloatArray:
        nonlocal steps, first, second
        steps += 1
        first = _MOMENTUM * first + (1.0 - _MOMENTUM) * gradient
        second = _MEMORY * second + (1.0 - _MEMORY) * gradient**2
        size = np.sqrt(second / (1.0 - _MEMORY**steps)) + _TINY
        step: FloatArray = rate * first / (1.0 - _MOMENTUM**steps) / size
        return step

    return adam
