"""ResolvingAllocator under every input: renamed, late, joining and odd prompts, refunds, metrics, errors."""

import copy
import itertools

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, PriorFit, ResolvingAllocator, SaturatingUtility
from cero_alloc.simulation import Pool, known_bank
from twins import naive

KINDS = list(itertools.product(naive.SHAPES, naive.SCALINGS))


def known(rates):
    """A bank that knows the rates."""
    return known_bank(Pool(np.asarray(rates, dtype=float)))


def visible(allocator):
    """All that an allocator remembers and a failed call might have changed."""
    ledger, bank = allocator.ledger, allocator.bank
    arrays = (allocator.exposure, ledger.outstanding, ledger.offers, bank.alpha, bank.beta, allocator._plan.tie)
    left = None if allocator._plan.left is None else allocator._plan.left.tolist()
    scalars = (allocator.remaining_budget, allocator.round, allocator.price, allocator._batch_price, bank.evidence.now)
    return scalars, left, [array.tolist() for array in arrays]


# ---------------------------------------------------------------- behaviour


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
def test_visits_told_too_low_or_too_high(signal):
    # Offered twice as often as told: the budget is gone when the told visits are over, and no call fails.
    rates = np.linspace(0.05, 0.95, 10)
    low = ResolvingAllocator(BetaPosteriorBank(10), total_budget=160, visits=2, max_rollouts=16, signal=signal)
    play(low, rates, [[i, i + 1] for i in range(0, 10, 2)] * 4)
    assert low.remaining_budget == 0
    # One prompt alone, over and over, is an order that was never told.
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


# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize("signal", ["variance", "group"])
@pytest.mark.parametrize("costs", [None, 2.0, [1.0, 2.0, 3.0]])
def test_metrics_are_flat_floats_under_the_keys_of_the_other_allocator(signal, costs):
    other = FenchelDualAllocator(BetaPosteriorBank(3), total_budget=24, n_rounds=4, max_rollouts=4)
    allocator = ResolvingAllocator(
        BetaPosteriorBank(3), total_budget=24, n_rounds=4, max_rollouts=4, signal=signal, costs=costs
    )
    for k in range(6):
        for certificate in (True, False):
            metrics = allocator.metrics(certificate=certificate)
            assert list(metrics) == list(other.metrics(certificate=certificate))
            assert all(type(value) is float for value in metrics.values())
        assert metrics["round"] == min(k, allocator.round)
        for one in (allocator, other):
            counts = one.allocate()
            one.update([0, 1], np.minimum(counts[:2], 1), counts[:2])
    metrics = allocator.metrics()
    assert metrics["spent_budget"] + metrics["reserved_budget"] + metrics["remaining_budget"] == 24
    assert metrics["outstanding_rollouts"] == allocator.exposure[2]
    assert metrics["certificate_regret"] >= 0
    assert metrics["certificate_gap"] >= 0
    assert "certificate_regret" not in allocator.metrics(certificate=False)


@pytest.mark.parametrize("costs", [None, 2.0, "each"])
@pytest.mark.parametrize("signal", ["variance", "group"])
def test_starved_tells_which_way_a_round_was_bound(costs, signal):
    m = 20
    each = np.full(m, 2.0) if costs == "each" else costs

    def fresh():
        unit = 1 if costs is None else 2
        return ResolvingAllocator(
            BetaPosteriorBank(m, prior=(np.linspace(0.5, 4, m), np.linspace(3, 1, m))), total_budget=m * 10 * 8 * unit,
            visits=10, max_rollouts=32, costs=each, signal=signal, band=np.inf,
        ), unit  # fmt: skip

    allocator, unit = fresh()
    assert allocator.metrics()["starved"] == 0.0
    allocator.allocate()
    assert allocator.metrics()["starved"] == 0.0
    allocator.allocate(budget=10 * unit)
    metrics = allocator.metrics()
    assert metrics["starved"] == 1.0
    assert metrics["batch_price"] > metrics["price"]
    if costs != "each":
        allocator.allocate(budget=m * 31 * unit, exact=True)
        metrics = allocator.metrics()
        assert metrics["starved"] == -1.0
        assert metrics["batch_price"] < metrics["price"]


