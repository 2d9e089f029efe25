"""Studies in pieces: when a training run is saved, when a command stops, and the files from which the next goes on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from studies.learning.dealing import Run

State = dict[str, Any]

STOPPED = 75  # exit status of a command that is to be called again: EX_TEMPFAIL
EVERY = 120.0  # seconds between saves of a run: what a command that is killed loses


class PausedError(Exception):
    """The time of the command is over, and its study is not done."""


class Pauses:
    """When runs are saved, and when they stop.

    Parameters
    ----------
    end : float
        Time from which on runs stop, in seconds since the epoch: worker processes share it. Infinite without an end.
    every : float
        Seconds between saves; infinite to save at the end only.
    """

    def __init__(self, end: float = float("inf"), every: float = EVERY) -> None:
        self._end, self._every, self._saved = end, every, time.time()

    def over(self) -> bool:
        """Return whether the time is over."""
        return time.time() >= self._end

    def check(self, save: Callable[[], None]) -> bool:
        """Save a run if it is time to; return whether it is to stop, saved."""
        over = self.over()
        if over or time.time() >= self._saved + self._every:
            save()
            self._saved = time.time()
        return over


def state_file(folder: Path, runs: Sequence[Run]) -> Path:
    """Return where these runs, which are trained side by side, are kept until they are done.

    Other runs beside it change the last bits of a run: every choice of runs has a file of its own.
    """
    return folder / f"stopped_{hashlib.sha256(repr(list(runs)).encode()).hexdigest()[:16]}.pt"


def save_state(file: Path, runs: Sequence[Run], sizes: Any, state: State) -> None:
    """Write the state of runs, with the dataclass of their sizes; the file is replaced as a whole."""
    write_whole(file, {"runs": [asdict(run) for run in runs], "sizes": asdict(sizes), **state})


def load_state(file: Path, runs: Sequence[Run], sizes: Any) -> State | None:
    """Return what :func:`save_state` wrote, on the CPU, or None where there is no file.

    Raises
    ------
    ValueError
        Where other runs, or other sizes, wrote it.
    """
    import torch

    if not file.exists():
        return None
    state: State = torch.load(file, map_location="cpu", weights_only=False)  # a policy's state is more than tensors
    if (state["runs"], state["sizes"]) != ([asdict(run) for run in runs], asdict(sizes)):
        raise ValueError(f"{file} must be of the same runs and sizes, got {state['runs']}. Delete it.")
    return state


def write_whole(file: Path, content: Any) -> None:
    """Write a file of PyTorch that appears as a whole or not at all."""
    import torch

    part = file.with_name(file.name + ".part")
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, part)
    part.replace(file)
