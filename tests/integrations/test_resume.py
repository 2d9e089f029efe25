"""The allocator of a checkpoint in a run that is longer, or whose prompts changed; and rewards of several rounds at once."""

from functools import partial

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator
from cero_alloc.baselines import Uniform
from cero_alloc.integrations._build import run_allocator
from cero_alloc.integrations._dealer import Dealer, require_exact_batches
from cero_alloc.integrations._resume import resumed

SLOTS = 16
build = partial(run_allocator, slots=SLOTS, group_size=4, mode="select", advantages="posterior")


def began(prompts=range(24), n_rounds=6, rounds=2):
    """Return an allocator in the middle of its run."""
    allocator = build(prompts, n_rounds=n_rounds, total_budget=n_rounds * SLOTS)
    play(allocator, rounds)
    return allocator


def play(allocator, rounds):
    for _ in range(rounds):
        counts = allocator.allocate(budget=SLOTS, exact=True)
        allocator.observe(allocator.bank.prompts_of(counts), [1.0, 0.0] * (SLOTS // 2))


def again(allocator, prompts, n_rounds, **more):
    run = {"n_rounds": n_rounds, "total_budget": n_rounds * SLOTS, "setting": "epochs"} | more
    return resumed(build, allocator.state_dict(), list(prompts), **run)


def test_an_unchanged_run_goes_on_as_if_it_had_not_been_interrupted():
    whole = began()
    other = again(whole, range(24), 6)
    for _ in range(4):
        assert whole.allocate(budget=SLOTS, exact=True).tolist() == other.allocate(budget=SLOTS, exact=True).tolist()


def test_a_longer_run_gets_its_rounds_and_its_rollouts_and_may_be_lengthened_again():
    longer = again(began(), range(24), 9)
    assert (longer.ledger.rounds_left, longer.remaining_budget) == (7, 7 * SLOTS)
    longest = again(longer, range(24), 10)
    play(longest, 8)
    assert longest.balance == (10 * SLOTS, 10 * SLOTS, 0, 0)


def test_rollouts_that_replaced_others_do_not_count_as_planned():
    allocator = began()
    allocator.extend_budget(5, rounds=1)
    other = again(allocator, range(24), 6, planned=(6, 6 * SLOTS))
    assert (other.ledger.rounds_left, other.remaining_budget) == (5, 4 * SLOTS + 5)
    with pytest.raises(
        ValueError, match=r"epochs must give at least the 7 batches and 101 rollouts .* Leave it as it was"
    ):
        again(allocator, range(24), 6)


def test_new_prompts_join_and_those_that_are_gone_retire():
    allocator = began()
    other = again(allocator, [*range(3, 24), "new", "newer"], 6)
    assert list(other.bank.prompt_ids) == [*range(24), "new", "newer"]
    assert np.flatnonzero(other.bank.retired).tolist() == [0, 1, 2]
    counts = other.allocate(budget=SLOTS, exact=True)
    assert counts[:3].sum() == 0
    play(again(other, [*range(3, 24), "new", "newer", "newest"], 6), 3)


def test_the_checkpoint_of_another_allocator_is_refused():
    bank = BetaPosteriorBank(range(24))
    other = FenchelDualAllocator(bank, total_budget=6 * SLOTS, n_rounds=6, max_rollouts=4)
    with pytest.raises(ValueError, match=r"must"):
        again(other, range(24), 6)


def test_visits_to_come_are_those_of_the_rounds_that_are_left():
    redeal = partial(build, mode="redeal", visits=2)
    allocator = redeal(range(24), n_rounds=6, total_budget=6 * SLOTS)
    allocator.allocate(range(4), budget=SLOTS, exact=True)
    asked = []

    def visits(rounds):
        asked.append(rounds)
        return 3

    run = {"n_rounds": 12, "total_budget": 12 * SLOTS, "setting": "epochs", "visits": visits}
    other = resumed(redeal, allocator.state_dict(), list(range(24)), **run)
    assert asked == [11]
    assert other.allocate(range(4, 8), budget=SLOTS, exact=True).sum() == SLOTS


def test_rewards_of_several_rounds_are_each_counted_for_their_own():
    allocator = build(range(24), n_rounds=6, total_budget=6 * SLOTS)
    dealer, twin = Dealer(allocator), build(range(24), n_rounds=6, total_budget=6 * SLOTS)
    own = []
    for number in (1, 2, 3):
        counts = dealer.deal(None, SLOTS)
        twin.allocate(budget=SLOTS, exact=True)
        own += [(key, number) for key, n in enumerate(counts) for _ in range(n)]
    np.random.default_rng(0).shuffle(own)
    own = [(int(key), int(number)) for key, number in own[:40]]  # eight are late
    rewards = [float("nan") if place % 7 == 0 else float(place % 2) for place in range(40)]
    advantages = dealer.learn([key for key, _ in own], rewards, round=[number for _, number in own])
    for number in (1, 2, 3):
        places = [place for place, (_, of) in enumerate(own) if of == number]
        expected = twin.observe([own[p][0] for p in places], [rewards[p] for p in places], round=number)
        np.testing.assert_array_equal(advantages[places], expected)
    assert allocator.reservations == twin.reservations
    assert sum(allocator.reservations.values()) == 8
    assert dealer.figures["prompts_dealt"] == len({key for key, _ in own})


def test_batches_drawn_from_the_pool_need_room_in_the_pool():
    bank, run = BetaPosteriorBank(range(10)), {"total_budget": 32, "n_rounds": 2, "round_capacity": SLOTS}
    require_exact_batches(Uniform(bank, max_rollouts=2, **run), 4, 4, "n", advantages="posterior", offered=10)
    with pytest.raises(ValueError, match=r"n = 4 must be .* at most max_rollouts = 2, or a batch"):
        require_exact_batches(Uniform(bank, max_rollouts=2, **run), 4, 4, "n", advantages="posterior")
    small = Uniform(bank, max_rollouts=1, **run | {"total_budget": 20})
    with pytest.raises(ValueError, match=r"n = 4 must be .* at most the 10 that 10 prompts can get, or a batch"):
        require_exact_batches(small, 4, 4, "n", advantages="posterior", offered=10)


def test_a_run_over_a_bank_that_was_built_with_a_number_goes_on():
    def numbered(prompts, **run):
        return FenchelDualAllocator(BetaPosteriorBank(len(prompts)), max_rollouts=8, **run)

    allocator = numbered(range(24), n_rounds=6, total_budget=6 * SLOTS)
    play(allocator, 2)
    longer = {"n_rounds": 7, "total_budget": 7 * SLOTS, "setting": "epochs"}
    other = resumed(numbered, allocator.state_dict(), list(range(25)), **longer)
    assert (len(other.bank), other.ledger.rounds_left, other.remaining_budget) == (25, 5, 5 * SLOTS)
