"""Kernels of the evidence and of prompt rows.

``evidence`` is the tuple ``Evidence.arrays``: (a0, b0, stride, outcomes, ticks, now, rho, fade, drift, odds, anchors,
deficits).

* a0, b0: the prior, with one entry for all prompts (stride 0) or one per prompt (stride 1).
* outcomes (M x 2): what Beta's parameters exceed the prior by, as of the prompt's entry in ``ticks`` (int32).
* now, rho: the clock, and the share of the evidence that survives a tick.
* fade: rho ** k at index k. Most prompts are recent, and a look-up is cheaper than a power.
* drift: what 1 / (a + b) grows by per tick.
* odds, anchors: the product of all common shifts of the odds, and what it was at the prompt's last touch, 0 before the
  first; empty without a trend.
* deficits: sums of r - r**2 over the prompt's rewards, aged like its outcomes; empty while all rewards are 0 or 1.

A belief moves where there is a drift or a trend. With forgetting as well, every tick brings all rows up to date, so that
the kernels never have to combine the two.

The argument is a plain tuple: numba recognises the type of a NamedTuple through a slow path at every call. ``full`` reads
the whole pool and ignores ``rows``, so that a pass over the pool needs no index array.

Kernels named ``settled_`` do what their namesakes do where beliefs do not move and all rewards are 0 or 1. Most runs need
no others, and these compile in a third of the time.
"""

import numpy as np

from cero_alloc._numba import kernel

LEAST = (
    1e-6  # of its prior, below which a parameter never falls: what is left of it in float32 could be a rounding error
)
ALIKE = 1e-6  # deviation of a group's rewards, as a share of their mean, up to which they are alike but for rounding
REWARDED = 65535  # in place of a count of rollouts without a reward, once there was one: the largest uint16
BLUR = 1e-14  # variance of a group's rewards, up to which it could be the rounding of their sums


@kernel
def powers(rho, out):
    """Write rho ** k for k = 0, 1, ..."""
    for k in range(out.size):
        out[k] = rho ** float(k)


@kernel
def survival(elapsed, rho, fade):
    """Share of the evidence that is left after ``elapsed`` ticks."""
    return fade[elapsed] if elapsed < fade.size else rho ** float(elapsed)


@kernel
def expected_variance(a, b):
    """E[p (1 - p)] = a b / ((a + b)(a + b + 1)) under Beta(a, b), as factors in [0, 1] that cannot overflow."""
    s = a + b
    return ((a / s) * (b / s)) * (s / (s + 1.0))


@kernel
def moves(evidence):
    """Tell whether beliefs move: whether there is a drift or a trend."""
    _, _, _, _, _, _, _, _, drift, _, anchors, _ = evidence
    return drift > 0.0 or anchors.size > 0


@kernel
def growth(s, faded, most):
    """Return by what factor 1 / s has grown that was to grow by ``faded``, up to ``most``, that of the prior."""
    return min(max(1.0, most * s), 1.0 + faded * s)


@kernel
def shift_since(i, odds, anchors):
    """Factor of the odds of a prompt since its last touch; 1 where it was never seen."""
    if anchors.size == 0 or anchors[i] == 0.0:
        return 1.0
    return odds / anchors[i]


@kernel
def parameters(i, evidence):
    """Return the Beta parameters of row i, aged to ``now``."""
    a0, b0, stride, outcomes, ticks, now, rho, fade, drift, odds, anchors, _ = evidence
    prior_a, prior_b = a0[i * stride], b0[i * stride]
    if not moves(evidence):
        left = survival(now - ticks[i], rho, fade) if rho < 1.0 else 1.0
        return prior_a + outcomes[i, 0] * left, prior_b + outcomes[i, 1] * left
    a, b = prior_a + outcomes[i, 0], prior_b + outcomes[i, 1]
    grown = growth(a + b, drift * (now - ticks[i]), 1.0 / (prior_a + prior_b))
    a, b, shift = a / grown, b / grown, shift_since(i, odds, anchors)
    if shift != 1.0:
        s, up = a + b, a * shift
        a, b = s * (up / (up + b)), s * (b / (up + b))
    return a, b


@kernel
def settled_posterior(full, first, rows, evidence, alpha, beta):
    """Write Beta parameters of beliefs that do not move, aged to ``now``, from the ``first`` row on."""
    a0, b0, stride, outcomes, ticks, now, rho, fade, _, _, _, _ = evidence
    if full and stride == 0 and rho == 1.0:  # a separate loop, because only one this plain is vectorised
        a, b, part = a0[0], b0[0], outcomes[first:]
        for r in range(alpha.size):
            alpha[r] = a + part[r, 0]
            beta[r] = b + part[r, 1]
        return
    ageing = rho < 1.0  # otherwise the ticks are not read: in a large pool each is a cache miss
    for r in range(alpha.size):
        i = first + r if full else rows[first + r]
        left = survival(now - ticks[i], rho, fade) if ageing else 1.0
        alpha[r] = a0[i * stride] + outcomes[i, 0] * left
        beta[r] = b0[i * stride] + outcomes[i, 1] * left


