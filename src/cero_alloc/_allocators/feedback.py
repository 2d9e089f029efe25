"""Feedback: what comes back from a round, late, split, out of order, repeatedly, or never."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable
from threading import RLock
from typing import Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from cero_alloc._budget.deliveries import Deliveries, DeliveryId, Receipt
from cero_alloc._budget.ledger import RolloutLedger
from cero_alloc._checks import FloatArray, IntArray, counts, error_text, integer, warn
from cero_alloc._evidence.advantages import Baseline, Method, Scale
from cero_alloc._evidence.bank import BetaPosteriorBank
from cero_alloc._evidence.rewards import Feedback
from cero_alloc._evidence.scoring import Scoring
from cero_alloc._saving.saved import Saved, locked

from .run_history import RunHistory
from .run_log import RunLog
from .watch import Watch

_ROUND_REMEDY = "Give the number that allocator.round had after the call of allocate, or None."


class TakesFeedback(Saved):
    """The half of an allocator that takes rewards, refunds and losses of rounds that were dealt."""

    bank: BetaPosteriorBank
    ledger: RolloutLedger
    _log: RunLog | None = None
    _watch: Watch | None = None
    _told: tuple[str, ...] = ()  # causes that were warned of, or that need no warning

    def __init__(self, bank: BetaPosteriorBank, ledger: RolloutLedger) -> None:
        self.bank, self.ledger = bank, ledger
        self._deliveries = Deliveries()
        self._past = RunHistory()

    @property
    def lock(self) -> RLock:
        """The bank's lock, which every method holds. Hold it to make several calls atomic."""
        return self.bank.lock

    def update(
        self,
        prompt_ids: Iterable[Hashable] | None,
        successes: npt.ArrayLike,
        rollouts: npt.ArrayLike,
        *,
        squares: npt.ArrayLike | None = None,
        round: SupportsIndex | None = None,
        delivery_id: DeliveryId = None,
    ) -> None:
        """Add observed rewards, at any time and in any order.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts that were observed, each once per call; None names the whole pool in row order.
        successes : array_like of float, shape (n_ids,)
            Sum of the rewards of each prompt, in [0, rollouts].
        rollouts : array_like of int, shape (n_ids,)
            Rewarded rollouts of each prompt; fewer than were dealt is fine, and more count as evidence alone.
        squares : array_like of float, shape (n_ids,), or None
            Sum of the squared rewards of each prompt, where they are not all at the ends of the reward range.
        round : int or None
            Which round dealt them, as :attr:`round` stood after it; None counts them for each prompt's oldest.
        delivery_id : int, str or None
            Name of this report. A report that comes again under its name changes nothing.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError
            As :meth:`~cero_alloc.BetaPosteriorBank.update`, for a round that was not opened, and for a delivery_id that came with
            another content; nothing changes after any error.
        TypeError
            For ids that are no collection, a round that is not an integer, or a delivery_id that is neither an integer
            nor a string.

        Warns
        -----
        AllocationWarning
            As :meth:`~cero_alloc.BetaPosteriorBank.update`, and once where more is reported than is outstanding after the
            first round, unless rollouts of this allocator have expired.

        Examples
        --------
        >>> from cero_alloc import FenchelDualAllocator
        >>> allocator = FenchelDualAllocator(BetaPosteriorBank(2), total_budget=8, n_rounds=2, max_rollouts=4)
        >>> counts = allocator.allocate()
        >>> allocator.update([1], successes=[1], rollouts=[1])
        >>> allocator.update([1, 0], successes=[2, 1], rollouts=[3, 4], delivery_id="worker 3, batch 7")
        >>> allocator.update([1, 0], successes=[2, 1], rollouts=[3, 4], delivery_id="worker 3, batch 7")
        >>> allocator.bank.mean().tolist()
        [0.3333333333333333, 0.6666666666666666]
        """
        with self.bank.lock:
            self._grow()
            feedback = self.bank.rewards.feedback(self.bank.index, prompt_ids, successes, rollouts, squares)
            number = self._round_number(round)
            receipt = self._received("update", delivery_id, feedback)
            if receipt is not None and receipt.repeated:
                return
            self.bank.rewards.notice_signs(feedback)
            settled = self._count(feedback, number)
            if receipt is not None:
                self._deliveries.keep(receipt)
            self._notice_excess(feedback, settled)
            self._notice_settled()

    def observe(
        self,
        prompt_ids: Iterable[Hashable],
        rewards: npt.ArrayLike,
        *,
        round: SupportsIndex | None = None,
        delivery_id: DeliveryId = None,
        baseline: Baseline = "posterior",
        scale: Scale = "posterior",
        method: Method = "leave-one-out",
        group_size: SupportsIndex = 8,
    ) -> FloatArray:
        """Return the advantage of every rollout, then learn from the rewards: the one call per round of a trainer.

        It equals ``bank.advantages``, then :meth:`update`, and then :meth:`write_off` of the rollouts without a reward,
        as far as they are outstanding.

        Parameters
        ----------
        prompt_ids : iterable of hashable, length n_rollouts
            Prompt of each rollout, in any order, repeated as often as it has rollouts.
        rewards : array_like of float, shape (n_rollouts,)
            Reward of each; NaN or None where it could not be scored.
        round : int or None
            Which round dealt them, as in :meth:`update`.
        delivery_id : int, str or None
            Name of this report. A delivery that comes again changes nothing; its advantages are those against what is known
            by then without it.
        baseline : {"posterior", "group", "batch"}
            What is subtracted, as in :meth:`BetaPosteriorBank.advantages`.
        scale : {"posterior", "none", "group"}
            What the difference is divided by, as in :meth:`BetaPosteriorBank.advantages`.
        method : {"leave-one-out", "mapp"}
            As in :meth:`BetaPosteriorBank.advantages`.
        group_size : int, at least 2
            Size of the groups that "mapp" averages over, in rollouts.

        Returns
        -------
        numpy.ndarray of float64, shape (n_rollouts,)
            Advantages in the order of the rollouts; 0 where there is no reward.

        Raises
        ------
        KeyError, TypeError, ValueError
            As :meth:`BetaPosteriorBank.advantages` and :meth:`update`; nothing changes after any error.

        Examples
        --------
        >>> from cero_alloc import training_allocator
        >>> allocator = training_allocator(["a", "b", "c"], total_budget=12, n_rounds=4, rollouts_per_visit=1)
        >>> counts = allocator.allocate()
        >>> prompts = allocator.bank.prompts_of(counts)
        >>> prompts
        ['a', 'b', 'c']
        >>> allocator.observe(prompts, rewards=[1.0, 0.0, 1.0]).round(2).tolist()
        [1.22, -1.22, 1.22]
        """
        with self.bank.lock:
            self._grow()
            bank, scoring = self.bank, Scoring(baseline, scale, method, group_size).checked()
            batch = bank.rewards.rollouts(bank.index, prompt_ids, rewards)
            scoring.require_coins(batch, bank.rewards)
            rows, number = batch.feedback.rows, self._round_number(round)
            receipt = self._received("observe", delivery_id, batch.feedback, batch.unscored)
            repeated = receipt is not None and receipt.repeated
            advantages = scoring.advantages(bank.evidence, bank.rewards, batch, counted=repeated)
            if repeated:
                return advantages
            settled = self._count(batch.feedback, number)
            if batch.unscored.any():
                lost = np.minimum(batch.unscored, self.ledger.owed(rows, number))
                self.ledger.write_off(rows, lost, bank.index.name, number)
            if receipt is not None:
                self._deliveries.keep(receipt)
            self._notice_excess(batch.feedback, settled)
            self._notice_settled()
            return advantages

    def _received(self, method: str, delivery_id: DeliveryId, feedback: Feedback, *more: IntArray) -> Receipt | None:
        """Return the receipt of a delivery; None where it has no id."""
        if delivery_id is None:
            return None
        rows, *columns = feedback
        return self._deliveries.receive(method, delivery_id, rows, *(part for part in (*columns, *more) if part.size))

    def _count(self, feedback: Feedback, number: int | None) -> int:
        """Add checked feedback to the evidence and to the account; return how many of the rollouts were outstanding."""
        rows, won, n, lacks = feedback
        logs = self._log is not None and self.ledger.round > 0
        belief = self.bank.evidence.posterior(rows) if logs else None
        self.bank.evidence.observe(rows, won, n, lacks)
        self._past.report(number or self.ledger.round, feedback)
        settled = self.ledger.settle(rows, n, number)
        self._learn(rows, won, n)
        if self._log is not None and belief is not None:
            self._log = self._log.write(number or self.ledger.round, self.bank.index, feedback, belief)
        return settled

    def _notice_settled(self) -> None:
        """Write the report a last time once nothing of a finished run is outstanding, whatever settled the rest."""
        if self._watch is not None and self.ledger.finished and not self.ledger.reserved:
            self._round_over()

    def _round_over(self) -> None:
        """Write the report anew where it is due."""
        if self._watch is not None and self._watch.is_due(self.ledger.round, self.ledger.finished):
            self._watch = self._watch.again(self._page(), self.ledger.round)

    def _notice_excess(self, feedback: Feedback, settled: int) -> None:
        """Warn once where more is reported than was outstanding, unless rollouts had expired or no round was dealt yet."""
        excess = int(feedback.rollouts.sum()) - settled
        if excess and self.ledger.round:
            self._tell(
                "excess",
                f"{excess} of the rollouts reported after round {self.ledger.round} were not outstanding: they count as "
                "evidence, but no deal of this run covers them. Report each rollout once; a delivery_id makes a repeated "
                "report harmless.",
            )

    def _tell(self, cause: str, text: str) -> None:
        """Warn once of a cause."""
        if cause not in self._told:
            self._told += (cause,)
            warn(text)

    @locked
    def log_to(self, path: str | os.PathLike[str] | None) -> None:
        """Write the outcomes of the run to a file from now on, for ``cero-alloc replay`` to judge against uniform.

        The file is JSONL: a header with the class and the size of the pool, then a line per prompt and accepted update,

            {"prompt_id": 7, "step": 3, "trials": 8, "successes": 5, "mean": 0.41, "evidence": 12.5}

        where the step is the round that the feedback names, or else the latest; rewards are mapped to [0, 1], with their
        ``squares`` where they are not 0 or 1; and mean and evidence, alpha + beta, are the belief before the update. Ids that
        are neither integers nor strings are written as text. The lines are in the file when ``update`` or ``observe`` returns.
        Repeated deliveries, rollouts without a reward, and feedback before the first round are left out.

        Parameters
        ----------
        path : path or None
            A new file, or a log that an allocator began, to which another header and further lines are appended; its folder
            must exist. None stops the log.

        Raises
        ------
        OSError
            For a folder that does not exist, or a file that cannot be written.
        ValueError
            For a file that holds anything else.
        TypeError
            For anything but a path; the log goes on as it was after any error.

        Warns
        -----
        AllocationWarning
            By a later update where the file can no longer be written: the log ends, and the run goes on.

        Notes
        -----
        The log is no part of ``state_dict``, copies and pickles. After a resume call this again, with the same file: readers
        leave out the lines of rounds that the resumed run deals anew.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from cero_alloc import training_allocator
        >>> from cero_alloc.replay import read_log
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "run.jsonl"
        >>> allocator = training_allocator(["a", "b", "c"], total_budget=12, n_rounds=4)
        >>> allocator.log_to(file)
        >>> allocator.update(None, successes=[1, 0, 1], rollouts=allocator.allocate())
        >>> log = read_log(file)
        >>> log.prompt_ids, log.successes.tolist(), log.reading.dealt_by, log.reading.pool
        (('a', 'b', 'c'), [1.0, 0.0, 1.0], 'ResolvingAllocator', 3)
        """
        if path is None:
            self._log = None
            return
        from importlib.metadata import version  # imported on first use, to keep the import of the package short

        horizon, rewards = self.ledger.horizon, self.bank.rewards
        header = {
            "cero_alloc": version("cero-alloc"),
            "allocator": type(self).__name__,
            "prompts": len(self.bank),
            "max_rollouts": horizon.max_rollouts,
            "unit_size": horizon.unit_size,
            "reward_range": [rewards.low, rewards.high],
            "round": self.ledger.round,
        }
        self._log = RunLog(path, header)

    @locked
    def refund(
        self,
        prompt_ids: Iterable[Hashable] | None,
        rollouts: npt.ArrayLike,
        *,
        round: SupportsIndex | None = None,
        delivery_id: DeliveryId = None,
    ) -> None:
        """Hand back rollouts that were dealt but never generated; the visit itself stays counted.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts, each once; None names the whole pool in row order.
        rollouts : array_like of int, shape (n_ids,)
            Rollouts to return to the budget: whole units, at most what is outstanding, of the round if one is given.
        round : int or None
            Number of the round that dealt them; None takes each prompt's oldest rollouts.
        delivery_id : int, str or None
            Name of this report, as in :meth:`update`.

        Raises
        ------
        KeyError
            For an unknown id.
        ValueError, TypeError
            For a repeated id, more than is outstanding or parts of groups, and as :meth:`update`; nothing changes after
            any error.

        Examples
        --------
        >>> from cero_alloc import FenchelDualAllocator
        >>> allocator = FenchelDualAllocator(BetaPosteriorBank(2), total_budget=8, n_rounds=4, max_rollouts=4)
        >>> int(allocator.allocate(budget=4, exact=True).sum())
        4
        >>> allocator.refund(None, allocator.outstanding)
        >>> allocator.remaining_budget
        8
        """
        self._take_back("refund", prompt_ids, rollouts, round, delivery_id)

    @locked
    def write_off(
        self,
        prompt_ids: Iterable[Hashable] | None,
        rollouts: npt.ArrayLike,
        *,
        round: SupportsIndex | None = None,
        delivery_id: DeliveryId = None,
    ) -> None:
        """Count rollouts as spent that will never have a reward, such as those whose scoring failed.

        Parameters
        ----------
        prompt_ids : iterable of hashable, or None
            Prompts, each once; None names the whole pool in row order.
        rollouts : array_like of int, shape (n_ids,)
            Rollouts, at most what is outstanding, of the round if one is given.
        round : int or None
            Number of the round that dealt them; None takes each prompt's oldest rollouts.
        delivery_id : int, str or None
            Name of this report, as in :meth:`update`.

        Raises
        ------
        KeyError, ValueError, TypeError
            As :meth:`refund`, but for parts of groups, which are fine.

        Examples
        --------
        >>> from cero_alloc.baselines import Uniform
        >>> allocator = Uniform(BetaPosteriorBank(2), total_budget=16, n_rounds=4, max_rollouts=4)
        >>> counts = allocator.allocate()
        >>> allocator.write_off([0], [1])
        >>> allocator.balance
        Balance(total=16, spent=1, reserved=3, left=12)
        """
        self._take_back("write_off", prompt_ids, rollouts, round, delivery_id)

    @locked
    def expire(self, older_than: SupportsIndex | None) -> int:
        """Return to the budget the rollouts that are still outstanding from old rounds; they count as lost.

        The rest of a group of which a part was reported counts as spent. Rollouts that are reported later still are
        evidence, but the budget no longer covers them; ``metrics()["unreserved_rollouts"]`` counts them.

        Parameters
        ----------
        older_than : int, at least 0, or None
            Rounds opened since; 0 spares only the latest round, None spares no round.

        Returns
        -------
        int
            Rollouts returned to the budget.

        Raises
        ------
        TypeError, ValueError
            For a number that is not an integer or negative.

        Examples
        --------
        >>> from cero_alloc.baselines import Uniform
        >>> allocator = Uniform(BetaPosteriorBank(2), total_budget=16, n_rounds=4, max_rollouts=4)
        >>> lost, counts = allocator.allocate(), allocator.allocate()
        >>> allocator.expire(older_than=0), allocator.remaining_budget
        (4, 12)
        """
        age = -1
        if older_than is not None:
            age = integer("older_than", older_than, least=0, remedy="Count the rounds opened since.")
        self._grow()
        rows, rollouts = self.ledger.expire(age)
        if rows.size and "excess" not in self._told:  # also where only parts of units expired, which stay spent
            self._told += ("excess",)  # they may still be reported
        self._notice_settled()
        return int(rollouts.sum())

    # ------------------------------------------------------------ what a subclass defines

    def _learn(self, rows: IntArray, successes: FloatArray, rollouts: IntArray) -> None:
        """Take feedback that the rule keeps beyond the bank's evidence."""

    def _page(self) -> str:
        """Return the report."""
        raise NotImplementedError

    def _join(self, old: int, new: int) -> None:
        """Make room for prompts that joined the bank, which had ``old`` of them and has ``new``."""
        raise NotImplementedError

    # ------------------------------------------------------------ what the methods share

    def _grow(self) -> None:
        """Make room for prompts that joined the bank."""
        old, new = len(self.ledger.accounts), self.bank.evidence.size
        if new != old:
            self._join(old, new)

    def _round_number(self, number: SupportsIndex | None) -> int | None:
        """Return the checked number of an open round."""
        if number is None:
            return None
        found = integer("round", number, least=1, remedy=_ROUND_REMEDY)
        if found > self.ledger.round:
            condition = f"be one of the {self.ledger.round} rounds so far"
            raise ValueError(error_text("round", condition, found, _ROUND_REMEDY))
        return found

    def _take_back(
        self,
        method: Literal["refund", "write_off"],
        prompt_ids: Iterable[Hashable] | None,
        rollouts: npt.ArrayLike,
        round_: SupportsIndex | None,
        delivery_id: DeliveryId,
    ) -> None:
        """Pass rollouts without a reward to the ledger's method of this name."""
        self._grow()
        rows = self.bank.index.named_rows(prompt_ids)
        n, number = counts("rollouts", rollouts, rows.size), self._round_number(round_)
        receipt = None if delivery_id is None else self._deliveries.receive(method, delivery_id, rows, n)
        if receipt is not None and receipt.repeated:
            return
        getattr(self.ledger, method)(rows, n, self.bank.index.name, number)
        if receipt is not None:
            self._deliveries.keep(receipt)
        self._notice_settled()
