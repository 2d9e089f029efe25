"""Figures of simulated runs; matplotlib is loaded when one is drawn.

Every function draws on ``ax``, or on new axes, and returns the axes. Colours are the Okabe-Ito set, which colour-blind
readers tell apart, and line styles repeat the distinction for grey-scale print. Where a name maps to several results
they are seeds of one policy: the line is their mean, the band one standard deviation to each side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._checks import FloatArray
from ._replay import UNIFORM, ReplayResult
from .simulation import MEAN_BINS, SimulationResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "plot_allocation",
    "plot_calibration",
    "plot_comparison",
    "plot_effective_groups",
    "plot_epochs",
    "plot_exposure",
    "plot_frontier",
    "plot_lift",
    "plot_pacing",
    "plot_regret",
    "plot_replay",
]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))

Runs = Mapping[str, Sequence[SimulationResult]]


def plot_regret(
    rounds: npt.ArrayLike,
    regret: Mapping[str, npt.ArrayLike],
    bound: Mapping[str, npt.ArrayLike],
    ax: Axes | None = None,
) -> Axes:
    """Draw regret per prompt against the number of rounds, both logarithmic, with the theorem's bound.

    Parameters
    ----------
    rounds : array_like of int, shape (n_points,)
        Horizons K.
    regret : mapping of name to array_like, shape (n_seeds, n_points)
        Regret per prompt.
    bound : mapping of name to array_like, shape (n_seeds, n_points)
        Bound per prompt, for some of the names; drawn as a thin line in the same colour.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> ax = plot_regret([16, 64], {"known": [[0.02, 0.01]]}, {"known": [[0.7, 0.35]]})
    >>> ax.get_xscale()
    'log'
    """
    ax = _axes(ax)
    k = np.asarray(rounds, dtype=np.float64)
    for i, (name, table) in enumerate(regret.items()):
        mean, low, high = _band(table)
        floor = float(mean[mean > 0].min(initial=1.0)) / 10.0
        ax.plot(k, mean, color=COLORS[i], linestyle=DASHES[i], marker="o", markersize=3, label=f"regret, {name}")
        ax.fill_between(k, np.maximum(low, floor), high, color=COLORS[i], alpha=0.2, linewidth=0)
        if name in bound:
            ax.plot(k, _band(bound[name])[0], color=COLORS[i], linestyle=DASHES[i], linewidth=1, label=f"bound, {name}")
    reference = max(float(_band(table)[0][0]) for table in regret.values()) * np.sqrt(k[0] / k)
    ax.plot(k, reference, color="0.6", linewidth=0.8, linestyle=":", label=r"slope $-1/2$")
    ax.set(xscale="log", yscale="log", xlabel="rounds $K$", ylabel="regret per prompt (utility)")
    ax.set_xscale("log", base=2)
    ax.legend(fontsize="x-small", frameon=False)
    return ax


def plot_epochs(epochs: npt.ArrayLike, regret: Mapping[str, npt.ArrayLike], ax: Axes | None = None) -> Axes:
    """Draw regret against the number of passes over the data, both logarithmic.

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

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> plot_epochs([1, 2, 4], {"uniform": [[13.0, 13.0, 13.0]]}).get_xlabel()
    'epochs (visits per prompt)'
    """
    ax = _axes(ax)
    for i, (name, table) in enumerate(regret.items()):
        _line(ax, i, name, np.asarray(epochs), list(np.asarray(table, dtype=np.float64)))
    ax.set(yscale="log", xlabel="epochs (visits per prompt)", ylabel="regret (% of the optimum)")
    ax.set_xscale("log", base=2)
    low, high = ax.get_ylim()
    ticks = [level * 10.0**power for power in range(-6, 3) for level in (1, 2, 5)]
    ax.set_yticks([tick for tick in ticks if low <= tick <= high])
    ax.minorticks_off()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
    ax.legend(fontsize="x-small", frameon=False)
    return ax


def plot_allocation(
    runs: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]], ax: Axes | None = None, *, n_bins: int = 20
) -> Axes:
    """Draw mean exposure, in equal shares, against the prompts' success rate.

    Parameters
    ----------
    runs : mapping of name to a pair of array_like
        Success rates, true or estimated, and what each prompt got, in equal shares.
    ax : matplotlib.axes.Axes or None
        Where to draw.
    n_bins : int
        Equal bins of the success rate.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> plot_allocation({"a": ([0.1, 0.5, 0.9], [0.4, 2.0, 0.6])}).get_xlabel()
    'success rate'
    """
    ax = _axes(ax)
    ax.axhline(1.0, color="0.6", linewidth=0.8)
    for i, (name, (rates, exposure)) in enumerate(runs.items()):
        p, x = np.asarray(rates, dtype=np.float64), np.asarray(exposure, dtype=np.float64)
        place = np.minimum((p * n_bins).astype(np.int64), n_bins - 1)
        many = np.bincount(place, minlength=n_bins)
        filled = many > 0
        mean = np.bincount(place, x, n_bins)[filled] / many[filled]
        centre = (np.arange(n_bins)[filled] + 0.5) / n_bins
        ax.plot(centre, mean, color=COLORS[i], linestyle=DASHES[i], marker="o", markersize=2.5, label=name)
    ax.set(xlabel="success rate", ylabel="mean exposure (equal shares)", xlim=(0, 1))
    ax.legend(fontsize="x-small", frameon=False)
    return ax


def plot_comparison(
    scores: Mapping[str, Mapping[str, npt.ArrayLike]], ax: Axes | None = None, *, label: str, log: bool = False
) -> Axes:
    """Draw one figure of many policies on several pools: a dot per pool, with its 95% interval over seeds.

    Parameters
    ----------
    scores : mapping of policy to mapping of pool to array_like, shape (n_seeds,)
        The figure per seed, at least two of them. The policies are ordered by their mean over the pools, largest first.
    ax : matplotlib.axes.Axes or None
        Where to draw.
    label : str
        What the figure is, with its unit.
    log : bool
        Whether the axis is logarithmic.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> scores = {"even": {"A": [1.0, 2.0], "B": [2.0, 3.0]}, "greedy": {"A": [4.0, 4.5], "B": [3.0, 3.5]}}
    >>> plot_comparison(scores, label="groups per 1,000 rollouts").get_xlabel()
    'groups per 1,000 rollouts'
    """
    from scipy.stats import t

    ax = _axes(ax)
    names = sorted(scores, key=lambda name: -float(np.mean([np.mean(np.asarray(x)) for x in scores[name].values()])))
    pools = list(dict.fromkeys(pool for own in scores.values() for pool in own))
    for j, pool in enumerate(pools):
        shown = [(i, np.asarray(scores[name][pool])) for i, name in enumerate(names) if pool in scores[name]]
        place = [i + 0.6 * ((j + 0.5) / len(pools) - 0.5) for i, _ in shown]
        mean = [values.mean() for _, values in shown]
        half = [t.ppf(0.975, v.size - 1) * v.std(ddof=1) / np.sqrt(v.size) for _, v in shown]
        marker, color = MARKERS[j % len(MARKERS)], COLORS[j % len(COLORS)]
        ax.errorbar(mean, place, xerr=half, label=pool, fmt=marker, color=color, markersize=4.5, elinewidth=1.0)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    for i in range(0, len(names), 2):
        ax.axhspan(i - 0.5, i + 0.5, color="0.95", zorder=0)
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel(label)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=2, frameon=False)
    return ax


def plot_frontier(points: Mapping[str, npt.ArrayLike], ax: Axes | None = None) -> Axes:
    """Draw concentration against saturation: the share of the rollouts that the top tenth of the prompts got.

    Parameters
    ----------
    points : mapping of name to array_like, shape (n_runs, 2)
        Saturation and share in percent of every run; runs of one saturation are seeds.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> plot_frontier({"height": [[0.1, 40.0], [1.0, 20.0]]}).get_xscale()
    'log'
    """
    ax = _axes(ax)
    ax.axhline(10.0, color="0.6", linewidth=0.8, label="even")
    for i, (name, table) in enumerate(points.items()):
        pairs = np.asarray(table, dtype=np.float64)
        levels = np.unique(pairs[:, 0])
        means, spreads = zip(*((c.mean(), c.std()) for c in (pairs[pairs[:, 0] == v, 1] for v in levels)), strict=True)
        ax.errorbar(levels, means, spreads, color=COLORS[i], linestyle=DASHES[i], marker="o", markersize=3, label=name)
    ax.set(xscale="log", xlabel=r"saturation $\lambda$", ylabel="rollouts on the top tenth\nof the prompts (%)")
    ax.legend(fontsize="x-small", frameon=False)
    return ax


def plot_pacing(runs: Runs, ax: Axes | None = None) -> Axes:
    """Draw the rollouts spent ahead of the uniform schedule over the rounds.

    Parameters
    ----------
    runs : mapping of name to sequence of SimulationResult
        Results over seeds per policy.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = _axes(ax)
    ax.axhline(0, color="0.6", linewidth=0.8)
    for i, (name, results) in enumerate(runs.items()):
        rounds = np.arange(1, results[0].horizon.n_rounds + 1)
        _line(ax, i, name, rounds, [r.pacing_gap for r in results])
    ax.set(xlabel="round", ylabel="spent ahead of uniform\n(rollouts)")
    ax.legend(fontsize="x-small", frameon=False)
    return ax


