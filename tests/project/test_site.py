"""What the site shows and where it leads: pictures, links, commands, and the names on the page of metrics."""

import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import cero_alloc
from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, ResolvingAllocator
from cero_alloc._evidence.calibration import Calibration
from cero_alloc.baselines import Uniform
from cero_alloc.integrations._figures import group_figures
from cero_alloc.integrations.leases import LeaseBook

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path: path.read_text() for path in (*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")))}
FENCE = re.compile(r"^(`{3,})([^\n]*)\n(.*?)^\1$", flags=re.DOTALL | re.MULTILINE)
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
COMMAND = r"\bpython (?:-m cero_alloc|(?:benchmarks|examples|docs)/\w+\.py)"
of_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page):
    """Return a page without its fenced blocks."""
    return FENCE.sub("", PAGES[page])


# ---------------------------------------------------------------- pictures


@of_every_page
def test_pictures_say_what_they_show(page):
    assert prose(page).count("<img") == 0, "give pictures in Markdown, with a text"
    for text, target in IMAGE.findall(prose(page)):
        assert (page.parent / target).is_file(), target
        assert len(text) >= 20, f"{target}: say what it shows"
        assert Path(target).name not in text, target


def test_every_picture_is_shown_beside_the_command_that_makes_it():
    shown = {}
    for page in PAGES:
        for _, target in IMAGE.findall(prose(page)):
            shown.setdefault((page.parent / target).resolve(), []).append(page)
    for picture in (DOCS / "images").rglob("*.png"):
        pages = shown.get(picture.resolve(), [])
        assert pages, f"{picture.name} is on no page"
        for page in pages:
            if page.parent == DOCS:
                assert re.search(COMMAND, PAGES[page]), f"{page.name} does not say what draws {picture.name}"


# ---------------------------------------------------------------- links


def anchors(page):
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    found = []
    for heading in re.findall(r"^#{1,6} (.+)$", prose(page), flags=re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return found


@of_every_page
def test_links_within_the_project_lead_somewhere(page):
    for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        if anchor:
            assert anchor in anchors(other), target


# ---------------------------------------------------------------- blocks and commands


@of_every_page
def test_every_block_is_of_a_kind_that_is_looked_after(page):
    """Python runs in test_docs.py, commands are checked below, directives are Sphinx's; the rest is no code."""
    for _, kind, _ in FENCE.findall(PAGES[page]):
        assert kind in ("python", "pycon", "bash", "", "text", "bibtex", "yaml", "toml") or kind.startswith("{"), kind
        assert not kind.startswith("{code"), f"{kind}: take a plain fence, which is run"


def commands(page):
    """Return the command lines of a page, split into words: from its blocks, and those that stand in a sentence."""
    blocks = [body for _, kind, body in FENCE.findall(PAGES[page]) if kind in ("bash", "")]
    inline = re.findall(r"`((?:python|pytest) [^`]+)`", prose(page))
    for line in "\n".join(blocks + inline).replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;|\|", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words:
                yield words


def source_of(words):
    """Return the files in which a command's options must be found; none for a program that is not the project's."""
    if words[0] == "pytest" or words[1:3] == ["-m", "pytest"]:
        for word in words[1:]:
            assert not word.startswith("tests") or (ROOT / word).exists(), words
    elif Path(words[0]).name.startswith("python"):
        if words[1:3] == ["-m", "cero_alloc"]:
            return [Path(cero_alloc.__file__).with_name("__main__.py")]
        if words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), words
            study = re.search(r"^from (studies\S+) import main$", (ROOT / words[1]).read_text(), re.M)
            if study:  # a benchmark's script only starts its study
                return [(ROOT / words[1]).parent / (study[1].replace(".", "/") + ".py")]
            return (ROOT / words[1]).parent.glob("*.py")  # a program may take its options from its neighbours
    return []


@of_every_page
def test_commands_name_files_options_and_extras_that_exist(page):
    with (ROOT / "pyproject.toml").open("rb") as handle:
        extras = tomllib.load(handle)["project"]["optional-dependencies"]
    for words in commands(page):
        for extra in re.findall(r"\.\[([\w,]+)\]", " ".join(words)):
            assert set(extra.split(",")) <= set(extras), words
        sources = [path.read_text() for path in source_of(words)]
        if sources:
            for option in (word.partition("=")[0] for word in words if word.startswith("--")):
                assert any(f'"{option}"' in source for source in sources), (option, words)


# ---------------------------------------------------------------- the page of metrics


def names_by_section():
    """Return the names in the first column of the tables of docs/metrics.md, by section."""
    sections = re.split(r"^## ", PAGES[DOCS / "metrics.md"], flags=re.MULTILINE)[1:]
    return {
        section.partition("\n")[0]: re.findall(r"^\| `([\w/]+)` \|", section, flags=re.MULTILINE)
        for section in sections
    }


def test_the_page_of_metrics_has_every_name_and_no_other(tmp_path):
    tables = names_by_section()
    report, adapters = tables.pop("The bank's own report"), tables.pop("What the adapters add")
    named = [name for names in tables.values() for name in names]
    run = {"total_budget": 64, "n_rounds": 4, "max_rollouts": 8}
    for kind in (FenchelDualAllocator, ResolvingAllocator):
        assert sorted(kind(BetaPosteriorBank(8), **run).metrics()) == sorted(named)
    rule = Uniform(BetaPosteriorBank(8), **run).metrics()
    assert sorted([*rule, *tables["The prices"]]) == sorted(named)
    fewer = Uniform(BetaPosteriorBank(8), **run).metrics(certificate=False)
    assert sorted([*fewer, *tables["The regret certificate"]]) == sorted(rule)

    book = LeaseBook(Uniform(BetaPosteriorBank(8), **run), tmp_path, timeout=1.0)
    account = [name for name in book.metrics() if name not in fewer]
    book.close()
    of_a_step = [*group_figures([], np.array([]), np.array([])), "uniform_dead_share"]
    assert sorted(adapters) == sorted([*(f"alloc/{name}" for name in of_a_step), *account])
    assert report == [field.name for field in fields(Calibration)]
