"""Placements that spread ports over a face: in nested order, by zones, and where training moves them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor

from latticegnn.lattice.strategy import Placement, check_share, share

ZONES = 4
"""Quadrants of a face."""


@dataclass(frozen=True)
class Nested(Placement):
    r"""Cells in an order of which every beginning is itself a well-spread placement; nothing is drawn.

    The farthest-first order of Gonzalez (1985): after the cell nearest to the middle of the face, always the cell
    farthest from all those before it, the first in raster order of several. The covering radius of its first k cells,

    .. math::
        \rho_k = \max_{c} \min_{j \le k} \|r_c - r_{p_j}\|,

    the distance at which the worst served cell has a port, is at most twice that of the best k cells there are, for
    every k at once (`latticegnn.lattice.covering_radius`). Distances are straight, within the face or through the cube.

    Ports are numbered in this order: ``Ports(face, Nested(k)).nodes(spec)`` is the beginning of
    ``Ports(face, Nested(n)).nodes(spec)`` for k ≤ n. Without arguments it is the whole face.

    Args:
        count: How many ports, from 1 to the number of cells on the face.
        fraction: Which part of the face, 0 < fraction ≤ 1, rounded to the nearest whole number of ports, at least 1.

    Raises:
        ValueError: Both are given, one is out of range, or ``count`` exceeds the face.
    """

    per_face: ClassVar[bool] = False
    ordered: ClassVar[bool] = True

    count: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        """Check count and fraction."""
        if self.count is not None and self.fraction is not None:
            raise ValueError(
                f"The nested placement takes count or fraction, or neither for the whole face. Received count="
                f"{self.count}, fraction={self.fraction}. Leave out one of them."
            )
        check_share(self.count, self.fraction)

    def select(self, face_coordinates: Tensor, extent: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Return the first rows of the order."""
        return farthest_first(face_coordinates, share(self.count, self.fraction, len(face_coordinates)))


def farthest_first(places: Tensor, count: int) -> Tensor:
    """Return the first ``count`` rows in farthest-first order, in O(M · count): LongTensor [M, d] -> LongTensor [P]."""
    doubled = 2 * places - places.amin(0) - places.amax(0)  # from the middle, in half cells: whole numbers tie exactly
    chosen = [int(doubled.square().sum(1).argmin())]
    nearest = (places - places[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (places - places[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)


@dataclass(frozen=True)
class Zones(Placement):
    """The four quadrants of a face, each for one kind of content.

    Along each of its two sides of n cells, the first half are the places below ⌈n/2⌉. Zones are numbered 0 … 3 by
    (half along the first axis, half along the second). Input ports so placed are shared out by a router that looks at
    the embedding, see `latticegnn.nn.ZoneRouter`; output ports so placed are merely ports.

    Args:
        count: Ports in each zone, the first ones of its own nested order; all of its cells by default.

    Raises:
        ValueError: ``count`` is no whole number above 0 or exceeds a zone, or the face has a side of one cell.
    """

    one_face: ClassVar[bool] = True

    count: int | None = None

    def __post_init__(self) -> None:
        """Check the count."""
        check_share(self.count, None)

    def select(self, face_coordinates: Tensor, extent: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Return the rows of all zones."""
        zone = self.zone(face_coordinates, extent)
        rows = [(zone == k).nonzero()[:, 0] for k in range(ZONES)]
        return torch.cat(
            [own[farthest_first(face_coordinates[own], share(self.count, None, len(own)))] for own in rows]
        )

    def zone(self, face_coordinates: Tensor, extent: tuple[int, int, int]) -> Tensor:
        """Return the zone of each cell: LongTensor [M, 3] -> LongTensor [M]."""
        sides = [axis for axis in range(3) if extent[axis] > 1]
        if len(sides) != 2:
            raise ValueError(
                f"Zones are the quadrants of a face of at least 2 × 2 cells. Received a face of {extent} cells. Use a "
                "larger shape, or placement: full."
            )
        first, second = (face_coordinates[:, axis] >= (extent[axis] + 1) // 2 for axis in sides)
        return 2 * first.long() + second.long()


@dataclass(frozen=True)
class Learned(Placement):
    """Ports that training moves: each writes to, or reads from, all cells of the face by its distance to them.

    The nodes are the whole face, so its light cone is the face's; ``count`` ports start at the first ``count`` of them
    in nested order, see `Nested`. `latticegnn.nn.SoftPorts` is the map between ports and cells.

    Args:
        count: How many ports, from 1 to the number of cells on the face.
        width: Standard deviation of a port's Gaussian, in cells, above 0.

    Raises:
        ValueError: A value is out of range, or ``count`` exceeds the face.
    """

    one_face: ClassVar[bool] = True
    ordered: ClassVar[bool] = True

    count: int = 16
    width: float = 1.0

    def __post_init__(self) -> None:
        """Check count and width."""
        check_share(self.count, None)
        if not (isinstance(self.width, Real) and 0 < self.width < math.inf):
            raise ValueError(f"width is a number of cells, above 0. Received {self.width!r}. Write width: 1.0.")

    def select(self, face_coordinates: Tensor, extent: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Return all rows, those first at which ports start."""
        share(self.count, None, len(face_coordinates))
        return farthest_first(face_coordinates, len(face_coordinates))
