"""Training of a log-linear policy on the groups that an allocator deals: success against rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, SupportsIndex

import numpy as np

from cero_alloc._checks import FloatArray, IntArray, error_text, flag, generator, instance, integer, real
from cero_alloc._saving.shown import Shown

from ._loglinear import LogLinearPool, Weighting, group_coefficients, known_weighting, success_rates
from ._rounds import Policy, bernoulli, check_policy, checked_draw, offered_rows, play_round

Optimiser = Literal["sgd", "adam"]

_MOMENTUM, _MEMORY, _TINY = 0.9, 0.999, 1e-8  # Adam's published constants


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LearningResult(Shown):
    """Success rates and rollouts spent over the rounds of a simulated training run.

    Attributes
    ----------
    rollouts : numpy.ndarray of int64, shape (n_rounds + 1,)
        Rollouts spent: 0 at the start, then the total after each round.
    held_out : numpy.ndarray of float64, shape (n_rounds + 1,)
        Mean success rate on the held-out prompts at the same times.
    trained : numpy.ndarray of float64, shape (n_rounds + 1,)
        Mean success rate on the training prompts at the same times.
    signal : numpy.ndarray of float64, shape (n_rounds,)
        Share of each round's rollouts in mixed groups; NaN for a round without rollouts.
    exposure : numpy.ndarray of int64, shape (n_prompts,)
        Rollouts per training prompt over the run.
    weights : numpy.ndarray of float64, shape (n_features,)
        Final weights of the policy, in log-odds per unit of a feature.

    References
    ----------
    The page "Does it learn faster?" describes the protocol that uses :meth:`area` and :meth:`rollouts_to`.

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
        """Return the rollouts spent when the success rate on the held-out prompts first reaches ``level``.

        Parameters
        ----------
        level : float, in [0, 1]
            Mean success rate.

        Returns
        -------
        float
            Rollouts, interpolated linearly between rounds; inf if the level is never reached.

        Raises
        ------
        ValueError, TypeError
            For a level that is not a number in [0, 1].

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
        """Return the mean of the held-out curve over the rollouts spent; its first value if none are spent.

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
    """Return the rollouts at which a curve first reaches a level, by linear interpolation; inf if never."""
    k = int(np.argmax(success >= level))
    if not success[k] >= level:
        return float("inf")
    if k == 0:
        return float(rollouts[0])
    (before, after), (start, end) = success[k - 1 : k + 1].tolist(), rollouts[k - 1 : k + 1].tolist()
    return float(start + (level - before) / (after - before) * (end - start))


def mean_height(rollouts: IntArray | FloatArray, success: FloatArray) -> float:
    """Return the mean of a curve over the rollouts spent; its first value if none are spent."""
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

    This compares allocators by the success rates learnt from equal numbers of rollouts, without assuming a utility. The
    success rates depend on all rollouts dealt before, including those of other prompts that share features.

    Parameters
    ----------
    policy : Policy
        The allocator: an object with ``allocate`` and ``update``, and ``continue_round`` if it deals in waves. Its ids are
        the rows of the pool, as in :meth:`LogLinearPool.bank`. If it has a method ``observe_rates(rates)``, it is a
        clairvoyant control and receives the true success rates, shape (n_prompts,), before every round.
    pool : LogLinearPool
        Training prompts and held-out prompts.
    n_rounds : int, at least 1
        Rounds, with at most one optimiser step each.
    rollouts_per_round : int, at least 1
        Rollouts of a round. The run may spend at most ``n_rounds`` times as many.
    learning_rate : float, greater than 0
        Step of the weights per unit of gradient; with "adam", roughly the step of each weight.
    optimiser : {"sgd", "adam"}
        Plain gradient ascent, or Adam with constants 0.9, 0.999 and 1e-8.
    normalise : bool
        Whether advantages are divided by the group's standard deviation, as in :meth:`LogLinearPool.group_gradient`.
    weighting : {"rollout", "prompt", "importance"}
        Weighting of the groups, as in :meth:`LogLinearPool.group_gradient`.
    exact : bool
        Whether every round must deal exactly ``rollouts_per_round``. False calls ``allocate()`` without a budget and
        leaves the pacing to the policy, for Algorithm 1 and for rules that deal in waves, which accept no exact total.
        Give Algorithm 1 a ``round_capacity`` in that case: without one it may spend the whole budget in one round.
    batches : sequence of array_like of int, each of shape (n_offered,), or None
        Rows on offer in each round, as from :func:`epoch_batches`; None offers the whole pool in every round.
    mixed_only : bool
        Whether the gradient is averaged over mixed groups only, as in DAPO's dynamic sampling. Dead groups add 0 to the
        gradient, so leaving them out changes its length but not its direction.
    seed : int or numpy.random.Generator
        Draws the rewards.

    Returns
    -------
    LearningResult
        Success rates and rollouts spent, by round.

    Raises
    ------
    ValueError, TypeError
        For a policy without ``allocate`` and ``update``, arguments out of range, batches that do not match, and counts
        that are not integers of at least 0, are not one per prompt on offer, or exceed the rollouts left in the round
        (with ``exact``) or in the run.

    Notes
    -----
    A round without any group in the average takes no step and does not change Adam's moments.

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
    rng, whole = generator(seed), np.arange(pool.n_prompts)
    observe = getattr(policy, "observe_rates", None)
    w, exposure = np.zeros(pool.n_features), np.zeros(pool.n_prompts, dtype=np.int64)
    spent, signal = np.zeros(rounds + 1, dtype=np.int64), np.full(rounds, np.nan)
    held_out, trained = np.empty((2, rounds + 1))

    def evaluate(k: int) -> FloatArray:
        p = success_rates(pool.features, pool.offsets, w)
        trained[k], held_out[k] = p.mean(), success_rates(pool.held_features, pool.held_offsets, w).mean()
        return p

    p = evaluate(0)
    for k in range(rounds):
        if observe is not None:
            observe(p.copy())
        rows = whole if offers is None else offers[k]
        left = quota if exact else rounds * quota - int(spent[k])
        counts, won, *_ = play_round(
            policy,
            None if offers is None else rows,
            checked_draw(bernoulli(rng, rows, p), left),
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
        p = evaluate(k + 1)
    return LearningResult(spent, held_out, trained, signal, exposure, w)


def _optimiser(name: Optimiser, rate: float) -> Callable[[FloatArray], FloatArray]:
    """Return the function from a gradient to the step of the weights."""
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
