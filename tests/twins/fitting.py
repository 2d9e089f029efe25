"""Slow and obvious twins of the fit of drift, trend and prior."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

from .evidence import faded, shifted

BERNOULLI = [Fraction(1, 6), Fraction(-1, 30), Fraction(1, 42), Fraction(-1, 30), Fraction(5, 66), Fraction(-691, 2730)]


def log_chance(a, b, won, rollouts):
    """log of Beta(a + S, b + F) / Beta(a, b) by log-gamma functions to 50 digits."""
    with localcontext() as context:
        context.prec = 50
        a, b, won, n = (Decimal(float(x)) for x in (a, b, won, rollouts))
        up = log_gamma(a + won) + log_gamma(b + n - won) + log_gamma(a + b)
        return float(up - log_gamma(a) - log_gamma(b) - log_gamma(a + b + n))


def log_gamma(x):
    """Up to a constant, which cancels in a chance: Stirling's series above 100, whose first term left out is below 1e-28."""
    below = Decimal(1)
    while x < 100:
        below, x = below * x, x + 1
    total = (x - Decimal("0.5")) * x.ln() - x
    for k, number in enumerate(BERNOULLI, start=1):
        total += Decimal(number.numerator) / number.denominator / (2 * k * (2 * k - 1)) / x ** (2 * k - 1)
    return total - below.ln()


def moved(belief, odds, drift, now, most):
    """One round of drift after the other, and then the shift of the odds."""
    a, b, since, anchor = belief
    for _ in range(int(since), int(now)):
        a, b, _ = faded(a, b, 0.0, drift, 1 / most)
    return shifted(a, b, 0.0, odds / anchor)[:2]


def kept_chance(share, before, prior, won, rollouts):
    """Every prompt's parameters and chance by itself."""
    prompts = zip(*before, *prior, won, rollouts, strict=True)
    return math.fsum(log_chance(*kept((a, b), (a0, b0), share), s, n) for a, b, a0, b0, s, n in prompts)


def kept(belief, prior, share):
    """The prior and a share of what a belief exceeds it by."""
    return tuple(start + share * (now - start) for now, start in zip(belief, prior, strict=True))


def prequential(rounds, prior, motion, jumps):
    """Every round moves the belief on every prompt that was reported before, and every jump leaves a share of it."""
    starts, ticks, rows, won, rollouts = rounds
    drift, trend = motion
    beliefs, now, total = {}, ticks[0] if len(ticks) else 0, 0.0
    for k, tick in enumerate(ticks):
        for time in range(now + 1, tick + 1):
            beliefs = {i: faded(*belief, 0.0, drift, sum(prior))[:2] for i, belief in beliefs.items()}
            for when, share in zip(*jumps, strict=True):
                if when == time:
                    beliefs = {i: kept(belief, prior, share) for i, belief in beliefs.items()}
        now, reports = tick, [(rows[r], won[r], rollouts[r]) for r in range(starts[k], starts[k + 1])]
        total += math.fsum(log_chance(*beliefs.get(i, prior), s, n) for i, s, n in reports)
        shift = math.exp(common_shift([(*beliefs[i], s, n) for i, s, n in reports if i in beliefs], trend))
        beliefs = {i: shifted(*belief, 0.0, shift)[:2] for i, belief in beliefs.items()}
        for i, s, n in reports:
            a, b = beliefs.get(i, prior)
            beliefs[i] = a + s, b + (n - s)
    return total


def common_shift(reports, trend):
    """The shift d of all log-odds, at most 20, from (a, b, successes, rollouts) of prompts seen before."""
    surprise, information = 0.0, 0.0
    for a, b, won, n in reports:
        m, s = a / (a + b), a + b
        slope = n * m * (1 - m)
        variance = slope * (s + n) / (s + 1)
        surprise += slope * (won - n * m) / variance
        information += slope * slope / variance
    return max(-20.0, min(20.0, surprise / (1 / trend**2 + information))) if trend else 0.0
