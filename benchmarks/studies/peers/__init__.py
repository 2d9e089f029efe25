"""All policies at equal rollouts (peers.py)."""
