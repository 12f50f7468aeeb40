"""`python -m tools.benchmarks`: the program that tools/bench starts.

Invariant: importing this module runs nothing, since the workers of B6 import it again.
"""

import sys

from tools.benchmarks.cli import main

if __name__ == "__main__":
    sys.exit(main())
