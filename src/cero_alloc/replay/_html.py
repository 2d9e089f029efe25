"""The report of a replay as one web page that needs no network."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from cero_alloc._pages.charts import Row, share_bars
from cero_alloc._pages.markup import (
    NONE,
    folded,
    missing,
    number,
    page,
    paragraph,
    percent,
    safe,
    table,
    warning_box,
    with_interval,
)

from ._summary import SINGLE_OUTCOMES
from ._svg import policies_figure, sizes_figure, steps_figure
from ._verdict import RULE

_MOST_SIZES = 12  # of groups, shown
_OFFERS = {"batch": "the prompts that the log visited in it", "pool": "all prompts"}
_OUTCOMES = {
    "always_right": "all groups all right",
    "always_wrong": "all groups all wrong",
    "never_mixed": "never a mixed group, those above included",
    "solved": "solved: wrong or mixed before, the last groups all right",
    "mixed": "mixed",
}
_SCHEMES = {  # column of single_rollouts: its head and decimals, None for a share
    "rollouts": ("Rollouts", 0),
    "prompts_per_1000": ("Prompts per 1,000 rollouts", 0),
    "with_signal": ("Rollouts with an advantage other than 0", None),
    "square": ("Mean squared advantage", 4),
    "baseline_error": ("Mean squared error of the baseline", 4),
}


def report_html(data: dict[str, Any]) -> str:
    """Return the page for the dict of :func:`report_json`; parts whose keys are missing, None or empty are left out."""
    name = data["log"]["file"]
    less = data.get("less") or {}
    parts = [
        f"<header>\n<h1>Replay of {safe(name)}</h1>\n{paragraph(data['verdict'], 'verdict')}{_facts(data)}</header>\n",
        warning_box(data.get("warnings") or []),
        _own(data.get("own") or {}),
        steps_figure(data.get("over_steps") or []),
        policies_figure(less["policies"], less["budget"])
        if less
        else policies_figure(data.get("policies") or [], None),
        sizes_figure(data.get("at_sizes") or []),
        _call(data.get("python") or []),
        '<div class="more">\n',
        folded("What was taken from the log", _taken(data)),
        folded("All policies with the same rollouts", _policies(data)),
        folded("Single rollouts beside groups", _single_rollouts(data.get("single_rollouts") or {})),
        folded("Prompts", _prompts(data)),
        folded("Calibration and settings", _calibration(data) + _settings(data)),
        "</div>\n",
        _footer(data),
    ]
    return page(f"Replay of {name}", parts)


def _facts(data: dict[str, Any]) -> str:
    counts = (
        f"{number(data[key])} {key if data[key] != 1 else key[:-1]}"
        for key in ("prompts", "steps", "rollouts", "groups")
    )
    return paragraph(" \N{MIDDLE DOT} ".join([*counts, f"mean reward {number(data['mean_reward'], 3)}"]), "facts")


def _call(lines: list[str]) -> str:
    if not lines:
        return ""
    note = paragraph("For a run of the log's size, in groups of its size:", "lead")
    code = safe("\n".join(lines))
    return f'<section class="call">\n<h2>The recommended call</h2>\n{note}<pre tabindex="0"><code>{code}</code></pre>\n</section>\n'


def _own(own: dict[str, Any]) -> str:
    """Return the comparison of an allocator's own log with uniform."""
    if not own:
        return ""
    ends = {
        f"{key}_{end}": value
        for key in own
        if key.endswith("_interval")
        for end, value in zip(("low", "high"), own[key], strict=True)
    }
    row = own | ends
    rows = [
        [label, *(with_interval(row, name, digits=digits, share=share) for name in (key, f"uniform_{key}"))]
        for label, key, digits, share in (
            ("Rollouts in mixed groups", "mixed", 1, True),
            ("Variance of a reward", "variance", 3, False),
        )
        if not missing(own[key])
    ]
    if not missing(own["ratio"]):
        rows.append(["Ratio of the variances", with_interval(row, "ratio", digits=2), ""])
    body = table(
        f"With the same rollouts, from a pool of {number(own['pool'])} prompts", ["", own["dealt_by"], "Uniform"], rows
    )
    return f"<section>\n<h2>Against uniform</h2>\n{body}</section>\n" if rows else ""


