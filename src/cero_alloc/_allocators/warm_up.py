"""Compile what runs need, so that no training process waits for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cero_alloc import _numba
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._solvers import sampling

from .fenchel_dual import FenchelDualAllocator
from .training import training_allocator

_POOL = 8


class WarmUp(NamedTuple):
    """How many kernels a warm-up compiled, how many it found in the cache, and the folders of the cache."""

    compiled: int
    found: int
    folders: list[str]


def warm_up() -> WarmUp:
    """Play rounds of the recommended allocator, in rollouts and in groups, and of Algorithm 1, with their metrics.

    Numba's cache keeps what this compiles. Sizes of pools and ids do not matter.
    """
    patience, _numba.PATIENCE = _numba.PATIENCE, 0
    try:
        plan: dict[str, Any] = {"total_budget": 64, "n_rounds": 8}
        for allocator in (
            training_allocator(_POOL, **plan),
            training_allocator(_POOL, rollouts_per_visit=2, **plan),
            FenchelDualAllocator(BetaPosteriorBank(_POOL), max_rollouts=8, **plan),
        ):
            for offer in (np.arange(_POOL)[::2], None, None):
                counts = allocator.allocate(offer)
                prompts = np.repeat(np.arange(_POOL) if offer is None else offer, counts)
                allocator.observe(prompts, np.arange(prompts.size) % 2)
                allocator.metrics()
        training_allocator(sampling.MANY, **plan).allocate()  # what only large pools need
    finally:
        _numba.PATIENCE = patience
    if _numba.INTERPRETED:
        return WarmUp(0, 0, [])
    stats = [kernel.stats for kernel in _numba.KERNELS.values()]
    found = sum(bool(s.cache_hits) for s in stats)
    compiled = sum(bool(kernel.overloads) for kernel in _numba.KERNELS.values()) - found
    return WarmUp(
        compiled, found, sorted({s.cache_path for s in stats if s.cache_path and (s.cache_hits or s.cache_misses)})
    )
