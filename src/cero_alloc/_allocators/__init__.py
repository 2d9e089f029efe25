"""Who gets rollouts: the allocate template and the two allocators."""
