"""Runs with the TRL adapter that are killed, resumed, made longer, or given another data set."""

import shutil

import numpy as np
import pytest

for _package in ("torch", "transformers", "trl"):
    pytest.importorskip(_package, reason=f'{_package} is not installed: pip install -e ".[trl]"')


import torch  # noqa: E402
import transformers  # noqa: E402

from cero_alloc import ResolvingAllocator  # noqa: E402
from cero_alloc.integrations.trl import AllocatedGRPOTrainer, _resume, allocator_for  # noqa: E402
from trainers import trl_runs as runs  # noqa: E402

pytestmark = [pytest.mark.trainers, pytest.mark.usefixtures("single_thread")]
STATE = "allocator.npz"
SINGLE = {"mode": "select", "advantages": "posterior"}
ROUTINE = {"shuffle_dataset": False, "lr_scheduler_type": "constant"} | SINGLE


def single_train(folder, resume=None, rows=64, **settings):
    """Run single rollouts from the whole set, the allocator left to the trainer."""
    return runs.train(folder, runs.built, resume=resume, dataset=runs.tiny_dataset(rows), **ROUTINE | settings)


@pytest.mark.parametrize("mode", ["redeal", "select"])
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, mode):
    (whole,) = runs.work(tmp_path / "whole", "resolving", "saving", mode)
    assert runs.work(tmp_path / "killed", "resolving", "saving", mode, "kill", code=17) == []
    assert sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6",
    ]
    (resumed,) = runs.work(tmp_path / "killed", "resolving", "saving", mode, "resume")
    np.testing.assert_array_equal(resumed["parameters"], whole["parameters"])
    assert eval(str(resumed["rounds"])) == eval(str(whole["rounds"]))[6:]
    assert len({tuple(counts) for _, counts in eval(str(whole["rounds"]))}) > 2


WITHIN = {
    # name: settings, the checkpoint to resume from, and whether it lies within a generation cycle
    "steps, two iterations": ({"num_iterations": 2, "save_strategy": "steps", "save_steps": 3}, 3, True),
    "steps, two steps a generation": (
        {"steps_per_generation": 4, "generation_batch_size": None, "save_strategy": "steps", "save_steps": 1}, 5, True
    ),
    "best, two iterations": (
        {"num_iterations": 2, "save_strategy": "best", "metric_for_best_model": "eval_loss", "eval_strategy": "steps",
         "eval_steps": 3, "greater_is_better": False, "eval_on_start": False}, 3, True,
    ),
    "epoch, two iterations": ({"num_iterations": 2, "save_strategy": "epoch", "max_steps": 10}, 8, False),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHIN)
def test_a_checkpoint_at_any_step_is_resumed_bit_for_bit(tmp_path, name):
    settings, step, within = WITHIN[name]
    dataset = runs.tiny_dataset(64 if "epoch" not in name else 32)
    allocator, own = (runs.built, SINGLE) if "epoch" not in name else (runs.resolving, {"mode": "redeal"})
    common = {"dataset": dataset, "eval_dataset": runs.tiny_dataset(4), "per_device_eval_batch_size": 16, **ROUTINE}
    run = common | settings | own
    whole = runs.train(tmp_path, allocator, **run)
    folder = tmp_path / f"checkpoint-{step}"
    assert (folder / "rollouts-0.pt").exists() == within
    resumed = runs.train(tmp_path, allocator, resume=str(folder), **run)
    assert resumed.state.global_step == whole.state.global_step > step
    np.testing.assert_array_equal(runs.parameters(resumed), runs.parameters(whole))
    assert resumed.allocator.balance == whole.allocator.balance
    assert resumed.allocator.balance.left == 0
    np.testing.assert_array_equal(resumed.allocator.bank.alpha, whole.allocator.bank.alpha)


@pytest.mark.skipif(
    transformers.__version__.startswith("4."), reason="transformers 4 loads no optimizer on several processes of a CPU"
)
def test_two_processes_resume_within_a_cycle(tmp_path):
    folder = tmp_path / "two"
    whole = runs.work(folder, "single", "posterior", "within", processes=2)
    shutil.rmtree(folder / "checkpoint-12")
    resumed = runs.work(folder, "single", "posterior", "within", "resume", processes=2)
    for one, other in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(one["parameters"], other["parameters"])
    assert eval(str(resumed[0]["rounds"])) == eval(str(whole[0]["rounds"]))[4:]
    with pytest.raises(ValueError, match=r"as many processes as wrote it, 2, got 1\. Start as many"):
        _resume.load_rollouts(folder / "checkpoint-7", 0, 1, torch.device("cpu"))
    with pytest.raises(ValueError, match="as many processes as wrote it, fewer, got 3"):
        _resume.load_rollouts(folder / "checkpoint-7", 2, 3, torch.device("cpu"))


