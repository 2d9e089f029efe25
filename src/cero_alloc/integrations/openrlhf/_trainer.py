"""OpenRLHF: a batch's prompts share its rollouts as an allocator says; counts may differ, the total is the stock one's.

Importing this module needs OpenRLHF with its requirements, vLLM and DeepSpeed among them. The only id that OpenRLHF carries
from the data set to the rewards is the text of the prompt, so the texts are the allocator's ids and must be distinct.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import openrlhf.trainer.ppo_trainer as synchronous
import openrlhf.trainer.ppo_trainer_async as asynchronous
import ray
import torch
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

from cero_alloc import checkpoint
from cero_alloc.integrations._build import Mode
from cero_alloc.integrations._dealer import Advantages, Dealer, require_exact_batches, require_known
from cero_alloc.integrations._resume import resumed
from cero_alloc.integrations._versions import require_version

from ._advantages import AllocatedExperienceMaker
from ._build import allocator_for, run_plan
from ._modes import refuse_repeated_prompts, refuse_unknown_modes

LOWEST, NEWEST = "0.11.0", "0.11.2"  # the versions that the tests passed with
STATE = "cero_alloc"  # key of the allocator's state in OpenRLHF's checkpoints
Build = Callable[..., Any]  # build(prompts, n_rounds=, total_budget=, args=) -> allocator
Success = Callable[[float], float] | None


@contextmanager
def allocated_training(
    build: Build | None = None,
    success: Success = None,
    *,
    mode: Mode = "select",
    advantages: Advantages = "posterior",
    **settings: Any,
) -> Iterator[None]:
    """Let OpenRLHF's own program start an :class:`AllocatedPPOTrainer` in the place of its trainer.

    It imports its trainers by name when it runs and takes no others, so the names are what changes, in the launching process
    and nowhere else; leaving the context puts them back. The asynchronous trainer's name too: it is refused, not forgotten.

    Parameters
    ----------
    build : callable or None
        ``build(prompts, n_rounds=, total_budget=, args=)`` returns the allocator, given the training set's texts, the
        batches of the run, its rollouts, and OpenRLHF's arguments. Called in the trainer's actor, so it must pickle. None
        builds what :func:`allocator_for` recommends.
    success : callable or None
        Maps a reward, before length penalties, to [0, 1]; None where rewards lie there.
    mode : {"select", "redeal"}
        Candidates of a batch: the whole training set, or the prompts of the data loader, which share the batch's rollouts.
    advantages : {"posterior", "group"}
        Over the prompt's posterior mean, or OpenRLHF's over the group's mean.
    **settings
        Arguments of :func:`~cero_alloc.training_allocator`, for a run without ``build``.

    Yields
    ------
    None
        Within the context OpenRLHF's program trains with the allocator.

    Raises
    ------
    ValueError
        For settings together with ``build``, and for what :class:`AllocatedPPOTrainer` refuses.

    Examples
    --------
    ::

        with allocated_training():
            runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
    """
    if build is not None and settings:
        raise ValueError(f"settings must be left out with build, got {', '.join(settings)}. Use them in build.")
    own = {"build": build or partial(_recommended, mode, advantages, settings), "success": success}
    kind: dict[str, Any] = {"mode": mode, "advantages": advantages}

    def remote(pretrain: str, strategy: Any, *groups: Any, **more: Any) -> Any:
        refuse_unknown_modes(
            strategy.args, **kind
        )  # here too, for a plain error: one from within the actor comes wrapped
        actor = ray.remote(AllocatedPPOTrainer)
        return actor.remote(pretrain, strategy, *groups, **own, **kind, **more)

    stock = synchronous.PPOTrainer, asynchronous.PPOTrainerAsync
    synchronous.PPOTrainer = asynchronous.PPOTrainerAsync = SimpleNamespace(remote=remote)
    try:
        yield
    finally:
        synchronous.PPOTrainer, asynchronous.PPOTrainerAsync = stock


def _recommended(
    mode: Mode, advantages: Advantages, settings: dict[str, Any], prompts: list[str], *, args: Any, **run: Any
) -> Any:
    """Return the allocator of a run without a ``build`` of the user's."""
    return allocator_for(args, prompts, mode=mode, advantages=advantages, **run | settings)


