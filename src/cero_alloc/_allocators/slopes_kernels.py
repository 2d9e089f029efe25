"""Kernels of the dual step of Algorithm 1."""

import numpy as np

from cero_alloc._evidence.kernels import expected_variance, moves, settled_posterior, stretch, values
from cero_alloc._numba import kernel, sqrt
from cero_alloc._objective.kernels import EXPONENTIAL, demand, log_ratio, scale_of


@kernel
def step_slope(theta, q, dealt, step, upper, per_visit, max_units, scaling, lam):
    """Return a slope after its step under exponential utility, without a branch: see :func:`step_slopes`."""
    height, rate = scale_of(scaling, lam, q)
    top, slope = height * rate, lam * theta
    x = min(log_ratio(top, slope) / rate, upper)
    x = upper if slope == 0.0 else x
    x = 0.0 if slope >= top else x
    return min(max(theta - step * (dealt - per_visit * x) / max_units, 0.0), 1.0)


@kernel
def step_slopes(theta, q, proposal, offers, plan, codes):
    """Take one projected step of the normalised slopes towards the demand per visit.

    ``offers`` is (start, start_stride, visits, stride): the exposure at which the visits began, and the number of visits,
    each with one entry (stride 0) or one per prompt (stride 1). Only demand beyond ``start`` counts. ``plan`` is
    (max_units, share, gamma): the caps in units, the equal share, and the step, 0 for 1 / sqrt(visits). ``codes`` is
    (shape, scaling, lam).

    The step divides by max_units instead of multiplying by its reciprocal: slopes that are equal in exact arithmetic must
    be equal to the last bit, or rounding would break ties.
    """
    start, start_stride, visits, stride = offers
    max_units, share, gamma = plan
    shape, scaling, lam = codes
    own = 0.0 if gamma > 0.0 else 1.0
    plain = shape == EXPONENTIAL and start_stride == 0 and start[0] == 0.0  # only such loops are vectorised
    if plain and stride == 0:
        e = float(visits[0])
        step, upper, per_visit = gamma + own / sqrt(e), e * max_units / share, share / e
        for r in range(theta.size):
            theta[r] = step_slope(theta[r], q[r], proposal[r], step, upper, per_visit, max_units, scaling, lam)
    elif plain:
        for r in range(theta.size):
            e = float(visits[r])
            step, upper, per_visit = gamma + own / sqrt(e), e * max_units / share, share / e
            theta[r] = step_slope(theta[r], q[r], proposal[r], step, upper, per_visit, max_units, scaling, lam)
    else:
        for r in range(theta.size):
            e, x0 = float(visits[r * stride]), start[r * start_stride] / share
            height, rate = scale_of(scaling, lam, q[r])
            x = demand(shape, height, rate, lam * theta[r], x0 + e * max_units / share)
            z, step = share * max(x - x0, 0.0), gamma + own / sqrt(e)
            theta[r] = min(1.0, max(0.0, theta[r] - step * (proposal[r] - z / e) / max_units))


@kernel
def largest(bits):
    """Return the largest of the bits of slopes: floats of at least 0 are in the order of their bits, whose maximum vectorises."""
    top = bits[0]
    for r in range(bits.size):
        top = max(top, bits[r])
    return top


@kernel
def step_pool(theta, evidence, offers, plan, codes, first, places, units, scratch, tops):
    """Step the slopes of a stretch of the pool, which begins at row ``first``, with the values as they stand.

    ``evidence``, ``offers``, ``plan`` and ``codes`` are those of ``values`` and :func:`step_slopes`, for the stretch.
    ``places`` are the pool rows that got ``units``. All slopes step as if nothing had been dealt. Those at ``places`` are
    saved first and then step again with their units, so that no array as large as the pool is needed.

    ``scratch`` is (work, none, rows, dealt, kept). ``work`` (2 x size) and ``none`` (zeros, of that size) set the size of the
    blocks; small blocks stay in the cache. ``rows``, ``dealt`` and ``kept`` (4 x) are as long as ``places``. ``tops`` is (bits,
    largest, length): the slopes as int64, and what takes the largest of them of each of the first blocks of ``length``.
    """
    start, start_stride, visits, stride = offers
    work, none, rows, dealt, kept = scratch
    bits, top, length = tops
    k = 0
    for j in range(places.size):
        row = places[j] - first
        if 0 <= row < theta.size:
            rows[k], dealt[k], kept[0, k], kept[1, k] = row, units[j], theta[row], visits[row * stride]
            kept[3, k] = start[row * start_stride]
            k += 1
    _, _, _, _, _, _, _, _, _, _, _, deficits = evidence
    settled = deficits.size == 0 and not moves(evidence)
    for low in range(0, theta.size, none.size):
        high = min(low + none.size, theta.size)
        q, b, n = work[0, : high - low], work[1, : high - low], none[: high - low]
        e, z = visits[low:high] if stride else visits, start[low:high] if start_stride else start
        if settled:  # what values does, without views of the block, which cost as much as a third of its arithmetic
            settled_posterior(np.bool_(True), low, n, evidence, q, b)
            for r in range(q.size):
                q[r] = expected_variance(q[r], b[r])
        else:
            values(np.bool_(True), n, stretch(evidence, low, high), work[1], q)
        step_slopes(theta[low:high], q, n, (z, start_stride, e, stride), plan, codes)
        for at in range(low // length, min(high // length, top.size)):  # the blocks that end here
            top[at] = largest(bits[at * length : (at + 1) * length])
    if k > 0:
        again, e, q, z = kept[0, :k], kept[1, :k], kept[2, :k], kept[3, :k]
        values(np.bool_(False), rows[:k], evidence, work[1], q)
        step_slopes(again, q, dealt[:k], (z, start_stride, e, stride), plan, codes)
        for r in range(k):
            theta[rows[r]] = again[r]
        for r in range(k):
            at = rows[r] // length
            if at < top.size:
                top[at] = largest(bits[at * length : (at + 1) * length])
