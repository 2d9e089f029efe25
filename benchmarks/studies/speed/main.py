"""Measure times and memory of the package: ``python benchmarks/speed.py``, under 5 minutes on two cores.

A time depends on the machine as much as on the program. Times are therefore ratios to one ``np.log`` pass over as many
float64 as there are prompts, timed in turn with it, and every figure is the median, least and largest of 7 repeats,
or of as many as stand beside it. Where a target is an absolute time, a ratio stands beside it. A figure meets its target
when its median does; a missed target is printed and does not change the exit status.

``--docs docs`` writes the tables into ``performance.md`` and the picture into ``images`` of that folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np

from cero_alloc import __version__
from studies.common.tables import table
from studies.speed.beliefs import motion
from studies.speed.clock import Scope
from studies.speed.peers import race
from studies.speed.process import memory, start
from studies.speed.report import (
    PEERS_TITLE,
    Curves,
    Row,
    draw,
    markdown,
    peers_table,
    print_section,
    print_verdicts,
    write_json,
    write_page,
)
from studies.speed.rounds import batch_rounds, full_pool, resolving, threads
from studies.speed.solvers import between, oracle, simulation

SECTIONS: dict[str, Callable[[Scope], list[Row]]] = {
    "1. Round over the whole pool, FenchelDualAllocator": full_pool,
    "2. Round over a batch of 1,024, FenchelDualAllocator": batch_rounds,
    "3. ResolvingAllocator": resolving,
    "4. OfflineOracle": oracle,
    "5. Memory per prompt": memory,
    "6. Start of a fresh process": start,
    "7. Two cores": threads,
    "8. Simulation: the paper's run, 8,958 prompts, 500 rounds": simulation,
    "10. Between rounds": between,
    "11. Beliefs that move, and advantages": motion,
}


def machine() -> str:
    """Describe the machine and the versions."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}"
    return f"cero-alloc {__version__}, {versions}; {os.cpu_count()} cores, {model}; {time.strftime('%Y-%m-%d')}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = [int(title.split(".")[0]) for title in (*SECTIONS, PEERS_TITLE)]
    parser.add_argument(
        "--quick", action="store_true", help="smaller pools, under 30 s; the tables say what is left out"
    )
    parser.add_argument(
        "--only", type=int, nargs="+", choices=sorted(numbers), metavar="N", help="these sections alone"
    )
    parser.add_argument("--repeats", type=int, default=7, help="repeats of each figure (default %(default)s)")
    parser.add_argument("--string-pool", type=int, default=10**6, help="prompts with string ids (default %(default)s)")
    parser.add_argument("--regret-sim", action="store_true", help="also time the whole of regret_sim.py: a minute more")
    parser.add_argument("--against", default="", metavar="SRC", help="section 6 also measures the cero_alloc in SRC")
    parser.add_argument(
        "--out", type=Path, default=Path("speed_results"), help="folder of the results (default %(default)s)"
    )
    parser.add_argument(
        "--docs", type=Path, metavar="FOLDER", help="also write FOLDER/performance.md, FOLDER/images/speed.png"
    )
    options = parser.parse_args(argv)
    if options.repeats < 1 or options.string_pool < 1:
        parser.error("--repeats and --string-pool must be at least 1")
    if options.docs and (options.only or options.quick):
        parser.error("--docs takes the whole benchmark: neither --only nor --quick")
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write; return the exit status."""
    options = parse(argv)
    scope = Scope(
        options.quick,
        min(options.repeats, 3) if options.quick else options.repeats,
        options.string_pool,
        options.regret_sim,
        str(Path(options.against).resolve()) if options.against else "",
    )
    started, place = time.perf_counter(), machine()
    print(f"{place}\nx: a ratio of times; log passes: times of one np.log pass over as many float64, timed in turn")
    sections: dict[str, list[Row]] = {}
    curves: Curves = {}
    for title, measure in sorted({**SECTIONS, PEERS_TITLE: None}.items(), key=_number):
        if options.only and _number((title, None)) not in options.only:
            continue
        begun = time.perf_counter()
        if measure is None:
            curves = race(scope)
            header, rows = peers_table(curves)
            table(title, header, rows)
        else:
            sections[title] = measure(scope)
            print_section(title, sections[title])
        print(f"section took {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    print_verdicts(sections)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "speed.json", sections, curves, place)
    if curves:
        draw(options.out / "speed.png", curves)
    if options.docs:
        write_page(options.docs / "performance.md", markdown(sections, curves, f"*{place}.*"))
        draw(options.docs / "images" / "speed.png", curves)
    print(f"\nResults in {options.out}/")
    print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)
    return 0


def _number(entry: tuple[str, object]) -> int:
    return int(entry[0].split(".")[0])
