"""What a log tells without a replay: dead groups over steps and at other sizes, single rollouts, and prompts by outcome."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import gammaln

from cero_alloc._checks import FloatArray, IntArray

from ._log import RolloutLog, changes
from ._policies import mean_group
from ._settings import LearntSettings

SIZES = (4, 8, 16, 32, 64)  # rollouts of a group
Outcome = Literal["always wrong", "always right", "never mixed", "solved", "mixed"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_BINS = 20  # of the steps
_LAST = 2  # groups that are all right, of a prompt that is solved
_LAST_SINGLE = 8  # rollouts in their place where most are single: two right ones may be luck
SINGLE_OUTCOMES: dict[Outcome, str] = {
    "always wrong": "all rollouts wrong",
    "always right": "all rollouts right",
    "solved": f"solved: the last {_LAST_SINGLE} rollouts right",
    "mixed": "in between",
}  # in words, where most rollouts are single and no group can be mixed
_MOST_LEVELS = 16  # distinct rewards; with more, equal rewards have no common model
_FITTED = 20_000  # groups that a fit looks at
_LEAST, _MOST = -7.0, 7.0  # natural logarithms of a prior's strength and of the other groups' weight


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of rollouts or groups: all wrong, all right, all equal in between, and mixed; they sum to 1."""

    all_wrong: float
    mixed: float
    all_right: float
    between: float


@dataclass(frozen=True, slots=True)
class StepBin:
    """Shares of the rollouts in consecutive steps."""

    first_step: float
    last_step: float
    rollouts: int
    shares: Shares


@dataclass(frozen=True, slots=True)
class SizeRow:
    """Expected shares of groups of one size; ``logged`` marks the log's own mean size."""

    size: int
    logged: bool
    shares: Shares


@dataclass(frozen=True, slots=True)
class SchemeRow:
    """What rollouts teach under one scheme of advantages.

    ``with_signal`` is the share of the rollouts with an advantage other than 0, ``square`` the mean squared advantage, and
    ``baseline_error`` the mean squared distance of the baseline from the prompt's success rate.
    """

    scheme: str
    prompts_per_1000: float
    with_signal: float
    square: float
    baseline_error: float


def over_steps(log: RolloutLog, bins: int = _BINS) -> list[StepBin]:
    """Return the shares of the grouped rollouts in at most ``bins`` bins of equally many steps; empty without groups."""
    grouped = ~singles(log)
    if not grouped.any():
        return []
    bins = min(bins, log.n_steps)
    edge = np.arange(bins + 1) * log.n_steps // bins
    place = np.searchsorted(edge, log.group_step[grouped], side="right") - 1
    rollouts = np.zeros((bins, 4))
    np.add.at(rollouts, (place, _kinds(log)[grouped]), log.trials[grouped])
    return [
        StepBin(float(log.steps[low]), float(log.steps[high - 1]), int(row.sum()), _shares(row))
        for low, high, row in zip(edge[:-1].tolist(), edge[1:].tolist(), rollouts, strict=True)
        if row.any()
    ]


def singles(log: RolloutLog) -> npt.NDArray[np.bool_]:
    """Return which groups are single rollouts that are meant, and so not dead: an allocator dealt them, or there are no others."""
    meant: npt.NDArray[np.bool_] = (log.trials == 1) & (bool(log.reading.dealt_by) or log.trials.max() == 1)
    return meant


def _kinds(log: RolloutLog) -> IntArray:
    """Return the kind of each group: its place among the fields of :class:`Shares`."""
    right, wrong = log.successes == log.trials, log.successes == 0.0
    kinds: IntArray = np.select([~log.dead, right, wrong], [1, 2, 0], 3)
    return kinds


def _shares(weights: FloatArray) -> Shares:
    return Shares(*(weights / weights.sum()).tolist())


# ---------------------------------------------------------------- other sizes


