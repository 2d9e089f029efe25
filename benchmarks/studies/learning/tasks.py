"""Verifiable tasks with one right answer each, of mixed difficulty, as arrays of tokens.

A prompt has a fixed width, blanks in front. An answer ends with a full stop, and blanks fill it up. Every task draws
distinct prompts, so that training and held-out prompts never meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

SYMBOLS = " .=0123456789+%>"
BLANK, STOP = 0, 1


@dataclass(frozen=True, slots=True)
class Task:
    """A family of questions.

    Attributes
    ----------
    name : str
        As the tables have it.
    question : callable
        Draws one question and its answer, as text.
    width, length : int
        Tokens of the longest prompt, and of the longest answer with its full stop.
    pool : int
        Prompts to train on, in multiples of the held-out ones.
    """

    name: str
    question: Callable[[np.random.Generator], tuple[str, str]]
    width: int
    length: int
    pool: int = 1

    def draw(self, n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Return ``n`` different prompts and their answers, shapes (n, width) and (n, length)."""
        found: dict[str, str] = {}
        while len(found) < n:
            question, answer = self.question(rng)
            found.setdefault(question, answer)
        prompts = np.array([encode(question.rjust(self.width)) for question in found])
        answers = np.array([encode((answer + ".").ljust(self.length)) for answer in found.values()])
        return prompts, answers


def encode(text: str) -> list[int]:
    """Return the tokens of a text.

    Examples
    --------
    >>> encode("1+2=3.")
    [4, 13, 5, 2, 6, 1]
    """
    return [SYMBOLS.index(symbol) for symbol in text]


def _addition(rng: np.random.Generator) -> tuple[str, str]:
    """Draw sums of two numbers of one to four digits each."""
    a, b = (int(rng.integers(0, 10**digits)) for digits in rng.integers(1, 5, 2))
    return f"{a}+{b}=", str(a + b)


def _modular(rng: np.random.Generator) -> tuple[str, str]:
    """Draw remainders of numbers of one to four digits by 2 to 9: some depend on the last digit only, others on all digits."""
    number, modulus = int(rng.integers(0, 10 ** int(rng.integers(1, 5)))), int(rng.integers(2, 10))
    return f"{number}%{modulus}=", str(number % modulus)


def _sorting(rng: np.random.Generator) -> tuple[str, str]:
    """Draw lists of two to ten digits, sorted."""
    digits = "".join(map(str, rng.integers(0, 10, rng.integers(2, 11))))
    return f"{digits}>=", "".join(sorted(digits))


def _running(rng: np.random.Generator) -> tuple[str, str]:
    """Draw lists of two to eight digits; the answer has the last digit of every sum so far."""
    digits = rng.integers(0, 10, rng.integers(2, 9))
    return "".join(map(str, digits)) + "+>=", "".join(map(str, np.cumsum(digits) % 10))


TASKS = {
    task.name: task
    for task in (
        Task("addition", _addition, 10, 6),
        Task("modular", _modular, 7, 2),
        Task("sorting", _sorting, 12, 11),
        Task("running", _running, 11, 9),
        Task("addition, large pool", _addition, 10, 6, pool=4),
    )
}


def family(task: str) -> str:
    """Return the task whose questions, held-out prompts and warm starts this one shares.

    Examples
    --------
    >>> family("addition, large pool")
    'addition'
    """
    return task.partition(",")[0]
