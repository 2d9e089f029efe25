r"""One allocator for several trainers and many asynchronous rollout workers: a named Ray actor.

The demonstration runs on one machine without a GPU in half a minute: forty workers, eight at a time; two of them and the
actor are killed::

    pip install -e ".[ray]"
    python examples/ray_service.py

In a cluster, the driver starts the service once, and every process in the cluster finds it by its name::

    from cero_alloc.integrations.ray import Client, start

    start(build, "/shared/allocator", name="math", timeout=1800)   # build() returns a fresh allocator
    client = Client("math")
    lease = client.allocate(budget=1024)                           # in a trainer, or in a worker itself
    client.report(lease, {"gsm8k-17": 3.0}, {"gsm8k-17": 8})       # wherever the rollouts are scored

Late, split and repeated feedback is fine; ``docs/ray.md`` says what becomes of it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import ray

from cero_alloc.integrations.ray import Client, start


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
            if client.report(lease, {prompt: right}, {prompt: count}):
                counted += count
    return counted


def demo_allocator() -> Any:
    """Return an allocator over 200 prompts, in whole groups of 4."""
    from cero_alloc import training_allocator

    return training_allocator(200, total_budget=16_000, n_rounds=500, rollouts_per_visit=4, unit_size=4)


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
