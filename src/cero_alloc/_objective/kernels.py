"""Kernels of the utility U(x) = height * phi(rate * x), shared by solvers, allocators and the oracle.

Symbols: ``q`` value, ``x`` exposure in equal shares, ``lam`` saturation, ``n`` units; ``codes`` shape, scaling and saturation.
"""

import numpy as np

from cero_alloc._numba import exp, expm1, kernel, log, log1p, sqrt

EXPONENTIAL, HYPERBOLIC, LOG, CAPPED_LINEAR = 0, 1, 2, 3
RATE, HEIGHT = 0, 1
# The parts of a float64, and log(2) in two, the first with zeros at its end so that k * _LOG_2_HIGH is exact.
_MANTISSA_BITS, _MANTISSA, _ONE = np.uint64(52), np.uint64(0x000FFFFFFFFFFFFF), np.uint64(0x3FF0000000000000)
_TWO_52, _TWO_200, _ROOT_2 = np.uint64(0x4330000000000000), 2.0**200, 2.0**0.5
_LOG_2_HIGH, _LOG_2_LOW = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")


@kernel
def add(total, lost, term):
    """Add to a compensated sum; ``lost`` is what the total has too much."""
    step = term - lost
    fresh = total + step
    return fresh, (fresh - total) - step


@kernel
def entry(array, i):
    """Return the i-th entry, or the one for all."""
    return array[i * (array.size > 1)]


@kernel
def draw(state, n):
    """Return the next state of a linear congruential generator, and a number below n: the pivot of a quickselect.

    Scrambled pivots keep sorted, reversed and organ-pipe arrangements linear.
    """
    state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
    return state, np.int64((state >> np.uint64(33)) % np.uint64(n))


@kernel
def log_ratio(top, bottom):
    """log(top / bottom) for positive floats, to 3 units in the last place near 1 too, in arithmetic that vectorises.

    Both are split into 2**k m; log(m / m') = 2 atanh((m - m') / (m + m')) with m / m' within sqrt(2) of 1. The log of
    the C library is a call per element and differs between machines in the last bit; this one does neither.
    """
    # Subnormals have no implicit leading bit: they are scaled up first, and the exponent is corrected at the end.
    top_bits = np.float64(top * (_TWO_200 if top < 1e-290 else 1.0)).view(np.uint64)
    bottom_bits = np.float64(bottom * (_TWO_200 if bottom < 1e-290 else 1.0)).view(np.uint64)
    # The exponents become floats as the low bits of 2**52, because integer conversion does not vectorise everywhere.
    k = np.uint64((top_bits >> _MANTISSA_BITS) | _TWO_52).view(np.float64)
    k -= np.uint64((bottom_bits >> _MANTISSA_BITS) | _TWO_52).view(np.float64)
    m_top = np.uint64((top_bits & _MANTISSA) | _ONE).view(np.float64)
    m_bottom = np.uint64((bottom_bits & _MANTISSA) | _ONE).view(np.float64)
    up = 1.0 if m_top > _ROOT_2 * m_bottom else 0.0
    down = 1.0 if _ROOT_2 * m_top < m_bottom else 0.0
    m_top *= 1.0 - 0.5 * up
    m_bottom *= 1.0 - 0.5 * down
    k += (up - (200.0 if top < 1e-290 else 0.0)) - (down - (200.0 if bottom < 1e-290 else 0.0))
    f = (m_top - m_bottom) / (m_top + m_bottom)
    w = f * f
    # atanh(f) / f = 1 + w (1 / 3 + w / 5 + ...), w < 0.0295: the polynomial through its Chebyshev points, good to 2e-16.
    tail = 0.07308224842589572
    tail = tail * w + 0.0766586080027253
    tail = tail * w + 0.09091444562631026
    tail = tail * w + 0.11111105567397538
    tail = tail * w + 0.14285714312987743
    tail = tail * w + 0.19999999999949752
    tail = tail * w + 0.3333333333333335
    return k * _LOG_2_HIGH + (2.0 * f + (2.0 * f * w * tail + k * _LOG_2_LOW))


