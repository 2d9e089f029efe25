"""Pools of prompts with known rewards, simulated runs over them, the theorems' bounds for such runs, and the time of a step."""

from ._bounds import path_optimum_bound, regret_bound
from ._counts import load_counts
from ._curves import RegretCurve
from ._learning import LearningResult, simulate_learning
from ._lengths import LengthModel, step_time
from ._loglinear import LogLinearPool, loglinear_pool
from ._pool import Pool, drifting_pool, epoch_batches, known_bank, static_pool
from ._result import SimulationResult
from ._rounds import Policy
from ._simulate import simulate
from ._trained import TrainedPool

__all__ = [
    "LearningResult",
    "LengthModel",
    "LogLinearPool",
    "Policy",
    "Pool",
    "RegretCurve",
    "SimulationResult",
    "TrainedPool",
    "drifting_pool",
    "epoch_batches",
    "known_bank",
    "load_counts",
    "loglinear_pool",
    "path_optimum_bound",
    "regret_bound",
    "simulate",
    "simulate_learning",
    "static_pool",
    "step_time",
]
