"""What the rounds of a run were, in bounded memory, for the report."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray
from cero_alloc._evidence.evidence import Evidence
from cero_alloc._evidence.rewards import Feedback
from cero_alloc._saving.state import ANYTHING, Field, Stateful, require

MOST_ROWS = 512  # of closed rounds; when they are full, neighbours are merged
BINS = 20  # of the estimated success rates
_SAMPLE = 64  # prompts whose beliefs a round looks at
_FIRST_SAMPLE = 1024  # prompts whose beliefs the first round looks at
_FACTORS = 64  # rollouts up to which the products are multiplied out; SciPy takes longer to import than to compute

COLUMNS = (
    "dealt",  # rollouts
    "prompts",  # with rollouts
    "uniform_wrong",  # rollouts that uniform would be expected to have in groups that are all wrong
    "uniform_right",  # likewise all right
    "expected_wrong",  # rollouts that the beliefs expected in groups that are all wrong
    "expected_right",  # likewise all right
    "value",  # sum of the expected p (1 - p) over the rollouts dealt
    "uniform_value",  # the same of uniform
    "reported",  # rollouts with a reward
    "won",  # sum of the rewards, in [0, 1] each
    "all_wrong",  # rollouts in groups that were all wrong
    "all_right",  # likewise all right
    "between",  # likewise equal rewards in between
    "single",  # rollouts that were reported alone, without a group
    "left",  # the account's funds after the last round of the row
)
_PLACE = {name: place for place, name in enumerate(COLUMNS)}
_REPORTED, _LEFT = _PLACE["reported"], _PLACE["left"]


class RunHistory(Stateful):
    """Sums over rounds: one row per ``span`` rounds, and the open round by itself.

    Uniform is what the round's rollouts would have given in as many groups, as even as whole numbers allow, of prompts drawn
    evenly from those on offer, by the beliefs when the round was dealt. These are looked at for at most 64 of the prompts
    on offer and 64 of those dealt: every k-th, from another one on in each round.

    Attributes
    ----------
    first : int
        Number of the first round recorded.
    rounds : int
        Rounds recorded, the open one included.
    span : int
        Rounds of one row.
    table : numpy.ndarray of float64, shape (n_rows, 15)
        The closed rounds by ``COLUMNS``; the last row may have fewer rounds.
    open : numpy.ndarray of float64, shape (15,)
        The open round.
    start : numpy.ndarray of int64, shape (20,)
        Prompts by estimated success rate when the record began, of at most 1,024.
    """

    FIELDS: ClassVar[dict[str, Field]] = {
        "first": Field(must="be at least 0", holds=lambda first, _: first >= 0),
        "rounds": Field(must="be at least 0", holds=lambda rounds, _: rounds >= 0),
        "span": Field(must="be at least 1", holds=lambda span, _: span >= 1),
        "table": Field(when_set=ANYTHING),  # its length follows from other entries
        "open": Field(must="be at least 0", holds=lambda row, _: row >= 0.0),
        "start": Field(must="be counts", holds=lambda counts, _: counts >= 0),
    }

    def __init__(self) -> None:
        self.first, self.rounds, self.span = 0, 0, 1
        self.table = np.empty((0, len(COLUMNS)))
        self.open = np.zeros(len(COLUMNS))
        self.start = np.zeros(BINS, dtype=np.int64)

    def begin(self, number: int, evidence: Evidence) -> None:
        """Close the open round, and begin this one."""
        if self.rounds:
            self._fold()
        else:
            self.first = number
            rows = np.arange(0, evidence.size, -(-evidence.size // _FIRST_SAMPLE) or 1)
            self.start = histogram(*evidence.posterior(rows))
        self.rounds += 1
        self.open = np.zeros(len(COLUMNS))

    def deal(
        self,
        number: int,
        evidence: Evidence,
        offered: IntArray | None,
        size: int,
        places: IntArray,
        rollouts: IntArray,
        left: float,
    ) -> None:
        """Note what a round has dealt so far, all waves: rollouts for the prompts at these places of the ``size`` on offer."""
        if not self.rounds or number != self.first + self.rounds - 1:
            self.begin(number, evidence)
        self.open[:_REPORTED], self.open[_LEFT] = 0.0, left
        total = int(rollouts.sum())
        if not total:
            return
        sampled = np.arange(*_every(size, self.rounds), dtype=np.int64)
        start, stop, step = _every(places.size, self.rounds)
        some = rollouts[start:stop:step]
        rows, weights = np.concatenate((sampled, places[start:stop:step])), some.astype(np.float64)
        a, b = evidence.posterior(rows if offered is None else offered[rows])
        whole = a + b
        values = (a / whole) * (b / (whole + 1.0))
        n = sampled.size
        uniform = uniform_shares(a[:n], b[:n], total, places.size)
        shares = [chance @ weights for chance in (*alike_chances(a[n:], b[n:], some), values[n:])] / weights.sum()
        self.open[:_REPORTED] = (total, places.size, *(total * np.array((*uniform, *shares, values[:n].sum() / n))))

    def report(self, number: int, feedback: Feedback) -> None:
        """Add checked feedback to the row of its round; nothing if that was before the record."""
        since = number - self.first
        if not 0 <= since < self.rounds:
            return
        row = self.open if since == self.rounds - 1 else self.table[since // self.span]
        _, won, n, lacks = feedback
        wrong, right = won <= 0.0, won >= n
        between = n[_equal(won, n, lacks) & ~(wrong | right)].sum() if lacks.size else 0
        kinds = n[wrong].sum(), n[right & ~wrong].sum(), between, np.count_nonzero(n == 1)
        row[_REPORTED:_LEFT] += np.array((n.sum(), won.sum(), *kinds), dtype=np.float64)

    def rows(self) -> dict[str, FloatArray]:
        """Return the columns over all rows, with the first and the last round of each."""
        table = self._closed(self.table.copy()) if self.rounds else self.table
        begun = self.first + self.span * np.arange(len(table))
        ends = np.minimum(begun + self.span, self.first + self.rounds) - 1
        columns = {name: table[:, place] for name, place in _PLACE.items()}
        return {"first": begun.astype(np.float64), "last": ends.astype(np.float64), **columns}

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        super()._check_state(state, label, size)
        must = f"be amounts of at least 0 in float64, one row per span of closed rounds, {len(COLUMNS)} columns"
        require(f"{label}['table']", must, state["table"], _fits(state["table"], state["rounds"], state["span"]))

    def _fold(self) -> None:
        """Add the open round to the closed ones."""
        if (self.rounds - 1) // self.span == MOST_ROWS:
            even, odd = self.table[::2], self.table[1::2]
            self.table = even + odd
            self.table[:, _LEFT] = odd[:, _LEFT]
            self.span *= 2
        self.table = self._closed(self.table)

    def _closed(self, table: FloatArray) -> FloatArray:
        """Return the table with the open round: added to its last row in place, or as a new one where that is full."""
        if (self.rounds - 1) // self.span == len(table):
            return np.vstack((table, self.open))
        table[-1, :_LEFT] += self.open[:_LEFT]
        table[-1, _LEFT] = self.open[_LEFT]
        return table


def alike_chances(a: FloatArray, b: FloatArray, size: int | IntArray) -> tuple[FloatArray, FloatArray]:
    r"""Return, per prompt, the chances of no and of ``size`` successes among ``size`` rollouts under Beta(a, b).

    :math:`B(a, b + n) / B(a, b)` and :math:`B(a + n, b) / B(a, b)`: the beta-binomial probabilities at both ends.
    """
    most = int(np.max(size, initial=0))
    if most > _FACTORS:
        from scipy.special import betaln

        known = betaln(a, b)
        return np.exp(betaln(a, b + size) - known), np.exp(betaln(a + size, b) - known)
    steps = np.arange(most)
    whole = (a + b)[:, None] + steps
    if not np.ndim(size):
        return ((b[:, None] + steps) / whole).prod(axis=1), ((a[:, None] + steps) / whole).prod(axis=1)
    some = steps < np.asarray(size)[:, None]
    wrong, right = (((side[:, None] + steps) / whole).prod(axis=1, where=some) for side in (b, a))
    return wrong, right


def uniform_shares(a: FloatArray, b: FloatArray, rollouts: int, groups: int) -> tuple[float, float]:
    """Return the shares of rollouts to expect in groups that are all wrong, and all right.

    ``rollouts`` are dealt in so many ``groups``, as even as whole numbers allow, to prompts drawn evenly from those given.
    """
    size, larger = divmod(rollouts, groups)
    none, all_ = alike_chances(a, b, size)
    smaller = (groups - larger) * size
    wrong, right = smaller * none.sum(), smaller * all_.sum()
    if larger:  # one rollout more is one factor more
        whole, more = a + b + size, larger * (size + 1)
        wrong, right = (
            wrong + more * (none * (b + size) / whole).sum(),
            right + more * (all_ * (a + size) / whole).sum(),
        )
    total = a.size * rollouts
    return float(wrong / total), float(right / total)


def histogram(a: FloatArray, b: FloatArray) -> IntArray:
    """Return how many of the posterior means are in each of the equal bins over [0, 1]."""
    return np.bincount(np.minimum((a / (a + b) * BINS).astype(np.int64), BINS - 1), minlength=BINS)


def _every(size: int, turn: int) -> tuple[int, int, int]:
    """Return start, stop and step of a sample of so many places."""
    step = -(-size // _SAMPLE) or 1
    return turn % step, size, step


def _equal(won: FloatArray, n: IntArray, lacks: FloatArray) -> npt.NDArray[np.bool_]:
    """Tell which groups had equal rewards: their squares sum to no more than equal rewards would."""
    return (won - lacks) * n <= won * won * (1.0 + 1e-9)


def _fits(table: object, rounds: int, span: int) -> bool:
    rows = -(-(rounds - 1) // span) if rounds else 0
    return (
        isinstance(table, np.ndarray)
        and table.dtype == np.float64
        and table.shape == (rows, len(COLUMNS))
        and rows <= MOST_ROWS
        and bool(np.isfinite(table).all() and (table >= 0.0).all())
    )
