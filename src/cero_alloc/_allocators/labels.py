"""Labels: what kind of prompt each is, such as its data source."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import IntArray, error_text, real
from cero_alloc._evidence.prior import group_rows
from cero_alloc._saving.state import Field, Stateful


class Labels(Stateful):
    """One label per prompt, in row order. Prompts that join without one have the label None.

    Parameters
    ----------
    groups : iterable of hashable, length n_prompts
        The labels.
    size : int
        Number of prompts.

    Attributes
    ----------
    names : list of hashable
        The labels, in order of appearance.
    codes : numpy.ndarray of int32, shape (n_prompts,)
        Place of each prompt's label among ``names``.
    """

    FIELDS: ClassVar[dict[str, Field]] = {
        "names": Field(must="be hashable and differ", holds=lambda names, _: _differ(names)),
        "codes": Field(
            "prompts",
            must="be places of the names",
            holds=lambda codes, state: (codes >= 0) & (codes < len(state["names"])),
        ),
    }

    def __init__(self, groups: object, size: int) -> None:
        rows = group_rows(groups, size)
        self.names: list[Hashable] = list(rows)
        self.codes: npt.NDArray[np.int32] = np.empty(size, dtype=np.int32)
        for code, some in enumerate(rows.values()):
            self.codes[some] = code

    def of_prompts(self) -> tuple[Hashable, ...]:
        """Return the label of each prompt."""
        return tuple(self.names[code] for code in self.codes.tolist())

    def rows(self) -> dict[Hashable, IntArray]:
        """Return the rows of each label."""
        return {name: np.flatnonzero(self.codes == code) for code, name in enumerate(self.names)}

    def join(self, groups: Iterable[Hashable]) -> None:
        """Append the labels of prompts that joined."""
        places = {name: code for code, name in enumerate(self.names)}
        codes = [places.setdefault(name, len(places)) for name in groups]
        self.names = list(places)
        self.codes = np.concatenate([self.codes, np.array(codes, dtype=np.int32)])


def checked_floors(floors: Any, labels: Labels) -> dict[Hashable, float]:
    """Return the least share of each label, checked."""
    remedy = "Pass a least share per label, such as {'math': 0.2}."
    try:
        pairs = dict(floors.items() if isinstance(floors, Mapping) else floors)
    except (TypeError, ValueError):
        raise TypeError(error_text("floors", "be a mapping of labels to shares", floors, remedy)) from None
    for label, share in pairs.items():
        if label not in labels.names:
            raise ValueError(error_text("floors", f"name labels of groups, {labels.names[:8]}", label, "Correct it."))
        pairs[label] = real(
            f"floors[{label!r}]", share, low=0.0, high=1.0, remedy="Give a share of a round's rollouts."
        )
    if sum(pairs.values()) > 1.0 + 1e-9:
        raise ValueError(error_text("floors", "add up to at most 1", sum(pairs.values()), "Lower some of them."))
    return pairs


def _differ(names: Any) -> bool:
    try:
        return len(set(names)) == len(names)
    except TypeError:
        return False
