"""What the report of a run says: shares over rounds, and warnings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._checks import FloatArray

from .audit import AFTER
from .run_history import RunHistory

_MOST_COLUMNS = 48  # of a chart over rounds: what a phone can show
_LEAST_REPORTED = 1_000  # rollouts, before the run is compared with uniform
_MOST_BETWEEN = (
    0.01  # share of the rollouts in groups of equal rewards between right and wrong, of which beliefs say nothing
)
_MARGIN = 0.05  # of the share in mixed groups, and of the budget

OUTCOMES = ("all_wrong", "mixed", "all_right")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shares:
    """The record in as many rows as a chart shows. Shares of rollouts; NaN where none were dealt, or reported.

    Attributes
    ----------
    single : bool
        Whether most rollouts were reported alone, without a group.
    rows : list of dict
        Per row: ``first`` and ``last`` round, ``dealt``, ``reported``, ``left``, ``all_wrong``, ``mixed``, ``between``,
        ``all_right``, ``reward`` and ``value``; and ``uniform``, a dict with ``all_wrong``, ``mixed``, ``all_right`` and
        ``value`` as expected of uniform. The three kinds are corrected by how often groups of that kind came among those
        dealt, against how often the same beliefs expected them: beliefs that are off for one are off for the other.
    total : dict
        The same over all rounds, weighted by the rollouts that were reported; and ``won``, the sum of the rewards.
    """

    single: bool
    rows: list[Row]
    total: Row

    @property
    def comparable(self) -> bool:
        """Whether the beliefs, which are of right and wrong, say what uniform would have had."""
        return self.single or not self.total["between"] > _MOST_BETWEEN

    @classmethod
    def of(cls, past: RunHistory) -> Shares:
        """Return the shares of a record."""
        record = past.rows()
        single = bool(2.0 * record["single"].sum() > record["reported"].sum())
        groups = -(-record["dealt"].size // _MOST_COLUMNS) or 1
        starts = np.arange(0, record["dealt"].size, groups)
        sums = {name: np.add.reduceat(column, starts) if starts.size else column for name, column in record.items()}
        ends = np.minimum(starts + groups, record["dealt"].size) - 1
        sums |= {"first": record["first"][starts], "last": record["last"][ends], "left": record["left"][ends]}
        shares = _shares(sums)
        rows = [{name: float(column[i]) for name, column in shares.items()} for i in range(starts.size)]
        weights = np.where(sums["dealt"] > 0, sums["reported"], 0.0)
        known = weights > 0
        mean = {
            name: float(column[known] @ weights[known] / weights.sum()) if known.any() else np.nan
            for name, column in shares.items()
        }
        total = mean | {name: float(sums[name].sum()) for name in ("dealt", "reported", "won")}
        return cls(single, [_nested(row) for row in rows], _nested(total))


def _shares(sums: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Return the shares of rows; NaN where there is nothing to share."""
    with np.errstate(invalid="ignore", divide="ignore"):
        reported, dealt = sums["reported"], sums["dealt"]
        kinds = {name: sums[name] / reported for name in ("all_wrong", "between", "all_right")}
        kinds["mixed"] = 1.0 - np.sum(list(kinds.values()), axis=0)
        came = np.array([kinds[name] for name in OUTCOMES])
        expected, uniform = (
            np.array([sums[f"{who}_wrong"], dealt - sums[f"{who}_wrong"] - sums[f"{who}_right"], sums[f"{who}_right"]])
            / dealt
            for who in ("expected", "uniform")
        )
        factors = _pooled(np.nan_to_num(came * reported)) / _pooled(np.nan_to_num(expected * reported))
        uniform = uniform * factors / (uniform * factors).sum(axis=0)
        return {
            **{name: sums[name] for name in ("first", "last", "dealt", "reported", "left")},
            **kinds,
            "reward": sums["won"] / reported,
            "value": sums["value"] / dealt,
            **{f"uniform {name}": share for name, share in zip(OUTCOMES, uniform, strict=True)},
            "uniform value": sums["uniform_value"] / dealt,
        }


