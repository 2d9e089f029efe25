"""Time the exact allocation of one batch; ``python benchmarks/separable_speed.py --help`` describes the methods."""

import sys

from studies.speed.separable import main

if __name__ == "__main__":
    sys.exit(main())
