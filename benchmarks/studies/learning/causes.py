"""Why a scheme of the single-rollout study learns faster or slower: its gradients at frozen parameters.

    python benchmarks/learning_gradients.py --schemes --out learning_results

Several copies of each scheme, from the starts that the study left, first learn the rates from rewards alone, then are
measured: every round's prompts and counts get two independent sets of rollouts, which :func:`studies.learning.noise.decompose`
needs. The copies learn from the first set. :func:`studies.learning.noise.figures` explains the columns; beside them,
"chosen" is the mean p(1 - p) of the rollouts dealt over that of the pool.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cero_alloc.plotting import COLORS
from studies.common.pictures import without_screen
from studies.common.tables import grouped, table, write_csv
from studies.learning.dealing import Bools, Dealing, IntArray, Run
from studies.learning.gradients import gradients, one_round, quality, rates_of
from studies.learning.noise import decompose, figures, over
from studies.learning.study import finished
from studies.learning.tasks import family
from studies.learning.worlds import load_start, prepare, settle, transformer

FloatArray = npt.NDArray[np.float64]
Row = dict[str, Any]

GRPO, CLAIRVOYANT, REFERENCE = "uniform", "1, posterior, clairvoyant", "true rates"
SCHEMES = (
    GRPO, "8, group, re-solving", "8, posterior, uniform", "1, batch, uniform", "1, posterior, uniform",
    "1, posterior, re-solving", "1, posterior, proportional", CLAIRVOYANT,
)  # fmt: skip
SHOWN = {GRPO: "GRPO: 8, group, group, uniform", REFERENCE: "1, true rates, none, with replacement"}
WORDS, COUNTS = (
    ("task", "start", "scheme"),
    ("seed", "copies", "rounds", "learn", "rollouts"),
)  # columns without fractions
ABOUT = ("success", "pool", "chosen")  # means over seeds that are no figures of the noise


@dataclass(frozen=True, slots=True)
class Measured:
    """What is measured of each scheme and seed."""

    copies: int = 8  # that share nothing
    rounds: int = 6  # of each copy
    learn: int = 64  # rounds before, over which it learns the rates: a sixth of a run


QUICK = Measured(copies=4, rounds=2, learn=2)


class Copy(Dealing):
    """A dealing whose rounds are opened once, however often they are asked for."""

    _opened: tuple[int, tuple[IntArray, IntArray]] | None = None

    def open(self, k: int) -> tuple[IntArray, IntArray]:
        """Return the prompts of round ``k`` and their counts."""
        if self._opened is None or self._opened[0] != k:
            self._opened = k, super().open(k)
        return self._opened[1]

    def score(self, rows: IntArray, right: Bools) -> FloatArray:
        """Return the weights that these rollouts would have, given what is known now; nothing is learnt from them."""
        if self.contender.advantages is None:
            return self.objective(rows, right, self.contender.weighting)
        baseline, scale = self.contender.advantages
        known = self.policy.bank.advantages(rows, right.astype(float), baseline=baseline, scale=scale)
        return known / max(1, rows.size)


class Reference:
    """Single rollouts of prompts drawn with replacement, against their true rates: independent, with success as mean.

    Their noise is that of a cell, whatever the scheme.
    """

    def __init__(self, rates: FloatArray, rollouts: int, seed: int) -> None:
        self.seed, self._rates, self._rollouts = seed, rates, rollouts

    def open(self, k: int) -> tuple[IntArray, IntArray]:
        """Return the prompts of round ``k`` and how often each was drawn."""
        drawn = np.random.default_rng([self.seed, 3, k]).integers(0, self._rates.size, self._rollouts)
        rows, n = np.unique(drawn, return_counts=True)
        return rows, n

    def close(self, rows: IntArray, n: IntArray, right: Bools) -> tuple[IntArray, IntArray]:
        """End the round."""
        return rows[:0], n[:0]

    def score(self, rows: IntArray, right: Bools) -> FloatArray:
        """Return reward less rate per rollout, over their number."""
        weights: FloatArray = (right - self._rates[rows]) / rows.size
        return weights

    weights = score


class Twin:
    """A second set of rollouts for what another dealing opens; that one does not learn of their rewards.

    It has to stand before the other in a round, so that the same evidence scores both.
    """

    def __init__(self, first: Any, seed: int) -> None:
        self.seed, self._first = seed, first

    def open(self, k: int) -> tuple[IntArray, IntArray]:
        """Return the other's prompts and counts."""
        opened: tuple[IntArray, IntArray] = self._first.open(k)
        return opened

    def close(self, rows: IntArray, n: IntArray, right: Bools) -> tuple[IntArray, IntArray]:
        """Score the rollouts as the other would, before it learns from its own."""
        self._scored = self._first.score(np.repeat(rows, n), right)
        return rows[:0], n[:0]

    def weights(self, rows: IntArray, right: Bools) -> FloatArray:
        """Return these weights."""
        weights: FloatArray = self._scored
        return weights


