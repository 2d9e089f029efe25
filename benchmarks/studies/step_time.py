"""What equal rollouts cost in tokens and in time, where hard prompts have longer answers and a step waits for its last one.

    python benchmarks/step_time.py
    python benchmarks/step_time.py --hard-ratio 1 --within 0.8
    python benchmarks/step_time.py --rates counts.csv

Six ways to deal the same number of rollouts play the same pools on the same seeds: groups of 8 for the prompts of a shuffling
data loader; a loader's batch of as many prompts, its rollouts re-dealt among them, 2 to 32 each; groups of 32, to see what large
groups alone do; groups of 8 for prompts that ``training_allocator`` chooses from the pool; single rollouts for the loader's
prompts; single rollouts for chosen ones. The lengths of the answers are MODELLED (``cero_alloc.simulation.LengthModel``), and so
is the schedule (``step_time``): nothing here was measured on a GPU.

The first table of a pool has, per step, mean and standard deviation over seeds: prompts, the largest group, tokens, time in
tokens that one slot makes meanwhile, the share of the slots' time that is spent generating, and tokens and time against the
loader's groups of 8 on the same seed. The second has the time against these groups in other settings: where difficulty does not
matter for the length, which leaves what groups of like lengths cost; where all slots share one queue; where the prompts with the
longest mean answers come first in that queue; where every rollout has a slot; and in static batches. All are relative to the
first scheme in the same setting, but for "longest first", which is relative to the first scheme in its own order.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cero_alloc import ResolvingAllocator, training_allocator
from cero_alloc._checks import IntArray
from cero_alloc.simulation import LengthModel, Pool, epoch_batches, load_counts, static_pool, step_time
from studies.common.tables import spread, table

GROUP, MOST = 8, 32  # rollouts of an even group, and the most of a re-dealt one
POOLS = {
    "hard, mean success 0.25": partial(static_pool, a=0.5, b=1.5),
    "middle, mean success 0.5": partial(static_pool, a=1.0, b=1.0),
    "nearly solved, mean success 0.85": partial(static_pool, a=1.7, b=0.3),
}
LONGEST_FIRST = "longest first"
FIRST = "loader's prompts, groups of 8"
Deals = Iterator[IntArray]  # the rollouts of every prompt, step by step


def batches_of(pool: Pool, size: int, n_steps: int, rng: np.random.Generator) -> list[IntArray]:
    """Return the batches of a shuffling loader that leaves out an epoch's last prompts where they fill no batch."""
    epochs = -(-n_steps // (pool.n_prompts // size))
    return [batch for batch in epoch_batches(pool.n_prompts, size, epochs, seed=rng) if batch.size == size][:n_steps]


def from_loader(pool: Pool, per_prompt: int, rollouts: int, n_steps: int, rng: np.random.Generator) -> Deals:
    """Deal the same number of rollouts to each prompt of a loader's batch."""
    for batch in batches_of(pool, rollouts // per_prompt, n_steps, rng):
        counts = np.zeros(pool.n_prompts, dtype=np.int64)
        counts[batch] = per_prompt
        yield counts


def re_dealt(pool: Pool, rollouts: int, n_steps: int, rng: np.random.Generator) -> Deals:
    """Deal a batch's rollouts among its prompts."""
    size = rollouts // GROUP
    allocator = ResolvingAllocator(
        pool.bank(), total_budget=rollouts * n_steps, n_rounds=n_steps, visits=-(-n_steps * size // pool.n_prompts),
        min_rollouts=2, max_rollouts=MOST,
    )  # fmt: skip
    for batch in batches_of(pool, size, n_steps, rng):
        counts = np.zeros(pool.n_prompts, dtype=np.int64)
        counts[batch] = allocator.allocate(batch, rollouts, exact=True)
        allocator.update(batch, rng.binomial(counts[batch], pool.rates[0][batch]), counts[batch])
        yield counts


def chosen(pool: Pool, per_prompt: int, rollouts: int, n_steps: int, rng: np.random.Generator) -> Deals:
    """Deal to the prompts that the recommended allocator chooses."""
    allocator = training_allocator(
        pool.n_prompts, total_budget=rollouts * n_steps, n_rounds=n_steps, rollouts_per_visit=per_prompt
    )
    for _ in range(n_steps):
        counts = allocator.allocate(None, rollouts, exact=True)
        allocator.update(None, rng.binomial(counts, pool.rates[0]), counts)
        yield counts


SCHEMES: dict[str, Callable[..., Deals]] = {
    FIRST: partial(from_loader, per_prompt=GROUP),
    "loader's prompts, re-dealt": re_dealt,
    "loader's prompts, groups of 32": partial(from_loader, per_prompt=MOST),
    "chosen prompts, groups of 8": partial(chosen, per_prompt=GROUP),
    "loader's prompts, single": partial(from_loader, per_prompt=1),
    "chosen prompts, single": partial(chosen, per_prompt=1),
}


def settings_of(options: argparse.Namespace) -> dict[str, tuple[LengthModel, dict[str, Any]]]:
    """Return the lengths and the schedule of each setting, that of the first table first."""
    model = LengthModel(options.mean, options.hard_ratio, options.between, options.within, options.most)
    split = {"slots": options.slots, "workers": options.workers}
    return {
        "as above": (model, split),
        "difficulty without effect": (replace(model, hard_ratio=1.0), split),
        "one queue": (model, {"slots": options.slots * options.workers}),
        LONGEST_FIRST: (model, {"slots": options.slots * options.workers}),
        "all at once": (model, {"slots": options.rollouts}),
        "static batches": (model, split | {"batching": "static"}),
    }


def play(pool: Pool, seed: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return, by scheme, means over the steps: prompts, largest group, tokens, and the time in every setting."""
    settings, results = settings_of(options), {}
    means = {name: model.prompt_means(pool.rates[0], seed) for name, (model, _) in settings.items()}
    for number, (scheme, deal) in enumerate(SCHEMES.items()):
        rng = np.random.default_rng([seed, number])
        figures: dict[str, list[float]] = {}
        for counts in deal(pool, rollouts=options.rollouts, n_steps=options.steps, rng=rng):
            assert counts.sum() == options.rollouts
            step = {"prompts": np.count_nonzero(counts), "largest": counts.max()}
            draw = int(rng.integers(2**32))  # the same luck in every setting
            for name, (model, schedule) in settings.items():
                lengths = model.sample(means[name], counts, draw)
                if name == LONGEST_FIRST:
                    lengths = lengths[np.argsort(np.repeat(-means[name], counts), kind="stable")]
                step[name] = step_time(lengths, **schedule)
                step.setdefault("tokens", lengths.sum())
            for name, value in step.items():
                figures.setdefault(name, []).append(float(value))
        results[scheme] = {name: float(np.mean(values)) for name, values in figures.items()}
    return results


def report(title: str, runs: Sequence[dict[str, dict[str, Any]]], options: argparse.Namespace) -> None:
    """Print the two tables of a pool."""
    names, slots = list(settings_of(options)), options.slots * options.workers

    def cell(scheme: str, name: str, digits: int = 0) -> str:
        return spread((run[scheme][name] for run in runs), digits)

    def against(scheme: str, name: str) -> str:
        other = "one queue" if name == LONGEST_FIRST else name
        return spread((run[scheme][name] / run[FIRST][other] for run in runs), 3)

    rows, others = [], []
    for scheme in SCHEMES:
        busy = [100.0 * run[scheme]["tokens"] / (slots * run[scheme][names[0]]) for run in runs]
        rows.append(
            [scheme, str(options.rollouts), f"{np.mean([run[scheme]['prompts'] for run in runs]):.0f}",
             f"{np.mean([run[scheme]['largest'] for run in runs]):.0f}", cell(scheme, "tokens"), cell(scheme, names[0]),
             f"{np.mean(busy):.0f}", against(scheme, "tokens"), against(scheme, names[0])]
        )  # fmt: skip
        others.append([scheme, *(against(scheme, name) for name in names)])
    header = [
        "scheme",
        "rollouts",
        "prompts",
        "largest",
        "tokens",
        "time",
        "busy %",
        "tokens vs first",
        "time vs first",
    ]
    table(f"{title}; a step, {len(runs)} seeds", header, rows)
    table(f"{title}; time against the first row", ["scheme", *names], others)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of every pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=96, help="of generation")
    parser.add_argument("--prompts", type=int, default=2048, help="of a drawn pool")
    parser.add_argument("--rollouts", type=int, default=512, help="of a step, a multiple of 32")
    parser.add_argument("--workers", type=int, default=4, help="that split a step's rollouts before it begins")
    parser.add_argument("--slots", type=int, default=64, help="rollouts that a worker generates at a time")
    model = LengthModel()
    parser.add_argument("--mean", type=float, default=model.mean, help="tokens of an answer to a solved prompt")
    parser.add_argument("--hard-ratio", type=float, default=model.hard_ratio, help="tokens of wrong to right answers")
    parser.add_argument("--between", type=float, default=model.between, help="sd of log tokens between prompts")
    parser.add_argument("--within", type=float, default=model.within, help="sd of log tokens within a prompt")
    parser.add_argument("--most", type=int, default=model.most, help="limit of an answer in tokens")
    parser.add_argument("--rates", help="CSV of measured counts, whose last epoch is a further pool")
    parser.add_argument("--quick", action="store_true", help="smoke test")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.steps, options.prompts = 2, 8, options.rollouts
    if options.rollouts < MOST or options.rollouts % MOST:
        parser.error(f"--rollouts must be a multiple of {MOST}, got {options.rollouts}")
    pools: dict[str, Callable[[int], Pool]] = {
        title: partial(_drawn, make, options.prompts) for title, make in POOLS.items()
    }
    if options.rates is not None:
        measured = load_counts(options.rates)
        final = Pool(measured.rates[-1])
        title = f"{Path(options.rates).stem}, mean success {final.rates.mean():.2f}"
        pools[title] = lambda _: final
    for title, pool_of in pools.items():
        report(title, [play(pool_of(seed), seed, options) for seed in range(options.seeds)], options)
    return 0


def _drawn(make: Callable[..., Pool], n_prompts: int, seed: int) -> Pool:
    return make(n_prompts, seed=seed)