def _pooled(rollouts: FloatArray) -> FloatArray:
    """Return the rollouts of each row and its two neighbours on either side, and one more so that none is 0."""
    padded = np.pad(rollouts, ((0, 0), (2, 2)))
    size = rollouts.shape[1]
    pooled: FloatArray = 1.0 + np.sum([padded[:, i : i + size] for i in range(5)], axis=0)
    return pooled


def _nested(row: dict[str, float]) -> Row:
    """Return a row with what is expected of uniform in a dict of its own."""
    uniform = {name.removeprefix("uniform "): row[name] for name in row if name.startswith("uniform ")}
    return {name: share for name, share in row.items() if not name.startswith("uniform ")} | {"uniform": uniform}


def run_warnings(ledger: RolloutLedger, metrics: dict[str, float], shares: Shares) -> list[str]:
    """Return what may be broken, and what to do: the alarms of the metrics page."""
    word, total = ledger.costs.word, shares.total
    lost, late = metrics["outstanding_rollouts"], 2 * ledger.round >= ledger.n_rounds
    found = []
    if ledger.round >= 3 and 2.0 * lost > total["dealt"]:
        found.append(
            f"{lost:,.0f} of {total['dealt']:,.0f} rollouts dealt were never heard of: rewards are not reported, or under "
            "other ids. Call refund, write_off or expire for what is lost."
        )
    if metrics["calibration_warning"]:
        bias = metrics["calibration_running_bias"]
        bias = metrics["calibration_bias"] if bias != bias else bias
        found.append(
            f"The beliefs are biased: predicted less observed reward variance is {bias:+.3f}. Call bank.fit_prior(), or pass "
            "fit_every=."
        )
    if late and metrics["projected_leftover"] > _MARGIN * ledger.total:
        found.append(
            f"{metrics['projected_leftover']:,.0f} {word} are left at the end if rounds go on at their mean pace. Raise "
            "max_rollouts or round_capacity, or offer more prompts."
        )
    if metrics["unreserved_rollouts"]:
        found.append(
            f"{metrics['unreserved_rollouts']:,.0f} rollouts were reported beyond those dealt: an older log, reports that came "
            "twice without a delivery_id, or rollouts that had expired."
        )
    if metrics["never_right"]:
        found.append(
            f"Prompts without a reward in {AFTER} rollouts or more: {metrics['never_right']:,.0f}. Look at their answers, and at "
            "their grader, before they are dropped; allocator.audit() lists them."
        )
    if shares.rows and not ledger.finished and not shares.rows[-1]["dealt"]:
        found.append(
            "The last rounds dealt nothing, and there is budget left. Check what was on offer, and the budget asked for."
        )
    ours, uniform = (
        (total["value"], total["uniform"]["value"]) if shares.single else (total["mixed"], total["uniform"]["mixed"])
    )
    alike = total["won"] in (0.0, total["reported"])
    if total["reported"] >= _LEAST_REPORTED and (alike or (not shares.single and total["mixed"] <= 0.0)):
        where = "" if alike else " within every group"
        found.append(f"All rewards are equal{where}, so that nothing was taught. Look at answers and grader.")
    if (
        shares.comparable
        and total["reported"] >= _LEAST_REPORTED
        and ours < uniform - (_MARGIN / 5.0 if shares.single else _MARGIN)
    ):
        what = "expected reward variance" if shares.single else "share of rollouts in mixed groups"
        found.append(
            f"The {what} is below that of uniform, {ours:.2f} against {uniform:.2f}. Check the prior, and the offer."
        )
    return found


def largest(key: FloatArray, k: int) -> list[int]:
    """Return the places of the k largest keys, the largest first; ties by place."""
    order = np.argsort(-key, kind="stable")[:k]
    return [int(i) for i in order]