def plot_exposure(runs: Runs, ax: Axes | None = None) -> Axes:
    """Draw the distribution of exposure over prompts, in equal shares.

    Parameters
    ----------
    runs : mapping of name to sequence of SimulationResult
        Results over seeds per policy; the seeds are pooled.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = _axes(ax)
    for i, (name, results) in enumerate(runs.items()):
        share = np.sort(np.concatenate([r.exposure * r.horizon.n_prompts / r.horizon.total_budget for r in results]))
        height = np.arange(1, share.size + 1) / share.size
        ax.step(
            np.append(0.0, share),
            np.append(0.0, height),
            where="post",
            color=COLORS[i],
            linestyle=DASHES[i],
            label=name,
        )
    ax.set(xlabel="exposure (equal shares $z/R$)", ylabel="share of prompts", ylim=(0, 1.02))
    ax.legend(fontsize="x-small", frameon=False)
    return ax


def plot_lift(runs: Runs, ax: Axes | None = None) -> Axes:
    """Draw how much likelier than chance each bin of predicted success rates was dealt a group.

    Parameters
    ----------
    runs : mapping of name to sequence of SimulationResult
        Results over seeds per policy.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = _axes(ax)
    width = 0.8 / len(runs)
    bins = np.arange(len(MEAN_BINS) - 1)
    for i, (name, results) in enumerate(runs.items()):
        mean, low, high = _band([r.lift() for r in results])
        place = bins + (i - (len(runs) - 1) / 2) * width
        ax.bar(
            place, mean, width, yerr=[mean - low, high - mean], color=COLORS[i], label=name, error_kw={"linewidth": 0.8}
        )
    ax.axhline(1, color="0.3", linewidth=0.8)
    ax.set_xticks(bins, [f"{a:.1f}-{b:.1f}" for a, b in pairwise(MEAN_BINS)])
    ax.set(xlabel="predicted success rate", ylabel="selection lift (1 = chance)")
    ax.legend(fontsize="x-small", frameon=False, ncols=2)
    ax.set_ylim(top=ax.get_ylim()[1] * 1.25)
    return ax