@kernel
def posterior(full, rows, evidence, alpha, beta):
    """Write Beta parameters, aged to ``now``."""
    if not moves(evidence):
        settled_posterior(full, np.int64(0), rows, evidence, alpha, beta)  # not a literal, which has a type of its own
        return
    for r in range(alpha.size):
        alpha[r], beta[r] = parameters(r if full else rows[r], evidence)


@kernel
def stretch(evidence, start, stop):
    """Return the tuple ``evidence`` of the rows from ``start`` to ``stop``; its arrays are views."""
    a0, b0, stride, outcomes, ticks, now, rho, fade, drift, odds, anchors, deficits = evidence
    a, b = (a0[start:stop], b0[start:stop]) if stride else (a0, b0)
    outcomes, ticks = outcomes[start:stop], ticks[start:stop]
    anchors, deficits = anchors[start:stop], deficits[start:stop]  # an empty array stays empty
    return a, b, stride, outcomes, ticks, now, rho, fade, drift, odds, anchors, deficits


@kernel
def drifted_value(a, b, faded, most):
    """E[p (1 - p)] of Beta(a, b) after 1 / (a + b) has grown; one division, because divisions take the time."""
    s = a + b
    return (a * b) / (s * (s + growth(s, faded, most)))


@kernel
def moved_value(a, b, faded, most, odds, anchor):
    """E[p (1 - p)] after the odds of a prompt that was seen (``anchor`` > 0) were multiplied by odds / anchor as well."""
    s, up = a + b, a * (odds if anchor > 0.0 else 1.0)
    down = b * (anchor if anchor > 0.0 else 1.0)
    whole = up + down
    return (up * down * s) / (whole * whole * (s + growth(s, faded, most)))


@kernel
def moved_values(full, rows, evidence, out):
    """Write posterior expected variances of beliefs that move, aged to ``now``."""
    a0, b0, stride, outcomes, ticks, now, _, _, drift, odds, anchors, _ = evidence
    late = float(now)  # int32 converts to float64 in vectors, int64 does not
    if full and stride == 0:  # two separate loops, because only ones this plain are vectorised
        prior_a, prior_b, most = a0[0], b0[0], 1.0 / (a0[0] + b0[0])
        if anchors.size == 0:
            for r in range(out.size):
                a, b = prior_a + outcomes[r, 0], prior_b + outcomes[r, 1]
                out[r] = drifted_value(a, b, drift * (late - float(ticks[r])), most)
        else:
            for r in range(out.size):
                a, b = prior_a + outcomes[r, 0], prior_b + outcomes[r, 1]
                out[r] = moved_value(a, b, drift * (late - float(ticks[r])), most, odds, anchors[r])
        return
    for r in range(out.size):
        i = r if full else rows[r]
        prior_a, prior_b = a0[i * stride], b0[i * stride]
        a, b, most = prior_a + outcomes[i, 0], prior_b + outcomes[i, 1], 1.0 / (prior_a + prior_b)
        faded = drift * (late - float(ticks[i]))
        if anchors.size == 0:
            out[r] = drifted_value(a, b, faded, most)
        else:
            out[r] = moved_value(a, b, faded, most, odds, anchors[i])


@kernel
def spread(i, evidence):
    """Variance of the rewards of row i as a share of that of 0/1 rewards with the same mean: 1 - D s / (a b).

    A drift or a shift of the odds leaves the share unchanged; forgetting moves it towards that of the prior, 1.
    """
    a0, b0, stride, outcomes, ticks, now, rho, fade, _, _, _, deficits = evidence
    left = survival(now - ticks[i], rho, fade) if rho < 1.0 else 1.0
    a, b = a0[i * stride] + outcomes[i, 0] * left, b0[i * stride] + outcomes[i, 1] * left
    return max(0.0, 1.0 - deficits[i] * left / a * ((a + b) / b))


@kernel
def spreads(rows, evidence, out):
    """Write :func:`spread` of some rows."""
    for r in range(rows.size):
        out[r] = spread(rows[r], evidence)


@kernel
def settled_values(full, rows, evidence, spare, out):
    """Write posterior expected variances of beliefs that do not move, aged to ``now``; ``spare`` is scratch of any size."""
    for start in range(0, out.size, spare.size):  # in blocks that stay in the cache
        q = out[start : start + spare.size]
        settled_posterior(full, start, rows, evidence, q, spare)
        for r in range(q.size):
            q[r] = expected_variance(q[r], spare[r])


