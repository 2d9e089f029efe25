"""Kernels of the unit gains of a visit: the utility of exposure, and the signal of a group."""

from cero_alloc._numba import kernel
from cero_alloc._objective.kernels import entry, scale_of, unit_gain


@kernel
def score_gains(q, z, w, share, codes, gains):
    """Write the unit gains of the concave score f(n) = U(z + w n) / w of a visit, one row per prompt."""
    shape, scaling, lam = codes
    for r in range(q.size):
        height, rate = scale_of(scaling, lam, q[r])
        for n in range(gains.shape[1]):
            gains[r, n] = unit_gain(shape, height, rate / share * w[r], z[r] / w[r] + n) / w[r]


@kernel
def group_unit(a, b, g, n, fails, wins):
    """Gain of g more rollouts on top of n in a group, and E[p^n (1-p)] and E[(1-p)^n p] carried on to n + g."""
    gain, s = 0.0, a + b
    for m in range(n, n + g):
        if m > 0:  # a group of one rollout is never mixed
            gain += fails + wins
        fails *= (a + m) / (s + m + 1.0)
        wins *= (b + m) / (s + m + 1.0)
    return gain, fails, wins


@kernel
def group_gains(signal, g, gains):
    """Write unit gains of ``factor`` S(n), S(n) = 1 - E[p^n] - E[(1-p)^n] but S(0) = 0, in units of g rollouts.

    ``signal`` holds the posterior parameters a and b, and the factors.
    """
    a, b, factor = signal
    for r in range(a.size):
        s = a[r] + b[r]
        fails, wins = b[r] / s, a[r] / s
        for unit in range(gains.shape[1]):
            gain, fails, wins = group_unit(a[r], b[r], g, g * unit, fails, wins)
            gains[r, unit] = factor[r] * gain


@kernel
def remaining_groups(price, signal, visits, cost, g, min_units, max_units):
    """Return the cost of the counts that maximise signal minus price in every remaining visit."""
    a, b, factor = signal
    total = 0.0
    for i in range(a.size):
        if visits[i] <= 0.0:
            continue
        fee = price * entry(cost, i)
        s = a[i] + b[i]
        fails, wins = b[i] / s, a[i] / s
        best, count, worth = 0.0, 0, 0.0
        for unit in range(max_units):
            gain, fails, wins = group_unit(a[i], b[i], g, g * unit, fails, wins)
            gain *= factor[i]
            if gain < fee and unit >= 2 and unit >= min_units:  # gains fall from the second rollout on
                break
            worth += gain - fee
            if unit + 1 >= min_units and worth >= best:
                best, count = worth, unit + 1
        total += visits[i] * entry(cost, i) * count
    return total
