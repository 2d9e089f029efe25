"""Slow and obvious twins of the evidence and of prompt rows."""

import math
from fractions import Fraction


def expected_variance(a, b):
    return a * b / ((a + b) * (a + b + 1))


def calibrate(value, successes, rollouts, lacks, top, fade, bins, tally):
    """All groups at once: every weight is the fading to the power of the groups that came after."""
    lacks = lacks if len(lacks) else [0.0] * len(rollouts)
    groups = [group for group in zip(value, successes, rollouts, lacks, strict=True) if group[2] >= 2]
    bins, tally = [list(row) for row in bins], [x * fade ** len(groups) for x in tally]
    tally[2] *= fade ** len(groups)
    tally[0] /= fade ** len(groups)
    for later, (q, s, n, lack) in zip(range(len(groups) - 1, -1, -1), groups, strict=True):
        seen = sample_variance(s, n, lack)
        place = min(int(q / top * len(bins[0])), len(bins[0]) - 1)
        for row, x in zip(bins, (1, q, seen, (q - seen) ** 2), strict=True):
            row[place] += x
        tally[0] += is_mixed(s, n, lack)
        for k, x in ((1, 1), (3, q - seen), (4, (q - seen) ** 2)):
            tally[k] += x * fade**later
        tally[2] += fade ** (2 * later)
    return bins, tally


def count_unrewarded(rows, successes, rollouts, unrewarded):
    """Counts end at 65,534, and 65,535 marks a prompt that was rewarded."""
    counts = [int(n) for n in unrewarded]
    for row, won, n in zip(rows, successes, rollouts, strict=True):
        earned = won > 0 or counts[row] == 2**16 - 1
        counts[row] = 2**16 - 1 if earned else min(counts[row] + int(n), 2**16 - 2)
    return counts


def sample_variance(s, n, lack):
    """Of n rewards with the sum s and the sum of squares s - lack, in exact arithmetic."""
    s, n, lack = Fraction(float(s)), int(n), Fraction(float(lack))
    return float(max(0, (s - lack - s * s / n) / (n - 1)))


def is_mixed(s, n, lack):
    """Whether the rewards differ by more than rounding: 0/1 rewards by their count, others by their deviation."""
    if lack == 0:
        return 0 < s < n
    return sample_variance(s, n, lack) > max((1e-6 * s / n) ** 2, 1e-14)


def powers(rho, size):
    return [survival(k, rho) for k in range(size)]


def survival(elapsed, rho):
    left = 1.0
    for _ in range(elapsed):
        left *= rho
    return left


# ---------------------------------------------------------------- one prompt, round by round


def moves(evidence):
    *_, drift, _, anchors, _ = evidence
    return drift > 0 or len(anchors) > 0


def growth(s, faded, most):
    before = 1 / s
    return max(before, min(before + faded, most)) / before


def shift_since(i, odds, anchors):
    return odds / anchors[i] if len(anchors) and anchors[i] != 0 else 1.0


def aged(i, evidence):
    """Both Beta parameters and the deficit of a row, brought from its last touch to now one round at a time."""
    a0, b0, stride, _, ticks, now, _, _, drift, odds, anchors, _ = evidence
    prior_a, prior_b = (side[i] if stride else side[0] for side in (a0, b0))
    won, lost, deficit = left_over(i, evidence)
    belief, shift, rounds = (prior_a + won, prior_b + lost, deficit), shift_since(i, odds, anchors), now - ticks[i]
    if not moves(evidence):
        return belief
    if rounds == 0:
        return shifted(*belief, shift)
    for _ in range(rounds):  # the product of the shifts is known; that they were alike is one way to come by it
        belief = shifted(*faded(*belief, drift, prior_a + prior_b), shift ** (1 / rounds))
    return belief


def left_over(i, evidence):
    """Outcomes and deficit of a row: what forgetting leaves of them where beliefs do not move, else as they are."""
    _, _, _, outcomes, ticks, now, rho, *_, deficits = evidence
    left = 1.0 if moves(evidence) else survival(now - ticks[i], rho)
    won, lost = map(float, outcomes[i])
    return won * left, lost * left, (deficits[i] if len(deficits) else 0.0) * left


