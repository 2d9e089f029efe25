"""Every compiled kernel of the package; nothing else imports numba.

Contract
--------
* Inputs are already coerced (float64 or int64, C-contiguous) and checked: a kernel never raises and never allocates.
  Results go into ``out`` arguments; what can fail returns a status.
* Each kernel is a plain lazily compiled function through :func:`kernel`: no explicit signatures, no fastmath (it breaks
  NaN tests), no random numbers. One file holds them all because numba's disk cache does not notice a changed callee
  that lives in another file.
* ``tests/naive.py`` holds a slow and obvious twin of the same name.
* Differences of nearly equal numbers go through ``expm1`` and ``log1p``.

Symbols: ``q`` value, ``x`` exposure in equal shares, ``z`` exposure in units, ``n_max`` units per prompt and round,
``share`` the equal share R in units, ``lam`` saturation, ``theta`` normalised slopes, ``rho`` forgetting.
"""

from math import exp, expm1, log, log1p, sqrt

# What numba imports at the first call of any kernel (scipy.linalg for its BLAS, cffi), imported with the package: the first
# round of a training run is the wrong place to wait for it.
import numba.misc.cffiimpl
import numba.np.arraymath  # noqa: F401
import numpy as np
from numba import config, njit

from ._interpreted import interpreted, total

INTERPRETED: bool = config.DISABLE_JIT  # type: ignore[attr-defined]
if INTERPRETED:
    exp, expm1, log, log1p, sqrt = total(exp), total(expm1), total(log), total(log1p), total(sqrt)


def kernel(function):
    """Compile lazily, cached on disk where any cache folder is writable; or run as it is where the compiler is off."""
    if INTERPRETED:
        return interpreted(function)
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # read-only install and home: numba finds no place for its cache
        return njit(**options)(function)


# ---------------------------------------------------------------- sums


@kernel
def add(total, lost, term):
    """Add to a compensated sum; ``lost`` is what the total has too much."""
    step = term - lost
    fresh = total + step
    return fresh, (fresh - total) - step


# ---------------------------------------------------------------- utility: U(x) = height * phi(rate * x)

EXPONENTIAL, HYPERBOLIC, LOG, CAPPED_LINEAR = 0, 1, 2, 3
RATE, HEIGHT = 0, 1

# The parts of a float64, and log(2) in two, the first with zeros at its end so that k * _LOG_2_HIGH is exact.
_MANTISSA_BITS, _MANTISSA, _ONE = np.uint64(52), np.uint64(0x000FFFFFFFFFFFFF), np.uint64(0x3FF0000000000000)
_TWO_52, _TWO_200, _ROOT_2 = np.uint64(0x4330000000000000), 2.0**200, 2.0**0.5
_LOG_2_HIGH, _LOG_2_LOW = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")


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
def utility_loop(shape, scaling, lam, q, x, out):
    """U(q, x) elementwise."""
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        out[i] = u(shape, height, rate, x[i])


@kernel
def marginal_loop(shape, scaling, lam, q, x, out):
    """U'(q, x) elementwise."""
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        out[i] = du(shape, height, rate, x[i])


@kernel
def demand_loop(shape, scaling, lam, q, slope, upper, out):
    """Demand elementwise."""
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        out[i] = demand(shape, height, rate, slope[i], upper[i])


@kernel
def conjugate_loop(shape, scaling, lam, q, slope, upper, out):
    """Restricted conjugate elementwise."""
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        out[i] = conj(shape, height, rate, slope[i], upper[i])


# ---------------------------------------------------------------- posterior

# ``evidence`` (M x 2: successes, failures) is as of ``tick``, one entry per prompt. ``a0`` and ``b0`` have one entry for a
# shared prior (stride 0) or one per prompt (stride 1). ``full`` reads the whole pool and ignores ``rows``, so that a
# full-pool pass needs no index array of its own. ``fade[k]`` is rho ** k: a look-up where most prompts are recent.


@kernel
def powers(rho, out):
    """Write rho ** k for k = 0, 1, ..."""
    for k in range(out.size):
        out[k] = rho ** float(k)


@kernel
def survival(elapsed, rho, fade):
    """Share of evidence that is left after ``elapsed`` ticks of forgetting."""
    return fade[elapsed] if elapsed < fade.size else rho ** float(elapsed)


@kernel
def expected_variance(a, b):
    """E[p (1 - p)] = a b / ((a + b)(a + b + 1)) under Beta(a, b), as factors in [0, 1] that cannot overflow."""
    s = a + b
    return ((a / s) * (b / s)) * (s / (s + 1.0))


@kernel
def posterior(full, rows, a0, b0, stride, evidence, tick, now, rho, fade, alpha, beta):
    """Write Beta parameters, aged to ``now``."""
    if full and stride == 0 and rho == 1.0:  # of its own, because only so plain a loop is vectorised
        a, b = a0[0], b0[0]
        for r in range(alpha.size):
            alpha[r] = a + evidence[r, 0]
            beta[r] = b + evidence[r, 1]
        return
    ageing = rho < 1.0  # else the ticks are not read: in a large pool each is a cache miss
    for r in range(alpha.size):
        i = r if full else rows[r]
        left = survival(now - tick[i], rho, fade) if ageing else 1.0
        alpha[r] = a0[i * stride] + evidence[i, 0] * left
        beta[r] = b0[i * stride] + evidence[i, 1] * left


@kernel
def values(full, rows, a0, b0, stride, evidence, tick, now, rho, fade, spare, out):
    """Write posterior expected variances, aged to ``now``; ``spare`` is scratch of any size."""
    step = spare.size
    for start in range(0, out.size, step):  # in blocks that stay in the cache
        stop = min(start + step, out.size)
        q, beta = out[start:stop], spare[: stop - start]
        if full:
            a, b = (a0[start:stop], b0[start:stop]) if stride else (a0, b0)
            posterior(full, rows, a, b, stride, evidence[start:stop], tick[start:stop], now, rho, fade, q, beta)
        else:
            posterior(full, rows[start:stop], a0, b0, stride, evidence, tick, now, rho, fade, q, beta)
        for r in range(q.size):
            q[r] = expected_variance(q[r], beta[r])


@kernel
def observe(rows, successes, rollouts, evidence, tick, now, rho, fade):
    """Age the named rows to ``now``, then add the evidence."""
    ageing = rho < 1.0  # else nobody reads the ticks
    for r in range(rows.size):
        i = rows[r]
        left = 1.0
        if ageing:
            left = survival(now - tick[i], rho, fade)
            tick[i] = now
        evidence[i, 0] = evidence[i, 0] * left + successes[r]
        evidence[i, 1] = evidence[i, 1] * left + (rollouts[r] - successes[r])


