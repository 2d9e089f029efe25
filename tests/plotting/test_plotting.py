"""Every figure draws on the axes it is given, or on its own, shows the numbers of the results, and can be read."""

import itertools
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from numpy.testing import assert_allclose

mpl.use("Agg")
from matplotlib import colors, pyplot
from matplotlib.text import Text

from cero_alloc import FenchelDualAllocator, Horizon, SaturatingUtility, plotting
from cero_alloc.baselines import Uniform
from cero_alloc.replay import RolloutLog, replay
from cero_alloc.simulation import RegretCurve, simulate, static_pool
from helpers.plots import RUN_PLOTS

CONSTANTS = {"total_budget": 1280, "n_rounds": 16, "max_rollouts": 8, "unit_size": 4}
AXES = {
    "plot_price": ("round", "price (share of\nthe steepest slope)"),
    "plot_pacing": ("round", "ahead of uniform\n(rollouts)"),
    "plot_exposure": ("rollouts (equal shares of the budget)", "prompts with\nat most these (%)"),
    "plot_allocation": ("posterior mean success rate", "rollouts per prompt"),
    "plot_lift": ("predicted success rate", "selection lift (1 = chance)"),
    "plot_calibration": ("predicted variance (reward$^2$)", "variance seen\nin groups (reward$^2$)"),
    "plot_mixed_groups": ("rollouts spent (thousands)", "mixed groups\nahead of twice"),
    "plot_frontier": (r"saturation $\lambda$ of the utility", "rollouts on the top tenth\nof the prompts (%)"),
}
each_run_plot = pytest.mark.parametrize("plot", RUN_PLOTS, ids=lambda plot: plot.__name__)


@pytest.fixture(scope="module")
def runs():
    pools = [static_pool(20, seed=seed) for seed in range(2)]
    return {
        "Algorithm 1": [simulate(FenchelDualAllocator(pool.bank(), **CONSTANTS), pool, 16) for pool in pools],
        "uniform": [simulate(Uniform(pool.bank(), **CONSTANTS), pool, 16) for pool in pools],
    }


@pytest.fixture(scope="module")
def priced(runs):
    """Results that every figure can show, under two names."""
    return {"once": runs["Algorithm 1"], "twice": runs["Algorithm 1"]}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def line(ax, label):
    return next(line for line in ax.get_lines() if line.get_label() == label)


class Blind:
    """A policy without a bank or a price that deals the same count to every prompt."""

    horizon = Horizon(n_prompts=20, round_capacity=80, **CONSTANTS)

    def allocate(self, prompt_ids=None, budget=None, *, exact=False):
        return np.full(20, 4)

    def update(self, prompt_ids, successes, rollouts):
        pass


@pytest.fixture(scope="module")
def blind():
    return simulate(Blind(), static_pool(20, seed=0), 16)


# ---------------------------------------------------------------- figures of runs


@each_run_plot
def test_draws_on_given_or_new_axes(plot, priced):
    _, ax = pyplot.subplots()
    assert plot(priced, ax) is ax
    fresh = plot(priced)
    assert fresh is not ax
    for drawn in (ax, fresh):
        assert (drawn.get_xlabel(), drawn.get_ylabel()) == AXES[plot.__name__]
        assert {"once", "twice"} <= set(labels(drawn))
        drawn.figure.canvas.draw()
    assert fresh.figure.get_size_inches()[0] == 3.5


@each_run_plot
def test_takes_one_run_or_seeds_without_a_name(plot, runs):
    one, seeds = runs["Algorithm 1"][0], runs["Algorithm 1"]
    for entry in (one, seeds, tuple(seeds), {"": one}):
        legend = plot(entry).get_legend()
        names = {text.get_text() for text in legend.get_texts()} if legend else set()
        assert names <= {"even", "calibrated"}
    assert plot({"a": one, "b": seeds}).get_legend() is not None


