"""What can be saved: a versioned state, a file of it, the arguments to build the object again, and a lock around all."""

from __future__ import annotations

import inspect
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from numbers import Real
from threading import RLock
from typing import Any, ClassVar, Concatenate, ParamSpec, Protocol, Self, TypeVar

import numpy as np

from cero_alloc import checkpoint
from cero_alloc._checks import error_text

from .state import REMEDY, State, Stateful, difference, is_of, plain

SCHEMA = 1  # layout of the states that this version writes and reads


class _Locked(Protocol):
    @property
    def lock(self) -> RLock: ...


Owner = TypeVar("Owner", bound=_Locked)
P = ParamSpec("P")
T = TypeVar("T")


def locked(method: Callable[Concatenate[Owner, P], T]) -> Callable[Concatenate[Owner, P], T]:
    """Hold the object's lock while the method runs."""

    @wraps(method)
    def holding(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.lock:
            return method(self, *args, **kwargs)

    return holding


class Saved(Stateful):
    """A stateful object that files and their readers know: its state has a schema version and its arguments.

    ``_BUILD`` says how to make an argument from its plain form; ``_LIVE`` are arguments that no file holds.
    """

    _BUILD: ClassVar[dict[str, Callable[..., Any]]] = {}
    _LIVE: ClassVar[tuple[str, ...]] = ("bank", "seed")
    _given: State | None  # as given, in plain form; None where it is not known, as in a copy under way

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note the arguments: what ``load`` builds the object from, and what its state can be compared with."""
        self = super().__new__(cls)
        self._given = _plain_arguments(cls, args, kwargs)
        return self

    @property
    def lock(self) -> RLock:
        """The lock that every method holds; hold it, too, to make several calls one."""
        raise NotImplementedError

    @locked
    def state_dict(self) -> State:
        """Return the state as a plain dict of copies: arrays, numbers, strings, and dicts, lists and tuples of them.

        It holds all that later calls depend on, and the version of its own layout under ``schema``; ``torch.save``,
        :func:`cero_alloc.checkpoint.write` and ``pickle`` take it as it is.

        Returns
        -------
        dict
            For :meth:`load_state_dict`.

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank
        >>> bank = BetaPosteriorBank(2)
        >>> bank.update([0], successes=[3], rollouts=[4])
        >>> state = bank.state_dict()
        >>> state["class"], state["schema"]
        ('BetaPosteriorBank', 1)
        """
        return {"schema": SCHEMA, "arguments": plain(self._given), **self._snapshot()}

    @locked
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state_dict`` returned; all later results are then those of the object that gave it, to the bit.

        Prompts that had joined the bank join it again. A random generator that was passed as ``seed`` is shared with the
        caller, and put back with the rest.

        Parameters
        ----------
        state : mapping
            State of an object that was built with the same arguments but ``seed``.

        Raises
        ------
        TypeError
            For anything but a mapping.
        ValueError
            For the state of another class, other prompts, another horizon or other arguments, for a newer schema, for
            missing or foreign entries, and for entries of another shape, type or range; the message names the entry, and
            nothing changes.

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank
        >>> first, second = BetaPosteriorBank(2), BetaPosteriorBank(2)
        >>> first.update([0], successes=[3], rollouts=[4])
        >>> second.load_state_dict(first.state_dict())
        >>> second.alpha.tolist()
        [4.0, 1.0]
        """
        arguments: object = None
        if is_of(state, type(self).__name__):
            lacking = [name for name in ("arguments", "schema") if name not in state]
            if lacking:
                kind = type(self).__name__
                raise ValueError(f"state must hold the entries of a {kind}, missing or foreign: {lacking}. {REMEDY}")
            if type(state["schema"]) is not int or state["schema"] != SCHEMA:
                remedy = "Another version of cero-alloc wrote it: read it with that version."
                raise ValueError(error_text("state['schema']", f"be {SCHEMA}", state["schema"], remedy))
            state = {name: entry for name, entry in state.items() if name != "schema"}
            arguments = state.pop("arguments")
        self._check_state(state, "state", _n_prompts(state))
        self._check_arguments(arguments)
        self._put(state)

    def save(self, path: str | os.PathLike[str], *, durable: bool = True) -> None:
        """Write the state and the arguments to one file, which replaces an older one as a whole or not at all.

        The state is taken under the lock; other threads go on while the file is written.

        Parameters
        ----------
        path : path
            Where to; the folder must exist.
        durable : bool
            Whether to wait until the file would survive a power cut.

        Raises
        ------
        OSError
            Where the file cannot be written; an older one is still there then.
        TypeError
            For prompt ids that a file cannot hold: integers, strings, floats, and tuples of them it can.

        See Also
        --------
        load : reads the file.
        cero_alloc.checkpoint : what the file holds.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from cero_alloc import BetaPosteriorBank
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "bank.npz"
        >>> BetaPosteriorBank(["a", "b"]).save(file)
        >>> file.exists()
        True
        """
        checkpoint.write(path, self.state_dict(), durable=durable)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Build the object that ``save`` wrote to a file, in the state that it was in.

        Parameters
        ----------
        path : path
            The file.

        Returns
        -------
        object of this class
            With a bank of its own where it has one.

        Raises
        ------
        OSError
            Where the file cannot be read.
        ValueError
            For a file that is damaged, foreign, newer, or of another class. To compare a file with what a script has
            built, call ``load_state_dict(cero_alloc.checkpoint.read(path))``, which names the first difference.
        TypeError
            For a path that is neither a string nor a path.

        See Also
        --------
        save : writes the file.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from cero_alloc import BetaPosteriorBank
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "bank.npz"
        >>> BetaPosteriorBank(["a", "b"]).save(file)
        >>> BetaPosteriorBank.load(file).prompt_ids
        ('a', 'b')
        """
        return cls._from_state(checkpoint.read(path), f"the state in {os.fspath(path)!r}")

    @classmethod
    def _from_state(cls, state: State, label: str, **live: Any) -> Self:
        """Build an object from its arguments and let it take the state."""
        if not is_of(state, cls.__name__):
            raise ValueError(
                f"{label} must be that of a {cls.__name__}, got one of class {state.get('class')!r}. Call load of that class."
            )
        built = cls(**live, **cls._rebuilt(state.get("arguments"), label))
        built.load_state_dict(state)
        return built

    @classmethod
    def _rebuilt(cls, arguments: object, label: str) -> State:
        """Return arguments from their plain form."""
        if not isinstance(arguments, dict):
            raise ValueError(
                f"{label} must hold its object's arguments, got {arguments!r}. Load it into an object built with them."
            )
        return {name: cls._BUILD[name](**part) if isinstance(part, dict) else part for name, part in arguments.items()}

    def _check_arguments(self, theirs: object) -> None:
        """Raise for the state of an object with other arguments, as far as both are known."""
        ours, kind = self._given, type(self).__name__
        if theirs is None or ours is None:
            return
        if not isinstance(theirs, Mapping):
            raise ValueError(error_text("state['arguments']", "be a dict", theirs, REMEDY))
        defaults = dict(reversed(list(_defaults(type(self)))))
        for name in {**ours, **theirs}:
            found = difference(*(side.get(name, defaults.get(name)) for side in (ours, theirs)))
            if found is not None:
                raise ValueError(f"state['arguments'][{name!r}] must equal that of this {kind}, {found}. {REMEDY}")


class OwnLock:
    """An object with a lock of its own, which its copies and pickles do not share."""

    _lock: RLock

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make the lock."""
        self = super().__new__(cls, *args, **kwargs)
        self._lock = RLock()
        return self

    @property
    def lock(self) -> RLock:
        """The lock that every method holds; hold it, too, to make several calls one."""
        return self._lock

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock behind."""
        return {name: part for name, part in vars(self).items() if name != "_lock"}


def _n_prompts(state: Any) -> int | None:
    """Return the number of prompts in a state, None where it has none."""
    bank = state.get("bank", state) if isinstance(state, Mapping) else None
    ids = bank.get("prompt_ids") if isinstance(bank, Mapping) else None
    if isinstance(ids, (int, np.integer)):
        return int(ids)
    return len(ids) if isinstance(ids, (list, tuple, range)) else None


def _plain_arguments(cls: type[Saved], args: tuple[Any, ...], kwargs: dict[str, Any]) -> State | None:
    """Return the arguments of a constructor in plain form, but for those that live; None for calls that do not fit."""
    try:
        bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)
    except TypeError:  # a copy under way, or what the constructor itself will complain of
        return None
    given = dict(list(bound.arguments.items())[1:])
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
    return {name: _plain_argument(value) for name, value in given.items() if name not in cls._LIVE}


def _plain_argument(value: Any) -> Any:
    """Return an argument as scalars and arrays; what is neither comes back as it is, for the constructor to refuse."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "__index__") and not np.ndim(value):
        return operator.index(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, tuple):
        return tuple(_plain_argument(part) for part in value)
    if not isinstance(value, (str, bytes, type, Mapping, Iterator)) and (hasattr(value, "__len__") or np.ndim(value)):
        try:
            array = np.array(value)
        except ValueError:  # ragged
            return [_plain_argument(part) for part in value]
        return array if array.dtype.kind in "biuf" else [_plain_argument(part) for part in value]
    return plain(value)


def _defaults(cls: type[Saved]) -> Iterator[tuple[str, Any]]:
    """Yield the defaults of a constructor, and those of the constructors that it passes further arguments on to."""
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        for parameter in parameters:
            if parameter.default is not parameter.empty and parameter.name not in cls._LIVE:
                yield parameter.name, _plain_argument(parameter.default)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            return
