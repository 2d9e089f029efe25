"""An object's state as a plain dict of arrays and scalars: copied both ways, and checked before anything changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from operator import is_
from typing import Any, ClassVar, Final, Literal, NamedTuple

import numpy as np

from cero_alloc._checks import error_text

State = dict[str, Any]
REMEDY = "Load it into an object that was built with the same arguments."
UNCHANGED = "Pass what state_dict returned."

_SCALARS = {int, float, str, bool, type(None)}
_NEVER: Final = object()  # the attribute is never None
ANYTHING: Final = object()  # the attribute may be None, and ``holds`` alone checks its other values


class Field(NamedTuple):
    """How one attribute is saved and checked. By default its value in a state has the type and shape of the present one.

    Attributes
    ----------
    rows : {"same", "prompts", "shared"}
        Length of an array: as it is now, one row per prompt in the state, or such rows or one row for all prompts.
    when_set : object
        An example of the value where None is allowed as well.
    fixed : bool
        Whether the value must equal that of the object that loads the state.
    must : str
        The condition in words; ``{now}`` stands for the entry ``now`` of the state.
    holds : callable or None
        ``holds(value, state)`` returns whether the condition holds, for an array entry by entry. It is called once all
        entries have the right type and shape, and not for None.
    build : callable or None
        Makes the attribute from the keywords that its plain form holds; None takes a copy of the plain form.
    own : bool
        Whether the class itself writes, checks and restores the entry, because no attribute has its plain form.
    older : callable or None
        ``older(state)`` makes the entry of a state that was written before there was this field; None: every state has it.
    """

    rows: Literal["same", "prompts", "shared"] = "same"
    when_set: Any = _NEVER
    fixed: bool = False
    must: str = ""
    holds: Callable[[Any, Mapping[str, Any]], Any] | None = None
    build: Callable[..., Any] | None = None
    own: bool = False
    older: Callable[[Mapping[str, Any]], Any] | None = None


class Stateful:
    """An object whose state is the attributes named in ``FIELDS``; attributes that are stateful themselves nest.

    What ``FIELDS`` does not name follows from the arguments of the constructor. A key in the state is the attribute's
    name without leading underscores.
    """

    __slots__ = ()
    FIELDS: ClassVar[Mapping[str, Field]] = {}

    def state_dict(self) -> State:
        """Return the state as a plain dict of copies: arrays, scalars, and dicts of them."""
        return self._snapshot()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see :meth:`Saved.load_state_dict` for the errors."""
        self._check_state(state, "state", None)
        self._restore(state)

    def _snapshot(self) -> State:
        entries = {key_of(name): plain(getattr(self, name)) for name, field in self.FIELDS.items() if not field.own}
        return {"class": type(self).__name__, **entries}

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        """Raise unless every entry fits; ``size`` is the number of prompts in the state, None where it has no bank."""
        kind = type(self).__name__
        if not isinstance(state, Mapping):
            raise TypeError(error_text(label, f"be the dict that {kind}.state_dict returned", state, REMEDY))
        if not is_of(state, kind):
            raise ValueError(error_text(f"{label}['class']", f"be {kind!r}", state.get("class"), REMEDY))
        state = _completed(self.FIELDS, state)
        odd = sorted({key_of(name) for name in self.FIELDS} ^ (set(state) - {"class"}), key=str)
        if odd:
            raise ValueError(f"{label} must hold the entries of a {kind}, missing or foreign: {odd}. {REMEDY}")
        entries = [
            (f"{label}[{key_of(name)!r}]", getattr(self, name), state[key_of(name)], field)
            for name, field in self.FIELDS.items()
            if not field.own
        ]
        for where, now, then, field in entries:
            optional = field.when_set is not _NEVER
            if field.fixed:
                found = difference(plain(now), then)
                if found is not None:
                    raise ValueError(f"{where} must equal that of this {kind}, {found}. {REMEDY}")
            elif field.when_set is not ANYTHING and not (optional and then is None):
                _check_type(where, field.when_set if optional and now is None else now, then, size, field.rows)
        for where, _, then, field in entries:
            if field.holds is not None and then is not None:
                require(where, field.must.format_map(state), then, field.holds(then, state))

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take a state that has been checked."""
        state = _completed(self.FIELDS, state)
        for name, field in self.FIELDS.items():
            if field.own or field.fixed:
                continue
            now, then = getattr(self, name), state[key_of(name)]
            if isinstance(now, np.random.Generator):
                now.bit_generator.state = plain(then)
            elif isinstance(now, Stateful):
                now._restore(then)
            else:
                built = plain(then)
                setattr(self, name, built if field.build is None or built is None else field.build(**built))


def is_of(state: object, kind: str) -> bool:
    """Tell whether a state names this class."""
    return isinstance(state, Mapping) and isinstance(state.get("class"), str) and state["class"] == kind


def require(label: str, condition: str, value: Any, holds: object) -> None:
    """Raise unless the values of an entry are possible: ``holds`` is a bool, or one per value of an array."""
    fits = np.asarray(holds)
    if fits.all():
        return
    if fits.ndim == 0:
        got = f", got {label} = {value!r}" if isinstance(value, (bool, int, float, np.number)) else ""
        raise ValueError(f"{label} must {condition}{got}. {UNCHANGED}")
    first = int(np.flatnonzero(~fits.ravel())[0])
    got = value.ravel()[first].item() if isinstance(value, np.ndarray) else value[first]
    raise ValueError(error_text(label, condition, got, UNCHANGED, first))


def check_array(label: str, like: np.ndarray[Any, Any], then: object, rows: int | None = None) -> None:
    """Raise unless ``then`` is an array of finite numbers with the shape, or ``rows`` rows, and the type of ``like``."""
    shape = like.shape if rows is None else (rows, *like.shape[1:])
    if not isinstance(then, np.ndarray) or (then.shape, then.dtype) != (shape, like.dtype):
        got = f"{then.dtype} of shape {then.shape}" if isinstance(then, np.ndarray) else type(then).__name__
        raise ValueError(error_text(label, f"be {like.dtype} of shape {shape}", got, REMEDY))
    if like.dtype.kind == "f":
        require(label, "be finite", then, np.isfinite(then))


def _completed(fields: Mapping[str, Field], state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a state with the entries that an older version did not write."""
    lacking = {
        key_of(name): field.older(state)
        for name, field in fields.items()
        if field.older is not None and key_of(name) not in state
    }
    return {**state, **lacking} if lacking else state


