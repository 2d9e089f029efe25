"""Checkpoints: trees are restored exactly, damage is detected, nothing is executed, and files are replaced as a whole."""

import copy
import errno
import hashlib
import io
import json
import math
import os
import pickle
import random
import re
import stat
import time
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator, checkpoint
from cero_alloc.baselines import CONTROLS, PEERS
from helpers.scale import scaled

TAG = b"cero-alloc checkpoint %d sha256:"
SMALL = {
    "ids": ["a", "b\0\ud800"],
    "bank": (np.arange(3), np.array([[True, False]])),
    "rng": {"$": 2**100, "nan": math.nan},
}
OTHER = {"x": np.linspace(0.0, 1.0, 5), "steps": list(range(300)), "y": np.array(7, dtype=np.int8)}


def canonical(tree):
    """Return the tree that reading should give, in a form that == compares bit for bit."""
    if isinstance(tree, dict):
        return {str.__str__(key): canonical(entry) for key, entry in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(canonical(entry) for entry in tree)
    if isinstance(tree, np.ndarray):
        return (tree.dtype.newbyteorder("="), tree.shape, tree.astype(tree.dtype.newbyteorder("=")).tobytes())
    if isinstance(tree, range):
        return (range, tree.start, tree.stop, tree.step)
    tree = str.__str__(tree) if isinstance(tree, np.str_) else tree.item() if isinstance(tree, np.generic) else tree
    return (type(tree), "nan" if tree != tree else (tree, math.copysign(1, tree)) if isinstance(tree, float) else tree)


def same(found, tree):
    return canonical(found) == canonical(tree) and list(found) == list(tree)


def arrays_of(tree):
    if isinstance(tree, np.ndarray):
        return [tree]
    entries = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else []
    return [array for entry in entries for array in arrays_of(entry)]


def sealed(content, form=1):
    """Append a comment with the right checksum to content that ends where the archive's comment begins."""
    content += TAG % form
    return content + hashlib.sha256(content).hexdigest().encode()


def content_of(data):
    return data[: -len(TAG % 1) - 64]


def archive(members, form=1, compression=zipfile.ZIP_STORED):
    """Return a well-formed archive of any members, with the right checksum."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as zipped, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about duplicate names
        for name, text in members:
            zipped.writestr(zipfile.ZipInfo(name) if compression == zipfile.ZIP_STORED else name, text)
        zipped.comment = TAG % form + b"0" * 64
    return sealed(content_of(file.getvalue()), form)


def npy(array, **kwargs):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), **kwargs)
    return file.getvalue()


def tree_and(*arrays, tree=None):
    tree = {str(i): {"$array": i} for i in range(len(arrays))} if tree is None else tree
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return archive([("cero_alloc.json", text), *((f"{i}.npy", data) for i, data in enumerate(arrays))])


# ------------------------------------------------------------------ write and read

words = st.text(st.characters(exclude_categories=()), max_size=6)
dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(endianness="?", sizes=(64, 128)),
)
layouts = st.sampled_from([
    lambda a: a, np.asfortranarray, np.transpose, lambda a: a[::-1] if a.ndim else a, lambda a: a[..., ::2] if a.ndim else a,
    lambda a: np.broadcast_to(a, (3, *a.shape)),
])  # fmt: skip
arrays = st.builds(
    lambda a, layout: layout(a),
    hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    layouts,
)
scalars = st.one_of(
    st.integers(), st.integers(-(2**200), 2**200), st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**4000]),
    st.floats(), words, st.booleans(), st.none(), st.builds(range, st.integers(-(2**70), 2**70)), st.just(range(5, -9, -3)),
    st.sampled_from([np.float16(0.1), np.float32("nan"), np.float64(-0.0), np.uint64(2**64 - 1), np.int8(-1)]),
    st.sampled_from([np.bool_(True), np.str_("a\0")]),
)  # fmt: skip
long_lists = st.builds(
    lambda entries, n: (entries * n)[:n],
    st.one_of(
        *(
            st.lists(one, min_size=1, max_size=3)
            for one in (st.integers(-(2**65), 2**65), st.floats(), st.integers(-9, 9), words)
        )
    ),
    st.sampled_from([255, 256, 300]),
)
keys = st.one_of(words, st.sampled_from(["$array", "$dict", "$list", "$tuple", "$int", "$float", "$"]))
trees = st.recursive(
    st.one_of(scalars, arrays, long_lists, long_lists.map(tuple)),
    lambda parts: st.one_of(
        st.lists(parts, max_size=4), st.lists(parts, max_size=4).map(tuple), st.dictionaries(keys, parts, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip
states = st.dictionaries(keys, trees, max_size=4)


@given(state=states)
def test_every_tree_comes_back(state):
    kept = canonical(state)
    data = checkpoint.pack(state)
    found = checkpoint.unpack(data)
    assert same(found, state)
    assert canonical(state) == kept
    assert (
        checkpoint.pack(found) == checkpoint.pack(checkpoint.unpack(data)) == data
    )  # a fixed point: equal states, equal files
    for array in arrays_of(found):
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.flags.owndata or array.base.flags.owndata
        assert array.dtype.isnative


def test_file_and_bytes_are_one_format_that_numpy_opens(tmp_path):
    file = tmp_path / "state.npz"
    checkpoint.write(file, OTHER)
    assert file.read_bytes() == checkpoint.pack(OTHER) == checkpoint.pack(copy.deepcopy(OTHER))
    assert same(checkpoint.read(str(file)), OTHER)
    with np.load(file, allow_pickle=False) as members:
        assert members.files == ["cero_alloc.json", "0", "1", "2"]
        assert members["0"].tolist() == OTHER["x"].tolist()
        assert members["1"].tolist() == OTHER["steps"]
        assert json.loads(members["cero_alloc.json"]) == {"x": {"$array": 0}, "steps": {"$list": 1}, "y": {"$array": 2}}


def test_surrogates_stay_apart():
    pair = "\ud83d" + "\ude00"  # JSON escapes would merge these two into one character
    state = {"words": [pair, "\U0001f600"], pair: 1, "\U0001f600": 2}
    found = checkpoint.unpack(checkpoint.pack(state))
    assert found == state
    assert [len(word) for word in found["words"]] == [2, 1]


def test_ints_of_any_size():
    state = {"a": 10**5000, "b": [-(10**5000)] * 300}  # more decimal digits than Python converts
    assert (checkpoint.unpack(checkpoint.pack(state)) == state) is True


def test_odd_arrays():
    wide = np.frombuffer(b"\0" + np.arange(5.0).tobytes(), dtype=np.uint8)[1:].view(np.float64)  # not aligned
    deep = np.ones((1,) * 32)
    big = np.arange(3 * 400_000, dtype=">i8").reshape(3, -1)[:, ::-2]  # several pieces
    found = checkpoint.unpack(checkpoint.pack({"wide": wide, "deep": deep, "big": big, "twice": [deep, deep]}))
    assert found["wide"].tolist() == wide.tolist()
    assert found["deep"].shape == deep.shape
    assert (found["big"] == big).all()
    assert found["twice"][0] is not found["twice"][1]


def test_mapped_arrays(tmp_path):
    mapped = np.memmap(tmp_path / "map", dtype=np.int16, mode="w+", shape=(4, 3))
    mapped[:] = np.arange(12).reshape(4, 3)
    for view in (mapped, mapped[:, 1:]):
        found = checkpoint.unpack(checkpoint.pack({"x": view}))["x"]
        assert type(found) is np.ndarray
        assert found.tolist() == view.tolist()


@pytest.mark.parametrize(
    "ids", [[f"p{i}" for i in range(9)], 9, list(range(9, 0, -1)), [("math", i) for i in range(9)]], ids=repr
)
@pytest.mark.parametrize("kind", [FenchelDualAllocator, ResolvingAllocator])
def test_a_run_goes_on_from_a_file(kind, ids, tmp_path):
    def build():
        bank = BetaPosteriorBank(ids, forgetting=0.9)
        return kind(bank, total_budget=90, n_rounds=6, max_rollouts=4, seed=np.random.default_rng(3))

    first, second = build(), build()
    for _ in range(2):
        dealt = first.allocate()
        first.update(None, dealt // 2, dealt)
    checkpoint.write(tmp_path / "a", first.state_dict(), durable=False)
    second.load_state_dict(checkpoint.read(tmp_path / "a"))
    for _ in range(3):
        dealt = first.allocate()
        assert second.allocate().tolist() == dealt.tolist()
        first.update(None, dealt // 2, dealt)
        second.update(None, dealt // 2, dealt)
    assert same(second.state_dict(), first.state_dict())


@pytest.mark.parametrize("policy", [*CONTROLS, *PEERS])
def test_every_policy_can_be_stored(policy):
    allocator = policy(BetaPosteriorBank(12), total_budget=12 * 32, n_rounds=4, max_rollouts=32)
    counts = allocator.allocate()
    allocator.update(None, counts // 2, counts)
    state = allocator.state_dict()
    found = checkpoint.unpack(checkpoint.pack(state))
    assert same(found, state)
    allocator.load_state_dict(found)


# ------------------------------------------------------------------ values that cannot be stored, and damaged files


class Number(int):
    pass


FIT = "must be a dict, list, tuple, array of numbers or booleans, range, int, float, str, bool or None, got"
WHOLE = " Store what it is made of."
PLAIN = " Pass a plain array of numbers of at most 64 bits, and words as a list of str."


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"bank": {"ids": [0, 1, 2, {3}]}}, f"state['bank']['ids'][3] {FIT} an object of type set.{WHOLE}"),
        ({"a": (1, [b"x"])}, f"state['a'][1][0] {FIT} an object of type bytes.{WHOLE}"),
        ({"a": 1j}, f"state['a'] {FIT} an object of type complex.{WHOLE}"),
        ({"a": np.complex128(1)}, f"state['a'] {FIT} an object of type complex128.{WHOLE}"),
        ({"a": np.longdouble(1)}, f"state['a'] {FIT} an object of type longdouble.{WHOLE}"),
        ({"a": np.datetime64(1, "s")}, f"state['a'] {FIT} an object of type datetime64.{WHOLE}"),
        ({"a": np.timedelta64(1, "s")}, f"state['a'] {FIT} an object of type timedelta64.{WHOLE}"),
        ({"a": Number(3)}, f"state['a'] {FIT} an object of type Number.{WHOLE}"),
        ({"a": np.random.default_rng(0)}, f"state['a'] {FIT} an object of type Generator.{WHOLE}"),
        ({"a": np.array([None])}, f"state['a'] {FIT} a ndarray of object.{PLAIN}"),
        ({"a": np.array(["xy"])}, f"state['a'] {FIT} a ndarray of <U2.{PLAIN}"),
        ({"a": np.array([b"xy"])}, f"state['a'] {FIT} a ndarray of |S2.{PLAIN}"),
        ({"a": np.zeros(2, dtype="M8[s]")}, f"state['a'] {FIT} a ndarray of datetime64[s].{PLAIN}"),
        ({"a": np.zeros(2, dtype=[("x", "f8")])}, f"state['a'] {FIT} a ndarray of [('x', '<f8')].{PLAIN}"),
        ({"a": np.zeros(2, dtype=np.longdouble)}, f"state['a'] {FIT} a ndarray of float128.{PLAIN}"),
        ({"a": np.ma.array([1.0], mask=[True])}, f"state['a'] {FIT} a MaskedArray of float64.{PLAIN}"),
        (
            {"a": {3: 1}},
            "state['a'] must have keys that are str, got int 3. Turn the keys into str, or keep keys and values as two lists.",
        ),
        ([1], "state must be a dict, got list. Pass what a state_dict method returned."),
        (None, "state must be a dict, got NoneType. Pass what a state_dict method returned."),
    ],
)
def test_what_cannot_be_stored_is_named(state, message, tmp_path):
    if "float128" in message and np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("long double is double here")
    for call in (checkpoint.pack, lambda state: checkpoint.write(tmp_path / "no" / "folder", state)):
        with pytest.raises(TypeError) as caught:
            call(state)
        assert str(caught.value) == message
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x,), lambda x: {"k": x}, lambda x: {"$k": x}])
@pytest.mark.parametrize("leaf", [1, 2**80, math.inf, np.ones(2), np.str_("x")])
def test_depth(wrap, leaf):
    tree = leaf
    for _ in range(63):
        tree = wrap(tree)
    assert same(checkpoint.unpack(checkpoint.pack({"a": tree})), {"a": tree})
    with pytest.raises(
        ValueError,
        match=r"^state must hold at most 64 containers within each other, got a (list|tuple|dict) at state\['a'\]",
    ):
        checkpoint.pack({"a": wrap(tree)})


def test_a_tree_that_holds_itself():
    loop = [1, 2]
    loop.append(loop)
    with pytest.raises(ValueError, match=r"\[2\]\[2\]\. Flatten it; a container that holds itself has no end\.$"):
        checkpoint.pack({"a": loop})


@pytest.mark.parametrize("call", [lambda path: checkpoint.write(path, {}), checkpoint.read])
@pytest.mark.parametrize("path", [3, None, b"x"])
def test_paths_are_words(call, path):
    with pytest.raises(
        TypeError, match=rf"^path must be a str or a path, got path = {re.escape(repr(path))}\. Name a file\.$"
    ):
        call(path)


def test_unpack_takes_bytes():
    for data in (bytearray(checkpoint.pack(SMALL)), memoryview(checkpoint.pack(SMALL))):
        assert same(checkpoint.unpack(data), SMALL)
    with pytest.raises(TypeError, match=r"^data must be bytes, got str\. Pass what checkpoint\.pack returned\.$"):
        checkpoint.unpack("x")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.read(tmp_path / "none")
    (tmp_path / "file").touch()
    for folder, error in (("none", FileNotFoundError), ("file", NotADirectoryError)):
        path = str(tmp_path / folder / "a.npz")
        message = (
            rf"^path must be in a folder that exists, got path = {re.escape(repr(path))}\. Make the folder first\.$"
        )
        with pytest.raises(error, match=message):
            checkpoint.write(path, SMALL)
    with pytest.raises(OSError):  # noqa: PT011  whichever the system has for folders
        checkpoint.read(tmp_path)
    with pytest.raises(OSError):  # noqa: PT011
        checkpoint.write(tmp_path, SMALL)
    assert os.listdir(tmp_path) == ["file"]
    assert not [name for name in os.listdir(tmp_path.parent) if name.endswith(".tmp")]


FOREIGN = "Its contents are something else: name what checkpoint.write or checkpoint.pack made."
DAMAGED = "It was cut short or changed, its checksum does not fit: take an older one."


def a_savez():
    file = io.BytesIO()
    np.savez(file, x=np.ones(3))
    return file.getvalue()


FOREIGNERS = {
    "empty": b"", "text": b"step,reward\n1,1\n" * 40, "npz": a_savez(), "pickle": pickle.dumps(SMALL), "npy": npy(np.ones(300)),
    "zip": zipfile.ZipFile(io.BytesIO(), "w").fp.getvalue(), "zeros": bytes(500), "another checksum": b"x" * 99 + b"sha256:" + b"0" * 64,
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGNERS)
def test_foreign_files(name, tmp_path):
    file = tmp_path / "state"
    file.write_bytes(FOREIGNERS[name])
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        checkpoint.read(file)
    assert str(caught.value) == f"path must be a checkpoint of cero-alloc, got path = {str(file)!r}. {FOREIGN}"
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        checkpoint.unpack(FOREIGNERS[name])
    size = len(FOREIGNERS[name])
    assert str(caught.value) == f"data must be a checkpoint of cero-alloc, got data = '{size} bytes'. {FOREIGN}"


def test_every_truncation_is_found(tmp_path):
    data, file = checkpoint.pack(SMALL), tmp_path / "state"
    seen = set()
    for n in range(len(data)):
        with pytest.raises(ValueError, match=r"^data must be ") as caught:
            checkpoint.unpack(data[:n])
        seen.add((n < 45, str(caught.value).partition(". ")[2]))
    assert seen == {(True, FOREIGN), (False, DAMAGED)}  # fewer than 45 bytes could be the start of any archive
    file.write_bytes(data[:-1])
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        checkpoint.read(file)
    assert str(caught.value) == f"path must be an undamaged checkpoint, got path = {str(file)!r}. {DAMAGED}"


def test_every_flipped_bit_is_found():
    data = bytearray(checkpoint.pack({"x": np.arange(2)}))
    for at in range(len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            with pytest.raises(ValueError, match=r"an undamaged checkpoint|a checkpoint of cero-alloc"):
                checkpoint.unpack(data)
            data[at] ^= 1 << bit


def test_a_newer_format(tmp_path):
    file = tmp_path / "state"
    for form in (2, 999_999):
        file.write_bytes(sealed(content_of(checkpoint.pack(SMALL)), form))
        message = (
            "path must be a checkpoint of format 1, the newest that this version reads, "
            f"got path = {str(file)!r}. Its format is {form}: upgrade cero-alloc."
        )
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            checkpoint.read(file)
        assert str(caught.value) == message
    data = file.read_bytes()
    with pytest.raises(ValueError, match="undamaged"):  # a changed version number is damage, not a newer format
        checkpoint.unpack(checkpoint.pack(SMALL).replace(b"checkpoint 1", b"checkpoint 3"))
    with pytest.raises(ValueError, match="undamaged"):
        checkpoint.unpack(data.replace(b"checkpoint 999999", b"checkpoint 0"))


# ------------------------------------------------------------------ files made by an attacker


class Payload:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_nothing_is_executed(tmp_path):
    folder = tmp_path / "executed"
    pickled = npy(np.array([Payload(folder)], dtype=object), allow_pickle=True)
    np.load(io.BytesIO(pickled), allow_pickle=True)
    folder.rmdir()  # unpickling would have made it
    call = f"__import__('os').mkdir({str(folder)!r})".encode()
    for data in (
        tree_and(pickled),
        tree_and(pickle.dumps(Payload(folder))),
        tree_and(npy([1]).replace(b"(1,)", call)),
        tree_and(tree=pickle.dumps(Payload(folder))),
        pickle.dumps(Payload(folder)),
    ):
        with pytest.raises(ValueError, match=r"leave it alone\.$|something else"):
            checkpoint.unpack(data)
        assert not folder.exists()


def header(text):
    text = text.encode()
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n"


def shaped(shape, descr="<f8", order="False"):
    return header(f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}")


def edited(data, at, change):
    """Change the directory entry of one member, and renew the checksum."""
    content = bytearray(content_of(data))
    start = -1
    for _ in range(at + 1):
        start = content.index(b"PK\1\2", start + 1)
    change(content, start)
    return sealed(bytes(content))


def put(offset, number, size):
    def change(content, start):
        content[start + offset : start + offset + size] = number.to_bytes(size, "little")

    return change


ONE = npy(np.arange(3.0))
NESTED = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
HOSTILE = {
    "no members": (archive([]), "other members"),
    "no description": (archive([("0.npy", ONE)]), "other members"),
    "a member twice": (archive([("cero_alloc.json", "{}"), ("0.npy", ONE), ("0.npy", ONE)]), "other members"),
    "the description twice": (archive([("cero_alloc.json", "{}")] * 2), "other members"),
    "other order": (archive([("cero_alloc.json", "{}"), ("1.npy", ONE), ("0.npy", ONE)]), "other members"),
    "compressed": (archive([("cero_alloc.json", "{}" * 99)], compression=zipfile.ZIP_DEFLATED), "compressed or encrypted"),
    "encrypted": (edited(tree_and(ONE), 1, put(8, 1, 2)), "compressed or encrypted"),
    "two sizes": (edited(tree_and(ONE), 1, put(24, 2**31, 4)), "two sizes"),
    "far too large": (edited(edited(tree_and(ONE), 1, put(24, 2**31, 4)), 1, put(20, 2**31, 4)), "members overlap"),
    "elsewhere": (edited(tree_and(ONE), 1, put(42, 2**31, 4)), "zip|header|magic|Truncated|EINVAL|argument"),
    "a missing member": (tree_and(ONE, tree={"a": {"$array": 0}, "b": {"$array": 1}}), "names member 1 where None is next"),
    "an unused member": (tree_and(ONE, ONE, tree={"a": {"$array": 0}}), "a member is not in the tree"),
    "a member used twice": (tree_and(ONE, tree={"a": {"$array": 0}, "b": {"$array": 0}}), "names member 0 where None is next"),
    "members out of order": (tree_and(ONE, ONE, tree={"a": {"$array": 1}, "b": {"$array": 0}}), "names member 1 where 0 is next"),
    "a negative member": (tree_and(ONE, tree={"a": {"$array": -1}}), "names member -1"),
    "a boolean member": (tree_and(ONE, ONE, tree={"a": {"$array": False}}), "does not go with"),
    "an unknown tag": (tree_and(tree={"a": {"$set": []}}), "'.set' does not go with its content"),
    "a tag in company": (tree_and(tree={"a": {"$int": "0x1", "b": 2}}), "a tag has company"),
    "a decimal int": (tree_and(tree={"a": {"$int": "12"}}), "does not go with"),
    "no int": (tree_and(tree={"a": {"$int": "0x_1"}}), "does not go with"),
    "a finite float": (tree_and(tree={"a": {"$float": "1.5"}}), "does not go with"),
    "a list as float": (tree_and(tree={"a": {"$float": ["nan"]}}), "does not go with"),
    "a tuple of a dict": (tree_and(tree={"a": {"$tuple": {}}}), "does not go with"),
    "a tuple of a tuple": (tree_and(tree={"a": {"$tuple": {"$tuple": []}}}), "does not go with"),
    "a list of another type": (tree_and(npy(np.ones(3, np.float32)), tree={"a": {"$list": 0}}), "does not go with"),
    "a list of two dimensions": (tree_and(npy(np.ones((3, 3))), tree={"a": {"$list": 0}}), "does not go with"),
    "a range of floats": (tree_and(tree={"a": {"$range": [0, 1.5, 1]}}), "a range of other than int"),
    "a range of booleans": (tree_and(tree={"a": {"$range": [0, True, 1]}}), "a range of other than int"),
    "a range of lists": (tree_and(tree={"a": {"$range": [[], [], []]}}), "a range of other than int"),
    "a range of two": (tree_and(tree={"a": {"$range": [0, 1]}}), "does not go with"),
    "a range without step": (tree_and(tree={"a": {"$range": [0, 1, 0]}}), "zero"),
    "a list at the root": (tree_and(tree=[1]), "the tree is not a dict"),
    "a tuple at the root": (tree_and(tree={"$tuple": []}), "the tree is not a dict"),
    "an array at the root": (tree_and(ONE, tree={"$array": 0}), "the tree is not a dict"),
    "a key twice": (tree_and(tree=b'{"a":1,"a":2}'), "a key appears twice"),
    "a bare NaN": (tree_and(tree=b'{"a":NaN}'), "NaN is not JSON"),
    "no JSON": (tree_and(tree=b"{"), "Expecting|property name"),
    "no text": (tree_and(tree=b'{"a":"\xff"}'), "codec"),
    "very deep": (tree_and(tree=NESTED), "recursion|too deep"),
    "too deep": (tree_and(tree={"a": json.loads("[" * 70 + "{}" + "]" * 70)}), "too deep"),
    "very many digits": (tree_and(tree=b'{"a":' + b"9" * 5000 + b"}"), "digits"),
    "an array without header": (tree_and(b""), "the header of an array"),
    "an array without magic": (tree_and(ONE[1:]), "the header of an array"),
    "another version of arrays": (tree_and(npy(np.ones(3), version=(2, 0))), "the header of an array"),
    "a wrong shape": (tree_and(shaped("(1000000000000,)")), "the shape of an array"),
    "a shape beyond all bounds": (tree_and(shaped(f"({10**18}, {10**18}, 0)")), "array is too big|dimension|too large"),
    "a negative shape": (tree_and(shaped("(-1,)") + bytes(8)), "the header of an array"),
    "a shape that is short": (tree_and(ONE.replace(b"(3,)", b"(2,)")), "the shape of an array"),
    "65 dimensions": (tree_and(shaped("(" + "1, " * 65 + ")") + bytes(8)), "dimension"),
    "a shape to evaluate": (tree_and(shaped("(9**9**9,)")), "the header of an array"),
    "Fortran order": (tree_and(shaped("(1, 1)", order="True") + bytes(8)), "the header of an array"),
    "objects": (tree_and(shaped("(1,)", "|O") + bytes(8)), "the header of an array"),
    "words": (tree_and(shaped("(1,)", "<U2") + bytes(8)), "the header of an array"),
    "wide floats": (tree_and(shaped("(1,)", "<f16") + bytes(16)), "the type of an array"),
    "no type": (tree_and(shaped("(1,)", "<f3") + bytes(3)), "the type of an array"),
    "a boolean 2": (tree_and(shaped("(2,)", "|b1") + b"\1\2"), "a boolean that is neither"),
    "the front is cut off": (sealed(content_of(tree_and(ONE))[40:]), "zip|start|argument|seek"),
    "the middle is cut out": (sealed(content_of(tree_and(ONE))[:150] + content_of(tree_and(ONE))[250:]), "CRC|zip|magic|argument|seek"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name, tmp_path):
    data, reason = HOSTILE[name]
    (tmp_path / "a").write_bytes(data)
    before = (
        r"^(data|path) must be as checkpoint\.write makes it, got .* Its checksum fits and its contents do not \(.*"
    )
    for call in (lambda: checkpoint.unpack(data), lambda: checkpoint.read(tmp_path / "a")):
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=f"{before}({reason}).*\\): leave it alone\\.$"):
                call()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 4_000_000 + 64 * len(data)


def test_the_hostile_archives_would_do_if_they_were_right():
    assert same(checkpoint.unpack(tree_and(ONE, tree={"a": {"$array": 0}})), {"a": np.arange(3.0)})
    assert checkpoint.unpack(archive([("cero_alloc.json", "{}")])) == {}
    assert checkpoint.unpack(tree_and(tree={"a": {"$int": "-0xff"}})) == {"a": -255}
    assert checkpoint.unpack(tree_and(shaped("(2,)", "|b1") + b"\1\0"))["0"].tolist() == [True, False]


def mutated(data, other, rng):
    """Return data with one to three kinds of damage."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8, 40))
        noise = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length), b"9" * length))
        kind = rng.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + length] = noise
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = noise
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            data[at:] = other[rng.randrange(len(other) + 1) :]
        else:
            data[at : at + length] = other[at : at + length]
    return bytes(data)


