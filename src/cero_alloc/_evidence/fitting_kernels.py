"""Kernel of the fit of drift, trend and prior: the likelihood of what came next."""

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
def prequential(rounds, prior, motion, beliefs):
    """Return the log-probability of all reports in a given order, each given those of earlier rounds.

    ``rounds`` is (starts, ticks, rows, won, rollouts), ``prior`` (a0, b0), ``motion`` (drift, trend). ``beliefs`` is scratch
    of 4 x n_prompts: both parameters of each prompt, the time they are of, and the odds then, 0 before the first report.
    """
    starts, ticks, rows, won, rollouts = rounds
    a0, b0 = prior
    drift, trend = motion
    most = 1.0 / (a0 + b0)
    for i in range(beliefs.shape[1]):
        beliefs[0, i], beliefs[1, i], beliefs[2, i], beliefs[3, i] = a0, b0, 0.0, 0.0
    total, odds = 0.0, 1.0
    for k in range(ticks.size):
        surprise, information = 0.0, 0.0
        for r in range(starts[k], starts[k + 1]):
            i, n = rows[r], rollouts[r]
            a, b = beliefs[0, i], beliefs[1, i]
            if beliefs[3, i] > 0.0:
                s, up = a + b, a * (odds / beliefs[3, i])
                s /= growth(s, drift * (ticks[k] - beliefs[2, i]), most)
                m = up / (up + b)
                a, b = s * m, s * (b / (up + b))
                beliefs[0, i], beliefs[1, i] = a, b
                weight = (s + 1.0) / (s + n)
                surprise += weight * (won[r] - n * m)
                information += weight * n * m * (b / (a + b))
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
