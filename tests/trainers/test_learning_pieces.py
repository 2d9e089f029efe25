"""Transformer studies in pieces, and their bands of difficulty, up to 10 million parameters; needs torch."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install torch")

import torch

from studies.learning import main, worlds
from studies.learning.dealing import Run
from studies.learning.pauses import STOPPED, PausedError, Pauses
from studies.learning.study import run_study
from studies.learning.transformer import SIZES, Size, models, success, train, warm_starts, world

pytestmark = [pytest.mark.trainers, pytest.mark.usefixtures("one_thread")]

SIZE = Size(
    16, 2, 2, n_prompts=24, n_rounds=8, rollouts=64, measured=2, warm_rate=1e-2, warm_steps=60, warm_corpus=300,
    levels=(("late", 0.2),),
)  # fmt: skip
RATE = 1e-2


@pytest.fixture(scope="module")
def starts(one_thread):
    """Starts of two seeds, who answer some questions."""
    return warm_starts("modular", SIZE, [0, 1], "cpu")


def run(name, seed, rate=RATE):
    return Run(("modular", "late"), name, rate, seed)


class StopsAt(Pauses):
    """Stops runs at one check, counted from 1."""

    def __init__(self, check):
        super().__init__(every=float("inf"))
        self.stop, self.seen = check, 0

    def over(self):
        return self.seen == self.stop

    def check(self, save):
        self.seen += 1
        return super().check(save)


@pytest.mark.parametrize(
    "names",
    [
        ("uniform", "1, posterior, re-solving"), ("clairvoyant", "1, posterior, uniform"), ("DAPO", "DAPO"),
        ("FenchelDual", "random-matched"), ("Knapsack RL", "VIP"), ("MoPPS", "Resolving 1, re-deal"),
        ("greedy", "training"),
    ],
)  # fmt: skip
def test_stopped_runs_go_on_bit_for_bit(names, starts, tmp_path):
    runs = [run(name, seed, RATE / (1 + seed)) for seed, name in enumerate(names)]
    begin = [starts[seed]["late"] for seed in (0, 1)]
    size = replace(SIZE, banded=True, rollouts=16 if "posterior" in names[1] else 64)
    file = tmp_path / "stopped.pt"
    schedules = [np.tile(np.repeat([4, 0], [16, 8]), (8, 1))] * 2 if "random-matched" in names else None
    if schedules:
        runs = [run("random-matched", seed) for seed in (0, 1)]

    def go_on(*pauses):
        return train(runs, size, begin, "cpu", schedules, *pauses)

    whole = go_on()
    for check in (1, 4, 3):
        assert go_on(StopsAt(check), file) == []
    assert torch.load(file, weights_only=False)["round"] == 0 + 3 + 2
    parts = go_on(None, file)
    assert not list(tmp_path.iterdir())
    for ours, theirs in zip(parts, whole, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours.pop("counts"), theirs.pop("counts"), strict=True))
        assert ours == theirs
        assert len(theirs["held_out"]) == 5
        assert len(set(theirs["held_out"])) > 3  # it moved


def test_a_file_of_other_sizes_is_refused(starts, tmp_path):
    runs, begin, file = [run("uniform", 0)], [starts[0]["late"]], tmp_path / "stopped.pt"
    assert train(runs, SIZE, begin, "cpu", None, StopsAt(1), file) == []
    with pytest.raises(ValueError, match=r"stopped\.pt must be of the same runs and sizes, got .* Delete it\."):
        train(runs, replace(SIZE, n_rounds=9), begin, "cpu", None, None, file)


def test_bands_are_thirds_by_success_at_the_start(starts):
    size = replace(SIZE, n_prompts=24, banded=True)
    runs, begin = [run("uniform", 0), run("uniform", 1)], [starts[i]["late"] for i in (0, 1)]
    for seed, (record, start) in enumerate(zip(train(runs, size, begin, "cpu"), begin, strict=True)):
        model, w = models("modular", size, [0], "cpu"), world("modular", 24, SIZE.warm_corpus, seed)
        model.load([start])
        held, pool = (
            success(model, [prompts], [answers])[0]
            for prompts, answers in ((w.held_prompts, w.held_answers), (w.prompts, w.answers))
        )
        firsts = [curve[0] for curve in record["bands"].values()]
        np.testing.assert_allclose(firsts, np.sort(held).reshape(3, 8).mean(1), atol=2e-6)
        assert record["dead"] == pytest.approx(np.mean(pool**8 + (1 - pool) ** 8), abs=1e-4)
        means = np.mean(list(record["bands"].values()), axis=0)
        np.testing.assert_allclose(means, record["held_out"], atol=2e-6)


def test_ten_million_parameters():
    """Two rounds of the study's model and policies, on few prompts."""
    full = SIZES["single large"]
    assert (full.n_prompts, full.n_rounds, full.rollouts) == (4096, 384, 128)
    size = replace(full, n_prompts=16, n_rounds=2, rollouts=16, measured=2, warm_steps=10, warm_batch=4, warm_corpus=40)
    model = models("addition", size, [0], "cpu")
    assert 10.5e6 < model.size < 10.7e6
    study = worlds.transformer(3, None, "cpu", 5, "single large")
    assert study.policies == ("uniform", "1, posterior, uniform", "1, posterior, re-solving")
    assert not set(study.seeds) & set(study.tuning_seeds)
    (start,) = warm_starts("addition", size, [0], "cpu")
    runs = [Run(study.cells[0], name, 1e-3, 0) for name in study.policies]
    records = train(runs, size, [start["quarter"]] * 3, "cpu")
    for record in records:
        assert record["spent"] == 32
        assert len(record["bands"]) == 3
    assert len({record["held_out"][0] for record in records}) == 1
    assert records[1]["held_out"][0] != records[1]["held_out"][1]  # it moved


