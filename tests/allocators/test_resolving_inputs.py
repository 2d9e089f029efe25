"""ResolvingAllocator under every input: renamed, late, joining and degenerate prompts, and refunds."""

import copy
import itertools

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, PriorFit, ResolvingAllocator, SaturatingUtility
from helpers.resolving import KINDS, known, visible


def play(allocator, rates, offers):
    """Run with rewards that depend on prompt and count alone; return the counts of every round."""
    dealt = []
    for offer in offers:
        counts = allocator.allocate(offer)
        chosen = allocator.bank.prompt_ids if offer is None else offer
        p = np.array([rates[i] for i in chosen])
        allocator.update(offer, np.round(counts * p), counts)
        dealt.append(counts.tolist())
    return dealt


@pytest.mark.parametrize("signal", ["variance", "group"])
@pytest.mark.parametrize("min_rollouts", [0, 2])
@pytest.mark.parametrize("costly", [False, True])
@pytest.mark.parametrize("horizon", [{"n_rounds": 6}, {"visits": 6}])
def test_renaming_the_prompts_changes_nothing(signal, min_rollouts, costly, horizon):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        m = 12
        prior, rates = (rng.uniform(0.5, 5, m), rng.uniform(0.5, 5, m)), rng.random(m)
        costs, order = rng.integers(10, 90, m), rng.permutation(m)
        offers = [rng.permutation(m)[:7] if seed % 2 else np.arange(m) for _ in range(6)]
        results = []
        for index in (np.arange(m), order):  # row r of the second bank holds prompt order[r]
            allocator = ResolvingAllocator(
                BetaPosteriorBank([int(i) for i in index], prior=(prior[0][index], prior[1][index])),
                total_budget=m * 6 * 4 * (45 if costly else 1), costs=costs[index] if costly else None,
                min_rollouts=min_rollouts, max_rollouts=16, signal=signal, seed=seed, **horizon,
            )  # fmt: skip
            results.append(play(allocator, rates, [offer.tolist() for offer in offers]))
        assert results[0] == results[1], seed


def test_deterministic_in_the_seed():
    def run(seed):
        allocator = ResolvingAllocator(BetaPosteriorBank(30), total_budget=200, n_rounds=4, max_rollouts=8, seed=seed)
        return play(allocator, np.linspace(0, 1, 30), [None] * 4)

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(np.random.default_rng(5)) == run(5)
    assert run(np.random.SeedSequence(5)) == run(5)


@pytest.mark.parametrize("signal", ["variance", "group"])
@pytest.mark.parametrize("forgetting", [1.0, 0.9])
def test_feedback_is_additive_and_order_free(signal, forgetting):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        whole, split = (
            ResolvingAllocator(
                BetaPosteriorBank(9, forgetting=forgetting), total_budget=9 * 24, n_rounds=6, max_rollouts=12,
                signal=signal,
            )
            for _ in range(2)
        )  # fmt: skip
        for _ in range(6):
            counts = whole.allocate()
            np.testing.assert_array_equal(counts, split.allocate())
            wins = rng.binomial(counts, 0.4)
            whole.update(None, wins, counts)
            first = rng.integers(0, counts + 1)
            first_wins = np.clip(wins - (counts - first), 0, first)
            parts = [(i, first_wins[i], first[i]) for i in range(9)]
            parts += [(i, wins[i] - first_wins[i], counts[i] - first[i]) for i in range(9)]
            for k in rng.permutation(len(parts)):  # whole numbers: sums in any order are the same
                split.update([parts[k][0]], [parts[k][1]], [parts[k][2]])
            np.testing.assert_allclose(whole.bank.alpha, split.bank.alpha, rtol=1e-14)
            if forgetting < 1.0:  # ageing rounds: keep the two in step to the last bit
                split.bank.evidence.outcomes[:] = whole.bank.evidence.outcomes


