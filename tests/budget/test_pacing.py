"""Pacing: whole units to the last bit, windows on their edges, tokens, and the errors of an account that cannot be
opened."""

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cero_alloc._budget.costs import token_costs
from cero_alloc._budget.horizon import whole_units
from cero_alloc._budget.ledger import Pacing
from cero_alloc._budget.opening import open_ledger

ARGUMENTS = {
    "total_budget": 120, "n_rounds": 10, "visits": None, "unit_size": 1, "max_rollouts": 8, "round_capacity": None,
    "unit_costs": None,
}  # fmt: skip


def ledger(n_prompts=4, **changes):
    return open_ledger(n_prompts, **{**ARGUMENTS, **changes})


def pacing(n_prompts=4, min_units=0, band=0.25, capacity=np.inf, **changes):
    by_rounds = changes.get("n_rounds", ARGUMENTS["n_rounds"]) is not None
    return Pacing(ledger(n_prompts, **changes), min_units, band, capacity, by_rounds)


def visits(*numbers):
    return np.array(numbers, dtype=float)


# ---------------------------------------------------------------- whole_units

positive = st.floats(1e-6, 1e9, allow_nan=False)


def pays(units, step, total):
    """Whether the product, as float64 rounds it, is covered; the ledger debits what float64 makes of it."""
    return units * step <= total


@given(st.integers(0, 10**9), positive)
def test_whole_units_of_a_product_are_its_factor(units, step):
    assert whole_units(units * step, step) == units


@given(st.floats(0.0, 1e9), positive)
def test_whole_units_are_the_most_that_a_total_pays_for(total, step):
    units = whole_units(total, step)
    assert isinstance(units, int)
    assert units >= 0
    exact = Fraction(total) / Fraction(step)
    assert abs(units - exact) < 1 + exact * Fraction(1, 2**50)
    assert not pays(units + 1, step, total)
    # never more than float64 says is covered
    assert units == 0 or pays(units, step, total)


@given(st.integers(0, 2**40), st.integers(-10, 20))
def test_whole_units_of_powers_of_two_equal_fractions(total, power):
    step = 2.0**power
    assert whole_units(float(total), step) == int(Fraction(total) / Fraction(step))


def test_whole_units_where_floor_division_falls_short():
    assert 0.3 // 0.1 == 2.0  # 0.3 < 3 * Fraction(0.1)
    assert whole_units(3 * 0.1, 0.1) == 3
    assert whole_units(0.3, 0.1) == 2
    assert whole_units(0.7, 0.1) == int(Fraction(0.7) / Fraction(0.1)) == 6
    assert whole_units(7 * 0.1, 0.1) == 7
    assert whole_units(0.0, 0.1) == 0
    assert whole_units(np.inf, 0.1) > 10**18


# ---------------------------------------------------------------- windows in rollouts


def test_an_even_pace_over_rounds():
    p = pacing(band=0.25)  # 120 over 10 rounds
    assert p.window(None, 4, None, None, False) == (9.0, 15.0)
    assert p.window(np.array([0, 1]), 2, None, None, False) == (9.0, 15.0)
    assert p.window(np.array([0]), 1, None, None, False) == (8.0, 8.0)  # all that one prompt can take


@pytest.mark.parametrize(
    ("band", "expected"),
    [(0.0, (12, 12)), (0.1, (11, 13)), (0.25, (9, 15)), (1.0, (0, 24)), (5.0, (0, 32)), (np.inf, (0, 32))],
)
def test_bands(band, expected):
    assert pacing(band=band).window(None, 4, None, None, False) == expected
    assert pacing(band=band, visits=visits(10, 10, 10, 10)).window(None, 4, np.full(4, 10.0), None, False) == expected


def test_a_band_narrower_than_a_unit_rounds_the_pace():
    assert pacing(total_budget=126, band=0.01).window(None, 4, None, None, False) == (13, 13)  # 12.6
    assert pacing(total_budget=124, band=0.01).window(None, 4, None, None, False) == (12, 12)  # 12.4
    assert pacing(total_budget=3, band=0.25).window(None, 4, None, None, False) == (0, 0)  # 0.3


