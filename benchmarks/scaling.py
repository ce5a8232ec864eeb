"""Models of 37³ to 128³ in seconds and bytes, and what a cell costs from 8³ to 64³.

One thread, CPU time, interleaved, medians of the rounds; the references stand in the same run.
``python benchmarks/scaling.py [--quick] [--json FILE] [--markdown FILE]``
"""

import sys

from latticegnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "scaling", *sys.argv[1:]]))
