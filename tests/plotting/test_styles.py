"""A policy has one colour, dash and name, whatever else a figure shows, and no other policy's."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
from matplotlib import pyplot
from matplotlib.colors import to_hex

from cero_alloc import FenchelDualAllocator, ResolvingAllocator, plotting
from cero_alloc.baselines import CONTROLS, PEERS, Greedy, Uniform
from cero_alloc.plotting import _styles
from cero_alloc.replay import RolloutLog, replay
from cero_alloc.simulation import RegretCurve, simulate, static_pool
from helpers.plots import RUN_PLOTS

KINDS = {
    "FenchelDualAllocator": FenchelDualAllocator,
    "Uniform": Uniform,
    "ResolvingAllocator": ResolvingAllocator,
    "Greedy": Greedy,
}
NAMES = {
    "FenchelDualAllocator": "Algorithm 1",
    "Uniform": "uniform",
    "ResolvingAllocator": "re-solving",
    "Greedy": "greedy",
}
PLOTS = [plot for plot in RUN_PLOTS if plot is not plotting.plot_price]  # not every policy has a price


@pytest.fixture(scope="module")
def runs():
    pool, run = static_pool(20, seed=0), {"total_budget": 1280, "n_rounds": 16, "max_rollouts": 8, "unit_size": 4}
    return {name: simulate(kind(pool.bank(), **run), pool, 16) for name, kind in KINDS.items()}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def drawn(ax):
    """Return colour and dashes, or hatch, of every series by its name in the legend."""
    handles, names = ax.get_legend_handles_labels()
    found = {}
    for handle, name in zip(handles, names, strict=True):
        if hasattr(handle, "patches"):
            found[name] = (to_hex(handle.patches[0].get_facecolor()), handle.patches[0].get_hatch())
        else:
            line = handle[0] if isinstance(handle, tuple) else handle
            found[name] = (to_hex(line.get_color()), str(line._dash_pattern))
    return found


def looks(name):
    """Return how the series of a name is drawn by itself, in lines and in bars."""
    figure, (left, right) = pyplot.subplots(1, 2)
    left.plot([0], **plotting.policy_styles([name])[name])
    right.bar([0], [1], **_styles.styled([name])[name].bars())
    found = drawn(left), drawn(right)
    pyplot.close(figure)
    return found


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_a_policy_looks_alike_in_every_figure_and_order(plot, runs):
    for names in (list(KINDS), list(KINDS)[::-1], ["Greedy"]):
        shown = drawn(plot({name: runs[name] for name in names}))
        for name in names:
            expected = looks(name)[plot is plotting.plot_lift]
            assert shown[NAMES[name]] == expected[NAMES[name]]


def test_studies_draw_the_same_styles(runs):
    styles = {NAMES[name]: looks(name)[0][NAMES[name]] for name in KINDS}
    epochs = drawn(plotting.plot_epochs([1, 2], {name: [[2.0, 1.0]] for name in KINDS}))
    curves = drawn(plotting.plot_regret({name: RegretCurve([16, 64], [[2, 1]]) for name in KINDS}))
    priced = [name for name in KINDS if np.isfinite(runs[name].price).any()]
    prices = drawn(plotting.plot_price({name: runs[name] for name in priced}))
    for name, style in styles.items():
        assert epochs[name] == style
        assert curves[name] == style
    assert prices == {NAMES[name]: styles[NAMES[name]] for name in priced}


def test_rows_have_the_same_names_and_ours_is_bold():
    scores = {name: {"A": [i, i + 1.0]} for i, name in enumerate(KINDS)}
    prompt, step = np.repeat(np.arange(6), 2), np.zeros(12)
    log = RolloutLog.of_rows(tuple("abcdef"), prompt, step, np.tile([0.0, 1.0], 6), np.full(12, 4), n_lines=12)
    replayed = replay(log, {name: kind for name, kind in KINDS.items() if name != "Uniform"}, n_boot=10)
    for ax in (plotting.plot_comparison(scores, label="score"), plotting.plot_replay(replayed)):
        rows = {tick.get_text(): tick.get_fontweight() for tick in ax.get_yticklabels()}
        assert set(NAMES.values()) <= set(rows)
        assert [name for name, weight in rows.items() if weight == "bold"] == ["re-solving"]


def test_names_of_one_policy_give_one_style():
    for names in _styles._POLICIES:
        for name in (*names, *(name.upper() for name in names)):
            assert plotting.policy_styles([name])[name] == plotting.policy_styles([names[0]])[names[0]]
    for kind in (*PEERS, *CONTROLS):  # class and published name are one, where either is known
        title = kind.title or kind.__name__
        if title.lower() in _styles._NUMBERS or kind.__name__.lower() in _styles._NUMBERS:
            assert _styles._NUMBERS[title.lower()] == _styles._NUMBERS[kind.__name__.lower()]


def test_policies_differ_in_colour_and_dash_together():
    known = plotting.policy_styles(names[0] for names in _styles._POLICIES)
    others = plotting.policy_styles(f"other {i}" for i in range(28))
    seen = {(style["color"], str(style["linestyle"])) for style in (*known.values(), *others.values())}
    assert len(seen) == len(known) + len(others) == len(_styles.COLORS) * len(_styles.DASHES)
    bars = _styles.styled([*known, *others]).values()
    assert len({(style.bars()["color"], style.bars()["hatch"]) for style in bars}) == len(seen)


def test_other_names_keep_their_order_whatever_known_policies_stand_between():
    alone = plotting.policy_styles(["mine", "yours"])
    between = plotting.policy_styles(["uniform", "mine", "Algorithm 1", "yours"])
    assert (between["mine"], between["yours"]) == (alone["mine"], alone["yours"])


def test_two_names_of_one_policy_in_a_figure_stay_apart():
    styles = plotting.policy_styles(["FenchelDual", "Algorithm 1", "DAPO"])
    looks = [(style["label"], style["color"], str(style["linestyle"])) for style in styles.values()]
    assert [label for label, *_ in looks] == ["FenchelDual", "Algorithm 1", "DAPO"]
    assert all(a[1:] != b[1:] for a, b in itertools.combinations(looks, 2))


def test_another_setting_has_the_policys_name():
    labels = {name: style["label"] for name, style in plotting.policy_styles(
        ["Resolving 0.3", "ResolvingAllocator, mine", "FenchelDual, forgetting 0.98", "ResolvingAllocator, fit_every=5"]
    ).items()}  # fmt: skip
    assert list(labels.values()) == [
        "re-solving 0.3", "re-solving, mine", "Algorithm 1, forgetting 0.98", "re-solving, fitted"
    ]  # fmt: skip


def test_the_recommended_line_is_widest_and_on_top():
    styles = plotting.policy_styles(names[0] for names in _styles._POLICIES)
    ours = [styles[name] for name in _styles._STRONGEST]
    rest = [style for name, style in styles.items() if name not in _styles._STRONGEST]
    for key in ("linewidth", "zorder"):
        assert min(style[key] for style in ours) > max(style[key] for style in rest)


@pytest.mark.parametrize("names", ["uniform", ["uniform", 3]])
def test_names_are_several_strings(names):
    with pytest.raises(TypeError, match=r"names must be several strings, got names = .*\. Pass a list with the names"):
        plotting.policy_styles(names)
