"""Adapters that plug an allocator into a trainer: ``trl``, ``trl_async``, ``verl``, ``openrlhf``, ``tinker``,
``ray``, and ``leases`` for many workers.

Each is imported by name and needs its trainer installed; the package itself needs none.
"""
