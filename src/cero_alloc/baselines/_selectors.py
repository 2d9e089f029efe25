"""Rules that pick prompts and give each the same count: MoPPS, GRESO and BOTS."""

from __future__ import annotations

from typing import ClassVar, Unpack

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text, real, reals
from cero_alloc._evidence.bank import BetaPosteriorBank

from ._base import Baseline, RoundTally, VisitRun, size_of

_NO_GAP = 0.01  # of two reference models: to divide by less would only blow up the noise


class MoPPS(Baseline):
    r"""MoPPS: Thompson sampling for prompts whose success rate is nearest to one half.

    Draw :math:`r_i \sim \text{Beta}(a_i, b_i)` and visit the prompts with the smallest :math:`(r_i - .5)^2`. A visited
    prompt's evidence decays before its rewards are added, :math:`a \leftarrow \lambda a + (1 - \lambda) a_0 + S`.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and prior; the rule keeps evidence of its own, since only visits age it.
    forgetting : float, in (0, 1]
        Share :math:`\lambda` of the evidence that survives a visit: 1 as published for MATH, .5 for Countdown.
    target : float, in [0, 1]
        Success rate sought.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for a forgetting or target out of range.

    Notes
    -----
    Deviations. As published the candidates are a random part of the pool, 8 to 16 times the batch; here they are the
    prompts on offer. Where a round's total is not a multiple of the group, the visited prompts share it evenly.

    References
    ----------
    arXiv 2507.04632, MoPPS.

    Examples
    --------
    >>> policy = MoPPS(BetaPosteriorBank(3), total_budget=16, n_rounds=1, max_rollouts=8)
    >>> policy.update(None, successes=[20, 0, 40], rollouts=[40, 40, 40])
    >>> int(policy.allocate()[0])
    8
    """

    kind = "selects"
    least_rollouts = 2
    _STATE: ClassVar[tuple[str, ...]] = (*Baseline._STATE, "_won", "_lost")

    def __init__(
        self, bank: BetaPosteriorBank, *, forgetting: float = 1.0, target: float = 0.5, **run: Unpack[VisitRun]
    ) -> None:
        remedy = "1.0 never forgets."
        self._forgetting = real("forgetting", forgetting, low=0.0, high=1.0, open_low=True, remedy=remedy)
        self._target = real("target", target, low=0.0, high=1.0, remedy="Give a success rate, such as 0.5.")
        self._won, self._lost = np.zeros(size_of(bank)), np.zeros(size_of(bank))
        super().__init__(bank, **run)

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        a, b = self.bank._prior(rows)
        drawn = self._rng.beta(a + self._won[rows], b + self._lost[rows])
        units = self._to_first(-((drawn - self._target) ** 2), rows, total)
        visited = rows[units > 0]
        self._won[visited] *= self._forgetting
        self._lost[visited] *= self._forgetting
        return units

    def _learn(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        self._won[rows] += successes
        self._lost[rows] += rollouts - successes


class GRESO(Baseline):
    r"""GRESO: skip prompts whose latest visits were all right or all wrong, the surer the longer that lasts.

    A prompt is kept with probability :math:`\max(p_e^z, .01)`, z its run of latest visits that were all right (with
    :math:`p_e` for the easy) or all wrong (for the hard). After each round :math:`p_e` moves by .01, down where the share
    of such groups is at least its target, up where it is not, within [.05, .95].

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the rule uses its own runs.
    keep : float, in [.05, .95]
        First :math:`p_e`, the probability that a prompt of either kind is kept.
    targets : tuple of two floats, in [0, 1]
        Target shares of all-right and all-wrong groups.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for probabilities out of range.

    Notes
    -----
    Deviations. As published the program also drops dead groups after the fact and samples again, as
    :class:`DAPO` does: those rollouts would count here, so the filter stands alone. Prompts come in the order of epochs;
    where the filter keeps fewer than the round needs, skipped ones fill it in the same order. The probabilities move
    after rounds that visited a prompt again. Visits that are reported together count as one.

    References
    ----------
    arXiv 2506.02177, GRESO; the targets 1/12 and 1/6, the first .5 and the bounds are its program's.

    Examples
    --------
    >>> policy = GRESO(BetaPosteriorBank(4), total_budget=64, n_rounds=4, max_rollouts=8)
    >>> counts = policy.allocate()
    >>> policy.update(None, successes=counts // 2, rollouts=counts)
    >>> sorted(policy.allocate().tolist())
    [0, 0, 8, 8]
    """

    kind = "selects"
    least_rollouts = 2
    _STATE: ClassVar[tuple[str, ...]] = (*Baseline._STATE, "_tally", "_runs", "_keep")

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        keep: float = 0.5,
        targets: tuple[float, float] = (1.0 / 12.0, 1.0 / 6.0),
        **run: Unpack[VisitRun],
    ) -> None:
        first = real("keep", keep, low=0.05, high=0.95, remedy="The publication starts at 0.5.")
        self._targets = reals("targets", targets, low=0.0, high=1.0, remedy="Give (all right, all wrong).")
        if self._targets.shape != (2,):
            raise ValueError(error_text("targets", "be a pair", targets, "Give (all right, all wrong)."))
        self._keep = np.array([first, first])  # of easy and hard prompts
        self._runs = np.zeros((2, size_of(bank)), dtype=np.int64)  # latest visits in a row: all right, all wrong
        self._tally = RoundTally(size_of(bank))
        super().__init__(bank, **run)

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        self._close()
        kept = self._rng.random((2, rows.size)) < np.maximum(self._keep[:, None] ** self._runs[:, rows], 0.01)
        skipped = ~kept.all(axis=0)
        epoch = self._visits[rows].astype(np.float64) + skipped * (1.0 + self._visits.max())
        return self._to_first(-epoch, rows, total)

    def _close(self) -> None:
        """Lengthen or end the runs of the prompts seen since the last round, and move the probabilities."""
        rows, successes, rollouts = self._tally.take()
        if rows.size == 0:
            return
        dead = np.stack([successes == rollouts, successes == 0.0])
        self._runs[:, rows] = np.where(dead, self._runs[:, rows] + 1, 0)
        if self._visits[rows].max() > 1:  # the second epoch
            step = np.where(dead.mean(axis=1) >= self._targets, -0.01, 0.01)
            self._keep = np.clip(self._keep + step, 0.05, 0.95)

    def _learn(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        self._tally.add(rows, successes, rollouts)


class BOTS(Baseline):
    r"""BOTS: Thompson sampling near a target rate, with forgetting, and evidence from reference models for the unseen.

    Every round, for every prompt,

    .. math:: a \leftarrow (1 - \lambda) a + \lambda a_0 + (1 - \rho) S + \rho \tilde S, \qquad
        \tilde S = S \text{ where visited, else } n \tilde p

    and likewise b; :math:`\tilde p = w + \tilde\mu (g - w)` lies between the success rates of a weak and a strong
    reference model, where :math:`\tilde\mu` is the moving average of how far the round's prompts have come.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and prior; the rule keeps evidence of its own.
    forgetting : float, in [0, 1]
        :math:`1 - \lambda`, the share of the evidence that survives a round; 1 keeps everything.
    reference_rate : float, in [0, 1]
        :math:`\rho`, the share of the references in what a round adds.
    references : tuple of two array_like of float, shape (n_prompts,), or None
        Success rates of the weak and the strong model; None has none, and :math:`\rho` is then 0.
    target : float, in [0, 1]
        Success rate sought.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for rates out of range.

    Notes
    -----
    Deviations. The published pseudo-count of a reference is the group size m = 16; here it is ``rollouts_per_visit``.
    The best draws are visited; the published softmax with a temperature is not there. A round whose references differ by
    less than .01 on the mean says nothing of how far its prompts have come, and leaves the average as it is.

    References
    ----------
    arXiv 2510.26374, BOTS, with lambda = rho = .1 and target .5.

    Examples
    --------
    >>> references = [0.0, 0.2, 0.9], [0.1, 0.8, 1.0]
    >>> policy = BOTS(BetaPosteriorBank(3), references=references, total_budget=16, n_rounds=2, max_rollouts=8)
    >>> sorted(policy.allocate().tolist())
    [0, 0, 8]
    """

    kind = "selects"
    least_rollouts = 2
    _STATE: ClassVar[tuple[str, ...]] = (*Baseline._STATE, "_tally", "_won", "_lost", "_progress")
    _OPTIONAL: ClassVar[tuple[str, ...]] = ("_progress",)

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        forgetting: float = 0.9,
        reference_rate: float = 0.1,
        references: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        target: float = 0.5,
        **run: Unpack[VisitRun],
    ) -> None:
        share = "Give a share, such as 0.1."
        self._forgetting = real("forgetting", forgetting, low=0.0, high=1.0, remedy="1.0 keeps everything.")
        self._lean = real("reference_rate", reference_rate, low=0.0, high=1.0, remedy=share)
        self._target = real("target", target, low=0.0, high=1.0, remedy="Give a success rate, such as 0.5.")
        self._references: FloatArray | None = None
        if references is not None:
            remedy = "Give the success rates of the weak and of the strong model per prompt."
            if len(references) != 2:
                raise ValueError(error_text("references", "be a pair", references, remedy))
            pair = [reals(f"references[{i}]", x, low=0.0, high=1.0, remedy=remedy) for i, x in enumerate(references)]
            for i, rates in enumerate(pair):
                if rates.shape != (size_of(bank),):
                    condition = f"have shape ({size_of(bank)},)"
                    raise ValueError(error_text(f"references[{i}]", condition, rates.shape, remedy))
            self._references = np.stack(pair)
        self._progress: float | None = None  # from the weak model (0) to the strong one (1)
        self._won, self._lost = np.zeros(size_of(bank)), np.zeros(size_of(bank))
        self._tally = RoundTally(size_of(bank))
        super().__init__(bank, **run)

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        self._close()
        a, b = self.bank._prior(rows)
        drawn = self._rng.beta(a + self._won[rows], b + self._lost[rows])
        return self._to_first(-np.abs(drawn - self._target), rows, total)

    def _close(self) -> None:
        """Age all evidence by a round and add what the round has shown."""
        rows, successes, rollouts = self._tally.take()
        if self.ledger.round == 0 and rows.size == 0:  # nothing has happened yet
            return
        won, lost = np.zeros(self._won.size), np.zeros(self._won.size)
        if self._references is not None:
            weak, strong = self._references
            gap = float(strong[rows].mean() - weak[rows].mean()) if rows.size else 0.0
            if abs(gap) > _NO_GAP:
                come = float(np.mean(successes / rollouts) - weak[rows].mean()) / gap
                self._progress = come if self._progress is None else 0.9 * self._progress + 0.1 * come
            if self._progress is not None:
                guess = np.clip(weak + self._progress * (strong - weak), 0.0, 1.0)
                weight = self._lean * self._block * self.horizon.unit_size
                won, lost = weight * guess, weight * (1.0 - guess)
        won[rows], lost[rows] = successes, rollouts - successes
        self._won = self._forgetting * self._won + won
        self._lost = self._forgetting * self._lost + lost

    def _learn(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        self._tally.add(rows, successes, rollouts)
