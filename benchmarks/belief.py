"""Measure how well beliefs foretell the next group; ``python benchmarks/belief.py --help`` describes the study."""

import sys

from studies.belief.main import main

if __name__ == "__main__":
    sys.exit(main())
