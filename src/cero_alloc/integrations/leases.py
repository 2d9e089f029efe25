"""Rollouts lent to workers: each is reported once or refunded once, also after crashes, repeated calls and late reports.

The module does not depend on Ray. A client names every request and every delivery; a repeated one counts once. Every change
of the account is written to a journal before it is made, and a service that starts in the same folder resumes from the last
checkpoint and the journal after it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cero_alloc import checkpoint

CHECKPOINT, JOURNAL = "allocator.npz", "journal.jsonl"
REMEMBERED = 10_000  # leases that ended last: a client may repeat a delivery whose answer was lost


@dataclass
class Lease:
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
    timeout : float
        Seconds without a report after which a lease's rollouts return to the budget.
    checkpoint_every : int
        Journal entries between checkpoints.
    durable : bool
        Whether every journal entry is flushed to the disk, to survive a power cut; if not, it survives a crash of the process.
    clock : callable
        Seconds; only differences count.

    Raises
    ------
    TypeError
        For prompt ids that are neither strings nor integers.
    ValueError
        For a folder whose checkpoint belongs to another run.
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
        self.allocator, self._folder, self._timeout = allocator, Path(folder), timeout
        self._checkpoint_every, self._durable, self._clock = checkpoint_every, durable, clock
        self._leases: dict[int, Lease] = {}
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
        """Open a round and lend its rollouts; the same request again gets the same lease.

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
            As ``allocator.allocate``; nothing changes.
        """
        self.expire()
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
    ) -> bool:
        """Count rewards of a lease's rollouts, all of them or a part; the same delivery again changes nothing.

        Parameters
        ----------
        lease : int
            Number that ``lend`` returned.
        delivery : str
            Name of the delivery, never used for another of this lease.
        successes, rollouts : mapping of prompt id to number
            Sum of the rewards, and the rollouts that have one.
        unscored : mapping of prompt id to int, or None
            Rollouts that were generated and that nothing could score: spent, but no evidence.

        Returns
        -------
        bool
            Whether the delivery counts. False: the lease has ended, and its rollouts may be lent again by now, so that these
            must not be trained on as part of the budget.

        Raises
        ------
        ValueError
            For a lease that was never given, more rollouts than it has left, or successes and rollouts of different prompts;
            nothing changes.
        """
        self.expire()
        if set(successes) != set(rollouts):
            odd = next(iter(set(successes) ^ set(rollouts)))
            raise ValueError(f"successes and rollouts must name the same prompts, got {odd!r} in one. Give both.")
        if not 0 <= lease < self._next:
            raise ValueError(
                f"lease must be one that lend returned, got {lease!r}. Report with the number you were given."
            )
        if lease not in self._leases:
            return delivery in self._ended.get(lease, ())
        if delivery in self._leases[lease].deliveries:
            return True
        self._write(
            {"do": "report", "lease": lease, "delivery": delivery, "ids": list(rollouts), "rollouts": list(rollouts.values()),
             "successes": [successes[key] for key in rollouts], "unscored": list((unscored or {}).items())}
        )  # fmt: skip
        return True

    def give_back(self, lease: int) -> None:
        """Refund what is left of a lease now, as its time-out would."""
        if lease in self._leases:
            self._write({"do": "expire", "leases": [lease]})

    def renew(self, lease: int) -> bool:
        """Restart the lease's time-out; return whether the lease is still open."""
        self.expire()
        if lease in self._leases:
            self._leases[lease].deadline = self._clock() + self._timeout
        return lease in self._leases

    def expire(self) -> list[int]:
        """Refund the leases whose time is over, and return their numbers."""
        now = self._clock()
        late = [number for number, lease in self._leases.items() if lease.deadline <= now]
        if late:
            self._write({"do": "expire", "leases": late})
        return late

    def metrics(self) -> dict[str, float]:
        """Return the account in rollouts, and the allocator's own metrics.

        At all times lent = scored + unscored + refunded + abandoned + in_hand, where abandoned ones were begun with others of
        their group and stay spent.
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
        """Change the state; an entry that is refused leaves it alone, here and in every replay."""
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
        self._leases[self._next] = Lease(request, outstanding, self._clock() + self._timeout, round_)
        self._by_request[request] = self._next
        self._next += 1
        self._totals["lent"] += sum(outstanding.values())

    def _report(self, entry: dict[str, Any]) -> None:
        lease, unscored = self._leases[entry["lease"]], dict(map(tuple, entry["unscored"]))
        scored = dict(zip(entry["ids"], entry["rollouts"], strict=True))
        for key in {**scored, **unscored}:
            pair = (scored.get(key, 0), unscored.get(key, 0))
            if min(pair) < 0 or sum(pair) > lease.outstanding.get(key, 0):
                raise ValueError(
                    f"rollouts and unscored must be between 0 and the {lease.outstanding.get(key, 0)} that lease "
                    f"{entry['lease']} has left of prompt {key!r}, got {pair[0]} and {pair[1]}. Report a rollout once."
                )
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
                self._leases[number] = Lease(request, dict(outstanding), deadline, round_, set(deliveries))
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
                try:
                    self._apply(entry)
                except (KeyError, TypeError, ValueError):
                    continue  # was refused before, too
        self._journal.truncate(whole)
        for lease in self._leases.values():  # no report could arrive while the service was down
            lease.deadline = self._clock() + self._timeout


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as a number of Python."""
    return value.item()
