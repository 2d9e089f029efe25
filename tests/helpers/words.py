"""How hard a page is to read: its prose without blocks, tables, headings and targets of links, and the Flesch score."""

import re
from typing import NamedTuple

FENCE = re.compile(r"^(`{3,}|:{3,}).*?^\1$\n?", flags=re.DOTALL | re.MULTILINE)
TABLE_OR_HEADING = re.compile(r"^(\||#|---).*$", flags=re.MULTILINE)
IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
CODE = re.compile(r"`[^`]*`")  # counts as one word of two syllables
BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )")  # a paragraph, or an item of a list
WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
# "rate", "while", "learned", "takes", "files"; not "table", "dealt", "dated", "prices", "reaches".
SILENT = re.compile(r"(?:[^aeiouyl]e|[aeiouy]le|[^aeiouytdl]ed|[aeiouyl]led|[^aeiouysxzcglh]es|[aeiouy]les)$")
# "various", "gradient", "ratio", "actual", "being", "create"; not "nation", "million", "friend", "equal".
HIATUS = re.compile(r"(?<![tcsgl])(?<!fr)i(?=[aou]|e[nt])|(?<=t)io$|(?<![qg])u(?=[ao])|[aeiouy](?=ing$)|(?<=cr)e(?=a)")
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?")


class Reading(NamedTuple):
    """Words, numbers, sentences and the score of a page's prose."""

    words: int
    numbers: int
    sentences: list[str]
    ease: float


def prose(text: str) -> str:
    """Return a page without what is not read as sentences."""
    text = IMAGE.sub("", TABLE_OR_HEADING.sub("", FENCE.sub("\n", text)))
    return re.sub(r"[*_]{1,2}(?=\S)|(?<=\S)[*_]{1,2}", "", LINK.sub(r"\1", text))


def sentences(text: str) -> list[str]:
    """Return the sentences of prose; a list's item and a paragraph end one."""
    found = []
    for block in BLOCK.split(CODE.sub("symbol", text)):
        parts = re.split(r"(?<=[.!?])\s+(?=\S)", re.sub(r"^\s*(?:[-*]|\d+\.) ", "", block).strip())
        found += [" ".join(part.split()) for part in parts if WORD.search(part)]
    return found


def syllables(word: str) -> int:
    """Return about how many syllables an English word has: groups of vowels, less those that are silent."""
    return sum(map(_part, word.lower().split("-")))


def _part(word: str) -> int:
    count = len(re.findall(r"[aeiouy]+", word))
    count -= len(SILENT.findall(word))
    count += len(HIATUS.findall(word))
    return max(1, count)


def read(text: str) -> Reading:
    """Return what a page's prose amounts to."""
    plain = prose(text)
    found = sentences(plain)
    words = [word for sentence in found for word in WORD.findall(sentence)]
    per_sentence = len(words) / len(found)
    per_word = sum(map(syllables, words)) / len(words)
    ease = 206.835 - 1.015 * per_sentence - 84.6 * per_word
    return Reading(len(plain.split()), len(NUMBER.findall(CODE.sub("symbol", plain))), found, ease)
