"""Time the TRL adapter; ``python benchmarks/trl_overhead.py --help`` describes the run."""

import sys

from studies.speed.trl import main

if __name__ == "__main__":
    sys.exit(main())
