"""States: saved and loaded exactly, copied both ways, and refused as a whole where an entry does not fit."""

import copy
import pickle
import re
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, Horizon, ResolvingAllocator
from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._saving.state import Field, Stateful
from cero_alloc.baselines import BOTS, CONTROLS, DAPO, PEERS, KnapsackRL, Uniform
from helpers.trees import leaves

seeds = given(seed=st.integers(0, 2**32 - 1))
REMEDY = r" Load it into an object that was built with the same arguments\.$"


class Part(Stateful):
    FIELDS: ClassVar = {"_x": Field(), "n": Field()}

    def __init__(self):
        self._x, self.n = np.arange(3.0), 0


class Whole(Stateful):
    FIELDS: ClassVar = {
        "_names": Field(fixed=True),
        "part": Field(),
        "_rng": Field(),
        "_late": Field(when_set=0.0),
        "notes": Field(),
        "_pair": Field(),
    }

    def __init__(self, seed=0, names=("a", "b")):
        self.part, self._rng, self._names = Part(), np.random.default_rng(seed), names
        self._late, self.notes, self._pair = None, {"a": [1, np.zeros(2)]}, (None, np.ones(2))


def refuses(thing, state, match, error=ValueError):
    before = leaves(thing.state_dict())
    with pytest.raises(error, match=match):
        thing.load_state_dict(state)
    assert leaves(thing.state_dict()) == before


def arrays(state):
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, (list, tuple)):
        return [array for part in state for array in arrays(part)]
    return [state] if isinstance(state, np.ndarray) else []


# ------------------------------------------------------------------ Stateful


def test_there_and_back():
    whole = Whole()
    state = whole.state_dict()
    assert set(state) == {"class", "names", "part", "rng", "late", "notes", "pair"}
    assert set(state["part"]) == {"class", "x", "n"}
    assert (state["class"], state["part"]["class"]) == ("Whole", "Part")
    assert state["names"] == ("a", "b")
    kept = leaves(state)
    whole.part._x[:], whole.part.n = 9.0, 5
    whole._late, whole.notes["a"][1][:] = 3.5, 7.0
    whole._pair[1][:] = 4.0
    drawn = whole._rng.random(5)
    assert leaves(state) == kept  # every array was copied
    part, rng = whole.part, whole._rng
    whole.load_state_dict(state)
    assert leaves(whole.state_dict()) == kept
    assert whole.part is part  # restored in place, because other objects hold references
    assert whole._rng is rng
    assert whole._rng.random(5).tolist() == drawn.tolist()
    whole.part._x[:], whole.notes["a"][1][:], whole._pair[1][:] = 1.5, 1.5, 1.5
    assert leaves(state) == kept
    whole.load_state_dict(state)  # twice
    assert leaves(whole.state_dict()) == kept


def test_a_state_is_plain():
    """It contains no object of this package, and survives pickling and deep copying."""
    policy = DAPO(BetaPosteriorBank(["a", "b", "c"]), total_budget=48, n_rounds=2, max_rollouts=8)
    policy.allocate()
    state = policy.state_dict()
    plain = (int, float, str, bool, type(None), np.ndarray, dict, list, tuple, range)

    def check(part, path):
        assert isinstance(part, plain), path
        for key, entry in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
            check(entry, f"{path}/{key}")

    check(state, "state")
    for copied in (pickle.loads(pickle.dumps(state)), copy.deepcopy(state)):
        twin = DAPO(BetaPosteriorBank(["a", "b", "c"]), total_budget=48, n_rounds=2, max_rollouts=8)
        twin.load_state_dict(copied)
        assert leaves(twin.state_dict()) == leaves(state)


def test_what_does_not_fit_is_refused():
    good = Whole().state_dict()
    for nothing in (None, 7, [("part", 1)], "state"):
        must = f"state must be the dict that Whole.state_dict returned, got state = {nothing!r}"
        refuses(Whole(), nothing, f"^{re.escape(must)}\\.{REMEDY}", TypeError)
    missing = {key: value for key, value in good.items() if key != "late"}
    refuses(Whole(), missing, r"state must hold the entries of a Whole, missing or foreign: \['late'\]\." + REMEDY)
    fixed = {key: value for key, value in good.items() if key != "names"}
    refuses(Whole(), fixed, r"state must hold the entries of a Whole, missing or foreign: \['names'\]\." + REMEDY)
    refuses(Whole(), good | {"extra": 1, 5: 2}, r"missing or foreign: \[5, 'extra'\]")
    part = good["part"]
    few = {"class": "Part", "x": np.arange(3.0)}
    refuses(
        Whole(),
        good | {"part": few},
        r"^state\['part'\] must hold the entries of a Part, .*foreign: \['n'\]\." + REMEDY,
    )
    wanted = r"^state\['part'\]\['x'\] must be float64 of shape \(3,\), got state\['part'\]\['x'\] = "
    refuses(Whole(), good | {"part": part | {"x": np.arange(2.0)}}, wanted + r"'float64 of shape \(2,\)'\." + REMEDY)
    refuses(Whole(), good | {"part": part | {"x": np.arange(3)}}, wanted + r"'int64 of shape \(3,\)'\." + REMEDY)
    refuses(Whole(), good | {"part": part | {"x": [0.0, 1.0, 2.0]}}, wanted + r"'list'\." + REMEDY)
    number = r"^state\['part'\]\['n'\] must be a number, got state\['part'\]\['n'\] = "
    for nonsense in ("x", None, [1]):
        refuses(Whole(), good | {"part": part | {"n": nonsense}}, number + re.escape(repr(nonsense)) + r"\." + REMEDY)
    refuses(
        Whole(), good | {"notes": [1]}, r"^state\['notes'\] must be a dict, got state\['notes'\] = 'list'\." + REMEDY
    )
    refuses(
        Whole(), good | {"pair": None}, r"^state\['pair'\] must be a tuple, got state\['pair'\] = 'NoneType'\." + REMEDY
    )


@pytest.mark.parametrize("name", ["Part", "whole", None, 7, b"Whole"])
def test_the_state_of_another_class_is_refused_first(name):
    """The message names the class, whatever else is wrong."""
    must = f"^state\\['class'\\] must be 'Whole', got state\\['class'\\] = {re.escape(repr(name))}\\.{REMEDY}"
    refuses(Whole(), Whole().state_dict() | {"class": name}, must)
    refuses(Whole(), {"class": name}, must)
    inner = r"^state\['part'\]\['class'\] must be 'Part', got state\['part'\]\['class'\] = 'Whole'\." + REMEDY
    refuses(Whole(), Whole().state_dict() | {"part": Whole().state_dict()}, inner)
    classless = {key: value for key, value in Whole().state_dict().items() if key != "class"}
    refuses(Whole(), classless, r"^state\['class'\] must be 'Whole', got state\['class'\] = None\." + REMEDY)


