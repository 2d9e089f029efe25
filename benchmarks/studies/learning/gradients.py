"""Explain why an allocator helps or does not: compare its sampled gradients with the exact one.

    python benchmarks/learning_gradients.py --out learning_results

At fixed checkpoints, the starts that learning.py left in ``--out``, each policy deals with frozen parameters: first to
learn the rates, then to be measured. Per policy and weighting of the gradient:

* useful: share of the rollouts in mixed groups;
* cosine: of a round's gradient with the exact gradient of mean held-out success, mean over rounds;
* aim: the same of the mean gradient over rounds, free of noise: the effect of the prompts' weights on the direction;
* signal: squared length of the mean gradient over the variance of a round's, both estimated without bias;
* SGD: slope of held-out success along the mean gradient, over that of uniform: the gain at a common small learning rate;
* Adam: the same along the mean step of an optimiser that divides by root mean squares, where noise shortens the step.

With ``--schemes`` the schemes of the single-rollout study are measured instead, and the noise of their gradients is split
into the choice of the prompts ("between") and the rollouts that these get ("within"); per cell also the critical batch,
below which less noise is worth as much as more rollouts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studies.common.tables import grouped, table, write_csv
from studies.learning.dealing import Dealing, Run
from studies.learning.policies import ALL, CONTENDERS
from studies.learning.study import finished
from studies.learning.worlds import N_PROMPTS, N_ROUNDS, POOLS, ROLLOUTS, load_start, pool_of, settle, transformer

FloatArray = npt.NDArray[np.float64]

WEIGHTINGS = ("rollout", "prompt", "importance")
SHOWN_ALL = ("uniform", "Resolving 0.3", "training", "Resolving 1, re-deal")  # with all weightings in the table


def quality(samples: FloatArray, exact: FloatArray) -> dict[str, float]:
    """Return cosine, aim, signal and both slopes of gradients, shape (n_rounds, n_parameters).

    Examples
    --------
    >>> found = quality(np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([2.0, 0.0]))
    >>> round(found["cosine"], 6), found["signal"]
    (0.707107, 0.0)
    """
    n = len(samples)
    mean, squares = samples.mean(0), (samples**2).sum(1)
    length = max((n * n * float(mean @ mean) - float(squares.sum())) / (n * (n - 1)), 0.0)  # of the mean, unbiased
    noise = float(squares.mean()) - length
    size = float(np.sqrt(exact @ exact))
    across = samples @ exact
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.where(squares > 0.0, across / (np.sqrt(squares) * size), 0.0)
        step = np.where(mean != 0.0, mean / np.sqrt((samples**2).mean(0)), 0.0)
    return {
        "cosine": float(cosines.mean()),
        "aim": float(mean @ exact) / (size * length**0.5) if length else float("nan"),
        "signal": length / noise if noise > 0.0 else float("nan"),
        "adam": float(step @ exact),
        "sgd": float(mean @ exact),
    }


def measured(names: Iterable[str]) -> list[str]:
    """Return the policies to measure, without those that repeat the counts of another policy."""
    return [name for name in names if not ALL[name].matches and ALL[name].weighting == "rollout"]


def measure(task: str, start: str, seeds: Sequence[int], folder: Path, size: str) -> list[dict[str, Any]]:
    """Return a row per policy, weighting and seed at one checkpoint per seed."""
    import torch

    from studies.learning.transformer import SIZES, log_likelihood, models, play, world

    settle("cpu")
    plan = SIZES[size]
    learn = max(2, plan.n_rounds // 6)  # rounds before gradients are measured, and then as many
    worlds = [world(task, plan.n_prompts, plan.warm_corpus, seed) for seed in seeds]
    model = models(task, plan, [0], "cpu")
    model.load([load_start(folder, task, seed)[start] for seed in seeds])
    held = [w.held_prompts for w in worlds], [w.held_answers for w in worlds]
    exact = gradients(model, rates_of(model, *held).mean(1))
    rates = rates_of(model, [w.prompts for w in worlds], [w.answers for w in worlds]).detach().double().numpy()
    rows = []
    for name in measured(transformer(2, folder, "cpu", 1, size).policies):
        runs = [Run((task, start), name, 0.0, seed) for seed in seeds]
        dealers = [Dealing(run, plan.n_prompts, plan.n_rounds, plan.rollouts) for run in runs]
        for dealer, rate in zip(dealers, rates, strict=True):
            dealer.tell(rate)
        found: dict[str, list[FloatArray]] = {weighting: [] for weighting in WEIGHTINGS}
        for k in range(2 * learn):
            batch = play(model, dealers, worlds, k)
            if k < learn:
                continue
            likelihood = log_likelihood(model, batch.prompts, batch.group, batch.answers)
            for weighting in WEIGHTINGS:
                weights = np.zeros(batch.valid.shape, dtype=np.float32)
                for i, dealer in enumerate(dealers):
                    weights[i, batch.valid[i]] = dealer.objective(*dealer.last, weighting)
                found[weighting].append(gradients(model, likelihood * torch.from_numpy(weights)))
        for weighting, samples in found.items():
            for i, seed in enumerate(seeds):
                stack = np.array([sample[i] for sample in samples])
                row = {"task": task, "start": start, "policy": name, "weighting": weighting, "seed": seed}
                useful = float(np.mean(dealers[i].mixed[learn:]))
                rows.append({**row, "useful": useful, **quality(stack, exact[i])})
    return against_uniform(rows)


def gradients(model: Any, objective: Any) -> FloatArray:
    """Return the gradient of each replica's objective, shape (replicas, n_parameters); the graph is kept."""
    import torch

    parts = torch.autograd.grad(objective.sum(), list(model.parameters.values()), retain_graph=True)
    return torch.cat([part.reshape(len(part), -1) for part in parts], dim=1).double().numpy()


