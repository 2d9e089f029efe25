"""Slow and obvious twins of one visit's counts from a table of gains."""

import math
from fractions import Fraction
from itertools import product

import numpy as np

from .objective import entry


def allowed_counts(min_units, max_units):
    return [0, *range(max(min_units, 1), max_units + 1)]


def majorise(gains, min_units):
    """The highest of all chords over each point, exactly."""
    rows = []
    for row in gains:
        score = [sum(map(Fraction, row[:n]), start=Fraction(0)) for n in range(len(row) + 1)]
        points = allowed_counts(min_units, len(row))
        hull = []
        for n in range(len(row) + 1):
            chords = [(i, j) for i in points for j in points if i <= n <= j and i < j]
            hull.append(max(score[i] + (score[j] - score[i]) * (n - i) / (j - i) for i, j in chords))
        rows.append([float(hull[n + 1] - hull[n]) for n in range(len(row))])
    return rows


def dearer(slopes, r, low, high, cost, price, equal):
    return next(
        (n for n in range(low, high) if slopes[r][n] / cost < price or (slopes[r][n] / cost == price and not equal)),
        max(low, high),
    )


def take_above(slopes, cost, price):
    units = [sum(slope / entry(cost, r) >= price for slope in row) for r, row in enumerate(slopes)]
    return sum(entry(cost, r) * n for r, n in enumerate(units)), units


def clear_slopes(slopes, cost, target, lower, upper):
    """Go through all distinct prices within the bounds from the dearest on."""
    rows, per_unit = range(len(slopes)), [entry(cost, r) for r in range(len(slopes))]
    ratios = [[slopes[r][n] / per_unit[r] for n in range(lower[r], upper[r])] for r in rows]
    spend = lambda units: sum(c * n for c, n in zip(per_unit, units, strict=True))  # noqa: E731
    sure, price = list(lower), math.inf
    for price in sorted({ratio for row in ratios for ratio in row}, reverse=True):
        upto = [lower[r] + sum(ratio >= price for ratio in ratios[r]) for r in rows]
        if spend(upto) > target:
            return price, spend(sure), sure, upto if spend(sure) <= target else sure
        sure = upto
    return price, spend(sure), sure, sure


def level(start, units, upto, cost, order, left):
    """Raise the lowest rows together while ``left`` pays for all of them, then each by one unit, the lowest still first."""
    units, rows = list(units), range(len(units))
    price = [entry(cost, r) for r in rows]
    while True:
        height = [start[r] + units[r] for r in rows]
        open_rows = [r for r in rows if units[r] < upto[r]]
        lowest = [r for r in open_rows if height[r] == min(height[i] for i in open_rows)]
        if not lowest or sum(price[r] for r in lowest) > left:
            break
        for r in lowest:
            units[r] += 1
            left -= price[r]
    lowest_height = min((height[r] for r in open_rows), default=0)
    for behind in (True, False):
        for r in map(int, order):
            if units[r] < upto[r] and price[r] <= left and (start[r] + units[r] == lowest_height) == behind:
                units[r] += 1
                left -= price[r]
    return left, units


def fall(gains, lower, out):
    for r, row in enumerate(gains):
        for n in range(row.size):
            out[r, n] = min(row[lower[r] : n + 1]) if n >= lower[r] else np.inf


def fill_ties(gains, slopes, min_units, cost, start, order, left, units, upto):
    units, upto = list(units), list(upto)
    for r in map(int, order):
        between = range(units[r], upto[r])
        single = (units[r] >= min_units or min_units <= 1) and all(gains[r][n] == slopes[r][n] for n in between)
        if not single:
            block = entry(cost, r) * len(between)
            if block <= left:
                units[r], left = upto[r], left - block
            upto[r] = units[r]
    return level(start, units, upto, cost, order, left)


def complete(gains, slopes, tie, min_units, total, units):
    """Open the best rows until ``total`` fits, then move to it one unit at a time; None where that cannot be."""
    units, rows, max_units, first = list(units), range(len(units)), len(gains[0]), max(min_units, 1)
    while sum(n > 0 for n in units) * max_units < total:
        closed = sorted((-slopes[r][0], tie[r], r) for r in rows if units[r] == 0)
        if not closed:
            return None
        units[closed[0][-1]] = first
    while sum(units) < total:
        able = [r for r in rows if units[r] < max_units and (units[r] or first == 1)]
        units[min(able, key=lambda r: (-gains[r][units[r]], tie[r]))] += 1
    while sum(units) > total:
        able = [r for r in rows if units[r] > (first if first > 1 else 0)]
        if not able:
            return None
        units[min(able, key=lambda r: (gains[r][units[r] - 1], tie[r]))] -= 1
    return units


def change_loss(gains, r, price, before, after):
    worth = lambda n: math.fsum([*gains[r][:n], *[-price] * n])  # noqa: E731
    return worth(before) - worth(after)


def least_losses(gains, price, min_units, units):
    return [
        min(change_loss(gains, r, price, now, n) for n in allowed_counts(min_units, len(gains[r])) if n != now)
        for r, now in enumerate(units)
    ]


def repair(gains, core, price, slack, min_units, window, bound, units):
    """Try all counts of the core rows; return the least loss."""
    lowest, left, highest = window
    plans = []
    for r in core:
        counts = [n for n in allowed_counts(min_units, len(gains[r])) if n != units[r]]
        losses = [(change_loss(gains, r, price, units[r], n), n - units[r]) for n in counts]
        plans.append([(0.0, 0), *(change for change in losses if change[0] < bound)])
    best = math.inf
    for plan in product(*plans):
        shift = sum(d for _, d in plan)
        if lowest <= shift <= highest:
            best = min(best, sum(loss for loss, _ in plan) + slack * (left - shift))
    return best


def fill_costly(gains, slopes, min_units, cost, tie, floor_price, need, left, units):
    """Buy what is worth most per cost of all that fits, until need is met: parts of next blocks that may stand alone."""
    units, max_units = list(units), len(gains[0])
    while need > 0:
        offers = []
        for r, now in enumerate(units):
            c = entry(cost, r)
            block = sum(slopes[r][n] == slopes[r][now] for n in range(now, max_units))
            sizes = [n for n in range(1, block + 1) if now + n >= min_units and n * c <= left]
            offers += [(-sum(gains[r][now : now + n]) / (n * c), tie[r], n, r) for n in sizes]
        if not offers or -min(offers)[0] < floor_price:
            return left, units
        _, _, size, r = min(offers)
        units[r] += size
        need -= size * entry(cost, r)
        left -= size * entry(cost, r)
    return left, units


def batch_dp(gains, min_units, most):
    """Largest sum of scores at every total up to ``most``, -inf where no counts add up to it."""
    best = np.full(most + 1, -np.inf)
    best[0] = 0.0
    for row in gains:
        score = np.concatenate([[0.0], np.cumsum(row)])
        grown = np.full(most + 1, -np.inf)
        for n in allowed_counts(min_units, len(row)):
            if n <= most:
                grown[n:] = np.maximum(grown[n:], best[: most + 1 - n] + score[n])
        best = grown
    return best
