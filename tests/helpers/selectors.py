"""A slow obvious twin of the rules that pick prompts, and a random run in which a rule and its twin are compared."""

from itertools import pairwise
from math import ceil

import numpy as np

from cero_alloc import BetaPosteriorBank


class Twin:
    """Whom a total visits, and with how much; dicts and loops over one prompt at a time."""

    fewest = 2  # rollouts of a visited prompt

    def __init__(self, m, kwargs, prior):
        self.g, self.max_units = kwargs["unit_size"], kwargs["max_rollouts"] // kwargs["unit_size"]
        self.least = ceil(self.fewest / self.g)
        visit = kwargs.get("rollouts_per_visit")
        self.block = max(self.least, min(self.max_units, 8 // self.g), 1) if visit is None else visit // self.g
        self.rng = np.random.default_rng(kwargs["seed"])
        self.tie = self.rng.permutation(m)
        self.a0, self.b0 = (np.broadcast_to(side, m).tolist() for side in prior)
        self.a, self.b = list(self.a0), list(self.b0)
        self.visits = [0] * m
        self.pending = {}  # row -> [successes, rollouts] since the last round
        self.on_edge = False  # a comparison came out as the order of a sum has it

    def deal(self, offered, total):
        """Return units by row: the lowest keys, even shares, the larger ones to the lower keys."""
        offered = sorted(offered)
        self.close()
        k = max(min(len(offered), total // self.least, ceil(total / self.block)), ceil(total / self.max_units))
        self.chosen = k
        key = self.keys(offered)
        first = sorted(offered, key=lambda row: (key[row], self.tie[row]))[:k]
        units = {row: total // k + (place < total % k) for place, row in enumerate(first)}
        for row in first:
            self.visits[row] += 1
            self.visited(row)
        return units

    def learn(self, row, won, n):
        entry = self.pending.setdefault(row, [0.0, 0])
        entry[0] += won
        entry[1] += n

    def close(self):
        self.pending = {}

    def visited(self, row):
        pass

    def agree(self, saved):
        """Raise unless a state of the rule holds the same belief."""


class RoundTwin(Twin):
    """A twin that learns once a round: ``end_round`` gets {row: (successes, rollouts)}, ``worth`` returns keys to maximise.

    Equal keys are a tie where ``belief`` is equal, too; elsewhere they are equal up to rounding only.
    """

    rounds = 0  # that were over before the present one

    def close(self):
        seen = {row: tuple(entry) for row, entry in self.pending.items() if entry[1]}
        self.pending = {}
        if self.rounds or seen:
            self.end_round(seen)

    def keys(self, offered):
        worth = self.worth(offered)
        ordered = sorted(offered, key=worth.get)
        for low, high in pairwise(ordered):
            self.on_edge |= worth[high] - worth[low] < 1e-9 and self.belief(low) != self.belief(high)
        self.rounds += 1
        return {row: -value for row, value in worth.items()}


def against_twin(rule, twin_of, rng, own_arguments, most_prompts=15, most_rounds=24):
    """Play a random run with both and compare the counts; return whether no decision was on the edge of rounding."""
    m, rounds, g = (
        int(rng.integers(1, most_prompts + 1)),
        int(rng.integers(1, most_rounds + 1)),
        int(rng.integers(1, 4)),
    )
    max_units = ceil(twin_of.fewest / g) + int(rng.integers(0, 6))
    kwargs = {
        "total_budget": int(rng.integers(1, rounds * m * max_units + 1)) * g, "n_rounds": rounds, "unit_size": g,
        "max_rollouts": max_units * g, "seed": int(rng.integers(2**31)), **own_arguments(rule, rng, m),
    }  # fmt: skip
    if rng.random() < 0.5:
        kwargs["rollouts_per_visit"] = int(rng.integers(ceil(twin_of.fewest / g), max_units + 1)) * g
    prior = (1.0, 1.0) if rng.random() < 0.5 else (rng.random(m) * 3 + 0.1, rng.random(m) * 3 + 0.1)
    bank = BetaPosteriorBank(m, prior=prior, forgetting=float(rng.choice([1.0, 0.7])))
    policy, twin = rule(bank, **kwargs), twin_of(m, kwargs, prior)
    twin.bank_keeps = bank.forgetting
    p = np.where(rng.random(m) < 0.5, rng.choice([0.0, 1.0], m), rng.random(m))
    late = []
    while not policy.ledger.finished:
        rows = rng.permutation(m)[: rng.integers(0, m + 1)] if rng.random() < 0.5 else np.arange(m)
        counts = policy.allocate(rows)
        expected = twin.deal(rows.tolist(), int(counts.sum()) // g)
        if twin.on_edge:
            return False
        assert [n // g for n in counts.tolist()] == [expected.get(row, 0) for row in rows.tolist()]
        twin.agree(policy.state_dict())
        reports, late = late, []
        for row, n in zip(rows.tolist(), counts.tolist(), strict=True):
            told = n - int(rng.integers(0, 2)) if n else int(rng.random() < 0.1)  # some foreign, some unscored
            report = (row, float(rng.binomial(2 * told, p[row])) / 2, told)  # rewards of 0, 1/2 and 1
            (reports if rng.random() < 0.9 else late).append(report)
        for row, won, n in reports:
            policy.update([row], [won], [n])
            twin.learn(row, won, n)
    return True
