"""verl: PPO and GRPO whose prompts get as many rollouts as an allocator says."""

from ._build import allocator_for
from ._trainer import AllocatedPPOTrainer, activate

__all__ = ["AllocatedPPOTrainer", "activate", "allocator_for"]
