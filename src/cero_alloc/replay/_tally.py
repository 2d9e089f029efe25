"""The good lines of a log, counted by prompt, step, group and reward, and the bad ones with their reasons."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray

from ._fields import WORDS, name_of
from ._files import unit_of
from ._log import BadLine, changes
from ._sessions import MOST_TRIALS, parts_of

UNIT = 1 << 32  # attempts in one unit of files, at most
_SHOWN = 5  # bad lines kept with their reasons
_MOST_TEXT = 60  # characters shown of a bad line
_REMEMBERED = 1 << 16  # distinct texts of numbers
_FLUSH = 1 << 20  # rows held before equal ones are merged
_MOST_VALUES = 8  # of a column that tells splits or sources, remembered

_LAST_NUMBER = re.compile(r"\d+(?!.*\d)", re.DOTALL)


class Prompts(dict[Any, int]):
    """Codes of prompt ids in order of first appearance; 7, 7.0 and "7" are the same prompt."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __missing__(self, key: Any) -> int:
        name = name_of(key)
        if not name:
            raise ValueError("no prompt id")
        if name not in self:
            self[name] = len(self.names)
            self.names.append(name)
        code = self[key] = self[name]
        return code

    def code(self, key: Any) -> int:
        """Return the code of an id that may be a list or an object."""
        return self[name_of(key)] if isinstance(key, (list, dict)) else self[key]


class _Numbers(dict[Any, float]):
    """Numbers by their text, cached because a log repeats a few of them; NaN stands for no reward."""

    def __missing__(self, key: Any) -> float:
        if key is None:
            return np.nan
        try:
            value = float(key)
        except ValueError:
            value = self._odd(key.strip())
        if len(self) < _REMEMBERED:
            self[key] = value
        return value

    def _odd(self, text: str) -> float:
        return WORDS[text.lower()]


class _Steps(_Numbers):
    """Step numbers; of a text such as "step_12" the last number."""

    def _odd(self, text: str) -> float:
        found = _LAST_NUMBER.search(text)
        if found is None:
            raise ValueError(text)
        return float(found.group())


