"""Rounds in two waves: totals, caps, the account, what may happen between the waves, and the second wave by brute force."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, ResolvingAllocator, SaturatingUtility
from helpers.trees import leaves

RUN = {"n_rounds": 6, "max_rollouts": 32, "waves": 2}


def run_of(size=10, *, bank=None, **arguments):
    arguments = {"total_budget": 96 * size, **RUN, **arguments}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    return ResolvingAllocator(BetaPosteriorBank(size) if bank is None else bank, **arguments)


def coins(counts, seed=0):
    return np.random.default_rng(seed).binomial(counts, 0.4)


def two_waves(run, offer=None, budget=None, *, exact=False, seed=0):
    """Both waves of a round whose rewards are all told."""
    first = run.allocate(offer, budget, exact=exact)
    if not first.any():
        return first, first
    won = coins(first, seed)
    run.update(offer, won, first)
    second = run.continue_round(first, won)
    run.update(offer, coins(second, seed + 1), second)
    return first, second


# ---------------------------------------------------------------- what holds in every round


def random_run(rng):
    """A random allocator in two waves, the size of its pool, and its least and largest counts in units."""
    m, rounds, g = int(rng.integers(1, 13)), int(rng.integers(1, 7)), int(rng.choice([1, 1, 2, 3, 5]))
    min_units = int(rng.choice([0, 1, 2, 3, 5]))
    probe = max(1, min_units, -(-4 // g))
    max_units = probe + max(1, min_units) + int(rng.integers(0, 13))
    by = {"n_rounds": rounds} if rng.random() < 0.5 else {"visits": rng.integers(1, rounds + 1, m)}
    offers = m * rounds if "n_rounds" in by else int(by["visits"].sum())
    bank = BetaPosteriorBank(
        m, prior=tuple(rng.uniform(0.3, 2, 2)), forgetting=float(rng.choice([1.0, 1.0, 0.9])),
        drift=float(rng.choice([0.0, 0.05])), trend=float(rng.choice([0.0, 0.2])),
    )  # fmt: skip
    n = rng.integers(0, 12, m)
    bank.update(None, rng.binomial(n, rng.random(m)), n)
    run = ResolvingAllocator(
        bank, total_budget=g * int(rng.integers(1, offers * max_units + 1)), unit_size=g, min_rollouts=g * min_units,
        max_rollouts=g * max_units, exploration=float(rng.choice([0.0, 0.5])), fit_every=rng.choice([None, 2]),
        seed=int(rng.integers(2**31)), waves=2, **by,
    )  # fmt: skip
    return run, m, g * probe


@settings(max_examples=150)
@given(st.integers(0, 2**32 - 1))
def test_totals_caps_and_the_account_of_every_round(seed):
    rng = np.random.default_rng(seed)
    run, m, probe = random_run(rng)
    h, least = run.horizon, run.min_rollouts
    while not run.ledger.finished:
        offer = None if rng.random() < 0.4 else rng.permutation(m)[: int(rng.integers(1, m + 1))]
        rows = np.arange(m) if offer is None else offer
        budget, exact = None, False
        if rng.random() < 0.7:
            budget, exact = int(rng.integers(0, rows.size * h.max_units + 1)) * h.unit_size, bool(rng.random() < 0.7)
        before, left = run.balance, copy.deepcopy(run._plan.left)
        try:
            low, high = copy.deepcopy(run)._request(run._offer(offer), budget, exact)
        except ValueError:  # no counts add up to it, or the budget is gone
            continue
        dealt = np.zeros(rows.size, dtype=np.int64)
        first = run.allocate(offer, budget, exact=exact)
        number, at_once = run.round, bool((first > probe).any())
        if first.any():
            won = coins(first, seed)
            run.update(offer, won, first, round=number)
            second = run.continue_round(first, won)
            assert not (at_once and second.any())
            for wave in (first, second):
                assert (wave % h.unit_size == 0).all()
                assert ((wave == 0) | (wave >= least)).all()
                dealt += wave
            assert run.reservations.get(number, 0) == second.sum()
            if second.any():
                assert not run.continue_round(second, 0 * second).any()
                if rng.random() < 0.7:  # or late
                    run.update(offer, coins(second, seed), second, round=number)
            with pytest.raises(ValueError, match="no open round"):
                run.continue_round(first, won)
        units = dealt // h.unit_size
        assert units.max(initial=0) <= h.max_units
        assert units.sum() <= high
        if exact or least == h.unit_size:
            assert units.sum() >= low
        if at_once:  # only where the rest could not be dealt in least counts
            assert least > h.unit_size
        assert before.left - run.balance.left == dealt.sum()
        assert sum(run.balance[1:]) == run.balance.total == h.total_budget
        assert run.balance.reserved == run.outstanding.sum() == sum(run.reservations.values())
        if left is not None:
            left[rows] -= 1
            assert run._plan.left.tolist() == left.tolist()


@pytest.mark.parametrize("min_rollouts", [0, 2, 6])
@pytest.mark.parametrize("g", [1, 3])
def test_the_first_wave_is_small(min_rollouts, g):
    run = run_of(6, unit_size=g, min_rollouts=min_rollouts // g * g, max_rollouts=48, total_budget=864)
    for seed in range(6):
        first, second = two_waves(run, budget=144, exact=True, seed=seed)
        probe = max(-(-4 // g) * g, min_rollouts // g * g)
        assert first.max() == probe
        assert first.sum() + second.sum() == 144
        assert second.max() > probe


def test_a_rest_that_no_least_counts_add_up_to_is_dealt_at_once():
    run = run_of(2, min_rollouts=4, max_rollouts=8, total_budget=60)
    first = run.allocate([0], budget=5, exact=True)  # neither 4 + 1 nor 0 + 5 is allowed
    assert first.tolist() == [5]
    assert run.continue_round(first, [2]).tolist() == [0]
    first = run.allocate([0], budget=8, exact=True)
    assert first.tolist() == [4]
    assert run.continue_round(first, [2]).tolist() == [4]


@pytest.mark.parametrize("band", [0.0, 0.1])
def test_rounds_keep_to_the_band(band):
    run = run_of(10, band=band)
    for seed in range(6):
        rate = run.remaining_budget / (6 - seed)
        first, second = two_waves(run, seed=seed)
        assert (1 - band) * rate - 1 <= first.sum() + second.sum() <= (1 + band) * rate + 1
    assert run.remaining_budget == 0


@pytest.mark.parametrize("costs", [2.5, [1.0, 2.0, 0.5, 3.0, 1.7, 1.0, 2.0, 0.5, 3.0, 1.7]], ids=["equal", "of each"])
def test_tokens(costs):
    run, price = run_of(10, costs=costs, total_budget=1600.0), np.broadcast_to(costs, 10)
    for seed in range(6):
        before = run.remaining_budget
        cap = 300.0 if seed % 2 else None
        first, second = two_waves(run, budget=cap, seed=seed)
        spent = float(((first + second) * price).sum())
        assert first.max() <= 4
        assert (first + second).max() <= 32
        assert before - run.remaining_budget == pytest.approx(spent)
        assert spent <= (before if cap is None else cap) * (1 + 1e-12)
        assert second.any()
    assert sum(run.balance[1:]) == pytest.approx(1600)


# ---------------------------------------------------------------- the second wave by brute force


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("motion", [{}, {"drift": 1e200}], ids=["at rest", "only the prior holds"])
def test_the_second_wave_is_the_best_of_all_counts(seed, rounds, motion):
    """The posterior after the first wave, what is left of the window, and the cap less the first wave's."""
    rng, m, most, least = np.random.default_rng(seed), 3, 12, 2
    utility = SaturatingUtility("exponential", scaling="rate", saturation=float(np.exp(rng.uniform(-1, 2))))
    bank = BetaPosteriorBank(m, prior=tuple(rng.uniform(0.5, 2, 2)), **motion)
    run = ResolvingAllocator(
        bank, total_budget=24 * rounds, n_rounds=rounds, min_rollouts=least, max_rollouts=most, utility=utility, waves=2
    )
    total = int(rng.integers(14, 25))
    first = run.allocate(budget=total, exact=True)
    won = rng.binomial(first, rng.random(m))
    run.update(None, won, first)
    q, z, left = bank.value(), run.exposure.astype(float), run.remaining_budget
    second = run.continue_round(first, won)
    later = max(1.0, min(rounds - 4 / most, left / (least * m))) - 1.0
    known = bank.alpha + bank.beta
    visits = 1.0 + later * (sum(side[0] for side in bank.evidence.prior(np.arange(1))) / known if motion else 1.0)

    def score(counts):
        gained = utility.value(q, (z + visits * np.array(counts)) / 8 / rounds) - utility.value(q, z / 8 / rounds)
        return float((gained / visits).sum())

    allowed = [0, *range(least, most - 4 + 1)]
    rest = total - int(first.sum())
    best = max(score(counts) for counts in itertools.product(allowed, repeat=m) if sum(counts) == rest)
    assert second.sum() == rest
    assert score(second) == pytest.approx(best, rel=1e-9, abs=1e-12)


