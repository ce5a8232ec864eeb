"""A code as a small image laid over the ports of a face, whatever the face's size."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from latticegnn.lattice import LatticeSpec, Ports, coordinates

PortMap = Literal["direct", "bilinear"]


class PortImage(nn.Module):
    r"""A fixed linear map over numbers or ports: :math:`y_p = \sum_k W_{pk} x_k`, the same for every channel.

    Args:
        matrix: W [P, K]; None hands everything through.

    Shapes:
        - input: [B, K] or [B, K, F]
        - output: [B, P] or [B, P, F]
    """

    matrix: Tensor | None

    def __init__(self, matrix: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map a code to ports, or the states of ports to numbers of a code."""
        if self.matrix is None:
            return x
        return torch.einsum("pk,bk...->bp...", self.matrix.to(x), x)

    def inverse(self) -> PortImage:
        r"""Return the map back by least squares, :math:`(W^\top W)^{-1} W^\top`.

        What was laid comes back as it was, at every size, and rows sum to one as those of W do. The transpose with its
        rows scaled to sum to one would give a blurred code, and sampling the face at the code's places would leave most
        ports of a large face unread.
        """
        if self.matrix is None:
            return PortImage(None)
        w = self.matrix.double()
        return PortImage(torch.linalg.solve(w.T @ w, w.T))


def port_maps(
    kind: PortMap, shape: tuple[int, int] | None, spec: LatticeSpec, inputs: Ports, outputs: Ports
) -> tuple[PortImage, PortImage, int, int]:
    """Make the maps from a code to the input ports and from the output ports to what is decoded.

    Args:
        kind: "direct": one number for each port, so that a code belongs to one size. "bilinear": see `interpolation`,
            and its `PortImage.inverse` on the way out.
        shape: Sides of the code's image, for "bilinear".
        spec: The lattice.
        inputs: Input ports.
        outputs: Output ports.

    Returns:
        The two maps, the number of code numbers laid, and that of places read.

    Raises:
        ValueError: For an unknown kind, a shape that is missing, out of range or without use, or ports that cannot hold
            the code.
    """
    if kind not in get_args(PortMap):
        raise ValueError(f"port_map must be one of {', '.join(get_args(PortMap))}; got {kind!r}; choose one of them.")
    if kind == "direct":
        if shape is not None:
            raise ValueError(
                f"code_shape belongs to port_map: bilinear; got {list(shape)} with direct, whose code has one number "
                "for each port; leave it out, or set port_map: bilinear."
            )
        return PortImage(None), PortImage(None), inputs.count(spec), outputs.count(spec)
    if inputs.learned or outputs.learned or outputs.ordered:
        raise ValueError(
            "a code's image lies on fixed ports and has no first ones; got port_map: bilinear with a placement that is "
            "learned, or ordered for the outputs; choose placement: full, or port_map: direct."
        )
    sides = list(shape) if isinstance(shape, (tuple, list)) else []
    if len(sides) != 2 or any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in sides):
        raise ValueError(
            f"port_map: bilinear needs the sides of the code's image, two whole numbers from 1; got {shape!r}; write "
            "code_shape: [8, 8]."
        )
    laid, read = (PortImage(interpolation(spec, ports, (sides[0], sides[1]))) for ports in (inputs, outputs))
    return laid, read.inverse(), sides[0] * sides[1], sides[0] * sides[1]


def interpolation(spec: LatticeSpec, ports: Ports, shape: tuple[int, int]) -> Tensor:
    r"""Return the weights by which a small image, stretched over a face, reaches the face's ports.

    Bilinear, corners aligned: the image's corner numbers lie on the face's corner cells. A port at cells (i, j) of a
    face of n × m cells takes, from the image's number (a, b) of K₁ × K₂,

    .. math::
        W = \Lambda\Big(i \tfrac{K_1 - 1}{n - 1} - a\Big) \, \Lambda\Big(j \tfrac{K_2 - 1}{m - 1} - b\Big), \qquad
        \Lambda(t) = \max(0, 1 - |t|).

    Rows sum to one. Where the face is of the image's shape and all of its cells are ports, W is the identity.

    Args:
        spec: The lattice.
        ports: Ports on one face, of any placement.
        shape: Sides of the image, K₁ and K₂, along the face's two axes in the order x, y, z.

    Returns:
        float64 [P, K₁·K₂], ports and numbers in raster order.

    Raises:
        ValueError: When ports lie on several faces, or cannot tell all numbers apart, so that some would be lost.
    """
    if ports.face == "surface":
        raise ValueError(
            "a code's image is laid on one face; got ports on the whole surface; choose a face such as z-, or "
            "port_map: direct."
        )
    axes = [axis for axis in range(3) if axis != "xyz".index(ports.face[0])]
    place = coordinates(spec)[ports.nodes(spec)].double()
    sides = [spec.shape[axis] for axis in axes]
    hats = []
    for axis, side, count in zip(axes, sides, shape, strict=True):
        along = place[:, axis] * ((count - 1) / (side - 1) if side > 1 else 0)
        hats.append((1 - (along[:, None] - torch.arange(count)).abs()).clamp_min(0))
    weights = (hats[0][:, :, None] * hats[1][:, None, :]).flatten(1)
    rank = int(torch.linalg.matrix_rank(weights))
    if rank < weights.shape[1]:
        raise ValueError(
            f"the ports must be able to hold the whole code; {len(weights)} ports on {ports.face} of {sides[0]} × "
            f"{sides[1]} cells tell {rank} of the {weights.shape[1]} numbers of a {shape[0]} × {shape[1]} image apart; "
            "take more ports, a larger face, or a smaller code_shape."
        )
    return weights
