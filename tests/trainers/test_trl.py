"""The TRL adapter against the installed TRL: `pip install torch -e ".[trl]" pytest && pytest -W default tests/trainers`."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

for _package in ("torch", "transformers", "trl"):
    pytest.importorskip(_package, reason=f'{_package} is not installed: pip install -e ".[trl]"')

import torch  # noqa: E402
from scipy.stats import binom  # noqa: E402
from trl.trainer.utils import nanstd  # noqa: E402

from cero_alloc import BetaPosteriorBank  # noqa: E402
from cero_alloc.integrations._advantages import group_advantages  # noqa: E402
from trainers import trl_runs as runs  # noqa: E402
from trainers.allocators import Recorder, Scripted  # noqa: E402

pytestmark = [pytest.mark.trainers, pytest.mark.usefixtures("single_thread")]
PAGE = Path(__file__).parents[2] / "docs" / "trl.md"


def scripted(*rows, **changes):
    """Return a maker of allocators that deal these counts, a row a round, in turn."""

    return lambda args: Scripted(BetaPosteriorBank(32), rows, **runs.plan(args, **changes))


def sometimes_none(completions, answer, **_):
    """Reward that cannot score completions opening with one of two letters."""
    marks = runs.opening_reward(completions, answer)
    return [None if text[:1] in "ab" else mark for text, mark in zip(completions, marks, strict=True)]


CONFIGURATIONS = {
    "plain": {},
    "no scaling": {"scale_rewards": "none", "loss_type": "dr_grpo"},
    "batch scaling and a reference": {"scale_rewards": "batch", "beta": 0.1},
    "two steps a generation": {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "max_steps": 8},
    "two iterations": {"num_iterations": 2, "max_steps": 8},
    "rewards that are missing": {"reward": sometimes_none},
    "prompts weigh alike": {"group_weighting": "prompt"},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_uniform_counts_give_the_stock_trainers_parameters_bit_for_bit(tmp_path, name):
    settings = CONFIGURATIONS[name]
    ours = runs.train(tmp_path, runs.uniform, **settings)
    stock = runs.train(tmp_path, **{key: value for key, value in settings.items() if key != "group_weighting"})
    assert stock.state.global_step >= 6
    start = torch.cat([p.detach().flatten() for p in runs.tiny_model(runs.tiny_tokenizer()).parameters()]).numpy()
    assert np.abs(runs.parameters(stock) - start).max() > 1e-3  # it did train
    np.testing.assert_array_equal(runs.parameters(ours), runs.parameters(stock))
    for entry, other in zip(ours.state.log_history, stock.state.log_history, strict=True):
        keys = {"loss", "reward", "reward_std", "frac_reward_zero_std", "grad_norm"}
        for key in keys - (
            {"frac_reward_zero_std"} if name.startswith("batch") else set()
        ):  # TRL has none per group there
            assert entry.get(key) == other.get(key)


def test_other_counts_give_other_parameters(tmp_path):
    ours, stock = runs.train(tmp_path, runs.resolving, max_steps=12), runs.train(tmp_path, max_steps=12)
    assert np.abs(runs.parameters(ours) - runs.parameters(stock)).max() > 0


@pytest.mark.parametrize("mode", ["redeal", "select"])
def test_prompts_get_exactly_their_counts(tmp_path, mode):
    seen = []

    def reward(completions, answer, prompt_id, **_):
        seen.append(list(prompt_id))
        return runs.opening_reward(completions, answer)

    holder = []

    def make(args):
        holder.append(Recorder(scripted([8, 0, 2, 6, 16, 0], [0, 0, 0, 16, 16], [2] * 4 + [6] * 4)(args)))
        return holder[0]

    trainer = runs.train(tmp_path, make, reward=reward, mode=mode)
    assert len(seen) == 6
    for got, (ids, counts) in zip(seen, holder[0].rounds, strict=True):
        names = range(32) if ids is None else ids
        assert got == [key for key, count in zip(names, counts, strict=True) for _ in range(count)]
        assert sum(counts) == 32
    assert trainer.allocator.remaining_budget == 0
    assert trainer.allocator.metrics()["outstanding_rollouts"] == 0


def test_the_allocator_learns_exactly_the_scored_rewards(tmp_path):
    told = []

    def reward(completions, answer, prompt_id, **_):
        marks = sometimes_none(completions, answer)
        told.extend(zip(prompt_id, marks, strict=True))
        return marks

    trainer = runs.train(tmp_path, runs.resolving, reward=reward)
    wins, tries = np.zeros(32), np.zeros(32)
    for key, mark in told:
        if mark is not None:
            wins[key] += mark
            tries[key] += 1
    assert 0 < tries.sum() < len(told)
    np.testing.assert_array_equal(trainer.allocator.bank.alpha - 1.0, wins)
    np.testing.assert_array_equal(trainer.allocator.bank.beta - 1.0, tries - wins)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("weighting", ["rollout", "prompt"])
def test_ragged_advantages_equal_brute_force(scale, weighting):
    rng = np.random.default_rng(3)
    for _ in range(200):
        sizes = rng.integers(2, 9, size=rng.integers(1, 7))
        keys = np.repeat(np.arange(sizes.size), sizes)
        rng.shuffle(keys)
        rewards = np.where(rng.random(keys.size) < 0.1, np.nan, rng.choice([0.0, 0.5, 1.0], keys.size))
        expected = np.zeros(keys.size)
        for place, key in enumerate(keys):
            group = [r for r, k in zip(rewards, keys, strict=True) if k == key and not np.isnan(r)]
            if np.isnan(rewards[place]):
                continue
            advantage = rewards[place] - sum(group) / len(group)
            pool = group if scale == "group" else [r for r in rewards if not np.isnan(r)]
            if scale != "none":
                if len(pool) < 2:
                    continue  # no deviation: no signal
                advantage /= np.std(pool, ddof=1) + 1e-4
            if weighting == "prompt":
                advantage *= keys.size / np.sum(sizes / (sizes - 1)) / (np.sum(keys == key) - 1)
            expected[place] = advantage
        got = group_advantages(torch.tensor(rewards), keys.tolist(), scale=scale, weighting=weighting, std=nanstd)
        np.testing.assert_allclose(
            got.numpy(), expected, rtol=1e-6, atol=1e-7
        )  # TRL's deviation is of single precision


@pytest.mark.parametrize("p", [0.5, 0.2, 0.05])
def test_equal_weights_make_every_prompt_count_the_same(p):
    """In expectation over its rewards, a prompt of 2 rollouts has the pull of one of 6: the derivative of its success rate."""
    sizes = (2, 6)
    pull = dict.fromkeys(sizes, 0.0)
    for won in product(*(range(size + 1) for size in sizes)):
        chance = np.prod([binom.pmf(k, n, p) for k, n in zip(won, sizes, strict=True)])
        rewards = torch.tensor([1.0 * (i < k) for k, n in zip(won, sizes, strict=True) for i in range(n)])
        keys = np.repeat(np.arange(2), sizes).tolist()
        advantages = group_advantages(rewards, keys, scale="none", weighting="prompt", std=nanstd).numpy()
        score = np.where(rewards.numpy() == 1.0, 1.0 / p, -1.0 / (1.0 - p))
        for place, size in enumerate(sizes):
            own = np.array(keys) == place
            pull[size] += chance * float((advantages * score)[own].sum())
    assert pull[2] == pytest.approx(pull[6], rel=1e-5)


@pytest.mark.parametrize(
    ("advantages", "scale", "weighting"),
    [
        *product(["group"], ["none", "group"], ["rollout", "prompt"]),
        *product(["posterior"], ["none", "group"], ["rollout"]),
    ],
)
def test_the_weights_on_the_page(advantages, scale, weighting):
    """The pull of n rollouts in the expected gradient of a prompt with a success rate of 0.2, against that of 2."""
    p, sizes, pulls = 0.2, (2, 4, 8, 16, 32), []
    bank = BetaPosteriorBank(1, prior=(20 * p, 20 * (1 - p)))
    for n in sizes:
        pull = 0.0
        for won in range(n + 1):
            rewards = torch.tensor([1.0] * won + [0.0] * (n - won))
            if advantages == "posterior":
                own = bank.advantages([0] * n, rewards.numpy(), scale="posterior" if scale == "group" else "none")
            else:
                own = group_advantages(rewards, [0] * n, scale=scale, weighting="rollout", std=nanstd).numpy()
            score = np.where(rewards.numpy() == 1.0, 1.0 / p, -1.0 / (1.0 - p))
            pull += binom.pmf(won, n, p) * float((own * score).sum())
        pulls.append(pull / (n - 1 if weighting == "prompt" else 1))
    weights = np.array(pulls) / pulls[0]
    if (advantages, scale) == (
        "posterior",
        "group",
    ):  # no row: as without scaling but for what the group itself teaches
        np.testing.assert_allclose(weights, np.array(sizes) / 2, rtol=0.01)
        return
    row = " | ".join([advantages, scale, weighting, *(f"{weight:.2f}" for weight in weights)])
    assert f"| {row} |" in PAGE.read_text()


def test_equal_groups_weigh_as_in_the_stock_trainer():
    rewards = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    keys = [0, 0, 0, 1, 1, 1]
    flat, even = (group_advantages(rewards, keys, scale="none", weighting=w, std=nanstd) for w in ("rollout", "prompt"))
    torch.testing.assert_close(flat, even)


def test_trl_logs_the_allocators_figures_and_the_ragged_advantages(tmp_path):
    trainer = runs.train(tmp_path, scripted([8, 0, 2, 6, 16, 0]))
    entry = [line for line in trainer.state.log_history if "loss" in line][-1]
    for name in ("round", "remaining_budget", "prompt_reward", "mixed_rollouts", "uniform_dead_share", "mean_group"):
        assert f"alloc/{name}" in entry
    assert entry["alloc/remaining_budget"] == 0.0
    assert 0.0 < entry["frac_reward_zero_std"] < 1.0
    assert len(trainer._logs["advantages"]) == 32
    assert any(trainer._logs["advantages"])


def test_evaluation_is_untouched(tmp_path):
    ours, stock = runs.build(tmp_path, runs.resolving), runs.build(tmp_path)
    rows = runs.tiny_dataset(16)
    torch.manual_seed(1)
    mine = ours.evaluate(rows)
    torch.manual_seed(1)
    theirs = stock.evaluate(rows)
    assert mine["eval_reward"] == theirs["eval_reward"]
    assert ours.allocator.round == 0


def test_a_stream_of_rows_can_be_dealt_again(tmp_path):
    try:
        runs.build(tmp_path, dataset=runs.tiny_dataset(32).to_iterable_dataset())
    except NotImplementedError:
        pytest.skip("this version of TRL takes no streams")
    ours = runs.train(tmp_path, runs.uniform, dataset=runs.tiny_dataset(32).to_iterable_dataset())
    stock = runs.train(tmp_path, dataset=runs.tiny_dataset(32).to_iterable_dataset())
    np.testing.assert_array_equal(runs.parameters(ours), runs.parameters(stock))


def spied(trainer):
    """Return a list that gets each round's prompts, rewards, and what the bank knew of every prompt before."""
    learn, bank, told = trainer.dealer.learn, trainer.allocator.bank, []

    def spy(prompts, rewards, **scoring):
        told.append((list(prompts), list(rewards), bank.alpha, bank.beta))
        return learn(prompts, rewards, **scoring)

    trainer.dealer.learn = spy
    return told


