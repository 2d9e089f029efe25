"""Kernels of the offline oracle; they share no code with the allocators beyond the utility itself.

``lower``, ``upper`` and ``share``, the equal share in units (or that many times what the prompt's units cost), have one entry
per prompt or one for all.

Every curved shape lets a prompt's demand be ``shift + slope * t``, clipped to its bounds, where t is a function of the price
that all prompts have in common. Two numbers per prompt replace the logarithms and exponentials of every pass over the pool
but the first and the last, and Newton's method, exact on a line, ends after a few. The straight shape takes all of ``slope``
from the price ``shift`` on, and t = -price.
"""

import numpy as np

from cero_alloc._numba import exp, expm1, kernel, log, sqrt

from .kernels import (
    CAPPED_LINEAR,
    EXPONENTIAL,
    HYPERBOLIC,
    LOG,
    add,
    demand,
    demand_pull,
    draw,
    du,
    entry,
    scale_of,
    u,
    unit_gain,
)

_FAR = 1.7e308  # stands for infinity, because infinity times 0 is NaN
_LEAST_PRICE = 5e-324
_BLOCK = 16  # terms per plain sum: one compensated addition per block does not slow the pass down


@kernel
def abscissa(shape, reference, price):
    """Return t, the common function of the price in which demands are lines; it falls as the price rises."""
    if shape == EXPONENTIAL:
        return log(reference) - log(price)
    if shape == HYPERBOLIC:
        return min(_FAR, sqrt(reference) / sqrt(price))
    if shape == LOG:
        return min(_FAR, reference / price)
    return -price


@kernel
def price_at(shape, reference, t):
    """Return the price whose abscissa is t."""
    if shape == EXPONENTIAL:
        price = reference * exp(-t)
    elif shape == HYPERBOLIC:
        price = reference / t / t
    elif shape == LOG:
        price = reference / t
    else:
        price = -t
    return max(_LEAST_PRICE, price)


@kernel
def steepest(q, share, codes):
    """Largest slope of all prompts, per unit, rounded like the slopes that it is compared with."""
    _, scaling, lam = codes
    top = 0.0
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        top = max(top, height * (rate / entry(share, i)))
    return top


@kernel
def demand_lines(reference, q, share, codes, shift, slope):
    """Write the demand lines; prompts with no value get minus infinity."""
    shape, scaling, lam = codes
    about = log(reference)
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        rate /= entry(share, i)
        top = height * rate
        # Finite even times the difference of any two logarithms. Flatter utilities are straight up to any bound: only
        # the price ``top`` at which the line leaves 0 matters.
        width = 1.0 / max(rate, 1e-305)
        if top == 0.0:
            shift[i], slope[i] = -np.inf, 0.0
        elif shape == EXPONENTIAL:
            shift[i], slope[i] = (log(top) - about) * width, width
        elif shape == HYPERBOLIC:
            shift[i], slope[i] = -width, min(_FAR, sqrt(top / reference) * width)
        elif shape == LOG:
            shift[i], slope[i] = -width, min(_FAR, top / reference * width)
        else:
            shift[i], slope[i] = top, width


@kernel
def on_line(shape, shift, slope, t):
    """Unbounded demand at abscissa t."""
    if shape == CAPPED_LINEAR:
        return slope if shift + t > 0.0 else 0.0
    return shift + slope * t


@kernel
def clip(z, least, most):
    """Clip a number that is not NaN; min and max, which check for NaN, make a pass three times as slow."""
    z = least if z < least else z
    return most if z > most else z


@kernel
def total_steps(t, lines):
    """Sum of the demands of the straight shape."""
    shift, slope, lower, upper = lines
    total, lost = 0.0, 0.0
    for i in range(shift.size):
        total, lost = add(total, lost, clip(slope[i] * (shift[i] + t > 0.0), entry(lower, i), entry(upper, i)))
    return total


@kernel
def total_demand(t, lines, shape):
    """Sum of the demands and of their derivatives by t."""
    if shape == CAPPED_LINEAR:  # outside the loop, where the test would double the time
        return total_steps(t, lines), 0.0
    shift, slope, lower, upper = lines
    total, lost, pull = 0.0, 0.0, 0.0
    for start in range(0, shift.size, _BLOCK):
        part, steep = 0.0, 0.0
        for i in range(start, min(start + _BLOCK, shift.size)):
            z, least, most = shift[i] + slope[i] * t, entry(lower, i), entry(upper, i)
            part += clip(z, least, most)
            steep += slope[i] * ((least < z) & (z < most))  # no branch to mispredict
        total, lost = add(total, lost, part)
        pull += steep
    return total, pull


