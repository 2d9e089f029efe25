"""What every baseline promises alike: caps, totals, order, splits of the feedback, and a state that carries a run on."""

import re
from dataclasses import dataclass
from functools import partial
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator
from cero_alloc.baselines import (
    BOTS,
    CONTROLS,
    DAPO,
    DUET,
    GRESO,
    GVM,
    HORA,
    PEERS,
    VIGOR,
    VIP,
    CoBARL,
    Greedy,
    KnapsackRL,
    MoPPS,
    Neyman,
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
    if rule is DAPO:
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
    "ReinforceAda, positive": rule_of(ReinforceAda, arguments=partial(ada, "positive")),
    "PilotCommit, solved": rule_of(PilotCommit, arguments=solved),
}
PACED = [name for name, rule in RULES.items() if not issubclass(rule.cls, (*WAVES, Preset)) and name != "DUET, costs"]
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


def answers(log):
    return [by_row.tolist() for _, _, by_row in log if by_row is not None]


def replay(log, policy, first=0):
    """Make the calls of a log again, from one of them on, and compare the answers."""
    for step, (method, arguments, by_row) in enumerate(log):
        if method == "allocate":
            rows = slice(None) if arguments[0] is None else arguments[0]  # continue_round keeps to them
        if step < first:
            continue
        answer = getattr(policy, method)(*arguments)
        if answer is not None:
            assert answer.tolist() == by_row[rows].tolist()


def snapshot(policy):
    return flat(policy.state_dict())


def flat(state, path=""):
    """Return a state as comparable leaves."""
    if isinstance(state, dict):
        return {leaf: value for key in state for leaf, value in flat(state[key], f"{path}/{key}").items()}
    if isinstance(state, (list, tuple)):
        return {leaf: value for i, part in enumerate(state) for leaf, value in flat(part, f"{path}/{i}").items()}
    return {path: (state.dtype.str, state.tolist()) if isinstance(state, np.ndarray) else state}


# ------------------------------------------------------------------ counts and totals


@every_rule
@settings(max_examples=2 * EXAMPLES)
@seeds
def test_counts_keep_to_the_caps(name, seed):
    world = World(name, seed)
    policy, spent = world.new(), 0.0
    cost = np.ones(world.m) if world.tokens is None else world.tokens
    budget = world.plan.sum() if issubclass(world.rule.cls, Preset) else world.kwargs["total_budget"]
    played, k = np.zeros(world.m, dtype=np.int64), -1

    def check_round():
        assert (played <= world.max_rollouts).all()
        cap = world.offers[k][1]
        most = min(inf if cap is None else cap, inf if world.capacity is None else world.capacity)
        if not issubclass(world.rule.cls, Preset):
            assert float(cost @ played) <= most + 1e-6

    log = world.play(policy)
    for method, _, by_row in log:
        if by_row is None:
            continue
        if method == "allocate":
            check_round() if k >= 0 else None
            played[:], k = 0, k + 1
        counts = np.maximum(by_row, 0)
        offered = world.offers[k][0]
        assert (by_row >= 0).sum() == (world.m if offered is None else offered.size)
        assert (counts % world.g == 0).all()
        first = (played == 0) & (counts > 0)
        assert (counts[first] >= min(world.least, world.max_rollouts)).all()
        played += counts
        spent += float(cost @ counts)
        assert spent <= budget + 1e-6
        if k >= world.rounds:
            assert not counts.any()
    check_round()
    assert policy.ledger.dealt == pytest.approx(spent, abs=1e-6)
    assert policy.remaining_budget == pytest.approx(budget - spent, abs=1e-6)


@pytest.mark.parametrize("name", [name for name in RULES if name != "FixedPacing"])
@seeds
@settings(max_examples=EXAMPLES)
def test_answers_are_new_arrays_of_int64(name, seed):
    world = World(name, seed)
    policy = world.new()
    counts = policy.allocate()
    assert counts.dtype == np.int64
    assert counts.shape == (world.m,)
    before = snapshot(policy)
    counts[:] = 77
    assert snapshot(policy) == before


