"""The Tinker cookbook: batches whose groups have as many rollouts as an allocator says."""

from ._advantages import compute_advantages
from ._dataset import AllocatedDataset, allocator_for

__all__ = ["AllocatedDataset", "allocator_for", "compute_advantages"]
