"""The even order: systematic sampling against its twins, and ResolvingAllocator(order="spread") in every kind of run."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import twins
from cero_alloc import BetaPosteriorBank, OfflineOracle, ResolvingAllocator, SaturatingUtility
from cero_alloc._solvers.remaining import Remaining
from cero_alloc._solvers.sampling import deal_evenly, expected_counts, round_total, systematic
from cero_alloc.simulation import Pool, known_bank, simulate, static_pool

seeds = st.integers(0, 2**32 - 1)


class Comb:
    """A generator whose uniform numbers are a given share of their range, and whose permutations are another's."""

    def __init__(self, share, seed=0):
        self.share, self.permutation = share, np.random.default_rng(seed).permutation

    def integers(self, low, high):
        return low + min(high - low - 1, int(self.share * (high - low)))


def rates_of(rng, size):
    rate = rng.exponential(1.0, size) * 10.0 ** rng.uniform(-6, 6, size if rng.random() < 0.3 else 1)
    return rate * (rng.random(size) < rng.choice([0.0, 0.5, 1.0], p=[0.1, 0.3, 0.6]))


# ------------------------------------------------------------------ sampling


@given(st.integers(1, 8), st.integers(0, 7), st.integers(0, 60), st.integers(0, 60), st.floats(0, 70))
def test_round_total_is_the_nearest_that_counts_add_up_to(quantum, more, one, other, target):
    max_units, (low, high) = quantum + more, sorted((one, other))
    found = round_total(target, float(low), float(high), quantum, max_units)
    nearest, inside, below = twins.round_total(target, low, high, quantum, max_units)
    if nearest is not None:
        assert found % quantum == 0
        assert low <= found <= high
        assert abs(found - target) == pytest.approx(abs(nearest - target))
    elif inside:
        assert found in inside
    else:
        assert found == below


@pytest.mark.parametrize(("whole", "even"), [(0, 0), (1, 2), (2, 2), (3, 4), (100_000, 100_000)])
def test_rounding_does_not_decide_a_plan_halfway_between_two_totals(whole, even):
    for off in (0.0, 1e-13, -1e-13):  # what is left of rounding in a sum over the pool
        halfway = (whole + 0.5) * (1.0 + off)
        assert round_total(8 * halfway, 0.0, 1e6, 8, 8) == 8 * even
        assert round_total(halfway, 0.0, 1e6, 1, 8) == even
    assert round_total(whole + 0.5 + 1e-4, 0.0, 1e6, 1, 8) == whole + 1
    assert round_total(whole + 0.5 - 1e-4, 0.0, 1e6, 1, 8) == whole


@given(seeds)
def test_expected_counts_match_their_twin(seed):
    rng = np.random.default_rng(seed)
    size, most = int(rng.integers(1, 12)), int(rng.integers(1, 5))
    rate, total = rates_of(rng, size), int(rng.integers(1, size * most + 1))
    least = float(rng.choice([0.0, rng.random(), 1.0]))
    expected = expected_counts(rate, total, float(most), least)
    assert expected.sum() == pytest.approx(total, rel=1e-12)
    assert expected.min() >= min(least, total / size) * (1 - 1e-12)
    assert expected.max() <= most
    np.testing.assert_allclose(expected, twins.expected_counts(rate.tolist(), total, most, least), rtol=1e-6, atol=1e-9)


@given(seeds, st.floats(0, 1))
def test_systematic_sampling_is_a_comb_over_the_prompts(seed, share):
    """Expectations in 64ths, so that nothing rounds: the twin's offset is 1 less the part of a tooth that is added."""
    rng = np.random.default_rng(seed)
    parts = rng.integers(0, 200, rng.integers(1, 20))
    parts[-1] += -parts.sum() % 64
    total = int(parts.sum()) // 64
    counts = systematic(parts / 64, total, Comb(share))
    unit = 2 ** (62 - parts.size.bit_length())
    offset = 1 - Fraction(min(unit - 1, int(share * unit)), unit)
    assert counts.tolist() == twins.systematic([Fraction(int(part), 64) for part in parts], offset)
    assert counts.sum() == total


