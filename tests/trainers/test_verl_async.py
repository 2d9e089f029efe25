"""The verl adapter with posterior advantages, in verl's synchronous and asynchronous modes: real classes, a stand-in model.

`pip install torch -e ".[verl]" pytest && pytest -W default tests/trainers/test_verl_async.py`.
"""

from collections import Counter

import numpy as np
import pytest

for _package in ("torch", "verl", "transfer_queue"):
    pytest.importorskip(_package, reason=f'{_package} is not installed: pip install -e ".[verl]"')

from verl.trainer.ppo.v1 import PPOTrainerSync  # noqa: E402
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync  # noqa: E402
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync  # noqa: E402

from cero_alloc.integrations.verl._modes import ESTIMATORS  # noqa: E402
from trainers import verl_runs as runs  # noqa: E402

pytestmark = pytest.mark.trainers
SLOTS = runs.BATCH * runs.PER_PROMPT
MODES = {
    "sync": (PPOTrainerSync, ()),
    "colocate": (PPOTrainerColocateAsync, (runs.COLOCATE,)),
    "separate": (PPOTrainerSeparateAsync, runs.SEPARATE),
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    running = runs.Stage(tmp_path_factory.mktemp("verl"))
    yield running
    running.close()


def trained(batch):
    """Return the rollouts of an update as (prompt, reward, advantage), sorted."""
    return sorted((p, reward, round(a, 5)) for p, group in batch.items() for reward, a, *_ in group)


def reported(allocator):
    """Return what every call of observe was told, of one update after the other: [(round, latest round, rollouts)]."""
    return [
        (number, latest, [(p, r, round(a, 5)) for p, r, a in rollouts]) for number, latest, rollouts in allocator.scored
    ]


@pytest.mark.parametrize("select", [True, False], ids=["select", "redeal"])
@pytest.mark.parametrize("kind", MODES)
def test_every_update_trains_the_stock_trainers_rollouts_over_their_posterior_means(stage, kind, select):
    stock, words = MODES[kind]
    mode = f"cero_alloc.mode={'select' if select else 'redeal'}"
    trainer = stage.train(runs.recommended(stock), *words, mode, runs.POSTERIOR, "trainer.total_training_steps=3")
    allocator, updates = trainer.dealer.allocator, 6 if kind == "separate" else 3
    assert [sum(map(len, batch.values())) for batch in trainer.batches] == [3 * SLOTS // updates] * updates
    told, batches = reported(allocator), iter(trainer.batches)
    while told:  # an update's rounds are told one after the other
        batch = trained(next(batches))
        mine = []
        while len(mine) < len(batch):
            mine += told.pop(0)[2]
        assert sorted(mine) == batch
    assert any(a for batch in trainer.batches for _, _, a in trained(batch))
    ahead = 0 if kind == "sync" else SLOTS
    assert allocator.balance == (3 * SLOTS + ahead, 3 * SLOTS, ahead, 0)
    assert [sum(counts) for _, counts in allocator.rounds] == [SLOTS] * (3 + (kind != "sync"))
    if kind != "sync":
        assert any(number < latest for number, latest, _ in allocator.scored)  # late
    assert trainer.logs[-1]["alloc/outstanding_rollouts"] == ahead


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_posterior_advantages_take_the_place_of_every_estimators(stage, estimator):
    words = "cero_alloc.mode=select", runs.POSTERIOR, f"algorithm.adv_estimator={estimator}"
    trainer = stage.train(runs.recommended(), *words, "trainer.total_training_steps=1")
    (batch,), ((_, _, told),) = trainer.batches, reported(trainer.dealer.allocator)
    assert {len(group) for group in batch.values()} == {1}
    assert trained(batch) == sorted(told)
    for _, reward, advantage in told:
        assert advantage == pytest.approx(0.5**0.5 * 3**0.5 * (1 if reward else -1), abs=1e-5)  # (r - 1/2) / sqrt(1/6)


def test_single_rollouts_of_the_stock_trainers_n_of_one(stage):
    words = "cero_alloc.mode=select", runs.POSTERIOR, "actor_rollout_ref.rollout.n=1", "trainer.total_training_steps=2"
    trainer = stage.train(runs.recommended(), *words)
    assert [sum(map(len, batch.values())) for batch in trainer.batches] == [runs.BATCH] * 2


def test_groups_of_the_trainers_size_train_as_they_are_finished(stage):
    words = runs.COLOCATE, "cero_alloc.mode=select", "trainer.total_training_steps=3"
    trainer = stage.train(runs.recommended(PPOTrainerColocateAsync), *words)
    for batch in trainer.batches:
        assert [len(group) % runs.PER_PROMPT for group in batch.values()] == [0] * len(batch)  # a prompt may come twice
        assert sum(map(len, batch.values())) == SLOTS
    assert trainer.dealer.allocator.balance == (4 * SLOTS, 3 * SLOTS, SLOTS, 0)


def test_unequal_groups_are_refused_where_steps_take_them_as_they_are_finished(stage):
    trainer = stage.trainer(runs.recommended(PPOTrainerColocateAsync), runs.COLOCATE)
    trainer._init_tokenizer()
    with pytest.raises(
        ValueError, match=r"must be actor_rollout_ref\.rollout\.n = 4 in an asynchronous mode .* 4 and 16:"
    ):
        trainer._init_dataloader()


@pytest.mark.parametrize("select", [True, False], ids=["select", "redeal"])
def test_rows_that_come_too_late_are_written_off_and_generated_again(stage, select):
    mode = f"cero_alloc.mode={'select' if select else 'redeal'}"
    words = mode, runs.COLOCATE, runs.POSTERIOR, "trainer.v1.sampler.max_off_policy_threshold=1"
    trainer = stage.train(runs.recommended(PPOTrainerColocateAsync), *words, "trainer.total_training_steps=3")
    allocator = trainer.dealer.allocator
    assert [sum(map(len, batch.values())) for batch in trainer.batches] == [SLOTS] * 3
    again = sum(sum(counts) for _, counts in allocator.rounds) - 4 * SLOTS
    assert again > 0
    trials = sum(len(rollouts) for _, _, rollouts in allocator.scored)
    assert trials == 3 * SLOTS
    assert allocator.balance == (4 * SLOTS + again, 3 * SLOTS + again, SLOTS, 0)


def test_rows_that_fail_are_written_off_and_others_drawn(stage, tmp_path):
    path = runs.write_rows(tmp_path / "shaky.parquet", source=runs.SHAKY)
    words = "cero_alloc.mode=select", runs.COLOCATE, runs.POSTERIOR, f"data.train_files={path}"
    trainer = stage.train(runs.recommended(PPOTrainerColocateAsync), *words)
    allocator = trainer.dealer.allocator
    assert all(reward == 1.0 for batch in trainer.batches for _, reward, _ in trained(batch))
    assert [sum(map(len, batch.values())) for batch in trainer.batches] == [SLOTS] * 2
    total, spent, reserved, left = allocator.balance
    assert total == sum(sum(counts) for _, counts in allocator.rounds) > 3 * SLOTS
    assert (spent, reserved, left) == (total - SLOTS, SLOTS, 0)


class Killed(Exception):
    """Ends a run in the middle of a step."""


@pytest.mark.parametrize("kind", ["colocate", "separate"])
def test_a_killed_run_goes_on_with_what_was_in_flight(stage, tmp_path, kind):
    stock, words = MODES[kind]
    words = (
        *words, "cero_alloc.mode=select", runs.POSTERIOR, "trainer.total_training_steps=4", "trainer.save_freq=2",
        f"trainer.default_local_dir={tmp_path}",
    )  # fmt: skip
    base = runs.recommended(stock)

    class Dying(base):
        def _update_actor(self, batch, metrics):
            if self.global_steps == 3:
                raise Killed
            return super()._update_actor(batch, metrics)

    with pytest.raises(Killed):
        stage.train(Dying, *words)
    resumed = stage.trainer(base, *words)
    resumed.init()
    allocator, held = resumed.dealer.allocator, stage.held()
    assert allocator.round == 3
    assert set(resumed._rows) == {key for key, tag in held.items() if tag.get("is_prompt")}
    in_flight = Counter(row.prompt for row in resumed._rows.values())
    np.testing.assert_array_equal(allocator.outstanding, [in_flight[key] for key in allocator.bank.prompt_ids])
    resumed.fit(stage.resuming_loops)
    stage.clear()
    assert [sum(map(len, batch.values())) for batch in resumed.batches] == [2 * SLOTS // len(resumed.batches)] * len(
        resumed.batches
    )
    assert allocator.balance == (5 * SLOTS, 4 * SLOTS, SLOTS, 0)
    with pytest.raises(ValueError, match=r"trainer_mode must be that of .*'.*_async', got 'sync': rows in flight"):
        stage.trainer(runs.recommended(), *words, "trainer.v1.trainer_mode=sync").init()
