"""Compare all policies at equal rollouts; ``python benchmarks/peers.py --help`` describes the study."""

import sys

from studies.peers.main import main

if __name__ == "__main__":
    sys.exit(main())
