"""The trend: the common shift of the log-odds that a round's reports show."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray
from cero_alloc._saving.state import UNCHANGED, Stateful, check_array

LARGEST = 1e100  # factor of the odds over a run: far beyond it every rate is 0 or 1 to the last bit


class Before(NamedTuple):
    """What was known of some prompts before the reports of a round, aged to it."""

    a: FloatArray
    b: FloatArray
    deficits: FloatArray
    seen: npt.NDArray[np.bool_]


class Reports(Stateful):
    r"""The reports of the open round, one line per prompt in row order, and the shift that they show.

    They stay apart until the round ends, so that neither their order nor their split matters: the shift is estimated from
    all of them at once, and the belief from before the round is shifted before they are added.

    With n rollouts and S successes of each prompt seen before, whose belief is Beta(a, b), s = a + b and m = a / s, and a
    shift d of all log-odds that is drawn from N(0, trend^2),

    .. math::

        d = \frac{\sum_i h_i (S_i - n_i m_i) / V_i}{1 / \tau^2 + \sum_i h_i^2 / V_i}, \qquad
        h_i = n_i m_i (1 - m_i), \quad V_i = h_i \frac{s_i + n_i}{s_i + 1} .

    Attributes
    ----------
    odds : float
        Product of all shifts of the odds before this round.
    rows : numpy.ndarray of int64, shape (n_reported,)
        Prompts, ascending.
    before : Before
        What was known of them; each array of that length.
    sums : numpy.ndarray of float64, shape (n_reported, 3)
        Successes, failures and deficits that were reported in the round.
    """

    def __init__(self) -> None:
        self.odds = 1.0
        self.begin(1.0)

    def begin(self, odds: float) -> None:
        """Begin a round without reports."""
        self.odds, self.rows, self.sums = odds, np.empty(0, dtype=np.int64), np.empty((0, 3))
        self.before = Before(np.empty(0), np.empty(0), np.empty(0), np.empty(0, dtype=bool))

    def unknown(self, rows: IntArray) -> IntArray:
        """Return those of these rows that were not reported in the round."""
        return rows if not self.rows.size else rows[~np.isin(rows, self.rows)]

    def add(self, fresh: IntArray, before: Before, rows: IntArray, sums: FloatArray) -> None:
        """Add a report of ``rows``, of which ``fresh`` are the first of the round, known as ``before``."""
        if fresh.size:
            merged = np.concatenate([self.rows, fresh])
            order = np.argsort(merged, kind="stable")
            self.rows = merged[order]
            self.before = Before(
                *(np.concatenate([old, new])[order] for old, new in zip(self.before, before, strict=True))
            )
            self.sums = np.concatenate([self.sums, np.zeros((fresh.size, 3))])[order]
        self.sums[np.searchsorted(self.rows, rows)] += sums

    def shift(self, trend: float) -> float:
        """Return the factor of the odds that the reports show."""
        seen, (won, lost, _) = self.before.seen, self.sums.T
        if not seen.any():
            return 1.0
        a, b, n = self.before.a[seen], self.before.b[seen], (won + lost)[seen]
        s = a + b
        weight = (s + 1.0) / (s + n)
        surprise = float((weight * (won[seen] - n * (a / s))).sum())
        information = float((weight * n * (a / s) * (b / s)).sum())
        factor = exp(min(max(surprise / (1.0 / trend / trend + information), -20.0), 20.0))
        return min(max(self.odds * factor, 1.0 / LARGEST), LARGEST) / self.odds

    def posterior(self, shift: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return Beta parameters and deficits after a shift of the odds of what was seen before, and the reports."""
        a, b, deficits, seen = self.before
        if shift != 1.0:
            s, up = a + b, a * np.where(seen, shift, 1.0)
            share, rest = up / (up + b), b / (up + b)
            deficits = np.where(seen, deficits * (share / (a / s)) * (rest / (b / s)), deficits)
            a, b = np.where(seen, s * share, a), np.where(seen, s * rest, b)
        won, lost, lacks = self.sums.T
        return a + won, b + lost, deficits + lacks

    # ------------------------------------------------------------ state

    def _snapshot(self) -> dict[str, Any]:
        return {"odds": self.odds, "rows": self.rows.copy(), "sums": self.sums.copy()} | {
            name: part.copy() for name, part in self.before._asdict().items()
        }

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        names = {"odds", "rows", "sums", *Before._fields}
        if not isinstance(state, Mapping) or set(state) != names:
            raise ValueError(f"{label} must hold {', '.join(sorted(names))}. {UNCHANGED}")
        if type(state["odds"]) is not float or not 1.0 / LARGEST <= state["odds"] <= LARGEST:
            raise ValueError(f"{label}['odds'] must be a factor of the odds, got {state['odds']!r}. {UNCHANGED}")
        rows, n = state["rows"], np.size(state["rows"])
        check_array(f"{label}['rows']", np.empty(n, dtype=np.int64), rows)
        if n and (rows[0] < 0 or (size is not None and rows[-1] >= size) or (np.diff(rows) <= 0).any()):
            raise ValueError(f"{label}['rows'] must be rows in ascending order. {UNCHANGED}")
        check_array(f"{label}['sums']", np.empty((n, 3)), state["sums"])
        for name in ("a", "b", "deficits"):
            check_array(f"{label}[{name!r}]", np.empty(n), state[name])
        check_array(f"{label}['seen']", np.empty(n, dtype=bool), state["seen"])
        negative = (state["sums"] < 0.0).any() or (state["deficits"] < 0.0).any()
        if negative or (state["a"] <= 0.0).any() or (state["b"] <= 0.0).any():
            raise ValueError(f"{label} must hold sums and deficits of at least 0 and parameters above 0. {UNCHANGED}")

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.odds, self.rows, self.sums = state["odds"], state["rows"].copy(), state["sums"].copy()
        self.before = Before(*(state[name].copy() for name in Before._fields))
