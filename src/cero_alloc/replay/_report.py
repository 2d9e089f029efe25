"""The report of a replay as text, CSV rows and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from math import isnan
from typing import Any

import numpy as np

from cero_alloc._checks import IntArray
from cero_alloc._evidence.calibration import Calibration

from ._log import RolloutLog
from ._policies import default_policies
from ._replay import replay
from ._results import Offer, ReplayResult, ReplayRow
from ._settings import SATURATIONS, LearntSettings, SaturationChoice, choose_saturation, learn_settings, python_lines
from ._verdict import Verdict, verdict

_WIDTH = 100  # of a paragraph, in characters
_FEW_PROMPTS = 20  # with fewer prompts the bootstrap intervals are unreliable
_MOST_SIZES = 6  # of groups, shown
_MANY_UNANSWERED = 0.05  # share of the rollouts of a policy
_OFFERS = {
    "batch": "Each step offered the prompts that the log visited in it (--offer batch)",
    "pool": "Each step offered all prompts (--offer pool)",
}
_KEPT = {
    "too few prompts": "fewer than 20 prompts have two or more rollouts",
    "no spread": "the likelihood has no maximum, because the prompts hardly differ or each is all right or all wrong",
}


@dataclass(frozen=True, slots=True, eq=False)
class ReplayReport:
    """A log, its replay under the default policies, and the settings that it recommends.

    ``result``, ``settings`` and ``saturation`` are None if all rewards of the log are equal, because no policy then
    differs from another.
    """

    name: str
    log: RolloutLog
    result: ReplayResult | None = None
    settings: LearntSettings | None = None
    saturation: SaturationChoice | None = None
    less: ReplayResult | None = None
    verdict: Verdict | None = None

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
    seed: int = 0,
    n_boot: int = 1000,
    progress: Callable[[int], Callable[[], object]] = lambda _: lambda: None,
) -> ReplayReport:
    """Replay a log under the default policies, with its rollouts and with a share of them, and learn its settings.

    ``progress`` is called with the number of policies and returns a callable that is called after each of them.
    """
    if (log.entry_reward == log.entry_reward[0]).all():
        return ReplayReport(name, log)
    whole, log = log, log.joined()
    settings = learn_settings(log)
    policies = default_policies(log, offer=offer)
    options: dict[str, Any] = {"offer": offer, "seed": seed, "n_boot": n_boot}
    judged = (budget, offer) == (0.5, "batch")  # the second table's replay is the verdict's, too
    replays = 2 if judged else 3
    options["progress"] = progress(
        replays * len(policies) + len(SATURATIONS) + 1
    )  # the grid's replay also plays uniform
    result = replay(log, policies, max_rollouts=max_rollouts, **options)
    choice = choose_saturation(log, settings, max_rollouts=result.max_rollouts, **options)
    less = replay(log, budget=budget, **options)
    half = less if judged else replay(log, **{**options, "offer": "batch"}, budget=0.5)
    return ReplayReport(name, whole, result, settings, choice, less, verdict(log, half))


# ---------------------------------------------------------------- text


def report_text(report: ReplayReport) -> str:
    """Return the whole report as plain text."""
    parts = [_wrapped(report.verdict.text)] if report.verdict is not None else []
    parts.append(_log_text(report.name, report.log))
    if report.result is not None and report.settings is not None and report.saturation is not None:
        parts += [
            _table_text(report.result),
            *([_less_text(report.less)] if report.less is not None else []),
            _calibration_text(report.log, report.settings),
            _settings_text(report, report.settings, report.saturation),
        ]
    warnings = "\n".join(_wrapped(f"warning: {warning}") for warning in _warnings(report))
    return "\n\n".join([*parts, warnings] if warnings else parts)


def _log_text(name: str, log: RolloutLog) -> str:
    kinds = _kinds(log)
    visits, sizes = log.visits, log.trials
    shown = f"; the first {len(log.bad_lines)}:" if log.n_bad > len(log.bad_lines) else ":"
    bad = f", {log.n_bad:,} bad and left out{shown}" if log.n_bad else ""
    lines = [
        f"THE LOG: {name}",
        "",
        *_taken(log),
        f"lines      {log.n_lines - log.n_bad:,} good{bad}",
        *(f"           {line}" for line in log.bad_lines),
        f"prompts    {log.n_prompts:,}, each in {_range(visits)} of the steps",
        f"steps      {log.n_steps:,}, from {log.steps[0]:g} to {log.steps[-1]:g}"
        if log.n_steps > 1
        else "steps      1",
        f"rollouts   {log.n_rollouts:,} in {sizes.size:,} groups (one prompt in one step) of {_range(sizes)}",
        f"sizes      {_histogram(sizes)}",
        f"rewards    {_rewards(log)}",
        "",
        f"{'groups':<30}{'groups':>12}{'share':>9}{'rollouts':>14}{'share':>9}",
    ]
    for kind, chosen in kinds.items():
        groups, rollouts = int(chosen.sum()), int(sizes[chosen].sum())
        lines.append(
            f"{kind:<30}{groups:>12,}{groups / sizes.size:>9.1%}{rollouts:>14,}{rollouts / log.n_rollouts:>9.1%}"
        )
    return "\n".join(lines)


def _taken(log: RolloutLog) -> list[str]:
    """Return what was taken from the log: the format, and which column is what."""
    reading = log.reading
    if not reading.columns:
        return []
    files = f", {len(reading.files):,} files" if len(reading.files) > 1 else ""
    columns = ", ".join(f"{role} = {name}" for role, name in reading.columns.items())
    return [f"format     {reading.format}{files}", *_wrapped(f"columns    {columns}").split("\n")]


def _histogram(sizes: IntArray) -> str:
    """Return the most frequent group sizes with their numbers of groups."""
    values, counts = np.unique(sizes, return_counts=True)
    most = np.sort(np.argsort(-counts, kind="stable")[:_MOST_SIZES])
    shown = ", ".join(f"{values[i]:,} x {counts[i]:,}" for i in most)
    rest = int(counts.sum() - counts[most].sum())
    return f"{shown} (rollouts x groups)" + (f" and {rest:,} groups of other sizes" if rest else "")


def _rewards(log: RolloutLog) -> str:
    scale = log.reading.scale
    text = f"{scale.kind}, mean {log.successes.sum() / log.n_rollouts:.3f}"
    if (scale.low, scale.high) != (0.0, 1.0):
        text += f" after mapping [{scale.low:g}, {scale.high:g}] to [0, 1]"
    return text + (f"; {log.reading.unscored:,} rollouts without a reward" if log.reading.unscored else "")


def _kinds(log: RolloutLog) -> dict[str, Any]:
    """Return which groups are of each kind."""
    right, wrong = log.successes == log.trials, log.successes == 0.0
    equal = log.dead & ~right & ~wrong
    kinds = {"all right": right, "all wrong": wrong, "all equal, in between": equal}
    if not equal.any():
        del kinds["all equal, in between"]
    return kinds | {"dead: all rewards equal": log.dead, "mixed: rewards differ": ~log.dead}


def _range(counts: Any) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,} ({counts.mean():.3g} on average)"


def _table_text(result: ReplayResult) -> str:
    width = max(len(row.name) for row in result.rows)
    head = f"{'':<{width}}{'':>11}{'not':>8}{'mean':>7}{'mixed groups':>22}{'rollouts in':>17}{'difference':>23}"
    second = f"{'policy':<{width}}{'rollouts':>11}{'in log':>8}{'group':>7}{'per 1,000 rollouts':>22}"
    second += f"{'dead groups, %':>17}{'from uniform':>23}"
    text = [
        "MIXED GROUPS OF EACH POLICY WITH THE SAME ROLLOUTS",
        "",
        _wrapped(
            f"{_OFFERS[result.offer]} and its total; at most {result.max_rollouts} rollouts per prompt and step. "
            f"Brackets hold 95% intervals from {result.n_boot:,} bootstrap samples of the prompts."
        ),
        "",
        head,
        second,
    ]
    text += [
        f"{row.name:<{width}}{row.dealt:>11,}{_percent(row.unanswerable):>8}{row.mean_group:>7.1f}"
        f"{_with_interval(row.rate, row.interval, 1):>22}"
        f"{_with_interval(100 * row.dead_share, tuple(100 * x for x in row.dead_interval), 0):>17}"
        f"{_with_interval(row.difference, row.difference_interval, 1, sign='+'):>23} {row.mark}".rstrip()
        for row in (*result.rows, result.logged)
    ]
    text += [
        "",
        _wrapped(
            "+ significantly more than uniform, - significantly less, by the interval of the difference. (+) more, but not if "
            "rollouts that were undealt or are not in the log had added no mixed group. A rollout is not in the log if its "
            "policy asked for more rollouts of a prompt than were logged; it is spent and counts in no other column. Policies "
            "that deal in waves may leave rollouts undealt. Smaller groups raise the rate: compare policies with similar mean "
            "groups."
        ),
    ]
    text += [_wrapped(f"Left out: {reason}") for reason in result.left_out]
    return "\n".join(text)


def _less_text(less: ReplayResult) -> str:
    """Return what each policy would have kept of the mixed groups with fewer rollouts."""
    width = max(len(row.name) for row in less.rows)
    text = [
        f"WITH {less.budget:.0%} OF THE ROLLOUTS",
        "",
        f"{'':<{width}}{'':>11}{'mean':>7}{'rollouts in':>20}{'of all mixed':>20}",
        f"{'policy':<{width}}{'rollouts':>11}{'group':>7}{'mixed groups, %':>20}{'groups kept, %':>20}",
    ]
    for row in (*less.rows, less.logged):
        shares = (row.mixed_share, row.mixed_share_interval), (row.kept, row.kept_interval)
        cells = [f"{_with_interval(100 * x, tuple(100 * e for e in ends), 0):>20}" for x, ends in shares]
        text.append(f"{row.name:<{width}}{row.dealt:>11,}{row.mean_group:>7.1f}{''.join(cells)}".rstrip())
    note = (
        "Outcomes are those of the same step, in batches. A random choice of whole groups keeps the share of the rollouts that "
        "it spends. Smaller groups keep more mixed groups, each with fewer rollouts: compare policies with similar mean groups."
    )
    return "\n".join([*text, "", _wrapped(note)])


def _calibration_text(log: RolloutLog, settings: LearntSettings) -> str:
    a, b = settings.prior
    names = ("Beta(1, 1), no forgetting", f"Beta({a:.3g}, {b:.3g}), forgetting {settings.forgetting.forgetting:g}")
    text = [
        "CALIBRATION: reward variance within groups, predicted before each group and observed in it",
        "",
        f"{'':<34}{'groups':>10}{'predicted':>12}{'observed':>11}{'bias':>20}{'error':>9}",
    ]
    for name, calibration in zip(names, (settings.before, settings.after), strict=True):
        predicted, observed = _means(calibration)
        bias = f"{calibration.bias:+.4f} +- {calibration.standard_error:.4f}"
        text.append(
            f"{name:<34}{calibration.n_groups:>10,}{predicted:>12.4f}{observed:>11.4f}{bias:>20}{calibration.error:>9.4f}"
            + ("  biased" if calibration.warning else "")
        )
    note = (
        "Groups of two or more rollouts. bias: predicted minus observed, with its standard error. error: mean absolute "
        "difference over ten bins of the predicted variance."
    )
    if log.fractional:
        note += (
            " Rewards between 0 and 1 vary less than 0/1 rewards of the same mean, which the prior expects: a positive bias "
            "that fades with the evidence is no error."
        )
    return "\n".join([*text, "", _wrapped(note)])


def _means(calibration: Calibration) -> tuple[float, float]:
    if not calibration.n_groups:
        return float("nan"), float("nan")
    weight = calibration.groups / calibration.n_groups
    return float(np.nansum(weight * calibration.predicted)), float(np.nansum(weight * calibration.observed))


def _settings_text(report: ReplayReport, settings: LearntSettings, choice: SaturationChoice) -> str:
    fit, forgetting = settings.prior_fit, settings.forgetting
    a, b = settings.prior
    prior = (
        f"Beta({a:.3g}, {b:.3g}), fitted to {fit.n_prompts:,} prompts ({fit.log_likelihood_gain:+.1f} nats against Beta(1, 1))"
        if fit.fitted
        else f"Beta({a:g}, {b:g}), not fitted: {_KEPT[fit.status]}"
    )
    kept = (
        f"{forgetting.forgetting:g} per step, chosen by {forgetting.n_predictions:,} predictions"
        if forgetting.status == "selected"
        else f"{forgetting.forgetting:g}, not chosen: no prompt was in two steps"
    )
    sample = f" (replayed on {choice.n_prompts:,} of the prompts)" if choice.n_prompts < report.log.n_prompts else ""
    alike = choice.n_near == len(choice.rows)
    which = "candidate: all are within" if alike else "of the candidates within"
    chosen = f"{choice.saturation:g}, the largest {which} one standard error of the best{sample}:"
    if isnan(choice.saturation):
        chosen = "not chosen: no policy had a mixed group"
    text = [
        "SETTINGS FOR THE NEXT RUN",
        "",
        f"prior        {prior}",
        f"forgetting   {kept}",
        f"saturation   {chosen}",
        "",
        f"{'saturation':>10}{'mixed groups per 1,000':>32}{'std. error':>12}{'not in log':>12}{'on the top tenth':>18}",
    ]
    for value, row in zip(SATURATIONS, choice.rows, strict=True):
        text.append(
            f"{value:>10g}{_with_interval(row.rate, row.interval, 1):>32}{row.standard_error:>12.2f}"
            f"{_percent(row.unanswerable):>12}{_percent(row.top_tenth):>18}"
            + ("  <-" if value == choice.saturation else "")
        )
    if not report.code:
        return "\n".join([*text, "", "No allocator is recommended: see the first line."])
    return "\n".join([*text, "", *report.code])


def _warnings(report: ReplayReport) -> Iterator[str]:
    """Yield the reasons to doubt the figures."""
    log = report.log
    if log.broken:
        yield f"{report.name} is incomplete ({log.broken}). The lines before the break were used."
    yield from log.reading.doubts
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
        yield f"{log.n_prompts} prompts are too few for bootstrap intervals. Do not rely on the marks."
    asked = sum(row.unanswerable > _MANY_UNANSWERED for row in report.result.rows)
    if asked:
        yield (
            f"for {asked} of {len(report.result.rows)} policies more than {_MANY_UNANSWERED:.0%} of the rollouts are not in the "
            "log. Their figures cover the remaining rollouts only."
        )


def _with_interval(value: float, interval: Any, digits: int, sign: str = "") -> str:
    if isnan(value):
        return "-"
    low, high = interval
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _percent(share: float) -> str:
    return "-" if isnan(share) else f"{share:.1%}"


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, _WIDTH))


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
    log, result, settings, choice = report.log, report.result, report.settings, report.saturation
    reading, dead = log.reading, log.dead
    sizes, groups = np.unique(log.trials, return_counts=True)
    data: dict[str, Any] = {
        "prompts": log.n_prompts,
        "steps": log.n_steps,
        "rollouts": log.n_rollouts,
        "groups": int(log.trials.size),
        "dead_groups": int(dead.sum()),
        "all_right": int((dead & (log.successes == log.trials)).sum()),
        "all_wrong": int((dead & (log.successes == 0.0)).sum()),
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
                for kind, chosen in _kinds(log).items()
            },
        },
        "warnings": list(_warnings(report)),
    }
    if result is not None and settings is not None and choice is not None:
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
            "left_out": list(result.left_out),
            "calibration": {"before": asdict(settings.before), "after": asdict(settings.after)},
            "prior": asdict(settings.prior_fit),
            "forgetting": asdict(settings.forgetting),
            "saturation": {
                "chosen": choice.saturation,
                "prompts": choice.n_prompts,
                "grid": [
                    {"saturation": value, **_flat(row)} for value, row in zip(SATURATIONS, choice.rows, strict=True)
                ],
            },
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
