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

from math import exp, expm1, floor, log, log1p, sqrt

import numpy as np
from numba import njit


def kernel(function):
    """Compile lazily, cached on disk where any cache folder is writable."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # read-only install and home: numba finds no place for its cache
        return njit(**options)(function)


# ---------------------------------------------------------------- utility: U(x) = height * phi(rate * x)

EXPONENTIAL, HYPERBOLIC, LOG, CAPPED_LINEAR = 0, 1, 2, 3
RATE, HEIGHT = 0, 1


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
        return height * log1p(s)
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
    else:
        s = excess
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

# ``a0`` and ``b0`` have one entry for a shared prior (stride 0) or one per prompt (stride 1). ``full`` reads the whole
# pool and ignores ``rows``, so that a full-pool pass needs no index array of its own.


@kernel
def aged(evidence, elapsed, rho):
    """Evidence after ``elapsed`` ticks of forgetting."""
    if elapsed == 0 or rho == 1.0:
        return evidence
    return evidence * rho ** float(elapsed)


@kernel
def expected_variance(a, b):
    """E[p (1 - p)] = a b / ((a + b)(a + b + 1)) under Beta(a, b), as factors in [0, 1] that cannot overflow."""
    s = a + b
    return ((a / s) * (b / s)) * (s / (s + 1.0))


@kernel
def posterior(full, rows, a0, b0, stride, succ, fail, tick, now, rho, alpha, beta):
    """Write Beta parameters, aged to ``now``."""
    for r in range(alpha.size):
        i = r if full else rows[r]
        alpha[r] = a0[i * stride] + aged(succ[i], now - tick[i], rho)
        beta[r] = b0[i * stride] + aged(fail[i], now - tick[i], rho)


@kernel
def values(full, rows, a0, b0, stride, succ, fail, tick, now, rho, out):
    """Write posterior expected variances, aged to ``now``."""
    for r in range(out.size):
        i = r if full else rows[r]
        a = a0[i * stride] + aged(succ[i], now - tick[i], rho)
        b = b0[i * stride] + aged(fail[i], now - tick[i], rho)
        out[r] = expected_variance(a, b)


@kernel
def observe(rows, successes, rollouts, succ, fail, tick, now, rho):
    """Age the named rows to ``now``, then add the evidence."""
    for r in range(rows.size):
        i = rows[r]
        succ[i] = aged(succ[i], now - tick[i], rho) + successes[r]
        fail[i] = aged(fail[i], now - tick[i], rho) + (rollouts[r] - successes[r])
        tick[i] = now


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
def strictly_increasing(rows):
    """Tell whether rows ascend strictly, the cheap certificate that none repeats."""
    for r in range(1, rows.size):  # noqa: SIM110 (numba compiles loops, not generators)
        if rows[r] <= rows[r - 1]:
            return False
    return True


# ---------------------------------------------------------------- one round of Algorithm 1


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
    """Put the k first positions with key > threshold into order[:k], the k-th last; return how many there are."""
    size = np.int64(0)  # typed, or numba compiles a second select for the literal
    for r in range(key.size):
        if key[r] > threshold:
            order[size] = r
            size += 1
    k = min(k, size)
    if k > 0:
        select(key, tie, order, size, k)
    return k


@kernel
def deal(order, k, units, n_max, out):
    """Give n_max units to each of order[:k] while ``units`` last, the residual to the last; return what was dealt."""
    out[:] = 0
    left = units
    for j in range(k):
        n = min(n_max, left)
        out[order[j]] = n
        left -= n
    return units - left


@kernel
def propose(key, tie, threshold, n_max, cap, budget, order, proposal, counts):
    """Write the virtual proposal and the executed counts; return their totals.

    The proposal maximises sum (key - threshold) n over 0 <= n <= n_max, sum n <= cap. The executed counts are the same
    ranking clipped so that the total stays within ``budget``.
    """
    k = rank(key, tie, threshold, (cap + n_max - 1) // n_max, order)
    proposed = deal(order, k, cap, n_max, proposal)
    if proposed <= budget:
        counts[:] = proposal
        return proposed, proposed
    k_paid = (budget + n_max - 1) // n_max
    if k_paid > 0:
        select(key, tie, order, k, k_paid)
    return proposed, deal(order, k_paid, budget, n_max, counts)


@kernel
def step_slopes(theta, q, proposal, visits, stride, n_max, share, gamma, shape, scaling, lam):
    """One projected step of the normalised slopes towards the demand per visit; gamma = 0 means 1 / sqrt(visits)."""
    for r in range(theta.size):
        e = visits[r * stride]
        step = gamma if gamma > 0.0 else 1.0 / sqrt(e)
        height, rate = scale_of(scaling, lam, q[r])
        z = share * demand(shape, height, rate, lam * theta[r], e * n_max / share)
        theta[r] = min(1.0, max(0.0, theta[r] - step * (proposal[r] - z / e) / n_max))


# ---------------------------------------------------------------- offline oracle (shares no code with the round above)


@kernel
def bounded_demand(price, q, lower, upper, share, shape, scaling, lam):
    """Units that a prompt takes at ``price`` per unit within [lower, upper]."""
    height, rate = scale_of(scaling, lam, q)
    return max(lower, share * demand(shape, height, rate, price * share, upper / share))


@kernel
def total_demand(price, q, lower, upper, share, shape, scaling, lam):
    """Sum of the demands (compensated) and of their pulls, minus the derivative by log(price)."""
    total, lost, pull = 0.0, 0.0, 0.0
    for i in range(q.size):
        z = bounded_demand(price, q[i], lower[i], upper[i], share, shape, scaling, lam)
        if lower[i] < z < upper[i]:
            height, rate = scale_of(scaling, lam, q[i])
            pull += share * demand_pull(shape, height, rate, price * share)
        step = z - lost
        fresh = total + step
        lost = (fresh - total) - step
        total = fresh
    return total, pull


@kernel
def clear_price(budget, q, lower, upper, share, shape, scaling, lam, guess, top, tolerance, max_passes):
    """Bracket the price at which total demand meets the budget: safeguarded Newton in log(price).

    Expects demand > budget at price 0+ and demand <= budget at ``top``. Returns (lo, hi, passes, closed): demand(lo) >=
    budget >= demand(hi), and closed tells that (hi - lo)(demand(lo) - demand(hi)), which bounds the duality gap of any
    point between the two, is within ``tolerance`` of price * budget, or that no float lies between.
    """
    lo, hi = 5e-324, top
    over, _ = total_demand(lo, q, lower, upper, share, shape, scaling, lam)
    under, _ = total_demand(hi, q, lower, upper, share, shape, scaling, lam)
    price = guess
    for passes in range(3, max_passes + 3):
        if not lo < price < hi:
            price = sqrt(lo) * sqrt(hi)
            if not lo < price < hi:
                return lo, hi, passes, True
        total, pull = total_demand(price, q, lower, upper, share, shape, scaling, lam)
        if total >= budget:
            lo, over = price, total
        else:
            hi, under = price, total
        if (hi - lo) * (over - under) <= tolerance * lo * budget:
            return lo, hi, passes, True
        if pull > 0.0 and (passes < 20 or passes % 2 == 0):
            step = (total - budget) / pull
            # Aim a little beyond the root, so that the bracket closes from both sides.
            step += 1e-3 * step + (4e-16 if step >= 0.0 else -4e-16)
            price *= exp(min(max(step, -700.0), 700.0))
        else:
            price = sqrt(lo) * sqrt(hi)
    return lo, hi, max_passes, False


@kernel
def blend(lo, hi, budget, q, lower, upper, share, shape, scaling, lam, out):
    """Mix the demands at two bracketing prices so that they sum to the budget."""
    over, _ = total_demand(lo, q, lower, upper, share, shape, scaling, lam)
    under, _ = total_demand(hi, q, lower, upper, share, shape, scaling, lam)
    weight = min(1.0, max(0.0, (budget - under) / (over - under))) if over > under else 1.0
    for i in range(q.size):
        small = bounded_demand(hi, q[i], lower[i], upper[i], share, shape, scaling, lam)
        large = bounded_demand(lo, q[i], lower[i], upper[i], share, shape, scaling, lam)
        out[i] = small + weight * (large - small)
    return weight


@kernel
def certify(price, z, budget, q, lower, upper, share, shape, scaling, lam, integer):
    """Return the achieved utility and the duality gap.

    The gap is sum_i [h_i(price) - (U_i - price z_i)] + price (budget - sum z), every term >= 0 but for rounding; it is
    infinite for an allocation over budget, which certifies nothing.
    """
    value, spent, gap = 0.0, 0.0, 0.0
    for i in range(q.size):
        height, rate = scale_of(scaling, lam, q[i])
        if integer:
            best = float(wanted_units(price, q[i], lower[i], upper[i], share, shape, scaling, lam))
        else:
            best = bounded_demand(price, q[i], lower[i], upper[i], share, shape, scaling, lam)
        reached = u(shape, height, rate, z[i] / share)
        gap += max(0.0, (u(shape, height, rate, best / share) - reached) - price * (best - z[i]))
        value += reached
        spent += z[i]
    if spent > budget * (1.0 + 1e-9):
        return value, np.inf
    return value, gap + price * max(0.0, budget - spent)


@kernel
def wanted_units(price, q, lower, upper, share, shape, scaling, lam):
    """Largest n in [lower, upper] whose last unit gains at least ``price``, or ``lower``."""
    height, rate = scale_of(scaling, lam, q)
    rate /= share
    low, high = np.int64(lower), np.int64(upper)
    if low >= high or unit_gain(shape, height, rate, float(low)) < price:
        return low
    if unit_gain(shape, height, rate, float(high - 1)) >= price:
        return high
    low += 1  # from here: the low-th unit is wanted, the high-th is not
    near = np.int64(floor(share * demand(shape, height, rate * share, price * share, upper / share)))
    for probe in (near + 1, near, near + 2):  # U'(n) <= gain of unit n <= U'(n - 1) leaves only these, but for rounding
        if low < probe < high:
            if unit_gain(shape, height, rate, float(probe - 1)) >= price:
                low = probe
            else:
                high = probe
    while high - low > 1:
        middle = (low + high) // 2
        if unit_gain(shape, height, rate, float(middle - 1)) >= price:
            low = middle
        else:
            high = middle
    return low


@kernel
def wants_more(price, budget, q, lower, upper, share, shape, scaling, lam):
    """Tell whether the wanted units reach the budget."""
    left = budget
    for i in range(q.size):
        left -= wanted_units(price, q[i], lower[i], upper[i], share, shape, scaling, lam)
        if left <= 0:
            return True
    return False


@kernel
def clear_units(budget, q, lower, upper, share, shape, scaling, lam, top, out):
    """Solve the integer problem by a threshold on the unit gains; ties go to the lowest index. Return the price.

    ``top`` must exceed every unit gain. Where the budget covers every unit that gains anything, the price is 0.
    """
    lo, hi = 5e-324, top
    if not wants_more(lo, budget + 1, q, lower, upper, share, shape, scaling, lam):
        for i in range(q.size):
            out[i] = wanted_units(lo, q[i], lower[i], upper[i], share, shape, scaling, lam)
        return 0.0
    while True:
        price = sqrt(lo) * sqrt(hi)
        if not lo < price < hi:
            break
        if wants_more(price, budget, q, lower, upper, share, shape, scaling, lam):
            lo = price
        else:
            hi = price
    left = budget
    for i in range(q.size):
        out[i] = wanted_units(hi, q[i], lower[i], upper[i], share, shape, scaling, lam)
        left -= out[i]
    for i in range(q.size):
        if left <= 0:
            break
        extra = wanted_units(lo, q[i], lower[i], upper[i], share, shape, scaling, lam) - out[i]
        extra = min(extra, left)
        out[i] += extra
        left -= extra
    return lo


@kernel
def path_dual(price, q_path, n_max, share, shape, scaling, lam, worth, spent, line):
    """Price the drifting problem: each prompt's best plan by dynamic programming over (round, exposure).

    q_path has shape (n_prompts, n_rounds); ``worth``, ``spent`` and ``line`` are scratch of n_rounds * n_max + n_max +
    1 entries. A unit bought in round k at exposure z gains U_k(z + 1) - U_k(z) at that round's rate. Returns the sum of
    the optimal priced values and the units bought.
    """
    total, bought = 0.0, 0.0
    n_prompts, n_rounds = q_path.shape
    for i in range(n_prompts):
        worth[:] = 0.0
        spent[:] = 0.0
        for k in range(n_rounds - 1, -1, -1):
            height, rate = scale_of(scaling, lam, q_path[i, k])
            for z in range((k + 1) * n_max + 1):
                line[z] = u(shape, height, rate, z / share)
            for z in range(k * n_max + 1):  # ascending: worth[z + n] is still that of round k + 1
                best, best_spent = worth[z], spent[z]
                for n in range(1, n_max + 1):
                    candidate = line[z + n] - line[z] - price * n + worth[z + n]
                    if candidate > best:
                        best, best_spent = candidate, spent[z + n] + n
                worth[z], spent[z] = best, best_spent
        total += worth[0]
        bought += spent[0]
    return total, bought
