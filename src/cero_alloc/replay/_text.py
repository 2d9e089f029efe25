"""The report of a replay as text."""

from __future__ import annotations

import textwrap
from math import isnan
from typing import Any

import numpy as np

from cero_alloc._checks import IntArray
from cero_alloc._evidence.calibration import Calibration

from ._log import RolloutLog
from ._own import AgainstUniform
from ._report import ReplayReport, kinds_of, notes_of, warnings_of
from ._results import ReplayResult
from ._settings import LearntSettings
from ._summary import SINGLE_OUTCOMES, Outcome, Shares, over_steps

_KINDS = f"{'all wrong':>12}{'mixed':>10}{'all right':>12}"
_OUTCOMES: dict[Outcome, str] = {
    "always wrong": "always wrong",
    "always right": "always right",
    "never mixed": "never mixed, some of each",
    "solved": "solved: the last 2 groups right",
    "mixed": "mixed",
}
_FEW_BINS = 5  # of the steps, shown
_WIDTH = 100  # of a paragraph, in characters
_MOST_SIZES = 6  # of groups, shown
_OFFERS = {
    "batch": "Each step offered the prompts that the log visited in it (--offer batch)",
    "pool": "Each step offered all prompts (--offer pool)",
}
_KEPT = {
    "too few prompts": "fewer than 20 prompts have two or more rollouts",
    "no spread": "the likelihood has no maximum, because the prompts hardly differ or each is all right or all wrong",
}


def report_text(report: ReplayReport) -> str:
    """Return the whole report as plain text."""
    warnings = "\n".join(_wrapped(f"warning: {warning}") for warning in warnings_of(report))
    parts = []
    if report.verdict is not None:
        parts.append(_wrapped(("See the warnings below: " if warnings else "") + report.verdict.text))
    parts.append(_log_text(report.name, report.log))
    if report.own is not None:
        parts.append(_own_text(report.own))
    parts.append(_summary_text(report))
    if report.result is not None and report.settings is not None:
        parts += [
            _table_text(report.result),
            *([_less_text(report.less)] if report.less is not None else []),
            _calibration_text(report.log, report.settings),
            _settings_text(report, report.settings),
        ]
    return "\n\n".join([*parts, warnings] if warnings else parts)


def _log_text(name: str, log: RolloutLog) -> str:
    kinds = kinds_of(log)
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


def _own_text(own: AgainstUniform) -> str:
    """Return what the allocator got and what uniform would have got."""
    shares = [(own.mixed, own.mixed_interval), (own.uniform_mixed, own.uniform_mixed_interval)]
    variances = [(own.variance, own.variance_interval), (own.uniform_variance, own.uniform_variance_interval)]
    percents = [_with_interval(100 * value, [100 * end for end in ends], 1) for value, ends in shares]
    text = [
        "AGAINST UNIFORM",
        "",
        f"{'':<28}{own.dealt_by:>26}{'uniform':>26}",
        "".join([f"{'rollouts in mixed groups, %':<28}", *(f"{cell:>26}" for cell in percents)]),
        "".join([f"{'variance of a reward':<28}", *(f"{_with_interval(*pair, 3):>26}" for pair in variances)]),
        f"{'ratio of the variances':<28}{_with_interval(own.ratio, own.ratio_interval, 2):>26}",
    ]
    groups = "" if isnan(own.mixed) else f", in groups of {own.group:.3g}"
    fresh = own.pool - own.n_prompts
    note = (
        f"Uniform: all {own.pool:,} prompts of the pool count the same{groups}, at their posteriors under the prior "
        f"Beta({own.prior[0]:.3g}, {own.prior[1]:.3g}) that fits the log."
        + (f" {fresh:,} of them never got a rollout and are taken from that prior." if fresh else "")
        + ("" if isnan(own.mixed) else " Shares are of the rollouts in groups of two or more.")
        + " Rates are those over the run. Brackets hold 95% intervals from bootstrap samples of the prompts."
    )
    return "\n".join([*text, "", _wrapped(note)])