def test_what_is_fixed_must_equal():
    whole, head = Whole(), r"^state\['names'\] must equal that of this Whole, got "
    for names in (["a", "b"], ("a", "b"), np.array(["a", "b"])):  # in any sequence
        whole.load_state_dict(Whole(1).state_dict() | {"names": names})
        assert whole._names == ("a", "b")
    refuses(whole, Whole(1, ("a", "c")).state_dict(), head + r"'c' instead of 'b' at 1\." + REMEDY)
    refuses(whole, Whole(1, ("b", "a")).state_dict(), head + r"'b' instead of 'a' at 0\." + REMEDY)
    refuses(whole, Whole(1, ("a",)).state_dict(), head + r"1 entries instead of 2\." + REMEDY)
    refuses(whole, Whole(1, ()).state_dict(), head + r"0 entries instead of 2\." + REMEDY)
    for nothing in (None, 7):
        refuses(whole, Whole().state_dict() | {"names": nothing}, head + rf"{type(nothing).__name__}\." + REMEDY)


@pytest.mark.parametrize("names", ["ab", {"a": 0, "b": 1}, {"a", "b"}], ids=["str", "dict", "set"])
def test_what_is_fixed_must_be_held_by_a_sequence(names):
    """A str, a dict and a set with the same names are refused as well."""
    refuses(Whole(), Whole().state_dict() | {"names": names}, r"^state\['names'\] must equal that of this Whole, got ")


def test_what_is_optional_may_be_none_in_either():
    late, none = Whole(), Whole()
    late._late = 3.5
    state = late.state_dict()
    none.load_state_dict(state)
    assert none._late == 3.5
    late.load_state_dict(Whole().state_dict())
    assert late._late is None
    none._late = np.zeros(2)
    refuses(none, state, r"^state\['late'\] must be float64 of shape \(2,\), got state\['late'\] = 'float'\." + REMEDY)


@pytest.mark.parametrize("nonsense", [None, 7, "part", [1]])
def test_a_part_that_is_no_mapping_is_refused_in_words(nonsense):
    must = f"state['part'] must be the dict that Part.state_dict returned, got state['part'] = {nonsense!r}."
    refuses(Whole(), Whole().state_dict() | {"part": nonsense}, f"^{re.escape(must)}{REMEDY}", TypeError)


@pytest.mark.parametrize(
    "nonsense", [None, 7, {}, {"bit_generator": "MT19937"}, {"bit_generator": "PCG64"}, {"state": {"state": 1}}]
)
def test_a_generators_state_is_checked_before_anything_is_put_back(nonsense):
    other = Whole()
    other.part.n = 1
    must = f"state['rng'] must be the state of a PCG64, got state['rng'] = {nonsense!r}."
    refuses(Whole(), other.state_dict() | {"rng": nonsense}, f"^{re.escape(must)}{REMEDY}")


def test_a_generator_half_broken_is_refused_too():
    """All fields are there, but one is a str, which the generator notices only after it has set the others."""
    state = Whole().state_dict()
    state["rng"]["state"] |= {"state": 1, "inc": "odd"}
    refuses(Whole(), state, r"^state\['rng'\] must be the state of a PCG64")


@pytest.mark.parametrize("name", ["inc", "uinteger"])
def test_a_generator_with_a_number_below_zero_is_refused(name):
    """NumPy 1 would wrap it around."""
    state = Whole().state_dict()
    part = state["rng"]["state"] if name == "inc" else state["rng"]
    part[name] = -1
    refuses(Whole(), state, r"^state\['rng'\] must be the state of a PCG64")


def test_the_state_of_another_kind_of_generator_is_refused():
    class Twister(Whole):
        def __init__(self):
            super().__init__()
            self._rng = np.random.Generator(np.random.MT19937(0))

    refuses(
        Twister(), Twister().state_dict() | {"rng": Whole().state_dict()["rng"]}, "must be the state of a MT19937, got"
    )


# ------------------------------------------------------------------ BetaPosteriorBank


def grown_bank(seed, ids=None):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 12))
    names = None if rng.random() < 0.3 else [f"p{i}" for i in rng.permutation(m)]
    prior = (1.0, 2.0) if rng.random() < 0.5 else (rng.random(m) + 0.5, rng.random(m) + 0.5)
    forgetting = float(rng.choice([1.0, 0.9]))

    def new():
        return BetaPosteriorBank(m if names is None else names, prior=prior, forgetting=forgetting)

    return rng, m, new


def live(bank, rng, m, rounds=6):
    for _ in range(rounds):
        n = rng.integers(0, 9, m)
        bank.update(None, rng.binomial(n, rng.random(m)), n)
        bank.tick(int(rng.integers(0, 3)))
    return bank


@settings(max_examples=40)
@seeds
def test_a_bank_goes_on_from_its_state(seed):
    rng, m, new = grown_bank(seed)
    bank = live(new(), rng, m)
    if rng.random() < 0.5:
        bank.fit_prior(None if rng.random() < 0.5 else [f"source {i % 2}" for i in range(m)])
    if rng.random() < 0.5:
        bank.select_forgetting([(None, np.full(m, k % 2 * 8), np.full(m, 8)) for k in range(6)])
    state, twin = bank.state_dict(), new()
    kept = leaves(state)
    twin.load_state_dict(state)
    assert leaves(twin.state_dict()) == kept
    assert twin.forgetting == bank.forgetting
    after = [int(rng.integers(2**31)) for _ in range(2)]
    live(twin, np.random.default_rng(after[0]), m)  # before the original goes on
    assert leaves(state) == kept
    assert leaves(bank.state_dict()) == kept
    live(bank, np.random.default_rng(after[0]), m)
    assert bank.alpha.tolist() == twin.alpha.tolist()
    assert bank.value().tolist() == twin.value().tolist()
    assert bank.calibration().metrics() == pytest.approx(twin.calibration().metrics(), nan_ok=True, abs=0)
    again = new()
    again.load_state_dict(state)
    assert leaves(again.state_dict()) == kept
    for array in arrays(state):
        array[...] = 0
    assert bank.alpha.tolist() == twin.alpha.tolist()
    assert leaves(again.state_dict()) == kept


