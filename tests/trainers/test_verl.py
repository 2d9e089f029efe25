"""The verl adapter against the installed verl, of which the language model alone is replaced.

`pip install torch -e ".[verl]" pytest && pytest -W default tests/trainers/test_verl.py`.
"""

import json
import shlex
from types import SimpleNamespace

import numpy as np
import pytest

for _package in ("torch", "verl", "transfer_queue"):
    pytest.importorskip(_package, reason=f'{_package} is not installed: pip install -e ".[verl]"')

import ray  # noqa: E402
import torch  # noqa: E402
import transfer_queue as tq  # noqa: E402
from datasets import Dataset  # noqa: E402
from hydra import compose, initialize_config_module  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from verl.trainer.ppo.core_algos import get_adv_estimator_fn  # noqa: E402
from verl.trainer.ppo.v1 import PPOTrainerSync, get_trainer_cls  # noqa: E402
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY  # noqa: E402
from verl.utils.config import validate_config  # noqa: E402

import verl_grpo  # noqa: E402
from cero_alloc import BetaPosteriorBank, FenchelDualAllocator  # noqa: E402
from cero_alloc.integrations.verl import AllocatedPPOTrainer, activate, allocator_for  # noqa: E402
from cero_alloc.integrations.verl._build import prompt_ids  # noqa: E402
from cero_alloc.integrations.verl._modes import ESTIMATORS, refuse_several_outputs  # noqa: E402
from cero_alloc.integrations.verl._trainer import Allocated  # noqa: E402
from trainers import verl_runs as runs  # noqa: E402

pytestmark = pytest.mark.trainers
SLOTS = runs.BATCH * runs.PER_PROMPT


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    running = runs.Stage(tmp_path_factory.mktemp("verl"))
    yield running
    running.close()


def sizes(batch):
    return {prompt: len(group) for prompt, group in batch.items()}


def by_prompt(batch):
    """Return the groups, their rollouts in an order that does not depend on which was finished first."""
    return {prompt: sorted(group) for prompt, group in sorted(batch.items())}


@pytest.mark.parametrize("mode", ["redeal", "select"])
def test_prompts_get_exactly_their_counts_and_the_allocator_learns_exactly_their_rewards(stage, mode):
    # Fewer prompts than a batch has, as many, and in mode "select" more.
    rows = ([8, 0, 2, 6], [0, 0, 0, 16]) if mode == "redeal" else ([0, 0, 16], [2, 0] * 8)
    trainer = stage.train(runs.allocated(runs.scripted(*rows)), f"cero_alloc.mode={mode}")
    allocator = trainer.dealer.allocator
    assert [sorted(counts.values()) for counts in allocator.dealt] == [sorted(n for n in row if n) for row in rows]
    assert [sizes(batch) for batch in trainer.batches] == allocator.dealt
    assert all(sum(sizes(batch).values()) == SLOTS for batch in trainer.batches)
    for batch, told in zip(trainer.batches, allocator.told, strict=True):
        assert told == {key: (sum(reward for reward, *_ in group), len(group)) for key, group in batch.items()}
        assert all(reward == (answer == key % 10) for key, group in batch.items() for reward, _, answer, _ in group)
    assert {reward for batch in trainer.batches for group in batch.values() for reward, *_ in group} == {0.0, 1.0}
    log = trainer.logs[-1]
    assert (log["alloc/round"], log["alloc/remaining_budget"], log["alloc/outstanding_rollouts"]) == (2.0, 0.0, 0.0)
    told = allocator.told[-1].values()
    rates, dead = [s / n for s, n in told], [n for s, n in told if s in (0.0, n)]
    assert log["alloc/prompt_reward"] == pytest.approx(np.mean(rates))
    assert log["alloc/dead_share"] == pytest.approx(sum(dead) / SLOTS)
    assert log["alloc/largest_group"] == max(n for row in rows[-1:] for n in row)


