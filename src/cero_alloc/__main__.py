"""The commands ``cero-alloc replay LOG``, which reports what other policies make of a log, and ``cero-alloc warm-up``."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from ._allocators.warm_up import warm_up
from ._evidence.kernels import settled_values
from ._numba import is_cached
from .replay._files import log_files
from .replay._html import report_html
from .replay._lines import Format
from .replay._presets import Layout
from .replay._reader import Options, read_files
from .replay._report import ReplayReport, replay_report, report_json, report_rows, row_names
from .replay._results import Offer
from .replay._text import report_text

_ROLES = {
    "prompt_id": "column or key of the prompt id; several are joined: data_source,index",
    "step": 'column of the step; "none" takes the log for one step',
    "reward": "column of the reward, with dots into objects; several are added: a_reward+b_reward",
    "successes": "column of the successes",
    "trials": "column of the trials, or the number of rollouts behind rewards that are rates",
    "group": "column that tells groups of one prompt in one step apart",
    "where": "keep the lines with this value, such as split=train",
}
_MOST_BAD = 0.1  # share of the lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 if the log, the arguments or the cache cannot be used."""
    args = _parser().parse_args(argv)
    if args.command == "warm-up":
        return _warm_up()
    try:
        report = _report(args)
        print(report_text(report), flush=True)
        _write(report, args)
    except BrokenPipeError:  # the reader of the report went away, as "head" does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        print(f"cero-alloc replay: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cero-alloc", description="Allocate rollouts in RL post-training.")
    parser.add_argument("--version", action="version", version=f"cero-alloc {version('cero-alloc')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    commands.add_parser(
        "warm-up",
        help="compile now what a training process would otherwise compile",
        description="Fill numba's cache with what the recommended allocator, Algorithm 1 and their metrics need. "
        "NUMBA_CACHE_DIR says where; a second call compiles nothing.",
    )
    command = commands.add_parser(
        "replay",
        help="replay a training log under other policies",
        description="Read a log of rewarded rollouts. Report how many groups were dead, how many mixed groups each policy "
        "would have obtained from the same rollouts, how well reward variances are predicted, and which settings to use next.",
    )
    command.add_argument(
        "logs",
        metavar="LOG",
        nargs="+",
        help="files, folders or patterns: CSV with a header, JSONL, JSON, Parquet, plain or compressed; - reads standard input",
    )
    command.add_argument("--format", choices=get_args(Format), help="default: by extension, if unknown by first line")
    command.add_argument(
        "--from",
        dest="layout",
        choices=get_args(Layout),
        metavar="LAYOUT",
        help="who wrote the log, which tells its columns and files: " + ", ".join(get_args(Layout)),
    )
    for role, text in _ROLES.items():
        command.add_argument("--" + role.replace("_", "-"), metavar="NAME", help=text)
    command.add_argument(
        "--reward-range", type=_pair, metavar="LOW,HIGH", help="smallest and largest reward (--reward-range=-1,1)"
    )
    command.add_argument("--success-at", type=float, metavar="X", help="rewards of at least X count as 1, others as 0")
    command.add_argument(
        "--group-size",
        type=int,
        metavar="N",
        help="rollouts of a group: in the second table, and of consecutive lines in a log without prompt ids",
    )
    command.add_argument("--last-attempt", action="store_true", help="where steps go backwards, keep the last attempt")
    command.add_argument("--keep-going", action="store_true", help="use a log of which 10%% or more cannot be read")
    command.add_argument(
        "--offer",
        choices=get_args(Offer),
        default="batch",
        help="prompts offered in a step: those logged in that step, or the whole pool (default: batch)",
    )
    command.add_argument(
        "--budget",
        type=float,
        default=0.5,
        metavar="X",
        help="share of the rollouts in the second table (default: 0.5)",
    )
    most = "largest group of one prompt in one step (default: 4 times the largest logged group, at most 128)"
    command.add_argument("--max-rollouts", type=int, metavar="N", help=most)
    command.add_argument("--n-boot", type=int, default=1000, metavar="N", help="bootstrap samples (default: 1000)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random choices (default: 0)")
    command.add_argument("--csv", type=Path, metavar="FILE", help="write the table of policies as CSV")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the whole report as JSON")
    command.add_argument(
        "--prompts", type=Path, metavar="FILE", help="write a table of all prompts, never mixed ones first"
    )
    command.add_argument("--html", type=Path, metavar="FILE", help="write the report as one web page, for any browser")
    command.add_argument("--plot", type=Path, metavar="FILE", help="file of the figure (default: replay.png)")
    command.add_argument("--no-plot", action="store_true", help="write no figure")
    command.add_argument("--progress", action="store_true", help="show progress even if stderr is not a terminal")
    return parser