def feasible(total, world, size):
    """Return whether counts in {0} u [least, max] of ``size`` prompts can add up to a total, the slow way."""
    low, high = max(1, world.least // world.g), world.max_rollouts // world.g
    return any(k * low <= total <= k * high for k in range(size + 1))


@pytest.mark.parametrize("name", PACED)
@seeds
@settings(max_examples=2 * EXAMPLES)
def test_totals_follow_the_uniform_schedule(name, seed):
    world = World(name, seed)
    policy, left = world.new(), world.kwargs["total_budget"] // world.g
    budget = left
    for k, (method, arguments, by_row) in enumerate(entry for entry in world.play(policy) if entry[0] == "allocate"):
        assert method == "allocate"
        size, cap = (by_row >= 0).sum(), arguments[1]
        due = 0
        if k < world.rounds:
            most = [size * world.max_rollouts // world.g, left, budget * (k + 1) // world.rounds - (budget - left)]
            most += [] if cap is None else [cap // world.g]
            most += [] if world.capacity is None else [world.capacity // world.g]
            due = max(0, min(most))
            while not feasible(due, world, size):
                due -= 1
        total = int(np.maximum(by_row, 0).sum()) // world.g
        assert total == due
        left -= total


@pytest.mark.parametrize("name", PACED)
@seeds
@settings(max_examples=2 * EXAMPLES)
def test_exact_totals_are_spent_or_refused_with_the_nearest(name, seed):
    world = World(name, seed)
    policy, g = world.new(), world.g
    for _ in range(world.rounds):
        rows = world.rng.permutation(world.m)[: world.rng.integers(0, world.m + 1)]
        most = min(rows.size * world.max_rollouts // g, policy.ledger.units_left)
        most = most if world.capacity is None else min(most, world.capacity // g)
        total, before = int(world.rng.integers(0, most + 1)), snapshot(policy)
        if feasible(total, world, rows.size):
            assert policy.allocate(rows, total * g, exact=True).sum() == total * g
            continue
        near = [t for t in range(most + 1) if feasible(t, world, rows.size)]
        below, above = max(t for t in near if t < total), [t for t in near if t > total][:1]
        match = rf"Nearest such totals: {', '.join(str(t * g) for t in [below, *above])}\.$"
        with pytest.raises(ValueError, match=match):
            policy.allocate(rows, total * g, exact=True)
        assert snapshot(policy) == before
        assert policy.allocate(rows, below * g, exact=True).sum() == below * g
    before = snapshot(policy)
    with pytest.raises(ValueError, match=r"budget must be at most \d+ with exact=True"):
        policy.allocate(budget=10**6 * g, exact=True)
    with pytest.raises(ValueError, match="budget must be given with exact=True"):
        policy.allocate(exact=True)
    if g > 1:
        with pytest.raises(ValueError, match=f"budget must be a multiple of unit_size = {g}"):
            policy.allocate(budget=g + 1, exact=True)
    assert snapshot(policy) == before


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if issubclass(rule.cls, WAVES)])
def test_waves_refuse_exact_totals(name):
    world = World(name, 0)
    policy = world.new()
    before = snapshot(policy)
    label = world.rule.cls.__name__
    with pytest.raises(
        ValueError, match=rf"^exact must be False for {label}, got exact = True\. Pass the total as a cap"
    ):
        policy.allocate(budget=world.g, exact=True)
    assert snapshot(policy) == before


@settings(max_examples=60)
@seeds
def test_tokens_stay_within_pace_and_caps_and_waste_little(seed):
    """What a round leaves of its limit is less than one more rollout of anybody on offer who may still have one."""
    world = World("DUET, costs", seed)
    if np.ptp(world.tokens) == 0.0 and world.m == 1:
        return
    total, rng = world.kwargs["total_budget"], np.random.default_rng(seed)
    world.capacity = None if rng.random() < 0.3 else total / world.rounds * float(rng.uniform(1.0 + 1e-9, 1.5))
    world.kwargs["round_capacity"] = world.capacity  # binds once caps have kept earlier rounds short
    caps = [
        None if rng.random() < 0.5 else float(rng.random() * 2.0 * total / world.rounds) for _ in range(world.rounds)
    ]
    world.offers = [(None, cap) for cap in caps]
    spent, k, cost = 0.0, 0, world.tokens * world.g
    for method, (_, cap, *_), by_row in world.play(world.new()):
        if method != "allocate":
            continue
        k += 1
        pace = (total - spent) / (world.rounds - k + 1)
        limit = min(pace, inf if cap is None else cap, inf if world.capacity is None else world.capacity)
        used = float(world.tokens @ by_row)
        assert used <= limit + 1e-6
        open_ones = by_row < world.max_rollouts
        if open_ones.any():
            assert limit - used < cost[open_ones].min() + 1e-6
        spent += used
    assert k == world.rounds


@seeds
def test_tokens_on_batches_stay_within_the_caps_of_each(seed):
    world = World("DUET, costs", seed)
    spent, k = 0.0, -1
    for method, (rows, *_), by_row in world.play(world.new()):
        if method != "allocate":
            continue
        k += 1
        cap, counts = world.offers[k][1], np.maximum(by_row, 0)
        used = float(world.tokens @ counts)
        spent += used
        offered = np.arange(world.m) if rows is None else np.array(rows, dtype=np.int64)
        assert not np.delete(counts, offered).any()
        assert used <= min(inf if cap is None else cap, inf if world.capacity is None else world.capacity) + 1e-6
        assert spent <= world.kwargs["total_budget"] + 1e-6


def token_run(**change):
    run = {"total_budget": 1000, "n_rounds": 10, "max_rollouts": 64, "costs": [1.0, 2.0]} | change
    return DUET(BetaPosteriorBank(2), **run)


def test_a_round_of_tokens_keeps_to_its_caps():
    policy = token_run(round_capacity=120)
    policy.allocate(budget=150)
    assert policy.ledger.dealt <= 120


def test_a_cap_in_tokens_does_not_lift_the_pace():
    policy = token_run()
    policy.allocate(budget=150)
    assert policy.ledger.dealt <= 100  # as everywhere: the schedule's 100, unless the cap is less


@pytest.mark.parametrize("capacity", [45.0, 60.0, 1000.0])
def test_a_round_capacity_in_tokens_caps_every_round(capacity):
    policy = token_run(round_capacity=max(capacity, 100.0), total_budget=400)
    policy.allocate()
    assert policy.ledger.dealt == 40  # the pace is less
    tight = token_run(round_capacity=capacity, total_budget=min(400, 10 * capacity))
    for k in range(1, 11):
        tight.allocate()
        assert tight.ledger.dealt <= k * min(40, capacity)
    assert tight.ledger.dealt > 10 * min(40, capacity) - 2


@pytest.mark.parametrize("costs", [None, 3.0, [1.0, 2.0]])
def test_nothing_on_offer_is_a_round_of_nothing(costs):
    policy = token_run(costs=costs, total_budget=300)
    for offer in ([], (), iter(())):
        counts = policy.allocate(offer)
        assert counts.dtype == np.int64
        assert counts.shape == (0,)
    assert policy.ledger.round == 3
    assert policy.remaining_budget == 300
    assert policy.allocate().any()


def test_a_dear_prompt_does_not_keep_the_others_waiting():
    """It costs more than a round has; the cheap ones beside it could fill the round's 40 tokens twice over."""
    policy = DUET(BetaPosteriorBank(12), costs=[1.0] * 11 + [97.0], total_budget=400, n_rounds=10, max_rollouts=8)
    for k in range(1, 11):
        counts = policy.allocate()
        assert counts[:11].sum() == 40
        assert counts[11] == 0
        assert policy.ledger.dealt == 40 * k


def test_a_prompt_passed_over_once_is_dealt_to_when_it_can_be_paid():
    """Rounds of 40 tokens never pay the 97; what caps left over does."""
    policy = DUET(BetaPosteriorBank(3), costs=[1.0, 1.0, 97.0], total_budget=400, n_rounds=10, max_rollouts=8)
    assert policy.allocate().tolist() == [8, 8, 0]
    for _ in range(8):
        policy.allocate(budget=0)
    assert policy.remaining_budget == 384
    assert policy.allocate().tolist() == [8, 8, 3]  # 3 x 97 + 16 of 384


# ------------------------------------------------------------------ DUET with one cost for all


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), cost=st.sampled_from([3.0, 250.0, 0.5, 1.0]))
def test_one_cost_for_all_is_a_run_in_rollouts(seed, cost):
    """The same counts round by round, batches, caps, capacity, exact totals and all; the account is in tokens."""
    world = World("DUET", seed)
    kwargs = world.kwargs | {"total_budget": world.kwargs["total_budget"] * cost}
    if world.capacity is not None:
        kwargs["round_capacity"] = world.capacity * cost
    plain, priced = (
        world.new(),
        DUET(BetaPosteriorBank(world.m, prior=world.prior, forgetting=world.forgetting), costs=cost, **kwargs),
    )
    assert priced.ledger.costs.unit_costs is None
    for k, (rows, cap) in enumerate(world.offers):
        size = world.m if rows is None else rows.size
        most = min(size * world.max_rollouts, plain.ledger.units_left * world.g, world.capacity or 10**9) // world.g
        exact = k % 3 == 2 and not plain.ledger.finished
        if exact:
            cap = int(world.rng.integers(0, most + 1)) * world.g
            while not feasible(cap // world.g, world, size):
                cap -= world.g
        counts = plain.allocate(rows, cap, exact=exact)
        theirs = priced.allocate(rows, None if cap is None else cap * cost, exact=exact)
        assert theirs.tolist() == counts.tolist()
        assert not exact or counts.sum() == cap
        assert priced.remaining_budget == plain.remaining_budget * cost
        assert priced.ledger.dealt == plain.ledger.dealt * cost
        named = np.arange(world.m) if rows is None else rows
        n, won = world.rewards(k, 0, named, counts)
        for policy in (plain, priced):
            policy.update(named, won, n)
        if k == 1:
            back = counts // world.g // 2 * world.g * (n == 0)
            for policy in (plain, priced):
                policy.refund(named, back)


def test_exact_totals_of_one_cost_are_in_tokens():
    policy = token_run(costs=3.0, unit_size=2, total_budget=960, max_rollouts=16)
    for total, why in [
        (7, "a multiple of 6 tokens up to 96"), (3, "a multiple of 6 tokens up to 96"), (102, "a multiple of 6 tokens up to 96"),
    ]:  # fmt: skip
        match = (
            rf"budget must be {why} with exact=True, got budget = {total}\.0\. Pass it as a cap, without exact=True\."
        )
        with pytest.raises(ValueError, match=match):
            policy.allocate(budget=total, exact=True)
    with pytest.raises(ValueError, match="budget must be given with exact=True, got budget = None"):
        policy.allocate(exact=True)
    assert policy.ledger.round == 0
    assert policy.allocate(budget=66, exact=True).sum() == 22
    assert policy.remaining_budget == 960 - 66
    assert policy.allocate(budget=65).sum() == 20  # a cap is rounded down to whole groups
    assert policy.allocate(budget=5).sum() == 0
    assert policy.remaining_budget == 960 - 66 - 60


def test_caps_of_one_cost_do_not_lift_the_pace():
    policy = token_run(costs=2.0, total_budget=200)
    assert policy.allocate(budget=200).sum() * 2 == 20
    assert policy.allocate(budget=8).sum() * 2 == 8
    assert policy.allocate().sum() * 2 == 32  # the schedule's 60 after three rounds
    capped = token_run(costs=2.0, total_budget=200, round_capacity=21)
    assert [int(capped.allocate(budget=100).sum()) for _ in range(10)] == [10] * 10


@pytest.mark.parametrize("costs", [3.0, [1.0, 2.0]])
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"n_rounds": 0}, ValueError, r"n_rounds must be at least 1, got n_rounds = 0\."),
        ({"n_rounds": 2.5}, TypeError, r"n_rounds must be an integer, got n_rounds = 2\.5"),
        ({"n_rounds": None}, TypeError, r"n_rounds must be an integer, got n_rounds = None"),
        ({"unit_size": 0}, ValueError, r"unit_size must be at least 1, got unit_size = 0\."),
        ({"unit_size": True}, TypeError, r"unit_size must be an integer, got unit_size = True"),
        ({"unit_size": 3}, ValueError, r"max_rollouts must be a multiple of unit_size = 3, got max_rollouts = 64"),
        ({"max_rollouts": 0}, ValueError, "max_rollouts must be at least 1"),
        ({"round_capacity": -5.0}, ValueError, r"round_capacity must be finite and at least 0, got round_capacity = -5\.0"),
        ({"round_capacity": "x"}, TypeError, r"round_capacity must be finite and at least 0, got round_capacity = 'x'"),
        ({"round_capacity": inf}, ValueError, r"round_capacity must be finite and at least 0, got round_capacity = inf"),
    ],
)  # fmt: skip
def test_token_runs_check_what_all_runs_check(costs, change, error, match):
    with pytest.raises(error, match=match):
        token_run(costs=costs, total_budget=100, **change)


