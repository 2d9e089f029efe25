"""Thin adapters that plug an allocator of cero-alloc into a trainer; each needs its trainer installed."""
