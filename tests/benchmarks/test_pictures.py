"""Names at the ends of lines: readable, apart, and on the side of their lines."""

from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
from matplotlib import pyplot

from cero_alloc.plotting import COLORS
from studies.common.pictures import label_ends, readable


@pytest.fixture
def ax():
    figure, ax = pyplot.subplots()
    yield ax
    pyplot.close(figure)


def test_names_of_lines_that_end_together_do_not_touch(ax):
    for i in range(6):
        ax.plot([0, 1], [i, 0.01 * i], label=f"policy {i}")
    ax.plot([0, 0.2], [1, 0], label="short")
    ax.plot([0, 1], [3, 3])  # without a name
    ax.figure.canvas.draw()
    label_ends(ax, 8.0, bold="policy 3")
    ax.figure.canvas.draw()
    names = sorted(ax.texts, key=lambda text: text.get_window_extent().y0)
    beside = [text for text in names if text.get_text() != "short"]
    assert [text.get_text() for text in beside] == [f"policy {i}" for i in range(6)]
    boxes = [text.get_window_extent() for text in beside]
    size = 8.0 * ax.figure.dpi / 72.0
    assert all(lower.y0 + size <= upper.y0 for lower, upper in pairwise(boxes))
    assert min(box.x0 for box in boxes) > ax.transData.transform((1, 0))[0]
    assert [text.get_text() for text in names if text.get_fontweight() == "bold"] == ["policy 3"]
    (short,) = (text for text in names if text.get_text() == "short")
    assert short.get_position()[1] == 0.0  # nothing ends beside it, so that it stays at its line


def test_a_name_is_beside_the_last_known_point(ax):
    ax.plot([0, 1, 2], [1.0, 2.0, np.nan], label="stopped")
    label_ends(ax, 8.0)
    assert tuple(ax.texts[0].xy) == (1, 2)


@pytest.mark.parametrize("color", [*COLORS, "0.7", "white"])
def test_text_has_contrast_on_white(color):
    rgb = np.array(readable(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    assert 1.05 / (linear + 0.05) > 3.9
