"""Results of a replay: one row per policy, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cero_alloc._checks import FloatArray, error_text
from cero_alloc._saving.shown import Shown, short
from cero_alloc.simulation._result import top_tenth

Offer = Literal["batch", "pool"]

UNIFORM = "Uniform"
COLUMNS = 5  # of a tally: rollouts dealt, rollouts answered, groups, mixed groups, answered rollouts in dead groups
_WEIGHTS = 1 << 22  # bootstrap weights held at a time


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """Result of one policy.

    A rollout is *answered* if a logged reward of its prompt was left for it. A *group* is all answered rollouts of one
    prompt in one round. It is *mixed* if its rewards differ and *dead* if they are all equal. Intervals are 95% bootstrap
    percentile intervals. Figures of a policy without answered rollouts are NaN.

    Attributes
    ----------
    name : str
        Name of the policy.
    dealt : int
        Rollouts spent.
    unanswerable : float
        Share of the spent rollouts for which the log had no reward left.
    groups : int
        Groups with at least one answered rollout.
    mean_group : float
        Answered rollouts per group.
    rate : float
        Mixed groups per 1,000 answered rollouts.
    standard_error : float
        Bootstrap standard error of the rate.
    interval : tuple of two floats
        Interval of the rate, in the same unit.
    dead_share : float
        Share of the answered rollouts in dead groups.
    dead_interval : tuple of two floats
        Interval of the dead share.
    mixed_share : float
        Share of the answered rollouts in mixed groups.
    mixed_share_interval : tuple of two floats
        Interval of the mixed share.
    kept : float
        Mixed groups as a share of the log's mixed groups; NaN if the log has none.
    kept_interval : tuple of two floats
        Interval of ``kept``, paired by prompt.
    difference : float
        Rate minus uniform's rate, in mixed groups per 1,000 answered rollouts.
    difference_interval : tuple of two floats
        Interval of the difference, paired by prompt.
    floor : float
        Mixed groups per 1,000 rollouts of the log: with the whole budget the rate if unanswered and undealt rollouts had
        added no mixed group.
    floor_interval : tuple of two floats
        Interval of floor minus uniform's floor, in mixed groups per 1,000 rollouts of the log.
    top_tenth : float
        Share of the rollouts dealt to the tenth of the prompts with the most rollouts.

    References
    ----------
    Efron, Bootstrap methods: another look at the jackknife, Ann. Statist. 7 (1979). The page "Replaying your log"
    describes the resampling.

    Examples
    --------
    >>> from cero_alloc.replay import RolloutLog, replay
    >>> one, step = np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0])
    >>> log = RolloutLog.of_rows(("a", "b"), one, step, np.array([0.0, 1.0] * 2), np.array([4] * 4), n_lines=4)
    >>> row = replay(log, {}, n_boot=10).row("Uniform")
    >>> row.dealt, row.groups, row.rate, row.mark
    (16, 2, 125.0, '')
    >>> row.mixed_share, row.kept
    (1.0, 1.0)
    """

    name: str
    dealt: int
    unanswerable: float
    groups: int
    mean_group: float
    rate: float
    standard_error: float
    interval: tuple[float, float]
    dead_share: float
    dead_interval: tuple[float, float]
    mixed_share: float
    mixed_share_interval: tuple[float, float]
    kept: float
    kept_interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    floor: float
    floor_interval: tuple[float, float]
    top_tenth: float

    @property
    def mark(self) -> str:
        """Comparison with uniform by the interval: ``"+"`` better, ``"-"`` worse, ``""`` no significant difference.

        ``"(+)"`` is better in rate but not in floor: unanswered or undealt rollouts make groups smaller, and smaller groups
        raise the rate, so that they could explain the difference.
        """
        if np.isnan(self.difference_interval).any():  # some replicates have no answered rollouts
            return ""
        if self.difference_interval[1] < 0.0:
            return "-"
        if self.difference_interval[0] <= 0.0:
            return ""
        return "+" if self.floor_interval[0] > 0.0 else "(+)"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ReplayResult(Shown):
    """Results of all policies of a replay.

    Attributes
    ----------
    rows : tuple of ReplayRow
        One per policy, highest share of rollouts in mixed groups first.
    logged : ReplayRow
        The logged run itself.
    offer : {"batch", "pool"}
        Prompts offered in a round: those that the log visited in the step, or all of them.
    max_rollouts : int
        Largest number of rollouts per prompt and round.
    n_boot : int
        Bootstrap resamplings of the prompts.
    left_out : tuple of str
        Default policies that do not fit the caps, with the reason.
    budget : float
        Share of the log's rollouts that every policy was given.

    References
    ----------
    See :class:`ReplayRow`.

    Examples
    --------
    >>> from cero_alloc.replay import RolloutLog, replay
    >>> one, step = np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0])
    >>> log = RolloutLog.of_rows(("a", "b"), one, step, np.array([0.0, 1.0] * 2), np.array([4] * 4), n_lines=4)
    >>> result = replay(log, {}, n_boot=10)
    >>> [row.name for row in result.rows], result.offer, result.max_rollouts
    (['Uniform'], 'batch', 32)
    """

    rows: tuple[ReplayRow, ...]
    logged: ReplayRow
    offer: Offer
    max_rollouts: int
    n_boot: int
    left_out: tuple[str, ...] = ()
    budget: float = 1.0

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "policies", str(len(self.rows))
        if self.rows:
            yield "first", short(self.rows[0].name)
        for name in ("offer", "budget", "max_rollouts", "n_boot"):
            yield name, short(getattr(self, name))

    def row(self, name: str) -> ReplayRow:
        """Return the row of a policy.

        Parameters
        ----------
        name : str
            Name of the policy.

        Returns
        -------
        ReplayRow
            The row with this name.

        Raises
        ------
        KeyError
            For an unknown name.

        Examples
        --------
        >>> from cero_alloc.replay import RolloutLog, replay
        >>> one, step = np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0])
        >>> log = RolloutLog.of_rows(("a", "b"), one, step, np.array([0.0, 1.0] * 2), np.array([4] * 4), n_lines=4)
        >>> replay(log, {}, n_boot=10).row("Uniform").dealt
        16
        """
        names = [row.name for row in self.rows]
        if name not in names:
            raise KeyError(error_text("name", f"be one of {names}", name, "Correct the spelling."))
        return self.rows[names.index(name)]


# ---------------------------------------------------------------- the intervals


def rows_of(tallies: dict[str, FloatArray], n_boot: int, seed: int) -> list[ReplayRow]:
    """Return one row per tally, in their order; a tally has shape (n_prompts, COLUMNS)."""
    table = np.concatenate(list(tallies.values()), axis=1)
    totals = table.sum(axis=0).reshape(-1, COLUMNS)
    replicates = resampled(table, n_boot, np.random.default_rng([seed, 2])).reshape(n_boot, -1, COLUMNS)
    rate, floor, dead, kept = _ratios(totals)
    rates, floors, deads, kepts = _ratios(replicates)
    base = list(tallies).index(UNIFORM)
    rows = []
    for i, (name, tally) in enumerate(tallies.items()):
        dealt, answered, groups = totals[i, :3]
        rows.append(
            ReplayRow(
                name=name or "as logged",
                dealt=int(dealt),
                unanswerable=1.0 - answered / dealt if dealt else 0.0,
                groups=int(groups),
                mean_group=answered / groups if groups else np.nan,
                rate=float(rate[i]),
                standard_error=float(rates[:, i].std(ddof=1)),
                interval=interval_of(rates[:, i]),
                dead_share=float(dead[i]),
                dead_interval=interval_of(deads[:, i]),
                mixed_share=float(1.0 - dead[i]),
                mixed_share_interval=interval_of(1.0 - deads[:, i]),
                kept=float(kept[i]),
                kept_interval=interval_of(kepts[:, i]),
                difference=float(rate[i] - rate[base]),
                difference_interval=interval_of(rates[:, i] - rates[:, base]),
                floor=float(floor[i]),
                floor_interval=interval_of(floors[:, i] - floors[:, base]),
                top_tenth=top_tenth(tally[:, 0]),
            )
        )
    return rows


def _ratios(sums: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return four ratios per tally, in the order rate, floor, dead share, kept.

    Mixed groups per 1,000 answered rollouts and per 1,000 logged ones, the share of answered rollouts in dead groups, and
    mixed groups per mixed group of the log.

    The last tally is the log's own: its answered rollouts are the logged ones.
    """
    _, answered, _, mixed, dead = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore"):
        rate, floor = 1000.0 * mixed / answered, 1000.0 * mixed / answered[..., -1:]
        return rate, floor, dead / answered, mixed / np.where(mixed[..., -1:] > 0, mixed[..., -1:], np.nan)


def resampled(table: FloatArray, n_boot: int, rng: np.random.Generator) -> FloatArray:
    """Return column sums of the table over rows drawn with replacement; shape (n_boot, n_columns)."""
    size = len(table)
    block = max(1, _WEIGHTS // size)
    parts = []
    for start in range(0, n_boot, block):
        many = min(block, n_boot - start)
        drawn = rng.integers(0, size, (many, size)) + size * np.arange(many)[:, None]
        times = np.bincount(drawn.ravel(), minlength=many * size).reshape(many, size)
        parts.append(times.astype(np.float64) @ table)
    return np.concatenate(parts)


def interval_of(replicates: FloatArray) -> tuple[float, float]:
    """Return the 2.5% and 97.5% quantiles; NaN if any replicate is NaN."""
    low, high = np.quantile(replicates, [0.025, 0.975])
    return float(low), float(high)