def test_a_pace_by_visits_weighs_the_offer():
    p = pacing(visits=visits(4, 4, 8, 8), n_rounds=None, band=0.25)
    left = visits(4, 4, 8, 8)
    rate = 120 * 2 / 24
    assert p.window(np.array([0, 1]), 2, left, None, False) == (np.ceil(0.75 * rate), np.floor(1.25 * rate))
    assert p.window(np.array([3]), 1, left, None, False) == (4, 6)  # 5 give or take a quarter
    left = visits(1, 1, 2, 2)
    assert p.window(np.array([3]), 1, left, None, False) == (8, 8)  # 20, but one prompt takes 8


def test_what_later_rounds_cannot_spend_is_due_now():
    p = pacing(total_budget=38 * 8, n_rounds=None, visits=visits(10, 10, 10, 10))
    offer = np.array([0])
    assert p.window(offer, 1, np.full(4, 10.0), None, False) == (6, 8)  # 39 visits later, 38 are enough
    assert p.window(offer, 1, visits(10, 10, 10, 9), None, False) == (6, 8)
    assert p.window(offer, 1, visits(10, 10, 10, 8), None, False) == (8, 8)
    by_rounds = pacing(total_budget=38 * 8, visits=visits(10, 10, 10, 10))
    for later in (10.0, 1.0):  # the visits have no part in it: nine rounds later take 9 * 8, so 232 are due
        assert by_rounds.window(offer, 1, np.full(4, later), None, False) == (8, 8)
    full = pacing(total_budget=4 * 8 * 10)
    assert full.window(None, 4, None, None, False) == (32, 32)


def test_the_last_round_spends_the_rest():
    p = pacing(total_budget=20, n_rounds=1)
    assert p.window(None, 4, None, None, False) == (20, 20)
    assert p.window(np.array([0, 1]), 2, None, None, False) == (16, 16)
    assert p.window(np.array([], dtype=np.int64), 0, None, None, False) == (0, 0)


@pytest.mark.parametrize("told", [None, visits(10, 10, 10, 10), visits(2, 9, 9, 9)])
def test_rounds_to_come_are_as_large_as_the_mean_of_those_so_far(told):
    p = pacing(visits=told, total_budget=110)
    left = None if told is None else told.copy()
    sizes = [4, 1, 3, 2, 2, 4, 1, 4, 3, 1]
    for k, size in enumerate(sizes):
        offer = np.arange(size)
        others = (9 - k) * sum(sizes[: k + 1]) / (k + 1)
        rate, later = p.pace(offer, size, left)
        assert rate == pytest.approx(p.ledger.funds * size / (size + others), rel=1e-14)
        # The last round may be as small as the smallest so far.
        last = min(sizes[: k + 1])
        expected = 8 * (others - sum(sizes[: k + 1]) / (k + 1) + last) if k < 9 else 0.0
        assert later == pytest.approx(expected, rel=1e-14)
        if left is not None:
            left[offer] -= 1.0  # below 0 where the given visits were too few: no part of the pace
        p.ledger.debit(offer, np.full(size, 2))
    assert p.pace(offer, 1, left) == (p.ledger.funds, 0.0)  # past the last round


def test_rounds_to_come_weigh_what_their_prompts_cost():
    p = pacing(unit_costs=np.array([1.0, 2.0, 3.0, 6.0]), total_budget=240.0)
    assert p.pace(np.array([3]), 1, None) == (24.0, 9 * 6 * 8.0)
    p.ledger.debit(np.array([3]), np.array([4]))
    others = 8 * (6 + 1) / 2
    assert p.pace(np.array([0]), 1, None) == (pytest.approx(216 / (1 + others)), 8 * (7 * 3.5 + 1))
    p.capacity = 10.0  # which later rounds cannot exceed either
    assert p.pace(np.array([0]), 1, None)[1] == 80.0


def test_round_capacity_caps_and_makes_later_rounds_due():
    p = pacing(total_budget=120, round_capacity=13)
    assert p.window(None, 4, None, None, False) == (9, 13)
    assert p.window(None, 4, None, 20, False) == (0, 13)
    tight = pacing(total_budget=120, round_capacity=12)
    assert tight.window(None, 4, None, None, False) == (12, 12)
    # Later rounds hold 12 each, however many are on offer.
    assert tight.pace(None, 4, None) == (12.0, 9 * 12.0)


