"""What every baseline guarantees: the order of ids and feedback does not matter, and a state continues a run."""

import re

import numpy as np
import pytest
from hypothesis import settings

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator
from cero_alloc.baselines import (
    CONTROLS,
    PEERS,
    VIP,
)
from helpers.peers import (
    EXAMPLES,
    World,
    every_rule,
    flat,
    seeds,
    snapshot,
)


def answers(log):
    return [by_row.tolist() for _, _, by_row in log if by_row is not None]


def replay(log, policy, first=0):
    """Make the calls of a log again, from one of them on, and compare the answers."""
    for step, (method, arguments, by_row) in enumerate(log):
        if method == "allocate":
            rows = slice(None) if arguments[0] is None else arguments[0]  # continue_round keeps to them
        if step < first:
            continue
        answer = getattr(policy, method)(*arguments)
        if answer is not None:
            assert answer.tolist() == by_row[rows].tolist()


# ------------------------------------------------------------------ ids and order


@every_rule
def test_bad_offers_change_nothing(name):
    world = World(name, 3)
    policy = world.new([f"p{i}" for i in range(world.m)])
    policy.allocate()
    before = snapshot(policy)
    with pytest.raises(ValueError, match=r"prompt_ids must not repeat an id, got prompt_ids\[1\] = 'p0'"):
        policy.allocate(["p0", "p0"])
    with pytest.raises(KeyError, match="prompt_ids must be in the bank, unknown: 'q'"):
        policy.allocate(["p0", "q"])
    with pytest.raises(TypeError, match="prompt_ids must be a collection of ids"):
        policy.allocate("p0")
    with pytest.raises(ValueError, match="budget must be "):
        policy.allocate(budget=-1)
    with pytest.raises((TypeError, ValueError), match="budget must be "):
        policy.allocate(budget="many")
    with pytest.raises(ValueError, match=r"successes must not exceed rollouts\[0\] = 1"):
        policy.update(["p0"], [2], [1])
    with pytest.raises(ValueError, match="successes must be finite"):
        policy.update(["p0"], [np.nan], [1])
    with pytest.raises(KeyError, match="unknown: 'q'"):
        policy.update(["q"], [1], [1])
    with pytest.raises(ValueError, match="rollouts must be a multiple of"):
        policy.refund(["p0"], [10**6])
    assert snapshot(policy) == before


@every_rule
@settings(max_examples=2 * EXAMPLES)
@seeds
def test_the_order_of_the_ids_does_not_matter(name, seed):
    world = World(name, seed)
    plain = answers(world.play(world.new()))
    shuffled = answers(world.play(world.new(), order=np.random.default_rng(seed)))
    assert shuffled == plain
    names = [f"prompt {i}" for i in np.random.default_rng(seed).permutation(world.m)]
    named = answers(world.play(world.new(names), names=names, order=np.random.default_rng(seed + 1)))
    assert named == plain


@every_rule
@settings(max_examples=EXAMPLES)
@seeds
def test_feedback_in_any_split_and_order(name, seed):
    world = World(name, seed)
    assert answers(world.play(world.new(), split=True)) == answers(world.play(world.new()))


# ------------------------------------------------------------------ state


@every_rule
@settings(max_examples=EXAMPLES)
@seeds
def test_a_loaded_state_carries_the_run_on(name, seed):
    world = World(name, seed)
    untouched = world.play(world.new())
    moment = int(np.random.default_rng(seed).integers(len(untouched)))
    taken = []

    def take(step, policy):
        if step == moment:
            state = policy.state_dict()
            twin = world.new()
            twin.load_state_dict(state)
            assert snapshot(twin) == flat(state)
            replay(untouched, twin, moment)  # before the original goes on: nothing may be shared
            taken.append((state, flat(state)))

    original = world.new()
    assert answers(world.play(original, watch=take)) == answers(untouched)
    (state, leaves), other = taken[0], world.new()
    assert flat(state) == leaves  # neither run wrote into it
    other.load_state_dict(state)
    replay(untouched, other, moment)
    assert snapshot(other) == snapshot(original)


@every_rule
@settings(max_examples=EXAMPLES)
@seeds
def test_a_policy_can_be_put_back(name, seed):
    world = World(name, seed)
    policy, states = world.new(), []
    log = world.play(policy, watch=lambda step, policy: states.append(policy.state_dict()))
    for moment in {0, int(np.random.default_rng(seed).integers(len(log)))}:
        policy.load_state_dict(states[moment])
        assert snapshot(policy) == flat(states[moment])
        replay(log, policy, moment)


REMEDY = r" Load it into an object that was built with the same arguments\.$"


def rebuilt(world, m=None, **change):
    """A policy of the world's rule over a pool of its own or of m prompts, with other arguments of the run."""
    kwargs = world.kwargs | change
    bank = BetaPosteriorBank(world.m if m is None else m)
    if m is None or not world.args:
        for name in ("costs", "references", "embeddings", "difficulties") if m is not None else ():
            kwargs.pop(name, None)
        return world.rule.cls(bank, *world.args, **kwargs)
    return world.rule.cls(bank, np.hstack([world.plan, world.plan[:, :1]]), **kwargs)


