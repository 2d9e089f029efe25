"""Replay of a log: what other policies would have bought with the same rollouts, as far as the log can answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, SupportsIndex, get_args

import numpy as np
import numpy.typing as npt

from cero_alloc._allocators.fenchel_dual import FenchelDualAllocator
from cero_alloc._allocators.resolving import ResolvingAllocator
from cero_alloc._checks import FloatArray, IntArray, error_text, instance, integer
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc.baselines import PEERS, FixedPacing, Greedy, Uniform
from cero_alloc.simulation._result import top_tenth
from cero_alloc.simulation._rounds import Draw, check_counts, play_round

from ._log import RolloutLog
from ._outcomes import Outcomes, logged_outcomes

Offer = Literal["batch", "pool"]
Policies = Mapping[str, Callable[..., Any]]  # name -> callable(bank, total_budget=, n_rounds=, max_rollouts=, seed=)

UNIFORM = "Uniform"
_LARGEST = 128  # rollouts of one prompt in one round, the most that published allocators deal
_CELLS = 1 << 22  # weights of the bootstrap that are held at a time
_COLUMNS = 5  # of a tally: dealt, answered, groups, mixed groups, answered rollouts in dead groups


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """What one policy bought.

    A *group* is the answered rollouts of one prompt in one round; it is mixed where its rewards are not all equal,
    and dead otherwise. Intervals hold 95% of the bootstrap's replicates; NaN where nothing was answered.

    Attributes
    ----------
    name : str
        Name of the policy.
    dealt : int
        Rollouts spent.
    unanswerable : float
        Share of those for which the log had no outcome left.
    groups : int
        Groups with at least one answer.
    mean_group : float
        Answered rollouts per group.
    rate : float
        Effective groups per 1,000 answered rollouts.
    standard_error : float
        Bootstrap standard error of the rate.
    interval : tuple of two floats
        Bounds of the rate, in the same unit.
    dead_share : float
        Share of the answered rollouts in dead groups.
    dead_interval : tuple of two floats
        Bounds of that share.
    difference : float
        Rate less uniform's rate, mixed groups per 1,000 answered rollouts.
    difference_interval : tuple of two floats
        Bounds of the difference of the rates, by the same resampled prompts.
    floor : float
        Effective groups per 1,000 rollouts of the log: what is left of the rate if no rollout without an answer, or
        left undealt, had bought anything.
    floor_interval : tuple of two floats
        Bounds of the floor less uniform's floor, mixed groups per 1,000 rollouts of the log.
    top_tenth : float
        Share of the rollouts on the tenth of the prompts that got most.

    References
    ----------
    Efron, Bootstrap methods: another look at the jackknife, Ann. Statist. 7 (1979). The page "Replaying your log" says
    what is resampled.

    Examples
    --------
    >>> one, step = np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0])
    >>> log = RolloutLog.of_rows(("a", "b"), one, step, np.array([0.0, 1.0] * 2), np.array([4] * 4), n_lines=4)
    >>> row = replay(log, {}, n_boot=10).row("Uniform")
    >>> row.dealt, row.groups, row.rate, row.mark
    (16, 2, 125.0, '')
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
    difference: float
    difference_interval: tuple[float, float]
    floor: float
    floor_interval: tuple[float, float]
    top_tenth: float

    @property
    def mark(self) -> str:
        """Whether the policy does better than uniform, ``"+"``, worse, ``"-"``, or neither beyond chance, ``""``.

        In brackets, ``"(+)"``, where rollouts without an answer or left undealt could account for it: fewer of them make
        smaller groups, and smaller groups a higher rate.
        """
        if np.isnan(self.difference_interval).any():  # replicates without an answer
            return ""
        if self.difference_interval[1] < 0.0:
            return "-"
        if self.difference_interval[0] <= 0.0:
            return ""
        return "+" if self.floor_interval[0] > 0.0 else "(+)"


