"""Kernels of the evidence and of prompt rows.

``evidence`` is the tuple ``Evidence.arrays``: (a0, b0, stride, outcomes, ticks, now, rho, fade).

* a0, b0: the prior, with one entry for all prompts (stride 0) or one per prompt (stride 1).
* outcomes (M x 2): successes and failures, as of the prompt's entry in ``ticks`` (int32).
* now, rho: the clock, and the share of the evidence that survives a tick.
* fade: rho ** k at index k. Most prompts are recent, and a look-up is cheaper than a power.

It is a plain tuple: numba recognises the type of a NamedTuple through a slow path at every call. ``full`` reads the whole
pool and ignores ``rows``, so that a pass over the pool needs no index array.
"""

import numpy as np

from cero_alloc._numba import kernel


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
def posterior(full, rows, evidence, alpha, beta):
    """Write Beta parameters, aged to ``now``."""
    a0, b0, stride, outcomes, ticks, now, rho, fade = evidence
    if full and stride == 0 and rho == 1.0:  # a separate loop, because only one this plain is vectorised
        a, b = a0[0], b0[0]
        for r in range(alpha.size):
            alpha[r] = a + outcomes[r, 0]
            beta[r] = b + outcomes[r, 1]
        return
    ageing = rho < 1.0  # otherwise the ticks are not read: in a large pool each is a cache miss
    for r in range(alpha.size):
        i = r if full else rows[r]
        left = survival(now - ticks[i], rho, fade) if ageing else 1.0
        alpha[r] = a0[i * stride] + outcomes[i, 0] * left
        beta[r] = b0[i * stride] + outcomes[i, 1] * left


@kernel
def stretch(evidence, start, stop):
    """Return the tuple ``evidence`` of the rows from ``start`` to ``stop``; its arrays are views."""
    a0, b0, stride, outcomes, ticks, now, rho, fade = evidence
    a, b = (a0[start:stop], b0[start:stop]) if stride else (a0, b0)
    return a, b, stride, outcomes[start:stop], ticks[start:stop], now, rho, fade


@kernel
def values(full, rows, evidence, spare, out):
    """Write posterior expected variances, aged to ``now``; ``spare`` is scratch of any size."""
    step = spare.size
    for start in range(0, out.size, step):  # in blocks that stay in the cache
        stop = min(start + step, out.size)
        q, beta = out[start:stop], spare[: stop - start]
        if full:
            posterior(full, rows, stretch(evidence, start, stop), q, beta)
        else:
            posterior(full, rows[start:stop], evidence, q, beta)
        for r in range(q.size):
            q[r] = expected_variance(q[r], beta[r])


@kernel
def observe(rows, successes, rollouts, evidence):
    """Age the named rows to ``now``, then add the outcomes."""
    _, _, _, outcomes, ticks, now, rho, fade = evidence
    ageing = rho < 1.0  # otherwise no kernel reads the ticks
    for r in range(rows.size):
        i = rows[r]
        left = 1.0
        if ageing:
            left = survival(now - ticks[i], rho, fade)
            ticks[i] = now
        outcomes[i, 0] = outcomes[i, 0] * left + successes[r]
        outcomes[i, 1] = outcomes[i, 1] * left + (rollouts[r] - successes[r])


@kernel
def calibrate(value, successes, rollouts, top, fade, bins, tally):
    """Add each group of two rollouts or more to the sums of predicted and observed reward variance.

    ``bins`` (4 x n_bins over [0, top]) holds the number of groups and the sums of predicted, observed and squared
    difference. ``tally`` holds the number of mixed groups and four sums that fade by ``fade`` per group: the weights, the
    squared weights, the difference, and its square.
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
