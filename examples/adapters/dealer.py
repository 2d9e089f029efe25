"""One allocator between a trainer's generation and its training step."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Sequence
from typing import Any

from .common import feedback, prompt_metrics, require_groups


class Dealer:
    """Deals the exact total of a batch, takes its rewards, and reports both.

    Parameters
    ----------
    allocator : FenchelDualAllocator, ResolvingAllocator or any of ``cero_alloc.baselines``
        Knows every prompt that will be offered.
    success : callable or None
        Maps a reward to [0, 1]; None takes rewards as they are.
    """

    def __init__(self, allocator: Any, success: Callable[[float], float] | None = None) -> None:
        self.allocator, self.success = allocator, success
        self.offered: Container[Hashable] = ()
        self.figures: dict[str, float] = {}

    def deal(self, prompts: Sequence[Hashable] | None, total: int) -> list[int]:
        """Return the rollouts of each prompt, of the whole pool for None; they sum to ``total``."""
        counts: list[int] = self.allocator.allocate(prompts, total, exact=True).tolist()
        self.offered = self.allocator.bank if prompts is None else set(prompts)
        return counts

    def learn(self, prompts: Sequence[Hashable], rewards: Sequence[float]) -> None:
        """Report the rewards of a batch, one per rollout, NaN where nothing could score it."""
        unknown = next((prompt for prompt in prompts if prompt not in self.offered), None)
        if unknown is not None:
            raise ValueError(
                f"rollouts must carry the prompt they were asked for, got {unknown!r}. Pass its id through unchanged."
            )
        names, successes, rollouts = feedback(prompts, rewards, self.success)
        self.allocator.update(names, successes, rollouts)
        self.figures = prompt_metrics(successes, rollouts)

    def metrics(self) -> dict[str, float]:
        """Return the last batch's figures per prompt, and the allocator's own."""
        return self.figures | self.allocator.metrics(certificate=False)


def require_exact_batches(allocator: Any, per_prompt: int, n_prompts: int, setting: str) -> None:
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

    Raises
    ------
    ValueError
        For groups of one, or caps that a batch's total does not fit.
    """
    require_groups(allocator)
    horizon = allocator.horizon
    if per_prompt % horizon.unit_size or per_prompt > horizon.max_rollouts:
        raise ValueError(
            f"{setting} = {per_prompt} must be a multiple of unit_size = {horizon.unit_size}, at most "
            f"max_rollouts = {horizon.max_rollouts}, or a batch cannot hold its rollouts. Build the allocator for it."
        )
    if n_prompts * per_prompt > horizon.round_capacity:
        raise ValueError(
            f"round_capacity = {horizon.round_capacity} must be at least the {n_prompts * per_prompt} rollouts of a batch. "
            "Raise it."
        )
