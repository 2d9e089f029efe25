"""The picture of one prompt's belief along a run, under forgetting and under drift and trend."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cero_alloc import BetaPosteriorBank
from studies.common.pictures import without_screen

from .forecasts import history
from .runs import Groups

_EVERY = 11  # visits between two looks at the prompt that is shown; the others are looked at in every visit


def draw(groups: Groups, file: Path) -> None:
    """Draw mean and 90% interval of one prompt by visit, beside what came out.

    Of the prompts whose rate in the first half of the run was between 0.6 and 0.8, far from the prior's mean, it is the one
    with the median rise.
    """
    size, visits = groups.successes.shape
    half = visits // 2
    rates = groups.successes / groups.trials
    first = rates[:, :half].mean(axis=1)
    middle = np.flatnonzero((first >= 0.6) & (first <= 0.8))
    rise = rates[middle, half:].mean(axis=1) - first[middle]
    shown = int(middle[np.argsort(rise)[rise.size // 2]])
    fit = BetaPosteriorBank(size).fit_drift(history(groups, "every visit"))
    prior = (fit.alpha, fit.beta)
    banks = {
        "forgetting 0.9": BetaPosteriorBank(size, prior=prior, forgetting=0.9),
        f"drift {fit.drift:.2g}, trend {fit.trend:.2g}": BetaPosteriorBank(
            size, prior=prior, drift=fit.drift, trend=fit.trend
        ),
    }
    plt = without_screen()
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    for axis, (name, bank), colour in zip(axes, banks.items(), ("#b0552d", "#2d6fb0"), strict=True):
        band = np.empty((visits, 3))
        for visit in range(visits):
            bank.tick(int(visit > 0))
            low, high = bank.interval(0.9, [shown])
            band[visit] = low[0], bank.mean([shown])[0], high[0]
            rows = np.arange(size)
            if visit % _EVERY:
                rows = np.delete(rows, shown)
            bank.update(rows, groups.successes[rows, visit], groups.trials[rows, visit])
        time = np.arange(visits)
        axis.fill_between(time, band[:, 0], band[:, 2], color=colour, alpha=0.2, linewidth=0, label="90% interval")
        axis.plot(time, band[:, 1], color=colour, linewidth=2, label="posterior mean")
        told = time % _EVERY == 0
        axis.plot(time[told], rates[shown, told], "o", color="black", markersize=5, label="group that the bank saw")
        axis.plot(
            time[~told], rates[shown, ~told], "o", color="grey", markersize=3, alpha=0.6, label="group that it did not"
        )
        axis.set_title(name)
        axis.set_xlabel("visit")
        axis.legend(frameon=False, fontsize=8, loc="lower right")
    axes[0].set_ylabel("success rate of one prompt")
    figure.savefig(file, dpi=120)
    plt.close(figure)
