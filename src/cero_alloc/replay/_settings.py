"""Settings learnt from a log, prior and forgetting, with the calibration of the predicted variances."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from cero_alloc._checks import AllocationWarning
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.calibration import Calibration
from cero_alloc._evidence.forgetting import ForgettingChoice
from cero_alloc._evidence.prior import PriorFit
from cero_alloc._saving.shown import Shown

from ._log import RolloutLog
from ._policies import mean_group


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LearntSettings(Shown):
    """Prior and forgetting learnt from a log.

    Attributes
    ----------
    prior_fit : PriorFit
        The prior fitted to all evidence of the log, or the reason why Beta(1, 1) is kept.
    forgetting : ForgettingChoice
        Share of the evidence that should survive a step, and the scores of all candidates.
    before, after : Calibration
        Calibration of a bank that observes the log step by step: with Beta(1, 1) and no forgetting, and with the settings
        above. The latter are fitted to the same log and therefore use hindsight.
    """

    _SHOWN: ClassVar[tuple[str, ...]] = ("prior_fit", "forgetting")

    prior_fit: PriorFit
    forgetting: ForgettingChoice
    before: Calibration
    after: Calibration

    @property
    def prior(self) -> tuple[float, float]:
        """Parameters of the recommended Beta prior, in pseudo-rollouts."""
        return self.prior_fit.alpha, self.prior_fit.beta


def learn_settings(log: RolloutLog) -> LearntSettings:
    """Fit the prior to the log, choose the forgetting, and compute the calibration before and after.

    The prior is fitted to evidence without forgetting, because a fit to discounted evidence would be too strong.
    """
    log = log.joined()
    # Rows in place of ids, so that the bank need not look them up.
    steps = log.groups_of_steps()
    history = [(log.group_prompt[step], log.successes[step], log.trials[step]) for step in steps]
    squares = log.squares if log.fractional else None

    def seen(**settings: Any) -> BetaPosteriorBank:
        bank = BetaPosteriorBank(log.n_prompts, **settings)
        for step, sums in zip(steps, history, strict=True):
            bank.update(*sums, squares=None if squares is None else squares[step])
            bank.tick()
        return bank

    bank = seen()
    before = bank.calibration()
    fit = bank.fit_prior()
    with warnings.catch_warnings():  # a forecast of sums needs no squares
        warnings.simplefilter("ignore", AllocationWarning)
        choice = bank.select_forgetting(history)
    after = seen(prior=(fit.alpha, fit.beta), forgetting=choice.forgetting).calibration()
    return LearntSettings(fit, choice, before, after)


def python_lines(log: RolloutLog) -> list[str]:
    """Return the call of training_allocator for a run of the log's size, in groups of the log's mean size."""
    return [
        f"allocator = training_allocator(prompt_ids, total_budget={log.n_rollouts}, n_rounds={log.n_steps}, "
        f"rollouts_per_visit={mean_group(log)})",
    ]
