"""From the bytes of a log to columns: blocks of whole lines, CSV and JSONL records, and the fields that are used."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import json
import lzma
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

Format = Literal["csv", "jsonl", "json", "parquet", "arrow", "eval"]
Progress = Callable[[int], None]
Columns = list[list[Any]]

_BLOCK = 1 << 20  # bytes: large enough to amortise the cost per block, small enough to hold several in memory
_PIECE = 1000  # JSON objects in memory at a time: with more of them, garbage collection costs more than it saves
_MOST_LINES = 10_000  # of one record: a quote that stays open longer is a stray one
_PACKED: dict[bytes, Callable[[Any], Any]] = {  # by the first bytes
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
_ZSTD = b"\x28\xb5\x2f\xfd"
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)
_scan = json.JSONDecoder().raw_decode  # json.loads without the checks that the caller makes anyway


class WrongWidth(ValueError):
    """A record has more or fewer fields than the header."""


class Source:
    """The text of a plain or compressed stream in blocks of whole lines, UTF-8 or UTF-16.

    Parameters
    ----------
    raw : binary file
        Must have ``peek``, like ``open(file, "rb")`` and standard input.
    progress : callable
        Called after each block with the number of bytes of the file read so far.

    Attributes
    ----------
    broken : str or None
        Why a compressed stream is incomplete; set when iteration ends.
    """

    def __init__(self, raw: Any, progress: Progress) -> None:
        self._raw = raw
        self._progress = progress
        self.broken: str | None = None
        start = raw.peek(8)
        self._stream: Any = raw
        for magic, unpack in _PACKED.items():
            if start.startswith(magic):
                self._stream = unpack(raw)
        if start.startswith(_ZSTD):
            self._stream = _zstd(raw)

    def __iter__(self) -> Iterator[str]:
        """Yield blocks of lines without the final newline; the incomplete line before a break is left out."""
        parts: list[bytes] = []  # of a line that continues in the next block
        done = 0
        wide: Any = None
        first = True
        for data in self._bytes():
            done += len(data)
            self._progress(self._raw.tell() if self._raw.seekable() else done)
            if first and data.startswith(b"\xef\xbb\xbf"):
                data = data[3:]
            if first and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                wide = codecs.getincrementaldecoder("utf-16")("backslashreplace")
            first = False
            if wide:
                data = wide.decode(data).encode("utf-8", "backslashreplace")
            head, newline, tail = data.rpartition(b"\n")
            if newline:
                yield _decode(b"".join([*parts, head]))
                parts = []
            parts.append(tail)
        rest = b"".join(parts)
        if rest and self.broken is None:
            yield _decode(rest)

    def _bytes(self) -> Iterator[bytes]:
        pieces: list[bytes] = []
        size = 0
        more = True
        while more:
            try:
                # read1 returns after one decompression step; read would lose that data if the next step failed.
                piece = self._stream.read1(_BLOCK)
            except (*_BROKEN, OSError) as error:
                if self._stream is self._raw:
                    raise
                self.broken, piece = str(error).rstrip("."), b""
            more = bool(piece)
            pieces.append(piece)
            size += len(piece)
            if size >= _BLOCK or not more:
                yield b"".join(pieces)
                pieces, size = [], 0


def _zstd(raw: Any) -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # Python 3.14
    except ImportError:
        raise ValueError(
            f"{raw.name} is compressed by zstd, which Python reads from version 3.14 on. Unpack it first: zstd -d {raw.name}"
        ) from None
    return zstd.ZstdFile(raw)


def _decode(data: bytes) -> str:
    text = data.decode("utf-8", "backslashreplace")  # different invalid bytes stay different and printable
    return text.replace("\r\n", "\n").removesuffix("\r") if "\r" in text else text


def line_records(blocks: Iterable[str]) -> Iterator[tuple[list[str], Sequence[int]]]:
    """Yield the lines of each block with their line numbers, counted from 1."""
    number = 1
    for text in blocks:
        lines = text.split("\n")
        yield lines, range(number, number + len(lines))
        number += len(lines)


def csv_records(blocks: Iterable[str]) -> Iterator[tuple[list[str], Sequence[int]]]:
    """Yield the records of each block with the numbers of their first lines; quoted fields may contain line breaks."""
    held: list[str] = []  # lines of a record whose quote is still open
    last = 0  # number of the last line taken
    for text in blocks:
        lines = deque(text.split("\n"))
        if not held and '"' not in text:
            yield list(lines), range(last + 1, last + 1 + len(lines))
            last += len(lines)
            continue
        texts, numbers = [], []
        is_open = bool(held)
        while lines:
            held.append(lines.popleft())
            last += 1
            is_open ^= bool(held[-1].count('"') & 1)
            if not is_open:
                texts.append("\n".join(held))
                numbers.append(last - len(held) + 1)
                held = []
            elif len(held) > _MOST_LINES:
                texts.append(held[0])
                numbers.append(last - len(held) + 1)
                lines.extendleft(reversed(held[1:]))
                last -= len(held) - 1
                held, is_open = [], False
        yield texts, numbers
    yield held, range(last - len(held) + 1, last + 1)


def _rows(texts: Sequence[str], mark: str) -> list[list[str]]:
    """Parse CSV records whose fields may have any length; the module's limit holds for the whole process."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        return list(csv.reader(texts, delimiter=mark))
    finally:
        csv.field_size_limit(before)


