"""Ports with positions that training moves over a face."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SoftPorts(nn.Module):
    r"""Ports at any places of a face, which write to and read from its cells through one Gaussian kernel.

    With the position :math:`r_p` of port p, the cells' :math:`r_m` and the width w,

    .. math::
        K_{pm} = \frac{G_{pm}}{\|G_p\|_2}, \quad G_{pm} = \exp\!\Big(\!-\frac{\|r_p - r_m\|^2}{2 w^2}\Big); \qquad
        \mathrm{write}(s)_m = \sum_p K_{pm} s_p, \quad \mathrm{read}(x)_p = \sum_m K_{pm} x_m

    Rows of unit length make a port read back exactly what it wrote, wherever it is. As w goes to zero, a port on a cell
    becomes that cell. Distances are straight ones within the face, also where its sides are periodic.

    The parameter `position` [P, S] counts the S sides of more than one cell from -1 to 1; what leaves that range is
    folded back as by mirrors, :math:`u \mapsto |((u - 1) \bmod 4) - 2| - 1`, so that ports stay on the face and their
    gradient never dies at its edge.

    Args:
        cells: Coordinates of the face's cells [M, 3].
        start: Coordinates at which the ports start, within the face [P, 3].
        width: w in cells, > 0.

    Shapes:
        - write: [B, P, F] -> [B, M, F]
        - read: [B, M, F] -> [B, P, F]
    """

    cells: Tensor
    middle: Tensor
    sides: Tensor

    def __init__(self, cells: Tensor, start: Tensor, width: float) -> None:
        super().__init__()
        cells, low, high = cells.float(), cells.amin(0).float(), cells.amax(0).float()
        self.width = width
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("middle", (low + high) / 2, persistent=False)
        half = (high - low) / 2
        self.register_buffer("sides", torch.diag(half)[half > 0], persistent=False)
        self.position = nn.Parameter(((start.float() - self.middle) / half)[:, half > 0])

    def places(self) -> Tensor:
        """Return where the ports are, in the lattice's coordinates: [P, 3]."""
        folded = (((self.position - 1) % 4) - 2).abs() - 1
        return self.middle + folded @ self.sides

    def kernel(self) -> Tensor:
        """Return K: [P, M]."""
        square = (self.places().unsqueeze(1) - self.cells).square().sum(-1)
        share = torch.softmax(-square / (2 * self.width**2), dim=1)
        return share / share.norm(dim=1, keepdim=True)

    def write(self, states: Tensor) -> Tensor:
        """Lay the ports' states on the cells."""
        return torch.einsum("pm,bpf->bmf", self.kernel(), states).to(states.dtype)

    def read(self, states: Tensor) -> Tensor:
        """Read the cells' states at the ports."""
        return torch.einsum("pm,bmf->bpf", self.kernel(), states).to(states.dtype)
