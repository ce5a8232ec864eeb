"""What a question costs, from text to answers: against the teacher alone, in a stream, and among many answers.

One thread; interleaved, so that the references stand in the same run.
``python benchmarks/predict.py [--quick] [--json FILE] [--markdown FILE]``
"""

import sys

from latticegnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "predict", *sys.argv[1:]]))
