"""Kernels of whole units and of the remaining problem.

``z`` exposure so far and ``room`` what the remaining visits can still take, in units; ``cost`` per unit; a price is utility
per cost. ``units`` is (q, z, w, lower, upper): values, exposures, the visits w of the score U(z + w n) / w, and the bounds
of n. Costs, visits and bounds have one entry per prompt, or one for all.
"""

import numpy as np

from cero_alloc._numba import expm1, kernel, log, sqrt
from cero_alloc._objective.kernels import (
    EXPONENTIAL,
    HYPERBOLIC,
    LOG,
    demand,
    demand_pull,
    entry,
    log_ratio,
    scale_of,
    unit_gain,
)

ROUNDING = 1e-12  # of exposure: smaller demand counts as 0


@kernel
def two_sum(x, y):
    """Return the rounded sum, and the error that rounding has made (Knuth): together they are the sum exactly."""
    whole = x + y
    part = whole - x
    return whole, (x - (whole - part)) + (y - part)


@kernel
def remaining_demand(price, problem, share, codes, stretch, more, sums, block):
    """Write what each prompt still takes at ``price``; what is rounding of its exposure is written as 0.

    ``problem`` is (q, z, room, cost). ``sums`` (stretches x 3) takes the cost of every ``stretch`` of prompts, what rounding
    has dropped of it, and the pull, minus the derivative by log(price): however many threads share a pool, the sums are the
    same. They are compensated, because rounding in a plain sum of a large pool exceeds the tolerance and would cost passes,
    and taken in lanes, because in one long chain each addition waits for the one before. ``block`` (7 x the number of lanes)
    is scratch. Straight loops: they vectorise.
    """
    (q, z, room, cost), (shape, scaling, lam) = problem, codes
    lanes, costs, most, x, pull = block.shape[1], block[0], block[1], block[2], block[3]
    total, dropped, pulled = block[4], block[5], block[6]
    for k in range(sums.shape[0]):
        for j in range(lanes):  # loops, because messages of assignments to slices take a second to compile
            costs[j], most[j], total[j], dropped[j], pulled[j] = cost[0], room[0], 0.0, 0.0, 0.0
        end = min((k + 1) * stretch, q.size)
        for first in range(k * stretch, end, lanes):
            size = min(lanes, end - first)
            value, start, out = q[first : first + size], z[first : first + size], more[first : first + size]
            if cost.size > 1:
                for j in range(size):
                    costs[j] = cost[first + j]
            if room.size > 1:
                for j in range(size):
                    most[j] = room[first + j]
            if shape == EXPONENTIAL:
                for j in range(size):
                    height, rate = scale_of(scaling, lam, value[j])
                    top, slope = height * rate, price * costs[j] * share
                    s = np.inf if slope == 0.0 else log_ratio(top, slope) / rate
                    x[j] = 0.0 if slope >= top else s
                    pull[j] = costs[j] * share / rate
            else:
                for j in range(size):
                    height, rate = scale_of(scaling, lam, value[j])
                    slope = price * costs[j] * share
                    x[j] = demand(shape, height, rate, slope, np.inf)
                    pull[j] = costs[j] * share * demand_pull(shape, height, rate, slope)
            for j in range(size):
                wanted = share * x[j] - start[j]
                taken = min(max(wanted, 0.0), most[j])
                out[j] = taken if taken >= ROUNDING * (1.0 + start[j]) else 0.0
                total[j], error = two_sum(total[j], costs[j] * taken)
                dropped[j] += error
                pulled[j] += pull[j] if 0.0 < wanted < most[j] * (1.0 - 1e-12) else 0.0
        whole, errors, pulls = 0.0, 0.0, 0.0
        for j in range(lanes):
            whole, error = two_sum(whole, total[j])
            errors += error + dropped[j]
            pulls += pulled[j]
        sums[k, 0], sums[k, 1], sums[k, 2] = whole, errors, pulls


