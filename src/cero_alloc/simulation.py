"""Pools of prompts with known success rates, simulated runs over them, and what the theorems promise of such a run."""

from __future__ import annotations

import csv
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path as FilePath
from typing import Literal, Protocol, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _kernels
from ._checks import FloatArray, IntArray, error_text, integer, reals
from ._ledger import Horizon
from ._oracle import OfflineOracle
from ._posterior import BetaPosteriorBank
from ._utility import SaturatingUtility

__all__ = [
    "Policy",
    "Pool",
    "SimulationResult",
    "drifting_pool",
    "known_bank",
    "load_counts",
    "path_optimum_bound",
    "regret_bound",
    "simulate",
    "static_pool",
]

MEAN_BINS = np.linspace(0.0, 1.0, 6)  # edges of the predicted-mean bins of the lift

_KNOWN = 1e15  # pseudo-rollouts of a prior that no run can move


class Policy(Protocol):
    """What :func:`simulate` runs: anything with these two methods."""

    def allocate(
        self, prompt_ids: Iterable[Hashable] | None = None, budget: SupportsIndex | None = None, *, exact: bool = False
    ) -> IntArray:
        """Return this round's rollouts per prompt."""

    def update(self, prompt_ids: Iterable[Hashable] | None, successes: npt.ArrayLike, rollouts: npt.ArrayLike) -> None:
        """Take the rewards of some rollouts."""


# ---------------------------------------------------------------- pools


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """True success rates of a pool of prompts along a run.

    Parameters
    ----------
    rates : array_like of float, shape (n_stages, n_prompts) or (n_prompts,)
        Success probabilities, one row per stage of the run.
    prompt_ids : sequence of hashable, or None
        Ids in column order; None means 0 .. n_prompts - 1.
    path : {"step", "linear"}
        Whether the run jumps from stage to stage, each lasting equally long, or moves along straight lines between
        them.

    Raises
    ------
    ValueError
        For rates outside [0, 1], a wrong shape, or an unknown path.

    Examples
    --------
    >>> pool = Pool([[0.0, 1.0], [0.5, 1.0]], path="linear")
    >>> pool.at(1, 3).tolist()
    [0.25, 1.0]
    """

    rates: FloatArray
    prompt_ids: Sequence[Hashable] | None = None
    path: Literal["step", "linear"] = "step"

    def __post_init__(self) -> None:
        rates = np.atleast_2d(reals("rates", self.rates, low=0.0, high=1.0, remedy="Rates are success probabilities."))
        if rates.ndim != 2 or rates.size == 0:
            raise ValueError(
                error_text("rates", "have shape (n_stages, n_prompts)", rates.shape, "Give one row per stage.")
            )
        if self.path not in ("step", "linear"):
            raise ValueError(error_text("path", "be 'step' or 'linear'", self.path, "Correct the spelling."))
        if self.prompt_ids is not None and len(self.prompt_ids) != rates.shape[1]:
            condition = f"name the {rates.shape[1]} columns of rates"
            raise ValueError(error_text("prompt_ids", condition, len(self.prompt_ids), "Give one id per column."))
        object.__setattr__(self, "rates", rates)

    @property
    def n_prompts(self) -> int:
        """Prompts in the pool."""
        return int(self.rates.shape[1])

    @property
    def static(self) -> bool:
        """Whether the rates never move."""
        return bool((self.rates == self.rates[0]).all())

    def bank(
        self, *, prior: tuple[npt.ArrayLike, npt.ArrayLike] = (1.0, 1.0), forgetting: float = 1.0
    ) -> BetaPosteriorBank:
        """Return a bank over these prompts without evidence."""
        return BetaPosteriorBank(
            self.n_prompts if self.prompt_ids is None else self.prompt_ids, prior=prior, forgetting=forgetting
        )

    def at(self, k: int, n_rounds: int) -> FloatArray:
        """Return the success rates in round ``k`` (from 0) of ``n_rounds``; shape (n_prompts,)."""
        stages = len(self.rates)
        if self.path == "step" or stages == 1 or n_rounds == 1:
            low, weight = k * stages // n_rounds, 0.0
        else:
            place = k * (stages - 1) / (n_rounds - 1)
            low = min(int(place), stages - 2)
            weight = place - low
        start: FloatArray = self.rates[low]
        return start if weight == 0.0 else (1.0 - weight) * start + weight * self.rates[low + 1]

    def sample(self, n_prompts: int, seed: int | np.random.Generator = 0) -> Pool:
        """Return a pool of ``n_prompts`` of these, drawn without replacement, or with it where there are too few."""
        size = integer("n_prompts", n_prompts, least=1, remedy="Count from 1.")
        chosen = np.random.default_rng(seed).choice(self.n_prompts, size, replace=size > self.n_prompts)
        return Pool(self.rates[:, chosen], None, self.path)

    def drifted(self, drift: float, seed: int | np.random.Generator = 0) -> Pool:
        """Return a pool that moves from the first stage in straight lines, by a logit shift of abs(N(0, drift)) each.

        Training that helps every prompt by its own amount looks like this: the solved stay solved, the hopeless come
        within reach.
        """
        start = np.clip(self.rates[0], 1e-12, 1.0 - 1e-12)
        logit = np.log(start) - np.log1p(-start) + np.abs(np.random.default_rng(seed).normal(0.0, drift, start.size))
        return Pool(np.stack([start, 1.0 / (1.0 + np.exp(-logit))]), self.prompt_ids, "linear")


