"""Jumps of all rates: how much of the evidence they leave, what a bank then knows, and what a belief foresees."""

import copy
import pickle
from math import atanh, exp, log

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import betaln

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator
from cero_alloc._evidence import history as histories
from cero_alloc._evidence.evidence import NONE
from cero_alloc._evidence.fitting import share_kept
from cero_alloc._evidence.history import History
from helpers.trees import leaves

STATED = exp(-6.0)  # of the rounds of a policy at rest in which a jump is seen at most, Claim 30
SHARES = (0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03, 0.02, 0.01)
BOTH = {"drift": 0.02, "trend": 0.3}
MOTIONS = [{}, {"drift": 0.02}, {"trend": 0.3}, BOTH]
moved = pytest.mark.parametrize("motion", MOTIONS, ids=lambda motion: ", ".join(motion) or "rest")
quick = settings(max_examples=100)


# ---------------------------------------------------------------- the share that is kept


def kept_of(outcomes, prior, won, n):
    """The share where (successes, failures) are known of each prompt beside a prior that all share."""
    priors = tuple(np.full(len(won), side) for side in prior)
    before = tuple(start + side for start, side in zip(priors, np.asarray(outcomes, dtype=float).T, strict=True))
    return share_kept(before, priors, np.asarray(won, dtype=float), np.asarray(n))


@pytest.mark.parametrize(("drawn", "prior"), [((1, 1), (1, 1)), ((0.4, 0.6), (0.4, 0.6)), ((0.4, 0.6), (1, 1))])
def test_a_policy_at_rest_hardly_ever_jumps(drawn, prior):
    rng, jumps = np.random.default_rng(0), 0
    for _ in range(200):
        rates, outcomes = rng.beta(*drawn, 20), np.zeros((20, 2))
        for _ in range(64):
            n = rng.integers(1, 9, 20)
            won = rng.binomial(n, rates)
            jumps += kept_of(outcomes, prior, won, n) < 1.0
            outcomes += np.stack([won, n - won], axis=1)
    assert jumps <= STATED * 200 * 64


@pytest.mark.parametrize("rounds", [2, 8, 64])
def test_a_redraw_of_all_rates_is_a_jump(rounds):
    rng = np.random.default_rng(1)
    for _ in range(10):
        won = rng.binomial(8 * rounds, rng.beta(0.5, 0.5, 40))
        drawn = rng.binomial(8, rng.beta(0.5, 0.5, 40))
        known = np.stack([won, 8 * rounds - won], axis=1)
        share = kept_of(known, (0.5, 0.5), drawn, np.full(40, 8))
        assert share in SHARES
        assert share <= min(0.5, 4.0 / rounds)


def test_reports_that_agree_keep_everything():
    known, n = np.array([[30, 10], [0, 40], [40, 0]]), np.array([4, 4, 4])
    assert kept_of(known, (1, 1), [3, 0, 4], n) == 1.0
    assert kept_of(np.zeros((3, 2)), (1, 1), [0, 4, 0], n) == 1.0  # nothing is known yet, and nothing contradicted
    assert kept_of(np.zeros((0, 2)), (1, 1), [], np.zeros(0, dtype=int)) == 1.0
    assert kept_of(known, (1, 1), [0, 0, 0], np.zeros(3, dtype=int)) == 1.0


@quick
@given(
    start=st.floats(0.1, 5),
    lost=st.integers(0, 50),
    more=st.integers(1, 500),
    n=st.integers(1, 16),
    size=st.integers(2, 40),
)
@example(start=1.0, lost=0, more=60, n=8, size=20)
def test_the_share_falls_with_how_many_prompts_contradict(start, lost, more, n, size):
    """All prompts are known alike, with more successes than failures, and report successes or failures alone.

    Less evidence makes failures likelier by a factor that grows with how little is left, under a prior that favours
    neither, so that the best share and its gain are monotone in the number of prompts that fail.
    """
    known = np.tile([lost + more, lost], (size, 1))
    shares = [
        kept_of(known, (start, start), np.where(np.arange(size) < k, 0, n), np.full(size, n)) for k in range(size)
    ]
    assert (np.diff(shares) <= 0).all()
    if lost == 0 and min(more / 4, n, size / 2) >= 5:
        assert shares[-1] < 0.1 < shares[0] == 1.0