@kernel
def units_worth(shape, height, rate, start, w, shift, price, upper):
    """Count the units n < ``upper`` of the score U(z + w n) / w that gain at least ``price``, ``shift`` being added to each.

    ``rate`` is per unit, and ``start`` is z / w.
    """
    bare = (price - shift) * w
    guess = np.int64(max(0.0, min(float(upper), demand(shape, height, rate, bare, start + upper) - start)))
    low, high = max(0, guess - 1), min(upper, guess + 2)  # in exact arithmetic the answer is guess or guess + 1
    if low > 0 and unit_gain(shape, height, rate, start + (low - 1)) / w + shift < price:
        low, high = 0, low - 1
    elif high < upper and unit_gain(shape, height, rate, start + high) / w + shift >= price:
        low, high = high, upper
    while low < high:
        middle = (low + high + 1) // 2
        if unit_gain(shape, height, rate, start + (middle - 1)) / w + shift >= price:
            low = middle
        else:
            high = middle - 1
    return low


@kernel
def count_worth(price, shift, units, share, codes, out):
    """Write the units within the bounds that gain at least ``price`` after the shift; return their sum."""
    (q, z, w, lower, upper), (shape, scaling, lam) = units, codes
    total = np.int64(0)
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        v = entry(w, i)
        n = units_worth(shape, height, rate / share * v, z[i] / v, v, shift, price, upper[i * (upper.size > 1)])
        out[i] = max(n, lower[i * (lower.size > 1)])
        total += out[i]
    return total


@kernel
def next_gains(q, z, units, share, codes, out):
    """Write the gain of the unit after ``units``, per prompt."""
    shape, scaling, lam = codes
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        out[i] = unit_gain(shape, height, rate / share, z[i] + units[i])


@kernel
def unit_starts(shape, size, lo, hi, block):
    """Write the largest s = rate * n from which a unit of U(z + w n) / w gains ``lo``, and ``hi``, but for rounding.

    ``block`` (5 x at least ``size``) holds heights, rates per unit and 1 / w, and takes the two results, below 0 where no unit
    gains as much. Straight loops: they vectorise.
    """
    height, rate, per_visit, at_lo, at_hi = block[0], block[1], block[2], block[3], block[4]
    if shape == EXPONENTIAL:
        log_lo, log_hi = log(lo), log(hi)
        for j in range(size):
            # 1 - exp(-rate), good to 1e-12: a polynomial at a 256th of it, and 1 - exp(-2 r) = h (2 - h) eight times.
            r = min(rate[j], 64.0) * (1 / 256)
            rise = r * (1.0 - r * (0.5 - r * (1 / 6 - r * (1 / 24 - r * (1 / 120 - r * (1 / 720 - r * (1 / 5040)))))))
            rise *= 2.0 - rise
            rise *= 2.0 - rise
            rise *= 2.0 - rise
            rise *= 2.0 - rise
            rise *= 2.0 - rise
            rise *= 2.0 - rise
            rise *= 2.0 - rise
            rise *= 2.0 - rise
            at_hi[j] = height[j] * rise * per_visit[j]
        for j in range(size):
            at_hi[j] = log_ratio(max(at_hi[j], 1e-300), 1.0)
        for j in range(size):
            at_lo[j] = at_hi[j] - log_lo
            at_hi[j] = at_hi[j] - log_hi
    elif shape == HYPERBOLIC:
        for j in range(size):
            top, half = height[j] * rate[j] * per_visit[j], 0.5 * rate[j] + 1e-300
            at_lo[j] = (top / lo) / (half + sqrt(half * half + top / lo)) - 1.0
            at_hi[j] = (top / hi) / (half + sqrt(half * half + top / hi)) - 1.0
    elif shape == LOG:
        for j in range(size):
            at_lo[j] = rate[j] / expm1(lo / (height[j] * per_visit[j])) - 1.0
            at_hi[j] = rate[j] / expm1(hi / (height[j] * per_visit[j])) - 1.0
    else:
        for j in range(size):
            high = height[j] * per_visit[j]
            top = high * rate[j]
            at_lo[j] = 1.0 - lo / high if top >= lo * (1.0 - 1e-9) else -1.0
            at_hi[j] = 1.0 - hi / high if top >= hi * (1.0 + 1e-9) else -1.0


