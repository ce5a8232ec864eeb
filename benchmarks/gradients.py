"""Every way back through a rollout: time, peak memory, and the cosine to the exact gradient.

One thread, CPU time, interleaved, medians of the rounds; full backpropagation stands in the same run.
``python benchmarks/gradients.py [--quick] [--json FILE] [--markdown FILE]``
"""

import sys

from latticegnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "gradients", *sys.argv[1:]]))