@kernel
def values(full, rows, evidence, spare, out):
    """Write posterior expected variances, aged to ``now``; ``spare`` is scratch of any size."""
    _, _, _, _, _, _, _, _, _, _, _, deficits = evidence
    if moves(evidence):
        moved_values(full, rows, evidence, out)
    else:
        settled_values(full, rows, evidence, spare, out)
    if deficits.size > 0:
        for r in range(out.size):
            out[r] *= spread(r if full else rows[r], evidence)


@kernel
def settled_observe(rows, successes, rollouts, evidence):
    """Add outcomes of rewards 0 and 1 to beliefs that do not move, aged to ``now``."""
    _, _, _, outcomes, ticks, now, rho, fade, _, _, _, _ = evidence
    ageing = rho < 1.0
    for r in range(rows.size):
        i = rows[r]
        left = survival(now - ticks[i], rho, fade) if ageing else 1.0
        if ageing:
            ticks[i] = now
        outcomes[i, 0] = outcomes[i, 0] * left + successes[r]
        outcomes[i, 1] = outcomes[i, 1] * left + (rollouts[r] - successes[r])


@kernel
def observe(rows, successes, rollouts, lacks, evidence):
    """Age the named rows to ``now``, then add the outcomes, and ``lacks``, unless it is empty, to the deficits."""
    a0, b0, stride, outcomes, ticks, now, rho, fade, _, odds, anchors, deficits = evidence
    moving, ageing = moves(evidence), rho < 1.0  # where neither holds no kernel reads the ticks
    for r in range(rows.size):
        i = rows[r]
        left = survival(now - ticks[i], rho, fade) if ageing and not moving else 1.0
        won, lost = outcomes[i, 0] * left, outcomes[i, 1] * left
        lack = deficits[i] * left if deficits.size > 0 else 0.0
        if moving and (ticks[i] != now or shift_since(i, odds, anchors) != 1.0):
            a, b = parameters(i, evidence)
            prior_a, prior_b = a0[i * stride], b0[i * stride]
            won, lost = max(a - prior_a, (LEAST - 1.0) * prior_a), max(b - prior_b, (LEAST - 1.0) * prior_b)
            if lack > 0.0:
                lack = (1.0 - spread(i, evidence)) * a * (b / (a + b))
        if moving or ageing:
            ticks[i] = now
        if anchors.size > 0:
            anchors[i] = odds
        outcomes[i, 0] = won + successes[r]
        outcomes[i, 1] = lost + (rollouts[r] - successes[r])
        if deficits.size > 0:
            deficits[i] = lack + (lacks[r] if lacks.size > 0 else 0.0)


@kernel
def count_unrewarded(rows, successes, rollouts, unrewarded):
    """Add the rollouts to the counts of prompts that never earned anything; the first reward marks a prompt for good."""
    for r in range(rows.size):
        i = rows[r]
        if successes[r] > 0.0:
            unrewarded[i] = REWARDED
        elif unrewarded[i] != REWARDED:
            unrewarded[i] = min(unrewarded[i] + rollouts[r], REWARDED - 1)


@kernel
def calibrate(value, successes, rollouts, lacks, top, fade, bins, tally):
    """Add each group of two rollouts or more to the sums of predicted and observed reward variance.

    ``lacks`` holds the sums of r - r**2 over the groups; it is empty where all rewards are 0 or 1.

    ``bins`` (4 x n_bins over [0, top]) holds the number of groups and the sums of predicted, observed and squared
    difference. ``tally`` holds the number of mixed groups and four sums that fade by ``fade`` per group: the weights, the
    squared weights, the difference, and its square.
    """
    last = bins.shape[1] - 1
    for r in range(value.size):
        n, s = rollouts[r], successes[r]
        if n < 2:
            continue
        observed, mixed = (s / n) * ((n - s) / (n - 1)), 0.0 < s < n
        if lacks.size > 0 and lacks[r] > 0.0:
            observed = max(0.0, observed - lacks[r] / (n - 1))
            mixed = observed > max((ALIKE * s / n) ** 2, BLUR)
        difference = value[r] - observed
        place = min(np.int64(value[r] / top * (last + 1)), last)
        bins[0, place] += 1.0
        bins[1, place] += value[r]
        bins[2, place] += observed
        bins[3, place] += difference * difference
        tally[0] += mixed
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
    """Enter a row into a hash table; return False if it is already there."""
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
    """Return position and kind of the first bad row, or (-1, 0).

    Kinds: 1 outside [0, n_prompts), 2 a repeat of an earlier row; rows of kind 1 come first. ``slots`` is an empty hash
    table: -1 throughout, its size a power of two above rows.size. Size 0 skips the search for repeats.
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
    """Tell whether rows ascend strictly, a cheap proof that none repeats."""
    for r in range(1, rows.size):  # noqa: SIM110 (numba compiles loops, not generators)
        if rows[r] <= rows[r - 1]:
            return False
    return True