def brute_force(batch, estimator, *, scaled=True):
    """Return the advantages of all rollouts, group by group, by the definition of the estimator."""
    advantages, lengths = {}, {}
    for prompt, group in batch.items():
        rewards, lengths[prompt] = np.array([g[0] for g in group]), np.array([g[3] for g in group])
        n = rewards.size
        if estimator.startswith("rloo"):
            advantages[prompt] = np.array([r - (rewards.sum() - r) / (n - 1) for r in rewards])
        elif estimator == "opo":
            advantages[prompt] = rewards - (rewards * lengths[prompt]).sum() / lengths[prompt].sum()
        else:
            deviation = rewards.std(ddof=1) + 1e-6 if scaled and estimator.startswith("grpo") else 1.0
            advantages[prompt] = (rewards - rewards.mean()) / deviation
    if estimator == "reinforce_plus_plus_baseline":  # whitened over the batch, every token of it
        tokens = np.concatenate([np.repeat(advantages[prompt], lengths[prompt]) for prompt in batch])
        scale = np.sqrt(tokens.var(ddof=1) + 1e-8)
        advantages = {prompt: (values - tokens.mean()) / scale for prompt, values in advantages.items()}
    return advantages


def test_ragged_advantages_equal_brute_force(stage):
    got = {}

    class Every(runs.allocated(runs.scripted([8, 0, 2, 6]))):
        def _compute_advantage(self, batch, metrics):
            rows = dict(self._rows)
            for name in (*ESTIMATORS, "unscaled"):
                self._rows = dict(rows)
                self.config.algorithm.adv_estimator = "grpo" if name == "unscaled" else name
                self.config.algorithm.norm_adv_by_std_in_grpo = name != "unscaled"
                batch = super()._compute_advantage(batch, metrics)
                got[name] = runs.contents(batch)
            return batch

    stage.train(Every, "trainer.total_training_steps=1")
    assert set(got) == {*ESTIMATORS, "unscaled"}
    for name, batch in got.items():
        assert sorted(sizes(batch).values()) == [2, 6, 8]
        assert {tokens for group in batch.values() for *_, tokens in group} == {1, 2}
        assert any(advantage for group in batch.values() for _, advantage, *_ in group)
        expected = brute_force(batch, "grpo" if name == "unscaled" else name, scaled=name != "unscaled")
        for prompt, group in batch.items():
            np.testing.assert_allclose(
                [advantage for _, advantage, *_ in group], expected[prompt], rtol=1e-4, atol=1e-5
            )


def test_uniform_counts_give_the_stock_trainers_advantages(stage):
    pairs = []

    class Both(runs.allocated(runs.uniform)):
        def _compute_advantage(self, batch, metrics):
            stock = runs.contents(PPOTrainerSync._compute_advantage(self, batch, {}))
            ours = super()._compute_advantage(batch, metrics)
            pairs.append((stock, runs.contents(ours)))
            return ours

    ours = stage.train(Both)
    skill = dict(stage.policy.skill.learnt)
    for stock, same_batch in pairs:
        assert stock == same_batch  # bit for bit
    stock = stage.train(PPOTrainerSync)
    assert len(pairs) == len(stock.batches) == 2
    for mine, theirs in zip(ours.batches, stock.batches, strict=True):
        assert sizes(mine) == sizes(theirs) == dict.fromkeys(sizes(mine), runs.PER_PROMPT)
        for prompt, group in by_prompt(mine).items():  # verl sums in the order in which rollouts are finished
            np.testing.assert_allclose(group, by_prompt(theirs)[prompt], rtol=0, atol=1e-6)
    assert any(value for value in skill.values())
    assert dict(stage.policy.skill.learnt) == pytest.approx(skill, abs=1e-6)


