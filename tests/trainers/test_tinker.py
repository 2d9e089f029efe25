"""The Tinker cookbook's adapter on its real classes, with a stand-in policy: no service is called.

`pip install torch pytest -e ".[tinker]"`, then `pip install --no-deps tinker_cookbook`, and `pytest -W default tests/trainers`.
"""

import asyncio
import itertools
import json
import pickle
import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

for _package in ("torch", "tinker", "tinker_cookbook"):
    pytest.importorskip(_package, reason=f'{_package} is not installed: pip install -e ".[tinker]"')

import tinker  # noqa: E402
import torch  # noqa: E402
from tinker_cookbook.completers import TokenCompleter, TokensWithLogprobs  # noqa: E402
from tinker_cookbook.rl import data_processing, train  # noqa: E402
from tinker_cookbook.rl.dataset_utils import EpochCycledRLDataset  # noqa: E402
from tinker_cookbook.rl.metric_util import compute_trajectory_metrics  # noqa: E402
from tinker_cookbook.rl.rollout_limits import TerminationRewardPolicy  # noqa: E402
from tinker_cookbook.rl.rollout_strategy import MinViableGroup, RetryOnFailure  # noqa: E402
from tinker_cookbook.rl.rollouts import do_group_rollout  # noqa: E402
from tinker_cookbook.rl.types import Env, EnvGroupBuilder, StepResult  # noqa: E402

from cero_alloc import BetaPosteriorBank, training_allocator  # noqa: E402
from cero_alloc.integrations.tinker import AllocatedDataset, allocator_for, compute_advantages  # noqa: E402
from trainers.allocators import Scripted  # noqa: E402

pytestmark = pytest.mark.trainers
TOTAL, BATCHES = 32, 12
RATES = {f"p{i}": (i % 10) / 9 for i in range(60)}


class Coin(Env):
    """Rewards 1 with the prompt's probability; may be slow, and fails where ``fails``, an iterator, says so."""

    def __init__(self, prompt, fails=None, wait=0.0, stop=None):
        self.prompt, self.fails, self.wait, self.stop = prompt, fails, wait, stop

    async def initial_observation(self):
        return tinker.ModelInput.from_ints([1, 2, 3]), [0]

    async def step(self, action, *, extra=None):
        await asyncio.sleep(random.random() * self.wait)
        if self.fails is not None and next(self.fails):
            raise RuntimeError("the sandbox is gone")
        metrics = {} if self.stop is None else {f"stop/{self.stop}": 1.0}
        reward = float(random.random() < RATES[self.prompt])
        return StepResult(reward, True, tinker.ModelInput.from_ints([]), [], metrics=metrics)


@dataclass
class Group(EnvGroupBuilder):
    """A prompt's own builder, as a recipe has it."""

    prompt: str
    num_envs: int
    settings: dict
    cleaned: int = 0

    async def make_envs(self):
        return [Coin(self.prompt, **self.settings) for _ in range(self.num_envs)]

    async def cleanup(self):
        self.cleaned += 1

    def logging_tags(self):
        return ["coins"]


class Policy(TokenCompleter):
    async def __call__(self, model_input, stop, *, max_tokens=None):
        return TokensWithLogprobs(tokens=[5, 0], maybe_logprobs=[-0.1, -0.1])


def single(batches=BATCHES):
    return training_allocator(list(RATES), total_budget=batches * TOTAL, n_rounds=batches, round_capacity=TOTAL)


def ragged(*rows):
    """Groups of 2 to 16, or of these sizes, in turn."""
    run = {"total_budget": BATCHES * TOTAL, "n_rounds": BATCHES, "unit_size": 2, "max_rollouts": 16}
    rows = rows or ([2, 6, 8, 16], [0, 8, 4, 4, 16], [0] * 20 + [2] * 16)
    return Scripted(BetaPosteriorBank(list(RATES)), rows, **run, round_capacity=TOTAL)


def every_fifth():
    return itertools.cycle([False, False, False, False, True])


def data(folder, allocator=None, *, batches=BATCHES, coin=None, **more):
    def make(prompt, count):
        return Group(prompt, count, coin or {})

    return AllocatedDataset(make, allocator or single(), batches, TOTAL, folder=folder, **more)


async def rolled_out(builders, **how):
    """Run the cookbook's own roll-out of every builder; None where a group failed."""

    async def one(builder):
        try:
            return await do_group_rollout(builder, Policy(), **how)
        except Exception:
            return None

    return await asyncio.gather(*map(one, builders))


