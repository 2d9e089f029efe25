"""Coercion of inputs at the boundary, and the text of every input error.

Every check raises before any state changes. A message names the argument, the index where there is one, and the value, and
the remedy.
"""

from __future__ import annotations

import math
import operator
import sys
import warnings
from collections.abc import Iterable, MappingView, Set
from numbers import Real
from typing import Any, SupportsIndex, TypeVar

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
TieArray = npt.NDArray[np.int32]  # ranks that break ties

_PACKAGE = __name__.partition(".")[0]
MOST_COUNT = 2**53  # rollouts; larger counts are not exact in float64, and sums of them soon not in 64 bits
_Kind = TypeVar("_Kind")


class AllocationWarning(UserWarning):
    """A call that is allowed, and most likely a mistake.

    Examples
    --------
    >>> import warnings
    >>> warnings.simplefilter("error", AllocationWarning)  # to be stopped by one
    >>> warnings.resetwarnings()
    """


def warn(text: str) -> None:
    """Give an :class:`AllocationWarning` that names the user's line: the first caller outside the package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, AllocationWarning, stacklevel=level)


def error_text(name: str, condition: str, value: object, remedy: str, index: int | None = None) -> str:
    """Return the text of an input error."""
    where = name if index is None else f"{name}[{index}]"
    return f"{name} must {condition}, got {where} = {value!r}. {remedy}"


def instance(name: str, value: object, kind: type[_Kind], remedy: str) -> _Kind:
    """Return ``value``, checked to be of a class."""
    if not isinstance(value, kind):
        raise TypeError(error_text(name, f"be a {kind.__name__}", value, remedy))
    return value


def flag(name: str, value: object) -> bool:
    """Return ``value`` as a bool; other types are refused, because a string such as "no" is truthy."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(error_text(name, "be True or False", value, "Pass a bool."))
    return bool(value)


def generator(seed: Any) -> np.random.Generator:
    """Return the random generator of a seed; a generator is returned unchanged."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        remedy = "Give a non-negative integer, a numpy.random.Generator or a SeedSequence."
        raise type(error)(error_text("seed", "seed a random generator", seed, remedy)) from None


def integer(name: str, value: SupportsIndex, *, least: int, remedy: str, most: int | None = None) -> int:
    """Return ``value`` as an int that is at least ``least``, and at most ``most`` where that is given."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(error_text(name, "be an integer", value, remedy))
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(error_text(name, "be an integer", value, remedy)) from None
    if result < least:
        raise ValueError(error_text(name, f"be at least {least}", result, remedy))
    if most is not None and result > most:
        raise ValueError(error_text(name, f"be at most {most}", result, remedy))
    return result


def multiple(name: str, value: SupportsIndex, unit_size: int, *, least: int, most: int | None = None) -> int:
    """Return ``value`` rollouts as an int that is a multiple of ``unit_size``."""
    remedy = "Count whole rollouts." if unit_size == 1 else f"Give a multiple of unit_size = {unit_size} rollouts."
    if isinstance(value, (float, np.floating)) and abs(float(value)) <= MOST_COUNT and float(value) % unit_size == 0.0:
        remedy = f"Pass an int: {int(value)}."
    result = integer(name, value, least=least, remedy=remedy, most=most)
    if result % unit_size:
        below = result - result % unit_size
        remedy = f"The nearest multiples are {below} and {below + unit_size}."
        raise ValueError(error_text(name, f"be a multiple of unit_size = {unit_size}", result, remedy))
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
        # float() would parse strings, and drop imaginary parts and masks
        if isinstance(value, (str, bytes, bytearray, bool, np.bool_, np.complexfloating)) or _first_masked(value) >= 0:
            raise TypeError
        result = float(value)
    except OverflowError:  # of an int
        result = math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        raise TypeError(error_text(name, condition, value, remedy)) from None
    if not (math.isfinite(result) and low <= result <= high) or (open_low and result == low):
        raise ValueError(error_text(name, condition, result, remedy))
    return result


