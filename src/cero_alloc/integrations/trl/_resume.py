"""What a checkpoint of the TRL adapter holds beside the trainer's own files, and how a run goes on from it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import torch

from cero_alloc import checkpoint
from cero_alloc._allocators.resolving import ResolvingAllocator
from cero_alloc.integrations._resume import match_prompts

STATE = "allocator.npz"
ROLLOUTS = "rollouts-{}.pt"  # one for each process, where the checkpoint lies within a generation cycle
_WAYS = (
    "For a longer run or another data set leave allocator out: the trainer then extends the one that was saved. Or change "
    "that one yourself, by load, extend_budget, bank.add_prompts and bank.retire, and pass it as allocator."
)


def saved_state(folder: Path) -> dict[str, Any]:
    """Return the allocator's state in a checkpoint."""
    path = folder / STATE
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} must hold {STATE}, which the stock trainer does not write. Start a new run from its model, by "
            f"model={str(folder)!r}; or go on with a new allocator: allocator.save({str(path)!r})."
        )
    return checkpoint.read(path)


def restore(allocator: Any, state: dict[str, Any], changed: bool) -> None:
    """Load a checkpoint's state into an allocator that was passed; one that was loaded and changed before is only checked."""
    if changed:
        if allocator.round != state["ledger"]["round"]:
            raise ValueError(
                f"allocator must be at round {state['ledger']['round']} of the checkpoint, got one at {allocator.round}. "
                f"Load it from the checkpoint's {STATE}, or pass a new one."
            )
        return
    try:
        allocator.load_state_dict(state)
    except ValueError as error:
        raise ValueError(f"{error} {_WAYS}") from error


def extended(
    folder: Path, ids: Sequence[Hashable], *, rounds: int, slots: int, visits: int | None
) -> ResolvingAllocator:
    """Return the allocator in a checkpoint, changed where the rest of the run or the data set is another than was planned."""
    allocator = ResolvingAllocator.load(folder / STATE)
    changed = match_prompts(allocator.bank, ids)
    more, later = rounds * slots - int(allocator.remaining_budget), rounds - allocator.ledger.rounds_left
    if changed or more or later > 0:
        allocator.extend_budget(more, rounds=max(0, later), visits=visits)
    return allocator


def require_enough(allocator: Any, rounds: int, slots: int) -> None:
    """Raise for an allocator with less than the rest of the run generates."""
    left, turns = int(allocator.remaining_budget), allocator.ledger.rounds_left
    if left < rounds * slots or turns < rounds:
        raise ValueError(
            f"allocator must have {rounds * slots} rollouts for the {rounds} generations to come, got {left} for {turns}. "
            f"Call allocator.extend_budget({max(0, rounds * slots - left)}, rounds={max(0, rounds - turns)}), or leave "
            "allocator out."
        )


def save_rollouts(folder: Path, step: int, inputs: Any, rank: int, processes: int) -> None:
    """Write a process's rollouts that are not trained on yet: a run that generated again would have others."""
    torch.save({"processes": processes, "step": step, "inputs": inputs}, folder / ROLLOUTS.format(rank))


def load_rollouts(folder: Path, rank: int, processes: int, device: Any) -> tuple[int, Any]:
    """Return the micro-step of a checkpoint and this process's rollouts; 0 and None where a generation is next."""
    path = folder / ROLLOUTS.format(rank)
    if not any(folder.glob(ROLLOUTS.format("*"))):
        return 0, None
    held: dict[str, Any] = {"processes": "fewer"}
    if path.exists():
        place = "cpu" if device.type == "cpu" else device  # "cpu:1" of a second process is no place to load to
        held = torch.load(path, map_location=place, weights_only=True)
    if held["processes"] != processes:
        raise ValueError(
            f"{folder} lies within a generation cycle and must be resumed by as many processes as wrote it, "
            f"{held['processes']}, got {processes}. Start as many, or take a checkpoint between two cycles."
        )
    return held["step"], held["inputs"]
