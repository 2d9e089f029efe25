"""The report of a replay, as text, CSV rows and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from math import isnan
from typing import Any

import numpy as np

from cero_alloc._evidence.calibration import Calibration

from ._log import RolloutLog
from ._policies import default_policies
from ._replay import replay
from ._results import Offer, ReplayResult, ReplayRow
from ._settings import SATURATIONS, LearntSettings, SaturationChoice, choose_saturation, learn_settings, python_lines

_WIDTH = 100  # of a paragraph, in characters
_FEW_PROMPTS = 20  # below that a bootstrap over prompts has too few of them to draw from
_MANY_UNANSWERED = 0.05  # share
_OFFERS = {
    "batch": "Each step offered the prompts that the log visited in it (--offer batch)",
    "pool": "Each step offered all prompts (--offer pool)",
}
_KEPT = {
    "too few prompts": "fewer than 20 prompts have two rollouts or more",
    "no spread": "the prompts do not differ enough, or each was all right or all wrong, so that no prior fits best",
}


@dataclass(frozen=True, slots=True, eq=False)
class ReplayReport:
    """A log, what policies would have made of it, and the settings that it recommends.

    ``result``, ``settings`` and ``saturation`` are None for a log whose rewards are all equal: nothing can be chosen
    from it.
    """

    name: str
    log: RolloutLog
    result: ReplayResult | None = None
    settings: LearntSettings | None = None
    saturation: SaturationChoice | None = None

    @property
    def code(self) -> list[str]:
        """Three lines of Python that build the recommended allocator."""
        if self.result is None or self.settings is None or self.saturation is None:
            return []
        return python_lines(self.log, self.settings, self.saturation.saturation, self.result)


def replay_report(
    name: str,
    log: RolloutLog,
    *,
    offer: Offer = "batch",
    max_rollouts: int | None = None,
    seed: int = 0,
    n_boot: int = 1000,
    progress: Callable[[int], Callable[[], object]] = lambda _: lambda: None,
) -> ReplayReport:
    """Replay a log under the default policies and the saturation grid, and learn its settings.

    ``progress`` is told the number of policies, and returns what is called after each of them.
    """
    if (log.entry_reward == log.entry_reward[0]).all():
        return ReplayReport(name, log)
    settings = learn_settings(log)
    policies = default_policies(log, offer=offer)
    options: dict[str, Any] = {"offer": offer, "seed": seed, "n_boot": n_boot}
    options["progress"] = progress(len(policies) + len(SATURATIONS) + 1)  # the grid is compared with uniform, too
    result = replay(log, policies, max_rollouts=max_rollouts, **options)
    choice = choose_saturation(log, settings, max_rollouts=result.max_rollouts, **options)
    return ReplayReport(name, log, result, settings, choice)


# ---------------------------------------------------------------- text


def report_text(report: ReplayReport) -> str:
    """Return the whole report as plain text."""
    parts = [_log_text(report.name, report.log)]
    if report.result is not None and report.settings is not None and report.saturation is not None:
        parts += [
            _table_text(report.result),
            _calibration_text(report.log, report.settings),
            _settings_text(report, report.settings, report.saturation),
        ]
    warnings = "\n".join(_wrapped(f"warning: {warning}") for warning in _warnings(report))
    return "\n\n".join([*parts, warnings] if warnings else parts)


def _log_text(name: str, log: RolloutLog) -> str:
    kinds = _kinds(log)
    visits, sizes = log.visits, log.trials
    shown = ", the first ones:" if log.n_bad > len(log.bad_lines) else ":"
    bad = f", {log.n_bad:,} bad and left out{shown}" if log.n_bad else ""
    lines = [
        f"THE LOG: {name}",
        "",
        f"lines      {log.n_lines - log.n_bad:,} good{bad}",
        *(f"           {line}" for line in log.bad_lines),
        f"prompts    {log.n_prompts:,}, each in {_range(visits)} of the steps",
        f"steps      {log.n_steps:,}, from {log.steps[0]:g} to {log.steps[-1]:g}"
        if log.n_steps > 1
        else "steps      1",
        f"rollouts   {log.n_rollouts:,} in {sizes.size:,} groups (one prompt in one step) of {_range(sizes)}",
        f"rewards    mean {log.successes.sum() / log.n_rollouts:.3f}, {'between 0 and 1' if log.fractional else 'all 0 or 1'}",
        "",
        f"{'groups':<30}{'groups':>12}{'share':>9}{'rollouts':>14}{'share':>9}",
    ]
    for kind, chosen in kinds.items():
        groups, rollouts = int(chosen.sum()), int(sizes[chosen].sum())
        lines.append(
            f"{kind:<30}{groups:>12,}{groups / sizes.size:>9.1%}{rollouts:>14,}{rollouts / log.n_rollouts:>9.1%}"
        )
    return "\n".join(lines)


def _kinds(log: RolloutLog) -> dict[str, Any]:
    """Return which groups are of which kind."""
    right, wrong = log.successes == log.trials, log.successes == 0.0
    equal = log.dead & ~right & ~wrong
    kinds = {"all right": right, "all wrong": wrong, "all equal, in between": equal}
    if not equal.any():
        del kinds["all equal, in between"]
    return kinds | {"dead: one of these": log.dead, "mixed: rewards differ": ~log.dead}


def _range(counts: Any) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,} ({counts.mean():.3g} on average)"


def _table_text(result: ReplayResult) -> str:
    width = max(len(row.name) for row in result.rows)
    head = f"{'':<{width}}{'':>11}{'not':>8}{'mean':>7}{'mixed groups':>22}{'dead':>17}{'against':>23}"
    second = f"{'policy':<{width}}{'rollouts':>11}{'in log':>8}{'group':>7}{'per 1,000 rollouts':>22}{'rollouts, %':>17}{'uniform':>23}"
    text = [
        "WHAT EACH POLICY WOULD HAVE BOUGHT WITH THE SAME ROLLOUTS",
        "",
        _wrapped(
            f"{_OFFERS[result.offer]} and its total; at most {result.max_rollouts} rollouts per prompt and step. In "
            f"brackets, 95% intervals by {result.n_boot:,} bootstrap samples of the prompts."
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
            "+ more than uniform, - less, by the interval. (+) rollouts that are not in the log, or that were not dealt, could "
            "account for it: uniform is not behind if these bought nothing. A rollout is not in the log where a policy asked "
            "for more of a prompt than was logged; it is spent, and counts in nothing else. Rules that deal in waves may leave "
            "rollouts undealt. Smaller groups make a higher rate: compare policies of like mean group."
        ),
    ]
    text += [_wrapped(f"Left out, {reason}") for reason in result.left_out]
    return "\n".join(text)


def _calibration_text(log: RolloutLog, settings: LearntSettings) -> str:
    a, b = settings.prior
    names = ("Beta(1, 1), no forgetting", f"Beta({a:.3g}, {b:.3g}), forgetting {settings.forgetting.forgetting:g}")
    text = [
        "CALIBRATION: variance of the rewards in a group, predicted before it was seen and observed",
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
    note = "Groups of two rollouts or more; bias with its standard error; error is the mean over ten bins of predicted variance."
    if log.fractional:
        note += (
            " Rewards between 0 and 1 vary less than 0/1 rewards of the same mean: a positive bias is to be expected."
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
        else f"Beta({a:g}, {b:g}) stays: {_KEPT[fit.status]}"
    )
    kept = (
        f"{forgetting.forgetting:g} per step, by {forgetting.n_predictions:,} predictions"
        if forgetting.status == "selected"
        else f"{forgetting.forgetting:g} stays: no prompt was in two steps"
    )
    sample = f", on {choice.n_prompts:,} of the prompts" if choice.n_prompts < report.log.n_prompts else ""
    alike = choice.n_near == len(choice.rows)
    which = (
        ": the log does not tell the candidates apart" if alike else " of those within one standard error of the best"
    )
    text = [
        "SETTINGS FOR THE NEXT RUN",
        "",
        f"prior        {prior}",
        f"forgetting   {kept}",
        f"saturation   {choice.saturation:g}, the most even{which}{sample}:",
        "",
        f"{'saturation':>10}{'mixed groups per 1,000':>32}{'std. error':>12}{'not in log':>12}{'on the top tenth':>18}",
    ]
    for value, row in zip(SATURATIONS, choice.rows, strict=True):
        text.append(
            f"{value:>10g}{_with_interval(row.rate, row.interval, 1):>32}{row.standard_error:>12.2f}"
            f"{_percent(row.unanswerable):>12}{_percent(row.top_tenth):>18}"
            + ("  <-" if value == choice.saturation else "")
        )
    return "\n".join([*text, "", *report.code])


def _warnings(report: ReplayReport) -> Iterator[str]:
    """Yield what a reader of the figures must know."""
    log = report.log
    if log.broken:
        yield f"{report.name} breaks off ({log.broken}). What was read before that was used."
    if report.result is None:
        yield (
            f"all rewards are {log.entry_reward[0]:g}: every group is dead, whatever is dealt. There is nothing to choose from, "
            "and nothing to learn from this log but that. Check that the reward column is the right one."
        )
        return
    if (log.trials == 1).all():
        yield (
            "every group is a single rollout. If the run had groups, the ids or steps tell its rollouts apart: name the "
            "right columns with --prompt-id and --step."
        )
    if log.visits.max() == 1:
        yield (
            "every prompt was seen in one step only. No policy could know anything of a prompt when its turn came: the table "
            "shows what they do blind, and the settings say nothing about later epochs."
        )
    if log.n_prompts < _FEW_PROMPTS:
        yield f"{log.n_prompts} prompts are too few for the intervals, which resample them. Do not trust the marks."
    asked = sum(row.unanswerable > _MANY_UNANSWERED for row in report.result.rows)
    if asked:
        yield (
            f"{asked} of {len(report.result.rows)} policies asked for more than {_MANY_UNANSWERED:.0%} of their rollouts beyond "
            "what the log holds of a prompt. Their figures are about the part that was logged."
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
    """Return the whole report as what JSON can hold; NaN becomes None."""
    log, result, settings, choice = report.log, report.result, report.settings, report.saturation
    data: dict[str, Any] = {
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
