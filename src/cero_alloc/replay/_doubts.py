"""What a reader doubts about a log: one line each, with what to do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._attempts import Attempts
from ._fields import Plan
from ._log import RolloutLog
from ._tally import Tally

_MANY_BAD = 0.01  # share of the lines
_FAR = 0.01  # share of the range that holds all rewards but one
_TRAINING = ("train", "training", "false", "0", "")


def doubts_of(
    log: RolloutLog, tally: Tally, plan: Plan, attempts: Attempts, dropped: int, last_attempt: bool
) -> Iterator[str]:
    """Yield the doubts about a log that was read.

    ``dropped`` rollouts were repeats of the step before, or, in a log of an allocator, dealt anew after a resume.
    """
    if log.n_bad >= _MANY_BAD * log.n_lines and log.n_bad:
        yield (
            f"{log.n_bad:,} of {log.n_lines:,} lines ({log.n_bad / log.n_lines:.1%}) could not be used; the first: "
            f"{log.bad_lines[0]}. Check the columns."
        )
    if log.reading.dealt_by:  # the groups of an allocator differ in size, and single rollouts are meant
        if dropped:
            yield (
                f"{dropped:,} rollouts were left out, because the run was resumed from an earlier round and dealt their rounds "
                "anew. If these are several runs, read one at a time."
            )
        return
    if dropped:
        yield (
            f"{dropped:,} rollouts were dropped because their step repeats the step before, completion by completion, as TRL "
            "logs it with steps_per_generation. Steps are therefore fewer than in the log."
        )
    repeated, resumed, unclear = attempts.repeated, attempts.resumed, attempts.unclear
    if repeated and not last_attempt:
        where = f"steps go backwards from {resumed.first} to {resumed.second}," if resumed else "steps go backwards"
        yield (
            f"{where} and {repeated:,} groups are logged again, as after a restart or a resume. Add --last-attempt to keep the "
            "last attempt of every step."
        )
    if unclear:
        yield (
            f"{unclear.n_groups:,} groups are in both {unclear.first} and {unclear.second}, and were put together, as those of "
            "several ranks are. If one file is a later attempt at the steps of the other, read only that one; if their ids are of "
            "two sources, read each by itself."
        )
    sizes, counts = np.unique(log.trials, return_counts=True)
    usual = int(sizes[counts.argmax()])
    multiples = int(((log.trials > usual) & (log.trials % usual == 0)).sum()) if usual > 1 else 0
    if multiples and not unclear and (last_attempt or not repeated):
        ways = "--group uid or --prompt-id source,index" + (", or --last-attempt" if not last_attempt else "")
        yield (
            f"{multiples:,} of {log.trials.size:,} groups are exact multiples of the usual {usual} rollouts: a prompt twice in a "
            f"step, two sources that share ids, or steps logged twice. Tell them apart: {ways}."
        )
    left = sorted(tally.others["left"] - tally.others["read"])
    if left:
        name = plan.columns["where"][0]
        yield (
            f"of each file only the lines with its first value of {name} were read ({', '.join(sorted(tally.others['read']))}), "
            f"not those of {', '.join(left)}, which hold the same rollouts. Others: --where {name}={left[0]}."
        )
    yield from _of_ids(log, tally, plan)
    if (log.trials == 1).all():
        yield (
            "every group is a single rollout. If the run had larger groups, only one completion per prompt was logged (TRL and "
            "W&B: log_unique_prompts=False), or --prompt-id or --step names a column that differs within a group."
            + (" If rewards are rates, say of how many rollouts: --trials N." if log.fractional else "")
        )
    elif not log.dead.any() and log.trials.size >= 20 and not log.fractional:
        yield (
            "exactly 0% of the groups are dead, which is what a filter leaves (dynamic sampling). The log says nothing about what "
            "was generated: log before the filter."
        )
    splits = {value.lower() for value in tally.values.get("split", ())}
    others = sorted(value for value in splits if value not in _TRAINING)
    if others and splits & set(_TRAINING) and "where" not in plan.columns:
        name = plan.columns["split"][0]
        kept = next(value for value in tally.values["split"] if value.lower() in _TRAINING)
        yield f"lines of {', '.join(others)} stand among those of the training. Keep one: --where {name}={kept}."
    levels = np.unique(log.entry_reward)
    if levels.size > 2 and min(levels[-2] - levels[0], levels[-1] - levels[1]) < _FAR:
        yield (
            f"one reward is far from all others ({log.reading.scale.low:g} to {log.reading.scale.high:g}), and squeezes them "
            "together. Look for it; --success-at X tells successes all the same."
        )
    if not log.reading.scale.sure:
        low, high = log.reading.scale.low, log.reading.scale.high
        yield (
            f"rewards lie between {low:g} and {high:g} in this log, which is taken for their range. Name the range: "
            f"--reward-range={low:g},{high:g}."
        )


def _of_ids(log: RolloutLog, tally: Tally, plan: Plan) -> Iterator[str]:
    name = ",".join(plan.columns.get("prompt_id", ()))
    mixed = sum(source < 0 for source in tally.sources.values())
    if mixed:
        source = plan.columns["source"][0]
        yield f"{mixed:,} ids appear under several values of {source}. Join both: --prompt-id {source},{name}."
    if log.n_prompts == 1 and log.n_steps > 1:
        yield f"the log has one prompt only. Perhaps {name} is cut short or constant: name another with --prompt-id."
        return
    if log.n_steps < 3 or plan.per_group:
        if plan.per_group:
            yield "the log has no prompt ids: every group counts as a prompt of its own, and nothing can be learnt across steps."
        return
    visits = log.visits
    if visits.max() == 1:
        yield (
            f"every id of {name} is in one step only. If it is new at each visit, as a uid is, name what stays: --prompt-id "
            "prompt, or index."
        )
    ids = log.prompt_ids
    places = all(text.isdigit() for text in ids) and sorted(map(int, ids)) == list(range(log.n_prompts))
    if places and visits.min() == log.n_steps and log.n_prompts > 1 and _is_place(name):
        yield f"{name} may be the place in the batch: the same {log.n_prompts} ids are in every step. Name what stays with --prompt-id."


def _is_place(name: str) -> bool:
    return any(part in name.lower() for part in ("idx", "index", "place", "pos"))
