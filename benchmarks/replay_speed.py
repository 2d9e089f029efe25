"""Time the command ``replay``; ``python benchmarks/replay_speed.py --help`` describes the log."""

import sys

from studies.speed.replay import main

if __name__ == "__main__":
    sys.exit(main())
