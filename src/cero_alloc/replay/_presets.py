"""The layouts in which trainers and tools write their logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# fmt: off
Layout = Literal[
    "verl", "trl", "openrlhf", "nemo-rl", "open-instruct", "tinker", "prime-rl", "verifiers", "roll", "wandb",
    "inspect", "lm-eval", "evalplus", "counts",
]
# fmt: on


@dataclass(frozen=True, slots=True)
class Preset:
    """One layout.

    Attributes
    ----------
    expects : str
        What a log of this layout has, for messages.
    names : dict of role to tuple of str
        Names that are looked for before the usual ones; with commas, columns that make one id. An empty tuple says that there
        is no such column, and no step that the log is one step unless the files' names tell one.
    files : tuple of str
        Patterns for the files of a folder; the first that fits any of them counts, and all logs if none does.
    others : bool
        Whether every column of numbers that has no other role is a reward.
    first : str or None
        A column of which the first value in each file is read, as its lines repeat the same rollouts.
    """

    expects: str = ""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    others: bool = False
    first: str | None = None


NO_REWARD = ("advantage", "advantages", "_step", "_runtime", "_timestamp")  # columns of numbers that are none
PRESETS: dict[Layout, Preset] = {
    "verl": Preset(
        "the keys input, score and step, one file per step",
        {
            "prompt_id": ("input",),
            "step": ("step",),
            "reward": ("score",),
            "group": ("uid",),
            "completion": ("output",),
        },
    ),
    "trl": Preset(
        "the columns prompt, step and one per reward function",
        {"prompt_id": ("prompt",), "step": ("step",), "completion": ("completion",)},
        ("completions_*.parquet",),
        others=True,
    ),
    "openrlhf": Preset(
        "what your reward function writes: prompt, step and reward, one line per rollout or one per call",
        {
            "prompt_id": ("prompt_id", "prompt", "prompts"),
            "step": ("step", "global_step"),
            "reward": ("reward", "rewards", "score", "scores"),
        },
    ),
    "nemo-rl": Preset(
        "the keys content and rewards, the step in the file's name, and --group-size N as there are no prompt ids",
        {"reward": ("rewards",), "completion": ("content",)},
        ("train_data_step*.jsonl",),
    ),
    "open-instruct": Preset(
        "the keys prompt_tokens, step and reward",
        {
            "prompt_id": ("prompt_tokens",),
            "step": ("step",),
            "reward": ("reward",),
            "source": ("dataset",),
            "completion": ("response_tokens",),
        },
        ("*_rollouts_*.jsonl",),
    ),
    "tinker": Preset(
        "the keys iteration, group_idx and total_reward (rollout_json_export=True)",
        {
            "prompt_id": ("iteration,group_idx",),  # a place in the batch: no id stays
            "step": ("iteration",),
            "reward": ("total_reward",),
            "split": ("split",),
        },
        ("train_rollout_summaries.jsonl",),
    ),
    "prime-rl": Preset(
        "the keys task.key, run.work.step and traces.rewards (older versions: example_id and reward, the step in the folder's name)",
        {
            "prompt_id": ("task.key", "example_id"),
            "step": ("run.work.step", "step"),
            "reward": ("traces.rewards", "reward"),
            "group": ("group.id",),
            "source": ("env.id",),
            "split": ("run.work.type",),
        },
        ("train/all/traces.jsonl", "train_rollouts.jsonl"),  # "effective" holds a part of "all" once more
    ),
    "verifiers": Preset(
        "the keys example_id and reward (newer versions: task.key and traces.rewards)",
        {"prompt_id": ("example_id", "task.key"), "step": (), "reward": ("reward", "traces.rewards")},
        ("results.jsonl", "traces.jsonl"),
    ),
    "roll": Preset(
        "the keys prompt, global_step and scores, each of them a list",
        {
            "prompt_id": ("prompt", "id"),
            "step": ("global_step",),
            "reward": ("scores",),
            "completion": ("responses",),
        },
        ("rollout_dump_data.step_*.jsonl",),
    ),
    "wandb": Preset(
        "a table of completions with the columns prompt, step and reward, or one per reward function",
        {
            "prompt_id": ("prompt",),
            "step": ("step", "global_step", "train/global_step", "_step"),
            "reward": ("reward",),
            "completion": ("completion",),
        },
        ("*.table.json",),
        others=True,
    ),
    "inspect": Preset(
        "samples with id and scores, in .eval or .json",
        {"prompt_id": ("id",), "step": (), "reward": ("scores",), "source": ("task",)},  # an epoch is one more rollout
        ("*.eval", "*.json"),
    ),
    "lm-eval": Preset(
        "the keys doc_id and a metric such as exact_match or acc (--log_samples)",
        {
            "prompt_id": ("doc_id,doc_hash", "doc_id"),  # doc_id counts from 0 in every task
            "step": (),
            "reward": ("exact_match", "acc", "pass@1", "pass_at_1", "prompt_level_strict_acc", "acc_norm"),
        },
        ("samples_*.jsonl",),
        first="filter",
    ),
    "evalplus": Preset(
        'an object "eval" with base_status and plus_status for each sample of a task',
        {"prompt_id": ("task_id",), "step": (), "reward": ("plus", "base")},
        ("*eval_results.json",),
    ),
    "counts": Preset(
        "the columns prompt_id, step (or epoch), successes and trials",
        {"reward": ()},
    ),
}