def test_a_given_budget_is_a_cap_without_a_floor():
    p = pacing()
    for budget, high in ((0, 0), (5, 5), (31, 31), (1000, 32)):
        assert p.window(None, 4, None, budget, False) == (0.0, high)
    p.ledger.debit(None, np.array([8, 8, 8, 8]))
    p.ledger.funds = 3
    assert p.window(None, 4, None, 1000, False) == (0.0, 3)
    assert p.window(None, 4, None, 2, True) == (2, 2)


def test_groups_count_in_units():
    p = pacing(total_budget=240, unit_size=2, max_rollouts=16)
    assert p.window(None, 4, None, None, False) == (9, 15)
    assert p.window(None, 4, None, 9, False) == (0, 4)  # four whole groups
    assert p.window(None, 4, None, 10, True) == (5, 5)


def test_a_window_never_raises_where_nothing_is_left():
    for band in (0.0, 0.25, 1.0, np.inf):
        for told in (None, visits(2, 2)):
            p = pacing(2, total_budget=16, n_rounds=4, band=band, visits=told)
            p.ledger.funds = 0
            left = None if told is None else visits(1, 1)
            assert p.window(None, 2, left, None, False) == (0, 0)
            assert p.window(np.array([], dtype=np.int64), 0, left, None, False) == (0, 0)


@pytest.mark.parametrize("band", [0.25, np.inf])
def test_an_empty_offer_has_an_empty_window(band):
    for told in (None, visits(2, 2)):
        p = pacing(2, total_budget=16, n_rounds=4, band=band, visits=told)
        for left in (None,) if told is None else (visits(2, 2), visits(0, 0)):
            assert p.window(np.array([], dtype=np.int64), 0, left, None, False) == (0, 0)


