"""Time the package; ``python benchmarks/speed.py --help`` describes the sections."""

import sys

from studies.speed.main import main

if __name__ == "__main__":
    sys.exit(main())
