"""What the cells of trained runs keep on larger cubes: prints a table for each run and draws its curve.

``latticegnn experiment --config configs/experiments/size.yaml`` trains two; then
``python benchmarks/size.py runs/size/lasting-*/ [--sides 8 12 16 24 37] [--rows 16] [--updates 24] [--few 4]``
Each run's folder gets ``sizes.json`` and ``figures/retention.png``.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from latticegnn.benchmarks.results import Result
from latticegnn.benchmarks.size import SIZES_FILE, measure_run, size_table
from latticegnn.report.run import draw_run


def main() -> int:
    """Measure the runs that the command line names."""
    parser = argparse.ArgumentParser(description="Evaluate trained runs on lattices of other sizes.")
    parser.add_argument("runs", nargs="+", type=Path, help="Folders of runs with port_map: bilinear.")
    parser.add_argument("--sides", nargs="+", type=int, default=[8, 12, 16, 24, 37], help="Sides of the cubes.")
    parser.add_argument("--rows", type=int, default=16, help="Test rows that are evaluated.")
    parser.add_argument("--updates", type=int, default=24, help="Updates of fine-tuning; 0 leaves it out.")
    parser.add_argument("--few", type=int, default=4, help="Updates at more than 2^13 cells.")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    for run in given.runs:
        try:
            measure_run(run, given.sides, given.rows, given.updates, given.few)
        except (ValueError, OSError) as error:
            print(f"size.py: {error}", file=sys.stderr)
            return 2
        draw_run(run)
        content = json.loads((run / SIZES_FILE).read_text(encoding="utf-8"))
        table = size_table(run.name.rpartition("-seed")[0] or run.name, content["trained"], content["sizes"])
        print(Result("size", [table], []).markdown(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
