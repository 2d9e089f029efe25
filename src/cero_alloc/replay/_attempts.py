"""Which rows of a log belong to which attempt at their step, after a restart or a resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cero_alloc._checks import FloatArray, IntArray

from ._log import changes
from ._tally import UNIT


@dataclass(frozen=True, slots=True)
class Overlap:
    """Groups that two files share."""

    n_groups: int
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Attempts:
    """The attempts of a log.

    Attributes
    ----------
    number : numpy.ndarray of int64, shape (n_rows,)
        Attempt of each row; a later one is larger.
    repeated : int
        Groups that are in several attempts.
    resumed : Overlap or None
        A file that goes back to steps of an earlier one.
    unclear : Overlap or None
        Files of which that cannot be told.
    """

    number: IntArray
    repeated: int
    resumed: Overlap | None = None
    unclear: Overlap | None = None

    def last(self, step: FloatArray) -> Any:
        """Return which rows are of the last attempt at their step."""
        _, place = np.unique(step, return_inverse=True)
        latest = np.zeros(place.max() + 1, dtype=np.int64)
        np.maximum.at(latest, place, self.number)
        return self.number == latest[place]


def attempts_of(
    prompt: IntArray, step: FloatArray, attempt: IntArray, rollouts: IntArray, files: Sequence[str]
) -> Attempts:
    """Return the attempts over files, of rows whose attempts are counted per unit of files.

    A file is a later attempt than one before it if both have groups in common and it begins at a later step, as after a
    resume, or goes on for two steps more, as after a restart. Files of several ranks do neither: they begin together, and end
    within a step of each other. What is neither is unclear, and stays together.
    """
    unit, within = attempt // UNIT, attempt % UNIT
    later = np.zeros(len(files) or 1, dtype=np.int64)
    resumed: Overlap | None = None
    unclear: Overlap | None = None
    if unit.any():
        pairs, lows, highs = _overlaps(prompt, step, attempt, rollouts)
        for first, second, n_groups in pairs:
            if n_groups == 1 and highs[first] == lows[second]:  # the first file ends within a group
                continue
            overlap = Overlap(n_groups, files[first], files[second])
            goes_back = lows[second] > lows[first] or highs[second] >= highs[first] + 2
            later[second] = max(later[second], later[first] + goes_back)
            if goes_back:
                resumed = resumed or overlap
            else:
                unclear = unclear or overlap
    number = later[unit] * (within.max() + 1) + within
    return Attempts(number, _repeated(prompt, step, number, rollouts), resumed, unclear)


def _repeated(prompt: IntArray, step: FloatArray, number: IntArray, rollouts: IntArray) -> int:
    """Return how many groups are in several attempts."""
    if not number.any():
        return 0
    prompt, step, _, sizes = _parts(prompt, step, number, rollouts)
    if sizes.max() == 1:  # sorted by sample, then by step
        return 0
    return int((np.diff(np.append(changes(prompt, step), prompt.size)) > 1).sum())


def _overlaps(
    prompt: IntArray, step: FloatArray, attempt: IntArray, rollouts: IntArray
) -> tuple[Any, IntArray, IntArray]:
    """Return pairs of units with the number of groups that are in both, and the places of their first and last steps."""
    _, place = np.unique(step, return_inverse=True)
    prompt, place, attempt, sizes = _parts(prompt, place, attempt, rollouts)
    unit = attempt // UNIT
    lows, highs = np.full(unit.max() + 1, place.max()), np.zeros(unit.max() + 1, dtype=np.int64)
    np.minimum.at(lows, unit, place)
    np.maximum.at(highs, unit, place)
    if sizes.max() == 1 or place.max() == 0:  # one rollout of each prompt per file, or an evaluation
        return (), lows, highs
    group = changes(prompt, place)
    parts = np.diff(np.append(group, prompt.size))
    shared = unit[group] != unit[group + parts - 1]
    alone = sizes[np.repeat(~shared, parts)]
    if alone.size:  # a group that goes on in the next file is as large as those in one
        values, counts = np.unique(alone, return_counts=True)
        shared &= np.add.reduceat(sizes, group) > values[counts.argmax()]
    inside = np.repeat(shared, parts)
    inside[group] = False  # the first part of a group follows none
    second = np.flatnonzero(inside & (unit != np.roll(unit, 1)))
    pairs, counts = np.unique(np.stack([unit[second], unit[second - 1]]), axis=1, return_counts=True)
    return zip(pairs[1].tolist(), pairs[0].tolist(), counts.tolist(), strict=True), lows, highs


def _parts(prompt: IntArray, step: Any, part: IntArray, rollouts: IntArray) -> tuple[IntArray, Any, IntArray, IntArray]:
    """Return prompt, step, part and rollouts of each group in each part, sorted by step, prompt and part."""
    order = np.lexsort((part, prompt, step))
    prompt, step, part = prompt[order], step[order], part[order]
    first = changes(prompt, step, part)
    return prompt[first], step[first], part[first], np.add.reduceat(rollouts[order], first)
