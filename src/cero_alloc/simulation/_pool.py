"""Pools of prompts with known rewards: success rates that are given, drawn or drifting, or chances of a few levels."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text, generator, instance, integer, real, reals
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._saving.shown import Shown

from ._levels import checked_levels, mean_rewards, reward_variances

_KNOWN = 1e15  # pseudo-rollouts: no run has enough evidence to move this prior


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Pool(Shown):
    """True success rates of a pool of prompts during a run, or the chances of a few levels of reward.

    Parameters
    ----------
    rates : array_like of float, shape (n_stages, n_prompts) or (n_prompts,)
        Success probabilities, one row per stage of the run. With levels the mean rewards, which :meth:`of_levels` works out.
    prompt_ids : sequence of hashable, or None
        Ids in column order; None means 0 .. n_prompts - 1.
    path : {"step", "linear"}
        "step": the rates jump from stage to stage, and all stages last equally long. "linear": the rates are interpolated
        linearly between the stages.
    levels : array_like of float, shape (n_levels,), or None
        Rewards that a rollout can have, ascending in [0, 1]; None for the rewards 0 and 1.
    chances : array_like of float, shape (n_prompts, n_levels), or None
        Probability of each level for each prompt, over the whole run.

    Raises
    ------
    ValueError
        For rates, levels or chances outside [0, 1], a wrong shape or number of ids, an unknown path, levels that do not
        ascend, chances that do not sum to 1, or rates that are not the mean rewards of the chances.
    TypeError
        For rates, levels or chances that are not numbers, or ids without a length.

    Examples
    --------
    >>> pool = Pool([[0.0, 1.0], [0.5, 1.0]], path="linear")
    >>> pool.at(1, 3).tolist()
    [0.25, 1.0]
    """

    _SHOWN: ClassVar[tuple[str, ...]] = ("n_prompts", "path", "rates", "levels")

    rates: FloatArray
    prompt_ids: Sequence[Hashable] | None = None
    path: Literal["step", "linear"] = "step"
    levels: FloatArray | None = None
    chances: FloatArray | None = None

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
        if self.levels is not None or self.chances is not None:
            levels, chances = checked_levels(self.levels, self.chances)
            means = mean_rewards(levels, chances)[None, :]
            if rates.shape != means.shape or not np.allclose(rates, means, rtol=0.0, atol=1e-9):
                condition, remedy = "be the mean rewards of the chances", "Call Pool.of_levels(levels, chances)."
                raise ValueError(error_text("rates", condition, rates.tolist(), remedy))
            object.__setattr__(self, "levels", levels)
            object.__setattr__(self, "chances", chances)
            rates = means
        object.__setattr__(self, "rates", rates)

    @classmethod
    def of_levels(
        cls, levels: npt.ArrayLike, chances: npt.ArrayLike, prompt_ids: Sequence[Hashable] | None = None
    ) -> Pool:
        """Return a pool of rewards with a few levels, such as 0, 0.5 for a partly solved prompt, and 1.

        Parameters
        ----------
        levels : array_like of float, shape (n_levels,)
            Rewards that a rollout can have, ascending in [0, 1].
        chances : array_like of float, shape (n_prompts, n_levels)
            Probability of each level for each prompt; each row sums to 1.
        prompt_ids : sequence of hashable, or None
            Ids in row order; None means 0 .. n_prompts - 1.

        Returns
        -------
        Pool
            Static; its rates are the mean rewards.

        Raises
        ------
        ValueError, TypeError
            As :class:`Pool`.

        Examples
        --------
        >>> pool = Pool.of_levels([0, 0.5, 1], [[0, 1, 0], [0.5, 0, 0.5], [0.25, 0.5, 0.25]])
        >>> pool.rates.tolist()
        [[0.5, 0.5, 0.5]]
        >>> pool.values().tolist()
        [0.0, 0.25, 0.125]
        """
        checked = checked_levels(levels, chances)
        return cls(mean_rewards(*checked), prompt_ids, "step", *checked)

    @property
    def n_prompts(self) -> int:
        """Prompts in the pool."""
        return int(self.rates.shape[1])

    @property
    def static(self) -> bool:
        """Whether the rates stay the same over all stages."""
        return bool((self.rates == self.rates[0]).all())

    def bank(
        self, *, prior: tuple[npt.ArrayLike, npt.ArrayLike] = (1.0, 1.0), forgetting: float = 1.0
    ) -> BetaPosteriorBank:
        """Return a bank over these prompts without evidence.

        Parameters
        ----------
        prior : pair of floats, or of two array_like with shape (n_prompts,)
            Beta parameters, in pseudo-rollouts, as in :class:`~cero_alloc.BetaPosteriorBank`.
        forgetting : float, in (0, 1]
            Share of the evidence that survives a round.

        Returns
        -------
        BetaPosteriorBank
            With the ids of the pool.

        Raises
        ------
        ValueError, TypeError
            As :class:`~cero_alloc.BetaPosteriorBank`.

        Examples
        --------
        >>> Pool([0.2, 0.7], prompt_ids=["a", "b"]).bank(forgetting=0.9).mean().tolist()
        [0.5, 0.5]
        """
        return BetaPosteriorBank(
            self.n_prompts if self.prompt_ids is None else self.prompt_ids, prior=prior, forgetting=forgetting
        )

    def at(self, k: int, n_rounds: int) -> FloatArray:
        """Return the success rates, or mean rewards, in one round of a run.

        Parameters
        ----------
        k : int, in [0, n_rounds)
            Round, counted from 0.
        n_rounds : int, at least 1
            Rounds of the run; the stages are spread over them.

        Returns
        -------
        numpy.ndarray of float64, shape (n_prompts,)
            Success rates or mean rewards, in [0, 1].

        Raises
        ------
        ValueError, TypeError
            For a round outside the run, or a run without rounds.

        Examples
        --------
        >>> Pool([[0.2, 0.7], [0.4, 0.7]]).at(2, n_rounds=4).tolist()
        [0.4, 0.7]
        """
        n_rounds = integer("n_rounds", n_rounds, least=1, remedy="Count the rounds of the run.")
        k = integer("k", k, least=0, most=n_rounds - 1, remedy="Count the rounds from 0.")
        stages = len(self.rates)
        if self.path == "step" or stages == 1 or n_rounds == 1:
            low, weight = k * stages // n_rounds, 0.0
        else:
            place = k * (stages - 1) / (n_rounds - 1)
            low = min(int(place), stages - 2)
            weight = place - low
        start: FloatArray = self.rates[low]
        return start if weight == 0.0 else (1.0 - weight) * start + weight * self.rates[low + 1]

    def values(self, k: int = 0, n_rounds: int = 1) -> FloatArray:
        """Return the true values in one round of a run: the variance of one reward of each prompt.

        Parameters
        ----------
        k : int, in [0, n_rounds)
            Round, counted from 0.
        n_rounds : int, at least 1
            Rounds of the run; the defaults give the values at its start.

        Returns
        -------
        numpy.ndarray of float64, shape (n_prompts,)
            Variances, in [0, 1/4]; p (1 - p) for rewards 0 and 1.

        Raises
        ------
        ValueError, TypeError
            As :meth:`at`.

        Examples
        --------
        >>> Pool([[0.5, 0.0], [1.0, 0.5]]).values(1, n_rounds=2).tolist()
        [0.0, 0.25]
        """
        p = self.at(k, n_rounds)
        if self.levels is None or self.chances is None:
            return p * (1.0 - p)
        return reward_variances(self.levels, self.chances)

    def sample(self, n_prompts: int, seed: int | np.random.Generator = 0) -> Pool:
        """Return a pool of prompts drawn from this one: without replacement, or with it if there are too few.

        Parameters
        ----------
        n_prompts : int, at least 1
            Prompts to draw.
        seed : int or numpy.random.Generator
            Draws the prompts.

        Returns
        -------
        Pool
            Its ids are 0 .. n_prompts - 1.

        Raises
        ------
        ValueError, TypeError
            For a number that is not an integer of at least 1, or an invalid seed.

        Examples
        --------
        >>> Pool([0.2, 0.7, 0.9]).sample(2, seed=0).n_prompts
        2
        """
        size = integer("n_prompts", n_prompts, least=1, remedy="Count from 1.")
        chosen = generator(seed).choice(self.n_prompts, size, replace=size > self.n_prompts)
        chances = None if self.chances is None else self.chances[chosen]
        return Pool(self.rates[:, chosen], None, self.path, self.levels, chances)

    def drifted(self, drift: float, seed: int | np.random.Generator = 0) -> Pool:
        r"""Return a pool whose rates move linearly from this pool's first stage, each prompt by its own logit shift.

        .. math:: p_i \to \sigma(\text{logit} \, p_i + |\varepsilon_i|), \qquad \varepsilon_i \sim N(0, \text{drift}^2)

        This models training that helps every prompt by a different amount: solved prompts stay solved, and some unsolved
        prompts become solvable.

        Parameters
        ----------
        drift : float, at least 0
            Standard deviation of :math:`\varepsilon_i`, in logits over the whole run.
        seed : int or numpy.random.Generator
            Draws the shifts.

        Returns
        -------
        Pool
            Two stages on a "linear" path, with the ids of this pool.

        Raises
        ------
        ValueError, TypeError
            For a drift that is not a finite number of at least 0, an invalid seed, or a pool of levels, whose chances a
            shift of one logit does not determine.

        Examples
        --------
        >>> pool = Pool([0.5, 1.0]).drifted(1.0, seed=0)
        >>> pool.at(9, 10).round(3).tolist()
        [0.531, 1.0]
        """
        drift = real("drift", drift, low=0.0, high=np.inf, remedy="Give a standard deviation of logits.")
        if self.levels is not None:
            remedy = "Let success rates of the same means drift: Pool(pool.rates).drifted(...)."
            raise ValueError(error_text("levels", "be None in a pool that drifts", self.levels.tolist(), remedy))
        start = np.clip(self.rates[0], 1e-12, 1.0 - 1e-12)
        logit = np.log(start) - np.log1p(-start) + np.abs(generator(seed).normal(0.0, drift, start.size))
        return Pool(np.stack([start, 1.0 / (1.0 + np.exp(-logit))]), self.prompt_ids, "linear")


def static_pool(n_prompts: int, a: float = 1.0, b: float = 1.0, *, seed: int | np.random.Generator = 0) -> Pool:
    """Return a pool whose rates are drawn once from Beta(a, b) and stay fixed.

    Parameters
    ----------
    n_prompts : int, at least 1
        Prompts of the pool.
    a, b : float, greater than 0
        Parameters of the Beta distribution of the success rates, whose mean is a / (a + b).
    seed : int or numpy.random.Generator
        Draws the rates.

    Returns
    -------
    Pool
        With one stage, its ids 0 .. n_prompts - 1.

    Raises
    ------
    ValueError, TypeError
        For a number of prompts that is not an integer of at least 1, parameters that are not positive finite numbers, or
        an invalid seed.

    Examples
    --------
    >>> static_pool(3, seed=0).n_prompts
    3
    """
    return Pool(_drawn(n_prompts, a, b, generator(seed)))


def _drawn(n_prompts: SupportsIndex, a: float, b: float, rng: np.random.Generator) -> FloatArray:
    """Draw success rates from Beta(a, b)."""
    size = integer("n_prompts", n_prompts, least=1, remedy="Count from 1.")
    a, b = (
        real(name, side, low=0.0, high=np.inf, open_low=True, remedy="Beta parameters are positive.")
        for name, side in (("a", a), ("b", b))
    )
    return rng.beta(a, b, size)


def drifting_pool(
    n_prompts: int, a: float = 1.0, b: float = 1.0, *, drift: float = 1.0, seed: int | np.random.Generator = 0
) -> Pool:
    """Return a pool whose rates start at draws from Beta(a, b) and move as in :meth:`Pool.drifted`.

    Parameters
    ----------
    n_prompts : int, at least 1
        Prompts of the pool.
    a, b : float, greater than 0
        Parameters of the Beta distribution of the initial success rates.
    drift : float, at least 0
        Standard deviation of each prompt's shift over the run, in logits.
    seed : int or numpy.random.Generator
        Draws rates and shifts.

    Returns
    -------
    Pool
        With two stages on a "linear" path, its ids 0 .. n_prompts - 1.

    Raises
    ------
    ValueError, TypeError
        As :func:`static_pool`, and for a drift that is not a finite number of at least 0.

    Examples
    --------
    >>> pool = drifting_pool(3, drift=2.0, seed=0)
    >>> bool((pool.at(9, 10) >= pool.at(0, 10)).all())
    True
    """
    rng = generator(seed)
    return Pool(_drawn(n_prompts, a, b, rng)).drifted(drift, rng)


def epoch_batches(
    n_prompts: SupportsIndex, batch_size: SupportsIndex, n_epochs: SupportsIndex, *, seed: int | np.random.Generator = 0
) -> list[IntArray]:
    """Return the batches of a data loader that shuffles the pool every epoch; an epoch's last batch may be smaller.

    Parameters
    ----------
    n_prompts, batch_size, n_epochs : int, at least 1
        Prompts of the pool, prompts per batch, and passes over the pool.
    seed : int or numpy.random.Generator
        Draws the orders.

    Returns
    -------
    list of numpy.ndarray of int64, shape (batch_size,) or smaller
        Rows of the pool, one array per batch.

    Raises
    ------
    ValueError, TypeError
        For sizes that are not integers of at least 1.

    Examples
    --------
    >>> [batch.size for batch in epoch_batches(5, 2, 2)]
    [2, 2, 1, 2, 2, 1]
    """
    size, step, epochs = (
        integer(name, value, least=1, remedy="Count from 1.")
        for name, value in (("n_prompts", n_prompts), ("batch_size", batch_size), ("n_epochs", n_epochs))
    )
    rng = generator(seed)
    orders = (rng.permutation(size) for _ in range(epochs))
    return [order[i : i + step] for order in orders for i in range(0, size, step)]


def known_bank(pool: Pool) -> BetaPosteriorBank:
    """Return a clairvoyant bank: its prior is concentrated on the first-stage rates, so that no run can move it.

    For a pool of levels it holds the mean rewards and the true variances.

    Parameters
    ----------
    pool : Pool
        Supplies ids and rates.

    Returns
    -------
    BetaPosteriorBank
        With a prior of 1e15 pseudo-rollouts per prompt.

    Raises
    ------
    TypeError
        For a pool that is not a :class:`Pool`.

    Examples
    --------
    >>> known_bank(Pool([0.5, 0.9])).value().round(6).tolist()
    [0.25, 0.09]
    >>> known_bank(Pool.of_levels([0, 0.5, 1], [[0, 1, 0], [0.25, 0.5, 0.25]])).value().round(6).tolist()
    [0.0, 0.125]
    """
    instance("pool", pool, Pool, "Draw one with static_pool(...).")
    p = pool.rates[0]
    tiny = 1e-300  # a Beta parameter must be positive
    bank = pool.bank(prior=(np.maximum(p, tiny) * _KNOWN, np.maximum(1.0 - p, tiny) * _KNOWN))
    if pool.levels is not None:  # a prior alone implies the variance of 0/1 rewards: store the difference
        bank.evidence.deficits = _KNOWN * np.maximum(p * (1.0 - p) - pool.values(), 0.0)
    return bank
