"""What a plan counts on: of the later visits as much as the belief foresees, and all of it at rest."""

import copy

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank, ResolvingAllocator
from cero_alloc._allocators.strategies import Plan
from cero_alloc._evidence.history import History
from helpers.trees import leaves

RUN = {"total_budget": 1200, "n_rounds": 10, "max_rollouts": 24}
FORMS = {
    "rounds": {},
    "least groups": {"min_rollouts": 3},
    "visits": {"visits": 9, "n_rounds": None},
    "visits, least groups": {"visits": 9, "min_rollouts": 2},
    "tokens": {"costs": np.arange(1.0, 11.0), "total_budget": 6000.0},
    "spread": {"order": "spread", "min_rollouts": 2},
    "group": {"signal": "group", "min_rollouts": 2},
    "exploration": {"exploration": 0.7},
    "exploration, visits": {"exploration": 0.7, "visits": 9, "min_rollouts": 2},
    "two waves": {"waves": 2, "min_rollouts": 2},
    "two waves, visits": {"waves": 2, "visits": 9, "n_rounds": None},
}
forms = pytest.mark.parametrize("form", FORMS)


def run_of(form="rounds", size=10, *, bank=None, **arguments):
    arguments = {name: value for name, value in (RUN | FORMS[form] | arguments).items() if value is not None}
    return ResolvingAllocator(BetaPosteriorBank(size) if bank is None else bank, **arguments)


def play(run, rounds=9, *, batches=True, retire=False):
    """Rounds over the whole pool and over batches; return the counts."""
    counts, rates = [], np.random.default_rng(5).beta(0.5, 0.5, len(run.bank))
    for turn in range(rounds):
        rng = np.random.default_rng(turn)
        offer = rng.permutation(len(run.bank))[:4] if batches and turn % 2 else np.arange(len(run.bank))
        wave = run.allocate(offer)
        while wave.any():
            counts.append(wave.tolist())
            won = rng.binomial(wave, rates[offer])
            run.update(offer, won, wave)
            wave = run.continue_round(wave, won)
        if retire and turn == 2:
            run.bank.retire([1, 7])
    return counts


def known_bank(seed=0, size=10, **motion):
    rng = np.random.default_rng(seed)
    bank = BetaPosteriorBank(size, prior=(rng.uniform(0.5, 2, size), rng.uniform(0.5, 2, size)), **motion)
    n = rng.integers(2, 60, size)
    bank.update(None, rng.binomial(n, rng.random(size)), n)
    return bank


# ---------------------------------------------------------------- at rest


def spread_before(self, left, rows):
    """Visits at rest, as if nothing were ever forgotten: those that are left, or as many as have a least group."""
    visits = 1.0 + (left - 1.0) / self.front_load
    if self.min_units > 1:
        evidence = self.bank.evidence
        active = None if evidence.retired is None else np.flatnonzero(~evidence.retired)
        pool = max(1.0, self.ledger.costs.of_offer(active, evidence.n_active))
        visits = np.minimum(visits, max(1.0, self.ledger.funds / (self.min_units * pool)))
    return visits


def values_before(self, rows):
    q, evidence = self.bank.evidence.values(rows), self.bank.evidence
    return np.minimum(q + self.exploration * evidence.standard_deviations(rows), 0.25) if self.exploration else q


@pytest.mark.parametrize("form", [form for form in FORMS if "waves" not in form])
@pytest.mark.parametrize("front_load", [1.0, 3.5, 1e300])
@pytest.mark.parametrize("retire", [False, True])
def test_a_belief_at_rest_deals_as_if_there_were_no_foresight(form, front_load, retire, monkeypatch):
    now = run_of(form, front_load=front_load)
    counts = play(now, retire=retire)
    monkeypatch.setattr(Plan, "spread_over", spread_before)
    monkeypatch.setattr(Plan, "values", values_before)
    before = run_of(form, front_load=front_load)
    assert play(before, retire=retire) == counts
    assert leaves(before.state_dict()) == leaves(now.state_dict())
    assert len(counts) > 3


# ---------------------------------------------------------------- where beliefs move


@pytest.mark.parametrize("form", ["rounds", "least groups", "visits", "visits, least groups", "tokens"])
@pytest.mark.parametrize("seed", range(4))
def test_a_belief_that_foresees_nothing_deals_as_if_every_visit_were_the_last(form, seed):
    """Of a drift without end only the prior holds, which is next to nothing here."""
    rng = np.random.default_rng(seed)
    n = np.arange(7, 107, 10)
    won = rng.binomial(n, rng.uniform(0.1, 0.9, 10))

    def counts(front_load, **motion):
        bank = BetaPosteriorBank(10, prior=(1e-9, 1e-9), **motion)
        bank.update(None, won, n)
        run = run_of(form, bank=bank, front_load=front_load)
        return run.allocate(budget=300.0) if form == "tokens" else run.allocate(budget=120, exact=True)

    greedy = counts(1e300)
    assert counts(1.0, drift=1e200).tolist() == greedy.tolist()
    assert counts(1.0).tolist() != greedy.tolist()


