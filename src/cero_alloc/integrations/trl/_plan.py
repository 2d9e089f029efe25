"""The allocator of a run of TRL, and how often the run generates."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

from trl import GRPOConfig

from cero_alloc._allocators.resolving import ResolvingAllocator
from cero_alloc._checks import error_text
from cero_alloc.integrations._build import Mode, checked_ids, run_allocator
from cero_alloc.integrations._dealer import Advantages


def allocator_for(
    config: GRPOConfig,
    dataset: Any,
    *,
    id_column: str = "prompt_id",
    mode: Mode = "select",
    advantages: Advantages = "posterior",
    **settings: Any,
) -> ResolvingAllocator:
    """Return the recommended allocator for a run of TRL, for the rollouts that the stock trainer would generate.

    Parameters
    ----------
    config : trl.GRPOConfig
        Of the run: ``max_steps`` or ``num_train_epochs``, the generation batch over all processes, ``num_generations``,
        ``steps_per_generation`` and ``num_iterations`` are read from it.
    dataset : datasets.Dataset
        The training set; it has at least as many rows as a generation batch has prompts.
    id_column : str
        Its column of stable prompt ids, each once: texts or integers.
    mode : {"select", "redeal"}
        Candidates of a batch: the whole training set, or the prompts that the data loader brings.
    advantages : {"posterior", "group"}
        "posterior" deals single rollouts. "group" deals groups of ``num_generations`` or more.
    **settings
        Any other argument of :func:`~cero_alloc.training_allocator`, or another value for one that is set here.

    Returns
    -------
    ResolvingAllocator
        With a total budget of rounds times ``generation_batch_size`` rollouts.

    Raises
    ------
    ValueError
        For a data set without length, without the column, or with fewer rows than a batch has prompts; for ids that are
        missing or repeated, and as :func:`~cero_alloc.training_allocator`.

    Examples
    --------
    ::

        config = GRPOConfig(output_dir="run", num_train_epochs=3, num_generations=8)
        allocator = allocator_for(config, dataset)
        AllocatedGRPOTrainer(..., args=config, train_dataset=dataset, allocator=allocator).train()
    """
    ids = prompt_ids(dataset, id_column)
    rounds, per_round = generation_rounds(config, len(ids)), config.generation_batch_size // config.num_generations
    run: dict[str, Any] = {
        "n_rounds": rounds,
        "slots": config.generation_batch_size,
        "group_size": config.num_generations,
        "mode": mode,
        "advantages": advantages,
        "visits": visits_of(rounds, per_round, len(ids)),
    }
    return run_allocator(ids, **run | settings)


def generation_rounds(config: GRPOConfig, n_prompts: int | None = None) -> int:
    """Return how often a run generates: the allocator's ``n_rounds``.

    Parameters
    ----------
    config : trl.GRPOConfig
        Of the run.
    n_prompts : int or None
        Rows of the training set. TRL's data loader drops the rows that fill no batch, and the last step of an epoch has
        fewer micro-steps where ``gradient_accumulation_steps`` does not divide them. None is for a stream, whose run
        ends with ``max_steps``.

    Raises
    ------
    ValueError
        For epochs of a stream, or fewer rows than a generation batch has prompts.

    Examples
    --------
    30 prompts make 3 batches of 8 in each of 4 epochs, 6 are dropped::

        config = GRPOConfig(output_dir="run", num_train_epochs=4, num_generations=4, per_device_train_batch_size=32)
        generation_rounds(config, 30)  # 12 on one process
    """
    return rounds_to_come(config, n_prompts, 0, 0)


def rounds_to_come(config: GRPOConfig, n_prompts: int | None, step: int, buffered: int) -> int:
    """Return how often a run generates after ``step`` optimizer steps, ``buffered`` micro-steps' rollouts being there."""
    cycle, accumulation = cycle_length(config), config.gradient_accumulation_steps
    length = None  # micro-steps of an epoch
    if n_prompts is not None:
        per_round = config.generation_batch_size // config.num_generations
        if n_prompts < per_round:
            condition = f"be at least the {per_round} prompts of a generation batch, or TRL trains nothing"
            raise ValueError(error_text("len(train_dataset)", condition, n_prompts, "Make the batch smaller."))
        length = n_prompts // per_round * cycle
    if config.max_steps >= 0:
        last = config.max_steps
    elif length is None:
        remedy = "Set it, or give n_prompts = len(train_dataset); the epochs of a stream have no length."
        raise ValueError(error_text("max_steps", "be at least 1", config.max_steps, remedy))
    else:
        last = math.ceil(config.num_train_epochs * math.ceil(length / accumulation))

    def micro_steps(steps: int) -> int:
        if length is None:
            return steps * accumulation
        epochs, within = divmod(steps, math.ceil(length / accumulation))
        return epochs * length + within * accumulation

    return math.ceil(max(0, micro_steps(last) - micro_steps(step) - buffered) / cycle)


def cycle_length(config: GRPOConfig) -> int:
    """Return the micro-steps that are trained on the rollouts of one generation."""
    return config.steps_per_generation * config.num_iterations


def visits_of(rounds: int, per_round: int, n_prompts: int) -> int:
    """Return how often the data loader brings each prompt, rounded up."""
    return min(rounds, math.ceil(rounds * per_round / n_prompts))


def prompt_ids(dataset: Any, column: str) -> list[Hashable]:
    """Return the ids of a data set's prompts, checked."""
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"train_dataset must have rows by number, got a {type(dataset).__name__}. Build the allocator of a stream "
            "by training_allocator, with every id that it may bring, and pass it with mode='redeal'."
        )
    if column not in dataset.column_names:
        remedy = (
            f"Number the rows once, say train_dataset.add_column({column!r}, list(range(len(train_dataset)))), or name "
            "another column by id_column."
        )
        condition = f"have a column {column!r} of stable prompt ids"
        raise ValueError(error_text("train_dataset", condition, dataset.column_names, remedy))
    return checked_ids(dataset[column][:], column)
