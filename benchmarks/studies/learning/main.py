"""Measure whether a policy learns faster when an allocator deals its rollouts.

    python benchmarks/learning.py --policy-model loglinear
    python benchmarks/learning.py --policy-model transformer
    python benchmarks/learning.py --policy-model transformer --size large --device cuda --side-by-side 60

Trains a log-linear policy, or small GPTs on verifiable tasks, by GRPO on the rollouts that each allocator deals, at equal
totals, and prints per pool: held-out success, differences to uniform over paired seeds, and the rollouts that it took to
reach uniform's final success. The protocol is docs/learning.md. Results go to ``--out``; a study that was stopped
resumes there, and a finished one is only reported.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path

from tqdm import tqdm

from studies.learning.contrast import report_contrast
from studies.learning.report import report
from studies.learning.study import finished, run_study
from studies.learning.worlds import loglinear, loglinear_settings, prepare, single_settings, transformer


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy-model", choices=("loglinear", "transformer"), required=True, help="what is trained")
    parser.add_argument(
        "--size",
        choices=("small", "large", "first look", "single"),
        default="small",
        help="of the transformer: 57k or 10.6M parameters, the 153k of an earlier look with two policies only, or the study "
        "of single rollouts, 57k on larger pools",
    )
    parser.add_argument("--device", default="cpu", help="of the transformer: cpu or cuda (default %(default)s)")
    parser.add_argument("--seeds", type=int, help="paired seeds (default 20 log-linear, 5 transformer, 10 first look)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    parser.add_argument(
        "--side-by-side", type=int, default=5, help="models trained side by side in a process (default %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("learning_results"), help="folder of the results")
    parser.add_argument(
        "--grid", action="store_true", help="with --size single: also the schemes around its main contrast"
    )
    parser.add_argument(
        "--settings",
        action="store_true",
        help="log-linear, or with --size single: try other settings of the recommended allocator, on tuning seeds",
    )
    parser.add_argument("--quick", action="store_true", help="tiny models, 2 seeds: a smoke test, not a measurement")
    options = parser.parse_args(argv)
    single = options.policy_model == "transformer" and options.size == "single"
    if options.settings and (options.quick or not (single or options.policy_model == "loglinear")):
        parser.error("--settings goes with --policy-model loglinear or --size single, and without --quick")
    if options.grid and not single:
        parser.error("--grid goes with --policy-model transformer --size single")
    usual = 20 if options.policy_model == "loglinear" else {"first look": 10, "single": 8}.get(options.size, 5)
    options.seeds = 2 if options.quick else usual if options.seeds is None else options.seeds
    if options.quick:
        options.size = "single quick" if single else "quick"
    if options.seeds < 2 or options.jobs < 1 or options.side_by_side < 1:
        parser.error("--seeds must be at least 2, for an interval, --jobs and --side-by-side at least 1")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run, print, write; return the exit status."""
    options = parse(argv)
    started = time.perf_counter()
    name = options.policy_model if options.policy_model == "loglinear" else f"transformer-{options.size}"
    loglinear_search = options.settings and options.policy_model == "loglinear"
    folder = options.out / (name + "-settings" * loglinear_search).replace(" ", "-")
    if loglinear_search:
        study = loglinear_settings(folder)
    elif options.policy_model == "loglinear":
        study = loglinear(options.seeds, folder, options.quick)
    else:
        how = folder, options.device, options.side_by_side
        sized = partial(transformer, options.seeds, size=options.size, grid=options.grid)
        study = single_settings(*how) if options.settings else sized(*how)
        calls = prepare(study, folder, options.size, options.device)
        for _ in tqdm(finished(calls, options.jobs), "warm starts", len(calls), disable=not calls):
            pass
    records, chosen = run_study(study, folder, options.jobs)
    told = folder / "settings" if options.settings and not loglinear_search else folder
    report(study, records, chosen, told)
    if options.size.startswith("single"):
        report_contrast(study, records, chosen, told)
    print(f"\nResults in {told}/")
    print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)
    return 0
