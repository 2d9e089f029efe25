"""NGU and SARA, each against a slow obvious twin, and their published special cases."""

from fractions import Fraction
from math import ceil, floor, nextafter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank
from cero_alloc.baselines import NGU, SARA
from helpers.waves import Twin, play_against

EXAMPLES = 500


class TwinNGU(Twin):
    def begins_with(self):
        return self.group()

    def wanted(self):
        k, back = self.group(), []
        p, age = Fraction(self.kwargs.get("return_probability", 0.5)), self.kwargs.get("max_age", 4)
        most = min((1 + age) * k, self.max_units)
        for row in sorted(self.last):
            may = self.seen[row] > 0 and self.won[row] == 0 and self.dealt[row] < most
            if may and self.rng.random() < p:
                back.append(row)
        mean = sum(k * p**wave for wave in range(ceil(most / k)))
        start = self.fresh(max(1, floor(self.left / mean)) - len(back))
        return [(row, k) for row in [*sorted(back, key=lambda row: self.tie[row]), *start]]


class TwinSARA(Twin):
    def begins_with(self):
        return self.group()

    def chance(self, row):
        """Return the exact probability of a mixed group, one further rollout after the other."""
        a, b = self.prior[0] + self.won[row], self.prior[1] + self.seen[row] - self.won[row]
        if self.mixed(row):
            return Fraction(1)
        alike, same = Fraction(1), Fraction(b if self.won[row] == 0 else a)
        for j in range((self.group() - self.dealt[row]) * self.g):
            alike *= (same + j) / (Fraction(a) + Fraction(b) + j)
        return 1 - alike

    def wanted(self):
        group, probe = self.group(), min(self.units(self.kwargs.get("probe_rollouts", 4)), self.group())
        abandon, commit = (Fraction(str(self.kwargs.get(*side))) for side in (("abandon", 0.5), ("commit", 0.9)))
        on, owed = [], 0
        for row in sorted(self.last, key=lambda row: self.tie[row]):
            rest = group - self.dealt[row]
            if rest == 0 or self.seen[row] == 0:
                continue
            if self.chance(row) >= commit:
                on.append((row, rest))
            elif self.chance(row) > abandon:
                on.append((row, min(rest, probe)))
            else:
                continue
            owed += rest
        return on + [(row, probe) for row in self.fresh((self.left - owed) // group)]


def own_arguments(rule, rng, g, max_units):
    own = {}
    if rng.random() < 0.6:
        own["rollouts_per_visit"] = int(rng.integers(ceil(2 / g), max_units + 1)) * g
    if rng.random() < 0.3:
        return own
    if rule is NGU:  # probabilities that floats hold exactly
        p = float(rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]))
        return own | {"return_probability": p, "max_age": int(rng.integers(0, 6))}
    abandon, commit = sorted(rng.integers(0, 21, 2) / 20)  # thresholds that small counts reach exactly
    return own | {"probe_rollouts": int(rng.integers(2, 7)), "abandon": float(abandon), "commit": float(commit)}


@pytest.mark.parametrize(("rule", "twin_of"), [(NGU, TwinNGU), (SARA, TwinSARA)])
@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1))
def test_twins(rule, twin_of, seed):
    play_against(rule, twin_of, own_arguments, seed)


def run(rule, m, total, rounds=1, most=64, **own):
    return rule(BetaPosteriorBank(m), total_budget=total, n_rounds=rounds, max_rollouts=most, **own)


def total_of(policy, wins):
    """Play a round in which prompt i answers the share ``wins[i]`` of its rollouts right; return its rollouts."""
    wave = policy.allocate()
    total = wave.copy()
    while wave.any():
        wave = policy.continue_round(wave, wave * wins)
        total += wave
    return total


# ------------------------------------------------------------------ NGU


def test_ngu_tells_all_right_mixed_and_all_wrong_apart():
    policy = run(NGU, 4, 4 * 40, return_probability=1.0)
    first = policy.allocate([0])
    assert first.tolist() == [8]
    assert policy.continue_round(first, [8]).tolist() == [0]  # all right: dropped
    policy = run(NGU, 4, 4 * 40, return_probability=1.0)
    assert total_of(policy, np.array([0.0, 0.5, 1.0, 0.125])).tolist() == [40, 8, 8, 8]


@pytest.mark.parametrize("max_age", [0, 1, 4, 9])
def test_ngu_ages(max_age):
    policy = run(NGU, 3, 3 * 80, most=80, return_probability=1.0, max_age=max_age)
    assert total_of(policy, np.zeros(3)).tolist() == [8 * (1 + max_age)] * 3
    never = run(NGU, 3, 3 * 80, most=80, return_probability=0.0, max_age=max_age)
    assert total_of(never, np.zeros(3)).tolist() == [8] * 3


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75])
def test_ngu_spends_at_most_k_over_one_minus_p_on_an_unsolved_prompt(p):
    """The number of waves is geometric, cut at age 4; its mean over 20,000 prompts is within five standard errors."""
    m, k = 20_000, 8
    waves = total_of(run(NGU, m, m * 64, return_probability=p), np.zeros(m)) / k
    assert waves.min() == 1  # the total covers every prompt
    share = [(1 - p) * p**age for age in range(4)] + [p**4]
    for age, expected in enumerate(share):
        assert abs((waves == 1 + age).mean() - expected) < 5 * (expected * (1 - expected) / m) ** 0.5
    mean = sum(p**age for age in range(5))
    assert mean <= 1 / (1 - p)
    assert abs(waves.mean() - mean) < 5 * waves.std() / m**0.5


