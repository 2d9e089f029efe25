"""How well beliefs foretell the next group, and what rewards other than 0 and 1 are worth (belief.py)."""
