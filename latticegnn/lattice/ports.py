"""Ports: the nodes of a face at which signals enter or leave the lattice."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

# The placements belong to a port's description: `latticegnn.lattice.ports.Random` is a valid class path.
from latticegnn.lattice.placement import Center as Center
from latticegnn.lattice.placement import Corners as Corners
from latticegnn.lattice.placement import CornersCenter as CornersCenter
from latticegnn.lattice.placement import Full as Full
from latticegnn.lattice.placement import Grid as Grid
from latticegnn.lattice.placement import (
    Placement,
    placement_by_name,
    placement_from_json,
    placement_to_json,
)
from latticegnn.lattice.placement import Proportional as Proportional
from latticegnn.lattice.placement import Random as Random
from latticegnn.lattice.spec import LatticeSpec, did_you_mean
from latticegnn.lattice.spread import Learned as Learned
from latticegnn.lattice.spread import Nested as Nested
from latticegnn.lattice.spread import Zones as Zones
from latticegnn.lattice.stencil import coordinates, node_grid
from latticegnn.lattice.strategy import whole

FACES = ("x-", "x+", "y-", "y+", "z-", "z+")
Face = Literal["x-", "x+", "y-", "y+", "z-", "z+", "surface"]


@dataclass(frozen=True)
class Ports:
    """A set of ports: a face of the lattice and the cells chosen on it.

    Args:
        face: ``"x-"`` is the layer x = 0, ``"x+"`` the layer x = X−1, likewise y and z; ``"surface"`` is every cell on
            any of the six faces, once.
        placement: A name (full, proportional, grid, corners, corners_center, center, nested, zones, learned) or a
            `Placement`.
        seed: Seed of the random placements. The same seed gives the same ports.

    Raises:
        ValueError: A name is unknown, the seed is not a whole number from 0, the placement lacks an argument, or is one
            for a single face on the surface.
    """

    face: Face = "z-"
    placement: str | Placement = "full"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the three fields."""
        faces = get_args(Face)
        if self.face not in faces:
            raise ValueError(
                f"face must be one of {', '.join(map(repr, faces))}. Received {self.face!r}."
                f"{did_you_mean(self.face, faces)} Write face: z-, or another of these."
            )
        placement = self._resolved()
        if self.face == "surface" and placement.one_face:
            raise ValueError(
                f"{type(placement).__qualname__} places ports on one face. Received face='surface'. Write face: z-, or "
                "another placement."
            )
        if not whole(self.seed, 0):
            raise ValueError(f"seed is a whole number, at least 0. Received {self.seed!r}. Write seed: 0.")

    def nodes(self, spec: LatticeSpec) -> Tensor:
        """Return the ports' node ids in raster order of their coordinates, LongTensor [P].

        A placement that is ``ordered`` sets its own order. Either is one of space, not of node ids, so that renumbering
        the nodes changes nothing else.

        Raises:
            ValueError: The placement does not fit the face, or selects rows that do not exist.
        """
        placement = self._resolved()
        generator = torch.Generator().manual_seed(self.seed)
        rank = torch.full(spec.shape, -1)
        for region, cells in self._regions(rank, placement):
            extent = (region.shape[0], region.shape[1], region.shape[2])
            rows = placement.select(cells, extent, generator)
            _check_rows(placement, rows, len(cells))
            region[tuple(cells[rows].T)] = torch.arange(len(rows))  # a view: `rank` is written
        chosen = rank >= 0
        nodes = node_grid(spec)[chosen]
        return nodes[rank[chosen].argsort(stable=True)] if placement.ordered else nodes

    def count(self, spec: LatticeSpec) -> int:
        """Return P, the number of ports; learned ones are fewer than the nodes that they share."""
        placement = self._resolved()
        return placement.count if isinstance(placement, Learned) else len(self.nodes(spec))

    def zones(self, spec: LatticeSpec) -> Tensor | None:
        """Return each port's zone in the order of `nodes`, LongTensor [P] of 0 … 3; None where none are placed."""
        placement = self._resolved()
        if not isinstance(placement, Zones):
            return None
        extent = list(spec.shape)
        extent["xyz".index(self.face[0])] = 1
        return placement.zone(coordinates(spec)[self.nodes(spec)], (extent[0], extent[1], extent[2]))

    @property
    def learned(self) -> Learned | None:
        """The placement, where training moves the ports; else None."""
        placement = self._resolved()
        return placement if isinstance(placement, Learned) else None

    @property
    def ordered(self) -> bool:
        """Whether the placement numbers the ports in an order of its own."""
        return self._resolved().ordered

    def _regions(self, rank: Tensor, placement: Placement) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (a view of ``rank`` [X, Y, Z], the cells in it to choose from [M, 3]) for each face to place on."""
        if self.face == "surface" and not placement.per_face:
            surface = torch.ones_like(rank)
            surface[1:-1, 1:-1, 1:-1] = 0
            yield rank, surface.nonzero()
            return
        for face in FACES if self.face == "surface" else (self.face,):
            axis, end = "xyz".index(face[0]), 0 if face[1] == "-" else -1
            layer = rank.select(axis, end).unsqueeze(axis)
            yield layer, torch.ones_like(layer).nonzero()

    def _resolved(self) -> Placement:
        return self.placement if isinstance(self.placement, Placement) else placement_by_name(self.placement)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe values; the placement is a name, or ``{"class_path": ..., "init_args": {...}}``.

        Raises:
            ValueError: The placement is not a dataclass, so its arguments are unknown.
        """
        return {"face": self.face, "placement": placement_to_json(self.placement), "seed": self.seed}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ports:
        """Build ports from `to_dict`'s result; keys left out take their defaults.

        Raises:
            ValueError: A key is unknown, or a value breaks a rule of the class.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                raise ValueError(
                    f"Ports have the keys {', '.join(names)}. Received {key!r}."
                    f"{did_you_mean(key, names)} Remove or rename it."
                )
        arguments = dict(values)
        if isinstance(arguments.get("placement"), Mapping):
            arguments["placement"] = placement_from_json(arguments["placement"])
        return cls(**arguments)


def covering_radius(spec: LatticeSpec, ports: Ports) -> float:
    r"""Return how far the worst served cell of the face is from a port, in cells; 0 where every cell is one.

    :math:`\rho = \max_{c} \min_{p} \|r_c - r_p\|` over the cells c of the ports' face, by straight distances.
    """
    place = coordinates(spec).double()
    face = place[Ports(ports.face).nodes(spec)]
    return float(torch.cdist(face, place[ports.nodes(spec)]).amin(1).max())


def _check_rows(placement: Placement, rows: Tensor, cells: int) -> None:
    valid = rows.dtype == torch.long and rows.dim() == 1 and len(rows) > 0
    if not valid or int(rows.min()) < 0 or int(rows.max()) >= cells or len(rows.unique()) != len(rows):
        raise ValueError(
            f"A placement selects at least one, and distinct, rows from 0 to {cells - 1} as a LongTensor [P]. "
            f"{type(placement).__qualname__} returned {rows.dtype} of shape {tuple(rows.shape)}: {rows[:8].tolist()}. "
            "Correct its select method."
        )
