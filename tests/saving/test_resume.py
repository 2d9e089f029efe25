"""Runs that stop and resume in a new process: all later counts, slopes and prices are the same, for every class."""

import copy
import inspect
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import (
    AllocationWarning,
    BetaPosteriorBank,
    FenchelDualAllocator,
    PriorFit,
    ResolvingAllocator,
    SaturatingUtility,
    checkpoint,
)
from cero_alloc import baselines as rules
from cero_alloc.sharding import PoolShard, ShardedAllocator
from helpers.runs import EVERY, FORMS, IDS, RUN, build, go_on


def in_another_process(path, form, seed, first, last):
    """Load a file in a new process and continue the run there."""
    code = (
        f"import sys, json; sys.path[:0] = {[str(Path(__file__).parents[1])]!r}; from helpers import runs as t\n"
        f"run = t.EVERY[t.FORMS[{form!r}][0]].load({str(path)!r})\n"
        f"print(json.dumps(t.go_on(run, {seed}, {first}, {last})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_goes_on_as_the_object_does(form, tmp_path):
    for stop in range(8):
        run, path = build(form), tmp_path / "run"
        go_on(run, 7, 0, stop)
        run.save(path, durable=False)
        twin = EVERY[FORMS[form][0]].load(path)
        twin.save(tmp_path / "again", durable=False)
        assert path.read_bytes() == (tmp_path / "again").read_bytes()
        assert json.loads(json.dumps(go_on(twin, 7, stop, 9))) == json.loads(json.dumps(go_on(run, 7, stop, 9)))
        assert twin.metrics() == pytest.approx(run.metrics(), rel=0, abs=0, nan_ok=True)


def test_a_file_goes_on_in_a_new_process(tmp_path):
    """Saved between allocate and update, for the two allocators and a rule with waves."""
    for form in ("FenchelDualAllocator, batches", "ResolvingAllocator, visits", "DAPO"):
        run = build(form)
        go_on(run, 3, 0, 5)
        run.allocate()  # its feedback comes after the file
        run.save(tmp_path / "run")
        assert in_another_process(tmp_path / "run", form, 3, 5, 9) == json.loads(json.dumps(go_on(run, 3, 5, 9)))


def test_every_rule_has_a_form():
    assert {name for name, _ in FORMS.values()} == set(EVERY)
    for form in FORMS:
        build(form)


@pytest.mark.parametrize("name", EVERY)
def test_every_argument_is_recorded(name):
    parameters = inspect.signature(EVERY[name]).parameters.values()
    own = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    assert (own | set(RUN)) - {"bank", "seed"} <= set(build(name).state_dict()["arguments"])


class Bold(FenchelDualAllocator):
    """As users write it: the constructor records no argument of its own."""

    def __init__(self, bank, *, boldness=2.0, **run):
        super().__init__(bank, **run)
        self.boldness = boldness


def test_a_subclass_is_built_from_what_its_base_recorded(tmp_path):
    run = Bold(BetaPosteriorBank(IDS), boldness=3.0, **RUN | {"catch_up": True})
    run.allocate()
    run.save(tmp_path / "run")
    twin = Bold.load(tmp_path / "run")
    assert (type(twin), twin.boldness) == (Bold, 2.0)
    for copied in (twin, copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert str(copied.state_dict()) == str(run.state_dict())
        assert copied.lock is copied.bank.lock is not run.lock
    assert twin.allocate().tolist() == run.allocate().tolist()


# ------------------------------------------------------------------ states that are refused


def test_the_first_difference_is_named(tmp_path):
    path = tmp_path / "run"
    run = FenchelDualAllocator(BetaPosteriorBank(IDS), **RUN)
    run.allocate()
    run.save(path)

    def refused(text, ids=IDS, rule=FenchelDualAllocator, **change):
        other = rule(BetaPosteriorBank(ids), **RUN | change)
        with pytest.raises(ValueError, match=re.escape(text)):
            other.load_state_dict(checkpoint.read(path))

    bank = "state['bank']['prompt_ids'] must equal that of this BetaPosteriorBank, got "
    refused(bank + "6 entries instead of 5.", IDS[:-1])
    refused(bank + "'p3' instead of 'x' at 5.", [*IDS[:-1], "x"])
    refused(bank + "'p5' instead of 0 at 0.", 6)
    horizon = "state['ledger']['horizon'] must equal that of this RolloutLedger, got "
    refused(horizon + "600 instead of 500 at 'total_budget'.", total_budget=500)
    refused(horizon + "12 instead of 13 at 'n_rounds'.", n_rounds=13)
    given = "state['arguments']['{}'] must equal that of this FenchelDualAllocator, got {} instead of {}."
    refused(given.format("catch_up", False, True), catch_up=True)
    refused(given.format("fit_every", None, 3), fit_every=3)
    refused("state['arguments']['utility'] must equal that of this FenchelDualAllocator, got 1.0 instead of 2.0 at "
            "'saturation'.", utility=SaturatingUtility(saturation=2.0))  # fmt: skip
    refused("state['class'] must be 'Uniform', got state['class'] = 'FenchelDualAllocator'.", rule=rules.Uniform)
    with pytest.raises(
        ValueError, match=r"must be that of a ResolvingAllocator, got one of class 'FenchelDualAllocator'"
    ):
        ResolvingAllocator.load(path)
    with pytest.raises(
        ValueError, match=r"must be that of a BetaPosteriorBank, got one of class 'FenchelDualAllocator'"
    ):
        BetaPosteriorBank.load(path)
    other = FenchelDualAllocator(
        BetaPosteriorBank(IDS), **RUN | {"seed": 9, "step_size": None}
    )  # a default passed explicitly
    other.load_state_dict(checkpoint.read(path))
    assert other.allocate().tolist() == run.allocate().tolist()


def test_states_of_other_versions_or_without_arguments_are_refused(tmp_path):
    run = FenchelDualAllocator(BetaPosteriorBank(IDS), **RUN)
    state = run.state_dict()
    for schema in (2, 0, "1", None):
        must = f"state['schema'] must be 1, got state['schema'] = {schema!r}. Another version of cero-alloc wrote it"
        with pytest.raises(ValueError, match=re.escape(must)):
            run.load_state_dict(state | {"schema": schema})
    for odd in ({}, {"a": 1}, {"class": "FenchelDualAllocator", "schema": 1}, state | {"arguments": None}):
        checkpoint.write(tmp_path / "odd", odd)
        with pytest.raises(ValueError, match=r"the state in '.*odd' must "):
            FenchelDualAllocator.load(tmp_path / "odd")
    for name in ("arguments", "schema"):
        with pytest.raises(ValueError, match=rf"entries of a FenchelDualAllocator, missing or foreign: \['{name}'\]"):
            run.load_state_dict({key: entry for key, entry in state.items() if key != name})
    with pytest.raises(ValueError, match=r"state\['arguments'\] must be a dict, got state\['arguments'\] = 7"):
        run.load_state_dict(state | {"arguments": 7})
    with pytest.raises(FileNotFoundError):
        FenchelDualAllocator.load(tmp_path / "nothing")
    for kept in (run, run.bank):
        with pytest.raises(FileNotFoundError, match=r"^path must be in a folder that exists.*Make the folder first\.$"):
            kept.save(tmp_path / "none" / "run.npz")


def put(state, place, change):
    """Change one entry of a state."""
    part = state
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = change(part[place[-1]])


IMPOSSIBLE = {
    ("slopes",): ("be within [0, 1]", lambda x: x + 1.0),
    ("price",): ("be within [0, 1]", lambda x: float("nan")),
    ("visits",): ("be at least 1", lambda x: x * 0.0),
    ("bank", "outcomes"): ("be finite and at least 0", lambda x: x - 1e9),
    ("bank", "ticks"): ("be between 0 and 1", lambda x: x + 2),
    ("bank", "now"): ("be between 0 and", lambda x: -1),
    ("bank", "forgetting"): ("be in (0, 1]", lambda x: 0.0),
    ("ledger", "funds"): ("be finite and at least 0", lambda x: -1),
    ("ledger", "total"): ("pay for 600 units", lambda x: x - 1),
    ("ledger", "total_units"): ("be what is not dealt", lambda x: x + 1),
    ("ledger", "round"): ("be a round of the run", lambda x: 99),
    ("ledger", "accounts"): ("be counts of at least 0", lambda x: x - 99),
    ("ledger", "reservations", "row"): ("be rows of the pool", lambda x: x + 99),
    ("ledger", "reservations", "rollouts"): ("add up to what is outstanding", lambda x: x + 1),
    ("ledger", "reservations", "round"): ("be between 1 and 1", lambda x: x - 1),
    ("deliveries", "repeated"): ("be a count", lambda x: -1),
    ("deliveries", "seen"): ("must hold repeated and seen", lambda x: None),
}


@pytest.mark.parametrize("place", IMPOSSIBLE, ids="/".join)
def test_entries_of_the_right_type_must_be_possible_too(place):
    run = FenchelDualAllocator(BetaPosteriorBank(IDS), **RUN)
    run.update(None, np.zeros(6), run.allocate() // 2)
    state = run.state_dict()
    text, change = IMPOSSIBLE[place]
    put(state, place, change)
    before = str(run.state_dict())
    with pytest.raises(ValueError, match=re.escape(text)):
        run.load_state_dict(state)
    assert str(run.state_dict()) == before


IMPOSSIBLE_BELIEFS = {
    "a drift below 0": (("drift",), "be at least 0", lambda x: -1.0),
    "an endless trend": (("trend",), "be at least 0", lambda x: float("inf")),
    "motion, but none so far": (("moved",), "be True with a drift or a trend", lambda x: False),
    "odds of 0": (("odds",), "be a factor of the odds", lambda x: 0.0),
    "odds at a touch below 0": (("anchors",), "be at least 0", lambda x: x - 1e9),
    "no odds at the touches": (("anchors",), "be there with a trend only", lambda x: None),
    "no trend": (("trend",), "be there with a trend only", lambda x: 0.0),
    "deficits below 0": (("deficits",), "be at least 0", lambda x: x - 1e9),
    "outcomes below the prior": (("outcomes",), "be finite and exceed minus the prior", lambda x: x - 1e9),
    "a range that falls": (("reward_range",), "be finite and ascend", lambda x: (1.0, 0.0)),
    "a range of one end": (("reward_range",), "be a pair of numbers", lambda x: (1.0,)),
    "reports without a part": (("reports",), "must hold a, b, deficits", lambda x: {}),
    "reports of odds below 0": (("reports", "odds"), "must be a factor of the odds", lambda x: -1.0),
    "reports of the same row": (("reports", "rows"), "must be rows in ascending order", lambda x: 0 * x),
    "reports of no row": (("reports", "rows"), "must be rows in ascending order", lambda x: x + 6),
    "reports below 0": (("reports", "sums"), "must hold sums and deficits of at least 0", lambda x: x - 1e9),
    "reports of deficits below 0": (("reports", "deficits"), "sums and deficits of at least 0", lambda x: x - 1e9),
    "reports of no parameters": (("reports", "a"), "and parameters above 0", lambda x: 0 * x),
    "reports that are NaN": (("reports", "b"), "be finite", lambda x: x * np.nan),
    "a history of another length": (("history", "won"), "must be float64 of shape", lambda x: x[1:]),
    "a history of no row": (("history", "rows"), "must be at most 32768 rows of the bank", lambda x: x - 6),
    "a history of nothing": (("history", "rollouts"), "must hold rollouts of at least 1", lambda x: 0 * x),
    "a history of too many successes": (("history", "won"), "and no more successes", lambda x: x + 99),
    "a history of fewer than no halvings": (("history", "halvings"), "must be a count", lambda x: -1),
    "a history without a part": (("history",), "must hold halvings, ticks, rows", lambda x: {"halvings": 0}),
}


@pytest.mark.parametrize("what", IMPOSSIBLE_BELIEFS)
def test_entries_of_beliefs_that_move_must_be_possible_too(what):
    run = build("ResolvingAllocator, graded")
    go_on(run, 7, 0, 4)
    run.observe(IDS, [-1.0, 0.0, 2.0, 0.5, 2.0, -1.0])
    place, text, change = IMPOSSIBLE_BELIEFS[what]
    state, before = run.state_dict(), str(run.state_dict())
    put(state, ("bank", *place), change)
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        run.load_state_dict(state)
    assert str(run.state_dict()) == before
    run.load_state_dict(run.state_dict())
    assert str(run.state_dict()) == before


# ------------------------------------------------------------------ grown pools, refits, banks, shards


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_an_allocator_without_the_added_prompts_loads_the_state(seed):
    rng = np.random.default_rng(seed)
    rule = (FenchelDualAllocator, ResolvingAllocator)[int(rng.integers(2))]
    visits = {} if rng.random() < 0.5 else {"visits": rng.integers(1, 9, 4)}
    if rule is ResolvingAllocator and rng.random() < 0.5:
        visits |= {"costs": rng.integers(1, 5, 4) * 1.0}
    args = {"total_budget": 12, "n_rounds": 8, "max_rollouts": 8, **visits}
    ids = 4 if rng.random() < 0.5 else list("abcd")
    run, fresh = rule(BetaPosteriorBank(ids), **args), rule(BetaPosteriorBank(ids), **args)
    run.allocate()
    for joined in range(2):
        new = [4 + joined] if ids == 4 else [f"new {joined}"]
        run.bank.add_prompts(new)
        counts = run.allocate()
        run.update(None, counts // 2, counts)
        if rng.random() < 0.5:
            run.extend_budget(-run.remaining_budget if rng.random() < 0.2 else 0, rounds=1)
    fresh.load_state_dict(run.state_dict())
    loaded = rule._from_state(checkpoint.unpack(checkpoint.pack(run.state_dict())), "it")
    for _ in range(4):
        counts = run.allocate()
        assert fresh.allocate().tolist() == loaded.allocate().tolist() == counts.tolist()
        assert fresh.price == loaded.price == run.price
        for one in (run, fresh, loaded):
            one.update(None, counts // 3, counts)
    assert fresh.bank.prompt_ids == loaded.bank.prompt_ids == run.bank.prompt_ids


def test_the_last_fit_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    run = FenchelDualAllocator(BetaPosteriorBank(200), total_budget=4000, n_rounds=5, max_rollouts=8, fit_every=1)
    p = rng.beta(0.5, 1.5, 200)
    for _ in range(3):
        counts = run.allocate()
        run.update(None, rng.binomial(counts, p), counts)
    assert isinstance(run.prior_fit, PriorFit)
    run.save(tmp_path / "run")
    twin = FenchelDualAllocator.load(tmp_path / "run")
    assert twin.prior_fit == run.prior_fit
    assert run.metrics()["drift"] > 0.0
    for _ in range(2):  # with the same history, the later fits are the same
        counts = run.allocate()
        assert twin.allocate().tolist() == counts.tolist()
        for one in (run, twin):
            one.update(None, counts // 2, counts)
        assert twin.prior_fit == run.prior_fit
        assert twin.metrics() == run.metrics()
    odd = run.state_dict() | {"prior_fit": {"alpha": 1.0}}
    with pytest.raises(ValueError, match=r"state\['prior_fit'\] must hold alpha, beta"):
        run.load_state_dict(odd)


@pytest.mark.parametrize("ids", [5, list("abcde"), [7, "seven", ("a", 7), 2.5, "ü\ud800\x00"]], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_bank_is_one_file_too(ids, dtype, tmp_path):
    bank = BetaPosteriorBank(ids, forgetting=0.9, dtype=dtype, prior=([1.0, 2.0, 3.0, 4.0, 5.0], 1.0))
    bank.update(None, [1, 0, 2, 0, 1], [4] * 5)
    bank.tick(3)
    bank.retire(list(bank.prompt_ids)[1:2])
    bank.save(tmp_path / "bank")
    twin = BetaPosteriorBank.load(tmp_path / "bank")
    assert list(twin.prompt_ids) == list(bank.prompt_ids)
    assert [type(name) for name in twin.prompt_ids] == [type(name) for name in bank.prompt_ids]
    assert twin.alpha.tolist() == bank.alpha.tolist()
    assert twin.retired.tolist() == bank.retired.tolist()
    assert twin.forgetting == bank.forgetting
    assert str(twin.state_dict()) == str(bank.state_dict())


def test_ids_that_no_file_can_hold_are_named(tmp_path):
    with pytest.warns(AllocationWarning, match=re.escape("prompts[1] = frozenset({'b'}) is of type frozenset")):
        bank = BetaPosteriorBank(["a", frozenset("b")])
    run = rules.Uniform(bank, total_budget=8, n_rounds=2, max_rollouts=4)
    with pytest.raises(TypeError, match=re.escape("state['bank']['prompt_ids'][1]")):
        run.save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_shards_are_files_too(tmp_path):
    from cero_alloc import Horizon

    horizon = Horizon(n_prompts=6, n_rounds=4, total_budget=32, unit_size=2, max_rollouts=4, round_capacity=8)
    shards = [PoolShard(BetaPosteriorBank(3), horizon, start) for start in (0, 3)]
    run = ShardedAllocator(shards, horizon)
    rows, counts = run.allocate()
    for i, part in enumerate((run, *shards)):
        part.save(tmp_path / str(i))
    again = [PoolShard.load(tmp_path / str(i)) for i in (1, 2)]
    twin = ShardedAllocator.load(tmp_path / "0", again)
    for one in (run, twin):
        one.update(rows, counts / 2, counts)
    for one, other in zip(run.allocate(), twin.allocate(), strict=True):
        assert one.tolist() == other.tolist()
    assert twin.metrics() == run.metrics()


@pytest.mark.parametrize("form", FORMS)
def test_torch_saves_a_state_as_it_is_or_as_bytes(form, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    run = build(form)
    go_on(run, 7, 0, 4)
    run.allocate()
    torch.save({"model": torch.zeros(2), "allocator": run.state_dict()}, tmp_path / "whole.pt")
    data = torch.frombuffer(bytearray(checkpoint.pack(run.state_dict())), dtype=torch.uint8)
    torch.save({"allocator": data}, tmp_path / "bytes.pt")
    states = [
        torch.load(tmp_path / "whole.pt", weights_only=False)["allocator"],
        checkpoint.unpack(torch.load(tmp_path / "bytes.pt", weights_only=True)["allocator"].numpy().tobytes()),
    ]
    after = json.dumps(go_on(run, 7, 5, 9))
    for state in states:
        twin = build(form)
        twin.load_state_dict(state)
        assert json.dumps(go_on(twin, 7, 5, 9)) == after
