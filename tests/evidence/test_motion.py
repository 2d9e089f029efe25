"""Beliefs that move: lazily as round by round, reports in any order and split, states, limits, allocators."""

import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator
from cero_alloc._evidence.history import History
from cero_alloc._evidence.trend import Reports
from cero_alloc._solvers import threads
from helpers.trees import leaves

BOTH = {"drift": 0.02, "trend": 0.3}
MOTIONS = [{"drift": 0.02}, {"trend": 0.3}, BOTH, {**BOTH, "forgetting": 0.9}]
moved = pytest.mark.parametrize("motion", MOTIONS, ids=lambda motion: ", ".join(motion))


class Slow:
    """Method.md, section 7: every prompt in every round, one at a time, in plain floats."""

    def __init__(self, priors, drift=0.0, trend=0.0, forgetting=1.0):
        self.priors, self.drift, self.trend, self.rho = priors, drift, trend, forgetting
        self.known = [[*prior, False] for prior in priors]  # a, b, seen; as of the beginning of the round
        self.round = {}
        self.least = 1.0  # smallest parameter so far, as a share of its prior

    def update(self, reports):
        for i, (n, share) in reports.items():
            won, lost = self.round.get(i, (0.0, 0.0))
            if n:
                self.round[i] = won + n * share, lost + n - n * share

    def now(self):
        """The beliefs with the reports of the round so far."""
        surprise = information = 0.0
        for i, (won, lost) in self.round.items():
            a, b, seen = self.known[i]
            if seen:
                n, s, m = won + lost, a + b, a / (a + b)
                h = n * m * (1 - m)
                variance = h * (s + n) / (s + 1)
                surprise, information = surprise + h * (won - n * m) / variance, information + h * h / variance
        d = surprise / (1 / self.trend**2 + information) if self.trend else 0.0
        known = []
        for i, (a, b, seen) in enumerate(self.known):
            if seen:
                s, odds = a + b, a / b * math.exp(d)
                a, b = s * odds / (1 + odds), s / (1 + odds)
            self.least = min(self.least, a / self.priors[i][0], b / self.priors[i][1])
            won, lost = self.round.get(i, (0.0, 0.0))
            known.append([a + won, b + lost, seen or i in self.round])
        return known

    def tick(self):
        self.known, self.round = self.now(), {}
        for belief, (a0, b0) in zip(self.known, self.priors, strict=True):
            a, b = a0 + self.rho * (belief[0] - a0), b0 + self.rho * (belief[1] - b0)
            s = a + b
            certain = max(min(s, a0 + b0), 1 / (1 / s + self.drift))
            belief[:2] = a / s * certain, b / s * certain


visits = st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 0.5, 0.37]))  # rollouts, and the share of successes
reports = st.dictionaries(st.integers(0, 4), visits, max_size=5)
entries = st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 7).map(lambda x: x / 7))
events = st.lists(st.one_of(st.integers(0, 3), reports, st.just("read")), max_size=16)
pair = st.tuples(st.floats(0.05, 20), st.floats(0.05, 20))


def agree(bank, slow):
    a, b, _ = np.array(slow.now()).T
    if slow.least > 1e-5:  # a belief that is nearly sure of 0 or 1 keeps 1e-6 of its prior
        np.testing.assert_allclose([bank.alpha, bank.beta], [a, b], rtol=1e-9)
        np.testing.assert_allclose(bank.mean(), a / (a + b), rtol=1e-9)
        np.testing.assert_allclose(bank.value(), a * b / (a + b) / (a + b + 1), rtol=1e-9)


# ---------------------------------------------------------------- lazy against round by round


