"""One allocator between a trainer's generation and its training step."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from cero_alloc._checks import FloatArray, IntArray, error_text

from ._figures import group_figures, uniform_dead_share
from ._groups import require_groups

Advantages = Literal["group", "posterior"]


class Dealer:
    """Deals the exact total of a batch, takes its rewards, and reports both.

    Parameters
    ----------
    allocator : FenchelDualAllocator, ResolvingAllocator or any of ``cero_alloc.baselines``
        Knows every prompt that will be offered.
    success : callable or None
        Maps a reward to [0, 1]; None takes rewards as they are.
    group_size : int
        Rollouts per prompt of the stock trainer, for the figure of what uniform groups would have had.
    """

    def __init__(self, allocator: Any, success: Callable[[float], float] | None = None, *, group_size: int = 8) -> None:
        self.allocator, self.success, self.group_size = allocator, success, group_size
        self.offered: Container[Hashable] = ()
        self.figures: dict[str, float] = {}
        self._uniform = np.nan

    def deal(self, prompts: Sequence[Hashable] | None, total: int) -> IntArray:
        """Return the rollouts of each prompt, of the whole pool for None; they sum to ``total``."""
        counts: IntArray = self.allocator.allocate(prompts, total, exact=True)
        self.offered = self.allocator.bank if prompts is None else set(prompts)
        self._uniform = uniform_dead_share(self.allocator.bank, prompts, self.group_size)
        return counts

    def learn(
        self,
        prompts: Sequence[Hashable],
        rewards: Sequence[float | None],
        *,
        round: int | Sequence[int] | None = None,
        **scoring: Any,
    ) -> FloatArray:
        """Report the rewards of a batch, one per rollout, NaN where nothing could score it, and return their advantages.

        A rollout without a reward is written off: it was spent, and is no evidence. ``round`` is which round dealt them, of
        all or of each. ``scoring`` goes to ``allocator.observe``, whose advantages a trainer with its own ones ignores.
        """
        if round is None and not all(map(self.offered.__contains__, set(prompts))):
            unknown = next(prompt for prompt in prompts if prompt not in self.offered)
            raise ValueError(
                f"rollouts must carry the prompt they were asked for, got {unknown!r}. Pass its id through unchanged."
            )
        values = self._successes(rewards)
        if round is None or isinstance(round, (int, np.integer)):
            advantages: FloatArray = self.allocator.observe(prompts, values, round=round, **scoring)
        else:
            self.allocator.bank.index.rows(prompts)  # unknown ids, before any round is counted
            advantages, rounds = np.zeros(values.size), np.asarray(round)
            for number in np.unique(rounds).tolist():
                places = np.flatnonzero(rounds == number)
                some = [prompts[place] for place in places.tolist()]
                advantages[places] = self.allocator.observe(some, values[places], round=number, **scoring)
        self.figures = group_figures(prompts, values, advantages) | {"uniform_dead_share": self._uniform}
        return advantages

    def metrics(self) -> dict[str, float]:
        """Return the last batch's figures, and the allocator's own."""
        return self.figures | self.allocator.metrics(certificate=False)

    def _successes(self, rewards: Sequence[float | None]) -> FloatArray:
        """Return the rewards by ``success``, or raise for one outside the bank's range; NaN stays."""
        values = np.array([np.nan if reward is None else reward for reward in rewards], dtype=np.float64)
        if self.success is not None:
            scored = np.flatnonzero(~np.isnan(values))
            values[scored] = [self.success(reward) for reward in values[scored].tolist()]
        low, high = self.allocator.bank.reward_range
        bad = np.flatnonzero((values < low) | (values > high))
        if bad.size:
            raise ValueError(
                f"rewards must lie in [{low:g}, {high:g}], got rewards[{bad[0]}] = {values[bad[0]].item()!r}. "
                "Pass success=, which maps a reward to [0, 1], say lambda reward: float(reward > 0)."
            )
        return values


def check_advantages(advantages: str) -> None:
    """Raise for an unknown kind of advantages."""
    if advantages not in get_args(Advantages):
        condition = f"be one of {list(get_args(Advantages))}"
        raise ValueError(error_text("advantages", condition, advantages, "Correct the spelling."))


def require_known(allocator: Any, keys: Iterable[Hashable]) -> None:
    """Raise unless an allocator's bank holds all of these prompts."""
    unknown = next((key for key in keys if key not in allocator.bank), None)
    if unknown is not None:
        raise ValueError(
            f"the allocator's bank must hold every prompt of the training set, got none of {repr(unknown)[:80]}. Build it "
            "from the prompts that build is given."
        )


def require_exact_batches(
    allocator: Any,
    per_prompt: int,
    n_prompts: int,
    setting: str,
    *,
    advantages: str = "group",
    offered: int | None = None,
) -> None:
    """Refuse an allocator that could not deal every batch its exact number of rollouts.

    Parameters
    ----------
    allocator
        As in :class:`Dealer`.
    per_prompt : int
        The stock trainer's rollouts per prompt.
    n_prompts : int
        Prompts of the largest batch.
    setting : str
        The trainer's name of ``per_prompt``.
    advantages : {"group", "posterior"}
        Over the group's mean, which needs two rollouts, or over the posterior mean.
    offered : int or None
        Prompts that may get a batch's rollouts: those of the whole pool where rows are drawn from it; None for ``n_prompts``.

    Raises
    ------
    ValueError
        For groups of one without posterior advantages, or caps that a batch's total does not fit.
    """
    if advantages == "group":
        require_groups(allocator)
    horizon = allocator.horizon
    total, most = n_prompts * per_prompt, (offered or n_prompts) * horizon.max_rollouts
    if total % horizon.unit_size or total > most:
        limit = (
            f"max_rollouts = {horizon.max_rollouts}"
            if offered is None
            else f"the {most} that {offered} prompts can get"
        )
        raise ValueError(
            f"{setting} = {per_prompt} must be a multiple of unit_size = {horizon.unit_size}, at most {limit}, or a batch "
            "cannot hold its rollouts. Build the allocator for it."
        )
    if total > horizon.round_capacity:
        raise ValueError(
            f"round_capacity = {horizon.round_capacity} must be at least the {total} rollouts of a batch. Raise it."
        )
