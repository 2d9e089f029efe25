"""Time single kernels: ``pytest benchmarks/test_kernels_speed.py``; pytest-benchmark prints the table; no time is asserted.

Kernels are called with arrays as the classes hold them. ``--benchmark-compare`` compares a run with an older one.
"""

from __future__ import annotations

import numpy as np
import pytest

from cero_alloc._numba import KERNELS
from cero_alloc._objective.utility import SHAPES

N = 100_000  # prompts
R = 2.0  # equal share
RNG = np.random.default_rng(0)
P = RNG.uniform(0.01, 0.99, N)
Q = P * (1.0 - P)
ROWS = np.arange(N)
PRIOR = np.ones(1)
HEIGHT = 1
EXPOSURE, ROOM, COST = RNG.uniform(0.0, 8.0, N), np.full(N, 64.0), np.ones(1)


BELIEFS = {
    "rest": (1.0, 0.0, 0),
    "forgetting": (0.98, 0.0, 0),
    "drift": (1.0, 0.01, 0),
    "drift and trend": (1.0, 0.01, N),
}


def evidence(belief="rest"):
    """Return the argument ``evidence`` of a pool three ticks old, in arrays that a kernel may write to."""
    rho, drift, anchors = BELIEFS[belief]
    fade = np.empty(4096)
    KERNELS["powers"](rho, fade)
    outcomes = np.column_stack([8.0 * P, 8.0 * (1.0 - P)])
    motion = drift, 1.1, np.ones(anchors), np.empty(0)
    return PRIOR, PRIOR, 0, outcomes, np.zeros(N, dtype=np.int32), 3, rho, fade, *motion


def test_log_pass(benchmark):
    """The yardstick: one pass of np.log."""
    out = np.empty(N)
    benchmark(np.log, P, out=out)


@pytest.mark.parametrize("belief", BELIEFS)
def test_values(benchmark, belief):
    """Values of the whole pool, with beliefs that rest, fade or move."""
    benchmark(KERNELS["values"], True, ROWS, evidence(belief), np.empty(1024), np.empty(N))


@pytest.mark.parametrize("belief", BELIEFS)
def test_observe(benchmark, belief):
    """Evidence of the whole pool."""
    none, nothing = np.zeros(N), np.zeros(N, dtype=np.int64)
    benchmark(KERNELS["observe"], ROWS, none, nothing, np.empty(0), evidence(belief))


@pytest.mark.parametrize("shape", SHAPES)
def test_step_pool(benchmark, shape):
    """The dual step of the whole pool: values, demand and slopes."""
    theta, visits, places = 3.0 * Q, np.array([1000.0]), np.arange(0, N, 100)
    rows, dealt = np.empty((2, places.size), dtype=np.int64)
    scratch = (np.empty((2, 1024)), np.zeros(1024, dtype=np.int64), rows, dealt, np.empty((4, places.size)))
    tops = theta.view(np.int64), np.empty(N // 256, dtype=np.int64), 256
    run = (np.zeros(1), 0, visits, 0), (2, R, 0.0), (SHAPES[shape], HEIGHT, 1.0), 0, places, np.full(places.size, 2)
    benchmark(KERNELS["step_pool"], theta, evidence(), *run, scratch, tops)


@pytest.mark.parametrize("k", [1_024, N // 4])
def test_rank(benchmark, k):
    """The largest keys, few and many."""
    tie, order = RNG.permutation(N).astype(np.int32), np.empty(2 * k, dtype=np.int64)
    benchmark(KERNELS["rank"], Q, tie, 0.0, k, order, np.empty(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_demand(benchmark, shape):
    """Demand of every prompt at one price."""
    benchmark(KERNELS["demand_loop"], (SHAPES[shape], HEIGHT, 1.0), Q, np.full(N, 0.1), np.full(N, 64.0), np.empty(N))


@pytest.mark.parametrize("shape", SHAPES)
def test_utility(benchmark, shape):
    """Utility of every prompt."""
    benchmark(KERNELS["utility_loop"], (SHAPES[shape], HEIGHT, 1.0), Q, EXPOSURE, np.empty(N))


@pytest.mark.parametrize("shape", ["exponential", "log"])
def test_demand_lines(benchmark, shape):
    """The pass of the oracle that takes logarithms."""
    benchmark(KERNELS["demand_lines"], 0.05, Q, np.full(N, R), (SHAPES[shape], HEIGHT, 1.0), np.empty(N), np.empty(N))


@pytest.mark.parametrize("shape", ["exponential", "log"])
def test_total_demand(benchmark, shape):
    """One pass of the oracle's price search."""
    shift, slope = np.empty((2, N))
    KERNELS["demand_lines"](0.05, Q, np.full(N, R), (SHAPES[shape], HEIGHT, 1.0), shift, slope)
    benchmark(KERNELS["total_demand"], 0.1, (shift, slope, np.zeros(N), ROOM), SHAPES[shape])


def test_remaining_demand(benchmark):
    """One pass of the re-solving price search."""
    problem = Q, EXPOSURE, ROOM, COST
    codes, results = (SHAPES["exponential"], HEIGHT, 1.0), (np.empty(N), np.empty((1, 3)), np.empty((7, 256)))
    benchmark(KERNELS["remaining_demand"], 0.05, problem, R, codes, N, *results)


@pytest.mark.parametrize("max_units", [8, 32])
def test_score_gains(benchmark, max_units):
    """Unit gains of every prompt."""
    gains = np.empty((N, max_units))
    benchmark(KERNELS["score_gains"], Q, EXPOSURE, np.full(N, 4.0), R, (SHAPES["exponential"], HEIGHT, 1.0), gains)


def test_clear_slopes(benchmark):
    """The threshold that deals 8 units a prompt by falling gains."""
    gains = Q[:, None] * 0.9 ** np.arange(32.0)
    none, most = np.zeros(N, dtype=np.int64), np.full(N, 32)

    def clear():
        return KERNELS["clear_slopes"](gains, COST, 8.0 * N, none.copy(), most.copy(), np.empty((2, N), dtype=np.int64))

    benchmark(clear)
