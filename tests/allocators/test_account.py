"""What all allocators share: reservations by round, deliveries, expiry, retirement, growth and another plan under way."""

import copy
import pickle
import re
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator
from cero_alloc._budget.balance import Balance
from cero_alloc.baselines import CONTROLS, DAPO, DUET, PEERS, FixedPacing, Preset, Uniform

EVERY = [FenchelDualAllocator, ResolvingAllocator, *CONTROLS, *PEERS]
every = pytest.mark.parametrize("rule", EVERY, ids=lambda rule: rule.__name__)


def new(rule=FenchelDualAllocator, ids=("a", "b", "c", "d"), **change):
    run = {"total_budget": 256, "n_rounds": 8, "max_rollouts": 16} | change
    return rule(BetaPosteriorBank(list(ids)), **run)


# ------------------------------------------------------------------ reservations


@every
def test_what_comes_back_is_counted_once(rule):
    run = new(rule)
    counts = run.allocate()
    total = int(counts.sum())
    assert run.balance == Balance(256, 0, total, 256 - total)
    assert run.outstanding.tolist() == counts.tolist()
    half = counts // 2
    run.update(None, half, half)
    assert run.balance == Balance(256, int(half.sum()), total - int(half.sum()), 256 - total)
    run.write_off(None, counts - half)
    assert run.balance == Balance(256, total, 0, 256 - total)
    assert run.reservations == {}
    metrics = run.metrics(certificate=False)
    assert metrics["spent_budget"] + metrics["reserved_budget"] + metrics["remaining_budget"] == 256


def test_feedback_settles_its_round_or_the_oldest():
    run = new(Uniform, ["a", "b"], total_budget=64, max_rollouts=4)
    for _ in range(3):
        assert run.allocate().tolist() == [4, 4]
    run.update(["a"], [1], [2], round=2)
    assert run.reservations == {1: 8, 2: 6, 3: 8}
    run.update(["a"], [1], [5])  # the four of the first round, one of the two that the second has left
    assert run.reservations == {1: 4, 2: 5, 3: 8}
    run.update(["b"], [0], [6], round=3)  # more than it dealt: evidence, and no other round's
    assert run.reservations == {1: 4, 2: 5, 3: 4}
    assert run.metrics()["unreserved_rollouts"] == 2
    run.refund(["b", "a"], [2, 1], round=2)
    assert run.reservations == {1: 4, 2: 2, 3: 4}
    run.write_off(["b"], [3])  # of the oldest
    assert run.reservations == {1: 1, 2: 2, 3: 4}
    assert run.outstanding.tolist() == [4, 3]


def test_more_than_a_round_has_out_cannot_come_back_from_it():
    run = new(Uniform, ["a", "b"], total_budget=64, max_rollouts=4)
    run.allocate(), run.allocate()
    run.update(["a"], [0], [3], round=1)
    must = r"rollouts must be a multiple of 1 between 0 and the 1 outstanding of prompt 'a', got rollouts\[0\] = 2"
    for call in (run.refund, run.write_off):
        with pytest.raises(ValueError, match=must):
            call(["a"], [2], round=1)
        call(["a"], [0], round=1)
    for odd, error in ((0, "at least 1, got round = 0"), (3, r"one of the 2 rounds so far, got round = 3")):
        for call in (run.refund, run.write_off, lambda ids, n, round: run.update(ids, n, n, round=round)):
            with pytest.raises(ValueError, match=rf"round must be {error}\. Give the number that allocator\.round"):
                call(["a"], [1], round=odd)
    with pytest.raises(TypeError, match=r"round must be an integer, got round = 1\.5"):
        run.update(["a"], [0], [1], round=1.5)


def test_rounds_that_are_never_reported_take_room_only_for_what_is_out():
    run = new(Uniform, range(50), total_budget=10_000, n_rounds=200, max_rollouts=1)
    for _ in range(150):
        counts = run.allocate()
        counts[0] = 0  # this one gets lost
        run.update(None, counts, counts)
    assert run.ledger.reservations._entries < 2_000 < 150 * 50
    assert run.outstanding.sum() == run.outstanding[0] == sum(run.reservations.values()) == 150