@kernel
def count_units(first, size, z, lower, upper, high, block):
    """Turn what ``unit_starts`` wrote into units within [lower, upper]: the fourth row of ``block``, and ``high``."""
    rate, per_visit, at_lo, at_hi = block[1], block[2], block[3], block[4]
    for j in range(size):
        start, step = z[first + j] * per_visit[j] - 1.0, 1.0 / max(rate[j], 1e-300)
        wide, narrow = at_lo[j], at_hi[j]
        at_lo[j] = (wide + 1e-9 * (1.0 + abs(wide))) * step - start
        at_hi[j] = (narrow - 1e-9 * (1.0 + abs(narrow))) * step - start
    for j in range(size):
        i = first + j
        least, most = float(lower[i * (lower.size > 1)]), float(upper[i * (upper.size > 1)])
        wide, narrow = max(least, at_lo[j]), max(least, at_hi[j])
        at_lo[j] = min(most, wide)
        high[i] = np.int64(min(most, narrow))


@kernel
def bracket_units(lo, hi, units, share, codes, high, near, low, block):
    """Bound the units of each prompt that gain between two prices.

    Every unit below ``high`` gains more than ``hi``, every unit from a second bound on less than ``lo``. Units that
    rounding could decide lie between the bounds, so that one logarithm per prompt is enough, and no utility is
    evaluated. ``near`` takes the prompts where the two bounds differ, and ``low`` their second bounds. Returns the sums
    of both bounds, and how many prompts are near. With ``lo`` 0 the second bound is the upper one, with an infinite
    ``hi`` the first is the lower one. ``block`` is scratch, 5 rows.
    """
    (q, z, w, lower, upper), (shape, scaling, lam) = units, codes
    over, under, found = np.int64(0), np.int64(0), np.int64(0)
    length, heights, rates, per_visit, wides = block.shape[1], block[0], block[1], block[2], block[3]
    all_low, none_high = lo <= 0.0, hi == np.inf
    lo, hi, per_unit = max(lo, 1e-300), min(hi, 1e300), 1.0 / share
    for first in range(0, q.size, length):
        size = min(length, q.size - first)
        value, units_high = q[first : first + size], high[first : first + size]
        if first == 0 or w.size > 1:
            for j in range(size):
                per_visit[j] = 1.0 / entry(w, first + j)
        for j in range(size):
            height, rate = scale_of(scaling, lam, value[j])
            heights[j], rates[j] = height, rate * per_unit / per_visit[j]
        unit_starts(shape, size, lo, hi, block)
        if all_low:
            block[3, :size] = 1e300
        if none_high:
            block[4, :size] = -1.0
        count_units(first, size, z, lower, upper, high, block)
        for j in range(size):
            over += np.int64(wides[j])
            under += units_high[j]
        for j in range(size):
            wide = np.int64(wides[j])
            near[found], low[found] = first + j, wide
            found += wide > units_high[j]
    return over, under, found


@kernel
def entry_gains(rows, n, units, share, codes, seen, out):
    """Write the gain of unit n + 1, one prompt and one n per entry.

    ``seen`` (4 rows) caches gains, because evidence is counts and many prompts of a pool usually have equal ones.
    """
    (q, z, w, _, _), (shape, scaling, lam) = units, codes
    seen[0, :] = -1.0
    for k in range(rows.size):
        i = rows[k]
        v = entry(w, i)
        start = z[i] / v + n[k]
        slot = np.int64(abs(1e7 * q[i] + 31.0 * start)) % seen.shape[1]
        if seen[0, slot] != q[i] or seen[1, slot] != start or seen[2, slot] != v:
            height, rate = scale_of(scaling, lam, q[i])
            seen[0, slot], seen[1, slot], seen[2, slot] = q[i], start, v
            seen[3, slot] = unit_gain(shape, height, rate / share * v, start) / v
        out[k] = seen[3, slot]