def test_it_is_the_best_of_its_candidates():
    """By scipy; where rounding could decide, either answer is right."""
    rng, seen = np.random.default_rng(3), set()
    for _ in range(400):
        size = int(rng.integers(1, 30))
        priors, n = tuple(rng.uniform(0.2, 3, (2, size))), rng.integers(1, 9, size)
        before = tuple(side + rng.choice([0.0, 5.0, 60.0], size) for side in priors)
        rate, other = before[0] / (before[0] + before[1]), rng.random(size) < 0.5 * rng.random()
        won = rng.binomial(n, np.where(other, 1 - rate, rate)).astype(float)

        def chance(share, before=before, priors=priors, won=won, n=n):
            a, b = (start + share * (side - start) for side, start in zip(before, priors, strict=True))
            return float((betaln(a + won, b + n - won) - betaln(a, b)).sum())

        gains = [chance(share) - chance(1.0) for share in SHARES]
        worth, agrees = log(sum(exp(gain) for gain in gains) / len(gains)), chance(1.0) - chance(0.9)
        if min(abs(worth - 6.0), abs(agrees), np.diff(sorted(gains)[-2:])[0]) < 1e-8:
            continue
        share = share_kept(before, priors, won, n)
        assert share == (SHARES[int(np.argmax(gains))] if agrees < 0.0 and worth > 6.0 else 1.0)
        seen.add(share)
    assert len(seen) > 5


@quick
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0]))
def test_neither_order_nor_split_of_a_rounds_reports_matters(seed, jump):
    rng, together, apart = np.random.default_rng(seed), History(), History()
    size = int(rng.integers(1, 40))
    rates = rng.random(size)
    known = rng.binomial(60, rates)
    n = rng.integers(1, 9, size)
    won = rng.binomial(n, jump * (1 - rates) + (1 - jump) * rates)
    together.add(1, np.arange(size), won.astype(float), n, NONE)
    first = rng.integers(0, n + 1)
    part = np.minimum(won, first)
    for some, sums in ((first, part), (n - first, won - part)):
        for i in rng.permutation(size):  # a report of no rollouts is among them
            apart.add(1, np.array([i]), np.array([float(sums[i])]), np.array([some[i]]), NONE)
    (rows, sums), (others, again) = together.take_open(), apart.take_open()
    assert rows.tolist() == others.tolist() == list(range(size))
    assert sums.tolist() == again.tolist() == np.stack([won, n, 0 * n], axis=1).tolist()
    outcomes, order = np.stack([known, 60 - known], axis=1), rng.permutation(size)
    share = kept_of(outcomes, (1, 1), won, n)
    assert kept_of(outcomes[order], (1, 1), won[order], n[order]) == share
    assert [part.size for part in together.take_open()] == [0, 0]


def test_open_reports_are_kept_in_bounded_memory():
    history = History()
    for k in range(3000):
        history.add(1, np.array([k % 7]), np.ones(1), np.array([2]), np.array([0.25]))
        assert len(history._open) <= histories._PARTS
    rows, sums = history.take_open()
    assert rows.tolist() == list(range(7))
    assert sums.sum(axis=0).tolist() == [3000, 6000, 750]


# ---------------------------------------------------------------- what a bank knows after a jump