@pytest.mark.parametrize("p", [0.0, 0.5, 0.9, 1.0])
def test_ngu_starts_as_many_prompts_as_the_total_covers(p):
    mean = 8 * sum(Fraction(str(p)) ** age for age in range(5))
    policy = run(NGU, 100, int(20 * mean) + 1, return_probability=p)
    assert (policy.allocate() > 0).sum() == 20


# ------------------------------------------------------------------ SARA


def test_sara_gives_what_abandoned_prompts_leave_to_new_ones():
    policy = run(SARA, 40, 80, rollouts_per_visit=8)
    first = policy.allocate()
    assert (first > 0).sum() == 10
    assert set(first[first > 0].tolist()) == {4}
    second = policy.continue_round(first, 0 * first)  # 40 are left: no prompt goes on, 5 groups are covered
    assert (second > 0).sum() == 5
    assert not second[first > 0].any()
    third = policy.continue_round(second, second // 2)
    assert (third == second).all()  # the rest of their groups
    assert not policy.continue_round(third, 0 * third).any()
    assert policy.remaining_budget == 0


@pytest.mark.parametrize("wins", [0, 4])
def test_sara_at_the_edges_of_its_thresholds(wins):
    """Four alike of a group of 9 under Beta(1, 1): five more are alike with probability 5/10."""

    def second(abandon, commit):
        policy = run(SARA, 1, 9, rollouts_per_visit=9, abandon=abandon, commit=commit)
        return policy.continue_round(policy.allocate(), [wins]).tolist()

    assert second(0.5, 0.9) == [0]  # at the lower threshold: abandoned
    assert second(0.49, 0.9) == [4]  # between them: probed again
    assert second(0.49, 0.51) == [4]
    assert second(0.49, 0.5) == [5]  # at the upper one: committed
    assert second(0.5, 0.5) == [5]  # at both
    assert second(0.51, 0.51) == [0]
    assert second(0.0, 0.0) == [5]
    assert second(0.0, 1.0) == [4]
    assert second(1.0, 1.0) == [0]


def test_sara_commits_to_mixed_groups_whatever_the_thresholds():
    for abandon in (0.0, 0.5, 1.0):
        policy = run(SARA, 3, 48, rollouts_per_visit=16, abandon=abandon, commit=1.0)
        assert policy.continue_round(policy.allocate(), [1, 2, 3]).tolist() == [12, 12, 12]


def test_sara_starts_from_the_prior():
    """The prior Beta(1, 9) expects failures, and Beta(9, 1) successes: only a surprise is worth more rollouts."""
    for prior, alike in (((1.0, 9.0), [0, 8]), ((9.0, 1.0), [8, 0])):
        bank = BetaPosteriorBank(2, prior=prior)
        policy = SARA(bank, total_budget=32, n_rounds=1, max_rollouts=16, rollouts_per_visit=16, probe_rollouts=8)
        # the other outcome follows with probability 8/25 after the expected one, and above 0.99 after a surprise
        assert policy.continue_round(policy.allocate(), alike).tolist() == [0, 8]


# ------------------------------------------------------------------ errors

BAD = [
    (NGU, {"return_probability": nextafter(1.0, 2.0)}, ValueError, r"return_probability must be a number in \[0, 1\], got"),
    (NGU, {"return_probability": "0.5"}, TypeError, r"return_probability must be a number in \[0, 1\], got"),
    (NGU, {"max_age": -1}, ValueError, r"max_age must be at least 0, got max_age = -1\. Count the waves after the first"),
    (NGU, {"max_age": 2.0}, TypeError, "max_age must be an integer"),
    (SARA, {"probe_rollouts": 1}, ValueError, r"probe_rollouts must be at least 2, got probe_rollouts = 1\. One rollout"),
    (SARA, {"probe_rollouts": 4.5}, TypeError, "probe_rollouts must be an integer"),
    (SARA, {"abandon": -0.1}, ValueError, r"abandon must be a number in \[0, 1\], got abandon = -0\.1"),
    (SARA, {"commit": 1.5}, ValueError, r"commit must be a number in \[0, 1\], got commit = 1\.5"),
    (SARA, {"commit": 0.4}, ValueError, r"commit must be at least abandon = 0\.5, got commit = 0\.4\. Raise it\."),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "own", "error", "match"), BAD)
def test_bad_arguments(rule, own, error, match):
    with pytest.raises(error, match=match):
        run(rule, 3, 64, **own)
