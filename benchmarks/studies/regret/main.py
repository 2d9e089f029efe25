"""Measure the regret of Algorithm 1 against its clairvoyant optimum and its proved bound.

Three parts, each with a table on the terminal, a CSV and pictures in ``--out``:

1. rate: regret per prompt against the number of rounds, for known and for learnt success rates, beside Theorem 1's
   bound;
2. paper: the run of arXiv 2610.09679 (8958 prompts, 500 rounds, 256,000 rollouts) beside its published figures and
   five controls;
3. drift: success rates that move, regret against an upper bound of the same-path optimum, beside Theorem 2's bound.

The exit status is 1 when any run exceeds its theorem's bound, 130 after Ctrl-C (what was finished is written).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cero_alloc import __version__
from cero_alloc.simulation import Pool, SimulationResult, load_counts, static_pool
from studies.common.tables import SHAPES, write_csv
from studies.regret.report import PUBLISHED, RATE_POOL, ROUNDING, draw, paper_rows, print_drift, print_paper, print_rate
from studies.regret.runs import PAPER_POOL, calibrated_shape, drift_run, paper_run, rate_run

DRIFTS = (0.02, 0.1, 0.5)  # standard deviation of the logit shift over the run


@dataclass
class Tasks:
    """What to run, and what has come back; part -> rows or results."""

    calls: list[tuple[str, int, Callable[[], Any]]] = field(default_factory=list)  # part, cost, call
    done: dict[str, list[Any]] = field(default_factory=lambda: {"rate": [], "paper": [], "drift": []})

    def add(self, part: str, cost: int, call: Callable[..., Any], *args: Any) -> None:
        """Plan one call."""
        self.calls.append((part, cost, partial(call, *args)))


def plan(options: argparse.Namespace) -> Tasks:
    """List the runs of all three parts."""
    tasks = Tasks()
    top = int(np.log2(options.max_rounds))
    source = load_counts(options.rates, path="linear") if options.rates else None
    a = calibrated_shape()
    for seed in range(options.seeds):
        rng = np.random.default_rng([seed, 0])
        small = source.sample(RATE_POOL, rng) if source else static_pool(RATE_POOL, seed=rng)
        for shape in options.shapes:
            for rates in ("known", "learnt"):
                for exponent in range(4, top + 1):
                    tasks.add("rate", 2**exponent, rate_run, small, shape, rates, seed, 2**exponent)
        large = Pool(source.rates[:1]).sample(PAPER_POOL, rng) if source else static_pool(PAPER_POOL, a, a, seed=rng)
        tasks.add("paper", 20_000, paper_run, large, seed)
        paths = {f"logit shift {drift:g}": small.drifted(drift, rng) for drift in DRIFTS}
        if source and not source.static:
            paths = {"measured path": small}
        for name, pool in paths.items():
            for exponent in range(5, min(options.drift_exponent, top) + 1):
                cost = 4 * 2**exponent + 4**exponent // 64  # of the run, and of the optimum along its path
                tasks.add("drift", cost, drift_run, pool, name, options.shapes[0], seed, 2**exponent)
    tasks.calls.sort(key=lambda entry: -entry[1])  # the long ones first keep both cores busy to the end
    return tasks


def execute(tasks: Tasks, jobs: int) -> bool:
    """Run everything; return False after Ctrl-C, with the finished results kept."""
    total = sum(cost for _, cost, _ in tasks.calls)
    with tqdm(total=total, unit="round", unit_scale=True, file=sys.stderr, desc="regret_sim") as bar:
        try:
            for part, cost, outcome in _outcomes(tasks, jobs):
                tasks.done[part].append(outcome)
                bar.update(cost)
        except KeyboardInterrupt:
            _ignore_interrupt()  # a second Ctrl-C must not lose the finished results
            print("interrupted: writing what is finished", file=sys.stderr)
            return False
    return True


def _outcomes(tasks: Tasks, jobs: int) -> Iterator[tuple[str, int, Any]]:
    """Yield results as they come."""
    if jobs == 1:
        for part, cost, call in tasks.calls:
            yield part, cost, call()
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_ignore_interrupt) as workers:
        futures = {workers.submit(call): (part, cost) for part, cost, call in tasks.calls}
        try:
            for future in as_completed(futures):
                yield *futures[future], future.result()
        finally:
            workers.shutdown(wait=False, cancel_futures=True)


def _ignore_interrupt() -> None:
    """Ignore Ctrl-C in workers, and in the parent process once it has been interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# ---------------------------------------------------------------- main


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rates",
        type=Path,
        metavar="FILE.csv",
        help="true rates from success counts: prompt_id,epoch,trials,successes",
    )
    parser.add_argument("--seeds", type=int, default=5, help="seeds per run (default %(default)s)")
    parser.add_argument(
        "--max-rounds", type=int, default=2**14, help="longest horizon of part 1, a power of 2 (default %(default)s)"
    )
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="utilities of part 1; part 3 takes the first"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all cores, here %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("regret_sim_results"), help="folder of the results (default %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="2 seeds, horizons to 256: a smoke test, not a measurement"
    )
    options = parser.parse_args(argv)
    options.drift_exponent = 9
    if options.quick:
        options.seeds, options.max_rounds, options.drift_exponent = (
            min(options.seeds, 2),
            min(options.max_rounds, 256),
            6,
        )
    if options.seeds < 1 or options.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    if options.max_rounds < 16 or options.max_rounds & (options.max_rounds - 1):
        parser.error("--max-rounds must be a power of 2, at least 16")
    if options.rates is not None and not options.rates.is_file():
        parser.error(f"--rates {options.rates}: no such file")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run, print, write; return the exit status."""
    options = parse(argv)
    started = time.perf_counter()
    tasks = plan(options)
    finished = execute(tasks, options.jobs)
    done = tasks.done
    runs: dict[str, list[SimulationResult]] = {}
    paper = sorted(done["paper"], key=lambda entry: entry[0])  # by seed
    for _, outcome in paper:
        for name, result in outcome.items():
            runs.setdefault(name, []).append(result)
    source = (
        f"drawn from {options.rates.name}"
        if options.rates
        else f"Beta(a, a), a = {calibrated_shape():.3f} from the permuted control"
    )
    summary: dict[str, Any] = {
        "version": __version__,
        "finished": finished,
        "options": {k: str(v) for k, v in vars(options).items()},
    }
    if done["rate"]:
        summary["rate"] = print_rate(done["rate"])
    if runs:
        summary["paper"] = {"published": PUBLISHED, **print_paper(runs, source)}
    if done["drift"]:
        print_drift(done["drift"])
    rows = {"rate": done["rate"], "paper": paper_rows(runs, [seed for seed, _ in paper]), "drift": done["drift"]}
    checked = [row for part in ("rate", "drift") for row in rows[part]] + [
        r for r in rows["paper"] if r["policy"] == "Algorithm 1"
    ]
    violations = [row for row in checked if row["regret"] > row["bound"] + ROUNDING]
    summary |= {
        "runs_checked": len(checked),
        "violations": violations,
        "worst_ratio": max((r["regret"] / r["bound"] for r in checked), default=None),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for part, part_rows in rows.items():
        write_csv(options.out / f"{part}.csv", part_rows)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(options.out, done, runs)
    print(
        f"\n{len(checked)} runs checked against the theorems, {len(violations)} above their bound. Results in {options.out}/"
    )
    print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)
    for row in violations:
        print(f"VIOLATION: {row}", file=sys.stderr)
    if not finished:
        return 130
    return 1 if violations else 0
