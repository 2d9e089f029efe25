"""Times and memory (speed.py, speed_against.py and one script per single comparison)."""
