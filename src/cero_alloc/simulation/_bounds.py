"""Bounds from the theorems: on the regret of a run, and on the optimum along a path of success rates."""

from __future__ import annotations

from math import sqrt

import numpy as np
import numpy.typing as npt

from cero_alloc._budget.horizon import Horizon
from cero_alloc._checks import error_text, instance, real, reals
from cero_alloc._objective.oracle import OfflineOracle
from cero_alloc._objective.utility import SaturatingUtility

from . import _kernels


def regret_bound(
    horizon: Horizon, utility: SaturatingUtility, *, proxy_error: float = 0.0, variation: float = 0.0
) -> float:
    r"""Return the bound on regret per prompt of Theorem 1, or of Theorem 2 if the success rates move.

    .. math::

        \min\Bigl\{\text{cap},\ \frac{\lambda (N_{\max} + G_B / M)}{\bar N} \frac{1}{\sqrt K}
        + 8 \lambda \frac{N_{\max}}{\bar N} \bar e + 4 \lambda \Bigl(1 + \frac{N_{\max}}{\bar N}\Bigr) V_K\Bigr\},
        \qquad \bar N = \frac{B}{M K}

    Parameters
    ----------
    horizon : Horizon
        Constants of the run.
    utility : SaturatingUtility
        Value of exposure; any shape and scaling.
    proxy_error : float, at least 0
        Mean over prompts and rounds of :math:`|\hat q_{i,k+1} - q_{i,k}|`.
    variation : float, at least 0
        :math:`V_K = \sum_k \max_i |q_{i,k+1} - q_{i,k}|`, summed over the rounds. Shape "capped-linear" with "rate" scaling
        adds another :math:`4 \lambda V_K`, because of its kink.

    Returns
    -------
    float
        Utility per prompt. The cap is the largest possible optimum: min(1, saturation) for bounded shapes on static rates,
        the saturation otherwise. A bound equal to the cap is vacuous.

    Raises
    ------
    ValueError, TypeError
        For a horizon or utility of another class, or a proxy error or variation that is not a finite number of at least 0.

    References
    ----------
    Theorems 1 and 2 of the theory page.

    Examples
    --------
    >>> horizon = Horizon(n_prompts=64, n_rounds=256, total_budget=64 * 256, max_rollouts=2, round_capacity=128)
    >>> regret_bound(horizon, SaturatingUtility())
    0.1875
    """
    h = instance("horizon", horizon, Horizon, "Pass policy.horizon, or Horizon(...).")
    lam = instance("utility", utility, SaturatingUtility, "Pass SaturatingUtility(...).").saturation
    proxy_error = real("proxy_error", proxy_error, low=0.0, high=np.inf, remedy="Give a mean distance of values.")
    variation = real("variation", variation, low=0.0, high=np.inf, remedy="Give a sum of distances of values.")
    n_bar = h.equal_share_units / h.n_rounds
    spread = h.max_units / n_bar
    bound = (
        lam * (h.max_units + h.price_scale_units / h.n_prompts) / n_bar / sqrt(h.n_rounds)
        + 8.0 * lam * spread * proxy_error
    )
    if variation == 0.0:
        return min(utility.ceiling, bound)
    kink = 2.0 if (utility.shape, utility.scaling) == ("capped-linear", "rate") else 1.0
    return min(lam, bound + 4.0 * lam * (kink + spread) * variation)


def path_optimum_bound(
    values: npt.ArrayLike,
    horizon: Horizon,
    utility: SaturatingUtility,
    *,
    tolerance: float = 1e-4,
) -> tuple[float, float]:
    """Return an upper bound on the optimal utility along a path of values, and the price that certifies it.

    Exposure added in a round is worth its gain at that round's value. Pricing the budget splits the problem into one
    dynamic program over (round, exposure) per prompt. By weak duality every price gives a valid bound; dropping the round
    capacity can only raise it. Bisection on the slack of the budget finds the price with the lowest bound.

    Parameters
    ----------
    values : array_like of float, shape (n_prompts, n_rounds)
        Value q of every prompt in every round.
    horizon : Horizon
        Constants of the run; its n_prompts and n_rounds must match.
    utility : SaturatingUtility
        Value of exposure.
    tolerance : float
        Relative width of the price bracket at which the search stops, as a share of the price.

    Returns
    -------
    bound : float
        Utility of the whole pool.
    price : float
        Utility per unit of budget.

    Raises
    ------
    ValueError, TypeError
        For values of another shape, out of range, or not numbers.

    References
    ----------
    Claim 6 of the theory page.

    Examples
    --------
    >>> horizon = Horizon(n_prompts=2, n_rounds=4, total_budget=8, max_rollouts=2, round_capacity=4)
    >>> bound, price = path_optimum_bound(np.full((2, 4), 0.25), horizon, SaturatingUtility())
    >>> round(bound, 6), round(2 * (1 - float(np.exp(-1))), 6)
    (1.264241, 1.264241)
    """
    instance("horizon", horizon, Horizon, "Pass policy.horizon, or Horizon(...).")
    instance("utility", utility, SaturatingUtility, "Pass SaturatingUtility(...).")
    q = np.ascontiguousarray(
        reals(
            "values",
            values,
            low=0.0,
            high=0.25,
            remedy="A value is a Bernoulli variance p (1 - p), or that of another reward in [0, 1].",
        )
    )
    if q.shape != (horizon.n_prompts, horizon.n_rounds):
        shape = (horizon.n_prompts, horizon.n_rounds)
        raise ValueError(
            error_text("values", f"have shape {shape}", q.shape, "Give one row per prompt, one column per round.")
        )
    size = horizon.n_rounds * horizon.max_units + horizon.max_units + 1
    scratch = [np.empty(size) for _ in range(3)]
    codes, lam = utility.codes, utility.saturation
    share, budget = horizon.equal_share_units, float(horizon.budget_units)

    def dual(price: float) -> tuple[float, float]:
        worth, bought = _kernels.path_dual(price, q, horizon.max_units, share, codes, *scratch)
        return worth + price * budget, bought

    top = 4.0 * lam * float(q.max()) / share
    best, best_price = float(horizon.n_prompts * lam), top
    # The static optimum at the mean values has nearly the same price, so a bracket around it is tried first.
    static = OfflineOracle(utility).solve(
        q.mean(axis=1), budget, equal_share=share, upper=horizon.n_rounds * horizon.max_units
    )
    lo, hi = 0.0, top
    for price in (0.9 * static.price, 1.1 * static.price):
        bound, bought = dual(price)
        best, best_price = min((best, best_price), (bound, price))
        lo, hi = (max(lo, price), hi) if bought > budget else (lo, min(hi, price))
    while hi - lo > tolerance * hi and hi > 1e-6 * top:  # below that, the budget is practically slack
        price = 0.5 * (lo + hi)
        bound, bought = dual(price)
        best, best_price = min((best, best_price), (bound, price))
        if bought == budget:
            break
        lo, hi = (price, hi) if bought > budget else (lo, price)
    return best, best_price
