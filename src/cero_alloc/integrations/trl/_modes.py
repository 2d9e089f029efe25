"""Settings that the TRL adapter refuses, because they have no meaning there or its tests do not cover them."""

from __future__ import annotations

import contextlib
import dis
import inspect
import warnings
from collections.abc import Iterator
from types import CodeType
from typing import Any, get_args

import numpy as np

from cero_alloc._checks import AllocationWarning, error_text
from cero_alloc.integrations._build import Mode
from cero_alloc.integrations._dealer import check_advantages
from cero_alloc.integrations._groups import require_groups

from ._plan import generation_rounds, prompt_ids

_CUTS = {"BUILD_SLICE", "BINARY_SLICE"}
_FOLDS = {"reshape", "view", "chunk", "split", "batched", "array_split"}


def check_words(mode: str, advantages: str, weighting: str) -> None:
    """Raise ValueError for words that the adapter does not know, or that do not go together."""
    check_advantages(advantages)
    for name, word, known in (("mode", mode, get_args(Mode)), ("group_weighting", weighting, ("rollout", "prompt"))):
        if word not in known:
            raise ValueError(error_text(name, f"be one of {list(known)}", word, "Correct the spelling."))
    if advantages == "posterior" and weighting == "prompt":
        remedy = "Leave it out: the weights undo the mean of a group, which is not taken there."
        condition = "be 'rollout' with advantages = 'posterior'"
        raise ValueError(error_text("group_weighting", condition, weighting, remedy))


def refuse_unknown_modes(trainer: Any) -> None:
    """Raise ValueError for a setting of an AllocatedGRPOTrainer that has no meaning or was not tested."""
    args, horizon, mode, size = trainer.args, trainer.allocator.horizon, trainer.mode, trainer.num_generations
    slots, most = args.generation_batch_size, horizon.max_rollouts
    stream = not hasattr(trainer.train_dataset, "__len__")
    for unknown, text in (
        (mode == "select" and stream,
         "train_dataset must have rows by number in mode 'select', got a stream. Use mode='redeal'."),
        (args.multi_objective_aggregation != "sum_then_normalize",
         "multi_objective_aggregation must be 'sum_then_normalize': the other needs equal groups. Set it so."),
        (trainer.scale_rewards == "batch" and trainer.advantages == "posterior",
         "scale_rewards must be 'group' or 'none' with advantages='posterior', got 'batch': where all rewards of a batch are "
         "alike, their deviation is 0 and the distance to the posterior means is not. Set 'none'."),
        (args.remove_unused_columns and mode == "redeal",
         f"remove_unused_columns must be False, or the data loader drops {trainer.id_column!r}. Leave it out."),
        (getattr(trainer, "environment_factories", None) or getattr(args, "environment_factory", None),
         "environment_factory must be None: it was not tested with groups of unequal size. Use reward_funcs."),
        (slots % horizon.unit_size or slots > horizon.round_capacity,
         f"generation_batch_size = {slots} must be a multiple of unit_size = {horizon.unit_size}, at most "
         f"round_capacity = {horizon.round_capacity}. Build the allocator for it."),
        (mode == "redeal" and most < size,
         f"max_rollouts = {most} must be at least num_generations = {size}, or a batch cannot hold its rollouts. Raise it."),
        (mode == "select" and most * (len(trainer.allocator.bank) - trainer.allocator.bank.retired.sum()) < slots,
         f"max_rollouts = {most} must be enough for the {slots} rollouts of a batch from all prompts. Raise it."),
    ):  # fmt: skip
        if unknown:
            raise ValueError(text)
    if trainer.advantages == "group":
        require_groups(trainer.allocator)
    if not stream:
        _require_ids(trainer)
    least = max(horizon.unit_size, getattr(trainer.allocator, "min_rollouts", 1))
    if not least == most == size:
        _warn_of_groups(trainer.reward_funcs, size)


def _require_ids(trainer: Any) -> None:
    """Raise for a data set whose prompts are not the bank's; prompts of the bank that are retired may be missing."""
    generation_rounds(trainer.args, len(trainer.train_dataset))  # raises for fewer rows than a batch has prompts
    ids, bank, column = prompt_ids(trainer.train_dataset, trainer.id_column), trainer.allocator.bank, trainer.id_column
    unknown = [key for key in ids if key not in bank]
    rest = set(np.array(bank.prompt_ids, dtype=object)[~bank.retired]) - set(ids) if trainer.mode == "select" else ()
    if unknown or rest:
        lack = f"{unknown[0]!r}, which the bank lacks" if unknown else f"no row of {next(iter(rest))!r}"
        raise ValueError(
            f"{column} must name the bank's prompts, got {lack}. Build the allocator by allocator_for(args, train_dataset)."
        )


def _warn_of_groups(reward_funcs: list[Any], size: int) -> None:
    """Warn of reward functions that seem to take ``size`` consecutive completions for a group."""
    for function in reward_funcs:
        if _seems_to_group(function, size):
            name = getattr(function, "__name__", type(function).__name__)
            warnings.warn(
                f"reward function {name!r} seems to compare num_generations = {size} consecutive completions, but prompts "
                "get other numbers of rollouts here. Group them by the column of prompt ids, which reward functions are "
                "given, or pass advantages='group' with mode='select', whose groups have num_generations rollouts each.",
                AllocationWarning,
                stacklevel=5,
            )


def _seems_to_group(function: Any, size: int) -> bool:
    """Whether a function's code names num_generations, or has its number and cuts or folds a list."""
    inner = inspect.unwrap(getattr(function, "func", function))  # of a partial or a decorated function
    method = inner if hasattr(inner, "__code__") else type(inner).__call__  # of an object that can be called
    code = getattr(method, "__code__", None)
    if not isinstance(code, CodeType):
        return False
    if "num_generations" in code.co_varnames:
        return True
    known, cuts = method.__globals__, False
    numbers: list[Any] = []
    for cell in method.__closure__ or ():
        with contextlib.suppress(ValueError):  # a cell that is empty yet
            numbers.append(cell.cell_contents)
    for step in _instructions(code):
        if step.argval == "num_generations":
            return True
        cuts |= step.opname in _CUTS or (isinstance(step.argval, str) and step.argval in _FOLDS)
        if step.opname.startswith("LOAD"):
            numbers.append(known.get(step.argval) if isinstance(step.argval, str) else step.argval)
    return cuts and any(type(number) is int and number == size for number in numbers)


def _instructions(code: CodeType) -> Iterator[dis.Instruction]:
    """Yield the instructions of a function and of those within it."""
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
