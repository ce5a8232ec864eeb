"""Judge the classifiers of trajectories on systems whose class is known, and print how often they are right.

Run as `python tests/validate_trajectory.py --seeds 10`. Every seed draws new parameters and starts for each system; the
classifiers see the states alone. Rows are what a system is, columns what was told. The exit status is 1 where fewer
than 95 % are told right.
"""

import argparse
import sys
from collections import Counter

from latticegnn.analysis import confusion, known_runs


def table(title: str, counts: Counter[tuple[str, str]]) -> float:
    told = sorted({name for _, name in counts})
    right, total = sum(n for (known, name), n in counts.items() if known == name), sum(counts.values())
    print(f"\n{title}: {right} of {total} right, {right / total:.1%}")
    width = max(len(name) for pair in counts for name in pair) + 2
    print("".join(name.rjust(width) for name in ["known \\ told", *told]))
    for known in sorted({known for known, _ in counts}):
        print("".join(cell.rjust(width) for cell in [known, *(str(counts[known, name]) for name in told)]))
    return right / total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="runs of each system")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    time, space, wrong = confusion(run for seed in seeds for run in known_runs(seed))
    shares = [table("time", time), table("space", space)]
    for line, count in Counter(wrong).most_common():
        print(f"{count} × {line}")
    return int(min(shares) < 0.95)


if __name__ == "__main__":
    sys.exit(main())
