"""States with changed entries: either refused with a message and without effect, or loaded and usable."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.runs import FORMS, build, go_on
from helpers.scale import scaled
from helpers.trees import leaves

JUNK = [
    None, True, -1, 0, 1, 7, 2**40, -(2**70), 0.5, -0.5, float("nan"), float("inf"), "", "word", [], [1], (), (None,), (1, 2, 3, 4),
    {}, {"a": 1}, np.zeros(0), np.zeros(6), np.full(6, np.nan), np.arange(6), np.arange(6, dtype=np.int32), -np.ones(6),
    np.full(6, 10**9, dtype=np.int32), np.zeros((6, 2)), np.zeros((6, 3), dtype=np.int32), np.array(3), np.ones(6, dtype=bool),
    np.array(["a"] * 6), np.full((6, 3), 7, dtype=np.int32), b"bytes", range(6),
]  # fmt: skip


def places(part, path=()):
    """Return the paths of all leaves and containers of a tree."""
    found = [path] if path else []
    entries = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, (list, tuple)) else ()
    for key, entry in entries:
        found += places(entry, (*path, key))
    return found


def changed(part, path, change):
    """Return a tree with one entry replaced or removed."""
    if not path:
        return change(part)
    key, *rest = path
    if isinstance(part, tuple):
        return tuple(changed(list(part), path, change))
    part = copy.copy(part)
    if not rest and change is None:
        del part[key]
    else:
        part[key] = changed(part[key], rest, change)
    return part


def tampering(rng):
    """Return a random change of one entry; None removes it."""
    how = rng.integers(4)
    if how == 0:
        return lambda part: JUNK[rng.integers(len(JUNK))]
    if how == 1:
        return None

    def nudge(part):
        if isinstance(part, np.ndarray) and part.size and part.dtype.kind in "iuf":
            part = part.copy()
            part.ravel()[rng.integers(part.size)] = rng.choice([-1, 0, 1, 2, 3, 99, 10**6])
            return part
        if isinstance(part, (int, float)) and not isinstance(part, bool):
            return type(part)(rng.choice([-1, 0, 1, 2, 50, 10**6]))
        return JUNK[rng.integers(len(JUNK))]

    return nudge


TAMPERED = {name: form for name, form in FORMS.items() if name in {
    "FenchelDualAllocator", "FenchelDualAllocator, batches", "ResolvingAllocator", "ResolvingAllocator, visits",
    "ResolvingAllocator, tokens", "Uniform", "FixedPacing", "DAPO", "GRESO", "VIP, process", "BOTS, references", "CoBARL",
    "FenchelDualAllocator, moving", "ResolvingAllocator, graded", "DAPO, moving and graded",
}}  # fmt: skip


@settings(max_examples=scaled(400, 6_000))
@given(form=st.sampled_from(sorted(TAMPERED)), stop=st.integers(0, 7), seed=st.integers(0, 2**32 - 1))
def test_a_tampered_state_is_refused_or_fit_for_use(form, stop, seed):
    rng = np.random.default_rng(seed)
    run, other = build(form), build(form)
    go_on(run, 7, 0, stop)
    if stop % 2:
        run.allocate()
    state = run.state_dict()
    for _ in range(int(rng.integers(1, 3))):
        all_places = places(state)
        state = changed(state, all_places[rng.integers(len(all_places))], tampering(rng))
    before = leaves(other.state_dict())
    try:
        other.load_state_dict(state)
    except (TypeError, ValueError) as error:
        assert str(error).startswith("state")  # noqa: PT017
        assert repr(leaves(other.state_dict())) == repr(before)
        return
    assert leaves(other.state_dict()).keys() >= {"/class"}
    with np.errstate(all="ignore"):
        try:
            go_on(other, 7, stop, 9)
        except ValueError as error:  # such as a report of a round that the state does not have
            assert "must" in str(error)  # noqa: PT017


def test_all_of_a_state_is_tampered_with():
    state = build("DAPO").state_dict()
    assert len(places(state)) > 60
    with pytest.raises(ValueError, match=r"^state"):
        build("DAPO").load_state_dict(changed(state, ("ledger", "round"), lambda _: 99))
