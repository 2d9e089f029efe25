"""read_log: read the logs of training runs as a stream, leaving out bad lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from csv import Error as CsvError
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, SupportsIndex, get_args

import numpy as np

from cero_alloc._checks import error_text

from ._attempts import attempts_of
from ._doubts import doubts_of
from ._fields import NO_PRESET, Plan, aggregated, find_plan, flat_keys
from ._files import FORMATS, log_files, step_in_name, suffix
from ._lines import (
    Format,
    Progress,
    Source,
    WrongWidth,
    csv_columns,
    csv_fields,
    csv_records,
    csv_row,
    json_columns,
    json_object,
    line_records,
)
from ._log import Reading, RolloutLog, changes
from ._presets import PRESETS, Layout, Preset
from ._records import arrow_batches, document_records, eval_records, fields_of, layout_of
from ._scale import RewardScale, mapped, scale_of, snapped
from ._sessions import header_of, of_last_session
from ._tally import Tally, short

_FEW = 16  # a block with a bad line is halved down to this many lines, which are then read one by one
_SAMPLE = 400  # records in which columns are looked for
_MARKS = (",", ";", "\t", "|")
_ODD = (ValueError, TypeError, KeyError, OverflowError, RecursionError, CsvError)


def read_log(
    *files: str | Path,
    prompt_id: str | None = None,
    step: str | None = None,
    reward: str | None = None,
    successes: str | None = None,
    trials: str | SupportsIndex | None = None,
    group: str | None = None,
    where: str | None = None,
    reward_range: tuple[float, float] | None = None,
    success_at: float | None = None,
    group_size: SupportsIndex | None = None,
    last_attempt: bool = False,
    format: Format | None = None,
    layout: Layout | None = None,
) -> RolloutLog:
    r"""Read the log of a run: one reward per rollout, a list of rewards per group, or successes and trials per line.

    Files are read as streams. Bad lines are left out and counted, and the first five are kept with their reasons; blank lines
    are ignored. A truncated compressed file is used up to its last complete line. Rewards of any finite range are used and
    mapped to [0, 1]; rewards that differ by rounding only are equal.

    Parameters
    ----------
    *files : str or path
        Files, folders (every log below them, by step) and patterns; "-" for standard input. CSV with a header line and any of
        the delimiters comma, semicolon, tab and bar; JSONL; JSON arrays, tables and columns; results of Inspect (.eval, .json)
        and EvalPlus; Parquet and Arrow with pyarrow. Plain or compressed by gzip, bzip2, xz, or zstd from Python 3.14 on;
        UTF-8 or UTF-16.
    prompt_id, step, reward, successes, trials, group : str or None
        Names of the columns or keys, with dots into nested ones ("reward.score"); None looks for the usual ones. Several
        columns make one id ("data_source,index"), several rewards their sum ("accuracy_reward+format_reward"). Without a step
        the files' names are asked; "none" takes the log for one step. A number for ``trials`` says that rewards are rates of so
        many. ``group`` tells groups of one prompt in one step apart.
    where : str or None
        Keep the lines of one value, such as "split=train".
    reward_range : pair of floats, or None
        Smallest and largest reward; None finds them.
    success_at : float or None
        Rewards of at least this much count as 1, all others as 0.
    group_size : int or None
        Rollouts of a group of consecutive lines, for a log without prompt ids.
    last_attempt : bool
        Where steps go backwards in a file, or from one file to the next, as after a restart, keep the last attempt of each
        step only.
    format : {"csv", "jsonl", "json", "parquet", "arrow", "eval"} or None
        None decides by the extension, or by the first line.
    layout : str or None
        Who wrote the log: "verl", "trl", "openrlhf", "nemo-rl", "open-instruct", "tinker", "prime-rl", "verifiers", "roll",
        "wandb", "inspect", "lm-eval", "evalplus" or "counts". Its names are looked for before the usual ones, its files are
        picked from a folder, and evaluations are one step. Named columns win.

    Returns
    -------
    RolloutLog
        Rewards by prompt and step; ``log.reading`` tells what was taken, and the doubts.

    Raises
    ------
    ValueError
        For an unknown format or layout, columns that cannot be found (the message lists the columns of the log), rewards whose
        range cannot be told, or a log without a good line.
    TypeError
        For a file that is not a path.
    OSError
        For a file that cannot be read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> _ = file.write_text('{"index": 7, "step": 1, "score": 1}\n{"index": 7, "step": 1, "score": -1}\n')
    >>> log = read_log(file)
    >>> log.successes.tolist(), log.reading.scale.kind, log.reading.columns["prompt_id"]
    ([1.0], '-1/1', 'index')
    """
    told = {
        "prompt_id": prompt_id,
        "step": step,
        "reward": reward,
        "successes": successes,
        "trials": None if trials is None else str(trials),
        "group": group,
        "where": where,
    }
    size = None if group_size is None else int(group_size)
    options = Options(told, reward_range, success_at, size, last_attempt, format, layout)
    for file in files:
        if not isinstance(file, (str, PathLike)):  # open() would take a number for a file descriptor
            raise TypeError(error_text("file", "be a path", file, "Name the log."))
    return read_files(log_files(files, options.preset.files), options, lambda _: None)


class Options:
    """What the user told about a log."""

    def __init__(
        self,
        told: dict[str, str | None],
        reward_range: tuple[float, float] | None = None,
        success_at: float | None = None,
        group_size: int | None = None,
        last_attempt: bool = False,
        format: str | None = None,
        layout: Layout | None = None,
    ) -> None:
        if layout is not None and layout not in PRESETS:
            raise ValueError(error_text("layout", f"be one of {list(PRESETS)}", layout, "Correct the spelling."))
        if format is not None and format not in get_args(Format):
            raise ValueError(
                error_text("format", f"be one of {list(get_args(Format))}", format, "Correct the spelling.")
            )
        if reward_range is not None and not -np.inf < reward_range[0] < reward_range[1] < np.inf:
            condition, remedy = "ascend from low to high", "Give two numbers, such as (-1, 1)."
            raise ValueError(error_text("reward_range", condition, reward_range, remedy))
        if group_size is not None and group_size < 1:
            raise ValueError(error_text("group_size", "be at least 1", group_size, "Count the rollouts of a group."))
        self.told, self.reward_range, self.success_at = dict(told), reward_range, success_at
        self.group_size, self.last_attempt, self.format = group_size, last_attempt, format
        self.layout, self.preset = layout, PRESETS[layout] if layout else NO_PRESET
        self.where: tuple[str, str] | None = None
        given = self.told.get("where")
        if given is not None:
            name, equals, value = given.partition("=")
            if not equals:
                raise ValueError(error_text("where", "be a column and its value", given, "Write it as split=train."))
            self.told["where"], self.where = name, (name, value)


def read_files(names: Sequence[str], options: Options, progress: Progress) -> RolloutLog:
    """Read a log as :func:`read_log` does, calling ``progress`` with the number of bytes of a file read so far."""
    reader = _Reader(names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more", options)
    for name in names:
        reader.read(name, progress)
    return reader.log(tuple(names))


class _Reader:
    """Reads the files of a log into a tally, with the columns that were found in the first of them."""

    def __init__(self, name: str, options: Options) -> None:
        self._name, self._options = name, options
        self.tally = Tally()
        self._plan: Plan | None = None
        self._format = ""
        self._broken: str | None = None
        self._header: dict[str, Any] = {}  # of a log of an allocator, the last of its headers
        self._step: float | None = None  # of the file, by its name
        self._line_in_group = 0
        self._preset = options.preset
        self._where = options.where

    # ------------------------------------------------------------ files

    def read(self, file: str, progress: Progress) -> None:
        """Add a file."""
        self._file = file
        self._step = None if file == "-" else step_in_name(file)
        if self._step is not None and self._plan is not None and self._plan.per_group:
            self._line_in_group += -self._line_in_group % self._plan.per_group  # no group goes over two steps
        self.tally.start_file(file)
        self._where = self._options.where
        kind = self._options.format or FORMATS.get(suffix(file))
        if kind == "eval":
            self._format, self._preset = kind, self._preset_of("inspect")
            records = eval_records(file)
            self._take_records(records, range(1, len(records) + 1))
            return
        if kind in ("parquet", "arrow"):
            self._format = kind
            number = 1
            for batch in arrow_batches(file, kind):
                self._take_records(batch, range(number, number + len(batch)))
                number += len(batch)
            return
        with ExitStack() as stack:
            raw = sys.stdin.buffer if file == "-" else stack.enter_context(open(file, "rb"))
            source = Source(raw, progress)
            self._read_text(source, kind)
            self._broken = self._broken or source.broken

    def _read_text(self, source: Source, kind: str | None) -> None:
        blocks = iter(source)
        first = next((text for text in blocks if text.strip()), None)
        if first is None:
            why = f" ({source.broken})" if source.broken else ""
            if self._plan is None:
                raise ValueError(f"{self._file} must hold a log, got an empty file{why}. Check the path.")
            return
        start = first.lstrip()
        if self._options.format is None and kind in ("json", "jsonl", None) and start[0] in "[{":
            kind = "jsonl" if start[0] == "{" and _is_lines(start) else "json"
        self._format = kind = kind or "csv"

        def from_first() -> Iterator[str]:
            yield first
            yield from blocks

        if kind == "json":
            records, layout = self._named(document_records, "\n".join(from_first()))
            self._preset = self._preset_of(layout)
            self._take_records(records, range(1, len(records) + 1))
        elif kind == "jsonl":
            for texts, numbers in line_records(from_first()):
                self._take_jsonl(texts, numbers)
        else:
            self._read_csv(from_first())

    def _preset_of(self, found: Layout | None) -> Preset:
        """Return the preset that was told, else that of the layout that a document tells."""
        return self._preset if self._options.layout or found is None else PRESETS[found]

    def _named(self, parse: Any, *text: str) -> Any:
        """Parse text, naming the file in an error."""
        try:
            return parse(*text)
        except ValueError as error:
            raise ValueError(
                f"{self._file} must hold a log, got text that is {error}. Check the path, or --format."
            ) from None

    def _read_csv(self, blocks: Iterator[str]) -> None:
        records = csv_records(blocks)
        for texts, numbers in records:
            head = next((i for i, text in enumerate(texts) if text.strip()), None)
            if head is None:
                continue
            mark = max(_MARKS, key=texts[head].count)
            columns = [name.strip() for name in self._named(csv_row, texts[head], mark)]
            sample = []
            for text in texts[head + 1 : head + 1 + _SAMPLE]:
                try:
                    sample.append(
                        dict(zip(columns, csv_fields(text, range(len(columns)), len(columns), mark), strict=True))
                    )
                except ValueError:
                    continue
            self._find(columns, sample)
            self._take_csv(texts[head + 1 :], numbers[head + 1 :], columns, mark)
            for texts, numbers in records:
                self._take_csv(texts, numbers, columns, mark)

    # ------------------------------------------------------------ columns

    def _find(self, columns: list[str], sample: list[dict[str, Any]]) -> None:
        """Find the columns, in the first file that has any; later files must have them, too."""
        if self._plan is not None:
            return
        self._plan = find_plan(
            columns,
            self._options.told,
            self._lack,
            named_step=self._step is not None,
            per_group=self._options.group_size,
            sample=sample,
            preset=self._preset,
        )
        self.tally.trials = self._plan.trials

    def _lack(self, what: str, role: str, columns: list[str]) -> ValueError:
        layout = self._options.layout
        expects = f" --from {layout} expects {self._preset.expects}." if layout else ""
        if role in ("prompt_id", "reward") and aggregated(columns) and self._options.told.get(role) is None:
            return ValueError(
                f"{self._file} must hold rollouts, got means per step: {', '.join(columns[:8])}. Log one line per rollout, or its "
                "rewards: TRL log_completions=True, verl trainer.rollout_data_dir=DIR, OpenRLHF and others as the page on logs says."
                f"{expects}"
            )
        flag = "--" + role.replace("_", "-")
        shown = ", ".join(map(repr, columns[:30])) + (", ..." if len(columns) > 30 else "")
        more = ""
        if role == "prompt_id":
            more = " If groups are consecutive lines, give their size: --group-size N, group_size= in Python."
        if role == "step":
            more = " A log without steps is one step: --step none."
        return ValueError(
            f"{self._file} must have {what}, got {shown}. Name it: {flag} NAME on the command line, {role}= in Python.{more}"
            f"{expects}"
        )

    # ------------------------------------------------------------ lines

    def _take_csv(self, texts: list[str], numbers: Any, columns: list[str], mark: str) -> None:
        plan = self._plan
        assert plan is not None
        places = {role: [columns.index(n) for n in names if n in columns] for role, names in plan.columns.items()}
        lost = next((role for role, at in places.items() if len(at) < len(plan.columns[role])), None)
        if lost is not None:
            raise self._lack(f"the column {plan.columns[lost]!r} of the first file", lost, columns)
        flat = [at for several in places.values() for at in several]
        width = len(columns)

        def fast(part: list[str]) -> dict[str, list[Any]]:
            if not plan.plain:
                raise ValueError
            return dict(zip(places, csv_columns(part, flat, width, mark), strict=True))

        def one(text: str) -> dict[str, list[Any]]:
            row = csv_fields(text, range(width), width, mark)
            return fields_of(dict(zip(columns, row, strict=True)), plan)

        self._take(texts, numbers, fast, one)

    def _take_jsonl(self, texts: list[str], numbers: Any) -> None:
        if self._plan is None:
            self._find_in(texts)
        plan = self._plan
        assert plan is not None
        roles, optional = list(plan.columns), "squares" if "squares" in plan.columns else None
        keys = [names[0] for names in plan.columns.values()]

        def fast(part: list[str]) -> dict[str, list[Any]]:
            if not plan.plain:
                raise ValueError
            found = dict(zip(roles, json_columns(part, keys, optional), strict=True))
            if any(isinstance(value, (list, dict)) for value in found.get("reward", ())):
                raise ValueError
            return found

        self._take(texts, numbers, fast, lambda text: fields_of(json_object(text), plan))

    def _find_in(self, texts: list[str]) -> None:
        """Find the keys of a JSONL log in the first line that has all of them."""
        own, sample = header_of(texts[0]) is not None, []
        lines = [text for text in texts if text.strip() and header_of(text) is None]
        for text in lines[: 4 * _SAMPLE]:
            try:
                sample.append(json_object(text))
            except ValueError:
                continue
        self._find_keys(sample, lines[0] if lines else "")
        if own and self._plan is not None and self._plan.counted:
            self._plan = replace(self._plan, columns=self._plan.columns | {"squares": ("squares",)})

    def _find_keys(self, sample: list[dict[str, Any]], first: str) -> None:
        error: ValueError | None = None
        for record in sample:
            try:
                self._find(flat_keys(record), sample[:_SAMPLE])
                return
            except ValueError as fault:
                error = error or fault
        if not sample and not first:
            raise ValueError(f"{self._file} must hold outcomes, got none yet. Replay it once rewards were reported.")
        what = f"{self._file} must hold one JSON object per line, got {short(first)!r}. Check the format, or the path."
        raise error or ValueError(what)

    def _take_records(self, records: list[dict[str, Any]], numbers: Any) -> None:
        if self._plan is None:
            self._find_keys([record for record in records if record], str(records[:1]))
        assert self._plan is not None
        for record, number in zip(records, numbers, strict=True):
            self._take_one(partial(fields_of, record, self._plan), number, str(record)[:200])

    def _take(self, texts: list[str], numbers: Any, fast: Any, one: Any) -> None:
        """Add records; if one is bad, halve them until the bad ones are isolated."""
        if not texts:
            return
        if len(texts) > 1:
            try:
                self.tally.add(self._placed(fast(texts)))
            except _ODD:
                if len(texts) > _FEW and self._plan is not None and self._plan.plain:
                    middle = len(texts) // 2
                    self._take(texts[:middle], numbers[:middle], fast, one)
                    self._take(texts[middle:], numbers[middle:], fast, one)
                    return
            else:
                self.tally.n_lines += len(texts)
                return
        for text, number in zip(texts, numbers, strict=True):
            if not text.strip():
                continue
            header = header_of(text)
            if header is not None:
                self._header = header
                self.tally.sessions.append(header["round"])
                continue
            lines = text.split("\n")
            try:
                self._take_one(partial(one, text), number, text, stray=len(lines) > 1)
            except WrongWidth:  # a stray quote has joined this line with the lines that follow
                self._take(lines, range(number, number + len(lines)), fast, one)

    def _take_one(self, fields: Any, number: int, text: str, *, stray: bool = False) -> None:
        place = self._line_in_group
        try:
            found = fields()
            if self._kept(found):
                self.tally.add(self._placed(found))
        except _ODD as error:
            if stray and isinstance(error, WrongWidth):
                raise
            self.tally.complain(number, str(error) or "not readable", text)
            # A bad line keeps its place, so that the next group begins where it would.
            self._line_in_group = max(self._line_in_group, place + 1)
        self.tally.n_lines += 1

    def _kept(self, found: dict[str, list[Any]]) -> bool:
        where = found.pop("where", None)
        if not next(iter(found.values())):
            raise ValueError("no reward in the list")
        if where is None:
            return True
        value = str(where[0])
        if self._where is None and self._plan is not None:  # a preset reads the first value
            self._where = (self._plan.columns["where"][0], value)
        kept = self._where is not None and value.lower() == self._where[1].lower()
        if self._options.where is None:
            self.tally.others["read" if kept else "left"].add(value)
        return kept

    def _placed(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Add the step of the file's name, and ids for groups of consecutive lines."""
        size = len(next(iter(columns.values())))
        if "step" not in columns and self._step is not None and self._options.told.get("step") != "none":
            columns["step"] = [self._step] * size
        if self._plan is not None and self._plan.per_group:
            at = self._line_in_group
            columns["prompt_id"] = [f"group {i // self._plan.per_group}" for i in range(at, at + size)]
            self._line_in_group += size
        return columns

    # ------------------------------------------------------------ the result

    def log(self, files: tuple[str, ...]) -> RolloutLog:
        """Return all good lines as a log."""
        tally, plan = self.tally, self._plan
        if not len(tally) or plan is None:
            found = "".join(f"\n  {bad}" for bad in tally.bad)
            why = f", {tally.n_bad} bad:{found}\n" if tally.n_bad else ". "
            raise ValueError(
                f"{self._name} must hold at least one good line, got {tally.n_lines} lines{why}Check the columns, or the path."
            )
        prompt, step, attempt, group, reward, rollouts = tally.rows()
        attempts = attempts_of(prompt, step, attempt, rollouts, tally.unit_files)
        last, own = self._options.last_attempt, bool(tally.sessions)
        kept = np.ones(step.size, dtype=np.bool_)
        if own:
            kept = of_last_session(prompt, step, attempt, tally.sessions)
        elif last and attempts.repeated:
            kept = attempts.last(step)
        twice = kept & np.isin(step, _repeated_steps(tally))
        kept &= ~twice
        dropped = int(rollouts[~kept if own else twice].sum())
        prompt, step, group, reward, rollouts = prompt[kept], step[kept], group[kept], reward[kept], rollouts[kept]
        reward = snapped(reward)
        scale = self._scale(np.unique(reward), plan)
        reward = mapped(reward, scale)
        if self._options.success_at is not None:
            reward = (reward >= mapped(np.array([self._options.success_at]), scale)[0]).astype(np.float64)
        order = np.lexsort((reward, group, prompt, step))
        prompt, step, group, reward = prompt[order], step[order], group[order], reward[order]
        first = changes(prompt, step, group, reward)
        rows, prompt = np.unique(prompt[first], return_inverse=True)  # prompts that only bad lines name have no rows
        columns = {role: "+".join(n) if role == "reward" else ",".join(n) for role, n in plan.columns.items()}
        parts: dict[str, Any] = {
            "n_lines": tally.n_lines,
            "n_bad": tally.n_bad,
            "bad_lines": tuple(tally.bad),
            "broken": self._broken,
            "group": group[first],
        }
        data = (
            tuple(tally.prompts.names[row] for row in rows.tolist()),
            prompt,
            step[first],
            reward[first],
            np.add.reduceat(rollouts[order], first),
        )
        reading = Reading(files, self._format, columns, scale, tally.unscored)
        if own:
            if not ((reward > 0.0) & (reward < 1.0)).any():
                columns.pop("squares", None)
            pool = max(self._header["prompts"], rows.size)
            reading = replace(reading, format="cero-alloc", dealt_by=self._header["allocator"], pool=pool)
        log = RolloutLog.of_rows(*data, **parts, reading=reading)
        doubts = tuple(doubts_of(log, tally, plan, attempts, dropped, last))
        return replace(log, reading=replace(reading, doubts=doubts))

    def _scale(self, rewards: Any, plan: Plan) -> RewardScale:
        told = self._options.reward_range
        if told is not None:
            low, high = map(float, told)
            if rewards.min() < low or rewards.max() > high:
                bad = rewards.min() if rewards.min() < low else rewards.max()
                raise ValueError(
                    f"reward_range must hold all rewards, got {bad:g} outside [{low:g}, {high:g}]. Widen it, or check the column."
                )
            return RewardScale(scale_of(rewards).kind, low, high)
        scale = scale_of(rewards)
        if not scale.sure and rewards.size > 1 and "reward" not in plan.told and self._options.success_at is None:
            reward = plan.columns.get("reward", ("reward",))[0]
            range_ = f"--reward {reward} --reward-range={scale.low:g},{scale.high:g}"
            other = f"--reward {plan.success}" if plan.success else f"--success-at {scale.high:g}"
            raise ValueError(
                f"{self._name} must have rewards of a known range, got {reward!r} between {scale.low:g} and {scale.high:g} without "
                f"levels. Say what counts: {other} for successes, or {range_} for the reward as it is."
            )
        return scale


def _is_lines(start: str) -> bool:
    """Whether a text that begins with a brace has one object per line."""
    line, _, rest = start.partition("\n")
    if not rest.strip():
        try:
            record = json_object(line)
        except ValueError:
            return True
        return layout_of(record) is None and not all(isinstance(value, list) for value in record.values())
    try:
        json_object(line)
    except ValueError:
        return line.strip() != "{"
    return True


def _repeated_steps(tally: Tally) -> list[float]:
    """Return the steps whose completions and rewards are those of the step before, unless completions are all alike."""
    again = []
    before: list[int] | None = None
    for step in sorted(tally.signs):
        signs = tally.signs[step]
        if before is not None and signs[:2] == before[:2] and signs[2] != signs[3]:
            again.append(step)
        before = signs
    return again
