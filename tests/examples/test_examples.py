"""The examples run, say what their page shows, and add up."""

import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import nbformat
import numpy as np
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from traitlets import default

from cero_alloc.baselines import CONTROLS, PEERS
from compare_policies import POLICIES, verdict
from helpers.jit import either

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "examples.md"
NOTEBOOK = EXAMPLES / "from_log_to_decision.ipynb"
SECONDS = either(60, 600)


def run(script, *args, folder, status=0):
    done = subprocess.run(
        [sys.executable, "-X", "utf8", EXAMPLES / script, *map(str, args)],
        cwd=folder, env={**os.environ, "MPLBACKEND": "Agg"}, capture_output=True, encoding="utf-8", timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.fixture(scope="module", params=["quickstart.py", "compare_policies.py", "custom_policy.py"])
def example(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    text = run(request.param, folder=folder)
    assert not list(folder.iterdir())
    return request.param, text


def table(text, pattern):
    rows = re.findall(rf"^(\S+(?: \S+)*) +{pattern}", text, flags=re.MULTILINE)
    return {name: tuple(float(cell.replace(",", "")) for cell in cells) for name, *cells in rows}


def check_quickstart(text):
    spent, reserved, left, total = (
        int(number.replace(",", ""))
        for number in re.search(r"([\d,]+) spent \+ ([\d,]+) reserved \+ ([\d,]+) left = ([\d,]+)", text).groups()
    )
    assert spent + reserved + left == total == 12_800
    assert 0 < int(re.search(r"loaded, ([\d,]+) rollouts left", text)[1].replace(",", "")) < total
    pool, first, second = map(float, re.findall(r": ([\d.]+)% of the", text))
    assert pool < first < second  # it learns
    most, fewest = re.findall(r"with (\d+); its success rate is ([\d.]+), estimated", text)
    assert int(most[0]) > total / 500 > int(fewest[0])
    assert abs(float(most[1]) - 0.5) < abs(float(fewest[1]) - 0.5)


def check_compare_policies(text):
    rows = table(text, r"([\d.]+) ± [\d.]+ +([\d.]+) ± [\d.]+ +([\d.]+) ± [\d.]+ +([\d,]+)")
    assert set(rows) == set(POLICIES)
    share, _, regret, dealt = np.array(list(rows.values())).T
    assert (np.diff(share) <= 0).all()
    assert (np.diff(regret) >= 0).all()
    assert (share < 100).all()
    # One optimum for all: it is what share and regret say together, to their rounding.
    assert np.ptp(regret / (1 - share / 100)) < 0.02 * (regret / (1 - share / 100)).mean()
    budget = int(re.search(r"([\d,]+) rollouts in", text)[1].replace(",", ""))
    assert (dealt <= budget).all()
    assert (dealt >= 0.99 * budget).all()


def check_custom_policy(text):
    rows = table(text, r"([\d.]+) ± [\d.]+ +([\d,]+)$")
    peers = {policy.__name__ for policy in (*PEERS, *CONTROLS)}
    assert set(rows) == peers | {"ThompsonVariance", "ResolvingAllocator", "FenchelDualAllocator"}
    share, dealt = np.array(list(rows.values())).T
    assert (np.diff(share) <= 0).all()
    assert (share < 100).all()
    assert dealt.max() == 16_384
    assert rows["ThompsonVariance"][0] > rows["Uniform"][0]


CHECKS = {"quickstart": check_quickstart, "compare_policies": check_compare_policies, "custom_policy": check_custom_policy}  # fmt: skip


def test_what_a_script_prints_adds_up(example):
    script, text = example
    CHECKS[script.removesuffix(".py")](text)


def test_the_page_shows_what_a_script_prints(example):
    script, text = example
    section = re.search(rf"^python examples/{script}\n```\n\n```text\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    assert section[1] == text


def test_the_page_shows_every_script():
    listed = re.findall(r"literalinclude\} \.\./examples/(\w+)\.py", PAGE.read_text("utf-8"))
    assert sorted(listed) == sorted(CHECKS)


def test_a_rule_of_ones_own_takes_fewer_than_30_lines():
    with tokenize.open(EXAMPLES / "custom_policy.py") as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for before, token in zip([None, *tokens], tokens, strict=False):
        docstring = token.type == tokenize.STRING and (before is None or before.type in silent)
        if token.type not in silent and not docstring:
            lines |= set(range(token.start[0], token.end[0] + 1))
    assert 20 < len(lines) < 30


SMALL = ("--prompts", 40, "--rounds", 8, "--per-prompt", 16, "--beta", 1, 1, "--seeds", 2)


def test_options_twice_and_a_plot(tmp_path):
    first, second = (run("compare_policies.py", *SMALL, "--plot", f"{i}.png", folder=tmp_path) for i in range(2))
    assert first == second
    assert first.startswith(
        "40 prompts from Beta(1, 1), 640 rollouts in 8 rounds\nmean ± standard deviation over 2 seeds"
    )
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    assert (tmp_path / "0.png").read_bytes().startswith(b"\x89PNG")


def test_uniform_wins_where_prompts_are_alike(tmp_path):
    rows = run("compare_policies.py", "--beta", 20, 20, folder=tmp_path).splitlines()
    assert rows[3].endswith("against uniform")
    assert rows[4].startswith("uniform ")


def test_one_seed_is_no_comparison(tmp_path):
    assert "--seeds must be at least 2" in run("compare_policies.py", "--seeds", 1, folder=tmp_path, status=2)


def test_a_difference_within_noise_is_called_so():
    best = np.array([50.0, 60.0, 70.0])
    assert verdict(best, best - [1.0, 1.1, 0.9]) == "-1.00 ± 0.25"  # the pairs agree, far apart as the seeds are
    assert verdict(best, best - [9.0, -8.0, 2.0]).startswith("-1.00 ± 21")
    assert verdict(best, best - [9.0, -8.0, 2.0]).endswith(" ~")


# ---------------------------------------------------------------- the notebook


def texts(notebook):
    """Return what every cell of code printed; a kernel may send one text in several parts."""
    return [
        "".join(output["text"] for output in cell.outputs if output.output_type == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def images(notebook):
    return [
        [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


class ThisInterpreter(AsyncKernelManager):
    """Starts the interpreter that runs the test, whatever kernels are installed, if any."""

    @default("kernel_spec_manager")
    def _without_folders(self):
        return KernelSpecManager(kernel_dirs=[])


def test_the_kernel_is_this_interpreter():
    assert ThisInterpreter(kernel_name="python3").kernel_spec.argv[0] == sys.executable


@pytest.mark.slow
def test_the_notebook_says_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    kept = nbformat.read(NOTEBOOK, as_version=4)
    fresh = nbformat.from_dict(kept)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    here = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(fresh, kernel_manager_class=ThisInterpreter, timeout=SECONDS, resources=here).execute()
    assert texts(fresh) == texts(kept)
    assert any(texts(fresh))
    assert [len(pictures) for pictures in images(fresh)] == [len(pictures) for pictures in images(kept)]


def test_the_notebook_is_kept_small_executed_and_described():
    assert NOTEBOOK.stat().st_size < 600_000
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [
        output
        for cell in code
        for output in cell.outputs
        if output.output_type == "error" or output.get("name") == "stderr"
    ]
    pictures = images(notebook)
    assert sum(map(len, pictures)) >= 3
    for cell, shown in zip(code, pictures, strict=True):
        assert bool(shown) == bool(cell.metadata.get("mystnb", {}).get("image", {}).get("alt"))