@pytest.mark.parametrize(
    ("min_units", "total", "nearest"), [(5, 4, "0, 5"), (5, 9, "8, 10"), (7, 17, "16, 21"), (6, 11, "8, 12")]
)
def test_totals_between_the_sums_of_counts(min_units, total, nearest):
    p = pacing(min_units=min_units)
    message = (
        f"budget must be a sum of counts from {min_units} to 8 rollouts with exact=True, got budget = {total}. "
        f"Nearest such totals: {nearest}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        p.window(None, 4, None, total, True)
    below, above = (int(t) for t in nearest.split(", "))
    assert p.window(None, 4, None, below, True) == (below, below)
    assert p.window(None, 4, None, above, True) == (above, above)
    p.ledger.funds = above - 1  # the upper one is out of reach
    with pytest.raises(ValueError, match=rf"got budget = {total}\. Nearest such totals: {below}\.$"):
        p.window(None, 4, None, total, True)


def test_totals_between_the_sums_of_counts_name_rollouts_of_whole_groups():
    p = pacing(unit_size=4, max_rollouts=12, min_units=2)
    with pytest.raises(ValueError, match=r"from 8 to 12 rollouts with exact=True, got budget = 4\. .*: 0, 8\.$"):
        p.window(None, 4, None, 4, True)
    with pytest.raises(ValueError, match=r"got budget = 4\. Nearest such totals: 0, 8\.$"):
        p.window(np.array([2]), 1, None, 4, True)
    capped = pacing(unit_size=4, max_rollouts=20, min_units=4, round_capacity=28)
    with pytest.raises(ValueError, match=r"from 16 to 20 rollouts .* got budget = 24\. Nearest such totals: 20\.$"):
        capped.window(None, 4, None, 24, True)


# ---------------------------------------------------------------- windows in tokens


def test_tokens_keep_the_pace_of_the_costs_on_offer():
    costs = np.array([1.0, 2.0, 3.0, 6.0])
    p = pacing(unit_costs=costs, total_budget=240.0)
    assert p.window(None, 4, None, None, False) == (18.0, 30.0)
    assert p.window(None, 4, np.full(4, 10.0), None, False) == (18.0, 30.0)
    by_visits = pacing(unit_costs=costs, total_budget=240.0, n_rounds=None, visits=visits(10, 10, 10, 10))
    assert by_visits.window(None, 4, np.full(4, 10.0), None, False) == (18.0, 30.0)
    rate = 240 * 6 / 120
    low, high = by_visits.window(np.array([3]), 1, np.full(4, 10.0), None, False)
    assert (low, high) == pytest.approx((0.75 * rate, 1.25 * rate))
    assert p.window(None, 4, None, 12.5, False) == (0.0, 12.5)
    assert p.window(None, 4, None, 0, False) == (0.0, 0.0)
    capped = pacing(unit_costs=costs, total_budget=240.0, capacity=25.0)
    assert capped.window(None, 4, None, None, False) == (18.0, 25.0)
    assert capped.window(None, 4, None, 100, False) == (0.0, 25.0)
    capped.ledger.funds = 7.0
    assert capped.window(None, 4, None, 100, False) == (0.0, 7.0)


def test_exact_tokens_of_one_cost():
    p = pacing(unit_costs=np.array([0.1]), total_budget=12.0, min_units=3)
    assert p.window(None, 4, None, 5 * 0.1, True) == (5.0, 5.0)  # units
    assert p.window(None, 4, None, 7 * 0.1, True) == (7.0, 7.0)
    with pytest.raises(ValueError, match=r"budget must be a multiple of 0.1 tokens up to 3.2 with exact=True"):
        p.window(None, 4, None, 0.55, True)
    with pytest.raises(ValueError, match=r"budget must be a multiple of 0.1 tokens up to 3.2 with exact=True"):
        p.window(None, 4, None, 33 * 0.1, True)
    with pytest.raises(
        ValueError,
        match=r"budget must be a sum of counts from 0.3 to 0.8 tokens with exact=True, got budget = 0.2. Nearest such "
        r"totals: 0, 0.3\.$",
    ):
        p.window(None, 4, None, 0.2, True)
    with pytest.raises(ValueError, match=r"got budget = 0.1. Nearest such totals: 0\.$"):  # only two units are left
        pacing(unit_costs=np.array([0.1]), total_budget=0.25, min_units=3).window(None, 4, None, 0.1, True)
    with pytest.raises(ValueError, match="budget must be given with exact=True, got budget = None"):
        p.window(None, 4, None, None, True)
    with pytest.raises(ValueError, match=r"budget must be finite and at least 0, got budget = -1.0"):
        p.window(None, 4, None, -1, True)
    capped = pacing(unit_costs=np.array([0.1]), total_budget=6.0, round_capacity=0.65)
    with pytest.raises(ValueError, match=r"tokens up to 0.6 with exact=True"):
        capped.window(None, 4, None, 7 * 0.1, True)
    p.ledger.round = p.ledger.horizon.n_rounds
    with pytest.raises(ValueError, match="tokens up to 0 with exact=True"):
        p.window(None, 4, None, 0.5, True)


@pytest.mark.parametrize("cost", [0.25, 8.0, 120.0])
@pytest.mark.parametrize(
    ("told", "n_rounds"), [(None, 10), (visits(10, 10, 10, 10), 10), (visits(10, 10, 10, 10), None)]
)
def test_windows_of_one_cost_are_those_of_its_units(cost, told, n_rounds):
    for band, total, size in itertools.product((0.0, 0.1, 0.25, 1.0, np.inf), (40, 77, 126, 240, 301), (1, 2, 4)):
        plain = pacing(band=band, total_budget=total, visits=told, n_rounds=n_rounds)
        costly = pacing(
            band=band, total_budget=total * cost, visits=told, n_rounds=n_rounds, unit_costs=np.array([cost])
        )
        window = plain.window(np.arange(size), size, told, None, False)
        assert costly.window(np.arange(size), size, told, None, False) == window, (band, total, size)


def test_different_costs_have_no_exact_totals():
    p = pacing(unit_costs=np.array([1.0, 2.0, 3.0, 6.0]))
    with pytest.raises(ValueError, match="budget must be a cap where the costs differ, not a total with exact=True"):
        p.window(None, 4, None, 6, True)


# ---------------------------------------------------------------- token_costs


def test_token_costs_are_a_number_or_one_per_prompt():
    assert token_costs(3, 5).tolist() == [3.0]
    assert token_costs([4], 5).tolist() == [4.0]
    assert token_costs(np.float32(0.5), 2).tolist() == [0.5]
    given_costs = np.array([1, 2, 3])
    costs = token_costs(given_costs, 3)
    assert costs.tolist() == [1.0, 2.0, 3.0]
    assert costs.dtype == np.float64
    given_costs[:] = 9
    assert costs.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("costs", "error", "match"),
    [
        (0, ValueError, "costs must be finite, greater than 0, got costs = 0.0"),
        (-1.0, ValueError, "got costs = -1.0. Give the expected tokens of a rollout"),
        ([1, np.inf], ValueError, r"got costs\[1\] = inf"),
        ([1, 2, 3], ValueError, r"costs must be a number or have shape \(2,\), got costs = \(3,\)"),
        ([[1], [2]], ValueError, r"have shape \(2,\), got costs = \(2, 1\)"),
        ([], ValueError, r"have shape \(2,\), got costs = \(0,\)"),
        ("many", TypeError, "costs must be numbers, got str"),
        ([[1], [2, 3]], TypeError, "costs must be numbers, got list"),
        (None, TypeError, "costs must be numbers, got NoneType"),
    ],
)
def test_bad_token_costs(costs, error, match):
    with pytest.raises(error, match=match):
        token_costs(costs, 2)


