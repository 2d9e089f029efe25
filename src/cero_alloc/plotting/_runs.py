"""The simulated runs of a figure by name, and checks of what the figure needs of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cero_alloc._checks import error_text, instance
from cero_alloc.simulation import SimulationResult

Runs = SimulationResult | Sequence[SimulationResult] | Mapping[str, SimulationResult | Sequence[SimulationResult]]

_REMEDY = "Pass what simulate(...) returns, a sequence of such results, or a mapping of names to either."


def named(runs: Runs) -> dict[str, list[SimulationResult]]:
    """Return the seeds of every name; runs without a name get the empty one, which legends leave out."""
    if not isinstance(runs, Mapping):
        return {"": _seeds("runs", runs)}
    if not runs:
        raise ValueError(error_text("runs", "name at least one policy", runs, _REMEDY))
    for name in runs:
        if not isinstance(name, str):
            raise TypeError(f"runs must have names as keys, got key {name!r}. {_REMEDY}")
    return {name: _seeds(f"runs[{name!r}]", entry) for name, entry in runs.items()}


def _seeds(where: str, entry: Any) -> list[SimulationResult]:
    """Return one or several results as a list."""
    if isinstance(entry, SimulationResult):
        return [entry]
    if not isinstance(entry, Iterable) or isinstance(entry, (str, bytes)):
        raise TypeError(error_text(where, "be one or several SimulationResult", entry, _REMEDY))
    seeds = [instance(f"{where}[{i}]", run, SimulationResult, _REMEDY) for i, run in enumerate(entry)]
    if not seeds:
        raise ValueError(error_text(where, "hold at least one result", entry, _REMEDY))
    return seeds


def require_equal_horizons(runs: Mapping[str, list[SimulationResult]]) -> None:
    """Raise if the seeds of a name differ in horizon, because they cannot be averaged then."""
    for name, seeds in runs.items():
        first = _size(seeds[0])
        for i, run in enumerate(seeds):
            if _size(run) != first:
                remedy = "Give runs with another horizon another name."
                condition = "have the horizon of the first run of its name: (n_prompts, n_rounds, total_budget)"
                raise ValueError(error_text(_where(name, i), f"{condition} = {first}", _size(run), remedy))


def _size(run: SimulationResult) -> tuple[int, int, int]:
    """Return prompts, rounds and budget, in which runs must agree to be averaged entry by entry."""
    return run.horizon.n_prompts, run.horizon.n_rounds, run.horizon.total_budget


def require_known(runs: Mapping[str, list[SimulationResult]], attribute: str, need: str) -> None:
    """Raise if ``attribute`` is NaN throughout a run; ``need`` names the runs that have it."""
    for name, seeds in runs.items():
        for i, run in enumerate(seeds):
            if np.isnan(getattr(run, attribute)).all():
                where = _where(name, i)
                raise ValueError(f"{where} must be of {need}, got {where}.{attribute} = nan. Leave it out.")


def _where(name: str, i: int) -> str:
    """Return the name of a run in error messages."""
    return f"runs[{name!r}][{i}]" if name else f"runs[{i}]"
