"""Draw the README's pictures again: the default lattice, and a signal that crosses it."""

import argparse
from pathlib import Path

import torch

from latticegnn.model import LatticeModel
from latticegnn.report import lattice_3d, save, signal_crossing

SEED = 0


def main(arguments: list[str] | None = None) -> None:
    """Write lattice.png and signal.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="folder of the pictures")
    folder = parser.parse_args(arguments).output
    model = LatticeModel(seed=SEED)
    # A random input beside none: their difference is what the input alone brings about.
    embedding = torch.randn(1, model.embedding_dim, generator=torch.Generator().manual_seed(SEED))
    embedding = torch.cat([embedding, torch.zeros_like(embedding)])
    with torch.no_grad():
        trajectory = model.rollout(embedding, trajectory=True).trajectory
    assert trajectory is not None
    for name, figure in {
        "lattice": lattice_3d(model.graph),
        "signal": signal_crossing(trajectory[:, 0] - trajectory[:, 1], model.graph),
    }.items():
        save(figure, folder / f"{name}.png")
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main()
