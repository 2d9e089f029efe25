"""What is measured in a run."""

from __future__ import annotations

import numpy as np

from cero_alloc._checks import FloatArray, IntArray
from cero_alloc.simulation import Pool, SimulationResult, TrainedPool
from studies.common.tables import Row

DEAD = 0.02  # a prompt is unsolved below this success rate, and solved above one minus it


def measure(result: SimulationResult, pool: Pool) -> Row:
    """Return the figures of one run on a pool, which holds the rates of all rounds."""
    n, mixed, dealt = result.group_rollouts, result.mixed, int(result.group_rollouts.sum())
    size, rounds = result.horizon.n_prompts, result.horizon.n_rounds
    rates = np.stack([pool.at(k, rounds) for k in range(rounds)])[result.group_round, result.group_prompt]
    late = np.unique(result.group_prompt[result.group_round >= rounds - rounds // 4])
    return {
        "optimum": 100.0 * result.achieved / result.optimum,
        "useful": 100.0 * int(n[mixed].sum()) / dealt,
        "signal": 1e3 * squared_advantages(result.group_prompt, n, result.group_successes).sum() / dealt,
        "coverage": 100.0 * late.size / size,
        "success": 100.0 * float(pool.now.mean()) if isinstance(pool, TrainedPool) else np.nan,
        "mixed": 1e3 * int(mixed.sum()) / dealt,
        "unsolved": 100.0 * int(n[rates < DEAD].sum()) / dealt,
        "solved": 100.0 * int(n[rates > 1.0 - DEAD].sum()) / dealt,
        "error": 1e3 * float(result.proxy_error.mean()),
        "unseen": 100.0 * float(np.mean(result.exposure == 0)),
        "unspent": 100.0 * (1.0 - dealt / result.horizon.total_budget),
    }


def squared_advantages(prompt: IntArray, rollouts: IntArray, successes: IntArray) -> FloatArray:
    r"""Return the sum of the squared advantages of each group, in order of time, with posterior baselines.

    Rollout j of a group of n with S successes has the advantage :math:`A_j = r_j - (a + S - r_j) / (a + b + n - 1)`, where
    Beta(a, b) is the flat prior with all earlier groups of the prompt: one reference for all policies, whatever bank they
    keep. With F = n - S the squares sum to

    .. math:: \frac{S (b + F)^2 + F (a + S)^2}{(a + b + n - 1)^2} .
    """
    order = np.argsort(prompt, kind="stable")  # a prompt's groups stay in order of time
    own, n, won = prompt[order], rollouts[order].astype(np.float64), successes[order].astype(np.float64)
    lost = n - won
    first = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
    since = np.repeat(first, np.diff(np.r_[first, own.size]))

    def before(counts: FloatArray) -> FloatArray:
        total = np.cumsum(counts) - counts
        earlier: FloatArray = 1.0 + total - total[since]
        return earlier

    a, b = before(won), before(lost)
    sums = (won * (b + lost) ** 2 + lost * (a + won) ** 2) / (a + b + n - 1.0) ** 2
    squares = np.empty_like(sums)
    squares[order] = sums
    return squares
