"""Whether kernels are compiled here. ``NUMBA_DISABLE_JIT=1`` runs them as plain Python, some hundred times slower."""

import pytest

from cero_alloc._kernels import INTERPRETED

JIT = not INTERPRETED
compiled = pytest.mark.skipif(not JIT, reason="about compiled code; NUMBA_DISABLE_JIT is set")
long_runs = pytest.mark.skipif(not JIT, reason="plays runs that take plain Python an hour; NUMBA_DISABLE_JIT is set")


def prompts(size, interpreted):
    """Return the size of a pool, or a smaller one where Python walks over it."""
    return size if JIT else interpreted
