"""OpenRLHF's advantages over groups of unequal size."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.trainer.ppo_utils.length_penalty import apply_length_penalties

from cero_alloc.integrations._dealer import Advantages, Dealer
from cero_alloc.integrations._groups import groups_by_size


class AllocatedExperienceMaker(RemoteExperienceMaker):
    """Compares each rollout with those of its own prompt, however many there are, and reports their rewards to the allocator.

    The rest of the advantage (KL, clipping, whitening) is the stock class's, given rewards whose baseline is already subtracted and
    settings that subtract none: groups of one, an estimator without a baseline, no length penalties. Posterior advantages come
    from the allocator, and are not whitened over the batch.
    """

    def __init__(self, dealer: Dealer, *models_and_control: Any, advantages: Advantages = "group") -> None:
        *models, strategy, tokenizer = models_and_control
        own = self.own_args = strategy.args
        self.over_groups = advantages == "group"
        # Of the group estimators the only one that whitens.
        whitens = self.over_groups and own.algo.advantage.estimator == "reinforce_baseline"
        advantage = _with(own.algo.advantage, estimator="reinforce" if whitens else "as given", gamma=1.0)
        reward = _with(own.reward, overlong_buffer_len=None, stop_properly_penalty_coef=None)
        rollout = _with(own.rollout, n_samples_per_prompt=1)
        args = _with(own, algo=_with(own.algo, advantage=advantage), reward=reward, rollout=rollout)
        super().__init__(*models, SimpleNamespace(args=args), tokenizer)
        self.dealer, self.advantage_estimator = dealer, own.algo.advantage.estimator

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences: list[Any]) -> list[Any]:
        """Set advantages and returns over groups of any size; rollouts without a reward are left out."""
        order = torch.tensor([place for e in experiences for place in e.index]).argsort()
        prompts = [prompt for e in experiences for prompt in e.prompts]
        prompts = [prompts[place] for place in order.tolist()]
        for e in experiences:
            e.rewards = e.rewards.to(torch.promote_types(e.rewards.dtype, torch.float32))
        known = self.dealer.learn(prompts, torch.cat([e.rewards for e in experiences])[order].tolist())

        apply_length_penalties(experiences, self.own_args)
        rewards = torch.cat([e.rewards for e in experiences])
        compared, deviations = torch.empty_like(rewards), torch.empty_like(rewards)
        compared[order], deviations[order] = compare(rewards[order], prompts, self.advantage_estimator)
        if not self.over_groups:
            compared[order] = torch.from_numpy(known).to(compared.dtype)

        sizes = [len(e.index) for e in experiences]
        kept = [e.rewards for e in experiences]
        for e, own, deviation in zip(experiences, compared.split(sizes), deviations.split(sizes), strict=True):
            e.rewards, e.info["group_reward_std"] = own, deviation
        super().compute_advantages_and_returns(experiences)
        scored_mean = rewards.nanmean()
        for e, own in zip(experiences, kept, strict=True):
            e.rewards = own
            if "reward" in e.info:  # for the log alone: the mean over the scored rollouts
                e.info["reward"] = torch.where(own.isnan(), scored_mean, own)
        return experiences


def compare(rewards: torch.Tensor, prompts: Sequence[str], estimator: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each reward against those of the same prompt, and their standard deviation.

    Parameters
    ----------
    rewards : torch.Tensor, shape (n_rollouts,)
        NaN where nothing could score the rollout; its advantage is 0, as is that of a group's only rollout.
    prompts : sequence of str, shape (n_rollouts,)
        Prompt of each rollout.
    estimator : {"rloo", "reinforce_baseline", "group_norm", "dr_grpo"}
        OpenRLHF's name of the comparison.
    """
    compared, deviations = torch.zeros_like(rewards), torch.zeros_like(rewards)
    scored = torch.nonzero(~rewards.isnan()).flatten()
    for stack in groups_by_size(prompts[place] for place in scored.tolist()):
        if stack.shape[1] < 2:
            continue
        places = scored[torch.from_numpy(stack)]
        group = rewards[places]
        deviation = group.std(-1, keepdim=True)
        if estimator == "rloo":
            compared[places] = group - (group.sum(-1, keepdim=True) - group) / (group.shape[1] - 1)
        elif estimator == "group_norm":
            compared[places] = (group - group.mean(-1, keepdim=True)) / (deviation + 1e-9)
        else:
            compared[places] = group - group.mean(-1, keepdim=True)
        deviations[places] = deviation.expand_as(group)
    return compared, deviations


def _with(namespace: Any, **changes: Any) -> SimpleNamespace:
    """Return a copy with some attributes changed."""
    return SimpleNamespace(**vars(namespace) | changes)
