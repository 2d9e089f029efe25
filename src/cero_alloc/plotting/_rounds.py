"""Figures over the rounds of a run, and over the rollouts spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cero_alloc._checks import FloatArray
from cero_alloc.simulation import SimulationResult

from ._axes import GREY, draw_band, drawn_on, legend
from ._runs import Runs, named, require_equal_horizons, require_known
from ._styles import styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_pacing(runs: Runs, ax: Axes | None = None) -> Axes:
    r"""Draw the rollouts spent ahead of the uniform schedule after every round.

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
        For no runs, or seeds of one name with different horizons.
    TypeError
        For anything but results.

    References
    ----------
    arXiv 2610.09679 reports the peak of this curve and its end for the paper's run.

    Examples
    --------
    >>> from cero_alloc import FenchelDualAllocator
    >>> from cero_alloc.simulation import simulate, static_pool
    >>> pool = static_pool(16, seed=3)
    >>> policy = FenchelDualAllocator(pool.bank(), total_budget=16 * 64, n_rounds=64, max_rollouts=2)
    >>> plot_pacing(simulate(policy, pool, 64)).get_ylabel()
    'ahead of uniform\n(rollouts)'
    """
    seeds = named(runs)
    styles = styled(seeds)
    require_equal_horizons(seeds)
    ax = drawn_on(ax)
    ax.axhline(0.0, color=GREY, linewidth=0.8)
    for name, results in seeds.items():
        draw_band(ax, styles[name], np.arange(1, results[0].horizon.n_rounds + 1), [run.pacing_gap for run in results])
    ax.set(xlabel="round", ylabel="ahead of uniform\n(rollouts)")
    legend(ax)
    return ax


def plot_price(runs: Runs, ax: Axes | None = None) -> Axes:
    r"""Draw the price of a rollout after every round, as a share of the steepest slope of the utility.

    A prompt is worth dealing to while its slope exceeds the price :math:`\nu_k`. A rising price means that the run spends
    faster than its budget allows.

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
        For no runs, seeds of one name with different horizons, or a policy without a price.
    TypeError
        For anything but results.

    References
    ----------
    Algorithm 1 of arXiv 2610.09679.

    Examples
    --------
    >>> from cero_alloc import FenchelDualAllocator
    >>> from cero_alloc.simulation import simulate, static_pool
    >>> pool = static_pool(16, seed=3)
    >>> policy = FenchelDualAllocator(pool.bank(), total_budget=16 * 64, n_rounds=64, max_rollouts=2)
    >>> plot_price(simulate(policy, pool, 64)).get_ylabel()
    'price (share of\nthe steepest slope)'
    """
    seeds = named(runs)
    styles = styled(seeds)
    require_equal_horizons(seeds)
    require_known(seeds, "price", "a policy with a price")
    ax = drawn_on(ax)
    for name, results in seeds.items():
        draw_band(ax, styles[name], np.arange(1, results[0].horizon.n_rounds + 1), [run.price for run in results])
    ax.set(xlabel="round", ylabel="price (share of\nthe steepest slope)")
    ax.set_ylim(bottom=0.0)
    legend(ax)
    return ax


def plot_mixed_groups(runs: Runs, ax: Axes | None = None) -> Axes:
    r"""Draw the number of mixed groups, with both successes and failures, against the rollouts spent.

    With several policies, the last one is the baseline, and lines show the difference from it.

    Parameters
    ----------
    runs : SimulationResult, sequence of them, or mapping of name to either
        One run, seeds of one policy, or policies by name, the baseline last.
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
    arXiv 2610.09679 reports the share of mixed groups (there "effective") of Algorithm 1 and its controls at equal rollouts.

    Examples
    --------
    >>> from cero_alloc.baselines import Greedy, Uniform
    >>> from cero_alloc.simulation import simulate, static_pool
    >>> pool, run = static_pool(16, seed=3), {"total_budget": 1024, "n_rounds": 16, "max_rollouts": 8, "unit_size": 4}
    >>> runs = {policy.__name__: simulate(policy(pool.bank(), **run), pool, 16) for policy in (Greedy, Uniform)}
    >>> plot_mixed_groups(runs).get_ylabel()
    'mixed groups\nahead of uniform'
    """
    seeds = named(runs)
    styles = styled(seeds)
    require_equal_horizons(seeds)
    ax = drawn_on(ax)
    *_, baseline = seeds
    alone = len(seeds) == 1
    spent = np.linspace(0.0, max(results[0].horizon.total_budget for results in seeds.values()), 201)
    base = 0.0 if alone else np.mean([_mixed_by(run, spent) for run in seeds[baseline]], axis=0)
    for name, results in seeds.items():
        draw_band(ax, styles[name], spent / 1000.0, [_mixed_by(run, spent) - base for run in results])
    against = "" if alone else f"\nahead of {styles[baseline].label}"
    ax.set(xlabel="rollouts spent (thousands)", ylabel=f"mixed groups{against}")
    legend(ax)
    return ax


def _mixed_by(run: SimulationResult, spent: FloatArray) -> FloatArray:
    """Return the mixed groups after ``spent`` rollouts; NaN beyond the rollouts of the run."""
    by = np.append(0, np.cumsum(run.group_rollouts))
    reached: FloatArray = np.interp(spent, by, np.append(0, np.cumsum(run.mixed)), right=np.nan)
    return reached