def measure(
    task: str, start: str, seed: int, schemes: Sequence[str], folder: Path, size: str, how: Measured
) -> list[Row]:
    """Return a row per scheme at one start: the parts of its noise, and how its gradients meet the exact one."""
    from studies.learning.transformer import SIZES, models, world

    settle("cpu")
    plan = SIZES[size]
    w, state = world(task, plan.n_prompts, plan.warm_corpus, seed), load_start(folder, task, seed)[start]
    model = models(task, plan, [0], "cpu")
    model.load([state])
    exact = gradients(model, rates_of(model, [w.held_prompts], [w.held_answers]).mean(1))[0]
    likely = rates_of(model, [w.prompts], [w.answers])
    pool, rates = gradients(model, likely.mean(1))[0], likely.detach().double().numpy()[0]
    model.load([state] * (2 * how.copies))
    variances, length, rollouts = rates * (1.0 - rates), np.sqrt(exact @ exact), rollouts_of(plan)
    about = {
        "task": task, "start": start, "seed": seed, **asdict(how), "rollouts": rollouts, "success": float(rates.mean()),
        "pool": float(pool @ exact / np.sqrt(pool @ pool) / length),
    }  # fmt: skip
    rows = []
    for name in schemes:
        dealers: list[Any] = []
        for i in range(how.copies):
            each = 100_000 + 1_000 * seed + 2 * i
            run = Run((task, start), name, 0.0, each)
            if name == REFERENCE:
                dealers.append(Reference(rates, rollouts, each))
            else:
                dealers.append(learnt(Copy(run, plan.n_prompts, plan.n_rounds, rollouts), rates, how.learn))
        first, second, dealt = sampled(model, dealers, w, range(how.learn, how.learn + how.rounds))
        near = quality(np.concatenate([*first, *second]) / length, exact / length)
        parts = {"cosine": near["cosine"], "adam": near["adam"], **decompose(first, second, exact)}
        rows.append({**about, "scheme": name, "chosen": float(variances[dealt].mean() / variances.mean()), **parts})
    return rows


def learnt(copy: Copy, rates: FloatArray, rounds: int) -> Copy:
    """Return a copy that has dealt for some rounds, with rewards drawn at the true rates."""
    copy.tell(rates)
    rng = np.random.default_rng([copy.seed, 9])
    for k in range(rounds):
        copy.weights(*one_round(copy, k, rates, rng))
    return copy


