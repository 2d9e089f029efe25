"""The OpenRLHF adapter against the installed OpenRLHF; `examples/openrlhf_grpo.py` lists what to install on a CPU."""

import copy
import itertools
import json
import runpy
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

NEEDED = "torch", "transformers", "ray", "datasets", "peft", "torchdata", "aiohttp", "pylatexenc", "PIL", "openrlhf"
for _package in NEEDED:
    pytest.importorskip(_package, reason=f"{_package} is not installed: examples/openrlhf_grpo.py says how to")

from trainers import openrlhf_runs as runs  # isort: skip  # noqa: E402  before OpenRLHF: it puts the stand-ins in place

import openrlhf.trainer.ppo_trainer as synchronous  # noqa: E402
import openrlhf.trainer.ppo_trainer_async as asynchronous  # noqa: E402
import ray  # noqa: E402
import torch  # noqa: E402
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker  # noqa: E402
from openrlhf.trainer.ppo_utils.kl_controller import FixedKLController  # noqa: E402
from openrlhf.utils import get_strategy  # noqa: E402

import openrlhf_grpo  # noqa: E402
import openrlhf_standin  # noqa: E402
from cero_alloc import checkpoint  # noqa: E402
from cero_alloc.integrations._dealer import Dealer  # noqa: E402
from cero_alloc.integrations.openrlhf import allocator_for  # noqa: E402
from cero_alloc.integrations.openrlhf._advantages import AllocatedExperienceMaker  # noqa: E402
from cero_alloc.integrations.openrlhf._modes import ESTIMATORS  # noqa: E402
from cero_alloc.integrations.openrlhf._trainer import AllocatedSamplesGenerator, allocated_training  # noqa: E402

pytestmark = pytest.mark.trainers
LABELS = ["0", "1", "0.5", "abcdefghij", "0.25", "klmnopqrstuvwxyz", "1", "abcdefghijklmnopqrstuvwxyz!"] * 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openrlhf")
    openrlhf_standin.prepare(folder)
    return folder / "model"


@pytest.fixture(scope="module")
def machine():
    runs.environment()
    openrlhf_standin.start()
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def args_of(model):
    """Return OpenRLHF's arguments for prompts with these labels; parsing takes a while, so it is done once."""
    prompts = runs.write(model.parent, LABELS)
    parsed = runs.settings(model, prompts, model.parent)

    def make(labels=None, **changes):
        args = copy.deepcopy(parsed)
        if labels is not None:
            folder = model.parent / f"{abs(hash(tuple(labels)))}"
            folder.mkdir(exist_ok=True)
            args.data.prompt_dataset = str(runs.write(folder, labels))
        for name, value in changes.items():
            place = args
            *path, last = name.split("__")
            for part in path:
                place = getattr(place, part)
            assert hasattr(place, last), f"OpenRLHF has no argument {name}"
            setattr(place, last, value)
        return args

    return make


@pytest.fixture(scope="module")
def launched(machine, tmp_path_factory):
    """Run the example, hence OpenRLHF's own program, and return its folder, and the actors that the program started."""
    folder, groups = tmp_path_factory.mktemp("example"), []
    stock = synchronous.PPOTrainer, asynchronous.PPOTrainerAsync

    def run_module(*args, **more):
        remote = synchronous.PPOTrainer.remote  # the adapter's
        synchronous.PPOTrainer.remote = lambda *given, **kept: (groups.extend(given), remote(*given, **kept))[1]
        return runpy.run_module(*args, **more)

    less = {
        "data.max_samples": 64, "train.num_episodes": 1, "ckpt.save_steps": 8, "eval.steps": 8, "reward.remote_url": runs.REWARD,
        "rollout.batch_size": 8, "rollout.micro_batch_size": 8, "train.batch_size": 32, "train.micro_batch_size": 8,
    }  # fmt: skip
    words = [str(word) for name, value in less.items() for word in (f"--{name}", value)]
    with (
        mock.patch.object(openrlhf_grpo, "runpy", SimpleNamespace(run_module=run_module)),
        mock.patch.object(sys, "argv", ["openrlhf_grpo.py"]),
    ):
        openrlhf_grpo.main(["--output", str(folder), *words])
    assert (synchronous.PPOTrainer, asynchronous.PPOTrainerAsync) == stock  # the names are put back
    return folder, {"group": groups[2], "rollout_engines": groups[6]}


