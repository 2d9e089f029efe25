"""Labels and floors: priors by label, and a least share of every round."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, ResolvingAllocator, SaturatingUtility
from cero_alloc._allocators.floors import Floors
from cero_alloc._allocators.labels import Labels
from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._solvers.tables import solve_batch
from cero_alloc._solvers.units import Visit

LABELS = ["math"] * 6 + ["code"] * 10 + ["chat"] * 8
RATES = np.append(np.zeros(6), np.linspace(0.1, 0.95, 18))
WAYS = [
    {},
    {"visits": 12},
    {"min_rollouts": 4},
    {"signal": "group", "min_rollouts": 2},
    {"unit_size": 2},
    {"order": "spread"},
    {"order": "spread", "min_rollouts": 4, "visits": 12},
]


def build(way, floors=None, labels=LABELS, **change):
    run = {"total_budget": 24 * 4 * 12, "n_rounds": 12, "max_rollouts": 12} | way | change
    bank = BetaPosteriorBank(len(labels), forgetting=0.9)
    return ResolvingAllocator(bank, **run, groups=labels, floors=floors)


# ---------------------------------------------------------------- a round


def best_under_floors(gains, codes, total, least):
    """The largest score of whole counts with this total and at least so many units of each label, over all counts."""
    most = gains.shape[1]
    scores = [[sum(row[:n]) for n in range(most + 1)] for row in gains.tolist()]
    best = -np.inf
    for counts in itertools.product(range(most + 1), repeat=len(scores)):
        dealt = np.bincount(codes, weights=counts, minlength=len(least))
        if sum(counts) == total and (dealt >= least).all():
            best = max(best, sum(score[n] for score, n in zip(scores, counts, strict=True)))
    return best


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_counts_are_the_best_ones_under_the_floors(seed):
    rng = np.random.default_rng(seed)
    size, most = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    names = [f"label {code}" for code in rng.integers(0, 3, size)]
    labels, tie = Labels(names, size), rng.permutation(size).astype(np.int32)
    gains = -np.sort(-rng.exponential(rng.choice([0.01, 1.0, 10.0], (size, 1)), (size, most)), axis=1)
    ledger = RolloutLedger.plan(size, total_budget=100, n_rounds=100, unit_size=1, max_rollouts=most)
    shares = dict(zip(labels.names, rng.dirichlet(np.ones(len(labels.names) + 1)), strict=False))
    floors, total = Floors(labels, shares, ledger, 1), int(rng.integers(0, size * most + 1))

    def solve(at, n):
        found = solve_batch(gains[at], min_units=1, low=n, high=n, floor=0.0, tie=tie[at])
        return Visit(found.units, found.price)

    free = solve(np.arange(size), total)
    lifted = floors.lift(None, free, solve)
    _, least = floors._least(total, np.bincount(labels.codes))
    exact = np.array([shares[name] * total for name in labels.names])
    room = np.bincount(labels.codes) * most
    assert (least >= np.minimum(np.floor(exact), room)).all()
    assert (least < exact + 1).all()
    assert lifted.units.sum() == total
    score = sum(gains[row, :n].sum() for row, n in enumerate(lifted.units))
    assert score == pytest.approx(best_under_floors(gains, labels.codes, total, least), rel=1e-12, abs=1e-12)
    if (np.bincount(labels.codes, weights=free.units) >= least).all():
        assert lifted.units is free.units


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_floors_hold_in_every_round_and_totals_stay_exact(way, part):
    allocator, rng = build(way, {"math": 0.35, "chat": 0.3}), np.random.default_rng(1)
    codes = np.array([("math", "code", "chat").index(label) for label in LABELS])
    step = max(way.get("unit_size", 1), way.get("min_rollouts", 1))
    for _ in range(12):
        offer = rng.permutation(24)[:16] if part else np.arange(24)
        counts = allocator.allocate(offer, 48, exact=True)
        assert counts.sum() == 48
        dealt, room = (np.bincount(codes[offer], weights=n, minlength=3) for n in (counts, np.full(offer.size, 12)))
        for code, share in ((0, 0.35), (2, 0.3)):
            assert dealt[code] >= min(share * 48, room[code]) - 1e-9
        assert set(counts.tolist()) <= {0, *range(step, 13)}
        allocator.update(offer, rng.binomial(counts, RATES[offer]), counts)
    without = build(way)
    assert without.allocate(None, 48, exact=True).sum() == 48


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_total_is_that_of_the_round_without_floors(way):
    counts = [build(way, floors).allocate() for floors in ({"math": 0.9}, {}, None)]
    assert counts[0].sum() == counts[1].sum() == counts[2].sum()
    assert counts[1].tolist() == counts[2].tolist()
    assert counts[0][:6].sum() > counts[1][:6].sum()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_order_of_the_ids_does_not_matter(way):
    rng = np.random.default_rng(3)
    one, two = (build(way, {"math": 0.5, "chat": 0.1}) for _ in range(2))
    for _ in range(6):
        offer = rng.permutation(24)[:14]
        other = rng.permutation(offer)
        ours, theirs = one.allocate(offer, 30), two.allocate(other, 30)
        assert dict(zip(offer, ours, strict=True)) == dict(zip(other, theirs, strict=True))
        for allocator, ids, counts in ((one, offer, ours), (two, other, theirs)):
            allocator.update(ids, np.floor(counts * RATES[ids]), counts)


def test_rounds_too_small_for_all_floors_take_turns():
    labels = list("abcde")
    allocator = build({}, dict.fromkeys(labels, 0.2), labels, total_budget=100, n_rounds=100, max_rollouts=2)
    dealt = np.zeros(5)
    for _ in range(20):
        counts = allocator.allocate(None, 1, exact=True)
        dealt += counts
        allocator.update(None, [0, 0, 0, counts[3], 0], counts)
    assert dealt.tolist() == [4.0] * 5


def test_exact_totals_stay_exact_where_groups_leave_few_splits():
    """Counts of 8 to 10: a total of 20 is two prompts with 10 each, and the floor of 8 becomes 10."""
    allocator = build({"min_rollouts": 8, "max_rollouts": 10}, {"math": 0.4})
    counts = allocator.allocate(None, 20, exact=True)
    assert counts[:6].sum() == 10
    assert sorted(counts[counts > 0]) == [10, 10]


def test_a_label_alone_on_offer_takes_what_it_can():
    allocator = build({}, {"math": 0.1, "code": 0.8})
    assert allocator.allocate([0, 1], 24, exact=True).tolist() == [12, 12]
    assert allocator.allocate([0, 6], 24, exact=True).tolist() == [12, 12]
    assert allocator.allocate([], 0, exact=True).tolist() == []
    assert allocator.allocate(None, 0).sum() == 0


# ---------------------------------------------------------------- priors by label


def play(allocator, rounds, rng):
    for _ in range(rounds):
        counts = allocator.allocate()
        allocator.update(None, rng.binomial(counts, 0.3), counts)


def test_each_label_gets_its_prior_where_the_bank_forgets():
    rng, labels = np.random.default_rng(0), ["hard"] * 200 + ["easy"] * 200 + ["few"] * 5
    rates = np.concatenate([rng.beta(0.5, 3.0, 200), rng.beta(3.0, 0.5, 200), np.full(5, 0.5)])
    bank = BetaPosteriorBank(405, forgetting=0.95)
    run = {"total_budget": 405 * 8 * 6, "n_rounds": 6, "max_rollouts": 16, "fit_every": 4}
    allocator = ResolvingAllocator(bank, **run, groups=labels)
    for _ in range(5):
        counts = allocator.allocate()
        allocator.update(None, rng.binomial(counts, rates), counts)
    alpha, beta = bank.evidence.a0, bank.evidence.b0
    means = alpha / (alpha + beta)
    assert means[0] == means[199] < 0.3 < 0.7 < means[200] == means[399]
    assert (alpha[-1], beta[-1]) == (1.0, 1.0)  # too few to fit
    fit = allocator.prior_fit
    assert (fit.status, np.isnan(fit.alpha)) == ("fitted", True)
    assert fit.n_prompts == 405
    with pytest.raises(ValueError, match="prior must be given for new prompts"):
        allocator.add_prompts(["new"], groups=["unheard of"])
    allocator.add_prompts(["new"], groups=["hard"])
    assert bank.evidence.a0[-1] == alpha[0]


def test_the_pool_shares_a_prior_where_drift_is_fitted():
    one, two = (
        ResolvingAllocator(
            BetaPosteriorBank(30), total_budget=960, n_rounds=8, max_rollouts=8, fit_every=2, groups=groups
        )
        for groups in (["x"] * 15 + ["y"] * 15, None)
    )
    for allocator in (one, two):
        play(allocator, 8, np.random.default_rng(2))
    assert one.prior_fit == two.prior_fit
    assert one.bank.evidence.a0.size == 1
    assert one.exposure.tolist() == two.exposure.tolist()


def test_labels_without_use_change_no_count():
    one, two = (build({"order": "spread"}, floors, groups) for floors, groups in (({}, LABELS), (None, range(24))))
    for allocator in (one, two):
        play(allocator, 12, np.random.default_rng(4))
    assert one.exposure.tolist() == two.exposure.tolist()


# ---------------------------------------------------------------- prompts that join, and states


def test_prompts_that_join_are_floored_by_their_label():
    allocator = build({}, {"math": 0.4, "code": 0.1})
    allocator.add_prompts(["m", "n"], groups=iter(["math", "new"]))
    allocator.bank.add_prompts(["u"])
    counts = allocator.allocate(["m", "n", "u", 6], 20, exact=True)
    assert counts[0] >= 8
    assert allocator._labels.of_prompts()[-3:] == ("math", "new", None)
    state = allocator.state_dict()
    twin = build({}, {"math": 0.4, "code": 0.1})
    twin.load_state_dict(state)
    assert twin.allocate().tolist() == allocator.allocate().tolist()
    for names in (["math"] * 2, [["math"], "code", "chat"], ["math", "code", "chat", None]):
        broken = allocator.state_dict()
        broken["labels"]["names"] = names
        with pytest.raises(ValueError, match=r"state\['labels'\]"):
            twin.load_state_dict(broken)


def test_new_prompts_with_the_wrong_labels_change_nothing():
    allocator = build({})
    before = repr(allocator.state_dict())
    for ids, groups, error in (
        (["m", "n"], ["math"], ValueError),
        (["m"], "math", TypeError),
        ([3], ["math"], ValueError),
        (["m"], None, ValueError),
    ):
        with pytest.raises(error):
            allocator.add_prompts(ids, groups=groups)
    assert repr(allocator.state_dict()) == before
    allocator.add_prompts([], groups=[])
    assert repr(allocator.state_dict()) == before


def test_floors_may_be_pairs_and_shares_of_any_number():
    one = build({}, {"math": np.float64(0.5)})
    two = build({}, [("math", 0.5)])
    two.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match=r"state\['arguments'\]\['floors'\]"):
        build({}, {"math": 0.25}).load_state_dict(one.state_dict())
    with pytest.raises(TypeError, match=r"floors\['math'\] must be a number"):
        build({}, {"math": None})


def test_a_utility_and_a_cost_for_all_go_with_floors():
    way = {"costs": 2.5, "total_budget": 2000.0, "utility": SaturatingUtility("log", scaling="height")}
    counts = build(way, {"math": 0.5}).allocate()
    assert counts[:6].sum() >= 0.5 * counts.sum() > 0