def at_sizes(log: RolloutLog, forgetting: float) -> list[SizeRow]:
    r"""Return the shares of dead groups that the fitted beliefs expect in groups of 4 to 64, and of the logged size.

    A group's rewards are drawn from levels :math:`l` with probabilities of a Dirichlet belief :math:`\alpha`: its own rewards,
    those of the prompt's other groups, faded by ``forgetting`` per step in either direction, and a prior; the strength of the
    latter two is fitted. All :math:`n` rewards are :math:`l` with probability
    :math:`\prod_{k<n} (\alpha_l + k) / (\alpha_\cdot + k)`. Empty for more than 16 distinct rewards, or for groups of one.
    """
    levels, place = np.unique(log.entry_reward, return_inverse=True)
    own = np.zeros((log.trials.size, levels.size))
    if levels.size > _MOST_LEVELS or (log.trials < 2).all():
        return []
    np.add.at(own, (log.entry_group, place), log.entry_rollouts)
    near = _near(log, own, forgetting)
    strength, weight = _fit(own, near)
    alpha = strength * own.sum(axis=0) / own.sum() + weight * near + own
    logged = mean_group(log)
    column = np.where(levels == 0.0, 0, np.where(levels == 1.0, 2, 3))
    rows = []
    for size in sorted({*SIZES, max(2, logged)}):
        alike = np.zeros(4)
        np.add.at(alike, column, _all_alike(alpha, size).mean(axis=0))
        alike[1] = 1.0 - alike.sum()
        rows.append(SizeRow(size, size == logged, _shares(alike)))
    return rows


def _fit(own: FloatArray, near: FloatArray) -> tuple[float, float]:
    """Return the strength of the prior in pseudo-rollouts and the weight of the prompt's other groups.

    They make each group's counts most likely before it is seen: a Dirichlet-multinomial whose prior has the log's shares.
    """
    if len(own) > _FITTED:
        chosen = np.random.default_rng(0).choice(len(own), _FITTED, replace=False)
        own, near = own[chosen], near[chosen]
    share, size = own.sum(axis=0) / own.sum(), own.sum(axis=1)

    def loss(logs: FloatArray) -> float:
        strength, weight = np.exp(np.clip(logs, _LEAST, _MOST))
        alpha = strength * share + weight * near
        total = alpha.sum(axis=1)
        gained = gammaln(alpha + own) - gammaln(alpha)
        return float((gammaln(total + size) - gammaln(total)).sum() - gained.sum())

    strength, weight = np.exp(np.clip(minimize(loss, np.zeros(2), method="Nelder-Mead").x, _LEAST, _MOST))
    return float(strength), float(weight)


def _near(log: RolloutLog, own: FloatArray, forgetting: float) -> FloatArray:
    """Return the counts of the prompt's other groups for each group, faded by the steps between."""
    order = np.lexsort((log.group_step, log.group_prompt))
    prompt, step = log.group_prompt[order], log.group_step[order]
    first = changes(prompt)
    visit = np.arange(prompt.size) - np.repeat(first, np.diff(np.append(first, prompt.size)))
    by_visit = np.split(np.argsort(visit, kind="stable"), np.cumsum(np.bincount(visit))[:-1])
    total = np.zeros_like(own)
    for rounds, toward in ((by_visit[1:], -1), (by_visit[-2::-1], 1)):
        faded = np.zeros_like(total)
        for rows in rounds:
            there = rows + toward
            if toward == 1:  # the last visit of a prompt has none after it
                inside = there < prompt.size
                rows, there = rows[inside], there[inside]
                same = prompt[there] == prompt[rows]
                rows, there = rows[same], there[same]
            fade = forgetting ** np.abs(step[rows] - step[there])
            faded[rows] = fade[:, None] * (faded[there] + own[order[there]])
        total += faded
    result = np.empty_like(total)
    result[order] = total
    return result


def _all_alike(alpha: FloatArray, size: int) -> FloatArray:
    """Return the probability that all rewards of a group have each level; shape (n_groups, n_levels)."""
    total = alpha.sum(axis=1, keepdims=True)
    chance: FloatArray = np.exp(gammaln(alpha + size) - gammaln(alpha) - gammaln(total + size) + gammaln(total))
    return chance


