"""Rules that follow the course of the training: AdaRFT's target difficulty, and the retirement of solved prompts."""

from __future__ import annotations

from typing import ClassVar, SupportsIndex, Unpack

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text, integer, real, reals
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._saving.state import Field

from ._base import COUNTS, VisitRun, size_of
from ._beliefs import RoundBelief

_NEVER = np.iinfo(np.int64).max


class AdaRFT(RoundBelief):
    r"""AdaRFT: visit the prompts nearest to a target difficulty, which rises while rewards are high.

    After each round with a mean reward R, the target difficulty moves,

    .. math:: T \leftarrow \text{clip}_{[0, 1]} \bigl( T + \eta \tanh(\alpha (R - \beta)) \bigr)

    and the next round visits the prompts with the smallest :math:`|d_i - T|`.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Evidence per prompt; the difficulty is one minus its posterior mean if no difficulties are given.
    difficulties : array_like of float, shape (n_prompts,), in [0, 1], or None
        :math:`d_i`, the share of a reference model's rollouts that fail.
    step : float, at least 0
        :math:`\eta`, the largest step of the target difficulty.
    sensitivity : float, at least 0
        :math:`\alpha`, per unit of reward.
    target : float, in [0, 1]
        Target success rate :math:`\beta`.
    initial_difficulty : float, in [0, 1]
        Target difficulty of the first round.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for numbers out of range or difficulties of another shape.

    Notes
    -----
    Deviations. The published difficulties are given and go from 0 to 100, with steps of 50; here they go from 0 to 1, and by
    default they follow the evidence. A round without rewards does not move the target. If a round's total is not a multiple
    of the group size, the visited prompts share it evenly.

    References
    ----------
    arXiv 2504.05520, AdaRFT, with a sensitivity of 2, a target of 0.5 and an initial difficulty of 0.

    Examples
    --------
    >>> policy = AdaRFT(BetaPosteriorBank(3), difficulties=[0.1, 0.4, 0.9], total_budget=16, n_rounds=2, max_rollouts=8)
    >>> counts = policy.allocate()
    >>> counts.tolist()
    [8, 0, 0]
    >>> policy.update(None, successes=counts, rollouts=counts)
    >>> policy.allocate().tolist()
    [0, 8, 0]
    """

    FIELDS: ClassVar[dict[str, Field]] = {
        **RoundBelief.FIELDS,
        "_difficulty": Field(must="be between 0 and 1", holds=lambda level, _: 0.0 <= level <= 1.0),
    }

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        difficulties: npt.ArrayLike | None = None,
        step: float = 0.5,
        sensitivity: float = 2.0,
        target: float = 0.5,
        initial_difficulty: float = 0.0,
        **run: Unpack[VisitRun],
    ) -> None:
        self._given_difficulties: FloatArray | None = None
        if difficulties is not None:
            remedy = "Give the share of failures of a reference model per prompt."
            self._given_difficulties = reals("difficulties", difficulties, low=0.0, high=1.0, remedy=remedy)
            shape = self._given_difficulties.shape
            if shape != (size_of(bank),):
                raise ValueError(error_text("difficulties", f"have shape ({size_of(bank)},)", shape, remedy))
        self._step = real("step", step, low=0.0, high=np.inf, remedy="The publication has 0.5.")
        self._sensitivity = real("sensitivity", sensitivity, low=0.0, high=np.inf, remedy="The publication has 2.")
        self._target = real("target", target, low=0.0, high=1.0, remedy="Give a success rate, such as 0.5.")
        remedy = "0.0 starts with the easiest prompts."
        self._difficulty = real("initial_difficulty", initial_difficulty, low=0.0, high=1.0, remedy=remedy)
        super().__init__(bank, **run)
        self._remember(
            difficulties=difficulties,
            step=step,
            sensitivity=sensitivity,
            target=target,
            initial_difficulty=initial_difficulty,
        )

    def _keys(self, rows: IntArray, total: int) -> FloatArray:
        given = self._given_difficulties
        difficulty = 1.0 - self.bank.evidence.means(rows) if given is None else given[rows]
        keys: FloatArray = -np.abs(difficulty - self._difficulty)
        return keys

    def _end_round(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        if rows.size:
            excess = float(successes.sum() / rollouts.sum()) - self._target
            moved = self._difficulty + self._step * np.tanh(self._sensitivity * excess)
            self._difficulty = float(np.clip(moved, 0.0, 1.0))


class NoPositiveResampling(RoundBelief):
    """No positive resampling: epochs over the prompts, without those that were solved at their latest visit.

    A prompt whose visit has a pass rate of ``retire_at`` or more is retired. After ``review`` rounds it is on offer again,
    and its next visit decides anew.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the evidence is updated but not used.
    retire_at : float, in [0, 1]
        Smallest pass rate of a visit that retires the prompt.
    review : int or None
        Rounds for which a retired prompt is left out; None leaves it out for good, as published.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for a pass rate out of range or a review below 1.

    Notes
    -----
    Deviations. The publications retire prompts for good. Here they are reviewed by default, because about a fifth of the
    solved prompts are found unsolved later; the default of 16 rounds is this package's. If fewer prompts are left than the
    round needs, retired ones are added in the order of epochs.

    References
    ----------
    arXiv 2510.13786, ScaleRL, which retires at a pass rate of 0.9; POLARIS does the like.

    Examples
    --------
    >>> policy = NoPositiveResampling(BetaPosteriorBank(3), total_budget=48, n_rounds=3, max_rollouts=8)
    >>> policy.update(None, successes=[8, 4, 0], rollouts=[8, 8, 8])
    >>> policy.allocate().tolist()
    [0, 8, 8]
    """

    title = "no positive resampling"
    least_rollouts = 2
    FIELDS: ClassVar[dict[str, Field]] = {**RoundBelief.FIELDS, "_due": COUNTS}

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        retire_at: float = 0.9,
        review: SupportsIndex | None = 16,
        **run: Unpack[VisitRun],
    ) -> None:
        self._retire_at = real("retire_at", retire_at, low=0.0, high=1.0, remedy="Give a pass rate, such as 0.9.")
        remedy = "None retires for good."
        self._review = None if review is None else integer("review", review, least=1, remedy=remedy, most=2**31)
        self._due = np.zeros(size_of(bank), dtype=np.int64)  # the first round that may visit the prompt again
        super().__init__(bank, **run)
        self._remember(retire_at=retire_at, review=review)

    def _keys(self, rows: IntArray, total: int) -> FloatArray:
        retired = self._due[rows] > self.ledger.round
        keys: FloatArray = -self._visits[rows] - retired * (1.0 + self._visits.max())
        return keys

    def _end_round(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        due = _NEVER if self._review is None else self.ledger.round + self._review
        self._due[rows] = np.where(successes / rollouts >= self._retire_at, due, 0)
