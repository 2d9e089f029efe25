"""The learning benchmark's transformers against plain loops: `pip install torch && pytest tests/trainers/test_learning.py`."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("torch", reason="torch is not installed: pip install torch")

import torch

from cero_alloc.integrations._advantages import group_advantages
from studies.learning import causes, gradients, main, transformer, worlds
from studies.learning.dealing import Dealing, Run
from studies.learning.gpt import Replicas, log_likelihood, sample
from studies.learning.gradients import quality
from studies.learning.noise import decompose
from studies.learning.policies import CONTENDERS, MAIN, SCHEMES
from studies.learning.tasks import BLANK, STOP, SYMBOLS, encode
from studies.learning.transformer import (
    Adam,
    Size,
    load_starts,
    models,
    play,
    save_starts,
    success,
    train,
    warm_starts,
    world,
)

pytestmark = [pytest.mark.trainers, pytest.mark.usefixtures("one_thread")]

SIZE = Size(
    16, 2, 2, n_prompts=24, n_rounds=8, rollouts=64, measured=2, warm_rate=1e-2, warm_steps=60, warm_corpus=300,
    levels=(("early", 0.12), ("late", 0.2)),
)  # fmt: skip
RATE = 1e-2
FEW = ("uniform", "FenchelDual", "random-matched", "Resolving 0.3", "DAPO", "clairvoyant", "Resolving 1, re-deal")


@pytest.fixture(scope="module")
def starts(one_thread):
    """Starts of two seeds, who answer some questions."""
    return warm_starts("modular", SIZE, [0, 1], "cpu")


@pytest.fixture
def model():
    """Three models that differ, sure of something."""
    found = Replicas([1, 2, 3], width=16, layers=2, heads=4, context=12)
    with torch.no_grad():
        for name, parameter in found.parameters.items():
            parameter.mul_(3.0 if name == "embed" else 1.5)
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return found


def plain(state, tokens, layers, heads):
    """Return the logits after every token of one text by one model, all at once."""

    def norm(x, scale):
        centred = x - x.mean(1, keepdim=True)
        return centred / ((centred**2).mean(1, keepdim=True) + 1e-5).sqrt() * scale

    x = torch.stack([state["embed"][token] + state["place"][t] for t, token in enumerate(tokens)])
    for i in range(layers):
        q, k, v = (norm(x, state[f"{i}.norm1"]) @ state[f"{i}.qkv"]).chunk(3, dim=1)
        mixed = []
        for a, b, c in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
            scores = a @ b.T / a.shape[1] ** 0.5
            for t in range(len(tokens)):
                scores[t, t + 1 :] = -math.inf
            mixed.append(torch.softmax(scores, 1) @ c)
        x = x + torch.cat(mixed, 1) @ state[f"{i}.out"]
        h = norm(x, state[f"{i}.norm2"]) @ state[f"{i}.up"]
        x = x + (h * 0.5 * (1.0 + torch.erf(h / 2**0.5))) @ state[f"{i}.down"]
    return norm(x, state["norm"]) @ state["embed"].T


def slow_log_likelihood(state, prompt, answer, layers, heads):
    logits = plain(state, [*prompt, *answer], layers, heads)
    total = 0.0
    for t, token in enumerate(answer):
        total = total + torch.log_softmax(logits[len(prompt) + t - 1], 0)[token]
        if token == STOP:
            break
    return total


def asked(rng, replicas=3, prompts=4, rollouts=9, width=7, length=5):
    """Return prompts, groups and answers, some of them with blanks before the full stop, some without a full stop."""
    answers = rng.integers(0, len(SYMBOLS), (replicas, rollouts, length))
    answers[:, ::3, 2] = STOP
    for row in answers.reshape(-1, length):
        if STOP in row:
            row[row.tolist().index(STOP) + 1 :] = BLANK
    drawn = rng.integers(0, len(SYMBOLS), (replicas, prompts, width)), rng.integers(0, prompts, (replicas, rollouts))
    return [torch.from_numpy(array) for array in (*drawn, answers)]


def test_the_cache_changes_nothing(model):
    prompts, group, answers = asked(np.random.default_rng(0))
    assert any(BLANK in row[: row.index(STOP)] for row in answers.reshape(-1, 5).tolist() if STOP in row)
    found = log_likelihood(model, prompts, group, answers)
    for i in range(3):
        state = model.state(i)
        expected = [
            slow_log_likelihood(state, prompts[i, g].tolist(), answer.tolist(), 2, 4)
            for g, answer in zip(group[i], answers[i], strict=True)
        ]
        torch.testing.assert_close(found[i].detach(), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_gradients_flow_through_the_cache(model):
    prompts, group, answers = asked(np.random.default_rng(1))
    weights = torch.randn(group.shape, generator=torch.Generator().manual_seed(0))
    parameters = list(model.parameters.values())
    found = torch.autograd.grad((log_likelihood(model, prompts, group, answers) * weights).sum(), parameters)
    for i in range(3):
        state = {name: value.requires_grad_() for name, value in model.state(i).items()}
        total = sum(
            w * slow_log_likelihood(state, prompts[i, g].tolist(), answer.tolist(), 2, 4)
            for g, answer, w in zip(group[i], answers[i], weights[i], strict=True)
        )
        for ours, theirs in zip(found, torch.autograd.grad(total, list(state.values())), strict=True):
            torch.testing.assert_close(ours[i], theirs, rtol=1e-3, atol=1e-3)


def test_samples_are_the_inverse_of_the_distribution(model):
    rng = np.random.default_rng(2)
    prompts, group, _ = asked(rng, rollouts=40)
    uniforms = torch.from_numpy(rng.random((3, 40, 5), dtype=np.float32))
    uniforms[0, 0], uniforms[0, 1] = 0.0, 1.0 - 2.0**-24  # the ends of [0, 1)
    found = sample(model, prompts, group, uniforms)
    ended = 0
    for i in range(3):
        state = model.state(i)
        for g, draw, answer in zip(group[i], uniforms[i], found[i].tolist(), strict=True):
            text = prompts[i, g].tolist()
            for t, u in enumerate(draw.tolist()):
                p = torch.softmax(plain(state, text, 2, 4)[-1], 0).double().tolist()
                token, below = 0, p[0]
                while below <= u and token + 1 < len(SYMBOLS):
                    token += 1
                    below += p[token]
                assert answer[t] == token
                text.append(token)
                if token == STOP:
                    ended += 1
                    assert answer[t + 1 :] == [BLANK] * (len(answer) - t - 1)
                    break
    assert 0 < ended < 120


def test_probabilities_of_all_answers_sum_to_one(model):
    answers = [[STOP, BLANK]]
    answers += [[a, b] for a in range(len(SYMBOLS)) if a != STOP for b in range(len(SYMBOLS))]
    everything = torch.tensor(answers).expand(3, -1, -1)
    prompts = torch.tensor(encode("  17%5=")).expand(3, 1, -1)
    group = torch.zeros(3, len(answers), dtype=torch.int64)
    p = log_likelihood(model, prompts, group, everything).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(3), rtol=1e-5, atol=1e-5)


def test_success_is_how_often_samples_are_right(starts):
    model, w = models("modular", SIZE, [0], "cpu"), world("modular", SIZE.n_prompts, SIZE.warm_corpus, 0)
    model.load([starts[0]["late"]])
    rates = success(model, [w.prompts], [w.answers])[0]
    n = 400
    group = torch.arange(SIZE.n_prompts).repeat_interleave(n)[None]
    uniforms = torch.from_numpy(np.random.default_rng(3).random((1, group.shape[1], 2), dtype=np.float32))
    answers = sample(model, torch.from_numpy(w.prompts)[None], group, uniforms)[0].numpy()
    right = (answers == np.repeat(w.answers, n, axis=0)).all(1).reshape(-1, n).sum(1)
    assert 0.1 < rates.mean() < 0.9
    for s, p in zip(right, rates, strict=True):
        assert stats.binomtest(int(s), n, float(p)).pvalue > 1e-4
    assert stats.binomtest(int(right.sum()), n * len(rates), float(rates.mean())).pvalue > 1e-3


def test_equal_seeds_give_equal_models():
    model = Replicas([5, 6, 5], width=8, layers=1, heads=2, context=6)
    first, second, third = (model.state(i) for i in range(3))
    assert all(torch.equal(first[name], third[name]) for name in first)
    assert not torch.equal(first["embed"], second["embed"])
    assert model.size == sum(value.numel() for value in first.values())
    other = Replicas([7], width=8, layers=1, heads=2, context=6)
    other.load([second, first])
    assert all(torch.equal(other.state(0)[name], second[name]) for name in second)


def run(name, seed, rate=RATE):
    return Run(("modular", "late"), name, rate, seed)


def same(ours, theirs):
    assert ours["rollouts"] == theirs["rollouts"]
    np.testing.assert_allclose(ours["held_out"], theirs["held_out"], rtol=1e-4, atol=2e-6)  # they are rounded
    assert all(np.array_equal(a, b) for a, b in zip(ours["counts"], theirs["counts"], strict=True))


@pytest.mark.parametrize(
    "names",
    [("uniform", "FenchelDual"), ("Resolving 1, re-deal", "clairvoyant"), ("DAPO", "DAPO"), ("DAPO", "uniform")],
)
def test_runs_side_by_side_are_as_alone(names, starts):
    runs = [run(name, seed, RATE / (1 + seed)) for seed, name in enumerate(names)]
    begin = [starts[seed]["late"] for seed in (0, 1)]
    together = train(runs, SIZE, begin, "cpu")
    for one, start, beside in zip(runs, begin, together, strict=True):
        (alone,) = train([one], SIZE, [start], "cpu")
        same(beside, alone)
        assert len(set(alone["held_out"])) == len(alone["held_out"]) == 5  # it moved
        assert alone["spent"] == sum(int(counts.sum()) for counts in alone["counts"]) == alone["rollouts"][-1] <= 8 * 64
    assert together[0]["held_out"] != together[1]["held_out"]


def test_a_run_beside_itself(starts):
    first, second = train([run("DAPO", 0)] * 2, SIZE, [starts[0]["late"]] * 2, "cpu")
    same(first, second)


def test_a_run_is_deterministic(starts):
    first, second = (train([run("FenchelDual", 0)], SIZE, [starts[0]["late"]], "cpu")[0] for _ in range(2))
    counts = first.pop("counts"), second.pop("counts")
    assert np.array_equal(*counts)
    assert first == second


def test_a_round_without_any_rollouts(starts):
    full = np.tile(np.repeat([4, 0], [16, 8]), (8, 1))
    gaps = full.copy()
    gaps[[0, 3]] = 0
    (alone,) = train([run("random-matched", 0)], SIZE, [starts[0]["late"]], "cpu", [gaps])
    runs = [run("random-matched", 0), run("random-matched", 1)]
    same(train(runs, SIZE, [starts[i]["late"] for i in (0, 1)], "cpu", [gaps, full])[0], alone)
    assert alone["spent"] == 6 * 64
    assert [int(counts.sum()) for counts in alone["counts"]] == [0, 64, 64, 0, 64, 64, 64, 64]


def test_rewards_are_for_right_answers(starts):
    runs = [run("DAPO", 0), run("Resolving 0.1", 1)]
    model = models("modular", SIZE, [0], "cpu")
    model.load([starts[seed]["late"] for seed in (0, 1)])
    worlds = [world("modular", SIZE.n_prompts, SIZE.warm_corpus, one.seed) for one in runs]
    dealers = [Dealing(one, SIZE.n_prompts, SIZE.n_rounds, SIZE.rollouts) for one in runs]
    batch = play(model, dealers, worlds, 0)
    for i, (dealer, w) in enumerate(zip(dealers, worlds, strict=True)):
        rows, right = dealer.last
        places = np.flatnonzero(batch.valid[i])
        assert places.size == rows.size == dealer.spent
        assert not batch.weights[i][~torch.from_numpy(batch.valid[i])].any()
        for place, row, won in zip(places, rows, right, strict=True):
            assert np.array_equal(batch.prompts[i, batch.group[i, place]], w.prompts[row])
            assert np.array_equal(batch.answers[i, place], w.answers[row]) == won
        signs = np.sign(batch.weights[i].numpy()[places])
        assert set(signs[right]) <= {0.0, 1.0}
        assert set(signs[~right]) <= {0.0, -1.0}
        assert signs.any()


@pytest.mark.parametrize("weighting", ["rollout", "prompt"])
def test_weights_are_the_adapters_advantages(weighting, model):
    """For "prompt" with 1 / n in place of the adapters' 1 / (n - 1): the study was run with it."""
    rng = np.random.default_rng(4)
    dealing = Dealing(Run(("a", "b"), "uniform", 1.0, 0), 8, 8, 64)
    rows = rng.permutation(np.repeat(np.arange(6), [2, 4, 5, 8, 3, 8]))
    right = rng.random(rows.size) < np.linspace(0.0, 0.9, 6)[rows]
    weights = torch.from_numpy(dealing.objective(rows, right, weighting)).float()
    advantages = group_advantages(
        torch.from_numpy(right).float(), rows.tolist(), scale="group", weighting="rollout", std=torch.std
    )
    if weighting == "prompt":
        sizes = np.bincount(rows)
        advantages *= torch.from_numpy(sizes.mean() / sizes[rows]).float()
    prompts, _, answers = asked(rng, prompts=8, rollouts=rows.size)
    group = torch.from_numpy(rows).expand(3, -1)
    likelihood = log_likelihood(model, prompts, group, answers)
    parameters = list(model.parameters.values())
    found = torch.autograd.grad((likelihood * weights).sum(), parameters, retain_graph=True)
    expected = torch.autograd.grad((likelihood * advantages).sum() / rows.size, parameters)  # the mean over rollouts
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert weights.any()


