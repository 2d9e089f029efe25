"""One round of any policy: all its waves, what is drawn, what the policy receives, and what is counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator
from cero_alloc.baselines import DAPO, NGU, SARA, VIGOR, PilotCommit, ReinforceAda, SpeedRL, Uniform
from cero_alloc.simulation._rounds import play_round


class Plain:
    """The two methods and nothing else; records its arguments."""

    def __init__(self, counts):
        self.counts, self.asked, self.told = np.array(counts, dtype=np.int64), [], []

    def allocate(self, prompt_ids=None, budget=None, *, exact=False):
        self.asked.append((prompt_ids if prompt_ids is None else list(prompt_ids), budget, exact))
        return self.counts

    def update(self, prompt_ids, successes, rollouts):
        self.told.append((list(prompt_ids), list(successes), list(rollouts)))


class InWaves(Plain):
    """The same counts once more, halved, until nothing is left."""

    def __init__(self, counts):
        super().__init__(counts)
        self.reports = []

    def continue_round(self, counts, successes):
        self.reports.append((counts.tolist(), successes.tolist()))
        self.counts = self.counts // 2
        return self.counts


def half(positions, n):
    return n // 2, n


def test_a_plain_policy():
    policy, drawn = Plain([3, 0, 2, 0]), []

    def draw(positions, n):
        drawn.append((positions.tolist(), n.tolist()))
        return np.array([1.5, 2.0]), n

    counts, successes, answered, _ = play_round(policy, None, draw)
    assert policy.asked == [(None, None, False)]
    assert drawn == [([0, 2], [3, 2])]
    assert policy.told == [([0, 2], [1.5, 2.0], [3, 2])]
    assert (counts.tolist(), successes.tolist(), answered.tolist()) == ([3, 0, 2, 0], [1.5, 0, 2.0, 0], [3, 0, 2, 0])
    assert counts is not policy.counts
    counts[:] = 7
    assert policy.counts.tolist() == [3, 0, 2, 0]


def test_names_are_those_of_the_offer():
    policy = Plain([0, 4, 1])
    names = np.array(["x", "y", "z"], dtype=object)
    play_round(policy, names, half)
    assert policy.asked == [(["x", "y", "z"], None, False)]
    assert policy.told == [(["y", "z"], [2, 0], [4, 1])]
    ids = np.empty(2, dtype=object)
    ids[:] = [("a", 1), ("b", 2)]
    bank = BetaPosteriorBank([("a", 1), ("b", 2)])
    real = Uniform(bank, total_budget=4, n_rounds=1, max_rollouts=2)
    assert play_round(real, ids, half)[0].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        ({}, (None, None, False)),
        ({"budget": 6}, (None, 6, False)),
        ({"budget": 6, "exact": True}, (None, 6, True)),
        ({"exact": False}, (None, None, False)),
    ],
)
def test_limits_are_passed_on(limits, asked):
    policy = Plain([1])
    play_round(policy, None, half, **limits)
    assert policy.asked == [asked]


def test_a_policy_of_bare_signatures():
    """Nothing is passed that was not asked for: allocate() and update(ids, successes, rollouts) are enough."""

    class Bare:
        def allocate(self):
            return np.array([2, 2])

        def update(self, ids, successes, rollouts):
            self.told = len(ids)

    bare = Bare()
    assert play_round(bare, None, half)[1].tolist() == [1, 1]
    assert bare.told == 2


@pytest.mark.parametrize("prompt_ids", [None, np.arange(2), np.empty(0, dtype=np.int64)])
def test_a_round_without_rollouts_reports_nothing(prompt_ids):
    size = 2 if prompt_ids is None else prompt_ids.size
    for policy in (Plain([0] * size), InWaves([0] * size)):
        counts, successes, answered, _ = play_round(policy, prompt_ids, half)
        assert policy.told == []
        assert getattr(policy, "reports", []) == []
        assert counts.size == successes.size == answered.size == size
        assert counts.dtype == answered.dtype == np.int64


def test_waves_add_up():
    policy = InWaves([4, 0, 2])
    counts, successes, answered, _ = play_round(policy, None, half)
    assert counts.tolist() == [4 + 2 + 1, 0, 2 + 1]
    assert successes.tolist() == [2 + 1 + 0, 0, 1 + 0]
    assert answered.tolist() == counts.tolist()
    assert policy.reports == [([4, 0, 2], [2, 0, 1]), ([2, 0, 1], [1, 0, 0]), ([1, 0, 0], [0, 0, 0])]
    assert policy.told == [([0, 2], [2, 1], [4, 2]), ([0, 2], [1, 0], [2, 1]), ([0], [0], [1])]


def test_unanswered_rollouts_are_dealt_but_not_reported():
    policy = InWaves([4, 0, 2])
    counts, successes, answered, _ = play_round(policy, None, lambda positions, n: (0.5 * (n - 1), n - 1))
    assert counts.tolist() == [7, 0, 3]
    assert answered.tolist() == [3 + 1 + 0, 0, 1 + 0]
    assert successes.tolist() == [1.5 + 0.5, 0, 0.5]
    assert policy.reports[0] == ([3, 0, 1], [1.5, 0, 0.5])
    assert policy.told[0] == ([0, 2], [1.5, 0.5], [3, 1])


def test_squares_add_up_over_waves_and_reach_only_who_takes_them():
    class Taking(InWaves):
        def update(self, prompt_ids, successes, rollouts, squares=None):
            self.told.append(squares.tolist())

    def draw(positions, n):
        return 0.5 * n, n, 0.25 * n

    for policy in (Taking([4, 0, 2]), InWaves([4, 0, 2])):
        played = play_round(policy, None, draw)
        assert played.squares.tolist() == [1.75, 0.0, 0.75]
        assert played.successes.tolist() == [3.5, 0.0, 1.5]
        sums = [([0, 2], [2, 1], [4, 2]), ([0, 2], [1, 0.5], [2, 1]), ([0], [0.5], [1])]
        assert policy.told == ([[1.0, 0.5], [0.5, 0.25], [0.25]] if isinstance(policy, Taking) else sums)


def test_without_feedback_nothing_is_reported():
    policy = InWaves([4, 2])
    counts, successes, answered, _ = play_round(policy, None, half, feedback=False)
    assert policy.told == []
    assert policy.reports == [([0, 0], [0, 0])] * 3
    assert counts.tolist() == answered.tolist() == [7, 3]
    assert successes.tolist() == [3, 1]  # drawn all the same


@pytest.mark.parametrize(
    "rule", [DAPO, ReinforceAda, VIGOR, SpeedRL, PilotCommit, NGU, SARA, Uniform, FenchelDualAllocator]
)
@pytest.mark.parametrize("feedback", [True, False])
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_returned_is_what_was_dealt(rule, feedback, seed):
    rng = np.random.default_rng(seed)
    m, rounds, most = int(rng.integers(1, 20)), int(rng.integers(1, 8)), 32
    budget = int(rng.integers(1, rounds * m * most + 1))
    names = np.array([f"p{i}" for i in range(m)], dtype=object)
    policy = rule(BetaPosteriorBank(names), total_budget=budget, n_rounds=rounds, max_rollouts=most)
    p, played = rng.random(m), np.zeros(m, dtype=np.int64)
    rewards = np.zeros((2, m))
    for _ in range(rounds):
        rows = rng.permutation(m)[: rng.integers(0, m + 1)]

        def draw(positions, n, rows=rows):
            seen = n - rng.integers(0, 2, n.size)
            return rng.binomial(seen, p[rows[positions]]), seen

        cap = None if rng.random() < 0.7 else int(rng.integers(0, m * most))
        before, spent = policy.ledger.exposure_units.copy(), policy.ledger.dealt
        counts, won, answered, squares = play_round(policy, names[rows], draw, budget=cap, feedback=feedback)
        assert (counts == (policy.ledger.exposure_units - before)[rows]).all()
        assert counts.sum() == policy.ledger.dealt - spent
        assert counts.max(initial=0) <= most
        assert counts.sum() <= (np.inf if cap is None else cap)
        assert (answered <= counts).all()
        assert ((won >= 0) & (won <= answered)).all()
        played[rows] += counts
        rewards[:, rows] += won, answered
        assert (squares == won).all()
    assert played.sum() == policy.ledger.dealt
    told = rewards if feedback else np.zeros_like(rewards)
    np.testing.assert_allclose(policy.bank.alpha - 1, told[0])
    np.testing.assert_allclose(policy.bank.alpha + policy.bank.beta - 2, told[1])
