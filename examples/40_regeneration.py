"""A quarter of the cube dies, and it heals: but only if it was hurt in training.

Digits enter a 5×5×5 lattice once and are held at the opposite face by its cells. Two lattices are trained alike, but
that one loses a quarter of its volume at a random step of three in four rollouts (Mordvintsev et al., 2020). Then a
quarter is set to zero after the answer has formed: spheres, boxes and slabs, four of each, on digits that training
never saw. Nothing lays the digit anew: what comes back, comes from the cells that are left.

Run it from the repository: ``python examples/40_regeneration.py`` (three seeds; runs that are done are kept), or with
``--quick`` for one seed, one epoch and three lesions, to see that it runs. It needs scikit-learn for the digits.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
import yaml
from sklearn.datasets import load_digits
from torch import Tensor

import latticegnn as lg
from latticegnn.analysis import RandomRegion, explained, recovered_in, recovery
from latticegnn.report import recovery_curves, save
from latticegnn.training.experiment import load_experiment, run_experiment

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "experiments" / "regeneration.yaml"
AT, AFTER = 12, 10  # the blow's step, and the steps after it that are looked at: no further than training went
SHOWN = (0, 2, 4, 6, 8, 10)
NAMES = {"damage": "trained with damage", "twin": "trained without"}
Course = list[dict[str, float]]
LESIONS = [RandomRegion(0.25, shape, seed) for shape in ("sphere", "box", "half") for seed in range(4)]


def prepare(folder: Path, quick: bool) -> Path:
    """Write the digits into a folder, and the experiment with this folder's paths; return the experiment's file."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "digits.npy", (load_digits().data / 16).astype(np.float32))
    content = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    content |= {"base": str(CONFIG.parent / content["base"]), "run_dir": str(folder)}
    content["settings"]["data"]["path"] = str(folder / "digits.npy")
    content["settings"] |= {"log_level": "warning"}
    content["settings"]["trainer"]["enable_progress_bar"] = False
    if quick:
        content |= {"seeds": [0]}
        content["settings"]["trainer"]["max_epochs"] = 1
        content["settings"]["model"]["execution"] = "fused"  # too short to earn back a compiler's seconds
    file = folder / ("quick.yaml" if quick else "regeneration.yaml")
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def measure(run: Path, inputs: Tensor, mean: Tensor, lesions: list[RandomRegion]) -> list[Course]:
    """Return the courses of the blows on a run's lattice, one a lesion."""
    model = lg.LatticeModel.from_pretrained(run / "model")
    return [recovery(model, inputs, inputs, explained(mean), lesion, AT, AFTER) for lesion in lesions]


def average(courses: list[Course]) -> Course:
    """Return the mean of several courses, step by step."""
    return [
        {key: statistics.fmean(row[key] for row in rows) for key in ("step", "intact", "lesioned")}
        for rows in zip(*courses, strict=True)
    ]


def told(courses: list[Course]) -> str:
    """Return the figures of a lattice: quality before and after, what came back, how soon, and the worst lesion."""
    course = average(courses)
    before, after = course[AT]["intact"], [course[AT + k]["lesioned"] for k in SHOWN]
    worst = min(own[-1]["lesioned"] / own[AT]["intact"] for own in courses)
    soon = recovered_in(course, AT)
    return (
        f"{before:9.3f}" + "".join(f"{value:7.3f}" for value in after) + f"{after[-1] / before:11.1%}"
        f"{(after[-1] - after[0]) / (before - after[0]):10.1%}{'never' if soon is None else soon:>9}{worst:8.1%}"
    )  # fmt: skip


def main() -> None:
    """Train both lattices, strike them, print how far they heal, and draw it."""
    parser = argparse.ArgumentParser(description="A quarter of the cube dies.")
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch, three lesions")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs", help="where runs and the figure are kept")
    parser.add_argument("--workers", type=int, default=2, help="runs that are trained at a time")
    given = parser.parse_args()
    torch.set_num_threads(1)  # a cube this small is faster on one
    file = prepare(given.folder, given.quick)
    folder, _ = run_experiment(file, 1 if given.quick else given.workers)
    data = lg.EmbeddingData(task="vectors", path=given.folder / "digits.npy", limit=None)
    data.prepare()
    inputs, mean = data.splits["test"].tensors()[0], data.splits["train"].tensors()[0].mean(dim=0)
    lesions = LESIONS[:: 4 if given.quick else 1]
    print(f"explained variance of {len(inputs)} held-out digits before and so many steps after a blow at step {AT}")
    print("lattice seed   before" + "".join(f"{f'+{k}':>7}" for k in SHOWN) + "  of before  returned  95 % in   worst")
    found: dict[str, list[Course]] = {}
    for variant in ("damage", "twin"):
        for seed in load_experiment(file).seeds:
            # Should settings have changed, there are several: the last one counts.
            done = folder.glob(f"{variant}-seed{seed}-*/metrics.json")
            run = max(done, key=lambda metrics: metrics.stat().st_mtime).parent
            courses = measure(run, inputs, mean, lesions)
            print(f"{variant:<7} {seed:>4}{told(courses)}")
            found.setdefault(NAMES[variant], []).append(average(courses))
    save(recovery_curves(found, AT), given.folder / "regeneration.png")
    print(f"drawn in {given.folder / 'regeneration.png'}")


if __name__ == "__main__":
    main()
