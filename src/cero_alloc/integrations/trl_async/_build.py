"""The allocator of an asynchronous run, from TRL's configuration."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, Literal

from cero_alloc import ResolvingAllocator
from cero_alloc._checks import error_text
from cero_alloc.integrations._build import checked_ids, run_allocator
from cero_alloc.integrations._dealer import Advantages


def step_rollouts(config: Any, advantages: Advantages = "posterior") -> int:
    """Return the rollouts of a round: those of a step, in whole groups with advantages over a group's mean.

    Parameters
    ----------
    config : trl.experimental.async_grpo.AsyncGRPOConfig
        Of the run. A token budget makes steps of other sizes: the rounds stay of this one.
    advantages : {"posterior", "group"}
        As in :class:`AllocatedAsyncGRPOTrainer`.

    Returns
    -------
    int
        Rollouts: ``per_device_train_batch_size * gradient_accumulation_steps * world_size``, for "group" rounded up to a
        multiple of ``num_generations``.
    """
    total = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size
    whole = config.num_generations if advantages == "group" else 1
    return int(-(-total // whole) * whole)


def dataset_ids(dataset: Any, id_column: str) -> list[Hashable]:
    """Return the checked prompt ids of a training set whose rows can be read by number."""
    if not hasattr(dataset, "__len__"):
        raise ValueError("train_dataset must have rows by number, got a stream. Load it as a Dataset.")
    if id_column not in dataset.column_names:
        condition = f"name a column of train_dataset, which has {dataset.column_names}"
        remedy = f"Number the rows: dataset.add_column({id_column!r}, range(len(dataset)))."
        raise ValueError(error_text("id_column", condition, id_column, remedy))
    return checked_ids(dataset[id_column][:], id_column)


def allocator_for(
    config: Any,
    dataset: Any,
    *,
    id_column: str = "prompt_id",
    mode: Literal["select"] = "select",
    advantages: Advantages = "posterior",
    **settings: Any,
) -> ResolvingAllocator:
    """Return the recommended allocator for the rollouts of a stock run of TRL's ``AsyncGRPOTrainer``.

    Parameters
    ----------
    config : trl.experimental.async_grpo.AsyncGRPOConfig
        Of the run: its steps, or its epochs over the data set.
    dataset : datasets.Dataset
        The training set.
    id_column : str
        Column of stable prompt ids.
    mode : {"select"}
        The candidates of a round are the whole training set; there is no loader whose batches could be re-dealt.
    advantages : {"posterior", "group"}
        As in :class:`AllocatedAsyncGRPOTrainer`: single rollouts, or at least ``num_generations`` of a visited prompt.
    **settings
        Any other argument of :func:`~cero_alloc.training_allocator`, or another value for one that is set here.

    Returns
    -------
    ResolvingAllocator
        With a round for every step of the run, of :func:`step_rollouts` rollouts.

    Raises
    ------
    ValueError, TypeError
        For another mode or kind of advantages, ids that are missing or repeated, and as
        :func:`~cero_alloc.training_allocator`.

    Examples
    --------
    ::

        config = AsyncGRPOConfig(max_steps=500, per_device_train_batch_size=8, token_budget=0)
        allocator = allocator_for(config, dataset)
        trainer = AllocatedAsyncGRPOTrainer(
            model="Qwen/Qwen2.5-0.5B-Instruct",
            reward_funcs=accuracy_reward,
            args=config,
            train_dataset=dataset,
            allocator=allocator,
        )
    """
    if mode != "select":
        raise ValueError(
            error_text("mode", "be 'select'", mode, "Rollout workers have no loader's batches to re-deal.")
        )
    ids, slots = dataset_ids(dataset, id_column), step_rollouts(config, advantages)
    stock = config.max_steps * step_rollouts(config)
    if config.max_steps <= 0:
        stock = math.ceil(config.num_train_epochs * len(ids)) * config.num_generations
    return run_allocator(
        ids,
        n_rounds=max(1, math.ceil(stock / slots)),
        slots=slots,
        group_size=config.num_generations,
        mode=mode,
        advantages=advantages,
        **settings,
    )