@pytest.mark.parametrize("costs", [None, 2.5])
def test_pacing_follows_the_visits_where_rounds_are_not_told(costs):
    unit = 1 if costs is None else costs
    allocator = ResolvingAllocator(
        BetaPosteriorBank(4), total_budget=int(64 * unit), visits=4, max_rollouts=8, costs=costs
    )
    assert allocator.metrics()["pacing_gap"] == 0.0
    for k in range(4):
        allocator.allocate(budget=16 * unit, exact=True)
        metrics = allocator.metrics()
        assert metrics["pacing_gap"] == 0.0
        assert metrics["projected_leftover"] == 0.0
        assert allocator.ledger.progress == (k + 1) / 4


def test_pacing_by_visits_weighs_what_was_offered():
    allocator = ResolvingAllocator(BetaPosteriorBank(4), total_budget=64, visits=[1, 2, 5, 8], max_rollouts=8)
    allocator.allocate([3], budget=8, exact=True)
    assert allocator.metrics()["pacing_gap"] == 8 - 4
    allocator.allocate([0, 1, 2], budget=0)
    metrics = allocator.metrics()
    assert metrics["pacing_gap"] == 8 - 16
    assert metrics["projected_leftover"] == 64 - 8 * 4
    told = ResolvingAllocator(BetaPosteriorBank(4), total_budget=64, visits=[1, 2, 5, 8], n_rounds=8, max_rollouts=8)
    told.allocate([3], budget=8, exact=True)
    assert told.metrics()["pacing_gap"] == 0.0  # one round of eight


@pytest.mark.parametrize("costs", [None, [1.0, 2.0, 3.0, 2.0]])
def test_pacing_by_visits_counts_those_of_prompts_that_join(costs):
    bank = BetaPosteriorBank(4)
    allocator = ResolvingAllocator(
        bank, total_budget=64 * (1 if costs is None else 2), visits=4, max_rollouts=16, costs=costs
    )
    allocator.allocate()
    assert allocator.ledger.progress == 0.25
    bank.add_prompts([4, 5, 6, 7])  # three visits each
    for offers in (12, 20, 28):
        allocator.allocate()
        assert allocator.ledger.progress == pytest.approx(offers / 28)
        assert abs(allocator.metrics()["pacing_gap"]) <= 0.25 * allocator.ledger.dealt
    assert allocator.remaining_budget == 0


# ---------------------------------------------------------------- input errors