def reals(
    name: str, values: npt.ArrayLike, *, low: float, high: float, remedy: str, open_low: bool = False
) -> FloatArray:
    """Return ``values`` as finite float64 within [low, high], or (low, high] when ``open_low``."""
    no_numbers = f"{name} must be numbers, got {type(values).__name__}. {remedy}"
    array = _floats(name, plain_array(name, values, remedy, TypeError(no_numbers)), remedy, TypeError(no_numbers))
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
    return integers(name, vector(name, values, size), "Pass whole numbers of rollouts in an integer type.")


def integers(name: str, array: npt.NDArray[Any], remedy: str) -> IntArray:
    """Return an array as int64, at most 2**53 in magnitude; bools and whole floats are refused."""
    if array.dtype.kind not in "iu" and array.size:
        entries = array.ravel().tolist()
        odd = [i for i, entry in enumerate(entries) if isinstance(entry, bool) or not hasattr(entry, "__index__")]
        if odd:  # a missing value turns a column of integers into floats: name that one
            broken = [i for i in odd if not (isinstance(entries[i], float) and entries[i].is_integer())]
            i = broken[0] if broken else odd[0]
            if not broken:
                remedy = f"Convert them: numpy.asarray({name}).astype(int)."
            raise ValueError(error_text(name, "be integers", entries[i], remedy, i if array.ndim else None))
        array = np.array([operator.index(entry) for entry in entries], dtype=object).reshape(array.shape)
    if array.size and max(int(array.max()), -int(array.min())) > MOST_COUNT:
        first = int(np.flatnonzero((array.ravel() > MOST_COUNT) | (array.ravel() < -MOST_COUNT))[0])
        value = int(array.ravel()[first])
        raise ValueError(error_text(name, "be at most 2**53", value, "Check the units.", first if array.ndim else None))
    return np.array(array, dtype=np.int64)


def successes(name: str, values: npt.ArrayLike, size: int) -> FloatArray:
    """Return ``values`` as ``size`` float64 successes; the range is checked against the rollouts."""
    remedy = "Pass summed rewards, one sum per prompt."
    array = vector(name, values, size)
    if array.dtype.kind in "iu" or array.dtype == np.float64:  # building the error text takes longer than this
        return np.array(array, dtype=np.float64)
    return _floats(name, array, remedy, ValueError(f"{name} must be numbers, got an array of {array.dtype}. {remedy}"))


def rewards_per_rollout(name: str, values: npt.ArrayLike, size: int) -> FloatArray:
    """Return ``values`` as ``size`` float64 rewards, NaN where one is None."""
    remedy = "Pass one reward per rollout."
    array = plain_array(name, values, remedy)
    if array.shape != (size,):
        raise ValueError(
            f"{name} must have one entry per rollout, got {name}.shape = {array.shape!r} for {size} prompt ids. {remedy}"
        )
    if array.dtype.kind == "O":
        array = np.array([_score(entry) for entry in array.tolist()], dtype=object)
    if array.dtype.kind in "iu" or array.dtype == np.float64:  # building the error text takes longer than this
        return np.array(array, dtype=np.float64)
    return _floats(name, array, remedy, ValueError(f"{name} must be numbers, got an array of {array.dtype}. {remedy}"))


def _score(entry: Any) -> Any:
    """Return a reward as it is, but None as NaN, and True and False as 1 and 0, as an array of bools has them."""
    return np.nan if entry is None else float(entry) if isinstance(entry, bool) else entry


