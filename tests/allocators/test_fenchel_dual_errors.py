"""FenchelDualAllocator: bad arguments and calls are refused with nothing changed."""

import numpy as np
import pytest

from cero_alloc import (
    BetaPosteriorBank,
    FenchelDualAllocator,
)
from helpers.fenchel_dual import BASE

BAD_ARGUMENTS = [
    ({"total_budget": 0}, ValueError, "total_budget must be at least 1, got total_budget = 0"),
    ({"total_budget": 8.0}, TypeError, "total_budget must be an integer, got total_budget = 8.0"),
    (
        {"total_budget": 17},
        ValueError,
        "total_budget must be spendable in 4 rounds of at most 4 rollouts, got total_budget = 17",
    ),
    (
        {"total_budget": 9, "unit_size": 2},
        ValueError,
        "total_budget must be a multiple of unit_size = 2, got total_budget = 9",
    ),
    ({"n_rounds": 0}, ValueError, "n_rounds must be at least 1, got n_rounds = 0"),
    ({"n_rounds": True}, TypeError, "n_rounds must be an integer, got n_rounds = True"),
    ({"unit_size": 0}, ValueError, "unit_size must be at least 1"),
    (
        {"max_rollouts": 3, "unit_size": 2},
        ValueError,
        "max_rollouts must be a multiple of unit_size = 2, got max_rollouts = 3",
    ),
    ({"max_rollouts": None}, TypeError, "max_rollouts must be an integer"),
    ({"round_capacity": 0}, ValueError, "round_capacity must be at least 1"),
    ({"round_capacity": 1}, ValueError, "total_budget must be spendable in 4 rounds of at most 1 rollouts"),
    ({"visits": [1]}, ValueError, r"visits must be one integer or have shape \(2,\)"),
    ({"visits": [1, 5]}, ValueError, r"visits must be in \[1, n_rounds = 4\], got visits\[1\] = 5"),
    ({"visits": 2.5}, TypeError, "visits must be integers"),
    ({"step_size": 0.0}, ValueError, "step_size must be finite and greater than 0"),
    ({"step_size": (1.0,)}, ValueError, "step_size must be a pair"),
    ({"step_size": 0.1, "visits": 2}, ValueError, "step_size must be a pair when visits are given"),
    ({"step_size": "fast"}, TypeError, "step_size must be finite and greater than 0, got step_size = 'fast'"),
    ({"initial_price": 1.5}, ValueError, r"initial_price must be a number in \[0, 1\], got initial_price = 1.5"),
    ({"initial_price": float("nan")}, ValueError, "got initial_price = nan"),
    ({"fit_every": 0}, ValueError, r"fit_every must be at least 1, got fit_every = 0\. Or None\."),
    ({"fit_every": -3}, ValueError, "fit_every must be at least 1, got fit_every = -3"),
    ({"fit_every": 2.0}, TypeError, "fit_every must be an integer, got fit_every = 2.0"),
    ({"fit_every": True}, TypeError, "fit_every must be an integer, got fit_every = True"),
]


@pytest.mark.parametrize(("arguments", "error", "match"), BAD_ARGUMENTS)
def test_constructor_errors(arguments, error, match):
    with pytest.raises(error, match=match):
        FenchelDualAllocator(BetaPosteriorBank(2), **{**BASE, **arguments})


BAD_CALLS = [
    (lambda a: a.allocate([0, 9]), KeyError, "prompt_ids must be in the bank, unknown: 9"),
    (lambda a: a.allocate([0, 0]), ValueError, r"prompt_ids must not repeat an id, got prompt_ids\[1\] = 0"),
    (lambda a: a.allocate(budget=-1), ValueError, "budget must be at least 0, got budget = -1"),
    (lambda a: a.allocate(budget=2.0), TypeError, "budget must be an integer, got budget = 2.0"),
    (lambda a: a.allocate("01"), TypeError, "prompt_ids must be a collection of ids"),
    (lambda a: a.update([0, 7], [0, 0], [1, 1]), KeyError, "unknown: 7"),
    (
        lambda a: a.update([1, 0, 1], [0, 0, 0], [1, 1, 1]),
        ValueError,
        r"prompt_ids must not repeat an id, got prompt_ids\[2\] = 1",
    ),
    (
        lambda a: a.update([0, 1], [0, np.nan], [1, 1]),
        ValueError,
        r"successes must be finite and at least 0, got successes\[1\] = nan",
    ),
    (
        lambda a: a.update([0], [-1], [1]),
        ValueError,
        r"successes must be finite and at least 0, got successes\[0\] = -1.0",
    ),
    (
        lambda a: a.update([0], [2], [1]),
        ValueError,
        r"successes must not exceed rollouts\[0\] = 1, got successes\[0\] = 2.0",
    ),
    (lambda a: a.update([0], [0], [-1]), ValueError, r"rollouts must be at least 0, got rollouts\[0\] = -1"),
    (lambda a: a.update([0], [0], [1.0]), ValueError, r"rollouts must be integers, got rollouts\[0\] = 1.0"),
    (
        lambda a: a.update([0], [0, 0], [1]),
        ValueError,
        r"successes must have one entry per prompt id, got successes.shape = \(2,\)",
    ),
    (
        lambda a: a.update([0], [0], 1),
        ValueError,
        r"rollouts must have one entry per prompt id, got rollouts.shape = \(\)",
    ),
    (
        lambda a: a.update([0, 1], [[0], [0, 0]], [1, 1]),
        ValueError,
        "successes must be a plain array, got a ragged list",
    ),
    (lambda a: a.refund([5], [1]), KeyError, "unknown: 5"),
    (lambda a: a.refund([0, 0], [1, 1]), ValueError, "prompt_ids must not repeat an id"),
]


@pytest.mark.parametrize(("call", "error", "match"), BAD_CALLS)
def test_errors_change_nothing(call, error, match):
    allocator = FenchelDualAllocator(BetaPosteriorBank(2), **BASE)
    allocator.update(None, [1, 0], allocator.allocate())

    def state():
        ledger = allocator.ledger
        arrays = (allocator.slopes, allocator.exposure, ledger.outstanding, allocator.bank.alpha, allocator.bank.beta)
        return repr(allocator.metrics()), [array.tolist() for array in arrays]

    before = state()
    with pytest.raises(error, match=match):
        call(allocator)
    assert state() == before
