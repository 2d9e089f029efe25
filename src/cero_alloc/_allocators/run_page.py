"""The report of a run as one web page that needs no network."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

import numpy as np

from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._checks import FloatArray, IntArray
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.prior import PriorFit
from cero_alloc._pages.charts import (
    KINDS,
    columns,
    figure,
    kinds_key,
    lines_key,
    lines_over,
    panels,
    share_bars,
    shown_kinds,
    stacked_columns,
)
from cero_alloc._pages.markup import folded, number, page, paragraph, percent, safe, table, warning_box

from .audit import never_right
from .run_facts import OUTCOMES, Row, Shares, largest, run_warnings
from .run_history import BINS, RunHistory, histogram

_NAMED = 10  # prompts of a list
_LETTERS = 80  # of an id
_TENTHS = 10

Fit = tuple[int | None, PriorFit | None]  # rounds between refits, and the last


def run_page(
    name: str, bank: BetaPosteriorBank, ledger: RolloutLedger, past: RunHistory, metrics: dict[str, float], fit: Fit
) -> str:
    """Return the page of an allocator of this class."""
    shares = Shares.of(past)
    alpha, beta = bank.evidence.posterior(None)
    exposure = ledger.exposure
    parts = [
        f"<header>\n<h1>Run of {safe(name)}</h1>\n{paragraph(_verdict(ledger, shares), 'verdict')}",
        f"{paragraph(_facts(bank, ledger, shares), 'facts')}</header>\n",
        warning_box(run_warnings(ledger, metrics, shares)),
        _singles(shares) if shares.single else _groups(shares),
        _budget(ledger, past, shares),
        _rates(past, histogram(alpha, beta)),
        _difficulty(alpha / (alpha + beta), exposure),
        '<div class="more">\n',
        _prompts(bank, alpha, beta, exposure),
        folded("Settings and beliefs", _settings(name, bank, ledger, fit)),
        "</div>\n",
        _footer(past, shares),
    ]
    return page(f"Run of {name}", parts)


def _verdict(ledger: RolloutLedger, shares: Shares) -> str:
    word, total = ledger.costs.word, shares.total
    if not ledger.round:
        return f"Nothing dealt yet: {number(ledger.total)} {word} for {_rounds(ledger.n_rounds)}."
    spent = f"{number(ledger.dealt, 0)} of {number(ledger.total, 0)} {word} dealt in {number(ledger.round)} of {_rounds(ledger.n_rounds)}."
    if not total["reported"]:
        return f"{spent} No rewards yet."
    if shares.single:
        ours, theirs = total["value"], total["uniform"]["value"]
        found = f"{'more' if ours >= theirs else 'less'} variance than uniform's would: {number(ours, 3)} against {number(theirs, 3)}"
        return f"{spent} By the beliefs, rewards had {percent(abs(ours / max(theirs, 1e-12) - 1.0), 0)} {found}."
    uniform = f"; uniform would have {percent(total['uniform']['mixed'], 0)}" if shares.comparable else ""
    return f"{spent} {percent(total['mixed'], 0)} of the rollouts were in mixed groups{uniform}."


def _facts(bank: BetaPosteriorBank, ledger: RolloutLedger, shares: Shares) -> str:
    n_prompts, balance, word = len(bank), ledger.balance, ledger.costs.word
    facts = [f"{number(n_prompts)} {'prompts' if n_prompts != 1 else 'prompt'}"]
    facts += [
        f"{number(balance.spent, 0)} {word} spent",
        f"{number(balance.reserved, 0)} dealt and not reported",
        f"{number(balance.left, 0)} left",
    ]
    if shares.total["reported"]:
        mean = bank.rewards.low + bank.rewards.width * shares.total["reward"]
        facts.append(f"mean reward {number(mean, 3)}")
    return " \N{MIDDLE DOT} ".join(facts)


def _rounds(n: float) -> str:
    return f"{number(n)} round{'s' if n != 1 else ''}"


def _of(row: Row) -> str:
    first, last = number(row["first"]), number(row["last"])
    return f"round {first}" if first == last else f"rounds {first} to {last}"


def _ends(rows: list[Row]) -> tuple[str, str]:
    """Return the names of the first and the last round."""
    return _of({**rows[0], "last": rows[0]["first"]}), _of({**rows[-1], "first": rows[-1]["last"]})


# ---------------------------------------------------------------- over rounds


def _heard(shares: Shares) -> list[Row]:
    """Return the rows of which something was dealt and reported."""
    return [row for row in shares.rows if row["reported"] and row["dealt"]]


def _groups(shares: Shares) -> str:
    """Return the figure of the rollouts by outcome of their group, beside what uniform would expect."""
    rows, total = _heard(shares), shares.total
    if not rows:
        return ""
    dead, theirs = (percent(1.0 - row["mixed"], 0) for row in (total, total["uniform"]))
    caption = f"Groups with equal rewards, which teach nothing, took {dead} of the rollouts. " + (
        f"As many groups of the same mean size, of prompts drawn evenly from those on offer, would be expected to take {theirs}."
        if shares.comparable
        else "Many had equal rewards between right and wrong. Beliefs do not foresee these, so uniform is not shown."
    )
    outcomes = OUTCOMES if shares.comparable else ()
    shown = shown_kinds(rows)
    names, ends = [_of(row) for row in rows], _ends(rows)
    pictures = [
        (title, stacked_columns(stacks, names, ends, f"{title}, by round"))
        for title, stacks in (
            (f"As dealt: {percent(total['mixed'], 0)} mixed", rows),
            (f"Uniform, expected: {percent(total['uniform']['mixed'], 0)} mixed", [row["uniform"] for row in rows]),
        )[: 2 if shares.comparable else 1]
    ]
    numbers = table(
        "Rollouts, and their shares by outcome of their group"
        + ("; the last three as expected of uniform" if outcomes else ""),
        [
            "Rounds",
            "Rollouts",
            *(KINDS[kind][1] for kind in shown),
            *(f"uniform: {KINDS[kind][1]}" for kind in outcomes),
        ],
        (
            [
                _of(row).split(" ", 1)[1],
                number(row["reported"]),
                *(percent(row[kind]) for kind in shown),
                *(percent(row["uniform"][kind]) for kind in outcomes),
            ]
            for row in rows
        ),
    )
    return figure("Rollouts by outcome of their group", caption, kinds_key(shown) + panels(pictures), numbers)


def _singles(shares: Shares) -> str:
    """Return the figure of single rollouts: how far open their outcomes were, and how they came out."""
    rows, total = _heard(shares), shares.total
    if not rows:
        return ""
    ours, theirs = total["value"], total["uniform"]["value"]
    caption = (
        "Most rollouts were single ones, so there are no groups to be mixed. What a rollout can teach is the variance of its "
        f"reward, p(1 - p), at most 0.25. The beliefs expected {number(ours, 3)} of those dealt, and {number(theirs, 3)} of "
        "prompts drawn evenly from those on offer. Without groups nothing corrects them, and a flat prior promises too much of "
        "both; a replay of the run's log weighs outcomes alone."
    )
    places = [(i + 0.5) / len(rows) for i in range(len(rows))]
    lines = [
        (css, [(x, 4.0 * value) for x, value in zip(places, values, strict=True)])
        for css, values in (
            ("line reference", [row["uniform"]["value"] for row in rows]),
            ("line", [row["value"] for row in rows]),
        )
    ]
    names, ends = [_of(row) for row in rows], _ends(rows)
    stacks = [{"all_wrong": 1.0 - row["reward"], "mixed": 0.0, "all_right": row["reward"]} for row in rows]
    pictures = [
        (
            "Expected variance of a reward",
            lines_key([("line", f"as dealt, {number(ours, 3)}"), ("line reference", f"uniform, {number(theirs, 3)}")])
            + lines_over(lines, ("0.25", "0.125", "0"), ends, "Expected variance by round"),
        ),
        (
            f"Rewards: {percent(total['reward'], 0)} right",
            _outcomes_key() + stacked_columns(stacks, names, ends, "Share right and wrong by round"),
        ),
    ]
    numbers = table(
        "Single rollouts by round",
        ["Rounds", "Rollouts", "Expected variance", "Uniform", "Mean reward"],
        (
            [
                _of(row).split(" ", 1)[1],
                number(row["reported"]),
                number(row["value"], 3),
                number(row["uniform"]["value"], 3),
                number(row["reward"], 3),
            ]
            for row in rows
        ),
    )
    return figure("What single rollouts can teach", caption, panels(pictures), numbers)


def _outcomes_key() -> str:
    return kinds_key(("all_wrong", "all_right")).replace("all wrong", "wrong").replace("all right", "right")


def _budget(ledger: RolloutLedger, past: RunHistory, shares: Shares) -> str:
    """Return the figure of the budget left over the rounds, against an even pace."""
    if not shares.rows:
        return ""
    word, total, n = ledger.costs.word, max(ledger.total, 1e-300), max(1, ledger.n_rounds)
    even = max(0.0, 1.0 - ledger.round / n) * total
    caption = (
        f"After {number(ledger.round)} of {_rounds(n)}, {number(ledger.remaining_budget, 0)} {word} are left; at an even pace "
        f"it would be {number(even, 0)}."
    )
    left = [ledger.costs.remaining(ledger.total, ledger.total_units, row["left"]) for row in shares.rows]
    left[-1] = ledger.remaining_budget  # also what was refunded since
    points = [
        (min(1.0, row["last"] / n), min(1.0, amount / total)) for row, amount in zip(shares.rows, left, strict=True)
    ]
    if past.first == 1:
        points = [(0.0, 1.0), *points]
    picture = lines_key([("line", f"left, {number(ledger.remaining_budget, 0)}"), ("line reference", "even pace")])
    picture += lines_over(
        [("line reference", [(0.0, 1.0), (1.0, 0.0)]), ("line", points)],
        ("100%", "50%", "0%"),
        ("start", f"round {number(n)}"),
        f"Budget left by round, in {word}",
    )
    numbers = table(
        f"Budget left, in {word}",
        ["Rounds", "Rollouts dealt at first", "Left"],
        (
            [_of(row).split(" ", 1)[1], number(row["dealt"], 0), number(amount, 0)]
            for row, amount in zip(shares.rows, left, strict=True)
        ),
    )
    return figure("Budget left", caption, picture, numbers)


# ---------------------------------------------------------------- over prompts


def _rates(past: RunHistory, now: IntArray) -> str:
    """Return the histograms of the estimated success rates at the beginning of the record, and now."""
    then = past.start if past.rounds else now
    parts = [counts / max(1, counts.sum()) for counts in (then, now)]
    names = [f"{i / BINS:.2f} to {(i + 1) / BINS:.2f}" for i in range(BINS)]
    ends = ("0", "estimated success rate", "1")
    pictures = [
        (
            title,
            columns(
                part.tolist(),
                [f"{name}: {percent(share)} of the prompts" for name, share in zip(names, part, strict=True)],
                max(0.1, float(np.ceil(10.0 * part.max())) / 10.0),
                ends,
                f"Prompts by estimated success rate, {title}",
            ),
        )
        for title, part in ((f"At round {number(past.first or 1)}", parts[0]), ("Now", parts[1]))
    ]
    open_ = parts[1][BINS // 10 : BINS - BINS // 10].sum()
    caption = (
        f"{percent(open_, 0)} of the prompts are now estimated between 10% and 90%. Means of the beliefs; each picture has its own "
        "scale."
    )
    numbers = table(
        "Share of the prompts by estimated success rate; that of the beginning of at most 1,024 prompts",
        ["Success rate", "At the beginning", "Now"],
        ([name, percent(a), percent(b)] for name, a, b in zip(names, *parts, strict=True)),
    )
    return figure("Estimated success rates", caption, panels(pictures), numbers)


def _difficulty(means: FloatArray, exposure: IntArray) -> str:
    """Return the figure of the rollouts by estimated success rate of their prompts."""
    total = exposure.sum()
    if not total:
        return ""
    seen = exposure > 0  # the means of the others are the prior's
    tenth = np.minimum((means[seen] * _TENTHS).astype(np.int64), _TENTHS - 1)
    dealt = np.bincount(tenth, exposure[seen], _TENTHS) / total
    prompts = np.bincount(tenth, minlength=_TENTHS) / tenth.size
    names = [f"{10 * i}% to {10 * (i + 1)}%" for i in range(_TENTHS)]
    middle = slice(2, 8)
    caption = (
        f"{percent(dealt[middle].sum(), 0)} of the rollouts went to prompts that are now estimated to be right 20% to 80% of the "
        f"time; they are {percent(prompts[middle].sum(), 0)} of the prompts dealt. Bars are shares of the rollouts, by success rate; "
        "marks are shares of the prompts, which equal counts would have given."
    )
    rows = zip(names, dealt.tolist(), [f"<b>{percent(share, 0)}</b>" for share in dealt], strict=True)
    numbers = table(
        "Rollouts by estimated success rate of their prompt, now",
        ["Success rate", "Share of rollouts", "Share of prompts"],
        ([name, percent(a), percent(b)] for name, a, b in zip(names, dealt, prompts, strict=True)),
    )
    return figure("Rollouts by difficulty", caption, share_bars(rows, prompts.tolist()), numbers)


def _prompts(bank: BetaPosteriorBank, alpha: FloatArray, beta: FloatArray, exposure: IntArray) -> str:
    """Return the lists of prompts that were dealt the most, never dealt, and never right."""
    whole = alpha + beta
    means, values = alpha / whole, alpha / whole * (beta / (whole + 1.0))
    dealt, retired = exposure > 0, bank.evidence.retired
    never = np.flatnonzero(~dealt if retired is None else ~(dealt | retired))
    if not dealt.any():
        return ""

    def listed(title: str, rows: Iterable[int], counts: IntArray | None) -> str:
        heads = ["Prompt", "Estimated success rate", "Expected p(1 - p)", *(["Rollouts"] if counts is not None else [])]
        cells = (
            [
                _name(bank.index.name(row)),
                number(means[row], 3),
                number(values[row], 3),
                *([number(counts[row])] if counts is not None else []),
            ]
            for row in rows
        )
        return table(title, heads, cells)

    most = [row for row in largest(exposure.astype(np.float64), _NAMED) if exposure[row]]
    body = folded("Prompts dealt the most", listed("By rollouts dealt and not refunded", most, exposure))
    if never.size:
        first = never[largest(values[never], _NAMED)].tolist()
        share = f"{number(never.size)} of {number(len(bank))} prompts"
        body += folded(f"Never dealt: {share}", listed("Those of the largest expected p(1 - p)", first, None))
    wrong = never_right(bank, 1)
    if wrong.size:
        tried = bank.evidence.unrewarded
        assert tried is not None
        text = f"Never right: {number(wrong.size)} prompts"
        body += folded(
            text, listed("By reported rollouts, counted up to 65,534", wrong[:_NAMED].tolist(), tried.astype(np.int64))
        )
    return body


def _name(prompt_id: object) -> str:
    text = str(prompt_id)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"


# ---------------------------------------------------------------- settings


def _settings(name: str, bank: BetaPosteriorBank, ledger: RolloutLedger, fit: Fit) -> str:
    evidence, h = bank.evidence, ledger.horizon
    shared = evidence.a0.size == 1
    every, last = fit
    prior = f"Beta({evidence.a0.mean():.3g}, {evidence.b0.mean():.3g})" + (
        "" if shared else ", the means over the prompts"
    )
    retired = 0 if evidence.retired is None else int(np.count_nonzero(evidence.retired))
    rows = [
        ("allocator", name),
        ("max_rollouts", f"{number(h.max_rollouts)} per prompt and round, in units of {number(h.unit_size)}"),
        ("round_capacity", f"{number(h.round_capacity)} rollouts"),
        ("prior", prior),
        ("drift", f"{evidence.drift:.3g} per round" if evidence.drift else "none"),
        ("trend", f"{evidence.trend:.3g} per round" if evidence.trend else "none"),
        ("forgetting", f"{evidence.forgetting:g} per round" if evidence.forgetting < 1.0 else "none"),
        ("refits", "none" if every is None else f"every {_rounds(every)}"),
        ("last refit", None if last is None else f"{last.status}, {number(last.n_prompts)} prompts"),
        ("reward range", f"{bank.rewards.low:g} to {bank.rewards.high:g}"),
        ("retired prompts", number(retired) if retired else None),
    ]
    return table("As they stand now", ["Setting", "Value"], ((key, value) for key, value in rows if value), words=True)


def _footer(past: RunHistory, shares: Shares) -> str:
    uniform = (
        "Uniform is what the same rollouts would be expected to give in as many groups of the same mean size, of prompts drawn "
        "evenly from those on offer, by the beliefs when a round was dealt; at most 64 of the prompts are looked at."
    )
    notes = [uniform]
    if not shares.single:
        notes = [
            "A group is what one report says of a prompt. It is mixed if its rewards differ; otherwise advantages relative to "
            "the group are 0.",
            f"{uniform} Shares of all wrong, mixed and all right are corrected by how often they came among the groups dealt, "
            "against how often the same beliefs expected them.",
        ]
    if past.first > 1:
        notes.append(f"The record begins at round {number(past.first)}.")
    made = f"cero-alloc {version('cero-alloc')}: <code>allocator.report(path)</code> writes this page."
    return f"<footer>\n<p>{made}</p>\n{''.join(map(paragraph, notes))}</footer>\n"
