"""Regions of the volume: distances from a place, and random parts of an exact size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from latticegnn.lattice.spec import LatticeSpec, did_you_mean
from latticegnn.lattice.stencil import coordinates

Shape = Literal["sphere", "box", "half"]


def apart(spec: LatticeSpec, place: Sequence[float]) -> Tensor:
    """Return how far every cell lies from a place along each axis, the short way round periodic ones.

    Args:
        spec: The lattice.
        place: x, y and z in cells.

    Returns:
        DoubleTensor [N, 3], ≥ 0, in cells.
    """
    sides = torch.tensor(spec.shape, dtype=torch.float64)
    away = (coordinates(spec).double() - torch.tensor(place, dtype=torch.float64)).abs()
    around = torch.minimum(away % sides, sides - away % sides)
    return torch.where(torch.tensor(spec.periodic), around, away)


def random_regions(
    spec: LatticeSpec, part: float, shape: Shape, rows: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw compact regions that each hold round(part · N) cells.

    - ``sphere``: the cells nearest to a cell drawn at random.
    - ``box``: the same by the largest of the three distances, each in units of its axis's length.
    - ``half``: the layers from a random end of a random axis on; from a random layer on, where the axis is periodic.

    Cells that tie for the last places are drawn.

    Args:
        spec: The lattice.
        part: Of its cells, in (0, 1).
        shape: One of the three.
        rows: Number of regions, each drawn by itself.
        generator: Of the draws; torch's own by default.

    Returns:
        BoolTensor [rows, N].

    Raises:
        ValueError: For an unknown shape, or a part that is not between 0 and 1.
    """
    check_region(part, shape)
    sides = torch.tensor(spec.shape, dtype=torch.float64)
    place = coordinates(spec).double()
    count = round(part * spec.num_nodes)
    regions = torch.zeros(rows, spec.num_nodes, dtype=torch.bool)
    for region in regions:
        if shape == "half":
            axis, end = (int(torch.randint(choices, (), generator=generator)) for choices in (3, 2))
            first = int(torch.randint(spec.shape[axis], (), generator=generator)) if spec.periodic[axis] else 0
            layer = (place[:, axis] - first) % sides[axis]
            distance = sides[axis] - 1 - layer if end else layer
        else:
            centre = place[int(torch.randint(spec.num_nodes, (), generator=generator))]
            away = apart(spec, centre.tolist())
            distance = away.norm(dim=1) if shape == "sphere" else (away / sides).amax(dim=1)
        # Below any difference of two distances, so that it decides between equal ones alone.
        order = distance + 1e-9 * torch.rand(spec.num_nodes, generator=generator, dtype=torch.float64)
        region[order.argsort()[:count]] = True
    return regions


def check_region(part: float, shape: str) -> None:
    """Raise ValueError for a part outside of (0, 1) or an unknown shape."""
    if not 0 < part < 1:
        raise ValueError(f"part is that of the volume which is lost, above 0 and below 1; got {part!r}; write 0.25.")
    shapes = get_args(Shape)
    if shape not in shapes:
        raise ValueError(
            f"shape must be one of {', '.join(shapes)}; got {shape!r}.{did_you_mean(str(shape), shapes)} Choose one of "
            "them."
        )