def test_what_is_lost_expires():
    run = new(Uniform, ["a", "b"], total_budget=64, max_rollouts=4, unit_size=4)
    for _ in range(4):
        run.allocate()
    run.update(["a"], [1], [1], round=2)  # its group was begun
    assert run.expire(3) == 0
    assert run.expire(older_than=1) == 4 + 4 + 0 + 4
    assert run.reservations == {3: 8, 4: 8}
    assert run.balance == Balance(64, 1 + 3, 16, 64 - 20)
    run.update(["b"], [4], [4], round=1)  # after all
    assert run.metrics()["unreserved_rollouts"] == 4
    assert run.balance == Balance(64, 4, 16, 44)
    assert run.expire(older_than=0) == 8
    assert run.reservations == {4: 8}
    with pytest.raises(ValueError, match=r"older_than must be at least 0, got older_than = -1\. Count the rounds"):
        run.expire(-1)
    with pytest.raises(TypeError, match=r"older_than must be an integer, got older_than = 0\.5"):
        run.expire(0.5)


@every
def test_what_expired_is_dealt_again(rule):
    run = new(rule, total_budget=64, n_rounds=8)
    dealt = sum(int(run.allocate().sum()) for _ in range(8))
    latest = run.reservations.get(run.round, 0)
    assert run.expire(0) == dealt - latest
    assert run.remaining_budget == 64 - latest
    assert run.expire(None) == latest
    assert run.balance == Balance(64, 0, 0, 64)


