"""Pictures without a screen."""

from __future__ import annotations

from typing import Any


def without_screen() -> Any:
    """Return ``matplotlib.pyplot``, set to draw into files; imported only where something is drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
