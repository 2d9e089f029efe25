"""Slow and obvious twins of the simulation."""

import math
from functools import cache

from .evidence import posterior, values
from .objective import scale_of, u, unit_gain


def unit_gains(shape, height, rate, size):
    return [unit_gain(shape, height, rate, n) for n in range(size)]


def path_dual(price, q_path, max_units, share, codes):
    shape, scaling, lam = codes
    total, bought = 0.0, 0
    for rates in q_path:
        scales = [scale_of(scaling, lam, q) for q in rates]

        @cache
        def best(k, z, scales=tuple(scales)):
            if k == len(scales):
                return 0.0, 0
            plans = []
            for n in range(max_units + 1):
                later, units = best(k + 1, z + n)
                gain = u(shape, *scales[k], (z + n) / share) - u(shape, *scales[k], z / share)
                plans.append((gain - price * n + later, -(n + units)))
            worth, units = max(plans)
            return worth, -units

        worth, units = best(0, 0)
        total, bought = total + worth, bought + units
    return total, bought


def bin_of(mean, n_bins):
    return next((place for place in range(n_bins) if mean * n_bins < place + 1), n_bins - 1)


def forecast(evidence, q, n_bins):
    alpha, beta = posterior(True, None, evidence)
    mean = [a / (a + b) for a, b in zip(alpha, beta, strict=True)]
    value = values(True, None, evidence)
    bins = [sum(bin_of(m, n_bins) == place for m in mean) for place in range(n_bins)]
    return mean, value, bins, math.fsum(abs(v - qi) for v, qi in zip(value, q, strict=True))


def list_schedule(lengths, slots):
    free = [0] * slots
    for length in lengths:
        free.sort()
        free[0] += length
    return max(free)


def trained_rates(rates, gain, transfer, rows, successes, rollouts):
    moved = []
    for i, p in enumerate(rates):
        step = 0.0
        for j, s, n in zip(rows, successes, rollouts, strict=True):
            near = [(j - 1) % len(rates), (j + 1) % len(rates)].count(i)  # twice, where two prompts are a ring
            if 0 < s < n:
                step += gain * n * ((i == j) + transfer * near)
        moved.append(p if p in (0.0, 1.0) else 1.0 / (1.0 + (1.0 - p) / p * math.exp(-step)))
    return moved
