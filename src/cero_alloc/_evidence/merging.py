"""Merging: the evidence of another bank is checked against a bank's own, and added to it."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from cero_alloc._checks import FloatArray, IntArray, error_text

from .evidence import Evidence
from .ids import PromptIndex

MERGE_REMEDY = "Merge banks that were built alike."


def merge(index: PromptIndex, evidence: Evidence, names: list[Hashable], other: Evidence) -> None:
    """Add the evidence of another bank, and append the prompts that only the other bank has.

    Parameters
    ----------
    index, evidence : PromptIndex, Evidence
        The bank that grows.
    names : list of hashable
        Ids of the other bank, in row order.
    other : Evidence
        A copy of the other bank's evidence.

    Raises
    ------
    ValueError
        For another forgetting, dtype or prior, and where beliefs move; nothing changes.
    """
    for name, one in (("bank", evidence), ("other", other)):
        if one.moving or one.moved:
            raise ValueError(
                f"{name} must have neither drift nor trend in a merge, got drift = {one.drift:g} and trend = {one.trend:g}. "
                "Pass the workers' feedback to update of one bank: beliefs that have moved are no sums of evidence."
            )
    if other.forgetting != evidence.forgetting:
        raise ValueError(error_text("other.forgetting", f"be {evidence.forgetting!r}", other.forgetting, MERGE_REMEDY))
    ours, theirs = evidence.outcomes.dtype, other.outcomes.dtype
    if theirs != ours:
        raise ValueError(error_text("other's dtype", f"be {ours}", theirs, MERGE_REMEDY))
    known = np.fromiter((name in index for name in names), dtype=bool, count=len(names))
    shared, joined = np.flatnonzero(known), np.flatnonzero(~known)
    _check_prior(index, evidence, index.rows([names[i] for i in shared]), other.prior(shared))
    if joined.size:
        prior = other.prior(joined)
        alike = evidence.a0.size == 1 and all(
            (new == old).all() for old, new in zip((evidence.a0, evidence.b0), prior, strict=True)
        )
        fresh = index.fresh([names[i] for i in joined])
        evidence.grow(len(fresh), None if alike else prior)
        index.append(fresh)
    evidence.merge(other, index.rows(names), joined)


def _check_prior(index: PromptIndex, evidence: Evidence, rows: IntArray, prior: tuple[FloatArray, FloatArray]) -> None:
    """Raise unless the prior of these rows is ``prior``."""
    for ours, theirs in zip(evidence.prior(rows), prior, strict=True):
        wanted, got = np.broadcast_to(ours, rows.size), np.broadcast_to(theirs, rows.size)
        for i in np.flatnonzero(wanted != got)[:1].tolist():
            condition = f"be {wanted[i].item()!r} for prompt {index.name(int(rows[i]))!r}"
            raise ValueError(error_text("other's prior", condition, got[i].item(), MERGE_REMEDY))