def learnt(motion, *, dtype=np.float64, graded=False, size=40, rounds=6, seed=0):
    """A bank with a history that has learnt, and the reports of a round in which no common shift explains the rates."""
    rng = np.random.default_rng(seed)
    bank, rates = BetaPosteriorBank(size, prior=(0.7, 0.9), dtype=dtype, **motion), rng.choice([0.05, 0.95], size)
    bank.evidence.history = History()
    for _ in range(rounds):
        tell(bank, report_of(rng, rng.permutation(size)[: size // 2], rates), graded)
        bank.evidence.notice_jump()
        bank.tick()
    return bank, report_of(rng, rng.permutation(size)[: size // 2], 1.0 - rates)


def report_of(rng, rows, rates):
    n = rng.integers(1, 13, rows.size)
    return rows, rng.binomial(n, rates[rows]), n


def sums_of(won, n, graded):
    """The sums of the rewards and of their squares; graded rewards are 1/16 and 15/16 instead of 0 and 1."""
    low, high = (1 / 16, 15 / 16) if graded else (0.0, 1.0)
    return high * won + low * (n - won), high**2 * won + low**2 * (n - won)


def tell(bank, report, graded):
    rows, won, n = report
    successes, squares = sums_of(won, n, graded)
    bank.update(rows, successes, n, squares=squares)


def jumps(bank):
    return bank.evidence.history.state_dict()["jumps"].tolist()


@moved
@pytest.mark.parametrize("graded", [False, True], ids=["0 or 1", "graded"])
@pytest.mark.parametrize(("dtype", "within"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_after_a_jump_a_belief_is_the_prior_a_share_of_the_evidence_and_the_reports(motion, graded, dtype, within):
    bank, report = learnt(motion, dtype=dtype, graded=graded)
    evidence, everyone = bank.evidence, np.arange(40)
    assert jumps(bank) == []
    assert evidence.loss == 0.0
    tell(bank, report, graded)
    order = np.argsort(report[0])
    rows, won, n = (part[order] for part in report)
    won, squares = sums_of(won, n, graded)
    a, b, lacks = bank.alpha, bank.beta, evidence.lacking(everyone)
    reported = np.zeros((3, 40))
    reported[:, rows] = won, n - won, won - squares
    before = np.array([a, b])[:, rows] - reported[:2, rows]
    evidence.notice_jump()
    [[when, share]] = jumps(bank)
    assert when == evidence.now
    assert share == share_kept(tuple(before), (np.full(20, 0.7), np.full(20, 0.9)), won, n)
    assert share < 0.5
    np.testing.assert_allclose(bank.alpha, 0.7 + share * (a - reported[0] - 0.7) + reported[0], rtol=within)
    np.testing.assert_allclose(bank.beta, 0.9 + share * (b - reported[1] - 0.9) + reported[1], rtol=within)
    if graded:
        assert (lacks > 0).any()
    expected = share * (lacks - reported[2]) + reported[2]
    np.testing.assert_allclose(evidence.lacking(everyone), expected, rtol=within, atol=within)
    assert evidence.loss == pytest.approx(-log(share) / evidence.now)
    settled = leaves(bank.state_dict())
    evidence.notice_jump()  # every report counts once
    assert leaves(bank.state_dict()) == settled


@moved
def test_without_a_history_there_are_no_jumps(motion):
    bank, report = learnt(motion)
    bank.evidence.history = None
    tell(bank, report, False)
    before = leaves(bank.state_dict())
    bank.evidence.notice_jump()
    assert leaves(bank.state_dict()) == before
    assert bank.evidence.loss == 0.0


@moved
@pytest.mark.parametrize("graded", [False, True], ids=["0 or 1", "graded"])
@pytest.mark.parametrize("seed", range(3))
def test_late_split_and_reordered_reports_make_the_same_jump(motion, graded, seed):
    (bank, report), rng = learnt(motion, graded=graded, seed=seed), np.random.default_rng(seed)
    other = copy.deepcopy(bank)
    tell(bank, report, graded)
    rows, won, n = report
    half = rng.integers(0, n + 1)
    first = np.minimum(won, half)
    for w, rolled in ((won - first, n - half), (first, half)):
        for i in rng.permutation(20):  # a report of no rollouts is among them
            tell(other, (rows[i : i + 1], w[i : i + 1], rolled[i : i + 1]), graded)
    for each in (bank, other):
        each.evidence.notice_jump()
    assert jumps(bank) == jumps(other) != []
    if not motion:  # sums of whole sixteenths
        assert (bank.alpha == other.alpha).all()
        assert (bank.beta == other.beta).all()
    np.testing.assert_allclose([other.alpha, other.beta], [bank.alpha, bank.beta], rtol=1e-12)
    lacks = [each.evidence.lacking(np.arange(40)) for each in (bank, other)]
    np.testing.assert_allclose(lacks[1], lacks[0], rtol=1e-12)


RULES = {
    "fenchel": (FenchelDualAllocator, {"n_rounds": 12}),
    "rounds": (ResolvingAllocator, {"n_rounds": 12}),
    "visits": (ResolvingAllocator, {"visits": 12, "min_rollouts": 2}),
    "waves": (ResolvingAllocator, {"n_rounds": 12, "min_rollouts": 2, "waves": 2}),
}


def run_of(rule, motion, fit_every=4):
    kind, arguments = RULES[rule]
    bank = BetaPosteriorBank(40, **motion)
    return kind(bank, total_budget=12 * 320, max_rollouts=16, fit_every=fit_every, **arguments)


@pytest.mark.parametrize("motion", [{}, BOTH], ids=["rest", "drift, trend"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("how", ["state", "pickle", "copy"])
def test_runs_in_which_rates_jump_resume_to_the_last_bit(motion, rule, how):
    through, handed = run_of(rule, motion), run_of(rule, motion)
    rng, seen = np.random.default_rng(4), []

    def again(run):
        if how == "state":
            built = run_of(rule, motion)
            built.load_state_dict(run.state_dict())
            return built
        return pickle.loads(pickle.dumps(run)) if how == "pickle" else copy.deepcopy(run)

    for turn in range(8):
        if turn in (0, 6):  # after a fit, and with reports of a round that no call of allocate has closed
            rates = rng.beta(0.5, 0.5, 40)
        counts = through.allocate()
        assert counts.tolist() == handed.allocate().tolist()
        won, early = rng.binomial(counts, rates), rng.random(40) < 0.5
        for some in (np.flatnonzero(early), np.flatnonzero(~early)):
            for run in (through, handed):
                run.update(some, won[some], counts[some])
            handed = again(handed)
        seen.append(len(jumps(through.bank)))
        assert leaves(handed.state_dict()) == leaves(through.state_dict())
    assert seen[-1] > 0 or motion
    never = run_of(rule, motion, None)
    for _ in range(3):
        counts = never.allocate()
        never.update(None, counts, counts)
        counts = never.allocate()
        never.update(None, 0 * counts, counts)
    assert never.bank.evidence.history is None
    assert never.bank.evidence.loss == 0.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"jumps": np.array([[1.0, 1.0]])}, "must be times and shares"),
        ({"jumps": np.array([[1.0, 0.0]])}, "must be times and shares"),
        ({"jumps": np.array([[-1.0, 0.5]])}, "must be times and shares"),
        ({"jumps": np.array([[1e300, 0.5]])}, "must be times and shares"),
        ({"jumps": np.array([[np.nan, 0.5]])}, "be finite"),
        ({"jumps": np.array([1.0, 0.5, 2.0])}, "be float64 of shape"),
        ({"jumps": None}, "be float64 of shape"),
        ({"open_rows": np.array([1, 0])}, "rows in ascending order"),
        ({"open_rows": np.array([0, 40])}, "rows in ascending order"),
        ({"open_rows": np.array([-1, 0])}, "rows in ascending order"),
        ({"open_rows": np.array([0])}, r"\['open_sums'\] must be float64 of shape \(1, 3\)"),
        ({"open_rows": 3}, "must be int64 of shape"),
        ({"open_sums": np.array([[3.0, 2.0, 0.0]] * 2)}, "no more successes than rollouts"),
        ({"open_sums": np.array([[-1.0, 2.0, 0.0]] * 2)}, "at least 0"),
        ({"open_sums": np.array([[1.0, 2.5, 0.0]] * 2)}, "whole rollouts"),
        ({"open_sums": np.array([[1.0, 1e300, 0.0]] * 2)}, "whole rollouts"),
        ({"open_sums": np.array([[np.nan, 2.0, 0.0]] * 2)}, "be finite"),
    ],
)
def test_states_of_no_history_are_refused(change, words):
    bank = BetaPosteriorBank(40)
    bank.evidence.history = History()
    bank.update([0, 1], [1, 2], [2, 2])
    state = bank.state_dict()
    before = leaves(state)
    bank.load_state_dict(state)
    state["history"] |= change
    with pytest.raises(ValueError, match=words):
        bank.load_state_dict(state)
    assert leaves(bank.state_dict()) == before


# ---------------------------------------------------------------- what a belief foresees


def evidence_of(drift=0.0, trend=0.0, kept=None, *, prior=(1.0, 1.0), won=30.0, lost=10.0, rounds=20):
    """Evidence of one prompt; ``kept`` is the share that a jump left, which halves it once in ``rounds`` for 0.5."""
    bank = BetaPosteriorBank(1, prior=prior, drift=drift, trend=trend)
    evidence = bank.evidence
    if kept is not None:
        evidence.history = History()
        evidence.history.note_jump(1, kept)
    evidence.tick(rounds)
    bank.update([0], [won], [int(won + lost)])
    return evidence


def foreseen(evidence, visits, spacing=1.0):
    return float(evidence.foreseen(None, np.array([float(visits)]), np.array([float(spacing)]))[0])


@pytest.mark.parametrize("visits", [1, 2, 7.5, 1e6])
def test_a_belief_at_rest_foresees_every_later_visit(visits):
    assert foreseen(evidence_of(), visits, 3.0) == visits - 1


rates = st.one_of(st.just(0.0), st.floats(1e-12, 10.0))


@quick
@given(rates, st.one_of(st.just(0.0), st.floats(1e-6, 2.0)), st.one_of(st.none(), st.floats(1e-6, 0.999)),
       st.integers(1, 300), st.floats(1, 50), st.sampled_from([(1, 1), (0.01, 0.02), (40.0, 3.0)]))  # fmt: skip
def test_the_closed_form_is_the_sum_over_the_visits(drift, trend, kept, visits, spacing, prior):
    """The midpoint rule exceeds each term of the convex 1 / (1 + c h) by a factor of at most atanh(u) / u.

    Over one step the integral is atanh(u) / u times the term, with u = c / (2 (1 + c h)), largest at h = 1; for c to
    infinity that is log 3, 9.9% above 1. Strengths do not fall below that of the prior.
    """
    evidence = evidence_of(drift, trend, kept, prior=prior)
    a, b = (float(side[0]) for side in evidence.posterior(None))
    s, m = a + b, a / (a + b)
    c = spacing * (evidence.loss + s * (drift + m * (1 - m) * trend**2))
    terms = [1 / (1 + c * h) for h in range(1, visits)]
    found, u, floor = foreseen(evidence, visits, spacing), c / (2 * (1 + c)), min(1.0, sum(prior) / s)
    most = atanh(u) / u if u > 1e-5 else 1 + u * u
    assert most <= log(3)
    slack = 1e-9 * visits
    assert found >= max(sum(terms), floor * (visits - 1)) - slack
    assert found <= max(most * sum(terms), floor * (visits - 1)) + slack
    assert found <= sum(max(term, floor) for term in terms) * most + slack
    assert found <= visits - 1


@quick
@given(st.lists(rates, min_size=2, max_size=2), st.lists(st.floats(1e-6, 2.0), min_size=2, max_size=2),
       st.lists(st.floats(1e-3, 0.999), min_size=2, max_size=2), st.integers(1, 1000), st.floats(1, 20))  # fmt: skip
def test_more_motion_foresees_less(drifts, trends, shares, visits, spacing):
    least = (min(drifts), min(trends), max(shares))
    for more in ((max(drifts), *least[1:]), (least[0], max(trends), least[2]), (*least[:2], min(shares))):
        # the strength is the same: what moves is told after all rounds
        assert foreseen(evidence_of(*more), visits, spacing) <= foreseen(evidence_of(*least), visits, spacing) * (
            1 + 1e-12
        )
    assert foreseen(evidence_of(*least), visits, 2 * spacing) <= foreseen(evidence_of(*least), visits, spacing) * (
        1 + 1e-12
    )


@pytest.mark.parametrize("prior", [(1e30, 1e30), (1e-30, 1e-30), (1e30, 1e-30), (1.0, 1.0)])
@pytest.mark.parametrize(
    "motion",
    [{"drift": 1e-310}, {"trend": 1e-200}, {"drift": 1e300}, {"trend": 1e100}, {"kept": 1e-300}, {"drift": 0.1}],
)
@pytest.mark.parametrize("visits", [1.0, 1.5, 2.0, 1e15])
@pytest.mark.parametrize("spacing", [1.0, 1e9])
def test_extremes_are_numbers_within_bounds(prior, motion, visits, spacing):
    evidence = evidence_of(prior=prior, **motion)
    a, b = (float(side[0]) for side in evidence.posterior(None))
    found = foreseen(evidence, visits, spacing)
    assert min(1.0, sum(prior) / (a + b)) * (visits - 1) * (1 - 1e-12) <= found <= visits - 1
    if max(motion.values()) < 1e-100 and "kept" not in motion and visits * spacing * (a + b) < 1e80:
        assert found == pytest.approx(visits - 1)  # next to nothing moves


def test_rows_and_shared_numbers_of_visits():
    rng = np.random.default_rng(0)
    bank = BetaPosteriorBank(5, prior=(rng.uniform(0.5, 2, 5), rng.uniform(0.5, 2, 5)), drift=0.01, trend=0.1)
    bank.update(None, rng.integers(0, 9, 5), np.full(5, 9))
    visits, spacing = np.arange(1.0, 6.0), np.linspace(1, 2, 5)
    whole = bank.evidence.foreseen(None, visits, spacing)
    rows = np.array([3, 1])
    assert bank.evidence.foreseen(rows, visits[rows], spacing[rows]).tolist() == whole[rows].tolist()
    one = np.array([4.0])
    assert (
        bank.evidence.foreseen(None, one, np.ones(1)).tolist()
        == bank.evidence.foreseen(None, np.full(5, 4.0), np.ones(5)).tolist()
    )