@each_run_plot
@pytest.mark.parametrize(
    ("entry", "kind", "message"),
    [
        ({}, ValueError, r"runs must name at least one policy, got runs = \{\}\. Pass what simulate"),
        ([], ValueError, r"runs must hold at least one result, got runs = \[\]\. Pass what simulate"),
        ({"a": []}, ValueError, r"runs\['a'\] must hold at least one result, got runs\['a'\] = \[\]"),
        (3, TypeError, r"runs must be one or several SimulationResult, got runs = 3"),
        ({"a": "b"}, TypeError, r"runs\['a'\] must be one or several SimulationResult, got runs\['a'\] = 'b'"),
        ([3], TypeError, r"runs\[0\] must be a SimulationResult, got runs\[0\] = 3"),
        ({"a": [None]}, TypeError, r"runs\['a'\]\[0\] must be a SimulationResult, got runs\['a'\]\[0\] = None"),
        ({1: []}, TypeError, "runs must have names as keys, got key 1"),
    ],
    ids=str,
)
def test_says_what_is_no_run(plot, entry, kind, message):
    with pytest.raises(kind, match=message):
        plot(entry)
    assert not pyplot.get_fignums()  # nothing was drawn


@pytest.mark.parametrize(
    ("plot", "message"),
    [
        (
            plotting.plot_price,
            r"runs\['blind'\]\[0\] must be of a policy with a price, got .*\.price = nan\. Leave it out",
        ),
        (
            plotting.plot_allocation,
            r"must be of a policy with a bank, got .*\.posterior_mean = nan\. Leave it out",
        ),
        (plotting.plot_lift, r"policy with a bank that dealt something, got .*\.group_mean = nan"),
        (plotting.plot_calibration, r"policy with a bank that dealt something, got .*\.group_value = nan"),
    ],
)
def test_refuses_a_policy_that_does_not_reveal_it(plot, message, blind, runs):
    with pytest.raises(ValueError, match=message):
        plot({"Algorithm 1": runs["Algorithm 1"], "blind": blind})
    with pytest.raises(ValueError, match=r"runs\[0\] must be of"):
        plot(blind)


def test_shows_a_policy_that_reveals_nothing(blind, runs):
    for plot in (plotting.plot_pacing, plotting.plot_exposure, plotting.plot_mixed_groups, plotting.plot_frontier):
        assert "blind" in labels(plot({"blind": blind, **runs}))


@pytest.mark.parametrize(
    "plot",
    [
        plotting.plot_pacing,
        plotting.plot_price,
        plotting.plot_mixed_groups,
        plotting.plot_exposure,
        plotting.plot_allocation,
    ],
)
def test_refuses_to_average_over_horizons(plot, runs):
    pool = static_pool(20, seed=0)
    short = simulate(FenchelDualAllocator(pool.bank(), **{**CONSTANTS, "n_rounds": 8}), pool, 8)
    message = (
        r"runs\['a'\]\[1\] must have the horizon of the first .* = \(20, 16, 1280\), got .* = \(20, 8, 1280\)\. Give"
    )
    with pytest.raises(ValueError, match=message):
        plot({"a": [runs["Algorithm 1"][0], short]})
    assert {"a", "b"} <= set(labels(plot({"a": runs["Algorithm 1"], "b": short})))


@pytest.mark.parametrize("plot", [plotting.plot_allocation, plotting.plot_calibration])
def test_refuses_bins_that_are_none(plot, runs):
    with pytest.raises(ValueError, match="n_bins must be at least 1, got n_bins = 0"):
        plot(runs, n_bins=0)
    with pytest.raises(TypeError, match=r"n_bins must be an integer, got n_bins = 2\.5"):
        plot(runs, n_bins=2.5)


def test_lines_are_means_over_seeds(runs):
    ours = runs["Algorithm 1"]
    shown = line(plotting.plot_pacing(runs), "Algorithm 1")
    assert_allclose(shown.get_xydata(), np.stack([np.arange(1, 17), np.mean([r.pacing_gap for r in ours], axis=0)]).T)
    price = line(plotting.plot_price({"a": ours}), "a")
    assert_allclose(price.get_ydata(), np.mean([r.price for r in ours], axis=0))
    lift = [bar.get_height() for bar in plotting.plot_lift(runs).patches[:5]]
    assert_allclose(lift, np.mean([r.lift() for r in ours], axis=0))


def test_bands_are_a_standard_deviation_over_seeds(runs):
    gaps = np.array([r.pacing_gap for r in runs["Algorithm 1"]])
    band = plotting.plot_pacing({"a": runs["Algorithm 1"]}).collections[0].get_paths()[0].vertices
    low, high = gaps.mean(axis=0) - gaps.std(axis=0, ddof=1), gaps.mean(axis=0) + gaps.std(axis=0, ddof=1)
    assert_allclose([band[:, 1].min(), band[:, 1].max()], [low.min(), high.max()])


