r"""A pool of prompts split over Ray actors, one price, and the counts of a single process, exactly.

On one machine, 10 million prompts in 1, 2 and 4 shards, then 10 million in each; a minute or two::

    pip install -e ".[ray]"
    python examples/ray_sharded.py

In a cluster, ``--address auto`` spreads the shards over its nodes. A round takes two trips to every shard; what travels does
not depend on the size of the pool.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import ray

from cero_alloc import BetaPosteriorBank, FenchelDualAllocator, Horizon
from cero_alloc.sharding import PoolShard, ShardedAllocator
from ray_service import join


def over_actors(shards: Sequence[Any], method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call a method of every shard's actor; Ray keeps the order of one caller's calls."""
    return ray.get([getattr(shard, method).remote(*words) for shard, words in zip(shards, arguments, strict=True)])


class ShardActor(PoolShard):
    """A shard that makes its own bank, so that no evidence travels."""

    def __init__(self, horizon: Horizon, start: int, stop: int, forgetting: float, seed: int) -> None:
        super().__init__(BetaPosteriorBank(stop - start, forgetting=forgetting), horizon, start, seed=seed)


def start(
    horizon: Horizon, n_shards: int, *, forgetting: float = 1.0, seed: int = 0, catch_up: bool = False
) -> ShardedAllocator:
    """Start a shard per actor and return their allocator.

    Parameters
    ----------
    horizon : Horizon
        The run.
    n_shards : int
        Actors; Ray places them where there is room, ``num_cpus=1`` each.
    forgetting, seed, catch_up
        As in :class:`~cero_alloc.BetaPosteriorBank` and :class:`~cero_alloc.FenchelDualAllocator`.
    """
    bounds = np.linspace(0, horizon.n_prompts, n_shards + 1).astype(int).tolist()
    # The state of a shard is in its memory alone: one that dies is an error, and all are loaded from their last states.
    actor = ray.remote(ShardActor).options(num_cpus=1, scheduling_strategy="SPREAD")
    shards = [actor.remote(horizon, a, b, forgetting, seed) for a, b in pairwise(bounds)]
    return ShardedAllocator(shards, horizon, gather=over_actors, catch_up=catch_up)


def stop(allocator: ShardedAllocator) -> None:
    """End the actors."""
    for shard in allocator.shards:
        ray.kill(shard)


# ---------------------------------------------------------------- the measurement


def horizon_of(n_prompts: int, n_rounds: int, batch: int) -> Horizon:
    """Return a run that deals ``batch`` prompts 8 rollouts each in every round."""
    return Horizon(
        n_prompts=n_prompts, n_rounds=n_rounds, total_budget=8 * batch * n_rounds, unit_size=8, max_rollouts=8,
        round_capacity=8 * batch,
    )  # fmt: skip


def play(allocator: Any, n_rounds: int, rates: np.random.Generator) -> tuple[list[float], list[tuple[Any, Any]]]:
    """Return the seconds of each round, and what was dealt."""
    seconds, dealt = [], []
    sparse = isinstance(allocator, ShardedAllocator)
    for _ in range(n_rounds):
        begin = time.perf_counter()
        if sparse:
            rows, rollouts = allocator.allocate()
        else:
            counts = allocator.allocate()
            rows = np.flatnonzero(counts)
            rollouts = counts[rows]
        allocator.update(rows, rates.binomial(rollouts, 0.3), rollouts)
        seconds.append(time.perf_counter() - begin)
        dealt.append((rows, rollouts))
    return seconds[1:], dealt  # the first compiles


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a running cluster; none starts Ray here")
    parser.add_argument("--prompts", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch", type=int, default=1024, help="prompts a round")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    join(options.address)
    n_rounds = options.rounds
    print("prompts      shards  seconds a round: median (min - max)  million prompts a second  as one process")
    cost = None
    for total in dict.fromkeys([options.prompts, *(options.prompts * n for n in options.shards)]):
        horizon = horizon_of(total, 1000, options.batch)
        whole = FenchelDualAllocator(
            BetaPosteriorBank(total), total_budget=horizon.total_budget, n_rounds=1000, unit_size=8, max_rollouts=8,
            round_capacity=8 * options.batch,
        )  # fmt: skip
        alone, expected = play(whole, n_rounds, np.random.default_rng(0))
        del whole
        for n in options.shards if total == options.prompts else [total // options.prompts]:
            split = start(horizon, n)
            seconds, dealt = play(split, n_rounds, np.random.default_rng(0))
            stop(split)
            same = all(
                np.array_equal(a, b)
                for one, two in zip(dealt, expected, strict=True)
                for a, b in zip(one, two, strict=True)
            )
            middle = statistics.median(seconds)
            cost = middle / total if n == 1 and cost is None else cost
            print(
                f"{total:11,}  {n:6}  {middle:.3f} ({min(seconds):.3f} - {max(seconds):.3f})                {total / middle / 1e6:9.1f}"
                f"                 {'equal' if same else 'DIFFERENT'}, {statistics.median(alone):.3f} s"
            )
    if cost is not None:
        estimate(cost, options.batch)
    ray.shutdown()


def estimate(cost: float, batch: int) -> None:
    """Print what a cluster should take: on paper, from the cost per prompt measured above and the merge's, measured here."""
    n_shards, prompts, trip, bandwidth = 128, 10**9, 1e-3, 1.25e9  # 16 nodes of 8; a trip of 1 ms; 10 Gbit/s
    horizon = horizon_of(n_shards * batch, 100, batch)
    tiny = [PoolShard(BetaPosteriorBank(batch), horizon, place * batch) for place in range(n_shards)]
    merge = statistics.median(play(ShardedAllocator(tiny, horizon), 8, np.random.default_rng(0))[0])
    share, kilobytes = prompts // n_shards, n_shards * batch * 24 / 1e3
    passes, network = cost * share, 2 * trip + 1e3 * kilobytes / bandwidth
    print(f"On paper, {prompts:,} prompts in {n_shards} shards: {passes + network + merge:.2f} s a round, of which")
    print(f"  {passes:.3f} s for {share:,} prompts a shard at {1e9 * cost:.0f} ns each, as measured above,")
    print(f"  {network:.3f} s for two trips of 1 ms and {kilobytes:.0f} kB of candidates at 10 Gbit/s,")
    print(
        f"  {merge:.3f} s to merge them, measured in this process as a round of {n_shards} shards of {batch} prompts."
    )


if __name__ == "__main__":
    main()
