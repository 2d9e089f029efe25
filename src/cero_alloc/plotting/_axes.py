"""Size, legend, and lines with bands, shared by all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray

from ._styles import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "0.55"  # colour of reference lines

_SIZE = (3.5, 2.6)  # inches: the width of a paper's column
_LABEL, _TICK = 8.0, 7.0  # points


def drawn_on(ax: Axes | None, size: tuple[float, float] = _SIZE) -> Axes:
    """Return ``ax``, or new axes of ``size`` in inches with text that is legible in print."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    ax = pyplot.subplots(figsize=size, layout="constrained")[1]
    ax.tick_params(which="both", labelsize=_TICK)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_fontsize(_LABEL)
        axis.offsetText.set_fontsize(_TICK)
    return ax


def text_size(ax: Axes) -> float:
    """Return the font size of small text in points: 7/8 of the axis labels', so that it follows the style of the axes."""
    return float(ax.xaxis.label.get_fontsize()) * _TICK / _LABEL


def legend(ax: Axes, **settings: Any) -> None:
    """Draw a legend above the axes in as many columns as are likely to fit; draw none if no series has a name."""
    labels = ax.get_legend_handles_labels()[1]
    if not labels:
        return
    size = text_size(ax)
    width = ax.get_window_extent().width / ax.figure.dpi * 72.0 / size  # in font sizes
    columns = int(width / (4.5 + 0.55 * max(map(len, labels))))  # the handle with its gaps, and letters of mean width
    settings = {"ncols": max(1, min(columns, len(labels))), **settings}
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        handlelength=2.8,
        columnspacing=1.2,
        fontsize=size,
        title_fontsize=size,
        frameon=False,
        **settings,
    )


def band(table: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return mean and mean -/+ one standard deviation over the first axis, ignoring NaN; NaN if all entries are NaN."""
    rows = np.ma.masked_invalid(np.atleast_2d(np.asarray(table, dtype=np.float64)))
    many = rows.count(axis=0)
    mean = rows.mean(axis=0).filled(np.nan)
    spread = np.sqrt(((rows - mean) ** 2).sum(axis=0).filled(0.0) / np.maximum(many - 1, 1))
    return mean, mean - spread, mean + spread


def band_by(keys: Any, values: Any) -> tuple[Any, FloatArray, FloatArray, FloatArray]:
    """Return the distinct keys in order, with mean and mean -/+ one standard deviation of each key's values."""
    found = np.unique(keys)
    bands = [band(values[keys == key][:, None]) for key in found]
    mean, low, high = (np.concatenate(side) for side in zip(*bands, strict=True))
    return found, mean, low, high


def draw_band(ax: Axes, style: Style, x: npt.ArrayLike, table: Sequence[FloatArray]) -> None:
    """Draw the mean of the rows with its band, except where any row is NaN."""
    mean, low, high = (np.where(np.isnan(table).any(axis=0), np.nan, side) for side in band(table))
    ax.plot(x, mean, **style.line())
    ax.fill_between(x, low, high, color=style.color, alpha=0.18, linewidth=0)


def filled(name: str, entries: Mapping[str, Any]) -> None:
    """Raise if there is no series to draw."""
    if not entries:
        raise ValueError(f"{name} must name at least one series, got {name} = {entries!r}. Pass the series to draw.")
