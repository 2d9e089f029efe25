"""The fit of drift, trend and prior to a history, the history that an allocator keeps for it, and refits in a run."""

import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaln

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator
from cero_alloc._evidence import history as histories
from cero_alloc._evidence.evidence import NONE
from cero_alloc._evidence.history import History
from helpers.trees import leaves

BOTH = {"drift": 0.02, "trend": 0.3}
MOTIONS = [{"drift": 0.02}, {"trend": 0.3}, BOTH, {**BOTH, "forgetting": 0.9}]
moved = pytest.mark.parametrize("motion", MOTIONS, ids=lambda motion: ", ".join(motion))


def simulated(seed, *, common=0.0, own=0.0, step=0.0, size=150, rounds=20, share=1.0):
    """Reports of a policy whose log-odds move: all by ``step`` and a common random walk, each by a walk of its own."""
    rng = np.random.default_rng(seed)
    logit, reports = rng.normal(-0.5, 1.5, size), []
    for _ in range(rounds):
        rows = rng.permutation(size)[: int(share * size)]
        reports.append((rows, rng.binomial(8, 1 / (1 + np.exp(-logit[rows]))), np.full(rows.size, 8)))
        logit = logit + step + rng.normal(0, common) + rng.normal(0, own, size)
    return reports


def fitted(reports, size=150, **kwargs):
    bank = BetaPosteriorBank(size, **kwargs)
    return bank, bank.fit_drift(reports)


def log_probability(reports, size, prior, **motion):
    """Of every report before it is added, by a bank and scipy."""
    bank, total = BetaPosteriorBank(size, prior=prior, **motion), 0.0
    for rows, won, n in reports:
        a, b = bank.alpha[rows], bank.beta[rows]
        total += (betaln(a + won, b + n - won) - betaln(a, b)).sum()
        bank.update(rows, won, n)
        bank.tick()
    return total


# ---------------------------------------------------------------- what a fit finds


@pytest.mark.parametrize("seed", range(3))
def test_beliefs_rest_where_the_policy_does(seed):
    bank, fit = fitted(simulated(seed))
    assert (fit.status, fit.drift, fit.trend, fit.log_likelihood_gain) == ("fitted", 0, 0, 0)
    assert fit.n_predictions == 150 * 19
    assert (bank.drift, bank.trend, bank.evidence.a0[0], bank.evidence.b0[0]) == (0, 0, fit.alpha, fit.beta)
    assert 0.7 < fit.alpha < fit.beta < 2.5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("moves", "least", "most"), [({"common": 0.1}, 0.05, 0.5), ({"step": 0.1}, 0.05, 2.0)], ids=str
)
def test_a_common_shift_is_found(seed, moves, least, most):
    bank, fit = fitted(simulated(seed, **moves))
    assert fit.status == "fitted"
    assert least < fit.trend < most
    assert fit.drift < 0.002
    assert fit.log_likelihood_gain > 5
    assert (bank.drift, bank.trend) == (fit.drift, fit.trend)


@pytest.mark.parametrize("own", [0.2, 0.4])
@pytest.mark.parametrize("seed", range(2))
def test_a_drift_is_found(own, seed):
    """A step of log-odds moves p by own p (1 - p), as 1 / s grows by own^2 p (1 - p), here some 0.15 own^2."""
    _, fit = fitted(simulated(seed, own=own))
    assert fit.status == "fitted"
    assert 0.5 < fit.drift / (0.15 * own**2) < 2
    assert fit.trend < 0.3
    assert fit.log_likelihood_gain > 50


