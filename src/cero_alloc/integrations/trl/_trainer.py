"""TRL: a GRPOTrainer whose prompts get as many rollouts as an allocator says, at the stock trainer's total."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import nanstd

from cero_alloc import checkpoint
from cero_alloc.integrations._advantages import group_advantages
from cero_alloc.integrations._dealer import Dealer
from cero_alloc.integrations._groups import groups_by_size, require_groups
from cero_alloc.integrations._versions import require_version

from ._modes import refuse_unknown_modes

LOWEST, NEWEST = "1.8.0", "1.16.0"  # the versions that the tests passed with
STATE = "allocator.npz"


def generation_rounds(args: GRPOConfig) -> int:
    """Return how often a run of ``args.max_steps`` steps generates: the allocator's ``n_rounds``."""
    return math.ceil(
        args.max_steps * args.gradient_accumulation_steps / (args.steps_per_generation * args.num_iterations)
    )


class AllocatedGRPOTrainer(GRPOTrainer):
    """GRPO with rollouts dealt by an allocator of cero-alloc; evaluation is the stock trainer's.

    Parameters
    ----------
    allocator : FenchelDualAllocator, ResolvingAllocator or any of ``cero_alloc.baselines``
        Deals exactly ``generation_batch_size`` rollouts a round, in groups of 2 or more. The main process alone uses it.
    mode : {"redeal", "select"}
        Candidates: the prompts that the data loader brings, or the whole training set.
    id_column : str
        Column of stable prompt ids, those of the allocator's bank.
    group_weighting : {"rollout", "prompt"}
        What weighs the same in the loss.
    success : callable or None
        Maps a rollout's weighted sum of rewards to [0, 1]; None where rewards lie there.

    Other arguments are GRPOTrainer's. Raises RuntimeError for a version of TRL that was not tested, ValueError for an
    unknown mode or setting; both name the remedy.
    """

    def __init__(
        self,
        *args: Any,
        allocator: Any,
        mode: str = "redeal",
        id_column: str = "prompt_id",
        group_weighting: str = "rollout",
        success: Callable[[float], float] | None = None,
        **kwargs: Any,
    ) -> None:
        require_version("trl", LOWEST, NEWEST)
        require_groups(allocator)
        super().__init__(*args, **kwargs)
        self.allocator, self.dealer = allocator, Dealer(allocator, success)
        self.mode, self.id_column, self.group_weighting = mode, id_column, group_weighting
        refuse_unknown_modes(self)
        self._row_of = {key: row for row, key in enumerate(self.train_dataset[id_column])} if mode == "select" else {}
        if mode == "select" and set(self._row_of) != set(allocator.bank.prompt_ids):
            raise ValueError(
                f"{id_column} must name the bank's prompts in mode 'select'. Build the bank from that column."
            )

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train as TRL does; a resumed run takes the allocator's state from the same checkpoint."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"output_dir must hold a checkpoint, got {self.args.output_dir!r}. Start without resuming."
                )
        if resume_from_checkpoint:
            self.allocator.load_state_dict(checkpoint.read(Path(resume_from_checkpoint) / STATE))
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # First: the trainer writes trainer_state.json last, so a checkpoint that is complete has the allocator's state.
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            self.allocator.save(folder / STATE)
        super()._save_checkpoint(model, trial)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        gathered = gather_object(inputs)
        ids = self._deal(gathered)
        here = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
        rows = self._rows(ids[here]) if self.mode == "select" else {row[self.id_column]: row for row in gathered}
        per_prompt, self.num_generations = self.num_generations, 1  # every row is a prompt of its own now
        try:
            output = super()._generate_and_score_completions([dict(rows[key]) for key in ids[here]])
        finally:
            self.num_generations = per_prompt
        advantages = group_advantages(
            self._rewards, ids, scale=self.scale_rewards, weighting=self.group_weighting, std=nanstd
        )
        output["advantages"] = advantages[here]
        self._logs["advantages"].extend(advantages.tolist())  # a queue of one generation: the stock zeros drop out
        self._learn(ids)
        return output

    def _calculate_rewards(self, *args: Any) -> torch.Tensor:
        per_func = super()._calculate_rewards(*args)
        rewards = (per_func * self.reward_weights.to(per_func.device).unsqueeze(0)).nansum(dim=1)
        self._rewards = rewards.masked_fill(torch.isnan(per_func).all(dim=1), torch.nan)
        return per_func

    def _deal(self, gathered: list[dict[str, Any]]) -> list[Any]:
        """Return the prompt of every rollout of this round, all processes together."""
        offered = [row[self.id_column] for row in gathered[:: self.num_generations]] if self.mode == "redeal" else None
        dealt: list[Any] = [None]
        if self.accelerator.is_main_process:  # one process decides: a tie broken otherwise elsewhere would dead-lock
            counts = self.dealer.deal(offered, len(gathered))
            names = self.allocator.bank.prompt_ids if offered is None else offered
            dealt = [[names[place] for place in np.repeat(np.arange(len(counts)), counts).tolist()]]
        return broadcast_object_list(dealt)[0]

    def _rows(self, ids: list[Any]) -> dict[Any, Any]:
        """Return the training set's row of each prompt, all read in one go where the data set can."""
        keys = list(dict.fromkeys(ids))
        numbers = [self._row_of[key] for key in keys]
        together = getattr(
            self.train_dataset, "__getitems__", lambda them: [self.train_dataset[number] for number in them]
        )
        return dict(zip(keys, together(numbers), strict=True))

    def _learn(self, ids: list[Any]) -> None:
        """Report the round to the allocator, and both to TRL's log."""
        stacks = groups_by_size(ids)
        tied = sum(int((nanstd(self._rewards[s], dim=1).abs() <= 1e-8).sum()) * s.shape[1] for s in stacks)
        self._metrics["train"]["frac_reward_zero_std"][-1] = tied / len(ids)  # the stock figure is of groups of one
        if not self.accelerator.is_main_process:
            return  # its copy of the allocator stays as it was built
        self.dealer.learn(ids, self._rewards.tolist())
        for name, figure in self.dealer.metrics().items():
            self._metrics["train"][f"alloc/{name}"].append(float(figure))
