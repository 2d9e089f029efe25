"""TRL: GRPO whose prompts get as many rollouts as an allocator says."""

from ._trainer import AllocatedGRPOTrainer, generation_rounds

__all__ = ["AllocatedGRPOTrainer", "generation_rounds"]
