"""Every public name says what it takes and gives, in which shape and unit, what it raises, and where it comes from.

The rules go by annotations: an array needs a shape, a number a word that says what it counts or measures.
"""

import ast
import builtins
import dataclasses
import importlib
import inspect
import re
import textwrap
import typing
from functools import cache
from pathlib import Path

import pytest
from numpydoc.docscrape import NumpyDocString

from cero_alloc.baselines._base import Run, VisitRun

DOCS = Path(__file__).parents[2] / "docs"
SUBMODULES = ("baselines", "simulation", "replay", "plotting", "sharding", "checkpoint")
MODULES = ["cero_alloc", *(f"cero_alloc.{name}" for name in SUBMODULES)]

UNITS = re.compile(
    r"\b(rollouts?|tokens?|rounds?|steps?|visits?|waves?|groups?|prompts?|rows?|lines?|cells?|bins?|ranks?|resamplings"
    r"|units?|equal shares?|shares?|percent|utility|variance|probability|standard (error|deviation)s?|normalised"
    r"|pseudo-rollouts|nats|log-odds|logits?|success|(pass|mixed-group) rates?|rewards?|p \(1 - p\))\b",
    re.IGNORECASE,
)
SOURCES = re.compile(r"arXiv \d{4}\.\d{5}|(Claim|Theorem|Algorithm)s? \d")

# Names that stand for no formula, so that there is no source to name.
NO_FORMULA = {
    "files": {
        "pack",
        "read",
        "unpack",
        "write",
        "load_counts",
        "read_log",
        "BadLine",
        "Reading",
        "RewardScale",
        "RolloutLog",
    },
    "interfaces": {"Baseline", "Policy", "Waves", "in_process", "default_policies"},
    "given or drawn rates": {"Pool", "drifting_pool", "epoch_batches", "known_bank", "static_pool"},
    "an account": {"Audit", "Balance"},
    "a warning": {"AllocationWarning"},
    "a list with repeats": {"repeat"},
    "pictures of what results define": set(importlib.import_module("cero_alloc.plotting").__all__),
}
# Callables that check nothing of what they are given, and so document no error.
CHECKS_NOTHING = {
    "the methods of a protocol": {"Policy.allocate", "Policy.update"},
    "a flag that is only looked at": {"Allocator.metrics"},
    "messages between an allocator and its shards": {"PoolShard.deal", "PoolShard.outstanding", "PoolShard.update"},
    "what the package itself made": {"RolloutLog.of_rows"},
}


# ---------------------------------------------------------------- what is public


def function_of(item):
    """The function behind a method, a property or a decorated function."""
    return inspect.unwrap(item.fget if isinstance(item, property) else getattr(item, "__func__", item))


def is_member(member):
    return isinstance(member, (property, classmethod, staticmethod)) or inspect.isfunction(member)


def is_protocol(cls):
    return getattr(cls, "_is_protocol", False)


def is_record(cls):
    """Whether a class only holds what it is given, as results do."""
    return issubclass(cls, tuple) or (dataclasses.is_dataclass(cls) and not hasattr(cls, "__post_init__"))


EXPORTS = [
    (f"{module}.{name}", getattr(importlib.import_module(module), name))
    for module in MODULES
    for name in importlib.import_module(module).__all__
]
CLASSES = {label: item for label, item in EXPORTS if inspect.isclass(item)}
FUNCTIONS = {label: item for label, item in EXPORTS if inspect.isfunction(item)}
MEMBERS = {}  # once each, by the class that defines it
for _cls in CLASSES.values():
    for _name in dir(_cls):
        _member = inspect.getattr_static(_cls, _name)
        if not _name.startswith("_") and is_member(_member):
            MEMBERS[function_of(_member).__qualname__] = _member
METHODS = {label: member for label, member in MEMBERS.items() if not isinstance(member, property)}
PROPERTIES = {label: member for label, member in MEMBERS.items() if isinstance(member, property)}


def each(*tables):
    table = {label: item for table in tables for label, item in table.items()}
    return pytest.mark.parametrize("item", table.values(), ids=table.keys())


# ---------------------------------------------------------------- what they say


def doc_of(item):
    return inspect.cleandoc((item if inspect.isclass(item) else function_of(item)).__doc__ or "")


@cache
def sections(item):
    return NumpyDocString(doc_of(item))


def parameters(item):
    """The annotations by parameter, without the object itself; a warning has none of its own."""
    if inspect.isclass(item) and issubclass(item, Warning):
        return {}
    signature = inspect.signature(item if inspect.isclass(item) else function_of(item))
    return {name: str(p.annotation) for name, p in signature.parameters.items() if name not in ("self", "cls")}


def described(item):
    """(name, type, description) of the parameters, one entry per name; the fields of a record are its attributes."""
    doc = sections(item)
    return [
        (name.strip(), entry.type, " ".join(entry.desc))
        for entry in doc["Parameters"] + doc["Attributes"]
        for name in entry.name.split(",")
    ]


def is_array(annotation):
    return re.search(r"(Float|Int|Tie)Array|NDArray|ArrayLike", annotation) is not None


def is_quantity(annotation):
    return is_array(annotation) or re.search(r"\b(int|float|SupportsIndex)\b", annotation) is not None


# ---------------------------------------------------------------- the rules


@each(CLASSES, FUNCTIONS, MEMBERS)
def test_everything_has_a_docstring(item):
    assert doc_of(item)


