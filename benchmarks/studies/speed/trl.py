"""Measure what the TRL adapter adds to a training step: ``pip install torch -e ".[trl]" && python benchmarks/trl_overhead.py``.

One run at 512 rollouts a step of a small Llama built in code. The adapter's time is that of its override less that of the generation
and scoring of TRL; the share is of the whole step. The steps of a real model are longer, and the adapter's time is the same:
``--width 32 --layers 2 --tokens 16`` shows the share of a step that takes a fifth of a second.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples"))

import torch
from trl import GRPOConfig, GRPOTrainer

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator
from cero_alloc.integrations.trl import AllocatedGRPOTrainer, generation_rounds
from trl_grpo import opening_reward, tiny_dataset, tiny_model, tiny_tokenizer


class Inner(GRPOTrainer):
    """Times TRL's own generation and scoring, below the adapter."""

    inner = 0.0

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        start = time.perf_counter()
        output = super()._generate_and_score_completions(inputs)
        self.inner += time.perf_counter() - start
        return output


class Timed(AllocatedGRPOTrainer, Inner):
    """Times the same with the adapter, and the whole step."""

    outer = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.times: list[tuple[float, float]] = []  # seconds of the step, and of the adapter in it

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        start = time.perf_counter()
        output = super()._generate_and_score_completions(inputs)
        self.outer += time.perf_counter() - start
        return output

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Time one step."""
        self.inner = self.outer = 0.0
        start = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        self.times.append((time.perf_counter() - start, self.outer - self.inner))
        return loss


def run(mode: str, rule: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Return the seconds of each step, and of the adapter in it."""
    steps, prompts, pool = options.steps, options.prompts, options.pool
    tokenizer, dataset = tiny_tokenizer(), tiny_dataset(pool)
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, max_steps=steps, num_generations=8, per_device_train_batch_size=8 * prompts, use_cpu=True,
            max_completion_length=options.tokens, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no",
            logging_steps=steps, disable_tqdm=True,
        )  # fmt: skip
        slots, rounds = config.generation_batch_size, generation_rounds(config)
        kind = {"resolving": ResolvingAllocator, "fenchel": FenchelDualAllocator}[rule]
        allocator = kind(
            BetaPosteriorBank(pool), total_budget=rounds * slots, n_rounds=rounds, unit_size=2, max_rollouts=32,
            round_capacity=slots,
        )  # fmt: skip
        trainer = Timed(
            model=tiny_model(tokenizer, options.width, options.layers), reward_funcs=opening_reward, args=config, train_dataset=dataset,
            processing_class=tokenizer, allocator=allocator, mode=mode,
        )  # fmt: skip
        trainer.train()
    return trainer.times[2:]  # the first two compile


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--prompts", type=int, default=64, help="prompts a step, 8 rollouts each")
    parser.add_argument("--pool", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64, help="length of a completion")
    options = parser.parse_args()
    rows = []
    for mode in ("redeal", "select"):
        for rule in ("resolving", "fenchel"):
            times = run(mode, rule, options)
            shares = [100 * own / whole for whole, own in times]
            step = 1e3 * statistics.median(whole for whole, _ in times)
            rows.append((mode, rule, step, statistics.median(shares), min(shares), max(shares)))
    print(
        f"{8 * options.prompts} rollouts a step, pool of {options.pool}, {torch.get_num_threads()} threads; target 2%"
    )
    print("mode    allocator  step [ms]  adapter [% of the step]: median (min - max)")
    for mode, rule, step, median, least, most in rows:
        print(
            f"{mode:7} {rule:10} {step:9.0f}  {median:.2f} ({least:.2f} - {most:.2f})  {'met' if median <= 2 else 'missed'}"
        )
