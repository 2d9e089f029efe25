"""TRL: an AsyncGRPOTrainer whose rollout worker generates what an allocator says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl.experimental.async_grpo import AsyncGRPOTrainer
from trl.experimental.async_grpo.async_rollout_worker import AsyncRolloutWorker, _AsyncRolloutLoop

from cero_alloc import checkpoint
from cero_alloc._checks import error_text
from cero_alloc.integrations._dealer import Advantages, check_advantages
from cero_alloc.integrations._groups import require_groups
from cero_alloc.integrations._rounds import Rounds
from cero_alloc.integrations._versions import require_version

from ._build import dataset_ids, step_rollouts
from ._loop import DEAL, EVENTS, AllocatedRolloutLoop

LOWEST, NEWEST = "1.16.0", "1.16.0"  # the versions that the tests passed with
STATE = "allocator.npz"


class AllocatedAsyncGRPOTrainer(AsyncGRPOTrainer):
    """Asynchronous GRPO with rollouts dealt by an allocator of cero-alloc, from the whole training set.

    Every round deals :func:`step_rollouts` rollouts. The rollout worker, a process of its own, has a copy of the allocator,
    deals with it and reports to it when a visit is scored, late and in any order. What it did comes along with the samples,
    and is done again by ``allocator`` here: that is the state of what the trainer took from the queue, and what a
    checkpoint holds. A resumed run refunds everything that was dealt and had not come so far: rollouts in the queue, and
    those being generated.

    Parameters
    ----------
    *args
        As ``AsyncGRPOTrainer``'s.
    allocator : FenchelDualAllocator, ResolvingAllocator or any of ``cero_alloc.baselines``
        Over the prompts of the training set, see :func:`allocator_for`. The main process alone uses it.
    advantages : {"posterior", "group"}
        Over the prompt's posterior mean, which serves single rollouts, or TRL's own, over the mean of the visit's rollouts.
    id_column : str
        Column of stable prompt ids, those of the allocator's bank.
    success : callable or None
        Maps a rollout's sum of rewards to [0, 1]; None where rewards lie there. The worker's process needs it, too: it must
        be picklable, and give the same number there.
    rounds_in_flight : int or None
        Rounds that may have rollouts outstanding, at least 2. A rollout of an older one returns to the budget; if it comes
        after all it is evidence and is trained on. None: no bound.
    **kwargs
        As ``AsyncGRPOTrainer``'s.

    Raises
    ------
    RuntimeError
        For a version of TRL that was not tested.
    ValueError
        For ids that are missing, repeated or not the bank's, an allocator that cannot deal rounds of this size, a rollout
        worker of another kind, and at the start of a resumed run for a checkpoint without an allocator's state.

    Examples
    --------
    ::

        trainer = AllocatedAsyncGRPOTrainer(
            model="Qwen/Qwen2.5-0.5B-Instruct",
            reward_funcs=accuracy_reward,
            args=config,
            train_dataset=dataset,
            allocator=allocator_for(config, dataset),
        )
        trainer.train()
        print(trainer.allocator.balance)
    """

    def __init__(
        self,
        *args: Any,
        allocator: Any,
        advantages: Advantages = "posterior",
        id_column: str = "prompt_id",
        success: Callable[[float], float] | None = None,
        rounds_in_flight: int | None = 16,
        **kwargs: Any,
    ) -> None:
        require_version("trl", LOWEST, NEWEST)
        check_advantages(advantages)
        if advantages == "group":
            require_groups(allocator)
        super().__init__(*args, **kwargs)
        if set(dataset_ids(self.train_dataset, id_column)) != set(allocator.bank.prompt_ids):
            raise ValueError(f"{id_column} must name the bank's prompts. Build the allocator with allocator_for.")
        self.allocator, slots = allocator, step_rollouts(self.args, advantages)
        group_size = self.args.num_generations
        self.rounds = Rounds(allocator, slots, success=success, group_size=group_size, in_flight=rounds_in_flight)
        if not self.accelerator.is_main_process:
            return
        worker = self.rollout_worker
        stock = isinstance(worker, AsyncRolloutWorker) and worker._loop_cls is _AsyncRolloutLoop
        if not stock and not issubclass(getattr(worker, "_loop_cls", object), AllocatedRolloutLoop):
            remedy = "Leave it out, or give an AsyncRolloutWorker whose _loop_cls derives from AllocatedRolloutLoop."
            raise ValueError(error_text("rollout_worker", "be TRL's own, or run an allocated loop", worker, remedy))
        if stock:
            worker._loop_cls = AllocatedRolloutLoop
        worker._loop_kwargs |= {"rounds": self.rounds, "id_column": id_column, "advantages": advantages}
        self.rollout_queue = _Heard(worker.rollout_buffer, self.rounds)

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        folder = kwargs.get("resume_from_checkpoint")
        if folder:
            self._resume(Path(folder) / STATE)
        try:
            return super()._inner_training_loop(*args, **kwargs)
        finally:
            self.allocator.expire(None)  # the worker is gone, and with it what was under way

    def _resume(self, path: Path) -> None:
        """Load the allocator's state of a checkpoint, and refund what was in flight."""
        if not path.exists():
            condition = f"hold {STATE}: it is a checkpoint of a run without an allocator"
            remedy = "Start a new run from its weights: model=that folder."
            raise ValueError(error_text("resume_from_checkpoint", condition, str(path.parent), remedy))
        self.rounds.resume(checkpoint.read(path))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # First: the trainer writes trainer_state.json last, so a checkpoint that is complete has the allocator's state.
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            self.allocator.save(folder / STATE)
        super()._save_checkpoint(model, trial)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, with the allocator's figures as ``alloc/...``."""
        if self.accelerator.is_main_process and self.model.training:
            for name, figure in self.rounds.metrics().items():
                self._metrics["train"][f"alloc/{name}"].append(float(figure))
        super().log(logs, start_time)


class _Heard:
    """The worker's queue; the allocator hears of what the worker's copy did when the sample that carries it is taken."""

    def __init__(self, queue: Any, rounds: Rounds) -> None:
        self._queue, self._rounds = queue, rounds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        sample = self._queue.get(*args, **kwargs)
        for event in sample.metrics.pop(EVENTS, ()):
            if event is DEAL:
                self._rounds.deal()
            else:
                self._rounds.learn(*event)
        return sample
