"""Settings that the TRL adapter refuses, because its tests do not cover them."""

from __future__ import annotations

from typing import Any


def refuse_unknown_modes(trainer: Any) -> None:
    """Raise ValueError for a setting of an AllocatedGRPOTrainer that its tests do not cover."""
    args, horizon, mode, weighting = trainer.args, trainer.allocator.horizon, trainer.mode, trainer.group_weighting
    slots, cycle = args.generation_batch_size, args.steps_per_generation * args.num_iterations
    mid_cycle = args.save_strategy == "steps" and args.save_steps * args.gradient_accumulation_steps % cycle != 0
    for unknown, text in (
        (mode not in ("redeal", "select"), f"mode must be 'redeal' or 'select', got {mode!r}. Correct it."),
        (weighting not in ("rollout", "prompt"),
         f"group_weighting must be 'rollout' or 'prompt', got {weighting!r}. Correct it."),
        (mode == "select" and not hasattr(trainer.train_dataset, "__len__"),
         "train_dataset must have rows by number in mode 'select', got a stream. Use mode='redeal'."),
        (args.multi_objective_aggregation != "sum_then_normalize",
         "multi_objective_aggregation must be 'sum_then_normalize': the other needs equal groups. Set it so."),
        (getattr(trainer, "environment_factories", None) or getattr(args, "environment_factory", None),
         "environment_factory must be None: it was not tested with groups of unequal size. Use reward_funcs."),
        (slots % horizon.unit_size or slots > horizon.round_capacity,
         f"generation_batch_size = {slots} must be a multiple of unit_size = {horizon.unit_size}, at most "
         f"round_capacity = {horizon.round_capacity}. Build the allocator for it."),
        (mode == "redeal" and horizon.max_rollouts < trainer.num_generations,
         f"max_rollouts = {horizon.max_rollouts} must be at least num_generations = {trainer.num_generations}, or a batch "
         "cannot hold its rollouts. Raise it."),
        (mid_cycle, f"save_steps = {args.save_steps} must end on a whole generation cycle of {cycle} micro-steps: a run "
         "resumed within one generates again, and the counts would differ. Round it up."),
    ):  # fmt: skip
        if unknown:
            raise ValueError(text)