def _floats(name: str, array: npt.NDArray[Any], remedy: str, error: Exception) -> FloatArray:
    """Return a copy of an array as float64, which the caller cannot write to, or raise the error."""
    if array.dtype.kind == "O" and array.size:
        entries = array.ravel().tolist()
        for i, entry in enumerate(entries):
            if isinstance(entry, bool) or not isinstance(entry, Real):
                raise type(error)(error_text(name, "be numbers", entry, remedy, i)) if array.ndim else error
        try:
            return np.array([float(entry) for entry in entries]).reshape(array.shape)
        except OverflowError:  # of an int beyond every bound
            return np.full(array.shape, np.inf)
    if array.dtype.kind not in "biuf" and array.size:
        raise error
    with np.errstate(over="ignore"):  # of a wider float, which becomes infinite and is refused
        return np.array(array, dtype=np.float64)


def plain_array(name: str, values: Any, remedy: str, ragged: Exception | None = None) -> npt.NDArray[Any]:
    """Return ``values`` (a sequence, iterator or tensor) as an array; refuse masked entries and sets, which have no order."""
    require_unmasked(name, values)
    require_ordered(name, values)
    single = isinstance(values, Iterable) and not hasattr(values, "__len__") and not hasattr(values, "__array__")
    if single or isinstance(values, MappingView):  # an iterator, which NumPy would take for one object
        values = list(values)
    try:
        return np.asarray(values)
    except ValueError:
        worded = f"{name} must be a plain array, got a ragged {type(values).__name__}. {remedy}"
        raise (ragged or ValueError(worded)) from None
    except (TypeError, RuntimeError) as error:
        raise no_array(name, values, error) from None


def no_array(name: str, values: object, error: Exception) -> TypeError:
    """Return the error for a tensor on another device, with a gradient, or of a type that NumPy lacks."""
    steps = "detach().cpu()" if "int" in str(getattr(values, "dtype", "")) else "detach().float().cpu()"
    got = f"{type(values).__name__}: {str(error).rstrip('.')}"
    remedy = f"Pass a NumPy array; of a torch tensor, tensor.{steps}."
    return TypeError(f"{name} must convert to a NumPy array, got {got}. {remedy}")


def require_unmasked(name: str, values: object) -> None:
    """Refuse masked entries, because conversion would drop the mask."""
    first = _first_masked(values)
    if first >= 0:
        raise ValueError(error_text(name, "have no masked entries", values, "Fill or drop them.", first))


def _first_masked(values: object) -> int:
    """Return the first masked entry, -1 where there is none."""
    masked = sys.modules.get("numpy.ma")  # as long as it is not loaded, no such array exists
    if masked is None or not isinstance(values, masked.MaskedArray):
        return -1
    places = np.flatnonzero(masked.getmaskarray(values).ravel())
    return int(places[0]) if places.size else -1


def require_ordered(name: str, values: object) -> None:
    """Refuse a set, because nothing can be aligned with it. A dict and its views keep the order of insertion."""
    if isinstance(values, Set) and not isinstance(values, MappingView):
        raise TypeError(error_text(name, "be in an order", values, "Pass sorted(...): a set has none."))


def vector(name: str, values: npt.ArrayLike, size: int) -> npt.NDArray[Any]:
    """Return ``values`` as a one-dimensional array of ``size`` entries."""
    remedy = "Sum the rollouts of each prompt before the call."
    array = plain_array(name, values, remedy)
    if array.shape != (size,):
        raise ValueError(
            f"{name} must have one entry per prompt id, got {name}.shape = {array.shape!r} for {size} prompt ids. {remedy}"
        )
    return array


def pool_rows(name: str, values: npt.ArrayLike, n_prompts: int, index: int | None = None) -> IntArray:
    """Return ``values`` as int64 rows of a pool of ``n_prompts``."""
    remedy = "Give rows of the pool."
    rows = plain_array(name if index is None else f"{name}[{index}]", values, remedy)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or (rows.size and not 0 <= rows.min() <= rows.max() < n_prompts):
        condition = f"hold rows between 0 and {n_prompts - 1}"
        raise ValueError(error_text(name, condition, rows.tolist(), remedy, index))
    return rows.astype(np.int64)