def test_a_fitted_prior_per_prompt_travels_into_a_shared_one_and_back():
    fitted, shared = BetaPosteriorBank(40), BetaPosteriorBank(40)
    rng = np.random.default_rng(0)
    fitted.update(None, rng.binomial(16, rng.beta(0.4, 2.0, 40)), np.full(40, 16))
    fits = fitted.fit_prior(["x", "y"] * 20)
    assert any(fit.fitted for fit in fits.values())
    assert [side.shape for side in fitted.state_dict()["prior"]] == [(40,), (40,)]
    assert [side.shape for side in shared.state_dict()["prior"]] == [(1,), (1,)]
    plain = shared.state_dict()
    shared.load_state_dict(fitted.state_dict())
    assert shared.alpha.tolist() == fitted.alpha.tolist()
    with pytest.raises(ValueError, match="holds one prior per prompt"):
        shared.add_prompts(["new"])
    shared.load_state_dict(plain)
    assert shared.alpha.tolist() == [1.0] * 40
    shared.add_prompts(["new"])


def test_a_bank_refuses_other_prompts_and_broken_priors():
    bank = live(BetaPosteriorBank(["a", "b"]), np.random.default_rng(1), 2)
    good = BetaPosteriorBank(["a", "b"]).state_dict()
    name = r"^state\['prompt_ids'\] must equal that of this BetaPosteriorBank, got "
    refuses(bank, BetaPosteriorBank(["b", "a"]).state_dict(), name + r"'b' instead of 'a' at 0\." + REMEDY)
    refuses(bank, BetaPosteriorBank(["a", "c"]).state_dict(), name + r"'c' instead of 'b' at 1\." + REMEDY)
    refuses(bank, BetaPosteriorBank(2).state_dict(), name + r"0 instead of 'a' at 0\." + REMEDY)
    refuses(bank, BetaPosteriorBank(["a", "b", "c"]).state_dict(), name + r"3 entries instead of 2\." + REMEDY)
    refuses(bank, {key: value for key, value in good.items() if key != "prompt_ids"}, r"foreign: \['prompt_ids'\]")
    refuses(bank, good | {"prior": (np.ones(3), np.ones(3))}, r"prior.* must .* have shape \(2,\), got .*\(3,\)")
    refuses(bank, good | {"prior": (np.ones(1), np.ones(3))}, r"prior.*\[1\] must .* have shape \(2,\), got .*\(3,\)")
    refuses(
        bank, good | {"prior": (-np.ones(1), np.ones(1))}, r"prior.*\[0\] must be finite, greater than 0, got .*-1\.0"
    )
    refuses(bank, good | {"prior": (np.ones(1), np.array([np.nan]))}, r"prior.*\[1\] must be finite, .* = nan")
    refuses(bank, good | {"outcomes": np.zeros(3)}, r"^state\['outcomes'\] must be float64 of shape \(2, 2\)")
    refuses(bank, good | {"ticks": np.zeros(2)}, r"^state\['ticks'\] must be int32 of shape \(2,\), got .*float64")
    refuses(bank, good | {"now": "late"}, r"^state\['now'\] must be a number, got state\['now'\] = 'late'")
    record = {key: value for key, value in good["record"].items() if key != "tally"}
    refuses(bank, good | {"record": record}, r"^state\['record'\] must hold .*missing or foreign: \['tally'\]")
    refuses(
        bank, None, "^state must be the dict that BetaPosteriorBank.state_dict returned, got state = None", TypeError
    )


PRIORS = [None, 3, {}, {"alpha": np.ones(1), "beta": np.ones(1)}, (1.0,), (1.0, 2.0, 3.0), ("x", "y"), ([1.0], None)]


@pytest.mark.parametrize("prior", [*PRIORS, "missing"], ids=str)
def test_odd_priors_are_refused_in_words(prior):
    bank = BetaPosteriorBank(["a", "b"])
    state = {key: value for key, value in bank.state_dict().items() if key != "prior" or prior != "missing"}
    if prior != "missing":
        state["prior"] = prior
    if isinstance(prior, dict) and len(prior) == 2:
        refuses(bank, state, "prior", (TypeError, ValueError))  # unpacked, a mapping of two keys is a pair of str
    else:
        must = "foreign: .*'prior'" if prior == "missing" else "prior.* must be (a pair|numbers)"
        refuses(bank, state, must, (TypeError, ValueError))


def test_a_broken_prior_is_named_with_its_path():
    """Like every other entry; `prior` alone would mean the argument of the constructor."""
    policy = Uniform(BetaPosteriorBank(2), total_budget=8, n_rounds=2, max_rollouts=4)
    state = policy.state_dict()
    state["bank"]["prior"] = (-1.0, 1.0)
    refuses(policy, state, r"^state\['bank'\]\['prior'\]")


@pytest.mark.parametrize("ids", [("a", "b"), ["a", "b"], np.array(["a", "b"], dtype=object)], ids=str)
def test_ids_may_be_held_by_any_sequence(ids):
    bank, twin = live(BetaPosteriorBank(["a", "b"]), np.random.default_rng(0), 2), BetaPosteriorBank(["a", "b"])
    twin.load_state_dict(bank.state_dict() | {"prompt_ids": ids})
    assert twin.alpha.tolist() == bank.alpha.tolist()


ODD_IDS = [None, 7, "ab", {"a": 0, "b": 1}, {"a", "b"}, np.array(["b", "a"]), np.zeros((2, 2)), np.array(7)]


@pytest.mark.parametrize("ids", ODD_IDS, ids=lambda ids: type(ids).__name__)
def test_odd_ids_are_refused_in_words(ids):
    bank = BetaPosteriorBank(["a", "b"])
    refuses(bank, bank.state_dict() | {"prompt_ids": ids}, r"^state\['prompt_ids'\] must equal that of this")


@pytest.mark.parametrize("other", ["moved", "short", "last", "rows"])
def test_a_refusal_of_many_ids_is_short(other):
    ids = [f"prompt number {i}" for i in range(9000)]
    theirs, what = {
        "moved": (ids[1:] + ids[:1], "got 'prompt number 1' instead of 'prompt number 0' at 0"),
        "short": (ids[:-1], "got 8999 entries instead of 9000"),
        "last": ([*ids[:-1], "else"], "got 'else' instead of 'prompt number 8999' at 8999"),
        "rows": (9000, "got 0 instead of 'prompt number 0' at 0"),
    }[other]
    bank, donor = BetaPosteriorBank(ids), BetaPosteriorBank(theirs)
    with pytest.raises(ValueError, match=re.escape(what)) as refusal:
        bank.load_state_dict(donor.state_dict())
    assert len(str(refusal.value)) < 300
    run = {"total_budget": 9000, "n_rounds": 2, "max_rollouts": 4}
    with pytest.raises(ValueError, match=r"^state\['bank'\]\['prompt_ids'\] must .*" + re.escape(what)) as refusal:
        Uniform(bank, **run).load_state_dict(Uniform(donor, **run).state_dict())
    assert len(str(refusal.value)) < 300