def batch(dataset, index, **how):
    builders = dataset.get_batch(index)
    return builders, asyncio.run(rolled_out(builders, **how))


def require_account(allocator):
    total, spent, reserved, left = allocator.balance
    assert spent + reserved + left == total
    assert reserved == allocator.outstanding.sum()


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(("make", "advantages"), [(single, "posterior"), (ragged, "posterior"), (ragged, "group")])
def test_every_batch_has_the_exact_total_and_what_it_teaches_is_counted(tmp_path, make, advantages):
    dataset = data(tmp_path, make(), advantages=advantages)
    assert len(dataset) == BATCHES
    wins, sizes = Counter(), Counter()
    for index in range(BATCHES):
        builders, groups = batch(dataset, index)
        counts = [len(group.trajectories_G) for group in groups]
        assert sum(counts) == TOTAL
        sizes.update(counts)
        for builder, group in zip(builders, groups, strict=True):
            wins[builder._own.prompt] += sum(group.get_total_rewards())
        rows, _ = data_processing.assemble_training_data(groups, compute_advantages(groups))
        assert len(rows) == TOTAL
    allocator = dataset.allocator
    assert allocator.balance == (BATCHES * TOTAL, BATCHES * TOTAL, 0, 0)
    assert set(sizes) == ({1} if make is single else {2, 4, 6, 8, 16})
    if make is ragged:  # evidence does not fade there
        assert dict(zip(RATES, allocator.bank.alpha - 1.0, strict=True)) == {key: wins[key] for key in RATES}


