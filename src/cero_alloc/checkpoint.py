"""Checkpoints: a plain state tree in one file without pickle, which is replaced as a whole or not at all.

A tree is a dict with str keys. It holds dicts, lists, tuples, NumPy arrays of numbers or booleans, ranges, int of any size,
float, str, bool and None, which is what the ``state_dict`` methods of this package return. Reading restores it exactly.

The file is an uncompressed ``.npz``, which ``numpy.load(path, allow_pickle=False)`` opens. Its first member,
``cero_alloc.json``, describes the tree. The other members, from ``0.npy`` on, are the arrays in the order of the tree. The
comment at the end of the archive, ``cero-alloc checkpoint 1 sha256:`` and 64 hexadecimal digits, names the format and
holds the SHA-256 of everything before those digits. Readers check it before they parse anything else.

In the description, a JSON object whose single key begins with a dollar sign stands for a value that JSON lacks. ``$array``
and ``$list`` (a long list of only int or only float) name a member, ``$tuple`` holds a list, ``$range`` holds start, stop
and step, ``$int`` a hexadecimal int beyond 64 bits, ``$float`` one of nan, inf and -inf, and ``$dict`` a dict with such a
key of its own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from ._checks import error_text

__all__ = ["pack", "read", "unpack", "write"]

State = dict[str, Any]
Array = npt.NDArray[Any]
Place = tuple[()] | tuple[Any, Any]  # place of the container, and the key or index in it; worded only in errors

_FORMAT = 1
_TREE = "cero_alloc.json"
_TAG = b"cero-alloc checkpoint %d sha256:"
_TAIL = re.compile(rb"cero-alloc checkpoint ([1-9][0-9]{0,5}) sha256:([0-9a-f]{64})\Z")
_DIGITS = 64  # hexadecimal, of the checksum
_NAME_AT = 30  # offset of the first member's name in a zip file
_CHUNK = 1 << 20  # bytes hashed or copied at a time
_LONG = 256  # entries from which a list of numbers is an array in the file
_DEEPEST = 64  # nested containers: far below Python's recursion limit, which a list that holds itself would reach
_STALE = 3600.0  # seconds after which a temporary file counts as a leftover
_PLAIN = frozenset({str, bool, type(None)})  # stored in JSON without a tag
_LEAVES = _PLAIN | {int, float}
_CONTAINERS = frozenset({dict, list, tuple})
_TYPES = {  # array types that are the same on every machine
    "|b1", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16"
}  # fmt: skip
_HEX = re.compile(r"-?0x[0-9a-f]+")
_HEADER = re.compile(
    rb"\{'descr': '([<|][biufc][0-9]{1,2})', 'fortran_order': False, 'shape': \(((?:[0-9]{1,19}, ?)*(?:[0-9]{1,19})?)\), \} *\n"
)
_MAGIC = b"\x93NUMPY\x01\x00"
_NONSENSE = (  # what parsing a malformed file raises
    ValueError, LookupError, ArithmeticError, RuntimeError, EOFError, struct.error, zipfile.BadZipFile
)  # fmt: skip


def write(path: str | os.PathLike[str], state: State, *, durable: bool = True) -> None:
    """Write a state to a file atomically: a reader finds the complete old state or the complete new one.

    The contents go to a temporary file in the same folder, which then replaces the old file. If the process is killed in
    between, the temporary file stays; a later call for the same path deletes temporary files that are older than an hour.
    A symbolic link is kept, and the file that it points to is replaced. The new file has the permissions that the umask
    gives, whatever the old file had.

    Parameters
    ----------
    path : path
        The file. Its folder must exist.
    state : dict
        Tree of dicts with str keys, lists, tuples, arrays of numbers or booleans, ranges, int, float, str, bool and None.
        NumPy scalars are read back as Python scalars, arrays in C order and native byte order, and an array in two places
        as two arrays. Equal states with their keys in the same order give equal files.
    durable : bool
        Whether to wait until the disk has the file, so that it survives a power failure.

    Raises
    ------
    TypeError
        For any other value in the tree; the message names its place, and nothing is written.
    ValueError
        For more than 64 nested containers, or a container that holds itself; nothing is written.
    OSError
        Where the file cannot be written; the old file stays and the temporary file is removed. If only the last step
        fails, which is to sync the folder to the disk, the new file is in place.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from cero_alloc import checkpoint
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "allocator.npz"
    >>> checkpoint.write(file, {"step": 7, "counts": np.arange(3), "rng": {"state": 2**100}})
    >>> checkpoint.read(file)
    {'step': 7, 'counts': array([0, 1, 2]), 'rng': {'state': 1267650600228229401496703205376}}
    """
    target = _path(path)
    document, arrays = _described(state)
    replace_file(target, lambda file: _dump(file, document, arrays), durable=durable)


def read(path: str | os.PathLike[str]) -> State:
    """Read the state that :func:`write` wrote, once the checksum over every byte has been verified.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    dict
        The tree; arrays are new, writable, in C order and native byte order.

    Raises
    ------
    ValueError
        For a file that is not a checkpoint, that was truncated or changed, or that has a newer format.
    TypeError
        For a path that is neither a str nor a path.
    OSError
        Where the file cannot be read; FileNotFoundError where there is none.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from cero_alloc import checkpoint
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "state.npz"
    >>> checkpoint.write(file, {"step": 7})
    >>> checkpoint.read(file)
    {'step': 7}
    """
    name = _path(path)
    with open(name, "rb") as file:
        return _load(file, "path", name)


def pack(state: State) -> bytes:
    """Return the bytes of the file that :func:`write` would write, for trainers that store extra state as bytes.

    Parameters
    ----------
    state : dict
        As for :func:`write`.

    Returns
    -------
    bytes
        The file.

    Raises
    ------
    TypeError, ValueError
        As :func:`write`.

    Examples
    --------
    >>> from cero_alloc import checkpoint
    >>> checkpoint.unpack(checkpoint.pack({"ids": ("a", "b"), "rate": float("inf")}))
    {'ids': ('a', 'b'), 'rate': inf}
    """
    file = io.BytesIO()
    _dump(file, *_described(state))
    return file.getvalue()


def unpack(data: bytes) -> State:
    """Return the state that :func:`pack` packed, once the checksum over every byte has been verified.

    Parameters
    ----------
    data : bytes
        What :func:`pack` returned, or the contents of a file.

    Returns
    -------
    dict
        As from :func:`read`.

    Raises
    ------
    TypeError
        For anything but bytes.
    ValueError
        As :func:`read`.

    Examples
    --------
    >>> from cero_alloc import checkpoint
    >>> checkpoint.unpack(checkpoint.pack({"step": 7}))
    {'step': 7}
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"data must be bytes, got {type(data).__name__}. Pass what checkpoint.pack returned.")
    return _load(io.BytesIO(data), "data", f"{memoryview(data).nbytes} bytes")


