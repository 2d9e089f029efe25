"""Slow and obvious twins of Algorithm 1 as the paper writes it, and of the dual step of its slopes."""

import math
from decimal import Decimal, localcontext

import numpy as np

from .evidence import expected_variance, values
from .objective import SCALINGS, SHAPES, demand, scale_of


class NaiveFenchelDual:
    """Algorithm 1, eager: every prompt's evidence is aged in every round, every ranking is a full sort."""

    def __init__(
        self, prior, *, forgetting, total_budget, n_rounds, unit_size, max_rollouts, round_capacity, visits,
        shape, scaling, lam, initial_price, tie,
    ):  # fmt: skip
        self.M, self.K = len(prior), n_rounds
        self.g = unit_size
        self.B, self.max_units = total_budget // unit_size, max_rollouts // unit_size
        self.E = [n_rounds] * self.M if visits is None else list(visits)
        reach = max(1, math.ceil(sum(self.E) / n_rounds * self.max_units))
        self.C = reach if round_capacity is None else min(reach, round_capacity // unit_size)
        self.capped = round_capacity is not None
        self.R, self.Bbar = self.B / self.M, self.B / self.K
        self.GB = max(self.Bbar, self.C - self.Bbar)
        self.shape, self.scaling, self.lam, self.rho = shape, scaling, lam, forgetting
        self.prior = [tuple(ab) for ab in prior]
        self.ab = [list(ab) for ab in prior]
        self.theta = [min(1.0, 4 * expected_variance(*ab)) for ab in prior]
        self.nu, self.tie, self.left, self.round = initial_price, list(tie), self.B, 0
        self.open = None

    def close(self):
        if self.open is None:
            return
        virtual = self.open
        for i, n in virtual.items():
            height, rate = scale_of(self.scaling, self.lam, expected_variance(*self.ab[i]))
            box = self.E[i] * self.max_units
            z = self.R * demand(self.shape, height, rate, self.lam * self.theta[i], box / self.R)
            step = 1 / math.sqrt(self.E[i])
            self.theta[i] = min(1.0, max(0.0, self.theta[i] - step * (n - z / self.E[i]) / self.max_units))
        gap = self.Bbar - sum(virtual.values())
        self.nu = min(1.0, max(0.0, self.nu - gap / self.GB / math.sqrt(self.K)))
        self.open = None

    def allocate(self, offered, budget=None, exact=False):
        self.close()
        if self.round >= self.K or self.left == 0:
            return [0] * len(offered)
        cap = min(self.C, len(offered) * self.max_units) if self.capped else len(offered) * self.max_units
        if budget is not None:
            cap = min(cap, budget // self.g)
        ranked = sorted(offered, key=lambda i: (-self.theta[i], self.tie[i]))
        if not exact:
            ranked = [i for i in ranked if self.theta[i] > self.nu]
        virtual = dict.fromkeys(offered, 0)
        executed = dict.fromkeys(offered, 0)
        spendable = self.left
        for i in ranked:
            virtual[i] = min(self.max_units, cap)
            cap -= virtual[i]
            executed[i] = min(virtual[i], spendable)
            spendable -= executed[i]
        self.left = spendable
        self.open = virtual
        self.round += 1
        for i, (a0, b0) in enumerate(self.prior):
            a, b = self.ab[i]
            self.ab[i] = [a0 + self.rho * (a - a0), b0 + self.rho * (b - b0)]
        return [executed[i] * self.g for i in offered]

    def update(self, ids, successes, rollouts):
        for i, s, n in zip(ids, successes, rollouts, strict=True):
            self.ab[i][0] += float(s)
            self.ab[i][1] += float(n - s)


def random_algorithm_instance(rng):
    """Draw arguments for Algorithm 1: residual units, forgetting, groups, batches, exact rounds, every utility."""
    g, max_units = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    M, K = int(rng.integers(1, 13)), int(rng.integers(1, 31))
    batch = bool(rng.random() < 0.4)
    visits = rng.integers(1, K + 1, M) if batch else None
    offered = M if visits is None else visits.sum() / K
    reach = max(1, math.ceil(offered * max_units))
    C = int(rng.integers(1, reach + 1)) if rng.random() < 0.7 else None
    B = int(rng.integers(1, K * (C or reach) + 1))
    flat = rng.random() < 0.5
    prior = [(1.0, 1.0)] * M if flat else [tuple(ab) for ab in rng.uniform(0.2, 4, (M, 2))]
    return {
        "M": M, "prior": prior, "batch": batch, "rates": rng.beta(0.7, 0.7, M),
        "forgetting": float(rng.choice([1.0, 0.98, 0.7])), "total_budget": B * g, "n_rounds": K, "unit_size": g,
        "max_rollouts": max_units * g, "round_capacity": None if C is None else C * g, "visits": visits,
        "shape": str(rng.choice(list(SHAPES))), "scaling": str(rng.choice(list(SCALINGS))),
        "lam": float(10 ** rng.uniform(-1.5, 1.5)), "initial_price": float(rng.choice([0.5, 0.0, rng.random()])),
        "seed": int(rng.integers(2**31)),
    }  # fmt: skip


def tie_ranks(M, seed):
    return np.random.default_rng(seed).permutation(M)


def step_slopes(theta, q, proposal, offers, plan, codes):
    (start, start_stride, visits, stride), (max_units, share, gamma), (shape, scaling, lam) = offers, plan, codes
    moved = []
    for i, slope in enumerate(theta):
        e, x = visits[i if stride else 0], start[i if start_stride else 0] / share
        z = share * max(0.0, demand(shape, *scale_of(scaling, lam, q[i]), lam * slope, x + e * max_units / share) - x)
        step = gamma or 1 / math.sqrt(e)
        moved.append(min(1.0, max(0.0, slope - step * (proposal[i] - z / e) / max_units)))
    return moved


def log_ratio(top, bottom):
    with localcontext(prec=60):
        return float((Decimal(float(top)) / Decimal(float(bottom))).ln())


def step_slope(theta, q, dealt, step, upper, per_visit, max_units, scaling, lam):
    height, rate = scale_of(scaling, lam, q)
    top, slope = height * rate, lam * theta
    x = 0.0 if slope >= top else upper if slope == 0 else min(upper, log_ratio(top, slope) / rate)
    return min(1.0, max(0.0, theta - step * (dealt - per_visit * x) / max_units))


def largest(slopes):
    return max(slopes)


def step_pool(theta, evidence, offers, plan, codes, first, places, units):
    q = values(True, None, evidence)
    dealt = [0] * len(theta)
    for place, n in zip(places, units, strict=True):
        if first <= place < first + len(theta):
            dealt[place - first] = n
    return step_slopes(theta, q, dealt, offers, plan, codes)