def test_prompts_weigh_alike_under_ids_and_success_of_ones_own(stage, tmp_path):
    names = [f"number {number}" for number in range(runs.PROMPTS)]
    path = runs.write_rows(tmp_path / "named.parquet", name=names, extra_info=None)  # verl's index is 0 for all of them

    inverted = staticmethod(lambda reward: 1.0 - reward)

    class Inverted(runs.allocated(runs.scripted([8, 0, 2, 6]), success=inverted)):
        def _compute_advantage(self, batch, metrics):
            self.plain = named_rows(PPOTrainerSync._compute_advantage(self, batch, {}))
            batch = super()._compute_advantage(batch, metrics)
            self.weighed = named_rows(batch)
            return batch

    def named_rows(batch):
        data = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["advantages", "name", "rm_scores"])
        first = [row[0].item() for row in data["advantages"]]
        return list(zip(data["name"], first, data["rm_scores"].sum(dim=1).tolist(), strict=True))

    trainer = stage.train(
        Inverted, f"data.train_files={path}", "cero_alloc.id_column=name", "cero_alloc.group_weighting=prompt",
        "trainer.total_training_steps=1",
    )  # fmt: skip
    (dealt,), (told,) = trainer.dealer.allocator.dealt, trainer.dealer.allocator.told
    assert set(dealt) < set(names)
    assert sorted(dealt.values()) == [2, 6, 8]
    scale = SLOTS / (2 / 1 + 6 / 5 + 8 / 7)  # a group's own mean leaves n - 1 of n rewards
    for (name, plain, _), (same, weighed, _) in zip(trainer.plain, trainer.weighed, strict=True):
        assert same == name
        assert weighed == pytest.approx(plain * scale / (dealt[name] - 1), rel=1e-6)
    assert any(plain for _, plain, _ in trainer.plain)
    for name, n in dealt.items():
        assert told[name] == (n - sum(reward for same, _, reward in trainer.plain if same == name), n)


class Killed(Exception):
    """Ends a run in the middle of a step."""


@pytest.mark.parametrize("mode", ["redeal", "select"])
def test_a_killed_run_goes_on_as_if_it_had_not_been(stage, tmp_path, mode):
    settings = (
        f"cero_alloc.mode={mode}", "data.train_max_samples=8", "trainer.total_training_steps=4", "trainer.save_freq=2"
    )  # fmt: skip
    base = runs.allocated(runs.resolving)
    whole = stage.train(base, *settings, f"trainer.default_local_dir={tmp_path}/whole")
    learnt = dict(stage.policy.skill.learnt)

    class Dying(base):
        def _update_actor(self, batch, metrics):
            if self.global_steps == 3:
                tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)  # TransferQueue ends with a killed run
                raise Killed
            return super()._update_actor(batch, metrics)

    with pytest.raises(Killed):
        stage.train(Dying, *settings, f"trainer.default_local_dir={tmp_path}/killed")
    resumed = stage.train(base, *settings, f"trainer.default_local_dir={tmp_path}/killed")
    counts = whole.dealer.allocator.dealt
    assert resumed.dealer.allocator.dealt == counts[2:]
    assert all(set(step.values()) != {runs.PER_PROMPT} for step in counts[2:])  # they do depend on what was learnt
    assert [by_prompt(batch).keys() for batch in resumed.batches] == [by_prompt(b).keys() for b in whole.batches[2:]]
    assert dict(stage.policy.skill.learnt) == pytest.approx(learnt, abs=1e-6)
    for name in ("exposure", "remaining_budget"):
        np.testing.assert_array_equal(getattr(resumed.dealer.allocator, name), getattr(whole.dealer.allocator, name))


def test_a_checkpoint_is_named_or_found_and_refused_without_the_allocators_state(stage, tmp_path):
    base, folder = runs.allocated(runs.resolving), tmp_path / "global_step_1"
    here = (f"trainer.default_local_dir={tmp_path}", "trainer.total_training_steps=1", "trainer.save_freq=1")
    state = stage.train(base, *here).dealer.allocator.exposure
    named = stage.trainer(base, *here, "trainer.resume_mode=resume_path", f"trainer.resume_from_path={folder}")
    named.init()
    assert named.dealer.allocator.round == 1
    np.testing.assert_array_equal(named.dealer.allocator.exposure, state)
    (folder / "allocator.npz").unlink()
    with pytest.raises(
        ValueError, match=r"global_step_1 must hold a run of this adapter.*start a new run with trainer\.resume"
    ):
        stage.trainer(base, *here).init()