def test_lift_leaves_out_bins_that_a_seed_never_had(runs):
    found = runs["Algorithm 1"][0]
    empty = replace(found, mean_counts=found.mean_counts * [1, 1, 1, 1, 0])
    shown = [bar.get_height() for bar in plotting.plot_lift([found, empty]).patches]
    assert_allclose(shown, found.lift())
    ax = plotting.plot_lift(empty)
    ax.figure.canvas.draw()
    assert np.isnan(ax.patches[4].get_height())


def test_mixed_groups_are_ahead_of_the_last_name(runs):
    ax = plotting.plot_mixed_groups(runs)
    assert_allclose(line(ax, "uniform").get_ydata(), 0, atol=1e-12)
    assert ax.get_ylabel() == "mixed groups\nahead of uniform"
    alone = plotting.plot_mixed_groups(runs["uniform"])
    assert alone.get_ylabel() == "mixed groups"
    r = runs["uniform"]
    total = [((x.group_successes > 0) & (x.group_successes < x.group_rollouts)).sum() for x in r]
    assert alone.get_lines()[0].get_ydata()[-1] == pytest.approx(np.mean(total))


def test_mixed_groups_stop_where_the_rollouts_do(runs):
    r = runs["uniform"][0]
    half = r.group_round < 8
    part = {
        name: getattr(r, name)[half] for name in ("group_round", "group_rollouts", "group_successes", "group_squares")
    }
    y = line(plotting.plot_mixed_groups({"half": replace(r, **part), "all": r}), "half").get_ydata()
    spent = r.group_rollouts[half].sum() / r.horizon.total_budget
    assert np.isfinite(y).sum() == int(200 * spent) + 1


def test_exposure_is_a_distribution_in_equal_shares(runs):
    shown = line(plotting.plot_exposure(runs), "Algorithm 1").get_xydata()
    share = np.sort(np.concatenate([r.exposure for r in runs["Algorithm 1"]])) * 20 / 1280
    assert_allclose(shown[1:], np.stack([share, 100 * np.arange(1, 41) / 40]).T)
    assert shown[0].tolist() == [0, 0]


def test_allocation_averages_rollouts_over_bins_of_the_posterior_mean(runs):
    r = replace(
        runs["uniform"][0],
        posterior_mean=np.array([0.02, 0.04, 0.55, 1.0] + 16 * [0.35]),
        exposure=np.array([10, 30, 8, 4] + 16 * [64]),
    )
    ax = plotting.plot_allocation(r, n_bins=10)
    assert_allclose(ax.get_lines()[1].get_xydata(), [[0.05, 20], [0.35, 64], [0.55, 8], [0.95, 4]])
    band = ax.collections[0].get_paths()[0].vertices
    assert_allclose(band[:, 1].max(), 64)
    assert_allclose(band[np.isclose(band[:, 0], 0.05), 1].max(), 20 + np.sqrt(200))
    assert line(ax, "even").get_ydata() == [64, 64]


def test_calibration_joins_bins_of_equally_many_groups(runs):
    shown = line(plotting.plot_calibration(runs, n_bins=1), "uniform").get_xydata()
    value = np.concatenate([r.group_value for r in runs["uniform"]])
    seen = np.concatenate([r.observed_variance() for r in runs["uniform"]])
    assert_allclose(shown, [[value.mean(), seen.mean()]])
    singles = replace(runs["uniform"][0], group_rollouts=np.ones_like(runs["uniform"][0].group_rollouts))
    with pytest.raises(ValueError, match=r"runs\['a'\] must have groups of two or more rollouts, got \d+ of one"):
        plotting.plot_calibration({"a": singles})


def test_frontier_shows_mean_and_spread_over_the_runs_of_a_saturation(runs):
    def run(saturation, top):  # 20 prompts: the tenth is two
        exposure = np.array([top, top] + 18 * [(100 - top) / 9])
        return replace(runs["uniform"][0], utility=SaturatingUtility(saturation=saturation), exposure=exposure)

    ax = plotting.plot_frontier({"height": [run(1.0, 16.0), run(0.1, 40.0), run(1.0, 18.0)]})
    shown, _, bars = ax.containers[0].lines
    assert_allclose(shown.get_xydata(), [[0.1, 40.0], [1.0, 17.0]])
    assert_allclose(bars[0].get_segments()[1][:, 1], [17 - np.sqrt(2), 17 + np.sqrt(2)])
    assert labels(ax) == ["even", "height"]
    ax.figure.canvas.draw()
    assert {"0.1", "1"} <= {text.get_text() for text in ax.get_xticklabels()}
    with pytest.raises(
        ValueError, match=r"runs\[0\] must be of a run that dealt something, got runs\[0\]\.top_tenth = nan"
    ):
        plotting.plot_frontier(replace(runs["uniform"][0], exposure=np.zeros(20, dtype=np.int64)))


