"""Measure the re-solving allocator and the fitted prior: where they gain, where they lose, and their guarantees.

Parts, each with a table on the terminal and a CSV in ``--out``, some with a picture:

1. known: zero regret with known values, in any order of the visits (Theorem 3), and the cost of each setting;
2. envelope: the batch solver against a dynamic program, and its worst gap on adversarial tables;
3. learnt: regret with learnt values against the number of epochs, for every policy;
4. pools: regret on pools from spread out to homogeneous, offered in batches or as a whole, static and drifting, and
   under a token budget; and when each prompt is dealt, in the orders "best" and "spread";
5. saturation: its effect on the concentration of the rollouts;
6. priors: bias and error of the value on measured success counts (``--data``), with the flat and the fitted prior;
7. promises: exact totals, unspent budget and token caps over generated calls.

The exit status is 1 when a guarantee is broken, else 0.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from studies.common.parallel import execute
from studies.common.tables import write_csv
from studies.resolving import sizes
from studies.resolving.known import known_run, settings_run
from studies.resolving.learnt import learnt_run, order_run, token_run, whole_run
from studies.resolving.limits import prior_run, promise_run, saturation_run
from studies.resolving.report import (
    SATURATIONS,
    draw,
    print_envelope,
    print_known,
    print_learnt,
    print_orders,
    print_pools,
    print_priors,
    print_promises,
    print_saturation,
    print_tokens,
)
from studies.resolving.solver import envelope_run


def plan(options: argparse.Namespace) -> dict[str, list[Callable[[], Any]]]:
    """Return every run of every part."""
    seeds = range(sizes.FIRST_SEED, sizes.FIRST_SEED + options.seeds)
    instances, tables, hard, promises = (48, 300, 30, 60) if options.quick else (480, 6000, 600, 3300)
    epochs = sizes.EPOCHS[:3] if options.quick else sizes.EPOCHS
    betas = ((0.3, 0.3), (1.0, 1.0), (2.0, 2.0), (5.0, 5.0), (20.0, 20.0))[: 1 if options.quick else None]
    return {
        "known": [partial(known_run, seed) for seed in range(instances)],
        "settings": [partial(settings_run, seed) for seed in seeds],
        "envelope": [partial(envelope_run, seed, "concave") for seed in range(tables)]
        + [partial(envelope_run, seed, "adversarial") for seed in range(hard)],
        "learnt": [
            partial(learnt_run, seed, scaling, e)
            for e in reversed(epochs)
            for scaling in ("height", "rate")
            for seed in seeds
        ],
        "pools": [partial(learnt_run, seed, "height", 4, beta=beta) for beta in betas for seed in seeds]
        + [partial(whole_run, seed, "static") for seed in seeds]
        + [
            partial(whole_run, seed, "drifting", rho)
            for rho in ((1.0,) if options.quick else (1.0, 0.97))
            for seed in seeds
        ],
        "tokens": [partial(token_run, seed) for seed in seeds],
        "orders": [partial(order_run, seed, quantum) for quantum in (1, 8) for seed in seeds],
        "saturation": [
            partial(saturation_run, seed, scaling, level)
            for scaling in ("height", "rate")
            for level in SATURATIONS
            for seed in seeds
        ],
        "priors": [partial(prior_run, file, seed) for file in sorted(options.data.glob("*.csv")) for seed in range(20)],
        "promises": [partial(promise_run, seed) for seed in range(promises)],
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(__file__).resolve().parents[4] / "shared" / "data"
    parser.add_argument("--seeds", type=int, default=10, help="seeds per learnt run (default %(default)s)")
    parser.add_argument("--data", type=Path, default=data, help="folder of success counts (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("resolving_sim_results"), help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="2 seeds, few instances: a smoke test")
    options = parser.parse_args(argv)
    if options.quick:
        options.seeds = min(options.seeds, 2)
    if options.seeds < 1 or options.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run, print, write; return the exit status."""
    options = parse(argv)
    started = time.perf_counter()
    done = execute(plan(options), options.jobs)
    options.out.mkdir(parents=True, exist_ok=True)
    print_known(done["known"], done["settings"])
    print_envelope(done["envelope"])
    done["learnt"].sort(key=lambda row: row["epochs"])
    print_learnt(done["learnt"])
    same = [r for r in done["learnt"] if (r["epochs"], r["scaling"]) == (4, "height")]
    print_pools(same + done["pools"])
    print_tokens(done["tokens"])
    print_orders(done["orders"])
    print_saturation([row for row, _ in done["saturation"]])
    if done["priors"]:
        print_priors(done["priors"])
    else:
        print(f"\n6. PRIORS: skipped, no success counts in {options.data}")
    broken = print_promises(done["promises"])
    worst = max(r["regret"] for r in done["known"])
    broken += ["zero regret with known values"] if worst > 1e-9 else []
    broken += ["batch solver"] if any(r["tables"] == "concave" and r["loss"] for r in done["envelope"]) else []
    for part, rows in done.items():
        flat = [entry[0] for entry in rows] if part == "saturation" else rows
        write_csv(options.out / f"{part}.csv", flat)
    draw(options.out, done["learnt"], done["saturation"])
    print(f"\nResults in {options.out}/")
    print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)
    for name in broken:
        print(f"BROKEN PROMISE: {name}", file=sys.stderr)
    return 1 if broken else 0
