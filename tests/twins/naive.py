"""Slow and obvious twins: every kernel under its own name, then Algorithm 1 as the paper writes it.

Pure Python over floats and lists, one prompt at a time, no shared code with the package.
"""

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from itertools import product

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


def calibrate(value, successes, rollouts, top, fade, bins, tally):
    """All groups at once: every weight is the fading to the power of the groups that came after."""
    groups = [(q, s, n) for q, s, n in zip(value, successes, rollouts, strict=True) if n >= 2]
    bins, tally = [list(row) for row in bins], [x * fade ** len(groups) for x in tally]
    tally[2] *= fade ** len(groups)
    tally[0] /= fade ** len(groups)
    for later, (q, s, n) in zip(range(len(groups) - 1, -1, -1), groups, strict=True):
        seen = s * (n - s) / (n * (n - 1))
        place = min(int(q / top * len(bins[0])), len(bins[0]) - 1)
        for row, x in zip(bins, (1, q, seen, (q - seen) ** 2), strict=True):
            row[place] += x
        tally[0] += 0 < s < n
        for k, x in ((1, 1), (3, q - seen), (4, (q - seen) ** 2)):
            tally[k] += x * fade**later
        tally[2] += fade ** (2 * later)
    return bins, tally


class NaiveFenchelDual:
    """Algorithm 1, eager: every prompt's evidence is aged in every round, every ranking is a full sort."""

    def __init__(
        self, prior, *, forgetting, total_budget, n_rounds, unit_size, max_rollouts, round_capacity, visits,
        shape, scaling, lam, initial_price, tie,
    ):  # fmt: skip
        self.M, self.K = len(prior), n_rounds
        self.g = unit_size
        self.B, self.max_units = total_budget // unit_size, max_rollouts // unit_size
        self.E = [n_rounds] * self.M if visits is None else list(visits)
        reach = max(1, math.ceil(sum(self.E) / n_rounds * self.max_units))
        self.C = reach if round_capacity is None else min(reach, round_capacity // unit_size)
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
            box = self.E[i] * self.max_units
            z = self.R * demand(self.shape, height, rate, self.lam * self.theta[i], box / self.R)
            step = 1 / math.sqrt(self.E[i])
            self.theta[i] = min(1.0, max(0.0, self.theta[i] - step * (n - z / self.E[i]) / self.max_units))
        gap = self.Bbar - sum(virtual.values())
        self.nu = min(1.0, max(0.0, self.nu - gap / self.GB / math.sqrt(self.K)))
        self.open = None

    def allocate(self, offered, budget=None, exact=False):
        self.close()
        if self.round >= self.K or self.left == 0:
            return [0] * len(offered)
        cap = min(self.C, len(offered) * self.max_units) if self.capped else len(offered) * self.max_units
        if budget is not None:
            cap = min(cap, budget // self.g)
        ranked = sorted(offered, key=lambda i: (-self.theta[i], self.tie[i]))
        if not exact:
            ranked = [i for i in ranked if self.theta[i] > self.nu]
        virtual = dict.fromkeys(offered, 0)
        executed = dict.fromkeys(offered, 0)
        spendable = self.left
        for i in ranked:
            virtual[i] = min(self.max_units, cap)
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
    g, max_units = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    M, K = int(rng.integers(1, 13)), int(rng.integers(1, 31))
    batch = bool(rng.random() < 0.4)
    visits = rng.integers(1, K + 1, M) if batch else None
    offered = M if visits is None else visits.sum() / K
    reach = max(1, math.ceil(offered * max_units))
    C = int(rng.integers(1, reach + 1)) if rng.random() < 0.7 else None
    B = int(rng.integers(1, K * (C or reach) + 1))
    flat = rng.random() < 0.5
    prior = [(1.0, 1.0)] * M if flat else [tuple(ab) for ab in rng.uniform(0.2, 4, (M, 2))]
    return {
        "M": M, "prior": prior, "batch": batch, "rates": rng.beta(0.7, 0.7, M),
        "forgetting": float(rng.choice([1.0, 0.98, 0.7])), "total_budget": B * g, "n_rounds": K, "unit_size": g,
        "max_rollouts": max_units * g, "round_capacity": None if C is None else C * g, "visits": visits,
        "shape": str(rng.choice(list(SHAPES))), "scaling": str(rng.choice(list(SCALINGS))),
        "lam": float(10 ** rng.uniform(-1.5, 1.5)), "initial_price": float(rng.choice([0.5, 0.0, rng.random()])),
        "seed": int(rng.integers(2**31)),
    }  # fmt: skip


def tie_ranks(M, seed):
    return np.random.default_rng(seed).permutation(M)


# ---------------------------------------------------------------- utility


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


# ---------------------------------------------------------------- posterior


def powers(rho, size):
    return [survival(k, rho) for k in range(size)]


def survival(elapsed, rho):
    left = 1.0
    for _ in range(elapsed):
        left *= rho
    return left


def posterior(full, rows, evidence):
    a0, b0, stride, outcomes, ticks, now, rho, _ = evidence
    chosen = range(len(outcomes)) if full else rows
    alpha = [a0[i if stride else 0] + outcomes[i][0] * survival(now - ticks[i], rho) for i in chosen]
    beta = [b0[i if stride else 0] + outcomes[i][1] * survival(now - ticks[i], rho) for i in chosen]
    return alpha, beta


def stretch(evidence, start, stop):
    a0, b0, stride, outcomes, ticks, *clock = evidence
    prior = [side[start:stop] if stride else side for side in (a0, b0)]
    return (*prior, stride, outcomes[start:stop], ticks[start:stop], *clock)


def values(full, rows, evidence):
    alpha, beta = posterior(full, rows, evidence)
    return [expected_variance(a, b) for a, b in zip(alpha, beta, strict=True)]


def observe(rows, successes, rollouts, evidence):
    _, _, _, outcomes, ticks, now, rho, _ = evidence
    outcomes, ticks = [list(pair) for pair in outcomes.tolist()], list(ticks)
    for i, s, n in zip(rows, successes, rollouts, strict=True):
        left = survival(now - ticks[i], rho)
        outcomes[i] = [outcomes[i][0] * left + s, outcomes[i][1] * left + (n - s)]
        ticks[i] = now if rho < 1 else ticks[i]
    return outcomes, ticks


def first_bad_feedback(successes, rollouts):
    for i, (s, n) in enumerate(zip(successes, rollouts, strict=True)):
        kind = 1 if n < 0 else 2 if not math.isfinite(s) or s < 0 else 3 if s > n else 0
        if kind:
            return i, kind
    return -1, 0


def enter(row, seen):
    new = row not in seen
    seen.add(row)
    return new


def first_bad_row(rows, n_prompts):
    for r, row in enumerate(rows):
        if not 0 <= row < n_prompts:
            return r, 1
    for r, row in enumerate(rows):
        if row in rows[:r]:
            return r, 2
    return -1, 0


def strictly_increasing(rows):
    return list(rows) == sorted(set(rows))


# ---------------------------------------------------------------- accounts


def lend(rows, units, g, accounts):
    accounts = [list(account) for account in accounts]
    for row, n in zip(rows, units, strict=True):
        accounts[row][0] += n
        accounts[row][1] += n * g
    return accounts  # the kernel returns the sum of the units


def count_offers(rows, accounts):
    return [[dealt, out, offers + list(rows).count(row)] for row, (dealt, out, offers) in enumerate(accounts)]


def settle(rows, rollouts, accounts):
    accounts = [list(account) for account in accounts]
    for row, n in zip(rows, rollouts, strict=True):
        accounts[row][1] = max(accounts[row][1] - n, 0)
    return accounts  # the kernel returns by how much less is outstanding


# ---------------------------------------------------------------- one round of Algorithm 1


def look_up(rows, theta, tie):
    return [theta[row] for row in rows], [tie[row] for row in rows]


def ahead(i, j, key, tie):
    return (-key[i], tie[i]) < (-key[j], tie[j])


def select(key, tie, order, size, k):
    return sorted(order[:size], key=lambda i: (-key[i], tie[i]))[:k]


def rank(key, tie, threshold, k):
    eligible = [i for i in range(len(key)) if key[i] > threshold]
    return select(key, tie, eligible, len(eligible), k)


def deal(order, k, units, max_units, size):
    out = [0] * size
    for i in order[:k]:
        out[i] = min(max_units, units - sum(out))
    return sum(out), out


def propose(key, tie, threshold, max_units, cap, budget):
    order = rank(key, tie, threshold, len(key))
    proposed, proposal = deal(order, len(order), cap, max_units, len(key))
    counts = [0] * len(key)
    for i in order:
        counts[i] = min(proposal[i], budget - sum(counts))
    return proposed, sum(counts), proposal, counts


def step_slopes(theta, q, proposal, offers, plan, codes):
    (start, start_stride, visits, stride), (max_units, share, gamma), (shape, scaling, lam) = offers, plan, codes
    moved = []
    for i, slope in enumerate(theta):
        e, x = visits[i if stride else 0], start[i if start_stride else 0] / share
        z = share * max(0.0, demand(shape, *scale_of(scaling, lam, q[i]), lam * slope, x + e * max_units / share) - x)
        step = gamma or 1 / math.sqrt(e)
        moved.append(min(1.0, max(0.0, slope - step * (proposal[i] - z / e) / max_units)))
    return moved


def log_ratio(top, bottom):
    with localcontext(prec=60):
        return float((Decimal(float(top)) / Decimal(float(bottom))).ln())


def step_slope(theta, q, dealt, step, upper, per_visit, max_units, scaling, lam):
    height, rate = scale_of(scaling, lam, q)
    top, slope = height * rate, lam * theta
    x = 0.0 if slope >= top else upper if slope == 0 else min(upper, log_ratio(top, slope) / rate)
    return min(1.0, max(0.0, theta - step * (dealt - per_visit * x) / max_units))


def step_pool(theta, evidence, offers, plan, codes, first, places, units):
    q = values(True, None, evidence)
    dealt = [0] * len(theta)
    for place, n in zip(places, units, strict=True):
        if first <= place < first + len(theta):
            dealt[place - first] = n
    return step_slopes(theta, q, dealt, offers, plan, codes)


# ---------------------------------------------------------------- what the rest of the run wants


def remaining_demand(price, problem, share, codes):
    """Bisection for the exposure at which the marginal falls to the price."""
    (q, z, room, cost), (shape, scaling, lam) = problem, codes
    total, pull = 0.0, 0.0
    for i, (qi, zi, most) in enumerate(zip(q, z, room, strict=True)):
        c = entry(cost, i)
        height, rate = scale_of(scaling, lam, qi)
        wants = lambda y: du(shape, height, rate / share, zi + y) > price * c  # noqa: B023, E731
        low, high = (most, most) if wants(most) else (0.0, most)
        while low < (low + high) / 2 < high:
            middle = (low + high) / 2
            low, high = (middle, high) if wants(middle) else (low, middle)
        more = high if wants(0.0) else 0.0
        total += c * more
        if 0 < more < most:
            pull += c * demand_pull(shape, height, rate / share, price * c)
    return total, pull


def units_worth(shape, height, rate, start, w, shift, price, upper):
    n = 0
    while n < upper and unit_gain(shape, height, rate, start + n) / w + shift >= price:
        n += 1
    return n


def count_worth(price, shift, units, share, codes):
    (q, z, w, lower, upper), (shape, scaling, lam) = units, codes
    counts = []
    for i, (qi, zi) in enumerate(zip(q, z, strict=True)):
        (height, rate), v = scale_of(scaling, lam, qi), entry(w, i)
        n = units_worth(shape, height, rate / share * v, zi / v, v, shift, price, entry(upper, i))
        counts.append(max(n, entry(lower, i)))
    return sum(counts), counts


def next_gains(q, z, units, share, codes):
    shape, scaling, lam = codes
    scales = [scale_of(scaling, lam, qi) for qi in q]
    each = zip(scales, z, units, strict=True)
    return [unit_gain(shape, height, rate / share, zi + n) for (height, rate), zi, n in each]


def plain_gain(shape, height, rate, s):
    """Gain of the unit that begins at s = rate * n, in floats."""
    fall = [math.exp(-s) * -math.expm1(-rate), rate / (1 + s) / (1 + s + rate), math.log1p(rate / (1 + s))]
    return height * [*fall, min(rate, max(1 - s, 0.0))][shape]


def unit_starts(shape, height, rate, w, price):
    """Bisection for the s = rate * n from which a unit of U(z + w n) / w gains ``price``; -1 where none does."""
    gain = lambda s: plain_gain(shape, height, rate, s) / w  # noqa: E731
    if height * rate == 0 or gain(0.0) < price:
        return -1.0
    low, high = 0.0, 1.0
    while gain(high) >= price:
        low, high = high, 2 * high
    while low < (low + high) / 2 < high:
        middle = (low + high) / 2
        low, high = (middle, high) if gain(middle) >= price else (low, middle)
    return low


def count_units(start, rate, w, z, lower, upper):
    """Units n in [lower, upper] up to the last that begins at ``start`` or before."""
    n = lower
    while n < upper and rate * (z / w + n) <= start:
        n += 1
    return n


def bracket_units(price, units, share, codes):
    """Units of each prompt that gain at least, and more than, a price."""
    shape, scaling, lam = codes
    counts = []
    for qi, zi, wi, least, most in zip(*units, strict=True):
        height, rate = scale_of(scaling, lam, qi)
        rate *= wi / share
        gains = [plain_gain(shape, height, rate, rate * (zi / wi + n)) / wi for n in range(least, most)]
        counts.append((least + sum(g >= price for g in gains), least + sum(g > price for g in gains)))
    return counts


def entry_gains(rows, n, units, share, codes):
    (q, z, w, _, _), (shape, scaling, lam) = units, codes
    scales = [scale_of(scaling, lam, qi) for qi in q]
    units = [(*scales[i], z[i] / w[i] + k, w[i]) for i, k in zip(rows, n, strict=True)]
    return [unit_gain(shape, height, rate / share * v, start) / v for height, rate, start, v in units]


def score_gains(q, z, w, share, codes, max_units):
    """Differences of U(z + w n) / w in 400 digits: float64 holds differences of exponentials down to 1e-323."""
    shape, scaling, lam = codes
    rows = []
    with localcontext() as context:
        context.prec = 400
        for qi, zi, wi in zip(q, z, w, strict=True):
            height, rate = map(Decimal, scale_of(scaling, lam, qi))
            zi, wi, per_unit = Decimal(zi), Decimal(wi), rate / Decimal(share)
            score = [height * phi(shape, per_unit * (zi + wi * n), 400) / wi for n in range(max_units + 1)]
            rows.append([float(score[n + 1] - score[n]) for n in range(max_units)])
    return rows


def beta_moment(a, b, n):
    """E[p^n] under Beta(a, b) as an exact fraction."""
    a, b = Fraction(a), Fraction(b)
    return math.prod(((a + k) / (a + b + k) for k in range(n)), start=Fraction(1))


def group_signal(a, b, n):
    """S(n) = 1 - E[p^n] - E[(1-p)^n] under Beta(a, b) as an exact fraction, with S(0) = 0."""
    return 1 - beta_moment(a, b, n) - beta_moment(b, a, n) if n else Fraction(0)


def group_unit(a, b, g, n):
    """Gain from n to n + g rollouts, and E[p^m (1-p)] and E[(1-p)^m p] at m = n + g, from the moments."""
    gain, m = group_signal(a, b, n + g) - group_signal(a, b, n), n + g
    pairs = ((a, b), (b, a))
    return float(gain), *(float(beta_moment(x, y, m) - beta_moment(x, y, m + 1)) for x, y in pairs)


def group_gains(signal, g, max_units):
    return [
        [
            float(Fraction(f) * (group_signal(ai, bi, (n + 1) * g) - group_signal(ai, bi, n * g)))
            for n in range(max_units)
        ]
        for ai, bi, f in zip(*signal, strict=True)
    ]


def remaining_groups(price, signal, visits, cost, g, min_units, max_units):
    total = 0.0
    for i, gains in enumerate(group_gains(signal, g, max_units)):
        c = entry(cost, i)
        _, count = max((sum(gains[:n]) - price * c * n, n) for n in allowed_counts(min_units, max_units))
        total += max(0.0, visits[i]) * c * count
    return total


# ---------------------------------------------------------------- one visit's counts


def allowed_counts(min_units, max_units):
    return [0, *range(max(min_units, 1), max_units + 1)]


def majorise(gains, min_units):
    """The highest of all chords over each point, exactly."""
    rows = []
    for row in gains:
        score = [sum(map(Fraction, row[:n]), start=Fraction(0)) for n in range(len(row) + 1)]
        points = allowed_counts(min_units, len(row))
        hull = []
        for n in range(len(row) + 1):
            chords = [(i, j) for i in points for j in points if i <= n <= j and i < j]
            hull.append(max(score[i] + (score[j] - score[i]) * (n - i) / (j - i) for i, j in chords))
        rows.append([float(hull[n + 1] - hull[n]) for n in range(len(row))])
    return rows


def dearer(slopes, r, low, high, cost, price, equal):
    return next(
        (n for n in range(low, high) if slopes[r][n] / cost < price or (slopes[r][n] / cost == price and not equal)),
        max(low, high),
    )


def take_above(slopes, cost, price):
    units = [sum(slope / entry(cost, r) >= price for slope in row) for r, row in enumerate(slopes)]
    return sum(entry(cost, r) * n for r, n in enumerate(units)), units


def clear_slopes(slopes, cost, target, lower, upper):
    """Go through all distinct prices within the bounds from the dearest on."""
    rows, per_unit = range(len(slopes)), [entry(cost, r) for r in range(len(slopes))]
    ratios = [[slopes[r][n] / per_unit[r] for n in range(lower[r], upper[r])] for r in rows]
    spend = lambda units: sum(c * n for c, n in zip(per_unit, units, strict=True))  # noqa: E731
    sure, price = list(lower), math.inf
    for price in sorted({ratio for row in ratios for ratio in row}, reverse=True):
        upto = [lower[r] + sum(ratio >= price for ratio in ratios[r]) for r in rows]
        if spend(upto) > target:
            return price, spend(sure), sure, upto if spend(sure) <= target else sure
        sure = upto
    return price, spend(sure), sure, sure


def level(start, units, upto, cost, order, left):
    """Raise the lowest rows together while ``left`` pays for all of them, then each by one unit, the lowest still first."""
    units, rows = list(units), range(len(units))
    price = [entry(cost, r) for r in rows]
    while True:
        height = [start[r] + units[r] for r in rows]
        open_rows = [r for r in rows if units[r] < upto[r]]
        lowest = [r for r in open_rows if height[r] == min(height[i] for i in open_rows)]
        if not lowest or sum(price[r] for r in lowest) > left:
            break
        for r in lowest:
            units[r] += 1
            left -= price[r]
    lowest_height = min((height[r] for r in open_rows), default=0)
    for behind in (True, False):
        for r in map(int, order):
            if units[r] < upto[r] and price[r] <= left and (start[r] + units[r] == lowest_height) == behind:
                units[r] += 1
                left -= price[r]
    return left, units


def fall(gains, lower, out):
    for r, row in enumerate(gains):
        for n in range(row.size):
            out[r, n] = min(row[lower[r] : n + 1]) if n >= lower[r] else np.inf


def fill_ties(gains, slopes, min_units, cost, start, order, left, units, upto):
    units, upto = list(units), list(upto)
    for r in map(int, order):
        between = range(units[r], upto[r])
        single = (units[r] >= min_units or min_units <= 1) and all(gains[r][n] == slopes[r][n] for n in between)
        if not single:
            block = entry(cost, r) * len(between)
            if block <= left:
                units[r], left = upto[r], left - block
            upto[r] = units[r]
    return level(start, units, upto, cost, order, left)


def complete(gains, slopes, tie, min_units, total, units):
    """Open the best rows until ``total`` fits, then move to it one unit at a time; None where that cannot be."""
    units, rows, max_units, first = list(units), range(len(units)), len(gains[0]), max(min_units, 1)
    while sum(n > 0 for n in units) * max_units < total:
        closed = sorted((-slopes[r][0], tie[r], r) for r in rows if units[r] == 0)
        if not closed:
            return None
        units[closed[0][-1]] = first
    while sum(units) < total:
        able = [r for r in rows if units[r] < max_units and (units[r] or first == 1)]
        units[min(able, key=lambda r: (-gains[r][units[r]], tie[r]))] += 1
    while sum(units) > total:
        able = [r for r in rows if units[r] > (first if first > 1 else 0)]
        if not able:
            return None
        units[min(able, key=lambda r: (gains[r][units[r] - 1], tie[r]))] -= 1
    return units


def change_loss(gains, r, price, before, after):
    worth = lambda n: math.fsum([*gains[r][:n], *[-price] * n])  # noqa: E731
    return worth(before) - worth(after)


def least_losses(gains, price, min_units, units):
    return [
        min(change_loss(gains, r, price, now, n) for n in allowed_counts(min_units, len(gains[r])) if n != now)
        for r, now in enumerate(units)
    ]


def repair(gains, core, price, slack, min_units, window, bound, units):
    """Try all counts of the core rows; return the least loss."""
    lowest, left, highest = window
    plans = []
    for r in core:
        counts = [n for n in allowed_counts(min_units, len(gains[r])) if n != units[r]]
        losses = [(change_loss(gains, r, price, units[r], n), n - units[r]) for n in counts]
        plans.append([(0.0, 0), *(change for change in losses if change[0] < bound)])
    best = math.inf
    for plan in product(*plans):
        shift = sum(d for _, d in plan)
        if lowest <= shift <= highest:
            best = min(best, sum(loss for loss, _ in plan) + slack * (left - shift))
    return best


def fill_costly(gains, slopes, min_units, cost, tie, floor_price, need, left, units):
    """Buy what is worth most per cost of all that fits, until need is met: parts of next blocks that may stand alone."""
    units, max_units = list(units), len(gains[0])
    while need > 0:
        offers = []
        for r, now in enumerate(units):
            c = entry(cost, r)
            block = sum(slopes[r][n] == slopes[r][now] for n in range(now, max_units))
            sizes = [n for n in range(1, block + 1) if now + n >= min_units and n * c <= left]
            offers += [(-sum(gains[r][now : now + n]) / (n * c), tie[r], n, r) for n in sizes]
        if not offers or -min(offers)[0] < floor_price:
            return left, units
        _, _, size, r = min(offers)
        units[r] += size
        need -= size * entry(cost, r)
        left -= size * entry(cost, r)
    return left, units


def batch_dp(gains, min_units, most):
    """Largest sum of scores at every total up to ``most``, -inf where no counts add up to it."""
    best = np.full(most + 1, -np.inf)
    best[0] = 0.0
    for row in gains:
        score = np.concatenate([[0.0], np.cumsum(row)])
        grown = np.full(most + 1, -np.inf)
        for n in allowed_counts(min_units, len(row)):
            if n <= most:
                grown[n:] = np.maximum(grown[n:], best[: most + 1 - n] + score[n])
        best = grown
    return best


# ---------------------------------------------------------------- published allocators


def proportional(weights, lower, upper, total, tie):
    """Bisection for the factor, then the largest remainders; what is left goes up evenly, as in ``level``."""
    rows, lift = range(len(weights)), [w > 0 for w in weights]
    share = lambda c: [min(upper[i], max(lower[i], c * weights[i])) for i in rows]  # noqa: E731
    low, high = 0.0, max((upper[i] / weights[i] for i in rows if lift[i]), default=0.0) * (1 + 1e-12)
    for _ in range(120):
        c = (low + high) / 2
        low, high = (low, c) if sum(share(c)) >= total else (c, high)
    parts = share(high)
    units = [math.floor(x + 1e-9) if lift[i] else lower[i] for i, x in enumerate(parts)]
    part = [round(x - n, 9) for x, n in zip(parts, units, strict=True)]
    for i in sorted(rows, key=lambda i: (-part[i], tie[i])):
        if part[i] > 0 and units[i] < upper[i] and sum(units) < total:
            units[i] += 1
    order = sorted(rows, key=lambda i: tie[i])
    return level([0] * len(units), units, upper, [1], order, max(0, total - sum(units)))[1]


def knapsack_value(n, p):
    return (1 - p**n - (1 - p) ** n) * p * (1 - p) ** 2


def knapsack_program(worth, budget):
    """Choose one option k per row, worth ``worth[row][k]`` for k units, so that exactly ``budget`` units are spent."""
    best, choices = [0.0] + [-math.inf] * budget, []
    for row in worth:
        grown, choice = [-math.inf] * (budget + 1), [0] * (budget + 1)
        for spent in range(budget + 1):
            for k in range(min(len(row), spent + 1)):
                value = best[spent - k] + row[k]
                if value > grown[spent]:
                    grown[spent], choice[spent] = value, k
        best = grown
        choices.append(choice)
    units = []
    for choice in reversed(choices):
        units.append(choice[budget])
        budget -= units[-1]
    return units[::-1]


def knapsack_published(p, budget, min_units, max_units):
    """The published dynamic program over rollouts beyond ``min_units``: to give none of them is worth 0, not V(min_units, p)."""
    options = range(1, max_units - min_units + 1)
    worth = [[0.0, *(knapsack_value(min_units + k, pi) for k in options)] for pi in p]
    return [min_units + k for k in knapsack_program(worth, budget - min_units * len(p))]


def vip_published(a, budget, min_units, max_units, estimator):
    """Bisection on lambda for real counts, floor, then one by one to whom it lowers the variance most."""
    real = lambda price: [min(max_units, max(min_units, vip_real(ai, price, estimator))) for ai in a]  # noqa: E731
    low, high = 1e-18, 1.0  # the first spends too much, the second too little
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if sum(real(middle)) > budget else (low, middle)
    counts = [math.floor(n) for n in real(high)]
    while sum(counts) < budget:
        drop = lambda i: (  # noqa: E731
            vip_variance(a[i], counts[i], estimator) - vip_variance(a[i], counts[i] + 1, estimator)
        )
        counts[max((i for i in range(len(a)) if counts[i] < max_units), key=drop)] += 1
    return counts


def vip_variance(a, n, estimator):
    return a / (n - 1) if estimator == "rloo" else a * (n - 1) / n**2


def vip_real(a, price, estimator):
    """The real count at which the variance falls by ``price`` per rollout; from 3 on for Dr. GRPO."""
    c = a / price
    if estimator == "rloo":
        return 1 + math.sqrt(c)
    if c <= 27:
        return 3.0
    return 2 * math.sqrt(c / 3) * math.cos(math.acos(-3 * math.sqrt(3 / c)) / 3)  # n^3 = c (n - 2), its largest root


def duet(s, cost, price, max_units):
    """Rounded counts at a price."""
    counts = [math.floor(si / math.sqrt(price * c) + 0.5) for si, c in zip(s, cost, strict=True)]
    return [min(max_units, max(1, n)) for n in counts]


def gaussian_process(features, rounds, jitter):
    """Logits after rounds of (rows, successes, rollouts): one linear system per round, its mean carried."""
    gap = ((features[:, None, :] - features[None, :, :]) ** 2).sum(axis=2)
    pairs = sorted(gap[i, j] for i in range(len(gap)) for j in range(i))
    apart = [d for d in pairs if d > 0]
    width = float(np.median(np.sqrt(apart))) if apart else 1.0
    kernel, mean = np.exp(-gap / (2 * width**2)), np.zeros(len(gap))
    for rows, successes, rollouts in rounds:
        p = [min(1 - 0.5 / n, max(0.5 / n, s / n)) for s, n in zip(successes, rollouts, strict=True)]
        target = np.array([math.log(x / (1 - x)) for x in p])
        system = kernel[np.ix_(rows, rows)] + jitter * np.eye(len(rows))
        mean = mean + kernel[:, rows] @ np.linalg.solve(system, target - mean[rows])
    return mean


# ---------------------------------------------------------------- offline oracle


def entry(array, i):
    return (list(array) * (i + 1) if len(array) == 1 else list(array))[i]


def draw(state, n):
    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
    return state, (state >> 33) % n


def add(total, lost, term):
    """Exactly: the float nearest to the sum so far and the term, and what it has too much."""
    exact = Fraction(total) - Fraction(lost) + Fraction(term)
    return float(exact), Fraction(float(exact)) - exact


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


def unit_gains(shape, height, rate, size):
    return [unit_gain(shape, height, rate, n) for n in range(size)]


def path_dual(price, q_path, max_units, share, codes):
    shape, scaling, lam = codes
    total, bought = 0.0, 0
    for rates in q_path:
        scales = [scale_of(scaling, lam, q) for q in rates]

        @cache
        def best(k, z, scales=tuple(scales)):
            if k == len(scales):
                return 0.0, 0
            plans = []
            for n in range(max_units + 1):
                later, units = best(k + 1, z + n)
                gain = u(shape, *scales[k], (z + n) / share) - u(shape, *scales[k], z / share)
                plans.append((gain - price * n + later, -(n + units)))
            worth, units = max(plans)
            return worth, -units

        worth, units = best(0, 0)
        total, bought = total + worth, bought + units
    return total, bought


# ---------------------------------------------------------------- simulation


def bin_of(mean, n_bins):
    return next((place for place in range(n_bins) if mean * n_bins < place + 1), n_bins - 1)


def forecast(evidence, q, n_bins):
    alpha, beta = posterior(True, None, evidence)
    mean = [a / (a + b) for a, b in zip(alpha, beta, strict=True)]
    value = [expected_variance(a, b) for a, b in zip(alpha, beta, strict=True)]
    bins = [sum(bin_of(m, n_bins) == place for m in mean) for place in range(n_bins)]
    return mean, value, bins, math.fsum(abs(v - qi) for v, qi in zip(value, q, strict=True))


def first_bad_count(n, unit_size, most):
    bad = [r for r, count in enumerate(n) if count not in range(0, most + 1, unit_size)]
    return (bad[0], sum(n[: bad[0]])) if bad else (-1, sum(n))


def block_gains(rows, q, z, share, block, codes):
    shape, scaling, lam = codes
    scales = [scale_of(scaling, lam, qi) for qi in q]
    exposure = [zi / share for zi in z]
    return [u(shape, *s, x + block) - u(shape, *s, x) for s, x in zip(scales, exposure, strict=True)]


# ---------------------------------------------------------------- a policy that learns


def dot(x, w):
    return math.fsum(xi * wi for xi, wi in zip(x, w, strict=True))


def rate(x, b, w):
    return 1 / (1 + math.exp(-(dot(x, w) + b)))


def mean_success(features, offsets, w):
    return math.fsum(rate(x, b, w) for x, b in zip(features, offsets, strict=True)) / len(offsets)


def group_sum(x, b, w, rewards, normalise):
    """Advantage times score, one rollout at a time; the score is the gradient of log p, or of log (1 - p)."""
    n, p = len(rewards), rate(x, b, w)
    mean = sum(rewards) / n
    spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / n)
    total = [0.0] * len(x)
    for r in rewards:
        advantage = r - mean
        if normalise:
            advantage = advantage / spread if spread else 0.0
        score = [(1 - p) * xi if r else -p * xi for xi in x]
        total = [t + advantage * s for t, s in zip(total, score, strict=True)]
    return total


def group_gradient(features, offsets, w, groups, normalise, weighting, exposure):
    """Gradient of groups (row, rewards)."""
    sums = [group_sum(features[i], offsets[i], w, rewards, normalise) for i, rewards in groups]
    sizes = [len(rewards) for _, rewards in groups]
    if weighting == "rollout":
        weights = [1 / sum(sizes)] * len(groups)
    else:
        shares = [1.0 if weighting == "prompt" else 1 / z for z in exposure]
        mean = sum(shares) / len(shares)
        weights = [share / mean / n / len(groups) for share, n in zip(shares, sizes, strict=True)]
    return [sum(v * g[f] for v, g in zip(weights, sums, strict=True)) for f in range(len(w))]


def train(features, offsets, rounds, rate_of_learning, optimiser, normalise, weighting, mixed_only):
    """Weights after each round of groups {row: (rollouts, successes)}."""
    w, exposure, steps = [0.0] * len(features[0]), {}, 0
    first, second, path = list(w), list(w), []
    for groups in rounds:
        for i, (n, _) in groups.items():
            exposure[i] = exposure.get(i, 0) + n
        kept = {i: (n, s) for i, (n, s) in groups.items() if not mixed_only or 0 < s < n}
        if kept:
            rewards = [(i, [1] * s + [0] * (n - s)) for i, (n, s) in kept.items()]
            seen = [exposure[i] for i in kept]
            g = group_gradient(features, offsets, w, rewards, normalise, weighting, seen)
            steps += 1
            for f in range(len(w)):
                first[f] = 0.9 * first[f] + 0.1 * g[f]
                second[f] = 0.999 * second[f] + 0.001 * g[f] ** 2
                unbiased = first[f] / (1 - 0.9**steps), second[f] / (1 - 0.999**steps)
                step = g[f] if optimiser == "sgd" else unbiased[0] / (math.sqrt(unbiased[1]) + 1e-8)
                w[f] += rate_of_learning * step
        path.append(list(w))
    return path


def round_total(target, low, high, quantum, max_units):
    """Every total in the window that counts add up to; whole quanta go before others, the nearest before the farther."""
    few = [-(-total // max_units) for total in range(int(high) + 1)]
    reachable = [total for total in range(int(high) + 1) if few[total] * quantum <= total]
    inside = [total for total in reachable if total >= low]
    whole = [total for total in inside if total % quantum == 0]
    return min(whole, key=lambda total: abs(total - target)) if whole else None, inside, max(reachable)


def expected_counts(rate, total, most, least):
    """The scale by bisection, and by bisection again what the prompts without a rate get."""
    least = min(least, total / len(rate))

    def counts(scale, rest):
        return [min(most, max(least, scale * r if r > 0 else rest)) for r in rate]

    def root(sum_at):
        low, high = 0.0, 1e30
        for _ in range(400):
            middle = math.sqrt(low * high) if low > 1e-30 else high / 1e10 if high > 1e-20 else 0.0
            low, high = (middle, high) if sum_at(middle) < total else (low, middle)
        return high

    scale = root(lambda s: sum(counts(s, 0.0)))
    rest = 0.0 if sum(counts(scale, 0.0)) >= total * (1 - 1e-12) else root(lambda s: sum(counts(scale, s)))
    return counts(scale, rest)


def systematic(expected, offset):
    """Lay the expectations end to end and count the points offset, offset + 1, ... in each, its end included."""
    counts, begin = [], Fraction(0)
    for length in expected:
        end = begin + length
        counts.append(math.floor(end - offset) - math.floor(begin - offset))
        begin = end
    return counts
