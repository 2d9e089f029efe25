"""Kernels of the simulation: the path optimum, and what a bank predicts of the pool."""

import numpy as np

from cero_alloc._evidence.kernels import expected_variance, survival
from cero_alloc._numba import exp, kernel
from cero_alloc._objective.kernels import EXPONENTIAL, demand, scale_of, unit_gain


@kernel
def unit_gains(shape, height, rate, size, out):
    """Write the gains of the first ``size`` units, ``rate`` per unit."""
    if shape != EXPONENTIAL:
        for z in range(size):
            out[z] = unit_gain(shape, height, rate, float(z))
        return
    # A geometric series, by doubling: one exponential per doubling, and no rounding that grows with the length.
    out[0] = unit_gain(shape, height, rate, 0.0)
    known = 1
    while known < size:
        fade = exp(-rate * known)
        for z in range(min(known, size - known)):
            out[known + z] = fade * out[z]
        known *= 2


@kernel
def path_dual(price, q_path, max_units, share, codes, worth, spent, gain):
    """Price the drifting problem: each prompt's best plan by dynamic programming over (round, exposure).

    q_path has shape (n_prompts, n_rounds); ``worth``, ``spent`` and ``gain`` are scratch of n_rounds * max_units + max_units +
    1 entries. A unit bought in round k at exposure z gains U_k(z + 1) - U_k(z) at that round's rate. Returns the sum of
    the optimal priced values and the units bought.

    A round that may buy max_units units is max_units chances to buy one, which leaves one comparison per exposure. No plan
    misses a unit that gains less than its price: exposure is never worth having for the rounds to come, because the
    utilities are concave.
    """
    shape, scaling, lam = codes
    total, bought = 0.0, 0.0
    n_prompts, n_rounds = q_path.shape
    for i in range(n_prompts):
        worth[:] = 0.0
        spent[:] = 0.0
        for k in range(n_rounds - 1, -1, -1):
            height, rate = scale_of(scaling, lam, q_path[i, k])
            top = (k + 1) * max_units
            wanted = min(top, np.int64(share * demand(shape, height, rate, price * share, top / share)) + 1)
            unit_gains(shape, height, rate / share, wanted, gain)
            for chance in range(max_units):
                for z in range(min(wanted, top - chance)):  # ascending: worth[z + 1] is still that of the next chance
                    more = worth[z + 1] + (gain[z] - price)
                    units = spent[z + 1] + 1.0
                    better = more > worth[z]
                    worth[z] = more if better else worth[z]
                    spent[z] = units if better else spent[z]
        total += worth[0]
        bought += spent[0]
    return total, bought


@kernel
def bin_of(mean, n_bins):
    """Place of a number in [0, 1] among equal bins."""
    return min(np.int64(mean * n_bins), n_bins - 1)


@kernel
def forecast(a0, b0, stride, evidence, tick, now, rho, fade, q, alpha, beta, mean, value, bins):
    """Bring means, values and the counts of means per bin up to date; return the sum of |value - q|.

    ``alpha`` and ``beta`` are the Beta parameters that they belong to: a prompt whose parameters stand where they stood
    costs no division, and that is all but those dealt, where nothing is forgotten.
    """
    error, ageing = 0.0, rho < 1.0
    for i in range(q.size):
        left = survival(now - tick[i], rho, fade) if ageing else 1.0
        a, b = a0[i * stride] + evidence[i, 0] * left, b0[i * stride] + evidence[i, 1] * left
        if a != alpha[i] or b != beta[i]:
            alpha[i], beta[i] = a, b
            bins[bin_of(mean[i], bins.size)] -= 1
            mean[i] = a / (a + b)
            bins[bin_of(mean[i], bins.size)] += 1
            value[i] = expected_variance(a, b)
        error += abs(value[i] - q[i])
    return error