@pytest.mark.parametrize(("memory", "ramp"), [(0.999, 1), (0.99, 4)])
def test_adam_is_torchs_with_a_rate_per_replica(memory, ramp, model):
    rates = [1e-2, 3e-3, 1e-3]
    apart = []
    for i in range(3):
        one = Replicas([0], width=16, layers=2, heads=4, context=12)
        one.load([model.state(i)])
        apart.append((one, torch.optim.Adam(one.parameters.values(), 0.0, betas=(0.9, memory), maximize=True)))
    optimiser = Adam(model, rates, memory=memory, ramp=ramp)
    for step in range(6):
        prompts, group, answers = asked(np.random.default_rng(step))
        optimiser.ascend(log_likelihood(model, prompts, group, answers).mean(1).sum())
        for i, (one, theirs) in enumerate(apart):
            theirs.param_groups[0]["lr"] = rates[i] * min(1.0, (step + 1) / ramp)
            theirs.zero_grad()
            log_likelihood(one, prompts[i : i + 1], group[i : i + 1], answers[i : i + 1]).mean().backward()
            theirs.step()
    for i, (one, _) in enumerate(apart):
        for name, value in one.state(0).items():
            torch.testing.assert_close(model.state(i)[name], value, rtol=1e-3, atol=0.02 * rates[i])