def test_tokens_of_one_cost_must_pay_for_a_group():
    for change, name in [
        ({"total_budget": 5}, "total_budget"),
        ({"round_capacity": 5, "total_budget": 50}, "round_capacity"),
    ]:
        match = rf"{name} must pay for a unit of 6 tokens, got {name} = 5\.0?"
        with pytest.raises(ValueError, match=match):
            token_run(costs=3.0, unit_size=2, **change)


def test_totals_in_tokens_are_caps():
    policy = token_run()
    match = (
        r"budget must be a cap where the costs differ, not a total with exact=True, got budget = 10\. Pass it as a cap"
    )
    with pytest.raises(ValueError, match=match):
        policy.allocate(budget=10, exact=True)
    assert policy.ledger.round == 0


@pytest.mark.parametrize("size", [2.5, "2"])
def test_group_sizes_are_integers_with_and_without_costs(size):
    for costs in (None, [1.0, 2.0]):
        with pytest.raises(TypeError, match="unit_size must be an integer"):
            token_run(unit_size=size, costs=costs, total_budget=100)


# ------------------------------------------------------------------ ids and order


@every_rule
def test_bad_offers_change_nothing(name):
    world = World(name, 3)
    policy = world.new([f"p{i}" for i in range(world.m)])
    policy.allocate()
    before = snapshot(policy)
    with pytest.raises(ValueError, match=r"prompt_ids must not repeat an id, got prompt_ids\[1\] = 'p0'"):
        policy.allocate(["p0", "p0"])
    with pytest.raises(KeyError, match="prompt_ids must be in the bank, unknown: 'q'"):
        policy.allocate(["p0", "q"])
    with pytest.raises(TypeError, match="prompt_ids must be a collection of ids"):
        policy.allocate("p0")
    with pytest.raises(ValueError, match="budget must be "):
        policy.allocate(budget=-1)
    with pytest.raises((TypeError, ValueError), match="budget must be "):
        policy.allocate(budget="many")
    with pytest.raises(ValueError, match=r"successes must not exceed rollouts\[0\] = 1"):
        policy.update(["p0"], [2], [1])
    with pytest.raises(ValueError, match="successes must be finite"):
        policy.update(["p0"], [np.nan], [1])
    with pytest.raises(KeyError, match="unknown: 'q'"):
        policy.update(["q"], [1], [1])
    with pytest.raises(ValueError, match="rollouts must be a multiple of"):
        policy.refund(["p0"], [10**6])
    assert snapshot(policy) == before