@pytest.fixture
def running(launched):
    """Return OpenRLHF's policy and rollout actors."""
    return launched[1]


def dealt(args, counts):
    """Return a dealer that dealt these counts."""
    prompts = [f"{place} " for place in range(len(counts))]
    total = sum(counts)
    allocator = runs.scripted(counts)(prompts, n_rounds=4, total_budget=4 * total, args=args)
    dealer = Dealer(allocator)
    assert dealer.deal(prompts, total).tolist() == list(counts)
    return dealer


def generator(args, dealer, engines):
    return AllocatedSamplesGenerator(dealer, get_strategy(args), None, None, None, engines.handles())


def maker(args, dealer=None, kl=0.1, **kind):
    rest = (None, None, None, None, FixedKLController(kl), get_strategy(args), None)
    return RemoteExperienceMaker(*rest) if dealer is None else AllocatedExperienceMaker(dealer, *rest, **kind)


def test_the_example_trains_in_openrlhfs_own_program(launched):
    folder, _ = launched
    assert (folder / "trained" / "model.safetensors").stat().st_size > 0
    # What the trainer's actor wrote; there the adapter's generator and experience maker dealt and learnt.
    args = runs.parse(
        "--rollout.batch_size", 8, "--rollout.n_samples_per_prompt", 4, "--algo.advantage.estimator", "group_norm",
        "--train.num_episodes", 1,
    )  # fmt: skip
    for name in ("global_step8", "best_global_step8"):
        saved = torch.load(folder / "checkpoints" / "_actor" / name / "states.pt", weights_only=False)
        state = saved["client_state"]
        prompts = [f"{place} " for place in range(64)]
        allocator = allocator_for(args, prompts)
        allocator.load_state_dict(checkpoint.unpack(state["cero_alloc"].numpy().tobytes()))
        figures = allocator.metrics(certificate=False)
        assert state["global_step"] == figures["round"] == 8
        assert (figures["spent_budget"], figures["remaining_budget"]) == (256, 0)
        assert allocator.exposure.sum() == 256
        assert len(set(allocator.exposure.tolist())) > 1  # drawn from the whole data set, not epoch by epoch
    assert 0.0 < state["best_eval_metric_value"] < 1.0  # it evaluated


COUNTS = [8, 0, 2, 6, 16, 0, 0, 0]


def test_engines_are_asked_for_exactly_the_counts(machine, args_of):
    args, engines, prompts = args_of(), runs.Engines(3), [f"{place} " for place in range(8)]
    allocator = runs.scripted(COUNTS)(prompts, n_rounds=4, total_budget=128, args=args)
    labels, images = [f"label {place}" for place in range(8)], [f"image {place}" for place in range(8)]
    sizes = {"max_new_tokens": 3, "max_len": 16}
    generator(args, Dealer(allocator), engines)._dispatch_prompts_to_vllm(prompts, labels, images=images, **sizes)
    asked = Counter()
    for request in itertools.chain(*engines.requests):
        place = prompts.index(request["prompt"])
        assert request["label"] == labels[place]
        assert request["images"] == images[place]
        asked[place] += request["num_samples"]
    assert [asked[place] for place in range(8)] == COUNTS
    loads = [sum(request["num_samples"] for request in own) for own in engines.requests]
    assert max(loads) - min(loads) <= 2  # 16 rollouts of one prompt do not queue behind each other


