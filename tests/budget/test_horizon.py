"""Horizon: derived constants are plain attributes and no part of comparison, repr, state or pickles' identity."""

import copy
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cero_alloc import Horizon
from cero_alloc._checks import multiple
from cero_alloc._saving.state import plain

ARGUMENTS = {
    "n_prompts": 6, "n_rounds": 7, "total_budget": 40, "unit_size": 2, "max_rollouts": 4, "round_capacity": 12,
}  # fmt: skip
DERIVED = ("budget_units", "max_units", "capacity_units", "units_per_round", "equal_share_units", "price_scale_units")


def derived(horizon):
    return {name: getattr(horizon, name) for name in DERIVED}


@given(
    st.integers(1, 50), st.integers(1, 50), st.integers(1, 8), st.integers(1, 9), st.integers(1, 99), st.integers(1, 99)
)
def test_derived_constants(n_prompts, n_rounds, g, max_units, capacity, budget):
    budget = min(budget, n_rounds * capacity)
    run = {"unit_size": g, "max_rollouts": g * max_units, "round_capacity": g * capacity, "total_budget": g * budget}
    h = Horizon(n_prompts=n_prompts, n_rounds=n_rounds, **run)
    pace = budget / n_rounds
    assert derived(h) == dict(
        zip(DERIVED, (budget, max_units, capacity, pace, budget / n_prompts, max(pace, capacity - pace)), strict=True)
    )


def test_a_horizon_is_its_arguments():
    h = Horizon(**ARGUMENTS)
    assert plain(h) == ARGUMENTS
    assert repr(h) == f"Horizon({', '.join(f'{name}={value}' for name, value in ARGUMENTS.items())})"
    assert h == Horizon(**ARGUMENTS)
    assert hash(h) == hash(Horizon(**ARGUMENTS))
    assert h != Horizon(**ARGUMENTS | {"max_rollouts": 6})
    for twin in (pickle.loads(pickle.dumps(h)), copy.copy(h), copy.deepcopy(h)):
        assert (twin, derived(twin)) == (h, derived(h))
    assert derived(replace(h, total_budget=20)) == derived(Horizon(**ARGUMENTS | {"total_budget": 20}))
    with pytest.raises(FrozenInstanceError):
        h.max_units = 3
    with pytest.raises(TypeError, match="max_units"):
        Horizon(**ARGUMENTS, max_units=3)


@pytest.mark.parametrize(
    ("value", "unit_size", "error", "message"),
    [
        (800.0, 1, TypeError, "n must be an integer, got n = 800.0. Pass an int: 800."),
        (np.float64(800), 8, TypeError, f"n must be an integer, got n = {np.float64(800)!r}. Pass an int: 800."),
        (800.5, 1, TypeError, "n must be an integer, got n = 800.5. Count whole rollouts."),
        (np.nan, 1, TypeError, "n must be an integer, got n = nan. Count whole rollouts."),
        ("8", 1, TypeError, "n must be an integer, got n = '8'. Count whole rollouts."),
        (0, 1, ValueError, "n must be at least 1, got n = 0. Count whole rollouts."),
        (12.0, 8, TypeError, "n must be an integer, got n = 12.0. Give a multiple of unit_size = 8 rollouts."),
        (0, 8, ValueError, "n must be at least 1, got n = 0. Give a multiple of unit_size = 8 rollouts."),
        (12, 8, ValueError, "n must be a multiple of unit_size = 8, got n = 12. The nearest multiples are 8 and 16."),
    ],
)
def test_counts_of_rollouts_that_are_no_whole_units(value, unit_size, error, message):
    with pytest.raises(error) as caught:
        multiple("n", value, unit_size, least=1)
    assert str(caught.value) == message
