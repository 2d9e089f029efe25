"""Verdict on a log: whether choosing prompts would have been worth it, in one or two sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import error_text, instance

from ._log import RolloutLog
from ._own import against_uniform
from ._results import ReplayResult, ReplayRow

Kind = Literal["waste", "uniform", "small", "filtered", "one sided", "own"]

RULE = "training_allocator"

# Mixed groups per rollout, as a multiple of random choice. Below 1.1 a run ends less than a tenth earlier, which is less
# than runs with other seeds differ by, and does not pay for another sampler in the trainer.
_WORTH = 1.1

_FEW_PROMPTS = 20  # with fewer the bootstrap intervals are too narrow

# Without a dead group in n, their share is below 3 / n with 95% confidence. At 1 in 20 even a rule that avoids every dead
# group gains only half of what is worth acting on.
_FEW_GROUPS = 60

_SPENT = 0.6  # of the budget: a rule that could not spend it had no choice between prompts

_ONE_SIDED = 0.95  # of the rollouts: where one in twenty can teach, other prompts help more than any choice among these


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a log says about choosing prompts.

    Attributes
    ----------
    kind : {"waste", "uniform", "small", "filtered", "one sided", "own"}
        "waste": choosing is worth it; "uniform": it is not; "small": the log cannot tell; "filtered": no group is dead;
        "one sided": nearly all rollouts are in groups that are all wrong, or all right; "own": an allocator dealt the
        rollouts, which are compared with uniform's.
    text : str
        The same in words, with the figures.

    References
    ----------
    See :func:`verdict`.

    Examples
    --------
    >>> Verdict("small", "Too small to say: 3 prompts.").kind
    'small'
    """

    kind: Kind
    text: str


def verdict(log: RolloutLog, less: ReplayResult | None = None) -> Verdict:
    """Say whether choosing prompts would have been worth it.

    The rule is :func:`~cero_alloc.training_allocator` with a part of the rollouts. Random choice keeps the same part of the
    mixed groups; the verdict is "waste" if the interval of what the rule kept is above 1.1 times that, "uniform" if it is
    below, and "small" if it is on both sides.

    Parameters
    ----------
    log : RolloutLog
        The log.
    less : ReplayResult or None
        Its replay in batches with a part of the rollouts, best half: ``replay(log, budget=0.5)``. It must have the row
        ``"training_allocator"``. A log that an allocator wrote needs none: a replay would take its choice for chance, and
        :func:`against_uniform` compares instead.

    Returns
    -------
    Verdict
        Kind and text.

    Raises
    ------
    ValueError
        For a replay with all rollouts, or from the pool.
    KeyError
        For a replay without the rule, where the verdict depends on it.
    TypeError
        For other types.

    References
    ----------
    See :class:`ReplayRow` for the intervals. Hanley and Lippman-Hand, If nothing goes wrong, is everything all right?,
    JAMA 249 (1983): the share of dead groups that none in n excludes.

    Examples
    --------
    Of 40 prompts half are always right, the others right every other time:

    >>> from cero_alloc.replay import RolloutLog, replay
    >>> prompt, step = np.tile(np.repeat(np.arange(40), 2), 10), np.repeat(np.arange(10.0), 80)
    >>> reward = np.tile([0.0, 1.0], 400)
    >>> rollouts = np.where(prompt < 20, np.where(reward == 1.0, 8, 0), 4)
    >>> rows = rollouts > 0
    >>> columns = (prompt[rows], step[rows], reward[rows], rollouts[rows])
    >>> log = RolloutLog.of_rows(tuple(map(str, range(40))), *columns, n_lines=3200)
    >>> found = verdict(log, replay(log, budget=0.5, n_boot=100))
    >>> found.kind, found.text.split(". ")[0]
    ('waste', '50% of your rollouts were in groups that taught nothing (50% all right, 0% all wrong)')
    """
    instance("log", log, RolloutLog, "Read one with read_log(...).")
    if log.reading.dealt_by:
        return Verdict("own", against_uniform(log).text)
    less = instance("less", less, ReplayResult, "Pass replay(log, budget=0.5).")
    if less.budget == 1.0:
        raise ValueError(error_text("less", "have a budget below 1", less.budget, "Pass replay(log, budget=0.5)."))
    if less.offer != "batch":
        raise ValueError(error_text("less", "be a replay in batches", less.offer, "Pass replay(log, budget=0.5)."))
    if log.trials.max() == 1:
        return Verdict("small", "Too small to say: every group is a single rollout, which is neither mixed nor dead.")
    right, wrong = (_share(log, log.successes == full) for full in (log.trials, 0.0))
    for share, side, other in ((wrong, "wrong", "easier"), (right, "right", "harder")):
        if share >= _ONE_SIDED:
            text = f"One sided: {share:.0%} of your rollouts were in groups that were all {side}. Add {other} prompts."
            return Verdict("one sided", text)
    if not log.dead.any() and log.trials.size >= _FEW_GROUPS:
        text = f"No group is dead: all {log.trials.size:,} groups are mixed, so that no choice among them can gain. "
        return Verdict("filtered", text + "Most likely dead groups were filtered before logging: log them too.")
    if log.n_prompts < _FEW_PROMPTS:
        return Verdict("small", f"Too small to say: {counted(log.n_prompts, 'prompt')}, and {_FEW_PROMPTS} are needed.")
    if log.visits.max() == 1:
        text = (
            "Too small to say: each prompt was seen in one step only, so that nothing was known when it was on offer."
        )
        return Verdict("small", text)
    row = less.row(RULE)
    if row.dealt < _SPENT * less.budget * log.n_rollouts:
        return Verdict("small", "Too small to say: the steps have too few prompts to choose whole groups among them.")
    return _by_gain(log, row, right, wrong)


