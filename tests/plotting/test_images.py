"""Every figure is unchanged since its last review: its picture against the one in tests/plotting/images.

Pictures are compared without text. Its shapes depend on the version of FreeType, and by them the place of everything
else; labels, sizes and what may cover what are checked as numbers in test_plotting.py. What is left, lines and areas on
axes of fixed size, Agg draws alike everywhere.
"""

from functools import cache
from itertools import product
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
from matplotlib import pyplot
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text

from cero_alloc import FenchelDualAllocator, ResolvingAllocator, SaturatingUtility, plotting
from cero_alloc.baselines import Greedy, Uniform
from cero_alloc.plotting import _replayed, _studies, _styles
from cero_alloc.replay import RolloutLog, replay
from cero_alloc.simulation import RegretCurve, known_bank, simulate, static_pool

BASELINES = Path(__file__).parent / "images"
# Root mean square over the pixels, of 255. Matplotlib 3.8.4 and 3.11.2 draw eleven of the pictures pixel by pixel alike,
# and the comparison 1.07 apart; the least change of test_the_tolerance_detects_a_change makes 2.2.
TOLERANCE = 1.5


@cache
def runs():
    """Three policies on two pools of 24 prompts."""
    constants = {"total_budget": 1536, "n_rounds": 16, "max_rollouts": 8, "unit_size": 4}
    pools = [static_pool(24, 0.6, 0.6, seed=seed) for seed in range(2)]
    return {
        policy.__name__: [simulate(policy(pool.bank(), **constants), pool, 16, seed=i) for i, pool in enumerate(pools)]
        for policy in (FenchelDualAllocator, Greedy, Uniform)
    }


def priced():
    return {"Algorithm 1": runs()["FenchelDualAllocator"]}


@cache
def frontier():
    found = {}
    for scaling, seed, saturation in product(("rate", "height"), range(2), (0.1, 0.3, 1.0, 3.0, 10.0)):
        pool, utility = static_pool(20, 0.6, 0.6, seed=seed), SaturatingUtility(scaling=scaling, saturation=saturation)
        policy = ResolvingAllocator(pool.bank(), total_budget=320, n_rounds=8, max_rollouts=8, utility=utility)
        found.setdefault(scaling, []).append(simulate(policy, pool, 8, seed=seed))
    return found


@cache
def curves():
    found = {}
    for name in ("known", "learnt"):
        results = []
        for n_rounds in (16, 32, 64):
            for seed in range(2):
                pool = static_pool(16, seed=seed)
                bank = known_bank(pool) if name == "known" else pool.bank()
                policy = FenchelDualAllocator(bank, total_budget=16 * n_rounds, n_rounds=n_rounds, max_rollouts=2)
                results.append(simulate(policy, pool, n_rounds, seed=seed, feedback=name == "learnt"))
        found[name] = RegretCurve.of(results)
    return found


EPOCHS = {"uniform": [[13.0, 13.0, 13.0]] * 2, "re-solving": [[13.0, 7.0, 2.0], [12.0, 6.0, 3.0]]}
SCORES = {"even": {"A": [1.0, 2.0], "B": [2.0, 3.0]}, "greedy": {"A": [4.0, 4.5], "B": [3.0, 3.5]}}


@cache
def replayed():
    rng = np.random.default_rng(0)
    prompt, step = np.repeat(np.tile(np.arange(60), 3), 2), np.repeat(np.arange(3.0), 120)
    won = rng.binomial(8, rng.beta(0.6, 0.6, 60)[prompt[::2]])
    reward, rollouts = np.tile([0.0, 1.0], 180), np.stack([8 - won, won], axis=1).ravel()
    some = rollouts > 0
    names = tuple(f"p{i}" for i in range(60))
    log = RolloutLog.of_rows(names, prompt[some], step[some], reward[some], rollouts[some], n_lines=int(some.sum()))
    return replay(log, {"greedy": Greedy}, n_boot=20)


PICTURES = {
    "pacing": lambda ax: plotting.plot_pacing(runs(), ax),
    "price": lambda ax: plotting.plot_price(priced(), ax),
    "mixed_groups": lambda ax: plotting.plot_mixed_groups(runs(), ax),
    "exposure": lambda ax: plotting.plot_exposure(runs(), ax),
    "allocation": lambda ax: plotting.plot_allocation(runs(), ax, n_bins=6),
    "lift": lambda ax: plotting.plot_lift(runs(), ax),
    "calibration": lambda ax: plotting.plot_calibration(runs(), ax),
    "frontier": lambda ax: plotting.plot_frontier(frontier(), ax),
    "regret": lambda ax: plotting.plot_regret(curves(), ax),
    "epochs": lambda ax: plotting.plot_epochs([1, 2, 16], EPOCHS, ax),
    "comparison": lambda ax: plotting.plot_comparison(SCORES, ax, label="groups"),
    "replay": lambda ax: plotting.plot_replay(replayed(), ax),
}


def draw(name):
    """Return a figure without text, its axes as large as a paper's column."""
    figure = pyplot.figure(figsize=(3.5, 2.6))
    ax = PICTURES[name](figure.add_axes((0.03, 0.03, 0.94, 0.94)))
    ax.get_legend().remove()
    for text in ax.findobj(Text):
        text.set_visible(False)
    return figure


@pytest.mark.mpl_image_compare(
    baseline_dir=BASELINES.name, style="default", tolerance=TOLERANCE, savefig_kwargs={"dpi": 100}
)
@pytest.mark.parametrize("name", PICTURES)
def test_picture(name):
    return draw(name)


def test_every_figure_has_its_picture():
    drawn = {f"plot_{name}" for name in PICTURES}
    assert drawn == {name for name in plotting.__all__ if name.startswith("plot_")}
    assert {file.name for file in BASELINES.iterdir()} == {f"test_picture_{name}.png" for name in PICTURES}


CHANGES = {
    "colours": ("COLORS", lambda colors: colors[1:] + colors[:1]),
    "dashes": ("DASHES", lambda dashes: dashes[1:] + dashes[:1]),
    "markers": ("MARKERS", lambda markers: markers[1:] + markers[:1]),
    "hatches": ("HATCHES", lambda hatches: hatches[1:] + hatches[:1]),
}
WITHOUT = {  # what a figure has not got; the markers of a replay are its own
    "dashes": {"lift", "comparison", "replay"},
    "markers": {"pacing", "price", "mixed_groups", "exposure", "lift", "epochs", "replay"},
    "hatches": set(PICTURES) - {"lift"},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", PICTURES)
def test_the_tolerance_detects_a_change(name, change, monkeypatch, tmp_path):
    constant, changed = CHANGES[change]
    for module in (_replayed, _studies, _styles):
        if hasattr(module, constant):
            monkeypatch.setattr(module, constant, changed(getattr(module, constant)))
    with mpl.style.context("default"):
        figure = draw(name)
        figure.savefig(tmp_path / "changed.png", dpi=100)
    pyplot.close(figure)
    difference = compare_images(BASELINES / f"test_picture_{name}.png", tmp_path / "changed.png", TOLERANCE)
    assert (difference is None) == (name in WITHOUT.get(change, ()))
