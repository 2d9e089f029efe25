"""Slow and obvious twins of the unit gains of a visit."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

from .objective import entry, phi, scale_of
from .tables import allowed_counts


def score_gains(q, z, w, share, codes, max_units):
    """Differences of U(z + w n) / w in 400 digits: float64 holds differences of exponentials down to 1e-323."""
    shape, scaling, lam = codes
    rows = []
    with localcontext() as context:
        context.prec = 400
        for qi, zi, wi in zip(q, z, w, strict=True):
            height, rate = map(Decimal, scale_of(scaling, lam, qi))
            zi, wi, per_unit = Decimal(zi), Decimal(wi), rate / Decimal(share)
            score = [height * phi(shape, per_unit * (zi + wi * n), 400) / wi for n in range(max_units + 1)]
            rows.append([float(score[n + 1] - score[n]) for n in range(max_units)])
    return rows


def beta_moment(a, b, n):
    """E[p^n] under Beta(a, b) as an exact fraction."""
    a, b = Fraction(a), Fraction(b)
    return math.prod(((a + k) / (a + b + k) for k in range(n)), start=Fraction(1))


def group_signal(a, b, n):
    """S(n) = 1 - E[p^n] - E[(1-p)^n] under Beta(a, b) as an exact fraction, with S(0) = 0."""
    return 1 - beta_moment(a, b, n) - beta_moment(b, a, n) if n else Fraction(0)


def group_unit(a, b, g, n):
    """Gain from n to n + g rollouts, and E[p^m (1-p)] and E[(1-p)^m p] at m = n + g, from the moments."""
    gain, m = group_signal(a, b, n + g) - group_signal(a, b, n), n + g
    pairs = ((a, b), (b, a))
    return float(gain), *(float(beta_moment(x, y, m) - beta_moment(x, y, m + 1)) for x, y in pairs)


def group_gains(signal, g, max_units):
    return [
        [
            float(Fraction(f) * (group_signal(ai, bi, (n + 1) * g) - group_signal(ai, bi, n * g)))
            for n in range(max_units)
        ]
        for ai, bi, f in zip(*signal, strict=True)
    ]


def remaining_groups(price, signal, visits, cost, g, min_units, max_units):
    total = 0.0
    for i, gains in enumerate(group_gains(signal, g, max_units)):
        c = entry(cost, i)
        _, count = max((sum(gains[:n]) - price * c * n, n) for n in allowed_counts(min_units, max_units))
        total += max(0.0, visits[i]) * c * count
    return total