def test_rewards_decide_the_second_wave():
    run = run_of(3, n_rounds=1, total_budget=48, max_rollouts=24)
    first = run.allocate()
    assert first.tolist() == [4, 4, 4]
    run.update(None, [2, 4, 0], first)
    second = run.continue_round(first, [2, 4, 0])
    assert second.sum() == 36
    assert second[0] > second[1:].max() + 2
    assert abs(second[1] - second[2]) <= 1  # of prompts that look alike


# ---------------------------------------------------------------- between the waves


def test_observe_between_waves_teaches_as_update_does():
    told, seen = run_of(5), run_of(5)
    for _ in range(3):
        first = told.allocate()
        assert seen.allocate().tolist() == first.tolist()
        won = coins(first)
        told.update(None, won, first)
        ids = np.repeat(np.arange(5), first)
        rewards = np.concatenate([np.arange(n) < w for n, w in zip(first, won, strict=True)]).astype(float)
        seen.observe(ids, rewards)
        assert seen.continue_round(first, won).tolist() == told.continue_round(first, won).tolist()
    assert leaves(seen.bank.state_dict()) == leaves(told.bank.state_dict())


def test_a_round_ends_with_zeros():
    run = run_of(4)
    with pytest.raises(ValueError, match="continue_round must follow allocate within a round, got no open round"):
        run.continue_round([0] * 4, [0] * 4)
    first = run.allocate(budget=90, exact=True)
    second = run.continue_round(first, coins(first))
    assert first.sum() + second.sum() == 90
    before = run.balance
    assert run.continue_round(second, coins(second)).tolist() == [0] * 4
    for _ in range(2):
        with pytest.raises(ValueError, match="no open round"):
            run.continue_round([0] * 4, [0] * 4)
    assert run.balance == before
    first = run.allocate(budget=8, exact=True)  # nothing is left for a second wave
    assert first.sum() == 8
    assert not run.continue_round(first, coins(first)).any()
    with pytest.raises(ValueError, match="no open round"):
        run.continue_round([0] * 4, [0] * 4)
    assert not run.allocate(budget=0).any()
    with pytest.raises(ValueError, match="no open round"):
        run.continue_round([0] * 4, [0] * 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "spread"}, "order must be 'best' with waves = 2, got order = 'spread'. Its counts do not depend"),
        (
            {"signal": "group"},
            "signal must be 'variance' with waves = 2, got signal = 'group'. It values whole groups.",
        ),
        ({"max_rollouts": 4}, "max_rollouts must be more than the 4 rollouts of a first wave, got max_rollouts = 4."),
        ({"max_rollouts": 7, "min_rollouts": 4}, "max_rollouts must be more than the 4 rollouts of a first wave"),
        ({"max_rollouts": 12, "unit_size": 6, "min_rollouts": 12}, "max_rollouts must be more than the 12 rollouts"),
        ({"waves": 3}, "waves must be at most 2, got waves = 3. Take 1 or 2."),
        ({"waves": 0}, "waves must be at least 1, got waves = 0. Take 1 or 2."),
        ({"waves": 1.5}, "waves must be an integer, got waves = 1.5."),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        run_of(10, **({"total_budget": 240} | arguments))
    assert str(caught.value).startswith(message)


