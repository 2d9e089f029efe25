"""A task sampler for prime-rl."""

from collections import deque

import numpy as np
from prime_rl.orchestrator.curriculum import TaskSampler


class AllocatedSampler(TaskSampler):
    """Tasks as often as an allocator deals groups to them; its units are groups."""

    def __init__(self, tasks, allocator, rollouts):
        self.tasks = {task.key: task for task in tasks}
        self.allocator, self.rollouts, self.queue = allocator, rollouts, deque()

    def __next__(self):
        """Return the next task, from a new round where the last one is used up."""
        if not self.queue:
            allocator = self.allocator
            allocator.expire(older_than=8)  # stale groups are never shown
            short = self.rollouts - allocator.remaining_budget
            if short > 0 or allocator.round >= allocator.horizon.n_rounds:
                allocator.extend_budget(max(0, short), rounds=1)  # a round more
            counts = allocator.allocate(budget=self.rollouts, exact=True)
            units = counts // allocator.horizon.unit_size
            self.queue.extend(allocator.bank.prompts_of(units))
        return self.tasks[self.queue.popleft()]

    def observe(self, group):
        """Report a finished group; the round that dealt it is the task's oldest."""
        traces = [trace for episode in group for trace in episode.traces]
        trained = [trace for trace in traces if trace.agent.trainable]
        rewards = [np.nan if t.has_error else t.reward for t in trained]
        self.allocator.observe([group[0].task.key] * len(rewards), rewards)

    def state_dict(self):
        """Return what a checkpoint holds."""
        return {"allocator": self.allocator.state_dict(), "queue": list(self.queue)}

    def load_state_dict(self, state):
        """Load what a checkpoint held."""
        self.allocator.load_state_dict(state["allocator"])
        self.queue = deque(state["queue"])

    def metrics(self):
        """Return the allocator's figures."""
        return self.allocator.metrics(certificate=False)
