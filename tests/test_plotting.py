"""Every figure draws on the axes it is given, or on its own, and shows the numbers of the results."""

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
from matplotlib import pyplot

from cero_alloc import FenchelDualAllocator, plotting
from cero_alloc.baselines import Uniform
from cero_alloc.simulation import simulate, static_pool

RUN_PLOTS = [
    plotting.plot_pacing,
    plotting.plot_exposure,
    plotting.plot_lift,
    plotting.plot_calibration,
    plotting.plot_effective_groups,
]


@pytest.fixture(scope="module")
def runs():
    kwargs = {"total_budget": 1280, "n_rounds": 16, "max_rollouts": 8, "group_size": 4}
    pools = [static_pool(20, seed=seed) for seed in range(2)]
    return {
        "Algorithm 1": [simulate(FenchelDualAllocator(pool.bank(), **kwargs), pool, 16) for pool in pools],
        "uniform": [simulate(Uniform(pool.bank(), **kwargs), pool, 16) for pool in pools],
    }


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


@pytest.mark.parametrize("plot", RUN_PLOTS, ids=lambda plot: plot.__name__)
def test_draws_on_given_or_new_axes(plot, runs):
    _, ax = pyplot.subplots()
    assert plot(runs, ax) is ax
    fresh = plot(runs)
    assert fresh is not ax
    for drawn in (ax, fresh):
        assert drawn.get_xlabel()
        assert drawn.get_ylabel()
        assert {"Algorithm 1", "uniform"} <= {text.get_text() for text in drawn.get_legend().get_texts()}
        drawn.figure.canvas.draw()


def test_lines_are_means_over_seeds(runs):
    line = plotting.plot_pacing(runs).get_lines()[1]  # the first one is the zero line
    np.testing.assert_allclose(line.get_ydata(), np.mean([r.pacing_gap for r in runs["Algorithm 1"]], axis=0))
    lift = [bar.get_height() for bar in plotting.plot_lift(runs).patches[:5]]
    np.testing.assert_allclose(lift, np.mean([r.lift() for r in runs["Algorithm 1"]], axis=0))
    base = plotting.plot_effective_groups(runs).get_lines()[-1]
    np.testing.assert_allclose(base.get_ydata(), 0, atol=1e-12)


def test_regret_shows_every_curve_and_bound():
    regret = {"known": [[0.4, 0.1], [0.2, 0.3]], "learnt": [[0.5, 0.4]]}
    ax = plotting.plot_regret([16, 64], regret, {"known": [[0.7, 0.35]]})
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["regret, known", "bound, known", "regret, learnt", "slope $-1/2$"]
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), [0.3, 0.2])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_epochs_shows_every_policy_with_plain_numbers():
    ax = plotting.plot_epochs(
        [1, 2, 16], {"uniform": [[13.0, 13.0, 13.0]], "ours": [[13.0, 7.0, 2.0], [12.0, 6.0, 3.0]]}
    )
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"uniform", "ours"}
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [12.5, 6.5, 2.5])
    ax.figure.canvas.draw()
    assert {"1", "2", "16"} <= {text.get_text() for text in ax.get_xticklabels()}
    assert "5" in {text.get_text() for text in ax.get_yticklabels()}


def test_allocation_averages_exposure_over_bins_of_the_rate():
    _, ax = pyplot.subplots()
    assert plotting.plot_allocation({"a": ([0.02, 0.04, 0.5, 1.0], [1.0, 2.0, 3.0, 0.5])}, ax, n_bins=10) is ax
    np.testing.assert_allclose(ax.lines[1].get_xydata(), [[0.05, 1.5], [0.55, 3.0], [0.95, 0.5]])


def test_frontier_shows_mean_and_spread_over_seeds():
    ax = plotting.plot_frontier({"height": [[1.0, 16.0], [0.1, 40.0], [1.0, 18.0]]})
    line = ax.containers[0].lines[0]
    np.testing.assert_allclose(line.get_xydata(), [[0.1, 40.0], [1.0, 17.0]])
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"even", "height"}