class Tally:
    """Counts the rows of a log as they are read.

    Rows are kept by (prompt, step, attempt, group, reward), where the attempt counts how often the steps of a file went
    backwards, from ``UNIT`` times the file's unit on: files of one unit are written side by side.
    """

    def __init__(self, trials: int | None = None) -> None:
        self.prompts, self.groups = Prompts(), Prompts()
        self.rewards, self.steps = _Numbers(), _Steps()
        self.n_lines = self.n_bad = self.unscored = 0
        self.bad: list[BadLine] = []
        self.values: dict[str, set[str]] = defaultdict(set)  # of the columns that tell splits
        self.sources: dict[int, int] = {}  # of each prompt, -1 for several
        self.signs: dict[
            float, list[int]
        ] = {}  # rows, sum of hashes, least and largest hash of the completions of each step
        self._source_codes = Prompts()
        self.trials = trials
        self.sessions: list[int] = []  # of a log of an allocator: the round in which each header was written
        self._held: list[tuple[npt.NDArray[Any], ...]] = []
        self._n_held = self._merged = 0  # rows held, and those of the first part, which are distinct already
        self._attempt, self._last = 0, -np.inf
        self._units: dict[str, int] = {}
        self.unit_files: list[str] = []  # the first file of each unit
        self.others: dict[str, set[str]] = {"read": set(), "left": set()}  # values of a preset's column

    def start_file(self, file: str) -> None:
        """Begin with a file: its steps may begin anew."""
        unit = self._units.setdefault(unit_of(file), len(self._units))
        if unit == len(self.unit_files):
            self.unit_files.append(file)
        self._attempt, self._last = UNIT * unit, -np.inf

    def add(self, columns: dict[str, list[Any]]) -> None:
        """Add columns of records by role, or raise before anything is added if one of them is bad."""
        size = len(next(iter(columns.values())))
        step = _floats(self.steps, columns["step"], (str, int, float)) if "step" in columns else np.zeros(size)
        if not np.isfinite(step).all():
            raise ValueError("step is not finite" if np.isinf(step).any() else "step is not a number")
        parts = self._rewards(columns)
        if {bool, type(None)} & set(map(type, columns["prompt_id"])) or any(
            isinstance(key, float) and not np.isfinite(key) for key in columns["prompt_id"]
        ):
            raise ValueError("prompt id is neither text nor a number")
        prompt = _codes(self.prompts, columns["prompt_id"])
        group = _codes(self.groups, columns["group"]) if "group" in columns else np.zeros(size, dtype=np.int64)
        attempt = self._attempts(step)
        for reward, rollouts in parts:
            some = (rollouts > 0) & ~np.isnan(reward)
            self._held.append((prompt[some], step[some], attempt[some], group[some], reward[some], rollouts[some]))
            self._n_held += int(some.sum())
        self.unscored += int(sum(rollouts[np.isnan(reward)].sum() for reward, rollouts in parts))
        self._note(columns, prompt, step, parts[0][0])
        if self._n_held - self._merged >= max(_FLUSH, self._merged):
            self._merge()

    def complain(self, number: int, reason: str, text: str) -> None:
        """Count a bad line."""
        self.n_bad += 1
        if len(self.bad) < _SHOWN:
            self.bad.append(BadLine(number, reason, short(text)))

    def rows(self) -> tuple[IntArray, FloatArray, IntArray, IntArray, FloatArray, IntArray]:
        """Return prompt, step, attempt, group, reward and rollouts of all rows, merged."""
        self._merge()
        return self._held[0]  # type: ignore[return-value]

    def __len__(self) -> int:
        return self._n_held

    def _attempts(self, step: FloatArray) -> IntArray:
        if self.sessions:  # late feedback is of earlier rounds: steps going backwards tell nothing
            return np.full(step.size, len(self.sessions))
        back = step < np.concatenate([[self._last], step[:-1]])
        attempt = self._attempt + np.cumsum(back)
        self._attempt, self._last = int(attempt[-1]), float(step[-1])
        return attempt

    def _rewards(self, columns: dict[str, list[Any]]) -> list[tuple[FloatArray, IntArray]]:
        """Return rewards and rollouts; counts become two parts, of rewards 1 and 0."""
        if "reward" in columns:
            raw = columns["reward"]
            if any(isinstance(value, str) and "/" in value and value.lower() != "n/a" for value in raw):
                both = [_fraction(value) for value in raw]
                return _counted(np.array([a for a, _ in both]), np.array([b for _, b in both]))
            reward = _floats(self.rewards, raw, (str, int, float, bool, type(None)), "reward")
            if np.isinf(reward).any():
                raise ValueError("reward is not finite")
            if self.trials is None:
                return [(reward, np.ones(reward.size, dtype=np.int64))]
            return _of_rates(reward, self.trials)
        wins, trials = (
            _floats(self.rewards, columns[role], (str, int, float), role) for role in ("successes", "trials")
        )
        if "squares" in columns:
            squares = _floats(self.rewards, columns["squares"], (str, int, float, type(None)), "squares")
            return parts_of(wins, trials, squares)
        return _counted(wins, trials)

    def _note(self, columns: dict[str, list[Any]], prompt: IntArray, step: FloatArray, reward: FloatArray) -> None:
        """Remember what tells validation rows, mixed sources, and completions that are logged again."""
        if "split" in columns and len(self.values["split"]) < _MOST_VALUES:
            self.values["split"] |= set(map(str, columns["split"]))
        if "source" in columns:
            source = _codes(self._source_codes, columns["source"])
            for p, s in set(zip(prompt.tolist(), source.tolist(), strict=True)):
                if self.sources.setdefault(p, s) != s:
                    self.sources[p] = -1
        if "completion" in columns:
            texts = np.fromiter((hash(name_of(t)) for t in columns["completion"]), np.int64, step.size)
            signs = texts ^ (prompt * 0x9E3779B97F4A7C1) ^ np.nan_to_num(reward, nan=-9.0).view(np.int64)
            signs = signs * 0x2545F4914F6CDD1
            order = np.argsort(step, kind="stable")
            first = changes(step[order])
            texts, signs = texts[order], signs[order]
            of_each = (
                step[order][first],
                np.diff(np.append(first, step.size)),
                np.add.reduceat(signs, first),
                np.minimum.reduceat(texts, first),
                np.maximum.reduceat(texts, first),
            )
            for at, rows, total, low, high in zip(*(part.tolist() for part in of_each), strict=True):
                old = self.signs.setdefault(at, [0, 0, low, high])
                old[0] += rows
                old[1] = (old[1] + total) % 2**64
                old[2], old[3] = min(old[2], low), max(old[3], high)

    def _merge(self) -> None:
        """Merge held rows that agree in all but the rollouts, sorted by step, prompt, attempt, group and reward."""
        prompt, step, attempt, group, reward, rollouts = (
            np.concatenate(column) for column in zip(*self._held, strict=True)
        )
        keys = [reward, *(key for key in (group, attempt) if key.any()), prompt, step]
        order = np.lexsort(keys)
        first = changes(*(key[order] for key in keys))
        kept = (key[order][first] for key in (prompt, step, attempt, group, reward))
        self._held = [(*kept, np.add.reduceat(rollouts[order], first))]
        self._n_held = self._merged = first.size


