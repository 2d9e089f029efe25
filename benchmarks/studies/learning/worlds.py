"""The two policy models as studies: which cells, which learning rates, and how a chunk of runs is executed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cero_alloc.simulation import LogLinearPool, loglinear_pool, simulate_learning
from studies.learning.dealing import Run, concentration
from studies.learning.pauses import Pauses, state_file
from studies.learning.policies import (
    ALL,
    CANDIDATES,
    CHOSEN,
    CONTENDERS,
    GROUPS,
    MAIN,
    SCHEMES,
    SETTINGS,
    UNCHOSEN,
    Plan,
    lender,
)
from studies.learning.study import Record, Study, record_of
from studies.learning.tasks import family

Execute = Callable[[Sequence[Run]], list[Record]]

TUNING_SEED = 1000  # first of the seeds that only choose settings

# Log-linear: mean and spread of the prompts' logits at the start, and what two prompts share.
POOLS = {"unsolved": -5.0, "hard": -3.0, "middle": 0.0, "nearly solved": 3.0}
SPREAD, SHARED = 2.0, 0.2
FEATURES = (10, 50, 500)
N_PROMPTS, N_ROUNDS, ROLLOUTS = 1000, 125, 512  # 8 visits of 8 rollouts per prompt
SMALL = {("sgd", "plain"): 0.5, ("sgd", "normalised"): 0.15, ("adam", "plain"): 0.01, ("adam", "normalised"): 0.01}
LARGER = (1.0, 3.0, 10.0, 30.0)  # multiples of the small learning rate to choose from
KEPT = 5  # rounds between kept points of a curve

FIRST_LOOK_RATE = 1e-4
LARGE = "addition, large pool"  # 8,192 prompts in the study of single rollouts
# Contenders that the transformer studies leave out, to stay within an hour of two cores, or minutes of a GPU.
LEFT_OUT = {"small": ("training, height 0.25", "training, importance weights", "Knapsack RL, prompt weights")}
LEFT_OUT["large"] = (
    *LEFT_OUT["small"], "FenchelDual, forgetting 0.98", "Resolving 0.1", "spread 0.3", "training, height 2",
    "Resolving 1, re-deal",
)  # fmt: skip


def loglinear(seeds: int, folder: Path, quick: bool) -> Study:
    """Return the log-linear study: all pools and transfers by SGD, the other optimisers at 50 features."""
    base = [(pool, str(features), "sgd", "plain") for pool in POOLS for features in FEATURES]
    others = [(pool, "50", *how) for pool in POOLS for how in SMALL if how != ("sgd", "plain")]
    cells = tuple(base[1::3][:2] if quick else base + others)
    tuned = tuple(cell for cell in cells if cell[1] == "50" and cell[3] == "plain")
    return Study(
        cells=cells,
        policies=tuple(CONTENDERS),
        rates={cell: tuple(round(SMALL[cell[2], cell[3]] * m, 4) for m in LARGER) for cell in tuned},
        common={cell: SMALL[cell[2], cell[3]] for cell in cells},
        tuning_cells=tuned,
        group=_itself,
        seeds=tuple(range(seeds)),
        tuning_seeds=tuple(range(TUNING_SEED, TUNING_SEED + (1 if quick else 3))),
        chunk=12,
        execute=partial(train_loglinear, folder=folder),
    )


def loglinear_settings(folder: Path) -> Study:
    """Return the search for settings: one changed at a time, on tuning seeds, at the small learning rate."""
    cells = tuple((pool, "50", optimiser, "plain") for optimiser in ("sgd", "adam") for pool in POOLS)
    return Study(
        cells=cells,
        policies=tuple(SETTINGS),
        rates={},
        common={cell: SMALL[cell[2], cell[3]] for cell in cells},
        tuning_cells=(),
        group=_itself,
        seeds=tuple(range(TUNING_SEED, TUNING_SEED + 5)),
        tuning_seeds=(),
        chunk=12,
        execute=partial(train_loglinear, folder=folder),
    )


def train_loglinear(runs: Sequence[Run], folder: Path) -> list[Record]:
    """Execute log-linear runs, one after the other."""
    return [record_of(run, _train_one(run, folder)) for run in runs]


def pool_of(name: str, features: int, seed: int) -> LogLinearPool:
    """Return one of :data:`POOLS` as a seed draws it."""
    return loglinear_pool(N_PROMPTS, features, mean=POOLS[name], spread=SPREAD, shared=SHARED, seed=[seed, 6])


def _train_one(run: Run, folder: Path) -> Record:
    pool_name, features, optimiser, scale = run.cell
    pool = pool_of(pool_name, int(features), run.seed)
    contender, plan = ALL[run.policy], Plan(N_PROMPTS, N_ROUNDS, ROLLOUTS, run.seed)
    policy = contender.build(plan, *schedules(folder, [run])) if contender.matches else contender.build(plan)
    kept = Kept(policy)
    result = simulate_learning(
        kept, pool, N_ROUNDS, ROLLOUTS, learning_rate=run.learning_rate, optimiser=optimiser,
        normalise=scale == "normalised", weighting=contender.weighting, exact=contender.exact,
        batches=plan.batches if contender.mode == "re-deal" else None, mixed_only=contender.mixed_only,
        seed=[run.seed, 1],
    )  # fmt: skip
    keep_schedule(folder, run, kept.counts)
    return {
        "rollouts": result.rollouts[::KEPT].tolist(),
        "held_out": np.round(result.held_out[::KEPT], 6).tolist(),
        "trained": round(float(result.trained[-1]), 6),
        "spent": int(result.rollouts[-1]),
        "mixed": round(float(np.nanmean(result.signal)), 4),
        **concentration(result.exposure),
    }


def transformer(
    seeds: int,
    folder: Path,
    device: str,
    side_by_side: int,
    size: str,
    *,
    grid: bool = False,
    settings: bool = False,
    end: float = float("inf"),
) -> Study:
    """Return the transformer study of a size.

    "single" is the study of single rollouts, where ``grid`` adds schemes and ``settings`` tries others of the recommended
    allocator. ``end``, in seconds since the epoch, is when runs stop.
    """
    from studies.learning.transformer import SIZES

    starts = [start for start, _ in SIZES[size].levels]
    execute = partial(train_transformer, folder=folder, size=size, device=device, end=end)
    if size in ("single", "single quick"):
        if settings:
            return single_settings(execute, side_by_side)
        return single(seeds, execute, side_by_side, grid, quick=size == "single quick")
    if size.startswith("single large"):
        return single_large(seeds, execute, side_by_side, quick="quick" in size)
    if size == "first look":
        tasks: tuple[str, ...] = ("addition",)
        policies: tuple[str, ...] = ("uniform", "FenchelDual, forgetting 0.98")
        tuning: tuple[tuple[str, str], ...] = ()
    else:
        tasks = ("addition", "sorting", "modular")
        policies = tuple(name for name in CONTENDERS if name not in LEFT_OUT.get(size, ()))
        tuning = tuple(zip(tasks, starts, strict=True))
    rates = {"large": (3e-6, 1e-5, 3e-5)}.get(size, (3e-5, 1e-4, 3e-4))
    return Study(
        cells=tuple((task, start) for task in tasks for start in starts),
        policies=policies,
        rates={("all",): rates} if tuning else {},
        common={} if tuning else {("all",): FIRST_LOOK_RATE},
        tuning_cells=tuning,
        group=_one,
        seeds=tuple(range(seeds)),
        tuning_seeds=(TUNING_SEED,) if tuning else (),
        chunk=side_by_side,
        execute=execute,
    )


def single(seeds: int, execute: Execute, side_by_side: int, grid: bool, quick: bool) -> Study:
    """Return the study of single rollouts: its main contrast, and with ``grid`` the schemes around it."""
    tasks = ("modular", "addition") if quick else ("addition", "sorting", "modular", "running")
    cells = tuple((task, start) for start in ("quarter", "hard", "nearly solved") for task in tasks)
    quarter = cells[: len(tasks)]
    large = () if quick else ((LARGE, "quarter"),)
    others = [name for name in SCHEMES if name not in MAIN] if grid or quick else []
    return Study(
        cells=(*cells, *large),
        policies=("uniform", *MAIN, *others),
        rates=dict.fromkeys(cells, (1e-3,) if quick else (2e-4, 4e-4)),
        common={},
        tuning_cells=cells,
        group=_family_and_start,
        seeds=tuple(range(100, 100 + seeds)),
        tuning_seeds=tuple(range(TUNING_SEED, TUNING_SEED + (1 if quick else 3))),
        chunk=side_by_side,
        execute=execute,
        widen=0.0 if quick else 2.0,
        kinds=("own",),
        only={GROUPS: quarter} | dict.fromkeys(others, quarter[:2]),
        borrowed={name: lender(name) for name in others},
    )


def single_settings(execute: Execute, side_by_side: int) -> Study:
    """Return the search for the settings of single rollouts, on tuning seeds, at one learning rate."""
    quarter = tuple((task, "quarter") for task in ("addition", "sorting", "modular", "running"))
    cells = (*quarter, ("addition", "hard"), ("sorting", "hard"))
    return Study(
        cells=cells,
        policies=("uniform", UNCHOSEN, CHOSEN, *CANDIDATES),
        rates={},
        common={(task,): 4e-4 for task, _ in cells},
        tuning_cells=(),
        group=_task,
        seeds=tuple(range(TUNING_SEED, TUNING_SEED + 3)),
        tuning_seeds=(),
        chunk=side_by_side,
        execute=execute,
        kinds=("common",),
    )


def single_large(seeds: int, execute: Execute, side_by_side: int, quick: bool) -> Study:
    """Return the study of 10.6 million parameters: GRPO, and single rollouts of uniform and of chosen prompts."""
    tasks = ("addition", "sorting")
    return Study(
        cells=tuple((task, start) for start in ("quarter", "hard") for task in tasks),
        policies=("uniform", *MAIN[:2]),
        rates={(task,): (3e-5,) if quick else (1e-5, 3e-5, 1e-4) for task in tasks},
        common={},
        tuning_cells=tuple((task, "quarter") for task in tasks),
        group=_task,
        seeds=tuple(range(100, 100 + seeds)),
        tuning_seeds=tuple(range(TUNING_SEED, TUNING_SEED + (1 if quick else 3))),
        chunk=side_by_side,
        execute=execute,
        widen=0.0 if quick else 3.0,
        kinds=("own",),
    )


def prepare(study: Study, folder: Path, size: str, device: str, end: float = float("inf")) -> list[partial[None]]:
    """Return what is left of the warm starts, in calls of a chunk of seeds each; after ``end`` a call does nothing."""
    calls = []
    for task in dict.fromkeys(family(cell[0]) for cell in study.cells):
        seeds = (*study.tuning_seeds, *study.seeds)
        missing = [seed for seed in seeds if not _start_file(folder, task, seed).exists()]
        chunks = [missing[i : i + study.chunk] for i in range(0, len(missing), study.chunk)]
        calls += [partial(_warm, task, chunk, folder, size, device, end) for chunk in chunks]
    return calls


def _warm(task: str, seeds: Sequence[int], folder: Path, size: str, device: str, end: float) -> None:
    from studies.learning.transformer import SIZES, save_starts, warm_starts

    if Pauses(end).over():
        return
    settle(device)
    folder.mkdir(parents=True, exist_ok=True)
    for seed, found in zip(seeds, warm_starts(task, SIZES[size], seeds, device), strict=True):
        save_starts(_start_file(folder, task, seed), found)


def train_transformer(
    runs: Sequence[Run], folder: Path, size: str, device: str, end: float = float("inf")
) -> list[Record]:
    """Execute transformer runs of one task side by side; return no record where they were stopped at ``end``, saved."""
    from studies.learning.transformer import SIZES, train

    # Without an end nothing is saved on the way, but what an earlier command has saved is taken up.
    pauses, file = Pauses(end) if end < float("inf") else None, state_file(folder, runs)
    if pauses is not None and pauses.over():
        return []
    settle(device)
    starts = [load_start(folder, run.cell[0], run.seed)[run.cell[1]] for run in runs]
    matching = ALL[runs[0].policy].matches
    found = train(runs, SIZES[size], starts, device, schedules(folder, runs) if matching else None, pauses, file)
    if not found:
        return []
    for run, record in zip(runs, found, strict=True):
        keep_schedule(folder, run, record.pop("counts"))
    return [record_of(run, record) for run, record in zip(runs, found, strict=True)]


def load_start(folder: Path, task: str, seed: int) -> Any:
    """Read the starts of a task and seed."""
    from studies.learning.transformer import load_starts

    return load_starts(_start_file(folder, task, seed))


def settle(device: str) -> None:
    """Pin the threads, on which the last bits of a sum depend, and let a GPU multiply in TF32."""
    import torch

    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = device != "cpu"


class Kept:
    """A policy whose counts are kept, round by round."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.counts: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def allocate(self, *args: Any, **kwargs: Any) -> Any:
        """Pass on, and keep the answer."""
        self.counts.append(self._policy.allocate(*args, **kwargs))
        return self.counts[-1]