def test_least_sizes_that_two_waves_bear():
    for arguments in (
        {"max_rollouts": 5},
        {"max_rollouts": 8, "min_rollouts": 4},
        {"max_rollouts": 12, "unit_size": 6},
    ):
        run = run_of(4, **({"total_budget": 60, "n_rounds": 3} | arguments))
        for seed in range(3):
            first, second = two_waves(run, seed=seed)
            assert (first + second).max() <= arguments["max_rollouts"]


@pytest.mark.parametrize(
    ("counts", "won", "message"),
    [
        ([5, 4, 4], [0, 0, 0], "counts must be between 0 and the 4 dealt, got counts[0] = 5."),
        ([-1, 4, 4], [0, 0, 0], "counts must be between 0 and the 4 dealt, got counts[0] = -1."),
        ([4, 4, 4], [0, 0, 5], "successes must be between 0 and counts[2] = 4, got successes[2] = 5.0."),
        ([4, 4], [0, 0], "counts must have one entry per prompt id"),
        ([4.0, 4.0, 4.0], [0, 0, 0], "counts must be integers"),
        ({4}, [0, 0, 0], "counts must be in an order"),
    ],
)
def test_a_report_that_does_not_fit_changes_nothing(counts, won, message):
    run, twin = run_of(3), run_of(3)
    first = run.allocate()
    assert first.tolist() == twin.allocate().tolist() == [4, 4, 4]
    before = leaves(run.state_dict())
    with pytest.raises((ValueError, TypeError)) as caught:
        run.continue_round(counts, won)
    assert str(caught.value).startswith(message)
    assert leaves(run.state_dict()) == before
    assert run.continue_round(first, [1, 2, 3]).tolist() == twin.continue_round(first, [1, 2, 3]).tolist()


