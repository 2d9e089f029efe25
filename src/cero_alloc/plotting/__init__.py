"""Figures of results; matplotlib is imported when the first figure is drawn.

Every function draws on ``ax`` and returns it. Without ``ax`` it makes new axes for a paper's column, 3.5 inches wide, with
7 and 8 point text. Colours are the Okabe-Ito set, which colour-blind readers can distinguish; dashes, markers and hatches
make the same distinction in grey-scale print. A policy has one colour, dash and name in every figure, whatever else is
drawn, and the re-solving allocator has the strongest line; :func:`policy_styles` gives the same styles to other figures.
``COLORS``, ``DASHES`` and ``MARKERS`` are public as well. The legend is above the axes, where it covers no data.

Results under one name are seeds of one policy: lines show their mean, bands and error bars one standard deviation on each
side.
"""

from ._prompts import plot_allocation, plot_calibration, plot_exposure, plot_frontier, plot_lift
from ._replayed import plot_replay
from ._rounds import plot_mixed_groups, plot_pacing, plot_price
from ._studies import plot_comparison, plot_epochs, plot_regret
from ._styles import COLORS, DASHES, MARKERS, policy_styles

__all__ = [
    "COLORS",
    "DASHES",
    "MARKERS",
    "plot_allocation",
    "plot_calibration",
    "plot_comparison",
    "plot_epochs",
    "plot_exposure",
    "plot_frontier",
    "plot_lift",
    "plot_mixed_groups",
    "plot_pacing",
    "plot_price",
    "plot_regret",
    "plot_replay",
    "policy_styles",
]
