"""Batches a second through the real trainer, and what it adds to a plain loop.

One thread, CPU time, interleaved, medians of the rounds; the references stand in the same run.
``python benchmarks/trainer.py [--quick] [--json FILE] [--markdown FILE]``
"""

import sys

from latticegnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "trainer", *sys.argv[1:]]))