@kernel
def clear_curves(budget, lines, shape, lo, hi, under, over, guess, tolerance, max_passes):
    """Bracket the abscissa at which total demand meets the budget by safeguarded Newton steps.

    Expects demand ``under`` <= budget at ``lo`` and ``over`` > budget at ``hi``. Returns (lo, hi, pull, passes, closed): the
    demands bracket the budget, pull is the derivative near by, and closed is True if one abscissa meets the budget (lo
    = hi), if the relative width in price times the difference in demand, which bounds the duality gap of any point
    between the two, is within ``tolerance`` of the budget, or if no float lies between.
    """
    t, pull = guess, 0.0
    for passes in range(max_passes):
        if not lo < t < hi:
            t = 0.5 * (lo + hi) if shape == EXPONENTIAL else sqrt(lo) * sqrt(hi)
            if not lo < t < hi:
                return lo, hi, pull, passes, True
        total, pull = total_demand(t, lines, shape)
        if abs(total - budget) <= tolerance * budget:
            return t, t, pull, passes, True
        if total < budget:
            lo, under = t, total
        else:
            hi, over = t, total
        width = hi - lo if shape == EXPONENTIAL else 2.0 * (hi - lo) / lo
        if width * (over - under) <= tolerance * budget:
            return lo, hi, pull, passes, True
        step = (budget - total) / pull
        if abs(step) < 1e-12 * (1.0 + abs(t)):  # near rounding: aim beyond the root, to close in from both sides
            step += 4e-16 * (1.0 + abs(t)) if step > 0.0 else -4e-16 * (1.0 + abs(t))
        t = t + step if passes < 20 or passes % 2 else hi  # t = hi makes the next pass bisect
    return lo, hi, pull, max_passes, False


@kernel
def clear_steps(need, lines, lo, hi, max_passes):
    """Bracket the abscissa at which the steps of the straight shape meet the budget, by weighted quickselect.

    ``need`` is the budget beyond the lower bounds. Permutes ``shift`` and overwrites ``slope``. Expects and returns what
    ``clear_curves`` does, but for the pull.
    """
    shift, slope, lower, upper = lines
    first, last = np.int64(0), np.int64(shift.size)
    for i in range(last):
        slope[i] = max(0.0, min(slope[i], entry(upper, i)) - entry(lower, i))
    state = np.uint64(last)
    for passes in range(max_passes):
        if first >= last:
            return lo, hi, passes, True
        state, pick = draw(state, last - first)
        pivot = shift[first + pick]
        # Dutch flag: larger tops in [first, above), equal ones in [above, i), smaller ones in [below, last).
        above, i, below = first, first, last
        larger, equal = 0.0, 0.0
        while i < below:
            if shift[i] > pivot:
                larger += slope[i]
                shift[i], shift[above] = shift[above], shift[i]
                slope[i], slope[above] = slope[above], slope[i]
                above += 1
                i += 1
            elif shift[i] == pivot:
                equal += slope[i]
                i += 1
            else:
                below -= 1
                shift[i], shift[below] = shift[below], shift[i]
                slope[i], slope[below] = slope[below], slope[i]
        if need <= larger:
            hi, last = -pivot, above
        elif need <= larger + equal:
            return -pivot, np.nextafter(-pivot, 0.0), passes, True
        else:
            lo, first = np.nextafter(-pivot, 0.0), below
            need -= larger + equal
    return lo, hi, max_passes, False


@kernel
def clear_price(budget, problem, codes, guess, top, tolerance, max_passes, shift, slope, out):
    """Write the allocation that clears the market; return its price, the pull by log(price), and whether it is exact.

    ``top`` is a price at which no prompt takes more than its lower bound. Where the budget covers all demand, the price
    is 0. ``shift`` and ``slope`` are scratch of the size of the pool; afterwards they hold the demand lines
    about the price that comes last in the result.
    """
    shape, (q, lower, upper, share) = codes[0], problem
    lines = (shift, slope, lower, upper)
    reference = min(top, max(1e-150 * top, 1e-300))
    if guess > reference:  # a guess near the root gives t more digits; any other, NaN included, does no harm
        reference = min(top, guess)
    demand_lines(reference, q, share, codes, shift, slope)
    lo = abscissa(shape, reference, top * (1.0 + 1e-12))  # beyond the rounding of lines that leave 0 at ``top``
    hi = abscissa(shape, reference, _LEAST_PRICE)
    price, pull, closed = 0.0, 0.0, True
    under, _ = total_demand(lo, lines, shape)
    over, _ = total_demand(hi, lines, shape)
    if over <= budget * (1.0 + 1e-15):  # a budget that is the sum of the bounds is rounded as well
        lo = hi
    elif shape == CAPPED_LINEAR:
        lo, hi, _, closed = clear_steps(budget - under, lines, lo, hi, max_passes)
        demand_lines(reference, q, share, codes, shift, slope)
        price = price_at(shape, reference, lo)
    else:
        start = abscissa(shape, reference, reference)
        lo, hi, pull, _, closed = clear_curves(budget, lines, shape, lo, hi, under, over, start, tolerance, max_passes)
        price = price_at(shape, reference, lo)
        pull *= 1.0 if shape == EXPONENTIAL else lo if shape == LOG else 0.5 * lo
    weight = blend(lo, hi, budget, lines, shape, out)
    if lo < hi:
        price += weight * (price_at(shape, reference, hi) - price)
    return price, pull, closed, reference


