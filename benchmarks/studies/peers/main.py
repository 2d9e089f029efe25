"""Compare every allocator at equal rollouts: the package's own, the published rules and the paper's controls.

Every policy plays the same pools on the same seeds, so that differences are paired, and with the same total of rollouts,
which includes pilots, refills and rollouts that a rule discards. No policy gets the success rates; all start from the prior
Beta(1, 1); one row fits its belief to what it sees.

Prompts are offered in two ways: "pool" offers all of them in every round, "batch" the batches of a shuffling data loader,
with 8 rollouts per prompt, for 8 epochs. Prints one ranked table per pool and offer (mean and 95% interval over seeds), and
writes ``peers.csv`` (one row per run), ``peers_summary.csv`` and one picture per question to ``--out``.

The columns, per run:

* optimum: utility of the rollouts at the true rates, % of the clairvoyant optimum under the same offers; on moving pools
  the rollouts of a round are valued at the rates of that round, and the optimum is an upper bound;
* vs uniform: difference to uniform on the same seed, in percentage points;
* mixed: groups with both outcomes per 1,000 rollouts;
* useful: rollouts in such groups, %;
* unsolved, solved: rollouts on prompts with a success rate below 2% or above 98%, %;
* error: mean distance of the bank's value from p (1 - p), x 1,000;
* unseen: prompts that never got a rollout, %;
* unspent: budget left at the end, %;
* time: median time of all decisions of a round, in multiples of uniform's in the same run (milliseconds in the CSV).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, Horizon, ResolvingAllocator, SaturatingUtility
from cero_alloc.baselines import PEERS, FixedPacing, Greedy, Preset, RandomMatched, Uniform
from cero_alloc.simulation import (
    Pool,
    SimulationResult,
    drifting_pool,
    epoch_batches,
    load_counts,
    path_optimum_bound,
    simulate,
    static_pool,
)
from studies.common.parallel import execute
from studies.peers.report import Row, draw, print_tables, write_tables

M, EPOCHS, PER_VISIT, MOST = 512, 8, 8, 32  # prompts of drawn pools, epochs, mean and most rollouts of a visit
DEAD = 0.02  # a prompt is unsolved below this success rate, and solved above one minus it
FIRST_SEED = 0
POOLS = {
    "Beta(0.5, 0.6)": partial(static_pool, M, 0.5, 0.6),
    "Beta(0.3, 0.3)": partial(static_pool, M, 0.3, 0.3),
    "Beta(1, 1)": partial(static_pool, M, 1.0, 1.0),
    "Beta(0.5, 0.6), drifting": partial(drifting_pool, M, 0.5, 0.6, drift=2.0),
}


def policies(run: dict[str, Any], offer: str, one_size: int | None) -> dict[str, Callable[[BetaPosteriorBank], Any]]:
    """Return how to build each policy on an empty bank.

    ``run`` holds the shared arguments. Rules with one group size give each prompt 8 rollouts where they choose from the pool,
    16 where they choose half of a batch, or ``one_size``; the other rules choose counts up to ``MOST``. The smallest group of
    the re-solving allocator is 8 from the pool, with a further row for 2, and 2 in a batch.
    """
    fixed = one_size or (PER_VISIT if offer == "pool" else 2 * PER_VISIT)
    if offer == "batch":
        fixed = max(fixed, PER_VISIT)  # fewer would not spend the batch's total
    visits = {} if offer == "pool" else {"visits": EPOCHS}
    groups = {**run, "max_rollouts": fixed}
    ours = {**run, "min_rollouts": PER_VISIT if offer == "pool" else 2, **visits}
    same, fixed_pace = {**groups, "rollouts_per_visit": fixed}, {**groups, **visits}
    per_round = run["total_budget"] // run["n_rounds"]
    dual = {**fixed_pace, "round_capacity": per_round + per_round // 32}  # the paper's C = 132 for 128 units
    pairs = {**ours, "min_rollouts": 2}
    found: dict[str, Callable[[BetaPosteriorBank], Any]] = {
        "Resolving": lambda bank: ResolvingAllocator(bank, **ours),
        "Resolving, fitted": lambda bank: ResolvingAllocator(bank, fit_every=8, **ours),
        "Resolving, forgetting 0.9": lambda bank: ResolvingAllocator(forgetful(bank), **ours),
        "Resolving, group signal": lambda bank: ResolvingAllocator(bank, signal="group", **pairs),
        "FenchelDual": lambda bank: FenchelDualAllocator(bank, **dual),
        "FenchelDual, catch-up": lambda bank: FenchelDualAllocator(bank, catch_up=True, **dual),
        **published(groups_of_one_size=same, counts=run),
        "uniform": lambda bank: Uniform(bank, rollouts_per_visit=PER_VISIT, **run),
        "fixed pacing": lambda bank: FixedPacing(bank, **fixed_pace),
        "greedy": lambda bank: Greedy(bank, **groups),
    }
    if offer == "pool":
        found["Resolving, from 2 up"] = lambda bank: ResolvingAllocator(bank, **pairs)
    return found


def published(groups_of_one_size: dict[str, Any], counts: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """Return how to build each published rule in each of its settings, with the arguments that suit its kind."""
    found = {}
    for rule in PEERS:
        title = rule.title or rule.__name__
        shared = groups_of_one_size if rule.kind == "selects" else counts
        for setting, own in rule.variants.items():
            found[f"{title}, {setting}" if setting else title] = partial(rule, **shared, **own)
    return found


def forgetful(bank: BetaPosteriorBank) -> BetaPosteriorBank:
    """Return an empty bank of the same prompts whose evidence fades by a tenth per round."""
    return BetaPosteriorBank(bank.prompt_ids, forgetting=0.9)


class Timed:
    """A policy that also notes how long the decisions of each round take."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.seconds: list[float] = []

    def __getattr__(self, name: str) -> Any:
        part = getattr(self._policy, name)
        if name not in ("allocate", "update", "continue_round"):
            return part

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            answer = part(*args, **kwargs)
            if name == "allocate":
                self.seconds.append(0.0)
            self.seconds[-1] += time.perf_counter() - started
            return answer

        return timed