@every_rule
@settings(max_examples=2 * EXAMPLES)
@seeds
def test_the_order_of_the_ids_does_not_matter(name, seed):
    world = World(name, seed)
    plain = answers(world.play(world.new()))
    shuffled = answers(world.play(world.new(), order=np.random.default_rng(seed)))
    assert shuffled == plain
    names = [f"prompt {i}" for i in np.random.default_rng(seed).permutation(world.m)]
    named = answers(world.play(world.new(names), names=names, order=np.random.default_rng(seed + 1)))
    assert named == plain


@every_rule
@settings(max_examples=EXAMPLES)
@seeds
def test_feedback_in_any_split_and_order(name, seed):
    world = World(name, seed)
    assert answers(world.play(world.new(), split=True)) == answers(world.play(world.new()))


# ------------------------------------------------------------------ state


@every_rule
@settings(max_examples=EXAMPLES)
@seeds
def test_a_loaded_state_carries_the_run_on(name, seed):
    world = World(name, seed)
    untouched = world.play(world.new())
    moment = int(np.random.default_rng(seed).integers(len(untouched)))
    taken = []

    def take(step, policy):
        if step == moment:
            state = policy.state_dict()
            twin = world.new()
            twin.load_state_dict(state)
            assert snapshot(twin) == flat(state)
            replay(untouched, twin, moment)  # before the original goes on: nothing may be shared
            taken.append((state, flat(state)))

    original = world.new()
    assert answers(world.play(original, watch=take)) == answers(untouched)
    (state, leaves), other = taken[0], world.new()
    assert flat(state) == leaves  # neither run wrote into it
    other.load_state_dict(state)
    replay(untouched, other, moment)
    assert snapshot(other) == snapshot(original)