def _warm_up() -> int:
    compiled, found, folders = warm_up()
    if compiled + found and not folders:
        print("cero-alloc warm-up: no folder can keep a cache. Set NUMBA_CACHE_DIR to one.", file=sys.stderr)
        return 2
    print(f"{compiled} kernels compiled, {found} found in the cache", *folders, sep="\n  ")
    return 0


def _pair(text: str) -> tuple[float, float]:
    low, high = map(float, text.split(","))
    return low, high


def _report(args: argparse.Namespace) -> ReplayReport:
    options = Options(
        {role: getattr(args, role) for role in _ROLES},
        args.reward_range,
        args.success_at,
        args.group_size,
        args.last_attempt,
        args.format,
        args.layout,
    )
    files = log_files(args.logs, options.preset.files)
    size = None if "-" in files else sum(map(os.path.getsize, files))
    with _bar(args, total=size, desc="reading", unit="B", unit_scale=True) as bar:
        before = 0

        def advance(done: int) -> None:  # done counts the bytes of one file
            nonlocal before
            bar.update(done - before if done >= before else done)
            before = done

        log = read_files(files, options, advance)
    name = "standard input" if files == ["-"] else ", ".join(args.logs)
    if log.n_bad >= _MOST_BAD * log.n_lines and not args.keep_going:
        found = "".join(f"\n  {bad}" for bad in log.bad_lines)
        raise ValueError(
            f"{name} must be readable, got {log.n_bad:,} bad lines of {log.n_lines:,}:{found}\nName the right columns, or add "
            "--keep-going to use the rest."
        )
    if not is_cached(settled_values):
        print("compiling, once after the installation: about 10 s", file=sys.stderr)
    with _bar(args, desc="replaying", unit=" policies") as bar:

        def start(total: int) -> Any:
            bar.reset(total)
            return bar.update

        return replay_report(
            name,
            log,
            offer=args.offer,
            max_rollouts=args.max_rollouts,
            budget=args.budget,
            group_size=args.group_size if "prompt_id" in log.reading.columns else None,
            seed=args.seed,
            n_boot=args.n_boot,
            progress=start,
        )


class _NoBar:
    """Replaces the progress bar if none is wanted or tqdm is not installed."""

    n = 0

    def update(self, more: int = 1) -> None:
        """Show nothing."""

    def reset(self, total: int) -> None:
        """Show nothing."""


@contextmanager
def _bar(args: argparse.Namespace, **options: Any) -> Iterator[Any]:
    """Give a progress bar on stderr if stderr is a terminal and tqdm is installed."""
    if find_spec("tqdm") is None or not (args.progress or sys.stderr.isatty()):
        yield _NoBar()
        return
    from tqdm import tqdm

    with tqdm(file=sys.stderr, leave=False, **options) as bar:
        yield bar


def _write(report: ReplayReport, args: argparse.Namespace) -> None:
    """Write the requested files and print their names."""
    written = []
    if args.csv:
        _write_csv(args.csv, row_names(), report_rows(report))
        written.append(args.csv)
    if args.prompts:
        rows = report.summary.prompts.rows(report.log)
        _write_csv(args.prompts, list(rows[0]), rows)
        written.append(args.prompts)
    if args.json:
        args.json.write_text(json.dumps(report_json(report), indent=2) + "\n", encoding="utf-8")
        written.append(args.json)
    if args.html:
        args.html.write_text(report_html(report_json(report)), encoding="utf-8", errors="replace")
        written.append(args.html)
    if report.result is not None and not args.no_plot:
        if find_spec("matplotlib") is not None:
            from .plotting import plot_replay

            file = args.plot or Path("replay.png")
            figure: Any = plot_replay(report.result).figure
            figure.savefig(file, dpi=200)
            written.append(file)
        elif args.plot:
            raise ValueError("--plot must find matplotlib, which is not installed. Run pip install matplotlib.")
    if written:
        print(f"\nwritten: {', '.join(map(str, written))}")


def _write_csv(file: Path, names: list[str], rows: list[dict[str, Any]]) -> None:
    with open(file, "w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, names)
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
