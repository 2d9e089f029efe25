"""The second benchmark's command line: its tables, files and verdict."""

import csv

import numpy as np
import pytest

from studies.resolving import main, report, sizes
from studies.resolving.solver import best_totals


def read(file):
    with file.open() as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(autouse=True)
def small_pools(monkeypatch):
    """The same code on a fifth of the prompts."""
    for name, size in (("M", 200), ("BATCH", 10), ("WHOLE", 40), ("ROUNDS", 30)):
        monkeypatch.setattr(sizes, name, size)


def test_quick_run_writes_everything(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    lines = [f"p{i},0,20,{rng.binomial(20, rng.beta(0.4, 0.4))}" for i in range(120)]
    (data / "model.csv").write_text("prompt_id,epoch,trials,successes\n" + "\n".join(lines) + "\n")
    out = tmp_path / "out"
    assert main.main(["--quick", "--seeds", "1", "--jobs", "1", "--data", str(data), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for words in (
        "1a. KNOWN",
        "1b. KNOWN",
        "2. BATCH",
        "3. LEARNT",
        "4a. POOLS",
        "4b. TOKENS",
        "4c. ORDERS",
        "5. SATURATION",
        "6. PRIORS",
        "7. PROMISES",
    ):
        assert words in printed
    assert {file.name for file in out.glob("*.png")} == {"epochs.png", "saturation.png"}
    learnt = read(out / "learnt.csv")
    regret = {(row["policy"], row["epochs"]): float(row["regret"]) for row in learnt if row["scaling"] == "height"}
    # Without evidence the first epoch is the even deal, to the rollout.
    assert regret["Resolving, flat", "1"] == regret["uniform", "1"]
    assert regret["Resolving, flat", "4"] < regret["uniform", "4"]
    assert all(float(row["regret"]) <= 1e-9 for row in read(out / "known.csv"))
    orders = {
        (row["quantum"], row["order"]): float(row["first"]) - float(row["last"]) for row in read(out / "orders.csv")
    }
    assert all(orders[quantum, "spread"] < orders[quantum, "best"] for quantum in ("1", "8"))
    assert {row["file"] for row in read(out / "priors.csv")} == {"model"}


def test_says_when_there_is_no_data(tmp_path, monkeypatch, capsys):
    parts = main.plan
    keep = {
        "known": 4,
        "settings": 1,
        "envelope": 3,
        "learnt": 2,
        "tokens": 1,
        "orders": 1,
        "saturation": 2,
        "promises": 3,
    }
    monkeypatch.setattr(
        main,
        "plan",
        lambda options: {name: calls[: keep.get(name, 0)] for name, calls in parts(options).items()},
    )
    monkeypatch.setattr(main, "print_pools", lambda rows: None)
    monkeypatch.setattr(main, "draw", lambda *args: None)
    arguments = ["--quick", "--seeds", "1", "--jobs", "1", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main.main(arguments) == 0
    assert "PRIORS: skipped" in capsys.readouterr().out


def test_a_broken_guarantee_fails_the_run(capsys):
    rows = [
        {"kind": "exact", "seed": 0, "calls": 10, "hit": 9, "broken": 0, "unspent": 0.0},
        {"kind": "tokens", "seed": 1, "calls": 10, "hit": 0, "broken": 1, "unspent": 0.0},
        {"kind": "paced", "seed": 2, "calls": 0, "hit": 0, "broken": 0, "unspent": 0.5},
    ]
    assert report.print_promises(rows) == ["exact totals", "token caps", "unspent"]
    assert "9 of 10 calls" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--jobs", "0"]])
def test_refuses_bad_options(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(arguments)
    assert stop.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_the_dynamic_program_is_one():
    gains = np.array([[3.0, 1.0], [2.0, 2.0]])
    assert best_totals(gains, 0).tolist() == [0.0, 3.0, 5.0, 7.0, 8.0]
    assert best_totals(gains, 2).tolist() == [0.0, -np.inf, 4.0, -np.inf, 8.0]
