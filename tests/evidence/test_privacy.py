"""The private parts of a bank and of its rows are used in their own files alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    file
    for folder in ("src", "tests", "benchmarks", "examples")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if file.parent.name != "_evidence"
]
BANKS = {"bank", "evidence"}


def named(node):
    """Return the last name of an expression: bank for bank, self.bank and run.bank."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def private_uses(text):
    """Return the lines on which an underscore attribute of a bank or its evidence is read or called."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and (named(node.value) in BANKS or named(node.value) == "BetaPosteriorBank")
    ]


def test_private_uses_are_found():
    assert private_uses("self.bank._values(None)") == ["line 1: self.bank._values"]
    assert private_uses("x = run.bank.evidence._powers; BetaPosteriorBank._of") != []
    assert private_uses("bank.evidence.values(None); bank.__class__; self._bank") == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_other_file_touches_the_private_parts_of_a_bank(file):
    assert private_uses(file.read_text()) == []
