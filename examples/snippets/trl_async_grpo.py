"""Asynchronous GRPO with TRL."""

from trl.rewards import accuracy_reward

from cero_alloc.integrations.trl_async import AllocatedAsyncGRPOTrainer, allocator_for


def build(model, dataset, config, **more):
    """Return the trainer for a data set with the columns "prompt" and "solution" and an AsyncGRPOConfig."""
    dataset = dataset.add_column("prompt_id", range(len(dataset)))
    allocator = allocator_for(config, dataset)
    return AllocatedAsyncGRPOTrainer(model, accuracy_reward, config, dataset, allocator=allocator, **more)