def test_a_second_wave_that_nobody_asks_for_still_counts_the_visit():
    run = run_of(4, visits=[3, 3, 3, 2], n_rounds=None, total_budget=120)
    first = run.allocate([0, 3])
    assert run._plan.left.tolist() == [3, 3, 3, 2]
    run.update([0, 3], coins(first), first)
    second = run.allocate([1, 2])
    assert run._plan.left.tolist() == [2, 3, 3, 1]
    run.continue_round(second, coins(second))
    assert run._plan.left.tolist() == [2, 2, 2, 1]
    assert run.remaining_budget == 120 - run.exposure.sum()
    run.allocate()
    run.allocate()
    assert run._plan.left.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("by", [{"n_rounds": 6}, {"visits": 6, "n_rounds": None}], ids=["rounds", "visits"])
@pytest.mark.parametrize("motion", [{}, {"drift": 0.02, "trend": 0.1}], ids=["rest", "moving"])
@pytest.mark.parametrize("least", [0, 2])
def test_prompts_that_are_retired_between_the_waves_get_no_more(whole, by, motion, least):
    run, again = (
        run_of(8, bank=BetaPosteriorBank(8, **motion), min_rollouts=least, exploration=0.5, **by) for _ in range(2)
    )
    offer = None if whole else [5, 0, 2, 7]
    names = list(range(8)) if whole else offer
    first = run.allocate(offer, budget=60, exact=True)
    won = coins(first)
    run.update(offer, won, first)
    again.load_state_dict(run.state_dict())
    for each in (run, again):
        each.bank.retire([2, 5])
    second = run.continue_round(first, won)
    assert again.continue_round(first, won).tolist() == second.tolist()  # a loaded plan begins afresh
    assert leaves(again.state_dict()) == leaves(run.state_dict())
    assert second[names.index(2)] == second[names.index(5)] == 0
    assert first.sum() + second.sum() == 60  # the others take what they were to get
    first, second = two_waves(run, [0, 1, 2], budget=30, exact=True)
    assert first[2] == second[2] == 0
    assert first.sum() + second.sum() == 30
    first = run.allocate([0, 1])
    run.bank.retire([0, 1])
    assert not run.continue_round(first, coins(first)).any()
    assert sum(run.balance[1:]) == 96 * 8


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("by", [{"n_rounds": 6}, {"visits": 6, "n_rounds": None}], ids=["rounds", "visits"])
def test_prompts_that_join_between_the_waves_wait_for_the_next_round(whole, by):
    run = run_of(6, **by)
    offer = None if whole else [4, 0, 2]
    first = run.allocate(offer, budget=50, exact=True)
    run.update(offer, coins(first), first)
    run.bank.add_prompts(range(6, 9))
    second = run.continue_round(first, coins(first))
    assert second.shape == first.shape
    assert first.sum() + second.sum() == 50
    assert run.exposure[6:].tolist() == [0, 0, 0]
    first, second = two_waves(run, budget=90, exact=True)
    assert first.size == 9
    assert first.sum() + second.sum() == 90
    assert (first[6:] > 0).any()