@pytest.mark.parametrize("signal", ["variance", "group"])
@pytest.mark.parametrize("costs", [None, 3.0, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]])
def test_late_feedback_counts_once_it_has_arrived(signal, costs):
    prompt, late = (
        ResolvingAllocator(
            BetaPosteriorBank(6), total_budget=130, n_rounds=6, max_rollouts=4, signal=signal, costs=costs
        )
        for _ in range(2)
    )
    pairs, pending = [[0, 5], [1, 4], [2, 3]], []
    for pair in pairs:  # each prompt once, so that the first half deals the same without any feedback
        first, second = (allocator.allocate(pair, budget=12) for allocator in (prompt, late))
        np.testing.assert_array_equal(first, second)
        wins = first // [1, 3]
        prompt.update(pair, wins, first)
        pending += zip(pair, wins, second, strict=True)
    for i, wins, n in reversed(pending):  # newest first
        late.update([i], [wins], [n])
    assert late.bank.alpha.tolist() == prompt.bank.alpha.tolist()
    assert late.metrics()["outstanding_rollouts"] == 0
    for _ in range(3):
        counts = prompt.allocate()
        assert late.allocate().tolist() == counts.tolist()
        for allocator in (prompt, late):
            allocator.update(None, counts // 2, counts)


def test_rounds_in_flight_without_any_feedback():
    allocator = ResolvingAllocator(BetaPosteriorBank(list("abcd")), total_budget=64, n_rounds=8, max_rollouts=4)
    first, second = allocator.allocate(), allocator.allocate()
    allocator.update(["d"], [0], [second[3]])
    allocator.update(["a"], [1.5], [first[0]])
    owed = first.sum() + second.sum() - second[3] - first[0]
    assert allocator.metrics()["outstanding_rollouts"] == owed
    allocator.update(["a"], [10], [40])  # evidence from elsewhere is welcome and owes nothing
    assert allocator.metrics()["outstanding_rollouts"] == first[1:].sum() + second[1:3].sum()
    assert (
        allocator.metrics()["spent_budget"] + allocator.metrics()["reserved_budget"] + allocator.remaining_budget == 64
    )


@pytest.mark.parametrize("horizon", [{"n_rounds": 8}, {"visits": 8}, {"visits": [8, 7, 6], "n_rounds": 8}])
@pytest.mark.parametrize("costs", [None, 2.0, [1.0, 2.0, 4.0]])
@pytest.mark.parametrize("signal", ["variance", "group"])
def test_prompts_may_join(horizon, costs, signal):
    bank = BetaPosteriorBank(["a", "b", "c"])
    allocator = ResolvingAllocator(
        bank, total_budget=96, max_rollouts=16, min_rollouts=2, costs=costs, signal=signal, **horizon
    )
    allocator.allocate()
    bank.add_prompts(["d", "e"])
    allocator.update(["e"], [1], [2])
    assert allocator.exposure.shape == (5,)
    counts = allocator.allocate(["d", "a", "e"])
    assert counts.shape == (3,)
    assert counts.sum() > 0
    bank.add_prompts(["f"])
    assert allocator.allocate().shape == (6,)
    assert allocator.metrics()["certificate_regret"] >= 0
    for _ in range(8):
        allocator.allocate()
    per_rollout = allocator.ledger.costs.unit_costs if np.ndim(costs) else costs or 1.0
    tokens = np.broadcast_to(per_rollout, 6) @ allocator.exposure
    assert allocator.remaining_budget == pytest.approx(96 - tokens, abs=1e-9)
    if np.ndim(costs):
        assert allocator.ledger.costs.unit_costs[3:].tolist() == pytest.approx([7 / 3] * 3)


def test_prompts_that_join_take_the_smallest_number_of_visits_left():
    bank = BetaPosteriorBank(3)
    allocator = ResolvingAllocator(bank, total_budget=96, max_rollouts=16, visits=[8, 7, 5])
    allocator.allocate([0, 2])
    bank.add_prompts([3, 4])
    allocator.update([3], [1], [2])
    assert allocator._plan.left.tolist() == [7, 7, 4, 4, 4]


def test_string_ids_and_any_order_of_them():
    bank = BetaPosteriorBank(["easy", "half", "never"])
    bank.update(None, [19, 10, 0], [20, 20, 20])
    one, two = (ResolvingAllocator(copy.deepcopy(bank), total_budget=36, visits=2, max_rollouts=12) for _ in range(2))
    first = dict(zip(["never", "half"], one.allocate(["never", "half"], budget=12).tolist(), strict=True))
    second = dict(zip(["half", "never"], two.allocate(iter(["half", "never"]), budget=12).tolist(), strict=True))
    assert first == second
    with pytest.raises(KeyError, match="prompt_ids must be in the bank, unknown: 'other'"):
        one.allocate(["other"])


def test_refund_returns_tokens():
    costs = np.array([3.0, 50.0, 7.5])
    allocator = ResolvingAllocator(
        BetaPosteriorBank(list("abc")), total_budget=2000.0, costs=costs, visits=4, unit_size=2, max_rollouts=16
    )
    assert allocator.remaining_budget == 2000.0
    counts = allocator.allocate()
    assert allocator.remaining_budget == 2000.0 - float((costs * counts).sum())
    assert counts[1] >= 2
    allocator.refund(["b"], [2])
    assert allocator.remaining_budget == 2000.0 - float((costs * counts).sum()) + 100.0
    assert allocator.exposure.tolist() == (counts - [0, 2, 0]).tolist()
    with pytest.raises(ValueError, match="rollouts must be a multiple of 2 between 0 and"):
        allocator.refund(["b"], [1])
    allocator.refund(None, counts - [0, 2, 0])
    assert allocator.remaining_budget == pytest.approx(2000.0, rel=1e-12)


def test_refund_reopens_the_budget():
    allocator = ResolvingAllocator(BetaPosteriorBank(2), total_budget=16, n_rounds=3, unit_size=2, max_rollouts=8)
    counts = allocator.allocate(budget=16, exact=True)
    assert counts.tolist() == [8, 8]
    assert allocator.allocate().tolist() == [0, 0]
    assert allocator.round == 1
    allocator.update([0], [1], [7])
    with pytest.raises(ValueError, match=r"between 0 and the 1 outstanding of prompt 0, got rollouts\[0\] = 2"):
        allocator.refund([0], [2])
    allocator.refund([1], [6])
    assert allocator.remaining_budget == 6
    assert allocator.exposure.tolist() == [8, 2]
    assert allocator.allocate(budget=6, exact=True).sum() == 6


@pytest.mark.parametrize("horizon", [{"n_rounds": 3}, {"visits": 3}])
@pytest.mark.parametrize("signal", ["variance", "group"])
@pytest.mark.parametrize("costs", [None, 2.0, [1.0, 2.0]])
def test_a_finished_run_returns_zeros_and_ages_nothing(horizon, signal, costs):
    bank = BetaPosteriorBank(2, forgetting=0.5)
    allocator = ResolvingAllocator(
        bank, total_budget=12, max_rollouts=4, signal=signal, costs=costs, band=np.inf, **horizon
    )
    for _ in range(12):
        counts = allocator.allocate()
        if allocator.remaining_budget < 1:
            break
    allocator.update([0], [1], [2])
    before = visible(allocator)
    for offer in (None, [1], [], [1, 0]):
        counts = allocator.allocate(offer)
        assert counts.dtype == np.int64
        assert counts.tolist() == [0] * (2 if offer is None else len(offer))
        assert allocator.allocate(offer, budget=3).sum() == 0
    assert visible(allocator) == before


@pytest.mark.parametrize("signal", ["variance", "group"])
@pytest.mark.parametrize("rates", [[0.0], [0.5], [1.0, 0.0], [0.5, 0.5], [0.0, 0.5, 1.0]])
@pytest.mark.parametrize("costs", [None, 3.0, "each"])
def test_small_and_degenerate_pools(signal, rates, costs):
    m = len(rates)
    for rounds, max_units, total in ((1, 4, m), (1, 4, 4 * m), (3, 1, 1), (3, 1, 3 * m), (4, 5, 9 * m)):
        for horizon in ({"n_rounds": rounds}, {"visits": rounds}):
            allocator = ResolvingAllocator(
                known(rates), total_budget=total * (1 if costs is None else 3), max_rollouts=max_units, signal=signal,
                costs=[3.0] * m if costs == "each" else costs, **horizon,
            )  # fmt: skip
            counts = [allocator.allocate() for _ in range(rounds)]
            assert max(c.max() for c in counts) <= max_units
            assert sum(c.sum() for c in counts) == total
            assert allocator.remaining_budget == 0
            assert all(
                np.isfinite(v) for k, v in allocator.metrics().items() if "group_rate" not in k and "calib" not in k
            )


@pytest.mark.parametrize("saturation", [1e-12, 1e12])
@pytest.mark.parametrize(("shape", "scaling"), KINDS)
@pytest.mark.parametrize("known_rates", [True, False])
def test_extreme_saturations_stay_finite(saturation, shape, scaling, known_rates):
    rates = [0.0, 0.02, 0.3, 0.5, 0.97, 1.0]
    for rounds, costs, min_units, horizon in itertools.product(
        (1, 4), (None, 2.0, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]), (0, 2), ("rounds", "visits", "stream")
    ):
        calls = 2 * rounds if horizon == "stream" else rounds
        total = 6 * rounds * 4 * (1 if costs is None else 2)
        allocator = ResolvingAllocator(
            known(rates) if known_rates else BetaPosteriorBank(6), total_budget=total, max_rollouts=8,
            min_rollouts=min_units, costs=costs, utility=SaturatingUtility(shape, scaling=scaling, saturation=saturation),
            **({"visits": rounds} if horizon == "visits" else {"n_rounds": calls}),
        )  # fmt: skip
        spent = 0.0
        for k in range(calls):
            offer = None if horizon != "stream" else ([0, 2, 4], [1, 3, 5])[k % 2]
            counts = allocator.allocate(offer)
            assert counts.max() <= 8
            assert not ((counts > 0) & (counts < min_units)).any()
            spent += float((np.broadcast_to(1.0 if costs is None else costs, 6)[offer or slice(None)] * counts).sum())
            assert np.isfinite(allocator.price)
            allocator.update(offer, np.round(counts * np.array(rates)[offer or slice(None)]), counts)
        assert allocator.remaining_budget == total - spent
        assert spent >= total - (0 if costs is None else 3.0 * max(1, min_units)) - (min_units > 0)
        metrics = allocator.metrics()
        assert all(np.isfinite(metrics[key]) for key in ("price", "batch_price", "certificate_regret", "pacing_gap"))