@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize("rows", [None, ([8, 0, 1, 6, 16, 1],)])
def test_posterior_advantages_equal_brute_force(tmp_path, scale, rows):
    n = 64 if rows is None else 32
    trainer = runs.build(
        tmp_path, runs.built if rows is None else scripted(*rows, unit_size=1), advantages="posterior",
        mode="select", scale_rewards=scale, dataset=runs.tiny_dataset(n), max_steps=4,
    )  # fmt: skip
    told = spied(trainer)
    trainer.train()
    assert len(told) == 4
    prompts, rewards, alpha, beta = told[-1]
    if rows is None:
        assert len(set(prompts)) == 32  # single rollouts
    expected = []
    for prompt, reward in zip(prompts, rewards, strict=True):
        others = [r for p, r in zip(prompts, rewards, strict=True) if p == prompt]
        a = alpha[prompt] + sum(others) - reward
        b = beta[prompt] + len(others) - sum(others) - (1.0 - reward)
        deviation = np.sqrt(a * b / ((a + b) * (a + b + 1.0))) if scale == "group" else 1.0
        expected.append((reward - a / (a + b)) / deviation)
    logged = list(trainer._logs["advantages"])
    np.testing.assert_allclose(logged, expected, rtol=1e-5)
    # TRL shuffles a generation before it trains on it.
    trained = torch.cat([part["advantages"] for part in trainer._buffered_inputs]).tolist()
    assert sorted(trained) == sorted(logged)
    assert trainer.state.log_history[-2]["frac_reward_zero_std"] == 0.0


@pytest.mark.parametrize("words", ["resolving redeal", "resolving select", "single posterior"])
def test_two_processes_end_with_equal_parameters(tmp_path, words):
    one, two = runs.work(tmp_path / "two", *words.split(), processes=2)
    np.testing.assert_array_equal(one["parameters"], two["parameters"])
    rounds = eval(str(one["rounds"]))  # a list of lists, written by the process above
    assert len(rounds) == 12
    assert all(sum(counts) == 32 for _, counts in rounds)
    assert len({tuple(counts) for _, counts in rounds}) > 1
    assert eval(str(two["rounds"])) == []  # one process decides


def test_two_processes_with_uniform_counts_are_the_stock_trainer(tmp_path):
    ours = runs.work(tmp_path / "ours", "uniform", processes=2)
    stock = runs.work(tmp_path / "stock", "stock", processes=2)
    np.testing.assert_array_equal(ours[0]["parameters"], stock[0]["parameters"])
