"""The log of a run that an allocator writes, and ``cero-alloc replay`` reads."""

from __future__ import annotations

import json
import operator
import os
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

import numpy as np

from cero_alloc._checks import FloatArray, error_text, warn
from cero_alloc._evidence.ids import PromptIndex
from cero_alloc._evidence.rewards import Feedback

MARK = '{"cero_alloc"'  # how a header begins


class RunLog:
    """Appends one JSON object per line to a file, which is closed between updates.

    An open file could be neither pickled nor shared with the workers of a trainer. Copies and pickles do not log: two
    writers would log a run twice.
    """

    def __init__(self, path: str | os.PathLike[str], header: dict[str, Any]) -> None:
        try:
            self.path = Path(path).absolute()
        except TypeError:
            raise TypeError(error_text("path", "be a path or None", path, "Name the log.")) from None
        if not self.path.parent.is_dir():
            remedy = "Make the folder first."
            raise FileNotFoundError(error_text("path", "be in a folder that exists", str(path), remedy))
        with open(self.path, "ab+") as file:
            file.seek(0)
            start = file.read(len(MARK))
            if start and start != MARK.encode():
                remedy = "Name a new file."
                raise ValueError(error_text("path", "be a new file, or a log of an allocator", str(path), remedy))
            if start:
                file.seek(-1, os.SEEK_END)
                start = b"" if file.read(1) == b"\n" else b"\n"  # ends a line that a crash left incomplete
            file.write(start + json.dumps(header).encode() + b"\n")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def write(
        self, step: int, index: PromptIndex, feedback: Feedback, belief: tuple[FloatArray, FloatArray]
    ) -> RunLog | None:
        """Append an update with the belief before it; return None, with a warning, where the file can no longer be written."""
        rows, won, n, lacks = feedback
        alpha, beta = belief
        evidence = alpha + beta
        some = np.flatnonzero(n)
        columns = (part[some].tolist() for part in (rows, n, won, alpha / evidence, evidence))
        squares = [""] * some.size
        if lacks.size:
            for i in np.flatnonzero(lacks[some]).tolist():
                squares[i] = f', "squares": {won[some[i]] - lacks[some[i]]:.17g}'
        lines = [
            f'{{"prompt_id": {_name(index.name(row))}, "step": {step}, "trials": {trials}, "successes": {wins:.17g}{more}, '
            f'"mean": {mean:.4g}, "evidence": {weight:.4g}}}\n'
            for row, trials, wins, mean, weight, more in zip(*columns, squares, strict=True)
        ]
        try:
            with open(self.path, "ab") as file:
                file.write("".join(lines).encode())
        except OSError as error:  # the update is counted already, and a run does not end for its log
            text = f"The log {self.path} ends at round {step}: {error}. The run goes on; call log_to for another file."
            warn(text)
            return None
        return self


def _name(prompt_id: Any) -> str:
    """Return an id as JSON: integers as they are, all else as text."""
    if isinstance(prompt_id, str):
        return encode_basestring_ascii(prompt_id)
    if hasattr(prompt_id, "__index__"):
        return str(operator.index(prompt_id))
    return encode_basestring_ascii(str(prompt_id))
