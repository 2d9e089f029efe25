"""Ray: one allocator for several trainers and many asynchronous rollout workers, as a named actor."""

from ._service import AllocatorService, Borrowed, Client, start

__all__ = ["AllocatorService", "Borrowed", "Client", "start"]
