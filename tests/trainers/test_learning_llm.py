"""The learning study of a small language model, on a Llama of a few thousand parameters: decoder, prompts, runs."""

import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install torch")
pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from studies.learning import llm_prompts, llm_study, main
from studies.learning.dealing import Run, dead
from studies.learning.llm_decoder import Decoder, Sampler, Shape
from studies.learning.llm_model import missing, restore, state_of
from studies.learning.llm_prompts import BANDS, FAMILIES, Problem, Sizes, by_band, draw, world
from studies.learning.llm_train import Setting, Training, success, warm_start
from studies.learning.pauses import STOPPED, Pauses

pytestmark = pytest.mark.trainers

SYMBOLS = "\x00 +=0123456789abcdefghijklmnopqrstuvwxyz_|<>\n"
STOP = 0
SETTING = Setting(
    Sizes(32, 8, 24), n_rounds=5, rollouts=16, measured=2, warm_steps=60, warm_batch=8, warm_rate=1e-2, side_by_side=6,
    portion=8,
)  # fmt: skip
RATE = 1e-3
GRADER = llm_prompts._grader
needs_questions = pytest.mark.skipif(
    find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed: pip install -e '.[learn-llm]'"
)


def tiny(seed, vocabulary, context):
    """A Llama of a few thousand parameters."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=context, tie_word_embeddings=True, initializer_range=0.3,
            bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )
    )  # fmt: skip


class StopsAt(Pauses):
    """Stops a run at these checks, counted from 1."""

    def __init__(self, *checks):
        super().__init__(every=float("inf"))
        self.checks, self.seen = checks, 0

    def over(self):
        return self.seen in self.checks

    def check(self, save):
        self.seen += 1
        return super().check(save)


class Letters:
    """A tokenizer with a token per character."""

    eos_token_id = STOP

    def encode(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return [SYMBOLS.index(symbol) for symbol in text]

    def decode(self, tokens):
        return "".join(SYMBOLS[token] for token in tokens)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the same seed gives other sums with another number of threads
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def sums():
    """Sums instead of reasoning-gym's questions, in bands without a meaning."""

    def drawn(seed, sizes):
        pairs = [divmod(int(n), 40) for n in np.random.default_rng(seed).permutation(400)]
        entries = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a, b in pairs]
        problems = [Problem("sums", i % len(BANDS), entry) for i, entry in enumerate(entries)]
        ends = np.cumsum([0, sizes.train, sizes.held, sizes.warm])
        return tuple(problems[a:b] for a, b in pairwise(ends))

    def grader(family):
        return (lambda answer, entry: float(answer == entry["answer"])) if family == "sums" else GRADER(family)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llm_prompts, "draw", drawn)
        patch.setattr(llm_prompts, "_grader", grader)
        yield


@pytest.fixture(scope="module")
def warm(sums):
    """A world, and the parameters of a model that answers some of its sums."""
    model, w = tiny(0, len(SYMBOLS), 100), world(0, SETTING.prompts, Letters())
    warm_start(model, w, SETTING, 0)
    return w, state_of(model)


@pytest.fixture
def small(warm):
    """The model, and its world."""
    w, state = warm
    model = tiny(0, len(SYMBOLS), 100)
    restore(model, state)
    return model, w


def rows_of(rng, rows, width, length, vocabulary):
    """Return prompts with blanks in front, and answers of which some end early and some do not end."""
    blanks = rng.integers(0, width - 1, rows)
    prompts = rng.integers(1, vocabulary, (rows, width))
    prompts[np.arange(width) < blanks[:, None]] = STOP
    answers = rng.integers(1, vocabulary, (rows, length))
    for row, end in zip(answers[::2], rng.integers(0, length, rows), strict=False):
        row[end:] = STOP
    return [torch.from_numpy(array) for array in (prompts, blanks, answers)]


def plain(model, prompt, blank, answer):
    """Return the logits before each token of an answer, by the model's own forward pass over the text alone."""
    text = torch.cat([prompt[blank:], answer])
    return model(text[None]).logits[0, len(prompt) - blank - 1 : -1]


