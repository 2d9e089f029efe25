"""Banks, batches and totals for the tests of ResolvingAllocator."""

import itertools
import math

import numpy as np

import twins
from cero_alloc import BetaPosteriorBank, ResolvingAllocator, SaturatingUtility
from cero_alloc.simulation import Pool, known_bank

KINDS = list(itertools.product(twins.SHAPES, twins.SCALINGS))


def known(rates):
    """A bank with nearly certain rates."""
    return known_bank(Pool(np.asarray(rates, dtype=float)))


def learnt_bank(rng, m, most=12):
    """A bank with a random amount of evidence per prompt, often with prompts that look alike."""
    a0, b0 = np.exp(rng.uniform(-3, 2, 2))
    bank = BetaPosteriorBank(m, prior=(a0, b0), forgetting=float(rng.choice([1.0, 1.0, 0.9])))
    n = rng.integers(0, most + 1, m)
    bank.update(None, rng.binomial(n, rng.random(m)), n)
    return bank


def batches(order, visits, values, rng):
    """All visits, cut into batches that hold each prompt at most once."""
    offers = np.repeat(np.arange(visits.size), visits)
    if order in ("shuffled", "random sizes"):
        rng.shuffle(offers)
    elif order != "in a row":
        offers = offers[np.argsort(values[offers] * (1 if order == "worst first" else -1), kind="stable")]
    most, batch = int(rng.integers(1, 6)), []
    for i in offers.tolist():
        if i in batch or len(batch) >= most:
            yield batch
            batch, most = [], int(rng.integers(1, 6)) if order == "random sizes" else most
        batch.append(i)
    yield batch


def feasible_units(n_offered, min_units, max_units, cap):
    """All totals up to ``cap`` that counts in {0} u [min_units, max_units] add up to."""
    return sorted({t for k in range(n_offered + 1) for t in range(k * min_units, min(k * max_units, cap) + 1)})


def random_run(rng):
    """A random allocator, the size of its pool, and how often it may be called."""
    m, rounds, max_units = int(rng.integers(1, 13)), int(rng.integers(1, 7)), int(rng.integers(1, 13))
    g = int(rng.choice([1, 1, 2, 3, 4]))
    min_units = min(int(rng.choice([0, 1, 2, 4])), max_units)
    shape, scaling = KINDS[int(rng.integers(len(KINDS)))]
    kwargs = {"n_rounds": rounds} if rng.random() < 0.5 else {"visits": rng.integers(1, rounds + 1, m)}
    if "visits" in kwargs and rng.random() < 0.5:
        kwargs["n_rounds"] = rounds
    most = int(kwargs["visits"].sum()) * max_units if "visits" in kwargs else m * rounds * max_units
    if rng.random() < 0.2:
        kwargs["round_capacity"] = g * max(max_units, int(rng.integers(1, m * max_units + 1)))
        most = min(most, kwargs["round_capacity"] // g * rounds)
    if "visits" in kwargs and "n_rounds" in kwargs:
        most = min(most, math.ceil(kwargs["visits"].sum() * max_units / rounds) * rounds)
    allocator = ResolvingAllocator(
        learnt_bank(rng, m), total_budget=g * int(rng.integers(max(1, most // 2), most + 1)), unit_size=g,
        min_rollouts=g * min_units, max_rollouts=g * max_units, signal=str(rng.choice(["variance", "group"])),
        utility=SaturatingUtility(shape, scaling=scaling, saturation=float(np.exp(rng.uniform(-3, 3)))),
        exploration=float(rng.choice([0.0, 0.0, 1.0])), seed=int(rng.integers(2**31)), **kwargs,
    )  # fmt: skip
    return allocator, m, min_units, allocator.horizon.n_rounds


def random_offer(rng, m):
    return None if rng.random() < 0.3 else rng.permutation(m)[: int(rng.integers(1, m + 1))]


def round_cap(allocator, size):
    """The most units that a round can deal."""
    h = allocator.horizon
    cap = min(size * h.max_units, allocator.remaining_budget // h.unit_size)
    return min(cap, h.capacity_units) if allocator.ledger._capped else cap


def even_batches(rng, m, size, epochs):
    """Every prompt once per epoch, in batches of this size and the rest."""
    orders = (rng.permutation(m) for _ in range(epochs))
    return [order[i : i + size] for order in orders for i in range(0, m, size)]


def visible(allocator):
    """The state of an allocator that a failed call might have changed."""
    ledger, bank = allocator.ledger, allocator.bank
    arrays = (allocator.exposure, ledger.outstanding, ledger.offers, bank.alpha, bank.beta, allocator._plan.tie)
    left = None if allocator._plan.left is None else allocator._plan.left.tolist()
    scalars = (allocator.remaining_budget, allocator.round, allocator.price, allocator._batch_price, bank.evidence.now)
    return scalars, left, [array.tolist() for array in arrays]