# ---------------------------------------------------------------- figures of studies


def test_regret_shows_every_curve_and_bound():
    known = RegretCurve([16, 64], [[0.4, 0.1], [0.2, 0.3]], [[0.7, 0.35], [0.9, 0.45]])
    ax = plotting.plot_regret({"known": known, "learnt": RegretCurve([16, 64], [[0.5, 0.4]])})
    assert labels(ax) == ["known", "learnt", "bound (thin)", "slope $-1/2$"]
    assert_allclose(line(ax, "known").get_xydata(), [[16, 0.3], [64, 0.2]])
    assert_allclose(ax.get_lines()[1].get_ydata(), [0.8, 0.4])
    assert_allclose(line(ax, "slope $-1/2$").get_xydata(), [[16, 0.5], [64, 0.25]])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rounds $K$", "regret per prompt (utility)")
    _, given = pyplot.subplots()
    assert plotting.plot_regret(known, given) is given
    assert labels(given) == ["regret", "bound (thin)", "slope $-1/2$"]


def test_regret_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="curves must name at least one series"):
        plotting.plot_regret({})
    with pytest.raises(TypeError, match=r"curves\['a'\] must be a RegretCurve, got curves\['a'\] = 1"):
        plotting.plot_regret({"a": 1})
    with pytest.raises(ValueError, match=r"curves must have regret above 0 at some horizon, got curves = 0\.0"):
        plotting.plot_regret(RegretCurve([16, 64], [[0.0, -1e-15]]))


def test_regret_leaves_out_horizons_without_any():
    ax = plotting.plot_regret(RegretCurve([16, 64, 256], [[0.4, 0.0, 0.1]]))
    ax.figure.canvas.draw()
    assert np.isnan(ax.get_lines()[0].get_ydata()).tolist() == [False, True, False]


def test_epochs_shows_every_policy_with_plain_numbers():
    ax = plotting.plot_epochs(
        [1, 2, 16], {"uniform": [[13.0, 13.0, 13.0]], "ours": [[13.0, 7.0, 2.0], [12.0, 6.0, 3.0]]}
    )
    assert labels(ax) == ["uniform", "ours"]
    assert_allclose(ax.lines[1].get_ydata(), [12.5, 6.5, 2.5])
    ax.figure.canvas.draw()
    assert {"1", "2", "16"} <= {text.get_text() for text in ax.get_xticklabels()}
    assert "5" in {text.get_text() for text in ax.get_yticklabels()}
    with pytest.raises(ValueError, match=r"regret must name at least one series, got regret = \{\}"):
        plotting.plot_epochs([1], {})


def test_comparison_is_in_order_with_intervals():
    scores = {"even": {"A": [1.0, 3.0], "B": [2.0, 3.0]}, "greedy": {"A": [4.0, 4.5], "B": [3.0, 3.5]}}
    ax = plotting.plot_comparison(scores, label="groups per 1,000 rollouts", log=True)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["greedy", "even"]
    assert ax.get_xscale() == "log"
    dots, _, (bars,) = ax.containers[0].lines
    assert_allclose(dots.get_xdata(), [4.25, 2.0])
    assert_allclose(bars.get_segments()[1][:, 0], 2.0 + np.array([-1, 1]) * 12.706205)  # t of one degree, error 1
    with pytest.raises(ValueError, match=r"scores\['a'\]\['A'\] must have at least two seeds, got .* = \[1\.0\]"):
        plotting.plot_comparison({"a": {"A": [1.0]}}, label="x")
    with pytest.raises(ValueError, match="scores must name at least one series"):
        plotting.plot_comparison({}, label="x")


def test_replay_refuses_anything_else():
    with pytest.raises(TypeError, match="result must be a ReplayResult, got result = 3"):
        plotting.plot_replay(3)


