"""The default policies of a replay, and the group sizes that fit a log."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, SupportsIndex, get_args

import numpy as np

from cero_alloc._allocators.fenchel_dual import FenchelDualAllocator
from cero_alloc._allocators.resolving import ResolvingAllocator
from cero_alloc._allocators.training import training_allocator
from cero_alloc._checks import IntArray, error_text, instance, integer, real
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc.baselines import (
    ARCUS,
    DPS,
    NGU,
    PEERS,
    SARA,
    Baseline,
    CurES,
    FixedPacing,
    Greedy,
    MaPP,
    PilotCommit,
    Uniform,
)

from ._log import RolloutLog
from ._results import UNIFORM, Offer

_MANY = 2_000_000  # rollouts of a log
_SLOWEST = (ARCUS, CurES, DPS, MaPP, NGU, PilotCommit, SARA)


def default_policies(
    log: RolloutLog, *, offer: Offer = "batch", budget: float = 1.0, group_size: SupportsIndex | None = None
) -> dict[str, Callable[..., Any]]:
    """Return the policies that :func:`replay` plays by default: the allocators and every peer.

    ``training_allocator`` is the recommended one, :func:`~cero_alloc.training_allocator` in groups of the log's mean size.

    With ``offer="batch"`` the allocators are given the number of visits of each prompt, which a data loader's epochs
    determine. Rules with groups of equal size use the log's mean group size with ``offer="pool"`` or a ``budget`` below 1,
    and twice that for all rollouts of batches, so that they choose half of each batch. Re-solving allocators deal groups of
    at least the log's mean size with ``offer="pool"``, and of at least 2 with ``offer="batch"``. With a ``budget`` below 1 in
    batches and no ``group_size``, groups are the logged ones or none, and rules that vary counts or deal in waves are left out.
    Of a log with more than 2 million rollouts the seven slowest rules are left out, too.

    Parameters
    ----------
    log : RolloutLog
        Log to replay.
    offer : {"batch", "pool"}
        As in :func:`replay`.
    budget : float, in (0, 1]
        Share of each step's rollouts to spend, as in :func:`replay`.
    group_size : int or None, at least 1
        Rollouts of a group, in place of the log's mean.

    Returns
    -------
    dict of name to callable
        A value for the argument ``policies`` of :func:`replay`.

    Raises
    ------
    ValueError
        For an unknown offer, or a budget or group size out of range.
    TypeError
        For a log that is not a :class:`RolloutLog`, or a budget or group size that is not a number.

    Examples
    --------
    >>> one, step = np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0])
    >>> log = RolloutLog.of_rows(("a", "b"), one, step, np.array([0.0, 1.0] * 2), np.array([4] * 4), n_lines=4)
    >>> list(default_policies(log))[2:7]
    ['training_allocator', 'FenchelDualAllocator', 'FixedPacing', 'Greedy', 'Uniform']
    """
    instance("log", log, RolloutLog, "Read one with read_log(...).")
    check_offer(offer)
    budget = check_budget(budget)
    per_visit = mean_group(log) if group_size is None else checked_size(group_size)
    whole_batches = offer == "batch" and budget == 1.0
    one_size = max(least_cap(log, offer, budget), 2 * per_visit if whole_batches else per_visit)
    visits = log.visits if offer == "batch" else None
    least = least_group(log, offer)
    fit_every = max(5, log.n_steps // 5)
    return {
        "ResolvingAllocator": partial(resolving, visits=visits, least=least),
        f"ResolvingAllocator, fit_every={fit_every}": partial(
            resolving, visits=visits, least=least, fit_every=fit_every
        ),
        "training_allocator": partial(
            training, visits=visits, per_visit=per_visit, most=per_visit if own_steps(offer, budget) else None
        ),
        "FenchelDualAllocator": partial(_capped, FenchelDualAllocator, one_size, visits=visits),
        **{cls.__name__: partial(_capped, cls, one_size) for cls in (FixedPacing, Greedy)},
        UNIFORM: partial(
            peer, Uniform, None if whole_batches and group_size is None else per_visit
        ),  # None: every prompt of a batch
        **{
            cls.__name__: partial(peer, cls, one_size if cls.kind == "selects" else per_visit)
            for cls in PEERS
            if (cls.kind == "selects" or not whole_groups(offer, budget, group_size)) and cls not in too_slow(log)
        },
    }


def too_slow(log: RolloutLog) -> tuple[type[Baseline], ...]:
    """Return the rules that a log with very many rollouts is not played under, so that a report takes half a minute."""
    return _SLOWEST if log.n_rollouts > _MANY else ()


def check_offer(offer: str) -> None:
    """Raise for an unknown offer."""
    if offer not in get_args(Offer):
        raise ValueError(error_text("offer", f"be one of {list(get_args(Offer))}", offer, "Correct the spelling."))


def check_budget(budget: float) -> float:
    """Return the share of the log's rollouts to spend, checked."""
    remedy = "Give the share of the log's rollouts to spend: 0.5 is half."
    return real("budget", budget, low=0.0, high=1.0, open_low=True, remedy=remedy)


