"""The allocator of a TRL run, and the settings, data sets and reward functions that the adapter refuses or warns of."""

import warnings
from functools import partial, update_wrapper

import numpy as np
import pytest

for _package in ("torch", "transformers", "trl"):
    pytest.importorskip(_package, reason=f'{_package} is not installed: pip install -e ".[trl]"')

from datasets import Dataset  # noqa: E402
from trl import GRPOTrainer  # noqa: E402

from cero_alloc import AllocationWarning, BetaPosteriorBank, FenchelDualAllocator  # noqa: E402
from cero_alloc.integrations.trl import allocator_for, generation_rounds  # noqa: E402
from trainers import trl_runs as runs  # noqa: E402

pytestmark = [pytest.mark.trainers, pytest.mark.usefixtures("single_thread")]

LENGTHS = {
    "steps": {},
    "two iterations, an odd number of steps": {"num_iterations": 2, "max_steps": 5},
    "epochs that drop rows": {"max_steps": -1, "num_train_epochs": 2, "rows": 30},
    "half an epoch more": {"max_steps": -1, "num_train_epochs": 1.5, "num_iterations": 2},
    "a last step that is short": {
        "max_steps": -1, "num_train_epochs": 1.5, "rows": 40, "gradient_accumulation_steps": 3, "steps_per_generation": 2
    },
    "steps over short epochs": {"max_steps": 7, "rows": 16, "gradient_accumulation_steps": 3, "steps_per_generation": 2},
    "several generations a step": {"max_steps": 3, "gradient_accumulation_steps": 4, "steps_per_generation": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", LENGTHS)
def test_rounds_are_the_stock_trainers_generations(tmp_path, name):
    settings = dict(LENGTHS[name])
    dataset, calls = runs.tiny_dataset(settings.pop("rows", 32)), []

    def reward(completions, **columns):
        calls.append(len(completions))
        return runs.opening_reward(completions, columns["answer"])

    runs.train(tmp_path, dataset=dataset, reward=reward, **settings)
    args = runs.config(tmp_path, **settings)
    assert generation_rounds(args, len(dataset)) == len(calls) > 0
    assert set(calls) == {args.generation_batch_size}
    for mode in ("select", "redeal"):
        for advantages in ("posterior", "group"):
            allocator = allocator_for(args, dataset, mode=mode, advantages=advantages)
            assert allocator.horizon.total_budget == sum(calls)
            assert allocator.horizon.n_rounds == len(calls)
            assert allocator.min_rollouts == (args.num_generations if advantages == "group" else 1)


@pytest.mark.parametrize(
    "own", [{"mode": "select", "advantages": "posterior"}, {"mode": "redeal", "advantages": "group"}]
)
def test_the_trainer_builds_its_allocator_and_trains_by_epochs(tmp_path, own):
    settings = {"max_steps": -1, "num_train_epochs": 1, "num_iterations": 2, "dataset": runs.tiny_dataset(70)} | own
    trainer = runs.train(tmp_path, runs.built, **settings)
    assert trainer.state.global_step == 16
    assert trainer.allocator.balance == (256, 256, 0, 0)
    assert trainer.state.log_history[0]["alloc/mean_group"] == (1.0 if own["mode"] == "select" else 4.0)


def test_groups_have_the_trainers_size_at_least(tmp_path):
    trainer = runs.train(tmp_path, runs.built, mode="select", dataset=runs.tiny_dataset(64))
    assert {line["alloc/least_group"] for line in trainer.state.log_history if "loss" in line} == {4.0}
    assert {line["alloc/largest_group"] for line in trainer.state.log_history if "loss" in line} == {4.0}


def test_what_allocator_for_cannot_read(tmp_path):
    args, rows = runs.config(tmp_path), runs.tiny_dataset(32)
    with pytest.raises(
        ValueError, match=r"costs must be None, got costs = 2\.0\. Leave it out: a batch of a trainer has an exact"
    ):
        allocator_for(args, rows, costs=2.0)
    with pytest.raises(
        ValueError, match=r"must have rows by number, got a IterableDataset\. Build the allocator of a stream"
    ):
        allocator_for(args, rows.to_iterable_dataset())
    epochs = runs.config(tmp_path, max_steps=-1)
    with pytest.raises(
        ValueError, match=r"max_steps must be at least 1, got max_steps = -1\. Set it, or give n_prompts"
    ):
        generation_rounds(epochs)
    assert generation_rounds(args) == 6


# ---------------------------------------------------------------- data sets of newcomers


def renamed(rows):
    return rows.rename_column("prompt_id", "number")


def repeated(rows):
    return Dataset.from_dict(rows.to_dict() | {"prompt_id": [i % 31 for i in range(32)]})


def missing(rows):
    return Dataset.from_dict(rows.to_dict() | {"prompt_id": [*range(31), None]})


@pytest.mark.parametrize("mode", ["select", "redeal"])
@pytest.mark.parametrize("allocator", [runs.built, runs.resolving])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (renamed, r"must have a column 'prompt_id' of stable prompt ids, got .*'number'.*add_column\('prompt_id'"),
        (
            repeated,
            r"prompt_id must name one row each: rows 0 and 31 are the same prompt to the allocator, got prompt_id = 0",
        ),
        (missing, r"prompt_id\[31\] must hold a text or an integer in every row, got prompt_id\[31\] = None"),
        (
            lambda rows: rows.select(range(3)),
            r"len\(train_dataset\) must be at least the 8 prompts of a generation batch",
        ),
    ],
)
def test_data_sets_are_checked_at_construction(tmp_path, change, text, allocator, mode):
    rows = change(runs.tiny_dataset(32))
    with pytest.raises(ValueError, match=text):
        runs.build(tmp_path, allocator, mode=mode, dataset=rows).train()


