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
    whole,
)
from latticegnn.lattice.placement import Proportional as Proportional
from latticegnn.lattice.placement import Random as Random
from latticegnn.lattice.spec import LatticeSpec, did_you_mean
from latticegnn.lattice.stencil import node_grid

FACES = ("x-", "x+", "y-", "y+", "z-", "z+")
Face = Literal["x-", "x+", "y-", "y+", "z-", "z+", "surface"]


@dataclass(frozen=True)
class Ports:
    """A set of ports: a face of the lattice and the cells chosen on it.

    Args:
        face: ``"x-"`` is the layer x = 0, ``"x+"`` the layer x = X−1, likewise y and z; ``"surface"`` is every cell on
            any of the six faces, once.
        placement: A name (full, proportional, grid, corners, corners_center, center) or a :class:`Placement`.
        seed: Seed of the random placements. The same seed gives the same ports.

    Raises:
        ValueError: A name is unknown, the seed is not a whole number from 0, or the placement lacks an argument.
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
        self._resolved()
        if not whole(self.seed, 0):
            raise ValueError(f"seed is a whole number, at least 0. Received {self.seed!r}. Write seed: 0.")

    def nodes(self, spec: LatticeSpec) -> Tensor:
        """Return the ports' node ids in raster order of their coordinates, LongTensor [P].

        The order is that of space, not of node ids, so that renumbering the nodes changes nothing else.

        Raises:
            ValueError: The placement does not fit the face, or selects rows that do not exist.
        """
        placement = self._resolved()
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.zeros(spec.shape, dtype=torch.bool)
        for region, cells in self._regions(chosen, placement):
            extent = (region.shape[0], region.shape[1], region.shape[2])
            rows = placement.select(cells, extent, generator)
            _check_rows(placement, rows, len(cells))
            region[tuple(cells[rows].T)] = True  # a view: `chosen` is marked
        return node_grid(spec)[chosen]

    def _regions(self, chosen: Tensor, placement: Placement) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (a view of ``chosen`` [X, Y, Z], the cells in it to choose from [M, 3]) for each face to place on."""
        if self.face == "surface" and not placement.per_face:
            surface = torch.ones_like(chosen)
            surface[1:-1, 1:-1, 1:-1] = False
            yield chosen, surface.nonzero()
            return
        for face in FACES if self.face == "surface" else (self.face,):
            axis, end = "xyz".index(face[0]), 0 if face[1] == "-" else -1
            layer = chosen.select(axis, end).unsqueeze(axis)
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
        """Build ports from :meth:`to_dict`'s result; keys left out take their defaults.

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


def _check_rows(placement: Placement, rows: Tensor, cells: int) -> None:
    valid = rows.dtype == torch.long and rows.dim() == 1 and len(rows) > 0
    if not valid or int(rows.min()) < 0 or int(rows.max()) >= cells or len(rows.unique()) != len(rows):
        raise ValueError(
            f"A placement selects at least one, and distinct, rows from 0 to {cells - 1} as a LongTensor [P]. "
            f"{type(placement).__qualname__} returned {rows.dtype} of shape {tuple(rows.shape)}: {rows[:8].tolist()}. "
            "Correct its select method."
        )