def members_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        return [(info.filename, zipped.read(info)) for info in zipped.infolist()]


def untouched(rng):
    """Return damaged bytes with the old checksum."""
    return mutated(checkpoint.pack(SMALL), checkpoint.pack(OTHER), rng)


def resealed(rng):
    """Return damaged bytes with a new checksum, so that only the archive is wrong."""
    first, second = (content_of(checkpoint.pack(state)) for state in (SMALL, OTHER))
    return sealed(mutated(first, second, rng))


def rebuilt(rng):
    """Return a well-formed archive of damaged members."""
    first, second = members_of(checkpoint.pack(SMALL)), members_of(checkpoint.pack(OTHER))
    i = rng.randrange(len(first))
    text = first[i][1]
    # Mostly in the description and the headers: every byte after them is a valid part of a number.
    split = len(text) if i == 0 else min(len(text), 128)
    first[i] = (first[i][0], mutated(text[:split], second[i][1][:128], rng) + text[split:])
    return archive(first)


@pytest.mark.parametrize("damage", [untouched, resealed, rebuilt])
def test_fuzz(damage):
    rng = random.Random(f"{damage.__name__} {scaled(0, 1)}")
    refused = 0
    states = {checkpoint.pack(state): state for state in (SMALL, OTHER)}
    n = scaled(300, 6000)
    tracemalloc.start()
    try:
        for _ in range(n):
            data = damage(rng)
            tracemalloc.reset_peak()
            before, start = tracemalloc.get_traced_memory()[0], time.process_time()
            try:
                found = checkpoint.unpack(data)
            except ValueError:
                found = None
                refused += 1
            assert tracemalloc.get_traced_memory()[1] - before < 1_500_000 + 64 * len(data)
            assert time.process_time() - start < 2.0
            if damage is untouched:
                assert same(found, states[data]) if data in states else found is None
            elif found is not None:
                assert same(checkpoint.unpack(checkpoint.pack(found)), found)
    finally:
        tracemalloc.stop()
    assert n / 2 < refused
    assert damage is untouched or refused < n  # some damaged files are read, so the parser was reached


