"""Draw the picture that opens the README; ``python benchmarks/overview.py --help`` describes it."""

import sys

from studies.resolving.overview import main

if __name__ == "__main__":
    sys.exit(main())
