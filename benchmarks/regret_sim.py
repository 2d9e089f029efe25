"""Measure the regret of Algorithm 1; ``python benchmarks/regret_sim.py --help`` describes the study."""

import sys

from studies.regret.main import main

if __name__ == "__main__":
    sys.exit(main())
