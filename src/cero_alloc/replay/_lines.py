"""From the bytes of a log to columns: blocks of whole lines, CSV and JSONL records, and the fields that are used."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

Format = Literal["csv", "jsonl"]
Progress = Callable[[int], None]
Columns = list[list[Any]]

_BLOCK = 1 << 20  # bytes: large enough to amortise the cost per block, small enough to hold several in memory
_PIECE = 1000  # JSON objects in memory at a time: with more of them, garbage collection costs more than it saves
_MOST_LINES = 10_000  # of one record: a quote that stays open longer is a stray one
_scan = json.JSONDecoder().raw_decode  # json.loads without the checks that the caller makes anyway


class WrongWidth(ValueError):
    """A record has more or fewer fields than the header."""


class Source:
    """The text of a plain or gzipped stream in blocks of whole lines.

    Parameters
    ----------
    raw : binary file
        Must have ``peek``, like ``open(file, "rb")`` and standard input.
    progress : callable
        Called after each block with the number of bytes of the file read so far.

    Attributes
    ----------
    broken : str or None
        Why a gzipped stream is incomplete; set when iteration ends.
    """

    def __init__(self, raw: Any, progress: Progress) -> None:
        self._raw = raw
        self._progress = progress
        self.broken: str | None = None
        zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        self._stream: Any = gzip.GzipFile(fileobj=raw) if zipped else raw

    def __iter__(self) -> Iterator[str]:
        """Yield blocks of lines without the final newline; the incomplete line before a break is left out."""
        parts: list[bytes] = []  # of a line that continues in the next block
        done = 0
        first = True
        for data in self._bytes():
            done += len(data)
            self._progress(self._raw.tell() if self._raw.seekable() else done)
            if first and data.startswith(b"\xef\xbb\xbf"):
                data = data[3:]
            first = False
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
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                self.broken, piece = str(error).rstrip("."), b""
            more = bool(piece)
            pieces.append(piece)
            size += len(piece)
            if size >= _BLOCK or not more:
                yield b"".join(pieces)
                pieces, size = [], 0


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


def csv_columns(texts: list[str], places: Sequence[int], width: int) -> Columns:
    """Return the fields at ``places`` of records that all have ``width`` fields, one list per place."""
    text = "\n".join(texts)
    if '"' in text or "\r" in text:
        rows = list(csv.reader(texts))
        if set(map(len, rows)) != {width} or len(rows) != len(texts):
            raise WrongWidth
        return [[row[place] for row in rows] for place in places]
    # Without quotes, records can be split at the commas all at once, which makes no list per record and is three times
    # as fast. The records have equal width if and only if every width-th separator is a line break.
    codes = np.frombuffer(f"{text}\n".encode(), dtype=np.uint8)
    breaks = codes[(codes == ord(",")) | (codes == ord("\n"))] == ord("\n")
    if breaks.size != len(texts) * width or not breaks[width - 1 :: width].all():
        raise WrongWidth
    fields = text.replace("\n", ",").split(",")
    return [fields[place::width] for place in places]


def csv_row(text: str) -> list[str]:
    """Return the fields of one record."""
    try:
        return next(csv.reader([text]))
    except csv.Error as error:
        raise ValueError(f"not CSV: {error}") from None


def csv_fields(text: str, places: Sequence[int], width: int) -> tuple[Any, ...]:
    """Return the fields at ``places`` of one record; the error text is the reason shown to the user."""
    row = csv_row(text)
    if len(row) != width:
        raise WrongWidth(f"{len(row)} field{'s' * (len(row) != 1)} where the header has {width}")
    return tuple(row[place] for place in places)


def json_columns(texts: list[str], keys: Sequence[str]) -> Columns:
    """Return the values of ``keys`` in JSON objects, one object per line, as one list per key."""
    columns: Columns = [[] for _ in keys]
    for start in range(0, len(texts), _PIECE):
        lines = list(map(str.strip, texts[start : start + _PIECE]))
        pairs = list(map(_scan, lines))
        if [end for _, end in pairs] != list(map(len, lines)):
            raise ValueError
        for key, column in zip(keys, columns, strict=True):
            column += [entry[key] for entry, _ in pairs]
    return columns


def json_fields(text: str, keys: Sequence[str]) -> tuple[Any, ...]:
    """Return the values of ``keys`` in one JSON object; the error text is the reason shown to the user."""
    entry = json_object(text)
    missing = [key for key in keys if key not in entry]
    if missing:
        raise ValueError(f"no key {missing[0]!r}")
    return tuple(entry[key] for key in keys)


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object in a line."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise ValueError("not a JSON object")
    return entry