def test_a_grown_bank_carries_its_new_prompts():
    bank = BetaPosteriorBank(["a"])
    bank.add_prompts(["b"], prior=(2.0, 3.0))
    bank.update(["b"], [1], [2])
    twin = BetaPosteriorBank(["a", "b"])
    twin.load_state_dict(bank.state_dict())
    assert twin.alpha.tolist() == bank.alpha.tolist() == [1.0, 3.0]
    began = BetaPosteriorBank(["a"])  # as a script without the new prompts builds it
    began.load_state_dict(bank.state_dict())
    assert began.prompt_ids == ("a", "b")
    assert began.alpha.tolist() == bank.alpha.tolist()
    must = r"^state\['prompt_ids'\] must equal .* got "
    refuses(BetaPosteriorBank(["b"]), bank.state_dict(), must + r"'a' instead of 'b' at 0\." + REMEDY)
    refuses(BetaPosteriorBank(["a"]), twin.state_dict() | {"first": 2}, must + r"2 entries instead of 1\." + REMEDY)
    refuses(twin, BetaPosteriorBank(["a"]).state_dict(), must + r"1 entries instead of 2\." + REMEDY)


# ------------------------------------------------------------------ RolloutLedger


def ledger(**change):
    horizon = {"n_prompts": 3, "n_rounds": 4, "total_budget": 24, "max_rollouts": 4, "round_capacity": 12} | change
    return RolloutLedger(Horizon(**horizon))


def test_a_ledger_goes_on_from_its_state():
    one = ledger()
    one.debit(None, np.array([1, 2, 0]))
    one.debit(np.array([2, 0]), np.array([3, 1]))
    one.settle(np.array([0]), np.array([1]))
    state, two = one.state_dict(), ledger()
    two.load_state_dict(state)
    for account in (two, one):
        account.refund(np.array([2]), np.array([2]), str)
        account.top_up(np.array([1]), np.array([2]))
        assert account.remaining_budget == 24 - 7 + 2 - 2
        assert account.offers.tolist() == [2, 1, 2]
        assert account.outstanding.tolist() == [1, 4, 1]
    assert leaves(one.state_dict()) == leaves(two.state_dict())
    assert state["accounts"][:, 0].tolist() == [2, 2, 3]


def test_a_ledger_can_be_put_back_to_before_its_first_batch():
    account = ledger()
    start = account.state_dict()
    account.debit(np.array([1]), np.array([2]))
    middle = account.state_dict()
    account.load_state_dict(start)
    assert leaves(account.state_dict()) == leaves(start)
    account.load_state_dict(middle)
    assert account.offers.tolist() == [0, 1, 0]


@pytest.mark.parametrize("change", [{}, {"total_budget": 16}, {"unit_size": 2, "round_capacity": 8}])
def test_a_ledgers_state_holds_its_horizon(change):
    assert ledger(**change).state_dict()["horizon"] == {
        "n_prompts": 3, "n_rounds": 4, "total_budget": 24, "unit_size": 1, "max_rollouts": 4, "round_capacity": 12,
    } | change  # fmt: skip


CHANGES = [
    ({"n_prompts": 2, "round_capacity": 8}, "got 2 instead of 3 at 'n_prompts'"),
    ({"n_rounds": 5}, "got 5 instead of 4 at 'n_rounds'"),
    ({"n_rounds": 5, "total_budget": 20}, "got 5 instead of 4 at 'n_rounds'"),  # the first of two differences
    ({"total_budget": 20}, "got 20 instead of 24 at 'total_budget'"),
    ({"unit_size": 2}, "got 2 instead of 1 at 'unit_size'"),
    ({"max_rollouts": 8}, "got 8 instead of 4 at 'max_rollouts'"),
    ({"round_capacity": 6}, "got 6 instead of 12 at 'round_capacity'"),
]


@pytest.mark.parametrize(("change", "what"), CHANGES)
def test_a_ledger_refuses_another_horizons_state(change, what):
    match = rf"^state\['horizon'\] must equal that of this RolloutLedger, {what}\.{REMEDY}"
    refuses(ledger(), ledger(**change).state_dict(), match)


def test_a_ledger_refuses_what_does_not_fit():
    account = ledger()
    good = ledger().state_dict()
    must = r"^state\['accounts'\] must be int32 of shape \(3, 3\), got "
    refuses(account, good | {"accounts": np.zeros((3, 3))}, must + ".*'float64")
    refuses(account, good | {"accounts": [0, 0, 0]}, must + ".*'list'")
    refuses(account, good | {"funds": None}, r"^state\['funds'\] must be a number, got state\['funds'\] = None")
    refuses(account, {}, r"^state\['class'\] must be 'RolloutLedger', got state\['class'\] = None\." + REMEDY)
    few = {"class": "RolloutLedger", "horizon": good["horizon"]}
    refuses(account, few, "state must hold the entries of a RolloutLedger, missing or foreign: .*'allocating_rounds'")
    for horizon in (None, 7, "horizon", [1]):
        must = rf"^state\['horizon'\] must equal that of this RolloutLedger, got {type(horizon).__name__}\." + REMEDY
        refuses(account, good | {"horizon": horizon}, must)
    refuses(account, good | {"horizon": {}}, "got None instead of 3 at 'n_prompts'")
    refuses(account, good | {"horizon": good["horizon"] | {"extra": 1}}, "got 1 instead of None at 'extra'")


def test_accounts_of_another_pool_are_refused_before_and_after_a_batch():
    account, policy = ledger(), Uniform(BetaPosteriorBank(3), total_budget=24, n_rounds=4, max_rollouts=4)
    for _ in range(2):
        for broken in (np.zeros((2, 3), dtype=np.int32), np.zeros((3, 3), dtype=np.int64), [0, 0, 0], 7, "accounts"):
            must = r"\['accounts'\] must be int32 of shape \(3, 3\), got "
            refuses(account, ledger().state_dict() | {"accounts": broken}, r"^state" + must)
            state = policy.state_dict()
            state["ledger"]["accounts"] = broken
            refuses(policy, state, r"^state\['ledger'\]" + must + r"state\['ledger'\]\['accounts'\] = ")
        account.debit(np.array([1]), np.array([2]))
        policy.allocate([1])


