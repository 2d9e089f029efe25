"""The pages that are read first are short and plain; the run prints their scores (``pytest -s tests/project/test_words.py``)."""

import re
from pathlib import Path

import pytest

from helpers.words import CODE, FENCE, prose, read, sentences, syllables

ROOT = Path(__file__).parents[2]
PLAIN = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("quickstart", "choosing", "replay", "trainers")),
]
LONGEST_SENTENCE = 35  # words
LEAST_EASE = 45  # Flesch reading ease; 60 and more is plain English


SYLLABLES = {
    1: "rate learned files takes prompt's the",
    2: "reaches table dated prices create being nation equal million",
    3: "various ratio gradient variance",
    4: "allocator single-rollout",
}


@pytest.mark.parametrize(("count", "words"), SYLLABLES.items())
def test_syllables(count, words):
    assert {word: syllables(word) for word in words.split()} == dict.fromkeys(words.split(), count)


def test_prose_leaves_out_what_is_no_sentence():
    page = (
        "# Title\n\nSee [the page](docs/page.md#3), a *plain* one. It costs `n - 1`.\n\n![A picture](x.png)\n\n"
        "```python\nx = 1.\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- One item: 0.44 of it\n  goes on\n- Two"
    )
    assert sentences(prose(page)) == [
        "See the page, a plain one.", "It costs symbol.", "One item: 0.44 of it goes on", "Two"
    ]  # fmt: skip
    assert read(page).numbers == 1
    assert read("It is a cat. It sat.").ease == pytest.approx(206.835 - 1.015 * 3 - 84.6)


@pytest.mark.parametrize("page", PLAIN, ids=lambda page: page.name)
def test_pages_are_plain(page):
    found = read(page.read_text())
    longest = max(len(sentence.split()) for sentence in found.sentences)
    print(
        f"\n{page.name}: reading ease {found.ease:.1f}, {found.words} words, {found.numbers} numbers, longest {longest}"
    )
    assert found.ease > LEAST_EASE
    assert [sentence for sentence in found.sentences if len(sentence.split()) > LONGEST_SENTENCE] == []


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    found = read(text)
    assert found.words <= 700
    assert found.numbers <= 25
    assert re.search(r"\d ± \d", text) is None  # uncertainties are on the page of evidence


def test_numbers_have_a_leading_zero():
    bare = re.compile(r"(?<![\w.\])…/])\.\d.*")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = CODE.sub("", FENCE.sub("", page.read_text()))  # tables included
        assert bare.findall(text) == [], page.name