@dataclass(frozen=True, slots=True, eq=False)
class ReplayResult:
    """The policies' rows, best rate first, beside the log's own.

    Attributes
    ----------
    rows : tuple of ReplayRow
        One per policy.
    logged : ReplayRow
        What the run itself bought.
    offer : {"batch", "pool"}
        Which prompts a round offered.
    max_rollouts : int
        Most rollouts of one prompt in one round.
    n_boot : int
        Resamplings of the prompts by the bootstrap.
    left_out : tuple of str
        Default policies that these caps do not allow, and why.

    References
    ----------
    As :class:`ReplayRow`.

    Examples
    --------
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

    def row(self, name: str) -> ReplayRow:
        """Return the row of a policy.

        Parameters
        ----------
        name : str
            Name of the policy.

        Returns
        -------
        ReplayRow
            The first with this name.

        Raises
        ------
        KeyError
            For a name that no row has.

        Examples
        --------
        >>> one, step = np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0])
        >>> log = RolloutLog.of_rows(("a", "b"), one, step, np.array([0.0, 1.0] * 2), np.array([4] * 4), n_lines=4)
        >>> replay(log, {}, n_boot=10).row("Uniform").dealt
        16
        """
        names = [row.name for row in self.rows]
        if name not in names:
            raise KeyError(error_text("name", f"be one of {names}", name, "Correct the spelling."))
        return self.rows[names.index(name)]


def replay(
    log: RolloutLog,
    policies: Policies | None = None,
    *,
    offer: Offer = "batch",
    max_rollouts: SupportsIndex | None = None,
    seed: int = 0,
    n_boot: SupportsIndex = 1000,
    progress: Callable[[], object] = lambda: None,
) -> ReplayResult:
    r"""Play policies against the outcomes of a log.

    Every policy is given the log's rounds and their totals. The rollouts that it deals to a prompt are answered by the
    logged outcomes of that prompt, in order of time, each at most once, shuffled within a step. Rollouts beyond the last
    outcome are spent but bring no feedback: they count in nothing but the unanswerable share.

    Parameters
    ----------
    log : RolloutLog
        As :func:`read_log` returns it.
    policies : mapping of name to callable, or None
        Called as ``policy(bank, total_budget=, n_rounds=, max_rollouts=, seed=)``; returns an object with ``allocate``
        and ``update``. The bank calls the prompts by their rows in the log. None takes :func:`default_policies`. Uniform
        is added where it is missing, because everything is compared with it.
    offer : {"batch", "pool"}
        Whether a round offers the prompts that the log visited in the step, or all of them.
    max_rollouts : int or None
        Most rollouts of one prompt in one round; None takes four times the largest logged group, at most 128, but never
        less than the totals need.
    seed : int
        Draws the order of the outcomes, the policies' ties and the bootstrap.
    n_boot : int, at least 2
        Resamplings of the bootstrap, which draws the prompts of the finished replays anew, the same for all policies.
    progress : callable
        Called after every policy played.

    Returns
    -------
    ReplayResult
        One row per policy.

    Raises
    ------
    ValueError
        For an unknown offer, a ``max_rollouts`` with which the totals cannot be spent, or fewer than two resamplings.
    TypeError
        For numbers that are not integers.

    References
    ----------
    As :class:`ReplayRow`.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from cero_alloc.baselines import Greedy
    >>> from cero_alloc.replay import read_log
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "log.csv"
    >>> lines = [f"{p},{t},8,{s}" for t in (1, 2, 3) for p, s in (("easy", 8), ("even", 4), ("hard", 1))]
    >>> _ = file.write_text("\n".join(["prompt_id,step,trials,successes", *lines]))
    >>> result = replay(read_log(file), {"greedy": Greedy}, n_boot=100)
    >>> result.row("Uniform").rate == result.logged.rate, result.row("greedy").dealt
    (True, 72)
    """
    instance("log", log, RolloutLog, "Read one with read_log(...).")
    _check_offer(offer)
    replicates = integer("n_boot", n_boot, least=2, remedy="Take 1000.")
    cells = log.cells_of_steps()
    totals = [int(log.trials[step].sum()) for step in cells]
    pool = np.arange(log.n_prompts)
    offers = [pool] * len(cells) if offer == "pool" else [log.cell_prompt[step] for step in cells]
    most = _most_rollouts(log, offer, max_rollouts)
    run = {"total_budget": sum(totals), "n_rounds": len(cells), "max_rollouts": most, "seed": seed}

    stage = _Stage(log.n_prompts, logged_outcomes(log, seed), offers, totals, run)
    defaults = default_policies(log, offer=offer)
    chosen = dict(defaults if policies is None else policies)
    chosen.setdefault(UNIFORM, defaults[UNIFORM])
    tallies, left_out = {}, []
    for name, make in chosen.items():
        tally = stage.play(make)
        if isinstance(tally, str):
            left_out.append(f"{name}: {tally}")
        else:
            tallies[name] = tally
        progress()
    tallies[""] = _logged(log)
    rows = _rows(tallies, replicates, seed)
    logged = rows.pop()
    rows.sort(key=lambda row: -np.inf if np.isnan(row.rate) else row.rate, reverse=True)
    return ReplayResult(tuple(rows), logged, offer, most, replicates, tuple(left_out))


def default_policies(log: RolloutLog, *, offer: Offer = "batch") -> dict[str, Callable[..., Any]]:
    """Return what a replay of this log plays unless told otherwise: the allocators and every peer.

    In batches the allocators are told how often the log visits each prompt, as a data loader's epochs tell. Rules that
    deal groups of one size deal the log's from the pool, and twice that in batches, where they can only choose half of
    the prompts; re-solving allocators deal at least the log's from the pool, and at least two in batches.

    Parameters
    ----------
    log : RolloutLog
        Log to replay.
    offer : {"batch", "pool"}
        As in :func:`replay`.

    Returns
    -------
    dict of name to callable
        For the argument ``policies`` of :func:`replay`.

    Raises
    ------
    ValueError
        For an unknown offer.
    TypeError
        For a log that is none.

    Examples
    --------
    >>> one, step = np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0])
    >>> log = RolloutLog.of_rows(("a", "b"), one, step, np.array([0.0, 1.0] * 2), np.array([4] * 4), n_lines=4)
    >>> list(default_policies(log))[2:6]
    ['FenchelDualAllocator', 'FixedPacing', 'Greedy', 'Uniform']
    """
    instance("log", log, RolloutLog, "Read one with read_log(...).")
    _check_offer(offer)
    per_visit = mean_group(log)
    one_size = max(least_cap(log, offer), per_visit if offer == "pool" else 2 * per_visit)
    visits = log.visits if offer == "batch" else None
    least = least_group(log, offer)
    fit_every = max(5, log.n_steps // 5)
    return {
        "ResolvingAllocator": partial(resolving, visits=visits, least=least),
        f"ResolvingAllocator, fit_every={fit_every}": partial(
            resolving, visits=visits, least=least, fit_every=fit_every
        ),
        "FenchelDualAllocator": partial(_capped, FenchelDualAllocator, one_size, visits=visits),
        **{cls.__name__: partial(_capped, cls, one_size) for cls in (FixedPacing, Greedy)},
        UNIFORM: partial(_peer, Uniform, per_visit if offer == "pool" else None),  # of a batch, everybody
        **{cls.__name__: partial(_peer, cls, one_size if cls.kind == "selects" else per_visit) for cls in PEERS},
    }


def _check_offer(offer: str) -> None:
    if offer not in get_args(Offer):
        raise ValueError(error_text("offer", f"be one of {list(get_args(Offer))}", offer, "Correct the spelling."))


def least_group(log: RolloutLog, offer: Offer) -> int:
    """Return the least group of re-solving allocators: pairs in batches, the log's mean group from the pool."""
    return 2 if offer == "batch" else max(2, mean_group(log))