# ---------------------------------------------------------------- folded parts


def _taken(data: dict[str, Any]) -> str:
    log, scale = data["log"], data.get("reward_range") or {}
    good = f"{number(log['lines'] - log['bad_lines'])} good"
    rows = [
        ("format", data.get("format")),
        *((f"column of {role}", column) for role, column in (data.get("columns") or {}).items()),
        ("lines", f"{good}, {number(log['bad_lines'])} bad and left out" if log["bad_lines"] else good),
        ("broken", log.get("broken")),
        ("rewards", _rewards(scale) if scale else None),
        ("rollouts without a reward", number(data["unscored"]) if data.get("unscored") else None),
    ]
    body = table("What was read", ["What", "Found"], ((what, str(found)) for what, found in rows if found), words=True)
    bad = log.get("first_bad_lines") or []
    if bad:
        lines = ([f"line {number(line['number'])}", line["reason"], line["text"]] for line in bad)
        body += table("The first lines that were left out", ["Line", "Reason", "Begins with"], lines, words=True)
    kinds = log.get("kinds") or {}
    body += table(
        "Groups by kind",
        ["Kind", "Groups", "Share of groups", "Rollouts", "Share of rollouts"],
        (
            [
                kind,
                number(row["groups"]),
                percent(row["groups"] / log["groups"]),
                number(row["rollouts"]),
                percent(row["rollouts"] / log["rollouts"]),
            ]
            for kind, row in kinds.items()
        ),
    )
    return body + _sizes({int(size): groups for size, groups in (data.get("group_sizes") or {}).items()})


def _rewards(scale: Row) -> str:
    text = f"{scale['kind']}, from {scale['low']:g} to {scale['high']:g}"
    return text if scale["sure"] else f"{text}, the smallest and largest logged"


def _sizes(groups: dict[int, int]) -> str:
    """Return a histogram of the most frequent group sizes."""
    total = sum(groups.values())
    shown = sorted(sorted(groups, key=lambda size: -groups[size])[:_MOST_SIZES])
    rest = total - sum(groups[size] for size in shown)
    rows = [(f"groups of {number(size)}", groups[size]) for size in shown] + ([("other sizes", rest)] if rest else [])
    return (
        "<h3>Group sizes</h3>\n" + share_bars((name, n / total, f"{number(n)} groups") for name, n in rows)
        if rows
        else ""
    )


def _policies(data: dict[str, Any]) -> str:
    rows = data.get("policies")
    if not rows:
        return ""
    heads = [
        "Policy",
        "Rollouts",
        "Not in the log",
        "Mean group",
        "Mixed groups per 1,000 rollouts",
        "Rollouts in mixed groups",
        "Difference from uniform",
    ]
    body = table(
        "All policies with the logged number of rollouts; 95% intervals in brackets",
        heads,
        (
            [
                row["name"],
                number(row["dealt"]),
                percent(row["unanswerable"]),
                number(row["mean_group"], 1),
                with_interval(row, "rate"),
                with_interval(row, "mixed_share", digits=0, share=True),
                with_interval(row, "difference", sign="+"),
            ]
            for row in rows
        ),
        bold=RULE,
    )
    note = (
        f"Each step offered {_OFFERS[data['offer']]}, and its total; at most {number(data['max_rollouts'])} rollouts per prompt and step. "
        "The difference is in mixed groups per 1,000 rollouts. A rollout is not in the log if its policy asked for more rollouts of a "
        "prompt than were logged; it is spent and counts in no other column. Smaller groups raise the rate: compare policies with "
        "similar mean groups."
    )
    more = [*(data.get("notes") or []), *(f"Left out: {reason}" for reason in data.get("left_out") or [])]
    return body + paragraph(note) + "".join(map(paragraph, more))


def _single_rollouts(data: dict[str, Any]) -> str:
    rows = data.get("rows")
    if not rows:
        return ""
    shown = {key: column for key, column in _SCHEMES.items() if any(key in row for row in rows)}
    cells = (
        [row["scheme"], *(_scheme_cell(row.get(key), digits) for key, (_, digits) in shown.items())] for row in rows
    )
    return table("Two ways to spend the logged rollouts", ["Scheme", *(head for head, _ in shown.values())], cells)