def short(text: str) -> str:
    """Return the beginning of a line."""
    line = text[: 4 * _MOST_TEXT].strip()
    return line if len(line) <= _MOST_TEXT else line[: _MOST_TEXT - 3] + "..."


def _codes(prompts: Prompts, column: list[Any]) -> IntArray:
    try:
        return np.fromiter(map(prompts.__getitem__, column), np.int64, len(column))
    except TypeError:  # lists and objects
        return np.fromiter(map(prompts.code, column), np.int64, len(column))


def _floats(numbers: _Numbers, column: list[Any], plain: tuple[type, ...], role: str = "step") -> FloatArray:
    if not set(map(type, column)) <= set(plain):
        raise ValueError(f"{role} is not a number")
    try:
        return np.fromiter(map(numbers.__getitem__, column), np.float64, len(column))
    except (KeyError, ValueError, OverflowError):
        raise ValueError(f"{role} is not a number") from None


def _fraction(value: Any) -> tuple[float, float]:
    try:
        wins, trials = value.split("/")
        return float(wins), float(trials)
    except (AttributeError, ValueError):
        raise ValueError("reward is not a fraction such as 3/8") from None


def _counted(wins: FloatArray, trials: FloatArray) -> list[tuple[FloatArray, IntArray]]:
    for name, amounts in (("successes", wins), ("trials", trials)):
        if not np.isfinite(amounts).all():
            raise ValueError(f"{name} is not finite")
    if (wins != np.floor(wins)).any() or (trials != np.floor(trials)).any():
        raise ValueError("successes and trials are not whole numbers; give one reward per line instead")
    if not ((wins >= 0.0) & (wins <= trials)).all():
        raise ValueError("successes exceed trials" if (wins > trials).any() else "successes are negative")
    if not ((trials >= 1.0) & (trials <= MOST_TRIALS)).all():
        raise ValueError(f"trials are not between 1 and {MOST_TRIALS}")
    won, lost = wins.astype(np.int64), (trials - wins).astype(np.int64)
    return [(np.ones(wins.size), won), (np.zeros(wins.size), lost)]


def _of_rates(rates: FloatArray, trials: int) -> list[tuple[FloatArray, IntArray]]:
    """Return the counts behind rates, which may be rounded to three digits."""
    outside = ((rates < 0.0) | (rates > 1.0)).any()
    wins = np.zeros(rates.size) if outside else np.rint(rates * trials)
    if outside or (np.abs(rates * trials - wins) > 0.001 * trials + 1e-9).any():
        raise ValueError(f"reward is not a share of {trials} trials")
    scored = ~np.isnan(rates)
    won = np.where(scored, wins, 0.0).astype(np.int64)
    lost = np.where(scored, trials - won, 0)
    unscored = np.where(scored, 0, trials)
    return [(np.ones(rates.size), won), (np.zeros(rates.size), lost), (np.full(rates.size, np.nan), unscored)]
