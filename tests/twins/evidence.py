"""Slow and obvious twins of the evidence and of prompt rows."""

import math


def expected_variance(a, b):
    return a * b / ((a + b) * (a + b + 1))


def calibrate(value, successes, rollouts, top, fade, bins, tally):
    """All groups at once: every weight is the fading to the power of the groups that came after."""
    groups = [(q, s, n) for q, s, n in zip(value, successes, rollouts, strict=True) if n >= 2]
    bins, tally = [list(row) for row in bins], [x * fade ** len(groups) for x in tally]
    tally[2] *= fade ** len(groups)
    tally[0] /= fade ** len(groups)
    for later, (q, s, n) in zip(range(len(groups) - 1, -1, -1), groups, strict=True):
        seen = s * (n - s) / (n * (n - 1))
        place = min(int(q / top * len(bins[0])), len(bins[0]) - 1)
        for row, x in zip(bins, (1, q, seen, (q - seen) ** 2), strict=True):
            row[place] += x
        tally[0] += 0 < s < n
        for k, x in ((1, 1), (3, q - seen), (4, (q - seen) ** 2)):
            tally[k] += x * fade**later
        tally[2] += fade ** (2 * later)
    return bins, tally


def powers(rho, size):
    return [survival(k, rho) for k in range(size)]


def survival(elapsed, rho):
    left = 1.0
    for _ in range(elapsed):
        left *= rho
    return left


def posterior(full, rows, evidence):
    a0, b0, stride, outcomes, ticks, now, rho, _ = evidence
    chosen = range(len(outcomes)) if full else rows
    alpha = [a0[i if stride else 0] + outcomes[i][0] * survival(now - ticks[i], rho) for i in chosen]
    beta = [b0[i if stride else 0] + outcomes[i][1] * survival(now - ticks[i], rho) for i in chosen]
    return alpha, beta


def stretch(evidence, start, stop):
    a0, b0, stride, outcomes, ticks, *clock = evidence
    prior = [side[start:stop] if stride else side for side in (a0, b0)]
    return (*prior, stride, outcomes[start:stop], ticks[start:stop], *clock)


def values(full, rows, evidence):
    alpha, beta = posterior(full, rows, evidence)
    return [expected_variance(a, b) for a, b in zip(alpha, beta, strict=True)]


def observe(rows, successes, rollouts, evidence):
    _, _, _, outcomes, ticks, now, rho, _ = evidence
    outcomes, ticks = [list(pair) for pair in outcomes.tolist()], list(ticks)
    for i, s, n in zip(rows, successes, rollouts, strict=True):
        left = survival(now - ticks[i], rho)
        outcomes[i] = [outcomes[i][0] * left + s, outcomes[i][1] * left + (n - s)]
        ticks[i] = now if rho < 1 else ticks[i]
    return outcomes, ticks


def first_bad_feedback(successes, rollouts):
    for i, (s, n) in enumerate(zip(successes, rollouts, strict=True)):
        kind = 1 if n < 0 else 2 if not math.isfinite(s) or s < 0 else 3 if s > n else 0
        if kind:
            return i, kind
    return -1, 0


def enter(row, seen):
    new = row not in seen
    seen.add(row)
    return new


def first_bad_row(rows, n_prompts):
    for r, row in enumerate(rows):
        if not 0 <= row < n_prompts:
            return r, 1
    for r, row in enumerate(rows):
        if row in rows[:r]:
            return r, 2
    return -1, 0


def strictly_increasing(rows):
    return list(rows) == sorted(set(rows))
