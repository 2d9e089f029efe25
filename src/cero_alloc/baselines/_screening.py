"""Rules that screen prompts with a few rollouts and then sample some of them much more: SPEED-RL and Pilot-Commit."""

from __future__ import annotations

from typing import ClassVar, SupportsIndex, Unpack

import numpy as np
import numpy.typing as npt

from cero_alloc._allocators.waves import OpenWaves
from cero_alloc._checks import IntArray, error_text, real, reals
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._saving.state import Field

from ._base import Run, size_of
from ._waves import Waves


class TwoStage(Waves):
    """Screen prompts with a few rollouts, then deal many more to the promising ones while new prompts are screened."""

    takes_visits = False

    def __init__(
        self,
        bank: BetaPosteriorBank,
        first: tuple[str, SupportsIndex],
        more: tuple[str, SupportsIndex],
        **run: Unpack[Run],
    ) -> None:
        super().__init__(bank, **run)
        self._few, self._more = self._units(*first, 1), self._units(*more, 1)
        if self._few >= self.horizon.max_units:
            condition = f"exceed the {self._few * self.horizon.unit_size} rollouts of the first stage"
            raise ValueError(error_text("max_rollouts", condition, self.horizon.max_rollouts, "Raise it."))
        self._more = min(self._more, self.horizon.max_units - self._few)
        self._require_capacity(self._few + self._more, "both stages of one prompt")

    def _promising(self, opened: OpenWaves, screened: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which of the screened prompts proceed to the second stage."""
        raise NotImplementedError

    def _candidates(self, opened: OpenWaves, k: int) -> IntArray:
        return self._start(opened, k)

    def _wave(self, opened: OpenWaves) -> tuple[IntArray, IntArray]:
        screened = (opened.dealt == self._few) & (opened.last > 0) & (opened.seen > 0)
        go_on = np.flatnonzero(self._promising(opened, screened))
        go_on = go_on[np.argsort(self._tie[opened.rows[go_on]])]
        # A prompt is screened only if the round could still pay its second stage.
        start = self._candidates(opened, (opened.left - go_on.size * self._more) // (self._few + self._more))
        return np.concatenate([go_on, start]), np.repeat([self._more, self._few], [go_on.size, start.size])


class SpeedRL(TwoStage):
    """SPEED-RL: screen prompts with a few rollouts, and continue with those that have both successes and failures.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the evidence is updated but not used.
    screen_rollouts, more_rollouts : int
        Rollouts of the two stages: 4 and 20 as published.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, seed as in :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for max_rollouts that leave no second stage.

    Notes
    -----
    Deviations. In the publication a prompt's two stages are in successive training steps, here in waves of one round. If
    ``max_rollouts`` is too small for both stages, the second is reduced. Because only reward sums are known, a prompt with
    equal fractional rewards proceeds to the second stage.

    References
    ----------
    arXiv 2506.09016, SPEED-RL.

    Examples
    --------
    >>> policy = SpeedRL(BetaPosteriorBank(2), total_budget=48, n_rounds=1, max_rollouts=24)
    >>> first = policy.allocate()
    >>> first.tolist(), policy.continue_round(first, successes=[1, 4]).tolist()
    ([4, 4], [20, 0])
    """

    title = "SPEED-RL"

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        screen_rollouts: SupportsIndex = 4,
        more_rollouts: SupportsIndex = 20,
        **run: Unpack[Run],
    ) -> None:
        super().__init__(bank, ("screen_rollouts", screen_rollouts), ("more_rollouts", more_rollouts), **run)
        self._remember(screen_rollouts=screen_rollouts, more_rollouts=more_rollouts)

    def _promising(self, opened: OpenWaves, screened: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        return screened & opened.mixed


class PilotCommit(TwoStage):
    """Pilot-Commit: a pilot of each prompt, then many more rollouts if its pass rate lies in a band.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the evidence is updated but not used.
    pilot_rollouts, commit_rollouts : int
        Rollouts of the two stages, in the ratio 1:3 of the published runs (16 and 48, 32 and 96).
    band : tuple of two floats, in [0, 1]
        Lowest and highest pass rate for the second stage, both included.
    solved : float or None
        Pass rate of a pilot from which a prompt counts as solved and is piloted last; None never does so.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, seed as in :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for a band or threshold out of range.

    Notes
    -----
    Deviations. In the publication the second stage may wait in a buffer for up to four training steps; here it is in the
    same round. Solved prompts are put last at once, not dropped at the end of an epoch.

    References
    ----------
    arXiv 2605.26606, Pilot-Commit; its program's pilot of 8 and band [1/4, 3/4].

    Examples
    --------
    >>> policy = PilotCommit(BetaPosteriorBank(2), total_budget=64, n_rounds=1, max_rollouts=32)
    >>> first = policy.allocate()
    >>> first.tolist(), policy.continue_round(first, successes=[1, 4]).tolist()
    ([8, 8], [0, 24])
    """

    title = "Pilot-Commit"
    FIELDS: ClassVar[dict[str, Field]] = {**Waves.FIELDS, "_done": Field()}

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        pilot_rollouts: SupportsIndex = 8,
        commit_rollouts: SupportsIndex = 24,
        band: tuple[float, float] = (0.25, 0.75),
        solved: float | None = None,
        **run: Unpack[Run],
    ) -> None:
        remedy = "Give a pass rate."
        edges = reals("band", band, low=0.0, high=1.0, remedy="Give the lowest and the highest pass rate.")
        if edges.shape != (2,) or edges[0] > edges[1]:
            raise ValueError(
                error_text("band", "be an ascending pair", band, "Give the lowest and the highest pass rate.")
            )
        self._low, self._high = edges.tolist()
        self._solved = np.inf if solved is None else real("solved", solved, low=0.0, high=1.0, remedy=remedy)
        self._done = np.zeros(size_of(bank), dtype=np.bool_)
        super().__init__(bank, ("pilot_rollouts", pilot_rollouts), ("commit_rollouts", commit_rollouts), **run)
        self._remember(pilot_rollouts=pilot_rollouts, commit_rollouts=commit_rollouts, band=band, solved=solved)

    def _promising(self, opened: OpenWaves, screened: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        within: npt.NDArray[np.bool_] = (opened.rate >= self._low) & (opened.rate <= self._high)
        return screened & within

    def _wave(self, opened: OpenWaves) -> tuple[IntArray, IntArray]:
        piloted = (opened.dealt == self._few) & (opened.seen > 0)
        self._done[opened.rows] |= piloted & (opened.rate >= self._solved)
        return super()._wave(opened)

    def _candidates(self, opened: OpenWaves, k: int) -> IntArray:
        fresh = opened.fresh
        rows = opened.rows[fresh]
        late = self._visits[rows] + self._done[rows] * (1.0 + self._visits.max())
        return fresh[self._first(-late, rows, max(0, min(k, fresh.size)))]
