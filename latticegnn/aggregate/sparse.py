"""CSR products with a hand-written backward: the same numbers as the edge list, without a tensor of messages."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from latticegnn.aggregate.moments import Moments


class _Product(torch.autograd.Function):
    """``matrix @ x`` whose gradient is ``transposed @ g``; autograd's own would build a gradient for the matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed @ grad.contiguous(), None, None


class SparseAggregator(nn.Module):
    """Neighbourhood functionals as one sparse matrix product, forward and backward.

    The [R·N, N] matrix of `Moments` and its transpose are stored in CSR; with the state kept nodes first, B and F are
    one dense axis and a step needs one product. They are made once for each dtype and device the state arrives in.

    Args:
        moments: The functionals.

    Shapes:
        - input: state, nodes first, [N, B, F]
        - output: [R, N, B, F]
    """

    backend = "sparse"

    def __init__(self, moments: Moments) -> None:
        super().__init__()
        self.count, self.num_nodes = moments.count, moments.num_nodes
        self._moments = moments
        self._matrices: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Apply the functionals to a state."""
        key = (x.dtype, x.device)
        if key not in self._matrices:
            self._matrices[key] = self._build(*key)
        out = _Product.apply(x.reshape(self.num_nodes, -1), *self._matrices[key])
        return out.view(self.count, self.num_nodes, *x.shape[1:])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the products' matrices out of copies and pickles: CSR tensors have no storage to copy."""
        return self.__dict__ | {"_matrices": {}}

    def _build(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        m = self._moments
        index = torch.stack([m.row, m.source])
        shape = (self.count * self.num_nodes, self.num_nodes)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
            matrix = torch.sparse_coo_tensor(index, m.value, shape, check_invariants=True).coalesce()
            pair = matrix.to_sparse_csr(), matrix.t().coalesce().to_sparse_csr()
        return pair[0].to(device, dtype), pair[1].to(device, dtype)
