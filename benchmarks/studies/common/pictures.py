"""Pictures without a screen, and names at the ends of lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def without_screen() -> Any:
    """Return ``matplotlib.pyplot``, set to draw into files; imported only where something is drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def label_ends(ax: Axes, size: float, *, bold: str = "", gap: float = 1.15) -> None:
    """Write the name of every line beside its last point, in its colour, in place of a legend.

    Names that would touch are moved apart, to ``gap`` times their ``size`` in points; the limits of the axes and the size of
    the figure must be final.
    """
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    ends = [np.column_stack(line.get_data())[np.isfinite(line.get_ydata())][-1] for line in lines]
    points = ax.transData.transform(ends) * 72.0 / ax.figure.dpi
    heights = points[:, 1].copy()
    for first in points[:, 0]:
        beside = np.flatnonzero(np.abs(points[:, 0] - first) < 4.0 * size)
        beside = beside[np.argsort(heights[beside])]
        steps = gap * size * np.arange(beside.size)
        free, count = heights[beside] - steps, range(beside.size)
        # Isotonic regression by its formula of least and largest means: the smallest moves that keep the names apart.
        heights[beside] = steps + [
            max(min(free[low : high + 1].mean() for high in count[i:]) for low in count[: i + 1]) for i in count
        ]
    for i, (line, height) in enumerate(zip(lines, heights, strict=True)):
        ax.annotate(
            line.get_label(), ends[i], (6.0, height - points[i, 1]), textcoords="offset points", va="center", size=size,
            color=readable(line.get_color()), weight="bold" if line.get_label() == bold else "normal", annotation_clip=False,
        )  # fmt: skip


def readable(color: Any) -> tuple[float, float, float]:
    """Return the colour as red, green and blue, darker where it is too light for text on white."""
    from matplotlib.colors import to_rgb

    rgb = np.array(to_rgb(color))
    light = float(rgb**2.2 @ [0.2126, 0.7152, 0.0722])
    red, green, blue = (rgb * min(1.0, (0.2 / max(light, 1e-9)) ** (1.0 / 2.2))).tolist()  # 4.2 : 1 on white
    return red, green, blue
