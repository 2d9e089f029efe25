"""A step of a training loop with ART."""

import art


async def generate(allocator, scenarios, rollout):
    """Return a step's groups, for model.train; the allocator has heard of them."""
    counts = allocator.allocate(budget=64, exact=True)
    number = allocator.round
    dealt = zip(allocator.bank.prompt_ids, counts.tolist(), strict=True)
    groups = await art.gather_trajectory_groups(
        (
            art.TrajectoryGroup(
                (rollout(scenarios[key]) for _ in range(count)),
                metadata={"prompt": key},
            )
            for key, count in dealt
            if count
        ),
        max_exceptions=64,
    )
    for group in groups:
        rewards = [trajectory.reward for trajectory in group]
        rewards += [None] * len(group.exceptions)  # written off
        prompts = [group.metadata["prompt"]] * len(rewards)
        allocator.observe(prompts, rewards, round=number)
    return groups
