r"""GRPO with TRL, its rollouts dealt by an allocator: single rollouts of prompts from the whole training set.

Out of the box, on a CPU and without a network, in about a minute: a tiny Llama and its tokenizer are built in code, and
learn to open with a letter that the prompt allows::

    pip install torch && pip install -e ".[trl]"
    python examples/trl_grpo.py
    python examples/trl_grpo.py --compare  # with other modes and with the stock trainer, over three seeds

A real model on one GPU, and on eight with vLLM sharing them (``--answer-column`` holds the number to be found)::

    python examples/trl_grpo.py --model Qwen/Qwen2.5-1.5B-Instruct --dataset openai/gsm8k --config main --steps 500 \
        --prompts-per-step 16 --num-generations 8 --max-completion-length 512 --learning-rate 1e-6 --output run
    accelerate launch --num_processes 8 --mixed_precision bf16 examples/trl_grpo.py \
        --model Qwen/Qwen2.5-7B-Instruct --dataset openai/gsm8k --config main --steps 500 --vllm \
        --prompts-per-step 64 --num-generations 8 --max-completion-length 1024 --learning-rate 1e-6 --output run

``--resume`` goes on from the last checkpoint in ``--output``, the allocator's state with it.
"""

from __future__ import annotations

import argparse
import re
import string
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import GRPOConfig

from cero_alloc import BetaPosteriorBank
from cero_alloc.baselines import Uniform
from cero_alloc.integrations.trl import AllocatedGRPOTrainer, allocator_for, generation_rounds

LETTERS = string.ascii_lowercase


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single characters."""
    vocabulary = {token: place for place, token in enumerate(["<pad>", "<eos>", *LETTERS, *string.digits, " "])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def tiny_model(tokenizer: PreTrainedTokenizerFast, width: int = 32, layers: int = 2) -> LlamaForCausalLM:
    """Return an untrained Llama, 23 thousand parameters as it stands; the same at every call."""
    set_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": max(2, width // 64), "num_key_value_heads": max(2, width // 64)}
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **shape, **heads, **special)
    )


def tiny_dataset(n_prompts: int = 256) -> Dataset:
    """Return prompts of mixed difficulty: each allows 0 to 21 letters to open with."""
    allowed = [LETTERS[: 3 * (i % 8)] for i in range(n_prompts)]
    return Dataset.from_dict(
        {"prompt": [f"{i} " for i in range(n_prompts)], "prompt_id": range(n_prompts), "answer": allowed}
    )


def opening_reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """Return 1 for a completion that opens with an allowed letter."""
    return [float(text[:1] != "" and text[:1] in letters) for text, letters in zip(completions, answer, strict=True)]


def number_reward(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """Return 1 for a completion whose last number is the answer's last number."""
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [float(_last_number(text) == _last_number(right)) for text, right in zip(texts, answer, strict=True)]


def _last_number(text: str) -> str | None:
    found = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    return found[-1] if found else None


def real_dataset(options: argparse.Namespace) -> Dataset:
    """Return a data set of the hub, or of a folder, with the columns that the trainer and the reward need."""
    rows = load_dataset(options.dataset, options.config, split="train")
    question, answer = options.prompt_column, options.answer_column
    return rows.map(
        lambda row, number: {
            "prompt": [{"role": "user", "content": row[question]}], "prompt_id": number, "answer": str(row[answer])
        },
        with_indices=True, remove_columns=rows.column_names,
    )  # fmt: skip