def test_uniform_counts_ask_for_what_the_stock_generator_does(machine, args_of):
    args, prompts = args_of(), [f"{place} " for place in range(8)]
    ours, stock = runs.Engines(3), runs.Engines(3)
    allocator = runs.uniform(prompts, n_rounds=4, total_budget=128, args=args)
    plain = synchronous.SamplesGenerator(get_strategy(args), None, None, None, stock.handles())
    for one in (generator(args, Dealer(allocator), ours), plain):
        one._dispatch_prompts_to_vllm(prompts, prompts, max_new_tokens=3, max_len=16, temperature=0.7)
    assert ours.requests == stock.requests
    assert sum(len(own) for own in stock.requests) == 8


def test_evaluation_is_asked_for_as_the_stock_generator_does(machine, args_of):
    args, prompts = args_of(), [f"{place} " for place in range(8)]
    ours, stock = runs.Engines(2), runs.Engines(2)
    allocator = runs.resolving(prompts, n_rounds=4, total_budget=128, args=args)
    plain = synchronous.SamplesGenerator(get_strategy(args), None, None, None, stock.handles())
    for one in (generator(args, Dealer(allocator), ours), plain):
        one._dispatch_prompts_to_vllm(["not in the bank"], ["x"], n_samples_per_prompt=3, max_len=16)
    assert ours.requests == stock.requests
    assert allocator.round == 0


PENALTIES = {"reward__overlong_buffer_len": 12.0, "reward__stop_properly_penalty_coef": 0.5}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    "changes", [{}, PENALTIES, {"algo__advantage__no_std_norm": True}], ids=["", "penalties", "no std"]
)
def test_uniform_counts_give_the_stock_advantages_bit_for_bit(args_of, estimator, changes):
    args = args_of(algo__advantage__estimator=estimator, rollout__max_new_tokens=16, **changes)
    prompts = [f"{place} " for place in range(8) for _ in range(4)]
    rewards = torch.rand(32, generator=torch.Generator().manual_seed(1)).tolist()
    ours = runs.experiences(prompts, rewards, shuffle=True)
    stock = runs.experiences(prompts, rewards, shuffle=True)
    maker(args, dealt(args, [4] * 8)).compute_advantages_and_returns(ours)
    maker(copy.deepcopy(args)).compute_advantages_and_returns(stock)
    assert any(e.advantages.abs().max() > 0.1 for e in stock)
    for mine, other in zip(ours, stock, strict=True):
        for name in ("advantages", "returns", "rewards"):
            assert torch.equal(getattr(mine, name), getattr(other, name)), name
        assert mine.info.keys() == other.info.keys()
        for name in other.info:
            assert torch.equal(mine.info[name], other.info[name]), name
        assert mine.kl is None


def brute_force(args, made, kl):
    """Return each rollout's advantages by the definitions, one rollout after another, by index."""
    rollouts = {}
    for e in made:
        for row, place in enumerate(e.index):
            rollouts[place] = {
                "prompt": e.prompts[row], "reward": e.rewards[row].item(), "mask": e.action_mask[row].numpy(),
                "kl": e.kl[row].double().numpy(), "length": e.response_length[row].item(), "cut": bool(e.truncated[row]),
            }  # fmt: skip
    buffer, coefficient = args.reward.overlong_buffer_len, args.reward.stop_properly_penalty_coef
    for own in rollouts.values():
        if buffer is not None:
            own["reward"] -= max(0.0, min(own["length"] - args.rollout.max_new_tokens + buffer, buffer)) / buffer
        if coefficient is not None and own["cut"]:
            own["reward"] *= coefficient
    for own in rollouts.values():
        group = [r["reward"] for r in rollouts.values() if r["prompt"] == own["prompt"] and not np.isnan(r["reward"])]
        compared = 0.0
        if not np.isnan(own["reward"]) and len(group) > 1:
            compared = own["reward"] - np.mean(group)
            if args.algo.advantage.estimator == "rloo":
                compared *= len(group) / (len(group) - 1)
            if args.algo.advantage.estimator == "group_norm":
                compared /= np.std(group, ddof=1) + 1e-9
        tokens = -kl * own["kl"]
        tokens[np.flatnonzero(own["mask"])[-1]] += np.clip(compared, *args.reward.clip_range)
        own["advantage"] = np.array([(tokens * own["mask"])[place:].sum() for place in range(tokens.size)])
    if args.algo.advantage.estimator == "reinforce_baseline":
        everything = np.concatenate([own["advantage"][own["mask"]] for own in rollouts.values()])
        for own in rollouts.values():
            own["advantage"] = (own["advantage"] - everything.mean()) / everything.std()
    return {place: own["advantage"] for place, own in rollouts.items()}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("changes", [{}, PENALTIES], ids=["plain", "penalties"])
