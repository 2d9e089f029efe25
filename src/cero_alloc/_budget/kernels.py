"""Kernels of the accounts (M x 3): units dealt, rollouts outstanding, offers."""

import numpy as np

from cero_alloc._numba import kernel


@kernel
def lend(rows, units, g, accounts):
    """Deal units of g rollouts to these rows, or take them back where they are negative; return the sum of the units."""
    total = np.int64(0)
    for r in range(rows.size):
        accounts[rows[r], 0] += units[r]
        accounts[rows[r], 1] += units[r] * g
        total += units[r]
    return total


@kernel
def count_offers(rows, accounts):
    """Count one offer of each row."""
    for r in range(rows.size):
        accounts[rows[r], 2] += 1


@kernel
def settle(rows, rollouts, accounts):
    """Take reported rollouts off those outstanding, at most as many as there are; return how many were taken."""
    total = np.int64(0)
    for r in range(rows.size):
        if rollouts[r] > 0:
            covered = min(np.int64(accounts[rows[r], 1]), rollouts[r])
            accounts[rows[r], 1] -= covered
            total += covered
    return total


@kernel
def first_bad_count(n, unit_size, most):
    """Return the index of the first count that is no multiple of unit_size in [0, most], or -1, and the sum so far."""
    total = 0
    for r in range(n.size):
        if n[r] < 0 or n[r] > most or n[r] % unit_size != 0:
            return r, total
        total += n[r]
    return -1, total
