"""Estimates: what a bank says of its prompts, as of now."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, real
from cero_alloc._saving.saved import OwnLock, Saved, locked
from cero_alloc._saving.shown import short

from .advantages import Baseline, Method, Scale
from .calibration import Calibration
from .evidence import Evidence
from .ids import PromptIndex, repeat
from .rewards import Rewards
from .scoring import Scoring


class Estimates(OwnLock, Saved):
    """The reading half of :class:`BetaPosteriorBank`: nothing here changes what is known.

    Attributes
    ----------
    index : PromptIndex
        Ids and their rows.
    evidence : Evidence
        What is known, by row, of rewards mapped to [0, 1].
    rewards : Rewards
        The range of the rewards, and the checks of feedback.
    """

    index: PromptIndex
    evidence: Evidence
    rewards: Rewards

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self.index

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "prompts", str(len(self))
        first = self.index.name(0)
        yield "ids", f"{type(first).__name__} such as {short(first)}"
        yield "rollouts", str(self.evidence.record.rollouts)
        a0, b0 = self.evidence.a0, self.evidence.b0
        yield "prior", f"({a0[0]:g}, {b0[0]:g})" if a0.size == 1 else "per prompt"
        yield "forgetting", f"{self.forgetting:g}"
        for name, rate in (("drift", self.drift), ("trend", self.trend)):
            if rate:
                yield name, f"{rate:g}"
        if self.reward_range != (0.0, 1.0):
            yield "reward_range", f"({self.rewards.low:g}, {self.rewards.high:g})"

    @property
    def prompt_ids(self) -> Sequence[Hashable]:
        """The ids in row order; a range when they are 0 .. M-1."""
        return self.index.ids

    @property
    def forgetting(self) -> float:
        """Share of the evidence that survives a round."""
        return self.evidence.forgetting

    @property
    def drift(self) -> float:
        """What 1 / (alpha + beta) of a prompt grows by per round."""
        return self.evidence.drift

    @property
    def trend(self) -> float:
        """Standard deviation per round of the common shift of the log-odds."""
        return self.evidence.trend

    @property
    def reward_range(self) -> tuple[float, float]:
        """Smallest and largest reward."""
        return self.rewards.low, self.rewards.high

    @property
    @locked
    def alpha(self) -> FloatArray:
        """First Beta parameter per prompt, in pseudo-rollouts, aged to now; shape (n_prompts,)."""
        return self.evidence.posterior(None)[0]

    @property
    @locked
    def beta(self) -> FloatArray:
        """Second Beta parameter per prompt, in pseudo-rollouts, aged to now; shape (n_prompts,)."""
        return self.evidence.posterior(None)[1]

    @locked
    def value(self, ids: Iterable[Hashable] | None = None) -> FloatArray:
        r"""Return the posterior expected variance of a prompt's rewards.

        For rewards 0 and 1 that is :math:`\hat q = E[p(1-p)]`, in [0, 1/4]. For any rewards in the range, with
        s = alpha + beta, mean m and second moment v of the rewards mapped to [0, 1] (prior included), it is
        :math:`(v - m^2) s / (s + 1)` times the square of the range's width.

        Parameters
        ----------
        ids : iterable of hashable, or None
            Prompts; None for the whole pool in row order.

        Returns
        -------
        numpy.ndarray of float64, shape (n_ids,)
            Expected variance of one reward of each prompt, in squared units of the rewards.

        Raises
        ------
        KeyError, TypeError
            For an unknown id, or ids that are not a collection.

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank
        >>> bank = BetaPosteriorBank(["coin", "always half"])
        >>> bank.value().round(4).tolist()
        [0.1667, 0.1667]
        >>> bank.update(None, successes=[50, 50], rollouts=[100, 100], squares=[50, 25])
        >>> bank.value().round(4).tolist()
        [0.2476, 0.0049]

        References
        ----------
        Claims 2 and 24 of the theory page.
        """
        return self.evidence.values(self._rows(ids)) * self.rewards.width**2

    @locked
    def mean(self, ids: Iterable[Hashable] | None = None) -> FloatArray:
        """Return the posterior mean reward: for rewards 0 and 1 the success rate, a / (a + b).

        Parameters
        ----------
        ids : iterable of hashable, or None
            Prompts; None for the whole pool in row order.

        Returns
        -------
        numpy.ndarray of float64, shape (n_ids,)
            Mean rewards, within the reward range.

        Raises
        ------
        KeyError, TypeError
            For an unknown id, or ids that are not a collection.

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank
        >>> BetaPosteriorBank(1, prior=(1.0, 3.0)).mean().tolist()
        [0.25]
        >>> BetaPosteriorBank(1, prior=(1.0, 3.0), reward_range=(-1, 1)).mean().tolist()
        [-0.5]
        """
        return self.rewards.low + self.rewards.width * self.evidence.means(self._rows(ids))

    @locked
    def interval(self, level: float, ids: Iterable[Hashable] | None = None) -> tuple[FloatArray, FloatArray]:
        """Return equal-tailed credible bounds of the mean reward, for rewards 0 and 1 of the success rate.

        Rewards between the ends of the range vary less than the two ends do, and the bounds are then too wide.

        Parameters
        ----------
        level : float, in (0, 1]
            Posterior probability between the bounds, such as 0.95.
        ids : iterable of hashable, or None
            Prompts; None for the whole pool in row order.

        Returns
        -------
        lower, upper : numpy.ndarray of float64, shape (n_ids,)
            Mean rewards, within the reward range.

        Raises
        ------
        KeyError, TypeError, ValueError
            For an unknown id, ids that are not a collection, or a level that is not a number in (0, 1].

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank
        >>> lower, upper = BetaPosteriorBank(1).interval(0.9)
        >>> round(float(lower[0]), 3), round(float(upper[0]), 3)
        (0.05, 0.95)
        """
        level = real("level", level, low=0.0, high=1.0, open_low=True, remedy="Take 0.95 for a 95% interval.")
        lower, upper = self.evidence.interval(self._rows(ids), level)
        return self.rewards.low + self.rewards.width * lower, self.rewards.low + self.rewards.width * upper

    @property
    @locked
    def retired(self) -> npt.NDArray[np.bool_]:
        """Which prompts are retired; shape (n_prompts,)."""
        retired = self.evidence.retired
        return np.zeros(len(self), dtype=bool) if retired is None else retired.copy()

    @locked
    def advantages(
        self,
        prompt_ids: Iterable[Hashable],
        rewards: npt.ArrayLike,
        *,
        baseline: Baseline = "posterior",
        scale: Scale = "posterior",
        method: Method = "leave-one-out",
        group_size: SupportsIndex = 8,
    ) -> FloatArray:
        r"""Return the advantage of every rollout, without learning from it.

        With the default choices, for a prompt with Beta(a, b) known before the call, n rollouts in it, S the sum of their
        rewards, and everything mapped to [0, 1],

        .. math::

            A_j = \frac{r_j - m_{-j}}{\max(\sqrt{v_{-j}}, 0.1)}, \qquad m_{-j} = \frac{a + S - r_j}{a + b + n - 1},

        where :math:`v_{-j}` is the prompt's value with all that is known but reward j. The baseline does not depend on
        rollout j, so that it adds no bias, and a group of one rollout has an advantage.

        Parameters
        ----------
        prompt_ids : iterable of hashable, length n_rollouts
            Prompt of each rollout, in any order, repeated as often as it has rollouts.
        rewards : array_like of float, shape (n_rollouts,)
            Reward of each, within the reward range; NaN or None where it could not be scored.
        baseline : {"posterior", "group", "batch"}
            What is subtracted: the leave-one-out posterior mean; the mean of the prompt's rollouts in this call, as in GRPO;
            or the mean of all other rewards in this call.
        scale : {"posterior", "none", "group"}
            What the difference is divided by: the root of the leave-one-out expected variance, at least 0.1 of the range;
            nothing; or the deviation of the prompt's rollouts in this call (with n - 1), where they differ.
        method : {"leave-one-out", "mapp"}
            "mapp" replaces both: GRPO's own normalised advantage in a group of ``group_size``, averaged over the
            leave-one-out posterior. It needs rewards at the ends of the range.
        group_size : int, at least 2
            The size of the groups that "mapp" averages over.

        Returns
        -------
        numpy.ndarray of float64, shape (n_rollouts,)
            Advantages in the order of the rollouts; 0 where there is no reward. In units of the rewards with
            ``scale="none"``, else without a unit.

        Raises
        ------
        KeyError
            For an unknown id.
        TypeError, ValueError
            For ids that are no collection, another number of rewards than of ids, rewards that are infinite or out of
            range, and an unknown choice.

        References
        ----------
        Claims 25 to 27 of the theory page. MaPP: arXiv 2609.34990, equations 9 to 14. One rollout per prompt against a
        running estimate: arXiv 2509.13232.

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank
        >>> bank = BetaPosteriorBank(["easy", "hard"])
        >>> bank.update(None, successes=[9, 1], rollouts=[10, 10])
        >>> bank.advantages(["easy", "hard", "hard"], [1, 1, 0], scale="none").round(3).tolist()
        [0.167, 0.846, -0.231]
        """
        scoring = Scoring(baseline, scale, method, group_size).checked()
        batch = self.rewards.rollouts(self.index, prompt_ids, rewards)
        scoring.require_coins(batch, self.rewards)
        return scoring.advantages(self.evidence, self.rewards, batch)

    @locked
    def prompts_of(self, counts: npt.ArrayLike) -> list[Hashable]:
        """Return the ids to generate from, each as often as it has rollouts.

        Parameters
        ----------
        counts : array_like of int, shape (n_prompts,)
            Rollouts per prompt of the whole pool in row order, as ``allocate()`` returns them.

        Returns
        -------
        list of hashable, length counts.sum()
            Ids; the rollouts of a prompt stand together.

        Raises
        ------
        ValueError, TypeError
            For another number of counts than of prompts, or counts that are negative or not integers.

        See Also
        --------
        cero_alloc.repeat : the same for the prompts of a batch.

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank
        >>> BetaPosteriorBank(["a", "b", "c"]).prompts_of([2, 0, 1])
        ['a', 'a', 'c']
        """
        return repeat(self.index.ids, counts)

    @locked
    def calibration(self) -> Calibration:
        """Compare predicted values with the reward variances that were then observed.

        Returns
        -------
        Calibration
            Ten bins, the bias with its standard error, and a warning, over all groups of at least two rollouts that the
            bank was given, each predicted under the prior of its time, with rewards mapped to [0, 1].

        Examples
        --------
        >>> from cero_alloc import BetaPosteriorBank
        >>> bank = BetaPosteriorBank(1000)
        >>> bank.update(None, successes=np.arange(1000) % 2 * 4, rollouts=np.full(1000, 4))
        >>> calibration = bank.calibration()
        >>> round(calibration.bias, 4), calibration.warning
        (0.1667, 1.0)
        """
        return self.evidence.record.report()

    def _rows(self, ids: Iterable[Hashable] | None) -> IntArray | None:
        """Return the rows of ids; None, the whole pool, stays None."""
        return None if ids is None else self.index.rows(ids)