@pytest.mark.parametrize("form", ["rounds", "least groups", "visits"])
def test_more_drift_spreads_over_fewer_visits(form):
    left, spread = np.full(10, 9.0), []
    for drift in (0.0, 1e-6, 1e-3, 0.1, 1e200):
        plan = run_of(form, bank=known_bank(drift=drift))._plan
        spread.append(plan.spread_over(left, None))
    assert (np.diff(spread, axis=0) <= 1e-12).all()
    assert (spread[0] > spread[2]).all()
    known = known_bank()
    a0, b0 = known.evidence.prior(np.arange(10))
    floor = 1 + (spread[0] - 1) * (a0 + b0) / (known.alpha + known.beta)
    np.testing.assert_allclose(spread[-1], floor, rtol=1e-12)  # what the prior knows stays


def test_visits_in_batches_are_as_far_apart_as_the_batches_of_the_others():
    """Ten prompts with nine visits each and four on offer: 22.5 rounds, 2.5 from a visit to the next."""
    bank = known_bank(drift=0.004, trend=0.05)
    run = run_of("visits", bank=bank)
    plan, rows = run._plan, np.array([3, 0, 8, 5])
    left = plan.visits_left(rows)[rows]
    assert left.tolist() == [9] * 4
    run._dealt(rows, 4, (0.0, 0.0))
    expected = 1 + bank.evidence.foreseen(rows, left, np.full(4, 2.5))
    assert plan.spread_over(left, rows).tolist() == expected.tolist()
    for _ in range(3):
        run.allocate(rows)
    assert (
        plan.spread_over(np.full(4, 6.0), rows).tolist()
        == (1 + bank.evidence.foreseen(rows, np.full(4, 6.0), np.full(4, 78 / 4 / 6))).tolist()
    )


@forms
@pytest.mark.parametrize(
    "motion", [{"drift": 0.02}, {"trend": 0.2}, {"drift": 0.02, "trend": 0.2}, {"forgetting": 0.9}]
)
@pytest.mark.parametrize("retire", [False, True])
def test_runs_to_the_end_with_prompts_that_retire_or_have_no_visits_left(form, motion, retire):
    run = run_of(form, bank=known_bank(**motion), **({} if "exploration" in form else {"exploration": 0.4}))
    counts = play(run, 14, retire=retire)
    assert len(counts) > 5
    assert run.exposure.sum() > 0
    assert sum(run.balance[1:]) == pytest.approx(run.balance.total)
    if retire:
        owed = copy.deepcopy(run.exposure)
        play(run, 2)
        assert (run.exposure[[1, 7]] == owed[[1, 7]]).all()


def test_past_jumps_shorten_the_plan():
    bank = known_bank()
    run = run_of(bank=bank)
    left = np.full(10, 9.0)
    assert run._plan.spread_over(left, None).tolist() == left.tolist()
    bank.evidence.history = History()
    bank.evidence.history.note_jump(0, 0.1)
    bank.tick(10)
    found = run._plan.spread_over(left, None)
    assert found.tolist() == (1 + bank.evidence.foreseen(None, left, np.full(10, 10 / 9))).tolist()
    assert (found < 0.7 * left).all()
    assert bank.evidence.loss == pytest.approx(np.log(10) / 10)


# ---------------------------------------------------------------- exploration


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 0.0),
        ({"fit_every": 3}, 0.4),
        ({"fit_every": 3, "min_rollouts": 2, "waves": 2}, 0.4),
        ({"fit_every": 3, "order": "spread", "min_rollouts": 2}, 0.0),
        ({"fit_every": 3, "exploration": 0.0}, 0.0),
        ({"fit_every": 3, "exploration": 1.5}, 1.5),
        ({"exploration": 0.4}, 0.4),
    ],
    ids=str,
)
def test_exploration_by_default(arguments, expected):
    run = run_of(**arguments)
    assert run._plan.exploration == expected
    assert play(run) == play(run_of(**arguments | {"exploration": expected}))


def test_the_bonus_is_paid_as_far_as_the_belief_foresees():
    gains = []
    for drift in (0.0, 1e-4, 1e-2, 1e200):
        bank = known_bank(drift=drift)
        run = run_of("exploration", bank=bank)
        q, deviations = bank.evidence.values(None), bank.evidence.standard_deviations(None)
        share = np.ones(10)
        if drift:
            share = bank.evidence.foreseen(None, np.array([10.0]), np.array([1.0])) / 9
        values = run._plan.values(None)
        np.testing.assert_allclose(values, np.minimum(q + 0.7 * share * deviations, 0.25), rtol=1e-12)
        rows = np.array([4, 1])
        assert run._plan.values(rows).tolist() == values[rows].tolist()
        gains.append(values - q)
    assert (np.diff(gains, axis=0) <= 1e-15).all()
    assert (gains[0] > gains[-1]).any()


def test_a_bonus_reads_the_posterior_once(monkeypatch):
    run = run_of("exploration", bank=known_bank(drift=0.01))
    reads, posterior = [], run.bank.evidence.posterior
    monkeypatch.setattr(run.bank.evidence, "posterior", lambda rows: reads.append(rows) or posterior(rows))
    run._plan.values(None)
    assert reads == [None]


def test_there_is_nothing_to_explore_for_on_the_last_visit_of_a_belief_that_moves():
    for motion, expected in (({}, True), ({"drift": 0.01}, False)):
        bank = known_bank(**motion)
        run = run_of("exploration, visits", bank=bank, visits=[1, *[9] * 9])
        extra = run._plan.values(None) > bank.evidence.values(None)
        assert extra[0] == expected
        assert extra[1:].any()
