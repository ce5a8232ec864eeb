"""How alike cells near each other are: Moran's I over face neighbours, and correlation by distance."""

from __future__ import annotations

import torch
from torch import Tensor

from latticegnn.analysis.trajectory import checked
from latticegnn.lattice import LatticeSpec, node_grid


def face_pairs(spec: LatticeSpec) -> list[tuple[Tensor, Tensor]]:
    """Return the pairs of cells that share a face, for x, y and z: two LongTensors each, the first cell below.

    Each pair is named once. A periodic axis closes with a pair from its last cell to its first, which takes at least
    three cells (with two, that pair is there already). What a reflecting or absorbing boundary shows beyond itself is
    no further cell, and in no pair.
    """
    grid = node_grid(spec)
    pairs = []
    for axis, (length, wraps) in enumerate(zip(spec.shape, spec.periodic, strict=True)):
        count = length if wraps and length > 2 else length - 1
        after = grid.roll(-1, axis)
        pairs.append((grid.narrow(axis, 0, count).reshape(-1), after.narrow(axis, 0, count).reshape(-1)))
    return pairs


def morans_i(trajectory: Tensor, spec: LatticeSpec) -> Tensor:
    r"""Compute Moran's I of each state over face neighbours, all with weight 1 (Moran, 1950).

    .. math::
        I = \frac{N}{|E|} \, \frac{\sum_{(i, j) \in E} z_i \cdot z_j}{\sum_i \|z_i\|^2}, \qquad
        z_i = x_i - \langle x \rangle_i

    with E the pairs of cells that share a face, each once; channels are summed over. About −1 for a checkerboard,
    −1 / (N − 1) expected of cells that know nothing of each other, towards 1 for smooth fields. NaN for a uniform
    state, of which nothing can be said.

    Shapes:
        trajectory [T + 1, B, N, F] → [T + 1, B].

    Raises:
        ValueError: The trajectory is not sound, or the lattice is a single cell.
    """
    if spec.num_nodes < 2:
        raise ValueError(
            f"Neighbours need a lattice of at least two cells. Received the shape {spec.shape}. Use a larger one."
        )
    x = checked(trajectory, spec)
    z = x - x.mean(dim=2, keepdim=True)
    total, count = x.new_zeros(x.shape[:2]), 0
    for first, second in face_pairs(spec):
        total += (z[:, :, first] * z[:, :, second]).sum(dim=(-1, -2))
        count += len(first)
    return spec.num_nodes / count * total / z.square().sum(dim=(-1, -2))


def distance_correlation(trajectory: Tensor, spec: LatticeSpec) -> Tensor:
    r"""Compute the correlation of two cells by their distance, in bins one cell wide.

    .. math::
        C(d) = \frac{\langle z_i \cdot z_j \rangle_{d - 1/2 \le |r_i - r_j| < d + 1/2}}{\langle \|z_i\|^2 \rangle_i}

    for d = 0, 1, …, up to the lattice's largest distance R; z and the channels as in `morans_i`. Distances on a
    periodic axis go the shortest way round. All pairs are counted at once by Fourier transforms. C(0) = 1; NaN for a
    uniform state, and for a bin that holds no pair.

    Shapes:
        trajectory [T + 1, B, N, F] → [T + 1, B, R + 1].

    Raises:
        ValueError: The trajectory is not sound.
    """
    x = checked(trajectory, spec)
    z = (x - x.mean(dim=2, keepdim=True))[:, :, node_grid(spec)]  # [T + 1, B, X, Y, Z, F]
    size = [n if wraps else 2 * n for n, wraps in zip(spec.shape, spec.periodic, strict=True)]
    products = _offset_sums(z.movedim(-1, 2), size).sum(dim=2)
    pairs = _offset_sums(torch.ones(spec.shape, dtype=torch.float64, device=x.device), size).round()
    axes = [torch.minimum(torch.arange(s), s - torch.arange(s)).double().square() for s in size]
    squared = axes[0][:, None, None] + axes[1][:, None] + axes[2]
    inside = (pairs > 0).cpu()
    bins = (squared.sqrt() + 0.5).floor().long()[inside].to(x.device)
    last = int(bins.max()) + 1
    numbers = pairs[inside.to(x.device)]
    total = x.new_zeros(*x.shape[:2], last).index_add(2, bins, products[..., inside.to(x.device)])
    count = x.new_zeros(last).index_add(0, bins, numbers)
    return total / count / z.square().sum(dim=(-1, -2, -3, -4))[..., None] * spec.num_nodes


def _offset_sums(values: Tensor, size: list[int]) -> Tensor:
    """Sum ``values`` times itself at every offset; the last three dimensions are x, y, z, an open axis padded."""
    spectrum = torch.fft.rfftn(values, s=size, dim=(-3, -2, -1))
    return torch.fft.irfftn(spectrum.abs().square(), s=size, dim=(-3, -2, -1))
