"""Time a checkpoint of an allocator over a large pool against ``np.savez`` and ``np.load`` of the same arrays.

The state is what ``state_dict`` returns after a few rounds. Every repeat runs all calls in turn, so that the times of a
ratio are taken close together. A checkpoint holds a SHA-256 of all its bytes, which is timed alone as well: it is computed once per
write and once per read. The second table times lists, which ``np.savez`` does not accept.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, checkpoint
from studies.speed.clock import in_turn, whole


def state_of(n_prompts: int, seed: int) -> dict[str, Any]:
    """Return the state of an allocator that has dealt four rounds to its pool."""
    rng = np.random.default_rng(seed)
    bank = BetaPosteriorBank(n_prompts)
    allocator = FenchelDualAllocator(bank, total_budget=16 * n_prompts, n_rounds=64, max_rollouts=8)
    for _ in range(4):
        counts = allocator.allocate()
        allocator.update(None, rng.binomial(counts, 0.3), counts)
    return allocator.state_dict()


def arrays_of(tree: Any) -> list[np.ndarray]:
    """Return the arrays of a state."""
    if isinstance(tree, np.ndarray):
        return [tree]
    entries = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return [array for entry in entries for array in arrays_of(entry)]


def load(file: Path) -> dict[str, np.ndarray]:
    """Read every array of a file."""
    with np.load(file, allow_pickle=False) as members:
        return dict(members)


def show(label: str, seconds: np.ndarray, megabytes: float, base: np.ndarray | None = None) -> None:
    """Print one row: mean, deviation and least time, speed, and the ratio to a base, repeat by repeat."""
    row = f"{label:<28} {1e3 * seconds.mean():>8.1f} {1e3 * seconds.std():>8.1f} {1e3 * seconds.min():>8.1f}"
    row += f" {megabytes / seconds.mean():>8,.0f}"
    if base is not None:
        ratio = seconds / base
        row += f" {ratio.mean():>8.2f} {ratio.std():>8.2f}"
    print(row)


def race(folder: Path, state: dict[str, Any], repeats: int) -> None:
    """Time files of a state against files of its arrays."""
    arrays = {str(i): array for i, array in enumerate(arrays_of(state))}
    ours, theirs = folder / "state.npz", folder / "arrays.npz"
    checkpoint.write(ours, state)
    blob = ours.read_bytes()
    calls: dict[str, Callable[[], object]] = {
        "np.savez": lambda: np.savez(theirs, **arrays),
        "write, durable=False": lambda: checkpoint.write(ours, state, durable=False),
        "write": lambda: checkpoint.write(ours, state),
        "pack": lambda: checkpoint.pack(state),
        "np.load": lambda: load(theirs),
        "read": lambda: checkpoint.read(ours),
        "unpack": lambda: checkpoint.unpack(blob),
        "SHA-256 alone": lambda: hashlib.sha256(blob).digest(),
    }
    seconds = in_turn({name: whole(call) for name, call in calls.items()}, repeats)
    megabytes = len(blob) / 1e6
    print(f"{megabytes:.1f} MB in {len(arrays)} arrays, {len(seconds['read'])} repeats")
    print(f"{'milliseconds':<28} {'mean':>8} {'+-':>8} {'least':>8} {'MB/s':>8} {'ratio':>8} {'+-':>8}")
    for name in calls:
        base = "np.savez" if name in ("write, durable=False", "write", "pack") else "np.load"
        show(name, seconds[name], megabytes, None if name.startswith(("np", "SHA")) else seconds[base])


def lists(n_entries: int, repeats: int) -> None:
    """Time the lists that a state may hold."""
    print(f"\nlists of {n_entries:,}")
    trees = {
        "str ids": {"ids": [f"math/{i}" for i in range(n_entries)]},
        "int": {"rows": list(range(n_entries))},
        "float": {"rates": np.random.default_rng(0).random(n_entries).tolist()},
    }
    for name, tree in trees.items():
        blob = checkpoint.pack(tree)
        calls = {"pack": lambda tree=tree: checkpoint.pack(tree), "unpack": lambda blob=blob: checkpoint.unpack(blob)}
        for call, seconds in in_turn({name: whole(call) for name, call in calls.items()}, repeats).items():
            show(f"{name}, {call}", seconds, len(blob) / 1e6)


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1_000_000, help="prompts (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="repeats of each call (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the rewards (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the files go (default a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        race(Path(folder), state_of(args.prompts, args.seed), args.repeats)
    lists(args.prompts, args.repeats)
