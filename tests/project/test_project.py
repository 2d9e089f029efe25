"""The project's own files agree with each other: citation, change log, extras, versions of Python, lowest versions, files of a release."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

import cero_alloc

ROOT = Path(__file__).parents[2]
with (ROOT / "pyproject.toml").open("rb") as handle:
    PROJECT = tomllib.load(handle)["project"]
EXTRAS = PROJECT["optional-dependencies"]
WORKFLOWS = {file.name: file.read_text() for file in (ROOT / ".github" / "workflows").glob("*.yml")}
OWN = re.compile(r"cero-alloc\[(.*)\]")


def closure(extra):
    """Return the requirements of an extra, those of the extras that it names included."""
    for entry in EXTRAS[extra]:
        own = OWN.fullmatch(entry)
        yield from chain.from_iterable(map(closure, own[1].split(","))) if own else [entry]


def pins(text):
    """Return the versions of a command by package: ``"numpy==1.26.*"`` is 1.26 of numpy."""
    return dict(re.findall(r'"([\w-]+)==([\d.]+)\.\*"', text))


def field(text, name):
    return re.search(rf"^{name}: (.*)$", text, flags=re.MULTILINE)[1].strip('"')


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert field(text, "version") == cero_alloc.__version__
    assert field(text, "license") == PROJECT["license"]
    assert f"- name: {PROJECT['authors'][0]['name']}" in text


def test_the_citation_names_the_papers_as_the_theory_page_does():
    text, theory = (ROOT / "CITATION.cff").read_text(), (ROOT / "docs" / "theory.md").read_text()
    papers = re.findall(r'- type: article\n    title: "?(.*?)"?\n(?:.*\n)*?        value: "arXiv:(.*)"', text)
    assert len(papers) == 2
    for title, number in papers:
        assert re.search(rf"\*{re.escape(title)}\* \(\[arXiv {number}\]", theory), title


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_every_promised_python_is_tested(name):
    promised = [entry.rpartition(" ")[2] for entry in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", entry)]
    assert promised[0] == PROJECT["requires-python"].removeprefix(">=")
    (tested,) = re.findall(r"python-version: \[(.*)\]", WORKFLOWS[name])
    assert re.findall(r'"(.*?)"', tested) == promised
    assert "os: [ubuntu-latest, macos-latest, windows-latest]" in WORKFLOWS[name]


def test_extras_that_are_installed_exist():
    installs = re.compile(r'"(?:\.|\$\(ls dist/\*\.whl\))\[([\w,]+)\]|-e \.\[([\w,]+)\]')
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run", *(ROOT / "docs").glob("*.md")]
    for text in (*WORKFLOWS.values(), *(file.read_text() for file in files)):
        for quoted, bare in installs.findall(text):
            assert set((quoted or bare).split(",")) <= set(EXTRAS), (quoted, bare)
    assert all(installs.search(text) for text in WORKFLOWS.values())


def test_the_lowest_versions_that_are_promised_are_those_that_are_tested():
    bounds = dict(entry.split(">=") for entry in (*PROJECT["dependencies"], *closure("test")))
    tested = pins(WORKFLOWS["ci.yml"])
    assert tested.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert tested[name] == (bound if "." in bound else f"{bound}.0"), name
    assert pins((ROOT / "docs" / "testing.md").read_text()) == tested


def test_actions_are_pinned_and_get_no_more_than_they_need():
    for name, text in WORKFLOWS.items():
        used = re.findall(r"uses: (.*)", text)
        assert used, name
        assert [line for line in used if not re.fullmatch(r"[\w/.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []
        assert "\npermissions: {}\n" in text
        assert text.count("persist-credentials: false") == text.count("actions/checkout@")
    writes = {
        name: sorted(re.findall(r"^ +([\w-]+): write", text, flags=re.MULTILINE)) for name, text in WORKFLOWS.items()
    }
    assert writes == {"ci.yml": [], "docs.yml": ["id-token", "pages"], "release.yml": ["id-token"]}


def test_one_version_of_an_action_everywhere():
    versions = {}
    for action, version in re.findall(r"uses: (.*)@(.*)", "".join(WORKFLOWS.values())):
        versions.setdefault(action, set()).add(version)
    assert {action: found for action, found in versions.items() if len(found) > 1} == {}


def test_what_is_tested_is_published():
    needs = dict(
        re.findall(r"^  (\w+):\n(?:    .*\n)*?    needs: (\w+)$", WORKFLOWS["release.yml"], flags=re.MULTILINE)
    )
    assert needs == {"test": "build", "publish": "test"}
    publish = WORKFLOWS["release.yml"].partition("\n  publish:\n")[2]
    assert "run:" not in publish  # nothing is built after the tests
    assert "password" not in publish


def test_a_source_distribution_has_what_its_tests_read():
    manifest = (ROOT / "MANIFEST.in").read_text()
    for folder in ("tests", "benchmarks", "examples", "docs", ".ci", ".github"):
        assert f"graft {folder}\n" in manifest
    named = set(re.findall(r"^include (.*)$", manifest, flags=re.MULTILINE))
    for file in chain.from_iterable(line.split() for line in named):
        assert (ROOT / file).is_file(), file
