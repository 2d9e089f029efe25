"""Print the files that a call passes through; ``python benchmarks/flow.py --help`` says what is counted."""

import sys

from studies.flow import main

if __name__ == "__main__":
    sys.exit(main())
