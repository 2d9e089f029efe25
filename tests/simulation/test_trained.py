"""The pool that improves where it is trained, against its twin, and in simulated runs."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cero_alloc import Horizon
from cero_alloc.baselines import Preset, Uniform
from cero_alloc.simulation import Pool, TrainedPool, epoch_batches, simulate
from twins import simulation as twins

RATES = [0.0, 0.2, 0.5, 0.9, 1.0]


@st.composite
def rounds(draw):
    size = draw(st.integers(1, 6))
    rows = draw(st.lists(st.integers(0, size - 1), unique=True))
    n = [draw(st.integers(0, 12)) for _ in rows]
    return size, rows, [draw(st.integers(0, most)) for most in n], n


@given(rounds(), st.floats(0.0, 2.0), st.floats(0.0, 1.0), st.data())
def test_training_equals_its_twin(dealt, gain, transfer, data):
    size, rows, successes, rollouts = dealt
    rates = data.draw(st.lists(st.floats(1e-6, 1.0 - 1e-6) | st.sampled_from([0.0, 1.0]), min_size=size, max_size=size))
    pool = TrainedPool(rates, gain=gain, transfer=transfer)
    pool.train(np.array(rows, dtype=np.int64), successes, rollouts)
    twin = twins.trained_rates(rates, gain, transfer, rows, successes, rollouts)
    np.testing.assert_allclose(pool.now, twin, rtol=1e-9, atol=1e-12)


def test_only_mixed_groups_train():
    pool = TrainedPool(RATES, transfer=0.0)
    pool.train(None, successes=[0, 0, 8, 8, 8], rollouts=[8] * 5)
    assert pool.now.tolist() == RATES
    pool.train([1, 2], successes=[1, 7], rollouts=[8, 8])
    assert (pool.now > RATES).tolist() == [False, True, True, False, False]
    assert pool.at(1, 3).tolist() == RATES
    assert pool.at(2, 3).tolist() == pool.now.tolist()


def test_large_steps_stay_in_range():
    pool = TrainedPool([1e-300, 0.5], gain=1e300)
    pool.train(None, successes=[1, 1], rollouts=[2, 2])
    assert (pool.now <= 1.0).all()
    assert pool.now[1] == 1.0


def test_fresh_and_copied_pools_have_a_state_of_their_own():
    pool = TrainedPool(RATES, prompt_ids=list("abcde"), gain=0.1, transfer=0.5)
    pool.train(None, successes=[1] * 5, rollouts=[2] * 5)
    fresh = pool.fresh()
    assert (fresh.now.tolist(), fresh.rounds, fresh.gain, fresh.transfer) == (RATES, 0, 0.1, 0.5)
    assert fresh.prompt_ids == pool.prompt_ids
    for other in (copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):
        assert other.now.tolist() == pool.now.tolist()
        other.train(None, successes=[1] * 5, rollouts=[2] * 5)
        assert (other.rounds, pool.rounds) == (2, 1)


@pytest.mark.parametrize("offer", ["pool", "batch"])
def test_a_run_trains_the_pool(offer):
    pool = TrainedPool(RATES * 4)
    batches = epoch_batches(20, 10, 4, seed=0) if offer == "batch" else None
    policy = Uniform(pool.bank(), total_budget=8 * 8 * 10, n_rounds=8, max_rollouts=16)
    result = simulate(policy, pool, 8, seed=1, batches=batches)
    assert pool.rounds == 8
    assert np.isnan([result.optimum, result.regret, result.bound]).all()
    twin, achieved, z = np.array(RATES * 4), 0.0, np.zeros(20)
    for k in range(8):
        np.testing.assert_allclose(pool.at(k, 8), twin, rtol=1e-9)
        own = result.group_round == k
        rows, n = result.group_prompt[own], result.group_rollouts[own]
        q, share = (twin * (1 - twin))[rows], policy.horizon.equal_share_units
        achieved += (result.utility.value(q, (z[rows] + n) / share) - result.utility.value(q, z[rows] / share)).sum()
        z[rows] += n
        twin = np.array(twins.trained_rates(twin, pool.gain, pool.transfer, rows, result.group_successes[own], n))
    assert result.achieved == pytest.approx(achieved, rel=1e-9)
    assert pool.now.mean() > np.mean(RATES)


def test_what_is_dealt_decides_what_improves():
    pools = [TrainedPool([0.5] * 6, transfer=0.0) for _ in range(2)]
    run = {"total_budget": 6 * 8, "n_rounds": 6, "max_rollouts": 8}
    for pool, row in zip(pools, (0, 3), strict=True):
        plan = np.zeros((6, 6), dtype=np.int64)
        plan[:, row] = 8
        simulate(Preset(pool.bank(), plan), pool, 6, seed=2, horizon=Horizon(n_prompts=6, round_capacity=48, **run))
    assert [np.flatnonzero(pool.now > 0.5).tolist() for pool in pools] == [[0], [3]]


def test_a_trained_pool_is_refused():
    pool = TrainedPool(RATES)
    policy = Uniform(pool.bank(), total_budget=80, n_rounds=2, max_rollouts=8)
    simulate(policy, pool, 2)
    with pytest.raises(ValueError, match=r"pool must be untrained, got pool = 2\. Pass pool\.fresh\(\)"):
        simulate(policy, pool, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rates": [[0.1], [0.2]]}, "rates must have one row"),
        ({"rates": [1.1]}, "rates must"),
        ({"rates": [0.5], "gain": -1.0}, "gain must"),
        ({"rates": [0.5], "gain": np.inf}, "gain must"),
        ({"rates": [0.5], "transfer": 1.5}, "transfer must"),
        ({"rates": [0.5], "levels": [0.0, 0.5, 1.0], "chances": [[0.0, 1.0, 0.0]]}, "levels must be None"),
    ],
)
def test_bad_pools(arguments, words):
    with pytest.raises(ValueError, match=words):
        TrainedPool(**arguments)


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (([5], [0], [8]), "rows must hold rows between 0 and 4"),
        (([1, 1], [1, 1], [8, 8]), "rows must be distinct"),
        (([1], [9], [8]), r"successes must be between 0 and rollouts\[0\] = 8"),
        (([1], [-1], [8]), "successes must be between"),
        (([1], [0], [0.5]), "rollouts must be integers"),
        (([1], [0, 1], [8]), "successes must"),
    ],
)
def test_bad_reports_change_nothing(report, words):
    pool = TrainedPool(RATES)
    with pytest.raises(ValueError, match=words):
        pool.train(*report)
    assert pool.rounds == 0


def test_rounds_to_come_are_not_known():
    with pytest.raises(ValueError, match=r"k must .* 0"):
        TrainedPool(RATES).at(1, 4)


def test_is_a_pool():
    pool = TrainedPool(RATES)
    assert isinstance(pool, Pool)
    assert not pool.static
    np.testing.assert_allclose(pool.values(), np.array(RATES) * (1 - np.array(RATES)))
