"""The command line: what it prints, what it writes, and how it fails."""

import builtins
import csv
import gzip
import io
import json
import subprocess
import sys
from importlib import util
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

from cero_alloc import __main__ as cli
from cero_alloc import __version__, plotting
from cero_alloc.replay._reader import read_log
from cero_alloc.replay._replay import replay

DATA = sorted((Path(__file__).resolve().parents[3] / "shared" / "data").glob("*.csv"))


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(0)
    rate = rng.beta(0.5, 0.5, 40)
    rows = [(p, t) for t in range(3) for p in range(40)]
    return "prompt_id,step,trials,successes\n" + "".join(f"p{p},{t},8,{rng.binomial(8, rate[p])}\n" for p, t in rows)


def run(capsys, *args):
    status = cli.main(["replay", *map(str, args)])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_log_is_replayed_and_everything_is_written(capsys, text):
    Path("log.csv").write_text(text)
    status, out, err = run(
        capsys, "log.csv", "--n-boot", 20, "--csv", "t.csv", "--json", "t.json", "--plot", "t.png", "--progress"
    )
    assert status == 0
    assert "replaying" in err
    assert "rollouts   960 in 120 groups (one prompt in one step) of 8" in out
    assert out.endswith("written: t.csv, t.json, t.png\n")
    with open("t.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    data = json.loads(Path("t.json").read_text())
    assert [row["name"] for row in rows] == [row["name"] for row in data["policies"]]
    assert float(rows[0]["rate"]) == data["policies"][0]["rate"]
    assert rows[-1]["name"] == "as logged"
    assert Path("t.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_from_standard_input_and_twice(capsys, monkeypatch, text):
    Path("log.csv").write_text(text)
    _, first, _ = run(capsys, "log.csv", "--n-boot", 20, "--no-plot")
    assert not Path("replay.png").exists()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(text.encode())))))
    _, second, _ = run(capsys, "-", "--n-boot", 20, "--no-plot")
    assert second == first.replace("THE LOG: log.csv", "THE LOG: standard input")


def test_named_columns_pool_and_cap(capsys, text):
    Path("log.txt").write_text(text.replace("prompt_id,step,trials,successes", "uid,when,of,right"))
    names = ["--prompt-id", "uid", "--step", "when", "--trials", "of", "--successes", "right", "--format", "csv"]
    status, out, _ = run(capsys, "log.txt", *names, "--offer", "pool", "--max-rollouts", 8, "--n-boot", 20, "--seed", 1)
    assert status == 0
    assert "Each step offered all prompts (--offer pool) and its total; at most 8 rollouts" in " ".join(out.split())
    assert Path("replay.png").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must hold a log, got an empty file"),
        ("prompt_id,step,reward\n", "must hold at least one good line, got 0 lines"),
        ("prompt_id,step,reward\na,1,x\n", "line 2: reward is not a number: 'a,1,x'"),
        ("a,b\n1,2\n", "must have a column for the prompt_id, got 'a', 'b'. Name it: --prompt-id NAME"),
    ],
)
def test_a_log_that_cannot_be_used_is_status_2(capsys, content, message):
    Path("log.csv").write_text(content)
    status, out, err = run(capsys, "log.csv")
    assert (status, out) == (2, "")
    assert message in err


def test_arguments_that_cannot_be_used_are_status_2(capsys, text):
    assert run(capsys, "nowhere.csv")[0] == 2
    Path("log.csv").write_text(text)
    status, _, err = run(capsys, "log.csv", "--max-rollouts", 2)
    assert (status, "max_rollouts must be at least 8" in err) == (2, True)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["replay"])


def test_a_one_sided_log_is_a_warning(capsys):
    Path("log.csv").write_text("prompt_id,step,reward\na,1,1\nb,1,1\na,2,1\n")
    status, out, _ = run(capsys, "log.csv", "--csv", "t.csv")
    assert status == 0
    assert "all rewards are 1: every group is dead" in out
    assert Path("t.csv").read_text().startswith("name,dealt")
    assert not Path("replay.png").exists()


def test_a_log_that_breaks_off_is_a_warning(capsys, text):
    Path("log.csv.gz").write_bytes(gzip.compress(text.encode())[:-100])
    status, out, _ = run(capsys, "log.csv.gz", "--n-boot", 20, "--no-plot")
    assert status == 0
    assert "warning: log.csv.gz is incomplete (Compressed file ended before" in out


def test_without_tqdm_and_matplotlib(capsys, monkeypatch, text):
    Path("log.csv").write_text(text)
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name in ("tqdm", "matplotlib") else util.find_spec(name))
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] in ("tqdm", "matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    status, out, err = run(capsys, "log.csv", "--n-boot", 20, "--progress")
    assert (status, err) == (0, "")
    assert "written" not in out
    status, _, err = run(capsys, "log.csv", "--n-boot", 20, "--plot", "t.png")
    assert (status, "Run pip install matplotlib" in err) == (2, True)


def test_it_runs_as_a_module_without_a_bar(text):
    done = subprocess.run(
        [sys.executable, "-m", "cero_alloc", "replay", "-", "--n-boot", "20", "--no-plot"],
        input=text, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "MIXED GROUPS OF EACH POLICY" in done.stdout
    assert done.stderr == ""


def test_the_figure_shows_every_policy(text):
    from matplotlib import pyplot

    Path("log.csv").write_text(text)
    result = replay(read_log("log.csv"), n_boot=20)
    _, given = pyplot.subplots()
    assert plotting.plot_replay(result, given) is given
    ax = plotting.plot_replay(result)
    rows = (*result.rows, result.logged)
    names = plotting.policy_styles(row.name for row in rows)
    assert [label.get_text() for label in ax.get_yticklabels()] == [style["label"] for style in names.values()]
    assert ax.get_xlabel() == "rollouts in mixed groups, %"
    beside = {text.get_text() for text in ax.texts}
    assert {f"{row.mean_group:.1f}" for row in rows} | {f"{row.unanswerable:.0%}" for row in rows} <= beside
    ax.figure.canvas.draw()
    pyplot.close("all")


@pytest.mark.parametrize("file", DATA or [None], ids=lambda file: file.stem if file else "none")
def test_real_counts_as_they_are(capsys, file):
    if file is None:
        pytest.skip("the measured counts are not part of the package")
    status, out, _ = run(capsys, file, "--n-boot", 20, "--no-plot")
    assert status == 0
    assert "SETTINGS FOR THE NEXT RUN" in out


@pytest.mark.parametrize("args", [[], ["replay"], ["warm-up"]])
def test_help_is_plain_text(capsys, args):
    with pytest.raises(SystemExit) as ended:
        cli.main([*args, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert out.startswith("usage: cero-alloc")
    assert "`" not in out


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"cero-alloc {__version__}\n"
