"""A script of one's own: GRPO with TRL on one's own prompts and reward, the rollouts dealt by an allocator."""

import sys

import torch
from datasets import Dataset
from trl import GRPOConfig

from cero_alloc.integrations.trl import AllocatedGRPOTrainer

pairs = [(a, b) for a in range(10) for b in range(0, 100, 25)]
dataset = Dataset.from_dict(
    {
        "prompt": [f"What is {a} + {b}? Answer with a number only." for a, b in pairs],
        "prompt_id": [f"sum/{a}+{b}" for a, b in pairs],  # the same in every run
        "answer": [str(a + b) for a, b in pairs],
    }
)


def reward(completions: list[str], answer: list[str], **_: object) -> list[float]:
    """Return 1 for a completion that contains the answer: rewards lie in [0, 1]."""
    return [float(right in text) for text, right in zip(completions, answer, strict=True)]


trainer = AllocatedGRPOTrainer(
    model=sys.argv[1],  # a name on the hub, or a folder
    reward_funcs=reward,
    args=GRPOConfig(
        "run",
        num_train_epochs=2,
        num_generations=4,  # in the stock trainer: here a batch of 16 is 16 prompts, not 4
        per_device_train_batch_size=16,
        max_completion_length=16,
        use_cpu=not torch.cuda.is_available(),
    ),
    train_dataset=dataset,
)
trainer.train()
print(f"{trainer.allocator.metrics()['spent_budget']:.0f} rollouts dealt in {trainer.allocator.round} rounds.")