def test_a_resolving_run_uses_what_expired():
    """Its running plan must take back the exposures as a plan made afresh does."""
    runs = [new(ResolvingAllocator, range(40), visits=6, n_rounds=None, total_budget=400) for _ in range(2)]
    rng = np.random.default_rng(0)
    for turn in range(20):
        offer = rng.permutation(40)[:10]
        counts = [run.allocate(offer) for run in runs]
        assert counts[0].tolist() == counts[1].tolist()
        for run in runs:
            if turn % 3:
                run.update(offer, counts[0] // 2, counts[0])
            run.expire(2)
        runs[1].load_state_dict(runs[1].state_dict())  # which forgets the plan
    assert runs[0].price == runs[1].price


# ------------------------------------------------------------------ deliveries


@every
def test_a_delivery_counts_once(rule):
    run = new(rule)
    counts = run.allocate()
    run.update(["a", "b"], [1, 0], [2, 1], delivery_id="x")
    state, bank = run.balance, run.bank.alpha.tolist()
    run.update(["b", "a"], [0, 1], [1, 2], delivery_id="x")
    assert (run.balance, run.bank.alpha.tolist()) == (state, bank)
    assert run.metrics()["repeated_deliveries"] == 1
    run.update(["a", "b"], [1, 0], [2, 1], delivery_id=np.int64(7))
    run.update(["a", "b"], [1, 0], [2, 1], delivery_id=7)
    assert run.bank.alpha.sum() == 4 + 2
    back = run.outstanding
    run.refund(None, back, delivery_id="x")  # what it changes is not the same: an id of its own
    run.refund(None, back, delivery_id="x")
    assert run.outstanding.sum() == 0
    assert run.remaining_budget == 256 - int(counts.sum()) + int(back.sum())
    run.write_off([], [], delivery_id="x")


def test_deliveries_that_do_not_repeat_what_they_were_are_refused():
    run = new()
    run.allocate()
    run.update(["a", "b"], [1, 0], [2, 1], delivery_id="x")
    must = re.escape("delivery_id must name one delivery, got delivery_id = 'x'. Repeat a delivery unchanged")
    for others in ((["a", "b"], [1, 1], [2, 1]), (["a", "c"], [1, 0], [2, 1]), (["a"], [1], [2])):
        with pytest.raises(ValueError, match=must):
            run.update(*others, delivery_id="x")
    for odd in (1.0, True, ("x",), b"x", np.array([1])):
        with pytest.raises(TypeError, match="delivery_id must be an integer or a string, got delivery_id = "):
            run.update(["a"], [1], [2], delivery_id=odd)
    assert run.bank.alpha.sum() == 4 + 1


def test_a_delivery_that_was_refused_may_come_again():
    run = new(Uniform)
    counts = run.allocate()
    with pytest.raises(ValueError, match="not exceed rollouts"):
        run.update(["a"], [3], [2], delivery_id="x")
    with pytest.raises(ValueError, match="between 0 and"):
        run.refund(["a"], counts[:1] + 1, delivery_id="x")
    run.update(["a"], [2], [2], delivery_id="x")
    run.refund(["b"], [1], delivery_id="x")
    assert run.metrics()["repeated_deliveries"] == 0


# ------------------------------------------------------------------ prompts that go and come


@every
def test_retired_prompts_are_dealt_nothing(rule):
    run = new(rule)
    run.bank.retire(["b", "d"])
    for offer in (None, ["d", "c", "b", "a"], ["b"], []):
        names = list("abcd") if offer is None else offer
        counts = run.allocate(offer)
        assert counts.shape == (len(names),)
        assert all(n == 0 for name, n in zip(names, counts, strict=True) if name in "bd")
    assert run.exposure[[0, 2]].sum() > 0
    assert run.bank.retired.tolist() == [False, True, False, True]
    run.update(["b"], [1], [1])  # evidence is welcome
    assert run.bank.alpha.tolist()[1] == 2.0
    run.bank.retire(["a", "c"])
    assert run.allocate().tolist() == [0] * 4
    run.bank.revive(list("abcd"))
    assert run.bank.evidence.retired is None
    assert sum(run.allocate().sum() for _ in range(2)) > 0


@pytest.mark.parametrize("rule", [FenchelDualAllocator, ResolvingAllocator, Uniform])
def test_a_pool_without_the_retired_is_dealt_as_a_smaller_pool_would_be(rule):
    """Same prompts on offer, same caps, same budget: whoever is retired makes no difference to the others."""
    named = new(rule, "abcd", total_budget=64)
    whole = new(rule, "abcd", total_budget=64)
    whole.bank.retire(["d"])
    for _ in range(4):
        counts = whole.allocate()
        if rule is FenchelDualAllocator:  # its plan of a batch is the same
            assert counts.tolist() == [*named.allocate(["a", "b", "c"]).tolist(), 0]
        for run in (whole, named):
            run.update(["a", "b"], [1, 0], [4, 4])
    assert counts[3] == 0


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_re_solving_plans_without_the_retired(seed):
    """The plan over a pool with retired prompts is that over the others: visits, price, and the running plan."""
    rng = np.random.default_rng(seed)
    m = int(rng.integers(3, 12))
    told = {"visits": rng.integers(1, 6, m)} if rng.random() < 0.7 else {}
    most = 16 * int(told["visits"].sum() if told else 6 * m)
    args = {"n_rounds": 6, **told, "total_budget": int(rng.integers(10, min(most, 100))), "max_rollouts": 16, "seed": 1}
    if rng.random() < 0.3:
        args["costs"] = rng.integers(1, 5, m) * 1.0
    one, two = (ResolvingAllocator(BetaPosteriorBank(m), **args) for _ in range(2))
    gone = rng.permutation(m)[: rng.integers(0, m)]
    for run in (one, two):
        run.bank.retire(gone)
    # As if they had no visits to come: the same thing said by hand.
    if two._plan.left is not None:
        two._plan.left[gone] = 0.0
    for _ in range(4):
        offer = None if rng.random() < 0.5 else np.setdiff1d(rng.permutation(m)[: rng.integers(1, m + 1)], gone)
        counts = one.allocate(offer)
        assert counts.tolist() == two.allocate(offer).tolist()
        assert one.price == two.price
        one.load_state_dict(one.state_dict())
        for run in (one, two):
            run.update(offer, counts // 2, counts)


def test_a_forgotten_prompt_is_tried_again():
    bank = BetaPosteriorBank(["solved", "half", "other"])
    run = ResolvingAllocator(bank, total_budget=1000, n_rounds=100, max_rollouts=16)
    bank.update(["solved", "half", "other"], [64, 32, 30], [64, 64, 64])
    bank.retire(["solved"])
    assert run.allocate()[0] == 0
    bank.revive(["solved"])
    assert run.allocate()[0] == 0  # all that evidence says it is solved
    bank.revive(["solved"], keep=0.05)
    assert run.allocate()[0] > 0


def test_a_prompt_that_keeps_nothing_no_longer_follows_the_others():
    """It has the prior of prompts that were never seen, which a common shift leaves alone."""
    bank = BetaPosteriorBank(["solved", "half", "other", "new"], trend=0.5)
    bank.update(["solved", "half", "other"], [8, 4, 4], [8, 8, 8])
    bank.tick()
    bank.retire(["solved", "half"])
    bank.revive(["solved"], keep=0.0)
    bank.revive(["half"], keep=0.25)
    bank.update(["other"], [8], [8])
    bank.tick()
    solved, half, _, new = bank.mean().tolist()
    assert solved == new == 0.5
    assert half > 0.6


@pytest.mark.parametrize("call", ["retire", "revive"])
def test_odd_retirements_are_refused(call):
    bank = BetaPosteriorBank(["a", "b"])
    bank.retire(["b"])
    method = getattr(bank, call)
    with pytest.raises(KeyError, match="prompt_ids must be in the bank, unknown: 'x'"):
        method(["a", "x"])
    with pytest.raises(ValueError, match="not repeat an id"):
        method(["a", "a"])
    with pytest.raises(
        TypeError, match=r"ids must be a collection of ids, got ids = None\. Pass bank\.prompt_ids for all"
    ):
        method(None)
    with pytest.raises(TypeError, match="be a collection of ids"):
        method("a")
    assert bank.retired.tolist() == [False, True]
    for odd in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"keep must be a number in \[0, 1\]"):
            bank.revive(["b"], keep=odd)
    assert bank.retired.tolist() == [False, True]


def test_a_rule_refuses_a_larger_pool_in_every_call():
    run = new(Uniform)
    run.allocate()
    run.bank.add_prompts(["e"])
    calls = [
        run.allocate, run.state_dict, run.metrics, lambda: run.update(["e"], [0], [1]), lambda: run.refund(["e"], [0]),
        lambda: run.expire(0), lambda: run.exposure, lambda: run.extend_budget(8), lambda: run.outstanding,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match=r"bank must keep its 4 prompts under a baseline, got bank = 5"):
            call()


# ------------------------------------------------------------------ another plan under way


@every
def test_more_budget_is_spent_and_less_is_not(rule):
    run = new(rule, total_budget=64, n_rounds=4)
    run.allocate()
    run.extend_budget(64, rounds=4)
    assert run.balance.total == 128
    assert run.ledger.rounds_left == 7
    for _ in range(3):
        run.allocate()
    run.extend_budget(-int(run.remaining_budget) // 2)
    left = run.remaining_budget
    for _ in range(5):
        left -= int(run.allocate().sum())
        assert run.remaining_budget == left >= 0
    assert run.round <= 8


@pytest.mark.parametrize("rule", [FixedPacing, Uniform])
def test_an_even_pace_goes_on_evenly(rule):
    run = new(rule, total_budget=40, n_rounds=4, max_rollouts=64)
    assert [int(run.allocate().sum()) for _ in range(2)] == [10, 10]
    run.extend_budget(60, rounds=2)
    assert [int(run.allocate().sum()) for _ in range(4)] == [20] * 4
    assert run.metrics()["pacing_gap"] == 0.0
    run.extend_budget(7, rounds=1)  # after the end
    assert run.allocate().sum() == 7
    assert run.balance == Balance(107, 0, 107, 0)


def test_what_cannot_be_is_refused():
    run = new(total_budget=64, n_rounds=4, max_rollouts=8, unit_size=4)
    run.allocate()
    left = int(run.remaining_budget)
    before = run.state_dict()
    for change, error in [
        ((-left - 4,), rf"rollouts must be at least -{left}, got rollouts = {-left - 4}"),
        ((6,), "rollouts must be a multiple of unit_size = 4, got rollouts = 6"),
        ((4.0,), "rollouts must be an integer, got rollouts = 4.0"),
        ((400,), "rollouts must leave no more than the 96 that the rest of the run can spend, got rollouts = 400"),
    ]:
        with pytest.raises((TypeError, ValueError), match=error):
            run.extend_budget(*change)
    with pytest.raises(ValueError, match="rounds must be at least 0, got rounds = -1"):
        run.extend_budget(rounds=-1)
    with pytest.raises(ValueError, match=r"visits must be None where the constructor had none, got visits = 3"):
        run.extend_budget(visits=3)
    assert pickle.dumps(run.state_dict()) == pickle.dumps(before)
    told = new(ResolvingAllocator, n_rounds=None, visits=2, total_budget=32)
    with pytest.raises(ValueError, match=r"rounds must be 0 without n_rounds, got rounds = 1\. Give visits"):
        told.extend_budget(rounds=1)
    with pytest.raises(ValueError, match="visits must be None where the constructor had none"):
        new(ResolvingAllocator).extend_budget(visits=1)
    with pytest.raises(ValueError, match=r"visits must be in \[1, n_rounds = 8\], got visits\[0\] = 9"):
        new(ResolvingAllocator, visits=2, total_budget=64).extend_budget(visits=9)
    with pytest.raises(ValueError, match="extend_budget must not be called on a Preset, got rollouts = 4"):
        Preset(BetaPosteriorBank(2), [[2, 0]]).extend_budget(4)


def test_tokens_can_be_added_and_taken():
    one = new(ResolvingAllocator, costs=2.5, total_budget=101.0, n_rounds=4)
    one.extend_budget(1.5)
    assert (one.ledger.total_units, one.balance.total) == (41, 102.5)
    each = new(ResolvingAllocator, costs=[1.0, 2.0, 3.0, 4.0], total_budget=101.0, n_rounds=4)
    counts = each.allocate()
    spent = float(counts @ [1.0, 2.0, 3.0, 4.0])
    each.extend_budget(-20.5, rounds=1)
    assert each.balance == Balance(80.5, 0.0, spent, 80.5 - spent)
    with pytest.raises(ValueError, match="rollouts must be finite and at least -"):
        each.extend_budget(-100.0)
    duet = new(DUET, costs=[1.0, 2.0, 3.0, 4.0], total_budget=101, n_rounds=4)
    duet.extend_budget(10, rounds=1)
    assert duet.balance.total == 111


def test_re_solving_goes_on_as_a_run_that_was_planned_so():
    """Zero regret from any exposure: after the change the rest is the best use of what is left."""
    from cero_alloc import OfflineOracle

    rng = np.random.default_rng(5)
    m, a, b = 30, rng.uniform(100, 5_000, 30), rng.uniform(100, 5_000, 30)
    run = ResolvingAllocator(BetaPosteriorBank(m, prior=(a, b)), total_budget=120, visits=6, max_rollouts=8)
    q = run.bank.value()
    for _ in range(3):
        run.allocate()
    run.extend_budget(90, visits=5)
    before, share = run.exposure, run.horizon.equal_share_units
    for _ in range(5):
        run.allocate()
    assert run.remaining_budget == 0
    best = OfflineOracle().solve(q, 210, equal_share=share, lower=before, upper=before + 40, integer=True)
    assert run.utility.value(q, run.exposure / share).sum() == pytest.approx(best.optimum, rel=1e-12)


def test_accounts_widen_when_the_plan_needs_it():
    wide = {"total_budget": 2**30, "n_rounds": 2, "unit_size": 2**20, "max_rollouts": 2**40}
    run = new(Uniform, range(2), **wide)
    assert run.ledger.accounts.dtype == np.int32
    run.allocate()
    run.extend_budget(2**36, rounds=1)
    assert run.ledger.accounts.dtype == np.int64
    while run.remaining_budget:
        run.allocate()
    assert run.exposure.sum() == 2**30 + 2**36
    twin = new(Uniform, range(2), **wide)
    twin.load_state_dict(run.state_dict())
    assert twin.ledger.accounts.dtype == np.int64


def test_a_wave_respects_a_reduced_budget_and_retired_prompts():
    run = new(DAPO, total_budget=128, n_rounds=2, max_rollouts=32)
    counts = run.allocate()
    run.extend_budget(-int(run.remaining_budget))
    assert run.continue_round(counts, np.zeros(4)).sum() == 0
    run = new(DAPO, total_budget=128, n_rounds=2, max_rollouts=32)
    counts = run.allocate()
    run.bank.retire("abcd"[int(i)] for i in np.flatnonzero(counts == 0))
    assert (run.continue_round(counts, np.zeros(4))[counts == 0] == 0).all()


# ------------------------------------------------------------------ locks


def test_one_lock_for_a_bank_and_its_allocator():
    run = new()
    assert run.lock is run.bank.lock
    entered = threading.Event()

    def other():
        run.update(["a"], [0], [1])
        entered.set()

    with run.lock:
        counts = run.allocate()
        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.05)
        assert run.round == 1  # no call in between
        assert run.outstanding.tolist() == counts.tolist()
    thread.join(10)
    assert entered.is_set()


@every
def test_copies_and_pickles_have_locks_of_their_own(rule):
    run = new(rule)
    run.allocate()
    for twin in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert twin.lock is twin.bank.lock is not run.lock
        assert twin.allocate().tolist() == copy.deepcopy(run).allocate().tolist()
        twin.state_dict()
