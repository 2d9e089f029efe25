"""Slow and obvious twins of the published rules."""

import math

import numpy as np

from .objective import scale_of, u
from .tables import level


def proportional(weights, lower, upper, total, tie):
    """Bisection for the factor, then the largest remainders; what is left goes up evenly, as in ``level``."""
    rows, lift = range(len(weights)), [w > 0 for w in weights]
    share = lambda c: [min(upper[i], max(lower[i], c * weights[i])) for i in rows]  # noqa: E731
    low, high = 0.0, max((upper[i] / weights[i] for i in rows if lift[i]), default=0.0) * (1 + 1e-12)
    for _ in range(120):
        c = (low + high) / 2
        low, high = (low, c) if sum(share(c)) >= total else (c, high)
    parts = share(high)
    units = [math.floor(x + 1e-9) if lift[i] else lower[i] for i, x in enumerate(parts)]
    part = [round(x - n, 9) for x, n in zip(parts, units, strict=True)]
    for i in sorted(rows, key=lambda i: (-part[i], tie[i])):
        if part[i] > 0 and units[i] < upper[i] and sum(units) < total:
            units[i] += 1
    order = sorted(rows, key=lambda i: tie[i])
    return level([0] * len(units), units, upper, [1], order, max(0, total - sum(units)))[1]


def knapsack_value(n, p):
    return (1 - p**n - (1 - p) ** n) * p * (1 - p) ** 2


def knapsack_program(worth, budget):
    """Choose one option k per row, worth ``worth[row][k]`` for k units, so that exactly ``budget`` units are spent."""
    best, choices = [0.0] + [-math.inf] * budget, []
    for row in worth:
        grown, choice = [-math.inf] * (budget + 1), [0] * (budget + 1)
        for spent in range(budget + 1):
            for k in range(min(len(row), spent + 1)):
                value = best[spent - k] + row[k]
                if value > grown[spent]:
                    grown[spent], choice[spent] = value, k
        best = grown
        choices.append(choice)
    units = []
    for choice in reversed(choices):
        units.append(choice[budget])
        budget -= units[-1]
    return units[::-1]


def knapsack_published(p, budget, min_units, max_units):
    """The published dynamic program over rollouts beyond ``min_units``: to give none of them is worth 0, not V(min_units, p)."""
    options = range(1, max_units - min_units + 1)
    worth = [[0.0, *(knapsack_value(min_units + k, pi) for k in options)] for pi in p]
    return [min_units + k for k in knapsack_program(worth, budget - min_units * len(p))]


def vip_published(a, budget, min_units, max_units, estimator):
    """Bisection on lambda for real counts, floor, then one by one to whom it lowers the variance most."""
    real = lambda price: [min(max_units, max(min_units, vip_real(ai, price, estimator))) for ai in a]  # noqa: E731
    low, high = 1e-18, 1.0  # the first spends too much, the second too little
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if sum(real(middle)) > budget else (low, middle)
    counts = [math.floor(n) for n in real(high)]
    while sum(counts) < budget:
        drop = lambda i: (  # noqa: E731
            vip_variance(a[i], counts[i], estimator) - vip_variance(a[i], counts[i] + 1, estimator)
        )
        counts[max((i for i in range(len(a)) if counts[i] < max_units), key=drop)] += 1
    return counts


def vip_variance(a, n, estimator):
    return a / (n - 1) if estimator == "rloo" else a * (n - 1) / n**2


def vip_real(a, price, estimator):
    """The real count at which the variance falls by ``price`` per rollout; from 3 on for Dr. GRPO."""
    c = a / price
    if estimator == "rloo":
        return 1 + math.sqrt(c)
    if c <= 27:
        return 3.0
    return 2 * math.sqrt(c / 3) * math.cos(math.acos(-3 * math.sqrt(3 / c)) / 3)  # n^3 = c (n - 2), its largest root


def duet(s, cost, price, max_units):
    """Rounded counts at a price."""
    counts = [math.floor(si / math.sqrt(price * c) + 0.5) for si, c in zip(s, cost, strict=True)]
    return [min(max_units, max(1, n)) for n in counts]


def gaussian_process(features, rounds, jitter):
    """Logits after rounds of (rows, successes, rollouts): one linear system per round, its mean carried."""
    gap = ((features[:, None, :] - features[None, :, :]) ** 2).sum(axis=2)
    pairs = sorted(gap[i, j] for i in range(len(gap)) for j in range(i))
    apart = [d for d in pairs if d > 0]
    width = float(np.median(np.sqrt(apart))) if apart else 1.0
    kernel, mean = np.exp(-gap / (2 * width**2)), np.zeros(len(gap))
    for rows, successes, rollouts in rounds:
        p = [min(1 - 0.5 / n, max(0.5 / n, s / n)) for s, n in zip(successes, rollouts, strict=True)]
        target = np.array([math.log(x / (1 - x)) for x in p])
        system = kernel[np.ix_(rows, rows)] + jitter * np.eye(len(rows))
        mean = mean + kernel[:, rows] @ np.linalg.solve(system, target - mean[rows])
    return mean


def block_gains(rows, q, z, share, block, codes):
    shape, scaling, lam = codes
    scales = [scale_of(scaling, lam, qi) for qi in q]
    exposure = [zi / share for zi in z]
    return [u(shape, *s, x + block) - u(shape, *s, x) for s, x in zip(scales, exposure, strict=True)]
