"""The report of a replay, and the same as CSV rows and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from math import isnan
from typing import Any

import numpy as np

from cero_alloc._saving.shown import Shown, short

from ._log import RolloutLog
from ._own import AgainstUniform, against_uniform
from ._policies import default_policies
from ._replay import replay
from ._results import UNIFORM, Offer, ReplayResult, ReplayRow
from ._settings import LearntSettings, learn_settings, python_lines
from ._summary import Summary, singles, summary_json, summary_of
from ._verdict import RULE, Verdict, counted, verdict

_FEW_PROMPTS = 20  # with fewer prompts the bootstrap intervals are unreliable
_MANY_UNANSWERED = 0.05  # share of the rollouts of a policy


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ReplayReport(Shown):
    """A log, what it tells by itself, its replay under the default policies, and the settings that it recommends.

    ``result`` and ``settings`` are None if all rewards of the log are equal, because no policy then
    differs from another. They are None, too, for a log that an allocator wrote, of which ``own`` is the comparison: a replay
    would take what the allocator chose for all that there was.
    """

    name: str
    log: RolloutLog
    summary: Summary
    result: ReplayResult | None = None
    settings: LearntSettings | None = None
    less: ReplayResult | None = None
    verdict: Verdict | None = None
    own: AgainstUniform | None = None

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "name", short(self.name)
        yield "log", short(self.log)
        yield "result", short(self.result)
        if self.verdict is not None:
            yield "verdict", short(self.verdict.kind)

    @property
    def code(self) -> list[str]:
        """The call of the recommended allocator; empty unless it would have been worth it."""
        return python_lines(self.log) if self.verdict is not None and self.verdict.kind == "waste" else []


def replay_report(
    name: str,
    log: RolloutLog,
    *,
    offer: Offer = "batch",
    max_rollouts: int | None = None,
    budget: float = 0.5,
    group_size: int | None = None,
    seed: int = 0,
    n_boot: int = 1000,
    progress: Callable[[int], Callable[[], object]] = lambda _: lambda: None,
) -> ReplayReport:
    """Replay a log under the default policies, with its rollouts and with a share of them, and learn its settings.

    ``progress`` is called with the number of policies and returns a callable that is called after each of them.
    """
    if (log.entry_reward == log.entry_reward[0]).all():
        return ReplayReport(name, log, summary_of(log))
    if log.reading.dealt_by:
        own = against_uniform(log, n_boot=n_boot, seed=seed)
        return ReplayReport(name, log, summary_of(log), verdict=Verdict("own", own.text), own=own)
    whole, log = log, log.joined()
    settings = learn_settings(log)
    summary = summary_of(whole, settings)
    policies = default_policies(log, offer=offer)
    options: dict[str, Any] = {"offer": offer, "seed": seed, "n_boot": n_boot}
    judged = (budget, offer, group_size) == (0.5, "batch", None)  # the second table's replay is the verdict's, too
    played = [policies, default_policies(log, offer=offer, budget=budget, group_size=group_size)]
    if not judged:
        played.append(default_policies(log, budget=0.5))
    options["progress"] = progress(sum(map(len, played)))
    result = replay(log, policies, max_rollouts=max_rollouts, **options)
    less = replay(log, budget=budget, group_size=group_size, **options)
    half = less if judged else replay(log, **{**options, "offer": "batch"}, budget=0.5)
    return ReplayReport(name, whole, summary, result, settings, less, verdict(log, half))


def kinds_of(log: RolloutLog) -> dict[str, Any]:
    """Return which groups are of each kind."""
    single = singles(log)
    dead = log.dead & ~single
    right, wrong = dead & (log.successes == log.trials), dead & (log.successes == 0.0)
    equal = dead & ~right & ~wrong
    kinds = {"single rollouts": single, "all right": right, "all wrong": wrong, "all equal, in between": equal}
    for kind in ("single rollouts", "all equal, in between"):
        if not kinds[kind].any():
            del kinds[kind]
    return kinds | {"dead: all rewards equal": dead, "mixed: rewards differ": ~log.dead}


def warnings_of(report: ReplayReport) -> Iterator[str]:
    """Yield the reasons to doubt the figures, those of the verdict among them."""
    log = report.log
    if log.broken:
        yield f"{report.name} is incomplete ({log.broken}). The lines before the break were used."
    yield from log.reading.doubts
    if report.own is not None:
        return
    if report.result is None:
        yield (
            f"all rewards are {log.entry_reward[0]:g}: every group is dead under every policy, and no settings can be learnt "
            "from this log. Check that the reward column is the right one."
        )
        return
    if log.visits.max() == 1:
        yield (
            "every prompt was seen in one step only, so that every policy allocated without evidence about the prompts on "
            "offer. The table and the settings say nothing about later epochs."
        )
    if log.n_prompts < _FEW_PROMPTS:
        yield f"{counted(log.n_prompts, 'prompt', 'is', 'are')} too few for bootstrap intervals. Do not rely on the marks."


def notes_of(result: ReplayResult) -> Iterator[str]:
    """Yield what to know of the table at the logged number of rollouts."""
    asked = sum(row.unanswerable > _MANY_UNANSWERED for row in result.rows)
    if asked:
        yield (
            f"For {asked} of {len(result.rows)} policies more than {_MANY_UNANSWERED:.0%} of the rollouts are not in the log. Their "
            "figures cover the remaining rollouts only."
        )
    rule = next((row for row in result.rows if row.name == RULE), None)
    uniform = result.row(UNIFORM)
    # With more of its rollouts in mixed groups, a rule can only make fewer of them if they are larger.
    if rule and rule.mark == "-" and rule.mixed_share > uniform.mixed_share and rule.mean_group > uniform.mean_group:
        yield (
            f"{RULE} makes fewer mixed groups than uniform here because its groups are larger, {rule.mean_group:.3g} rollouts on "
            f"average against {uniform.mean_group:.3g}: {rule.mixed_share:.0%} of its rollouts are in mixed groups, against "
            f"{uniform.mixed_share:.0%}."
        )


# ---------------------------------------------------------------- tables for machines


def report_rows(report: ReplayReport) -> list[dict[str, Any]]:
    """Return the table as flat dicts, one per policy and one for the log; the keys are those of ReplayRow."""
    if report.result is None:
        return []
    return [_flat(row) for row in (*report.result.rows, report.result.logged)]


def row_names() -> list[str]:
    """Return the keys of :func:`report_rows`."""
    names = (field.name for field in fields(ReplayRow))
    return [part for name in names for part in ([f"{name}_low", f"{name}_high"] if "interval" in name else [name])]


def _flat(row: ReplayRow) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in asdict(row).items():
        flat.update({f"{name}_low": value[0], f"{name}_high": value[1]} if "interval" in name else {name: value})
    return flat


def report_json(report: ReplayReport) -> dict[str, Any]:
    """Return the whole report as JSON types; NaN becomes None."""
    log, result, settings = report.log, report.result, report.settings
    reading, kinds = log.reading, kinds_of(log)
    sizes, groups = np.unique(log.trials, return_counts=True)
    data: dict[str, Any] = {
        "prompts": log.n_prompts,
        "steps": log.n_steps,
        "rollouts": log.n_rollouts,
        "groups": int(log.trials.size),
        "dead_groups": int(kinds["dead: all rewards equal"].sum()),
        "all_right": int(kinds["all right"].sum()),
        "all_wrong": int(kinds["all wrong"].sum()),
        "unscored": reading.unscored,
        "mean_reward": log.successes.sum() / log.n_rollouts,
        "reward_range": asdict(reading.scale),
        "group_sizes": dict(zip(map(str, sizes.tolist()), groups.tolist(), strict=True)),
        "verdict": report.verdict.text
        if report.verdict
        else f"All rewards are {log.entry_reward[0]:g}: nothing to choose.",
        "verdict_kind": report.verdict.kind if report.verdict else "one sided",
        "format": reading.format,
        "columns": reading.columns,
        **summary_json(report.summary),
        "log": {
            "file": report.name,
            "lines": log.n_lines,
            "bad_lines": log.n_bad,
            "first_bad_lines": [asdict(line) for line in log.bad_lines],
            "broken": log.broken,
            "prompts": log.n_prompts,
            "steps": log.n_steps,
            "rollouts": log.n_rollouts,
            "groups": int(log.trials.size),
            "mean_reward": log.successes.sum() / log.n_rollouts,
            "kinds": {
                kind: {"groups": int(chosen.sum()), "rollouts": int(log.trials[chosen].sum())}
                for kind, chosen in kinds.items()
            },
        },
        "own": None if report.own is None else asdict(report.own) | {"gain": report.own.gain},
        "warnings": list(warnings_of(report)),
    }
    if result is not None and settings is not None:
        data |= {
            "offer": result.offer,
            "max_rollouts": result.max_rollouts,
            "n_boot": result.n_boot,
            "policies": report_rows(report),
            "less": None
            if report.less is None
            else {
                "budget": report.less.budget,
                "policies": [_flat(row) for row in (*report.less.rows, report.less.logged)],
            },
            "notes": list(notes_of(result)),
            "left_out": list(result.left_out),
            "calibration": {"before": asdict(settings.before), "after": asdict(settings.after)},
            "prior": asdict(settings.prior_fit),
            "forgetting": asdict(settings.forgetting),
            "python": report.code,
        }
    plain: dict[str, Any] = _plain(data)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return None if isnan(value) else float(value)
    return value