def rates_of(model: Any, prompts: Sequence[Any], answers: Sequence[Any]) -> Any:
    """Return the exact success rates of each replica's prompts, shape (replicas, n_prompts), with their graph."""
    import torch

    from studies.learning.gpt import log_likelihood

    asked, right = (torch.from_numpy(np.stack(arrays)) for arrays in (prompts, answers))
    group = torch.arange(asked.shape[1]).expand(len(asked), -1)
    return log_likelihood(model, asked, group, right).exp()


def measure_loglinear(pool_name: str, features: int, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return the same rows for a log-linear pool at its start; gradients are not normalised."""
    rows = []
    for seed in seeds:
        pool = pool_of(pool_name, features, seed)
        start = np.zeros(features)
        exact, rates = pool.gradient(start, held_out=True), pool.rates(start)
        learn = N_ROUNDS // 6
        for name in measured(CONTENDERS):
            dealing = Dealing(Run((pool_name, str(features)), name, 0.0, seed), N_PROMPTS, N_ROUNDS, ROLLOUTS)
            dealing.tell(rates)
            rng = np.random.default_rng([seed, 9])
            found: dict[str, list[FloatArray]] = {weighting: [] for weighting in WEIGHTINGS}
            for k in range(2 * learn):
                each, right = one_round(dealing, k, rates, rng)
                dealing.weights(each, right)
                n = np.bincount(each, minlength=N_PROMPTS)
                chosen = np.flatnonzero(n)
                won = np.bincount(each, right, minlength=N_PROMPTS).astype(np.int64)[chosen]
                for weighting in WEIGHTINGS if k >= learn else ():
                    gradient = pool.group_gradient(
                        chosen, n[chosen], won, weighting=weighting, exposure=dealing.exposure[chosen]
                    )
                    found[weighting].append(gradient)
            for weighting, samples in found.items():
                row = {"task": "log-linear", "start": f"{pool_name}, {features} features", "policy": name}
                useful = float(np.mean(dealing.mixed[learn:]))
                more = {"weighting": weighting, "seed": seed, "useful": useful}
                rows.append({**row, **more, **quality(np.array(samples), exact)})
    return against_uniform(rows)


def one_round(dealing: Dealing, k: int, rates: FloatArray, rng: np.random.Generator) -> tuple[Any, Any]:
    """Play all waves of a round; return prompt and success of every rollout."""
    rows, n = dealing.open(k)
    each, right = [], []
    while rows.size:
        each.append(np.repeat(rows, n))
        right.append(rng.random(each[-1].size) < rates[each[-1]])
        rows, n = dealing.close(rows, n, right[-1])
    empty = np.zeros(0, dtype=np.int64)
    return np.concatenate([empty, *each]), np.concatenate([empty.astype(bool), *right])


def against_uniform(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with Adam's slope, and the length of the mean gradient along the exact one, over uniform's."""
    base = {row["seed"]: row for row in rows if (row["policy"], row["weighting"]) == ("uniform", "rollout")}

    def over(row: dict[str, Any], column: str) -> float:
        return row[column] / base[row["seed"]][column] if base[row["seed"]][column] else float("nan")

    return [{**row, "adam": over(row, "adam"), "sgd": over(row, "sgd")} for row in rows]


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table per checkpoint, means over the seeds."""
    columns = ("useful", "cosine", "aim", "signal", "sgd", "adam")
    for (task, start), games in grouped(rows, "task", "start").items():
        lines = []
        for (name, weighting), own in grouped(games, "policy", "weighting").items():
            cells = [
                f"{np.mean([r[c] for r in own]):.2f} +- {np.std([r[c] for r in own], ddof=1):.2f}" for c in columns
            ]
            if weighting == "rollout" or name in SHOWN_ALL:
                lines.append([name, weighting, *cells])
        title = f"{task} / {start}: gradients at the start, {len({r['seed'] for r in games})} seeds, mean +- deviation"
        table(title, ["policy", "weighting", "useful", "cosine", "aim", "signal", "SGD", "Adam"], lines)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "quick"), default="small", help="of the study whose starts to take")
    parser.add_argument("--schemes", action="store_true", help="of the single-rollout study: split their noise in two")
    parser.add_argument("--quick", action="store_true", help="with --schemes: tiny models, started here: a smoke test")
    parser.add_argument("--starts", type=int, default=2, help="with --schemes: starts per task (default %(default)s)")
    parser.add_argument(
        "--learn", type=int, default=64, help="with --schemes: rounds of learning (default %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds per checkpoint (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("learning_results"), help="folder of the results")
    options = parser.parse_args(argv)
    if options.schemes:
        from studies.learning import causes

        size = "quick" if options.quick else "single"
        how = causes.QUICK if options.quick else causes.Measured(learn=options.learn)
        causes.run(options.out / f"transformer-{size}", size, options.seeds, options.starts, options.jobs, how)
        return 0
    folder = options.out / f"transformer-{options.size}"
    study = transformer(options.seeds, folder, "cpu", 1, options.size)
    calls: list[Callable[[], Any]] = [
        partial(measure, task, start, study.seeds, folder, options.size) for task, start in study.cells
    ]
    calls += [partial(measure_loglinear, pool, 50, study.seeds) for pool in POOLS]
    rows = [row for part in finished(calls, options.jobs) for row in part]
    show(rows)
    write_csv(folder / "gradients.csv", rows)
    return 0
