"""FenchelDualAllocator: refits of the prior, metrics with the certificate, and runs in tokens."""

import numpy as np
import pytest

from cero_alloc import (
    BetaPosteriorBank,
    FenchelDualAllocator,
    OfflineOracle,
    ResolvingAllocator,
    SaturatingUtility,
)
from helpers.fenchel_dual import BASE, random_request, random_run

# ---------------------------------------------------------------- refits


def fitting_run(fit_every, n_rounds=6):
    """Rounds in which the prior changed before the round was dealt, and the allocator."""
    rng = np.random.default_rng(0)
    rates = rng.beta(0.5, 1.5, 60)
    bank = BetaPosteriorBank(60)
    allocator = FenchelDualAllocator(
        bank, total_budget=60 * 4 * n_rounds, n_rounds=n_rounds, max_rollouts=8, fit_every=fit_every
    )
    changed = []
    for k in range(n_rounds):
        before = bank.evidence.a0.tolist(), bank.evidence.b0.tolist()
        allocator.allocate()
        if (bank.evidence.a0.tolist(), bank.evidence.b0.tolist()) != before:
            changed.append(k)
        allocator.update(None, rng.binomial(4, rates), np.full(60, 4))
    return changed, allocator


@pytest.mark.parametrize(
    ("fit_every", "expected"), [(None, []), (1, [1, 2, 3, 4, 5]), (2, [2, 4]), (3, [3]), (np.int8(4), [4])]
)
def test_the_prior_is_refitted_at_its_rounds(fit_every, expected):
    changed, allocator = fitting_run(fit_every)
    assert changed == expected
    if fit_every is None:
        assert allocator.prior_fit is None
    else:
        assert allocator.prior_fit.fitted
        assert (allocator.bank.evidence.a0[0], allocator.bank.evidence.b0[0]) == (
            allocator.prior_fit.alpha,
            allocator.prior_fit.beta,
        )
        assert allocator.prior_fit.alpha < allocator.prior_fit.beta


def test_a_refit_that_finds_too_little_keeps_the_prior():
    allocator = FenchelDualAllocator(BetaPosteriorBank(3), total_budget=12, n_rounds=4, max_rollouts=2, fit_every=1)
    allocator.allocate()
    assert allocator.prior_fit is None
    allocator.allocate()
    assert allocator.prior_fit.status == "too few prompts"
    assert allocator.bank.alpha.tolist() == [1.0, 1.0, 1.0]


# ---------------------------------------------------------------- metrics

CERTIFICATE = ["certificate_achieved", "certificate_optimum", "certificate_gap", "certificate_regret"]
KEYS = [
    "round", "price", "batch_price", "starved", "remaining_budget", "reserved_budget", "spent_budget",
    "projected_leftover", "outstanding_rollouts", "unreserved_rollouts", "repeated_deliveries",
    "pacing_gap", "allocating_rounds", "never_right", "never_right_1", "never_right_2",
    "never_right_3", "drift", "trend", "prior_alpha", "prior_beta", "mixed_group_rate",
    "calibration_bias", "calibration_running_bias", "calibration_error", "calibration_warning", *CERTIFICATE,
]  # fmt: skip


