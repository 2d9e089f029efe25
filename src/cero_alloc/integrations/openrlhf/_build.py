"""The allocator of an OpenRLHF run, from OpenRLHF's own arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from cero_alloc import ResolvingAllocator
from cero_alloc.integrations._build import Mode, run_allocator
from cero_alloc.integrations._dealer import Advantages

from ._modes import refuse_repeated_prompts


class RunPlan(NamedTuple):
    """What OpenRLHF's arguments say of a run."""

    n_rounds: int  # batches that are generated
    total_budget: int  # rollouts of all of them
    slots: int  # rollouts of a whole batch
    group_size: int  # rollouts per prompt of the stock trainer
    batches: int  # of an episode; the last one may be smaller

    def visits(self, n_rounds: int) -> int:
        """Return how often OpenRLHF's data loader brings each prompt in so many batches."""
        return max(1, math.ceil(n_rounds / self.batches))


def run_plan(args: Any, n_prompts: int) -> RunPlan:
    """Return the plan of a run over so many prompts."""
    size, episodes = args.rollout.n_samples_per_prompt, args.train.num_episodes
    batches = math.ceil(n_prompts / args.rollout.batch_size)
    slots = min(n_prompts, args.rollout.batch_size) * size
    return RunPlan(batches * episodes, n_prompts * size * episodes, slots, size, batches)


def allocator_for(
    args: Any,
    dataset: Sequence[str],
    *,
    mode: Mode = "select",
    advantages: Advantages = "posterior",
    **settings: Any,
) -> ResolvingAllocator:
    """Return the recommended allocator for the stock run's rollouts.

    Batches, rollouts and episodes are those of OpenRLHF's arguments.

    Parameters
    ----------
    args : argparse.Namespace
        OpenRLHF's: ``rollout.batch_size`` prompts a batch, ``rollout.n_samples_per_prompt`` rollouts per prompt and
        ``train.num_episodes``.
    dataset : sequence of str
        Texts of the training set's prompts, the only id that OpenRLHF keeps: ``PromptDataset.prompts``.
    mode : {"select", "redeal"}
        Candidates of a batch: the whole training set, or the prompts of the data loader, which share the batch's rollouts.
    advantages : {"posterior", "group"}
        Over the prompt's posterior mean, which serves single rollouts, or over the group's mean: then
        ``rollout.n_samples_per_prompt`` is the least count of a prompt.
    **settings
        Any other argument of :func:`~cero_alloc.training_allocator`, or another value for one that is set here.

    Returns
    -------
    ResolvingAllocator
        For :func:`allocated_training`, which builds it so itself.

    Raises
    ------
    ValueError
        For texts that repeat, and as :func:`~cero_alloc.training_allocator`.

    References
    ----------
    The page "Does it learn faster?": how the settings were chosen.

    Examples
    --------
    ::

        allocator = allocator_for(args, ["1 + 1 = ", "2 + 2 = "])
        allocator.horizon.total_budget  # prompts x rollout.n_samples_per_prompt x train.num_episodes
    """
    refuse_repeated_prompts(dataset)
    plan = run_plan(args, len(dataset))
    run: dict[str, Any] = {
        "n_rounds": plan.n_rounds, "total_budget": plan.total_budget, "slots": plan.slots,
        "group_size": plan.group_size, "mode": mode, "advantages": advantages,
    } | settings  # fmt: skip
    if mode == "redeal":
        run.setdefault("visits", plan.visits(run["n_rounds"]))
    return run_allocator(list(dataset), **run)
