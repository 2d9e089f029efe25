"""Every baseline with random arguments, in a random run."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank
from cero_alloc.baselines import (
    ARCUS,
    BOTS,
    CONTROLS,
    DAPO,
    DPS,
    DUET,
    KGPS,
    NGU,
    PEERS,
    SARA,
    VIGOR,
    VIP,
    AdaRFT,
    CurES,
    MaPP,
    MoPPS,
    NoPositiveResampling,
    PilotCommit,
    Preset,
    RandomMatched,
    ReinforceAda,
    SpeedRL,
)

EXAMPLES = 10
WAVES = tuple(rule for rule in PEERS if rule.kind == "waves")


@dataclass(frozen=True)
class Rule:
    """A class and, drawn from a generator for a pool's size, its own arguments."""

    cls: type
    least: int  # rollouts of a visited prompt
    arguments: object = lambda rng, m: {}
    takes_visit: bool = True  # has rollouts_per_visit
    room: int = 0  # rollouts that max_rollouts must hold at least


def references(rng, m):
    weak = rng.random(m) * 0.5
    return {"references": (weak, weak + rng.random(m) * 0.5), "reference_rate": float(rng.random())}


def two_stages(first, more, rng, m):
    return {first: int(rng.integers(1, 5)), more: int(rng.integers(1, 9))}


def solved(rng, m):
    return two_stages("pilot_rollouts", "commit_rollouts", rng, m) | {"solved": 0.9}


def ada(exit, rng, m):
    return {"exit": exit, "wave_rollouts": int(rng.integers(1, 5)), "max_waves": int(rng.integers(1, 5))}


