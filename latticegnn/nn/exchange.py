"""Exchange between cells that share a face: what diffusion, waves and transport are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from latticegnn.lattice import LatticeSpec, Ports, coordinates, neighbours

Offset = tuple[int, int, int]


def face_offset(axis: int, sign: int) -> Offset:
    """Return the offset ±1 along one axis."""
    x, y, z = (sign if axis == other else 0 for other in range(3))
    return (x, y, z)


def face_offsets(spec: LatticeSpec) -> list[Offset]:
    """Return the offsets at which a cell can have a neighbour across a face, each pair of cells joined once.

    Around a periodic axis of two cells both ways lead to the same neighbour, which counts once.
    """
    return [
        face_offset(axis, sign)
        for axis, (length, wraps) in enumerate(zip(spec.shape, spec.periodic, strict=True))
        for sign in (-1, 1)
        if length > 2 or (length == 2 and not (wraps and sign == -1))
    ]


def most_faces(spec: LatticeSpec) -> int:
    """Return q, the most face neighbours that a cell of the lattice has: 6 for a cube, 4 for a sheet.

    The zeros beyond an absorbing boundary count; a mirror image beyond a reflecting one is the cell itself.
    """
    return sum(
        2 if zeros and length > 1 else min(length - 1, 2)
        for length, zeros in zip(spec.shape, spec.absorbing, strict=True)
    )


def largest_eigenvalue(spec: LatticeSpec) -> float:
    r"""Return λ, the largest eigenvalue of the graph Laplacian of the face neighbours, in closed form.

    The lattice is a product of paths (open and reflecting axes), paths between zeros (absorbing ones) and cycles
    (periodic ones), so the eigenvalues add up over the axes (Fiedler, 1973): :math:`2 - 2\cos(\pi k / n)`, k = 0 …
    n−1, of a path, :math:`2 - 2\cos(\pi k / (n + 1))`, k = 1 … n, of one between zeros, and
    :math:`2 - 2\cos(2 \pi k / n)` of a cycle. The largest is 4 for an even cycle of four cells or more,
    :math:`2 + 2\cos(\pi / n)` for a path or an odd cycle, :math:`2 + 2\cos(\pi / (n + 1))` between zeros, and 0 for a
    single cell.
    """
    return sum(
        4.0
        if boundary == "periodic" and length % 2 == 0 and length > 2
        else 2 + 2 * math.cos(math.pi / (length + (boundary == "absorbing")))
        for length, boundary in zip(spec.shape, spec.boundaries, strict=True)
        if length > 1
    )


def port_axis(spec: LatticeSpec, inputs: Ports, outputs: Ports) -> tuple[float, float, float]:
    """Return the unit vector from the input ports' mean place to the output ports', along periodic axes the short way.

    Raises:
        ValueError: The two places are the same.
    """
    place = coordinates(spec).double()
    way = place[outputs.nodes(spec)].mean(0) - place[inputs.nodes(spec)].mean(0)
    sides = torch.tensor(spec.shape, dtype=way.dtype)
    way = torch.where(torch.tensor(spec.periodic), way - (way / sides).round() * sides, way)
    if way.norm() < 1e-9:
        raise ValueError(
            "an axis leads from the input ports to the output ports, which must lie apart; got the faces "
            f"{inputs.face} and {outputs.face}, whose ports have the same mean place; "
            "name the axis itself, such as (0, 0, 1)."
        )
    x, y, z = (way / way.norm()).tolist()
    return (x, y, z)


class FaceExchange(nn.Module):
    r"""What flows into each cell across its faces: :math:`y_i = \sum_o w_o (x_{i + o} - x_i)`.

    The sum runs over the offsets with a neighbour: beyond an open boundary nothing is exchanged (zero flux). Nor is it
    beyond a reflecting one, where a cell meets itself: across faces the two are the same Neumann condition. Beyond an
    absorbing one x is 0 (Dirichlet). With one weight for all faces this is the graph Laplacian, negated: symmetric, and
    the sum over all cells is zero, but for what is lost across absorbing faces.

    Args:
        spec: The lattice.
        weights: w_o by offset, each a step ±1 along one axis.

    Shapes:
        - input: state [B, N, F]
        - output: [B, N, F]

    Raises:
        ValueError: The state is not one of this lattice.
    """

    sources: Tensor
    lost: Tensor | None

    def __init__(self, spec: LatticeSpec, weights: Mapping[Offset, float]) -> None:
        super().__init__()
        self.num_nodes, self.weights = spec.num_nodes, tuple(weights.values())
        # A cell without a neighbour at an offset is its own: the difference is zero, and no boundary needs a case.
        sources = torch.arange(spec.num_nodes).repeat(len(weights), 1)
        lost = torch.zeros(spec.num_nodes, 1, dtype=torch.float64)
        for row, (offset, weight) in zip(sources, weights.items(), strict=True):
            source, target = neighbours(spec, offset)
            row[target] = source
            if any(step and zeros for step, zeros in zip(offset, spec.absorbing, strict=True)):
                missing = torch.ones(spec.num_nodes, dtype=torch.bool)
                missing[target] = False
                lost[missing] += weight
        self.register_buffer("sources", sources, persistent=False)
        self.register_buffer("lost", lost if any(spec.absorbing) else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Sum the weighted differences to the neighbours."""
        if x.dim() != 3 or x.shape[1] != self.num_nodes:
            raise ValueError(
                f"the state must have shape [B, N, F] with N = {self.num_nodes}; got {list(x.shape)}; "
                "pass a batch of states of this lattice."
            )
        total = torch.zeros_like(x)
        for weight, source in zip(self.weights, self.sources, strict=True):
            total = total + weight * (x.index_select(1, source) - x)
        return total if self.lost is None else total - self.lost.to(x.dtype) * x


def laplacian(spec: LatticeSpec) -> FaceExchange:
    """Return the sum of the differences to all face neighbours, the graph Laplacian negated: eigenvalues from −λ."""
    return FaceExchange(spec, dict.fromkeys(face_offsets(spec), 1.0))
