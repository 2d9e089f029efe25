"""Regret of Algorithm 1 against its optimum and its bound (regret_sim.py)."""