@every_rule
@settings(max_examples=EXAMPLES)
@seeds
def test_a_policy_can_be_put_back(name, seed):
    world = World(name, seed)
    policy, states = world.new(), []
    log = world.play(policy, watch=lambda step, policy: states.append(policy.state_dict()))
    for moment in {0, int(np.random.default_rng(seed).integers(len(log)))}:
        policy.load_state_dict(states[moment])
        assert snapshot(policy) == flat(states[moment])
        replay(log, policy, moment)


REMEDY = r" Load it into an object that was built with the same arguments\.$"


def rebuilt(world, m=None, **change):
    """A policy of the world's rule over a pool of its own or of m prompts, with other arguments of the run."""
    kwargs = world.kwargs | change
    bank = BetaPosteriorBank(world.m if m is None else m)
    if m is None or not world.args:
        for name in ("costs", "references", "embeddings") if m is not None else ():
            kwargs.pop(name, None)
        return world.rule.cls(bank, *world.args, **kwargs)
    return world.rule.cls(bank, np.hstack([world.plan, world.plan[:, :1]]), **kwargs)


@every_rule
def test_states_that_do_not_fit_change_nothing(name):
    world = World(name, 5)
    world.play(policy := world.new())
    world.play(donor := world.new())
    before = snapshot(policy)

    def refused(state, match, error=ValueError):
        with pytest.raises(error, match=match):
            policy.load_state_dict(state)
        assert snapshot(policy) == before

    label = world.rule.cls.__name__
    head = "^state"
    for nothing in (None, 7, "state", [1]):
        must = re.escape(f"state must be the dict that {label}.state_dict returned, got state = {nothing!r}.")
        refused(nothing, f"^{must}{REMEDY}", TypeError)
    for entry in donor.state_dict():
        state = donor.state_dict()
        del state[entry]
        if entry == "class":
            refused(state, rf"^state\['class'\] must be '{label}', got state\['class'\] = None\.{REMEDY}")
        else:
            refused(state, rf"^state must hold the entries of a {label}, missing or foreign: \['{entry}'\]\.{REMEDY}")
    must = rf"^state must hold the entries of a {label}, missing or foreign: \['stranger'\]\.{REMEDY}"
    refused(donor.state_dict() | {"stranger": 1}, must)
    ids = head + r"\['bank'\]\['prompt_ids'\] must equal that of this BetaPosteriorBank, got "
    renamed = world.new([f"p{i}" for i in range(world.m)])
    refused(renamed.state_dict(), ids + r"'p0' instead of 0 at 0\." + REMEDY)
    small = {} if world.args else {"total_budget": world.g, "round_capacity": None}
    larger = rebuilt(world, world.m + 1, **small)
    refused(larger.state_dict(), rf"{ids}{world.m + 1} entries instead of {world.m}\.{REMEDY}")
    run = {"total_budget": 8, "n_rounds": 2, "max_rollouts": 32}
    for stranger in (*CONTROLS, *PEERS, FenchelDualAllocator, ResolvingAllocator):
        if stranger is not world.rule.cls:
            other = stranger(BetaPosteriorBank(world.m), **run).state_dict()
            must = rf"^state\['class'\] must be '{label}', got state\['class'\] = '{stranger.__name__}'\.{REMEDY}"
            refused(other, must)