@pytest.mark.parametrize("mode", ["select", "redeal"])
def test_prompts_that_the_bank_lacks_are_named_at_construction(tmp_path, mode):
    with pytest.raises(ValueError, match=r"prompt_id must name the bank's prompts, got 32, which the bank lacks"):
        runs.build(tmp_path, runs.resolving, mode=mode, dataset=runs.tiny_dataset(40))


def test_selection_needs_a_row_of_every_prompt_that_is_not_retired(tmp_path):
    rows = runs.tiny_dataset(16)
    with pytest.raises(ValueError, match=r"prompt_id must name the bank's prompts, got no row of \d+\."):
        runs.build(tmp_path, runs.resolving, mode="select", dataset=rows)

    def retired(args):
        allocator = runs.resolving(args)
        allocator.bank.retire(range(16, 32))
        return allocator

    trainer = runs.train(tmp_path, retired, mode="select", dataset=rows)
    assert trainer.allocator.exposure[16:].sum() == 0
    runs.build(tmp_path, runs.resolving, mode="redeal", dataset=rows)  # what the loader never brings is never dealt


def test_selection_needs_rows_by_number(tmp_path):
    with pytest.raises(
        (ValueError, NotImplementedError), match=r"got a stream|Iterable datasets are not yet supported"
    ):
        runs.build(tmp_path, runs.resolving, mode="select", dataset=runs.tiny_dataset(32).to_iterable_dataset())


def test_rewards_out_of_range_name_the_way(tmp_path):
    def twos(completions, **_):
        return [2.0] * len(completions)

    trainer = runs.build(tmp_path, runs.built, reward=twos)
    with pytest.raises(ValueError, match=r"rewards must lie in \[0, 1\], got rewards\[0\] = 2\.0\. Pass success="):
        trainer.train()
    trainer = runs.train(tmp_path, runs.built, reward=twos, success=lambda reward: reward / 2)
    assert trainer.allocator.bank.alpha.sum() > trainer.allocator.bank.beta.sum()


# ---------------------------------------------------------------- settings


def fenchel(**changes):
    def make(args):
        slots, rounds = args.generation_batch_size, generation_rounds(args)
        plan = {"total_budget": rounds * slots, "n_rounds": rounds, "unit_size": 2, "max_rollouts": 8} | changes
        bank = BetaPosteriorBank(32)
        bank.retire(range(plan.pop("retired", 0)))
        return FenchelDualAllocator(bank, **plan)

    return make


@pytest.mark.parametrize(
    ("settings", "make", "text"),
    [
        ({"mode": "pick"}, fenchel(), r"mode must be one of \['select', 'redeal'\], got mode = 'pick'"),
        (
            {"advantages": "grpo"},
            fenchel(),
            r"advantages must be one of \['group', 'posterior'\], got advantages = 'grpo'",
        ),
        ({"group_weighting": "token"}, fenchel(), r"group_weighting must be one of \['rollout', 'prompt'\], got"),
        (
            {"group_weighting": "prompt", "advantages": "posterior"},
            fenchel(),
            "'rollout' with advantages = 'posterior', got",
        ),
        (
            {"scale_rewards": "batch", "advantages": "posterior"},
            fenchel(),
            "'group' or 'none' with advantages='posterior'",
        ),
        (
            {"remove_unused_columns": True},
            fenchel(),
            "remove_unused_columns must be False, or the data loader drops 'prompt_id'",
        ),
        (
            {"mode": "select"},
            fenchel(max_rollouts=2, retired=20),
            "must be enough for the 32 rollouts of a batch",
        ),
        ({"multi_objective_aggregation": "normalize_then_sum"}, fenchel(), "needs equal groups"),
        ({}, fenchel(unit_size=1), "at least 2, got 1: a group of one rollout has no baseline"),
        ({}, fenchel(max_rollouts=2), "max_rollouts = 2 must be at least num_generations = 4"),
        ({"mode": "select"}, fenchel(round_capacity=32, total_budget=192, unit_size=3), "multiple"),
    ],
)
def test_unknown_modes_and_settings_are_refused(tmp_path, settings, make, text):
    with pytest.raises(ValueError, match=text):
        runs.build(tmp_path, make, **settings)


