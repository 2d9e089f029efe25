"""Groups of unequal size."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt


def require_groups(allocator: Any) -> None:
    """Refuse an allocator that may deal a prompt one rollout: a group of one rollout has no baseline."""
    least = max(allocator.horizon.unit_size, getattr(allocator, "min_rollouts", 1))
    if least < 2:
        raise ValueError(
            f"unit_size or min_rollouts must be at least 2, got {least}: a group of one rollout has no baseline. "
            "Build the allocator with unit_size=2 or more."
        )


def groups_by_size(keys: Iterable[Hashable]) -> list[npt.NDArray[np.int64]]:
    """Return the places of each group's members, groups of equal size stacked; each array has shape (groups, size).

    A stack of equal groups can be reduced along its second axis exactly as a trainer reduces ``view(-1, size)``, so equal
    groups give the trainer's own numbers to the last bit.

    Examples
    --------
    >>> [stack.tolist() for stack in groups_by_size(["a", "b", "a", "c", "b", "a"])]
    [[[3]], [[1, 4]], [[0, 2, 5]]]
    """
    places: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    by_size: dict[int, list[list[int]]] = {}
    for members in places.values():
        by_size.setdefault(len(members), []).append(members)
    return [np.array(by_size[size], dtype=np.int64) for size in sorted(by_size)]
