"""Snapshots: an object's state as a plain dict of arrays and scalars, and back, copied both ways and checked first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

import numpy as np

from cero_alloc._checks import error_text

State = dict[str, Any]
_SCALARS = {int, float, str, bool, type(None)}
REMEDY = "Load it into an object that was built with the same arguments."


class Stateful:
    """State by lists of attribute names; parts that are stateful themselves nest.

    ``_STATE`` names what changes in a run, ``_OPTIONAL`` those of it that may be None, and ``_FIXED`` what an object that
    takes the state must have in common with the one that gave it. Arrays keep their shape, but for those in
    ``_PER_PROMPT``, which have a row for every prompt in the state, and those in ``_SHARED``, which have such rows or one
    for all. ``_EXTRA`` entries a class writes, checks and puts back by itself. The rest follows from the arguments.
    """

    __slots__ = ()
    _STATE: ClassVar[tuple[str, ...]] = ()
    _OPTIONAL: ClassVar[tuple[str, ...]] = ()
    _FIXED: ClassVar[tuple[str, ...]] = ()
    _PER_PROMPT: ClassVar[tuple[str, ...]] = ()
    _SHARED: ClassVar[tuple[str, ...]] = ()
    _EXTRA: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> State:
        """Return the state as a plain dict of copies: arrays, scalars, and dicts of them."""
        return self._snapshot()

    def _snapshot(self) -> State:
        names = (*self._FIXED, *self._STATE)
        return {"class": type(self).__name__, **{key_of(name): plain(getattr(self, name)) for name in names}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state_dict`` returned; see :meth:`Saved.load_state_dict` for the errors."""
        self._check_state(state, "state", None)
        self._put(state)

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        """Raise unless every entry fits; ``size`` is the number of prompts in the state."""
        kind = type(self).__name__
        if not isinstance(state, Mapping):
            raise TypeError(error_text(label, f"be the dict that {kind}.state_dict returned", state, REMEDY))
        if not is_of(state, kind):
            raise ValueError(error_text(f"{label}['class']", f"be {kind!r}", state.get("class"), REMEDY))
        odd = sorted(
            {key_of(name) for name in (*self._FIXED, *self._STATE, *self._EXTRA)} ^ (set(state) - {"class"}), key=str
        )
        if odd:
            raise ValueError(f"{label} must hold the entries of a {kind}, missing or foreign: {odd}. {REMEDY}")
        for name in self._FIXED:
            odd_part = difference(plain(getattr(self, name)), state[key_of(name)])
            if odd_part is not None:
                raise ValueError(f"{label}[{key_of(name)!r}] must equal that of this {kind}, {odd_part}. {REMEDY}")
        for name in self._STATE:
            now, then = getattr(self, name), state[key_of(name)]
            if then is None and name in self._OPTIONAL:
                continue
            like = self._when_set(name) if now is None and name in self._OPTIONAL else now
            rows = size if name in (*self._PER_PROMPT, *self._SHARED) else None
            _check(f"{label}[{key_of(name)!r}]", like, then, size, rows, name in self._SHARED)

    def _when_set(self, name: str) -> Any:
        """Return what an optional entry that is None now looks like when it is not: a number unless overridden."""
        return 0.0

    def _put(self, state: Mapping[str, Any]) -> None:
        """Take a state that has been checked."""
        for name in self._STATE:
            now, then = getattr(self, name), state[key_of(name)]
            if isinstance(now, np.random.Generator):
                now.bit_generator.state = plain(then)
            elif isinstance(now, Stateful):
                now._put(then)
            else:
                setattr(self, name, plain(then))


def is_of(state: object, kind: str) -> bool:
    """Tell whether a state says that it is of this class."""
    return isinstance(state, Mapping) and isinstance(state.get("class"), str) and state["class"] == kind


def require(label: str, condition: str, holds: object) -> None:
    """Raise unless an entry's values are possible; arrays of bools must hold throughout."""
    fits = np.asarray(holds)
    if not fits.all():
        where = f"{label}[{int(np.flatnonzero(~fits.ravel())[0])}]" if fits.ndim else label
        raise ValueError(f"{label} must {condition}, which {where} does not. Pass what state_dict returned.")