@pytest.mark.parametrize("mode", ["redeal", "select"])
def test_a_longer_run_with_more_prompts_goes_on_and_a_shorter_one_is_refused(stage, tmp_path, mode):
    base = runs.recommended()
    here = f"cero_alloc.mode={mode}", runs.POSTERIOR, f"trainer.default_local_dir={tmp_path}", "trainer.save_freq=2"
    stage.train(base, *here, "data.train_max_samples=12")
    less = (*here, "data.train_max_samples=12")
    with pytest.raises(ValueError, match=r"total_training_steps must give at least the 2 batches and 32 rollouts"):
        stage.trainer(base, *less, "trainer.total_training_steps=1").init()
    longer = stage.train(base, *here, "trainer.total_training_steps=6")  # verl's loader begins where it stopped
    allocator = longer.dealer.allocator
    assert (allocator.round, len(longer.batches), len(allocator.bank)) == (6, 4, runs.PROMPTS)
    assert allocator.balance == (6 * SLOTS, 6 * SLOTS, 0, 0)
    assert allocator.exposure[12:].sum() > 0  # the new prompts take part
    again = stage.train(base, *here, "trainer.total_training_steps=7")
    assert again.dealer.allocator.balance == (7 * SLOTS, 7 * SLOTS, 0, 0)
    fewer = stage.trainer(base, *here, "data.train_max_samples=14", "trainer.total_training_steps=9")
    fewer.init()
    assert fewer.dealer.allocator.bank.retired.sum() == 2  # those that are gone from the data set


def test_validation_is_untouched(stage):
    ours, stock = stage.trainer(runs.allocated(runs.resolving)), stage.trainer(PPOTrainerSync)
    found = []
    for trainer in (ours, stock):
        trainer.init()
        trainer.agent_loop_manager = stage.loops
        found.append(trainer._validate())
    assert found[0] == found[1]
    assert 0.0 < found[0]["val-core/last digit/acc/mean@1"] < 1.0
    assert ours.dealer.allocator.round == 0


def test_importance_weights_may_be_had_though_not_rejection(stage):
    words = "algorithm.rollout_correction.rollout_is=token", "actor_rollout_ref.rollout.calculate_log_probs=True"
    trainer = stage.train(runs.recommended(), "cero_alloc.mode=select", runs.POSTERIOR, *words)
    assert [sum(map(len, batch.values())) for batch in trainer.batches] == [SLOTS] * 2
    assert trainer.logs[-1]["rollout_corr/rollout_is_mean"] == pytest.approx(1.0)


def test_failed_rollouts_are_no_evidence_and_leave_no_single_raw_reward(stage, tmp_path):
    path = runs.write_rows(tmp_path / "shaky.parquet", source=runs.SHAKY)
    base = runs.allocated(runs.scripted([6, 2, 2, 6], [2, 2, 2, 2, 2, 2, 2, 2]))
    trainer = stage.train(base, f"data.train_files={path}", "cero_alloc.mode=select", "data.shuffle=False")
    allocator = trainer.dealer.allocator
    lost = alone = 0
    for batch, dealt, told in zip(trainer.batches, allocator.dealt, allocator.told, strict=True):
        assert told == {key: (float(len(group)), len(group)) for key, group in batch.items()}  # the right ones are left
        for group in batch.values():
            assert all(advantage == 0.0 for _, advantage, *_ in group)  # a lone right answer would have 1
            alone += len(group) == 1
        lost += sum(dealt.values()) - sum(n for _, n in told.values())
    assert alone > 0
    assert lost > 0
    assert trainer.logs[-1]["alloc/outstanding_rollouts"] == 0.0  # written off
    assert trainer.logs[-1]["alloc/spent_budget"] == 2 * SLOTS


def test_verl_takes_the_raw_reward_of_a_lone_rollout_for_its_advantage():
    rewards, mask = torch.tensor([[0.0, 0.7], [0.0, 1.0], [0.0, 0.0]]), torch.ones(3, 2)
    advantages, _ = get_adv_estimator_fn("grpo")(rewards.clone(), mask, np.array(["a", "b", "b"], dtype=object))
    assert advantages[0].tolist() == pytest.approx([0.7, 0.7], abs=1e-5)
    assert advantages[1:, 0].tolist() == pytest.approx([0.7071, -0.7071], abs=1e-4)


def test_verl_finds_the_trainer_by_the_name_of_its_module(stage):
    # Evaluated there: a function of this module would bring its imports along, and they register the trainer too.
    look = eval(
        "lambda _: [{base.__module__ for base in trainer.__mro__}"
        " for trainer in __import__('verl').trainer.ppo.v1.trainer_base.TRAINER_REGISTRY.values()]"
    )
    modules = ray.get(stage.loops.agent_loop_workers[0].__ray_call__.remote(look))
    assert len(modules) == 3
    assert all("cero_alloc.integrations.verl._trainer" in bases for bases in modules)


