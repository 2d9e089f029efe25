"""Whether kernels are compiled here. ``NUMBA_DISABLE_JIT=1`` runs them as plain Python, some hundred times slower."""

import pytest

from cero_alloc._numba import INTERPRETED

JIT = not INTERPRETED
compiled = pytest.mark.skipif(not JIT, reason="about compiled code; NUMBA_DISABLE_JIT is set")
long_runs = pytest.mark.skipif(not JIT, reason="plays runs that take plain Python an hour; NUMBA_DISABLE_JIT is set")


def either(compiled_code, python):
    """Return how large a pool is, or how many are played: less where Python walks over them."""
    return compiled_code if JIT else python
