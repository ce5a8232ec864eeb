"""Lesions of cells: by number, by chance, and by their place in the volume."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from latticegnn.analysis.lesions import Lesion, check_part, scattered
from latticegnn.analysis.silence import When
from latticegnn.lattice import LatticeSpec, apart, coordinates, random_regions
from latticegnn.lattice.regions import Shape
from latticegnn.model import LatticeModel
from latticegnn.rollout import Intervention


class CellLesion(Lesion):
    """Interface of lesions that silence cells: their states are zero, and their neighbours average these zeros in.

    After a blow the cells go on from zero; otherwise they stay there, and no signal passes them.
    """

    @abstractmethod
    def mask(self, spec: LatticeSpec) -> Tensor:
        """Return which cells are lost, BoolTensor [N]."""

    def intervention(self, spec: LatticeSpec, when: When) -> Intervention:
        """Return the lesion as what `LatticeModel.rollout` takes as ``intervene``; gradients pass."""
        lost = self.mask(spec).unsqueeze(1)
        return lambda state, taken: state.masked_fill(lost.to(state.device), 0) if taken in when else state

    @contextmanager
    def silences(self, model: LatticeModel, when: When) -> Iterator[Intervention]:
        """Zero the cells between the steps."""
        yield self.intervention(model.spec, when)


@dataclass(frozen=True)
class Cells(CellLesion):
    """Cells by their node ids.

    Args:
        ids: Node ids, each in 0 … N − 1.
    """

    ids: tuple[int, ...]

    def mask(self, spec: LatticeSpec) -> Tensor:
        """Return which cells are lost, BoolTensor [N]."""
        ids = torch.tensor(self.ids, dtype=torch.long)
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < spec.num_nodes:
            raise ValueError(
                f"ids of cells lie in 0 … {spec.num_nodes - 1}; got {int(ids.min())} … {int(ids.max())}; take them "
                "from latticegnn.lattice.node_grid(spec)."
            )
        return torch.zeros(spec.num_nodes, dtype=torch.bool).index_fill_(0, ids, True)


@dataclass(frozen=True)
class RandomCells(CellLesion):
    """Cells scattered at random, round(part · N) of them; of one seed, a larger part holds the smaller ones.

    Args:
        part: Of all cells, in [0, 1].
        seed: Of the draw.
    """

    part: float
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the part."""
        check_part(self.part)

    def mask(self, spec: LatticeSpec) -> Tensor:
        """Return which cells are lost, BoolTensor [N]."""
        return scattered(spec.num_nodes, self.part, self.seed)


@dataclass(frozen=True)
class RandomRegion(CellLesion):
    """A compact region at a random place, see `latticegnn.lattice.random_regions`.

    Args:
        part: Of all cells, in (0, 1).
        shape: "sphere", "box" or "half".
        seed: Of the draw.
    """

    part: float = 0.25
    shape: Shape = "sphere"
    seed: int = 0

    def mask(self, spec: LatticeSpec) -> Tensor:
        """Return which cells are lost, BoolTensor [N]."""
        return random_regions(spec, self.part, self.shape, 1, torch.Generator().manual_seed(self.seed))[0]


@dataclass(frozen=True)
class Plane(CellLesion):
    """A layer of cells, whole or with a square hole at its middle.

    Args:
        axis: 0, 1 or 2: the layer lies across it.
        index: The layer's number along the axis, from 0.
        opening: Side of the hole in cells, ≥ 0; where it is not to be centred, it lies half a cell towards 0.
    """

    axis: int
    index: int
    opening: int = 0

    def mask(self, spec: LatticeSpec) -> Tensor:
        """Return which cells are lost, BoolTensor [N]."""
        if self.axis not in (0, 1, 2) or not 0 <= self.index < spec.shape[self.axis]:
            raise ValueError(
                f"a plane is a layer across axis 0, 1 or 2 of the lattice {spec.shape}; got axis {self.axis}, index "
                f"{self.index}; count layers from 0."
            )
        across = [axis for axis in range(3) if axis != self.axis]
        if not 0 <= self.opening <= max(spec.shape[axis] for axis in across):
            raise ValueError(
                f"opening must be from 0 to the layer's longer side; got {self.opening} in a lattice {spec.shape}; "
                "make it smaller."
            )
        place = coordinates(spec)
        hole = torch.ones(spec.num_nodes, dtype=torch.bool)
        for axis in across:
            low = (spec.shape[axis] - self.opening) // 2
            hole &= (place[:, axis] >= low) & (place[:, axis] < low + self.opening)
        return (place[:, self.axis] == self.index) & ~hole


@dataclass(frozen=True)
class Sphere(CellLesion):
    """The cells within a distance of a place, the short way round periodic axes.

    Args:
        centre: x, y and z in cells; it need not be one.
        radius: In cells, ≥ 0.
    """

    centre: tuple[float, float, float]
    radius: float

    def mask(self, spec: LatticeSpec) -> Tensor:
        """Return which cells are lost, BoolTensor [N]."""
        if len(self.centre) != 3 or not self.radius >= 0:
            raise ValueError(
                f"a sphere has a centre of three numbers and a radius of at least 0; got {self.centre} and "
                f"{self.radius}; write Sphere((4, 4, 4), 2)."
            )
        return apart(spec, self.centre).norm(dim=1) <= self.radius + 1e-9


@dataclass(frozen=True)
class Box(CellLesion):
    """The cells with low ≤ (x, y, z) < high; a quarter of 8×8×8 is ``Box((0, 0, 0), (4, 4, 8))``.

    Args:
        low: First cell along each axis.
        high: One past the last.
    """

    low: tuple[int, int, int]
    high: tuple[int, int, int]

    def mask(self, spec: LatticeSpec) -> Tensor:
        """Return which cells are lost, BoolTensor [N]."""
        if not all(0 <= a <= b <= n for a, b, n in zip(self.low, self.high, spec.shape, strict=True)):
            raise ValueError(
                f"a box lies in the lattice, 0 ≤ low ≤ high ≤ {spec.shape}; got {self.low} and {self.high}; move its "
                "corners inside."
            )
        place = coordinates(spec)
        return ((place >= torch.tensor(self.low)) & (place < torch.tensor(self.high))).all(dim=1)
