"""Which column of a log is what, and how a field is taken out of a record."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cero_alloc._columns import NAMES

from ._presets import NO_REWARD, Preset

# Columns that are read to find what is wrong with a log.
ASIDE = {
    "group": ("uid", "group_id", "group.id"),
    "source": ("data_source", "source", "dataset", "env.id"),
    "split": ("split", "phase", "run.work.type", "is_validate", "validate"),
    "completion": ("completion", "output", "response", "completions", "responses", "response_tokens"),
}
_SUCCESS = ("acc", "accuracy", "correct", "is_correct")
_PLACES = ("index", "idx", "id")  # which count from 0 in every source
WORDS = {
    **dict.fromkeys(("true", "c", "correct", "pass", "passed", "yes"), 1.0),
    **dict.fromkeys(("false", "i", "incorrect", "fail", "failed", "no", "wrong"), 0.0),
    **dict.fromkeys(("", "none", "null", "n/a", "na"), math.nan),
}  # for rewards
NO_PRESET = Preset()
_AGGREGATED = ("reward_std", "frac_reward_zero_std", "loss", "grad_norm", "reward/mean", "critic/rewards/mean")
_DEPTH = 3


class Missing(KeyError):
    """A record lacks a field."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which columns of a log are read, by role.

    Attributes
    ----------
    columns : dict of role to tuple of str
        Several columns of the prompt id are joined, several of the reward added.
    counted : bool
        Whether lines hold successes and trials.
    told : frozenset of str
        Roles that the user named.
    trials : int or None
        Rollouts behind each reward, which then is a rate.
    per_group : int or None
        Rollouts of a group of consecutive lines, for a log without prompt ids.
    success : str or None
        A column that tells successes, beside the reward.
    """

    columns: dict[str, tuple[str, ...]]
    counted: bool = False
    told: frozenset[str] = field(default_factory=frozenset)
    trials: int | None = None
    per_group: int | None = None
    success: str | None = None

    @property
    def plain(self) -> bool:
        """Whether every role is one column, and each line is taken by itself."""
        one_each = all(len(names) == 1 for names in self.columns.values())
        return one_each and self.per_group is None and "where" not in self.columns


def flat_keys(record: dict[str, Any], depth: int = _DEPTH) -> list[str]:
    """Return the keys of a record; those of nested objects follow, with dots."""
    keys = list(record)
    if depth > 1:
        for key, value in record.items():
            inner = value[0] if isinstance(value, list) and len(value) == 1 else value
            if isinstance(inner, dict) and all(isinstance(name, str) for name in inner):
                keys += [f"{key}.{name}" for name in flat_keys(inner, depth - 1)]
    return keys


def value_at(record: Any, path: str) -> Any:
    """Return the field at a dotted path; a key that holds the dots itself comes first, lists of one are looked through."""
    if isinstance(record, dict):
        if path in record:
            return record[path]
        head, dot, rest = path.partition(".")
        while dot:
            if head in record:
                return value_at(record[head], rest)
            more, dot, rest = rest.partition(".")
            head = f"{head}.{more}"
    elif isinstance(record, list):
        head, _, rest = path.partition(".")
        if head.isdigit() and int(head) < len(record):
            return value_at(record[int(head)], rest) if rest else record[int(head)]
        if len(record) == 1:
            return value_at(record[0], path)
    raise Missing(path)


def find_plan(
    columns: list[str],
    told: dict[str, str | None],
    lack: Callable[[str, str, list[str]], ValueError],
    *,
    named_step: bool = False,
    per_group: int | None = None,
    sample: Sequence[dict[str, Any]] = (),
    preset: Preset = NO_PRESET,
) -> Plan:
    """Return the plan for a log with these columns, or raise ``lack(what is missing, role, columns)``."""
    spelled = {name.lower(): name for name in reversed(columns)}
    known = set(columns)

    def usual(role: str) -> tuple[str, ...]:
        first = preset.names.get(role)
        if first == ():
            return ()
        then = () if role == "reward" and preset.others else (NAMES | ASIDE)[role]
        for name in (*(first or ()), *then):
            several = parts(name, ",", set(spelled))
            if spelled.keys() >= set(several):
                return tuple(spelled[one] for one in several)
        return ()

    found: dict[str, tuple[str, ...]] = {}
    trials = None
    for role in NAMES:
        given = told.get(role)
        if given is None:
            names = usual(role)
            if names:
                found[role] = names
        elif role == "trials" and given not in known and given.isdigit():
            trials = int(given)
        elif not (role == "step" and given == "none"):
            found[role] = parts(given, "+" if role == "reward" else ",", known)
            for name in found[role]:
                if name not in known and not any(_has(record, name) for record in sample):
                    raise lack(f"the column {name!r}", role, columns)
    if "prompt_id" not in found and per_group is None:
        raise lack("a column for the prompt_id", "prompt_id", columns)
    if told.get("reward") is None:
        _find_reward(columns, found, sample, lack, preset)
    if trials is not None and not {"reward", "successes"} & found.keys():
        taken = {name for names in found.values() for name in names}
        rate = next((name for name in columns if name not in taken and _is_rate(sample, name)), None)
        raise lack(
            f"a column for the reward, a rate of {trials} rollouts{f'; try --reward {rate}' if rate else ''}",
            "reward",
            columns,
        )
    no_step = named_step or preset.names.get("step") == ()
    if told.get("step") == "none" or ("step" not in found and no_step):
        found.pop("step", None)
    elif "step" not in found:
        raise lack("a column for the step", "step", columns)
    counted = {"successes", "trials"} <= found.keys() and told.get("reward") is None and trials is None
    if told.get("successes") is None and (preset.names.get("reward") or preset.others):
        counted = False
    if counted and found["successes"] == found.get("reward") and _per_rollout(found, sample):
        counted = False
    if trials is not None and "reward" not in found and "successes" in found:
        found["reward"] = found["successes"]
    if not counted and "reward" not in found:
        missing = "trials" if "successes" in found else "successes" if told.get("trials") else "reward"
        what = "a reward, or both successes and trials" if missing == "reward" else f"{missing} as well"
        raise lack(f"a column for {what}", missing, columns)
    for role in ("reward",) if counted else ("successes", "trials"):
        found.pop(role, None)
    _find_asides(told, found, sample, usual)
    if told.get("where"):
        found["where"] = (str(told["where"]),)
    elif preset.first in known:
        found["where"] = (str(preset.first),)
    return Plan(
        found,
        counted,
        told=frozenset(role for role, name in told.items() if name),
        trials=trials,
        per_group=None if "prompt_id" in found else per_group,
        success=next(
            (spelled[name] for name in _SUCCESS if name in spelled and (spelled[name],) != found.get("reward")), None
        ),
    )


def parts(given: str, mark: str, known: set[str]) -> tuple[str, ...]:
    """Return the columns that a text names: itself, or several of them between marks."""
    return (given,) if given in known else tuple(part.strip() for part in given.split(mark))


def _has(record: dict[str, Any], path: str) -> bool:
    try:
        value_at(record, path)
    except Missing:
        return False
    return True


def _is_number(sample: Sequence[dict[str, Any]], name: str) -> bool:
    """Whether a column holds numbers, truths or words for them, and nothing else; the fields of CSV are texts."""
    values = [value_at(row, name) for row in sample if _has(row, name)]
    told = [value for value in values if value not in (None, "")]
    if any(isinstance(value, str) for value in told):
        try:
            list(map(float, told))
        except (TypeError, ValueError, OverflowError):
            return {str(value).lower() for value in told} <= WORDS.keys()
        return all(isinstance(value, str) for row in sample for value in row.values())
    return bool(told) and all(isinstance(value, (int, float)) for value in told)


def _is_rate(sample: Sequence[dict[str, Any]], name: str) -> bool:
    """Whether a column holds numbers from 0 to 1."""
    try:
        return bool(sample) and all(0.0 <= float(value_at(row, name)) <= 1.0 for row in sample)
    except (Missing, TypeError, ValueError):
        return False


def _find_reward(columns: list[str], found: dict[str, tuple[str, ...]], sample: Any, lack: Any, preset: Preset) -> None:
    """Look into an object of rewards, and for one column per reward function."""
    if preset.names.get("reward") == ():
        return
    if "reward" in found:
        name = found["reward"][0]
        inner = [c for c in columns if c.startswith(f"{name}.")]
        if inner and name != "traces.rewards":
            total = [c for tail in ("total", "score", "reward", "acc") for c in inner if c == f"{name}.{tail}"]
            if not total and len(inner) == 1 and _is_number(sample, inner[0]):
                total = inner
            if not total:
                raise lack(f"a number for the reward, not an object; try {inner[0]!r}", "reward", columns)
            found["reward"] = (total[0],)
        return
    if preset.others:
        others = (found.get("prompt_id", ()), found.get("step", ()), *ASIDE.values(), NO_REWARD)
        taken = {name for names in others for name in names}
        top = {name for row in sample for name in row}
        each = [c for c in columns if c in top - taken and _is_number(sample, c)]
    else:
        each = [c for c in columns if c.lower().endswith("_reward") or c.lower().startswith(("rewards/", "reward/"))]
    if len(each) == 1:
        found["reward"] = (each[0],)
    elif each:
        likely = next((c for c in each if any(word in c.lower() for word in ("acc", "correct"))), each[0])
        both = "+".join(each)
        raise lack(
            f"one reward, not {len(each)}; try --reward {likely}, or their sum --reward {both}", "reward", columns
        )


def _per_rollout(found: dict[str, tuple[str, ...]], sample: Sequence[dict[str, Any]]) -> bool:
    """Whether "correct" and "n" stand on every rollout's own line: 0 or 1, and the group's size."""
    try:
        rows = [[value_at(row, found[r][0]) for r in ("prompt_id", "successes", "trials")] for row in sample]
        wins, sizes = [float(row[1]) for row in rows], [float(row[2]) for row in rows]
    except (KeyError, TypeError, ValueError):
        return False
    repeated = len({str(row[0]) for row in rows}) < len(rows)
    return repeated and max(wins, default=2.0) <= 1.0 and min(sizes, default=0.0) > 1.0


def _find_asides(told: Any, found: dict[str, tuple[str, ...]], sample: Any, usual: Any) -> None:
    """Add the columns that tell groups, sources, splits and repeats."""
    taken = {name for names in found.values() for name in names}
    for role in ASIDE:
        names = (told[role],) if told.get(role) else usual(role)
        if names and taken.isdisjoint(names):
            found[role] = names
    if "group" in found and told.get("group") is None:
        ids = [_text(row, found["group"][0]) for row in sample]
        if not ids or len(set(ids)) == len(ids):  # one per rollout tells no groups apart
            del found["group"]
    source = found.get("source")
    named = found.get("prompt_id", ())
    if source and told.get("prompt_id") is None and len(named) == 1 and named[0].lower() in _PLACES:
        found["prompt_id"] = (*source, *named)


def _text(record: dict[str, Any], name: str) -> str:
    try:
        return str(value_at(record, name))
    except Missing:
        return ""


def aggregated(columns: list[str]) -> bool:
    """Whether a log without prompts holds one line of means per step."""
    return any(name in _AGGREGATED or name.endswith(("/mean", "_mean", "_std")) for name in columns)


def name_of(value: Any) -> str:
    """Return a prompt's id as text: whole floats as integers, lists and messages as JSON."""
    if isinstance(value, str):
        whole, dot, rest = value.partition(".")
        return whole if dot and rest == "0" and whole.lstrip("-").isdigit() else value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (list, dict)):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    return str(value)


def number_of(value: Any) -> Any:
    """Return the weighted sum of an object of scored rewards, or None if it has none; anything else as it is."""
    if isinstance(value, dict):
        scored = [v for v in value.values() if v is not None]
        if all(isinstance(v, dict) and "score" in v for v in scored):
            return sum(float(v["score"]) * float(v.get("weight", 1.0)) for v in scored) if scored else None
    return value