def mean_group(log: RolloutLog) -> int:
    """Return the rollouts that a prompt had in a step: the median over the steps of their means, a broken step aside."""
    totals = np.bincount(log.cell_step, log.trials, log.n_steps)
    return max(1, round(float(np.median(totals / np.bincount(log.cell_step, minlength=log.n_steps)))))


def resolving(
    bank: BetaPosteriorBank,
    *,
    max_rollouts: int,
    least: int = 2,
    prior: tuple[float, float] = (1.0, 1.0),
    forgetting: float = 1.0,
    **options: Any,
) -> ResolvingAllocator:
    """Build a re-solving allocator with a least group, over a bank of this prior and forgetting."""
    own = BetaPosteriorBank(len(bank), prior=prior, forgetting=forgetting)
    return ResolvingAllocator(own, max_rollouts=max_rollouts, min_rollouts=min(least, max_rollouts), **options)


def _capped(cls: Any, most: int, bank: BetaPosteriorBank, *, max_rollouts: int, **run: Any) -> Any:
    """Build a rule that deals its cap to everybody whom it visits: one group size, and not the cap of the others."""
    return cls(bank, max_rollouts=min(max_rollouts, most), **run)


def _peer(cls: Any, per_visit: int | None, bank: BetaPosteriorBank, *, max_rollouts: int, **run: Any) -> Any:
    """Build a peer that deals ``per_visit`` rollouts to a prompt, or as many as its rule and the cap allow."""
    if per_visit is not None and cls.takes_visits:
        run["rollouts_per_visit"] = min(max_rollouts, max(per_visit, cls.least_rollouts))
    return cls(bank, max_rollouts=max_rollouts, **run)


def least_cap(log: RolloutLog, offer: Offer) -> int:
    """Return the least cap of a prompt in a round with which every step's total can be spent."""
    totals = np.bincount(log.cell_step, log.trials, log.n_steps)
    sizes = np.full(log.n_steps, log.n_prompts) if offer == "pool" else np.bincount(log.cell_step)
    return int(np.ceil(totals / sizes).max())


def _most_rollouts(log: RolloutLog, offer: Offer, max_rollouts: SupportsIndex | None) -> int:
    """Return the cap of a prompt in a round."""
    needed = least_cap(log, offer)
    if max_rollouts is None:
        return max(needed, min(_LARGEST, 4 * int(log.trials.max())))
    most = integer("max_rollouts", max_rollouts, least=1, remedy="Count rollouts.")
    if most < needed:
        raise ValueError(error_text("max_rollouts", f"be at least {needed} to spend the totals", most, "Raise it."))
    return most