def static_pool(n_prompts: int, a: float = 1.0, b: float = 1.0, *, seed: int | np.random.Generator = 0) -> Pool:
    """Return a pool whose rates are drawn once from Beta(a, b) and never move.

    Examples
    --------
    >>> static_pool(3, seed=0).n_prompts
    3
    """
    return Pool(np.random.default_rng(seed).beta(a, b, n_prompts))


def drifting_pool(
    n_prompts: int, a: float = 1.0, b: float = 1.0, *, drift: float = 1.0, seed: int | np.random.Generator = 0
) -> Pool:
    """Return a pool whose rates start at Beta(a, b) draws and then move as :meth:`Pool.drifted` has it.

    Examples
    --------
    >>> pool = drifting_pool(3, drift=2.0, seed=0)
    >>> bool((pool.at(9, 10) >= pool.at(0, 10)).all())
    True
    """
    rng = np.random.default_rng(seed)
    return Pool(rng.beta(a, b, n_prompts)).drifted(drift, rng)


def load_counts(file: str | FilePath, *, path: Literal["step", "linear"] = "step") -> Pool:
    r"""Read measured success counts as the true rates of a pool, successes / trials per prompt and epoch.

    Parameters
    ----------
    file : str or path
        CSV with the columns ``prompt_id,epoch,trials,successes``. Epochs in ascending order become the stages of the
        pool.
    path : {"step", "linear"}
        As in :class:`Pool`.

    Returns
    -------
    Pool

    Raises
    ------
    ValueError
        For missing columns, a bad or repeated line (the message names it), or a prompt that lacks an epoch.
    OSError
        For a file that cannot be read.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "counts.csv"
    >>> _ = file.write_text("prompt_id,epoch,trials,successes\na,0,10,3\nb,0,10,9\n")
    >>> load_counts(file).rates.tolist()
    [[0.3, 0.9]]
    """
    table: dict[tuple[int, str], float] = {}
    with open(file, newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        missing = {"prompt_id", "epoch", "trials", "successes"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"{file} must have the columns prompt_id, epoch, trials, successes; missing: {sorted(missing)}. Name them in line 1."
            )
        for row in reader:
            try:
                key, trials, wins = (int(row["epoch"]), row["prompt_id"]), int(row["trials"]), float(row["successes"])
            except (TypeError, ValueError):
                raise ValueError(
                    f"{file}, line {reader.line_num}: epoch and trials must be integers, successes a number. Got {row}."
                ) from None
            if not (0 <= wins <= trials and trials > 0):
                raise ValueError(
                    f"{file}, line {reader.line_num}: need 0 <= successes <= trials and trials > 0. Got {row}."
                )
            if key in table:
                raise ValueError(
                    f"{file}, line {reader.line_num}: prompt {key[1]!r} appears twice in epoch {key[0]}. Sum its counts."
                )
            table[key] = wins / trials
    epochs = sorted({epoch for epoch, _ in table})
    names = list(dict.fromkeys(name for _, name in table))
    if not names:
        raise ValueError(f"{file} must hold at least one line of counts. Check the path.")
    for name in names:
        for epoch in epochs:
            if (epoch, name) not in table:
                raise ValueError(
                    f"{file}: prompt {name!r} has no line for epoch {epoch}. Give every prompt every epoch."
                )
    return Pool(np.array([[table[epoch, name] for name in names] for epoch in epochs]), names, path)


def known_bank(pool: Pool) -> BetaPosteriorBank:
    """Return a bank that knows the first-stage rates: its prior is a point mass that no run can move.

    Examples
    --------
    >>> known_bank(Pool([0.5, 0.9])).value().round(6).tolist()
    [0.25, 0.09]
    """
    p = pool.rates[0]
    tiny = 1e-300  # a Beta parameter must be positive
    return pool.bank(prior=(np.maximum(p, tiny) * _KNOWN, np.maximum(1.0 - p, tiny) * _KNOWN))


# ---------------------------------------------------------------- what the theorems promise


def regret_bound(
    horizon: Horizon, utility: SaturatingUtility, *, proxy_error: float = 0.0, variation: float = 0.0
) -> float:
    r"""Return the bound on regret per prompt of Theorem 1, or of Theorem 2 for rates that move.

    .. math::

        \min\Bigl\{\text{cap},\ \frac{\lambda (N_{\max} + G_B / M)}{\bar N} \frac{1}{\sqrt K}
        + 8 \lambda \frac{N_{\max}}{\bar N} \bar e + 4 \lambda \Bigl(1 + \frac{N_{\max}}{\bar N}\Bigr) V_K\Bigr\},
        \qquad \bar N = \frac{B}{M K}

    Parameters
    ----------
    horizon : Horizon
        Constants of the run.
    utility : SaturatingUtility
        What exposure is worth; any shape and scaling.
    proxy_error : float
        Mean over prompts and rounds of :math:`|\hat q_{i,k+1} - q_{i,k}|`.
    variation : float
        :math:`V_K = \sum_k \max_i |q_{i,k+1} - q_{i,k}|`. The kink of the capped line with
        "rate" scaling costs another :math:`4 \lambda V_K`.

    Returns
    -------
    float
        Utility per prompt. The cap, the most that the optimum can be worth, is min(1, saturation) for bounded shapes on
        static rates and the saturation otherwise: a bound at the cap says nothing.

    References
    ----------
    Theorems 1 and 2 of the theory page.

    Examples
    --------
    >>> horizon = Horizon(n_prompts=64, n_rounds=256, total_budget=64 * 256, max_rollouts=2, round_capacity=128)
    >>> regret_bound(horizon, SaturatingUtility())
    0.1875
    """
    h, lam = horizon, utility.saturation
    n_bar = h.equal_share / h.n_rounds
    spread = h.n_max / n_bar
    bound = lam * (h.n_max + h.price_scale / h.n_prompts) / n_bar / sqrt(h.n_rounds) + 8.0 * lam * spread * proxy_error
    if variation == 0.0:
        return min(utility.ceiling, bound)
    kink = 2.0 if (utility.shape, utility.scaling) == ("capped-linear", "rate") else 1.0
    return min(lam, bound + 4.0 * lam * (kink + spread) * variation)


def path_optimum_bound(
    values: npt.ArrayLike,
    horizon: Horizon,
    utility: SaturatingUtility,
    *,
    tolerance: float = 1e-4,
) -> tuple[float, float]:
    """Return an upper bound on the best utility along a path of values, and the price that proves it.

    A round's new exposure is valued at that round's value. The budget is priced, which splits the problem into one
    dynamic program over (round, exposure) per prompt; by weak duality every price gives a valid bound, and the round
    capacity is dropped, which can only raise it. The price that gives the lowest bound is searched by bisection on the
    budget's slack.

    Parameters
    ----------
    values : array_like of float, shape (n_prompts, n_rounds)
        Values q of every prompt in every round.
    horizon : Horizon
        Constants of the run; its n_prompts and n_rounds must match.
    utility : SaturatingUtility
        What exposure is worth.
    tolerance : float
        Relative width of the price bracket at which the search stops.

    Returns
    -------
    bound : float
        Utility of the whole pool.
    price : float
        Utility per unit.

    Raises
    ------
    ValueError
        For values of the wrong shape or range.

    Examples
    --------
    >>> horizon = Horizon(n_prompts=2, n_rounds=4, total_budget=8, max_rollouts=2, round_capacity=4)
    >>> bound, price = path_optimum_bound(np.full((2, 4), 0.25), horizon, SaturatingUtility())
    >>> round(bound, 6), round(2 * (1 - float(np.exp(-1))), 6)
    (1.264241, 1.264241)
    """
    q = np.ascontiguousarray(
        reals("values", values, low=0.0, high=0.25, remedy="A value is a Bernoulli variance p (1 - p).")
    )
    if q.shape != (horizon.n_prompts, horizon.n_rounds):
        shape = (horizon.n_prompts, horizon.n_rounds)
        raise ValueError(
            error_text("values", f"have shape {shape}", q.shape, "Give one row per prompt, one column per round.")
        )
    size = horizon.n_rounds * horizon.n_max + horizon.n_max + 1
    scratch = [np.empty(size) for _ in range(3)]
    shape_code, scaling, lam = utility.codes
    share, budget = horizon.equal_share, float(horizon.budget)

    def dual(price: float) -> tuple[float, float]:
        worth, bought = _kernels.path_dual(price, q, horizon.n_max, share, shape_code, scaling, lam, *scratch)
        return worth + price * budget, bought

    top = 4.0 * lam * float(q.max()) / share
    best, best_price = float(horizon.n_prompts * lam), top
    # The static optimum of the mean values has nearly the same price; try a bracket around it first.
    static = OfflineOracle(utility).solve(
        q.mean(axis=1), budget, equal_share=share, upper=horizon.n_rounds * horizon.n_max
    )
    lo, hi = 0.0, top
    for price in (0.9 * static.price, 1.1 * static.price):
        bound, bought = dual(price)
        best, best_price = min((best, best_price), (bound, price))
        lo, hi = (max(lo, price), hi) if bought > budget else (lo, min(hi, price))
    while hi - lo > tolerance * hi and hi > 1e-6 * top:  # below that the budget is as good as slack
        price = 0.5 * (lo + hi)
        bound, bought = dual(price)
        best, best_price = min((best, best_price), (bound, price))
        if bought == budget:
            break
        lo, hi = (price, hi) if bought > budget else (lo, price)
    return best, best_price


# ---------------------------------------------------------------- runs


@dataclass(frozen=True, slots=True, eq=False)
class SimulationResult:
    """What a simulated run did and what it was worth.

    A *group* is the rollouts of one prompt in one round. Utilities are sums over the pool; ``regret``, ``bound`` and
    ``proxy_error`` are per prompt. Entries that the policy does not reveal are NaN.
    """

    horizon: Horizon
    group_round: IntArray  # round of each group, shape (n_groups,)
    group_prompt: IntArray  # row of each group's prompt
    group_rollouts: IntArray  # rollouts
    group_successes: IntArray  # rollouts rewarded
    group_mean: FloatArray  # posterior mean success rate when the group was dealt
    group_value: FloatArray  # posterior expected variance when the group was dealt
    mean_counts: IntArray  # prompts per predicted-mean bin and round, shape (n_rounds, 5)
    achieved: float  # utility of the executed counts at the true rates
    optimum: float  # utility of the clairvoyant optimum, an upper bound of it on moving rates
    bound: float  # theorem's bound on regret, utility per prompt
    proxy_error: FloatArray  # mean |qhat after the round - q|, shape (n_rounds,)
    variation: float  # V_K, sum over rounds of the largest move of a value
    exposure: IntArray  # rollouts per prompt, shape (n_prompts,)
    pacing_gap: FloatArray  # rollouts spent ahead of the uniform schedule after each round, shape (n_rounds,)
    price: FloatArray  # normalised price after each round, shape (n_rounds,)

    @property
    def regret(self) -> float:
        """Optimum minus achieved utility, per prompt."""
        return (self.optimum - self.achieved) / self.horizon.n_prompts

    @property
    def counts(self) -> IntArray:
        """Rollouts per round and prompt, dense; shape (n_rounds, n_prompts)."""
        table = np.zeros((self.horizon.n_rounds, self.horizon.n_prompts), dtype=np.int64)
        table[self.group_round, self.group_prompt] = self.group_rollouts
        return table

    @property
    def allocating_rounds(self) -> int:
        """Rounds that dealt anything."""
        return int(np.unique(self.group_round).size)

    @property
    def effective_group_rate(self) -> float:
        """Share of the groups with both successes and failures, the only ones that teach."""
        if self.group_rollouts.size == 0:
            return float("nan")
        return float(np.mean((self.group_successes > 0) & (self.group_successes < self.group_rollouts)))

    def lift(self) -> FloatArray:
        """Return how much likelier than chance each predicted-mean bin was dealt a group; shape (5,), NaN if empty.

        The bins are [0, .2), [.2, .4), ..., [.8, 1]; the random choice is the pool as it stood in each allocating
        round.
        """
        dealt = np.bincount(_mean_bin(self.group_mean), minlength=5) / max(1, self.group_mean.size)
        per_round = np.bincount(self.group_round, minlength=self.horizon.n_rounds)
        pool = per_round @ (self.mean_counts / self.horizon.n_prompts) / max(1, self.group_mean.size)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pool > 0, dealt / pool, np.nan)

    def observed_variance(self) -> FloatArray:
        """Return the unbiased reward variance within each group; NaN for groups of one."""
        n, s = self.group_rollouts.astype(np.float64), self.group_successes
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(n > 1, s * (n - s) / (n * (n - 1.0)), np.nan)


