"""ResolvingAllocator: bad arguments, calls and totals are refused with nothing changed."""

import copy

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator
from helpers.resolving import visible

BASE = {"total_budget": 8, "n_rounds": 4, "max_rollouts": 2}
BAD_ARGUMENTS = [
    ({"total_budget": 0}, ValueError, "total_budget must be at least 1, got total_budget = 0"),
    ({"total_budget": 8.0}, TypeError, "total_budget must be an integer, got total_budget = 8.0"),
    ({"total_budget": 17}, ValueError, "total_budget must be spendable in 4 rounds of at most 4 rollouts"),
    ({"total_budget": 9, "unit_size": 2}, ValueError, "total_budget must be a multiple of unit_size = 2"),
    ({"n_rounds": 0}, ValueError, "n_rounds must be at least 1, got n_rounds = 0"),
    ({"n_rounds": 2.0}, TypeError, "n_rounds must be an integer, got n_rounds = 2.0"),
    ({"n_rounds": None}, ValueError, "visits or n_rounds must be given, got neither"),
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
        r"budget must be a multiple of 4 tokens with exact=True, got budget = 2.0. Nearest such totals: "
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
    with pytest.raises(ValueError, match=r"must be at most 0 .* because the rounds of the run are used up\.$"):
        allocator.allocate(budget=4, exact=True)
    assert allocator.allocate(budget=0, exact=True).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("horizon", "now"), [({"n_rounds": 9}, "1 of 9"), ({"visits": 9}, "1")])
def test_an_exact_total_after_the_end_of_the_budget_says_so(horizon, now):
    allocator = ResolvingAllocator(BetaPosteriorBank(2), total_budget=16, max_rollouts=8, **horizon)
    allocator.allocate(budget=16, exact=True)
    message = rf"because the budget is spent after round {now}; total_budget counts all rollouts of the run\.$"
    with pytest.raises(ValueError, match=message):
        allocator.allocate(budget=16, exact=True)


@pytest.mark.parametrize(
    ("build", "wrong"),
    [
        (ResolvingAllocator, {"seed": "1"}),
        (ResolvingAllocator, {"waves": 3}),
        (ResolvingAllocator, {"floors": {"math": 0.5}}),
        (ResolvingAllocator, {"retire_at": 2.0}),
        (FenchelDualAllocator, {"seed": "1"}),
    ],
)
def test_a_constructor_that_raises_leaves_the_bank_as_it_was(build, wrong):
    bank = BetaPosteriorBank(3)
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        build(bank, total_budget=24, n_rounds=4, max_rollouts=8, fit_every=1, **wrong)
    assert bank.evidence.history is None