def test_a_horizon_that_32_bits_cannot_hold_has_wider_accounts():
    wide = {"total_budget": 2**40, "n_rounds": 4, "max_rollouts": 2**40}
    policy = FenchelDualAllocator(BetaPosteriorBank(2), **wide)
    counts = policy.allocate(budget=2**39, exact=True)
    assert policy.ledger.accounts.dtype == np.int64
    assert counts.sum() == policy.exposure.sum() == policy.ledger.outstanding.sum() == 2**39
    twin = FenchelDualAllocator(BetaPosteriorBank(2), **wide)
    twin.load_state_dict(policy.state_dict())
    policy.refund(None, counts)
    assert policy.remaining_budget == 2**40
    assert twin.exposure.tolist() == counts.tolist()
    assert (
        FenchelDualAllocator(BetaPosteriorBank(2), **wide | {"total_budget": 2**31 - 1}).ledger.accounts.dtype
        == np.int32
    )


@pytest.mark.parametrize("rule", [*CONTROLS, *PEERS, FenchelDualAllocator, ResolvingAllocator])
def test_batch_offers_travel_into_a_fresh_policy_and_back(rule):
    def new():
        return rule(BetaPosteriorBank(4), total_budget=256, n_rounds=4, max_rollouts=32)

    policy, other = new(), new()
    start = policy.state_dict()
    policy.allocate([1, 3])
    middle = policy.state_dict()
    other.load_state_dict(middle)
    assert leaves(other.state_dict()) == leaves(middle)
    assert other.ledger.offers.tolist() == [0, 1, 0, 1]
    again = other.allocate([3, 0]).tolist()
    assert other.ledger.offers.tolist() == [1, 1, 0, 2]
    assert policy.allocate([3, 0]).tolist() == again
    other.load_state_dict(start)
    assert leaves(other.state_dict()) == leaves(start)
    assert other.ledger.offers.tolist() == [0] * 4
    other.allocate()
    assert other.ledger.offers.tolist() == [1] * 4


# ------------------------------------------------------------------ FenchelDualAllocator


@settings(max_examples=40)
@seeds
def test_an_allocator_goes_on_mid_round(seed):
    rng = np.random.default_rng(seed)
    m, rounds = int(rng.integers(1, 10)), int(rng.integers(2, 12))
    visits = None if rng.random() < 0.5 else rng.integers(1, rounds + 1, m)
    offers = m * rounds if visits is None else int(visits.sum())
    kwargs = {
        "total_budget": int(rng.integers(1, 3 * offers + 1)), "n_rounds": rounds, "max_rollouts": 3, "visits": visits,
        "catch_up": bool(rng.random() < 0.5), "fit_every": None if rng.random() < 0.5 else 2, "seed": seed,
    }  # fmt: skip
    p = rng.random(m)

    def new():
        return FenchelDualAllocator(BetaPosteriorBank(m, forgetting=0.9), **kwargs)

    def go_on(policy, rng, first, state=None):
        """Play the rounds from ``first`` on; take the state between allocate and update of round ``moment``."""
        played = []
        for k in range(first, rounds + 1):
            rows = None if rng.random() < 0.5 else rng.permutation(m)[: rng.integers(0, m + 1)]
            counts = policy.allocate(rows)
            if k == moment and state is not None:
                state.append((policy.state_dict(), rng.bit_generator.state, rows, counts))
            policy.update(rows, rng.binomial(counts, p[slice(None) if rows is None else rows]), counts)
            played.append(counts.tolist())
        return played

    moment, taken, original = int(rng.integers(rounds)), [], new()
    played = go_on(original, np.random.default_rng(seed), 0, taken)
    state, dice, rows, counts = taken[0]
    kept = leaves(state)
    for twin in (new(), new()):
        twin.load_state_dict(state)
        assert leaves(twin.state_dict()) == kept
        rng = np.random.default_rng()
        rng.bit_generator.state = dice
        twin.update(rows, rng.binomial(counts, p[slice(None) if rows is None else rows]), counts)
        assert go_on(twin, rng, moment + 1) == played[moment + 1 :]
        assert leaves(state) == kept
    assert leaves(twin.state_dict()) == leaves(original.state_dict())


def test_an_allocator_can_be_put_back():
    policy = FenchelDualAllocator(BetaPosteriorBank(4), total_budget=12, n_rounds=6, max_rollouts=2)
    start = policy.state_dict()
    first = [policy.allocate([0, 1, 2]).tolist(), policy.allocate([3]).tolist()]
    policy.load_state_dict(start)
    assert [policy.allocate([0, 1, 2]).tolist(), policy.allocate([3]).tolist()] == first


def test_an_allocator_refuses_what_does_not_fit():
    def new(m=3, **change):
        run = {"total_budget": 12, "n_rounds": 4, "max_rollouts": 2} | change
        return FenchelDualAllocator(BetaPosteriorBank(m), **run)

    policy = new()
    policy.allocate()
    ids = r"^state\['bank'\]\['prompt_ids'\] must equal that of this BetaPosteriorBank, got 4 entries instead of 3\."
    refuses(policy, new(4).state_dict(), ids + REMEDY)
    refuses(policy, new().state_dict() | {"slopes": np.zeros(2)}, r"^state\['slopes'\] must be float64 of shape \(3,\)")
    refuses(policy, new().state_dict() | {"tie": np.zeros(3)}, r"^state\['tie'\] must be int32 of shape \(3,\)")
    horizon = (
        r"^state\['ledger'\]\['horizon'\] must equal that of this RolloutLedger, got 5 instead of 4 at 'n_rounds'\."
    )
    refuses(policy, new(n_rounds=5).state_dict(), horizon + REMEDY)
    uniform = Uniform(BetaPosteriorBank(3), total_budget=12, n_rounds=4, max_rollouts=2)
    kind = r"^state\['class'\] must be 'FenchelDualAllocator', got state\['class'\] = "
    refuses(policy, uniform.state_dict(), kind + r"'Uniform'\." + REMEDY)
    lacking = {key: value for key, value in new().state_dict().items() if key not in ("price", "batch_price")}
    refuses(
        policy, lacking, r"entries of a FenchelDualAllocator, missing or foreign: \['batch_price', 'price'\]\." + REMEDY
    )
    refuses(policy, [], "^state must be the dict that FenchelDualAllocator.state_dict returned", TypeError)


def row(*entries, dtype=np.int64):
    return np.array(entries, dtype=dtype)


