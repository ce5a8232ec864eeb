"""The cell's training step, readable, fused and as its bare matrix products, and against a Conv3d automaton.

One thread, CPU time, interleaved, medians of the rounds; the references stand in the same run.
``python benchmarks/step.py [--quick] [--json FILE] [--markdown FILE]``
"""

import sys

from latticegnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "step", "peer", *sys.argv[1:]]))
