"""The settings that the learning study recommends, in one call."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from inspect import signature
from typing import Any, NamedTuple, SupportsIndex

from cero_alloc._budget.horizon import MOST_UNITS, visits_per_prompt
from cero_alloc._checks import MOST_COUNT, integer, multiple
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._objective.utility import SaturatingUtility
from cero_alloc._saving.shown import short

from .resolving import ResolvingAllocator

MEMORY = 0.4  # of the run, after which a rollout counts for a third, because rates change while a policy learns


class Chosen(NamedTuple):
    """What the learning study chose for visits of one size.

    Attributes
    ----------
    saturation : float
        Of the utility, in height. Smaller values concentrate more: they rise faster at first, and lose in the end.
    refits : int
        Of the prior over the run.
    """

    saturation: float
    refits: int


_GROUP_SIZES = ("group_size", "num_generations", "n_samples", "rollouts")  # of trainers
SINGLE, GROUPS = Chosen(2.0, 12), Chosen(1.0, 4)


def training_allocator(
    prompt_ids: SupportsIndex | Sequence[Hashable],
    *,
    total_budget: float,
    n_rounds: SupportsIndex,
    rollouts_per_visit: SupportsIndex | None = None,
    reward_range: tuple[float, float] = (0.0, 1.0),
    **settings: Any,
) -> ResolvingAllocator:
    r"""Return a :class:`ResolvingAllocator` with the settings that the learning study recommends for training.

    Visited prompts get *one* rollout each; :meth:`ResolvingAllocator.observe` is the other half of the recommendation: it
    takes the rewards and returns an advantage per rollout, with the prompt's posterior in place of a group's mean. A trainer
    that must have groups passes its own group size as ``rollouts_per_visit``.

    Visits are spread evenly over the run (``order="spread"``), over the whole pool or over the batches that a loader brings;
    the utility saturates in height, :math:`U = 4 \hat q (1 - e^{-\lambda z / R})` with :math:`\lambda = 2`, so that prompts
    without a learning signal get few rollouts and all others keep getting some; evidence fades with
    :math:`\rho = 1 - 1 / (0.4 K)` per round; the prior is refitted 12 times. In groups :math:`\lambda = 1`, with 4 refits.
    The class's own defaults are those of the regret theory.

    Parameters
    ----------
    prompt_ids : sequence of hashable, or int
        Ids of the pool, or how many prompts it has.
    total_budget : int, or float with ``costs``
        Rollouts over the run.
    n_rounds : int
        Rounds of the run, K: calls of ``allocate``.
    rollouts_per_visit : int or None
        Rollouts of a visited prompt. None takes 1, and more only where the offers over the run are fewer than the rollouts.
        Batches of a loader must then have at least as many prompts as a round has rollouts: what a batch cannot take stays
        in the budget. Advantages over the mean of a group, as of GRPO, need at least 2, best the trainer's group size: over
        the mean of a single rollout they are 0.
    reward_range : (float, float)
        Least and largest reward, of :class:`BetaPosteriorBank`; (-1, 1) for rewards of -1 and 1.
    **settings
        Any other argument of :class:`ResolvingAllocator`, or another value for one that is set here.

    Returns
    -------
    ResolvingAllocator
        Over a bank of its own, ``allocator.bank``.

    Raises
    ------
    ValueError, TypeError
        As in :class:`ResolvingAllocator`, and for an argument that it does not have; the message names the nearest.

    References
    ----------
    The page "Does it learn faster?": how the settings were chosen, and what they gain and lose.

    Examples
    --------
    A round of 512 rollouts, whose rewards come from the trainer:

    >>> allocator = training_allocator(1000, total_budget=64_000, n_rounds=125)
    >>> counts = allocator.allocate(budget=512, exact=True)
    >>> prompts = allocator.bank.prompts_of(counts)
    >>> advantages = allocator.observe(prompts, rewards=[1.0, 0.0] * 256)
    >>> len(prompts), int(counts.max()), advantages.shape
    (512, 1, (512,))

    In groups of 8, from the batches of a loader:

    >>> allocator = training_allocator(1000, total_budget=64_000, n_rounds=125, rollouts_per_visit=8)
    >>> counts = allocator.allocate(range(100, 228), budget=512, exact=True)
    >>> int(counts.sum()), int(counts.max())
    (512, 8)
    """
    _require_known(settings)
    rounds = integer("n_rounds", n_rounds, least=1, remedy="Count the calls of allocate over the run.")
    forgetting = max(0.5, 1.0 - 1.0 / (MEMORY * rounds))
    bank = BetaPosteriorBank(prompt_ids, forgetting=forgetting, reward_range=reward_range)
    if rollouts_per_visit is None:
        least, most, recommended = 1, _most(total_budget, rounds, len(bank), settings), SINGLE
    else:
        remedy = "Give the trainer's group size, or 1."
        least = most = integer("rollouts_per_visit", rollouts_per_visit, least=1, remedy=remedy)
        recommended = SINGLE if most == 1 else GROUPS
    chosen = {
        "min_rollouts": least,
        "max_rollouts": most,
        "utility": SaturatingUtility(saturation=recommended.saturation, scaling="height"),
        "order": "spread",
        "fit_every": max(1, rounds // recommended.refits),
    }
    return ResolvingAllocator(bank, total_budget=total_budget, n_rounds=rounds, **{**chosen, **settings})


def _require_known(settings: dict[str, Any]) -> None:
    """Refuse arguments that neither this function nor the class takes."""
    takes = {**signature(training_allocator).parameters, **signature(ResolvingAllocator).parameters}
    known = [name for name in takes if name not in ("prompt_ids", "settings", "bank")]
    wrong = next((name for name in settings if name not in known), None)
    if wrong is None:
        return
    from difflib import get_close_matches  # imported on use, to keep the import of the package short

    like = ["rollouts_per_visit"] if wrong in _GROUP_SIZES else get_close_matches(wrong, known, 1, 0.65)
    remedy = f"Did you mean {like[0]}={short(settings[wrong])}?" if like else "It takes those of ResolvingAllocator."
    if wrong == "bank":
        remedy = "It builds its own, allocator.bank; to bring one, call ResolvingAllocator."
    raise TypeError(f"training_allocator got an unexpected keyword argument {wrong!r}. {remedy}")


def _most(total_budget: float, n_rounds: int, n_prompts: int, settings: dict[str, Any]) -> int:
    """Return the rollouts that a visit must be allowed for the budget to be spendable: 1 where offers are many."""
    if settings.get("costs") is not None:
        return 1
    total = multiple("total_budget", total_budget, 1, least=1, most=MOST_COUNT)  # type: ignore[arg-type]
    visits = visits_per_prompt(settings.get("visits"), n_prompts, n_rounds)
    offers = int(visits.sum()) * (n_prompts if visits.size == 1 else 1)
    return min(MOST_UNITS, -(-total // max(1, offers)))
