"""Advantages over groups of unequal size, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import torch

from .common import groups_by_size


def group_advantages(
    rewards: torch.Tensor, keys: Iterable[Hashable], *, scale: str, weighting: str, std: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """Return each rollout's advantage over its group's mean, groups of any size; NaN rewards get 0.

    Parameters
    ----------
    rewards : torch.Tensor, shape (n_rollouts,)
        NaN where nothing could score the rollout: it leaves the mean and the deviation.
    keys : iterable of hashable, shape (n_rollouts,)
        Prompt of each rollout.
    scale : {"group", "batch", "none"}
        Whose standard deviation divides, as TRL's ``scale_rewards``.
    weighting : {"rollout", "prompt"}
        What weighs the same in the loss: a prompt as many times as it has rollouts, the trainers' way, or every prompt
        alike.
    std : callable
        The trainer's own standard deviation, ``std(tensor, dim=, keepdim=)``: its numbers are met to the last bit.
    """
    stacks = groups_by_size(keys)
    mean_size = rewards.numel() / sum(len(stack) for stack in stacks)
    advantages, weights = torch.empty_like(rewards), torch.empty_like(rewards)
    for stack in stacks:
        group = rewards[stack]
        advantages[stack] = group - torch.nanmean(group, dim=1, keepdim=True)
        if scale == "group":
            advantages[stack] /= std(group, dim=1, keepdim=True) + 1e-4
        weights[stack] = mean_size / stack.shape[1]
    if scale == "batch":
        advantages = advantages / (std(rewards) + 1e-4)
    advantages = torch.nan_to_num(advantages, nan=0.0)
    return advantages * weights if weighting == "prompt" else advantages