def test_ragged_advantages_equal_brute_force(args_of, estimator, changes):
    args = args_of(algo__advantage__estimator=estimator, rollout__max_new_tokens=16, **changes)
    rng = np.random.default_rng(3)
    for seed in range(8):
        prompts = np.repeat([f"{place} " for place in range(8)], COUNTS).tolist()
        rng.shuffle(prompts)  # answers come as they are ready
        rewards = rng.choice([0.0, 0.5, 1.0, np.nan], len(prompts), p=[0.3, 0.3, 0.3, 0.1]).tolist()
        made = runs.experiences(prompts, rewards, seed, shuffle=seed % 2 == 0)
        expected = brute_force(args, made, kl=0.1)
        dealer = dealt(args, COUNTS)
        maker(args, dealer).compute_advantages_and_returns(made)
        for e in made:
            for row, place in enumerate(e.index):
                mask = e.action_mask[row].numpy()
                got = e.advantages[row].numpy()
                np.testing.assert_allclose(got[mask], expected[place][mask], rtol=2e-5, atol=2e-5)
            assert not torch.isnan(e.info["reward"]).any()
        wins, tries = np.zeros(8), np.zeros(8)
        for prompt, reward in zip(prompts, rewards, strict=True):
            wins[int(prompt)] += np.nan_to_num(reward)  # before length penalties
            tries[int(prompt)] += not np.isnan(reward)
        np.testing.assert_allclose(dealer.allocator.bank.alpha - 1.0, wins)
        np.testing.assert_allclose(dealer.allocator.bank.beta - 1.0, tries - wins)


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "reinforce"])
def test_posterior_advantages_take_the_place_of_every_estimators(args_of, estimator):
    args, prompts = args_of(algo__advantage__estimator=estimator), [f"{place} " for place in range(32)]
    dealer, twin = (Dealer(allocator_for(args, prompts)) for _ in range(2))
    for rng in (np.random.default_rng(seed) for seed in range(3)):
        counts = dealer.deal(None, 32)
        assert twin.deal(None, 32).tolist() == counts.tolist()
        own = np.repeat(prompts, counts).tolist()
        rng.shuffle(own)
        rewards = rng.choice([0.0, 0.5, 1.0, np.nan], len(own), p=[0.3, 0.3, 0.3, 0.1]).tolist()
        made = runs.experiences(own, rewards, shuffle=True)
        maker(args, dealer, kl=0.0, advantages="posterior").compute_advantages_and_returns(made)
        known = twin.learn(own, rewards)
        for e in made:
            for row, place in enumerate(e.index):
                got = e.advantages[row][e.action_mask[row]]
                np.testing.assert_allclose(got, known[place], rtol=1e-6)
        assert np.abs(known).max() > 0.5
    assert dealer.allocator.outstanding.sum() == 0