def checked_size(group_size: SupportsIndex) -> int:
    """Return the rollouts of a group, checked."""
    return integer("group_size", group_size, least=1, remedy="Count the rollouts of a group.")


def own_steps(offer: Offer, budget: float) -> bool:
    """Return whether a step's outcomes are its own logged groups only, as in batches with less than all rollouts."""
    return offer == "batch" and budget < 1.0


def whole_groups(offer: Offer, budget: float, group_size: SupportsIndex | None) -> bool:
    """Return whether policies deal the log's groups or none, so that rules that vary counts have nothing to choose."""
    return own_steps(offer, budget) and group_size is None


def step_totals(log: RolloutLog, budget: float) -> IntArray:
    """Return the rollouts to spend in each step: their running sums are rounded, so that shares do not add up to an error."""
    spent = np.rint(budget * np.cumsum(np.bincount(log.group_step, log.trials, log.n_steps)))
    totals: IntArray = np.diff(spent, prepend=0.0).astype(np.int64)
    return totals


def least_group(log: RolloutLog, offer: Offer) -> int:
    """Return the smallest group of re-solving allocators: 2 rollouts in batches, the log's mean group from the pool."""
    return 2 if offer == "batch" else max(2, mean_group(log))


def mean_group(log: RolloutLog) -> int:
    """Return the typical group size in rollouts: the median over the steps of each step's mean, robust to odd steps."""
    totals = np.bincount(log.group_step, log.trials, log.n_steps)
    return max(1, round(float(np.median(totals / np.bincount(log.group_step, minlength=log.n_steps)))))


def resolving(
    bank: BetaPosteriorBank,
    *,
    max_rollouts: int,
    least: int = 2,
    prior: tuple[float, float] = (1.0, 1.0),
    forgetting: float = 1.0,
    **options: Any,
) -> ResolvingAllocator:
    """Build a re-solving allocator with groups of at least ``least``, over a bank with this prior and forgetting."""
    own = BetaPosteriorBank(len(bank), prior=prior, forgetting=forgetting)
    return ResolvingAllocator(own, max_rollouts=max_rollouts, min_rollouts=min(least, max_rollouts), **options)


def training(
    bank: BetaPosteriorBank, *, per_visit: int, most: int | None, max_rollouts: int, **run: Any
) -> ResolvingAllocator:
    """Build the recommended allocator in groups of ``per_visit``, of up to ``most`` or the cap of the replay."""
    cap = max_rollouts if most is None else min(max_rollouts, most)
    return training_allocator(len(bank), rollouts_per_visit=min(per_visit, cap), max_rollouts=cap, **run)


def _capped(cls: Any, most: int, bank: BetaPosteriorBank, *, max_rollouts: int, **run: Any) -> Any:
    """Build a rule that deals its cap to every prompt that it visits: ``most`` is its group size."""
    return cls(bank, max_rollouts=min(max_rollouts, most), **run)


def peer(cls: Any, per_visit: int | None, bank: BetaPosteriorBank, *, max_rollouts: int, **run: Any) -> Any:
    """Build a peer that deals ``per_visit`` rollouts per visit, within the limits of its rule and the cap."""
    if per_visit is not None and cls.takes_visits:
        run["rollouts_per_visit"] = min(max_rollouts, max(per_visit, cls.least_rollouts))
    return cls(bank, max_rollouts=max_rollouts, **run)


def least_cap(log: RolloutLog, offer: Offer, budget: float = 1.0) -> int:
    """Return the smallest cap, in rollouts per prompt and round, with which every step's total can be spent."""
    totals = step_totals(log, budget)
    sizes = np.full(log.n_steps, log.n_prompts) if offer == "pool" else np.bincount(log.group_step)
    return max(1, int(np.ceil(totals / sizes).max()))