def _scheme_cell(value: float | None, digits: int | None) -> str:
    return percent(value) if digits is None else number(value, digits)


def _prompts(data: dict[str, Any]) -> str:
    split = data.get("prompts_split")
    if not split:
        return ""
    share, single = split.get("share") or {}, split.get("single")
    names = {name.replace(" ", "_"): text for name, text in SINGLE_OUTCOMES.items()} if single else _OUTCOMES
    return table(
        f"Prompts by what became of their {'rollouts' if single else 'groups'}",
        ["Prompts", "Number", "Share of prompts", "Share of rollouts"],
        (
            [
                text,
                number(split[key]),
                percent(split[key] / data["prompts"]),
                percent(share.get(key)),
            ]
            for key, text in names.items()
            if key in split
        ),
    )


def _calibration(data: dict[str, Any]) -> str:
    calibration = data.get("calibration")
    if not calibration:
        return ""
    rows = (("Beta(1, 1), no forgetting", calibration["before"]), (_fitted(data), calibration["after"]))
    body = table(
        "Reward variance within groups: predicted before each group, minus observed",
        ["Beliefs", "Groups", "Bias", "Its standard error", "Mean absolute error", ""],
        (
            [
                name,
                number(row["n_groups"]),
                number(row["bias"], 4, "+"),
                number(row["standard_error"], 4),
                number(row["error"], 4),
                "biased" if row["warning"] else "",
            ]
            for name, row in rows
        ),
    )
    return body + paragraph("Groups of two or more rollouts. The error is over ten bins of the predicted variance.")


def _fitted(data: dict[str, Any]) -> str:
    prior, forgetting = data.get("prior") or {}, data.get("forgetting") or {}
    beta = f"Beta({prior['alpha']:.3g}, {prior['beta']:.3g})" if prior.get("status") == "fitted" else "Beta(1, 1)"
    value = forgetting.get("forgetting")
    return f"{beta}, forgetting {NONE if missing(value) else f'{value:g}'}"


def _settings(data: dict[str, Any]) -> str:
    prior, forgetting = data.get("prior"), data.get("forgetting")
    rows = []
    if prior:
        gain = f"{number(prior['log_likelihood_gain'], 1, '+')} nats against Beta(1, 1)"
        fit = f"fitted to {number(prior['n_prompts'])} prompts, {gain}"
        rows.append(["prior", fit if prior["status"] == "fitted" else f"Beta(1, 1), not fitted: {prior['status']}"])
        if prior["status"] == "fitted":
            rows[-1][1] = f"Beta({prior['alpha']:.3g}, {prior['beta']:.3g}), {fit}"
    if forgetting:
        chosen = f"{forgetting['forgetting']:g} per step, chosen by {number(forgetting['n_predictions'])} predictions"
        kept = f"{forgetting['forgetting']:g}, not chosen: no prompt was in two steps"
        rows.append(["forgetting", chosen if forgetting["status"] == "selected" else kept])
    return table("What the log says about settings", ["Setting", "Value"], rows, words=True) if rows else ""


def _footer(data: dict[str, Any]) -> str:
    intervals = ""
    if data.get("n_boot"):
        intervals = (
            f"Intervals in brackets hold 95% of {number(data['n_boot'])} bootstrap samples of the prompts. They leave out what another "
            "draw of prompts would have done to a policy's choices, and outcomes are those of the model as it was trained then."
        )
    terms = (
        "A group is all rollouts of one prompt in one step. It is mixed if its rewards differ; otherwise it is dead, because "
        "advantages relative to the group are then 0."
    )
    what = (
        "compares an allocator's run with uniform"
        if data.get("own")
        else "replays the log of a training run under other policies"
    )
    made = f"cero-alloc {version('cero-alloc')}: <code>cero-alloc replay LOG --html FILE</code> {what}."
    return f"<footer>\n<p>{made}</p>\n{paragraph(terms)}{paragraph(intervals)}</footer>\n"
