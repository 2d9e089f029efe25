r"""One allocator for several trainers and many asynchronous rollout workers: a named Ray actor.

The demonstration runs on one machine without a GPU in half a minute: forty workers, eight at a time; some of them and
the actor are killed::

    pip install -e ".[ray]"
    python examples/ray_service.py

In a cluster, the driver starts the service once, and every process in the cluster finds it by its name::

    from ray_service import Client, start

    start(build, "/shared/allocator", name="math", timeout=1800)   # build() returns a fresh allocator
    client = Client("math")
    lease = client.allocate(budget=1024)                           # in a trainer, or in a worker itself
    client.report(lease, {"gsm8k-17": 3.0}, {"gsm8k-17": 8})       # wherever the rollouts are scored

Late, split and repeated feedback is fine. Rollouts of a worker that does not report within the time-out return to the budget,
and what it might still deliver is refused. An actor that dies is started again by Ray, and carries on from its last checkpoint
and the journal after it, wherever the folder can be reached.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from adapters.common import require_version
from adapters.leases import LeaseBook

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
        timeout, checkpoint_every, durable: as :class:`~adapters.leases.LeaseBook` takes them.

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


# ---------------------------------------------------------------- the demonstration


@ray.remote(num_cpus=0, max_retries=0)
def work(name: str, n_leases: int, seed: int, doomed: bool) -> int:
    """Borrow 32 rollouts at a time and report them in pieces; return how many were counted. The doomed die at it."""
    rng, client, counted = random.Random(seed), Client(name), 0
    end = rng.randrange(n_leases) if doomed else n_leases
    for turn in range(n_leases):
        lease = client.allocate(budget=32, exact=True)
        for place, (prompt, count) in enumerate(lease.counts.items()):
            time.sleep(rng.uniform(0.0, 0.01))  # generation
            if turn == end and place == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            right = sum(rng.random() < (prompt % 10) / 9 for _ in range(count))
            counted += count * client.report(lease, {prompt: right}, {prompt: count})
    return counted


def demo_allocator() -> Any:
    """Return an allocator over 200 prompts."""
    from cero_alloc import BetaPosteriorBank, FenchelDualAllocator

    return FenchelDualAllocator(
        BetaPosteriorBank(200), total_budget=16_000, n_rounds=1000, unit_size=4, max_rollouts=8, round_capacity=32
    )


def join(address: str | None) -> None:
    """Join the cluster at an address, or start Ray on this machine."""
    local = {} if address else {"num_cpus": 8, "include_dashboard": False}
    paths = os.pathsep.join([str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")])
    ray.init(
        address=address, namespace="cero-alloc", log_to_driver=False, logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": paths}}, **local,
    )  # fmt: skip


def main() -> None:
    """Run workers, kill some of them and the actor, and print the account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a running cluster; none starts Ray here")
    parser.add_argument("--workers", type=int, default=40)
    parser.add_argument("--leases", type=int, default=10, help="leases that each worker asks for")
    parser.add_argument("--folder", help="for checkpoint and journal; none takes a temporary one")
    options = parser.parse_args()
    join(options.address)
    folder, name = options.folder or tempfile.mkdtemp(), f"demo-{uuid.uuid4().hex[:8]}"
    service = start(demo_allocator, folder, name=name, timeout=3.0, checkpoint_every=200)
    fates = [number % 20 == 10 for number in range(options.workers)]  # one in twenty
    queue, running, counted, lost = list(enumerate(fates)), [], 0, 0
    while queue or running:
        while queue and len(running) < 8:
            number, doomed = queue.pop(0)
            running.append(work.remote(name, options.leases, number, doomed))
        if len(queue) == options.workers // 2:
            os.kill(ray.get(service.process_id.remote()), signal.SIGKILL)  # Ray starts it again
        (done,), running = ray.wait(running)
        try:
            counted += ray.get(done)
        except ray.exceptions.WorkerCrashedError:
            lost += 1
    time.sleep(3.5)  # until the leases of the dead are over
    account = Client(name).metrics()
    print(f"{options.workers} workers, {lost} of them killed, and the actor once. Rollouts:")
    for key in ("lent", "scored", "unscored", "refunded", "abandoned", "in_hand", "remaining_budget"):
        print(f"{key:>17} {account[key]:7.0f}")
    parts = sum(account[key] for key in ("scored", "unscored", "refunded", "abandoned", "in_hand"))
    spent = account["lent"] - account["refunded"]
    print(f"lent = scored + unscored + refunded + abandoned + in_hand: {account['lent'] == parts}")
    print(f"spent + remaining = total: {spent + account['remaining_budget'] == 16_000}")
    print(f"{counted} were counted by the workers that lived.")
    ray.kill(service)
    ray.shutdown()


if __name__ == "__main__":
    main()