def test_warm_starts_are_the_first_looks_at_or_above_a_level(monkeypatch):
    looks = []

    def recorded(model, prompts, answers):
        rates = success(model, prompts, answers)
        looks.append((rates.mean(1), [model.state(i) for i in range(2)]))
        return rates

    monkeypatch.setattr(transformer, "success", recorded)
    size = replace(SIZE, levels=tuple((f"{level:g}", level) for level in (*np.arange(0.0, 0.4, 0.01), 1.1)))
    found = warm_starts("modular", size, [0, 1], "cpu")
    assert len(looks) == 7
    firsts = set()
    for i, kept in enumerate(found):
        for start, level in size.levels:
            first = next((k for k, (rates, _) in enumerate(looks) if rates[i] >= level), 6)
            firsts.add(first)
            assert all(torch.equal(kept[start][name], value) for name, value in looks[first][1][i].items())
    assert len(firsts) > 2


def test_starts_are_kept(starts, tmp_path):
    save_starts(tmp_path / "start.pt", starts[0])
    assert [file.name for file in tmp_path.iterdir()] == ["start.pt"]
    again = load_starts(tmp_path / "start.pt")
    assert again.keys() == starts[0].keys() == {"early", "late"}
    assert all(torch.equal(again[start][name], value) for start in again for name, value in starts[0][start].items())