@every_rule
def test_states_that_do_not_fit_change_nothing(name):
    world = World(name, 5)
    world.play(policy := world.new())
    world.play(donor := world.new())
    before = snapshot(policy)

    def refused(state, match, error=ValueError):
        with pytest.raises(error, match=match):
            policy.load_state_dict(state)
        assert snapshot(policy) == before

    label = world.rule.cls.__name__
    head = "^state"
    for nothing in (None, 7, "state", [1]):
        must = re.escape(f"state must be the dict that {label}.state_dict returned, got state = {nothing!r}.")
        refused(nothing, f"^{must}{REMEDY}", TypeError)
    for entry in set(donor.state_dict()) - {"past", "told"}:  # older states lack them
        state = donor.state_dict()
        del state[entry]
        if entry == "class":
            refused(state, rf"^state\['class'\] must be '{label}', got state\['class'\] = None\.{REMEDY}")
        else:
            refused(state, rf"^state must hold the entries of a {label}, missing or foreign: \['{entry}'\]\.{REMEDY}")
    must = rf"^state must hold the entries of a {label}, missing or foreign: \['extra'\]\.{REMEDY}"
    refused(donor.state_dict() | {"extra": 1}, must)
    ids = head + r"\['bank'\]\['prompt_ids'\] must equal that of this BetaPosteriorBank, got "
    renamed = world.new([f"p{i}" for i in range(world.m)])
    refused(renamed.state_dict(), ids + r"'p0' instead of 0 at 0\." + REMEDY)
    small = {} if world.args else {"total_budget": world.g, "round_capacity": None}
    larger = rebuilt(world, world.m + 1, **small)
    refused(larger.state_dict(), rf"{ids}{world.m + 1} entries instead of {world.m}\.{REMEDY}")
    run = {"total_budget": 8, "n_rounds": 2, "max_rollouts": 32}
    for foreign in (*CONTROLS, *PEERS, FenchelDualAllocator, ResolvingAllocator):
        if foreign is not world.rule.cls:
            other = foreign(BetaPosteriorBank(world.m), **run).state_dict()
            must = rf"^state\['class'\] must be '{label}', got state\['class'\] = '{foreign.__name__}'\.{REMEDY}"
            refused(other, must)


@every_rule
def test_states_of_another_horizon_are_refused_with_the_first_difference(name):
    world = World(name, 5)
    world.play(policy := world.new())
    before, ours = snapshot(policy), policy.horizon
    head = "^state"
    if world.args:
        longer = world.rule.cls(BetaPosteriorBank(world.m), np.vstack([world.plan, world.plan[:1]]), unit_size=world.g)
        others = {"n_rounds": longer}
    else:
        others = {
            "n_rounds": rebuilt(world, n_rounds=world.rounds + 1),
            "total_budget": rebuilt(
                world, total_budget=policy.ledger.total / 2 if world.tokens is not None else world.g
            ),
            "max_rollouts": rebuilt(world, max_rollouts=ours.max_rollouts + world.g),
        }
    for field, other in others.items():
        theirs = getattr(other.horizon, field)
        if theirs == getattr(ours, field):
            assert field == "total_budget"
            continue
        must = rf"\['ledger'\]\['horizon'\] must equal that of this RolloutLedger, got {theirs} instead of "
        with pytest.raises(ValueError, match=rf"{head}{must}{getattr(ours, field)} at '{field}'\.{REMEDY}"):
            policy.load_state_dict(other.state_dict())
        assert snapshot(policy) == before


def test_a_state_is_checked_whole_before_any_of_it_is_put_back():
    world = World("GRESO", 5)
    world.play(policy := world.new())
    before = snapshot(policy)
    for entry in ("bank", "ledger", "rng", "tie", "visits", "tally", "runs", "keep"):
        for nonsense in ("nonsense", None, 7, {}):
            with pytest.raises((TypeError, ValueError)):
                policy.load_state_dict(world.new().state_dict() | {entry: nonsense})
            assert snapshot(policy) == before, (entry, nonsense)


def test_other_arguments_with_other_parts_are_refused():
    plain, features = (
        VIP(BetaPosteriorBank(3), embeddings=x, total_budget=9, n_rounds=3, max_rollouts=3) for x in (None, np.eye(3))
    )
    before = snapshot(plain), snapshot(features)
    must = r"^state\['process'\] must be a NoneType, got state\['process'\] = 'dict'\." + REMEDY
    with pytest.raises(ValueError, match=must):
        plain.load_state_dict(features.state_dict())
    must = r"^state\['process'\] must be the dict that GaussianProcess\.state_dict returned, got .* = None\." + REMEDY
    with pytest.raises(TypeError, match=must):
        features.load_state_dict(plain.state_dict())
    assert (snapshot(plain), snapshot(features)) == before