def test_the_engines_are_asked_for_prompts_of_the_whole_data_set(machine, args_of):
    args, engines = args_of(), runs.Engines(2)
    columns = {name: [f"{name} {place}" for place in range(16)] for name in ("prompts", "labels", "images")}
    data = SimpleNamespace(**columns)
    dealer = Dealer(allocator_for(args, data.prompts))
    loader = SimpleNamespace(dataset=data)
    ours = AllocatedSamplesGenerator(dealer, get_strategy(args), loader, None, None, engines.handles(), mode="select")
    ours._dispatch_prompts_to_vllm(data.prompts[:8], data.labels[:8], images=data.images[:8], max_len=16)
    asked = Counter()
    for request in itertools.chain(*engines.requests):
        place = data.prompts.index(request["prompt"])
        assert (request["label"], request["images"]) == (data.labels[place], data.images[place])
        asked[request["prompt"]] += request["num_samples"]
    assert asked.total() == 32
    assert asked.keys() == set(data.prompts)
    assert [asked[text] for text in data.prompts] == dealer.allocator.outstanding.tolist()


@pytest.mark.parametrize("mode", ["select", "redeal"])
def test_a_posterior_run_trains_as_many_rollouts_and_learns_from_all(running, args_of, mode):
    args, holder = args_of(train__num_episodes=2), []
    make = runs.recorded(runs.recommended(mode, "posterior"), holder)
    trainer = runs.build(args, make, mode=mode, advantages="posterior", **running)
    steps = runs.watch(trainer)
    trainer.fit()
    (allocator,) = holder
    assert [len(step) for step in steps] == [32] * 4
    for (_, _, told), step in zip(allocator.scored, steps, strict=True):
        assert sorted((p, r) for p, r, _ in told if r == r) == sorted((p, r) for p, r in step if r == r)
    assert allocator.balance == (128, 128, 0, 0)


def test_a_run_deals_what_the_allocator_says_and_learns_what_came(running, args_of):
    args, holder = args_of(train__num_episodes=2), []
    rows = [COUNTS, [2] * 4 + [6] * 4, [0, 0, 0, 16, 16, 0, 0, 0], [4] * 8]
    trainer = runs.build(args, runs.recorded(runs.scripted(*rows), holder), **running)
    steps = runs.watch(trainer)
    logs = []
    trainer.tensorboard_logger = SimpleNamespace(log_train=lambda step, row: logs.append(row), close=list)
    trainer.fit()
    (allocator,) = holder
    assert [sorted(counts) for _, counts in allocator.rounds] == [sorted(row) for row in rows]
    assert len(steps) == 4
    for (prompts, counts), step in zip(allocator.rounds, steps, strict=True):
        assert Counter(prompt for prompt, _ in step) == {p: c for p, c in zip(prompts, counts, strict=True) if c}

    wins, tries, unscored = Counter(), Counter(), 0
    for prompt, reward in itertools.chain(*steps):
        unscored += np.isnan(reward)
        wins[prompt] += np.nan_to_num(reward)
        tries[prompt] += not np.isnan(reward)
        label = LABELS[int(prompt)]
        if label.replace(".", "").isdigit():
            assert reward == float(label)
    assert 0 < unscored < 20  # the scorer that breaks down
    names = allocator.bank.prompt_ids
    np.testing.assert_allclose(allocator.bank.alpha - 1.0, [wins[name] for name in names])
    np.testing.assert_allclose(allocator.bank.beta - 1.0, [tries[name] - wins[name] for name in names])

    last = logs[-1]
    assert last["alloc/remaining_budget"] == 0.0
    assert 0.0 <= last["alloc/prompt_reward"] <= 1.0
    assert last["rollout/num_samples"] == 32.0
    kinds = {prompt: {r for p, r in steps[-1] if p == prompt and not np.isnan(r)} for prompt, _ in steps[-1]}
    differ = any(len(rewards) > 1 for rewards in kinds.values())  # by chance, none may
    assert last["actor_grad_norm"] > 0.0 or not differ


