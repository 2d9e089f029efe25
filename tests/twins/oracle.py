"""Slow and obvious twins of the offline oracle."""

import math

import numpy as np

from .objective import CAPPED_LINEAR, EXPONENTIAL, HYPERBOLIC, demand, demand_pull, du, scale_of, u, unit_gain


def clip(z, least, most):
    return sorted((least, z, most))[1]


def abscissa(shape, reference, price):
    if shape == CAPPED_LINEAR:
        return -price
    return [math.log(reference / price), math.sqrt(reference / price), reference / price][shape]


def price_at(shape, reference, t):
    if shape == CAPPED_LINEAR:
        return -t
    if shape == EXPONENTIAL:
        return reference * math.exp(-t)
    return reference / t**2 if shape == HYPERBOLIC else reference / t


def steepest(q, share, codes):
    _, scaling, lam = codes
    return max(math.prod(scale_of(scaling, lam, qi)) / fair for qi, fair in zip(q, share, strict=True))


def demand_lines(reference, q, share, codes):
    """The line through two unbounded demands; for the straight shape the kink in the conjugate."""
    shape, scaling, lam = codes
    lines = []
    for qi, fair in zip(q, share, strict=True):
        height, rate = scale_of(scaling, lam, qi)
        rate, top = rate / fair, height * rate / fair
        if top == 0 or shape == CAPPED_LINEAR:
            lines.append((top, 1 / rate) if top else (-math.inf, 0.0))
            continue
        prices = reference / 4, reference
        t = [abscissa(shape, reference, price) for price in prices]
        ratios = [top / price for price in prices]
        z = [[math.log(x), math.sqrt(x) - 1, x - 1][shape] / rate for x in ratios]
        slope = (z[0] - z[1]) / (t[0] - t[1])
        lines.append((z[1] - slope * t[1], slope))
    return lines


def on_line(shape, shift, slope, t):
    return slope * (shift > -t) if shape == CAPPED_LINEAR else shift + slope * t


def total_steps(t, lines):
    return math.fsum(clip(w * (s > -t), *box) for s, w, *box in zip(*lines, strict=True))


def clear_steps(need, lines):
    """Down the list of tops until the steps meet the need: the price."""
    steps = [(s, clip(w, *box) - box[0]) for s, w, *box in zip(*lines, strict=True)]
    for top, step in sorted(steps, reverse=True):
        need -= step
        if need <= 0:
            return top
    return 0.0


def clear_curves(budget, lines, shape, lo, hi):
    """Bisection until no float lies between."""
    lines = list(zip(*lines, strict=True))
    while lo < (lo + hi) / 2 < hi:
        t = (lo + hi) / 2
        total = math.fsum(clip(on_line(shape, *line[:2], t), *line[2:]) for line in lines)
        lo, hi = (t, hi) if total < budget else (lo, t)
    return lo, hi


def worth(shape, height, rate, x):
    return u(shape, height, rate, x), du(shape, height, rate, x)


def kth_largest(x, size, k):
    return sorted(x[:size])[-k]


def count_wanted(price, problem, codes):
    return [wanted_units(price, *p, codes) for p in zip(*problem, strict=True)]


def bounded_demand(price, q, lower, upper, share, codes):
    shape, scaling, lam = codes
    height, rate = scale_of(scaling, lam, q)
    return max(lower, demand(shape, height, rate / share, price, upper))


def total_demand(price, problem, codes):
    shape, scaling, lam = codes
    prompts = list(zip(*problem, strict=True))
    z = [bounded_demand(price, *prompt, codes) for prompt in prompts]
    pull = 0.0
    for (qi, low, high, fair), zi in zip(prompts, z, strict=True):
        if low < zi < high:
            height, rate = scale_of(scaling, lam, qi)
            pull += demand_pull(shape, height, rate / fair, price)
    return math.fsum(z), pull


def clear_price(budget, problem, codes, top):
    """Bisection until no price lies between."""
    lo, hi = 0.0, top
    prompts = list(zip(*problem, strict=True))
    while lo < (lo + hi) / 2 < hi:
        price = (lo + hi) / 2
        demands = [bounded_demand(price, *prompt, codes) for prompt in prompts]
        lo, hi = (price, hi) if math.fsum(demands) >= budget else (lo, price)
    return lo, hi


def blend(lo, hi, budget, problem, codes):
    """Bisection for the weight."""
    prompts = list(zip(*problem, strict=True))
    small, large = ([bounded_demand(price, *prompt, codes) for prompt in prompts] for price in (hi, lo))
    mixed = lambda w: [s + w * (b - s) for s, b in zip(small, large, strict=True)]  # noqa: E731
    low, high = (0.0, 1.0) if math.fsum(large) > budget else (1.0, 1.0)
    while low < (low + high) / 2 < high:
        weight = (low + high) / 2
        low, high = (weight, high) if math.fsum(mixed(weight)) <= budget else (low, weight)
    return high, mixed(high)


def certify(price, z, budget, problem, codes, integer):
    shape, scaling, lam = codes
    value, dual = 0.0, price * budget
    for zi, qi, low, high, fair in zip(z, *problem, strict=True):
        height, rate = scale_of(scaling, lam, qi)
        continuous = [bounded_demand(price, qi, low, high, fair, codes)]
        candidates = range(int(low), int(high) + 1) if integer else continuous
        value += u(shape, height, rate, zi / fair)
        dual += max(u(shape, height, rate, n / fair) - price * n for n in candidates)
    return value, math.inf if sum(z) > budget * (1 + 1e-9) else dual - value


def wanted_units(price, q, lower, upper, share, codes):
    shape, scaling, lam = codes
    height, rate = scale_of(scaling, lam, q)
    n = int(lower)
    while n < upper and unit_gain(shape, height, rate / share, n) >= price:
        n += 1
    return n


def clear_units(budget, problem, codes, top):
    """Sort every unit on offer by its gain, then by prompt, and buy from the front."""
    shape, scaling, lam = codes
    offers = []
    for i, (qi, low, high, fair) in enumerate(zip(*problem, strict=True)):
        height, rate = scale_of(scaling, lam, qi)
        gains = [unit_gain(shape, height, rate / fair, n) for n in range(int(low), int(high))]
        offers += [(-gain, i) for gain in gains if gain > 0]
    counts = [int(low) for low in problem[1]]
    bought = sorted(offers)[: budget - sum(counts)]
    for _, i in bought:
        counts[i] += 1
    price = 0.0 if len(bought) == len(offers) else -bought[-1][0] if bought else top
    return price, counts


def integer_dp(q, budget, lower, upper, share, shape, scaling, lam):
    """Largest sum of utilities over whole units, by dynamic programming over prompts and spending."""
    best = [0.0] * (budget + 1)
    for qi, low, high, fair in zip(q, lower, upper, np.broadcast_to(share, len(q)), strict=True):
        height, rate = scale_of(scaling, lam, qi)
        worth = {n: u(shape, height, rate, n / fair) for n in range(int(low), int(high) + 1)}
        best = [
            max((best[b - n] + w for n, w in worth.items() if n <= b), default=-math.inf) for b in range(budget + 1)
        ]
    return best[budget]