def build_trainer(options: argparse.Namespace, **more: Any) -> AllocatedGRPOTrainer:
    """Return the trainer that the options ask for; ``more`` goes into TRL's configuration."""
    settings: dict[str, Any] = {
        "output_dir": options.output, "max_steps": options.steps, "learning_rate": options.learning_rate,
        "num_generations": options.num_generations, "max_completion_length": options.max_completion_length,
        "per_device_train_batch_size": options.per_device, "per_device_eval_batch_size": 4 * options.per_device,
        "save_steps": options.save_steps, "logging_steps": max(1, options.steps // 20), "report_to": options.report_to,
        "seed": options.seed, "disable_tqdm": True,
    }  # fmt: skip
    if options.model is None:
        tokenizer = tiny_tokenizer()
        model, dataset, reward = tiny_model(tokenizer), tiny_dataset(), opening_reward
        settings |= {"use_cpu": options.cpu, "bf16": False, "gradient_checkpointing": False}
    else:
        tokenizer, model, dataset, reward = None, options.model, real_dataset(options), number_reward
        settings |= {"use_vllm": True, "vllm_mode": "colocate"} if options.vllm else {}
    processes = GRPOConfig(**settings | more).world_size
    share = options.prompts_per_step * options.num_generations // processes
    settings["gradient_accumulation_steps"] = max(1, share // options.per_device)
    config = GRPOConfig(**settings | more)
    words = {"mode": options.mode, "advantages": options.advantages}
    allocator = uniform(config, dataset) if options.uniform else allocator_for(config, dataset, **words)
    return AllocatedGRPOTrainer(
        model=model, reward_funcs=reward, args=config, train_dataset=dataset, processing_class=tokenizer,
        eval_dataset=dataset if options.model is None else None, allocator=allocator,
        **{"mode": "redeal", "advantages": "group"} if options.uniform else words,
    )  # fmt: skip


def uniform(config: GRPOConfig, dataset: Dataset) -> Uniform:
    """Return the allocator that deals every prompt of a batch the stock trainer's group, which makes it the stock trainer."""
    rounds, slots, size = generation_rounds(config, len(dataset)), config.generation_batch_size, config.num_generations
    run = {"total_budget": rounds * slots, "n_rounds": rounds, "round_capacity": slots}
    return Uniform(BetaPosteriorBank(dataset["prompt_id"][:]), unit_size=size, max_rollouts=size, **run)


def compare(options: argparse.Namespace, seeds: int = 3) -> None:
    """Print what each way of dealing gave and taught, mean and standard deviation over seeds."""
    print(
        f"mean ± standard deviation over {seeds} seeds\n\n"
        "dealt by                        mixed rollouts   squared advantage   success at the end"
    )
    for name, words in (
        ("stock trainer", {"uniform": True}),
        ("select, posterior (as shipped)", {}),
        ("select, group", {"advantages": "group"}),
        ("redeal, group", {"mode": "redeal", "advantages": "group"}),
    ):
        runs = []
        for seed in range(seeds):
            own = argparse.Namespace(**vars(options) | words | {"seed": seed})
            trainer = build_trainer(own, save_strategy="no", logging_strategy="no")
            rounds = watch(trainer)
            trainer.train()
            runs.append([*np.mean(rounds, axis=0), np.mean([trainer.evaluate()["eval_reward"] for _ in range(4)])])
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(np.mean(runs, 0), np.std(runs, 0, ddof=1), strict=True)]
        print(f"{name:30}    {cells[0]:>13}       {cells[1]:>13}        {cells[2]:>13}", flush=True)
    print("\nsquared advantage: of the reward over its prompt's posterior mean without it, not divided by a deviation")


def watch(trainer: AllocatedGRPOTrainer) -> list[tuple[float, float]]:
    """Return a list that gets each round's share of rollouts in mixed groups and its mean squared advantage."""
    learn, bank, rounds = trainer.dealer.learn, trainer.allocator.bank, []

    def learn_and_note(prompts: list[Any], rewards: list[float], **scoring: Any) -> Any:
        squares = np.square(bank.advantages(prompts, rewards, scale="none"))
        advantages = learn(prompts, rewards, **scoring)
        rounds.append((trainer.dealer.figures["mixed_rollouts"], float(squares.mean())))
        return advantages

    trainer.dealer.learn = learn_and_note
    return rounds


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--mode", choices=["select", "redeal"], default="select")
    add("--advantages", choices=["posterior", "group"], default="posterior")
    add("--uniform", action="store_true", help="deal as the stock trainer")
    add("--compare", action="store_true", help="print a table of four ways of dealing, over three seeds")
    add("--model", help="name or folder of a model; none builds a tiny one")
    add("--dataset", default="openai/gsm8k", help="data set for --model")
    add("--config", help="configuration of the data set")
    add("--prompt-column", default="question")
    add("--answer-column", default="answer")
    add("--steps", type=int, default=60)
    add("--prompts-per-step", type=int, default=16)
    add("--num-generations", type=int, default=4)
    add("--per-device", type=int, default=16, help="completions per process and forward pass")
    add("--max-completion-length", type=int, default=3)
    add("--learning-rate", type=float, default=3e-3)
    add("--save-steps", type=int, default=20)
    add("--seed", type=int, default=0)
    add("--output", default="trl_grpo_results")
    add("--report-to", default="none", help="tensorboard, wandb, or what else TRL knows")
    add("--resume", action="store_true", help="go on from the last checkpoint in --output")
    add("--vllm", action="store_true", help="generate with vLLM on the same GPUs")
    add("--gpu", dest="cpu", action="store_false", help="train the tiny model on a GPU")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train, then print what was dealt; success is measured on all prompts, with equal weights."""
    options = parse(arguments)
    if options.compare:
        compare(options)
        return
    trainer = build_trainer(options)
    before = trainer.evaluate()["eval_reward"] if options.model is None else None
    trainer.train(resume_from_checkpoint=options.resume or None)
    after = trainer.evaluate()["eval_reward"] if options.model is None else None
    if trainer.accelerator.is_main_process:
        figures = trainer.allocator.metrics(certificate=False)
        print(f"{figures['spent_budget']:.0f} rollouts dealt, {figures['remaining_budget']:.0f} left.")
        if before is not None:
            print(
                f"Success over all prompts: {before:.3f} before, {after:.3f} after (one sample of each kind; not a benchmark)."
            )


if __name__ == "__main__":
    main()
