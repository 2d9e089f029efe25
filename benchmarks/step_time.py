"""Compare rollouts, tokens and time of a step; ``python benchmarks/step_time.py --help`` describes the study."""

import sys

from studies.step_time import main

if __name__ == "__main__":
    sys.exit(main())