def test_fit_every_refits_the_prior():
    rng = np.random.default_rng(0)
    rates = rng.beta(0.4, 1.6, 400)
    bank = BetaPosteriorBank(400)
    allocator = ResolvingAllocator(bank, total_budget=400 * 24, n_rounds=6, max_rollouts=16, fit_every=2)
    fits = []
    for _ in range(6):
        counts = allocator.allocate()
        allocator.update(None, rng.binomial(counts, rates), counts)
        fits.append((allocator.prior_fit, float(bank.evidence.a0[0])))
    assert fits[0] == fits[1] == (None, 1.0)
    assert isinstance(fits[2][0], PriorFit)
    assert fits[2][0].fitted
    assert fits[2][1] == fits[2][0].alpha != 1.0
    assert fits[3][0] is fits[2][0]
    assert fits[4][0] is not fits[2][0]
    assert fits[4][1] == pytest.approx(0.4, abs=0.15)
    never = ResolvingAllocator(BetaPosteriorBank(4), total_budget=16, n_rounds=2, max_rollouts=4)
    play(never, [0, 0.2, 0.5, 1], [None] * 2)
    assert never.prior_fit is None


@pytest.mark.parametrize("policy", [FenchelDualAllocator, ResolvingAllocator])
@pytest.mark.parametrize("visits", [None, 5])
@pytest.mark.parametrize("unit_size", [1, 2])
def test_drop_in_for_the_fenchel_dual_allocator(policy, visits, unit_size):
    rng = np.random.default_rng(0)
    bank = BetaPosteriorBank([f"p{i}" for i in range(12)])
    allocator = policy(
        bank, total_budget=240, n_rounds=10, visits=visits, max_rollouts=8, round_capacity=48, unit_size=unit_size,
        utility=SaturatingUtility("hyperbolic"), seed=3,
    )  # fmt: skip
    for k in range(10):
        offer = [f"p{i}" for i in rng.permutation(12)[:6]] if visits else None
        budget, exact = [(None, False), (20, False), (min(8, int(allocator.remaining_budget)), True)][k % 3]
        counts = allocator.allocate(offer, budget, exact=exact)
        assert counts.dtype == np.int64
        assert counts.sum() <= 48
        assert (counts % unit_size == 0).all()
        if exact and allocator.round == k + 1:
            assert counts.sum() == budget
        allocator.update(offer, rng.binomial(counts, 0.5), counts)
    allocator.refund(None, allocator.ledger.outstanding)
    assert allocator.horizon.total_budget == 240
    assert allocator.exposure.sum() == 240 - allocator.remaining_budget
    assert allocator.price >= 0
    assert allocator.round <= 10


