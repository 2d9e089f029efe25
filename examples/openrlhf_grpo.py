r"""GRPO with OpenRLHF, its rollouts dealt by an allocator.

Without options it runs OpenRLHF on a tiny Llama in about a minute, on a CPU and without a network; vLLM and DeepSpeed are
replaced by small stand-ins (``openrlhf_standin.py``). The requirements of OpenRLHF do not install without CUDA, so install::

    pip install torch && pip install --no-deps openrlhf==0.11.2
    pip install -e . "transformers==5.15.0" "ray==2.55.0" datasets peft torchdata aiohttp pylatexenc pillow
    python examples/openrlhf_grpo.py

The allocator draws single rollouts from the whole data set, with advantages over each prompt's own past; ``--advantages group``
and ``--mode redeal`` take OpenRLHF's groups, and the prompts of its data loader alone.

With a GPU (``pip install "openrlhf[vllm]==0.11.2"``), options that this program does not have are passed to that of OpenRLHF,
``openrlhf.cli.train_ppo_ray``. ``--prepare`` writes a data set's questions, distinct, with their answers as labels::

    python examples/openrlhf_grpo.py --prepare openai/gsm8k --config main --output data
    python examples/openrlhf_grpo.py \
        --actor.model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --data.prompt_dataset data/prompts.jsonl \
        --data.label_key label --data.apply_chat_template --reward.remote_url examples/openrlhf_grpo.py \
        --algo.advantage.estimator group_norm --algo.kl.init_coef 0 --actor.adam.lr 1e-6 \
        --rollout.batch_size 64 --rollout.n_samples_per_prompt 8 --train.batch_size 512 --train.num_episodes 5 \
        --rollout.micro_batch_size 8 --train.micro_batch_size 4 --data.max_len 1536 --rollout.max_new_tokens 1024 \
        --train.colocate_all --vllm.num_engines 1 --vllm.enable_sleep --ds.enable_sleep \
        --vllm.gpu_memory_utilization 0.5 --actor.num_gpus_per_node 1 --actor.gradient_checkpointing_enable \
        --ds.zero_stage 3 --ckpt.path run --ckpt.output_dir run/final --ckpt.save_steps 50

On eight GPUs the same with ``--actor.model_name_or_path Qwen/Qwen2.5-7B-Instruct --rollout.batch_size 256
--train.batch_size 2048 --actor.num_gpus_per_node 8 --vllm.num_engines 4 --vllm.tensor_parallel_size 2``. With
``--ckpt.load_enable`` a run goes on from the last checkpoint in ``--ckpt.path``, the allocator's state with it. On a cluster
whose Ray runs already, ``examples`` must be on every node's ``PYTHONPATH``.
"""

from __future__ import annotations

import argparse
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """Return 1 for a completion whose last number is the label, as OpenRLHF asks for it: one query at a time."""
    return {"rewards": float(_last_number(queries[0][len(prompts[0]) :]) == labels[0])}


def _last_number(text: str) -> str | None:
    found = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    return found[-1] if found else None


def prepare(options: argparse.Namespace) -> None:
    """Write a data set's questions, each once, with the last number of the answer as label."""
    from datasets import load_dataset

    rows = load_dataset(options.prepare, options.config, split="train")
    labels = {row[options.prompt_column]: _last_number(row[options.answer_column]) for row in rows}
    path = Path(options.output) / "prompts.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"input": text, "label": label}) + "\n" for text, label in labels.items()))
    print(f"{len(labels)} prompts in {path}")


def standin_arguments(folder: Path) -> list[str]:
    """Start Ray with the stand-ins in place, and return OpenRLHF's arguments for a run of the tiny model in the folder."""
    import openrlhf_standin

    openrlhf_standin.start()
    openrlhf_standin.prepare(folder)
    settings = {
        "actor.model_name_or_path": folder / "model", "data.prompt_dataset": folder / "prompts.jsonl",
        "data.label_key": "label", "eval.dataset": folder / "prompts.jsonl", "eval.steps": 16,
        "reward.remote_url": HERE / "openrlhf_standin.py", "algo.advantage.estimator": "group_norm",
        "algo.kl.init_coef": 0, "actor.adam.lr": 3e-3, "rollout.batch_size": 16, "rollout.n_samples_per_prompt": 4,
        "rollout.micro_batch_size": 16, "rollout.max_new_tokens": 3, "train.batch_size": 64,
        "train.micro_batch_size": 16, "train.num_episodes": 8, "data.max_len": 16, "vllm.num_engines": 1,
        "actor.num_gpus_per_node": 1, "ds.attn_implementation": "eager", "ckpt.path": folder / "checkpoints",
        "ckpt.output_dir": folder / "trained", "ckpt.save_steps": 16,
    }  # fmt: skip
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Return this program's options, and OpenRLHF's arguments as they stand."""
    # No abbreviations: OpenRLHF's arguments must pass through.
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--mode",
        choices=["select", "redeal"],
        default="select",
        help="candidates: the whole data set, or the loader's batch",
    )
    add(
        "--advantages", choices=["posterior", "group"], default="posterior", help="over the prompt's past, or its group"
    )
    add("--output", default="openrlhf_grpo_results", help="folder of --prepare, or of the tiny model's run")
    add("--prepare", metavar="DATASET", help="data set of the hub, or of a folder, to be made prompts.jsonl of")
    add("--config", help="configuration of the data set")
    add("--prompt-column", default="question")
    add("--answer-column", default="answer")
    return parser.parse_known_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Start OpenRLHF's own program, its trainer replaced."""
    options, rest = parse(arguments)
    if options.prepare:
        return prepare(options)
    with_model = any(word.startswith("--actor.model_name_or_path") for word in rest)
    sys.argv[1:] = rest if with_model else standin_arguments(Path(options.output).resolve()) + rest
    from cero_alloc.integrations.openrlhf import allocated_training  # after the stand-ins, if they are needed

    with allocated_training(mode=options.mode, advantages=options.advantages):
        runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")


if __name__ == "__main__":
    main()
