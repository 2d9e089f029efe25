"""The kernels of the baselines against their twins, at ordinary and extreme arguments."""

import numpy as np

import twins
from helpers import kernels
from helpers.kernel_cases import SCALINGS, SHAPES, generators, values_of


@SHAPES
@SCALINGS
def test_block_gains_match_their_twin(shape, scaling):
    for rng in generators(5):
        size = 9
        known = np.full((3, size), np.nan)
        q, z = values_of(rng, size), rng.integers(0, 50, size)
        for _ in range(4):
            rows = rng.permutation(size)[: rng.integers(1, size + 1)]
            changed = rng.integers(size, size=2)
            q[changed[0]], z[changed[1]] = rng.uniform(0, 0.25), rng.integers(0, 50)
            out, args = np.empty(rows.size), (11.5, 0.7, (shape, scaling, 1.3))
            kernels.block_gains(rows, q[rows], z[rows], *args, known, out)
            np.testing.assert_allclose(out, twins.block_gains(rows, q[rows], z[rows], *args), rtol=1e-12, atol=1e-15)