BASE = {"total_budget": 8, "n_rounds": 4, "max_rollouts": 2}
BAD_ARGUMENTS = [
    ({"total_budget": 0}, ValueError, "total_budget must be at least 1, got total_budget = 0"),
    ({"total_budget": 8.0}, TypeError, "total_budget must be an integer, got total_budget = 8.0"),
    ({"total_budget": 17}, ValueError, "total_budget must be spendable in 4 rounds of at most 4 rollouts"),
    ({"total_budget": 9, "unit_size": 2}, ValueError, "total_budget must be a multiple of unit_size = 2"),
    ({"n_rounds": 0}, ValueError, "n_rounds must be at least 1, got n_rounds = 0"),
    ({"n_rounds": 2.0}, TypeError, "n_rounds must be an integer, got n_rounds = 2.0"),
    ({"n_rounds": None}, ValueError, "n_rounds must be given where visits are not, got n_rounds = None"),
    ({"visits": 0}, ValueError, r"visits must be in \[1, n_rounds = 4\], got visits\[0\] = 0"),
    ({"visits": [1, 5]}, ValueError, r"visits must be in \[1, n_rounds = 4\], got visits\[1\] = 5"),
    ({"visits": [1]}, ValueError, r"visits must be one integer or have shape \(2,\)"),
    ({"visits": 2.5}, TypeError, "visits must be integers, got visits = 2.5"),
    ({"n_rounds": None, "visits": 0}, ValueError, r"visits must be at least 1, got visits\[0\] = 0"),
    ({"visits": 1}, ValueError, "total_budget must be spendable in 4 rounds of at most 1 rollouts"),
    (
        {"n_rounds": None, "visits": [1, 2]},
        ValueError,
        r"total_budget must be at most the 6 rollouts of all visits at max_rollouts, got total_budget = 8. Lower the "
        r"budget, or raise visits, rounds or caps\.$",
    ),
    ({"unit_size": 0}, ValueError, "unit_size must be at least 1, got unit_size = 0"),
    ({"unit_size": 2, "max_rollouts": 3}, ValueError, "max_rollouts must be a multiple of unit_size = 2"),
    ({"max_rollouts": 0}, ValueError, "max_rollouts must be at least 1, got max_rollouts = 0"),
    ({"max_rollouts": None}, TypeError, "max_rollouts must be an integer, got max_rollouts = None"),
    ({"min_rollouts": 3}, ValueError, "min_rollouts must be at most max_rollouts = 2, got min_rollouts = 3. Lower it"),
    ({"min_rollouts": -1}, ValueError, "min_rollouts must be at least 0, got min_rollouts = -1"),
    ({"min_rollouts": 1.0}, TypeError, "min_rollouts must be an integer, got min_rollouts = 1.0"),
    ({"min_rollouts": 1, "unit_size": 2}, ValueError, "min_rollouts must be a multiple of unit_size = 2, got"),
    ({"round_capacity": 0}, ValueError, "round_capacity must be at least 1, got round_capacity = 0"),
    ({"round_capacity": 1}, ValueError, "total_budget must be spendable in 4 rounds of at most 1 rollouts"),
    ({"round_capacity": 4.0}, TypeError, "round_capacity must be an integer, got round_capacity = 4.0"),
    ({"round_capacity": 3, "unit_size": 2}, ValueError, "round_capacity must be a multiple of unit_size = 2"),
    ({"signal": "varience"}, ValueError, "signal must be 'variance' or 'group', got signal = 'varience'"),
    ({"costs": 0.0}, ValueError, "costs must be finite, greater than 0, got costs = 0.0"),
    ({"costs": [1.0, -2.0]}, ValueError, r"costs must be finite, greater than 0, got costs\[1\] = -2.0"),
    ({"costs": [1.0, np.nan]}, ValueError, r"got costs\[1\] = nan. Give the expected tokens of a rollout"),
    ({"costs": [1.0, 2.0, 3.0]}, ValueError, r"costs must be a number or have shape \(2,\), got costs = \(3,\)"),
    ({"costs": [[1.0, 2.0]]}, ValueError, r"costs must be a number or have shape \(2,\), got costs = \(1, 2\)"),
    ({"costs": "ten"}, TypeError, "costs must be numbers, got str"),
    ({"costs": 1.0, "total_budget": 0}, ValueError, "total_budget must be finite and greater than 0"),
    ({"costs": 1.0, "total_budget": np.inf}, ValueError, "total_budget must be finite and greater than 0"),
    ({"costs": 1.0, "total_budget": "x"}, TypeError, "total_budget must be finite and greater than 0, got .* 'x'"),
    ({"costs": [1.0, 2.0], "total_budget": 24.5}, ValueError, "the 24 tokens of all visits at max_rollouts"),
    (
        {"costs": [1.0, 2.0], "total_budget": 20.5, "round_capacity": 5},
        ValueError,
        r"total_budget must be at most the 20 tokens of all rounds at round_capacity, got total_budget = 20.5. Lower "
        r"the budget, or raise visits, rounds or caps\.$",
    ),
    ({"costs": 1.0, "round_capacity": -1}, ValueError, "round_capacity must be finite and at least 0, got .* -1.0"),
    ({"band": -0.1}, ValueError, "band must be finite and at least 0, got band = -0.1. Take 0.25, or inf"),
    ({"band": np.nan}, ValueError, "band must be finite and at least 0, got band = nan"),
    ({"band": [0.1, 0.2]}, TypeError, r"band must be finite and at least 0, got band = \[0.1, 0.2\]. Take 0.25, or inf"),
    ({"band": np.array([0.1, np.inf])}, TypeError, r"band must be finite and at least 0, got band = array\("),
    ({"band": -np.inf}, ValueError, "band must be finite and at least 0, got band = -inf"),
    ({"band": "wide"}, TypeError, "band must be finite and at least 0, got band = 'wide'"),
    ({"front_load": 0.5}, ValueError, "front_load must be finite and at least 1, got front_load = 0.5"),
    ({"front_load": 1 - 1e-9}, ValueError, "front_load must be finite and at least 1, got front_load = 0.999999999"),
    ({"front_load": 0}, ValueError, "front_load must be finite and at least 1, got front_load = 0.0. 1 spreads, 2"),
    ({"front_load": np.inf}, ValueError, "front_load must be finite and at least 1, got front_load = inf"),
    ({"front_load": None}, TypeError, "front_load must be finite and at least 1, got front_load = None"),
    ({"exploration": -1}, ValueError, "exploration must be finite and at least 0, got exploration = -1.0"),
    ({"exploration": "much"}, TypeError, "exploration must be finite and at least 0, got exploration = 'much'"),
    ({"fit_every": 0}, ValueError, "fit_every must be at least 1, got fit_every = 0. Or None"),
    ({"fit_every": 1.5}, TypeError, "fit_every must be an integer, got fit_every = 1.5"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "match"), BAD_ARGUMENTS)
