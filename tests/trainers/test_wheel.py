"""The script on the TRL page, outside the repository, against the wheel that a user installs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

for _package in ("torch", "transformers", "trl"):
    pytest.importorskip(_package, reason=f'{_package} is not installed: pip install -e ".[trl]"')

from trl_grpo import tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.trainers
ROOT = Path(__file__).parents[2]


def run(*words, folder, path=""):
    """Return what a Python program printed that sees nothing of the repository."""
    there = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=there, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def test_a_script_of_ones_own_runs_with_the_wheel(tmp_path):
    wheels, site, work = tmp_path / "wheels", tmp_path / "site", tmp_path / "work"
    work.mkdir()
    source = tmp_path / "source"  # a copy, because a build leaves files behind
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    run("-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels), str(source), folder=tmp_path)
    (wheel,) = wheels.glob("cero_alloc-*.whl")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel), folder=tmp_path)
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(work / "model")
    tokenizer.save_pretrained(work / "model")
    script = work / "train.py"
    script.write_text((ROOT / "examples" / "trl_own.py").read_text())
    where = run("-c", "import cero_alloc; print(cero_alloc.__file__)", folder=work, path=str(site))
    assert Path(where.strip()).is_relative_to(site)
    printed = run(str(script), str(work / "model"), folder=work, path=str(site))
    assert (
        printed.splitlines()[-1] == "320 rollouts dealt in 20 rounds."
    )  # 40 prompts, 4 a batch, 2 epochs, groups of 4
