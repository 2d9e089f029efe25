r"""GRPO with verl, its rollouts dealt by an allocator.

Out of the box, on a CPU and without a network, in a minute or two: verl itself, its language model replaced by one
number per prompt (``verl_standin.py``)::

    pip install torch && pip install -e ".[verl]"
    python examples/verl_grpo.py

verl reads parquet files. Their rows must be numbered in ``extra_info.index``, the allocator's prompt ids; this writes
``data/train.parquet`` and ``data/test.parquet`` so::

    python examples/verl_grpo.py --prepare openai/gsm8k --config main --output data

A real model on one GPU, and on eight: verl's own program, which loads the allocated trainer by name. It draws single rollouts
from the whole training set, with advantages over each prompt's own past; for the trainer's groups set
``+cero_alloc.advantages=group``, and ``+cero_alloc.mode=redeal`` for the prompts of verl's data loader alone::

    export VERL_USE_EXTERNAL_MODULES=cero_alloc.integrations.verl.default
    common=(
        algorithm.adv_estimator=grpo
        data.train_files=data/train.parquet data.val_files=data/test.parquet
        data.max_prompt_length=512 data.max_response_length=1024
        reward.custom_reward_function.path=examples/verl_grpo.py reward.custom_reward_function.name=number_reward
        actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.n=8
        actor_rollout_ref.rollout.gpu_memory_utilization=0.5
        actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8
        actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8 actor_rollout_ref.actor.optim.lr=1e-6
        'trainer.logger=[console]' trainer.total_epochs=5 trainer.save_freq=50 trainer.test_freq=50
        trainer.default_local_dir=run
    )
    python -m verl.trainer.main_ppo "${common[@]}" trainer.n_gpus_per_node=1 \
        actor_rollout_ref.model.path=Qwen/Qwen2.5-1.5B-Instruct actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
        data.train_batch_size=64 actor_rollout_ref.actor.ppo_mini_batch_size=64
    python -m verl.trainer.main_ppo "${common[@]}" trainer.n_gpus_per_node=8 \
        actor_rollout_ref.model.path=Qwen/Qwen2.5-7B-Instruct actor_rollout_ref.rollout.tensor_model_parallel_size=2 \
        data.train_batch_size=256 actor_rollout_ref.actor.ppo_mini_batch_size=256

Where Ray runs already, the variable must be set for the cluster,
``+ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES=...``. The same command, given again, goes on from the
last checkpoint, the allocator's state with it; with more ``trainer.total_epochs`` it goes on for longer.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

ALLOCATED = "cero_alloc.integrations.verl.default"  # verl imports it, and with it the allocated trainers


def number_reward(data_source: str, solution_str: str, ground_truth: str, **_: Any) -> float:
    """Return 1 for an answer whose last number is the correct one, else 0."""
    return float(_last_number(solution_str) == _last_number(ground_truth))


def _last_number(text: str) -> str | None:
    found = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    return found[-1] if found else None


def rows(questions: list[str], answers: list[str], source: str) -> Dataset:
    """Return rows as verl reads them, numbered."""
    return Dataset.from_list([
        {
            "data_source": source, "prompt": [{"role": "user", "content": question}],
            "reward_model": {"style": "rule", "ground_truth": answer}, "extra_info": {"index": number},
        }
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True))
    ])  # fmt: skip


def prepare(options: argparse.Namespace) -> None:
    """Write a data set of the hub, or of a folder, as verl reads it."""
    for part in ("train", "test"):
        data = load_dataset(options.prepare, options.config, split=part)
        questions, answers = data[options.prompt_column][:], [str(answer) for answer in data[options.answer_column][:]]
        rows(questions, answers, options.prepare).to_parquet(options.output / f"{part}.parquet")


def rehearse(options: argparse.Namespace, overrides: list[str]) -> None:
    """Run verl on this machine's CPU: 32 prompts, 8 a step, four rollouts each; any of verl's settings may be overridden."""
    from verl.trainer import main_ppo

    from verl_standin import save_tokenizer

    folder, here = options.output.resolve(), Path(__file__).resolve()
    save_tokenizer(folder / "model")
    numbers = [str(number) for number in range(32)]
    rows(numbers, [number[-1] for number in numbers], "last digit").to_parquet(folder / "train.parquet")
    # Every process of verl imports the modules by name; those of this machine inherit what is set here.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])
    os.environ["VERL_USE_EXTERNAL_MODULES"] = f"{ALLOCATED},verl_standin"
    os.environ |= {name: os.environ.get(name, "ERROR") for name in ("VERL_LOGGING_LEVEL", "TQ_LOGGING_LEVEL")}
    sys.argv[1:] = [*cpu_settings(folder, here), *overrides]
    main_ppo.main()


def cpu_settings(folder: Path, here: Path) -> list[str]:
    """Return verl's settings for the stand-in model on two cores."""
    actor = "actor_rollout_ref"
    return [
        "algorithm.adv_estimator=grpo", f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/train.parquet", "data.train_batch_size=8", "data.max_prompt_length=8",
        "data.max_response_length=4", "data.dataloader_num_workers=0", "data.seed=0",
        f"reward.custom_reward_function.path={here}", "reward.custom_reward_function.name=number_reward",
        "reward.num_workers=1", f"{actor}.model.path={folder}/model", f"{actor}.rollout.name=standin",
        f"{actor}.rollout.n=4", f"{actor}.rollout.agent.num_workers=1", f"{actor}.rollout.load_format=auto",
        f"{actor}.rollout.tensor_model_parallel_size=1", f"{actor}.rollout.log_prob_micro_batch_size_per_gpu=16",
        f"{actor}.actor.ppo_mini_batch_size=8", f"{actor}.actor.ppo_micro_batch_size_per_gpu=16",
        "trainer.n_gpus_per_node=1", "trainer.logger=[console]", "trainer.total_epochs=3", "trainer.save_freq=4",
        "trainer.test_freq=12", f"trainer.default_local_dir={folder}/checkpoints",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1", "hydra.run.dir=.", "hydra.output_subdir=null",
        "hydra/job_logging=none", "hydra/hydra_logging=none",
        # Sixteen CPUs by name: TransferQueue waits for ever for more than two. One GPU by name: nothing uses it.
        "ray_kwargs.ray_init.num_cpus=16", "+ray_kwargs.ray_init.num_gpus=1",
        "+ray_kwargs.ray_init.include_dashboard=False",
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Prepare a data set, or rehearse; words that are not options here are verl's settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--prepare", metavar="DATASET", help="write this data set for verl, and do no more")
    add("--config", help="configuration of the data set")
    add("--prompt-column", default="question")
    add("--answer-column", default="answer")
    add("--output", type=Path, default=Path("verl_grpo_results"))
    options, overrides = parser.parse_known_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    prepare(options) if options.prepare else rehearse(options, overrides)


if __name__ == "__main__":
    main()
