"""A book of leases as a Ray actor, and its clients."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from cero_alloc.integrations._versions import require_version
from cero_alloc.integrations.leases import Answer, LeaseBook

LOWEST, NEWEST = "2.40.0", "2.60.0"  # the versions that the tests passed with


class AllocatorService(LeaseBook):
    """The actor's class: a book of leases whose calls run one at a time.

    Parameters
    ----------
    build : callable
        Returns a freshly built allocator.
    folder : str
        Where checkpoint and journal lie.
    **settings
        As :class:`~cero_alloc.integrations.leases.LeaseBook` takes them.

    Raises
    ------
    TypeError, ValueError
        As :class:`~cero_alloc.integrations.leases.LeaseBook`.

    Examples
    --------
    :func:`start` makes it an actor. In one process, to look into a folder that no actor uses::

        book = AllocatorService(build, "/shared/allocator", timeout=1800)
        print(book.metrics())
        book.close()
    """

    def __init__(self, build: Callable[[], Any], folder: str, **settings: Any) -> None:
        super().__init__(build(), folder, **settings)

    def process_id(self) -> int:
        """Return the id of the actor's process, which a test may kill."""
        return os.getpid()


def start(build: Callable[[], Any], folder: str | Path, *, name: str = "cero-alloc", **settings: Any) -> Any:
    """Start the service, or find the one of that name, and return its handle.

    Parameters
    ----------
    build : callable
        Returns a freshly built allocator: the same one at every call.
    folder : path
        Where checkpoint and journal lie; in a cluster, on a file system that every node reaches. A folder that has them
        already resumes the run in it.
    name : str
        Name in the cluster.
    **settings
        timeout, checkpoint_every, durable: as :class:`~cero_alloc.integrations.leases.LeaseBook` takes them.

    Returns
    -------
    ray.actor.ActorHandle
        Of the service, which outlives the process that started it; ``ray.kill(handle)`` ends it.

    Raises
    ------
    RuntimeError
        For a version of Ray that was not tested.
    TypeError, ValueError
        As :class:`~cero_alloc.integrations.leases.LeaseBook`.

    Examples
    --------
    Two trainers that both call it share one service::

        handle = start(build, "/shared/allocator", name="math", timeout=1800)
    """
    require_version("ray", LOWEST, NEWEST)
    # Calls that the actor's death cut short are made again: requests and deliveries have names, so they count once.
    actor = ray.remote(AllocatorService).options(
        name=name, get_if_exists=True, lifetime="detached", max_restarts=-1, max_task_retries=-1, num_cpus=0
    )
    handle = actor.remote(build, str(folder), **settings)
    ray.get(handle.process_id.remote())  # an error of the constructor shows here
    return handle


@dataclass(frozen=True)
class Borrowed:
    """A lease in a client's hands. It may be sent to other processes, whose clients can report and renew it.

    Attributes
    ----------
    number : int
        Number of the lease in the service's book.
    counts : dict of prompt id to int
        Rollouts to generate of each prompt that gets any.

    Examples
    --------
    As :meth:`Client.allocate` returns it::

        lease = client.allocate(budget=8, exact=True)
        prompts = [prompt for prompt, count in lease.counts.items() for _ in range(count)]
    """

    number: int
    counts: dict[Hashable, int]


class Client:
    """The service as a trainer or a worker sees it: each process makes its own.

    Parameters
    ----------
    name : str
        Name that the service was started with.

    Raises
    ------
    ValueError
        For a name under which no service runs.

    Examples
    --------
    A worker borrows 8 rollouts and reports those of its first prompt::

        client = Client("math")
        lease = client.allocate(budget=8, exact=True)
        prompt, count = next(iter(lease.counts.items()))
        counted = client.report(lease, {prompt: 3.0}, {prompt: count})
        client.give_back(lease)  # the others
    """

    def __init__(self, name: str = "cero-alloc") -> None:
        self._actor = ray.get_actor(name)

    def allocate(
        self,
        prompt_ids: Sequence[Hashable] | None = None,
        budget: int | None = None,
        *,
        exact: bool = False,
        request: str | None = None,
    ) -> Borrowed:
        """Open a round and borrow its rollouts.

        Parameters
        ----------
        prompt_ids, budget, exact
            As the allocator's ``allocate`` takes them.
        request : str or None
            Name of the request, for a caller that may have to make the same one again; None makes one up. The same name gets
            the same lease as long as that is in hand.

        Returns
        -------
        Borrowed
            The lease.

        Raises
        ------
        KeyError, TypeError, ValueError
            As the allocator's ``allocate``; nothing changes.
        """
        named = uuid.uuid4().hex if request is None else request
        return Borrowed(*ray.get(self._actor.lend.remote(named, prompt_ids, budget, exact=exact)))

    def report(
        self,
        lease: Borrowed,
        successes: Mapping[Hashable, float],
        rollouts: Mapping[Hashable, int],
        unscored: Mapping[Hashable, int] | None = None,
        *,
        delivery: str | None = None,
    ) -> Answer:
        """Report rewards of a lease, all of them or a part.

        Parameters
        ----------
        lease : Borrowed
            As :meth:`allocate` returned it.
        successes, rollouts, unscored
            As :meth:`~cero_alloc.integrations.leases.LeaseBook.report` takes them.
        delivery : str or None
            Name of the report, for a caller that may have to make the same one again; None makes one up. The same name counts
            once.

        Returns
        -------
        Answer
            True in an ``if`` where the rollouts count, so that they may be trained on.

        Raises
        ------
        TypeError, ValueError
            As :meth:`~cero_alloc.integrations.leases.LeaseBook.report`; nothing changes.
        """
        named = uuid.uuid4().hex if delivery is None else delivery
        answer: Answer = ray.get(self._actor.report.remote(lease.number, named, successes, rollouts, unscored))
        return answer

    def renew(self, lease: Borrowed) -> bool:
        """Restart the time-out of a lease.

        Parameters
        ----------
        lease : Borrowed
            As :meth:`allocate` returned it.

        Returns
        -------
        bool
            Whether the lease still is in hand.
        """
        return bool(ray.get(self._actor.renew.remote(lease.number)))

    def give_back(self, lease: Borrowed) -> None:
        """Refund what is left of a lease now, as its time-out would.

        Parameters
        ----------
        lease : Borrowed
            As :meth:`allocate` returned it. One that has ended is left alone.
        """
        ray.get(self._actor.give_back.remote(lease.number))

    def metrics(self) -> dict[str, float]:
        """Return the account in rollouts, and the allocator's metrics.

        Returns
        -------
        dict of str to float
            As :meth:`~cero_alloc.integrations.leases.LeaseBook.metrics`.
        """
        return dict(ray.get(self._actor.metrics.remote()))
