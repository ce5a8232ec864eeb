"""Batches a second through the real trainer, and what it adds to a plain loop.

One thread and two; the rate by the clock, the overhead in CPU time, each window of updates against the plain loop's.
``python benchmarks/trainer.py [--quick] [--json FILE] [--markdown FILE]``
"""

import sys

from latticegnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "trainer", *sys.argv[1:]]))