def test_constructor_errors(arguments, error, match):
    with pytest.raises(error, match=match):
        ResolvingAllocator(BetaPosteriorBank(2), **{**BASE, **arguments})


BAD_CALLS = [
    ({}, lambda a: a.allocate([0, 9]), KeyError, "prompt_ids must be in the bank, unknown: 9"),
    ({}, lambda a: a.allocate([0, 0]), ValueError, r"prompt_ids must not repeat an id, got prompt_ids\[1\] = 0"),
    ({}, lambda a: a.allocate("01"), TypeError, "prompt_ids must be a collection of ids"),
    ({}, lambda a: a.allocate(budget=-1), ValueError, "budget must be at least 0, got budget = -1"),
    ({}, lambda a: a.allocate(budget=2.0), TypeError, "budget must be an integer, got budget = 2.0"),
    ({}, lambda a: a.allocate(budget=True), TypeError, "budget must be an integer, got budget = True"),
    ({}, lambda a: a.allocate(exact=True), ValueError, "budget must be given with exact=True, got budget = None"),
    ({}, lambda a: a.allocate(budget=9, exact=True), ValueError, "budget must be at most 4 with exact=True"),
    ({}, lambda a: a.update([0, 7], [0, 0], [1, 1]), KeyError, "unknown: 7"),
    ({}, lambda a: a.update([0], [2], [1]), ValueError, r"successes must not exceed rollouts\[0\] = 1"),
    ({}, lambda a: a.update([0], [np.nan], [1]), ValueError, "successes must be finite and at least 0"),
    ({}, lambda a: a.update([0], [0], [-1]), ValueError, r"rollouts must be at least 0, got rollouts\[0\] = -1"),
    ({}, lambda a: a.refund([5], [1]), KeyError, "unknown: 5"),
    ({}, lambda a: a.refund([0, 0], [1, 1]), ValueError, "prompt_ids must not repeat an id"),
    ({}, lambda a: a.refund([0], [99]), ValueError, "rollouts must be a multiple of 1 between 0 and the"),
    ({}, lambda a: a.refund([0], [-1]), ValueError, r"got rollouts\[0\] = -1. Refund only what allocate dealt"),
    ({"costs": 2.0}, lambda a: a.allocate(budget=-1), ValueError, "budget must be finite and at least 0, got .* -1.0"),
    ({"costs": 2.0}, lambda a: a.allocate(budget="x"), TypeError, "budget must be finite and at least 0, got .* 'x'"),
    ({"costs": 2.0}, lambda a: a.allocate(budget=np.nan), ValueError, "budget must be finite and at least 0, got .* n"),
    ({"costs": 2.0}, lambda a: a.allocate(exact=True), ValueError, "budget must be given with exact=True"),
    ({"costs": 2.0}, lambda a: a.allocate(budget=3, exact=True), ValueError, "be a multiple of 2 tokens up to"),
    ({"costs": 2.0}, lambda a: a.allocate(budget=90, exact=True), ValueError, "be a multiple of 2 tokens up to"),
    (
        {"costs": 2.0, "min_rollouts": 2, "total_budget": 14},
        lambda a: a.allocate(budget=2, exact=True),
        ValueError,
        r"budget must be a sum of counts from 4 to 4 tokens with exact=True, got budget = 2.0. Nearest such totals: "
        r"0, 4\.$",
    ),
    ({"costs": [1, 2]}, lambda a: a.allocate(exact=True), ValueError, "budget must be given with exact=True"),
    (
        {"costs": [1, 2]},
        lambda a: a.allocate(budget=2, exact=True),
        ValueError,
        "budget must be a cap where the costs differ, not a total with exact=True, got budget = 2. Pass it as a cap",
    ),
]  # fmt: skip