@kernel
def calibrate(value, successes, rollouts, top, fade, bins, tally):
    """Add each group of two rollouts or more to the sums of predicted and observed reward variance.

    ``bins`` (4 x n_bins over [0, top]) takes groups and sums of predicted, observed and squared difference; ``tally``
    takes effective groups and, fading by ``fade`` per group, sums of 1, of 1 squared, of the difference, of its square.
    """
    last = bins.shape[1] - 1
    for r in range(value.size):
        n, s = rollouts[r], successes[r]
        if n < 2:
            continue
        observed = (s / n) * ((n - s) / (n - 1))
        difference = value[r] - observed
        place = min(np.int64(value[r] / top * (last + 1)), last)
        bins[0, place] += 1.0
        bins[1, place] += value[r]
        bins[2, place] += observed
        bins[3, place] += difference * difference
        tally[0] += 0.0 < s < n
        tally[1] = fade * tally[1] + 1.0
        tally[2] = fade * fade * tally[2] + 1.0
        tally[3] = fade * tally[3] + difference
        tally[4] = fade * tally[4] + difference * difference


@kernel
def first_bad_feedback(successes, rollouts):
    """Return index and kind of the first bad entry, or (-1, 0).

    Kinds: 1 rollouts < 0, 2 successes not finite or < 0, 3 successes > rollouts.
    """
    for r in range(rollouts.size):
        if rollouts[r] < 0:
            return r, 1
        if not (np.isfinite(successes[r]) and successes[r] >= 0.0):
            return r, 2
        if successes[r] > rollouts[r]:
            return r, 3
    return -1, 0


@kernel
def enter(row, slots, mask):
    """Enter a row into a hash table; return False if it is there."""
    mixed = np.uint64(row) * np.uint64(0x9E3779B97F4A7C15)
    at = np.uint64(mixed >> np.uint64(32)) & mask
    while slots[at] != -1:
        if slots[at] == row:
            return False
        at = (at + np.uint64(1)) & mask
    slots[at] = row
    return True


@kernel
def first_bad_row(rows, n_prompts, slots):
    """Return position and kind of the first row out of [0, n_prompts), 1, else that repeats an earlier one, 2; or (-1, 0).

    ``slots``, a power of two above rows.size and all -1, is a hash table; none is needed where rows ascend.
    """
    for r in range(rows.size):
        if rows[r] < 0 or rows[r] >= n_prompts:
            return r, 1
    if slots.size > 0:
        mask = np.uint64(slots.size - 1)
        for r in range(rows.size):
            if not enter(rows[r], slots, mask):
                return r, 2
    return -1, 0


@kernel
def strictly_increasing(rows):
    """Tell whether rows ascend strictly, the cheap certificate that none repeats."""
    for r in range(1, rows.size):  # noqa: SIM110 (numba compiles loops, not generators)
        if rows[r] <= rows[r - 1]:
            return False
    return True


# ---------------------------------------------------------------- accounts

# ``accounts`` (M x 3): units dealt; rollouts outstanding; offers.


@kernel
def lend(rows, units, g, accounts):
    """Deal units of g rollouts to these rows, or take them back where negative; return their sum."""
    total = np.int64(0)
    for r in range(rows.size):
        accounts[rows[r], 0] += units[r]
        accounts[rows[r], 1] += units[r] * g
        total += units[r]
    return total


@kernel
def count_offers(rows, accounts):
    """Count one offer of each row."""
    for r in range(rows.size):
        accounts[rows[r], 2] += 1


@kernel
def settle(rows, rollouts, accounts):
    """Take reported rollouts off those outstanding, as far as there are any; return how many that are."""
    total = np.int64(0)
    for r in range(rows.size):
        if rollouts[r] > 0:
            covered = min(np.int64(accounts[rows[r], 1]), rollouts[r])
            accounts[rows[r], 1] -= covered
            total += covered
    return total


# ---------------------------------------------------------------- one round of Algorithm 1


@kernel
def look_up(rows, theta, tie, slopes, ties):
    """Write slopes and tie ranks of these rows: in one loop, because in a large pool each is a wait for memory."""
    for r in range(rows.size):
        slopes[r] = theta[rows[r]]
        ties[r] = tie[rows[r]]


@kernel
def ahead(i, j, key, tie):
    """Tell whether i ranks before j: larger key first, equal keys by tie rank (all different)."""
    return key[i] > key[j] or (key[i] == key[j] and tie[i] < tie[j])


@kernel
def select(key, tie, order, size, k):
    """Quickselect: permute order[:size] so that order[:k] are the k first in rank and order[k - 1] the k-th."""
    lo, hi, target = 0, size - 1, k - 1
    state = np.uint64(size)
    while lo < hi:
        # A scrambled pivot: sorted, reversed or organ-pipe pools must not become quadratic.
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        at = lo + np.int64((state >> np.uint64(33)) % np.uint64(hi - lo + 1))
        pivot = order[at]
        order[at] = order[hi]
        border = lo
        for j in range(lo, hi):
            if ahead(order[j], pivot, key, tie):
                order[border], order[j] = order[j], order[border]
                border += 1
        order[hi] = order[border]
        order[border] = pivot
        if border == target:
            return
        if border < target:
            lo = border + 1
        else:
            hi = border - 1


@kernel
def rank(key, tie, threshold, k, order):
    """Put the k first positions with key > threshold into order[:k], the k-th last; return how many there are.

    ``order`` is scratch of at least min(key.size, 2 k) entries. When it is full, all but the k best so far are dropped,
    and the k-th of those is the bar for the rest: linear in any arrangement, and most prompts are only looked at.
    """
    size = np.int64(0)  # typed, or numba compiles a second select for the literal
    if k <= 0:
        return size
    bar, last = threshold, np.int64(-1)
    for start in range(0, key.size, 64):
        stop = min(start + 64, key.size)
        hopeful = 0
        for r in range(start, stop):  # vectorised: the bar is above nearly everybody
            hopeful += key[r] >= bar
        if hopeful == 0:
            continue
        for r in range(start, stop):
            if key[r] > bar or (last >= 0 and key[r] == bar and ahead(r, last, key, tie)):
                if size == order.size:
                    select(key, tie, order, size, k)
                    size, last = k, order[k - 1]
                    bar = key[last]
                    if not ahead(r, last, key, tie):
                        continue
                order[size] = r
                size += 1
    k = min(k, size)
    if k > 0:
        select(key, tie, order, size, k)
    return k


@kernel
def log_ratio(top, bottom):
    """log(top / bottom) for positive floats, to 3 units in the last place near 1 too, in arithmetic that vectorises.

    Both are split into 2**k m; log(m / m') = 2 atanh((m - m') / (m + m')) with m / m' within sqrt(2) of 1. The compilers'
    own log is a call per element, and differs between machines in the last bit; this one does not.
    """
    # Subnormals carry their exponent elsewhere: they are scaled up first, and the exponent put right at the end.
    top_bits = np.float64(top * (_TWO_200 if top < 1e-290 else 1.0)).view(np.uint64)
    bottom_bits = np.float64(bottom * (_TWO_200 if bottom < 1e-290 else 1.0)).view(np.uint64)
    # The exponents as floats: as the low bits of 2**52. Converting integers does not vectorise everywhere.
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
    tail = 1.0 / 23.0  # atanh(f) / f = 1 + w / 3 + w**2 / 5 + ..., w < .0295
    tail = tail * w + 1.0 / 21.0
    tail = tail * w + 1.0 / 19.0
    tail = tail * w + 1.0 / 17.0
    tail = tail * w + 1.0 / 15.0
    tail = tail * w + 1.0 / 13.0
    tail = tail * w + 1.0 / 11.0
    tail = tail * w + 1.0 / 9.0
    tail = tail * w + 1.0 / 7.0
    tail = tail * w + 1.0 / 5.0
    tail = tail * w + 1.0 / 3.0
    return k * _LOG_2_HIGH + (2.0 * f + (2.0 * f * w * tail + k * _LOG_2_LOW))