def test_evaluation_is_untouched(running, args_of):
    args = args_of(["0", "1", "0.5", "1"] * 3, eval__n_samples_per_prompt=3)
    args.eval.dataset = args.data.prompt_dataset
    ours, stock = runs.build(args, runs.resolving, **running), runs.build(args, **running)
    mine = ours.evaluate(1, n_samples_per_prompt=3, **ours.generate_kwargs)
    theirs = stock.evaluate(1, n_samples_per_prompt=3, **stock.generate_kwargs)
    assert mine["eval_default_pass1"] == theirs["eval_default_pass1"] == 0.625
    assert mine["eval_num_samples"] == theirs["eval_num_samples"] == 36.0
    assert ours.dealer.allocator.round == 0


FIXED = ["0", "1", "0.5", "0.25"] * 4  # rewards that sampling does not change, so that the counts repeat


def test_a_resumed_run_goes_on_with_the_same_counts(launched, running, args_of):
    folder = str(launched[0] / "checkpoints")  # where the policy actor writes
    args, whole = args_of(FIXED, train__num_episodes=3, ckpt__save_steps=4, ckpt__path=folder), []
    torch.manual_seed(5)
    trainer = runs.build(args, runs.recorded(runs.resolving, whole), **running)
    trainer.fit()  # six steps, of which the fourth is the last that is saved
    assert len({tuple(counts) for _, counts in whole[0].rounds}) > 2

    again, resumed = args_of(FIXED, train__num_episodes=3, ckpt__load_enable=True, ckpt__path=folder), []
    torch.manual_seed(6)
    group = runs.policy(again, running["rollout_engines"])
    trainer = runs.build(
        again, runs.recorded(runs.resolving, resumed), group=group, rollout_engines=running["rollout_engines"]
    )
    trainer.fit()
    assert len(resumed[-1].rounds) == 2
    assert resumed[-1].rounds == whole[0].rounds[4:]
    for name in ("alpha", "beta"):
        np.testing.assert_array_equal(getattr(resumed[-1].bank, name), getattr(whole[0].bank, name))
    mine, theirs = resumed[-1].metrics(certificate=False), whole[0].metrics(certificate=False)
    assert mine == pytest.approx(theirs, abs=1e-3)  # answers come in any order, and some figures depend on it


def saved_states(allocator):
    packed = bytearray(checkpoint.pack(allocator.state_dict()))
    return {"global_step": allocator.round, "cero_alloc": torch.frombuffer(packed, dtype=torch.uint8)}


def loaded(args, states, folder, make, **kind):
    args.ckpt.load_enable, args.ckpt.path = True, str(folder)
    (folder / "_actor").mkdir(exist_ok=True)
    group = SimpleNamespace(async_run_method=lambda method_name: [ray.put(states)])
    trainer = runs.build(args, make, group=group, **kind)
    trainer.init_checkpoint_states()
    return trainer.dealer.allocator


@pytest.mark.parametrize("mode", ["select", "redeal"])
def test_a_longer_run_with_more_prompts_goes_on_and_a_shorter_one_is_refused(machine, args_of, tmp_path, mode):
    kind = {"mode": mode, "advantages": "posterior"}
    make = runs.recommended(**kind)
    before = allocator_for(args_of(train__num_episodes=2), [f"{place} " for place in range(16)], **kind)
    first = [f"{place} " for place in range(8 if mode == "redeal" else 16)]
    counts = before.allocate(first, budget=32, exact=True)
    before.observe(np.repeat(first, counts).tolist(), [1.0] * 32)
    labels = [*LABELS[1:], "0", "1"]
    more = args_of(labels, train__num_episodes=3)
    longer = loaded(more, saved_states(before), tmp_path, make, **kind)
    assert longer.round == 1
    assert (longer.ledger.n_rounds, longer.balance.total) == (3 * 3, 3 * 17 * 4)
    names = [f"{place} " for place in range(17)]
    np.testing.assert_array_equal(longer.bank.alpha[:16], before.bank.alpha)
    assert list(longer.bank.prompt_ids) == names
    offer = names[-8:] if mode == "redeal" else names
    assert longer.allocate(offer, budget=32, exact=True).sum() == 32
    resumed = loaded(more, saved_states(longer), tmp_path, make, **kind)  # once more, from the longer run
    assert resumed.balance == longer.balance
    with pytest.raises(ValueError, match=r"train\.num_episodes must give at least the 9 batches and 204 rollouts"):
        loaded(args_of(labels, train__num_episodes=1), saved_states(longer), tmp_path, make, **kind)