# ---------------------------------------------------------------- open_ledger


def test_horizons_by_rounds_by_visits_and_by_both():
    h = ledger().horizon
    assert (h.n_rounds, h.round_capacity, h.total_budget) == (10, 32, 120)
    h = ledger(n_rounds=None, visits=visits(1, 2, 6, 6)).horizon
    assert (h.n_rounds, h.round_capacity) == (15, 32)  # every round offers a prompt
    h = ledger(visits=visits(5, 5, 5, 5)).horizon
    assert (h.n_rounds, h.round_capacity) == (10, 16)  # two prompts a round
    h = ledger(unit_size=4, round_capacity=24).horizon
    assert (h.budget_units, h.max_units, h.capacity_units) == (30, 2, 6)
    assert ledger().costs.unit_costs is None
    assert ledger(n_rounds=None, visits=visits(1, 2, 6, 6), total_budget=120).remaining_budget == 120


def test_tokens_buy_every_prompt_an_equal_share():
    account = ledger(unit_costs=np.array([1.0, 2.0, 3.0, 6.0]), total_budget=240.0)
    assert account.remaining_budget == 240.0
    assert account.horizon.total_budget == 80  # at 3 tokens each
    assert account.horizon.equal_share_units == 20
    assert account.costs.of_units(None, np.array([20, 20, 20, 20])) == 240.0
    grouped = ledger(unit_costs=np.array([10.0]), total_budget=205.0, unit_size=2)
    assert (grouped.horizon.total_budget, grouped.horizon.budget_units) == (40, 20)
    least = ledger(unit_costs=np.array([10.0, 20.0, 30.0, 40.0]), total_budget=0.5)
    assert least.horizon.total_budget == 1
    assert least.finished  # not one rollout


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"total_budget": 0}, ValueError, "total_budget must be at least 1"),
        ({"total_budget": 8.0}, TypeError, "total_budget must be an integer, got total_budget = 8.0"),
        ({"total_budget": 321}, ValueError, "total_budget must be spendable in 10 rounds of at most 32 rollouts"),
        ({"round_capacity": 11}, ValueError, "total_budget must be spendable in 10 rounds of at most 11 rollouts"),
        ({"max_rollouts": 0}, ValueError, "max_rollouts must be at least 1"),
        ({"max_rollouts": 9, "unit_size": 2}, ValueError, "max_rollouts must be a multiple of unit_size = 2"),
        ({"unit_size": 7, "max_rollouts": 7}, ValueError, "total_budget must be a multiple of unit_size = 7"),
        (
            {"n_rounds": None, "visits": visits(1, 1, 1, 2)},
            ValueError,
            "total_budget must be at most the 40 rollouts of all visits at max_rollouts, got total_budget = 120. "
            "Lower the budget, or raise visits, rounds or caps.",
        ),
        (
            {"n_rounds": None, "visits": visits(9, 9, 9, 9), "total_budget": "9"},
            TypeError,
            "total_budget must be an integer",
        ),
        (
            {"n_rounds": None, "visits": visits(9, 9, 9, 9), "total_budget": 31, "unit_size": 2},
            ValueError,
            "total_budget must be a multiple of unit_size = 2, got total_budget = 31",
        ),
        (
            {"unit_costs": np.array([2.0]), "total_budget": 641},
            ValueError,
            "total_budget must be at most the 640 tokens of all visits at max_rollouts, got total_budget = 641.0. Lower",
        ),
        (
            {"unit_costs": np.array([1.0, 2.0, 3.0, 6.0]), "visits": visits(1, 1, 1, 1), "total_budget": 97},
            ValueError,
            "total_budget must be at most the 96 tokens of all visits at max_rollouts",
        ),
        (
            {"unit_costs": np.array([2.0]), "total_budget": 120.5, "round_capacity": 12},
            ValueError,
            "total_budget must be at most the 120 tokens of all rounds at round_capacity, got total_budget = 120.5. "
            "Lower the budget, or raise visits, rounds or caps.",
        ),
        (
            {"unit_costs": np.array([10.0]), "total_budget": 9.5},
            ValueError,
            "total_budget must pay for a unit of 10 tokens, got total_budget = 9.5. Raise it, or check costs.",
        ),
        (
            {"unit_costs": np.array([2.0]), "round_capacity": 1.5, "total_budget": 12.0},
            ValueError,
            "round_capacity must pay for a unit of 2 tokens, got round_capacity = 1.5",
        ),
        ({"unit_costs": np.array([2.0]), "total_budget": 0.0}, ValueError, "total_budget must be finite and greater"),
        ({"unit_costs": np.array([2.0]), "total_budget": None}, TypeError, "total_budget must be finite and greater"),
    ],
)
def test_accounts_that_cannot_be_opened(changes, error, match):
    with pytest.raises(error, match=match):
        ledger(**changes)


