"""`python -m tools.benchmarks`: what the launcher tools/bench runs.

Invariant: importing this module runs nothing, since the workers of B6 import it anew.
"""

import sys

from tools.benchmarks.cli import main

if __name__ == "__main__":
    sys.exit(main())
