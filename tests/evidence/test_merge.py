"""Banks that gathered apart: merged they are one, in any order and grouping."""

import copy
import re
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator

seeds = given(seed=st.integers(0, 2**32 - 1))


def gathered(rng, names, forgetting, priors=None, whole=True, rounds=5, dtype="float64"):
    """A bank over some of the names, fed at random for some rounds."""
    some = [names[i] for i in rng.permutation(len(names))[: rng.integers(1, len(names) + 1)]]
    prior = (1.0, 2.0) if priors is None else tuple(np.array([side[name] for name in some]) for side in priors)
    bank = BetaPosteriorBank(some, prior=prior, forgetting=forgetting, dtype=dtype)
    for _ in range(int(rng.integers(0, rounds))):
        n = rng.integers(0, 9, len(some))
        won = rng.integers(0, n + 1) if whole else rng.random(len(some)) * n
        bank.update(some, won, n)
        bank.tick(int(rng.integers(0, 3)))
    if rng.random() < 0.3:
        bank.retire(some[:1])
    return bank


def content(bank):
    """The evidence of a bank, whatever the order of its rows."""
    ids = bank.prompt_ids
    columns = (
        bank.evidence.outcomes[:, 0],
        bank.evidence.outcomes[:, 1],
        bank.evidence.ticks,
        bank.retired,
        bank.alpha,
        bank.beta,
    )
    return {name: [column[i].item() for column in columns] for i, name in enumerate(ids)}


def merged(first, *others):
    whole = copy.deepcopy(first)
    for other in others:
        whole.merge(copy.deepcopy(other))
    return whole


def banks(seed, n, *, forgetting, whole=True, per_prompt=False):
    rng = np.random.default_rng(seed)
    names = [f"p{i}" for i in range(int(rng.integers(1, 7)))] if rng.random() < 0.5 else list(range(5))
    priors = [{name: float(rng.uniform(0.5, 3.0)) for name in names} for _ in "ab"] if per_prompt else None
    return [gathered(rng, names, forgetting, priors, whole) for _ in range(n)]


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32 - 1), per_prompt=st.booleans())
def test_counts_merge_exactly_in_any_order_and_grouping(seed, per_prompt):
    one, two, three = banks(seed, 3, forgetting=1.0, per_prompt=per_prompt)
    assert content(merged(one, two)) == content(merged(two, one))
    left, right = merged(merged(one, two), three), merged(one, merged(two, three))
    assert content(left) == content(right)
    assert left.prompt_ids == tuple(dict.fromkeys([*one.prompt_ids, *two.prompt_ids, *three.prompt_ids]))
    assert left.evidence.now == max(bank.evidence.now for bank in (one, two, three))
    sums = [bank.evidence.record.bins for bank in (one, two, three)]
    assert left.evidence.record.bins[0].tolist() == sum(sums)[0].tolist()
    total = sum(sum(bank.evidence.outcomes.sum(axis=0)) for bank in (one, two, three))
    assert left.evidence.outcomes.sum() == total


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32 - 1))
def test_fading_evidence_commutes_to_the_bit_and_associates_to_rounding(seed):
    one, two, three = banks(seed, 3, forgetting=0.9, whole=False)
    assert content(merged(one, two)) == content(merged(two, one))
    left, right = content(merged(merged(one, two), three)), content(merged(one, merged(two, three)))
    assert left.keys() == right.keys()
    for name, columns in left.items():
        np.testing.assert_allclose(columns, right[name], rtol=1e-14)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), forgetting=st.sampled_from([1.0, 0.9, 0.5]))
def test_merged_workers_equal_one_bank(seed, forgetting):
    rng = np.random.default_rng(seed)
    names = list(range(int(rng.integers(1, 8))))
    whole = BetaPosteriorBank(names, forgetting=forgetting)
    workers = [BetaPosteriorBank(names, forgetting=forgetting) for _ in range(3)]
    for _ in range(6):
        for worker in workers:
            n = rng.integers(0, 9, len(names))
            won = rng.integers(0, n + 1)
            whole.update(None, won, n)
            worker.update(None, won, n)
        for bank in (whole, *workers):
            bank.tick()
    together = merged(BetaPosteriorBank(names, forgetting=forgetting), *workers)
    np.testing.assert_allclose(together.alpha, whole.alpha, rtol=1e-13)
    np.testing.assert_allclose(together.beta, whole.beta, rtol=1e-13)
    if forgetting == 1.0:
        assert together.alpha.tolist() == whole.alpha.tolist()
        assert together.value().tolist() == whole.value().tolist()


def test_what_does_not_fit_is_refused_and_nothing_changes():
    bank = BetaPosteriorBank(["a", "b"], prior=([1.0, 2.0], [1.0, 1.0]))
    bank.update(["a"], [1], [2])
    before = bank.state_dict()
    odd = {
        "other.forgetting must be 1.0, got other.forgetting = 0.9": BetaPosteriorBank(["a"], forgetting=0.9),
        "other's dtype must be float64, got other's dtype = dtype('float32')": BetaPosteriorBank(
            ["a"], dtype="float32"
        ),
        "other's prior must be 2.0 for prompt 'b', got other's prior = 1.0": BetaPosteriorBank(["c", "b"]),
        "other must be another bank": bank,
    }
    for text, other in odd.items():
        with pytest.raises(ValueError, match=re.escape(text)):
            bank.merge(other)
    for other in (None, {"a": 1}, FenchelDualAllocator(bank, total_budget=4, n_rounds=2, max_rollouts=4)):
        with pytest.raises(TypeError, match="other must be a BetaPosteriorBank, got other = "):
            bank.merge(other)
    assert str(bank.state_dict()) == str(before)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_new_prompts_bring_their_priors(dtype):
    bank = BetaPosteriorBank(["a"], dtype=dtype)
    bank.merge(BetaPosteriorBank(["b"], dtype=dtype))
    assert bank.evidence.a0.size == 1  # one prior for all still
    bank.merge(BetaPosteriorBank(["c"], prior=(3.0, 4.0), dtype=dtype))
    assert bank.alpha.tolist() == [1.0, 1.0, 3.0]
    assert bank.beta.tolist() == [1.0, 1.0, 4.0]
    bank.merge(BetaPosteriorBank(["c"], prior=(3.0, 4.0), dtype=dtype))
    assert bank.evidence.outcomes.dtype == np.dtype(dtype)


def test_an_allocator_makes_room_for_merged_prompts():
    bank = BetaPosteriorBank(["a", "b"])
    run = FenchelDualAllocator(bank, total_budget=64, n_rounds=4, max_rollouts=8)
    counts = run.allocate()
    worker = BetaPosteriorBank(["b", "c"])
    worker.update(None, [4, 4], [8, 8])
    bank.merge(worker)
    assert run.allocate().shape == (3,)
    assert run.outstanding[:2].sum() >= counts.sum()  # evidence settles nothing


def test_banks_that_merge_each_other_do_not_wait_for_each_other():
    one, two = BetaPosteriorBank(50), BetaPosteriorBank(50)
    for bank in (one, two):
        bank.update(None, np.ones(50), np.ones(50, dtype=int))

    def go(first, second):
        for _ in range(200):
            first.merge(second)

    threads = [threading.Thread(target=go, args=pair, daemon=True) for pair in ((one, two), (two, one))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
