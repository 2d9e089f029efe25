"""One round of any policy: allocate, draw, update, and further waves for policies that deal in waves."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._budget import kernels
from cero_alloc._checks import FloatArray, IntArray, error_text, pool_rows

# Takes positions among the prompts on offer and the rollouts of each; returns their successes and rewarded rollouts.
Draw = Callable[[IntArray, IntArray], tuple[npt.NDArray[Any], IntArray]]


class Policy(Protocol):
    """The interface of simulation and replay: any object with these two methods.

    A policy that deals a round in waves also has ``continue_round(counts, successes)``.

    Examples
    --------
    >>> class TwoEach:
    ...     def allocate(self, prompt_ids=None, budget=None, *, exact=False):
    ...         return np.full(3 if prompt_ids is None else len(prompt_ids), 2)
    ...
    ...     def update(self, prompt_ids, successes, rollouts):
    ...         pass
    >>> from cero_alloc import Horizon
    >>> from cero_alloc.simulation import Pool, simulate
    >>> horizon = Horizon(n_prompts=3, n_rounds=5, total_budget=30, max_rollouts=2, round_capacity=6)
    >>> simulate(TwoEach(), Pool([0.1, 0.5, 0.9]), 5, horizon=horizon).exposure.tolist()
    [10, 10, 10]
    """

    def allocate(
        self, prompt_ids: Iterable[Hashable] | None = None, budget: SupportsIndex | None = None, *, exact: bool = False
    ) -> IntArray:
        """Return this round's rollouts per prompt.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts on offer, each once; None offers the whole pool in row order.
        budget : int or None
            Cap of this round in rollouts; None leaves the pacing to the policy.
        exact : bool
            Whether to spend exactly ``budget``.

        Returns
        -------
        numpy.ndarray of int64, shape (n_offered,)
            Rollouts per prompt in the order of ``prompt_ids``.
        """

    def update(self, prompt_ids: Iterable[Hashable] | None, successes: npt.ArrayLike, rollouts: npt.ArrayLike) -> None:
        """Record the rewards of rollouts.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Observed prompts; None means the whole pool in row order.
        successes : array_like of float, shape (n_ids,)
            Sum of the rewards of each prompt, in [0, rollouts].
        rollouts : array_like of int, shape (n_ids,)
            Rewarded rollouts of each prompt.
        """


def check_policy(policy: object) -> None:
    """Raise unless ``policy`` is an object with the methods of a policy; a class instead of its instance is refused."""
    remedy = "Pass an allocator that is built, or any object with allocate and update."
    if isinstance(policy, type) or not all(callable(getattr(policy, name, None)) for name in ("allocate", "update")):
        raise TypeError(error_text("policy", "have the methods allocate and update", policy, remedy))


def play_round(
    policy: Policy,
    prompt_ids: npt.NDArray[Any] | None,
    draw: Draw,
    *,
    budget: SupportsIndex | None = None,
    exact: bool = False,
    feedback: bool = True,
    wave: IntArray | None = None,
) -> tuple[IntArray, FloatArray, IntArray]:
    """Run all waves of one round.

    Parameters
    ----------
    policy : Policy
        The policy to play.
    prompt_ids : numpy.ndarray, shape (n_offered,), or None
        Ids on offer; None for the whole pool.
    draw : callable
        ``draw(positions, n)`` returns the successes among ``n`` rollouts of the prompts at these positions, and the number
        of rollouts that have a reward.
    budget, exact
        Arguments of ``allocate``.
    feedback : bool
        Whether the policy receives the rewards.
    wave : numpy.ndarray of int64, shape (n_offered,), or None
        First wave, if the caller has called ``allocate``; None calls it here.

    Returns
    -------
    counts, successes, answered : numpy.ndarray, shape (n_offered,)
        Rollouts dealt, successes, and rollouts with a reward, over all waves.

    Examples
    --------
    >>> from cero_alloc import BetaPosteriorBank
    >>> from cero_alloc.baselines import DAPO
    >>> policy = DAPO(BetaPosteriorBank(4), total_budget=32, n_rounds=1, max_rollouts=8)
    >>> counts, successes, answered = play_round(policy, None, lambda positions, n: (0 * n, n))
    >>> counts.tolist(), int(successes.sum())
    ([8, 8, 8, 8], 0)
    """
    if wave is None:
        wave = _first_wave(policy, prompt_ids, budget, exact)
    counts, answered, successes = wave.copy(), np.zeros(wave.size, dtype=wave.dtype), np.zeros(wave.size)
    while (chosen := (wave != 0).nonzero()[0]).size:
        won, seen = draw(chosen, wave[chosen])
        successes[chosen] += won
        answered[chosen] += seen
        if feedback:
            policy.update(chosen if prompt_ids is None else prompt_ids[chosen], won, seen)
        if not hasattr(policy, "continue_round"):
            break
        reported, rewards = np.zeros_like(wave), np.zeros(wave.size)
        if feedback:
            reported[chosen], rewards[chosen] = seen, won
        wave = policy.continue_round(reported, rewards)
        counts = counts + wave
    return counts, successes, answered


def _first_wave(
    policy: Policy, prompt_ids: npt.NDArray[Any] | None, budget: SupportsIndex | None, exact: bool
) -> IntArray:
    """Call ``allocate`` with the given arguments only, because a user's policy may accept fewer."""
    limits: dict[str, Any] = (
        {"budget": budget, "exact": True} if exact else {} if budget is None else {"budget": budget}
    )
    return policy.allocate(**limits) if prompt_ids is None else policy.allocate(prompt_ids, **limits)


