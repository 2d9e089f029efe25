"""The main job's command line: its files, its verdict, its behaviour under Ctrl-C and bad options."""

import contextlib
import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cero_alloc import plotting
from helpers.jit import long_runs
from studies.regret import main, report, runs

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "regret_sim.py"
SMALL = ["--quick", "--jobs", "1", "--seeds", "1", "--max-rounds", "32", "--shapes", "exponential", "log"]


def read(file):
    with file.open() as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """Status, words and folder of a run in one process."""
    out, printed = tmp_path_factory.mktemp("quick"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main.main([*SMALL, "--out", str(out)])
    return status, printed.getvalue(), out


@pytest.fixture
def short_paper(monkeypatch):
    """The paper's pool for 20 rounds of its 500: the same code, for tests that do not look at its figures."""
    monkeypatch.setattr(runs, "PAPER", {**runs.PAPER, "total_budget": 20 * 512, "n_rounds": 20})


@long_runs
def test_quick_run_writes_everything(quick_run):
    status, printed, out = quick_run
    assert status == 0
    for words in ("1. RATE", "2a. PAPER", "2b. PAPER", "3. DRIFT", "0 above their bound", "cap and therefore vacuous"):
        assert words in printed
    pictures = {file.name for file in out.glob("*.png")}
    assert pictures == {"regret.png", "drift.png"} | {
        f"paper_{name}.png" for name in ("exposure", "pacing", "lift", "calibration", "mixed_groups")
    }
    rate = read(out / "rate.csv")
    assert len(rate) == 2 * 2 * 2
    assert all(float(row["regret"]) <= float(row["bound"]) for row in rate)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["finished"] is True
    assert summary["violations"] == []
    measured = summary["paper"]["measured"]
    # The published pacing of arXiv 2610.09679 follows from the algorithm alone, not from the pool.
    assert measured["surplus peak (rollouts)"] == [1920]
    assert measured["surplus at the end (rollouts)"] == [0]
    assert 485 <= measured["allocating rounds"][0] <= 489
    levels = [measured[f"prompts at {x} R"][0] for x in ("0.84", "1.12", "1.40")]
    assert sum(levels) == pytest.approx(1.0)
    assert min(levels) > 0.05


@pytest.mark.usefixtures("short_paper")
def test_measured_rates(tmp_path):
    file = tmp_path / "counts.csv"
    rng = np.random.default_rng(0)
    lines = [f"p{i},{epoch},10,{rng.integers(0, 11)}" for epoch in range(2) for i in range(70)]
    file.write_text("prompt_id,epoch,trials,successes\n" + "\n".join(lines) + "\n")
    out = tmp_path / "out"
    assert main.main([*SMALL, "--rates", str(file), "--out", str(out)]) == 0
    assert {row["path"] for row in read(out / "drift.csv")} == {"measured path"}


@pytest.mark.usefixtures("short_paper")
def test_a_violation_fails_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(main, "ROUNDING", -10.0)  # as if every regret were far above its bound
    assert main.main([*SMALL, "--out", str(tmp_path)]) == 1
    assert "VIOLATION" in capsys.readouterr().err


def test_interrupt_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    def outcomes(tasks, jobs):
        for part, cost, call in tasks.calls[-3:]:  # the shortest ones
            yield part, cost, call()
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_outcomes", outcomes)
    monkeypatch.setattr(main, "_ignore_interrupt", lambda: None)  # pytest needs its own Ctrl-C
    assert main.main([*SMALL, "--out", str(tmp_path)]) == 130
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["finished"] is False
    assert sum(len(read(tmp_path / f"{part}.csv")) for part in ("rate", "drift")) == 3


@pytest.mark.parametrize("order", [1, -1])
def test_curves_keep_their_colours_whatever_run_ends_first(tmp_path, monkeypatch, order):
    drawn = []
    plot = plotting.plot_regret
    monkeypatch.setattr(plotting, "plot_regret", lambda curves, ax: (drawn.append(list(curves)), plot(curves, ax)))
    rows = [
        {"shape": shape, "rates": rates, "seed": 0, "rounds": rounds, "regret": 0.1, "bound": 1.0}
        for shape in ("exponential", "log")
        for rates in ("known", "learnt")
        for rounds in (16, 32)
    ]
    report.draw(tmp_path, {"rate": rows[::order], "drift": []}, {})
    assert drawn == [["known rates", "learnt rates"]] * 2


@pytest.mark.slow
@long_runs
def test_processes_give_the_same_results(quick_run, tmp_path):
    command = [sys.executable, str(SCRIPT), *SMALL, "--jobs", "2", "--out", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    for part in ("rate", "paper", "drift"):
        assert (tmp_path / f"{part}.csv").read_bytes() == (quick_run[2] / f"{part}.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds and --jobs must be at least 1"),
        (["--max-rounds", "100"], "--max-rounds must be a power of 2"),
        (["--rates", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--shapes", "square"], "invalid choice"),
    ],
)
def test_bad_options(capsys, arguments, message):
    with pytest.raises(SystemExit):
        main.main(arguments)
    assert message in capsys.readouterr().err
