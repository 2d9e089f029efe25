"""What people read runs: docstrings, README and the pages of the documentation."""

import doctest
import importlib
import inspect
import re
import sys
import tomllib
from pathlib import Path

import pytest

import cero_alloc
import gallery
from helpers.jit import long_runs
from helpers.modules import MODULES

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"^```(python|pycon)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
NOT_RUN: dict[str, str] = {}  # name of a page whose blocks cannot run here: the reason
PAGES = [
    pytest.param(page, marks=long_runs) if page == gallery.PAGE else page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if CODE.search(page.read_text()) and page.name not in NOT_RUN
]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


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
def test_code_blocks_run(page, tmp_path, monkeypatch, capsys):
    """A page's blocks run in order and share their names; those with prompts also print what stands there."""
    monkeypatch.chdir(tmp_path)
    text, scope = page.read_text(), {}
    for block in CODE.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        if block[1] == "python":
            exec(compile("\n" * line + block[2], page.name, "exec"), scope)
            continue
        session = doctest.DocTestParser().get_doctest(block[2], scope, page.name, str(page), line)
        report = []
        result = doctest.DocTestRunner().run(session, out=report.append, clear_globs=False)
        assert result.attempted > 0
        assert result.failed == 0, "".join(report)
        scope.update(session.globs)


def test_gallery_shows_every_figure_and_its_pictures_are_small():
    from cero_alloc import plotting

    blocks = [block for block in gallery.BLOCK.finditer(gallery.PAGE.read_text()) if block["picture"]]
    shown = {re.search(r"ax = plotting\.(plot_\w+)", block["code"])[1]: block["picture"] for block in blocks}
    assert set(shown) == {name for name in plotting.__all__ if name.startswith("plot_")}
    folder = gallery.PAGE.parent / "images" / "gallery"
    assert {gallery.PAGE.parent / picture for picture in shown.values()} == set(folder.iterdir())
    assert max(file.stat().st_size for file in folder.iterdir()) < 60_000


def test_gallery_command_draws_where_the_page_looks(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nfrom cero_alloc import plotting\n```\n"
        "```python\nax = plotting.plot_epochs([1, 2], {'even': [[2.0, 1.0]]})\n```\n\n![Two points](pictures/one.png)\n"
    )
    monkeypatch.setattr(gallery, "PAGE", page)
    assert gallery.main(["--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "pictures" / "one.png").read_bytes().startswith(b"\x89PNG")
    assert "one.png" in capsys.readouterr().out


def test_readme_has_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert text.count('pip install -e ".[plot]" && python benchmarks/regret_sim.py\n') == 1
    assert text.count('pip install -e ".[test]" && pytest\n') == 1


def test_version_is_stated_once_and_the_changelog_has_it():
    with (ROOT / "pyproject.toml").open("rb") as handle:
        project = tomllib.load(handle)["project"]
    assert project["version"] == cero_alloc.__version__
    assert f"## {cero_alloc.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert {re.split("[>=<]", entry)[0] for entry in project["dependencies"]} == {"numpy", "scipy", "numba"}