def keep_schedule(folder: Path, run: Run, counts: Sequence[Any]) -> None:
    """Write down what a run dealt where another is to match it."""
    if any(other.matches == run.policy for other in CONTENDERS.values()):
        file = _schedule_file(folder, run, run.policy)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, counts=np.array(counts, dtype=np.int16))


def schedules(folder: Path, runs: Sequence[Run]) -> list[Any]:
    """Read the counts that each run is to match."""
    files = [_schedule_file(folder, run, ALL[run.policy].matches) for run in runs]
    return [np.load(file)["counts"].astype(np.int64) for file in files]


def _schedule_file(folder: Path, run: Run, policy: str) -> Path:
    parts = (*run.cell, policy, f"{run.learning_rate:g}", str(run.seed))
    return folder / "schedules" / ("_".join(parts).replace(" ", "-") + ".npz")


def _start_file(folder: Path, task: str, seed: int) -> Path:
    return folder / f"start_{family(task)}_{seed}.pt"


def _itself(cell: tuple[str, ...]) -> tuple[str, ...]:
    return cell


def _family_and_start(cell: tuple[str, ...]) -> tuple[str, ...]:
    return family(cell[0]), cell[1]


def _task(cell: tuple[str, ...]) -> tuple[str, ...]:
    return (family(cell[0]),)


def _one(cell: tuple[str, ...]) -> tuple[str, ...]:
    return ("all",)
