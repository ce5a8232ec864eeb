"""The reference backend: PyG's own propagate over an explicit edge list."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing

from latticegnn.aggregate.moments import Moments


class EdgeAggregator(MessagePassing):
    """Neighbourhood functionals by PyG's propagate: gather, message, reduce.

    Computes `Moments` exactly as written: one message ``value · x_j`` for every entry, summed at its row. It is slow
    and holds [M, B, F] messages in memory, and it is what the other backends are compared with.

    Args:
        moments: The functionals.
        segments: Sort the entries by row and sum each row as one segment (`torch_scatter.segment_csr`), in a fixed
            order and without atomic adds, in place of PyG's scatter.

    Shapes:
        - input: state, nodes first, [N, B, F]
        - output: [R, N, B, F]

    Raises:
        ModuleNotFoundError: When segments are asked for and torch-scatter is not installed.
    """

    def __init__(self, moments: Moments, segments: bool = False) -> None:
        super().__init__(aggr="sum", node_dim=0)
        self.backend = "segment" if segments else "edge"
        self.count, self.num_nodes = moments.count, moments.num_nodes
        source, row, value = moments.source, moments.row, moments.value
        bounds = None
        if segments:
            self._segment = _segment_csr()
            order = torch.argsort(row, stable=True)
            source, row, value = source[order], row[order], value[order]
            ends = torch.bincount(row, minlength=self.count * self.num_nodes).cumsum(0)
            bounds = torch.cat([ends.new_zeros(1), ends])
        self.bounds: Tensor | None
        self.register_buffer("bounds", bounds, persistent=False)
        self.index: Tensor
        self.register_buffer("index", torch.stack([source, row]), persistent=False)
        self._value = value

    def forward(self, x: Tensor) -> Tensor:
        """Apply the functionals to a state."""
        weight = self._value.to(x.device, x.dtype).view(-1, 1, 1)
        size = (self.num_nodes, self.count * self.num_nodes)
        out = self.propagate(self.index, x=(x, None), weight=weight, size=size)
        return out.view(self.count, self.num_nodes, *x.shape[1:])

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        """Weigh the source's state."""
        return weight * x_j

    def aggregate(
        self, inputs: Tensor, index: Tensor, ptr: Tensor | None = None, dim_size: int | None = None
    ) -> Tensor:
        """Sum each row's messages."""
        if self.bounds is not None:
            return self._segment(inputs, self.bounds, reduce="sum")
        return super().aggregate(inputs, index, ptr, dim_size)


def _segment_csr() -> Any:
    try:
        from torch_scatter import segment_csr
    except ImportError as error:
        raise ModuleNotFoundError(
            f"backend 'segment' needs torch-scatter; importing it failed: {error}; run `make setup`, or "
            "`pip install --no-build-isolation torch-scatter==2.1.2`, or choose backend: sparse."
        ) from error
    return segment_csr
