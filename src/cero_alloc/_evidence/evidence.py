"""Evidence: the rows of a bank, that is successes and failures per prompt, their prior and their age."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, TieArray
from cero_alloc._saving.state import Field, State, Stateful

from . import kernels
from .calibration import FADE, TOP, CalibrationRecord
from .journal import Journal
from .prior import PriorFit, fit_groups, fit_prior, prior_arrays

BLOCK = 1024  # prompts per block of a pass over the pool: the scratch of a block stays in the cache
LAST_TICK = 2**31 - 1  # the ticks are int32

_NO_ROWS = np.empty(0, dtype=np.int64)
_RECENT = 4096  # ticks whose power of the forgetting is looked up in a table

Arrays = tuple[
    FloatArray, FloatArray, int, npt.NDArray[np.floating[Any]], TieArray, int, float, FloatArray
]  # the argument ``evidence`` of the kernels: a0, b0, stride, outcomes, ticks, now, rho, fade


class Evidence(Stateful):
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

    Attributes
    ----------
    size : int
        Number of prompts.
    a0, b0 : numpy.ndarray of float64, shape (1,) or (n_prompts,)
        The prior, in pseudo-rollouts: one for all prompts, or one per prompt.
    outcomes : numpy.ndarray of float64 or float32, shape (n_prompts, 2)
        Successes and failures, aged to the prompt's entry in ``ticks``. Side by side, because a pass needs both.
    ticks : numpy.ndarray of int32, shape (n_prompts,)
        The time up to which a prompt's outcomes are aged; unused while nothing is forgotten.
    now : int
        Ticks so far.
    forgetting : float
        Share of the evidence that survives a tick.
    retired : numpy.ndarray of bool, shape (n_prompts,), or None
        Which prompts are retired; None for none of them.
    retirements : int
        Version number of ``retired``; grows with every change of it.
    record : CalibrationRecord
        Predicted against observed reward variance.
    journal : Journal
        Which rows changed. Ticks are not noted: where ``forgetting`` is below 1, each changes the values of all rows.
    """

    FIELDS: ClassVar[dict[str, Field]] = {
        "outcomes": Field("prompts", must="be finite and at least 0", holds=lambda counts, _: counts >= 0.0),
        "ticks": Field(
            "prompts", must="be between 0 and {now}", holds=lambda ticks, state: (ticks >= 0) & (ticks <= state["now"])
        ),
        "now": Field(must=f"be between 0 and {LAST_TICK}", holds=lambda now, _: 0 <= now <= LAST_TICK),
        "forgetting": Field(must="be in (0, 1]", holds=lambda share, _: 0.0 < share <= 1.0),
        "record": Field(),
        "retired": Field("prompts", when_set=np.empty(0, dtype=bool)),
        "prior": Field(own=True),
    }

    def __init__(
        self, size: int, *, prior: tuple[FloatArray, FloatArray], forgetting: float, dtype: npt.DTypeLike
    ) -> None:
        self.size = size
        self.a0, self.b0 = prior
        self.outcomes: npt.NDArray[np.floating[Any]] = np.zeros((size, 2), dtype=dtype)
        self.ticks = np.zeros(size, dtype=np.int32)
        self.now = 0
        self.forgetting = forgetting
        self.retired: npt.NDArray[np.bool_] | None = None
        self.retirements = 0
        self.record = CalibrationRecord()
        self.journal = Journal(size)
        self._powers, self._powers_of = np.empty(0), 1.0  # powers of the forgetting, and of which forgetting

    @property
    def arrays(self) -> Arrays:
        """The argument ``evidence`` of the kernels, for the whole pool."""
        rho = self.forgetting
        if self._powers_of != rho:
            self._powers, self._powers_of = np.empty(_RECENT), rho
            kernels.powers(rho, self._powers)
        stride = int(self.a0.size > 1)
        return self.a0, self.b0, stride, self.outcomes, self.ticks, self.now, rho, self._powers

    def stretch(self, start: int, stop: int) -> Arrays:
        """Return :attr:`arrays` of the rows from ``start`` to ``stop``, as views."""
        a0, b0, stride, outcomes, ticks, now, rho, powers = self.arrays
        if stride:
            a0, b0 = a0[start:stop], b0[start:stop]
        return a0, b0, stride, outcomes[start:stop], ticks[start:stop], now, rho, powers

    # ------------------------------------------------------------ what the evidence implies

    def posterior(self, rows: IntArray | None) -> tuple[FloatArray, FloatArray]:
        """Return the Beta parameters, in pseudo-rollouts, aged to now."""
        alpha = np.empty(self.size if rows is None else rows.size)
        beta = np.empty_like(alpha)
        kernels.posterior(rows is None, _NO_ROWS if rows is None else rows, self.arrays, alpha, beta)
        return alpha, beta

    def values(self, rows: IntArray | None) -> FloatArray:
        """Return the posterior expectations of p (1 - p), in [0, 1/4]."""
        out = np.empty(self.size if rows is None else rows.size)
        kernels.values(rows is None, _NO_ROWS if rows is None else rows, self.arrays, np.empty(BLOCK), out)
        return out

    def means(self, rows: IntArray | None) -> FloatArray:
        """Return the posterior means of the success rate p."""
        alpha, beta = self.posterior(rows)
        return alpha / (alpha + beta)

    def standard_deviations(self, rows: IntArray | None) -> FloatArray:
        """Return the posterior standard deviations of p (1 - p), whose mean is the value.

        With s = a + b and E[p^2 (1-p)^2] = a (a+1) b (b+1) / (s (s+1) (s+2) (s+3)), the variance
        E[p^2 (1-p)^2] - qhat^2 is qhat times a sum of two terms that are never negative:

            qhat [ (1/2) / ((s+1) (s+3)) + r^2 s (s + 3/2) / ((s+1) (s+2) (s+3)) ],    r = (a - b) / s.
        """
        alpha, beta = self.posterior(rows)
        s = alpha + beta
        lean = (alpha - beta) / s
        even = 0.5 / (s + 1.0) / (s + 3.0)  # one division at a time: the product would overflow for huge s
        skew = lean * lean * (s / (s + 1.0)) * ((s + 1.5) / (s + 2.0)) / (s + 3.0)
        deviations: FloatArray = np.sqrt(self.values(rows) * (even + skew))
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
        """Return successes and failures, aged to now."""
        some = slice(None) if rows is None else rows
        surviving = self.forgetting ** (self.now - self.ticks[some]).astype(np.float64)
        return self.outcomes[some, 0] * surviving, self.outcomes[some, 1] * surviving

    @property
    def n_active(self) -> int:
        """Prompts that are not retired."""
        return self.size if self.retired is None else self.size - int(np.count_nonzero(self.retired))

    # ------------------------------------------------------------ what changes it

    def observe(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        """Add checked feedback, and to the calibration record what the values predicted of it; no row may repeat."""
        arrays, predicted = self.arrays, np.empty(rows.size)
        kernels.values(False, rows, arrays, np.empty(BLOCK), predicted)
        kernels.calibrate(predicted, successes, rollouts, TOP, FADE, self.record.bins, self.record.tally)
        kernels.observe(rows, successes, rollouts, arrays)
        if self.journal.followed:
            self.journal.note(rows)

    def tick(self, rounds: int = 1) -> None:
        """Let rounds go by; the caller keeps ``now`` at or below ``LAST_TICK``."""
        self.now += rounds

    def mark_retired(self, rows: IntArray, retired: bool) -> None:
        """Set whether these prompts are retired."""
        marks = np.zeros(self.size, dtype=bool) if self.retired is None else self.retired.copy()
        marks[rows] = retired
        self.retired = marks if marks.any() else None
        self.retirements += 1
        self.journal.note(None)

    def keep_share(self, rows: IntArray, share: float) -> None:
        """Multiply the evidence of these prompts by a share."""
        self.outcomes[rows] *= share
        self.journal.note(rows)

    def set_prior(self, a0: FloatArray, b0: FloatArray) -> None:
        """Replace the prior by one of one entry, or of one per prompt."""
        self.a0, self.b0 = a0, b0
        self.journal.note(None)

    def fit_prior(self) -> PriorFit:
        """Replace the prior by the one under which the pool's evidence is most likely, where the data determine it."""
        fit = fit_prior(*self.aged(None), self.a0, self.b0)
        if fit.fitted:
            self.set_prior(np.array([fit.alpha]), np.array([fit.beta]))
        return fit

    def fit_groups(self, groups: dict[Hashable, IntArray]) -> dict[Hashable, PriorFit]:
        """Replace the prior of each group, given by its rows, in the same way."""
        fits, prior = fit_groups(groups, *self.aged(None), self.a0, self.b0)
        if prior is not None:
            self.set_prior(*prior)
        return fits

    def set_forgetting(self, forgetting: float) -> None:
        """Let the evidence fade at another rate from now on."""
        # Ageing is lazy: the ticks so far must be charged at the old rate before it changes.
        self.outcomes[:, 0], self.outcomes[:, 1] = self.aged(None)
        self.ticks[:] = self.now
        self.forgetting = forgetting
        self.journal.note(None)

    def grow(self, extra: int, prior: tuple[FloatArray, FloatArray] | None) -> None:
        """Append prompts without evidence, with their own prior or, for None, with the one that all share."""
        size = self.size
        self.size += extra
        if prior is not None:
            self.a0, self.b0 = (
                np.concatenate([np.broadcast_to(ours, size), np.broadcast_to(new, extra)])
                for ours, new in zip((self.a0, self.b0), prior, strict=True)
            )
        self.outcomes = np.concatenate([self.outcomes, np.zeros((extra, 2), self.outcomes.dtype)])
        self.ticks = np.concatenate([self.ticks, np.full(extra, self.now, dtype=np.int32)])
        if self.retired is not None:
            self.retired = np.concatenate([self.retired, np.zeros(extra, dtype=bool)])
            self.retirements += 1
        self.journal.grow(self.size)

    def merge(self, other: Evidence, rows: IntArray, joined: IntArray) -> None:
        """Add the evidence of another bank with the same forgetting.

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
        self.ticks[rows] = latest
        self.now = max(self.now, other.now)
        self.record.merge(other.record)
        if other.retired is not None:
            self.mark_retired(rows[other.retired], True)
        self.journal.note(None)

    # ------------------------------------------------------------ state

    def _snapshot(self) -> State:
        return {**super()._snapshot(), "prior": (self.a0.copy(), self.b0.copy())}

    def _check_state(self, state: Any, label: str, size: int | None) -> None:
        super()._check_state(state, label, size)
        try:
            prior_arrays(state["prior"], int(size or 0))  # one for all, or one per prompt after a fit by groups
        except (TypeError, ValueError) as error:
            raise ValueError(f"{label}['prior']: {error}") from None

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self.size = self.ticks.size
        self.a0, self.b0 = prior_arrays(state["prior"], self.size)
        self.retirements += 1
        self.journal.grow(self.size)
