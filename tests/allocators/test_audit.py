"""The audit: prompts and labels that never earned anything, over the whole life of a run."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cero_alloc import Audit, BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator, training_allocator
from cero_alloc.baselines import Uniform

RUN = {"total_budget": 4000, "n_rounds": 40, "max_rollouts": 100}


def test_a_broken_grader_is_named_though_it_is_starved():
    """Evidence fades fast, and the allocator loses interest; lifetime counts do neither."""
    rng, labels = np.random.default_rng(0), ["math"] * 30 + ["code"] * 30 + ["broken"] * 4
    rates = np.append(rng.uniform(0.2, 0.9, 60), np.zeros(4))
    run = {"total_budget": 64 * 120, "n_rounds": 120, "rollouts_per_visit": 8}
    allocator = training_allocator(range(64), **run, groups=labels, visits=None)
    for _ in range(120):
        counts = allocator.allocate()
        allocator.update(None, rng.binomial(counts, rates), counts)
    found = allocator.audit(after=32)
    assert set(found.prompts) == {60, 61, 62, 63}
    assert list(found.labels) == ["broken"]
    assert found.labels["broken"] == sum(found.prompts.values()) == allocator.exposure[60:].sum()
    assert list(found.prompts.values()) == sorted(found.prompts.values(), reverse=True)
    assert (allocator.exposure[60:] < 0.5 * allocator.exposure[:60].mean()).all()  # starved
    assert (allocator.bank.alpha + allocator.bank.beta)[60:].max() < 64  # and forgotten


@st.composite
def reports(draw):
    """Rows, rollouts and rewards in any order, round by round."""
    entry = st.tuples(st.integers(0, 3), st.integers(0, 40), st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0]))
    return draw(st.lists(entry, max_size=25))


@given(history=reports(), after=st.integers(1, 200))
def test_it_is_what_a_list_of_all_reports_says(history, after):
    allocator = ResolvingAllocator(BetaPosteriorBank(list("abcd"), forgetting=0.5), **RUN, groups=[0, 0, 1, 2])
    for row, n, rate in history:
        allocator.allocate()
        allocator.update(["abcd"[row]], [rate * n], [n], squares=[rate * rate * n])
    total = {name: sum(n for row, n, _ in history if "abcd"[row] == name) for name in "abcd"}
    right = {"abcd"[row] for row, n, rate in history if rate * n > 0}
    wrong = {name: n for name, n in total.items() if n >= after and name not in right}
    found = allocator.audit(after)
    assert found.prompts == wrong
    assert list(found.prompts.values()) == sorted(wrong.values(), reverse=True)
    labels = {}
    for label, members in enumerate(["ab", "c", "d"]):
        rollouts = sum(total[name] for name in members)
        if rollouts >= after and not right & set(members):
            labels[label] = rollouts
    assert found.labels == labels


@pytest.mark.parametrize("make", [FenchelDualAllocator, ResolvingAllocator, Uniform])
def test_every_allocator_has_one(make):
    allocator = make(BetaPosteriorBank(3), **RUN)
    assert allocator.audit() == Audit(64, {}, {})
    counts = allocator.allocate([1, 2])
    allocator.update([1, 2], [0, 1], [70, 70])
    assert counts.shape == (2,)
    assert allocator.audit() == Audit(64, {1: 70}, {})
    assert allocator.audit(71).prompts == {}
    metrics = allocator.metrics(certificate=False)
    assert [metrics[f"never_right{k}"] for k in ("", "_1", "_2", "_3")] == [1.0, 1.0, -1.0, -1.0]


def test_reports_count_once_however_late_and_unscored_rollouts_do_not():
    allocator = Uniform(BetaPosteriorBank(["a", "b"], reward_range=(-1, 1)), **RUN)
    for _ in range(3):
        allocator.allocate()
    for _ in range(2):
        allocator.update(["a"], [-40], [40], round=1, delivery_id="late")
    allocator.observe(["b"] * 50, [-1.0] * 30 + [None] * 20, round=2)
    allocator.bank.update(["a"], [-30], [30])  # of an older log
    assert allocator.audit(1).prompts == {"a": 70, "b": 30}
    allocator.update(["a"], [-0.5], [1], squares=[0.25])  # more than the least reward
    assert allocator.audit(1).prompts == {"b": 30}


def test_prompts_that_join_begin_at_zero():
    allocator = ResolvingAllocator(BetaPosteriorBank(["a"]), **RUN, groups=["x"])
    allocator.update(["a"], [0], [64])
    allocator.add_prompts(["b"], groups=["y"])
    allocator.bank.add_prompts(["c"])
    allocator.update(["b", "c"], [0, 0], [65, 66])
    assert allocator.audit().prompts == {"c": 66, "b": 65, "a": 64}
    assert allocator.audit().labels == {None: 66, "y": 65, "x": 64}


def test_banks_that_merge_add_their_counts():
    one, two = BetaPosteriorBank(list("abc")), BetaPosteriorBank(list("bcd"))
    empty = BetaPosteriorBank(list("abcd"))
    one.update(None, [0, 0, 1], [10, 20, 30])
    two.update(None, [0, 0, 0], [65_530, 5, 7])
    one.merge(two)
    empty.merge(one)
    for bank in (one, empty):
        allocator = Uniform(bank, **RUN)
        assert allocator.audit(1).prompts == {"b": 65_534, "a": 10, "d": 7}


def test_an_older_state_begins_anew_where_evidence_shows_no_success():
    for moving in (False, True):
        allocator = Uniform(BetaPosteriorBank(3, drift=0.1 if moving else 0.0), **RUN)
        allocator.update(None, [0, 5, 0], [80, 80, 0])
        state = allocator.state_dict()
        for entry in ("unrewarded", "resting"):
            del state["bank"][entry]
        twin = Uniform(BetaPosteriorBank(3, drift=0.1 if moving else 0.0), **RUN)
        twin.load_state_dict(state)
        assert twin.audit(1).prompts == {}
        twin.update(None, [0, 0, 0], [70, 70, 0])
        assert twin.audit(1).prompts == ({0: 70, 1: 70} if moving else {0: 70})


def test_an_older_state_of_a_resolving_allocator_goes_on():
    def new():
        return ResolvingAllocator(BetaPosteriorBank(3), **RUN, seed=3)

    run = new()
    counts = run.allocate()
    run.update(None, counts // 3, counts)
    state = run.state_dict()
    for name in ("groups", "floors", "retire_at", "retire_after", "review"):
        del state["arguments"][name]
    for part, entry in ((state, "labels"), (state["bank"], "unrewarded"), (state["bank"], "resting")):
        del part[entry]
    twin = new()
    twin.load_state_dict(state)
    assert twin.allocate().tolist() == run.allocate().tolist()
    with pytest.raises(ValueError, match=r"state\['arguments'\]\['retire_at'\] must equal that of this"):
        ResolvingAllocator(BetaPosteriorBank(3), **RUN, retire_at=0.9).load_state_dict(state)


@pytest.mark.parametrize("broken", [np.full(3, 2**16 - 1), np.zeros(2, np.uint16), [0, 0, 0], "none"])
def test_a_state_with_broken_counts_is_refused(broken):
    allocator = Uniform(BetaPosteriorBank(3), **RUN)
    allocator.update(None, [0, 1, 0], [4, 4, 4])
    state = allocator.state_dict()
    state["bank"]["unrewarded"] = broken
    with pytest.raises(ValueError, match="unrewarded"):
        allocator.load_state_dict(state)
