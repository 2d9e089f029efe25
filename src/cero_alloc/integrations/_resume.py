"""The allocator of a checkpoint, for a run that may be longer and a pool that may have changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from cero_alloc._checks import error_text


def resumed(
    build: Callable[..., Any],
    state: Mapping[str, Any],
    prompt_ids: Sequence[Hashable],
    *,
    n_rounds: int,
    total_budget: int,
    setting: str,
    planned: tuple[int, int] | None = None,
    visits: Callable[[int], int] | None = None,
) -> Any:
    """Return the allocator of a checkpoint, its run as long and its prompts as many as the trainer's are now.

    Prompts that are new join, those that are gone retire, and a longer run gets the rounds and rollouts that it has more.

    Parameters
    ----------
    build : callable
        ``build(prompt_ids, n_rounds=, total_budget=)``, which the checkpoint's run began with; it is given that run's numbers.
    state : dict
        ``allocator.state_dict()`` of then.
    prompt_ids : sequence of hashable
        Of the training set as it is now.
    n_rounds, total_budget : int
        Rounds, and rollouts, of the whole run as it is now.
    setting : str
        The trainer's names of what makes a run longer.
    planned : (int, int) or None
        ``n_rounds`` and ``total_budget`` of the run when it was saved; None for those of the account.
    visits : callable or None
        How often the loader still brings each prompt in so many rounds; None where the whole pool is on offer.

    Raises
    ------
    ValueError
        For another allocator, other settings, or a shorter run than the checkpoint's.
    """
    horizon, ids = state["ledger"]["horizon"], state["bank"]["prompt_ids"]
    allocator = build(
        list(range(ids) if isinstance(ids, int) else ids)[: horizon["n_prompts"]],  # a number: the ids 0, 1, 2, ...
        n_rounds=horizon["n_rounds"],
        total_budget=horizon["total_budget"],
    )
    allocator.load_state_dict(state)
    rounds, rollouts = planned or (allocator.ledger.n_rounds, allocator.balance.total)
    if n_rounds < rounds or total_budget < rollouts:
        condition = (
            f"give at least the {rounds} batches and {rollouts} rollouts that the checkpoint's run was planned with"
        )
        remedy = "Leave it as it was, and stop the run by hand, or start a new one."
        raise ValueError(error_text(setting, condition, (n_rounds, total_budget), remedy))
    match_prompts(allocator.bank, prompt_ids)
    if (n_rounds, total_budget) != (rounds, rollouts):
        added = n_rounds - rounds
        more = {} if visits is None else {"visits": visits(allocator.ledger.rounds_left + added)}
        allocator.extend_budget(total_budget - rollouts, rounds=added, **more)
    return allocator


def match_prompts(bank: Any, prompt_ids: Sequence[Hashable]) -> bool:
    """Let a bank's new prompts join and those that are gone retire; return whether there were any."""
    now = set(prompt_ids)
    new = [key for key in prompt_ids if key not in bank]
    gone = [key for key in bank.prompt_ids if key not in now]
    if new:
        bank.add_prompts(new)
    if gone:
        bank.retire(gone)
    return bool(new or gone)
