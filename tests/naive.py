"""Slow and obvious twins: every kernel under its own name, then Algorithm 1 as the paper writes it.

Pure Python over floats and lists, one prompt at a time, no shared code with the package.
"""

import math
from decimal import Decimal, localcontext
from functools import cache

import numpy as np

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


def expected_variance(a, b):
    return a * b / ((a + b) * (a + b + 1))


class NaiveFenchelDual:
    """Algorithm 1, eager: every prompt's evidence is aged in every round, every ranking is a full sort."""

    def __init__(
        self, prior, *, forgetting, total_budget, n_rounds, group_size, max_rollouts, round_capacity, visits,
        shape, scaling, lam, initial_price, tie,
    ):  # fmt: skip
        self.M, self.K = len(prior), n_rounds
        self.g = group_size
        self.B, self.n_max = total_budget // group_size, max_rollouts // group_size
        self.E = [n_rounds] * self.M if visits is None else list(visits)
        reach = max(1, math.ceil(sum(self.E) / n_rounds * self.n_max))
        self.C = reach if round_capacity is None else min(reach, round_capacity // group_size)
        self.capped = round_capacity is not None
        self.R, self.Bbar = self.B / self.M, self.B / self.K
        self.GB = max(self.Bbar, self.C - self.Bbar)
        self.shape, self.scaling, self.lam, self.rho = shape, scaling, lam, forgetting
        self.prior = [tuple(ab) for ab in prior]
        self.ab = [list(ab) for ab in prior]
        self.theta = [min(1.0, 4 * expected_variance(*ab)) for ab in prior]
        self.nu, self.tie, self.left, self.round = initial_price, list(tie), self.B, 0
        self.open = None

    def close(self):
        if self.open is None:
            return
        virtual = self.open
        for i, n in virtual.items():
            height, rate = scale_of(self.scaling, self.lam, expected_variance(*self.ab[i]))
            box = self.E[i] * self.n_max
            z = self.R * demand(self.shape, height, rate, self.lam * self.theta[i], box / self.R)
            step = 1 / math.sqrt(self.E[i])
            self.theta[i] = min(1.0, max(0.0, self.theta[i] - step * (n - z / self.E[i]) / self.n_max))
        gap = self.Bbar - sum(virtual.values())
        self.nu = min(1.0, max(0.0, self.nu - gap / self.GB / math.sqrt(self.K)))
        self.open = None

    def allocate(self, offered, budget=None, exact=False):
        self.close()
        if self.round >= self.K or self.left == 0:
            return [0] * len(offered)
        cap = min(self.C, len(offered) * self.n_max) if self.capped else len(offered) * self.n_max
        if budget is not None:
            cap = min(cap, budget // self.g)
        ranked = sorted(offered, key=lambda i: (-self.theta[i], self.tie[i]))
        if not exact:
            ranked = [i for i in ranked if self.theta[i] > self.nu]
        virtual = dict.fromkeys(offered, 0)
        executed = dict.fromkeys(offered, 0)
        spendable = self.left
        for i in ranked:
            virtual[i] = min(self.n_max, cap)
            cap -= virtual[i]
            executed[i] = min(virtual[i], spendable)
            spendable -= executed[i]
        self.left = spendable
        self.open = virtual
        self.round += 1
        for i, (a0, b0) in enumerate(self.prior):
            a, b = self.ab[i]
            self.ab[i] = [a0 + self.rho * (a - a0), b0 + self.rho * (b - b0)]
        return [executed[i] * self.g for i in offered]

    def update(self, ids, successes, rollouts):
        for i, s, n in zip(ids, successes, rollouts, strict=True):
            self.ab[i][0] += float(s)
            self.ab[i][1] += float(n - s)


def random_algorithm_instance(rng):
    """Draw arguments for Algorithm 1: residual units, forgetting, groups, batches, exact rounds, every utility."""
    g, n_max = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    M, K = int(rng.integers(1, 13)), int(rng.integers(1, 31))
    batch = bool(rng.random() < 0.4)
    visits = rng.integers(1, K + 1, M) if batch else None
    offered = M if visits is None else visits.sum() / K
    reach = max(1, math.ceil(offered * n_max))
    C = int(rng.integers(1, reach + 1)) if rng.random() < 0.7 else None
    B = int(rng.integers(1, K * (C or reach) + 1))
    flat = rng.random() < 0.5
    prior = [(1.0, 1.0)] * M if flat else [tuple(ab) for ab in rng.uniform(0.2, 4, (M, 2))]
    return {
        "M": M, "prior": prior, "batch": batch, "rates": rng.beta(0.7, 0.7, M),
        "forgetting": float(rng.choice([1.0, 0.98, 0.7])), "total_budget": B * g, "n_rounds": K, "group_size": g,
        "max_rollouts": n_max * g, "round_capacity": None if C is None else C * g, "visits": visits,
        "shape": str(rng.choice(list(SHAPES))), "scaling": str(rng.choice(list(SCALINGS))),
        "lam": float(10 ** rng.uniform(-1.5, 1.5)), "initial_price": float(rng.choice([0.5, 0.0, rng.random()])),
        "seed": int(rng.integers(2**31)),
    }  # fmt: skip


def tie_ranks(M, seed):
    return np.random.default_rng(seed).permutation(M)


# ---------------------------------------------------------------- utility


def phi(shape, s):
    """The four shapes in 100 digits, for an exact (Decimal) argument."""
    with localcontext() as context:
        context.prec = 100
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


def utility_loop(shape, scaling, lam, q, x):
    return [u(shape, *scale_of(scaling, lam, qi), xi) for qi, xi in zip(q, x, strict=True)]


def marginal_loop(shape, scaling, lam, q, x):
    return [du(shape, *scale_of(scaling, lam, qi), xi) for qi, xi in zip(q, x, strict=True)]


def demand_loop(shape, scaling, lam, q, slope, upper):
    return [demand(shape, *scale_of(scaling, lam, qi), t, b) for qi, t, b in zip(q, slope, upper, strict=True)]


def conjugate_loop(shape, scaling, lam, q, slope, upper):
    return [conj(shape, *scale_of(scaling, lam, qi), t, b) for qi, t, b in zip(q, slope, upper, strict=True)]


# ---------------------------------------------------------------- posterior


def aged(evidence, elapsed, rho):
    for _ in range(elapsed):
        evidence *= rho
    return evidence


def posterior(full, rows, a0, b0, stride, succ, fail, tick, now, rho):
    chosen = range(len(succ)) if full else rows
    alpha = [a0[i if stride else 0] + aged(succ[i], now - tick[i], rho) for i in chosen]
    beta = [b0[i if stride else 0] + aged(fail[i], now - tick[i], rho) for i in chosen]
    return alpha, beta


def values(full, rows, a0, b0, stride, succ, fail, tick, now, rho):
    alpha, beta = posterior(full, rows, a0, b0, stride, succ, fail, tick, now, rho)
    return [expected_variance(a, b) for a, b in zip(alpha, beta, strict=True)]


def observe(rows, successes, rollouts, succ, fail, tick, now, rho):
    succ, fail, tick = list(succ), list(fail), list(tick)
    for i, s, n in zip(rows, successes, rollouts, strict=True):
        succ[i] = aged(succ[i], now - tick[i], rho) + s
        fail[i] = aged(fail[i], now - tick[i], rho) + (n - s)
        tick[i] = now
    return succ, fail, tick


def first_bad_feedback(successes, rollouts):
    for i, (s, n) in enumerate(zip(successes, rollouts, strict=True)):
        kind = 1 if n < 0 else 2 if not math.isfinite(s) or s < 0 else 3 if s > n else 0
        if kind:
            return i, kind
    return -1, 0


def strictly_increasing(rows):
    return list(rows) == sorted(set(rows))


# ---------------------------------------------------------------- one round of Algorithm 1


def ahead(i, j, key, tie):
    return (-key[i], tie[i]) < (-key[j], tie[j])


def select(key, tie, order, size, k):
    return sorted(order[:size], key=lambda i: (-key[i], tie[i]))[:k]


def rank(key, tie, threshold, k):
    eligible = [i for i in range(len(key)) if key[i] > threshold]
    return select(key, tie, eligible, len(eligible), k)


def deal(order, k, units, n_max, size):
    out = [0] * size
    for i in order[:k]:
        out[i] = min(n_max, units - sum(out))
    return sum(out), out


def propose(key, tie, threshold, n_max, cap, budget):
    order = rank(key, tie, threshold, len(key))
    proposed, proposal = deal(order, len(order), cap, n_max, len(key))
    counts = [0] * len(key)
    for i in order:
        counts[i] = min(proposal[i], budget - sum(counts))
    return proposed, sum(counts), proposal, counts


def step_slopes(theta, q, proposal, visits, stride, n_max, share, gamma, shape, scaling, lam):
    moved = []
    for i, slope in enumerate(theta):
        e = visits[i if stride else 0]
        z = share * demand(shape, *scale_of(scaling, lam, q[i]), lam * slope, e * n_max / share)
        step = gamma or 1 / math.sqrt(e)
        moved.append(min(1.0, max(0.0, slope - step * (proposal[i] - z / e) / n_max)))
    return moved


# ---------------------------------------------------------------- offline oracle


def bounded_demand(price, q, lower, upper, share, shape, scaling, lam):
    height, rate = scale_of(scaling, lam, q)
    return max(lower, demand(shape, height, rate / share, price, upper))


def total_demand(price, q, lower, upper, share, shape, scaling, lam):
    z = [bounded_demand(price, *qlu, share, shape, scaling, lam) for qlu in zip(q, lower, upper, strict=True)]
    pull = 0.0
    for qi, low, zi, high in zip(q, lower, z, upper, strict=True):
        if low < zi < high:
            height, rate = scale_of(scaling, lam, qi)
            pull += demand_pull(shape, height, rate / share, price)
    return math.fsum(z), pull


def clear_price(budget, q, lower, upper, share, shape, scaling, lam, top):
    """Bisection until no price lies between."""
    lo, hi = 0.0, top
    while lo < (lo + hi) / 2 < hi:
        price = (lo + hi) / 2
        demands = [bounded_demand(price, *qlu, share, shape, scaling, lam) for qlu in zip(q, lower, upper, strict=True)]
        lo, hi = (price, hi) if math.fsum(demands) >= budget else (lo, price)
    return lo, hi


def blend(lo, hi, budget, q, lower, upper, share, shape, scaling, lam):
    """Bisection for the weight."""
    boxes = list(zip(q, lower, upper, strict=True))
    small, large = ([bounded_demand(price, *qlu, share, shape, scaling, lam) for qlu in boxes] for price in (hi, lo))
    mixed = lambda w: [s + w * (b - s) for s, b in zip(small, large, strict=True)]  # noqa: E731
    low, high = (0.0, 1.0) if math.fsum(large) > budget else (1.0, 1.0)
    while low < (low + high) / 2 < high:
        weight = (low + high) / 2
        low, high = (weight, high) if math.fsum(mixed(weight)) <= budget else (low, weight)
    return high, mixed(high)


def certify(price, z, budget, q, lower, upper, share, shape, scaling, lam, integer):
    value, dual = 0.0, price * budget
    for zi, qi, low, high in zip(z, q, lower, upper, strict=True):
        height, rate = scale_of(scaling, lam, qi)
        continuous = [bounded_demand(price, qi, low, high, share, shape, scaling, lam)]
        candidates = range(int(low), int(high) + 1) if integer else continuous
        value += u(shape, height, rate, zi / share)
        dual += max(u(shape, height, rate, n / share) - price * n for n in candidates)
    return value, math.inf if sum(z) > budget * (1 + 1e-9) else dual - value


def wanted_units(price, q, lower, upper, share, shape, scaling, lam):
    height, rate = scale_of(scaling, lam, q)
    n = int(lower)
    while n < upper and unit_gain(shape, height, rate / share, n) >= price:
        n += 1
    return n


def wants_more(price, budget, q, lower, upper, share, shape, scaling, lam):
    return (
        sum(wanted_units(price, *prompt, share, shape, scaling, lam) for prompt in zip(q, lower, upper, strict=True))
        >= budget
    )


def clear_units(budget, q, lower, upper, share, shape, scaling, lam, top):
    """Sort every unit on offer by its gain, then by prompt, and buy from the front."""
    offers = []
    for i, (qi, low, high) in enumerate(zip(q, lower, upper, strict=True)):
        height, rate = scale_of(scaling, lam, qi)
        gains = [unit_gain(shape, height, rate / share, n) for n in range(int(low), int(high))]
        offers += [(-gain, i) for gain in gains if gain > 0]
    counts = [int(low) for low in lower]
    bought = sorted(offers)[: budget - sum(counts)]
    for _, i in bought:
        counts[i] += 1
    price = 0.0 if len(bought) == len(offers) else -bought[-1][0] if bought else top
    return price, counts


def integer_dp(q, budget, lower, upper, share, shape, scaling, lam):
    """Largest sum of utilities over whole units, by dynamic programming over prompts and spending."""
    best = [0.0] * (budget + 1)
    for qi, low, high in zip(q, lower, upper, strict=True):
        height, rate = scale_of(scaling, lam, qi)
        worth = {n: u(shape, height, rate, n / share) for n in range(int(low), int(high) + 1)}
        best = [
            max((best[b - n] + w for n, w in worth.items() if n <= b), default=-math.inf) for b in range(budget + 1)
        ]
    return best[budget]


def path_dual(price, q_path, n_max, share, shape, scaling, lam):
    total, bought = 0.0, 0
    for rates in q_path:
        scales = [scale_of(scaling, lam, q) for q in rates]

        @cache
        def best(k, z, scales=tuple(scales)):
            if k == len(scales):
                return 0.0, 0
            plans = []
            for n in range(n_max + 1):
                later, units = best(k + 1, z + n)
                gain = u(shape, *scales[k], (z + n) / share) - u(shape, *scales[k], z / share)
                plans.append((gain - price * n + later, -(n + units)))
            worth, units = max(plans)
            return worth, -units

        worth, units = best(0, 0)
        total, bought = total + worth, bought + units
    return total, bought