@pytest.mark.parametrize("moves", [{"own": 0.3}, {"common": 0.2, "own": 0.2}, {"step": 0.1}], ids=str)
def test_the_gain_is_that_of_banks_that_predict_the_history(moves):
    reports = simulated(5, size=60, share=0.5, **moves)
    _, fit = fitted(reports, 60)
    rest = BetaPosteriorBank(60)
    for report in reports:
        rest.update(*report)
    prior = rest.fit_prior()
    found = log_probability(reports, 60, (fit.alpha, fit.beta), drift=fit.drift, trend=fit.trend)
    still = log_probability(reports, 60, (prior.alpha, prior.beta))
    assert fit.log_likelihood_gain == pytest.approx(found - still, rel=1e-6)
    for factor in (0.1, 10):  # elsewhere is worse, up to what the search pays for going far
        assert (
            log_probability(reports, 60, (fit.alpha, fit.beta), drift=factor * fit.drift, trend=fit.trend) < found + 1
        )
        assert (
            log_probability(reports, 60, (fit.alpha, fit.beta), drift=fit.drift, trend=factor * fit.trend) < found + 1
        )


def test_a_fitted_belief_predicts_the_rest_of_a_run_better():
    reports = simulated(2, step=0.1, rounds=30, share=0.3)
    _, fit = fitted(reports[:20])
    prior = (fit.alpha, fit.beta)
    apart = [
        log_probability(reports, 150, prior, **motion) for motion in ({}, {"drift": fit.drift, "trend": fit.trend})
    ]
    before = [
        log_probability(reports[:20], 150, prior, **motion) for motion in ({}, {"drift": fit.drift, "trend": fit.trend})
    ]
    assert apart[1] - before[1] > apart[0] - before[0] + 20


# ---------------------------------------------------------------- what a fit leaves alone


@pytest.mark.parametrize(
    ("size", "reports", "status", "predictions"),
    [
        (30, [], "too few prompts", 0),
        (30, [([], [], [])] * 3, "too few prompts", 0),
        (30, [(range(19), [3] * 19, [6] * 19)] * 3, "too few prompts", 38),
        (30, [(None, [0] * 30, [8] * 30)] * 3, "no spread", 60),
        (30, [(None, [4] * 30, [8] * 30)] * 3, "no spread", 60),
    ],
)
def test_reasons_why_the_belief_stays(size, reports, status, predictions):
    bank = BetaPosteriorBank(size, prior=(0.7, 0.4), drift=0.01, trend=0.2)
    bank.update([0, 1], [1, 2], [4, 4])
    before = leaves(bank.state_dict())
    fit = bank.fit_drift(reports)
    assert (fit.status, fit.n_predictions, fit.log_likelihood_gain) == (status, predictions, 0.0)
    assert (fit.alpha, fit.beta, fit.drift, fit.trend) == (0.7, 0.4, 0.01, 0.2)  # as it is
    assert leaves(bank.state_dict()) == before


def test_a_single_look_at_every_prompt_says_nothing_of_motion():
    rng = np.random.default_rng(0)
    reports = [(range(10 * k, 10 * k + 10), rng.binomial(8, rng.beta(1, 1, 10)), np.full(10, 8)) for k in range(4)]
    bank, fit = fitted(reports, 40)
    assert (fit.status, fit.n_predictions, fit.log_likelihood_gain) == ("fitted", 0, 0)
    assert (bank.drift, bank.trend) == (fit.drift, fit.trend) == (0.1 / 4, 1 / 4**0.5)  # what is usual


GOOD = ([0, 1], [1, 2], [4, 4])


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        ([GOOD, GOOD, ([0, "x"], [1, 2], [4, 4])], KeyError, r"history\[2\]: prompt_ids must be in the bank, unknown: 'x'"),
        ([GOOD, ([0, 0], [1, 2], [4, 4])], ValueError, r"history\[1\]: prompt_ids must not repeat an id"),
        ([([0], [5], [4])], ValueError, r"history\[0\]: successes must not exceed rollouts\[0\] = 4"),
        ([GOOD, ([0], [1], [4.5])], ValueError, r"history\[1\]: rollouts must be integers"),
        ([GOOD, GOOD[:2]], ValueError, r"history must hold three items per round, got history\[1\] = "),
        ([GOOD, 3], ValueError, r"history must hold three items per round, got history\[1\] = 3"),
        ([GOOD, (3, [1], [4])], TypeError, r"history\[1\]: prompt_ids must be a collection of ids"),
        ("abc", TypeError, r"history must be a sequence of rounds, got history = 'abc'"),
        (None, TypeError, r"history must be a sequence of rounds, got history = None"),
    ],
)  # fmt: skip
def test_errors_name_the_round(history, error, message):
    bank = BetaPosteriorBank(2, **BOTH)
    before = leaves(bank.state_dict())
    with pytest.raises(error, match=message):
        bank.fit_drift(history)
    assert leaves(bank.state_dict()) == before


