"""Code that the adapters share: tested versions, groups of unequal size, feedback per prompt."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

UNTESTED = "CERO_ALLOC_UNTESTED"  # set to 1 to use an adapter with a trainer's version that it was not tested with


def require_version(package: str, lowest: str, newest: str) -> None:
    """Refuse an installed version outside the range that the adapter's tests passed with.

    Parameters
    ----------
    package : str
        Name of the distribution on PyPI.
    lowest, newest : str
        Ends of the tested range; patch releases of ``newest`` are taken to be like it.

    Raises
    ------
    RuntimeError
        For a version outside, unless the environment variable ``CERO_ALLOC_UNTESTED`` is 1.
    """
    found = version(package)
    if os.environ.get(UNTESTED) == "1" or _release(lowest) <= _release(found) < _next_minor(newest):
        return
    raise RuntimeError(
        f"{package} must be between {lowest} and {newest}, the range that this adapter was tested with, got {found}. "
        f"Install '{package}>={lowest},<={newest}', or run the adapter's tests with yours and set {UNTESTED}=1."
    )


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


def feedback(
    ids: Sequence[Hashable], rewards: Iterable[float], success: Callable[[float], float] | None = None
) -> tuple[list[Hashable], list[float], list[int]]:
    """Return each prompt once, with the sum of its rewards and its scorable rollouts.

    Parameters
    ----------
    ids : sequence of hashable, shape (n_rollouts,)
        Prompt of each rollout.
    rewards : iterable of float, shape (n_rollouts,)
        Its reward; NaN where nothing could score it: such a rollout leaves both sums.
    success : callable or None
        Maps a reward to [0, 1]; None takes rewards as they are.

    Raises
    ------
    ValueError
        For a reward outside [0, 1].

    Examples
    --------
    >>> feedback(["a", "a", "b", "b"], [1.0, 0.0, float("nan"), 1.0])
    (['a', 'b'], [1.0, 1.0], [2, 1])
    """
    sums: dict[Hashable, list[float]] = {}
    for place, (key, reward) in enumerate(zip(ids, rewards, strict=True)):
        if math.isnan(reward):
            continue
        value = float(reward if success is None else success(reward))
        if not 0.0 <= value <= 1.0:
            raise ValueError(
                f"rewards must lie in [0, 1], got rewards[{place}] = {value!r}. "
                "Pass success=, which maps a reward to [0, 1], say lambda reward: float(reward > 0)."
            )
        entry = sums.setdefault(key, [0.0, 0])
        entry[0] += value
        entry[1] += 1
    return list(sums), [entry[0] for entry in sums.values()], [int(entry[1]) for entry in sums.values()]


def prompt_metrics(successes: Sequence[float], rollouts: Sequence[int]) -> dict[str, float]:
    """Return the step's figures with equal weight per prompt, so that they do not depend on the counts.

    Examples
    --------
    >>> prompt_metrics([2.0, 1.0], [2, 4])
    {'prompt_reward': 0.625, 'zero_variance_share': 0.5}
    """
    rates = np.asarray(successes, dtype=np.float64) / np.asarray(rollouts, dtype=np.float64)
    if rates.size == 0:
        return {"prompt_reward": math.nan, "zero_variance_share": math.nan}
    return {
        "prompt_reward": float(rates.mean()),
        "zero_variance_share": float(np.mean((rates == 0.0) | (rates == 1.0))),
    }


def _release(text: str) -> tuple[int, ...]:
    """Return the numbers of a version: "1.16.0.dev0" gives (1, 16, 0)."""
    numbers = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _next_minor(text: str) -> tuple[int, ...]:
    major, minor = (*_release(text), 0)[:2]
    return (major, minor + 1)
