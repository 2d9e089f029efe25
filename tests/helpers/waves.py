"""A round in waves in dicts and loops, and random runs of a rule against it."""

from math import ceil

import numpy as np

from cero_alloc import BetaPosteriorBank


class Twin:
    """A round in dicts and loops; units of one prompt at a time. A subclass says in ``wanted`` who gets what next."""

    def __init__(self, m, kwargs, prior):
        self.g, self.max_units = kwargs["unit_size"], kwargs["max_rollouts"] // kwargs["unit_size"]
        self.kwargs, self.prior = kwargs, prior
        self.rng = np.random.default_rng(kwargs["seed"])
        self.tie = self.rng.permutation(m).tolist()
        self.visits, self.done = [0] * m, [False] * m

    def units(self, rollouts):
        return ceil(rollouts / self.g)

    def group(self):
        visit = self.kwargs.get("rollouts_per_visit")
        return max(self.units(2), min(self.max_units, 8 // self.g), 1) if visit is None else visit // self.g

    def open(self, offered, total):
        self.total = self.left = total
        self.wave, self.last = 0, []
        self.dealt, self.seen, self.won = (dict.fromkeys(offered, 0) for _ in range(3))
        return self.next()

    def report(self, n, won):
        for row in self.last:
            self.seen[row] += n[row]
            self.won[row] += won[row]
        return self.next()

    def next(self):
        granted = {}
        for row, units in self.wanted():
            fits = min(units, self.max_units - self.dealt[row])
            if fits > self.left:
                break
            if fits:
                self.visits[row] += self.dealt[row] == 0
                granted[row] = fits
                self.dealt[row] += fits
                self.left -= fits
        self.wave, self.last = self.wave + 1, list(granted)
        return granted

    def fresh(self, k):
        """Return the next k prompts that this round has not dealt to, the least visited first."""
        rows = [row for row in self.dealt if self.dealt[row] == 0]
        return sorted(rows, key=lambda row: (self.done[row], self.visits[row], self.tie[row]))[: max(0, k)]

    def mixed(self, row):
        return 0 < self.won[row] < self.seen[row]

    def rate(self, row):
        return self.won[row] / self.seen[row] if self.seen[row] else 0.0


def play_against(rule, twin_of, own_arguments, seed):
    """Compare every wave of a random run with the twin's."""
    rng = np.random.default_rng(seed)
    m, rounds, g = int(rng.integers(1, 20)), int(rng.integers(1, 12)), int(rng.integers(1, 4))
    max_units = 7 + int(rng.integers(0, 12))
    kwargs = {
        "n_rounds": rounds, "unit_size": g, "max_rollouts": max_units * g, "seed": int(rng.integers(2**31)),
        **own_arguments(rule, rng, g, max_units),
    }  # fmt: skip
    prior = (1, 1) if rng.random() < 0.5 else tuple(rng.integers(1, 9, 2).tolist())
    twin, capacity = twin_of(m, kwargs, prior), m * max_units
    if rng.random() < 0.4:
        capacity = int(rng.integers(twin.begins_with(), m * max_units + 1))
        capacity = twin.begins_with() if rng.random() < 0.3 else capacity  # no unit to spare
        kwargs["round_capacity"] = capacity * g
    kwargs["total_budget"] = int(rng.integers(1, rounds * capacity + 1)) * g
    policy = rule(BetaPosteriorBank(m, prior=prior), **kwargs)
    p = np.where(rng.random(m) < 0.3, rng.choice([0.0, 1.0], m), rng.random(m))
    least, budget, spent = ceil(policy.least_rollouts / g), kwargs["total_budget"] // g, 0
    for k in range(rounds):
        rows = rng.permutation(m)[: rng.integers(1, m + 1)] if rng.random() < 0.5 else np.arange(m)
        cap = int(rng.integers(0, rows.size * max_units * g + 1)) if rng.random() < 0.3 else None
        total = min(rows.size * max_units, capacity, budget * (k + 1) // rounds - spent)
        total = total if cap is None else min(total, cap // g)
        if ceil(total / max_units) * least > total:  # as many prompts as it takes would get too few
            total = (ceil(total / max_units) - 1) * max_units
        if policy.ledger.finished:
            assert not policy.allocate(rows, cap).any()
            break
        counts, expected = policy.allocate(rows, cap), twin.open(sorted(rows.tolist()), total)
        while True:
            assert counts.tolist() == [g * expected.get(row, 0) for row in rows.tolist()]
            if not counts.any():
                break
            spent += int(counts.sum()) // g
            n = np.maximum(counts - rng.integers(0, 2, rows.size) * (rng.random() < 0.3), 0)
            won = rng.binomial(n, p[rows])
            policy.update(rows, won, n)
            expected = twin.report(*(dict(zip(rows.tolist(), x.tolist(), strict=True)) for x in (n, won)))
            counts = policy.continue_round(n, won)
        assert policy.ledger.dealt == spent * g
        assert twin.total - twin.left <= total
    assert policy._visits.tolist() == twin.visits
