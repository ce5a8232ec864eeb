"""Data that must not be waited for: cached reading, embedding, batches, and a file larger than what is held of it.

One thread; interleaved where two are compared, medians of the rounds; the references stand in the same run.
``python benchmarks/data.py [--quick] [--json FILE] [--markdown FILE]``
"""

import sys

from latticegnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "data", *sys.argv[1:]]))