@every_rule
def test_states_of_another_horizon_are_refused_with_the_first_difference(name):
    world = World(name, 5)
    world.play(policy := world.new())
    before, ours = snapshot(policy), policy.horizon
    head = "^state"
    if world.args:
        longer = world.rule.cls(BetaPosteriorBank(world.m), np.vstack([world.plan, world.plan[:1]]), unit_size=world.g)
        others = {"n_rounds": longer}
    else:
        others = {
            "n_rounds": rebuilt(world, n_rounds=world.rounds + 1),
            "total_budget": rebuilt(
                world, total_budget=policy.ledger.total / 2 if world.tokens is not None else world.g
            ),
            "max_rollouts": rebuilt(world, max_rollouts=ours.max_rollouts + world.g),
        }
    for field, other in others.items():
        theirs = getattr(other.horizon, field)
        if theirs == getattr(ours, field):
            assert field == "total_budget"
            continue
        must = rf"\['ledger'\]\['horizon'\] must equal that of this RolloutLedger, got {theirs} instead of "
        with pytest.raises(ValueError, match=rf"{head}{must}{getattr(ours, field)} at '{field}'\.{REMEDY}"):
            policy.load_state_dict(other.state_dict())
        assert snapshot(policy) == before


def test_a_state_is_checked_whole_before_any_of_it_is_put_back():
    world = World("GRESO", 5)
    world.play(policy := world.new())
    before = snapshot(policy)
    for entry in ("bank", "ledger", "rng", "tie", "visits", "tally", "runs", "keep"):
        for nonsense in ("nonsense", None, 7, {}):
            with pytest.raises((TypeError, ValueError)):
                policy.load_state_dict(world.new().state_dict() | {entry: nonsense})
            assert snapshot(policy) == before, (entry, nonsense)