@kernel
def step_slope(theta, q, dealt, step, upper, per_visit, n_max, scaling, lam):
    """Return a slope after its step under exponential utility, without a branch: see :func:`step_slopes`."""
    height, rate = scale_of(scaling, lam, q)
    top, slope = height * rate, lam * theta
    x = min(log_ratio(top, slope) / rate, upper)
    x = upper if slope == 0.0 else x
    x = 0.0 if slope >= top else x
    return min(max(theta - step * (dealt - per_visit * x) / n_max, 0.0), 1.0)


@kernel
def step_slopes(theta, q, proposal, start, start_stride, visits, stride, n_max, share, gamma, shape, scaling, lam):
    """One projected step of the normalised slopes towards the demand per visit; gamma = 0 means 1 / sqrt(visits).

    ``start`` holds the exposure from which the visits began: what is wanted is what the demand has beyond it. The
    quotient by n_max stays one: slopes that are equal by arithmetic must be equal to the last bit, or rounding would
    break ties.
    """
    own = 0.0 if gamma > 0.0 else 1.0
    plain = shape == EXPONENTIAL and start_stride == 0 and start[0] == 0.0  # only such loops are vectorised
    if plain and stride == 0:
        e = float(visits[0])
        step, upper, per_visit = gamma + own / sqrt(e), e * n_max / share, share / e
        for r in range(theta.size):
            theta[r] = step_slope(theta[r], q[r], proposal[r], step, upper, per_visit, n_max, scaling, lam)
    elif plain:
        for r in range(theta.size):
            e = float(visits[r])
            step, upper, per_visit = gamma + own / sqrt(e), e * n_max / share, share / e
            theta[r] = step_slope(theta[r], q[r], proposal[r], step, upper, per_visit, n_max, scaling, lam)
    else:
        for r in range(theta.size):
            e, x0 = float(visits[r * stride]), start[r * start_stride] / share
            height, rate = scale_of(scaling, lam, q[r])
            x = demand(shape, height, rate, lam * theta[r], x0 + e * n_max / share)
            z, step = share * max(x - x0, 0.0), gamma + own / sqrt(e)
            theta[r] = min(1.0, max(0.0, theta[r] - step * (proposal[r] - z / e) / n_max))


@kernel
def step_pool(
    theta, a0, b0, a_stride, evidence, tick, now, rho, fade, start, start_stride, visits, stride, n_max, share, gamma, codes,
    first, places, units, scratch, none, rows, dealt, kept,
):  # fmt: skip
    """Step the slopes of a stretch of the pool, from row ``first`` on, with the values as they stand.

    All step as if nothing had been dealt; those at ``places`` are kept before, and then step again with their units: no
    array as large as the pool is needed. ``scratch`` (2 x size) and ``none``, as many zeros, set the size of the blocks:
    small ones stay in the cache. ``rows``, ``dealt`` (as many as places) and ``kept`` (4 x) are scratch too.
    """
    shape, scaling, lam = codes
    k = 0
    for j in range(places.size):
        row = places[j] - first
        if 0 <= row < theta.size:
            rows[k], dealt[k], kept[0, k], kept[1, k] = row, units[j], theta[row], visits[row * stride]
            kept[3, k] = start[row * start_stride]
            k += 1
    for low in range(0, theta.size, none.size):
        high = min(low + none.size, theta.size)
        q, n = scratch[0, : high - low], none[: high - low]
        a, b = (a0[low:high], b0[low:high]) if a_stride else (a0, b0)
        e, z = visits[low:high] if stride else visits, start[low:high] if start_stride else start
        values(np.bool_(True), n, a, b, a_stride, evidence[low:high], tick[low:high], now, rho, fade, scratch[1], q)
        step_slopes(theta[low:high], q, n, z, start_stride, e, stride, n_max, share, gamma, shape, scaling, lam)
    if k > 0:
        again, e, q, z = kept[0, :k], kept[1, :k], kept[2, :k], kept[3, :k]
        values(np.bool_(False), rows[:k], a0, b0, a_stride, evidence, tick, now, rho, fade, scratch[1], q)
        step_slopes(again, q, dealt[:k], z, start_stride, e, stride, n_max, share, gamma, shape, scaling, lam)
        for r in range(k):
            theta[rows[r]] = again[r]


# ---------------------------------------------------------------- what the rest of the run wants (exact dual)

# ``z`` exposure so far and ``room`` what the remaining visits can still take, in units; ``cost`` per unit, one entry
# (stride 0) or one per prompt (stride 1); a price is utility per cost.


@kernel
def remaining_demand(price, q, z, room, cost, stride, share, shape, scaling, lam):
    """Cost of what all prompts still take at ``price``, and its pull, minus the derivative by log(price).

    The sum is compensated: rounding in a plain one is more than the tolerance in a large pool, and would cost passes.
    """
    total, lost, pull = 0.0, 0.0, 0.0
    for i in range(q.size):
        c = cost[i * stride]
        height, rate = scale_of(scaling, lam, q[i])
        slope = price * c * share
        more = share * demand(shape, height, rate, slope, (z[i] + room[i]) / share) - z[i]
        if more > 0.0:
            total, lost = add(total, lost, c * min(more, room[i]))
            if more < room[i] * (1.0 - 1e-12):
                pull += c * share * demand_pull(shape, height, rate, slope)
    return total, pull


@kernel
def units_worth(shape, height, rate, start, price, upper):
    """Count the units beyond exposure ``start``, at most ``upper``, that gain at least ``price`` each; rate per unit."""
    guess = np.int64(max(0.0, min(float(upper), demand(shape, height, rate, price, start + upper) - start)))
    low, high = max(0, guess - 1), min(upper, guess + 2)  # calculus leaves guess and guess + 1, but for rounding
    if low > 0 and unit_gain(shape, height, rate, start + (low - 1)) < price:
        low, high = 0, low - 1
    elif high < upper and unit_gain(shape, height, rate, start + high) >= price:
        low, high = high, upper
    while low < high:
        middle = (low + high + 1) // 2
        if unit_gain(shape, height, rate, start + (middle - 1)) >= price:
            low = middle
        else:
            high = middle - 1
    return low


@kernel
def remaining_units(price, q, z, room, share, shape, scaling, lam, out):
    """Write the whole units that each prompt still takes at ``price`` per unit; return their sum."""
    total = 0
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        out[i] = units_worth(shape, height, rate / share, z[i], price, np.int64(room[i]))
        total += out[i]
    return total


@kernel
def next_gains(q, z, units, share, shape, scaling, lam, out):
    """Gain of the unit after ``units``, per prompt."""
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        out[i] = unit_gain(shape, height, rate / share, z[i] + units[i])


