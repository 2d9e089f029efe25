"""Train policies on the rollouts of each allocator; ``python benchmarks/learning.py --help`` describes the study."""

import sys

from studies.learning.main import main

if __name__ == "__main__":
    sys.exit(main())
