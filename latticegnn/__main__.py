"""``python -m latticegnn`` is the command ``latticegnn``."""

import sys

from latticegnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
