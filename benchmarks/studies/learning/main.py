"""Measure whether a policy learns faster when an allocator deals its rollouts.

    python benchmarks/learning.py --policy-model loglinear
    python benchmarks/learning.py --policy-model transformer
    python benchmarks/learning.py --policy-model transformer --size large --device cuda --side-by-side 60
    python benchmarks/learning.py --policy-model transformer --size "single large" --device cuda --jobs 4 --minutes 8
    python benchmarks/learning.py --policy-model smollm2 --device cuda --jobs 3 --minutes 8

Trains a log-linear policy, small GPTs on verifiable tasks, or SmolLM2-135M on questions of reasoning-gym, by GRPO on
the rollouts that each allocator deals, at equal totals, and prints per pool: held-out success, differences to uniform
over paired seeds, and the rollouts that it took to reach uniform's final success. The protocol is docs/learning.md.
Results go to ``--out``; a study that was stopped resumes there, and a finished one is only reported.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from studies.learning.bands import report_bands
from studies.learning.contrast import report_contrast
from studies.learning.llm_model import missing
from studies.learning.pauses import STOPPED, PausedError
from studies.learning.report import report
from studies.learning.study import finished, run_study
from studies.learning.worlds import loglinear, loglinear_settings, prepare, transformer


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = ("loglinear", "transformer", "smollm2")
    parser.add_argument("--policy-model", choices=models, required=True, help="what is trained")
    parser.add_argument(
        "--size",
        choices=("small", "large", "first look", "single", "single large"),
        default="small",
        help="of the transformer: 57k or 10.6M parameters, the 153k of an earlier look with two policies only, or the "
        "study of single rollouts, on larger pools, with 57k or 10.6M",
    )
    parser.add_argument("--device", default="cpu", help="of transformer and smollm2: cpu or cuda (default %(default)s)")
    parser.add_argument(
        "--seeds",
        type=int,
        help="paired seeds (default 20 log-linear, 5 transformer, 10 first look, 8 single, 3 single large and smollm2)",
    )
    parser.add_argument("--jobs", type=int, help="processes (default one per core; smollm2 1, more share the GPU)")
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
    parser.add_argument(
        "--minutes",
        type=float,
        help="of transformer and smollm2: save all runs after so long, and stop with status 75; the same command goes "
        "on there. A warm start is finished first",
    )
    options = parser.parse_args(argv)
    transformer_size = options.size if options.policy_model == "transformer" else ""
    if options.settings and (
        options.quick or not (transformer_size == "single" or options.policy_model == "loglinear")
    ):
        parser.error("--settings goes with --policy-model loglinear or --size single, and without --quick")
    if options.grid and transformer_size != "single":
        parser.error("--grid goes with --policy-model transformer --size single")
    usual = {"first look": 10, "single": 8, "single large": 3}.get(options.size, 5)
    usual = {"loglinear": 20, "smollm2": 3}.get(options.policy_model, usual)
    if options.policy_model == "smollm2":
        if missing():
            parser.error(f"--policy-model smollm2 needs more: {missing()}")
        if options.device == "cpu" and not options.quick:
            parser.error(
                "the full study of smollm2 needs a GPU: add --device cuda on a machine that has one. "
                "--quick is a smoke run for the CPU"
            )
    if options.minutes is not None and options.policy_model == "loglinear":
        parser.error("--minutes goes with --policy-model transformer or smollm2")
    if options.minutes is not None and not options.minutes > 0.0:
        parser.error("--minutes must be positive")
    if options.jobs is None:
        options.jobs = 1 if options.policy_model == "smollm2" else os.cpu_count() or 1
    options.seeds = 2 if options.quick else usual if options.seeds is None else options.seeds
    if options.quick:
        options.size = f"{options.size} quick" if transformer_size.startswith("single") else "quick"
    if options.seeds < 2 or options.jobs < 1 or options.side_by_side < 1:
        parser.error("--seeds must be at least 2, for an interval, --jobs and --side-by-side at least 1")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run, print, write; return the exit status."""
    options = parse(argv)
    started = time.perf_counter()
    try:
        folder = run(options)
    except PausedError as left:
        print(f"\nStopped; {left}. The same command goes on from there.", file=sys.stderr)
        return STOPPED
    print(f"\nResults in {folder}/")
    print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)
    return 0


def run(options: argparse.Namespace) -> Path:
    """Run a study and report it; return the folder of its results."""
    end = float("inf") if options.minutes is None else time.time() + 60.0 * options.minutes
    if options.policy_model == "smollm2":
        from studies.learning.llm_study import smollm2

        return smollm2(options, end)
    name = options.policy_model if options.policy_model == "loglinear" else f"transformer-{options.size}"
    loglinear_search = options.settings and options.policy_model == "loglinear"
    folder: Path = options.out / (name + "-settings" * loglinear_search).replace(" ", "-")
    if loglinear_search:
        study = loglinear_settings(folder)
    elif options.policy_model == "loglinear":
        study = loglinear(options.seeds, folder, options.quick)
    else:
        study = transformer(
            options.seeds, folder, options.device, options.side_by_side, options.size,
            grid=options.grid, settings=options.settings, end=end,
        )  # fmt: skip
        calls = prepare(study, folder, options.size, options.device, end)
        for _ in tqdm(finished(calls, options.jobs), "warm starts", len(calls), disable=not calls):
            pass
        if prepare(study, folder, options.size, options.device):
            raise PausedError("warm starts are left")
    records, chosen = run_study(study, folder, options.jobs)
    told = folder / "settings" if options.settings and not loglinear_search else folder
    report(study, records, chosen, told)
    if options.size in ("single", "single quick") and not options.settings:
        report_contrast(study, records, chosen, told)
    report_bands(study, records, chosen, told)
    return told
