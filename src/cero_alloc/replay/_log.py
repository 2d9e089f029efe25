"""RolloutLog: the rewards of a training run by prompt and step."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cero_alloc._checks import FloatArray, IntArray, generator, integer
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._saving.shown import Shown

from ._scale import RewardScale


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of a log that could not be used.

    Attributes
    ----------
    number : int
        Line of the file, counted from 1.
    reason : str
        Why it could not be used.
    text : str
        Beginning of the line, at most 60 characters.

    Examples
    --------
    >>> print(BadLine(5, "reward is not a number", "a,2,oops"))
    line 5: reward is not a number: 'a,2,oops'
    """

    number: int
    reason: str
    text: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.reason}: {self.text!a}"  # for any terminal


@dataclass(frozen=True, slots=True)
class Reading:
    """How a log was read.

    Attributes
    ----------
    files : tuple of str
        Names of the files, in the order in which they were read.
    format : str
        Such as "csv", "jsonl" or "json".
    columns : dict of str to str
        Column taken for each role.
    scale : RewardScale
        The range of the rewards.
    unscored : int
        Rollouts without a reward: null, NaN, empty, or no such key.
    doubts : tuple of str
        Reasons to doubt the figures, each with what to do.
    dealt_by : str
        Class of the allocator that wrote the log; "" for logs of other origin.
    pool : int
        Prompts of its pool, with those that never got a rollout; 0 for logs of other origin.

    Examples
    --------
    >>> Reading(columns={"reward": "score"}).scale.kind
    '0/1'
    """

    files: tuple[str, ...] = ()
    format: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    scale: RewardScale = field(default_factory=RewardScale)
    unscored: int = 0
    doubts: tuple[str, ...] = ()
    dealt_by: str = ""
    pool: int = 0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RolloutLog(Shown):
    r"""The rewarded rollouts of a run by prompt and step.

    A *group* is all rollouts of one prompt in one step, unless the log tells groups of a prompt in a step apart. Groups are
    sorted by step, then by prompt. An *entry* is one distinct reward of a group; a group's entries are in ascending order, at
    most two of them if rewards are 0 or 1.

    Attributes
    ----------
    prompt_ids : tuple of str
        Ids as written in the log, in order of first appearance; the row of a prompt is its place here.
    steps : numpy.ndarray of float64, shape (n_steps,)
        Step numbers of the log, ascending.
    group_prompt : numpy.ndarray of int64, shape (n_groups,)
        Row of each group's prompt.
    group_step : numpy.ndarray of int64, shape (n_groups,)
        Place of each group's step in ``steps``.
    trials : numpy.ndarray of int64, shape (n_groups,)
        Rollouts of each group.
    successes : numpy.ndarray of float64, shape (n_groups,)
        Sum of the rewards of each group, in [0, trials].
    entry_group : numpy.ndarray of int64, shape (n_entries,)
        Group of each entry.
    entry_reward : numpy.ndarray of float64, shape (n_entries,)
        Reward of each entry, in [0, 1].
    entry_rollouts : numpy.ndarray of int64, shape (n_entries,)
        Rollouts of the group with this reward.
    n_lines : int
        Lines of data read, good and bad.
    n_bad : int
        Bad lines among them; they are not part of the other attributes.
    bad_lines : tuple of BadLine
        The first five bad lines.
    broken : str or None
        Why a compressed file could not be read to its end; None if it could.
    reading : Reading
        Format, columns, range of the rewards, and doubts.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from cero_alloc.replay import read_log
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "log.csv"
    >>> _ = file.write_text("prompt_id,step,reward\na,1,1\na,1,0\nb,1,1\na,2,oops\n")
    >>> log = read_log(file)
    >>> log.trials.tolist(), log.successes.tolist(), log.dead.tolist()
    ([2, 1], [1.0, 1.0], [False, True])
    >>> print(log.bad_lines[0])
    line 5: reward is not a number: 'a,2,oops'
    """

    _SHOWN: ClassVar[tuple[str, ...]] = ("n_prompts", "n_steps", "n_lines", "n_bad")

    prompt_ids: tuple[str, ...]
    steps: FloatArray
    group_prompt: IntArray
    group_step: IntArray
    trials: IntArray
    successes: FloatArray
    entry_group: IntArray
    entry_reward: FloatArray
    entry_rollouts: IntArray
    n_lines: int
    n_bad: int
    bad_lines: tuple[BadLine, ...]
    broken: str | None
    reading: Reading = field(default_factory=Reading)

    @classmethod
    def of_rows(
        cls,
        prompt_ids: tuple[str, ...],
        prompt: IntArray,
        step: FloatArray,
        reward: FloatArray,
        rollouts: IntArray,
        *,
        n_lines: int,
        n_bad: int = 0,
        bad_lines: tuple[BadLine, ...] = (),
        broken: str | None = None,
        group: IntArray | None = None,
        reading: Reading | None = None,
    ) -> RolloutLog:
        """Return the log of rows (prompt, step, reward) that are distinct and sorted by step, prompt, group and reward.

        Parameters
        ----------
        prompt_ids : tuple of str
            Ids of the prompts.
        prompt : numpy.ndarray of int64, shape (n_entries,)
            Place in ``prompt_ids`` of each row's prompt.
        step : numpy.ndarray of float64, shape (n_entries,)
            Step number of each row.
        reward : numpy.ndarray of float64, shape (n_entries,)
            Reward of each row, in [0, 1].
        rollouts : numpy.ndarray of int64, shape (n_entries,)
            Rollouts of the prompt in this step with this reward, at least 1.
        n_lines, n_bad : int
            Lines of data read, and bad lines among them.
        bad_lines : tuple of BadLine
            The first bad lines.
        broken : str or None
            Why a file could not be read to its end; None if it could.
        group : numpy.ndarray of int64, shape (n_entries,), or None
            Tells groups of one prompt in one step apart.
        reading : Reading or None
            How the log was read.

        Returns
        -------
        RolloutLog
            With groups and entries in the order of the rows.

        Examples
        --------
        >>> one, step, reward = np.array([0, 0, 1]), np.array([1.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0])
        >>> log = RolloutLog.of_rows(("a", "b"), one, step, reward, np.array([3, 5, 8]), n_lines=16)
        >>> log.trials.tolist(), log.successes.tolist()
        ([8, 8], [5.0, 8.0])
        """
        steps, place = np.unique(step, return_inverse=True)
        first = changes(prompt, place) if group is None else changes(prompt, place, group)
        return cls(
            prompt_ids=prompt_ids,
            steps=steps,
            group_prompt=prompt[first],
            group_step=place[first],
            trials=np.add.reduceat(rollouts, first),
            successes=np.add.reduceat(rollouts * reward, first),
            entry_group=np.repeat(np.arange(first.size), np.diff(np.append(first, prompt.size))),
            entry_reward=reward,
            entry_rollouts=rollouts,
            n_lines=n_lines,
            n_bad=n_bad,
            bad_lines=bad_lines,
            broken=broken,
            reading=reading or Reading(),
        )

    def joined(self) -> RolloutLog:
        """Return the log with the groups of a prompt in a step put together, as banks and allocators take feedback.

        Returns
        -------
        RolloutLog
            The same log where every prompt has one group per step.

        Examples
        --------
        >>> step, group = np.array([1.0, 1.0]), np.array([0, 1])
        >>> log = RolloutLog.of_rows(
        ...     ("a",), np.array([0, 0]), step, np.array([0.0, 1.0]), np.array([8, 8]), n_lines=16, group=group
        ... )
        >>> log.trials.tolist(), log.joined().trials.tolist()
        ([8, 8], [16])
        """
        if changes(self.group_prompt, self.group_step).size == self.trials.size:
            return self
        prompt, place = self.group_prompt[self.entry_group], self.group_step[self.entry_group]
        order = np.lexsort((self.entry_reward, prompt, place))
        prompt, place, reward = prompt[order], place[order], self.entry_reward[order]
        first = changes(prompt, place, reward)
        return RolloutLog.of_rows(
            self.prompt_ids,
            prompt[first],
            self.steps[place[first]],
            reward[first],
            np.add.reduceat(self.entry_rollouts[order], first),
            n_lines=self.n_lines,
            reading=self.reading,
        )

    @property
    def n_prompts(self) -> int:
        """Prompts with at least one rollout."""
        return len(self.prompt_ids)

    @property
    def n_steps(self) -> int:
        """Steps with at least one rollout."""
        return int(self.steps.size)

    @property
    def n_rollouts(self) -> int:
        """Rollouts of the log, over all groups."""
        return int(self.trials.sum())

    @property
    def fractional(self) -> bool:
        """Whether any reward lies strictly between 0 and 1."""
        return bool(((self.entry_reward > 0.0) & (self.entry_reward < 1.0)).any())

    @property
    def dead(self) -> npt.NDArray[np.bool_]:
        """Whether all rewards of a group are equal, so that its GRPO gradient is 0; shape (n_groups,)."""
        dead: npt.NDArray[np.bool_] = np.bincount(self.entry_group, minlength=self.trials.size) == 1
        return dead

    @property
    def squares(self) -> FloatArray:
        """Sum of the squared rewards of each group; the successes once more where rewards are 0 or 1; shape (n_groups,)."""
        squared = self.entry_rollouts * self.entry_reward**2
        return np.bincount(self.entry_group, squared, self.trials.size).astype(np.float64)

    @property
    def visits(self) -> IntArray:
        """Number of steps in which each prompt has rollouts; shape (n_prompts,)."""
        return np.bincount(self.group_prompt, minlength=self.n_prompts)

    def groups_of_steps(self) -> list[slice]:
        """Return the groups of each step, in order.

        Returns
        -------
        list of slice, one per step
            Slices of the arrays with shape (n_groups,).

        Examples
        --------
        >>> step = np.array([1.0, 1.0, 2.0])
        >>> log = RolloutLog.of_rows(("a", "b"), np.array([0, 1, 0]), step, np.ones(3), np.array([8, 8, 8]), n_lines=24)
        >>> [log.group_prompt[groups].tolist() for groups in log.groups_of_steps()]
        [[0, 1], [0]]
        """
        ends = np.cumsum(np.bincount(self.group_step, minlength=self.n_steps)).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def history(self) -> list[tuple[list[Hashable], FloatArray, IntArray]]:
        """Return ids, successes and rollouts of each step, as ``update`` and ``select_forgetting`` take them.

        Returns
        -------
        list of tuple (prompt_ids, successes, rollouts), one per step
            Ids of the prompts, and arrays of shape (n_ids,): the sum of each prompt's rewards, and its rewarded rollouts.

        Examples
        --------
        >>> step = np.array([1.0, 1.0, 2.0])
        >>> log = RolloutLog.of_rows(("a", "b"), np.array([0, 1, 0]), step, np.ones(3), np.array([8, 8, 8]), n_lines=24)
        >>> [ids for ids, successes, rollouts in log.history()]
        [['a', 'b'], ['a']]
        """
        ids = np.array(self.prompt_ids, dtype=object)
        return [
            (ids[self.group_prompt[groups]].tolist(), self.successes[groups], self.trials[groups])
            for groups in self.groups_of_steps()
        ]

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
            With the ids of the log.

        Raises
        ------
        ValueError, TypeError
            As :class:`~cero_alloc.BetaPosteriorBank`.

        Examples
        --------
        >>> step = np.array([1.0, 1.0])
        >>> log = RolloutLog.of_rows(("a", "b"), np.array([0, 1]), step, np.ones(2), np.array([8, 8]), n_lines=16)
        >>> log.bank(forgetting=0.9).prompt_ids
        ('a', 'b')
        """
        return BetaPosteriorBank(self.prompt_ids, prior=prior, forgetting=forgetting)

    def sample(self, n_prompts: int, seed: int | np.random.Generator = 0) -> RolloutLog:
        """Return the log of ``n_prompts`` prompts drawn without replacement, or the whole log if it has no more.

        Parameters
        ----------
        n_prompts : int, at least 1
            Prompts to keep.
        seed : int or numpy.random.Generator
            Draws the prompts.

        Returns
        -------
        RolloutLog
            Steps without rollouts of the drawn prompts are left out.

        Raises
        ------
        ValueError, TypeError
            For a number below 1 or not an integer, or an invalid seed.

        Examples
        --------
        >>> step = np.array([1.0, 1.0])
        >>> log = RolloutLog.of_rows(("a", "b"), np.array([0, 1]), step, np.ones(2), np.array([8, 8]), n_lines=16)
        >>> log.sample(1, seed=0).n_rollouts
        8
        """
        n_prompts = integer("n_prompts", n_prompts, least=1, remedy="Count the prompts to keep.")
        if n_prompts >= self.n_prompts:
            return self
        kept = np.sort(generator(seed).choice(self.n_prompts, n_prompts, replace=False))
        row = np.full(self.n_prompts, -1)
        row[kept] = np.arange(n_prompts)
        prompt = row[self.group_prompt[self.entry_group]]
        chosen = prompt >= 0
        return RolloutLog.of_rows(
            tuple(self.prompt_ids[i] for i in kept.tolist()),
            prompt[chosen],
            self.steps[self.group_step[self.entry_group[chosen]]],
            self.entry_reward[chosen],
            self.entry_rollouts[chosen],
            n_lines=self.n_lines,
        )


def changes(*keys: npt.NDArray[Any]) -> IntArray:
    """Return the places of sorted rows that differ from the row before; the first row is included."""
    new = np.zeros(keys[0].size, dtype=np.bool_)
    new[0] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(new)
