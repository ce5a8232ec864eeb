"""What a lattice is, as numbers: its shape, its boundaries and the radii of its three tiers."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from numbers import Integral, Real
from typing import Any, Literal, get_args

Boundary = Literal["open", "periodic", "reflecting", "absorbing"]
Keep = Literal["cells", "ratios"]

#: Radii such as 0.2 · 15 land exactly on distances between cells, so rounding would decide who is a neighbour. Every
#: comparison of a distance with a radius widens the radius by this relative amount.
RELATIVE_TOLERANCE = 1e-9

_ALLOWED: dict[str, tuple[str, ...]] = {
    "connectivity": ("radius", "full"),
    "order": ("raster", "morton"),
    "edges": ("radius_graph", "stencil"),
}
_BOUNDARIES: tuple[str, ...] = get_args(Boundary)
_RATIOS = ("radius_ratio", "local_ratio", "functional_ratio", "distant_ratio")


class Tier(IntEnum):
    """An edge's class by its distance; the value is what ``edge_tier`` holds."""

    LOCAL = 0
    FUNCTIONAL = 1
    DISTANT = 2


def did_you_mean(value: object, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the allowed name nearest to ``value``, or an empty string when none is near."""
    close = difflib.get_close_matches(str(value), list(allowed), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True)
class LatticeSpec:
    r"""A cubic lattice of X·Y·Z cells at integer coordinates, and the radii that sort its edges into tiers.

    Two cells at distance d (in cells; the shortest way round on a periodic axis) are connected by the tier

    ``local: d ≤ r_l``, ``functional: r_l < d ≤ r_f``, ``distant: r_f < d ≤ r_d``

    with ``max_radius = max(shape) · radius_ratio`` and ``r_t = ratio_t · max_radius``, or ``radii`` where given. Below
    one cell a radius reaches no neighbour; the local tier always holds the cell itself (d = 0).

    **Boundaries.** What a cell sees at an offset that leads out of the lattice, along an axis of cells 0 … n−1:

    - *open*: nothing. Sums and means are over the neighbours that exist.
    - *periodic*: the lattice again, :math:`x_{p + n} = x_p`. A pair of cells has one edge a direction, along the
      shortest way round.
    - *reflecting*: the cell's mirror image, :math:`x_{-1-p} = x_p` and :math:`x_{n+p} = x_{n-1-p}` for 0 ≤ p < n, the
      half-sample symmetric (even) extension: a homogeneous Neumann condition, :math:`\partial_\nu x = 0`, on the wall
      half a cell beyond the last cell. A mean counts the images, a first moment at the offsets where they are seen, so
      every cell has the same number of neighbours, some of them its own images.
    - *absorbing*: zero, :math:`x_p = 0` for p < 0 and p ≥ n: a homogeneous Dirichlet condition, :math:`x = 0`, on the
      cells beyond the border. A mean divides by the number of neighbours that a cell has where nothing is missing;
      edges lead to existing cells alone. What is carried or diffused out is lost, but this is no sponge: waves
      (`latticegnn.nn.Wave`) come back from it upside down, and from a reflecting or open border upright.

    Offsets of n cells or more along an axis occur with no boundary, so an axis of one cell has no border to cross.

    Args:
        shape: Cells along x, y and z, each at least 1.
        connectivity: ``"radius"``: edges up to the distant radius r_d. ``"full"``: every other cell is a neighbour and
            the distant tier takes all beyond r_f.
        boundary: ``"open"``, ``"periodic"``, ``"reflecting"`` (Neumann) or ``"absorbing"`` (Dirichlet), for all axes
            or as a triple for x, y and z.
        order: How cells are numbered: ``"raster"`` (z runs fastest) or ``"morton"`` (Z-order: near in space, near in
            memory).
        radius_ratio: ``max_radius`` as a part of the longest side, > 0.
        local_ratio: r_l as a part of ``max_radius``, > 0.
        functional_ratio: r_f as a part of ``max_radius``, > ``local_ratio``.
        distant_ratio: r_d as a part of ``max_radius``, > ``functional_ratio``.
        radii: (r_l, r_f, r_d) in cells, rising; they take the place of the four ratios.
        edges: How `build_graph` finds edges: ``"radius_graph"`` (torch-cluster) or ``"stencil"`` (integer
            offsets, no compiled extension). Both give the same graph.
        strict_tiers: Make a tier without neighbours an error in `build_graph` (the local tier included).

    Raises:
        ValueError: An entry is of the wrong type or range, a name is unknown, or the radii do not rise.
    """

    shape: tuple[int, int, int] = (8, 8, 8)
    connectivity: Literal["radius", "full"] = "radius"
    boundary: Boundary | tuple[Boundary, Boundary, Boundary] = "open"
    order: Literal["raster", "morton"] = "raster"
    radius_ratio: float = 0.2
    local_ratio: float = 0.1
    functional_ratio: float = 0.65
    distant_ratio: float = 1.0
    radii: tuple[float, float, float] | None = None
    edges: Literal["radius_graph", "stencil"] = "radius_graph"
    strict_tiers: bool = False

    def __post_init__(self) -> None:
        """Check every field; turn the lists that YAML and JSON give into tuples."""
        self._set("shape", _shape(self.shape))
        for name, allowed in _ALLOWED.items():
            _one_of(name, getattr(self, name), allowed)
        if isinstance(self.boundary, (list, tuple)):
            if len(self.boundary) != 3:
                raise ValueError(
                    f"boundary is one name or one for each of the axes x, y and z. Received {len(self.boundary)} "
                    "names: "
                    f"{list(self.boundary)}. Write boundary='periodic' or boundary=('open', 'open', 'periodic')."
                )
            for axis, boundary in zip("xyz", self.boundary, strict=True):
                _one_of(f"boundary along {axis}", boundary, _BOUNDARIES)
            self._set("boundary", tuple(self.boundary))
        else:
            _one_of("boundary", self.boundary, _BOUNDARIES)
        for name in _RATIOS:
            self._set(name, _positive(name, getattr(self, name)))
        if not self.local_ratio < self.functional_ratio < self.distant_ratio:
            raise ValueError(
                "The tiers' ratios must rise: local_ratio < functional_ratio < distant_ratio. Received "
                f"{self.local_ratio:g}, {self.functional_ratio:g}, {self.distant_ratio:g}. "
                "Reorder them, or keep the defaults 0.1, 0.65, 1.0."
            )
        if self.radii is not None:
            self._set("radii", _radii(self.radii))
        if not isinstance(self.strict_tiers, bool):
            raise ValueError(f"strict_tiers is a switch. Received {self.strict_tiers!r}. Write true or false.")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen for its users, not for its own constructor

    @property
    def max_radius(self) -> float:
        """The radius that the ratios are parts of, in cells; the distant radius where ``radii`` are given."""
        return self.radii[2] if self.radii is not None else _cells(max(self.shape) * self.radius_ratio)

    @property
    def thresholds(self) -> tuple[float, float, float]:
        """The upper radii of the local, functional and distant tier, in cells."""
        if self.radii is not None:
            return self.radii
        radius = self.max_radius
        return (
            _cells(self.local_ratio * radius),
            _cells(self.functional_ratio * radius),
            _cells(self.distant_ratio * radius),
        )

    @property
    def num_nodes(self) -> int:
        """N, the number of cells."""
        return math.prod(self.shape)

    @property
    def boundaries(self) -> tuple[Boundary, Boundary, Boundary]:
        """The boundary along x, y and z."""
        return (self.boundary,) * 3 if isinstance(self.boundary, str) else self.boundary

    @property
    def periodic(self) -> tuple[bool, bool, bool]:
        """Whether x, y and z wrap around."""
        return self._bounded("periodic")

    @property
    def reflecting(self) -> tuple[bool, bool, bool]:
        """Whether x, y and z end in mirrors."""
        return self._bounded("reflecting")

    @property
    def absorbing(self) -> tuple[bool, bool, bool]:
        """Whether the cells beyond x, y and z are held at zero."""
        return self._bounded("absorbing")

    def _bounded(self, name: Boundary) -> tuple[bool, bool, bool]:
        x, y, z = self.boundaries
        return (x == name, y == name, z == name)

    def resized(self, shape: tuple[int, int, int], keep: Keep = "cells") -> LatticeSpec:
        """Return the lattice with other sides and all else the same.

        Args:
            shape: Cells along x, y and z.
            keep: ``"cells"``: the three radii stay as they are, in cells, and so do a cell's neighbours. ``"ratios"``:
                they stay the same parts of the longest side, so that neighbourhoods grow with the lattice.

        Raises:
            ValueError: ``shape`` breaks the class's rule, or ``keep`` is unknown.
        """
        _one_of("keep", keep, get_args(Keep))
        radii = self.thresholds if keep == "cells" else self.radii
        if keep == "ratios" and radii is not None:
            local, functional, distant = (_cells(r * max(_shape(shape)) / max(self.shape)) for r in radii)
            radii = (local, functional, distant)
        return dataclasses.replace(self, shape=shape, radii=radii)

    def to_dict(self) -> dict[str, Any]:
        """Return every field as JSON-safe values; `from_dict` gives the spec back."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatticeSpec:
        """Build a spec from `to_dict`'s result; fields left out take their defaults.

        Raises:
            ValueError: A key is unknown, or a value breaks a rule of the class.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                raise ValueError(
                    f"A lattice spec has the keys {', '.join(names)}. Received {key!r}."
                    f"{did_you_mean(key, names)} Remove or rename it."
                )
        return cls(**values)


def _cells(radius: float) -> float:
    """Drop the binary rounding of a product of decimal ratios: 0.1 · 1.6 is 0.16, not 0.16000000000000003."""
    return round(radius, 12)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, allowed))}. Received {value!r}."
            f"{did_you_mean(value, allowed)} Write {name.split()[0]}: {allowed[0]}, or another of these."
        )


def _shape(value: object) -> tuple[int, int, int]:
    sides = tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(sides) != 3 or not all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 1 for n in sides):
        raise ValueError(
            f"shape is three whole numbers of cells, each at least 1. Received {value!r}. Write shape: [8, 8, 8]; "
            "for a flat lattice give one side the length 1."
        )
    x, y, z = (int(n) for n in sides)
    return (x, y, z)


def _positive(name: str, value: object) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < math.inf:
        raise ValueError(
            f"{name} must be a finite number above 0. Received {value!r}. Give a positive ratio, or leave it at its "
            "default."
        )
    return float(value)


def _radii(value: object) -> tuple[float, float, float]:
    entries = tuple(value) if isinstance(value, (list, tuple)) else ()
    numbers = [float(r) for r in entries if isinstance(r, Real) and not isinstance(r, bool) and 0 < float(r) < math.inf]
    if len(entries) != 3 or len(numbers) != 3 or not numbers[0] < numbers[1] < numbers[2]:
        raise ValueError(
            "radii are three finite distances in cells, above 0 and rising: local < functional < distant. "
            f"Received {value!r}. Write for example radii: [0.5, 1.0, 1.6], or radii: null to use the ratios."
        )
    return (numbers[0], numbers[1], numbers[2])