@pytest.fixture(scope="module")
def plain(stage):
    return stage.config()


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("cero_alloc.mode", "pick", r"cero_alloc\.mode must be 'select' or 'redeal', got .*'pick'"),
        ("cero_alloc.mod", "select", r"cero_alloc must have keys of mode, advantages, .*, got cero_alloc = 'mod'"),
        ("cero_alloc.advantages", "gae", r"cero_alloc\.advantages must be 'group' or 'posterior', got .*'gae'"),
        ("cero_alloc.group_weighting", "token", r"group_weighting must be 'rollout' or 'prompt', got .*'token'"),
        (
            "algorithm.rollout_correction.rollout_rs",
            "token_k1",
            r"rollout_correction\.rollout_rs must be null: .* rollout_is may stay",
        ),
        ("trainer.v1.sync.parameter_sync_step", 2, r"parameter_sync_step must be 1.*Leave it out"),
        ("algorithm.filter_groups.enable", True, r"algorithm\.filter_groups\.enable must be False.*Set it so"),
        ("trainer.v1.sampler.sync_refill_failed_groups", True, r"sync_refill_failed_groups must be False.*Set it so"),
        ("trainer.v1.sampler.custom_sampler.path", "mine.py", r"custom_sampler\.path must be null.*Leave it out"),
        ("skip.rollout_tq.enable", True, r"skip\.rollout_tq\.enable must be False.*Set it so"),
        ("actor_rollout_ref.rollout.n", 1, r"rollout\.n must be at least 2, got 1: a group of one.*Raise it"),
        ("algorithm.adv_estimator", "gae", r"adv_estimator must be one of grpo, .*, got 'gae'.*Choose another"),
        ("algorithm.adv_estimator", "grpo_passk", r"adv_estimator must be one of .*, got 'grpo_passk'"),
        (
            "algorithm.adv_estimator",
            "reinforce_plus_plus",
            r"adv_estimator must be one of .*, got 'reinforce_plus_plus'",
        ),
        ("data.gen_batch_size", 2, r"data\.gen_batch_size must be data\.train_batch_size = 4, got 2.*Leave it out"),
    ],
)
def test_unknown_modes_and_settings_are_refused(plain, key, value, text):
    config = plain.copy()
    OmegaConf.update(config, key, value, force_add=True)
    with pytest.raises(ValueError, match=text):
        runs.allocated(runs.resolving)(config)


def test_activation_puts_an_allocated_trainer_in_every_mode_and_may_be_repeated(monkeypatch):
    for mode, stock in list(TRAINER_REGISTRY.items()):
        monkeypatch.setitem(TRAINER_REGISTRY, mode, stock)  # puts them back
    stock = dict(TRAINER_REGISTRY)
    activate(build=runs.resolving)
    activate(success=float)  # the later call adds to the earlier one
    assert set(stock) == {"sync", "colocate_async", "separate_async"}
    for mode, own in stock.items():
        trainer = get_trainer_cls(mode)
        assert issubclass(trainer, (Allocated, own))
        assert issubclass(trainer, own)
        assert (trainer.build, trainer.success) == (runs.resolving, float)


def launches():
    """Return the settings of the launch commands that the example writes out."""
    text = verl_grpo.__doc__
    common = text[text.index("common=(") + len("common=(") : text.index("\n    )\n")]
    commands = [part.split("\n\n")[0].split("python -m")[0] for part in text.split('"${common[@]}"')[1:]]
    return [shlex.split(common) + command.replace("\\", " ").split() for command in commands]


