"""Kernels of the simulation: the path optimum, a bank's predictions for the pool, and the schedule of a step."""

import numpy as np

from cero_alloc._evidence.kernels import expected_variance, parameters, spread
from cero_alloc._numba import exp, kernel
from cero_alloc._objective.kernels import EXPONENTIAL, demand, scale_of, unit_gain


@kernel
def unit_gains(shape, height, rate, size, out):
    """Write the gains of the first ``size`` units, at ``rate`` per unit, into ``out``."""
    if shape != EXPONENTIAL:
        for z in range(size):
            out[z] = unit_gain(shape, height, rate, float(z))
        return
    # A geometric series by doubling: one exponential per doubling, and rounding errors do not grow with the length.
    out[0] = unit_gain(shape, height, rate, 0.0)
    known = 1
    while known < size:
        fade = exp(-rate * known)
        for z in range(min(known, size - known)):
            out[known + z] = fade * out[z]
        known *= 2


@kernel
def path_dual(price, q_path, max_units, share, codes, worth, spent, gain):
    """Return the dual of the drifting problem at ``price``: the sum of the optimal priced values, and the units bought.

    Each prompt's optimal plan is found by dynamic programming over (round, exposure). A unit bought in round k at exposure
    z gains U_k(z + 1) - U_k(z) at that round's value. q_path has shape (n_prompts, n_rounds); ``worth``, ``spent`` and
    ``gain`` are scratch of n_rounds * max_units + max_units + 1 entries.

    A round that may buy max_units units is treated as max_units chances to buy one, which needs one comparison per
    exposure. Units that gain less than their price need no consideration: the utilities are concave, so additional
    exposure never raises later gains.
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
                for z in range(min(wanted, top - chance)):  # ascending z: worth[z + 1] still belongs to the next chance
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
    """Return the bin of a number in [0, 1] among ``n_bins`` equal bins."""
    return min(np.int64(mean * n_bins), n_bins - 1)


@kernel
def forecast(evidence, q, alpha, beta, mean, value, bins):
    """Update means, values and the counts of means per bin; return the sum of |value - q|.

    ``alpha`` and ``beta`` hold the Beta parameters of the last call. Prompts with unchanged parameters need no division;
    without forgetting, these are all prompts that were not dealt.
    """
    _, _, _, _, _, _, _, _, _, _, _, deficits = evidence
    error = 0.0
    for i in range(q.size):
        a, b = parameters(i, evidence)
        if a != alpha[i] or b != beta[i]:
            alpha[i], beta[i] = a, b
            bins[bin_of(mean[i], bins.size)] -= 1
            mean[i] = a / (a + b)
            bins[bin_of(mean[i], bins.size)] += 1
            value[i] = expected_variance(a, b) * (spread(i, evidence) if deficits.size > 0 else 1.0)
        error += abs(value[i] - q[i])
    return error


@kernel
def list_schedule(lengths, ends):
    """Return when the last of these rollouts ends, each begun in order as soon as a slot is free.

    ``ends`` holds the time from which each slot is free, all 0 at first, as a binary heap with the earliest on top.
    """
    last = 0
    for k in range(lengths.size):
        end = ends[0] + lengths[k]
        last = max(last, end)
        place, child = 0, 1
        while child < ends.size:
            if child + 1 < ends.size and ends[child + 1] < ends[child]:
                child += 1
            if ends[child] >= end:
                break
            ends[place] = ends[child]
            place, child = child, 2 * child + 1
        ends[place] = end
    return last
