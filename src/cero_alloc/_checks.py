"""Coercion of inputs at the boundary, and the text of every input error.

Everything raises before any state changes. A message names the argument, the index where there is one, the value, and
what to do.
"""

from __future__ import annotations

import math
import operator
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
TieArray = npt.NDArray[np.int32]  # ranks that break ties


def error_text(name: str, condition: str, value: object, remedy: str, index: int | None = None) -> str:
    """Word an input error the way all of them are worded."""
    where = name if index is None else f"{name}[{index}]"
    return f"{name} must {condition}, got {where} = {value!r}. {remedy}"


def integer(name: str, value: SupportsIndex, *, least: int, remedy: str) -> int:
    """Return ``value`` as an int that is at least ``least``."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(error_text(name, "be an integer", value, remedy))
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(error_text(name, "be an integer", value, remedy)) from None
    if result < least:
        raise ValueError(error_text(name, f"be at least {least}", result, remedy))
    return result


def multiple(name: str, value: SupportsIndex, group_size: int, *, least: int) -> int:
    """Return ``value`` rollouts as an int that whole groups make up."""
    remedy = f"Give whole groups of {group_size} rollouts."
    result = integer(name, value, least=least, remedy=remedy)
    if result % group_size:
        raise ValueError(error_text(name, f"be a multiple of group_size = {group_size}", result, remedy))
    return result


def real(name: str, value: Any, *, low: float, high: float, open_low: bool = False, remedy: str) -> float:
    """Return ``value`` as a finite float in [low, high], or (low, high] when ``open_low``."""
    bracket = "(" if open_low else "["
    condition = (
        f"be a number in {bracket}{low:g}, {high:g}]" if math.isfinite(high) else f"be finite and at least {low:g}"
    )
    if open_low and not math.isfinite(high):
        condition = f"be finite and greater than {low:g}"
    try:
        if isinstance(value, (str, bytes)):  # float() would read numbers out of words
            raise TypeError
        result = float(value)
    except (TypeError, ValueError):
        raise TypeError(error_text(name, condition, value, remedy)) from None
    if not (math.isfinite(result) and low <= result <= high) or (open_low and result == low):
        raise ValueError(error_text(name, condition, result, remedy))
    return result


def reals(
    name: str, values: npt.ArrayLike, *, low: float, high: float, remedy: str, open_low: bool = False
) -> FloatArray:
    """Return ``values`` as finite float64 within [low, high], or (low, high] when ``open_low``."""
    try:
        array = np.asarray(values)
        numeric = array.dtype.kind in "biuf" or array.size == 0
    except ValueError:  # ragged
        numeric = False
    if not numeric:
        raise TypeError(f"{name} must be numbers, got {type(values).__name__}. {remedy}")
    array = np.array(array, dtype=np.float64)  # a copy: the caller may go on writing into his
    bad = ~(np.isfinite(array) & ((array > low) if open_low else (array >= low)) & (array <= high))
    if bad.any():
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        condition = f"be finite, {'greater than' if open_low else 'at least'} {low:g}{upper}"
        if array.ndim == 0:
            raise ValueError(error_text(name, condition, float(array), remedy))
        first = int(np.flatnonzero(bad.ravel())[0])
        raise ValueError(error_text(name, condition, float(array.ravel()[first]), remedy, first))
    return array


def counts(name: str, values: npt.ArrayLike, size: int) -> IntArray:
    """Return ``values`` as ``size`` int64 rollouts; the sign is checked with the successes."""
    array = vector(name, values, size)
    if array.dtype.kind not in "iu" and array.size:
        remedy = "Pass whole numbers of rollouts in an integer type."
        for i, entry in enumerate(array.tolist()):
            if not isinstance(entry, int) or isinstance(entry, bool):
                raise ValueError(error_text(name, "be integers", entry, remedy, i))
    if array.dtype.kind in "uO" and array.size and array.max() > np.iinfo(np.int64).max:
        first = int(array.argmax())
        raise ValueError(error_text(name, "fit in 64 signed bits", int(array[first]), "Check the units.", first))
    return np.array(array, dtype=np.int64)


def successes(name: str, values: npt.ArrayLike, size: int) -> FloatArray:
    """Return ``values`` as ``size`` float64 successes; the range is checked against the rollouts."""
    array = vector(name, values, size)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must be numbers, got an array of {array.dtype}. Pass summed rewards, one sum per prompt."
        )
    return np.array(array, dtype=np.float64)


def vector(name: str, values: npt.ArrayLike, size: int) -> npt.NDArray[Any]:
    """Return ``values`` as a one-dimensional array of ``size`` entries."""
    remedy = "Sum the rollouts of each prompt before the call."
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} must be a plain array, got a ragged {type(values).__name__}. {remedy}") from None
    if array.shape != (size,):
        raise ValueError(
            f"{name} must have one entry per prompt id, got {name}.shape = {array.shape!r} for {size} prompt ids. {remedy}"
        )
    return array
