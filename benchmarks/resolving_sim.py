"""Measure the re-solving allocator; ``python benchmarks/resolving_sim.py --help`` describes the study."""

import sys

from studies.resolving.main import main

if __name__ == "__main__":
    sys.exit(main())
