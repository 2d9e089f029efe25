"""Adapters that plug an allocator into a trainer, each imported by name.

``trl``, ``trl_async``, ``verl``, ``openrlhf``, ``tinker`` and ``ray`` need theirs installed; ``leases``, one allocator for many
workers, and the package itself need none.
"""
