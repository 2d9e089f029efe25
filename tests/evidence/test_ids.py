"""Rows of ids in every form that ids come in, against one look-up after another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cero_alloc._evidence.ids import PromptIndex

few = settings(max_examples=20)


class Name(str):
    """A string of a class of its own, as tokenizers and dataframes have them."""


class Number(int):
    """An integer of a class of its own."""


TEXTS = [f"prompt-{i}" for i in range(12)]
POOLS = {
    "text": TEXTS,
    "mixed": [0, "0", 1, "1", 7, ("a", 1), *TEXTS[:6]],
    "integers": [5, 3, -2, 10**30, 2**40, 0, 1, 77, 8, 9, 10, 11],
    "tuples": [("a", i) for i in range(12)],
    "range": 12,
}
FORMS = {
    "list": list,
    "tuple": tuple,
    "generator": lambda names: (name for name in names),
    "keys": lambda names: dict.fromkeys(names).keys(),
    "objects": lambda names: _objects(names),
}
TEXT_FORMS = {
    **FORMS,
    "array": lambda names: np.array(names, dtype=str),
    "NumPy strings": lambda names: [np.str_(name) for name in names],
    "a class of its own": lambda names: [Name(name) for name in names],
    "copies": lambda names: ["".join(list(name)) for name in names],
}
INT_FORMS = {
    **FORMS,
    "int64": lambda names: np.array(names, dtype=np.int64),
    "uint8": lambda names: np.array(names, dtype=np.uint8),
    "strided": lambda names: np.repeat(np.array(names, dtype=np.int32), 2)[::2],
    "NumPy integers": lambda names: [np.int32(name) for name in names],
    "a class of its own": lambda names: [Number(name) for name in names],
}


def _objects(names):
    found = np.empty(len(names), dtype=object)
    found[:] = names
    return found


def forms_of(pool):
    return {"text": TEXT_FORMS, "range": INT_FORMS}.get(pool, FORMS)


CASES = [(pool, form) for pool in POOLS for form in forms_of(pool)]


@pytest.mark.parametrize(("pool", "form"), CASES)
@few
@given(data=st.data())
def test_rows_are_the_places_of_the_ids(pool, form, data):
    index = PromptIndex(POOLS[pool])
    places = data.draw(st.lists(st.integers(0, 11), max_size=30, unique=form == "keys"))
    shape = forms_of(pool)[form]
    for _ in range(2):  # the second time, the ids are those of the latest look-up
        assert index.rows(shape([index.ids[i] for i in places])).tolist() == places
    seen, repeated = set(), None
    for position, place in enumerate(places):
        if place in seen:
            repeated = position
            break
        seen.add(place)
    given_ids = shape([index.ids[i] for i in places])
    if repeated is None:
        assert index.unique_rows(given_ids).tolist() == places
        return
    with pytest.raises(ValueError, match="not repeat an id") as error:
        index.unique_rows(given_ids)
    name = index.ids[places[repeated]]
    assert f"got prompt_ids[{repeated}] = {name!r}. Sum the entries" in str(error.value)


UNKNOWN = {
    "text": ["prompt-12", "", 0, b"prompt-1", None, 1.5, True, ("prompt-1",), np.str_("prompt-99")],
    "mixed": [2, "7 ", True, False, np.True_, ("a", 2), None, float("nan")],
    "integers": [2, "5", True, False, np.False_, 10**31],
    "range": [12, -1, "0", True, False, np.True_, 2.5, None, 10**30],
}


@pytest.mark.parametrize(("pool", "odd"), [(pool, odd) for pool, found in UNKNOWN.items() for odd in found], ids=repr)
@few
@given(data=st.data())
def test_an_unknown_id_is_named_and_nothing_is_remembered(pool, odd, data):
    index = PromptIndex(POOLS[pool])
    places = data.draw(st.lists(st.integers(0, 11), max_size=9, unique=True))
    names = [index.ids[i] for i in places]
    before = index.rows(names).tolist()
    at = data.draw(st.integers(0, len(names)))
    for call in (index.rows, index.unique_rows):
        with pytest.raises(KeyError) as error:
            call([*names[:at], odd, *names[at:]])
        shown = error.value.args[0]
        assert shown.startswith(f"prompt_ids must be in the bank, unknown: {odd!r} (1 in all). ")
        kind = type(odd.item() if isinstance(odd, np.generic) else odd)
        if kind in map(type, index.ids):
            assert shown.endswith(" Check the spelling; a new prompt needs add_prompts.")
        else:
            assert shown.endswith(f" ids like {index.ids[0]!r}, got {kind.__name__}.")
    assert index.rows(names).tolist() == before == places
