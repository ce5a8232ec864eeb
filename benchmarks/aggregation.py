"""Aggregation backends: forward and backward against PyG's propagate and torch-scatter, and "auto" against the best.

One thread, CPU time of this process, interleaved, medians of the rounds; the references stand in the same run.
``python benchmarks/aggregation.py [--quick] [--json FILE] [--markdown FILE]``
"""

import sys

from latticegnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "aggregation", *sys.argv[1:]]))