# ------------------------------------------------------------------ writes that fail


def names(folder):
    return sorted(os.listdir(folder))


@pytest.fixture
def old(tmp_path):
    """Return a file that holds SMALL."""
    file = tmp_path / "state"
    checkpoint.write(file, SMALL, durable=False)
    return file


def unharmed(file):
    return names(file.parent) == [file.name] and same(checkpoint.read(file), SMALL)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fsync", "replace", "fstat"])
def test_a_call_that_fails(call, error, old, monkeypatch):
    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, call, fail)
        with pytest.raises(type(error)):
            checkpoint.write(old, OTHER)
    assert unharmed(old)
    checkpoint.write(old, OTHER)
    assert same(checkpoint.read(old), OTHER)


class Full(io.FileIO):
    """A file on a disk that fills up after some writes, in the middle of one."""

    def __init__(self, path, left):
        super().__init__(path, "x+b")
        self.left = left

    def write(self, data):
        self.left -= 1
        if self.left == -1:
            return super().write(bytes(data)[: len(data) // 2])
        if self.left < -1:
            raise OSError(errno.ENOSPC, "full")
        return super().write(data)


def test_a_full_disk(old, monkeypatch):
    state = {"small": np.ones(3), "large": np.arange(400_000.0), "turned": np.arange(400_000.0)[::-1]}
    for left in range(100):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "open", lambda path, _, n=left: io.BufferedRandom(Full(path, n)), raising=False)
            try:
                checkpoint.write(old, state)
                break
            except OSError as error:
                number = error.errno
        assert number == errno.ENOSPC
        assert unharmed(old)
    assert 8 < left < 99
    assert same(checkpoint.read(old), state)


def test_a_file_size_limit(old):
    resource = pytest.importorskip("resource", reason="no limits here")
    size, limits = len(checkpoint.pack(OTHER)), resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in range(1, size, 97):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            with pytest.raises(OSError, match="large"):
                checkpoint.write(old, OTHER)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert unharmed(old)


def test_order_of_the_steps(old, monkeypatch):
    steps = []

    def fsync(handle):
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")

    replace = os.replace
    monkeypatch.setattr(checkpoint.os, "fsync", fsync)
    monkeypatch.setattr(checkpoint.os, "replace", lambda *paths: (steps.append("replace"), replace(*paths)))
    checkpoint.write(old, OTHER)
    assert steps == (["file", "replace", "folder"] if os.name == "posix" else ["file", "replace"])
    steps.clear()
    checkpoint.write(old, OTHER, durable=False)
    assert steps == ["replace"]


@pytest.mark.skipif(os.name != "posix", reason="folders are not brought to the disk here")
@pytest.mark.parametrize(("number", "raised"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced(number, raised, old, monkeypatch):
    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, "no")

    monkeypatch.setattr(checkpoint.os, "fsync", fsync)
    if raised:
        with pytest.raises(OSError, match="no"):
            checkpoint.write(old, OTHER)
    else:
        checkpoint.write(old, OTHER)
    assert same(checkpoint.read(old), OTHER)  # the new file is in place nevertheless
    assert names(old.parent) == [old.name]


@pytest.mark.skipif(os.name != "posix", reason="permissions are another matter here")
def test_permissions_follow_the_umask(tmp_path):
    file = tmp_path / "state"
    for mask, mode in ((0o027, 0o640), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            checkpoint.write(file, SMALL)
        finally:
            os.umask(before)
        assert stat.S_IMODE(file.stat().st_mode) == mode


def test_a_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    file, link = tmp_path / "disk" / "state", tmp_path / "latest"
    try:
        link.symlink_to(file)
    except OSError:
        pytest.skip("no symbolic links here")
    for state in (SMALL, OTHER):  # at first the link points to nothing
        checkpoint.write(link, state)
        assert link.is_symlink()
        assert same(checkpoint.read(file), state)
    assert (names(tmp_path), names(tmp_path / "disk")) == (["disk", "latest"], ["state"])


def test_a_path_without_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.write("state", SMALL)
    assert unharmed(tmp_path / "state")


def test_leftovers_are_deleted_once_they_are_old(old):
    folder, mark = old.parent, "0123456789abcdef"
    ours, fresh = f".state.{mark}.tmp", f".state.{mark[::-1]}.tmp"
    others = [
        f".state2.{mark}.tmp",
        f".state.{mark}0.tmp",
        f".stateX{mark}.tmp",
        f"state.{mark}.tmp",
        ".state.tmp",
        f".state.a.{mark}.tmp",
    ]
    for name in (ours, fresh, *others):
        (folder / name).write_bytes(b"x")
        age = 60 if name == fresh else 3700
        os.utime(folder / name, (time.time() - age,) * 2)
    (folder / f".state.{'a' * 16}.tmp").mkdir()
    os.utime(folder / f".state.{'a' * 16}.tmp", (0, 0))
    checkpoint.write(old, OTHER)
    assert names(folder) == sorted(["state", fresh, *others, f".state.{'a' * 16}.tmp"])


def test_memory_stays_small(tmp_path):
    file = tmp_path / "state"
    array = np.arange(2_000_000.0).reshape(1000, -1)
    tracemalloc.start()
    try:
        for view in (array, array.T, array[:, ::-1], array.astype(">f8")):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            checkpoint.write(file, {"a": view}, durable=False)
            assert tracemalloc.get_traced_memory()[1] - before < 6_000_000  # 16 MB are written
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        checkpoint.read(file)
        assert tracemalloc.get_traced_memory()[1] - before < 16_000_000 + 6_000_000
    finally:
        tracemalloc.stop()