def test_groups_of_one_have_posterior_advantages_in_the_cookbooks_training_data(tmp_path):
    allocator, twin = single(), single()
    dataset = data(tmp_path, allocator)
    builders, groups = batch(dataset, 0)
    twin.allocate(None, TOTAL, exact=True)
    rewards = [group.get_total_rewards()[0] for group in groups]
    expected = twin.observe([builder._own.prompt for builder in builders], rewards)
    assert all(float(part) == 0.0 for part in data_processing.compute_advantages(groups))  # the cookbook's own
    found = [float(part) for part in compute_advantages(groups)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # torch's default is float32
    assert train.compute_advantages is compute_advantages  # what prepare_minibatch calls
    rows, _ = data_processing.assemble_training_data(groups, train.compute_advantages(groups))
    trained = [row.loss_fn_inputs["advantages"].to_torch().tolist()[-1] for row in rows]
    np.testing.assert_allclose(trained, expected, rtol=1e-6)


def test_group_advantages_are_the_cookbooks(tmp_path):
    dataset = data(tmp_path, ragged(), advantages="group")
    _, groups = batch(dataset, 0)
    for mine, theirs in zip(compute_advantages(groups), data_processing.compute_advantages(groups), strict=True):
        assert torch.equal(mine, theirs)


def test_feedback_comes_late_and_out_of_order(tmp_path):
    """Batches overlap, as in the cookbook's asynchronous training."""
    dataset = data(tmp_path, coin={"wait": 0.02})

    async def overlapping():
        under_way = []
        for index in range(BATCHES):
            under_way.append(asyncio.ensure_future(rolled_out(dataset.get_batch(index))))
            if index >= 2:
                await under_way[index - 2]
        await asyncio.gather(*under_way[::-1])

    order = []
    real = dataset.rounds.learn
    dataset.rounds.learn = lambda visit, *rest: (order.append((visit.round, rest[1][0])), real(visit, *rest))[1]
    asyncio.run(overlapping())
    assert [number for number, _ in order] != sorted(number for number, _ in order)
    assert max(age for _, age in order) >= 1.0
    assert dataset.allocator.balance == (BATCHES * TOTAL, BATCHES * TOTAL, 0, 0)
    assert dataset.allocator.metrics(certificate=False)["unreserved_rollouts"] == 0


def test_figures_come_with_the_cookbooks_metrics(tmp_path):
    dataset = data(tmp_path, ragged())
    for index in range(2):
        builders, groups = batch(dataset, index)
    found = compute_trajectory_metrics(groups, [builder.logging_tags() for builder in builders])
    assert found["env/all/alloc/round"] == 2.0
    assert found["env/all/alloc/largest_age"] == 0.0
    assert 2.0 <= found["env/all/alloc/mean_group"] <= 16.0
    assert found["env/all/total_episodes"] == TOTAL
    left = dataset.metrics()
    assert left["remaining_budget"] == (BATCHES - 2) * TOTAL


# ---------------------------------------------------------------- what fails


def test_a_group_that_fails_is_refunded_and_cleaned_up(tmp_path):
    dataset = data(tmp_path, ragged([2] * 16), coin={"fails": every_fifth()})
    builders, groups = batch(dataset, 0)
    lost = sum(builder._own.num_envs for builder, group in zip(builders, groups, strict=True) if group is None)
    assert 0 < lost < TOTAL
    assert all(builder._own.cleaned == 1 for builder in builders)
    assert dataset.allocator.balance == (BATCHES * TOTAL, TOTAL - lost, 0, (BATCHES - 1) * TOTAL + lost)


def test_a_cancelled_batch_is_refunded(tmp_path):
    dataset = data(tmp_path, ragged(), coin={"wait": 60.0})

    async def cancelled():
        task = asyncio.ensure_future(rolled_out(dataset.get_batch(0)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    require_account(dataset.allocator)
    assert dataset.allocator.balance.reserved == 0
    assert dataset.allocator.remaining_budget > (BATCHES - 1) * TOTAL


def test_a_trajectory_that_fails_beside_others_is_written_off(tmp_path):
    dataset = data(tmp_path, ragged(), coin={"fails": every_fifth()})
    _, groups = batch(dataset, 0, strategy=MinViableGroup(max_retries=0, min_successful=1))
    alive = [group for group in groups if group is not None]
    trained = sum(len(group.trajectories_G) for group in alive)
    assert any(group.rollout_errors for group in alive)
    assert dataset.allocator.balance.reserved == 0
    assert trained < dataset.allocator.balance.spent <= TOTAL
    scored = dataset.allocator.bank.alpha.sum() + dataset.allocator.bank.beta.sum() - 2 * len(RATES)
    assert scored == trained
    assert [len(part) for part in compute_advantages(alive)] == [len(group.trajectories_G) for group in alive]


def test_retries_do_not_change_the_account(tmp_path):
    dataset = data(tmp_path, ragged(), coin={"fails": every_fifth()})
    _, groups = batch(dataset, 0, strategy=RetryOnFailure(max_retries=50))
    assert sum(len(group.trajectories_G) for group in groups) == TOTAL
    assert dataset.allocator.balance.spent == TOTAL


def test_the_reward_that_is_learnt_is_the_one_after_a_limit(tmp_path):
    policy = TerminationRewardPolicy(zero_reward_on_limit=True)
    reason = next(iter(policy.limit_stop_reasons))
    dataset = data(tmp_path, ragged(), coin={"stop": str(reason.value)}, termination=policy)
    _, groups = batch(dataset, 0, termination=policy)
    assert sum(sum(group.get_total_rewards()) for group in groups) == 0.0
    assert dataset.allocator.bank.alpha.sum() == len(RATES)  # no success
    assert dataset.allocator.balance.spent == TOTAL


def test_rewards_out_of_range_need_success(tmp_path):
    dataset = data(tmp_path, ragged(), success=lambda reward: 0.5 + 0.5 * reward)
    batch(dataset, 0)
    assert dataset.allocator.bank.mean().max() > 0.5
    harsh = data(tmp_path, ragged(), termination=None)
    builder = harsh.get_batch(0)[0]
    with pytest.raises(ValueError, match=r"rewards must lie in .* Pass success="):
        harsh.rounds.learn(builder._visit, [-0.1] * builder._visit.rollouts, [0.0])


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize("make", [single, ragged])
def test_a_killed_run_resumes_from_the_batch_of_its_checkpoint(tmp_path, make):
    def play(dataset, indices):
        dealt = []
        for index in indices:
            random.seed(index)  # the same rewards in both runs
            builders, _ = batch(dataset, index)
            dealt.append([(builder._own.prompt, builder._own.num_envs) for builder in builders])
        return dealt

    whole = play(data(tmp_path / "whole", make()), range(BATCHES))
    play(data(tmp_path / "run", make()), range(9))  # killed; the last checkpoint was of batch 6
    resumed = data(tmp_path / "run", make())
    assert play(resumed, range(6, BATCHES)) == whole[6:]
    assert resumed.allocator.balance == (BATCHES * TOTAL, BATCHES * TOTAL, 0, 0)


def test_what_was_in_flight_at_a_checkpoint_is_refunded(tmp_path):
    first = data(tmp_path)
    batch(first, 0)
    first.get_batch(1)  # still being generated when the state of batch 2 is saved
    first.get_batch(2)
    resumed = data(tmp_path)
    builders = resumed.get_batch(2)
    assert sum(builder._own.num_envs for builder in builders) == TOTAL
    assert resumed.allocator.balance == (BATCHES * TOTAL, TOTAL, TOTAL, (BATCHES - 2) * TOTAL)


def test_batches_come_in_order_and_a_resumed_run_needs_its_state(tmp_path):
    dataset = EpochCycledRLDataset(data(tmp_path, batches=2), num_epochs=2)
    dataset.get_batch(0)
    dataset.get_batch(1)
    with pytest.raises(
        ValueError, match=r"index must be 2, the next batch, got .*0. Ask for batches in order: num_epochs must be 1"
    ):
        dataset.get_batch(2)
    with pytest.raises(ValueError, match=r"folder must hold allocator-000003\.npz"):
        data(tmp_path, save_every=2).get_batch(3)
    sparse = data(tmp_path / "sparse", save_every=2)
    for index in range(4):
        sparse.get_batch(index)
    assert sorted(path.name for path in (tmp_path / "sparse").iterdir()) == [
        "allocator-000000.npz",
        "allocator-000002.npz",
    ]


# ---------------------------------------------------------------- construction


@dataclass
class Recipe:
    group_size: int = 4
    groups_per_batch: int = 8
    max_steps: int | None = None


def test_the_allocator_is_built_from_a_recipes_configuration():
    rows = [{"prompt_id": key} for key in RATES]
    allocator = allocator_for(Recipe(), rows)
    assert (allocator.horizon.n_rounds, allocator.horizon.round_capacity) == (8, 32)  # 60 prompts in batches of 8
    assert allocator.allocate(None, 32, exact=True).max() == 1
    groups = allocator_for(Recipe(max_steps=3), rows, advantages="group")
    assert groups.horizon.total_budget == 96
    assert set(groups.allocate(None, 32, exact=True).tolist()) == {0, 4}


def test_the_settings_are_checked_at_construction(tmp_path):
    rows = [{"prompt_id": key} for key in RATES]
    with pytest.raises(ValueError, match="mode must be 'select'"):
        allocator_for(Recipe(), rows, mode="redeal")
    with pytest.raises(ValueError, match="hold a text or an integer in every row"):
        allocator_for(Recipe(), rows, id_column="uid")
    with pytest.raises(ValueError, match="name one row each"):
        allocator_for(Recipe(), [*rows, rows[0]])
    with pytest.raises(ValueError, match="advantages must be one of"):
        data(tmp_path, advantages="best")
    with pytest.raises(ValueError, match="must be at least 2, got 1"):
        data(tmp_path, advantages="group")
    with pytest.raises(ValueError, match="at most the 16 that a round can deal"):
        data(tmp_path, training_allocator(list(RATES), total_budget=160, n_rounds=10, round_capacity=16))


def test_groups_report_from_this_process_only(tmp_path):
    builder = data(tmp_path).get_batch(0)[0]
    with pytest.raises(TypeError, match="rollout_executor must be None, or of threads"):
        pickle.dumps(builder)


def test_a_builder_that_ignores_its_count_is_refused(tmp_path):
    dataset = AllocatedDataset(lambda prompt, count: Group(prompt, 4, {}), single(), BATCHES, TOTAL, folder=tmp_path)
    builder = dataset.get_batch(0)[0]
    with pytest.raises(ValueError, match=r"make_envs must return 1 environments, got .*4. Let make"):
        asyncio.run(do_group_rollout(builder, Policy()))
    assert dataset.allocator.balance.reserved == TOTAL - 1


def test_the_builder_of_the_page_trains_all_its_problems(tmp_path):
    from snippets.tinker_dataset import Problems

    (tmp_path / "problems.jsonl").write_text("\n".join(json.dumps({"prompt_id": key}) for key in RATES))
    settings = {"batch_size": 15, "group_size": 4, "num_epochs": 2, "log_path": str(tmp_path / "run")}
    builder = Problems(path=str(tmp_path / "problems.jsonl"), env=lambda row: Coin(row["prompt_id"]), **settings)
    dataset, test_set = asyncio.run(builder())
    assert (len(dataset), test_set) == (8, None)
    for index in range(8):
        _, groups = batch(dataset, index)
        assert sum(len(group.trajectories_G) for group in groups) == 60
    assert dataset.allocator.balance == (480, 480, 0, 0)
    assert (dataset.allocator.exposure > 0).all()
