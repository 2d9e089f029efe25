"""Pools of measured success rates, read from a file of counts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import numpy as np

from ._pool import Pool


def load_counts(file: str | Path, *, path: Literal["step", "linear"] = "step") -> Pool:
    r"""Read measured success counts and take successes / trials per prompt and epoch as the true rates of a pool.

    Parameters
    ----------
    file : str or path
        CSV with the columns ``prompt_id,epoch,trials,successes``. The epochs, in ascending order, become the stages of the
        pool.
    path : {"step", "linear"}
        As in :class:`Pool`.

    Returns
    -------
    Pool
        With the ids of the file, in order of first appearance.

    Raises
    ------
    ValueError
        For missing columns, a bad or repeated line (the message names it), or a prompt without a line for some epoch.
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
    """
    table: dict[tuple[int, str], float] = {}
    with open(file, newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        missing = {"prompt_id", "epoch", "trials", "successes"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"{file} must have the columns prompt_id, epoch, trials, successes; missing: {sorted(missing)}. Name them in line 1."
            )
        for row in reader:
            try:
                key, trials, wins = (int(row["epoch"]), row["prompt_id"]), int(row["trials"]), float(row["successes"])
            except (TypeError, ValueError):
                raise ValueError(
                    f"{file}, line {reader.line_num}: epoch and trials must be integers, successes a number. Got {row}."
                ) from None
            if not (0 <= wins <= trials and trials > 0):
                raise ValueError(
                    f"{file}, line {reader.line_num}: need 0 <= successes <= trials and trials > 0. Got {row}."
                )
            if key in table:
                raise ValueError(
                    f"{file}, line {reader.line_num}: prompt {key[1]!r} appears twice in epoch {key[0]}. Sum its counts."
                )
            table[key] = wins / trials
    epochs = sorted({epoch for epoch, _ in table})
    names = list(dict.fromkeys(name for _, name in table))
    if not names:
        raise ValueError(f"{file} must hold at least one line of counts. Check the path.")
    for name in names:
        for epoch in epochs:
            if (epoch, name) not in table:
                raise ValueError(
                    f"{file}: prompt {name!r} has no line for epoch {epoch}. Give every prompt every epoch."
                )
    return Pool(np.array([[table[epoch, name] for name in names] for epoch in epochs]), names, path)
