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
from cero_alloc.integrations.leases import LeaseBook

LOWEST, NEWEST = "2.40.0", "2.60.0"  # the versions that the tests passed with


class AllocatorService(LeaseBook):
    """A book of leases as an actor; its calls run one at a time."""

    def __init__(self, build: Callable[[], Any], folder: str, **settings: Any) -> None:
        super().__init__(build(), folder, **settings)

    def process_id(self) -> int:
        """Return the actor's process, which a test may kill."""
        return os.getpid()


def start(build: Callable[[], Any], folder: str | Path, *, name: str = "cero-alloc", **settings: Any) -> Any:
    """Start the service, or find the one of that name, and return its handle.

    Parameters
    ----------
    build : callable
        Returns a freshly built allocator: the same one at every call.
    folder : path
        Where checkpoint and journal lie; in a cluster, on a file system that every node reaches.
    name : str
        Name in the cluster.
    **settings
        timeout, checkpoint_every, durable: as :class:`~cero_alloc.integrations.leases.LeaseBook` takes them.

    Raises
    ------
    RuntimeError
        For a version of Ray that was not tested.
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
    """A lease in a client's hands: its number, and the rollouts of each prompt."""

    number: int
    counts: dict[Hashable, int]


class Client:
    """The service as a trainer or a worker sees it.

    Parameters
    ----------
    name : str
        Name that the service was started with.
    """

    def __init__(self, name: str = "cero-alloc") -> None:
        self._actor = ray.get_actor(name)

    def allocate(
        self, prompt_ids: Sequence[Hashable] | None = None, budget: int | None = None, *, exact: bool = False
    ) -> Borrowed:
        """Open a round and borrow its rollouts; arguments and errors as the allocator's."""
        number, counts = ray.get(self._actor.lend.remote(uuid.uuid4().hex, prompt_ids, budget, exact=exact))
        return Borrowed(number, counts)

    def report(
        self,
        lease: Borrowed,
        successes: Mapping[Hashable, float],
        rollouts: Mapping[Hashable, int],
        unscored: Mapping[Hashable, int] | None = None,
    ) -> bool:
        """Report rewards; False: the lease has timed out, and these rollouts are no part of the budget any more."""
        delivery = uuid.uuid4().hex
        return bool(ray.get(self._actor.report.remote(lease.number, delivery, successes, rollouts, unscored)))

    def renew(self, lease: Borrowed) -> bool:
        """Ask for more time; return whether the lease still is in hand."""
        return bool(ray.get(self._actor.renew.remote(lease.number)))

    def give_back(self, lease: Borrowed) -> None:
        """Return what is left of a lease."""
        ray.get(self._actor.give_back.remote(lease.number))

    def metrics(self) -> dict[str, float]:
        """Return the account and the allocator's metrics."""
        return dict(ray.get(self._actor.metrics.remote()))