def test_the_evidence_of_the_bank_is_not_read_and_neither_is_the_order_of_a_round():
    reports, rng = simulated(1, common=0.2, own=0.2, rounds=8), np.random.default_rng(0)
    bank, fit = fitted(reports)
    other = BetaPosteriorBank(150, prior=(np.full(150, 3.0), np.arange(1.0, 151.0)), drift=0.5)
    other.update(range(40), np.full(40, 9), np.full(40, 9))
    other.tick(3)
    mixed = []
    for rows, won, n in reports:
        order = rng.permutation(rows.size)
        mixed.append((rows[order], won[order], n[order]))
    again = other.fit_drift(iter(mixed))
    assert (again.alpha, again.beta, again.drift, again.trend) == (fit.alpha, fit.beta, fit.drift, fit.trend)
    assert f", prior=({fit.alpha:g}, {fit.beta:g}), " in repr(other)
    assert (other.drift, other.trend) == (bank.drift, bank.trend)


def test_rewards_of_another_range_are_mapped():
    reports = simulated(3, common=0.2, own=0.2, rounds=8)
    _, fit = fitted(reports)
    _, again = fitted([(rows, 2.0 * won - n, n) for rows, won, n in reports], reward_range=(-1, 1))
    assert again == fit


def test_huge_groups_are_fitted_in_no_time():
    rng = np.random.default_rng(0)
    start, rates = time.process_time(), rng.beta(1, 1, 30)
    fits = [fitted([(None, np.round(n * rates), np.full(30, n))] * 3, 30)[1] for n in (10**4, 10**9)]
    assert time.process_time() - start < 10
    assert [fits[0].alpha, fits[0].beta] == pytest.approx([fits[1].alpha, fits[1].beta], rel=0.01)


@moved
def test_parameters_below_the_prior_survive_another_prior_and_another_forgetting(motion):
    rng = np.random.default_rng(3)
    bank = BetaPosteriorBank(60, prior=(3.0, 4.0), **motion)
    bank.update(None, rng.binomial(30, rng.beta(0.3, 0.3, 60)), np.full(60, 30))
    for _ in range(50):
        bank.tick()
        bank.update([0], [9], [9])
    assert bank.alpha.min() < 3.0 or motion != {"drift": 0.02}
    even = [(None, np.full(60, 4), np.full(60, 8))] * 3
    for call in (
        lambda: bank.select_forgetting(even, grid=[0.7]),
        lambda: bank.evidence.set_motion(0.0, 0.0),
        lambda: bank.select_forgetting(even, grid=[0.5]),
        lambda: bank.evidence.set_motion(0.1, 0.2),
    ):
        mean, strength = bank.mean(), bank.alpha + bank.beta
        call()  # changes the future, not the past
        np.testing.assert_allclose(bank.mean(), mean, rtol=1e-12)
        np.testing.assert_allclose(bank.alpha + bank.beta, strength, rtol=1e-12)
        bank.tick()
    for prior in ((1e-3, 50.0), (50.0, 1e-3), (1.0, 1.0)):
        bank.evidence.set_prior(*(np.array([side]) for side in prior))
        assert (np.minimum(bank.alpha, bank.beta) > 0).all()
        assert np.isfinite([bank.alpha, bank.beta]).all()
    bank.fit_prior()
    assert (np.minimum(bank.alpha, bank.beta) > 0).all()


# ---------------------------------------------------------------- the history that an allocator keeps

entries = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8), st.floats(0, 1)), min_size=1, max_size=12)


