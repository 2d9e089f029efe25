"""Ray: one allocator for several trainers and many asynchronous rollout workers, as a named actor.

A driver starts the service once; every process of the cluster finds it by its name::

    from cero_alloc import training_allocator
    from cero_alloc.integrations.ray import Client, start

    def build():
        return training_allocator(["a", "b"], total_budget=64, n_rounds=8, rollouts_per_visit=4)

    start(build, "/shared/allocator", name="math", timeout=1800)
    client = Client("math")
    lease = client.allocate(budget=8, exact=True)
    successes = {prompt: 1.0 for prompt in lease.counts}  # of the rollouts that were generated
    if client.report(lease, successes, rollouts=lease.counts):
        ...  # train on them
"""

from cero_alloc.integrations.leases import Answer

from ._service import AllocatorService, Borrowed, Client, start

__all__ = ["AllocatorService", "Answer", "Borrowed", "Client", "start"]
