"""The figure of a replayed log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cero_alloc._checks import instance
from cero_alloc.replay._results import UNIFORM, ReplayResult, ReplayRow

from ._axes import drawn_on, text_size
from ._styles import COLORS, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABEL = 10.0  # points: the figure is wide, and pages show it smaller
_MANY_UNANSWERED = 0.05  # share of the rollouts, from which on a marker is hollow


def plot_replay(result: ReplayResult, ax: Axes | None = None) -> Axes:
    """Draw the share of rollouts in mixed groups of every replayed policy, with 95% intervals, best first.

    The vertical line is uniform; a policy's marker tells whether its interval holds it. The columns on the right are the
    rollouts per group, since small groups are mixed less often, and the share of the rollouts for which the log had no
    reward left; from 5% on the marker is hollow.

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
    ['uniform', 'as logged']
    """
    from matplotlib.transforms import ScaledTranslation

    instance("result", result, ReplayResult, "Pass what replay(...) returns.")
    rows = (*result.rows, result.logged)
    if ax is None:
        ax = drawn_on(None, (5.8, 1.5 + 0.2 * len(rows)))
        ax.xaxis.label.set_fontsize(_LABEL)
        ax.tick_params(labelsize=text_size(ax))
    uniform = result.row(UNIFORM).mixed_share
    sides = {
        1: ("o", COLORS[0], "more than uniform"),
        0: ("D", "0.35", "no difference shown"),
        -1: ("v", COLORS[1], "less than uniform"),
    }
    for side, (marker, color, label) in sides.items():
        for hollow in (False, True):
            places = [
                i
                for i, row in enumerate(rows)
                if (_side(row, uniform), row.unanswerable > _MANY_UNANSWERED) == (side, hollow)
            ]
            if not places:
                continue
            share = 100.0 * np.array([rows[i].mixed_share for i in places])
            ends = 100.0 * np.array([rows[i].mixed_share_interval for i in places]).T
            ax.errorbar(
                share,
                places,
                xerr=np.abs(ends - share),
                fmt=marker,
                color=color,
                markerfacecolor="white" if hollow else color,
                markersize=4.5,
                elinewidth=1.0,
                label=f"{label}, not all in log" if hollow else label,
            )
    ax.axvline(100.0 * uniform, color="0.35", linewidth=0.8, linestyle="--", zorder=0, label="uniform")
    for i in range(0, len(rows), 2):
        ax.axhspan(i - 0.5, i + 0.5, color="0.95", zorder=-1)
    size = text_size(ax)
    columns = {
        "group": ["-" if np.isnan(row.mean_group) else f"{row.mean_group:.1f}" for row in rows],
        "not in\nlog": [f"{row.unanswerable:.0%}" for row in rows],
    }
    for place, (heading, cells) in zip((3.2, 6.8), columns.items(), strict=True):  # right of the axes, in font sizes
        right: dict[str, Any] = {
            "xycoords": ax.get_yaxis_transform(), "textcoords": "offset points", "ha": "right", "fontsize": size,
            "annotation_clip": False,
        }  # fmt: skip
        for i, text in enumerate(cells):
            ax.annotate(text, (1.0, i), (place * size, 0.0), va="center", **right)
        ax.annotate(heading, (1.0, -0.7), (place * size, 0.0), va="bottom", **right)
    styles = styled(row.name for row in rows)
    ax.set_yticks(range(len(rows)), [styles[row.name].label for row in rows], fontsize=size)
    for tick, row in zip(ax.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if styles[row.name].strong else "normal")
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="rollouts in mixed groups, %")
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


def _side(row: ReplayRow, uniform: float) -> int | None:
    """Return on which side of uniform the row's interval lies, 0 for both; None without a figure."""
    if np.isnan(row.mixed_share):
        return None
    low, high = row.mixed_share_interval
    return 1 if low > uniform else -1 if high < uniform else 0
