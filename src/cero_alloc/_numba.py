"""How kernels are compiled, and how their source runs where the compiler is off.

Contract of a kernel
--------------------
* Inputs are coerced (float64 or int64, C-contiguous) and checked by the caller: a kernel never raises and never allocates.
  Results go into ``out`` arguments; what can fail returns a status.
* A kernel is a plain lazily compiled function: no explicit signatures, no fastmath (it breaks NaN tests), no random numbers.
* Kernels live in files named ``kernels.py`` or ``*_kernels.py`` beside their callers. Numba's disk cache does not notice a
  changed callee in another file, so calls across files go only into ``_objective/kernels.py`` and ``_evidence/kernels.py``.
* Every kernel has a slow and obvious twin of the same name in ``tests/twins``.
* Differences of nearly equal numbers go through ``expm1`` and ``log1p``.

Where ``NUMBA_DISABLE_JIT=1``, numba returns every kernel as it is. Python's arithmetic differs from compiled code: it raises
where floats overflow or are divided by zero, and warns where integers wrap around. :func:`interpreted` and :func:`total` make
the two agree.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from types import FunctionType
from typing import Any

# What numba imports at the first call of any kernel (scipy.linalg for its BLAS, cffi), imported with the package: the first
# round of a training run is the wrong place to wait for it.
import numba.misc.cffiimpl
import numba.np.arraymath  # noqa: F401
import numpy as np
from numba import config, njit

INTERPRETED: bool = config.DISABLE_JIT  # type: ignore[attr-defined]
KERNELS: dict[str, Any] = {}  # every kernel of the modules imported so far, by name
PATIENCE = 100_000  # entries that Python reads before a kernel of a cold path is compiled, less than a second's worth

_PACKAGE = Path(__file__).parent
_SHARED = ("_numba.py", "_objective/kernels.py", "_evidence/kernels.py")  # what kernels of other files call


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function lazily, cached on disk where a cache folder is writable; interpret it where the compiler is off."""
    known = KERNELS.get(function.__name__)
    if known is not None and known.__module__ != function.__module__:  # one table holds all, by name
        raise ValueError(f"kernels must have names of their own, got a second {function.__name__}. Rename one.")
    if INTERPRETED:
        KERNELS[function.__name__] = interpreted(function)
        return KERNELS[function.__name__]
    # An entry for C, which nothing here calls, takes a tenth of the compiler's time.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    try:
        compiled = njit(cache=True, **options)(function)
        _drop_stale(compiled.stats.cache_path)
    except RuntimeError:  # read-only install and home: numba finds no place for its cache
        compiled = njit(**options)(function)
    KERNELS[function.__name__] = compiled
    return compiled


def is_cached(compiled: Any) -> bool:
    """Whether a kernel need not be compiled before it runs: it is interpreted, or in a disk cache."""
    if INTERPRETED:
        return True
    folder = compiled.stats.cache_path
    return folder is not None and any(Path(folder).glob(f"*.{compiled.__name__}-*.nbi"))


def when_it_pays(compiled: Any, size: int) -> Any:
    """Return a kernel for a call that reads ``size`` entries: compiled where that is done, else at first as Python runs it.

    A process that reads more than ``PATIENCE`` entries compiles the kernel: Python has then taken about as long as the
    compiler will. Results are the same to the last bit.
    """
    if INTERPRETED or compiled.overloads:
        return compiled
    name = compiled.__name__
    if name not in _read:
        _read[name] = PATIENCE if is_cached(compiled) else 0
    _read[name] += size
    return compiled if _read[name] > PATIENCE else _in_python(compiled)


@cache
def _drop_stale(folder: str) -> None:
    """Delete cache indices older than the newest shared kernel file, in a checkout where these files may be edited.

    Numba compares an index with the kernel's own file only. An installed wheel never changes, so it is left alone.
    """
    if not (_PACKAGE.parents[1] / "pyproject.toml").is_file():
        return
    newest = max((_PACKAGE / name).stat().st_mtime for name in _SHARED)
    for index in Path(folder).glob("*.nbi"):
        try:
            if index.stat().st_mtime < newest:
                index.unlink(missing_ok=True)
        except OSError:  # another process deleted it first, or the folder is read-only
            continue


# ---------------------------------------------------------------- without the compiler

_running = threading.local()
_read: dict[str, int] = {}  # entries that each kernel has read in Python; PATIENCE where that ended before it began


@cache
def _in_python(compiled: Any) -> Callable[..., Any]:
    """Return a kernel as Python runs it, with all that it calls."""
    return interpreted(_source(compiled))


@cache
def _source(compiled: Any) -> FunctionType:
    """Return the source of a kernel, which calls the sources of other kernels."""
    function = compiled.py_func
    scope = {name: function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__}
    for name, value in scope.items():
        if KERNELS.get(name) is value:
            scope[name] = _source(value)
        elif getattr(value, "__module__", "") == "math":
            scope[name] = total(value)
    return FunctionType(function.__code__, scope, function.__name__)


def interpreted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the kernel with NumPy floats inside, whose quotients by zero are infinite, and Python numbers outside."""

    @wraps(function)
    def call(*args: Any) -> Any:
        if getattr(_running, "kernel", False):  # called by another kernel
            return function(*args)
        _running.kernel = True
        try:
            with np.errstate(all="ignore"):
                result = function(*map(_numpy, args))
        finally:
            _running.kernel = False
        return tuple(map(_plain, result)) if isinstance(result, tuple) else _plain(result)

    return call


def total(function: Any) -> Any:
    """Return a function of the ``math`` module that gives infinities and NaN where the original raises."""
    limit = getattr(np, function.__name__, lambda x: np.inf)  # lgamma, which is infinite where it raises

    def call(x: float) -> np.float64:
        try:
            return np.float64(function(x))
        except (OverflowError, ValueError):
            return np.float64(limit(x))

    return call


def _numpy(argument: Any) -> Any:
    """Return floats as NumPy's, also those inside tuples."""
    if type(argument) is tuple:
        return tuple(map(_numpy, argument))
    return np.float64(argument) if type(argument) is float else argument


def _plain(result: Any) -> Any:
    return result.item() if isinstance(result, np.generic) else result


exp, expm1, lgamma, log, log1p, sqrt = (
    (total(f) if INTERPRETED else f) for f in (math.exp, math.expm1, math.lgamma, math.log, math.log1p, math.sqrt)
)