@settings(max_examples=100)
@given(
    rounds=st.lists(entries, min_size=1, max_size=25), random=st.randoms(use_true_random=False), most=st.integers(4, 40)
)
def test_a_history_is_bounded_and_whole_for_the_prompts_that_it_keeps(rounds, random, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histories, "MOST", most)
        patch.setattr(histories, "FEWEST", 0)
        history, split, told = History(), History(), {}
        for tick, reports in enumerate(rounds):
            sums = {}
            for row, n, share in reports:
                won, rolled = sums.get(row, (0, 0))
                sums[row] = won + round(n * share), rolled + n
                told[tick, row] = sums[row]
            columns = list(sums), [won for won, _ in sums.values()], [n for _, n in sums.values()]
            history.add(
                tick, *(np.array(column, dtype) for column, dtype in zip(columns, (int, float, int), strict=True)), NONE
            )
            for row, n, share in random.sample(reports, len(reports)):
                split.add(tick, np.array([row]), np.array([float(round(n * share))]), np.array([n]), NONE)
            if random.random() < 0.2:
                split.state_dict()
            assert history.rounds().rows.size <= most
        assert leaves(history.state_dict()) == leaves(split.state_dict())
        state = history.state_dict()
        kept = set(state["rows"].tolist())
        expected = sorted((t, i, float(won), n) for (t, i), (won, n) in told.items() if i in kept and n > 0)
        assert (
            list(zip(*(state[name].tolist() for name in ("ticks", "rows", "won", "rollouts")), strict=True)) == expected
        )
        again = History()
        again.load_state_dict(state)
        for each in (history, again):
            each.add(99, np.arange(31), np.ones(31), np.ones(31, dtype=np.int64), NONE)
        assert leaves(again.state_dict()) == leaves(history.state_dict())


def test_a_history_has_bounded_memory_and_keeps_about_a_half():
    history, everyone = History(), np.arange(5000)
    for tick in range(10):
        history.add(tick, everyone, np.ones(5000), np.full(5000, 2), NONE)
    rounds, (rows, sums) = history.rounds(), history.take_open()
    assert rows.tolist() == everyone.tolist()  # those of prompts that are not kept, too
    assert sums.tolist() == [[10, 20, 0]] * 5000
    assert histories.MOST / 3 < rounds.rows.size <= histories.MOST
    assert rounds.rows.size == 10 * rounds.n_prompts == rounds.n_repeats + rounds.n_prompts
    size = len(pickle.dumps(history))
    gone = np.setdiff1d(everyone, history.state_dict()["rows"])
    for tick in range(10, 2010):  # reports of a worker, one by one
        history.add(tick, gone[tick % gone.size :][:1], np.ones(1), np.ones(1, dtype=np.int64), NONE)
    history.take_open()
    assert len(pickle.dumps(history)) == size


def test_no_history():
    rounds = History().rounds()
    assert (rounds.n_prompts, rounds.n_repeats, rounds.ticks.size, rounds.starts.tolist()) == (0, 0, 0, [0])


# ---------------------------------------------------------------- refits in a run

RULES = {
    "fenchel": (FenchelDualAllocator, {"n_rounds": 12}),
    "visits": (ResolvingAllocator, {"visits": 9}),
    "spread": (ResolvingAllocator, {"n_rounds": 12, "order": "spread", "min_rollouts": 2}),
    "group": (ResolvingAllocator, {"n_rounds": 12, "signal": "group", "min_rollouts": 2}),
    "exploration": (ResolvingAllocator, {"n_rounds": 12, "exploration": 1.0}),
}


def turn_of(run, turn, rates):
    """A round, some of whose reports arrive in the next one."""
    rng = np.random.default_rng((7, turn))
    offer = None if turn % 2 or not hasattr(run, "slopes") else rng.permutation(30)[:25]
    counts, rows = run.allocate(offer), np.arange(30) if offer is None else offer
    late = rng.random(rows.size) < 0.2
    for some in (~late, late):
        run.update(rows[some], rng.binomial(counts[some], rates[rows[some]]), counts[some])
    return counts.tolist()


