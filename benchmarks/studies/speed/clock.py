"""Clocks of speed.py: calls that are compared are timed in turn, so that a slow spell of the machine slows all of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LEAST = 0.004  # seconds that one repeat of a call lasts; shorter calls are repeated within it
LONG = 3.0  # seconds of a call that is not warmed up a second time
SCRIPTS = Path(__file__).resolve().parents[2]  # the folder from which the studies are imported
MOST = 30.0  # seconds that all repeats may last together, where there are more than 3
Clocked = Callable[[], float]  # does its work once, and returns the seconds that count


@dataclass(frozen=True)
class Scope:
    """How much of the benchmark runs."""

    quick: bool = False
    repeats: int = 7
    string_pool: int = 1_000_000  # prompts with string ids
    regret_sim: bool = False  # whether the whole of regret_sim.py is timed, too
    against: str = ""  # the folder of another cero_alloc, whose start is measured, too


def whole(call: Callable[[], object]) -> Clocked:
    """Return a call whose every second counts."""

    def clocked() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return clocked


def warm(call: Clocked) -> float:
    """Return the seconds of a call once its kernels are there; a round's second call may still compile some."""
    call()
    second = call()
    return call() if second < LONG else second


def in_turn(
    calls: Mapping[str, Clocked], repeats: int, least: float = LEAST, most: float = MOST
) -> dict[str, np.ndarray]:
    """Return the seconds of each call, one entry per repeat.

    A repeat goes through all calls once, every other one backwards, so that none is always the first.
    Every call is warmed up first, which determines how often a short one must run within a repeat, and whether the machine
    is so slow that 3 repeats must do for all to take no more than ``most`` seconds.
    """
    often, whole_repeat = {}, 0.0
    for name, call in calls.items():
        once = max(warm(call), 1e-7)
        often[name] = math.ceil(least / once)
        whole_repeat += often[name] * once
    repeats = min(repeats, max(3, int(most / whole_repeat)))
    seconds = {name: np.empty(repeats) for name in calls}
    for repeat in range(repeats):
        for name in list(calls)[:: -1 if repeat % 2 else 1]:
            seconds[name][repeat] = sum(calls[name]() for _ in range(often[name])) / often[name]
    return seconds


def log_pass(size: int) -> Clocked:
    """Return one ``np.log`` pass over ``size`` float64, in place: the yardstick of everything that reads a pool."""
    x, out = np.random.default_rng(0).uniform(0.01, 1.0, size), np.empty(size)
    return whole(lambda: np.log(x, out=out))


def sort_pass(size: int) -> Clocked:
    """Return one ``np.argsort`` of random int64: the yardstick of a batch."""
    x = np.random.default_rng(0).integers(0, 2**60, size)
    return whole(lambda: np.argsort(x))


def with_studies(environment: Mapping[str, str], *folders: str) -> dict[str, str]:
    """Return this process's environment with changes, and with ``folders`` and the studies on its Python path."""
    found = {**os.environ, **environment}
    found["PYTHONPATH"] = os.pathsep.join(filter(None, (*folders, str(SCRIPTS), found.get("PYTHONPATH"))))
    return found


def fresh(code: str, **environment: str) -> Any:
    """Run code in a fresh process, with the studies on its path, and return the JSON that it prints last.

    Bytecode is cached, as it is after ``pip install``, also where the environment turns that off.
    """
    command = [sys.executable, "-c", code]
    environment = {"PYTHONDONTWRITEBYTECODE": "", **environment}
    done = subprocess.run(command, env=with_studies(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a fresh process failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
