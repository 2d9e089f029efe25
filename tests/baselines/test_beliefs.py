"""The rules with a belief that moves, DPS, KGPS and ARCUS: each against a slow obvious twin, and its published special cases."""

from math import asin, cos, exp, pi, sin, sqrt

import numpy as np
import pytest
from scipy.special import psi, zeta
from scipy.stats import norm

from cero_alloc import BetaPosteriorBank
from cero_alloc.baselines import ARCUS, DPS, KGPS
from helpers.selectors import RoundTwin, against_twin

RUN = {"total_budget": 8 * 400, "n_rounds": 400, "max_rollouts": 8}


class TwinDPS(RoundTwin):
    def __init__(self, m, kwargs, prior):
        super().__init__(m, kwargs, prior)
        self.keep, self.first = kwargs.get("forgetting", 0.9), kwargs.get("transition_prior", 1.0)
        self.count = {row: {(i, j): self.first for i in range(3) for j in range(3)} for row in range(m)}  # i to j
        self.state = {row: [1 / 3] * 3 for row in range(m)}

    def move(self, row, i, j):
        return self.count[row][i, j] / sum(self.count[row][i, to] for to in range(3))

    def predicted(self, row, j):
        return sum(self.move(row, i, j) * self.state[row][i] for i in range(3))

    def worth(self, offered):
        return {row: self.predicted(row, 1) for row in offered}

    def belief(self, row):
        return self.state[row], self.count[row]

    def agree(self, saved):
        tables = [[[count[i, j] for i in range(3)] for j in range(3)] for count in self.count.values()]
        np.testing.assert_allclose(saved["transitions"], tables, rtol=1e-9)
        np.testing.assert_allclose(saved["states"], list(self.state.values()), rtol=1e-9)

    def end_round(self, seen):
        for row in self.state:
            future = [self.predicted(row, j) for j in range(3)]
            came = dict.fromkeys(self.count[row], 0.0)
            if row in seen:
                won, n = seen[row]
                j = 0 if won == 0 else 2 if won == n else 1
                for i in range(3):
                    came[i, j] = self.move(row, i, j) * self.state[row][i] / future[j]
                future = [float(j == k) for k in range(3)]
            for pair, count in self.count[row].items():
                self.count[row][pair] = self.keep * count + (1 - self.keep) * self.first + came[pair]
            self.state[row] = future


