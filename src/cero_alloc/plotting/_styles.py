"""One colour, dash and name per policy, in every figure: a style goes by the policy's name, not by its place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from cero_alloc._checks import error_text

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe-Ito without its yellow
DASHES: tuple[Any, ...] = (
    "-",
    (0, (4, 1.5)),
    (0, (1, 1.2)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (4, 1.2, 1, 1.2, 1, 1.2)),
    (0, (9, 2)),
    (0, (2.5, 2.5)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "----", "++++")

# The first of each line is the name in figures, the others are drawn alike. The place of a line is the number of its
# style: seven colours by seven dashes, each pair once. The three lines of seven are full, so that names which are not here
# begin a line of their own.
_POLICIES = (
    ("re-solving", "ResolvingAllocator", "Resolving", "Resolving, flat"),  # blue, solid
    ("Algorithm 1", "FenchelDualAllocator", "FenchelDual", "the papers' rule"),  # vermilion, dashed
    ("greedy",),
    ("fixed pacing", "FixedPacing"),
    ("SPEED-RL", "SpeedRL"),
    ("Knapsack RL", "KnapsackRL"),
    ("Pilot-Commit", "PilotCommit"),
    ("re-solving, fitted", "Resolving, fitted", "ResolvingAllocator, fitted"),  # blue, dashed
    ("Algorithm 1, catch-up", "FenchelDual, catch-up", "FenchelDual, catch_up"),
    ("DAPO",),
    ("random-matched", "RandomMatched"),
    ("MoPPS",),
    ("GRESO",),
    ("uniform", "GRPO"),  # black, solid
    ("re-solving, two waves", "Resolving, two waves"),
    ("preset",),
    ("VIP",),
    ("DPS",),
    ("CoBA-RL", "CoBARL"),
    ("training_allocator", "training"),  # light blue, solid
    ("clairvoyant",),
)
_NUMBERS = {name.lower(): number for number, names in enumerate(_POLICIES) for name in names}
# How names of other settings begin, and begin in figures.
_FAMILIES = (("Resolving", "re-solving"), ("FenchelDual", "Algorithm 1"), ("training,", "training_allocator,"))
_FITTED = r", fit_every=\d+$"  # how a replay names the fitted setting
_STRONGEST = ("re-solving", "re-solving, fitted", "training_allocator")
_OTHERS = (5, 3, 4, 6)  # lines of seven for other names; the first begins with long and short dashes and a solid line


class Style(NamedTuple):
    """How a series is drawn."""

    label: str
    number: int  # of the colour and dash
    strong: bool = False  # whether the series is a recommended one

    @property
    def color(self) -> str:
        """Return the colour."""
        return COLORS[self.number % len(COLORS)]

    @property
    def _dash(self) -> int:
        return (self.number + self.number // len(COLORS)) % len(DASHES)

    def line(self) -> dict[str, Any]:
        """Return label, colour and dashes of a line; a recommended one is wider and on top."""
        width, order = (2.4, 2.5) if self.strong else (1.3, 2.0)
        return {
            "label": self.label, "color": self.color, "linestyle": DASHES[self._dash], "linewidth": width, "zorder": order,
        }  # fmt: skip

    def points(self) -> dict[str, Any]:
        """Return the style of a line through few points, with markers."""
        return {**self.line(), "marker": MARKERS[self.number % len(MARKERS)], "markersize": 5.0 if self.strong else 3.5}

    def bars(self) -> dict[str, Any]:
        """Return colour and hatch of bars; the hatch is white, which shows in grey-scale print."""
        return {
            "label": self.label, "color": self.color, "hatch": HATCHES[self._dash], "edgecolor": "white", "linewidth": 0.5,
        }  # fmt: skip


def styled(names: Iterable[str]) -> dict[str, Style]:
    """Return the style of each name: a known policy's own, and for other names the remaining ones in order.

    A figure with two names of one policy has to tell them apart: both keep their names, and the second has another style. A
    series without a name, which is alone, is a plain line of the first colour.
    """
    numbers = {name: _NUMBERS.get(re.sub(_FITTED, ", fitted", name).lower()) for name in names}
    many = Counter(numbers.values())
    found: dict[str, Style] = {}
    taken, others = set(), 0
    row = len(COLORS)
    for name, number in numbers.items():
        if name == "":
            found[name] = Style("", 0)
        elif number is not None and number not in taken:
            label = _POLICIES[number][0]
            found[name] = Style(name if many[number] > 1 else label, number, label in _STRONGEST)
            taken.add(number)
        else:
            line, place = divmod(others % (row * len(_OTHERS)), row)
            found[name] = Style(name if number is not None else _of_family(name), row * _OTHERS[line] + place)
            others += 1
    return found


def _of_family(name: str) -> str:
    """Return the name of another setting of a known policy with the policy's name in figures."""
    for start, label in _FAMILIES:
        if name.startswith(start):
            return label + name[len(start) :].removeprefix("Allocator")
    return name


def policy_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the style that every figure of this package gives each policy, for figures of your own.

    Policies of this package and its baselines have fixed styles and one name: the class, the published title and the names
    of the tables, in any case of letters, give the same. Other names get styles that no known policy has, in order.

    Parameters
    ----------
    names : iterable of str
        Names of the policies in one figure.

    Returns
    -------
    dict of str to dict
        Keywords of :meth:`matplotlib.axes.Axes.plot` by name: label, colour, dashes, width in points, and order.

    Raises
    ------
    TypeError
        For a single string, or names that are not strings.

    Examples
    --------
    >>> styles = policy_styles(["FenchelDualAllocator", "Uniform", "mine"])
    >>> [style["label"] for style in styles.values()]
    ['Algorithm 1', 'uniform', 'mine']
    >>> styles["FenchelDualAllocator"] == policy_styles(["Algorithm 1"])["Algorithm 1"]
    True
    """
    named = list(names)
    if isinstance(names, str) or not all(isinstance(name, str) for name in named):
        raise TypeError(error_text("names", "be several strings", names, "Pass a list with the names of one figure."))
    return {name: style.line() for name, style in styled(named).items()}
