"""Kernels of the fit of drift, trend and prior, and of a jump of all rates: the likelihood of what came next."""

from cero_alloc._numba import exp, kernel, lgamma, log

from .kernels import growth


@kernel
def log_chance(a, b, won, rollouts):
    """Log of B(a + S, b + F) / B(a, b): of S successes and F failures in a given order under Beta(a, b)."""
    if won != float(int(won)) or rollouts > 1000:  # where the product would take too long
        return (
            (lgamma(a + won) - lgamma(a))
            + (lgamma(b + (rollouts - won)) - lgamma(b))
            - (lgamma(a + b + rollouts) - lgamma(a + b))
        )
    total, product, s = 0.0, 1.0, a + b
    wins = int(won)
    for i in range(rollouts):
        product *= (a + i if i < wins else b + (i - wins)) / (s + i)
        if product < 1e-200:
            total += log(product)
            product = 1.0
    return total + log(product)


@kernel
def moved(belief, odds, drift, now, most):
    """Return both parameters of a belief, moved to ``now``: its mean with the odds, its strength by the drift."""
    a, b, since, anchor = belief
    s, up = a + b, a * (odds / anchor)
    s /= growth(s, drift * (now - since), most)
    return s * (up / (up + b)), s * (b / (up + b))


@kernel
def kept_chance(share, before, prior, won, rollouts):
    """Return the log-probability of reports if this share of the evidence from before them still holds.

    ``before`` is (a, b) and ``prior`` (a0, b0), each with an entry per report.
    """
    (a, b), (a0, b0) = before, prior
    total = 0.0
    for r in range(won.size):
        total += log_chance(a0[r] + share * (a[r] - a0[r]), b0[r] + share * (b[r] - b0[r]), won[r], rollouts[r])
    return total


@kernel
def prequential(rounds, prior, motion, jumps, beliefs):
    """Return the log-probability of all reports in a given order, each given those of earlier rounds.

    ``rounds`` is (starts, ticks, rows, won, rollouts), ``prior`` (a0, b0), ``motion`` (drift, trend), ``jumps`` (times, shares
    of the evidence that were kept), in order. ``beliefs`` is scratch of 4 x n_prompts: both parameters of each prompt, the
    time they are of, and the odds then, 0 before the first report.
    """
    starts, ticks, rows, won, rollouts = rounds
    a0, b0 = prior
    drift, trend = motion
    times, shares = jumps
    most, jump = 1.0 / (a0 + b0), 0
    for i in range(beliefs.shape[1]):
        beliefs[0, i], beliefs[1, i], beliefs[2, i], beliefs[3, i] = a0, b0, 0.0, 0.0
    total, odds = 0.0, 1.0
    for k in range(ticks.size):
        while jump < times.size and times[jump] <= ticks[k]:
            for i in range(beliefs.shape[1]):
                if beliefs[3, i] > 0.0:
                    a, b = moved(beliefs[:, i], odds, drift, times[jump], most)
                    beliefs[0, i], beliefs[1, i] = a0 + shares[jump] * (a - a0), b0 + shares[jump] * (b - b0)
                    beliefs[2, i], beliefs[3, i] = times[jump], odds
            jump += 1
        surprise, information = 0.0, 0.0
        for r in range(starts[k], starts[k + 1]):
            i, n = rows[r], rollouts[r]
            a, b = beliefs[0, i], beliefs[1, i]
            if beliefs[3, i] > 0.0:
                a, b = moved(beliefs[:, i], odds, drift, ticks[k], most)
                beliefs[0, i], beliefs[1, i] = a, b
                s = a + b
                m, weight = a / s, (s + 1.0) / (s + n)
                surprise += weight * (won[r] - n * m)
                information += weight * n * m * (b / s)
            total += log_chance(a, b, won[r], n)
        shift = exp(min(max(surprise / (1.0 / (trend * trend) + information), -20.0), 20.0)) if trend > 0.0 else 1.0
        odds = min(max(odds * shift, 1e-100), 1e100)
        for r in range(starts[k], starts[k + 1]):
            i = rows[r]
            a, b = beliefs[0, i], beliefs[1, i]
            if beliefs[3, i] > 0.0:
                s, up = a + b, a * shift
                a, b = s * (up / (up + b)), s * (b / (up + b))
            beliefs[0, i], beliefs[1, i] = a + won[r], b + (rollouts[r] - won[r])
            beliefs[2, i], beliefs[3, i] = ticks[k], odds
    return total