def test_other_arguments_with_other_parts_are_refused():
    plain, features = (
        VIP(BetaPosteriorBank(3), embeddings=x, total_budget=9, n_rounds=3, max_rollouts=3) for x in (None, np.eye(3))
    )
    before = snapshot(plain), snapshot(features)
    must = r"^state\['process'\] must be a NoneType, got state\['process'\] = 'dict'\." + REMEDY
    with pytest.raises(ValueError, match=must):
        plain.load_state_dict(features.state_dict())
    must = r"^state\['process'\] must be the dict that GaussianProcess\.state_dict returned, got .* = None\." + REMEDY
    with pytest.raises(TypeError, match=must):
        features.load_state_dict(plain.state_dict())
    assert (snapshot(plain), snapshot(features)) == before


# ------------------------------------------------------------------ the rest of the house's methods


@every_rule
def test_nothing_happens_after_the_horizon(name):
    world = World(name, 8)
    policy = world.new()
    world.play(policy)
    while not policy.ledger.finished:
        policy.allocate()
    if policy.ledger.rounds_left:
        return  # spent before its time
    if issubclass(world.rule.cls, WAVES):
        policy.allocate()  # closes what the last round left open
    before = snapshot(policy)
    for offer in ((), (None, 10**6), ([0],), ([],)):
        assert not policy.allocate(*offer).any()
    assert snapshot(policy) == before


