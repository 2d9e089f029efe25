"""A pool whose success rates rise where it is trained: they are a state of the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, counts, error_text, integer, pool_rows, real, successes

from ._pool import Pool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TrainedPool(Pool):
    r"""A pool that improves only where it is trained: rollouts in mixed groups raise the log-odds of success.

    After a round in which prompt i has :math:`m_i` rollouts in a mixed group (0 if its rewards are all alike),

    .. math:: \text{logit} \, p_i \leftarrow \text{logit} \, p_i + \text{gain} \,
        \bigl(m_i + \text{transfer} \, (m_{i-1} + m_{i+1})\bigr),

    where the first and the last prompt are neighbours too. So what a policy deals decides which rates the next round has.
    No optimum is known for such a run; compare the success rates at its end.

    Parameters
    ----------
    rates : array_like of float, shape (n_prompts,)
        Success probabilities before training. 0 and 1 stay as they are.
    prompt_ids : sequence of hashable, or None
        Ids in column order; None means 0 .. n_prompts - 1.
    path : {"step", "linear"}
        As in :class:`Pool`; without effect, because the rates have one stage.
    levels : array_like of float, shape (n_levels,), or None
        Must be None: rewards are 0 and 1.
    chances : array_like of float, shape (n_prompts, n_levels), or None
        Probability of each level; must be None.
    gain : float, at least 0
        Log-odds per rollout of the prompt itself.
    transfer : float, in [0, 1]
        Share of the gain that either neighbour gets.

    Raises
    ------
    ValueError
        For rates outside [0, 1] or more than one row of them, a wrong number of ids, levels, or a gain or transfer out of
        range.
    TypeError
        For anything but numbers, or ids without a length.

    Notes
    -----
    The rates are the state of one run: every policy needs a :meth:`fresh` pool, which
    :func:`~cero_alloc.simulation.simulate` trains round by round.

    References
    ----------
    Groups with rewards all alike have no gradient: GRPO, arXiv 2402.03300.

    Examples
    --------
    >>> pool = TrainedPool([0.5, 0.5, 0.5, 0.0], gain=0.1, transfer=0.2)
    >>> pool.train([0, 1], successes=[4, 8], rollouts=[8, 8])
    >>> pool.now.round(3).tolist()
    [0.69, 0.54, 0.5, 0.0]
    >>> pool.fresh().now.tolist()
    [0.5, 0.5, 0.5, 0.0]
    """

    _SHOWN: ClassVar[tuple[str, ...]] = ("n_prompts", "gain", "transfer")

    gain: float = field(default=1 / 32, kw_only=True)
    transfer: float = field(default=0.1, kw_only=True)
    _states: list[FloatArray] = field(default_factory=list, init=False, repr=False)  # rates of every round so far

    def __post_init__(self) -> None:
        Pool.__post_init__(self)
        if len(self.rates) != 1:
            raise ValueError(error_text("rates", "have one row", self.rates.shape, "Training moves them from there."))
        if self.levels is not None:
            raise ValueError(error_text("levels", "be None", self.levels.tolist(), "Train pools of success rates."))
        gain = real("gain", self.gain, low=0.0, high=np.inf, remedy="Give log-odds per rollout.")
        transfer = real("transfer", self.transfer, low=0.0, high=1.0, remedy="Give a share of the gain.")
        object.__setattr__(self, "gain", gain)
        object.__setattr__(self, "transfer", transfer)
        self._states.append(self.rates[0])

    @property
    def static(self) -> bool:
        """False: training moves the rates."""
        return False

    @property
    def now(self) -> FloatArray:
        """Success rates after the training so far; shape (n_prompts,)."""
        return self._states[-1].copy()

    @property
    def rounds(self) -> int:
        """Rounds trained."""
        return len(self._states) - 1

    def fresh(self) -> TrainedPool:
        """Return the same pool before any training.

        Returns
        -------
        TrainedPool
            With a state of its own.

        Examples
        --------
        >>> TrainedPool([0.5]).fresh().rounds
        0
        """
        return TrainedPool(self.rates[0], self.prompt_ids, gain=self.gain, transfer=self.transfer)

    def at(self, k: int, n_rounds: int) -> FloatArray:
        """Return the success rates in a round up to the present one.

        Parameters
        ----------
        k : int, in [0, n_rounds), at most the rounds trained
            Round, counted from 0.
        n_rounds : int, at least 1
            Rounds of the run.

        Returns
        -------
        numpy.ndarray of float64, shape (n_prompts,)
            Success rates, in [0, 1].

        Raises
        ------
        ValueError, TypeError
            For a round outside the run or beyond the present one.

        Examples
        --------
        >>> pool = TrainedPool([0.5], gain=0.1)
        >>> pool.train(None, successes=[4], rollouts=[8])
        >>> pool.at(0, 2).tolist(), pool.at(1, 2).round(2).tolist()
        ([0.5], [0.72])
        """
        n_rounds = integer("n_rounds", n_rounds, least=1, remedy="Count the rounds of the run.")
        most = min(n_rounds - 1, self.rounds)
        return self._states[integer("k", k, least=0, most=most, remedy="Count from 0; train first.")].copy()

    def train(self, rows: npt.ArrayLike | None, successes: npt.ArrayLike, rollouts: npt.ArrayLike) -> None:
        """End a round: raise the rates by what it dealt.

        Parameters
        ----------
        rows : array_like of int, shape (n_rows,), or None
            Prompts, each once; None means all.
        successes : array_like of float, shape (n_rows,)
            Successful rollouts of each prompt in the round, in [0, rollouts].
        rollouts : array_like of int, shape (n_rows,)
            Rollouts of each prompt in the round.

        Raises
        ------
        ValueError, TypeError
            For rows outside the pool or repeated, and for counts that are not integers of at least 0, or are exceeded by
            successes. Nothing has changed.

        Examples
        --------
        >>> pool = TrainedPool([0.5], gain=0.1)
        >>> pool.train([0], successes=[0], rollouts=[8])
        >>> pool.now.tolist(), pool.rounds
        ([0.5], 1)
        """
        at = np.arange(self.n_prompts) if rows is None else pool_rows("rows", rows, self.n_prompts)
        if np.unique(at).size != at.size:
            raise ValueError(error_text("rows", "be distinct", at.tolist(), "Sum the counts of a prompt."))
        n, won = _counted(at, successes, rollouts)
        mixed = np.zeros(self.n_prompts)
        mixed[at] = np.where((won > 0.0) & (won < n), n, 0.0)
        step = self.gain * (mixed + self.transfer * (np.roll(mixed, 1) + np.roll(mixed, -1)))
        p = self._states[-1]
        odds = np.exp(-np.minimum(step, 700.0))  # of failure against success, as a share of what they were
        self._states.append(p / (p + (1.0 - p) * odds))


def _counted(at: npt.NDArray[np.int64], won: npt.ArrayLike, n: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return rollouts and successes, checked."""
    dealt, sums = counts("rollouts", n, at.size), successes("successes", won, at.size)
    for i in np.flatnonzero(~((sums >= 0.0) & (sums <= dealt)))[:1].tolist():
        condition = f"be between 0 and rollouts[{i}] = {dealt[i]}"
        raise ValueError(error_text("successes", condition, float(sums[i]), "Report the same round.", i))
    return dealt.astype(np.float64), sums
