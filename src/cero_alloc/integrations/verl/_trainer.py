"""verl: its V1 trainers, their prompts given as many rollouts as an allocator says, at the stock trainer's total.

verl starts the trainer by name, in a process of its own. What :func:`activate` registers takes the stock trainer's place; a
module that calls it is named in ``VERL_USE_EXTERNAL_MODULES``, and ``cero_alloc.integrations.verl.default`` is one.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, PPOTrainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import collate_fn

from cero_alloc import checkpoint
from cero_alloc.integrations._dealer import Dealer, require_exact_batches, require_known
from cero_alloc.integrations._resume import resumed
from cero_alloc.integrations._versions import require_version

from ._build import allocator_for, prompt_ids, run_plan, warmup_rollouts
from ._modes import Settings, refuse_several_outputs, refuse_unequal_groups, refuse_unknown_modes

LOWEST, NEWEST = "0.9.1", "0.9.1"  # the versions that the tests passed with
STATE, ROWS = "allocator.npz", "allocator_rows.npz"
COUNT = "__rollout_n__"  # verl's own column: the rollouts of a row
Build = Callable[..., Any]  # build(prompts, n_rounds=, total_budget=, config=) -> allocator
Success = Callable[[float], float]


class Row(NamedTuple):
    """A row that verl generates: some rollouts of a prompt, dealt in one round."""

    prompt: Hashable
    rollouts: int
    round: int


def activate(build: Build | None = None, success: Success | None = None) -> None:
    """Let verl start allocated trainers, in every ``trainer.v1.trainer_mode`` the one that derives from the stock trainer.

    Parameters
    ----------
    build : callable or None
        ``build(prompts, n_rounds=, total_budget=, config=)`` returns the run's allocator, given the ids of the training set,
        the batches of the run, its rollouts, and verl's configuration. None builds what :func:`allocator_for` recommends.
    success : callable or None
        Maps a reward to [0, 1]; None where rewards lie there.

    Notes
    -----
    Call it in a module that is named in ``VERL_USE_EXTERNAL_MODULES``: verl imports it in each of its processes.

    Examples
    --------
    A file ``mine.py``, for rewards of -1 and 1, started with ``VERL_USE_EXTERNAL_MODULES=mine``::

        from cero_alloc.integrations.verl import activate

        activate(success=lambda reward: (reward + 1) / 2)
    """
    own = {name: staticmethod(rule) for name, rule in (("build", build), ("success", success)) if rule is not None}
    for mode, stock in list(TRAINER_REGISTRY.items()):
        bases = (stock,) if issubclass(stock, Allocated) else (Allocated, stock)
        TRAINER_REGISTRY[mode] = type(f"Allocated{stock.__name__.removeprefix('Allocated')}", bases, dict(own))


class Allocated(PPOTrainer):
    """Goes before a V1 trainer class of verl: an allocator deals its rollouts; validation is the stock trainer's.

    In an asynchronous mode several rounds are in flight. With posterior advantages every rollout is a row of its own there, so
    that a step trains exactly the stock trainer's number, however many its prompts have; with advantages over groups all
    groups must be of verl's size.
    """

    build: ClassVar[Build | None] = None
    success: ClassVar[Success | None] = None

    def __init__(self, config: DictConfig) -> None:
        require_version("verl", LOWEST, NEWEST)
        self._own = Settings.of(config)
        refuse_unknown_modes(config, self._own.advantages)
        super().__init__(config)
        self._over_groups = self._own.advantages == "group"
        self._waits = self.trainer_mode == "sync"  # for all rows of a round
        self._rows: dict[str, Row] = {}  # in flight, by verl's name of the row

    # ------------------------------------------------------------ the allocator

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        self._prompts = prompt_ids(self.train_dataset, self._own.id_column)
        self._row_of = {key: row for row, key in enumerate(self._prompts)}
        self._plan = plan = run_plan(self.config, len(self._prompts))
        allocator = self._built(self._prompts, plan.n_rounds, plan.total_budget)
        self._refuse_misfits(allocator)
        given = allocator.state_dict().get("arguments", {}).get("visits")
        self._visits = plan.visits if self._own.mode == "redeal" and given is not None else None
        self.dealer = Dealer(allocator, type(self).success, group_size=plan.group_size)

    def _built(self, prompts: list[Hashable], n_rounds: int, total_budget: int) -> Any:
        """Return an allocator of the recommended kind, or the user's own."""
        build, own = type(self).build, self._own
        if build is not None:
            return build(prompts, n_rounds=n_rounds, total_budget=total_budget, config=self.config)
        run: dict[str, Any] = {"n_rounds": n_rounds, "total_budget": total_budget} | own.settings
        return allocator_for(self.config, prompts, mode=own.mode, advantages=own.advantages, **run)

    def _refuse_misfits(self, allocator: Any) -> None:
        require_known(allocator, self._prompts)
        batch, size = self.config.data.train_batch_size, self._plan.group_size
        offered = len(self._prompts) if self._own.mode == "select" else None
        setting = "actor_rollout_ref.rollout.n"
        require_exact_batches(allocator, size, batch, setting, advantages=self._own.advantages, offered=offered)
        if self._over_groups and not self._waits:
            refuse_unequal_groups(allocator, size)

    # ------------------------------------------------------------ rows to generate

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        return self._dealt((num_prompts or self.config.data.train_batch_size) * self._plan.group_size)

    def _dealt(self, rollouts: int) -> TensorDict:
        """Return rows for so many rollouts, of prompts of the whole training set or of verl's loader; and note them."""
        allocator = self.dealer.allocator
        if self._own.mode == "select":
            counts, names = self.dealer.deal(None, rollouts), allocator.bank.prompt_ids
            visited = np.flatnonzero(counts)
            ids, counts = [names[place] for place in visited.tolist()], counts[visited]
            drawn = [self.train_dataset[self._row_of[name]] for name in ids]
            self.train_dataloader_it = iter([collate_fn(drawn)])  # verl takes its batches from here
            batch = self._fetch_one_gen_batch()
        else:
            batch = self._loaded(-(-rollouts // self._plan.group_size))
            ids = tu.get(batch, self._own.id_column)
            counts = self.dealer.deal(ids, rollouts)
        apart = not (self._waits or self._over_groups)
        places = np.repeat(np.arange(counts.size), counts if apart else np.minimum(counts, 1)).tolist()
        if places != list(range(counts.size)):
            batch = tu.index_select_tensor_dict(batch, places)
        uids = [str(uuid.uuid4()) for _ in places]
        rows = [Row(ids[place], 1 if apart else int(counts[place]), allocator.round) for place in places]
        self._rows.update(zip(uids, rows, strict=True))
        tu.assign_non_tensor_stack(batch, "uid", uids)
        tu.assign_non_tensor_stack(batch, COUNT, [row.rollouts for row in rows])
        tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
        return batch

    def _loaded(self, n_prompts: int) -> TensorDict:
        """Return the next rows of verl's loader, no prompt twice: a batch may go over the end of an epoch."""
        if self._waits:
            return super()._next_train_batch(n_prompts)
        rows: dict[Hashable, TensorDict] = {}
        while len(rows) < n_prompts:
            row = self._fetch_one_gen_batch()  # of one row, in an asynchronous mode
            rows.setdefault(tu.get(row, self._own.id_column)[0], row)
        return tu.concat_tensordict(list(rows.values()))

    def _add_async_warmup_batches(self, num_warmup_batches: float) -> None:
        missing = warmup_rollouts(self.config) - sum(row.rollouts for row in self._rows.values())
        while missing > 0:  # a resumed run has them in flight
            self._submit_batch_to_rollout(self._dealt(min(missing, self._plan.slots)))
            missing -= self._plan.slots

    def _add_prompts_to_generate(self, num_prompts: int) -> int:
        """Generate as many rollouts again as those rows had that verl dropped: they failed, or came too late."""
        alive = (tq.kv_list("train") or {}).get("train", {})
        dropped = [self._rows.pop(uid) for uid in [uid for uid in self._rows if uid not in alive]]
        self._write_off(dropped)
        rollouts, allocator = sum(row.rollouts for row in dropped), self.dealer.allocator
        more = {} if self._visits is None else {"visits": self._visits(allocator.ledger.rounds_left + 1)}
        allocator.extend_budget(rollouts, rounds=1, **more)  # they were generated in vain
        return self._submit_batch_to_rollout(self._dealt(rollouts))

    def _write_off(self, rows: Iterable[Row]) -> None:
        lost: dict[int, Counter[Hashable]] = {}
        for row in rows:
            lost.setdefault(row.round, Counter())[row.prompt] += row.rollouts
        for number, counts in lost.items():
            self.dealer.allocator.write_off(list(counts), list(counts.values()), round=number)

    # ------------------------------------------------------------ a step

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> KVBatchMeta:
        """Train as verl does; its log averages over the updates of a step, which the allocator's state is not meant for."""
        batch = super().step(metrics, timing_raw)
        if self.parameter_sync_step > 1:
            state = self.dealer.allocator.metrics(certificate=False)
            metrics.update({f"alloc/{name}": figure for name, figure in state.items()})
        return batch

    def _step_once(self, metrics: dict[str, Any], timing_raw: dict[str, float], sample_batch_size: int) -> KVBatchMeta:
        if self._waits:
            sample_batch_size = len(self._rows)  # selection brings more or fewer than train_batch_size
        elif not self._over_groups:
            sample_batch_size *= self._plan.group_size
        return super()._step_once(metrics, timing_raw, sample_batch_size)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Compute advantages as verl does, repair or replace what it does to unequal groups, and report the rewards."""
        keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        refuse_several_outputs(keys)
        names = [_row(key) for key in keys]
        found = Counter(names)
        batch = super()._compute_advantage(batch, metrics)
        scored = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["rm_scores"])
        rewards = scored["rm_scores"].sum(dim=1).tolist()
        over = {uid: row for uid, row in self._rows.items() if self._waits or uid in found}
        lost = [row for uid, row in over.items() for _ in range(row.rollouts - found[uid])]  # they failed
        rows = [over[uid] for uid in names] + lost
        advantages = self.dealer.learn(
            [row.prompt for row in rows], rewards + [np.nan] * len(lost), round=[row.round for row in rows]
        )
        if self._over_groups:
            self._reweigh(batch.partition_id, keys, found)
        else:
            self._replace(batch.partition_id, keys, advantages[: len(keys)].tolist())
        for uid in over:
            del self._rows[uid]
        metrics.update({f"alloc/{name}": figure for name, figure in self.dealer.metrics().items()})
        return batch

    def _replace(self, partition: str, keys: list[str], advantages: list[float]) -> None:
        """Put in place verl's advantages and returns those over the prompts' posterior means."""
        masks = tq.kv_batch_get(keys=keys, partition_id=partition, select_fields=["response_mask"])["response_mask"]
        own = [mask.float() * advantage for mask, advantage in zip(masks.unbind(), advantages, strict=True)]
        nested = torch.nested.as_nested_tensor(own, layout=torch.jagged)
        fields = TensorDict({"advantages": nested, "returns": nested.clone()}, batch_size=len(keys))
        tq.kv_batch_put(keys=keys, partition_id=partition, fields=fields)

    def _reweigh(self, partition: str, keys: list[str], sizes: Counter[str]) -> None:
        """Weight prompts equally if the setting says so; the only scored rollout of a group gets weight 0."""
        weight = {uid: 1.0 if n > 1 else 0.0 for uid, n in sizes.items()}
        if self._own.group_weighting == "prompt":
            # A group's own mean takes 1/n of each reward away, so that n rollouts are worth n - 1; "rloo" leaves its own out.
            worth = 0 if self.config.algorithm.adv_estimator.startswith("rloo") else 1
            groups = {uid: n - worth for uid, n in sizes.items() if n > 1}
            scale = sizes.total() / max(1, sum(sizes[uid] / n for uid, n in groups.items()))  # weights have the mean 1
            weight |= {uid: scale / n for uid, n in groups.items()}
        keys = [key for key in keys if weight[_row(key)] != 1.0]
        if keys:
            stored = tq.kv_batch_get(keys=keys, partition_id=partition, select_fields=["advantages"])["advantages"]
            weighed = [row * weight[_row(key)] for key, row in zip(keys, stored.unbind(), strict=True)]
            nested = torch.nested.as_nested_tensor(weighed, layout=torch.jagged)
            fields = TensorDict({"advantages": nested}, batch_size=len(keys))
            tq.kv_batch_put(keys=keys, partition_id=partition, fields=fields)

    # ------------------------------------------------------------ checkpoints

    def _save_checkpoint(self) -> None:
        # Before the rest: verl names a checkpoint as the latest when it is complete, so a named one has the state.
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        folder.mkdir(parents=True, exist_ok=True)
        self.dealer.allocator.save(folder / STATE)
        rows = [(uid, *row) for uid, row in self._rows.items()]
        planned = self._plan.n_rounds, self._plan.total_budget
        checkpoint.write(folder / ROWS, {"trainer_mode": self.trainer_mode, "planned": planned, "rows": rows})
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps == 0:
            return
        trainer = self.config.trainer
        folder = Path(trainer.default_local_dir) / f"global_step_{self.global_steps}"
        if trainer.resume_mode == "resume_path":
            folder = Path(trainer.resume_from_path)
        if not (folder / STATE).exists() or not (folder / ROWS).exists():
            raise ValueError(
                f"{folder} must hold a run of this adapter, got no {STATE} and {ROWS} there. Take them from the node that wrote "
                "them. To go on from a stock checkpoint, merge its weights (python -m verl.model_merger), give them as "
                "actor_rollout_ref.model.path, and start a new run with trainer.resume_mode=disable."
            )
        saved = checkpoint.read(folder / ROWS)
        if saved["trainer_mode"] != self.trainer_mode:
            raise ValueError(
                f"trainer.v1.trainer_mode must be that of {folder}, {saved['trainer_mode']!r}, got {self.trainer_mode!r}: rows "
                "in flight belong to it. Set it so, or start a new run with trainer.resume_mode=disable."
            )
        plan = self._plan
        self.dealer.allocator = allocator = resumed(
            self._built,
            checkpoint.read(folder / STATE),
            self._prompts,
            n_rounds=plan.n_rounds,
            total_budget=plan.total_budget,
            setting="trainer.total_epochs and trainer.total_training_steps",
            planned=tuple(saved["planned"]),
            visits=self._visits,
        )
        self._refuse_misfits(allocator)
        self._rows = {uid: Row(*row) for uid, *row in saved["rows"]}


class AllocatedPPOTrainer(Allocated, PPOTrainerSync):
    r"""verl's synchronous trainer with rollouts dealt by an allocator; validation is the stock trainer's.

    :func:`activate` registers it under ``sync``, and its like under the names of the asynchronous trainers.

    Parameters
    ----------
    config : omegaconf.DictConfig
        verl's, with these optional settings under ``cero_alloc``:

        ``mode``
            "select" (the default): the allocator draws from the whole training set. "redeal": the prompts of verl's loader
            share the rollouts of their batch.
        ``advantages``
            "posterior" (the default): over the prompt's posterior mean, in the place of verl's. "group": verl's.
        ``id_column``
            The stable prompt ids; the default "index" is verl's name of ``extra_info.index``.
        ``group_weighting``
            What weighs the same in the loss with "group": "rollout" (verl's way, the default) or "prompt".
        ``settings``
            Arguments of :func:`~cero_alloc.training_allocator`, for a run without a ``build`` of its own.

    Raises
    ------
    RuntimeError
        For a version of verl that was not tested.
    ValueError
        For an unknown mode or setting, for prompt ids that repeat or are missing, for an allocator that does not fit, and
        for a checkpoint of another run; all say what to do.

    Examples
    --------
    No file of one's own is needed::

        VERL_USE_EXTERNAL_MODULES=cero_alloc.integrations.verl.default \
            python -m verl.trainer.main_ppo algorithm.adv_estimator=grpo ...
    """


def _row(key: str) -> str:
    """Return verl's name of the row that a trajectory belongs to."""
    return key.split("_", 1)[0]
