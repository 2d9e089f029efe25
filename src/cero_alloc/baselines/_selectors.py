"""Rules that select prompts and deal the same count to each: MoPPS, GRESO and BOTS."""

from __future__ import annotations

from typing import ClassVar, Unpack

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, error_text, real, reals
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._saving.state import Field

from ._base import COUNTS, Baseline, RoundTally, VisitRun, size_of

_NO_GAP = 0.01  # between the mean rates of the reference models: dividing by less would only amplify noise


class FadingEvidence(Baseline):
    """Visit the prompts with the largest keys; the rule keeps its own evidence, which ages with visits only."""

    kind = "selects"
    least_rollouts = 2
    FIELDS: ClassVar[dict[str, Field]] = {**Baseline.FIELDS, "_won": COUNTS, "_lost": COUNTS}

    def __init__(self, bank: BetaPosteriorBank, *, forgetting: float, **run: Unpack[VisitRun]) -> None:
        remedy = "1.0 keeps all evidence."
        self._forgetting = real("forgetting", forgetting, low=0.0, high=1.0, open_low=True, remedy=remedy)
        self._won, self._lost = np.zeros(size_of(bank)), np.zeros(size_of(bank))
        super().__init__(bank, **run)
        self._remember(forgetting=forgetting)

    def _keys(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Return the keys of prompts whose success rates have the posteriors Beta(a, b)."""
        raise NotImplementedError

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        a, b = self.bank.evidence.prior(rows)
        units = self._to_first(self._keys(a + self._won[rows], b + self._lost[rows]), rows, total)
        visited = rows[units > 0]
        self._won[visited] *= self._forgetting
        self._lost[visited] *= self._forgetting
        return units

    def _learn(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        self._won[rows] += successes
        self._lost[rows] += rollouts - successes


class MoPPS(FadingEvidence):
    r"""MoPPS: Thompson sampling of prompts with success rates near one half.

    Draw :math:`r_i \sim \text{Beta}(a_i, b_i)` and visit the prompts with the smallest :math:`(r_i - 0.5)^2`. A visited
    prompt's evidence decays before its rewards are added, :math:`a \leftarrow \lambda a + (1 - \lambda) a_0 + S`.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and prior; the rule keeps its own evidence, which ages with visits only.
    forgetting : float, in (0, 1]
        Share :math:`\lambda` of the evidence that survives a visit: 1 as published for MATH, 0.5 for Countdown.
    target : float, in [0, 1]
        Target success rate.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, rollouts_per_visit, seed as in
        :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for a forgetting or target out of range.

    Notes
    -----
    Deviations. In the publication the candidates are a random subset of the pool, 8 to 16 times the batch; here they are
    the prompts on offer. If a round's total is not a multiple of the group size, the visited prompts share it evenly.

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

    def __init__(
        self, bank: BetaPosteriorBank, *, forgetting: float = 1.0, target: float = 0.5, **run: Unpack[VisitRun]
    ) -> None:
        self._target = real("target", target, low=0.0, high=1.0, remedy="Give a success rate, such as 0.5.")
        super().__init__(bank, forgetting=forgetting, **run)
        self._remember(target=target)

    def _keys(self, a: FloatArray, b: FloatArray) -> FloatArray:
        distance: FloatArray = self._rng.beta(a, b) - self._target
        return -(distance**2)


class GRESO(Baseline):
    r"""GRESO: skip prompts whose latest visits were all right or all wrong, more likely with every such visit.

    A prompt is kept with probability :math:`\max(p_e^z, 0.01)`, where z is the number of latest visits in a row that were
    all right (easy prompts) or all wrong (hard prompts). Either kind has its own :math:`p_e`, which changes by 0.01 after
    each round within [0.05, 0.95]: down if the share of such groups is at least its target, up if not.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the rule keeps its own counts of dead visits.
    keep : float, in [0.05, 0.95]
        Initial :math:`p_e`, the probability that a prompt of either kind is kept.
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
    Deviations. The published program also discards dead groups and samples again, as :class:`DAPO` does; here only the
    filter is used, because those rollouts would count as spent. Prompts come in the order of epochs; if the filter keeps
    fewer than the round needs, skipped prompts are added in the same order. The probabilities change after rounds that
    visited a prompt again. Visits that are reported together count as one.

    References
    ----------
    arXiv 2506.02177, GRESO; the targets 1/12 and 1/6, the initial 0.5 and the bounds are from its program.

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
    FIELDS: ClassVar[dict[str, Field]] = {**Baseline.FIELDS, "_tally": Field(), "_runs": COUNTS, "_keep": COUNTS}

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
        self._remember(keep=keep, targets=targets)

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        self._take_round()
        kept = self._rng.random((2, rows.size)) < np.maximum(self._keep[:, None] ** self._runs[:, rows], 0.01)
        skipped = ~kept.all(axis=0)
        epoch = self._visits[rows].astype(np.float64) + skipped * (1.0 + self._visits.max())
        return self._to_first(-epoch, rows, total)

    def _take_round(self) -> None:
        """Update the runs of dead visits by the rewards since the last round, and then the probabilities."""
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
    r"""BOTS: Thompson sampling near a target rate, with forgetting and pseudo-evidence from two reference models.

    Every round, for every prompt,

    .. math:: a \leftarrow (1 - \lambda) a + \lambda a_0 + (1 - \rho) S + \rho \tilde S, \qquad
        \tilde S = S \text{ if visited, } n \tilde p \text{ if not}

    and likewise b. :math:`\tilde p = w + \tilde\mu (g - w)` interpolates between the success rates of a weak and a strong
    reference model; :math:`\tilde\mu` is a moving average of the position of the round's rewards between the two.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and prior; the rule keeps its own evidence.
    forgetting : float, in [0, 1]
        :math:`1 - \lambda`, the share of the evidence that survives a round; 1 keeps everything.
    reference_rate : float, in [0, 1]
        :math:`\rho`, the share of the references in the evidence that a round adds.
    references : tuple of two array_like of float, shape (n_prompts,), or None
        Success rates of the weak and the strong model; None uses no references, with :math:`\rho = 0`.
    target : float, in [0, 1]
        Target success rate.
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
    The prompts with the best draws are visited, without the published softmax and its temperature. A round whose references
    differ by less than 0.01 on average does not change the moving average.

    References
    ----------
    arXiv 2510.26374, BOTS, with lambda = rho = 0.1 and target 0.5.

    Examples
    --------
    >>> references = [0.0, 0.2, 0.9], [0.1, 0.8, 1.0]
    >>> policy = BOTS(BetaPosteriorBank(3), references=references, total_budget=16, n_rounds=2, max_rollouts=8)
    >>> sorted(policy.allocate().tolist())
    [0, 0, 8]
    """

    kind = "selects"
    least_rollouts = 2
    FIELDS: ClassVar[dict[str, Field]] = {
        **Baseline.FIELDS,
        "_tally": Field(),
        "_won": COUNTS,
        "_lost": COUNTS,
        "_progress": Field(when_set=0.0),
    }

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
        self._remember(forgetting=forgetting, reference_rate=reference_rate, references=references, target=target)

    def _deal(self, rows: IntArray, total: int) -> IntArray:
        self._take_round()
        a, b = self.bank.evidence.prior(rows)
        drawn = self._rng.beta(a + self._won[rows], b + self._lost[rows])
        return self._to_first(-np.abs(drawn - self._target), rows, total)

    def _take_round(self) -> None:
        """Age all evidence by one round and add the evidence of the round."""
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
