"""Shown: a line about an object for a terminal and a small table for a notebook, from the same few facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from operator import attrgetter
from reprlib import Repr
from typing import Any, ClassVar

import numpy as np

_REPR = Repr()
_REPR.maxstring, _REPR.maxother = 40, 120
_MOST_DIGITS = 12
_PLAIN = "color:inherit;background:none;text-align:left"  # light and dark pages


class Shown:
    """An object with a repr of a few facts, which costs no pass over its arrays and never raises."""

    __slots__ = ()
    _SHOWN: ClassVar[tuple[str, ...]] = ()  # attributes of a dataclass, with dots; none: all of its fields

    def _facts(self) -> Iterator[tuple[str, str]]:
        """Yield names and texts, the first that an object has during its construction first."""
        for name in self._SHOWN or [field.name for field in fields(self) if field.repr]:  # type: ignore[arg-type]
            yield name.rpartition(".")[2], short(attrgetter(name)(self))

    def _so_far(self) -> dict[str, str]:
        """Return the facts, those before the first that an object lacks where it is not built to its end."""
        facts: dict[str, str] = {}
        try:
            facts.update(self._facts())
        except Exception:  # a traceback or a debugger asks, and must not get another error
            facts["incomplete"] = "True"
        return facts

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in self._so_far().items())})"

    def _repr_html_(self) -> str:
        """Return the facts as a table, for notebooks."""
        from html import escape  # imported on first use, to keep the import of the package short

        rows = "".join(
            f'<tr style="{_PLAIN}"><th style="{_PLAIN}">{escape(name)}</th><td style="{_PLAIN}">{escape(text)}</td></tr>'
            for name, text in self._so_far().items()
        )
        caption = f'<caption style="{_PLAIN}"><b>{escape(type(self).__name__)}</b></caption>'
        return f'<table style="{_PLAIN}">{caption}<tbody>{rows}</tbody></table>'


def short(value: Any) -> str:
    """Return the repr of a value, of an array its type and shape."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}[{' x '.join(map(str, value.shape))}]"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        text = repr(value)
        return text if len(text) <= _MOST_DIGITS else f"{value:.6g}"
    return " ".join(_REPR.repr(value).split())