OPENED = {
    "a number": 7,
    "a word": "open",
    "one": (None,),
    "three": (None, row(1, 1, 1), 0),
    "no counts": (None, 2),
    "counts of two": (None, row(1, 1)),
    "counts of floats": (None, np.ones(3)),
    "words": ("rows", row(1)),
    "rows of floats": (np.array([0.5]), row(1)),
    "a row too many": (row(3), row(1)),
    "a row before the first": (row(-1), row(1)),
    "a table": (row(0, 1).reshape(1, 2), row(1, 1)),
}


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("name", OPENED)
def test_an_open_proposal_that_does_not_fit_is_refused_in_words(name, before):
    policy = FenchelDualAllocator(BetaPosteriorBank(3), total_budget=12, n_rounds=4, max_rollouts=2)
    if before:
        policy.allocate()
    refuses(policy, policy.state_dict() | {"open": OPENED[name]}, r"^state\['open'\].* must ")


def test_the_state_of_another_rule_with_the_same_entries_is_refused():
    """Uniform and KnapsackRL have the same entries and use them differently."""
    run = {"total_budget": 24, "n_rounds": 2, "max_rollouts": 8}
    knapsack, uniform = KnapsackRL(BetaPosteriorBank(3), **run), Uniform(BetaPosteriorBank(3), **run)
    assert set(knapsack.state_dict()) == set(uniform.state_dict())
    match = r"^state\['class'\] must be 'Uniform', got state\['class'\] = 'KnapsackRL'\." + REMEDY
    refuses(uniform, knapsack.state_dict(), match)


OPTIONAL = {
    "BOTS, progress": (BOTS, {}, ("progress",)),
    "all_offers": (ResolvingAllocator, {}, ("ledger", "all_offers")),
    "left": (ResolvingAllocator, {}, ("plan", "left")),
}


@pytest.mark.parametrize("nonsense", ["word", {}, np.zeros(7), np.array(["a", "b", "c"])], ids=str)
@pytest.mark.parametrize("name", OPTIONAL)
def test_what_is_none_now_is_checked_all_the_same(name, nonsense):
    rule, own, path = OPTIONAL[name]
    policy = rule(BetaPosteriorBank(3), total_budget=24, n_rounds=4, max_rollouts=8, **own)
    state = policy.state_dict()
    place = state
    for key in path[:-1]:
        place = place[key]
    assert place[path[-1]] is None
    place[path[-1]] = nonsense
    refuses(policy, state, re.escape("state" + "".join(f"[{key!r}]" for key in path)) + ".* must be")


# ------------------------------------------------------------------ a pool that grows


@pytest.mark.parametrize("rule", [FenchelDualAllocator, ResolvingAllocator])
def test_a_run_whose_pool_grew_goes_on_from_its_state(rule):
    def new():
        return rule(BetaPosteriorBank(["a", "b"]), total_budget=16, n_rounds=4, max_rollouts=4)

    policy, twin = new(), new()
    policy.allocate()
    policy.bank.add_prompts(["c"])
    policy.allocate()
    state = policy.state_dict()
    twin.bank.add_prompts(["c"])
    twin.load_state_dict(state)
    assert leaves(twin.state_dict()) == leaves(state)
    assert [twin.allocate().tolist() for _ in range(2)] == [policy.allocate().tolist() for _ in range(2)]


@pytest.mark.parametrize("rule", [FenchelDualAllocator, ResolvingAllocator])
def test_a_state_from_just_after_the_pool_grew_can_be_put_back(rule):
    policy = rule(BetaPosteriorBank(["a", "b"]), total_budget=16, n_rounds=4, max_rollouts=4)
    policy.allocate()
    policy.bank.add_prompts(["c"])
    state = policy.state_dict()  # the allocator has not seen the larger pool yet
    first = [policy.allocate().tolist() for _ in range(2)]
    policy.load_state_dict(state)
    assert [policy.allocate().tolist() for _ in range(2)] == first


# ------------------------------------------------------------------ ResolvingAllocator