@pytest.mark.parametrize("least", [0, 2])
def test_a_budget_that_shrinks_between_the_waves_is_not_overdrawn(least):
    run = run_of(6, min_rollouts=least)
    first = run.allocate(budget=150, exact=True)
    run.update(None, coins(first), first)
    run.extend_budget(10 - run.remaining_budget)
    second = run.continue_round(first, coins(first))
    assert second.sum() == 10
    assert run.remaining_budget == 0
    assert run.balance.total == first.sum() + 10
    assert not run.allocate().any()


def test_visits_given_between_the_waves_are_those_after_the_round():
    run = run_of(3, visits=2, n_rounds=None, total_budget=60)
    first = run.allocate([0, 1])
    run.extend_budget(40, visits=[4, 3, 2])
    run.continue_round(first, coins(first))
    assert run._plan.left.tolist() == [4, 3, 2]
    run.extend_budget(0, visits=1)
    assert run._plan.left.tolist() == [1, 1, 1]


# ---------------------------------------------------------------- saved between the waves, batches, streams

FORMS = {
    "whole pool": {},
    "least groups": {"min_rollouts": 3},
    "visits": {"visits": 8, "n_rounds": None},
    "refits": {"visits": 8, "n_rounds": None, "fit_every": 2, "min_rollouts": 2},
    "tokens": {"costs": np.arange(1.0, 9.0), "total_budget": 3000.0},
    "tokens, visits": {"costs": np.arange(1.0, 9.0), "total_budget": 3000.0, "visits": 8, "n_rounds": None},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ["state", "file", "pickle", "copy"])
@pytest.mark.parametrize("batches", [False, True], ids=["whole", "batches"])
def test_a_state_saved_between_the_waves_resumes_to_the_last_bit(form, how, batches, tmp_path):
    def build():
        return run_of(8, **FORMS[form])

    def again(run):
        if how == "state":
            built = build()
            built.load_state_dict(run.state_dict())
            return built
        if how == "file":
            run.save(tmp_path / "run.npz")
            return ResolvingAllocator.load(tmp_path / "run.npz")
        return pickle.loads(pickle.dumps(run)) if how == "pickle" else copy.deepcopy(run)

    through, handed = build(), build()
    for turn in range(6):
        rng = np.random.default_rng(turn)
        offer = rng.permutation(8)[:3] if batches and turn % 3 else None
        first = through.allocate(offer)
        assert handed.allocate(offer).tolist() == first.tolist()
        handed = again(handed)
        won = rng.binomial(first, 0.3)
        for run in (through, handed):
            run.update(offer, won, first)
        handed = again(handed)
        if first.any() and turn != 2:  # where a second wave is left out, too
            second = through.continue_round(first, won)
            assert handed.continue_round(first, won).tolist() == second.tolist()
            handed = again(handed)
            for run in (through, handed):
                run.update(offer, rng.binomial(second, 0.3) * 0, second)
        assert leaves(handed.state_dict()) == leaves(through.state_dict())
    assert through.exposure.sum() > 0