def check_counts(n: IntArray, unit_size: int, most: int, left: int) -> int:
    """Return the sum of counts, or raise if they are invalid, so that policies are compared at equal rollouts.

    Valid counts are integer multiples of ``unit_size``, at most ``most`` per prompt and ``left`` in total.
    """
    if n.dtype.kind not in "iu":
        raise ValueError(error_text("counts", "be integers", n.dtype, "Return an int64 array from allocate."))
    bad, total = kernels.first_bad_count(n.astype(np.int64, order="C", copy=False), unit_size, most)
    if bad >= 0:
        condition = f"be multiples of {unit_size} in [0, {most}]"
        raise ValueError(error_text("counts", condition, n.tolist()[:5], "Correct allocate."))
    if total > left:
        raise ValueError(error_text("counts", f"sum to at most the {left} left", total, "Correct allocate."))
    return int(total)


def checked_draw(draw: Draw, left: int, *, unit_size: int = 1, most: int | None = None) -> Draw:
    """Return ``draw`` for one round of at most ``left`` rollouts, which checks the counts of every wave first.

    ``most`` caps the rollouts per prompt and wave; None means what is left of the round.
    """

    def checked(positions: IntArray, n: IntArray) -> tuple[npt.NDArray[Any], IntArray]:
        nonlocal left
        left -= check_counts(n, unit_size, left if most is None else most, left)
        return draw(positions, n)

    return checked


def bernoulli(rng: np.random.Generator, rows: IntArray, p: FloatArray) -> Draw:
    """Return the draw of 0/1 rewards for the prompts in ``rows`` at the success rates ``p`` of the pool."""
    return lambda positions, n: (rng.binomial(n, p[rows[positions]]), n)


def offered_rows(batches: Sequence[npt.ArrayLike], n_prompts: int, n_rounds: int) -> list[IntArray]:
    """Return the rows on offer in each round, checked."""
    if len(batches) != n_rounds:
        raise ValueError(error_text("batches", f"hold {n_rounds} rounds", len(batches), "Give one batch per round."))
    return [pool_rows("batches", batch, n_prompts, k) for k, batch in enumerate(batches)]
