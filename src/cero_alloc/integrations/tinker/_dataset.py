"""An RLDataset of the Tinker cookbook whose batches an allocator deals."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Literal

from tinker_cookbook.rl.rollout_limits import TerminationRewardPolicy
from tinker_cookbook.rl.types import Env, EnvGroupBuilder, Metrics, RLDataset, Trajectory

from cero_alloc import ResolvingAllocator, checkpoint
from cero_alloc._checks import error_text
from cero_alloc.integrations._build import checked_ids, run_allocator
from cero_alloc.integrations._dealer import Advantages, check_advantages
from cero_alloc.integrations._groups import require_groups
from cero_alloc.integrations._rounds import Rounds, Visit
from cero_alloc.integrations._versions import require_version

from ._advantages import ADVANTAGE, install

LOWEST, NEWEST = "0.6.1", "0.6.1"  # the versions that the tests passed with


class AllocatedDataset(RLDataset):
    """Batches of the prompts that an allocator deals rollouts to; every batch has the same total.

    A batch is a round. Groups report when they are scored, late and in any order, to the round that dealt them; a group that
    fails or is cancelled is refunded, and a trajectory that fails beside others is written off. The state is saved when a
    batch is asked for, and a resumed run, whose first batch is not number 0, starts from it: what was in flight then is
    refunded.

    Parameters
    ----------
    make : callable
        ``make(prompt, count)`` returns the prompt's own EnvGroupBuilder, which makes ``count`` environments.
    allocator : FenchelDualAllocator, ResolvingAllocator or any of ``cero_alloc.baselines``
        Over the ids of the prompts, see :func:`allocator_for`.
    n_batches : int
        Batches of the whole run, all passes together: the cookbook's ``num_epochs`` stays 1.
    rollouts : int
        Rollouts of a batch.
    folder : path
        For the allocator's states, ``allocator-000020.npz`` for batch 20; ``log_path`` of the run, say.
    advantages : {"posterior", "group"}
        Over the prompt's posterior mean, which serves groups of one, see :func:`compute_advantages`, or the cookbook's own,
        over the group's mean.
    success : callable or None
        Maps a trajectory's total reward to [0, 1]; None where rewards lie there.
    termination : TerminationRewardPolicy or None
        The run's, ``config.effective_termination()``: it changes the rewards of trajectories that ran into a limit.
    save_every : int
        Batches between states; must divide the run's ``save_every`` and ``rolling_save_every``.

    Raises
    ------
    RuntimeError
        For a version of the cookbook that was not tested.
    ValueError
        For an allocator that cannot deal batches of this size, and from ``get_batch`` for batches out of order, or a
        resumed run without the state of its first batch.

    Examples
    --------
    ::

        @chz.chz
        class Sums(RLDatasetBuilder):
            log_path: str

            async def __call__(self):
                def make(prompt, count):
                    return ProblemGroupBuilder(partial(SumEnv, *problems[prompt]), num_envs=count)

                allocator = training_allocator(list(problems), total_budget=200 * 512, n_rounds=200)
                return AllocatedDataset(make, allocator, 200, 512, folder=self.log_path), None
    """

    def __init__(
        self,
        make: Callable[[Any, int], EnvGroupBuilder],
        allocator: Any,
        n_batches: int,
        rollouts: int,
        *,
        folder: str | Path,
        advantages: Advantages = "posterior",
        success: Callable[[float], float] | None = None,
        termination: TerminationRewardPolicy | None = None,
        save_every: int = 1,
    ) -> None:
        require_version("tinker_cookbook", LOWEST, NEWEST)
        check_advantages(advantages)
        if advantages == "group":
            require_groups(allocator)
        else:
            install()
        self.rounds, self.advantages = Rounds(allocator, rollouts, success=success), advantages
        self._make, self._n_batches, self._folder, self._save_every = make, n_batches, Path(folder), save_every
        self._termination, self._next, self._logged = termination, 0, 0

    @property
    def allocator(self) -> Any:
        """The allocator that deals the batches."""
        return self.rounds.dealer.allocator

    def __len__(self) -> int:
        return self._n_batches

    def get_batch(self, index: int) -> list[EnvGroupBuilder]:
        """Deal a batch, the next one, or in a resumed run the first that it trains on.

        Parameters
        ----------
        index : int
            Number of the batch, from 0.

        Returns
        -------
        list of EnvGroupBuilder
            A builder for every prompt that gets rollouts.

        Raises
        ------
        ValueError
            For a batch that is not the next one.
        """
        path = self._folder / f"allocator-{index:06d}.npz"
        if index != self._next:
            if self._next:
                remedy = "Ask for batches in order: num_epochs must be 1, and n_batches those of the whole run."
                raise ValueError(error_text("index", f"be {self._next}, the next batch", index, remedy))
            if not path.exists():
                condition = f"hold {path.name}, the state of the batch that the run resumes from"
                remedy = "Let save_every divide the run's save_every and rolling_save_every, or start a new run."
                raise ValueError(error_text("folder", condition, str(self._folder), remedy))
            self.rounds.resume(checkpoint.read(path))
        elif index % self._save_every == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.allocator.save(path)
        self._next = index + 1
        return [_AllocatedGroup(self._make(visit.prompt, visit.rollouts), visit, self) for visit in self.rounds.deal()]

    def metrics(self) -> dict[str, float]:
        """Return the figures of the groups that reported since the last call, and the allocator's own.

        They also come with the cookbook's own metrics, once a batch, as ``env/all/alloc/...``.
        """
        with self.allocator.lock:
            return self.rounds.metrics()

    def _report(self, visit: Visit, trajectories: Sequence[Trajectory], final: Sequence[float]) -> list[Metrics]:
        """Report the rewards of a group; return what goes into each trajectory's metrics."""
        totals = [self._total(*pair) for pair in zip(trajectories, final, strict=True)]
        failed = visit.rollouts - len(totals)
        with self.allocator.lock:
            age = float(self.allocator.round - visit.round)
            advantages = self.rounds.learn(visit, totals + [math.nan] * failed, [age] * visit.rollouts)
            metrics: list[Metrics] = [{} for _ in totals]
            if self.advantages == "posterior":
                metrics = [{ADVANTAGE: advantage} for advantage in advantages[: len(totals)].tolist()]
            if self._logged < self._next and metrics:
                self._logged = self._next
                figures = {name: float(figure) for name, figure in self.metrics().items() if not math.isnan(figure)}
                metrics[0] |= {f"alloc/{name}": figure for name, figure in figures.items()}
        return metrics

    def _total(self, trajectory: Trajectory, final: float) -> float:
        total = sum(step.reward for step in trajectory.transitions) + final
        policy = self._termination
        if policy is not None and policy.zero_reward_on_limit and trajectory.stop_reason in policy.limit_stop_reasons:
            return min(total, 0.0)
        return total


