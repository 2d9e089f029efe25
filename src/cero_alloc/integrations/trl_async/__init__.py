"""TRL's asynchronous GRPO: the allocator lives beside the rollout workers, and takes rewards late and in any order."""

from ._build import allocator_for, step_rollouts
from ._loop import AllocatedRolloutLoop
from ._trainer import AllocatedAsyncGRPOTrainer

__all__ = ["AllocatedAsyncGRPOTrainer", "AllocatedRolloutLoop", "allocator_for", "step_rollouts"]