def test_the_command_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    arguments = ["--policy-model", "transformer", "--size", "single large", "--quick", "--jobs", "1", "--out"]
    assert main.main([*arguments, str(tmp_path / "whole")]) == 0
    told = capsys.readouterr().out
    for words in (
        "HELD OUT, BAND BY BAND",
        "easiest third",
        "addition / hard; own",
        "1, posterior, re-solving",
        "GROUPS OF 8",
    ):
        assert words in told
    assert main.main([*arguments, str(tmp_path / "parts"), "--minutes", "1e-9"]) == STOPPED
    assert "Stopped; warm starts are left. The same command goes on from there." in capsys.readouterr().err
    stopped = []
    for check in (1, 2, 3, 7, 100):
        pauses = StopsAt(check)
        monkeypatch.setattr(worlds, "Pauses", lambda end, pauses=pauses: pauses)
        status = main.main([*arguments, str(tmp_path / "parts"), "--minutes", "8"])
        assert status == (STOPPED if check < 100 else 0)
        stopped += [line for line in capsys.readouterr().err.splitlines() if line.startswith("Stopped; ")]
    assert "tuning: 6 of 6 runs are left" in stopped[0]
    assert len(stopped) == 4
    whole, parts = (tmp_path / name / "transformer-single-large-quick" for name in ("whole", "parts"))
    assert (whole / "runs.jsonl").read_bytes() == (parts / "runs.jsonl").read_bytes()
    assert (whole / "bands.csv").read_bytes() == (parts / "bands.csv").read_bytes()
    assert not list(parts.glob("stopped_*"))


def test_pauses_reach_worker_processes(tmp_path):
    """The end is passed on, and what they leave undone is told."""
    study = worlds.transformer(2, tmp_path, "cpu", 5, "single large quick", end=1.0)
    with pytest.raises(PausedError, match="tuning: 6 of 6 runs are left"):
        run_study(study, tmp_path, 2)
    assert [file.name for file in tmp_path.iterdir()] == ["runs.jsonl"]
    assert not (tmp_path / "runs.jsonl").read_text()


def test_pauses_save_and_stop(monkeypatch):
    now, saves = [0.0], []
    monkeypatch.setattr("time.time", lambda: now[0])
    pauses = Pauses(end=60.0, every=20.0)
    for now[0] in (1.0, 19.0, 21.0, 30.0, 42.0):
        assert not pauses.check(lambda: saves.append(now[0]))
    assert saves == [21.0, 42.0]
    now[0] = 60.0
    assert pauses.check(lambda: saves.append(now[0]))
    assert saves == [21.0, 42.0, 60.0]
    now[0] = 1e12
    assert not Pauses().over()
