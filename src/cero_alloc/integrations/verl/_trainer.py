"""verl: the synchronous V1 trainer, its prompts given as many rollouts as an allocator says, at the stock trainer's total.

verl starts the trainer by name, in a process of its own. A module that derives a class from :class:`AllocatedPPOTrainer`,
hands it to :func:`activate` and is named in ``VERL_USE_EXTERNAL_MODULES`` takes the stock trainer's place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import collate_fn

from cero_alloc import checkpoint
from cero_alloc.integrations._dealer import Dealer, require_exact_batches
from cero_alloc.integrations._versions import require_version

from ._modes import prompt_ids, refuse_several_outputs, refuse_unknown_modes

LOWEST, NEWEST = "0.9.1", "0.9.1"  # the versions that the tests passed with
STATE = "allocator.npz"
COUNT = "__rollout_n__"  # verl's own column: the rollouts of a row


def activate(trainer: type[AllocatedPPOTrainer]) -> None:
    """Let verl start this trainer in every ``trainer.v1.trainer_mode``; the trainer refuses the modes that it does not support."""
    TRAINER_REGISTRY.update(dict.fromkeys(TRAINER_REGISTRY, trainer))


class AllocatedPPOTrainer(PPOTrainerSync):
    """verl's synchronous trainer with rollouts dealt by an allocator; validation is the stock trainer's.

    Parameters
    ----------
    config : omegaconf.DictConfig
        verl's, with these optional settings under ``cero_alloc``: ``mode``, "redeal" (the batch's prompts share its
        rollouts, the default) or "select" (the allocator draws from the whole training set); ``id_column``, the stable
        prompt ids ("index", verl's name of ``extra_info.index``); ``group_weighting``, what weighs the same in the loss,
        "rollout" (verl's way, the default) or "prompt".

    Raises
    ------
    RuntimeError
        For a version of verl that was not tested.
    ValueError
        For an unknown mode or setting, for prompt ids that repeat or are missing, and for an
        allocator that does not fit; all say what to do.
    """

    success: ClassVar[Callable[[float], float] | None] = None  # a static method that maps a reward to [0, 1]

    def __init__(self, config: DictConfig) -> None:
        require_version("verl", LOWEST, NEWEST)
        refuse_unknown_modes(config)
        super().__init__(config)
        own = config.get("cero_alloc", {})
        self._selects = own.get("mode", "redeal") == "select"
        self._id_column, self._weighting = own.get("id_column", "index"), own.get("group_weighting", "rollout")
        self._prompt_of: dict[str, Hashable] = {}  # of the batch's rows, by verl's name of them

    def build_allocator(self, prompts: list[Hashable], n_rounds: int, total_budget: int) -> Any:
        """Return the run's allocator, given the training set's prompts, the batches to come and their rollouts."""
        raise NotImplementedError("Derive a class from AllocatedPPOTrainer that builds an allocator here.")

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        self._prompts = prompt_ids(self.train_dataset, self._id_column)
        batch, per_prompt = self.config.data.train_batch_size, self.config.actor_rollout_ref.rollout.n
        rounds = min(self.total_training_steps, self.config.trainer.total_epochs * self.steps_per_epoch)
        self._slots = batch * per_prompt
        allocator = self.build_allocator(self._prompts, rounds, rounds * self._slots)
        require_exact_batches(allocator, per_prompt, batch, "actor_rollout_ref.rollout.n")
        self.dealer = Dealer(allocator, type(self).success)
        if self._selects:
            self.train_dataloader_it = self._selection()  # verl takes its batches from here

    def _selection(self) -> Iterator[dict[str, Any]]:
        """Yield batches of rows that the allocator draws from the whole training set, with their counts."""
        while True:
            counts = self.dealer.deal(self._prompts, self._slots)
            yield collate_fn([self.train_dataset[row] | {COUNT: count} for row, count in enumerate(counts) if count])

    def _submit_batch_to_rollout(self, batch: TensorDict) -> int:
        ids = tu.get(batch, self._id_column)
        if not self._selects:
            tu.assign_non_tensor_stack(batch, COUNT, self.dealer.deal(ids, self._slots))
        self._prompt_of = dict(zip(tu.get(batch, "uid"), ids, strict=True))
        return super()._submit_batch_to_rollout(batch)

    def _step_once(self, metrics: dict[str, Any], timing_raw: dict[str, float], sample_batch_size: int) -> KVBatchMeta:
        # Prompts without rollouts are finished at once and count; selection brings more or fewer than train_batch_size.
        return super()._step_once(metrics, timing_raw, len(self._prompt_of))

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Compute advantages as verl does, repair what it does to unequal groups, and report the rewards."""
        keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        refuse_several_outputs(keys)
        rows = [_row(key) for key in keys]
        batch = super()._compute_advantage(batch, metrics)
        self._reweigh(batch.partition_id, keys, Counter(rows))
        scored = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["rm_scores"])
        self.dealer.learn([self._prompt_of[row] for row in rows], scored["rm_scores"].sum(dim=1).tolist())
        metrics.update({f"alloc/{name}": figure for name, figure in self.dealer.metrics().items()})
        return batch

    def _reweigh(self, partition: str, keys: list[str], sizes: Counter[str]) -> None:
        """Weight prompts equally if the setting says so; the only scored rollout of a group gets weight 0."""
        mean = sizes.total() / len(sizes)
        weight = {row: 0.0 if n < 2 else mean / n if self._weighting == "prompt" else 1.0 for row, n in sizes.items()}
        keys = [key for key in keys if weight[_row(key)] != 1.0]
        if keys:
            stored = tq.kv_batch_get(keys=keys, partition_id=partition, select_fields=["advantages"])["advantages"]
            weighed = [row * weight[_row(key)] for key, row in zip(keys, stored.unbind(), strict=True)]
            nested = torch.nested.as_nested_tensor(weighed, layout=torch.jagged)
            fields = TensorDict({"advantages": nested}, batch_size=len(keys))
            tq.kv_batch_put(keys=keys, partition_id=partition, fields=fields)

    def _save_checkpoint(self) -> None:
        # Before the rest: verl names a checkpoint as the latest when it is complete, so a named one has the state.
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        folder.mkdir(parents=True, exist_ok=True)
        self.dealer.allocator.save(folder / STATE)
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps == 0:
            return
        trainer = self.config.trainer
        folder = Path(trainer.default_local_dir) / f"global_step_{self.global_steps}"
        if trainer.resume_mode == "resume_path":
            folder = Path(trainer.resume_from_path)
        if not (folder / STATE).exists():
            raise ValueError(
                f"{folder} must hold a run of this adapter, got no {STATE} there. Start a new run with "
                "trainer.resume_mode=disable, or take the file from the node that wrote it."
            )
        self.dealer.allocator.load_state_dict(checkpoint.read(folder / STATE))


def _row(key: str) -> str:
    """Return verl's name of the row that a trajectory belongs to."""
    return key.split("_", 1)[0]
