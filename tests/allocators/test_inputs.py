"""docs/inputs.md runs: every row for every allocator it covers, and nothing changes on an error."""

import builtins
import importlib
import re
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cero_alloc
from cero_alloc import (
    FenchelDualAllocator,
    ResolvingAllocator,
    SaturatingUtility,
    baselines,
    replay,
    sharding,
    simulation,
)

PAGE = (Path(__file__).parents[2] / "docs" / "inputs.md").read_text()
ROWS = [tuple(cells) for cells in re.findall(r"^\| `(.+)` \| `(.+)` \| (.+) \|$", PAGE, flags=re.MULTILINE)]

RUN = {"total_budget": 240, "n_rounds": 4, "unit_size": 2, "max_rollouts": 16}
UTILITY = SaturatingUtility("log", scaling="height")
ALLOCATORS = {
    "fenchel": FenchelDualAllocator,
    "fenchel, batches": partial(FenchelDualAllocator, visits=[4, 3, 4, 4], catch_up=True, utility=UTILITY),
    "resolving": ResolvingAllocator,
    "resolving, visits": partial(ResolvingAllocator, visits=[4, 3, 4, 4], min_rollouts=4, utility=UTILITY),
    "resolving, spread": partial(ResolvingAllocator, visits=[4, 3, 4, 4], order="spread", coverage=2),
    "resolving, group": partial(ResolvingAllocator, signal="group", min_rollouts=2),
    **{cls.__name__: cls for cls in (*baselines.PEERS, *baselines.CONTROLS)},
}
PLAIN = [name for name in ALLOCATORS if "," not in name]  # those that take any argument
WHOLE = [name for name in ALLOCATORS if getattr(ALLOCATORS[name], "kind", "") != "waves"]


def breaks_off(*items):
    """An iterator whose source fails after these items."""
    yield from items
    raise RuntimeError("the source broke off")


def bank_of(prompts):
    bank = cero_alloc.BetaPosteriorBank(prompts, forgetting=0.9)
    bank.update(None, [6, 5, 4, 3], [10] * 4)
    return bank


