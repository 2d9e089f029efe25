"""The allocator of a verl run, from verl's own configuration."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from cero_alloc import ResolvingAllocator
from cero_alloc._checks import error_text
from cero_alloc.integrations._build import Mode, checked_ids, run_allocator
from cero_alloc.integrations._dealer import Advantages


class RunPlan(NamedTuple):
    """What verl's configuration says of a run."""

    n_rounds: int  # batches that are generated
    total_budget: int  # rollouts of all of them
    slots: int  # rollouts of a batch
    group_size: int  # rollouts per prompt of the stock trainer
    steps_per_epoch: int

    def visits(self, n_rounds: int) -> int:
        """Return how often verl's data loader brings each prompt in so many batches."""
        return max(1, math.ceil(n_rounds / self.steps_per_epoch))


def run_plan(config: DictConfig, n_prompts: int) -> RunPlan:
    """Return the plan of a run over so many prompts, or raise ValueError where they do not fill a batch."""
    batch, per_prompt = config.data.train_batch_size, config.actor_rollout_ref.rollout.n
    per_epoch = n_prompts // batch
    if not per_epoch:
        condition = f"be at most the {n_prompts} prompts of the training set"
        raise ValueError(
            error_text("data.train_batch_size", condition, batch, "Lower it: verl drops a part of a batch.")
        )
    steps, given = per_epoch * config.trainer.total_epochs, config.trainer.total_training_steps
    steps, slots = steps if given is None else min(steps, given), batch * per_prompt
    ahead = warmup_rollouts(config)  # an asynchronous trainer has them in flight when the run ends
    return RunPlan(steps + math.ceil(ahead / slots), steps * slots + ahead, slots, per_prompt, per_epoch)


def warmup_rollouts(config: DictConfig) -> int:
    """Return the rollouts that are asked for before the first step: none but in verl's asynchronous modes."""
    v1 = config.trainer.v1
    batches = OmegaConf.select(v1, f"{v1.trainer_mode}.num_warmup_batches", default=0)
    return math.floor(batches * config.data.train_batch_size) * config.actor_rollout_ref.rollout.n


def allocator_for(
    config: DictConfig,
    dataset: Any,
    *,
    id_column: str = "index",
    mode: Mode = "select",
    advantages: Advantages = "posterior",
    **settings: Any,
) -> ResolvingAllocator:
    """Return the recommended allocator for the stock run's rollouts.

    Batches, rollouts and epochs are those of verl's configuration; in its asynchronous modes the warm-up batches are added.

    Parameters
    ----------
    config : omegaconf.DictConfig
        verl's: ``data.train_batch_size`` prompts a step, ``actor_rollout_ref.rollout.n`` rollouts per prompt,
        ``trainer.total_epochs`` and ``trainer.total_training_steps``.
    dataset : verl.utils.dataset.RLHFDataset, or sequence of hashable
        The training set, or the ids of its prompts.
    id_column : str
        Column of the prompts' ids; ``"index"`` is verl's own name of ``extra_info.index``.
    mode : {"select", "redeal"}
        Candidates of a batch: the whole training set, or the prompts of verl's data loader, which share the batch's rollouts.
    advantages : {"posterior", "group"}
        Over the prompt's posterior mean, which serves single rollouts, or over the group's mean: then verl's ``n`` is the
        least count of a prompt.
    **settings
        Any other argument of :func:`~cero_alloc.training_allocator`, or another value for one that is set here.

    Returns
    -------
    ResolvingAllocator
        For ``AllocatedPPOTrainer``, which builds it so itself.

    Raises
    ------
    ValueError
        For ids that are missing or repeated, a training set smaller than a batch, and as
        :func:`~cero_alloc.training_allocator`.

    References
    ----------
    The page "Does it learn faster?": how the settings were chosen.

    Examples
    --------
    ::

        allocator = allocator_for(config, range(7473))
        allocator.horizon.total_budget  # steps x data.train_batch_size x actor_rollout_ref.rollout.n
    """
    ids = prompt_ids(dataset, id_column)
    plan = run_plan(config, len(ids))
    run: dict[str, Any] = {
        "n_rounds": plan.n_rounds, "total_budget": plan.total_budget, "slots": plan.slots,
        "group_size": plan.group_size, "mode": mode, "advantages": advantages,
    } | settings  # fmt: skip
    if mode == "redeal":
        run.setdefault("visits", plan.visits(run["n_rounds"]))
    return run_allocator(ids, **run)


def prompt_ids(dataset: Any, column: str) -> list[Hashable]:
    """Return the stable id of every row of a training set, or of the ids themselves.

    Parameters
    ----------
    dataset : verl.utils.dataset.RLHFDataset, or sequence of hashable
        Or another with its rows in ``dataframe``, a ``datasets.Dataset``.
    column : str
        Column of the ids; ``"index"`` is verl's own name of ``extra_info.index``.

    Raises
    ------
    ValueError
        For rows without an id, or with that of another row.
    """
    rows = getattr(dataset, "dataframe", None)
    if rows is None:
        if isinstance(dataset, Sequence) and not isinstance(dataset, str):
            return checked_ids(dataset, "dataset")
        raise ValueError(
            f"data.custom_cls must keep its rows in dataframe, a datasets.Dataset, got {type(dataset).__name__}. "
            "Derive it from RLHFDataset."
        )
    within = column == "index" and "index" not in rows.column_names  # verl: 0 for every row that has none there
    source = "extra_info" if within else column
    values = list(rows[source]) if source in rows.column_names else [None] * len(rows)
    ids: list[Hashable] = [(value or {}).get("index") for value in values] if within else values
    name = "extra_info.index" if within else column
    if None in ids:
        raise ValueError(
            f"{name} must be given in every row of data.train_files, got none in row "
            f"{ids.index(None)}. Number the rows there, or name a column of ids with +cero_alloc.id_column=NAME."
        )
    value, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"{name} must differ from row to row of data.train_files, got {times} "
            f"times {value!r}. Number the rows, or name a column of ids with +cero_alloc.id_column=NAME."
        )
    return ids
