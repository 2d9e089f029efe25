"""Guarded retirement: solved prompts rest until their review, as long as the others can take the budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, ResolvingAllocator

RUN = {"total_budget": 800, "n_rounds": 20, "max_rollouts": 8}


def build(size=20, forgetting=1.0, **change):
    arguments = RUN | {"retire_at": 0.8, "retire_after": 8, "review": 4} | change
    return ResolvingAllocator(BetaPosteriorBank(size, forgetting=forgetting), **arguments)


def solve(allocator, ids, n=16):
    allocator.bank.update(ids, [n] * len(ids), [n] * len(ids))


def test_a_solved_prompt_rests_and_comes_back_with_half_the_evidence():
    allocator = build()
    solve(allocator, [3, 5])
    seen = []
    for _ in range(7):
        counts = allocator.allocate()
        seen.append(sorted(np.flatnonzero(allocator.bank.retired).tolist()))
        assert counts[allocator.bank.retired].sum() == 0
    assert seen == [[3, 5]] * 4 + [[]] * 3
    known = allocator.bank.alpha + allocator.bank.beta - 2
    assert known[[3, 5]].tolist() == [4.0, 4.0]
    allocator.update([3, 5], [4, 0], [4, 4])  # one is still solved, one is not
    allocator.allocate()
    assert np.flatnonzero(allocator.bank.retired).tolist() == [3]


def test_too_little_evidence_or_too_low_a_mean_retires_nobody():
    allocator = build()
    allocator.bank.update([0, 1, 2], [7, 8, 6], [7, 8, 8])
    allocator.allocate()
    assert np.flatnonzero(allocator.bank.retired).tolist() == [
        1
    ]  # mean 0.9; the others have 7 rollouts, or a mean of 0.7


def test_the_default_review_is_a_tenth_of_the_run():
    allocator = build(review=None, n_rounds=30)
    solve(allocator, [7])
    rested = [bool((allocator.allocate(), allocator.bank.retired[7])[1]) for _ in range(6)]
    assert rested == [True] * 3 + [False] * 3


def test_what_the_user_retires_stays_retired():
    allocator = build()
    solve(allocator, [1, 2, 3])
    allocator.bank.retire([1])
    allocator.allocate()
    assert np.flatnonzero(allocator.bank.retired).tolist() == [1, 2, 3]
    allocator.bank.retire([2])  # the allocator's until now
    allocator.bank.revive([3], keep=0.0)
    for _ in range(8):
        counts = allocator.allocate()
        assert np.flatnonzero(allocator.bank.retired).tolist() == [1, 2]
        assert counts[[1, 2]].sum() == 0


def test_off_by_default():
    allocator = ResolvingAllocator(BetaPosteriorBank(20), **RUN)
    solve(allocator, range(20), 100)
    for _ in range(3):
        allocator.allocate()
    assert not allocator.bank.retired.any()


def test_as_many_stay_as_can_take_what_is_left():
    """800 rollouts in 20 rounds of at most 8 each: 5 prompts stay, those with the lowest means."""
    allocator = build()
    allocator.bank.update(None, np.arange(81, 101), [100] * 20)
    allocator.allocate()
    assert np.flatnonzero(~allocator.bank.retired).tolist() == [0, 1, 2, 3, 4]


def test_more_budget_brings_prompts_back():
    allocator = build(review=19)
    allocator.bank.update(None, np.arange(81, 101), [100] * 20)
    allocator.allocate()
    allocator.extend_budget(1200)
    allocator.allocate()
    active = int((~allocator.bank.retired).sum())
    assert (active - 1) * 8 * 19 < allocator.balance.total - 40 <= active * 8 * 19
    assert np.flatnonzero(~allocator.bank.retired).tolist() == list(range(active))


def test_an_exact_total_brings_back_as_many_as_it_needs_for_a_round():
    allocator = build()
    solve(allocator, [0, 1, 2, 3])
    assert allocator.allocate().sum() > 0
    assert allocator.allocate([0, 1, 2, 9], 20, exact=True).sum() == 20
    assert allocator.bank.retired.sum() == 2
    with pytest.raises(ValueError, match="budget must be at most 32 with exact=True, got budget = 40"):
        allocator.allocate([0, 1, 2, 9], 40, exact=True)
    assert allocator.allocate([0, 1, 2, 9], 32, exact=True).tolist() == [8] * 4
    assert allocator.allocate(None, 0).sum() == 0
    assert np.flatnonzero(allocator.bank.retired).tolist() == [0, 1, 2, 3]


def test_an_error_leaves_no_trace():
    allocator = build()
    solve(allocator, [0, 1, 2, 3])
    for k in range(6):
        before = repr(allocator.state_dict())
        for bad in ({"prompt_ids": [0, 99]}, {"budget": -1}, {"budget": 10**4, "exact": True}, {"prompt_ids": [0, 0]}):
            with pytest.raises((KeyError, ValueError)):
                allocator.allocate(**bad)
        assert repr(allocator.state_dict()) == before
        allocator.allocate()
        assert allocator.bank.retired.sum() == (4 if k < 4 else 0)


WAYS = [
    {},
    {"visits": 20},
    {"min_rollouts": 2},
    {"order": "spread", "min_rollouts": 2},
    {"signal": "group", "min_rollouts": 2},
    {"costs": 2.0, "total_budget": 1600.0},
    {"costs": np.linspace(1, 3, 20), "total_budget": 1600.0, "visits": 20},
]


@settings(max_examples=60)
@given(way=st.sampled_from(WAYS), seed=st.integers(0, 2**32 - 1), part=st.booleans())
def test_the_budget_is_spent_whatever_is_solved(way, seed, part):
    """Every exact round is dealt in full, nobody who rests gets a rollout, and with the whole pool nothing is left."""
    rng = np.random.default_rng(seed)
    rates = rng.choice([0.1, 0.6, 0.97, 1.0], 20)
    allocator = build(forgetting=float(rng.choice([1.0, 0.95])), retire_at=0.7, review=int(rng.integers(1, 8)), **way)
    exact = "costs" not in way
    for _ in range(20):
        offer = rng.permutation(20)[: int(rng.integers(6, 21))] if part else np.arange(20)
        counts = allocator.allocate(offer, 40 if exact else None, exact=exact)
        if exact:
            assert counts.sum() == 40
        assert counts[allocator.bank.retired[offer]].sum() == 0
        allocator.update(offer, rng.binomial(counts, rates[offer]), counts)
    if exact or not part:
        assert allocator.balance.left < 3.0  # less than the dearest rollout


@pytest.mark.parametrize("way", WAYS, ids=lambda way: ", ".join(way) or "best")
def test_a_state_goes_on_to_the_last_bit(way):
    def play(allocator, first, last):
        said = []
        for k in range(first, last):
            rng = np.random.default_rng(k)
            counts = allocator.allocate(rng.permutation(20)[:15])
            said += [counts.tolist(), allocator.bank.retired.tolist()]
            allocator.update(None, *(lambda n: (rng.binomial(n, 0.97), n))(rng.integers(0, 8, 20)))
        return said

    one = build(**way)
    play(one, 0, 7)
    twin = build(**way)
    twin.load_state_dict(one.state_dict())
    assert one.bank.retired.any()
    assert play(one, 7, 18) == play(twin, 7, 18)


def test_a_visit_that_goes_by_at_rest_is_counted():
    allocator = build(visits=10, n_rounds=None)
    solve(allocator, [0])
    for _ in range(3):
        allocator.allocate(list(range(20)))
    assert allocator._plan.left.tolist() == [7.0] * 20


def test_prompts_that_join_are_awake_and_merged_rest_is_not_taken_over():
    allocator, other = build(), BetaPosteriorBank(20)
    solve(allocator, [4])
    allocator.allocate()
    allocator.bank.add_prompts(["new"])
    allocator.allocate()
    assert np.flatnonzero(allocator.bank.retired).tolist() == [4]
    allocator.bank.retire([6])
    other.merge(allocator.bank)
    assert np.flatnonzero(other.retired).tolist() == [6]


def test_a_state_with_rest_for_the_active_is_refused():
    allocator = build()
    solve(allocator, [4])
    allocator.allocate()
    state = allocator.state_dict()
    state["bank"]["resting"][0] = 3
    with pytest.raises(ValueError, match=r"\['resting'\] must be 0, or a round for a retired prompt, got .*\[0\] = 3"):
        allocator.load_state_dict(state)
