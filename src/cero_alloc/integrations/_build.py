"""The allocator of a run, from what a trainer's configuration says."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal

from cero_alloc._allocators.resolving import ResolvingAllocator
from cero_alloc._allocators.training import training_allocator
from cero_alloc._checks import error_text

from ._dealer import Advantages, check_advantages

Mode = Literal["select", "redeal"]

_LARGEST = 4  # times the trainer's group size, in mode "redeal"


def run_allocator(
    prompt_ids: Sequence[Hashable],
    *,
    n_rounds: int,
    slots: int,
    group_size: int,
    mode: Mode,
    advantages: Advantages,
    visits: int | None = None,
    **settings: Any,
) -> ResolvingAllocator:
    """Return :func:`~cero_alloc.training_allocator` for the stock run's rollouts.

    Parameters
    ----------
    prompt_ids : sequence of hashable
        Of the training set, each once.
    n_rounds : int
        Batches that the run generates.
    slots : int
        Rollouts of a batch.
    group_size : int
        The stock trainer's rollouts per prompt: the least count with advantages over a group's mean.
    mode : {"select", "redeal"}
        Candidates of a batch: the whole training set, or the prompts of the data loader, which share the batch's rollouts.
    advantages : {"group", "posterior"}
        Over the group's mean, or over the prompt's posterior mean, which serves single rollouts.
    visits : int or None
        How often the loader brings each prompt, in mode "redeal".
    **settings
        Any other argument of :func:`~cero_alloc.training_allocator`, or another value for one that is set here.

    Raises
    ------
    ValueError, TypeError
        For an unknown mode or kind of advantages, for ``costs``, or as :func:`~cero_alloc.training_allocator`.

    Examples
    --------
    >>> allocator = run_allocator(range(100), n_rounds=10, slots=64, group_size=8, mode="select", advantages="posterior")
    >>> int(allocator.allocate(budget=64, exact=True).max())
    1
    """
    check_advantages(advantages)
    if mode not in ("select", "redeal"):
        raise ValueError(error_text("mode", "be one of ['select', 'redeal']", mode, "Correct the spelling."))
    if settings.get("costs") is not None:
        remedy = "Leave it out: a batch of a trainer has an exact number of rollouts, whatever they cost."
        raise ValueError(error_text("costs", "be None", settings["costs"], remedy))
    run: dict[str, Any] = {"total_budget": n_rounds * slots, "n_rounds": n_rounds, "round_capacity": slots}
    if advantages == "group":
        run["rollouts_per_visit"] = group_size
    if mode == "redeal":  # the batch's prompts take all of its rollouts
        run |= {"max_rollouts": _LARGEST * group_size, "visits": visits}
    return training_allocator(prompt_ids, **run | settings)


def checked_ids(ids: Sequence[Any], column: str) -> list[Hashable]:
    """Return the prompt ids of a training set, or raise for one that is missing, repeated or no id."""
    rows: dict[Hashable, int] = {}
    for row, key in enumerate(ids):
        if key is None or isinstance(key, (list, dict)):
            condition = "hold a text or an integer in every row"
            raise ValueError(error_text(f"{column}[{row}]", condition, key, "Number the rows once, in the data set."))
        if rows.setdefault(key, row) != row:
            condition = f"name one row each: rows {rows[key]} and {row} are the same prompt to the allocator"
            raise ValueError(error_text(column, condition, key, "Drop the repeats, or number the rows."))
    return list(rows)
