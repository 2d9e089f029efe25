"""OfflineOracle: the clairvoyant optimum, with a certificate; it shares no dual code with the allocators it checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text, flag, instance, integer, real, reals
from cero_alloc._numba import when_it_pays
from cero_alloc._saving.shown import Shown

from . import kernels, oracle_kernels
from .utility import SaturatingUtility

Status = Literal["optimal", "slack", "inexact"]
_Problem = tuple[tuple[FloatArray, ...], tuple[int, int, float]]  # q, lower, upper, share; utility codes

_TOLERANCE = 1e-15  # closing width of the price bracket, as a share of price * budget
_MAX_PASSES = 500  # passes over the pool; 6 are usual
_MOST = 1e300  # more than any budget in use; sums over pools of 10**8 stay finite
_MOST_UNITS = 2.0**53  # larger counts are not exact in float64
_MOST_ENTRIES = 2**31  # of a schedule: 16 GiB
_STEEPEST = 1e300  # utility per unit: steeper slopes overflow where they are added up
_UNIT_REMEDY = "Count budget, equal_share, lower and upper in one unit, rollouts or groups."


@dataclass(frozen=True, slots=True, repr=False)
class OracleResult(Shown):
    """The optimum of the static problem, with a proof of it.

    Attributes
    ----------
    allocation : numpy.ndarray, shape (n_prompts,)
        Exposure per prompt, in the unit of the budget; int64 for ``integer=True``, else float64.
    price : float
        Utility per unit of budget at the margin, 0 where the budget is slack.
    optimum : float
        Utility of ``allocation``, summed over the pool.
    gap : float
        Duality gap in utility, at least 0: no feasible allocation is worth more than ``optimum + gap``.
    status : {"optimal", "slack", "inexact"}
        Whether the budget binds, whether it covers all demand at price 0, or whether the price search ran out of
        passes; ``gap`` is valid in every case.

    References
    ----------
    Claims 7 to 9 of the theory page.

    Examples
    --------
    >>> result = OfflineOracle().solve([0.25, 0.1], 5, equal_share=2.5, upper=6, integer=True)
    >>> result.allocation.tolist(), round(result.optimum, 3), result.gap < 0.05
    ([3, 2], 0.973, True)
    """

    allocation: npt.NDArray[np.float64] | IntArray
    price: float
    optimum: float
    gap: float
    status: Status

    def schedule(self, n_rounds: SupportsIndex) -> IntArray:
        """Spread an integer allocation evenly over rounds.

        The units stand in blocks per prompt and the r-th goes to round r mod K, so that no round exceeds ceil(sum z /
        K) units and no prompt ceil(z_i / K) units a round: feasible whenever z_i <= K N_max and sum z <= K C.

        Parameters
        ----------
        n_rounds : int
            Rounds K.

        Returns
        -------
        numpy.ndarray of int64, shape (n_rounds, n_prompts)
            Units per round and prompt; the columns sum to ``allocation``.

        Raises
        ------
        ValueError
            For a continuous allocation or fewer than one round.
        TypeError
            For rounds that are not an integer.

        Examples
        --------
        >>> result = OfflineOracle().solve([0.25, 0.1], 5, equal_share=2.5, upper=6, integer=True)
        >>> result.schedule(3).tolist()
        [[1, 1], [1, 1], [1, 0]]
        """
        size = self.allocation.size
        most = max(1, _MOST_ENTRIES // size)
        rounds = integer("n_rounds", n_rounds, least=1, most=most, remedy="Give the number of rounds to fill.")
        if self.allocation.dtype.kind != "i":
            raise ValueError(
                "schedule must start from whole units, got a continuous allocation. Solve with integer=True."
            )
        units = self.allocation.astype(np.int64)
        every, more = np.divmod(units, rounds)
        place = (
            np.arange(rounds)[:, None] - (np.cumsum(units) - units)
        ) % rounds  # of each round, from a block's first
        return every + (place < more)


@dataclass(frozen=True, slots=True, repr=False)
class OfflineOracle(Shown):
    r"""Solve the static horizon problem for known values.

    .. math::

        \max_z \sum_i U(q_i, z_i / R) \quad \text{s.t.} \quad \sum_i z_i \le B, \; l_i \le z_i \le u_i

    One price :math:`\xi` decides everything: the continuous solution takes :math:`z_i(\xi)` with
    :math:`U_i'(z_i) = \xi` inside the bounds and finds the price by safeguarded Newton steps in a function of
    :math:`\xi` in which all demands are lines; the integer solution takes every unit that gains more than a threshold,
    which is optimal because the utilities are concave, finds the threshold among the gains near that price, and gives
    ties to the lowest index.

    Parameters
    ----------
    utility : SaturatingUtility
        What exposure is worth.

    Raises
    ------
    TypeError
        For anything but a :class:`SaturatingUtility`.

    References
    ----------
    Claims 7 to 9 of the theory page: optimality, the gap, whole units and the round plan.

    Examples
    --------
    >>> result = OfflineOracle().solve([0.25, 0.1, 0.0], 6, equal_share=2, upper=10)
    >>> result.allocation.round(3).tolist(), result.status
    ([3.023, 2.977, 0.0], 'optimal')
    >>> bool(result.gap <= 1e-12 * result.optimum)
    True
    """

    utility: SaturatingUtility = SaturatingUtility()  # noqa: RUF009 (immutable)

    def __post_init__(self) -> None:
        instance("utility", self.utility, SaturatingUtility, "Pass SaturatingUtility(...).")

    def solve(
        self,
        values: npt.ArrayLike,
        budget: float,
        *,
        equal_share: npt.ArrayLike,
        upper: npt.ArrayLike,
        lower: npt.ArrayLike = 0,
        integer: bool = False,
    ) -> OracleResult:
        """Return the optimal exposure per prompt.

        Parameters
        ----------
        values : array_like of float, shape (n_prompts,)
            Values q: variances of a reward in [0, 1], which are at most 1/4; p (1 - p) for rewards 0 and 1.
        budget : float
            Total exposure B; whole for ``integer=True``. The unit, rollouts or groups, is the caller's and common to
            all arguments.
        equal_share : float, or array_like of float with shape (n_prompts,)
            The exposure R that counts as one equal share. One per prompt where the budget is in tokens and a rollout of
            prompt i costs :math:`c_i` of them: :math:`c_i R`, with allocation and bounds in tokens too.
        upper, lower : array_like of float, scalar or shape (n_prompts,)
            Bounds per prompt; whole for ``integer=True``.
        integer : bool
            Solve over whole units.

        Returns
        -------
        OracleResult
            Exposures, price, optimum and its gap.

        Raises
        ------
        ValueError
            For an argument out of range, bounds that cross, lower bounds above the budget, or fractions where whole
            units are asked.
        TypeError
            For arguments that are not numbers.

        Examples
        --------
        >>> OfflineOracle().solve([0.2, 0.2, 0.2], 4, equal_share=1, upper=3, integer=True).allocation.tolist()
        [2, 1, 1]
        """
        q = reals(
            "values",
            values,
            low=0.0,
            high=0.25,
            remedy="A value is a Bernoulli variance p (1 - p), or that of another reward in [0, 1].",
        )
        if q.ndim != 1 or q.size == 0:
            raise ValueError(error_text("values", "have shape (n_prompts,)", q.shape, "Pass one value per prompt."))
        total = real("budget", budget, low=0.0, high=np.inf, remedy=_UNIT_REMEDY)
        share = reals("equal_share", equal_share, low=0.0, high=np.inf, open_low=True, remedy=_UNIT_REMEDY)
        if share.shape not in ((), (q.size,)):
            remedy = "Give one share, or one per prompt."
            raise ValueError(error_text("equal_share", f"be a number or have shape ({q.size},)", share.shape, remedy))
        share = np.atleast_1d(share)  # one for all stays one
        if not self.utility.saturation / _STEEPEST <= float(share.min()):
            least = self.utility.saturation / _STEEPEST
            raise ValueError(error_text("equal_share", f"be at least {least:g}", float(share.min()), _UNIT_REMEDY))
        integer = flag("integer", integer)
        low, high = _bounds("lower", lower, q.size), _bounds("upper", upper, q.size)
        crossed = np.flatnonzero(low > high)
        if crossed.size:
            i = int(crossed[0])
            most, least = (float(side[i if side.size > 1 else 0]) for side in (high, low))
            raise ValueError(error_text("lower", f"not exceed upper[{i}] = {most:g}", least, "Swap them.", i))
        least = _total(low, q.size)
        if least > total * (1 + 1e-15):
            raise ValueError(error_text("lower", f"sum to at most the budget {total:g}", least, "Lower the bounds."))
        if integer:
            _require_whole(budget=np.array([total]), lower=low, upper=high)
        # No prompt can take more than the lower bounds leave, and no more than the upper bounds is spent: sums stay
        # finite and whole.
        high = np.minimum(high, low + max(0.0, min(total, _MOST) - least))
        total = min(total, _total(high, q.size))
        if integer and total > _MOST_UNITS:
            raise ValueError(
                error_text("budget", "be at most 2**53 with integer=True", total, "Solve with integer=False.")
            )
        widest = float(high.max()) / _MOST
        if not widest <= float(share.min()):  # exposure in equal shares would overflow
            raise ValueError(error_text("equal_share", f"be at least {widest:g}", float(share.min()), _UNIT_REMEDY))
        problem = (q, low, high, share), self.utility.codes
        top = max(
            when_it_pays(oracle_kernels.steepest, q.size)(q, share, self.utility.codes) * (1.0 + 1e-15), 1e-300
        )  # demand is 0 above it
        solver = _solve_units if integer else _solve_continuous
        allocation, price, status = solver(total, problem, top)
        optimum, gap = when_it_pays(oracle_kernels.certify, q.size)(
            price, np.asarray(allocation, dtype=np.float64), total, *problem, integer
        )
        return OracleResult(allocation, price, optimum, gap, status)


def _solve_continuous(budget: float, problem: _Problem, top: float) -> tuple[FloatArray, float, Status]:
    """Clear the market: allocation, price and status."""
    allocation, price, closed, *_ = _clear(budget, problem, top)
    return allocation, price, ("optimal" if closed else "inexact") if price else "slack"


def _solve_units(budget: float, problem: _Problem, top: float) -> tuple[IntArray, float, Status]:
    """Take the largest unit gains, near the price of the continuous problem: allocation, price and status."""
    gains, price, _, pull, about = _clear(budget, problem, top)  # gains: whatever is in there
    units = np.empty((3, gains.size), dtype=np.int64)
    price = oracle_kernels.clear_units(budget, *problem, price, top, pull, about, gains, units)
    return units[0].copy(), price, "optimal" if price else "slack"


def _clear(
    budget: float, problem: _Problem, top: float
) -> tuple[FloatArray, float, bool, float, tuple[float, FloatArray, FloatArray]]:
    """Solve the continuous problem: allocation, price, exactness, pull, and a reference price with its demand lines."""
    (q, _, _, share), (shape, scaling, lam) = problem
    # The marginal that all prompts would have on average if they shared the budget equally: the right magnitude.
    height, rate = kernels.scale_of(scaling, lam, float(q.mean()))
    mean_share = float(share.mean())
    guess = kernels.du(shape, height, rate, budget / q.size / mean_share) / mean_share
    allocation, shift, slope = np.empty_like(q), np.empty_like(q), np.empty_like(q)
    price, pull, closed, reference = when_it_pays(oracle_kernels.clear_price, q.size)(
        budget, *problem, guess, top, _TOLERANCE, _MAX_PASSES, shift, slope, allocation
    )
    return allocation, price, closed, pull, (reference, shift, slope)


def _bounds(name: str, side: npt.ArrayLike, size: int) -> FloatArray:
    """Return a bound per prompt, or one for all."""
    array = reals(name, side, low=0.0, high=np.inf, remedy=_UNIT_REMEDY)
    if array.shape not in ((), (size,)):
        raise ValueError(
            error_text(name, f"be a number or have shape ({size},)", array.shape, "Give one bound, or one per prompt.")
        )
    return np.atleast_1d(array)


def _total(side: FloatArray, size: int) -> float:
    """Sum a bound over all prompts."""
    return float(side.sum()) * (size if side.size == 1 else 1)


def _require_whole(**sides: FloatArray) -> None:
    """Refuse fractions where whole units are required."""
    for name, side in sides.items():
        broken = np.flatnonzero(side != np.floor(side))
        if broken.size:
            i = int(broken[0])
            where = None if name == "budget" else i
            raise ValueError(error_text(name, "be whole with integer=True", float(side[i]), "Round it down.", where))
