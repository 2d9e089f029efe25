"""Verifiable questions for a small language model: families of reasoning-gym in bands of difficulty, and their graders.

A seed draws three sets of different questions, for training, held out and for the warm start, each with equal parts of
every family and band. The bands are set by the sizes of the numbers or words, not by a model's success.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from studies.learning.llm_decoder import Shape
from studies.learning.llm_model import CLOSING, OPENING

IntArray = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BANDS = ("easy", "middle", "hard", "hardest")
MOST_TRIES = 40  # questions drawn per question that is kept, before a level counts as too small
APART = 10_000_019  # between the seeds of reasoning-gym: question i of seed s is question 0 of seed s + i


def _sums(terms: int, digits: int) -> dict[str, Any]:
    return {"min_terms": terms, "max_terms": terms, "min_digits": digits, "max_digits": digits}


def _signed(terms: int, digits: int) -> dict[str, Any]:
    return {**_sums(terms, digits), "operators": ("+", "-")}


def _letters(fewest: int, most: int) -> dict[str, Any]:
    return {"min_word_len": fewest, "max_word_len": most}


def _solve(terms: int, value: int) -> dict[str, Any]:
    return {"min_terms": 2, "max_terms": terms, "max_value": value}


# What reasoning-gym is asked for in each band; every level has a thousand different questions, or more.
FAMILIES: dict[str, tuple[dict[str, Any], ...]] = {
    "basic_arithmetic": (_signed(2, 1), _signed(3, 1), _signed(3, 2), _signed(5, 3)),
    "chain_sum": (_sums(2, 2), _sums(3, 2), _sums(3, 3), _sums(4, 4)),
    "simple_equations": (_solve(2, 6), _solve(2, 12), _solve(2, 50), _solve(4, 1000)),
    "spell_backward": (_letters(3, 3), _letters(4, 4), _letters(5, 6), _letters(9, 10)),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One question.

    Attributes
    ----------
    family : str
        Of reasoning-gym.
    band : int
        Index into :data:`BANDS`.
    entry : dict
        As reasoning-gym gives it: "question", "answer", "metadata".
    """

    family: str
    band: int
    entry: dict[str, Any]

    def right(self, text: str) -> bool:
        """Tell whether the grader gives this answer all points, 1; parts of them count as nothing.

        Not 1 or more: the grader of spelled words adds up letters, and exceeds 1 by rounding where more letters follow.
        """
        return bool(_grader(self.family)(answer=text.strip(), entry=self.entry) == 1.0)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Questions for training, held out, and for the warm start, and the families that they are from."""

    train: int
    held: int
    warm: int
    families: tuple[str, ...] = tuple(FAMILIES)

    def of_each(self, levels: int) -> list[IntArray]:
        """Return how many each level gives to each set, as evenly as can be; three arrays, shape (levels,)."""
        parts = (self.train, self.held, self.warm)
        return [np.diff(np.arange(levels + 1) * n // levels) for n in parts]


def draw(seed: int, sizes: Sizes) -> tuple[list[Problem], list[Problem], list[Problem]]:
    """Return the questions of a seed: for training, held out, for the warm start. No two are alike.

    Raises
    ------
    ValueError
        Where a level has too few different questions.
    """
    from reasoning_gym.factory import create_dataset

    levels = [(family, band) for band in range(len(BANDS)) for family in sizes.families]
    shares = sizes.of_each(len(levels))
    found: tuple[list[Problem], list[Problem], list[Problem]] = ([], [], [])
    seen: set[str] = set()
    for place, (family, band) in enumerate(levels):
        wanted = [int(share[place]) for share in shares]
        total = sum(wanted)
        source = create_dataset(
            family, seed=APART * (1 + seed * len(levels) + place), size=MOST_TRIES * total, **FAMILIES[family][band]
        )
        own: list[Problem] = []
        for i in range(MOST_TRIES * total):
            if len(own) == total:
                break
            entry = source[i]
            # A grader that ignores case would accept several spellings, of which the exact probability knows one.
            if entry["question"] not in seen and entry["answer"] == entry["answer"].lower():
                seen.add(entry["question"])
                own.append(Problem(family, band, entry))
        if len(own) < total:
            raise ValueError(f"{family} must have {total} different {BANDS[band]} questions, got {len(own)}.")
        start = 0
        for part, n in zip(found, wanted, strict=True):
            part += own[start : start + n]
            start += n
    shuffled = random.Random(seed)
    for part in found:
        shuffled.shuffle(part)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Questions as tokens.

    Attributes
    ----------
    problems : tuple of Problem
        One per prompt.
    tokens : ndarray of int64, shape (n_prompts, width)
        Blanks in front.
    blanks : ndarray of int64, shape (n_prompts,)
        How many.
    answers : ndarray of int64, shape (n_prompts, length)
        The right answer as reasoning-gym words it; the token that ends it fills it up.
    """

    problems: tuple[Problem, ...]
    tokens: IntArray
    blanks: IntArray
    answers: IntArray

    @property
    def bands(self) -> IntArray:
        """Band of each prompt, shape (n_prompts,)."""
        return np.array([problem.band for problem in self.problems])


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """The prompts of a seed, and what is needed to read answers."""

    train: Prompts
    held: Prompts
    warm: Prompts
    shape: Shape
    tokenizer: Any

    def right(self, rows: IntArray, answers: IntArray) -> Bools:
        """Grade answers, (rollouts, length), to the training prompts ``rows``; one without an end is wrong."""
        ended = (answers == self.shape.stop).any(axis=1)
        texts = [self.text(answer) if done else None for answer, done in zip(answers, ended, strict=True)]
        problems = self.train.problems
        return np.array([
            text is not None and problems[row].right(text) for row, text in zip(rows, texts, strict=True)
        ], dtype=bool)  # fmt: skip

    def text(self, answer: IntArray) -> str:
        """Return an answer's text up to its end."""
        tokens = answer.tolist()
        if self.shape.stop in tokens:
            tokens = tokens[: tokens.index(self.shape.stop)]
        return str(self.tokenizer.decode(tokens))


def world(seed: int, sizes: Sizes, tokenizer: Any) -> World:
    """Draw the prompts of a seed and encode them, in rows that fit the longest."""
    parts = draw(seed, sizes)
    stop = int(tokenizer.eos_token_id)
    read = [[_encode(tokenizer, OPENING + problem.entry["question"] + CLOSING) for problem in part] for part in parts]
    told = [[[*_encode(tokenizer, problem.entry["answer"]), stop] for problem in part] for part in parts]
    shape = Shape(_longest(read), _longest(told), stop)
    prompts = [
        Prompts(
            tuple(part),
            np.array([[stop] * (shape.width - len(ids)) + ids for ids in asked], dtype=np.int64),
            np.array([shape.width - len(ids) for ids in asked], dtype=np.int64),
            np.array([ids + [stop] * (shape.length - len(ids)) for ids in answers], dtype=np.int64),
        )
        for part, asked, answers in zip(parts, read, told, strict=True)
    ]
    return World(*prompts, shape, tokenizer)


def by_band(rates: npt.NDArray[np.float64], prompts: Prompts) -> dict[str, float]:
    """Return the mean of a rate, shape (n_prompts,), in each band."""
    return {band: float(rates[prompts.bands == i].mean()) for i, band in enumerate(BANDS)}


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _longest(parts: Iterable[Sequence[Sequence[int]]]) -> int:
    return max(len(ids) for part in parts for ids in part)


@cache
def _grader(family: str) -> Any:
    from reasoning_gym.factory import get_score_answer_fn

    return get_score_answer_fn(family)