def faded(a, b, deficit, drift, least):
    """A round of drift: 1 / (a + b) grows, up to that of the prior; mean and shape of the rewards stay."""
    grown = growth(a + b, drift, 1 / least)
    return a / grown, b / grown, deficit / grown


def shifted(a, b, deficit, shift):
    """The odds of the mean times ``shift``; a + b stays, and the variance of the rewards as a share of m (1 - m)."""
    m, rest = a * shift / (a * shift + b), b / (a * shift + b)
    return (a + b) * m, (a + b) * rest, deficit * (m / (a / (a + b))) * (rest / (b / (a + b)))


def parameters(i, evidence):
    return aged(i, evidence)[:2]


def spread(i, evidence):
    """(v - m^2) / (m (1 - m)) with mean m and second moment v = m - deficit / (a + b)."""
    a, b, deficit = (Fraction(float(x)) for x in aged(i, evidence))
    m, v = a / (a + b), (a - deficit) / (a + b)
    return float(max(0, (v - m * m) / (m * (1 - m))))


def spreads(rows, evidence):
    return [spread(i, evidence) for i in rows]


def drifted_value(a, b, faded, most):
    """E[p (1 - p)] = m (1 - m) s / (s + 1), in exact arithmetic but for the growth of 1 / s."""
    grown = Fraction(float(growth(a + b, faded, most)))
    a, b = Fraction(float(a)), Fraction(float(b))
    m, s = a / (a + b), (a + b) / grown
    return float(m * (1 - m) * s / (s + 1))


def moved_value(a, b, faded, most, odds, anchor):
    """The same with the odds of the mean times odds / anchor, where the prompt was seen."""
    a, b = Fraction(float(a)), Fraction(float(b))
    m = a / (a + b)
    if anchor > 0:
        up = m / (1 - m) * Fraction(float(odds)) / Fraction(float(anchor))
        m = up / (1 + up)
    s = (a + b) / Fraction(float(growth(float(a + b), faded, most)))
    return float(m * (1 - m) * s / (s + 1))


# ---------------------------------------------------------------- many prompts


def posterior(full, rows, evidence):
    pairs = [parameters(i, evidence) for i in (range(len(evidence[3])) if full else rows)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def settled_posterior(full, first, rows, evidence, size):
    return [part[first : first + size] for part in posterior(full, rows, evidence)]


def stretch(evidence, start, stop):
    a0, b0, stride, outcomes, ticks, *clock, anchors, deficits = evidence
    prior = [side[start:stop] if stride else side for side in (a0, b0)]
    rest = [side[start:stop] if len(side) else side for side in (anchors, deficits)]
    return (*prior, stride, outcomes[start:stop], ticks[start:stop], *clock, *rest)


def moved_values(full, rows, evidence):
    return [expected_variance(*parameters(i, evidence)) for i in (range(len(evidence[3])) if full else rows)]


def values(full, rows, evidence):
    chosen = range(len(evidence[3])) if full else rows
    return [expected_variance(*parameters(i, evidence)) * spread(i, evidence) for i in chosen]


def settled_values(full, rows, evidence):
    return values(full, rows, evidence)


def observe(rows, successes, rollouts, lacks, evidence):
    """What the named rows hold then: outcomes, ticks, anchors, deficits."""
    a0, b0, stride, outcomes, ticks, now, rho, _, _, odds, anchors, deficits = evidence
    outcomes, ticks = [list(pair) for pair in outcomes.tolist()], ticks.tolist()
    anchors, deficits = anchors.tolist(), deficits.tolist()
    for k, (i, s, n) in enumerate(zip(rows, successes, rollouts, strict=True)):
        won, lost, deficit = left_over(i, evidence)
        if moves(evidence):
            (a, b, deficit), prior_a, prior_b = aged(i, evidence), *(side[i if stride else 0] for side in (a0, b0))
            won, lost = max(a, prior_a / 1e6) - prior_a, max(b, prior_b / 1e6) - prior_b
        outcomes[i] = [won + s, lost + (n - s)]
        ticks[i] = now if rho < 1 or moves(evidence) else ticks[i]
        if anchors:
            anchors[i] = odds
        if deficits:
            deficits[i] = deficit + (lacks[k] if len(lacks) else 0.0)
    return outcomes, ticks, anchors, deficits


def settled_observe(rows, successes, rollouts, evidence):
    return observe(rows, successes, rollouts, [], evidence)


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
