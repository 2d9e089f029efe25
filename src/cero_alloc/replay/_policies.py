"""The policies that a replay plays by default, and the group sizes that a log allows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import numpy as np

from cero_alloc._allocators.fenchel_dual import FenchelDualAllocator
from cero_alloc._allocators.resolving import ResolvingAllocator
from cero_alloc._checks import error_text, instance
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc.baselines import BOTS, GRESO, PEERS, FixedPacing, Greedy, MoPPS, Uniform

from ._log import RolloutLog
from ._results import UNIFORM, Offer

_SELECTORS = (MoPPS, GRESO, BOTS)  # of prompts, for groups of one size


def default_policies(log: RolloutLog, *, offer: Offer = "batch") -> dict[str, Callable[..., Any]]:
    """Return what a replay of this log plays unless told otherwise: the allocators and every peer.

    In batches the allocators are told how often the log visits each prompt, as a data loader's epochs tell. Rules that
    deal groups of one size deal the log's from the pool, and twice that in batches, where they can only choose half of
    the prompts; re-solving allocators deal at least the log's from the pool, and at least two in batches.

    Parameters
    ----------
    log : RolloutLog
        Log to replay.
    offer : {"batch", "pool"}
        As in :func:`replay`.

    Returns
    -------
    dict of name to callable
        For the argument ``policies`` of :func:`replay`.

    Raises
    ------
    ValueError
        For an unknown offer.
    TypeError
        For a log that is none.

    Examples
    --------
    >>> one, step = np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0])
    >>> log = RolloutLog.ofrows_of(("a", "b"), one, step, np.array([0.0, 1.0] * 2), np.array([4] * 4), n_lines=4)
    >>> list(default_policies(log))[2:6]
    ['FenchelDualAllocator', 'FixedPacing', 'Greedy', 'Uniform']
    """
    instance("log", log, RolloutLog, "Read one with read_log(...).")
    check_offer(offer)
    per_visit = mean_group(log)
    one_size = max(least_cap(log, offer), per_visit if offer == "pool" else 2 * per_visit)
    visits = log.visits if offer == "batch" else None
    least = least_group(log, offer)
    fit_every = max(5, log.n_steps // 5)
    return {
        "ResolvingAllocator": partial(resolving, visits=visits, least=least),
        f"ResolvingAllocator, fit_every={fit_every}": partial(
            resolving, visits=visits, least=least, fit_every=fit_every
        ),
        "FenchelDualAllocator": partial(_capped, FenchelDualAllocator, one_size, visits=visits),
        **{cls.__name__: partial(_capped, cls, one_size) for cls in (FixedPacing, Greedy)},
        UNIFORM: partial(peer, Uniform, per_visit if offer == "pool" else None),  # of a batch, everybody
        **{cls.__name__: partial(peer, cls, one_size if cls in _SELECTORS else per_visit) for cls in PEERS},
    }


def check_offer(offer: str) -> None:
    if offer not in get_args(Offer):
        raise ValueError(error_text("offer", f"be one of {list(get_args(Offer))}", offer, "Correct the spelling."))


def least_group(log: RolloutLog, offer: Offer) -> int:
    """Return the least group of re-solving allocators: pairs in batches, the log's mean group from the pool."""
    return 2 if offer == "batch" else max(2, mean_group(log))


def mean_group(log: RolloutLog) -> int:
    """Return the rollouts that a prompt had in a step: the median over the steps of their means, a broken step aside."""
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
    """Build a re-solving allocator with a least group, over a bank of this prior and forgetting."""
    own = BetaPosteriorBank(len(bank), prior=prior, forgetting=forgetting)
    return ResolvingAllocator(own, max_rollouts=max_rollouts, min_rollouts=min(least, max_rollouts), **options)


def _capped(cls: Any, most: int, bank: BetaPosteriorBank, *, max_rollouts: int, **run: Any) -> Any:
    """Build a rule that deals its cap to everybody whom it visits: one group size, and not the cap of the others."""
    return cls(bank, max_rollouts=min(max_rollouts, most), **run)


def peer(cls: Any, per_visit: int | None, bank: BetaPosteriorBank, *, max_rollouts: int, **run: Any) -> Any:
    """Build a peer that deals ``per_visit`` rollouts to a prompt, or as many as its rule and the cap allow."""
    if per_visit is not None and cls.takes_visits:
        run["rollouts_per_visit"] = min(max_rollouts, max(per_visit, cls.least_rollouts))
    return cls(bank, max_rollouts=max_rollouts, **run)


def least_cap(log: RolloutLog, offer: Offer) -> int:
    """Return the least cap of a prompt in a round with which every step's total can be spent."""
    totals = np.bincount(log.group_step, log.trials, log.n_steps)
    sizes = np.full(log.n_steps, log.n_prompts) if offer == "pool" else np.bincount(log.group_step)
    return int(np.ceil(totals / sizes).max())