def test_a_stock_checkpoint_is_refused_or_gone_on_from_as_the_message_says(tmp_path):
    runs.train(tmp_path, save_strategy="steps", save_steps=4, **{"num_iterations": 2}, dataset=runs.tiny_dataset(64))
    folder = tmp_path / "checkpoint-4"
    with pytest.raises(FileNotFoundError, match=r"must hold allocator\.npz, which the stock trainer does not write"):
        single_train(tmp_path, resume=True, num_iterations=2)
    args = runs.config(tmp_path, num_iterations=2)
    allocator_for(args, runs.tiny_dataset(64)).save(folder / STATE)
    trainer = single_train(tmp_path, resume=str(folder), num_iterations=2)
    assert trainer.state.global_step == 6
    assert trainer.allocator.balance == (32, 32, 0, 0)  # the one generation that was left
    again = AllocatedGRPOTrainer(  # or from its model
        model=str(folder), reward_funcs=runs.opening_reward, args=args, train_dataset=runs.tiny_dataset(64)
    )
    again.train()
    assert again.allocator.balance == (96, 96, 0, 0)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"output_dir must hold a checkpoint, got .* Start without resuming"):
        runs.build(tmp_path / "empty", runs.resolving).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("own", [SINGLE, {"mode": "redeal", "advantages": "group"}])
def test_a_longer_run_with_other_prompts_goes_on(tmp_path, own):
    single_train(tmp_path, save_strategy="steps", save_steps=6, **own)
    rows = runs.tiny_dataset(70).select(range(2, 70))
    trainer = runs.train(tmp_path, runs.built, resume=True, dataset=rows, **ROUTINE | own | {"max_steps": 18})
    assert trainer.state.global_step == 18
    assert trainer.allocator.balance == (18 * 32, 18 * 32, 0, 0)
    assert trainer.allocator.round == 18
    bank = trainer.allocator.bank
    assert np.flatnonzero(bank.retired).tolist() == [0, 1]
    assert trainer.allocator.exposure[64:].sum() > 0
    shorter = runs.train(
        tmp_path, runs.built, resume=str(tmp_path / "checkpoint-6"), dataset=rows, **ROUTINE | own, max_steps=7
    )
    assert shorter.allocator.balance.left == 0


def test_an_allocator_of_ones_own_is_extended_by_hand(tmp_path):
    def of(rounds):
        return lambda args: allocator_for(args, runs.tiny_dataset(64), n_rounds=rounds)

    more = {"dataset": runs.tiny_dataset(64), **ROUTINE}
    runs.train(tmp_path, of(6), save_strategy="steps", save_steps=6, **more)
    with pytest.raises(
        ValueError, match=r"got 6 instead of 8 at 'n_rounds'.*leave allocator out: the trainer then extends"
    ):
        runs.train(tmp_path, of(8), resume=True, max_steps=8, **more)
    with pytest.raises(
        ValueError,
        match=r"must have 64 rollouts for the 2 generations to come, got 0 for 0\. .*extend_budget\(64, rounds=2\)",
    ):
        runs.train(tmp_path, of(6), resume=True, max_steps=8, **more)
    loaded = ResolvingAllocator.load(tmp_path / "checkpoint-6" / STATE)
    loaded.extend_budget(64, rounds=2)
    trainer = runs.train(tmp_path, lambda _: loaded, resume=True, max_steps=8, **more)
    assert trainer.allocator is loaded
    assert loaded.balance == (256, 256, 0, 0)
    with pytest.raises(ValueError, match="allocator must be at round 6 of the checkpoint, got one at 8"):
        runs.train(tmp_path, lambda _: loaded, resume=str(tmp_path / "checkpoint-6"), max_steps=8, **more)
    with pytest.raises(ValueError, match="must have 192 rollouts for the 6 generations to come, got 0 for 0"):
        runs.train(tmp_path, lambda _: loaded, **more)
