"""What every placement of ports is, and the checks that several of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Integral, Real
from typing import ClassVar

import torch
from torch import Tensor


class Placement(ABC):
    """Chooses which cells of a face become ports. Subclass it as a frozen dataclass to bring your own.

    On ``face="surface"`` a placement with ``per_face = True`` is applied to each of the six faces and the union is
    taken; with ``False`` it is applied once to the whole surface. One with ``one_face = True`` has no meaning there and
    is refused. With ``ordered = True`` the order of the rows counts: ports are numbered in it, not in raster order.
    """

    per_face: ClassVar[bool] = True
    one_face: ClassVar[bool] = False
    ordered: ClassVar[bool] = False

    @abstractmethod
    def select(self, face_coordinates: Tensor, extent: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Return the chosen rows of ``face_coordinates``.

        Args:
            face_coordinates: LongTensor [M, 3], the cells to choose from in raster order, counted from the corner of
                the face: on ``z-`` and ``z+`` alike the third column is 0.
            extent: Cells of the face along x, y and z; 1 across it.
            generator: The only source of randomness.

        Returns:
            LongTensor [P] of distinct row numbers, 1 ≤ P ≤ M, in any order; see ``ordered``.
        """


def whole(value: object, least: int) -> bool:
    """Return whether ``value`` is a whole number (no bool) of at least ``least``."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def check_share(count: int | None, fraction: float | None) -> None:
    """Check that count and fraction, where given, are a number of ports and a part of a face.

    Raises:
        ValueError: One of them is out of range.
    """
    if count is not None and not whole(count, 1):
        raise ValueError(f"count is a whole number of ports, at least 1. Received {count!r}. Write count: 8.")
    if fraction is not None and not (isinstance(fraction, Real) and 0 < fraction <= 1):
        raise ValueError(
            f"fraction is the part of the face, above 0 and at most 1. Received {fraction!r}. Write fraction: 0.1."
        )


def share(count: int | None, fraction: float | None, cells: int) -> int:
    """Return how many of a face's cells count or fraction ask for; all of them where neither is given.

    Raises:
        ValueError: ``count`` exceeds the cells.
    """
    if fraction is not None:
        return max(1, round(fraction * cells))
    if count is not None and count > cells:
        raise ValueError(
            f"A placement cannot have more ports than its face has cells. Received count={count} for a face of "
            f"{cells} cells. Lower count to {cells} or less, as in {{class_path: …, init_args: {{count: {cells}}}}}, "
            "or use placement='full'."
        )
    return cells if count is None else count
