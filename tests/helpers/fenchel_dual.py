"""Runs of FenchelDualAllocator that several test files play."""

import numpy as np

import twins
from cero_alloc import (
    BetaPosteriorBank,
    FenchelDualAllocator,
    SaturatingUtility,
)

HORIZON_KEYS = ["total_budget", "n_rounds", "unit_size", "max_rollouts", "round_capacity", "visits", "initial_price"]


def random_request(rng, ours, instance):
    """A random offer with no budget, a cap, or a feasible exact total."""
    m, g = instance["M"], instance["unit_size"]
    offered = rng.permutation(np.flatnonzero(rng.random(m) < 0.6) if instance["batch"] else np.arange(m))
    kind = rng.random()
    if kind < 0.6:
        return offered, None, False
    if kind < 0.8:
        return offered, int(rng.integers(0, instance["max_rollouts"] * m + 1)), False
    cap = offered.size * instance["max_rollouts"]
    if instance["round_capacity"]:
        cap = min(cap, ours.horizon.round_capacity)
    most = 0 if ours.ledger.finished else min(cap, ours.remaining_budget)
    return offered, int(rng.integers(0, most // g + 1)) * g, True


BASE = {"total_budget": 8, "n_rounds": 4, "max_rollouts": 2}


def random_run(rng, *, catch_up=None, known=False, visits=False):
    """An allocator on a random instance: full pool or batches, with learnt or known rates."""
    instance = twins.random_algorithm_instance(rng)
    while instance["batch"] != visits:
        instance = twins.random_algorithm_instance(rng)
    if visits:
        most = int(instance["visits"].sum()) * instance["max_rollouts"]
        instance |= {"round_capacity": None, "total_budget": min(instance["total_budget"], most)}
    rates = instance["rates"]
    prior = (rates * 1e12 + 1e-3, (1 - rates) * 1e12 + 1e-3) if known else tuple(np.array(instance["prior"]).T)
    instance["make"] = lambda catch_up=catch_up: FenchelDualAllocator(
        BetaPosteriorBank(instance["M"], prior=prior, forgetting=instance["forgetting"]),
        utility=SaturatingUtility(instance["shape"], saturation=instance["lam"], scaling=instance["scaling"]),
        seed=instance["seed"],
        **{key: instance[key] for key in HORIZON_KEYS},
        **({} if catch_up is None else {"catch_up": catch_up}),
    )
    return instance