@kernel
def unit_starts(shape, size, lo, hi, block):
    """Write the largest s = rate * n from which a unit of U(z + w n) / w gains ``lo``, and ``hi``, but for rounding.

    ``block`` (5 x at least ``size``) holds heights, rates per unit and 1 / w, and takes the two results, below 0 where no unit
    gains as much. Straight loops: they vectorise, and the calls of log overlap.
    """
    height, rate, per_visit, at_lo, at_hi = block[0], block[1], block[2], block[3], block[4]
    if shape == EXPONENTIAL:
        log_lo, log_hi = log(lo), log(hi)
        steep = False
        for j in range(size):
            # A polynomial of 1 - exp(-rate), good to 1e-12: expm1 would cost as much as the logarithm.
            r = rate[j]
            rise = 1 / 720 - r * (1 / 5040 - r * (1 / 40320 - r * (1 / 362880)))
            rise = r * (1.0 - r * (0.5 - r * (1 / 6 - r * (1 / 24 - r * (1 / 120 - r * rise)))))
            at_hi[j] = height[j] * rise * per_visit[j]
            steep |= r > 0.25
        if steep:
            for j in range(size):
                at_lo[j] = exp(-rate[j])
            for j in range(size):
                at_hi[j] = height[j] * (1.0 - at_lo[j]) * per_visit[j] if rate[j] > 0.25 else at_hi[j]
        for j in range(size):
            at_hi[j] = log(max(at_hi[j], 1e-300))
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
def count_units(first, size, z, lower, lower_stride, upper, upper_stride, high, block):
    """Turn what ``unit_starts`` wrote into units within [lower, upper]: the fourth row of ``block``, and ``high``."""
    rate, per_visit, at_lo, at_hi = block[1], block[2], block[3], block[4]
    for j in range(size):
        start, step = z[first + j] * per_visit[j] - 1.0, 1.0 / max(rate[j], 1e-300)
        wide, narrow = at_lo[j], at_hi[j]
        at_lo[j] = (wide + 1e-9 * (1.0 + abs(wide))) * step - start
        at_hi[j] = (narrow - 1e-9 * (1.0 + abs(narrow))) * step - start
    for j in range(size):
        i = first + j
        least, most = float(lower[i * lower_stride]), float(upper[i * upper_stride])
        wide, narrow = max(least, at_lo[j]), max(least, at_hi[j])
        at_lo[j] = min(most, wide)
        high[i] = np.int64(min(most, narrow))


@kernel
def bracket_units(
    lo, hi, q, z, w, w_stride, lower, lower_stride, upper, upper_stride, share, shape, scaling, lam, high, near, low, block
):  # fmt: skip
    """Bound the units of each prompt's score U(z + w n) / w, within [lower, upper], that gain between two prices.

    Every unit below ``high`` gains more than ``hi``, every unit from a second bound on less than ``lo``; what rounding
    could decide lies between, so that one logarithm and no utility does for both. ``near`` takes the prompts where the two
    differ, and ``low`` their second bounds. Returns the sums of both bounds, and how many prompts are near. A ``lo`` of 0
    leaves out nothing, an infinite ``hi`` takes nothing for sure. ``block`` is scratch, 5 rows.
    """
    over, under, found = np.int64(0), np.int64(0), np.int64(0)
    length = block.shape[1]
    all_low, none_high = lo <= 0.0, hi == np.inf
    lo, hi, per_unit = max(lo, 1e-300), min(hi, 1e300), 1.0 / share
    for first in range(0, q.size, length):
        size = min(length, q.size - first)
        if first == 0 or w_stride == 1:
            for j in range(size):
                block[2, j] = 1.0 / w[(first + j) * w_stride]
        for j in range(size):
            height, rate = scale_of(scaling, lam, q[first + j])
            block[0, j], block[1, j] = height, rate * per_unit * w[(first + j) * w_stride]
        unit_starts(shape, size, lo, hi, block)
        if all_low:
            block[3, :size] = 1e300
        if none_high:
            block[4, :size] = -1.0
        count_units(first, size, z, lower, lower_stride, upper, upper_stride, high, block)
        for j in range(size):
            wide, narrow = np.int64(block[3, j]), high[first + j]
            over += wide
            under += narrow
            near[found], low[found] = first + j, wide
            found += wide > narrow
    return over, under, found


@kernel
def entry_gains(rows, n, q, z, w, w_stride, share, shape, scaling, lam, seen, out):
    """Gain of unit n + 1 of the score U(z + w n) / w, one prompt and one n per entry.

    ``seen`` (4 rows) remembers gains: evidence is counted, so that in most pools many prompts are alike.
    """
    seen[0, :] = -1.0
    for k in range(rows.size):
        i = rows[k]
        v = w[i * w_stride]
        start = z[i] / v + n[k]
        slot = np.int64(abs(1e7 * q[i] + 31.0 * start)) % seen.shape[1]
        if seen[0, slot] != q[i] or seen[1, slot] != start or seen[2, slot] != v:
            height, rate = scale_of(scaling, lam, q[i])
            seen[0, slot], seen[1, slot], seen[2, slot] = q[i], start, v
            seen[3, slot] = unit_gain(shape, height, rate / share * v, start) / v
        out[k] = seen[3, slot]


@kernel
def score_gains(q, z, w, share, shape, scaling, lam, gains):
    """Write the unit gains of the concave score f(n) = U(z + w n) / w of a visit, one row per prompt."""
    for r in range(q.size):
        height, rate = scale_of(scaling, lam, q[r])
        for n in range(gains.shape[1]):
            gains[r, n] = unit_gain(shape, height, rate / share * w[r], z[r] / w[r] + n) / w[r]


@kernel
def group_unit(a, b, g, n, fails, wins):
    """Gain of g more rollouts on top of n in a group, and E[p^n (1-p)] and E[(1-p)^n p] carried on to n + g."""
    gain, s = 0.0, a + b
    for m in range(n, n + g):
        if m > 0:  # a group of one is as dead as an empty one
            gain += fails + wins
        fails *= (a + m) / (s + m + 1.0)
        wins *= (b + m) / (s + m + 1.0)
    return gain, fails, wins


@kernel
def group_gains(a, b, factor, g, gains):
    """Write unit gains of ``factor`` S(n), S(n) = 1 - E[p^n] - E[(1-p)^n] but S(0) = 0, in units of g rollouts."""
    for r in range(a.size):
        s = a[r] + b[r]
        fails, wins = b[r] / s, a[r] / s
        for unit in range(gains.shape[1]):
            gain, fails, wins = group_unit(a[r], b[r], g, g * unit, fails, wins)
            gains[r, unit] = factor[r] * gain


@kernel
def remaining_groups(price, a, b, factor, visits, cost, stride, g, n_min, n_max):
    """Return the cost of the counts that maximise signal minus price in every remaining visit."""
    total = 0.0
    for i in range(a.size):
        if visits[i] <= 0.0:
            continue
        fee = price * cost[i * stride]
        s = a[i] + b[i]
        fails, wins = b[i] / s, a[i] / s
        best, count, worth = 0.0, 0, 0.0
        for unit in range(n_max):
            gain, fails, wins = group_unit(a[i], b[i], g, g * unit, fails, wins)
            gain *= factor[i]
            if gain < fee and unit >= 2 and unit >= n_min:  # gains fall from the second rollout on
                break
            worth += gain - fee
            if unit + 1 >= n_min and worth >= best:
                best, count = worth, unit + 1
        total += visits[i] * cost[i * stride] * count
    return total


