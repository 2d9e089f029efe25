"""Figures of results; matplotlib is loaded when one is drawn.

Every function draws on ``ax``, or on new axes 3.5 inches wide, the width of a paper's column, with text of 7 and 8
points; it returns the axes. Colours are the Okabe-Ito set, which colour-blind readers tell apart; dashes, markers and
hatches repeat the distinction for grey-scale print; ``COLORS``, ``DASHES`` and ``MARKERS`` are there for figures of your
own. The legend stands above the axes, where it covers no data.

Results of one name are seeds of one policy: a line is their mean, a band or an error bar one standard deviation to each
side.
"""

from ._axes import COLORS, DASHES, MARKERS
from ._prompts import plot_allocation, plot_calibration, plot_exposure, plot_frontier, plot_lift
from ._replayed import plot_replay
from ._rounds import plot_mixed_groups, plot_pacing, plot_price
from ._studies import plot_comparison, plot_epochs, plot_regret

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
]
