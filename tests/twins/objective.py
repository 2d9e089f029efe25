"""Slow and obvious twins of the utility, and of what all kernels share."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

EXPONENTIAL, HYPERBOLIC, LOG, CAPPED_LINEAR = range(4)


SHAPES = {"exponential": EXPONENTIAL, "hyperbolic": HYPERBOLIC, "log": LOG, "capped-linear": CAPPED_LINEAR}


RATE, HEIGHT = range(2)


SCALINGS = {"rate": RATE, "height": HEIGHT}


def scale_of(scaling, lam, q):
    return (1.0, 4 * lam * q) if scaling == RATE else (4 * q, lam)


def u(shape, height, rate, x):
    s = rate * x
    return height * [1 - math.exp(-s), s / (1 + s), math.log(1 + s), min(s, 1.0)][shape]


def du(shape, height, rate, x):
    s = rate * x
    return height * rate * [math.exp(-s), 1 / (1 + s) ** 2, 1 / (1 + s), 1.0 if s < 1 else 0.0][shape]


def demand(shape, height, rate, slope, upper):
    top = height * rate
    if slope >= top:
        return 0.0
    if shape == CAPPED_LINEAR:
        return min(upper, 1 / rate)
    if slope <= du(shape, height, rate, upper):
        return upper
    ratio = top / slope
    return min(upper, [math.log(ratio), math.sqrt(ratio) - 1, ratio - 1][shape] / rate)


def phi(shape, s, digits=100):
    """The four shapes in many digits, for an exact (Decimal) argument."""
    with localcontext() as context:
        context.prec = digits
        return [lambda: 1 - (-s).exp(), lambda: s / (1 + s), lambda: (1 + s).ln(), lambda: min(s, Decimal(1))][shape]()


def demand_pull(shape, height, rate, slope):
    h = 1e-5
    above, below = (demand(shape, height, rate, slope * math.exp(d), math.inf) for d in (h, -h))
    return (below - above) / (2 * h)


def conj(shape, height, rate, slope, upper):
    x = demand(shape, height, rate, slope, upper)
    return slope * x - u(shape, height, rate, x)


def unit_gain(shape, height, rate, n):
    with localcontext() as context:
        context.prec = 100
        rate, n = Decimal(rate), Decimal(n)
        return float(Decimal(height) * (phi(shape, rate * (n + 1)) - phi(shape, rate * n)))


def utility_loop(codes, q, x):
    shape, scaling, lam = codes
    return [u(shape, *scale_of(scaling, lam, qi), xi) for qi, xi in zip(q, x, strict=True)]


def marginal_loop(codes, q, x):
    shape, scaling, lam = codes
    return [du(shape, *scale_of(scaling, lam, qi), xi) for qi, xi in zip(q, x, strict=True)]


def demand_loop(codes, q, slope, upper):
    shape, scaling, lam = codes
    return [demand(shape, *scale_of(scaling, lam, qi), t, b) for qi, t, b in zip(q, slope, upper, strict=True)]


def conjugate_loop(codes, q, slope, upper):
    shape, scaling, lam = codes
    return [conj(shape, *scale_of(scaling, lam, qi), t, b) for qi, t, b in zip(q, slope, upper, strict=True)]


def entry(array, i):
    return (list(array) * (i + 1) if len(array) == 1 else list(array))[i]


def draw(state, n):
    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
    return state, (state >> 33) % n


def add(total, lost, term):
    """Exactly: the float nearest to the sum so far and the term, and what it has too much."""
    exact = Fraction(total) - Fraction(lost) + Fraction(term)
    return float(exact), Fraction(float(exact)) - exact