@moved
@pytest.mark.parametrize("rule", RULES)
def test_runs_that_are_refitted_resume_to_the_last_bit(motion, rule):
    kind, arguments = RULES[rule]

    def build(fit_every=3):
        bank = BetaPosteriorBank(30, prior=(0.7, 0.7), **motion)
        return kind(bank, total_budget=1200, max_rollouts=6, fit_every=fit_every, **arguments)

    if kind is ResolvingAllocator:  # with refits None stands for another number than without
        arguments = {"exploration": build()._plan.exploration, **arguments}

    through, handed, never = build(), build(), build(None)
    rates = np.random.default_rng(8).beta(0.5, 0.5, 30)
    for turn in range(12):
        counts = turn_of(through, turn, rates)
        assert counts == turn_of(handed, turn, rates)
        if turn < 3:  # nothing changes before the first fit
            assert counts == turn_of(never, turn, rates)
            known = [metrics(run) for run in (through, never)]
            assert (
                known[0]
                == known[1]
                == {"drift": 0, "trend": 0, **motion_of(motion), "prior_alpha": 0.7, "prior_beta": 0.7}
            )
        state, handed = handed.state_dict(), build()
        handed.load_state_dict(state)
        assert sum(handed.balance[1:]) == 1200
    assert leaves(handed.state_dict()) == leaves(through.state_dict())
    assert through.prior_fit.status == "fitted"
    fit = metrics(through)
    assert (fit["prior_alpha"], fit["prior_beta"]) == (through.prior_fit.alpha, through.prior_fit.beta)
    assert (fit["drift"], fit["trend"]) == (through.bank.drift, through.bank.trend)
    if "forgetting" in motion:  # only the prior is fitted
        assert (fit["drift"], fit["trend"]) == (0.02, 0.3)
    assert never.bank.evidence.history is None


def metrics(run):
    return {name: run.metrics(certificate=False)[name] for name in ("drift", "trend", "prior_alpha", "prior_beta")}


def motion_of(motion):
    return {name: rate for name, rate in motion.items() if name != "forgetting"}


@pytest.mark.parametrize("moving", [False, True])
def test_a_run_learns_whether_its_policy_moves(moving):
    rng, size = np.random.default_rng(9), 100
    run = FenchelDualAllocator(
        BetaPosteriorBank(size), total_budget=8 * size * 20, n_rounds=20, max_rollouts=16, fit_every=5
    )
    logit = rng.normal(0, 1.5, size)
    for k in range(20):
        counts = run.allocate()
        run.update(None, rng.binomial(counts, 1 / (1 + np.exp(-logit - moving * 0.15 * k))), counts)
    fit = metrics(run)
    assert (fit["trend"] > 0.05) == moving
    assert fit["drift"] < 0.01
    assert run.bank.evidence.history.rounds().rollouts.sum() == run.exposure.sum()


def test_few_prompts_keep_their_latest_reports():
    history, rng = History(), np.random.default_rng(0)
    rows = np.arange(40)
    for now in range(histories.MOST // 20):
        history.add(now, rows, rng.integers(0, 2, 40).astype(float), np.ones(40, dtype=np.int64), NONE)
    rounds = history.rounds()
    assert histories.MOST / 3 < rounds.rows.size <= histories.MOST
    assert rounds.n_prompts == 40
    assert rounds.ticks[-1] == histories.MOST // 20 - 1


def test_priors_that_no_shift_could_bear_are_refused():
    words = "prior\\[0\\] must be between 1e-30 and 1e30 with drift or trend"
    with pytest.raises(ValueError, match=words):
        BetaPosteriorBank(2, prior=(1e160, 1.0), drift=0.1)
    bank = BetaPosteriorBank(2, trend=0.1)
    with pytest.raises(ValueError, match=words):
        bank.add_prompts([2], prior=(1e-160, 1.0))
    assert len(bank) == 2