@kernel
def scale_of(scaling, lam, q):
    """Height and rate of U(x) = height * phi(rate * x); their product, the slope at 0, is 4 lam q in both scalings."""
    if scaling == RATE:
        return 1.0, 4.0 * lam * q
    return 4.0 * q, lam


@kernel
def u(shape, height, rate, x):
    """Return the utility U(x)."""
    s = rate * x
    if shape == EXPONENTIAL:
        return -height * expm1(-s)
    if shape == HYPERBOLIC:
        return height if s > 1e300 else height * (s / (1.0 + s))
    if shape == LOG:
        return height * (log1p(s) if s < 1e300 else log(rate) + log(x))
    return height * min(s, 1.0)


@kernel
def du(shape, height, rate, x):
    """Marginal U'(x), the right derivative at the kink of the capped line."""
    s = rate * x
    slope = height * rate
    if shape == EXPONENTIAL:
        return slope * exp(-s)
    if shape == HYPERBOLIC:
        return slope / ((1.0 + s) * (1.0 + s))
    if shape == LOG:
        return slope / (1.0 + s)
    return slope if s < 1.0 else 0.0


@kernel
def demand(shape, height, rate, slope, upper):
    """Smallest minimiser of slope * x - U(x) over [0, upper]."""
    top = height * rate
    if slope >= top:
        return 0.0
    if shape == CAPPED_LINEAR:
        return min(upper, 1.0 / rate)
    if slope <= du(shape, height, rate, upper):
        return upper
    excess = (top - slope) / slope  # top / slope - 1 without cancellation
    if shape == EXPONENTIAL:
        s = log1p(excess) if excess < 1e300 else log(top) - log(slope)
    elif shape == HYPERBOLIC:
        s = excess / (sqrt(1.0 + excess) + 1.0) if excess < 1e300 else sqrt(top) / sqrt(slope)
    elif excess < 1e300:
        s = excess
    else:
        return min(upper, height / slope)
    return min(upper, s / rate)


@kernel
def demand_pull(shape, height, rate, slope):
    """Minus the derivative of the unclipped demand by log(slope), for 0 < slope < height * rate."""
    if shape == EXPONENTIAL:
        return 1.0 / rate
    if shape == HYPERBOLIC:
        return 0.5 * sqrt(height * rate / slope) / rate
    if shape == LOG:
        return height / slope
    return 0.0


@kernel
def conj(shape, height, rate, slope, upper):
    """Restricted concave conjugate: the minimum of slope * x - U(x) over [0, upper]."""
    x = demand(shape, height, rate, slope, upper)
    return slope * x - u(shape, height, rate, x)


@kernel
def unit_gain(shape, height, rate, n):
    """U(n + 1) - U(n), with ``rate`` per unit, free of cancellation and equal for equal marginals."""
    s = rate * n
    if shape == EXPONENTIAL:
        return -height * exp(-s) * expm1(-rate)
    if shape == HYPERBOLIC:
        return height * (rate / ((1.0 + s) * (1.0 + s + rate)))
    if shape == LOG:
        return height * log1p(rate / (1.0 + s))
    if s + rate <= 1.0:
        return height * rate
    return height * max(1.0 - s, 0.0)


@kernel
def utility_loop(codes, q, x, out):
    """U(q, x) elementwise."""
    shape, scaling, lam = codes
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        out[i] = u(shape, height, rate, x[i])


@kernel
def marginal_loop(codes, q, x, out):
    """U'(q, x) elementwise."""
    shape, scaling, lam = codes
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        out[i] = du(shape, height, rate, x[i])


@kernel
def demand_loop(codes, q, slope, upper, out):
    """Demand elementwise."""
    shape, scaling, lam = codes
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        out[i] = demand(shape, height, rate, slope[i], upper[i])


@kernel
def conjugate_loop(codes, q, slope, upper, out):
    """Restricted conjugate elementwise."""
    shape, scaling, lam = codes
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        out[i] = conj(shape, height, rate, slope[i], upper[i])
