"""Replay of a log: play other policies against the logged rewards, with the same rollouts per step or a share of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import AllocationWarning, FloatArray, IntArray, error_text, instance, integer
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc.baselines import PEERS
from cero_alloc.simulation._rounds import Draw, checked_draw, play_round

from ._log import RolloutLog
from ._outcomes import Outcomes, logged_outcomes
from ._policies import (
    check_budget,
    check_offer,
    default_policies,
    least_cap,
    own_steps,
    peer,
    step_totals,
    too_slow,
    training,
    whole_groups,
)
from ._results import COLUMNS, UNIFORM, Offer, ReplayResult, rows_of

Policies = Mapping[str, Callable[..., Any]]  # name -> callable(bank, total_budget=, n_rounds=, max_rollouts=, seed=)

_LARGEST = 128  # rollouts per prompt and round, the largest cap among published allocators


def replay(
    log: RolloutLog,
    policies: Policies | None = None,
    *,
    offer: Offer = "batch",
    budget: float = 1.0,
    group_size: SupportsIndex | None = None,
    max_rollouts: SupportsIndex | None = None,
    seed: int = 0,
    n_boot: SupportsIndex = 1000,
    progress: Callable[[], object] = lambda: None,
) -> ReplayResult:
    r"""Play policies against the rewards of a log.

    Every policy is given the log's steps as rounds, with their totals. Each rollout that it deals receives that prompt's
    next logged reward: in order of time, each reward at most once, shuffled within a step. Once a prompt's logged rewards
    are used up, its further rollouts are spent without feedback; they count in the unanswerable share only. Where rewards
    are fractional, policies whose ``update`` takes ``squares`` are also told the sums of the squared rewards.

    With a ``budget`` below 1 and ``offer="batch"`` a step's outcomes are its own logged groups: a prompt that is dealt its
    whole group gets the group that was logged in this very step, so that success rates are those of that time. A prompt
    that is not chosen in a step loses that group.

    Parameters
    ----------
    log : RolloutLog
        A log, as returned by :func:`read_log`.
    policies : mapping of name to callable, or None
        Each is called as ``policy(bank, total_budget=, n_rounds=, max_rollouts=, seed=)`` and returns an object with
        ``allocate`` and ``update``; ids in the bank are rows of the log. None means :func:`default_policies`. Uniform is
        added if missing, because every policy is compared with it.
    offer : {"batch", "pool"}
        Prompts offered in a round: those that the log visited in the step, or all of them.
    budget : float, in (0, 1]
        Share of each step's rollouts to spend. The running sums of the totals are rounded, so that all steps together
        spend this share of the log.
    group_size : int or None, at least 1
        Rollouts of a group under the default policies; None takes the log's mean.
    max_rollouts : int or None
        Largest number of rollouts per prompt and round. None takes four times the largest logged group, at most 128, or
        more if the totals cannot be spent otherwise; with a ``budget`` below 1 and batches, the largest logged group.
    seed : int
        Seed of the order of the rewards, the policies' tie-breaking and the bootstrap.
    n_boot : int, at least 2
        Bootstrap resamplings of the prompts. The finished replays are resampled, with the same prompts for all policies.
    progress : callable
        Called after each policy has been played.

    Returns
    -------
    ReplayResult
        One row per policy.

    Raises
    ------
    ValueError
        For an unknown offer, a budget out of range or without a whole rollout, a ``max_rollouts`` with which the totals
        cannot be spent, or fewer than two resamplings.
    TypeError
        For numbers that are not integers, or a budget that is not a number.

    References
    ----------
    See :class:`ReplayRow`.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from cero_alloc.baselines import Greedy
    >>> from cero_alloc.replay import read_log
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "log.csv"
    >>> lines = [f"{p},{t},8,{s}" for t in (1, 2, 3) for p, s in (("easy", 8), ("even", 4), ("hard", 1))]
    >>> _ = file.write_text("\n".join(["prompt_id,step,trials,successes", *lines]))
    >>> result = replay(read_log(file), {"greedy": Greedy}, n_boot=100)
    >>> result.row("Uniform").rate == result.logged.rate, result.row("greedy").dealt
    (True, 72)

    Half of the rollouts, on the prompts that are not always right:

    >>> half = replay(read_log(file), {"greedy": Greedy}, budget=0.5, max_rollouts=8, n_boot=100).row("greedy")
    >>> half.dealt, round(half.kept, 2)
    (36, 0.67)
    """
    instance("log", log, RolloutLog, "Read one with read_log(...).")
    check_offer(offer)
    budget = check_budget(budget)
    replicates = integer("n_boot", n_boot, least=2, remedy="Take 1000.")
    steps = log.groups_of_steps()
    totals = step_totals(log, budget).tolist()
    if not any(totals):
        remedy = f"The log has {log.n_rollouts}: raise it."
        raise ValueError(error_text("budget", "leave a rollout to spend", budget, remedy))
    pool = np.arange(log.n_prompts)
    offers = [pool] * len(steps) if offer == "pool" else [log.group_prompt[step] for step in steps]
    most = _most_rollouts(log, offer, budget, max_rollouts)
    run = {"total_budget": sum(totals), "n_rounds": len(steps), "max_rollouts": most, "seed": seed}

    opened = steps if own_steps(offer, budget) else None
    stage = _Stage(log.n_prompts, logged_outcomes(log, seed), offers, totals, opened, run)
    defaults = default_policies(log, offer=offer, budget=budget, group_size=group_size)
    chosen = dict(defaults if policies is None else policies)
    chosen.setdefault(UNIFORM, defaults[UNIFORM])
    tallies, left_out = {}, []
    if policies is None and whole_groups(offer, budget, group_size):
        names = ", ".join(cls.__name__ for cls in PEERS if cls.kind != "selects")
        left_out.append(f"{names}: they vary counts, and whole groups of the log's size leave nothing to vary")
    if policies is None and too_slow(log):
        names = ", ".join(cls.__name__ for cls in too_slow(log))
        left_out.append(f"{names}: they would take longest, and the log is large. Name them in policies= to play them")
    for name, make in chosen.items():
        with warnings.catch_warnings():  # the totals of the steps are the log's, and some are smaller than a visit
            warnings.simplefilter("ignore", AllocationWarning)
            tally = stage.play(make)
        if isinstance(tally, str):
            left_out.append(f"{name}: {tally}")
        else:
            tallies[name] = tally
        progress()
    tallies[""] = _logged(log)
    rows = rows_of(tallies, replicates, seed)
    logged = rows.pop()
    rows.sort(key=lambda row: -np.inf if np.isnan(row.mixed_share) else row.mixed_share, reverse=True)
    return ReplayResult(tuple(rows), logged, offer, most, replicates, tuple(left_out), budget)


def _most_rollouts(log: RolloutLog, offer: Offer, budget: float, max_rollouts: SupportsIndex | None) -> int:
    """Return the cap in rollouts per prompt and round."""
    needed, largest = least_cap(log, offer, budget), int(log.trials.max())
    if max_rollouts is None:
        return largest if own_steps(offer, budget) else max(needed, min(_LARGEST, 4 * largest))
    most = integer("max_rollouts", max_rollouts, least=1, remedy="Count rollouts.")
    if most < needed:
        raise ValueError(error_text("max_rollouts", f"be at least {needed} to spend the totals", most, "Raise it."))
    return most


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """What is the same for all policies of a replay."""

    n_prompts: int
    outcomes: Outcomes
    offers: list[IntArray]
    totals: list[int]
    opened: list[slice] | None  # the groups whose outcomes each step may take; None for any, in order of time
    run: dict[str, int]

    def play(self, make: Callable[..., Any]) -> FloatArray | str:
        """Play all rounds and return the policy's tally, or the reason why a default policy does not fit the caps."""
        try:
            policy = make(BetaPosteriorBank(self.n_prompts), **self.run)
        except ValueError as error:
            if isinstance(make, partial) and make.func in (peer, training):
                return str(error)
            raise
        outcomes = self.outcomes
        outcomes.restart()
        tally = np.zeros((self.n_prompts, COLUMNS))
        for step, (rows, total) in enumerate(zip(self.offers, self.totals, strict=True)):
            if self.opened is not None:
                outcomes.open_groups(self.opened[step])
            try:
                wave = policy.allocate(rows, total, exact=True)
            except ValueError:  # the policy cannot deal exactly this total: give it as a cap
                wave = policy.allocate(rows, total)
            draw = checked_draw(self._answers(rows), total, most=self.run["max_rollouts"])
            counts, won, answered, _ = play_round(policy, rows, draw, wave=wave)
            dealt = np.flatnonzero(counts)
            rows, counts, won, answered = rows[dealt], counts[dealt], won[dealt], answered[dealt]
            _note(tally, rows, counts, answered, outcomes.mixed(rows, won, answered))
        return tally

    def _answers(self, rows: IntArray) -> Draw:
        """Return the draw of the logged rewards of the prompts in ``rows``."""
        return lambda positions, n: self.outcomes.draw(rows[positions], n)


def _logged(log: RolloutLog) -> FloatArray:
    """Return the tally of the logged run itself."""
    tally, mixed = np.zeros((log.n_prompts, COLUMNS)), ~log.dead
    for step in log.groups_of_steps():
        _note(tally, log.group_prompt[step], log.trials[step], log.trials[step], mixed[step])
    return tally


def _note(
    tally: FloatArray, rows: IntArray, counts: IntArray, answered: IntArray, mixed: npt.NDArray[np.bool_]
) -> None:
    """Add the groups of one round to the tally, at most one per prompt."""
    tally[rows] += np.stack([counts, answered, answered > 0, mixed, np.where(mixed, 0, answered)], axis=1)