# ---------------------------------------------------------------- single rollouts


def single_rollouts(log: RolloutLog, prior: tuple[float, float], forgetting: float) -> list[SchemeRow]:
    """Compare the logged groups, which take their mean as baseline, with single rollouts that take the prompt's posterior.

    The posterior is that of before the step. Only visits of prompts that had one before, in groups of two or more, are
    compared; the variance within groups estimates a prompt's own.
    """
    a, b = prior
    mean = _mean_before(log, a, b, forgetting)
    chosen = ~np.isnan(mean) & (log.trials > 1)
    if not chosen.any():
        return []
    trials, mean = log.trials[chosen], mean[chosen]
    rate, within = log.successes[chosen] / trials, log.squares[chosen] / trials
    within -= rate**2  # of the group, with its mean as baseline
    rollouts = trials.sum()
    variance = trials * within / (trials - 1)
    square = within + (rate - mean) ** 2  # of the reward about the posterior mean
    group = SchemeRow(
        f"groups of {mean_group(log)}, the group's mean",
        float(1000.0 * trials.size / rollouts),
        float(trials[~log.dead[chosen]].sum() / rollouts),
        float(trials @ within / rollouts),
        float(trials @ (variance / trials) / rollouts),
    )
    # a single rollout has no advantage where its reward is the posterior mean itself, which no prior with a, b > 0 allows
    single = SchemeRow(
        "single rollouts, the posterior mean",
        1000.0,
        1.0,
        float(trials @ square / rollouts),
        max(0.0, float(trials @ (square - variance) / rollouts)),
    )
    return [group, single]


def _mean_before(log: RolloutLog, a: float, b: float, forgetting: float) -> FloatArray:
    """Return each group's posterior mean from earlier steps; NaN at a prompt's first visit."""
    won, lost, seen = (np.zeros(log.n_prompts) for _ in range(3))
    mean = np.empty(log.trials.size)
    for groups in log.groups_of_steps():
        rows = log.group_prompt[groups]
        mean[groups] = np.where(seen[rows] > 0, (a + won[rows]) / (a + b + won[rows] + lost[rows]), np.nan)
        won[rows] += log.successes[groups]
        lost[rows] += log.trials[groups] - log.successes[groups]
        seen[rows] = 1.0
        won *= forgetting
        lost *= forgetting
    return mean


# ---------------------------------------------------------------- prompts


