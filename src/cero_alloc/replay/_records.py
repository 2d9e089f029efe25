"""Records of logs that are not one line each: JSON documents, tables, columns, Parquet and Arrow files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ._fields import NAMES, Missing, Plan, number_of, value_at

Record = dict[str, Any]


def document_records(text: str) -> list[Record]:
    """Return the records of a JSON document: an array, a table, columns, or one list of rates per prompt.

    Raises
    ------
    ValueError
        If the text is no JSON, or holds no records.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if isinstance(content, dict):
        names, data = content.get("columns"), content.get("data")
        if isinstance(names, list) and isinstance(data, list):
            return [dict(zip(map(str, names), row, strict=False)) for row in data if isinstance(row, list)]
        known = {name for usual in NAMES.values() for name in usual}
        lists = [value for value in content.values() if isinstance(value, list)]
        if lists and len(lists) == len(content) and not known & {key.lower() for key in content}:
            if all(isinstance(x, (int, float)) for values in lists for x in values):
                return [
                    {"prompt_id": key, "epoch": i, "reward": rate}
                    for i in range(max(map(len, lists)))
                    for key, values in content.items()
                    if i < len(values) for rate in [values[i]]
                ]  # fmt: skip
            rows = [row for values in lists for row in values]
            return [row for row in rows if isinstance(row, dict)]
        return [content]
    if isinstance(content, list):
        return [entry if isinstance(entry, dict) else {} for entry in content]
    raise ValueError("neither an array nor an object")


def arrow_batches(file: str, kind: str) -> Iterator[list[Record]]:
    """Yield the records of a Parquet or Arrow file in batches."""
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError:
        raise ValueError(
            f'{file} is a {kind} file, which pyarrow reads. Run pip install "cero-alloc[logs]", or write the log as CSV or JSONL.'
        ) from None
    try:
        if kind == "parquet":
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=1 << 13):
                yield batch.to_pylist()
        else:
            with open(file, "rb") as raw:
                try:
                    reader = ipc.open_file(raw)
                    batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
                except pyarrow.ArrowInvalid:
                    raw.seek(0)
                    batches = iter(ipc.open_stream(raw))
                for batch in batches:
                    yield batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file} must be a {kind} file, got one that pyarrow cannot read: {error}") from None


def fields_of(record: Record, plan: Plan) -> dict[str, list[Any]]:
    """Return the fields of a record by role, one list entry per rollout; a list of rewards makes one rollout each.

    Raises
    ------
    ValueError
        With the reason why the record is bad.
    """
    values: dict[str, Any] = {}
    for role, names in plan.columns.items():
        try:
            found = [value_at(record, name) for name in names]
        except Missing as missing:
            if role == "reward" and "prompt_id" in values and ("step" in values or "step" not in plan.columns):
                values[role] = None  # unscored
                continue
            if role in ("split", "source", "completion", "group"):
                values[role] = ""
                continue
            raise ValueError(f"no key {missing.args[0]!r}") from None
        values[role] = _joined(role, found)
    rewards = values.get("reward")
    if not isinstance(rewards, list):
        return {role: [value] for role, value in values.items()}
    size = len(rewards)

    def each(role: str, value: Any) -> list[Any]:
        return value if isinstance(value, list) and len(value) == size and _one_each(role, value) else [value] * size

    return {role: each(role, value) for role, value in values.items()}


def _one_each(role: str, value: list[Any]) -> bool:
    return role not in ("prompt_id", "group") or len(value) > 1 or not isinstance(value[0], dict)


def _joined(role: str, found: list[Any]) -> Any:
    if role == "reward":
        found = [number_of(value) for value in found]
        if len(found) > 1:
            try:
                return sum(float(value) for value in found)
            except (TypeError, ValueError):
                return None
        return found[0]
    if len(found) == 1:
        return found[0]
    if any(isinstance(value, list) for value in found):
        return [" / ".join(map(str, row)) for row in zip(*found, strict=False)]
    return " / ".join(map(str, found))
