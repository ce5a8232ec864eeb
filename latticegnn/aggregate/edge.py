"""The reference backend: PyG's own propagate over an explicit edge list."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing

from latticegnn.aggregate.aggregator import Aggregator
from latticegnn.aggregate.memory import require
from latticegnn.aggregate.moments import Moments


class EdgeAggregator(Aggregator):
    """Neighbourhood functionals by PyG's propagate: gather, message, reduce.

    Computes `Moments` exactly as written: one message ``value · x_j`` for every entry, summed at its row. It is slow
    and holds [M, B, F] messages in memory, and it is what the other backends are compared with: its gradients are
    autograd's own.

    Args:
        moments: The functionals.
        segments: Sum each row's entries as one segment (`torch_scatter.segment_csr`), in a fixed order and without
            atomic adds, in place of PyG's scatter.

    Shapes:
        - input: state, nodes first, [N, B, F]; with distance weights also [S]
        - output: [R, N, B, F]

    Raises:
        ValueError: When the entries do not fit in memory.
        ModuleNotFoundError: When segments are asked for and torch-scatter is not installed.
    """

    def __init__(self, moments: Moments, segments: bool = False) -> None:
        super().__init__(moments)
        self.backend = "segment" if segments else "edge"
        entries = int(moments.entry_counts().sum())
        require(96 * entries, self.backend, moments, f"{entries:,} entries")
        self.sum = _Sum(moments, segments)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Apply the functionals to a state; differentiable in the state and in the weights."""
        return self.sum(x, self._checked(weights, x)).view(self.count, self.num_nodes, *x.shape[1:])

    def _product(self, x: Tensor, weights: Tensor | None) -> Tensor:
        return self(x.unsqueeze(1), weights).squeeze(2)

    def _transposed(self, g: Tensor, weights: Tensor | None) -> Tensor:
        with torch.enable_grad():
            x = g.new_zeros(g.shape[1:], requires_grad=True)
            return torch.autograd.grad(self._product(x, weights), x, g)[0]

    def _slopes(self, x: Tensor, g: Tensor) -> Tensor:
        with torch.enable_grad():
            weights = g.new_zeros(self.shells, requires_grad=True)
            return torch.autograd.grad(self._product(x, weights), weights, g)[0]


class _Sum(MessagePassing):
    """PyG's template for the entries of `Moments`: [N, B, F] -> [R·N, B, F]."""

    def __init__(self, moments: Moments, segments: bool) -> None:
        super().__init__(aggr="sum", node_dim=0)
        self.size = (moments.num_nodes, moments.count * moments.num_nodes)
        source, row, self._value, shell = moments.entries()
        bounds = None
        if segments:
            self._segment = _segment_csr()
            ends = torch.bincount(row, minlength=self.size[1]).cumsum(0)
            bounds = torch.cat([ends.new_zeros(1), ends])
        self.bounds: Tensor | None
        self.register_buffer("bounds", bounds, persistent=False)
        self.index: Tensor
        self.register_buffer("index", torch.stack([source, row]), persistent=False)
        self.shell: Tensor | None
        self.register_buffer("shell", shell if moments.radial else None, persistent=False)

    def forward(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Sum the messages."""
        weight = self._value.to(x.device, x.dtype)
        if weights is not None:
            weight = weight * weights[self.shell]
        return self.propagate(self.index, x=(x, None), weight=weight.view(-1, 1, 1), size=self.size)

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