# ---------------------------------------------------------------- legibility


def many(runs, number):
    return {f"policy number {i}": runs["Algorithm 1"] for i in range(number)}


STUDIES = {
    "regret": lambda n: plotting.plot_regret({f"policy number {i}": RegretCurve([16, 64], [[2, 1]]) for i in range(n)}),
    "epochs": lambda n: plotting.plot_epochs([1, 2], {f"policy number {i}": [[2.0, 1.0]] for i in range(n)}),
    "comparison": lambda n: plotting.plot_comparison(
        {"a": {f"pool number {i}": [2.0, 1.0] for i in range(n)}}, label="groups per 1,000 rollouts"
    ),
}


@pytest.fixture(params=[*RUN_PLOTS, *STUDIES], ids=lambda entry: getattr(entry, "__name__", entry))
def drawing(request, runs):
    """A figure of so many series."""
    if request.param in STUDIES:
        return STUDIES[request.param]
    return lambda number: request.param(many(runs, number))


def assert_readable(ax):
    ax.figure.canvas.draw()
    box = ax.figure.get_tightbbox()  # inches, of all that is drawn
    width, height = ax.figure.get_size_inches()
    assert min(box.x0, box.y0) >= -0.01
    assert box.x1 <= width + 0.01
    assert box.y1 <= height + 0.01
    assert min(text.get_fontsize() for text in ax.findobj(Text)) >= 7.0


@pytest.mark.parametrize("number", [1, 3, 9])
def test_text_is_large_enough_inside_and_covers_nothing(drawing, number):
    ax = drawing(number)
    assert_readable(ax)
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1 - 1.0


def test_text_of_given_axes_is_theirs(runs):
    with mpl.rc_context({"font.size": 16}):
        _, ax = pyplot.subplots()
        plotting.plot_pacing(runs, ax)
    assert ax.xaxis.label.get_fontsize() == 16
    assert ax.get_legend().get_texts()[0].get_fontsize() == 14


def test_a_replay_has_large_enough_text_inside():
    prompt, step = np.repeat(np.arange(6), 2), np.zeros(12)
    log = RolloutLog.of_rows(tuple("abcdef"), prompt, step, np.tile([0.0, 1.0], 6), np.full(12, 4), n_lines=12)
    ax = plotting.plot_replay(replay(log, {f"policy number {i}": Uniform for i in range(9)}, n_boot=10))
    assert_readable(ax)


def luminance(color):
    """Relative luminance: what is left of a colour in grey-scale."""
    return float(linear(color) @ [0.2126, 0.7152, 0.0722])


def linear(color):
    v = np.array(colors.to_rgb(color))
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* of linear sRGB."""
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    xyz = to_xyz @ np.clip(rgb, 0, 1) / to_xyz.sum(axis=1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def looks(ax):
    """What grey-scale leaves of every series: luminance, dashes or hatch, marker."""
    bars = [bars for bars in ax.containers if hasattr(bars, "patches") and bars.get_label().startswith("p")]
    if bars:
        return [(luminance(bar.patches[0].get_facecolor()), bar.patches[0].get_hatch(), None) for bar in bars]
    lines = [entry for entry in ax.get_lines() if entry.get_label().startswith("p")]
    lines = lines or [box.lines[0] for box in ax.containers]
    return [(luminance(entry.get_color()), str(entry._dash_pattern), entry.get_marker()) for entry in lines]


def test_grey_scale_distinguishes_the_series(drawing):
    seen = looks(drawing(7))
    assert len(seen) == 7
    for (grey, stroke, marker), (other, other_stroke, other_marker) in itertools.combinations(seen, 2):
        assert stroke != other_stroke or marker != other_marker or abs(grey - other) > 0.2


def test_more_series_than_colours_stay_different(drawing):
    seen = looks(drawing(9))
    assert len(set(seen)) == 9


@pytest.mark.parametrize(
    "vision",
    [  # Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
        pytest.param(np.eye(3), id="normal"),
        pytest.param(
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
            id="deuteranopia",
        ),
        pytest.param(
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
            id="protanopia",
        ),
    ],
)
def test_colours_are_distinguishable(vision):
    seen = [lab(vision @ linear(color)) for color in plotting.COLORS]
    for first, second in itertools.combinations(seen, 2):
        assert np.linalg.norm(first - second) > 15.0  # 2.3 is just noticeable
