"""A data set builder for the Tinker cookbook."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import chz
from tinker_cookbook.rl.problem_env import ProblemGroupBuilder
from tinker_cookbook.rl.types import RLDatasetBuilder

from cero_alloc.integrations.tinker import AllocatedDataset, allocator_for


@chz.chz
class Problems(RLDatasetBuilder):
    """Problems of a file of JSON lines, each with a prompt_id; ``env`` makes an environment of one."""

    path: str
    env: Callable
    log_path: str
    batch_size: int  # groups of a batch, in the stock run
    group_size: int
    num_epochs: int = 1

    async def __call__(self):
        """Return the training set; there is no test set."""
        lines = Path(self.path).read_text().splitlines()
        rows = {row["prompt_id"]: row for row in map(json.loads, lines)}
        allocator = allocator_for(self, list(rows.values()))
        batches, rollouts = allocator.horizon.n_rounds, allocator.horizon.round_capacity

        def make(prompt, count):
            return ProblemGroupBuilder(partial(self.env, rows[prompt]), num_envs=count)

        return AllocatedDataset(make, allocator, batches, rollouts, folder=self.log_path), None
