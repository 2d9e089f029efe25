"""Adapters that plug an allocator into a trainer: ``trl``, ``verl``, ``openrlhf``, ``ray``, and ``leases`` for many workers.

Each is imported by name and needs its trainer installed; the package itself needs none.
"""
