"""A pool in shards: the counts, slopes and prices of the pool in one piece, to the last bit."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, Horizon, SaturatingUtility
from cero_alloc.sharding import PoolShard, ShardedAllocator, in_process

HORIZON = Horizon(n_prompts=6, n_rounds=5, total_budget=60, unit_size=2, max_rollouts=4, round_capacity=12)


def sharded(horizon=HORIZON, cuts=(2, 3), prior=(1.0, 1.0), fading=(1.0, 0.0), seed=0, utility=None, step=None, **run):
    """Shards of a pool; ``fading`` is the forgetting and the drift."""
    utility = SaturatingUtility() if utility is None else utility
    bounds = [0, *cuts, horizon.n_prompts]
    shards = [
        PoolShard(
            BetaPosteriorBank(
                stop - start, prior=tuple(np.broadcast_to(x, horizon.n_prompts)[start:stop] for x in prior),
                forgetting=fading[0], drift=fading[1],
            ),
            horizon, start, utility=utility, step_size=step, seed=seed,
        )
        for start, stop in pairwise(bounds)
    ]  # fmt: skip
    return ShardedAllocator(shards, horizon, step_size=step, **run)


def random_pair(rng):
    """Both allocators over one random run."""
    m, g, k = int(rng.integers(1, 40)), int(rng.integers(1, 4)), int(rng.integers(1, 20))
    max_units = int(rng.integers(1, 5))
    capacity = int(rng.integers(1, m * max_units + 1))
    horizon = Horizon(
        n_prompts=m, n_rounds=k, total_budget=g * int(rng.integers(1, k * capacity + 1)), unit_size=g,
        max_rollouts=g * max_units, round_capacity=g * capacity,
    )  # fmt: skip
    prior = (rng.choice([1.0, 0.5, 3.0], m), np.ones(m))  # few values: ties decide often
    shape = rng.choice(["exponential", "hyperbolic", "log", "capped-linear"])
    utility = SaturatingUtility(
        str(shape), saturation=float(rng.choice([0.3, 1.0, 4.0])), scaling=str(rng.choice(["rate", "height"]))
    )
    step = None if rng.random() < 0.5 else (float(rng.uniform(0.01, 1)), float(rng.uniform(0.01, 1)))
    run = {"initial_price": float(rng.random()), "catch_up": bool(rng.random() < 0.5)}
    fading, seed = [(1.0, 0.0), (0.9, 0.0), (1.0, 0.05), (0.9, 0.05)][int(rng.integers(4))], int(rng.integers(100))
    whole = FenchelDualAllocator(
        BetaPosteriorBank(m, prior=prior, forgetting=fading[0], drift=fading[1]),
        total_budget=horizon.total_budget, n_rounds=k, unit_size=g,
        max_rollouts=g * max_units, round_capacity=g * capacity, utility=utility, step_size=step, seed=seed, **run,
    )  # fmt: skip
    cuts = (
        np.sort(rng.choice(np.arange(1, m), size=min(m - 1, int(rng.integers(0, 5))), replace=False)) if m > 1 else []
    )
    return whole, sharded(horizon, cuts, prior, fading, seed, utility, step, **run)


def dense(rows, rollouts, size):
    counts = np.zeros(size, dtype=np.int64)
    counts[rows] = rollouts
    return counts


@settings(max_examples=300)
@given(st.integers(0, 2**32 - 1))
def test_the_same_as_in_one_piece(seed):
    rng = np.random.default_rng(seed)
    whole, split = random_pair(rng)
    h = whole.horizon
    rates, late, graded = rng.beta(0.5, 0.5, h.n_prompts), [], bool(rng.random() < 0.3)
    for _ in range(h.n_rounds + 2):
        budget, exact = None, False
        if rng.random() < 0.3:
            budget = int(rng.integers(0, 2 * h.round_capacity))
        elif rng.random() < 0.4:
            most = 0 if whole.ledger.finished else min(whole.ledger.reach(h.n_prompts), whole.ledger.units_left)
            budget, exact = h.unit_size * int(rng.integers(0, most + 1)), True
        expected = whole.allocate(budget=budget, exact=exact)
        rows, rollouts = split.allocate(budget, exact=exact)
        assert (rollouts > 0).all()
        assert (np.diff(rows) > 0).all()
        np.testing.assert_array_equal(dense(rows, rollouts, h.n_prompts), expected)
        assert split.price == whole.price
        np.testing.assert_array_equal(np.concatenate([shard.slopes for shard in split.shards]), whole.slopes)
        if rng.random() < 0.2:
            back = rows[rng.random(rows.size) < 0.5]
            whole.refund(back, expected[back])
            split.refund(back, expected[back])
            kept = np.setdiff1d(rows, back)
        else:
            kept = rows
        late.append((kept, rng.binomial(expected[kept], rates[kept]), expected[kept]))
        while late and rng.random() < 0.7:
            named, won, n = late.pop(int(rng.integers(len(late))))
            reward = 0.5 if graded else 1.0
            for one in (whole, split):
                one.update(named, reward * won, n, squares=reward**2 * won if graded else None)
        figures = whole.metrics(certificate=False)
        assert split.metrics() == {name: figures[name] for name in split.metrics()}
        assert split.remaining_budget == whole.remaining_budget
    np.testing.assert_array_equal(np.concatenate([shard.exposure for shard in split.shards]), whole.exposure)


@pytest.mark.parametrize(
    ("belief", "shown"),
    [
        ({"trend": 0.1}, "trend = 0.1 and reward_range = (0.0, 1.0)"),
        ({"reward_range": (-1, 1)}, "trend = 0 and reward_range = (-1.0, 1.0)"),
    ],
)
def test_what_needs_the_reports_of_all_shards_is_refused(belief, shown):
    must = f"bank must have no trend and rewards in [0, 1] in a shard, got {shown}. A common shift needs the reports of all"
    with pytest.raises(ValueError, match=re.escape(must)):
        PoolShard(BetaPosteriorBank(2, **belief), HORIZON, 0)


def test_a_run_goes_on_from_its_states():
    rng = np.random.default_rng(0)
    ours, twin = sharded(), sharded()
    for turn in range(3):
        rows, rollouts = ours.allocate()
        if turn < 2:  # the last round stays open
            ours.update(rows, rng.binomial(rollouts, 0.4), rollouts)
    twin.load_state_dict(ours.state_dict())
    for mine, other in zip(twin.shards, ours.shards, strict=True):
        mine.load_state_dict(other.state_dict())
    ours.update(rows, np.zeros(rows.size), rollouts)
    twin.update(rows, np.zeros(rows.size), rollouts)
    for _ in range(3):
        for one, other in zip(ours.allocate(), twin.allocate(), strict=True):
            np.testing.assert_array_equal(one, other)
    assert ours.metrics() == twin.metrics()


def test_states_that_do_not_fit_are_refused():
    ours = sharded()
    ours.allocate()
    with pytest.raises(ValueError, match=r"state\['horizon'\] must equal that of this ShardedAllocator"):
        sharded(replace(HORIZON, n_rounds=6)).load_state_dict(ours.state_dict())
    first, second = ours.shards[:2]
    with pytest.raises(ValueError, match=r"state\['start'\]"):
        second.load_state_dict(first.state_dict())
    state = first.state_dict()
    state["open"] = (np.array([7]), np.array([1]))
    with pytest.raises(ValueError, match=r"state\['open'\] must hold rows of the shard and their proposals"):
        first.load_state_dict(state)
    state["open"] = (np.array([0]), np.array([1.0]))
    with pytest.raises(ValueError, match=r"state\['open'\] must hold rows of the shard and their proposals"):
        first.load_state_dict(state)


def states(allocator):
    return repr([part.state_dict() for part in (allocator, *allocator.shards)])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda a: a.allocate(-1), ValueError, "budget must be at least 0, got budget = -1"),
        (lambda a: a.allocate(100, exact=True), ValueError, "Feasible totals: 0 to 12 rollouts in steps of 2"),
        (lambda a: a.update([0, 6], [0, 0], [1, 1]), KeyError, "unknown: 6"),
        (lambda a: a.update([0, 5], [0, 2], [1, 1]), ValueError, r"successes must not exceed rollouts\[1\] = 1"),
        (lambda a: a.update([5, 5], [0, 0], [1, 1]), ValueError, "prompt_ids must not repeat an id"),
        (lambda a: a.refund([0, 5], [0, 6]), ValueError, r"rollouts must be a multiple of 2 between 0 and .* of prompt 5"),
        (lambda a: a.refund([0, 1], [1, 0]), ValueError, r"rollouts must be a multiple of 2"),
        (lambda a: a.refund([9], [0]), KeyError, "unknown: 9"),
    ],
)  # fmt: skip
def test_nothing_changes_on_an_error(call, error, text):
    allocator = sharded()
    allocator.allocate()
    before = states(allocator)
    with pytest.raises(error, match=text):
        call(allocator)
    assert states(allocator) == before


def test_shards_that_are_not_the_pool_are_refused():
    ours = sharded()
    with pytest.raises(ValueError, match="shards must be at least one"):
        ShardedAllocator([], HORIZON)
    with pytest.raises(ValueError, match="shards must begin at row 0, where the shard before ends, got shards"):
        ShardedAllocator(ours.shards[::-1], HORIZON)
    with pytest.raises(ValueError, match="shards must hold the 6 prompts of the pool, got shards = 3"):
        ShardedAllocator(ours.shards[:2], HORIZON)
    with pytest.raises(ValueError, match="Build all shards for one run"):
        ShardedAllocator(ours.shards, replace(HORIZON, n_rounds=6))
    with pytest.raises(ValueError, match="start must leave room for 3 prompts in a pool of 6, got start = 4"):
        PoolShard(BetaPosteriorBank(3), HORIZON, 4)
    with pytest.raises(ValueError, match="start must be at least 0"):
        PoolShard(BetaPosteriorBank(3), HORIZON, -1)
    with pytest.raises(ValueError, match="initial_price must be a number in"):
        sharded(initial_price=2.0)


def test_shards_are_called_as_the_user_says():
    calls = []

    def gather(shards, method, arguments):
        calls.append(method)
        return in_process(shards, method, arguments)

    allocator = ShardedAllocator(sharded().shards, HORIZON, gather=gather)
    allocator.allocate()
    assert calls == ["extent", "candidates", "deal"]  # two trips a round


def test_a_shard_holds_44_bytes_per_prompt():
    n = 1000
    shard = PoolShard(BetaPosteriorBank(n), replace(HORIZON, n_prompts=n), 0)
    arrays = [
        part
        for thing in (shard, shard.bank.evidence, shard.ledger)
        for part in vars(thing).values()
        if isinstance(part, np.ndarray)
    ]
    assert (
        sum(array.nbytes if array.base is None else array.base.nbytes for array in arrays if array.size > 1) == 44 * n
    )


def test_a_shard_deals_its_whole_pool_and_refuses_another():
    run = sharded()
    run.shards[1].bank.retire([0])
    before = run.remaining_budget
    with pytest.raises(
        ValueError, match=r"bank must have no retired prompts in a shard, got bank = Beta.* Revive them"
    ):
        run.allocate()
    assert (run.remaining_budget, run.round) == (before, 0)
    run.shards[1].bank.revive([0])
    run.allocate()
