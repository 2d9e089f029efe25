"""Slow and obvious twins of whole units and of the remaining problem."""

import math
from fractions import Fraction

from .objective import demand_pull, du, entry, scale_of, unit_gain


def two_sum(x, y):
    exact = Fraction(x) + Fraction(y)
    return x + y, float(exact - Fraction(x + y))


def remaining_demand(price, problem, share, codes):
    """Bisection for the exposure at which the marginal falls to the price: each prompt's units, their cost, the pull."""
    (q, z, room, cost), (shape, scaling, lam) = problem, codes
    units, total, pull = [], 0.0, 0.0
    for i, (qi, zi, most) in enumerate(zip(q, z, room, strict=True)):
        c = entry(cost, i)
        height, rate = scale_of(scaling, lam, qi)
        wants = lambda y: du(shape, height, rate / share, zi + y) > price * c  # noqa: B023, E731
        low, high = (most, most) if wants(most) else (0.0, most)
        while low < (low + high) / 2 < high:
            middle = (low + high) / 2
            low, high = (middle, high) if wants(middle) else (low, middle)
        more = high if wants(0.0) else 0.0
        units.append(more)
        total += c * more
        if 0 < more < most:
            pull += c * demand_pull(shape, height, rate / share, price * c)
    return units, total, pull


def units_worth(shape, height, rate, start, w, shift, price, upper):
    n = 0
    while n < upper and unit_gain(shape, height, rate, start + n) / w + shift >= price:
        n += 1
    return n


def count_worth(price, shift, units, share, codes):
    (q, z, w, lower, upper), (shape, scaling, lam) = units, codes
    counts = []
    for i, (qi, zi) in enumerate(zip(q, z, strict=True)):
        (height, rate), v = scale_of(scaling, lam, qi), entry(w, i)
        n = units_worth(shape, height, rate / share * v, zi / v, v, shift, price, entry(upper, i))
        counts.append(max(n, entry(lower, i)))
    return sum(counts), counts


def next_gains(q, z, units, share, codes):
    shape, scaling, lam = codes
    scales = [scale_of(scaling, lam, qi) for qi in q]
    each = zip(scales, z, units, strict=True)
    return [unit_gain(shape, height, rate / share, zi + n) for (height, rate), zi, n in each]


def plain_gain(shape, height, rate, s):
    """Gain of the unit that begins at s = rate * n, in floats."""
    fall = [math.exp(-s) * -math.expm1(-rate), rate / (1 + s) / (1 + s + rate), math.log1p(rate / (1 + s))]
    return height * [*fall, min(rate, max(1 - s, 0.0))][shape]


def unit_starts(shape, height, rate, w, price):
    """Bisection for the s = rate * n from which a unit of U(z + w n) / w gains ``price``; -1 where none does."""
    gain = lambda s: plain_gain(shape, height, rate, s) / w  # noqa: E731
    if height * rate == 0 or gain(0.0) < price:
        return -1.0
    low, high = 0.0, 1.0
    while gain(high) >= price:
        low, high = high, 2 * high
    while low < (low + high) / 2 < high:
        middle = (low + high) / 2
        low, high = (middle, high) if gain(middle) >= price else (low, middle)
    return low


def count_units(start, rate, w, z, lower, upper):
    """Units n in [lower, upper] up to the last that begins at ``start`` or before."""
    n = lower
    while n < upper and rate * (z / w + n) <= start:
        n += 1
    return n


def bracket_units(price, units, share, codes):
    """Units of each prompt that gain at least, and more than, a price."""
    shape, scaling, lam = codes
    counts = []
    for qi, zi, wi, least, most in zip(*units, strict=True):
        height, rate = scale_of(scaling, lam, qi)
        rate *= wi / share
        gains = [plain_gain(shape, height, rate, rate * (zi / wi + n)) / wi for n in range(least, most)]
        counts.append((least + sum(g >= price for g in gains), least + sum(g > price for g in gains)))
    return counts


def entry_gains(rows, n, units, share, codes):
    (q, z, w, _, _), (shape, scaling, lam) = units, codes
    scales = [scale_of(scaling, lam, qi) for qi in q]
    units = [(*scales[i], z[i] / w[i] + k, w[i]) for i, k in zip(rows, n, strict=True)]
    return [unit_gain(shape, height, rate / share * v, start) / v for height, rate, start, v in units]