# The class within the actor's: Ray forbids to inherit an actor.
class AllocatedPPOTrainer(synchronous.PPOTrainer.__ray_actor_class__):
    """OpenRLHF's synchronous trainer with rollouts dealt by an allocator; evaluation is the stock trainer's.

    Parameters
    ----------
    build, success, mode, advantages
        As :func:`allocated_training` takes them. Other arguments are PPOTrainer's.

    Raises
    ------
    ValueError
        For an unknown mode or setting, repeated prompts, an allocator that does not fit, or a checkpoint of another run.
    RuntimeError
        For a version of OpenRLHF that was not tested.
    """

    def __init__(
        self,
        pretrain: str,
        strategy: Any,
        *groups: Any,
        build: Build,
        success: Success = None,
        mode: Mode = "select",
        advantages: Advantages = "posterior",
        **generate_kwargs: Any,
    ) -> None:
        require_version("openrlhf", LOWEST, NEWEST)
        refuse_unknown_modes(strategy.args, mode, advantages)
        super().__init__(pretrain, strategy, *groups, **generate_kwargs)
        self.own_mode, self.own_advantages, self.build = mode, advantages, partial(build, args=self.args)
        self.texts = list(self.prompts_dataloader.dataset.prompts)
        refuse_repeated_prompts(self.texts)
        self.run_plan = plan = run_plan(self.args, len(self.texts))
        allocator = self.build(self.texts, n_rounds=plan.n_rounds, total_budget=plan.total_budget)
        self._refuse_misfits(allocator)
        given = allocator.state_dict().get("arguments", {}).get("visits")
        self.loader_visits = plan.visits if mode == "redeal" and given is not None else None
        self.dealer = Dealer(allocator, success, group_size=plan.group_size)
        self.samples_generator = AllocatedSamplesGenerator(
            self.dealer, self.strategy, self.prompts_dataloader, self.eval_dataloader, self.tokenizer, self.vllm_engines,
            mode=mode,
        )  # fmt: skip
        models = self.actor_model_group, self.critic_model_group, self.reward_model_group, self.reference_model_group
        self.experience_maker = AllocatedExperienceMaker(
            self.dealer, *models, self.kl_ctl, self.strategy, self.tokenizer, advantages=advantages
        )

    def _refuse_misfits(self, allocator: Any) -> None:
        require_known(allocator, self.texts)
        batch, size = min(len(self.texts), self.args.rollout.batch_size), self.args.rollout.n_samples_per_prompt
        offered = len(self.texts) if self.own_mode == "select" else None
        setting = "rollout.n_samples_per_prompt"
        require_exact_batches(allocator, size, batch, setting, advantages=self.own_advantages, offered=offered)

    def train_step(self, rollout_samples: list[Any], global_step: int) -> tuple[dict[str, Any], int]:
        """Train as OpenRLHF does, and add the allocator's figures to its log."""
        status, global_step = super().train_step(rollout_samples, global_step)
        return status | {f"alloc/{name}": figure for name, figure in self.dealer.metrics().items()}, global_step

    def save_logs_and_checkpoints(self, global_step: int, logs_dict: Any = None, client_states: Any = None) -> None:
        """Save as OpenRLHF does, the allocator's state among the states of the checkpoint."""
        client_states = {} if client_states is None else client_states
        if not (global_step % self.args.ckpt.save_steps and global_step % self.args.eval.steps):
            # Bytes in a tensor: OpenRLHF prints what it loads, and the ids are whole prompts.
            state = bytearray(checkpoint.pack(self.dealer.allocator.state_dict()))
            client_states[STATE] = torch.frombuffer(state, dtype=torch.uint8)  # the best checkpoint has the same states
        super().save_logs_and_checkpoints(global_step, logs_dict, client_states)

    def init_checkpoint_states(self) -> dict[str, Any]:
        """Return the checkpoint's states, the allocator's loaded."""
        states = super().init_checkpoint_states()
        if STATE in states:
            plan = self.run_plan
            self.dealer.allocator = resumed(
                self.build,
                checkpoint.unpack(states[STATE].numpy().tobytes()),
                self.texts,
                n_rounds=plan.n_rounds,
                total_budget=plan.total_budget,
                setting="train.num_episodes",
                visits=self.loader_visits,
            )
            self._refuse_misfits(self.dealer.allocator)
        elif states.get("global_step"):
            raise ValueError(
                f"ckpt.path must hold a run of this adapter, got {self.args.ckpt.path!r}, whose step "
                f"{states['global_step']} has no allocator. Start with an empty ckpt.path; to go on from a stock run, give its "
                "weights as actor.model_name_or_path."
            )
        return states


