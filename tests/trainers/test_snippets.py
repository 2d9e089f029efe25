"""The snippets of docs/asynchronous_trainers.md on the classes that they are for, where those are installed."""

import asyncio
import types

import pytest

from cero_alloc import training_allocator

pytestmark = [pytest.mark.trainers, pytest.mark.filterwarnings("default")]


def test_art():
    art = pytest.importorskip("art", reason="openpipe-art is not installed")
    pytest.importorskip("art.gather", reason="this art is not openpipe-art")
    from snippets.art_loop import generate

    scenarios, calls = {f"s{i}": i for i in range(40)}, iter(range(10_000))
    allocator = training_allocator(list(scenarios), total_budget=6 * 64, n_rounds=6, rollouts_per_visit=8)

    async def rollout(scenario):
        call = next(calls)
        if call % 20 == 19:
            raise RuntimeError("the sandbox is gone")
        message = {"role": "user", "content": str(scenario)}
        return art.Trajectory(messages_and_choices=[message], reward=float(call % 40 < scenario))

    for step in range(1, 7):
        groups = asyncio.run(generate(allocator, scenarios, rollout))
        trained = sum(map(len, groups))
        assert trained + sum(len(group.exceptions) for group in groups) == 64
        assert trained < 64
        assert allocator.balance == (384, 64 * step, 0, 64 * (6 - step))
    assert allocator.bank.mean().std() > 0.05


def test_prime_rl():
    pytest.importorskip("prime_rl.orchestrator.curriculum", reason="prime-rl is not installed")
    from snippets.prime_rl_sampler import AllocatedSampler

    tasks = [types.SimpleNamespace(key=f"t{i}") for i in range(20)]

    def sampler():
        keys = [task.key for task in tasks]
        run = {"total_budget": 6 * 64, "n_rounds": 6, "rollouts_per_visit": 8, "unit_size": 8}
        return AllocatedSampler(tasks, training_allocator(keys, **run), 64)

    def group(task, number):
        def trace(i):
            return types.SimpleNamespace(
                agent=types.SimpleNamespace(trainable=True), has_error=i == 7, reward=float(i < number % 9)
            )

        return [types.SimpleNamespace(task=task, traces=[trace(i)]) for i in range(8)]

    first, drawn = sampler(), []
    for number in range(8 * 4):
        drawn.append(next(first))
        if number >= 10 and number % 5:  # late, and some are stale: never shown
            first.observe(group(drawn[number - 10], number))
    total, spent, reserved, left = first.allocator.balance
    assert spent + reserved + left == total == 384
    assert first.allocator.round == 4
    assert first.metrics()["spent_budget"] == spent > 0
    second = sampler()
    second.load_state_dict(first.state_dict())
    assert [next(first).key for _ in range(24)] == [next(second).key for _ in range(24)]  # beyond the plan, too
    assert first.allocator.round == 7