@pytest.mark.parametrize("horizon", [{}, {"visits": [4, 3]}])
@pytest.mark.parametrize(("arguments", "call", "error", "match"), BAD_CALLS)
def test_errors_change_nothing(horizon, arguments, call, error, match):
    allocator = ResolvingAllocator(BetaPosteriorBank(2), **{**BASE, "fit_every": 1, **arguments, **horizon})
    allocator.update(None, [1, 0], np.maximum(allocator.allocate(), 1))
    before, metrics, twin = visible(allocator), allocator.metrics(), copy.deepcopy(allocator)
    with pytest.raises(error, match=match):
        call(allocator)
    assert visible(allocator) == before
    assert allocator.metrics() == pytest.approx(metrics, nan_ok=True, rel=0, abs=0)
    assert allocator.allocate().tolist() == twin.allocate().tolist()


INFEASIBLE = [
    (33, r"must be a sum of counts from 20 to 32 rollouts with exact=True, got budget = 33. .* 32, 40"),
    (39, r"got budget = 39. Nearest such totals: 32, 40"),
    (19, r"got budget = 19. Nearest such totals: 0, 20"),
    (97, r"must be at most 96 with exact=True, got budget = 97. Feasible totals: 0 to 96 .* 3 prompts are offered"),
    (-1, r"must be at least 0, got budget = -1"),
    (None, r"must be given with exact=True, got budget = None"),
]


@pytest.mark.parametrize(("total", "match"), INFEASIBLE)
@pytest.mark.parametrize("horizon", [{"visits": 4}, {"n_rounds": 4}, {"n_rounds": 4, "visits": [4, 4, 3]}])
@pytest.mark.parametrize("signal", ["variance", "group"])
def test_infeasible_totals_change_nothing(total, match, horizon, signal):
    allocator = ResolvingAllocator(
        BetaPosteriorBank(3, forgetting=0.9), total_budget=240, min_rollouts=20, max_rollouts=32, fit_every=1,
        signal=signal, **horizon,
    )  # fmt: skip
    counts = allocator.allocate()
    allocator.update(None, counts // [2, 3, 4], counts)
    twin, before = copy.deepcopy(allocator), visible(allocator)
    with pytest.raises(ValueError, match=match):
        allocator.allocate(budget=total, exact=True)
    assert visible(allocator) == before
    assert allocator.metrics() == pytest.approx(twin.metrics(), nan_ok=True, abs=0, rel=0)
    for budget, exact in ((60, True), (None, False)):
        assert (
            allocator.allocate(budget=budget, exact=exact).tolist()
            == twin.allocate(budget=budget, exact=exact).tolist()
        )
    assert visible(allocator) == visible(twin)


def test_infeasible_totals_name_whole_groups_and_the_end():
    allocator = ResolvingAllocator(
        BetaPosteriorBank(3), total_budget=48, n_rounds=2, unit_size=4, min_rollouts=8, max_rollouts=12
    )
    with pytest.raises(ValueError, match="budget must be a multiple of unit_size = 4, got budget = 10"):
        allocator.allocate(budget=10, exact=True)
    with pytest.raises(ValueError, match=r"from 8 to 12 rollouts .* got budget = 4. Nearest such totals: 0, 8"):
        allocator.allocate(budget=4, exact=True)
    with pytest.raises(ValueError, match=r"0 to 24 rollouts in steps of 4, because 2 prompts are offered"):
        allocator.allocate([0, 2], budget=28, exact=True)
    assert allocator.allocate(budget=36, exact=True).tolist() == [12, 12, 12]
    with pytest.raises(ValueError, match="must be at most 12 with exact=True, got budget = 16"):
        allocator.allocate(budget=16, exact=True)
    assert allocator.allocate(budget=8, exact=True).sum() == 8
    with pytest.raises(ValueError, match=r"must be at most 0 .* the horizon is over or the budget gone"):
        allocator.allocate(budget=4, exact=True)
    assert allocator.allocate(budget=0, exact=True).tolist() == [0, 0, 0]
