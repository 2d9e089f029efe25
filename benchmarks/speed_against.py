"""Compare the speed of two source trees; ``python benchmarks/speed_against.py --help`` says how."""

import sys

from studies.speed.against import main

if __name__ == "__main__":
    sys.exit(main())
