"""TRL: a GRPOTrainer whose prompts get as many rollouts as an allocator says, at the stock trainer's total."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from trl import GRPOTrainer
from trl.trainer.utils import nanstd

from cero_alloc.integrations._advantages import group_advantages
from cero_alloc.integrations._build import Mode
from cero_alloc.integrations._dealer import Advantages, Dealer
from cero_alloc.integrations._groups import groups_by_size
from cero_alloc.integrations._versions import require_version

from . import _resume
from ._modes import check_words, refuse_unknown_modes
from ._plan import allocator_for, cycle_length, prompt_ids, rounds_to_come, visits_of

LOWEST, NEWEST = "1.8.0", "1.16.0"  # the versions that the tests passed with


class AllocatedGRPOTrainer(GRPOTrainer):
    r"""GRPO with rollouts dealt by an allocator of cero-alloc; evaluation is the stock trainer's.

    Parameters
    ----------
    *args, **kwargs
        As for ``trl.GRPOTrainer``. Reward functions are given the data set's columns, the prompt ids with them.
    allocator : FenchelDualAllocator, ResolvingAllocator, any of ``cero_alloc.baselines``, or None
        Deals exactly ``generation_batch_size`` rollouts a round; the main process alone uses it. None builds it by
        :func:`allocator_for`, and a resumed run then extends it where the run or the data set has grown. One that has
        dealt already is taken for the checkpoint's, loaded and changed by the caller. ``trainer.allocator`` is the one in
        use.
    mode : {"select", "redeal"}
        Candidates of a batch: the whole training set, or the prompts that the data loader brings.
    advantages : {"posterior", "group"}
        What is subtracted from a rollout's reward. "posterior": the posterior mean of its prompt, without the rollout
        itself; groups of any size, of one as well. "group": the mean of the prompt's rollouts, as in TRL; groups of two
        or more, and with equal groups the stock trainer's parameters bit for bit.
    id_column : str
        Column of stable prompt ids, those of the allocator's bank.
    group_weighting : {"rollout", "prompt"}
        What weighs the same in the loss; "prompt" with "group" advantages only.
    success : callable or None
        Maps a rollout's weighted sum of rewards to [0, 1]; None where rewards lie there. The allocator learns from it, and
        with "posterior" advantages the policy, too.

    Raises
    ------
    RuntimeError
        For a version of TRL that was not tested.
    ValueError
        For an unknown word or setting, prompt ids that are missing, repeated or unknown to the allocator, a training set
        smaller than a batch, or an allocator that does not fit.

    Notes
    -----
    ``scale_rewards`` says what divides a posterior advantage: "group", TRL's default, the deviation
    :math:`\sqrt{v}` of the prompt's rewards as its posterior has it without the rollout itself
    (``scale="posterior"`` of :meth:`~cero_alloc.ResolvingAllocator.observe`); "none" nothing. "batch"
    is refused: where all rewards of a batch are alike, their deviation is 0 and the distance to the posterior means is not.

    A checkpoint holds the allocator's state, ``allocator.npz``, and within a generation cycle every process's rollouts
    that are not trained on yet, ``rollouts-*.pt``.

    Examples
    --------
    ::

        trainer = AllocatedGRPOTrainer(
            model="Qwen/Qwen2.5-1.5B-Instruct",
            args=GRPOConfig(output_dir="run", max_steps=500),
            train_dataset=dataset,  # with columns prompt, prompt_id, and what the reward function needs
            reward_funcs=reward,
        )
        trainer.train()
    """

    num_generations: int

    def __init__(
        self,
        *args: Any,
        allocator: Any = None,
        mode: Mode = "select",
        advantages: Advantages = "posterior",
        id_column: str = "prompt_id",
        group_weighting: str = "rollout",
        success: Callable[[float], float] | None = None,
        **kwargs: Any,
    ) -> None:
        require_version("trl", LOWEST, NEWEST)
        check_words(mode, advantages, group_weighting)
        super().__init__(*args, **kwargs)
        self.mode, self.advantages, self.id_column = mode, advantages, id_column
        self.group_weighting, self._success = group_weighting, success
        self._built, self._changed = allocator is None, allocator is not None and allocator.round > 0
        if allocator is None:
            allocator = allocator_for(
                self.args, self.train_dataset, id_column=id_column, mode=mode, advantages=advantages
            )
        self._use(allocator)
        rows = enumerate(prompt_ids(self.train_dataset, id_column)) if mode == "select" else ()
        self._row_of = {key: row for row, key in rows}

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train as TRL does; a resumed run goes on with the allocator's state in the checkpoint.

        Parameters
        ----------
        resume_from_checkpoint : str, bool or None
            Folder of a checkpoint; True takes the last one in ``output_dir``.
        **kwargs
            As for ``trl.GRPOTrainer.train``.

        Raises
        ------
        FileNotFoundError
            For a checkpoint of the stock trainer.
        ValueError
            For no checkpoint, one that does not fit the allocator or the number of processes, and for an allocator with
            less than the run generates.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"output_dir must hold a checkpoint, got {self.args.output_dir!r}. Start without resuming."
                )
        self._prepare(Path(str(resume_from_checkpoint)) if resume_from_checkpoint else None)
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def _use(self, allocator: Any) -> None:
        """Take an allocator into use, or raise where it does not fit."""
        self.allocator = allocator
        refuse_unknown_modes(self)
        self.dealer = Dealer(allocator, self._success, group_size=self.num_generations)

    def _prepare(self, folder: Path | None) -> None:
        """Set allocator and generation cycle to those of a checkpoint, or raise where they cannot serve the run."""
        slots, n_prompts = self.args.generation_batch_size, getattr(self.train_dataset, "__len__", lambda: None)()
        done, self._step, self._buffered_inputs = 0, 0, None
        if folder:
            state, done = _resume.saved_state(folder), self._steps_of(folder)
            self._step, self._buffered_inputs = _resume.load_rollouts(
                folder, self.accelerator.process_index, self.accelerator.num_processes, self.accelerator.device
            )
        rounds = rounds_to_come(self.args, n_prompts, done, -self._step % cycle_length(self.args))
        if folder and self._built:
            ids = prompt_ids(self.train_dataset, self.id_column)
            visits = visits_of(rounds, slots // self.num_generations, len(ids)) if self.mode == "redeal" else None
            self._use(_resume.extended(folder, ids, rounds=rounds, slots=slots, visits=visits))
        elif folder:
            _resume.restore(self.allocator, state, self._changed)
        _resume.require_enough(self.allocator, rounds, slots)

    @staticmethod
    def _steps_of(folder: Path) -> int:
        return int(TrainerState.load_from_json(str(folder / "trainer_state.json")).global_step)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # First: the trainer writes trainer_state.json last, so a checkpoint that is complete has the allocator's state.
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        within = self._step % cycle_length(self.args) != 0
        if self.args.should_save or within:
            folder.mkdir(parents=True, exist_ok=True)
        if self.args.should_save:
            self.allocator.save(folder / _resume.STATE)
        if within:
            rank, processes = self.accelerator.process_index, self.accelerator.num_processes
            _resume.save_rollouts(folder, self._step, self._buffered_inputs, rank, processes)
            self.accelerator.wait_for_everyone()
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
        advantages = self._learn(ids)
        output["advantages"] = advantages[here]
        self._logs["advantages"].extend(advantages.tolist())  # a queue of one generation: the stock zeros drop out
        self._log(ids, advantages)
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
            dealt = [[names[place] for place in np.repeat(np.arange(counts.size), counts).tolist()]]
        return broadcast_object_list(dealt)[0]

    def _rows(self, ids: list[Any]) -> dict[Any, Any]:
        """Return the training set's row of each prompt, all read in one go where the data set can."""
        keys = list(dict.fromkeys(ids))
        numbers = [self._row_of[key] for key in keys]
        together = getattr(
            self.train_dataset, "__getitems__", lambda them: [self.train_dataset[number] for number in them]
        )
        return dict(zip(keys, together(numbers), strict=True))

    def _learn(self, ids: list[Any]) -> torch.Tensor:
        """Report the round to the allocator, and return the advantages of all processes."""
        told: list[Any] = [None]
        if self.accelerator.is_main_process:  # the others' allocators stay as they were built
            scale = "posterior" if self.scale_rewards == "group" else "none"
            told = [self.dealer.learn(ids, self._rewards.tolist(), scale=scale).tolist()]
        if self.advantages == "group":
            return group_advantages(
                self._rewards, ids, scale=self.scale_rewards, weighting=self.group_weighting, std=nanstd
            )
        return torch.tensor(broadcast_object_list(told)[0], dtype=self._rewards.dtype, device=self._rewards.device)

    def _log(self, ids: list[Any], advantages: torch.Tensor) -> None:
        """Put the round's figures into TRL's log."""
        if self.advantages == "group":
            stacks = groups_by_size(ids)
            idle = sum(int((nanstd(self._rewards[s], dim=1).abs() <= 1e-8).sum()) * s.shape[1] for s in stacks)
        else:
            idle = int((advantages.abs() <= 1e-8).sum())
        self._metrics["train"]["frac_reward_zero_std"][-1] = idle / len(ids)  # the stock figure is of groups of one
        if self.accelerator.is_main_process:
            for name, figure in self.dealer.metrics().items():
                self._metrics["train"][f"alloc/{name}"].append(float(figure))