def plot_calibration(runs: Runs, ax: Axes | None = None, *, n_bins: int = 8) -> Axes:
    """Draw the observed within-group reward variance against the value that was predicted.

    Parameters
    ----------
    runs : mapping of name to sequence of SimulationResult
        Results over seeds per policy; the seeds are pooled.
    ax : matplotlib.axes.Axes or None
        Where to draw.
    n_bins : int
        Bins of equal population.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = _axes(ax)
    ax.plot([0, 0.25], [0, 0.25], color="0.6", linewidth=0.8, label="calibrated")
    for i, (name, results) in enumerate(runs.items()):
        value = np.concatenate([r.group_value for r in results])
        seen = np.concatenate([r.observed_variance() for r in results])
        keep = np.isfinite(value) & np.isfinite(seen)
        order = np.argsort(value[keep], kind="stable")
        parts = [part for part in np.array_split(order, n_bins) if part.size]
        x = [value[keep][part].mean() for part in parts]
        y = [seen[keep][part].mean() for part in parts]
        ax.plot(x, y, color=COLORS[i], linestyle=DASHES[i], marker="o", markersize=3, label=name)
    ax.set(
        xlabel=r"predicted variance $\hat q$", ylabel="observed within-group variance", xlim=(0, 0.25), ylim=(0, 0.25)
    )
    ax.legend(fontsize="x-small", frameon=False)
    return ax


def plot_effective_groups(runs: Runs, ax: Axes | None = None) -> Axes:
    """Draw the effective groups (both successes and failures) against rollouts spent, ahead of the last policy named.

    Parameters
    ----------
    runs : mapping of name to sequence of SimulationResult
        Results over seeds per policy; the last policy is the baseline.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = _axes(ax)
    *_, base_name = runs
    spent = np.linspace(0, max(r.horizon.total_budget for r in runs[base_name]), 101)
    base = np.mean([_effective_by(r, spent) for r in runs[base_name]], axis=0)
    for i, (name, results) in enumerate(runs.items()):
        _line(ax, i, name, spent / 1000, [_effective_by(r, spent) - base for r in results])
    ax.set(xlabel="rollouts spent (thousands)", ylabel=f"effective groups\nahead of {base_name}")
    ax.legend(fontsize="x-small", frameon=False)
    return ax


