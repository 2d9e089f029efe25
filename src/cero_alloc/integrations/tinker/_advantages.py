"""Advantages of groups of any size in the cookbook's training loops."""

from __future__ import annotations

import torch
from tinker_cookbook.rl import data_processing, train
from tinker_cookbook.rl.types import TrajectoryGroup

ADVANTAGE = "alloc/advantage"  # key of a trajectory's metrics, which travel with its group


def compute_advantages(trajectory_groups_P: list[TrajectoryGroup]) -> list[torch.Tensor]:
    """Return the posterior advantages that groups carry, and the cookbook's own for the others.

    The cookbook's function of the same name subtracts the group's mean, which leaves nothing of a group of one, and its
    configuration has no place for another. An :class:`AllocatedDataset` with ``advantages="posterior"`` puts this one in
    its place in ``tinker_cookbook.rl.train``; a training loop of your own calls it.

    Parameters
    ----------
    trajectory_groups_P : list of tinker_cookbook.rl.types.TrajectoryGroup
        Finished groups.

    Returns
    -------
    list of torch.Tensor, each of shape (n_trajectories,)
        Advantages of each group's trajectories, in standard deviations of the prompt's rewards.

    Examples
    --------
    ::

        groups = [await do_group_rollout(builder, policy) for builder in dataset.get_batch(0)]
        data, _ = assemble_training_data(groups, compute_advantages(groups))
    """
    advantages = data_processing.compute_advantages(trajectory_groups_P)
    for place, group in enumerate(trajectory_groups_P):
        if group.metrics_G and all(ADVANTAGE in metrics for metrics in group.metrics_G):
            advantages[place] = torch.tensor([metrics[ADVANTAGE] for metrics in group.metrics_G])
    return advantages


def install() -> None:
    """Have the cookbook's training loops call the function above: they look the name up in their own module."""
    train.compute_advantages = compute_advantages