def test_a_data_set_is_written_with_numbered_rows(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for part in ("train", "test"):
        lines = [json.dumps({"question": f"{part} {n}", "answer": f"so #### {n}"}) for n in range(3)]
        (source / f"{part}.jsonl").write_text("\n".join(lines))
    verl_grpo.main(["--prepare", str(source), "--output", str(tmp_path / "data")])
    for part in ("train", "test"):
        data = Dataset.from_parquet(str(tmp_path / "data" / f"{part}.parquet"), cache_dir=tmp_path / "cache")
        assert prompt_ids(SimpleNamespace(dataframe=data), "index") == [0, 1, 2]
        assert data[2]["prompt"] == [{"role": "user", "content": f"{part} 2"}]
        right = data[2]["reward_model"]["ground_truth"]
        assert [verl_grpo.number_reward(part, text, right) for text in ("it is 2.", "2 or 3", "two")] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("gpus", [1, 8])
def test_the_launch_commands_are_settings_that_verl_and_the_adapter_accept(gpus):
    (words,) = [words for words in launches() if f"trainer.n_gpus_per_node={gpus}" in words]
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", words)
    validate_config(config, use_reference_policy=False, use_critic=False)
    trainer = runs.allocated(runs.resolving)(config)
    assert trainer.trainer_mode == "sync"
    assert config.actor_rollout_ref.rollout.n == 8


@pytest.mark.parametrize(
    ("columns", "column", "text"),
    [
        ({"extra_info": [{"index": 0}] * 3}, "index", r"extra_info\.index must differ .*, got 3 times 0\. Number the rows"),
        ({"extra_info": [{"index": 0}, None, {"index": 2}]}, "index",
         r"extra_info\.index must be given in every row of data\.train_files, got none in row 1\. Number the rows"),
        ({"extra_info": [{"split": "train"}] * 3}, "index", r"extra_info\.index must be given .* got none in row 0"),
        ({"prompt": ["a", "b", "c"]}, "index", r"extra_info\.index must be given .* got none in row 0"),
        ({"prompt": ["a", "b", "c"]}, "name", r"name must be given .* or name a column of ids with \+cero_alloc"),
        ({"name": ["a", "b", "a"]}, "name", r"name must differ from row to row .*, got 2 times 'a'"),
    ],
)  # fmt: skip
def test_ids_that_are_missing_or_repeated_are_refused(columns, column, text):
    with pytest.raises(ValueError, match=text):
        prompt_ids(SimpleNamespace(dataframe=Dataset.from_dict(columns)), column)


def test_several_outputs_of_a_rollout_are_refused():
    refuse_several_outputs(["a_0_0", "a_1_0", "b_0_0"])
    with pytest.raises(ValueError, match=r"must give one output per rollout, got 3 of 2: .* Use an agent loop"):
        refuse_several_outputs(["a_0_0", "a_0_1", "b_0_0"])


def test_ids_come_from_extra_info_or_a_column():
    rows = Dataset.from_dict({"extra_info": [{"index": 7}, {"index": 5}], "name": ["a", "b"]})
    assert prompt_ids(SimpleNamespace(dataframe=rows), "index") == [7, 5]
    assert prompt_ids(SimpleNamespace(dataframe=rows), "name") == ["a", "b"]
    assert prompt_ids(range(3), "index") == [0, 1, 2]
    with pytest.raises(ValueError, match=r"custom_cls must keep its rows in dataframe.*Derive it from RLHFDataset"):
        prompt_ids(object(), "index")
    with pytest.raises(ValueError, match=r"dataset must name one row each: rows 0 and 2 are the same prompt"):
        prompt_ids(["a", "b", "a"], "index")


def test_a_data_set_without_numbers_is_refused_before_anything_is_dealt(stage, tmp_path):
    path = runs.write_rows(tmp_path / "plain.parquet", extra_info=None)
    trainer = stage.trainer(runs.allocated(runs.resolving), f"data.train_files={path}")
    trainer._init_tokenizer()
    with pytest.raises(ValueError, match=r"extra_info\.index must be given"):
        trainer._init_dataloader()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"unit_size": 1}, r"must be at least 2, got 1: a group of one rollout has no baseline"),
        ({"max_rollouts": 2}, r"actor_rollout_ref\.rollout\.n = 4 must be a multiple of unit_size = 2, at most"),
        ({"round_capacity": 8, "total_budget": 16}, r"round_capacity = 8 must be at least the 16 rollouts of a batch"),
    ],
)
def test_an_allocator_that_does_not_fit_is_refused(stage, changes, text):
    def make(prompts, n_rounds, total_budget):
        plan = {"total_budget": total_budget, "n_rounds": n_rounds, "unit_size": 2, "max_rollouts": 8} | changes
        return FenchelDualAllocator(BetaPosteriorBank(prompts), **plan)

    trainer = stage.trainer(runs.allocated(make))
    trainer._init_tokenizer()
    with pytest.raises(ValueError, match=text):
        trainer._init_dataloader()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("algorithm.use_kl_in_reward=True", r"use_kl_in_reward must be False with .*'posterior', .*use_kl_loss"),
        ("algorithm.adv_estimator=gae", r"adv_estimator must be one of grpo, .*, got 'gae', .* has a critic"),
        (
            "cero_alloc.group_weighting=prompt",
            r"group_weighting must be 'rollout' with cero_alloc\.advantages = 'posterior'",
        ),
    ],
)
def test_settings_that_do_not_go_with_posterior_advantages_are_refused(stage, words, text):
    with pytest.raises(ValueError, match=text):
        AllocatedPPOTrainer(stage.config(runs.POSTERIOR, words))


