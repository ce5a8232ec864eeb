"""PyG's propagate over edges sorted by target, reduced by torch-scatter's segments instead of a scatter."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing

from latticegnn.aggregate.moments import Moments


class SegmentAggregator(MessagePassing):
    """Neighbourhood functionals by gather, message and `torch_scatter.segment_csr`.

    The same messages as `EdgeAggregator`, sorted by row so that each row is one segment: no atomic adds, and a fixed
    order of summation. It still holds [M, B, F] messages.

    Args:
        moments: The functionals.

    Shapes:
        - input: state, nodes first, [N, B, F]
        - output: [R, N, B, F]

    Raises:
        ModuleNotFoundError: When torch-scatter is not installed.
    """

    backend = "segment"

    def __init__(self, moments: Moments) -> None:
        super().__init__(aggr=None, node_dim=0)
        try:
            from torch_scatter import segment_csr
        except ImportError as error:
            raise ModuleNotFoundError(
                f"backend 'segment' needs torch-scatter; importing it failed: {error}; run `make setup`, or "
                "`pip install --no-build-isolation torch-scatter==2.1.2`, or choose backend: sparse."
            ) from error
        self._reduce = segment_csr
        self.count, self.num_nodes = moments.count, moments.num_nodes
        order = torch.argsort(moments.row, stable=True)
        row = moments.row[order]
        sizes = torch.bincount(row, minlength=self.count * self.num_nodes)
        self.index: Tensor
        self.bounds: Tensor
        self.register_buffer("index", torch.stack([moments.source[order], row]), persistent=False)
        self.register_buffer("bounds", torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]), persistent=False)
        self._value = moments.value[order]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the functionals to a state."""
        weight = self._value.to(x.device, x.dtype).view(-1, 1, 1)
        size = (self.num_nodes, self.count * self.num_nodes)
        out = self.propagate(self.index, x=(x, None), weight=weight, size=size)
        return out.view(self.count, self.num_nodes, *x.shape[1:])

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        """Weigh the source's state."""
        return weight * x_j

    def aggregate(self, inputs: Tensor, index: Tensor) -> Tensor:
        """Sum each row's segment of messages."""
        return self._reduce(inputs, self.bounds, reduce="sum")