def test_unknown_versions_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cero_alloc.integrations._versions.version", lambda _: "9.0.0")
    with pytest.raises(RuntimeError, match=r"trl must be between .*, got 9\.0\.0\. Install 'trl>="):
        runs.build(tmp_path, runs.resolving)
    monkeypatch.setenv("CERO_ALLOC_UNTESTED", "1")
    assert isinstance(runs.build(tmp_path, runs.resolving), GRPOTrainer)


# ---------------------------------------------------------------- variants of users


@pytest.mark.parametrize("loss", ["bnpo", "dr_grpo", "dapo", "cispo"])
def test_single_rollouts_train_by_every_kind_of_loss(tmp_path, loss):
    settings = {
        "loss_type": loss,
        "max_steps": 2,
        "dataset": runs.tiny_dataset(64),
        "mode": "select",
        "advantages": "posterior",
    }
    trainer = runs.train(tmp_path, runs.built, **settings)
    assert trainer.allocator.balance == (64, 64, 0, 0)
    assert np.isfinite(runs.parameters(trainer)).all()


@pytest.mark.parametrize("own", [{"advantages": "posterior", "mode": "select"}, {"advantages": "group"}])
def test_rollouts_that_nothing_can_score_are_written_off(tmp_path, own):
    start = runs.parameters(runs.build(tmp_path, runs.built, **own, dataset=runs.tiny_dataset(64)))

    def none(completions, **_):
        return [None] * len(completions)

    trainer = runs.train(tmp_path, runs.built, reward=none, **own, dataset=runs.tiny_dataset(64))
    assert trainer.allocator.balance == (192, 192, 0, 0)
    assert trainer.allocator.bank.alpha.sum() == trainer.allocator.bank.beta.sum() == 64.0  # the prior
    np.testing.assert_array_equal(runs.parameters(trainer), start)


SIZE = 4


def by_constant(completions, answer, **_):
    marks = runs.opening_reward(completions, answer)
    return [
        m - 0.1 * (len(set(completions[i : i + 4])) == 1) for i in range(0, len(marks), 4) for m in marks[i : i + 4]
    ]


def by_global(completions, answer, **_):
    marks = np.array(runs.opening_reward(completions, answer)).reshape(-1, SIZE)
    return (marks >= marks.mean(axis=1, keepdims=True)).astype(float).ravel().tolist()


def by_name(completions, answer, trainer_state=None, num_generations=4, **_):
    return runs.opening_reward(completions, answer)


def by_closure(size=4):
    def reward(completions, answer, **_):
        return [float(i % size == 0) for i in range(len(completions))][: len(completions)]

    return reward


class Judge:
    __name__ = "judge"

    def __call__(self, completions, answer, **_):
        return [0.5 for start in range(0, len(completions), 4) for _ in completions[start : start + 4]]


@pytest.mark.parametrize(
    "reward",
    [by_constant, by_global, by_name, by_closure(), Judge(), update_wrapper(partial(by_constant), by_constant)],
)
def test_reward_functions_that_compare_neighbours_are_warned_of(tmp_path, reward):
    with pytest.warns(AllocationWarning, match=r"seems to compare num_generations = 4 consecutive completions"):
        runs.build(
            tmp_path, runs.built, reward=reward, dataset=runs.tiny_dataset(64), advantages="posterior", mode="select"
        )


def test_no_warning_where_groups_have_the_trainers_size_or_nothing_is_compared(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", AllocationWarning)
        runs.build(tmp_path, runs.built, reward=by_constant, dataset=runs.tiny_dataset(64), mode="select")
        runs.build(tmp_path, runs.uniform, reward=by_constant)
        runs.build(tmp_path, runs.built, dataset=runs.tiny_dataset(64), advantages="posterior", mode="select")
        runs.build(tmp_path, runs.resolving, reward=len)


def test_consecutive_groups_are_one_prompts_where_the_message_says(tmp_path):
    mixed = []

    def reward(completions, answer, prompt_id, **_):
        mixed.extend(len(set(prompt_id[i : i + 4])) for i in range(0, len(prompt_id), 4))
        return runs.opening_reward(completions, answer)

    runs.train(tmp_path, runs.built, reward=reward, dataset=runs.tiny_dataset(64), mode="select")
    assert set(mixed) == {1}
