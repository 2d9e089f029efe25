"""TRL: GRPO whose prompts get as many rollouts as an allocator says."""

from ._plan import allocator_for, generation_rounds
from ._trainer import AllocatedGRPOTrainer

__all__ = ["AllocatedGRPOTrainer", "allocator_for", "generation_rounds"]
