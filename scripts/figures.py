"""Draw the pictures of README and docs again that need no training: lattices, signal, gate, neighbours, portrait."""

import argparse
from pathlib import Path

import torch

from latticegnn.analysis import gate_course
from latticegnn.lattice import LatticeSpec, Ports, build_graph
from latticegnn.model import LatticeModel
from latticegnn.report import attractor_portrait, gate_maps, lattice_3d, save, signal_crossing, tier_degrees

SEED = 0
STARTS, FAR = 12, 128
"""Rollouts of the portrait and their steps."""
WIDE = LatticeSpec(radii=(1.0, 1.8, 2.3))
"""The default cube with neighbours in each of the three tiers."""


def main(arguments: list[str] | None = None) -> None:
    """Write lattice.png, three_tiers.png, signal.png, gate.png, tiers.png and portrait.png."""
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
        course = gate_course(model, trajectory[:, :1])
        # With half the step that crosses the cube in time, an untrained cell comes to rest rather than grow.
        model.cell.step.mul_(0.5)
        starts = torch.randn(STARTS, model.embedding_dim, generator=torch.Generator().manual_seed(SEED))
        far = model.rollout(starts, FAR, trajectory=True).trajectory
    assert far is not None
    for name, figure in {
        "lattice": lattice_3d(model.graph),
        "three_tiers": lattice_3d(build_graph(WIDE, inputs=Ports(face="z-"), outputs=Ports(face="z+"))),
        "signal": signal_crossing(trajectory[:, 0] - trajectory[:, 1], model.graph),
        "gate": gate_maps(course, model.graph),
        "tiers": tier_degrees(model.spec),
        "portrait": attractor_portrait(far, model.spec),
    }.items():
        save(figure, folder / f"{name}.png")
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main()
