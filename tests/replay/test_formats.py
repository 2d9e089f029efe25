"""Every way of writing one small log, the options of the reader, and what it doubts."""

import bz2
import gzip
import importlib.util
import json
import lzma
from pathlib import Path

import pytest

from cero_alloc import __main__ as cli
from cero_alloc.replay import read_log


def figures(log):
    """Return prompts, steps, groups, rollouts, and groups that are dead, all right and all wrong."""
    dead = log.dead
    right, wrong = int((dead & (log.successes == log.trials)).sum()), int((dead & (log.successes == 0.0)).sum())
    return log.n_prompts, log.n_steps, log.trials.size, log.n_rollouts, int(dead.sum()), right, wrong


# ---------------------------------------------------------------- the same kinds, small


WINS = {("a", 1): [1, 1], ("b", 1): [0, 1], ("c", 1): [0, 0], ("a", 2): [1, 1], ("b", 2): [1, 0]}
ROWS = [(prompt, step, reward) for (prompt, step), rewards in WINS.items() for reward in rewards]
SMALL = (3, 2, 5, 10, 3, 2, 1)


def table(mark=",", rows=ROWS, head=("prompt", "step", "reward")):
    return "\n".join(mark.join(map(str, row)) for row in (head, *rows)) + "\n"


def lines(rows=ROWS, **more):
    return "".join(json.dumps({"reward": r, "prompt": p, "step": t} | more) + "\n" for p, t, r in rows)