def check_array(label: str, like: np.ndarray[Any, Any], then: object, rows: int | None = None) -> None:
    """Raise unless ``then`` is an array of the same shape and type, or with so many rows, of finite numbers."""
    shape = like.shape if rows is None else (rows, *like.shape[1:])
    if not isinstance(then, np.ndarray) or (then.shape, then.dtype) != (shape, like.dtype):
        got = f"{then.dtype} of shape {then.shape}" if isinstance(then, np.ndarray) else type(then).__name__
        raise ValueError(error_text(label, f"be {like.dtype} of shape {shape}", got, REMEDY))
    if like.dtype.kind == "f":
        require(label, "be finite", np.isfinite(then))


def _check(label: str, now: Any, then: Any, size: int | None, rows: int | None, shared: bool) -> None:
    if isinstance(now, Stateful):
        now._check_state(then, label, size)
    elif isinstance(now, np.ndarray):
        one = shared and isinstance(then, np.ndarray) and then.shape[:1] == (1,)
        check_array(label, now, then, 1 if one else rows)
    elif isinstance(now, np.random.Generator):
        kind = type(now.bit_generator).__name__
        try:
            if any(isinstance(n, int) and n < 0 for n in (*then.values(), *then["state"].values())):
                raise ValueError(then)  # NumPy 1 would wrap the number around
            type(now.bit_generator)().state = then
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError):
            raise ValueError(error_text(label, f"be the state of a {kind}", then, REMEDY)) from None
    elif isinstance(now, (bool, int, float, np.number)):
        if not isinstance(then, (bool, int, float, np.number)):
            raise ValueError(error_text(label, "be a number", then, REMEDY))
        if isinstance(now, (int, np.integer)) and not isinstance(then, (int, np.integer)):
            raise ValueError(error_text(label, "be an integer", then, REMEDY))
    elif type(then) is not type(plain(now)):
        raise ValueError(error_text(label, f"be a {type(plain(now)).__name__}", type(then).__name__, REMEDY))


def key_of(name: str) -> str:
    """Return the key of an attribute in a state: its name without a leading underscore."""
    return name.lstrip("_")


def difference(now: Any, then: Any) -> str | None:
    """Word the first difference of two numbers, mappings, arrays or sequences; None where there is none."""
    if now is None or isinstance(now, (bool, int, float, str)):
        same = now == then if isinstance(then, (bool, int, float, str)) else now is then
        return None if same else f"got {then!r} instead of {now!r}"
    now, then = (x.tolist() if isinstance(x, np.ndarray) else x for x in (now, then))
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        pairs = [(key, now.get(key), then.get(key)) for key in {**now, **then}]
    elif isinstance(now, Mapping) or not isinstance(then, (list, tuple, range)):
        return f"got {type(then).__name__}"
    elif len(now) != len(then):
        return f"got {len(then)} entries instead of {len(now)}"
    else:
        types = list(map(type, now))
        if (
            _SCALARS.issuperset(types) and types == list(map(type, then)) and list(now) == list(then)
        ):  # of millions, perhaps
            return None
        pairs = list(zip(range(len(now)), now, then, strict=True))
    for place, ours, theirs in pairs:
        if isinstance(ours, (Mapping, list, tuple, np.ndarray)):
            found = difference(ours, theirs)
            if found is not None:
                return f"{found} in {place!r}"
        elif type(ours) is not type(theirs) or ours != theirs:
            return f"got {theirs!r} instead of {ours!r} at {place!r}"
    return None


def plain(part: Any) -> Any:
    """Return a copy as arrays, scalars, strings, lists and dicts of them; what is none of these comes back as it is."""
    if isinstance(part, np.random.Generator):
        return plain(part.bit_generator.state)
    if isinstance(part, Stateful):
        return part._snapshot()
    if is_dataclass(part) and not isinstance(part, type):
        return {field.name: plain(getattr(part, field.name)) for field in fields(part) if field.init}
    if isinstance(part, np.ndarray):
        return part.copy()
    if isinstance(part, np.generic):
        return part.item()
    if isinstance(part, Mapping):
        return {key: plain(entry) for key, entry in part.items()}
    if hasattr(part, "_asdict"):  # a named tuple
        return plain(part._asdict())
    if isinstance(part, (list, tuple)):
        return type(part)(plain(entry) for entry in part)
    return part