def test_the_trainer_builds_the_recommended_allocator_itself(stage, plain):
    trainer = stage.trainer(AllocatedPPOTrainer, "cero_alloc.mode=select", runs.POSTERIOR, "cero_alloc.settings.seed=7")
    trainer._init_tokenizer()
    trainer._init_dataloader()
    allocator = trainer.dealer.allocator
    twin = allocator_for(trainer.config, trainer.train_dataset, seed=7)
    assert allocator.state_dict()["arguments"] == twin.state_dict()["arguments"]
    assert trainer.dealer.deal(None, SLOTS).tolist() == twin.allocate(budget=SLOTS, exact=True).tolist()
    assert (allocator.ledger.n_rounds, allocator.balance.total) == (2, 2 * SLOTS)


@pytest.mark.parametrize(
    ("words", "n_rounds", "total", "visits"),
    [
        ((), 2, 32, 1),
        (("trainer.total_training_steps=null",), 16, 256, 4),  # four epochs of four steps
        (("trainer.total_training_steps=99",), 16, 256, 4),
        ((runs.COLOCATE,), 3, 48, 1),
        ((runs.COLOCATE, "trainer.v1.colocate_async.num_warmup_batches=1.6"), 4, 32 + 24, 1),
        ((runs.COLOCATE, "trainer.v1.colocate_async.num_warmup_batches=0"), 2, 32, 1),
    ],
)
def test_the_plan_is_that_of_verls_configuration(stage, words, n_rounds, total, visits):
    for mode, expected in (("select", None), ("redeal", visits)):
        allocator = allocator_for(stage.config(*words), range(runs.PROMPTS), mode=mode)
        assert (allocator.ledger.n_rounds, allocator.balance.total) == (n_rounds, total)
        assert allocator.state_dict()["arguments"]["visits"] == expected


def test_what_the_builder_cannot_do_is_refused(plain):
    with pytest.raises(
        ValueError, match=r"train_batch_size must be at most the 3 prompts of the training set, got .* 4"
    ):
        allocator_for(plain, range(3))
    with pytest.raises(ValueError, match=r"costs must be None, got .* an exact number of rollouts"):
        allocator_for(plain, range(16), costs=[1.0] * 16)
    with pytest.raises(ValueError, match=r"mode must be one of \['select', 'redeal'\], got mode = 'pick'"):
        allocator_for(plain, range(16), mode="pick")


def test_an_allocator_of_other_prompts_is_refused(stage):
    trainer = stage.trainer(runs.allocated(lambda prompts, *run: runs.uniform(prompts[1:], *run)))
    trainer._init_tokenizer()
    with pytest.raises(
        ValueError, match=r"the allocator's bank must hold every prompt of the training set, got none of 0"
    ):
        trainer._init_dataloader()


def test_unknown_versions_are_refused(plain, monkeypatch):
    monkeypatch.setattr("cero_alloc.integrations._versions.version", lambda _: "0.10.0")
    with pytest.raises(RuntimeError, match=r"verl must be between 0\.9\.1 and .*, got 0\.10\.0\. Install 'verl>="):
        runs.allocated(runs.resolving)(plain)
    monkeypatch.setenv("CERO_ALLOC_UNTESTED", "1")
    assert isinstance(runs.allocated(runs.resolving)(plain), PPOTrainerSync)
