"""The three tiers' experts, and the adapter that lets any PyG layer be one."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax


class Expert(nn.Module, ABC):
    """Interface of experts that see their tier through its moments alone: linear in the neighbours, free afterwards.

    Such an expert never touches an edge, so every backend of `latticegnn.aggregate` can serve it. A subclass takes
    ``channels``, ``moments`` (the width M of its second input) and, if it wants them, ``hidden``, ``positions`` (the
    cells' places, from -1 to 1 along each axis [N, 3]) and its own options. One that takes positions is given all
    cells at once, [N, B, F].

    Shapes:
        - x: the cells' own states [..., F]
        - moments: mean and first moment of the tier's neighbours [..., M], M = 4F, or 0 in a tier that holds only the
          cell itself
        - output: proposed change of state [..., F]
    """

    @abstractmethod
    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        """Propose a change of state."""


class MLPExpert(Expert):
    r"""A perceptron on the cell and its tier: :math:`W_2\,\mathrm{SiLU}(W_1 [x_i \,\|\, m_i] + b_1) + b_2`.

    The default of the local tier, where it sees the cell alone, and of the functional tier, where the three axis
    differences in m let it tell directions apart.

    Args:
        channels: F.
        moments: M.
        hidden: Width of the hidden layer.
    """

    def __init__(self, channels: int, moments: int, hidden: int = 16) -> None:
        super().__init__()
        self.inner = nn.Linear(channels + moments, hidden)
        self.outer = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        """Propose a change of state."""
        return self.outer(functional.silu(self.inner(torch.cat([x, moments], dim=-1))))


class MeanFieldExpert(Expert):
    r"""A damped mean field in continuous time, after liquid time-constant networks (Hasani et al., 2021).

    From u = 0, a few Euler steps of

    .. math::
        \dot{u} = \lambda \odot (\mathrm{SiLU}(d_i + u) - u), \qquad d_i = W [x_i \,\|\, m_i] + b,

    with a learned rate λ in (0, 1) for each channel; the proposal is the u reached. The default of the distant tier.

    Args:
        channels: F.
        moments: M.
        euler_steps: Number of Euler steps, each of length 1 / euler_steps.
    """

    def __init__(self, channels: int, moments: int, euler_steps: int = 3) -> None:
        super().__init__()
        if euler_steps < 1:
            raise ValueError(f"euler_steps must be at least 1; got {euler_steps}; set it to 1 or more.")
        self.euler_steps = euler_steps
        self.drive = nn.Linear(channels + moments, channels)
        self.rate = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        """Propose a change of state."""
        drive = self.drive(torch.cat([x, moments], dim=-1))
        pace = torch.sigmoid(self.rate) / self.euler_steps
        u = torch.zeros_like(drive)
        for _ in range(self.euler_steps):
            u = u + pace * (functional.silu(drive + u) - u)
        return u


class AttentionExpert(MessagePassing):
    r"""Softmax attention over the tier's edges, after GATv2 (Brody et al., 2022), the distance in the score.

    .. math::
        \sum_j \mathrm{softmax}_j\big(a^\top \mathrm{SiLU}(W_s x_j + W_t x_i + w_d\, d_{ij})\big) \, V x_j

    Args:
        in_channels: F.
        out_channels: F.
        hidden: Width of the score's hidden layer.

    Shapes:
        - x [B, N, F], edge_index [2, E], edge_attr [E, 1] (distance in cells)
        - output [B, N, F]
    """

    def __init__(self, in_channels: int, out_channels: int, hidden: int = 16) -> None:
        super().__init__(aggr="sum", node_dim=-2)
        self.source = nn.Linear(in_channels, hidden, bias=False)
        self.target = nn.Linear(in_channels, hidden)
        self.distance = nn.Linear(1, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)
        self.value = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Attend to the neighbours."""
        return self.propagate(
            edge_index, s=self.source(x), t=self.target(x), v=self.value(x), distance=self.distance(edge_attr)
        )

    def message(self, s_j: Tensor, t_i: Tensor, v_j: Tensor, distance: Tensor, index: Tensor, size_i: int) -> Tensor:
        """Score and weigh one edge's value."""
        score = self.score(functional.silu(s_j + t_i + distance))
        return softmax(score, index, num_nodes=size_i, dim=-2) * v_j


class GatedExpert(MessagePassing):
    r"""An edge network with gated messages, after gated graph convolutions (Bresson and Laurent, 2018).

    .. math::
        \frac{1}{|\mathcal{N}(i)|} \sum_j \sigma(G z_{ij}) \odot \mathrm{SiLU}(M z_{ij}), \qquad
        z_{ij} = [x_i \,\|\, x_j \,\|\, d_{ij}]

    Args:
        in_channels: F.
        out_channels: F.

    Shapes:
        - x [B, N, F], edge_index [2, E], edge_attr [E, 1] (distance in cells)
        - output [B, N, F]
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(aggr="mean", node_dim=-2)
        self.gate = nn.Linear(2 * in_channels + 1, out_channels)
        self.content = nn.Linear(2 * in_channels + 1, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Gather the neighbours' gated messages."""
        return self.propagate(edge_index, x=x, edge_attr=edge_attr)

    def message(self, x_i: Tensor, x_j: Tensor, edge_attr: Tensor) -> Tensor:
        """Compute one edge's message."""
        pair = torch.cat([x_i, x_j, edge_attr.expand(*x_i.shape[:-1], 1)], dim=-1)
        return torch.sigmoid(self.gate(pair)) * functional.silu(self.content(pair))


class EdgeExpert(nn.Module):
    """Lets a layer with PyG's ``forward(x, edge_index, edge_attr)`` serve as a tier's expert.

    ``edge_attr`` (the distance) is handed over where the layer's forward names it and the layer was not built without
    edge features (``edge_dim=None``). The layer is tried on a batch of two at construction: one that treats [B, N, F]
    as B states over one static graph is called so; any other gets the disjoint union of B copies of the graph.

    Args:
        layer: The layer, F channels in and out.
        edge_index: The tier's edges [2, E].
        edge_attr: Distances [E, 1].
        num_nodes: N.
        channels: F.

    Shapes:
        - x: state, nodes first [N, B, F]; moments are not used
        - output: proposed change of state [N, B, F]

    Raises:
        ValueError: When the layer cannot be called on the tier, or returns another shape than it was given.
    """

    edge_index: Tensor
    edge_attr: Tensor

    def __init__(self, layer: nn.Module, edge_index: Tensor, edge_attr: Tensor, num_nodes: int, channels: int) -> None:
        super().__init__()
        self.layer, self.num_nodes = layer, num_nodes
        self.register_buffer("edge_index", edge_index, persistent=False)
        self.register_buffer("edge_attr", edge_attr, persistent=False)
        names = inspect.signature(layer.forward).parameters
        self.passes_distance = "edge_attr" in names and getattr(layer, "edge_dim", 1) is not None
        self.static_graph = self._try(channels)

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        """Propose a change of state."""
        batch = x.transpose(0, 1)
        if self.static_graph:
            return self._call(batch, self.edge_index, self.edge_attr).transpose(0, 1)
        copies, edges = batch.shape[0], self.edge_index.shape[1]
        shift = torch.arange(copies, device=x.device).repeat_interleave(edges) * self.num_nodes
        union = self.edge_index.repeat(1, copies) + shift
        out = self._call(batch.reshape(-1, batch.shape[-1]), union, self.edge_attr.repeat(copies, 1))
        return out.view(copies, self.num_nodes, -1).transpose(0, 1)

    def _call(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        if self.passes_distance:
            return self.layer(x, edge_index, edge_attr=edge_attr.to(x.dtype))
        return self.layer(x, edge_index)

    @torch.no_grad()
    def _try(self, channels: int) -> bool:
        parameter = next(self.layer.parameters(), torch.zeros(()))
        generator = torch.Generator().manual_seed(0)
        pair = torch.randn(2, self.num_nodes, channels, generator=generator).to(parameter)
        training = self.layer.training
        self.layer.eval()  # dropout would make two calls differ
        name = type(self.layer).__name__
        try:
            single = [self._call(state, self.edge_index, self.edge_attr) for state in pair]
        except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
            raise ValueError(
                "an expert must run as layer(x [N, F], edge_index [2, E]) or with edge_attr [E, 1]; "
                f"{name} failed on N = {self.num_nodes}, F = {channels}: {error}; mend its forward or its init_args."
            ) from error
        for out in single:
            if not isinstance(out, Tensor) or out.shape != pair[0].shape:
                got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise ValueError(
                    f"an expert must return the shape it was given, [N, F] = {list(pair[0].shape)}; {name} returned "
                    f"{got}; set its output width to {channels} (for attention heads: concat: false)."
                )
        try:
            both = self._call(pair, self.edge_index, self.edge_attr)
            static = both.shape == pair.shape and torch.allclose(both, torch.stack(single), rtol=1e-4, atol=1e-5)
        except (RuntimeError, TypeError, ValueError, IndexError, AssertionError):
            static = False  # the layer only knows [N, F]
        self.layer.train(training)
        return static