def simulate(
    policy: Policy,
    pool: Pool,
    n_rounds: SupportsIndex,
    seed: int | np.random.Generator = 0,
    *,
    horizon: Horizon | None = None,
    utility: SaturatingUtility | None = None,
    feedback: bool = True,
    optimum: float | None = None,
) -> SimulationResult:
    """Run a policy on a pool with Bernoulli rewards: allocate, draw, update, once per round.

    Parameters
    ----------
    policy : Policy
        Anything with ``allocate`` and ``update``; its bank must hold the pool's prompts in the pool's order.
    pool : Pool
        True success rates.
    n_rounds : int
        Rounds to run.
    seed : int or numpy.random.Generator
        Draws the rewards.
    horizon : Horizon or None
        Constants that optimum and bound refer to; None takes ``policy.horizon``.
    utility : SaturatingUtility or None
        What exposure is worth; None takes ``policy.utility``, else the default utility.
    feedback : bool
        Whether the policy gets to see the rewards.
    optimum : float or None
        A known optimum, or upper bound of it, of this pool; None computes it.

    Returns
    -------
    SimulationResult

    Raises
    ------
    ValueError
        For a policy without a horizon when none is given, sizes that do not match, or counts that are negative or not
        integers.

    Examples
    --------
    >>> from cero_alloc import FenchelDualAllocator
    >>> pool = static_pool(16, seed=3)
    >>> policy = FenchelDualAllocator(pool.bank(), total_budget=16 * 64, n_rounds=64, max_rollouts=2)
    >>> result = simulate(policy, pool, 64)
    >>> 0.0 <= result.regret <= result.bound
    True
    """
    rounds = integer("n_rounds", n_rounds, least=1, remedy="Count the rounds to run.")
    h: Horizon | None = horizon if horizon is not None else getattr(policy, "horizon", None)
    if h is None:
        raise ValueError("horizon must be given for a policy without one. Pass horizon=Horizon(...).")
    if (h.n_prompts, h.n_rounds) != (pool.n_prompts, rounds):
        condition = f"fit {pool.n_prompts} prompts and {rounds} rounds"
        raise ValueError(
            error_text("horizon", condition, (h.n_prompts, h.n_rounds), "Build the policy for this pool and n_rounds.")
        )
    worth: SaturatingUtility = utility or getattr(policy, "utility", None) or SaturatingUtility()
    rng = np.random.default_rng(seed)
    bank: BetaPosteriorBank | None = getattr(policy, "bank", None)
    run = _Recorder(h, bank)
    ids = None if pool.prompt_ids is None else np.fromiter(pool.prompt_ids, dtype=object, count=pool.n_prompts)
    static = pool.static
    z = np.zeros(pool.n_prompts, dtype=np.int64)  # exposure in units
    achieved, variation = 0.0, 0.0
    p = pool.at(0, rounds)
    q = p * (1.0 - p)
    for k in range(rounds):
        if not static and k:
            p = pool.at(k, rounds)
            q, before = p * (1.0 - p), q
            variation += float(np.abs(q - before).max())
        counts = policy.allocate()
        chosen = np.flatnonzero(counts)
        n = counts[chosen]
        _check_counts(n, h)
        s = rng.binomial(n, p[chosen])
        if feedback and chosen.size:
            policy.update(chosen if ids is None else ids[chosen], s, n)
        if not static:
            x, more = z[chosen] / h.equal_share, n // h.group_size / h.equal_share
            achieved += float((worth.value(q[chosen], x + more) - worth.value(q[chosen], x)).sum())
        z[chosen] += n // h.group_size
        run.record(k, chosen, n, s, q, float(getattr(policy, "price", np.nan)))
    if static:
        achieved = float(worth.value(q, z / h.equal_share).sum())
    if optimum is None and static:
        oracle = OfflineOracle(worth)
        optimum = oracle.solve(q, h.budget, equal_share=h.equal_share, upper=h.n_rounds * h.n_max, integer=True).optimum
    elif optimum is None:
        optimum, _ = path_optimum_bound(_value_path(pool, rounds), h, worth)
    result = run.result(achieved, optimum, variation, z * h.group_size)
    error = float(result.proxy_error.mean())
    bound = np.nan if np.isnan(error) else regret_bound(h, worth, proxy_error=error, variation=variation)
    return replace(result, bound=bound)


