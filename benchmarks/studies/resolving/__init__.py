"""The re-solving allocator and the fitted prior (resolving_sim.py, overview.py)."""