# ---------------------------------------------------------------- one visit's counts: a table of unit gains

# ``gains[r, n]`` is what unit n + 1 of row r adds. Counts lie in {0} u [n_min, n_max], n_max the table's width.


@kernel
def majorise(gains, n_min, length, worth, slopes):
    """Write the slopes of each row's smallest concave majorant over {0} u [n_min, n_max]; scratch of n_max entries.

    Adjacent blocks are pooled while the later one is steeper (isotonic regression). Blocks keep sums of gains, not
    differences of sums, so that a slope of one unit is that unit's gain to the last bit.
    """
    first = max(n_min, 1)
    for r in range(gains.shape[0]):
        top = -1
        for n in range(gains.shape[1]):
            if 0 < n < first:  # the forced first block
                length[top] += 1
                worth[top] += gains[r, n]
                continue
            top += 1
            length[top] = 1
            worth[top] = gains[r, n]
            if n + 1 < first:
                continue
            while top > 0 and worth[top] * length[top - 1] > worth[top - 1] * length[top]:
                top -= 1
                length[top] += length[top + 1]
                worth[top] += worth[top + 1]
        at = 0
        for block in range(top + 1):
            for _ in range(length[block]):
                slopes[r, at] = worth[block] / length[block]
                at += 1


@kernel
def dearer(slopes, r, low, high, cost, price, equal):
    """First n in [low, high) whose slope per cost is below ``price`` (or not above it, unless ``equal``), else high."""
    while low < high:
        middle = (low + high) // 2
        ratio = slopes[r, middle] / cost
        if ratio > price or (equal and ratio == price):
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def take_above(slopes, cost, stride, price, units):
    """Write the units per row whose slope per cost is at least ``price``; return their cost."""
    total = 0.0
    for r in range(slopes.shape[0]):
        c = cost[r * stride]
        units[r] = dearer(slopes, r, np.int64(0), slopes.shape[1], c, price, np.bool_(True))
        total += c * units[r]
    return total


@kernel
def clear_slopes(slopes, cost, stride, target, sure, upto):
    """Find the price at which the rows' units cost ``target``: quickselect over all slopes, no tolerance.

    Writes the units dearer than the price and those at least as dear; the first cost at most ``target``. Returns price
    and cost of the first.
    """
    m, n_max = slopes.shape
    sure[:] = 0
    upto[:] = n_max
    spent, price = 0.0, np.inf
    state = np.uint64(m)
    while True:
        undecided = np.int64(0)
        for r in range(m):
            undecided += upto[r] - sure[r]
        if undecided == 0:
            return price, spent
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        pick = np.int64((state >> np.uint64(33)) % np.uint64(undecided))
        r = 0
        while pick >= upto[r] - sure[r]:
            pick -= upto[r] - sure[r]
            r += 1
        price = slopes[r, sure[r] + pick] / cost[r * stride]
        if np.isnan(price):  # never from sound input; without this it would never end
            return price, spent
        above, at_least = spent, spent
        for r in range(m):
            c = cost[r * stride]
            above += c * (dearer(slopes, r, sure[r], upto[r], c, price, np.bool_(False)) - sure[r])
            at_least += c * (dearer(slopes, r, sure[r], upto[r], c, price, np.bool_(True)) - sure[r])
        cheaper, found = at_least <= target, above <= target < at_least
        for r in range(m):
            c, low, high = cost[r * stride], sure[r], upto[r]
            if found:
                sure[r] = dearer(slopes, r, low, high, c, price, np.bool_(False))
                upto[r] = dearer(slopes, r, low, high, c, price, np.bool_(True))
            elif cheaper:
                sure[r] = dearer(slopes, r, low, high, c, price, np.bool_(True))
            else:
                upto[r] = dearer(slopes, r, low, high, c, price, np.bool_(False))
        if found:
            return price, above
        if cheaper:
            spent = at_least


@kernel
def level(start, units, upto, cost, stride, order, left):
    """Spend ``left`` on evening out start + units within upto, rows in ``order`` first; return what is left."""
    low, high = np.int64(2**62), np.int64(-(2**62))
    for r in range(units.size):
        if upto[r] > units[r]:
            low, high = min(low, start[r] + units[r]), max(high, start[r] + upto[r])
    if low >= high:
        return left
    while low < high:  # the highest level that ``left`` pays for
        middle = (low + high + 1) // 2
        need = 0.0
        for r in range(units.size):
            need += cost[r * stride] * (min(max(middle - start[r], units[r]), upto[r]) - units[r])
        if need <= left:
            low = middle
        else:
            high = middle - 1
    for r in range(units.size):
        more = min(max(low - start[r], units[r]), upto[r]) - units[r]
        left -= cost[r * stride] * more
        units[r] += more
    for ahead_too in range(2):  # those at the level before those that are ahead of it already
        for j in range(order.size):
            r = order[j]
            if units[r] < upto[r] and cost[r * stride] <= left and (start[r] + units[r] > low) == (ahead_too == 1):
                units[r] += 1
                left -= cost[r * stride]
    return left


@kernel
def fall(gains, lower, out):
    """Copy gains that fall along a row from ``lower`` on, freed of rises by rounding; infinite before."""
    for r in range(lower.size):
        least = np.inf
        for n in range(gains.shape[1]):
            if n >= lower[r]:
                # + 0.0 turns a negative zero, whose bits are those of a negative number, into a plain one.
                least = min(least, gains[r, n] + 0.0)
            out[r, n] = least


@kernel
def units_above(key, r, low, high, price):
    """Smallest n in [low, high] from which on the units of row r have a key of at most ``price``; keys fall."""
    while low < high:
        middle = (low + high) // 2
        if key[r, middle] > price:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def clear_gains(key, total, units, upto, trial):
    """Narrow the bounds [units, upto] to the split that spends ``total``; return what the units leave.

    ``key[r, n]`` is an integer that falls in n and grows with the gain of unit n + 1. On return the units between the
    bounds are all at one key, and every unit below them is at a larger one.
    """
    least, most = np.int64(0), np.int64(0)
    floor_key, top_key = np.int64(2**63 - 1), np.int64(0)
    for r in range(units.size):
        least += units[r]
        most += upto[r]
        if units[r] < upto[r]:
            top_key = max(top_key, key[r, units[r]])
            floor_key = min(floor_key, key[r, upto[r] - 1])
    if most <= total or least >= total:
        bound = upto if most <= total else units
        units[:] = bound
        upto[:] = bound
        return max(0, total - most)
    low, high = floor_key - 1, top_key  # keys above low overspend, those above high do not
    while high - low > 1:
        price = low + (high - low) // 2
        taken = np.int64(0)
        for r in range(units.size):
            trial[r] = units_above(key, r, units[r], upto[r], price)
            taken += trial[r]
        if taken > total:
            low = price
            upto[:] = trial
        else:
            high = price
            units[:] = trial
            if taken == total:
                upto[:] = trial
                return total - taken
    left = total
    for r in range(units.size):
        left -= units[r]
    return left


