"""The allocators: the template of a round, Algorithm 1 and the re-solving allocator."""
