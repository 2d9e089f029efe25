"""One round of any policy: allocate, draw, update, and further waves for policies that deal in waves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._budget import kernels
from cero_alloc._checks import FloatArray, IntArray, error_text, pool_rows

# Takes positions among the prompts on offer and the rollouts of each; returns their reward sums and rewarded rollouts, and
# the sums of their squared rewards where these are not 0 or 1.
Drawn = tuple[npt.NDArray[Any], IntArray] | tuple[npt.NDArray[Any], IntArray, FloatArray]
Draw = Callable[[IntArray, IntArray], Drawn]


class Policy(Protocol):
    """The interface of simulation and replay: any object with these two methods.

    A policy that deals a round in waves also has ``continue_round(counts, successes)``. Where rewards are not all 0 or 1,
    ``update`` is also given ``squares``, the sums of the squared rewards, if it has a parameter of this name or takes any
    keyword; without it a policy is told the sums only.

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


class Played(NamedTuple):
    """What became of the prompts on offer over all waves of a round; arrays of shape (n_offered,).

    Attributes
    ----------
    counts : numpy.ndarray of int64
        Rollouts dealt.
    successes : numpy.ndarray of float64
        Sums of the rewards.
    answered : numpy.ndarray of int64
        Rollouts with a reward.
    squares : numpy.ndarray of float64
        Sums of the squared rewards, which equal ``successes`` where rewards are 0 or 1.
    """

    counts: IntArray
    successes: FloatArray
    answered: IntArray
    squares: FloatArray


def play_round(
    policy: Policy,
    prompt_ids: npt.NDArray[Any] | None,
    draw: Draw,
    *,
    budget: SupportsIndex | None = None,
    exact: bool = False,
    feedback: bool = True,
    wave: IntArray | None = None,
) -> Played:
    """Run all waves of one round.

    Parameters
    ----------
    policy : Policy
        The policy to play.
    prompt_ids : numpy.ndarray, shape (n_offered,), or None
        Ids on offer; None for the whole pool.
    draw : callable
        ``draw(positions, n)`` returns the sums of the rewards of ``n`` rollouts of the prompts at these positions, and the
        number of rollouts that have a reward; where rewards are not 0 or 1 also the sums of their squares.
    budget, exact
        Arguments of ``allocate``.
    feedback : bool
        Whether the policy receives the rewards.
    wave : numpy.ndarray of int64, shape (n_offered,), or None
        First wave, if the caller has called ``allocate``; None calls it here.

    Returns
    -------
    Played
        Rollouts dealt and their rewards.

    Examples
    --------
    >>> from cero_alloc import BetaPosteriorBank
    >>> from cero_alloc.baselines import DAPO
    >>> policy = DAPO(BetaPosteriorBank(4), total_budget=32, n_rounds=1, max_rollouts=8)
    >>> played = play_round(policy, None, lambda positions, n: (0 * n, n))
    >>> played.counts.tolist(), int(played.successes.sum())
    ([8, 8, 8, 8], 0)
    """
    if wave is None:
        wave = _first_wave(policy, prompt_ids, budget, exact)
    counts, answered, (successes, squares) = wave.copy(), np.zeros(wave.size, wave.dtype), np.zeros((2, wave.size))
    while (chosen := (wave != 0).nonzero()[0]).size:
        won, seen, *squared = draw(chosen, wave[chosen])
        successes[chosen] += won
        answered[chosen] += seen
        squares[chosen] += squared[0] if squared else won
        if feedback:
            more = {"squares": squared[0]} if squared and takes_squares(policy) else {}
            policy.update(chosen if prompt_ids is None else prompt_ids[chosen], won, seen, **more)
        if not hasattr(policy, "continue_round"):
            break
        reported, rewards = np.zeros_like(wave), np.zeros(wave.size)
        if feedback:
            reported[chosen], rewards[chosen] = seen, won
        wave = policy.continue_round(reported, rewards)
        counts = counts + wave
    return Played(counts, successes, answered, squares)


def takes_squares(policy: Policy) -> bool:
    """Tell whether the method ``update`` of a policy has a parameter ``squares``, or takes any keyword."""
    try:
        taken = inspect.signature(policy.update).parameters.values()
    except (TypeError, ValueError):  # it has no signature: it may be compiled
        return False
    return any(parameter.name == "squares" or parameter.kind is parameter.VAR_KEYWORD for parameter in taken)


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

    def checked(positions: IntArray, n: IntArray) -> Drawn:
        nonlocal left
        left -= check_counts(n, unit_size, left if most is None else most, left)
        return draw(positions, n)

    return checked


def bernoulli(rng: np.random.Generator, rows: IntArray, p: FloatArray) -> Draw:
    """Return the draw of 0/1 rewards for the prompts in ``rows`` at the success rates ``p`` of the pool."""
    return lambda positions, n: (rng.binomial(n, p[rows[positions]]), n)


def categorical(rng: np.random.Generator, rows: IntArray, levels: FloatArray, chances: FloatArray) -> Draw:
    """Return the draw of rewards with these levels, at the chances of the pool, for the prompts in ``rows``."""

    def draw(positions: IntArray, n: IntArray) -> Drawn:
        drawn = rng.multinomial(n, chances[rows[positions]]).astype(np.float64)
        return drawn @ levels, n, drawn @ levels**2

    return draw


def offered_rows(batches: Sequence[npt.ArrayLike], n_prompts: int, n_rounds: int) -> list[IntArray]:
    """Return the rows on offer in each round, checked."""
    if len(batches) != n_rounds:
        raise ValueError(error_text("batches", f"hold {n_rounds} rounds", len(batches), "Give one batch per round."))
    return [pool_rows("batches", batch, n_prompts, k) for k, batch in enumerate(batches)]
