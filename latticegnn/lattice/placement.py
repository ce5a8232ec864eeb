"""Placements: which cells of a face become ports."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from latticegnn.lattice.spec import did_you_mean
from latticegnn.lattice.spread import Learned, Nested, Zones
from latticegnn.lattice.strategy import Placement as Placement
from latticegnn.lattice.strategy import check_share, share, whole


@dataclass(frozen=True)
class Full(Placement):
    """Every cell of the face."""

    def select(self, face_coordinates: Tensor, extent: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Return all rows."""
        return torch.arange(len(face_coordinates))


@dataclass(frozen=True)
class Proportional(Placement):
    """A random 5/64 to 10/64 of the face (7.8–15.6 %), at least 1 cell: 5–10 of 8×8, 80–160 of 32×32."""

    per_face: ClassVar[bool] = False

    def select(self, face_coordinates: Tensor, extent: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Draw the number of ports, then the ports."""
        cells = len(face_coordinates)
        fewest = math.ceil(cells * 5 / 64)
        most = max(fewest, math.floor(cells * 10 / 64))
        count = int(torch.randint(fewest, most + 1, (1,), generator=generator))
        return torch.randperm(cells, generator=generator)[:count]


@dataclass(frozen=True)
class Random(Placement):
    """A fixed number, or a fixed part, of the face at random.

    Args:
        count: How many ports, from 1 to the number of cells on the face.
        fraction: Which part of the face, 0 < fraction ≤ 1, rounded to the nearest whole number of ports, at least 1.

    Raises:
        ValueError: Not exactly one of the two is given, it is out of range, or ``count`` exceeds the face.
    """

    per_face: ClassVar[bool] = False

    count: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        """Check that exactly one of count and fraction is given, in its range."""
        if (self.count is None) == (self.fraction is None):
            raise ValueError(
                f"The random placement needs exactly one of count and fraction. Received count={self.count}, "
                f"fraction={self.fraction}. Write Random(count=8), or in YAML placement: "
                f"{{class_path: {__name__}.Random, init_args: {{count: 8}}}}."
            )
        check_share(self.count, self.fraction)

    def select(self, face_coordinates: Tensor, extent: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Draw the ports without repetition."""
        cells = len(face_coordinates)
        return torch.randperm(cells, generator=generator)[: share(self.count, self.fraction, cells)]


@dataclass(frozen=True)
class Grid(Placement):
    """Every ``spacing``-th cell along both sides of the face, centred.

    A side of n cells has the places s, s + spacing, s + 2·spacing … with s = ⌊((n−1) mod spacing) / 2⌋.

    Args:
        spacing: Cells from one port to the next, at least 1.

    Raises:
        ValueError: ``spacing`` is not a whole number above 0.
    """

    spacing: int = 2

    def __post_init__(self) -> None:
        """Check the spacing."""
        if not whole(self.spacing, 1):
            raise ValueError(
                f"spacing is a whole number of cells, at least 1. Received {self.spacing!r}. Write spacing: 2."
            )

    def select(self, face_coordinates: Tensor, extent: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Return the cells on the grid."""
        start = torch.tensor([((n - 1) % self.spacing) // 2 for n in extent])
        return ((face_coordinates - start) % self.spacing == 0).all(1).nonzero()[:, 0]


@dataclass(frozen=True)
class Corners(Placement):
    """The four corners of the face (fewer where a side has one cell)."""

    def select(self, face_coordinates: Tensor, extent: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Return the cells that are first or last along every side."""
        last = torch.tensor(extent) - 1
        return ((face_coordinates == 0) | (face_coordinates == last)).all(1).nonzero()[:, 0]


@dataclass(frozen=True)
class Center(Placement):
    """The one cell in the middle of the face: place ⌊n/2⌋ along each side of n cells."""

    def select(self, face_coordinates: Tensor, extent: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Return the middle cell."""
        return (face_coordinates == torch.tensor(extent) // 2).all(1).nonzero()[:, 0]


@dataclass(frozen=True)
class CornersCenter(Placement):
    """The four corners of the face and the cell in its middle."""

    def select(self, face_coordinates: Tensor, extent: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Return the corners and the middle cell, each once."""
        parts = [placement.select(face_coordinates, extent, generator) for placement in (Corners(), Center())]
        return torch.cat(parts).unique()


#: The placements that a name alone can ask for.
PLACEMENTS: dict[str, type[Placement]] = {
    "full": Full,
    "proportional": Proportional,
    "random": Random,
    "grid": Grid,
    "corners": Corners,
    "corners_center": CornersCenter,
    "center": Center,
    "nested": Nested,
    "zones": Zones,
    "learned": Learned,
}


def placement_by_name(name: object) -> Placement:
    """Return the placement that a name stands for, with its default arguments.

    Raises:
        ValueError: The name is unknown, or its placement has no defaults.
    """
    if not isinstance(name, str) or name not in PLACEMENTS:
        raise ValueError(
            f"placement must be one of {', '.join(map(repr, PLACEMENTS))}, or a Placement object. Received {name!r}."
            f"{did_you_mean(name, PLACEMENTS)} Write placement: full, or a class_path with its init_args."
        )
    return PLACEMENTS[name]()


def placement_to_json(placement: str | Placement) -> str | dict[str, Any]:
    """Return a name as it is, and a placement as its class path and arguments.

    Raises:
        ValueError: The placement is not a dataclass, so its arguments are unknown.
    """
    if isinstance(placement, str):
        return placement
    if not dataclasses.is_dataclass(placement):
        raise ValueError(
            f"A placement is saved through its dataclass fields. Received {type(placement).__qualname__}, which is not "
            "a "
            "dataclass. Decorate it with @dataclass(frozen=True)."
        )
    class_path = f"{type(placement).__module__}.{type(placement).__qualname__}"
    return {"class_path": class_path, "init_args": dataclasses.asdict(placement)}


def placement_from_json(value: Mapping[str, Any]) -> Placement:
    """Build the placement that `placement_to_json` described.

    A file may name any class, so no module is imported for it: one of yours must have been imported before.

    Raises:
        ValueError: A key is unknown, the class cannot be found or is no placement, or its arguments are wrong.
    """
    if not {"class_path"} <= set(value) <= {"class_path", "init_args"}:
        raise ValueError(
            f"A placement is given by class_path and, where needed, init_args. Received the keys {sorted(value)}. "
            f"Write {{class_path: {__name__}.Random, init_args: {{count: 8}}}}."
        )
    path = str(value["class_path"])
    module, _, name = path.rpartition(".")
    if module not in sys.modules or not hasattr(sys.modules[module], name):
        raise ValueError(
            f"class_path must name a Placement class of an imported module. Received {path!r}, which is none. "
            f"Import the module that defines it first, or write for example {__name__}.Random."
        )
    leaf = getattr(sys.modules[module], name)
    if not (isinstance(leaf, type) and issubclass(leaf, Placement)):
        raise ValueError(
            f"class_path must name a subclass of Placement. Received {path!r}, which is not one. "
            f"Write for example {__name__}.Random."
        )
    try:
        return leaf(**value.get("init_args", {}))
    except TypeError as error:
        raise ValueError(
            f"init_args must be the arguments of {path}. Received {dict(value.get('init_args', {}))}: {error}. Correct "
            "them."
        ) from error