def test_all_that_the_visits_can_spend_is_a_budget():
    assert ledger(total_budget=320).remaining_budget == 320
    assert ledger(total_budget=40, n_rounds=None, visits=visits(1, 1, 1, 2)).remaining_budget == 40
    assert ledger(total_budget=640.0, unit_costs=np.array([2.0])).remaining_budget == 640.0
    assert ledger(total_budget=120.0, unit_costs=np.array([2.0]), round_capacity=12).remaining_budget == 120.0
    assert (
        ledger(
            total_budget=80.0, unit_costs=np.array([2.0]), round_capacity=16, n_rounds=None, visits=visits(1, 1, 1, 2)
        ).remaining_budget
        == 80.0
    )


# ---------------------------------------------------------------- the clock


def test_rounds_are_the_clock_where_they_are_given():
    for told in (None, visits(5, 5, 5, 5)):
        account = ledger(visits=told)
        assert (account.progress, account.pacing_gap, account.projected_leftover) == (0.0, 0.0, 0.0)
        account.debit(np.array([0]), np.array([8]))
        assert account.progress == 0.1
        assert account.pacing_gap == pytest.approx(8 - 12)
        assert account.projected_leftover == pytest.approx(120 - 80)


@pytest.mark.parametrize("cost", [1.0, 2.5])
def test_visits_are_the_clock_where_rounds_are_not_given(cost):
    costs = {"unit_costs": None if cost == 1.0 else np.array([cost])}
    account = ledger(n_rounds=None, visits=visits(4, 4, 4, 4), total_budget=int(64 * cost), **costs)
    account.debit(None, np.array([1, 2, 5, 8]))  # a quarter of the visits, a quarter of the budget
    assert account.progress == 0.25
    assert account.pacing_gap == 0.0
    assert account.projected_leftover == 0.0
    account.debit(np.array([0, 1]), np.array([1, 1]))
    assert account.progress == 0.375
    assert account.pacing_gap == (18 - 24) * cost
    assert account.projected_leftover == pytest.approx((64 - 18 / 0.375) * cost)
    for _ in range(5):
        account.debit(None, np.array([2, 2, 2, 2]))
    assert account.progress == 1.0  # offered more often than planned
    assert account.pacing_gap == -6.0 * cost
    assert account.projected_leftover == 6.0 * cost


def test_visits_count_what_they_cost_on_the_clock():
    account = ledger(
        n_rounds=None, visits=visits(2, 2, 2, 2), unit_costs=np.array([1.0, 2.0, 3.0, 6.0]), total_budget=96.0
    )
    account.debit(np.array([3]), np.array([4]))
    assert account.progress == 0.25
    assert account.pacing_gap == 0.0
    account.debit(np.array([0, 1]), np.array([1, 1]))
    assert account.progress == 0.375
    assert account.pacing_gap == 27.0 - 36.0
