"""Train a lattice: the same as ``latticegnn fit``."""

import sys

from latticegnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["fit", *sys.argv[1:]]))