@pytest.mark.parametrize("task", ["addition", "modular", "sorting"])
def test_worlds_share_no_prompt(task):
    w = world(task, 50, 200, 3)
    parts = [{tuple(row) for row in part.tolist()} for part in (w.prompts, w.held_prompts, w.warm_prompts)]
    assert [len(part) for part in parts] == [50, 50, 200]
    assert len(set.union(*parts)) == 300


@pytest.fixture
def few(monkeypatch):
    """Fewer policies, and two tasks' worth of quick models."""
    kept = {name: CONTENDERS[name] for name in FEW}
    for module in (worlds, gradients):
        monkeypatch.setattr(module, "CONTENDERS", kept)


def test_the_command_runs_resumes_and_measures_gradients(few, tmp_path, monkeypatch, capsys):
    arguments = ["--policy-model", "transformer", "--quick", "--jobs", "1", "--out", str(tmp_path)]
    assert main.main(arguments) == 0
    folder = tmp_path / "transformer-quick"
    before = (folder / "runs.jsonl").read_bytes()
    first = capsys.readouterr().out
    for words in ("addition / unsolved; common", "sorting / middle; own", "POOLED nearly solved", "random-matched"):
        assert words in first
    assert len(list(folder.glob("start_*.pt"))) == 3 * 3  # tasks, and two fresh seeds and one for tuning
    monkeypatch.setattr(transformer, "train", None)  # whoever trains, fails
    monkeypatch.setattr(transformer, "warm_starts", None)
    assert main.main(arguments) == 0
    assert (folder / "runs.jsonl").read_bytes() == before
    assert capsys.readouterr().out == first

    measured = ["--size", "quick", "--seeds", "2", "--jobs", "1", "--out", str(tmp_path)]
    assert gradients.main(measured) == 0
    assert "modular / nearly solved: gradients at the start, 2 seeds" in capsys.readouterr().out
    with (folder / "gradients.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == (9 + 4) * (len(FEW) - 1) * 3 * 2  # cells and pools, policies, weightings, seeds
    for row in rows:
        assert abs(float(row["cosine"])) <= 1.0
        assert 0.0 <= float(row["useful"]) <= 1.0
        if (row["policy"], row["weighting"]) == ("uniform", "rollout"):
            assert row["adam"] in ("1.0", "nan")


def test_the_study_of_single_rollouts_runs_whole(tmp_path, monkeypatch, capsys):
    command = ["--policy-model", "transformer", "--size", "single", "--quick", "--jobs", "1", "--out", str(tmp_path)]
    assert main.main(command) == 0
    first = capsys.readouterr().out
    for words in ("AGAINST GRPO, held out", "TWO BY TWO", "GOALS", "modular / quarter", "mean of the cells"):
        assert words in first
    assert "common learning rate" not in first
    folder = tmp_path / "transformer-single-quick"
    assert {"contrast.csv", "single_curves.png", "single_credit.png"} <= {file.name for file in folder.iterdir()}
    with (folder / "contrast.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    cells = {scheme: {row["cell"] for row in rows if row["scheme"] == scheme} for scheme in SCHEMES}
    assert {scheme: len(found) for scheme, found in cells.items()} == {s: 6 if s in MAIN[:2] else 2 for s in SCHEMES}
    monkeypatch.setattr(transformer, "train", None)  # whoever trains, fails
    assert main.main([*command, "--grid"]) == 0
    assert capsys.readouterr().out == first


def test_a_large_pool_goes_on_from_the_same_questions():
    small, large = (world(task, 30, 100, 5) for task in ("addition", "addition, large pool"))
    assert (len(large.prompts), len(small.prompts)) == (120, 30)
    assert np.array_equal(large.prompts[:30], small.prompts)
    assert np.array_equal(large.held_prompts, small.held_prompts)
    everything = np.concatenate([large.prompts, large.held_prompts, large.warm_prompts])
    assert len(set(map(tuple, everything))) == 120 + 30 + 100
    assert worlds._start_file(Path(), "addition, large pool", 5) == worlds._start_file(Path(), "addition", 5)


def test_quality_of_gradients_alike():
    exact = np.array([3.0, 0.0, 4.0])
    found = quality(np.tile(2.0 * exact, (4, 1)), exact)
    assert (found["cosine"], found["aim"]) == pytest.approx((1.0, 1.0))
    assert found["adam"] == pytest.approx(7.0)  # the signs of the gradient, times it
    away = quality(np.tile(-exact, (4, 1)), exact)
    assert (away["cosine"], away["aim"], away["adam"]) == pytest.approx((-1.0, -1.0, -7.0))


def test_quality_of_noise_that_cancels():
    exact, noise = np.array([2.0, 0.0]), np.array([0.0, 1.0])
    found = quality(np.array([exact + noise, exact - noise]), exact)
    assert found["cosine"] == pytest.approx(2.0 / 5.0**0.5)
    assert found["signal"] == pytest.approx((4.0 - 1.0) / 2.0)  # s^2 = 2, and its half is in the mean's square
    assert found["aim"] == pytest.approx(2.0 / 3.0**0.5)
    assert found["adam"] == pytest.approx(2.0)


def test_quality_against_numpys_variance():
    rng = np.random.default_rng(0)
    exact = rng.normal(size=20)
    samples = exact + rng.normal(size=(50, 20))
    found = quality(samples, exact)
    variance = samples.var(0, ddof=1).sum()
    length = (samples.mean(0) ** 2).sum() - variance / 50
    assert found["signal"] == pytest.approx(length / variance)
    cosines = [s @ exact / np.linalg.norm(s) / np.linalg.norm(exact) for s in samples]
    assert found["cosine"] == pytest.approx(np.mean(cosines))
    assert found["aim"] == pytest.approx(samples.mean(0) @ exact / np.linalg.norm(exact) / length**0.5)


def test_quality_of_nothing():
    found = quality(np.zeros((3, 2)), np.array([1.0, 0.0]))
    assert (found["cosine"], found["adam"]) == (0.0, 0.0)
    assert np.isnan([found["aim"], found["signal"]]).all()


def every_answer():
    """Return all answers of two tokens, blanks after a full stop."""
    return np.array([(a, b) for a in range(len(SYMBOLS)) for b in range(len(SYMBOLS)) if a != STOP or b == BLANK])


def test_the_noise_of_single_rollouts_is_the_exact_one(starts):
    state, w = starts[0]["late"], world("modular", SIZE.n_prompts, SIZE.warm_corpus, 0)
    model = models("modular", SIZE, [0], "cpu")
    answers, batch = every_answer(), 16
    model.load([state] * len(answers))
    one_each = torch.zeros((len(answers), 1), dtype=torch.int64)
    means, squares, rates = [], [], []
    for prompt, right in zip(w.prompts, w.answers, strict=True):
        asked = torch.from_numpy(np.tile(prompt, (len(answers), 1, 1)))
        likelihood = log_likelihood(model, asked, one_each, torch.from_numpy(answers)[:, None])
        score, p = gradients.gradients(model, likelihood), likelihood.detach().double().exp().numpy()[:, 0]
        won = (answers == right).all(1)
        assert p.sum() == pytest.approx(1.0, abs=1e-5)
        rates.append(p[won][0])
        means.append(p[won][0] * score[won][0])
        squares.append((p * (won - p[won]) ** 2) @ (score**2).sum(1))
    means, squares, rates = np.array(means), np.array(squares), np.array(rates)
    overall = means.mean(0)
    expected = {
        "length2": overall @ overall,
        "between": ((means - overall) ** 2).sum(1).mean() / batch,
        "within": (squares - (means**2).sum(1)).mean() / batch,
    }
    model.load([state] * 16)
    unit, found = overall / expected["length2"] ** 0.5, []
    for repetition in range(12):
        dealers = [causes.Reference(rates, batch, 1000 * repetition + 2 * i) for i in range(8)]
        first, second, dealt = causes.sampled(model, dealers, w, range(4))
        assert dealt.size == 8 * 4 * batch
        found.append(decompose(first, second, unit))
    for key, value in expected.items():
        values = [one[key] for one in found]
        assert abs(np.mean(values) - value) < 4.0 * np.std(values, ddof=1) / len(values) ** 0.5
        assert value > 2.0 * np.std(values, ddof=1) / len(values) ** 0.5  # the test has power


@pytest.mark.parametrize("name", ["uniform", "1, posterior, uniform"])
def test_twins_share_prompts_and_evidence_but_no_rollout(name, starts):
    w = world("modular", SIZE.n_prompts, SIZE.warm_corpus, 0)
    model = models("modular", SIZE, [0], "cpu")
    model.load([starts[0]["late"]] * 2)
    copy, alone = (causes.Copy(Run(("modular", "late"), name, 0.0, 5), SIZE.n_prompts, SIZE.n_rounds, 16) for _ in "ab")
    for k in range(3):
        batch = play(model, [causes.Twin(copy, 6), copy], [w, w], k)
        assert torch.equal(batch.prompts[0], batch.prompts[1])
        assert torch.equal(batch.group[0], batch.group[1])
        assert not torch.equal(batch.answers[0], batch.answers[1])
        rows, n = alone.open(k)  # the same scheme without a twin: it deals alike, so the twin taught it nothing
        each = np.repeat(rows, n)
        theirs, ours = ((batch.answers[i].numpy() == w.answers[each]).all(1) for i in (0, 1))
        np.testing.assert_array_equal(batch.weights[0], alone.score(each, theirs).astype(np.float32))
        alone.close(rows, n, ours)
        np.testing.assert_array_equal(batch.weights[1], alone.weights(each, ours).astype(np.float32))


def test_the_causes_are_measured_and_kept(tmp_path, monkeypatch, capsys):
    arguments = ["--schemes", "--quick", "--seeds", "2", "--starts", "1", "--jobs", "1", "--out", str(tmp_path)]
    assert gradients.main(arguments) == 0
    first = capsys.readouterr().out
    for words in ("modular / unsolved: mean success", "CELLS", "SCHEMES", causes.SHOWN[causes.GRPO]):
        assert words in first
    folder = tmp_path / "transformer-quick"
    before = (folder / "causes.csv").read_bytes()
    rows = causes.read(folder / "causes.csv")
    assert len(rows) == 3 * 2 * (len(causes.SCHEMES) + 1)  # tasks, seeds, schemes and the reference
    assert (folder / "single_noise.png").stat().st_size > 5000
    assert all(row["within"] >= 0.0 and abs(row["cosine"]) <= 1.0 for row in rows)
    gone = [row for row in rows if (row["task"], row["scheme"]) == ("modular", "1, batch, uniform")]
    causes.write_csv(folder / "causes.csv", [row for row in rows if row not in gone], in_order=True)
    assert gradients.main(arguments) == 0  # only what is missing is measured, and comes out as before
    again = causes.read(folder / "causes.csv")
    assert len(gone) == 2
    assert [row["scheme"] for row in again[-2:]] == ["1, batch, uniform"] * 2
    assert sorted(map(str, again)) == sorted(map(str, rows))
    capsys.readouterr()
    (folder / "causes.csv").write_bytes(before)
    monkeypatch.setattr(causes, "sampled", None)  # whoever measures, fails
    assert gradients.main(arguments) == 0
    assert (folder / "causes.csv").read_bytes() == before
    assert capsys.readouterr().out == first
    with pytest.raises(FileNotFoundError, match="Run first: python"):
        gradients.main(["--schemes", "--out", str(tmp_path)])
