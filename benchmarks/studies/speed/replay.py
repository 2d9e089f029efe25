"""Time ``cero-alloc replay`` on a synthetic log: a row per rollout, as CSV and as gzipped JSONL.

Prints rows per second of reading alone and seconds of the whole command, the start of Python included. The log is
10,000 prompts with rates from Beta(0.5, 0.5) in batches of 625 with 8 rollouts each, 1,000 steps: 5 million rows.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cero_alloc.replay import read_log
from cero_alloc.simulation import epoch_batches, static_pool


def write_logs(folder: Path, n_prompts: int, n_steps: int, batch: int, group: int, seed: int) -> list[Path]:
    """Write the same log in both formats and return the files."""
    rng = np.random.default_rng(seed)
    pool = static_pool(n_prompts, 0.5, 0.5, seed=rng)
    epochs = -(-n_steps * batch // n_prompts)
    files = [folder / "log.csv", folder / "log.jsonl.gz"]
    with open(files[0], "w") as plain, gzip.open(files[1], "wt", compresslevel=1) as packed:
        plain.write("prompt_id,step,reward\n")
        for step, rows in enumerate(epoch_batches(n_prompts, batch, epochs, seed=rng)[:n_steps]):
            prompts = np.repeat(rows, group)
            rewards = (rng.random(prompts.size) < pool.rates[0][prompts]).astype(int).tolist()
            lines = list(zip(prompts.tolist(), rewards, strict=True))
            plain.write("".join(f"math/{prompt},{step},{reward}\n" for prompt, reward in lines))
            packed.write(
                "".join(f'{{"prompt_id": "math/{p}", "step": {step}, "reward": {reward}.0}}\n' for p, reward in lines)
            )
    return files


def main() -> None:
    """Write the logs, time both commands, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10_000, help="prompts (default %(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="steps (default %(default)s)")
    parser.add_argument("--batch", type=int, default=625, help="prompts per step (default %(default)s)")
    parser.add_argument("--group", type=int, default=8, help="rollouts per prompt and step (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the log (default %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="only write the logs, to replay them by hand")
    args = parser.parse_args()
    if args.write:
        print(*write_logs(args.write, args.prompts, args.steps, args.batch, args.group, args.seed))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'log':<14} {'MB':>7} {'rows':>10} {'reading, s':>11} {'rows/s':>10} {'whole command, s':>17}")
        for file in write_logs(Path(folder), args.prompts, args.steps, args.batch, args.group, args.seed):
            start = time.perf_counter()
            log = read_log(file)
            reading = time.perf_counter() - start
            start = time.perf_counter()
            command = [sys.executable, "-m", "cero_alloc", "replay", str(file), "--no-plot"]
            subprocess.run(command, check=True, capture_output=True)
            whole = time.perf_counter() - start
            size = file.stat().st_size / 1e6
            print(
                f"{file.name:<14} {size:>7.1f} {log.n_lines:>10,} {reading:>11.2f} {log.n_lines / reading:>10,.0f} {whole:>17.1f}"
            )
