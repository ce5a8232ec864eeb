"""Aggregation backends against PyG's default propagate: forward and backward of one step's sums over both tiers.

One thread, CPU time of this process, backends interleaved, medians over the rounds; the reference stands in the same
run. ``python benchmarks/aggregation.py [--rounds 7] [--json results.json]``
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from latticegnn.aggregate import BACKENDS, Moment, aggregator
from latticegnn.lattice import LatticeSpec, Tier, build_graph

REFERENCE = "edge"
CASES = (((8, 8, 8), 32, 8), ((8, 8, 8), 32, 64), ((16, 16, 16), 1, 32), ((16, 16, 16), 4, 32))


def milliseconds(module: nn.Module, x: torch.Tensor) -> float:
    """Time one forward and backward pass, in CPU milliseconds."""
    x = x.detach().requires_grad_()
    start = time.process_time()
    module(x).square().sum().backward()
    return 1e3 * (time.process_time() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, after one to warm up")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"{'lattice':>12} {'B':>3} {'F':>3} {'backend':>8} {'median ms':>10} {'× ' + REFERENCE:>8}")
    for shape, batch, channels in CASES:
        graph = build_graph(LatticeSpec(shape))
        moments: tuple[Moment, ...] = ("mean", "gradient")
        functionals = [(tier, moment) for tier in (Tier.FUNCTIONAL, Tier.DISTANT) for moment in moments]
        modules = {name: aggregator(graph, functionals, name) for name in BACKENDS}
        x = torch.randn(graph.num_nodes, batch, channels, generator=torch.Generator().manual_seed(0))
        times: dict[str, list[float]] = {name: [] for name in modules}
        for round_ in range(options.rounds + 1):
            for name, module in modules.items():
                figure = milliseconds(module, x)
                if round_ > 0:
                    times[name].append(figure)
        reference = statistics.median(times[REFERENCE])
        for name, figures in times.items():
            median = statistics.median(figures)
            rows.append({"shape": shape, "batch": batch, "channels": channels, "backend": name, "ms": median})
            rows[-1]["times_faster"] = reference / median
            size = "×".join(map(str, shape))
            print(f"{size:>12} {batch:>3} {channels:>3} {name:>8} {median:>10.1f} {reference / median:>8.1f}")
    if options.json:
        options.json.write_text(json.dumps({"rounds": options.rounds, "rows": rows}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
