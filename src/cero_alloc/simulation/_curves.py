"""RegretCurve: regret against the number of rounds, over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text, instance, integers, plain_array
from cero_alloc._saving.shown import Shown

from ._result import SimulationResult

_ROUNDING = 1e-12  # regret per prompt up to this size is rounding error


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RegretCurve(Shown):
    """Regret per prompt for several numbers of rounds, over seeds, with the theorem's bound.

    Parameters
    ----------
    rounds : array_like of int, shape (n_points,)
        Numbers of rounds K, increasing.
    regret : array_like of float, shape (n_seeds, n_points)
        Optimum minus achieved utility, per prompt.
    bound : array_like of float, broadcast to the same shape
        Bound on the regret per prompt; NaN, the default, if no theorem gives one.

    Raises
    ------
    ValueError
        For numbers of rounds that are not increasing positive integers, or tables of another shape.
    TypeError
        For entries that are not numbers.

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
        """Build the curve from simulated runs; runs with the same number of rounds are seeds.

        Parameters
        ----------
        results : iterable of SimulationResult
            Runs of one policy, equally many for every number of rounds, in any order.

        Returns
        -------
        RegretCurve
            Its seeds are in the order of the runs.

        Raises
        ------
        ValueError
            For no runs, or unequal numbers of runs.
        TypeError
            For entries that are not results.

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
        """Least-squares slope of log mean regret against log rounds.

        Points with a mean regret of at most 1e-12 per prompt are left out; NaN if fewer than two points remain.
        """
        mean = self.regret.mean(axis=0)
        shown = mean > _ROUNDING
        if shown.sum() < 2:
            return float("nan")
        return float(np.polyfit(np.log(self.rounds[shown]), np.log(mean[shown]), 1)[0])


def _table(name: str, values: npt.ArrayLike, remedy: str) -> FloatArray:
    """Return ``values`` as float64; NaN is allowed."""
    array = plain_array(name, values, remedy)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be numbers, got an array of {array.dtype}. {remedy}")
    return array.astype(np.float64)
