"""OpenRLHF: a batch's prompts share its rollouts as an allocator says; counts may differ, the total is the stock one's.

Importing this module needs OpenRLHF with its requirements, vLLM and DeepSpeed among them. The only id that OpenRLHF carries
from the data set to the rewards is the text of the prompt, so the texts are the allocator's ids and must be distinct.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import openrlhf.trainer.ppo_trainer as synchronous
import openrlhf.trainer.ppo_trainer_async as asynchronous
import ray
import torch
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

from cero_alloc import checkpoint
from cero_alloc.integrations._dealer import Dealer, require_exact_batches
from cero_alloc.integrations._versions import require_version

from ._advantages import AllocatedExperienceMaker
from ._modes import refuse_repeated_prompts, refuse_unknown_modes

LOWEST, NEWEST = "0.11.0", "0.11.2"  # the versions that the tests passed with
STATE = "cero_alloc"  # key of the allocator's state in OpenRLHF's checkpoints
Build = Callable[..., Any]  # build(prompts, n_rounds=, total_budget=, args=) -> allocator
Success = Callable[[float], float] | None


@contextmanager
def allocated_training(build: Build, success: Success = None) -> Iterator[None]:
    """Let OpenRLHF's own program start an :class:`AllocatedPPOTrainer` in the place of its trainer.

    It imports its trainers by name when it runs and takes no others, so the names are what changes, in the launching process
    and nowhere else; leaving the context puts them back. The asynchronous trainer's name too: it is refused, not forgotten.

    Parameters
    ----------
    build : callable
        ``build(prompts, n_rounds=, total_budget=, args=)`` returns the allocator, given the training set's texts, the
        batches of the run, its rollouts, and OpenRLHF's arguments. Called in the trainer's actor, so it must pickle.
    success : callable or None
        Maps a reward, before length penalties, to [0, 1]; None where rewards lie there.
    """

    def remote(pretrain: str, strategy: Any, *groups: Any, **more: Any) -> Any:
        refuse_unknown_modes(strategy.args)  # here too, for a plain error: one from within the actor comes wrapped
        actor = ray.remote(AllocatedPPOTrainer)
        return actor.remote(pretrain, strategy, *groups, build=build, success=success, **more)

    stock = synchronous.PPOTrainer, asynchronous.PPOTrainerAsync
    synchronous.PPOTrainer = asynchronous.PPOTrainerAsync = SimpleNamespace(remote=remote)
    try:
        yield
    finally:
        synchronous.PPOTrainer, asynchronous.PPOTrainerAsync = stock


# The class within the actor's: Ray forbids to inherit an actor.
class AllocatedPPOTrainer(synchronous.PPOTrainer.__ray_actor_class__):
    """OpenRLHF's synchronous trainer with rollouts dealt by an allocator; evaluation is the stock trainer's.

    Parameters
    ----------
    build, success
        As :func:`allocated_training` takes them. Other arguments are PPOTrainer's.

    Raises
    ------
    ValueError
        For an unknown mode or setting, repeated prompts, or an allocator that does not fit.
    RuntimeError
        For a version of OpenRLHF that was not tested.
    """

    def __init__(
        self, pretrain: str, strategy: Any, *groups: Any, build: Build, success: Success = None, **generate_kwargs: Any
    ) -> None:
        require_version("openrlhf", LOWEST, NEWEST)
        refuse_unknown_modes(strategy.args)
        super().__init__(pretrain, strategy, *groups, **generate_kwargs)
        prompts = self.prompts_dataloader.dataset.prompts
        refuse_repeated_prompts(prompts)
        batch, per_prompt = self.args.rollout.batch_size, self.args.rollout.n_samples_per_prompt
        episodes = self.args.train.num_episodes
        allocator = build(
            list(prompts),
            n_rounds=math.ceil(len(prompts) / batch) * episodes,
            total_budget=len(prompts) * per_prompt * episodes,
            args=self.args,
        )
        require_exact_batches(allocator, per_prompt, min(len(prompts), batch), "rollout.n_samples_per_prompt")
        self.dealer = Dealer(allocator, success)
        self.samples_generator = AllocatedSamplesGenerator(
            self.dealer, self.strategy, self.prompts_dataloader, self.eval_dataloader, self.tokenizer, self.vllm_engines
        )
        models = self.actor_model_group, self.critic_model_group, self.reward_model_group, self.reference_model_group
        self.experience_maker = AllocatedExperienceMaker(
            self.dealer, *models, self.kl_ctl, self.strategy, self.tokenizer
        )

    def train_step(self, rollout_samples: list[Any], global_step: int) -> tuple[dict[str, Any], int]:
        """Train as OpenRLHF does, and add the allocator's figures to its log."""
        status, global_step = super().train_step(rollout_samples, global_step)
        return status | {f"alloc/{name}": figure for name, figure in self.dealer.metrics().items()}, global_step

    def save_logs_and_checkpoints(self, global_step: int, logs_dict: Any = None, client_states: Any = None) -> None:
        """Save as OpenRLHF does, the allocator's state among the states of the checkpoint."""
        client_states = {} if client_states is None else client_states
        # Bytes in a tensor: OpenRLHF prints what it loads, and the ids are whole prompts.
        state = bytearray(checkpoint.pack(self.dealer.allocator.state_dict()))
        client_states[STATE] = torch.frombuffer(state, dtype=torch.uint8)
        super().save_logs_and_checkpoints(global_step, logs_dict, client_states)

    def init_checkpoint_states(self) -> dict[str, Any]:
        """Return the checkpoint's states, the allocator's loaded."""
        states = super().init_checkpoint_states()
        if STATE in states:
            self.dealer.allocator.load_state_dict(checkpoint.unpack(states[STATE].numpy().tobytes()))
        elif states.get("global_step"):
            raise ValueError(
                f"ckpt.path must hold a run of this adapter, got {self.args.ckpt.path!r}, whose step "
                f"{states['global_step']} has no allocator. Start with an empty ckpt.path."
            )
        return states


class AllocatedSamplesGenerator(SamplesGenerator):
    """Asks the engines for as many rollouts of each training prompt as the allocator deals it, none included."""

    def __init__(self, dealer: Dealer, *stock_arguments: Any) -> None:
        super().__init__(*stock_arguments)
        self.dealer = dealer

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
        counts = self.dealer.deal(prompts, len(prompts) * self.args.rollout.n_samples_per_prompt)
        # One request per group of the allocator's size, all in one go: a call per count would send the lot to one engine,
        # because an engine does not yet count what was asked of it a moment ago.
        size = self.dealer.allocator.horizon.unit_size
        places = np.repeat(np.arange(len(prompts)), np.array(counts) // size).tolist()
        columns = ([column[place] for place in places] for column in (prompts, labels, images or [None] * len(prompts)))
        own_prompts, own_labels, own_images = columns
        return super()._dispatch_prompts_to_vllm(
            own_prompts, own_labels, images=own_images, n_samples_per_prompt=size, **generate_kwargs
        )


def fill_missing_rewards(samples: list[Any]) -> None:
    """Give rollouts whose reward request failed NaN for it, and for the figures that come with it."""
    names = {name for sample in samples for name in sample.info} | {"reward"}
    for sample in samples:
        if sample.rewards is None:
            sample.rewards, sample.scores = torch.tensor([torch.nan]), torch.tensor([torch.nan])
            sample.info |= {name: torch.tensor([torch.nan]) for name in names - set(sample.info)}