def slow_likelihood(model, prompt, blank, answer):
    end = answer.tolist().index(STOP) + 1 if STOP in answer.tolist() else len(answer)
    logits = torch.log_softmax(plain(model, prompt, blank, answer), -1)
    return sum(logits[t, answer[t]] for t in range(end))


def test_likelihoods_and_gradients_are_the_models_own():
    model = tiny(1, 17, 40)
    prompts, blanks, answers = rows_of(np.random.default_rng(0), 9, 11, 5, 17)
    found = Decoder(model, Shape(11, 5, STOP)).log_likelihood(prompts, blanks, answers)
    expected = torch.stack([slow_likelihood(model, *row) for row in zip(prompts, blanks, answers, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    weights = torch.randn(9, generator=torch.Generator().manual_seed(0))
    parameters = list(model.parameters())
    ours = torch.autograd.grad((found * weights).sum(), parameters)
    theirs = torch.autograd.grad((expected * weights).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rows", [3, 40])
def test_samples_are_the_inverse_of_the_distribution(rows):
    model, rng = tiny(2, 17, 40), np.random.default_rng(1)
    prompts, blanks, _ = rows_of(rng, 7, 11, 5, 17)
    group = torch.from_numpy(rng.integers(0, 7, 20))
    uniforms = rng.random((20, 5), dtype=np.float32)
    uniforms[0], uniforms[1] = 0.0, 1.0 - 2.0**-24  # the ends of [0, 1)
    sampler = Sampler(Decoder(model, Shape(11, 5, STOP)), rows)
    found = sampler.sample(prompts, blanks, group, uniforms)
    ended = 0
    with torch.no_grad():
        for g, draw_of, answer in zip(group, uniforms, found, strict=True):
            for t, logits in enumerate(plain(model, prompts[g], blanks[g], answer)):
                below = torch.softmax(logits.double(), -1).cumsum(-1)
                assert answer[t] == min(int((below <= draw_of[t]).sum()), 16)
                if answer[t] == STOP:
                    ended += 1
                    assert answer[t:].tolist() == [STOP] * (5 - t)
                    break
    assert 0 < ended < 20
    again = sampler.sample(prompts, blanks, group, uniforms)
    assert torch.equal(again, found)


def test_steps_that_are_captured_draw_the_same(monkeypatch):
    """Stand-ins for CUDA: what is captured leaves no trace, and is carried out when it is replayed."""
    model, rng = tiny(2, 17, 40), np.random.default_rng(1)
    prompts, blanks, _ = rows_of(rng, 7, 11, 5, 17)
    shape, group = Shape(11, 5, STOP), torch.from_numpy(rng.integers(0, 7, 20))
    plainly, sampler = Sampler(Decoder(model, shape), 6), Sampler(Decoder(model, shape), 6, graphs=True)
    held = [value for value in vars(sampler).values() if isinstance(value, torch.Tensor)]
    captures = []

    class Graph:
        def pool(self):
            return "pool"

        def replay(self):
            sampler._step(self.t)

    @contextmanager
    def graph(found, pool):
        assert pool == ("pool" if captures else None)
        found.t = len(captures)
        captures.append(found)
        before = [value.clone() for value in held]
        yield
        for value, then in zip(held, before, strict=True):
            value.copy_(then)

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "CUDAGraph": Graph, "graph": graph, "Stream": lambda: stream, "current_stream": lambda: stream,
        "stream": lambda aside: nullcontext(),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    for _ in range(3):
        uniforms = rng.random((20, 5), dtype=np.float32)
        assert torch.equal(*(one.sample(prompts, blanks, group, uniforms) for one in (plainly, sampler)))
    assert len(captures) == 5


def test_parameters_are_restored_in_place():
    model, other = tiny(0, 9, 20), tiny(1, 9, 20)
    places = [p.data_ptr() for p in model.parameters()]
    restore(model, state_of(other))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert [p.data_ptr() for p in model.parameters()] == places
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with pytest.raises(ValueError, match="state must hold the parameters of the model, missing or foreign"):
        restore(model, {})


@needs_questions
def test_questions_are_disjoint_and_repeat_with_their_seed():
    sizes = Sizes(160, 48, 64)
    parts = draw(3, sizes)
    assert [len(part) for part in parts] == [160, 48, 64]
    asked = [[problem.entry["question"] for problem in part] for part in parts]
    assert len({question for part in asked for question in part}) == 160 + 48 + 64
    assert [[problem.entry["question"] for problem in part] for part in draw(3, sizes)] == asked
    assert not set(asked[0]) & {problem.entry["question"] for problem in draw(4, sizes)[0]} - set(easy(parts))
    for part in parts:
        for family in FAMILIES:
            for band in range(len(BANDS)):
                n = sum((problem.family, problem.band) == (family, band) for problem in part)
                assert abs(n - len(part) / 16) < 1


def easy(parts):
    """Return the questions of the smallest levels, which two seeds may share."""
    return [problem.entry["question"] for part in parts for problem in part if problem.band < 2]


@needs_questions
def test_a_level_with_too_few_questions():
    with pytest.raises(ValueError, match=r"spell_backward must have \d+ different easy questions, got \d+"):
        draw(0, Sizes(8000, 4, 4, ("spell_backward",)))


@needs_questions
def test_graders_give_all_points_for_right_answers_only():
    odd = ["", " ", "nan", "sNaN", "inf", "1e9999", "-", "0x", "½", "[", "\x00", "9" * 400]
    for part in draw(1, Sizes(64, 16, 16)):
        for problem in part:
            answer = problem.entry["answer"]
            assert problem.right(answer)
            assert problem.right(f" {answer}\n")
            assert not problem.right(answer + answer[-1] + "1")
            assert not any(problem.right(text) for text in odd)


@needs_questions
def test_the_study_has_its_pool():
    setting = llm_study.FULL
    train, held, warm = draw(0, setting.prompts)
    assert len(train) == 4096
    assert len({problem.entry["question"] for part in (train, held, warm) for problem in part}) == 4096 + 512 + 2048


def test_right_answers_are_encoded_and_read_again():
    w = world(5, SETTING.prompts, Letters())
    rows = np.arange(32)
    assert w.right(rows, w.train.answers).all()
    assert not w.right(rows, np.roll(w.train.answers, 1, axis=0)).all()
    endless = np.where(w.train.answers == STOP, SYMBOLS.index(" "), w.train.answers)
    assert not w.right(rows, endless).any()
    for i, problem in enumerate(w.train.problems):
        text = Letters().decode(w.train.tokens[i, w.train.blanks[i] :].tolist())
        assert text == llm_prompts.OPENING + problem.entry["question"] + llm_prompts.CLOSING
    assert w.train.blanks.min() >= 0
    assert min(part.blanks.min() for part in (w.train, w.held, w.warm)) == 0


def test_bands_and_dead_groups():
    w = world(5, SETTING.prompts, Letters())
    assert by_band(np.arange(8) / 10.0, w.held) == {
        band: pytest.approx(np.mean(np.arange(8)[w.held.bands == i]) / 10) for i, band in enumerate(BANDS)
    }
    assert dead(np.array([0.0, 1.0, 0.5])) == pytest.approx((1 + 1 + 2 / 256) / 3)


def test_success_is_how_often_samples_are_right(small):
    model, w = small
    decoder = Decoder(model, w.shape)
    rates = success(decoder, w.train, 5)
    n = 200
    group = torch.arange(32).repeat_interleave(n)
    uniforms = np.random.default_rng(0).random((32 * n, w.shape.length), dtype=np.float32)
    tokens, blanks = torch.from_numpy(w.train.tokens), torch.from_numpy(w.train.blanks)
    answers = Sampler(decoder, 500).sample(tokens, blanks, group, uniforms).numpy()
    right = w.right(group.numpy(), answers).reshape(32, n).mean(1)
    assert 0.01 < rates.max() < 1.0
    assert (np.abs(right - rates) <= 5.0 * np.sqrt(rates * (1.0 - rates) / n) + 1e-3).all()


def train(run, start, w, file, *checks):
    """Run to the end, or until one of these checks, with a model of its own."""
    model = tiny(9, len(SYMBOLS), 100)
    restore(model, start)
    return Training(run, model, w, SETTING).finish(file, StopsAt(*checks)), state_of(model)


@pytest.mark.parametrize(
    "name", ["uniform", "1, posterior, re-solving", "1, posterior, uniform", "1, posterior, clairvoyant", "DAPO"]
)
def test_a_stopped_run_goes_on_bit_for_bit(name, small, tmp_path):
    model, w = small
    start, run = state_of(model), Run(("sums", "warm start"), name, RATE, 0)
    whole, weights = train(run, start, w, tmp_path / "whole.pt")
    for check, round_ in ((2, 1), (3, 3), (1, 3)):
        assert train(run, start, w, tmp_path / "parts.pt", check)[0] is None
        assert torch.load(tmp_path / "parts.pt", weights_only=False)["round"] == round_
    assert [file.name for file in tmp_path.iterdir()] == ["parts.pt"]
    parts, again = train(run, start, w, tmp_path / "parts.pt")
    assert not list(tmp_path.iterdir())
    assert {**parts, "seconds": 0.0} == {**whole, "seconds": 0.0}
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    assert len(whole["rollouts"]) == len(whole["held_out"]) == 4
    assert whole["spent"] == whole["rollouts"][-1] > 0
    assert len(set(whole["held_out"])) > 1  # it learnt something
    assert whole["bands"].keys() == set(BANDS)


def test_a_file_of_another_run_is_refused(small, tmp_path):
    model, w = small
    start, file = state_of(model), tmp_path / "run.pt"
    assert train(Run(("sums", "warm start"), "uniform", RATE, 0), start, w, file, 2)[0] is None
    other = Training(Run(("sums", "warm start"), "uniform", RATE, 1), model, w, SETTING)
    with pytest.raises(
        ValueError, match=r"run\.pt must be of the same runs and sizes, got \[\{.*'seed': 0\}\]\. Delete it\."
    ):
        other.load(file)


def test_a_round_climbs_the_advantages(small):
    model, w = small
    before = success(Decoder(model, w.shape), w.train, 5)
    training = Training(Run(("sums", "warm start"), "1, posterior, uniform", 1e-3, 0), model, w, SETTING)
    for _ in range(5):
        training.play()
    assert success(training.decoder, w.train, 5).mean() > before.mean()
    assert training.dealing.spent == 5 * 16


def test_a_round_without_rollouts_moves_by_momentum(small):
    model, w = small
    training = Training(Run(("sums", "warm start"), "1, posterior, uniform", 1e-3, 0), model, w, SETTING)
    training.play()
    before, nothing = state_of(model), np.zeros(0, dtype=np.int64)
    training.dealing.open = lambda k: (nothing, nothing)
    training.dealing.scored = np.zeros(0)
    training.play()
    assert training.dealing.spent == 16
    assert any(not torch.equal(value, before[name]) for name, value in state_of(model).items())


@pytest.fixture
def quick(monkeypatch):
    """The command's smoke run, on a tiny model."""
    monkeypatch.setattr(llm_study, "load", lambda folder: (tiny(0, len(SYMBOLS), 100), Letters()))
    monkeypatch.setattr(llm_study, "QUICK", replace(SETTING, warm_steps=8))
    monkeypatch.setattr(llm_study, "settle", lambda device: None)  # the threads stay as they are
    monkeypatch.setattr(main, "missing", lambda: "")
    return ["--policy-model", "smollm2", "--quick", "--out"]


def test_the_command_goes_on_where_it_was_stopped(quick, tmp_path, monkeypatch, capsys):
    assert main.main([*quick, str(tmp_path / "whole")]) == 0
    told = capsys.readouterr().out
    for words in (
        "mixed / warm start; common learning rate; 2 pairs",
        "HELD OUT, BAND BY BAND",
        "hardest",
        "GROUPS OF 8",
        "1, posterior, re-solving",
    ):
        assert words in told
    assert main.main([*quick, str(tmp_path / "whole")]) == 0  # only reported again
    assert capsys.readouterr().out == told

    stopped = []
    for check in (1, 4, 6, 100):
        pauses = StopsAt(check)
        monkeypatch.setattr(llm_study, "Pauses", lambda end, pauses=pauses: pauses)
        status = main.main([*quick, str(tmp_path / "parts"), "--minutes", "8"])
        stopped.append(capsys.readouterr().err.splitlines()[-1] if status else "")
        assert status == (STOPPED if check < 100 else 0)
    assert stopped[0] == "Stopped; comparing: 6 of 6 runs are left. The same command goes on from there."
    assert stopped[1] != stopped[2]
    whole, parts = (runs_in(tmp_path / name / "smollm2-quick" / "runs.jsonl") for name in ("whole", "parts"))
    assert whole == parts
    assert len(whole) == 6
    assert not list(tmp_path.glob("*/*/stopped_*"))
    assert (tmp_path / "parts" / "smollm2-quick" / "bands.csv").read_text().count("\n") == 1 + 6 * 4 * len(BANDS)


def test_warm_starts_begin_from_the_pretrained_model_and_end_with_the_time(quick, tmp_path, capsys):
    arguments = [*quick, str(tmp_path)]
    assert main.main([*arguments, "--minutes", "1e-9"]) == STOPPED
    assert "Stopped; warm starts: 2 of 2 are left." in capsys.readouterr().err
    assert main.main(arguments) == 0
    file = tmp_path / "smollm2-quick" / "start_1.pt"
    before = torch.load(file, weights_only=True)
    file.unlink()
    assert main.main(arguments) == 0
    assert all(torch.equal(before[name], value) for name, value in torch.load(file, weights_only=True).items())


def runs_in(file):
    return [{**json.loads(line), "seconds": 0.0} for line in file.read_text().splitlines()]


def test_words_where_something_is_missing(monkeypatch, capsys):
    def refused(*arguments):
        with pytest.raises(SystemExit) as left:
            main.parse(["--policy-model", *arguments])
        assert left.value.code == 2
        return capsys.readouterr().err

    monkeypatch.setattr(main, "missing", lambda: "gguf not installed: pip install it")
    assert "--policy-model smollm2 needs more: gguf not installed" in refused("smollm2", "--quick")
    monkeypatch.setattr(main, "missing", lambda: "")
    assert "the full study of smollm2 needs a GPU: add --device cuda" in refused("smollm2")
    assert "--minutes goes with --policy-model transformer or smollm2" in refused("loglinear", "--minutes", "8")
    assert "--minutes must be positive" in refused("transformer", "--minutes", "0")
    assert main.parse(["--policy-model", "smollm2", "--quick"]).seeds == 2
    full = main.parse(["--policy-model", "smollm2", "--device", "cuda"])
    assert (full.seeds, full.jobs) == (3, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"--device cuda: PyTorch .* finds no GPU here"):
        llm_study.smollm2(full, float("inf"))


def test_the_full_study(tmp_path):
    study = llm_study.study_of(3, tmp_path, "cuda", False, float("inf"))
    assert study.policies == ("uniform", "1, posterior, uniform", "1, posterior, re-solving")
    assert not set(study.seeds) & set(study.tuning_seeds)
    assert (len(study.seeds), study.widen) == (3, 3.0)


@pytest.mark.slow  # it takes minutes
@pytest.mark.skipif(bool(missing()), reason=missing() or "installed")
def test_the_smoke_run_of_the_model_itself(tmp_path, capsys):
    assert main.main(["--policy-model", "smollm2", "--quick", "--out", str(tmp_path)]) == 0
    assert "mixed / warm start; common learning rate; 2 pairs" in capsys.readouterr().out
    for record in runs_in(tmp_path / "smollm2-quick" / "runs.jsonl"):
        assert record["spent"] == 16
        assert 0.0 <= record["held_out"][-1] <= 1.0