@each({label: item for label, item in (CLASSES | FUNCTIONS | METHODS).items() if not is_protocol(item)})
def test_parameters_are_those_of_the_signature(item):
    taken = parameters(item)
    names = [name for name, _, _ in described(item)]
    if names and names[-1] == "**run":  # the shared arguments, by name
        shared = VisitRun if "rollouts_per_visit" in taken or taken.get("run") == "Unpack[VisitRun]" else Run
        told = described(item)[-1][2] + " ".join(names)
        assert all(re.search(rf"\b{name}\b", told) for name in typing.get_type_hints(shared))
        assert [name for name in taken if name in names] == names[:-1]
    else:
        assert [name.lstrip("*") for name in names] == list(taken)
    for name, kind, text in described(item):
        assert text, name
        assert kind or name.startswith("**"), name
    assert not [
        entry for entry in sections(item)["Attributes"] if "," in entry.name
    ]  # the pages would show one of them


@each(CLASSES, FUNCTIONS, METHODS)
def test_parameters_have_shapes_and_units(item):
    taken = parameters(item)
    for name, kind, text in described(item):
        if is_array(taken.get(name, "")):
            assert "shape" in kind, name
        if is_quantity(taken.get(name, "")) and name != "seed":
            assert UNITS.search(f"{kind}. {text}"), name


@each(FUNCTIONS, METHODS)
def test_returns_have_shapes_and_units(item):
    annotation = str(inspect.signature(function_of(item)).return_annotation)
    returned = sections(item)["Returns"]
    assert bool(returned) == (annotation != "None")
    for entry in returned:
        text = " ".join(entry.desc)
        assert "array" not in entry.type or "shape" in entry.type
        assert not is_quantity(entry.type.replace("array", "ArrayLike")) or UNITS.search(f"{entry.name}: {text}")


@each(PROPERTIES)
def test_properties_have_shapes_and_units(item):
    annotation = str(inspect.signature(function_of(item)).return_annotation)
    assert not is_array(annotation) or "shape (" in doc_of(item)
    assert not is_quantity(annotation) or UNITS.search(doc_of(item))


@each(
    {label: item for label, item in CLASSES.items() if not (is_protocol(item) or is_record(item))}, FUNCTIONS, METHODS
)
def test_errors_are_named(item):
    raised = sections(item)["Raises"]
    for entry in raised:
        assert entry.desc
        for name in entry.type.split(","):
            assert issubclass(getattr(builtins, name.strip()), Exception)
    name = item.__qualname__ if inspect.isclass(item) else function_of(item).__qualname__
    if any(name in names for names in CHECKS_NOTHING.values()):
        assert not raised
        assert not checks(function_of(item))
    else:
        assert raised or not parameters(item)


def checks(function):
    """Whether the body of a function raises, or calls one of the package's checks."""
    body = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = {node.func.id for node in ast.walk(body) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    known = {
        name for name in calls if getattr(function.__globals__.get(name), "__module__", "") == "cero_alloc._checks"
    }
    return bool(known) or any(isinstance(node, ast.Raise) for node in ast.walk(body))


@each(CLASSES, FUNCTIONS, {label: item for label, item in METHODS.items() if not label.startswith("Policy.")})
def test_has_an_example(item):
    assert sections(item)["Examples"]
    assert ">>> " in doc_of(item)


@each(CLASSES, FUNCTIONS)
def test_source_is_named(item):
    exempt = any(item.__name__ in names for names in NO_FORMULA.values())
    assert exempt or sections(item)["References"] or SOURCES.search(doc_of(item))


@pytest.mark.parametrize("item", importlib.import_module("cero_alloc.baselines").PEERS, ids=lambda item: item.__name__)
def test_a_published_rule_names_its_publication(item):
    assert re.search(r"arXiv \d{4}\.\d{5}|\(19\d\d\)", " ".join(sections(item)["References"]))


def test_exceptions_exist():
    names = {label.rpartition(".")[2] for label, _ in EXPORTS}
    assert set().union(*NO_FORMULA.values()) <= names
    assert set().union(*CHECKS_NOTHING.values()) <= names | set(METHODS)


# ---------------------------------------------------------------- where the pages show them

DIRECTIVE = re.compile(
    r"^\.\. (currentmodule|automodule|autoclass|autoexception|autofunction|autodata):: (\S+)$((?:\n +:.*$)*)",
    re.MULTILINE,
)


def shown():
    """The names that the pages of the API document, and the members of their classes."""
    names, members = [], set()
    for page in sorted((DOCS / "api").glob("*.md")):
        home = ""
        for kind, name, options in DIRECTIVE.findall(page.read_text()):
            if kind in ("currentmodule", "automodule"):
                home = name
                if kind == "automodule" and ":members:" in options:
                    names += [f"{home}.{exported}" for exported in importlib.import_module(home).__all__]
                continue
            names.append(f"{home}.{name}")
            if kind == "autoclass" and ":members:" in options:
                cls = CLASSES[f"{home}.{name}"]
                members |= {
                    label for label, member in MEMBERS.items()
                    if ":inherited-members:" in options or function_of(member).__name__ in vars(cls)
                    if inspect.getattr_static(cls, function_of(member).__name__, None) is member
                }  # fmt: skip
    return names, members


def test_the_pages_show_every_public_name_once():
    names, members = shown()
    assert sorted(names) == sorted(label for label, _ in EXPORTS)
    assert members == set(MEMBERS)


def test_the_first_page_of_the_api_lists_every_public_name_once():
    tables = re.findall(
        r"currentmodule:: (\S+)\n\.\. autosummary::\n   :nosignatures:\n\n((?:   \w+\n)+)",
        (DOCS / "api.md").read_text(),
    )
    assert sorted(f"{home}.{name}" for home, names in tables for name in names.split()) == sorted(
        label for label, _ in EXPORTS
    )
