"""The rules that deal a round in waves: each against a slow obvious twin, and the protocol between the waves."""

from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank
from cero_alloc.baselines import DAPO, NGU, SARA, VIGOR, PilotCommit, ReinforceAda, SpeedRL
from helpers.waves import Twin, play_against

EXAMPLES = 40
RULES = (DAPO, ReinforceAda, VIGOR, SpeedRL, PilotCommit)
EVERY = (*RULES, NGU, SARA)  # the twins of the last two are in test_probing


class TwinDAPO(Twin):
    def begins_with(self):
        return self.group()

    def wanted(self):
        block = self.begins_with()
        target = max(1, int((1 - self.kwargs.get("reserve", 0.5)) * self.total) // block)
        missing = target - sum(self.mixed(row) for row in self.dealt)
        return [(row, block) for row in self.fresh(missing)]


class TwinAda(Twin):
    def begins_with(self):
        return min(self.units(self.kwargs.get("wave_rollouts", 8)), self.max_units)

    def wanted(self):
        each = self.begins_with()
        waves, kept = self.kwargs.get("max_waves", 4), self.kwargs.get("kept_rollouts", 4)
        if self.wave == 0:
            return [(row, each) for row in self.fresh(max(1, self.left // min(each * waves, self.max_units)))]
        if self.wave == waves:
            return []
        if self.kwargs.get("exit") == "positive":
            leaves = {row: self.won[row] >= 1 for row in self.last}
        else:
            leaves = {
                row: self.won[row] >= kept // 2 and self.seen[row] - self.won[row] >= kept - kept // 2
                for row in self.last
            }
        return [(row, each) for row in sorted(self.last) if not leaves[row]]


class TwinVIGOR(Twin):
    def begins_with(self):
        return min(self.units(self.kwargs.get("first_rollouts", 2)), self.max_units)

    def wanted(self):
        each = self.begins_with()
        waves = self.kwargs.get("max_waves", 4)
        if self.wave == 0:
            return [(row, each) for row in self.fresh(max(1, self.left // (each * waves)))]
        if self.wave == waves:
            return []
        by_variance = sorted(self.last, key=lambda row: (-self.rate(row) * (1 - self.rate(row)), self.tie[row]))
        return [(row, each * 2**self.wave) for row in by_variance[: ceil(len(self.last) / 2)]]


class TwinTwoStages(Twin):
    def begins_with(self):
        few, more = (self.units(self.kwargs[name]) for name in self.stages)
        return few + min(more, self.max_units - few)

    def wanted(self):
        few, more = (self.units(self.kwargs[name]) for name in self.stages)
        more = min(more, self.max_units - few)
        screened = [row for row in self.last if self.dealt[row] == few and self.seen[row]]
        promising = [row for row in sorted(screened, key=lambda row: self.tie[row]) if self.promising(row)]
        pay = (self.left - more * len(promising)) // (few + more)
        return [(row, more) for row in promising] + [(row, few) for row in self.fresh(pay)]


class TwinSpeed(TwinTwoStages):
    stages = ("screen_rollouts", "more_rollouts")

    def promising(self, row):
        return self.mixed(row)


class TwinPilot(TwinTwoStages):
    stages = ("pilot_rollouts", "commit_rollouts")

    def promising(self, row):
        low, high = self.kwargs.get("band", (0.25, 0.75))
        self.done[row] |= self.rate(row) >= self.kwargs.get("solved", 2.0)
        return low <= self.rate(row) <= high


TWINS = dict(zip(RULES, (TwinDAPO, TwinAda, TwinVIGOR, TwinSpeed, TwinPilot), strict=True))


def own_arguments(rule, rng, g, max_units):
    few = int(rng.integers(1, 6))
    if rule is DAPO:
        own = {"reserve": float(rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]))}  # shares that floats hold exactly
        if rng.random() < 0.5:
            own["rollouts_per_visit"] = int(rng.integers(ceil(2 / g), max_units + 1)) * g
        return own
    if rule is ReinforceAda:
        return {
            "exit": str(rng.choice(["balanced", "positive"])), "wave_rollouts": few,
            "max_waves": int(rng.integers(1, 6)), "kept_rollouts": int(rng.integers(2, 7)),
        }  # fmt: skip
    if rule is VIGOR:
        return {"first_rollouts": int(rng.integers(1, 4)), "max_waves": int(rng.integers(1, 6))}
    if rule is SpeedRL:
        return {"screen_rollouts": few, "more_rollouts": int(rng.integers(1, 12))}
    own = {"pilot_rollouts": few, "commit_rollouts": int(rng.integers(1, 12))}
    if rng.random() < 0.5:
        own["band"] = (0.5, 0.5) if rng.random() < 0.3 else (0.2, 0.9)
    return own | ({"solved": float(rng.choice([0.5, 0.9, 1.0]))} if rng.random() < 0.6 else {})


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1))
def test_twins(rule, seed):
    play_against(rule, TWINS[rule], own_arguments, seed)


def finish(policy, wave, p, rng=None):
    """Play a round to its end, wins being p of the rollouts or drawn; return the waves."""
    waves = [wave]
    while wave.any():
        won = p * wave if rng is None else rng.binomial(wave, p)
        policy.update(None, won, wave)
        wave = policy.continue_round(wave, won)
        waves.append(wave)
    assert not waves.pop().any()
    return np.array(waves)


def run(rule, m, total, rounds=1, most=32, **own):
    return rule(BetaPosteriorBank(m), total_budget=total, n_rounds=rounds, max_rollouts=most, **own)


# ------------------------------------------------------------------ DAPO


def test_dapo_replaces_the_dead_and_only_them():
    policy = run(DAPO, 100, 8 * 40, most=8)
    dead = np.arange(100) % 2 == 0
    waves = finish(policy, policy.allocate(), np.where(dead, 0.0, 0.5))
    groups = waves.sum(axis=0)
    assert set(groups.tolist()) <= {0, 8}  # no prompt twice in a round
    for before, after in pairwise(waves):
        assert (after > 0).sum() == ((before > 0) & dead).sum()  # as many as were dead
    assert ((groups > 0) & ~dead).sum() == 20  # all that the round wants: half of its 40 groups
    assert groups.sum() < 8 * 40


def test_dapo_stops_at_the_rounds_total():
    policy = run(DAPO, 100, 8 * 40, most=8)
    waves = finish(policy, policy.allocate(), np.ones(100))
    assert [int(wave.sum()) // 8 for wave in waves] == [20, 20]
    few = run(DAPO, 5, 8 * 5, most=8, reserve=0.4)
    assert finish(few, few.allocate(), np.zeros(5)).sum(axis=1).tolist() == [24, 16]  # no prompt is left


@pytest.mark.parametrize(("reserve", "first"), [(0.0, 10), (0.1, 9), (0.2, 8), (0.3, 7), (0.7, 3), (0.8, 2), (0.9, 1)])
def test_dapo_holds_back_its_reserve(reserve, first):
    policy = run(DAPO, 20, 80, most=8, reserve=reserve)
    assert (policy.allocate() > 0).sum() == first


# ------------------------------------------------------------------ Reinforce-Ada


def test_ada_positive_goes_on_until_the_first_right_answer():
    policy = run(ReinforceAda, 4, 4 * 32, exit="positive")
    first = policy.allocate()
    assert first.tolist() == [8, 8, 8, 8]
    assert policy.continue_round(first, [1, 0, 8, 0]).tolist() == [0, 8, 0, 8]
    assert policy.continue_round([0, 8, 0, 8], [0, 0, 0, 1]).tolist() == [0, 8, 0, 0]
    assert policy.continue_round([0, 8, 0, 0], [0, 0, 0, 0]).tolist() == [0, 8, 0, 0]
    assert policy.continue_round([0, 8, 0, 0], [0, 0, 0, 0]).tolist() == [0, 0, 0, 0]  # four waves


def test_ada_balanced_needs_half_of_each():
    policy = run(ReinforceAda, 5, 5 * 32)
    first = policy.allocate()
    assert policy.continue_round(first, [0, 1, 2, 6, 7]).tolist() == [8, 8, 0, 0, 8]
    assert policy.continue_round([8, 8, 0, 0, 8], [1, 1, 0, 0, 7]).tolist() == [8, 0, 0, 0, 0]
    assert policy.continue_round([8, 0, 0, 0, 0], [1, 0, 0, 0, 0]).tolist() == [0] * 5


def test_ada_leaves_what_it_does_not_need_to_later_rounds():
    policy = run(ReinforceAda, 8, 2 * 64, rounds=2, exit="positive")
    assert finish(policy, policy.allocate(), np.ones(8)).sum() == 16  # two prompts that 64 could carry through
    assert finish(policy, policy.allocate(), np.ones(8)).sum() == 24  # three that 112 could
    assert policy.remaining_budget == 128 - 40


# ------------------------------------------------------------------ VIGOR


def test_vigor_halves_and_doubles():
    policy = run(VIGOR, 16, 128)
    p = np.linspace(0.0, 1.0, 16)
    waves = finish(policy, policy.allocate(), p)
    assert [sorted(set(wave.tolist()) - {0}) for wave in waves] == [[2], [4], [8], [16]]
    assert waves.sum(axis=1).tolist() == [32] * 4  # every wave costs the same
    assert set(np.flatnonzero(waves[1])) == set(range(4, 12))  # the half nearest to one half
    assert set(np.flatnonzero(waves[3])) == {7, 8}
    assert waves.sum() == 128


def test_vigor_counts_all_rewards_of_the_round_so_far():
    policy = run(VIGOR, 4, 128)
    first = policy.allocate()
    second = policy.continue_round(first, [1, 1, 0, 2])
    assert second.tolist() == [4, 4, 0, 0]
    # 1 of 6 right in all against 3 of 6, though the last four alone would say 0 against 2.
    third = policy.continue_round(second, [0, 2, 0, 0])
    assert third.tolist() == [0, 8, 0, 0]
    assert policy.continue_round(third, [0, 8, 0, 0]).tolist() == [0, 16, 0, 0]
    policy = run(VIGOR, 2, 64)
    first = policy.allocate()
    assert policy.continue_round(first, [1, 2]).tolist() == [4, 0]


# ------------------------------------------------------------------ SPEED-RL and Pilot-Commit


def test_speed_goes_on_with_the_mixed_only():
    policy = run(SpeedRL, 5, 5 * 24, most=24)
    first = policy.allocate()
    assert first.tolist() == [4] * 5
    more = policy.continue_round(first, [0, 1, 2, 3, 4])
    assert more.tolist() == [0, 20, 20, 20, 0]
    assert not policy.continue_round(more, [0, 0, 20, 10, 0]).any()  # two stages, not three
    assert policy.remaining_budget == 5 * 24 - 20 - 60


def test_speed_screens_only_what_it_could_go_on_with():
    policy = run(SpeedRL, 50, 100, most=24)
    first = policy.allocate()
    assert first.sum() == 4 * 4  # 4 x 24 <= 100
    waves = finish(policy, first, np.zeros(50))
    assert waves.sum() <= 100
    assert (waves.sum(axis=0) <= 4).all()
    assert waves.sum() == 80  # the rest of the total never pays for another pair of stages


@pytest.mark.parametrize("pilot", [0, 1, 2, 3, 6, 7, 8])
def test_pilot_commits_within_the_band_its_ends_included(pilot):
    policy = run(PilotCommit, 1, 32)
    first = policy.allocate()
    assert first.tolist() == [8]
    assert policy.continue_round(first, [pilot]).tolist() == [24 if 2 <= pilot <= 6 else 0]


def test_pilot_drops_the_solved_while_others_are_left():
    policy = run(PilotCommit, 40, 64 * 12, rounds=12, solved=0.9)
    p = np.where(np.arange(40) < 12, 1.0, 0.0)
    for _ in range(12):
        finish(policy, policy.allocate(), p)
    assert (policy._visits[:12] == 1).all()
    assert policy._visits[12:].min() >= 2
    waves = finish(alone := run(PilotCommit, 1, 64, rounds=2, solved=0.9), alone.allocate(), np.ones(1))
    assert waves.sum() == 8
    assert finish(alone, alone.allocate(), np.ones(1)).sum() == 8  # no other prompt is left


@pytest.mark.parametrize(
    ("pilot", "solved", "done"), [(6, 0.75, True), (5, 0.75, False), (8, 1.0, True), (7, 1.0, False)]
)
def test_a_pilot_solves_from_the_threshold_on(pilot, solved, done):
    policy = run(PilotCommit, 1, 32, solved=solved)
    more = policy.continue_round(policy.allocate(), [pilot])
    assert policy.state_dict()["done"].tolist() == [done]
    if more.any():
        policy.continue_round(more, 0 * more)  # a commit that fails takes nothing back
    assert policy.state_dict()["done"].tolist() == [done]


def test_an_unanswered_pilot_solves_nothing():
    policy = run(PilotCommit, 1, 32, solved=0.0)
    assert policy.allocate().tolist() == [8]
    policy.continue_round([0], [0])
    assert policy.state_dict()["done"].tolist() == [False]


def test_only_a_pilot_solves():
    """A prompt in the band that does well in its commit is as its pilot showed it: not solved."""
    policy = run(PilotCommit, 1, 32, solved=0.9)
    first = policy.allocate()
    more = policy.continue_round(first, [6])
    policy.continue_round(more, more)  # 30 of 32 in all
    assert not policy.state_dict()["done"].any()


# ------------------------------------------------------------------ the protocol


@pytest.mark.parametrize("rule", EVERY)
def test_reports_that_do_not_fit_change_nothing(rule):
    policy = rule(BetaPosteriorBank(["a", "b"]), total_budget=96, n_rounds=1, max_rollouts=48)
    closed = r"continue_round must follow allocate within a round, got no open round\. Call allocate first"
    with pytest.raises(ValueError, match=closed):
        policy.continue_round([0, 0], [0, 0])
    counts = policy.allocate(["b", "a"])
    before = repr(policy.state_dict())
    n = int(counts[0])
    for report, won, match in [
        ([n], [0], r"counts must have one entry per prompt id, got counts\.shape = \(1,\) for 2 prompt ids"),
        ([n, 0], [0], "successes must have one entry per prompt id"),
        ([[n, 0]], [0, 0], "counts must have one entry per prompt id"),
        ([n + 1, 0], [0, 0], rf"counts must be between 0 and the {n} dealt, got counts\[0\] = {n + 1}\. Report the last wave"),
        ([0, -1], [0, 0], rf"counts must be between 0 and the {counts[1]} dealt, got counts\[1\] = -1"),
        ([1.5, 0], [0, 0], r"counts must be integers, got counts\[0\] = 1\.5"),
        ([n, 0], [n + 1, 0], rf"successes must be between 0 and counts\[0\] = {n}, got successes\[0\] = {n + 1}\.0"),
        ([n, 0], [-0.5, 0], rf"successes must be between 0 and counts\[0\] = {n}, got successes\[0\] = -0\.5"),
        ([n, 0], [np.nan, 0], r"successes must be between 0 and counts\[0\] = \d+, got successes\[0\] = nan"),
        ([n, 0], ["x", "y"], "successes must be numbers"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=match):
            policy.continue_round(report, won)
        assert repr(policy.state_dict()) == before
    wave = policy.continue_round(counts, 0 * counts)
    while wave.any():
        wave = policy.continue_round(wave, 0 * wave)
    with pytest.raises(ValueError, match=closed):
        policy.continue_round([0, 0], [0, 0])


@pytest.mark.parametrize("rule", EVERY)
def test_rewards_of_another_range_decide_the_same(rule):
    """Rewards of -1 and 3 in place of 0 and 1."""
    args = {"total_budget": 12 * 48, "n_rounds": 1, "max_rollouts": 48}
    plain, ranged = rule(BetaPosteriorBank(40), **args), rule(BetaPosteriorBank(40, reward_range=(-1, 3)), **args)
    rng = np.random.default_rng(0)
    wave, waves = plain.allocate(), 0
    assert ranged.allocate().tolist() == wave.tolist()
    while wave.any():
        n = wave // (1 + waves % 2)  # all, half of them, ...
        won = rng.binomial(n, [0.0, 0.2, 0.5, 1.0] * 10)
        before = repr(ranged.state_dict())
        for sums, odd in ((4 * n, 4 * n), (-n - 0.5, -n - 0.5)):
            at = int(np.flatnonzero(sums > 3 * n if odd[0] >= 0 else sums < -n)[0])
            text = rf"between -1 and 3 over counts\[{at}\] = {n[at]}, got successes\[{at}\] = {odd[at]:.1f}"
            with pytest.raises(ValueError, match=f"successes must be a sum of rewards {text}"):
                ranged.continue_round(n, sums)
        assert repr(ranged.state_dict()) == before
        wave = plain.continue_round(n, won)
        assert ranged.continue_round(n, 4.0 * won - n).tolist() == wave.tolist()
        waves += 1
    assert waves > 1


@pytest.mark.parametrize("rule", EVERY)
def test_a_round_of_zeros_is_closed(rule):
    policy = run(rule, 3, 96, most=48)
    assert not policy.allocate(budget=0).any()
    with pytest.raises(ValueError, match="continue_round must follow allocate"):
        policy.continue_round([0] * 3, [0] * 3)


@pytest.mark.parametrize("rule", EVERY)
def test_allocate_leaves_an_open_round_behind(rule):
    policy = run(rule, 40, 40 * 48, rounds=4, most=48)
    policy.allocate([3, 4])
    second = policy.allocate([7, 5, 6])
    assert second.any()
    wave = policy.continue_round(second, 0 * second)
    assert wave.shape == (3,)
    with pytest.raises(KeyError):
        policy.allocate(["x"])
    policy.continue_round(wave, 0 * wave) if wave.any() else None  # still that round


@pytest.mark.parametrize("rule", EVERY)
def test_unanswered_rollouts_prove_nothing(rule):
    """No rewards arrive: DAPO deals to others, Reinforce-Ada deals again, the screens promote no prompt."""
    policy = run(rule, 8, 8 * 32)
    wave = policy.allocate()
    played = wave.copy()
    while wave.any():
        wave = policy.continue_round(0 * wave, 0 * wave)
        played += wave
    assert policy.ledger.dealt == played.sum() == policy.ledger.outstanding.sum()
    if rule in (SpeedRL, PilotCommit):
        assert set(played.tolist()) <= {0, policy._few}
    if rule in (DAPO, NGU):
        assert set(played.tolist()) == {8}
    if rule is SARA:
        assert set(played.tolist()) == {4}
    if rule is ReinforceAda:
        assert set(played.tolist()) == {32}


@pytest.mark.parametrize("rule", EVERY)
def test_waves_count_as_one_visit_and_one_round(rule):
    policy = run(rule, 16, 4 * 16 * 32, rounds=4)
    rng = np.random.default_rng(0)
    bank_time = []
    for k in range(4):
        waves = finish(policy, policy.allocate(), np.full(16, 0.5), rng)
        assert policy.ledger.round == k + 1
        assert policy.ledger.offers.tolist() == [k + 1] * 16
        assert (waves.sum(axis=0) <= 32).all()
        bank_time.append(policy.bank.state_dict()["now"])
    assert bank_time == [1, 2, 3, 4]
    assert (policy._visits <= 4).all()
    assert policy.ledger.exposure_units.sum() == policy.ledger.dealt
    assert policy.ledger.outstanding.sum() == 0


@pytest.mark.parametrize("rule", EVERY)
def test_what_a_round_leaves_goes_to_later_rounds(rule):
    policy = run(rule, 64, 6 * 256, rounds=6)
    spent = 0
    for k in range(6):
        due = 6 * 256 * (k + 1) // 6 - spent
        waves = finish(policy, policy.allocate(), np.full(64, 1.0))
        assert waves.sum() <= due
        spent += int(waves.sum())
        if rule in (SpeedRL, PilotCommit):
            assert spent < 256 * (k + 1)  # no prompt goes on: much is left
    assert policy.ledger.dealt == spent
    capped = run(rule, 64, 6 * 256, rounds=6)
    for _ in range(3):
        assert finish(capped, capped.allocate(budget=64), np.ones(64)).sum() <= 64


BAD = [
    (DAPO, {"reserve": 1.5}, ValueError, r"reserve must be a number in \[0, 1\], got reserve = 1\.5"),
    (ReinforceAda, {"exit": "never"}, ValueError, "exit must be 'balanced' or 'positive', got exit = 'never'"),
    (ReinforceAda, {"kept_rollouts": 1}, ValueError, r"kept_rollouts must be at least 2, got kept_rollouts = 1\. A group"),
    (ReinforceAda, {"max_waves": 0}, ValueError, "max_waves must be at least 1"),
    (ReinforceAda, {"wave_rollouts": 0}, ValueError, "wave_rollouts must be at least 1"),
    (ReinforceAda, {"wave_rollouts": 2.5}, TypeError, "wave_rollouts must be an integer"),
    (VIGOR, {"first_rollouts": 0}, ValueError, "first_rollouts must be at least 1"),
    (VIGOR, {"max_waves": 0}, ValueError, "max_waves must be at least 1"),
    (SpeedRL, {"screen_rollouts": 32}, ValueError, "max_rollouts must exceed the 32 rollouts of the first stage, got max_rollouts = 32"),
    (SpeedRL, {"screen_rollouts": 0}, ValueError, r"^screen_rollouts must be at least 1, got screen_rollouts = 0\."),
    (SpeedRL, {"more_rollouts": 0}, ValueError, r"^more_rollouts must be at least 1, got more_rollouts = 0\."),
    (SpeedRL, {"screen_rollouts": 4.0}, TypeError, r"^screen_rollouts must be an integer, got screen_rollouts = 4\.0"),
    (SpeedRL, {"more_rollouts": None}, TypeError, r"^more_rollouts must be an integer, got more_rollouts = None"),
    (PilotCommit, {"pilot_rollouts": 0}, ValueError, r"^pilot_rollouts must be at least 1, got pilot_rollouts = 0\."),
    (PilotCommit, {"commit_rollouts": 0}, ValueError, r"^commit_rollouts must be at least 1, got commit_rollouts = 0\."),
    (PilotCommit, {"pilot_rollouts": "8"}, TypeError, r"^pilot_rollouts must be an integer, got pilot_rollouts = '8'"),
    (PilotCommit, {"commit_rollouts": True}, TypeError, r"^commit_rollouts must be an integer, got commit_rollouts = True"),
    (PilotCommit, {"pilot_rollouts": 33}, ValueError, "max_rollouts must exceed the 33 rollouts of the first stage, got max_rollouts = 32"),
    (PilotCommit, {"band": (0.2, 1.2)}, ValueError, r"^band must be finite, at least 0 and at most 1, got band\[1\] = 1\.2\. Give"),
    (PilotCommit, {"band": (-0.2, 0.5)}, ValueError, r"^band must be finite, at least 0 and at most 1, got band\[0\] = -0\.2\."),
    (PilotCommit, {"band": (np.nan, 0.5)}, ValueError, r"^band must be finite, at least 0 and at most 1, got band\[0\] = nan"),
    (PilotCommit, {"band": (0.8, 0.2)}, ValueError, r"^band must be an ascending pair, got band = \(0\.8, 0\.2\)\. Give the lowest"),
    (PilotCommit, {"band": (0.8,)}, ValueError, r"^band must be an ascending pair, got band = \(0\.8,\)\."),
    (PilotCommit, {"band": (0.1, 0.2, 0.3)}, ValueError, r"^band must be an ascending pair, got band = \(0\.1, 0\.2, 0\.3\)\."),
    (PilotCommit, {"band": ((0.1, 0.2), (0.3, 0.4))}, ValueError, "^band must be an ascending pair"),
    (PilotCommit, {"band": 0.5}, ValueError, r"^band must be an ascending pair, got band = 0\.5\."),
    (PilotCommit, {"band": ()}, ValueError, r"^band must be an ascending pair, got band = \(\)\."),
    (PilotCommit, {"band": ("low", "high")}, TypeError, "^band must be numbers, got tuple"),
    (PilotCommit, {"band": None}, TypeError, "^band must be numbers, got NoneType"),
    (PilotCommit, {"solved": -1.0}, ValueError, r"solved must be a number in \[0, 1\]"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "own", "error", "match"), BAD)
def test_bad_arguments(rule, own, error, match):
    with pytest.raises(error, match=match):
        run(rule, 3, 64, **own)


# ------------------------------------------------------------------ a round that could never begin

CAPACITIES = [
    (DAPO, {}, 8, "a group, 8 rollouts"),
    (DAPO, {"rollouts_per_visit": 12}, 12, "a group, 12 rollouts"),
    (DAPO, {"max_rollouts": 4}, 4, "a group, 4 rollouts"),
    (DAPO, {"unit_size": 4, "rollouts_per_visit": 16}, 16, "a group, 16 rollouts"),
    (NGU, {}, 8, "a wave of one prompt, 8 rollouts"),
    (NGU, {"rollouts_per_visit": 12, "unit_size": 3, "max_rollouts": 33}, 12, "a wave of one prompt, 12 rollouts"),
    (SARA, {"rollouts_per_visit": 12}, 12, "a group, 12 rollouts"),
    (ReinforceAda, {}, 8, "a wave of one prompt, 8 rollouts"),
    (ReinforceAda, {"wave_rollouts": 3, "unit_size": 2}, 4, "a wave of one prompt, 4 rollouts"),
    (ReinforceAda, {"wave_rollouts": 64}, 32, "a wave of one prompt, 32 rollouts"),
    (VIGOR, {}, 2, "a wave of one prompt, 2 rollouts"),
    (VIGOR, {"first_rollouts": 5, "unit_size": 4}, 8, "a wave of one prompt, 8 rollouts"),
    (SpeedRL, {}, 24, "both stages of one prompt, 24 rollouts"),
    (SpeedRL, {"max_rollouts": 16}, 16, "both stages of one prompt, 16 rollouts"),
    (
        SpeedRL,
        {"screen_rollouts": 3, "more_rollouts": 5, "unit_size": 2},
        10,
        "both stages of one prompt, 10 rollouts",
    ),
    (PilotCommit, {}, 32, "both stages of one prompt, 32 rollouts"),
    (PilotCommit, {"pilot_rollouts": 4, "commit_rollouts": 6}, 10, "both stages of one prompt, 10 rollouts"),
]


@pytest.mark.parametrize(("rule", "own", "needed", "what"), CAPACITIES)
def test_a_capacity_that_no_first_wave_fits_is_refused(rule, own, needed, what):
    g = own.get("unit_size", 1)
    kwargs = {"total_budget": 2 * g, "n_rounds": 2, "max_rollouts": 32, **own}
    short = needed - g
    match = rf"^round_capacity must hold {what}, got round_capacity = {short}\. Raise it\.$"
    with pytest.raises(ValueError, match=match):
        rule(BetaPosteriorBank(8), round_capacity=short, **kwargs)
    rule(BetaPosteriorBank(8), round_capacity=needed, **kwargs)
    policy = rule(BetaPosteriorBank(8), round_capacity=needed, **kwargs | {"total_budget": 2 * needed})
    waves = finish(policy, policy.allocate(), np.zeros(8))
    assert waves[0].any()  # what was let in can begin
    assert waves.sum() <= needed


@pytest.mark.parametrize(("rule", "pool", "what"), [(SpeedRL, 1, "both stages of one prompt"), (DAPO, 1, "a group")])
def test_without_a_capacity_the_caps_of_the_pool_always_hold_a_first_wave(rule, pool, what):
    for most in (6, 8, 24, 64):
        assert rule(BetaPosteriorBank(pool), total_budget=most, n_rounds=1, max_rollouts=most).allocate().any(), what
