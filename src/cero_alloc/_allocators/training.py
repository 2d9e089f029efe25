"""The settings that the learning study recommends, in one call."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, SupportsIndex

from cero_alloc._checks import integer
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._objective.utility import SaturatingUtility

from .resolving import ResolvingAllocator

MEMORY = 0.4  # of the run, after which a rollout counts for a third, because rates change while a policy learns
REFITS = 4  # of the prior over the run
SATURATION = 1.0  # in height: smaller values gain more where sampling by true rates gains, and lose where it loses


def training_allocator(
    prompt_ids: SupportsIndex | Sequence[Hashable],
    *,
    total_budget: float,
    n_rounds: SupportsIndex,
    rollouts_per_visit: SupportsIndex = 8,
    **settings: Any,
) -> ResolvingAllocator:
    r"""Return a :class:`ResolvingAllocator` with the settings that the learning study recommends for training.

    Visited prompts get groups of one size, spread evenly over the run (``order="spread"``); the utility saturates in height,
    :math:`U = 4 \hat q (1 - e^{-\lambda z / R})` with :math:`\lambda = 1`, so that prompts without a learning signal get
    few rollouts and all others keep getting some; evidence fades with :math:`\rho = 1 - 1 / (0.4 K)` per round; the prior is refitted
    four times. The class's own defaults are those of the regret theory.

    Parameters
    ----------
    prompt_ids : sequence of hashable, or int
        Ids of the pool, or how many prompts it has.
    total_budget : int, or float with ``costs``
        Rollouts over the run.
    n_rounds : int
        Rounds of the run, K: calls of ``allocate``.
    rollouts_per_visit : int
        Rollouts of a visited prompt: the group size of the trainer.
    **settings
        Any other argument of :class:`ResolvingAllocator`, or another value for one that is set here.

    Returns
    -------
    ResolvingAllocator
        Over a bank of its own, ``allocator.bank``.

    Raises
    ------
    ValueError, TypeError
        As in :class:`ResolvingAllocator`.

    References
    ----------
    The page "Does it learn faster?": how the settings were chosen, and what they gain and lose.

    Examples
    --------
    >>> allocator = training_allocator(1000, total_budget=64_000, n_rounds=125)
    >>> counts = allocator.allocate(budget=512, exact=True)
    >>> int(counts.sum()), int(counts.max())
    (512, 8)
    """
    rounds = integer("n_rounds", n_rounds, least=1, remedy="Count the calls of allocate over the run.")
    chosen = {
        "min_rollouts": rollouts_per_visit,
        "max_rollouts": rollouts_per_visit,
        "utility": SaturatingUtility(saturation=SATURATION, scaling="height"),
        "order": "spread",
        "fit_every": max(1, rounds // REFITS),
    }
    bank = BetaPosteriorBank(prompt_ids, forgetting=max(0.5, 1.0 - 1.0 / (MEMORY * rounds)))
    return ResolvingAllocator(bank, total_budget=total_budget, n_rounds=rounds, **{**chosen, **settings})