def _taken(log: RolloutLog) -> list[str]:
    """Return what was taken from the log: the format, and which column is what."""
    reading = log.reading
    if not reading.columns:
        return []
    files = f", {len(reading.files):,} files" if len(reading.files) > 1 else ""
    if reading.dealt_by:
        files += f", dealt by {reading.dealt_by} from a pool of {reading.pool:,} prompts"
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


def _range(counts: Any) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,} ({counts.mean():.3g} on average)"


def _summary_text(report: ReplayReport) -> str:
    """Return what the log tells without a replay."""
    summary = report.summary
    text = (
        ["OVER THE STEPS, in % of the rollouts", "", f"{'steps':<34}{'rollouts':>12}{_KINDS}"] if summary.steps else []
    )
    text += [
        f"{f'{part.first_step:g} to {part.last_step:g}':<34}{part.rollouts:>12,}{_shares_text(part.shares)}"
        for part in over_steps(report.log, _FEW_BINS)
    ]
    if summary.sizes:
        text += ["", "AT OTHER GROUP SIZES, in % of the groups, expected by the fitted beliefs", ""]
        text += [f"{'rollouts per group':<46}{_KINDS}"]
        for row in summary.sizes:
            text.append(f"{row.size:<46}{_shares_text(row.shares)}{'  the log' if row.logged else ''}")
    if summary.schemes:
        text += [
            "",
            "SINGLE ROLLOUTS BESIDE GROUPS, at visits of prompts that were seen before",
            "",
            f"{'advantages against':<36}{'prompts per':>15}{'rollouts with':>17}{'mean squared':>16}{'of it by the':>16}",
            f"{'':<36}{'1,000 rollouts':>15}{'advantage, %':>17}{'advantage':>16}{'baseline':>16}",
        ]
        for scheme in summary.schemes:
            text.append(
                f"{scheme.scheme:<36}{scheme.prompts_per_1000:>15,.0f}{100 * scheme.with_signal:>17.0f}"
                f"{scheme.square:>16.4f}{scheme.baseline_error:>16.4f}"
            )
        note = (
            "The mean of a small group is a noisy baseline, and takes part of the group's own reward away; a posterior is as "
            "good as earlier visits made it. What single rollouts bring in training was measured elsewhere (page: Does it learn "
            "faster?)."
        )
        text += ["", _wrapped(note)]
    names = SINGLE_OUTCOMES if summary.prompts.single else _OUTCOMES
    by = "rollouts" if summary.prompts.single else "groups"
    text += ["", f"PROMPTS, by their {by} over the whole log (--prompts FILE.csv lists them)", ""]
    text += [f"{'':<34}{'prompts':>12}{'rollouts':>12}"]
    counts = summary.prompts.counts()
    text += [f"{shown:<34}{counts[name][0]:>12,}{counts[name][1]:>12,}" for name, shown in names.items()]
    return "\n".join(text).lstrip()


def _shares_text(shares: Shares) -> str:
    between = f"  {shares.between:.0%} equal in between" if shares.between > 0.005 else ""
    return f"{100 * shares.all_wrong:>12.1f}{100 * shares.mixed:>10.1f}{100 * shares.all_right:>12.1f}{between}"


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
    text += [_wrapped(note) for note in notes_of(result)]
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
    return "\n".join([*text, "", _wrapped(note), *(_wrapped(f"Left out: {reason}.") for reason in less.left_out)])


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


def _settings_text(report: ReplayReport, settings: LearntSettings) -> str:
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
    text = [
        "SETTINGS FOR THE NEXT RUN",
        "",
        f"prior        {prior}",
        f"forgetting   {kept}",
    ]
    if not report.code:
        return "\n".join([*text, "", "No allocator is recommended: see the first line."])
    return "\n".join([*text, "", *report.code])


def _with_interval(value: float, interval: Any, digits: int, sign: str = "") -> str:
    if isnan(value):
        return "-"
    low, high = interval
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _percent(share: float) -> str:
    return "-" if isnan(share) else f"{share:.1%}"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _WIDTH))
