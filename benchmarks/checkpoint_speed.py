"""Time checkpoints against NumPy's files; ``python benchmarks/checkpoint_speed.py --help`` describes the tables."""

import sys

from studies.speed.checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
