"""The figure of a replayed log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cero_alloc._checks import instance
from cero_alloc.replay._results import UNIFORM, ReplayResult

from ._axes import COLORS, drawn_on, text_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_replay(result: ReplayResult, ax: Axes | None = None) -> Axes:
    """Draw the mixed groups per 1,000 answered rollouts of every replayed policy, with 95% intervals, best first.

    Markers show the comparison with uniform, which is the vertical line. The column on the right is the share of the
    rollouts for which the log had no reward left.

    Parameters
    ----------
    result : ReplayResult
        Result of :func:`~cero_alloc.replay.replay`.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        For anything but a result.

    Examples
    --------
    >>> from cero_alloc.replay import RolloutLog, replay
    >>> one, two = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])
    >>> log = RolloutLog.of_rows(("a", "b"), one, two, np.array([0.0, 1.0] * 2), np.array([4, 4] * 2), n_lines=4)
    >>> [label.get_text() for label in plot_replay(replay(log, {}, n_boot=10)).get_yticklabels()]
    ['Uniform', 'as logged']
    """
    from matplotlib.transforms import ScaledTranslation

    instance("result", result, ReplayResult, "Pass what replay(...) returns.")
    rows = (
        *sorted(result.rows, key=lambda row: -np.inf if np.isnan(row.rate) else row.rate, reverse=True),
        result.logged,
    )
    ax = drawn_on(ax, (6.0, 1.3 + 0.2 * len(rows)))
    styles = {
        "+": ("o", COLORS[0], COLORS[0], "more than uniform"),
        "(+)": ("o", COLORS[0], "white", "more, unless missing rollouts account for it"),
        "": ("D", "0.35", "0.35", "no difference shown"),
        "-": ("v", COLORS[1], COLORS[1], "less than uniform"),
    }
    for mark, (marker, color, face, label) in styles.items():
        places = [i for i, row in enumerate(rows) if row.mark == mark and not np.isnan(row.rate)]
        if not places:
            continue
        rate = np.array([rows[i].rate for i in places])
        ends = np.array([rows[i].interval for i in places]).T
        ax.errorbar(
            rate,
            places,
            xerr=np.abs(ends - rate),
            fmt=marker,
            color=color,
            markerfacecolor=face,
            markersize=4.5,
            elinewidth=1.0,
            label=label,
        )
    ax.axvline(result.row(UNIFORM).rate, color="0.35", linewidth=0.8, linestyle="--", zorder=0, label="uniform")
    for i in range(0, len(rows), 2):
        ax.axhspan(i - 0.5, i + 0.5, color="0.95", zorder=-1)
    size = text_size(ax)
    right: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "ha": "right", "fontsize": size}
    for i, row in enumerate(rows):
        ax.text(1.13, i, f"{row.unanswerable:.0%}", va="center", **right)
    ax.text(1.13, -0.7, "not in log", va="bottom", **right)
    ax.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=size)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="mixed groups per 1,000 answered rollouts")
    ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
    below = ax.transAxes + ScaledTranslation(
        0.0, -0.4, ax.figure.dpi_scale_trans
    )  # inches, below the ticks and the axis label
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.4, 0.0),
        bbox_transform=below,
        ncols=2,
        fontsize=size,
        frameon=False,
    )
    return ax