CSV = table().encode()
WRITTEN = {
    "semicolons.csv": table(";").encode(),
    "tabs.tsv": table("\t").encode(),
    "bars.csv": table("|").encode(),
    "wide.csv": table().encode("utf-16"),
    "packed.csv.gz": gzip.compress(CSV),
    "packed.csv.bz2": bz2.compress(CSV),
    "packed.csv.xz": lzma.compress(CSV),
    "lines.jsonl": lines().encode(),
    "array.json": json.dumps([dict(zip(("query", "step", "reward"), row, strict=True)) for row in ROWS]).encode(),
    "indented.json": json.dumps([{"query": p, "step": t, "reward": r} for p, t, r in ROWS], indent=2).encode(),
    "table.json": json.dumps({"columns": ["step", "prompt", "acc_reward"], "data": [[t, p, r] for p, t, r in ROWS]}).encode(),
    "columns.json": json.dumps(dict(zip(("prompt", "step", "reward"), zip(*ROWS, strict=True), strict=True))).encode(),
    "lists.jsonl": "".join(json.dumps({"step": t, "prompt": p, "rewards": r}) + "\n" for (p, t), r in WINS.items()).encode(),
    "messages.jsonl": lines([([{"role": "user", "content": p}], t, r) for p, t, r in ROWS]).encode(),
    "signs.csv": table(rows=[(p, t, 2 * r - 1) for p, t, r in ROWS]).encode(),
    "tens.csv": table(rows=[(p, t, 10.0 * r) for p, t, r in ROWS]).encode(),
    "words.csv": table(rows=[(p, t, "CI"[1 - r]) for p, t, r in ROWS]).encode(),
    "noise.csv": table(rows=[(p, t, r * (1 + 1e-7 * i)) for i, (p, t, r) in enumerate(ROWS)]).encode(),
    "step_text.csv": table(rows=[(p, f"global_step_{t}", r) for p, t, r in ROWS]).encode(),
    "floats.jsonl": lines([("abc".index(p) + (0 if i % 2 else 0.0), t, r) for i, (p, t, r) in enumerate(ROWS)]).encode(),
    "long.csv": table(rows=[(p, t, r, f'"{"x," * 80_000}"') for p, t, r in ROWS], head=("id", "step", "score", "text")).encode(),
    "nested.jsonl": "".join(
        json.dumps({"task": {"key": p}, "run": {"work": {"step": t}}, "reward": {"score": r, "note": "x"}}) + "\n"
        for p, t, r in ROWS
    ).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_every_way_of_writing_a_log(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(WRITTEN[name])
    log = read_log(file)
    assert figures(log) == SMALL
    assert (log.n_bad, log.reading.unscored, log.n_lines) == (
        0,
        0,
        5 if name == "lists.jsonl" else 1 if name == "columns.json" else 10,
    )


def test_a_folder_a_pattern_and_several_files(tmp_path):
    for step in (1, 2):
        for rank in (0, 1):
            folder = tmp_path / f"rank_{rank}"
            folder.mkdir(exist_ok=True)
            rows = [(p, t, r) for i, (p, t, r) in enumerate(ROWS) if t == step and i % 2 == rank]
            (folder / f"batch_{step:04d}.jsonl").write_text(
                "".join(json.dumps({"input": p, "score": r}) + "\n" for p, _, r in rows)
            )
    every = sorted(tmp_path.rglob("*.jsonl"))
    for given in ([tmp_path], [str(tmp_path / "*" / "*.jsonl")], every):
        log = read_log(*given)
        assert figures(log) == SMALL
        assert len(log.reading.files) == 4
    with pytest.raises(ValueError, match="got no file that ends in"):
        read_log(str(tmp_path / "*.csv"))


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
    assert any("--where split=train" in text for text in log.reading.doubts)
    log = read_log(file, prompt_id="i", reward="a_reward+b_reward", success_at=2)
    assert figures(log) == SMALL
    for options, message in (
        ({"reward_range": (1, 0)}, "reward_range must ascend"),
        ({"reward_range": (0, 1), "reward": "a_reward+b_reward"}, "reward_range must hold all rewards, got 2 outside"),
        ({"group_size": 0}, "group_size must be at least 1"),
        ({"where": "split"}, "where must be a column and its value"),
        ({"reward": "c"}, "must have the column 'c'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_log(file, **({"prompt_id": "i", "reward": "a_reward"} | options))


def test_groups_of_a_prompt_in_a_step_are_told_apart_and_joined(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text(lines([("a", 1, 0), ("a", 1, 0)], uid="u") + lines([("a", 1, 1), ("b", 1, 1)], uid="v"))
    log = read_log(file)
    assert figures(log) == (2, 1, 3, 4, 3, 2, 1)
    assert figures(log.joined())[2:5] == (2, 4, 1)
    assert log.joined().joined().trials.tolist() == [3, 1]


def test_doubts_about_a_batch_that_is_dealt_again(tmp_path):
    file = tmp_path / "log.csv"
    rows = [(p, t, r) for t in range(1, 5) for p in "abc" for r in (0, 1)]
    file.write_text(table(rows=rows + rows[-6:] + rows[:1]))
    assert any("--last-attempt" in text for text in read_log(file).reading.doubts)
    file.write_text(table(rows=[*rows, ("a", 4, 0), ("a", 4, 1)]))
    assert any("exact multiples of the usual 2" in text for text in read_log(file).reading.doubts)
    by_sample = [row for j in (0, 1) for row in rows[j::2]]  # every sample of the run, one after the other
    file.write_text(table(rows=by_sample))
    assert read_log(file).reading.doubts == ()


def test_too_many_bad_lines_are_refused_by_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text(table(rows=ROWS * 4 + [("a", 1, "x")] * 5))
    assert cli.main(["replay", "log.csv", "--no-plot", "--n-boot", "5"]) == 2
    assert "got 5 bad lines of 45" in capsys.readouterr().err
    assert cli.main(["replay", "log.csv", "--no-plot", "--n-boot", "5", "--keep-going"]) == 0
    assert "warning: 5 of 45 lines (11.1%) could not be used" in capsys.readouterr().out


def test_what_another_library_must_read_is_said(tmp_path):
    (tmp_path / "log.zst").write_bytes(b"\x28\xb5\x2f\xfd rest")
    if importlib.util.find_spec("compression") is None:
        with pytest.raises(ValueError, match="zstd -d"):
            read_log(tmp_path / "log.zst")
    if importlib.util.find_spec("pyarrow") is None:
        (tmp_path / "log.parquet").write_bytes(b"PAR1")
        with pytest.raises(ValueError, match=r'pip install "cero-alloc\[logs\]"'):
            read_log(tmp_path / "log.parquet")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_arrow_and_parquet(tmp_path, kind):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import ipc, parquet

    data = arrow.table(dict(zip(("prompt", "step", "reward"), map(list, zip(*ROWS, strict=True)), strict=True)))
    file = tmp_path / f"log.{kind}"
    if kind == "parquet":
        parquet.write_table(data, file)
    else:
        with ipc.new_file(file, data.schema) as sink:
            sink.write_table(data)
    assert figures(read_log(file)) == SMALL
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match="pyarrow cannot read"):
        read_log(file)
