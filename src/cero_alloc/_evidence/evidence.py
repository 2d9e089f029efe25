"""Evidence: the rows of a bank, that is successes and failures per prompt, their prior, and how they age and move."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray
from cero_alloc._numba import when_it_pays
from cero_alloc._saving.state import Field, State, require

from . import kernels
from .calibration import FADE, TOP, CalibrationRecord
from .fitting import fit_belief, usual_motion
from .foresight import Foresight
from .history import History
from .journal import Journal
from .prior import PriorFit, fit_groups, fit_prior, prior_arrays, require_moderate
from .trend import LARGEST, Before, Reports
from .unrewarded import Counts, merged, of_older_state

BLOCK = 1024  # prompts per block of a pass over the pool: the scratch of a block stays in the cache
LAST_TICK = 2**31 - 1  # the ticks are int32

NONE = np.empty(0)
_NO_ROWS = np.empty(0, dtype=np.int64)
_RECENT = 4096  # ticks whose power of the forgetting is looked up in a table

Arrays = tuple[Any, ...]  # the argument ``evidence`` of the kernels, which say what it holds


class Evidence(Foresight):
    r"""Beta evidence by row, for allocators, which hold rows instead of ids.

    Nothing here is checked or locked: :class:`~cero_alloc.BetaPosteriorBank` does both. ``rows`` is an int64 array of rows;
    where a method takes None, that is the whole pool in row order.

    Parameters
    ----------
    size : int
        Number of prompts.
    prior : tuple of two numpy.ndarray of float64, shape (1,) or (n_prompts,)
        a0 and b0, in pseudo-rollouts.
    forgetting : float, in (0, 1]
        Share of the evidence that survives a tick.
    dtype : numpy.dtype
        How the outcomes are stored: float64 or float32.
    drift : float, at least 0
        What 1 / (a + b) grows by per tick; the mean stays.
    trend : float, at least 0
        Standard deviation of the common shift of the log-odds per tick.

    Attributes
    ----------
    size : int
        Number of prompts.
    a0, b0 : numpy.ndarray of float64, shape (1,) or (n_prompts,)
        The prior, in pseudo-rollouts: one for all prompts, or one per prompt.
    outcomes : numpy.ndarray of float64 or float32, shape (n_prompts, 2)
        What Beta's parameters exceed the prior by, as of the prompt's entry in ``ticks``: successes and failures; where
        beliefs move, one of the two may be negative. Side by side, because a pass needs both.
    ticks : numpy.ndarray of int32, shape (n_prompts,)
        The time up to which a prompt's outcomes are aged; unused while nothing is forgotten and no belief moves.
    now : int
        Ticks so far.
    forgetting : float
        Share of the evidence that survives a tick.
    drift, trend : float
        As given, or as fitted since.
    moved : bool
        Whether beliefs have moved, so that a parameter may be below its prior.
    odds : float
        Product of all common shifts of the odds.
    anchors : numpy.ndarray of float64, shape (n_prompts,), or None
        ``odds`` at the last touch of each prompt, 0 for prompts never seen; None without a trend.
    unrewarded : numpy.ndarray of uint16, shape (n_prompts,), or None
        Rollouts that were reported of each prompt that never earned anything, for life: nothing here fades. At most 65,534;
        65,535 marks a prompt that did earn something. None before the first report.
    deficits : numpy.ndarray of float64, shape (n_prompts,), or None
        Sum of r - r**2 over a prompt's rewards, aged like its outcomes; None while all rewards are 0 or 1.
    reports : Reports
        The reports of the open round, for the trend.
    history : History or None
        Past reports, from which drift, trend and prior are fitted; None where nobody asked for a fit.
    retired : numpy.ndarray of bool, shape (n_prompts,), or None
        Which prompts are retired; None for none of them.
    resting : numpy.ndarray of int64, shape (n_prompts,), or None
        Of the retired, those that an allocator retired: the round in which they come back; 0 for all others. None for none.
    retirements : int
        Version number of ``retired``; grows with every change of it.
    record : CalibrationRecord
        Predicted against observed reward variance.
    journal : Journal
        Which rows changed. Ticks are not noted: where :attr:`changing`, each changes the values of all rows.
    """

    FIELDS: ClassVar[dict[str, Field]] = {
        "outcomes": Field("prompts"),
        "ticks": Field(
            "prompts", must="be between 0 and {now}", holds=lambda ticks, state: (ticks >= 0) & (ticks <= state["now"])
        ),
        "now": Field(must=f"be between 0 and {LAST_TICK}", holds=lambda now, _: 0 <= now <= LAST_TICK),
        "forgetting": Field(must="be in (0, 1]", holds=lambda share, _: 0.0 < share <= 1.0),
        "drift": Field(must="be at least 0", holds=lambda rate, _: 0.0 <= rate < np.inf),
        "trend": Field(must="be at least 0", holds=lambda rate, _: 0.0 <= rate < np.inf),
        "odds": Field(must="be a factor of the odds", holds=lambda odds, _: 1.0 / LARGEST <= odds <= LARGEST),
        "anchors": Field("prompts", when_set=NONE, must="be at least 0", holds=lambda odds, _: odds >= 0.0),
        "deficits": Field("prompts", when_set=NONE, must="be at least 0", holds=lambda lacks, _: lacks >= 0.0),
        "moved": Field(),
        "reports": Field(),
        "history": Field(own=True),
        "record": Field(),
        "retired": Field("prompts", when_set=np.empty(0, dtype=bool)),
        "resting": Field(
            "prompts",
            when_set=_NO_ROWS,
            must="be 0, or a round for a retired prompt",
            holds=lambda rounds, state: (
                (rounds >= 0) & ((rounds == 0) | (state["retired"] if state["retired"] is not None else False))
            ),
            older=lambda _: None,
        ),
        "unrewarded": Field("prompts", when_set=np.empty(0, dtype=np.uint16), older=of_older_state),
        "prior": Field(own=True),
    }

    def __init__(
        self,
        size: int,
        *,
        prior: tuple[FloatArray, FloatArray],
        forgetting: float,
        dtype: npt.DTypeLike,
        drift: float = 0.0,
        trend: float = 0.0,
    ) -> None:
        self.size = size
        self.a0, self.b0 = prior
        self.outcomes: npt.NDArray[np.floating[Any]] = np.zeros((size, 2), dtype=dtype)
        self.ticks = np.zeros(size, dtype=np.int32)
        self.now = 0
        self.forgetting, self.drift, self.trend = forgetting, drift, trend
        if self.moving:
            require_moderate(*prior)
        self.moved, self.odds = self.moving, 1.0
        self.anchors = np.zeros(size) if trend > 0.0 else None
        self.deficits: FloatArray | None = None
        self.reports = Reports()
        self._unsettled = False  # whether reports of the round are not in the outcomes yet
        self.history: History | None = None
        self.unrewarded: Counts | None = None
        self.retired: npt.NDArray[np.bool_] | None = None
        self.resting: IntArray | None = None
        self.retirements = 0
        self.record = CalibrationRecord()
        self.journal = Journal(size)
        self._powers, self._powers_of = np.empty(0), 1.0  # powers of the forgetting, and of which forgetting

    @property
    def moving(self) -> bool:
        """Whether beliefs move: whether there is a drift or a trend."""
        return self.drift > 0.0 or self.trend > 0.0

    @property
    def _settled(self) -> bool:
        """Whether the ``settled_`` kernels do: beliefs do not move, and all rewards were 0 or 1."""
        return not self.moving and self.deficits is None

    @property
    def at_rest(self) -> bool:
        """Whether all that is known now holds to the end of the run."""
        return not self.changing and (self.history is None or not self.history.jumped)

    @property
    def changing(self) -> bool:
        """Whether a tick changes the values of all rows."""
        return self.forgetting < 1.0 or self.moving

    @property
    def arrays(self) -> Arrays:
        """The argument ``evidence`` of the kernels, for the whole pool."""
        if self._unsettled:
            self._settle()
        return self._arrays(self.odds)

    def _arrays(self, odds: float) -> Arrays:
        rho = 1.0 if self.moving else self.forgetting  # with both, the ticks forget, and the rows are up to date
        if self._powers_of != rho:
            self._powers, self._powers_of = np.empty(_RECENT), rho
            when_it_pays(kernels.powers, _RECENT)(rho, self._powers)
        anchors, deficits = (NONE if part is None else part for part in (self.anchors, self.deficits))
        stride = int(self.a0.size > 1)
        aging = self.ticks, self.now, rho, self._powers, self.drift, odds
        return self.a0, self.b0, stride, self.outcomes, *aging, anchors, deficits

    def stretch(self, start: int, stop: int) -> Arrays:
        """Return :attr:`arrays` of the rows from ``start`` to ``stop``, as views."""
        a0, b0, stride, outcomes, ticks, *clock, anchors, deficits = self.arrays
        some = slice(start, stop)  # of an empty array, too
        if stride:
            a0, b0 = a0[some], b0[some]
        return a0, b0, stride, outcomes[some], ticks[some], *clock, anchors[some], deficits[some]

    # ------------------------------------------------------------ what the evidence implies

    def posterior(self, rows: IntArray | None) -> tuple[FloatArray, FloatArray]:
        """Return the Beta parameters, in pseudo-rollouts, aged to now."""
        alpha, beta = np.empty((2, self.size if rows is None else rows.size))
        self._posterior(rows, self.arrays, alpha, beta)
        return alpha, beta

    def _posterior(self, rows: IntArray | None, arrays: Arrays, alpha: FloatArray, beta: FloatArray) -> None:
        full, some = rows is None, _NO_ROWS if rows is None else rows
        if self.moving:
            when_it_pays(kernels.posterior, alpha.size)(full, some, arrays, alpha, beta)
        else:
            when_it_pays(kernels.settled_posterior, alpha.size)(full, 0, some, arrays, alpha, beta)

    def values(self, rows: IntArray | None) -> FloatArray:
        """Return the posterior expectations of p (1 - p), in [0, 1/4]."""
        out = np.empty(self.size if rows is None else rows.size)
        self.write_values(rows, self.arrays, out)
        return out

    def write_values(self, rows: IntArray | None, arrays: Arrays, out: FloatArray) -> None:
        """Write the values of what ``arrays`` holds, the whole pool or a :meth:`stretch`."""
        kernel = kernels.settled_values if self._settled else kernels.values
        kernel(rows is None, _NO_ROWS if rows is None else rows, arrays, np.empty(BLOCK), out)

    def means(self, rows: IntArray | None) -> FloatArray:
        """Return the posterior means of the success rate p."""
        alpha, beta = self.posterior(rows)
        return alpha / (alpha + beta)

    def standard_deviations(self, rows: IntArray | None, known: tuple[FloatArray, ...] = ()) -> FloatArray:
        """Return the posterior standard deviations of p (1 - p), whose mean is the value; ``known``: posterior and values.

        With s = a + b and E[p^2 (1-p)^2] = a (a+1) b (b+1) / (s (s+1) (s+2) (s+3)), the variance
        E[p^2 (1-p)^2] - qhat^2 is qhat times a sum of two terms that are never negative:

            qhat [ (1/2) / ((s+1) (s+3)) + r^2 s (s + 3/2) / ((s+1) (s+2) (s+3)) ],    r = (a - b) / s.
        """
        alpha, beta, q = known or (*self.posterior(rows), self.values(rows))
        s = alpha + beta
        lean = (alpha - beta) / s
        even = 0.5 / (s + 1.0) / (s + 3.0)  # one division at a time: the product would overflow for huge s
        skew = lean * lean * (s / (s + 1.0)) * ((s + 1.5) / (s + 2.0)) / (s + 3.0)
        deviations: FloatArray = np.sqrt(q * (even + skew))
        if self.deficits is not None:  # the value is a share of that of 0/1 rewards, and so is its deviation
            deviations *= np.sqrt(q / ((alpha / s) * (beta / s) * (s / (s + 1.0))))
        return deviations

    def interval(self, rows: IntArray | None, level: float) -> tuple[FloatArray, FloatArray]:
        """Return the ends of the central credible intervals of the success rate p, which hold a mass of ``level``."""
        from scipy.special import betaincinv  # imported on first use, to keep the import of the package short

        alpha, beta = self.posterior(rows)
        tail = 0.5 * (1.0 - level)
        lower, upper = betaincinv(alpha, beta, tail), betaincinv(alpha, beta, 1.0 - tail)
        point = alpha / (alpha + beta)  # where betaincinv returns NaN the posterior is practically a point mass
        lower, upper = (np.where(np.isnan(side), point, side) for side in (lower, upper))
        return np.minimum(lower, upper), upper

    def prior(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return a0 and b0 of these rows; one entry each where all prompts share a prior."""
        return (self.a0, self.b0) if self.a0.size == 1 else (self.a0[rows], self.b0[rows])

    def aged(self, rows: IntArray | None) -> tuple[FloatArray, FloatArray]:
        """Return successes and failures, aged to now: where beliefs moved, what the parameters exceed the prior by."""
        some = slice(None) if rows is None else rows
        if self.moved:
            a0, b0 = self.prior(np.arange(self.size) if rows is None else rows)
            alpha, beta = self.posterior(rows)
            return np.maximum(alpha - a0, 0.0), np.maximum(beta - b0, 0.0)
        surviving = self.forgetting ** (self.now - self.ticks[some]).astype(np.float64)
        return self.outcomes[some, 0] * surviving, self.outcomes[some, 1] * surviving

    def lacking(self, rows: IntArray) -> FloatArray:
        """Return the deficits of these rows, aged to now."""
        return self._lacking(rows, self.arrays)

    def _lacking(self, rows: IntArray, arrays: Arrays) -> FloatArray:
        if self.deficits is None:
            return np.zeros(rows.size)
        spread, alpha, beta = np.empty((3, rows.size))
        kernels.spreads(rows, arrays, spread)
        self._posterior(rows, arrays, alpha, beta)
        lacking: FloatArray = (1.0 - spread) * alpha * (beta / (alpha + beta))
        return lacking

    @property
    def n_active(self) -> int:
        """Prompts that are not retired."""
        return self.size if self.retired is None else self.size - int(np.count_nonzero(self.retired))

    # ------------------------------------------------------------ what changes it

    def observe(self, rows: IntArray, successes: FloatArray, rollouts: IntArray, lacks: FloatArray = NONE) -> None:
        """Add checked feedback, and to the calibration record what the values predicted of it; no row may repeat.

        ``lacks`` holds the sums of r - r**2 over the rewards; it is empty where all rewards are 0 or 1.
        """
        arrays, predicted = self.arrays, np.empty(rows.size)
        self.write_values(rows, arrays, predicted)
        record, columns = self.record, (predicted, successes, rollouts, lacks)
        when_it_pays(kernels.calibrate, rows.size)(*columns, TOP, FADE, record.bins, record.tally)
        record.rollouts += int(rollouts.sum())
        if lacks.any() and self.deficits is None:
            self.deficits = np.zeros(self.size)
            arrays = self.arrays
        if self.trend > 0.0:
            self._report(rows, successes, rollouts, lacks)
        elif self._settled:
            when_it_pays(kernels.settled_observe, rows.size)(rows, successes, rollouts, arrays)
        else:
            kernels.observe(rows, successes, rollouts, lacks, arrays)
        if self.unrewarded is None and rollouts.any():
            self.unrewarded = np.zeros(self.size, dtype=np.uint16)
        if self.unrewarded is not None:
            when_it_pays(kernels.count_unrewarded, rows.size)(rows, successes, rollouts, self.unrewarded)
        if self.history is not None:
            self.history.add(self.now, rows, successes, rollouts, lacks)
        if self.journal.followed:
            self.journal.note(rows)

    def _report(self, rows: IntArray, successes: FloatArray, rollouts: IntArray, lacks: FloatArray) -> None:
        """Add feedback to the reports of the round, which move all beliefs."""
        some = rollouts > 0
        rows, sums = rows[some], np.zeros((int(np.count_nonzero(some)), 3))
        sums[:, 0], sums[:, 1] = successes[some], (rollouts - successes)[some]
        if lacks.size:
            sums[:, 2] = lacks[some]
        fresh = self.reports.unknown(rows)
        assert self.anchors is not None
        a, b = np.empty((2, fresh.size))
        arrays = self._arrays(self.reports.odds)  # before the shift of the round so far
        self._posterior(fresh, arrays, a, b)
        self.reports.add(fresh, Before(a, b, self._lacking(fresh, arrays), self.anchors[fresh] > 0.0), rows, sums)
        self._unsettled = True

    def _settle(self) -> None:
        """Let the reports of the round shift all beliefs, and add them to those of their prompts."""
        rows = self.reports.rows
        shift = self.reports.shift(self.trend)
        self.odds = self.reports.odds * shift
        a, b, lacking = self.reports.posterior(shift)
        self._write(rows, a, b, lacking)
        assert self.anchors is not None
        self.anchors[rows] = self.odds
        self.journal.note(None)
        # Last: of threads that read at once, each settles, to the same bits, or finds all settled.
        self._unsettled = False

    def _write(self, rows: IntArray | slice, a: FloatArray, b: FloatArray, lacking: FloatArray) -> None:
        """Set what is known of these rows, as of now."""
        a0, b0 = (side if side.size == 1 else side[rows] for side in (self.a0, self.b0))
        most = 1.0 - kernels.LEAST
        self.outcomes[rows, 0], self.outcomes[rows, 1] = np.maximum(a - a0, -most * a0), np.maximum(b - b0, -most * b0)
        self.ticks[rows] = self.now
        if self.deficits is not None:
            self.deficits[rows] = lacking

    def end_round(self) -> None:
        """Let the reports so far stand as a round of their own."""
        if self._unsettled:
            self._settle()
        self.reports.begin(self.odds)

    def bring_up(self) -> None:
        """Charge the time that has passed at the present rates, before they change."""
        self.end_round()
        if self.moving:
            rows = np.arange(self.size)
            lacking = self.lacking(rows)
            self._write(slice(None), *self.posterior(None), lacking)
            if self.anchors is not None:
                self.anchors[self.anchors > 0.0] = self.odds
        elif self.forgetting < 1.0:
            surviving = self.forgetting ** (self.now - self.ticks).astype(np.float64)
            self.outcomes *= surviving[:, None]  # what is below the prior, too, which aged() leaves out
            if self.deficits is not None:
                self.deficits *= surviving
        self.ticks[:] = self.now

    def tick(self, rounds: int = 1) -> None:
        """Let rounds go by; the caller keeps ``now`` at or below ``LAST_TICK``."""
        if self.trend > 0.0 and rounds:
            self.end_round()
        if not (self.moving and self.forgetting < 1.0):
            self.now += rounds
            return
        # A round of both has no power in closed form: the rows are brought up to date in every round.
        end = self.now + rounds
        while self.now < end:
            before = self.outcomes.copy()
            self.bring_up()
            self.outcomes *= self.forgetting
            if self.deficits is not None:
                self.deficits *= self.forgetting
            self.now += 1
            self.bring_up()
            if (self.outcomes == before).all():  # nothing is left to fade, but perhaps of the deficits
                if self.deficits is not None:
                    self.deficits *= self.forgetting ** float(end - self.now)
                self.now = end
                self.ticks[:] = end

    def mark_retired(self, rows: IntArray, retired: bool) -> None:
        """Set whether these prompts are retired; no allocator brings back those that are."""
        marks = np.zeros(self.size, dtype=bool) if self.retired is None else self.retired.copy()
        marks[rows] = retired
        if self.resting is not None:
            due = self.resting.copy()
            due[rows] = 0
            self.resting = due if due.any() else None
        self._mark(marks)

    def rest(self, due: IntArray) -> None:
        """Retire the prompts with a round to come back in; let those come back that rested and have none any more."""
        marks = np.zeros(self.size, dtype=bool) if self.retired is None else self.retired.copy()
        if self.resting is not None:
            marks &= self.resting == 0
        marks |= due > 0
        self.resting = due if due.any() else None
        self._mark(marks)

    def _mark(self, marks: npt.NDArray[np.bool_]) -> None:
        self.retired = marks if marks.any() else None
        self.retirements += 1
        self.journal.note(None)

    def keep_share(self, rows: IntArray, share: float | FloatArray) -> None:
        """Multiply the evidence of these prompts by a share, one for all or one for each."""
        if self.moving:
            self.bring_up()
        self.outcomes[rows] *= np.reshape(share, (-1, 1))
        if self.deficits is not None:
            self.deficits[rows] *= share
        if self.anchors is not None:
            self.anchors[rows[np.broadcast_to(share, rows.size) == 0.0]] = 0.0  # as if never seen
        self.journal.note(rows)

    def set_prior(self, a0: FloatArray, b0: FloatArray) -> None:
        """Replace the prior by one of one entry, or of one per prompt.

        Where beliefs have moved, a parameter may be below its prior: it keeps its share of the prior.
        """
        if self.moving:
            self.bring_up()
        for side, (old, new) in enumerate(((self.a0, a0), (self.b0, b0))):
            below = self.outcomes[:, side] < 0.0
            if below.any():
                self.outcomes[below, side] *= (np.broadcast_to(new, self.size) / np.broadcast_to(old, self.size))[below]
        self.a0, self.b0 = a0, b0
        self.journal.note(None)

    def fit_prior(self) -> PriorFit:
        """Replace the prior by the one under which the pool's evidence is most likely, where the data determine it."""
        fit = fit_prior(*self.aged(None), self.a0, self.b0)
        if fit.fitted:
            self.set_prior(np.array([fit.alpha]), np.array([fit.beta]))
        return fit

    def refit(self, n_rounds: int) -> PriorFit:
        """Replace drift, trend and prior by those that would have predicted past reports best, in a run of ``n_rounds``.

        Where evidence is forgotten, only the prior is fitted, to the evidence that is left.
        """
        if self.history is None or self.forgetting < 1.0:
            return self.fit_prior()
        fit = fit_belief(self.history.rounds(), self.a0, self.b0, usual_motion(n_rounds))
        if fit.status == "fitted":
            self.set_motion(fit.drift, fit.trend)
            self.set_prior(np.array([fit.alpha]), np.array([fit.beta]))
        return PriorFit(fit.alpha, fit.beta, fit.n_prompts, fit.status, fit.log_likelihood_gain)

    def fit_groups(self, groups: dict[Hashable, IntArray]) -> dict[Hashable, PriorFit]:
        """Replace the prior of each group, given by its rows, in the same way."""
        fits, prior = fit_groups(groups, *self.aged(None), self.a0, self.b0)
        if prior is not None:
            self.set_prior(*prior)
        return fits

    def set_forgetting(self, forgetting: float) -> None:
        """Let the evidence fade at another rate from now on."""
        self.bring_up()
        self.forgetting = forgetting
        self.journal.note(None)

    def set_motion(self, drift: float, trend: float) -> None:
        """Let beliefs move at other rates from now on."""
        if (drift, trend) == (self.drift, self.trend):
            return
        self.bring_up()
        if trend > 0.0 and self.anchors is None:
            self.anchors = np.where((self.outcomes != 0.0).any(axis=1), self.odds, 0.0)
        elif trend == 0.0:
            self.anchors = None
        self.drift, self.trend = drift, trend
        self.moved = self.moved or self.moving
        self.journal.note(None)

    def grow(self, extra: int, prior: tuple[FloatArray, FloatArray] | None) -> None:
        """Append prompts without evidence, with their own prior or, for None, with the one that all share."""
        if prior is not None and self.moving:
            require_moderate(*prior)
        size = self.size
        self.size += extra
        if prior is not None:
            self.a0, self.b0 = (
                np.concatenate([np.broadcast_to(ours, size), np.broadcast_to(new, extra)])
                for ours, new in zip((self.a0, self.b0), prior, strict=True)
            )
        self.outcomes = np.concatenate([self.outcomes, np.zeros((extra, 2), self.outcomes.dtype)])
        self.ticks = np.concatenate([self.ticks, np.full(extra, self.now, dtype=np.int32)])
        if self.anchors is not None:
            self.anchors = np.concatenate([self.anchors, np.zeros(extra)])
        if self.deficits is not None:
            self.deficits = np.concatenate([self.deficits, np.zeros(extra)])
        if self.unrewarded is not None:
            self.unrewarded = np.concatenate([self.unrewarded, np.zeros(extra, dtype=np.uint16)])
        if self.resting is not None:
            self.resting = np.concatenate([self.resting, np.zeros(extra, dtype=np.int64)])
        if self.retired is not None:
            self.retired = np.concatenate([self.retired, np.zeros(extra, dtype=bool)])
            self.retirements += 1
        self.journal.grow(self.size)

    def merge(self, other: Evidence, rows: IntArray, joined: IntArray) -> None:
        """Add the evidence of another bank with the same forgetting, and neither drift nor trend in either.

        Parameters
        ----------
        other : Evidence
            The evidence of the other bank.
        rows : numpy.ndarray of int64, shape (other.size,)
            The rows here of the other bank's prompts.
        joined : numpy.ndarray of int64
            The other bank's rows of prompts that were appended here for this merge, and have no evidence yet.
        """
        self.ticks[rows[joined]] = other.ticks[joined]  # the time of their evidence, not of their arrival
        latest = np.maximum(self.ticks[rows], other.ticks)
        ours, theirs = (
            self.forgetting ** (latest - ticks).astype(np.float64) for ticks in (self.ticks[rows], other.ticks)
        )
        self.outcomes[rows] = self.outcomes[rows] * ours[:, None] + other.outcomes * theirs[:, None]
        if self.deficits is not None or other.deficits is not None:
            mine, added = (np.zeros(part.size) if part.deficits is None else part.deficits for part in (self, other))
            mine[rows] = mine[rows] * ours + added * theirs
            self.deficits = mine
        self.ticks[rows] = latest
        self.now = max(self.now, other.now)
        self.record.merge(other.record)
        self.unrewarded = merged(self.unrewarded, other.unrewarded, rows, self.size)
        if other.retired is not None:
            for_good = other.retired if other.resting is None else other.retired & (other.resting == 0)
            self.mark_retired(rows[for_good], True)
        self.journal.note(None)

    # ------------------------------------------------------------ state

    def _snapshot(self) -> State:
        if self._unsettled:
            self._settle()
        history = None if self.history is None else self.history.state_dict()
        return {**super()._snapshot(), "prior": (self.a0.copy(), self.b0.copy()), "history": history}

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        super()._check_state(state, label, size)
        try:
            a0, b0 = prior_arrays(state["prior"], int(size or 0))  # shared, or one per prompt after a fit by groups
            if state["drift"] > 0.0 or state["trend"] > 0.0:
                require_moderate(a0, b0)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{label}['prior']: {error}") from None
        counts, moved = state["outcomes"], state["moved"]
        prior = np.stack([np.broadcast_to(side, len(counts)) for side in (a0, b0)], axis=1)
        condition = "be finite and exceed minus the prior" if moved else "be finite and at least 0"
        require(f"{label}['outcomes']", condition, counts, counts > -prior if moved else counts >= 0.0)
        moving = state["drift"] > 0.0 or state["trend"] > 0.0
        require(f"{label}['moved']", "be True with a drift or a trend", moved, bool(moved) or not moving)
        anchored = state["anchors"] is not None
        require(f"{label}['anchors']", "be there with a trend only", anchored, anchored == (state["trend"] > 0.0))
        if state["history"] is not None:
            History()._check_state(state["history"], f"{label}['history']", size)

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self.size = self.ticks.size
        self.a0, self.b0 = prior_arrays(state["prior"], self.size)
        self._unsettled = False
        self.history = None
        if state["history"] is not None:
            self.history = History()
            self.history._restore(state["history"])
        self.retirements += 1
        self.journal.grow(self.size)