def test_windows_of_no_round_are_refused():
    run = run_of(3)
    run.allocate()
    state = run.state_dict()
    run.load_state_dict(state)
    for change in ({"least": np.nan}, {"most": -1.0}, {"least": 9.0, "most": 3.0}, {"most": "3"}):
        with pytest.raises(ValueError, match=r"state\['round'\] must be None or an open round"):
            run.load_state_dict(state | {"round": state["round"] | change})


@pytest.mark.parametrize("by", [{"n_rounds": 6}, {"visits": 6, "n_rounds": None}], ids=["rounds", "visits"])
@pytest.mark.parametrize("least", [0, 2])
def test_the_order_of_ids_does_not_matter(by, least):
    one, other = run_of(9, min_rollouts=least, **by), run_of(9, min_rollouts=least, **by)
    for turn in range(5):
        rng = np.random.default_rng(turn)
        offer = np.sort(rng.permutation(9)[: 9 if turn == 1 else 5])
        order = rng.permutation(offer.size)
        first = one.allocate(offer)
        assert other.allocate(offer[order]).tolist() == first[order].tolist()
        won = rng.binomial(first, 0.5)
        one.update(offer, won, first)
        other.update(offer[order], won[order], first[order])
        second = one.continue_round(first, won)
        assert other.continue_round(first[order], won[order]).tolist() == second[order].tolist()
    assert leaves(other.state_dict()["ledger"]) == leaves(one.state_dict()["ledger"])


@pytest.mark.parametrize("least", [0, 2])
def test_batches_whose_visits_are_not_told_spend_the_budget(least):
    """The multiplicative price moves once in a round, by the demand before the first wave's cap."""
    size, batch, rounds = 60, 10, 60
    spent = {}
    for waves in (1, 2):
        run = run_of(size, n_rounds=rounds, total_budget=rounds * batch * 8, min_rollouts=least, waves=waves)
        rates, rng = np.random.default_rng(0).beta(0.5, 0.5, size), np.random.default_rng(1)
        for _ in range(rounds):
            offer = rng.permutation(size)[:batch]
            first = run.allocate(offer)
            won = rng.binomial(first, rates[offer])
            run.update(offer, won, first)
            if not first.any():
                continue
            price = run.price
            second = run.continue_round(first, won)
            assert run.price == price
            run.update(offer, rng.binomial(second, rates[offer]), second)
            assert (first + second).max() <= 32
        spent[waves] = run.exposure.sum()
    assert spent[2] >= 0.95 * spent[1] > 0.9 * rounds * batch * 8


# ---------------------------------------------------------------- one wave


@pytest.mark.parametrize("form", FORMS)
def test_one_wave_is_what_it_was(form):
    plain, one = (run_of(8, **FORMS[form] | {"waves": waves}) for waves in (None, 1))
    for turn in range(4):
        counts = plain.allocate()
        assert one.allocate().tolist() == counts.tolist()
        for run in (plain, one):
            run.update(None, coins(counts, turn), counts)
        before = leaves(one.state_dict())
        assert one.continue_round(counts, coins(counts, turn)).tolist() == [0] * 8
        assert leaves(one.state_dict()) == before == leaves(plain.state_dict())
    assert (counts > 4).any()


def test_a_round_of_small_counts_has_the_same_first_wave():
    one, two = run_of(8, total_budget=8 * 6 * 2, waves=1), run_of(8, total_budget=8 * 6 * 2)
    counts = one.allocate()
    assert counts.max() <= 4
    assert two.allocate().tolist() == counts.tolist()


def test_an_interrupted_second_wave_leaves_the_plan_as_it_was(monkeypatch):
    policy = ResolvingAllocator(BetaPosteriorBank(6), total_budget=200, n_rounds=4, max_rollouts=16, waves=2)
    first = policy.allocate(budget=40)
    visits = policy._plan.visits_left(None)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(policy._strategy, "deal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        policy.continue_round(first, first // 2)
    np.testing.assert_array_equal(policy._plan.visits_left(None), visits)
