"""Columns that are found, the options of the reader, and what it refuses; more ways of writing a log are in test_cases."""

import importlib.util
import json
from pathlib import Path

import pytest

from cero_alloc import __main__ as cli
from cero_alloc.replay import read_log


def figures(log):
    """Return prompts, steps, groups, rollouts, and groups that are dead, all right and all wrong."""
    dead = log.dead
    right, wrong = int((dead & (log.successes == log.trials)).sum()), int((dead & (log.successes == 0.0)).sum())
    return log.n_prompts, log.n_steps, log.trials.size, log.n_rollouts, int(dead.sum()), right, wrong


WINS = {("a", 1): [1, 1], ("b", 1): [0, 1], ("c", 1): [0, 0], ("a", 2): [1, 1], ("b", 2): [1, 0]}
ROWS = [(prompt, step, reward) for (prompt, step), rewards in WINS.items() for reward in rewards]
SMALL = (3, 2, 5, 10, 3, 2, 1)


def table(rows=ROWS):
    return "\n".join(",".join(map(str, row)) for row in (("prompt", "step", "reward"), *rows)) + "\n"


def lines(rows=ROWS, **more):
    return "".join(json.dumps({"reward": r, "prompt": p, "step": t} | more) + "\n" for p, t, r in rows)


WRITTEN = {
    "words.csv": table([(p, t, "CI"[1 - r]) for p, t, r in ROWS]),
    "one_function.json": json.dumps({"columns": ["step", "prompt", "acc_reward"], "data": [[t, p, r] for p, t, r in ROWS]}),
    "nested.jsonl": "".join(
        json.dumps({"task": {"key": p}, "run": {"work": {"step": t}}, "reward": {"score": r, "note": "x"}}) + "\n"
        for p, t, r in ROWS
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_columns_that_are_found(tmp_path, name):
    file = tmp_path / name
    file.write_text(WRITTEN[name])
    log = read_log(file)
    assert figures(log) == SMALL
    assert (log.n_bad, log.reading.unscored, log.n_lines) == (0, 0, 10)


def test_the_options(tmp_path):
    file = tmp_path / "log.jsonl"
    rows = [
        {"s": "x", "i": p, "step": t, "a_reward": r, "b_reward": 1, "split": ("test" if t == 2 else "train")}
        for p, t, r in ROWS
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read_log(file, prompt_id="s,i", reward="a_reward+b_reward", where="split=train")
    assert figures(log) == (3, 1, 3, 6, 2, 1, 1)
    assert log.reading.scale.kind == "1/2"
    assert log.prompt_ids == ("x / a", "x / b", "x / c")
    assert log.reading.columns["reward"] == "a_reward+b_reward"
    log = read_log(file, prompt_id="i", reward="a_reward+b_reward", reward_range=(0, 4))
    assert log.entry_reward.max() == 0.5
    log = read_log(file, prompt_id="i", reward="a_reward+b_reward", success_at=2)
    assert figures(log) == SMALL


def test_groups_of_a_prompt_in_a_step_are_told_apart_and_joined(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text(lines([("a", 1, 0), ("a", 1, 0)], uid="u") + lines([("a", 1, 1), ("b", 1, 1)], uid="v"))
    log = read_log(file)
    assert figures(log) == (2, 1, 3, 4, 3, 2, 1)
    assert figures(log.joined())[2:5] == (2, 4, 1)
    assert log.joined().joined().trials.tolist() == [3, 1]


def test_samples_one_after_the_other_are_no_restarts(tmp_path):
    file = tmp_path / "log.csv"
    rows = [(p, t, r) for t in range(1, 5) for p in "abc" for r in (0, 1)]
    file.write_text(table([row for j in (0, 1) for row in rows[j::2]]))
    assert read_log(file).reading.doubts == ()


def test_too_many_bad_lines_are_refused_by_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text(table(ROWS * 4 + [("a", 1, "x")] * 5))
    assert cli.main(["replay", "log.csv", "--no-plot", "--n-boot", "5"]) == 2
    assert "got 5 bad lines of 45" in capsys.readouterr().err
    assert cli.main(["replay", "log.csv", "--no-plot", "--n-boot", "5", "--keep-going"]) == 0
    assert "warning: 5 of 45 lines (11.1%) could not be used" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("compression") is not None, reason="this Python reads zstd")
def test_zstd_says_what_to_do(tmp_path):
    (tmp_path / "log.zst").write_bytes(b"\x28\xb5\x2f\xfd rest")
    with pytest.raises(ValueError, match="zstd -d"):
        read_log(tmp_path / "log.zst")
