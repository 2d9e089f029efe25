"""Known values: the regret of the allocator in any order of the visits, and what each setting costs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from cero_alloc import OfflineOracle, ResolvingAllocator, SaturatingUtility
from cero_alloc._solvers.remaining import Remaining
from cero_alloc.simulation import epoch_batches, known_bank, static_pool
from studies.common.tables import SHAPES, Row
from studies.resolving import sizes


def known_run(seed: int) -> list[Row]:
    """Run one random instance to its end in one order of the visits, in whole units and, unrounded, in continuous ones."""
    rng = np.random.default_rng([seed, 10])
    order = ("full pool", "shuffled", "best first", "worst first")[seed % 4]
    shape, scaling = SHAPES[seed // 4 % 4], ("rate", "height")[seed // 16 % 2]
    utility = SaturatingUtility(shape, scaling=scaling, saturation=float(rng.choice([0.3, 1.0, 3.0])))
    size, max_units = int(rng.integers(2, 13)), int(rng.integers(1, 7))
    visits = np.full(size, rng.integers(1, 7)) if order == "full pool" else rng.integers(1, 7, size)
    budget = int(rng.integers(1, visits.sum() * max_units + 1))
    pool = static_pool(size, 0.6, 0.6, seed=rng)
    bank = known_bank(pool)
    q, share = bank.value(), budget / size
    offers = _offers(order, visits, q, rng)
    front = float(rng.choice([1.0, 2.0, 5.0]))
    allocator = ResolvingAllocator(
        bank, total_budget=budget, visits=visits, max_rollouts=max_units, utility=utility, front_load=front, seed=seed
    )
    for rows in offers:  # in the full pool the band around the even pace holds, too
        allocator.allocate(rows, None if order == "full pool" else rows.size * max_units)
    oracle = partial(OfflineOracle(utility).solve, q, budget, equal_share=share, upper=visits * max_units)
    whole = float(utility.value(q, allocator.exposure / share).sum())
    real = float(utility.value(q, _continuous(offers, visits, q, max_units, budget, utility, rng) / share).sum())
    return [
        {"order": order, "shape": shape, "scaling": scaling, "seed": seed, "kind": kind, "regret": 1.0 - got / best}
        for kind, got, best in (
            ("whole", whole, oracle(integer=True).optimum),
            ("continuous", real, oracle().optimum),
        )
    ]


def _offers(order: str, visits: np.ndarray, q: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the rows offered in each round, every prompt as often as given."""
    if order == "full pool":
        return [np.arange(visits.size)] * int(visits[0])
    slots = np.repeat(np.arange(visits.size), visits)
    slots = rng.permutation(slots) if order == "shuffled" else slots[np.argsort(q[slots], kind="stable")]
    if order == "best first":
        slots = slots[::-1]
    rounds: list[list[int]] = [[]]
    for row in slots.tolist():
        if row in rounds[-1] or len(rounds[-1]) == 4:
            rounds.append([])
        rounds[-1].append(row)
    return [np.array(rows) for rows in rounds]


def _continuous(
    offers: list[np.ndarray],
    visits: np.ndarray,
    q: np.ndarray,
    max_units: int,
    budget: float,
    utility: SaturatingUtility,
    rng: np.random.Generator,
) -> np.ndarray:
    """Play any real counts that Theorem 3 allows; return the exposures."""
    z, left, share = np.zeros(q.size), visits.astype(np.float64), budget / q.size
    price, funds = 1.0, float(budget)
    for rows in offers:
        rest = Remaining(q, z, left * max_units, np.ones(1), funds, share, utility)
        clearing = rest.clear(price)
        price = clearing.high or 1.0
        lo, hi = (
            np.clip(share * utility.demand(q, p * share, (z + rest.room) / share) - z, 0.0, rest.room)
            for p in (clearing.high, clearing.low)
        )
        y = (lo + clearing.part * (hi - lo))[rows]  # where demand jumps, every prompt takes the same share of its jump
        least = np.maximum(0.0, y - (left[rows] - 1.0) * max_units)
        most = np.minimum(max_units, y)
        n = least + rng.random(rows.size) * np.maximum(most - least, 0.0)
        n = np.where(rng.random(rows.size) < 0.3, most, n)
        z[rows] += n
        left[rows] -= 1.0
        funds = max(0.0, funds - float(n.sum()))
    return z


def settings_run(seed: int) -> list[Row]:
    """Cost of each setting with known values: 8 epochs of batches."""
    epochs, utility = 8, SaturatingUtility(scaling="height")
    pool = static_pool(sizes.M, 0.6, 0.6, seed=[seed, 11])
    budget, batches = sizes.PER_VISIT * sizes.M * epochs, epoch_batches(sizes.M, sizes.BATCH, epochs, seed=[seed, 12])
    rounds = len(batches)

    def run(exact: bool = False, least: int = 2, **changes: Any) -> float:
        given = {"visits": epochs, "n_rounds": rounds, "band": np.inf} | changes
        policy = ResolvingAllocator(
            known_bank(pool), total_budget=budget, min_rollouts=least, max_rollouts=sizes.MOST, utility=utility, **given
        )
        for rows in batches:
            if policy.remaining_budget:
                total = sizes.PER_VISIT * rows.size
                policy.allocate(rows, total if exact else None, exact=exact)
        q = policy.bank.value()
        share = budget / sizes.M
        best = (
            OfflineOracle(utility).solve(q, budget, equal_share=share, upper=epochs * sizes.MOST, integer=True).optimum
        )
        return 100.0 * (1.0 - float(utility.value(q, policy.exposure / share).sum()) / best)

    trials = {
        "counts {0} u [0, 32], no band": run(least=0),
        "counts {0} u [2, 32], no band": run(),
        "band 0.25 (default)": run(band=0.25),
        "band 0": run(band=0.0),
        "exact total per batch": run(exact=True),
        "front_load 2": run(front_load=2.0),
        "visits overstated: 10 for 8": run(visits=10, n_rounds=None),
        "overstated, n_rounds given, band 0.25": run(visits=10, band=0.25),
        "visits understated: 4 for 8": run(visits=4, n_rounds=None),
        "understated, n_rounds given, band 0.25": run(visits=4, band=0.25),
        "visits unknown (streaming)": run(visits=None, band=0.25),
    }
    return [{"setting": name, "seed": seed, "regret": max(0.0, regret)} for name, regret in trials.items()]
