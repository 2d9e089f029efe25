"""Slow and obvious twins of systematic sampling."""

import math
from fractions import Fraction


def round_total(target, low, high, quantum, max_units):
    """Every total in the window that counts add up to; whole quanta go before others, the nearest before the farther."""
    few = [-(-total // max_units) for total in range(int(high) + 1)]
    reachable = [total for total in range(int(high) + 1) if few[total] * quantum <= total]
    inside = [total for total in reachable if total >= low]
    whole = [total for total in inside if total % quantum == 0]
    return min(whole, key=lambda total: abs(total - target)) if whole else None, inside, max(reachable)


def expected_counts(rate, total, most, least):
    """The scale by bisection, and by bisection again what the prompts without a rate get."""
    least = min(least, total / len(rate))

    def counts(scale, rest):
        return [min(most, max(least, scale * r if r > 0 else rest)) for r in rate]

    def root(sum_at):
        low, high = 0.0, 1e30
        for _ in range(400):
            middle = math.sqrt(low * high) if low > 1e-30 else high / 1e10 if high > 1e-20 else 0.0
            low, high = (middle, high) if sum_at(middle) < total else (low, middle)
        return high

    scale = root(lambda s: sum(counts(s, 0.0)))
    rest = 0.0 if sum(counts(scale, 0.0)) >= total * (1 - 1e-12) else root(lambda s: sum(counts(scale, s)))
    return counts(scale, rest)


def systematic(expected, offset):
    """Lay the expectations end to end and count the points offset, offset + 1, ... in each, its end included."""
    counts, begin = [], Fraction(0)
    for length in expected:
        end = begin + length
        counts.append(math.floor(end - offset) - math.floor(begin - offset))
        begin = end
    return counts


def swap_down(order, draws, last):
    """The shuffle of Fisher and Yates from the end: each draw is cut to as many bits as the entry's number has."""
    order, used = list(order), 0
    for draw in draws:
        if last == 0:
            break
        used += 1
        named = draw % 2 ** last.bit_length()
        if named <= last:
            order[last], order[named] = order[named], order[last]
            last -= 1
    return order, last, used


def split(expected, unit):
    whole = [math.floor(e) for e in expected]
    return whole, [math.floor((Fraction(e) - n) * int(unit)) for e, n in zip(expected, whole, strict=True)]


def add_points(order, ticks, shift, bits):
    """Write down every tick of the line in turn; every 2**bits-th is a point."""
    line = [i for i in order for _ in range(ticks[i])]
    return [sum((shift + at + 1) % 2**bits == 0 for at, i in enumerate(line) if i == of) for of in range(len(ticks))]
