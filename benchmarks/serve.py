"""The HTTP service: requests a second, their times, what bad clients do to them, and memory over 100,000 requests.

The service and its clients are processes of one thread each; the model alone is measured in the same run.
``python benchmarks/serve.py [--quick] [--json FILE] [--markdown FILE]``
"""

import sys

from latticegnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "serve", *sys.argv[1:]]))