def _path(path: Any) -> str:
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):
        raise TypeError(error_text("path", "be a str or a path", path, "Name a file."))
    return name


# ------------------------------------------------------------------ the tree and its description


def _described(state: State) -> tuple[bytes, list[Array]]:
    """Return the description of a state and its arrays, which are not copied; raise for values that cannot be stored."""
    if type(state) is not dict:
        raise TypeError(f"state must be a dict, got {type(state).__name__}. Pass what a state_dict method returned.")
    arrays: list[Array] = []
    tree = _encoded(state, (), 1, arrays)
    text = json.dumps(tree, ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass"), arrays  # JSON escapes would merge two lone surrogates


def _encoded(value: Any, place: Place, depth: int, arrays: list[Array]) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**63 else {"$int": hex(value)}  # decimals have a limit
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind in _CONTAINERS:
        if depth > _DEEPEST:
            condition = f"hold at most {_DEEPEST} containers within each other"
            got = f"a {kind.__name__} at {_named(place)}"
            raise ValueError(
                f"state must {condition}, got {got}. Flatten it; a container that holds itself has no end."
            )
        if kind is dict:
            return _encoded_dict(value, place, depth, arrays)
        entries = _encoded_list(list(value), place, depth, arrays)
        return {"$tuple": entries} if kind is tuple else entries
    if kind is range:  # the prompt ids where they are the rows of the pool
        return {"$range": [_encoded(n, place, depth, arrays) for n in (value.start, value.stop, value.step)]}
    if kind is np.ndarray or kind is np.memmap:
        if _stored(value.dtype).str in _TYPES:
            arrays.append(value)
            return {"$array": len(arrays) - 1}
    elif isinstance(value, np.str_):
        return str.__str__(value)  # np.str_.__str__ drops trailing NULs
    elif isinstance(value, np.generic) and value.dtype.kind != "c" and _stored(value.dtype).str in _TYPES:
        return _encoded(value.item(), place, depth, arrays)
    raise _unfit(_named(place), value)


def _encoded_dict(value: State, place: Place, depth: int, arrays: list[Array]) -> Any:
    result, literal = {}, False
    for key, entry in value.items():
        if type(key) is not str and not isinstance(key, np.str_):
            remedy = "Turn the keys into str, or keep keys and values as two lists."
            raise TypeError(f"{_named(place)} must have keys that are str, got {type(key).__name__} {key!r}. {remedy}")
        word = str.__str__(key)
        literal |= word.startswith("$")
        result[word] = _encoded(entry, (place, key), depth + 1, arrays)
    return {"$dict": result} if literal else result


def _encoded_list(value: list[Any], place: Place, depth: int, arrays: list[Array]) -> Any:
    kinds = set(map(type, value))
    if kinds <= _PLAIN:
        return value
    if len(value) >= _LONG and (kinds == {int} or kinds == {float}):
        with contextlib.suppress(OverflowError):  # an int beyond 64 bits: stored entry by entry below
            arrays.append(np.array(value, dtype=np.int64 if kinds == {int} else np.float64))
            return {"$list": len(arrays) - 1}
    return [_encoded(entry, (place, i), depth + 1, arrays) for i, entry in enumerate(value)]


def _stored(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("<")


def _named(place: Place) -> str:
    """Return the expression that leads to a place, such as state['bank']['tick']."""
    keys: list[str] = []
    while place:
        place, key = place
        keys.append(f"[{key!r}]")
    return "".join(["state", *reversed(keys)])


def _unfit(name: str, value: object) -> TypeError:
    condition = "be a dict, list, tuple, array of numbers or booleans, range, int, float, str, bool or None"
    if isinstance(value, np.ndarray):
        got = f"a {type(value).__name__} of {value.dtype}"
        remedy = "Pass a plain array of numbers of at most 64 bits, and words as a list of str."
    else:
        got = f"an object of type {type(value).__name__}"
        remedy = "Store what it is made of."
    return TypeError(f"{name} must {condition}, got {got}. {remedy}")


def _decoded(node: Any, depth: int, arrays: Iterator[tuple[int, Array]]) -> Any:
    """Return the value that a description stands for; raise ValueError where it is malformed."""
    kind = type(node)
    if kind in _LEAVES:
        return node
    if depth > _DEEPEST + 1:  # a tag in the innermost container lies one level deeper
        raise ValueError("the tree is too deep")
    if kind is list:
        if set(map(type, node)) <= _LEAVES:
            return node
        return [_decoded(entry, depth + 1, arrays) for entry in node]
    if not any(key.startswith("$") for key in node):
        return {key: _decoded(entry, depth + 1, arrays) for key, entry in node.items()}
    if len(node) != 1:
        raise ValueError("a tag has company")
    ((tag, content),) = node.items()
    if tag == "$dict" and type(content) is dict:
        return {key: _decoded(entry, depth + 1, arrays) for key, entry in content.items()}
    if tag == "$tuple" and (type(content) is list or (isinstance(content, dict) and set(content) == {"$list"})):
        return tuple(_decoded(content, depth, arrays))
    if tag == "$range" and type(content) is list and len(content) == 3:
        return range(*_ints(_decoded(entry, depth, arrays) for entry in content))
    if tag == "$int" and type(content) is str and _HEX.fullmatch(content):
        return int(content, 16)
    if tag == "$float" and content in ("nan", "inf", "-inf"):
        return float(content)
    if tag in ("$array", "$list") and type(content) is int:
        index, array = next(arrays, (None, None))
        if index != content or array is None:
            raise ValueError(f"the tree names member {content} where {index} is next")
        if tag == "$array":
            return array
        if array.ndim == 1 and array.dtype in (np.int64, np.float64):
            return array.tolist()
    raise ValueError(f"{tag!r} does not go with its content")


def _ints(values: Iterator[Any]) -> list[int]:
    result = list(values)
    if set(map(type, result)) != {int}:
        raise ValueError("a range of other than int")
    return result


def _unique(pairs: list[tuple[str, Any]]) -> State:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


# ------------------------------------------------------------------ the container


def _dump(file: IO[bytes], document: bytes, arrays: list[Array]) -> None:
    """Write description and arrays to an empty file, which is open for reading as well."""
    tag = _TAG % _FORMAT
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo(_TREE), "w", force_zip64=True) as member:
            member.write(document)
        for i, array in enumerate(arrays):
            with archive.open(zipfile.ZipInfo(f"{i}.npy"), "w", force_zip64=True) as member:
                for piece in _pieces(array):
                    member.write(piece)
        archive.comment = tag + b"0" * _DIGITS
    size = file.seek(0, os.SEEK_END)
    digest = _digest(file, size - _DIGITS)
    file.seek(size - _DIGITS)
    file.write(digest)


def _pieces(array: Array) -> Iterator[bytes | memoryview]:
    """Yield an array as a .npy file in C order and little-endian, in pieces, so that no second copy is held."""
    dtype = _stored(array.dtype)
    text = b"{'descr': '%s', 'fortran_order': False, 'shape': %s, }" % (dtype.str.encode(), repr(array.shape).encode())
    before = len(_MAGIC) + 2
    length = -(-(before + len(text) + 1) // 64) * 64 - before  # so that the data begin at a multiple of 64 bytes
    yield _MAGIC + struct.pack("<H", length) + text.ljust(length - 1) + b"\n"
    if array.size == 0:
        return
    if array.flags.c_contiguous and array.dtype == dtype:
        data = array.reshape(-1).view(np.ndarray).view(np.uint8).data
        for start in range(0, len(data), _CHUNK):
            yield data[start : start + _CHUNK]
        return
    with np.nditer(
        array,
        flags=["external_loop", "buffered"],
        op_flags=["readonly"],
        op_dtypes=dtype,
        order="C",
        casting="equiv",
        buffersize=_CHUNK // dtype.itemsize,
    ) as chunks:
        for chunk in chunks:
            yield cast("Array", chunk).tobytes()


def _digest(file: IO[bytes], size: int) -> bytes:
    """Return the hexadecimal SHA-256 of the first bytes of a file."""
    result, buffer = hashlib.sha256(), memoryview(bytearray(min(_CHUNK, max(size, 1))))
    file.seek(0)
    while size > 0:
        got = cast("io.BufferedIOBase", file).readinto(buffer[: min(size, len(buffer))])
        if not got:
            break  # the file was truncated meanwhile: the checksum will differ
        result.update(buffer[:got])
        size -= got
    return result.hexdigest().encode()


def _load(file: IO[bytes], name: str, value: str) -> State:
    """Check a file and return its state; ``name`` and ``value`` appear in error messages."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(_NAME_AT + len(_TREE))
    file.seek(max(0, size - 128))
    tail = _TAIL.search(file.read(128))
    if tail is None and head[_NAME_AT:] != _TREE.encode():
        remedy = "Its contents are something else: name what checkpoint.write or checkpoint.pack made."
        raise ValueError(error_text(name, "be a checkpoint of cero-alloc", value, remedy))
    if tail is None or _digest(file, size - _DIGITS) != tail[2]:
        remedy = "It was cut short or changed, its checksum does not fit: take an older one."
        raise ValueError(error_text(name, "be an undamaged checkpoint", value, remedy))
    if int(tail[1]) > _FORMAT:
        condition = f"be a checkpoint of format {_FORMAT}, the newest that this version reads"
        raise ValueError(error_text(name, condition, value, f"Its format is {int(tail[1])}: upgrade cero-alloc."))
    try:
        return _parsed(file, size)
    except (*_NONSENSE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a seek to before the start
            raise
        remedy = f"Its checksum fits and its contents do not ({error}): leave it alone."
        raise ValueError(error_text(name, "be as checkpoint.write makes it", value, remedy)) from None


def _parsed(file: IO[bytes], size: int) -> State:
    """Return the state in a file whose checksum fits; its contents are still untrusted."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if [member.filename for member in members] != [_TREE, *(f"{i}.npy" for i in range(len(members) - 1))]:
            raise ValueError("other members")
        if any(member.compress_type or member.flag_bits & 1 for member in members):
            raise ValueError("a member is compressed or encrypted")
        if any(member.compress_size != member.file_size for member in members):
            raise ValueError("a member has two sizes")
        if sum(member.file_size for member in members) > size:  # bounds everything allocated below
            raise ValueError("members overlap")
        text = archive.read(members[0]).decode("utf-8", "surrogatepass")
        tree = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
        arrays = ((i, _array(archive, member)) for i, member in enumerate(members[1:]))
        state = _decoded(tree, 1, arrays)
        if type(state) is not dict:
            raise ValueError("the tree is not a dict")
        if next(arrays, None) is not None:
            raise ValueError("a member is not in the tree")
        return state


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """Read one array, whose header must have the form that :func:`_pieces` writes.

    ``numpy.lib.format`` parses headers as Python expressions: nested ones exhaust the stack or the memory, and it accepts
    negative and boolean sizes.
    """
    with archive.open(member) as file:
        start = file.read(len(_MAGIC) + 2)
        length = int.from_bytes(start[len(_MAGIC) :], "little")
        header = _HEADER.fullmatch(file.read(length))
        if start[: len(_MAGIC)] != _MAGIC or header is None:
            raise ValueError("the header of an array")
        if header[1].decode() not in _TYPES:
            raise ValueError("the type of an array")
        dtype = np.dtype(header[1].decode())
        shape = tuple(int(n) for n in header[2].split(b",") if n.strip())
        if math.prod(shape) * dtype.itemsize != member.file_size - len(start) - length:
            raise ValueError("the shape of an array")
        array = np.empty(shape, dtype)
        data = array.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(data):
            got = cast("io.BufferedIOBase", file).readinto(data[done : done + _CHUNK])
            if not got:
                raise ValueError("the length of an array")
            done += got
        if dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
            raise ValueError("a boolean that is neither")
        return array if sys.byteorder == "little" else array.astype(dtype.newbyteorder("="))


# ------------------------------------------------------------------ the folder


def replace_file(path: str, dump: Callable[[IO[bytes]], object], *, durable: bool) -> None:
    """Let ``dump`` write a file, which replaces an older one as a whole or not at all."""
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):  # a folder, or a device, which a rename would destroy
        kind = IsADirectoryError if os.path.isdir(target) else OSError
        raise kind(error_text("path", "be a file, or the name of a new one", path, "Name a file."))
    folder, name = os.path.split(target)
    try:
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            raise NotADirectoryError
    except (FileNotFoundError, NotADirectoryError) as error:
        remedy = "Make the folder first."
        raise type(error)(error_text("path", "be in a folder that exists", path, remedy)) from None
    spare = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(spare, "x+b") as file:
            _delete_leftovers(folder, name, os.fstat(file.fileno()).st_mtime)
            dump(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(spare, target)
    except BaseException:  # including an interrupt
        with contextlib.suppress(OSError):
            os.unlink(spare)
        raise
    if durable:
        _sync_folder(folder)


def _delete_leftovers(folder: str, name: str, now: float) -> None:
    """Delete temporary files that killed processes left; ``now`` is a time of the disk's clock."""
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}\.tmp")
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name):
                with contextlib.suppress(OSError):  # another process may be doing the same
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(found.st_mode) and now - found.st_mtime > _STALE:
                        os.unlink(entry.path)


def _sync_folder(folder: str) -> None:
    """Sync a folder, and with it the new name, to the disk where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows cannot open folders, and a folder may be writable but not readable
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # this file system cannot sync folders
            raise
    finally:
        os.close(handle)
