"""Slow and obvious twins of the ranking of a pool, and of what a round deals."""


def look_up(rows, theta, tie):
    return [theta[row] for row in rows], [tie[row] for row in rows]


def ahead(i, j, key, tie):
    return (-key[i], tie[i]) < (-key[j], tie[j])


def select(key, tie, order, size, k):
    return sorted(order[:size], key=lambda i: (-key[i], tie[i]))[:k]


def rank(key, tie, threshold, k):
    eligible = [i for i in range(len(key)) if key[i] > threshold]
    return select(key, tie, eligible, len(eligible), k)


def deal(order, k, units, max_units, size):
    out = [0] * size
    for i in order[:k]:
        out[i] = min(max_units, units - sum(out))
    return sum(out), out


def propose(key, tie, threshold, max_units, cap, budget):
    order = rank(key, tie, threshold, len(key))
    proposed, proposal = deal(order, len(order), cap, max_units, len(key))
    counts = [0] * len(key)
    for i in order:
        counts[i] = min(proposal[i], budget - sum(counts))
    return proposed, sum(counts), proposal, counts