def first_wave(rule, own, g, max_units):
    """Return the units that a round must hold for a rule of waves to begin at all, with this module's arguments."""
    if rule not in WAVES:
        return 0
    units = lambda name, default: -(-own.get(name, default) // g)  # noqa: E731
    if rule in (DAPO, NGU, SARA):
        published = max(-(-2 // g), min(max_units, 8 // g), 1)
        return own["rollouts_per_visit"] // g if "rollouts_per_visit" in own else published
    if rule is ReinforceAda:
        return min(units("wave_rollouts", 8), max_units)
    if rule is VIGOR:
        return min(units("first_rollouts", 2), max_units)
    if rule not in (SpeedRL, PilotCommit):
        return 0
    stages = ("screen_rollouts", "more_rollouts") if rule is SpeedRL else ("pilot_rollouts", "commit_rollouts")
    few, more = (units(name, None) for name in stages)
    return few + min(more, max_units - few)


# Arguments and room that a rule's tests need beyond the defaults; a class that is not listed needs none.
OWN = {
    VIP: {"least": 2},  # of its default estimator; the class holds no number
    MoPPS: {"arguments": lambda rng, m: {"forgetting": float(rng.choice([1.0, 0.5]))}},
    MaPP: {"arguments": lambda rng, m: {"forgetting": float(rng.choice([1.0, 0.5]))}},
    CurES: {"arguments": lambda rng, m: {"temperature": float(rng.choice([1.0, 0.01]))}},
    NGU: {"arguments": lambda rng, m: {"return_probability": float(rng.random()), "max_age": int(rng.integers(0, 5))}},
    SARA: {
        "arguments": lambda rng, m: {"probe_rollouts": int(rng.integers(2, 6)), "abandon": float(rng.random()) * 0.9}
    },
    DPS: {"arguments": lambda rng, m: {"forgetting": float(rng.random())}},
    KGPS: {"arguments": lambda rng, m: {"process_noise": float(rng.random())}},
    ARCUS: {"arguments": lambda rng, m: {"velocity": 0.1 * float(rng.random())}},
    NoPositiveResampling: {"arguments": lambda rng, m: {"review": int(rng.integers(1, 4))}},
    DAPO: {"arguments": lambda rng, m: {"reserve": float(rng.random())}},
    ReinforceAda: {"arguments": partial(ada, "balanced")},
    VIGOR: {"arguments": lambda rng, m: {"first_rollouts": int(rng.integers(1, 4))}},
    SpeedRL: {"arguments": partial(two_stages, "screen_rollouts", "more_rollouts"), "room": 5},
    PilotCommit: {"arguments": partial(two_stages, "pilot_rollouts", "commit_rollouts"), "room": 5},
}


def rule_of(cls, **changes):
    return Rule(cls, **{"least": cls.least_rollouts, "takes_visit": cls.takes_visits} | OWN.get(cls, {}) | changes)


RULES = {
    **{cls.__name__: rule_of(cls) for cls in (*CONTROLS, *PEERS, Preset, RandomMatched)},
    "VIP, Dr. GRPO": rule_of(VIP, least=3, arguments=lambda rng, m: {"estimator": "dr-grpo"}),
    "VIP, embeddings": rule_of(VIP, arguments=lambda rng, m: {"embeddings": rng.normal(size=(m, 2))}),
    "DUET, costs": rule_of(DUET, arguments=lambda rng, m: {"costs": rng.integers(1, 9, max(m, 2))[:m] * 50.0}),
    "BOTS, references": rule_of(BOTS, arguments=references),
    "AdaRFT, difficulties": rule_of(AdaRFT, arguments=lambda rng, m: {"difficulties": rng.random(m)}),
    "NoPositiveResampling, for good": rule_of(NoPositiveResampling, arguments=lambda rng, m: {"review": None}),
    "ReinforceAda, positive": rule_of(ReinforceAda, arguments=partial(ada, "positive")),
    "PilotCommit, solved": rule_of(PilotCommit, arguments=solved),
}


every_rule = pytest.mark.parametrize("name", RULES)


seeds = given(seed=st.integers(0, 2**32 - 1))


class World:
    """A random run: the policy's arguments, what is offered and rewarded; equal seeds give equal worlds."""

    def __init__(self, name, seed):
        rng = np.random.default_rng(seed)
        self.rule, self.rng = RULES[name], rng
        self.m, self.rounds, g = int(rng.integers(1, 14)), int(rng.integers(1, 9)), int(rng.integers(1, 5))
        m, least = self.m, max(self.rule.least, self.rule.room)
        max_units = -(-least // g) + int(rng.integers(1, 7))
        self.g, self.max_rollouts, self.most = g, max_units * g, m * max_units
        self.least = -(-self.rule.least // g) * g
        self.tokens = None
        self.own = self.rule.arguments(rng, m)
        if self.rule.takes_visit and not issubclass(self.rule.cls, Preset) and rng.random() < 0.5:
            first = max(1, -(-self.rule.least // g))
            self.own["rollouts_per_visit"] = int(rng.integers(first, max_units + 1)) * g
        start = first_wave(self.rule.cls, self.own, g, max_units)  # 0 where nothing is said of the first round
        cap = int(rng.integers(max(min(4, self.most), start), self.most + 1))
        if rng.random() < 0.2:
            cap = max(1, start)  # no unit to spare
        total = int(rng.integers(1, self.rounds * cap + 1))
        self.capacity = cap * g if rng.random() < 0.7 else None
        if issubclass(self.rule.cls, Preset):
            self.plan = rng.integers(0, max_units + 1, (self.rounds, m)) * (rng.random((self.rounds, m)) < 0.5) * g
            self.plan[0, 0] = g
            self.args, self.kwargs = (self.plan,), {"unit_size": g}
        else:
            self.args = ()
            self.kwargs = {
                "total_budget": total * g, "n_rounds": self.rounds, "unit_size": g, "max_rollouts": max_units * g,
                "round_capacity": self.capacity, "seed": int(rng.integers(2**31)), **self.own,
            }  # fmt: skip
            if "costs" in self.own:
                self.tokens = self.own["costs"]
                tokens = total * g * float(self.tokens.mean()) * 0.5
                self.kwargs["total_budget"] = max(tokens, g * float(self.tokens.max()))
                if self.capacity is not None:
                    self.capacity = self.kwargs["round_capacity"] = self.capacity * float(self.tokens.max())
        self.prior = (1.0, 1.0) if rng.random() < 0.5 else (rng.random(m) * 3 + 0.1, rng.random(m) * 3 + 0.1)
        self.forgetting = float(rng.choice([1.0, 0.5]))  # powers of two: sums in any order are equal to the last bit
        self.p = np.where(rng.random(m) < 0.4, rng.choice([0.0, 1.0], m), rng.random(m))
        self.fractional, self.unscored = rng.random() < 0.2, rng.random() < 0.3
        self.noise = int(rng.integers(2**31))
        self.offers = [self.offer() for _ in range(self.rounds + 2)]

    def offer(self):
        """Return rows on offer, None for all, and a cap or None."""
        rng = self.rng
        rows = None if rng.random() < 0.3 else rng.permutation(self.m)[: rng.integers(0, self.m + 1)]
        cap = None if rng.random() < 0.7 else int(rng.integers(0, self.most * self.g + 2))
        return rows, cap

    def new(self, ids=None):
        """Return a fresh policy."""
        bank = BetaPosteriorBank(self.m if ids is None else ids, prior=self.prior, forgetting=self.forgetting)
        return self.rule.cls(bank, *self.args, **self.kwargs)

    def rewards(self, k, wave, rows, counts):
        """Return how many of these rollouts are scored, and the sums of their rewards; whatever the rows' order."""
        rng = np.random.default_rng([self.noise, k, wave])
        drawn = rng.random((self.m, self.max_rollouts)) < self.p[:, None]
        worth = rng.choice([0.5, 1.0], drawn.shape) if self.fractional else np.ones(drawn.shape)
        lost = rng.integers(0, 3, self.m) if self.unscored else np.zeros(self.m, dtype=np.int64)
        n = np.maximum(counts - lost[rows], 0)
        taken = np.arange(self.max_rollouts) < n[:, None]
        return n, (drawn[rows] * worth[rows] * taken).sum(axis=1)

    def script(self, names=None, order=None, split=False):
        """Yield (method, arguments) one by one and take the answers: the run, whoever plays it.

        ``order`` shuffles each offer, ``split`` the feedback.
        """
        mess = np.random.default_rng(self.noise)
        for k, (rows, cap) in enumerate(self.offers):
            given_rows = np.arange(self.m) if rows is None else rows
            if order is not None:
                given_rows = order.permutation(given_rows)
            called = None if rows is None and order is None else self.called(given_rows, names)
            counts = yield "allocate", (called, cap), given_rows
            wave = 0
            while True:
                n, won = self.rewards(k, wave, given_rows, counts)
                reports = [(given_rows, n, won)]
                if split:
                    part = mess.integers(0, n + 1)
                    some = np.minimum(won, part) if not self.fractional else np.floor(np.minimum(won, part))
                    some = np.maximum(some, won - (n - part))
                    reports = [(given_rows, part, some), (given_rows, n - part, won - some)]
                    reports = [reports[i] for i in mess.permutation(2)]
                for told, rolled, gained in reports:
                    seen = mess.permutation(np.flatnonzero(rolled)) if split else np.flatnonzero(rolled)
                    yield "update", (self.called(told[seen], names), gained[seen], rolled[seen]), told[seen]
                if not (issubclass(self.rule.cls, WAVES) and counts.any()):
                    break
                counts = yield "continue_round", (n, won), given_rows
                wave += 1

    def called(self, rows, names):
        return rows.tolist() if names is None else [names[row] for row in rows]

    def play(self, policy, watch=None, **how):
        """Return the calls of a run with their answers by row; ``watch`` is called before each of them."""
        script, log, answer = self.script(**how), [], None
        while True:
            try:
                method, arguments, rows = script.send(answer)
            except StopIteration:
                return log
            if watch is not None:
                watch(len(log), policy)
            answer = getattr(policy, method)(*arguments)
            by_row = None
            if answer is not None:
                by_row = np.full(self.m, -1)
                by_row[rows] = answer
            log.append((method, arguments, by_row))


def snapshot(policy):
    return flat(policy.state_dict())


def flat(state, path=""):
    """Return a state as comparable leaves."""
    if isinstance(state, dict):
        return {leaf: value for key in state for leaf, value in flat(state[key], f"{path}/{key}").items()}
    if isinstance(state, (list, tuple)):
        return {leaf: value for i, part in enumerate(state) for leaf, value in flat(part, f"{path}/{i}").items()}
    return {path: (state.dtype.str, state.tolist()) if isinstance(state, np.ndarray) else state}


def feasible(total, world, size):
    """Return whether counts in {0} u [least, max] of ``size`` prompts can add up to a total, the slow way."""
    low, high = max(1, world.least // world.g), world.max_rollouts // world.g
    return any(k * low <= total <= k * high for k in range(size + 1))
