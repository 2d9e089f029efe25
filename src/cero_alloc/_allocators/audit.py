"""Audit: prompts and labels that never earned anything, which may be a fault of the grader."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from cero_alloc._checks import IntArray
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.kernels import REWARDED
from cero_alloc._saving.shown import Shown

from .labels import Labels

AFTER = 64  # rollouts; of prompts that are solved once in 20, 4% have no success by then
_NAMED = 3  # prompts that the metrics name
_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, repr=False)
class Audit(Shown):
    """Prompts and labels without a single reward so far: too hard, or a broken grader, which allocation would hide.

    Attributes
    ----------
    after : int
        Rollouts that were waited for.
    prompts : dict of id to int
        Prompts of which at least that many rollouts were reported, and none earned anything; with their rollouts, at most
        65,534, the most first.
    labels : dict of label to int
        Labels of which at least that many rollouts were reported, and none of any prompt earned anything; likewise. Empty
        where the allocator has no ``groups``.

    Examples
    --------
    >>> Audit(after=64, prompts={"q7": 80}, labels={}).prompts
    {'q7': 80}
    """

    after: int
    prompts: dict[Hashable, int]
    labels: dict[Hashable, int]


def never_right(bank: BetaPosteriorBank, after: int) -> IntArray:
    """Return the rows of the prompts that never earned anything in at least ``after`` rollouts, the most rollouts first."""
    counts = bank.evidence.unrewarded
    if counts is None:
        return _NONE
    rows = np.flatnonzero((counts >= after) & (counts < REWARDED))
    return rows[np.argsort(-counts[rows].astype(np.int64), kind="stable")]


def audit(bank: BetaPosteriorBank, labels: Labels | None, after: int) -> Audit:
    """Return what never earned anything in at least ``after`` rollouts."""
    rows, counts = never_right(bank, after), bank.evidence.unrewarded
    if counts is None:
        return Audit(after, {}, {})
    prompts = {bank.index.name(row): int(counts[row]) for row in rows.tolist()}
    if labels is None:
        return Audit(after, prompts, {})
    rollouts = np.bincount(labels.codes, weights=counts, minlength=len(labels.names))
    earned = np.bincount(labels.codes, weights=counts == REWARDED, minlength=len(labels.names))
    codes = np.flatnonzero((rollouts >= after) & (earned == 0))
    codes = codes[np.argsort(-rollouts[codes], kind="stable")]
    return Audit(after, prompts, {labels.names[code]: int(rollouts[code]) for code in codes.tolist()})


def audit_metrics(bank: BetaPosteriorBank) -> dict[str, float]:
    """Return how many prompts never earned anything, and the rows of the first few (-1: none), all as numbers."""
    rows = never_right(bank, AFTER)
    first = {f"never_right_{k + 1}": float(rows[k]) if k < rows.size else -1.0 for k in range(_NAMED)}
    return {"never_right": float(rows.size), **first}