# ---------------------------------------------------------------- the plays


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """What all policies are given."""

    n_prompts: int
    outcomes: Outcomes
    offers: list[IntArray]
    totals: list[int]
    run: dict[str, int]

    def play(self, make: Callable[..., Any]) -> FloatArray | str:
        """Play all rounds, and return the policy's tally, or why these caps do not allow a default policy."""
        try:
            policy = make(BetaPosteriorBank(self.n_prompts), **self.run)
        except ValueError as error:
            if isinstance(make, partial) and make.func is _peer:
                return str(error)
            raise
        outcomes = self.outcomes
        outcomes.restart()
        tally = np.zeros((self.n_prompts, _COLUMNS))
        for rows, total in zip(self.offers, self.totals, strict=True):
            try:
                wave = policy.allocate(rows, total, exact=True)
            except ValueError:  # no counts that the policy may deal add up to this total
                wave = policy.allocate(rows, total)
            counts, won, answered = play_round(policy, rows, self._answers(rows, total), wave=wave)
            dealt = np.flatnonzero(counts)
            rows, counts, won, answered = rows[dealt], counts[dealt], won[dealt], answered[dealt]
            _note(tally, rows, counts, answered, outcomes.mixed(rows, won, answered))
        return tally

    def _answers(self, rows: IntArray, total: int) -> Draw:
        """Return the draw of one round of so many rollouts."""
        left = total

        def draw(positions: IntArray, n: IntArray) -> tuple[npt.NDArray[Any], IntArray]:
            nonlocal left
            left -= check_counts(n, 1, self.run["max_rollouts"], left)
            return self.outcomes.draw(rows[positions], n)

        return draw


def _logged(log: RolloutLog) -> FloatArray:
    """Return the log's own tally."""
    tally, mixed = np.zeros((log.n_prompts, _COLUMNS)), ~log.dead
    for cells in log.cells_of_steps():
        _note(tally, log.cell_prompt[cells], log.trials[cells], log.trials[cells], mixed[cells])
    return tally


def _note(
    tally: FloatArray, rows: IntArray, counts: IntArray, answered: IntArray, mixed: npt.NDArray[np.bool_]
) -> None:
    """Add the groups of one round, at most one per prompt."""
    tally[rows] += np.stack([counts, answered, answered > 0, mixed, np.where(mixed, 0, answered)], axis=1)


# ---------------------------------------------------------------- the intervals


def _rows(tallies: dict[str, FloatArray], n_boot: int, seed: int) -> list[ReplayRow]:
    """Return the rows of all tallies, in their order."""
    table = np.concatenate(list(tallies.values()), axis=1)
    totals = table.sum(axis=0).reshape(-1, _COLUMNS)
    replicates = _resampled(table, n_boot, np.random.default_rng([seed, 2])).reshape(n_boot, -1, _COLUMNS)
    rate, floor, dead = _ratios(totals)
    rates, floors, deads = _ratios(replicates)
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
                interval=_interval(rates[:, i]),
                dead_share=float(dead[i]),
                dead_interval=_interval(deads[:, i]),
                difference=float(rate[i] - rate[base]),
                difference_interval=_interval(rates[:, i] - rates[:, base]),
                floor=float(floor[i]),
                floor_interval=_interval(floors[:, i] - floors[:, base]),
                top_tenth=top_tenth(tally[:, 0]),
            )
        )
    return rows


def _ratios(sums: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return mixed groups per 1,000 answered and per 1,000 logged rollouts, and the share in dead groups.

    The log's own tally is the last one; everything it dealt was logged.
    """
    _, answered, _, mixed, dead = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore"):
        return 1000.0 * mixed / answered, 1000.0 * mixed / answered[..., -1:], dead / answered


def _resampled(table: FloatArray, n_boot: int, rng: np.random.Generator) -> FloatArray:
    """Return the column sums of the table with its rows drawn with replacement; shape (n_boot, n_columns)."""
    size = len(table)
    block = max(1, _CELLS // size)
    parts = []
    for start in range(0, n_boot, block):
        many = min(block, n_boot - start)
        drawn = rng.integers(0, size, (many, size)) + size * np.arange(many)[:, None]
        times = np.bincount(drawn.ravel(), minlength=many * size).reshape(many, size)
        parts.append(times.astype(np.float64) @ table)
    return np.concatenate(parts)


def _interval(replicates: FloatArray) -> tuple[float, float]:
    """Return the 2.5% and 97.5% quantiles; NaN where a replicate has no answers."""
    low, high = np.quantile(replicates, [0.025, 0.975])
    return float(low), float(high)