class Resolving:
    """A random run of the re-solving allocator: with or without visits, tokens, signals, refits; determined by the seed."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.m, self.rounds, self.g = int(rng.integers(1, 9)), int(rng.integers(2, 9)), int(rng.integers(1, 3))
        m, most = self.m, 6 * self.g
        visits = rng.integers(1, self.rounds + 1, m)
        offers = np.full(m, self.rounds)
        self.clock = str(rng.choice(["rounds", "visits", "both"]))
        self.own = {"n_rounds": self.rounds} if self.clock != "visits" else {}
        if self.clock != "rounds":
            self.own["visits"], offers = visits, visits
        costs = {"none": None, "one": 3.0, "each": rng.integers(1, 9, m) * 50.0}[
            str(rng.choice(["none", "one", "each"]))
        ]
        price = 1.0 if costs is None else costs
        total = float((offers * price).sum()) * most * float(rng.uniform(0.1, 0.8))
        self.own["total_budget"] = max(self.g, int(total) // self.g * self.g)
        if costs is not None:
            self.own |= {"costs": costs, "total_budget": max(total, self.g * float(np.max(costs)))}
        self.own |= {
            "unit_size": self.g, "max_rollouts": most, "min_rollouts": int(rng.integers(0, 3)) * self.g,
            "signal": str(rng.choice(["variance", "group"])), "front_load": float(rng.choice([1.0, 4.0])),
            "fit_every": None if rng.random() < 0.5 else int(rng.integers(1, 3)), "exploration": float(rng.random() < 0.3),
            "band": float(rng.choice([0.25, np.inf])), "seed": seed,
        }  # fmt: skip
        self.p, self.forgetting = rng.random(m), float(rng.choice([1.0, 0.9]))

    def new(self):
        return ResolvingAllocator(BetaPosteriorBank(self.m, forgetting=self.forgetting), **self.own)

    def offer(self, rng):
        return None if rng.random() < 0.4 else rng.permutation(self.m)[: rng.integers(1, self.m + 1)]

    def reward(self, policy, rng, rows, counts):
        policy.update(rows, rng.binomial(counts, self.p[slice(None) if rows is None else rows]), counts)

    def go_on(self, policy, rng, first, moment=None, taken=None):
        """Play the rounds from ``first`` on; take the state between allocate and update of round ``moment``."""
        played = []
        for k in range(first, self.rounds + 1):
            rows = self.offer(rng)
            counts = policy.allocate(rows)
            if k == moment:
                then = (policy.remaining_budget, policy.round, policy.price)
                taken.append((policy.state_dict(), rng.bit_generator.state, rows, counts, then))
            if rng.random() < 0.3:
                policy.refund(rows, counts)
            else:
                self.reward(policy, rng, rows, counts)
            played.append((counts.tolist(), policy.price))
        return played


@settings(max_examples=80)
@seeds
def test_a_resolving_allocator_goes_on_mid_round(seed):
    world, rng = Resolving(seed), np.random.default_rng(seed)
    moment, taken, original = int(rng.integers(world.rounds)), [], world.new()
    played = world.go_on(original, np.random.default_rng(seed), 0, moment, taken)
    state, dice, rows, counts, then = taken[0]
    kept = leaves(state)
    used = world.new()
    world.go_on(
        used, np.random.default_rng(seed + 1), 0
    )  # an object with another history must accept the state as well
    for twin in (world.new(), used):
        twin.load_state_dict(state)
        assert leaves(twin.state_dict()) == kept
        assert (twin.remaining_budget, twin.round, twin.price) == then
        rng = np.random.default_rng()
        rng.bit_generator.state = dice
        twin.refund(rows, counts) if rng.random() < 0.3 else world.reward(twin, rng, rows, counts)
        assert world.go_on(twin, rng, moment + 1) == played[moment + 1 :]
        assert leaves(state) == kept
        assert leaves(twin.state_dict()) == leaves(original.state_dict())
    for array in arrays(state):
        array[...] = 0
    assert leaves(used.state_dict()) == leaves(original.state_dict())


@pytest.mark.parametrize(
    "own", [{"n_rounds": 6}, {"visits": [6, 5, 4, 3]}, {"n_rounds": 6, "costs": [1.0, 2.0, 3.0, 4.0]}]
)
@pytest.mark.parametrize("signal", ["variance", "group"])
def test_a_resolving_allocator_can_be_put_back(own, signal):
    policy = ResolvingAllocator(BetaPosteriorBank(4), total_budget=24, max_rollouts=2, signal=signal, **own)

    def play():
        played = []
        for offer in ([0, 1, 2], None, [3, 1]):
            counts = policy.allocate(offer)
            policy.update(offer, counts // 2, counts)
            played.append((counts.tolist(), policy.price, policy.remaining_budget))
        return played

    start = policy.state_dict()
    first = play()
    policy.load_state_dict(start)
    assert leaves(policy.state_dict()) == leaves(start)
    assert play() == first


def test_a_resolving_allocators_state_holds_what_changes():
    policy = ResolvingAllocator(BetaPosteriorBank(2), total_budget=12, visits=[3, 2], max_rollouts=4)
    policy.allocate()
    state = policy.state_dict()
    assert set(state) == {
        "schema", "arguments", "class", "bank", "ledger", "rng", "plan", "batch_price", "prior_fit", "round", "deliveries",
        "labels", "past", "told",
    }  # fmt: skip
    assert state["class"] == "ResolvingAllocator"
    assert state["plan"]["left"].tolist() == [2.0, 1.0]
    assert state["plan"]["price"] > 0.0
    unknown = ResolvingAllocator(BetaPosteriorBank(2), total_budget=12, n_rounds=3, max_rollouts=4)
    assert unknown.state_dict()["plan"]["left"] is None


def test_a_resolving_allocator_refuses_what_does_not_fit():
    def new(m=3, **change):
        run = {"total_budget": 12, "n_rounds": 4, "max_rollouts": 2, "round_capacity": 6} | change
        return ResolvingAllocator(BetaPosteriorBank(m), **run)

    policy = new()
    policy.allocate()
    good = new().state_dict()
    ids = r"^state\['bank'\]\['prompt_ids'\] must equal that of this BetaPosteriorBank, got 4 entries instead of 3\."
    refuses(policy, new(4).state_dict(), ids + REMEDY)
    for change, what in [
        ({"n_rounds": 5}, "5 instead of 4 at 'n_rounds'"),
        ({"total_budget": 11}, "11 instead of 12 at 'total_budget'"),
        ({"max_rollouts": 4}, "4 instead of 2 at 'max_rollouts'"),
        ({"round_capacity": 5}, "5 instead of 6 at 'round_capacity'"),
        ({"unit_size": 2}, "2 instead of 1 at 'unit_size'"),
    ]:
        must = r"^state\['ledger'\]\['horizon'\] must equal that of this RolloutLedger, got "
        refuses(policy, new(**change).state_dict(), rf"{must}{what}\.{REMEDY}")
    dual = FenchelDualAllocator(BetaPosteriorBank(3), total_budget=12, n_rounds=4, max_rollouts=2)
    kind = r"^state\['class'\] must be 'ResolvingAllocator', got state\['class'\] = 'FenchelDualAllocator'\."
    refuses(policy, dual.state_dict(), kind + REMEDY)
    refuses(policy, 7, "^state must be the dict that ResolvingAllocator.state_dict returned, got state = 7", TypeError)
    refuses(
        policy,
        good | {"plan": good["plan"] | {"price": None}},
        r"^state\['plan'\]\['price'\] must be a number, got .* = None",
    )
    refuses(
        policy,
        good | {"plan": good["plan"] | {"tie": np.arange(4)}},
        r"^state\['plan'\]\['tie'\] must be int32 of shape \(3,\), got .*\(4,\)",
    )
    for entry in set(good) - {"class", "schema", "arguments", "labels", "past", "told"}:  # the last three are new
        lacking = {key: value for key, value in good.items() if key != entry}
        refuses(policy, lacking, rf"entries of a ResolvingAllocator, missing or foreign: \['{entry}'\]")
    told = new(visits=3)
    for broken in (np.zeros(2), np.zeros(3, dtype=np.int64), [1.0, 1.0, 1.0], 7):
        state = told.state_dict()
        state["plan"]["left"] = broken
        refuses(told, state, r"^state\['plan'\]\['left'\] must be float64 of shape \(3,\), got ")


def test_states_with_and_without_visits_do_not_mix():
    """Both have the same horizon; they differ in whether the visits are known."""
    run = {"total_budget": 12, "n_rounds": 4, "max_rollouts": 2}
    given, unknown = (ResolvingAllocator(BetaPosteriorBank(3), visits=visits, **run) for visits in (4, None))
    assert given.horizon == unknown.horizon
    refuses(given, unknown.state_dict(), r"state\['plan'\]\['left'\]", (TypeError, ValueError))
    refuses(unknown, given.state_dict(), r"state\['plan'\]\['left'\]", (TypeError, ValueError))


# ------------------------------------------------------------------ open rounds and optional parts


def test_an_open_round_travels_and_a_broken_one_is_refused():
    def new():
        return DAPO(BetaPosteriorBank(4), total_budget=64, n_rounds=2, max_rollouts=8)

    open_one, closed = new(), new()
    counts = open_one.allocate()
    state = open_one.state_dict()
    closed.load_state_dict(state)
    assert closed.continue_round(counts, 0 * counts).tolist() == open_one.continue_round(counts, 0 * counts).tolist()
    open_one.load_state_dict(new().state_dict())
    with pytest.raises(ValueError, match="continue_round must follow allocate within a round"):
        open_one.continue_round([0] * 4, [0] * 4)
    odd = {key: value for key, value in state["round"].items() if key != "left"}
    for broken in ({}, odd, state["round"] | {"extra": 1}, "round", [1]):
        refuses(closed, state | {"round": broken}, NO_ROUND)
    missing = r"^state must hold the entries of a DAPO, missing or foreign: \['round'\]\." + REMEDY
    refuses(closed, {key: value for key, value in state.items() if key != "round"}, missing)


NO_ROUND = r"^state\['round'\] must be None or an open round(, got .* = [\w.]+)?\. Pass what state_dict returned\.$"


@pytest.mark.parametrize("broken", [7, True, 0.0, "", ()])
def test_a_round_that_is_no_mapping_is_refused_in_words(broken):
    policy = DAPO(BetaPosteriorBank(4), total_budget=64, n_rounds=2, max_rollouts=8)
    refuses(policy, policy.state_dict() | {"round": broken}, NO_ROUND)


ARRAYS = ("rows", "order", "dealt", "last", "seen", "won")
BROKEN = [
    *((name, value) for name in ARRAYS for value in (None, 7, np.zeros(3), np.zeros((2, 2)), np.full(4, "x"))),
    *((name, np.full(4, 0.5)) for name in ARRAYS if name != "won"),
    ("rows", np.full(4, -1)),
    ("order", np.full(4, -1)),
    *((name, value) for name in ("left", "wave") for value in (None, "x", 1.5, np.zeros(4))),
    ("rows", row(0, 1, 2, 4)),
    ("order", row(0, 1, 2, 2)),
    ("order", row(1, 2, 3, 4)),
]


@pytest.mark.parametrize(("name", "value"), BROKEN)
def test_a_round_with_a_broken_entry_is_refused_in_words(name, value):
    policy = DAPO(BetaPosteriorBank(4), total_budget=64, n_rounds=2, max_rollouts=8)
    policy.allocate()
    state = policy.state_dict()
    state["round"][name] = value
    refuses(policy, state, NO_ROUND)
    refuses(DAPO(BetaPosteriorBank(4), total_budget=64, n_rounds=2, max_rollouts=8), state, NO_ROUND)


def test_a_round_over_other_prompts_is_refused():
    policy = DAPO(BetaPosteriorBank(4), total_budget=64, n_rounds=2, max_rollouts=8)
    policy.allocate()
    state = policy.state_dict()
    state["round"]["last"] = state["round"]["last"][:2]
    refuses(policy, state, NO_ROUND)


@pytest.mark.parametrize("offer", [[2], [3, 1, 0], None])
def test_a_round_over_some_prompts_travels(offer):
    def new():
        return DAPO(BetaPosteriorBank(4), total_budget=64, n_rounds=2, max_rollouts=8)

    policy, twin = new(), new()
    wave = policy.allocate(offer)
    assert wave.any()
    twin.load_state_dict(policy.state_dict())
    while wave.any():
        following = policy.continue_round(wave, 0 * wave)
        assert twin.continue_round(wave, 0 * wave).tolist() == following.tolist()
        wave = following
    assert leaves(twin.state_dict()) == leaves(policy.state_dict())
    assert twin.state_dict()["round"] is None


def test_progress_of_references_starts_over_with_an_early_state():
    references = ([0.1, 0.2], [0.6, 0.9])
    policy = BOTS(BetaPosteriorBank(2), references=references, total_budget=32, n_rounds=2, max_rollouts=8)
    start = policy.state_dict()
    policy.update(None, [1, 2], [4, 4])
    policy.allocate()
    assert policy.state_dict()["progress"] is not None
    late = policy.state_dict()
    policy.load_state_dict(start)
    assert policy.state_dict()["progress"] is None
    policy.load_state_dict(late)
    assert policy.state_dict()["progress"] == late["progress"]


def test_more_ids_than_there_can_be_are_refused():
    bank = BetaPosteriorBank(3)
    with pytest.raises(ValueError, match=r"^state\['prompt_ids'\] must equal that of this BetaPosteriorBank"):
        bank.load_state_dict(bank.state_dict() | {"prompt_ids": 2**70})


@pytest.mark.parametrize("change", [{"front_load": None}, {"fit_every": None}, {}], ids=["value", "none", "foreign"])
def test_arguments_are_those_of_the_object(change):
    def run():
        return ResolvingAllocator(BetaPosteriorBank(3), total_budget=8, n_rounds=2, max_rollouts=4)

    state = run().state_dict()
    if change:
        del state["arguments"][next(iter(change))]
    else:
        state["arguments"]["pace"] = None
    with pytest.raises(
        ValueError, match=r"^state\['arguments'\] must hold what this ResolvingAllocator was built with"
    ):
        run().load_state_dict(state)


@pytest.mark.parametrize("proposed", [-5, 1])
def test_an_open_round_without_places_proposed_nothing(proposed):
    allocator = FenchelDualAllocator(BetaPosteriorBank(3), total_budget=8, n_rounds=2, max_rollouts=4)
    allocator.allocate(budget=0)
    state = allocator.state_dict()
    assert state["open"]["places"].size == state["open"]["proposed"] == 0
    with pytest.raises(ValueError, match=r"^state\['open'\] must"):
        allocator.load_state_dict(state | {"open": {**state["open"], "proposed": proposed}})
    assert allocator.price == 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_rounds", 2**70), ("total_units", -1), ("least_offer", np.nan), ("allocating_rounds", -1), ("unreserved", -1),
        ("pool_rounds", -1), ("offered", np.nan),
    ],
)  # fmt: skip
def test_what_no_account_can_hold_is_refused(name, value):
    allocator = FenchelDualAllocator(BetaPosteriorBank(3), total_budget=8, n_rounds=2, max_rollouts=4)
    allocator.allocate()
    state = allocator.state_dict()
    assert name in state["ledger"]
    with pytest.raises(ValueError, match=rf"^state\['ledger'\]\['{name}'\] must"):
        allocator.load_state_dict(state | {"ledger": {**state["ledger"], name: value}})
    assert leaves(allocator.state_dict()) == leaves(state)


@pytest.mark.parametrize("step", [-1.0, 0.0, np.nan, np.inf])
def test_a_step_that_no_price_can_take_is_refused(step):
    allocator = FenchelDualAllocator(BetaPosteriorBank(3), total_budget=8, n_rounds=2, max_rollouts=4)
    with pytest.raises(ValueError, match=r"^state\['price_step'\] must be positive and finite"):
        allocator.load_state_dict(allocator.state_dict() | {"price_step": step})
