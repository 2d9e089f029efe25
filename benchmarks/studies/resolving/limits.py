"""Saturation and concentration, the fitted prior on measured counts, and the promises over generated calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cero_alloc import BetaPosteriorBank, ResolvingAllocator, SaturatingUtility
from cero_alloc.simulation import SimulationResult, epoch_batches, load_counts, simulate, static_pool
from studies.common.tables import Row
from studies.resolving import sizes


def saturation_run(seed: int, scaling: str, saturation: float) -> tuple[Row, SimulationResult]:
    """Run the resolving allocator for 8 epochs; return its concentration, and the run."""
    utility, epochs = SaturatingUtility(scaling=scaling, saturation=saturation), 8
    pool = static_pool(sizes.M, 0.6, 0.6, seed=[seed, 50])
    batches = epoch_batches(sizes.M, sizes.BATCH, epochs, seed=[seed, 51])
    policy = ResolvingAllocator(
        pool.bank(),
        total_budget=sizes.PER_VISIT * sizes.M * epochs,
        visits=epochs,
        min_rollouts=2,
        max_rollouts=sizes.MOST,
        utility=utility,
    )
    run = simulate(policy, pool, len(batches), seed=[seed, 52], batches=batches, horizon=_horizon(policy, len(batches)))
    share = run.exposure / run.exposure.sum()
    row = {
        "scaling": scaling,
        "saturation": saturation,
        "seed": seed,
        "top": 100.0 * run.top_tenth,
        "reached": 100.0 / (sizes.M * float((share**2).sum())),
        "least": 100.0 * float(np.mean(run.exposure < 0.5 * sizes.PER_VISIT * epochs)),
        "mixed": 100.0 * run.mixed_group_rate,
    }
    return row, run


def _horizon(policy: ResolvingAllocator, rounds: int) -> Any:
    """Return the policy's horizon with the rounds that the batches make."""
    h = policy.horizon
    return replace(h, n_rounds=rounds, round_capacity=max(h.round_capacity, sizes.BATCH * sizes.MOST))


def prior_run(file: Path, seed: int) -> list[Row]:
    """Draw 4 samples per prompt from one file's first stage; bias and error of the value, both priors."""
    pool = load_counts(file)
    p, q = pool.rates[0], pool.values()
    wins = np.random.default_rng([seed, 60]).binomial(4, p)
    rows = []
    for prior in ("flat", "fitted"):
        bank = BetaPosteriorBank(p.size)
        bank.update(None, wins, np.full(p.size, 4))
        status = bank.fit_prior().status if prior == "fitted" else ""
        value = bank.value()
        error = float(np.abs(value - q).mean())
        bias = float(value.mean() - q.mean())
        rows.append({"file": file.stem, "prior": prior, "seed": seed, "bias": bias, "error": error, "status": status})
    return rows


def promise_run(seed: int) -> Row:
    """Run one random allocator; count exact totals that were hit and token caps that were not."""
    rng = np.random.default_rng([seed, 70])
    size, rounds, g = int(rng.integers(2, 60)), 10, int(rng.choice([1, 1, 4]))
    max_units, min_units = int(rng.integers(4, 17)), int(rng.choice([0, 1, 2, 4]))
    kind = ("exact", "paced", "tokens")[seed % 3]
    signal = "group" if rng.random() < 0.3 else "variance"
    rates = rng.beta(0.5, 0.5, size)
    costs = rng.integers(50, 4000, size).astype(np.float64)
    if kind == "tokens" and rng.random() < 0.5:
        costs *= rng.random()
    budget = int(rng.integers(1, rounds * size * max_units + 1)) * g
    if kind == "paced":
        budget = max(budget, min(1000 * g, rounds * size * max_units * g))
        if min_units == max_units:  # only whole multiples can be spent at all
            budget -= budget % (max_units * g)
    streaming = rng.random() < 0.3
    allocator = ResolvingAllocator(
        BetaPosteriorBank(size),
        total_budget=budget if kind != "tokens" else budget * float(costs.mean()) * 0.9,
        n_rounds=rounds,
        visits=None if streaming else rounds,
        unit_size=g,
        min_rollouts=min_units * g,
        max_rollouts=max_units * g,
        costs=costs if kind == "tokens" else None,
        signal=signal,
        seed=seed,
    )
    calls = hit = broken = 0
    for _ in range(rounds):
        rows = np.arange(size) if kind == "paced" else rng.permutation(size)[: rng.integers(1, size + 1)]
        before = allocator.remaining_budget
        if kind == "exact":
            total = int(rng.integers(0, min(before, rows.size * max_units * g) // g + 1)) * g
            few = -(-total // (max_units * g))
            if few * min_units * g > total:  # no counts add up to that
                total = (few - 1) * max_units * g
            counts = allocator.allocate(rows, total, exact=True)
            calls, hit = calls + 1, hit + (int(counts.sum()) == total)
        elif kind == "tokens":
            cap = float(rng.uniform(0.0, 2.0)) * allocator.remaining_budget / 5
            counts = allocator.allocate(rows, cap)
            spent = float((counts * costs[rows]).sum())
            calls, broken = calls + 1, broken + (spent > min(cap, before) * (1.0 + 1e-12))
        else:
            counts = allocator.allocate(rows)
        allocator.update(rows, rng.binomial(counts, rates[rows]), counts)
    unspent = 100.0 * float(allocator.remaining_budget) / budget if kind == "paced" else 0.0
    return {"kind": kind, "seed": seed, "calls": calls, "hit": hit, "broken": broken, "unspent": unspent}
