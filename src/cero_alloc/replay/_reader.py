"""read_log: read a CSV or JSONL log of rollouts as a stream, leaving out bad lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from csv import Error as CsvError
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text

from ._lines import (
    Columns,
    Format,
    Progress,
    Source,
    WrongWidth,
    csv_columns,
    csv_fields,
    csv_records,
    csv_row,
    json_columns,
    json_fields,
    json_object,
    line_records,
)
from ._log import BadLine, RolloutLog, changes

# Column names used by trainers, the usual name first; compared without case.
_NAMES = {
    "prompt_id": ("prompt_id", "prompt", "problem_id", "question_id", "task_id", "example_id", "id"),
    "step": ("step", "global_step", "training_step", "train_step", "iteration", "round", "epoch"),
    "reward": ("reward", "score", "rewards", "correct", "is_correct", "accuracy"),
    "successes": ("successes", "n_correct", "num_correct", "passed", "correct"),
    "trials": ("trials", "rollouts", "n_rollouts", "num_rollouts", "samples", "n_samples", "n"),
}
_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}

_WORDS = {"true": 1.0, "false": 0.0}  # booleans in CSV

_SHOWN = 5  # bad lines kept with their reasons
_MOST_TEXT = 60  # characters shown of a bad line
_MOST_TRIALS = 10**8  # of one line; NumPy's hypergeometric draws need populations below 10**9
_REMEMBERED = 1 << 16  # distinct texts of numbers
_FLUSH = 1 << 20  # rows held before equal ones are merged
_FEW = 16  # a block with a bad line is halved down to this many lines, which are then read one by one
_ODD = (ValueError, TypeError, KeyError, OverflowError, RecursionError, CsvError)


def read_log(
    file: str | Path,
    *,
    prompt_id: str | None = None,
    step: str | None = None,
    reward: str | None = None,
    successes: str | None = None,
    trials: str | None = None,
    format: Format | None = None,
) -> RolloutLog:
    r"""Read a log of rollouts: one reward per line, or successes and trials per line.

    The file is read as a stream. Bad lines are left out and counted, and the first five are kept with their reasons; blank
    lines are ignored. A truncated gzipped file is used up to its last complete line.

    Parameters
    ----------
    file : str or path
        CSV with a header line, or JSONL with one object per line, plain or gzipped; "-" for standard input.
    prompt_id, step, reward, successes, trials : str or None
        Names of the columns or keys; None looks for the usual ones. Prompt ids are strings or whole numbers, steps are
        numbers, rewards are numbers in [0, 1] or booleans, and successes and trials are whole numbers. If a log has both a
        reward column and successes and trials, the latter are used unless ``reward`` is given.
    format : {"csv", "jsonl"} or None
        None decides by the extension, and if that is unknown by whether the first line begins with a brace.

    Returns
    -------
    RolloutLog
        Rewards by prompt and step.

    Raises
    ------
    ValueError
        For an unknown format, columns that cannot be found (the message lists the columns of the log), or a log without a
        good line.
    TypeError
        For a file that is not a path.
    OSError
        For a file that cannot be read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> _ = file.write_text('{"uid": 7, "step": 1, "score": true}\n{"uid": 7, "step": 2, "score": 0.5}\n')
    >>> read_log(file, prompt_id="uid").successes.tolist()
    [1.0, 0.5]
    """
    names = {"prompt_id": prompt_id, "step": step, "reward": reward, "successes": successes, "trials": trials}
    return read_with_progress(file, names, format, lambda _: None)


def read_with_progress(
    file: str | Path, names: dict[str, str | None], format: Format | None, progress: Progress
) -> RolloutLog:
    """Read a log as :func:`read_log` does, calling ``progress`` with the number of bytes read so far."""
    if format is not None and format not in get_args(Format):
        raise ValueError(error_text("format", f"be one of {list(get_args(Format))}", format, "Correct the spelling."))
    if not isinstance(file, (str, PathLike)):  # open() would take a number for a file descriptor
        raise TypeError(error_text("file", "be a path", file, "Name the log."))
    with ExitStack() as stack:
        raw = sys.stdin.buffer if str(file) == "-" else stack.enter_context(open(file, "rb"))
        source = Source(raw, progress)
        tally = _Tally(str(file), names)
        for texts, numbers in _records(str(file), source, format, tally):
            tally.take(texts, numbers)
        return tally.log(source.broken)


def _records(file: str, source: Source, format: str | None, tally: _Tally) -> Iterator[tuple[list[str], Any]]:
    """Determine the format and the columns, then yield the records."""
    blocks = iter(source)
    first = next((text for text in blocks if text.strip()), None)
    if first is None:
        why = f" ({source.broken})" if source.broken else ""
        raise ValueError(f"{file} must hold a log, got an empty file{why}. Check the path.")
    if format is None:
        format = _FORMATS.get(Path(file.removesuffix(".gz")).suffix.lower())
    if format is None:
        format = "jsonl" if first.lstrip().startswith("{") else "csv"

    def from_first() -> Iterator[str]:
        yield first
        yield from blocks

    if format == "csv":
        records = csv_records(from_first())
        for texts, numbers in records:
            head = next((i for i, text in enumerate(texts) if text.strip()), None)
            if head is not None:
                tally.header(texts[head])
                yield texts[head + 1 :], numbers[head + 1 :]
                break
    else:
        tally.keys(first.split("\n"))
        records = line_records(from_first())
    yield from records


class _Prompts(dict[Any, int]):
    """Codes of prompt ids in order of first appearance; 7 and "7" are the same prompt."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __missing__(self, key: Any) -> int:
        name = str(key)
        if not name:
            raise ValueError("no prompt id")
        if name is key or name not in self:
            self[name] = len(self.names)
            self.names.append(name)
        code = self[key] = self[name]
        return code


