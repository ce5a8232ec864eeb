"""Aggregation backends: forward and backward against PyG's propagate and torch-scatter, and "auto" against the best.

One thread, CPU time of this process, interleaved, medians of the rounds; the references stand in the same run.
``python benchmarks/aggregation.py [--quick] [--rounds 5] [--json results.json]``
"""

import argparse
import dataclasses
import json
from pathlib import Path

from latticegnn.benchmarks import aggregation


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one to warm up")
    parser.add_argument("--quick", action="store_true", help="small lattices only, under half a minute")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    options = parser.parse_args()
    results = {}
    for name in ("claims", "grid"):
        rows = getattr(aggregation, name)(options.rounds, options.quick)
        print(f"{name}\n{aggregation.table(rows)}\n", flush=True)
        results[name] = [dataclasses.asdict(row) | {"ratio": row.ratio} for row in rows]
    if options.json:
        options.json.write_text(json.dumps({"rounds": options.rounds} | results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