class TwinKGPS(RoundTwin):
    def __init__(self, m, kwargs, prior):
        super().__init__(m, kwargs, prior)
        self.noise = kwargs.get("process_noise", 0.01)
        self.mean = [psi(a) - psi(b) for a, b in zip(self.a, self.b, strict=True)]
        self.variance = [zeta(2, a) + zeta(2, b) for a, b in zip(self.a, self.b, strict=True)]

    def worth(self, offered):
        value = {}
        for row in offered:
            kappa = 1 / sqrt(1 + pi * self.variance[row] / 8)
            odds = exp(kappa * self.mean[row])
            value[row] = kappa * odds / (1 + odds) ** 2
        return value

    def belief(self, row):
        return self.mean[row], self.variance[row]

    def agree(self, saved):
        np.testing.assert_allclose(saved["mean"], self.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(saved["variance"], self.variance, rtol=1e-9)

    def end_round(self, seen):
        mixed = 0
        for row, (won, n) in seen.items():
            y, noise = np.log((won + 0.5) / (n - won + 0.5)), 1 / (won + 0.5) + 1 / (n - won + 0.5)
            precision = 1 / self.variance[row] + 1 / noise
            self.mean[row] = (self.mean[row] / self.variance[row] + y / noise) / precision
            self.variance[row] = 1 / precision
            mixed += 0 < won < n
        if seen:
            self.variance = [variance + self.noise * mixed / len(seen) for variance in self.variance]


class TwinARCUS(RoundTwin):
    def __init__(self, m, kwargs, prior):
        super().__init__(m, kwargs, prior)
        self.v, self.noise = kwargs.get("velocity", 0.002), kwargs.get("process_noise", 0.0004)
        self.temperature, self.target = kwargs.get("temperature", 0.3), pi / 4
        self.mean, self.variance = [pi / 4] * m, [pi**2 / 48] * m

    def gain(self, row):
        group, mean = self.block * self.g, self.mean[row]
        a = 1 + 2 * group * self.variance[row]
        return 1 - (exp(-group * mean**2 / a) + exp(-group * (pi / 2 - mean) ** 2 / a)) / sqrt(a)

    def score(self, row, target):
        width = (min(sin(target), cos(target)) / sqrt(2)) ** 2
        total = width + self.variance[row]
        near = exp(-((self.mean[row] - target) ** 2) / (2 * total))
        return sqrt(width / total) * near * self.gain(row)

    def batch_gain(self, offered, target):
        best = sorted(offered, key=lambda row: -self.score(row, target))[: self.chosen]
        return sum(self.gain(row) for row in best) / len(best)

    def worth(self, offered):
        if self.chosen:
            gains = {k: self.batch_gain(offered, pi * k / 64) for k in range(1, 32)}
            slack = {k: gain - (max(gains.values()) - 0.03) for k, gain in gains.items()}
            self.on_edge |= min(abs(gap) for gap in slack.values()) < 1e-9
            away = pi * min(k for k, gap in slack.items() if gap >= 0) / 64 - self.target
            self.target += max(-0.005, min(0.005, away))
        return {row: self.score(row, self.target) / self.temperature + self.rng.gumbel() for row in offered}

    def belief(self, row):
        return self.mean[row], self.variance[row]

    def agree(self, saved):
        np.testing.assert_allclose(saved["mean"], self.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(saved["variance"], self.variance, rtol=1e-9)
        assert saved["target"] == pytest.approx(self.target, abs=1e-12)

    def end_round(self, seen):
        for row in range(len(self.mean)):
            if row in seen:
                won, n = seen[row]
                angle, noise = asin(sqrt((won + 3 / 8) / (n + 3 / 4))), 1 / (4 * n + 2)
                if won in (0, n):
                    angle, noise = (pi / 2 if won else 0.0), 1 / (2 * n)
                precision = 1 / self.variance[row] + 1 / noise
                self.mean[row] = (self.mean[row] / self.variance[row] + angle / noise) / precision
                self.variance[row] = 1 / precision
            self.mean[row] += self.v * sin(2 * self.mean[row])
            self.variance[row] += self.noise


def own_arguments(rule, rng, m):
    if rng.random() < 0.3:
        return {}
    if rule is DPS:
        return {"forgetting": float(rng.random()), "transition_prior": float(rng.uniform(0.1, 3.0))}
    if rule is KGPS:
        return {"process_noise": float(rng.random())}
    return {
        "velocity": float(rng.random()) * 0.1, "process_noise": float(rng.random()) * 0.05,
        "temperature": float(rng.uniform(0.05, 1.0)),
    }  # fmt: skip


@pytest.mark.parametrize(("rule", "twin_of"), [(DPS, TwinDPS), (KGPS, TwinKGPS), (ARCUS, TwinARCUS)])
def test_twins(rule, twin_of):
    whole = 0
    for seed in range(750):
        rng = np.random.default_rng(seed)
        whole += against_twin(rule, twin_of, rng, own_arguments, most_prompts=8, most_rounds=8)
    assert whole >= 500


# ------------------------------------------------------------------ DPS


def test_dps_counts_decay_towards_their_prior():
    """A prompt that is not visited: alpha - alpha_0 shrinks by lambda a round, and nothing else happens to it."""
    policy = DPS(BetaPosteriorBank(2), forgetting=0.8, transition_prior=0.5, **RUN)
    policy.update([0], [8], [8])
    policy.allocate([1])
    start = policy.state_dict()["transitions"][0] - 0.5
    assert start.sum() == pytest.approx(1.0)
    for k in range(1, 30):
        policy.allocate([1])
        np.testing.assert_allclose(policy.state_dict()["transitions"][0] - 0.5, start * 0.8**k, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("won", "state"), [(0, 0), (3, 1), (8, 2)])
def test_dps_counts_of_a_prompt_that_stays(won, state):
    """With the same state every round, only its own count grows: to alpha_0 + 1 / (1 - lambda)."""
    policy = DPS(BetaPosteriorBank(1), forgetting=0.9, **RUN)
    for _ in range(400):
        policy.allocate()
        policy.update(None, [won], [8])
    saved = policy.state_dict()
    expected = np.ones((3, 3))
    expected[state, state] += 10.0
    np.testing.assert_allclose(saved["transitions"][0], expected, rtol=1e-12)
    assert saved["states"][0].tolist() == np.eye(3)[state].tolist()


def test_dps_without_forgetting_counts_transitions():
    policy = DPS(BetaPosteriorBank(1), forgetting=1.0, **RUN)
    path = np.random.default_rng(3).integers(0, 3, 200)
    for state in path:
        policy.update(None, [(0, 4, 8)[state]], [8])
        policy.allocate()
    counts = np.ones((3, 3))
    counts[path[0]] += 1.0 / 3.0  # from a uniform state
    np.add.at(counts, (path[1:], path[:-1]), 1.0)
    np.testing.assert_allclose(policy.state_dict()["transitions"][0], counts, rtol=1e-12)


# ------------------------------------------------------------------ KGPS


def test_kgps_is_a_kalman_filter():
    """The textbook steps in matrix form, for three prompts at once: x ~ N(m, P), y = H x + N(0, R), x' = x + N(0, Q)."""
    rng = np.random.default_rng(5)
    policy = KGPS(BetaPosteriorBank(3, prior=([1.0, 2.0, 0.5], [1.0, 5.0, 3.0])), process_noise=0.3, **RUN)
    mean, cov = policy.state_dict()["mean"], np.diag(policy.state_dict()["variance"])
    for _ in range(40):
        rows = np.sort(rng.permutation(3)[: rng.integers(1, 4)])
        n = rng.integers(1, 20, rows.size)
        won = rng.binomial(n, rng.random(rows.size))
        policy.update(rows, won, n)
        policy.allocate()
        h, noise = np.eye(3)[rows], np.diag(1 / (won + 0.5) + 1 / (n - won + 0.5))
        gain = cov @ h.T @ np.linalg.inv(h @ cov @ h.T + noise)
        mean = mean + gain @ (np.log((won + 0.5) / (n - won + 0.5)) - h @ mean)
        cov = (np.eye(3) - gain @ h) @ cov + np.eye(3) * 0.3 * np.mean((won > 0) & (won < n))
        np.testing.assert_allclose(policy.state_dict()["mean"], mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(policy.state_dict()["variance"], np.diag(cov), rtol=1e-9)


def test_kgps_starts_at_the_logit_of_the_prior():
    a, b = np.array([1.0, 2.5, 0.3]), np.array([1.0, 0.7, 6.0])
    saved = KGPS(BetaPosteriorBank(3, prior=(a, b)), **RUN).state_dict()
    drawn = np.random.default_rng(0).beta(a, b, (200_000, 3))
    logits = np.log(drawn / (1 - drawn))
    np.testing.assert_allclose(saved["mean"], logits.mean(axis=0), atol=6 * np.sqrt(saved["variance"] / 200_000).max())
    np.testing.assert_allclose(saved["variance"], logits.var(axis=0), rtol=0.05)


def test_kgps_values_are_the_expectations():
    """Within 5% of the largest value against numerical integration; exact in both limits of P at m = 0."""
    grid = np.linspace(-60.0, 60.0, 60_001)
    slope = 1 / (2 + np.exp(grid) + np.exp(-grid))
    policy = KGPS(BetaPosteriorBank(1), **RUN)
    for mean in (0.0, 0.5, 2.0, 5.0):
        for variance in (0.01, 0.3, 1.0, 3.0, 20.0):
            policy._mean, policy._variance = np.array([mean]), np.array([variance])
            exact = np.trapezoid(slope * norm.pdf(grid, mean, np.sqrt(variance)), grid)
            assert abs(policy._keys(np.array([0]), 8)[0] - exact) < 0.05 * 0.25
    policy._mean = np.zeros(1)
    for variance, limit in ((1e-9, 0.25), (1e9, 1 / np.sqrt(2 * np.pi * 1e9))):
        policy._variance = np.array([variance])
        assert policy._keys(np.array([0]), 8)[0] == pytest.approx(limit, rel=1e-6)


def test_kgps_stands_still_without_mixed_groups():
    policy = KGPS(BetaPosteriorBank(3), process_noise=0.3, **RUN)
    before = policy.state_dict()["variance"]
    policy.update([0, 1], [0, 8], [8, 8])
    policy.allocate()
    after = policy.state_dict()["variance"]
    assert after[2] == before[2]
    assert (after[:2] < before[:2]).all()
    policy.update([0, 1], [0, 7], [8, 8])
    policy.allocate()
    assert policy.state_dict()["variance"][2] == pytest.approx(before[2] + 0.15)


# ------------------------------------------------------------------ ARCUS


@pytest.mark.parametrize("velocity", [0.0, 0.002, 0.05])
@pytest.mark.parametrize("won", [0, 1, 5, 8])
def test_arcus_settles(won, velocity):
    """Equal observations y with variance r: P + Q solves x^2 - Q x - Q r = 0, and mu = y + v sin(2 mu) (1 - K) / K."""
    noise, n = 0.001, 8
    run = RUN | {"total_budget": 8000, "n_rounds": 1000}
    policy = ARCUS(BetaPosteriorBank(1), velocity=velocity, process_noise=noise, **run)
    for _ in range(1000):
        policy.update(None, [won], [n])
        policy.allocate()
    y, r = {0: (0.0, 1 / 16), 8: (pi / 2, 1 / 16)}.get(won, (asin(sqrt((won + 0.375) / 8.75)), 1 / 34))
    saved = policy.state_dict()
    forecast = (noise + sqrt(noise**2 + 4 * noise * r)) / 2
    assert saved["variance"][0] == pytest.approx(forecast, rel=1e-9)  # as forecast for the next round
    gain = forecast / (forecast + r)
    # The saved mean is the forecast: mu before the observation, which the motion has already moved.
    mean = saved["mean"][0]
    after = mean + gain * (y - mean)
    assert after + velocity * sin(2 * after) == pytest.approx(mean, abs=1e-9)
    assert after == pytest.approx(y + velocity * sin(2 * after) * (1 - gain) / gain, abs=1e-9)


def test_arcus_target_moves_by_steps_and_settles():
    """With one prompt every target is as good, so that the target goes to the hardest candidate, pi / 64."""
    policy = ARCUS(BetaPosteriorBank(1), **RUN)
    for k in range(1, 300):
        policy.allocate()
        assert policy.state_dict()["target"] == pytest.approx(max(pi / 64, pi / 4 - 0.005 * k), abs=1e-12)


def test_arcus_target_stays_where_harder_ones_yield_less():
    m = 65  # with success rates from 0 to 1 in small steps, of which 4 are visited
    policy = ARCUS(BetaPosteriorBank(m), rollouts_per_visit=8, **(RUN | {"total_budget": 32 * 400}))
    for _ in range(400):
        policy.update(None, np.arange(m), [m - 1] * m)
        policy.allocate()
    saved = policy.state_dict()
    twin = TwinARCUS(m, {"unit_size": 1, "max_rollouts": 8, "seed": 0}, (1.0, 1.0))
    twin.mean, twin.variance, twin.chosen = saved["mean"].tolist(), saved["variance"].tolist(), 4
    gains = [twin.batch_gain(range(m), pi * k / 64) for k in range(1, 32)]
    settled = round(saved["target"] * 64 / pi)
    assert saved["target"] == pytest.approx(pi * settled / 64, abs=1e-12)
    assert 1 < settled < 16  # harder than it began, and not the hardest
    assert gains[settled - 1] >= max(gains) - 0.03
    assert max(gains[: settled - 1]) < max(gains) - 0.03


def test_arcus_yield_is_the_expected_share_of_mixed_groups():
    """Against the expectation of 1 - e^{-G x^2} - e^{-G (pi/2 - x)^2} under N(mu, P), by drawing x."""
    x = np.random.default_rng(1).normal(0.6, 0.2, 400_000)
    drawn = 1 - np.exp(-8 * x**2) - np.exp(-8 * (pi / 2 - x) ** 2)
    twin = TwinARCUS(1, {"unit_size": 1, "max_rollouts": 8, "seed": 0}, (1.0, 1.0))
    twin.mean, twin.variance = [0.6], [0.04]
    assert abs(twin.gain(0) - drawn.mean()) < 6 * drawn.std() / sqrt(drawn.size)


def test_arcus_stays_within_its_angles():
    policy = ARCUS(BetaPosteriorBank(2), velocity=0.5, process_noise=5.0, **RUN)
    for k in range(50):
        policy.update(None, [8 * (k % 3 == 0), 8 * (k % 3 > 0)], [8, 8])
        policy.allocate()
        mean = policy.state_dict()["mean"]
        assert ((mean >= 0) & (mean <= pi / 2)).all()


BAD = [
    (DPS, {"forgetting": 1.5}, ValueError, r"forgetting must be a number in \[0, 1\], got forgetting = 1\.5\. 1\.0 keeps everything"),
    (DPS, {"transition_prior": 0.0}, ValueError, "transition_prior must be finite and at least 1e-06, got transition_prior = 0"),
    (KGPS, {"process_noise": -1}, ValueError, r"process_noise must be finite and at least 0, got process_noise = -1\.0\. Give"),
    (KGPS, {"process_noise": "x"}, TypeError, "process_noise must be finite and at least 0, got process_noise = 'x'"),
    (ARCUS, {"velocity": 0.6}, ValueError, r"velocity must be a number in \[0, 0\.5\], got velocity = 0\.6\. Give radians"),
    (ARCUS, {"process_noise": np.nan}, ValueError, "process_noise must be finite and at least 0, got process_noise = nan"),
    (ARCUS, {"temperature": 0}, ValueError, r"temperature must be finite and greater than 0, got temperature = 0\.0\. The pub"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "own", "error", "match"), BAD)
def test_bad_arguments(rule, own, error, match):
    with pytest.raises(error, match=match):
        rule(BetaPosteriorBank(3), **RUN, **own)


@pytest.mark.parametrize(
    ("rule", "entry", "value", "must"),
    [
        (DPS, "transitions", 0.0, r"\['transitions'\] must be greater than 0"),
        (DPS, "states", 1.5, r"\['states'\] must be between 0 and 1"),
        (KGPS, "variance", -1.0, r"\['variance'\] must be greater than 0"),
        (ARCUS, "variance", 0.0, r"\['variance'\] must be greater than 0"),
        (ARCUS, "mean", 2.0, r"\['mean'\] must be between 0 and pi / 2"),
    ],
)
def test_impossible_states_are_refused(rule, entry, value, must):
    policy = rule(BetaPosteriorBank(3), **RUN)
    state = policy.state_dict()
    state[entry][1] = value
    with pytest.raises(ValueError, match=must):
        policy.load_state_dict(state)
    with pytest.raises(ValueError, match=r"\['target'\] must be between 0 and pi / 2, got state\['target'\] = 9"):
        ARCUS(BetaPosteriorBank(3), **RUN).load_state_dict(
            ARCUS(BetaPosteriorBank(3), **RUN).state_dict() | {"target": 9.0}
        )
