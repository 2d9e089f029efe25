"""OpenRLHF: PPO whose prompts get as many rollouts as an allocator says."""

from ._build import allocator_for
from ._trainer import AllocatedPPOTrainer, allocated_training

__all__ = ["AllocatedPPOTrainer", "allocated_training", "allocator_for"]
