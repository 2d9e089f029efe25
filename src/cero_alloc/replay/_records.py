"""Records of logs that are not one line each: JSON documents, tables, columns, Parquet and Arrow files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

from cero_alloc._columns import NAMES

from ._fields import Missing, Plan, number_of, value_at
from ._presets import Layout

Record = dict[str, Any]
_MARKS = {"P": 0.5, "N": 0.0}  # of Inspect, beside those that any log may have


def layout_of(content: Record) -> Layout | Literal["table"] | None:
    """Return the layout of an object that is a whole log: "inspect", "evalplus" or a table; None for any other object."""
    inner = content.get("eval")
    if isinstance(inner, dict) and isinstance(content.get("samples"), list):
        return "inspect"
    if isinstance(inner, dict) and all(isinstance(samples, list) for samples in inner.values()):
        first = [sample for samples in inner.values() for sample in samples[:1]]
        return "evalplus" if any(isinstance(sample, dict) and "base_status" in sample for sample in first) else None
    return "table" if isinstance(content.get("columns"), list) and isinstance(content.get("data"), list) else None


def document_records(text: str) -> tuple[list[Record], Layout | None]:
    """Return the records of a JSON document, and the layout if the document tells it.

    The document is an array, a table, columns, one list of rates per prompt, or the result of an evaluation.

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
        layout = layout_of(content)
        if layout == "inspect":
            return _inspect_records(content["eval"], content["samples"]), layout
        if layout == "evalplus":
            return list(_evalplus_records(content["eval"])), layout
        return _object_records(content), None
    if isinstance(content, list):
        return [entry if isinstance(entry, dict) else {} for entry in content], None
    raise ValueError("neither an array nor an object")


def _object_records(content: Record) -> list[Record]:
    if layout_of(content) == "table":
        return [
            dict(zip(map(str, content["columns"]), row, strict=False))
            for row in content["data"]
            if isinstance(row, list)
        ]
    if content:
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


def _inspect_records(header: Record, samples: list[Any]) -> list[Record]:
    """Return task, id and the value of each score of the samples; "P" is a half, "N" no answer."""
    records: list[Record] = []
    for sample in samples:
        if not isinstance(sample, dict) or "id" not in sample:
            records.append({})
            continue
        scores = sample.get("scores")
        values = {
            name: score.get("value") if isinstance(score, dict) else score
            for name, score in (scores.items() if isinstance(scores, dict) else ())
        }
        marks = {name: _MARKS.get(value, value) if isinstance(value, str) else value for name, value in values.items()}
        record = {"task": header.get("task", ""), "id": sample["id"]}
        records.append(record | {"scores": marks} if marks else record)
    return records


def _evalplus_records(tasks: Record) -> Iterator[Record]:
    """Yield a record per sample: whether it passed the base tests, and all of them where these were run."""
    for task, samples in tasks.items():
        for sample in samples:
            if not isinstance(sample, dict) or "base_status" not in sample:
                yield {}
                continue
            base, plus = sample["base_status"] == "pass", sample.get("plus_status")
            record = {"task_id": task, "base": base}
            yield record if plus is None else record | {"plus": base and plus == "pass"}


def eval_records(file: str) -> list[Record]:
    """Return the records of Inspect's .eval, a zip of JSON files; its summaries hold the scores without the transcripts.

    Raises
    ------
    ValueError
        If the file is no such zip, or compressed by what this Python cannot read.
    """
    try:
        with ZipFile(file) as archive:

            def member(name: str) -> Any:
                return json.loads(archive.read(name))

            names = archive.namelist()
            start = next((name for name in ("header.json", "_journal/start.json") if name in names), None)
            header = member(start).get("eval", {}) if start else {}
            if "summaries.json" in names:
                samples = member("summaries.json")
            else:
                samples = [member(name) for name in sorted(set(names)) if name.startswith("samples/")]
    except (BadZipFile, RuntimeError, AttributeError, zlib.error, LZMAError, EOFError, ValueError) as error:
        raise ValueError(
            f"{file} must be a log of Inspect, got one that cannot be read: {error}. Convert it: inspect log convert --to json."
        ) from None
    return _inspect_records(header if isinstance(header, dict) else {}, samples if isinstance(samples, list) else [])


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
            if role in ("split", "source", "completion", "group", "squares"):
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
