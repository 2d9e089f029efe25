"""Snapshots: an object's state as a plain dict of arrays and scalars, and back, copied both ways and checked first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, ClassVar

import numpy as np

from ._checks import error_text

State = dict[str, Any]
_REMEDY = "Load it into an object that was built with the same arguments."


class Stateful:
    """State by lists of attribute names; parts that are stateful themselves nest.

    ``_STATE`` names what changes in a run, ``_OPTIONAL`` those of it that may be None, and ``_FIXED`` what an object that
    takes the state must have in common with the one that gave it. The rest follows from the arguments.
    """

    __slots__ = ()
    _STATE: ClassVar[tuple[str, ...]] = ()
    _OPTIONAL: ClassVar[tuple[str, ...]] = ()
    _FIXED: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> State:
        """Return the state as a plain dict of copies: arrays, scalars, and dicts of them."""
        names = (*self._FIXED, *self._STATE)
        return {"class": type(self).__name__, **{_key(name): _copy(getattr(self, name)) for name in names}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state_dict`` returned.

        A random generator that was passed as ``seed`` is shared with the caller, and put back with the rest.

        Parameters
        ----------
        state : mapping
            State of an object that was built with the same arguments.

        Raises
        ------
        TypeError
            For anything but a mapping.
        ValueError
            For the state of another class, prompts or horizon, for missing or foreign entries, and for entries of
            another shape or type; the message names the entry, and nothing changes.
        """
        self._check_state(state, "state")
        self._put(state)

    def _check_state(self, state: Any, label: str) -> None:
        """Raise unless every entry fits."""
        kind = type(self).__name__
        if not isinstance(state, Mapping):
            raise TypeError(error_text(label, f"be the dict that {kind}.state_dict returned", state, _REMEDY))
        if state.get("class") != kind:
            raise ValueError(error_text(f"{label}['class']", f"be {kind!r}", state.get("class"), _REMEDY))
        odd = sorted({_key(name) for name in (*self._FIXED, *self._STATE)} ^ (set(state) - {"class"}), key=str)
        if odd:
            raise ValueError(f"{label} must hold the entries of a {kind}, missing or foreign: {odd}. {_REMEDY}")
        for name in self._FIXED:
            odd_part = _difference(_copy(getattr(self, name)), state[_key(name)])
            if odd_part is not None:
                raise ValueError(f"{label}[{_key(name)!r}] must equal that of this {kind}, {odd_part}. {_REMEDY}")
        for name in self._STATE:
            now, then = getattr(self, name), state[_key(name)]
            if then is None and name in self._OPTIONAL:
                continue
            like = self._when_set(name) if now is None and name in self._OPTIONAL else now
            _check(f"{label}[{_key(name)!r}]", like, then)

    def _when_set(self, name: str) -> Any:
        """Return what an optional entry that is None now looks like when it is not: a number unless overridden."""
        return 0.0

    def _put(self, state: Mapping[str, Any]) -> None:
        """Take a state that has been checked."""
        for name in self._STATE:
            now, then = getattr(self, name), state[_key(name)]
            if isinstance(now, np.random.Generator):
                now.bit_generator.state = _copy(then)
            elif isinstance(now, Stateful):
                now._put(then)
            else:
                setattr(self, name, _copy(then))


def check_array(label: str, like: np.ndarray[Any, Any], then: object) -> None:
    """Raise unless ``then`` is an array of the same shape and type."""
    if not isinstance(then, np.ndarray) or (then.shape, then.dtype) != (like.shape, like.dtype):
        got = f"{then.dtype} of shape {then.shape}" if isinstance(then, np.ndarray) else type(then).__name__
        raise ValueError(error_text(label, f"be {like.dtype} of shape {like.shape}", got, _REMEDY))


def _check(label: str, now: Any, then: Any) -> None:
    if isinstance(now, Stateful):
        now._check_state(then, label)
    elif isinstance(now, np.ndarray):
        check_array(label, now, then)
    elif isinstance(now, np.random.Generator):
        try:
            type(now.bit_generator)().state = then
        except (TypeError, ValueError, KeyError, AttributeError):
            kind = type(now.bit_generator).__name__
            raise ValueError(error_text(label, f"be the state of a {kind}", then, _REMEDY)) from None
    elif isinstance(now, (bool, int, float, np.number)):
        if not isinstance(then, (bool, int, float, np.number)):
            raise ValueError(error_text(label, "be a number", then, _REMEDY))
    elif type(then) is not type(now):
        raise ValueError(error_text(label, f"be a {type(now).__name__}", type(then).__name__, _REMEDY))


def _key(name: str) -> str:
    return name.lstrip("_")


def _difference(now: Any, then: Any) -> str | None:
    """Word the first difference of two numbers, mappings or sequences; None where there is none."""
    if isinstance(now, int):
        return None if now == then else f"got {then!r} instead of {now!r}"
    then = then.tolist() if isinstance(then, np.ndarray) and then.ndim == 1 else then
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        pairs = [(key, now.get(key), then.get(key)) for key in {**now, **then}]
    elif isinstance(now, Mapping) or not isinstance(then, (list, tuple, range)):
        return f"got {type(then).__name__}"
    elif len(now) != len(then):
        return f"got {len(then)} entries instead of {len(now)}"
    else:
        pairs = list(zip(range(len(now)), now, then, strict=True))
    found = [(place, ours, theirs) for place, ours, theirs in pairs if type(ours) is not type(theirs) or ours != theirs]
    return f"got {found[0][2]!r} instead of {found[0][1]!r} at {found[0][0]!r}" if found else None


def _copy(part: Any) -> Any:
    if isinstance(part, np.random.Generator):
        return _copy(part.bit_generator.state)
    if isinstance(part, Stateful):
        return part.state_dict()
    if is_dataclass(part) and not isinstance(part, type):
        return asdict(part)
    if isinstance(part, np.ndarray):
        return part.copy()
    if isinstance(part, Mapping):
        return {key: _copy(entry) for key, entry in part.items()}
    if isinstance(part, (list, tuple)):
        return type(part)(_copy(entry) for entry in part)
    return part
