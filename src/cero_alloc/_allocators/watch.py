"""A page that is written anew as a run goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, SupportsIndex

from cero_alloc import checkpoint
from cero_alloc._checks import error_text, integer, warn


class Watch:
    """Where the report is written, and after which rounds. Copies and pickles do not write: two writers would take turns."""

    def __init__(self, path: str | os.PathLike[str], every: SupportsIndex | None) -> None:
        try:
            self.path = Path(path).absolute()
        except TypeError:
            raise TypeError(error_text("path", "be a path or None", path, "Name a file.")) from None
        self.every = None
        if every is not None:
            self.every = integer("every", every, least=1, remedy="Count rounds, or None to write once.")
        if not self.path.parent.is_dir():
            remedy = "Make the folder first."
            raise FileNotFoundError(error_text("path", "be in a folder that exists", str(path), remedy))
        self.written = 0  # the last round that was over when the page was written

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def is_due(self, number: int, finished: bool) -> bool:
        """Tell whether the page is to be written after this round."""
        assert self.every is not None
        return number > self.written and (finished or number % self.every == 0)

    def write(self, page: str) -> None:
        """Replace the file."""
        data = page.encode("utf-8", errors="replace")
        checkpoint.replace_file(str(self.path), lambda file: file.write(data), durable=False)

    def again(self, page: str, number: int) -> Watch | None:
        """Replace the file after a round; return None, with a warning, where it can no longer be written."""
        self.written = number
        try:
            self.write(page)
        except OSError as error:  # a run does not end for its report
            text = f"The report {self.path} ends at round {number}: {error}. The run goes on; call report for another file."
            warn(text)
            return None
        return self
