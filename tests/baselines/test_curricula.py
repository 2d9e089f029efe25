"""AdaRFT and no positive resampling: each against a slow obvious twin, and its published special cases."""

from math import tanh

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank
from cero_alloc.baselines import AdaRFT, NoPositiveResampling
from cero_alloc.simulation import Pool, simulate
from helpers.selectors import RoundTwin, against_twin

RUN = {"total_budget": 8 * 200, "n_rounds": 200, "max_rollouts": 8}


class TwinAdaRFT(RoundTwin):
    fewest = 1

    def __init__(self, m, kwargs, prior):
        super().__init__(m, kwargs, prior)
        self.difficulties, self.eta = kwargs.get("difficulties"), kwargs.get("step", 0.5)
        self.alpha, self.beta = kwargs.get("sensitivity", 2.0), kwargs.get("target", 0.5)
        self.level = kwargs.get("initial_difficulty", 0.0)

    def difficulty(self, row):
        if self.difficulties is not None:
            return self.difficulties[row]
        return 1 - self.a[row] / (self.a[row] + self.b[row])

    def worth(self, offered):
        return {row: -abs(self.difficulty(row) - self.level) for row in offered}

    def belief(self, row):
        return self.difficulty(row) if self.difficulties is not None else (self.a[row], self.b[row])

    def agree(self, saved):
        assert saved["difficulty"] == pytest.approx(self.level, abs=1e-12)

    def end_round(self, seen):
        for row in range(len(self.a)):
            won, n = seen.get(row, (0, 0))
            self.a[row] = self.a0[row] + self.bank_keeps * (self.a[row] - self.a0[row]) + won
            self.b[row] = self.b0[row] + self.bank_keeps * (self.b[row] - self.b0[row]) + n - won
        if seen:
            mean = sum(won for won, _ in seen.values()) / sum(n for _, n in seen.values())
            self.level += self.eta * tanh(self.alpha * (mean - self.beta))
            self.level = max(0.0, min(1.0, self.level))


class TwinNoPositiveResampling(RoundTwin):
    def __init__(self, m, kwargs, prior):
        super().__init__(m, kwargs, prior)
        self.solved, self.review = kwargs.get("retire_at", 0.9), kwargs.get("review", 16)
        self.retired = {}  # row -> the first round after its retirement

    def is_out(self, row):
        if row not in self.retired:
            return False
        return self.review is None or self.rounds < self.retired[row] + self.review

    def worth(self, offered):
        return {row: -self.visits[row] - 1000 * self.is_out(row) for row in offered}

    def belief(self, row):
        return self.visits[row], self.is_out(row)

    def end_round(self, seen):
        for row, (won, n) in seen.items():
            self.retired.pop(row, None)
            if won / n >= self.solved:
                self.retired[row] = self.rounds


def own_arguments(rule, rng, m):
    if rng.random() < 0.3:
        return {}
    if rule is NoPositiveResampling:
        return {"retire_at": float(rng.random()), "review": None if rng.random() < 0.3 else int(rng.integers(1, 6))}
    return {
        "difficulties": None if rng.random() < 0.3 else rng.random(m), "step": float(rng.random()),
        "sensitivity": float(rng.uniform(0, 5)), "target": float(rng.random()),
        "initial_difficulty": float(rng.random()),
    }  # fmt: skip


@pytest.mark.parametrize(("rule", "twin_of"), [(AdaRFT, TwinAdaRFT), (NoPositiveResampling, TwinNoPositiveResampling)])
def test_twins(rule, twin_of):
    whole = 0
    for seed in range(750):
        whole += against_twin(rule, twin_of, np.random.default_rng(seed), own_arguments, most_prompts=8, most_rounds=8)
    assert whole >= 500


# ------------------------------------------------------------------ AdaRFT


@pytest.mark.parametrize(("won", "step", "sensitivity"), [(8, 0.1, 2.0), (5, 0.5, 1.0), (4, 0.3, 2.0), (1, 0.02, 4.0)])
def test_adarft_moves_its_target(won, step, sensitivity):
    policy = AdaRFT(BetaPosteriorBank(2), step=step, sensitivity=sensitivity, initial_difficulty=0.5, **RUN)
    level = 0.5
    for _ in range(5):
        policy.allocate()
        policy.update([0, 1], [won, won], [8, 8])
        policy.allocate()
        level = min(1.0, max(0.0, level + step * tanh(sensitivity * (won / 8 - 0.5))))
        assert policy.state_dict()["difficulty"] == pytest.approx(level, abs=1e-12)


def test_adarft_weighs_rollouts_alike():
    policy = AdaRFT(BetaPosteriorBank(2), initial_difficulty=0.5, step=0.1, **RUN)
    policy.update([0, 1], [6, 0], [6, 2])
    policy.allocate()
    assert policy.state_dict()["difficulty"] == pytest.approx(0.5 + 0.1 * tanh(2 * 0.25))
    policy.allocate()  # no rewards
    assert policy.state_dict()["difficulty"] == pytest.approx(0.5 + 0.1 * tanh(2 * 0.25))