@every_rule
@settings(max_examples=EXAMPLES)
@seeds
def test_refunds_return_to_the_budget(name, seed):
    world = World(name, seed)
    policy = world.new()
    counts = policy.allocate()
    while policy.remaining_budget and policy.ledger.rounds_left and not counts.any():
        counts = policy.allocate()
    left, exposure = policy.remaining_budget, policy.ledger.exposure_units.copy()
    back = world.rng.integers(0, counts // world.g + 1) * world.g
    policy.refund(None, back)
    cost = np.ones(world.m) if world.tokens is None else world.tokens
    assert policy.remaining_budget == pytest.approx(left + float(cost @ back))
    assert (policy.ledger.exposure_units == exposure - back // world.g).all()
    assert (policy.ledger.outstanding == counts - back).all()
    with pytest.raises(ValueError, match="rollouts must be a multiple of"):
        policy.refund([0], [int(counts[0] - back[0]) + world.g])


@pytest.mark.parametrize("name", PACED)
def test_refunded_rollouts_are_dealt_again(name):
    world = World(name, 11)
    world.kwargs |= {"total_budget": 4 * world.max_rollouts, "n_rounds": 8, "round_capacity": None}
    policy = world.new()
    for k in range(8):
        counts = policy.allocate()
        if k % 2 == 0:
            policy.refund(None, counts)
    # Whole blocks may stay; what comes back in round 7 of 8 can still be spent in round 8.
    assert policy.remaining_budget <= max(0, world.max_rollouts * (4 - world.m), world.least)


@every_rule
@settings(max_examples=5)
@seeds
def test_metrics_are_finite(name, seed):
    world = World(name, seed)
    policy = world.new()
    for certificate in (True, False):
        start = policy.metrics(certificate=certificate)
        odd = {key for key, value in start.items() if not np.isfinite(value)}
        assert odd <= {
            "calibration_bias", "calibration_running_bias", "calibration_error", "mixed_group_rate"
        }  # fmt: skip
        assert ("certificate_regret" in start) is certificate
        assert not {"price", "batch_price", "starved"} & set(start)
    world.play(policy)
    policy.update([0], [1], [2])
    metrics = policy.metrics()
    assert set(metrics) == set(policy.metrics(certificate=False)) | {key for key in start if "cert" in key} | {
        "certificate_achieved", "certificate_optimum", "certificate_gap", "certificate_regret"
    }  # fmt: skip
    assert all(type(value) is float and np.isfinite(value) for value in metrics.values()), metrics
    assert metrics["spent_budget"] + metrics["reserved_budget"] + metrics["remaining_budget"] == pytest.approx(
        policy.ledger.total
    )
    assert (
        -1e-9 <= metrics["certificate_achieved"] <= metrics["certificate_optimum"] + metrics["certificate_gap"] + 1e-9
    )


@pytest.mark.parametrize("rule", [*CONTROLS, *PEERS])
def test_shared_arguments_are_checked(rule):
    run = {"total_budget": 64, "n_rounds": 4, "max_rollouts": 32}
    for change, error, match in [
        ({"total_budget": 0}, ValueError, "total_budget must be at least 1"),
        ({"total_budget": 10**6}, ValueError, "total_budget must be spendable in 4 rounds"),
        ({"n_rounds": 0}, ValueError, "n_rounds must be at least 1"),
        ({"n_rounds": 2.5}, TypeError, "n_rounds must be an integer"),
        ({"unit_size": 3}, ValueError, "must be a multiple of unit_size = 3"),
        ({"max_rollouts": 0}, ValueError, "max_rollouts must be at least 1"),
        ({"round_capacity": 0}, ValueError, "round_capacity must be at least 1"),
    ]:
        with pytest.raises(error, match=match):
            rule(BetaPosteriorBank(3), **run | change)
    with pytest.raises(TypeError, match="total_budget"):
        rule(BetaPosteriorBank(3), n_rounds=2, max_rollouts=32)
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'max_rollouts'"):
        rule(BetaPosteriorBank(3), n_rounds=2, total_budget=32)
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'n_rounds'"):
        rule(BetaPosteriorBank(3), total_budget=32, max_rollouts=32)


@pytest.mark.parametrize(
    ("rule", "own"),
    [(KnapsackRL, {}), (VIP, {"estimator": "dr-grpo"}), (CoBARL, {}), (HORA, {}), (Neyman, {}), (MoPPS, {}), (GRESO, {}),
     (BOTS, {}), (DAPO, {})],
)  # fmt: skip
def test_max_rollouts_hold_the_least_count(rule, own):
    least = 3 if own else 2
    match = rf"max_rollouts must hold the {least} rollouts that {rule.__name__} gives at least, got max_rollouts = 1\."
    with pytest.raises(ValueError, match=match):
        rule(BetaPosteriorBank(3), total_budget=3, n_rounds=4, max_rollouts=1, **own)
    with pytest.raises(ValueError, match=rf"rollouts_per_visit must be at least {least}, got rollouts_per_visit = 1"):
        rule(BetaPosteriorBank(3), total_budget=3, n_rounds=4, max_rollouts=4, rollouts_per_visit=1, **own)
    rule(BetaPosteriorBank(3), total_budget=4, n_rounds=4, unit_size=4, max_rollouts=4, **own)


@pytest.mark.parametrize("rule", [Greedy, ReinforceAda, VIGOR, SpeedRL, PilotCommit])
def test_rules_without_a_visit_refuse_its_size(rule):
    with pytest.raises(TypeError, match=f"{rule.__name__} must not be given rollouts_per_visit, got 8. Leave it out"):
        rule(BetaPosteriorBank(3), total_budget=30, n_rounds=1, max_rollouts=40, rollouts_per_visit=8)


@pytest.mark.parametrize("rule", [KnapsackRL, VIP, CoBARL, HORA, Neyman, GVM, DUET])
def test_a_huge_cap_costs_nothing(rule):
    # No prompt can get more than the others' least leaves, so the cap must neither matter nor fill the memory.
    rng = np.random.default_rng(0)
    won = rng.integers(1, 16, 20)
    counts = []
    for most in (160, 10**6):
        bank = BetaPosteriorBank(20)
        bank.update(None, won, np.full(20, 16))
        counts.append(rule(bank, total_budget=160, n_rounds=1, max_rollouts=most, rollouts_per_visit=8).allocate())
    assert counts[0].tolist() == counts[1].tolist()
    assert counts[0].sum() == 160