def plot_replay(result: ReplayResult, ax: Axes | None = None) -> Axes:
    """Draw the effective groups per 1,000 answered rollouts of every replayed policy, with 95% intervals, best first.

    The shape of a marker tells how the policy compares with uniform, the line; the column on the right, which share of
    its rollouts the log could not answer.

    Parameters
    ----------
    result : ReplayResult
        As :func:`~cero_alloc.simulation.replay` returns it.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from cero_alloc.simulation import RolloutLog, replay
    >>> one, two = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])
    >>> log = RolloutLog.of_rows(("a", "b"), one, two, np.array([0.0, 1.0] * 2), np.array([4, 4] * 2), n_lines=4)
    >>> [label.get_text() for label in plot_replay(replay(log, {}, n_boot=10)).get_yticklabels()]
    ['Uniform', 'as logged']
    """
    rows = (*result.rows, result.logged)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=(6.0, 1.3 + 0.2 * len(rows)), layout="constrained")[1]
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
    right: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "ha": "right", "fontsize": "small"}
    for i, row in enumerate(rows):
        ax.text(1.13, i, f"{row.unanswerable:.0%}", va="center", **right)
    ax.text(1.13, -0.7, "not in log", va="bottom", **right)
    ax.set_yticks(range(len(rows)), [row.name for row in rows], fontsize="small")
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="effective groups per 1,000 answered rollouts")
    ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.4, -0.55 / (0.2 * len(rows))), ncols=2, fontsize="small", frameon=False
    )
    return ax


def _effective_by(result: SimulationResult, spent: FloatArray) -> FloatArray:
    """Return the effective groups by the time that so many rollouts were spent."""
    good = (result.group_successes > 0) & (result.group_successes < result.group_rollouts)
    by: FloatArray = np.interp(spent, np.append(0, np.cumsum(result.group_rollouts)), np.append(0, np.cumsum(good)))
    return by


def _axes(ax: Axes | None) -> Axes:
    """Return ``ax``, or new axes at paper column width."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(3.6, 2.7), layout="constrained")[1]


def _band(table: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return mean and mean -+ one standard deviation over the first axis."""
    rows = np.atleast_2d(np.asarray(table, dtype=np.float64))
    mean = rows.mean(axis=0)
    spread = rows.std(axis=0, ddof=1) if len(rows) > 1 else np.zeros_like(mean)
    return mean, mean - spread, mean + spread


def _line(ax: Axes, i: int, name: str, x: npt.ArrayLike, table: Sequence[FloatArray]) -> None:
    """Draw a mean line with its band."""
    mean, low, high = _band(table)
    ax.plot(x, mean, color=COLORS[i], linestyle=DASHES[i], label=name)
    ax.fill_between(x, low, high, color=COLORS[i], alpha=0.2, linewidth=0)
