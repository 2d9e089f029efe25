"""Rules that continue sampling within a round depending on its rewards: DAPO, Reinforce-Ada and VIGOR."""

from __future__ import annotations

from typing import ClassVar, Literal, SupportsIndex, Unpack

import numpy as np

from cero_alloc._allocators.waves import OpenWaves
from cero_alloc._checks import IntArray, error_text, integer, real
from cero_alloc._evidence.bank import BetaPosteriorBank

from ._base import Run, Variants, VisitRun
from ._waves import Waves


class DAPO(Waves):
    """DAPO's dynamic sampling: replace dead groups by groups of other prompts.

    The first wave deals ``rollouts_per_visit`` to as many prompts as the round needs mixed groups. Every later wave deals
    to as many new prompts as mixed groups are missing, until none is missing or the round's total is spent.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the evidence is updated but not used.
    reserve : float, in [0, 1]
        Share of the round's total reserved for replacements.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, seed as in :class:`Baseline`;
        rollouts_per_visit: the size of a group.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for a reserve out of range.

    Notes
    -----
    Deviations. In the publication further batches are sampled until a training batch is full, at any cost, and surplus
    mixed groups are discarded; here sampling stops at the round's total, and only missing groups are sampled. Dead groups
    count as spent. Because only reward sums are known, a group of equal fractional rewards counts as mixed.

    References
    ----------
    arXiv 2503.14476, DAPO, dynamic sampling.

    Examples
    --------
    >>> policy = DAPO(BetaPosteriorBank(4), total_budget=32, n_rounds=1, max_rollouts=8)
    >>> first = policy.allocate()
    >>> int(first.sum()), int(policy.continue_round(first, successes=0 * first).sum())
    (16, 16)
    """

    least_rollouts = 2

    def __init__(self, bank: BetaPosteriorBank, *, reserve: float = 0.5, **run: Unpack[VisitRun]) -> None:
        self._reserve = real("reserve", reserve, low=0.0, high=1.0, remedy="Give a share of the round's total.")
        super().__init__(bank, **run)
        self._require_capacity(self._block, "a group")
        self._remember(reserve=reserve)

    def _wave(self, opened: OpenWaves) -> tuple[IntArray, IntArray]:
        total = opened.left + int(opened.dealt.sum())
        target = max(1, int((1.0 - self._reserve) * total + 1e-9) // self._block)
        start = self._start(opened, min(target - int(opened.mixed.sum()), opened.left // self._block))
        return start, np.full(start.size, self._block)


class ReinforceAda(Waves):
    """Reinforce-Ada: sample a prompt until it has the outcomes that a training group needs.

    Every wave deals ``wave_rollouts`` to each active prompt. A prompt becomes inactive after one success ("positive"), or
    after successes and failures for half of ``kept_rollouts`` each ("balanced").

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the evidence is updated but not used.
    exit : {"balanced", "positive"}
        Condition under which a prompt becomes inactive.
    wave_rollouts, max_waves : int
        Rollouts per prompt and wave, and largest number of waves of a round: 8 and 4 as published.
    kept_rollouts : int
        Rollouts of a training group, 4 as published.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, seed as in :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for an unknown exit or counts below 1.

    Notes
    -----
    Deviations. In the publication a step starts with a whole batch, at any cost; here a round starts as many prompts as its
    total could pay through all waves (at least one), and unspent rollouts go to later rounds. All rollouts count as spent,
    including those that the published sampler leaves out of the group.

    References
    ----------
    arXiv 2510.04996, Reinforce-Ada.

    Examples
    --------
    >>> policy = ReinforceAda(BetaPosteriorBank(2), exit="positive", total_budget=32, n_rounds=1, max_rollouts=32)
    >>> first = policy.allocate()
    >>> more = policy.continue_round(first, successes=0 * first)
    >>> int(first.sum()), int(more.sum()), int(policy.continue_round(more, successes=more).sum())
    (8, 8, 0)
    """

    title = "Reinforce-Ada"
    variants: ClassVar[Variants] = {"balanced": {}, "positive": {"exit": "positive"}}
    takes_visits = False

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        exit: Literal["balanced", "positive"] = "balanced",
        wave_rollouts: SupportsIndex = 8,
        max_waves: SupportsIndex = 4,
        kept_rollouts: SupportsIndex = 4,
        **run: Unpack[Run],
    ) -> None:
        if exit not in ("balanced", "positive"):
            raise ValueError(error_text("exit", "be 'balanced' or 'positive'", exit, "Correct the spelling."))
        kept = integer("kept_rollouts", kept_rollouts, least=2, remedy="A group that teaches needs 2.")
        self._right, self._wrong = (kept // 2, kept - kept // 2) if exit == "balanced" else (1, 0)
        self._max_waves = integer("max_waves", max_waves, least=1, remedy="Count the first.")
        super().__init__(bank, **run)
        self._each = min(self._units("wave_rollouts", wave_rollouts, 1), self.horizon.max_units)
        self._require_capacity(self._each, "a wave of one prompt")
        self._remember(exit=exit, wave_rollouts=wave_rollouts, max_waves=max_waves, kept_rollouts=kept_rollouts)

    def _wave(self, opened: OpenWaves) -> tuple[IntArray, IntArray]:
        if opened.wave == 0:
            most = min(self._each * self._max_waves, self.horizon.max_units)
            active = self._start(opened, max(1, opened.left // most))
        else:
            left = (opened.won >= self._right) & (opened.seen - opened.won >= self._wrong)
            stays = (opened.last > 0) & ~left & (opened.wave < self._max_waves)
            active = np.flatnonzero(stays)
        return active, np.full(active.size, self._each)


class VIGOR(Waves):
    """VIGOR: successive halving by reward variance.

    The first wave deals 2 rollouts to every prompt. Each of the next three keeps the half of the prompts with the largest
    variance of their rewards so far and deals twice as many rollouts to each, so that every wave costs the same.

    Parameters
    ----------
    bank : BetaPosteriorBank
        Ids and evidence; the evidence is updated but not used.
    first_rollouts, max_waves : int
        Rollouts per prompt of the first wave, and number of waves: 2 and 4 as published.
    **run
        total_budget, n_rounds, unit_size, max_rollouts, round_capacity, seed as in :class:`Baseline`.

    Raises
    ------
    ValueError, TypeError
        As in :class:`Baseline`, and for counts below 1.

    Notes
    -----
    Deviations. The rule is implemented from consistent summaries rather than the text of the paper, which specifies no
    tie-break; ties, which are frequent after 2 rewards, are broken by one random order. The variance is that of 0/1
    rewards with the same mean. Half of an odd number is rounded up as far as the total allows, and ``max_rollouts`` may
    reduce the last wave.

    References
    ----------
    arXiv 2607.22002, VIGOR.

    Examples
    --------
    >>> policy = VIGOR(BetaPosteriorBank(4), total_budget=32, n_rounds=1, max_rollouts=32)
    >>> wave = policy.allocate()
    >>> while wave.any():
    ...     print(sorted(wave.tolist()))
    ...     wave = policy.continue_round(wave, successes=wave // 2)
    [2, 2, 2, 2]
    [0, 0, 4, 4]
    [0, 0, 0, 8]
    """

    takes_visits = False

    def __init__(
        self,
        bank: BetaPosteriorBank,
        *,
        first_rollouts: SupportsIndex = 2,
        max_waves: SupportsIndex = 4,
        **run: Unpack[Run],
    ) -> None:
        self._max_waves = integer("max_waves", max_waves, least=1, remedy="Count the first.")
        super().__init__(bank, **run)
        self._each = min(self._units("first_rollouts", first_rollouts, 1), self.horizon.max_units)
        self._require_capacity(self._each, "a wave of one prompt")
        self._remember(first_rollouts=first_rollouts, max_waves=max_waves)

    def _wave(self, opened: OpenWaves) -> tuple[IntArray, IntArray]:
        if opened.wave == 0:
            active = self._start(opened, max(1, opened.left // (self._each * self._max_waves)))
        else:
            active = np.flatnonzero(opened.last)
            p = opened.rate[active]
            keep = -(-active.size // 2) if opened.wave < self._max_waves else 0
            active = active[self._first(p * (1.0 - p), opened.rows[active], keep)]
        return active, np.full(active.size, self._each * 2**opened.wave)
