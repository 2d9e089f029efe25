"""Cost models against the account kept by hand, and the ledger's journal of changed rows."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cero_alloc import Horizon
from cero_alloc._budget.costs import PromptCosts, RolloutCosts, UniformCosts, cost_model
from cero_alloc._budget.ledger import RolloutLedger
from helpers.trees import leaves

PER_PROMPT = np.array([1.0, 2.0, 5.0, 8.0])
MODELS = [cost_model(2, None), cost_model(2, np.array([6.0])), cost_model(2, PER_PROMPT)]


def account(costs=None, **changes):
    horizon = Horizon(
        **{"n_prompts": 4, "n_rounds": 8, "total_budget": 64, "unit_size": 2, "max_rollouts": 8, "round_capacity": 32}
        | changes
    )
    total = None if costs is None or costs.word == "rollouts" else horizon.budget_units * costs.mean * costs.unit_budget
    return RolloutLedger(horizon, costs=costs, total=total)


def test_the_model_is_chosen_by_the_costs():
    assert [type(model) for model in MODELS] == [RolloutCosts, UniformCosts, PromptCosts]
    assert [model.word for model in MODELS] == ["rollouts", "tokens", "tokens"]
    assert [model.in_units for model in MODELS] == [True, True, False]
    assert [(model.least, model.mean) for model in MODELS] == [(1.0, 1.0), (1.0, 1.0), (1.0, 4.0)]
    assert [model.unit_costs is None for model in MODELS] == [True, True, False]


@given(st.lists(st.integers(0, 9), min_size=4, max_size=4), st.permutations(range(4)), st.integers(1, 4))
def test_amounts(units, order, size):
    units, rows = np.array(units), np.array(order)[:size]
    for model, each in zip(MODELS, (np.ones(4), np.ones(4), PER_PROMPT), strict=True):
        assert model.of_units(None, units) == each @ units
        assert model.of_units(rows, units[rows]) == each[rows] @ units[rows]
        assert model.of_units(rows, units[rows], int(units[rows].sum())) == each[rows] @ units[rows]
        assert model.of_offer(rows, size) == each[rows].sum()
        assert model.of_offer(None, 4) == each.sum()
        assert model.of_visits(units.astype(float)) == each @ units
        assert np.broadcast_to(model.rates, 4).tolist() == each.tolist()
        assert (model.of_rows(rows) is None) == model.in_units


@given(st.integers(0, 10**6))
def test_budgets_in_units_and_back(units):
    for model, step in zip(MODELS, (2, 6, 4), strict=True):  # of a unit, at the mean cost
        assert model.units_of(units * step) == model.units_of(units * step + step - 1) == units
        paid = Fraction(model.budget_of(model.amount(units * step, units)))
        assert paid == units * step
        assert isinstance(model.budget_of(units), int) == (model is MODELS[0])


def test_what_can_be_dealt():
    units, _, tokens = MODELS
    assert units.window(2.4, 7.6, 5.0) == (3.0, 7.0)
    assert units.window(2.0 + 1e-12, 3.0 - 1e-12, 2.5) == (2.0, 3.0)  # errors of rounding
    assert units.window(2.4, 2.6, 2.6) == (3.0, 3.0)
    assert units.window(0.5, np.inf, 1.0) == (1.0, np.inf)
    assert tokens.window(2.4, 2.6, 2.5) == (2.4, 2.6)
    assert (units.whole(2.6), tokens.whole(2.6)) == (3.0, 2.6)


def test_new_prompts_cost_the_mean():
    model = cost_model(2, PER_PROMPT.copy())
    model.grow(2)
    assert model.unit_costs.tolist() == [1.0, 2.0, 5.0, 8.0, 4.0, 4.0]
    twin = cost_model(2, np.arange(1.0, 7.0))
    twin.load_state_dict(model.state_dict())
    assert (twin.unit_costs == model.unit_costs).all()
    assert (twin.rates is twin.unit_costs, twin.least, twin.mean) == (True, 1.0, 4.0)
    plain = cost_model(2, None)
    plain.grow(2)
    assert plain.state_dict() == {"class": "RolloutCosts"}
    with pytest.raises(ValueError, match=r"state\['class'\] must be 'RolloutCosts'"):
        plain.load_state_dict(model.state_dict())


@pytest.mark.parametrize("unit_costs", [None, [6.0], PER_PROMPT])
def test_an_account_balances(unit_costs):
    costs = cost_model(2, None if unit_costs is None else np.array(unit_costs))
    ledger, rows = account(costs), np.arange(4)
    each = {"RolloutCosts": np.full(4, 2), "UniformCosts": np.full(4, 6.0), "PromptCosts": PER_PROMPT}[
        type(costs).__name__
    ]
    ledger.debit(None, np.array([1, 2, 3, 4]))
    ledger.debit(np.array([3, 1]), np.array([0, 2]))
    dealt = each @ [1, 4, 3, 4]
    total = ledger.total
    assert ledger.balance == (total, 0, dealt, total - dealt)
    ledger.refund(rows, np.array([0, 4, 0, 2]), str)
    ledger.settle(rows, np.array([2, 0, 4, 0]))
    left, spent = total - dealt + each @ [0, 2, 0, 1], each @ [1, 0, 2, 0]
    assert ledger.balance == pytest.approx((total, spent, total - left - spent, left))
    assert isinstance(ledger.remaining_budget, int) == (unit_costs is None)
    twin = account(cost_model(2, None if unit_costs is None else np.array(unit_costs)))
    twin.load_state_dict(ledger.state_dict())
    assert twin.balance == ledger.balance
    assert leaves(twin.state_dict()) == leaves(ledger.state_dict())
    broken = ledger.state_dict() | {"funds": ledger.funds + 1}
    with pytest.raises(ValueError, match=r"^state\['funds'\] must be what is not dealt"):
        twin.load_state_dict(broken)


def test_the_journal_names_rows_whose_account_changed():
    ledger = account()
    journal, seen = ledger.journal, ledger.journal.version

    def changed():
        nonlocal seen
        rows, seen = journal.since(seen), journal.version
        return None if rows is None else rows.tolist()

    assert changed() is None  # the first look
    ledger.debit(np.array([3, 1, 0]), np.array([1, 0, 2]))
    assert changed() == [0, 1, 3]  # all that were on offer
    ledger.debit(None, np.array([0, 1, 0, 0]))
    assert changed() is None  # the whole pool was
    ledger.top_up(np.array([2]), np.array([1]))
    assert changed() == [2]
    ledger.settle(np.array([0]), np.array([1]))
    ledger.write_off(np.array([3]), np.array([1]), str)
    assert changed() == []  # reports leave the exposure as it is
    ledger.refund(np.array([1]), np.array([2]), str)
    assert changed() == [1]
    rows, back = ledger.expire(-1)
    assert (sorted(rows.tolist()), int(back.sum())) == ([0, 2, 3], 4)
    assert changed() == [0, 2, 3]
    ledger.grow(5)
    assert changed() is None
    ledger.load_state_dict(ledger.state_dict())
    assert changed() is None