@kernel
def fill_ties(gains, slopes, n_min, cost, stride, start, order, left, units, upto):
    """Spend ``left`` on the units at the clearing price: whole blocks that fit, then the single units evenly."""
    for j in range(order.size):
        r = order[j]
        flat = units[r] >= n_min or n_min <= 1
        for n in range(units[r], upto[r]):
            flat = flat and gains[r, n] == slopes[r, n]
        if flat:
            continue
        block = cost[r * stride] * (upto[r] - units[r])
        if block <= left:
            units[r] = upto[r]
            left -= block
        upto[r] = units[r]
    return level(start, units, upto, cost, stride, order, left)


@kernel
def complete(gains, slopes, tie, n_min, total, units):
    """Bring the sum of the units to ``total``, greedily: open rows, then raise or trim. Return whether it can be."""
    m, n_max = gains.shape
    first = max(n_min, 1)
    active, spent = 0, 0
    for r in range(m):
        active += units[r] > 0
        spent += units[r]
    while active * n_max < total:
        chosen = -1
        for r in range(m):
            if units[r] == 0 and (
                chosen < 0
                or slopes[r, 0] > slopes[chosen, 0]
                or (slopes[r, 0] == slopes[chosen, 0] and tie[r] < tie[chosen])
            ):
                chosen = r
        if chosen < 0:
            return False
        units[chosen] = first
        active += 1
        spent += first
    while spent != total:
        chosen = -1
        up = spent < total
        for r in range(m):
            if up:
                if units[r] < n_max and (units[r] > 0 or first == 1):
                    here = gains[r, units[r]]
                    best = gains[chosen, units[chosen]] if chosen >= 0 else -np.inf
                    if chosen < 0 or here > best or (here == best and tie[r] < tie[chosen]):
                        chosen = r
            elif units[r] > first or (units[r] == 1 and first == 1):
                here = gains[r, units[r] - 1]
                worst = gains[chosen, units[chosen] - 1] if chosen >= 0 else np.inf
                if chosen < 0 or here < worst or (here == worst and tie[r] < tie[chosen]):
                    chosen = r
        if chosen < 0:
            return False
        step = 1 if up else -1
        units[chosen] += step
        spent += step
    return True


@kernel
def change_loss(gains, r, price, before, after):
    """Loss of sum gains - price * units when row r goes from ``before`` to ``after``."""
    loss = 0.0
    for n in range(before, after):
        loss += price - gains[r, n]
    for n in range(after, before):
        loss += gains[r, n] - price
    return loss


@kernel
def least_losses(gains, price, n_min, units, out):
    """Write the loss of each row's second best count at ``price``, ``units`` being the best."""
    first, n_max = max(n_min, 1), gains.shape[1]
    for r in range(units.size):
        out[r] = np.inf
        up, down = 0.0, 0.0
        for n in range(units[r], n_max):
            up += price - gains[r, n]
            if n + 1 >= first:
                out[r] = min(out[r], up)
        for n in range(units[r] - 1, -1, -1):
            down += gains[r, n] - price
            if n == 0 or n >= first:
                out[r] = min(out[r], down)


@kernel
def repair(gains, core, price, slack, n_min, lowest, left, highest, bound, units, best, choice):
    """Raise the total by ``left``, or by lowest to highest at ``slack`` per unit short of left, at the least loss.

    Exact over the rows in ``core``, each change of count losing less than ``bound``: dynamic program over the change of
    the total so far. ``best`` (2 x 2 reach + 1) and ``choice`` (rows x 2 reach + 1) are scratch. Returns the loss, inf
    if nothing was found, and writes ``units``.
    """
    reach = (best.shape[1] - 1) // 2
    first, n_max = max(n_min, 1), gains.shape[1]
    best[:, :] = np.inf
    best[0, reach] = 0.0
    for s in range(core.size):
        r, now = core[s], s % 2
        before = units[r]
        for d in range(best.shape[1]):  # no change
            best[1 - now, d] = best[now, d]
            choice[s, d] = before
        for n in range(n_max + 1):
            if n == before or 0 < n < first:
                continue
            loss = change_loss(gains, r, price, before, n)
            if loss >= bound:
                continue
            shift = n - before
            for d in range(max(0, -shift), min(best.shape[1], best.shape[1] - shift)):
                if best[now, d] + loss < best[1 - now, d + shift]:
                    best[1 - now, d + shift] = best[now, d] + loss
                    choice[s, d + shift] = n
    last = core.size % 2
    found, at = np.inf, -1
    for d in range(max(-reach, lowest), min(reach, highest) + 1):
        loss = best[last, d + reach] + slack * (left - d)
        if loss < found:
            found, at = loss, d + reach
    if at >= 0:
        for s in range(core.size - 1, -1, -1):
            r = core[s]
            before = units[r]
            units[r] = choice[s, at]
            at -= units[r] - before
    return found


@kernel
def fill_costly(gains, slopes, n_min, cost, stride, tie, floor_price, need, left, units):
    """Spend at least ``need`` and at most ``left`` on the next blocks that fit, dearest per cost first; return the rest.

    A block is what the majorant pools, or any part of it that may stand alone.
    """
    m, n_max = gains.shape
    while need > 0.0:
        chosen, size, top = -1, 0, floor_price
        for r in range(m):
            if units[r] >= n_max:
                continue
            c = cost[r * stride]
            worth, n = 0.0, units[r]
            while n < n_max and slopes[r, n] == slopes[r, units[r]]:
                worth += gains[r, n]
                n += 1
                step = n - units[r]
                if step * c > left:
                    break
                if n < n_min:
                    continue
                ratio = worth / (step * c)
                better = ratio > top or (ratio == top and chosen != r and (chosen < 0 or tie[r] < tie[chosen]))
                if better:
                    chosen, size, top = r, step, ratio
        if chosen < 0:
            break
        units[chosen] += size
        need -= size * cost[chosen * stride]
        left -= size * cost[chosen * stride]
    return left


# ---------------------------------------------------------------- offline oracle (shares no code with the rounds above)

# ``lower``, ``upper`` and ``share``, the equal share in units (or that many times what the prompt's units cost), have
# one entry per prompt or one for all.
#
# Every curved shape lets a prompt's demand be ``shift + slope * t``, clipped to its bounds, where t is a function of the
# price that all prompts have in common. Two numbers per prompt replace the logarithms and exponentials of every pass
# over the pool but the first and the last, and Newton's method, exact on a line, ends after a few. The straight shape
# takes all of ``slope`` from the price ``shift`` on, and t = -price.

_FAR = 1.7e308  # stands for infinity where infinity times 0 would be no number
_LEAST_PRICE = 5e-324
_BLOCK = 16  # terms summed plainly: one compensated addition per block does not slow the pass down


@kernel
def entry(array, i):
    """Return the i-th entry, or the one for all."""
    return array[i * (array.size > 1)]


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
def steepest(q, share, scaling, lam):
    """Largest slope of all prompts, per unit, rounded like the slopes that it is held against."""
    top = 0.0
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        top = max(top, height * (rate / entry(share, i)))
    return top


