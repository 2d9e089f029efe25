"""Pools of prompts with known success rates: drawn at random, drifting, or measured."""

from __future__ import annotations

import csv
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text, generator, instance, integer, real, reals
from cero_alloc._evidence.bank import BetaPosteriorBank

_KNOWN = 1e15  # pseudo-rollouts: no run has enough evidence to move this prior


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """True success rates of a pool of prompts during a run.

    Parameters
    ----------
    rates : array_like of float, shape (n_stages, n_prompts) or (n_prompts,)
        Success probabilities, one row per stage of the run.
    prompt_ids : sequence of hashable, or None
        Ids in column order; None means 0 .. n_prompts - 1.
    path : {"step", "linear"}
        "step": the rates jump from stage to stage, and all stages last equally long. "linear": the rates are interpolated
        linearly between the stages.

    Raises
    ------
    ValueError
        For rates outside [0, 1], a wrong shape or number of ids, or an unknown path.
    TypeError
        For rates that are not numbers, or ids without a length.

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
        """Return the success rates in one round of a run.

        Parameters
        ----------
        k : int, in [0, n_rounds)
            Round, counted from 0.
        n_rounds : int, at least 1
            Rounds of the run; the stages are spread over them.

        Returns
        -------
        numpy.ndarray of float64, shape (n_prompts,)
            Success rates, in [0, 1].

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
        return Pool(self.rates[:, chosen], None, self.path)

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
            For a drift that is not a finite number of at least 0, or an invalid seed.

        Examples
        --------
        >>> pool = Pool([0.5, 1.0]).drifted(1.0, seed=0)
        >>> pool.at(9, 10).round(3).tolist()
        [0.531, 1.0]
        """
        drift = real("drift", drift, low=0.0, high=np.inf, remedy="Give a standard deviation of logits.")
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


def load_counts(file: str | FilePath, *, path: Literal["step", "linear"] = "step") -> Pool:
    r"""Read measured success counts and take successes / trials per prompt and epoch as the true rates of a pool.

    Parameters
    ----------
    file : str or path
        CSV with the columns ``prompt_id,epoch,trials,successes``. The epochs, in ascending order, become the stages of the
        pool.
    path : {"step", "linear"}
        As in :class:`Pool`.

    Returns
    -------
    Pool
        With the ids of the file, in order of first appearance.

    Raises
    ------
    ValueError
        For missing columns, a bad or repeated line (the message names it), or a prompt without a line for some epoch.
    TypeError
        For a file that is not a path.
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
    """Return a clairvoyant bank: its prior is concentrated on the first-stage rates, so that no run can move it.

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
    """
    instance("pool", pool, Pool, "Draw one with static_pool(...).")
    p = pool.rates[0]
    tiny = 1e-300  # a Beta parameter must be positive
    return pool.bank(prior=(np.maximum(p, tiny) * _KNOWN, np.maximum(1.0 - p, tiny) * _KNOWN))