def rollouts_of(plan: Any) -> int:
    """Return the rollouts of a round: the study's, unless single ones of different prompts would need too much of the pool."""
    return int(min(plan.rollouts, plan.n_prompts // 2))


def sampled(
    model: Any, dealers: Sequence[Any], w: Any, rounds: Sequence[int]
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return the gradients of two sets of rollouts, shape (n_dealers, n_rounds, n_parameters), and the prompt of each rollout."""
    from studies.learning.gpt import log_likelihood
    from studies.learning.transformer import play

    everyone = [*(Twin(dealer, dealer.seed + 1) for dealer in dealers), *dealers]
    steps, dealt = [], []
    for k in rounds:
        batch = play(model, everyone, [w] * len(everyone), k)
        dealt += [np.repeat(*dealer.open(k)) for dealer in dealers]
        likelihood = log_likelihood(model, batch.prompts, batch.group, batch.answers)
        steps.append(gradients(model, likelihood * batch.weights))
    every = np.stack(steps, axis=1)
    return every[len(dealers) :], every[: len(dealers)], np.concatenate(dealt)


# ---------------------------------------------------------------- over seeds


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Return a row per cell and scheme: :func:`studies.learning.noise.figures` of the means over seeds, and their errors.

    Means come before ratios, so that a seed with little signal does not blow up. Standard errors are by the jackknife:
    each seed is left out once.
    """
    found = []
    for (task, start), cell in grouped(list(rows), "task", "start").items():
        schemes = {name: own for (name,), own in grouped(cell, "scheme").items()}
        for name, own in schemes.items():
            about = {key: float(np.mean([row[key] for row in own])) for key in ABOUT}
            base = schemes[GRPO]
            whole = _figures(own, base)
            seeds = [row["seed"] for row in own] if len(own) > 1 else []
            parts = [_figures(_without(seed, own), _without(seed, base)) for seed in seeds]
            errors = {f"{key}_error": _jackknife([part[key] for part in parts]) for key in whole}
            found.append({"task": task, "start": start, "scheme": SHOWN.get(name, name), **about, **whole, **errors})
    return found


def _figures(own: Sequence[Row], base: Sequence[Row]) -> dict[str, float]:
    return figures(_means(own), _means(base), own[0]["rollouts"], own[0]["rounds"])


def _without(seed: int, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["seed"] != seed]


def _jackknife(values: Sequence[float]) -> float:
    """Return the standard error of a statistic from its values with each seed left out; NaN where one is missing."""
    if not values or not np.isfinite(values).all():
        return float("nan")
    return float(np.std(values) * np.sqrt(len(values) - 1))


def _means(rows: Sequence[Row]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key not in WORDS}


# ---------------------------------------------------------------- tables


def show(summary: Sequence[Row], rollouts: int, seeds: int) -> None:
    """Print a table per cell, one of the cells, and one of the schemes."""
    for (task, start), cell in grouped(list(summary), "task", "start").items():
        title = (
            f"{task} / {start}: mean success {cell[0]['success']:.3f}, {seeds} seeds, +- standard error; lengths in lengths of "
            "the exact gradient, between and within over the squared length of the mean gradient"
        )
        table(title, HEADER, [[row["scheme"], *map(partial(_text, row), COLUMNS)] for row in cell])
    cells = grouped(list(summary), "task", "start")
    rows = []
    for (task, start), cell in cells.items():
        own = {row["scheme"]: row for row in cell}
        grpo, reference = own[SHOWN[GRPO]], own[SHOWN[REFERENCE]]
        found = [row for row in cell if row["scheme"] in SCHEMES and row["scheme"] != CLAIRVOYANT]
        best = max(found, key=lambda row: np.nan_to_num(row["gain"]))
        rows.append([
            f"{task} / {start}", _text(reference, "critical"), _text(grpo, "critical"), _text(grpo, "norms"),
            _number(over(grpo["between"], grpo["between"] + grpo["within"])), _number(grpo["pool"]),
            _text(own[CLAIRVOYANT], "gain"), _text(best, "gain"), best["scheme"] if np.isfinite(best["gain"]) else "none",
        ])  # fmt: skip
    table(
        f"CELLS: critical batches in rollouts, {rollouts} of which are in a round; below them there is noise to save",
        ["cell", "single", "GRPO", "GRPO by norms", "between", "aim of the pool", "clairvoyant", "best gain", "of"], rows,
    )  # fmt: skip
    rows = []
    for (name, start), own in grouped(list(summary), "scheme", "start").items():
        base = [next(row for row in cells[r["task"], start] if row["scheme"] == SHOWN[GRPO]) for r in own]
        noise = [over(r["critical"], b["critical"]) for r, b in zip(own, base, strict=True)]
        share = float(np.mean([over(r["between"], r["between"] + r["within"]) for r in own]))
        means = [_number(float(np.mean([r[key] for r in own]))) for key in ("chosen", "cosine", "aim", "window")]
        gains = [_number(_geometric([r[key] for r in own])) for key in ("adam", "gain")]
        rows.append([name, start, means[0], _number(_geometric(noise)), _number(share), *means[1:], *gains])
    table(
        "SCHEMES over tasks: noise over the squared length of the mean gradient, against GRPO's (geometric mean), share of it "
        "between prompts, and means",
        ["scheme", "start", "chosen", "noise", "between", "cosine", "aim", "window", "Adam", "gain"], rows,
    )  # fmt: skip


def draw(summary: Sequence[Row], file: Path) -> None:
    """Draw the noise of a round's gradient, between and within prompts, against GRPO's: the mean over tasks, per start."""
    plt = without_screen()
    starts = list(dict.fromkeys(row["start"] for row in summary))
    names = [SHOWN.get(name, name) for name in SCHEMES]
    figure, axes = plt.subplots(1, len(starts), figsize=(7.2, 2.9), layout="constrained", sharey=True, squeeze=False)
    for ax, start in zip(axes.flat, starts, strict=True):
        parts: dict[str, list[list[float]]] = {name: [] for name in names}
        for cell in grouped([row for row in summary if row["start"] == start], "task").values():
            own = {row["scheme"]: row for row in cell}
            whole = own[SHOWN[GRPO]]["between"] + own[SHOWN[GRPO]]["within"]
            for name in names:
                parts[name].append([own[name][part] / whole for part in ("between", "within")])
        between, within = np.array([np.mean(parts[name], axis=0) for name in names]).T
        ax.barh(names, between, color=COLORS[1], label="between prompts")
        ax.barh(names, within, left=np.maximum(between, 0.0), color=COLORS[0], hatch="////", edgecolor="white",
                linewidth=0.5, label="within prompts")  # fmt: skip
        ax.axvline(1.0, color="0.3", linewidth=0.8)
        ax.set_title(f"start: {start}", fontsize="small")
        ax.set_xlabel("noise over signal, GRPO = 1", fontsize="small")
        ax.tick_params(labelsize="small")
    axes[0, 0].invert_yaxis()
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize="small"
    )
    figure.savefig(file, dpi=130)
    plt.close(figure)


COLUMNS = ("chosen", "length", "between", "within", "cosine", "aim", "window", "critical", "adam", "gain")
HEADER = ["scheme", *COLUMNS[:-2], "Adam", "gain"]


def _text(row: Row, key: str) -> str:
    digits, error = 0 if key in ("critical", "norms") else 2, row.get(f"{key}_error", float("nan"))
    return _number(row[key], digits) + (f" +- {error:.{digits}f}" if np.isfinite(error) else "")


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "none"


def _geometric(values: Sequence[float]) -> float:
    positive = np.asarray(values)
    return float(np.exp(np.log(positive).mean())) if (positive > 0.0).all() else float("nan")


# ---------------------------------------------------------------- the command


def run(folder: Path, size: str, seeds: int, starts: int, jobs: int, how: Measured) -> list[Row]:
    """Measure what ``causes.csv`` lacks, print and write; return the summary."""
    from studies.learning.transformer import SIZES

    study = transformer(max(2, seeds), folder, "cpu", 1, size)
    study = replace(study, tuning_seeds=(), seeds=study.seeds[:seeds])
    calls: list[Callable[[], Any]] = [*prepare(study, folder, size, "cpu")]
    if calls and size != "quick":
        command = f"python benchmarks/learning.py --policy-model transformer --size {size}"
        raise FileNotFoundError(f"Starts of the first {seeds} seeds are missing in {folder}. Run first: {command}")
    for _ in finished(calls, jobs):
        pass
    levels = [start for start, _ in SIZES[size].levels][:starts]
    cells = [cell for cell in study.cells if cell[1] in levels and family(cell[0]) == cell[0]]
    wanted = [(*cell, seed) for cell in cells for seed in study.seeds]
    file = folder / "causes.csv"
    rows = read(file)
    done = measured(rows, wanted, how)
    calls = []
    for cell in wanted:
        missing = [name for name in (*SCHEMES, REFERENCE) if not any(row["scheme"] == name for row in done[cell])]
        calls += [partial(measure, *cell, missing, folder, size, how)] if missing else []
    for more in finished(calls, jobs):
        rows += more
        write_csv(file.with_suffix(".part"), rows, in_order=True)
        file.with_suffix(".part").replace(file)
    summary = summarise([row for own in measured(rows, wanted, how).values() for row in own])
    show(summary, rollouts_of(SIZES[size]), seeds)
    write_csv(folder / "causes_summary.csv", summary, in_order=True)
    draw(summary, folder / "single_noise.png")
    return summary


def measured(rows: Sequence[Row], cells: Sequence[tuple[Any, ...]], how: Measured) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows of each cell and seed that were measured in this way."""
    found: dict[tuple[Any, ...], list[Row]] = {cell: [] for cell in cells}
    for row in rows:
        cell = row["task"], row["start"], row["seed"]
        if cell in found and all(row[key] == value for key, value in asdict(how).items()):
            found[cell].append(row)
    return found


def read(file: Path) -> list[Row]:
    """Read the rows that were written, none where there is no file."""
    if not file.exists():
        return []
    with file.open(newline="") as handle:
        return [{key: _value(key, text) for key, text in row.items()} for row in csv.DictReader(handle)]


def _value(column: str, text: str) -> str | int | float:
    return text if column in WORDS else int(text) if column in COUNTS else float(text)