@kernel
def demand_lines(reference, q, share, shape, scaling, lam, shift, slope):
    """Write the demand lines; prompts that are worth nothing at any price take minus infinity."""
    about = log(reference)
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        rate /= entry(share, i)
        top = height * rate
        # Times the difference of any two logarithms it is still a number; what is flatter yet is straight as far as any
        # bound, and only the price ``top`` at which its line leaves 0 matters.
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
    """Clip what is a number; min and max, which mind those that are not, make a pass three times as slow."""
    z = least if z < least else z
    return most if z > most else z


@kernel
def total_steps(t, shift, slope, lower, upper):
    """Sum of the demands of the straight shape."""
    total, lost = 0.0, 0.0
    for i in range(shift.size):
        total, lost = add(total, lost, clip(slope[i] * (shift[i] + t > 0.0), entry(lower, i), entry(upper, i)))
    return total


@kernel
def total_demand(t, shift, slope, lower, upper, shape):
    """Sum of the demands and of their derivatives by t."""
    if shape == CAPPED_LINEAR:  # not asked in the loop, where it would cost as much as all the rest
        return total_steps(t, shift, slope, lower, upper), 0.0
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
def clear_curves(budget, shift, slope, lower, upper, shape, lo, hi, under, over, guess, tolerance, max_passes):
    """Bracket the abscissa at which total demand meets the budget by safeguarded Newton steps.

    Expects demand ``under`` <= budget at ``lo`` and ``over`` > budget at ``hi``. Returns (lo, hi, pull, passes, closed): the
    demands bracket the budget, pull is the derivative near by, and closed tells that one abscissa meets the budget (lo
    = hi), that the relative width in price times the difference in demand, which bounds the duality gap of any point
    between the two, is within ``tolerance`` of the budget, or that no float lies between.
    """
    t, pull = guess, 0.0
    for passes in range(max_passes):
        if not lo < t < hi:
            t = 0.5 * (lo + hi) if shape == EXPONENTIAL else sqrt(lo) * sqrt(hi)
            if not lo < t < hi:
                return lo, hi, pull, passes, True
        total, pull = total_demand(t, shift, slope, lower, upper, shape)
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
        if abs(step) < 1e-12 * (1.0 + abs(t)):  # down to rounding: aim beyond the root, to close in from both sides
            step += 4e-16 * (1.0 + abs(t)) if step > 0.0 else -4e-16 * (1.0 + abs(t))
        t = t + step if passes < 20 or passes % 2 else hi  # no Newton step: the middle
    return lo, hi, pull, max_passes, False


@kernel
def clear_steps(need, shift, slope, lower, upper, lo, hi, max_passes):
    """Bracket the abscissa at which the steps of the straight shape meet the budget, by weighted quickselect.

    ``need`` is the budget beyond the lower bounds. Permutes ``shift`` and overwrites ``slope``. Expects and returns what
    ``clear_curves`` does, but for the pull.
    """
    first, last = np.int64(0), np.int64(shift.size)
    for i in range(last):
        slope[i] = max(0.0, min(slope[i], entry(upper, i)) - entry(lower, i))
    state = np.uint64(last)
    for passes in range(max_passes):
        if first >= last:
            return lo, hi, passes, True
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        pivot = shift[first + np.int64((state >> np.uint64(33)) % np.uint64(last - first))]
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
def clear_price(
    budget, q, lower, upper, share, shape, scaling, lam, guess, top, tolerance, max_passes, shift, slope, out
):
    """Write the allocation that clears the market; return its price, the pull by log(price), and whether it is exact.

    ``top`` is a price at which nobody takes more than the lower bound. Where the budget covers all that anybody wants,
    the price is 0. ``shift`` and ``slope`` are scratch of the size of the pool; afterwards they hold the demand lines
    about the price that comes last in the result.
    """
    reference = min(top, max(1e-150 * top, 1e-300))
    if guess > reference:  # a good one gives t more digits and a bad one, not a number perhaps, harms nothing
        reference = min(top, guess)
    demand_lines(reference, q, share, shape, scaling, lam, shift, slope)
    lo = abscissa(shape, reference, top * (1.0 + 1e-12))  # beyond the rounding of lines that leave 0 at ``top``
    hi = abscissa(shape, reference, _LEAST_PRICE)
    price, pull, closed = 0.0, 0.0, True
    under, _ = total_demand(lo, shift, slope, lower, upper, shape)
    over, _ = total_demand(hi, shift, slope, lower, upper, shape)
    if over <= budget * (1.0 + 1e-15):  # a budget that is the sum of the bounds is rounded as well
        lo = hi
    elif shape == CAPPED_LINEAR:
        lo, hi, _, closed = clear_steps(budget - under, shift, slope, lower, upper, lo, hi, max_passes)
        demand_lines(reference, q, share, shape, scaling, lam, shift, slope)
        price = price_at(shape, reference, lo)
    else:
        start = abscissa(shape, reference, reference)
        lo, hi, pull, _, closed = clear_curves(
            budget, shift, slope, lower, upper, shape, lo, hi, under, over, start, tolerance, max_passes
        )
        price = price_at(shape, reference, lo)
        pull *= 1.0 if shape == EXPONENTIAL else lo if shape == LOG else 0.5 * lo
    weight = blend(lo, hi, budget, shift, slope, lower, upper, shape, out)
    if lo < hi:
        price += weight * (price_at(shape, reference, hi) - price)
    return price, pull, closed, reference


@kernel
def blend(lo, hi, budget, shift, slope, lower, upper, shape, out):
    """Mix the demands at two bracketing abscissas so that they sum to the budget; return the weight of ``hi``."""
    weight = 0.0
    if lo < hi:
        under, _ = total_demand(lo, shift, slope, lower, upper, shape)
        over, _ = total_demand(hi, shift, slope, lower, upper, shape)
        weight = min(1.0, max(0.0, (budget - under) / (over - under))) if over > under else 1.0
    for i in range(out.size):
        least, most = entry(lower, i), entry(upper, i)
        small = clip(on_line(shape, shift[i], slope[i], lo), least, most)
        large = clip(on_line(shape, shift[i], slope[i], hi), least, most)
        out[i] = small + weight * (large - small)
    return weight


@kernel
def bounded_demand(price, q, lower, upper, share, shape, scaling, lam):
    """Units that a prompt takes at ``price`` per unit within [lower, upper]."""
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
def certify(price, z, budget, q, lower, upper, share, shape, scaling, lam, integer):
    """Return the achieved utility and the duality gap.

    The gap is sum_i [h_i(price) - (U_i - price z_i)] + price (budget - sum z), every term >= 0 but for rounding; it is
    infinite for an allocation over budget, which certifies nothing. A term is 0 where the slope at z, or the gains of
    the units about z, say that z is the best there is, which spares computing the best again.
    """
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
            best = float(wanted_units(z[i], price, q[i], least, most, fair, shape, scaling, lam))
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
            best = bounded_demand(price, q[i], least, most, fair, shape, scaling, lam)
        gap += max(0.0, (u(shape, height, rate, best / fair) - reached) - price * (best - z[i]))
    if spent > budget * (1.0 + 1e-9):
        return value, np.inf
    return value, gap + price * max(0.0, budget - spent)