def _by_gain(log: RolloutLog, row: ReplayRow, right: float, wrong: float) -> Verdict:
    """Compare what the rule kept with what random choice keeps."""
    spent = row.dealt / log.n_rollouts  # whole groups may leave a little of the budget
    amount = "Half the rollouts" if abs(spent - 0.5) < 0.02 else f"{spent:.0%} of the rollouts"
    low, high = row.kept_interval
    kept = f"would have kept {row.kept:.0%} of the mixed groups [{100 * low:.0f}, {100 * high:.0f}]"
    chosen, needed = f"{amount} on the more uncertain prompts {kept}", _WORTH * spent
    if low > needed:
        return Verdict("waste", f"{_dead_text(log, right, wrong)}. {chosen}.")
    if high < needed:
        return Verdict("uniform", f"Stay uniform: {_lower(chosen)}, and random choice keeps {spent:.0%}.")
    if np.isnan(low + high):
        return Verdict("small", f"Too small to say: {counted(int((~log.dead).sum()), 'group', 'is', 'are')} mixed.")
    return Verdict("small", f"Too small to say: {_lower(chosen)}, and more than {needed:.0%} is worth it.")


def counted(number: int, noun: str, *verbs: str) -> str:
    """Return a number with its noun, and the verb that agrees with it: singular first."""
    return " ".join([f"{number:,} {noun}{'s' * (number != 1)}", *verbs[number != 1 :][:1]])


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _share(log: RolloutLog, groups: npt.NDArray[np.bool_]) -> float:
    """Return the share of the rollouts in these groups."""
    return float(log.trials[groups].sum() / log.n_rollouts)


def _dead_text(log: RolloutLog, right: float, wrong: float) -> str:
    dead = _share(log, log.dead)
    between = dead - right - wrong
    more = f", {between:.0%} all equal in between" if between > 0.005 else ""
    taught = f"{dead:.0%} of your rollouts were in groups that taught nothing"
    return f"{taught} ({right:.0%} all right, {wrong:.0%} all wrong{more})"
