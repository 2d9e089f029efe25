"""Figures of studies: regret over horizons and epochs, and many policies side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import error_text, instance
from cero_alloc.simulation._curves import RegretCurve

from ._axes import GREY, band, draw_band, drawn_on, filled, legend
from ._styles import COLORS, MARKERS, Style, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_regret(curves: RegretCurve | Mapping[str, RegretCurve], ax: Axes | None = None) -> Axes:
    r"""Draw regret per prompt against the number of rounds, with the theorem's bound, on logarithmic axes.

    The bound is a thin line without markers in the colour and dashes of its curve. The dotted line falls like
    :math:`K^{-1/2}`, the rate of the bound.

    Parameters
    ----------
    curves : RegretCurve or mapping of name to RegretCurve
        One curve, or curves by name.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        For no curves, or a curve without positive regret, which logarithmic axes cannot show.
    TypeError
        For anything but curves.

    References
    ----------
    Theorem 1 of arXiv 2610.09679.

    Examples
    --------
    >>> from cero_alloc.simulation import RegretCurve
    >>> ax = plot_regret(RegretCurve([16, 64], [[0.02, 0.01]], [[0.7, 0.35]]))
    >>> ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()
    ('rounds $K$', 'regret per prompt (utility)', 'log')
    """
    named = curves if isinstance(curves, Mapping) else {"": curves}
    filled("curves", named)
    for name, curve in named.items():
        where = f"curves[{name!r}]" if name else "curves"
        instance(where, curve, RegretCurve, "Build one with RegretCurve.of(results).")
        if not (curve.regret.mean(axis=0) > 0.0).any():
            largest = float(curve.regret.mean(axis=0).max())
            raise ValueError(error_text(where, "have regret above 0 at some horizon", largest, "Leave it out."))
    ax = drawn_on(ax)
    thin: dict[str, Any] = {"linewidth": 0.7, "zorder": 1.9}
    styles, bounded = styled(named), False
    for name, curve in named.items():
        style = styles[name] if name else Style("regret", 0)
        mean, low, high = band(curve.regret)
        mean = np.where(mean > 0.0, mean, np.nan)
        floor = float(np.nanmin(mean)) / 10.0
        ax.plot(curve.rounds, mean, **style.points())
        ax.fill_between(curve.rounds, np.maximum(low, floor), high, color=style.color, alpha=0.18, linewidth=0)
        if np.isfinite(curve.bound).any():
            ax.plot(curve.rounds, band(curve.bound)[0], **{**style.line(), **thin, "label": None})
            bounded = True
    if bounded:
        ax.plot([], [], color=GREY, label="bound (thin)", **thin)
    first = min(int(curve.rounds[0]) for curve in named.values())
    last = max(int(curve.rounds[-1]) for curve in named.values())
    start = max(float(curve.regret.mean(axis=0)[0]) for curve in named.values() if curve.rounds[0] == first)
    ends = np.array([first, last])
    ax.plot(ends, start * np.sqrt(first / ends), color=GREY, linewidth=0.8, linestyle=":", label=r"slope $-1/2$")
    ax.set(yscale="log", xlabel="rounds $K$", ylabel="regret per prompt (utility)")
    ax.set_xscale("log", base=2)
    legend(ax)
    return ax


def plot_epochs(epochs: npt.ArrayLike, regret: Mapping[str, npt.ArrayLike], ax: Axes | None = None) -> Axes:
    """Draw regret against the number of passes over the data, on logarithmic axes.

    Parameters
    ----------
    epochs : array_like of int, shape (n_points,)
        Visits per prompt.
    regret : mapping of name to array_like, shape (n_seeds, n_points)
        Regret in percent of the optimum.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        For no series.

    Examples
    --------
    >>> plot_epochs([1, 2, 4], {"uniform": [[13.0, 13.0, 13.0]]}).get_xlabel()
    'epochs (visits per prompt)'
    """
    filled("regret", regret)
    ax = drawn_on(ax)
    styles = styled(regret)
    for name, table in regret.items():
        draw_band(ax, styles[name], np.asarray(epochs), list(np.asarray(table, dtype=np.float64)))
    ax.set(yscale="log", xlabel="epochs (visits per prompt)", ylabel="regret (% of the optimum)")
    ax.set_xscale("log", base=2)
    low, high = ax.get_ylim()
    ticks = [level * 10.0**power for power in range(-6, 3) for level in (1, 2, 5)]
    ax.set_yticks([tick for tick in ticks if low <= tick <= high])
    ax.minorticks_off()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
    legend(ax)
    return ax


def plot_comparison(
    scores: Mapping[str, Mapping[str, npt.ArrayLike]], ax: Axes | None = None, *, label: str, log: bool = False
) -> Axes:
    """Draw a score of many policies on several pools: one marker per pool, with its 95% interval over seeds.

    Parameters
    ----------
    scores : mapping of policy to mapping of pool to array_like, shape (n_seeds,)
        Score per seed, in the unit of ``label``, for at least two seeds. Policies are ordered by their mean over the pools,
        largest first.
    ax : matplotlib.axes.Axes or None
        Where to draw.
    label : str
        Name of the score with its unit.
    log : bool
        Whether the axis is logarithmic.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        For no policies, or a pool with fewer than two seeds.

    Examples
    --------
    >>> scores = {"even": {"A": [1.0, 2.0], "B": [2.0, 3.0]}, "greedy": {"A": [4.0, 4.5], "B": [3.0, 3.5]}}
    >>> plot_comparison(scores, label="groups per 1,000 rollouts").get_xlabel()
    'groups per 1,000 rollouts'
    """
    from scipy.stats import t

    filled("scores", scores)
    for name, own in scores.items():
        for pool, values in own.items():
            if np.size(values) < 2:
                remedy = "Give one score per seed."
                raise ValueError(error_text(f"scores[{name!r}][{pool!r}]", "have at least two seeds", values, remedy))
    names = sorted(scores, key=lambda name: -float(np.mean([np.mean(np.asarray(x)) for x in scores[name].values()])))
    styles = styled(names)
    pools = list(dict.fromkeys(pool for own in scores.values() for pool in own))
    ax = drawn_on(ax, (3.5, 0.85 + 0.08 * len(pools) + max(0.2, 0.09 * len(pools)) * len(names)))
    for j, pool in enumerate(pools):
        shown = [(i, np.asarray(scores[name][pool])) for i, name in enumerate(names) if pool in scores[name]]
        place = [i + 0.6 * ((j + 0.5) / len(pools) - 0.5) for i, _ in shown]
        mean = np.array([values.mean() for _, values in shown])
        half = [t.ppf(0.975, v.size - 1) * v.std(ddof=1) / np.sqrt(v.size) for _, v in shown]
        marker, color = MARKERS[j % len(MARKERS)], COLORS[j % len(COLORS)]
        ax.errorbar(mean, place, xerr=half, label=pool, fmt=marker, color=color, markersize=4, elinewidth=1.0)
    ax.set_yticks(range(len(names)), [styles[name].label for name in names])
    for tick, name in zip(ax.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if styles[name].strong else "normal")
    ax.set_ylim(len(names) - 0.5, -0.5)
    for i in range(0, len(names), 2):
        ax.axhspan(i - 0.5, i + 0.5, color="0.95", zorder=0)
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel(label)
    legend(ax)
    return ax
