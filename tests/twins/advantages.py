"""Slow and obvious twins of the advantages."""

import math
import statistics
from fractions import Fraction


def leave_one_out_advantages(group, rewards, known, baseline, scale):
    advantages = []
    for j, (g, r) in enumerate(zip(group, rewards, strict=True)):
        whole = [x for i, x in zip(group, rewards, strict=True) if i == g]
        others = [x for k, (i, x) in enumerate(zip(group, rewards, strict=True)) if i == g and k != j]
        elsewhere = [x for k, x in enumerate(rewards) if k != j]
        s = known.a[g] + known.b[g] + len(others)
        m = (known.a[g] + math.fsum(others)) / s
        v = m - (known.deficit[g] + math.fsum(x - x**2 for x in others)) / s
        if baseline == "posterior":
            centre = m
        elif baseline == "group":
            centre = statistics.fmean(whole)
        else:
            centre = statistics.fmean(elsewhere) if elsewhere else r
        divisor = 1.0
        if scale == "posterior":
            divisor = max(0.1, math.sqrt(max(0.0, (v - m**2) * s / (s + 1))))
        elif scale == "group" and len(whole) > 1 and statistics.stdev(whole) > 1e-6 * statistics.fmean(whole):
            divisor = statistics.stdev(whole) if baseline == "group" else max(0.1, statistics.stdev(whole))
        advantages.append((r - centre) / divisor)
    return advantages


def mapp_advantages(group, rewards, known, group_size):
    """The weights in exact arithmetic."""
    advantages = []
    for j, (g, r) in enumerate(zip(group, rewards, strict=True)):
        others = [int(x) for k, (i, x) in enumerate(zip(group, rewards, strict=True)) if i == g and k != j]
        right = Fraction(float(known.a[g])) + sum(others)
        wrong = Fraction(float(known.b[g])) + len(others) - sum(others)
        same, opposite = (right, wrong) if r == 1 else (wrong, right)
        total = math.fsum(
            float(chance_of_same(k - 1, group_size - 1, same, opposite)) * math.sqrt((group_size - k) / k)
            for k in range(1, group_size)
        )
        advantages.append(total if r == 1 else -total)
    return advantages


def chance_of_same(k, n, x, y):
    """Beta-binomial probability of k out of n, by rising factorials."""
    return math.comb(n, k) * rising(x, k) * rising(y, n - k) / rising(x + y, n)


def rising(x, n):
    return math.prod((x + i for i in range(n)), start=Fraction(1))
