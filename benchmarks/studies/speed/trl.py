"""Measure what the TRL adapter adds to a training step: ``pip install torch -e ".[trl]" && python benchmarks/trl_overhead.py``.

512 rollouts a step of two small Llamas built in code, one whose steps take seconds and one of about a quarter of a second, with
the recommended allocator of a run of 500 steps. The adapter's time is that of its override less that of the generation and
scoring of TRL; the share is of the whole step. The steps of a real model are longer, and the adapter's time is the same.

The C library unmaps what a step has freed at the next free of 64 kB or more, whoever makes it, which takes milliseconds: that
is brought about just before the adapter's clock runs, because the trainer would pay for it without the adapter, too.
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

import numpy as np
import torch
from trl import GRPOConfig, GRPOTrainer

from cero_alloc.integrations.trl import AllocatedGRPOTrainer, allocator_for
from trl_grpo import opening_reward, tiny_dataset, tiny_model, tiny_tokenizer

MODELS = {  # width, layers, tokens of a completion, steps
    "long": (128, 4, 64, 14),
    "short": (32, 2, 40, 60),  # one of the twelve refits of the prior is among them
}


def settle() -> None:
    """Make a large free, so that what the trainer has freed is unmapped now."""
    np.empty(12_000)


class Inner(GRPOTrainer):
    """Times TRL's own generation and scoring, below the adapter."""

    inner = 0.0

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        start = time.perf_counter()
        output = super()._generate_and_score_completions(inputs)
        settle()
        self.inner += time.perf_counter() - start
        return output


class Timed(AllocatedGRPOTrainer, Inner):
    """Times the same with the adapter, and the whole step."""

    outer = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.times: list[tuple[float, float]] = []  # seconds of the step, and of the adapter in it

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        settle()
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


def run(mode: str, advantages: str, size: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Return the seconds of each step, and of the adapter in it."""
    width, layers, tokens, steps = MODELS[size]
    tokenizer, dataset = tiny_tokenizer(), tiny_dataset(options.pool)
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, max_steps=steps, num_generations=8, per_device_train_batch_size=8 * options.prompts,
            use_cpu=True, max_completion_length=tokens, bf16=False, gradient_checkpointing=False, report_to="none",
            save_strategy="no", logging_steps=steps, disable_tqdm=True,
        )  # fmt: skip
        words = {"mode": mode, "advantages": advantages}
        trainer = Timed(
            model=tiny_model(tokenizer, width, layers), reward_funcs=opening_reward, args=config, train_dataset=dataset,
            processing_class=tokenizer, allocator=allocator_for(config, dataset, n_rounds=500, **words), **words,
        )  # fmt: skip
        trainer.train()
    return trainer.times[2:]  # the first two compile


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(MODELS), help="one model only")
    parser.add_argument("--prompts", type=int, default=64, help="prompts a step, 8 rollouts each")
    parser.add_argument("--pool", type=int, default=10_000)
    options = parser.parse_args()
    print(
        f"{8 * options.prompts} rollouts a step, pool of {options.pool}, {torch.get_num_threads()} threads; target 2%\n"
        "mode    advantages  step [ms]  adapter [ms]  [% of the steps]  median step (min - max)"
    )
    for size in [options.size] if options.size else MODELS:
        for mode in ("select", "redeal"):
            for advantages in ("posterior", "group"):
                times = run(mode, advantages, size, options)
                shares = [100 * own / whole for whole, own in times]
                step, adapter = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
                share = 100 * sum(own for _, own in times) / sum(whole for whole, _ in times)
                print(
                    f"{mode:7} {advantages:10} {step:10.0f} {adapter:13.2f} {share:17.2f}  {statistics.median(shares):11.2f} "
                    f"({min(shares):.2f} - {max(shares):.2f})  {'met' if share <= 2 else 'missed'}",
                    flush=True,
                )
