"""Regret against the number of rounds, over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text, instance, integers, plain_array

from ._result import SimulationResult

_ROUNDING = 1e-12  # regret per prompt that is no more than rounding


@dataclass(frozen=True, slots=True, eq=False)
class RegretCurve:
    """Regret per prompt of runs of growing length, over seeds, beside the theorem's bound.

    Parameters
    ----------
    rounds : array_like of int, shape (n_points,)
        Horizons K, in rounds, increasing.
    regret : array_like of float, shape (n_seeds, n_points)
        Optimum minus achieved utility, per prompt.
    bound : array_like of float, broadcast to the same shape
        What a theorem promises of it, per prompt; NaN, the default, where none does.

    Raises
    ------
    ValueError
        For horizons that are no increasing, positive integers, or tables of another shape.
    TypeError
        For entries that are no numbers.

    References
    ----------
    Theorems 1 and 2 of arXiv 2610.09679.

    Examples
    --------
    >>> curve = RegretCurve([16, 64, 256], [[0.04, 0.02, 0.01], [0.08, 0.04, 0.02]])
    >>> round(curve.slope, 12)
    -0.5
    """

    rounds: IntArray
    regret: FloatArray
    bound: FloatArray = np.nan  # type: ignore[assignment]  # broadcast by __post_init__

    def __post_init__(self) -> None:
        remedy = "Give one column per horizon and one row per seed."
        rounds = integers("rounds", plain_array("rounds", self.rounds, remedy), "Count the rounds of each run.")
        if rounds.ndim != 1 or rounds.size == 0 or rounds[0] < 1 or (np.diff(rounds) <= 0).any():
            raise ValueError(error_text("rounds", "be increasing and at least 1", rounds.tolist(), remedy))
        regret = _table("regret", self.regret, remedy)
        if regret.ndim != 2 or not len(regret) or regret.shape[1] != rounds.size:
            condition = f"have shape (n_seeds, {rounds.size})"
            raise ValueError(f"regret must {condition}, got regret.shape = {regret.shape!r}. {remedy}")
        bound = _table("bound", self.bound, remedy)
        try:
            bound = np.broadcast_to(bound, regret.shape)
        except ValueError:
            condition = f"broadcast to {regret.shape!r}"
            raise ValueError(f"bound must {condition}, got bound.shape = {bound.shape!r}. {remedy}") from None
        for name, value in (("rounds", rounds), ("regret", regret), ("bound", bound)):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, results: Iterable[SimulationResult]) -> RegretCurve:
        """Build the curve of simulated runs; those of one horizon are seeds, in the order given.

        Parameters
        ----------
        results : iterable of SimulationResult
            Runs of one policy in any order of the horizons, equally many of each.

        Returns
        -------
        RegretCurve

        Raises
        ------
        ValueError
            Without runs, or with more of one horizon than of another.
        TypeError
            For anything but results.

        Examples
        --------
        >>> from cero_alloc import FenchelDualAllocator
        >>> from cero_alloc.simulation import known_bank, simulate, static_pool
        >>> pool, results = static_pool(32, seed=0), []
        >>> for n_rounds in (16, 64, 256):
        ...     policy = FenchelDualAllocator(known_bank(pool), total_budget=32 * n_rounds, n_rounds=n_rounds, max_rollouts=2)
        ...     results.append(simulate(policy, pool, n_rounds, feedback=False))
        >>> curve = RegretCurve.of(results)
        >>> curve.regret.shape, bool((curve.regret <= curve.bound).all())
        ((1, 3), True)
        """
        remedy = "Run every horizon with the same seeds."
        by_rounds: dict[int, list[SimulationResult]] = {}
        for i, result in enumerate(results):
            instance(f"results[{i}]", result, SimulationResult, "Pass what simulate(...) returns.")
            by_rounds.setdefault(result.horizon.n_rounds, []).append(result)
        many = {rounds: len(runs) for rounds, runs in sorted(by_rounds.items())}
        if len(set(many.values())) != 1:
            raise ValueError(f"results must be equally many of every horizon, got {many!r} (rounds: runs). {remedy}")
        columns = [by_rounds[rounds] for rounds in many]
        regret, bound = (
            np.array([[getattr(run, name) for run in runs] for runs in columns]).T for name in ("regret", "bound")
        )
        return cls(np.array(list(many)), regret, bound)

    @property
    def slope(self) -> float:
        """Least-squares slope of the logarithm of the mean regret on that of the rounds.

        Horizons without regret, 1e-12 per prompt or less, cannot enter; NaN with fewer than two others.
        """
        mean = self.regret.mean(axis=0)
        shown = mean > _ROUNDING
        if shown.sum() < 2:
            return float("nan")
        return float(np.polyfit(np.log(self.rounds[shown]), np.log(mean[shown]), 1)[0])


def _table(name: str, values: npt.ArrayLike, remedy: str) -> FloatArray:
    """Return ``values`` as float64; NaN is a legitimate entry."""
    array = plain_array(name, values, remedy)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be numbers, got an array of {array.dtype}. {remedy}")
    return array.astype(np.float64)
