"""Figures over the prompts: rollouts, lift and calibration by estimated success rate, and concentration."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np

from cero_alloc._checks import integer
from cero_alloc.simulation._result import MEAN_BINS

from ._axes import GREY, band, band_by, drawn_on, legend
from ._runs import Runs, named, require_equal_horizons, require_known
from ._styles import styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_allocation(runs: Runs, ax: Axes | None = None, *, n_bins: SupportsIndex = 20) -> Axes:
    """Draw the rollouts per prompt over the run against the posterior mean success rate after it.

    Lines show the mean over the prompts of all seeds in equal bins of the posterior mean, bands one standard deviation of
    these prompts on each side. Under a flat prior only prompts with many rollouts have posterior means near 0 and 1, so
    that lines may rise at both ends.

    Parameters
    ----------
    runs : SimulationResult, sequence of them, or mapping of name to either
        One run, seeds of one policy, or policies by name.
    ax : matplotlib.axes.Axes or None
        Where to draw.
    n_bins : int, at least 1
        Bins of the posterior mean.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        For no runs, seeds of one name with different horizons, a policy without a bank, or ``n_bins`` below 1.
    TypeError
        For anything but results, or ``n_bins`` that is not an integer.

    Examples
    --------
    >>> from cero_alloc import FenchelDualAllocator
    >>> from cero_alloc.simulation import simulate, static_pool
    >>> pool = static_pool(16, seed=3)
    >>> policy = FenchelDualAllocator(pool.bank(), total_budget=16 * 64, n_rounds=64, max_rollouts=2)
    >>> ax = plot_allocation(simulate(policy, pool, 64))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('posterior mean success rate', 'rollouts per prompt')
    """
    many = integer("n_bins", n_bins, least=1, remedy="Count the bins of the success rate.")
    seeds = named(runs)
    styles = styled(seeds)
    require_equal_horizons(seeds)
    require_known(seeds, "posterior_mean", "a policy with a bank")
    ax = drawn_on(ax)
    shares = {results[0].horizon.total_budget / results[0].horizon.n_prompts for results in seeds.values()}
    for share, label in zip(sorted(shares), ["even", *[None] * len(shares)], strict=False):
        ax.axhline(share, color=GREY, linewidth=0.8, label=label)
    for name, results in seeds.items():
        place = np.minimum((np.concatenate([run.posterior_mean for run in results]) * many).astype(np.int64), many - 1)
        rollouts = np.concatenate([run.exposure for run in results])
        held, mean, low, high = band_by(place, rollouts)
        centre = (held + 0.5) / many
        ax.plot(centre, mean, **styles[name].points())
        ax.fill_between(centre, np.maximum(low, 0.0), high, color=styles[name].color, alpha=0.18, linewidth=0)
    ax.set(xlabel="posterior mean success rate", ylabel="rollouts per prompt", xlim=(0.0, 1.0))
    ax.set_ylim(bottom=0.0)
    legend(ax)
    return ax


def plot_exposure(runs: Runs, ax: Axes | None = None) -> Axes:
    r"""Draw the cumulative distribution over the prompts of the rollouts per prompt.

    Parameters
    ----------
    runs : SimulationResult, sequence of them, or mapping of name to either
        One run, seeds of one policy, or policies by name; the seeds are pooled.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        For no runs, or seeds of one name with different horizons.
    TypeError
        For anything but results.

    References
    ----------
    arXiv 2610.09679 reports the heights of the steps for the paper's run.

    Examples
    --------
    >>> from cero_alloc.baselines import Uniform
    >>> from cero_alloc.simulation import simulate, static_pool
    >>> pool = static_pool(16, seed=3)
    >>> ax = plot_exposure(simulate(Uniform(pool.bank(), total_budget=256, n_rounds=16, max_rollouts=2), pool, 16))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('rollouts (equal shares of the budget)', 'prompts with\nat most these (%)')
    """
    seeds = named(runs)
    styles = styled(seeds)
    require_equal_horizons(seeds)
    ax = drawn_on(ax)
    ax.axvline(1.0, color=GREY, linewidth=0.8, label="even")
    for name, results in seeds.items():
        h = results[0].horizon
        share = np.sort(np.concatenate([run.exposure for run in results])) * h.n_prompts / h.total_budget
        height = 100.0 * np.arange(1, share.size + 1) / share.size
        ax.step(np.append(0.0, share), np.append(0.0, height), where="post", **styles[name].line())
    ax.set(xlabel="rollouts (equal shares of the budget)", ylabel="prompts with\nat most these (%)", ylim=(0.0, 102.0))
    ax.set_xlim(left=0.0)
    legend(ax)
    return ax


def plot_lift(runs: Runs, ax: Axes | None = None) -> Axes:
    """Draw the selection lift by predicted success rate: how much more often than by chance prompts were dealt a group.

    Parameters
    ----------
    runs : SimulationResult, sequence of them, or mapping of name to either
        One run, seeds of one policy, or policies by name.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        For no runs, a policy without a bank, or one that dealt nothing.
    TypeError
        For anything but results.

    References
    ----------
    arXiv 2610.09679 reports this lift for the paper's run.

    Examples
    --------
    >>> from cero_alloc.baselines import Greedy
    >>> from cero_alloc.simulation import simulate, static_pool
    >>> pool = static_pool(16, seed=3)
    >>> ax = plot_lift(simulate(Greedy(pool.bank(), total_budget=256, n_rounds=16, max_rollouts=2), pool, 16))
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['0-0.2', '0.2-0.4', '0.4-0.6', '0.6-0.8', '0.8-1']
    """
    seeds = named(runs)
    styles = styled(seeds)
    require_known(seeds, "group_mean", "a policy with a bank that dealt something")
    ax = drawn_on(ax)
    width = 0.84 / len(seeds)
    bins = np.arange(len(MEAN_BINS) - 1)
    for i, (name, results) in enumerate(seeds.items()):
        mean, low, high = band([run.lift() for run in results])
        place = bins + (i - (len(seeds) - 1) / 2) * width
        error = np.nan_to_num([mean - low, high - mean]) if len(results) > 1 else None
        ax.bar(place, mean, width, yerr=error, error_kw={"linewidth": 0.8}, **styles[name].bars())
    ax.axhline(1.0, color="0.3", linewidth=0.8)
    ends = [f"{edge:.1g}" for edge in MEAN_BINS]
    ax.set_xticks(bins, [f"{low}-{high}" for low, high in pairwise(ends)])
    ax.set(xlabel="predicted success rate", ylabel="selection lift (1 = chance)")
    legend(ax)
    return ax


def plot_calibration(runs: Runs, ax: Axes | None = None, *, n_bins: SupportsIndex = 8) -> Axes:
    """Draw the reward variance observed within groups against the variance that the bank predicted.

    Parameters
    ----------
    runs : SimulationResult, sequence of them, or mapping of name to either
        One run, seeds of one policy, or policies by name. The groups of all seeds are pooled; groups of one rollout are
        left out.
    ax : matplotlib.axes.Axes or None
        Where to draw.
    n_bins : int, at least 1
        Bins of the prediction, with equally many groups in each.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        For no runs, a policy without a bank or with groups of one rollout only, or ``n_bins`` below 1.
    TypeError
        For anything but results, or ``n_bins`` that is not an integer.

    References
    ----------
    arXiv 2610.09679 reports the means of both variances for the paper's run.

    Examples
    --------
    >>> from cero_alloc.baselines import Uniform
    >>> from cero_alloc.simulation import simulate, static_pool
    >>> pool = static_pool(16, seed=3)
    >>> ax = plot_calibration(simulate(Uniform(pool.bank(), total_budget=512, n_rounds=8, max_rollouts=4), pool, 8))
    >>> ax.get_xlabel()
    'predicted variance (reward$^2$)'
    """
    many = integer("n_bins", n_bins, least=1, remedy="Count the bins of the prediction.")
    seeds = named(runs)
    styles = styled(seeds)
    require_known(seeds, "group_value", "a policy with a bank that dealt something")
    ax = drawn_on(ax)
    ax.plot([0.0, 0.25], [0.0, 0.25], color=GREY, linewidth=0.8, label="calibrated")
    for name, results in seeds.items():
        value = np.concatenate([run.group_value for run in results])
        seen = np.concatenate([run.observed_variance() for run in results])
        pairs = np.stack([value, seen], axis=1)[np.isfinite(value) & np.isfinite(seen)]
        if not len(pairs):
            where = f"runs[{name!r}]" if name else "runs"
            raise ValueError(
                f"{where} must have groups of two or more rollouts, got {value.size} of one. Leave it out."
            )
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        x, y = np.array([part.mean(axis=0) for part in np.array_split(pairs, many) if len(part)]).T
        ax.plot(x, y, **styles[name].points())
    ax.set(xlabel=r"predicted variance (reward$^2$)", ylabel="variance seen\nin groups (reward$^2$)", xlim=(0.0, 0.25))
    ax.set_ylim(bottom=0.0)
    legend(ax)
    return ax


def plot_frontier(runs: Runs, ax: Axes | None = None) -> Axes:
    r"""Draw concentration against saturation: the share of the rollouts on the tenth of the prompts with the most.

    Parameters
    ----------
    runs : SimulationResult, sequence of them, or mapping of name to either
        Runs of one policy, or of policies by name, with utilities of several saturations; runs with the same name and
        saturation are seeds.
    ax : matplotlib.axes.Axes or None
        Where to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        For no runs, or a run that dealt nothing.
    TypeError
        For anything but results.

    Examples
    --------
    >>> from cero_alloc import FenchelDualAllocator, SaturatingUtility
    >>> from cero_alloc.simulation import simulate, static_pool
    >>> pool, run = static_pool(20, seed=3), {"total_budget": 1280, "n_rounds": 64, "max_rollouts": 4}
    >>> results = []
    >>> for saturation in (0.1, 1.0, 10.0):
    ...     utility = SaturatingUtility(saturation=saturation)
    ...     results.append(simulate(FenchelDualAllocator(pool.bank(), utility=utility, **run), pool, 64))
    >>> ax = plot_frontier(results)
    >>> ax.get_xlabel(), ax.get_xscale()
    ('saturation $\\lambda$ of the utility', 'log')
    """
    seeds = named(runs)
    styles = styled(seeds)
    require_known(seeds, "top_tenth", "a run that dealt something")
    ax = drawn_on(ax)
    ax.axhline(10.0, color=GREY, linewidth=0.8, label="even")
    for name, results in seeds.items():
        levels = np.array([run.utility.saturation for run in results])
        shares = np.array([100.0 * run.top_tenth for run in results])
        found, mean, _, high = band_by(levels, shares)
        ax.errorbar(found, mean, high - mean, elinewidth=0.8, capsize=1.5, **styles[name].points())
    ax.set(xlabel=r"saturation $\lambda$ of the utility", ylabel="rollouts on the top tenth\nof the prompts (%)")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_ylim(bottom=0.0)
    legend(ax)
    return ax