@given(seeds)
def test_counts_are_expectations_rounded_down_or_up_and_unbiased(seed):
    rng = np.random.default_rng(seed)
    size, most = int(rng.integers(1, 40)), int(rng.integers(1, 6))
    total = int(rng.integers(1, size * most + 1))
    expected = expected_counts(rates_of(rng, size), total, float(most), float(rng.random() < 0.3) * rng.random())
    grid = 256
    draws = np.array([systematic(expected, total, Comb((j + 0.5) / grid)) for j in range(grid)])
    assert (draws.sum(axis=1) == total).all()
    assert (draws >= np.floor(expected)).all()
    assert (draws <= np.ceil(expected)).all()
    assert (draws <= most).all()
    np.testing.assert_allclose(draws.mean(axis=0), expected, atol=1.01 / grid)  # the grid's own error


@pytest.mark.parametrize("expected", [[1 / 3] * 3, [0.5 + 2**-52, 0.5]], ids=["below", "above"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_total_is_exact_where_the_expectations_round(expected, share):
    assert systematic(np.array(expected), 1, Comb(share)).sum() == 1


@given(seeds)
def test_any_total_that_counts_add_up_to_is_dealt(seed):
    rng = np.random.default_rng(seed)
    size, quantum = int(rng.integers(1, 9)), int(rng.integers(1, 7))
    max_units = quantum + int(rng.integers(0, 2 * quantum + 3))
    total = int(rng.integers(0, size * max_units + 1))
    if -(-total // max_units) * quantum > total:
        return  # no counts add up to it
    rate = rates_of(rng, size)
    units = deal_evenly(rate, total, quantum=quantum, max_units=max_units, least=0.0, rng=rng)
    assert units.sum() == total
    assert (((units >= quantum) & (units <= max_units)) | (units == 0)).all()


def test_a_total_that_fewer_prompts_cannot_hold_visits_one_more():
    """Eleven in counts of {0} u [4, 8] take two prompts, though both quanta of 4 fall on one."""
    rate = np.array([1.0, 0.0, 0.0])
    for seed in range(5):
        units = deal_evenly(rate, 11, quantum=4, max_units=8, least=0.0, rng=np.random.default_rng(seed))
        assert units[0] == 6
        assert sorted(units[1:]) == [0, 5]


def test_what_is_no_whole_quantum_goes_to_those_with_the_most_expectation():
    rate = np.array([1.0, 3.0, 2.0, 0.0])
    units = deal_evenly(rate, 26, quantum=4, max_units=12, least=0.0, rng=np.random.default_rng(0))
    assert units.tolist() == [5, 12, 9, 0]  # six quanta as expected, and two units where there is room


# ------------------------------------------------------------------ the allocator


def plan_of(policy, rows, left):
    """The continuous plan of some rows, by the oracle."""
    q, z = policy.bank.value(), policy.exposure / policy.horizon.unit_size
    upper = z + left * policy.horizon.max_units
    budget = min(z.sum() + policy.ledger.units_left, upper.sum())
    solution = OfflineOracle(policy.utility).solve(
        q, budget, equal_share=policy.horizon.equal_share_units, lower=z, upper=upper
    )
    return np.maximum(solution.allocation - z, 0.0)[rows]


@settings(max_examples=60)
@given(seeds)
def test_counts_follow_the_plan_in_any_run(seed):
    rng = np.random.default_rng(seed)
    m, k, g, min_units = (
        int(rng.integers(1, 12)),
        int(rng.integers(1, 8)),
        int(rng.integers(1, 3)),
        int(rng.integers(0, 4)),
    )
    max_units = max(1, min_units) + int(rng.integers(0, 6))
    batches = rng.random() < 0.5
    visits = rng.integers(1, k + 1, m) if batches else None
    most = int(visits.sum() if batches else m * k) * max_units
    budget, quantum = int(rng.integers(1, most + 1)), max(1, min_units)
    utility = SaturatingUtility("log", scaling="height", saturation=float(10 ** rng.uniform(-1, 1)))
    bank = BetaPosteriorBank(m)
    own = {"visits": visits} if batches else {}
    policy = ResolvingAllocator(
        bank, total_budget=budget * g, n_rounds=k, unit_size=g, min_rollouts=min_units * g, max_rollouts=max_units * g,
        utility=utility, order="spread", seed=rng, **own,
    )  # fmt: skip
    told = visits.astype(float) if batches else None
    for now in range(k):
        rows = rng.permutation(m)[: rng.integers(1, m + 1)] if batches else np.arange(m)
        left = np.full(m, float(k - now))
        if batches:
            left = np.maximum(told, 0.0)
            left[rows] = np.maximum(left[rows], 1.0)
        expected = plan_of(policy, rows, left) / left[rows]
        funds, cap = policy.ledger.units_left, None
        if rng.random() < 0.3:
            cap = int(rng.integers(0, min(funds, rows.size * max_units) + 1))
        before = policy.round
        counts = policy.allocate(rows if batches else None, None if cap is None else cap * g)
        if policy.round == before:
            assert funds == 0
            break
        if batches:
            told[rows] -= 1
        n, total = counts // g, int(counts.sum()) // g
        assert (n * g == counts).all()
        assert ((n == 0) | ((n >= quantum) & (n <= max_units))).all()
        assert total <= (funds if cap is None else cap)
        wanted = expected.sum()  # the oracle's plan never exceeds the budget
        if cap is not None and wanted > 0:  # nearest whole quanta, within the cap
            assert abs(total - min(wanted, cap)) <= quantum + 1e-6
        if total % quantum == 0 and wanted > 0 and max_units % quantum == 0:
            scaled = twins.expected_counts(
                (expected * (expected > 1e-9)).tolist(), total // quantum, max_units // quantum, 0
            )
            for count, part in zip(n // quantum, scaled, strict=True):
                assert floor(part - 1e-4) <= count <= ceil(part + 1e-4)
        policy.update(rows, rng.binomial(counts, 0.4), counts)


def test_each_count_is_on_plan_in_the_mean():
    """One round of 2,000 seeds; errors in units of the binomial's standard deviation."""
    pool = static_pool(30, 0.6, 0.6, seed=3)
    run = {"total_budget": 30 * 12, "n_rounds": 20, "max_rollouts": 4}
    policies = [ResolvingAllocator(known_bank(pool), **run, order="spread", seed=seed) for seed in range(2000)]
    expected = plan_of(policies[0], np.arange(30), np.full(30, 20.0)) / 20
    counts = np.array([policy.allocate() for policy in policies])
    assert (counts.sum(axis=1) == 18).all()
    part = expected - np.floor(expected)
    sigma = np.sqrt(part * (1 - part) / len(policies))
    assert (np.abs(counts.mean(axis=0) - expected) <= 4.5 * sigma + 1e-6).all()
    assert counts.std(axis=0).max() > 0.3  # and they do vary


def test_the_whole_budget_is_spent_on_an_even_pace():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        m, k, min_units = int(rng.integers(2, 30)), int(rng.integers(2, 20)), int(rng.choice([0, 2, 4]))
        pool = static_pool(m, 0.5, 0.5, seed=rng)
        budget = int(rng.integers(k, 2 * k + 1)) * max(1, min_units)
        policy = ResolvingAllocator(
            known_bank(pool), total_budget=budget, n_rounds=k, min_rollouts=min_units, max_rollouts=8, order="spread"
        )
        totals = [int(policy.allocate().sum()) for _ in range(k)]
        assert sum(totals) == budget
        assert max(totals) - min(totals) <= max(1, min_units)


def test_the_mix_of_prompts_stays_the_same_over_the_run():
    """The best order begins with the best prompts alone and ends with the rest."""
    pool = static_pool(100, 0.6, 0.6, seed=1)
    q = known_bank(pool).value()

    def dealt(order):
        policy = ResolvingAllocator(
            known_bank(pool), total_budget=100 * 32, n_rounds=80, min_rollouts=2, max_rollouts=8, order=order
        )
        return simulate(policy, pool, 80, feedback=False).counts

    best, even = dealt("best"), dealt("spread")
    assert (even[:10].any(axis=0)).sum() > 1.3 * (best[:10].any(axis=0)).sum()
    falls = [float((n[:20] @ q).sum() / n[:20].sum() - (n[-20:] @ q).sum() / n[-20:].sum()) for n in (best, even)]
    assert falls[0] > 0.03
    assert abs(falls[1]) < 0.01


@given(seeds, st.integers(1, 6), st.integers(0, 4))
@settings(max_examples=60)
def test_exact_totals_are_kept_or_refused_before_anything_changes(seed, min_units, more):
    rng = np.random.default_rng(seed)
    m, max_units = int(rng.integers(1, 8)), min_units + more
    policy = ResolvingAllocator(
        BetaPosteriorBank(m),
        total_budget=m * max_units,
        visits=2,
        min_rollouts=min_units,
        max_rollouts=max_units,
        order="spread",
    )
    for _ in range(3):
        offer = rng.permutation(m)[: rng.integers(1, m + 1)]
        total = int(rng.integers(0, offer.size * max_units + 1))
        before = policy.state_dict()
        try:
            counts = policy.allocate(offer, total, exact=True)
        except ValueError as error:
            assert "budget must" in str(error)  # noqa: PT017
            np.testing.assert_equal(policy.state_dict(), before)
        else:
            assert counts.sum() == total


def test_retired_prompts_get_nothing_and_new_ones_join():
    bank = BetaPosteriorBank(6)
    policy = ResolvingAllocator(bank, total_budget=480, n_rounds=20, min_rollouts=2, max_rollouts=8, order="spread")
    policy.allocate()
    bank.retire([1, 4])
    dealt = np.array([policy.allocate() for _ in range(6)])
    assert dealt[:, [1, 4]].sum() == 0
    assert (dealt[:, [0, 2, 3, 5]].sum(axis=0) > 0).all()
    bank.add_prompts([6, 7])
    dealt = np.array([policy.allocate() for _ in range(13)])
    assert (dealt[:, 6:].sum(axis=0) > 0).all()
    assert dealt[:, [1, 4]].sum() == 0
    assert policy.remaining_budget == 0


@pytest.mark.parametrize("visits", [None, 8])
def test_the_order_in_which_prompts_are_named_does_not_matter(visits):
    rng = np.random.default_rng(0)
    pool = static_pool(40, 0.6, 0.6, seed=2)
    run = {"total_budget": 40 * 10, "n_rounds": 8, "visits": visits, "max_rollouts": 8, "order": "spread"}
    one, two = (ResolvingAllocator(known_bank(pool), **run) for _ in range(2))
    for now in range(8):
        rows = np.arange(40) if visits is None or now % 3 == 0 else np.sort(rng.permutation(40)[:17])
        turn = rng.permutation(rows.size)
        first = one.allocate(rows if now % 2 else None if rows.size == 40 else rows)
        assert two.allocate(rows[turn]).tolist() == first[turn].tolist()
    assert one.remaining_budget == two.remaining_budget


def test_the_seed_decides_and_the_state_holds_it():
    pool = static_pool(40, 0.6, 0.6, seed=2)

    def build(seed):
        run = {"total_budget": 400, "n_rounds": 10, "min_rollouts": 2, "max_rollouts": 8}
        return ResolvingAllocator(known_bank(pool), **run, order="spread", coverage=8, seed=seed)

    one, same, other = build(1), build(1), build(2)
    first = one.allocate().tolist()
    assert first == same.allocate().tolist() != other.allocate().tolist()
    other.load_state_dict(one.state_dict())
    assert [one.allocate().tolist() for _ in range(9)] == [other.allocate().tolist() for _ in range(9)]


def test_the_pace_deals_where_there_is_no_demand():
    lines = SaturatingUtility("capped-linear", scaling="height", saturation=10.0)  # saturates at 0.8 rollouts
    bank = known_bank(static_pool(4, 0.5, 0.5, seed=0))
    policy = ResolvingAllocator(bank, total_budget=32, n_rounds=8, max_rollouts=4, utility=lines, order="spread")
    dealt = np.array([policy.allocate() for _ in range(8)])
    assert dealt[0].sum() == 3  # the low end of the band
    wanted = dealt.cumsum(axis=0)[:-1].min(axis=1) < 1
    assert not wanted[-1]
    assert (dealt.max(axis=1) - dealt.min(axis=1) <= 1)[1:][~wanted].all()  # equal expectations
    assert policy.remaining_budget == 0


def test_rollouts_without_a_gain_are_dealt_at_an_even_pace():
    """Slopes underflow after the first rollout: the plan is all the room there is, at price 0."""
    flat = SaturatingUtility("exponential", scaling="height", saturation=1e4)
    bank = known_bank(static_pool(4, 0.5, 0.5, seed=0))
    policy = ResolvingAllocator(bank, total_budget=64, n_rounds=8, max_rollouts=4, utility=flat, order="spread")
    assert [int(policy.allocate().sum()) for _ in range(8)] == [8] * 8
    assert policy.price == 0.0


def test_the_rounding_of_an_exposure_is_no_demand():
    z = np.array([1.0 - 2.0**-53, 0.5])  # a line that is full at 1
    line = SaturatingUtility("capped-linear", scaling="height")
    rest = Remaining(np.full(2, 0.2), z, np.full(2, 8.0), np.ones(1), 4.0, 1.0, line)
    assert rest.planned(rest.clear(1.0)).tolist() == [0.0, 0.5]


def test_what_the_caps_can_only_just_hold_is_dealt_in_full():
    """The budget pays for every visit at the most rollouts, so that a round's cap is taken in full."""
    policy = ResolvingAllocator(BetaPosteriorBank(3), total_budget=30, visits=5, max_rollouts=2, order="spread")
    assert policy.allocate([0, 1], budget=3).sum() == 3
    assert policy.allocate([0, 2], budget=100).tolist() == [2, 2]


def test_front_load_brings_a_batch_forward():
    bank = known_bank(Pool(np.full(4, 0.5)))
    run = {"total_budget": 64, "visits": 4, "max_rollouts": 16, "band": float("inf"), "order": "spread"}
    even, front = (ResolvingAllocator(bank, **run, front_load=load) for load in (1.0, 3.0))
    assert even.allocate().tolist() == [4] * 4
    assert front.allocate().tolist() == [8] * 4


# ------------------------------------------------------------------ coverage


def test_coverage_deals_the_worthless_once_in_so_many_offers():
    p = np.concatenate([np.zeros(20), np.full(20, 0.5)])
    run = {"total_budget": 40 * 200, "n_rounds": 400, "min_rollouts": 2, "max_rollouts": 8, "order": "spread"}

    def dealt(coverage):
        policy = ResolvingAllocator(known_bank(Pool(p)), **run, coverage=coverage)
        return np.array([policy.allocate() for _ in range(400)])[:, :20]

    assert dealt(None).sum() == 0
    counts = dealt(8)
    chance, rounds = 1 / 8, 400
    assert set(np.unique(counts)) == {0, 2}
    np.testing.assert_allclose((counts > 0).mean(axis=0), chance, atol=4.5 * np.sqrt(chance * (1 - chance) / rounds))
    missed = (counts[:-2] == 0) & (counts[1:-1] == 0) & (counts[2:] == 0)  # three in a row
    assert missed.mean() == pytest.approx((1 - chance) ** 3, abs=0.03)


def test_coverage_is_no_more_than_a_round_pays_for():
    policy = ResolvingAllocator(
        BetaPosteriorBank(10), total_budget=100, n_rounds=10, max_rollouts=4, order="spread", coverage=1
    )
    assert policy.allocate().tolist() == [1] * 10
    assert policy.allocate(budget=3).sum() == 3
    policy.bank.add_prompts(range(10, 30))
    assert policy.allocate().max() == 1  # thirty floors of a third


# ------------------------------------------------------------------ errors


BAD = [
    ({"order": "even"}, ValueError, "order must be 'best' or 'spread', got order = 'even'. Correct the spelling."),
    ({"order": ["spread"]}, ValueError, r"order must be 'best' or 'spread', got order = \['spread'\]."),
    ({"costs": [1, 2, 3, 4]}, ValueError, "order must be 'best' with costs that differ, got order = 'spread'."),
    ({"signal": "group"}, ValueError, "order must be 'best' with signal = 'group', got order = 'spread'."),
    ({"order": "best", "coverage": 4}, ValueError, "coverage must be None with order = 'best', got coverage = 4."),
    ({"coverage": 0}, ValueError, "coverage must be at least 1, got coverage = 0."),
    ({"coverage": 2.5}, TypeError, "coverage must be an integer, got coverage = 2.5."),
    (
        {"coverage": 3, "min_rollouts": 4},
        ValueError,
        "coverage must be at least 4, got coverage = 3. 4 rollouts in every 3 of 32 offers are more than the run's 40: "
        "raise it, or the budget.",
    ),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD)
def test_arguments_that_do_not_fit_are_refused(change, error, text):
    with pytest.raises(error, match=text):
        ResolvingAllocator(
            BetaPosteriorBank(4), **{"total_budget": 40, "n_rounds": 8, "max_rollouts": 8, "order": "spread"} | change
        )


def test_a_loaders_batches_need_no_visits():
    """Without visits every round is expected to offer as many prompts: the deal is that of the visits which follow."""
    untold, told = (
        ResolvingAllocator(
            BetaPosteriorBank(24),
            total_budget=8 * 60,
            n_rounds=60,
            min_rollouts=2,
            max_rollouts=8,
            order="spread",
            **visits,
        )
        for visits in ({}, {"visits": 15})
    )
    rng, rates = np.random.default_rng(0), np.linspace(0.0, 1.0, 24)
    for _ in range(60):
        batch = rng.permutation(24)[:6]
        first, second = (policy.allocate(batch, budget=8, exact=True) for policy in (untold, told))
        assert first.sum() == second.sum() == 8
        for policy, counts in ((untold, first), (told, second)):
            policy.update(batch, rng.binomial(counts, rates[batch]), counts)
    assert told.allocate([]).size == 0
    for policy in (told, untold):  # both learn that the ends teach nothing
        assert policy.exposure[8:16].mean() > 1.5 * policy.exposure[np.r_[0:3, 21:24]].mean()
    assert told.remaining_budget == untold.remaining_budget == 0


def test_one_batch_gets_what_its_visits_would_give_it():
    deals = []
    for visits in (None, 10):
        policy = ResolvingAllocator(
            BetaPosteriorBank(40), total_budget=800, n_rounds=40, max_rollouts=8, order="spread", visits=visits, seed=1
        )
        policy.bank.update(None, np.arange(40) % 9, np.full(40, 8))
        deals.append(policy.allocate(range(10), budget=20, exact=True).tolist())
    assert deals[0] == deals[1]


def test_one_cost_for_all_is_dealt_in_units():
    policy = ResolvingAllocator(
        BetaPosteriorBank(4), total_budget=100.0, n_rounds=5, max_rollouts=8, costs=2.5, order="spread"
    )
    assert [int(policy.allocate().sum()) for _ in range(5)] == [8] * 5
