"""Any history of calls, good and bad, against a ledger kept by hand; every object has a twin that is never reloaded."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator, checkpoint
from cero_alloc.baselines import DAPO, GRESO, MoPPS, SpeedRL, Uniform
from helpers.scale import scaled
from helpers.trees import leaves

seeds = st.integers(0, 2**32 - 1)

# Name: class, and the arguments that the kind of run adds, given a generator, the pool and the rounds.
KINDS = {
    "whole pool": (FenchelDualAllocator, lambda rng, m, k: {}),
    "whole pool, catching up": (FenchelDualAllocator, lambda rng, m, k: {"catch_up": True, "fit_every": 3}),
    "batches": (FenchelDualAllocator, lambda rng, m, k: {"visits": rng.integers(1, k + 1, m)}),
    "rounds": (ResolvingAllocator, lambda rng, m, k: {}),
    "visits": (ResolvingAllocator, lambda rng, m, k: {"visits": rng.integers(1, k + 1, m), "n_rounds": None}),
    "both": (ResolvingAllocator, lambda rng, m, k: {"visits": 4 if k > 3 else 1, "exploration": 0.5}),
    "spread": (ResolvingAllocator, lambda rng, m, k: {"visits": k, "order": "spread", "coverage": 1000}),
    "groups": (ResolvingAllocator, lambda rng, m, k: {"signal": "group", "min_rollouts": 2}),
    "one cost": (ResolvingAllocator, lambda rng, m, k: {"costs": 2.5}),
    "costs": (ResolvingAllocator, lambda rng, m, k: {"costs": rng.integers(1, 9, m) * 0.5}),
    "uniform": (Uniform, lambda rng, m, k: {}),
    "MoPPS": (MoPPS, lambda rng, m, k: {}),
    "GRESO": (GRESO, lambda rng, m, k: {}),
    "DAPO": (DAPO, lambda rng, m, k: {}),
    "SPEED-RL": (SpeedRL, lambda rng, m, k: {}),
}
OURS = (FenchelDualAllocator, ResolvingAllocator)
NAN, INF = float("nan"), float("inf")

# Calls that must be refused, whatever has happened: what they may raise, and the call.
REFUSED = {
    "an unknown id": (KeyError, lambda a: a.allocate(["unknown"])),
    "a bare string": (TypeError, lambda a: a.allocate("unknown")),
    "a negative budget": (ValueError, lambda a: a.allocate(budget=-1)),
    "a budget that is no number": (TypeError, lambda a: a.allocate(budget="8")),
    "more than there is": (ValueError, lambda a: a.allocate(budget=10**9 * a.horizon.unit_size, exact=True)),
    "more successes than rollouts": (ValueError, lambda a: a.update(a.bank.prompt_ids[:1], [3], [2])),
    "no number": (ValueError, lambda a: a.update(a.bank.prompt_ids[:1], [NAN], [2])),
    "rollouts below zero": (ValueError, lambda a: a.update(a.bank.prompt_ids[:1], [0], [-2])),
    "half a rollout": (ValueError, lambda a: a.update(a.bank.prompt_ids[:1], [0], [0.5])),
    "an id twice": (ValueError, lambda a: a.update([a.bank.prompt_ids[0]] * 2, [0, 0], [1, 1])),
    "a list too short": (ValueError, lambda a: a.update(a.bank.prompt_ids[:1], [0, 0], [1])),
    "a round to come": (ValueError, lambda a: a.update(a.bank.prompt_ids[:1], [0], [1], round=a.round + 1)),
    "round 0": (ValueError, lambda a: a.refund(a.bank.prompt_ids[:1], [0], round=0)),
    "a delivery that is no name": (TypeError, lambda a: a.update(a.bank.prompt_ids[:1], [0], [1], delivery_id=0.5)),
    "a refund of what is not out": (ValueError, lambda a: a.refund(None, a.outstanding + a.horizon.unit_size)),
    "a refund below zero": (ValueError, lambda a: a.refund(a.bank.prompt_ids[:1], [-1])),
    "to write off what is not out": (ValueError, lambda a: a.write_off(None, a.outstanding + 1)),
    "an age below zero": (ValueError, lambda a: a.expire(-1)),
    "an age that is no number": (TypeError, lambda a: a.expire(0.5)),
    "to take away what is dealt": (ValueError, lambda a: a.extend_budget(-10**9 * a.horizon.unit_size)),
    "rounds below zero": (ValueError, lambda a: a.extend_budget(rounds=-1)),
    "to add what no round can spend": (ValueError, lambda a: a.extend_budget(10**12 * a.horizon.unit_size)),
    "to add a known prompt": (ValueError, lambda a: a.bank.add_prompts([a.bank.prompt_ids[0]])),
    "to retire an unknown prompt": (KeyError, lambda a: a.bank.retire(["unknown"])),
    "to keep too much": (ValueError, lambda a: a.bank.revive(a.bank.prompt_ids[:1], keep=1.5)),
    "to merge a bank with itself": (ValueError, lambda a: a.bank.merge(a.bank)),
    "to merge another forgetting": (ValueError, lambda a: a.bank.merge(BetaPosteriorBank(2, forgetting=0.123))),
    "nothing to load": (TypeError, lambda a: a.load_state_dict(None)),
    "a strange state": (ValueError, lambda a: a.load_state_dict({"class": "Stranger"})),
    "half a state": (ValueError, lambda a: a.load_state_dict(dict(list(a.state_dict().items())[:-1]))),
    "a broken ledger": (ValueError, lambda a: a.load_state_dict(broken(a.state_dict()))),
}  # fmt: skip


def broken(state):
    """Return a state whose reservations do not add up."""
    ledger = state["ledger"]
    ledger["accounts"][0, 1] += 1
    return state


class Run(RuleBasedStateMachine):
    """One allocator, its twin, and what the ledger must say: rollouts outstanding by round and prompt."""

    @initialize(kind=st.sampled_from(list(KINDS)), seed=seeds)
    def begin(self, kind, seed):
        rng = np.random.default_rng(seed)
        self.cls, more = KINDS[kind]
        m, k, self.g = int(rng.integers(1, 7)), int(rng.integers(1, 9)), int(rng.choice([1, 1, 2, 4]))
        most = 8 * self.g if self.cls in OURS else 16 * self.g
        arguments = {"n_rounds": k, **more(rng, m, k), "unit_size": self.g, "max_rollouts": most, "seed": 3}
        if kind == "groups":
            arguments["min_rollouts"] = 2 * self.g
        if arguments["n_rounds"] is None:
            del arguments["n_rounds"]
        self.cost = arguments.get("costs")
        offers = np.broadcast_to(arguments.get("visits", k), m)
        share = float(rng.uniform(0.1, 0.9))
        if self.cost is None:
            total = max(self.g, int(share * offers.sum() * most) // self.g * self.g)
        else:
            total = max(float(np.max(self.cost)) * self.g, share * float((offers * self.cost).sum()) * most)
        self.ids = list(range(m)) if rng.random() < 0.5 else [f"p{i}" for i in range(m)]
        self.forgetting = float(rng.choice([1.0, 0.9]))
        self.new = lambda: self.cls(
            BetaPosteriorBank(m if self.ids[0] == 0 else [f"p{i}" for i in range(m)], forgetting=self.forgetting),
            total_budget=total,
            **arguments,
        )
        self.ours, self.twin = self.new(), self.new()
        self.out = {}  # round -> id -> rollouts outstanding
        self.exposure = dict.fromkeys(self.ids, 0)
        self.retired = set()
        self.evidence = {name: np.zeros(2) for name in self.ids}
        self.told, self.beyond, self.repeated = [], 0, 0
        self.wave = None  # ids and counts of the last wave, where there may be another
        self.dice, self.steps = rng, 0

    # ------------------------------------------------------------ the ledger by hand

    def both(self, call):
        """Make a call on either object, and return what the first says."""
        first, second = call(self.ours), call(self.twin)
        if isinstance(first, np.ndarray):
            assert first.tolist() == second.tolist()
        else:
            assert first == second
        return first

    def some(self, rng, names=None):
        names = self.ids if names is None else names
        return [names[i] for i in rng.permutation(len(names))[: rng.integers(0, len(names) + 1)]]

    def lend(self, names, counts, number):
        for name, n in zip(names, counts.tolist(), strict=True):
            assert n % self.g == 0
            assert n >= 0
            if n:
                assert name not in self.retired
                owed = self.out.setdefault(number, {})
                owed[name] = owed.get(name, 0) + n
                self.exposure[name] += n

    def settle(self, name, n, number=None):
        """Take rollouts off a round, or the oldest first; return how many there were."""
        before = n
        for round_ in sorted(self.out) if number is None else [number]:
            owed = self.out.get(round_, {})
            part = min(n, owed.get(name, 0))
            if part:
                owed[name] -= part
                n -= part
        return before - n

    def owed(self, name, number=None):
        rounds = self.out if number is None else [number]
        return sum(self.out.get(round_, {}).get(name, 0) for round_ in rounds)

    def age(self, rounds=1):
        for pair in self.evidence.values():
            pair *= self.forgetting**rounds

    # ------------------------------------------------------------ what may happen

    @rule(seed=seeds, exact=st.booleans(), whole=st.booleans())
    def allocate(self, seed, exact, whole):
        rng = np.random.default_rng(seed)
        names = None if whole else self.some(rng)
        budget = None if rng.random() < 0.5 else int(rng.integers(0, 40)) * self.g
        if self.cost is not None or budget is None or not isinstance(self.ours, OURS):
            exact = False
        before, opened, left = self.ours.bank.evidence.now, self.ours.round, self.ours.balance.left
        try:
            counts = self.both(lambda a: a.allocate(names, budget, exact=exact))
        except ValueError as error:
            assert exact
            assert "exact=True" in str(error)  # noqa: PT017
            return
        self.age(self.ours.bank.evidence.now - before)
        names = self.ids if names is None else names
        assert counts.dtype == np.int64
        assert counts.shape == (len(names),)
        assert counts.max(initial=0) <= self.ours.horizon.max_rollouts
        price = np.array([self.price(name) for name in names])
        assert float((counts * price).sum()) <= left * (1 + 1e-12)
        if budget is not None:
            assert float((counts * price).sum()) <= budget * (1 + 1e-12)
        if exact:
            assert counts.sum() == (budget if self.ours.round > opened else 0)
        self.lend(names, counts, self.ours.round)
        self.wave = (names, counts) if counts.any() and hasattr(self.ours, "continue_round") else None

    @precondition(lambda self: self.wave is not None)
    @rule(seed=seeds)
    def continue_round(self, seed):
        names, counts = self.wave
        rng = np.random.default_rng(seed)
        won = rng.integers(0, counts + 1)
        more = self.both(lambda a: a.continue_round(counts, won))
        self.lend(names, more, self.ours.round)
        self.wave = (names, more) if more.any() else None

    @rule(seed=seeds, named=st.booleans(), told=st.booleans())
    def update(self, seed, named, told):
        rng = np.random.default_rng(seed)
        names = self.some(rng)
        n = rng.integers(0, 6, len(names))
        won = rng.integers(0, n + 1)
        number = int(rng.integers(1, self.ours.round + 1)) if named and self.ours.round else None
        name = f"delivery {len(self.told)}" if rng.random() < 0.5 else len(self.told)
        delivery = {"delivery_id": name} if told else {}
        self.both(lambda a: a.update(names, won, n, round=number, **delivery))
        if told:
            self.told.append((names, won, n, number, name))
        for key, s, m in zip(names, won, n, strict=True):
            self.evidence[key] += (s, m - s)
            self.beyond += int(m) - self.settle(key, int(m), number)

    @precondition(lambda self: self.told)
    @rule(seed=seeds)
    def repeat(self, seed):
        """The same delivery again, its prompts in another order."""
        rng = np.random.default_rng(seed)
        names, won, n, number, name = self.told[rng.integers(len(self.told))]
        order = rng.permutation(len(names))
        again = [names[i] for i in order], won[order], n[order]
        self.both(lambda a: a.update(*again, round=number, delivery_id=name))
        self.repeated += 1
        if names:
            before = leaves(self.ours.state_dict())
            with pytest.raises(ValueError, match="delivery_id must name one delivery"):
                self.ours.update(names, won, n + 1, delivery_id=name)
            assert leaves(self.ours.state_dict()) == before

    @rule(seed=seeds, named=st.booleans(), off=st.booleans())
    def give_back(self, seed, named, off):
        """Refund, or write off."""
        rng = np.random.default_rng(seed)
        number = int(rng.integers(1, self.ours.round + 1)) if named and self.ours.round else None
        names, unit = self.some(rng), 1 if off else self.g
        n = [int(rng.integers(0, self.owed(name, number) // unit + 1)) * unit for name in names]
        self.both(lambda a: (a.write_off if off else a.refund)(names, n, round=number))
        for name, back in zip(names, n, strict=True):
            assert self.settle(name, back, number) == back
            self.exposure[name] -= 0 if off else back

    @rule(age=st.one_of(st.none(), st.integers(0, 4)))
    def expire(self, age):
        returned = self.both(lambda a: a.expire(age))
        total = 0
        for round_ in [r for r in self.out if age is None or r < self.ours.round - age]:
            for name, owed in self.out.pop(round_).items():
                back = owed // self.g * self.g
                self.exposure[name] -= back
                total += back
        assert returned == total

    @rule(how=st.sampled_from(["file", "bytes", "state", "state of a used one"]))
    def reload(self, how):
        """Only one of the two is put away and comes back."""
        if how == "file":
            with tempfile.TemporaryDirectory() as folder:
                self.ours.save(Path(folder) / "run", durable=False)
                self.ours = type(self.ours).load(Path(folder) / "run")
        elif how == "bytes":
            state = checkpoint.unpack(checkpoint.pack(self.ours.state_dict()))
            self.ours = self.new()
            self.ours.load_state_dict(state)
        else:
            other = self.new()
            if how != "state":
                other.allocate()
            other.load_state_dict(self.ours.state_dict())
            self.ours = other

    @precondition(lambda self: isinstance(self.ours, OURS) and len(self.ids) < 12)
    @rule(n=st.integers(1, 3), odd=st.booleans())
    def add_prompts(self, n, odd):
        size = len(self.ids)
        names = [f"new {size + i}" if odd or isinstance(self.ids[0], str) else size + i for i in range(n)]
        shared = self.ours.bank.evidence.a0.size == 1 and len(self.ids) > 1
        self.both(lambda a: a.bank.add_prompts(names, prior=None if shared else (1.0, 1.0)))
        self.ids += names
        self.exposure |= dict.fromkeys(names, 0)
        self.evidence |= {name: np.zeros(2) for name in names}

    @rule(seed=seeds)
    def retire(self, seed):
        names = self.some(np.random.default_rng(seed))
        self.both(lambda a: a.bank.retire(names))
        self.retired |= set(names)

    @rule(seed=seeds, keep=st.sampled_from([0.0, 0.5, 1.0]))
    def revive(self, seed, keep):
        names = self.some(np.random.default_rng(seed))
        self.both(lambda a: a.bank.revive(names, keep=keep))
        self.retired -= set(names)
        for name in names:
            self.evidence[name] *= keep

    @rule(seed=seeds, rounds=st.integers(0, 3))
    def extend(self, seed, rounds):
        rng = np.random.default_rng(seed)
        before = self.ours.balance
        if self.cost is not None:
            more = float(rng.uniform(-1.0, 1.0)) * (before.left + 10.0)
        else:
            more = int(rng.integers(-(before.left // self.g), 20)) * self.g
        visits = {}
        if isinstance(self.ours, ResolvingAllocator) and not self.ours._pacing.by_rounds:
            rounds = 0
        if isinstance(self.ours, ResolvingAllocator) and self.ours._plan.left is not None and rng.random() < 0.5:
            visits = {"visits": 1}
        try:
            self.both(lambda a: a.extend_budget(more, rounds=rounds, **visits))
        except ValueError as error:
            assert "rollouts must" in str(error) or "visits must" in str(error)  # noqa: PT017
            return
        assert self.ours.balance.total == pytest.approx(before.total + more)

    @rule(seed=seeds)
    def merge(self, seed):
        """A worker's evidence joins, gathered on the same clock."""
        rng = np.random.default_rng(seed)
        if (self.ours.bank.evidence.a0 != 1.0).any() or (self.ours.bank.evidence.b0 != 1.0).any():
            return  # a fitted prior is no longer a worker's
        names = self.some(rng)
        if not names:
            return
        worker = BetaPosteriorBank(names, forgetting=self.forgetting)
        worker.tick(self.ours.bank.evidence.now)
        n = rng.integers(0, 6, len(names))
        won = rng.integers(0, n + 1)
        worker.update(None, won, n)
        self.both(lambda a: a.bank.merge(worker))
        for key, s, m in zip(names, won, n, strict=True):
            self.evidence[key] += (s, m - s)

    @rule(name=st.sampled_from(list(REFUSED)))
    def bad_call(self, name):
        error, call = REFUSED[name]
        before = leaves(self.ours.state_dict())
        with pytest.raises(error) as refusal:
            call(self.ours)
        assert len(str(refusal.value)) > 20  # words
        assert leaves(self.ours.state_dict()) == before

    # ------------------------------------------------------------ what holds at every step

    def price(self, name):
        if self.cost is None:
            return 1.0
        costs = np.broadcast_to(self.cost, len(self.new().bank))
        at = self.ids.index(name)
        return float(costs[at] if at < costs.size else costs.mean())

    def teardown(self):
        """Tell how long the history was: ``pytest --hypothesis-show-statistics`` counts them."""
        event("50 steps or more" if getattr(self, "steps", 0) >= 50 else "fewer steps")

    @invariant()
    def nothing_is_lost(self):
        if not hasattr(self, "ours"):
            return
        a = self.ours
        self.steps += 1
        total, spent, reserved, left = a.balance
        assert spent + reserved + left == pytest.approx(total, rel=1e-12, abs=1e-9)
        owed = {r: sum(by.values()) for r, by in self.out.items() if sum(by.values())}
        assert a.reservations == dict(sorted(owed.items()))
        assert a.outstanding.tolist() == [self.owed(name) for name in self.ids]
        assert a.exposure.tolist() == [self.exposure[name] for name in self.ids]
        price = {name: self.price(name) for name in self.ids}
        assert reserved == pytest.approx(sum(self.owed(name) * price[name] for name in self.ids), rel=1e-12)
        dealt = sum(n * price[name] for name, n in self.exposure.items())
        assert total - left == pytest.approx(dealt, rel=1e-9, abs=1e-9)
        assert left >= 0
        assert a.ledger.unreserved == self.beyond
        assert a._deliveries.repeated == self.repeated

    @invariant()
    def evidence_is_what_was_reported(self):
        if not hasattr(self, "ours"):
            return
        bank = self.ours.bank
        prior = np.stack(
            [np.broadcast_to(side, len(self.ids)) for side in (bank.evidence.a0, bank.evidence.b0)], axis=1
        )
        found = np.stack([bank.alpha, bank.beta], axis=1) - prior
        np.testing.assert_allclose(found, [self.evidence[name] for name in self.ids], rtol=1e-9, atol=1e-9)
        assert bank.retired.tolist() == [name in self.retired for name in self.ids]
        value = bank.value()
        assert ((value >= 0.0) & (value <= 0.25)).all()

    @invariant()
    def a_reloaded_object_is_the_same(self):
        if not hasattr(self, "ours"):
            return
        assert leaves(self.ours.state_dict()) == leaves(self.twin.state_dict())

    @invariant()
    def figures_are_numbers(self):
        if not hasattr(self, "ours") or self.dice.random() < 0.8:
            return
        metrics = self.ours.metrics()
        assert metrics == pytest.approx(self.twin.metrics(), rel=0, abs=0, nan_ok=True)
        unknown = {"mixed_group_rate", "calibration_error", "calibration_bias", "calibration_running_bias"}
        assert all(np.isfinite(value) for name, value in metrics.items() if name not in unknown)
        if isinstance(self.ours, FenchelDualAllocator):
            assert 0.0 <= metrics["price"] <= 1.0
            assert ((self.ours.slopes >= 0.0) & (self.ours.slopes <= 1.0)).all()


class TestRun(Run.TestCase):
    settings = settings(max_examples=15, stateful_step_count=30)


@pytest.mark.slow
class TestManyRuns(Run.TestCase):
    settings = settings(max_examples=scaled(100, 2_500), stateful_step_count=scaled(30, 60))