@kernel
def wanted_units(guess, price, q, lower, upper, share, shape, scaling, lam):
    """Largest n in [lower, upper] whose last unit gains at least ``price``, or ``lower``; any guess at n will do."""
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
def count_wanted(price, reference, shift, slope, q, lower, upper, share, shape, scaling, lam, out):
    """Write the wanted units per prompt; return their sum, in floating point for it may exceed the integers."""
    total, t = 0.0, abscissa(shape, reference, price)
    for i in range(q.size):
        guess, fair = on_line(shape, shift[i], slope[i], t), entry(share, i)
        out[i] = wanted_units(guess, price, q[i], entry(lower, i), entry(upper, i), fair, shape, scaling, lam)
        total += out[i]
    return total


@kernel
def kth_largest(x, size, k):
    """Return the k-th largest of x[:size], counted from 1, by quickselect; permutes x."""
    lo, hi = np.int64(0), size - 1
    state = np.uint64(size)
    while lo < hi:
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        pivot = x[lo + np.int64((state >> np.uint64(33)) % np.uint64(hi - lo + 1))]
        i, j = lo, hi
        while i <= j:  # Hoare's: equal entries go to both sides, so that ties stay linear
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
def clear_units(
    budget, q, lower, upper, share, shape, scaling, lam, guess, top, pull, reference, shift, slope, gains, units
):
    """Solve the integer problem by a threshold on the unit gains; ties go to the lowest index. Return the price.

    ``guess`` and ``pull`` are the price and the units per log(price) of the continuous problem, ``shift`` and ``slope``
    its demand lines about ``reference``. ``top`` must exceed every unit gain. Where the budget covers every unit that
    gains anything, the price is 0. The answer is ``units[0]``; the other two rows and ``gains`` are scratch. Prices are
    tried until the gains between two of them fit into ``gains``, where quickselect finds the threshold.
    """
    lo, hi, price, growth = _LEAST_PRICE, top, guess, 2.0
    strict, weak, fresh = 0, 1, 2  # rows: the units wanted at hi, at lo, and at the price tried
    many = count_wanted(lo, reference, shift, slope, q, lower, upper, share, shape, scaling, lam, units[weak])
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
                price = lo + 0.5 * (hi - lo)  # the roots' rounding passes over a last float or two
            if not lo < price < hi:
                break
        total = count_wanted(price, reference, shift, slope, q, lower, upper, share, shape, scaling, lam, units[fresh])
        if total >= budget:
            lo, many, weak, fresh = price, total, fresh, weak
        else:
            hi, few, strict, fresh = price, total, fresh, strict
        if pull > 0.0 and growth < 1e6:  # further than calculus says, further each time, to come out on the other side
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


@kernel
def unit_gains(shape, height, rate, size, out):
    """Write the gains of the first ``size`` units, ``rate`` per unit."""
    if shape != EXPONENTIAL:
        for z in range(size):
            out[z] = unit_gain(shape, height, rate, float(z))
        return
    # A geometric series, by doubling: one exponential per doubling, and no rounding that grows with the length.
    out[0] = unit_gain(shape, height, rate, 0.0)
    known = 1
    while known < size:
        fade = exp(-rate * known)
        for z in range(min(known, size - known)):
            out[known + z] = fade * out[z]
        known *= 2


@kernel
def path_dual(price, q_path, n_max, share, shape, scaling, lam, worth, spent, gain):
    """Price the drifting problem: each prompt's best plan by dynamic programming over (round, exposure).

    q_path has shape (n_prompts, n_rounds); ``worth``, ``spent`` and ``gain`` are scratch of n_rounds * n_max + n_max +
    1 entries. A unit bought in round k at exposure z gains U_k(z + 1) - U_k(z) at that round's rate. Returns the sum of
    the optimal priced values and the units bought.

    A round that may buy n_max units is n_max chances to buy one, which leaves one comparison per exposure. No plan
    misses a unit that gains less than its price: exposure is never worth having for the rounds to come, because the
    utilities are concave.
    """
    total, bought = 0.0, 0.0
    n_prompts, n_rounds = q_path.shape
    for i in range(n_prompts):
        worth[:] = 0.0
        spent[:] = 0.0
        for k in range(n_rounds - 1, -1, -1):
            height, rate = scale_of(scaling, lam, q_path[i, k])
            top = (k + 1) * n_max
            wanted = min(top, np.int64(share * demand(shape, height, rate, price * share, top / share)) + 1)
            unit_gains(shape, height, rate / share, wanted, gain)
            for chance in range(n_max):
                for z in range(min(wanted, top - chance)):  # ascending: worth[z + 1] is still that of the next chance
                    more = worth[z + 1] + (gain[z] - price)
                    units = spent[z + 1] + 1.0
                    better = more > worth[z]
                    worth[z] = more if better else worth[z]
                    spent[z] = units if better else spent[z]
        total += worth[0]
        bought += spent[0]
    return total, bought


# ---------------------------------------------------------------- simulation


@kernel
def bin_of(mean, n_bins):
    """Place of a number in [0, 1] among equal bins."""
    return min(np.int64(mean * n_bins), n_bins - 1)


@kernel
def forecast(a0, b0, stride, evidence, tick, now, rho, fade, q, alpha, beta, mean, value, bins):
    """Bring means, values and the counts of means per bin up to date; return the sum of |value - q|.

    ``alpha`` and ``beta`` are the Beta parameters that they belong to: a prompt whose parameters stand where they stood
    costs no division, and that is all but those dealt, where nothing is forgotten.
    """
    error, ageing = 0.0, rho < 1.0
    for i in range(q.size):
        left = survival(now - tick[i], rho, fade) if ageing else 1.0
        a, b = a0[i * stride] + evidence[i, 0] * left, b0[i * stride] + evidence[i, 1] * left
        if a != alpha[i] or b != beta[i]:
            alpha[i], beta[i] = a, b
            bins[bin_of(mean[i], bins.size)] -= 1
            mean[i] = a / (a + b)
            bins[bin_of(mean[i], bins.size)] += 1
            value[i] = expected_variance(a, b)
        error += abs(value[i] - q[i])
    return error


@kernel
def first_bad_count(n, group_size, most):
    """Return the index of the first count that is no multiple of the group size in [0, most], or -1, and the sum."""
    total = 0
    for r in range(n.size):
        if n[r] < 0 or n[r] > most or n[r] % group_size != 0:
            return r, total
        total += n[r]
    return -1, total


@kernel
def block_gains(rows, q, z, share, block, shape, scaling, lam, seen_q, seen_z, known, out):
    """Write U(x + block) - U(x) of these rows, x = z / share; where value and exposure are those last seen, as known."""
    for r in range(rows.size):
        i = rows[r]
        if q[r] != seen_q[i] or z[r] != seen_z[i]:
            seen_q[i], seen_z[i] = q[r], z[r]
            height, rate = scale_of(scaling, lam, q[r])
            x = z[r] / share
            known[i] = u(shape, height, rate, x + block) - u(shape, height, rate, x)
        out[r] = known[i]
