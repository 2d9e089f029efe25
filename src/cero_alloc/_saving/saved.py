"""Objects that can be saved: a versioned state, a file of it, and the arguments to build the object again."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from numbers import Real
from threading import RLock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, Protocol, Self, TypeVar

import numpy as np

from cero_alloc import checkpoint
from cero_alloc._checks import error_text

from .shown import Shown
from .state import REMEDY, State, Stateful, difference, is_of, plain

SCHEMA = 1  # version of the layout of states


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


class Saved(Stateful, Shown):
    """A stateful object that files hold: its state has a schema version and the arguments to build the object again.

    A constructor passes its arguments to ``_remember``, all but the bank and the seed. ``_BUILD`` holds the function
    that makes an argument from its plain form where that is a dict.
    """

    _BUILD: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    _LATER: ClassVar[Mapping[str, Any]] = {}  # arguments that older states lack, and what they then stand at
    _given: Mapping[str, Any] = MappingProxyType({})  # the arguments in plain form

    def _remember(self, **arguments: Any) -> None:
        """Add arguments of the constructor to those that ``load`` passes and ``load_state_dict`` compares."""
        self._given = {**self._given, **{name: _plain_argument(value) for name, value in arguments.items()}}

    if TYPE_CHECKING:

        @property
        def lock(self) -> RLock:
            """The lock that every method holds; hold it to make several calls atomic."""

    @locked
    def state_dict(self) -> State:
        """Return the state as a plain dict of copies: arrays, numbers, strings, and dicts, lists and tuples of them.

        It holds everything that later calls depend on, and the version of its layout under ``schema``. ``torch.save``,
        ``pickle`` and :func:`cero_alloc.checkpoint.write` accept it without conversion.

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
        """Restore a state; all later results are then bit for bit those of the object that it was taken from.

        Prompts that had joined the bank join it again. A random generator that was passed as ``seed`` is shared with the
        caller and is restored with the rest.

        Parameters
        ----------
        state : mapping
            What ``state_dict`` of an object with the same arguments returned; the seeds may differ.

        Raises
        ------
        TypeError
            For anything but a mapping.
        ValueError
            For a state of another class, other prompts, another horizon, other arguments or another schema version, for
            missing or foreign entries, and for entries of the wrong type, shape or range. The message names the entry;
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
        self._restore(state)

    def save(self, path: str | os.PathLike[str], *, durable: bool = True) -> None:
        """Write the state and the arguments to one file, which replaces an older file as a whole or not at all.

        The state is copied under the lock; other threads may use the object while the file is written.

        Parameters
        ----------
        path : path
            The file; its folder must exist.
        durable : bool
            Whether to wait until the file is on the disk, so that it survives a power failure.

        Raises
        ------
        OSError
            Where the file cannot be written; an older file is then still there.
        TypeError
            For prompt ids other than integers, strings, floats, and tuples of them, which a file cannot hold.

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
        """Build the object that ``save`` wrote to a file, in the state that it was saved in.

        Parameters
        ----------
        path : path
            The file.

        Returns
        -------
        object of this class
            With a bank of its own, where the class has one.

        Raises
        ------
        OSError
            Where the file cannot be read.
        ValueError
            For a file that is damaged, not a checkpoint, from a newer version, or of another class. To compare a file
            with an object that a script has built, call ``load_state_dict(cero_alloc.checkpoint.read(path))`` on it,
            which names the first difference.
        TypeError
            For a path that is neither a str nor a path.

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
        """Build an object from the arguments in a state and from those that no state holds, and load the state."""
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
        """Raise for the state of an object with other arguments."""
        ours, kind = self._given, type(self).__name__
        if not isinstance(theirs, Mapping):
            raise ValueError(error_text("state['arguments']", "be a dict", theirs, REMEDY))
        theirs = {**self._LATER, **theirs}
        for name in set(ours) ^ set(theirs):
            raise ValueError(
                f"state['arguments'] must hold what this {kind} was built with, {name!r} differs. {REMEDY}"
            )
        for name in ours:
            found = difference(ours[name], theirs[name])
            if found is not None:
                raise ValueError(f"state['arguments'][{name!r}] must equal that of this {kind}, {found}. {REMEDY}")


class OwnLock:
    """An object with a lock of its own, made by its constructor, which copies and pickles do not share.

    Attributes
    ----------
    lock : threading.RLock
        Every method holds it; hold it to make several calls atomic.
    """

    lock: RLock

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock out."""
        return {name: part for name, part in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Give the copy a lock."""
        vars(self).update(state)
        self.lock = RLock()


def _n_prompts(state: Any) -> int | None:
    """Return the number of prompts in a state, None where it has none."""
    bank = state.get("bank", state) if isinstance(state, Mapping) else None
    ids = bank.get("prompt_ids") if isinstance(bank, Mapping) else None
    if isinstance(ids, (int, np.integer)):
        return int(ids)
    if isinstance(ids, np.ndarray) and ids.ndim == 1:
        return ids.size
    return len(ids) if isinstance(ids, (list, tuple, range)) else None


def _plain_argument(value: Any) -> Any:
    """Return an argument as scalars, arrays, and tuples, lists and dicts of them."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "__index__") and not np.ndim(value):
        return operator.index(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, tuple):
        return tuple(_plain_argument(part) for part in value)
    if not isinstance(value, (bytes, type, Mapping, Iterator)) and (hasattr(value, "__len__") or np.ndim(value)):
        array = np.array(value)
        return array if array.dtype.kind in "biuf" else [_plain_argument(part) for part in value]
    return plain(value)
