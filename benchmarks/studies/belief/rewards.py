"""Rewards between 0 and 1: values and allocations with the sums of squared rewards, and where rewards are taken for coins.

Three kinds of prompts have the same mean reward, 0.5: one always pays 0.5, one pays 0 or 1 at random, and one pays uniformly
in [0, 1]. Only the variances differ: 0, 1/4 and 1/12.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from cero_alloc import AllocationWarning, BetaPosteriorBank, FenchelDualAllocator, OfflineOracle, ResolvingAllocator

KINDS = ("always 0.5", "0 or 1", "uniform")
SECOND_MOMENTS = (0.25, 0.5, 1.0 / 3.0)  # of one reward of each kind
ALLOCATORS: dict[str, Any] = {
    "Algorithm 1 (`FenchelDualAllocator`)": FenchelDualAllocator,
    "`ResolvingAllocator`": ResolvingAllocator,
}
TOLD = {True: "sums and squares", False: "sums, as of coins"}
FIRST_SEED = 2000


class Sizes(NamedTuple):
    """Sizes of the runs.

    Attributes
    ----------
    each : int
        Prompts of each kind.
    seeds : int
        Runs of each allocator.
    per_prompt : int
        Rollouts of the budget per prompt.
    rounds : int
        Rounds of a run; all prompts are on offer in each.
    most : int
        Largest number of rollouts per prompt and round.
    """

    each: int
    seeds: int
    per_prompt: int = 64
    rounds: int = 64
    most: int = 8

    @property
    def kinds(self) -> np.ndarray:
        """Kind of each prompt, as a place in ``KINDS``."""
        return np.repeat(np.arange(len(KINDS)), self.each)

    @property
    def budget(self) -> int:
        """Rollouts of a run."""
        return self.per_prompt * len(KINDS) * self.each


FULL, QUICK = Sizes(each=300, seeds=20), Sizes(each=60, seeds=4)


def drawn(rng: np.random.Generator, kinds: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of the rewards of ``n`` rollouts of prompts of these kinds, and the sums of their squares."""
    sums, squares = 0.5 * n, 0.25 * n
    coin, uniform = kinds == 1, kinds == 2
    sums[coin] = squares[coin] = rng.binomial(n[coin], 0.5)
    rewards = rng.random((int(uniform.sum()), int(n.max(initial=0))))
    rewards *= np.arange(rewards.shape[1]) < n[uniform, None]
    sums[uniform], squares[uniform] = rewards.sum(axis=1), (rewards**2).sum(axis=1)
    return sums, squares


def shares(allocator: Any, sizes: Sizes, seed: int, *, squares: bool) -> np.ndarray:
    """Return the share of the rollouts that each kind is dealt in one run, with or without the sums of squares."""
    kinds, rng = sizes.kinds, np.random.default_rng([seed, 1])
    policy = allocator(
        BetaPosteriorBank(kinds.size),
        total_budget=sizes.budget,
        n_rounds=sizes.rounds,
        max_rollouts=sizes.most,
        round_capacity=2 * sizes.budget // sizes.rounds,
        seed=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AllocationWarning)  # of sums that coins cannot have
        for _ in range(sizes.rounds):
            counts = policy.allocate()
            rows = np.flatnonzero(counts)
            total, squared = drawn(rng, kinds[rows], counts[rows])
            policy.update(rows, total, counts[rows], squares=squared if squares else None)
    dealt: np.ndarray = np.bincount(kinds, policy.exposure) / policy.exposure.sum()
    return dealt


def run(sizes: Sizes) -> dict[tuple[str, bool], np.ndarray]:
    """Return the shares of all runs by allocator and by whether it is told the squares; shape (n_seeds, n_kinds)."""
    seeds = range(FIRST_SEED, FIRST_SEED + sizes.seeds)
    return {
        (name, squares): np.array([shares(allocator, sizes, seed, squares=squares) for seed in seeds])
        for name, allocator in ALLOCATORS.items()
        for squares in TOLD
    }


def limits(*, squares: bool) -> np.ndarray:
    """Return the values of a bank after very many rollouts of each kind, with or without the sums of squares."""
    n = 10**9
    bank = BetaPosteriorBank(len(KINDS))
    bank.update(None, [n / 2] * len(KINDS), [n] * len(KINDS), squares=n * np.array(SECOND_MOMENTS) if squares else None)
    return bank.value()


def best(sizes: Sizes) -> np.ndarray:
    """Return the share of the rollouts of each kind that is optimal where the values are known."""
    values = (np.array(SECOND_MOMENTS) - 0.25)[sizes.kinds]
    optimum = OfflineOracle().solve(values, sizes.budget, equal_share=sizes.per_prompt, upper=sizes.rounds * sizes.most)
    return np.bincount(sizes.kinds, optimum.allocation) / sizes.budget


def rewards_table(quick: bool) -> str:
    """Return values in the limit and shares of the rollouts, with means and standard errors over the seeds, as Markdown."""
    sizes = QUICK if quick else FULL
    lines = [["", "told", *KINDS], ["---", "---", *["---:"] * len(KINDS)]]
    for squares, told in TOLD.items():
        lines.append(["value in the limit", told, *(f"{value:.3f}" for value in limits(squares=squares))])
    lines.append(["% of the rollouts, optimum", "the values", *(f"{100 * share:.2f}" for share in best(sizes))])
    for (name, squares), found in run(sizes).items():
        mean, error = 100 * found.mean(axis=0), 100 * found.std(axis=0, ddof=1) / np.sqrt(sizes.seeds)
        cells = (f"{m:.2f} ± {e:.2f}" for m, e in zip(mean, error, strict=True))
        lines.append([f"% of the rollouts, {name}", TOLD[squares], *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
