"""Rollouts lent to workers: each is reported once or refunded once, also after crashes, repeated calls and late reports.

The module does not depend on Ray. A client names every request and every delivery; a repeated one counts once. Every change
of the account is checked, then written to a journal, then made; a service that starts in the same folder resumes from the
last checkpoint and the journal after it.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from cero_alloc import checkpoint
from cero_alloc._checks import AllocationWarning, error_text, flag, instance, integer, real

__all__ = ["Answer", "LeaseBook"]

CHECKPOINT, JOURNAL = "allocator.npz", "journal.jsonl"
REMEMBERED = 10_000  # leases that ended last, with the names of their deliveries
_ROUNDING = 1e-9  # of a bound: what sums of fractional rewards may be off by


class Answer(Enum):
    """What became of a delivery. True in an ``if`` where it is known to be counted.

    Attributes
    ----------
    COUNTED
        Its rewards are evidence and its rollouts are spent, by this call or an earlier one.
    TOO_LATE
        Not counted, and never will be: the lease had ended, and its rollouts may have been lent again.
    UNKNOWN
        The lease ended so long ago that its deliveries are forgotten. This call counted nothing; an earlier one may have.

    Examples
    --------
    >>> [bool(answer) for answer in Answer]
    [True, False, False]
    """

    COUNTED = "counted"
    TOO_LATE = "too late"
    UNKNOWN = "unknown"

    def __bool__(self) -> bool:
        return self is Answer.COUNTED


@dataclass
class _Lease:
    """Rollouts in the hands of a worker."""

    request: str
    outstanding: dict[Hashable, int]  # rollouts of each prompt that were lent and not yet reported
    deadline: float
    round: int | None  # of the allocator, None where nothing was dealt
    deliveries: set[str] = field(default_factory=set)  # names of those that were counted


class LeaseBook:
    """The one owner of an allocator that many workers draw on.

    Parameters
    ----------
    allocator : FenchelDualAllocator, ResolvingAllocator or any of ``cero_alloc.baselines``
        Freshly built; its prompt ids must be strings or integers.
    folder : path
        Holds checkpoint and journal; if it has them already, the run in it is resumed.
    timeout : float, greater than 0
        Seconds without a report after which a lease's rollouts return to the budget.
    checkpoint_every : int, at least 1
        Journal entries between checkpoints.
    durable : bool
        Whether every journal entry is flushed to the disk, to survive a power cut; if not, it survives a crash of the process.
    clock : callable
        Seconds; only differences count.

    Raises
    ------
    TypeError
        For prompt ids that are neither strings nor integers, and settings of another type.
    ValueError
        For settings out of range, and a folder whose checkpoint belongs to another run.

    Examples
    --------
    >>> import tempfile
    >>> from cero_alloc import training_allocator
    >>> allocator = training_allocator(["a", "b"], total_budget=8, n_rounds=4, rollouts_per_visit=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     book = LeaseBook(allocator, folder, timeout=60)
    ...     lease, counts = book.lend("request 1", budget=2, exact=True)
    ...     answer = book.report(lease, "delivery 1", successes={"a": 1, "b": 0}, rollouts={"a": 1, "b": 1})
    ...     account = book.metrics()
    ...     book.close()
    >>> counts
    {'a': 1, 'b': 1}
    >>> answer.value, account["scored"], account["in_hand"]
    ('counted', 2, 0)
    """

    def __init__(
        self,
        allocator: Any,
        folder: str | Path,
        *,
        timeout: float,
        checkpoint_every: int = 1000,
        durable: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        odd = next((key for key in allocator.bank.prompt_ids if type(key) not in (str, int)), None)
        if odd is not None:
            raise TypeError(
                f"prompt ids must be strings or integers, got {odd!r}. The journal is text: rename the prompts."
            )
        self.allocator, self._folder, self._clock = allocator, Path(folder), clock
        self._timeout = real("timeout", timeout, low=0.0, high=math.inf, open_low=True, remedy="Give seconds.")
        remedy = "Count journal entries."
        self._checkpoint_every = integer("checkpoint_every", checkpoint_every, least=1, remedy=remedy)
        self._durable = flag("durable", durable)
        self._leases: dict[int, _Lease] = {}
        self._by_request: dict[str, int] = {}  # leases in hand
        self._ended: dict[int, set[str]] = {}  # leases that ended, and their deliveries that were counted
        self._next, self._entries = 0, 0
        self._totals = {"lent": 0, "scored": 0, "unscored": 0, "refunded": 0, "abandoned": 0}  # rollouts
        self._folder.mkdir(parents=True, exist_ok=True)
        self._recover()

    # ------------------------------------------------------------ what workers call

    def lend(
        self,
        request: str,
        prompt_ids: Sequence[Hashable] | None = None,
        budget: int | None = None,
        *,
        exact: bool = False,
    ) -> tuple[int, dict[Hashable, int]]:
        """Open a round and lend its rollouts; the same request again gets the same lease, as long as that is in hand.

        Parameters
        ----------
        request : str
            Name of the request, never used for another.
        prompt_ids, budget, exact
            As ``allocator.allocate`` takes them.

        Returns
        -------
        lease : int
            Its number.
        counts : dict of prompt id to int
            Rollouts of each prompt that gets any.

        Raises
        ------
        KeyError, TypeError, ValueError
            As ``allocator.allocate``, and for a request that is not a string; nothing changes.

        Examples
        --------
        See :class:`LeaseBook`.
        """
        self.expire()
        instance("request", request, str, "Name the request, for example by uuid.uuid4().hex.")
        number = self._by_request.get(request)
        if number is None:
            ids = None if prompt_ids is None else list(prompt_ids)
            self._write({"do": "lend", "request": request, "ids": ids, "budget": budget, "exact": exact})
            number = self._by_request[request]
        return number, dict(self._leases[number].outstanding)

    def report(
        self,
        lease: int,
        delivery: str,
        successes: Mapping[Hashable, float],
        rollouts: Mapping[Hashable, int],
        unscored: Mapping[Hashable, int] | None = None,
    ) -> Answer:
        """Count rewards of a lease's rollouts, all of them or a part; the same delivery again changes nothing.

        Parameters
        ----------
        lease : int
            Number that ``lend`` returned.
        delivery : str
            Name of the delivery, never used for another of this lease.
        successes, rollouts : mapping of prompt id to number
            Sum of the rewards, and the rollouts that have one, of the same prompts. Entries of 0 rollouts are left out.
        unscored : mapping of prompt id to int, or None
            Rollouts that were generated and that nothing could score: spent, but no evidence.

        Returns
        -------
        Answer
            ``COUNTED``, also for a repeated delivery that was counted, and for one without rollouts. ``TOO_LATE`` where the
            lease had ended: its rollouts may be lent again by now, so that these must not be trained on as part of the budget.
            ``UNKNOWN`` where the lease is not among the 10,000 that ended last: this call counted nothing, and whether
            an earlier one did is forgotten.

        Raises
        ------
        ValueError
            For a lease that was never given, successes and rollouts of different prompts, negative rollouts or more than the
            lease has left of a prompt (0 of a prompt that it does not have), fractions of rollouts, and successes out of range.
        TypeError
            For a delivery that is not a string, columns that are no mappings, and entries that are not numbers.
            Nothing changes after any error.

        Examples
        --------
        See :class:`LeaseBook`.
        """
        self.expire()
        instance("delivery", delivery, str, "Name the delivery, for example by uuid.uuid4().hex.")
        number = integer("lease", lease, least=0, remedy="Report with the number that lend returned.")
        if number >= self._next:
            raise ValueError(
                f"lease must be one that lend returned, got {lease!r}. Report with the number you were given."
            )
        scored, sums, missed = self._sums(successes, rollouts, unscored)
        if not scored and not missed:
            self.renew(number)
            return Answer.COUNTED
        if number not in self._leases:
            if number not in self._ended:
                return Answer.UNKNOWN
            return Answer.COUNTED if delivery in self._ended[number] else Answer.TOO_LATE
        if delivery not in self._leases[number].deliveries:
            self._require_in_hand(number, scored, missed)
            bank = self.allocator.bank  # its own check, and its warning, come before the journal
            bank.rewards.feedback(bank.index, list(scored), sums, list(scored.values()))
            self._write(
                {"do": "report", "lease": number, "delivery": delivery, "ids": list(scored), "rollouts": list(scored.values()),
                 "successes": sums, "unscored": list(missed.items())}
            )  # fmt: skip
        return Answer.COUNTED

    def give_back(self, lease: int) -> None:
        """Refund what is left of a lease now, as its time-out would.

        Parameters
        ----------
        lease : int
            Its number; one that has ended is left alone.
        """
        if lease in self._leases:
            self._write({"do": "expire", "leases": [lease]})

    def renew(self, lease: int) -> bool:
        """Restart the lease's time-out.

        Parameters
        ----------
        lease : int
            Its number.

        Returns
        -------
        bool
            Whether the lease still is in hand.
        """
        self.expire()
        if lease in self._leases:
            self._leases[lease].deadline = self._clock() + self._timeout
        return lease in self._leases

    def expire(self) -> list[int]:
        """Refund the leases whose time is over, as lend, report, renew and metrics do first.

        Returns
        -------
        list of int
            Their numbers.
        """
        now = self._clock()
        late = [number for number, lease in self._leases.items() if lease.deadline <= now]
        if late:
            self._write({"do": "expire", "leases": late})
        return late

    def metrics(self) -> dict[str, float]:
        """Return the account in rollouts, and the allocator's own metrics.

        Returns
        -------
        dict of str to float
            At all times lent = scored + unscored + refunded + abandoned + in_hand, in rollouts, where abandoned ones were begun
            with others of their unit and stay spent. ``leases`` counts those in hand.
        """
        self.expire()
        in_hand = sum(sum(lease.outstanding.values()) for lease in self._leases.values())
        account: dict[str, float] = {**self._totals, "in_hand": in_hand, "leases": len(self._leases)}
        return account | self.allocator.metrics(certificate=False)

    def checkpoint(self) -> None:
        """Write the state, and begin an empty journal."""
        leases = [
            (
                number,
                lease.request,
                list(lease.outstanding.items()),
                lease.deadline,
                lease.round,
                sorted(lease.deliveries),
            )
            for number, lease in self._leases.items()
        ]
        ended = [(number, sorted(deliveries)) for number, deliveries in self._ended.items()]
        book = {"entries": self._entries, "next": self._next, "totals": self._totals, "leases": leases, "ended": ended}
        checkpoint.write(self._folder / CHECKPOINT, {"allocator": self.allocator.state_dict(), **book})
        self._journal.truncate(0)  # a crash before this line is harmless: entries are numbered

    def close(self) -> None:
        """Close the journal; the folder holds the whole state."""
        self._journal.close()

    # ------------------------------------------------------------ changes of state, and their journal

    def _sums(
        self,
        successes: Mapping[Hashable, float],
        rollouts: Mapping[Hashable, int],
        unscored: Mapping[Hashable, int] | None,
    ) -> tuple[dict[Hashable, int], list[float], dict[Hashable, int]]:
        """Return scored rollouts, their sums of rewards and unscored rollouts of a report, checked and without zeros."""
        columns = {"successes": successes, "rollouts": rollouts, "unscored": {} if unscored is None else unscored}
        for name, column in columns.items():
            if not isinstance(column, Mapping):
                raise TypeError(error_text(name, "be a mapping", column, "Give a number for each prompt id."))
        if set(successes) != set(rollouts):
            odd = next(iter(set(successes) ^ set(rollouts)))
            raise ValueError(f"successes and rollouts must name the same prompts, got {odd!r} in one. Give both.")
        scored, missed = _whole_counts("rollouts", rollouts), _whole_counts("unscored", columns["unscored"])
        ends = self.allocator.bank.reward_range
        for key, value in successes.items():
            least, most = (end * scored.get(key, 0) for end in ends)
            low, high = least - _ROUNDING * abs(least), most + _ROUNDING * abs(most)
            real(f"successes[{key!r}]", value, low=low, high=high, remedy="Sum the rewards of the prompt's rollouts.")
        return scored, [float(successes[key]) for key in scored], missed

    def _require_in_hand(self, number: int, scored: Mapping[Hashable, int], missed: Mapping[Hashable, int]) -> None:
        """Refuse a report of more than a lease has left."""
        outstanding = self._leases[number].outstanding
        for key in {**scored, **missed}:
            pair, left = (scored.get(key, 0), missed.get(key, 0)), outstanding.get(key, 0)
            if sum(pair) > left:
                raise ValueError(
                    f"rollouts and unscored must sum to at most the {left} that lease {number} has left of prompt {key!r}, "
                    f"got {pair[0]} and {pair[1]}. Report a rollout once."
                )

    def _write(self, entry: dict[str, Any]) -> None:
        """Put an entry into the journal, then apply it."""
        line = json.dumps({"entry": self._entries + 1, **entry}, default=_plain) + "\n"
        size = self._journal.seek(0, 2)
        try:
            self._journal.write(line.encode())
            self._journal.flush()
            if self._durable:
                os.fsync(self._journal.fileno())
        except OSError:
            self._journal.truncate(size)  # leaves no partial line before the next one
            raise
        self._entries += 1
        self._apply(json.loads(line))  # what a restart would read
        if self._entries % self._checkpoint_every == 0:
            self.checkpoint()

    def _apply(self, entry: dict[str, Any]) -> None:
        """Change the state. Only a lend may be refused, by the allocator, which then is the same here and in every replay."""
        if entry["do"] == "lend":
            self._lend(entry["request"], entry["ids"], entry["budget"], entry["exact"])
        elif entry["do"] == "report":
            self._report(entry)
        else:
            for number in entry["leases"]:
                self._expire(number)

    def _lend(self, request: str, ids: list[Hashable] | None, budget: int | None, exact: bool) -> None:
        counts = self.allocator.allocate(ids, budget, exact=exact)
        names = self.allocator.bank.prompt_ids if ids is None else ids
        outstanding = {names[place]: int(counts[place]) for place in counts.nonzero()[0]}
        round_ = self.allocator.round if outstanding else None
        self._leases[self._next] = _Lease(request, outstanding, self._clock() + self._timeout, round_)
        self._by_request[request] = self._next
        self._next += 1
        self._totals["lent"] += sum(outstanding.values())

    def _report(self, entry: dict[str, Any]) -> None:
        lease, unscored = self._leases[entry["lease"]], dict(map(tuple, entry["unscored"]))
        scored = dict(zip(entry["ids"], entry["rollouts"], strict=True))
        self.allocator.update(entry["ids"], entry["successes"], entry["rollouts"], round=lease.round)
        self.allocator.write_off(list(unscored), list(unscored.values()), round=lease.round)
        for key, number in [*scored.items(), *unscored.items()]:
            lease.outstanding[key] -= number
        lease.deliveries.add(entry["delivery"])
        lease.deadline = self._clock() + self._timeout
        self._totals["scored"] += sum(scored.values())
        self._totals["unscored"] += sum(unscored.values())
        if not any(lease.outstanding.values()):
            self._close(entry["lease"])

    def _expire(self, number: int) -> None:
        lease, group = self._leases[number], self.allocator.horizon.unit_size
        back = {key: left // group * group for key, left in lease.outstanding.items()}
        self.allocator.refund(list(back), list(back.values()), round=lease.round)
        begun = {key: left % group for key, left in lease.outstanding.items()}
        self.allocator.write_off(list(begun), list(begun.values()), round=lease.round)
        self._totals["refunded"] += sum(back.values())
        self._totals["abandoned"] += sum(begun.values())
        self._close(number)

    def _close(self, number: int) -> None:
        lease = self._leases.pop(number)
        del self._by_request[lease.request]
        self._ended[number] = lease.deliveries
        if len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]  # the one that ended first

    def _recover(self) -> None:
        """Load the checkpoint and the journal of an earlier process."""
        path = self._folder / CHECKPOINT
        if path.exists():
            state = checkpoint.read(path)
            self.allocator.load_state_dict(state["allocator"])
            self._entries, self._next, self._totals = state["entries"], state["next"], state["totals"]
            for number, request, outstanding, deadline, round_, deliveries in state["leases"]:
                self._leases[number] = _Lease(request, dict(outstanding), deadline, round_, set(deliveries))
            self._ended = {number: set(deliveries) for number, deliveries in state["ended"]}
            self._by_request = {lease.request: number for number, lease in self._leases.items()}
        self._journal = open(self._folder / JOURNAL, "a+b")  # noqa: SIM115 (open as long as the service)
        self._journal.seek(0)
        whole = 0
        for line in self._journal.readlines():
            if not line.endswith(b"\n"):  # cut off by the crash: no client has its answer
                break
            whole += len(line)
            entry = json.loads(line)
            if entry["entry"] > self._entries:
                self._entries = entry["entry"]
                self._replay(entry)
        self._journal.truncate(whole)
        for lease in self._leases.values():  # no report could arrive while the service was down
            lease.deadline = self._clock() + self._timeout

    def _replay(self, entry: dict[str, Any]) -> None:
        """Apply an entry of an earlier process."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AllocationWarning)  # the process that wrote the entry has warned
            try:
                self._apply(entry)
            except Exception:
                if entry["do"] != "lend":  # a lend was refused before, too
                    raise


def _whole_counts(name: str, column: Mapping[Hashable, Any]) -> dict[Hashable, int]:
    """Return the entries that are not 0 as integers of at least 0; whole floats, as tables have them, are integers."""
    counts, remedy = {}, "Report whole rollouts."
    for key, value in column.items():
        label, is_float = f"{name}[{key!r}]", isinstance(value, (float, np.floating))
        if is_float and not value.is_integer():
            raise ValueError(error_text(label, "be a whole number", value, remedy))
        count = integer(label, int(value) if is_float else value, least=0, remedy=remedy)
        if count:
            counts[key] = count
    return counts


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as a number of Python, for the journal."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"the journal takes strings and numbers, got {value!r}. Convert it to one of them.")