@kernel
def blend(lo, hi, budget, lines, shape, out):
    """Mix the demands at two bracketing abscissas so that they sum to the budget; return the weight of ``hi``."""
    shift, slope, lower, upper = lines
    weight = 0.0
    if lo < hi:
        under, _ = total_demand(lo, lines, shape)
        over, _ = total_demand(hi, lines, shape)
        weight = min(1.0, max(0.0, (budget - under) / (over - under))) if over > under else 1.0
    for i in range(out.size):
        least, most = entry(lower, i), entry(upper, i)
        small = clip(on_line(shape, shift[i], slope[i], lo), least, most)
        large = clip(on_line(shape, shift[i], slope[i], hi), least, most)
        out[i] = small + weight * (large - small)
    return weight


@kernel
def bounded_demand(price, q, lower, upper, share, codes):
    """Units that a prompt takes at ``price`` per unit within [lower, upper]."""
    shape, scaling, lam = codes
    height, rate = scale_of(scaling, lam, q)
    return max(lower, share * demand(shape, height, rate, price * share, upper / share))


@kernel
def worth(shape, height, rate, x):
    """U(x) and U'(x) at the cost of one exponential."""
    s = rate * x
    if shape == EXPONENTIAL:
        if s < 1.0:
            less = expm1(-s)
            return -height * less, height * rate * (1.0 + less)
        rest = exp(-s)
        return height * (1.0 - rest), height * rate * rest
    return u(shape, height, rate, x), du(shape, height, rate, x)


@kernel
def certify(price, z, budget, problem, codes, integer):
    """Return the achieved utility and the duality gap.

    The gap is sum_i [h_i(price) - (U_i - price z_i)] + price (budget - sum z), every term >= 0 but for rounding; it is
    infinite for an allocation over budget, which certifies nothing. A term is 0 where the slope at z, or the gains of
    the units about z, show that z is optimal, which spares computing the optimum.
    """
    shape, scaling, lam = codes
    q, lower, upper, share = problem
    value, value_lost, spent, spent_lost, gap = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        least, most, fair = entry(lower, i), entry(upper, i), entry(share, i)
        reached, slope = worth(shape, height, rate, z[i] / fair)
        value, value_lost = add(value, value_lost, reached)
        spent, spent_lost = add(spent, spent_lost, z[i])
        if integer:
            each = rate / fair
            if (z[i] <= least or unit_gain(shape, height, each, z[i] - 1.0) >= price) and (
                z[i] >= most or unit_gain(shape, height, each, z[i]) <= price
            ):
                continue
            best = float(wanted_units(z[i], price, q[i], least, most, fair, codes))
        else:
            if (z[i] <= least or slope >= price * fair) and (z[i] >= most or slope <= price * fair):
                continue
            off = price * fair / slope - 1.0
            if abs(off) < 1e-6 and shape != CAPPED_LINEAR:
                # By concavity no more than the excess of the price over the slope, or of the slope over the price, for
                # all of the way to where they agree or to the bound: safe, and free of the cancellation between two
                # nearly equal utilities.
                way = (z[i] - least if off > 0.0 else most - z[i]) / fair
                gap += slope * abs(off) * min(way, 2.0 * abs(off) * demand_pull(shape, height, rate, slope))
                continue
            best = bounded_demand(price, q[i], least, most, fair, codes)
        gap += max(0.0, (u(shape, height, rate, best / fair) - reached) - price * (best - z[i]))
    if spent > budget * (1.0 + 1e-9):
        return value, np.inf
    return value, gap + price * max(0.0, budget - spent)


@kernel
def wanted_units(guess, price, q, lower, upper, share, codes):
    """Largest n in [lower, upper] whose last unit gains at least ``price``, or ``lower``; ``guess`` at n affects only the speed."""
    shape, scaling, lam = codes
    height, rate = scale_of(scaling, lam, q)
    rate /= share
    low, high = np.int64(lower), np.int64(upper)
    probe = np.int64(max(lower, min(upper - 1.0, guess)))  # the unit to look at, counted from 0
    stride = np.int64(1)
    while low < high:
        if not low <= probe < high:
            probe = (low + high) // 2
        if unit_gain(shape, height, rate, float(probe)) >= price:
            low = probe + 1
            probe += stride
        else:
            high = probe
            probe -= stride
        stride *= 2
    return low


