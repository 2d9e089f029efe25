"""The kernels without the compiler: their source, run by Python with the arithmetic of compiled code.

Where ``NUMBA_DISABLE_JIT=1`` numba hands every kernel back as it is. Python's own arithmetic differs: it raises where floats
overflow or are divided by zero, and warns where integers wrap around. Here is what makes the two agree.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

_running = threading.local()


def interpreted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the kernel with numpy's floats inside, whose quotients by zero are infinite, and Python's numbers outside."""

    @wraps(function)
    def call(*args: Any) -> Any:
        if getattr(_running, "kernel", False):  # called by another kernel
            return function(*args)
        _running.kernel = True
        try:
            with np.errstate(all="ignore"):
                result = function(*[np.float64(x) if type(x) is float else x for x in args])
        finally:
            _running.kernel = False
        return tuple(map(_plain, result)) if isinstance(result, tuple) else _plain(result)

    return call


def total(function: Any) -> Any:
    """Return a function of the ``math`` module with infinities and NaN where it raises."""
    limit = getattr(np, function.__name__)

    def call(x: float) -> np.float64:
        try:
            return np.float64(function(x))
        except (OverflowError, ValueError):
            return np.float64(limit(x))

    return call


def _plain(result: Any) -> Any:
    return result.item() if isinstance(result, np.generic) else result