class _AllocatedGroup(EnvGroupBuilder):
    """A prompt's own builder, whose rewards go to the allocator."""

    def __init__(self, own: EnvGroupBuilder, visit: Visit, dataset: AllocatedDataset) -> None:
        self._own, self._visit, self._dataset, self._open = own, visit, dataset, True

    async def make_envs(self) -> Sequence[Env]:
        envs = await self._own.make_envs()
        if len(envs) != self._visit.rollouts:
            remedy = "Let make(prompt, count) return a builder that makes count environments."
            raise ValueError(error_text("make_envs", f"return {self._visit.rollouts} environments", len(envs), remedy))
        return envs

    async def compute_group_rewards(
        self, trajectory_group: list[Trajectory], env_group: Sequence[Env]
    ) -> list[tuple[float, Metrics]]:
        own = await self._own.compute_group_rewards(trajectory_group, env_group)
        more = self._dataset._report(self._visit, trajectory_group, [reward for reward, _ in own])
        self._open = False
        return [(reward, metrics | extra) for (reward, metrics), extra in zip(own, more, strict=True)]

    async def cleanup(self) -> None:
        if self._open:  # it failed, or was cancelled
            self._open = False
            self._dataset.rounds.refund(self._visit)
        await self._own.cleanup()

    def logging_tags(self) -> list[str]:
        return self._own.logging_tags()

    def __reduce__(self) -> Any:
        raise TypeError("rollout_executor must be None, or of threads: a group in another process cannot report.")


def allocator_for(
    config: Any,
    dataset: Any,
    *,
    id_column: str = "prompt_id",
    mode: Literal["select"] = "select",
    advantages: Advantages = "posterior",
    **settings: Any,
) -> ResolvingAllocator:
    """Return the recommended allocator for the rollouts of a stock run of the cookbook.

    Parameters
    ----------
    config : object
        A recipe's configuration, or a data set builder's: ``group_size``, and ``groups_per_batch`` or ``batch_size``;
        ``max_steps``, or else ``num_epochs``, which is 1 where it is missing.
    dataset : sequence of mapping
        The training set's rows.
    id_column : str
        Column of stable prompt ids.
    mode : {"select"}
        The candidates of a batch are the whole training set.
    advantages : {"posterior", "group"}
        As in :class:`AllocatedDataset`: single rollouts, or at least ``group_size`` of a visited prompt.
    **settings
        Any other argument of :func:`~cero_alloc.training_allocator`, or another value for one that is set here.

    Returns
    -------
    ResolvingAllocator
        ``allocator.horizon`` has the numbers for :class:`AllocatedDataset`: ``n_rounds`` batches of ``round_capacity``
        rollouts.

    Raises
    ------
    ValueError, TypeError
        For another mode or kind of advantages, ids that are missing or repeated, and as
        :func:`~cero_alloc.training_allocator`.

    Examples
    --------
    ::

        allocator = allocator_for(cli_config, rows)
        n_batches, rollouts = allocator.horizon.n_rounds, allocator.horizon.round_capacity
        dataset = AllocatedDataset(make, allocator, n_batches, rollouts, folder=log_path)
    """
    if mode != "select":
        raise ValueError(error_text("mode", "be 'select'", mode, "Batches are dealt from the whole training set."))
    ids: list[Hashable] = checked_ids([row.get(id_column) for row in dataset], id_column)
    groups = getattr(config, "groups_per_batch", None) or config.batch_size
    passes = getattr(config, "num_epochs", 1)
    return run_allocator(
        ids,
        n_rounds=getattr(config, "max_steps", None) or math.ceil(len(ids) / groups) * passes,
        slots=groups * config.group_size,
        group_size=config.group_size,
        mode=mode,
        advantages=advantages,
        **settings,
    )
