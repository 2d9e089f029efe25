"""What people read runs: docstrings, README and the pages of the documentation."""

import doctest
import importlib
import inspect
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest

import cero_alloc

ROOT = Path(__file__).parents[1]
MODULES = [module.name for module in pkgutil.walk_packages(cero_alloc.__path__, "cero_alloc.")]
PAGES = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("index", "quickstart", "choosing", "peers", "replay", "resuming", "performance")
    ),
]


@pytest.mark.parametrize("name", ["cero_alloc", *MODULES])
def test_docstring_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module)
    assert result.attempted == inspect.getsource(module).count(">>> ")  # none is overlooked
    assert result.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_everything_without_underscore_is_documented(name):
    module = importlib.import_module(name)
    for label, item in vars(module).items():
        if getattr(item, "__module__", None) != module.__name__ or label.startswith("_") or not callable(item):
            continue
        assert item.__doc__, label
        for part, member in vars(item).items() if isinstance(item, type) else ():
            if not part.startswith("_") and (callable(member) or isinstance(member, property)):
                assert getattr(member, "__doc__", None), f"{label}.{part}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert blocks
    scope = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), scope)


def test_readme_has_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert text.count('pip install -e ".[plot]" && python benchmarks/regret_sim.py\n') == 1
    assert text.count('pip install -e ".[test]" && pytest\n') == 1


def test_version_is_stated_once_and_the_changelog_knows_it():
    with (ROOT / "pyproject.toml").open("rb") as handle:
        project = tomllib.load(handle)["project"]
    assert project["version"] == cero_alloc.__version__
    assert f"## {cero_alloc.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert {re.split("[>=<]", entry)[0] for entry in project["dependencies"]} == {"numpy", "scipy", "numba"}
