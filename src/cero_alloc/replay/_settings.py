"""The settings that a log recommends: prior, forgetting and saturation, and how well the values were calibrated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, SupportsIndex

import numpy as np

from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.calibration import Calibration
from cero_alloc._evidence.drift import ForgettingChoice
from cero_alloc._evidence.prior import PriorFit
from cero_alloc._objective.utility import SaturatingUtility

from ._log import RolloutLog
from ._replay import Offer, ReplayResult, ReplayRow, least_cap, least_group, replay, resolving

SATURATIONS = (0.25, 0.5, 1.0, 2.0, 4.0)

_SAMPLE = 2500  # prompts

# An honest value near 0 is a reason not to look again; the flat prior overrates what it does not know, which explores.
_EXPLORATION = 0.5  # posterior standard deviations, with a fitted prior


@dataclass(frozen=True, slots=True, eq=False)
class LearntSettings:
    """What the log says of the prior and of forgetting.

    Attributes
    ----------
    prior_fit : PriorFit
        The prior fitted to all evidence of the log, or why Beta(1, 1) stays.
    forgetting : ForgettingChoice
        Share of the evidence that should survive a step, and the scores of the others.
    before, after : Calibration
        Of a bank that saw the log step by step with Beta(1, 1) and no forgetting, and with the settings above. The
        latter knows the log's end at its beginning.
    """

    prior_fit: PriorFit
    forgetting: ForgettingChoice
    before: Calibration
    after: Calibration

    @property
    def prior(self) -> tuple[float, float]:
        """The recommended prior, in pseudo-rollouts."""
        return self.prior_fit.alpha, self.prior_fit.beta

    @property
    def exploration(self) -> float:
        """The recommended bonus, in posterior standard deviations."""
        return _EXPLORATION if self.prior_fit.fitted else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class SaturationChoice:
    """The most even spread that is as good as the best, by the one-standard-error rule.

    Attributes
    ----------
    saturation : float
        The largest candidate whose rate is within one standard error of the best rate; NaN without any rate.
    rows : tuple of ReplayRow
        One per candidate, in the order of ``SATURATIONS``.
    n_near : int
        Candidates within one standard error of the best.
    n_prompts : int
        Prompts that were played.
    """

    saturation: float
    rows: tuple[ReplayRow, ...]
    n_near: int
    n_prompts: int


def learn_settings(log: RolloutLog) -> LearntSettings:
    """Fit the prior to the log, choose the forgetting, and calibrate before and after.

    The prior is fitted to evidence that does not fade: a fit to faded evidence comes out too strong.
    """
    # Rows in place of ids: a bank need not look them up then.
    history = [(log.cell_prompt[step], log.successes[step], log.trials[step]) for step in log.cells_of_steps()]

    def seen(**settings: Any) -> BetaPosteriorBank:
        bank = BetaPosteriorBank(log.n_prompts, **settings)
        for step in history:
            bank.update(*step)
            bank.tick()
        return bank

    bank = seen()
    before = bank.calibration()
    fit = bank.fit_prior()
    choice = bank.select_forgetting(history)
    after = seen(prior=(fit.alpha, fit.beta), forgetting=choice.forgetting).calibration()
    return LearntSettings(fit, choice, before, after)


def choose_saturation(
    log: RolloutLog,
    settings: LearntSettings,
    *,
    offer: Offer,
    max_rollouts: int,
    seed: int = 0,
    n_boot: SupportsIndex = 1000,
    progress: Callable[[], object] = lambda: None,
) -> SaturationChoice:
    """Replay re-solving allocators with the learnt settings over the grid of saturations, and choose.

    Of a log with many prompts a sample is played: five more replays of all would take a third of the whole report's time.
    The utility is of "height" scaling, with which more saturation always means a more even spread. Arguments are those
    of :func:`replay`.
    """
    sample = log.sample(_SAMPLE, seed)
    policies = {
        f"saturation {saturation:g}": partial(
            resolving,
            visits=sample.visits if offer == "batch" else None,
            least=least_group(sample, offer),
            prior=settings.prior,
            forgetting=settings.forgetting.forgetting,
            exploration=settings.exploration,
            utility=SaturatingUtility(saturation=saturation, scaling="height"),
        )
        for saturation in SATURATIONS
    }
    most = max(max_rollouts, least_cap(sample, offer))  # the sample's groups may be larger than all in the mean
    result = replay(sample, policies, offer=offer, max_rollouts=most, seed=seed, n_boot=n_boot, progress=progress)
    rows = tuple(result.row(name) for name in policies)
    best = max(rows, key=lambda row: -np.inf if np.isnan(row.rate) else row.rate)
    near = [
        saturation
        for saturation, row in zip(SATURATIONS, rows, strict=True)
        if row.rate >= best.rate - best.standard_error
    ]
    return SaturationChoice(max(near, default=np.nan), rows, len(near), sample.n_prompts)


def python_lines(log: RolloutLog, settings: LearntSettings, saturation: float, result: ReplayResult) -> list[str]:
    """Return the three lines that build an allocator with these settings, for a run like the log's."""
    a, b = settings.prior
    visits = f"visits={int(np.median(log.visits))}, " if result.offer == "batch" else ""
    bonus = f", exploration={settings.exploration:g}" if settings.exploration else ""
    least = min(least_group(log, result.offer), result.max_rollouts)
    return [
        f"bank = BetaPosteriorBank(prompt_ids, prior=({a:.4g}, {b:.4g}), forgetting={settings.forgetting.forgetting:g})",
        f'utility = SaturatingUtility(saturation={saturation:g}, scaling="height")',
        f"allocator = ResolvingAllocator(bank, total_budget={log.n_rollouts}, n_rounds={log.n_steps}, {visits}"
        f"min_rollouts={least}, max_rollouts={result.max_rollouts}, utility=utility{bonus})",
    ]