def begun(name):
    """An allocator that has dealt a round, of which half has been reported."""
    allocator = ALLOCATORS[name](bank_of(4), **RUN)
    counts = allocator.allocate()
    allocator.update(None, counts // 4, counts // 2)
    return allocator


def probed():
    """An allocator that has dealt the first of two waves, the second of which has as many rollouts as it may."""
    allocator = ResolvingAllocator(bank_of(4), **RUN, waves=2)
    allocator.allocate(budget=64, exact=True)
    return allocator


def build(make, bank=None, **arguments):
    return make(bank_of(4) if bank is None else bank, **{**RUN, **arguments})


def shards():
    horizon = begun("fenchel").horizon
    pool = [sharding.PoolShard(cero_alloc.BetaPosteriorBank(2), horizon, start) for start in (0, 2)]
    sharded = sharding.ShardedAllocator(pool, horizon)
    sharded.allocate()
    return sharded


def optional(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


MODULES = {"pd": optional("pandas"), "torch": optional("torch")}


NAMES = {
    **{name: getattr(module, name) for module in (simulation, replay, sharding) for name in module.__all__},
    **{name: getattr(cero_alloc, name) for name in cero_alloc.__all__},
    **{"np": np, "Decimal": Decimal, "Fraction": Fraction, "breaks_off": breaks_off, "Preset": baselines.Preset},
    **{"fenchel": partial(build, FenchelDualAllocator), "resolving": partial(build, ResolvingAllocator)},
    **MODULES,
}
PARTS = {
    "bank": lambda: bank_of(4),
    "named": lambda: bank_of(list("abcd")),
    "waves": lambda: begun("DAPO"),
    "probed": probed,
    "tokens": lambda: ResolvingAllocator(bank_of(4), **RUN, costs=[1.0, 2.0, 3.0, 4.0]),
    "sharded": shards,
}


def scope_of(name, call):
    """What a call may name, fresh; and the parts of it whose state an error must leave alone."""
    parts = {part: make() for part, make in PARTS.items() if re.search(rf"\b{part}\b", call)}
    if re.search(r"\b(allocator|whole)\b", call):
        parts["allocator"] = parts["whole"] = begun(name)
    scope = {**NAMES, "build": partial(build, ALLOCATORS[name]), **parts}
    return scope, [*parts.values(), *(parts["sharded"].shards if "sharded" in parts else ())]


def same(one, two):
    """Whether two states are equal to the last bit."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (two.dtype, two.shape, two.tobytes())
    return repr(one) == repr(two)


def needs(cell):
    for name in ("pd", "torch"):
        if re.search(rf"\b{name}\.", cell) and MODULES[name] is None:
            pytest.skip(f"{name} is not installed here")


def error_of(result):
    """Return the error that a result names, and the start of its message; None for a result that is none."""
    found = re.match(r"`(\w+Error): (.*)`$", result)
    return (getattr(builtins, found[1]), as_shown(found[2])) if found else None


def as_shown(message):
    """Return a message as this version of NumPy shows its own scalars."""
    if int(np.__version__.partition(".")[0]) >= 2:
        return message
    return message.replace("np.True_", "True").replace("np.datetime64", "numpy.datetime64")


def names_for(call):
    if re.search(r"\bbuild\(", call):
        return PLAIN
    if re.search(r"\bwhole\b", call):
        return WHOLE
    return ALLOCATORS if re.search(r"\ballocator\b", call) else ["fenchel"]


def test_the_page_is_read_in_full():
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(lines) == len(ROWS) > 200
    assert sum(error_of(result) is not None for *_, result in ROWS) > 150


@pytest.mark.parametrize(("call", "given", "result"), ROWS)
def test_row(call, given, result):
    needs(given)
    expected = error_of(result)
    for name in names_for(call):
        scope, parts = scope_of(name, call)
        scope["x"] = eval(given, scope)
        if expected is None:
            value = eval(call, scope)
            if result != "*accepted*":
                value = value.round(4).tolist() if isinstance(value, np.ndarray) else value
                assert value == eval(result.strip("`"), scope), name
            continue
        before = [part.state_dict() for part in parts]
        with pytest.raises(expected[0]) as caught:
            eval(call, scope)
        assert type(caught.value) is expected[0], name
        assert str(caught.value).startswith(expected[1]), name
        assert all(map(same, before, [part.state_dict() for part in parts])), name


# ---------------------------------------------------------------- anywhere in any history

BAD = [
    (call, given)
    for call, given, result in ROWS
    if error_of(result) and re.match(r"(allocator|bank)\.", call) and not re.search(r"\b(pd|torch)\.", given)
]


def step(allocator, rng):
    """A good call, drawn; return what it answers."""
    kind, offer = rng.integers(4), rng.permutation(4)[: rng.integers(1, 5)]
    if kind <= 1:
        counts = allocator.allocate(offer)
        if kind:
            allocator.update(offer, rng.binomial(counts, 0.5), counts)
        return counts.tolist()
    if kind == 2:
        n = rng.integers(0, 5, offer.size)
        return allocator.update(offer, n * rng.random(), n)
    owed = allocator.ledger.outstanding[offer]
    return allocator.refund(offer, owed // 2 * 2)


@settings(max_examples=300)
@given(
    name=st.sampled_from(list(ALLOCATORS)),
    seed=st.integers(0, 2**32 - 1),
    bad=st.lists(st.sampled_from(BAD), max_size=8),
)
def test_a_bad_call_anywhere_leaves_no_trace(name, seed, bad):
    hurt, twin = begun(name), begun(name)
    mine, its = np.random.default_rng(seed), np.random.default_rng(seed)
    for call, given_ in bad:
        before = hurt.state_dict()
        scope = {**NAMES, "allocator": hurt, "bank": hurt.bank}
        scope["x"] = eval(given_, scope)
        with pytest.raises((TypeError, ValueError, KeyError, RuntimeError)):
            eval(call, scope)
        assert same(before, hurt.state_dict())
        assert step(hurt, mine) == step(twin, its)
    assert same(hurt.state_dict(), twin.state_dict())


def test_a_bank_that_grew_under_a_baseline_takes_no_part_of_the_feedback():
    for cls in (*baselines.PEERS, *baselines.CONTROLS):
        allocator = begun(cls.__name__)
        allocator.bank.add_prompts([4])
        bank, accounts = allocator.bank.state_dict(), allocator.ledger.state_dict()
        for call in (allocator.allocate, lambda: allocator.update([4], [1], [2]), lambda: allocator.refund([4], [0])):  # noqa: B023
            with pytest.raises(ValueError, match="bank must keep its 4 prompts under a baseline, got bank = 5"):
                call()
        assert same(bank, allocator.bank.state_dict())
        assert same(accounts, allocator.ledger.state_dict())


def test_ids_that_equal_a_known_one_never_take_its_place():
    bank = bank_of(4)
    with pytest.raises(ValueError, match=r"ids must be new to the bank, got ids\[1\] = 2.0"):
        bank.add_prompts(["x", 2.0])
    bank.add_prompts([4.0, "x"])
    assert bank.mean([2, 4, 4.0, "x"]).round(4).tolist() == [0.4167, 0.5, 0.5, 0.5]
