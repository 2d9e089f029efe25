"""Pools of measured success rates, read from a file of counts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from cero_alloc._checks import error_text
from cero_alloc._columns import NAMES

from ._pool import Pool

_NAMES = {
    "prompt_id": NAMES["prompt_id"],
    "epoch": ("epoch", *NAMES["step"]),
    "trials": NAMES["trials"],
    "successes": NAMES["successes"],
}


def load_counts(
    file: str | Path,
    *,
    path: Literal["step", "linear"] = "step",
    prompt_id: str | None = None,
    epoch: str | None = None,
    trials: str | None = None,
    successes: str | None = None,
    missing: Literal["hold", "raise"] = "hold",
) -> Pool:
    r"""Read measured success counts and take successes / trials per prompt and epoch as the true rates of a pool.

    Parameters
    ----------
    file : str or path
        CSV with a header line, then one line of counts per prompt and epoch. The epochs, in ascending order, become the
        stages of the pool.
    path : {"step", "linear"}
        As in :class:`Pool`.
    prompt_id, epoch, trials, successes : str or None
        Names of the columns. None takes the first of the usual names that the file has, in any case, as
        :func:`~cero_alloc.replay.read_log` does: prompt_id, problem_id, prompt, id and others; epoch, step and others; trials,
        rollouts, n and others; successes, n_correct, num_correct, passed.
    missing : {"hold", "raise"}
        What to do about a prompt without a line for some epoch. "hold": it keeps its rate of the epoch before, or of its
        first epoch if it begins later. "raise": that is an error.

    Returns
    -------
    Pool
        With the ids of the file, in order of first appearance.

    Raises
    ------
    ValueError
        For columns that cannot be found (the message lists those of the file), a bad or repeated line (the message names
        it), an unknown ``missing``, or, with ``missing="raise"``, a prompt without a line for some epoch.
    TypeError
        For a file that is not a path.
    OSError
        For a file that cannot be read.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "counts.csv"
    >>> _ = file.write_text("prompt_id,epoch,trials,successes\na,0,10,3\nb,0,10,9\n")
    >>> load_counts(file).rates.tolist()
    [[0.3, 0.9]]

    Prompt b has no line for step 2 and keeps its rate:

    >>> _ = file.write_text("id,step,n,passed\na,1,10,3\nb,1,10,9\na,2,10,5\n")
    >>> load_counts(file).rates.tolist()
    [[0.3, 0.9], [0.5, 0.9]]
    """
    if missing not in ("hold", "raise"):
        raise ValueError(error_text("missing", "be 'hold' or 'raise'", missing, "Correct the spelling."))
    given = {"prompt_id": prompt_id, "epoch": epoch, "trials": trials, "successes": successes}
    table: dict[tuple[int, str], float] = {}
    with open(file, newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        columns = _columns(file, reader.fieldnames or (), given)
        for row in reader:
            name, stage, n, wins = (row[column] for column in columns)
            if name is None:  # a line that was cut short
                raise ValueError(f"{file}, line {reader.line_num}: a line must name its prompt. Got {row}.")
            try:
                key, count, right = (int(stage), name), int(n), float(wins)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{file}, line {reader.line_num}: epoch and trials must be integers, successes a number. Got {row}."
                ) from None
            if not (0 <= right <= count and count > 0):
                raise ValueError(
                    f"{file}, line {reader.line_num}: need 0 <= successes <= trials and trials > 0. Got {row}."
                )
            if key in table:
                raise ValueError(
                    f"{file}, line {reader.line_num}: prompt {name!r} appears twice in epoch {key[0]}. Sum its counts."
                )
            table[key] = right / count
    epochs = sorted({at for at, _ in table})
    names = list(dict.fromkeys(name for _, name in table))
    if not names:
        raise ValueError(f"{file} must hold at least one line of counts. Check the path.")
    rates = np.array([[table.get((at, name), np.nan) for name in names] for at in epochs])
    gaps = np.argwhere(np.isnan(rates.T))
    if missing == "raise" and gaps.size:
        i, k = gaps[0]
        raise ValueError(
            f"{file}: prompt {names[i]!r} has no line for epoch {epochs[k]}. Give every prompt every epoch, "
            "or pass missing='hold' to let it keep its rate of the epoch before."
        )
    for order in (rates, rates[::-1]):  # forwards, then backwards to fill the epochs before a prompt's first
        for before, now in pairwise(order):
            np.copyto(now, before, where=np.isnan(now))
    return Pool(rates, names, path)


def _columns(file: str | Path, header: Sequence[str], given: dict[str, str | None]) -> list[str]:
    """Return the columns of prompt, epoch, trials and successes, in this order."""
    spelled = {column.lower(): column for column in reversed(header)}
    columns: list[str] = []
    lacking: list[str] = []
    for role, usual in _NAMES.items():
        column = given[role]
        if column is None:
            column = next((spelled[name] for name in usual if name in spelled), role)
        (columns if column in header else lacking).append(column)
    if lacking:
        raise ValueError(
            f"{file} must have the columns prompt_id, epoch, trials, successes; missing: {sorted(lacking)}, got {list(header)}. "
            "Name them in line 1, or pass their names as prompt_id=, epoch=, trials=, successes=."
        )
    return columns
