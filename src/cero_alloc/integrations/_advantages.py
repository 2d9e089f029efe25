"""Advantages over groups of unequal size, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import torch

from ._groups import groups_by_size


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
        Which standard deviation divides the rewards, as ``scale_rewards`` in TRL.
    weighting : {"rollout", "prompt"}
        What has equal weight in the loss: every rollout, as in the trainers, or every prompt. A group's own mean takes
        1/n of each reward away, so that the sum over n rollouts is worth n - 1 of them: "prompt" divides by n - 1, which
        is exact in expectation without "group" scaling; with it the weight of a prompt still grows with n.
    std : callable
        The trainer's own standard deviation, ``std(tensor, dim=, keepdim=)``: results equal its numbers to the last bit.
    """
    stacks = groups_by_size(keys)
    worth = sum(len(stack) * stack.shape[1] / max(1, stack.shape[1] - 1) for stack in stacks)
    mean_worth = rewards.numel() / worth  # weights have the mean 1 over the rollouts
    advantages, weights = torch.empty_like(rewards), torch.empty_like(rewards)
    for stack in stacks:
        group = rewards[stack]
        advantages[stack] = group - torch.nanmean(group, dim=1, keepdim=True)
        if scale == "group":
            advantages[stack] /= std(group, dim=1, keepdim=True) + 1e-4
        weights[stack] = mean_worth / max(1, stack.shape[1] - 1)
    if scale == "batch":
        advantages = advantages / (std(rewards) + 1e-4)
    advantages = torch.nan_to_num(advantages, nan=0.0)
    return advantages * weights if weighting == "prompt" else advantages