class AllocatedSamplesGenerator(SamplesGenerator):
    """Asks the engines for as many rollouts of each training prompt as the allocator deals it, none included.

    In mode "select" the loader says how large a batch is, and nothing else: prompts come from the whole training set.
    """

    def __init__(self, dealer: Dealer, *stock_arguments: Any, mode: Mode = "redeal") -> None:
        super().__init__(*stock_arguments)
        self.dealer, self.rows = dealer, None
        if mode == "select":
            data = self.prompts_dataloader.dataset
            columns = zip(data.prompts, data.labels, data.images, strict=True)
            self.rows = {text: (text, label, image) for text, label, image in columns}

    def generate_samples(self, **generate_kwargs: Any) -> tuple[list[Any], float | None, int, bool]:
        """Produce a training batch; a rollout whose reward failed to come counts as one that nothing could score."""
        samples, *rest = super().generate_samples(**generate_kwargs)
        if self.args.reward.remote_url:
            fill_missing_rewards(samples)
        return samples, *rest

    def _dispatch_prompts_to_vllm(
        self, prompts: list[str], labels: list[str], *, images: list[Any] | None = None, **generate_kwargs: Any
    ) -> list[Any]:
        if "n_samples_per_prompt" in generate_kwargs:  # evaluation alone says how many
            return super()._dispatch_prompts_to_vllm(prompts, labels, images=images, **generate_kwargs)
        total, own = len(prompts) * self.args.rollout.n_samples_per_prompt, list(prompts)
        if self.rows is None:
            counts = self.dealer.deal(own, total)
            rows = dict(zip(own, zip(own, labels, images or [None] * len(own), strict=True), strict=True))
        else:
            counts, own, rows = self.dealer.deal(None, total), self.dealer.allocator.bank.prompt_ids, self.rows
        # One request per group of the allocator's size, all in one go: a call per count would send the lot to one engine,
        # because an engine does not yet count what was asked of it a moment ago.
        size = self.dealer.allocator.horizon.unit_size
        places = np.repeat(np.arange(len(own)), counts // size).tolist()
        texts, own_labels, own_images = map(list, zip(*(rows[own[place]] for place in places), strict=True))
        return super()._dispatch_prompts_to_vllm(
            texts, own_labels, images=own_images, n_samples_per_prompt=size, **generate_kwargs
        )


def fill_missing_rewards(samples: list[Any]) -> None:
    """Give rollouts whose reward request failed NaN for it, and for the figures that come with it."""
    names = {name for sample in samples for name in sample.info} | {"reward"}
    for sample in samples:
        if sample.rewards is None:
            sample.rewards, sample.scores = torch.tensor([torch.nan]), torch.tensor([torch.nan])
            sample.info |= {name: torch.tensor([torch.nan]) for name in names - set(sample.info)}
