"""The reference backend: PyG's own propagate over an explicit edge list."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing

from latticegnn.aggregate.moments import Moments


class EdgeAggregator(MessagePassing):
    """Neighbourhood functionals by PyG's default gather, message, scatter.

    Computes `Moments` exactly as written: one message ``value · x_j`` for every entry, summed at its row. It is slow
    and holds [M, B, F] messages in memory, and it is what the other backends are compared with.

    Args:
        moments: The functionals.

    Shapes:
        - input: state, nodes first, [N, B, F]
        - output: [R, N, B, F]
    """

    backend = "edge"

    def __init__(self, moments: Moments) -> None:
        super().__init__(aggr="sum", node_dim=0)
        self.count, self.num_nodes = moments.count, moments.num_nodes
        self.register_buffer("index", torch.stack([moments.source, moments.row]), persistent=False)
        self._value = moments.value

    def forward(self, x: Tensor) -> Tensor:
        """Apply the functionals to a state."""
        weight = self._value.to(x.device, x.dtype).view(-1, 1, 1)
        size = (self.num_nodes, self.count * self.num_nodes)
        out = self.propagate(self.index, x=(x, None), weight=weight, size=size)
        return out.view(self.count, self.num_nodes, *x.shape[1:])

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        """Weigh the source's state."""
        return weight * x_j
