"""Kernels of the baselines."""

from cero_alloc._numba import kernel
from cero_alloc._objective.kernels import scale_of, u


@kernel
def block_gains(rows, q, z, share, block, codes, known, out):
    """Write U(x + block) - U(x) of these rows, x = z / share.

    ``known`` (3 x n_prompts) holds values, exposures and gains of the last call: unchanged rows take their gain from there.
    """
    shape, scaling, lam = codes
    seen_q, seen_z, gain = known[0], known[1], known[2]
    for r in range(rows.size):
        i = rows[r]
        if q[r] != seen_q[i] or z[r] != seen_z[i]:
            seen_q[i], seen_z[i] = q[r], z[r]
            height, rate = scale_of(scaling, lam, q[r])
            x = z[r] / share
            gain[i] = u(shape, height, rate, x + block) - u(shape, height, rate, x)
        out[r] = gain[i]