def test_a_checkpoint_without_the_allocators_state_is_refused(machine, args_of, tmp_path):
    args = args_of(ckpt__load_enable=True, ckpt__path=str(tmp_path))
    (tmp_path / "_actor").mkdir()
    group = SimpleNamespace(async_run_method=lambda method_name: [ray.put({"global_step": 3})])
    trainer = runs.build(args, runs.resolving, group=group)
    with pytest.raises(
        ValueError,
        match=r"ckpt\.path must hold a run of this adapter, got .* step 3 has no allocator\. Start .* actor\.model_name_or_path",
    ):
        trainer.fit()


def test_the_asynchronous_trainer_is_refused_not_forgotten(machine, args_of):
    strategy = get_strategy(args_of(train__async_enable=True))
    with (
        allocated_training(),
        pytest.raises(ValueError, match=r"train\.async_enable must be off.*Drop the flag"),
    ):
        asynchronous.PPOTrainerAsync.remote("model", strategy, None, None, None, None, None)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"train__async_enable": True}, r"train\.async_enable must be off: .* Drop the flag"),
        ({"algo__dynamic_filtering_enable": True}, r"algo\.dynamic_filtering_enable must be off: .* Drop the flag"),
        ({"rollout__n_samples_per_prompt": 1}, r"n_samples_per_prompt must be at least 2, got 1: .* Raise it"),
        ({"algo__advantage__estimator": "gae"}, r"estimator must be one of rloo, .*, got 'gae', .* Choose another"),
        ({"rollout__vllm_generate_batch_size": 16}, r"must be rollout\.batch_size = 8, got 16: .* Leave it out"),
    ],
)
def test_unknown_modes_are_refused(args_of, changes, text):
    with pytest.raises(ValueError, match=text):
        runs.build(args_of(**changes), runs.resolving)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"algo__advantage__estimator": "gae"},
            r"estimator must be one of rloo, .*, got 'gae', whose critic is a baseline",
        ),
        (
            {"reward__overlong_buffer_len": 2.0},
            r"overlong_buffer_len and .* must be left out with advantages='posterior'",
        ),
        (
            {"reward__stop_properly_penalty_coef": 0.5},
            r"stop_properly_penalty_coef must be left out with advantages='post",
        ),
    ],
)
def test_modes_that_do_not_go_with_posterior_advantages_are_refused(args_of, changes, text):
    with pytest.raises(ValueError, match=text):
        runs.build(args_of(**changes), runs.resolving, mode="select", advantages="posterior")


def test_a_misspelt_mode_or_costs_are_refused(args_of):
    args = args_of()
    with pytest.raises(ValueError, match=r"mode must be one of \['select', 'redeal'\], got mode = 'pick'"):
        runs.build(args, runs.resolving, mode="pick")
    with pytest.raises(ValueError, match=r"advantages must be one of \['group', 'posterior'\]"):
        runs.build(args, runs.resolving, advantages="gae")
    with pytest.raises(ValueError, match=r"costs must be None, got .* an exact number of rollouts"):
        allocator_for(args, ["a", "b"], costs=[1.0, 2.0])
    with (
        pytest.raises(ValueError, match=r"settings must be left out with build, got exploration\. Use them in build"),
        allocated_training(runs.resolving, exploration=0.1),
    ):
        pass