def _value_path(pool: Pool, n_rounds: int) -> FloatArray:
    """Return values per prompt and round."""
    p = np.stack([pool.at(k, n_rounds) for k in range(n_rounds)], axis=1)
    return p * (1.0 - p)


def _mean_bin(mean: FloatArray) -> IntArray:
    """Return the predicted-mean bin of each entry, 0 .. 4."""
    return np.minimum((mean * 5.0).astype(np.int64), 4)


def _check_counts(n: IntArray, horizon: Horizon) -> None:
    """Refuse counts that no allocator may return."""
    if n.dtype.kind not in "iu":
        raise ValueError(error_text("counts", "be integers", n.dtype, "Return an int64 array from allocate."))
    if n.size and (n.min() < 0 or (n % horizon.group_size).any()):
        raise ValueError(
            error_text(
                "counts", f"be non-negative multiples of {horizon.group_size}", n.tolist()[:5], "Correct allocate."
            )
        )


class _Recorder:
    """Collects a run's groups round by round, with what the bank predicted of them before each round."""

    def __init__(self, horizon: Horizon, bank: BetaPosteriorBank | None) -> None:
        rounds = horizon.n_rounds
        self.horizon = horizon
        self.bank = bank
        self.groups: list[tuple[IntArray, ...]] = []
        self.predicted: list[tuple[FloatArray, FloatArray]] = []
        self.mean_counts = np.zeros((rounds, 5), dtype=np.int64)
        self.proxy_error = np.full(rounds, np.nan)
        self.price = np.full(rounds, np.nan)
        self.dealt = np.zeros(rounds, dtype=np.int64)
        if bank is not None:
            self.mean, self.value = bank.mean(), bank._values(None)

    def record(self, k: int, chosen: IntArray, n: IntArray, s: IntArray, q: FloatArray, price: float) -> None:
        """Note the groups of round k, and how far from the true values ``q`` the bank is after it."""
        self.groups.append((np.full(chosen.size, k), chosen, n, s))
        self.price[k] = price
        self.dealt[k] = n.sum()
        if self.bank is not None:
            self.predicted.append((self.mean[chosen], self.value[chosen]))
            self.mean_counts[k] = np.bincount(_mean_bin(self.mean), minlength=5)
            self.mean, self.value = self.bank.mean(), self.bank._values(None)  # the next round's prediction
            self.proxy_error[k] = np.abs(self.value - q).mean()

    def result(self, achieved: float, optimum: float, variation: float, exposure: IntArray) -> SimulationResult:
        """Return the collected run, its bound left to the caller."""
        columns = [np.concatenate(column) for column in zip(*self.groups, strict=True)]
        unknown = np.full(columns[0].size, np.nan)
        mean, value = (
            (np.concatenate(c) for c in zip(*self.predicted, strict=True)) if self.predicted else (unknown, unknown)
        )
        h = self.horizon
        schedule = np.arange(1, h.n_rounds + 1) * (h.total_budget / h.n_rounds)
        return SimulationResult(
            horizon=h,
            group_round=columns[0],
            group_prompt=columns[1],
            group_rollouts=columns[2],
            group_successes=columns[3],
            group_mean=mean,
            group_value=value,
            mean_counts=self.mean_counts,
            achieved=achieved,
            optimum=optimum,
            bound=np.nan,
            proxy_error=self.proxy_error,
            variation=variation,
            exposure=exposure,
            pacing_gap=np.cumsum(self.dealt) - schedule,
            price=self.price,
        )
