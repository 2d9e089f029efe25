"""ResolvingAllocator: metrics, and pacing by visits."""

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator


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
def test_starved_shows_which_way_a_round_was_bound(costs, signal):
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
def test_pacing_follows_the_visits_where_rounds_are_not_given(costs):
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
