"""Kernels of the baselines."""

from cero_alloc._numba import kernel
from cero_alloc._objective.kernels import scale_of, u


@kernel
def block_gains(rows, q, z, share, block, shape, scaling, lam, seen_q, seen_z, known, out):
    """Write U(x + block) - U(x) of these rows, x = z / share, from ``known`` if value and exposure are unchanged."""
    for r in range(rows.size):
        i = rows[r]
        if q[r] != seen_q[i] or z[r] != seen_z[i]:
            seen_q[i], seen_z[i] = q[r], z[r]
            height, rate = scale_of(scaling, lam, q[r])
            x = z[r] / share
            known[i] = u(shape, height, rate, x + block) - u(shape, height, rate, x)
        out[r] = known[i]
