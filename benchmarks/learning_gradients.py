"""Compare sampled with exact gradients; ``python benchmarks/learning_gradients.py --help`` describes the study."""

import sys

from studies.learning.gradients import main

if __name__ == "__main__":
    sys.exit(main())
