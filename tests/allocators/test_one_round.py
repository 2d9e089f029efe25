"""One round of FenchelDualAllocator against its twin."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import twins
from cero_alloc._solvers.ranking import counts_of, deal_round


def played(key, tie, threshold, max_units, cap, budget):
    """What a round proposes and deals, by the twin; below 0 the threshold is that of an exact round."""
    limits = {"max_units": max_units, "left": budget, "cap": cap, "most": 1000, "due": 0}
    result = deal_round(np.array(key), np.array(tie, dtype=np.int32), threshold, **limits, exact=threshold < 0)
    proposal, counts = np.zeros((2, len(key)), dtype=np.int64)
    proposal[result.places] = counts_of(result.places, result.proposed, max_units)
    counts[result.paid] = counts_of(result.paid, result.dealt, max_units)
    return result.proposed, result.dealt, proposal.tolist(), counts.tolist()


@settings(max_examples=150)
@given(
    key=st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.5000000001, 1.0]), min_size=1, max_size=40),
    seed=st.integers(0, 99),
    threshold=st.sampled_from([-1.0, 0.0, 0.3, 0.5, 1.0]),
    max_units=st.integers(1, 5),
    cap=st.integers(0, 200),
    budget=st.integers(0, 200),
)
def test_a_round_matches_its_twin(key, seed, threshold, max_units, cap, budget):
    tie = np.random.default_rng(seed).permutation(len(key))
    assert played(key, tie, threshold, max_units, cap, budget) == twins.propose(
        key, tie, threshold, max_units, cap, budget
    )


def test_a_round_gives_the_residual_to_the_last_in_rank():
    proposal = [0, 3, 2, 3]
    assert played([0.1, 0.9, 0.5, 0.7], range(4), -1.0, 3, 8, 100) == (8, 8, proposal, proposal)


def test_a_round_clips_the_executed_counts_only():
    assert played([0.5] * 4, [2, 0, 3, 1], 0.0, 2, 8, 3) == (8, 3, [2, 2, 2, 2], [0, 2, 0, 1])


@settings(max_examples=150)
@given(size=st.integers(1, 12), units=st.integers(0, 40), max_units=st.integers(1, 5), data=st.data())
def test_counts_match_their_twin(size, units, max_units, data):
    order, k = data.draw(st.permutations(range(size))), data.draw(st.integers(0, size))
    dealt, expected = twins.deal(order, k, units, max_units, size)
    places, counts = np.array(order[: -(-dealt // max_units)], dtype=np.int64), np.zeros(size, dtype=np.int64)
    counts[places] = counts_of(places, dealt, max_units)
    assert counts.tolist() == expected
