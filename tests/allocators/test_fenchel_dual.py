"""FenchelDualAllocator: equal to the naive Algorithm 1, within every cap, independent of the order of feedback."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import twins
from cero_alloc import (
    BetaPosteriorBank,
    FenchelDualAllocator,
    Horizon,
    SaturatingUtility,
)
from helpers.fenchel_dual import HORIZON_KEYS, random_request
from helpers.jit import either


def pair(instance):
    """The allocator and its naive twin on one random instance."""
    kwargs = {key: instance[key] for key in HORIZON_KEYS}
    bank = BetaPosteriorBank(
        instance["M"], prior=tuple(np.array(instance["prior"]).T), forgetting=instance["forgetting"]
    )
    utility = SaturatingUtility(instance["shape"], saturation=instance["lam"], scaling=instance["scaling"])
    ours = FenchelDualAllocator(bank, utility=utility, seed=instance["seed"], **kwargs)
    twin = twins.NaiveFenchelDual(
        instance["prior"], forgetting=instance["forgetting"], shape=twins.SHAPES[instance["shape"]],
        scaling=twins.SCALINGS[instance["scaling"]], lam=instance["lam"], tie=twins.tie_ranks(instance["M"], instance["seed"]), **kwargs,
    )  # fmt: skip
    return ours, twin


def undecidable(twin):
    """Whether rounding alone decides the next ranking: two keys that are equal but for their last digits."""
    keys = np.sort(np.append(twin.theta, twin.nu))
    gaps = np.diff(keys)
    return bool(((gaps > 0) & (gaps < 1e-12)).any())


def test_equals_the_naive_algorithm():
    complete, rounds = 0, 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        instance = twins.random_algorithm_instance(rng)
        ours, twin = pair(instance)
        for _ in range(instance["n_rounds"] + 2):
            offered, budget, exact = random_request(rng, ours, instance)
            expected = twin.allocate(offered.tolist(), budget, exact)
            if undecidable(twin):
                break
            counts = ours.allocate(offered, budget, exact=exact)
            np.testing.assert_allclose(ours.slopes, twin.theta, atol=1e-12, rtol=0)
            assert ours.price == pytest.approx(twin.nu, abs=1e-12)
            assert counts.tolist() == expected, seed
            assert ours.remaining_budget == twin.left * instance["unit_size"]
            successes = rng.binomial(counts, instance["rates"][offered])
            ours.update(offered, successes, counts)
            twin.update(offered, successes, counts)
            rounds += 1
        else:
            complete += 1
    assert complete >= 380, "rounding decided too many rankings for the comparison to mean anything"
    assert rounds >= 4000


@settings(max_examples=150)
@given(st.integers(0, 2**32 - 1))
def test_counts_stay_within_every_cap(seed):
    rng = np.random.default_rng(seed)
    instance = twins.random_algorithm_instance(rng)
    ours, _ = pair(instance)
    total = 0
    for _ in range(instance["n_rounds"] + 2):
        offered, budget, exact = random_request(rng, ours, instance)
        counts = ours.allocate(offered, budget, exact=exact)
        assert counts.dtype == np.int64
        assert counts.shape == offered.shape
        assert (counts % instance["unit_size"] == 0).all()
        assert counts.min(initial=0) >= 0
        assert counts.max(initial=0) <= instance["max_rollouts"]
        if exact:
            assert counts.sum() == budget
        elif budget is not None:
            assert counts.sum() <= budget
        if instance["round_capacity"]:
            assert counts.sum() <= instance["round_capacity"]
        total += int(counts.sum())
        assert total + ours.remaining_budget == instance["total_budget"]
        ours.update(offered, rng.random(offered.size) * counts, counts)
    assert ours.round <= instance["n_rounds"]
    assert ours.exposure.sum() == total
    assert 0 <= ours.price <= 1
    assert ((ours.slopes >= 0) & (ours.slopes <= 1)).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 1.0))
def test_feedback_is_additive_and_order_free(seed, forgetting):
    rng = np.random.default_rng(seed)
    make = lambda: FenchelDualAllocator(  # noqa: E731
        BetaPosteriorBank(6, forgetting=forgetting), total_budget=96, n_rounds=12, max_rollouts=4, round_capacity=12
    )
    whole, split = make(), make()
    for _ in range(12):
        counts, same = whole.allocate(), split.allocate()
        np.testing.assert_array_equal(counts, same)
        wins = rng.binomial(counts, 0.4)
        whole.update(None, wins, counts)
        first = rng.integers(0, counts + 1)
        first_wins = np.minimum(wins, first)
        parts = [
            (i, w, n)
            for i in range(6)
            for w, n in ((first_wins[i], first[i]), (wins[i] - first_wins[i], counts[i] - first[i]))
        ]
        for i in rng.permutation(len(parts)):
            row, w, n = parts[i]
            split.update([row], [w], [n])
        np.testing.assert_allclose(whole.bank.alpha, split.bank.alpha, rtol=1e-12)
        # identical evidence up to rounding; keep the two in step exactly for the comparison of the counts
        split.bank.evidence.outcomes[:] = whole.bank.evidence.outcomes


def test_late_partial_and_missing_feedback_keep_the_ledger_exact():
    allocator = FenchelDualAllocator(BetaPosteriorBank(list("abcd")), total_budget=64, n_rounds=8, max_rollouts=4)
    first = allocator.allocate()
    second = allocator.allocate()  # two rounds in flight, no feedback at all
    allocator.update(["d"], [0], [second[3]])
    allocator.update(["a"], [1.5], [first[0]])
    assert allocator.metrics()["outstanding_rollouts"] == first.sum() + second.sum() - second[3] - first[0]
    allocator.update(["a"], [10], [40])  # evidence from elsewhere is welcome and owes nothing
    assert allocator.metrics()["outstanding_rollouts"] == first[1:].sum() + second[1:3].sum()
    metrics = allocator.metrics()
    assert metrics["spent_budget"] + metrics["reserved_budget"] + allocator.remaining_budget == 64
    assert metrics["unreserved_rollouts"] == 40


def test_lateness_only_enters_through_the_posterior():
    # Dual updates use the posterior as it stands when the next round opens.
    early, late = (
        FenchelDualAllocator(BetaPosteriorBank(3), total_budget=30, n_rounds=10, max_rollouts=3) for _ in range(2)
    )
    counts = early.allocate()
    late.allocate()
    early.update(None, [0, 1, 2], counts)
    early.allocate()
    late.allocate()
    assert (early.slopes != late.slopes).any()
    assert early.price == late.price


def test_exact_spends_the_rest_at_the_end():
    allocator = FenchelDualAllocator(
        BetaPosteriorBank(5), total_budget=40, n_rounds=10, unit_size=2, max_rollouts=4, initial_price=1.0
    )
    for _ in range(9):
        allocator.allocate()
    left = allocator.remaining_budget
    assert left > 0
    last = allocator.allocate(budget=min(left, 20), exact=True)
    assert last.sum() == min(left, 20)
    assert (allocator.allocate() == 0).all()


def test_exact_names_the_feasible_range():
    allocator = FenchelDualAllocator(BetaPosteriorBank(3), total_budget=12, n_rounds=4, unit_size=2, max_rollouts=4)
    before = allocator.allocate([0, 1], budget=4, exact=True).tolist(), allocator.metrics(), allocator.slopes.tolist()
    with pytest.raises(
        ValueError,
        match=r"budget must be at most 4 with exact=True, got budget = 6. Feasible totals: 0 to 4 rollouts in steps of 2",
    ):
        allocator.allocate([2], budget=6, exact=True)
    with pytest.raises(ValueError, match="budget must be a multiple of unit_size = 2, got budget = 3"):
        allocator.allocate(budget=3, exact=True)
    with pytest.raises(ValueError, match="budget must be given with exact=True"):
        allocator.allocate(exact=True)
    assert (repr(before[1]), before[2]) == (repr(allocator.metrics()), allocator.slopes.tolist())  # repr: nan is nan


def test_closes_the_last_round_after_the_horizon():
    allocator = FenchelDualAllocator(BetaPosteriorBank(2), total_budget=20, n_rounds=9, max_rollouts=2)
    for _ in range(9):
        counts = allocator.allocate()
    price = allocator.price
    allocator.update(None, counts, counts)
    assert allocator.allocate().tolist() == [0, 0]
    assert allocator.price != price
    closed = allocator.price, allocator.slopes.tolist(), allocator.round
    assert allocator.allocate().tolist() == [0, 0]
    assert (allocator.price, allocator.slopes.tolist(), allocator.round) == closed
    with pytest.raises(ValueError, match="the rounds of the run are used up"):
        allocator.allocate(budget=2, exact=True)


def test_refund_reopens_the_budget():
    allocator = FenchelDualAllocator(BetaPosteriorBank(2), total_budget=8, n_rounds=4, unit_size=2, max_rollouts=4)
    counts = allocator.allocate()
    assert counts.tolist() == [4, 4]
    allocator.update([0], [1], [3])
    with pytest.raises(
        ValueError,
        match=r"rollouts must be a multiple of 2 between 0 and the 1 outstanding of prompt 0, got rollouts\[0\] = 2",
    ):
        allocator.refund([0], [2])
    with pytest.raises(ValueError, match=r"between 0 and the 4 outstanding of prompt 1, got rollouts\[1\] = 3"):
        allocator.refund([0, 1], [0, 3])
    with pytest.raises(ValueError, match=r"got rollouts\[0\] = -2"):
        allocator.refund([1], [-2])
    assert allocator.remaining_budget == 0
    allocator.refund([1], [4])
    assert allocator.remaining_budget == 4
    assert allocator.exposure.tolist() == [4, 0]
    assert allocator.allocate(budget=4, exact=True).sum() == 4
    allocator.refund(None, allocator.ledger.outstanding // 2 * 2)


def test_batch_form_touches_only_what_was_offered():
    allocator = FenchelDualAllocator(BetaPosteriorBank(100), total_budget=800, n_rounds=20, max_rollouts=8, visits=4)
    start = allocator.slopes
    counts = allocator.allocate([3, 50, 7], budget=16, exact=True)
    assert counts.sum() == 16
    allocator.update([3, 50, 7], [0, 0, 0], counts)
    allocator.allocate([1, 2])
    changed = np.flatnonzero(allocator.slopes != start)
    assert set(changed) <= {3, 7, 50}
    assert changed.size
    assert allocator.horizon.round_capacity == 100 * 4 // 20 * 8


def test_ties_are_broken_by_the_seed():
    def first(seed):
        allocator = FenchelDualAllocator(
            BetaPosteriorBank(40), total_budget=400, n_rounds=10, max_rollouts=2, round_capacity=40, seed=seed
        )
        return allocator.allocate()

    assert (first(1) == first(1)).all()
    assert (first(1) != first(2)).any()


def test_prompts_may_join():
    bank = BetaPosteriorBank(["a", "b"])
    allocator = FenchelDualAllocator(bank, total_budget=40, n_rounds=10, max_rollouts=4, visits=[5, 6])
    allocator.allocate()
    bank.add_prompts(["c", "d"])
    allocator.update(["d"], [1], [1])
    counts = allocator.allocate(["c", "a"], budget=8, exact=True)
    assert counts.tolist() == [4, 4]
    assert allocator.allocate().shape == (4,)
    assert allocator.slopes.shape == allocator.exposure.shape == (4,)
    full = FenchelDualAllocator(bank, total_budget=40, n_rounds=10, max_rollouts=4)
    full.allocate()
    bank.add_prompts(["e"])
    assert full.allocate().shape == (5,)
    assert full.slopes[4] == pytest.approx(4 / 6)


def test_a_round_may_deal_nothing():
    allocator = FenchelDualAllocator(
        BetaPosteriorBank(3), total_budget=9, n_rounds=9, max_rollouts=1, initial_price=1.0
    )
    assert allocator.allocate().sum() == 0
    assert allocator.round == 1
    assert allocator.allocate([]).shape == (0,)
    assert allocator.allocate(budget=0).sum() == 0
    assert allocator.round == 3
    assert allocator.price < 1


def test_forgetting_ages_once_per_round():
    bank = BetaPosteriorBank(2, forgetting=0.5)
    allocator = FenchelDualAllocator(bank, total_budget=8, n_rounds=4, max_rollouts=2)
    allocator.allocate()
    allocator.update([0], [2], [2])
    assert bank.alpha.tolist() == [3.0, 1.0]
    allocator.allocate()
    assert bank.alpha.tolist() == [2.0, 1.0]


def test_large_pools_need_no_python_loop():
    m = either(1_000_000, 10_000)
    allocator = FenchelDualAllocator(
        BetaPosteriorBank(m), total_budget=10 * m, n_rounds=100, max_rollouts=8, round_capacity=m // 10
    )
    counts = allocator.allocate()
    assert counts.sum() == m // 10
    chosen = np.flatnonzero(counts)
    allocator.update(chosen, np.zeros(chosen.size), counts[chosen])
    assert allocator.allocate().sum() <= m // 10


@pytest.mark.parametrize("lam", [1e-12, 1e12])
@pytest.mark.parametrize("shape", list(twins.SHAPES))
@pytest.mark.parametrize("rates", [[0.0], [0.5], [0.0, 0.5, 1.0]])
def test_edges_stay_finite(lam, shape, rates):
    bank = BetaPosteriorBank(len(rates), prior=(np.array(rates) * 1e9 + 1e-9, (1 - np.array(rates)) * 1e9 + 1e-9))
    size = len(rates)
    for rounds in (1, 5):
        allocator = FenchelDualAllocator(
            bank,
            total_budget=size * rounds,
            n_rounds=rounds,
            max_rollouts=1,
            utility=SaturatingUtility(shape, saturation=lam),
        )
        for _ in range(rounds + 1):
            assert allocator.allocate().max() <= 1
        assert np.isfinite(allocator.slopes).all()
        assert 0 <= allocator.price <= 1


def test_pairs_of_steps():
    make = lambda **kw: FenchelDualAllocator(BetaPosteriorBank(2), total_budget=8, n_rounds=4, max_rollouts=2, **kw)  # noqa: E731
    default, given_steps, frozen_price = make(), make(step_size=0.5), make(step_size=(0.5, 1e-9))
    for allocator in (default, given_steps, frozen_price):
        allocator.allocate()
        allocator.allocate()
    assert default.price == given_steps.price  # 1 / sqrt(4)
    np.testing.assert_array_equal(default.slopes, given_steps.slopes)
    assert frozen_price.price == pytest.approx(0.5, abs=1e-8)


def test_horizon_derives_the_papers_constants():
    horizon = Horizon(
        n_prompts=8958, n_rounds=500, total_budget=256_000, unit_size=4, max_rollouts=8, round_capacity=528
    )
    assert (horizon.budget_units, horizon.max_units, horizon.capacity_units, horizon.units_per_round) == (
        64_000,
        2,
        132,
        128.0,
    )
    assert horizon.price_scale_units == 128.0
    assert horizon.equal_share_units == pytest.approx(7.144, abs=5e-4)


def test_nothing_ages_once_no_round_can_open():
    bank = BetaPosteriorBank(2, forgetting=0.5)
    allocator = FenchelDualAllocator(bank, total_budget=4, n_rounds=3, max_rollouts=2)
    counts = allocator.allocate()
    assert counts.sum() == 4  # the whole budget in the first round
    allocator.update(None, [2, 0], counts)
    for _ in range(3):
        assert allocator.allocate().sum() == 0
    assert bank.alpha.tolist() == [3.0, 1.0]
    assert allocator.round == 1