def test_adarft_climbs_to_a_rate_of_one_half():
    """Given the true difficulties, the target ends where half of the rollouts succeed."""
    p = np.linspace(0.0, 1.0, 101)
    policy = AdaRFT(BetaPosteriorBank(101), difficulties=1 - p, step=0.05, **(RUN | {"total_budget": 64 * 200}))
    result = simulate(policy, Pool(p), 200, seed=1)
    assert abs(policy.state_dict()["difficulty"] - 0.5) < 0.1
    assert abs(np.average(p, weights=result.exposure) - 0.5) < 0.15
    easiest_first = AdaRFT(BetaPosteriorBank(101), difficulties=1 - p, **RUN).allocate()
    assert easiest_first.tolist() == [0] * 100 + [8]


# ------------------------------------------------------------------ no positive resampling


@pytest.mark.parametrize(
    ("won", "n", "retired"), [(9, 10, True), (27, 30, True), (8, 9, False), (17, 19, False), (2, 2, True)]
)
def test_retires_at_nine_of_ten(won, n, retired):
    policy = NoPositiveResampling(BetaPosteriorBank(2), review=None, **RUN)
    policy.update([0], [won], [n])
    chosen = [int(policy.allocate().argmax()) for _ in range(4)]
    assert chosen == [1] * 4 if retired else sorted(chosen) == [0, 0, 1, 1]


def test_published_rule_never_comes_back():
    """Every prompt is visited until its first visit at 0.9 or more, and never again while unsolved ones are left."""
    p = np.concatenate([np.ones(10), np.zeros(10)])
    policy = NoPositiveResampling(BetaPosteriorBank(20), review=None, **RUN)
    result = simulate(policy, Pool(p), 200, seed=1)
    assert result.exposure[:10].tolist() == [8] * 10
    assert result.exposure.sum() == 1600


@pytest.mark.parametrize("review", [1, 3, 7])
def test_reviews_come_after_the_stated_rounds(review):
    """Of two prompts one is solved: it comes back after ``review`` rounds without it, again and again."""
    policy = NoPositiveResampling(BetaPosteriorBank(2), review=review, **RUN)
    chosen = []
    for _ in range(60):
        counts = policy.allocate()
        chosen.append(int(counts.argmax()))
        policy.update(None, np.where([True, False], counts, 0), counts)
    solved = np.flatnonzero(np.array(chosen) == 0)
    assert set(np.diff(solved).tolist()) == {review + 1}


def test_a_prompt_that_has_come_undone_stays():
    policy = NoPositiveResampling(BetaPosteriorBank(2), review=3, **RUN)
    first = policy.allocate()
    for k in range(40):
        counts = first if k == 0 else policy.allocate()
        policy.update(None, counts if k < 2 else 0 * counts, counts)
    assert policy.state_dict()["due"].tolist() == [0, 0]
    assert abs(int(np.diff(policy.state_dict()["visits"])[0])) <= 1


def test_retired_prompts_fill_a_round_that_has_no_others():
    policy = NoPositiveResampling(
        BetaPosteriorBank(4), review=None, **(RUN | {"total_budget": 32 * 10, "n_rounds": 10})
    )
    policy.update([0, 1, 2], [8, 8, 8], [8, 8, 8])
    assert policy.allocate(budget=32, exact=True).tolist() == [8] * 4
    assert policy.allocate(budget=8).tolist() == [0, 0, 0, 8]


BAD = [
    (AdaRFT, {"difficulties": [0.1, 0.2]}, ValueError, r"difficulties must have shape \(3,\), got difficulties = \(2,\)\. Give the"),
    (AdaRFT, {"difficulties": [0.1, 0.2, 1.2]}, ValueError, r"difficulties must be finite, .* got difficulties\[2\] = 1\.2"),
    (AdaRFT, {"difficulties": "hard"}, TypeError, "difficulties must be numbers, got str"),
    (AdaRFT, {"step": -0.1}, ValueError, r"step must be finite and at least 0, got step = -0\.1\. The publication has 0\.5"),
    (AdaRFT, {"sensitivity": np.inf}, ValueError, "sensitivity must be finite and at least 0, got sensitivity = inf"),
    (AdaRFT, {"target": 1.1}, ValueError, r"target must be a number in \[0, 1\], got target = 1\.1\. Give a success rate"),
    (AdaRFT, {"initial_difficulty": 2}, ValueError, r"initial_difficulty must be a number in \[0, 1\], got initial_diff.* = 2\.0\. 0"),
    (NoPositiveResampling, {"retire_at": 1.1}, ValueError, r"retire_at must be a number in \[0, 1\], got retire_at = 1\.1\. Give a pass"),
    (NoPositiveResampling, {"review": 0}, ValueError, r"review must be at least 1, got review = 0\. None retires for good"),
    (NoPositiveResampling, {"review": 1.5}, TypeError, r"review must be an integer, got review = 1\.5"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "own", "error", "match"), BAD)
def test_bad_arguments(rule, own, error, match):
    with pytest.raises(error, match=match):
        rule(BetaPosteriorBank(3), **RUN, **own)


def test_impossible_states_are_refused():
    policy = AdaRFT(BetaPosteriorBank(3), **RUN)
    with pytest.raises(ValueError, match=r"\['difficulty'\] must be between 0 and 1, got state\['difficulty'\] = 1\.5"):
        policy.load_state_dict(policy.state_dict() | {"difficulty": 1.5})
    policy = NoPositiveResampling(BetaPosteriorBank(3), **RUN)
    state = policy.state_dict()
    state["due"][2] = -1
    with pytest.raises(ValueError, match=r"\['due'\] must be at least 0, got state\['due'\]\[2\] = -1"):
        policy.load_state_dict(state)