@pytest.mark.parametrize("signal", ["variance", "group"])
def test_visits_given_too_low_or_too_high(signal):
    # Offered twice as often as planned: the budget is gone when the planned visits are over, and no call fails.
    rates = np.linspace(0.05, 0.95, 10)
    low = ResolvingAllocator(BetaPosteriorBank(10), total_budget=160, visits=2, max_rollouts=16, signal=signal)
    play(low, rates, [[i, i + 1] for i in range(0, 10, 2)] * 4)
    assert low.remaining_budget == 0
    # One prompt alone, over and over, is an order that was not planned.
    lone = ResolvingAllocator(BetaPosteriorBank(10), total_budget=160, visits=2, max_rollouts=16, signal=signal)
    assert sum(map(sum, play(lone, rates, [[3]] * 20))) == 160 - lone.remaining_budget
    assert lone.round == 20
    # Told five visits, offered two: some is left, no call fails.
    high = ResolvingAllocator(BetaPosteriorBank(10), total_budget=160, visits=5, max_rollouts=16, signal=signal)
    play(high, rates, [None] * 2)
    assert 0 < high.remaining_budget < 160
    high.allocate(budget=int(high.remaining_budget), exact=True)
    assert high.remaining_budget == 0


def test_an_empty_offer_deals_nothing_under_every_band():
    for band in (0.0, 0.25, np.inf):
        for horizon in ({"visits": 2}, {"n_rounds": 6}):
            allocator = ResolvingAllocator(BetaPosteriorBank(3), total_budget=12, max_rollouts=4, band=band, **horizon)
            assert allocator.allocate([]).shape == (0,)
            assert allocator.allocate([0, 1, 2]).sum() > 0