def csv_columns(texts: list[str], places: Sequence[int], width: int, mark: str = ",") -> Columns:
    """Return the fields at ``places`` of records that all have ``width`` fields, one list per place."""
    text = "\n".join(texts)
    if '"' in text or "\r" in text:
        rows = _rows(texts, mark)
        if set(map(len, rows)) != {width} or len(rows) != len(texts):
            raise WrongWidth
        return [[row[place] for row in rows] for place in places]
    # Without quotes, records can be split at the marks all at once, which makes no list per record and is three times
    # as fast. The records have equal width if and only if every width-th separator is a line break.
    codes = np.frombuffer(f"{text}\n".encode(), dtype=np.uint8)
    breaks = codes[(codes == ord(mark)) | (codes == ord("\n"))] == ord("\n")
    if breaks.size != len(texts) * width or not breaks[width - 1 :: width].all():
        raise WrongWidth
    fields = text.replace("\n", mark).split(mark)
    return [fields[place::width] for place in places]


def csv_row(text: str, mark: str = ",") -> list[str]:
    """Return the fields of one record."""
    try:
        return _rows([text], mark)[0]
    except csv.Error as error:
        raise ValueError(f"not CSV: {error}") from None


def csv_fields(text: str, places: Sequence[int], width: int, mark: str = ",") -> tuple[Any, ...]:
    """Return the fields at ``places`` of one record; the error text is the reason shown to the user."""
    row = csv_row(text, mark)
    if len(row) != width:
        raise WrongWidth(f"{len(row)} field{'s' * (len(row) != 1)} where the header has {width}")
    return tuple(row[place] for place in places)


def json_columns(texts: list[str], keys: Sequence[str], optional: str | None = None) -> Columns:
    """Return the values of ``keys`` in JSON objects, one object per line, as one list per key; one of them may be missing."""
    columns: Columns = [[] for _ in keys]
    for start in range(0, len(texts), _PIECE):
        lines = list(map(str.strip, texts[start : start + _PIECE]))
        pairs = list(map(_scan, lines))
        if [end for _, end in pairs] != list(map(len, lines)):
            raise ValueError
        for key, column in zip(keys, columns, strict=True):
            column += [entry.get(key) if key == optional else entry[key] for entry, _ in pairs]
    return columns


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object in a line."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise ValueError("not a JSON object")
    return entry