class _Numbers(dict[Any, float]):
    """Numbers by their text, cached because a log repeats a few of them."""

    def __missing__(self, key: Any) -> float:
        try:
            value = float(key)
        except ValueError:
            value = _WORDS[key.strip().lower()]
        if len(self) < _REMEMBERED:
            self[key] = value
        return value


class _Tally:
    """The good lines read so far, counted by prompt, step and reward, and the bad lines with their reasons."""

    def __init__(self, file: str, names: dict[str, str | None]) -> None:
        self._file = file
        self._names = names
        self._prompts = _Prompts()
        self._numbers = _Numbers()
        self._held: list[tuple[npt.NDArray[Any], ...]] = []  # prompt, step, reward, rollouts
        self._n_held = 0
        self._merged = 0  # rows of the first held part, which are distinct already
        self._n_lines = self._n_bad = 0
        self._bad: list[BadLine] = []

    # ------------------------------------------------------------ the columns

    def header(self, text: str) -> None:
        """Find the columns of a CSV log."""
        columns = [name.strip() for name in csv_row(text)]
        self._roles, chosen = self._find(columns)
        self._places: tuple[Any, ...] = tuple(columns.index(name) for name in chosen)
        self._width: int | None = len(columns)

    def keys(self, lines: list[str]) -> None:
        """Find the keys of a JSONL log in the first line that has all of them."""
        error: ValueError | None = None
        for line in lines:
            try:
                keys = list(json_object(line))
            except ValueError:
                continue
            try:
                self._roles, self._places = self._find(keys)
            except ValueError as fault:
                error = error or fault
            else:
                self._width = None
                return
        what = (
            f"{self._file} must hold one JSON object per line, got {_short(lines[0])!r}. Check the format, or the path."
        )
        raise error or ValueError(what)

    def _find(self, columns: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the roles that the log has columns for, and the names of these columns."""
        spelled = {name.lower(): name for name in reversed(columns)}
        found: dict[str, str] = {}
        for role, given in self._names.items():
            if given is not None:
                if given not in columns:
                    raise ValueError(self._lack(f"the column {given!r}", role, columns))
                found[role] = given
                continue
            name = next((spelled[usual] for usual in _NAMES[role] if usual in spelled), None)
            if name is not None:
                found[role] = name
        for role in ("prompt_id", "step"):
            if role not in found:
                raise ValueError(self._lack(f"a column for the {role}", role, columns))
        counted = {"successes", "trials"} <= found.keys() and self._names["reward"] is None
        if not counted and "reward" not in found:
            missing = "trials" if "successes" in found else "successes" if self._names["trials"] else "reward"
            what = "a reward, or both successes and trials" if missing == "reward" else f"{missing} as well"
            raise ValueError(self._lack(f"a column for {what}", missing, columns))
        roles = ("prompt_id", "step", "successes", "trials") if counted else ("prompt_id", "step", "reward")
        return roles, tuple(found[role] for role in roles)

    def _lack(self, what: str, role: str, columns: list[str]) -> str:
        flag = "--" + role.replace("_", "-")
        shown = ", ".join(map(repr, columns[:30])) + (", ..." if len(columns) > 30 else "")
        return (
            f"{self._file} must have {what}, got {shown}. Name it: {flag} NAME on the command line, {role}= in Python."
        )

    # ------------------------------------------------------------ the lines

    def take(self, texts: list[str], numbers: Any) -> None:
        """Add records; if one is bad, halve them until the bad ones are isolated."""
        if not texts:
            return
        try:
            columns = (
                json_columns(texts, self._places)
                if self._width is None
                else csv_columns(texts, self._places, self._width)
            )
            self._add(columns)
            self._n_lines += len(texts)
        except _ODD:
            if len(texts) > _FEW:
                middle = len(texts) // 2
                self.take(texts[:middle], numbers[:middle])
                self.take(texts[middle:], numbers[middle:])
            else:
                for text, number in zip(texts, numbers, strict=True):
                    self._take_one(text, number)

    def _take_one(self, text: str, number: int) -> None:
        if not text.strip():
            return
        try:
            fields = (
                json_fields(text, self._places) if self._width is None else csv_fields(text, self._places, self._width)
            )
            self._explain(fields)
            self._add([[field] for field in fields])
        except WrongWidth as error:
            lines = text.split("\n")
            if len(lines) > 1:  # a stray quote has joined this line with the lines that follow
                self.take(lines, range(number, number + len(lines)))
                return
            self._complain(number, str(error), text)
        except ValueError as error:
            self._complain(number, str(error), text)
        self._n_lines += 1

    def _complain(self, number: int, reason: str, text: str) -> None:
        self._n_bad += 1
        if len(self._bad) < _SHOWN:
            self._bad.append(BadLine(number, reason, _short(text)))

    def _explain(self, fields: tuple[Any, ...]) -> None:
        """Raise a ValueError with the reason why a record is bad; :meth:`_add` checks the same rules on whole columns."""
        prompt, *numbers = fields
        if type(prompt) not in (str, int):
            raise ValueError("prompt id is neither text nor a whole number")
        values = []
        for role, field in zip(self._roles[1:], numbers, strict=True):
            plain = (str, int, float, bool) if role == "reward" else (str, int, float)
            try:
                if type(field) not in plain:
                    raise TypeError
                value = self._numbers[field]
            except (ValueError, TypeError, KeyError, OverflowError):
                raise ValueError(f"{role} is not a number") from None
            if not np.isfinite(value):
                raise ValueError(f"{role} is not finite")
            values.append(value)
        if self._roles[-1] == "reward":
            if not 0.0 <= values[1] <= 1.0:
                raise ValueError("reward is outside [0, 1]")
            return
        _, wins, trials = values
        if wins != np.floor(wins) or trials != np.floor(trials):
            raise ValueError("successes and trials are not whole numbers; give one reward per line instead")
        if not 0.0 <= wins <= trials:
            raise ValueError("successes exceed trials" if wins > trials else "successes are negative")
        if not 1.0 <= trials <= _MOST_TRIALS:
            raise ValueError(f"trials are not between 1 and {_MOST_TRIALS}")

    def _add(self, columns: Columns) -> None:
        """Add columns of records, or raise before anything is added if one of them is bad."""
        kinds = [set(map(type, column)) for column in columns]
        plain = {str, int, float, bool} if self._roles[-1] == "reward" else {str, int, float}
        if not (kinds[0] <= {str, int} and kinds[1] <= {str, int, float} and all(kind <= plain for kind in kinds[2:])):
            raise TypeError
        size = len(columns[0])
        number = self._numbers.__getitem__
        step, *amounts = (np.fromiter(map(number, column), np.float64, size) for column in columns[1:])
        if not np.isfinite(step).all():
            raise ValueError
        parts: list[tuple[FloatArray, IntArray]]  # reward and rollouts
        if len(amounts) == 1:
            if not ((amounts[0] >= 0.0) & (amounts[0] <= 1.0)).all():
                raise ValueError
            parts = [(amounts[0], np.ones(size, dtype=np.int64))]
        else:
            wins, trials = amounts
            if not ((wins >= 0.0) & (wins <= trials) & (trials >= 1.0) & (trials <= _MOST_TRIALS)).all():
                raise ValueError
            won, lost = wins.astype(np.int64), (trials - wins).astype(np.int64)
            if (won != wins).any() or (won + lost != trials).any():
                raise ValueError
            parts = [(np.ones(size), won), (np.zeros(size), lost)]
        prompt = np.fromiter(map(self._prompts.__getitem__, columns[0]), np.int64, size)
        for reward, rollouts in parts:
            some = rollouts > 0
            self._held.append((prompt[some], step[some], reward[some], rollouts[some]))
            self._n_held += int(some.sum())
        if self._n_held - self._merged >= max(_FLUSH, self._merged):
            self._merge()

    def _merge(self) -> None:
        """Merge held rows with equal prompt, step and reward, and sort by step, prompt and reward."""
        prompt, step, reward, rollouts = (np.concatenate(column) for column in zip(*self._held, strict=True))
        order = np.lexsort((reward, prompt, step))
        prompt, step, reward = prompt[order], step[order], reward[order]
        first = changes(prompt, step, reward)
        self._held = [(prompt[first], step[first], reward[first], np.add.reduceat(rollouts[order], first))]
        self._n_held = self._merged = first.size

    # ------------------------------------------------------------ the result

    def log(self, broken: str | None) -> RolloutLog:
        """Return all good lines as a log."""
        if not self._n_held:
            found = "".join(f"\n  {bad}" for bad in self._bad)
            why = f", {self._n_bad} bad:{found}\n" if self._n_bad else ". "
            raise ValueError(
                f"{self._file} must hold at least one good line, got {self._n_lines} lines{why}Check the columns, or the path."
            )
        self._merge()
        prompt, step, reward, rollouts = self._held[0]
        rows, prompt = np.unique(prompt, return_inverse=True)  # prompts that only bad lines name have no rows
        return RolloutLog.of_rows(
            tuple(self._prompts.names[row] for row in rows.tolist()),
            prompt,
            step,
            reward,
            rollouts,
            n_lines=self._n_lines,
            n_bad=self._n_bad,
            bad_lines=tuple(self._bad),
            broken=broken,
        )


def _short(text: str) -> str:
    line = text.strip()
    return line if len(line) <= _MOST_TEXT else line[: _MOST_TEXT - 3] + "..."
