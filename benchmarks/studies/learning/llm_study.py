"""The study of the small language model: its sizes, its warm starts, and how a run is executed."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from studies.learning.bands import report_bands
from studies.learning.dealing import Run
from studies.learning.llm_model import load, restore, state_of
from studies.learning.llm_prompts import Sizes, world
from studies.learning.llm_train import Setting, Training, warm_start
from studies.learning.pauses import PausedError, Pauses, state_file, write_whole
from studies.learning.policies import MAIN
from studies.learning.report import report
from studies.learning.study import Record, Study, record_of, run_study
from studies.learning.worlds import TUNING_SEED
from studies.learning.worlds import settle as settle_threads

# GRPO, and single rollouts with posterior advantages: of uniform prompts, and of chosen ones, which is recommended.
POLICIES = ("uniform", *MAIN[:2])
CELL = ("mixed", "warm start")
GROUP = ("all",)
RATES = (1e-6, 3e-6, 1e-5)

FULL = Setting(
    Sizes(4096, 512, 2048), n_rounds=256, rollouts=512, measured=16, warm_steps=100, warm_batch=32, warm_rate=1e-4,
    side_by_side=512, portion=128,
)  # fmt: skip
QUICK = Setting(
    Sizes(8, 8, 8, ("spell_backward",)), n_rounds=2, rollouts=8, measured=2, warm_steps=2, warm_batch=4,
    warm_rate=1e-4, side_by_side=8, portion=8,
)  # fmt: skip


def smollm2(options: argparse.Namespace, end: float) -> Path:
    """Run the study and report it; return the folder of its results.

    Parameters
    ----------
    options : Namespace
        Of the command line.
    end : float
        When to stop, in seconds since the epoch.

    Raises
    ------
    PausedError
        Where something is left.
    SystemExit
        Where there is no GPU and ``options.device`` is one.
    """
    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit(f"--device {options.device}: PyTorch {torch.__version__} finds no GPU here.")
    folder: Path = options.out / ("smollm2-quick" if options.quick else "smollm2")
    study = study_of(options.seeds, folder, options.device, options.quick, end)
    warm_starts(study, folder, options.device, options.quick, Pauses(end))
    records, chosen = run_study(study, folder, options.jobs)
    report(study, records, chosen, folder)
    report_bands(study, records, chosen, folder)
    return folder


def study_of(seeds: int, folder: Path, device: str, quick: bool, end: float) -> Study:
    """Return the study: one cell, and per policy a learning rate chosen on a seed of its own."""
    return Study(
        cells=(CELL,),
        policies=POLICIES,
        rates={} if quick else {GROUP: RATES},
        common={GROUP: RATES[-1]} if quick else {},
        tuning_cells=() if quick else (CELL,),
        group=_all,
        seeds=tuple(range(seeds)),
        tuning_seeds=() if quick else (TUNING_SEED,),
        chunk=1,
        execute=partial(train_llm, folder=folder, device=device, quick=quick, end=end),
        widen=0.0 if quick else 3.0,
        kinds=("common",) if quick else ("own",),
    )


def warm_starts(study: Study, folder: Path, device: str, quick: bool, pauses: Pauses) -> None:
    """Train the warm starts that are missing, one per seed; raise PausedError where one is left."""
    seeds = (*study.tuning_seeds, *study.seeds)
    missing = [seed for seed in seeds if not _start_file(folder, seed).exists()]
    if not missing:
        return
    settle(device)
    setting = QUICK if quick else FULL
    model, tokenizer = load(_model_folder(folder))
    model.to(device)
    begin = state_of(model)
    for i, seed in enumerate(tqdm(missing, "warm starts", unit="seed")):
        if pauses.over():
            raise PausedError(f"warm starts: {len(missing) - i} of {len(missing)} are left")
        restore(model, begin)
        warm_start(model, world(seed, setting.prompts, tokenizer), setting, seed)
        write_whole(_start_file(folder, seed), state_of(model))


def train_llm(runs: Sequence[Run], folder: Path, device: str, quick: bool, end: float) -> list[Record]:
    """Execute a run; return no record where it was saved and stopped at ``end``."""
    pauses, (run,) = Pauses(end), runs
    if pauses.over():
        return []
    settle(device)
    setting = QUICK if quick else FULL
    model, tokenizer = loaded(folder, device)
    restore(model, torch.load(_start_file(folder, run.seed), weights_only=True))
    training = Training(run, model, world(run.seed, setting.prompts, tokenizer), setting, graphs=device != "cpu")
    found = training.finish(state_file(folder, runs), pauses)
    return [] if found is None else [record_of(run, found)]


@lru_cache(maxsize=1)
def loaded(folder: Path, device: str) -> tuple[Any, Any]:
    """Return a model to be trained again and again, on its device, and the tokenizer."""
    model, tokenizer = load(_model_folder(folder))
    return model.to(device), tokenizer


def settle(device: str) -> None:
    """Take from the machine what would change the bits of a result: threads, and kernels that sum in any order."""
    settle_threads(device)
    if device == "cpu":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    # The sums over a row of probabilities are of fixed order, whatever their warning says.
    warnings.filterwarnings("ignore", message=".*cumsum_cuda_kernel.*deterministic")


def _model_folder(folder: Path) -> Path:
    return folder.parent / "smollm2-model"


def _start_file(folder: Path, seed: int) -> Path:
    return folder / f"start_{seed}.pt"


def _all(cell: tuple[str, ...]) -> tuple[str, ...]:
    return GROUP
