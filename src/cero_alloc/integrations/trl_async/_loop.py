"""TRL's rollout loop, with the allocator in place of a walk through the data set."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, NamedTuple

from trl.experimental.async_grpo.async_rollout_worker import (
    RolloutGroup,
    RolloutSample,
    TrainingSequence,
    _AsyncRolloutLoop,
)

from cero_alloc.integrations._dealer import Advantages
from cero_alloc.integrations._rounds import Rounds, Visit

EVENTS = "cero_alloc"  # key of a sample's metrics under which what the allocator did travels to the trainer
DEAL = None  # the event of a round that was opened; other events are the arguments of Rounds.learn

_NO_ROW = TrainingSequence(input_ids=[], completion_mask=[], old_log_probs=[], rollout_id="")


class _Pending(NamedTuple):
    """A visit whose rollouts are being generated, and those that are there."""

    visit: Visit
    parts: list[RolloutGroup]


class AllocatedRolloutLoop(_AsyncRolloutLoop):
    """TRL's loop of generation and scoring, which asks an allocator for what to generate next.

    To TRL every rollout is a group of its own; the rollouts of a visit are put together again before they are scored. It
    runs in the process of TRL's rollout worker. A class of your own that replaces ``_generate_one``, say, derives from it.

    Parameters
    ----------
    rounds : Rounds
        The trainer's, whose copy in this process it is.
    id_column : str
        Column of prompt ids.
    advantages : {"posterior", "group"}
        As in :class:`AllocatedAsyncGRPOTrainer`.
    num_generations : int
        Rollouts that count as one of TRL's groups, in the order in which they were dealt.
    **kwargs
        Those of TRL's loop.
    """

    def __init__(
        self, *, rounds: Rounds, id_column: str, advantages: Advantages, num_generations: int = 8, **kwargs: Any
    ) -> None:
        super().__init__(num_generations=1, **kwargs)
        self._rounds, self._advantages, self._group_size = rounds, advantages, num_generations
        self._row_of = {key: row for row, key in enumerate(self.dataset[id_column])}
        self._pending: dict[int, _Pending] = {}  # by the number of the rollout
        self._events: list[Any] = []  # of the allocator, that no sample has taken to the trainer yet

    def _repeat_iterator(self) -> Iterator[tuple[int, dict[str, Any]]]:
        numbers = itertools.count()
        while True:
            self._events.append(DEAL)
            for visit in self._rounds.deal():
                row, pending = self.dataset[self._row_of[visit.prompt]], _Pending(visit, [])
                for number in itertools.islice(numbers, visit.rollouts):
                    self._pending[number] = pending
                    yield number, row

    async def _score_group(self, group: RolloutGroup) -> list[RolloutSample]:
        visit, parts = self._pending.pop(group.group_id)
        parts.append(group)
        if len(parts) < visit.rollouts:
            return []
        numbers, ages = [part.group_id for part in parts], [self.model_version - part.model_version for part in parts]
        whole = _merged(parts)
        rows = whole.completions_sequences
        whole.completions_sequences = [some or [_NO_ROW] for some in rows]  # a sample of every conversation, at least
        samples = iter(await super()._score_group(whole))
        of_each = [list(itertools.islice(samples, max(1, len(some)))) for some in rows]
        rewards = [of_one[0].metrics["reward"] for of_one in of_each]
        advantages = self._rounds.learn(visit, rewards, ages)
        self._events.append((visit, rewards, ages))
        trained = []
        for number, advantage, some, of_one in zip(numbers, advantages.tolist(), rows, of_each, strict=True):
            for sample in of_one[: len(some)]:
                sample.group_id = number // self._group_size
                if self._advantages == "posterior":
                    sample.advantage = advantage
                trained.append(sample)
        if trained:
            trained[0].metrics[EVENTS], self._events = self._events, []
        return trained


def _merged(parts: list[RolloutGroup]) -> RolloutGroup:
    """Return the rollouts of all parts as one group, in the order of the parts."""
    whole = parts[0]
    for part in parts[1:]:
        for name in (entry.name for entry in fields(whole)):
            mine = getattr(whole, name)
            if isinstance(mine, list):
                mine.extend(getattr(part, name))
        for key, column in part.reward_kwargs.items():
            whole.reward_kwargs[key].extend(column)
        whole.model_version = min(whole.model_version, part.model_version)
    return whole
