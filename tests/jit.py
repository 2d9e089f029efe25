"""Whether kernels are compiled here. ``NUMBA_DISABLE_JIT=1`` runs them as plain Python, some hundred times slower."""

import pytest
from numba import config

JIT = not config.DISABLE_JIT
compiled = pytest.mark.skipif(not JIT, reason="about compiled code; NUMBA_DISABLE_JIT is set")


def prompts(size, interpreted):
    """Return the size of a pool, or a smaller one where Python walks over it."""
    return size if JIT else interpreted
