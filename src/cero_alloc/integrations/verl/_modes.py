"""Settings that the verl adapter refuses, because its tests do not cover them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

from omegaconf import DictConfig, OmegaConf

MODES, WEIGHTINGS = ("redeal", "select"), ("rollout", "prompt")
# Those that compare the rollouts of a prompt, however many there are; grpo_passk means another k where they differ.
ESTIMATORS = ("grpo", "grpo_vectorized", "rloo", "rloo_vectorized", "reinforce_plus_plus_baseline", "opo")


def refuse_unknown_modes(config: DictConfig) -> None:
    """Raise ValueError for a mode or a setting of verl that the adapter's tests do not cover; it says what to do."""

    def get(key: str, default: Any = None) -> Any:
        return OmegaConf.select(config, key, default=default)

    trainer_mode, estimator = get("trainer.v1.trainer_mode"), get("algorithm.adv_estimator")
    rollouts, batch, fetched = (
        get("actor_rollout_ref.rollout.n"),
        get("data.train_batch_size"),
        get("data.gen_batch_size"),
    )
    mode, weighting = get("cero_alloc.mode", "redeal"), get("cero_alloc.group_weighting", "rollout")
    for unknown, text in (
        (mode not in MODES, f"cero_alloc.mode must be 'redeal' or 'select', got {mode!r}. Correct it."),
        (weighting not in WEIGHTINGS,
         f"cero_alloc.group_weighting must be 'rollout' or 'prompt', got {weighting!r}. Correct it."),
        (trainer_mode != "sync",
         f"trainer.v1.trainer_mode must be 'sync', got {trainer_mode!r}, where generation runs ahead of the feedback. "
         "Set it so."),
        (get("trainer.v1.sync.parameter_sync_step", 1) != 1,
         "trainer.v1.sync.parameter_sync_step must be 1: a batch that is trained in parts would be waited for in "
         "vain. Leave it out."),
        (get("algorithm.filter_groups.enable", False),
         "algorithm.filter_groups.enable must be False: prompts drawn in place of others would be dealt rollouts that "
         "the batch does not have, and a prompt without rollouts has nothing to be filtered by. Set it so."),
        (get("trainer.v1.sampler.sync_refill_failed_groups", False),
         "trainer.v1.sampler.sync_refill_failed_groups must be False: prompts drawn in place of others would be dealt "
         "rollouts that the batch does not have. Set it so."),
        (get("trainer.v1.sampler.custom_sampler.path"),
         "trainer.v1.sampler.custom_sampler.path must be null: a replay buffer of your own was not tested. Leave it out."),
        (get("skip.rollout_tq.enable", False),
         "skip.rollout_tq.enable must be False: rollouts read from a file are not those that were dealt. Set it so."),
        (rollouts < 2,
         f"actor_rollout_ref.rollout.n must be at least 2, got {rollouts}: a group of one rollout has no baseline, and "
         "verl takes its raw reward for the advantage. Raise it."),
        (estimator not in ESTIMATORS,
         f"algorithm.adv_estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}, which does not compare "
         "the rollouts of prompts that have unequally many. Choose another."),
        (fetched not in (None, batch),
         f"data.gen_batch_size must be data.train_batch_size = {batch}, got {fetched}: a batch put together over the "
         "end of an epoch may hold a prompt twice. Leave it out."),
    ):  # fmt: skip
        if unknown:
            raise ValueError(text)


def refuse_several_outputs(keys: list[str]) -> None:
    """Raise ValueError where a rollout has several outputs; verl's keys are row_rollout_output."""
    rollouts = {key.rsplit("_", 1)[0] for key in keys}
    if len(rollouts) < len(keys):
        raise ValueError(
            f"actor_rollout_ref.rollout.agent must give one output per rollout, got {len(keys)} of {len(rollouts)}: some of "
            "verl's estimators count each as a rollout of its own. Use an agent loop that returns one; it may call tools."
        )


def prompt_ids(dataset: Any, column: str) -> list[Hashable]:
    """Return the stable id of every row of a training set.

    Parameters
    ----------
    dataset : verl.utils.dataset.RLHFDataset
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
        raise ValueError(
            f"data.custom_cls must keep its rows in dataframe, a datasets.Dataset, got {type(dataset).__name__}. "
            "Derive it from RLHFDataset."
        )
    within = column == "index" and "index" not in rows.column_names  # verl: 0 for every row that has none there
    source = "extra_info" if within else column
    values = list(rows[source]) if source in rows.column_names else [None] * len(rows)
    ids: list[Hashable] = [(value or {}).get("index") for value in values] if within else values
    if None in ids:
        raise ValueError(
            f"{'extra_info.index' if within else column} must be given in every row of data.train_files, got none in row "
            f"{ids.index(None)}. Number the rows there, or name a column of ids with +cero_alloc.id_column=NAME."
        )
    value, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"{'extra_info.index' if within else column} must differ from row to row of data.train_files, got {times} "
            f"times {value!r}. Number the rows, or name a column of ids with +cero_alloc.id_column=NAME."
        )
    return ids
