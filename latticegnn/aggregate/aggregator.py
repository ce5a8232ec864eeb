"""What every backend is: a linear map of a lattice's state, its transpose, and the gradient of its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from latticegnn.aggregate.moments import Moments


class Aggregator(nn.Module, ABC):
    r"""Neighbourhood functionals of a state, nodes first: ``out[r] = P_r x`` with P the matrix of `Moments`.

    A backend gives three products on states whose batch and channels are one axis of length C = B·F; autograd is built
    on them once, here, so that no backend lets it store messages.

    Args:
        moments: The functionals, or another aggregator of as many.

    Attributes:
        backend: The backend's name.
        count: R, the number of functionals.
        num_nodes: N.
        radial: Whether there are distance weights.
        shells: S, their number.

    Shapes:
        - input: state, nodes first, [N, B, F]; with distance weights also [S]
        - output: [R, N, B, F]
    """

    backend: str
    count: int
    num_nodes: int
    radial: bool
    shells: int

    def __init__(self, moments: Moments | Aggregator) -> None:
        super().__init__()
        self.count, self.num_nodes = moments.count, moments.num_nodes
        self.radial, self.shells = moments.radial, moments.shells

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Apply the functionals to a state; differentiable in the state and in the weights."""
        weights = self._checked(weights, x)
        out = _Products.apply(x.reshape(self.num_nodes, -1), weights, self)
        return out.view(self.count, self.num_nodes, *x.shape[1:])

    @torch.no_grad()
    def by_cells(self, x: Tensor, weights: Tensor | None = None) -> Callable[[int, int], Tensor]:
        """Return what gives the functionals of the cells first … last − 1: [R, last − first, B, F].

        Outside of autograd. A backend that cannot sum for some cells alone sums for all of them at once.
        """
        out = self(x.detach(), weights)
        return lambda first, last: out[:, first:last]

    @torch.no_grad()
    def adjoint(self, g: Tensor, weights: Tensor | None = None) -> Tensor:
        """Apply the transposed map, ``Σ_r P_rᵀ g_r``: [R, N, B, F] -> [N, B, F]; outside of autograd."""
        weights = self._checked(weights, g)
        return self._transposed(g.flatten(2), weights).view(g.shape[1:])

    @torch.no_grad()
    def weights_gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """Differentiate ``<g, P(w) x>`` by the distance weights: [N, B, F] and [R, N, B, F] -> [S]."""
        if not self.radial:
            raise ValueError(
                "only an aggregator with distance weights has their gradient; this one sums all distances alike; make "
                "it with radial=True."
            )
        return self._slopes(x.reshape(self.num_nodes, -1), g.flatten(2))

    @abstractmethod
    def _product(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """Compute P x: [N, C] -> [R, N, C]."""

    @abstractmethod
    def _transposed(self, g: Tensor, weights: Tensor | None) -> Tensor:
        """Compute Σ_r P_rᵀ g_r: [R, N, C] -> [N, C]."""

    @abstractmethod
    def _slopes(self, x: Tensor, g: Tensor) -> Tensor:
        """Compute ∂<g, P(w) x>/∂w: [N, C] and [R, N, C] -> [S]."""

    def _gradients(self, x: Tensor, g: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients by the state and by the weights; a backend may share work between them."""
        return self._transposed(g, weights), self._slopes(x, g)

    def _checked(self, weights: Tensor | None, like: Tensor) -> Tensor | None:
        """Return the weights in the state's precision."""
        if (weights is not None) != self.radial or (weights is not None and weights.shape != (self.shells,)):
            got = "none" if weights is None else f"a tensor {list(weights.shape)}"
            rule = f"[S] = [{self.shells}]" if self.radial else "and no weights without radial=True"
            raise ValueError(
                f"the aggregation takes one weight for each distance, {rule}; got {got}; pass what its constructor "
                "asked for."
            )
        return None if weights is None else weights.to(like.dtype)


class _Products(torch.autograd.Function):
    """The backend's products as one operation of autograd, which would else store what they are made of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor | None, owner: Aggregator) -> Tensor:
        ctx.owner = owner
        ctx.save_for_backward(*(() if weights is None else (x, weights)))
        return owner._product(x, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        owner: Aggregator = ctx.owner
        saved = ctx.saved_tensors  # once: under checkpointing, asking computes them
        if not saved:
            return owner._transposed(g, None), None, None
        x, weights = saved
        if not ctx.needs_input_grad[1]:
            return owner._transposed(g, weights), None, None
        if not ctx.needs_input_grad[0]:
            return None, owner._slopes(x, g), None
        return (*owner._gradients(x, g, weights), None)