def test_an_allocator_of_other_prompts_is_refused(args_of):
    def make(prompts, **run):
        return runs.uniform([f"other {prompt}" for prompt in prompts], **run)

    with pytest.raises(
        ValueError, match=r"the allocator's bank must hold every prompt of the training set, got none of '0 '"
    ):
        runs.build(args_of(), make)


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        ({"unit_size": 1}, "at least 2, got 1: a group of one rollout has no baseline"),
        (
            {"max_rollouts": 2},
            r"rollout\.n_samples_per_prompt = 4 must be a multiple of unit_size = 2, at most max_rollouts = 2",
        ),
        ({"round_capacity": 30, "total_budget": 60}, "round_capacity = 30 must be at least the 32 rollouts of a batch"),
    ],
)
def test_allocators_that_do_not_fit_are_refused(args_of, plan, text):
    def make(prompts, *, n_rounds, total_budget, args):
        return runs.Uniform(runs.BetaPosteriorBank(prompts), **runs.horizon(args, n_rounds, total_budget) | plan)

    with pytest.raises(ValueError, match=text):
        runs.build(args_of(), make)


def test_repeated_prompts_are_refused(args_of, tmp_path):
    args = args_of()
    rows = Path(args.data.prompt_dataset).read_text()
    (tmp_path / "prompts.jsonl").write_text(rows + rows.splitlines()[3])
    args.data.prompt_dataset = str(tmp_path / "prompts.jsonl")
    with pytest.raises(ValueError, match=r"prompts must be distinct texts, .* got 2 times '3 '\. Drop the repetitions"):
        runs.build(args, runs.resolving)


def test_unknown_versions_are_refused(args_of, monkeypatch):
    monkeypatch.setattr("cero_alloc.integrations._versions.version", lambda _: "0.10.2")
    with pytest.raises(RuntimeError, match=r"openrlhf must be between .*, got 0\.10\.2\. Install 'openrlhf>="):
        runs.build(args_of(), runs.resolving)
    monkeypatch.setenv("CERO_ALLOC_UNTESTED", "1")
    assert runs.build(args_of(), runs.resolving).dealer.allocator.round == 0


def test_strange_rollouts_and_rewards_are_refused(args_of):
    dealer = dealt(args_of(), COUNTS)
    with pytest.raises(
        ValueError, match=r"rollouts must carry the prompt they were asked for, got 'other'\. Pass its id"
    ):
        dealer.learn(["other"], [1.0])
    with pytest.raises(ValueError, match=r"rewards must lie in \[0, 1\], got rewards\[1\] = -1\.0\. Pass success="):
        dealer.learn(["0 ", "0 "], [1.0, -1.0])
    assert dealer.allocator.bank.alpha.sum() == 8.0  # nothing was learnt


def test_success_maps_rewards(args_of):
    args = args_of()
    dealer = dealt(args, COUNTS)
    dealer.success = lambda reward: float(reward > 0)
    prompts = np.repeat([f"{place} " for place in range(8)], COUNTS).tolist()
    rewards = [2.0 if place % 4 == 0 else -1.0 for place in range(32)]
    maker(args, dealer).compute_advantages_and_returns(runs.experiences(prompts, rewards))
    assert dealer.allocator.bank.alpha.sum() == 8.0 + 8.0


def test_a_number_is_the_completions_last():
    def score(text, label):
        return openrlhf_grpo.reward_func(["1 + 1 = " + text], ["1 + 1 = "], [label])["rewards"]

    assert score("3, no, 1,234.", "1234") == 1.0
    assert score("2<|im_end|>", "3") == score("two", "2") == 0.0


def test_a_data_set_is_prepared_with_distinct_questions(tmp_path, capsys):
    rows = [{"question": f"Q{place % 3}", "answer": f"so 1 + {place} = #### {1 + place % 3}"} for place in range(5)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    openrlhf_grpo.main(["--prepare", str(tmp_path / "in"), "--output", str(tmp_path / "out")])
    written = [json.loads(line) for line in (tmp_path / "out" / "prompts.jsonl").read_text().splitlines()]
    assert written == [{"input": f"Q{place}", "label": str(place + 1)} for place in range(3)]
    assert "3 prompts" in capsys.readouterr().out
