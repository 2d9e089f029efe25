"""Compare every allocator at equal rollouts: the package's own, the published rules and the paper's controls.

Every policy plays the same pools on the same seeds, so that differences are paired, and with the same total of rollouts,
which includes pilots, refills and rollouts that a rule discards. No policy gets the success rates; all start from the prior
Beta(1, 1); the rows "fitted" and "two waves" fit their belief to what they see.

Prompts are offered in two ways: "pool" offers all of them in every round, "batch" the batches of a shuffling data loader,
with 8 rollouts per prompt, for 8 epochs, 16 where a file is the log of a training run. On the pool "trained" a prompt
improves only with its own rollouts in mixed groups and, a little, with its neighbours'. Prints one ranked table per pool
and offer (mean and 95% interval over seeds) and the mean ranks, and writes ``peers.csv`` (one row per run),
``peers_summary.csv``, ``peers_ranks.csv``, the tables as Markdown and one picture per question to ``--out``.

The columns, per run:

* optimum: utility of the rollouts at the true rates, % of the clairvoyant optimum under the same offers; on moving pools
  the rollouts of a round are valued at the rates of that round, and the optimum is an upper bound; none on "trained";
* useful: rollouts in groups with both outcomes, %;
* signal: mean squared advantage of all rollouts, x 1,000, each reward less the leave-one-out mean of one reference belief:
  the flat prior with all that the run has reported of the prompt;
* coverage: prompts with rollouts in the last quarter of the run, %;
* time: median time of all decisions of a round, in multiples of uniform's in the same run (milliseconds in the CSV);
* success: mean success rate at the end, %, on "trained" only;
* vs uniform: difference to uniform's share of the optimum on the same seed, in percentage points;
* mixed: groups with both outcomes per 1,000 rollouts;
* unsolved, solved: rollouts on prompts with a success rate below 2% or above 98%, %;
* error: mean distance of the bank's value from p (1 - p), x 1,000;
* unseen: prompts that never got a rollout, %;
* unspent: budget left at the end, %.
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

from cero_alloc import (
    BetaPosteriorBank,
    FenchelDualAllocator,
    Horizon,
    ResolvingAllocator,
    SaturatingUtility,
    training_allocator,
)
from cero_alloc.baselines import PEERS, FixedPacing, Greedy, Preset, RandomMatched, Uniform
from cero_alloc.simulation import Pool, SimulationResult, TrainedPool, epoch_batches, path_optimum_bound, simulate
from studies.common.parallel import execute
from studies.peers.pools import EPOCHS, Game, games
from studies.peers.report import RECOMMENDED, Row, draw, print_tables, write_tables
from studies.peers.yardsticks import measure

PER_VISIT, MOST, BATCHES = 8, 32, 8  # mean and most rollouts of a visit, batches of an epoch
FIRST_SEED = 0
REFITS = 8  # of the fitted rows, over the run


def policies(
    run: dict[str, Any], offer: str, one_size: int | None, epochs: int = EPOCHS
) -> dict[str, Callable[[BetaPosteriorBank], Any]]:
    """Return how to build each policy on an empty bank.

    ``run`` holds the shared arguments. Rules with one group size give each prompt 8 rollouts where they choose from the pool,
    16 where they choose half of a batch, or ``one_size``; the other rules choose counts up to ``MOST``. The smallest group of
    the re-solving allocator is 8 from the pool, with further rows for 2, and 2 in a batch or in two waves; in batches it is
    told the ``epochs``.
    """
    fixed = one_size or (PER_VISIT if offer == "pool" else 2 * PER_VISIT)
    if offer == "batch":
        fixed = max(fixed, PER_VISIT)  # fewer would not spend the batch's total
    visits = {} if offer == "pool" else {"visits": epochs}
    groups = {**run, "max_rollouts": fixed}
    told = {**run, **visits}
    pairs = {**told, "min_rollouts": 2}
    ours = {**told, "min_rollouts": PER_VISIT if offer == "pool" else 2}
    fitted = {"fit_every": max(1, run["n_rounds"] // REFITS)}
    fixed_pace = {**groups, **visits}
    per_round = run["total_budget"] // run["n_rounds"]
    dual = {**fixed_pace, "round_capacity": per_round + per_round // 32}  # the paper's C = 132 for 128 units
    found: dict[str, Callable[[BetaPosteriorBank], Any]] = {
        "Resolving": lambda bank: ResolvingAllocator(bank, **ours),
        RECOMMENDED: lambda bank: ResolvingAllocator(bank, **fitted, **ours),
        "Resolving, two waves": lambda bank: ResolvingAllocator(bank, waves=2, **fitted, **pairs),
        "Resolving, forgetting 0.9": lambda bank: ResolvingAllocator(forgetful(bank), **ours),
        "Resolving, group signal": lambda bank: ResolvingAllocator(bank, signal="group", **pairs),
        "training_allocator": lambda bank: training_allocator(bank.prompt_ids, **told),
        "FenchelDual": lambda bank: FenchelDualAllocator(bank, **dual),
        "FenchelDual, catch-up": lambda bank: FenchelDualAllocator(bank, catch_up=True, **dual),
        **published(run, fixed),
        "uniform": lambda bank: Uniform(bank, rollouts_per_visit=PER_VISIT, **run),
        "fixed pacing": lambda bank: FixedPacing(bank, **fixed_pace),
        "greedy": lambda bank: Greedy(bank, **groups),
    }
    if offer == "pool":
        found["Resolving, from 2 up"] = lambda bank: ResolvingAllocator(bank, **pairs)
        found["Resolving, fitted, from 2 up"] = lambda bank: ResolvingAllocator(bank, **fitted, **pairs)
    return found


def published(run: dict[str, Any], size: int) -> dict[str, Callable[..., Any]]:
    """Return how to build each published rule in each of its settings, with groups of ``size`` where it has one size."""
    found = {}
    for rule in PEERS:
        title = rule.title or rule.__name__
        shared = {**run, "max_rollouts": size} if rule.kind == "selects" else run
        if rule.kind == "selects" or (rule.kind == "waves" and rule.takes_visits):
            shared = {**shared, "rollouts_per_visit": size}
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


def compare(game: Game, one_size: int | None, seed: int) -> list[Row]:
    """Play every policy on one pool and seed with both offers."""
    pool, order = game.make(seed=seed), seed if game.order is None else game.order
    batches = epoch_batches(pool.n_prompts, -(-pool.n_prompts // BATCHES), game.epochs, seed=order)
    return [row for offer in ("pool", "batch") for row in play_all(game, pool, offer, batches, one_size, seed)]


def play_all(
    game: Game, pool: Pool, offer: str, batches: list[np.ndarray], one_size: int | None, seed: int
) -> list[Row]:
    """Play every policy on one pool, offer and seed."""
    size = pool.n_prompts
    rounds, budget = len(batches), game.epochs * PER_VISIT * size
    run = {"total_budget": budget, "n_rounds": rounds, "max_rollouts": MOST, "seed": seed}
    horizon = Horizon(
        n_prompts=size, n_rounds=rounds, total_budget=budget, max_rollouts=MOST, round_capacity=MOST * size
    )
    offers = None if offer == "pool" else batches
    known = None
    if isinstance(pool, TrainedPool):
        known = np.nan
    elif not pool.static:
        shown = None if offers is None else tuple(rows.tobytes() for rows in offers)
        known = moving_optimum(pool.rates.tobytes(), pool.path, horizon, shown)
    rows: list[Row] = []

    def play(name: str, policy: Any, rewards: Any) -> SimulationResult:
        best = known if known is not None or not rows else rows[0]["best"]
        timed, world = Timed(policy), pool.fresh() if isinstance(pool, TrainedPool) else pool
        result = simulate(
            timed, world, rounds, rewards, batches=offers, horizon=horizon, utility=SaturatingUtility(), optimum=best
        )
        row = {"pool": game.label, "offer": offer, "policy": name, "seed": seed, **measure(result, world)}
        rows.append({**row, "ms": 1e3 * float(np.median(timed.seconds)), "best": result.optimum})
        return result

    builders = policies(run, offer, one_size, game.epochs)
    first = play("FenchelDual", builders.pop("FenchelDual")(pool.bank()), [seed, 1])
    for name, build in builders.items():
        play(name, build(pool.bank()), [seed, 1])
    # An earlier schedule: the counts that Algorithm 1 chose with other rewards and ties.
    other = policies({**run, "seed": seed + 10_000}, offer, one_size, game.epochs)["FenchelDual"](pool.bank())
    world = pool.fresh() if isinstance(pool, TrainedPool) else pool
    earlier = simulate(other, world, rounds, [seed, 2], batches=offers, horizon=horizon, optimum=first.optimum)
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


def plan(options: argparse.Namespace) -> list[Callable[[], list[Row]]]:
    """Return every run."""
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    return [partial(compare, game, options.one_size, seed) for game in games(options.rates) for seed in seeds]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rates",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE.csv",
        help="also pools of these success counts: prompt_id,epoch,trials,successes; epochs are stages of drift, or, where "
        "there are more than 10 and not as many for every prompt, the visits of a training run",
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
