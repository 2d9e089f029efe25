"""Learnt values: every policy on the same pools, in batches, as a whole pool, under tokens and in both orders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from cero_alloc import FenchelDualAllocator, OfflineOracle, ResolvingAllocator, SaturatingUtility
from cero_alloc.baselines import FixedPacing, Greedy, Uniform
from cero_alloc.simulation import (
    Pool,
    SimulationResult,
    drifting_pool,
    epoch_batches,
    known_bank,
    path_optimum_bound,
    simulate,
    static_pool,
)
from studies.common.tables import Row
from studies.resolving import sizes
from studies.resolving.report import BATCHES_ONLY

EXPLORATION = 0.5


def policies(utility: SaturatingUtility, seed: int, rounds: int, **run: Any) -> dict[str, Callable[[Pool], Any]]:
    """Return a builder per policy for one run; ``visits`` in ``run`` makes it one of batches."""
    visits = {"visits": run.pop("visits")} if "visits" in run else {}
    prior = {"forgetting": run.pop("forgetting", 1.0)}
    common = {"n_rounds": rounds, "seed": seed, **run}
    value = {"utility": utility}
    least = {"min_rollouts": 2 * run.get("unit_size", 1)} if visits else {}
    once = max(1, rounds // max(2, 2 * visits.get("visits", 8)))

    def resolving(**more: Any) -> Callable[[Pool], Any]:
        return lambda pool: ResolvingAllocator(pool.bank(**prior), **{**common, **value, **visits, **least, **more})

    def of(kind: Any, *parts: Row) -> Callable[[Pool], Any]:
        keywords = {key: entry for part in parts for key, entry in part.items()}
        return lambda pool: kind(pool.bank(**prior), **common, **keywords)

    return {
        "uniform": of(Uniform),
        "fixed pacing": of(FixedPacing, value, visits),
        "greedy": of(Greedy, value),
        "FenchelDual": of(FenchelDualAllocator, value, visits),
        "FenchelDual, catch_up": of(FenchelDualAllocator, value, visits, {"catch_up": True}),
        "Resolving, flat": resolving(),
        "Resolving, fitted": resolving(fit_every=once, exploration=0.0),
        "Resolving, fitted, exploring": resolving(fit_every=once, exploration=EXPLORATION),
        "Resolving, streaming": resolving(visits=None),
        "Resolving, group signal": resolving(signal="group"),
        "Resolving, group, clairvoyant": lambda pool: ResolvingAllocator(
            known_bank(pool), **{**common, **value, **visits, **least, "signal": "group"}
        ),
    }


def learnt_results(
    seed: int, scaling: str, epochs: int, names: Iterable[str] | None = None, beta: tuple[float, float] = (0.6, 0.6)
) -> Iterator[tuple[str, Pool, SimulationResult]]:
    """Yield the pool and the result of every policy, all on the same pool and batches."""
    utility = SaturatingUtility(scaling=scaling)
    pool = static_pool(sizes.M, *beta, seed=[seed, 30])
    batches = epoch_batches(sizes.M, sizes.BATCH, epochs, seed=[seed, 31])
    budget = sizes.PER_VISIT * sizes.M * epochs
    q = pool.values()
    oracle = OfflineOracle(utility).solve(
        q, budget, equal_share=budget / sizes.M, upper=epochs * sizes.MOST, integer=True
    )
    build = policies(utility, seed, len(batches), total_budget=budget, max_rollouts=sizes.MOST, visits=epochs)
    told = {"batches": batches, "utility": utility, "optimum": oracle.optimum}
    for name in names or build:
        yield name, pool, simulate(build[name](pool), pool, len(batches), seed=[seed, 32], **told)


def learnt_run(
    seed: int, scaling: str, epochs: int, names: Iterable[str] | None = None, beta: tuple[float, float] = (0.6, 0.6)
) -> list[Row]:
    """Return the figures of every policy on one pool, in the same batches."""
    return [
        {
            "pool": f"Beta({beta[0]:g}, {beta[1]:g})",
            "mode": f"batches, {epochs} epochs",
            "scaling": scaling,
            "epochs": epochs,
            "policy": name,
            "seed": seed,
            "regret": 100.0 * run.regret * sizes.M / run.optimum,
            "unspent": -100.0 * float(run.pacing_gap[-1]) / run.horizon.total_budget,
            "mixed": 1000.0 * run.mixed.sum() / run.group_rollouts.sum(),
        }
        for name, _, run in learnt_results(seed, scaling, epochs, names, beta)
    ]


def whole_run(seed: int, kind: str, forgetting: float = 1.0) -> list[Row]:
    """Run every policy on one pool that is always on offer as a whole, static or drifting."""
    utility, rounds, size, per_prompt = SaturatingUtility(scaling="height"), sizes.ROUNDS, sizes.WHOLE, 16
    rng = [seed, 40]
    pool = (
        static_pool(size, 0.6, 0.6, seed=rng)
        if kind == "static"
        else drifting_pool(size, 0.6, 0.6, drift=2.0, seed=rng)
    )
    build = policies(
        utility, seed, rounds, total_budget=per_prompt * size, max_rollouts=4, unit_size=2, forgetting=forgetting
    )
    build = {name: make for name, make in build.items() if name not in BATCHES_ONLY}
    horizon = build["uniform"](pool).horizon
    if kind == "static":
        optimum = None
    else:
        path = np.stack([pool.values(k, rounds) for k in range(rounds)], axis=1)
        optimum, _ = path_optimum_bound(path, horizon, utility, tolerance=1e-3)
    rows = []
    for name, make in build.items():
        run = simulate(make(pool), pool, rounds, seed=[seed, 41], utility=utility, horizon=horizon, optimum=optimum)
        rows.append(
            {
                "pool": "Beta(0.6, 0.6)" + ("" if kind == "static" else f", drifting, forgetting {forgetting:g}"),
                "mode": f"whole pool, {rounds} rounds",
                "policy": name,
                "seed": seed,
                "regret": 100.0 * run.regret * size / run.optimum,
            }
        )
    return rows


def token_run(seed: int) -> list[Row]:
    """Spend one budget of tokens on prompts whose rollouts differ in length: 4 epochs of batches."""
    epochs, utility = 4, SaturatingUtility(scaling="height")
    pool = static_pool(sizes.M, 0.6, 0.6, seed=[seed, 45])
    costs = np.round(800.0 * np.exp(0.8 * np.random.default_rng([seed, 46]).normal(size=sizes.M)))
    q, p = pool.values(), pool.rates[0]
    tokens, share = sizes.PER_VISIT * epochs * costs.sum(), float(sizes.PER_VISIT * epochs)
    oracle = OfflineOracle(utility).solve(q, tokens, equal_share=costs * share, upper=costs * epochs * sizes.MOST)
    common = {"max_rollouts": sizes.MOST, "utility": utility, "seed": seed, "visits": epochs, "min_rollouts": 2}
    trials = {
        "uniform": Uniform(
            pool.bank(),
            total_budget=sizes.PER_VISIT * epochs * sizes.M,
            n_rounds=epochs * sizes.M // sizes.BATCH,
            max_rollouts=sizes.MOST,
        ),
        "Resolving, blind to costs": ResolvingAllocator(
            pool.bank(), total_budget=sizes.PER_VISIT * epochs * sizes.M, **common
        ),
        "Resolving, costs": ResolvingAllocator(pool.bank(), total_budget=tokens, costs=costs, **common),
    }
    rows = []
    for name, policy in trials.items():
        rng, left, exposure = np.random.default_rng([seed, 47]), tokens, np.zeros(sizes.M)
        for batch in epoch_batches(sizes.M, sizes.BATCH, epochs, seed=[seed, 48]):
            counts = policy.allocate(batch)
            paid = (
                np.cumsum(counts * costs[batch]) <= left
            )  # a policy that does not count tokens stops when none are left
            counts = counts * paid
            left -= float((counts * costs[batch]).sum())
            exposure[batch] += counts
            policy.update(batch, rng.binomial(counts, p[batch]), counts)
        regret = 100.0 * (1.0 - float(utility.value(q, exposure / share).sum()) / oracle.optimum)
        rows.append({"policy": name, "seed": seed, "regret": regret, "unspent": 100.0 * left / tokens})
    return rows


def order_run(seed: int, quantum: int) -> list[Row]:
    """Deal 16 groups a round from the whole pool in both orders; return regret and when each prompt is dealt."""
    rounds, utility = 5 * sizes.ROUNDS, SaturatingUtility(scaling="height")
    pool = static_pool(sizes.WHOLE, 0.6, 0.6, seed=[seed, 51])
    q = pool.values()
    run = {"total_budget": 16 * quantum * rounds, "n_rounds": rounds, "max_rollouts": 4 * quantum, "utility": utility}
    forms = {"best": {}, "spread": {"order": "spread"}, "spread, coverage 100": {"order": "spread", "coverage": 100}}
    rows = []
    for name, form in forms.items():
        row: Row = {"order": name, "quantum": quantum, "seed": seed}
        for known in (False, True):
            bank = known_bank(pool) if known else pool.bank()
            policy = ResolvingAllocator(bank, **run, **form, min_rollouts=quantum, seed=seed)
            result = simulate(policy, pool, rounds, seed=seed, feedback=not known, utility=utility)
            row["known" if known else "learnt"] = 100.0 * sizes.WHOLE * result.regret / result.optimum
        dealt, part = result.counts > 0, rounds // 4
        row["early"] = int(dealt[: rounds // 8].any(axis=0).sum())
        row["never"] = int((~dealt.any(axis=0)).sum())
        for place, quarter in (("first", dealt[:part]), ("last", dealt[-part:])):
            row[place] = float((quarter @ q).sum() / quarter.sum())
        row["shared"] = 100.0 * float(np.mean((dealt[1:] & dealt[:-1]).sum(axis=1) / dealt[1:].sum(axis=1)))
        rows.append(row)
    return rows
