"""Algorithm 1 over a pool in shards, in one process or on many machines, with the counts of the undivided pool."""

from ._shard import PoolShard
from ._sharded import ShardedAllocator, in_process

__all__ = ["PoolShard", "ShardedAllocator", "in_process"]