@dataclass(frozen=True, slots=True, eq=False)
class PromptTable:
    """Outcome of every prompt over the log, in the order of ``prompt_ids``; arrays have shape (n_prompts,).

    A prompt is *always wrong* or *always right* if all its groups are, *never mixed* if its groups are some of each, *solved*
    if it was mixed or wrong before but its last two groups are all right, and *mixed* otherwise. Where most rollouts are
    ``single``, solved asks for its last eight rollouts, and all other prompts with different rewards are mixed.
    """

    outcome: IntArray  # its place in OUTCOMES
    visits: IntArray
    rollouts: IntArray
    successes: FloatArray
    mixed_groups: IntArray
    last_mixed: FloatArray  # step, NaN for never
    single: bool = False

    def counts(self) -> dict[Outcome, tuple[int, int]]:
        """Return the prompts of each outcome, and their rollouts."""
        inside = [self.outcome == i for i in range(len(OUTCOMES))]
        return {name: (int(of.sum()), int(self.rollouts[of].sum())) for name, of in zip(OUTCOMES, inside, strict=True)}

    def rows(self, log: RolloutLog) -> list[dict[str, Any]]:
        """Return one dict per prompt: those that were never mixed first, then solved and mixed ones, by rollouts."""
        order = np.lexsort((-self.rollouts, self.outcome))
        columns = {
            "prompt_id": [log.prompt_ids[i] for i in order.tolist()],
            "outcome": [OUTCOMES[i] for i in self.outcome[order].tolist()],
            "steps": self.visits[order].tolist(),
            "rollouts": self.rollouts[order].tolist(),
            "mean_reward": (self.successes / self.rollouts)[order].tolist(),
            "mixed_groups": self.mixed_groups[order].tolist(),
            "last_mixed_step": [None if np.isnan(step) else step for step in self.last_mixed[order].tolist()],
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def prompt_table(log: RolloutLog) -> PromptTable:
    """Return what became of every prompt."""
    n, kinds = log.n_prompts, _kinds(log)
    single = bool(2 * (log.trials == 1).sum() > log.n_rollouts)
    mixed = np.bincount(log.group_prompt[kinds == 1], minlength=n)
    right = np.bincount(log.group_prompt[kinds == 2], minlength=n)
    wrong = np.bincount(log.group_prompt[kinds == 0], minlength=n)
    visits = log.visits
    last = np.full(n, np.nan)
    last[log.group_prompt[kinds == 1]] = log.steps[log.group_step[kinds == 1]]  # steps ascend: the last one stays
    order = np.lexsort((log.group_step, log.group_prompt))
    first = changes(log.group_prompt[order])
    end = np.append(first[1:], order.size)
    after = np.maximum.accumulate(np.where(kinds[order] == 2, 0, np.arange(1, order.size + 1)))  # the last not right
    total = np.append(0, np.cumsum(log.trials[order] if single else np.ones(order.size)))
    solved = total[end] - total[np.maximum(after[end - 1], first)] >= (_LAST_SINGLE if single else _LAST)
    grouped = not (single or log.reading.dealt_by)  # single rollouts of both kinds are mixed over the visits
    never = (mixed == 0) & grouped
    outcome = np.select([wrong == visits, right == visits, solved, never], [0, 1, 3, 2], 4)
    rollouts = np.bincount(log.group_prompt, log.trials, n).astype(np.int64)
    successes = np.bincount(log.group_prompt, log.successes, n).astype(np.float64)
    return PromptTable(outcome, visits, rollouts, successes, mixed, last, single)


# ---------------------------------------------------------------- all of it


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """What a log tells without a replay; ``sizes`` and ``schemes`` are empty where the log does not tell."""

    steps: list[StepBin]
    sizes: list[SizeRow]
    schemes: list[SchemeRow]
    prompts: PromptTable


def summary_of(log: RolloutLog, settings: LearntSettings | None = None) -> Summary:
    """Return the summary; without settings, as of a log whose rewards are all equal, it has no fitted beliefs."""
    if settings is None:
        return Summary(over_steps(log), [], [], prompt_table(log))
    forgetting = settings.forgetting.forgetting
    sizes, schemes = at_sizes(log, forgetting), single_rollouts(log, settings.prior, forgetting)
    return Summary(over_steps(log), sizes, schemes, prompt_table(log))


def summary_json(summary: Summary) -> dict[str, Any]:
    """Return the summary as JSON types."""

    def flat(row: StepBin | SizeRow) -> dict[str, Any]:
        found = asdict(row)
        shares: dict[str, float] = found.pop("shares")
        return found | shares

    prompts = {name.replace(" ", "_"): many for name, (many, _) in summary.prompts.counts().items()}
    return {
        "over_steps": [flat(row) for row in summary.steps],
        "at_sizes": [flat(row) for row in summary.sizes],
        "single_rollouts": {"rows": [asdict(row) for row in summary.schemes]} if summary.schemes else None,
        "prompts_split": {
            **prompts,
            "single": summary.prompts.single,
            "never_mixed": None if summary.prompts.single else int((summary.prompts.mixed_groups == 0).sum()),
            "share": {
                "never_mixed": _of_rollouts(summary.prompts, summary.prompts.mixed_groups == 0),
                "solved": _of_rollouts(summary.prompts, summary.prompts.outcome == OUTCOMES.index("solved")),
            },
        },
    }


def _of_rollouts(prompts: PromptTable, chosen: npt.NDArray[np.bool_]) -> float:
    return float(prompts.rollouts[chosen].sum() / prompts.rollouts.sum())
