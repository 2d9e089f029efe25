"""Slow and obvious twins of a policy that learns."""

import math


def dot(x, w):
    return math.fsum(xi * wi for xi, wi in zip(x, w, strict=True))


def rate(x, b, w):
    return 1 / (1 + math.exp(-(dot(x, w) + b)))


def mean_success(features, offsets, w):
    return math.fsum(rate(x, b, w) for x, b in zip(features, offsets, strict=True)) / len(offsets)


def group_sum(x, b, w, rewards, normalise):
    """Advantage times score, one rollout at a time; the score is the gradient of log p, or of log (1 - p)."""
    n, p = len(rewards), rate(x, b, w)
    mean = sum(rewards) / n
    spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / n)
    total = [0.0] * len(x)
    for r in rewards:
        advantage = r - mean
        if normalise:
            advantage = advantage / spread if spread else 0.0
        score = [(1 - p) * xi if r else -p * xi for xi in x]
        total = [t + advantage * s for t, s in zip(total, score, strict=True)]
    return total


def group_gradient(features, offsets, w, groups, normalise, weighting, exposure):
    """Gradient of groups (row, rewards)."""
    sums = [group_sum(features[i], offsets[i], w, rewards, normalise) for i, rewards in groups]
    sizes = [len(rewards) for _, rewards in groups]
    if weighting == "rollout":
        weights = [1 / sum(sizes)] * len(groups)
    else:
        shares = [1.0 if weighting == "prompt" else 1 / z for z in exposure]
        mean = sum(shares) / len(shares)
        weights = [share / mean / n / len(groups) for share, n in zip(shares, sizes, strict=True)]
    return [sum(v * g[f] for v, g in zip(weights, sums, strict=True)) for f in range(len(w))]


def train(features, offsets, rounds, rate_of_learning, optimiser, normalise, weighting, mixed_only):
    """Weights after each round of groups {row: (rollouts, successes)}."""
    w, exposure, steps = [0.0] * len(features[0]), {}, 0
    first, second, path = list(w), list(w), []
    for groups in rounds:
        for i, (n, _) in groups.items():
            exposure[i] = exposure.get(i, 0) + n
        kept = {i: (n, s) for i, (n, s) in groups.items() if not mixed_only or 0 < s < n}
        if kept:
            rewards = [(i, [1] * s + [0] * (n - s)) for i, (n, s) in kept.items()]
            seen = [exposure[i] for i in kept]
            g = group_gradient(features, offsets, w, rewards, normalise, weighting, seen)
            steps += 1
            for f in range(len(w)):
                first[f] = 0.9 * first[f] + 0.1 * g[f]
                second[f] = 0.999 * second[f] + 0.001 * g[f] ** 2
                unbiased = first[f] / (1 - 0.9**steps), second[f] / (1 - 0.999**steps)
                step = g[f] if optimiser == "sgd" else unbiased[0] / (math.sqrt(unbiased[1]) + 1e-8)
                w[f] += rate_of_learning * step
        path.append(list(w))
    return path