def test_metrics_are_a_flat_dict_of_floats():
    allocator = FenchelDualAllocator(BetaPosteriorBank(5), total_budget=40, n_rounds=8, max_rollouts=4)
    for _ in range(3):
        metrics = allocator.metrics()
        assert sorted(metrics) == sorted(KEYS)
        assert all(type(value) is float for value in metrics.values())
        without = allocator.metrics(certificate=False)
        assert repr(without) == repr({key: metrics[key] for key in metrics if key not in CERTIFICATE})
        counts = allocator.allocate()
        allocator.update(None, counts // 2, counts)


def test_the_table_names_every_metric():
    documented = FenchelDualAllocator.metrics.__doc__
    for key in KEYS:
        name = "calibration_..." if key.startswith("calibration") else key
        assert f"``{name}``" in documented


def test_metrics_before_any_round():
    metrics = FenchelDualAllocator(BetaPosteriorBank(2), **BASE).metrics()
    zero = [
        "round",
        "starved",
        "spent_budget",
        "projected_leftover",
        "outstanding_rollouts",
        "pacing_gap",
        "allocating_rounds",
    ]
    assert [metrics[key] for key in zero + CERTIFICATE] == [0.0] * 11
    assert metrics["price"] == metrics["batch_price"] == 0.5
    assert np.isnan(metrics["mixed_group_rate"])
    assert metrics["remaining_budget"] == 8.0


def test_metrics_count_rollouts():
    allocator = FenchelDualAllocator(
        BetaPosteriorBank(3), total_budget=60, n_rounds=10, unit_size=2, max_rollouts=4, round_capacity=12
    )
    counts = allocator.allocate(budget=8, exact=True)
    allocator.update(None, np.zeros(3), np.minimum(counts, [4, 2, 0]))
    open_now = int((counts - np.minimum(counts, [4, 2, 0])).sum())
    metrics = allocator.metrics()
    assert (metrics["spent_budget"], metrics["reserved_budget"], metrics["remaining_budget"]) == (
        8.0 - open_now,
        open_now,
        52.0,
    )
    assert metrics["outstanding_rollouts"] == open_now
    assert metrics["pacing_gap"] == 8 - 6
    assert metrics["projected_leftover"] == 0.0
    allocator.allocate(budget=0)
    assert allocator.metrics()["projected_leftover"] == 52 - 8 * 4
    assert allocator.metrics()["allocating_rounds"] == 1.0


def test_starved_shows_which_way_a_round_was_bound():
    bank = BetaPosteriorBank(3, prior=([5e9, 3e9, 1e9], [5e9, 7e9, 9e9]))  # slopes 1, 0.84, 0.36
    make = lambda price: FenchelDualAllocator(  # noqa: E731
        bank, total_budget=24, n_rounds=6, max_rollouts=4, initial_price=price
    )
    capped = make(0.5)
    capped.allocate(budget=4)  # the second prompt is worth more than the price, and gets nothing
    assert (capped.metrics()["starved"], capped.metrics()["price"]) == (1.0, 0.5)
    assert capped.metrics()["batch_price"] == pytest.approx(1.0)
    funded = make(0.5)
    funded.allocate(budget=12, exact=True)  # the third is not worth the price, and is paid for
    assert funded.metrics()["starved"] == -1.0
    assert funded.metrics()["batch_price"] == pytest.approx(0.36)
    ordinary = make(0.5)
    assert ordinary.allocate().tolist() == [4, 4, 0]
    assert ordinary.metrics()["starved"] == 0.0
    assert ordinary.metrics()["batch_price"] == 0.5


def test_a_round_that_deals_the_cap_to_every_prompt_is_not_starved():
    # Every prompt is at its own cap; no total was bound, and no budget would have been spent otherwise.
    bank = BetaPosteriorBank(3, prior=([5e9, 3e9, 1e9], [5e9, 7e9, 9e9]))
    allocator = FenchelDualAllocator(bank, total_budget=24, n_rounds=6, max_rollouts=4, initial_price=0.1)
    assert allocator.allocate().tolist() == [4, 4, 4]
    assert allocator.metrics()["starved"] == 0.0


def by_hand(allocator):
    """Achieved utility, the oracle's optimum and its gap for the same rollouts, per prompt."""
    h, bank = allocator.horizon, allocator.bank
    exposure, q = allocator.exposure, bank.value()
    share = h.equal_share_units * h.unit_size
    upper = allocator.ledger.offers * h.max_rollouts
    result = OfflineOracle(allocator.utility).solve(q, float(exposure.sum()), equal_share=share, upper=upper)
    return np.array([allocator.utility.value(q, exposure / share).sum(), result.optimum, result.gap]) / len(bank)


def test_the_certificate_is_the_oracles():
    for seed in range(80):
        rng = np.random.default_rng(seed)
        instance = random_run(rng, visits=bool(seed % 2))
        allocator = instance["make"](bool(seed % 3))
        for _ in range(instance["n_rounds"]):
            offered, budget, exact = random_request(rng, allocator, instance)
            counts = allocator.allocate(offered, budget, exact=exact)
            allocator.update(offered, rng.binomial(counts, instance["rates"][offered]), counts)
            metrics = allocator.metrics()
            achieved, optimum, gap = by_hand(allocator)
            assert metrics["certificate_achieved"] == pytest.approx(achieved, rel=1e-12, abs=1e-300)
            assert metrics["certificate_optimum"] == pytest.approx(optimum, rel=1e-9, abs=1e-300)
            assert 0 <= metrics["certificate_gap"] <= 1e-12 * optimum + 1e-300
            assert achieved <= (optimum + gap) * (1 + 1e-12)
            regret = metrics["certificate_regret"]
            assert regret >= 0
            assert regret == pytest.approx(max(0.0, optimum + gap - achieved), abs=1e-9 * optimum)


def test_the_certificate_respects_offers_caps_and_refunds():
    # Only the worse prompt was offered: nothing better could have been done, whatever the other is worth.
    bank = BetaPosteriorBank(2, prior=([5e9, 1e9], [5e9, 9e9]))
    allocator = FenchelDualAllocator(bank, total_budget=40, n_rounds=10, max_rollouts=4, visits=10)
    allocator.allocate([1], budget=4, exact=True)
    assert allocator.metrics()["certificate_regret"] <= 1e-12
    allocator.allocate(budget=2, exact=True)
    assert allocator.exposure.tolist() == [2, 4]
    assert allocator.metrics()["certificate_regret"] > 0.01  # 4 and 2 would have been better
    allocator.refund([1], [2])
    regret = allocator.metrics()["certificate_regret"]
    assert 0 < regret == pytest.approx(float(np.diff(by_hand(allocator)[:2])[0]), rel=1e-9)


@pytest.mark.parametrize("visits", [None, 5])
def test_metrics_after_prompts_joined(visits):
    bank = BetaPosteriorBank(["a", "b"])
    allocator = FenchelDualAllocator(bank, total_budget=40, n_rounds=10, max_rollouts=4, visits=visits)
    allocator.allocate()
    bank.add_prompts(["c", "d"])
    assert allocator.metrics()["certificate_regret"] >= 0
    assert allocator.ledger.offers.tolist() == [1, 1, 0, 0]
    counts = allocator.allocate(["d", "a"], budget=6, exact=True)
    assert counts.sum() == 6
    assert allocator.ledger.offers.tolist() == [2, 1, 0, 1]
    bank.add_prompts(["e"])
    allocator.allocate()
    assert allocator.ledger.offers.tolist() == [3, 2, 1, 2, 1]
    achieved, optimum, _ = by_hand(allocator)
    metrics = allocator.metrics()
    assert (metrics["certificate_achieved"], metrics["certificate_optimum"]) == pytest.approx(
        (achieved, optimum), rel=1e-9
    )


# ---------------------------------------------------------------- the ledger in tokens


def token_run(costs, **kwargs):
    arguments = {"total_budget": 100.0, "n_rounds": 5, "unit_size": 2, "max_rollouts": 4} | kwargs
    return ResolvingAllocator(BetaPosteriorBank(3), costs=costs, **arguments)


def test_the_ledger_counts_tokens():
    costs = np.array([1.0, 2.0, 5.0])
    allocator = token_run(costs)
    ledger = allocator.ledger
    assert ledger.costs.unit_costs.tolist() == [2.0, 4.0, 10.0]
    assert ledger.costs.of_units(None, np.array([1, 2, 3])) == 2 + 8 + 30
    assert ledger.costs.of_units(np.array([2, 0]), np.array([1, 2])) == 10 + 4
    counts = allocator.allocate()
    assert ledger.dealt == pytest.approx(costs @ counts, rel=1e-15)
    assert ledger.remaining_budget == 100 - ledger.dealt
    assert allocator.metrics()["pacing_gap"] == pytest.approx(ledger.dealt - 20)
    allocator.refund(None, counts)
    assert ledger.remaining_budget == 100.0
    assert ledger.offers.tolist() == [1, 1, 1]


def test_one_cost_for_all():
    allocator = token_run(3.0)
    ledger = allocator.ledger  # in units: what they cost matters at the edges only
    assert (ledger.costs.unit_costs, ledger.costs.unit_budget) == (None, 6.0)
    assert ledger.costs.of_units(np.array([1]), np.array([2])) == 2
    counts = allocator.allocate([1], budget=12, exact=True)
    assert counts.tolist() == [4]
    assert allocator.remaining_budget == 88.0


def test_a_run_in_tokens_ends_when_the_budget_pays_for_no_unit():
    allocator = token_run([4.0, 5.0, 6.0], total_budget=40.0, n_rounds=20, band=np.inf)
    for _ in range(20):
        counts = allocator.allocate()
        if allocator.ledger.finished:
            break
    assert allocator.remaining_budget < 2 * 4.0 or allocator.round == 20
    assert allocator.allocate().sum() == 0
    assert counts.shape == (3,)


def test_the_certificate_of_a_run_in_tokens():
    rng = np.random.default_rng(3)
    costs = rng.uniform(1, 9, 6)
    bank = BetaPosteriorBank(6)
    allocator = ResolvingAllocator(bank, total_budget=900.0, visits=6, max_rollouts=8, costs=costs)
    for _ in range(4):
        counts = allocator.allocate()
        allocator.update(None, rng.binomial(counts, 0.3), counts)
    q, share = bank.value(), allocator.horizon.equal_share_units
    spent = float(costs @ allocator.exposure)
    result = OfflineOracle().solve(q, spent, equal_share=costs * share, upper=costs * 4 * 8)
    metrics = allocator.metrics()
    assert metrics["certificate_optimum"] == pytest.approx(result.optimum / 6, rel=1e-12)
    achieved = SaturatingUtility().value(q, allocator.exposure / share).sum() / 6
    assert metrics["certificate_achieved"] == pytest.approx(achieved, rel=1e-12)
    assert metrics["certificate_regret"] >= 0
    assert metrics["spent_budget"] == pytest.approx(spent)