@kernel
def count_wanted(price, problem, codes, about, out):
    """Write the wanted units per prompt; return their sum, in floating point because it may exceed the integers.

    ``about`` holds a reference price and the demand lines about it, which guess the units.
    """
    shape, (q, lower, upper, share), (reference, shift, slope) = codes[0], problem, about
    total, t = 0.0, abscissa(shape, reference, price)
    for i in range(q.size):
        guess, fair = on_line(shape, shift[i], slope[i], t), entry(share, i)
        out[i] = wanted_units(guess, price, q[i], entry(lower, i), entry(upper, i), fair, codes)
        total += out[i]
    return total


@kernel
def kth_largest(x, size, k):
    """Return the k-th largest of x[:size], counted from 1, by quickselect; permutes x."""
    lo, hi = np.int64(0), size - 1
    state = np.uint64(size)
    while lo < hi:
        state, pick = draw(state, hi - lo + 1)
        pivot = x[lo + pick]
        i, j = lo, hi
        while i <= j:  # Hoare's partition: equal entries go to both sides, so that ties stay linear
            while x[i] > pivot:
                i += 1
            while x[j] < pivot:
                j -= 1
            if i <= j:
                x[i], x[j] = x[j], x[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            hi = j
        elif k - 1 >= i:
            lo = i
        else:
            return x[k - 1]
    return x[k - 1]


@kernel
def clear_units(budget, problem, codes, guess, top, pull, about, gains, units):
    """Solve the integer problem by a threshold on the unit gains; ties go to the lowest index. Return the price.

    ``guess`` and ``pull`` are the price and the units per log(price) of the continuous problem, ``about`` a reference
    price and its demand lines. ``top`` must exceed every unit gain. Where the budget covers every unit that
    gains anything, the price is 0. The answer is ``units[0]``; the other two rows and ``gains`` are scratch. Prices are
    tried until the gains between two of them fit into ``gains``, where quickselect finds the threshold.
    """
    (shape, scaling, lam), (q, lower, _, share) = codes, problem
    lo, hi, price, growth = _LEAST_PRICE, top, guess, 2.0
    strict, weak, fresh = 0, 1, 2  # rows: the units wanted at hi, at lo, and at the price tried
    many = count_wanted(lo, problem, codes, about, units[weak])
    few = 0.0
    for i in range(q.size):
        units[strict, i] = np.int64(entry(lower, i))
        few += units[strict, i]
    if many <= budget or few >= budget:
        units[0, :] = units[weak if many <= budget else strict]
        return 0.0 if many <= budget else top
    while many - few > gains.size:
        if not lo < price < hi:
            price = sqrt(lo) * sqrt(hi)
            if not lo < price < hi:
                price = lo + 0.5 * (hi - lo)  # rounding of the roots can skip the last one or two floats
            if not lo < price < hi:
                break
        total = count_wanted(price, problem, codes, about, units[fresh])
        if total >= budget:
            lo, many, weak, fresh = price, total, fresh, weak
        else:
            hi, few, strict, fresh = price, total, fresh, strict
        if pull > 0.0 and growth < 1e6:  # beyond the estimate, by a growing factor, to cross the threshold
            step = growth * max(4e-16, abs(total - budget) / pull)
            price *= exp(step if total >= budget else -step)
            growth *= 8.0
        else:
            price = 0.0
    left = np.int64(budget - few)
    if many - few <= gains.size:
        size = np.int64(0)
        for i in range(q.size):
            height, rate = scale_of(scaling, lam, q[i])
            for n in range(units[strict, i], units[weak, i]):
                gains[size] = unit_gain(shape, height, rate / entry(share, i), float(n))
                size += 1
        lo = kth_largest(gains, size, left)
        for i in range(q.size):
            height, rate = scale_of(scaling, lam, q[i])
            taken, tied = units[strict, i], np.int64(0)
            for n in range(units[strict, i], units[weak, i]):
                gain = unit_gain(shape, height, rate / entry(share, i), float(n))
                taken += gain > lo
                tied += gain == lo
            left -= taken - units[strict, i]
            units[strict, i], units[weak, i] = taken, taken + tied
    for i in range(q.size):
        extra = min(units[weak, i] - units[strict, i], left)
        units[0, i] = units[strict, i] + extra
        left -= extra
    return lo
