"""Rounds that overlap, which the asynchronous adapters share."""

import pickle

import numpy as np
import pytest

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator, training_allocator
from cero_alloc.baselines import Uniform
from cero_alloc.integrations._rounds import Rounds, Visit

TOTAL = 16


def recommended(n_rounds, bank=None, **more):
    return training_allocator(24, total_budget=n_rounds * TOTAL, n_rounds=n_rounds, round_capacity=TOTAL, **more)


def planned(kind):
    def make(n_rounds):
        return kind(BetaPosteriorBank(8), total_budget=n_rounds * TOTAL, n_rounds=n_rounds, max_rollouts=8, unit_size=2)

    return make


def require_account(allocator):
    total, spent, reserved, left = allocator.balance
    assert spent + reserved + left == total
    assert reserved == allocator.outstanding.sum()


@pytest.mark.parametrize("make", [recommended, *map(planned, (FenchelDualAllocator, ResolvingAllocator, Uniform))])
def test_every_round_has_the_exact_total_also_beyond_the_plan(make):
    allocator = make(2)
    rounds = Rounds(allocator, TOTAL)
    for number in range(1, 6):
        visits = rounds.deal()
        assert sum(visit.rollouts for visit in visits) == TOTAL
        assert {visit.round for visit in visits} == {number}
    assert allocator.balance == (5 * TOTAL, 0, 5 * TOTAL, 0)


def test_rewards_go_to_the_round_that_dealt_them_in_any_order():
    rng = np.random.default_rng(0)
    rounds = Rounds(planned(ResolvingAllocator)(6), TOTAL)
    allocator = rounds.dealer.allocator
    visits = [visit for _ in range(6) for visit in rounds.deal()]
    rng.shuffle(visits)
    open_ = dict.fromkeys(range(1, 7), TOTAL)
    for prompt, rollouts, number in visits:
        rewards = rng.choice([0.0, 1.0, np.nan], size=rollouts)
        advantages = rounds.learn(Visit(prompt, rollouts, number), rewards, [0] * rollouts)
        assert (advantages[np.isnan(rewards)] == 0.0).all()
        open_[number] -= rollouts
        assert allocator.reservations == {key: left for key, left in open_.items() if left}
    assert allocator.balance == (6 * TOTAL, 6 * TOTAL, 0, 0)
    assert allocator.metrics(certificate=False)["unreserved_rollouts"] == 0


def test_copies_that_get_the_same_calls_stay_equal():
    rng = np.random.default_rng(1)
    mine = Rounds(recommended(8), TOTAL, in_flight=3)
    mine.deal()
    theirs = pickle.loads(pickle.dumps(mine))
    late = []
    for _ in range(10):
        visits = mine.deal()
        assert theirs.deal() == visits
        late.extend(visits)
        rng.shuffle(late)
        for place in range(12):
            visit, rewards = Visit(*late.pop()), rng.integers(0, 2, size=1).astype(float)
            np.testing.assert_array_equal(mine.learn(visit, rewards, [place]), theirs.learn(visit, rewards, [place]))
    assert mine.dealer.allocator.balance == theirs.dealer.allocator.balance
    np.testing.assert_equal(mine.metrics(), theirs.metrics())


def test_rounds_in_flight_are_bounded_and_late_rewards_are_evidence_all_the_same():
    rounds = Rounds(recommended(8), TOTAL, in_flight=3)
    allocator = rounds.dealer.allocator
    first = rounds.deal()
    for _ in range(4):
        rounds.deal()
        assert len(allocator.reservations) <= 3
    assert list(allocator.reservations) == [3, 4, 5]
    assert allocator.remaining_budget == 5 * TOTAL  # two rounds came back
    rounds.learn(first[0], [1.0], [4])
    assert allocator.bank.alpha.sum() > 24
    require_account(allocator)


def test_a_visit_that_was_never_generated_is_refunded_once():
    rounds = Rounds(planned(Uniform)(4), TOTAL)
    allocator = rounds.dealer.allocator
    visit = rounds.deal()[0]
    for _ in range(2):
        rounds.refund(visit)
        assert allocator.balance == (4 * TOTAL, 0, TOTAL - visit.rollouts, 3 * TOTAL + visit.rollouts)


def test_a_resumed_run_deals_again_what_was_in_flight():
    first, second = Rounds(recommended(4), TOTAL), Rounds(recommended(4), TOTAL)
    for visit in first.deal():
        first.learn(visit, [1.0], [0])
    first.deal()
    second.resume(first.dealer.allocator.state_dict())
    allocator = second.dealer.allocator
    assert allocator.balance == (4 * TOTAL, TOTAL, 0, 3 * TOTAL)
    dealt = sum(visit.rollouts for _ in range(3) for visit in second.deal())
    assert (dealt, allocator.balance.total, allocator.round) == (3 * TOTAL, 4 * TOTAL, 5)


def test_figures_are_of_the_visits_since_the_last_ones():
    rounds = Rounds(planned(Uniform)(4), TOTAL)
    visits = rounds.deal()
    for visit in visits:
        rounds.learn(visit, [1.0] + [0.0] * (visit.rollouts - 1), [3] * (visit.rollouts - 1) + [5])
    figures = rounds.metrics()
    assert figures["prompts_dealt"] == len(visits)
    assert figures["mixed_rollouts"] == 1.0
    assert figures["largest_age"] == 5.0
    assert 3.0 < figures["mean_age"] < 5.0
    other = rounds.deal()[0]
    rounds.learn(other, [1.0] * other.rollouts, [0] * other.rollouts)
    assert rounds.metrics()["prompts_dealt"] == 1.0
    assert rounds.metrics()["largest_age"] == 0.0


def test_success_maps_rewards_and_leaves_missing_ones():
    rounds = Rounds(planned(Uniform)(4), TOTAL, success=lambda reward: float(reward > 3.0))
    visit = rounds.deal()[0]
    rounds.learn(visit, [5.0] + [np.nan] * (visit.rollouts - 1), [0] * visit.rollouts)
    bank = rounds.dealer.allocator.bank
    assert (bank.alpha.sum(), bank.beta.sum()) == (9.0, 8.0)


def test_what_cannot_be_dealt_is_refused():
    for text, total, more in (
        ("rollouts of a round must be a multiple of unit_size = 2, at most the 64", 7, {}),
        ("at most the 64 that a round can deal, got .*66", 66, {}),
        ("rounds_in_flight must be at least 2, got .*1", TOTAL, {"in_flight": 1}),
    ):
        with pytest.raises(ValueError, match=text):
            Rounds(planned(Uniform)(4), total, **more)
    tokens = ResolvingAllocator(
        BetaPosteriorBank(4), total_budget=20, n_rounds=4, max_rollouts=4, costs=[1.0, 2.0, 3.0, 4.0]
    )
    with pytest.raises(ValueError, match="costs must be None: a round deals a number of rollouts"):
        Rounds(tokens, 4)
