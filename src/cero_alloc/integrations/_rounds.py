"""Rounds that overlap: one is dealt while rewards of earlier ones are still to come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cero_alloc._checks import FloatArray, error_text

from ._dealer import Dealer
from ._figures import group_figures

_MOST = 65_536  # visits that figures look back on, where nobody asks for them


class Visit(NamedTuple):
    """Rollouts of one prompt that a round dealt."""

    prompt: Hashable
    rollouts: int
    round: int


class _Heard(NamedTuple):
    """A visit whose rewards came, with an entry for each rollout."""

    visit: Visit
    rewards: Sequence[float]
    advantages: FloatArray
    ages: Sequence[float]


class Rounds:
    """Deals exact totals over the whole pool, and takes the rewards of each visit when they come, in any order.

    Copies of one object that get the same calls in the same order stay equal, in other processes as well.

    Parameters
    ----------
    allocator : FenchelDualAllocator, ResolvingAllocator or any of ``cero_alloc.baselines``
        Budgets in rollouts.
    total : int
        Rollouts of a round.
    success : callable or None
        Maps a reward to [0, 1]; None takes rewards as they are.
    group_size : int
        Rollouts per prompt of the stock trainer.
    in_flight : int or None
        Rounds that may have rollouts outstanding, at least 2: those of older ones return to the budget. None: no bound.

    Raises
    ------
    ValueError
        For a total that no round can deal, budgets in tokens, or a bound below 2.
    """

    def __init__(
        self,
        allocator: Any,
        total: int,
        *,
        success: Callable[[float], float] | None = None,
        group_size: int = 8,
        in_flight: int | None = None,
    ) -> None:
        horizon = allocator.horizon
        most = min(horizon.round_capacity, len(allocator.bank) * horizon.max_rollouts)
        if not allocator.ledger.costs.in_units:
            raise ValueError("costs must be None: a round deals a number of rollouts, not of tokens. Leave them out.")
        if total % horizon.unit_size or total > most:
            condition = f"be a multiple of unit_size = {horizon.unit_size}, at most the {most} that a round can deal"
            raise ValueError(error_text("rollouts of a round", condition, total, "Build the allocator for it."))
        if in_flight is not None and in_flight < 2:
            raise ValueError(error_text("rounds_in_flight", "be at least 2", in_flight, "Rounds overlap here."))
        self.dealer, self.total, self.success = Dealer(allocator, group_size=group_size), total, success
        self._in_flight = in_flight
        self._heard: deque[_Heard] = deque(maxlen=_MOST)  # since the last figures

    def deal(self) -> list[Visit]:
        """Open a round; one beyond the plan is added to it, because the trainer says when the run ends."""
        allocator = self.dealer.allocator
        if self._in_flight is not None:
            allocator.expire(self._in_flight - 2)
        left = allocator.remaining_budget
        short, rounds = max(0, self.total - left), -(-max(left, self.total) // self.total)
        added = max(0, rounds - allocator.ledger.rounds_left)  # rollouts that came back get rounds of their own
        if short or added:
            allocator.extend_budget(short, rounds=added)
        counts = self.dealer.deal(None, self.total)
        names = allocator.bank.prompt_ids
        visited = np.flatnonzero(counts)
        dealt = zip(visited.tolist(), counts[visited].tolist(), strict=True)
        return [Visit(names[place], count, allocator.round) for place, count in dealt]

    def learn(self, visit: Visit, rewards: Sequence[float], ages: Sequence[float]) -> FloatArray:
        """Report a visit's rewards, NaN where nothing could score a rollout, and return their posterior advantages.

        ``ages`` are how much older than the present one each rollout's policy is, in versions.
        """
        values = [x if self.success is None or np.isnan(x) else self.success(x) for x in rewards]
        advantages = self.dealer.learn([visit.prompt] * len(values), values, round=visit.round)
        self._heard.append(_Heard(visit, values, advantages, ages))
        return advantages

    def refund(self, visit: Visit) -> None:
        """Hand back what is outstanding of a visit that was never generated."""
        allocator = self.dealer.allocator
        with allocator.lock:
            owed = allocator.ledger.owed(allocator.bank.index.rows([visit.prompt]), visit.round)
            allocator.refund([visit.prompt], owed, round=visit.round)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Load the allocator's state; what was in flight then is lost, and returns to the budget."""
        self.dealer.allocator.load_state_dict(state)
        self.dealer.allocator.expire(None)

    def metrics(self) -> dict[str, float]:
        """Return the figures of the visits that were heard of since the last call, and the allocator's own."""
        if self._heard:
            visits, *columns = zip(*self._heard, strict=True)
            values, advantages, ages = map(np.concatenate, columns)
            keys = [visit for visit, its in zip(visits, columns[0], strict=True) for _ in its]
            self.dealer.figures |= group_figures(keys, values, advantages)
            self.dealer.figures |= {"mean_age": float(ages.mean()), "largest_age": float(ages.max())}
            self._heard.clear()
        return self.dealer.metrics()
