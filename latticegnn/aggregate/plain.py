"""The sums as a convolution, or as one matrix, in PyTorch's own operations: for programs that leave Python."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from latticegnn.aggregate.moments import Moments
from latticegnn.aggregate.spectral import Span, spans_of
from latticegnn.lattice import LatticeSpec, node_grid
from latticegnn.lattice.stencil import mirrored


class PlainAggregator(nn.Module):
    r"""Neighbourhood functionals without custom autograd, sparse matrices or operators of one machine.

    The sum over a functional's neighbours is the same at every cell, :math:`\sum_o k_r(o)\, x_{i + o}`: a convolution
    over the grid continued by what each boundary puts beyond it, which is one gather, divided by the cell's degree
    afterwards. Where its kernel would have more places than the lattice has cells, and there are no distance weights,
    it is one matrix [R·N, N] instead. Tables are float64, `float` makes them single. `torch.export` traces it for any
    batch; training does not use it, as the convolution's backward pass is slow.

    Args:
        moments: The functionals, of all the edges that their spec defines.

    Attributes:
        backend: "convolution" or "matrix", whichever it is.

    Shapes:
        - input: state, nodes first, [N, B, F]; with distance weights also [S]
        - output: [R, N, B, F]

    Raises:
        ValueError: For a graph whose edges or numbering are not its spec's.
    """

    weight: Tensor
    scale: Tensor
    padding: Tensor
    ids: Tensor
    shell: Tensor

    def __init__(self, moments: Moments) -> None:
        super().__init__()
        if moments.edges is not None:
            raise ValueError(
                "a convolution sums over the neighbours that the spec defines; got a graph with other edges or another "
                f"numbering than its spec's, {len(moments.edges.source):,} edges; use the graph as build_graph(spec) "
                "made it."
            )
        self.count, self.num_nodes, self.shells = moments.count, moments.num_nodes, moments.shells
        kernel, spans = moments.kernel, spans_of(moments)
        sides = [span.high - span.low + 1 for span in spans]
        if not len(kernel.offsets) or (math.prod(sides) > self.num_nodes and not moments.radial):
            self.backend = "matrix"
            source, row, value, _ = moments.entries()
            weight = torch.zeros(self.count * self.num_nodes, self.num_nodes, dtype=torch.float64)
            self._keep(weight=weight.index_put_((row, source), value, accumulate=True))
            return
        self.backend = "convolution"
        place = tuple(kernel.offsets[:, axis] - span.low for axis, span in enumerate(spans))
        weight = torch.zeros(self.count, *sides, dtype=torch.float64)
        weight[:, place[0], place[1], place[2]] = kernel.weight
        shell = torch.zeros(sides, dtype=torch.long)
        shell[place] = kernel.shell
        reciprocals = moments.reciprocals()
        scale = torch.stack([reciprocals[tier] for tier, _ in moments.rows])
        padding, self.grid = _continued(moments.spec, spans)
        ids = node_grid(moments.spec).reshape(-1).argsort()
        self._keep(weight=weight, shell=shell, scale=scale, padding=padding, ids=ids)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Apply the functionals to a state."""
        columns = x.flatten(1)
        if self.backend == "matrix":
            return (self.weight @ columns).view(self.count, self.num_nodes, *x.shape[1:])
        weight = self.weight if weights is None else self.weight * weights.to(x.dtype)[self.shell]
        beyond = torch.cat([columns, columns.new_zeros(1, columns.shape[1])])  # row N: nothing is there
        grid = beyond[self.padding].t().reshape(-1, 1, *self.grid)
        sums = functional.conv3d(grid, weight.unsqueeze(1)).flatten(2)[:, :, self.ids]
        return (sums.permute(1, 2, 0) * self.scale.unsqueeze(2)).view(self.count, *x.shape)

    def _keep(self, **tables: Tensor) -> None:
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)


def _continued(spec: LatticeSpec, spans: list[Span]) -> tuple[Tensor, list[int]]:
    """Return the cell at each place of the grid and of what lies around it, N where there is none, and the sides."""
    grid, inside = node_grid(spec), torch.ones(1, 1, 1, dtype=torch.bool)
    for axis, span in enumerate(spans):
        position = torch.arange(span.low, span.length + span.high)
        if span.boundary == "periodic":
            position = position.remainder(span.length)
        elif span.boundary == "reflecting":
            position = mirrored(position, span.length)
        there = (position >= 0) & (position < span.length)
        grid = grid.index_select(axis, position.clamp(0, span.length - 1))
        inside = inside & there.view([-1 if other == axis else 1 for other in range(3)])
    return torch.where(inside, grid, spec.num_nodes).reshape(-1), list(grid.shape)