def _check_type(label: str, now: Any, then: Any, size: int | None, rows: str) -> None:
    """Raise unless ``then`` has the type and shape that a state may have where the attribute is ``now``."""
    if isinstance(now, Stateful):
        now._check_state(then, label, size)
    elif isinstance(now, np.ndarray):
        one = rows == "shared" and isinstance(then, np.ndarray) and then.shape[:1] == (1,)
        check_array(label, now, then, 1 if one else None if rows == "same" else size)
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
    """Return the key of an attribute in a state: its name without leading underscores."""
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
    elif _same_scalars(now, then):
        return None
    else:
        pairs = list(zip(range(len(now)), now, then, strict=True))
    for place, ours, theirs in pairs:
        if isinstance(ours, (Mapping, list, tuple, np.ndarray)):
            found = difference(ours, theirs)
            if found is not None:
                return f"{found} in {place!r}"
        elif type(ours) is not type(theirs) or ours != theirs:
            return f"got {theirs!r} instead of {ours!r} at {place!r}"
    return None


def _same_scalars(now: Any, then: Any) -> bool:
    """Tell whether two sequences of one length hold equal scalars of equal types; fast for millions of ids."""
    return (
        _SCALARS.issuperset(map(type, now))
        and all(map(is_, map(type, now), map(type, then)))
        and (now == then or list(now) == list(then))
    )


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
