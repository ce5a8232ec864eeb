"""One dense matrix for each functional: fastest where nearly every cell is a neighbour of every other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latticegnn.aggregate.aggregator import Aggregator
from latticegnn.aggregate.memory import require
from latticegnn.aggregate.moments import Moments
from latticegnn.aggregate.product import linear


class DenseAggregator(Aggregator):
    """Neighbourhood functionals as one dense matrix [R·N, N] and its transpose, filled from the entries of `Moments`.

    With distance weights, the matrix is multiplied by them on each call. Both are kept for each dtype and device the
    state arrives in.

    Args:
        moments: The functionals.

    Shapes:
        - input: state, nodes first, [N, B, F]; with distance weights also [S]
        - output: [R, N, B, F]

    Raises:
        ValueError: When the matrix does not fit in memory, or for distance weights beside a reflecting boundary.
    """

    backend = "dense"

    def __init__(self, moments: Moments) -> None:
        super().__init__(moments)
        if not servable(moments):
            raise ValueError(
                "backend 'dense' keeps one distance for each pair of cells, and so one weight; got distance weights on "
                f"the boundary {moments.spec.boundary}, where a cell is also seen at its mirror images' distances; use "
                "backend: dft or sparse, or leave it auto."
            )
        rows = self.count * self.num_nodes
        require(table_bytes(moments), self.backend, moments, f"{rows:,} × {self.num_nodes:,} numbers")
        self._moments = moments
        self._tables: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor]] = {}

    def _product(self, x: Tensor, weights: Tensor | None) -> Tensor:
        matrix, _, shell = self._table(x)
        if weights is not None and self.shells:
            matrix = matrix * weights[shell]
        return linear(matrix.flatten(0, 1), x.t()).view(self.count, *x.shape)

    def _transposed(self, g: Tensor, weights: Tensor | None) -> Tensor:
        _, matrix, shell = self._table(g)
        if weights is not None and self.shells:
            matrix = matrix * weights[shell].unsqueeze(1)
        return linear(matrix.flatten(1), g.flatten(0, 1).t())

    def _slopes(self, x: Tensor, g: Tensor) -> Tensor:
        matrix, _, shell = self._table(x)
        slopes = x.new_zeros(self.shells)
        for one, gradient in zip(matrix, g, strict=True):
            slopes.index_add_(0, shell.view(-1), linear(gradient, x).mul_(one).view(-1))
        return slopes

    def _table(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the matrix [R, N, N], its transpose [N, R, N] and the shell of each pair of cells, [N, N]."""
        key = (like.dtype, like.device)
        if key not in self._tables:
            source, row, value, shell = self._moments.entries()
            matrix = torch.zeros(self.count * self.num_nodes, self.num_nodes, dtype=like.dtype)
            matrix.index_put_((row, source), value.to(like.dtype), accumulate=True)
            matrix = matrix.view(self.count, self.num_nodes, self.num_nodes)
            shells = torch.zeros((self.num_nodes,) * 2 if self.shells else (0, 0), dtype=torch.long)
            if self.shells:
                shells[row % self.num_nodes, source] = shell
            tables = (matrix, matrix.permute(2, 0, 1).contiguous(), shells)
            self._tables[key] = (tables[0].to(like.device), tables[1].to(like.device), shells.to(like.device))
        return self._tables[key]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the matrix out of copies and pickles; it is remade at the first use."""
        return self.__dict__ | {"_tables": {}}


def servable(moments: Moments) -> bool:
    """Return whether a matrix of pairs of cells holds these functionals: distance weights want one distance a pair."""
    return not (moments.radial and any(moments.spec.reflecting))


def table_bytes(moments: Moments) -> int:
    """Estimate the bytes that the matrix and its transpose take at most while they are made, in double precision.

    The list of entries that they are made from comes on top of them.
    """
    return (32 if moments.radial else 24) * moments.count * moments.num_nodes**2 + 64 * int(
        moments.entry_counts().sum()
    )