@settings(max_examples=200)
@given(
    history=events,
    prior=st.one_of(pair, st.lists(pair, min_size=5, max_size=5)),
    motion=st.sampled_from([{"drift": 0.003}, {"drift": 0.3, "trend": 0.7, "forgetting": 0.8}, *MOTIONS]),
)
def test_any_history_matches_the_slow_reference(history, prior, motion):
    shared = isinstance(prior, tuple)
    slow = Slow([prior] * 5 if shared else prior, **motion)
    bank = BetaPosteriorBank(5, prior=prior if shared else tuple(zip(*prior, strict=True)), **motion)
    for event in history:
        if event == "read":
            agree(bank, slow)
        elif isinstance(event, int):
            bank.tick(event)
            for _ in range(event):
                slow.tick()
        else:
            bank.update(list(event), [n * share for n, share in event.values()], [n for n, _ in event.values()])
            slow.update(event)
    agree(bank, slow)


@moved
def test_a_long_run_with_gaps_matches_the_slow_reference(motion):
    rng = np.random.default_rng(0)
    bank, slow = BetaPosteriorBank(40, prior=(0.6, 0.9), **motion), Slow([(0.6, 0.9)] * 40, **motion)
    rates = rng.beta(1, 1, 40)
    for k in range(60):
        for i in rng.permutation(30 + k // 8)[: rng.integers(0, 9)].tolist():  # a few are visited late or never
            n = int(rng.integers(1, 9))
            share = rng.binomial(n, rates[i]) / n
            bank.update([i], [n * share], [n])
            slow.update({i: (n, share)})
        agree(bank, slow)
        bank.tick()
        slow.tick()


def test_drift_alone_keeps_the_mean_and_ends_at_the_certainty_of_the_prior():
    bank = BetaPosteriorBank(2, prior=(1, 3), drift=1 / 64)
    bank.update([0], [30], [60])
    for t in range(1, 16):  # 1 / s = 1/64, 2/64, ... 16/64
        bank.tick()
        assert [bank.alpha[0], bank.beta[0]] == pytest.approx([31 / (t + 1), 33 / (t + 1)], rel=1e-15)
        value = 31 / 64 * 33 / 64 / (1 + (t + 1) / 64)
        assert [bank.mean()[0], bank.value()[0]] == pytest.approx([31 / 64, value], rel=1e-15)
    for rounds in (1, 10**6):
        bank.tick(rounds)
        assert [bank.alpha[0], bank.beta[0]] == pytest.approx([31 / 16, 33 / 16], rel=1e-15)  # less than its prior of 3
    assert [bank.alpha[1], bank.beta[1]] == [1, 3]


# ---------------------------------------------------------------- the order and the split of reports


@settings(max_examples=150)
@given(
    rounds=st.lists(st.lists(entries, max_size=9), max_size=4),
    motion=st.sampled_from(MOTIONS),
    kind=st.sampled_from(["whole", "fractional", "squares"]),
    random=st.randoms(use_true_random=False),
)
def test_within_a_round_order_split_and_reads_change_nothing(rounds, motion, kind, random):
    whole, split = (BetaPosteriorBank(5, prior=(0.7, 1.2), **motion) for _ in range(2))
    for visited in rounds:
        told = [(i, n * share if kind != "whole" else round(n * share), n) for i, n, share in visited]
        squares = [s * s / max(n, 1) for _, s, n in told]  # every rollout had the same reward
        sums = np.zeros((5, 3))
        for (i, s, n), square in zip(told, squares, strict=True):
            sums[i] += s, n, square
        named = np.unique([i for i, _, _ in told]).astype(np.int64)
        more = {"squares": sums[named, 2]} if kind == "squares" else {}
        whole.update(named, sums[named, 0], sums[named, 1].astype(np.int64), **more)
        for k in random.sample(range(len(told)), len(told)):
            i, s, n = told[k]
            split.update([i], [s], [n], **({"squares": [squares[k]]} if kind == "squares" else {}))
            if random.random() < 0.5:
                split.mean(), split.value([i]), split.state_dict()
            split.tick(0)
        for bank in (whole, split):
            bank.tick()
    beliefs = [(bank.alpha, bank.beta, bank.mean(), bank.value()) for bank in (whole, split)]
    np.testing.assert_allclose(*beliefs, rtol=1e-11, atol=1e-15)
    if kind == "whole" and "trend" in motion:
        np.testing.assert_array_equal(*beliefs)


def test_late_reports_count_in_the_round_in_which_they_arrive():
    bank, slow, dealt = BetaPosteriorBank(3, **BOTH), Slow([(1.0, 1.0)] * 3, **BOTH), []
    late = FenchelDualAllocator(bank, total_budget=60, n_rounds=9, max_rollouts=4)
    for k in range(8):
        dealt.append(late.allocate())
        slow.tick()
        if k >= 2:  # of two rounds before
            late.update(None, np.minimum(dealt[k - 2], 1), dealt[k - 2], round=k - 1)
            slow.update({i: (int(n), min(1, n) / max(1, n)) for i, n in enumerate(dealt[k - 2])})
            agree(bank, slow)


@moved
def test_the_order_of_the_prompts_does_not_matter(motion):
    order = np.random.default_rng(1).permutation(30)
    banks = BetaPosteriorBank(30, **motion), BetaPosteriorBank(order.tolist(), **motion)
    for bank in banks:
        rng = np.random.default_rng(2)
        for _ in range(30):
            named, n = rng.permutation(30)[:7].tolist(), rng.integers(1, 9, 7)
            bank.update(named, rng.binomial(n, 0.6), n)
            bank.tick(int(rng.integers(0, 3)))
    np.testing.assert_allclose(*((bank.mean(range(30)), bank.value(range(30))) for bank in banks), rtol=1e-12)


# ---------------------------------------------------------------- states


def play(bank, turn):
    """A turn of a run with everything in it, which may leave the round open; reports of a round come in several turns."""
    rng = np.random.default_rng(turn)
    named, n = rng.permutation(8)[:4].tolist(), rng.integers(1, 6, 4)
    rewards = np.where(rng.random((4, 6)) < 0.2, 0.5, rng.integers(0, 2, (4, 6))) * (np.arange(6) < n[:, None])
    bank.update(named, rewards.sum(axis=1), n, squares=(rewards**2).sum(axis=1))
    if turn % 3 == 2:
        bank.tick(int(rng.integers(1, 4)))
    if turn == 4:
        bank.retire([3, 5])
        bank.add_prompts(["new", "newer"])
    elif turn == 10:
        bank.revive([5], keep=0.5)
    elif turn > 4:
        bank.update(["new"], [1], [2])


@moved
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_bank_resumes_to_the_last_bit_at_any_point(motion, dtype, tmp_path):
    def fresh():
        return BetaPosteriorBank(8, prior=(0.5, 0.8), dtype=dtype, **motion)

    through, handed = fresh(), fresh()
    through.evidence.history, handed.evidence.history = History(), History()
    for turn in range(14):
        play(through, turn)
        play(handed, turn)
        state = handed.state_dict()
        if turn % 3 == 1:
            handed.save(tmp_path / "bank.npz")
            handed = BetaPosteriorBank.load(tmp_path / "bank.npz")
        else:
            handed = fresh()
            handed.load_state_dict(state)
        assert leaves(handed.state_dict()) == leaves(state)
    assert leaves(handed.state_dict()) == leaves(through.state_dict())
    assert handed.evidence.history.rounds().rows.size > 20
    assert repr(handed) == repr(through)


def with_all(seed=0):
    bank = BetaPosteriorBank(5, drift=0.01, trend=0.3)
    bank.evidence.history = History()
    bank.update([0, 1, 2], [4, 1.5, 2 + seed], [4, 4, 4], squares=[4, 1, 1.5 + seed])
    bank.tick()
    bank.update([0, 3, 1], [0, 2, 3], [4, 4, 4])
    return bank


def first(place, number):
    return lambda array: np.where(np.arange(array.size).reshape(array.shape) == place, number, array).astype(
        array.dtype
    )


TAMPERED = [
    (["drift"], lambda _: -0.1, r"\['drift'\] must be at least 0"),
    (["trend"], lambda _: math.nan, r"\['trend'\] must be at least 0"),
    (["trend"], lambda _: 0.0, r"\['anchors'\] must be there with a trend only"),
    (["anchors"], lambda _: None, r"\['anchors'\] must be there with a trend only"),
    (["anchors"], first(0, -1.0), r"\['anchors'\] must be at least 0, got state\['anchors'\]\[0\] = -1\.0"),
    (["moved"], lambda _: False, r"\['moved'\] must be True with a drift or a trend"),
    (["outcomes"], first(0, -1.0), r"\['outcomes'\] must be finite and exceed minus the prior, got .*\[0\] = -1\.0"),
    (["deficits"], first(0, -1e-9), r"\['deficits'\] must be at least 0"),
    (["reports", "rows"], lambda rows: rows[::-1].copy(), r"\['reports'\]\['rows'\] must be rows in ascending order"),
    (["reports", "rows"], first(2, 5), r"\['reports'\]\['rows'\] must be rows in ascending order"),
    (["reports", "sums"], first(0, -1.0), r"\['reports'\] must hold sums and deficits of at least 0"),
    (["reports", "deficits"], first(0, -1.0), r"\['reports'\] must hold sums and deficits of at least 0"),
    (["reports", "a"], first(0, 0.0), r"\['reports'\] must hold .* parameters above 0"),
    (["reports", "odds"], lambda _: 0.0, r"\['reports'\]\['odds'\] must be a factor of the odds"),
    (["reports"], lambda _: None, r"\['reports'\] must hold a, b, deficits, odds"),
    (["history", "rows"], first(0, 5), r"\['history'\]\['rows'\] must be at most \d+ rows of the bank"),
    (["history", "won"], first(0, 9.0), r"\['history'\] must hold rollouts of at least 1, and no more successes"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "change", "message"), TAMPERED)
def test_a_state_that_no_run_can_have_is_refused(path, change, message):
    state, bank = with_all().state_dict(), with_all(seed=1)
    before, entry = leaves(bank.state_dict()), state
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = change(entry[path[-1]])
    with pytest.raises(ValueError, match=message):
        bank.load_state_dict(state)
    assert leaves(bank.state_dict()) == before


# ---------------------------------------------------------------- storage, limits, other methods


@moved
def test_float32_is_near_float64(motion):
    wide, narrow = (BetaPosteriorBank(20, prior=(0.4, 0.7), dtype=dtype, **motion) for dtype in ("float64", "float32"))
    for k in range(200):
        rng = np.random.default_rng(k)
        named, n = rng.permutation(20)[:3], rng.integers(1, 9, 3)
        won = rng.binomial(n, 0.5 + 0.4 * np.sin(k / 30))
        for bank in (wide, narrow):
            bank.update(named, won, n)
            bank.tick()
    np.testing.assert_allclose(narrow.mean(), wide.mean(), atol=2e-6)
    np.testing.assert_allclose(narrow.value(), wide.value(), atol=2e-6)
    np.testing.assert_allclose(narrow.alpha + narrow.beta, wide.alpha + wide.beta, rtol=1e-5)


@pytest.mark.parametrize("motion", [{"drift": 1e9}, {"trend": 1e6}, {"trend": 1e-200}, {"drift": 1e-9, "trend": 1e200}])
@pytest.mark.parametrize("prior", [(1.0, 1.0), (1e-3, 50.0), (1e6, 1e6)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_extreme_runs_stay_in_range(motion, prior, dtype):
    bank = BetaPosteriorBank(6, prior=prior, dtype=dtype, **motion)
    for k in range(1000):  # all right, in huge groups and in small ones, and one prompt that is not looked at again
        bank.update([0, 1 + k % 4] if k else [0, 4], [10**6, 8], [10**6, 8])
        bank.tick(2**30 if k == 500 else 1)
    for array, most in ((bank.alpha, 1e300), (bank.beta, 1e300), (bank.value(), 0.25), (bank.mean(), 1)):
        assert ((array >= 0) & (array <= most)).all()
    assert min(bank.alpha.min(), bank.beta.min()) > 0
    assert np.isfinite(bank.calibration().bias)
    BetaPosteriorBank(6, dtype=dtype).load_state_dict(bank.state_dict())


@pytest.mark.parametrize("prior", [(1e30, 1e30), (1e-30, 1e-30), (1e15, 1e-15)])
@pytest.mark.parametrize("motion", MOTIONS[:3])
def test_extreme_priors_have_a_mean_and_a_value(prior, motion):
    bank = BetaPosteriorBank(3, prior=prior, **motion)
    assert bank.value().tolist() == pytest.approx(BetaPosteriorBank(3, prior=prior).value().tolist(), rel=1e-12)
    for _ in range(30):
        bank.update([0, 1], [1, 8], [2, 8])
        bank.tick()
        assert np.isfinite([bank.value(), bank.mean(), bank.alpha, bank.beta]).all()
    assert np.isfinite(bank.calibration().bias)


@pytest.mark.parametrize("forgetting", [0.5, 0.99])
def test_ages_of_forgetting_and_motion_end_at_the_prior(forgetting):
    bank = BetaPosteriorBank(3, prior=(0.5, 2.0), drift=0.01, trend=0.3, forgetting=forgetting)
    bank.update([0, 1], [4, 1.5], [4, 4], squares=[4, 1.0])
    bank.tick(2**30)
    assert [*bank.alpha, *bank.beta] == pytest.approx([0.5] * 3 + [2.0] * 3, rel=1e-12)


@moved
@pytest.mark.parametrize("keep", [0.0, 0.25, 1.0])
def test_what_a_revived_prompt_keeps(motion, keep):
    bank = BetaPosteriorBank(3, prior=(2.0, 3.0), **motion)
    bank.update(None, [9, 4, 8], [9, 9, 9])
    bank.tick(40)
    bank.update([1, 2], [0, 1], [9, 9])
    a, b = bank.alpha, bank.beta
    bank.retire([0])
    bank.revive([0], keep=keep)
    np.testing.assert_allclose(bank.alpha, [2 + keep * (a[0] - 2), *a[1:]], rtol=1e-14)
    np.testing.assert_allclose(bank.beta, [3 + keep * (b[0] - 3), *b[1:]], rtol=1e-14)


# ---------------------------------------------------------------- allocators


@moved
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("squares", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_values_of_some_are_those_of_the_pool_to_the_last_bit(motion, shared, squares, dtype):
    rng = np.random.default_rng(4)
    size = 3000  # several blocks
    prior = (0.6, 0.9) if shared else tuple(rng.uniform(0.1, 3, (2, size)))
    bank = BetaPosteriorBank(size, prior=prior, dtype=dtype, **motion)
    for _ in range(4):
        named, n = rng.permutation(size)[:900], rng.integers(1, 9, 900)
        rewards = rng.random(900) if squares else rng.integers(0, 2, 900)
        bank.update(named, n * rewards, n, squares=n * rewards**2)
        bank.tick()
    bank.update([5], [3], [4])
    rows, evidence = rng.permutation(size)[:700], bank.evidence
    assert evidence.values(None)[rows].tolist() == evidence.values(rows).tolist()
    for whole, some in zip(evidence.posterior(None), evidence.posterior(rows), strict=True):
        assert whole[rows].tolist() == some.tolist()


@pytest.mark.parametrize("motion", MOTIONS[1:3])
def test_threads_deal_what_one_thread_deals(motion, monkeypatch):
    shift, found = Reports.shift, []

    def slowly(self, trend):
        threading.Event().wait(0.01)  # so that all threads come upon the reports before the first has added them
        return shift(self, trend)

    monkeypatch.setattr(Reports, "shift", slowly)
    for n in (1, 4):
        monkeypatch.setenv("CERO_ALLOC_THREADS", str(n))
        rng, size = np.random.default_rng(5), threads.ALONE
        run = FenchelDualAllocator(BetaPosteriorBank(size, **motion), total_budget=9 * size, n_rounds=9, max_rollouts=4)
        for _ in range(2):
            rows = np.flatnonzero(run.allocate())
            run.update(rows, rng.binomial(4, 0.8, rows.size), np.full(rows.size, 4))
        run.allocate()
        found.append(run.slopes)
    assert (found[0] == found[1]).all()