def compare(label: str, make: Callable[..., Pool], order: int, one_size: int | None, seed: int) -> list[Row]:
    """Play every policy on one pool and seed with both offers; ``order`` is the seed of the batches."""
    pool = make(seed=seed)
    batches = epoch_batches(pool.n_prompts, -(-pool.n_prompts // EPOCHS), EPOCHS, seed=order)
    return [row for offer in ("pool", "batch") for row in play_all(label, pool, offer, batches, one_size, seed)]


def play_all(
    label: str, pool: Pool, offer: str, batches: list[np.ndarray], one_size: int | None, seed: int
) -> list[Row]:
    """Play every policy on one pool, offer and seed."""
    size = pool.n_prompts
    rounds, budget = len(batches), EPOCHS * PER_VISIT * size
    run = {"total_budget": budget, "n_rounds": rounds, "max_rollouts": MOST, "seed": seed}
    horizon = Horizon(
        n_prompts=size, n_rounds=rounds, total_budget=budget, max_rollouts=MOST, round_capacity=MOST * size
    )
    offers = None if offer == "pool" else batches
    known = None
    if not pool.static:
        shown = None if offers is None else tuple(rows.tobytes() for rows in offers)
        known = moving_optimum(pool.rates.tobytes(), pool.path, horizon, shown)
    rows: list[Row] = []

    def play(name: str, policy: Any, rewards: Any) -> SimulationResult:
        best = known if known is not None or not rows else rows[0]["best"]
        timed = Timed(policy)
        result = simulate(timed, pool, rounds, rewards, batches=offers, horizon=horizon, optimum=best)
        row = {"pool": label, "offer": offer, "policy": name, "seed": seed, **measure(result, pool)}
        rows.append({**row, "ms": 1e3 * float(np.median(timed.seconds)), "best": result.optimum})
        return result

    builders = policies(run, offer, one_size)
    first = play("FenchelDual", builders.pop("FenchelDual")(pool.bank()), [seed, 1])
    for name, build in builders.items():
        play(name, build(pool.bank()), [seed, 1])
    # An earlier schedule: the counts that Algorithm 1 chose with other rewards and ties.
    other = policies({**run, "seed": seed + 10_000}, offer, one_size)["FenchelDual"](pool.bank())
    earlier = simulate(other, pool, rounds, [seed, 2], batches=offers, horizon=horizon, optimum=first.optimum)
    play("preset", Preset(pool.bank(), earlier.counts), [seed, 1])
    if offer == "pool":  # permuted, a schedule asks for prompts that a batch does not offer
        play("random-matched", RandomMatched(pool.bank(), first.counts, seed=seed), [seed, 1])
    uniform = next(row for row in rows if row["policy"] == "uniform")
    for row in rows:
        del row["best"]
        row["vs_uniform"] = row["optimum"] - uniform["optimum"]
        row["time"] = row["ms"] / uniform["ms"]
    return rows


@lru_cache
def moving_optimum(rates: bytes, path: str, horizon: Horizon, shown: tuple[bytes, ...] | None) -> float:
    """Return an upper bound of the clairvoyant optimum of a moving pool; slow, and equal for all seeds of a file.

    ``shown`` holds the rows on offer in each round, or is None where all are; a prompt that is not on offer is worth nothing.
    """
    stages = np.frombuffer(rates).reshape(-1, horizon.n_prompts)
    pool = Pool(stages, None, path)
    values = np.stack([pool.values(k, horizon.n_rounds) for k in range(horizon.n_rounds)], axis=1)
    for k, rows in enumerate(shown or ()):
        away = np.ones(horizon.n_prompts, dtype=bool)
        away[np.frombuffer(rows, dtype=np.int64)] = False
        values[away, k] = 0.0
    return path_optimum_bound(values, horizon, SaturatingUtility())[0]


def measure(result: SimulationResult, pool: Pool) -> Row:
    """Return the figures of one run."""
    n, mixed, dealt = result.group_rollouts, result.mixed, int(result.group_rollouts.sum())
    rounds = result.horizon.n_rounds
    rates = np.stack([pool.at(k, rounds) for k in range(rounds)])[result.group_round, result.group_prompt]
    return {
        "optimum": 100.0 * result.achieved / result.optimum,
        "mixed": 1e3 * int(mixed.sum()) / dealt,
        "useful": 100.0 * int(n[mixed].sum()) / dealt,
        "unsolved": 100.0 * int(n[rates < DEAD].sum()) / dealt,
        "solved": 100.0 * int(n[rates > 1.0 - DEAD].sum()) / dealt,
        "error": 1e3 * float(result.proxy_error.mean()),
        "unseen": 100.0 * float(np.mean(result.exposure == 0)),
        "unspent": 100.0 * (1.0 - dealt / result.horizon.total_budget),
    }


def counted(file: Path, seed: int) -> Pool:
    """Return the pool of a file of success counts; the seed only draws the rewards."""
    return load_counts(file)


def plan(options: argparse.Namespace) -> list[Callable[[], list[Row]]]:
    """Return every run; the pool of a file and its batches are the same for all seeds."""
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    drawn = [(label, make, seed, seed) for label, make in POOLS.items() for seed in seeds]
    measured = [(file.stem, partial(counted, file), FIRST_SEED, seed) for file in options.rates for seed in seeds]
    return [
        partial(compare, label, make, order, options.one_size, seed) for label, make, order, seed in drawn + measured
    ]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rates",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE.csv",
        help="also pools of these success counts: prompt_id,epoch,trials,successes; epochs are stages of drift",
    )
    parser.add_argument("--seeds", type=int, default=10, help="seeds per pool (default %(default)s)")
    parser.add_argument(
        "--one-size",
        type=int,
        metavar="N",
        help="group size of rules that have one (default: 8 from the pool, 16 in a batch; at least 8 in a batch)",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("peers_results"), help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="2 seeds: a smoke test, not a measurement")
    options = parser.parse_args(argv)
    if options.quick:
        options.seeds = 2
    if options.one_size is not None and not 2 <= options.one_size <= MOST:
        parser.error(f"--one-size must be 2 to {MOST}")
    if options.seeds < 2 or options.jobs < 1:
        parser.error("--seeds must be at least 2, for an interval, and --jobs at least 1")
    for file in options.rates:
        if not file.is_file():
            parser.error(f"--rates {file}: no such file")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run, print, write; return the exit status."""
    options = parse(argv)
    started = time.perf_counter()
    rows = execute({"peers": plan(options)}, options.jobs)["peers"]
    options.out.mkdir(parents=True, exist_ok=True)
    print_tables(rows)
    write_tables(options.out, rows)
    draw(options.out, rows)
    print(f"\nResults in {options.out}/")
    print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)
    return 0
